//! What a mirror has still to do, and how it stands, for those who ask.

use std::time::Instant;

use super::due::sooner;
use super::steer::Stand;
use super::{Mirror, RootTrouble};
use crate::collate::{Collate, Marks, Step};
use crate::metrics;
use lsync_protocol::path::RelPath;

/// No more lines are made: a list of more serves nobody.
pub(super) const MOST: usize = 10_000;

/// What a mirror has still to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    /// How many paths are dirty or in flight.
    pub count: u64,
    /// The first mirror is complete.
    pub ready: bool,
    /// The first of them: those in flight, then those that wait.
    pub lines: Vec<PendingLine>,
}

/// One path that waits or is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingLine {
    /// It is on its way.
    pub active: bool,
    /// What happens to it.
    pub what: metrics::Step,
}

impl Mirror {
    /// What is still to be done.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let flights = self.flights.all().map(|flight| (true, super::run::step(&flight.op)));
        let lines = flights.chain(waiting(&self.collate)).take(MOST);
        Pending {
            count: self.dirty() as u64,
            ready: self.is_ready(),
            lines: lines.map(|(active, what)| PendingLine { active, what }).collect(),
        }
    }

    /// What it does, in a word.
    #[must_use]
    pub fn stand(&self) -> Stand {
        if self.paused {
            Stand::Paused
        } else if self.waiting.is_some() {
            Stand::Waiting
        } else if self.held.is_none() {
            Stand::Connecting
        } else if self.halted.is_some() {
            Stand::Halted
        } else if self.ready {
            Stand::Live
        } else {
            Stand::Mirroring
        }
    }

    /// What is the matter with the source's root, if it is waited for.
    #[must_use]
    pub fn root_trouble(&self) -> Option<RootTrouble> {
        self.waiting
    }

    /// Operations on their way, and the bytes of content in them.
    #[must_use]
    pub fn in_flight(&self) -> (u64, u64) {
        let bytes = self.flights.all().map(|flight| flight.op.content()).sum();
        (self.flights.len() as u64, bytes)
    }

    /// When the oldest change that has not arrived was heard of. What failed is a problem, and does
    /// not count.
    #[must_use]
    pub fn behind_since(&self) -> Option<Instant> {
        let problem = |path: &RelPath| !self.problems.is_empty() && self.problems.has(path);
        let waits = self.collate.ages().filter(|(path, _)| !problem(path)).map(|(_, first)| first);
        let looks = self.looks.iter().map(|asked| asked.first);
        let dirty = waits.chain(looks).chain(self.collate.steps_since()).min();
        sooner(dirty, self.flights.oldest())
    }

    /// How often the dirty set was too large and collapsed upwards.
    #[must_use]
    pub fn collapsed(&self) -> u64 {
        self.collate.collapsed()
    }

    /// Does a walk run?
    #[must_use]
    pub fn is_walking(&self) -> bool {
        self.walk.is_some()
    }
}

/// What is dirty and not on its way.
pub(super) fn waiting(collate: &Collate) -> impl Iterator<Item = (bool, metrics::Step)> + '_ {
    let steps = collate.steps().iter().map(|one| match one {
        Step::Rename { from, to, .. } => {
            metrics::Step::Rename { from: from.clone(), to: to.clone() }
        }
        Step::Clear { path, dir } => metrics::Step::Delete { path: path.clone(), dir: *dir },
    });
    let dirty = collate.dirty_paths().map(|(path, marks)| marked(path, marks));
    steps.chain(dirty).map(|step| (false, step))
}

pub(super) fn marked(path: &RelPath, marks: Marks) -> metrics::Step {
    let path = path.clone();
    if marks.has(Marks::TREE) {
        metrics::Step::Create { path, dir: true }
    } else if marks.has(Marks::GONE) {
        metrics::Step::Delete { path, dir: marks.has(Marks::DIR) }
    } else if marks.has(Marks::NAME.with(Marks::CONTENT)) {
        metrics::Step::Create { path, dir: false }
    } else if marks.has(Marks::CONTENT) {
        metrics::Step::Update { path }
    } else {
        metrics::Step::Attributes { path }
    }
}
