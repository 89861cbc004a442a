//! The directories under watch, as a tree: watch descriptor → directory → parent and name.
//!
//! The kernel speaks of descriptors and single names. Paths are put together when an event is
//! reported, so the rename of a directory, however much is beneath it, moves one link; and a
//! removed directory costs what is stored about it, nothing more. Nothing here makes a system
//! call: what has to be taken back from the kernel is returned as a list of descriptors.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lsync_protocol::path::RelPath;

/// A directory's place in the table.
pub(super) type Slot = u32;

/// The root's place: it is always there, watched or not.
pub(super) const ROOT: Slot = 0;

/// No directory: the parent of the root and of what is detached.
const NONE: Slot = Slot::MAX;

/// No watch: a directory that is only known because something beneath it is watched.
const UNWATCHED: i32 = -1;

/// One directory.
#[derive(Debug)]
struct Dir {
    parent: Slot,
    name: Arc<[u8]>,
    wd: i32,
    /// How many bytes the kernel had queued, ever, when this directory was put at its place by
    /// `enter`. An event from before that speaks of a directory that had this name earlier.
    born: u64,
    children: BTreeMap<Arc<[u8]>, Slot>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Tree {
    dirs: Vec<Dir>,
    free: Vec<Slot>,
    by_wd: HashMap<i32, Slot>,
    /// Directories touched by any change of the table: what the tests hold the cost against.
    #[cfg(test)]
    pub(super) steps: u64,
}

impl Tree {
    pub(super) fn new() -> Tree {
        let mut tree = Tree {
            dirs: Vec::new(),
            free: Vec::new(),
            by_wd: HashMap::new(),
            #[cfg(test)]
            steps: 0,
        };
        tree.allocate(&Arc::from(&b""[..]), 0);
        tree
    }

    /// How many directories are watched.
    pub(super) fn watched(&self) -> usize {
        self.by_wd.len()
    }

    /// The directory that a descriptor watches; `None` when its watch is gone.
    pub(super) fn of(&self, wd: i32) -> Option<Slot> {
        self.by_wd.get(&wd).copied()
    }

    /// Is there a watch on it?
    pub(super) fn is_watched(&self, slot: Slot) -> bool {
        self.dir(slot).wd != UNWATCHED
    }

    /// The directory this is in, unless it is the root or detached.
    pub(super) fn parent(&self, slot: Slot) -> Option<Slot> {
        Some(self.dir(slot).parent).filter(|&parent| parent != NONE)
    }

    /// Is it in the tree at all?
    pub(super) fn is_attached(&self, slot: Slot) -> bool {
        slot == ROOT || self.dir(slot).parent != NONE
    }

    /// Is nothing known of it any more: no watch, nothing beneath?
    pub(super) fn is_bare(&self, slot: Slot) -> bool {
        !self.is_watched(slot) && self.dir(slot).children.is_empty()
    }

    /// The descriptor of its watch.
    pub(super) fn wd(&self, slot: Slot) -> Option<i32> {
        Some(self.dir(slot).wd).filter(|&wd| wd != UNWATCHED)
    }

    /// When `enter` put it there.
    pub(super) fn born(&self, slot: Slot) -> u64 {
        self.dir(slot).born
    }

    /// The directory of this name in another.
    pub(super) fn child(&self, parent: Slot, name: &[u8]) -> Option<Slot> {
        self.dir(parent).children.get(name).copied()
    }

    /// The path of a directory, or of a name in it. `Err`: it hangs beneath this detached
    /// directory; or, with `None`, the path is longer than paths can be.
    pub(super) fn path(&self, slot: Slot, name: Option<&[u8]>) -> Result<RelPath, Option<Slot>> {
        let mut names = Vec::new();
        let mut at = slot;
        while at != ROOT {
            let dir = self.dir(at);
            if dir.parent == NONE {
                return Err(Some(at));
            }
            names.push(&*dir.name);
            at = dir.parent;
        }
        names.reverse();
        names.extend(name);
        RelPath::new(names.join(&b'/')).map_err(|_| None)
    }

    /// A watch was set on the directory at `path`. `now` is the queue's length as in [`Dir::born`].
    /// Watches that are of no more use go to `dead`.
    pub(super) fn enter(&mut self, path: &RelPath, wd: i32, now: u64, dead: &mut Vec<i32>) {
        let known = self.of(wd);
        let mut held = false;
        if let Some(slot) = known {
            // The root stays the root, even where a bind mount shows it beneath itself.
            if slot == ROOT || self.path(slot, None).is_ok_and(|at| at == *path) {
                return;
            }
            // Out of its old place first: the new one may be beneath it. One that is detached
            // already is held by a rename of which we know one half.
            held = !self.is_attached(slot);
            if !held {
                self.detach(slot);
            }
        }
        let place = self.place(path, now);
        if self.dir(place).wd != UNWATCHED {
            // Another directory had this name. It was deleted, and the kernel will say so; or it
            // moved, and a walk of its new name watches it again.
            self.retire(place, dead);
        }
        if let Some(old) = known {
            self.by_wd.remove(&wd);
            self.dir_mut(old).wd = UNWATCHED;
            // What is beneath moves along, unless it was entered under the new name already.
            let children = std::mem::take(&mut self.dir_mut(old).children);
            for (name, child) in children {
                self.step();
                if self.dir(place).children.contains_key(&name) {
                    self.dir_mut(child).parent = NONE;
                    self.drop_subtree(child, dead);
                } else {
                    self.dir_mut(child).parent = place;
                    self.dir_mut(place).children.insert(name, child);
                }
            }
            if !held {
                self.release(old);
            }
        }
        self.step();
        let dir = self.dir_mut(place);
        dir.wd = wd;
        dir.born = now;
        self.by_wd.insert(wd, place);
    }

    /// The directory at `path` is not to be watched any more, nor what is beneath it.
    pub(super) fn leave(&mut self, path: &RelPath, dead: &mut Vec<i32>) {
        let mut at = ROOT;
        for name in path.components() {
            let Some(child) = self.child(at, name) else { return };
            at = child;
        }
        if at != ROOT {
            self.detach(at);
            self.drop_subtree(at, dead);
        }
    }

    /// The place at `path`, made with all above it where it is not known.
    fn place(&mut self, path: &RelPath, now: u64) -> Slot {
        let mut at = ROOT;
        for name in path.components() {
            at = match self.child(at, name) {
                Some(child) => child,
                None => {
                    let name = Arc::from(name);
                    let child = self.allocate(&name, now);
                    self.dir_mut(child).parent = at;
                    self.dir_mut(at).children.insert(name, child);
                    child
                }
            };
        }
        at
    }

    /// Empties a place: its watch and all beneath.
    fn retire(&mut self, place: Slot, dead: &mut Vec<i32>) {
        self.step();
        let dir = self.dir_mut(place);
        let wd = std::mem::replace(&mut dir.wd, UNWATCHED);
        let children = std::mem::take(&mut dir.children);
        self.by_wd.remove(&wd);
        dead.push(wd);
        for child in children.into_values() {
            self.dir_mut(child).parent = NONE;
            self.drop_subtree(child, dead);
        }
    }

    /// Takes a directory, with all beneath it, out of its place. Who detaches it attaches or drops
    /// it again; until then its slot stays valid, whatever happens.
    pub(super) fn detach(&mut self, slot: Slot) {
        self.step();
        let dir = self.dir_mut(slot);
        let parent = std::mem::replace(&mut dir.parent, NONE);
        let name = Arc::clone(&dir.name);
        if parent != NONE {
            self.dir_mut(parent).children.remove(&name);
            self.prune(parent);
        }
    }

    /// Puts a detached directory at a name. What had that name and is watched is detached and
    /// returned; what was only a place passes on what is beneath it.
    pub(super) fn attach(
        &mut self,
        parent: Slot,
        name: &[u8],
        slot: Slot,
        dead: &mut Vec<i32>,
    ) -> Option<Slot> {
        self.step();
        let mut displaced = None;
        if let Some(there) = self.child(parent, name) {
            if self.is_watched(there) {
                displaced = Some(there);
            } else {
                for (name, child) in std::mem::take(&mut self.dir_mut(there).children) {
                    self.step();
                    self.dir_mut(child).parent = slot;
                    if let Some(old) = self.dir_mut(slot).children.insert(name, child) {
                        self.dir_mut(old).parent = NONE;
                        self.drop_subtree(old, dead);
                    }
                }
                self.release(there);
            }
            self.dir_mut(there).parent = NONE;
        }
        let name: Arc<[u8]> = Arc::from(name);
        let dir = self.dir_mut(slot);
        dir.parent = parent;
        dir.name = Arc::clone(&name);
        self.dir_mut(parent).children.insert(name, slot);
        self.prune(slot);
        displaced
    }

    /// Forgets a detached directory and all beneath it; their watches go to `dead`.
    pub(super) fn drop_subtree(&mut self, slot: Slot, dead: &mut Vec<i32>) {
        let mut left = vec![slot];
        while let Some(slot) = left.pop() {
            self.step();
            let dir = self.dir_mut(slot);
            left.extend(std::mem::take(&mut dir.children).into_values());
            if dir.wd != UNWATCHED {
                let wd = dir.wd;
                self.by_wd.remove(&wd);
                dead.push(wd);
            }
            self.release(slot);
        }
    }

    /// The kernel ended a watch.
    pub(super) fn ignored(&mut self, wd: i32) {
        if let Some(slot) = self.by_wd.remove(&wd) {
            self.step();
            self.dir_mut(slot).wd = UNWATCHED;
            self.prune(slot);
        }
    }

    /// Forgets a place that is not watched and has nothing beneath it, and likewise what is above.
    fn prune(&mut self, slot: Slot) {
        let mut at = slot;
        while at != ROOT {
            let dir = self.dir(at);
            if dir.wd != UNWATCHED || !dir.children.is_empty() || dir.parent == NONE {
                return;
            }
            let (parent, name) = (dir.parent, Arc::clone(&dir.name));
            self.step();
            self.dir_mut(parent).children.remove(&name);
            self.release(at);
            at = parent;
        }
    }

    fn allocate(&mut self, name: &Arc<[u8]>, now: u64) -> Slot {
        self.step();
        let dir = Dir {
            parent: NONE,
            name: Arc::clone(name),
            wd: UNWATCHED,
            born: now,
            children: BTreeMap::new(),
        };
        if let Some(slot) = self.free.pop() {
            *self.dir_mut(slot) = dir;
            return slot;
        }
        self.dirs.push(dir);
        // As many directories as watches fit: the kernel counts them in an i32.
        Slot::try_from(self.dirs.len() - 1).unwrap_or(NONE)
    }

    fn release(&mut self, slot: Slot) {
        let dir = self.dir_mut(slot);
        dir.wd = UNWATCHED;
        dir.parent = NONE;
        dir.children = BTreeMap::new();
        self.free.push(slot);
    }

    fn dir(&self, slot: Slot) -> &Dir {
        &self.dirs[slot as usize]
    }

    fn dir_mut(&mut self, slot: Slot) -> &mut Dir {
        &mut self.dirs[slot as usize]
    }

    fn step(&mut self) {
        #[cfg(test)]
        {
            self.steps += 1;
        }
    }
}
