//! Transfers: the content of large files, a few at a time, in pieces.
//!
//! A stage has no path: content flows under a number, and only when all of it is there does the
//! mirror say what it is called by then. So a rename above a file in flight waits for nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lsync_agent::meta::Stat;
use lsync_agent::read::{FileReader, Finish, ReadError};
use lsync_protocol::entry::{Kind, Meta, Time};
use lsync_protocol::frame;
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{Hash, Message, Op};
use lsync_protocol::path::RelPath;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::build::{Large, fresh};
use super::incoming::not_taken;
use super::outgoing::Bulk;
use super::{Shared, locked};
use crate::carrier::{Carried, NotBuilt};
use crate::error::plain;

/// Files being brought at a time; they share the link fairly.
const AT_ONCE: usize = 4;
/// Pieces read in one go.
const PIECES: usize = 4;

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

/// What one go of reading gave.
struct Go {
    reader: FileReader,
    /// Frames, and the bytes of content in each.
    frames: Vec<(Vec<u8>, u32)>,
    /// Set at the end of the last pass: whether the file was settled.
    end: Option<bool>,
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
        FileReader::open(&root, &path).map_err(Stopped::from)
    });
    let reader = opened.await?;
    // Given back when the operation that names it is acked, or when it is aborted.
    let Ok(open) = shared.stages.acquire().await else { return Err(Stopped::Link) };
    let hint = file.path.parent().unwrap_or_default();
    put(bulk, &Message::Open { stage, hint, size: reader.entry().size }).await?;
    // While one go is being written, the next one is read.
    let mut reading = read_on(reader, stage, shared);
    let result = loop {
        if shared.finishing.load(Ordering::Relaxed) {
            return Err(Stopped::Link);
        }
        if locked(&shared.cancelled).remove(&file.id) {
            break Err(Stopped::Here(NotBuilt::Vanished));
        }
        if let Some(why) = locked(&shared.broken).remove(&stage) {
            break Err(Stopped::There(why));
        }
        let Go { reader, frames, end } = match reading.await.unwrap_or(Err(Stopped::Link)) {
            Ok(go) => go,
            Err(stopped) => break Err(stopped),
        };
        let next = match end {
            None => Ok(read_on(reader, stage, shared)),
            Some(settled) => Err((reader, settled)),
        };
        for (frame, bytes) in frames {
            let Ok(permit) = shared.bulk.acquire_many(bytes).await else {
                return Err(Stopped::Link);
            };
            permit.forget();
            bulk.send(Bulk { frame, written: None }).await.map_err(|_| Stopped::Link)?;
        }
        match next {
            Ok(next) => reading = next,
            Err(end) => break Ok(end),
        }
    };
    let (reader, settled) = match result {
        Ok(done) => done,
        Err(stopped) => {
            put(bulk, &Message::Abort { stage }).await?;
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
        file: reader.identity(),
        mtime: reader.entry().meta.mtime,
        size: reader.entry().size,
        meta: fresh(file.meta, reader.entry()),
        hash: reader.hash(),
        replaces: file.replaces,
    };
    locked(&shared.staged).insert(file.id, staged);
    open.forget();
    Ok(settled)
}

/// Begins to read the next few pieces.
fn read_on(
    reader: FileReader,
    stage: u32,
    shared: &Arc<Shared>,
) -> JoinHandle<Result<Go, Stopped>> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || go(reader, stage, &shared))
}

/// Reads a few pieces, going on to the next pass where the file changed.
fn go(mut reader: FileReader, stage: u32, shared: &Shared) -> Result<Go, Stopped> {
    let unreadable = |error: std::io::Error| {
        let why = format!("cannot be read: {}", plain(&error.to_string()));
        Stopped::Here(NotBuilt::Failed(why))
    };
    let mut frames = Vec::new();
    while frames.len() < PIECES {
        if let Some((offset, piece)) = reader.next_piece().map_err(unreadable)? {
            let mut bytes = shared.buffer();
            bytes.reserve(piece.len() + 64);
            frame::encode(&Message::Data { stage, offset }, piece.len(), &mut bytes);
            bytes.extend_from_slice(piece);
            frames.push((bytes, piece.len() as u32));
            continue;
        }
        let end = match reader.finish().map_err(unreadable)? {
            Finish::Settled => true,
            Finish::Unsettled => false,
            Finish::Again => {
                reader.again().map_err(unreadable)?;
                continue;
            }
        };
        return Ok(Go { reader, frames, end: Some(end) });
    }
    Ok(Go { reader, frames, end: None })
}

async fn put(bulk: &mpsc::Sender<Bulk>, message: &Message) -> Result<(), Stopped> {
    let mut bytes = Vec::new();
    frame::encode(message, 0, &mut bytes);
    bulk.send(Bulk { frame: bytes, written: None }).await.map_err(|_| Stopped::Link)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Stopped::Link))
}
