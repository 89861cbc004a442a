//! Descriptors that a script watches: a thread for each sleeps until it is ready, tells, and sleeps
//! on once the script has been called.
//!
//! A script hands over a number. What is polled is a duplicate of the descriptor, so a number that
//! is closed and used for something else meanwhile does no harm here.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use mlua::Function;
use rustix::event::{PollFd, PollFlags, poll};

/// A descriptor that a script watches.
pub(super) struct Observed {
    /// Called with the number when it can be read, and when it can be written to.
    pub(super) ready: Option<Function>,
    pub(super) writey: Option<Function>,
    /// A byte lets the thread sleep on; its end ends it.
    control: OwnedFd,
    /// Which of several observations of one number this is.
    pub(super) number: u64,
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) fd: i32,
    pub(super) number: u64,
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Observed {
    /// Watches the descriptor of this number for what there are functions for.
    pub(super) fn start(
        fd: i32,
        number: u64,
        ready: Option<Function>,
        writey: Option<Function>,
        tell: impl Fn(Ready) + Send + 'static,
    ) -> io::Result<Observed> {
        let watched = duplicate(fd)?;
        let (wake, control) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, ready.is_some());
        wanted.set(PollFlags::OUT, writey.is_some());
        thread::Builder::new().name("descriptor".into()).spawn(move || {
            while let Ok(Some(flags)) = next(&watched, &wake, wanted) {
                let over = flags.intersects(PollFlags::HUP | PollFlags::ERR);
                let read =
                    (flags.contains(PollFlags::IN) || over) && wanted.contains(PollFlags::IN);
                let write = flags.contains(PollFlags::OUT) || (over && !read);
                tell(Ready { fd, number, read, write });
                // The script is called before it is looked at again.
                match rustix::io::read(&wake, &mut [0; 1]) {
                    Ok(1) => {}
                    _ => break,
                }
            }
        })?;
        Ok(Observed { ready, writey, control, number })
    }

    /// The script was called: on.
    pub(super) fn again(&self) {
        let _ = rustix::io::write(&self.control, &[1]);
    }
}

/// Waits until the descriptor is ready; `None`: nobody wants to know any more.
fn next(watched: &OwnedFd, wake: &OwnedFd, wanted: PollFlags) -> io::Result<Option<PollFlags>> {
    loop {
        let mut both = [PollFd::new(watched, wanted), PollFd::new(wake, PollFlags::IN)];
        match poll(&mut both, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !both[1].revents().is_empty() {
            return Ok(None);
        }
        let flags = both[0].revents();
        if flags.contains(PollFlags::NVAL) {
            return Ok(None);
        }
        if !flags.is_empty() {
            return Ok(Some(flags));
        }
    }
}

/// A descriptor of our own for one that is only known by its number.
#[cfg(target_os = "linux")]
fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    if fd < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(own, fd, PidfdGetfdFlags::empty())?)
}

#[cfg(not(target_os = "linux"))]
fn duplicate(_fd: i32) -> io::Result<OwnedFd> {
    Err(io::Error::other("descriptors are observed on Linux only"))
}
