//! What a target can hold: whether files may be given away, to which groups, and how fine its
//! times are. Found out without changing anything, its root's own time included.

use std::os::fd::AsFd;

use lsync_protocol::entry::{Holds, Time};
use lsync_protocol::xattr::Classes;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::thread::CapabilitySet;

use crate::meta::{stat_fd, xattr};
use crate::root::Root;

/// File systems whose times are coarse, by their number, and how coarse, in nanoseconds.
const COARSE: &[(u64, u32)] = &[
    (0x4d44, 2_000_000_000),   // vfat
    (0x2011_bab0, 10_000_000), // exfat
    (0x5346_544e, 100),        // ntfs
    (0x7366_746e, 100),        // ntfs3
    (0xff53_4d42, 100),        // cifs
    (0xfe53_4d42, 100),        // smb2
    (0x4244, 1_000_000_000),   // hfs
    (0x482b, 1_000_000_000),   // hfs+
    (0x9660, 1_000_000_000),   // iso9660
];

/// File systems that take names differing only in case for one.
const FOLDING: &[u64] =
    &[0x4d44, 0x2011_bab0, 0x5346_544e, 0xff53_4d42, 0xfe53_4d42, 0x4244, 0x482b];

/// What can be held beneath a root; without one, what this process could hold at best.
#[must_use]
pub fn holds(root: Option<&Root>) -> Holds {
    let may =
        |what| rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(what));
    let chown = may(CapabilitySet::CHOWN);
    let own_group = rustix::process::getegid().as_raw();
    let mut groups: Vec<u32> =
        rustix::process::getgroups().unwrap_or_default().iter().map(|g| g.as_raw()).collect();
    groups.push(own_group);
    groups.sort_unstable();
    groups.dedup();
    let kind = root.and_then(|root| rustix::fs::fstatfs(root).ok()).map(|s| s.f_type as u64);
    let kind = kind.map(|kind| kind & 0xffff_ffff);
    let name_max = root
        .and_then(|root| rustix::fs::fstatvfs(root).ok())
        .and_then(|s| u32::try_from(s.f_namemax).ok())
        .filter(|&most| most > 0)
        .unwrap_or(255);
    Holds {
        chown,
        groups,
        own_group,
        xattrs: root.map(try_xattrs).unwrap_or_default(),
        devices: may(CapabilitySet::MKNOD),
        time_granularity: root.and_then(try_times).unwrap_or_else(|| {
            COARSE.iter().find(|(k, _)| Some(*k) == kind).map_or(1, |(_, granularity)| *granularity)
        }),
        folds_case: kind.is_some_and(|kind| FOLDING.contains(&kind)),
        name_max,
    }
}

/// Tries which extended attributes can be set. Nothing can be tried where nothing may be created
/// without a name, and nothing be found where /proc is missing.
fn try_xattrs(root: &Root) -> Classes {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(root.as_fd(), c".", flags, Mode::from_raw_mode(0o600)) {
        Ok(file) if xattr::proc_is_there() => xattr::holds(&file),
        _ => Classes::NONE,
    }
}

/// Sets a time on a file that has no name and looks what became of it. `None` where such files
/// are not known, or nothing may be created.
fn try_times(root: &Root) -> Option<u32> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root.as_fd(), c".", flags, Mode::from_raw_mode(0o600)).ok()?;
    let wanted = Time { sec: 1_000_000_001, nsec: 123_456_789 };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: wanted.sec, tv_nsec: wanted.nsec.into() },
    };
    rustix::fs::futimens(&fd, &times).ok()?;
    Some(granularity(wanted, stat_fd(&fd).ok()?.mtime))
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
        let holds = holds(Some(&root));
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
