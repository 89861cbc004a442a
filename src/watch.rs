//! Watching a source: the kernel says something changed, and that is a hint.
//!
//! A back end turns the kernel's words into [`WatchEvent`]s with paths beneath the root. It keeps
//! no opinion of what is on disk: an event marks a path dirty, or says that a name moved. What is
//! sent is what a look sees later. Lost events are a value, [`WatchEvent::Overflow`].

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use lsync_protocol::path::{Escaped, RelPath};

use crate::config::WatchChoice;
use crate::error::Error;

pub mod event;
#[cfg(target_os = "linux")]
pub mod inotify;
pub mod notify;
pub mod poll;
mod unwatched;

pub use event::WatchEvent;

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

/// What a watch may take, and how often it looks where it cannot watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLimits {
    /// How often what cannot be watched (all of it, with [`poll`]) is reported as
    /// [`WatchEvent::Unsure`].
    pub poll: Duration,
    /// The most directories to watch, of those that the kernel allows; the rest is polled.
    /// `None`: as many as the kernel allows.
    pub watches: Option<u64>,
}

impl Default for WatchLimits {
    fn default() -> Self {
        WatchLimits { poll: Duration::from_secs(10), watches: None }
    }
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

    /// A directory is not to be watched any more, nor what is in it. A back end that cannot tell
    /// directories apart goes on: what it reports is looked at, and passed over.
    fn leave(&self, dir: &RelPath) {
        let _ = dir;
    }

    /// Has [`WatchEvent::Barrier`] follow everything that happened before this call: what was heard
    /// of, and [`WatchEvent::Unsure`] for what is only looked at now and then.
    fn barrier(&self, token: u64);

    /// How it stands.
    fn status(&self) -> WatchStatus;
}

/// Opens a watch on the directory `root` (absolute). Nothing is reported before a walk has
/// [entered](Watcher::enter) the root.
///
/// # Errors
/// The back end cannot be had: the hint names the setting to raise, or another back end.
pub fn open(
    choice: WatchChoice,
    root: &Path,
    limits: WatchLimits,
    sink: EventSink,
) -> Result<Box<dyn Watcher>, Error> {
    match choice {
        WatchChoice::Auto => match eventless(root) {
            Some(kind) => {
                tracing::warn!(
                    "{} is on {kind}, which tells of no changes: it is looked at every {} seconds",
                    Escaped(root.as_os_str().as_encoded_bytes()),
                    limits.poll.as_secs_f32(),
                );
                Ok(Box::new(poll::Poll::open(root, limits, sink)?))
            }
            None => open(native(), root, limits, sink),
        },
        #[cfg(target_os = "linux")]
        WatchChoice::Inotify => Ok(Box::new(inotify::Inotify::open(root, limits, sink)?)),
        #[cfg(not(target_os = "linux"))]
        WatchChoice::Inotify => Err(Error::usage("--watch inotify is for Linux alone")
            .hint("leave it out, or use --watch notify")),
        WatchChoice::Notify => Ok(Box::new(notify::Notify::open(root, limits, sink)?)),
        WatchChoice::Poll => Ok(Box::new(poll::Poll::open(root, limits, sink)?)),
    }
}

/// The back end for this system where the file system tells of changes.
fn native() -> WatchChoice {
    if cfg!(target_os = "linux") { WatchChoice::Inotify } else { WatchChoice::Notify }
}

/// The name of the file system under `root`, if the kernel does not hear of all its changes: they
/// are made on other hosts, or by a program behind the kernel's back.
#[cfg(target_os = "linux")]
fn eventless(root: &Path) -> Option<&'static str> {
    // An error is left to the back end, which has the words for it.
    let kind = rustix::fs::statfs(root).ok()?.f_type;
    // The types of 32 bits are signed on some systems.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    eventless_type(kind as u32)
}

#[cfg(not(target_os = "linux"))]
fn eventless(_root: &Path) -> Option<&'static str> {
    None
}

/// By the magic number of `statfs`.
#[cfg(target_os = "linux")]
fn eventless_type(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0x6969 => "NFS",
        0x517b | 0xfe53_4d42 => "SMB",
        0xff53_4d42 => "CIFS",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x00c3_6400 => "Ceph",
        0x0bd0_0bd0 => "Lustre",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x786f_4256 => "vboxsf",
        0xbacb_acbc => "vmhgfs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn file_systems_of_other_hosts_are_polled() {
        assert_eq!(eventless_type(0x6969), Some("NFS"));
        assert_eq!(eventless_type(0xff53_4d42), Some("CIFS"));
        assert_eq!(eventless_type(0xef53), None, "ext4");
        assert_eq!(eventless(Path::new("/proc")), None);
        assert_eq!(eventless(Path::new("/does/not/exist")), None);
    }
}
