//! New files that somebody may still be writing. A file appears when it is opened; what is wanted is
//! to hear of it when it is closed. What appears complete, moved in from outside, is never closed:
//! so who is not written to is not waited for for long. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

/// How long the first write, or the end of all writing, may take to come.
const QUIET: Duration = Duration::from_millis(100);
/// How long somebody may write before the file is told of as it is.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
struct File {
    since: Instant,
    until: Instant,
}

/// Files that nobody was told of yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    files: BTreeMap<RelPath, File>,
    until: BTreeSet<(Instant, RelPath)>,
}

impl Held {
    /// A file appeared.
    pub(super) fn hold(&mut self, path: RelPath, now: Instant) {
        if !self.files.contains_key(&path) {
            self.put(path, File { since: now, until: now + QUIET });
        }
    }

    /// A file is being written. Says whether it is held.
    pub(super) fn written(&mut self, path: &RelPath) -> bool {
        let Some(file) = self.remove(path) else { return false };
        self.put(path.clone(), File { until: file.since + LONGEST, ..file });
        true
    }

    /// Is this file held?
    pub(super) fn has(&self, path: &RelPath) -> bool {
        self.files.contains_key(path)
    }

    /// It need not be held any more. Says whether it was.
    pub(super) fn take(&mut self, path: &RelPath) -> bool {
        self.remove(path).is_some()
    }

    /// A name moved, with all that is beneath it. Says whether that very name was held.
    pub(super) fn moved(&mut self, from: &RelPath, to: &RelPath) -> bool {
        let very = self.has(from);
        for (path, file) in self.under(from) {
            if let Some(path) = path.moved(from, to) {
                self.put(path, file);
            }
        }
        very
    }

    /// A name and all that is beneath it is gone.
    pub(super) fn gone(&mut self, path: &RelPath) {
        drop(self.under(path));
    }

    /// Those that were waited for long enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<RelPath> {
        let mut due = Vec::new();
        while let Some((_, path)) = self.until.first().filter(|(until, _)| *until <= now).cloned() {
            self.remove(&path);
            due.push(path);
        }
        due
    }

    /// When the next of them will be.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.first().map(|(until, _)| *until)
    }

    fn put(&mut self, path: RelPath, file: File) {
        self.remove(&path);
        self.until.insert((file.until, path.clone()));
        self.files.insert(path, file);
    }

    fn remove(&mut self, path: &RelPath) -> Option<File> {
        let (path, file) = self.files.remove_entry(path)?;
        self.until.remove(&(file.until, path));
        Some(file)
    }

    /// Takes out all that is at or beneath a path.
    fn under(&mut self, dir: &RelPath) -> Vec<(RelPath, File)> {
        let names =
            self.files.range(dir.clone()..).take_while(|(name, _)| name.is_at_or_under(dir));
        let names: Vec<RelPath> = names.map(|(name, _)| name.clone()).collect();
        names.into_iter().filter_map(|name| Some((name.clone(), self.remove(&name)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_not_written_to_is_not_waited_for_long() {
        let now = Instant::now();
        let mut held = Held::default();
        held.hold(path("a"), now);
        held.hold(path("b"), now);
        assert!(held.written(&path("b")) && !held.written(&path("c")));
        assert_eq!(held.next(), Some(now + QUIET));
        assert_eq!(held.due(now + QUIET), [path("a")]);
        assert_eq!(held.next(), Some(now + LONGEST), "somebody writes");
        // Not longer, however often it is written to, or found.
        assert!(held.written(&path("b")));
        held.hold(path("b"), now + QUIET);
        assert!(held.due(now + LONGEST - QUIET).is_empty());
        assert_eq!(held.due(now + LONGEST), [path("b")]);
        assert_eq!(held.next(), None);
    }

    #[test]
    fn names_move_and_go_with_their_directories() {
        let now = Instant::now();
        let mut held = Held::default();
        for name in ["d/a", "d/e/b", "da", "x"] {
            held.hold(path(name), now);
        }
        assert!(!held.moved(&path("d"), &path("n")));
        assert!(held.moved(&path("x"), &path("y")));
        assert!(held.has(&path("n/a")) && held.has(&path("n/e/b")) && !held.has(&path("d/a")));
        held.gone(&path("n/e"));
        assert!(held.take(&path("n/a")) && !held.take(&path("n/a")));
        assert_eq!(held.due(now + QUIET), [path("da"), path("y")]);
        assert_eq!(held.next(), None);
    }
}
