//! What a mirror has still to do, for those who ask (the status file of Lsyncd 2).

use lsync_protocol::path::RelPath;
use tokio::sync::{mpsc, oneshot};

use super::Mirror;
use crate::collate::{Collate, Marks, Step};
use crate::metrics;

/// No more lines are made: a list of more serves nobody.
pub(super) const MOST: usize = 10_000;

/// Whoever wants to know asks here, and is answered when the mirror comes round to it.
pub type Asked = mpsc::Receiver<oneshot::Sender<Pending>>;

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
