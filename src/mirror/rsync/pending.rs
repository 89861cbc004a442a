//! What a mirror that rsync carries has still to do.

use lsync_protocol::path::RelPath;

use super::{Flight, State};
use crate::metrics::Step;
use crate::mirror::pending::{MOST, Pending, PendingLine, marked, waiting};

impl State {
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
        let count = flying.len() + self.looking.as_ref().map_or(0, Vec::len) + self.collate.len();
        let lines = flying.into_iter().map(|step| (true, step)).chain(queued);
        let lines = lines.chain(waiting(&self.collate)).take(MOST);
        Pending {
            count: count as u64,
            ready: self.ready,
            lines: lines.map(|(active, what)| PendingLine { active, what }).collect(),
        }
    }
}
