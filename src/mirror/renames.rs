//! Renames on the source: everything that is known by the old name follows to the new one.

use std::time::Instant;

use lsync_protocol::path::RelPath;

use super::Mirror;
use super::flights::is_small_content;
use super::live::GRACE;
use crate::collate::{Follow, Marks, Step};
use crate::plan::{Look, Looked};
use crate::watch::WatchEvent;

impl Mirror {
    /// Renames are remembered for a while, and for as long as a look at older names is on its way.
    pub(super) fn forget_moved(&mut self, now: Instant) {
        let since = self.looks.front().map(|asked| asked.since);
        if !self.moved.forget(since, now) {
            // What that look will say cannot be told from what the names mean by then.
            self.walk_due(RelPath::root(), false, now);
        }
    }

    /// A name moved on the source: everything that is known by it follows.
    pub(super) fn renamed(
        &mut self,
        from: &RelPath,
        to: &RelPath,
        dir: bool,
        event: &WatchEvent,
        now: Instant,
    ) {
        // Where the rules tell the names apart it is not one thing that moved.
        if !self.rules.filter.is_empty() {
            let filter = &self.rules.filter;
            let sent = |path| filter.verdict_deep(path, dir).sent;
            let (old, new) = (sent(from), sent(to));
            let rules = |path| !dir && filter.is_rule_file(path);
            if !(old && new) || self.rules_are_pending(to) {
                // What is not mirrored may be read for its rules nevertheless.
                let (old, new) = (old || rules(from), new || rules(to));
                filter.forget(from);
                if old {
                    self.link_gone(from, now);
                    self.collate.note(&WatchEvent::Gone { path: from.clone(), dir }, now);
                    self.cancel_content(from, now);
                }
                if new {
                    self.link_gone(to, now);
                    self.collate.note(&WatchEvent::Appeared { path: to.clone(), dir }, now);
                }
                return;
            }
        }
        if dir {
            self.rules.filter.renamed(from, to);
        }
        self.moved.note(from, to, dir, now);
        let loose = self.links.renamed(from, to);
        self.links_loose(loose, now);
        self.forget_moved(now);
        self.cancel_content(to, now);
        // What had come and not left yet is not on the target.
        let came = self.collate.marks(from).is_some_and(|marks| marks.has(Marks::NAME));
        self.collate.note(event, now);
        let told = self.collate.tells(from, to);
        let small = |(at, id): &(RelPath, _)| {
            let flight = self.flights.get(*id);
            at == from && flight.is_some_and(|flight| is_small_content(&flight.op))
        };
        if told
            && !dir
            && (self.recent.has(from, now) || self.flights.contents_under(from).iter().any(small))
        {
            self.collate.mark(to, Marks::CONTENT.with(Marks::WRITTEN), now);
        }
        self.recent.renamed(from, to);
        let known = !self.origins.of(from).is_empty();
        let olds = self.origins.renamed(from, to, told);
        self.let_go(&olds, now);
        if !told && (known || !came) {
            self.origins.note(to, from, dir, now);
        }
        // What is being looked at under its old name will seem to be missing.
        let looking: Vec<RelPath> = self
            .looking
            .range(from.clone()..)
            .take_while(|path| path.is_at_or_under(from))
            .cloned()
            .collect();
        for path in looking {
            if let Some(moved) = path.moved(from, to) {
                let marks = Marks::NAME.with(Marks::CONTENT);
                let marks = if dir { marks.with(Marks::TREE) } else { marks };
                self.collate.mark(&moved, marks, now);
                // The target may refuse the rename: what it has is as the file was before.
                if !self.looked_at(&path).any(|marks| marks.has(Marks::NAME)) {
                    self.origins.note(&moved, &path, false, now);
                }
            }
        }
        // The new name stands for what was not finished under the old one.
        let walked = self.walk.as_ref().is_some_and(|w| w.touches(from) || w.touches(to))
            || self.walks_due.covers(from)
            || self.walks_due.any_under(from);
        let rules = dir && !self.rules.filter.is_empty();
        let failed = self.problems.under(from) || self.problems.above(from).is_some();
        let clearing = self.clearings.busy(from) || self.clearings.busy(to);
        let above = self.tree_above(from);
        if walked || rules || failed || clearing || above.has(Marks::TREE) {
            let marks = if dir {
                Marks::NAME.with(Marks::DIR).with(Marks::TREE).with(above)
            } else {
                Marks::NAME.with(Marks::CONTENT)
            };
            self.collate.on_behalf_of(self.flushes.since());
            self.collate.mark(to, marks, now);
            self.collate.on_behalf_of(None);
        }
        self.walks_due.renamed(from, to);
        // What is being removed under its old name had only moved.
        for path in self.flights.renamed(from, to) {
            self.collate.mark(&path, Marks::NAME.with(Marks::CONTENT).with(Marks::TREE), now);
        }
        self.problems.renamed(from, to);
    }

    /// Is it not known yet what the directories above this name say of what is in them?
    fn rules_are_pending(&self, path: &RelPath) -> bool {
        let filter = &self.rules.filter;
        if !filter.reads_directories() {
            return false;
        }
        let is_dirty = |path: &RelPath| {
            let came = |marks: Marks| marks.has(Marks::NAME) || marks.has(Marks::TREE);
            self.collate.marks(path).is_some_and(came) || self.looked_at(path).any(came)
        };
        let mut at = path.parent();
        while let Some(dir) = at {
            let mut files = filter.rule_files().into_iter().filter_map(|name| dir.join(name).ok());
            if files.any(|file| self.is_to_be_read(&file)) || (!dir.is_root() && is_dirty(&dir)) {
                return true;
            }
            at = dir.parent();
        }
        false
    }

    fn is_to_be_read(&self, file: &RelPath) -> bool {
        self.collate.marks(file).is_some() || self.looking.contains(file)
    }

    /// The marks with which this path is being looked at.
    fn looked_at(&self, path: &RelPath) -> impl Iterator<Item = Marks> {
        self.looks.iter().filter_map(move |asked| {
            let paths = &asked.batch.paths;
            let at = paths.binary_search_by(|(at, ..)| at.cmp(path)).ok()?;
            Some(paths[at].1)
        })
    }

    /// Is a directory above this name dirty as a whole, and how? Then what is at the name need not
    /// be on the target yet.
    pub(super) fn tree_above(&self, path: &RelPath) -> Marks {
        let mut whole = Marks::default();
        let mut at = path.parent();
        while let Some(dir) = at {
            let looking = self.looked_at(&dir);
            whole = looking.chain(self.collate.marks(&dir)).fold(whole, Marks::with);
            at = dir.parent();
        }
        whole.only(Marks::TREE.with(Marks::WHOLE))
    }

    /// Directories in which names came or went, and that are called differently by now: they get
    /// their attributes under their new names.
    pub(super) fn mark_moved_parents(&mut self, looked: &Looked, since: u64, now: Instant) {
        let steps = || looked.steps.iter().map(|(step, _)| step);
        let follow = Follow::new(steps());
        for (at, step) in steps().enumerate() {
            let Step::Rename { from, to, .. } = step else { continue };
            for dir in [from.parent(), to.parent()].into_iter().flatten() {
                let last = self.moved.follow(follow.name(&dir, at + 1), since);
                if last != dir {
                    self.collate.mark(&last, Marks::META, now);
                } else if looked.parents.get(&dir) == Some(&Look::Missing)
                    && looked.paths.binary_search_by(|(path, ..)| path.cmp(&dir)).is_err()
                {
                    self.collate.mark_at(&dir, Marks::META, now, now + GRACE);
                }
            }
        }
    }
}
