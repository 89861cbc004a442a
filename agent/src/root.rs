//! `Root`: everything beneath one directory, and nothing else.
//!
//! The directory is opened once. Every path is then resolved beneath that descriptor by openat2
//! with `RESOLVE_BENEATH|NO_SYMLINKS|NO_MAGICLINKS`, so neither a symbolic link nor a directory
//! that is renamed meanwhile leads outside. Where the kernel has no openat2 (before 5.6, qemu, some
//! seccomp filters) the components are walked one by one with `O_NOFOLLOW`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lsync_protocol::handshake::Identity;
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::Classes;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::fault::{Call, OnDemand};
use crate::meta::{self, Stat};

pub mod lock;

/// How paths are resolved beneath a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// By openat2, the kernel's own confinement.
    Kernel,
    /// Component by component, each without following a link.
    Walk,
}

/// One directory and everything beneath it.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    identity: Identity,
    mount: u64,
    resolve: Resolve,
    xattrs: Classes,
    faults: OnDemand,
}

/// The kernel refuses longer paths in one call (`PATH_MAX`); they are resolved in pieces.
const ONE_CALL: usize = 4000;

/// How often openat2 is asked again when a rename got in its way.
const AGAIN: usize = 128;

/// A directory, for nothing but resolving beneath it.
pub(crate) const PATH_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

impl Root {
    /// Opens a directory as a root. Links in `path` itself are followed: it is the user's word.
    ///
    /// # Errors
    /// The operating system's, when it cannot be opened or is not a directory.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Root> {
        let mut root = Root::open_with(path, Resolve::Kernel)?;
        // A seccomp filter that does not know openat2 answers EPERM rather than ENOSYS. Later an
        // EPERM can mean something else, so this is settled once.
        if let Err(Errno::NOSYS | Errno::PERM) = root.open_at(b".", PATH_DIR) {
            root.resolve = Resolve::Walk;
        }
        Ok(root)
    }

    /// Opens a directory as a root, with a given way to resolve paths beneath it.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_with(path: impl AsRef<Path>, resolve: Resolve) -> io::Result<Root> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let stat = meta::stat_fd(&fd)?;
        Ok(Root {
            fd,
            path: path.to_path_buf(),
            identity: stat.identity(),
            mount: stat.mount,
            resolve,
            xattrs: Classes::NONE,
            faults: OnDemand::default(),
        })
    }

    /// The same open directory once more, as it was found.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn again(&self) -> io::Result<Root> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        let Root { path, identity, mount, resolve, xattrs, .. } = self;
        let path = path.clone();
        Ok(Root {
            fd,
            path,
            identity: *identity,
            mount: *mount,
            resolve: *resolve,
            xattrs: *xattrs,
            faults: self.faults.clone(),
        })
    }

    /// Looks and listings tell of extended attributes of these classes, too. Without, of none.
    #[must_use]
    pub fn with_xattrs(self, xattrs: Classes) -> Root {
        Root { xattrs, ..self }
    }

    /// Looks, listings and reads fail when these say so.
    #[must_use]
    pub fn with_faults(self, faults: OnDemand) -> Root {
        Root { faults, ..self }
    }

    /// Says whether a call about a path beneath the root fails.
    pub(crate) fn fault(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        self.faults.before(call, path)
    }

    /// The faults, for whoever goes on without the root.
    pub(crate) fn faults(&self) -> &OnDemand {
        &self.faults
    }

    /// Of which extended attributes looks and listings tell.
    #[must_use]
    pub fn xattrs(&self) -> Classes {
        self.xattrs
    }

    /// Which directory it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The number of the mount it is on; 0 where the kernel does not tell.
    #[must_use]
    pub fn mount(&self) -> u64 {
        self.mount
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Does this path still lead to this very directory? A look that found nothing means
    /// "missing" only if it does.
    ///
    /// # Errors
    /// When it cannot be told; a path that leads nowhere is `Ok(false)`.
    pub fn same_as(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path.as_ref(), flags, Mode::empty()) {
            Ok(fd) => Ok(meta::stat_fd(&fd)?.identity() == self.identity),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a directory beneath the root to read its names.
    ///
    /// # Errors
    /// ENOENT or ENOTDIR when there is none, also where a symbolic link stands or is on the way.
    pub fn open_dir(&self, dir: &RelPath) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        Ok(self.open_at(dir.as_bytes(), flags).map_err(no_link)?)
    }

    /// Opens something beneath the root. `O_NOFOLLOW` and `O_CLOEXEC` are added.
    ///
    /// # Errors
    /// ELOOP where a symbolic link stands at the path or on the way to it; else the operating
    /// system's.
    pub fn open_file(&self, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(self.open_at(path.as_bytes(), flags | OFlags::NOFOLLOW)?)
    }

    /// What stands at a path beneath the root; a symbolic link is not followed.
    ///
    /// # Errors
    /// ENOENT or ENOTDIR when there is nothing.
    pub fn statx(&self, path: &RelPath) -> io::Result<Stat> {
        Ok(meta::stat_fd(&self.open_name(path)?)?)
    }

    /// A descriptor of whatever stands at a path, good for attributes only.
    pub(crate) fn open_name(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        self.open_at(path.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW).map_err(no_link)
    }

    /// A descriptor of a directory, to resolve names in it.
    pub(crate) fn open_parent(&self, dir: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_at(dir, PATH_DIR).map_err(no_link)
    }

    /// Opens checked bytes beneath the root. An empty path is the root itself.
    pub(crate) fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        if path.is_empty() {
            return rustix::fs::openat(&self.fd, c".", flags, Mode::empty());
        }
        let mut from: Option<OwnedFd> = None;
        let mut rest = path;
        while rest.len() > ONE_CALL {
            let cut = rest[..ONE_CALL].iter().rposition(|&b| b == b'/');
            let cut = cut.ok_or(Errno::NAMETOOLONG)?;
            let fd = self.resolve(from.as_ref(), &rest[..cut], PATH_DIR | OFlags::CLOEXEC)?;
            from = Some(fd);
            rest = &rest[cut + 1..];
        }
        self.resolve(from.as_ref(), rest, flags)
    }

    fn resolve(
        &self,
        from: Option<&OwnedFd>,
        path: &[u8],
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let from = from.unwrap_or(&self.fd).as_fd();
        match self.resolve {
            Resolve::Kernel => by_kernel(from, path, flags),
            Resolve::Walk => by_walk(from, path, flags),
        }
    }

    /// The root, then every directory above it: where it stands.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn upwards(&self) -> io::Result<Vec<Identity>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut all = vec![self.identity];
        let mut at = rustix::fs::openat(&self.fd, c".", flags, Mode::empty())?;
        // Deeper than any path can be; only a kernel that lies goes on.
        for _ in 0..32 * 1024 {
            let above = rustix::fs::openat(&at, c"..", flags, Mode::empty())?;
            let stat = meta::stat_fd(&above)?;
            if all.last() == Some(&stat.identity()) {
                break;
            }
            all.push(stat.identity());
            at = above;
        }
        Ok(all)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where a directory is wanted, a symbolic link is simply no directory.
fn no_link(error: Errno) -> Errno {
    if error == Errno::LOOP { Errno::NOTDIR } else { error }
}

fn by_kernel(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..AGAIN {
        match rustix::fs::openat2(from, path, flags, Mode::empty(), how) {
            // A rename or mount somewhere got in the way of the check: nothing is wrong.
            Err(Errno::AGAIN) => std::thread::yield_now(),
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

fn by_walk(from: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = path.split(|&b| b == b'/').peekable();
    let mut at: Option<OwnedFd> = None;
    loop {
        let name = names.next().ok_or(Errno::INVAL)?;
        let last = names.peek().is_none();
        let flags = if last { flags | OFlags::NOFOLLOW } else { PATH_DIR | OFlags::CLOEXEC };
        let dir = at.as_ref().map_or(from, AsFd::as_fd);
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        if last {
            return Ok(fd);
        }
        at = Some(fd);
    }
}

/// The id of this boot of this host: another one, and what was not synced may be gone.
///
/// # Errors
/// When `/proc` does not tell it.
pub fn boot_id() -> io::Result<[u8; 16]> {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id")?;
    let mut id = [0; 16];
    let mut digits = 0;
    for byte in text {
        let Some(digit) = char::from(byte).to_digit(16) else { continue };
        let Some(slot) = id.get_mut(digits / 2) else { break };
        *slot = *slot << 4 | digit as u8;
        digits += 1;
    }
    if digits == 32 { Ok(id) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
}

/// A path as bytes, as the wire has it.
#[must_use]
pub fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn both(dir: &Path) -> [Root; 2] {
        [Root::open(dir).unwrap(), Root::open_with(dir, Resolve::Walk).unwrap()]
    }

    #[test]
    fn no_link_leads_outside_and_none_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), b"x").unwrap();
        fs::write(inside.join("a/b/file"), b"x").unwrap();
        symlink(&outside, inside.join("out")).unwrap();
        symlink("a", inside.join("in")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        for root in both(&inside) {
            assert!(root.open_dir(&path("a/b")).is_ok());
            assert!(root.open_dir(&RelPath::root()).is_ok());
            assert_eq!(
                root.statx(&path("out")).unwrap().kind,
                lsync_protocol::entry::Kind::Symlink
            );
            for bad in ["out", "in", "magic", "a/b/file", "out/secret", "in/b"] {
                let error = root.open_dir(&path(bad)).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(Errno::NOTDIR.raw_os_error()), "{bad}");
            }
            for bad in ["out/secret", "in/b/file"] {
                assert!(root.open_file(&path(bad), OFlags::RDONLY).is_err(), "{bad}");
                assert!(root.statx(&path(bad)).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn paths_longer_than_one_call_takes_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let name = "n".repeat(200);
        let root = Root::open(dir.path()).unwrap();
        let (mut at, mut long) = (root.open_at(b"", PATH_DIR).unwrap(), RelPath::root());
        for _ in 0..50 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
            let flags = PATH_DIR | OFlags::CLOEXEC;
            at = rustix::fs::openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
            long = long.join(name.as_bytes()).unwrap();
        }
        assert!(long.as_bytes().len() > 10_000);
        for root in both(dir.path()) {
            assert_eq!(
                root.statx(&long).unwrap().identity(),
                meta::stat_fd(&at).unwrap().identity()
            );
        }
    }

    #[test]
    fn a_root_knows_whether_it_is_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        fs::create_dir(&inside).unwrap();
        let root = Root::open(&inside).unwrap();
        assert!(root.same_as(&inside).unwrap());
        let up = root.upwards().unwrap();
        assert_eq!(up[0], root.identity());
        assert_eq!(up[1], Root::open(dir.path()).unwrap().identity());
        assert_eq!(up.last().copied(), Some(Root::open("/").unwrap().identity()));
        fs::rename(&inside, dir.path().join("moved")).unwrap();
        assert!(!root.same_as(&inside).unwrap());
        fs::create_dir(&inside).unwrap();
        assert!(!root.same_as(&inside).unwrap());
        assert_ne!(boot_id().unwrap(), [0; 16]);
    }
}
