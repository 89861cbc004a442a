//! Extended attributes and access control lists, read and set (xattr(7)).
//!
//! A descriptor that is open for its path only takes none of these calls; its name in /proc leads
//! to that very thing and nowhere else, also where that is a symbolic link.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use lsync_protocol::xattr::{Classes, MAX_BYTES, Xattr, Xattrs};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Kept;

/// Where a thing is, for calls about its attributes.
pub(crate) enum At<'a> {
    /// Open for reading or writing.
    Open(BorrowedFd<'a>),
    /// By a name that leads to it; a symbolic link at its end is not followed.
    Path(CString),
    /// By a name in /proc, whose end is followed.
    Proc(CString),
}

impl<'a> At<'a> {
    /// Something open for reading or writing.
    pub(crate) fn open(fd: &'a impl AsFd) -> At<'a> {
        At::Open(fd.as_fd())
    }

    /// Something open for its path only.
    pub(crate) fn path_only(fd: &impl AsFd) -> At<'static> {
        let name = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
        At::Proc(CString::new(name).unwrap_or_default())
    }

    /// A name in an open directory.
    pub(crate) fn name(dir: &impl AsFd, name: &[u8]) -> At<'static> {
        let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        // A checked name has no NUL; without one it leads nowhere.
        At::Path(CString::new(path).unwrap_or_default())
    }

    /// A name in the working directory.
    pub(crate) fn here(name: &[u8]) -> At<'static> {
        At::Path(CString::new(name).unwrap_or_default())
    }

    fn list(&self, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            At::Open(fd) => rustix::fs::flistxattr(fd, into),
            At::Path(path) => rustix::fs::llistxattr(path, into),
            At::Proc(path) => rustix::fs::listxattr(path, into),
        }
    }

    fn get(&self, name: &[u8], into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            At::Open(fd) => rustix::fs::fgetxattr(fd, name, into),
            At::Path(path) => rustix::fs::lgetxattr(path, name, into),
            At::Proc(path) => rustix::fs::getxattr(path, name, into),
        }
    }

    fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        let flags = XattrFlags::empty();
        match self {
            At::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            At::Path(path) => rustix::fs::lsetxattr(path, name, value, flags),
            At::Proc(path) => rustix::fs::setxattr(path, name, value, flags),
        }
    }

    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        match self {
            At::Open(fd) => rustix::fs::fremovexattr(fd, name),
            At::Path(path) => rustix::fs::lremovexattr(path, name),
            At::Proc(path) => rustix::fs::removexattr(path, name),
        }
    }
}

/// Calls with a buffer that grows until what is asked for fits.
fn whole(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 4096];
    loop {
        match call(&mut buffer) {
            Ok(size) => {
                buffer.truncate(size);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() <= MAX_BYTES => {
                let more = buffer.len() * 8;
                buffer.resize(more, 0);
            }
            Err(Errno::RANGE) => return Err(Errno::TOOBIG),
            Err(error) => return Err(error),
        }
    }
}

/// The names of a thing's attributes that are of these classes.
pub(crate) fn names(at: &At<'_>, classes: Classes) -> Result<Vec<Vec<u8>>, Errno> {
    // Most things have none, or few.
    let mut few = [0; 512];
    let all = match at.list(&mut few) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(size) => few[..size].to_vec(),
        Err(Errno::RANGE) => whole(|into| at.list(into))?,
        Err(error) => return Err(error),
    };
    Ok(all.split(|&b| b == 0).filter(|name| classes.have(name)).map(<[u8]>::to_vec).collect())
}

/// All attributes of these classes; `None` where their values may not be read.
///
/// # Errors
/// The operating system's; E2BIG when there are more than can be carried.
pub(crate) fn read(at: &At<'_>, classes: Classes) -> Result<Option<Xattrs>, Errno> {
    if !classes.any() {
        return Ok(None);
    }
    let mut all = Vec::new();
    for name in names(at, classes)? {
        match whole(|into| at.get(&name, into)) {
            Ok(value) => all.push(Xattr { name, value }),
            // Gone since the names were read.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|b, a| a.name == b.name);
    Xattrs::new(classes, all).map(Some).map_err(|_| Errno::TOOBIG)
}

/// Makes those of some classes what they are to be; says what stayed otherwise because it is not
/// permitted, or because there is no room for it: a file system has far less for them than for
/// content, which is no reason to go without the content. `now` are the names that are there, of
/// these classes at least: whoever sets one class after the other lists them once.
///
/// # Errors
/// The operating system's, but for that.
pub(crate) fn set(
    at: &At<'_>,
    now: &[Vec<u8>],
    want: &Xattrs,
    classes: Classes,
) -> Result<Kept, Errno> {
    let classes = classes.both(want.classes());
    let mut kept = Kept::default();
    if !classes.any() {
        return Ok(kept);
    }
    let mut note = |result: Result<(), Errno>| match result {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
            kept.xattrs = true;
            Ok(())
        }
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG | Errno::RANGE)) => {
            kept.no_room = Some(error);
            Ok(())
        }
        Err(error) => Err(error),
    };
    let wanted = |name: &[u8]| want.all().iter().any(|one| one.name == name);
    for name in now.iter().filter(|name| classes.have(name) && !wanted(name)) {
        note(at.remove(name))?;
    }
    for one in want.all().iter().filter(|one| classes.have(&one.name)) {
        let same = now.contains(&one.name)
            && whole(|into| at.get(&one.name, into)).is_ok_and(|value| value == one.value);
        if !same {
            note(at.set(&one.name, &one.value))?;
        }
    }
    Ok(kept)
}

/// Which classes a file system holds, as far as this process may set them; found out on a file
/// that is open, has no name and will get none.
pub(crate) fn holds(file: &impl AsFd) -> Classes {
    let at = At::open(file);
    let tried = |name: &str, class: Classes| class.only_if(at.set(name.as_bytes(), b"x").is_ok());
    // One entry more than the mode has, or it is not kept.
    let me = rustix::process::geteuid().as_raw();
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, id) in [(1u16, u32::MAX), (2, me), (4, u32::MAX), (0x10, u32::MAX), (0x20, u32::MAX)]
    {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&6u16.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    let acls = at.set(lsync_protocol::xattr::ACL_ACCESS, &list).is_ok();
    tried("user.lsync", Classes::USER)
        .with(tried("trusted.lsync", Classes::PRIVILEGED))
        .with(Classes::ACLS.only_if(acls))
}

/// What this process may read: attributes that take privileges are not shown without them.
#[must_use]
pub fn readable() -> Classes {
    use rustix::thread::CapabilitySet;
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let all = Classes::USER.with(Classes::ACLS).with(Classes::PRIVILEGED.only_if(privileged));
    all.only_if(proc_is_there())
}

/// Can descriptors be named? Without that most attributes cannot be reached.
pub(crate) fn proc_is_there() -> bool {
    rustix::fs::access("/proc/self/fd", rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::meta::stat_fd;
    use std::fs::File;

    const USER: Classes = Classes::USER;

    fn make(at: &At<'_>, want: &Xattrs, classes: Classes) -> Kept {
        set(at, &names(at, classes).unwrap(), want, classes).unwrap()
    }

    fn one(name: &str, value: &[u8]) -> Xattr {
        Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() }
    }

    #[test]
    fn a_set_is_made_what_it_is_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let at = At::open(&file);
        assert_eq!(read(&at, USER).unwrap(), Some(Xattrs::none(USER)));
        assert_eq!(read(&at, Classes::NONE).unwrap(), None);
        let large = vec![7; 3000];
        for all in [
            vec![one("user.a", b"1"), one("user.empty", b""), one("user.large", &large)],
            vec![one("user.a", b"2"), one("user.é", b"3")],
            vec![],
        ] {
            let want = Xattrs::new(USER, all).unwrap();
            assert_eq!(make(&at, &want, USER), Kept::default());
            assert_eq!(read(&at, USER).unwrap().unwrap().all(), want.all());
        }
        // What is there already is not set again: that would change its ctime.
        let want = Xattrs::new(USER, vec![one("user.a", b"1")]).unwrap();
        make(&at, &want, USER);
        let before = stat_fd(&file).unwrap();
        make(&at, &want, USER);
        assert_eq!(stat_fd(&file).unwrap(), before);
        // Of other classes nothing is touched.
        let acls = Xattrs::none(Classes::ACLS);
        make(&at, &acls, Classes::ACLS);
        assert_eq!(read(&at, USER).unwrap(), Some(want));
    }

    #[test]
    fn names_lead_to_the_thing_itself() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        let want = Xattrs::new(USER, vec![one("user.a", b"1")]).unwrap();
        make(&At::open(&file), &want, USER);
        let fd = File::open(dir.path()).unwrap();
        assert_eq!(read(&At::name(&fd, b"f"), USER).unwrap(), Some(want.clone()));
        assert_eq!(read(&At::name(&fd, b"l"), USER).unwrap(), Some(Xattrs::none(USER)));
        let root = crate::root::Root::open(dir.path()).unwrap();
        for (name, seen) in [("f", want), ("l", Xattrs::none(USER))] {
            let path = lsync_protocol::path::RelPath::new(name.as_bytes()).unwrap();
            let only = root.open_name(&path).unwrap();
            assert_eq!(read(&At::path_only(&only), USER).unwrap(), Some(seen), "{name}");
        }
        assert_eq!(read(&At::name(&fd, b"none"), USER).unwrap_err(), Errno::NOENT);
    }
}
