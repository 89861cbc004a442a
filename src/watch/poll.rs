//! No events at all: the whole tree is reported as unsure now and then, and a walk finds out.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use lsync_protocol::path::RelPath;

use super::{EventSink, WatchEvent, WatchLimits, WatchStatus, Watcher};
use crate::error::Error;

/// Watches nothing, and says so every [`WatchLimits::poll`].
pub struct Poll {
    /// Takes the numbers of barriers; dropping it ends the thread.
    alive: Option<Sender<u64>>,
    thread: Option<JoinHandle<()>>,
}

impl Poll {
    /// Begins; the first report comes after one interval.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn open(root: &Path, limits: WatchLimits, mut sink: EventSink) -> Result<Poll, Error> {
        let (alive, ended) = channel::<u64>();
        let thread = std::thread::Builder::new()
            .name("poll".to_owned())
            .spawn(move || {
                loop {
                    let mut events = vec![WatchEvent::Unsure(RelPath::root())];
                    match ended.recv_timeout(limits.poll) {
                        Ok(token) => events.push(WatchEvent::Barrier(token)),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                    sink(events);
                }
            })
            .map_err(|cause| {
                let root = lsync_protocol::path::Escaped(root.as_os_str().as_encoded_bytes());
                Error::failed(format!("cannot watch {root}")).because(cause)
            })?;
        Ok(Poll { alive: Some(alive), thread: Some(thread) })
    }
}

impl Watcher for Poll {
    fn enter(&self, _dir: &RelPath, _fd: BorrowedFd<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn barrier(&self, token: u64) {
        if let Some(alive) = &self.alive {
            // The thread lives as long as this does.
            let _ = alive.send(token);
        }
    }

    fn status(&self) -> WatchStatus {
        WatchStatus { backend: "poll", ..WatchStatus::default() }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the poll ended by a panic");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_root_is_unsure_again_and_again_until_the_end() {
        let (tell, told) = channel();
        let limits = WatchLimits { poll: Duration::from_millis(5), ..WatchLimits::default() };
        let sink: EventSink = Box::new(move |events| drop(tell.send(events)));
        let poll = Poll::open(Path::new("/"), limits, sink).unwrap();
        for _ in 0..3 {
            let events = told.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(events, [WatchEvent::Unsure(RelPath::root())]);
        }
        assert_eq!(poll.status().backend, "poll");
        drop(poll);
        // The thread is gone, and the sink with it.
        while told.try_recv().is_ok() {}
        assert!(told.recv().is_err());
    }
}
