//! What becomes of a run of rsync that has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use lsync_protocol::path::RelPath;

use super::{Effect, Flight, Marked, Report, State};
use crate::carrier::rsync::{End, Outcome};
use crate::collate::Marks;
use crate::error::{Error, Exit};
use crate::mirror::RootTrouble;
use crate::mirror::problems::What;

impl State {
    /// A run has ended.
    pub(super) fn ended(&mut self, run: u64, outcome: Result<Outcome, RootTrouble>, now: Instant) {
        let Some(flight) = self.flights.remove(&run) else { return };
        self.since.remove(&run);
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
                self.halt(reason);
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
        self.flushes.begin_anew();
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
        self.flushes.begin_anew();
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
    pub(super) fn complete(&mut self, now: Instant) {
        self.next_rescan = self.rules.rescan.map(|every| now + every);
        self.confirmed &= self.is_full_due();
        let totals = self.totals;
        if self.rules.once {
            self.ready = true;
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
    pub(super) fn failed(&mut self, path: &RelPath, marks: Marks, why: &str, now: Instant) {
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
    pub(super) fn solved_under(&mut self, path: &RelPath) {
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
}
