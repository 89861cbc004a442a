//! The lock on a root: one agent at a time applies beneath it.
//!
//! `flock` on the root's own descriptor, so it ends with the process and needs no file in the
//! tree. Who holds it stands in a small file in the user's cache directory: a new agent of the
//! same mirror ends the older one, whose link is dead or soon will be; another mirror is refused.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lsync_protocol::handshake::Refusal;
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::Root;
use crate::trouble::trouble;

/// A root that is ours.
#[derive(Debug)]
pub struct Lock {
    fd: OwnedFd,
    file: Option<PathBuf>,
}

/// Who wants the lock.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The mirror.
    pub mirror: [u8; 16],
    /// The mirror in words.
    pub name: String,
    /// This process is an agent of this mirror and of nothing else: ending it ends the mirror's
    /// link and no more.
    pub alone: bool,
    /// Where files that say who holds a lock are kept; without it nobody can be made to give way.
    pub cache: Option<PathBuf>,
    /// How long to wait for an agent of the same mirror to end.
    pub wait: Duration,
}

/// Who holds a lock, as its file says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    mirror: [u8; 16],
    pid: i32,
    start: u64,
    alone: bool,
    name: String,
}

impl Lock {
    /// Takes the lock, if need be from an older agent of the same mirror.
    ///
    /// # Errors
    /// [`Refusal::Busy`] with the other mirror's name, [`Refusal::Locked`] when an older agent of
    /// this one does not end, [`Refusal::Root`] when the root cannot be locked at all.
    pub fn take(root: &Root, claim: &Claim) -> Result<Lock, Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let unusable = |error: Errno| Refusal::Root(trouble(error).text);
        let fd = root.open_at(b"", flags).map_err(unusable)?;
        let id = root.identity();
        let file = claim
            .cache
            .as_ref()
            .map(|cache| cache.join(format!("root-{:x}-{:x}.holder", id.dev, id.ino)));
        let deadline = Instant::now() + claim.wait;
        let mut ended = None;
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(unusable(error)),
            }
            let holder = file.as_deref().and_then(Holder::read).filter(Holder::lives);
            match &holder {
                Some(holder) if holder.mirror != claim.mirror => {
                    return Err(Refusal::Busy(holder.name.clone()));
                }
                Some(holder) if ended.as_ref() != Some(holder) => {
                    holder.end();
                    ended = Some(holder.clone());
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                return Err(match holder {
                    Some(_) => Refusal::Locked,
                    None => Refusal::Busy("another process".into()),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let file = file.filter(|file| claim.write(file).is_ok());
        Ok(Lock { fd, file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file first: after the unlock it may already be another's.
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
        let _ = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
    }
}

impl Claim {
    /// Says in a file that we hold the lock.
    fn write(&self, file: &Path) -> std::io::Result<()> {
        let pid = std::process::id();
        let start = start_time(pid as i32).unwrap_or(0);
        if let Some(dir) = file.parent() {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let temporary = file.with_extension(format!("{pid}"));
        let mut out = {
            use std::os::unix::fs::OpenOptionsExt;
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?
        };
        let mirror: String = self.mirror.iter().map(|byte| format!("{byte:02x}")).collect();
        let how = if self.alone { "alone" } else { "shared" };
        let name = self.name.replace('\n', " ");
        write!(out, "{mirror}\n{pid}\n{start}\n{how}\n{name}\n")?;
        fs::rename(&temporary, file)
    }
}

impl Holder {
    fn read(file: &Path) -> Option<Holder> {
        let text = fs::read_to_string(file).ok()?;
        let mut lines = text.lines();
        let hex = lines.next()?;
        let mut mirror = [0; 16];
        if hex.len() != 32 || !hex.is_ascii() {
            return None;
        }
        for (byte, at) in mirror.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
        }
        Some(Holder {
            mirror,
            pid: lines.next()?.parse().ok()?,
            start: lines.next()?.parse().ok()?,
            alone: lines.next()? == "alone",
            name: lines.next()?.to_owned(),
        })
    }

    /// Is it the process that wrote the file, and not a later one with its number?
    fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Asks it to end, if that ends nothing but an agent of this mirror.
    fn end(&self) {
        if !self.alone || self.pid == std::process::id() as i32 {
            return;
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The number may have been given to another process until a moment ago, not any more.
        if self.lives() {
            // That it ended by itself meanwhile is as good.
            let _ = rustix::process::pidfd_send_signal(&fd, Signal::TERM);
        }
    }
}

/// When a process started, in ticks since boot: with its number it is unique.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets too.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    // A zombie holds no lock and never ends by a signal.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn claim(cache: &Path, mirror: u8) -> Claim {
        Claim {
            mirror: [mirror; 16],
            name: format!("host:/{mirror}"),
            alone: true,
            cache: Some(cache.to_path_buf()),
            wait: Duration::from_millis(100),
        }
    }

    #[test]
    fn one_at_a_time_and_never_against_our_own_process() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let root = Root::open(&tree).unwrap();
        let first = Lock::take(&root, &claim(&cache, 1)).unwrap();
        // Another mirror is told at once, by name; the same one waits, and kills nobody.
        let error = Lock::take(&root, &claim(&cache, 2)).unwrap_err();
        assert_eq!(error, Refusal::Busy("host:/1".into()));
        assert_eq!(Lock::take(&root, &claim(&cache, 1)).unwrap_err(), Refusal::Locked);
        drop(first);
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
        drop(Lock::take(&root, &claim(&cache, 2)).unwrap());
    }

    #[test]
    fn a_file_of_a_process_that_is_gone_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        claim(dir.path(), 3).write(&file).unwrap();
        let holder = Holder::read(&file).unwrap();
        assert!(holder.lives());
        assert!(!Holder { start: holder.start + 1, ..holder.clone() }.lives());
        assert!(!Holder { pid: i32::MAX, ..holder }.lives());
        for text in ["", "zz", "00\n1\n2\nalone\nx", "é"] {
            fs::write(&file, text).unwrap();
            assert_eq!(Holder::read(&file), None, "{text:?}");
        }
    }
}
