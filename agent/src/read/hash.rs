//! The hash of a file's content: what both sides compare where the content itself need not travel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lsync_protocol::message::Hashed;
use lsync_protocol::path::RelPath;

use super::{PASSES, Pass, ReadError, compare, open, read_at, sequential};
use crate::meta;
use crate::root::Root;
use crate::trouble::{io_trouble, said, trouble};

/// So much is read at a time.
const STEP: usize = 256 * 1024;
/// What rests does so after so much work.
const WORK: Duration = Duration::from_millis(20);

/// Whether reading leaves room for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calm {
    /// As fast as it goes.
    No,
    /// As much rest as work.
    Yes,
}

/// Rests as long as it has worked.
struct Rest {
    calm: Calm,
    since: Instant,
}

impl Rest {
    fn now_and_then(&mut self) {
        let worked = self.since.elapsed();
        if self.calm == Calm::Yes && worked >= WORK {
            std::thread::sleep(worked.min(WORK * 10));
            self.since = Instant::now();
        }
    }
}

/// What this file holds, under this key. A file that is being written to is read again; one that
/// grows is [`Hashed::Changing`], since its content is not known before it rests. `None`: it was
/// told to stop.
#[must_use]
pub fn hash(
    root: &Root,
    path: &RelPath,
    key: &[u8; 32],
    calm: Calm,
    stop: &AtomicBool,
) -> Option<Hashed> {
    let mut rest = Rest { calm, since: Instant::now() };
    for _ in 0..PASSES {
        match pass(root, path, key, &mut rest, stop) {
            Ok(Some(Hashed::Changing)) => {}
            Ok(done) => return done,
            Err(ReadError::Missing | ReadError::NotFile(_)) => return Some(Hashed::NoFile),
            Err(ReadError::Trouble(error)) => return Some(Hashed::Trouble(io_trouble(&error))),
            Err(error @ ReadError::TooLarge(_)) => {
                return Some(Hashed::Trouble(said(error.to_string())));
            }
        }
    }
    Some(Hashed::Changing)
}

fn pass(
    root: &Root,
    path: &RelPath,
    key: &[u8; 32],
    rest: &mut Rest,
    stop: &AtomicBool,
) -> Result<Option<Hashed>, ReadError> {
    let (fd, before) = open(root, path)?;
    if before.size > STEP as u64 {
        sequential(&fd);
    }
    let mut hasher = blake3::Hasher::new_keyed(key);
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < before.size {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let step = (before.size - at).min(STEP as u64) as usize;
        if let Err(error) = read_at(&fd, at, step, &mut buffer) {
            return Ok(Some(Hashed::Trouble(trouble(error))));
        }
        if buffer.is_empty() {
            break;
        }
        hasher.update(&buffer);
        at += buffer.len() as u64;
        rest.now_and_then();
    }
    let settled = compare(&before, &meta::stat_fd(&fd)?) == Pass::Settled && at == before.size;
    Ok(Some(match settled {
        true => Hashed::Is(at, *hasher.finalize().as_bytes()),
        false => Hashed::Changing,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn a_hash_is_that_of_the_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(dir.path().join("a"), &content).unwrap();
        fs::write(dir.path().join("b"), &content).unwrap();
        fs::write(dir.path().join("empty"), b"").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("l")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let stop = AtomicBool::new(false);
        let of = |name: &str, key: u8, calm| {
            hash(&root, &RelPath::new(name.as_bytes()).unwrap(), &[key; 32], calm, &stop).unwrap()
        };
        let keyed = *blake3::keyed_hash(&[1; 32], &content).as_bytes();
        assert_eq!(of("a", 1, Calm::No), Hashed::Is(700_000, keyed));
        assert_eq!(of("b", 1, Calm::Yes), of("a", 1, Calm::No));
        assert_ne!(of("a", 2, Calm::No), of("a", 1, Calm::No));
        let nothing = *blake3::keyed_hash(&[1; 32], b"").as_bytes();
        assert_eq!(of("empty", 1, Calm::No), Hashed::Is(0, nothing));
        for other in ["d", "l", "missing"] {
            assert_eq!(of(other, 1, Calm::No), Hashed::NoFile, "{other}");
        }
        stop.store(true, Ordering::Relaxed);
        let path = RelPath::new(&b"a"[..]).unwrap();
        assert_eq!(hash(&root, &path, &[1; 32], Calm::No, &stop), None);
    }
}
