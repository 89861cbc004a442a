//! What becomes dirty again when the link is lost, when events were, or when a look failed: whatever
//! is not known to have arrived, by the names it has by now.

use std::time::Instant;

use lsync_protocol::path::RelPath;

use super::{Effect, Event, Mirror, SWEEPS_MAX, mark_of};
use crate::collate::{Follow, Marks, Step};

impl Mirror {
    /// The link is lost: whatever was not acked is dirty again and will be looked at. Nothing is
    /// repeated as it was: a rename whose ack was lost would put the new file over the moved one.
    pub(super) fn lost(&mut self, now: Instant) {
        self.held = None;
        self.drift.stop(now);
        self.emptied = None;
        self.staged.clear();
        self.links.drop_leaders();
        for flight in self.flights.drain() {
            self.collate.on_behalf_of(Some(flight.first));
            mark_of(&mut self.collate, &flight.op, now);
            self.origins.rename_is_doubtful(&flight.op, now);
            if flight.op.staged() && self.to_sweep.len() < SWEEPS_MAX {
                self.to_sweep.extend(flight.op.path().parent());
            }
        }
        self.collate.on_behalf_of(self.flushes.since());
        self.end_clearings(now);
        // Nothing is in flight that anything could wait for.
        self.collate.release_under(&RelPath::root(), now);
        // What waited for an answer of the link comes again by other ways.
        for event in std::mem::take(&mut self.parked) {
            match event {
                Event::Looked(_) => self.redirty(now),
                event => self.in_order(event, now),
            }
        }
        if let Some(walk) = self.walk.take() {
            for start in walk.starts() {
                self.walks_due.add(start.clone(), walk.due());
            }
            self.walk_not_before = None;
            self.out.push(Effect::StopWalk);
        }
    }

    pub(super) fn end_clearings(&mut self, now: Instant) {
        for path in self.clearings.drain() {
            self.collate.mark(&path, Marks::NAME.with(Marks::DIR).with(Marks::CONTENT), now);
            self.collate.release_under(&path, now);
        }
    }

    /// Events were lost: what was seen and has not reached the target yet may be over already, and
    /// a walk that lists the target before it arrives there would not find that out.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubt_before = self.next_op;
        self.links.clear();
        // What waits for a name that leads would not be found.
        self.collate.release_under(&RelPath::root(), now);
        for flight in self.flights.all() {
            mark_of(&mut self.collate, &flight.op, now);
            self.origins.rename_is_doubtful(&flight.op, now);
        }
        let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::TREE);
        for path in &self.looking {
            self.collate.mark(path, marks, now);
        }
        for asked in self.looks.clone() {
            self.mark_steps(&asked.batch.steps, asked.since, now);
        }
        let steps = self.collate.take_steps();
        self.mark_steps(&steps, self.moved.so_far(), now);
    }

    /// The names that these steps speak of are dirty, by the names they have by now. They were
    /// right when `since` renames of directories had been heard of.
    fn mark_steps(&mut self, steps: &[Step], since: u64, now: Instant) {
        let follow = Follow::new(steps);
        for (at, step) in steps.iter().enumerate() {
            let marks = Marks::NAME.with(Marks::CONTENT);
            let tree = marks.with(Marks::TREE).with(Marks::DIR);
            let (gone, came, marks) = match step {
                Step::Rename { from, to, dir } => (from, Some(to), if *dir { tree } else { marks }),
                Step::Clear { path, dir: true } => (path, None, marks.with(Marks::DIR)),
                Step::Clear { path, dir: false } => (path, None, marks),
            };
            if let Step::Rename { from, to, dir } = step {
                let name = |path| self.moved.follow(follow.name(path, at + 1), since);
                self.origins.note(&name(to), &name(from), *dir, now);
            }
            for (path, marks) in [(Some(gone), marks.with(Marks::GONE)), (came, marks)] {
                if let Some(path) = path {
                    let path = self.moved.follow(follow.name(path, at + 1), since);
                    self.collate.mark(&path, marks, now);
                }
            }
        }
    }

    /// A batch that was looked at but could not be used is dirty as it was.
    pub(super) fn redirty(&mut self, now: Instant) {
        let Some(asked) = self.looks.pop_front() else { return };
        self.mark_steps(&asked.batch.steps, asked.since, now);
        for (path, marks, _) in &asked.batch.paths {
            self.looking.remove(path);
            self.collate.mark(path, *marks, now);
            self.collate.release(path, now);
        }
    }
}
