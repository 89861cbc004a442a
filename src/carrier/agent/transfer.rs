//! Transfers: the content of large files, a few at a time, in pieces.
//!
//! A stage has no path: content flows under a number, and only when all of it is there does the
//! mirror say what it is called by then. So a rename above a file in flight waits for nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lsync_agent::meta::Stat;
use lsync_agent::read::{FileReader, ReadError};
use lsync_protocol::delta::block;
use lsync_protocol::delta::search::Index;
use lsync_protocol::entry::{Entry, Kind, Meta, Time};
use lsync_protocol::frame;
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{Hash, Message, Op, OpId};
use lsync_protocol::path::RelPath;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

mod append;
mod delta;
mod whole;

use super::base::Silent;
use super::build::{Large, fresh};
use super::incoming::not_taken;
use super::outgoing::Bulk;
use super::squeeze::Grain;
use super::versions::{Proof, Version, now};
use super::{Shared, locked};
use crate::carrier::{Carried, NotBuilt};
use crate::error::plain;

/// Files being brought at a time, smaller ones and others; all share the link fairly.
const AT_ONCE: [usize; 2] = [4, 4];
/// A smaller one has at most so many bytes: it does not wait for those of many minutes.
const SMALLER: u64 = 8 << 20;

/// Content that is complete on the target and has no name yet.
#[derive(Debug)]
pub(super) struct Staged {
    stage: u32,
    body: Body,
    /// The name under which it was opened.
    opened: RelPath,
    /// The source's time before the first byte was read.
    mtime: Option<Time>,
    meta: Meta,
    hash: Hash,
    replaces: Option<Kind>,
    version: Version,
}

/// How content gets to the target.
#[derive(Debug)]
enum Body {
    /// All of it is in the stage; some of it was copied from what stood there before.
    Whole { from_base: bool },
    /// What is behind a version of this size is in the stage, or here.
    Rest { version: OpId, from: u64, bytes: Option<Vec<u8>> },
}

impl Staged {
    /// May it be called so, where this stands under that name? What was read is a content that its
    /// own name had. Under another name, which it got meanwhile, it has to be all of the file that
    /// stands there: that name never had the half that was read while the file was written.
    pub(super) fn may_be(&self, path: &RelPath, now: Option<&Stat>) -> bool {
        *path == self.opened
            || now.is_some_and(|now| {
                now.identity() == self.version.file
                    && now.size == self.version.size
                    && Some(now.mtime) == self.mtime
            })
    }

    /// The stage that is open for it.
    pub(super) fn stage(&self) -> Option<u32> {
        match self.body {
            Body::Rest { bytes: Some(_), .. } => None,
            Body::Whole { .. } | Body::Rest { .. } => Some(self.stage),
        }
    }

    /// Some of it was copied from what stood there before.
    pub(super) fn has_base(&self) -> bool {
        matches!(self.body, Body::Whole { from_base: true })
    }

    /// The operation that names it, the content that goes with it, and the version that then stands
    /// there.
    pub(super) fn op(self, path: RelPath) -> (Op, Vec<u8>, Version) {
        let Staged { body, meta, hash, replaces, version, .. } = self;
        let size = version.size;
        let (op, bytes) = match body {
            Body::Whole { .. } => {
                (Op::Commit { path, stage: self.stage, size, meta, hash }, Vec::new())
            }
            Body::Rest { version, from, bytes } => {
                let stage = if bytes.is_none() { Some(self.stage) } else { None };
                let op = Op::Append { path, version, from, size, stage, meta, hash };
                (op, bytes.unwrap_or_default())
            }
        };
        let op = match replaces {
            Some(old) => Op::Replace { old, new: Box::new(op) },
            None => op,
        };
        (op, bytes, version)
    }
}

/// Brings large files until there are no more orders.
pub(super) async fn bring(
    mut files: mpsc::UnboundedReceiver<Large>,
    bulk: mpsc::Sender<Bulk>,
    events: mpsc::Sender<Carried>,
    shared: Arc<Shared>,
) {
    let mut running: JoinSet<usize> = JoinSet::new();
    let mut open = true;
    let mut waiting: [VecDeque<Large>; 2] = Default::default();
    let mut count = [0; 2];
    while open || !running.is_empty() {
        tokio::select! {
            file = files.recv(), if open => match file {
                Some(file) => waiting[usize::from(file.size > SMALLER)].push_back(file),
                None => open = false,
            },
            Some(ended) = running.join_next() => {
                if let Ok(kind) = ended {
                    count[kind] -= 1;
                }
            }
        }
        for kind in 0..AT_ONCE.len() {
            while count[kind] < AT_ONCE[kind]
                && let Some(file) = waiting[kind].pop_front()
            {
                count[kind] += 1;
                let (bulk, events, shared) = (bulk.clone(), events.clone(), Arc::clone(&shared));
                running.spawn(async move {
                    bring_one(file, &bulk, &events, &shared).await;
                    kind
                });
            }
        }
    }
}

/// Brings one file, and says how that ended.
async fn bring_one(
    file: Large,
    bulk: &mpsc::Sender<Bulk>,
    events: &mpsc::Sender<Carried>,
    shared: &Arc<Shared>,
) {
    let (id, wanted) = (file.id, file.file);
    let brought = one(file, bulk, shared).await;
    locked(&shared.bringing).remove(&id);
    locked(&shared.cancelled).remove(&id);
    let said = match brought {
        Ok((settled, read)) => {
            if let Some(file) = wanted.filter(|wanted| *wanted != read) {
                let _ = events.send(Carried::OtherFile { file }).await;
            }
            if !settled {
                let _ = events.send(Carried::Unsettled { id }).await;
            }
            Carried::Staged { id }
        }
        Err(Stopped::Link) => return,
        Err(Stopped::Here(why)) => Carried::NotBuilt { id, why },
        Err(Stopped::There(why)) => not_taken(id, why),
        Err(Stopped::Other) => Carried::NotBuilt { id, why: NotBuilt::Vanished },
    };
    let _ = events.send(said).await;
}

/// Why a file was not brought.
enum Stopped {
    /// The link is lost.
    Link,
    /// It could not be read, or is not wanted any more.
    Here(NotBuilt),
    /// The agent cannot take it.
    There(String),
    /// What stands on the target is not the version it was believed to be.
    Other,
}

impl From<Silent> for Stopped {
    fn from(_: Silent) -> Stopped {
        Stopped::Link
    }
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
    /// The stage is open on the agent.
    open: Arc<AtomicBool>,
    bulk: mpsc::Sender<Bulk>,
    shared: Arc<Shared>,
    /// How its content shrinks.
    grain: Arc<Grain>,
}

impl Lane {
    /// Opens the file, to be read in blocks that can be compared with those of a version.
    async fn open(&self, path: &RelPath, version: Option<&Version>) -> Result<FileReader, Stopped> {
        let (source, path) = (Arc::clone(&self.shared.source), path.clone());
        let version = version.cloned();
        blocking(move || {
            let root = source.root().map_err(|_| Stopped::Here(NotBuilt::Vanished))?;
            let like = |size| version.as_ref().map_or(block(size), |known| known.block_for(size));
            FileReader::open(&root, &path, like).map_err(Stopped::from)
        })
        .await
    }

    /// Opens the stage for so much content.
    async fn open_stage(&self, path: &RelPath, size: u64) -> Result<(), Stopped> {
        let hint = path.parent().unwrap_or_default();
        self.open.store(true, Ordering::Relaxed);
        self.say(&Message::Open { stage: self.stage, hint, size }).await
    }

    /// Opens the stage for what a former link may have left a part of.
    async fn resume_stage(&self, path: &RelPath, size: u64) -> Result<(), Stopped> {
        self.open.store(true, Ordering::Relaxed);
        self.say(&Message::Resume { stage: self.stage, path: path.clone(), size }).await
    }

    /// Gives the stage up, if it is open. Answers for it may still be on their way: what follows has
    /// another number.
    async fn close_stage(&mut self) -> Result<(), Stopped> {
        if self.open.swap(false, Ordering::Relaxed) {
            self.say(&Message::Abort { stage: self.stage }).await?;
            self.stage = self.shared.next_stage();
        }
        Ok(())
    }

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

    /// Will the next piece take long to be made a frame of, since it will be compressed?
    fn squeezes(&self) -> bool {
        self.shared.squeeze.is_on() && self.grain.shrinks()
    }

    /// Frames with a piece of content, and what each costs.
    fn frames(&self, offset: u64, piece: &[u8]) -> Vec<(Vec<u8>, u32)> {
        self.shared.content(self.stage, offset, piece, &self.grain)
    }
}

/// A file whose content is complete on the target.
struct Brought {
    /// It did not change while it was read.
    settled: bool,
    entry: Entry,
    hash: Hash,
    body: Body,
    version: Version,
}

impl Brought {
    fn of(
        reader: FileReader,
        settled: bool,
        body: Body,
        proof: Proof,
        sums: Option<Arc<Index>>,
    ) -> Result<Brought, Stopped> {
        // Without all of its blocks there is no hash; it was read to its end.
        let hash = reader.hash().ok_or(Stopped::Here(NotBuilt::Vanished))?;
        let (file, block, entry) = (reader.identity(), reader.block(), reader.entry().clone());
        let chains = Arc::new(reader.into_chains());
        let version = Version { file, size: entry.size, block, chains, sums, proof };
        Ok(Brought { settled, entry, hash, body, version })
    }
}

/// Has it in a stage. Whether it rested meanwhile, and which file was read.
async fn one(
    file: Large,
    bulk: &mpsc::Sender<Bulk>,
    shared: &Arc<Shared>,
) -> Result<(bool, Identity), Stopped> {
    let mut lane = Lane {
        id: file.id,
        stage: shared.next_stage(),
        open: Arc::default(),
        bulk: bulk.clone(),
        shared: Arc::clone(shared),
        grain: Arc::default(),
    };
    // Given back when the operation that names it is acked, or when it is aborted.
    let Ok(open) = shared.stages.acquire().await else { return Err(Stopped::Link) };
    let brought = match content(&mut lane, &file).await {
        Ok(brought) => brought,
        Err(Stopped::Link) => return Err(Stopped::Link),
        Err(stopped) => {
            lane.close_stage().await?;
            return Err(stopped);
        }
    };
    // Its name may only be given when all of it is before that on the wire.
    let (written, left) = oneshot::channel();
    let last = Bulk { frame: Vec::new(), written: Some(written) };
    bulk.send(last).await.map_err(|_| Stopped::Link)?;
    left.await.map_err(|_| Stopped::Link)?;
    let read = brought.version.file;
    let staged = Staged {
        stage: lane.stage,
        body: brought.body,
        opened: file.path,
        mtime: brought.entry.meta.mtime,
        meta: fresh(file.meta, &brought.entry, &shared.mapping.chmod),
        hash: brought.hash,
        replaces: file.replaces,
        version: brought.version,
    };
    locked(&shared.staged).insert(file.id, staged);
    open.forget();
    Ok((brought.settled, read))
}

/// Brings the content of a file in the cheapest way there is.
async fn content(lane: &mut Lane, file: &Large) -> Result<Brought, Stopped> {
    let version = lane.shared.versions.get(&file.path).filter(|_| file.replaces.is_none());
    if let Some((id, known)) = version {
        if let Some(brought) = append::bring(lane, file, id, &known).await? {
            return Ok(brought);
        }
        match all_of(lane, file, Some((id, known))).await {
            Err(Stopped::Other) => lane.close_stage().await?,
            done => return done,
        }
    }
    all_of(lane, file, None).await
}

/// Has all of a file in the stage, by copying what the target has, as far as that is of use.
async fn all_of(
    lane: &Lane,
    file: &Large,
    version: Option<(OpId, Version)>,
) -> Result<Brought, Stopped> {
    let shared = &lane.shared;
    let began = now();
    let reader = lane.open(&file.path, version.as_ref().map(|(_, known)| known)).await?;
    let edited = version.as_ref().is_some_and(|(_, known)| known.file == reader.identity());
    let size = reader.entry().size;
    // What came out wrong goes whole and anew.
    let whole = locked(&shared.whole).remove(&file.path);
    // What only moved costs nothing but the sums: that is worth it for a smaller file as well.
    let moved = file.bases.first().is_some_and(|base| *base != file.path);
    // What is written into has to be read there in any case.
    let compares = (shared.far || shared.inplace) && !whole;
    let of_use = if moved { shared.far } else { size >= delta::SMALLEST };
    let bases = if compares && of_use { &file.bases[..] } else { &[] };
    let version = version.filter(|_| compares);
    // What a former link left of it is worth a question too; with a version there was none.
    let resume = shared.far && !whole && version.is_none() && size >= delta::RESUMED;
    let delta = match resume || version.is_some() || !bases.is_empty() {
        true => {
            let may_grow = file.replaces.is_none();
            delta::bring(lane, &file.path, bases, resume, reader, version, may_grow).await?
        }
        false => {
            lane.open_stage(&file.path, size).await?;
            Err(reader)
        }
    };
    let proof = || Proof::read(began).edited(edited);
    match delta {
        Ok(delta::Delta { reader, settled, sums, behind }) => {
            let body = match behind {
                Some(from) => Body::Rest { version: lane.id, from, bytes: None },
                None => Body::Whole { from_base: true },
            };
            Brought::of(reader, settled, body, proof(), sums)
        }
        Err(reader) => {
            let (reader, settled) = whole::bring(lane, reader).await?;
            Brought::of(reader, settled, Body::Whole { from_base: false }, proof(), None)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Stopped> + Send + 'static,
) -> Result<T, Stopped> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Stopped::Link))
}
