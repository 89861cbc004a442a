//! Which operation is applied when, and by which thread.
//!
//! Operations come in an order that matters only where they touch the same names. Those about one
//! name in a directory go to one worker by the directory, first in, first out; a directory's own
//! attributes go the same way, behind everything in it. A directory is made at once, by the
//! dispatcher. What changes the structure (a rename, the removal of a directory, a change of kind)
//! waits until everything before it is done, and so does a hard link between two directories.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use lsync_protocol::entry::Kind;
use lsync_protocol::message::{Op, OpId, Outcome};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::Xattrs;

use crate::apply::{Content, Ground, Hand};
use crate::outbox::{Ack, Outbox};
use crate::serve::gauge::Held;
use crate::stage::Stage;
use crate::trouble::problem;

/// One operation with what it needs.
pub(crate) struct Work {
    pub(crate) id: OpId,
    pub(crate) op: Op,
    /// The message it came in; its content lies there.
    pub(crate) body: Arc<Held>,
    /// Where in the message its content lies.
    pub(crate) content: std::ops::Range<usize>,
    /// The stage it commits.
    pub(crate) stage: Option<Arc<Stage>>,
}

/// What the dispatcher is told.
pub(crate) enum Orders {
    /// Apply these, in this order.
    Apply(Vec<Work>),
    /// Nothing more will come: finish everything, then say so.
    Finish,
}

/// How many operations are given to workers and not yet done.
#[derive(Default)]
struct Flight {
    count: Mutex<usize>,
    done: Condvar,
}

impl Flight {
    fn add(&self, count: usize) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += count;
    }

    fn sub(&self, count: usize) {
        let mut flying = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *flying -= count;
        if *flying == 0 {
            self.done.notify_all();
        }
    }

    fn is_empty(&self) -> bool {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) == 0
    }

    /// Waits until nothing is in flight, or the link ended: then nothing more is begun either.
    fn wait(&self, stop: &AtomicBool) {
        let mut flying = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *flying > 0 && !stop.load(Ordering::Relaxed) {
            let tick = Duration::from_millis(500);
            let waited = self.done.wait_timeout(flying, tick);
            flying = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The dispatcher and its workers.
pub(crate) struct Applier {
    hand: Hand,
    outbox: Arc<Outbox>,
    workers: Vec<Sender<Vec<Work>>>,
    slices: Vec<Vec<Work>>,
    flight: Arc<Flight>,
    /// Paths that something is queued for, by hash; a false hit costs a wait, no more.
    queued: HashSet<u64>,
    acks: Vec<Ack>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// How many queued paths are remembered before the dispatcher waits for them instead.
const REMEMBERED: usize = 16 * 1024;

/// How many operations a worker finishes before it says so.
const ACK_EVERY: usize = 256;

impl Applier {
    /// Starts so many workers, at least one.
    pub(crate) fn start(
        ground: &Arc<Ground>,
        outbox: &Arc<Outbox>,
        workers: usize,
    ) -> std::io::Result<Applier> {
        let flight = Arc::new(Flight::default());
        let mut applier = Applier {
            hand: Hand::new(ground.clone()),
            outbox: outbox.clone(),
            workers: Vec::new(),
            slices: Vec::new(),
            flight: flight.clone(),
            queued: HashSet::new(),
            acks: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..workers.max(1) {
            // Bounded by the small credit.
            let (sender, slices) = crossbeam_channel::unbounded::<Vec<Work>>();
            let mut worker = Worker {
                hand: Hand::new(ground.clone()),
                outbox: outbox.clone(),
                flight: flight.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("apply {number}"))
                .spawn(move || worker.run(&slices))?;
            applier.threads.push(thread);
            applier.workers.push(sender);
            applier.slices.push(Vec::new());
        }
        Ok(applier)
    }

    /// Takes orders until there are no more. Says whether it was told to finish.
    pub(crate) fn run(mut self, orders: &Receiver<Orders>) -> bool {
        let mut finished = false;
        for order in orders {
            match order {
                Orders::Apply(works) => {
                    for work in works {
                        self.dispatch(work);
                    }
                    self.send_slices();
                    self.end_batch();
                }
                Orders::Finish => {
                    finished = true;
                    break;
                }
            }
        }
        self.drain();
        self.workers.clear();
        for thread in self.threads.drain(..) {
            // A worker that panicked ends the link by its guard.
            let _ = thread.join();
        }
        finished
    }

    fn dispatch(&mut self, work: Work) {
        match &work.op {
            Op::Rename { .. } | Op::Replace { .. } | Op::Remove { kind: Kind::Dir, .. } => {
                self.drain();
                self.now(&work);
            }
            Op::MakeDir { path, meta } => {
                // While it gets a default ACL, nobody makes anything in it.
                let inherited = meta.xattrs.as_ref().is_some_and(Xattrs::is_inherited);
                if inherited || self.queued.contains(&hash(path.as_bytes())) {
                    self.drain();
                }
                self.now(&work);
            }
            Op::Dir { path, .. } | Op::Meta { path, kind: Kind::Dir, .. } => {
                let key = path.as_bytes().to_vec();
                self.give(&key, work);
            }
            Op::Link { path, from, .. } => {
                let dir = |path: &RelPath| path.split().map(|(dir, _)| dir.to_vec());
                if dir(path) == dir(from) {
                    self.give(&dir(path).unwrap_or_default(), work);
                } else {
                    // Another worker may have to do with the other name.
                    self.drain();
                    self.now(&work);
                }
            }
            Op::File { path, .. }
            | Op::Commit { path, .. }
            | Op::Append { path, .. }
            | Op::Symlink { path, .. }
            | Op::Special { path, .. }
            | Op::Meta { path, .. }
            | Op::Remove { path, .. } => {
                let key = path.split().map_or(&[][..], |(dir, _)| dir).to_vec();
                self.give(&key, work);
            }
        }
    }

    /// Puts it into the slice of the worker that has this directory.
    fn give(&mut self, dir: &[u8], work: Work) {
        self.queued.insert(hash(work.op.path().as_bytes()));
        let worker = (hash(dir) % self.workers.len() as u64) as usize;
        self.slices[worker].push(work);
    }

    fn send_slices(&mut self) {
        self.hand_over();
        if self.queued.len() > REMEMBERED {
            self.drain();
        } else if self.flight.is_empty() {
            self.queued.clear();
        }
    }

    /// Waits until everything before is done.
    fn drain(&mut self) {
        self.hand_over();
        self.flight.wait(&self.hand.ground.stop);
        self.queued.clear();
    }

    fn hand_over(&mut self) {
        for (worker, slice) in self.workers.iter().zip(&mut self.slices) {
            if !slice.is_empty() {
                let slice = std::mem::take(slice);
                self.flight.add(slice.len());
                // A worker that is gone has ended the link.
                let _ = worker.send(slice);
            }
        }
    }

    /// Applies one by the dispatcher itself.
    fn now(&mut self, work: &Work) {
        if let Some(ack) = do_one(&mut self.hand, work) {
            self.acks.push(ack);
        }
    }

    /// Makes what the dispatcher did durable, and says that it is done.
    fn end_batch(&mut self) {
        finish_batch(&mut self.hand, &mut self.acks, &self.outbox);
    }
}

/// One thread that applies what it is given, in order.
struct Worker {
    hand: Hand,
    outbox: Arc<Outbox>,
    flight: Arc<Flight>,
}

impl Worker {
    fn run(&mut self, slices: &Receiver<Vec<Work>>) {
        let _fuse = Fuse(self.outbox.clone());
        let mut acks = Vec::new();
        for slice in slices {
            let count = slice.len();
            for work in slice {
                acks.extend(do_one(&mut self.hand, &work));
                if acks.len() >= ACK_EVERY && !self.hand.ground.fsync {
                    self.outbox.acks(&mut acks);
                }
            }
            finish_batch(&mut self.hand, &mut acks, &self.outbox);
            self.flight.sub(count);
        }
    }
}

/// Ends the link when the thread that has it panics.
pub(crate) struct Fuse(pub(crate) Arc<Outbox>);

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken("a thread of the agent panicked");
        }
    }
}

/// Applies one, unless the link ended: then it was not begun, and nothing is said.
fn do_one(hand: &mut Hand, work: &Work) -> Option<Ack> {
    if hand.ground.stop.load(Ordering::Relaxed) {
        return None;
    }
    let inline = work.body.bytes().get(work.content.clone()).unwrap_or_default();
    let content = Content { inline, stage: work.stage.as_deref() };
    let outcome = hand.apply(work.id, &work.op, &content);
    // A commit that the end of the link interrupted is one that was not begun.
    if outcome.is_some() && work.stage.is_some() && hand.ground.stop.load(Ordering::Relaxed) {
        return None;
    }
    Some(Ack { id: work.id, small: work.op.cost(), outcome })
}

/// Ends a batch: durable if that is wanted, then acked. What could not be made durable is a
/// problem of everything in the batch.
fn finish_batch(hand: &mut Hand, acks: &mut Vec<Ack>, outbox: &Outbox) {
    if let Err(error) = hand.end_batch() {
        for ack in acks.iter_mut().filter(|ack| ack.outcome.is_none()) {
            ack.outcome = Some(problem(error));
        }
    }
    outbox.acks(acks);
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The outcome of an operation where there is no root.
pub(crate) fn no_root() -> Outcome {
    Outcome::Problem(crate::trouble::said("the target's root does not exist"))
}
