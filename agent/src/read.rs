//! The reading side: one look at a path, and content read so that a change meanwhile is noticed.
//!
//! A pass is good when inode, size and times are after the last byte what they were before the
//! first. Growth alone is no change: what was there at the beginning is taken, and the path is not
//! settled. Everything else is read again, up to [`PASSES`] times.

use std::io;
use std::os::fd::OwnedFd;

use lsync_protocol::entry::{Entry, Kind};
use lsync_protocol::path::RelPath;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::fault::Call;
use crate::meta::xattr::{self, At};
use crate::meta::{self, Stat};
use crate::root::Root;

mod hash;
mod holes;
mod large;

pub use hash::{Calm, hash};
pub use large::{FileReader, Finish};

/// How often a file that changes while it is read is read again at most.
pub const PASSES: u32 = 3;

/// Why there is no content.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is nothing of that name.
    #[error("no such file")]
    Missing,
    /// Something else stands there.
    #[error("{} stands there", .0.words())]
    NotFile(Kind),
    /// There is more than was asked for: this is what it looks like.
    #[error("larger than it was")]
    TooLarge(Box<Entry>),
    /// It could not be read: unknown, not missing.
    #[error(transparent)]
    Trouble(io::Error),
}

impl From<Errno> for ReadError {
    fn from(error: Errno) -> ReadError {
        match error {
            Errno::NOENT | Errno::NOTDIR => ReadError::Missing,
            error => ReadError::Trouble(error.into()),
        }
    }
}

/// A small file, read whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Small {
    /// As it was before the first byte was read; its size is that of `content`.
    pub entry: Entry,
    /// The content.
    pub content: Vec<u8>,
    /// Nothing changed meanwhile. If not, the path has to be looked at again.
    pub settled: bool,
}

/// Looks at a path beneath a root. `None` means ENOENT or ENOTDIR: missing, if the root is still
/// the root.
///
/// # Errors
/// Everything else: unknown, not missing.
pub fn look(root: &Root, path: &RelPath) -> Result<Option<Entry>, io::Error> {
    let found = root.fault(Call::Look, path).and_then(|()| root.open_name(path)).and_then(|fd| {
        let stat = meta::stat_fd(&fd)?;
        let link = match stat.kind {
            Kind::Symlink => {
                Some(rustix::fs::readlinkat(&fd, c"", Vec::new())?.into_bytes().into_boxed_slice())
            }
            _ => None,
        };
        let mut entry = stat.entry(link);
        entry.meta.xattrs = match xattr::read(&At::path_only(&fd), root.xattrs()) {
            // It is open: what is not found is not that.
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Errno::IO),
            xattrs => xattrs?,
        };
        Ok(entry)
    });
    match found {
        Ok(entry) => Ok(Some(entry)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a file for reading, and nothing that could block: a FIFO's other end is not waited for.
pub(crate) fn open(root: &Root, path: &RelPath) -> Result<(OwnedFd, Stat), ReadError> {
    root.fault(Call::Open, path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = match root.open_at(path.as_bytes(), flags | OFlags::NOATIME) {
        // Only the owner may leave the access time alone.
        Err(Errno::PERM) => root.open_at(path.as_bytes(), flags),
        opened => opened,
    };
    let fd = match opened {
        // A link, a socket, a device without a driver; or a link on the way.
        Err(error @ (Errno::LOOP | Errno::NXIO | Errno::NODEV)) => {
            return Err(match look(root, path) {
                Ok(Some(entry)) if entry.kind != Kind::File => ReadError::NotFile(entry.kind),
                Ok(None) => ReadError::Missing,
                _ => error.into(),
            });
        }
        fd => fd?,
    };
    let stat = meta::stat_fd(&fd)?;
    if stat.kind == Kind::File { Ok((fd, stat)) } else { Err(ReadError::NotFile(stat.kind)) }
}

/// Asks the kernel to read ahead; that it declines changes nothing.
fn sequential(fd: &OwnedFd) {
    let _ = rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::Sequential);
}

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Nothing changed.
    Settled,
    /// Something was added behind what was read.
    Grown,
    /// What was read may be of two versions.
    Changed,
}

/// Compares a file before the first byte was read with the same after the last.
fn compare(before: &Stat, after: &Stat) -> Pass {
    let same = before.identity() == after.identity()
        && before.mtime == after.mtime
        && before.ctime == after.ctime;
    if same && before.size == after.size {
        Pass::Settled
    } else if before.identity() == after.identity() && after.size > before.size {
        Pass::Grown
    } else {
        Pass::Changed
    }
}

/// Reads up to `size` bytes from `offset` on; less where the file ends before.
fn read_at(fd: &OwnedFd, offset: u64, size: usize, into: &mut Vec<u8>) -> Result<(), Errno> {
    // What is there already is overwritten: only what is new needs to be zeros.
    into.resize(size, 0);
    let filled = read_into(fd, offset, into)?;
    into.truncate(filled);
    Ok(())
}

/// Fills a buffer from `offset` on: how far, where the file ends before.
pub(crate) fn read_into(fd: &OwnedFd, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < into.len() {
        match rustix::io::pread(fd, &mut into[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a small file. Its content is never of two versions unless it changed during each of
/// [`PASSES`] passes; then it is as of the last one and not settled.
///
/// # Errors
/// [`ReadError`]; with more than `max` bytes [`ReadError::TooLarge`].
pub fn read_small(root: &Root, path: &RelPath, max: u64) -> Result<Small, ReadError> {
    let mut pass = 0;
    loop {
        pass += 1;
        // Opened anew each time: the name may stand for another file by now.
        let (fd, before) = open(root, path)?;
        if before.size > max {
            return Err(ReadError::TooLarge(Box::new(before.entry(None))));
        }
        let mut content = Vec::new();
        root.fault(Call::Content, path)?;
        read_at(&fd, 0, before.size as usize, &mut content)?;
        let seen = compare(&before, &meta::stat_fd(&fd)?);
        let short = (content.len() as u64) < before.size;
        if (seen == Pass::Changed || short) && pass < PASSES {
            continue;
        }
        let mut entry = before.entry(None);
        entry.size = content.len() as u64;
        return Ok(Small { entry, content, settled: seen == Pass::Settled && !short });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn looks_and_small_reads_tell_what_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("f"), b"hello").unwrap();
        fs::create_dir(at("d")).unwrap();
        std::os::unix::fs::symlink("f", at("l")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("s")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at("p"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let small = read_small(&root, &path("f"), 5).unwrap();
        assert_eq!((&small.content[..], small.settled, small.entry.size), (&b"hello"[..], true, 5));
        assert_eq!(look(&root, &path("f")).unwrap(), Some(small.entry));
        let link = look(&root, &path("l")).unwrap().unwrap();
        assert_eq!(link.link.as_deref(), Some(&b"f"[..]));
        assert!(look(&root, &RelPath::root()).unwrap().is_some());
        for missing in ["x", "f/x", "l/x", "d/x"] {
            assert_eq!(look(&root, &path(missing)).unwrap(), None, "{missing}");
            let error = read_small(&root, &path(missing), 5).unwrap_err();
            assert!(matches!(error, ReadError::Missing), "{missing}: {error}");
        }
        // None of these blocks.
        let others =
            [("d", Kind::Dir), ("l", Kind::Symlink), ("s", Kind::Socket), ("p", Kind::Fifo)];
        for (name, kind) in others {
            let error = read_small(&root, &path(name), 5).unwrap_err();
            assert!(matches!(error, ReadError::NotFile(k) if k == kind), "{name}: {error}");
        }
        let error = read_small(&root, &path("f"), 4).unwrap_err();
        assert!(matches!(error, ReadError::TooLarge(entry) if entry.size == 5));
    }

    #[test]
    fn content_is_settled_or_said_not_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        fs::write(&name, vec![b'0'; 40_000]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut digit = 0u8;
                while !stop.load(Ordering::Relaxed) {
                    digit = (digit + 1) % 10;
                    // One write: a settled reader sees one digit only.
                    let file = fs::OpenOptions::new().write(true).open(&name).unwrap();
                    rustix::io::pwrite(&file, &vec![b'0' + digit; 40_000], 0).unwrap();
                }
            });
            // On a busy machine the writer may not run for a while.
            let began = std::time::Instant::now();
            let mut unsettled = false;
            while !unsettled && began.elapsed().as_secs() < 60 {
                let small = read_small(&root, &path("f"), 1 << 20).unwrap();
                assert_eq!(small.content.len(), 40_000);
                unsettled = !small.settled;
            }
            stop.store(true, Ordering::Relaxed);
            assert!(unsettled, "a file that is written without rest cannot be settled always");
        });
        assert!(read_small(&root, &path("f"), 1 << 20).unwrap().settled);
    }

    #[test]
    fn growth_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), b"12").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let before = root.statx(&path("f")).unwrap();
        let at = |size: u64, sec: i64| Stat {
            size,
            mtime: lsync_protocol::entry::Time { sec, nsec: 0 },
            ..before
        };
        let sec = before.mtime.sec;
        assert_eq!(compare(&before, &before), Pass::Settled);
        assert_eq!(compare(&before, &at(3, sec + 1)), Pass::Grown);
        assert_eq!(compare(&before, &at(2, sec + 1)), Pass::Changed);
        assert_eq!(compare(&before, &at(1, sec + 1)), Pass::Changed);
        assert_eq!(compare(&before, &Stat { ino: before.ino + 1, ..before }), Pass::Changed);
    }
}
