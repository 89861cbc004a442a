//! Subtrees that are to be walked, and since when somebody may wait for that.

use std::collections::BTreeMap;
use std::time::Instant;

use lsync_protocol::path::RelPath;

use super::{any_under, covers};

/// Why a subtree is to be walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Due {
    /// Everything in it is sent, whatever size and time say.
    pub(super) whole: bool,
    /// When the first of what leads to it was heard of; `None`: nothing was, it is to find out.
    pub(super) since: Option<Instant>,
}

impl Due {
    fn join(&mut self, other: Due) {
        self.whole |= other.whole;
        self.since = sooner(self.since, other.since);
    }
}

/// The earlier of two times, where there are any.
pub(super) fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The subtrees to be walked.
#[derive(Debug, Default)]
pub(super) struct WalksDue(BTreeMap<RelPath, Due>);

impl WalksDue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has_root(&self) -> bool {
        self.0.contains_key(&RelPath::root())
    }

    /// Is the path in a subtree to be walked?
    pub(super) fn covers(&self, path: &RelPath) -> bool {
        covers(&self.0, path)
    }

    /// Is something at or under this directory to be walked?
    pub(super) fn any_under(&self, dir: &RelPath) -> bool {
        any_under(&self.0, dir)
    }

    pub(super) fn add(&mut self, path: RelPath, due: Due) {
        self.0.entry(path).or_default().join(due);
    }

    /// When the first of what leads to any of them was heard of.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.values().filter_map(|due| due.since).min()
    }

    /// A directory moved, and what is due in it with it.
    pub(super) fn renamed(&mut self, from: &RelPath, to: &RelPath) {
        let under = self.0.range(from.clone()..).map(|(path, _)| path);
        let due: Vec<RelPath> =
            under.take_while(|path| path.is_at_or_under(from)).cloned().collect();
        for path in due {
            let due = self.0.remove(&path).unwrap_or_default();
            if let Some(moved) = path.moved(from, to) {
                self.add(moved, due);
            }
        }
    }

    /// Those that one walk can do: where it starts, none beneath another, and what it is for.
    /// `root_may`: it may be of the whole tree.
    pub(super) fn take(&mut self, root_may: bool) -> Option<(Vec<RelPath>, Due)> {
        let root = RelPath::root();
        let of_root = root_may && self.0.get(&root).is_some_and(|due| !due.whole);
        let whole = if of_root {
            false
        } else {
            let may = |path: &RelPath| root_may || !path.is_root();
            self.0.iter().find(|(path, _)| may(path)).map(|(_, due)| due.whole)?
        };
        let mut starts: Vec<RelPath> = Vec::new();
        let mut all = Due { whole, since: None };
        self.0.retain(|path, due| {
            if due.whole != whole || (path.is_root() && !root_may) {
                return true;
            }
            all.join(*due);
            // In the order of paths a directory comes before what is in it.
            if !starts.last().is_some_and(|last| path.is_at_or_under(last)) {
                starts.push(path.clone());
            }
            false
        });
        Some((starts, all))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn one_walk_does_all_of_a_kind() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut due = WalksDue::default();
        let plain = Due { whole: false, since: None };
        due.add(path("b"), Due { since: Some(later), ..plain });
        due.add(path("b/c"), Due { since: Some(now), ..plain });
        due.add(path("a"), Due { whole: true, since: Some(later) });
        due.add(path("a"), plain);
        due.add(RelPath::root(), plain);
        assert_eq!(due.since(), Some(now));
        assert!(due.has_root() && due.covers(&path("x")));
        due.renamed(&path("b"), &path("z"));
        // The whole tree has to wait; what is to be sent wholly comes first in order.
        assert_eq!(
            due.take(false),
            Some((vec![path("a")], Due { whole: true, since: Some(later) }))
        );
        assert_eq!(due.take(false), Some((vec![path("z")], Due { since: Some(now), ..plain })));
        assert_eq!(due.take(false), None);
        assert_eq!(due.take(true), Some((vec![RelPath::root()], plain)));
        assert!(due.is_empty());
    }
}
