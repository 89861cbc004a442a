//! The portable back end: the notify crate.
use std::os::fd::BorrowedFd;
use std::path::Path;

use lsync_protocol::path::RelPath;

use super::{EventSink, WatchLimits, WatchStatus, Watcher};
use crate::error::Error;

/// Watches one source by the notify crate.
pub struct Notify;

impl Notify {
    /// Opens a watch on `root`.
    ///
    /// # Errors
    /// Always: it is not built yet.
    pub fn open(_root: &Path, _limits: WatchLimits, _sink: EventSink) -> Result<Notify, Error> {
        Err(Error::usage("--watch notify is not built yet"))
    }
}

impl Watcher for Notify {
    fn enter(&self, _dir: &RelPath, _fd: BorrowedFd<'_>) -> Result<(), Error> {
        Ok(())
    }
    fn status(&self) -> WatchStatus {
        WatchStatus { backend: "notify", ..WatchStatus::default() }
    }
}
