//! The thread that reads: it parses, decompresses, checks what the peer may do, and hands on. It never touches
//! the disk, and what it holds is bounded by the credits and a gauge.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use lsync_protocol::frame::{Decoder, Frame, HEADER, Header};
use lsync_protocol::handshake::{BadGreeting, GREETING, Greeting, MAGIC, Refusal};
use lsync_protocol::message::{Asked, MAX_ASKS, MAX_STAGES, Message, Op, OpId, SumHow};

use super::gauge::{Gauge, Held};
use super::hashes::Weigh;
use super::stages::Piece;
use super::sums::{Question, Sought};
use super::{BULK_CREDIT, Event, SMALL_CREDIT, ServeError};
use crate::listing::Ask;
use crate::order::{Fuse, Orders, Work};
use crate::outbox::Outbox;
use crate::stage::Stage;

/// When something last came.
#[derive(Debug)]
pub(super) struct Heard {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    /// The reader waits for the source, and not for our own disk.
    listening: AtomicBool,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard { began: Instant::now(), last: AtomicU64::new(0), listening: AtomicBool::new(false) }
    }
}

impl Heard {
    fn now(&self) {
        self.last.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long we listened and nothing came.
    pub(super) fn since(&self) -> Duration {
        if !self.listening.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

/// Where what was read goes.
pub(super) struct Doors {
    pub(super) asks: Sender<Ask>,
    pub(super) pieces: Sender<Piece>,
    pub(super) sought: Sender<Sought>,
    pub(super) weigh: Sender<Weigh>,
    pub(super) orders: Sender<Orders>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) stop: Arc<AtomicBool>,
    /// Told that nothing more will be read.
    pub(super) ended: Box<dyn Fn() + Send>,
}

/// How many bytes of messages may be held before nothing more is read. All content that may be on
/// the way is less: an operation does not wait for a disk to take it.
const HELD: usize = BULK_CREDIT as usize + (16 << 20);

/// How many stages may exist, those among them whose commit is not yet done.
const STAGES_HELD: usize = 2 * MAX_STAGES;

/// Reads the greeting, waits until it is answered, then reads to the end.
pub(super) fn run(
    mut from: impl Read,
    heard: &Heard,
    events: &Sender<Event>,
    doors: &Receiver<Doors>,
) {
    let end = match greeting(&mut from) {
        Err(error) => Event::Broken(error),
        Ok(body) => {
            heard.now();
            if events.send(Event::Hello(body)).is_err() {
                return;
            }
            // Refused: there is nothing to read any more.
            let Ok(doors) = doors.recv() else { return };
            heard.now();
            let _fuse = Fuse(doors.outbox.clone());
            let mut reader = Reader {
                heard,
                doors,
                gauge: Arc::default(),
                next: 0,
                stages: HashMap::new(),
                alive: Arc::default(),
                small: 0,
                bulk: 0,
            };
            let end = reader.run(&mut from);
            // Before the stages go.
            (reader.doors.ended)();
            match end {
                Ok(Goodbye::Said) => return,
                Ok(Goodbye::Closed) => Event::End,
                Err(error) => Event::Broken(error),
            }
        }
    };
    // When nobody listens any more, everything ends anyway.
    let _ = events.send(end);
}

fn greeting(from: &mut impl Read) -> Result<Vec<u8>, ServeError> {
    let ended = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ServeError::Greeting("it ended".into()),
        _ => ServeError::Read(error),
    };
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic).map_err(ended)?;
    if magic != MAGIC {
        return Err(ServeError::Greeting("its first bytes are others".into()));
    }
    let mut head = [0; GREETING];
    from.read_exact(&mut head).map_err(ended)?;
    let greeting = Greeting::decode(head).map_err(|error| match error {
        BadGreeting::Version { .. } => ServeError::Refused(Refusal::Version),
        error => ServeError::Greeting(error.to_string()),
    })?;
    let mut body = vec![0; greeting.length];
    from.read_exact(&mut body).map_err(ended)?;
    Ok(body)
}

/// How reading ended well.
enum Goodbye {
    /// By a goodbye: the rest is finished.
    Said,
    /// By the end of the stream between two messages.
    Closed,
}

struct Reader<'a> {
    heard: &'a Heard,
    doors: Doors,
    gauge: Arc<Gauge>,
    /// The number the next operation has at least.
    next: OpId,
    /// Stages that may get content.
    stages: HashMap<u32, Arc<Stage>>,
    /// Stages that exist, also those that wait for their commit.
    alive: Arc<AtomicUsize>,
    /// Bytes of each credit that were ever used.
    small: u64,
    bulk: u64,
}

/// Ends listening when it goes.
struct Listened<'a>(&'a AtomicBool);

impl Drop for Listened<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn broken<T>(why: impl Into<String>) -> Result<T, ServeError> {
    Err(ServeError::Broken(why.into()))
}

impl Reader<'_> {
    fn run(&mut self, from: &mut impl Read) -> Result<Goodbye, ServeError> {
        let mut decoder = Decoder::default();
        loop {
            let mut head = [0; HEADER];
            if !self.fill(from, &mut head, true)? {
                return Ok(Goodbye::Closed);
            }
            let header =
                Header::decode(&head).map_err(|error| ServeError::Broken(error.to_string()))?;
            let mut body = vec![0; header.length];
            self.fill(from, &mut body, false)?;
            let frame = decoder
                .decode(header, body)
                .map_err(|error| ServeError::Broken(error.to_string()))?;
            if matches!(frame.message, Message::Bye) {
                // Once this is finished nobody waits for us: what is open goes first.
                (self.doors.ended)();
                self.stages.clear();
                let _ = self.doors.orders.send(Orders::Finish);
                return Ok(Goodbye::Said);
            }
            if self.doors.stop.load(Ordering::Relaxed) {
                return Ok(Goodbye::Closed);
            }
            self.take(header, frame)?;
        }
    }

    /// Fills a buffer. `false`: the end came before the first byte, where it may.
    fn fill(
        &self,
        from: &mut impl Read,
        buffer: &mut [u8],
        may_end: bool,
    ) -> Result<bool, ServeError> {
        let mut filled = 0;
        self.heard.now();
        self.heard.listening.store(true, Ordering::Relaxed);
        let _listened = Listened(&self.heard.listening);
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 && may_end => return Ok(false),
                Ok(0) => return broken("the link ended within a message"),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Closed before it read everything we said: also an end.
                Err(error)
                    if filled == 0 && may_end && error.kind() == io::ErrorKind::ConnectionReset =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(ServeError::Read(error)),
            }
            self.heard.now();
        }
        Ok(true)
    }

    fn take(&mut self, header: Header, frame: Frame) -> Result<(), ServeError> {
        let (message, body, raw_at) = frame.into_parts();
        let cost = message.bulk_cost(body.len() - raw_at);
        match message {
            Message::Ping(number) => self.doors.outbox.urgent(Message::Pong(number)),
            Message::Pong(_) => {}
            Message::List { first, dirs } => {
                let held = Arc::new(self.hold(body, raw_at));
                // Numbers second: after the last one there may be no further number.
                for (asked, request) in dirs.into_iter().zip(first..) {
                    let Asked { dir, digest } = asked;
                    self.ask(Ask::List { request, dir, digest, _held: held.clone() });
                }
            }
            Message::Names { users, groups } => {
                let held = self.hold(body, raw_at);
                self.ask(Ask::Names { users, groups, _held: held });
            }
            Message::Ops { first, hash, ops } => {
                return self.ops(first, hash, ops, body, raw_at);
            }
            Message::Open { stage, hint, size } => {
                let opened = self.open(stage)?;
                self.piece(Piece::Open(opened, hint, size));
            }
            Message::Resume { stage, path, size } => {
                let opened = self.open(stage)?;
                self.piece(Piece::Resume(opened, path, size));
            }
            Message::Mirrored => self.ask(Ask::Mirrored),
            Message::Data { stage, offset } => {
                if header.stream != stage {
                    return broken("content on a stream that is not its own");
                }
                let Some(open) = self.stages.get(&stage) else {
                    return broken(format!("content for stage {stage}, which is not open"));
                };
                let open = open.clone();
                self.charge(cost)?;
                open.expect_one();
                let body = self.gauge.hold(body, raw_at);
                self.piece(Piece::Data(open, offset, body));
            }
            Message::Base { stage, path, version } => {
                let Some(open) = self.stages.get(&stage) else {
                    return broken(format!("a base for stage {stage}, which is not open"));
                };
                if !open.expect_base() {
                    return broken(format!("stage {stage} gets a second base"));
                }
                self.seek(Sought::Base(open.clone(), path, version));
            }
            Message::Known { stage, version } => {
                let Some(open) = self.stages.get(&stage) else {
                    return broken(format!("a version for stage {stage}, which is not open"));
                };
                if !open.expects_base() {
                    return broken("a version without a base");
                }
                if !open.expect_sums() {
                    return broken(format!("more than {MAX_ASKS} questions for sums of a stage"));
                }
                self.seek(Sought::Known(open.clone(), version));
            }
            Message::AskSums { stage, how, block, ranges } => {
                let Some(open) = self.stages.get(&stage) else {
                    return broken(format!("sums for stage {stage}, which is not open"));
                };
                if how != SumHow::Kept && !open.expects_base() {
                    return broken("sums without a base");
                }
                if how != SumHow::Search && !open.same_block(block) {
                    return broken(format!("stage {stage} is compared in blocks of two sizes"));
                }
                if !open.expect_sums() {
                    return broken(format!("more than {MAX_ASKS} questions for sums of a stage"));
                }
                let open = open.clone();
                self.gauge.wait_below(HELD, &self.doors.stop);
                let held = self.gauge.decoded(&ranges);
                let question = Question { how, block, ranges, _held: held };
                self.seek(Sought::Sums(open, question));
            }
            Message::Copy { stage, copies } => {
                let Some(open) = self.stages.get(&stage) else {
                    return broken(format!("copies for stage {stage}, which is not open"));
                };
                if !open.expects_base() {
                    return broken("copies without a base");
                }
                let open = open.clone();
                self.charge(cost)?;
                open.expect_one();
                let held = self.gauge.decoded(&copies);
                self.piece(Piece::Copy(open, copies, cost, held));
            }
            Message::AskHashes { request, dir, names, calm } => {
                let _held = self.hold(body, raw_at);
                // The hashers are gone only when the link ended.
                let _ = self.doors.weigh.send(Weigh::Files { request, dir, names, calm, _held });
            }
            Message::Abort { stage } => {
                let Some(open) = self.stages.remove(&stage) else {
                    return broken(format!("stage {stage} is given up, but not open"));
                };
                open.end();
                open.expect_one();
                self.piece(Piece::Abort(open));
            }
            Message::Bye
            | Message::Same { .. }
            | Message::Entries { .. }
            | Message::NoList { .. }
            | Message::NameIds { .. }
            | Message::Acks { .. }
            | Message::Credit { .. }
            | Message::StageTrouble { .. }
            | Message::BaseIs { .. }
            | Message::Kept { .. }
            | Message::Sums { .. }
            | Message::Hashes { .. }
            | Message::Warning { .. } => {
                return broken(format!("a message of type {}, which no source sends", header.kind));
            }
        }
        Ok(())
    }

    /// A stage more.
    fn open(&mut self, stage: u32) -> Result<Arc<Stage>, ServeError> {
        if self.stages.len() >= MAX_STAGES {
            return broken(format!("more than {MAX_STAGES} stages are open"));
        }
        if self.stages.contains_key(&stage) {
            return broken(format!("stage {stage} is opened twice"));
        }
        self.wait_for_stages();
        let opened = Stage::new(stage, &self.alive);
        self.stages.insert(stage, opened.clone());
        opened.expect_one();
        Ok(opened)
    }

    /// Takes bulk credit.
    fn charge(&mut self, cost: u32) -> Result<(), ServeError> {
        self.bulk += u64::from(cost);
        if self.bulk > self.doors.outbox.bulk_given() + u64::from(BULK_CREDIT) {
            return broken("more content than the credit allows");
        }
        Ok(())
    }

    /// Counts a message, when there is room for it.
    fn hold(&self, body: Vec<u8>, raw_at: usize) -> Held {
        self.gauge.wait_below(HELD, &self.doors.stop);
        self.gauge.hold(body, raw_at)
    }

    fn ask(&self, ask: Ask) {
        // The listers are gone only when the link ended.
        let _ = self.doors.asks.send(ask);
    }

    fn seek(&self, sought: Sought) {
        // Gone only when the link ended.
        let _ = self.doors.sought.send(sought);
    }

    fn piece(&self, piece: Piece) {
        let _ = self.doors.pieces.send(piece);
    }

    /// Waits until stages that were committed are done: each holds a descriptor.
    fn wait_for_stages(&self) {
        while self.alive.load(Ordering::Relaxed) >= STAGES_HELD
            && !self.doors.stop.load(Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn ops(
        &mut self,
        first: OpId,
        hash: Option<lsync_protocol::message::Hash>,
        ops: Vec<Op>,
        body: Vec<u8>,
        raw_at: usize,
    ) -> Result<(), ServeError> {
        if first < self.next {
            return broken(format!("operation {first} comes again"));
        }
        self.next = first + ops.len() as u64;
        self.small += ops.iter().map(|op| u64::from(op.cost())).sum::<u64>();
        if self.small > self.doors.outbox.small_given() + u64::from(SMALL_CREDIT) {
            return broken("more operations than the credit allows");
        }
        if hash.is_some_and(|hash| hash != *blake3::hash(&body[raw_at..]).as_bytes()) {
            return broken("content that does not match its hash");
        }
        let body = Arc::new(self.hold(body, raw_at));
        let mut at = 0;
        let mut works = Vec::with_capacity(ops.len());
        for (op, id) in ops.into_iter().zip(first..) {
            let content = at..at + op.inline_size();
            at = content.end;
            let stage = match op.stage() {
                None => None,
                Some(stage) => match self.stages.remove(&stage) {
                    None => return broken(format!("stage {stage} is committed, but not open")),
                    Some(open) => {
                        open.end();
                        Some(open)
                    }
                },
            };
            works.push(Work { id, op, body: body.clone(), content, stage });
        }
        let _ = self.doors.orders.send(Orders::Apply(works));
        Ok(())
    }
}
