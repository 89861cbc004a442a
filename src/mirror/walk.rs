//! Walks: a subtree of the source compared with the target's, directory by directory.
//!
//! Directories are compared in the order in which the walk read them, parents first, whatever the
//! order of the target's answers; so what makes a directory is always planned before what is in
//! it. Names that only the target has are held until the walk has ended, looked at afresh, put
//! before the guards, and only then removed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use lsync_protocol::entry::{Difference, DirDigest, Kind, Named, Quick, difference};
use lsync_protocol::message::INLINE_MAX;
use lsync_protocol::path::RelPath;

use super::compare::Contents;
use super::linking::Follower;
use super::live::{GRACE, GUARDED};
use super::pairing::{Pairing, Wait};
use super::problems::What;
use super::touched::Touched;
use super::{Cause, Due, Effect, Mirror, Report, RootTrouble, SourceDir, Totals};
use crate::collate::Marks;
use crate::config::Verify;
use crate::error::Exit;
use crate::metrics;
use crate::plan::{Absent, Planned};
use crate::reconcile::{attributes, recase, reconcile, twins};
use crate::source::RULES_BACK;
use crate::watch::WatchEvent;

/// The longest pause between two walks of the whole tree when events keep being lost.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The target's answer to a listing.
#[derive(Debug)]
pub(super) enum Answer {
    Same,
    Entries(Vec<Named>),
    Missing,
    Trouble(String),
}

/// A directory that waits for its answer.
#[derive(Debug)]
struct Pending {
    request: u32,
    seen: SourceDir,
    answer: Option<Answer>,
}

/// How far a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Reading and comparing.
    Comparing,
    /// Listing what is beneath directories that only the target has, for large contents that may
    /// have moved out of there.
    Pairing,
    /// Counting what is beneath the directories to be deleted, for the guard.
    Counting,
    /// Waiting for the fresh look at what is to be deleted.
    Checking,
    /// Some of it feeds contents that are on their way, and waits for them.
    Holding,
    /// Waiting for acks.
    Ending,
}

/// The walk that runs.
#[derive(Debug)]
pub(super) struct Walk {
    id: u64,
    starts: Vec<RelPath>,
    whole: bool,
    /// When the first of what it is for was heard of.
    since: Option<Instant>,
    phase: Phase,
    pending: VecDeque<Pending>,
    read_all: bool,
    began: Instant,
    /// Directories that this walk makes: they get their attributes once they are complete.
    made: BTreeSet<RelPath>,
    /// Directories that it renamed, since only the case of their names differed.
    recased: Vec<RelPath>,
    /// Names that only the target has.
    extra: Vec<(RelPath, Kind)>,
    /// What is beneath those, where the guard wants it counted.
    beneath: Vec<(RelPath, Kind)>,
    counting: BTreeMap<u32, RelPath>,
    /// Directories that only the target has, and that stay since rules keep something in them.
    shielding: BTreeSet<RelPath>,
    /// Names in the source's root.
    root_names: Option<usize>,
    counts: Totals,
    /// Bytes of content that were found to be sent.
    pub(super) to_send: u64,
    /// Names that events spoke of since it began, and whether what is beneath them may be other
    /// than it was: what the walk read of them may be older than what was sent meanwhile.
    pub(super) touched: Touched,
    /// Large contents that wait for what they may be copied from.
    pairing: Pairing,
    /// Contents that are still to be compared.
    pub(super) contents: Contents,
    /// The guard has allowed what is still to be deleted.
    judged: bool,
    /// Names that are linked when the contents they are linked to are there.
    pub(super) followers: Vec<Follower>,
}

impl Walk {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Is something newer known of this name than what it read?
    pub(super) fn is_newer(&self, path: &RelPath) -> bool {
        self.touched.has(path) || path.parent().is_some_and(|dir| self.touched.dir_is_stale(&dir))
    }

    pub(super) fn starts(&self) -> &[RelPath] {
        &self.starts
    }

    /// What it is for, should it have to be done again.
    pub(super) fn due(&self) -> Due {
        Due { whole: self.whole, since: self.since }
    }

    /// What it has counted so far.
    pub(super) fn counts(&self) -> Totals {
        self.counts
    }

    /// How many bytes of content it found to be sent, once it has compared everything.
    pub(super) fn to_send(&self) -> Option<u64> {
        let compared = self.read_all && self.pending.is_empty() && self.contents.is_empty();
        compared.then_some(self.to_send)
    }

    /// How many directories wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Does it still find out what is to be sent?
    pub(super) fn is_comparing(&self) -> bool {
        matches!(self.phase, Phase::Comparing | Phase::Pairing)
    }

    /// Does it still have to do with this path?
    pub(super) fn touches(&self, path: &RelPath) -> bool {
        self.starts.iter().any(|start| path.is_at_or_under(start) || start.is_under(path))
    }

    /// Something is known that is newer than what it read. Says whether it became too much.
    pub(super) fn heard(&mut self, event: &WatchEvent) -> bool {
        self.touched.heard(event)
    }

    /// Rules keep this name on the target, and so what is above it.
    fn shields(&mut self, path: &RelPath) {
        let mut at = path.parent();
        while let Some(dir) = at
            && self.shielding.insert(dir.clone())
        {
            at = dir.parent();
        }
    }

    /// Live deletes that are judged with those of the walk, while it still compares.
    pub(super) fn also_extra(&mut self, removes: &[Planned]) -> bool {
        let may = self.is_comparing() && self.of_root();
        if may {
            self.extra.extend(removes.iter().filter_map(|op| match op {
                Planned::Remove { path, kind } => Some((path.clone(), *kind)),
                _ => None,
            }));
        }
        may
    }

    pub(super) fn of_root(&self) -> bool {
        self.starts.iter().any(RelPath::is_root)
    }
}

impl Mirror {
    /// Starts the walk that is due, if none runs. Subtrees that are due go together.
    pub(super) fn start_walk(&mut self, now: Instant) {
        if self.walk.is_some() || self.walks_due.is_empty() || self.walks_are_held() {
            return;
        }
        let root_may = self.walk_not_before.is_none_or(|when| when <= now);
        let Some((starts, due)) = self.walks_due.take(root_may) else { return };
        if starts.iter().any(RelPath::is_root) {
            self.next_rescan = None;
        }
        let id = self.next_walk;
        self.next_walk += 1;
        self.out.push(Effect::Walk { walk: id, starts: starts.clone() });
        self.walk = Some(Walk {
            id,
            starts,
            whole: due.whole,
            since: due.since,
            phase: Phase::Comparing,
            pending: VecDeque::new(),
            read_all: false,
            began: now,
            made: BTreeSet::new(),
            recased: Vec::new(),
            extra: Vec::new(),
            beneath: Vec::new(),
            counting: BTreeMap::new(),
            shielding: BTreeSet::new(),
            root_names: None,
            counts: Totals::default(),
            to_send: 0,
            touched: Touched::default(),
            pairing: Pairing::default(),
            contents: Contents::default(),
            judged: false,
            followers: Vec::new(),
        });
    }

    /// Is something on its way that a listing would overtake?
    pub(super) fn walks_are_held(&self) -> bool {
        self.flights.moves_dirs_before(self.walk_after)
            || self.flights.names_before(self.doubt_before)
    }

    fn walk_is(&self, id: u64) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.id == id)
    }

    /// The walk read a directory: the target is asked about it.
    pub(super) fn walked(&mut self, id: u64, mut seen: SourceDir, now: Instant) {
        if self.drift.reads(id) {
            return self.relisted(seen);
        }
        let Some(held) = &self.held else { return };
        let Some(walk) = self.walk.as_mut().filter(|walk| walk.id == id) else { return };
        if self.rules.filter.reads_directories() {
            self.rules.filter.learn(&seen.dir, seen.rules.take());
            self.rules.filter.only(&seen.dir, |name| {
                seen.entries.binary_search_by(|named| (*named.name).cmp(name)).is_ok()
                    || seen.unknown.iter().any(|(unknown, _)| **unknown == *name)
            });
            if seen.rules_doubted {
                for name in self.rules.filter.rule_files() {
                    let Ok(path) = seen.dir.join(name) else { continue };
                    let marks = Marks::NAME.with(Marks::CONTENT).with(Marks::GONE);
                    self.collate.mark_at(&path, marks, now, now + RULES_BACK);
                }
            }
        }
        self.owners.map(&mut seen.here);
        self.owners.map_all(&mut seen.entries);
        walk.counts.dirs += 1;
        for named in &seen.entries {
            if named.entry.kind == Kind::File {
                walk.counts.files += 1;
                walk.counts.bytes += named.entry.size;
            }
        }
        if seen.dir.is_root() {
            walk.root_names = Some(seen.entries.len() + seen.unknown.len() + seen.kept.len());
        }
        // Where everything is sent anyway, or something is unknown, a digest says nothing.
        // Nor does it tell which names are of one file.
        let linked = held.hard_links() && seen.entries.iter().any(|n| n.entry.file.is_some());
        let digest = (!walk.whole && seen.unknown.is_empty() && !linked).then(|| {
            let carried = seen.entries.iter().filter(|named| held.carries(named.entry.kind));
            DirDigest::of(&self.rules.key, carried, held)
        });
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.out.push(Effect::List { request, dir: seen.dir.clone(), digest });
        for (name, why) in &seen.unknown {
            if let Ok(path) = seen.dir.join(name) {
                self.failed(&path, why, now);
            }
        }
        for entry in seen.entries.iter().map(|named| &named.entry).chain([&*seen.here]) {
            self.xattrs_left_out(entry);
        }
        self.owners_left_out(&seen.dir, &seen.here, &seen.entries);
        self.not_linked(&seen.dir, &seen.entries);
        if let Some(walk) = &mut self.walk {
            walk.pending.push_back(Pending { request, seen, answer: None });
        }
    }

    /// A directory of the source cannot be read: nothing beneath it is concluded.
    pub(super) fn walk_failed(&mut self, id: u64, dir: &RelPath, why: &str, now: Instant) {
        if self.drift.reads(id) {
            return self.not_relisted();
        }
        if self.walk_is(id) {
            self.failed_at(dir, What::Listing, why, now);
        }
    }

    pub(super) fn walk_ended(&mut self, id: u64, root: Result<(), RootTrouble>, now: Instant) {
        if !self.walk_is(id) {
            return;
        }
        match root {
            Ok(()) => {
                if let Some(walk) = &mut self.walk {
                    walk.read_all = true;
                }
            }
            Err(trouble) => self.root_lost(trouble, now),
        }
    }

    /// The target answered a listing: of the walk, of a clearing, or for the guard's count.
    pub(super) fn answered(&mut self, request: u32, answer: Answer, now: Instant) {
        if self.clearings.asked(request) {
            return self.clearing_listed(request, answer, now);
        }
        if self.drift.asked(request) {
            return self.drift_answered(request, answer, now);
        }
        let Some(walk) = &mut self.walk else { return };
        if let Some(dir) = walk.counting.remove(&request) {
            if walk.phase == Phase::Pairing {
                return self.listed_for_pairs(&dir, &answer);
            }
            return self.counted_beneath(&dir, answer, now);
        }
        // The numbers may have gone round once.
        let Some(first) = walk.pending.front().map(|front| front.request) else { return };
        let since = request.wrapping_sub(first);
        let Ok(at) = walk.pending.binary_search_by_key(&since, |p| p.request.wrapping_sub(first))
        else {
            return;
        };
        walk.pending[at].answer = Some(answer);
        while let Some(walk) = &mut self.walk
            && walk.pending.front().is_some_and(|front| front.answer.is_some())
            && let Some(Pending { seen, answer: Some(answer), .. }) = walk.pending.pop_front()
        {
            self.compare(seen, answer, now);
        }
    }

    /// Compares one directory and sends what differs.
    fn compare(&mut self, seen: SourceDir, answer: Answer, now: Instant) {
        let Some(held) = self.held.clone() else { return };
        let Some(walk) = &mut self.walk else { return };
        let made = walk.made.remove(&seen.dir);
        if walk.recased.iter().any(|dir| seen.dir.is_at_or_under(dir)) {
            // It was listed by a name that it has since: the walk of that is due.
            return;
        }
        let target = match answer {
            Answer::Same => None,
            Answer::Missing => Some(None),
            Answer::Entries(entries) => Some(Some(entries)),
            Answer::Trouble(why) => return self.failed_at(&seen.dir, What::Listing, &why, now),
        };
        if self.problems.mended(&seen.dir, What::Listing) {
            self.out.push(Effect::Say(Report::Solved(seen.dir.clone())));
        }
        let meta = held.meta(Kind::Dir, &seen.here.meta);
        let quick = if walk.whole { Quick::Never } else { self.rules.quick };
        let whole_tree = walk.of_root();
        let stale = walk.touched.dir_is_stale(&seen.dir);
        let stale_attributes = stale || walk.touched.attributes_are_stale(&seen.dir);
        let mut ops = Vec::new();
        let mut touched = made;
        let mut unmirrored = Vec::new();
        let mut by_content = Vec::new();
        let there = target.as_ref().map_or(Some(&seen.entries), Option::as_ref);
        walk.pairing.saw(&seen.dir, there.into_iter().flatten(), &held);
        if target.is_none() && quick == Quick::Content {
            by_content = twins(&seen.dir, &seen.entries);
        }
        if let Some(target) = &target {
            let unknown: Vec<Box<[u8]>> =
                seen.unknown.iter().map(|(name, _)| name).chain(&seen.kept).cloned().collect();
            let mut found =
                reconcile(&seen.dir, &seen.entries, &unknown, target.as_deref(), &held, quick);
            if held.folds_case() && self.rules.verify == Verify::No && self.rules.delete.live() {
                let there = target.as_deref().unwrap_or_default();
                let recased = recase(&mut found, &seen.entries, there, &held, quick);
                for (path, kind, differs) in recased {
                    if kind == Kind::Dir {
                        walk.recased.push(path.clone());
                    }
                    let marks = match (kind, differs) {
                        (Kind::Dir, _) => Marks::NAME.with(Marks::TREE).with(Marks::DIR),
                        (_, Difference::None) => continue,
                        (_, Difference::Meta) => Marks::META,
                        _ => Marks::NAME.with(Marks::CONTENT),
                    };
                    self.collate.mark(&path, marks, now);
                }
            }
            by_content = found.twins;
            walk.made.extend(found.made);
            unmirrored = found.unmirrored;
            for (path, kind) in &found.extra {
                if *kind == Kind::Dir {
                    walk.pairing.only_there(path);
                }
            }
            let delete = self.rules.delete;
            if if whole_tree { delete.by_walk() } else { delete.live() } {
                let filter = &self.rules.filter;
                let deletable = |(path, kind): &(RelPath, Kind)| {
                    filter.verdict_deep(path, *kind == Kind::Dir).deletable
                };
                walk.extra.extend(found.extra.into_iter().filter(deletable));
            }
            self.tell(&found.ops, &seen.entries, target.as_deref());
            let Some(walk) = &mut self.walk else { return };
            for op in found.ops {
                let path = op.path();
                let newer = stale
                    || match &op {
                        Planned::Dir { .. } => walk.touched.attributes_are_stale(path),
                        _ => walk.touched.has(path),
                    };
                if newer || self.flights.busy(path) || self.looking.contains(path) {
                    // A live change is ahead: it is looked at once more after it.
                    let marks = match &op {
                        Planned::MakeDir { .. } => Marks::NAME.with(Marks::TREE).with(Marks::DIR),
                        Planned::Dir { .. } | Planned::Meta { .. } => Marks::META,
                        _ => Marks::NAME.with(Marks::CONTENT),
                    };
                    self.collate.mark(path, marks, now);
                    continue;
                }
                touched |= !matches!(op, Planned::Meta { .. } | Planned::Dir { .. });
                ops.push(op);
            }
        }
        if let Some(target) = &target {
            let newer = |mirror: &Mirror, path: &RelPath| {
                stale
                    || mirror.walk.as_ref().is_some_and(|walk| walk.is_newer(path))
                    || mirror.flights.busy(path)
                    || mirror.looking.contains(path)
                    || mirror.collate.marks(path).is_some_and(|m| m.has(Marks::CONTENT))
            };
            touched |= self.link_walked(&seen, target.as_deref(), &mut ops, newer, now);
        }
        let root_differs = seen.dir.is_root()
            && self.root_entry.as_ref().is_some_and(|root| {
                difference(&seen.here, root, &held, self.rules.quick) != Difference::None
            });
        if root_differs && let Some(root) = &self.root_entry {
            let attributes = attributes(&seen.here, root, &held);
            let path = seen.dir.clone();
            let how = metrics::Differs::Attributes;
            self.differs(metrics::Difference { path, how, attributes });
        }
        if let Some(walk) = &mut self.walk {
            walk.contents.add(&seen.dir, by_content);
        }
        if (touched || root_differs) && stale_attributes {
            self.collate.mark(&seen.dir, Marks::META, now);
        } else if touched || root_differs {
            ops.push(Planned::Dir { path: seen.dir, meta });
        }
        for (path, kind) in unmirrored {
            self.not_mirrored(&path, kind);
        }
        if !self.origins.is_empty() {
            for op in &mut ops {
                let name = op.path().clone();
                self.find_like(op, &name, now);
            }
        }
        let mut paired = Vec::new();
        if let Some(walk) = &mut self.walk {
            walk.to_send += ops.iter().map(Planned::content).sum::<u64>();
            let mut leave = Vec::with_capacity(ops.len());
            for op in ops {
                match walk.pairing.wait(op) {
                    Wait::No(op) => leave.push(op),
                    Wait::Yes => {}
                    Wait::NoMore(all) => paired = all,
                }
            }
            ops = leave;
        }
        self.send(ops, Cause::Walk, now);
        self.send_paired(paired, now);
        self.ask_contents();
    }

    /// Contents that waited leave, unless something newer is known of them.
    fn send_paired(&mut self, ops: Vec<Planned>, now: Instant) {
        let Some(walk) = &self.walk else { return };
        let mut leave = Vec::with_capacity(ops.len());
        let mut small = Vec::new();
        for op in ops {
            let Planned::Content { path, like, size, .. } = &op else { continue };
            for old in like {
                self.origins.note(path, old, false, now);
            }
            let newer = path.parent().is_some_and(|dir| walk.touched.dir_is_stale(&dir))
                || walk.touched.has(path);
            if newer || self.flights.busy(path) || self.looking.contains(path) {
                self.collate.mark(path, Marks::NAME.with(Marks::CONTENT), now);
            } else if *size <= INLINE_MAX {
                small.push(op);
            } else {
                leave.push(op);
            }
        }
        self.send(leave, Cause::Walk, now);
        // What would take the place of something that is copied from lets that be opened first.
        let (wait, leave): (Vec<_>, Vec<_>) =
            small.into_iter().partition(|op| self.feeds(op.path()));
        // Their directories had their attributes before.
        for dir in leave.iter().filter_map(|op| op.path().parent()) {
            self.collate.mark(&dir, Marks::META, now);
        }
        self.send(leave, Cause::Walk, now);
        for op in wait {
            let marks = Marks::NAME.with(Marks::CONTENT);
            self.collate.mark_at(op.path(), marks, now, now + GRACE);
        }
    }

    /// Asks what is in directories in which contents that wait may have stood.
    fn list_for_pairs(&mut self) {
        let Some(walk) = &mut self.walk else { return };
        for dir in walk.pairing.take_dirs() {
            let request = self.next_request;
            self.next_request = self.next_request.wrapping_add(1);
            walk.counting.insert(request, dir.clone());
            self.out.push(Effect::List { request, dir, digest: None });
        }
    }

    fn listed_for_pairs(&mut self, dir: &RelPath, answer: &Answer) {
        let (Some(walk), Some(held)) = (&mut self.walk, &self.held) else { return };
        // What cannot be listed serves for nothing.
        if let Answer::Entries(entries) = answer {
            walk.pairing.saw(dir, entries, held);
            for named in entries.iter().filter(|named| named.entry.kind == Kind::Dir) {
                if let Ok(path) = dir.join(&named.name) {
                    walk.pairing.only_there(&path);
                }
            }
        }
        self.list_for_pairs();
    }

    /// Moves the walk on when all of a phase is done.
    pub(super) fn finish_walk(&mut self, now: Instant) {
        loop {
            let Some(walk) = &self.walk else { return };
            let read = walk.read_all && walk.pending.is_empty() && self.parked.is_empty();
            let compared = read && walk.contents.is_empty();
            match walk.phase {
                Phase::Comparing if compared => {
                    self.list_for_pairs();
                    if let Some(walk) = &mut self.walk {
                        walk.phase = Phase::Pairing;
                    }
                }
                Phase::Pairing if walk.counting.is_empty() => {
                    let paired = self.walk.as_mut().map(|walk| walk.pairing.paired());
                    self.send_paired(paired.unwrap_or_default(), now);
                    if !self.comparing_ended() {
                        return;
                    }
                }
                Phase::Holding if !walk.extra.iter().any(|(path, _)| self.feeds(path)) => {
                    self.check_extra();
                }
                Phase::Counting if walk.counting.is_empty() => self.check_extra(),
                Phase::Ending if self.flights.of_walk() == 0 && self.clearings.is_empty() => {
                    if !self.link_followers(now) {
                        self.walk_complete(now);
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Everything was compared: what of the names that only the target has may go?
    fn comparing_ended(&mut self) -> bool {
        // A rename that has not left yet may be what makes a name look extra.
        if !self.names_told() {
            return false;
        }
        let Some(walk) = &mut self.walk else { return false };
        if walk.of_root() {
            self.guard.counted(walk.counts.files + walk.counts.dirs);
        }
        if walk.extra.is_empty() {
            walk.phase = Phase::Ending;
            return true;
        }
        let only_told = self.rules.verify == Verify::Tell;
        let may = self.rules.allow_empty || self.confirmed.is_some();
        let empties = walk.root_names == Some(0) && !may && !only_told;
        if empties && walk.extra.iter().any(|(path, _)| path.depth() == 1) {
            let reason = "the source is empty and the target is not".to_owned();
            self.refuse_deletes(reason, "--allow-empty");
            return !self.finished;
        }
        if self.halted.is_some() {
            walk.phase = Phase::Ending;
            walk.extra.clear();
            return true;
        }
        // What is beneath them counts, or goes in their place.
        let shields = !self.rules.filter.is_empty();
        if (only_told || !self.guard.limits()) && !shields {
            self.check_extra();
            return true;
        }
        let dirs: Vec<RelPath> = walk
            .extra
            .iter()
            .filter(|(_, kind)| *kind == Kind::Dir)
            .map(|(path, _)| path.clone())
            .collect();
        walk.phase = Phase::Counting;
        for dir in dirs {
            self.count_beneath(dir);
        }
        true
    }

    /// What is beneath a directory that only the target has?
    fn count_beneath(&mut self, dir: RelPath) {
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        if let Some(walk) = &mut self.walk {
            walk.counting.insert(request, dir.clone());
            self.out.push(Effect::List { request, dir, digest: None });
        }
    }

    fn counted_beneath(&mut self, dir: &RelPath, answer: Answer, now: Instant) {
        match answer {
            Answer::Entries(entries) => {
                for named in entries {
                    let Ok(path) = dir.join(&named.name) else { continue };
                    let kind = named.entry.kind;
                    if !self.rules.filter.verdict(&path, kind == Kind::Dir).deletable_with_dir {
                        if let Some(walk) = &mut self.walk {
                            walk.shields(&path);
                        }
                        continue;
                    }
                    if let Some(walk) = &mut self.walk {
                        walk.beneath.push((path.clone(), kind));
                    }
                    if kind == Kind::Dir {
                        self.count_beneath(path);
                    }
                }
            }
            Answer::Trouble(why) => self.failed_at(dir, What::Listing, &why, now),
            Answer::Same | Answer::Missing => {}
        }
    }

    /// Is something at this path, or beneath it, being copied from?
    fn feeds(&self, path: &RelPath) -> bool {
        self.origins.feeds(path, |new| self.flights.busy(new))
    }

    fn check_extra(&mut self) {
        if let Some(walk) = &mut self.walk {
            walk.phase = Phase::Checking;
            let paths = walk.extra.clone();
            self.out.push(Effect::LookMissing { asked: walk.id, paths });
        }
    }

    /// The names that only the target has were looked at afresh.
    pub(super) fn extra_missing(
        &mut self,
        id: u64,
        absent: Result<Absent, RootTrouble>,
        now: Instant,
    ) {
        if !self.walk_is(id) {
            return;
        }
        let Absent { missing, unknown } = match absent {
            Ok(absent) => absent,
            Err(trouble) => return self.root_lost(trouble, now),
        };
        for (path, why) in unknown {
            self.failed(&path, &why, now);
        }
        let Some(walk) = &mut self.walk else { return };
        let tops: BTreeSet<&RelPath> = missing.iter().map(|(path, _)| path).collect();
        let mut removes: BTreeMap<RelPath, Kind> = missing.iter().cloned().collect();
        for (path, kind) in std::mem::take(&mut walk.beneath) {
            let mut at = Some(path.clone());
            while let Some(above) = at {
                if tops.contains(&above) {
                    removes.insert(path, kind);
                    break;
                }
                at = above.parent();
            }
        }
        let shielding = std::mem::take(&mut walk.shielding);
        self.tell_extra(&removes, &tops, &shielding);
        if self.rules.verify == Verify::Tell {
            removes.clear();
        }
        removes.retain(|path, _| !shielding.contains(path));
        let Some(walk) = &mut self.walk else { return };
        if std::mem::replace(&mut walk.judged, true) {
            if self.halted.is_some() {
                removes.clear();
            }
        } else if self.confirmed.is_none()
            && let Err(reason) = self.guard.allow(removes.len() as u64, now)
        {
            return self.refuse_deletes(reason, "a larger --max-delete");
        }
        let mut dirs = BTreeSet::new();
        let mut removed = BTreeSet::new();
        let mut held = Vec::new();
        let mut ops: Vec<Planned> = Vec::new();
        for (path, kind) in removes.into_iter().rev() {
            if self.feeds(&path) {
                held.push((path, kind));
                continue;
            }
            if self.flights.busy(&path)
                || self.looking.contains(&path)
                || (self.collate.marks(&path).is_some()
                    && self.rules.filter.verdict_deep(&path, kind == Kind::Dir).sent)
            {
                // Something newer is known of it; whether that is the last word, a look will tell.
                let marks = Marks::NAME.with(Marks::CONTENT);
                let dir = kind == Kind::Dir;
                let marks = if dir { marks.with(Marks::DIR) } else { marks };
                self.collate.mark(&path, marks, now);
                continue;
            }
            dirs.extend(path.parent());
            removed.insert(path.clone());
            ops.push(Planned::Remove { path, kind });
        }
        dirs.retain(|dir: &RelPath| !held.iter().any(|(path, _)| path == dir));
        if let Some(walk) = &mut self.walk {
            walk.phase = if held.is_empty() { Phase::Ending } else { Phase::Holding };
            walk.extra = held;
        }
        self.send(ops, Cause::Walk, now);
        // They left before: their times change when the names go, and are looked at after that.
        for dir in dirs.difference(&removed) {
            self.collate.mark(dir, Marks::META, now);
        }
    }

    /// A guard refuses what a walk would delete. At a start that is the end; live, deletes stop.
    fn refuse_deletes(&mut self, reason: String, flag: &str) {
        if let Some(walk) = &mut self.walk {
            walk.phase = Phase::Ending;
            walk.extra.clear();
            walk.beneath.clear();
        }
        if self.ready {
            self.halt(reason, GUARDED.to_owned());
        } else {
            let hint = format!("nothing was deleted; if this is meant, start with {flag}");
            self.say(Report::Halted { reason, hint });
            self.finish(Exit::Stopped);
        }
    }

    fn walk_complete(&mut self, now: Instant) {
        let Some(walk) = self.walk.take() else { return };
        for name in self.links.searched(&walk.starts, walk.id(), now) {
            self.collate.mark(&name, Marks::CONTENT, now);
        }
        if !walk.of_root() {
            return;
        }
        let (ops, deleted) = (self.totals.ops, self.totals.deleted);
        self.totals = Totals { ops, deleted, ..walk.counts };
        self.guard.counted(walk.counts.files + walk.counts.dirs);
        if self.confirmed.is_some_and(|first| walk.id() >= first) {
            self.confirmed = None;
        }
        self.next_rescan = self.rules.rescan.map(|every| now + every);
        self.walk_not_before = Some(now + (now - walk.began).min(PAUSE_MAX));
        let totals = self.totals;
        if self.ready {
            self.say(Report::Rescanned(totals));
        } else {
            self.ready = true;
            self.say(Report::Ready(totals));
        }
    }
}
