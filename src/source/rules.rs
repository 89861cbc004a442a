//! Files of rules in directories (`dir-merge`): read beneath the root, before anything in their
//! directory is judged.
//!
//! They are read anew by every look and every walk, so nothing has to be told when one changes.
//! What cannot be read or understood is unknown: its directory is not mirrored meanwhile, nothing
//! in it is deleted, and that is a problem. A file that is gone may be on its way back, since that
//! is how some editors save: for a while its rules hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_agent::read::{self, ReadError};
use lsync_agent::root::Root;
use lsync_protocol::entry::Kind;
use lsync_protocol::path::{Escaped, RelPath};

use super::{Source, locked};
use crate::error::plain;
use crate::filter::DirRules;
use crate::plan::Ruled;

/// The rules of a file that is gone hold for so long. Who hears of it comes back after
/// [`RULES_BACK`].
const HOLD: Duration = Duration::from_millis(900);
/// When to look again for a rule file that was gone.
pub const RULES_BACK: Duration = Duration::from_secs(1);
/// No file of rules is larger.
const MAX_FILE: u64 = 1024 * 1024;

/// What the rule files of a directory say.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) rules: Option<Arc<DirRules>>,
    /// They are as they were before a file went.
    pub(super) doubted: bool,
}

impl Source {
    /// Reads the rule files of a directory, and judges by them from now on. The error is why
    /// nothing can be said about what is in it.
    pub(super) fn read_rules(&self, root: &Root, dir: &RelPath) -> Result<Said, String> {
        let mut texts: Vec<(&[u8], Vec<u8>)> = Vec::new();
        for name in self.filter.rule_files() {
            let Ok(path) = dir.join(name) else { continue };
            let shown = || Escaped(path.as_bytes());
            match read::read_small(root, &path, MAX_FILE) {
                Ok(small) => texts.push((name, small.content)),
                // rsync, too, finds no rules in a directory.
                Err(ReadError::Missing | ReadError::NotFile(Kind::Dir)) => {}
                Err(ReadError::NotFile(Kind::Symlink)) => {
                    return Err(format!("its rules in {} are a symbolic link", shown()));
                }
                Err(ReadError::TooLarge(_)) => {
                    return Err(format!("its rules in {} are larger than 1 MiB", shown()));
                }
                Err(error) => {
                    let why = plain(&error.to_string());
                    return Err(format!("its rules in {}: {why}", shown()));
                }
            }
        }
        let text = |name: &[u8]| {
            texts.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_slice())
        };
        let rules = self.filter.compile(dir, text).map_err(|error| error.to_string())?;
        let mut vanished = locked(&self.vanished);
        if let Some(old) = self.filter.known(dir)
            && self.filter.lacks(&old, |name| text(name).is_some())
            && matches!(read::look(root, dir), Ok(Some(_)))
        {
            let since = *vanished.entry(dir.clone()).or_insert_with(Instant::now);
            if since.elapsed() < HOLD {
                return Ok(Said { rules: Some(old), doubted: true });
            }
        }
        vanished.remove(dir);
        drop(vanished);
        self.filter.learn(dir, rules.clone());
        Ok(Said { rules, doubted: false })
    }
}

/// Reads the rule files above the paths of one look or walk, each directory once.
pub(super) struct Above<'a> {
    source: &'a Source,
    root: &'a Root,
    read: BTreeMap<RelPath, Result<Said, String>>,
    changed: BTreeSet<RelPath>,
    doubted: Vec<RelPath>,
}

impl<'a> Above<'a> {
    pub(super) fn new(source: &'a Source, root: &'a Root) -> Above<'a> {
        let (read, changed, doubted) = Default::default();
        Above { source, root, read, changed, doubted }
    }

    pub(super) fn root(&self) -> &'a Root {
        self.root
    }

    /// Makes sure that the rules of all directories above a path are known. The error is why it
    /// cannot be judged.
    pub(super) fn read(&mut self, path: &RelPath) -> Result<(), String> {
        let filter = &self.source.filter;
        if !filter.reads_directories() || path.is_root() {
            return Ok(());
        }
        self.dir(&RelPath::root())?;
        let bytes = path.as_bytes();
        for (at, _) in bytes.iter().enumerate().filter(|&(_, &b)| b == b'/') {
            let Ok(dir) = RelPath::new(&bytes[..at]) else { return Ok(()) };
            // What is in a directory that is not mirrored is not asked.
            if !filter.verdict(&dir, true).sent {
                return Ok(());
            }
            self.dir(&dir)?;
        }
        Ok(())
    }

    /// The rules of one directory; those of all above it are known.
    pub(super) fn dir(&mut self, dir: &RelPath) -> Result<(), String> {
        let (source, root) = (self.source, self.root);
        if !source.filter.reads_directories() {
            return Ok(());
        }
        let read = self.read.entry(dir.clone()).or_insert_with(|| source.read_rules(root, dir));
        read.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Something happened to this path; it may be a file of rules. Says whether it is.
    pub(super) fn heard(&mut self, path: &RelPath) -> bool {
        let rules = self.source.filter.is_rule_file(path);
        if rules && let Some(dir) = path.parent() {
            if matches!(self.read.get(&dir), Some(Ok(Said { doubted: true, .. }))) {
                self.doubted.push(path.clone());
            } else {
                self.changed.insert(dir);
            }
        }
        rules
    }

    /// What there is to tell of it.
    pub(super) fn told(self) -> Ruled {
        let Above { read, changed, doubted, .. } = self;
        let said =
            read.into_iter().filter_map(|(dir, said)| Some((dir, said.ok()?.rules))).collect();
        Ruled { said, changed, doubted }
    }
}
