//! What would be lost goes to the trash first, where there is one. Nothing is removed or replaced that
//! could not be kept.

use std::os::fd::OwnedFd;

use lsync_protocol::entry::Kind;
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{Outcome, Trouble};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::{Hand, Stop};
use crate::fault::Call;
use crate::meta;
use crate::trash::{Aside, Trash};
use crate::trouble::{bounded, trouble};

impl Hand {
    /// Something is about to take the place of what has this name, which is kept: it stays there
    /// until then. Directories go by themselves, and `same` is not lost.
    pub(super) fn set_aside(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &RelPath,
        same: Option<Identity>,
    ) -> Result<Option<Aside>, Stop> {
        if self.ground.trash.is_none() {
            return Ok(None);
        }
        match meta::stat_name(dir, name) {
            Err(Errno::NOENT) => Ok(None),
            Ok(now) if now.kind == Kind::Dir || Some(now.identity()) == same => Ok(None),
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
