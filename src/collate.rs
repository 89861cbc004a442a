//! Collate: events and a clock become changes: which paths are dirty, when each may leave, and
//! which names moved. Pure: time is an argument.
//!
//! The dirty set holds one entry a path, in the order of `RelPath`. An event marks, a rename moves
//! the marks beneath the old name to the new one, so marks always speak of names as they are now.
//! What a rename did to names is kept apart as ordered [`Step`]s, which leave before any mark: the
//! target goes through the same names in the same order, so chains and swaps need no cleverness.
//! The set is bounded: too many paths collapse into subtrees, too many subtrees into the whole tree.

mod follow;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

use crate::watch::event::WatchEvent;

pub use follow::Follow;

/// A file that is written and not closed leaves after so much rest.
const REST: Duration = Duration::from_millis(50);
/// A file that is written and not closed leaves at most once in this time, and waits no longer.
const UNCLOSED_EVERY: Duration = Duration::from_secs(1);
/// A new file is usually written and closed at once: worth this wait, to send it once, not twice.
const BORN: Duration = Duration::from_millis(5);
/// The shortest time between two batches.
const SLICE: Duration = Duration::from_millis(2);
/// The longest time by which a large batch holds up the next.
const SLICE_MAX: Duration = Duration::from_millis(10);

/// What is marked where a file is written to.
const WRITTEN: Marks = Marks::CONTENT.with(Marks::WRITTEN);

/// What may differ at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks(u16);

impl Marks {
    /// Content, whatever size and time say.
    pub const CONTENT: Marks = Marks(1);
    /// Attributes.
    pub const META: Marks = Marks(2);
    /// The name itself: it came or went.
    pub const NAME: Marks = Marks(4);
    /// Everything beneath, compared by a walk.
    pub const TREE: Marks = Marks(8);
    /// With `TREE`: files beneath are sent whatever size and time say.
    pub const WHOLE: Marks = Marks(16);
    /// It was a directory when it was last heard of.
    pub const DIR: Marks = Marks(32);
    /// The last that was heard of the name is that it went.
    pub const GONE: Marks = Marks(128);
    /// It was missing and nothing had said why, and has waited for what would say so.
    pub const WAITED: Marks = Marks(64);
    /// It was written to under this name: another name of the file, that looks like it, may stand
    /// on the target for what was there before.
    pub const WRITTEN: Marks = Marks(256);

    /// All of these marks are set.
    #[must_use]
    pub fn has(self, marks: Marks) -> bool {
        self.0 & marks.0 == marks.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, marks: Marks) -> Marks {
        Marks(self.0 | marks.0)
    }

    /// Those of these that are among those.
    #[must_use]
    pub fn only(self, marks: Marks) -> Marks {
        Marks(self.0 & marks.0)
    }

    /// These without those.
    #[must_use]
    pub fn without(self, marks: Marks) -> Marks {
        Marks(self.0 & !marks.0)
    }
}

/// A dirty path.
#[derive(Debug, Clone, Copy)]
struct Dirty {
    marks: Marks,
    /// When the first of the events came that have not left yet.
    first: Instant,
    /// When it may leave; `None` while an operation on the path is in flight.
    due: Option<Instant>,
}

/// A file that is written to.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// When it last left, or so long ago that it may leave.
    left: Instant,
    /// It was closed after the last write that was heard of.
    closed: bool,
}

/// What happened to names, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A name moved.
    Rename {
        /// The old name.
        from: RelPath,
        /// The new name.
        to: RelPath,
        /// It is a directory.
        dir: bool,
    },
    /// A name had gone before the next rename put something else there.
    Clear {
        /// The name.
        path: RelPath,
        /// It was a directory.
        dir: bool,
    },
}

/// Changes that leave together: first the steps, in order, then the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// What happened to names.
    pub steps: Vec<Step>,
    /// Dirty paths in their order, what may differ, and when the first event came.
    pub paths: Vec<(RelPath, Marks, Instant)>,
}

impl Batch {
    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.paths.is_empty()
    }
}

/// The dirty set of one mirror.
#[derive(Debug)]
pub struct Collate {
    delay: Duration,
    limit: usize,
    dirty: BTreeMap<RelPath, Dirty>,
    due: BTreeSet<(Instant, RelPath)>,
    steps: Vec<Step>,
    /// When the steps may leave.
    steps_due: Option<Instant>,
    /// When the first of them was heard of.
    steps_first: Option<Instant>,
    /// What is marked goes back to something that was heard of then.
    since: Option<Instant>,
    /// What was heard of until then waits for no delay.
    hurried: Option<Instant>,
    /// Files that were written to of late.
    written: BTreeMap<RelPath, Written>,
    written_swept: Option<Instant>,
    /// No batch before this.
    quiet_until: Option<Instant>,
    collapsed: u64,
}

impl Collate {
    /// A dirty set whose changes wait `delay` at most (0: leave when they rest), with at most
    /// `limit` paths.
    #[must_use]
    pub fn new(delay: Duration, limit: usize) -> Collate {
        Collate {
            delay,
            limit: limit.max(2),
            dirty: BTreeMap::new(),
            due: BTreeSet::new(),
            steps: Vec::new(),
            steps_due: None,
            steps_first: None,
            since: None,
            hurried: None,
            written: BTreeMap::new(),
            written_swept: None,
            quiet_until: None,
            collapsed: 0,
        }
    }

    /// How many paths are dirty.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dirty.len() + self.steps.len()
    }

    /// Did names move or go that the target has not been told of?
    #[must_use]
    pub fn has_steps(&self) -> bool {
        !self.steps.is_empty()
    }

    /// What happened to names and the target has not been told of, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The dirty paths in their order, and what may differ.
    pub fn dirty_paths(&self) -> impl Iterator<Item = (&RelPath, Marks)> {
        self.dirty.iter().map(|(path, dirty)| (path, dirty.marks))
    }

    /// The dirty paths, and when the first of the events came that have not left.
    pub fn ages(&self) -> impl Iterator<Item = (&RelPath, Instant)> {
        self.dirty.iter().map(|(path, dirty)| (path, dirty.first))
    }

    /// Is nothing dirty?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.steps.is_empty()
    }

    /// How often the set overflowed and collapsed upwards.
    #[must_use]
    pub fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// Takes one event in. [`WatchEvent::Overflow`] and [`WatchEvent::RootGone`] are the mirror's
    /// business and change nothing here.
    pub fn note(&mut self, event: &WatchEvent, now: Instant) {
        match event {
            WatchEvent::Written(path) => self.mark_written(path, now),
            WatchEvent::Closed(path) => {
                if let Some(written) = self.written.get_mut(path) {
                    written.closed = true;
                }
                self.mark(path, WRITTEN, now);
            }
            WatchEvent::Appeared { path, dir: false } => {
                self.came(path);
                let known = self.dirty.contains_key(path);
                self.mark(path, Marks::NAME.with(Marks::CONTENT), now);
                if !known {
                    self.set_due(path, now + self.delay.max(BORN));
                }
            }
            WatchEvent::Appeared { path, dir: true } => {
                self.came(path);
                // It may have been moved in with old times: nothing beneath is equal by its looks.
                let marks = Marks::NAME.with(Marks::TREE).with(Marks::WHOLE).with(Marks::DIR);
                self.mark(path, marks, now);
            }
            WatchEvent::Gone { path, dir } => {
                let marks = Marks::NAME.with(Marks::GONE).with(Marks::CONTENT);
                self.mark(path, if *dir { marks.with(Marks::DIR) } else { marks }, now);
                if *dir {
                    self.explained(path, now);
                }
            }
            WatchEvent::Renamed { from, to, dir } => self.rename(from, to, *dir, now),
            WatchEvent::Attributes(path) => self.mark(path, Marks::META, now),
            WatchEvent::Unsure(path) => {
                self.mark(path, Marks::NAME.with(Marks::TREE), now);
            }
            WatchEvent::Overflow | WatchEvent::RootGone | WatchEvent::Barrier(_) => {}
        }
    }

    /// Marks a path: it leaves as soon as the delay allows.
    pub fn mark(&mut self, path: &RelPath, marks: Marks, now: Instant) {
        self.mark_until(path, marks, now, now);
    }

    /// Marks a path that leaves at `when` (a retry), unless it is due earlier already.
    pub fn mark_at(&mut self, path: &RelPath, marks: Marks, now: Instant, when: Instant) {
        self.mark_until(path, marks, now, when);
    }

    /// A name came up: whatever went from there is another thing.
    fn came(&mut self, path: &RelPath) {
        if let Some(dirty) = self.dirty.get_mut(path) {
            dirty.marks = dirty.marks.without(Marks::GONE.with(Marks::WAITED));
        }
    }

    /// A directory went: what is missing beneath it waits for nothing more.
    fn explained(&mut self, dir: &RelPath, now: Instant) {
        let ready = now + self.delay;
        for path in self.under(dir) {
            if let Some(dirty) = self.dirty.get(&path)
                && dirty.marks.has(Marks::WAITED)
                && dirty.due.is_some_and(|due| due > ready)
            {
                self.set_due(&path, ready);
            }
        }
    }

    /// Adds marks to a path that is dirty; it leaves when it would have left. Says whether it is.
    pub fn add(&mut self, path: &RelPath, marks: Marks) -> bool {
        let Some(dirty) = self.dirty.get_mut(path) else { return false };
        dirty.marks = dirty.marks.with(marks);
        true
    }

    /// What is marked from now on goes back to what was heard of at `since`: it is as old as that.
    /// `None`: it is new.
    pub fn on_behalf_of(&mut self, since: Option<Instant>) {
        self.since = since;
    }

    /// What was last said by [`Collate::on_behalf_of`].
    #[must_use]
    pub fn behalf(&self) -> Option<Instant> {
        self.since
    }

    /// When the first of the steps that have not left was heard of.
    #[must_use]
    pub fn steps_since(&self) -> Option<Instant> {
        self.steps_first.filter(|_| !self.steps.is_empty())
    }

    /// Nothing waits for its time any more, be it the delay, rest, or another try.
    pub fn hurry(&mut self, now: Instant) {
        let waiting = self.due.iter().filter(|(due, _)| *due > now).map(|(_, path)| path.clone());
        for path in waiting.collect::<Vec<_>>() {
            self.set_due(&path, now);
        }
        self.steps_due = self.steps_due.map(|due| due.min(now));
        self.quiet_until = None;
        self.hurried = Some(now);
    }

    /// When what was first heard of then has waited for its delay.
    fn ready(&self, first: Instant) -> Instant {
        match self.hurried {
            Some(hurried) if first <= hurried => first,
            _ => first + self.delay,
        }
    }

    fn mark_until(&mut self, path: &RelPath, marks: Marks, now: Instant, when: Instant) {
        let first = self.since.map_or(now, |since| since.min(now));
        let due = when.max(self.ready(first));
        match self.dirty.get_mut(path) {
            Some(dirty) => {
                dirty.marks = dirty.marks.with(marks);
                dirty.first = dirty.first.min(first);
                let Some(old) = dirty.due else { return };
                self.set_due(path, due.min(old));
            }
            None => {
                self.dirty.insert(path.clone(), Dirty { marks, first, due: Some(due) });
                self.due.insert((due, path.clone()));
                self.collapse(now);
            }
        }
    }

    /// A file is being written and was not closed.
    fn mark_written(&mut self, path: &RelPath, now: Instant) {
        if !self.delay.is_zero() {
            return self.mark(path, WRITTEN, now);
        }
        let long_ago = now.checked_sub(UNCLOSED_EVERY).unwrap_or(now);
        let fresh = Written { left: long_ago, closed: false };
        let written = self.written.entry(path.clone()).or_insert(fresh);
        written.closed = false;
        let earliest = written.left + UNCLOSED_EVERY;
        match self.dirty.get_mut(path) {
            Some(dirty) => {
                dirty.marks = dirty.marks.with(WRITTEN);
                // In flight it is due when it is released.
                if dirty.due.is_some() {
                    let due = (now + REST).min(dirty.first + UNCLOSED_EVERY).max(earliest);
                    self.set_due(path, due);
                }
            }
            None => self.mark_at(path, WRITTEN, now, (now + REST).max(earliest)),
        }
    }

    fn set_due(&mut self, path: &RelPath, due: Instant) {
        if let Some(dirty) = self.dirty.get_mut(path) {
            if let Some(old) = dirty.due.replace(due) {
                self.due.remove(&(old, path.clone()));
            }
            self.due.insert((due, path.clone()));
        }
    }

    fn remove(&mut self, path: &RelPath) -> Option<Dirty> {
        let dirty = self.dirty.remove(path)?;
        if let Some(due) = dirty.due {
            self.due.remove(&(due, path.clone()));
        }
        Some(dirty)
    }

    /// The dirty paths at or under `dir`.
    fn under(&self, dir: &RelPath) -> Vec<RelPath> {
        self.dirty
            .range(dir.clone()..)
            .take_while(|(path, _)| path.is_at_or_under(dir))
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Does something wait at or under this path?
    #[must_use]
    pub fn touches(&self, dir: &RelPath) -> bool {
        self.dirty.range(dir.clone()..).next().is_some_and(|(path, _)| path.is_at_or_under(dir))
    }

    /// The marks of a path itself.
    #[must_use]
    pub fn marks(&self, path: &RelPath) -> Option<Marks> {
        self.dirty.get(path).map(|dirty| dirty.marks)
    }

    fn rename(&mut self, from: &RelPath, to: &RelPath, dir: bool, now: Instant) {
        let ready = now + self.delay;
        // An exchange of two names comes as a rename and its reverse: as two renames it would
        // overwrite one with the other.
        if let Some(Step::Rename { from: f, to: t, .. }) = self.steps.last()
            && f == to
            && t == from
        {
            self.steps.pop();
            // Nothing had to make room for it either.
            while let Some(Step::Clear { path, .. }) = self.steps.last()
                && path.is_at_or_under(from)
            {
                self.steps.pop();
            }
            for path in [from, to] {
                let marks = Marks::NAME.with(Marks::TREE).with(Marks::WHOLE).with(Marks::CONTENT);
                self.mark(path, marks, now);
                // What they wait for is called otherwise by now: it is asked afresh.
                self.release_under(path, now);
            }
            return;
        }
        // A name that came or whose content changed and that has not left yet is not on the target
        // as it is here: nothing to rename, both names are looked at. The look is due at once.
        let stale = self.dirty.get(from).is_some_and(|dirty| {
            dirty.marks.has(Marks::NAME)
                || (!dir && dirty.marks.has(Marks::CONTENT))
                || dirty.marks.has(Marks::TREE)
        });
        // What stood under the new name is gone; the target may still have it, so it goes there
        // first, name by name, as it went here.
        let gone = if stale { Vec::new() } else { self.under(to) };
        for path in gone.into_iter().rev() {
            if let Some(dirty) = self.remove(&path)
                && dirty.marks.has(Marks::NAME)
                && !(path == *to && !dir && !dirty.marks.has(Marks::DIR))
            {
                let first = self.steps_first.get_or_insert(dirty.first);
                *first = dirty.first.min(*first);
                self.steps.push(Step::Clear { path, dir: dirty.marks.has(Marks::DIR) });
            }
        }
        let mut whole = false;
        for path in self.under(from) {
            let Some(dirty) = self.remove(&path) else { continue };
            match path.moved(from, to) {
                Some(moved) => {
                    // What it waited for may be known by the old name only: it is asked afresh.
                    let due = dirty.due.unwrap_or(ready);
                    let there = self.remove(&moved);
                    let marks = dirty.marks.without(Marks::WAITED);
                    let marks = there.map_or(marks, |there| there.marks.with(marks));
                    self.dirty.insert(moved.clone(), Dirty { marks, due: Some(due), ..dirty });
                    self.due.insert((due, moved));
                }
                None => whole = true,
            }
        }
        if let Some(written) = self.written.remove(from) {
            self.written.insert(to.clone(), written);
        }
        if stale {
            let gone = Marks::NAME.with(Marks::GONE).with(Marks::CONTENT);
            self.mark(from, if dir { gone.with(Marks::DIR) } else { gone }, now);
            self.came(to);
            let marks = if dir {
                Marks::NAME.with(Marks::DIR).with(Marks::TREE).with(Marks::WHOLE)
            } else {
                Marks::NAME.with(Marks::CONTENT)
            };
            self.mark(to, marks, now);
            return;
        }
        self.steps.push(Step::Rename { from: from.clone(), to: to.clone(), dir });
        self.steps_first.get_or_insert(now);
        let due = self.steps_due.map_or(ready, |old| old.min(ready));
        self.steps_due = Some(due);
        if whole {
            self.mark(to, Marks::NAME.with(Marks::TREE), now);
        }
        self.collapse(now);
    }

    /// Steps that were taken alone, ahead of everything since, come again at `due`, with what was
    /// heard of meanwhile.
    pub fn put_back(&mut self, steps: Vec<Step>, due: Instant) {
        self.steps.splice(0..0, steps);
        self.steps_due = Some(due);
        let first = self.since.unwrap_or(due);
        self.steps_first = Some(self.steps_first.map_or(first, |known| known.min(first)));
    }

    /// Will this rename, the last that was heard of, be told as one?
    #[must_use]
    pub fn tells(&self, from: &RelPath, to: &RelPath) -> bool {
        matches!(self.steps.last(), Some(Step::Rename { from: f, to: t, .. }) if f == from && t == to)
    }

    /// Is there more to be done at this path, or beneath it, than to remove what waits to be?
    #[must_use]
    pub fn any_to_do(&self, path: &RelPath, beneath: bool) -> bool {
        let waits = |dirty: &Dirty| dirty.due.is_none() && dirty.marks.has(Marks::GONE);
        if !beneath {
            return self.dirty.get(path).is_some_and(|dirty| !waits(dirty));
        }
        let mut all =
            self.dirty.range(path.clone()..).take_while(|(at, _)| at.is_at_or_under(path));
        all.any(|(_, dirty)| !waits(dirty))
    }

    /// Marks a path that leaves when it is released; what is dirty already leaves as it would have.
    pub fn hold(&mut self, path: &RelPath, marks: Marks, now: Instant) {
        let first = self.since.map_or(now, |since| since.min(now));
        let dirty = Dirty { marks, first, due: None };
        let dirty = self.dirty.entry(path.clone()).or_insert(dirty);
        dirty.marks = dirty.marks.with(marks);
        self.collapse(now);
    }

    /// An operation on this path is finished: its marks may leave again.
    pub fn release(&mut self, path: &RelPath, now: Instant) {
        if let Some(dirty) = self.dirty.get(path)
            && dirty.due.is_none()
        {
            let due = match self.written.get(path) {
                // It waits once more as long as it has: what is rewritten all the time leaves half
                // of the link to others.
                Some(written) if written.closed => {
                    now + now.saturating_duration_since(dirty.first).min(UNCLOSED_EVERY)
                }
                Some(written) => now.max(written.left + UNCLOSED_EVERY),
                _ => now.max(self.ready(dirty.first)),
            };
            self.set_due(path, due);
        }
    }

    /// Nothing holds up what is at or under this path any more.
    pub fn release_under(&mut self, dir: &RelPath, now: Instant) {
        for path in self.under(dir) {
            self.release(&path, now);
        }
    }

    /// When the next batch may be taken; `None` when nothing waits for time.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let first = self.due.first().map(|(due, _)| *due);
        let due = match (first, self.steps_due) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(self.quiet_until.map_or(due, |quiet| due.max(quiet)))
    }

    /// When the first of the changes that have not left came.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.dirty.values().map(|dirty| dirty.first).chain(self.steps_since()).min()
    }

    /// Takes what may leave now: all steps, and at most `max` paths that are due. `busy` says which
    /// paths have an operation in flight: they wait until [`Collate::release`].
    pub fn take(&mut self, now: Instant, max: usize, busy: impl Fn(&RelPath) -> bool) -> Batch {
        let mut batch = Batch::default();
        if self.next().is_none_or(|next| next > now) {
            return batch;
        }
        batch.steps = self.take_steps();
        while batch.paths.len() < max {
            let Some((due, path)) = self.due.first().cloned() else { break };
            if due > now {
                break;
            }
            self.due.remove(&(due, path.clone()));
            if busy(&path) {
                if let Some(dirty) = self.dirty.get_mut(&path) {
                    dirty.due = None;
                }
                continue;
            }
            if let Some(dirty) = self.dirty.remove(&path) {
                if let Some(written) = self.written.get_mut(&path) {
                    written.left = now;
                }
                batch.paths.push((path, dirty.marks, dirty.first));
            }
        }
        if self.written_swept.is_none_or(|swept| swept + UNCLOSED_EVERY <= now) {
            self.written_swept = Some(now);
            self.written.retain(|_, at| at.left + UNCLOSED_EVERY + UNCLOSED_EVERY > now);
        }
        batch.paths.sort_by(|a, b| a.0.cmp(&b.0));
        if !batch.is_empty() && self.delay.is_zero() {
            let size = (batch.paths.len() + batch.steps.len()) as u32;
            let slice = SLICE + Duration::from_micros(10) * size.min(10_000);
            self.quiet_until = Some(now + slice.min(SLICE_MAX));
        }
        batch
    }

    /// The steps that have not left, taken back: their order is not to be relied on any more.
    pub fn take_steps(&mut self) -> Vec<Step> {
        self.steps_due = None;
        self.steps_first = None;
        std::mem::take(&mut self.steps)
    }

    /// Keeps the set bounded: paths become the directories at the top that hold them, those become
    /// the root.
    fn collapse(&mut self, now: Instant) {
        if self.dirty.len() + self.steps.len() <= self.limit {
            return;
        }
        self.collapsed += 1;
        let mut tops = BTreeSet::new();
        for path in self.dirty.keys() {
            tops.insert(top(path));
        }
        for step in &self.steps {
            match step {
                Step::Rename { from, to, .. } => {
                    tops.insert(top(from));
                    tops.insert(top(to));
                }
                Step::Clear { path, .. } => {
                    tops.insert(top(path));
                }
            }
        }
        let first = self.oldest().unwrap_or(now);
        self.dirty.clear();
        self.due.clear();
        self.take_steps();
        if tops.len() > self.limit / 2 {
            tops = BTreeSet::from([RelPath::root()]);
        }
        for path in tops {
            let marks = Marks::NAME.with(Marks::TREE).with(Marks::CONTENT);
            let due = now + self.delay;
            self.due.insert((due, path.clone()));
            self.dirty.insert(path, Dirty { marks, first, due: Some(due) });
        }
    }
}

/// The first component of a path, as a path.
fn top(path: &RelPath) -> RelPath {
    let first = path.components().next().unwrap_or_default();
    RelPath::root().join(first).unwrap_or_default()
}

#[cfg(test)]
mod tests;
