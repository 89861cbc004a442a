//! Building: planned operations become frames, in order, with the content of small files read
//! on blocking threads, several slices at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use lsync_agent::read::{self, ReadError};
use lsync_agent::root::Root;
use lsync_protocol::entry::{Entry, Meta};
use lsync_protocol::frame;
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{INLINE_MAX, MAX_OPS, Message, Op, OpId};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::MAX_BYTES;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::squeeze::Squeeze;
use super::transfer::Staged;
use super::versions::Note;
use super::{Order, Shared, locked};
use crate::carrier::{Carried, NotBuilt};
use crate::config::mapping::Chmod;
use crate::error::plain;
use crate::plan::Planned;

/// A slice is closed at so many operations.
const SLICE_OPS: usize = 128;
/// Slices being read at a time.
const SLICES: usize = 4;

/// A file whose content is to be there; a large one is brought by itself.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) id: OpId,
    pub(super) path: RelPath,
    /// As it was looked at.
    pub(super) size: u64,
    /// Which file it was, where that has several names.
    pub(super) file: Option<Identity>,
    pub(super) meta: Meta,
    /// What stands in its place and has to go, if its kind differs.
    pub(super) replaces: Option<lsync_protocol::entry::Kind>,
    /// Where the agent may have it, or an older version: the first file there is copied from.
    pub(super) bases: Vec<RelPath>,
}

/// What became of a slice.
#[derive(Debug, Default)]
struct Built {
    /// Frames, and the credit each needs.
    frames: Vec<(Vec<u8>, u32)>,
    large: Vec<Large>,
    /// What becomes of versions.
    notes: Vec<Note>,
    said: Vec<Carried>,
    end: bool,
}

/// Builds what is ordered until the orders end.
pub(super) async fn build(
    mut orders: mpsc::UnboundedReceiver<Order>,
    urgent: mpsc::UnboundedSender<Vec<u8>>,
    large: mpsc::UnboundedSender<Large>,
    events: mpsc::Sender<Carried>,
    shared: Arc<Shared>,
) {
    // In order: the first is always sent first, whichever is read first.
    let mut slices: VecDeque<JoinHandle<Built>> = VecDeque::new();
    let mut open = true;
    while open || !slices.is_empty() {
        let room = open && slices.len() < SLICES;
        tokio::select! {
            order = orders.recv(), if room => match order {
                Some(order) => {
                    let slice = gather(order, &mut orders, shared.together() as u64);
                    let shared = Arc::clone(&shared);
                    slices.push_back(tokio::task::spawn_blocking(move || slice_of(&shared, slice)));
                }
                None => open = false,
            },
            built = first(&mut slices), if !slices.is_empty() => {
                slices.pop_front();
                for note in built.notes {
                    shared.versions.note(note);
                }
                for (frame, cost) in built.frames {
                    // The semaphore is never closed; what is taken comes back with the acks.
                    let Ok(permit) = shared.small.acquire_many(cost.min(shared.small_all)).await else {
                        return;
                    };
                    permit.forget();
                    if urgent.send(frame).is_err() {
                        return;
                    }
                }
                for file in built.large {
                    locked(&shared.bringing).insert(file.id);
                    if large.send(file).is_err() {
                        return;
                    }
                }
                for said in built.said {
                    if events.send(said).await.is_err() {
                        return;
                    }
                }
                if built.end {
                    let mut bye = Vec::new();
                    frame::encode(&Message::Bye, 0, &mut bye);
                    let _ = urgent.send(bye);
                    let _ = urgent.send(Vec::new());
                    return;
                }
            }
        }
    }
}

/// The result of the first slice.
async fn first(slices: &mut VecDeque<JoinHandle<Built>>) -> Built {
    match slices.front_mut() {
        Some(slice) => slice.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// What is waiting, up to a slice, which is closed at so many bytes of paths and content. Nothing
/// waits for a slice to fill up.
fn gather(order: Order, orders: &mut mpsc::UnboundedReceiver<Order>, most: u64) -> Vec<Order> {
    let mut bytes = weight(&order);
    let mut slice = vec![order];
    while slice.len() < SLICE_OPS.min(MAX_OPS) && bytes < most {
        match orders.try_recv() {
            Ok(order) => {
                bytes += weight(&order);
                slice.push(order);
            }
            Err(_) => break,
        }
    }
    slice
}

/// Roughly what an order puts into a frame.
fn weight(order: &Order) -> u64 {
    match order {
        Order::Op(_, op) => {
            let content = match op {
                Planned::Content { size, .. } if *size <= INLINE_MAX => *size,
                Planned::Symlink { link, .. } => link.len() as u64,
                _ => 0,
            };
            64 + (op.path().as_bytes().len() + op.meta_bytes()) as u64 + content
        }
        Order::Commit { path, .. } => 128 + path.as_bytes().len() as u64,
        Order::Finish => 0,
    }
}

/// Reads and encodes one slice.
fn slice_of(shared: &Shared, slice: Vec<Order>) -> Built {
    let mut built = Built::default();
    let mut run = Run::new(&shared.squeeze, &shared.mapping.chmod);
    let mut root: Option<Root> = None;
    for order in slice {
        match order {
            Order::Finish => built.end = true,
            Order::Commit { staged, id, path } => {
                if root.is_none() {
                    root = shared.source.root().ok();
                }
                let staged = locked(&shared.staged).remove(&staged);
                commit(id, staged, path, root.as_ref(), shared, &mut run, &mut built);
            }
            Order::Op(id, planned) => {
                if root.is_none() && needs_root(&planned) {
                    root = shared.source.root().ok();
                }
                one(id, planned, root.as_ref(), &mut run, &mut built);
            }
        }
    }
    run.close(&mut built);
    built
}

/// Names staged content, if it may still be called so.
fn commit(
    id: OpId,
    staged: Option<Staged>,
    path: RelPath,
    root: Option<&Root>,
    shared: &Shared,
    run: &mut Run<'_>,
    built: &mut Built,
) {
    let now = root.and_then(|root| root.statx(&path).ok());
    match staged {
        Some(staged) if staged.may_be(&path, now.as_ref()) => {
            if staged.has_base() {
                locked(&shared.deltas).insert(id, path.clone());
            }
            let (op, content, version) = staged.op(path.clone());
            run.push(id, op, &content, built);
            built.notes.push(Note::Put(path, id, version));
        }
        staged => {
            if let Some(staged) = staged {
                if let Some(stage) = staged.stage() {
                    run.close(built);
                    let mut abort = Vec::new();
                    frame::encode(&Message::Abort { stage }, 0, &mut abort);
                    built.frames.push((abort, 0));
                }
                shared.stages.add_permits(1);
            }
            // Nothing will be acked under this number.
            locked(&shared.naming).remove(&id);
            built.said.push(Carried::NotBuilt { id, why: NotBuilt::Vanished });
        }
    }
}

fn needs_root(planned: &Planned) -> bool {
    match planned {
        Planned::Content { size, .. } => *size <= INLINE_MAX,
        Planned::Replace { new, .. } => needs_root(new),
        _ => false,
    }
}

fn one(id: OpId, planned: Planned, root: Option<&Root>, run: &mut Run<'_>, built: &mut Built) {
    match planned {
        Planned::Replace { old, new } => match *new {
            Planned::Content { path, meta, size, file, like: bases, .. } => {
                let replaces = Some(old);
                content(Large { id, path, size, file, meta, replaces, bases }, root, run, built);
            }
            new => {
                if let Some(new) = plain_op(new) {
                    let new = Box::new(new);
                    run.push(id, Op::Replace { old, new }, &[], built);
                }
            }
        },
        Planned::Content { path, meta, size, file, base, like: mut bases, .. } => {
            if base {
                bases.push(path.clone());
            }
            let wanted = Large { id, path, size, file, meta, replaces: None, bases };
            content(wanted, root, run, built);
        }
        other => {
            if let Planned::Rename { from, to, .. } = &other {
                built.notes.push(Note::Rename(from.clone(), to.clone()));
            }
            if let Some(op) = plain_op(other) {
                run.push(id, op, &[], built);
            }
        }
    }
}

/// An operation that needs nothing to be read.
fn plain_op(planned: Planned) -> Option<Op> {
    Some(match planned {
        Planned::MakeDir { path, meta } => Op::MakeDir { path, meta },
        Planned::Symlink { path, link, meta, .. } => {
            Op::Symlink { path, link: link.into_vec(), meta }
        }
        Planned::Special { path, kind, device, meta, .. } => {
            Op::Special { path, kind, device, meta }
        }
        Planned::Link { path, from, size, mtime } => Op::Link { path, from, size, mtime },
        Planned::Meta { path, kind, meta } => Op::Meta { path, kind, meta },
        Planned::Dir { path, meta } => Op::Dir { path, meta },
        Planned::Rename { from, to, kind, size, mtime } => {
            Op::Rename { from, to, kind, size, mtime }
        }
        Planned::Remove { path, kind } => Op::Remove { path, kind },
        Planned::Content { .. } | Planned::Replace { .. } => return None,
    })
}

/// Attributes as planned, brought up to date with what was seen when the content was read.
pub(super) fn fresh(planned: Meta, seen: &Entry, chmod: &Chmod) -> Meta {
    Meta {
        mode: planned.mode.and(seen.meta.mode.map(|mode| chmod.apply(seen.kind, mode))),
        mtime: planned.mtime.and(seen.meta.mtime),
        ..planned
    }
}

fn content(wanted: Large, root: Option<&Root>, run: &mut Run<'_>, built: &mut Built) {
    if wanted.size > INLINE_MAX {
        return built.large.push(wanted);
    }
    let read = match root {
        Some(root) => read::read_small(root, &wanted.path, INLINE_MAX),
        // The root is not the root: the look that follows finds out.
        None => Err(ReadError::Missing),
    };
    match read {
        Ok(small) => {
            let Large { id, path, meta, .. } = wanted;
            if wanted.file != small.entry.file
                && let Some(file) = wanted.file
            {
                built.said.push(Carried::OtherFile { file });
            }
            let meta = fresh(meta, &small.entry, run.chmod);
            let file = Op::File { path, size: small.content.len() as u32, meta };
            let op = match wanted.replaces {
                Some(old) => Op::Replace { old, new: Box::new(file) },
                None => file,
            };
            run.push(id, op, &small.content, built);
            if !small.settled {
                built.said.push(Carried::Unsettled { id });
            }
        }
        Err(ReadError::TooLarge(entry)) => {
            built.large.push(Large { size: entry.size, ..wanted });
        }
        Err(ReadError::Missing | ReadError::NotFile(_)) => {
            built.said.push(Carried::NotBuilt { id: wanted.id, why: NotBuilt::Vanished });
        }
        Err(ReadError::Trouble(error)) => {
            let why = format!("cannot be read: {}", plain(&error.to_string()));
            built.said.push(Carried::NotBuilt { id: wanted.id, why: NotBuilt::Failed(why) });
        }
    }
}

/// Operations with consecutive numbers, which make one frame.
#[derive(Debug)]
struct Run<'a> {
    squeeze: &'a Squeeze,
    chmod: &'a Chmod,
    first: OpId,
    ops: Vec<Op>,
    raw: Vec<u8>,
    /// Bytes of extended attributes: with everything else they have to fit into a control part.
    attributes: usize,
    cost: u32,
}

impl Run<'_> {
    fn new<'a>(squeeze: &'a Squeeze, chmod: &'a Chmod) -> Run<'a> {
        Run { squeeze, chmod, first: 0, ops: Vec::new(), raw: Vec::new(), attributes: 0, cost: 0 }
    }

    fn push(&mut self, id: OpId, op: Op, content: &[u8], built: &mut Built) {
        let next = self.first + self.ops.len() as u64;
        let attributes = self.attributes + op.meta_bytes();
        let full = self.raw.len() + content.len() > frame::RAW_MAX || attributes > MAX_BYTES;
        if !self.ops.is_empty() && (id != next || full) {
            self.close(built);
        }
        self.attributes += op.meta_bytes();
        if self.ops.is_empty() {
            self.first = id;
        }
        self.cost += op.cost();
        self.ops.push(op);
        self.raw.extend_from_slice(content);
    }

    fn close(&mut self, built: &mut Built) {
        if self.ops.is_empty() {
            return;
        }
        let hash = (!self.raw.is_empty()).then(|| *blake3::hash(&self.raw).as_bytes());
        let ops = std::mem::take(&mut self.ops);
        self.attributes = 0;
        let message = Message::Ops { first: self.first, hash, ops };
        let mut bytes = Vec::with_capacity(self.raw.len() + 4096);
        self.squeeze.small(&message, &self.raw, &mut bytes);
        self.raw.clear();
        built.frames.push((bytes, std::mem::take(&mut self.cost)));
    }
}
