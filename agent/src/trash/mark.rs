//! How a trash is known without `--trash`: it says of itself that it is one, so that a start which
//! forgot the option, or gives another name, does not take it for what the source does not have.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use lsync_protocol::path::RelPath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::each;
use crate::meta;
use crate::root::{PATH_DIR, Root};

/// The file in it that says so.
const NAME: &str = ".lsyncd-trash";
/// No longer than this.
const MAX: u64 = 256;

/// What it says: of this directory alone, since a mirror may bring a copy of a trash elsewhere.
fn text(ino: u64) -> String {
    format!(
        "Kept by lsyncd --trash, and no part of the mirror. Without this file it is.\ninode {ino}\n"
    )
}

/// Says of a directory that it is a trash.
pub(super) fn put(dir: &OwnedFd) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => return Ok(()),
        file => file?,
    };
    let text = text(meta::stat_fd(dir)?.ino);
    let written = File::from(file).write_all(text.as_bytes());
    written.map_err(|error| {
        // Half of it says nothing; the next time it is tried again.
        let _ = rustix::fs::unlinkat(dir, NAME, rustix::fs::AtFlags::empty());
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// The directories in the root that say so of themselves.
pub(crate) fn found(root: &Root) -> Vec<RelPath> {
    let mut found = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let Ok(dir) = root.open_at(b"", flags) else { return found };
    // What cannot be read now is met by the listings.
    let _ = each(&dir, |name| {
        if is_one(root, name)
            && let Ok(name) = RelPath::new(name)
        {
            found.push(name);
        }
        Ok(())
    });
    found
}

fn is_one(root: &Root, name: &[u8]) -> bool {
    let read = || {
        let path = [name, b"/", NAME.as_bytes()].concat();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(root.open_at(&path, flags)?);
        let mut said = String::new();
        let read = file.take(MAX).read_to_string(&mut said);
        read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let dir = root.open_at(name, PATH_DIR)?;
        Ok::<_, Errno>(said == text(meta::stat_fd(dir)?.ino))
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn a_trash_is_known_and_a_copy_of_it_is_none() {
        let tmp = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "plain"] {
            fs::create_dir(tmp.path().join(name)).unwrap();
        }
        fs::write(tmp.path().join("file"), "x").unwrap();
        fs::create_dir(tmp.path().join("c").join(NAME)).unwrap();
        let root = Root::open(tmp.path()).unwrap();
        assert_eq!(found(&root), []);
        let dir = root.open_at(b"a", PATH_DIR).unwrap();
        put(&dir).unwrap();
        put(&dir).unwrap();
        fs::copy(tmp.path().join("a").join(NAME), tmp.path().join("b").join(NAME)).unwrap();
        std::os::unix::fs::symlink("a", tmp.path().join("link")).unwrap();
        assert_eq!(found(&root), [RelPath::new(&b"a"[..]).unwrap()]);
    }
}
