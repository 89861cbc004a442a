//! Live changes: looked-at batches become operations, acks end them.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use lsync_protocol::entry::{Entry, Kind};
use lsync_protocol::message::{INLINE_MAX, OpId, Outcome};
use lsync_protocol::path::RelPath;

use super::clear::Cleared;
use super::flights::{is_content, is_small_content};
use super::problems::What;
use super::{Asked, Cause, Due, Effect, Flight, Mirror, NotBuilt, Report};
use crate::collate::{Collate, Follow, Marks, Step};
use crate::plan::{Look, Looked, LookedPath, Plan, Planned, Ruled, plan};
use crate::source::RULES_BACK;
use crate::watch::WatchEvent;

/// A name that is missing while no event told of it waits so long for that event.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// A rename whose file has moved on waits so long for the event that tells where to.
const MOVING: Duration = Duration::from_millis(10);
/// A directory that was tried once more is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// How often in a row it waits.
const PUT_BACK_MAX: u32 = 3;

/// A source without names is one that has been emptied after so long.
const EMPTIED: Duration = Duration::from_secs(1);

/// What is said of `--max-delete` while live.
pub(super) const GUARDED: &str = "deletes stop, everything else goes on; if this is meant, lsyncd \
                                  resume --confirm lets it happen";

/// The cause of a problem that stands for the whole target.
const ROOT_GONE: &str = "the target's directory is gone";

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

/// The steps that leave after those that were looked at last.
fn later_steps<'a>(looks: &'a VecDeque<Asked>, collate: &'a Collate) -> Follow<'a> {
    let asked = looks.iter().flat_map(|asked| &asked.batch.steps);
    Follow::new(asked.chain(collate.steps()))
}

impl Mirror {
    /// A batch was looked at: its operations leave.
    pub(super) fn looked(&mut self, mut looked: Looked, now: Instant) {
        if self.held.is_none() || self.waiting.is_some() {
            return self.redirty(now);
        }
        let asked = self.looks.pop_front();
        let (since, mut first) = asked.map_or((0, now), |asked| (asked.since, asked.first));
        if self.moved_on(&looked) {
            let steps = looked.steps.into_iter().map(|(step, _)| step).collect();
            return self.collate.put_back(steps, now + MOVING);
        }
        let ruled = std::mem::take(&mut looked.rules);
        let walks_rules = self.learn_rules(ruled, since, now);
        let mut there = BTreeMap::new();
        for (path, ..) in &looked.paths {
            self.looking.remove(path);
            if let Some(kind) = self.there.remove(path) {
                there.insert(path.clone(), kind);
            }
        }
        for path in &looked.excluded {
            self.rules.filter.forget(path);
            self.looking.remove(path);
            self.problems.gone(path);
        }
        let mut returned: Vec<RelPath> = std::mem::take(&mut looked.excluded);
        returned.extend(looked.paths.iter().map(|(path, ..)| path.clone()));
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
        for (path, .., look) in &looked.paths {
            if let Look::Here(entry) = look {
                self.xattrs_left_out(entry);
                self.owner_left_out(path, entry);
            }
        }
        // A walk may have sent something for a path meanwhile: one operation at a time.
        let puzzling: Vec<bool> =
            looked.paths.iter().map(|missing| self.is_puzzling(missing, &looked)).collect();
        let mut paths = Vec::with_capacity(looked.paths.len());
        let all = std::mem::take(&mut looked.paths);
        for ((path, marks, since, look), puzzling) in all.into_iter().zip(puzzling) {
            if self.flights.busy(&path) || self.clearings.busy(&path) {
                self.collate.mark(&path, marks, now);
            } else if puzzling {
                // What will say why may say where to, and then this goes along.
                let marks = marks.with(Marks::NAME).with(Marks::WAITED);
                self.collate.mark_at(&path, marks, now, now + GRACE);
            } else {
                if look.is_no_dir() {
                    self.rules.filter.forget(&path);
                }
                first = first.min(since);
                paths.push((path, marks, since, look));
            }
        }
        looked.paths = paths;
        self.mark_moved_parents(&looked, since, now);
        let Some(held) = &self.held else { return };
        let mut plan = plan(&looked, held);
        self.use_origins(&mut plan, since, now);
        let (ops, waiting) =
            self.link_looked(std::mem::take(&mut plan.ops), &looked.paths, since, now);
        plan.ops = ops;
        for op in &mut plan.removes {
            if let Planned::Remove { path, kind } = op
                && let Some(known) = there.get(path)
            {
                *kind = *known;
            }
        }
        let walks = std::mem::take(&mut plan.walks);
        let walked = walks_rules || !walks.is_empty();
        for (path, whole) in walks {
            self.walk_due(path, whole, now);
        }
        if !plan.doubted.is_empty() {
            let follow = Follow::new(looked.steps.iter().map(|(step, _)| step));
            let mut old: Option<RelPath> = None;
            let later = later_steps(&self.looks, &self.collate);
            let name = |(at, path, gone): (usize, RelPath, bool)| {
                let path = follow.name(&path, at);
                // A later rename takes along what is at that name on the target, whatever it is.
                let now = later.name(&path, 0);
                let now = if now == path { self.moved.follow(path, since) } else { now };
                (now, gone)
            };
            let doubted: Vec<_> = std::mem::take(&mut plan.doubted).into_iter().map(name).collect();
            for (path, gone) in doubted {
                match &old {
                    Some(old) if !gone => self.origins.note(&path, old, false, now),
                    _ => old = Some(path.clone()),
                }
                let marks = Marks::NAME.with(Marks::CONTENT);
                self.collate.mark(&path, if gone { marks.with(Marks::GONE) } else { marks }, now);
            }
        }
        for (path, kind) in std::mem::take(&mut plan.unmirrored) {
            self.not_mirrored(&path, kind);
        }
        for (path, why) in std::mem::take(&mut plan.unknown) {
            self.failed(&path, &why, now);
        }
        let removes = self.removes_of_now(std::mem::take(&mut plan.removes), &there, now);
        let removes = self.allowed_removes(&looked, removes, now);
        // What makes room for a rename is a delete like any other.
        let is_clear = |op: &Planned| matches!(op, Planned::Remove { .. });
        let clears: Vec<Planned> = plan.ops.iter().filter(|op| is_clear(op)).cloned().collect();
        let allowed = self.allowed_removes(&looked, clears, now);
        let allowed: BTreeSet<&RelPath> = allowed.iter().map(Planned::path).collect();
        let mut ops = plan.ops;
        ops.retain(|op| !is_clear(op) || allowed.contains(op.path()));
        ops.extend(removes);
        ops.extend(plan.dirs);
        let sent = self.next_op;
        self.send(ops, Cause::Live, first);
        if self.moved.so_far() > since {
            let moved = &self.moved;
            self.flights.follow(sent, |path| moved.follow(path.clone(), since));
        }
        // Steps that leave later may have taken what these name further: if one of these is refused,
        // it is the names of then that lack something.
        if looked.steps.iter().any(|(step, _)| matches!(step, Step::Rename { .. })) {
            let later = later_steps(&self.looks, &self.collate);
            self.flights.follow_renames(sent, |path| later.name(path, 0));
        }
        if walked {
            self.walk_after = self.next_op;
        }
        if walks_rules {
            // What is not mirrored any more may be on its way: a listing has to find it there.
            self.doubt_before = self.next_op;
        }
        // What came up meanwhile and has nothing in flight to wait for may leave.
        for path in returned {
            if !self.flights.busy(&path) && !self.origins.holds(&path) && !waiting.contains(&path) {
                self.collate.release(&path, now);
            }
        }
    }

    /// What directories say of themselves holds from now on; where that may have changed, what is
    /// in them is compared anew. Says whether something is.
    fn learn_rules(&mut self, ruled: Ruled, since: u64, now: Instant) -> bool {
        let moved = &self.moved;
        for (dir, rules) in ruled.said {
            self.rules.filter.learn(&moved.follow(dir, since), rules);
        }
        let walks = !ruled.changed.is_empty();
        for dir in ruled.changed {
            let dir = self.moved.follow(dir, since);
            self.walk_due(dir, false, now);
        }
        for path in ruled.doubted {
            let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::GONE);
            self.collate.mark_at(&path, marks, now, now + RULES_BACK);
        }
        walks
    }

    /// What moved into a directory that was not watched yet went from one place and came up in
    /// another, and has mostly kept its name.
    fn guess_origins(&mut self, plan: &Plan, since: u64, now: Instant) {
        let large = |op: &Planned| matches!(op, Planned::Content { size, new: true, .. } if *size > INLINE_MAX);
        if plan.removes.is_empty() || !plan.ops.iter().any(large) {
            return;
        }
        let paths: BTreeSet<&RelPath> = plan.removes.iter().map(Planned::path).collect();
        // A directory that was taken apart name by name did not move.
        let whole = |path: &RelPath| {
            let behind = (Bound::Excluded(path), Bound::Unbounded);
            paths.range::<RelPath, _>(behind).next().is_none_or(|next| !next.is_under(path))
        };
        let gone = plan.removes.iter().filter(|op| whole(op.path()));
        let gone: HashMap<Option<&[u8]>, &Planned> =
            gone.map(|op| (op.path().name(), op)).collect();
        for op in &plan.ops {
            let dir = matches!(op, Planned::MakeDir { .. });
            let old = gone.get(&op.path().name()).filter(|_| dir || large(op));
            if let Some(Planned::Remove { path: old, kind }) = old
                && dir == (*kind == Kind::Dir)
            {
                let name = |path: &RelPath| self.moved.follow(path.clone(), since);
                self.origins.note(&name(op.path()), &name(old), dir, now);
            }
        }
    }

    /// Large contents are copied from where the target has them, and the rest needs no origin.
    fn use_origins(&mut self, plan: &mut Plan, since: u64, now: Instant) {
        self.guess_origins(plan, since, now);
        if self.origins.is_empty() {
            return;
        }
        for op in plan.ops.iter_mut().chain(&mut plan.removes) {
            let name = self.moved.follow(op.path().clone(), since);
            match op {
                Planned::Content { size, .. } if *size > INLINE_MAX => {
                    self.find_like(op, &name, now);
                }
                Planned::Content { .. }
                | Planned::Symlink { .. }
                | Planned::Special { .. }
                | Planned::Link { .. }
                | Planned::Remove { .. } => {
                    self.origin_ended(&name, now);
                }
                _ => {}
            }
        }
    }

    /// Of what is to be removed, what nothing new is copied from: the rest waits.
    fn removes_of_now(
        &mut self,
        mut removes: Vec<Planned>,
        there: &BTreeMap<RelPath, Kind>,
        now: Instant,
    ) -> Vec<Planned> {
        if !self.origins.is_empty() && self.rules.delete.live() && self.halted.is_none() {
            removes.retain(|op| {
                let Planned::Remove { path, kind } = op else { return true };
                if !self.origins.holds(path) {
                    return true;
                }
                let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::GONE);
                let dir = *kind == Kind::Dir;
                self.collate.hold(path, if dir { marks.with(Marks::DIR) } else { marks }, now);
                if let Some(kind) = there.get(path) {
                    self.there.insert(path.clone(), *kind);
                }
                false
            });
        }
        removes
    }

    /// Is this missing, and nothing has said that it went, or that a directory did in which it
    /// stood? It may only have been renamed. What has waited for an answer is no puzzle any more.
    fn is_puzzling(&self, (path, marks, _, look): &LookedPath, looked: &Looked) -> bool {
        let went = |marks: Marks| marks.has(Marks::GONE) || marks.has(Marks::WAITED);
        // Without a watch nothing more is to be heard.
        if *look != Look::Missing || went(*marks) || self.rules.once {
            return false;
        }
        let Some(dir) = path.parent() else { return false };
        if looked.parents.get(&dir) != Some(&Look::Missing) {
            return true;
        }
        let mut at = Some(dir);
        while let Some(above) = at {
            let here = looked.paths.binary_search_by(|(path, ..)| path.cmp(&above));
            if here.is_ok_and(|at| looked.paths[at].3 == Look::Missing && went(looked.paths[at].1))
                || self.collate.marks(&above).is_some_and(went)
                || self.flights.removes(&above)
            {
                return false;
            }
            at = above.parent();
        }
        true
    }

    /// A file was renamed once more since, as the next events will tell: then it is known what moved,
    /// and all its renames can go as such. Not for ever, and only while nothing else is ahead.
    fn moved_on(&mut self, looked: &Looked) -> bool {
        let on = looked.steps.iter().any(|(step, look)| {
            matches!(step, Step::Rename { dir: false, .. }) && *look == Some(Look::Missing)
        });
        let alone = looked.paths.is_empty() && looked.excluded.is_empty() && self.looks.is_empty();
        self.put_back =
            if on && alone && self.put_back < PUT_BACK_MAX { self.put_back + 1 } else { 0 };
        self.put_back > 0
    }

    /// What of the live deletes the policy and the guards let through.
    fn allowed_removes(
        &mut self,
        looked: &Looked,
        removes: Vec<Planned>,
        now: Instant,
    ) -> Vec<Planned> {
        for op in &removes {
            if self.problems.gone(op.path()) {
                self.say(Report::Solved(op.path().clone()));
            }
        }
        // Before the first walk is complete its deletes are the walk's business.
        let filter = &self.rules.filter;
        let removes: Vec<Planned> = removes
            .into_iter()
            .filter(|op| {
                let dir = matches!(op, Planned::Remove { kind: Kind::Dir, .. });
                filter.verdict_deep(op.path(), dir).deletable
            })
            .collect();
        if !looked.root_empty {
            self.emptied = None;
        }
        if removes.is_empty() || !self.rules.delete.live() || self.halted.is_some() {
            return Vec::new();
        }
        // Until the first walk has counted what there is, the guard cannot judge: what went
        // meanwhile is put before it with what the walk finds.
        if self.guard.limits()
            && !self.ready
            && let Some(walk) = &mut self.walk
            && walk.also_extra(&removes)
        {
            return Vec::new();
        }
        let at_root = removes.iter().any(|op| op.path().depth() == 1);
        let confirmed = self.confirmed.is_some();
        if at_root && looked.root_empty && !self.rules.allow_empty && !confirmed {
            // Whoever removes a whole tree removes its root last: then it is gone, not empty.
            let end = *self.emptied.get_or_insert(now + EMPTIED);
            if now < end {
                for op in &removes {
                    let dir = matches!(op, Planned::Remove { kind: Kind::Dir, .. });
                    let marks = if dir { Marks::GONE.with(Marks::DIR) } else { Marks::GONE };
                    self.collate.mark_at(op.path(), marks, now, end);
                }
                return Vec::new();
            }
            self.halt(
                "the source has been emptied".to_owned(),
                "deletes stop, everything else goes on; if this is meant, \
                 lsyncd resume --confirm lets it happen"
                    .to_owned(),
            );
            return Vec::new();
        }
        if !confirmed && let Err(reason) = self.guard.allow(removes.len() as u64, now) {
            self.halt(reason, GUARDED.to_owned());
            return Vec::new();
        }
        removes
    }

    /// What was read of these names, and not used yet or not known to be read, may be older or
    /// newer than what the event tells of.
    pub(super) fn newer_than_reads(&mut self, event: &WatchEvent, now: Instant) {
        self.drift.heard(event, now);
        if let Some(walk) = &mut self.walk
            && walk.heard(event)
        {
            // Too many to remember: everything it saw is doubtful.
            let due = Due { whole: false, since: Some(now) };
            for start in walk.starts() {
                self.walks_due.add(start.clone(), due);
            }
        }
        let (path, dir) = match event {
            WatchEvent::Written(path) | WatchEvent::Closed(path) | WatchEvent::Unsure(path) => {
                (path, false)
            }
            WatchEvent::Appeared { path, dir } | WatchEvent::Renamed { to: path, dir, .. } => {
                (path, *dir)
            }
            _ => return,
        };
        for path in self.flights.reused(path) {
            self.collate.mark(&path, Marks::CONTENT, now);
        }
        if !dir {
            return;
        }
        // What was read under the old name before the rename was heard of may have been of the new
        // directory, and then the rename took it along.
        self.forget_moved(now);
        for to in self.moved.away_from(path) {
            let marks = Marks::NAME.with(Marks::TREE).with(Marks::DIR);
            self.collate.mark(to, marks, now);
        }
    }

    /// A name went, or another took its place, while content was on its way there: the rest need
    /// not go, and what is there by then has to be looked at.
    pub(super) fn cancel_content(&mut self, path: &RelPath, now: Instant) {
        for (path, id) in self.flights.contents_under(path) {
            self.out.push(Effect::Cancel(id));
            let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::WRITTEN);
            self.collate.mark(&path, marks, now);
        }
    }

    /// A path failed: people hear of it once, and it is tried again later.
    pub(super) fn failed(&mut self, path: &RelPath, why: &str, now: Instant) {
        self.failed_at(path, What::Itself, why, now);
    }

    pub(super) fn failed_at(&mut self, path: &RelPath, what: What, why: &str, now: Instant) {
        self.origin_ended(path, now);
        let retry = self.problems.failed(path, what, why, now);
        if let Some(problem) = retry.tell {
            self.say(Report::Problem(problem));
        }
        if let Some(at) = retry.at {
            // What is beneath a directory that failed was not done either.
            let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::WRITTEN).with(Marks::TREE);
            // As a problem it is known, and nobody has to wait for the next try.
            let behalf = self.collate.behalf();
            self.collate.on_behalf_of(None);
            self.collate.mark_at(path, marks, now, at);
            self.collate.on_behalf_of(behalf);
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
                    self.collate.on_behalf_of(Some(flight.first));
                    let path = flight.op.path().clone();
                    let from = match &flight.op {
                        Planned::Rename { from, .. } => Some(from.clone()),
                        _ => None,
                    };
                    let outcome = said.remove(&id);
                    if flight.cause == Cause::Live && outcome.is_none() {
                        let waited = flight.sent.saturating_duration_since(flight.first);
                        let travelled = now.saturating_duration_since(flight.sent);
                        self.out.push(Effect::Arrived { waited, travelled });
                    }
                    self.link_ended(&flight.op, outcome.as_ref(), now);
                    if outcome.is_none() && is_content(&flight.op) {
                        self.recent.sent(&path, is_small_content(&flight.op), now);
                    }
                    match outcome {
                        None => self.succeeded(&flight, now),
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

    fn succeeded(&mut self, flight: &Flight, now: Instant) {
        if flight.op.content() > INLINE_MAX {
            self.origin_ended(flight.op.path(), now);
        }
        let dir = matches!(flight.op, Planned::Dir { .. });
        let what = if dir { What::Attributes } else { What::Itself };
        if self.problems.mended(flight.op.path(), what) {
            self.say(Report::Solved(flight.op.path().clone()));
        }
        if let Cause::Clearing(key) = flight.cause {
            self.cleared_one(key, Cleared::Gone, now);
        }
        if let Planned::Remove { path, .. } | Planned::Rename { from: path, .. } = &flight.op {
            self.made_room(path, now);
        }
    }

    fn outcome(&mut self, flight: Flight, outcome: Outcome, now: Instant) {
        let name = Marks::NAME.with(Marks::CONTENT);
        // What was written is not there.
        let name = if flight.op.content() > 0 { name.with(Marks::WRITTEN) } else { name };
        let path = flight.op.path().clone();
        self.origins.rename_is_doubtful(&flight.op, now);
        match (outcome, &flight.op) {
            (Outcome::Missing, Planned::Remove { .. }) => {
                self.guard.refund(1);
                self.totals.deleted = self.totals.deleted.saturating_sub(1);
                self.succeeded(&flight, now);
            }
            // It stays, as where nothing is deleted.
            (Outcome::Forbidden, Planned::Remove { .. }) => {
                self.guard.refund(1);
                self.totals.deleted = self.totals.deleted.saturating_sub(1);
                if let Cause::Clearing(key) = flight.cause {
                    self.cleared_one(key, Cleared::Kept, now);
                }
            }
            (Outcome::Forbidden, _) => {
                self.failed(&path, "the key that we log in with may not change it", now);
            }
            (Outcome::Missing | Outcome::NoParent, _) if path.is_root() => {
                self.failed_at(&path, What::Attributes, ROOT_GONE, now);
            }
            // Attributes of something that is not there: the whole thing has to go over.
            (Outcome::Missing, Planned::Dir { .. }) => {
                self.mark_unless_failed(&path, name.with(Marks::TREE), now);
            }
            (Outcome::Missing, Planned::Rename { kind: Kind::Dir, .. }) => {
                self.collate.mark(&path, name.with(Marks::TREE).with(Marks::DIR), now);
            }
            (Outcome::Missing | Outcome::OtherVersion, _) => self.collate.mark(&path, name, now),
            (Outcome::NoParent, _) => self.no_parent(&flight, now),
            (Outcome::NotEmpty, _) => self.not_empty(flight, now),
            (Outcome::Occupied(kind), Planned::Remove { .. }) => {
                // It is of another kind than was thought, or something came there since.
                self.guard.refund(1);
                self.totals.deleted = self.totals.deleted.saturating_sub(1);
                let marks = if kind == Kind::Dir { name.with(Marks::DIR) } else { name };
                self.collate.mark(&path, marks.with(Marks::GONE), now);
                self.there.insert(path, kind);
                if let Cause::Clearing(key) = flight.cause {
                    self.cleared_one(key, Cleared::Gone, now);
                }
            }
            (
                Outcome::Occupied(kind),
                Planned::Content { .. }
                | Planned::Symlink { .. }
                | Planned::Special { .. }
                | Planned::Link { .. }
                | Planned::MakeDir { .. },
            ) => {
                let op = Planned::Replace { old: kind, new: Box::new(flight.op.clone()) };
                self.send_again(Flight { op, ..flight }, now);
            }
            (Outcome::Refused | Outcome::Occupied(_), Planned::Rename { from, kind, .. }) => {
                let dir = *kind == Kind::Dir;
                let marks = if dir { name.with(Marks::TREE).with(Marks::DIR) } else { name };
                self.collate.mark(from, marks.with(Marks::GONE), now);
                self.collate.mark(&path, marks, now);
            }
            (Outcome::Refused | Outcome::Occupied(_), op) => {
                let dir = match op {
                    Planned::Replace { new, .. } => matches!(**new, Planned::MakeDir { .. }),
                    op => matches!(op, Planned::Dir { .. }),
                };
                let marks = if dir { name.with(Marks::TREE).with(Marks::DIR) } else { name };
                self.collate.mark(&path, marks, now);
            }
            (Outcome::Problem(trouble), op) => {
                if let Planned::Rename { from, kind, .. } = op {
                    let dir = *kind == Kind::Dir;
                    let marks = if dir { name.with(Marks::TREE).with(Marks::DIR) } else { name };
                    self.collate.mark(from, marks.with(Marks::GONE), now);
                }
                let dir = matches!(op, Planned::Dir { .. });
                let what = if dir { What::Attributes } else { What::Itself };
                self.failed_at(&path, what, &trouble.text, now);
                if let Cause::Clearing(key) = flight.cause {
                    self.cleared_one(key, Cleared::Failed(trouble.text), now);
                }
            }
        }
    }

    /// The directory it should stand in is not on the target: that one is dirty, with all in it.
    fn no_parent(&mut self, flight: &Flight, now: Instant) {
        let path = flight.op.path().clone();
        if let Planned::Rename { from, .. } = &flight.op {
            let marks = Marks::NAME.with(Marks::GONE).with(Marks::CONTENT).with(Marks::TREE);
            self.collate.mark(from, marks, now);
        }
        if let Some(parent) = path.parent() {
            if parent.is_root() {
                self.failed_at(&parent, What::Attributes, ROOT_GONE, now);
            } else {
                let marks = Marks::NAME.with(Marks::TREE).with(Marks::DIR);
                self.mark_unless_failed(&parent, marks, now);
            }
        }
    }

    /// Marks a directory that is not on the target. Where it or one above it has a problem, the
    /// retry of that brings all in it: until then it would fail again.
    fn mark_unless_failed(&mut self, dir: &RelPath, marks: Marks, now: Instant) {
        match self.problems.above(dir) {
            None => self.collate.mark(dir, marks, now),
            Some(failed) if self.problems.given_up(&failed) => {}
            Some(failed) => {
                let marks = Marks::NAME.with(Marks::TREE);
                if !self.collate.add(&failed, marks) {
                    // The retry is on its way, and began before this was known.
                    self.collate.mark_at(&failed, marks, now, now + AGAIN);
                }
            }
        }
    }

    /// An operation was not sent, because what it needed could not be read.
    pub(super) fn not_built(&mut self, id: OpId, why: NotBuilt, now: Instant) {
        let Some(flight) = self.flights.remove(id) else { return };
        self.collate.on_behalf_of(Some(flight.first));
        let path = flight.op.path().clone();
        match why {
            NotBuilt::Vanished => {
                self.collate.mark(&path, Marks::CONTENT.with(Marks::WRITTEN), now);
            }
            NotBuilt::Failed(why) => self.failed(&path, &why, now),
        }
        if let Planned::Content { file: Some(file), .. } = flight.op {
            self.link_misread(file, now);
        }
        self.collate.release(&path, now);
    }
}
