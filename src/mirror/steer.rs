//! What is asked of a mirror that runs, and what it answers: how it stands, to wait until all is
//! mirrored, to pause and to go on.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::LastVerify;
use super::pending::Pending;
use crate::error::Problem;
use crate::metrics::{Progress, Totals};
use crate::watch::WatchStatus;

/// Whoever wants something of a mirror asks here, and is answered when it comes round to it.
pub type Steered = mpsc::Receiver<Steer>;

/// What somebody wants. Who does not wait any more lets go of the answer.
#[derive(Debug)]
pub enum Steer {
    /// What it has still to do.
    Pending(oneshot::Sender<Pending>),
    /// How it stands.
    Standing(oneshot::Sender<Box<Standing>>),
    /// To be told when everything is mirrored that has changed until now.
    Flush(oneshot::Sender<Flushed>),
    /// That it begins nothing more. What is on its way arrives.
    Pause(oneshot::Sender<()>),
    /// That it goes on.
    Resume {
        /// Deletes, too, that a guard has stopped.
        confirm: bool,
        /// Whether it does.
        answer: oneshot::Sender<Resumed>,
    },
}

/// How a flush ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flushed {
    /// Everything is mirrored.
    Done,
    /// Everything but these.
    Problems(Vec<Problem>),
    /// It is paused.
    Paused,
    /// Deletes are stopped, for this reason.
    Halted(String),
}

/// Whether a mirror goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// It does now.
    Yes,
    /// It did already.
    Already,
    /// But deletes stay stopped until they are confirmed: why.
    Halted(String),
}

impl Resumed {
    /// What comes of resuming a mirror that stands so.
    pub(super) fn of(halted: Option<&str>, paused: bool, confirm: bool) -> Resumed {
        match halted {
            Some(reason) if !confirm => Resumed::Halted(reason.to_owned()),
            Some(_) => Resumed::Yes,
            None if paused => Resumed::Yes,
            None => Resumed::Already,
        }
    }
}

/// What a mirror does, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// There is no link to the target; one is being made.
    Connecting,
    /// The first mirror is not complete yet.
    Mirroring,
    /// Changes flow.
    Live,
    /// Somebody paused it.
    Paused,
    /// A guard has stopped deletes; everything else flows.
    Halted,
    /// The source's root is not there.
    Waiting,
}

/// How a mirror stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// What it does.
    pub stand: Stand,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    /// How old the oldest change is that has not arrived. What has failed does not count.
    pub lag: Duration,
    /// Paths that are dirty or on their way.
    pub dirty: u64,
    /// Operations on their way.
    pub in_flight: u64,
    /// Bytes of content in those.
    pub in_flight_bytes: u64,
    /// The first of the paths that failed.
    pub problems: Vec<Problem>,
    /// How many failed.
    pub problem_count: u64,
    /// How its source is watched.
    pub watch: Option<WatchStatus>,
    /// What it holds and what it took.
    pub totals: Totals,
    /// Bytes written to the target's link, of all links so far.
    pub sent: u64,
    /// Bytes read from it.
    pub received: u64,
    /// How often the link was made again.
    pub reconnects: u64,
    /// How often the dirty set was too large and collapsed upwards.
    pub collapsed: u64,
    /// How far the walk is that runs.
    pub walk: Option<Progress>,
    /// What the last comparison by content came to, and how long ago it ended.
    pub last_verify: Option<(LastVerify, Duration)>,
}
