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
        if !mask.contains(ReadFlags::ATTRIB) {
            return;
        }
        if self.before.as_ref().is_some_and(|before| before.displaced == Some(slot)) {
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
        } else if mask.contains(ReadFlags::MODIFY) {
            self.out.push(Some(WatchEvent::Written(path)));
        } else if mask.contains(ReadFlags::CLOSE_WRITE) {
            self.out.push(Some(WatchEvent::Closed(path)));
        } else if mask.contains(ReadFlags::ATTRIB) {
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
