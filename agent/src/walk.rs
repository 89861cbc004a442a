//! Listing one directory, and walking a tree with several threads.
//!
//! Unknown is not missing: a name that could not be looked at is reported as such, and a
//! directory that was read only in part is an error.

use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lsync_protocol::entry::{Entry, Kind, Named};
use lsync_protocol::handshake::Identity;
use lsync_protocol::path::{RelPath, check_name, is_stage_name};
use lsync_protocol::xattr::{Classes, Xattrs};
use rustix::fs::RawDir;
use rustix::io::Errno;

use crate::fault::Call;
use crate::meta::cwd::{Inside, OwnCwd};
use crate::meta::xattr::{self, At};
use crate::meta::{self, Stat};
use crate::root::Root;

/// What is in one directory.
#[derive(Debug)]
pub struct Listing {
    /// What stands there, sorted by name, without temporary names of ours.
    pub entries: Vec<Named>,
    /// Names that are there but could not be looked at: unknown, not missing.
    pub unknown: Vec<(Box<[u8]>, io::Error)>,
    /// Temporary names of ours that were passed over, of any mirror.
    pub stages: Vec<Box<[u8]>>,
    /// The directory's own facts.
    pub facts: DirFacts,
    /// Its extended attributes, of the classes that the root tells of.
    pub xattrs: Option<Xattrs>,
}

/// What is known of a directory before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirFacts {
    /// Which directory it is; the device tells where another file system begins.
    pub identity: Identity,
    /// The number of its mount; 0 where the kernel does not tell.
    pub mount: u64,
    /// Something is mounted here.
    pub mount_root: bool,
    /// Its attributes.
    pub stat: Stat,
}

impl From<Stat> for DirFacts {
    fn from(stat: Stat) -> DirFacts {
        DirFacts { identity: stat.identity(), mount: stat.mount, mount_root: stat.mount_root, stat }
    }
}

/// Why there is no listing.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// There is no such directory: nothing, or something else stands there.
    #[error("no such directory")]
    Missing,
    /// It could not be read, or not to its end: nothing is known of what is in it.
    #[error(transparent)]
    Trouble(io::Error),
}

impl From<io::Error> for ListError {
    fn from(error: io::Error) -> ListError {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => ListError::Missing,
            _ => ListError::Trouble(error),
        }
    }
}

impl From<Errno> for ListError {
    fn from(error: Errno) -> ListError {
        io::Error::from(error).into()
    }
}

/// Lists one directory beneath a root.
///
/// # Errors
/// [`ListError::Missing`] for ENOENT and ENOTDIR only; whether the root itself is still there is
/// for the caller to check.
pub fn list(root: &Root, dir: &RelPath) -> Result<Listing, ListError> {
    list_from(root, dir, None)
}

/// The same on a thread that may have a working directory of its own.
pub(crate) fn list_from(
    root: &Root,
    dir: &RelPath,
    cwd: Option<&OwnCwd>,
) -> Result<Listing, ListError> {
    root.fault(Call::List, dir)?;
    let fd = root.open_dir(dir)?;
    let facts = meta::stat_fd(&fd)?.into();
    list_open(fd.as_fd(), facts, (root, dir), cwd)
}

/// Bytes of names that one call brings.
const BUFFER: usize = 32 * 1024;

fn list_open(
    fd: BorrowedFd<'_>,
    facts: DirFacts,
    (root, dir): (&Root, &RelPath),
    cwd: Option<&OwnCwd>,
) -> Result<Listing, ListError> {
    let classes = root.xattrs();
    let inside = cwd.filter(|_| classes.any()).and_then(|cwd| cwd.enter(fd));
    let mut listing = Listing {
        entries: Vec::new(),
        unknown: Vec::new(),
        stages: Vec::new(),
        facts,
        xattrs: xattr::read(&At::open(&fd), classes)?,
    };
    let mut buffer = Vec::with_capacity(BUFFER);
    let buffer: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
    let mut names = RawDir::new(fd, buffer);
    while let Some(next) = names.next() {
        let next = match next {
            Err(Errno::INTR) => continue,
            next => next?,
        };
        root.fault(Call::Names, dir)?;
        let name = next.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if is_stage_name(name) {
            listing.stages.push(name.into());
        } else if check_name(name).is_err() {
            listing.unknown.push((name.into(), io::ErrorKind::InvalidFilename.into()));
        } else {
            let fault = root.faults().for_name(dir, name);
            match fault.and_then(|()| look_at(fd, name, classes, inside.as_ref())) {
                Ok(Some(entry)) => listing.entries.push(Named { name: name.into(), entry }),
                // Gone since its name was read.
                Ok(None) => {}
                Err(error) => listing.unknown.push((name.into(), error.into())),
            }
        }
    }
    listing.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    // A directory that changes while it is read may bring a name twice.
    listing.entries.dedup_by(|b, a| a.name == b.name);
    listing.unknown.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(listing)
}

/// The temporary names of ours in an open directory, of any mirror.
pub(crate) fn stages_in(fd: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut found = names_in(fd)?;
    found.retain(|name| is_stage_name(name));
    Ok(found)
}

/// All names in an open directory, as they stand there.
pub(crate) fn names_in(fd: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>, Errno> {
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut names = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(next) = names.next() {
        match next {
            Ok(next) => found.push(next.file_name().to_bytes().into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The entry of one name in an open directory; `None` when there is none.
fn look_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    classes: Classes,
    inside: Option<&Inside<'_>>,
) -> Result<Option<Entry>, Errno> {
    // It may be replaced between the calls; then it is looked at again.
    for _ in 0..8 {
        let stat = match meta::stat_name(dir, name) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        let link = match stat.kind {
            Kind::Symlink => match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(link) => Some(link.into_bytes().into()),
                Err(Errno::NOENT | Errno::INVAL) => continue,
                Err(error) => return Err(error),
            },
            _ => None,
        };
        let mut entry = stat.entry(link);
        if classes.any() {
            let at = match inside {
                Some(_) => At::here(name),
                None => At::name(&dir, name),
            };
            entry.meta.xattrs = match xattr::read(&at, classes) {
                Err(Errno::NOENT) => continue,
                xattrs => xattrs?,
            };
        }
        return Ok(Some(entry));
    }
    Err(Errno::AGAIN)
}

/// What is still to be read, and how many are being read.
struct State {
    todo: Vec<RelPath>,
    busy: usize,
    stop: bool,
}

struct Walk<'a, P, E, S> {
    root: &'a Root,
    prune: P,
    enter: E,
    sink: S,
    state: Mutex<State>,
    changed: Condvar,
}

/// Walks a tree by several threads. A directory is always given to `sink` before what is in it;
/// beyond that there is no order. What waits to be read grows with the breadth of the tree only.
///
/// - `prune`: the directory at this path (an entry of a listing) is not walked.
/// - `enter`: called with a directory's descriptor before it is read, to watch it; an error
///   becomes the directory's [`ListError`].
/// - `sink`: takes each directory's listing, on the thread that read it, and may block;
///   [`ControlFlow::Break`] ends the walk.
///
/// Returns `Break` when the sink ended it.
pub fn walk<P, E, S>(
    root: &Root,
    start: &RelPath,
    threads: usize,
    prune: P,
    enter: E,
    sink: S,
) -> ControlFlow<()>
where
    P: Fn(&RelPath, &Entry) -> bool + Sync,
    E: Fn(&RelPath, BorrowedFd<'_>, &DirFacts) -> io::Result<()> + Sync,
    S: Fn(RelPath, Result<Listing, ListError>) -> ControlFlow<()> + Sync,
{
    let walk = Walk {
        root,
        prune,
        enter,
        sink,
        state: Mutex::new(State { todo: vec![start.clone()], busy: 0, stop: false }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        // Threads of the walk's own, all of them: each takes a working directory.
        for _ in 0..threads.max(1) {
            scope.spawn(|| walk.run());
        }
    });
    let state = walk.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if state.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

impl<P, E, S> Walk<'_, P, E, S>
where
    P: Fn(&RelPath, &Entry) -> bool + Sync,
    E: Fn(&RelPath, BorrowedFd<'_>, &DirFacts) -> io::Result<()> + Sync,
    S: Fn(RelPath, Result<Listing, ListError>) -> ControlFlow<()> + Sync,
{
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes directories until none is left and nobody can find more.
    fn run(&self) {
        let cwd = OwnCwd::new();
        loop {
            let dir = {
                let mut state = self.lock();
                loop {
                    if state.stop {
                        return;
                    }
                    if let Some(dir) = state.todo.pop() {
                        state.busy += 1;
                        break dir;
                    }
                    if state.busy == 0 {
                        return;
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            // Also when a callback panics: the others must not wait for this one.
            let _done = Done(self);
            let (below, flow) = self.one(&dir, cwd.as_ref());
            let mut state = self.lock();
            // The last one in is the next one out: in the order of names.
            state.todo.extend(below.into_iter().rev());
            state.stop |= flow.is_break();
        }
    }

    /// Reads one directory and hands it over; says what is to be read in it.
    fn one(&self, dir: &RelPath, cwd: Option<&OwnCwd>) -> (Vec<RelPath>, ControlFlow<()>) {
        let mut below = Vec::new();
        let listing = self.read(dir, cwd);
        if let Ok(listing) = &listing {
            for Named { name, entry } in &listing.entries {
                // A path that gets too long is the sink's to report: it sees the entry.
                if entry.kind == Kind::Dir
                    && let Ok(path) = dir.join(name)
                    && !(self.prune)(&path, entry)
                {
                    below.push(path);
                }
            }
        }
        let flow = (self.sink)(dir.clone(), listing);
        (below, flow)
    }

    fn read(&self, dir: &RelPath, cwd: Option<&OwnCwd>) -> Result<Listing, ListError> {
        self.root.fault(Call::List, dir)?;
        let fd = self.root.open_dir(dir)?;
        let facts = meta::stat_fd(&fd)?.into();
        (self.enter)(dir, fd.as_fd(), &facts).map_err(ListError::Trouble)?;
        // Only from here on is it watched: what changed before and after the first look, and told
        // nobody, is in this one.
        list_open(fd.as_fd(), meta::stat_fd(&fd)?.into(), (self.root, dir), cwd)
    }
}

/// Counts one directory as done when it goes.
struct Done<'a, 'b, P, E, S>(&'a Walk<'b, P, E, S>);

impl<P, E, S> Drop for Done<'_, '_, P, E, S> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy -= 1;
        state.stop |= std::thread::panicking();
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_listing_is_sorted_and_passes_over_our_temporary_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("a\n\u{1}"), b"xyz").unwrap();
        std::os::unix::fs::symlink("nowhere/x", dir.path().join("c")).unwrap();
        fs::write(dir.path().join(".lsync-0000000a-00000001"), b"").unwrap();
        fs::write(dir.path().join(".lsync-mine"), b"").unwrap();
        let root = Root::open(dir.path()).unwrap();
        let listing = list(&root, &RelPath::root()).unwrap();
        let names: Vec<_> = listing.entries.iter().map(|n| &*n.name).collect();
        assert_eq!(names, [&b".lsync-mine"[..], b"a\n\x01", b"b", b"c"]);
        assert_eq!(listing.entries[1].entry.size, 3);
        assert_eq!(listing.entries[3].entry.link.as_deref(), Some(&b"nowhere/x"[..]));
        assert_eq!(listing.stages.len(), 1);
        assert_eq!(listing.facts.identity, root.identity());
        assert!(listing.unknown.is_empty());
        for missing in ["x", "c", "a\n\u{1}", "x/y"] {
            let error = list(&root, &path(missing)).unwrap_err();
            assert!(matches!(error, ListError::Missing), "{missing:?}");
        }
    }

    #[test]
    fn every_directory_is_walked_once_and_after_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..10 {
            for j in 0..10 {
                fs::create_dir_all(dir.path().join(format!("d{i}/e{j}/f"))).unwrap();
            }
        }
        fs::create_dir_all(dir.path().join("pruned/x")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for threads in [1, 4] {
            let (entered, seen) = (Mutex::new(0), Mutex::new(BTreeMap::new()));
            let flow = walk(
                &root,
                &RelPath::root(),
                threads,
                |path, _| path.as_bytes() == b"pruned",
                |_, _, _| {
                    *entered.lock().unwrap() += 1;
                    Ok(())
                },
                |dir, listing| {
                    let mut seen = seen.lock().unwrap();
                    assert!(dir.parent().is_none_or(|parent| seen.contains_key(&parent)));
                    assert!(seen.insert(dir, listing.unwrap().entries.len()).is_none());
                    ControlFlow::Continue(())
                },
            );
            assert!(flow.is_continue());
            assert_eq!(*entered.lock().unwrap(), 1 + 10 + 100 + 100);
            assert_eq!(seen.lock().unwrap().len(), 211);
        }
    }

    #[test]
    fn a_sink_ends_a_walk_and_an_error_stays_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let ended = walk(
            &root,
            &RelPath::root(),
            2,
            |_, _| false,
            |_, _, _| Ok(()),
            |_, _| ControlFlow::Break(()),
        );
        assert!(ended.is_break());
        let troubles = Mutex::new(Vec::new());
        let flow = walk(
            &root,
            &RelPath::root(),
            2,
            |_, _| false,
            |dir, _, _| if dir.is_root() { Ok(()) } else { Err(Errno::NOSPC.into()) },
            |dir, listing| {
                if let Err(ListError::Trouble(_)) = listing {
                    troubles.lock().unwrap().push(dir);
                }
                ControlFlow::Continue(())
            },
        );
        assert!(flow.is_continue());
        assert_eq!(*troubles.lock().unwrap(), [path("a")]);
    }
}
