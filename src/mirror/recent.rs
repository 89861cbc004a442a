//! Contents that were sent a moment ago, for two doubts about them.
//!
//! What was read under a name may have taken it after the last event that was heard: if the name is
//! then said to have moved, the target may move the wrong content along, and where both look alike
//! nobody notices. And what was acked need not be on the target's disk: after a power cut a file may
//! have its size and time and other content.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

/// An event comes at most so long after what it tells of.
const LATE: Duration = Duration::from_secs(10);
/// After so long what was written is on the disk: Linux begins to write it after 30 s
/// (`vm.dirty_expire_centisecs`), and a slow disk takes its time.
const WRITTEN_BACK: Duration = Duration::from_secs(300);
/// The most names that are remembered.
const MAX: usize = 50_000;

/// When a content was finished on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    at: Instant,
    small: bool,
}

/// Their names, by when they were finished on the target.
#[derive(Debug, Default)]
pub(super) struct Recent {
    sent: BTreeMap<RelPath, Sent>,
    order: VecDeque<(Instant, RelPath)>,
    /// There were too many: until then some are missing here.
    too_many: Option<Instant>,
}

impl Recent {
    /// Content was finished under this name.
    pub(super) fn sent(&mut self, path: &RelPath, small: bool, now: Instant) {
        self.sent.insert(path.clone(), Sent { at: now, small });
        self.order.push_back((now, path.clone()));
        while let Some((at, path)) = self.order.front() {
            let fresh = *at + WRITTEN_BACK > now;
            if fresh && self.order.len() <= MAX {
                break;
            }
            if self.sent.get(path).is_some_and(|sent| sent.at == *at) {
                self.sent.remove(path);
                if fresh {
                    self.too_many = self.too_many.max(Some(*at + WRITTEN_BACK));
                }
            }
            self.order.pop_front();
        }
    }

    /// Was a small one finished under this name while what had the name before may not be told of
    /// yet?
    pub(super) fn has(&self, path: &RelPath, now: Instant) -> bool {
        self.sent.get(path).is_some_and(|sent| sent.small && sent.at + LATE > now)
    }

    /// A name moved, and what is beneath it.
    pub(super) fn renamed(&mut self, from: &RelPath, to: &RelPath) {
        let names = |at: &RelPath, sent: &BTreeMap<RelPath, Sent>| -> Vec<RelPath> {
            let range = sent.range(at.clone()..).map(|(path, _)| path);
            range.take_while(|path| path.is_at_or_under(at)).cloned().collect()
        };
        for path in names(to, &self.sent) {
            self.sent.remove(&path);
        }
        for path in names(from, &self.sent) {
            if let Some(sent) = self.sent.remove(&path)
                && let Some(moved) = path.moved(from, to)
            {
                self.order.push_back((sent.at, moved.clone()));
                self.sent.insert(moved, sent);
            }
        }
    }

    /// The target's host has started anew, nobody knows when it stopped: which contents may not be
    /// there, and whether these are not all.
    pub(super) fn unwritten(&mut self) -> (Vec<RelPath>, bool) {
        let Recent { sent, too_many, .. } = std::mem::take(self);
        // When the last one was finished, the host was up.
        let Some(last) = sent.values().map(|sent| sent.at).max() else { return Default::default() };
        let fresh = sent.into_iter().filter(|(_, sent)| sent.at + WRITTEN_BACK > last);
        (fresh.map(|(path, _)| path).collect(), too_many.is_some_and(|until| until > last))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn path(name: &str) -> RelPath {
        RelPath::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn names_are_remembered_for_a_while_and_not_without_bound() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        recent.sent(&path("0"), true, now);
        recent.sent(&path("0"), true, now + LATE / 2);
        recent.sent(&path("large"), false, now + LATE / 2);
        assert!(recent.has(&path("0"), now + LATE) && !recent.has(&path("1"), now));
        assert!(!recent.has(&path("0"), now + 2 * LATE) && !recent.has(&path("large"), now + LATE));
        for n in 0..2 * MAX {
            recent.sent(&path(&n.to_string()), true, now + LATE);
        }
        assert!(recent.sent.len() <= MAX && recent.order.len() <= MAX);
        recent.sent(&path("1"), true, now + LATE + WRITTEN_BACK);
        assert_eq!((recent.sent.len(), recent.order.len()), (1, 1));
    }

    #[test]
    fn what_may_not_be_on_the_disk_is_known_by_its_name_of_now() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for name in ["d/a", "d/b", "e/a", "f"] {
            recent.sent(&path(name), false, now);
        }
        recent.renamed(&path("d"), &path("g"));
        recent.renamed(&path("e/a"), &path("g/b"));
        let (names, more) = recent.unwritten();
        assert_eq!((names, more), (vec![path("f"), path("g/a"), path("g/b")], false));
        assert_eq!(recent.unwritten(), (Vec::new(), false));
        // What counts is what was finished by then, not how long nobody was there.
        recent.sent(&path("old"), false, now);
        recent.sent(&path("f"), false, now + WRITTEN_BACK / 2);
        recent.sent(&path("g"), false, now + WRITTEN_BACK);
        assert_eq!(recent.unwritten(), (vec![path("f"), path("g")], false));
        for n in 0..=MAX {
            recent.sent(&path(&n.to_string()), true, now);
        }
        let (names, more) = recent.unwritten();
        assert_eq!((names.len(), more), (MAX, true));
    }
}
