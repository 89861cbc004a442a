//! Attributes: reading them, setting them on descriptors, what a target can hold, and the names
//! of users and groups.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use lsync_protocol::entry::{Device, Entry, Kind, Meta, Time};
use lsync_protocol::handshake::Identity;
use lsync_protocol::xattr::Classes;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, StatxAttributes, StatxFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use self::xattr::At;

pub(crate) mod cwd;
pub mod holds;
pub mod names;
pub mod xattr;

pub use holds::holds;
pub use names::{gid_of, group_name, home, uid_of, user_name};

/// What statx says of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What kind of thing it is.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its size as the file system has it, in bytes.
    pub size: u64,
    /// Which device it stands for, of a device file.
    pub device: Option<Device>,
    /// How many names it has.
    pub nlink: u32,
    /// When its content changed.
    pub mtime: Time,
    /// When anything about it changed.
    pub ctime: Time,
    /// The device it is on.
    pub dev: u64,
    /// Its number there.
    pub ino: u64,
    /// The number of the mount; 0 where the kernel does not tell.
    pub mount: u64,
    /// It is the top of a mounted file system.
    pub mount_root: bool,
}

impl Stat {
    /// Which thing it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { dev: self.dev, ino: self.ino }
    }

    /// As an entry; `link` is where a symbolic link points.
    #[must_use]
    pub fn entry(&self, link: Option<Box<[u8]>>) -> Entry {
        let file = self.kind == Kind::File;
        Entry {
            kind: self.kind,
            size: if file { self.size } else { 0 },
            link,
            device: self.device,
            meta: Meta {
                mode: (self.kind != Kind::Symlink).then_some(self.mode),
                uid: Some(self.uid),
                gid: Some(self.gid),
                mtime: Some(self.mtime),
                xattrs: None,
            },
            nlink: if file { self.nlink } else { 1 },
            file: (file && self.nlink > 1).then(|| self.identity()),
        }
    }
}

fn kind_of(mode: u32) -> Kind {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}

/// The device that a device file stands for.
fn device_of(mode: u32, major: u32, minor: u32) -> Option<Device> {
    matches!(kind_of(mode), Kind::CharDevice | Kind::BlockDevice).then_some(Device { major, minor })
}

/// What stands behind a descriptor, one opened for its path only too.
///
/// # Errors
/// The operating system's.
pub fn stat_fd(fd: impl AsFd) -> Result<Stat, Errno> {
    stat(fd.as_fd(), b"", AtFlags::EMPTY_PATH)
}

/// What stands under a name in a directory; a symbolic link is not followed.
///
/// # Errors
/// The operating system's.
pub fn stat_name(dir: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    stat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
}

fn stat(fd: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Stat, Errno> {
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let s = match rustix::fs::statx(fd, name, flags, mask) {
        Err(Errno::NOSYS) => return stat_before_statx(fd, name, flags),
        s => s?,
    };
    let time = |t: rustix::fs::StatxTimestamp| Time { sec: t.tv_sec, nsec: t.tv_nsec };
    Ok(Stat {
        kind: kind_of(u32::from(s.stx_mode)),
        mode: u32::from(s.stx_mode) & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        size: s.stx_size,
        device: device_of(u32::from(s.stx_mode), s.stx_rdev_major, s.stx_rdev_minor),
        nlink: s.stx_nlink,
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
        dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        mount: if s.stx_mask & StatxFlags::MNT_ID.bits() != 0 { s.stx_mnt_id } else { 0 },
        mount_root: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// For kernels before 4.11 and filters that hide statx.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // the widths differ by architecture
fn stat_before_statx(fd: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Stat, Errno> {
    let s = rustix::fs::statat(fd, name, flags)?;
    Ok(Stat {
        kind: kind_of(s.st_mode as u32),
        mode: s.st_mode as u32 & 0o7777,
        uid: s.st_uid,
        gid: s.st_gid,
        size: s.st_size as u64,
        device: device_of(
            s.st_mode as u32,
            rustix::fs::major(s.st_rdev as u64),
            rustix::fs::minor(s.st_rdev as u64),
        ),
        nlink: s.st_nlink as u32,
        mtime: Time { sec: s.st_mtime as i64, nsec: s.st_mtime_nsec as u32 },
        ctime: Time { sec: s.st_ctime as i64, nsec: s.st_ctime_nsec as u32 },
        dev: s.st_dev as u64,
        ino: s.st_ino as u64,
        mount: 0,
        mount_root: false,
    })
}

/// What could not be set because this agent may not; everything else was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// The owner or group stayed.
    pub owner: bool,
    /// The mode stayed.
    pub mode: bool,
    /// Extended attributes or access control lists stayed.
    pub xattrs: bool,
    /// There was no room for some of them, for this reason.
    pub no_room: Option<Errno>,
}

impl Kept {
    /// Did anything stay that should not?
    #[must_use]
    pub fn any(self) -> bool {
        self.owner || self.mode || self.xattrs || self.no_room.is_some()
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Kept) -> Kept {
        Kept {
            owner: self.owner || other.owner,
            mode: self.mode || other.mode,
            xattrs: self.xattrs || other.xattrs,
            no_room: self.no_room.or(other.no_room),
        }
    }
}

/// A file system was met that ignores a modification time which comes alone, as those of FUSE do
/// that do not know of omitted times. Of the process, for what it costs is an access time, at most.
static TOGETHER: AtomicBool = AtomicBool::new(false);

/// Only the modification time; with the time of access, now, where it has no effect alone.
pub(crate) fn times(mtime: Time) -> Timestamps {
    let access = if TOGETHER.load(Ordering::Relaxed) { UTIME_NOW } else { UTIME_OMIT };
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: access },
        last_modification: Timespec {
            tv_sec: mtime.sec,
            // A peer's number above a second would mean "now" or "leave it" to the kernel.
            tv_nsec: mtime.nsec.min(999_999_999).into(),
        },
    }
}

/// The owner and group to ask for: only what differs from what is there.
fn owners(now: &Stat, want: &Meta) -> Option<(Option<Uid>, Option<Gid>)> {
    // All ones means "leave it" to the kernel; as a number from outside it names nobody.
    let uid = want.uid.filter(|&uid| uid != now.uid && uid != u32::MAX).map(Uid::from_raw);
    let gid = want.gid.filter(|&gid| gid != now.gid && gid != u32::MAX).map(Gid::from_raw);
    (uid.is_some() || gid.is_some()).then_some((uid, gid))
}

/// May not, or does not exist here: nothing that goes away by trying again.
fn not_ours(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
}

/// Sets attributes on a descriptor that is open for reading or writing; `now` is what stands there.
/// A change of owner clears the setuid bits and capabilities, so it comes first; extended attributes
/// take the right to write, so they come before the mode; the mode would change an access control
/// list, so that comes after it.
///
/// # Errors
/// The operating system's, except where this agent may not set owner or mode: that is [`Kept`].
pub fn set_fd(fd: impl AsFd, now: &Stat, want: &Meta) -> Result<Kept, Errno> {
    let fd = fd.as_fd();
    let mut kept = Kept::default();
    let mut mode_now = now.mode;
    if let Some((uid, gid)) = owners(now, want) {
        match rustix::fs::fchown(fd, uid, gid) {
            Ok(()) => mode_now &= 0o1777,
            Err(error) if not_ours(error) => {
                kept.owner = true;
                // Of the two, one may be permitted.
                if uid.is_some() && gid.is_some() && rustix::fs::fchown(fd, None, gid).is_ok() {
                    mode_now &= 0o1777;
                }
            }
            Err(error) => return Err(error),
        }
    }
    const PLAIN: Classes = Classes::USER.with(Classes::PRIVILEGED);
    let at = At::open(&fd);
    let mut widened = false;
    let mut names = Vec::new();
    if let Some(xattrs) = &want.xattrs {
        names = xattr::names(&at, xattrs.classes())?;
        let mut set = xattr::set(&at, &names, xattrs, PLAIN)?;
        // Without the right to write not even its owner may.
        if set.xattrs
            && mode_now & 0o200 == 0
            && rustix::fs::fchmod(fd, Mode::from_raw_mode(mode_now | 0o200)).is_ok()
        {
            widened = true;
            set = xattr::set(&at, &names, xattrs, PLAIN)?;
        }
        kept = kept.and(set);
    }
    let mode = want.mode.map(|mode| mode & 0o7777).or(widened.then_some(mode_now));
    if let Some(mode) = mode
        && (widened || mode != mode_now || mode != now.mode)
    {
        match rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)) {
            Ok(()) => {}
            Err(error) if not_ours(error) => kept.mode = true,
            Err(error) => return Err(error),
        }
    }
    if let Some(xattrs) = &want.xattrs {
        kept = kept.and(xattr::set(&at, &names, xattrs, Classes::ACLS)?);
    }
    if let Some(mtime) = want.mtime {
        rustix::fs::futimens(fd, &times(mtime))?;
    }
    Ok(kept)
}

/// Sets attributes of a symbolic link, or of something that cannot be opened, by its name in a
/// directory. Nothing is followed. The mode of such a thing is set by [`set_mode_of`], after which
/// comes [`set_acl_of`].
///
/// # Errors
/// The operating system's, except where this agent may not set the owner: that is [`Kept`].
pub fn set_name(dir: impl AsFd, name: &[u8], now: &Stat, want: &Meta) -> Result<Kept, Errno> {
    let dir = dir.as_fd();
    let mut kept = Kept::default();
    if let Some((uid, gid)) = owners(now, want) {
        match rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) => {}
            Err(error) if not_ours(error) => {
                kept.owner = true;
                if uid.is_some() && gid.is_some() {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    // Of the two, one may be permitted; that the owner stays is said already.
                    let _ = rustix::fs::chownat(dir, name, None, gid, flags);
                }
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(xattrs) = &want.xattrs {
        let plain = Classes::USER.with(Classes::PRIVILEGED);
        let at = At::name(&dir, name);
        kept = kept.and(xattr::set(&at, &xattr::names(&at, plain)?, xattrs, plain)?);
    }
    if let Some(mtime) = want.mtime {
        rustix::fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(kept)
}

/// Sets the mode of something known only by a path descriptor: what we may neither read nor
/// write cannot be opened in any other way.
///
/// # Errors
/// The operating system's.
pub fn set_mode_of(fd: impl AsFd, mode: u32) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // fchmod refuses such a descriptor; its name in /proc leads to that very thing and nowhere
    // else. Without /proc there is no way before fchmodat2 of Linux 6.6.
    let name = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::chmodat(
        rustix::fs::CWD,
        name.as_str(),
        Mode::from_raw_mode(mode & 0o7777),
        AtFlags::empty(),
    )
}

/// Sets the access control lists of something known only by a path descriptor; says whether that
/// was permitted. Setting the mode would change them, so they come after it.
///
/// # Errors
/// The operating system's.
pub fn set_acl_of(fd: impl AsFd, want: &Meta) -> Result<Kept, Errno> {
    let Some(xattrs) = &want.xattrs else { return Ok(Kept::default()) };
    let at = At::path_only(&fd);
    xattr::set(&at, &xattr::names(&at, Classes::ACLS)?, xattrs, Classes::ACLS)
}

/// What keeps even root from changing a thing, in words: chattr(1).
pub(crate) fn locked(fd: impl AsFd) -> Result<Option<&'static str>, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(fd, c"", flags, StatxFlags::TYPE)?.stx_attributes;
    Ok(if found.contains(StatxAttributes::IMMUTABLE) {
        Some("immutable (chattr -i makes it mutable)")
    } else if found.contains(StatxAttributes::APPEND) {
        Some("append-only (chattr -a takes that away)")
    } else {
        None
    })
}

/// The mask that this process takes from the mode of everything it creates.
#[must_use]
pub fn current_umask() -> u32 {
    // Asking the kernel means setting it, and other threads may create files meanwhile.
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim();
            u32::from_str_radix(line, 8).ok()
        })
        .unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn attributes_are_set_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        let now = stat_fd(&file).unwrap();
        let want = Meta {
            mode: Some(0o4751),
            uid: None,
            gid: None,
            mtime: Some(Time { sec: -5, nsec: 123_456_789 }),
            xattrs: None,
        };
        assert_eq!(set_fd(&file, &now, &want), Ok(Kept::default()));
        let then = stat_fd(&file).unwrap();
        assert_eq!((then.mode, then.mtime), (0o4751, Time { sec: -5, nsec: 123_456_789 }));
        if rustix::process::geteuid().is_root() {
            // A change of owner clears the setuid bit, the wanted mode puts it back.
            let want = Meta { uid: Some(1234), gid: Some(4321), ..want };
            set_fd(&file, &then, &want).unwrap();
            let last = stat_fd(&file).unwrap();
            assert_eq!((last.uid, last.gid, last.mode), (1234, 4321, 0o4751));
        }
    }

    #[test]
    fn a_link_is_set_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"x").unwrap();
        symlink("f", dir.path().join("l")).unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let (file, link) = (stat_name(&fd, b"f").unwrap(), stat_name(&fd, b"l").unwrap());
        let want = Meta { mtime: Some(Time { sec: 7, nsec: 8 }), ..Meta::default() };
        set_name(&fd, b"l", &link, &want).unwrap();
        assert_eq!(stat_name(&fd, b"l").unwrap().mtime, Time { sec: 7, nsec: 8 });
        assert_eq!(stat_name(&fd, b"f").unwrap().mtime, file.mtime);
        assert_eq!(link.entry(None).meta.mode, None, "a link has no mode");
    }

    #[test]
    fn what_cannot_be_opened_still_gets_a_mode() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"x").unwrap();
        let root = crate::root::Root::open(dir.path()).unwrap();
        let path = lsync_protocol::path::RelPath::new(&b"f"[..]).unwrap();
        let fd = root.open_name(&path).unwrap();
        set_mode_of(&fd, 0o200).unwrap();
        assert_eq!(root.statx(&path).unwrap().mode, 0o200);
    }
}
