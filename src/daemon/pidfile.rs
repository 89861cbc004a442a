//! The pid file: the process' number, under a lock that says that it still runs.
//!
//! The lock is the process' own (`fcntl`), as Lsyncd 2's is, so each sees the other's. Such a lock
//! does not pass to a child and ends with the first descriptor of the file that the process closes:
//! it is taken by the process that stays, and nobody else here opens the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lsync_protocol::path::Escaped;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::error::{Error, Result};

/// A pid file that is ours; dropped, it is removed.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// The file may be removed by its owner between our opening and locking it: so often it is tried.
const TRIES: u32 = 16;

impl PidFile {
    /// Writes the number of this process to `path`, which is absolute.
    ///
    /// # Errors
    /// If another process holds the file (the error has its number), or it cannot be written.
    pub fn create(path: &Path) -> Result<PidFile> {
        for _ in 0..TRIES {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(path)
                .map_err(|e| cannot("open", path).because(e))?;
            if !file.metadata().is_ok_and(|meta| meta.is_file()) {
                return Err(cannot("use", path).because("not a regular file"));
            }
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                    return Err(taken(&file, path));
                }
                Err(e) => return Err(cannot("lock", path).because(io::Error::from(e))),
            }
            let ours = PidFile { path: path.to_owned(), file };
            if ours.is_there() {
                ours.write().map_err(|e| cannot("write", path).because(e))?;
                return Ok(ours);
            }
        }
        Err(cannot("lock", path).because("it is removed again and again"))
    }

    fn write(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        (&self.file).write_all(format!("{}\n", std::process::id()).as_bytes())
    }

    /// Does the path still lead to the file that we hold?
    fn is_there(&self) -> bool {
        let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(held), Ok(named)) => id(held) == id(named),
            _ => false,
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // What somebody put there instead is not ours to remove.
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn cannot(verb: &str, path: &Path) -> Error {
    let shown = Escaped(path.as_os_str().as_encoded_bytes());
    Error::failed(format!("cannot {verb} the pidfile {shown}"))
}

/// The error for a file that another process holds.
fn taken(file: &File, path: &Path) -> Error {
    let asked = Flock::from(FlockType::WriteLock);
    let holder = fcntl_getlk(file, &asked).ok().flatten().and_then(|lock| lock.pid);
    let number = match holder {
        Some(pid) => Some(pid.as_raw_nonzero().to_string()),
        // A holder in another pid namespace has no number here, except what it wrote.
        None => written(file),
    };
    let holder = number.map_or("another process".to_owned(), |number| format!("process {number}"));
    cannot("lock", path)
        .because(format!("{holder} holds it"))
        .hint("an lsyncd with this pidfile runs already; name another -pidfile for a second one")
}

fn written(file: &File) -> Option<String> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    let number = text.trim_end();
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_number_and_goes_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.pid");
        std::fs::write(&path, "12345678901234567890\nold").unwrap();
        let held = PidFile::create(&path).unwrap();
        let expected = format!("{}\n", std::process::id());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn what_another_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.pid");
        let held = PidFile::create(&path).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::write(&path, "7\n").unwrap();
        drop(held);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7\n");
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/l\n.pid");
        let error = PidFile::create(&path).unwrap_err().to_string();
        let shown = format!("{}/none/l\\n.pid", dir.path().display());
        assert_eq!(error, format!("cannot open the pidfile {shown}: no such file or directory"));
        let error = PidFile::create(Path::new("/dev/null")).unwrap_err().to_string();
        assert_eq!(error, "cannot use the pidfile /dev/null: not a regular file");
    }
}
