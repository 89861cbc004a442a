//! Faults on demand: tests make any class of system call fail, on the side that reads a tree and on
//! the side that applies.

use std::sync::Arc;

use lsync_protocol::path::RelPath;
use rustix::io::Errno;

/// A class of system calls: those that change the target, or read what a change needs, and those
/// that look at a tree.
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
    /// Looking at what stands under a name.
    Look,
    /// Opening a directory to read the names in it.
    List,
    /// Reading further names of a directory.
    Names,
    /// Opening a file to read its content.
    Open,
    /// Reading a file's content.
    Content,
}

/// Says which calls fail.
pub trait Faults: Send + Sync {
    /// Called before a call about `path`; an error is taken as the call's own.
    ///
    /// # Errors
    /// What the call shall fail with.
    fn before(&self, call: Call, path: &RelPath) -> Result<(), Errno>;
}

/// Faults, or none: an option of the library.
#[derive(Clone, Default)]
pub struct OnDemand(Option<Arc<dyn Faults>>);

impl OnDemand {
    /// These faults.
    #[must_use]
    pub fn new(faults: Arc<dyn Faults>) -> OnDemand {
        OnDemand(Some(faults))
    }

    /// What says which calls fail.
    #[must_use]
    pub fn faults(&self) -> Option<Arc<dyn Faults>> {
        self.0.clone()
    }

    /// Says whether a call fails.
    pub(crate) fn before(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        self.0.as_ref().map_or(Ok(()), |faults| faults.before(call, path))
    }

    /// Says whether looking at a name in a directory fails.
    pub(crate) fn for_name(&self, dir: &RelPath, name: &[u8]) -> Result<(), Errno> {
        match &self.0 {
            None => Ok(()),
            Some(_) => dir.join(name).map_or(Ok(()), |path| self.before(Call::Look, &path)),
        }
    }
}

impl std::fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "faults on demand" } else { "no faults" })
    }
}

impl PartialEq for OnDemand {
    fn eq(&self, other: &OnDemand) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}
