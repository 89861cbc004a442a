//! One source root, shared by its mirrors: the watch, walks, looks and reads.
//!
//! Every access opens the root afresh and checks that it is still the root; no descriptor is held
//! while idle, since a held one would make the administrator's `umount` fail. Nothing is concluded
//! from a root that is gone, unmounted or replaced, nor from a file system below it that went away.

mod hash;
mod look;
mod rules;
pub mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use lsync_agent::fault::OnDemand;
use lsync_agent::meta;
use lsync_agent::root::Root;
use lsync_agent::walk::{self, ListError};
use lsync_protocol::entry::{Entry, Kind, Named};
use lsync_protocol::handshake::Identity;
use lsync_protocol::path::{Escaped, RelPath};
use lsync_protocol::xattr::Classes;
use tokio::sync::mpsc;

use crate::config::WatchChoice;
use crate::error::{Error, Result, plain};
use crate::filter::{DirRules, Filter};
use crate::watch::{self, WatchEvent, WatchLimits, WatchStatus, Watcher};

pub use rules::RULES_BACK;
use rules::{Above, Said};

/// Threads that walk a source.
const WALKERS: usize = 2;
/// Deliveries of the watcher that may wait for a mirror; more, and the mirror walks instead.
const WAITING_MAX: usize = 4096;

/// A directory of the source as a walk saw it.
#[derive(Debug, Clone)]
pub struct SourceDir {
    /// Which directory.
    pub dir: RelPath,
    /// The directory itself.
    pub here: Box<Entry>,
    /// What the rules let through, sorted by name.
    pub entries: Vec<Named>,
    /// Names that are there but could not be looked at, and why.
    pub unknown: Vec<(Box<[u8]>, String)>,
    /// Names that are there and not mirrored, and that the target may keep (`--max-size`).
    pub kept: Vec<Box<[u8]>>,
    /// What the directory's own rule files say.
    pub rules: Option<Arc<DirRules>>,
    /// One of those is gone and may come back: its rules hold until then.
    pub rules_doubted: bool,
}

/// Why the source's root cannot be trusted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootTrouble {
    /// It is not there.
    Gone,
    /// Another file system is there: it was unmounted.
    Unmounted,
    /// Another directory is there.
    Replaced,
}

impl RootTrouble {
    /// In words, of this source.
    #[must_use]
    pub fn of(self, source: Escaped<'_>) -> String {
        match self {
            RootTrouble::Gone => format!("the source {source} is gone"),
            RootTrouble::Unmounted => {
                format!("the source {source} is not on its file system any more")
            }
            RootTrouble::Replaced => format!("the source {source} is another directory now"),
        }
    }
}

/// What a walk delivers.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all of them are the large one
pub enum Found {
    /// A directory.
    Dir(SourceDir),
    /// A directory that could not be read, and why.
    Failed(RelPath, String),
    /// Everything was read; whether the root was still the root at the end.
    End(Result<(), RootTrouble>),
}

/// Which directory the root is.
#[derive(Debug, Clone, Copy)]
struct Standing {
    identity: Identity,
    mount_root: bool,
}

/// Events for one mirror.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Arc<Vec<WatchEvent>>>,
    full: Arc<AtomicBool>,
}

impl Events {
    /// The next delivery. When some were lost because this mirror did not keep up, it says
    /// [`WatchEvent::Overflow`].
    pub async fn next(&mut self) -> Option<Arc<Vec<WatchEvent>>> {
        let events = self.queue.recv().await?;
        if self.full.swap(false, Ordering::AcqRel) {
            let mut all = vec![WatchEvent::Overflow];
            all.extend(events.iter().cloned());
            return Some(Arc::new(all));
        }
        Some(events)
    }
}

#[derive(Debug)]
struct Subscriber {
    queue: mpsc::Sender<Arc<Vec<WatchEvent>>>,
    full: Arc<AtomicBool>,
}

/// One source root.
pub struct Source {
    path: PathBuf,
    filter: Arc<Filter>,
    one_file_system: bool,
    max_size: Option<u64>,
    xattrs: Classes,
    faults: OnDemand,
    standing: Mutex<Standing>,
    /// File systems mounted below the root, where walks met them.
    mounts: Mutex<BTreeSet<RelPath>>,
    watcher: OnceLock<Box<dyn Watcher>>,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    /// Directories that a walk had listed and that were gone when it came to read them.
    missed: Arc<Mutex<BTreeSet<RelPath>>>,
    /// Directories that had rules in a file which is gone, and since when.
    vanished: Mutex<BTreeMap<RelPath, Instant>>,
    barriers: AtomicU64,
}

/// Every mirror gets the events; one that has too many waiting hears of it instead.
fn hand_out(subscribers: &Mutex<Vec<Subscriber>>, events: Vec<WatchEvent>) {
    let events = Arc::new(events);
    locked(subscribers).retain(|subscriber| match subscriber.queue.try_send(Arc::clone(&events)) {
        Ok(()) => true,
        Err(mpsc::error::TrySendError::Full(_)) => {
            subscriber.full.store(true, Ordering::Release);
            true
        }
        Err(mpsc::error::TrySendError::Closed(_)) => false,
    });
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What of a source counts.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// What is mirrored.
    pub filter: Arc<Filter>,
    /// Directories on other file systems are not entered.
    pub one_file_system: bool,
    /// Larger files are not mirrored.
    pub max_size: Option<u64>,
    /// Extended attributes of these classes are read.
    pub xattrs: Classes,
    /// Looks, listings and reads fail when these say so.
    pub faults: OnDemand,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// A source whose root is what stands at `path` (absolute) now.
    ///
    /// # Errors
    /// It is not a directory that can be opened.
    pub fn open(path: &Path, scope: Scope) -> Result<Source> {
        let standing = stand(path).map_err(|error| {
            let shown = Escaped(path.as_os_str().as_encoded_bytes());
            Error::failed(format!("cannot open the source {shown}")).because(error)
        })?;
        // What can be found but not read would be mirrored as nothing.
        std::fs::read_dir(path).map_err(|error| {
            let shown = Escaped(path.as_os_str().as_encoded_bytes());
            Error::failed(format!("cannot read the source {shown}"))
                .because(error)
                .hint("run lsyncd as a user who may read it")
        })?;
        Ok(Source {
            path: path.to_owned(),
            filter: scope.filter,
            one_file_system: scope.one_file_system,
            max_size: scope.max_size,
            xattrs: scope.xattrs,
            faults: scope.faults,
            standing: Mutex::new(standing),
            mounts: Mutex::default(),
            watcher: OnceLock::new(),
            subscribers: Arc::default(),
            missed: Arc::default(),
            vanished: Mutex::default(),
            barriers: AtomicU64::new(1),
        })
    }

    /// Begins to watch. Directories are watched as walks enter them.
    ///
    /// # Errors
    /// The back end cannot be had.
    pub fn watch(&self, choice: WatchChoice, limits: WatchLimits) -> Result<()> {
        let subscribers = Arc::clone(&self.subscribers);
        let missed = Arc::clone(&self.missed);
        let sink = Box::new(move |mut events: Vec<WatchEvent>| {
            find_missed(&mut locked(&missed), &mut events);
            hand_out(&subscribers, events);
        });
        let watcher = watch::open(choice, &self.path, limits, sink)?;
        let _ = self.watcher.set(watcher);
        Ok(())
    }

    /// Events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        let full = Arc::new(AtomicBool::new(false));
        locked(&self.subscribers).push(Subscriber { queue: sender, full: Arc::clone(&full) });
        Events { queue, full }
    }

    /// Tells the mirrors of this source something that no watcher heard: that a time has come at
    /// which everything is compared.
    pub fn tell(&self, event: WatchEvent) {
        hand_out(&self.subscribers, vec![event]);
    }

    /// How the watch stands; `None` before it began.
    #[must_use]
    pub fn watch_status(&self) -> Option<WatchStatus> {
        self.watcher.get().map(|watcher| watcher.status())
    }

    /// A number for [`Source::barrier`].
    pub fn next_barrier(&self) -> u64 {
        self.barriers.fetch_add(1, Ordering::Relaxed)
    }

    /// Has [`WatchEvent::Barrier`] told when everything that happened until now has been. False: the
    /// source is not watched.
    pub fn barrier(&self, token: u64) -> bool {
        self.watcher.get().map(|watcher| watcher.barrier(token)).is_some()
    }

    /// The root's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root's identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        locked(&self.standing).identity
    }

    /// The root, then every directory above it.
    ///
    /// # Errors
    /// The directories above cannot be looked at.
    pub fn upwards(&self) -> io::Result<Vec<Identity>> {
        Root::open(&self.path)?.upwards()
    }

    /// Opens the root if it is still the root.
    ///
    /// # Errors
    /// What became of it.
    pub fn root(&self) -> Result<Root, RootTrouble> {
        let now = stand(&self.path).map_err(|_| RootTrouble::Gone)?;
        let was = *locked(&self.standing);
        if now.identity == was.identity {
            let root = Root::open(&self.path).map_err(|_| RootTrouble::Gone)?;
            if root.identity() == was.identity {
                return Ok(root.with_xattrs(self.xattrs).with_faults(self.faults.clone()));
            }
        }
        Err(if now.identity.dev == was.identity.dev || (now.mount_root && was.mount_root) {
            RootTrouble::Replaced
        } else {
            RootTrouble::Unmounted
        })
    }

    /// Checks the root's standing; with `accept`, whatever directory stands there is the root from
    /// now on, unless its file system is not mounted.
    ///
    /// # Errors
    /// What became of it.
    pub fn check(&self, accept: bool) -> Result<Identity, RootTrouble> {
        match self.root() {
            Ok(root) => Ok(root.identity()),
            Err(RootTrouble::Replaced) if accept => {
                let now = stand(&self.path).map_err(|_| RootTrouble::Gone)?;
                *locked(&self.standing) = now;
                locked(&self.mounts).clear();
                Ok(now.identity)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Is this name mirrored, as far as rules and size say?
    fn in_scope(&self, path: &RelPath, kind: Kind, size: u64) -> bool {
        let small = kind != Kind::File || self.max_size.is_none_or(|max| size <= max);
        small && self.filter.verdict_deep(path, kind == Kind::Dir).sent
    }

    /// Was a file system mounted at or above this path, below the root, and is not any more?
    fn mount_gone(&self, root: &Root, path: &RelPath) -> bool {
        let above: Vec<RelPath> =
            locked(&self.mounts).iter().filter(|m| path.is_at_or_under(m)).cloned().collect();
        above.iter().any(|mount| !root.statx(mount).is_ok_and(|stat| stat.mount_root))
    }

    /// Walks subtrees, watching each directory before it is read. `deliver` may block; when it
    /// answers `Break` the walk ends.
    pub fn walk(&self, starts: &[RelPath], deliver: impl Fn(Found) -> ControlFlow<()> + Sync) {
        let root = match self.root() {
            Ok(root) => root,
            Err(trouble) => {
                let _ = deliver(Found::End(Err(trouble)));
                return;
            }
        };
        let device = root.identity().dev;
        // Directories of other file systems that are not to be entered.
        let foreign: Mutex<BTreeSet<RelPath>> = Mutex::default();
        let mut above = Above::new(self, &root);
        // What directories say of themselves, from when they are entered until they are listed.
        let said: Mutex<BTreeMap<RelPath, Said>> = Mutex::default();
        for start in starts {
            if let Err(why) = above.read(start) {
                if deliver(Found::Failed(start.clone(), format!("cannot be judged: {why}")))
                    .is_break()
                {
                    return;
                }
                continue;
            }
            if !self.filter.verdict_deep(start, true).sent {
                continue;
            }
            let flow = walk::walk(
                &root,
                start,
                WALKERS,
                |path, _| !self.filter.verdict(path, true).sent,
                |path, fd, facts| {
                    if self.one_file_system && facts.identity.dev != device {
                        locked(&foreign).insert(path.clone());
                        return Err(io::Error::other("another file system"));
                    }
                    self.note_mount(path, facts.mount_root)?;
                    if let Some(watcher) = self.watcher.get() {
                        watcher.enter(path, fd).map_err(io::Error::other)?;
                    }
                    if self.filter.reads_directories() {
                        let read = self.read_rules(&root, path).map_err(io::Error::other)?;
                        locked(&said).insert(path.clone(), read);
                    }
                    Ok(())
                },
                |path, listing| {
                    if locked(&foreign).remove(&path) {
                        return ControlFlow::Continue(());
                    }
                    match listing {
                        Ok(listing) => {
                            let said = match self.filter.reads_directories() {
                                true => locked(&said).remove(&path).unwrap_or_default(),
                                false => Said::default(),
                            };
                            let dir = self.scoped(path, listing);
                            let (rules, rules_doubted) = (said.rules, said.doubted);
                            deliver(Found::Dir(SourceDir { rules, rules_doubted, ..dir }))
                        }
                        // It went meanwhile, as an event will tell; or a directory above it was
                        // renamed, and then nobody watches what is in it.
                        Err(ListError::Missing) => {
                            locked(&self.missed).insert(path);
                            ControlFlow::Continue(())
                        }
                        Err(ListError::Trouble(error)) => {
                            let why = format!("cannot be read: {}", plain(&error.to_string()));
                            deliver(Found::Failed(path, why))
                        }
                    }
                },
            );
            if flow.is_break() {
                return;
            }
        }
        let end = match root.same_as(&self.path) {
            Ok(true) => Ok(()),
            _ => self.check(false).map(drop),
        };
        let _ = deliver(Found::End(end));
    }

    /// Remembers a mount below the root; one that has gone makes its directory unreadable, so that
    /// the empty directory it leaves is not taken for an empty one.
    fn note_mount(&self, path: &RelPath, mount_root: bool) -> io::Result<()> {
        if path.is_root() {
            return Ok(());
        }
        let mut mounts = locked(&self.mounts);
        if mount_root {
            mounts.insert(path.clone());
        } else if mounts.contains(path) {
            return Err(io::Error::other("the file system that was mounted here is gone"));
        }
        Ok(())
    }

    /// A listing, reduced to what is mirrored.
    fn scoped(&self, dir: RelPath, listing: walk::Listing) -> SourceDir {
        let mut kept = Vec::new();
        let entries = listing.entries;
        let entries = entries
            .into_iter()
            .filter(|named| {
                let Ok(path) = dir.join(&named.name) else { return false };
                let entry = &named.entry;
                if !self.filter.verdict(&path, entry.kind == Kind::Dir).sent {
                    // It may have been mirrored until its directory said otherwise.
                    if entry.kind == Kind::Dir && self.filter.reads_directories() {
                        self.filter.forget(&path);
                        if let Some(watcher) = self.watcher.get() {
                            watcher.leave(&path);
                        }
                    }
                    return false;
                }
                let large =
                    entry.kind == Kind::File && self.max_size.is_some_and(|m| entry.size > m);
                if large {
                    kept.push(named.name.clone());
                }
                !large
            })
            .collect();
        let unknown = listing
            .unknown
            .into_iter()
            .map(|(name, error)| {
                (name, format!("cannot be looked at: {}", plain(&error.to_string())))
            })
            .collect();
        let mut here = listing.facts.stat.entry(None);
        here.meta.xattrs = listing.xattrs;
        SourceDir {
            dir,
            here: Box::new(here),
            entries,
            unknown,
            kept,
            rules: None,
            rules_doubted: false,
        }
    }

    /// Names of the source's users and groups, by number. Those without a name are left out.
    #[must_use]
    pub fn names(users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> OwnerNames {
        let named = |ids: &BTreeSet<u32>, name: fn(u32) -> Option<String>| {
            ids.iter().filter_map(|&id| Some((id, name(id)?))).collect()
        };
        OwnerNames { users: named(users, meta::user_name), groups: named(groups, meta::group_name) }
    }
}

/// Numbers and names of the source's users and groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerNames {
    /// Users.
    pub users: BTreeMap<u32, String>,
    /// Groups.
    pub groups: BTreeMap<u32, String>,
}

/// The most missed directories that are remembered one by one.
const MISSED_MAX: usize = 10_000;

/// A rename that covers a directory which a walk missed: its new name has to be walked.
pub(crate) fn find_missed(missed: &mut BTreeSet<RelPath>, events: &mut Vec<WatchEvent>) {
    if missed.len() > MISSED_MAX {
        missed.clear();
        events.push(WatchEvent::Overflow);
    }
    if missed.is_empty() {
        return;
    }
    let mut at = 0;
    while at < events.len() {
        let (dir, to) = match &events[at] {
            WatchEvent::Renamed { from, to, dir: true } => (from.clone(), Some(to.clone())),
            WatchEvent::Gone { path, dir: true } => (path.clone(), None),
            _ => {
                at += 1;
                continue;
            }
        };
        let before = missed.len();
        missed.retain(|path| !path.is_at_or_under(&dir));
        if let Some(to) = to
            && missed.len() < before
        {
            events.insert(at + 1, WatchEvent::Unsure(to));
        }
        at += 1;
    }
}

/// Which directory stands at a path.
fn stand(path: &Path) -> io::Result<Standing> {
    let root = Root::open(path)?;
    let stat = root.statx(&RelPath::root())?;
    Ok(Standing { identity: root.identity(), mount_root: stat.mount_root })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_a_walk_missed_is_found_by_its_rename() {
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let mut missed = BTreeSet::from([path("a/x"), path("b")]);
        let rename = WatchEvent::Renamed { from: path("a"), to: path("c"), dir: true };
        let mut events = vec![rename.clone(), WatchEvent::Gone { path: path("b"), dir: true }];
        let gone = events[1].clone();
        find_missed(&mut missed, &mut events);
        assert_eq!(events, [rename, WatchEvent::Unsure(path("c")), gone]);
        assert!(missed.is_empty());
    }
}
