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
use crate::root::Root;
use crate::stage::Names;
use crate::trash::{Aside, Places, Trash};
use crate::trouble::{bounded, trouble};

/// How a thing gets to the trash.
type Way =
    fn(&Trash, &Root, &Names, &mut Places, (&OwnedFd, &[u8], &RelPath)) -> Result<Aside, Errno>;

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
            Ok(_) => match self.keep(dir, name, path, Trash::link) {
                // It went by itself.
                Err(Stop::Say(Outcome::Missing)) => Ok(None),
                kept => kept,
            },
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
        self.keep(dir, name, path, Trash::shift)
    }

    fn keep(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        path: &RelPath,
        way: Way,
    ) -> Result<Option<Aside>, Stop> {
        let ground = self.ground.clone();
        let Some(trash) = &ground.trash else { return Ok(None) };
        let mut keep = || {
            ground.fault(Call::Trash, path)?;
            way(trash, &ground.root, &ground.names, &mut self.places, (dir, name, path))
        };
        let mut kept = keep();
        // The root may lack our own permission to make the trash in it.
        if let Err(Errno::ACCESS) = kept
            && ground.opened.open_up(&ground.root, b"")
        {
            kept = keep();
        }
        match kept {
            Ok(aside) => {
                self.touch(aside.dir());
                Ok(Some(aside))
            }
            Err(Errno::NOENT)
                if meta::stat_name(dir, name).is_err_and(|error| error == Errno::NOENT) =>
            {
                Err(Outcome::Missing.into())
            }
            // They may be about the name itself: then there are ways, or better words.
            Err(error @ (Errno::ACCESS | Errno::PERM)) => Err(error.into()),
            Err(error) => Err(not_kept(trash, error)),
        }
    }
}

/// The problem of a path that would be lost.
fn not_kept(trash: &Trash, error: Errno) -> Stop {
    let Trouble { errno, text } = trouble(error);
    let dir = trash.dir();
    let text = match error {
        Errno::XDEV => format!(
            "it is on another file system than the trash {dir}, which cannot keep it; \
             leave it out by --exclude, or mirror that file system by itself"
        ),
        // The path is that of something else in there.
        Errno::NOTDIR | Errno::LOOP => {
            format!("the trash {dir} cannot keep it: something there is no directory")
        }
        _ => format!("the trash {dir} cannot keep it: {text}"),
    };
    Outcome::Problem(Trouble { errno, text: bounded(text) }).into()
}
