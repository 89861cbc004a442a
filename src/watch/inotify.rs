//! Linux' inotify, raw: one watch for each directory, set by the program's own walks.
//!
//! A thread empties the kernel's queue before it delivers anything, and sleeps without a timer
//! while nothing happens. What inotify does not tell: stores through a mapping (`mmap`, until the
//! file is closed, and then only if it was open for writing), what other hosts do to a network
//! file system, what happens in a directory before a walk has entered it, a file system mounted
//! over a watched directory, and a write through a hard link outside the tree. The walks of
//! `--rescan` are the net under all that. And a modification time that is set alone (`touch -m`)
//! reads as a write that no close follows.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lsync_protocol::path::{Escaped, RelPath};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self as kernel, CreateFlags, WatchFlags};
use rustix::io::Errno;

use self::pairs::{Heard, Pairs};
use self::tree::Tree;
use super::unwatched::{Unwatched, instances_hint, limit};
use super::{EventSink, WatchEvent, WatchLimits, WatchStatus, Watcher};
use crate::error::Error;

mod pairs;
mod tree;

/// The bytes of one read: some thousand events.
const READ: usize = 64 * 1024;

/// More events than this are delivered before the queue is empty, so that an endless writer
/// neither silences the watch nor fills the memory.
const MOST: usize = 256 * 1024;

/// How long the first half of a rename waits for the second after the queue was empty.
const HALF: Duration = Duration::from_millis(5);

/// What is asked of every directory. Not `IN_OPEN` and `IN_ACCESS`: our own reads would wake us.
/// Not `IN_DELETE_SELF` and `IN_MOVE_SELF` but for the root: the parent tells, and `IN_IGNORED`.
const EVERY: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// What is asked of the root besides.
const OF_ROOT: WatchFlags = WatchFlags::DELETE_SELF.union(WatchFlags::MOVE_SELF);

/// Watches one source by inotify.
pub struct Inotify {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the walks' threads and the event thread share.
struct Shared {
    root: PathBuf,
    limits: WatchLimits,
    queue: OwnedFd,
    /// Wakes the event thread.
    wake: OwnedFd,
    stop: AtomicBool,
    state: Mutex<State>,
}

/// Held while the queue is read and while a watch is set, so that no event of a new watch is read
/// before the table knows it.
struct State {
    tree: Tree,
    pairs: Pairs,
    unwatched: Unwatched,
    /// The bytes read from the queue, ever.
    read: u64,
    /// What is to be told when so many bytes are read.
    barriers: Vec<(u64, u64)>,
}

impl Inotify {
    /// Opens a watch on `root`, which is named in error texts; it is watched when the first walk
    /// enters it.
    ///
    /// # Errors
    /// No inotify instance is to be had: the user's limit of instances or of open files.
    pub fn open(root: &Path, limits: WatchLimits, sink: EventSink) -> Result<Inotify, Error> {
        let failed = |cause: Errno| {
            let error = Error::failed(format!("cannot watch {}", shown(root)))
                .because(std::io::Error::from(cause));
            match cause {
                Errno::MFILE => error.hint(instances_hint()),
                _ => error,
            }
        };
        let queue = kernel::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            limits,
            queue,
            wake,
            stop: AtomicBool::new(false),
            state: Mutex::new(State {
                tree: Tree::new(),
                pairs: Pairs::default(),
                unwatched: Unwatched::new(root, limits.poll),
                read: 0,
                barriers: Vec::new(),
            }),
        });
        let thread = std::thread::Builder::new()
            .name("inotify".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(sink)
            })
            .map_err(|cause| {
                Error::failed(format!("cannot watch {}", shown(root))).because(cause)
            })?;
        Ok(Inotify { shared, thread: Some(thread) })
    }
}

impl Watcher for Inotify {
    fn enter(&self, dir: &RelPath, fd: BorrowedFd<'_>) -> Result<(), Error> {
        self.shared.enter(dir, fd)
    }

    fn leave(&self, dir: &RelPath) {
        let mut state = self.shared.lock();
        let State { tree, pairs, unwatched, .. } = &mut *state;
        tree.leave(dir, &mut pairs.dead);
        unwatched.remove(dir);
        self.shared.take_back(&mut pairs.dead);
    }

    /// The kernel queues an event before the call that causes it returns: everything of before is
    /// among the bytes that are in the queue now.
    fn barrier(&self, token: u64) {
        let mut state = self.shared.lock();
        let queued = rustix::io::ioctl_fionread(&self.shared.queue).unwrap_or(0);
        let at = state.read + queued;
        state.barriers.push((at, token));
        drop(state);
        self.shared.wake();
    }

    fn status(&self) -> WatchStatus {
        let state = self.shared.lock();
        WatchStatus {
            backend: "inotify",
            watches: state.tree.watched() as u64,
            limit: limit().map(|(_, limit)| limit),
            polled: state.unwatched.count(),
            overflows: state.pairs.overflows,
        }
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the watch of {} ended by a panic", shown(&self.shared.root));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A sink that panicked does so without the lock; the state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when it is set already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn enter(&self, dir: &RelPath, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let mask = if dir.is_root() { EVERY | OF_ROOT } else { EVERY };
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mut state = self.lock();
        let State { tree, pairs, unwatched, read, .. } = &mut *state;
        let queued = rustix::io::ioctl_fionread(&self.queue).unwrap_or(0);
        let most = self.limits.watches.is_some_and(|most| tree.watched() as u64 >= most);
        let answer =
            if most { Err(Errno::NOSPC) } else { kernel::add_watch(&self.queue, &*path, mask) };
        match answer {
            Ok(wd) => {
                tree.enter(dir, wd, *read + queued, &mut pairs.dead);
                unwatched.remove(dir);
                self.take_back(&mut pairs.dead);
                Ok(())
            }
            Err(Errno::NOSPC) => {
                if unwatched.add(dir) {
                    self.wake();
                }
                Ok(())
            }
            Err(cause) => {
                let error = Error::failed(format!("cannot watch {}", shown(&self.at(dir))))
                    .because(std::io::Error::from(cause));
                Err(match cause {
                    Errno::NOENT => error.hint("/proc must be mounted"),
                    _ => error,
                })
            }
        }
    }

    /// Gives watches back to the kernel that are of no more use. One that is gone already is fine.
    fn take_back(&self, dead: &mut Vec<i32>) {
        for wd in dead.drain(..) {
            let _ = kernel::remove_watch(&self.queue, wd);
        }
    }

    /// The event thread.
    fn run(&self, mut sink: EventSink) {
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); READ];
        let mut half_until: Option<Instant> = None;
        let mut deaf = false;
        while !self.stop.load(Ordering::Acquire) {
            let due = self.lock().unwatched.due();
            self.sleep([half_until, due].into_iter().flatten().min(), deaf);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let more = match self.drain(&mut buffer) {
                Ok(more) => more,
                Err(cause) => {
                    if !deaf {
                        tracing::error!(
                            "cannot read the events of {}: {cause}; it is looked at every {} seconds",
                            shown(&self.root),
                            self.limits.poll.as_secs_f32()
                        );
                        deaf = true;
                    }
                    false
                }
            };
            let now = Instant::now();
            let mut state = self.lock();
            let waits = state.pairs.is_waiting() && !more;
            if waits && half_until.is_none_or(|until| now < until) {
                half_until.get_or_insert(now + HALF);
                continue;
            }
            half_until = None;
            let State { tree, pairs, unwatched, barriers, read, .. } = &mut *state;
            let mut events = pairs.take(tree);
            self.take_back(&mut pairs.dead);
            for event in &events {
                if let WatchEvent::Renamed { from, to, dir: true } = event {
                    unwatched.renamed(from, to);
                }
            }
            if deaf {
                // Its timer is never off again.
                let _ = unwatched.add(&RelPath::root());
            }
            // A queue that cannot be read stands for nothing: all of it is looked at.
            let heard = |(at, _): &mut (u64, u64)| deaf || *at <= *read;
            let barriers: Vec<(u64, u64)> = barriers.extract_if(.., heard).collect();
            if !barriers.is_empty() {
                unwatched.hurry(now);
            }
            let unsure = unwatched.turn(now, tree.watched() as u64);
            events.extend(unsure.into_iter().map(WatchEvent::Unsure));
            events.extend(barriers.into_iter().map(|(_, token)| WatchEvent::Barrier(token)));
            drop(state);
            if !events.is_empty() {
                sink(events);
            }
        }
    }

    /// Until there is something to read, somebody wakes us, or it is `until`.
    fn sleep(&self, until: Option<Instant>, deaf: bool) {
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let mut fds = [
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::new(&self.queue, if deaf { PollFlags::empty() } else { PollFlags::IN }),
        ];
        // EINTR is a wake like any other.
        let _ = poll(&mut fds, timeout.as_ref());
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Empties the kernel's queue. True: it was not empty yet when we had [`MOST`].
    fn drain(&self, buffer: &mut [MaybeUninit<u8>]) -> Result<bool, Errno> {
        let mut reader = kernel::Reader::new(self.queue.as_fd(), buffer);
        loop {
            let mut state = self.lock();
            let State { tree, pairs, read, .. } = &mut *state;
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(Errno::AGAIN) => return Ok(false),
                    Err(Errno::INTR) => continue,
                    Err(cause) => return Err(cause),
                };
                let name = event.file_name().map(CStr::to_bytes);
                pairs.hear(
                    tree,
                    Heard {
                        wd: event.wd(),
                        mask: event.events(),
                        cookie: event.cookie(),
                        name,
                        at: *read,
                    },
                );
                *read += size_in_queue(name);
                if reader.is_buffer_empty() {
                    break;
                }
            }
            self.take_back(&mut pairs.dead);
            if pairs.len() >= MOST {
                return Ok(true);
            }
        }
    }

    /// Where a directory is, for error texts.
    fn at(&self, dir: &RelPath) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.root.join(std::ffi::OsStr::from_bytes(dir.as_bytes()))
    }
}

/// A path as a person may see it.
fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

/// The bytes that an event takes in the kernel's queue: the name is padded to 16 with its NUL.
fn size_in_queue(name: Option<&[u8]>) -> u64 {
    16 + name.map_or(0, |name| (name.len() as u64 + 1).next_multiple_of(16))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{File, create_dir, remove_dir_all};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn watch(root: &Path) -> (Inotify, Receiver<Vec<WatchEvent>>) {
        let (tell, events) = channel();
        let sink: EventSink = Box::new(move |batch| drop(tell.send(batch)));
        let watch = Inotify::open(root, WatchLimits::default(), sink).unwrap();
        watch.enter(&RelPath::root(), File::open(root).unwrap().as_fd()).unwrap();
        (watch, events)
    }

    #[test]
    fn removing_three_thousand_directories_touches_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, events) = watch(dir.path());
        let mut path = RelPath::root();
        for i in 0..3000 {
            // Chains ten deep.
            if i % 10 == 0 {
                path = RelPath::root();
            }
            path = path.join(format!("d{i}").as_bytes()).unwrap();
            let at = watch.shared.at(&path);
            create_dir(&at).unwrap();
            watch.enter(&path, File::open(&at).unwrap().as_fd()).unwrap();
        }
        assert_eq!(watch.status().watches, 3001);
        let before = watch.shared.lock().tree.steps;
        for i in (0..3000).step_by(10) {
            remove_dir_all(dir.path().join(format!("d{i}"))).unwrap();
        }
        let mut gone = 0;
        while gone < 3000 {
            let batch = events.recv_timeout(PATIENCE).unwrap();
            let is_gone = |event: &&WatchEvent| matches!(event, WatchEvent::Gone { dir: true, .. });
            gone += batch.iter().filter(is_gone).count();
        }
        let deadline = Instant::now() + PATIENCE;
        while watch.status().watches > 1 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let state = watch.shared.lock();
        assert_eq!(state.tree.watched(), 1);
        let steps = state.tree.steps - before;
        assert!(steps <= 3000 * 2, "{steps} steps");
    }

    #[test]
    fn dropping_it_ends_the_thread() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, events) = watch(dir.path());
        drop(watch);
        File::create(dir.path().join("f")).unwrap();
        // The sink is gone with its thread, and nothing was said.
        assert!(events.recv().is_err());
    }

    #[test]
    fn what_is_no_directory_cannot_be_entered() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, _events) = watch(dir.path());
        let at = dir.path().join("f\n");
        let file = File::create(&at).unwrap();
        let name = RelPath::new(&b"f\n"[..]).unwrap();
        let error = watch.enter(&name, file.as_fd()).unwrap_err();
        let root = dir.path().display();
        assert_eq!(error.to_string(), format!("cannot watch {root}/f\\n: not a directory"));
    }

    #[test]
    fn sizes_are_those_of_the_kernels_queue() {
        let dir = tempfile::tempdir().unwrap();
        let queue = kernel::init(CreateFlags::CLOEXEC).unwrap();
        kernel::add_watch(&queue, dir.path(), WatchFlags::CREATE).unwrap();
        let mut size = 0;
        for len in [1, 14, 15, 16, 17, 31, 32, 255] {
            let name = "n".repeat(len);
            File::create(dir.path().join(&name)).unwrap();
            size += size_in_queue(Some(name.as_bytes()));
            assert_eq!(rustix::io::ioctl_fionread(&queue).unwrap(), size, "{len}");
        }
        assert_eq!(size_in_queue(None), 16);
    }
}
