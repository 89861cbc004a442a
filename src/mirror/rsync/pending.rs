//! What a mirror that rsync carries has still to do.

use lsync_protocol::path::RelPath;

use super::{Flight, State};
use crate::metrics::Step;
use crate::mirror::pending::{MOST, Pending, PendingLine, marked, waiting};

impl State {
    /// How many paths are dirty or on their way.
    #[must_use]
    pub fn pending_count(&self) -> u64 {
        let flying: usize = self
            .flights
            .values()
            .map(|flight| match flight {
                Flight::Count | Flight::Full => 1,
                Flight::Paths(paths) => paths.len(),
            })
            .sum();
        let looked_at = self.looking.as_ref().map_or(0, Vec::len);
        (flying + looked_at + self.collate.len()) as u64
    }

    /// What is still to be done.
    #[must_use]
    pub fn pending(&self) -> Pending {
        let mut flying = Vec::new();
        for flight in self.flights.values() {
            match flight {
                Flight::Count | Flight::Full => {
                    flying.push(Step::Create { path: RelPath::root(), dir: true });
                }
                Flight::Paths(paths) => {
                    flying.extend(paths.iter().map(|(path, marks)| marked(path, *marks)));
                }
            }
        }
        let looked_at = self.looking.iter().flatten();
        let queued = looked_at.map(|(path, marks)| (false, marked(path, *marks)));
        let lines = flying.into_iter().map(|step| (true, step)).chain(queued);
        let lines = lines.chain(waiting(&self.collate)).take(MOST);
        Pending {
            count: self.pending_count(),
            ready: self.ready,
            lines: lines.map(|(active, what)| PendingLine { active, what }).collect(),
        }
    }
}
