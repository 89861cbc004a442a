//! Which delays stand at a path, above it or beneath it: the newest of them, without a scan.
//!
//! Each directory that a queued path lies in knows all positions at or beneath it. That costs one
//! entry a component, and the answers are one look-up a component.

use std::collections::{BTreeSet, HashMap};

use lsync_protocol::path::RelPath;

use super::{Change, Position};

#[derive(Debug, Default)]
struct Names {
    /// Delays of this very name.
    here: BTreeSet<Position>,
    /// Delays of this name and of all beneath it.
    under: BTreeSet<Position>,
}

/// Positions by path.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: HashMap<Box<[u8]>, Names>,
}

/// The root, every directory above the path, and the path itself.
fn down_to(path: &RelPath) -> impl Iterator<Item = &[u8]> {
    let bytes = path.as_bytes();
    let above = bytes.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| &bytes[..at]);
    let root = (!bytes.is_empty()).then_some(&bytes[..0]);
    root.into_iter().chain(above).chain(std::iter::once(bytes))
}

impl Index {
    /// The newest delay before `below` that stands at the path, above it, or beneath it.
    pub(super) fn newest(&self, path: &RelPath, below: Position) -> Option<Position> {
        let whole = path.as_bytes().len();
        down_to(path)
            .filter_map(|name| {
                let names = self.names.get(name)?;
                let set = if name.len() == whole { &names.under } else { &names.here };
                set.range(..below).next_back().copied()
            })
            .max()
    }

    /// A delay stands at the paths of this change.
    pub(super) fn add(&mut self, change: &Change, position: Position) {
        if !change.has_places() {
            return;
        }
        for place in change.places() {
            let whole = place.path.as_bytes().len();
            for name in down_to(&place.path) {
                if !self.names.contains_key(name) {
                    self.names.insert(name.into(), Names::default());
                }
                if let Some(names) = self.names.get_mut(name) {
                    names.under.insert(position);
                    if name.len() == whole {
                        names.here.insert(position);
                    }
                }
            }
        }
    }

    /// It does not any more.
    pub(super) fn remove(&mut self, change: &Change, position: Position) {
        if !change.has_places() {
            return;
        }
        for place in change.places() {
            for name in down_to(&place.path) {
                if let Some(names) = self.names.get_mut(name) {
                    names.under.remove(&position);
                    names.here.remove(&position);
                    if names.under.is_empty() {
                        self.names.remove(name);
                    }
                }
            }
        }
    }

    /// How many names it knows.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}
