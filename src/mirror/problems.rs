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
    paths: BTreeMap<RelPath, Problem>,
    tries: u32,
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
        self.paths.values()
    }

    /// A path failed.
    pub(crate) fn failed(&mut self, path: &RelPath, cause: &str, now: Instant) -> Retry {
        let known = self.paths.get(path);
        let tries = known.map_or(0, |problem| problem.tries) + 1;
        let new = known.is_none_or(|problem| problem.cause != cause);
        let problem = Problem { path: path.clone(), cause: cause.to_owned(), tries };
        if known.is_some() || self.paths.len() < MAX {
            self.paths.insert(path.clone(), problem.clone());
        }
        let wait = FIRST.saturating_mul(1 << (tries - 1).min(16)).min(LAST);
        let wait = if self.tries == u32::MAX { wait } else { Duration::ZERO };
        Retry { tell: new.then_some(problem), at: (tries < self.tries).then_some(now + wait) }
    }

    /// A path is mended, or gone: was it a problem?
    pub(crate) fn mended(&mut self, path: &RelPath) -> bool {
        self.paths.remove(path).is_some()
    }

    /// Is there a problem at this path or above it?
    pub(crate) fn above(&self, path: &RelPath) -> bool {
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if self.paths.contains_key(&path) {
                return true;
            }
            at = path.parent();
        }
        false
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
            if let Some(mut problem) = self.paths.remove(&path)
                && let Some(moved) = path.moved(from, to)
            {
                problem.path.clone_from(&moved);
                self.paths.insert(moved, problem);
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
        let first = problems.failed(&path, "permission denied", now);
        assert_eq!(first.tell.map(|problem| problem.tries), Some(1));
        assert_eq!(first.at, Some(now + FIRST));
        let second = problems.failed(&path, "permission denied", now);
        assert_eq!(second, Retry { tell: None, at: Some(now + FIRST * 2) });
        assert!(problems.failed(&path, "no space left on device", now).tell.is_some());
        for _ in 0..40 {
            assert!(problems.failed(&path, "x", now).at <= Some(now + LAST));
        }
        assert!(problems.above(&RelPath::new(&b"a/b/c"[..]).unwrap()));
        assert!(problems.under(&RelPath::new(&b"a"[..]).unwrap()));
        assert!(problems.mended(&path) && problems.is_empty());
    }

    #[test]
    fn a_single_run_tries_twice() {
        let now = Instant::now();
        let path = RelPath::new(&b"a"[..]).unwrap();
        let mut problems = Problems::new(2);
        assert_eq!(problems.failed(&path, "x", now).at, Some(now));
        assert_eq!(problems.failed(&path, "x", now).at, None);
    }
}
