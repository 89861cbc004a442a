//! Names on a file system that takes those differing only in case for one: an operation touches the
//! very name that it says, or nothing.
//!
//! The kernel finds `a` when it is asked for `A`; only the list of a directory tells what stands
//! there. So it is read before each operation on something that is there, and operations are done
//! one after the other: two threads that make `a` and `A` at once would find neither.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lsync_protocol::message::{Op, Outcome};
use lsync_protocol::path::{RelPath, folded};
use rustix::fs::OFlags;

use super::{Ground, Stop};
use crate::meta;
use crate::trouble::said;
use crate::walk;

/// What a folding file system takes more than others.
#[derive(Debug, Default)]
pub(crate) struct Folding {
    turn: Mutex<()>,
    /// Directories that are known to have the very name.
    exact: Mutex<HashSet<RelPath>>,
}

impl Folding {
    /// Operations wait for each other.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of directories changed.
    pub(super) fn restructured(&self) {
        self.known().clear();
    }

    fn known(&self) -> MutexGuard<'_, HashSet<RelPath>> {
        self.exact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ground {
    /// What else stands where this path leads to, or where one above it does: under another name
    /// that the file system takes for the same.
    pub(crate) fn instead(&self, path: &RelPath) -> Option<RelPath> {
        let folding = self.folding.as_ref()?;
        let mut above = vec![path.clone()];
        while let Some(dir) = above.last().and_then(RelPath::parent).filter(|dir| !dir.is_root()) {
            above.push(dir);
        }
        for at in above.iter().rev() {
            if folding.known().contains(at) {
                continue;
            }
            let (dir, name) = at.split()?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            // What cannot be opened, or is not there, says so when something is done with it.
            let dir = self.root.open_at(dir, flags).ok()?;
            meta::stat_name(&dir, name).ok()?;
            let names = walk::names_in(dir.as_fd()).ok()?;
            if names.iter().any(|there| **there == *name) {
                if at != path {
                    folding.known().insert(at.clone());
                }
                continue;
            }
            let like = folded(name);
            let other = names.into_iter().find(|there| folded(there) == like);
            let above = at.parent().unwrap_or_default();
            // A file system may fold names in ways of its own.
            return Some(other.and_then(|name| above.join(&name).ok()).unwrap_or(above));
        }
        None
    }

    /// May this be done by the names that it says? Says whether it only changes the case of one.
    pub(super) fn by_its_names(&self, op: &Op) -> Result<bool, Stop> {
        let path = op.path();
        match op {
            Op::Rename { from, .. } if self.instead(from).is_some() => {
                return Err(Outcome::Refused.into());
            }
            Op::Link { from, .. } if self.instead(from).is_some() => {
                return Err(Outcome::OtherVersion.into());
            }
            _ => {}
        }
        let Some(other) = self.instead(path) else { return Ok(false) };
        match op {
            // There is nothing of that name.
            Op::Remove { .. } | Op::Meta { .. } | Op::Dir { .. } => Err(Outcome::Missing.into()),
            Op::Rename { from, .. } if *from == other => Ok(true),
            _ if other.depth() < path.depth() && !other.is_root() => Err(Outcome::NoParent.into()),
            _ => {
                let text = format!(
                    "{other} stands there: the target's file system takes names that differ only \
                     in case for one"
                );
                Err(Outcome::Problem(said(text)).into())
            }
        }
    }
}

/// Is this a name that some file systems do not take?
pub(super) fn is_odd(name: &[u8]) -> bool {
    const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
    let Ok(text) = std::str::from_utf8(name) else { return true };
    let stem = text.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let port = |kind: &str| {
        stem.strip_prefix(kind).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())
    };
    text.contains(|c: char| c.is_control() || "\"*:<>?\\|".contains(c))
        || text.ends_with(['.', ' '])
        || DEVICES.contains(&&*stem)
        || port("com")
        || port("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_windows_does_not_take_are_odd() {
        let odd =
            ["a:b", "a?", "a*", "a.", "a ", "CON", "nul.txt", "com1", "LPT9.x", "a\nb", "a\\b"];
        for name in odd {
            assert!(is_odd(name.as_bytes()), "{name}");
        }
        assert!(is_odd(b"\xff"));
        for name in ["a", "a.b", ".a", "console", "com", "com10", "\u{e9}", "a b", "-"] {
            assert!(!is_odd(name.as_bytes()), "{name}");
        }
    }
}
