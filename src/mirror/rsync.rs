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
use super::live::GUARDED;
use super::problems::Problems;
use super::steer::Flushed;
use super::{Report, RootTrouble, Totals};
use crate::carrier::rsync::{Full, Outcome, Paths, Run};
use crate::collate::{Batch, Collate, Marks};
use crate::config::rsync::RsyncMirror;
use crate::error::{Error, Exit, Problem};
use crate::watch::WatchEvent;

mod ended;
mod look;
mod pending;
mod retry;
pub mod run;
mod steering;
#[cfg(test)]
mod tests;

pub use look::{Looked, Walked};

use retry::BackOff;
use steering::Flushes;

/// The most dirty paths that are remembered one by one; more collapse into subtrees.
const DIRTY_MAX: usize = 200_000;
/// The most paths of one rsync.
const BATCH_MAX: usize = 50_000;
/// How often a root that is not there is looked for.
const ROOT_CHECK: Duration = Duration::from_secs(1);
/// A source without names is one that has been emptied after so long.
const EMPTIED: Duration = Duration::from_secs(1);

const START_OVER: &str = "nothing was deleted; if this is meant, start again with";

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
    /// Somebody waits until everything of before now is mirrored, as for [`super::Event::Flush`].
    Flush {
        /// Which.
        token: u64,
        /// Everything of before was heard of.
        heard: bool,
    },
    /// Nothing is to be begun any more.
    Pause,
    /// All goes on.
    Resume {
        /// Deletes, too, that a guard has stopped.
        confirm: bool,
    },
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
    /// What somebody waited for has come.
    Flushed {
        /// Who.
        token: u64,
        /// To what.
        end: Flushed,
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
    /// When the first of it was heard of.
    looking_since: Option<Instant>,
    /// The same of what runs.
    since: BTreeMap<u64, Instant>,
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
    halted: Option<String>,
    /// Deletes were confirmed after that, until everything was compared.
    confirmed: bool,
    /// Nothing is begun.
    paused: bool,
    flushes: Flushes,
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
            halted: None,
            confirmed: false,
            paused: false,
            flushes: Flushes::default(),
            looking_since: None,
            since: BTreeMap::new(),
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
            Event::Flush { token, heard } => self.flush(token, heard, now),
            Event::Pause => self.pause(),
            Event::Resume { confirm } => self.resume(confirm),
        }
        self.go_on(now);
        self.end_flushes(now);
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
        sooner(self.flushes.next());
        if self.waiting.is_some() || self.paused {
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
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.list()
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
        self.collate.on_behalf_of(self.flushes.since());
        for (path, marks) in marked {
            self.collate.mark(&path, marks, now);
        }
        self.collate.on_behalf_of(None);
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
                WatchEvent::Overflow => {
                    self.full_due = true;
                    self.flushes.overflowed(now);
                }
                WatchEvent::Barrier(token) => self.flush_heard(*token, now),
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
        if self.finished || self.waiting.is_some() || self.paused {
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
        self.looking_since = batch.paths.iter().map(|(.., first)| *first).min();
        batch.paths.into_iter().map(|(path, marks, _)| (path, marks)).collect()
    }

    fn start(&mut self, what: Run, flight: Flight) {
        let run = self.next_run;
        self.next_run += 1;
        self.flights.insert(run, flight);
        self.since.extend(self.looking_since.map(|since| (run, since)));
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
        let delete = if self.live { wanted.live() } else { wanted.by_walk() };
        let delete = delete && self.halted.is_none();
        let empty = self.walked.empty && !self.config.allow_empty && !self.confirmed;
        if self.rules.dry_run {
            let full = Full { dry_run: true, max_delete: None, ..self.full(delete) };
            return self.start(Run::Full(full), Flight::Full);
        }
        if delete && ((self.guard.limits() && !self.confirmed) || empty) {
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
        self.guard.limit().filter(|_| !self.confirmed)
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
        self.halt(reason);
        let full = self.full(false);
        self.start(Run::Full(full), Flight::Full);
    }

    /// Deletes stop.
    fn halt(&mut self, reason: String) {
        if self.halted.is_none() {
            self.halted = Some(reason.clone());
            self.say(Report::Halted { reason, hint: GUARDED.to_owned() });
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
            return self.config.delete.live() && self.halted.is_none();
        }
        if !self.config.delete.live() || self.halted.is_some() {
            return false;
        }
        if self.confirmed {
            return true;
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
            self.halt("the source has been emptied".to_owned());
            return false;
        }
        if let Err(reason) = self.guard.allow(looked.gone, now) {
            self.halt(reason);
            return false;
        }
        true
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
