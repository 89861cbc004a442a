//! What a watch reports, as values. Pure, and lower than the watch itself: collate takes these in
//! and knows nothing of back ends.

use lsync_protocol::path::RelPath;

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
    /// Everything that happened before this was asked for has been told before it
    /// ([`Watcher::barrier`](super::Watcher::barrier)).
    Barrier(u64),
    /// The root itself was deleted, moved away or unmounted.
    RootGone,
}
