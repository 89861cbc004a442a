//! What a target can hold: whether files may be given away, to which groups, how fine its times
//! are, and what else its file system keeps. All of it is tried on a file of our own; nothing of
//! that stays, and the root keeps its time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use lsync_protocol::entry::{Holds, Keeps, Kind, Time};
use lsync_protocol::path::stage_name;
use lsync_protocol::xattr::Classes;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::meta::{Stat, TOGETHER, stat_fd, stat_name, times, xattr};
use crate::root::Root;

/// File systems whose times are coarse, by their number, and how coarse, in nanoseconds.
const COARSE: &[(u64, u32)] = &[
    (VFAT, 2_000_000_000),
    (EXFAT, 10_000_000),
    (0x5346_544e, 100),      // ntfs
    (0x7366_746e, 100),      // ntfs3
    (0xff53_4d42, 100),      // cifs
    (0xfe53_4d42, 100),      // smb2
    (0x4244, 1_000_000_000), // hfs
    (0x482b, 1_000_000_000), // hfs+
    (0x9660, 1_000_000_000), // iso9660
];

/// File systems that take names differing only in case for one.
const FOLDING: &[u64] = &[VFAT, EXFAT, 0x5346_544e, 0xff53_4d42, 0xfe53_4d42, 0x4244, 0x482b];

/// File systems that keep content and times, and nothing else.
const PLAIN: &[u64] = &[VFAT, EXFAT];

const VFAT: u64 = 0x4d44;
const EXFAT: u64 = 0x2011_bab0;

/// What can be held beneath a root; without one, what this process could hold at best. It is tried on
/// a file, `mirror` being the number in its temporary names; without that number nothing is created.
#[must_use]
pub fn holds(root: Option<&Root>, mirror: Option<u32>) -> Holds {
    let may =
        |what| rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(what));
    let own_group = rustix::process::getegid().as_raw();
    let mut groups: Vec<u32> =
        rustix::process::getgroups().unwrap_or_default().iter().map(|g| g.as_raw()).collect();
    groups.push(own_group);
    groups.sort_unstable();
    groups.dedup();
    let kind = root.and_then(|root| rustix::fs::fstatfs(root).ok()).map(|s| s.f_type as u64);
    let kind = kind.map(|kind| kind & 0xffff_ffff);
    let is = |kinds: &[u64]| kind.is_some_and(|kind| kinds.contains(&kind));
    let name_max = root
        .and_then(|root| rustix::fs::fstatvfs(root).ok())
        .and_then(|s| u32::try_from(s.f_namemax).ok())
        .filter(|&most| most > 0)
        .unwrap_or(255);
    let plain = is(PLAIN);
    let keeps = Keeps {
        modes: !plain,
        symlinks: !plain,
        specials: !plain,
        hard_links: !plain,
        ..Keeps::ALL
    };
    let mut holds = Holds {
        chown: may(CapabilitySet::CHOWN),
        groups,
        own_user: rustix::process::geteuid().as_raw(),
        own_group,
        xattrs: Classes::NONE,
        devices: may(CapabilitySet::MKNOD),
        time_granularity: COARSE
            .iter()
            .find(|(k, _)| Some(*k) == kind)
            .map_or(1, |(_, granularity)| *granularity),
        keeps,
        folds_case: is(FOLDING),
        name_max,
    };
    // Where nothing may be created nothing can be tried.
    match root.zip(mirror).and_then(|(root, mirror)| Probe::new(root, mirror)) {
        Some(probe) => probe.try_all(&mut holds),
        None if plain => {
            holds.chown = false;
            holds.groups = Vec::new();
        }
        None => {}
    }
    holds.devices &= holds.keeps.specials;
    holds
}

/// A file to try things on. It has no name, except where the file system knows no such files; then
/// it has one for a moment, and its directory gets its time back.
struct Probe<'a> {
    root: &'a Root,
    file: OwnedFd,
    named: Option<Named>,
}

struct Named {
    name: String,
    other: String,
    /// As the directory was before.
    before: Option<Stat>,
}

impl Probe<'_> {
    fn new(root: &Root, mirror: u32) -> Option<Probe<'_>> {
        let open = |name: &str, how| {
            let flags = how | OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::openat(root.as_fd(), name, flags, Mode::from_raw_mode(0o600))
        };
        match open(".", OFlags::TMPFILE) {
            Ok(file) => return Some(Probe { root, file, named: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {}
            Err(_) => return None,
        }
        let before = stat_fd(root).ok();
        // Another link's probe may stand there, and a dead one will be swept.
        let first = std::process::id().wrapping_mul(0x9e37_79b1);
        let free = |number: u32| {
            let name = stage_name(mirror, number);
            let file = open(&name, OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW).ok()?;
            Some((name, file))
        };
        let (name, file) = (0..4).find_map(|n| free(first.wrapping_add(2 * n)))?;
        let other = stage_name(mirror, first.wrapping_add(1));
        Some(Probe { root, file, named: Some(Named { name, other, before }) })
    }

    fn stat(&self) -> Option<Stat> {
        stat_fd(&self.file).ok()
    }

    fn try_all(&self, holds: &mut Holds) {
        let Some(first) = self.stat() else { return };
        // Not us where a server takes us for somebody else.
        holds.own_user = first.uid;
        if xattr::proc_is_there() {
            holds.xattrs = xattr::holds(&self.file);
        }
        if let Some(granularity) = self.granularity() {
            holds.time_granularity = granularity;
        }
        self.range(&mut holds.keeps);
        // One after the other: a file may happen to have either.
        holds.keeps.modes = [0o604, 0o640].into_iter().all(|mode| {
            let set = rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode));
            set.is_ok() && self.stat().is_some_and(|now| now.mode == mode)
        });
        let give = |uid: Option<u32>, gid: Option<u32>| {
            let (owner, group) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
            rustix::fs::fchown(&self.file, owner, group).is_ok()
                && self.stat().is_some_and(|now| {
                    uid.is_none_or(|uid| uid == now.uid) && gid.is_none_or(|gid| gid == now.gid)
                })
        };
        let other = if first.uid == 1 { 2 } else { 1 };
        holds.chown &= give(Some(other), None);
        if !holds.chown
            && let Some(group) = holds.groups.iter().copied().find(|&group| group != first.gid)
            && !give(None, Some(group))
        {
            holds.groups = Vec::new();
            holds.own_group = first.gid;
        }
        match &self.named {
            Some(named) => self.try_names(named, holds),
            None => holds.folds_case |= folds(self.root),
        }
    }

    /// What becomes of a time that is as fine as can be.
    fn granularity(&self) -> Option<u32> {
        let wanted = Time { sec: 1_000_000_001, nsec: 123_456_789 };
        let is_set = |found: &Time| (0..=2).contains(&(wanted.sec - found.sec));
        let mut found = self.time(wanted)?;
        if !is_set(&found) {
            let alone = TOGETHER.swap(true, Ordering::Relaxed);
            found = self.time(wanted)?;
            if !is_set(&found) {
                // That is not why.
                TOGETHER.store(alone, Ordering::Relaxed);
                return None;
            }
        }
        Some(granularity(wanted, found))
    }

    /// The first and the last time: the kernel takes the nearest for what lies beyond.
    fn range(&self, keeps: &mut Keeps) {
        const FAR: i64 = 1 << 36;
        const USUAL: i64 = 1_000_000_000;
        let of = |sec| self.time(Time { sec, nsec: 0 }).map(|found| found.sec);
        if let Some(found) = of(-FAR).filter(|found| (-FAR + 1..USUAL).contains(found)) {
            keeps.earliest = found;
        }
        if let Some(found) = of(FAR).filter(|found| (USUAL + 1..FAR).contains(found)) {
            keeps.latest = found;
        }
    }

    fn time(&self, wanted: Time) -> Option<Time> {
        rustix::fs::futimens(&self.file, &times(wanted)).ok()?;
        self.stat().map(|now| now.mtime)
    }

    /// What takes a name to be tried.
    fn try_names(&self, named: &Named, holds: &mut Holds) {
        let dir = self.root.as_fd();
        holds.folds_case = stat_name(dir, named.name.to_ascii_uppercase().as_bytes()).is_ok();
        let is = |kind, made: Result<(), Errno>| {
            let found = stat_name(dir, named.other.as_bytes());
            // Some make a file, and say that they failed.
            let _ = rustix::fs::unlinkat(dir, &*named.other, AtFlags::empty());
            match made {
                Ok(()) => found.is_ok_and(|found| found.kind == kind),
                // No room, or somebody was quicker: that says nothing.
                Err(error) => matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::EXIST),
            }
        };
        holds.keeps.symlinks = is(Kind::Symlink, rustix::fs::symlinkat("x", dir, &*named.other));
        let mode = Mode::from_raw_mode(0o600);
        let fifo = rustix::fs::mknodat(dir, &*named.other, FileType::Fifo, mode, 0);
        holds.keeps.specials = is(Kind::Fifo, fifo);
        let link = rustix::fs::linkat(dir, &*named.name, dir, &*named.other, AtFlags::empty());
        holds.keeps.hard_links = is(Kind::File, link);
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let Some(named) = &self.named else { return };
        let dir = self.root.as_fd();
        // What cannot be removed is dead, and swept by a listing.
        let _ = rustix::fs::unlinkat(dir, &*named.name, AtFlags::empty());
        if let Some(before) = named.before {
            // Where the directory is not ours, its time is not either.
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let _ = rustix::fs::utimensat(dir, ".", &times(before.mtime), flags);
        }
    }
}

/// Does a directory say of itself that it folds names, as those of ext4 and f2fs do?
fn folds(root: &Root) -> bool {
    const CASEFOLD: u32 = 0x4000_0000;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root.as_fd(), ".", flags, Mode::empty())
        .and_then(|dir| rustix::fs::ioctl_getflags(&dir))
        .is_ok_and(|flags| flags.bits() & CASEFOLD != 0)
}

/// The coarsest of the usual granularities that explains what became of a time.
fn granularity(wanted: Time, found: Time) -> u32 {
    [1, 100, 1000, 1_000_000, 10_000_000, 1_000_000_000]
        .into_iter()
        .find(|&granularity| wanted.truncated(granularity) == found)
        .unwrap_or(2_000_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_root_is_not_touched_by_the_question() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let before = stat_fd(&root).unwrap();
        let holds = holds(Some(&root), Some(7));
        assert_eq!(
            holds.keeps,
            Keeps { earliest: holds.keeps.earliest, latest: holds.keeps.latest, ..Keeps::ALL }
        );
        assert!(holds.keeps.earliest < 0 && holds.keeps.latest >= i64::from(i32::MAX));
        assert_eq!(stat_fd(&root).unwrap(), before);
        assert_eq!((holds.time_granularity, holds.name_max), (1, 255));
        assert!(holds.groups.contains(&holds.own_group));
        assert_eq!(holds.chown, rustix::process::geteuid().is_root());
    }

    #[test]
    fn granularities_are_told_from_one_time() {
        let wanted = Time { sec: 1_000_000_001, nsec: 123_456_789 };
        let table = [
            ((1_000_000_001, 123_456_789), 1),
            ((1_000_000_001, 123_456_700), 100),
            ((1_000_000_001, 120_000_000), 10_000_000),
            ((1_000_000_001, 0), 1_000_000_000),
            ((1_000_000_000, 0), 2_000_000_000),
        ];
        for ((sec, nsec), want) in table {
            assert_eq!(granularity(wanted, Time { sec, nsec }), want);
        }
    }
}
