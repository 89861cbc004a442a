//! Directories: made, given attributes, removed; and opened up while we work in them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::message::Outcome;
use lsync_protocol::path::RelPath;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Hand, Stop, open_below, split};
use crate::fault::Call;
use crate::meta;
use crate::root::{PATH_DIR, Root};
use crate::stage::Fresh;
use crate::trash::Aside;
use crate::walk;

/// What our own permission needs to be to work in a directory.
const OURS: u32 = 0o700;

/// Directories whose mode we widened to work in them, with the mode they are to have.
#[derive(Debug, Default)]
pub(crate) struct Opened(Mutex<BTreeMap<RelPath, u32>>);

impl Opened {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RelPath, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mode a directory may have while we work in it; remembers the one it is to have.
    fn workable(&self, path: &RelPath, mode: u32) -> u32 {
        if mode & OURS == OURS || rustix::process::geteuid().is_root() {
            self.lock().remove(path);
            return mode;
        }
        self.lock().insert(path.clone(), mode);
        mode | OURS
    }

    /// Gives ourselves the permission to work in a directory and to reach it, where we own what
    /// stands in the way. Says whether anything changed.
    pub(crate) fn open_up(&self, root: &Root, dir: &[u8]) -> bool {
        if rustix::process::geteuid().is_root() {
            return false;
        }
        let ends = dir.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at);
        let prefixes = std::iter::once(0).chain(ends).chain(std::iter::once(dir.len()));
        let mut changed = false;
        for end in prefixes {
            let Ok(path) = RelPath::new(&dir[..end]) else { return changed };
            let Ok(fd) = root.open_at(path.as_bytes(), PATH_DIR) else { return changed };
            let Ok(now) = meta::stat_fd(&fd) else { return changed };
            if now.mode & OURS != OURS && meta::set_mode_of(&fd, now.mode | OURS).is_ok() {
                self.lock().entry(path).or_insert(now.mode);
                changed = true;
            }
        }
        changed
    }

    /// The mode that a directory is to have after our work, if it was opened up.
    fn close(&self, path: &RelPath) -> Option<u32> {
        self.lock().remove(path)
    }

    /// A tree has another name, or none any more.
    pub(super) fn moved(&self, from: &RelPath, to: Option<&RelPath>) {
        let mut opened = self.lock();
        let under: Vec<RelPath> = opened
            .range(from..)
            .map(|(p, _)| p)
            .take_while(|p| p.is_at_or_under(from))
            .cloned()
            .collect();
        for path in under {
            if let Some(mode) = opened.remove(&path)
                && let Some(path) = to.and_then(|to| path.moved(from, to))
            {
                opened.insert(path, mode);
            }
        }
    }

    /// Gives all directories that are still opened up the mode they are to have.
    pub(crate) fn restore(&self, root: &Root) {
        let opened = std::mem::take(&mut *self.lock());
        // What is inside first: afterwards it may not be reached any more.
        for (path, mode) in opened.into_iter().rev() {
            if let Ok(fd) = root.open_at(path.as_bytes(), PATH_DIR) {
                // It is gone, or no longer ours: then its mode is not ours either.
                let _ = meta::set_mode_of(&fd, mode);
            }
        }
    }
}

impl Hand {
    /// Has a directory; one that is there already gets the attributes.
    pub(super) fn make_dir(&mut self, path: &RelPath, meta: &Meta) -> Result<(), Stop> {
        if path.is_root() {
            let fd = self.ground.root.open_at(b"", OFlags::RDONLY | OFlags::DIRECTORY)?;
            return self.set_open_dir(&fd, path, meta);
        }
        let (dir, name) = split(path)?;
        self.within(dir, |hand, at| {
            hand.ground.fault(Call::MakeDir, path)?;
            let parent = hand.parents[at].fd.clone();
            let mode = meta.mode.unwrap_or(0o777 & !hand.ground.umask) & 0o7777;
            let first = Mode::from_raw_mode(mode & 0o777 | OURS);
            match rustix::fs::mkdirat(&parent, name, first) {
                Ok(()) => {
                    hand.touch(&parent);
                    let fd = open_below(&parent, name, OFlags::RDONLY)?;
                    hand.set_open_dir(&fd, path, &Meta { mode: Some(mode), ..meta.clone() })
                }
                Err(Errno::EXIST) => match hand.look(at, name)? {
                    Some(now) if now.kind == Kind::Dir => {
                        let fd = match open_below(&parent, name, OFlags::RDONLY) {
                            Err(Errno::ACCESS)
                                if hand
                                    .ground
                                    .opened
                                    .open_up(&hand.ground.root, path.as_bytes()) =>
                            {
                                open_below(&parent, name, OFlags::RDONLY)
                            }
                            fd => fd,
                        }?;
                        hand.set_open_dir(&fd, path, meta)
                    }
                    Some(now) => Err(Outcome::Occupied(now.kind).into()),
                    None => Err(Errno::AGAIN.into()),
                },
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Attributes of a directory that is about to be worked in.
    fn set_open_dir(&self, fd: &OwnedFd, path: &RelPath, meta: &Meta) -> Result<(), Stop> {
        self.ground.fault(Call::Meta, path)?;
        let mode = meta.mode.map(|mode| self.ground.opened.workable(path, mode & 0o7777));
        let kept = meta::set_fd(fd, &meta::stat_fd(fd)?, &Meta { mode, ..meta.clone() })?;
        self.kept(kept);
        Ok(())
    }

    /// A directory under a temporary name.
    pub(super) fn stage_dir(
        &mut self,
        at: usize,
        path: &RelPath,
        meta: &Meta,
    ) -> Result<Fresh, Stop> {
        self.ground.fault(Call::MakeDir, path)?;
        let mode = meta.mode.unwrap_or(0o777 & !self.ground.umask) & 0o7777;
        let dir = &self.parents[at].fd;
        let (fresh, ()) = Fresh::make(&self.ground.names, dir, true, |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o777 | OURS))
        })?;
        let fd = open_below(dir, fresh.name(), OFlags::RDONLY)?;
        self.set_open_dir(&fd, path, &Meta { mode: Some(mode), ..meta.clone() })?;
        Ok(fresh)
    }

    /// Sets attributes of a directory, after everything in it is done.
    pub(super) fn set_dir(&mut self, path: &RelPath, meta: &Meta) -> Result<(), Stop> {
        self.ground.fault(Call::Meta, path)?;
        let root = &self.ground.root;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let mut fd = root.open_at(path.as_bytes(), flags);
        if let Err(Errno::ACCESS) = fd
            && self.ground.opened.open_up(root, path.as_bytes())
        {
            fd = root.open_at(path.as_bytes(), flags);
        }
        let fd = match fd {
            Err(Errno::NOENT) => return Err(Outcome::Missing.into()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(match root.open_name(path).and_then(|fd| meta::stat_fd(&fd)) {
                    Ok(now) if now.kind != Kind::Dir => Outcome::Occupied(now.kind).into(),
                    _ => Outcome::Missing.into(),
                });
            }
            fd => fd?,
        };
        let opened = self.ground.opened.close(path);
        let want = Meta { mode: meta.mode.or(opened), ..meta.clone() };
        let times = self.ground.names.times();
        let kept = meta::set_fd(&fd, &meta::stat_fd(&fd)?, &want)?;
        drop(times);
        self.kept(kept);
        if self.ground.fsync {
            super::sync_dir(&fd)?;
        }
        Ok(())
    }

    /// Removes one name of the given kind.
    pub(super) fn remove(&mut self, path: &RelPath, kind: Kind) -> Result<(), Stop> {
        let (dir, name) = split(path)?;
        let done = self.within(dir, |hand, at| {
            match hand.look(at, name)? {
                None => return Err(Outcome::Missing.into()),
                Some(now) if now.kind != kind => return Err(Outcome::Occupied(now.kind).into()),
                Some(_) => {}
            }
            hand.ground.fault(Call::Remove, path)?;
            hand.unlink(at, name, path, kind).map(drop)
        });
        match done {
            Err(Stop::Say(Outcome::NoParent)) => Err(Outcome::Missing.into()),
            Ok(()) if kind == Kind::Dir => {
                self.ground.opened.moved(path, None);
                Ok(())
            }
            done => done,
        }
    }

    /// Removes a name; of a directory, what is dead in it too. Says where it is kept, if it is.
    pub(super) fn unlink(
        &mut self,
        at: usize,
        name: &[u8],
        path: &RelPath,
        kind: Kind,
    ) -> Result<Option<Aside>, Stop> {
        let parent = self.parents[at].fd.clone();
        let is_dir = kind == Kind::Dir;
        if !is_dir && let Some(aside) = self.discard(&parent, name, path)? {
            self.touch(&parent);
            return Ok(Some(aside));
        }
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let mut done = rustix::fs::unlinkat(&parent, name, flags);
        if let Err(Errno::NOTEMPTY | Errno::EXIST) = done
            && is_dir
            && self.sweep_in(&parent, name)
        {
            done = rustix::fs::unlinkat(&parent, name, flags);
        }
        match done {
            Ok(()) => {
                self.touch(&parent);
                Ok(None)
            }
            Err(Errno::NOENT) => Err(Outcome::Missing.into()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if is_dir => Err(Outcome::NotEmpty.into()),
            Err(error @ (Errno::ISDIR | Errno::NOTDIR)) => match self.look(at, name)? {
                Some(now) if now.kind != kind => Err(Outcome::Occupied(now.kind).into()),
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Removes dead temporary names of this mirror in a directory. Says whether there were any.
    pub(super) fn sweep_in(&self, parent: &OwnedFd, name: &[u8]) -> bool {
        let Ok(fd) = open_below(parent, name, OFlags::RDONLY) else { return false };
        let Ok(stages) = walk::stages_in(fd.as_fd()) else { return false };
        let mut any = false;
        for stage in stages {
            any |= self.ground.names.sweep(fd.as_fd(), &stage);
        }
        any
    }
}
