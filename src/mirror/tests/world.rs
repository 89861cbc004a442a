//! The simulated world: whatever takes time is a queue, so a test says what is late.

mod asked;
mod far;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_protocol::entry::{
    Digest, DirDigest, Entry, Held, Holds, Kind, Meta, Named, Quick, Time, Wanted,
};
use lsync_protocol::handshake::{Identity, RootHere, Welcome};
use lsync_protocol::message::{INLINE_MAX, NoList, OpId, Outcome, Trouble};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::Classes;

use crate::carrier::NotBuilt;
use crate::collate::{Batch, Follow, Marks, Step};
use crate::config::Delete;
use crate::error::Exit;
use crate::filter::Filter;
use crate::mirror::steer::Flushed;
use crate::mirror::{Effect, Event, Mirror, Report, RootTrouble, Rules, SourceDir};
use crate::plan::{Absent, Look, Looked, Planned};
use crate::source::find_missed;
use crate::watch::WatchEvent;

/// Content is a number; files above this are brought in stages.
pub(super) const LARGE: u64 = 1000;

pub(super) fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    pub(super) content: u64,
    mode: u32,
    mtime: i64,
}

impl Thing {
    pub(super) fn entry(&self) -> Entry {
        let size = match self.kind {
            Kind::File if self.content >= LARGE => INLINE_MAX + self.content,
            // Some of one size; none is empty, for then there would be nothing to compare.
            Kind::File => 1 + self.content % 3,
            _ => 0,
        };
        let link = (self.kind == Kind::Symlink).then(|| format!("{}", self.content));
        Entry {
            kind: self.kind,
            size,
            link: link.map(|link| link.into_bytes().into()),
            meta: Meta {
                mode: (self.kind != Kind::Symlink).then_some(self.mode),
                uid: None,
                gid: None,
                mtime: Some(Time { sec: self.mtime, nsec: 0 }),
                xattrs: None,
            },
            nlink: 1,
            file: None,
            device: None,
        }
    }
}

pub(super) type Tree = BTreeMap<RelPath, Thing>;

/// What is beneath a path, and the path itself.
pub(super) fn under(tree: &Tree, at: &RelPath) -> Vec<RelPath> {
    let range = tree.range(at.clone()..).map(|(path, _)| path);
    range.take_while(|path| path.is_at_or_under(at)).cloned().collect()
}

fn children(tree: &Tree, dir: &RelPath) -> Vec<RelPath> {
    under(tree, dir).into_iter().filter(|p| p.parent().as_ref() == Some(dir)).collect()
}

fn is_dir(tree: &Tree, at: &RelPath) -> bool {
    tree.get(at).is_some_and(|thing| thing.kind == Kind::Dir)
}

fn move_tree(tree: &mut Tree, from: &RelPath, to: &RelPath) {
    for old in under(tree, to) {
        tree.remove(&old);
    }
    for old in under(tree, from) {
        let thing = tree.remove(&old).unwrap();
        tree.insert(old.moved(from, to).unwrap(), thing);
    }
}

/// What the carrier has been told and not sent.
#[derive(Debug)]
enum Order {
    Op(OpId, Planned),
    Commit { staged: OpId, id: OpId, path: RelPath },
}

/// An operation on the wire, with what was read for it.
#[derive(Debug)]
struct Built {
    id: OpId,
    op: Planned,
    content: Option<Thing>,
}

#[derive(Debug, Default)]
struct Link {
    orders: VecDeque<Order>,
    large: VecDeque<(OpId, RelPath, Planned)>,
    staged: BTreeMap<OpId, (Thing, Planned)>,
    cancelled: BTreeSet<OpId>,
    wire: VecDeque<Built>,
    lists: VecDeque<(u32, RelPath, Option<Digest>)>,
    compares: VecDeque<(u32, Vec<RelPath>)>,
    answers: VecDeque<Event>,
    acks: Vec<(OpId, Option<Outcome>)>,
    /// Put together from something that was not what it seemed: by stage, then by what names it.
    wrong: BTreeSet<OpId>,
}

#[derive(Debug)]
enum Ask {
    Look(Arc<Batch>),
    Missing(u64, Vec<(RelPath, Kind)>),
    Check(bool),
    Relist(u64, RelPath),
}

#[derive(Debug)]
struct Walking {
    id: u64,
    dirs: Vec<RelPath>,
    found: VecDeque<Event>,
    read_all: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Hear,
    Look,
    LookDone,
    Read,
    ReadDone,
    Build,
    Stage,
    Apply,
    List,
    Answer,
    Ack,
}

pub(super) const ACTS: [Act; 11] = [
    Act::Hear,
    Act::Look,
    Act::LookDone,
    Act::Read,
    Act::ReadDone,
    Act::Build,
    Act::Stage,
    Act::Apply,
    Act::List,
    Act::Answer,
    Act::Ack,
];

pub(super) struct World {
    pub(super) mirror: Mirror,
    pub(super) now: Instant,
    pub(super) source: Tree,
    pub(super) target: Tree,
    pub(super) events: VecDeque<WatchEvent>,
    pub(super) root: Option<RootTrouble>,
    pub(super) filter: Arc<Filter>,
    pub(super) said: Vec<Report>,
    pub(super) flushed: Vec<(u64, Flushed)>,
    pub(super) exit: Option<Exit>,
    /// Operations sent since this was last emptied.
    pub(super) sent: Vec<String>,
    /// Names that cannot be looked at or read on the source.
    pub(super) unreadable: BTreeSet<RelPath>,
    /// Names on which every operation fails on the target.
    pub(super) broken: BTreeSet<RelPath>,
    /// New directories are walked, never taken along.
    pub(super) never_along: bool,
    pub(super) boot: u8,
    pub(super) turns: u64,
    /// Everything is told as it happens.
    pub(super) told: bool,
    pub(super) alike: bool,
    /// Large contents that had names to be copied from, and the one that was there.
    pub(super) based: Vec<(String, Option<String>)>,
    held: Held,
    asks: VecDeque<Ask>,
    looked: VecDeque<Event>,
    walking: Option<Walking>,
    link: Option<Link>,
    clock: i64,
    /// Missing at the last look: only these may be removed.
    missing: BTreeSet<RelPath>,
    /// Directories that a walk did not find.
    missed: BTreeSet<RelPath>,
}

pub(super) fn rules() -> Rules {
    Rules {
        delay: Duration::ZERO,
        delete: Delete::Yes,
        max_delete: None,
        allow_empty: false,
        filter: Arc::default(),
        wanted: Wanted {
            perms: true,
            owner: true,
            group: true,
            times: true,
            specials: true,
            devices: true,
            hard_links: true,
            xattrs: Classes::NONE,
        },
        mapping: Arc::default(),
        numeric_ids: true,
        quick: Quick::SizeAndTime,
        rescan: None,
        verify_every: None,
        once: false,
        dry_run: false,
        verify: crate::config::Verify::No,
        key: [7; 32],
    }
}

pub(super) fn filtered(lines: &[&str]) -> Arc<Filter> {
    Arc::new(Filter::parse(lines.iter().map(|line| line.as_bytes())).unwrap())
}

fn holds() -> Holds {
    Holds {
        chown: false,
        groups: vec![],
        own_user: 0,
        own_group: 0,
        devices: true,
        xattrs: Classes::NONE,
        time_granularity: 1,
        keeps: lsync_protocol::entry::Keeps::ALL,
        folds_case: false,
        name_max: 255,
    }
}

impl World {
    pub(super) fn new(rules: Rules) -> World {
        let root = Thing { kind: Kind::Dir, content: 0, mode: 0o755, mtime: 1 };
        World {
            held: Held::new(rules.wanted, &holds()),
            filter: Arc::clone(&rules.filter),
            mirror: Mirror::new(rules),
            now: Instant::now(),
            source: Tree::from([(RelPath::root(), root.clone())]),
            target: Tree::from([(RelPath::root(), Thing { mtime: -1, ..root })]),
            events: VecDeque::new(),
            root: None,
            said: Vec::new(),
            flushed: Vec::new(),
            exit: None,
            sent: Vec::new(),
            unreadable: BTreeSet::new(),
            broken: BTreeSet::new(),
            never_along: false,
            boot: 1,
            turns: 0,
            told: false,
            alike: false,
            based: Vec::new(),
            asks: VecDeque::new(),
            looked: VecDeque::new(),
            walking: None,
            link: None,
            clock: 100,
            missing: BTreeSet::new(),
            missed: BTreeSet::new(),
        }
    }

    /// A mirror of these files (a trailing slash: a directory), complete and live.
    pub(super) fn live(rules: Rules, paths: &[&str]) -> World {
        let mut world = World::new(rules);
        world.fill(paths);
        world.connect();
        world.settle();
        if world.exit.is_none() {
            assert!(world.mirror.is_ready());
            world.assert_equal();
        }
        world.sent.clear();
        world.said.clear();
        world
    }

    pub(super) fn fill(&mut self, paths: &[&str]) {
        for (at, name) in paths.iter().enumerate() {
            match name.strip_suffix('/') {
                Some(dir) => self.mkdir(dir),
                None => self.write(name, at as u64 + 1),
            }
        }
        self.events.clear();
    }

    /// The program ends and begins anew: what happened is not known any more.
    pub(super) fn restart(&mut self, rules: Rules) {
        self.mirror = Mirror::new(rules);
        (self.link, self.walking, self.exit) = (None, None, None);
        self.events.clear();
        self.asks.clear();
        self.looked.clear();
        self.missed.clear();
    }

    // What people do on the source.

    fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    fn touch_parent(&mut self, at: &RelPath) {
        let now = self.tick();
        if let Some(dir) = at.parent().and_then(|dir| self.source.get_mut(&dir)) {
            dir.mtime = now;
        }
    }

    fn put(&mut self, at: &RelPath, kind: Kind, content: u64) {
        let mtime = self.tick() * i64::from(!(self.alike && kind == Kind::File));
        self.source.insert(at.clone(), Thing { kind, content, mode: 0o644, mtime });
        self.touch_parent(at);
    }

    pub(super) fn write(&mut self, name: &str, content: u64) {
        let at = path(name);
        let mtime = self.tick() * i64::from(!self.alike);
        match self.source.get_mut(&at) {
            Some(thing) => {
                assert_eq!(thing.kind, Kind::File);
                (thing.content, thing.mtime) = (content, mtime);
                self.events.push_back(WatchEvent::Written(at.clone()));
            }
            None => {
                assert!(is_dir(&self.source, &at.parent().unwrap()), "{name}");
                self.put(&at, Kind::File, content);
                self.events.push_back(WatchEvent::Appeared { path: at.clone(), dir: false });
            }
        }
        self.events.push_back(WatchEvent::Closed(at));
    }

    pub(super) fn link(&mut self, name: &str, content: u64) {
        let at = path(name);
        assert!(!self.source.contains_key(&at));
        self.put(&at, Kind::Symlink, content);
        self.events.push_back(WatchEvent::Appeared { path: at, dir: false });
    }

    pub(super) fn mkdir(&mut self, name: &str) {
        let at = path(name);
        assert!(!self.source.contains_key(&at));
        self.put(&at, Kind::Dir, 0);
        self.events.push_back(WatchEvent::Appeared { path: at, dir: true });
    }

    pub(super) fn chmod(&mut self, name: &str, mode: u32) {
        let at = path(name);
        let thing = self.source.get_mut(&at).unwrap();
        if thing.kind != Kind::Symlink {
            thing.mode = mode;
            self.events.push_back(WatchEvent::Attributes(at));
        }
    }

    /// Removes a name and what is beneath it, from the inside out.
    pub(super) fn remove(&mut self, name: &str) {
        for at in under(&self.source, &path(name)).into_iter().rev() {
            let thing = self.source.remove(&at).unwrap();
            self.touch_parent(&at);
            self.events.push_back(WatchEvent::Gone { path: at, dir: thing.kind == Kind::Dir });
        }
    }

    /// Moves a tree out of the source: one event.
    pub(super) fn move_out(&mut self, name: &str) {
        let at = path(name);
        let dir = is_dir(&self.source, &at);
        for old in under(&self.source, &at) {
            self.source.remove(&old);
        }
        self.touch_parent(&at);
        self.events.push_back(WatchEvent::Gone { path: at, dir });
    }

    /// Moves a tree in: one event.
    pub(super) fn move_in(&mut self, name: &str, beneath: &[&str]) {
        let before = self.events.len();
        self.mkdir(name);
        for inner in beneath {
            match inner.strip_suffix('/') {
                Some(dir) => self.mkdir(&format!("{name}/{dir}")),
                None => self.write(&format!("{name}/{inner}"), 77),
            }
        }
        self.events.truncate(before);
        self.events.push_back(WatchEvent::Appeared { path: path(name), dir: true });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) {
        let (from, to) = (path(from), path(to));
        let dir = is_dir(&self.source, &from);
        assert!(self.source.contains_key(&from) && !to.is_at_or_under(&from));
        assert!(children(&self.source, &to).is_empty());
        move_tree(&mut self.source, &from, &to);
        self.touch_parent(&from);
        self.touch_parent(&to);
        self.events.push_back(WatchEvent::Renamed { from, to, dir });
    }

    /// Two names change places at once.
    pub(super) fn exchange(&mut self, a: &str, b: &str) {
        let (a, b, t) = (path(a), path(b), path("exchange"));
        move_tree(&mut self.source, &a, &t);
        move_tree(&mut self.source, &b, &a);
        move_tree(&mut self.source, &t, &b);
        self.touch_parent(&a);
        self.touch_parent(&b);
        self.events.extend([WatchEvent::Unsure(a), WatchEvent::Unsure(b)]);
    }

    // The link.
    pub(super) fn connect(&mut self) {
        assert!(self.link.is_none());
        self.link = Some(Link::default());
        let entry = self.target[&RelPath::root()].entry();
        let identity = Identity { dev: 1, ino: 2 };
        self.handle(Event::Connected(Box::new(Welcome {
            agent: "1".into(),
            fixed: None,
            boot: [self.boot; 16],
            root: Some(RootHere { identity, path: b"/t".to_vec(), entry, created: false }),
            holds: holds(),
            small: 1 << 20,
            bulk: 1 << 20,
        })));
    }

    pub(super) fn connected(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn cut(&mut self) {
        if self.link.take().is_some() {
            self.handle(Event::Lost);
        }
    }

    // The loop.

    pub(super) fn handle(&mut self, event: Event) {
        if self.told {
            println!("{event:?}");
        }
        for effect in self.mirror.handle(event, self.now) {
            if self.told {
                println!("    {effect:?}");
            }
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Look(batch) => self.asks.push_back(Ask::Look(batch)),
            Effect::LookMissing { asked, paths } => self.asks.push_back(Ask::Missing(asked, paths)),
            Effect::CheckRoot { accept } => self.asks.push_back(Ask::Check(accept)),
            Effect::Walk { walk, starts } => {
                let ended = |w: &Walking| w.read_all && w.found.is_empty();
                assert!(self.walking.as_ref().is_none_or(ended), "one walk at a time");
                let dirs = starts.into_iter().rev().collect();
                let found = VecDeque::new();
                self.walking = Some(Walking { id: walk, dirs, found, read_all: false });
            }
            Effect::Relist { walk, dir } => self.asks.push_back(Ask::Relist(walk, dir)),
            Effect::StopWalk => self.walking = None,
            Effect::Arrived { .. } => {}
            Effect::Flushed { token, end } => self.flushed.push((token, end)),
            Effect::Say(report) => self.said.push(report),
            Effect::Finish(exit) => self.exit = Some(exit),
            Effect::AskNames(_) => unreachable!("owners are numbers here"),
            Effect::List { request, dir, digest } => {
                self.link.as_mut().unwrap().lists.push_back((request, dir, digest));
            }
            Effect::Compare { request, dir, names, .. } => {
                let files = names.iter().map(|name| dir.join(name).unwrap()).collect();
                self.link.as_mut().unwrap().compares.push_back((request, files));
            }
            Effect::Send(ops) => {
                for (at, (_, op)) in ops.iter().enumerate() {
                    self.check_sent(op, &ops[at + 1..]);
                }
                for (id, op) in ops {
                    self.sent.push(op.line());
                    self.link.as_mut().unwrap().orders.push_back(Order::Op(id, op));
                }
            }
            Effect::Commit { staged, id, path } => {
                let order = Order::Commit { staged, id, path };
                self.link.as_mut().unwrap().orders.push_back(order);
            }
            Effect::Cancel(id) => {
                let link = self.link.as_mut().unwrap();
                if link.staged.remove(&id).is_none() {
                    link.cancelled.insert(id);
                }
            }
        }
    }

    fn check_sent(&self, op: &Planned, later: &[(OpId, Planned)]) {
        if let Planned::Remove { path, kind } = op {
            let verdict = self.filter.verdict_deep(path, *kind == Kind::Dir);
            assert!(verdict.deletable, "a protected name is removed: {path}");
            // Its directory being missing says as much, and what makes room for the next thing
            // was said to be gone by an event.
            let mut gone = later.iter().any(|(_, next)| {
                !matches!(next, Planned::Remove { .. } | Planned::Dir { .. })
                    && path.is_at_or_under(next.path())
            });
            let mut at = Some(path.clone());
            while let Some(above) = at {
                gone |= self.missing.contains(&above);
                at = above.parent();
            }
            let excluded = !verdict.sent;
            assert!(gone || excluded, "removed and not seen to be missing: {path}");
        }
    }

    /// Does one thing, if there is such a thing to do. `pick` chooses where order is free.
    pub(super) fn act(&mut self, act: Act, pick: usize) -> bool {
        match act {
            Act::Hear => {
                let Some(event) = self.events.pop_front() else { return false };
                let mut events = vec![event];
                find_missed(&mut self.missed, &mut events);
                self.handle(Event::Watched(Arc::new(events)));
            }
            Act::Look => {
                let Some(ask) = self.asks.pop_front() else { return false };
                let event = self.look(ask);
                self.looked.push_back(event);
            }
            Act::LookDone => {
                let Some(event) = self.looked.pop_front() else { return false };
                self.remember_missing(&event);
                self.handle(event);
            }
            Act::Read => return self.read_dir(),
            Act::ReadDone => {
                if !self.mirror.wants_walk() {
                    return false;
                }
                let Some(event) = self.walking.as_mut().and_then(|w| w.found.pop_front()) else {
                    return false;
                };
                self.handle(event);
            }
            Act::Build => return self.build(),
            Act::Stage => return self.stage(pick),
            Act::Apply => return self.apply_next(),
            Act::List => return self.list(pick),
            Act::Answer => {
                let Some(link) = &mut self.link else { return false };
                let Some(event) = link.answers.pop_front() else { return false };
                self.handle(event);
            }
            Act::Ack => {
                let Some(link) = &mut self.link else { return false };
                if link.acks.is_empty() {
                    return false;
                }
                let (id, outcome) = link.acks.remove(pick % link.acks.len());
                let outcomes = outcome.map(|outcome| (id, outcome)).into_iter().collect();
                self.handle(Event::Acked { done: vec![(id, 1)], outcomes });
            }
        }
        true
    }

    /// Until nothing is left to do within the next seconds.
    pub(super) fn settle(&mut self) {
        let horizon = self.now + Duration::from_secs(5);
        self.settle_until(horizon);
    }

    pub(super) fn settle_for(&mut self, seconds: u64) {
        let horizon = self.now + Duration::from_secs(seconds);
        self.settle_until(horizon);
    }

    pub(super) fn settle_until_for(&mut self, time: Duration) {
        self.settle_until(self.now + time);
    }

    fn settle_until(&mut self, horizon: Instant) {
        for turn in 0..200_000 {
            if self.exit.is_some() {
                return;
            }
            self.turns = turn;
            let mut acted = false;
            for act in ACTS {
                acted |= self.act(act, 0);
            }
            if acted {
                continue;
            }
            match self.mirror.next() {
                Some(when) if when <= horizon => {
                    let late = when <= self.now;
                    self.now = self.now.max(when);
                    let before = self.mirror.dirty();
                    self.handle(Event::Tick);
                    let idle = self.asks.is_empty()
                        && self.walking.is_none()
                        && self.link.as_ref().is_none_or(|link| link.orders.is_empty())
                        && self.mirror.dirty() == before
                        && self.mirror.next().is_some_and(|next| next <= self.now);
                    assert!(!(late && idle), "it asks for a tick and does nothing with it");
                }
                _ => {
                    self.now = horizon.max(self.now);
                    return;
                }
            }
        }
        panic!("it never comes to rest; sent last: {:?}", &self.sent[self.sent.len() - 20..]);
    }

    // The looker.

    fn look_at(&self, at: &RelPath) -> Look {
        let mut above = Some(at.clone());
        while let Some(dir) = above {
            if self.unreadable.contains(&dir) {
                return Look::Unknown("permission denied".into());
            }
            above = dir.parent();
        }
        match self.source.get(at) {
            Some(thing) => Look::Here(thing.entry()),
            None => Look::Missing,
        }
    }

    /// What the mirror is told to be missing.
    fn remember_missing(&mut self, event: &Event) {
        match event {
            Event::Looked(Ok(looked)) => {
                let paths = looked.paths.iter().map(|(at, .., look)| (at, look));
                for (at, look) in looked.parents.iter().chain(paths) {
                    match look {
                        Look::Missing => self.missing.insert(at.clone()),
                        _ => self.missing.remove(at),
                    };
                }
            }
            Event::StillMissing { absent: Ok(absent), .. } => {
                self.missing.extend(absent.missing.iter().map(|(at, _)| at.clone()));
            }
            _ => {}
        }
    }

    fn in_scope(&self, at: &RelPath, dir: bool) -> bool {
        self.filter.verdict_deep(at, dir).sent
    }

    fn look(&mut self, ask: Ask) -> Event {
        let batch = match ask {
            Ask::Check(accept) => {
                if accept && self.root == Some(RootTrouble::Replaced) {
                    self.root = None;
                }
                return Event::Root(self.root.map_or(Ok(Identity { dev: 1, ino: 1 }), Err));
            }
            Ask::Relist(walk, dir) => {
                let there = is_dir(&self.source, &dir) && self.in_scope(&dir, true);
                return match there && self.root.is_none() && !self.unreadable.contains(&dir) {
                    true => Event::Walked { walk, seen: self.seen(dir) },
                    false => Event::WalkFailed { walk, dir, why: "gone".into() },
                };
            }
            Ask::Missing(asked, paths) => {
                if let Some(trouble) = self.root {
                    return Event::StillMissing { asked, absent: Err(trouble) };
                }
                let mut absent = Absent::default();
                for (at, kind) in paths {
                    let verdict = self.filter.verdict_deep(&at, kind == Kind::Dir);
                    match self.look_at(&at) {
                        Look::Missing => absent.missing.push((at, kind)),
                        Look::Here(_) if !verdict.sent && verdict.deletable => {
                            absent.missing.push((at, kind));
                        }
                        Look::Here(_) => {}
                        Look::Unknown(why) => absent.unknown.push((at, why)),
                    }
                }
                return Event::StillMissing { asked, absent: Ok(absent) };
            }
            Ask::Look(batch) => batch,
        };
        if let Some(trouble) = self.root {
            return Event::Looked(Err(trouble));
        }
        let mut looked = Looked::default();
        let mut parents = BTreeSet::new();
        let finals = Follow::new(&batch.steps).finals();
        for (step, last) in batch.steps.iter().zip(finals) {
            let look = match step {
                Step::Rename { from, to, .. } => {
                    parents.extend(from.parent());
                    parents.extend(to.parent());
                    last.map(|last| self.look_at(&last))
                }
                Step::Clear { path, .. } => {
                    parents.extend(path.parent());
                    None
                }
            };
            looked.steps.push((step.clone(), look));
        }
        let mut paths: BTreeMap<RelPath, (Marks, Instant, Look)> = BTreeMap::new();
        for (at, marks, first) in &batch.paths {
            let (at, mut marks, first) = (at.clone(), *marks, *first);
            let look = self.look_at(&at);
            let dir = match &look {
                Look::Here(entry) => entry.kind == Kind::Dir,
                _ => marks.has(Marks::DIR),
            };
            if !self.in_scope(&at, dir) {
                looked.excluded.push(at);
                continue;
            }
            parents.extend(at.parent());
            let here = matches!(&look, Look::Here(_));
            if here && dir && marks.has(Marks::WHOLE) && !self.never_along {
                marks = marks.without(Marks::WHOLE);
                for inner in under(&self.source, &at).into_iter().skip(1) {
                    let dir = is_dir(&self.source, &inner);
                    if self.in_scope(&inner, dir) {
                        parents.extend(inner.parent());
                        let marks = Marks::NAME.with(if dir { Marks::DIR } else { Marks::CONTENT });
                        let look = self.look_at(&inner);
                        paths.entry(inner).or_insert((marks, first, look)).0 = marks;
                    }
                }
            }
            let entry = paths.entry(at).or_insert((marks, first, look));
            entry.0 = entry.0.with(marks);
        }
        looked.paths =
            paths.into_iter().map(|(at, (marks, first, look))| (at, marks, first, look)).collect();
        looked.parents = parents.into_iter().map(|at| (at.clone(), self.look_at(&at))).collect();
        looked.root_empty = !children(&self.source, &RelPath::root())
            .iter()
            .any(|at| self.in_scope(at, is_dir(&self.source, at)));
        Event::Looked(Ok(looked))
    }

    // The walk.

    fn seen(&self, dir: RelPath) -> SourceDir {
        let mut seen = SourceDir {
            here: Box::new(self.source[&dir].entry()),
            entries: Vec::new(),
            unknown: Vec::new(),
            kept: Vec::new(),
            rules: None,
            rules_doubted: false,
            dir,
        };
        for at in children(&self.source, &seen.dir) {
            let entry = self.source[&at].entry();
            if !self.in_scope(&at, entry.kind == Kind::Dir) {
                continue;
            }
            let name: Box<[u8]> = at.name().unwrap().into();
            if self.unreadable.contains(&at) && entry.kind != Kind::Dir {
                seen.unknown.push((name, "permission denied".into()));
            } else {
                seen.entries.push(Named { name, entry });
            }
        }
        seen
    }

    fn read_dir(&mut self) -> bool {
        let Some(mut walking) = self.walking.take() else { return false };
        let walk = walking.id;
        let acted = !walking.read_all;
        match walking.dirs.pop() {
            Some(dir) if self.unreadable.contains(&dir) => {
                let why = "permission denied".to_owned();
                walking.found.push_back(Event::WalkFailed { walk, dir, why });
            }
            Some(dir) if is_dir(&self.source, &dir) && self.in_scope(&dir, true) => {
                let seen = self.seen(dir);
                let dirs = seen.entries.iter().filter(|named| named.entry.kind == Kind::Dir);
                walking.dirs.extend(dirs.map(|named| seen.dir.join(&named.name).unwrap()));
                walking.found.push_back(Event::Walked { walk, seen });
            }
            Some(dir) => {
                self.missed.insert(dir);
            }
            None if !walking.read_all => {
                walking.read_all = true;
                let root = self.root.map_or(Ok(()), Err);
                walking.found.push_back(Event::WalkEnded { walk, root });
            }
            None => {}
        }
        if !walking.read_all || !walking.found.is_empty() {
            self.walking = Some(walking);
        }
        acted
    }
}
