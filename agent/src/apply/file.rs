//! Files and symbolic links: staged, checked, given their attributes, renamed into place; or, if
//! that is wanted, a staged content is written into the file that is there.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::message::{Hash, Op, OpId, Outcome};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::aside::Instead;
use super::inplace::{Poured, There};
use super::{Content, Hand, Stop, split};
use crate::fault::Call;
use crate::meta::{self, Stat};
use crate::stage::{Blocks, Fresh, Here, write_at};

/// The content of a large file, complete under a temporary name.
pub(super) struct Large {
    pub(super) fresh: Fresh,
    file: OwnedFd,
    /// As it is there.
    before: Stat,
    /// Its blocks, if there are several.
    blocks: Option<Blocks>,
}

impl Hand {
    /// Has a file with this content.
    pub(super) fn put_file(
        &mut self,
        path: &RelPath,
        content: &[u8],
        meta: &Meta,
    ) -> Result<(), Stop> {
        let (dir, name) = split(path)?;
        self.within(dir, |hand, at| {
            if let Some(mut there) = hand.there(&hand.parents[at].fd, name, meta)? {
                return hand.pour(&mut there, &Poured::Small(content), path, meta).map(drop);
            }
            let mut fresh = hand.stage_small(at, path, content, meta)?;
            hand.place(at, &mut fresh, path, name)
        })
    }

    /// A small file, complete under a temporary name.
    pub(super) fn stage_small(
        &mut self,
        at: usize,
        path: &RelPath,
        content: &[u8],
        meta: &Meta,
    ) -> Result<Fresh, Stop> {
        let ground = self.ground.clone();
        let mode = self.mode_of(at, path, meta)?;
        let parent = &mut self.parents[at];
        // The right mode from the beginning saves a call. Not with bits that make a file more
        // powerful while it is being written, and not before it has its owner.
        let at_open = parent.plain
            && mode & !0o777 == 0
            && mode & ground.process_umask == 0
            && parent.born.is_some_and(|born| {
                meta.uid.is_none_or(|uid| uid == born.uid)
                    && meta.gid.is_none_or(|gid| gid == born.gid)
            });
        ground.fault(Call::Create, path)?;
        let first = if at_open { mode } else { 0o600 };
        let (fresh, file) = Fresh::file(&ground.names, &parent.fd, first)?;
        ground.fault(Call::Write, path)?;
        write_at(&file, content, 0)?;
        let born = match parent.born {
            Some(born) => born,
            None => *parent.born.insert(meta::stat_fd(&file)?),
        };
        // Where nothing is inherited there is nothing to take away.
        let nothing = parent.plain && meta.xattrs.as_ref().is_some_and(|xattrs| xattrs.is_empty());
        let xattrs = meta.xattrs.clone().filter(|_| !nothing);
        // With a default ACL or a file system that has its own ideas of modes, ask each time.
        let now = if parent.plain {
            Stat { mode: if at_open { mode } else { born.mode }, ..born }
        } else {
            meta::stat_fd(&file)?
        };
        let want = Meta { mode: Some(mode), xattrs, ..meta.clone() };
        self.finish_file(&file, &now, &want, path)?;
        Ok(fresh)
    }

    /// Attributes, then durable if that is wanted.
    pub(super) fn finish_file(
        &self,
        file: &OwnedFd,
        now: &Stat,
        want: &Meta,
        path: &RelPath,
    ) -> Result<(), Stop> {
        self.ground.fault(Call::Meta, path)?;
        let kept = meta::set_fd(file, now, want)?;
        self.kept(kept);
        if self.ground.fsync {
            self.ground.fault(Call::Sync, path)?;
            rustix::fs::fsync(file)?;
        }
        Ok(())
    }

    /// The mode a file gets: the wanted one, else that of the file it replaces, else a new file's.
    fn mode_of(&self, at: usize, path: &RelPath, meta: &Meta) -> Result<u32, Stop> {
        if let Some(mode) = meta.mode {
            return Ok(mode & 0o7777);
        }
        let (_, name) = split(path)?;
        Ok(match self.look(at, name)? {
            Some(old) if old.kind == Kind::File => old.mode,
            _ => 0o666 & !self.ground.umask,
        })
    }

    /// Gives a staged thing its name. A directory in the way stays.
    pub(super) fn place(
        &mut self,
        at: usize,
        fresh: &mut Fresh,
        path: &RelPath,
        name: &[u8],
    ) -> Result<(), Stop> {
        let dir = self.parents[at].fd.clone();
        let is_new = self.ground.no_delete.is_some() && self.look(at, name)?.is_none();
        let aside = self.set_aside(&dir, name, path, &Instead::Beside(fresh.name()))?;
        let fault = self.ground.fault(Call::Place, path);
        let placed = fault.and_then(|()| fresh.place(dir.as_fd(), name));
        if let (Err(_), Some(aside)) = (placed, aside) {
            aside.undo(&dir, name);
        }
        match placed {
            Ok(()) => {
                self.touch(&dir);
                if let Some(young) = self.ground.no_delete.as_ref().filter(|_| is_new) {
                    young.came(path);
                }
                Ok(())
            }
            Err(Errno::ISDIR) => Err(Outcome::Occupied(Kind::Dir).into()),
            // A directory over something else.
            Err(error @ (Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST)) => {
                match self.look(at, name)? {
                    Some(stat) => Err(Outcome::Occupied(stat.kind).into()),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Has the content of a stage at its path.
    pub(super) fn commit(&mut self, id: OpId, op: &Op, content: &Content<'_>) -> Result<(), Stop> {
        let (Op::Commit { path, size, meta, hash, .. }, Some(stage)) = (op, content.stage) else {
            return Err(Errno::INVAL.into());
        };
        let (dir, name) = split(path)?;
        // The stage ends with this, whatever becomes of it; so it is taken once, and what is
        // left of it is removed.
        let (mut here, mut staged) = (None, None);
        self.within(dir, |hand, at| {
            let staged = match &mut staged {
                Some(staged) => staged,
                staged => {
                    let mut taken = match here.take() {
                        Some(taken) => taken,
                        None => stage.take(&hand.ground.stop).map_err(Outcome::Problem)?,
                    };
                    match hand.there(&hand.parents[at].fd, name, meta) {
                        Ok(Some(mut there)) => {
                            let blocks = hand.check(&mut taken, Some(&there), path, *size, hash)?;
                            let content = Poured::Large(&taken, *size);
                            let before = hand.pour(&mut there, &content, path, meta)?;
                            if let Some(blocks) = blocks {
                                hand.ground.versions.put(id, &there.file, &before, blocks);
                            }
                            return Ok(());
                        }
                        Ok(None) => staged.insert(hand.complete(at, op, taken)?),
                        Err(error) => {
                            here = Some(taken);
                            return Err(error.into());
                        }
                    }
                }
            };
            hand.place(at, &mut staged.fresh, path, name)?;
            if let Some(blocks) = staged.blocks.take() {
                hand.ground.versions.put(id, &staged.file, &staged.before, blocks);
            }
            Ok(())
        })
    }

    /// A stage's content, complete under its temporary name.
    pub(super) fn stage_large(
        &mut self,
        at: usize,
        op: &Op,
        content: &Content<'_>,
    ) -> Result<Large, Stop> {
        let Some(stage) = content.stage else { return Err(Errno::INVAL.into()) };
        let here = stage.take(&self.ground.stop).map_err(Outcome::Problem)?;
        self.complete(at, op, here)
    }

    /// Has a stage's content checked. What is not to be written into the file that blocks are
    /// borrowed from needs them all.
    fn check(
        &self,
        here: &mut Here,
        there: Option<&There>,
        path: &RelPath,
        size: u64,
        hash: &Hash,
    ) -> Result<Option<Blocks>, Stop> {
        let stop = &self.ground.stop;
        let ground = &self.ground;
        let fault = |call| ground.fault(call, path);
        if !there.is_some_and(|there| here.borrows_from(&there.before.identity())) {
            here.own(size, stop).map_err(Outcome::Problem)?;
        }
        Ok(here.check(size, hash, stop, fault).map_err(Outcome::Problem)?)
    }

    /// A stage's content with its attributes, in the file system where it belongs.
    fn complete(&mut self, at: usize, op: &Op, mut here: Box<Here>) -> Result<Large, Stop> {
        let Op::Commit { path, size, meta, hash, .. } = op else {
            return Err(Errno::INVAL.into());
        };
        let blocks = self.check(&mut here, None, path, *size, hash)?;
        let mode = self.mode_of(at, path, meta)?;
        let now = meta::stat_fd(&here.file)?;
        self.finish_file(&here.file, &now, &Meta { mode: Some(mode), ..meta.clone() }, path)?;
        if staged_elsewhere(&here.fresh, &self.parents[at].fd)? {
            let (fresh, file) = self.copy_beside(at, &here.fresh, op)?;
            let before = meta::stat_fd(&file)?;
            return Ok(Large { fresh, file, before, blocks });
        }
        let before = meta::stat_fd(&here.file)?;
        Ok(Large { fresh: here.fresh, file: here.file, before, blocks })
    }

    /// Copies a staged file to the file system it belongs on.
    fn copy_beside(&self, at: usize, staged: &Fresh, op: &Op) -> Result<(Fresh, OwnedFd), Stop> {
        let Op::Commit { path, size, meta, .. } = op else { return Err(Errno::INVAL.into()) };
        let flags =
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        let from =
            rustix::fs::openat(staged.dir(), staged.name(), flags, rustix::fs::Mode::empty())?;
        let dir: &Arc<OwnedFd> = &self.parents[at].fd;
        let (fresh, to) = Fresh::file(&self.ground.names, dir, 0o600)?;
        let mut buffer = vec![0; 128 * 1024];
        let mut offset = 0;
        while offset < *size {
            match rustix::io::pread(&from, &mut buffer[..], offset) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(n) => {
                    // Holes are kept, as far as whole buffers of zeros are.
                    if buffer[..n].iter().any(|&byte| byte != 0) {
                        write_at(&to, &buffer[..n], offset)?;
                    }
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rustix::fs::ftruncate(&to, *size)?;
        let mode = self.mode_of(at, path, meta)?;
        let now = meta::stat_fd(&to)?;
        self.finish_file(&to, &now, &Meta { mode: Some(mode), ..meta.clone() }, path)?;
        Ok((fresh, to))
    }

    /// Has a symbolic link.
    pub(super) fn put_link(
        &mut self,
        path: &RelPath,
        link: &[u8],
        meta: &Meta,
    ) -> Result<(), Stop> {
        let (dir, name) = split(path)?;
        self.within(dir, |hand, at| {
            let mut fresh = hand.stage_link(at, path, link, meta)?;
            hand.place(at, &mut fresh, path, name)
        })
    }

    /// A symbolic link under a temporary name.
    pub(super) fn stage_link(
        &mut self,
        at: usize,
        path: &RelPath,
        link: &[u8],
        meta: &Meta,
    ) -> Result<Fresh, Stop> {
        self.ground.fault(Call::Symlink, path)?;
        // The kernel's answer to an empty one would read as a missing directory.
        if link.is_empty() {
            return Err(Errno::INVAL.into());
        }
        let dir = &self.parents[at].fd;
        let (fresh, ()) = Fresh::make(&self.ground.names, dir, false, |dir, name| {
            rustix::fs::symlinkat(link, dir, name)
        })?;
        self.ground.fault(Call::Meta, path)?;
        let now = meta::stat_name(dir, fresh.name())?;
        self.kept(meta::set_name(dir, fresh.name(), &now, meta)?);
        Ok(fresh)
    }

    /// Sets attributes of something that is not a directory.
    pub(super) fn set_meta(&mut self, path: &RelPath, kind: Kind, meta: &Meta) -> Result<(), Stop> {
        if kind == Kind::Dir {
            return self.set_dir(path, meta);
        }
        let (dir, name) = split(path)?;
        let done = self.within(dir, |hand, at| {
            hand.ground.fault(Call::Meta, path)?;
            match hand.look(at, name)? {
                None => Err(Outcome::Missing.into()),
                Some(now) if now.kind != kind => Err(Outcome::Occupied(now.kind).into()),
                Some(now) => {
                    let dir = hand.parents[at].fd.clone();
                    super::set_by_name(&hand.ground, &dir, name, &now, meta)?;
                    Ok(())
                }
            }
        });
        match done {
            Err(Stop::Say(Outcome::NoParent)) => Err(Outcome::Missing.into()),
            done => done,
        }
    }
}

/// Is a staged thing on another file system than the directory it is to be placed in?
fn staged_elsewhere(staged: &Fresh, dir: &OwnedFd) -> Result<bool, Errno> {
    let (from, to) = (meta::stat_fd(staged.dir())?, meta::stat_fd(dir)?);
    // Also on the same file system, mounted twice, a rename is refused.
    Ok(from.dev != to.dev || from.mount != to.mount)
}
