//! Mirror: one source to one target, its whole state.
//!
//! [`Mirror::handle`] takes one event and the time and says what is to be done; it cannot wait, it
//! reads nothing, and it is the only place where anything is decided. `run` waits, names what came
//! and performs the effects. So every rule of the design (what is unacked is dirty again, unknown
//! is not missing, walks delete last) is a property of this state and is tested as such.

pub mod actions;
mod clear;
mod compare;
pub mod connect;
mod drift;
mod due;
mod event;
mod fixed;
mod flights;
mod flush;
mod guard;
mod hooks;
mod lacks;
mod linking;
mod links;
mod live;
mod lost;
mod moved;
mod origins;
mod owners;
mod pairing;
pub mod pending;
mod problems;
mod recent;
mod renames;
pub mod rsync;
pub mod run;
pub mod steer;
mod touched;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_protocol::entry::{Entry, Held, Kind, Quick, Wanted};
use lsync_protocol::handshake::{Identity, Welcome};
use lsync_protocol::message::{NoList, OpId};
use lsync_protocol::path::RelPath;

use crate::collate::{Batch, Collate, Marks};
use crate::config::mapping::Mapping;
use crate::config::{Delete, Verify};
use crate::error::{Exit, Problem};
use crate::filter::Filter;
use crate::plan::Planned;
use crate::watch::WatchEvent;

pub use drift::LastVerify;
pub use event::{Effect, Event, Report, Totals};
pub use owners::Unasked;

pub use crate::carrier::{Compared, NotBuilt};
pub use crate::source::{RootTrouble, SourceDir};

use clear::Clearings;
use compare::Told;
use drift::Drift;
use due::{Due, WalksDue};
use flights::{Cause, Flight, Flights};
use flush::Flushes;
use guard::Guard;
use lacks::Lacks;
use links::Links;
use moved::Moved;
use origins::Origins;
use owners::Owners;
use problems::Problems;
use walk::Walk;

/// The most dirty paths that are remembered one by one; more collapse into subtrees.
const DIRTY_MAX: usize = 200_000;
/// The most paths looked at in one batch.
const BATCH_MAX: usize = 4096;
/// How many batches may be with the looker at a time.
const LOOKS_MAX: usize = 4;
/// How many operations may be in flight before no further changes are taken up.
const FLIGHTS_MAX: usize = 8 * 1024;
/// Directories swept after a link was lost; what is left in others goes with the next walk.
const SWEEPS_MAX: usize = 1000;
/// How many listings may wait for the target's answer.
const LISTS_MAX: usize = 256;

/// What of a configuration is carried, as the wire has it.
fn wanted(attributes: crate::config::Attributes) -> Wanted {
    let crate::config::Attributes { perms, owner, group, times, specials, devices, .. } =
        attributes;
    let xattrs = attributes.shown_xattrs();
    let hard_links = attributes.hard_links;
    Wanted { perms, owner, group, times, specials, devices, hard_links, xattrs }
}

/// What of the configuration the decisions need.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The longest a change waits.
    pub delay: Duration,
    /// When names are deleted.
    pub delete: Delete,
    /// The most names deleted in a minute.
    pub max_delete: Option<crate::config::MaxDelete>,
    /// The target may be emptied.
    pub allow_empty: bool,
    /// What is mirrored.
    pub filter: Arc<Filter>,
    /// What the user wants carried.
    pub wanted: Wanted,
    /// Owners by number.
    pub numeric_ids: bool,
    /// What owners and permissions become on the way.
    pub mapping: Arc<Mapping>,
    /// How walks compare.
    pub quick: Quick,
    /// How often the whole tree is walked.
    pub rescan: Option<Duration>,
    /// How often the target is compared by content.
    pub verify_every: Option<Duration>,
    /// Mirror once and end.
    pub once: bool,
    /// Nothing is done, only said.
    pub dry_run: bool,
    /// Source and target are only compared.
    pub verify: Verify,
    /// Keys the digests of this source.
    pub key: [u8; 32],
}

/// Is one of these keys the path or a directory above it?
fn covers<T>(map: &BTreeMap<RelPath, T>, path: &RelPath) -> bool {
    if map.is_empty() {
        return false;
    }
    let mut at = Some(path.clone());
    while let Some(path) = at {
        if map.contains_key(&path) {
            return true;
        }
        at = path.parent();
    }
    false
}

/// Is one of these keys the path or beneath it?
fn any_under<T>(map: &BTreeMap<RelPath, T>, dir: &RelPath) -> bool {
    map.range(dir.clone()..).next().is_some_and(|(path, _)| path.is_at_or_under(dir))
}

/// The paths of an operation whose fate is unknown are dirty; a rename becomes its two names.
fn mark_of(collate: &mut Collate, op: &Planned, now: Instant) {
    let name = Marks::NAME.with(Marks::CONTENT);
    let tree = |dir: bool| if dir { name.with(Marks::TREE).with(Marks::DIR) } else { name };
    match op {
        Planned::Rename { from, to, kind, .. } => {
            collate.mark(from, tree(*kind == Kind::Dir).with(Marks::GONE), now);
            collate.mark(to, tree(*kind == Kind::Dir), now);
        }
        Planned::Remove { path, kind } => {
            collate.mark(path, tree(*kind == Kind::Dir).with(Marks::GONE), now);
        }
        Planned::Meta { path, .. } | Planned::Dir { path, .. } => {
            collate.mark(path, Marks::META, now);
        }
        Planned::MakeDir { path, .. } => collate.mark(path, Marks::NAME.with(Marks::DIR), now),
        Planned::Replace { new, .. } => match **new {
            Planned::MakeDir { .. } => collate.mark(new.path(), tree(true), now),
            _ => mark_of(collate, new, now),
        },
        // What was written through this name may not be there.
        Planned::Content { path, .. } => collate.mark(path, name.with(Marks::WRITTEN), now),
        Planned::Symlink { path, .. }
        | Planned::Special { path, .. }
        | Planned::Link { path, .. } => {
            collate.mark(path, name, now);
        }
    }
}

/// A batch that is with the looker.
#[derive(Debug, Clone)]
struct Asked {
    batch: Arc<Batch>,
    /// Its names are those after so many renames of directories.
    since: u64,
    /// When the first of it was heard of.
    first: Instant,
}

/// The whole state of one mirror.
#[derive(Debug)]
pub struct Mirror {
    rules: Rules,
    collate: Collate,
    recent: recent::Recent,
    flights: Flights,
    next_op: OpId,
    next_request: u32,
    next_walk: u64,
    /// What the target can hold; absent while there is no link.
    held: Option<Held>,
    /// The target as it was when last connected: its host's boot id and its root.
    before: Option<([u8; 16], Option<Identity>)>,
    root_entry: Option<Entry>,
    owners: Owners,
    /// What waits for the target's numbers of owners, in order.
    parked: VecDeque<Event>,
    walk: Option<Walk>,
    /// Subtrees to be walked.
    walks_due: WalksDue,
    /// No walk before the renames of directories are done that were sent before this number: a
    /// listing may overtake them.
    walk_after: OpId,
    /// Nor before anything is done that was sent before events were lost.
    doubt_before: OpId,
    /// No walk of the whole tree before this.
    walk_not_before: Option<Instant>,
    next_rescan: Option<Instant>,
    /// Paths with the looker.
    looking: BTreeSet<RelPath>,
    /// The batches with the looker, in order.
    looks: VecDeque<Asked>,
    /// How often in a row renames were put back to wait for what comes next.
    put_back: u32,
    /// Directories in which an agent may have left temporary names when its link was lost.
    to_sweep: BTreeSet<RelPath>,
    /// Contents that wait for their names: none is given before all renames have left.
    staged: Vec<OpId>,
    problems: Problems,
    clearings: Clearings,
    guard: Guard,
    halted: Option<String>,
    /// Deletes were confirmed after that; the first walk that is to do them, until it is complete.
    confirmed: Option<u64>,
    /// Nothing is begun.
    paused: bool,
    flushes: Flushes,
    /// The source seems to be empty; when that is believed.
    emptied: Option<Instant>,
    waiting: Option<RootTrouble>,
    next_root_check: Option<Instant>,
    lacks: Lacks,
    /// When names are deleted as far as the target allows it.
    delete: Delete,
    /// What was found to stand on the target under dirty names that seem to be gone.
    there: BTreeMap<RelPath, Kind>,
    moved: Moved,
    origins: Origins,
    told: Told,
    drift: Drift,
    links: Links,
    ready: bool,
    finished: bool,
    totals: Totals,
    /// When the event came that is being handled.
    now: Instant,
    out: Vec<Effect>,
}

impl Mirror {
    /// A mirror that is not connected yet.
    #[must_use]
    pub fn new(rules: Rules) -> Mirror {
        Mirror {
            collate: Collate::new(rules.delay, DIRTY_MAX),
            recent: Default::default(),
            guard: Guard::new(rules.max_delete),
            owners: Owners::new(rules.numeric_ids, &rules.mapping),
            problems: Problems::new(match (rules.verify, rules.once) {
                // What could not be looked at is told, not tried.
                (Verify::Tell | Verify::Heal, _) => 1,
                (Verify::No, true) => 2,
                (Verify::No, false) => u32::MAX,
            }),
            drift: Drift::new(rules.verify_every),
            delete: rules.delete,
            rules,
            flights: Flights::default(),
            next_op: 1,
            next_request: 1,
            next_walk: 1,
            held: None,
            before: None,
            root_entry: None,
            parked: VecDeque::new(),
            walk: None,
            walks_due: WalksDue::default(),
            walk_after: 0,
            doubt_before: 0,
            walk_not_before: None,
            next_rescan: None,
            looking: BTreeSet::new(),
            looks: VecDeque::new(),
            put_back: 0,
            to_sweep: BTreeSet::new(),
            staged: Vec::new(),
            clearings: Clearings::default(),
            halted: None,
            confirmed: None,
            paused: false,
            flushes: Flushes::default(),
            emptied: None,
            waiting: None,
            next_root_check: None,
            lacks: Lacks::default(),
            moved: Moved::default(),
            told: Told::default(),
            origins: Origins::default(),
            links: Links::default(),
            there: BTreeMap::new(),
            ready: false,
            finished: false,
            totals: Totals::default(),
            now: Instant::now(),
            out: Vec::new(),
        }
    }

    /// Takes one event and says what is to be done.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if self.finished {
            return Vec::new();
        }
        self.now = now;
        self.collate.on_behalf_of(match &event {
            Event::Watched(_) | Event::Tick | Event::Unsettled { .. } | Event::Unproven { .. } => {
                None
            }
            // Whatever this finds may be what somebody waits for.
            _ => self.flushes.since(),
        });
        // Nothing is done by these that an old name would have waited for.
        let only_heard = matches!(event, Event::Watched(_) | Event::Walked { .. });
        match event {
            Event::Tick => {}
            Event::Watched(events) => self.watched(&events, now),
            Event::Connected(welcome) => self.connected(&welcome, now),
            Event::Lost => self.lost(now),
            Event::Root(root) => self.root_checked(root, now),
            // In order: nothing overtakes what waits for the numbers of owners.
            event @ (Event::Looked(_) | Event::Walked { .. } | Event::WalkEnded { .. }) => {
                if !self.parked.is_empty() || self.asks_owners(&event) {
                    self.parked.push_back(event);
                } else {
                    self.in_order(event, now);
                }
            }
            Event::NameIds { users, groups } => {
                self.owners.learn(&users, &groups);
                while let Some(event) = self.parked.pop_front() {
                    if self.asks_owners(&event) {
                        self.parked.push_front(event);
                        break;
                    }
                    self.in_order(event, now);
                }
            }
            Event::StillMissing { asked, absent } => self.still_missing(asked, absent, now),
            Event::WalkFailed { walk, dir, why } => self.walk_failed(walk, &dir, &why, now),
            Event::Same { request } => self.answered(request, walk::Answer::Same, now),
            Event::Entries { request, entries } => {
                self.answered(request, walk::Answer::Entries(entries), now);
            }
            Event::NoList { request, why: NoList::Missing } => {
                self.answered(request, walk::Answer::Missing, now);
            }
            Event::NoList { request, why: NoList::Trouble(trouble) } => {
                self.answered(request, walk::Answer::Trouble(trouble.text), now);
            }
            Event::Compared { request, files } => self.compared(request, files, now),
            Event::Acked { done, outcomes } => self.acked(&done, outcomes, now),
            Event::NotBuilt { id, why } => self.not_built(id, why, now),
            Event::Staged { id } => self.staged.push(id),
            Event::OtherFile { file } => self.link_misread(file, now),
            Event::Flush { token, heard } => self.flush(token, heard, now),
            Event::Pause => self.pause(now),
            Event::Resume { confirm } => self.resume(confirm, now),
            Event::Unproven { path } => {
                self.collate.mark(&path, Marks::CONTENT.with(Marks::WRITTEN), now);
            }
            Event::Unsettled { id } => {
                if let Some(flight) = self.flights.get(id) {
                    let path = flight.op.path().clone();
                    self.collate.note(&WatchEvent::Written(path), now);
                }
            }
        }
        if !only_heard {
            self.sweep_origins(now);
        }
        self.collate.on_behalf_of(self.flushes.since());
        self.go_on(now);
        self.collate.on_behalf_of(None);
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
        if self.held.is_some() && self.waiting.is_none() && !self.paused {
            if self.looks.len() < LOOKS_MAX && self.flights.len() < FLIGHTS_MAX {
                sooner(self.collate.next());
            }
            sooner(self.origins.next());
            if self.walk.is_none() && self.walks_due.is_empty() {
                sooner(self.drift.next());
            }
            if self.walk.is_none() {
                sooner(self.links.search_at());
                sooner(self.next_rescan);
                if self.walks_due.has_root() && !self.walks_are_held() {
                    sooner(self.walk_not_before);
                }
            }
        }
        next
    }

    /// May the walk deliver another directory? While not, it waits: memory stays flat.
    #[must_use]
    pub fn wants_walk(&self) -> bool {
        self.parked.is_empty()
            && !self.paused
            && self.flights.len() < FLIGHTS_MAX
            && self
                .walk
                .as_ref()
                .is_none_or(|walk| walk.waiting() < LISTS_MAX && !walk.contents.is_full())
    }

    /// Is the first mirror complete?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// What was counted and done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What the walk that runs has counted so far.
    #[must_use]
    pub fn walked_so_far(&self) -> Totals {
        self.walk.as_ref().map_or(self.totals, Walk::counts)
    }

    /// How many bytes of content the walk that runs found to be sent, once it knows.
    #[must_use]
    pub fn to_send(&self) -> Option<u64> {
        self.walk.as_ref().and_then(Walk::to_send)
    }

    /// The paths that failed and are not mended yet.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.list()
    }

    /// Is everything mirrored, as far as anything was heard of?
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.ready && self.walk.is_none() && self.dirty() == 0 && self.problems.is_empty()
    }

    /// How many paths are dirty or in flight.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.collate.len() + self.flights.len() + self.looking.len()
    }

    /// Why deletes are stopped, if they are.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    fn say(&mut self, report: Report) {
        self.out.push(Effect::Say(report));
    }

    fn finish(&mut self, exit: Exit) {
        self.finished = true;
        self.out.push(Effect::Finish(exit));
    }

    /// The target's agent is there: what is dirty can go.
    fn connected(&mut self, welcome: &Welcome, now: Instant) {
        self.held = Some(Held::new(self.rules.wanted, &welcome.holds));
        self.unmapped(welcome);
        self.may_give(welcome);
        self.heed(welcome);
        self.not_kept(welcome);
        let root = welcome.root.as_ref();
        self.root_entry = root.map(|root| root.entry.clone());
        let standing = (welcome.boot, root.map(|root| root.identity));
        // Another boot, another root: what was acked may not be there.
        if self.before != Some(standing) {
            let crashed = self.before.is_some_and(|(boot, _)| boot != welcome.boot);
            let (unwritten, more) =
                if crashed { self.recent.unwritten() } else { Default::default() };
            for path in unwritten {
                self.collate.mark(&path, Marks::CONTENT.with(Marks::WRITTEN), now);
            }
            self.walk_root(more, now);
        }
        self.before = Some(standing);
        self.origins.begin(now);
        // An agent removes the temporary names of a dead one where it lists; the answer says nothing
        // new.
        for dir in std::mem::take(&mut self.to_sweep) {
            let request = self.next_request;
            self.next_request = self.next_request.wrapping_add(1);
            self.out.push(Effect::List { request, dir, digest: None });
        }
        if self.waiting.is_none() && self.next_rescan.is_none() {
            self.next_rescan = self.rules.rescan.map(|every| now + every);
        }
    }

    /// Does this need numbers of owners that are not known? Then they are asked.
    fn asks_owners(&mut self, event: &Event) -> bool {
        let Some(held) = &self.held else { return false };
        let unasked = match event {
            Event::Walked { seen, .. } => {
                let all = seen.entries.iter().map(|named| &named.entry);
                self.owners.unknown(all.chain([&*seen.here]), held)
            }
            Event::Looked(Ok(looked)) => self.owners.unknown(live::entries(looked), held),
            _ => return false,
        };
        if unasked.is_empty() {
            return false;
        }
        self.owners.ask(&unasked);
        self.out.push(Effect::AskNames(unasked));
        true
    }

    fn in_order(&mut self, event: Event, now: Instant) {
        match event {
            Event::Looked(looked) => {
                self.collate.on_behalf_of(self.looks.front().map(|asked| asked.first));
                match looked {
                    Ok(looked) => self.looked(looked, now),
                    Err(trouble) => {
                        self.redirty(now);
                        self.root_lost(trouble, now);
                    }
                }
                self.collate.on_behalf_of(self.flushes.since());
            }
            Event::Walked { walk, seen } => self.walked(walk, seen, now),
            Event::WalkEnded { walk, root } => self.walk_ended(walk, root, now),
            _ => {}
        }
    }

    /// The source's root is not what it was: nothing is concluded from it until it is back.
    fn root_lost(&mut self, trouble: RootTrouble, now: Instant) {
        // Everything has to be compared when it is back. What is on its way may arrive under a name
        // that is another by now, so that is dirty as well.
        self.there.clear();
        self.drift.stop(now);
        self.emptied = None;
        self.problems.clear();
        // What they still ask for is answered by the same trouble, or not used.
        self.end_clearings(now);
        self.doubt(now);
        self.walk_due(RelPath::root(), false, now);
        if self.walk.take().is_some() {
            self.out.push(Effect::StopWalk);
        }
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
        self.next_root_check = Some(now + Duration::from_secs(1));
    }

    fn root_checked(&mut self, root: Result<Identity, RootTrouble>, now: Instant) {
        match root {
            Ok(_) => {
                self.next_root_check = None;
                if self.waiting.take().is_some() {
                    self.say(Report::Back);
                    self.walk_root(false, now);
                }
            }
            Err(RootTrouble::Replaced) if self.waiting.is_some() => {
                self.out.push(Effect::CheckRoot { accept: true });
            }
            Err(trouble) => self.root_lost(trouble, now),
        }
    }

    fn watched(&mut self, events: &[WatchEvent], now: Instant) {
        for event in events {
            if self.waiting.is_none() {
                self.newer_than_reads(event, now);
            }
            match event {
                WatchEvent::Barrier(token) => self.flush_heard(*token, now),
                WatchEvent::Overflow => {
                    self.walk_due(RelPath::root(), false, now);
                    self.flushes.overflowed(now);
                    self.doubt(now);
                }
                WatchEvent::RootGone => {
                    if self.waiting.is_none() {
                        self.out.push(Effect::CheckRoot { accept: false });
                    }
                }
                _ if self.waiting.is_some() => {}
                WatchEvent::Renamed { from, to, dir } => self.renamed(from, to, *dir, event, now),
                WatchEvent::Gone { path, .. } => {
                    self.link_gone(path, now);
                    self.collate.note(event, now);
                    self.cancel_content(path, now);
                }
                WatchEvent::Appeared { path, .. } | WatchEvent::Unsure(path) => {
                    self.link_gone(path, now);
                    self.collate.note(event, now);
                }
                _ => self.collate.note(event, now),
            }
        }
    }

    /// Everything that time or room allows.
    fn go_on(&mut self, now: Instant) {
        if let Some(when) = self.next_root_check
            && when <= now
        {
            self.next_root_check = Some(now + Duration::from_secs(1));
            self.out.push(Effect::CheckRoot { accept: false });
        }
        if self.held.is_none() || self.waiting.is_some() || self.finished || self.paused {
            return;
        }
        if self.next_rescan.is_some_and(|when| when <= now) && self.walk.is_none() {
            self.walks_due.add(RelPath::root(), Due::default());
            self.next_rescan = None;
        }
        if self.walk.is_none() && self.links.search(now) {
            self.walks_due.add(RelPath::root(), Due::default());
        }
        self.start_walk(now);
        while self.looks.len() < LOOKS_MAX && self.flights.len() < FLIGHTS_MAX {
            let flights = &self.flights;
            let (looking, clearings) = (&self.looking, &self.clearings);
            let busy = |path: &RelPath| {
                flights.busy(path) || looking.contains(path) || clearings.busy(path)
            };
            let steps = self.collate.steps_since();
            let batch = self.collate.take(now, BATCH_MAX, busy);
            if batch.is_empty() {
                break;
            }
            let first = batch.paths.iter().map(|(.., first)| *first).chain(steps).min();
            let batch = Arc::new(batch);
            let since = self.moved.so_far();
            let first = first.unwrap_or(now);
            self.looks.push_back(Asked { batch: Arc::clone(&batch), since, first });
            self.looking.extend(batch.paths.iter().map(|(path, ..)| path.clone()));
            self.out.push(Effect::Look(batch));
        }
        self.name_staged(now);
        self.finish_walk(now);
        // Another may have waited for the end of that one.
        self.start_walk(now);
        self.drift_on(now);
        self.finish_once();
    }

    /// Have all renames that were heard of left?
    fn names_told(&self) -> bool {
        !self.collate.has_steps() && self.looks.iter().all(|asked| asked.batch.steps.is_empty())
    }

    /// Contents that are staged get their names, if no rename is still to be told.
    fn name_staged(&mut self, now: Instant) {
        if !self.names_told() {
            return;
        }
        for staged in std::mem::take(&mut self.staged) {
            let id = self.next_op;
            let first = self.flights.get(staged).map(|flight| flight.first);
            self.out.push(match self.flights.renumber(staged, id) {
                Some(path) => {
                    self.collate.on_behalf_of(first);
                    self.next_op += 1;
                    // The name changes the time of its directory, which was told before.
                    if let Some(parent) = path.parent() {
                        self.collate.mark(&parent, Marks::META, now);
                    }
                    Effect::Commit { staged, id, path }
                }
                None => Effect::Cancel(staged),
            });
        }
        self.collate.on_behalf_of(self.flushes.since());
    }

    /// A subtree is to be walked, for what is being dealt with.
    fn walk_due(&mut self, path: RelPath, whole: bool, now: Instant) {
        let since = Some(self.collate.behalf().unwrap_or(now));
        self.walks_due.add(path, Due { whole, since });
    }

    /// The whole tree is to be walked, at once.
    fn walk_root(&mut self, whole: bool, now: Instant) {
        self.walk_due(RelPath::root(), whole, now);
        self.walk_not_before = None;
    }

    /// Numbers operations and sends them.
    fn send(&mut self, ops: Vec<Planned>, cause: Cause, first: Instant) {
        if ops.is_empty() {
            return;
        }
        if self.rules.dry_run {
            for op in ops {
                self.totals.ops += 1;
                self.totals.deleted += u64::from(matches!(op, Planned::Remove { .. }));
                if self.rules.verify == Verify::No {
                    self.say(Report::Op(op));
                }
            }
            return;
        }
        let since = self.next_op;
        // What a walk finds may be what somebody waits for.
        let walked = self.collate.behalf().filter(|_| cause == Cause::Walk);
        let first = walked.map_or(first, |since| since.min(first));
        let mut numbered = Vec::with_capacity(ops.len());
        for op in ops {
            // What leaves with it and ahead of it is known by its name of then, which this moves.
            if let Planned::Rename { from, to, .. } = &op {
                self.flights.renamed_since(since, from, to);
            }
            let sent = self.now;
            numbered.push(self.number(Flight { op, cause, first, sent, cleared: 0 }));
        }
        self.out.push(Effect::Send(numbered));
    }

    fn number(&mut self, flight: Flight) -> (OpId, Planned) {
        let (id, op) = (self.next_op, flight.op.clone());
        self.next_op += 1;
        self.totals.ops += 1;
        self.totals.deleted += u64::from(matches!(op, Planned::Remove { .. }));
        self.flights.insert(id, flight);
        (id, op)
    }

    /// An operation found the target other than expected: it goes once more, or another in its
    /// place. Its directory had its attributes before that and gets them again.
    fn send_again(&mut self, flight: Flight, now: Instant) {
        // A directory that is being cleared is to go: its attributes are nobody's.
        if let Some(dir) = flight.op.path().parent()
            && !matches!(flight.cause, Cause::Clearing(_))
        {
            self.collate.mark(&dir, Marks::META, now);
        }
        if matches!(flight.op, Planned::Remove { .. }) {
            self.totals.deleted = self.totals.deleted.saturating_sub(1); // counted already
        }
        let numbered = self.number(flight);
        self.out.push(Effect::Send(vec![numbered]));
    }

    /// Deletes stop; everything else goes on.
    fn halt(&mut self, reason: String, hint: String) {
        if self.halted.is_none() {
            self.say(Report::Halted { reason: reason.clone(), hint });
        }
        self.halted = Some(reason);
    }

    /// What a run that was to be done once came to.
    fn outcome_of_once(&self) -> Exit {
        let unhealed = match self.rules.verify {
            Verify::No => false,
            Verify::Tell => self.told.count() > 0,
            Verify::Heal => self.problems.list().any(|problem| self.told.has(&problem.path)),
        };
        match self.problems.is_empty() {
            _ if unhealed => Exit::Differs,
            true => Exit::Done,
            false => Exit::Partial,
        }
    }

    /// With `--once`: nothing is left to do.
    fn finish_once(&mut self) {
        if self.rules.once
            && self.ready
            && !self.finished
            && self.walk.is_none()
            && self.walks_due.is_empty()
            && self.looks.is_empty()
            && self.flights.is_empty()
            && self.clearings.is_empty()
            && self.collate.is_empty()
        {
            self.finish(self.outcome_of_once());
        }
    }
}

#[cfg(test)]
mod tests;
