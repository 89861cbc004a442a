//! The trash: where what is removed and what is replaced goes instead of being lost (`--trash`).
//!
//! It is a directory in the root, with one directory in it for each hour (UTC, by this host's clock) in
//! which something went, and in that the paths as they were: `DIR/2026-11-23T10/a/b`. What goes under
//! a name that is taken there gets a number behind it: `b.1`, `b.2`. Where a file keeps a name that a
//! directory needs, that is called `a.dir`.
//!
//! Moving a thing keeps all its attributes. Nothing in here is part of the mirror: listings hide it,
//! and no operation reaches it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::handshake;
use lsync_protocol::message::Op;
use lsync_protocol::path::{MAX_NAME, RelPath};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, RenameFlags};
use rustix::io::Errno;

use crate::meta;
use crate::root::{PATH_DIR, Root};
use crate::stage::Names;

mod mark;
mod stamp;
mod sweep;

pub(crate) use mark::found;
pub(crate) use sweep::run as sweep;

/// Directories of ours, which nobody else is to read.
const OURS: Mode = Mode::RWXU;
/// How often a name that was taken meanwhile is answered by the next one.
const TRIES: u32 = 64;
const BUFFER: usize = 32 * 1024;
/// How many directories of it are kept open.
const KEPT: usize = 8;

/// The trash of a root.
#[derive(Debug)]
pub(crate) struct Trash {
    dir: RelPath,
    /// Seconds.
    age: Option<u64>,
}

/// Directories of the trash that something was moved to last.
#[derive(Debug, Default)]
pub(crate) struct Places {
    stamp: String,
    dirs: Vec<(Box<[u8]>, Arc<OwnedFd>)>,
}

/// Where a thing stands in the trash.
#[derive(Debug)]
pub(crate) struct Aside {
    dir: Arc<OwnedFd>,
    name: Vec<u8>,
    /// It has no other name any more.
    moved: bool,
}

impl Trash {
    pub(crate) fn new(asked: &handshake::Trash) -> Trash {
        Trash { dir: asked.dir.clone(), age: asked.age }
    }

    /// Its name in the root.
    pub(crate) fn dir(&self) -> &RelPath {
        &self.dir
    }

    /// Gives what stands under a name a second one in the trash, so that something else can take its
    /// place in one step.
    pub(crate) fn link(
        &self,
        root: &Root,
        names: &Names,
        places: &mut Places,
        (dir, name, path): (&OwnedFd, &[u8], &RelPath),
    ) -> Result<Aside, Errno> {
        let (dir, name) = self.put(root, names, places, path, |to, free| {
            rustix::fs::linkat(dir, name, to, free, AtFlags::empty())
        })?;
        Ok(Aside { dir, name, moved: false })
    }

    /// Moves what stands under a name to the trash.
    pub(crate) fn take(
        &self,
        root: &Root,
        names: &Names,
        places: &mut Places,
        (dir, name, path): (&OwnedFd, &[u8], &RelPath),
    ) -> Result<Aside, Errno> {
        let (dir, name) =
            self.put(root, names, places, path, |to, free| rename_to_free(dir, name, to, free))?;
        Ok(Aside { dir, name, moved: true })
    }

    /// Finds the place of a path in the trash and a free name there.
    fn put(
        &self,
        root: &Root,
        names: &Names,
        places: &mut Places,
        path: &RelPath,
        put: impl Fn(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> Result<(Arc<OwnedFd>, Vec<u8>), Errno> {
        let (parent, name) = path.split().ok_or(Errno::INVAL)?;
        loop {
            let (dir, kept) = self.place(root, names, places, parent)?;
            match under_free_name(&dir, name, |free| put(&dir, free)) {
                // Somebody removed the directory that we kept open.
                Err(Errno::NOENT) if kept && meta::stat_fd(&dir)?.nlink == 0 => {
                    places.dirs.clear();
                }
                done => return done.map(|name| (dir, name)),
            }
        }
    }

    /// The directory for what was in this one, and whether it was kept open.
    fn place(
        &self,
        root: &Root,
        names: &Names,
        places: &mut Places,
        parent: &[u8],
    ) -> Result<(Arc<OwnedFd>, bool), Errno> {
        let stamp = stamp::of(now());
        if stamp != places.stamp {
            places.stamp = stamp;
            places.dirs.clear();
        }
        if let Some((_, dir)) = places.dirs.iter().find(|(path, _)| **path == *parent) {
            return Ok((dir.clone(), true));
        }
        let mut whole = [self.dir.as_bytes(), b"/", places.stamp.as_bytes()].concat();
        if !parent.is_empty() {
            whole.push(b'/');
            whole.extend_from_slice(parent);
        }
        let dir = match root.open_at(&whole, PATH_DIR) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.make(root, names, &places.stamp, parent)?
            }
            dir => dir?,
        };
        if places.dirs.len() >= KEPT {
            places.dirs.remove(0);
        }
        let dir = Arc::new(dir);
        places.dirs.push((parent.into(), dir.clone()));
        Ok((dir, false))
    }

    fn make(
        &self,
        root: &Root,
        names: &Names,
        stamp: &str,
        parent: &[u8],
    ) -> Result<OwnedFd, Errno> {
        let mut at = root.open_at(b"", PATH_DIR)?;
        let name = self.dir.as_bytes();
        // The time of the root is the source's.
        let made = match meta::stat_name(&at, name) {
            Err(Errno::NOENT) => names.quietly(at.as_fd(), || rustix::fs::mkdirat(&at, name, OURS)),
            _ => Err(Errno::EXIST),
        };
        at = ours(&at, name, made)?;
        let made = rustix::fs::mkdirat(&at, stamp, OURS);
        if made.is_ok() {
            mark::put(&at)?;
        }
        at = ours(&at, stamp.as_bytes(), made)?;
        for (from, name) in components(parent) {
            at = self.enter(root, &at, name, &parent[..from + name.len()])?;
        }
        Ok(at)
    }

    /// A directory like the one at a path, under its name or a similar one.
    fn enter(&self, root: &Root, at: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, Errno> {
        for number in 0..TRIES {
            let name = match number {
                0 => name.to_vec(),
                1 => with_end(name, ".dir"),
                n => with_end(name, &format!(".dir.{}", n - 1)),
            };
            match rustix::fs::mkdirat(at, &*name, OURS) {
                Ok(()) => {
                    let made = open(at, &name)?;
                    // As far as may be: nobody else gets here anyway.
                    let _ = dress(root, at, &name, &made, path);
                    return Ok(made);
                }
                Err(Errno::EXIST) => match open(at, &name) {
                    // A file that went before.
                    Err(Errno::NOTDIR) => {}
                    dir => return dir,
                },
                Err(error) => return Err(error),
            }
        }
        Err(Errno::NOTDIR)
    }
}

impl Aside {
    /// The directory of the trash it is in.
    pub(crate) fn dir(&self) -> &Arc<OwnedFd> {
        &self.dir
    }

    /// Nothing took its place after all.
    pub(crate) fn undo(&self, dir: &OwnedFd, name: &[u8]) {
        // What cannot be put back is still in the trash.
        let _ = if self.moved {
            rename_to_free(&self.dir, &self.name, dir, name)
        } else {
            rustix::fs::unlinkat(&self.dir, &*self.name, AtFlags::empty())
        };
    }
}

/// Would this operation reach into this directory?
pub(crate) fn reaches(op: &Op, dir: &RelPath) -> bool {
    op.names().any(|path| path.is_at_or_under(dir))
}

/// Does something for each name in a directory.
fn each(dir: &OwnedFd, mut act: impl FnMut(&[u8]) -> Result<(), Errno>) -> Result<(), Errno> {
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
    let buffer: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
    let mut names = RawDir::new(dir.as_fd(), buffer);
    while let Some(next) = names.next() {
        match next {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(next) => match next.file_name().to_bytes() {
                b"." | b".." => {}
                name => act(name)?,
            },
        }
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A directory that was made just now, or is there.
fn ours(at: &OwnedFd, name: &[u8], made: Result<(), Errno>) -> Result<OwnedFd, Errno> {
    match made {
        Ok(()) | Err(Errno::EXIST) => open(at, name),
        Err(error) => Err(error),
    }
}

/// A directory, by a name that is no link.
fn open(at: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = PATH_DIR | OFlags::CLOEXEC;
    match rustix::fs::openat(at, name, flags, Mode::empty()) {
        Err(Errno::LOOP) => Err(Errno::NOTDIR),
        dir => dir,
    }
}

/// Where the names in a path begin, and what they are.
fn components(path: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut begin = 0;
    path.split(|&b| b == b'/').filter(|name| !name.is_empty()).map(move |name| {
        let from = begin;
        begin += name.len() + 1;
        (from, name)
    })
}

/// Gives a directory of the trash the owner and mode of the one it stands for. We ourselves have to
/// get into it.
fn dress(root: &Root, at: &OwnedFd, name: &[u8], made: &OwnedFd, path: &[u8]) -> Result<(), Errno> {
    let like = meta::stat_fd(root.open_at(path, PATH_DIR)?)?;
    let now = meta::stat_fd(made)?;
    if like.kind != Kind::Dir {
        return Ok(());
    }
    let owner = Meta { uid: Some(like.uid), gid: Some(like.gid), ..Meta::default() };
    meta::set_name(at, name, &now, &owner)?;
    meta::set_mode_of(made, like.mode & 0o777 | 0o700)
}

/// Renames something, over nothing.
fn rename_to_free(dir: &OwnedFd, name: &[u8], to: &OwnedFd, free: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(dir, name, to, free, RenameFlags::NOREPLACE) {
        // This file system or kernel cannot say "over nothing".
        Err(Errno::INVAL | Errno::NOSYS) => match meta::stat_name(to, free) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(dir, name, to, free),
            Err(error) => Err(error),
        },
        done => done,
    }
}

/// Puts something under a name, or the next one that is free: so many looks as the number has digits,
/// in base two, and not as many as there are versions.
fn under_free_name(
    dir: &OwnedFd,
    name: &[u8],
    put: impl Fn(&[u8]) -> Result<(), Errno>,
) -> Result<Vec<u8>, Errno> {
    match put(name) {
        Err(Errno::EXIST) => {}
        done => return done.map(|()| name.to_vec()),
    }
    let numbered = |number: u32| with_end(name, &format!(".{number}"));
    let taken = |number| match meta::stat_name(dir, &numbered(number)) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    };
    let (mut low, mut high) = (0, 1u32);
    while taken(high)? {
        (low, high) = (high, high.checked_mul(2).ok_or(Errno::EXIST)?);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if taken(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    for number in high..=high.saturating_add(TRIES) {
        let free = numbered(number);
        match put(&free) {
            Err(Errno::EXIST) => {}
            done => return done.map(|()| free),
        }
    }
    Err(Errno::EXIST)
}

/// A name with something behind it, no longer than a name may be.
fn with_end(name: &[u8], end: &str) -> Vec<u8> {
    let mut keep = name.len().min(MAX_NAME - end.len());
    // Not in the middle of a character, where it is one.
    if keep < name.len() && std::str::from_utf8(name).is_ok() {
        while keep > 0 && name[keep] & 0xc0 == 0x80 {
            keep -= 1;
        }
    }
    [&name[..keep], end.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::Cell;
    use std::fs;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_thousandth_version_costs_few_looks() {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let tries = Cell::new(0);
        let put = |free: &[u8]| {
            tries.set(tries.get() + 1);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
            rustix::fs::openat(&fd, free, flags, OURS).map(drop)
        };
        let mut all = Vec::new();
        for _ in 0..1000 {
            all.push(String::from_utf8(under_free_name(&fd, b"f", put).unwrap()).unwrap());
        }
        assert_eq!(all[..3], ["f", "f.1", "f.2"]);
        assert_eq!(all[999], "f.999");
        assert_eq!(tries.get(), 1999, "the name itself, then the free one");
    }

    #[test]
    fn names_stay_as_short_as_they_may_be() {
        let long = "é".repeat(127);
        let name = with_end(long.as_bytes(), ".12");
        assert!(name.len() <= MAX_NAME && name.ends_with("é.12".as_bytes()));
        assert_eq!(with_end(&[0xa9; 255], ".1").len(), MAX_NAME);
        assert_eq!(with_end(b"a", ".1"), b"a.1");
    }

    #[test]
    fn what_reaches_into_it_is_known() {
        let (trash, kind) = (path("t"), Kind::File);
        let rename = |from: &str, to: &str| Op::Rename {
            from: path(from),
            to: path(to),
            kind,
            size: None,
            mtime: None,
        };
        let link = |from: &str, to: &str| Op::Link {
            from: path(from),
            path: path(to),
            size: 0,
            mtime: None,
        };
        let remove = |at: &str| Op::Remove { path: path(at), kind };
        let replace = |new| Op::Replace { old: kind, new: Box::new(new) };
        for op in [
            remove("t"),
            remove("t/x"),
            rename("t/x", "y"),
            rename("y", "t/x"),
            link("t/x", "y"),
            replace(link("t/x", "y")),
            replace(link("y", "t")),
        ] {
            assert!(reaches(&op, &trash), "{op:?}");
        }
        for op in [remove("tt"), remove("a/t"), rename("a", "b"), replace(link("a", "b"))] {
            assert!(!reaches(&op, &trash), "{op:?}");
        }
    }
}
