//! The directories that could not be watched for want of watches, and are looked at now and then.

use std::collections::BTreeSet;

use lsync_protocol::path::RelPath;

/// More than these are one: the whole tree.
const MOST: usize = 10_000;

/// What is to be looked at in the next round.
#[derive(Debug, Default)]
pub(super) struct Unwatched {
    dirs: BTreeSet<RelPath>,
    /// Too many to remember: the whole tree is looked at.
    all: bool,
    /// How many were met in this round and in the last.
    met: u64,
    before: u64,
}

impl Unwatched {
    /// How many there are, as far as walks have met them.
    pub(super) fn count(&self) -> u64 {
        self.met.max(self.before)
    }

    /// Is there nothing to look at?
    pub(super) fn is_empty(&self) -> bool {
        self.met == 0
    }

    /// A walk met one that cannot be watched.
    pub(super) fn add(&mut self, dir: &RelPath) {
        if self.all {
            self.met += 1;
            return;
        }
        if self.dirs.insert(dir.clone()) {
            self.met += 1;
        }
        if self.dirs.len() > MOST {
            self.dirs.clear();
            self.all = true;
        }
    }

    /// A walk watched it after all.
    pub(super) fn remove(&mut self, dir: &RelPath) {
        if self.dirs.remove(dir) {
            self.met -= 1;
        }
    }

    /// A directory was renamed, with all beneath it.
    pub(super) fn renamed(&mut self, from: &RelPath, to: &RelPath) {
        let moved: Vec<RelPath> = self
            .dirs
            .range(from.clone()..)
            .take_while(|dir| dir.is_at_or_under(from))
            .cloned()
            .collect();
        for dir in moved {
            self.dirs.remove(&dir);
            match dir.moved(from, to) {
                Some(dir) => {
                    self.dirs.insert(dir);
                }
                None => self.met -= 1,
            }
        }
    }

    /// Begins the next round: what is to be looked at, outermost directories only. The walk that
    /// follows tries to watch each of them again, and [`add`](Unwatched::add)s what it cannot. So
    /// nothing is lost as long as every directory given here is walked some time.
    pub(super) fn next_round(&mut self) -> Vec<RelPath> {
        self.before = std::mem::take(&mut self.met);
        if std::mem::take(&mut self.all) {
            return vec![RelPath::root()];
        }
        let mut outermost: Vec<RelPath> = Vec::new();
        for dir in std::mem::take(&mut self.dirs) {
            if !outermost.last().is_some_and(|top| dir.is_at_or_under(top)) {
                outermost.push(dir);
            }
        }
        outermost
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_round_names_the_outermost_and_starts_anew() {
        let mut unwatched = Unwatched::default();
        for dir in ["b/c", "a", "a/x", "a-", "b/d", "gone"] {
            unwatched.add(&path(dir));
        }
        unwatched.add(&path("a"));
        unwatched.remove(&path("gone"));
        unwatched.remove(&path("never there"));
        assert_eq!(unwatched.count(), 5);
        unwatched.renamed(&path("b"), &path("z"));
        assert_eq!(unwatched.next_round(), ["a", "a-", "z/c", "z/d"].map(path));
        assert!(unwatched.is_empty());
        assert_eq!(unwatched.count(), 5, "until the walk is through");
        assert_eq!(unwatched.next_round(), []);
        assert_eq!(unwatched.count(), 0);
    }

    #[test]
    fn too_many_are_the_whole_tree() {
        let mut unwatched = Unwatched::default();
        for i in 0..=MOST {
            unwatched.add(&path(&format!("d{i}")));
        }
        unwatched.add(&path("one more"));
        assert_eq!(unwatched.count(), MOST as u64 + 2);
        assert_eq!(unwatched.next_round(), [RelPath::root()]);
        assert_eq!(unwatched.next_round(), []);
    }
}
