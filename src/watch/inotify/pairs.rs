//! From the kernel's events to ours: names become paths, and the two halves of a rename, which the
//! kernel queues one after the other with one cookie, become one event.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::time::{Duration, Instant};

use lsync_protocol::path::{RelPath, is_stage_name};
use rustix::fs::inotify::ReadFlags;

use super::tree::{ROOT, Slot, Tree};
use crate::watch::WatchEvent;

/// How long a rename may wait for one that turns it round: both halves of an exchange are queued
/// by one system call, and are at most one drain apart.
const EXCHANGE: Duration = Duration::from_millis(100);

/// One event as the kernel gives it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard<'a> {
    pub(super) wd: i32,
    pub(super) mask: ReadFlags,
    pub(super) cookie: u32,
    /// The name in the watched directory; `None` for the directory itself.
    pub(super) name: Option<&'a [u8]>,
    /// Where in the queue it stood: the bytes of all events before it, ever.
    pub(super) at: u64,
}

/// A `MOVED_FROM` whose `MOVED_TO` was not seen yet.
#[derive(Debug)]
struct Half {
    from: RelPath,
    dir: bool,
    /// The watched directory that moves; detached meanwhile.
    moving: Option<Slot>,
    /// The watch of a directory that came to the old name after the rename was queued.
    newer: Option<i32>,
    /// Which moves may not be what it seems: the other half of an exchange that did not come.
    in_doubt: bool,
    /// Where in `out` its event belongs.
    place: usize,
}

/// The rename before, as long as the next may turn it round (`RENAME_EXCHANGE` is told as two).
#[derive(Debug)]
struct Before {
    from: RelPath,
    to: RelPath,
    /// The watched directory that had the new name; detached.
    displaced: Option<Slot>,
    /// Its event, unless that is delivered already.
    place: Option<usize>,
    when: Instant,
}

/// What was heard and is not delivered yet.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    out: Vec<Option<WatchEvent>>,
    halves: HashMap<u32, Half>,
    /// Detached directories in which something happened while they were.
    touched: HashSet<Slot>,
    before: Option<Before>,
    unmounted: Vec<RelPath>,
    /// Watches to be taken back from the kernel.
    pub(super) dead: Vec<i32>,
    /// Times that the kernel lost events.
    pub(super) overflows: u64,
}

impl Pairs {
    /// How many events wait.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Does a half of a rename wait for the other, or a directory of a file system that went for
    /// the others?
    pub(super) fn is_waiting(&self) -> bool {
        !self.halves.is_empty() || !self.unmounted.is_empty()
    }

    /// Takes one event. One for a watch that is gone says nothing any more.
    pub(super) fn hear(&mut self, tree: &mut Tree, heard: Heard<'_>) {
        if heard.mask.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.overflows += 1;
            self.out.push(Some(WatchEvent::Overflow));
            return;
        }
        let Some(slot) = tree.of(heard.wd) else {
            return;
        };
        if heard.mask.contains(ReadFlags::IGNORED) {
            tree.ignored(heard.wd);
            return;
        }
        match heard.name {
            _ if heard.mask.contains(ReadFlags::UNMOUNT) => match tree.path(slot, None) {
                Ok(_) if slot == ROOT => self.out.push(Some(WatchEvent::RootGone)),
                Ok(path) => self.unmounted.push(path),
                Err(_) => {}
            },
            None => self.hear_of_itself(tree, slot, heard.mask),
            Some(name) if is_stage_name(name) => {
                // A file that gets one of our temporary names goes.
                if heard.mask.contains(ReadFlags::MOVED_TO)
                    && let Some(half) = self.halves.remove(&heard.cookie)
                {
                    self.moved_out(tree, half);
                }
            }
            Some(name) => match tree.path(slot, Some(name)) {
                Ok(path) => self.hear_of_name(tree, slot, name, path, heard),
                Err(Some(top)) => {
                    self.touched.insert(top);
                }
                Err(None) => {}
            },
        }
    }

    /// An event of a watched directory as such.
    fn hear_of_itself(&mut self, tree: &mut Tree, slot: Slot, mask: ReadFlags) {
        if slot == ROOT && mask.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF) {
            self.out.push(Some(WatchEvent::RootGone));
        }
        if !mask.intersects(ReadFlags::ATTRIB | ReadFlags::MODIFY) {
            return;
        }
        if mask.contains(ReadFlags::ATTRIB)
            && self.before.as_ref().is_some_and(|before| before.displaced == Some(slot))
        {
            // Its link count fell: it was replaced, not exchanged.
            self.forget_before(tree);
            return;
        }
        // A watched parent tells the same, by name.
        if tree.parent(slot).is_some_and(|parent| tree.is_watched(parent)) {
            return;
        }
        if let Ok(path) = tree.path(slot, None) {
            self.out.push(Some(WatchEvent::Attributes(path)));
        }
    }

    /// An event of a name in a watched directory.
    fn hear_of_name(
        &mut self,
        tree: &mut Tree,
        slot: Slot,
        name: &[u8],
        path: RelPath,
        heard: Heard<'_>,
    ) {
        let mask = heard.mask;
        let dir = mask.contains(ReadFlags::ISDIR);
        if mask.contains(ReadFlags::MOVED_FROM) {
            self.moved_from(tree, slot, name, path, heard);
        } else if mask.contains(ReadFlags::MOVED_TO) {
            match self.halves.remove(&heard.cookie) {
                Some(half) => self.moved_to(tree, slot, name, path, half, heard.at),
                None => {
                    self.no_exchange_in(tree, &path);
                    self.out.push(Some(WatchEvent::Appeared { path, dir }));
                }
            }
        } else if mask.contains(ReadFlags::CREATE) {
            self.no_exchange_in(tree, &path);
            self.out.push(Some(WatchEvent::Appeared { path, dir }));
        } else if mask.contains(ReadFlags::DELETE) {
            self.no_exchange_in(tree, &path);
            self.out.push(Some(WatchEvent::Gone { path, dir }));
        } else if mask.contains(ReadFlags::MODIFY) && !dir {
            self.out.push(Some(WatchEvent::Written(path)));
        } else if mask.contains(ReadFlags::CLOSE_WRITE) {
            self.out.push(Some(WatchEvent::Closed(path)));
        } else if mask.intersects(ReadFlags::ATTRIB | ReadFlags::MODIFY) {
            // A directory is said to be modified when its time alone is set.
            self.out.push(Some(WatchEvent::Attributes(path)));
        }
    }

    fn moved_from(
        &mut self,
        tree: &mut Tree,
        slot: Slot,
        name: &[u8],
        from: RelPath,
        heard: Heard<'_>,
    ) {
        let dir = heard.mask.contains(ReadFlags::ISDIR);
        let turned = self
            .before
            .as_ref()
            .is_some_and(|before| before.to == from && before.when.elapsed() < EXCHANGE);
        if !turned {
            self.no_exchange_in(tree, &from);
        }
        let displaced = match &mut self.before {
            Some(before) if turned && dir => before.displaced.take(),
            _ => None,
        };
        let mut half = Half {
            from,
            dir,
            moving: displaced,
            newer: None,
            in_doubt: displaced.is_some(),
            place: self.out.len(),
        };
        if dir
            && displaced.is_none()
            && let Some(there) = tree.child(slot, name)
        {
            if tree.born(there) > heard.at {
                // A walk put another directory, or this one by its old name, here after the
                // rename was queued.
                half.newer = tree.wd(there);
                half.in_doubt = true;
            } else {
                tree.detach(there);
                half.moving = Some(there);
            }
        }
        self.out.push(None);
        if let Some(lost) = self.halves.insert(heard.cookie, half) {
            self.moved_out(tree, lost);
        }
    }

    fn moved_to(
        &mut self,
        tree: &mut Tree,
        slot: Slot,
        name: &[u8],
        to: RelPath,
        half: Half,
        at: u64,
    ) {
        let before = self.before.take();
        let turned =
            before.as_ref().is_some_and(|before| before.to == half.from && before.from == to);
        // A directory without a watch moved: it was new, and a walk may have looked for it too late
        // at its old name and too early at its new one.
        let mut in_doubt = half.in_doubt || (half.dir && half.moving.is_none());
        let mut displaced = None;
        if let Some(moving) = half.moving {
            in_doubt |= self.touched.remove(&moving);
            let newer = tree.child(slot, name).is_some_and(|there| tree.born(there) > at);
            if newer || tree.is_bare(moving) {
                tree.drop_subtree(moving, &mut self.dead);
                in_doubt |= newer;
            } else {
                displaced = tree.attach(slot, name, moving, &mut self.dead);
            }
        }
        if let Some(gone) = before.as_ref().and_then(|before| before.displaced) {
            tree.drop_subtree(gone, &mut self.dead);
        }
        if turned {
            // An exchange, or there and back again: either way both names are to be looked at.
            if let Some(place) = before.and_then(|before| before.place) {
                self.out[place] = None;
            }
            self.out.push(Some(WatchEvent::Unsure(to)));
            self.out.push(Some(WatchEvent::Unsure(half.from)));
            if let Some(gone) = displaced {
                tree.drop_subtree(gone, &mut self.dead);
            }
            return;
        }
        let place = self.out.len();
        self.out.push(Some(WatchEvent::Renamed {
            from: half.from.clone(),
            to: to.clone(),
            dir: half.dir,
        }));
        if in_doubt {
            // A walk of the new name sets the watches right.
            self.out.push(Some(WatchEvent::Unsure(to.clone())));
        }
        self.before = Some(Before {
            from: half.from,
            to,
            displaced,
            place: Some(place),
            when: Instant::now(),
        });
    }

    /// The other half did not come: it left the tree, or went where nothing is watched.
    fn moved_out(&mut self, tree: &mut Tree, half: Half) {
        if let Some(moving) = half.moving {
            self.touched.remove(&moving);
            tree.drop_subtree(moving, &mut self.dead);
        }
        if let Some(wd) = half.newer
            && let Some(slot) = tree.of(wd)
        {
            // It may be the very directory that left. If it is not, the walk watches it again.
            if tree.is_attached(slot) && slot != ROOT {
                tree.detach(slot);
                tree.drop_subtree(slot, &mut self.dead);
            }
        }
        if half.in_doubt {
            self.out.push(Some(WatchEvent::Unsure(half.from.clone())));
        }
        self.out[half.place] = Some(WatchEvent::Gone { path: half.from, dir: half.dir });
    }

    /// A name in a directory changed: if the rename before was in that directory, the next one
    /// does not belong to it, since an exchange holds both directories.
    fn no_exchange_in(&mut self, tree: &mut Tree, path: &RelPath) {
        let parent = path.split().map(|(parent, _)| parent);
        let same = |other: &RelPath| other.split().map(|(parent, _)| parent) == parent;
        if self.before.as_ref().is_some_and(|before| same(&before.from) || same(&before.to)) {
            self.forget_before(tree);
        }
    }

    fn forget_before(&mut self, tree: &mut Tree) {
        if let Some(slot) = self.before.take().and_then(|before| before.displaced) {
            tree.drop_subtree(slot, &mut self.dead);
        }
    }

    /// Gives what was heard, in the kernel's order. Halves that still wait are taken for moves out
    /// of the tree.
    pub(super) fn take(&mut self, tree: &mut Tree) -> Vec<WatchEvent> {
        for (_, half) in mem::take(&mut self.halves) {
            self.moved_out(tree, half);
        }
        self.touched.clear();
        if let Some(before) = &mut self.before {
            before.place = None;
        }
        // One event for each file system that went, not one for each directory of it.
        let mut unmounted = mem::take(&mut self.unmounted);
        unmounted.sort();
        let mut last: Option<RelPath> = None;
        for path in unmounted {
            if !last.as_ref().is_some_and(|top| path.is_at_or_under(top)) {
                self.out.push(Some(WatchEvent::Unsure(path.clone())));
                last = Some(path);
            }
        }
        mem::take(&mut self.out).into_iter().flatten().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The kernel's side: hands out descriptors and positions, and says what the table makes of it.
    struct Kernel {
        tree: Tree,
        pairs: Pairs,
        now: u64,
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    const DIR: ReadFlags = ReadFlags::ISDIR;

    impl Kernel {
        /// Watches these, with the descriptors 1, 2, …; the root is the first.
        fn watching(dirs: &[&str]) -> Kernel {
            let mut kernel = Kernel { tree: Tree::new(), pairs: Pairs::default(), now: 0 };
            for (wd, dir) in (1..).zip(dirs) {
                kernel.enter(dir, wd);
            }
            kernel
        }

        fn enter(&mut self, dir: &str, wd: i32) {
            self.tree.enter(&path(dir), wd, self.now, &mut self.pairs.dead);
        }

        /// One event that was queued at `at`.
        fn says_at(&mut self, at: u64, wd: i32, mask: ReadFlags, cookie: u32, name: &str) {
            let name = Some(name.as_bytes()).filter(|name| !name.is_empty());
            self.pairs.hear(&mut self.tree, Heard { wd, mask, cookie, name, at });
        }

        fn says(&mut self, wd: i32, mask: ReadFlags, cookie: u32, name: &str) {
            self.now += 32;
            self.says_at(self.now, wd, mask, cookie, name);
        }

        fn moves(&mut self, mask: ReadFlags, cookie: u32, from: (i32, &str), to: (i32, &str)) {
            self.says(from.0, mask | ReadFlags::MOVED_FROM, cookie, from.1);
            self.says(to.0, mask | ReadFlags::MOVED_TO, cookie, to.1);
        }

        fn take(&mut self) -> Vec<WatchEvent> {
            self.pairs.take(&mut self.tree)
        }

        /// Where the table has the directory of a descriptor.
        fn at(&self, wd: i32) -> Option<String> {
            let slot = self.tree.of(wd)?;
            Some(self.tree.path(slot, None).unwrap().to_string())
        }
    }

    fn renamed(from: &str, to: &str, dir: bool) -> WatchEvent {
        WatchEvent::Renamed { from: path(from), to: path(to), dir }
    }

    fn unsure(name: &str) -> WatchEvent {
        WatchEvent::Unsure(path(name))
    }

    #[test]
    fn halves_are_paired_and_keep_their_order() {
        let mut kernel = Kernel::watching(&["", "d", "d/e"]);
        kernel.says(1, ReadFlags::MOVED_FROM, 7, "out");
        kernel.says(1, ReadFlags::CREATE, 0, "out");
        kernel.moves(DIR, 8, (1, "d"), (1, "x"));
        kernel.says(3, ReadFlags::CLOSE_WRITE, 0, "f");
        kernel.says(1, ReadFlags::MOVED_TO, 9, "in");
        assert!(kernel.pairs.is_waiting());
        assert_eq!(
            kernel.take(),
            [
                WatchEvent::Gone { path: path("out"), dir: false },
                WatchEvent::Appeared { path: path("out"), dir: false },
                renamed("d", "x", true),
                WatchEvent::Closed(path("x/e/f")),
                WatchEvent::Appeared { path: path("in"), dir: false },
            ]
        );
        assert!(!kernel.pairs.is_waiting());
        assert!(kernel.pairs.dead.is_empty());
    }

    #[test]
    fn what_happens_between_the_halves_is_not_lost() {
        let mut kernel = Kernel::watching(&["", "d"]);
        kernel.says(1, DIR | ReadFlags::MOVED_FROM, 7, "d");
        kernel.says(2, ReadFlags::CLOSE_WRITE, 0, "f");
        kernel.says(1, DIR | ReadFlags::MOVED_TO, 7, "x");
        assert_eq!(kernel.take(), [renamed("d", "x", true), unsure("x")]);
        assert_eq!(kernel.at(2).unwrap(), "x");
    }

    #[test]
    fn a_directory_moved_out_gives_its_watches_back() {
        let mut kernel = Kernel::watching(&["", "d", "d/e", "d/e/f", "g"]);
        kernel.says(1, DIR | ReadFlags::MOVED_FROM, 7, "d");
        assert_eq!(kernel.take(), [WatchEvent::Gone { path: path("d"), dir: true }]);
        kernel.pairs.dead.sort_unstable();
        assert_eq!(kernel.pairs.dead, [2, 3, 4]);
        kernel.says(3, ReadFlags::CLOSE_WRITE, 0, "f");
        assert_eq!(kernel.take(), []);
        assert_eq!(kernel.tree.watched(), 2);
    }

    #[test]
    fn a_walk_may_be_ahead_of_the_queue() {
        // mv a b; mkdir a; then a walk, and only then the events are read.
        let mut kernel = Kernel::watching(&["", "a", "a/x"]);
        kernel.now = 100;
        kernel.enter("a", 9);
        assert_eq!(kernel.pairs.dead, [2, 3], "what had the name is watched anew where it is");
        kernel.enter("b", 4);
        kernel.says_at(10, 1, DIR | ReadFlags::MOVED_FROM, 7, "a");
        kernel.says_at(42, 1, DIR | ReadFlags::MOVED_TO, 7, "b");
        assert_eq!(kernel.take(), [renamed("a", "b", true), unsure("b")]);
        assert_eq!((kernel.at(9).unwrap(), kernel.at(4).unwrap()), ("a".into(), "b".into()));
    }

    #[test]
    fn a_walk_may_meet_a_moved_directory_before_its_events() {
        let mut kernel = Kernel::watching(&["", "a", "a/x"]);
        kernel.now = 100;
        kernel.enter("b", 2);
        kernel.enter("b/x", 3);
        kernel.says_at(10, 1, DIR | ReadFlags::MOVED_FROM, 7, "a");
        kernel.says_at(42, 1, DIR | ReadFlags::MOVED_TO, 7, "b");
        assert_eq!(kernel.take()[0], renamed("a", "b", true));
        assert_eq!((kernel.at(2).unwrap(), kernel.at(3).unwrap()), ("b".into(), "b/x".into()));
        assert!(kernel.pairs.dead.is_empty());
        // And between the two halves.
        kernel.says(1, DIR | ReadFlags::MOVED_FROM, 8, "b");
        kernel.enter("c", 2);
        kernel.says_at(90, 1, DIR | ReadFlags::MOVED_TO, 8, "c");
        assert_eq!(kernel.take()[0], renamed("b", "c", true));
        assert_eq!((kernel.at(2).unwrap(), kernel.at(3).unwrap()), ("c".into(), "c/x".into()));
    }

    #[test]
    fn a_directory_that_left_before_it_was_entered_is_let_go() {
        let mut kernel = Kernel::watching(&[""]);
        kernel.now = 100;
        kernel.enter("a", 2);
        kernel.says_at(10, 1, DIR | ReadFlags::MOVED_FROM, 7, "a");
        let gone = WatchEvent::Gone { path: path("a"), dir: true };
        assert_eq!(kernel.take(), [gone, unsure("a")]);
        assert_eq!(kernel.pairs.dead, [2]);
    }

    #[test]
    fn a_directory_that_is_modified_has_other_attributes() {
        // That is how a change of its time alone is told: `touch -m`.
        let mut kernel = Kernel::watching(&["", "a"]);
        kernel.says(1, DIR | ReadFlags::MODIFY, 0, "");
        kernel.says(1, DIR | ReadFlags::MODIFY, 0, "a");
        kernel.says(2, DIR | ReadFlags::MODIFY, 0, "");
        let attributes = |text| WatchEvent::Attributes(path(text));
        assert_eq!(kernel.take(), [attributes(""), attributes("a")]);
    }

    #[test]
    fn an_exchange_is_two_unsure_names() {
        let moved = ["a/x", "b/y"];
        for parted in [false, true] {
            let mut kernel = Kernel::watching(&["", "a", "a/x", "b", "b/y"]);
            let mut events = Vec::new();
            kernel.moves(DIR, 7, (1, "a"), (1, "b"));
            if parted {
                events.extend(kernel.take());
            }
            kernel.says(2, ReadFlags::MODIFY, 0, "f");
            kernel.moves(DIR, 8, (1, "b"), (1, "a"));
            events.extend(kernel.take());
            events.retain(|event| matches!(event, WatchEvent::Unsure(_)));
            assert_eq!(events, [unsure("a"), unsure("b")]);
            let now = [kernel.at(5).unwrap(), kernel.at(3).unwrap()];
            assert_eq!(now, ["a/y", "b/x"], "were {moved:?}");
            assert!(kernel.pairs.dead.is_empty());
        }
    }

    #[test]
    fn a_replaced_directory_is_no_exchange() {
        let mut kernel = Kernel::watching(&["", "a", "b"]);
        kernel.moves(DIR, 7, (1, "a"), (1, "b"));
        // The link count of the old b falls; somebody holds it open, so its watch lives on.
        kernel.says(3, DIR | ReadFlags::ATTRIB, 0, "");
        kernel.moves(DIR, 8, (1, "b"), (1, "c"));
        assert_eq!(kernel.take(), [renamed("a", "b", true), renamed("b", "c", true)]);
        assert_eq!(kernel.at(2).unwrap(), "c");
        assert_eq!(kernel.pairs.dead, [3]);
    }

    #[test]
    fn attributes_of_a_directory_are_told_once() {
        let mut kernel = Kernel::watching(&["", "d"]);
        kernel.says(1, DIR | ReadFlags::ATTRIB, 0, "d");
        kernel.says(2, DIR | ReadFlags::ATTRIB, 0, "");
        kernel.says(1, DIR | ReadFlags::ATTRIB, 0, "");
        let both = [path("d"), RelPath::root()].map(WatchEvent::Attributes);
        assert_eq!(kernel.take(), both);
    }

    #[test]
    fn an_unmounted_file_system_is_one_event() {
        let mut kernel = Kernel::watching(&["", "m", "m/a", "m/a/b", "n"]);
        for wd in [4, 2, 3] {
            kernel.says(wd, ReadFlags::UNMOUNT, 0, "");
            kernel.says(wd, ReadFlags::IGNORED, 0, "");
        }
        assert!(kernel.pairs.is_waiting());
        assert_eq!(kernel.take(), [unsure("m")]);
        assert_eq!(kernel.tree.watched(), 2);
        kernel.says(1, ReadFlags::UNMOUNT, 0, "");
        assert_eq!(kernel.take(), [WatchEvent::RootGone]);
    }

    #[test]
    fn odd_events_do_no_harm() {
        let mut kernel = Kernel::watching(&["", "d"]);
        kernel.says(77, ReadFlags::CREATE, 0, "unknown");
        kernel.says(-1, ReadFlags::QUEUE_OVERFLOW, 0, "");
        kernel.says(2, ReadFlags::IGNORED, 0, "");
        kernel.says(2, ReadFlags::CREATE, 0, "late");
        kernel.says(1, ReadFlags::CREATE, 0, "..");
        kernel.says(1, ReadFlags::CREATE, 0, "a/b");
        kernel.says(1, ReadFlags::MOVED_FROM, 7, "a");
        kernel.says(1, ReadFlags::MOVED_FROM, 7, "b");
        let gone = |name| WatchEvent::Gone { path: path(name), dir: false };
        let events = kernel.take();
        // A name with a slash would be a path: it cannot come, and leads nowhere but beneath.
        assert_eq!(events[0], WatchEvent::Overflow);
        assert!(events.ends_with(&[gone("a"), gone("b")]), "{events:?}");
        assert_eq!(kernel.pairs.overflows, 1);
    }

    #[test]
    fn the_removal_of_many_directories_costs_each_of_them_once() {
        let dirs: Vec<String> = (0..3000).map(|i| format!("t/d{}/e{i}", i % 50)).collect();
        let mut kernel = Kernel::watching(&["", "t"]);
        for i in 0..50 {
            kernel.enter(&format!("t/d{i}"), 10 + i);
        }
        for (wd, dir) in (100..).zip(&dirs) {
            kernel.enter(dir, wd);
        }
        let before = kernel.tree.steps;
        for wd in (100..3100).chain(10..60).chain([2]) {
            kernel.says(wd, ReadFlags::IGNORED, 0, "");
        }
        let steps = kernel.tree.steps - before;
        assert!(steps <= 2 * 3051, "{steps} for 3051 directories");
        assert_eq!(kernel.tree.watched(), 1);
        // A rename costs the same whatever is beneath.
        for (wd, dir) in (5000..).zip(&dirs) {
            kernel.enter(dir, wd);
        }
        let before = kernel.tree.steps;
        kernel.moves(DIR, 7, (1, "t"), (1, "u"));
        assert!(kernel.tree.steps - before < 10);
        assert_eq!(kernel.at(5000).unwrap(), "u/d0/e0");
    }
}
