//! Transfers: the content of large files, a few at a time, in pieces.
//!
//! A stage has no path: content flows under a number, and only when all of it is there does the
//! mirror say what it is called by then. So a rename above a file in flight waits for nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lsync_agent::meta::Stat;
use lsync_agent::read::{FileReader, ReadError};
use lsync_protocol::delta::block;
use lsync_protocol::entry::{Entry, Kind, Meta, Time};
use lsync_protocol::frame;
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{Hash, Message, Op, OpId};
use lsync_protocol::path::RelPath;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

mod delta;
mod whole;

use super::build::{Large, fresh};
use super::incoming::not_taken;
use super::outgoing::Bulk;
use super::{Shared, locked};
use crate::carrier::{Carried, NotBuilt};
use crate::error::plain;

/// Files being brought at a time; they share the link fairly.
const AT_ONCE: usize = 4;

/// Content that is complete on the target and has no name yet.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) stage: u32,
    /// The name under which it was opened.
    opened: RelPath,
    /// The file that was read, and its time before the first byte was.
    file: Identity,
    mtime: Option<Time>,
    size: u64,
    meta: Meta,
    hash: Hash,
    replaces: Option<Kind>,
    /// Some of it was copied from what stood there before.
    pub(super) from_base: bool,
}

impl Staged {
    /// May it be called so, where this stands under that name? What was read is a content that its
    /// own name had. Under another name, which it got meanwhile, it has to be all of the file that
    /// stands there: that name never had the half that was read while the file was written.
    pub(super) fn may_be(&self, path: &RelPath, now: Option<&Stat>) -> bool {
        *path == self.opened
            || now.is_some_and(|now| {
                now.identity() == self.file
                    && now.size == self.size
                    && Some(now.mtime) == self.mtime
            })
    }

    /// The operation that names it.
    pub(super) fn op(self, path: RelPath) -> Op {
        let Staged { stage, size, meta, hash, replaces, .. } = self;
        let commit = Op::Commit { path, stage, size, meta, hash };
        match replaces {
            Some(old) => Op::Replace { old, new: Box::new(commit) },
            None => commit,
        }
    }
}

/// Brings large files until there are no more orders.
pub(super) async fn bring(
    mut files: mpsc::UnboundedReceiver<Large>,
    bulk: mpsc::Sender<Bulk>,
    events: mpsc::Sender<Carried>,
    shared: Arc<Shared>,
) {
    let mut running: JoinSet<()> = JoinSet::new();
    let mut next_stage: u32 = 0;
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            file = files.recv(), if open && running.len() < AT_ONCE => match file {
                Some(file) => {
                    next_stage = next_stage.wrapping_add(1);
                    let stage = next_stage;
                    let (bulk, events, shared) = (bulk.clone(), events.clone(), Arc::clone(&shared));
                    running.spawn(async move {
                        let id = file.id;
                        let brought = one(file, stage, &bulk, &shared).await;
                        locked(&shared.bringing).remove(&id);
                        locked(&shared.cancelled).remove(&id);
                        let said = match brought {
                            Ok(settled) => {
                                if !settled {
                                    let _ = events.send(Carried::Unsettled { id }).await;
                                }
                                Carried::Staged { id }
                            }
                            Err(Stopped::Link) => return,
                            Err(Stopped::Here(why)) => Carried::NotBuilt { id, why },
                            Err(Stopped::There(why)) => not_taken(id, why),
                        };
                        let _ = events.send(said).await;
                    });
                }
                None => open = false,
            },
            _ = running.join_next(), if !running.is_empty() => {}
        }
    }
}

/// Why a file was not brought.
enum Stopped {
    /// The link is lost.
    Link,
    /// It could not be read, or is not wanted any more.
    Here(NotBuilt),
    /// The agent cannot take it.
    There(String),
}

impl From<ReadError> for Stopped {
    fn from(error: ReadError) -> Stopped {
        Stopped::Here(match error {
            ReadError::Missing | ReadError::NotFile(_) => NotBuilt::Vanished,
            error => NotBuilt::Failed(format!("cannot be read: {}", plain(&error.to_string()))),
        })
    }
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Stopped {
        let why = format!("cannot be read: {}", plain(&error.to_string()));
        Stopped::Here(NotBuilt::Failed(why))
    }
}

/// The way of one file.
#[derive(Clone)]
struct Lane {
    id: OpId,
    stage: u32,
    bulk: mpsc::Sender<Bulk>,
    shared: Arc<Shared>,
}

impl Lane {
    /// A message that takes no credit.
    async fn say(&self, message: &Message) -> Result<(), Stopped> {
        let mut frame = Vec::new();
        frame::encode(message, 0, &mut frame);
        self.bulk.send(Bulk { frame, written: None }).await.map_err(|_| Stopped::Link)
    }

    /// A frame of content, when there is credit for it.
    async fn send(&self, frame: Vec<u8>, cost: u32) -> Result<(), Stopped> {
        let Ok(permit) = self.shared.bulk.acquire_many(cost).await else {
            return Err(Stopped::Link);
        };
        permit.forget();
        self.bulk.send(Bulk { frame, written: None }).await.map_err(|_| Stopped::Link)
    }

    /// Is the file still wanted, and can the agent take it?
    fn go_on(&self) -> Result<(), Stopped> {
        if self.shared.finishing.load(Ordering::Relaxed) {
            return Err(Stopped::Link);
        }
        if locked(&self.shared.cancelled).remove(&self.id) {
            return Err(Stopped::Here(NotBuilt::Vanished));
        }
        match locked(&self.shared.broken).remove(&self.stage) {
            Some(why) => Err(Stopped::There(why)),
            None => Ok(()),
        }
    }

    /// Frames with a piece of content, and what each costs.
    fn frames(&self, offset: u64, piece: &[u8]) -> Vec<(Vec<u8>, u32)> {
        self.shared.content(self.stage, offset, piece).collect()
    }
}

/// A file whose content is complete in its stage.
struct Brought {
    /// It did not change while it was read.
    settled: bool,
    file: Identity,
    entry: Entry,
    hash: Hash,
    from_base: bool,
}

impl Brought {
    fn of(reader: &FileReader, settled: bool, from_base: bool) -> Result<Brought, Stopped> {
        // Without all of its blocks there is no hash; it was read to its end.
        let hash = reader.hash().ok_or(Stopped::Here(NotBuilt::Vanished))?;
        let (file, entry) = (reader.identity(), reader.entry().clone());
        Ok(Brought { settled, file, entry, hash, from_base })
    }
}

async fn one(
    file: Large,
    stage: u32,
    bulk: &mpsc::Sender<Bulk>,
    shared: &Arc<Shared>,
) -> Result<bool, Stopped> {
    let source = Arc::clone(&shared.source);
    let path = file.path.clone();
    let opened = blocking(move || {
        let root = source.root().map_err(|_| Stopped::Here(NotBuilt::Vanished))?;
        FileReader::open(&root, &path, block).map_err(Stopped::from)
    });
    let reader = opened.await?;
    // Given back when the operation that names it is acked, or when it is aborted.
    let Ok(open) = shared.stages.acquire().await else { return Err(Stopped::Link) };
    let hint = file.path.parent().unwrap_or_default();
    let size = reader.entry().size;
    let lane = Lane { id: file.id, stage, bulk: bulk.clone(), shared: Arc::clone(shared) };
    lane.say(&Message::Open { stage, hint, size }).await?;
    let may_have_base = file.base
        && shared.far
        && size >= delta::SMALLEST
        && !locked(&shared.whole).remove(&file.path);
    let brought =
        if may_have_base { delta::bring(&lane, &file.path, reader).await } else { Ok(Err(reader)) };
    let brought = match brought {
        Ok(Err(reader)) => whole::bring(&lane, reader).await,
        Ok(Ok(brought)) => Ok(brought),
        Err(stopped) => Err(stopped),
    };
    let brought = match brought {
        Ok(brought) => brought,
        Err(Stopped::Link) => return Err(Stopped::Link),
        Err(stopped) => {
            lane.say(&Message::Abort { stage }).await?;
            return Err(stopped);
        }
    };
    // Its name may only be given when all of it is before that on the wire.
    let (written, left) = oneshot::channel();
    let last = Bulk { frame: Vec::new(), written: Some(written) };
    bulk.send(last).await.map_err(|_| Stopped::Link)?;
    left.await.map_err(|_| Stopped::Link)?;
    let staged = Staged {
        stage,
        opened: file.path,
        file: brought.file,
        mtime: brought.entry.meta.mtime,
        size: brought.entry.size,
        meta: fresh(file.meta, &brought.entry),
        hash: brought.hash,
        replaces: file.replaces,
        from_base: brought.from_base,
    };
    locked(&shared.staged).insert(file.id, staged);
    open.forget();
    Ok(brought.settled)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Stopped::Link))
}
