//! Hard links: which names of the source are names of one file, and which of them the target has as
//! such.
//!
//! Names are those of now, as everywhere. One name of a file leads: its content is on the target, or
//! on its way there, and the others are linked to it as long as they look like it. Which names there
//! are is learnt from looks and walks; how many there should be, each of them tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use lsync_protocol::entry::{Entry, Time};
use lsync_protocol::handshake::Identity;
use lsync_protocol::path::RelPath;

/// The most that is remembered, in bytes.
const BYTES_MAX: usize = 64 << 20;
/// What a name costs beside its bytes, about.
const NAME_COST: usize = 200;
/// After so many refusals of a file it goes over name by name.
const REFUSED_MAX: u32 = 2;
/// After so many times that what leads was another thing on the target, too.
const MISSED_MAX: u32 = 8;
/// After so many refusals in a row, of any files, the target is taken to have no links.
const NEVER: u32 = 16;
/// The whole tree is searched for names at most so often.
const SEARCH_EVERY: Duration = Duration::from_secs(10);

/// A file as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// Its size.
    pub(super) size: u64,
    /// Its time, as the source has it.
    pub(super) mtime: Option<Time>,
}

impl Version {
    /// Of what a look saw.
    pub(super) fn of(entry: &Entry) -> Version {
        Version { size: entry.size, mtime: entry.meta.mtime }
    }
}

/// The name to which others are linked.
#[derive(Debug)]
struct Leader {
    path: RelPath,
    version: Version,
    /// Its content was sent; else a walk found it.
    sent: bool,
    /// The walk that is the next, or the one that runs: what an earlier one saw does not count.
    walk: u64,
    /// Which file it is on the target, as that walk saw it.
    there: Option<Identity>,
}

/// One file.
#[derive(Debug, Default)]
struct Group {
    /// Its names, and whether the target has, or is told to have, each as one of the leader's.
    names: BTreeMap<RelPath, bool>,
    nlink: u32,
    leader: Option<Leader>,
    /// For so many names was searched, or is by this walk and later ones: an earlier one may have
    /// passed a name by before it was one of several.
    sought: u32,
    since: u64,
    refused: u32,
    missed: u32,
}

impl Group {
    fn is_linked(&self) -> bool {
        self.refused < REFUSED_MAX && self.missed < MISSED_MAX
    }

    fn drop_leader(&mut self) {
        self.leader = None;
        for linked in self.names.values_mut() {
            *linked = false;
        }
    }
}

/// All files that have several names.
#[derive(Debug, Default)]
pub(super) struct Links {
    groups: HashMap<Identity, Group>,
    of: BTreeMap<RelPath, Identity>,
    bytes: usize,
    /// There was no room for a name.
    full: bool,
    said: bool,
    /// Refusals in a row.
    refused: u32,
    /// Files whose names are searched for in their directories.
    seeking: BTreeSet<Identity>,
    searched: Option<Instant>,
    /// When the whole tree is searched.
    search_at: Option<Instant>,
    /// How often these have waited for what is to be told first.
    postponed: BTreeMap<RelPath, u32>,
}

/// What a walk does about a name that is on the target as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Equal {
    /// It stays as it is found.
    Stays,
    /// It is one with what leads already: what is done to that is done to it.
    One,
    /// It is to be one with this.
    Link(RelPath),
}

fn cost(path: &RelPath) -> usize {
    2 * path.as_bytes().len() + NAME_COST
}

impl Links {
    /// Once: there was no room.
    pub(super) fn overflowed(&mut self) -> bool {
        self.full && !std::mem::replace(&mut self.said, true)
    }

    /// Everything is to be learnt anew.
    pub(super) fn clear(&mut self) {
        let (full, said) = (self.full, self.said);
        *self = Links { full, said, searched: self.searched, ..Links::default() };
    }

    /// It is not known what of it the target has.
    pub(super) fn drop_leaders(&mut self) {
        self.refused = 0;
        for group in self.groups.values_mut() {
            group.drop_leader();
            (group.refused, group.missed) = (0, 0);
        }
    }

    /// A file that has several names has this one. Says whether it is one that is linked.
    pub(super) fn register(&mut self, path: &RelPath, id: Identity, nlink: u32) -> bool {
        if self.of.get(path) != Some(&id) {
            self.forget(path);
            if self.bytes + cost(path) > BYTES_MAX {
                self.full = true;
                return false;
            }
            self.bytes += cost(path);
            self.of.insert(path.clone(), id);
        }
        let never = self.refused >= NEVER;
        let group = self.groups.entry(id).or_default();
        group.names.entry(path.clone()).or_insert(false);
        group.nlink = nlink;
        !never && group.is_linked()
    }

    /// Which file has this name, of those that have several.
    pub(super) fn file(&self, path: &RelPath) -> Option<Identity> {
        self.of.get(path).copied()
    }

    /// This name is none of a file that has several, or is not there. Names that may wait for what
    /// led them, and need not: those that went, too.
    pub(super) fn gone(&mut self, path: &RelPath) -> Vec<RelPath> {
        let names = self.under(path);
        let mut loose = Vec::new();
        for name in names {
            let led = self.forget(&name);
            loose.push(name);
            loose.extend(led);
        }
        loose
    }

    fn forget(&mut self, path: &RelPath) -> Vec<RelPath> {
        let Some(id) = self.of.remove(path) else { return Vec::new() };
        self.bytes = self.bytes.saturating_sub(cost(path));
        let Some(group) = self.groups.get_mut(&id) else { return Vec::new() };
        group.names.remove(path);
        // As many may be known by another count.
        group.sought = 0;
        if group.names.is_empty() {
            self.groups.remove(&id);
            self.seeking.remove(&id);
            return Vec::new();
        }
        let Some(leader) = group.leader.as_mut().filter(|leader| leader.path == *path) else {
            return Vec::new();
        };
        let loose = group.names.keys().cloned().collect();
        match group.names.iter().find(|(_, linked)| **linked) {
            Some((next, _)) => leader.path = next.clone(),
            None => group.drop_leader(),
        }
        loose
    }

    fn under(&self, dir: &RelPath) -> Vec<RelPath> {
        let from = self.of.range(dir.clone()..).map(|(path, _)| path);
        from.take_while(|path| path.is_at_or_under(dir)).cloned().collect()
    }

    /// A name moved on the source.
    pub(super) fn renamed(&mut self, from: &RelPath, to: &RelPath) -> Vec<RelPath> {
        if self.of.is_empty() {
            return Vec::new();
        }
        let loose = self.gone(to);
        for old in self.under(from) {
            let Some(id) = self.of.remove(&old) else { continue };
            self.bytes = self.bytes.saturating_sub(cost(&old));
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let linked = group.names.remove(&old).unwrap_or(false);
            let Some(new) = old.moved(from, to) else { continue };
            self.bytes += cost(&new);
            group.names.insert(new.clone(), linked);
            if let Some(leader) = group.leader.as_mut().filter(|leader| leader.path == old) {
                leader.path = new.clone();
            }
            self.of.insert(new, id);
        }
        let moved = |path: RelPath| path.moved(from, to).unwrap_or(path);
        loose.into_iter().map(moved).collect()
    }

    /// To which name this one is linked, if there is one that is as it is.
    pub(super) fn leader(&self, path: &RelPath, version: Version) -> Option<&RelPath> {
        let leader = self.groups.get(self.of.get(path)?)?.leader.as_ref()?;
        (leader.path != *path && leader.version == version).then_some(&leader.path)
    }

    /// Was the content of what leads sent, rather than found, since this walk began?
    pub(super) fn sent_since(&self, path: &RelPath, walk: u64) -> bool {
        let leader = self.of.get(path).and_then(|id| self.groups.get(id)?.leader.as_ref());
        leader.is_some_and(|leader| leader.sent && leader.walk > walk)
    }

    /// The content of this one is sent: it leads. The other names, which are to be linked to it.
    pub(super) fn lead(
        &mut self,
        path: &RelPath,
        version: Version,
        next_walk: u64,
    ) -> Vec<RelPath> {
        let Some(group) = self.of.get(path).and_then(|id| self.groups.get_mut(id)) else {
            return Vec::new();
        };
        group.drop_leader();
        group.names.insert(path.clone(), true);
        let (path, sent, walk) = (path.clone(), true, next_walk);
        group.leader = Some(Leader { path: path.clone(), version, sent, walk, there: None });
        group.names.keys().filter(|name| **name != path).cloned().collect()
    }

    /// This one is told to be one with the leader.
    pub(super) fn linked(&mut self, path: &RelPath) {
        self.postponed.remove(path);
        let Some(group) = self.of.get(path).and_then(|id| self.groups.get_mut(id)) else { return };
        group.names.insert(path.clone(), true);
    }

    /// A walk found it on the target as it should be, where it is this file.
    pub(super) fn found_equal(
        &mut self,
        path: &RelPath,
        version: Version,
        walk: u64,
        there: Option<Identity>,
    ) -> Equal {
        let Some(group) = self.of.get(path).and_then(|id| self.groups.get_mut(id)) else {
            return Equal::Stays;
        };
        match &mut group.leader {
            // What was sent since counts, and what this walk has found.
            Some(leader)
                if leader.version == version
                    && (leader.walk > walk || !leader.sent && leader.walk == walk) =>
            {
                if leader.path == *path {
                    leader.there = there;
                    (leader.sent, leader.walk) = (false, walk);
                    return Equal::Stays;
                }
                if !leader.sent && leader.there.is_some() && leader.there == there {
                    group.names.insert(path.clone(), true);
                    return Equal::One;
                }
                Equal::Link(leader.path.clone())
            }
            _ => {
                group.drop_leader();
                group.names.insert(path.clone(), true);
                let (path, sent) = (path.clone(), false);
                group.leader = Some(Leader { path, version, sent, walk, there });
                Equal::Stays
            }
        }
    }

    /// Attributes of the file change under this name.
    pub(super) fn touched(&mut self, path: &RelPath, version: Version) {
        let Some(group) = self.of.get(path).and_then(|id| self.groups.get_mut(id)) else { return };
        if group.names.get(path) == Some(&true)
            && let Some(leader) = &mut group.leader
            && leader.version.size == version.size
        {
            leader.version = version;
        }
    }

    /// The target cannot link it. Of several at once it counts for one.
    pub(super) fn refused(&mut self, path: &RelPath) {
        if let Some(group) = self.led(path) {
            group.drop_leader();
            group.refused += 1;
            self.refused += 1;
        }
    }

    /// What leads it is another thing on the target than was meant.
    pub(super) fn missed(&mut self, path: &RelPath) {
        if let Some(group) = self.led(path) {
            group.drop_leader();
            group.missed += 1;
        }
    }

    fn led(&mut self, path: &RelPath) -> Option<&mut Group> {
        let group = self.of.get(path).and_then(|id| self.groups.get_mut(id));
        group.filter(|group| group.leader.is_some())
    }

    /// What was sent as the content of this file was that of another. All its names.
    pub(super) fn misread(&mut self, file: Identity) -> Vec<RelPath> {
        let Some(group) = self.groups.get_mut(&file) else { return Vec::new() };
        group.drop_leader();
        group.names.keys().cloned().collect()
    }

    /// The target linked it.
    pub(super) fn done(&mut self, path: &RelPath) {
        self.refused = 0;
        if let Some(group) = self.of.get(path).and_then(|id| self.groups.get_mut(id)) {
            (group.refused, group.missed) = (0, 0);
        }
    }

    /// The content did not get there under this name.
    pub(super) fn failed(&mut self, path: &RelPath) {
        if let Some(group) = self.of.get(path).and_then(|id| self.groups.get_mut(id))
            && group.leader.as_ref().is_some_and(|leader| leader.path == *path)
        {
            group.drop_leader();
        }
    }

    /// All names of the file that has this one.
    pub(super) fn names(&self, path: &RelPath) -> Vec<RelPath> {
        let group = self.of.get(path).and_then(|id| self.groups.get(id));
        group.map(|group| group.names.keys().cloned().collect()).unwrap_or_default()
    }

    /// May this one wait once more?
    pub(super) fn postpone(&mut self, path: &RelPath, most: u32) -> bool {
        let times = self.postponed.entry(path.clone()).or_insert(0);
        *times += 1;
        let may = *times <= most;
        if !may {
            self.postponed.remove(path);
        }
        may
    }

    /// Are there names that are not known, and was not searched for them? Now it is, from the next
    /// walk on.
    pub(super) fn seek(&mut self, path: &RelPath, next_walk: u64) -> bool {
        let Some(id) = self.of.get(path) else { return false };
        let Some(group) = self.groups.get_mut(id) else { return false };
        let missing = (group.names.len() as u64) < u64::from(group.nlink);
        if !missing || group.sought == group.nlink || !group.is_linked() {
            return false;
        }
        (group.sought, group.since) = (group.nlink, next_walk);
        self.seeking.insert(*id);
        true
    }

    /// A walk of these is complete: what was not found there is searched for in the whole tree. What
    /// it found and passed over, since something newer was heard of it, and is not one
    /// with the others by now has to be looked at.
    pub(super) fn searched(&mut self, starts: &[RelPath], walk: u64, now: Instant) -> Vec<RelPath> {
        let mut alone: Vec<RelPath> = starts.iter().flat_map(|dir| self.under(dir)).collect();
        alone.retain(|name| self.is_alone(name));
        if starts.iter().any(RelPath::is_root) {
            for group in self.groups.values_mut().filter(|group| group.since <= walk) {
                group.sought = group.nlink;
            }
            let groups = &self.groups;
            let later = |id: &Identity| groups.get(id).is_some_and(|group| group.since > walk);
            self.seeking.retain(later);
            self.searched = Some(now);
            self.search_at = (!self.seeking.is_empty()).then_some(now + SEARCH_EVERY);
            return alone;
        }
        let (groups, searched) = (&self.groups, self.searched);
        let mut missing = false;
        self.seeking.retain(|id| {
            let Some(group) = groups.get(id) else { return false };
            let of_it = |name: &RelPath| starts.iter().any(|start| name.is_at_or_under(start));
            if group.since > walk || !group.names.keys().any(of_it) {
                return true;
            }
            missing |= (group.names.len() as u64) < u64::from(group.nlink);
            false
        });
        if missing {
            let when = searched.map_or(now, |last| now.max(last + SEARCH_EVERY));
            self.search_at.get_or_insert(when);
        }
        alone
    }

    /// Has the file other names, with which this one is to be and is not told to be one?
    pub(super) fn is_alone(&self, path: &RelPath) -> bool {
        let group = self.of.get(path).and_then(|id| self.groups.get(id));
        group.is_some_and(|group| {
            let linked = group.names.get(path) == Some(&true);
            !linked && group.names.len() > 1 && group.is_linked() && self.refused < NEVER
        })
    }

    /// When the whole tree is to be searched.
    pub(super) fn search_at(&self) -> Option<Instant> {
        self.search_at
    }

    /// Is it time for that?
    pub(super) fn search(&mut self, now: Instant) -> bool {
        let due = self.search_at.is_some_and(|when| when <= now);
        if due {
            self.search_at = None;
            self.searched = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: Identity = Identity { dev: 1, ino: 2 };
    const V: Version = Version { size: 5, mtime: None };
    const LATER: Version = Version { size: 6, mtime: None };

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    /// A file with these names.
    fn file(names: &[&str]) -> Links {
        let mut links = Links::default();
        for name in names {
            assert!(links.register(&path(name), ID, names.len() as u32));
        }
        links
    }

    fn leader(links: &Links, of: &str, version: Version) -> Option<String> {
        links.leader(&path(of), version).map(ToString::to_string)
    }

    #[test]
    fn names_are_linked_to_what_leads_while_they_look_like_it() {
        let mut links = file(&["a", "b", "d/c"]);
        assert_eq!(leader(&links, "a", V), None);
        assert_eq!(links.lead(&path("b"), V, 1), [path("a"), path("d/c")]);
        assert_eq!(leader(&links, "a", V).as_deref(), Some("b"));
        assert_eq!(leader(&links, "b", V), None, "not to itself");
        assert_eq!(leader(&links, "a", LATER), None);
        assert_eq!(leader(&links, "other", V), None);
        links.linked(&path("a"));
        links.touched(&path("d/c"), Version { mtime: Some(Time::default()), ..V });
        assert_eq!(leader(&links, "a", V).as_deref(), Some("b"), "that name is not its own yet");
        let touched = Version { mtime: Some(Time { sec: 9, nsec: 0 }), ..V };
        links.touched(&path("a"), touched);
        assert_eq!(leader(&links, "d/c", touched).as_deref(), Some("b"));
        links.drop_leaders();
        assert_eq!(leader(&links, "a", touched), None);
    }

    #[test]
    fn names_are_those_of_now() {
        // What happens, who leads "x" then, and who may have waited for another.
        type Case = (fn(&mut Links) -> Vec<RelPath>, Option<&'static str>, &'static [&'static str]);
        let table: [Case; 8] = [
            (|links| links.renamed(&path("d/a"), &path("n")), Some("n"), &[]),
            (|links| links.renamed(&path("d"), &path("e")), Some("e/a"), &[]),
            // Another thing took its place: of what is linked one leads.
            (|links| links.renamed(&path("z"), &path("d/a")), Some("d/b"), &["d/a", "d/b", "x"]),
            (|links| links.gone(&path("d/a")), Some("d/b"), &["d/a", "d/b", "x"]),
            // Whether or not it led.
            (|links| links.gone(&path("x")), None, &["x"]),
            (|links| links.gone(&path("d")), None, &["d/a", "d/b", "x", "d/b", "x"]),
            (|links| links.gone(&path("q")), Some("d/a"), &[]),
            // What was sent as its content was not.
            (|links| links.misread(ID), None, &["d/a", "d/b", "x"]),
        ];
        for (at, (happens, leads, loose)) in table.into_iter().enumerate() {
            let mut links = file(&["d/a", "d/b", "x"]);
            links.lead(&path("d/a"), V, 1);
            links.linked(&path("d/b"));
            let found: Vec<_> = happens(&mut links).iter().map(ToString::to_string).collect();
            assert_eq!(found, loose, "{at}");
            assert_eq!(leader(&links, "x", V).as_deref(), leads, "{at}");
            links.gone(&RelPath::root());
            assert!(links.of.is_empty() && links.groups.is_empty() && links.bytes == 0, "{at}");
        }
    }

    #[test]
    fn a_walk_links_what_is_equal_and_another_file() {
        let there = |ino| Some(Identity { dev: 9, ino });
        let mut links = file(&["a", "b", "c", "d"]);
        let mut found = |name: &str, walk, file| links.found_equal(&path(name), V, walk, file);
        assert_eq!(found("a", 1, there(1)), Equal::Stays);
        assert_eq!(found("b", 1, there(1)), Equal::One);
        assert_eq!(found("c", 1, there(2)), Equal::Link(path("a")));
        assert_eq!(found("d", 1, None), Equal::Link(path("a")));
        // The next walk sees for itself.
        assert_eq!(found("b", 2, None), Equal::Stays);
        assert_eq!(found("a", 2, None), Equal::Link(path("b")), "each is a file of its own");
        assert_eq!(links.found_equal(&path("a"), LATER, 2, None), Equal::Stays);
        // What is sent while it runs leads, and what was sent before is what it finds.
        links.lead(&path("c"), V, 3);
        assert!(links.sent_since(&path("a"), 2) && !links.sent_since(&path("a"), 3));
        assert_eq!(links.found_equal(&path("a"), V, 2, there(1)), Equal::Link(path("c")));
        assert_eq!(links.found_equal(&path("c"), V, 2, there(1)), Equal::Stays);
        assert_eq!(links.found_equal(&path("a"), V, 2, there(1)), Equal::One);
    }

    #[test]
    fn what_the_target_refuses_is_not_asked_for_ever() {
        let mut links = file(&["a", "b", "c"]);
        for _ in 0..REFUSED_MAX {
            assert!(links.register(&path("b"), ID, 2));
            links.lead(&path("a"), V, 1);
            links.refused(&path("b"));
            links.refused(&path("c"));
            assert_eq!(leader(&links, "b", V), None);
        }
        assert!(!links.register(&path("b"), ID, 2) && !links.seek(&path("b"), 1));
        links.drop_leaders();
        assert!(links.register(&path("b"), ID, 2), "another link may lead elsewhere");
        for _ in 0..MISSED_MAX {
            assert!(links.register(&path("b"), ID, 2));
            links.lead(&path("a"), V, 1);
            links.missed(&path("b"));
            links.missed(&path("c"));
            assert_eq!(leader(&links, "b", V), None);
        }
        assert!(!links.register(&path("b"), ID, 2));
        links.done(&path("a"));
        for ino in 10..10 + NEVER as u64 {
            let name = path(&format!("n{ino}"));
            links.register(&name, Identity { dev: 1, ino }, 2);
            links.lead(&name, V, 1);
            links.refused(&name);
        }
        assert!(!links.register(&path("new"), Identity { dev: 1, ino: 99 }, 2));
        links.done(&path("a"));
        assert!(links.register(&path("new"), Identity { dev: 1, ino: 99 }, 2));
    }

    #[test]
    fn missing_names_are_searched_for_once_for_each_count() {
        let now = Instant::now();
        let mut links = file(&["d/a"]);
        assert!(!links.seek(&path("d/a"), 1), "all are known");
        links.register(&path("d/a"), ID, 3);
        assert!(links.seek(&path("d/a"), 1) && !links.seek(&path("d/a"), 1));
        links.searched(&[path("e")], 1, now);
        assert_eq!(links.search_at(), None, "that was another directory");
        links.searched(&[path("d")], 1, now);
        assert_eq!(links.search_at(), Some(now));
        assert!(links.search(now) && links.search_at().is_none());
        links.register(&path("d/a"), ID, 4);
        assert!(links.seek(&path("d/a"), 1));
        links.searched(&[path("d")], 1, now);
        assert_eq!(links.search_at(), Some(now + SEARCH_EVERY), "not at once again");
        links.searched(&[RelPath::root()], 1, now);
        assert!(links.search_at().is_none() && !links.seek(&path("d/a"), 1));
    }

    #[test]
    fn a_walk_that_began_before_has_not_searched() {
        let now = Instant::now();
        let mut links = file(&["d/a"]);
        links.register(&path("d/a"), ID, 2);
        assert!(links.seek(&path("d/a"), 5));
        links.searched(&[path("d")], 4, now);
        assert_eq!(links.search_at(), None, "the next walk of it says more");
        links.searched(&[RelPath::root()], 4, now);
        assert_eq!(links.search_at(), Some(now + SEARCH_EVERY));
        assert!(!links.seek(&path("d/a"), 5), "that is asked for");
        links.searched(&[RelPath::root()], 5, now);
        assert_eq!(links.search_at(), None);
        // One goes and another may have come: the count says nothing.
        links.register(&path("b"), ID, 2);
        links.gone(&path("b"));
        assert!(links.seek(&path("d/a"), 6));
    }

    #[test]
    fn what_a_walk_passed_over_is_looked_at() {
        let now = Instant::now();
        let mut links = file(&["a", "b", "c"]);
        links.register(&path("single"), Identity { dev: 1, ino: 7 }, 2);
        links.found_equal(&path("a"), V, 1, None);
        links.found_equal(&path("b"), V, 1, None);
        links.linked(&path("b"));
        assert_eq!(links.searched(&[path("d")], 1, now), [], "it saw only a part");
        assert_eq!(links.searched(&[path("d"), path("c")], 1, now), [path("c")]);
        assert_eq!(links.searched(&[RelPath::root()], 1, now), [path("c")]);
        links.linked(&path("c"));
        assert_eq!(links.searched(&[RelPath::root()], 1, now), []);
        for _ in 0..REFUSED_MAX {
            links.lead(&path("c"), V, 1);
            links.refused(&path("c"));
        }
        assert_eq!(links.searched(&[RelPath::root()], 1, now), [], "they are files of their own");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut links = Links { bytes: BYTES_MAX, ..Links::default() };
        assert!(!links.register(&path("a"), ID, 2));
        assert!(links.overflowed() && !links.overflowed(), "said once");
        assert!(links.postpone(&path("a"), 1) && !links.postpone(&path("a"), 1));
    }
}
