//! Problems: paths that failed, each with its cause, tried again with back-off.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

use crate::error::Problem;

/// The first wait before a path is tried again; it doubles each time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LAST: Duration = Duration::from_secs(300);
/// The most problems remembered one by one.
const MAX: usize = 10_000;

/// The paths that failed and are not mended yet.
#[derive(Debug)]
pub(crate) struct Problems {
    paths: BTreeMap<RelPath, (Problem, What)>,
    tries: u32,
}

/// What failed, and so what has to succeed before the path counts as mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The thing itself could not be looked at, read or had.
    Itself,
    /// A directory could not be given its attributes.
    Attributes,
    /// A directory could not be read, on either side.
    Listing,
}

/// What to do about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retry {
    /// People have not heard of this path and cause.
    pub(crate) tell: Option<Problem>,
    /// When to try again; `None`: never.
    pub(crate) at: Option<Instant>,
}

impl Problems {
    /// With at most this many tries a path.
    pub(crate) fn new(tries: u32) -> Problems {
        Problems { paths: BTreeMap::new(), tries }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = &Problem> {
        self.paths.values().map(|(problem, _)| problem)
    }

    /// A path failed.
    pub(crate) fn failed(
        &mut self,
        path: &RelPath,
        what: What,
        cause: &str,
        now: Instant,
    ) -> Retry {
        let known = self.paths.get(path).map(|(problem, _)| problem);
        if known.is_none() && self.paths.len() >= MAX {
            // Too many to count tries: again much later, or with the next run.
            return Retry { tell: None, at: (self.tries == u32::MAX).then_some(now + LAST) };
        }
        let tries = known.map_or(0, |problem| problem.tries) + 1;
        // One that fails in several ways by turns is told of once.
        let new = self
            .paths
            .get(path)
            .is_none_or(|(problem, failed)| *failed == what && problem.cause != cause);
        let problem = Problem { path: path.clone(), cause: cause.to_owned(), tries };
        self.paths.insert(path.clone(), (problem.clone(), what));
        let wait = FIRST.saturating_mul(1 << (tries - 1).min(16)).min(LAST);
        let wait = if self.tries == u32::MAX { wait } else { Duration::ZERO };
        Retry { tell: new.then_some(problem), at: (tries < self.tries).then_some(now + wait) }
    }

    /// This succeeded: was it the problem?
    pub(crate) fn mended(&mut self, path: &RelPath, what: What) -> bool {
        let mended = self.paths.get(path).is_some_and(|(_, failed)| *failed == what);
        if mended {
            self.paths.remove(path);
        }
        mended
    }

    /// Is this path not to be tried again?
    pub(crate) fn given_up(&self, path: &RelPath) -> bool {
        self.paths.get(path).is_some_and(|(problem, _)| problem.tries >= self.tries)
    }

    /// The path is gone, or no longer mirrored: was it a problem?
    pub(crate) fn gone(&mut self, path: &RelPath) -> bool {
        self.paths.remove(path).is_some()
    }

    /// All is to be found out anew.
    pub(crate) fn clear(&mut self) {
        self.paths.clear();
    }

    /// Has this path a problem?
    pub(crate) fn has(&self, path: &RelPath) -> bool {
        self.paths.contains_key(path)
    }

    /// The nearest path at or above this one that has a problem.
    pub(crate) fn above(&self, path: &RelPath) -> Option<RelPath> {
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if self.paths.contains_key(&path) {
                return Some(path);
            }
            at = path.parent();
        }
        None
    }

    /// Is there a problem at this path or beneath it?
    pub(crate) fn under(&self, dir: &RelPath) -> bool {
        self.paths.range(dir.clone()..).next().is_some_and(|(path, _)| path.is_at_or_under(dir))
    }

    /// A name moved: its problems are known by the new name.
    pub(crate) fn renamed(&mut self, from: &RelPath, to: &RelPath) {
        let paths: Vec<RelPath> = self
            .paths
            .range(from.clone()..)
            .take_while(|(path, _)| path.is_at_or_under(from))
            .map(|(path, _)| path.clone())
            .collect();
        for path in paths {
            if let Some((mut problem, what)) = self.paths.remove(&path)
                && let Some(moved) = path.moved(from, to)
            {
                problem.path.clone_from(&moved);
                self.paths.insert(moved, (problem, what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_and_waits_grow() {
        let now = Instant::now();
        let path = RelPath::new(&b"a/b"[..]).unwrap();
        let mut problems = Problems::new(u32::MAX);
        let first = problems.failed(&path, What::Itself, "permission denied", now);
        assert_eq!(first.tell.map(|problem| problem.tries), Some(1));
        assert_eq!(first.at, Some(now + FIRST));
        let second = problems.failed(&path, What::Itself, "permission denied", now);
        assert_eq!(second, Retry { tell: None, at: Some(now + FIRST * 2) });
        assert!(
            problems.failed(&path, What::Itself, "no space left on device", now).tell.is_some()
        );
        for _ in 0..40 {
            assert!(problems.failed(&path, What::Itself, "x", now).at <= Some(now + LAST));
        }
        assert_eq!(problems.above(&RelPath::new(&b"a/b/c"[..]).unwrap()), Some(path.clone()));
        assert!(problems.under(&RelPath::new(&b"a"[..]).unwrap()));
        assert!(!problems.mended(&path, What::Listing));
        assert!(problems.mended(&path, What::Itself) && problems.is_empty());
    }

    #[test]
    fn a_single_run_tries_twice() {
        let now = Instant::now();
        let path = RelPath::new(&b"a"[..]).unwrap();
        let mut problems = Problems::new(2);
        assert_eq!(problems.failed(&path, What::Itself, "x", now).at, Some(now));
        assert!(!problems.given_up(&path));
        assert_eq!(problems.failed(&path, What::Itself, "x", now).at, None);
        assert!(problems.given_up(&path));
    }
}
