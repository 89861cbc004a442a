//! Content written into the file that stands there (`--inplace`): it stays the same file, and what is
//! equal in it is not written.
//!
//! A reader may see some of the old and some of the new. What can be known before the first byte is
//! written is made sure before: that the content is the right one, and that there is room for it. What
//! fails later, or is killed, leaves a time that is not the source's, so that the file is brought again.

use std::collections::HashSet;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use lsync_protocol::entry::{Kind, Meta, Time};
use lsync_protocol::message::{Outcome, Trouble};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::{ACL_ACCESS, Classes, Xattrs};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{Ground, Hand, Stop, split};
use crate::fault::Call;
use crate::meta::xattr::{self, At};
use crate::meta::{self, Kept, Stat};
use crate::read::read_into;
use crate::stage::{Here, fill, write_at};
use crate::trouble::{bounded, problem, trouble};

/// How much is read and compared at a time.
const STEP: u64 = 128 * 1024;
/// What is written of it is a multiple of this, at its place.
const GRAIN: usize = 4096;
/// Bits that have a file run as somebody else.
const POWER: u32 = 0o6000;
/// What is withheld from a file that is written in part.
const WITHHELD: Classes = Classes::ACLS.with(Classes::PRIVILEGED);

/// The files that are being written into, by device and inode.
#[derive(Debug, Default)]
pub(crate) struct Pours {
    busy: Mutex<HashSet<(u64, u64)>>,
    freed: Condvar,
}

/// The right to write into a file: two of its names may be written to at the same time.
struct Turn {
    ground: Arc<Ground>,
    file: (u64, u64),
}

impl Turn {
    fn wait(ground: &Arc<Ground>, of: &Stat) -> Turn {
        let file = (of.dev, of.ino);
        let mut busy = ground.pours.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy.insert(file) {
            busy = ground.pours.freed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        drop(busy);
        Turn { ground: ground.clone(), file }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let pours = &self.ground.pours;
        pours.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.file);
        pours.freed.notify_all();
    }
}

/// A file that stands there, open to be written into.
pub(super) struct There {
    /// Open for reading and writing.
    pub(super) file: OwnedFd,
    /// As it was.
    pub(super) before: Stat,
    /// It was opened up for us: the mode it has otherwise.
    closed: Option<u32>,
    _turn: Turn,
}

/// What is written into it.
pub(super) enum Poured<'a> {
    /// These bytes.
    Small(&'a [u8]),
    /// So many bytes of a stage; what that borrowed is there.
    Large(&'a Here, u64),
    /// All of another file.
    File(&'a OwnedFd, u64),
}

/// A part of a content.
enum Part {
    Data(Range<u64>),
    Hole(Range<u64>),
}

impl Poured<'_> {
    fn size(&self) -> u64 {
        match self {
            Poured::Small(bytes) => bytes.len() as u64,
            Poured::Large(_, size) | Poured::File(_, size) => *size,
        }
    }

    /// The next part, from `at` on, that is not there yet.
    fn next(&self, at: u64) -> Option<Part> {
        let rest = Some(at..self.size()).filter(|rest| !rest.is_empty());
        let (file, part) = match self {
            Poured::Small(_) => return rest.map(Part::Data),
            Poured::Large(here, size) => (&here.file, here.own_part(at, *size)),
            Poured::File(file, _) => (*file, rest),
        };
        let Range { start, end } = part?;
        let until = next_data(file, start).map_or(end, |data| data.min(end));
        Some(if until > start {
            Part::Hole(start..until)
        } else {
            Part::Data(start..next_hole(file, start).clamp(start + 1, end))
        })
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        match self {
            Poured::Large(here, _) => here.read(at, into),
            Poured::File(file, _) => fill(file, at, into),
            Poured::Small(bytes) => {
                let at = usize::try_from(at).map_err(|_| Errno::IO)?;
                let part = bytes.get(at..).and_then(|rest| rest.get(..into.len()));
                into.copy_from_slice(part.ok_or(Errno::IO)?);
                Ok(())
            }
        }
    }
}

/// Where data begins, from `at` on; `None` where there is nothing but a hole.
fn next_data(file: &OwnedFd, at: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Some(data),
        Err(Errno::NXIO) => None,
        // It does not tell.
        Err(_) => Some(at),
    }
}

/// Where a hole begins, from `at` on: at the end, at the latest.
fn next_hole(file: &OwnedFd, at: u64) -> u64 {
    rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(u64::MAX)
}

impl Hand {
    /// What is to be written into: a file that stands there. `None`: what comes takes its place as a
    /// new file, since that is what is wanted, or since there is no file, or it cannot be written to
    /// (it is being executed, say), or its times could not be set afterwards.
    pub(super) fn there(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        want: &Meta,
    ) -> Result<Option<There>, Errno> {
        if !self.ground.inplace {
            return Ok(None);
        }
        let now = match meta::stat_name(dir, name) {
            Err(Errno::NOENT) => return Ok(None),
            now => now?,
        };
        if now.kind != Kind::File {
            return Ok(None);
        }
        let (file, closed) = match open(dir, name) {
            Ok(file) => (file, None),
            Err(Errno::ACCESS) => match open_up(dir, name, &now) {
                Some(file) => (file, Some(now.mode)),
                None => return Ok(None),
            },
            Err(_) => return Ok(None),
        };
        let turn = Turn::wait(&self.ground, &meta::stat_fd(&file)?);
        let before = meta::stat_fd(&file)?;
        let there = There { file, before, closed, _turn: turn };
        if before.kind != Kind::File || !there.takes_times(want) {
            return Ok(None);
        }
        Ok(Some(there))
    }

    /// A file is to take the name of another one, which stays the same file: it gets all that the
    /// first one has, and that one's name goes. `false`: it is a matter of names alone.
    pub(super) fn pour_renamed(
        &self,
        old: (&OwnedFd, &[u8], &RelPath),
        new: (&OwnedFd, &[u8], &RelPath),
        now: &Stat,
    ) -> Result<bool, Stop> {
        let mut want = now.entry(None).meta;
        // What is in the way of that is in the way of a rename as well, which says so.
        let Ok(Some(mut there)) = self.there(new.0, new.1, &want) else { return Ok(false) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(old.0, old.1, flags, Mode::empty()) else {
            return Ok(false);
        };
        // Two names of one file, or another one came there meanwhile.
        let is = meta::stat_fd(&file)?.identity();
        if is != now.identity() || is == there.before.identity() {
            return Ok(false);
        }
        want.xattrs = xattr::read(&At::open(&file), self.ground.root.xattrs())?;
        self.ground.fault(Call::Rename, old.2)?;
        self.pour(&mut there, &Poured::File(&file, now.size), new.2, &want)?;
        // It may have another name, under which it was written to meanwhile: then this is a mix.
        let after = meta::stat_fd(&file)?;
        if (after.size, after.mtime, after.ctime) != (now.size, now.mtime, now.ctime) {
            there.differ(&want);
            return Err(Outcome::Refused.into());
        }
        let (dir, _) = split(old.2)?;
        let remove = || rustix::fs::unlinkat(old.0, old.1, AtFlags::empty());
        match remove() {
            Err(Errno::ACCESS) if self.ground.opened.open_up(&self.ground.root, dir) => remove()?,
            done => done?,
        }
        Ok(true)
    }

    /// Writes a content, which is checked, into a file: how it is then.
    pub(super) fn pour(
        &self,
        there: &mut There,
        content: &Poured<'_>,
        path: &RelPath,
        want: &Meta,
    ) -> Result<Stat, Stop> {
        let fault = || self.ground.fault(Call::Write, path);
        there.make_room(content, fault).map_err(problem)?;
        let mode = want.mode.unwrap_or_else(|| there.closed.unwrap_or(there.before.mode));
        let want = Meta { mode: Some(mode), ..want.clone() };
        // What cannot be set is told of in the end.
        let _ = there.close(&want).map_err(problem)?;
        let done = there.write(content, fault).map_err(Stop::from).and_then(|()| {
            if self.ground.fsync {
                // The time, which says that all of it is there, must not be on disk before it is.
                self.ground.fault(Call::Sync, path)?;
                rustix::fs::fdatasync(&there.file)?;
            }
            let now = meta::stat_fd(&there.file)?;
            self.finish_file(&there.file, &now, &want, path)?;
            Ok(meta::stat_fd(&there.file)?)
        });
        match done {
            Ok(after) => {
                there.closed = None;
                Ok(after)
            }
            Err(stop) => {
                there.differ(&want);
                Err(match stop {
                    Stop::Errno(error) => partly(error).into(),
                    said @ Stop::Say(_) => said,
                })
            }
        }
    }
}

/// A file that has some of the new content is told of as such.
fn partly(error: Errno) -> Outcome {
    let Trouble { errno, text } = trouble(error);
    Outcome::Problem(Trouble {
        errno,
        text: bounded(format!("{text}: the file may be written in part")),
    })
}

impl There {
    /// May we set its times? They say at the next start whether its content is the source's.
    fn takes_times(&self, want: &Meta) -> bool {
        let us = rustix::process::geteuid();
        if want.mtime.is_none() || us.is_root() || us.as_raw() == self.before.uid {
            return true;
        }
        let same = Meta { mtime: Some(self.before.mtime), ..Meta::default() };
        meta::set_fd(&self.file, &self.before, &same).is_ok()
    }

    /// Before it gets a content, nobody may do more with it than with the whole: neither run half of
    /// it as somebody else, nor read what it is about to be closed to.
    fn close(&mut self, want: &Meta) -> Result<Kept, Errno> {
        let mut mode = self.before.mode & want.mode.unwrap_or(0o7777) & !POWER;
        // Who may what by a list, and capabilities, come when all of it is there. Without its list
        // the mode's bits of the group, which were the mask of all in it, are the group's alone.
        let at = At::open(&self.file);
        let withheld = want.xattrs.as_ref().map(|wanted| wanted.classes().both(WITHHELD));
        if let Some(classes) = withheld.filter(|classes| classes.both(Classes::ACLS).any()) {
            let listed = |xattrs: &Xattrs| xattrs.all().iter().any(|one| one.name == ACL_ACCESS);
            let there = xattr::read(&at, classes)?;
            if there.as_ref().is_none_or(listed) || want.xattrs.as_ref().is_some_and(listed) {
                mode &= !0o070;
            }
        }
        let xattrs = withheld.map(Xattrs::none);
        let first = Meta { mode: Some(mode), mtime: None, xattrs, ..want.clone() };
        let kept = meta::set_fd(&self.file, &self.before, &first)?;
        self.closed = self.closed.map(|_| mode);
        Ok(kept)
    }

    /// Takes the space for everything that is not there yet. Where there is too little, it is as it
    /// was.
    fn make_room(
        &self,
        content: &Poured<'_>,
        fault: impl Fn() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut taken = Vec::new();
        let mut at = 0;
        let mut done = Ok(());
        while let Some(part) = content.next(at).filter(|_| done.is_ok()) {
            at = match part {
                Part::Data(range) => {
                    done = self.fill_holes(&range, &mut taken, &fault);
                    range.end
                }
                Part::Hole(range) => range.end,
            };
        }
        match done {
            // A file system that cannot promise space.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(error) => {
                let size = self.before.size;
                for range in taken {
                    let end = range.end.min(size);
                    if range.start < end {
                        let _ = punch(&self.file, range.start, end - range.start);
                    }
                }
                // That frees what is behind the end.
                let _ = rustix::fs::ftruncate(&self.file, size);
                let times = Meta { mtime: Some(self.before.mtime), ..Meta::default() };
                let _ = meta::set_fd(&self.file, &self.before, &times);
                Err(error)
            }
        }
    }

    fn fill_holes(
        &self,
        range: &Range<u64>,
        taken: &mut Vec<Range<u64>>,
        fault: impl Fn() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut at = range.start;
        loop {
            let hole = if at < self.before.size { next_hole(&self.file, at) } else { at };
            if hole >= range.end {
                return Ok(());
            }
            let end = next_data(&self.file, hole).map_or(range.end, |data| data.min(range.end));
            // Behind the end of a file that does not tell, there is nothing either.
            let end = if end > hole { end } else { range.end };
            fault()?;
            rustix::io::retry_on_intr(|| {
                rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, hole, end - hole)
            })?;
            taken.push(hole..end);
            at = end;
            if at >= range.end {
                return Ok(());
            }
        }
    }

    /// Writes what differs.
    fn write(
        &self,
        content: &Poured<'_>,
        fault: impl Fn() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let size = content.size();
        let step = STEP.min(size) as usize;
        let (mut new, mut old) = (vec![0; step], vec![0; step]);
        let mut at = 0;
        while let Some(part) = content.next(at) {
            at = match part {
                Part::Data(range) => {
                    self.write_part(range.clone(), &mut new, &mut old, &fault, |at, into| {
                        content.read(at, into)
                    })?;
                    range.end
                }
                Part::Hole(range) => {
                    self.clear(range.clone(), &mut new, &mut old, &fault)?;
                    range.end
                }
            };
        }
        if self.before.size != size {
            fault()?;
            rustix::fs::ftruncate(&self.file, size)?;
        }
        Ok(())
    }

    fn write_part(
        &self,
        range: Range<u64>,
        new: &mut [u8],
        old: &mut [u8],
        fault: &impl Fn() -> Result<(), Errno>,
        read: impl Fn(u64, &mut [u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut at = range.start;
        while at < range.end {
            let step = (range.end - at).min(new.len() as u64) as usize;
            let (new, old) = (&mut new[..step], &mut old[..step]);
            read(at, new)?;
            let there = read_into(&self.file, at, old)?;
            let differs = |from: usize| {
                let to = (from + GRAIN).min(step);
                to > there || new[from..to] != old[from..to]
            };
            let mut from = 0;
            while from < step {
                let begin = from;
                while from < step && differs(from) {
                    from += GRAIN;
                }
                if from > begin {
                    fault()?;
                    write_at(&self.file, &new[begin..from.min(step)], at + begin as u64)?;
                }
                from += GRAIN;
            }
            at += step as u64;
        }
        Ok(())
    }

    /// Has a hole where there is something.
    fn clear(
        &self,
        range: Range<u64>,
        new: &mut [u8],
        old: &mut [u8],
        fault: &impl Fn() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let end = range.end.min(self.before.size);
        if range.start >= end {
            return Ok(());
        }
        let Some(start) = next_data(&self.file, range.start).filter(|data| *data < end) else {
            return Ok(());
        };
        fault()?;
        if punch(&self.file, start, end - start).is_ok() {
            return Ok(());
        }
        self.write_part(start..end, new, old, fault, |_, into| {
            into.fill(0);
            Ok(())
        })
    }

    /// It has another time than the source's, which would say that all of it is there.
    fn differ(&self, want: &Meta) {
        let Some(wanted) = want.mtime else { return };
        let now = meta::stat_fd(&self.file);
        if now.is_ok_and(|now| now.mtime.sec != wanted.sec) {
            return;
        }
        let other = Time { sec: if wanted.sec > 1 << 20 { 0 } else { 1 << 30 }, nsec: 0 };
        let times = Meta { mtime: Some(other), ..Meta::default() };
        let _ = meta::set_fd(&self.file, &self.before, &times);
    }
}

impl Drop for There {
    fn drop(&mut self) {
        if let Some(mode) = self.closed {
            let _ = rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode));
        }
    }
}

fn punch(file: &OwnedFd, at: u64, len: u64) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, at, len)
}

fn open(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())
}

/// The mode of a file that we may write to.
fn opened(mode: u32) -> u32 {
    mode | 0o600
}

/// Opens a file of ours that its own mode keeps us from.
fn open_up(dir: &OwnedFd, name: &[u8], now: &Stat) -> Option<OwnedFd> {
    if now.uid != rustix::process::geteuid().as_raw() {
        return None;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
    let same = |fd: &OwnedFd| meta::stat_fd(fd).is_ok_and(|it| it.identity() == now.identity());
    if !same(&path) || meta::set_mode_of(&path, opened(now.mode)).is_err() {
        return None;
    }
    let file = open(dir, name).ok().filter(same);
    if file.is_none() {
        let _ = meta::set_mode_of(&path, now.mode);
    }
    file
}
