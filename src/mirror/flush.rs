//! Flush, pause and resume: what somebody outside wants of a mirror.
//!
//! A flush ends when nothing is left that was heard of before it. Every change knows when it was
//! first heard of, and keeps that time when it has to be tried, walked or looked at anew; so a file
//! that never rests holds nobody up: what is written to it later is a later change. What has failed
//! is a problem, and told as such.

use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;

use super::steer::Flushed;
use super::{Due, Effect, Mirror, Report};
use crate::error::Problem;

/// The shortest and the longest time between two looks at whether a flush has ended.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// More problems are counted, not listed.
pub(super) const PROBLEMS_MAX: usize = 1000;

/// Somebody who waits.
#[derive(Debug)]
struct Flush {
    token: u64,
    /// When everything of before was heard of.
    heard: Option<Instant>,
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

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        let heard = self.since()?;
        let Some(looked) = self.looked else { return Some(heard) };
        let waited = looked.saturating_duration_since(heard);
        Some(looked + (waited / 8).clamp(LOOKS.0, LOOKS.1))
    }

    /// Events were lost, and that one was heard of may be among them. The walk that comes of it
    /// begins after every flush that was asked for.
    pub(super) fn overflowed(&mut self, now: Instant) {
        for flush in &mut self.waiting {
            flush.heard.get_or_insert(now);
        }
    }
}

impl Mirror {
    /// Is nothing begun?
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn flush(&mut self, token: u64, heard: bool, now: Instant) {
        self.flushes.waiting.push(Flush { token, heard: None });
        self.flushes.looked = None;
        if heard {
            self.flush_heard(token, now);
        }
    }

    /// Everything that was to be heard of before this flush has been. It is for one mirror of several
    /// of a source.
    pub(super) fn flush_heard(&mut self, token: u64, now: Instant) {
        let flush = self.flushes.waiting.iter_mut().find(|flush| flush.token == token);
        let Some(flush) = flush.filter(|flush| flush.heard.is_none()) else { return };
        flush.heard = Some(now);
        self.flushes.looked = None;
        // Nor does it wait for a delay, or for when a problem would be tried again.
        self.collate.hurry(now);
        self.walk_not_before = None;
    }

    /// Nobody waits any more but these.
    pub fn forget_flushes(&mut self, waits: impl Fn(u64) -> bool) {
        self.flushes.waiting.retain(|flush| waits(flush.token));
    }

    /// Ends what has nothing more to wait for.
    pub(super) fn end_flushes(&mut self, now: Instant) {
        let waiting = &self.flushes.waiting;
        if waiting.is_empty() || self.flushes.next().is_some_and(|next| next > now) {
            return;
        }
        let stands = if self.paused {
            Some(Flushed::Paused)
        } else {
            self.halted.clone().map(Flushed::Halted)
        };
        self.flushes.looked = Some(now);
        let mut waiting = std::mem::take(&mut self.flushes.waiting);
        waiting.retain(|flush| {
            let end = match (&stands, flush.heard) {
                (Some(stands), _) => stands.clone(),
                (None, Some(heard)) if self.has_settled(heard) => {
                    let problems: Vec<Problem> =
                        self.problems.list().take(PROBLEMS_MAX).cloned().collect();
                    if problems.is_empty() { Flushed::Done } else { Flushed::Problems(problems) }
                }
                _ => return true,
            };
            self.out.push(Effect::Flushed { token: flush.token, end });
            false
        });
        self.flushes.waiting = waiting;
        if self.flushes.waiting.is_empty() {
            self.flushes.looked = None;
        }
    }

    /// Has everything arrived that was heard of until then, but for problems?
    fn has_settled(&self, until: Instant) -> bool {
        let after = |first: Option<Instant>| first.is_none_or(|first| first > until);
        self.ready
            && self.waiting.is_none()
            && self.emptied.is_none()
            && self.parked.is_empty()
            && after(self.looks.iter().map(|asked| asked.first).min())
            && after(self.flights.oldest())
            && after(self.clearings.since())
            && after(self.walks_due.since())
            && after(self.walk.as_ref().and_then(|walk| walk.due().since))
            && after(self.collate.oldest())
    }

    pub(super) fn pause(&mut self, now: Instant) {
        if std::mem::replace(&mut self.paused, true) {
            return;
        }
        self.drift.stop(now);
        // What a walk has begun is not known to be done: it begins anew.
        if let Some(walk) = self.walk.take() {
            for start in walk.starts() {
                self.walks_due.add(start.clone(), walk.due());
            }
            self.out.push(Effect::StopWalk);
        }
        self.say(Report::Paused);
    }

    pub(super) fn resume(&mut self, confirm: bool, now: Instant) {
        let paused = std::mem::take(&mut self.paused);
        let halted = confirm && self.halted.take().is_some();
        if halted {
            // Whatever was refused is found by a walk of everything, for which no guard stands.
            self.confirmed = Some(self.next_walk);
            self.emptied = None;
            self.walks_due.add(RelPath::root(), Due { whole: false, since: Some(now) });
            self.walk_not_before = None;
        }
        if paused || halted {
            self.say(Report::Resumed);
        }
    }
}
