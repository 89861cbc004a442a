//! What the rule files in directories say, as far as it is known.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use lsync_protocol::path::RelPath;

use super::merge::List;
use super::parse::BadRule;
use super::{Filter, Origin};

/// What the rule files of one directory say: a list for each `dir-merge` rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirRules {
    pub(super) lists: Vec<List>,
}

/// Rules by the directory they stand in.
pub(super) type Known = BTreeMap<Box<[u8]>, Arc<DirRules>>;

/// The directories that are known to have rules of their own. It is shared by threads that read
/// different directories.
#[derive(Debug, Default)]
pub(super) struct Local(RwLock<Known>);

impl Local {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Clone for Local {
    fn clone(&self) -> Local {
        Local(RwLock::new(self.read().clone()))
    }
}

impl PartialEq for Local {
    fn eq(&self, other: &Local) -> bool {
        std::ptr::eq(self, other) || *self.read() == *other.read()
    }
}

impl Eq for Local {}

impl Filter {
    /// Has it rules that read a file in each directory?
    #[must_use]
    pub fn reads_directories(&self) -> bool {
        !self.merges.is_empty()
    }

    /// The names of the files that are to be read in each directory, each once.
    #[must_use]
    pub fn rule_files(&self) -> Vec<&[u8]> {
        let mut names: Vec<&[u8]> = Vec::new();
        for merge in &self.merges {
            if !names.contains(&merge.name()) {
                names.push(merge.name());
            }
        }
        names
    }

    /// Would what stands at this path be read for its rules?
    #[must_use]
    pub fn is_rule_file(&self, path: &RelPath) -> bool {
        !self.merges.is_empty()
            && path.name().is_some_and(|name| self.merges.iter().any(|merge| merge.name() == name))
    }

    /// What the rule files of a directory say; `content` is that of the file of a name, if there is
    /// one. `None`: nothing.
    ///
    /// # Errors
    /// The first rule that cannot be understood; it says where it stands.
    pub fn compile<'a>(
        &self,
        dir: &RelPath,
        content: impl Fn(&[u8]) -> Option<&'a [u8]>,
    ) -> Result<Option<Arc<DirRules>>, BadRule> {
        let mut lists = Vec::with_capacity(self.merges.len());
        for merge in &self.merges {
            lists.push(match content(merge.name()) {
                Some(text) => {
                    let mut name = dir.as_bytes().to_vec();
                    if !name.is_empty() {
                        name.push(b'/');
                    }
                    name.extend_from_slice(merge.name());
                    merge.read(text, &Origin::File { name: name.into(), line: 0 })?
                }
                None => List::default(),
            });
        }
        let empty = lists.iter().all(List::is_empty);
        Ok((!empty).then(|| Arc::new(DirRules { lists })))
    }

    /// From now on this is what the rule files of a directory say. Says whether that is news.
    pub fn learn(&self, dir: &RelPath, rules: Option<Arc<DirRules>>) -> bool {
        if self.known(dir) == rules {
            return false;
        }
        self.local.change(|known| {
            match rules {
                Some(rules) => known.insert(dir.as_bytes().into(), rules),
                None => known.remove(dir.as_bytes()),
            };
        });
        true
    }

    /// What the rule files of a directory are known to say.
    #[must_use]
    pub fn known(&self, dir: &RelPath) -> Option<Arc<DirRules>> {
        self.local.read().get(dir.as_bytes()).cloned()
    }

    /// Did one of the files that these rules were read from have rules, and is not there now?
    #[must_use]
    pub fn lacks(&self, rules: &DirRules, there: impl Fn(&[u8]) -> bool) -> bool {
        let lists = self.merges.iter().zip(&rules.lists);
        lists.into_iter().any(|(merge, list)| !list.is_empty() && !there(merge.name()))
    }

    /// A directory went, or is not mirrored any more, and with it what rules were in it.
    pub fn forget(&self, dir: &RelPath) {
        let dir = dir.as_bytes();
        let known = self.local.read();
        if !known.contains_key(dir) && beneath(&known, dir).next().is_none() {
            return;
        }
        drop(known);
        self.local.change(|known| {
            take(known, dir);
        });
    }

    /// Of the directories in this one only these are mirrored: the rules in others count no more.
    pub fn only(&self, dir: &RelPath, there: impl Fn(&[u8]) -> bool) {
        let gone: Vec<RelPath> = {
            let known = self.local.read();
            let prefix = if dir.is_root() { 0 } else { dir.as_bytes().len() + 1 };
            let mut gone = Vec::new();
            for at in beneath(&known, dir.as_bytes()) {
                let name = at[prefix..].split(|&b| b == b'/').next().unwrap_or_default();
                if !there(name) {
                    gone.extend(dir.join(name).ok());
                }
            }
            gone
        };
        for dir in gone {
            self.forget(&dir);
        }
    }

    /// A directory is called differently; the rules that are in it go along.
    pub fn renamed(&self, from: &RelPath, to: &RelPath) {
        if self.local.read().is_empty() {
            return;
        }
        self.local.change(|known| {
            take(known, to.as_bytes());
            for (at, rules) in take(known, from.as_bytes()) {
                let mut new = to.as_bytes().to_vec();
                new.extend_from_slice(&at[from.as_bytes().len()..]);
                known.insert(new.into(), rules);
            }
        });
    }
}

/// The known directories beneath one.
fn beneath<'a>(known: &'a Known, dir: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut prefix = dir.to_vec();
    if !dir.is_empty() {
        prefix.push(b'/');
    }
    let from = (Bound::Included(prefix.as_slice()), Bound::Unbounded);
    let all = known.range::<[u8], _>(from).map(|(at, _)| &**at).skip_while(|at| at.is_empty());
    all.take_while(move |at| at.starts_with(&prefix))
}

/// Takes out what is known of a directory and of all beneath it.
fn take(known: &mut Known, dir: &[u8]) -> Vec<(Box<[u8]>, Arc<DirRules>)> {
    let mut all: Vec<Box<[u8]>> = beneath(known, dir).map(Into::into).collect();
    all.push(dir.into());
    all.into_iter().filter_map(|at| known.remove_entry(&at)).collect()
}
