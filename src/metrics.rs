//! What is told to the outside while mirrors run: counters, and notices as facts.
//!
//! Lower layers neither print nor know who listens. They hand over numbers and facts; what a
//! person or a program makes of them is decided above.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lsync_protocol::entry::Kind;
use lsync_protocol::path::RelPath;

use crate::error::Problem;

/// Where numbers and facts go. Called from any thread; must not block for long.
pub trait Metrics: Send + Sync {
    /// Adds `by` to a counter.
    fn count(&self, counter: Counter, by: u64);

    /// A fact that somebody may want to see.
    fn notice(&self, notice: Notice);

    /// A live change took so long in this stage of its way. Who does not keep times lets it go.
    fn took(&self, stage: Stage, time: Duration) {
        let _ = (stage, time);
    }
}

/// A stage of a live change's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From its first event until it left: its delay, and the look.
    Waiting,
    /// From then until the target acknowledged it.
    Travelling,
}

impl Stage {
    /// Both.
    pub const ALL: [Stage; 2] = [Stage::Waiting, Stage::Travelling];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting",
            Stage::Travelling => "travelling",
        }
    }
}

/// The bounds of what times are sorted into, in milliseconds; above the last is the rest.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 250, 1000, 5000, 30_000, 300_000];

/// How many times were how long.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&self, time: Duration) {
        let at = BOUNDS_MS.partition_point(|ms| Duration::from_millis(*ms) < time);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// How many were at most as long as each bound, and at last how many there were.
    #[must_use]
    pub fn so_far(&self) -> [u64; BOUNDS_MS.len() + 1] {
        let mut sum = 0;
        std::array::from_fn(|at| {
            sum += self.counts[at].load(Ordering::Relaxed);
            sum
        })
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// A fact about one mirror. `mirror` is its name.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "every variant's fields are said in the variant's line")]
pub enum Notice {
    /// A connection to the target is being made.
    Connecting { mirror: Arc<str> },
    /// The agent is being copied to `host`.
    Deploying { mirror: Arc<str>, host: String },
    /// Something else than the agent brings it over, and why.
    Carrier { mirror: Arc<str>, text: String },
    /// rsync is run: for these paths, or (`None`) for everything.
    Rsync { mirror: Arc<str>, paths: Option<Vec<RelPath>> },
    /// How far a walk has come.
    Progress { mirror: Arc<str>, progress: Progress },
    /// The first mirror is complete and live changes flow.
    Ready { mirror: Arc<str>, totals: Totals },
    /// A path could not be mirrored; it is tried again.
    Problem { mirror: Arc<str>, problem: Problem },
    /// A path that had a problem is mirrored now, or gone.
    Solved { mirror: Arc<str>, path: RelPath },
    /// Something is not as it might be expected, and everything goes on. Said once each.
    Warning { mirror: Arc<str>, text: String },
    /// The target's side allows our key so much and no more, and everything goes on. Said once each.
    Fixed { mirror: Arc<str>, text: String },
    /// The link broke; the next attempt is made after `retry_in`.
    Lost { mirror: Arc<str>, cause: String, retry_in: Duration },
    /// The link is there again.
    Reconnected { mirror: Arc<str> },
    /// A guard stopped it (deletions, or all of it); `hint` says how it goes on.
    Halted { mirror: Arc<str>, reason: String, hint: Option<String> },
    /// The configuration was read again, and what that changed. Of no mirror: of lsyncd itself.
    Reloaded { mirror: Arc<str>, text: String },
    /// A page that shows how it stands is served there. Of no mirror: of lsyncd itself.
    Serving { mirror: Arc<str>, url: String },
    /// Somebody paused it.
    Paused { mirror: Arc<str> },
    /// It goes on after a guard, or a pause.
    Resumed { mirror: Arc<str> },
    /// It could not start, and another one could or may; `hint` says what to do.
    Failed { mirror: Arc<str>, what: String, hint: Option<String> },
    /// Something was done on the target, or would be (`--dry-run`).
    Step { mirror: Arc<str>, step: Step },
    /// Source and target differ; what that leads to is told by others.
    Differs { mirror: Arc<str>, difference: Difference },
    /// Everything was compared (`verify`), and so many differences were found.
    Verified { mirror: Arc<str>, totals: Totals, differences: u64, healed: bool },
    /// The mirror has ended as it should (`--once`).
    Done { mirror: Arc<str>, totals: Totals },
}

impl Notice {
    /// The mirror that it is about.
    #[must_use]
    pub fn mirror(&self) -> &Arc<str> {
        match self {
            Notice::Connecting { mirror }
            | Notice::Deploying { mirror, .. }
            | Notice::Carrier { mirror, .. }
            | Notice::Rsync { mirror, .. }
            | Notice::Progress { mirror, .. }
            | Notice::Ready { mirror, .. }
            | Notice::Problem { mirror, .. }
            | Notice::Solved { mirror, .. }
            | Notice::Warning { mirror, .. }
            | Notice::Fixed { mirror, .. }
            | Notice::Lost { mirror, .. }
            | Notice::Reconnected { mirror }
            | Notice::Halted { mirror, .. }
            | Notice::Reloaded { mirror, .. }
            | Notice::Serving { mirror, .. }
            | Notice::Paused { mirror }
            | Notice::Resumed { mirror }
            | Notice::Failed { mirror, .. }
            | Notice::Step { mirror, .. }
            | Notice::Differs { mirror, .. }
            | Notice::Verified { mirror, .. }
            | Notice::Done { mirror, .. } => mirror,
        }
    }
}

/// How far a walk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Directories compared.
    pub directories: u64,
    /// Files compared.
    pub files: u64,
    /// Bytes of content sent.
    pub sent: u64,
    /// Bytes of content to send in all, once the walk knows.
    pub to_send: Option<u64>,
}

/// What a mirror holds, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Files mirrored.
    pub files: u64,
    /// Directories mirrored, the root among them.
    pub directories: u64,
    /// Bytes of content sent.
    pub bytes: u64,
    /// Operations sent.
    pub ops: u64,
    /// Names deleted on the target.
    pub deleted: u64,
    /// Paths that could not be mirrored.
    pub problems: u64,
    /// Since the start.
    pub elapsed: Duration,
}

/// One thing done to the target, as a person would say it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "every variant's fields are said in the variant's line")]
pub enum Step {
    /// A name that was not there; `dir`: it is a directory.
    Create { path: RelPath, dir: bool },
    /// Other content, or a thing of another kind.
    Update { path: RelPath },
    /// A name that is gone; `dir`: it was a directory.
    Delete { path: RelPath, dir: bool },
    /// A name that moved.
    Rename { from: RelPath, to: RelPath },
    /// A further name of a file.
    HardLink { path: RelPath, from: RelPath },
    /// The same content, other mode, owner or times.
    Attributes { path: RelPath },
}

/// A path at which source and target differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: RelPath,
    /// How; the first that applies.
    pub how: Differs,
    /// The attributes that differ, by name, where both sides have a thing of the same kind.
    pub attributes: Vec<&'static str>,
}

/// How source and target differ at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differs {
    /// Only the source has it.
    Missing {
        /// It is a directory.
        dir: bool,
    },
    /// Only the target has it.
    Extra {
        /// It is a directory.
        dir: bool,
    },
    /// They have things of different kinds.
    Kind {
        /// What the source has.
        source: Kind,
        /// What the target has.
        target: Kind,
    },
    /// They have other contents, or a symbolic link points elsewhere.
    Content,
    /// Only attributes differ.
    Attributes,
}

macro_rules! counters {
    ($($name:ident $text:literal $unit:literal $help:literal;)*) => {
        /// What is counted since the start of the process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Counter { $(#[doc = $help] $name,)* }

        impl Counter {
            /// All of them, in order.
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];

            /// Its name, as OpenMetrics has it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }

            /// Its unit; empty for plain numbers.
            #[must_use]
            pub fn unit(self) -> &'static str {
                match self { $(Counter::$name => $unit,)* }
            }

            /// What it counts.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Counter::$name => $help,)* }
            }
        }
    };
}

counters! {
    Events "events" "" "Events that the kernel told of.";
    Overflows "overflows" "" "Times that the kernel lost events.";
    Walks "walks" "" "Walks over a whole tree or a part of it.";
    Looks "looks" "" "Paths looked at.";
    ListsSame "lists_same" "" "Directories that a target held the same as the source.";
    Lists "lists" "" "Directories that a target listed.";
    Ops "ops" "" "Operations sent.";
    Acks "acks" "" "Operations acknowledged.";
    Refused "refused" "" "Operations that the target refused because it was not as expected.";
    Problems "problems" "" "Paths that could not be mirrored, each time.";
    Deletes "deletes" "" "Names deleted on targets.";
    Renames "renames" "" "Names renamed on targets.";
    Content "content" "bytes" "Bytes of content sent.";
    Created "ops_create" "" "Names created on targets.";
    Updated "ops_update" "" "Contents brought to targets.";
    Attributed "ops_attributes" "" "Attributes brought to targets.";
    Linked "ops_link" "" "Further names of files made on targets.";
    LinkOut "link_out" "bytes" "Bytes written to links.";
    LinkIn "link_in" "bytes" "Bytes read from links.";
    Reconnects "reconnects" "" "Links made again after they broke.";
}

/// All counters, at zero at first.
#[derive(Debug)]
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Adds `by`.
    pub fn add(&self, counter: Counter, by: u64) {
        self.0[counter as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// Keeps everything, for tests.
#[derive(Debug, Default)]
pub struct Counting {
    counters: Counters,
    notices: Mutex<Vec<Notice>>,
}

impl Counting {
    /// A counter's value.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters.get(counter)
    }

    /// All notices so far, in order.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Metrics for Counting {
    fn count(&self, counter: Counter, by: u64) {
        self.counters.add(counter, by);
    }

    fn notice(&self, notice: Notice) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_sorted_into_what_they_are_not_longer_than() {
        let histogram = Histogram::default();
        for ms in [0, 1, 2, 3, 250, 251, 400_000] {
            histogram.add(Duration::from_millis(ms));
        }
        assert_eq!(histogram.so_far(), [2, 3, 4, 4, 4, 4, 4, 5, 6, 6, 6, 6, 7]);
        assert_eq!(histogram.sum(), Duration::from_millis(400_507));
    }

    #[test]
    fn counters_have_names_of_their_own_and_count() {
        let counting = Counting::default();
        let mut names = std::collections::BTreeSet::new();
        for (at, counter) in Counter::ALL.iter().enumerate() {
            assert!(names.insert(counter.name()), "{}", counter.name());
            assert!(counter.help().ends_with('.') && ["", "bytes"].contains(&counter.unit()));
            counting.count(*counter, at as u64 + 1);
            counting.count(*counter, 1);
            assert_eq!(counting.get(*counter), at as u64 + 2);
        }
        let notice = Notice::Reconnected { mirror: "m".into() };
        counting.notice(notice.clone());
        assert_eq!(counting.notices(), [notice]);
    }
}
