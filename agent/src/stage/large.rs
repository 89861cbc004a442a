//! A stage: content that comes in pieces, before anybody says where it belongs.
//!
//! The pieces are written by one thread in the order they came. A commit waits until everything
//! that came before it is written; on the wire that is everything it needs.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use blake3::Hasher;
use lsync_protocol::message::{Hash, Trouble};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::{Fresh, Names, write_at};
use crate::fault::Call;
use crate::trouble::{said, trouble};

/// One stage.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Its number on the wire.
    pub(crate) id: u32,
    /// Pieces that came and are not yet written.
    waiting: Mutex<usize>,
    written: Condvar,
    content: Mutex<Content>,
    /// Stages that exist, this one among them.
    alive: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Content {
    /// Not yet opened.
    None,
    Here(Box<Here>),
    /// It cannot be taken any more.
    Failed(Trouble),
}

/// What is written so far.
#[derive(Debug)]
pub(crate) struct Here {
    /// Under its temporary name.
    pub(crate) fresh: Fresh,
    /// Open for reading and writing.
    pub(crate) file: OwnedFd,
    hint: RelPath,
    hasher: Hasher,
    /// Everything before this was hashed; `None` when pieces came out of order.
    hashed: Option<u64>,
    /// The end of the last piece.
    end: u64,
}

const ZEROS: &[u8] = &[0; 64 * 1024];

impl Stage {
    pub(crate) fn new(id: u32, alive: &Arc<AtomicUsize>) -> Arc<Stage> {
        alive.fetch_add(1, Ordering::Relaxed);
        Arc::new(Stage {
            id,
            waiting: Mutex::new(0),
            written: Condvar::new(),
            content: Mutex::new(Content::None),
            alive: alive.clone(),
        })
    }

    /// Something for it came; [`Stage::finished_one`] follows when it is done.
    pub(crate) fn expect_one(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// What came before is done.
    pub(crate) fn finished_one(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.written.notify_all();
    }

    /// Creates the temporary file in a directory.
    pub(crate) fn open(
        &self,
        names: &Arc<Names>,
        dir: Result<Arc<OwnedFd>, Errno>,
        hint: &RelPath,
    ) -> Result<(), Trouble> {
        let opened = dir.and_then(|dir| Fresh::quiet_file(names, &dir, 0o600));
        let (content, done) = match opened {
            Ok((fresh, file)) => {
                let here = Here {
                    fresh,
                    file,
                    hint: hint.clone(),
                    hasher: Hasher::new(),
                    hashed: Some(0),
                    end: 0,
                };
                (Content::Here(Box::new(here)), Ok(()))
            }
            Err(error) => (Content::Failed(trouble(error)), Err(trouble(error))),
        };
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = content;
        done
    }

    /// Writes a piece. An error is said once; what comes after it is dropped.
    pub(crate) fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        stop: &AtomicBool,
        fault: impl Fn(Call, &RelPath) -> Result<(), Errno>,
    ) -> Result<(), Trouble> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let Content::Here(here) = &mut *content else { return Ok(()) };
        let written = fault(Call::Write, &here.hint)
            .and_then(|()| write_at(&here.file, bytes, offset))
            .map_err(trouble);
        if let Err(error) = written {
            *content = Content::Failed(error.clone());
            return Err(error);
        }
        here.end = here.end.max(offset + bytes.len() as u64);
        here.hashed = here.hashed.filter(|&hashed| hashed <= offset).and_then(|hashed| {
            zeros(&mut here.hasher, offset - hashed, stop)?;
            here.hasher.update(bytes);
            Some(offset + bytes.len() as u64)
        });
        Ok(())
    }

    /// Removes what is there.
    pub(crate) fn abort(&self) {
        let gone = said("the stage was given up");
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = Content::Failed(gone);
    }

    /// Waits until everything that came is written, and takes it out: a stage ends with this.
    pub(crate) fn take(&self, stop: &AtomicBool) -> Result<Box<Here>, Trouble> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while *waiting > 0 {
            if stop.load(Ordering::Relaxed) {
                return Err(said("the link ended"));
            }
            let tick = Duration::from_millis(100);
            let waited = self.written.wait_timeout(waiting, tick);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(waiting);
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *content, Content::None) {
            Content::Here(here) => Ok(here),
            Content::Failed(trouble) => Err(trouble),
            Content::None => Err(said("a stage without content")),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Here {
    /// Makes it exactly `size` bytes long and checks its hash.
    pub(crate) fn check(
        &mut self,
        size: u64,
        hash: &Hash,
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        if self.end != size {
            rustix::fs::ftruncate(&self.file, size).map_err(trouble)?;
        }
        let found = match self.hashed.filter(|&hashed| hashed <= size) {
            Some(hashed) => zeros(&mut self.hasher, size - hashed, stop)
                .map(|()| *self.hasher.finalize().as_bytes()),
            // Pieces came twice or out of order: what counts is what lies there now.
            None => self.read_back(size, stop)?,
        };
        match found {
            None => Err(said("the link ended")),
            Some(found) if found == *hash => Ok(()),
            Some(_) => Err(said("the content does not match its hash")),
        }
    }

    fn read_back(&self, size: u64, stop: &AtomicBool) -> Result<Option<Hash>, Trouble> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 * 1024];
        let mut at = 0;
        while at < size {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let most =
                usize::try_from(size - at).map_or(buffer.len(), |rest| rest.min(buffer.len()));
            match rustix::io::pread(&self.file, &mut buffer[..most], at) {
                Ok(0) => return Err(trouble(Errno::IO)),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    at += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(trouble(error)),
            }
        }
        Ok(Some(*hasher.finalize().as_bytes()))
    }
}

/// Hashes so many zeros; `None` when the link ended meanwhile: the number is the peer's, and may
/// be any.
fn zeros(hasher: &mut Hasher, mut count: u64, stop: &AtomicBool) -> Option<()> {
    while count > 0 {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let step = count.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..step as usize]);
        count -= step;
    }
    Some(())
}
