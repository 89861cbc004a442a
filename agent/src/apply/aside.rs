//! What would be lost goes to the trash first, where there is one. Nothing is removed or replaced that
//! could not be kept.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use lsync_protocol::entry::Kind;
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{Outcome, Trouble};
use lsync_protocol::path::RelPath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Hand, Stop};
use crate::fault::Call;
use crate::meta;
use crate::trash::{Aside, Trash};
use crate::trouble::{bounded, trouble};

/// Files up to this size are compared with what takes their place, in bytes.
const COMPARED_MAX: u64 = 1024 * 1024;

/// What takes the place of a name.
pub(super) enum Instead<'a> {
    /// This very thing, under another name so far.
    Thing(Identity),
    /// What has this name beside it.
    Beside(&'a [u8]),
}

/// The content of a small file.
fn content(dir: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?);
    let small = meta::stat_fd(&file).is_ok_and(|s| s.kind == Kind::File && s.size <= COMPARED_MAX);
    let mut content = Vec::new();
    (small && file.take(COMPARED_MAX + 1).read_to_end(&mut content).is_ok()).then_some(content)
}

impl Hand {
    /// Something is about to take the place of what has this name, which is kept: it stays there
    /// until then. Directories go by themselves, and what comes back is not lost: a content may be
    /// sent again.
    pub(super) fn set_aside(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &RelPath,
        instead: &Instead<'_>,
    ) -> Result<Option<Aside>, Stop> {
        if self.ground.trash.is_none() {
            return Ok(None);
        }
        let is_lost = |now: &meta::Stat| match *instead {
            Instead::Thing(same) => now.identity() != same,
            Instead::Beside(new) => {
                let alike = now.kind == Kind::File
                    && meta::stat_name(dir, new).is_ok_and(|new| new.size == now.size)
                    && content(dir, name).is_some_and(|old| content(dir, new) == Some(old));
                !alike
            }
        };
        match meta::stat_name(dir, name) {
            Err(Errno::NOENT) => Ok(None),
            Ok(now) if now.kind == Kind::Dir || !is_lost(&now) => Ok(None),
            Ok(_) => {
                let linked = self.keep(path, |hand, trash| {
                    hand.ground.fault(Call::Link, path)?;
                    let Hand { ground, places, .. } = hand;
                    trash.link(&ground.root, &ground.names, places, (dir, name, path))
                });
                let kept = match linked {
                    // A file system without links, or a kernel that protects files of others: then
                    // nothing has the name for a moment.
                    Err(
                        Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK | Errno::INVAL,
                    ) => self.move_to_trash(dir, name, path),
                    linked => linked,
                };
                match self.said_of(kept, dir, name) {
                    // It went by itself.
                    Err(Stop::Say(Outcome::Missing)) => Ok(None),
                    kept => kept,
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves what has this name, no directory, to the trash. `None`: there is no trash.
    pub(super) fn discard(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &RelPath,
    ) -> Result<Option<Aside>, Stop> {
        if self.ground.trash.is_none() {
            return Ok(None);
        }
        let moved = self.move_to_trash(dir, name, path);
        self.said_of(moved, dir, name)
    }

    fn move_to_trash(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &RelPath,
    ) -> Result<Aside, Errno> {
        self.keep(path, |hand, trash| {
            let Hand { ground, places, .. } = hand;
            trash.take(&ground.root, &ground.names, places, (dir, name, path))
        })
    }

    /// Keeps something; the root may lack our own permission to make the trash in it.
    fn keep(
        &mut self,
        path: &RelPath,
        keep: impl Fn(&mut Hand, &Trash) -> Result<Aside, Errno>,
    ) -> Result<Aside, Errno> {
        let ground = self.ground.clone();
        let trash = ground.trash.as_ref().ok_or(Errno::INVAL)?;
        ground.fault(Call::Trash, path)?;
        match keep(self, trash) {
            Err(Errno::ACCESS) if ground.opened.open_up(&ground.root, b"") => keep(self, trash),
            kept => kept,
        }
    }

    /// What is to be said of it.
    fn said_of(
        &mut self,
        kept: Result<Aside, Errno>,
        dir: &OwnedFd,
        name: &[u8],
    ) -> Result<Option<Aside>, Stop> {
        let gone = || meta::stat_name(dir, name).is_err_and(|error| error == Errno::NOENT);
        match kept {
            Ok(aside) => {
                self.touch(aside.dir());
                Ok(Some(aside))
            }
            Err(Errno::NOENT) if gone() => Err(Outcome::Missing.into()),
            // They may be about the name itself: then there are ways, or better words.
            Err(error @ (Errno::ACCESS | Errno::PERM)) => Err(error.into()),
            Err(error) => Err(self.not_kept(error)),
        }
    }

    /// The problem of a path that would be lost.
    fn not_kept(&self, error: Errno) -> Stop {
        let Trouble { errno, text } = trouble(error);
        let dir = self.ground.trash.as_ref().map_or_else(String::new, |t| t.dir().to_string());
        let text = match error {
            Errno::XDEV => format!(
                "it is on another file system than the trash {dir}, which cannot keep it; \
                 leave it out by --exclude, or mirror that file system by itself"
            ),
            _ => format!("the trash {dir} cannot keep it: {text}"),
        };
        Outcome::Problem(Trouble { errno, text: bounded(text) }).into()
    }
}
