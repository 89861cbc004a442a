//! Names: a rename that was asked for, and a change of kind.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lsync_protocol::entry::{Kind, Time};
use lsync_protocol::message::{Op, Outcome};
use lsync_protocol::path::RelPath;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::aside::Instead;
use super::{Content, Hand, Stop, split};
use crate::fault::Call;
use crate::meta;
use crate::stage::Fresh;

impl Hand {
    /// Gives something another name, if it is what it should be. `recased`: to the file system it is
    /// the same name, so what stands under the new one is the thing itself.
    pub(super) fn rename(
        &mut self,
        (from, to): (&RelPath, &RelPath),
        recased: bool,
        kind: Kind,
        size: Option<u64>,
        mtime: Option<Time>,
    ) -> Result<(), Stop> {
        let (from_dir, from_name) = split(from)?;
        let (to_dir, to_name) = split(to)?;
        let refused = || Stop::Say(Outcome::Refused);
        let mut opened = false;
        loop {
            let old_dir = match self.dir_of(from_dir) {
                Err(Stop::Say(Outcome::NoParent)) => return Err(refused()),
                dir => dir?,
            };
            let now = match meta::stat_name(&old_dir, from_name) {
                Err(Errno::NOENT) => return Err(refused()),
                now => now?,
            };
            let coarse = self.ground.granularity;
            let expected = now.kind == kind
                && size.is_none_or(|size| kind != Kind::File || size == now.size)
                && mtime.is_none_or(|t| t.truncated(coarse) == now.mtime.truncated(coarse));
            if !expected {
                return Err(refused());
            }
            let new_dir = self.dir_of(to_dir)?;
            let free = match &self.ground.no_delete {
                None => true,
                Some(young) => {
                    let free = match meta::stat_name(&new_dir, to_name) {
                        Err(Errno::NOENT) => true,
                        there => there.map(|_| false)?,
                    };
                    if !free && !young.may_go_over(from, kind) {
                        return Err(refused());
                    }
                    free
                }
            };
            let (old, new) = ((&*old_dir, from_name, from), (&*new_dir, to_name, to));
            if kind == Kind::File && !recased && self.pour_renamed(old, new, &now)? {
                self.touch(&old_dir);
                self.went(from, to, kind, free);
                return Ok(());
            }
            let aside = match kind {
                // Over a directory, which is empty, or nothing.
                Kind::Dir => Ok(None),
                _ if recased => Ok(None),
                _ => self.set_aside(&new_dir, to_name, to, &Instead::Thing(now.identity())),
            };
            let done = match aside {
                Err(Stop::Errno(error)) => Err(error),
                Err(say) => return Err(say),
                Ok(aside) => {
                    let done = if recased {
                        self.recase(&old_dir, (from_name, from), (to_name, to))
                    } else {
                        self.rename_in(&old_dir, from_name, &new_dir, to_name, from, to, &now)
                    };
                    if let (Err(_), Some(aside)) = (done, aside) {
                        aside.undo(&new_dir, to_name);
                    }
                    done
                }
            };
            match done {
                Err(Errno::ACCESS) if !opened => {
                    // Both, whichever of them it was.
                    opened = true;
                    let up = |dir| self.ground.opened.open_up(&self.ground.root, dir);
                    if up(from_dir) | up(to_dir) {
                        continue;
                    }
                    return Err(Errno::ACCESS.into());
                }
                Ok(()) => {
                    if kind == Kind::File {
                        let after = || meta::stat_name(&new_dir, to_name).ok();
                        self.ground.versions.changed(&now, after);
                    }
                    self.touch(&old_dir);
                    self.touch(&new_dir);
                    self.went(from, to, kind, free);
                    self.ground.opened.moved(from, Some(to));
                    return Ok(());
                }
                // Something of another kind, something in it, another file system, or it went away.
                Err(
                    Errno::NOTEMPTY
                    | Errno::EXIST
                    | Errno::ISDIR
                    | Errno::NOTDIR
                    | Errno::XDEV
                    | Errno::INVAL
                    | Errno::NOENT,
                ) => return Err(refused()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Remembers what may go where names may not.
    fn went(&self, from: &RelPath, to: &RelPath, kind: Kind, free: bool) {
        if let Some(young) = &self.ground.no_delete {
            young.renamed(from, to, kind, free);
        }
    }

    #[allow(clippy::too_many_arguments)] // two names, each in its directory and as a whole
    fn rename_in(
        &self,
        old_dir: &OwnedFd,
        old: &[u8],
        new_dir: &OwnedFd,
        new: &[u8],
        from: &RelPath,
        to: &RelPath,
        now: &meta::Stat,
    ) -> Result<(), Errno> {
        self.ground.fault(Call::Rename, from)?;
        self.ground.fault(Call::Rename, to)?;
        let there = match meta::stat_name(new_dir, new) {
            Err(Errno::NOENT) => None,
            there => Some(there?),
        };
        let done = rustix::fs::renameat(old_dir, old, new_dir, new);
        match (done, there) {
            // Two names of one file: the kernel takes that for done and leaves both.
            (Ok(()), Some(there)) if there.identity() == now.identity() => {
                rustix::fs::unlinkat(old_dir, old, AtFlags::empty())
            }
            (Err(Errno::NOTEMPTY | Errno::EXIST), Some(there))
                if there.kind == Kind::Dir && self.sweep_in(new_dir, new) =>
            {
                rustix::fs::renameat(old_dir, old, new_dir, new)
            }
            (done, _) => done,
        }
    }

    /// Changes the case of a name.
    fn recase(
        &self,
        dir: &OwnedFd,
        old: (&[u8], &RelPath),
        new: (&[u8], &RelPath),
    ) -> Result<(), Errno> {
        self.ground.fault(Call::Rename, old.1)?;
        self.ground.fault(Call::Rename, new.1)?;
        rustix::fs::renameat(dir, old.0, dir, new.0)
    }

    fn dir_of(&mut self, dir: &[u8]) -> Result<Arc<OwnedFd>, Stop> {
        let at = self.parent(dir)?;
        Ok(self.parents[at].fd.clone())
    }

    /// A change of kind: the new thing is staged, the old one removed, the new one renamed in.
    pub(super) fn replace(
        &mut self,
        old: Kind,
        new: &Op,
        content: &Content<'_>,
    ) -> Result<(), Stop> {
        let path = new.path();
        let (dir, name) = split(path)?;
        let mut fresh: Option<Fresh> = None;
        let linked = match new {
            Op::Link { from, size, mtime, .. } => Some(self.linked(from, *size, *mtime)?),
            _ => None,
        };
        self.within(dir, |hand, at| {
            let there = hand.look(at, name)?.map(|now| now.kind);
            if let Some(kind) = there.filter(|&kind| kind != old) {
                return Err(Outcome::Occupied(kind).into());
            }
            let staged = match &mut fresh {
                Some(staged) => staged,
                fresh => fresh.insert(match new {
                    Op::File { meta, .. } => hand.stage_small(at, path, content.inline, meta)?,
                    Op::Commit { .. } => hand.stage_large(at, new, content)?.fresh,
                    Op::Symlink { link, meta, .. } => hand.stage_link(at, path, link, meta)?,
                    Op::Special { kind, device, meta, .. } => {
                        hand.stage_special(at, path, *kind, *device, meta)?
                    }
                    Op::MakeDir { meta, .. } => hand.stage_dir(at, path, meta)?,
                    Op::Link { .. } => {
                        let linked = linked.as_ref().ok_or(Errno::INVAL)?;
                        hand.stage_hard_link(at, path, linked)?
                    }
                    _ => return Err(Errno::INVAL.into()),
                }),
            };
            // Anything but a directory gives way to anything but a directory in one rename.
            let in_the_way = old == Kind::Dir || matches!(new, Op::MakeDir { .. });
            let mut aside = None;
            if there.is_some() && in_the_way {
                hand.ground.fault(Call::Remove, path)?;
                aside = match hand.unlink(at, name, path, old) {
                    Err(Stop::Say(Outcome::Missing)) => None,
                    done => done?,
                };
                if old == Kind::Dir {
                    // The directory's own record goes; what was made for the new one stays.
                    if !matches!(new, Op::MakeDir { .. }) {
                        hand.ground.opened.moved(path, None);
                    }
                }
            }
            if let Err(stop) = hand.place(at, staged, path, name) {
                if let Some(aside) = aside {
                    aside.undo(&hand.parents[at].fd, name);
                }
                return Err(stop);
            }
            if let Some(linked) = &linked {
                hand.linked_now(at, name, linked);
            }
            Ok(())
        })
    }
}
