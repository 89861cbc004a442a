//! Faults on demand: tests make any class of system call of the applying side fail.

use lsync_protocol::path::RelPath;
use rustix::io::Errno;

/// A class of system calls that change the target, or read what a change needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// Opening the directory something happens in.
    Parent,
    /// Creating a temporary file.
    Create,
    /// Writing content, copied content too.
    Write,
    /// Reading the base of a stage, for sums or to copy from it.
    Read,
    /// Reading staged content back.
    Check,
    /// Making content or names durable.
    Sync,
    /// Setting attributes.
    Meta,
    /// Giving a staged thing its name.
    Place,
    /// Creating a directory.
    MakeDir,
    /// Creating a symbolic link.
    Symlink,
    /// A special file is created.
    Special,
    /// A file gets a further name.
    Link,
    /// A rename that was asked for.
    Rename,
    /// Removing a name that was to be removed.
    Remove,
    /// Keeping in the trash what would be lost.
    Trash,
}

/// Says which calls fail.
pub trait Faults: Send + Sync {
    /// Called before a call about `path`; an error is taken as the call's own.
    ///
    /// # Errors
    /// What the call shall fail with.
    fn before(&self, call: Call, path: &RelPath) -> Result<(), Errno>;
}
