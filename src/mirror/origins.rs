//! Origins: under which other names the target may have what is called so by now.
//!
//! Not every rename can be told as one: its ack was lost with the link, the file changed as well,
//! or nobody watched when it happened. Then the new name is sent as new content. But the target has
//! it, or an older version, under an old name, and copies what is equal from there. So until that
//! is done the old name stays, and whoever means to remove it waits.
//!
//! Nothing depends on it: what is not remembered, or remembered wrongly, costs bytes and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lsync_protocol::entry::Kind;
use lsync_protocol::message::INLINE_MAX;
use lsync_protocol::path::RelPath;

use super::Mirror;
use crate::collate::Marks;
use crate::plan::Planned;

/// At most so many new names are remembered.
const ORIGINS_MAX: usize = 1024;
/// At most so many old names of one thing.
const LIKE_MAX: usize = 3;
/// No old name is kept for longer than this while nothing is on its way that would use it.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// So often is looked whether the old names are of any more use: what ends that may be silent.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is known of one new name.
#[derive(Debug)]
struct Origin {
    /// The old names on the target.
    olds: Vec<RelPath>,
    /// It is a directory: what is in it was in the old one.
    dir: bool,
    since: Instant,
}

/// The old names by the new ones.
#[derive(Debug, Default)]
pub(super) struct Origins {
    by_new: BTreeMap<RelPath, Origin>,
    /// Old name and new name.
    by_old: BTreeSet<(RelPath, RelPath)>,
    /// When to look for those that waited for too long.
    check: Option<Instant>,
}

impl Origins {
    pub(super) fn is_empty(&self) -> bool {
        self.by_new.is_empty()
    }

    /// What is at `new` by now may be at `old` on the target. Too many are not remembered.
    pub(super) fn note(&mut self, new: &RelPath, old: &RelPath, dir: bool, now: Instant) {
        let inside = new.is_at_or_under(old) || old.is_at_or_under(new);
        if inside || (self.by_new.len() >= ORIGINS_MAX && !self.by_new.contains_key(new)) {
            return;
        }
        if self.by_new.is_empty() {
            self.look_later(now);
        }
        let origin = Origin { olds: Vec::new(), dir, since: now };
        let origin = self.by_new.entry(new.clone()).or_insert(origin);
        origin.dir |= dir;
        if origin.olds.len() < LIKE_MAX && !origin.olds.contains(old) {
            origin.olds.push(old.clone());
            self.by_old.insert((old.clone(), new.clone()));
        }
    }

    /// If this is a rename: it may have been done or not.
    pub(super) fn rename_is_doubtful(&mut self, op: &Planned, now: Instant) {
        if let Planned::Rename { from, to, kind, .. } = op {
            self.note(to, from, *kind == Kind::Dir, now);
        }
    }

    /// Where the target may have what is at this path by now.
    pub(super) fn of(&self, path: &RelPath) -> Vec<RelPath> {
        let mut names = Vec::new();
        if self.by_new.is_empty() {
            return names;
        }
        let (mut at, mut next) = (0, Some(path.clone()));
        while let Some(name) = next {
            let mut above = Some(name.clone());
            while let Some(new) = above {
                let origin = self.by_new.get(&new).filter(|origin| origin.dir || new == name);
                for old in origin.map(|origin| &*origin.olds).unwrap_or_default() {
                    if let Some(old) = name.moved(&new, old)
                        && old != *path
                        && !names.contains(&old)
                        && names.len() < LIKE_MAX
                    {
                        names.push(old);
                    }
                }
                above = new.parent();
            }
            next = names.get(at).cloned();
            at += 1;
        }
        names
    }

    /// A name moved on the source; `told`: as it will on the target. Old names that are of no more
    /// use.
    pub(super) fn renamed(&mut self, from: &RelPath, to: &RelPath, told: bool) -> Vec<RelPath> {
        if self.by_new.is_empty() {
            return Vec::new();
        }
        let news = self.by_new.range(from.clone()..).map(|(new, _)| new);
        let news: Vec<RelPath> = news.take_while(|new| new.is_at_or_under(from)).cloned().collect();
        let moved: Vec<_> =
            news.into_iter().filter_map(|new| Some((new.clone(), self.take(&new)?))).collect();
        // What stood there is overwritten.
        let mut olds = self.end(to);
        for (new, origin) in moved {
            if let Some(new) = new.moved(from, to) {
                for old in &origin.olds {
                    self.note(&new, old, origin.dir, origin.since);
                }
            }
            olds.extend(origin.olds);
        }
        let told: Vec<_> = if told { self.olds_under(from).cloned().collect() } else { Vec::new() };
        for (old, new) in told {
            let (Some(old), Some(origin)) = (old.moved(from, to), self.by_new.get_mut(&new)) else {
                continue;
            };
            // It may be asked for before the target has heard of it or after that, and in between:
            // the names in the order in which it has them.
            if old != new && !origin.olds.contains(&old) && origin.olds.len() < LIKE_MAX {
                origin.olds.push(old.clone());
                self.by_old.insert((old, new));
            }
        }
        olds.retain(|old| !self.holds(old));
        olds
    }

    fn olds_under(&self, dir: &RelPath) -> impl Iterator<Item = &(RelPath, RelPath)> {
        let from = (dir.clone(), RelPath::root());
        self.by_old.range(from..).take_while(|(old, _)| old.is_at_or_under(dir))
    }

    /// May something that stands at this path on the target, or beneath it, be wanted yet?
    pub(super) fn holds(&self, path: &RelPath) -> bool {
        if self.by_new.is_empty() {
            return false;
        }
        if self.olds_under(path).next().is_some() {
            return true;
        }
        let mut above = path.parent();
        while let Some(dir) = above {
            let from = (dir.clone(), RelPath::root());
            let mut here = self.by_old.range(from..).take_while(|(old, _)| *old == dir);
            if here.any(|(_, new)| self.by_new.get(new).is_some_and(|origin| origin.dir)) {
                return true;
            }
            above = dir.parent();
        }
        false
    }

    /// Is something that stands at this path on the target, or beneath it, the origin of a file that
    /// is on its way, as `flies` knows?
    pub(super) fn feeds(&self, path: &RelPath, flies: impl Fn(&RelPath) -> bool) -> bool {
        self.olds_under(path).any(|(_, new)| flies(new))
    }

    fn take(&mut self, new: &RelPath) -> Option<Origin> {
        let origin = self.by_new.remove(new)?;
        for old in &origin.olds {
            self.by_old.remove(&(old.clone(), new.clone()));
        }
        Some(origin)
    }

    /// This has arrived, or cannot: the old names it had, of which it needs nothing more.
    pub(super) fn end(&mut self, new: &RelPath) -> Vec<RelPath> {
        self.take(new).map(|origin| origin.olds).unwrap_or_default()
    }

    /// Ends those that `settled` says nothing is to be done for any more, and those that waited for
    /// too long while nothing `flies`. The old names.
    pub(super) fn sweep(
        &mut self,
        now: Instant,
        flies: impl Fn(&RelPath) -> bool,
        settled: impl Fn(&RelPath, bool) -> bool,
    ) -> Vec<RelPath> {
        let over = |(new, origin): &(&RelPath, &Origin)| {
            !flies(new) && (origin.since + WAIT_MAX <= now || settled(new, origin.dir))
        };
        let news: Vec<RelPath> =
            self.by_new.iter().filter(over).map(|(new, _)| new.clone()).collect();
        self.look_later(now);
        news.iter().flat_map(|new| self.end(new)).collect()
    }

    /// The next time to look is not now.
    fn look_later(&mut self, now: Instant) {
        self.check = Some(now + LOOK_EVERY);
    }

    /// When to look for those that waited for too long.
    pub(super) fn next(&self) -> Option<Instant> {
        self.check.filter(|_| !self.by_new.is_empty())
    }

    /// A link is there: before, nothing could be done.
    pub(super) fn begin(&mut self, now: Instant) {
        for origin in self.by_new.values_mut() {
            origin.since = now;
        }
        self.look_later(now);
    }
}

impl Mirror {
    /// Where the target may have what this brings is looked up, and stays until it is done. The name
    /// that it has by now may be another.
    pub(super) fn find_like(&mut self, op: &mut Planned, name: &RelPath, now: Instant) {
        let Planned::Content { size, like, .. } = op else { return };
        if *size <= INLINE_MAX {
            return;
        }
        like.extend(self.origins.of(name));
        for old in &*like {
            self.origins.note(name, old, false, now);
        }
    }

    /// This has arrived, or cannot: what it was copied from may go.
    pub(super) fn origin_ended(&mut self, new: &RelPath, now: Instant) {
        let olds = self.origins.end(new);
        self.let_go(&olds, now);
    }

    /// What waited for these names to be of no more use goes on.
    pub(super) fn let_go(&mut self, olds: &[RelPath], now: Instant) {
        for old in olds {
            self.collate.release_under(old, now);
            let mut above = old.parent();
            while let Some(dir) = above {
                self.collate.release(&dir, now);
                above = dir.parent();
            }
        }
    }

    /// Lets go the origins of what nothing is to be done for any more.
    pub(super) fn sweep_origins(&mut self, now: Instant) {
        // While everything is being compared nothing is settled.
        let comparing = self.walk.as_ref().filter(|walk| walk.is_comparing());
        if self.origins.is_empty() || self.held.is_none() || self.waiting.is_some() {
            return;
        }
        if comparing.is_some_and(|walk| walk.starts().iter().any(RelPath::is_root)) {
            if self.origins.next().is_some_and(|when| when <= now) {
                self.origins.look_later(now);
            }
            return;
        }
        let mut origins = std::mem::take(&mut self.origins);
        let flies = |new: &RelPath| self.flights.busy(new);
        let settled = |new: &RelPath, dir: bool| {
            let looked = self.looking.range(new.clone()..).next();
            // What waits to be removed may wait for each other's origins.
            !(self.collate.any_to_do(new, dir)
                || looked.is_some_and(|path| path == new || dir && path.is_under(new))
                || self.tree_above(new).has(Marks::TREE)
                || self.walks_due.covers(new)
                || dir && self.walks_due.any_under(new)
                || self.clearings.busy(new)
                || comparing.is_some_and(|walk| walk.touches(new)))
        };
        let olds = origins.sweep(now, flies, settled);
        self.origins = origins;
        self.let_go(&olds, now);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn names(origins: &Origins, of: &str) -> Vec<String> {
        origins.of(&path(of)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_leads_to_all_that_it_may_have_been() {
        let now = Instant::now();
        let mut origins = Origins::default();
        // e/x became y, and before that d had become e.
        origins.note(&path("y"), &path("e/x"), false, now);
        origins.note(&path("e"), &path("d"), true, now);
        assert_eq!(names(&origins, "y"), ["e/x", "d/x"]);
        assert_eq!(names(&origins, "e/s/z"), ["d/s/z"]);
        assert_eq!(names(&origins, "y/z"), Vec::<String>::new(), "in a file there is nothing");
        assert_eq!(names(&origins, "d/x"), Vec::<String>::new());
        // An exchange leads round in a circle, and to itself.
        origins.note(&path("p"), &path("q"), false, now);
        origins.note(&path("q"), &path("p"), false, now);
        assert_eq!(names(&origins, "p"), ["q"]);
        for n in 0..10 {
            origins.note(&path("many"), &path(&format!("m{n}")), false, now);
        }
        assert_eq!(names(&origins, "many"), ["m0", "m1", "m2"]);
        for n in 0..2 * ORIGINS_MAX {
            origins.note(&path(&format!("n{n}")), &path(&format!("o{n}")), false, now);
        }
        assert_eq!(origins.by_new.len(), ORIGINS_MAX);
    }

    #[test]
    fn what_may_be_wanted_is_held_with_what_is_above_it() {
        let now = Instant::now();
        let mut origins = Origins::default();
        origins.note(&path("y"), &path("a/b/x"), false, now);
        origins.note(&path("e"), &path("d"), true, now);
        for (name, held) in [
            ("a", true),
            ("a/b", true),
            ("a/b/x", true),
            ("a/b/x/in", false),
            ("a/b/z", false),
            ("a/c", false),
            ("d", true),
            ("d/s/z", true),
            ("e", false),
            ("y", false),
        ] {
            assert_eq!(origins.holds(&path(name)), held, "{name}");
        }
        let flies = |new: &RelPath| *new == path("y");
        assert!(origins.feeds(&path("a"), flies) && !origins.feeds(&path("d"), flies));
        assert_eq!(origins.end(&path("y")), [path("a/b/x")]);
        assert!(!origins.holds(&path("a")));
    }

    #[test]
    fn both_ends_follow_what_moves() {
        let now = Instant::now();
        let begin = || {
            let mut origins = Origins::default();
            origins.note(&path("new/y"), &path("old/x"), false, now);
            origins
        };
        let mut origins = begin();
        origins.renamed(&path("new"), &path("n"), true);
        assert_eq!(names(&origins, "n/y"), ["old/x"]);
        origins.renamed(&path("old"), &path("o"), true);
        assert_eq!(names(&origins, "n/y"), ["old/x", "o/x"], "whether it is renamed yet or not");
        assert!(origins.holds(&path("o")) && origins.holds(&path("old")));
        let mut origins = begin();
        // It came back to where it was.
        assert_eq!(origins.renamed(&path("new/y"), &path("old/x"), false), [path("old/x")]);
        assert!(origins.is_empty() && origins.by_old.is_empty());
        let mut origins = begin();
        assert_eq!(origins.renamed(&path("old"), &path("o"), false), []);
        assert_eq!(names(&origins, "new/y"), ["old/x"], "the target was not told");
        assert_eq!(origins.renamed(&path("z"), &path("new/y"), true), [path("old/x")]);
        assert!(origins.is_empty() && origins.by_old.is_empty(), "another thing stands there now");
    }

    #[test]
    fn nothing_is_held_for_ever() {
        let now = Instant::now();
        let mut origins = Origins::default();
        for name in ["flying", "settled", "waiting"] {
            origins.note(&path(name), &path(&format!("old-{name}")), false, now);
        }
        assert_eq!(origins.next(), Some(now + LOOK_EVERY));
        let sweep = |origins: &mut Origins, when| {
            let flies = |new: &RelPath| *new == path("flying");
            origins.sweep(when, flies, |new, _| *new == path("settled"))
        };
        assert_eq!(sweep(&mut origins, now), [path("old-settled")]);
        origins.begin(now + WAIT_MAX);
        assert_eq!(sweep(&mut origins, now + WAIT_MAX), []);
        assert_eq!(sweep(&mut origins, now + WAIT_MAX * 2), [path("old-waiting")]);
        assert_eq!(origins.next(), Some(now + WAIT_MAX * 2 + LOOK_EVERY));
        assert_eq!(origins.end(&path("flying")), [path("old-flying")]);
        assert_eq!(sweep(&mut origins, now + WAIT_MAX * 3), []);
        assert_eq!(origins.next(), None);
    }
}
