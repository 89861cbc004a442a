//! What the rule files in directories say, as far as it is known.

use std::collections::HashMap;
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
pub(super) type Known = HashMap<Box<[u8]>, Arc<DirRules>>;

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

    /// A directory went, and with it what rules were in it.
    pub fn forget(&self, dir: &RelPath) {
        if self.local.read().is_empty() {
            return;
        }
        self.local.change(|known| known.retain(|at, _| !at_or_under(at, dir.as_bytes())));
    }

    /// A directory is called differently; the rules that are in it go along.
    pub fn renamed(&self, from: &RelPath, to: &RelPath) {
        if self.local.read().is_empty() {
            return;
        }
        self.local.change(|known| {
            known.retain(|at, _| !at_or_under(at, to.as_bytes()));
            let moved: Vec<_> =
                known.extract_if(|at, _| at_or_under(at, from.as_bytes())).collect();
            for (at, rules) in moved {
                let mut new = to.as_bytes().to_vec();
                new.extend_from_slice(&at[from.as_bytes().len()..]);
                known.insert(new.into(), rules);
            }
        });
    }
}

fn at_or_under(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}
