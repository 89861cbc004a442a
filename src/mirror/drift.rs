//! `--verify-every`: beside all else, the whole target is compared by content, calmly.
//!
//! It concludes nothing from one look: what seems to differ is looked at once more, a second
//! after everything was compared, and counts only if nothing was heard of it in either look. Only
//! then it is told and marked dirty, so that it is mended as a live change is, by the same rules
//! and guards. It has listings and reads of its own, a few at a time; no live change and no walk
//! waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lsync_protocol::entry::{DirDigest, Kind, Quick};
use lsync_protocol::path::RelPath;

use super::compare::{Contents, difference_of};
use super::touched::Touched;
use super::walk::Answer;
use super::{Compared, Effect, Mirror, Report, SourceDir};
use crate::collate::{Marks, Step};
use crate::metrics::{Difference, Differs};
use crate::reconcile::{Twin, reconcile, twins};
use crate::watch::WatchEvent;

/// How many directories may be on their way through both sides.
const DIRS_MAX: usize = 4;
/// What seems to differ is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// So many paths are looked at again; the first look ends there, and the next one finds more.
const SUSPECTS_MAX: usize = 10_000;

/// What the last comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastVerify {
    /// When it ended.
    pub ended: Instant,
    /// How long it took.
    pub took: Duration,
    /// Files whose content was compared.
    pub files: u64,
    /// Paths that had drifted; they are mended since.
    pub drifted: u64,
    /// Paths that could not be compared.
    pub unknown: u64,
}

/// Comparisons now and then.
#[derive(Debug, Default)]
pub(super) struct Drift {
    every: Option<Duration>,
    next: Option<Instant>,
    run: Option<Run>,
    last: Option<LastVerify>,
    /// Extra directories that were told of: what rules keep in them keeps them.
    kept: BTreeSet<RelPath>,
}

/// One that goes on.
#[derive(Debug)]
struct Run {
    id: u64,
    began: Instant,
    not_before: Instant,
    /// The second look, at suspects only.
    again: bool,
    todo: Vec<RelPath>,
    /// Directories that our side reads.
    reading: usize,
    asked: BTreeMap<u32, SourceDir>,
    contents: Contents,
    touched: Touched,
    suspects: BTreeSet<RelPath>,
    files: u64,
    drifted: u64,
    unknown: u64,
}

impl Drift {
    pub(super) fn new(every: Option<Duration>) -> Drift {
        Drift { every, ..Drift::default() }
    }

    /// When it wants to go on by itself.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.run {
            Some(run) if run.reading == 0 && run.asked.is_empty() && run.contents.is_empty() => {
                Some(run.not_before)
            }
            Some(_) => None,
            None => self.next,
        }
    }

    /// Does this listing belong to it?
    pub(super) fn reads(&self, id: u64) -> bool {
        self.run.as_ref().is_some_and(|run| run.id == id)
    }

    /// Was this asked for it?
    pub(super) fn asked(&self, request: u32) -> bool {
        self.run.as_ref().is_some_and(|run| run.asked.contains_key(&request))
    }

    /// Something is newer than what it read.
    pub(super) fn heard(&mut self, event: &WatchEvent, now: Instant) {
        let Some(run) = &mut self.run else { return };
        let lost = matches!(event, WatchEvent::Overflow | WatchEvent::RootGone);
        if run.touched.heard(event) || lost {
            self.stop(now);
        }
    }

    /// Nothing that was read counts any more: it begins anew when its time comes.
    pub(super) fn stop(&mut self, now: Instant) {
        if self.run.take().is_some() {
            self.next = self.every.map(|every| now + every);
        }
    }
}

impl Mirror {
    /// What the last comparison by `--verify-every` came to.
    #[must_use]
    pub fn last_verify(&self) -> Option<LastVerify> {
        self.drift.last
    }

    /// Goes on with what is to be compared, as far as there is room.
    pub(super) fn drift_on(&mut self, now: Instant) {
        let Some(every) = self.drift.every.filter(|_| self.ready) else { return };
        let next = *self.drift.next.get_or_insert(now + every);
        let walks = self.walk.is_some() || !self.walks_due.is_empty();
        if self.drift.run.is_none() && next <= now && !walks && !self.collate.has_steps() {
            self.begin_drift(vec![RelPath::root()], None, now);
        }
        loop {
            let Some(run) = &mut self.drift.run else { return };
            if run.not_before > now {
                return;
            }
            if run.contents.is_idle()
                && let Some(effect) = run.contents.ask(self.next_request, true)
            {
                self.next_request = self.next_request.wrapping_add(1);
                self.out.push(effect);
            }
            let room = run.reading + run.asked.len() < DIRS_MAX && !run.contents.is_full();
            if room && let Some(dir) = run.todo.pop() {
                run.reading += 1;
                self.out.push(Effect::Relist { walk: run.id, dir });
                continue;
            }
            let idle = run.reading == 0 && run.asked.is_empty() && run.contents.is_empty();
            if !(idle && run.todo.is_empty()) {
                return;
            }
            if run.again || run.suspects.is_empty() {
                return self.end_drift(every, now);
            }
            let dirs: BTreeSet<RelPath> = run.suspects.iter().filter_map(RelPath::parent).collect();
            let before = self.drift.run.take();
            self.begin_drift(dirs.into_iter().collect(), before, now);
        }
    }

    /// Begins a look: the first at everything, the second at what seemed to differ.
    fn begin_drift(&mut self, todo: Vec<RelPath>, first: Option<Run>, now: Instant) {
        let id = self.next_walk;
        self.next_walk += 1;
        let mut touched = Touched::default();
        // What is known to be on its way there is not there yet.
        for flight in self.flights.all() {
            touched.touch(flight.op.path(), true);
        }
        for path in &self.looking {
            touched.touch(path, true);
        }
        for (path, _) in self.collate.dirty_paths() {
            touched.touch(path, true);
        }
        for step in self.collate.steps() {
            match step {
                Step::Rename { from, to, .. } => {
                    touched.touch(from, true);
                    touched.touch(to, true);
                }
                Step::Clear { path, .. } => touched.touch(path, true),
            }
        }
        let new = Run {
            id,
            began: now,
            not_before: now,
            again: false,
            todo,
            reading: 0,
            asked: BTreeMap::new(),
            contents: Contents::default(),
            touched,
            suspects: BTreeSet::new(),
            files: 0,
            drifted: 0,
            unknown: 0,
        };
        self.drift.run = Some(match first {
            None => new,
            Some(Run { began, suspects, files, unknown, .. }) => {
                Run { began, suspects, files, unknown, again: true, not_before: now + AGAIN, ..new }
            }
        });
    }

    fn end_drift(&mut self, every: Duration, now: Instant) {
        let Some(run) = self.drift.run.take() else { return };
        let Run { began, files, drifted, unknown, .. } = run;
        self.drift.next = Some(now + every);
        let took = now - began;
        self.drift.last = Some(LastVerify { ended: now, took, files, drifted, unknown });
        self.say(Report::Verified { files, drifted, unknown });
    }

    /// Our side of a directory was read.
    pub(super) fn relisted(&mut self, mut seen: SourceDir) {
        let (Some(run), Some(held)) = (&mut self.drift.run, &self.held) else { return };
        run.reading = run.reading.saturating_sub(1);
        self.owners.map(&mut seen.here);
        self.owners.map_all(&mut seen.entries);
        run.unknown += seen.unknown.len() as u64;
        if !run.again {
            let dirs = seen.entries.iter().filter(|named| named.entry.kind == Kind::Dir);
            run.todo.extend(dirs.rev().filter_map(|named| seen.dir.join(&named.name).ok()));
        }
        let digest = seen.unknown.is_empty().then(|| {
            let carried = seen.entries.iter().filter(|named| held.carries(named.entry.kind));
            DirDigest::of(&self.rules.key, carried, held)
        });
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.out.push(Effect::List { request, dir: seen.dir.clone(), digest });
        run.asked.insert(request, seen);
    }

    /// Our side of a directory could not be read; or it is gone, and an event tells of it.
    pub(super) fn not_relisted(&mut self) {
        if let Some(run) = &mut self.drift.run {
            run.reading = run.reading.saturating_sub(1);
            run.unknown += 1;
        }
    }

    /// The target's side of a directory.
    pub(super) fn drift_answered(&mut self, request: u32, answer: Answer, now: Instant) {
        let (Some(run), Some(held)) = (&mut self.drift.run, self.held.clone()) else { return };
        let Some(seen) = run.asked.remove(&request) else { return };
        let mut found = Vec::new();
        let by_content = match answer {
            Answer::Same => twins(&seen.dir, &seen.entries),
            // The directory above tells of it.
            Answer::Missing => return,
            Answer::Trouble(_) => {
                run.unknown += 1;
                return;
            }
            Answer::Entries(theirs) => {
                let unknown: Vec<Box<[u8]>> =
                    seen.unknown.iter().map(|(name, _)| name).chain(&seen.kept).cloned().collect();
                let differs = reconcile(
                    &seen.dir,
                    &seen.entries,
                    &unknown,
                    Some(&theirs),
                    &held,
                    Quick::Content,
                );
                let of = |op| difference_of(op, &seen.entries, Some(&theirs), &held);
                found.extend(differs.ops.iter().filter_map(of).map(|found| (found, None)));
                if self.rules.delete.live() {
                    let filter = &self.rules.filter;
                    for (path, kind) in differs.extra {
                        let dir = kind == Kind::Dir;
                        if filter.verdict_deep(&path, dir).deletable {
                            let how = Differs::Extra { dir };
                            let attributes = Vec::new();
                            found.push((Difference { path, how, attributes }, Some(kind)));
                        }
                    }
                }
                differs.twins
            }
        };
        if let Some(run) = &mut self.drift.run {
            let mut by_content = by_content;
            by_content.retain(|twin| !run.again || run.suspects.contains(&twin.path));
            run.files += if run.again { 0 } else { by_content.len() as u64 };
            run.contents.add(&seen.dir, by_content);
        }
        for (difference, extra) in found {
            self.suspect(difference, extra, now);
        }
    }

    /// Contents were compared. Says whether they were asked for here.
    pub(super) fn drift_compared(
        &mut self,
        request: u32,
        files: Vec<Compared>,
        now: Instant,
    ) -> Result<(), Vec<Compared>> {
        let Some(run) = &mut self.drift.run else { return Err(files) };
        let Some((_, twins)) = run.contents.take(request) else { return Err(files) };
        let mut found = Vec::new();
        for (Twin { path, attributes, .. }, compared) in twins.into_iter().zip(files) {
            let how = match compared {
                Compared::Same if attributes.is_empty() => continue,
                Compared::Same => Differs::Attributes,
                Compared::Differs => Differs::Content,
                Compared::Moving => continue,
                Compared::Unknown(_) => {
                    run.unknown += 1;
                    continue;
                }
            };
            found.push(Difference { path, how, attributes });
        }
        for difference in found {
            self.suspect(difference, None, now);
        }
        Ok(())
    }

    /// Something seems to differ. What the target alone has comes with its kind.
    fn suspect(&mut self, difference: Difference, extra: Option<Kind>, now: Instant) {
        let Some(run) = &mut self.drift.run else { return };
        let path = difference.path.clone();
        let newer = run.touched.has(&path)
            || run.touched.dir_is_stale(&path)
            || (difference.how == Differs::Attributes && run.touched.attributes_are_stale(&path))
            || self.flights.busy(&path)
            || self.looking.contains(&path)
            || self.clearings.busy(&path)
            || self.collate.marks(&path).is_some()
            || self.problems.above(&path).is_some();
        if newer || self.drift.kept.contains(&path) {
            return;
        }
        if !run.again {
            run.suspects.insert(path);
            if run.suspects.len() >= SUSPECTS_MAX {
                run.todo.clear();
            }
            return;
        }
        if !run.suspects.remove(&path) {
            return;
        }
        run.drifted += 1;
        let name = Marks::NAME.with(Marks::CONTENT);
        let marks = match difference.how {
            Differs::Missing { dir: true } | Differs::Kind { source: Kind::Dir, .. } => {
                name.with(Marks::TREE).with(Marks::DIR)
            }
            Differs::Missing { .. } | Differs::Kind { .. } | Differs::Content => name,
            Differs::Attributes => Marks::META,
            Differs::Extra { dir: true } => name.with(Marks::GONE).with(Marks::DIR),
            Differs::Extra { dir: false } => name.with(Marks::GONE),
        };
        if let Some(kind) = extra {
            if kind == Kind::Dir && self.drift.kept.len() < SUSPECTS_MAX {
                self.drift.kept.insert(path.clone());
            }
            self.there.insert(path.clone(), kind);
        }
        self.collate.mark(&path, marks, now);
        self.say(Report::Differs(difference));
    }
}
