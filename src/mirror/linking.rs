//! What `links` knows, in use: contents of names of one file become further names.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lsync_protocol::entry::{Entry, Held, Kind, Named};
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{INLINE_MAX, Outcome};
use lsync_protocol::path::RelPath;

use super::links::{Equal, Version};
use super::{Cause, Mirror, Report, SourceDir};
use crate::collate::Marks;
use crate::metrics::{Difference, Differs};
use crate::plan::{Look, LookedPath, Planned, create};

/// What waits for the renames that are to be told first is looked at again after so long.
const POSTPONED: Duration = Duration::from_millis(20);
/// So often, then it goes as a file of its own.
const POSTPONED_MAX: u32 = 100;

/// The name that content goes to, and what is in its way if that is known.
fn content(op: &Planned) -> Option<(&RelPath, Option<Kind>)> {
    match op {
        Planned::Content { path, .. } => Some((path, None)),
        Planned::Replace { old, new } => content(new).map(|(path, _)| (path, Some(*old))),
        _ => None,
    }
}

/// The operation that links one to another.
fn link(
    (path, old): (&RelPath, Option<Kind>),
    from: &RelPath,
    entry: &Entry,
    held: &Held,
) -> Planned {
    let (path, from, size) = (path.clone(), from.clone(), entry.size);
    let mtime = held.meta(Kind::File, &entry.meta).mtime;
    let op = Planned::Link { path, from, size, mtime };
    match old {
        Some(old) => Planned::Replace { old, new: Box::new(op) },
        None => op,
    }
}

/// Is it a further name, in the place of something else too?
fn is_link(op: &Planned) -> bool {
    match op {
        Planned::Replace { new, .. } => is_link(new),
        op => matches!(op, Planned::Link { .. }),
    }
}

/// A name found by a walk that waits for the content it is to be linked to.
#[derive(Debug)]
pub(super) struct Follower {
    path: RelPath,
    old: Option<Kind>,
    entry: Entry,
}

impl Mirror {
    /// Of what was looked at, what is a further name of something becomes that. Those that wait for
    /// what they are to be linked to are told apart.
    pub(super) fn link_looked(
        &mut self,
        ops: Vec<Planned>,
        paths: &[LookedPath],
        since: u64,
        now: Instant,
    ) -> (Vec<Planned>, BTreeSet<RelPath>) {
        let mut waiting = BTreeSet::new();
        let wanted = self.rules.wanted.hard_links;
        let Some(held) = self.held.clone().filter(|_| wanted) else { return (ops, waiting) };
        // Names are those of then: by other ones things are known by now.
        let told = self.moved.so_far() == since && self.names_told();
        let mut another = BTreeSet::new();
        for (path, marks, _, look) in paths {
            let file = match look {
                // Of what is in a directory its own look says nothing.
                Look::Unknown(_) => continue,
                Look::Here(entry) if entry.kind == Kind::Dir => continue,
                Look::Here(entry) => entry.file,
                Look::Missing => None,
            };
            if self.links.file(path).is_none_or(|known| Some(known) == file) {
                continue;
            }
            if !told && self.links.postpone(path, POSTPONED_MAX) {
                self.collate.mark_at(path, *marks, now, now + POSTPONED);
                continue;
            }
            self.link_gone(path, now);
            another.insert(path.clone());
        }
        let here = |path: &RelPath| {
            let at = paths.binary_search_by(|(at, ..)| at.cmp(path)).ok()?;
            match &paths[at] {
                (_, marks, _, Look::Here(entry)) => Some((*marks, entry)),
                _ => None,
            }
        };
        let coming: BTreeSet<RelPath> =
            ops.iter().filter_map(content).map(|c| c.0.clone()).collect();
        let mut led = BTreeSet::new();
        let mut leave = Vec::with_capacity(ops.len());
        for mut op in ops {
            let Some((marks, entry)) = here(op.path()) else {
                leave.push(op);
                continue;
            };
            // On the target it may still be one with other names, which would get them as well.
            if matches!(op, Planned::Meta { .. })
                && another.contains(op.path())
                && let Some(whole) = create(op.path(), entry, &held, false)
            {
                // It is renamed into place: its directory gets its own time back.
                if let Some(dir) = op.path().parent() {
                    self.collate.mark(&dir, Marks::META, now);
                }
                op = whole;
            }
            let Some(file) = entry.file else {
                leave.push(op);
                continue;
            };
            let version = Version::of(entry);
            let Some(to) = content(&op) else {
                if told && matches!(op, Planned::Meta { .. }) {
                    let path = op.path();
                    // Nothing else may tell of this name.
                    self.links.register(path, file, entry.nlink);
                    self.links.touched(path, version);
                    if self.links.is_alone(path) {
                        self.collate.mark(path, Marks::CONTENT, now);
                    }
                }
                leave.push(op);
                continue;
            };
            let path = to.0.clone();
            if !told {
                if !another.contains(&path) && self.links.postpone(&path, POSTPONED_MAX) {
                    self.collate.mark_at(&path, marks, now, now + POSTPONED);
                } else {
                    leave.push(op);
                }
                continue;
            }
            if !self.links.register(&path, file, entry.nlink) {
                leave.push(op);
                continue;
            }
            // Content that this batch sends is read after all that was looked at in it.
            let from = self.links.leader(&path, version).cloned();
            let from = from.filter(|from| !marks.has(Marks::WRITTEN) || led.contains(from));
            match from {
                // A target that has no links gets the content under each name; events told of one.
                Some(_) if !held.hard_links() => {
                    self.links.linked(&path);
                    leave.push(op);
                }
                Some(from)
                    if version.size > INLINE_MAX && (led.contains(&from) || self.flies(&from)) =>
                {
                    self.collate.hold(&path, marks, now);
                    waiting.insert(path.clone());
                }
                Some(from) => {
                    leave.push(link(to, &from, entry, &held));
                    self.links.linked(&path);
                    self.origin_ended(&path, now);
                }
                None => {
                    for other in self.links.lead(&path, version, self.next_walk) {
                        if !(other > path && coming.contains(&other)) {
                            self.collate.mark(&other, Marks::CONTENT, now);
                        }
                    }
                    led.insert(path.clone());
                    leave.push(op);
                }
            }
            if self.links.seek(&path, self.next_walk)
                && let Some(dir) = path.parent()
            {
                self.walk_due(dir, false, now);
            }
        }
        self.say_links_overflowed();
        (leave, waiting)
    }

    /// Is large content on its way to this name?
    fn flies(&self, path: &RelPath) -> bool {
        self.flights.contents_under(path).iter().any(|(at, _)| at == path)
    }

    fn say_links_overflowed(&mut self) {
        if self.links.overflowed() {
            self.say(Report::Warning(
                "too many hard links to remember: further ones become files of their own".into(),
            ));
        }
    }

    /// A name, with all beneath it, went, or is another thing.
    pub(super) fn link_gone(&mut self, path: &RelPath, now: Instant) {
        let loose = self.links.gone(path);
        self.links_loose(loose, now);
    }

    /// What led these is another thing.
    pub(super) fn links_loose(&mut self, names: Vec<RelPath>, now: Instant) {
        for name in names {
            self.collate.release(&name, now);
        }
    }

    /// When this file was read, something else had its name: what was linked to that has to be
    /// looked at.
    pub(super) fn link_misread(&mut self, file: Identity, now: Instant) {
        for name in self.links.misread(file) {
            self.collate.mark(&name, Marks::CONTENT.with(Marks::WRITTEN), now);
            self.collate.release(&name, now);
        }
    }

    /// An operation came to its end: what waits for it goes on.
    pub(super) fn link_ended(&mut self, op: &Planned, outcome: Option<&Outcome>, now: Instant) {
        let path = op.path();
        match outcome {
            None if is_link(op) => self.links.done(path),
            Some(Outcome::Refused) if is_link(op) => self.links.refused(path),
            Some(Outcome::OtherVersion) if is_link(op) => self.links.missed(path),
            // What is in the way is cleared, and then it goes once more.
            Some(Outcome::Occupied(_) | Outcome::NotEmpty) => {}
            Some(_) if content(op).is_some() => self.links.failed(path),
            _ => {}
        }
        if content(op).is_some() {
            for name in self.links.names(path) {
                self.collate.release(&name, now);
            }
        }
    }

    /// The same for one directory of a walk. `ops` are those of names of which nothing newer is
    /// known; `newer` are the others. Says whether something was added.
    pub(super) fn link_walked(
        &mut self,
        seen: &SourceDir,
        theirs: Option<&[Named]>,
        ops: &mut Vec<Planned>,
        newer: impl Fn(&Mirror, &RelPath) -> bool,
        now: Instant,
    ) -> bool {
        let wanted = self.rules.wanted.hard_links;
        let Some(held) = self.held.clone().filter(|_| wanted) else { return false };
        let Some((walk, of_root)) = self.walk.as_ref().map(|walk| (walk.id(), walk.of_root()))
        else {
            return false;
        };
        let theirs = theirs.unwrap_or_default();
        let mut added = Vec::new();
        let mut changed = false;
        for Named { name, entry } in &seen.entries {
            if entry.kind != Kind::File {
                continue;
            }
            let Ok(path) = seen.dir.join(name) else { continue };
            // That it has this name counts, whatever was heard of it since: a look will tell more.
            if self.links.file(&path).is_some_and(|was| entry.file.is_some_and(|is| is != was)) {
                self.link_gone(&path, now);
            }
            let linked = entry.file.is_some_and(|id| self.links.register(&path, id, entry.nlink));
            if !held.hard_links() {
                // Each name is there for itself, and none lacks another.
                self.links.linked(&path);
                continue;
            }
            if newer(self, &path) {
                continue;
            }
            let at = ops.binary_search_by(|op| op.path().cmp(&path)).ok();
            let there = theirs.binary_search_by(|there| there.name.cmp(name)).ok();
            let there = there.map(|at| &theirs[at].entry);
            if entry.file.is_none() {
                self.link_gone(&path, now);
                // What is one with another name there would take that name's attributes along.
                if let Some(at) = at
                    && matches!(ops[at], Planned::Meta { .. })
                    && there.is_some_and(|there| there.file.is_some())
                    && let Some(op) = create(&path, entry, &held, false)
                {
                    ops[at] = op;
                    changed = true;
                }
                continue;
            }
            if !linked {
                continue;
            }
            let version = Version::of(entry);
            match at.map(|at| content(&ops[at])) {
                Some(Some((_, old))) => {
                    let Some(at) = at else { continue };
                    let Some(from) = self.links.leader(&path, version).cloned() else {
                        for other in self.links.lead(&path, version, self.next_walk) {
                            let walked = self.walk.as_ref().is_some_and(|w| w.touches(&other));
                            if !walked {
                                self.collate.mark(&other, Marks::CONTENT, now);
                            }
                        }
                        continue;
                    };
                    if version.size > INLINE_MAX
                        && (self.links.sent_since(&path, walk) || self.flies(&from))
                    {
                        let op = ops.remove(at);
                        let path = op.path().clone();
                        let follower = Follower { path, old, entry: entry.clone() };
                        if let Some(walk) = &mut self.walk {
                            walk.followers.push(follower);
                        }
                        continue;
                    }
                    ops[at] = link((&path, old), &from, entry, &held);
                    self.links.linked(&path);
                }
                Some(None) if !matches!(at.map(|at| &ops[at]), Some(Planned::Meta { .. })) => {}
                _ => {
                    let file = there.and_then(|there| there.file);
                    let equal = self.links.found_equal(&path, version, walk, file);
                    if matches!(equal, Equal::Link(_)) {
                        self.differs(Difference {
                            path: path.clone(),
                            how: Differs::Attributes,
                            attributes: vec!["links"],
                        });
                    }
                    match (equal, at) {
                        (Equal::Stays, _) | (Equal::One, None) => {}
                        (Equal::One, Some(at)) => drop(ops.remove(at)),
                        (Equal::Link(from), _)
                            if version.size > INLINE_MAX
                                && (self.links.sent_since(&path, walk) || self.flies(&from)) =>
                        {
                            // With its attributes it gets all that was to be set here.
                            at.map(|at| ops.remove(at));
                            let path = path.clone();
                            let follower = Follower { path, old: None, entry: entry.clone() };
                            if let Some(walk) = &mut self.walk {
                                walk.followers.push(follower);
                            }
                        }
                        (Equal::Link(from), at) => {
                            let op = link((&path, None), &from, entry, &held);
                            match at {
                                Some(at) => ops[at] = op,
                                None => added.push(op),
                            }
                            self.links.linked(&path);
                            changed = true;
                        }
                    }
                }
            }
            if !of_root
                && self.links.seek(&path, self.next_walk)
                && let Some(dir) = path.parent()
            {
                self.walk_due(dir, false, now);
            }
        }
        self.say_links_overflowed();
        ops.append(&mut added);
        changed
    }

    /// All contents of the walk are there: what was to be linked to them is. Says whether there was
    /// something.
    pub(super) fn link_followers(&mut self, now: Instant) -> bool {
        let Some(held) = self.held.clone() else { return false };
        let Some(walk) = &mut self.walk else { return false };
        let followers = std::mem::take(&mut walk.followers);
        let any = !followers.is_empty();
        let mut ops = Vec::with_capacity(followers.len());
        for Follower { path, old, entry } in followers {
            let newer = self.walk.as_ref().is_some_and(|walk| walk.is_newer(&path));
            let newer = newer || self.flights.busy(&path) || self.looking.contains(&path);
            let from = self.links.leader(&path, Version::of(&entry)).cloned();
            match from.filter(|_| !newer) {
                Some(from) => {
                    ops.push(link((&path, old), &from, &entry, &held));
                    self.links.linked(&path);
                    if let Some(dir) = path.parent() {
                        // It had its attributes before.
                        self.collate.mark(&dir, Marks::META, now);
                    }
                }
                None => self.collate.mark(&path, Marks::NAME.with(Marks::CONTENT), now),
            }
        }
        self.send(ops, Cause::Walk, now);
        any
    }
}
