//! Watching a source: the kernel says something changed, and that is a hint.
//!
//! A back end turns the kernel's words into [`WatchEvent`]s with paths beneath the root. It keeps
//! no opinion of what is on disk: an event marks a path dirty, or says that a name moved. What is
//! sent is what a look sees later. Lost events are a value, [`WatchEvent::Overflow`].

use std::os::fd::BorrowedFd;

use lsync_protocol::path::RelPath;

use crate::error::Error;

pub mod inotify;
pub mod notify;
pub mod poll;

/// What the kernel said, as hints about paths beneath the source's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Content of a file may have changed; somebody may still be writing (`IN_MODIFY`).
    Written(RelPath),
    /// A file that was open for writing was closed (`IN_CLOSE_WRITE`).
    Closed(RelPath),
    /// A name appeared: created, linked, or moved in from outside. A directory may already hold
    /// things that no event will tell of, so it is dirty as a subtree.
    Appeared {
        /// The name.
        path: RelPath,
        /// It is a directory.
        dir: bool,
    },
    /// A name went: deleted, or moved out of the tree.
    Gone {
        /// The name.
        path: RelPath,
        /// It was a directory.
        dir: bool,
    },
    /// A name moved within the tree; both halves were seen and belong together.
    Renamed {
        /// The old name.
        from: RelPath,
        /// The new name.
        to: RelPath,
        /// It is a directory.
        dir: bool,
    },
    /// Attributes changed (`IN_ATTRIB`).
    Attributes(RelPath),
    /// Something under this path may differ; the back end cannot say what (a poll, a part that
    /// cannot be watched, a mount that came or went).
    Unsure(RelPath),
    /// Events were lost: anything may differ.
    Overflow,
    /// The root itself was deleted, moved away or unmounted.
    RootGone,
}

/// Where a back end delivers: called on its own thread, in the kernel's order, once per drain of
/// the kernel's queue. Must not block for long: the kernel's queue is bounded.
pub type EventSink = Box<dyn FnMut(Vec<WatchEvent>) + Send>;

/// How a back end stands, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WatchStatus {
    /// The back end's name: `inotify`, `notify`, `poll`.
    pub backend: &'static str,
    /// Directories watched.
    pub watches: u64,
    /// How many the kernel allows this user, where there is such a limit.
    pub limit: Option<u64>,
    /// Directories that could not be watched and are polled instead.
    pub polled: u64,
    /// Times that the kernel lost events.
    pub overflows: u64,
}

/// Watches one source. Dropping it ends the watch and its thread.
pub trait Watcher: Send + Sync {
    /// Called by every walk before it reads a directory, so that nothing that happens after the
    /// read goes unseen. Watching a directory that is watched already is cheap and changes nothing,
    /// unless it moved without our seeing it: then its path is set right.
    ///
    /// # Errors
    /// What could not be watched and why. A directory that cannot be watched for want of watches
    /// is no error: it is polled, and the status says so.
    fn enter(&self, dir: &RelPath, fd: BorrowedFd<'_>) -> Result<(), Error>;

    /// How it stands.
    fn status(&self) -> WatchStatus;
}
