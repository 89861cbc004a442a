//! Live changes: looked-at batches become operations, acks end them.

use std::time::Instant;

use lsync_protocol::entry::{Entry, Kind};
use lsync_protocol::message::{OpId, Outcome};
use lsync_protocol::path::RelPath;

use super::{Cause, Effect, Flight, Mirror, NotBuilt, Report};
use crate::collate::Marks;
use crate::plan::{Look, Looked, Planned, plan};
use crate::watch::WatchEvent;

/// Every entry of a looked-at batch.
pub(super) fn entries(looked: &Looked) -> impl Iterator<Item = &Entry> {
    let steps = looked.steps.iter().filter_map(|(_, look)| look.as_ref());
    let paths = looked.paths.iter().map(|(.., look)| look);
    let looks = steps.chain(paths).chain(looked.parents.values());
    looks.filter_map(|look| match look {
        Look::Here(entry) => Some(entry),
        _ => None,
    })
}

impl Mirror {
    /// A batch was looked at: its operations leave.
    pub(super) fn looked(&mut self, mut looked: Looked, now: Instant) {
        if self.held.is_none() || self.waiting.is_some() {
            return self.redirty(looked, now);
        }
        self.looked_one(&looked);
        for (path, ..) in &looked.paths {
            self.looking.remove(path);
        }
        for path in &looked.excluded {
            self.looking.remove(path);
            self.problems.mended(path);
        }
        for (_, look) in &mut looked.steps {
            if let Some(Look::Here(entry)) = look {
                self.owners.map(entry);
            }
        }
        for (.., look) in &mut looked.paths {
            if let Look::Here(entry) = look {
                self.owners.map(entry);
            }
        }
        for look in looked.parents.values_mut() {
            if let Look::Here(entry) = look {
                self.owners.map(entry);
            }
        }
        // A walk may have sent something for a path meanwhile: one operation at a time.
        let mut first = now;
        let mut paths = Vec::with_capacity(looked.paths.len());
        for (path, marks, since, look) in std::mem::take(&mut looked.paths) {
            if self.flights.busy(&path) || self.clearings.busy(&path) {
                self.collate.mark(&path, marks, now);
            } else {
                first = first.min(since);
                paths.push((path, marks, since, look));
            }
        }
        looked.paths = paths;
        let Some(held) = &self.held else { return };
        let mut plan = plan(&looked, held);
        for (path, whole) in std::mem::take(&mut plan.walks) {
            let due = self.walks_due.entry(path).or_insert(false);
            *due |= whole;
        }
        for (path, kind) in std::mem::take(&mut plan.unmirrored) {
            self.not_mirrored(path, kind);
        }
        for (path, why) in std::mem::take(&mut plan.unknown) {
            self.failed(&path, &why, now);
        }
        let removes = self.allowed_removes(&looked, std::mem::take(&mut plan.removes), now);
        let mut ops = plan.ops;
        ops.extend(removes);
        ops.extend(plan.dirs);
        self.send(ops, Cause::Live, first);
    }

    /// What of the live deletes the policy and the guards let through.
    fn allowed_removes(
        &mut self,
        looked: &Looked,
        removes: Vec<Planned>,
        now: Instant,
    ) -> Vec<Planned> {
        for op in &removes {
            if self.problems.mended(op.path()) {
                self.say(Report::Solved(op.path().clone()));
            }
        }
        // Before the first walk is complete its deletes are the walk's business.
        if removes.is_empty() || !self.rules.delete.live() || self.halted.is_some() {
            return Vec::new();
        }
        let at_root = removes.iter().any(|op| op.path().depth() == 1);
        if at_root && looked.root_empty && !self.rules.allow_empty {
            self.halt(
                "the source has been emptied".to_owned(),
                "deletes stop, everything else goes on; \
                 if this is meant, start again with --allow-empty"
                    .to_owned(),
            );
            return Vec::new();
        }
        if let Err(reason) = self.guard.allow(removes.len() as u64, now) {
            self.halt(
                reason,
                "deletes stop, everything else goes on; \
                 if this is meant, start again with a larger --max-delete"
                    .to_owned(),
            );
            return Vec::new();
        }
        removes
    }

    /// A name moved on the source: everything that is known by it follows.
    pub(super) fn renamed(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        dir: bool,
        event: &WatchEvent,
        now: Instant,
    ) {
        self.collate.note(event, now);
        // What is being looked at under its old name will seem to be missing.
        let looking: Vec<RelPath> = self
            .looking
            .range(from.clone()..)
            .take_while(|path| path.is_at_or_under(from))
            .cloned()
            .collect();
        for path in looking {
            if let Some(moved) = path.moved(from, to) {
                let marks = Marks::NAME.with(Marks::CONTENT);
                let marks = if dir { marks.with(Marks::TREE) } else { marks };
                self.collate.mark(&moved, marks, now);
            }
        }
        // The new name stands for what was not finished under the old one.
        let walked = self.walk.as_ref().is_some_and(|w| w.touches(from) || w.touches(to))
            || self.walks_due.keys().any(|d| d.is_at_or_under(from) || from.is_under(d));
        let rules = dir && !self.rules.filter.is_empty();
        let failed = self.problems.under(from) || self.problems.above(from);
        let clearing = self.clearings.busy(from) || self.clearings.busy(to);
        if walked || rules || failed || clearing {
            let marks = if dir {
                Marks::NAME.with(Marks::TREE).with(Marks::DIR)
            } else {
                Marks::NAME.with(Marks::CONTENT)
            };
            self.collate.mark(to, marks, now);
        }
        let due: Vec<RelPath> =
            self.walks_due.keys().filter(|d| d.is_at_or_under(from)).cloned().collect();
        for path in due {
            let whole = self.walks_due.remove(&path).unwrap_or(false);
            if let Some(moved) = path.moved(from, to) {
                let due = self.walks_due.entry(moved).or_insert(false);
                *due |= whole;
            }
        }
        self.flights.renamed(from, to);
        self.problems.renamed(from, to);
    }

    /// A file went while its content was on the way: the rest need not go.
    pub(super) fn cancel_content(&mut self, path: &RelPath) {
        if let Some((id, flight)) = self.flights.at(path)
            && matches!(flight.op, Planned::Content { .. })
        {
            self.out.push(Effect::Cancel(id));
        }
    }

    /// A path failed: people hear of it once, and it is tried again later.
    pub(super) fn failed(&mut self, path: &RelPath, why: &str, now: Instant) {
        let retry = self.problems.failed(path, why, now);
        if let Some(problem) = retry.tell {
            self.say(Report::Problem(problem));
        }
        if let Some(at) = retry.at {
            // What is beneath a directory that failed was not done either.
            let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::TREE);
            self.collate.mark_at(path, marks, now, at);
        }
    }

    /// Operations are finished on the target.
    pub(super) fn acked(
        &mut self,
        done: &[(OpId, u64)],
        outcomes: Vec<(OpId, Outcome)>,
        now: Instant,
    ) {
        let mut said: std::collections::BTreeMap<OpId, Outcome> = outcomes.into_iter().collect();
        for &(first, count) in done {
            // Only what flies is looked up: a range that lies costs nothing.
            for id in self.flights.ids(first, count) {
                if let Some(flight) = self.flights.remove(id) {
                    let path = flight.op.path().clone();
                    let from = match &flight.op {
                        Planned::Rename { from, .. } => Some(from.clone()),
                        _ => None,
                    };
                    match said.remove(&id) {
                        None => self.succeeded(&flight),
                        Some(outcome) => self.outcome(flight, outcome, now),
                    }
                    self.collate.release(&path, now);
                    if let Some(from) = from {
                        self.collate.release(&from, now);
                    }
                }
            }
        }
    }

    fn succeeded(&mut self, flight: &Flight) {
        if !matches!(flight.op, Planned::Dir { .. }) && self.problems.mended(flight.op.path()) {
            self.say(Report::Solved(flight.op.path().clone()));
        }
        if let Cause::Clearing(key) = flight.cause {
            self.cleared_one(key, true);
        }
    }

    fn outcome(&mut self, flight: Flight, outcome: Outcome, now: Instant) {
        let name = Marks::NAME.with(Marks::CONTENT);
        let path = flight.op.path().clone();
        match (outcome, &flight.op) {
            (Outcome::Missing, Planned::Remove { .. }) => {
                self.guard.refund(1);
                self.totals.deleted = self.totals.deleted.saturating_sub(1);
                self.succeeded(&flight);
            }
            // Attributes of something that is not there: the whole thing has to go over.
            (Outcome::Missing, Planned::Dir { .. }) => {
                if !self.problems.above(&path) {
                    self.collate.mark(&path, name.with(Marks::TREE), now);
                }
            }
            (Outcome::Missing, _) => self.collate.mark(&path, name, now),
            (Outcome::NoParent, _) => self.no_parent(&flight, now),
            (Outcome::NotEmpty, _) => self.not_empty(flight, now),
            (Outcome::Occupied(kind), Planned::Remove { .. }) => {
                // It is of another kind than was thought; the source has none of it either way.
                let op = Planned::Remove { path, kind };
                self.send(vec![op], flight.cause, flight.first);
            }
            (
                Outcome::Occupied(kind),
                Planned::Content { .. } | Planned::Symlink { .. } | Planned::MakeDir { .. },
            ) => {
                let op = Planned::Replace { old: kind, new: Box::new(flight.op.clone()) };
                self.send(vec![op], flight.cause, flight.first);
            }
            (Outcome::Refused | Outcome::Occupied(_), Planned::Rename { from, kind, .. }) => {
                let dir = *kind == Kind::Dir;
                let marks = if dir { name.with(Marks::TREE).with(Marks::DIR) } else { name };
                self.collate.mark(from, marks, now);
                self.collate.mark(&path, marks, now);
            }
            (Outcome::Refused | Outcome::Occupied(_), _) => {
                self.collate.mark(&path, name, now);
            }
            (Outcome::Problem(trouble), op) => {
                if let Planned::Rename { from, kind, .. } = op {
                    let dir = *kind == Kind::Dir;
                    let marks = if dir { name.with(Marks::TREE).with(Marks::DIR) } else { name };
                    self.collate.mark(from, marks, now);
                }
                self.failed(&path, &trouble.text, now);
                if let Cause::Clearing(key) = flight.cause {
                    self.cleared_one(key, false);
                }
            }
        }
    }

    /// The directory it should stand in is not on the target: that one is dirty, with all in it.
    fn no_parent(&mut self, flight: &Flight, now: Instant) {
        let mut paths = vec![flight.op.path().clone()];
        if let Planned::Rename { from, .. } = &flight.op {
            let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::TREE);
            self.collate.mark(from, marks, now);
        }
        while let Some(path) = paths.pop() {
            let Some(parent) = path.parent() else { continue };
            // Where the directory itself has a problem, its retry brings all in it.
            if !self.problems.above(&parent) {
                let marks = Marks::NAME.with(Marks::TREE).with(Marks::DIR);
                self.collate.mark(&parent, marks, now);
            }
        }
    }

    /// An operation was not sent, because what it needed could not be read.
    pub(super) fn not_built(&mut self, id: OpId, why: NotBuilt, now: Instant) {
        let Some(flight) = self.flights.remove(id) else { return };
        let path = flight.op.path().clone();
        match why {
            NotBuilt::Vanished => {
                self.collate.mark(&path, Marks::NAME.with(Marks::CONTENT), now);
            }
            NotBuilt::Failed(why) => self.failed(&path, &why, now),
        }
        self.collate.release(&path, now);
    }
}
