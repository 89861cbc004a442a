//! Looks: what stands now at the paths of a batch.

use std::collections::{BTreeMap, BTreeSet};

use lsync_agent::read;
use lsync_agent::root::Root;
use lsync_agent::walk;
use lsync_protocol::entry::{Entry, Kind};
use lsync_protocol::path::RelPath;

use super::rules::Above;
use super::{RootTrouble, Source};
use crate::collate::{Batch, Follow, Marks, Step};
use crate::error::plain;
use crate::plan::{Absent, Look, Looked};

/// How many names of new directories are taken along with a batch; what is beyond is walked.
const ALONG_MAX: usize = 4096;

impl Source {
    /// Looks at everything a batch speaks of.
    ///
    /// # Errors
    /// The root is not the root any more; then nothing that was seen counts.
    pub fn look(&self, batch: &Batch) -> Result<Looked, RootTrouble> {
        let root = self.root()?;
        let mut looked = Looked::default();
        let mut above = Above::new(self, &root);
        let mut parents = BTreeSet::new();
        let finals = Follow::new(&batch.steps).finals();
        for (step, last) in batch.steps.iter().zip(finals) {
            let look = match step {
                Step::Rename { from, to, .. } => {
                    let judged = above.read(from).and(above.read(to));
                    above.heard(from);
                    above.heard(to);
                    parents.extend(from.parent());
                    parents.extend(to.parent());
                    last.map(|path| match &judged {
                        Ok(()) => self.look_at(&root, &path),
                        Err(why) => Look::Unknown(format!("cannot be judged: {why}")),
                    })
                }
                Step::Clear { path, .. } => {
                    let _ = above.read(path);
                    above.heard(path);
                    parents.extend(path.parent());
                    None
                }
            };
            looked.steps.push((step.clone(), look));
        }
        let mut along = ALONG_MAX;
        let batch_paths: BTreeSet<&RelPath> = batch.paths.iter().map(|(path, ..)| path).collect();
        let mut more = Vec::new();
        for (path, marks, first) in &batch.paths {
            let (path, mut marks, first) = (path.clone(), *marks, *first);
            let judged = above.read(&path);
            let rules = above.heard(&path);
            if let Err(why) = judged {
                if rules {
                    // Its directory fails as a whole.
                    looked.excluded.push(path);
                } else {
                    let look = Look::Unknown(format!("cannot be judged: {why}"));
                    looked.paths.push((path, marks, first, look));
                }
                continue;
            }
            let look = self.look_at(&root, &path);
            if look.is_no_dir() {
                self.filter.forget(&path);
            }
            let scoped = match &look {
                Look::Here(entry) => self.in_scope(&path, entry.kind, entry.size),
                _ => self.filter.verdict_deep(&path, marks.has(Marks::DIR)).sent,
            };
            if !scoped {
                // It is not mirrored, but that it came or went gave its directory another time.
                let known = |dir: &RelPath| self.filter.verdict_deep(dir, true).sent;
                if marks.has(Marks::NAME)
                    && let Some(dir) = path.parent().filter(known)
                {
                    looked.retimed.insert(dir.clone());
                    parents.insert(dir);
                }
                looked.excluded.push(path);
                continue;
            }
            parents.extend(path.parent());
            if let Look::Here(entry) = &look
                && entry.kind == Kind::Dir
                && marks.has(Marks::WHOLE)
            {
                let mut found = Vec::new();
                // It is watched from there on only: its attributes are looked at once more.
                parents.insert(path.clone());
                if self.along(&mut above, &path, &batch_paths, &mut along, &mut found) {
                    marks = marks.without(Marks::WHOLE);
                }
                more.extend(
                    found.into_iter().map(|(path, marks, look)| (path, marks, first, look)),
                );
            }
            looked.paths.push((path, marks, first, look));
        }
        if !more.is_empty() {
            parents.extend(more.iter().filter_map(|(path, ..)| path.parent()));
            let dir = |look: &Look| matches!(look, Look::Here(entry) if entry.kind == Kind::Dir);
            parents
                .extend(more.iter().filter(|(.., look)| dir(look)).map(|(path, ..)| path.clone()));
            looked.paths.extend(more);
            looked.paths.sort_by(|a, b| a.0.cmp(&b.0));
            looked.paths.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    earlier.1 = earlier.1.with(later.1);
                }
                same
            });
        }
        // A name in the root went, or made room: is anything left there?
        let gone = looked.paths.iter().filter(|(.., look)| *look == Look::Missing);
        let cleared = batch.steps.iter().filter_map(|step| match step {
            Step::Clear { path, .. } => Some(path),
            Step::Rename { .. } => None,
        });
        if gone.map(|(path, ..)| path).chain(cleared).any(|path| path.depth() == 1) {
            looked.root_empty = walk::list(&root, &RelPath::root()).is_ok_and(|listing| {
                let listing = self.scoped(RelPath::root(), listing);
                listing.entries.is_empty() && listing.unknown.is_empty() && listing.kept.is_empty()
            });
        }
        looked.parents = parents
            .into_iter()
            .map(|path| {
                let look = self.look_at(&root, &path);
                (path, look)
            })
            .collect::<BTreeMap<_, _>>();
        looked.rules = above.told();
        let here = |dir: &RelPath| matches!(self.look_at(&root, dir), Look::Here(entry) if entry.kind == Kind::Dir);
        looked.rules.changed.retain(here);
        self.still(&root)?;
        Ok(looked)
    }

    /// Which of these names are missing.
    ///
    /// # Errors
    /// The root is not the root any more.
    pub fn absent(&self, paths: Vec<(RelPath, Kind)>) -> Result<Absent, RootTrouble> {
        let root = self.root()?;
        let mut absent = Absent::default();
        let mut above = Above::new(self, &root);
        for (path, kind) in paths {
            if let Err(why) = above.read(&path) {
                absent.unknown.push((path, format!("cannot be judged: {why}")));
                continue;
            }
            match self.look_at(&root, &path) {
                // Rules may have come since it was found to be missing.
                Look::Missing
                    if self.filter.reads_directories()
                        && !self.filter.verdict(&path, kind == Kind::Dir).deletable_with_dir => {}
                Look::Missing => absent.missing.push((path, kind)),
                // What the rules keep from the target is not there for it: `--delete-excluded`.
                Look::Here(entry) => {
                    let verdict = self.filter.verdict_deep(&path, entry.kind == Kind::Dir);
                    if !verdict.sent && verdict.deletable {
                        absent.missing.push((path, kind));
                    }
                }
                Look::Unknown(why) => absent.unknown.push((path, why)),
            }
        }
        self.still(&root)?;
        Ok(absent)
    }

    fn look_at(&self, root: &Root, path: &RelPath) -> Look {
        match read::look(root, path) {
            Ok(Some(entry)) => Look::Here(entry),
            Ok(None) if self.mount_gone(root, path) => {
                Look::Unknown("the file system that was mounted here is gone".to_owned())
            }
            Ok(None) => Look::Missing,
            Err(error) => {
                Look::Unknown(format!("cannot be looked at: {}", plain(&error.to_string())))
            }
        }
    }

    /// Is the root still what it was when the looks began? Only then was anything missing.
    fn still(&self, root: &Root) -> Result<(), RootTrouble> {
        match root.same_as(&self.path) {
            Ok(true) => Ok(()),
            _ => self.check(false).map(drop),
        }
    }

    /// What is in a new directory goes along with it: no listing of the target is needed to know
    /// that it is new there. Each directory is watched before it is read. Says whether everything
    /// was taken along.
    fn along(
        &self,
        above: &mut Above<'_>,
        dir: &RelPath,
        known: &BTreeSet<&RelPath>,
        room: &mut usize,
        found: &mut Vec<(RelPath, Marks, Look)>,
    ) -> bool {
        let root = above.root();
        let mut dirs = vec![dir.clone()];
        while let Some(dir) = dirs.pop() {
            if let Some(watcher) = self.watcher.get() {
                let watched = root
                    .open_dir(&dir)
                    .map(|fd| watcher.enter(&dir, std::os::fd::AsFd::as_fd(&fd)));
                if !matches!(watched, Ok(Ok(()))) {
                    return false;
                }
            }
            // A walk says what is wrong with its rules.
            if above.dir(&dir).is_err() {
                return false;
            }
            let Ok(listing) = walk::list(root, &dir) else { return false };
            if listing.facts.mount_root || !listing.unknown.is_empty() {
                return false;
            }
            if listing.entries.len() > *room {
                return false;
            }
            for named in listing.entries {
                let Ok(path) = dir.join(&named.name) else { continue };
                let entry: Entry = named.entry;
                if !self.in_scope(&path, entry.kind, entry.size) {
                    continue;
                }
                *room -= 1;
                let mut marks = Marks::NAME.with(Marks::CONTENT);
                if entry.kind == Kind::Dir {
                    marks = Marks::NAME.with(Marks::DIR);
                    dirs.push(path.clone());
                }
                if !known.contains(&path) || entry.kind == Kind::Dir {
                    found.push((path, marks, Look::Here(entry)));
                }
            }
        }
        true
    }
}
