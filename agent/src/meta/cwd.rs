//! A working directory for one thread.
//!
//! There is no call that reads the attributes of a name in an open directory before listxattrat(2)
//! of Linux 6.13. The directory's name in /proc leads there, at more than twice the price of a name
//! in the working directory; and that is the whole process's, unless a thread takes one of its own.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use nix::sched::{CloneFlags, unshare};

/// A thread's own working directory, which is `/` but while something is listed. For threads of
/// ours that do nothing else: whatever is relative to it would go astray.
#[derive(Debug)]
pub(crate) struct OwnCwd(PhantomData<*const ()>);

/// The working directory is the one that was entered, until this goes.
#[derive(Debug)]
pub(crate) struct Inside<'a>(PhantomData<&'a OwnCwd>);

impl OwnCwd {
    /// Parts this thread's working directory from the others'; `None` where that is forbidden.
    pub(crate) fn new() -> Option<OwnCwd> {
        unshare(CloneFlags::CLONE_FS).ok()?;
        // A directory that is being worked in could not be unmounted.
        rustix::process::chdir("/").ok()?;
        Some(OwnCwd(PhantomData))
    }

    /// Enters a directory; `None` where that is not permitted.
    pub(crate) fn enter(&self, dir: BorrowedFd<'_>) -> Option<Inside<'_>> {
        rustix::process::fchdir(dir).ok()?;
        Some(Inside(PhantomData))
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // Nothing forbids it where it was possible before.
        let _ = rustix::process::chdir("/");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_thread_stands_where_it_likes_and_nobody_else_moves() {
        let place = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(place.path()).unwrap();
        let before = std::env::current_dir().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let own = OwnCwd::new().unwrap();
                let here = || std::env::current_dir().unwrap();
                assert_eq!(here(), std::path::Path::new("/"));
                let inside = own.enter(dir.as_fd()).unwrap();
                assert_eq!(here(), place.path().canonicalize().unwrap());
                drop(inside);
                assert_eq!(here(), std::path::Path::new("/"));
            });
        });
        assert_eq!(std::env::current_dir().unwrap(), before);
    }
}
