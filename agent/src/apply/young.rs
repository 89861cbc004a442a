//! `--no-delete`: a name that stands there never goes, but to a free name by a rename. Whoever saves
//! a file by writing a new one and renaming it over the old would leave a temporary name behind each
//! time; so names that came on this link, and nothing but those, may be renamed over others.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use lsync_protocol::entry::Kind;
use lsync_protocol::handshake::Fixed;
use lsync_protocol::path::RelPath;

/// So many are known; then all are taken for old ones.
const KNOWN: usize = 4096;

/// Names that came on this link, where no other may go.
#[derive(Debug, Default)]
pub(crate) struct Young(Mutex<BTreeSet<RelPath>>);

impl Young {
    /// What is fixed says whether names may go at all.
    pub(crate) fn of(fixed: &Fixed) -> Option<Young> {
        fixed.no_delete.then(Young::default)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<RelPath>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has this name now, and nothing had it before.
    pub(super) fn came(&self, path: &RelPath) {
        let mut known = self.lock();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(path.clone());
    }

    /// May this be renamed, to a name that something has?
    pub(super) fn may_go_over(&self, from: &RelPath, kind: Kind) -> bool {
        kind != Kind::Dir && self.lock().contains(from)
    }

    /// A rename was done; `free`: nothing had the new name.
    pub(super) fn renamed(&self, from: &RelPath, to: &RelPath, kind: Kind, free: bool) {
        let mut known = self.lock();
        if kind == Kind::Dir {
            // What is known of names in it holds for others now.
            known.clear();
        } else if known.remove(from) && free {
            known.insert(to.clone());
        }
    }
}
