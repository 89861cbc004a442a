//! A stage: content that comes in pieces, before anybody says where it belongs.
//!
//! The pieces are written by one thread in the order they came. A commit waits until everything
//! that came before it is written; on the wire that is everything it needs.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lsync_protocol::message::{Hash, MAX_ASKS, Trouble};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::base::Base;
use super::chains::{Blocks, Running};
use super::copy::Copies;
use super::{Fresh, Names, spread, write_at};
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
    pub(super) content: Mutex<Content>,
    /// What a former link left of it, and up to where.
    kept: OnceLock<(OwnedFd, u64)>,
    based: Mutex<Based>,
    opened: Condvar,
    /// Bytes of a block that sums at the same offset were asked for; 0 before.
    block: AtomicU32,
    /// Questions for sums that are not answered.
    asks: AtomicUsize,
    /// It was given up, or is being committed: nobody wants to know more about its base.
    over: AtomicBool,
    /// Stages that exist, this one among them.
    alive: Arc<AtomicUsize>,
}

/// What it is based on.
#[derive(Debug)]
enum Based {
    /// Nothing, as far as we were told.
    No,
    /// What is not opened yet.
    Soon,
    /// A file; `None` when there is none.
    On(Option<Arc<Base>>),
}

#[derive(Debug)]
pub(super) enum Content {
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
    /// Where it will probably be wanted.
    pub(super) hint: RelPath,
    /// The content so far; `None` when pieces came out of order, or from a base.
    pub(super) running: Option<Running>,
    /// The end of the last piece.
    pub(super) end: u64,
    /// What was copied.
    pub(super) copies: Copies,
    /// Known when it is taken, or something is borrowed from it.
    pub(super) base: Option<Arc<Base>>,
}

/// How much is read at a time, by each thread.
const STEP: u64 = 128 * 1024;
/// How much is read before the threads are joined.
const ROUND: u64 = 64 << 20;

pub(super) const ZEROS: &[u8] = &[0; 64 * 1024];

impl Stage {
    pub(crate) fn new(id: u32, alive: &Arc<AtomicUsize>) -> Arc<Stage> {
        alive.fetch_add(1, Ordering::Relaxed);
        Arc::new(Stage {
            id,
            waiting: Mutex::new(0),
            written: Condvar::new(),
            content: Mutex::new(Content::None),
            kept: OnceLock::new(),
            based: Mutex::new(Based::No),
            opened: Condvar::new(),
            block: AtomicU32::new(0),
            asks: AtomicUsize::new(0),
            over: AtomicBool::new(false),
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

    /// Creates the temporary file in a directory. If it is to be written into its base, what stays
    /// there is not copied.
    pub(crate) fn open(
        &self,
        names: &Arc<Names>,
        dir: Result<Arc<OwnedFd>, Errno>,
        hint: &RelPath,
        size: u64,
        inplace: bool,
    ) -> Result<(), Trouble> {
        let opened = dir.and_then(|dir| Fresh::quiet_file(names, &dir, 0o600));
        let (content, done) = match opened {
            Ok((fresh, file)) => {
                let here = Here {
                    fresh,
                    file,
                    hint: hint.clone(),
                    running: Some(Running::new(size)),
                    end: 0,
                    copies: Copies::new(inplace),
                    base: None,
                };
                (Content::Here(Box::new(here)), Ok(()))
            }
            Err(error) => (Content::Failed(trouble(error)), Err(trouble(error))),
        };
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = content;
        done
    }

    /// Goes on with the temporary file that a former link may have left for this path: how much there
    /// is.
    pub(crate) fn resume(
        &self,
        names: &Arc<Names>,
        dir: Result<Arc<OwnedFd>, Errno>,
        path: &RelPath,
        size: u64,
        inplace: bool,
    ) -> Result<u64, Trouble> {
        let opened = dir.and_then(|dir| Fresh::resumed(names, &dir, path)).and_then(|opened| {
            let (fresh, file, kept) = opened;
            let again = rustix::io::fcntl_dupfd_cloexec(&file, 0)?;
            Ok((fresh, file, kept, again))
        });
        let (content, done) = match opened {
            Ok((fresh, file, kept, again)) => {
                if kept > 0 {
                    // Nobody else sets it.
                    let _ = self.kept.set((again, kept));
                }
                let here = Here {
                    fresh,
                    file,
                    hint: path.parent().unwrap_or_default(),
                    running: (kept == 0).then(|| Running::new(size)),
                    end: kept,
                    copies: Copies::new(inplace),
                    base: None,
                };
                (Content::Here(Box::new(here)), Ok(kept))
            }
            Err(error) => (Content::Failed(trouble(error)), Err(trouble(error))),
        };
        *self.content.lock().unwrap_or_else(PoisonError::into_inner) = content;
        done
    }

    /// What a former link left of it, and up to where.
    pub(crate) fn kept(&self) -> Option<(&OwnedFd, u64)> {
        self.kept.get().map(|(file, size)| (file, *size))
    }

    /// It gets a base, the first one or another where nothing was found. `false`: it has one.
    pub(crate) fn expect_base(&self) -> bool {
        let mut based = self.based.lock().unwrap_or_else(PoisonError::into_inner);
        let none = matches!(*based, Based::No | Based::On(None));
        if none {
            *based = Based::Soon;
        }
        none
    }

    /// Was it to have a base?
    pub(crate) fn expects_base(&self) -> bool {
        !matches!(*self.based.lock().unwrap_or_else(PoisonError::into_inner), Based::No)
    }

    /// This is its base.
    pub(crate) fn set_base(&self, base: Option<Arc<Base>>) {
        *self.based.lock().unwrap_or_else(PoisonError::into_inner) = Based::On(base);
        self.opened.notify_all();
    }

    /// Its base, when it is opened.
    pub(crate) fn base(&self, stop: &AtomicBool) -> Option<Arc<Base>> {
        let mut based = self.based.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*based {
                Based::No => return None,
                Based::On(base) => return base.clone(),
                Based::Soon if stop.load(Ordering::Relaxed) => return None,
                Based::Soon => {}
            }
            let tick = Duration::from_millis(100);
            based = self.opened.wait_timeout(based, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn opened_base(&self) -> Option<Arc<Base>> {
        match &*self.based.lock().unwrap_or_else(PoisonError::into_inner) {
            Based::On(base) => base.clone(),
            Based::No | Based::Soon => None,
        }
    }

    /// Sums at the same offset are asked for blocks of this size. `false`: they were asked for
    /// blocks of another one.
    pub(crate) fn same_block(&self, block: u32) -> bool {
        let before = self.block.swap(block, Ordering::Relaxed);
        before == 0 || before == block
    }

    /// Sums are asked. `false`: too many questions are without an answer.
    pub(crate) fn expect_sums(&self) -> bool {
        self.asks.fetch_add(1, Ordering::Relaxed) < MAX_ASKS
    }

    /// The answer to one question is about to leave.
    pub(crate) fn answered_sums(&self) {
        self.asks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Nobody wants to know more about its base.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Is it given up, or being committed?
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
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
            .map_err(trouble)
            .and_then(|()| here.touch(offset, bytes.len() as u64, stop))
            .and_then(|()| write_at(&here.file, bytes, offset).map_err(trouble));
        if let Err(error) = written {
            *content = Content::Failed(error.clone());
            return Err(error);
        }
        here.end = here.end.max(offset + bytes.len() as u64);
        // What comes out of order will be read in the end.
        here.running = here.running.take().and_then(|mut running| {
            let before = offset.checked_sub(running.at())?;
            running.zeros(before, stop)?;
            running.update(bytes)?;
            Some(running)
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
            Content::Here(mut here) => {
                here.base = self.opened_base();
                Ok(here)
            }
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
    /// Makes it exactly `size` bytes long and checks its hash. Gives its blocks, if there are
    /// several.
    pub(crate) fn check(
        &mut self,
        size: u64,
        hash: &Hash,
        stop: &AtomicBool,
        fault: impl Fn(Call) -> Result<(), Errno> + Sync,
    ) -> Result<Option<Blocks>, Trouble> {
        self.own_end(size, stop)?;
        if self.end != size {
            rustix::fs::ftruncate(&self.file, size).map_err(trouble)?;
        }
        let running = self.running.take().filter(|running| running.at() <= size);
        let came = running.and_then(|mut running| {
            running.zeros(size - running.at(), stop)?;
            Some(running.finish())
        });
        let (found, blocks) = match came {
            Some(came) => came,
            // Pieces came twice, out of order or from a base: what counts is what lies there now.
            None => match self.compose(size, stop, &fault)? {
                Some(composed) => composed,
                None => self.read_back(size, stop, &fault)?,
            },
        };
        if found == *hash { Ok(blocks) } else { Err(said("the content does not match its hash")) }
    }

    /// Hashes what lies there, by several threads but for what makes the end.
    fn read_back(
        &self,
        size: u64,
        stop: &AtomicBool,
        fault: &(impl Fn(Call) -> Result<(), Errno> + Sync),
    ) -> Result<(Hash, Option<Blocks>), Trouble> {
        let mut running = Running::new(size);
        let block = u64::from(running.block());
        let whole = size.saturating_sub(1) / block * block;
        while running.at() < whole {
            let range = running.at()..(running.at() + ROUND.max(block)).min(whole);
            let chains = spread::chains(running.block(), range, |range| {
                let mut part = Running::part(running.block(), range.start);
                self.read_run(range.end, &mut part, stop, fault)?;
                Ok(part.into_chains())
            })?;
            running.blocks(chains).ok_or_else(|| trouble(Errno::FBIG))?;
        }
        self.read_run(size, &mut running, stop, fault)?;
        Ok(running.finish())
    }

    /// Hashes on up to `end`.
    fn read_run(
        &self,
        end: u64,
        running: &mut Running,
        stop: &AtomicBool,
        fault: &impl Fn(Call) -> Result<(), Errno>,
    ) -> Result<(), Trouble> {
        let mut buffer = vec![0; STEP.min(end - running.at()) as usize];
        while running.at() < end {
            if stop.load(Ordering::Relaxed) {
                return Err(said("the link ended"));
            }
            let step = STEP.min(end - running.at()) as usize;
            let part = &mut buffer[..step];
            let read = fault(Call::Check).and_then(|()| self.read(running.at(), part));
            read.map_err(trouble)?;
            running.update(part).ok_or_else(|| trouble(Errno::FBIG))?;
        }
        Ok(())
    }
}
