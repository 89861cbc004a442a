//! Content under a temporary name: drawn, written, checked, and either placed or removed.
//!
//! A temporary name stands beside its target, so that giving it its place is one rename. Every
//! name of this mirror that is not alive in this process is dead: the lock says that nobody else
//! writes here.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lsync_protocol::entry::Kind;
use lsync_protocol::path::{RelPath, stage_mirror, stage_name};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::meta;

mod base;
mod borrowed;
mod chains;
mod copy;
mod large;
mod spread;
mod versions;

pub(crate) use base::{Base, STEP, chains_of, fill};
pub(crate) use chains::Blocks;
pub(crate) use large::{Here, Stage};
pub(crate) use versions::Versions;

/// What former links left, as far as listings came across it: of use until all is mirrored.
#[derive(Debug, Default)]
struct Left {
    mirrored: bool,
    /// In which directories.
    dirs: BTreeSet<RelPath>,
}

/// Less content than this is not worth keeping, in bytes.
const KEPT_MIN: u64 = 1 << 20;
/// The most directories that are remembered.
const LEFT_MAX: usize = 10_000;

/// The temporary names of one mirror in this process.
#[derive(Debug)]
pub(crate) struct Names {
    mirror: u32,
    next: AtomicU32,
    live: Mutex<HashSet<u32>>,
    /// The link has ended: what was begun may be of use to the next one.
    ended: AtomicBool,
    left: Mutex<Left>,
    /// Held while a directory is given its times, and while a name comes or goes quietly. Whoever
    /// takes both takes this one before `live`.
    times: Mutex<()>,
}

impl Names {
    pub(crate) fn new(mirror: u32) -> Arc<Names> {
        // Dead names of a former process rarely stand in the way when we do not begin where it did.
        let begin = std::process::id().wrapping_mul(0x9e37_79b1);
        Arc::new(Names {
            mirror,
            next: AtomicU32::new(begin),
            live: Mutex::default(),
            ended: AtomicBool::new(false),
            left: Mutex::default(),
            times: Mutex::default(),
        })
    }

    /// While this lives, no quiet change puts an older time back.
    pub(crate) fn times(&self) -> MutexGuard<'_, ()> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to a name in a directory without a trace in the directory's own time. The
    /// stage of a large file may stand in a directory that has its times already, and which nobody
    /// will set again on its account: one above, or one that its file has left meanwhile.
    pub(crate) fn quietly<T>(&self, dir: BorrowedFd<'_>, change: impl FnOnce() -> T) -> T {
        let _times = self.times();
        let before = meta::stat_fd(dir);
        let changed = change();
        if let Ok(before) = before {
            let times = meta::times(before.mtime);
            // By name, for the descriptor may be one of O_PATH. Where the directory is not ours, its
            // times are not either.
            let _ = rustix::fs::utimensat(dir, ".", &times, AtFlags::SYMLINK_NOFOLLOW);
        }
        changed
    }

    /// The link has ended: large contents that were begun stay for the next one.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// A listing came across a dead name: it is removed, unless it may be the content that a former
    /// link left and nobody asked for yet.
    pub(crate) fn found(&self, dir: BorrowedFd<'_>, path: &RelPath, name: &[u8]) {
        let content = meta::stat_name(dir, name)
            .is_ok_and(|stat| stat.kind == Kind::File && stat.size >= KEPT_MIN);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if content && !left.mirrored && left.dirs.len() < LEFT_MAX {
            left.dirs.insert(path.clone());
            return;
        }
        drop(left);
        self.sweep(dir, name);
    }

    /// Everything is mirrored: where something was left that has no use now.
    pub(crate) fn mirrored(&self) -> BTreeSet<RelPath> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.mirrored = true;
        std::mem::take(&mut left.dirs)
    }

    /// The name for what will probably stand at this path, unless it is alive.
    fn claim(self: &Arc<Names>, path: &RelPath) -> Option<Name> {
        let hash = blake3::hash(path.as_bytes());
        let number = u32::from_le_bytes(*hash.as_bytes().first_chunk()?);
        let first = self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        let text = stage_name(self.mirror, number);
        first.then(|| Name { names: self.clone(), number, text })
    }

    /// A name that nobody else has, alive until it is dropped.
    fn draw(self: &Arc<Names>) -> Name {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
                let text = stage_name(self.mirror, number);
                return Name { names: self.clone(), number, text };
            }
        }
    }

    /// Removes a temporary name of this mirror if it is dead. Says whether the name is gone.
    pub(crate) fn sweep(&self, dir: BorrowedFd<'_>, name: &[u8]) -> bool {
        if stage_mirror(name) != Some(self.mirror) {
            return false;
        }
        let Some(number) = std::str::from_utf8(&name[16..])
            .ok()
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        else {
            return false;
        };
        let live = || self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live().contains(&number) {
            return false;
        }
        let remove = |flags| rustix::fs::unlinkat(dir, name, flags);
        self.quietly(dir, || {
            // Under the lock: nobody may bring the name to life between the question and the removal.
            let live = live();
            if live.contains(&number) {
                return false;
            }
            match remove(AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => true,
                Err(Errno::ISDIR | Errno::PERM) => remove(AtFlags::REMOVEDIR).is_ok(),
                Err(_) => false,
            }
        })
    }
}

/// A live temporary name.
#[derive(Debug)]
struct Name {
    names: Arc<Names>,
    number: u32,
    text: String,
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut live = self.names.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(&self.number);
    }
}

/// Something that stands under a temporary name. Dropped without having been placed, it is removed.
#[derive(Debug)]
pub(crate) struct Fresh {
    dir: Arc<OwnedFd>,
    name: Name,
    is_dir: bool,
    placed: bool,
    /// It comes and goes without a trace in its directory's time.
    quiet: bool,
    /// The next link can find it again.
    found_again: bool,
}

/// How often a name in use is answered by drawing another one.
const DRAWS: usize = 1000;

impl Fresh {
    /// Makes something under a temporary name in a directory.
    pub(crate) fn make<T>(
        names: &Arc<Names>,
        dir: &Arc<OwnedFd>,
        is_dir: bool,
        make: impl Fn(BorrowedFd<'_>, &str) -> Result<T, Errno>,
    ) -> Result<(Fresh, T), Errno> {
        for _ in 0..DRAWS {
            let name = names.draw();
            match make(dir.as_fd(), &name.text) {
                Ok(made) => {
                    let dir = dir.clone();
                    return Ok((
                        Fresh {
                            dir,
                            name,
                            is_dir,
                            placed: false,
                            quiet: false,
                            found_again: false,
                        },
                        made,
                    ));
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EXIST)
    }

    /// A new file, open for writing.
    pub(crate) fn file(
        names: &Arc<Names>,
        dir: &Arc<OwnedFd>,
        mode: u32,
    ) -> Result<(Fresh, OwnedFd), Errno> {
        Fresh::open(names, dir, mode, OFlags::WRONLY)
    }

    /// A new file, open for reading and writing, that leaves no trace in its directory's time.
    pub(crate) fn quiet_file(
        names: &Arc<Names>,
        dir: &Arc<OwnedFd>,
        mode: u32,
    ) -> Result<(Fresh, OwnedFd), Errno> {
        let opened = || Fresh::open(names, dir, mode, OFlags::RDWR);
        let (mut fresh, file) = names.quietly(dir.as_fd(), opened)?;
        fresh.quiet = true;
        Ok((fresh, file))
    }

    /// The same under the name that content for this path has on each link: what a former one left
    /// there is gone on with, and how much that is.
    pub(crate) fn resumed(
        names: &Arc<Names>,
        dir: &Arc<OwnedFd>,
        path: &RelPath,
    ) -> Result<(Fresh, OwnedFd, u64), Errno> {
        let begin = || {
            let (fresh, file) = Fresh::quiet_file(names, dir, 0o600)?;
            Ok((fresh, file, 0))
        };
        let Some(name) = names.claim(path) else { return begin() };
        let how = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let of = |name| {
            let dir = dir.clone();
            Fresh { dir, name, is_dir: false, placed: false, quiet: true, found_again: true }
        };
        if let Ok(file) = rustix::fs::openat(dir, &*name.text, how, Mode::empty()) {
            let stat = meta::stat_fd(&file)?;
            let ours = stat.kind == Kind::File
                && stat.nlink == 1
                && stat.uid == rustix::process::geteuid().as_raw();
            if ours {
                // Nobody else gets to read what is not complete.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600))?;
                return Ok((of(name), file, stat.size));
            }
        }
        let create = how | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(0o600);
        let made =
            names.quietly(dir.as_fd(), || rustix::fs::openat(dir, &*name.text, create, mode));
        match made {
            Ok(file) => Ok((of(name), file, 0)),
            Err(Errno::EXIST) => begin(),
            Err(error) => Err(error),
        }
    }

    fn open(
        names: &Arc<Names>,
        dir: &Arc<OwnedFd>,
        mode: u32,
        how: OFlags,
    ) -> Result<(Fresh, OwnedFd), Errno> {
        let flags = how | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Fresh::make(names, dir, false, |dir, name| {
            rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode))
        })
    }

    /// Its temporary name.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.text.as_bytes()
    }

    /// The directory it stands in.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Gives it its place, over whatever a rename replaces.
    ///
    /// # Errors
    /// The rename's; it then still stands under its temporary name.
    pub(crate) fn place(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let rename = || rustix::fs::renameat(&self.dir, self.name(), dir, name);
        if self.quiet { self.name.names.quietly(self.dir(), rename) } else { rename() }?;
        self.placed = true;
        Ok(())
    }
}

impl Fresh {
    /// Is it to be found by the next link?
    fn stays(&self) -> bool {
        self.found_again
            && self.name.names.ended.load(Ordering::Relaxed)
            && meta::stat_name(&self.dir, self.name()).is_ok_and(|stat| stat.size >= KEPT_MIN)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.placed && !self.stays() {
            let flags = if self.is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            // What cannot be removed now is dead and swept by a later listing.
            let remove = || rustix::fs::unlinkat(&self.dir, self.name(), flags);
            let _ = if self.quiet { self.name.names.quietly(self.dir(), remove) } else { remove() };
        }
    }
}

/// Writes all of it.
pub(crate) fn write_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

    #[test]
    fn only_dead_names_of_this_mirror_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let fd = Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
        let names = Names::new(7);
        let (fresh, _) = Fresh::file(&names, &fd, 0o600).unwrap();
        let dead = stage_name(7, names.next.load(Ordering::Relaxed).wrapping_add(100));
        let other = stage_name(8, 1);
        for name in [&dead, &other] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        assert!(!names.sweep(fd.as_fd(), fresh.name()), "alive");
        assert!(!names.sweep(fd.as_fd(), other.as_bytes()), "another mirror's");
        assert!(!names.sweep(fd.as_fd(), b"ordinary"));
        assert!(names.sweep(fd.as_fd(), dead.as_bytes()));
        let name = dir.path().join(std::str::from_utf8(fresh.name()).unwrap());
        assert!(name.exists());
        drop(fresh);
        assert!(!name.exists(), "what is not placed is removed");
        assert!(dir.path().join(other).exists());
    }

    #[test]
    fn the_content_of_large_files_leaves_no_trace_in_the_time_of_a_directory() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let open = |flags| {
            let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Arc::new(rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap())
        };
        let sub = std::fs::File::open(dir.path().join("sub")).unwrap();
        let names = Names::new(7);
        let times = || {
            let meta = dir.path().metadata().unwrap();
            (meta.mtime(), meta.mtime_nsec())
        };
        let before = times();
        for fd in [open(OFlags::PATH), open(OFlags::RDONLY)] {
            let (mut placed, _file) = Fresh::quiet_file(&names, &fd, 0o600).unwrap();
            let (dropped, _file) = Fresh::quiet_file(&names, &fd, 0o600).unwrap();
            assert_eq!(times(), before, "made");
            placed.place(sub.as_fd(), b"f").unwrap();
            assert_eq!(times(), before, "placed elsewhere");
            drop(dropped);
            assert_eq!(times(), before, "given up");
            std::fs::write(dir.path().join(stage_name(7, 1)), b"").unwrap();
            let after = times();
            assert!(names.sweep(fd.as_fd(), stage_name(7, 1).as_bytes()));
            assert_eq!(times(), after, "swept");
            rustix::fs::futimens(
                open(OFlags::RDONLY).as_fd(),
                &Timestamps {
                    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                    last_modification: Timespec { tv_sec: before.0, tv_nsec: before.1 as _ },
                },
            )
            .unwrap();
        }
    }

    #[test]
    fn sweeping_and_staging_do_not_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let fd = Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
        let names = Names::new(7);
        let (done, end) = std::sync::mpsc::channel();
        for thread in 0..8u32 {
            let (names, fd, done) = (names.clone(), fd.clone(), done.clone());
            let path = dir.path().to_owned();
            std::thread::spawn(move || {
                for number in 0..2000 {
                    if thread % 2 == 0 {
                        drop(Fresh::quiet_file(&names, &fd, 0o600).unwrap());
                        continue;
                    }
                    let far = names.next.load(Ordering::Relaxed) ^ 0x8000_0000;
                    let dead = stage_name(7, far.wrapping_add(thread * 10_000 + number));
                    std::fs::write(path.join(&dead), b"").unwrap();
                    names.sweep(fd.as_fd(), dead.as_bytes());
                }
                done.send(()).unwrap();
            });
        }
        for _ in 0..8 {
            let patience = std::time::Duration::from_secs(60);
            assert!(end.recv_timeout(patience).is_ok(), "they wait for each other");
        }
    }

    #[test]
    fn a_name_in_use_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let fd = Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
        let names = Names::new(7);
        let first = stage_name(7, names.next.load(Ordering::Relaxed));
        std::fs::write(dir.path().join(&first), b"dead").unwrap();
        let (mut fresh, file) = Fresh::file(&names, &fd, 0o600).unwrap();
        assert_ne!(fresh.name(), first.as_bytes());
        write_at(&file, b"content", 0).unwrap();
        fresh.place(fd.as_fd(), b"f").unwrap();
        drop(fresh);
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"content");
    }
}
