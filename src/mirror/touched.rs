//! Names of which something was heard since a comparison began: what was read of them may be
//! older than what was sent meanwhile.

use std::collections::BTreeMap;

use lsync_protocol::path::RelPath;

use super::any_under;
use crate::watch::WatchEvent;

/// The most names that are remembered.
const MAX: usize = 100_000;

/// The names, each with whether what is beneath it may be other than it was.
#[derive(Debug, Default)]
pub(super) struct Touched(BTreeMap<RelPath, bool>);

impl Touched {
    /// Something is known of this name.
    pub(super) fn touch(&mut self, path: &RelPath, beneath: bool) {
        *self.0.entry(path.clone()).or_insert(false) |= beneath;
    }

    /// Something was heard. Says whether it became too much to remember.
    pub(super) fn heard(&mut self, event: &WatchEvent) -> bool {
        match event {
            WatchEvent::Written(path) | WatchEvent::Closed(path) => self.touch(path, false),
            WatchEvent::Attributes(path) => self.touch(path, false),
            WatchEvent::Appeared { path, dir } | WatchEvent::Gone { path, dir } => {
                self.touch(path, *dir);
            }
            WatchEvent::Renamed { from, to, dir } => {
                self.touch(from, *dir);
                self.touch(to, *dir);
            }
            WatchEvent::Unsure(path) => self.touch(path, true),
            WatchEvent::Overflow | WatchEvent::RootGone | WatchEvent::Barrier(_) => {}
        }
        let full = self.0.len() > MAX;
        if full {
            self.0.clear();
        }
        full
    }

    /// Was something heard of this very name?
    pub(super) fn has(&self, path: &RelPath) -> bool {
        self.0.contains_key(path)
    }

    /// May what stands in this directory be other than it was read?
    pub(super) fn dir_is_stale(&self, dir: &RelPath) -> bool {
        let mut at = Some(dir.clone());
        while let Some(above) = at {
            if self.0.get(&above) == Some(&true) {
                return true;
            }
            at = above.parent();
        }
        false
    }

    /// May the directory's own attributes be other than they were read?
    pub(super) fn attributes_are_stale(&self, dir: &RelPath) -> bool {
        // A name in it changed; deeper ones do not count, but a range is quickly asked.
        any_under(&self.0, dir)
    }
}
