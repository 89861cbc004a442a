//! Lsyncd 2's queue: what happened in one sync's source and is not yet done, as *delays*.
//!
//! A delay waits, is blocked by an older one that must be done first, or is active: a child works
//! on it. What comes is combined with the newest delay that it touches (`combine`). The queue
//! keeps one promise beyond Lsyncd 2's: of two delays that touch each other, the older one is done
//! before the younger begins, whatever else is between them. Lsyncd 2 remembered one blocker and
//! forgot the others.
//!
//! Pure: no clock, no Lua, no children. Each step costs the depth of the path times the logarithm
//! of the queue's length, whatever is queued (`index`).

pub mod combine;
mod index;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

use combine::{Combined, combine};
use index::Index;

/// The shortest pause before something is tried again.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// What a delay is about, by Lsyncd 2's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Etype {
    /// Attributes of a name changed.
    Attrib,
    /// Content of a file changed.
    Modify,
    /// A name is there that was not.
    Create,
    /// A name went.
    Delete,
    /// A name is called otherwise now.
    Move,
    /// The sync starts, or starts anew.
    Init,
    /// A script's barrier: done after all before it and before all behind it.
    Blanket,
    /// A script wants a whole subtree looked at.
    Full,
}

impl Etype {
    /// As scripts read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Etype::Attrib => "Attrib",
            Etype::Modify => "Modify",
            Etype::Create => "Create",
            Etype::Delete => "Delete",
            Etype::Move => "Move",
            Etype::Init => "Init",
            Etype::Blanket => "Blanket",
            Etype::Full => "Full",
        }
    }

    /// Everything behind it waits for it.
    #[must_use]
    pub fn is_barrier(self) -> bool {
        matches!(self, Etype::Init | Etype::Blanket)
    }

    /// It waits for everything before it.
    fn waits_for_all(self) -> bool {
        self.is_barrier() || self == Etype::Full
    }
}

impl fmt::Display for Etype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name beneath the source and whether it is a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The name.
    pub path: RelPath,
    /// It is a directory.
    pub dir: bool,
}

impl Place {
    /// As Lsyncd 2 writes it: a slash before all, and one behind a directory.
    #[must_use]
    pub fn slashed(&self) -> Vec<u8> {
        let mut text = vec![b'/'];
        text.extend_from_slice(self.path.as_bytes());
        if self.dir && !self.path.is_root() {
            text.push(b'/');
        }
        text
    }

    /// Is one of them at or beneath the other?
    #[must_use]
    pub fn touches(&self, other: &Place) -> bool {
        self.path.is_at_or_under(&other.path) || other.path.is_under(&self.path)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub etype: Etype,
    /// Where; of a move its origin, of a barrier the root.
    pub path: Place,
    /// Where a move leads.
    pub to: Option<Place>,
}

impl Change {
    /// A change of one name.
    #[must_use]
    pub fn of(etype: Etype, path: RelPath, dir: bool) -> Change {
        Change { etype, path: Place { path, dir }, to: None }
    }

    /// A move.
    #[must_use]
    pub fn moved(from: RelPath, to: RelPath, dir: bool) -> Change {
        let to = Some(Place { path: to, dir });
        Change { etype: Etype::Move, path: Place { path: from, dir }, to }
    }

    /// About the whole source.
    #[must_use]
    pub fn whole(etype: Etype) -> Change {
        Change::of(etype, RelPath::root(), true)
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.path).chain(&self.to)
    }

    /// May it be looked for by its paths?
    fn has_places(&self) -> bool {
        !self.etype.waits_for_all()
    }
}

/// How a delay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It may be done once its time has come.
    Wait,
    /// A child works on it.
    Active,
    /// An older delay must be done first.
    Block,
}

impl Status {
    /// As scripts and the status file have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Wait => "wait",
            Status::Active => "active",
            Status::Block => "block",
        }
    }
}

/// Names one delay for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DelayId(pub(super) u64);

/// A place in the queue. It stays when a newer delay replaces the one that stands there.
type Position = u64;

/// One entry of the queue.
#[derive(Debug, Clone)]
pub struct Delay {
    /// Its name.
    pub id: DelayId,
    /// What happened.
    pub change: Change,
    /// How it stands.
    pub status: Status,
    /// When it may be done.
    pub alarm: Instant,
    /// The alarm is a pause after a failure, which a full queue does not shorten.
    retried: bool,
    /// Those that found this one to be the newest that they have to wait for.
    dependants: BTreeSet<Position>,
}

/// What became of something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is a new delay of its own.
    New(DelayId),
    /// It says nothing that this delay does not say.
    Absorbed(DelayId),
    /// It stands in the place of an older delay, which is no more.
    Replaced {
        /// Which is gone.
        old: DelayId,
        /// Which came.
        new: DelayId,
    },
    /// It is a new delay and waits for an older one.
    Stacked {
        /// The older one.
        on: DelayId,
        /// Which came.
        new: DelayId,
    },
    /// The older move only deletes its origin now, and the new delay waits for it.
    ToDelete {
        /// The older one.
        on: DelayId,
        /// Which came.
        new: DelayId,
    },
    /// This move is a deletion and a creation instead; their decisions follow.
    Split,
}

/// One sync's delays.
#[derive(Debug)]
pub struct Queue {
    delay: Duration,
    max_delays: usize,
    delays: BTreeMap<Position, Delay>,
    positions: HashMap<DelayId, Position>,
    index: Index,
    /// What children work on, and all that they do not.
    active: Index,
    active_barriers: usize,
    idle: BTreeSet<Position>,
    barriers: BTreeSet<Position>,
    /// Those that wait, by their alarms: what never failed, and what did.
    fresh: BTreeSet<(Instant, Position)>,
    retries: BTreeSet<(Instant, Position)>,
    next_position: Position,
    next_id: u64,
}

impl Queue {
    /// An empty queue. With `max_delays` delays in it nothing waits for its time any more.
    #[must_use]
    pub fn new(delay: Duration, max_delays: usize) -> Queue {
        Queue {
            delay,
            max_delays,
            delays: BTreeMap::new(),
            positions: HashMap::new(),
            index: Index::default(),
            active: Index::default(),
            active_barriers: 0,
            idle: BTreeSet::new(),
            barriers: BTreeSet::new(),
            fresh: BTreeSet::new(),
            retries: BTreeSet::new(),
            next_position: 0,
            next_id: 0,
        }
    }

    /// How many delays there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.delays.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delays.is_empty()
    }

    /// The delays, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Delay> {
        self.delays.values()
    }

    /// A delay that is still in the queue.
    #[must_use]
    pub fn get(&self, id: DelayId) -> Option<&Delay> {
        self.delays.get(self.positions.get(&id)?)
    }

    /// Something happened. A move may become two delays.
    pub fn push(&mut self, now: Instant, change: Change) -> Vec<Decision> {
        if change.etype.waits_for_all() {
            let on = self.last().map(|last| last.id);
            let new = self.append(now, now, change);
            return vec![match on {
                Some(on) => Decision::Stacked { on, new },
                None => Decision::New(new),
            }];
        }
        let alarm = now + self.delay;
        let Some(hit) = self.newest_before(&change, None) else {
            return vec![Decision::New(self.append(now, alarm, change))];
        };
        let old = &self.delays[&hit];
        let on = old.id;
        let combined = combine(&old.change, old.status == Status::Active, &change);
        vec![match combined {
            Combined::Apart => Decision::New(self.append(now, alarm, change)),
            Combined::Absorb => Decision::Absorbed(on),
            Combined::Replace => Decision::Replaced { old: on, new: self.replace(hit, change) },
            Combined::Stack => Decision::Stacked { on, new: self.append(now, alarm, change) },
            Combined::ToDelete => {
                self.forget_places(hit);
                if let Some(old) = self.delays.get_mut(&hit) {
                    old.change.etype = Etype::Delete;
                    old.change.to = None;
                }
                self.note_places(hit);
                let new = self.append(now, alarm, change);
                // They have no name in common any more; the order of what happened is kept.
                self.block(self.positions[&new], hit);
                Decision::ToDelete { on, new }
            }
            Combined::Split => {
                let Change { path, to, .. } = change;
                let mut all = vec![Decision::Split];
                let gone = Change { etype: Etype::Delete, path, to: None };
                all.extend(self.push(now, gone));
                if let Some(path) = to {
                    all.extend(self.push(now, Change { etype: Etype::Create, path, to: None }));
                }
                return all;
            }
        }]
    }

    /// The first delay that may be done now.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<DelayId> {
        let full = self.is_full();
        let fresh = self.fresh.first().filter(|(alarm, _)| full || *alarm <= now);
        let retry = self.retries.first().filter(|(alarm, _)| *alarm <= now);
        let position = fresh.into_iter().chain(retry).map(|&(_, position)| position).min()?;
        Some(self.delays[&position].id)
    }

    /// When the next delay may be done; a time that has passed when one may be done already.
    #[must_use]
    pub fn next_alarm(&self, now: Instant) -> Option<Instant> {
        let full = self.is_full();
        let fresh = self.fresh.first().map(|&(alarm, _)| if full { alarm.min(now) } else { alarm });
        let retry = self.retries.first().map(|&(alarm, _)| alarm);
        fresh.into_iter().chain(retry).min()
    }

    /// Does nothing wait for its time any more?
    fn is_full(&self) -> bool {
        self.delays.len() >= self.max_delays
    }

    /// A child works on these. Those that were blocked may be among them, when what blocks them is.
    pub fn activate(&mut self, ids: &[DelayId]) {
        for id in ids {
            if let Some(&position) = self.positions.get(id) {
                self.set_status(position, Status::Active);
            }
        }
    }

    /// This one is done: what waited for it may go on. Gives what it was.
    pub fn finish(&mut self, id: DelayId) -> Option<Delay> {
        let position = *self.positions.get(&id)?;
        self.unqueue(position);
        self.forget_places(position);
        self.idle.remove(&position);
        self.barriers.remove(&position);
        self.positions.remove(&id);
        let delay = self.delays.remove(&position)?;
        for &dependant in &delay.dependants {
            if self.delays.get(&dependant).is_some_and(|d| d.status == Status::Block) {
                self.settle(dependant);
            }
        }
        Some(delay)
    }

    /// This one failed: it is tried again, after a pause.
    pub fn retry(&mut self, now: Instant, id: DelayId) {
        let Some(&position) = self.positions.get(&id) else { return };
        let pause = self.delay.max(RETRY_MIN);
        self.unqueue(position);
        if let Some(delay) = self.delays.get_mut(&position) {
            delay.alarm = now + pause;
            delay.retried = true;
        }
        self.settle(position);
    }

    /// The newest delay.
    #[must_use]
    pub fn last(&self) -> Option<&Delay> {
        self.delays.values().next_back()
    }

    /// All that no child works on, in order: what [`Gather`] is asked about.
    #[must_use]
    pub fn idle(&self) -> Vec<DelayId> {
        self.idle.iter().filter_map(|position| Some(self.delays.get(position)?.id)).collect()
    }

    /// The newest delay before `below` that a change has to do with.
    fn newest_before(&self, change: &Change, below: Option<Position>) -> Option<Position> {
        let below = below.unwrap_or(Position::MAX);
        if change.etype.waits_for_all() {
            return self.delays.range(..below).next_back().map(|(&position, _)| position);
        }
        let barrier = self.barriers.range(..below).next_back().copied();
        let touched = change.places().filter_map(|place| self.index.newest(&place.path, below));
        barrier.into_iter().chain(touched).max()
    }

    /// A new delay at the end, which waits for what it has to do with.
    fn append(&mut self, now: Instant, alarm: Instant, change: Change) -> DelayId {
        let id = self.new_id();
        let position = self.next_position;
        self.next_position += 1;
        if change.etype.is_barrier() {
            self.barriers.insert(position);
        }
        let status = Status::Block;
        let alarm = alarm.max(now);
        let delay =
            Delay { id, change, status, alarm, retried: false, dependants: BTreeSet::new() };
        self.delays.insert(position, delay);
        self.positions.insert(id, position);
        self.idle.insert(position);
        self.note_places(position);
        self.settle(position);
        id
    }

    /// A new delay in the place of an old one: it keeps the alarm, which counts from the first of
    /// all events, and everything that has to do with blocking.
    fn replace(&mut self, position: Position, change: Change) -> DelayId {
        let id = self.new_id();
        self.forget_places(position);
        if let Some(delay) = self.delays.get_mut(&position) {
            self.positions.remove(&delay.id);
            delay.id = id;
            delay.change = change;
        }
        self.positions.insert(id, position);
        self.note_places(position);
        id
    }

    fn new_id(&mut self) -> DelayId {
        self.next_id += 1;
        DelayId(self.next_id)
    }

    /// Lets a delay wait, or be blocked by the newest older one that it touches.
    fn settle(&mut self, position: Position) {
        let Some(delay) = self.delays.get(&position) else { return };
        match self.newest_before(&delay.change, Some(position)) {
            Some(blocker) => self.block(position, blocker),
            None => self.set_status(position, Status::Wait),
        }
    }

    fn block(&mut self, position: Position, blocker: Position) {
        if let Some(blocker) = self.delays.get_mut(&blocker) {
            blocker.dependants.insert(position);
        }
        self.set_status(position, Status::Block);
    }

    fn set_status(&mut self, position: Position, status: Status) {
        self.unqueue(position);
        let Some(delay) = self.delays.get_mut(&position) else { return };
        delay.status = status;
        match status {
            Status::Active => {
                self.idle.remove(&position);
                self.active.add(&delay.change, position);
                self.active_barriers += usize::from(delay.change.etype.is_barrier());
            }
            Status::Wait | Status::Block => {
                self.idle.insert(position);
            }
        }
        if status == Status::Wait {
            let due = (delay.alarm, position);
            if delay.retried {
                self.retries.insert(due)
            } else {
                self.fresh.insert(due)
            };
        }
    }

    /// It is neither among those that wait any more nor among those that are worked on.
    fn unqueue(&mut self, position: Position) {
        let Some(delay) = self.delays.get(&position) else { return };
        let due = (delay.alarm, position);
        self.fresh.remove(&due);
        self.retries.remove(&due);
        if delay.status == Status::Active && !self.idle.contains(&position) {
            self.active.remove(&delay.change, position);
            self.active_barriers -= usize::from(delay.change.etype.is_barrier());
            self.idle.insert(position);
        }
    }

    fn note_places(&mut self, position: Position) {
        let Some(delay) = self.delays.get(&position) else { return };
        self.index.add(&delay.change, position);
    }

    fn forget_places(&mut self, position: Position) {
        let Some(delay) = self.delays.get(&position) else { return };
        self.index.remove(&delay.change, position);
    }
}

/// Which delays one child may take together: all those, in order, that do not have to wait for one
/// that is left out or worked on. They may be blocked by each other: one child does them in their
/// order.
#[derive(Debug, Default)]
pub struct Gather {
    left: Index,
    barrier: bool,
    any: bool,
    count: Position,
}

impl Gather {
    /// Could this one be taken, of the [idle](Queue::idle) ones?
    #[must_use]
    pub fn may_take(&self, queue: &Queue, delay: &Delay) -> bool {
        // A child works on a barrier only when nothing before it is left.
        if self.barrier || queue.active_barriers > 0 || delay.status == Status::Active {
            return false;
        }
        if delay.change.etype.waits_for_all() {
            return !self.any && queue.idle.len() == queue.delays.len();
        }
        let touched = |index: &Index| {
            let mut places = delay.change.places();
            places.any(|place| index.newest(&place.path, Position::MAX).is_some())
        };
        !touched(&self.left) && !touched(&queue.active)
    }

    /// This one is left out.
    pub fn leave(&mut self, delay: &Delay) {
        self.any = true;
        self.barrier |= delay.change.etype.is_barrier();
        self.left.add(&delay.change, self.count);
        self.count += 1;
    }
}
