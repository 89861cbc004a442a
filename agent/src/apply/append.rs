//! A file that grows in place.
//!
//! Its name stands for a version that we put there ourselves, so what is before the rest is known
//! without reading it; the hash of the whole is checked before the first byte is written.

use std::os::fd::OwnedFd;

use lsync_protocol::entry::Meta;
use lsync_protocol::message::{Op, OpId, Outcome};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Content, Hand, Stop, split};
use crate::fault::Call;
use crate::meta::{self, Stat};
use crate::stage::{fill, write_at};

/// How much is read or copied at a time.
const STEP: u64 = 256 * 1024;

/// What comes behind a version.
enum Rest<'a> {
    Inline(&'a [u8]),
    /// All of this file.
    Staged(OwnedFd),
}

impl Rest<'_> {
    /// Reads some of it, from so far behind the version.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        match self {
            Rest::Staged(file) => fill(file, at, into),
            Rest::Inline(bytes) => {
                let at = usize::try_from(at).map_err(|_| Errno::IO)?;
                let part = bytes.get(at..at + into.len()).ok_or(Errno::IO)?;
                into.copy_from_slice(part);
                Ok(())
            }
        }
    }
}

impl Hand {
    /// Has more behind a version.
    pub(super) fn append(&mut self, id: OpId, op: &Op, content: &Content<'_>) -> Result<(), Stop> {
        let Op::Append { path, version, from, size, meta, hash, .. } = op else {
            return Err(Errno::INVAL.into());
        };
        let (from, size) = (*from, *size);
        let (dir, name) = split(path)?;
        let other = || Stop::Say(Outcome::OtherVersion);
        // A stage ends with this, whatever becomes of it.
        let staged = match content.stage {
            None => None,
            Some(stage) => {
                let here = stage.take(&self.ground.stop).map_err(Outcome::Problem)?;
                rustix::fs::ftruncate(&here.file, size - from)?;
                Some(here)
            }
        };
        let rest = match &staged {
            None => Rest::Inline(content.inline),
            Some(here) => Rest::Staged(here.file.try_clone().map_err(|_| Errno::MFILE)?),
        };
        self.within(dir, |hand, at| {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let dir = hand.parents[at].fd.clone();
            // Whatever is in the way, among it that it is being executed: then not in place.
            let file = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(|_| other())?;
            let now = meta::stat_fd(&file)?;
            let known = hand.ground.versions.find(*version, &now);
            let Some(known) = known.filter(|_| now.nlink == 1 && now.size == from) else {
                return Err(other());
            };
            let stop = &hand.ground.stop;
            let (found, blocks) =
                known.and(&file, from, size, stop, |at, into| rest.read(at, into))?;
            if found != *hash {
                return Err(other());
            }
            let fault = || hand.ground.fault(Call::Write, path);
            if let Err(error) = grow(&file, from, size, &rest, fault) {
                // As it was, so that a reader who looks at times sees no change either.
                let _ = rustix::fs::ftruncate(&file, from);
                let times = Meta { mtime: Some(now.mtime), ..Meta::default() };
                let _ = meta::set_fd(&file, &Stat { mtime: Default::default(), ..now }, &times);
                return Err(error.into());
            }
            let now = meta::stat_fd(&file)?;
            hand.finish_file(&file, &now, meta, path)?;
            let before = meta::stat_fd(&file)?;
            if let Some(blocks) = blocks {
                hand.ground.versions.put(id, &file, &before, blocks);
            }
            Ok(())
        })
    }
}

/// Writes the rest behind what there is.
fn grow(
    file: &OwnedFd,
    from: u64,
    size: u64,
    rest: &Rest<'_>,
    fault: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut buffer = vec![0; STEP.min(size - from) as usize];
    let mut at = from;
    while at < size {
        let step = STEP.min(size - at) as usize;
        rest.read(at - from, &mut buffer[..step])?;
        fault()?;
        write_at(file, &buffer[..step], at)?;
        at += step as u64;
    }
    Ok(())
}
