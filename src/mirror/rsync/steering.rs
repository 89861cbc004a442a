//! Flush, pause and resume of a mirror that rsync carries, and how it stands.

use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

use super::{Effect, Report, State};
use crate::error::Problem;
use crate::mirror::RootTrouble;
use crate::mirror::flush::PROBLEMS_MAX;
use crate::mirror::steer::{Flushed, Stand};

/// How often it is looked whether a flush has ended, when nothing else happens.
const LOOK: Duration = Duration::from_millis(100);

/// Somebody who waits.
#[derive(Debug)]
struct Flush {
    token: u64,
    /// When everything of before was heard of.
    heard: Option<Instant>,
    /// All of that has left by runs of smaller numbers.
    runs: Option<u64>,
}

/// All who wait.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    waiting: Vec<Flush>,
    looked: Option<Instant>,
}

impl Flushes {
    /// What was heard of before this is waited for; `None`: nobody waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|flush| flush.heard).min()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        Some(self.looked.or(self.since())? + LOOK).filter(|_| !self.waiting.is_empty())
    }

    /// Events were lost: everything is compared, and that begins after every flush that was asked
    /// for.
    pub(super) fn overflowed(&mut self, now: Instant) {
        for flush in &mut self.waiting {
            flush.heard.get_or_insert(now);
        }
    }

    /// What had left has to leave again.
    pub(super) fn begin_anew(&mut self) {
        for flush in &mut self.waiting {
            flush.runs = None;
        }
    }
}

impl State {
    pub(super) fn flush(&mut self, token: u64, heard: bool, now: Instant) {
        self.flushes.waiting.push(Flush { token, heard: None, runs: None });
        if heard {
            self.flush_heard(token, now);
        }
    }

    pub(super) fn flush_heard(&mut self, token: u64, now: Instant) {
        let flush = self.flushes.waiting.iter_mut().find(|flush| flush.token == token);
        let Some(flush) = flush.filter(|flush| flush.heard.is_none()) else { return };
        flush.heard = Some(now);
        self.collate.hurry(now);
    }

    /// Nobody waits any more but these.
    pub fn forget_flushes(&mut self, waits: impl Fn(u64) -> bool) {
        self.flushes.waiting.retain(|flush| waits(flush.token));
    }

    /// Ends what has nothing more to wait for.
    pub(super) fn end_flushes(&mut self, now: Instant) {
        if self.flushes.waiting.is_empty() {
            return;
        }
        let stands = if self.paused {
            Some(Flushed::Paused)
        } else {
            self.halted.clone().map(Flushed::Halted)
        };
        self.flushes.looked = Some(now);
        let mut waiting = std::mem::take(&mut self.flushes.waiting);
        waiting.retain_mut(|flush| {
            let end = match (&stands, flush.heard) {
                (Some(stands), _) => stands.clone(),
                (None, Some(heard)) => {
                    if flush.runs.is_none() && self.has_left(heard) {
                        flush.runs = Some(self.next_run);
                    }
                    let arrived = |runs| self.flights.range(..runs).next().is_none();
                    if !flush.runs.is_some_and(arrived) {
                        return true;
                    }
                    let problems: Vec<Problem> =
                        self.problems.list().take(PROBLEMS_MAX).cloned().collect();
                    if problems.is_empty() { Flushed::Done } else { Flushed::Problems(problems) }
                }
                (None, None) => return true,
            };
            self.out.push(Effect::Flushed { token: flush.token, end });
            false
        });
        self.flushes.waiting = waiting;
        if self.flushes.waiting.is_empty() {
            self.flushes.looked = None;
        }
    }

    /// Has everything left that was heard of until then, but for problems?
    fn has_left(&self, until: Instant) -> bool {
        let after = |first: Option<Instant>| first.is_none_or(|first| first > until);
        // A root that is a problem is tried again and again; nobody has to wait for that.
        let full = self.is_full_due() && !self.problems.has(&RelPath::root());
        self.ready
            && self.waiting.is_none()
            && self.emptied.is_none()
            && !full
            && !self.walking
            && self.suspects.is_empty()
            && self.waiting_runs.is_empty()
            && after(self.looking.as_ref().and(self.looking_since))
            && after(self.collate.oldest())
    }

    pub(super) fn pause(&mut self) {
        if !std::mem::replace(&mut self.paused, true) {
            self.say(Report::Paused);
        }
    }

    pub(super) fn resume(&mut self, confirm: bool) {
        let paused = std::mem::take(&mut self.paused);
        let halted = confirm && self.halted.take().is_some();
        if halted {
            // Whatever was refused is found by a run over everything, for which no guard stands.
            self.confirmed = true;
            self.emptied = None;
            self.full_due = true;
        }
        if paused || halted {
            self.say(Report::Resumed);
        }
    }

    /// Is everything mirrored, as far as anything was heard of?
    #[must_use]
    pub fn is_even(&self) -> bool {
        self.ready && self.is_idle() && self.pending_count() == 0 && self.problems.is_empty()
    }

    /// Is nothing begun?
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Why deletes are stopped, if they are.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        self.halted.as_deref()
    }

    /// What is the matter with the source's root, if it is waited for.
    #[must_use]
    pub fn root_trouble(&self) -> Option<RootTrouble> {
        self.waiting
    }

    /// What it does, in a word. Whether the target can be had, the last run has shown.
    #[must_use]
    pub fn stand(&self) -> Stand {
        if self.paused {
            Stand::Paused
        } else if self.waiting.is_some() {
            Stand::Waiting
        } else if !self.reached && (self.ready || self.not_before.is_some()) {
            Stand::Connecting
        } else if self.halted.is_some() {
            Stand::Halted
        } else if self.ready {
            Stand::Live
        } else {
            Stand::Mirroring
        }
    }

    /// How many runs of rsync are on their way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.flights.len() as u64
    }

    /// When the oldest change that has not arrived was heard of. What failed does not count.
    #[must_use]
    pub fn behind_since(&self) -> Option<Instant> {
        let waits = self.collate.ages().filter(|(path, _)| !self.problems.has(path));
        let looks = self.looking.as_ref().and(self.looking_since);
        waits.map(|(_, first)| first).chain(looks).chain(self.since.values().copied()).min()
    }

    /// How often the dirty set was too large and collapsed upwards.
    #[must_use]
    pub fn collapsed(&self) -> u64 {
        self.collate.collapsed()
    }
}
