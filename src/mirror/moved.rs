//! Directories that were renamed a moment ago: what is still known by a name of then is called
//! otherwise now, and a name that comes up again is another thing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

/// For so long a renamed directory is remembered.
const MOVED_FOR: Duration = Duration::from_secs(5);
/// At most so many of them.
const MOVED_MAX: usize = 256;

#[derive(Debug)]
struct Rename {
    when: Instant,
    from: RelPath,
    /// The name of now.
    to: RelPath,
}

/// The renames of directories, oldest first.
#[derive(Debug, Default)]
pub(super) struct Moved {
    renames: VecDeque<Rename>,
    /// How many were forgotten.
    past: u64,
}

impl Moved {
    /// How many renames were heard of so far: names known now are names after these.
    pub(super) fn so_far(&self) -> u64 {
        self.past + self.renames.len() as u64
    }

    /// A name moved. What moved before into it, or beneath it, moved on; a directory is remembered.
    pub(super) fn note(&mut self, from: &RelPath, to: &RelPath, dir: bool, now: Instant) {
        for rename in &mut self.renames {
            if let Some(moved) = rename.to.moved(from, to) {
                rename.to = moved;
            }
        }
        if dir {
            self.renames.push_back(Rename { when: now, from: from.clone(), to: to.clone() });
        }
    }

    /// Forgets what is old, but nothing that a name of `since` may need while there is room. Says
    /// whether there was.
    pub(super) fn forget(&mut self, since: Option<u64>, now: Instant) -> bool {
        let mut room = true;
        while let Some(oldest) = self.renames.front() {
            let wanted = since.is_some_and(|since| since <= self.past);
            let full = self.renames.len() > MOVED_MAX;
            if !full && (wanted || oldest.when + MOVED_FOR > now) {
                break;
            }
            room &= !wanted;
            self.renames.pop_front();
            self.past += 1;
        }
        room
    }

    /// What a name is called now that was right when `since` renames had been heard of.
    pub(super) fn follow(&self, path: RelPath, since: u64) -> RelPath {
        let known = usize::try_from(since.saturating_sub(self.past)).unwrap_or(usize::MAX);
        // The first that took it along: where that stands by now is known.
        let mut later = self.renames.iter().skip(known);
        later.find_map(|rename| path.moved(&rename.from, &rename.to)).unwrap_or(path)
    }

    /// A directory came up at this path: what moved away from there, or from beneath it.
    pub(super) fn away_from(&self, path: &RelPath) -> impl Iterator<Item = &RelPath> {
        let under = self.renames.iter().filter(|rename| rename.from.is_at_or_under(path));
        under.map(|rename| &rename.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_name_of_then_is_followed_to_the_name_of_now() {
        let (mut moved, now) = (Moved::default(), Instant::now());
        moved.note(&path("a"), &path("b"), true, now);
        let since = moved.so_far();
        moved.note(&path("c"), &path("a"), true, now);
        moved.note(&path("a"), &path("d"), true, now);
        assert_eq!(moved.follow(path("a/x"), 0), path("b/x"));
        assert_eq!(moved.follow(path("a/x"), since + 1), path("d/x"));
        assert_eq!(moved.follow(path("c/x"), since), path("d/x"));
        assert_eq!(moved.follow(path("c/x"), since + 1), path("c/x"));
        assert_eq!(moved.away_from(&path("a")).count(), 2);
    }

    #[test]
    fn it_forgets_in_time_and_says_what_it_needed() {
        let (mut moved, now) = (Moved::default(), Instant::now());
        for n in 0..MOVED_MAX {
            moved.note(&path(&format!("a{n}")), &path(&format!("b{n}")), true, now);
        }
        assert!(moved.forget(Some(0), now + MOVED_FOR) && moved.past == 0);
        moved.note(&path("x"), &path("y"), true, now + MOVED_FOR);
        assert!(!moved.forget(Some(0), now) && moved.past == 1);
        assert!(moved.forget(None, now + MOVED_FOR) && moved.so_far() == MOVED_MAX as u64 + 1);
        assert_eq!(moved.follow(path("x"), 0), path("y"));
    }
}
