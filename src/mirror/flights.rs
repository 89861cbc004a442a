//! Operations on their way: known by id and by path, so that an ack finds its path also after a
//! rename, and a path never has two operations in flight.

use std::collections::BTreeMap;
use std::time::Instant;

use lsync_protocol::message::OpId;
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
}

/// All operations in flight.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    by_id: BTreeMap<OpId, Flight>,
    by_path: BTreeMap<RelPath, OpId>,
    walk: usize,
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

    /// When the oldest change in flight was first heard of.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.by_id.values().map(|flight| flight.first).min()
    }

    /// Does an operation on this path's content or name fly? Attributes of directories do not
    /// count: they are idempotent and any number may fly.
    pub(crate) fn busy(&self, path: &RelPath) -> bool {
        self.by_path.contains_key(path)
    }

    pub(crate) fn insert(&mut self, id: OpId, flight: Flight) {
        self.walk += usize::from(flight.cause == Cause::Walk);
        if !matches!(flight.op, Planned::Dir { .. }) {
            if let Planned::Rename { from, .. } = &flight.op {
                self.by_path.insert(from.clone(), id);
            }
            self.by_path.insert(flight.op.path().clone(), id);
        }
        self.by_id.insert(id, flight);
    }

    pub(crate) fn remove(&mut self, id: OpId) -> Option<Flight> {
        let flight = self.by_id.remove(&id)?;
        self.walk -= usize::from(flight.cause == Cause::Walk);
        self.forget(flight.op.path(), id);
        if let Planned::Rename { from, .. } = &flight.op {
            self.forget(from, id);
        }
        Some(flight)
    }

    fn forget(&mut self, path: &RelPath, id: OpId) {
        if self.by_path.get(path) == Some(&id) {
            self.by_path.remove(path);
        }
    }

    /// An operation goes on under another number; its path of now.
    pub(crate) fn renumber(&mut self, old: OpId, new: OpId) -> Option<RelPath> {
        let flight = self.remove(old)?;
        let path = flight.op.path().clone();
        self.insert(new, flight);
        Some(path)
    }

    /// The operation in flight on this path.
    pub(crate) fn at(&self, path: &RelPath) -> Option<(OpId, &Flight)> {
        let id = *self.by_path.get(path)?;
        Some((id, self.by_id.get(&id)?))
    }

    /// Those of `count` numbers from `first` on that fly.
    pub(crate) fn ids(&self, first: OpId, count: u64) -> Vec<OpId> {
        self.by_id.range(first..first.saturating_add(count)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn get(&self, id: OpId) -> Option<&Flight> {
        self.by_id.get(&id)
    }

    /// All of them, as after a broken link.
    pub(crate) fn drain(&mut self) -> Vec<Flight> {
        self.by_path.clear();
        self.walk = 0;
        std::mem::take(&mut self.by_id).into_values().collect()
    }

    /// Do any fly at or under this path?
    pub(crate) fn under(&self, dir: &RelPath) -> bool {
        self.by_path.range(dir.clone()..).next().is_some_and(|(path, _)| path.is_at_or_under(dir))
    }

    /// A name moved on the source: what flies beneath it is now known by the new name.
    pub(crate) fn renamed(&mut self, from: &RelPath, to: &RelPath) {
        let ids: Vec<(RelPath, OpId)> = self
            .by_path
            .range(from.clone()..)
            .take_while(|(path, _)| path.is_at_or_under(from))
            .map(|(path, id)| (path.clone(), *id))
            .collect();
        for (path, id) in ids {
            self.by_path.remove(&path);
            let Some(moved) = path.moved(from, to) else { continue };
            if let Some(flight) = self.by_id.get_mut(&id) {
                rewrite(&mut flight.op, &path, &moved);
            }
            self.by_path.insert(moved, id);
        }
    }
}

/// Replaces one path of an operation.
fn rewrite(op: &mut Planned, old: &RelPath, new: &RelPath) {
    match op {
        Planned::MakeDir { path, .. }
        | Planned::Content { path, .. }
        | Planned::Symlink { path, .. }
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
    use lsync_protocol::entry::Kind;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_ack_finds_its_path_after_a_rename() {
        let mut flights = Flights::default();
        let op = Planned::Remove { path: path("a/x"), kind: Kind::File };
        flights.insert(1, Flight { op, cause: Cause::Live, first: Instant::now() });
        flights.renamed(&path("a"), &path("b"));
        assert!(flights.busy(&path("b/x")) && !flights.busy(&path("a/x")));
        assert!(flights.under(&path("b")) && !flights.under(&path("a")));
        let flight = flights.remove(1).unwrap();
        assert_eq!(flight.op.path(), &path("b/x"));
        assert!(flights.is_empty() && !flights.busy(&path("b/x")));
    }

    #[test]
    fn a_rename_keeps_both_names_busy() {
        let mut flights = Flights::default();
        let op = Planned::Rename {
            from: path("a"),
            to: path("b"),
            kind: Kind::File,
            size: None,
            mtime: None,
        };
        flights.insert(1, Flight { op, cause: Cause::Walk, first: Instant::now() });
        assert!(flights.busy(&path("a")) && flights.busy(&path("b")));
        assert_eq!(flights.of_walk(), 1);
        flights.renamed(&path("b"), &path("c"));
        assert!(flights.busy(&path("c")));
        assert_eq!(flights.drain().len(), 1);
        assert_eq!((flights.len(), flights.of_walk()), (0, 0));
    }
}
