//! The agent's carrier: operations as frames on one link.
//!
//! Five tasks: one reads the link, one writes it (small frames before bulk ones), one builds
//! operations in order, one compares files by their hashes, and a few bring the content of large files. Two credits keep both ends
//! bounded: *small* for operations with their inline content, *bulk* for the content of stages,
//! so that a small change never waits for a large file.

mod base;
mod build;
mod handshake;
mod hashes;
mod incoming;
mod limit;
mod outgoing;
mod pace;
mod squeeze;
mod transfer;
mod versions;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lsync_protocol::entry::Digest;
use lsync_protocol::frame::PIECE;
use lsync_protocol::message::{Asked, MAX_LISTS, MAX_STAGES, Message, OpId, Outcome};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use self::limit::Limit;
use self::outgoing::Queues;
use self::squeeze::Squeeze;
use self::window::Window;
use super::{Carried, Carrier};
use crate::config::Compress;
use crate::config::mapping::Mapping;
use crate::plan::Planned;
use crate::source::{OwnerNames, Source};

pub use handshake::{Greeted, greet};

/// How a mirror is carried.
#[derive(Debug, Clone, Default)]
pub struct CarrierOptions {
    /// How many bytes a second leave at most, on average.
    pub rate: Option<NonZeroU64>,
    /// Which content is compressed.
    pub compress: Compress,
    /// What permissions become on the way: content may be newer than what was planned.
    pub mapping: Arc<Mapping>,
}

/// What several tasks of one carrier share.
#[derive(Debug)]
struct Shared {
    source: Arc<Source>,
    /// Bytes of operations and inline content that may be on the way.
    small: Semaphore,
    /// All of `small`: no single cost may be over it.
    small_all: u32,
    /// Bytes of stages' content that may be on the way or with the agent and not on its disk.
    bulk: Semaphore,
    /// All of `bulk`: more where the way is long.
    bulk_all: AtomicUsize,
    /// Bytes on the way that have not arrived: what a small change has to wait for.
    window: Window,
    /// Listings that were asked and not answered.
    asked: Mutex<HashSet<u32>>,
    /// Comparisons by content that the agent has not answered.
    hashes: hashes::Waiting,
    /// Operations whose content is being brought, or is to be, by a transfer of its own.
    bringing: Mutex<HashSet<OpId>>,
    /// Those of them whose content is not wanted any more.
    cancelled: Mutex<HashSet<OpId>>,
    /// Stages the agent cannot take, and why.
    broken: Mutex<BTreeMap<u32, String>>,
    /// Nothing more is begun: large content stops where it is.
    finishing: AtomicBool,
    /// Stages that may be open on the agent.
    stages: Semaphore,
    /// Operations that name a stage and are not acked: each ack closes one.
    naming: Mutex<BTreeSet<OpId>>,
    /// Contents that wait for their names.
    staged: Mutex<BTreeMap<OpId, transfer::Staged>>,
    /// The number of the last stage.
    last_stage: AtomicU32,
    /// What the agent says of bases.
    bases: base::Bases,
    /// Large files as they stand on the target.
    versions: versions::Versions,
    /// What keys the sums of this link.
    key: [u8; 32],
    /// Changes of files are worth their search: bytes on this link cost something.
    far: bool,
    /// Files there are written into: what stands at its place needs not be written.
    inplace: bool,
    /// What permissions become on the way.
    mapping: Arc<Mapping>,
    /// Operations that name what was put together from a base.
    deltas: Mutex<BTreeMap<OpId, RelPath>>,
    /// Files that came out wrong by a delta: the next time they go whole.
    whole: Mutex<BTreeSet<RelPath>>,
    /// The most bytes of a large file's content in one frame: fewer with a limit, or if the
    /// window says so.
    piece: usize,
    /// Which content is compressed.
    squeeze: Squeeze,
    /// Written frames of content, to be filled again.
    spares: Mutex<Vec<Vec<u8>>>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Shared {
    fn next_stage(&self) -> u32 {
        self.last_stage.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// A message of several operations, or of several directories to be compared, is closed at so
    /// many bytes: 256 KiB, fewer with a limit.
    fn together(&self) -> usize {
        2 * self.piece
    }

    /// More content may be on the way where the window has grown so far. One task calls this.
    fn widen(&self) {
        let room = self.window.room() as usize;
        let before = self.bulk_all.fetch_max(room, Ordering::Relaxed);
        self.bulk.add_permits(room.saturating_sub(before));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most files that are remembered to go whole.
const WHOLE_MAX: usize = 1000;

impl Shared {
    /// Of what was put together from a base: did it come out wrong? The base may have changed under
    /// the agent's hands, or a short sum lied.
    fn judge_deltas(&self, done: &[(OpId, u64)], outcomes: &[(OpId, Outcome)]) {
        let mut deltas = locked(&self.deltas);
        if deltas.is_empty() {
            return;
        }
        for &(first, count) in done {
            let range = first..first.saturating_add(count);
            while let Some((&id, _)) = deltas.range(range.clone()).next() {
                let Some(path) = deltas.remove(&id) else { break };
                let failed = outcomes.iter().any(|(of, outcome)| match outcome {
                    // A full disk says nothing about the content, and has no room for more of it.
                    Outcome::Problem(trouble) => *of == id && !is_full(trouble.errno),
                    _ => false,
                });
                let mut whole = locked(&self.whole);
                if failed && whole.len() < WHOLE_MAX {
                    whole.insert(path);
                }
            }
        }
    }
}

fn is_full(errno: i32) -> bool {
    [Errno::NOSPC, Errno::DQUOT].iter().any(|full| full.raw_os_error() == errno)
}

/// What the builder is told, in order. Not bounded by itself: the mirror has a bounded number of
/// operations in flight.
#[derive(Debug)]
enum Order {
    Op(OpId, Planned),
    Commit { staged: OpId, id: OpId, path: RelPath },
    Finish,
}

/// Says which files are to be read whole, though nothing is heard of them: those that grew and of
/// which not all was read.
async fn prove(events: mpsc::Sender<Carried>, shared: Arc<Shared>) {
    loop {
        let path = shared.versions.due().await;
        if events.send(Carried::Unproven { path }).await.is_err() {
            return;
        }
    }
}

/// A carrier to an agent.
#[derive(Debug)]
pub struct AgentCarrier {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    urgent: mpsc::UnboundedSender<Vec<u8>>,
    questions: mpsc::UnboundedSender<hashes::Question>,
    /// Directories to be compared that have not been sent yet, and the number of the first.
    lists: Vec<Asked>,
    lists_first: u32,
    lists_bytes: usize,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl AgentCarrier {
    /// Starts a carrier on a link whose agent has welcomed us. What it says arrives at `events`.
    /// With a `rate`, in bytes a second, it writes no more than that on average. `compress` says
    /// what becomes of content on its way to another host.
    #[must_use]
    pub fn start(
        greeted: Greeted,
        source: Arc<Source>,
        options: CarrierOptions,
        events: mpsc::Sender<Carried>,
    ) -> Self {
        let CarrierOptions { rate, compress, mapping } = options;
        let Greeted { link, welcome, key, inplace } = greeted;
        // Whatever it grants, no more than we care to have on the way.
        let small_all = welcome.small.clamp(1, 16 << 20);
        let bulk_most = welcome.bulk.clamp(PIECE as u32, 64 << 20);
        let window = Window::new(!link.near, bulk_most.into());
        let bulk_all = window.room() as usize;
        let shared = Arc::new(Shared {
            source,
            small: Semaphore::new(small_all as usize),
            small_all,
            bulk: Semaphore::new(bulk_all),
            bulk_all: AtomicUsize::new(bulk_all),
            window,
            asked: Mutex::default(),
            hashes: hashes::Waiting::default(),
            bringing: Mutex::default(),
            cancelled: Mutex::default(),
            broken: Mutex::default(),
            finishing: AtomicBool::new(false),
            stages: Semaphore::new(MAX_STAGES / 2),
            naming: Mutex::default(),
            staged: Mutex::default(),
            last_stage: AtomicU32::new(0),
            bases: base::Bases::default(),
            versions: versions::Versions::default(),
            key,
            far: !link.near,
            inplace,
            mapping,
            deltas: Mutex::default(),
            whole: Mutex::default(),
            piece: limit::piece(rate),
            squeeze: Squeeze::new(compress, link.near),
            spares: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let (orders, orders_in) = mpsc::unbounded_channel();
        let (answers, answers_in) = mpsc::channel(outgoing::ANSWERS);
        let (urgent, urgent_in) = mpsc::unbounded_channel();
        let (bulk, bulk_in) = mpsc::channel(4);
        let (large, large_in) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let queues = Queues { answers: answers_in, urgent: urgent_in, bulk: bulk_in };
        let limit = Limit::new(rate);
        tasks.spawn(outgoing::write(link.writer, queues, limit, Arc::clone(&shared)));
        tasks.spawn(incoming::read(
            link.reader,
            link.ended,
            link.peer,
            answers,
            events.clone(),
            Arc::clone(&shared),
        ));
        tasks.spawn(build::build(
            orders_in,
            urgent.clone(),
            large,
            events.clone(),
            Arc::clone(&shared),
        ));
        tasks.spawn(transfer::bring(large_in, bulk, events.clone(), Arc::clone(&shared)));
        let (questions, asked) = mpsc::unbounded_channel();
        tasks.spawn(hashes::run(asked, urgent.clone(), events.clone(), Arc::clone(&shared)));
        tasks.spawn(prove(events, Arc::clone(&shared)));
        AgentCarrier {
            shared,
            orders,
            urgent,
            questions,
            lists: Vec::new(),
            lists_first: 0,
            lists_bytes: 0,
            _tasks: tasks,
        }
    }

    /// Sends a message that needs no credit. A link that is lost tells so by itself.
    fn say(&self, message: &Message) {
        let mut frame = Vec::new();
        lsync_protocol::frame::encode(message, 0, &mut frame);
        let _ = self.urgent.send(frame);
    }
}

impl Carrier for AgentCarrier {
    fn send(&mut self, ops: Vec<(OpId, Planned)>) {
        for (id, op) in ops {
            let _ = self.orders.send(Order::Op(id, op));
        }
    }

    fn commit(&mut self, staged: OpId, id: OpId, path: RelPath) {
        locked(&self.shared.naming).insert(id);
        let _ = self.orders.send(Order::Commit { staged, id, path });
    }

    fn cancel(&mut self, id: OpId) {
        if let Some(staged) = locked(&self.shared.staged).remove(&id) {
            if let Some(stage) = staged.stage() {
                self.say(&Message::Abort { stage });
            }
            self.shared.stages.add_permits(1);
        } else if locked(&self.shared.bringing).contains(&id) {
            locked(&self.shared.cancelled).insert(id);
        }
    }

    fn list(&mut self, request: u32, dir: RelPath, digest: Option<Digest>) {
        locked(&self.shared.asked).insert(request);
        let next = self.lists_first.wrapping_add(self.lists.len() as u32);
        if request != next
            || self.lists.len() == MAX_LISTS
            || self.lists_bytes > self.shared.together()
        {
            self.flush();
        }
        if self.lists.is_empty() {
            self.lists_first = request;
        }
        self.lists_bytes += dir.as_bytes().len();
        self.lists.push(Asked { dir, digest });
    }

    fn compare(&mut self, request: u32, dir: RelPath, names: Vec<Box<[u8]>>, calm: bool) {
        let _ = self.questions.send(hashes::Question { request, dir, names, calm });
    }

    fn flush(&mut self) {
        self.lists_bytes = 0;
        if !self.lists.is_empty() {
            let dirs = std::mem::take(&mut self.lists);
            self.say(&Message::List { first: self.lists_first, dirs });
        }
    }

    fn ask_names(&mut self, names: &OwnerNames) {
        let pairs = |names: &BTreeMap<u32, String>| {
            names.iter().map(|(id, name)| (*id, name.clone())).collect()
        };
        self.say(&Message::Names { users: pairs(&names.users), groups: pairs(&names.groups) });
    }

    fn mirrored(&mut self) {
        self.say(&Message::Mirrored);
    }

    fn finish(&mut self) {
        self.flush();
        self.shared.finishing.store(true, Ordering::Relaxed);
        let _ = self.orders.send(Order::Finish);
    }

    fn traffic(&self) -> (u64, u64) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (get(&self.shared.sent), get(&self.shared.received))
    }
}
