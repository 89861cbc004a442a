//! A mirror that rsync carries: one source to one rsync target, its whole state.
//!
//! As [`super::Mirror`], it is a function of events and time: [`State::handle`] cannot wait and is
//! the only place where anything is decided; [`run`] waits and performs. The dirty set is the same
//! [`Collate`]. A rename comes to it as a name that went and one that appeared, since rsync knows no
//! renames. The whole source is walked before each run over everything: that sets the watches,
//! counts, and finds what cannot be read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

use super::guard::Guard;
use super::problems::{Problems, What};
use super::{Report, RootTrouble, Totals};
use crate::carrier::rsync::{End, Full, Outcome, Paths, Run};
use crate::collate::{Batch, Collate, Marks};
use crate::config::rsync::RsyncMirror;
use crate::error::{Error, Exit};
use crate::watch::WatchEvent;

mod look;
mod pending;
mod retry;
pub mod run;
#[cfg(test)]
mod tests;

pub use look::{Looked, Walked};

use retry::BackOff;

/// The most dirty paths that are remembered one by one; more collapse into subtrees.
const DIRTY_MAX: usize = 200_000;
/// The most paths of one rsync.
const BATCH_MAX: usize = 50_000;
/// How often a root that is not there is looked for.
const ROOT_CHECK: Duration = Duration::from_secs(1);
/// A source without names is one that has been emptied after so long.
const EMPTIED: Duration = Duration::from_secs(1);

const START_OVER: &str = "nothing was deleted; if this is meant, start again with";
const LIVE: &str = "deletes stop, everything else goes on; if this is meant, start again with";

/// What came.
#[derive(Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The watcher heard something.
    Watched(Arc<Vec<WatchEvent>>),
    /// The whole source was walked.
    Walked(Result<Walked, RootTrouble>),
    /// A batch was looked at.
    Looked(Result<Looked, RootTrouble>),
    /// A run has ended; or it did not begin, since the source's root is not there.
    Ended {
        /// Which.
        run: u64,
        /// What became of it.
        outcome: Result<Outcome, RootTrouble>,
    },
    /// The source's root was looked at.
    Root(Result<(), RootTrouble>),
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Walk the whole source.
    Walk,
    /// Look at a batch.
    Look(Batch),
    /// Run rsync.
    Run {
        /// Its number.
        run: u64,
        /// What it is to do.
        what: Run,
    },
    /// Look at the source's root; `accept` another directory that stands there.
    CheckRoot {
        /// Whether.
        accept: bool,
    },
    /// Tell people.
    Say(Report),
    /// The target cannot be had; the next attempt is made after `retry_in`.
    Lost {
        /// Why.
        error: Error,
        /// When again.
        retry_in: Duration,
        /// Nothing has been mirrored yet.
        first: bool,
    },
    /// The target can be had again, or for the first time.
    Reached,
    /// The mirror has ended.
    Finish(Exit),
}

/// What of the configuration the decisions need beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Mirror once and end.
    pub once: bool,
    /// Nothing is done, only said.
    pub dry_run: bool,
    /// rsync is told of exactly what changed, and its lines are read.
    pub plain: bool,
    /// How often everything is compared, after jitter.
    pub rescan: Option<Duration>,
    /// What jitter begins with.
    pub seed: u64,
}

/// Paths with what may differ at each.
type Marked = Vec<(RelPath, Marks)>;

/// What an rsync that runs was started for.
#[derive(Debug)]
enum Flight {
    /// To find out what a run over everything would delete.
    Count,
    /// A run over everything.
    Full,
    /// What changed.
    Paths(Marked),
}

/// The whole state of one mirror that rsync carries.
#[derive(Debug)]
pub struct State {
    config: Arc<RsyncMirror>,
    rules: Rules,
    collate: Collate,
    flights: BTreeMap<u64, Flight>,
    next_run: u64,
    /// The batch that is being looked at.
    looking: Option<Marked>,
    /// Batches that failed without a name, parted to find what it was.
    suspects: VecDeque<Marked>,
    /// Runs that wait for others to end.
    waiting_runs: VecDeque<(Paths, Marked)>,
    /// Directories that another directory took the place of, and nobody told of what is in them.
    stale: BTreeSet<RelPath>,
    full_due: bool,
    /// Changes came that only a run over everything brings.
    all_dirty: bool,
    /// What runs over everything is for changes, and not for a start or a rescan.
    live: bool,
    walking: bool,
    walked: Walked,
    /// No rsync before this.
    not_before: Option<Instant>,
    /// While the target cannot be had.
    back_off: BackOff,
    /// While runs over everything leave something undone.
    doubts: BackOff,
    next_rescan: Option<Instant>,
    problems: Problems,
    guard: Guard,
    halted: bool,
    emptied: Option<Instant>,
    waiting: Option<RootTrouble>,
    next_root_check: Option<Instant>,
    reached: bool,
    ready: bool,
    finished: bool,
    totals: Totals,
    out: Vec<Effect>,
}

impl State {
    /// A mirror of which nothing is known yet: everything is due.
    #[must_use]
    pub fn new(config: Arc<RsyncMirror>, rules: Rules) -> State {
        State {
            collate: Collate::new(config.delay, DIRTY_MAX),
            flights: BTreeMap::new(),
            next_run: 1,
            looking: None,
            suspects: VecDeque::new(),
            waiting_runs: VecDeque::new(),
            stale: BTreeSet::new(),
            full_due: true,
            all_dirty: false,
            live: false,
            walking: false,
            walked: Walked::default(),
            not_before: None,
            back_off: BackOff::new(config.delay, rules.seed),
            doubts: BackOff::new(config.delay, rules.seed),
            next_rescan: None,
            problems: Problems::new(if rules.once { 1 } else { u32::MAX }),
            guard: Guard::new(config.max_delete),
            halted: false,
            emptied: None,
            waiting: None,
            next_root_check: None,
            reached: false,
            ready: false,
            finished: false,
            totals: Totals::default(),
            out: Vec::new(),
            config,
            rules,
        }
    }

    /// Takes one event and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if self.finished {
            return Vec::new();
        }
        match event {
            Event::Tick => {}
            Event::Watched(events) => self.watched(&events, now),
            Event::Walked(walked) => {
                self.walking = false;
                match walked {
                    Ok(walked) => self.walked(walked, now),
                    Err(trouble) => self.root_lost(trouble, now),
                }
            }
            Event::Looked(looked) => self.looked(looked, now),
            Event::Ended { run, outcome } => self.ended(run, outcome, now),
            Event::Root(root) => self.root_checked(root, now),
        }
        self.go_on(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is wanted; `None`: something else will come first.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let mut next = self.next_root_check;
        let mut sooner = |when: Option<Instant>| {
            next = match (next, when) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        if self.waiting.is_some() {
            return next;
        }
        let gate = |when: Instant| self.not_before.map_or(when, |gate| gate.max(when));
        if self.is_full_due() && self.not_before.is_some() && self.is_idle() {
            sooner(self.not_before);
        }
        if !self.is_full_due() && self.has_room() && !self.walking {
            let full = self.collate.len() >= self.config.max_delays;
            let due = self.collate.next();
            // Whoever has too much to wait for its delay waits for the back-off alone.
            sooner(if full && due.is_some() { self.not_before.or(due) } else { due.map(gate) });
            if !self.suspects.is_empty() || !self.waiting_runs.is_empty() {
                sooner(self.not_before);
            }
        }
        sooner(self.next_rescan);
        next
    }

    /// How much there is, as it is known.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The paths that failed and are not mended yet.
    #[must_use]
    pub fn problems(&self) -> usize {
        self.problems.list().count()
    }

    fn say(&mut self, report: Report) {
        self.out.push(Effect::Say(report));
    }

    fn finish(&mut self, exit: Exit) {
        self.finished = true;
        self.out.push(Effect::Finish(exit));
    }

    /// Is a run over everything to come before anything else?
    fn is_full_due(&self) -> bool {
        self.full_due || self.all_dirty
    }

    /// What a run over everything was for is not done.
    fn full_is_due_again(&mut self) {
        if self.live {
            self.all_dirty = true;
        } else {
            self.full_due = true;
        }
    }

    /// Paths that left come again.
    fn put_back(&mut self, marked: Marked, now: Instant) {
        for (path, marks) in marked {
            self.collate.mark(&path, marks, now);
        }
    }

    /// Does nothing run that has to do with the target or the whole source?
    fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.looking.is_none() && !self.walking
    }

    /// May another rsync be started?
    fn has_room(&self) -> bool {
        let paths = self.flights.values().all(|flight| matches!(flight, Flight::Paths(_)));
        paths && self.looking.is_none() && self.flights.len() < self.config.max_processes.max(1)
    }

    fn watched(&mut self, events: &[WatchEvent], now: Instant) {
        for event in events {
            match event {
                WatchEvent::Overflow => self.full_due = true,
                WatchEvent::RootGone if self.waiting.is_none() => {
                    self.out.push(Effect::CheckRoot { accept: false });
                }
                // What happens to a source that is not there is compared when it is back.
                _ if self.waiting.is_some() => {}
                WatchEvent::Renamed { from, to, dir } => {
                    self.note(&WatchEvent::Gone { path: from.clone(), dir: *dir }, now);
                    self.note(&WatchEvent::Appeared { path: to.clone(), dir: *dir }, now);
                }
                event => self.note(event, now),
            }
        }
    }

    fn note(&mut self, event: &WatchEvent, now: Instant) {
        if let WatchEvent::Appeared { path, dir: true } = event
            && self.has_gone(path)
        {
            self.stale.insert(path.clone());
        }
        self.collate.note(event, now);
    }

    /// Did this name go, and is it not known that the target was told of that? An rsync that is on
    /// its way to delete it will find what came instead, and then it deletes nothing.
    fn has_gone(&self, path: &RelPath) -> bool {
        let gone = |marks: Marks| marks.has(Marks::GONE);
        let flying = self.flights.values().filter_map(|flight| match flight {
            Flight::Paths(marked) => Some(marked),
            Flight::Count | Flight::Full => None,
        });
        let parked = self.waiting_runs.iter().map(|(_, marked)| marked);
        let mut left = flying.chain(parked).chain(&self.suspects).chain(&self.looking);
        self.collate.marks(path).is_some_and(gone)
            || left.any(|marked| {
                let at = marked.binary_search_by(|(known, _)| known.cmp(path));
                at.is_ok_and(|at| gone(marked[at].1))
            })
    }

    /// Everything that time or room allows.
    fn go_on(&mut self, now: Instant) {
        if self.next_root_check.is_some_and(|when| when <= now) {
            self.next_root_check = Some(now + ROOT_CHECK);
            self.out.push(Effect::CheckRoot { accept: false });
        }
        if self.finished || self.waiting.is_some() {
            return;
        }
        if self.next_rescan.is_some_and(|when| when <= now) {
            self.next_rescan = None;
            self.full_due = true;
        }
        if self.not_before.is_some_and(|when| when <= now) {
            self.not_before = None;
        }
        if self.not_before.is_some() {
            return;
        }
        if self.is_full_due() {
            // What is dirty by now is brought along; what becomes dirty from now on comes after it.
            if self.is_idle() {
                self.live = !self.full_due;
                (self.full_due, self.all_dirty) = (false, false);
                self.walking = true;
                let parked = std::mem::take(&mut self.waiting_runs).into_iter().map(|(_, m)| m);
                for marked in std::mem::take(&mut self.suspects).into_iter().chain(parked) {
                    self.put_back(marked, now);
                }
                self.collate.release_under(&RelPath::root(), now);
                self.out.push(Effect::Walk);
            }
            return;
        }
        if self.walking {
            return;
        }
        while self.has_room() {
            if let Some((paths, marked)) = self.waiting_runs.pop_front() {
                self.start(Run::Paths(paths), Flight::Paths(marked));
                continue;
            }
            let marked = match self.suspects.pop_front() {
                Some(marked) => marked,
                None => self.take(now),
            };
            if marked.is_empty() {
                return;
            }
            if marked[0].0.is_root() && marked[0].1.has(Marks::TREE) {
                // Before that anything is deleted it is asked how much that would be.
                self.all_dirty = true;
                self.put_back(marked.into_iter().skip(1).collect(), now);
                return self.go_on(now);
            }
            let paths = marked.iter().map(|(path, marks)| (path.clone(), *marks, now)).collect();
            self.looking = Some(marked);
            self.out.push(Effect::Look(Batch { steps: Vec::new(), paths }));
        }
    }

    /// What may leave now. When one change is due, all go that wait for their delay, as in Lsyncd 2;
    /// those that wait for another try go with them only if that is near.
    fn take(&mut self, now: Instant) -> Marked {
        let Some(next) = self.collate.next() else { return Vec::new() };
        let many = self.collate.len() >= self.config.max_delays;
        if next > now && !many {
            return Vec::new();
        }
        let until = if self.config.delay.is_zero() && !many {
            now
        } else {
            next.max(now + self.config.delay)
        };
        let busy: BTreeSet<&RelPath> = self
            .flights
            .values()
            .flat_map(|flight| match flight {
                Flight::Paths(marked) => marked.as_slice(),
                Flight::Count | Flight::Full => &[],
            })
            .chain(self.waiting_runs.iter().flat_map(|(_, marked)| marked))
            .map(|(path, _)| path)
            .collect();
        let batch = self.collate.take(until, BATCH_MAX, |path| touches(&busy, path));
        batch.paths.into_iter().map(|(path, marks, _)| (path, marks)).collect()
    }

    fn start(&mut self, what: Run, flight: Flight) {
        let run = self.next_run;
        self.next_run += 1;
        self.flights.insert(run, flight);
        self.out.push(Effect::Run { run, what });
    }

    /// The whole source was walked: everything is compared.
    fn walked(&mut self, walked: Walked, now: Instant) {
        let Totals { ops, deleted, bytes, .. } = self.totals;
        self.totals = Totals { files: walked.files, dirs: walked.dirs, ops, deleted, bytes };
        self.guard.counted(walked.files + walked.dirs);
        for (path, why) in &walked.failed {
            self.failed(path, Marks::NAME.with(Marks::TREE), why, now);
        }
        self.walked = walked;
        if self.config.skip_startup && !self.ready && !self.rules.once {
            self.out.push(Effect::Reached);
            self.reached = true;
            return self.complete(now);
        }
        let wanted = self.config.delete;
        let delete = if self.live { wanted.live() } else { wanted.by_walk() } && !self.halted;
        let empty = self.walked.empty && !self.config.allow_empty;
        if self.rules.dry_run {
            let full = Full { dry_run: true, max_delete: None, ..self.full(delete) };
            return self.start(Run::Full(full), Flight::Full);
        }
        if delete && (self.guard.limits() || empty) {
            if self.rules.plain {
                // How much would go is asked before anything does.
                let full = Full { dry_run: true, max_delete: None, ..self.full(true) };
                return self.start(Run::Full(full), Flight::Count);
            }
            if empty {
                let text = "the source is empty: nothing is deleted on the target";
                self.say(Report::Warning(text.to_owned()));
                let full = self.full(false);
                return self.start(Run::Full(full), Flight::Full);
            }
        }
        let full = self.full(delete);
        self.start(Run::Full(full), Flight::Full);
    }

    fn full(&self, delete: bool) -> Full {
        Full {
            delete,
            dry_run: false,
            unread: self.walked.unread.clone(),
            max_delete: self.most_names(),
        }
    }

    /// What rsync is told of `--max-delete`, as a second wall.
    fn most_names(&self) -> Option<u64> {
        self.guard.limit()
    }

    /// It is known how many names would be deleted.
    fn counted(&mut self, outcome: &Outcome, now: Instant) {
        let empty = self.walked.empty && !self.config.allow_empty && outcome.deleted > 0;
        let refused = if empty {
            let what = if self.ready { "has been emptied" } else { "is empty" };
            let target = lsync_protocol::path::Escaped(self.config.target.as_encoded_bytes());
            Some((format!("the source {what}, and {target} is not"), "--allow-empty"))
        } else {
            let reason = self.guard.allow(outcome.deleted, now).err();
            reason.map(|reason| (reason, "a larger --max-delete"))
        };
        let Some((reason, flag)) = refused else {
            let mut full = self.full(true);
            if self.guard.limits() {
                full.max_delete = Some(outcome.deleted);
            }
            return self.start(Run::Full(full), Flight::Full);
        };
        if !self.ready {
            self.say(Report::Halted { reason, hint: format!("{START_OVER} {flag}") });
            return self.finish(Exit::Stopped);
        }
        self.halt(reason, flag);
        let full = self.full(false);
        self.start(Run::Full(full), Flight::Full);
    }

    /// Deletes stop.
    fn halt(&mut self, reason: String, flag: &str) {
        if !self.halted {
            self.halted = true;
            self.say(Report::Halted { reason, hint: format!("{LIVE} {flag}") });
        }
    }

    /// A batch was looked at: it leaves.
    fn looked(&mut self, looked: Result<Looked, RootTrouble>, now: Instant) {
        let Some(mut marked) = self.looking.take() else { return };
        let mut looked = match looked {
            Ok(looked) => looked,
            Err(trouble) => {
                self.put_back(marked, now);
                return self.root_lost(trouble, now);
            }
        };
        for (path, marks) in &mut marked {
            // Until a run has brought it, every look has to know.
            if self.stale.remove(path) {
                *marks = marks.with(Marks::GONE);
            }
        }
        for (path, why) in std::mem::take(&mut looked.unknown) {
            self.failed(&path, Marks::NAME.with(Marks::CONTENT).with(Marks::TREE), &why, now);
        }
        for path in std::mem::take(&mut looked.excluded) {
            self.problems.gone(&path);
        }
        for (path, _) in &looked.paths.missing {
            self.solved_under(path);
        }
        for tree in &mut looked.paths.trees {
            let at = marked.binary_search_by(|(path, _)| path.cmp(&tree.path));
            tree.listed &= !at.is_ok_and(|at| marked[at].1.has(Marks::GONE));
        }
        looked.paths.delete = self.may_delete(&looked, &marked, now);
        looked.paths.max_delete = self.most_names();
        if self.emptied.is_some() {
            // Everything that went waits until that is believed.
            return;
        }
        let mut runs: VecDeque<(Paths, Marked)> = look::parted(looked.paths, looked.large, marked)
            .into_iter()
            .filter(|(paths, _)| !paths.is_empty())
            .collect();
        if let Some((paths, marked)) = runs.pop_front() {
            self.start(Run::Paths(paths), Flight::Paths(marked));
        }
        self.waiting_runs.extend(runs);
    }

    /// May the missing names of this batch be deleted?
    fn may_delete(&mut self, looked: &Looked, marked: &Marked, now: Instant) -> bool {
        let emptied = self.emptied.take();
        if looked.paths.missing.is_empty() {
            // A directory as a whole may have names to delete as well.
            return self.config.delete.live() && !self.halted;
        }
        if !self.config.delete.live() || self.halted {
            return false;
        }
        let at_root = looked.paths.missing.iter().any(|(path, _)| path.depth() == 1);
        if at_root && looked.root_empty && !self.config.allow_empty {
            // Whoever removes a whole tree removes its root last: then it is gone, not empty.
            let end = emptied.unwrap_or(now + EMPTIED);
            if now < end {
                self.emptied = Some(end);
                for (path, marks) in marked {
                    self.collate.mark_at(path, *marks, now, end);
                }
                return false;
            }
            self.halt("the source has been emptied".to_owned(), "--allow-empty");
            return false;
        }
        if let Err(reason) = self.guard.allow(looked.gone, now) {
            self.halt(reason, "a larger --max-delete");
            return false;
        }
        true
    }

    /// A run has ended.
    fn ended(&mut self, run: u64, outcome: Result<Outcome, RootTrouble>, now: Instant) {
        let Some(flight) = self.flights.remove(&run) else { return };
        // What waited for it may leave.
        self.collate.release_under(&RelPath::root(), now);
        let mut outcome = match outcome {
            Ok(outcome) => outcome,
            Err(trouble) => {
                if let Flight::Paths(marked) = flight {
                    self.put_back(marked, now);
                }
                return self.root_lost(trouble, now);
            }
        };
        if !matches!(flight, Flight::Count) {
            self.totals.ops += outcome.ops;
            self.totals.deleted += outcome.deleted;
            self.totals.bytes += outcome.bytes;
        }
        let end = std::mem::take(&mut outcome.end);
        match end {
            End::Again(error) | End::Die(error) => return self.lost(flight, error, now),
            End::Limited if self.rules.plain && !matches!(flight, Flight::Paths(_)) => {
                // More was there to delete than when it was counted: it is counted anew.
                return self.full_again(now);
            }
            End::Limited => {
                let reason = "more names were to be deleted than allowed".to_owned();
                self.halt(reason, "a larger --max-delete");
                if !self.ready {
                    return self.finish(Exit::Stopped);
                }
            }
            End::Done | End::Partial => {}
        }
        self.back_off.reset();
        if !self.reached {
            self.reached = true;
            self.out.push(Effect::Reached);
        }
        match flight {
            Flight::Count => self.counted(&outcome, now),
            Flight::Full => self.full_ended(outcome, matches!(end, End::Partial), now),
            Flight::Paths(marked) => {
                self.paths_ended(&marked, outcome, matches!(end, End::Partial), now);
            }
        }
    }

    /// The target could not be had: everything of the run is due again after a while.
    fn lost(&mut self, flight: Flight, error: Error, now: Instant) {
        let retry_in = self.back_off.next();
        let when = now + retry_in;
        self.not_before = Some(self.not_before.map_or(when, |before| before.max(when)));
        match flight {
            Flight::Count | Flight::Full => self.full_is_due_again(),
            Flight::Paths(marked) => self.put_back(marked, now),
        }
        self.reached = false;
        self.out.push(Effect::Lost { error, retry_in, first: !self.ready });
    }

    /// Everything is compared once more, after a while.
    fn full_again(&mut self, now: Instant) {
        self.full_is_due_again();
        self.not_before = Some(now + self.doubts.next());
    }

    fn full_ended(&mut self, outcome: Outcome, partial: bool, now: Instant) {
        let mut failed: BTreeMap<RelPath, String> = outcome.failed.into_iter().collect();
        for (path, why) in &self.walked.failed {
            failed.entry(path.clone()).or_insert_with(|| why.clone());
        }
        let before: Vec<RelPath> = self.problems.list().map(|p| p.path.clone()).collect();
        for path in before.into_iter().filter(|path| !failed.contains_key(path)) {
            self.problems.gone(&path);
            self.say(Report::Solved(path));
        }
        self.vanished(&outcome.vanished, now);
        let nobody = partial && failed.is_empty();
        for (path, why) in failed {
            if !self.walked.failed.iter().any(|(known, _)| *known == path) {
                self.failed(&path, Marks::NAME.with(Marks::CONTENT).with(Marks::TREE), &why, now);
            }
        }
        let nobody = nobody && outcome.vanished.is_empty();
        if nobody {
            let why = outcome.unnamed.unwrap_or_else(|| "rsync does not say why".to_owned());
            self.failed(&RelPath::root(), Marks::default(), &why, now);
        }
        let unsure = nobody || (partial && outcome.more);
        if unsure {
            self.full_again(now);
        }
        let clean = !unsure && !outcome.not_deleted;
        if clean {
            self.doubts.reset();
        }
        if outcome.not_deleted && !unsure {
            // What could not be read is known by the next walk, and protected by name.
            self.full_again(now);
        }
        self.complete(now);
    }

    /// Everything was compared.
    fn complete(&mut self, now: Instant) {
        self.next_rescan = self.rules.rescan.map(|every| now + every);
        let totals = self.totals;
        if self.rules.once {
            let exit = if self.problems.is_empty() { Exit::Done } else { Exit::Partial };
            return self.finish(exit);
        }
        let report = if self.ready { Report::Rescanned(totals) } else { Report::Ready(totals) };
        self.ready = true;
        self.say(report);
    }

    fn paths_ended(&mut self, marked: &Marked, outcome: Outcome, partial: bool, now: Instant) {
        let nobody = partial && outcome.failed.is_empty() && outcome.vanished.is_empty();
        if nobody && marked.len() > 1 {
            // Which of them it is, is found by trying halves.
            let half = marked.len() / 2;
            let (a, b) = marked.split_at(half);
            self.suspects.extend([a.to_vec(), b.to_vec()]);
            return;
        }
        if nobody && let Some((path, marks)) = marked.first() {
            let why = outcome.unnamed.unwrap_or_else(|| "rsync does not say why".to_owned());
            return self.failed(path, *marks, &why, now);
        }
        let failed: BTreeMap<RelPath, String> = outcome.failed.into_iter().collect();
        if partial && outcome.more {
            // Besides those that are named others failed: the rest goes once more.
            let vanished: BTreeSet<&RelPath> = outcome.vanished.iter().collect();
            let named = |path| failed.contains_key(path) || vanished.contains(path);
            let rest: Marked = marked.iter().filter(|(path, _)| !named(path)).cloned().collect();
            if rest.len() < marked.len() {
                self.suspects.extend((!rest.is_empty()).then_some(rest));
            } else if let [(path, marks)] = marked.as_slice() {
                let why = outcome.unnamed.as_deref().unwrap_or("rsync does not say why");
                self.failed(path, *marks, why, now);
            } else {
                let (a, b) = marked.split_at(marked.len() / 2);
                self.suspects.extend([a.to_vec(), b.to_vec()]);
            }
        } else {
            for (path, _) in marked {
                self.solved_but(path, &failed);
            }
        }
        self.vanished(&outcome.vanished, now);
        let content = Marks::NAME.with(Marks::CONTENT);
        for (path, why) in &failed {
            // A directory that could not be made takes what is in it along, as it was asked for.
            let at = marked.binary_search_by(|(known, _)| known.cmp(path));
            let marks = at.map_or(content, |at| content.with(marked[at].1));
            self.failed(path, marks.with(Marks::TREE), why, now);
        }
        if outcome.not_deleted {
            for (path, marks) in marked.iter().filter(|(_, marks)| marks.has(Marks::TREE)) {
                let when = now + self.doubts.next();
                self.collate.mark_at(path, *marks, now, when);
            }
        }
    }

    /// What went while rsync read it may have come back since.
    fn vanished(&mut self, paths: &[RelPath], now: Instant) {
        for path in paths.iter().filter(|path| !path.is_root()) {
            self.collate.mark(path, Marks::NAME.with(Marks::CONTENT).with(Marks::TREE), now);
        }
    }

    /// A path failed; it is tried again, and people hear of it once.
    fn failed(&mut self, path: &RelPath, marks: Marks, why: &str, now: Instant) {
        let retry = self.problems.failed(path, What::Itself, why, now);
        if let Some(problem) = retry.tell {
            self.say(Report::Problem(problem));
        }
        // The root stands for all: that is compared as a whole, and not as one path.
        if let Some(at) = retry.at
            && !path.is_root()
        {
            self.collate.mark_at(path, marks, now, at);
        }
    }

    /// This was brought over, and what is beneath it.
    fn solved_under(&mut self, path: &RelPath) {
        self.solved_but(path, &BTreeMap::new());
    }

    fn solved_but(&mut self, path: &RelPath, failed: &BTreeMap<RelPath, String>) {
        if !self.problems.under(path) {
            return;
        }
        let solved: Vec<RelPath> = self
            .problems
            .list()
            .map(|problem| &problem.path)
            .filter(|known| known.is_at_or_under(path) && !failed.contains_key(*known))
            .cloned()
            .collect();
        for path in solved {
            self.problems.gone(&path);
            self.say(Report::Solved(path));
        }
    }

    fn root_lost(&mut self, trouble: RootTrouble, now: Instant) {
        self.full_due = true;
        self.emptied = None;
        if self.rules.once {
            self.say(Report::Waiting(trouble));
            return self.finish(Exit::Stopped);
        }
        if trouble == RootTrouble::Replaced {
            self.out.push(Effect::CheckRoot { accept: true });
        } else if self.waiting.is_none() {
            self.say(Report::Waiting(trouble));
        }
        self.waiting = Some(trouble);
        self.next_root_check = Some(now + ROOT_CHECK);
    }

    fn root_checked(&mut self, root: Result<(), RootTrouble>, now: Instant) {
        match root {
            Ok(()) => {
                self.next_root_check = None;
                if self.waiting.take().is_some() {
                    self.say(Report::Back);
                    self.full_due = true;
                }
            }
            Err(RootTrouble::Replaced) if self.waiting.is_some() => {
                self.out.push(Effect::CheckRoot { accept: true });
            }
            Err(trouble) => self.root_lost(trouble, now),
        }
    }
}

/// Is one of these the path, above it or beneath it?
fn touches(busy: &BTreeSet<&RelPath>, path: &RelPath) -> bool {
    if busy.is_empty() {
        return false;
    }
    let beneath = busy.range::<RelPath, _>(path..).next();
    if beneath.is_some_and(|other| other.is_at_or_under(path)) {
        return true;
    }
    let mut at = path.parent();
    while let Some(above) = at {
        if busy.contains(&above) {
            return true;
        }
        at = above.parent();
    }
    false
}
