//! Operations on their way: known by id and by path, so that an ack finds its path also after a
//! rename, and a path never has two operations in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use lsync_protocol::entry::Kind;
use lsync_protocol::message::{INLINE_MAX, OpId};
use lsync_protocol::path::RelPath;

use crate::plan::Planned;

/// Why an operation was sent, and so what its end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A live change.
    Live,
    /// Found by the walk that is running.
    Walk,
    /// One of several removals that clear this directory (the key of the clearing).
    Clearing(u64),
}

/// One operation in flight.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    /// What was sent. Its paths are those of now: renames rewrite them.
    pub(crate) op: Planned,
    /// Why.
    pub(crate) cause: Cause,
    /// When the change was first heard of.
    pub(crate) first: Instant,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// How often a directory was cleared for it.
    pub(crate) cleared: u32,
}

/// All operations in flight.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    by_id: BTreeMap<OpId, Flight>,
    /// Of all but attributes of directories. A rename joins what flies under its names already.
    by_path: BTreeSet<(RelPath, OpId)>,
    /// Names under which content was sent that is called differently by now: it may be read only
    /// now, and what is read is what stands there by then.
    sent_as: BTreeSet<(RelPath, OpId)>,
    /// The same, by operation.
    sent_names: BTreeMap<OpId, Vec<RelPath>>,
    walk: usize,
    /// Those that rename directories.
    dir_renames: BTreeSet<OpId>,
    /// Those that bring or take names, but for large contents: their names are given later.
    names: BTreeSet<OpId>,
}

impl Flights {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many come from the running walk.
    pub(crate) fn of_walk(&self) -> usize {
        self.walk
    }

    /// Does a rename of a directory fly that was sent before this number?
    pub(crate) fn moves_dirs_before(&self, id: OpId) -> bool {
        self.dir_renames.first().is_some_and(|first| *first < id)
    }

    /// Does anything fly that brings or takes a name and was sent before this number?
    pub(crate) fn names_before(&self, id: OpId) -> bool {
        self.names.first().is_some_and(|first| *first < id)
    }

    /// When the oldest change in flight was first heard of.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.by_id.values().map(|flight| flight.first).min()
    }

    /// Does an operation on this path's content or name fly? Attributes of directories do not
    /// count: they are idempotent and any number may fly.
    pub(crate) fn busy(&self, path: &RelPath) -> bool {
        self.at(path).is_some()
    }

    /// Is this name being removed?
    pub(crate) fn removes(&self, path: &RelPath) -> bool {
        let flight = self.at(path).and_then(|id| self.by_id.get(&id));
        flight.is_some_and(|flight| matches!(flight.op, Planned::Remove { .. }))
    }

    pub(crate) fn insert(&mut self, id: OpId, flight: Flight) {
        self.walk += usize::from(flight.cause == Cause::Walk);
        if matches!(flight.op, Planned::Rename { kind: Kind::Dir, .. }) {
            self.dir_renames.insert(id);
        }
        if !matches!(flight.op, Planned::Dir { .. } | Planned::Meta { .. })
            && flight.op.content() <= INLINE_MAX
        {
            self.names.insert(id);
        }
        if !matches!(flight.op, Planned::Dir { .. }) {
            if let Planned::Rename { from, .. } = &flight.op {
                self.by_path.insert((from.clone(), id));
            }
            self.by_path.insert((flight.op.path().clone(), id));
        }
        self.by_id.insert(id, flight);
    }

    pub(crate) fn remove(&mut self, id: OpId) -> Option<Flight> {
        let flight = self.by_id.remove(&id)?;
        self.walk -= usize::from(flight.cause == Cause::Walk);
        self.dir_renames.remove(&id);
        self.names.remove(&id);
        self.by_path.remove(&(flight.op.path().clone(), id));
        if let Planned::Rename { from, .. } = &flight.op {
            self.by_path.remove(&(from.clone(), id));
        }
        for name in self.sent_names.remove(&id).unwrap_or_default() {
            self.sent_as.remove(&(name, id));
        }
        Some(flight)
    }

    /// The first operation in flight on this path.
    fn at(&self, path: &RelPath) -> Option<OpId> {
        let (at, id) = self.by_path.range((path.clone(), 0)..).next()?;
        (at == path).then_some(*id)
    }

    /// An operation goes on under another number; its path of now.
    pub(crate) fn renumber(&mut self, old: OpId, new: OpId) -> Option<RelPath> {
        let names = self.sent_names.remove(&old).unwrap_or_default();
        for name in &names {
            self.sent_as.remove(&(name.clone(), old));
        }
        let flight = self.remove(old)?;
        let path = flight.op.path().clone();
        self.insert(new, flight);
        if !names.is_empty() {
            self.sent_as.extend(names.iter().map(|name| (name.clone(), new)));
            self.sent_names.insert(new, names);
        }
        Some(path)
    }

    /// Contents in flight at or under this path.
    pub(crate) fn contents_under(&self, dir: &RelPath) -> Vec<(RelPath, OpId)> {
        self.names_under(dir)
            .filter(|(_, id)| self.by_id.get(id).is_some_and(|flight| is_content(&flight.op)))
            .cloned()
            .collect()
    }

    /// A name came up at this path: contents that were sent under it, or under a name beneath it,
    /// and that are called differently now.
    pub(crate) fn reused(&self, path: &RelPath) -> Vec<RelPath> {
        self.sent_as
            .range((path.clone(), 0)..)
            .take_while(|(old, _)| old.is_at_or_under(path))
            .filter_map(|(_, id)| Some(self.by_id.get(id)?.op.path().clone()))
            .collect()
    }

    fn names_under(&self, dir: &RelPath) -> impl Iterator<Item = &(RelPath, OpId)> {
        self.by_path.range((dir.clone(), 0)..).take_while(|(path, _)| path.is_at_or_under(dir))
    }

    /// Those of `count` numbers from `first` on that fly.
    pub(crate) fn ids(&self, first: OpId, count: u64) -> Vec<OpId> {
        self.by_id.range(first..first.saturating_add(count)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn get(&self, id: OpId) -> Option<&Flight> {
        self.by_id.get(&id)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Flight> {
        self.by_id.values()
    }

    /// All of them, as after a broken link.
    pub(crate) fn drain(&mut self) -> Vec<Flight> {
        self.by_path.clear();
        self.sent_as.clear();
        self.sent_names.clear();
        self.dir_renames.clear();
        self.names.clear();
        self.walk = 0;
        std::mem::take(&mut self.by_id).into_values().collect()
    }

    /// A name moved on the source: what flies beneath it is now known by the new name. Says the
    /// new names of what is being removed.
    pub(crate) fn renamed(&mut self, from: &RelPath, to: &RelPath) -> Vec<RelPath> {
        self.renamed_since(0, from, to)
    }

    /// The same, for operations of these numbers and later: a rename leaves together with earlier
    /// steps, which still bear the names of then.
    pub(crate) fn renamed_since(
        &mut self,
        first: OpId,
        from: &RelPath,
        to: &RelPath,
    ) -> Vec<RelPath> {
        let mut removes = Vec::new();
        let names: Vec<(RelPath, OpId)> =
            self.names_under(from).filter(|(_, id)| *id >= first).cloned().collect();
        for name in names {
            if let Some(moved) = name.0.moved(from, to) {
                if self.get(name.1).is_some_and(|f| matches!(f.op, Planned::Remove { .. })) {
                    removes.push(moved.clone());
                }
                self.rename(name, moved);
            } else {
                self.by_path.remove(&name);
            }
        }
        removes
    }

    /// Operations of this number and later were sent by names that were right a moment ago; `now`
    /// says what they are called by now.
    pub(crate) fn follow(&mut self, first: OpId, now: impl Fn(&RelPath) -> RelPath) {
        let late: Vec<(RelPath, OpId)> =
            self.by_path.iter().filter(|(_, id)| *id >= first).cloned().collect();
        for name in late {
            let moved = now(&name.0);
            if moved != name.0 {
                self.rename(name, moved);
            }
        }
    }

    /// The same for both names of renames alone.
    pub(crate) fn follow_renames(&mut self, first: OpId, now: impl Fn(&RelPath) -> RelPath) {
        let renames = self.by_id.range(first..).flat_map(|(id, flight)| match &flight.op {
            Planned::Rename { from, to, .. } => vec![(from.clone(), *id), (to.clone(), *id)],
            _ => Vec::new(),
        });
        for name in renames.collect::<Vec<_>>() {
            let moved = now(&name.0);
            if moved != name.0 {
                self.rename(name, moved);
            }
        }
    }

    fn rename(&mut self, (path, id): (RelPath, OpId), moved: RelPath) {
        self.by_path.remove(&(path.clone(), id));
        if let Some(flight) = self.by_id.get_mut(&id) {
            rewrite(&mut flight.op, &path, &moved);
            if is_content(&flight.op) {
                self.sent_names.entry(id).or_default().push(path.clone());
                self.sent_as.insert((path, id));
            }
        }
        self.by_path.insert((moved, id));
    }
}

/// Does it bring content that is read when it is built?
pub(super) fn is_content(op: &Planned) -> bool {
    match op {
        Planned::Content { .. } => true,
        Planned::Replace { new, .. } => is_content(new),
        _ => false,
    }
}

/// Does it bring the content of a small file?
pub(super) fn is_small_content(op: &Planned) -> bool {
    is_content(op) && op.content() <= INLINE_MAX
}

/// Replaces one path of an operation.
fn rewrite(op: &mut Planned, old: &RelPath, new: &RelPath) {
    match op {
        Planned::MakeDir { path, .. }
        | Planned::Content { path, .. }
        | Planned::Symlink { path, .. }
        | Planned::Special { path, .. }
        | Planned::Link { path, .. }
        | Planned::Meta { path, .. }
        | Planned::Dir { path, .. }
        | Planned::Remove { path, .. } => path.clone_from(new),
        Planned::Rename { from, to, .. } => {
            if from == old {
                from.clone_from(new);
            }
            if to == old {
                to.clone_from(new);
            }
        }
        Planned::Replace { new: inner, .. } => rewrite(inner, old, new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_ack_finds_its_path_after_a_rename() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        let op = Planned::Remove { path: path("a/x"), kind: Kind::File };
        flights.insert(1, Flight { op, cause: Cause::Live, first: now, sent: now, cleared: 0 });
        flights.renamed(&path("a"), &path("b"));
        assert!(flights.busy(&path("b/x")) && !flights.busy(&path("a/x")));
        let flight = flights.remove(1).unwrap();
        assert_eq!(flight.op.path(), &path("b/x"));
        assert!(flights.is_empty() && !flights.busy(&path("b/x")));
    }

    #[test]
    fn a_rename_keeps_both_names_busy() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        let op = Planned::Rename {
            from: path("a"),
            to: path("b"),
            kind: Kind::File,
            size: None,
            mtime: None,
        };
        flights.insert(1, Flight { op, cause: Cause::Walk, first: now, sent: now, cleared: 0 });
        assert!(flights.busy(&path("a")) && flights.busy(&path("b")));
        assert_eq!(flights.of_walk(), 1);
        flights.renamed(&path("b"), &path("c"));
        assert!(flights.busy(&path("c")));
        assert_eq!(flights.drain().len(), 1);
        assert_eq!((flights.len(), flights.of_walk()), (0, 0));
    }
}
