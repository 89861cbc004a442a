//! Small files that were sent a moment ago. What was read under a name may have taken it after the
//! last event that was heard: if the name is then said to have moved, the target may move the wrong
//! content along, and where both look alike nobody notices.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

/// An event comes at most so long after what it tells of.
const LATE: Duration = Duration::from_secs(10);
/// The most names that are remembered.
const MAX: usize = 50_000;

/// Their names, by when they were finished on the target.
#[derive(Debug, Default)]
pub(super) struct Recent {
    when: BTreeMap<RelPath, Instant>,
    order: VecDeque<(Instant, RelPath)>,
}

impl Recent {
    /// Content was finished under this name.
    pub(super) fn sent(&mut self, path: &RelPath, now: Instant) {
        self.when.insert(path.clone(), now);
        self.order.push_back((now, path.clone()));
        while let Some((when, path)) = self.order.front() {
            if *when + LATE > now && self.order.len() <= MAX {
                break;
            }
            if self.when.get(path) == Some(when) {
                self.when.remove(path);
            }
            self.order.pop_front();
        }
    }

    /// Was it finished under this name while what had the name before may not be told of yet?
    pub(super) fn has(&self, path: &RelPath, now: Instant) -> bool {
        self.when.get(path).is_some_and(|when| *when + LATE > now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_remembered_for_a_while_and_not_without_bound() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        let path = |n: usize| RelPath::new(format!("{n}").as_bytes()).unwrap();
        recent.sent(&path(0), now);
        recent.sent(&path(0), now + LATE / 2);
        assert!(recent.has(&path(0), now + LATE) && !recent.has(&path(1), now));
        assert!(!recent.has(&path(0), now + 2 * LATE));
        for n in 0..2 * MAX {
            recent.sent(&path(n), now);
        }
        assert!(recent.when.len() <= MAX && recent.order.len() <= MAX);
        recent.sent(&path(1), now + LATE);
        assert_eq!((recent.when.len(), recent.order.len()), (1, 1));
    }
}
