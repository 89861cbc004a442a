//! The versions of large files that were put in place on this link, and what their blocks are: the
//! next change needs not read them.
//!
//! What stands under a name is a version while nobody else touched it. Its stamp (inode, size, and
//! both times) tells: a version is only remembered where its modification time, which the source
//! gave it, is another than that of its last change, which the kernel gave it. Whoever writes to it
//! afterwards, be it in the same tick of the clock, gives both the same time.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lsync_protocol::message::OpId;

use super::chains::{Blocks, KEPT_BLOCKS};
use crate::meta::Stat;

/// The most bytes of chaining values kept.
const KEPT_BYTES: usize = 64 << 20;

/// Kernel file systems that keep times by this host's clock, and whose attributes are not a cached
/// copy of another host's: tmpfs, ext, xfs, btrfs, f2fs, bcachefs, zfs, overlay.
const LOCAL: [u64; 8] = [
    0x0102_1994,
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x794c_7630,
];

/// Do times and sizes here tell of every change?
pub(super) fn is_local(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|found| LOCAL.contains(&(found.f_type as u64 & 0xffff_ffff)))
}

/// One version.
#[derive(Debug)]
struct Version {
    /// What put it there.
    id: OpId,
    stamp: Stat,
    blocks: Arc<Blocks>,
    /// When it was last of use.
    used: u64,
}

impl Version {
    fn bytes(&self) -> usize {
        size_of::<Version>() + size_of_val(&self.blocks.chains[..])
    }
}

#[derive(Debug, Default)]
struct State {
    /// By device and inode.
    by: HashMap<(u64, u64), Version>,
    bytes: usize,
    clock: u64,
}

/// The versions of one link.
#[derive(Debug, Default)]
pub(crate) struct Versions(Mutex<State>);

impl Versions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This was put in place, and has these blocks. `before` is how it was under its temporary name,
    /// where nobody else wrote to it.
    pub(crate) fn put(&self, id: OpId, file: &OwnedFd, before: &Stat, blocks: Blocks) {
        let Ok(stamp) = crate::meta::stat_fd(file) else { return };
        let untouched = before.size == stamp.size && before.mtime == stamp.mtime;
        let few = blocks.chains.len() as u64 <= KEPT_BLOCKS;
        // Asked of the file system before the lock is taken.
        let good = untouched && few && telling(&stamp) && is_local(file);
        self.set(id, stamp, good.then_some(blocks));
    }

    /// This stood there before, and has these blocks; it has rested so long that each change of it
    /// gives it another time.
    pub(super) fn adopt(&self, id: OpId, stamp: Stat, blocks: Blocks) -> bool {
        let few = blocks.chains.len() as u64 <= KEPT_BLOCKS;
        self.set(id, stamp, few.then_some(blocks));
        few
    }

    fn set(&self, id: OpId, stamp: Stat, blocks: Option<Blocks>) {
        let mut state = self.lock();
        state.forget(&stamp);
        let Some(blocks) = blocks else { return };
        state.clock += 1;
        let used = state.clock;
        let version = Version { id, stamp, blocks: Arc::new(blocks), used };
        state.bytes += version.bytes();
        state.by.insert((stamp.dev, stamp.ino), version);
        if state.bytes > KEPT_BYTES {
            state.shrink();
        }
    }

    /// The blocks of what looks like this, if it is that version, untouched.
    pub(crate) fn find(&self, id: OpId, now: &Stat) -> Option<Arc<Blocks>> {
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        let version = state.by.get_mut(&(now.dev, now.ino))?;
        if version.id != id || !same(&version.stamp, now) {
            return None;
        }
        version.used = used;
        Some(version.blocks.clone())
    }

    /// We changed its name or attributes ourselves: if it was a version before, it still is one.
    pub(crate) fn changed(&self, before: &Stat, after: impl FnOnce() -> Option<Stat>) {
        let mut state = self.lock();
        let key = (before.dev, before.ino);
        let Some(version) = state.by.get_mut(&key) else { return };
        if same(&version.stamp, before)
            && let Some(after) = after()
            && after.identity() == before.identity()
            && (after.size, after.mtime) == (before.size, before.mtime)
            && telling(&after)
        {
            version.stamp = after;
        } else {
            state.forget(before);
        }
    }
}

impl State {
    fn forget(&mut self, stat: &Stat) {
        if let Some(version) = self.by.remove(&(stat.dev, stat.ino)) {
            self.bytes -= version.bytes();
        }
    }

    /// Drops what was of no use for longest, a quarter at a time.
    fn shrink(&mut self) {
        let mut used: Vec<(u64, (u64, u64))> =
            self.by.iter().map(|(key, version)| (version.used, *key)).collect();
        used.sort_unstable();
        for (_, key) in used {
            if self.bytes <= KEPT_BYTES / 4 * 3 {
                break;
            }
            if let Some(version) = self.by.remove(&key) {
                self.bytes -= version.bytes();
            }
        }
    }
}

/// Would every later write show?
fn telling(stat: &Stat) -> bool {
    stat.mtime != stat.ctime
}

fn same(a: &Stat, b: &Stat) -> bool {
    a.identity() == b.identity() && (a.size, a.mtime, a.ctime) == (b.size, b.mtime, b.ctime)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::meta::stat_fd;
    use std::fs::File;
    use std::io::Write;
    use std::time::{Duration, UNIX_EPOCH};

    fn blocks(count: usize) -> Blocks {
        Blocks { block: 1 << 14, chains: vec![[7; 32]; count] }
    }

    fn old(file: &File) -> Stat {
        file.set_modified(UNIX_EPOCH + Duration::from_secs(5)).unwrap();
        stat_fd(file).unwrap()
    }

    #[test]
    fn a_version_is_one_until_somebody_else_touches_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create(dir.path().join("f")).unwrap();
        let fd = OwnedFd::from(file.try_clone().unwrap());
        let now = || stat_fd(&fd).unwrap();
        let versions = Versions::default();
        // Just written: a write in the same tick would not show.
        file.write_all(b"content").unwrap();
        versions.put(3, &fd, &now(), blocks(2));
        assert_eq!(versions.find(3, &now()), None);

        let before = old(&file);
        versions.put(3, &fd, &before, blocks(2));
        assert!(versions.find(3, &now()).is_some());
        assert_eq!(versions.find(4, &now()), None, "another version");
        // Our own change of its name.
        let before = now();
        std::fs::rename(dir.path().join("f"), dir.path().join("g")).unwrap();
        versions.changed(&before, || Some(now()));
        assert!(versions.find(3, &now()).is_some());
        // Somebody else's write, which leaves the size.
        std::os::unix::fs::FileExt::write_at(&file, b"C", 0).unwrap();
        assert_eq!(versions.find(3, &now()), None);
        // It is none any more, whatever is done to it.
        let before = now();
        versions.changed(&before, || Some(old(&file)));
        assert_eq!(versions.find(3, &now()), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let versions = Versions::default();
        let count = 1 << 17;
        let files: Vec<OwnedFd> = (0..40)
            .map(|n| {
                let file = File::create(dir.path().join(n.to_string())).unwrap();
                let before = old(&file);
                let fd = OwnedFd::from(file);
                versions.put(n, &fd, &before, blocks(count));
                fd
            })
            .collect();
        assert!(versions.lock().bytes <= KEPT_BYTES);
        let known = |n: usize| versions.find(n as u64, &stat_fd(&files[n]).unwrap()).is_some();
        assert!(known(39) && !known(0));
        let kept = (0..40).filter(|&n| known(n)).count();
        assert!(kept * count * 32 > KEPT_BYTES / 2, "{kept}");
    }
}
