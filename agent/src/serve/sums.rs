//! The thread that reads bases for their sums.
//!
//! Questions are answered in the order they came within a stage, a step at a time in turn between
//! stages: a question about a large file keeps no other one waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::Receiver;
use lsync_protocol::delta::sums::{SUM, put_sums};
use lsync_protocol::delta::tree::short;
use lsync_protocol::message::{MAX_SUMS, Message, OpId, SumHow};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::gauge::Held;
use crate::apply::Ground;
use crate::fault::Call;
use crate::order::Fuse;
use crate::outbox::Outbox;
use crate::stage::{Base, STEP, Stage, chains_of, fill};

/// What the reader of bases is told.
pub(super) enum Sought {
    /// This stage has its base there, which perhaps is this version.
    Base(Arc<Stage>, RelPath, Option<OpId>),
    /// Its base, whose sums were all told, is this version.
    Known(Arc<Stage>, OpId),
    /// Sums of its base are wanted.
    Sums(Arc<Stage>, Question),
    /// Nothing more will come.
    End,
}

/// Which sums.
pub(super) struct Question {
    pub(super) how: SumHow,
    /// Bytes of a block.
    pub(super) block: u32,
    /// First byte and length.
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) _held: Held,
}

/// What one step reads at least, if there is so much.
const TURN: usize = 4 * STEP;
/// An answer leaves after so many bytes were read, though there is room for more in it.
const LEAVE: usize = 32 * STEP;
/// The most bytes of sums that one reading gives.
const MOST: usize = STEP / 1024 * SUM;

/// A question on its way to be answered.
struct Open {
    question: Question,
    /// Which range, and how much of it is done.
    range: usize,
    done: u64,
    /// Sums that did not leave yet, and what was read for them.
    sums: Vec<u8>,
    read: usize,
}

/// A stage and what is asked of its base.
struct Turn {
    stage: Arc<Stage>,
    open: VecDeque<Open>,
}

/// How a step ended.
enum Step {
    /// There is more to read.
    More,
    /// The question is answered.
    Answered,
    /// The link ended.
    Over,
}

/// Answers until there is nothing more to answer.
pub(super) fn run(
    ground: Option<&Ground>,
    sought: &Receiver<Sought>,
    outbox: &Arc<Outbox>,
    key: &[u8; 32],
) {
    let _fuse = Fuse(outbox.clone());
    let kept = Arc::new(AtomicUsize::new(0));
    let never = AtomicBool::new(false);
    let reading = Reading { ground, outbox, key, stop: ground.map_or(&never, |g| &g.stop) };
    let mut turns: VecDeque<Turn> = VecDeque::new();
    let mut buffer = Vec::new();
    loop {
        let next = if turns.is_empty() { sought.recv().ok() } else { sought.try_recv().ok() };
        if reading.stop.load(Ordering::Relaxed) {
            return;
        }
        match next {
            Some(Sought::End) => return,
            Some(Sought::Base(stage, path, version)) => {
                if !reading.open(&stage, &path, version, &kept) {
                    return;
                }
            }
            Some(Sought::Known(stage, version)) => {
                if !reading.know(&stage, version) {
                    return;
                }
            }
            Some(Sought::Sums(stage, question)) => {
                let open = Open { question, range: 0, done: 0, sums: Vec::new(), read: 0 };
                match turns.iter_mut().find(|turn| Arc::ptr_eq(&turn.stage, &stage)) {
                    Some(turn) => turn.open.push_back(open),
                    None => turns.push_back(Turn { stage, open: VecDeque::from([open]) }),
                }
            }
            // Nobody is left to ask or to be answered.
            None if turns.is_empty() => return,
            None => {
                turns.retain(|turn| !turn.stage.is_over());
                let Some(mut turn) = turns.pop_front() else { continue };
                match reading.step(&mut turn, &mut buffer) {
                    Step::More => {}
                    Step::Answered => drop(turn.open.pop_front()),
                    Step::Over => return,
                }
                if !turn.open.is_empty() {
                    turns.push_back(turn);
                } else if turns.is_empty() {
                    // One large block must not stay in memory while nobody asks.
                    buffer = Vec::new();
                }
            }
        }
    }
}

/// What it takes to read.
struct Reading<'a> {
    ground: Option<&'a Ground>,
    outbox: &'a Outbox,
    key: &'a [u8; 32],
    stop: &'a AtomicBool,
}

/// Why a step did not come to its end.
enum Unread {
    /// The base cannot be read.
    Base,
    /// Nobody wants to know any more.
    Gone,
}

impl Reading<'_> {
    /// Opens a base and says so. `false` when the link ended.
    fn open(
        &self,
        stage: &Stage,
        path: &RelPath,
        version: Option<OpId>,
        kept: &Arc<AtomicUsize>,
    ) -> bool {
        let base = self.ground.and_then(|ground| {
            let version = version.map(|id| (&ground.versions, id));
            Base::open(&ground.root, path, version, kept)
        });
        let is = if version.is_some() { Base::is_known } else { Base::may_grow };
        let (size, known) = (base.as_ref().map(Base::size), base.as_ref().is_some_and(is));
        stage.set_base(base.map(Arc::new));
        self.outbox.listing(Message::BaseIs { stage: stage.id, size, known }, 16)
    }

    /// Has the base be a version, and says whether that is so. `false` when the link ended.
    fn know(&self, stage: &Stage, version: OpId) -> bool {
        let base = stage.base(self.stop);
        let known = match (&base, self.ground) {
            (Some(base), Some(ground)) => {
                base.become_version(&ground.root, &ground.versions, version)
            }
            _ => false,
        };
        stage.answered_sums();
        let size = base.map(|base| base.size());
        self.outbox.listing(Message::BaseIs { stage: stage.id, size, known }, 16)
    }

    /// Reads on for the first question of a stage.
    fn step(&self, turn: &mut Turn, buffer: &mut Vec<u8>) -> Step {
        let Turn { stage, open } = turn;
        let Some(open) = open.front_mut() else { return Step::Answered };
        let base = match open.question.how {
            SumHow::Kept => None,
            SumHow::Same | SumHow::Search => match stage.base(self.stop) {
                None => return self.unanswered(stage),
                base => base,
            },
        };
        let size = match &base {
            Some(base) => Some(base.size()),
            None => stage.kept().map(|(_, size)| size),
        };
        if !size.is_some_and(|size| fits(&open.question, size)) {
            return self.unanswered(stage);
        }
        let base = base.as_deref();
        if let (SumHow::Same, Some(base)) = (open.question.how, base) {
            base.keep(open.question.block);
        }
        let mut read = 0;
        while read < TURN {
            let Some(&(start, len)) = open.question.ranges.get(open.range) else { break };
            if open.sums.len() + MOST > MAX_SUMS || open.read >= LEAVE {
                let sums = std::mem::take(&mut open.sums);
                open.read = 0;
                if !self.say(stage, sums) {
                    return Step::Over;
                }
            }
            let rest = len - open.done;
            let step = rest.min((STEP as u64).max(u64::from(open.question.block)));
            match self.sums(stage, base, open, start + open.done, step, buffer) {
                Ok(()) => {}
                Err(Unread::Gone) if self.stop.load(Ordering::Relaxed) => return Step::Over,
                Err(Unread::Gone) => return Step::More,
                Err(Unread::Base) => return self.unanswered(stage),
            }
            open.done += step;
            if open.done == len {
                open.done = 0;
                open.range += 1;
            }
            read += step as usize;
            open.read += step as usize;
        }
        if open.range < open.question.ranges.len() {
            return Step::More;
        }
        stage.answered_sums();
        let sums = std::mem::take(&mut open.sums);
        if self.say(stage, sums) { Step::Answered } else { Step::Over }
    }

    /// The sums of one step, behind those that are there.
    fn sums(
        &self,
        stage: &Stage,
        base: Option<&Base>,
        open: &mut Open,
        at: u64,
        len: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Unread> {
        let read = |at: u64, into: &mut [u8]| {
            if stage.is_over() || self.stop.load(Ordering::Relaxed) {
                return Err(Unread::Gone);
            }
            let known = |ground: &Ground| match base {
                Some(base) => {
                    ground.fault(Call::Read, &base.path).and_then(|()| base.read(at, into))
                }
                None => stage.kept().map_or(Err(Errno::IO), |(file, _)| fill(file, at, into)),
            };
            self.ground.map_or(Err(Errno::IO), known).map_err(|_| Unread::Base)
        };
        let block = open.question.block;
        match open.question.how {
            SumHow::Same | SumHow::Kept => {
                chains_of(block, at..at + len, buffer, read, |range, chain| {
                    open.sums.extend_from_slice(&short(&chain));
                    if let Some(base) = base {
                        base.learn(&range, chain);
                    }
                })
            }
            SumHow::Search => {
                buffer.resize(len as usize, 0);
                read(at, buffer)?;
                put_sums(self.key, block, buffer, &mut open.sums);
                Ok(())
            }
        }
    }

    /// The rest of a question stays without an answer.
    fn unanswered(&self, stage: &Stage) -> Step {
        stage.answered_sums();
        if self.say(stage, Vec::new()) { Step::Answered } else { Step::Over }
    }

    /// `false` when the link ended.
    fn say(&self, stage: &Stage, sums: Vec<u8>) -> bool {
        let bytes = sums.len() + 16;
        self.outbox.listing(Message::Sums { stage: stage.id, sums }, bytes)
    }
}

/// Does it ask for nothing beyond the base?
fn fits(question: &Question, size: u64) -> bool {
    let end = |&(start, len): &(u64, u64)| start.checked_add(len);
    question.ranges.iter().all(|range| end(range).is_some_and(|end| end <= size))
}
