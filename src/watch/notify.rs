//! The portable back end: the notify crate. FSEvents and the like; on Linux it is inotify again,
//! slower, and there for tests and for comparison.
//!
//! On Linux each directory is watched by itself, when a walk enters it: the crate's own recursion
//! loses what happens in a new directory before it gets there. Elsewhere one recursive watch on
//! the root sees all, and entering does nothing. The limits are those of the system's mechanism:
//! stores through a mapping and changes by other hosts raise no event, and on Linux the crate
//! keeps to itself that a file system was unmounted.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lsync_protocol::path::{Escaped, RelPath};
use notify::{ErrorKind, RecursiveMode, Watcher as _};
use rustix::io::Errno;

use self::heard::{Dirs, Heard};
use super::unwatched::{Unwatched, instances_hint, limit};
use super::{EventSink, WatchEvent, WatchLimits, WatchStatus, Watcher};
use crate::error::Error;

mod heard;

/// One recursive watch, or one for each directory?
const RECURSIVE: bool = !cfg!(target_os = "linux");

/// The most events that wait for the sink; more are an overflow. The crate's thread must never
/// wait for the sink, or a walk that sets a watch would wait for itself.
const QUEUE: usize = 16 * 1024;

/// How long the first half of a rename waits for the second after the queue was empty.
const HALF: Duration = Duration::from_millis(5);

/// Watches one source by the notify crate.
pub struct Notify {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    watcher: Mutex<Option<notify::RecommendedWatcher>>,
    wake: Option<SyncSender<Said>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread that delivers is told.
enum Said {
    Event(notify::Result<notify::Event>),
    /// Look at the clock again.
    Wake,
}

struct Shared {
    root: PathBuf,
    limits: WatchLimits,
    /// Events did not fit the queue.
    lost: AtomicBool,
    state: Mutex<State>,
}

struct State {
    dirs: Dirs,
    unwatched: Unwatched,
    overflows: u64,
    barriers: Vec<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics with the lock; the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notify {
    /// Opens a watch on `root`. On Linux nothing is watched before a walk enters it.
    ///
    /// # Errors
    /// The system's mechanism is not to be had, or (with one recursive watch) the root is not.
    pub fn open(root: &Path, limits: WatchLimits, sink: EventSink) -> Result<Notify, Error> {
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            limits,
            lost: AtomicBool::new(false),
            state: Mutex::new(State {
                dirs: Dirs::default(),
                unwatched: Unwatched::new(root, limits.poll),
                overflows: 0,
                barriers: Vec::new(),
            }),
        });
        let (wake, said) = sync_channel(QUEUE);
        let mut watcher = notify::recommended_watcher({
            let (shared, tell) = (Arc::clone(&shared), wake.clone());
            move |event: notify::Result<notify::Event>| {
                let idle = event.as_ref().is_ok_and(heard::says_nothing);
                if !idle && tell.try_send(Said::Event(event)).is_err() {
                    shared.lost.store(true, Ordering::Release);
                }
            }
        })
        .map_err(|cause| failed(root, cause))?;
        if RECURSIVE {
            watcher.watch(root, RecursiveMode::Recursive).map_err(|cause| failed(root, cause))?;
            shared.lock().dirs.insert(RelPath::root());
        }
        let thread = std::thread::Builder::new()
            .name("notify".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(&said, sink)
            })
            .map_err(|cause| failed(root, notify::Error::io(cause)))?;
        Ok(Notify {
            shared,
            watcher: Mutex::new(Some(watcher)),
            wake: Some(wake),
            thread: Some(thread),
        })
    }
}

/// What could not be watched, and why.
fn failed(path: &Path, cause: notify::Error) -> Error {
    let error =
        Error::failed(format!("cannot watch {}", Escaped(path.as_os_str().as_encoded_bytes())));
    match cause.kind {
        ErrorKind::Io(cause) if cause.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
            error.because(cause).hint(instances_hint())
        }
        ErrorKind::Io(cause) => error.because(cause),
        _ => error.because(cause),
    }
}

impl Watcher for Notify {
    fn enter(&self, dir: &RelPath, _fd: BorrowedFd<'_>) -> Result<(), Error> {
        if RECURSIVE {
            return Ok(());
        }
        let path = self.shared.root.join(OsStr::from_bytes(dir.as_bytes()));
        let most = self.shared.limits.watches.is_some_and(|most| {
            let state = self.shared.lock();
            state.dirs.len() >= most && !state.dirs.contains(dir)
        });
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        // Known to be watched or not, it is asked for: the path may name another directory by now,
        // and only the crate knows which it has.
        let answer = match &mut *watcher {
            _ if most => Err(notify::Error::new(ErrorKind::MaxFilesWatch)),
            Some(watcher) => watcher.watch(&path, RecursiveMode::NonRecursive),
            None => return Ok(()),
        };
        drop(watcher);
        let mut state = self.shared.lock();
        match answer.map_err(|error| error.kind) {
            Ok(()) => {
                state.dirs.insert(dir.clone());
                state.unwatched.remove(dir);
                Ok(())
            }
            // It has moved or is gone; the walk that comes of that finds it.
            Err(ErrorKind::PathNotFound) => Ok(()),
            Err(ErrorKind::MaxFilesWatch) => {
                if state.unwatched.add(dir)
                    && let Some(wake) = &self.wake
                {
                    // A full queue wakes as well.
                    let _ = wake.try_send(Said::Wake);
                }
                Ok(())
            }
            Err(kind) => Err(failed(&path, notify::Error::new(kind))),
        }
    }

    /// What the crate has read and not told yet is not known: the whole tree is looked at.
    fn barrier(&self, token: u64) {
        self.shared.lock().barriers.push(token);
        if let Some(wake) = &self.wake {
            // A full queue wakes as well.
            let _ = wake.try_send(Said::Wake);
        }
    }

    fn status(&self) -> WatchStatus {
        let state = self.shared.lock();
        WatchStatus {
            backend: "notify",
            watches: state.dirs.len(),
            limit: limit().map(|(_, limit)| limit),
            polled: state.unwatched.count(),
            overflows: state.overflows,
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        // Its thread lets go of the other end of the queue, which ends ours.
        drop(self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the watch ended by a panic");
        }
    }
}

impl Shared {
    /// The thread that delivers.
    fn run(&self, said: &Receiver<Said>, mut sink: EventSink) {
        let mut heard = Heard::new(&self.root);
        let mut half_until: Option<Instant> = None;
        loop {
            let due = self.lock().unwatched.due();
            let first = match [half_until, due].into_iter().flatten().min() {
                None => said.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => said.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let mut next = match first {
                Ok(said) => Some(said),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut state = self.lock();
            // At most what the queue holds, so that an endless writer does not silence us.
            for _ in 0..QUEUE {
                match next.take() {
                    Some(Said::Event(event)) => heard.hear(&mut state.dirs, event),
                    Some(Said::Wake) | None => {}
                }
                match said.try_recv() {
                    Ok(said) => next = Some(said),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if let Some(Said::Event(event)) = next {
                heard.hear(&mut state.dirs, event);
            }
            let now = Instant::now();
            if heard.is_waiting() && half_until.is_none_or(|until| now < until) {
                half_until.get_or_insert(now + HALF);
                continue;
            }
            half_until = None;
            if self.lost.swap(false, Ordering::AcqRel) {
                heard.overflow();
            }
            let mut events = heard.take(&mut state.dirs);
            for event in &events {
                match event {
                    WatchEvent::Renamed { from, to, dir: true } => {
                        state.unwatched.renamed(from, to);
                    }
                    WatchEvent::Overflow => state.overflows += 1,
                    _ => {}
                }
            }
            let watched = state.dirs.len();
            let unsure = state.unwatched.turn(now, watched);
            events.extend(unsure.into_iter().map(WatchEvent::Unsure));
            let barriers = std::mem::take(&mut state.barriers);
            if !barriers.is_empty() {
                events.push(WatchEvent::Unsure(RelPath::root()));
            }
            events.extend(barriers.into_iter().map(WatchEvent::Barrier));
            drop(state);
            if !events.is_empty() {
                sink(events);
            }
        }
    }
}
