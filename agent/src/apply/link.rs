//! Hard links: a file gets a further name, beside which it is staged and renamed into place.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lsync_protocol::entry::{Kind, Time};
use lsync_protocol::message::Outcome;
use lsync_protocol::path::RelPath;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{Hand, Stop, split};
use crate::fault::Call;
use crate::meta::{self, Stat};
use crate::stage::Fresh;

/// A file under the name that it has already.
pub(super) struct Linked<'a> {
    dir: Arc<OwnedFd>,
    name: &'a [u8],
    stat: Stat,
}

impl Hand {
    /// Has a further name of the file that stands at `from`.
    pub(super) fn put_hard_link(
        &mut self,
        path: &RelPath,
        from: &RelPath,
        size: u64,
        mtime: Option<Time>,
    ) -> Result<(), Stop> {
        let (dir, name) = split(path)?;
        let linked = self.linked(from, size, mtime)?;
        self.within(dir, |hand, at| {
            match hand.look(at, name)? {
                // The kernel takes a rename of one over the other for done, and leaves both.
                Some(now) if now.identity() == linked.stat.identity() => return Ok(()),
                Some(now) if now.kind == Kind::Dir => {
                    return Err(Outcome::Occupied(Kind::Dir).into());
                }
                _ => {}
            }
            let mut fresh = hand.stage_hard_link(at, path, &linked)?;
            hand.place(at, &mut fresh, path, name)?;
            hand.linked_now(at, name, &linked);
            Ok(())
        })
    }

    /// The file that is to get another name, if it is what it should be.
    pub(super) fn linked<'a>(
        &mut self,
        from: &'a RelPath,
        size: u64,
        mtime: Option<Time>,
    ) -> Result<Linked<'a>, Stop> {
        let (from_dir, name) = split(from)?;
        let other = || Stop::Say(Outcome::OtherVersion);
        let mut opened = false;
        let (dir, stat) = loop {
            let at = match self.parent(from_dir) {
                Err(Stop::Say(Outcome::NoParent)) => return Err(other()),
                at => at?,
            };
            let dir = self.parents[at].fd.clone();
            match meta::stat_name(&dir, name) {
                Ok(stat) => break (dir, stat),
                Err(Errno::NOENT) => return Err(other()),
                Err(Errno::ACCESS) if !opened => {
                    opened = true;
                    if !self.ground.opened.open_up(&self.ground.root, from_dir) {
                        return Err(Errno::ACCESS.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        let coarse = self.ground.granularity;
        let expected = stat.kind == Kind::File
            && stat.size == size
            && mtime.is_none_or(|t| t.truncated(coarse) == stat.mtime.truncated(coarse));
        if expected { Ok(Linked { dir, name, stat }) } else { Err(other()) }
    }

    /// The further name as a temporary one.
    pub(super) fn stage_hard_link(
        &self,
        at: usize,
        path: &RelPath,
        linked: &Linked<'_>,
    ) -> Result<Fresh, Stop> {
        let dir = &self.parents[at].fd;
        let made = self.ground.fault(Call::Link, path).and_then(|()| {
            Fresh::make(&self.ground.names, dir, false, |dir, name| {
                rustix::fs::linkat(&linked.dir, linked.name, dir, name, AtFlags::empty())
            })
        });
        let (fresh, ()) = match made {
            // It has as many as it may, is on another file system, or may not have any: one that has
            // no links at all, or a kernel that protects files of others.
            Err(Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return Err(Outcome::Refused.into());
            }
            // It went, or the directory itself did.
            Err(Errno::NOENT) if meta::stat_fd(dir).is_ok_and(|dir| dir.nlink > 0) => {
                return Err(Outcome::OtherVersion.into());
            }
            made => made?,
        };
        // Somebody else may have put another file there meanwhile.
        if meta::stat_name(dir, fresh.name())?.identity() != linked.stat.identity() {
            return Err(Outcome::OtherVersion.into());
        }
        Ok(fresh)
    }

    /// A name more is a change of the file: its version stays one.
    pub(super) fn linked_now(&self, at: usize, name: &[u8], linked: &Linked<'_>) {
        let after = || meta::stat_name(&self.parents[at].fd, name).ok();
        self.ground.versions.changed(&linked.stat, after);
    }
}
