//! Clearing: a directory that is to go from the target, or to make room, is not empty there.
//!
//! The target never deletes what it was not named. So its names are listed, those that the rules
//! protect or that the source does have stay, the others are removed by name, directories in turn
//! the same way, and then the first operation is tried again.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use lsync_protocol::entry::Kind;
use lsync_protocol::path::RelPath;

use super::live::GUARDED;
use super::walk::Answer;
use super::{Cause, Effect, Flight, Mirror, RootTrouble, covers};
use crate::collate::Marks;
use crate::plan::{Absent, Planned};

/// How often one directory is cleared before it is a problem: somebody keeps filling it.
const ROUNDS: u32 = 3;
/// Marks the numbers of clearings apart from those of walks.
const CLEARING: u64 = 1 << 63;

#[derive(Debug)]
struct Clearing {
    /// What is tried again when the directory is empty.
    then: Flight,
    /// Removals in flight or being cleared themselves.
    waiting: usize,
    /// Names that stay.
    kept: usize,
    /// Why some of them stay that should not.
    failed: Option<String>,
    /// It is empty; before it goes itself it is looked for once more.
    emptied: bool,
}

/// What became of a name in a directory that is being cleared.
#[derive(Debug)]
pub(super) enum Cleared {
    Gone,
    /// It is protected, or the source does have it.
    Kept,
    /// It should go and could not.
    Failed(String),
}

/// Directories being cleared.
#[derive(Debug, Default)]
pub(super) struct Clearings {
    by_key: HashMap<u64, Clearing>,
    requests: HashMap<u32, u64>,
    paths: BTreeMap<RelPath, usize>,
    next: u64,
}

impl Clearings {
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Did a clearing ask this listing?
    pub(super) fn asked(&self, request: u32) -> bool {
        self.requests.contains_key(&request)
    }

    /// Is this path in a directory that is being cleared?
    pub(super) fn busy(&self, path: &RelPath) -> bool {
        covers(&self.paths, path)
    }

    fn begin(&mut self, key: u64, then: Flight) {
        *self.paths.entry(then.op.path().clone()).or_default() += 1;
        self.by_key
            .insert(key, Clearing { then, waiting: 0, kept: 0, failed: None, emptied: false });
    }

    fn end(&mut self, key: u64) -> Option<Clearing> {
        let clearing = self.by_key.remove(&key)?;
        let path = clearing.then.op.path();
        if let Some(count) = self.paths.get_mut(path) {
            *count -= 1;
            if *count == 0 {
                self.paths.remove(path);
            }
        }
        Some(clearing)
    }

    /// When the first of what they are for was heard of.
    pub(super) fn since(&self) -> Option<Instant> {
        self.by_key.values().map(|clearing| clearing.then.first).min()
    }

    /// All ends, as after a broken link: the directories that were being cleared.
    pub(super) fn drain(&mut self) -> Vec<RelPath> {
        self.requests.clear();
        self.paths.clear();
        self.by_key.drain().map(|(_, clearing)| clearing.then.op.path().clone()).collect()
    }
}

impl Mirror {
    /// A directory to be removed or replaced is not empty on the target.
    pub(super) fn not_empty(&mut self, flight: Flight, now: Instant) {
        let path = flight.op.path().clone();
        let why = if flight.cleared >= ROUNDS {
            Some("the directory does not become empty on the target")
        } else if self.rules.delete == crate::config::Delete::No {
            Some("a directory that is not empty is in the way on the target")
        } else if self.halted.is_some() {
            Some("deletes are stopped")
        } else {
            None
        };
        if let Some(why) = why {
            self.failed(&path, why, now);
            if let Cause::Clearing(key) = flight.cause {
                self.cleared_one(key, Cleared::Failed(why.to_owned()), now);
            }
            return;
        }
        self.clearings.next += 1;
        let key = CLEARING | self.clearings.next;
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        self.clearings.requests.insert(request, key);
        self.clearings.begin(key, flight);
        self.out.push(Effect::List { request, dir: path, digest: None });
    }

    /// What is in the directory.
    pub(super) fn clearing_listed(&mut self, request: u32, answer: Answer, now: Instant) {
        let Some(key) = self.clearings.requests.remove(&request) else { return };
        let Some(clearing) = self.clearings.by_key.get_mut(&key) else { return };
        let dir = clearing.then.op.path().clone();
        match answer {
            Answer::Entries(entries) => {
                let filter = &self.rules.filter;
                let mut paths = Vec::new();
                for named in entries {
                    let kind = named.entry.kind;
                    match dir.join(&named.name) {
                        Ok(path) if filter.verdict(&path, kind == Kind::Dir).deletable_with_dir => {
                            paths.push((path, kind));
                        }
                        _ => clearing.kept += 1,
                    }
                }
                clearing.waiting = paths.len();
                if paths.is_empty() {
                    self.cleared(key, now);
                } else {
                    self.out.push(Effect::LookMissing { asked: key, paths });
                }
            }
            Answer::Missing | Answer::Same => self.cleared(key, now),
            Answer::Trouble(why) => {
                clearing.kept += 1;
                clearing.failed = Some(why);
                self.cleared(key, now);
            }
        }
    }

    /// What is missing on the source, of the names a walk or a clearing means to delete.
    pub(super) fn still_missing(
        &mut self,
        asked: u64,
        absent: Result<Absent, RootTrouble>,
        now: Instant,
    ) {
        if asked & CLEARING == 0 {
            return self.extra_missing(asked, absent, now);
        }
        let Absent { missing, unknown } = match absent {
            Ok(absent) => absent,
            Err(trouble) => return self.root_lost(trouble, now),
        };
        let Some(clearing) = self.clearings.by_key.get_mut(&asked) else { return };
        if clearing.emptied {
            return self.emptied(asked, !missing.is_empty(), now);
        }
        let first = clearing.then.first;
        clearing.kept += clearing.waiting.saturating_sub(missing.len());
        clearing.waiting = missing.len();
        clearing.failed = unknown.into_iter().next().map(|(path, why)| format!("{path}: {why}"));
        if self.confirmed.is_none()
            && let Err(reason) = self.guard.allow(missing.len() as u64, now)
        {
            clearing.kept += clearing.waiting;
            clearing.waiting = 0;
            self.halt(reason, GUARDED.to_owned());
        }
        let Some(clearing) = self.clearings.by_key.get(&asked) else { return };
        if clearing.waiting == 0 {
            return self.cleared(asked, now);
        }
        let ops = missing.into_iter().map(|(path, kind)| Planned::Remove { path, kind }).collect();
        self.send(ops, Cause::Clearing(asked), first);
    }

    /// One name of a directory is gone, or stays.
    pub(super) fn cleared_one(&mut self, key: u64, what: Cleared, now: Instant) {
        let Some(clearing) = self.clearings.by_key.get_mut(&key) else { return };
        clearing.waiting = clearing.waiting.saturating_sub(1);
        clearing.kept += usize::from(!matches!(what, Cleared::Gone));
        if let Cleared::Failed(why) = what {
            clearing.failed = Some(why);
        }
        if clearing.waiting == 0 {
            self.cleared(key, now);
        }
    }

    /// All that was in it has gone. It goes as well, if nothing else is known of it by now.
    fn emptied(&mut self, key: u64, missing: bool, now: Instant) {
        let Some(clearing) = self.clearings.end(key) else { return };
        let path = clearing.then.op.path().clone();
        let clears = matches!(clearing.then.op, Planned::Remove { .. });
        let deletable = match clearing.then.cause {
            Cause::Clearing(_) => self.rules.filter.verdict(&path, true).deletable_with_dir,
            _ => self.rules.filter.verdict_deep(&path, true).deletable,
        };
        if clears && !deletable {
            // It was renamed to where the rules protect it.
            if let Cause::Clearing(above) = clearing.then.cause {
                self.cleared_one(above, Cleared::Kept, now);
            }
        } else if missing
            // Of what is not mirrored a fresh look would say nothing.
            && (self.collate.marks(&path).is_none()
                || !self.rules.filter.verdict_deep(&path, true).sent)
        {
            let then = Flight { cleared: clearing.then.cleared + 1, ..clearing.then };
            self.send_again(then, now);
        } else {
            // A fresh look decides, and what is above it is tried after that.
            self.collate.mark(&path, Marks::NAME.with(Marks::DIR).with(Marks::CONTENT), now);
            if let Cause::Clearing(above) = clearing.then.cause {
                self.cleared_one(above, Cleared::Gone, now);
            }
        }
        self.collate.release_under(&path, now);
    }

    /// All that could go has gone.
    fn cleared(&mut self, key: u64, now: Instant) {
        if let Some(clearing) = self.clearings.by_key.get_mut(&key)
            && clearing.kept == 0
        {
            let path = clearing.then.op.path();
            if matches!(clearing.then.op, Planned::Remove { .. }) {
                clearing.emptied = true;
                let paths = vec![(path.clone(), Kind::Dir)];
                self.out.push(Effect::LookMissing { asked: key, paths });
            } else {
                let gone = self.collate.marks(path).is_none();
                self.emptied(key, gone, now);
            }
            return;
        }
        let Some(clearing) = self.clearings.end(key) else { return };
        let path = clearing.then.op.path().clone();
        match (&clearing.then.op, clearing.then.cause) {
            (_, Cause::Clearing(above)) => {
                let what = clearing.failed.map_or(Cleared::Kept, Cleared::Failed);
                self.cleared_one(above, what, now);
            }
            // It has to be tried again as a whole: once what is in it can go, so can it.
            (_, _) if let Some(why) = clearing.failed => self.failed(&path, &why, now),
            (Planned::Replace { .. }, _) => {
                let why = "a directory is in the way on the target, \
                           and it holds names that are protected or could not be deleted";
                self.failed(&path, why, now);
            }
            // As with rsync, a directory stays for what is protected in it.
            _ => {}
        }
        self.collate.release_under(&path, now);
    }
}
