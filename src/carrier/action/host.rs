//! What the functions that scripts call and the interpreter's thread share.
//!
//! The lock is never held while Lua runs, so a function that a script calls finds it free.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lsync_protocol::path::Escaped;
use mlua::{Function, Table, Value};

use super::observe::Observed;
use super::queue::{Delay, DelayId, Etype, Place, Queue, Status};
use super::run::Input;
use super::{ActionLog, ActionOptions, DelayStatus, Standing, SyncStatus};
use crate::config::rsync::ExitMeaning;
use crate::filter::Filter;

/// Shared between the functions in the interpreter and its thread.
pub(super) struct Host {
    state: Mutex<State>,
    log: Mutex<Arc<dyn ActionLog>>,
    /// Where children and descriptors tell what became of them.
    pub(super) input: Sender<Input>,
    inputs: Mutex<Option<Receiver<Input>>>,
}

/// Everything that changes.
#[derive(Default)]
pub(super) struct State {
    pub(super) syncs: Vec<SyncState>,
    /// What scripts want to be called at.
    pub(super) alarms: BTreeMap<(Instant, u64), Alarm>,
    /// Children that run, by our own numbers.
    pub(super) children: HashMap<u64, Child>,
    /// Descriptors that scripts watch.
    pub(super) observed: HashMap<i32, Observed>,
    pub(super) options: ActionOptions,
    /// The signal that ends it.
    pub(super) fading: Option<i32>,
    /// A script wants all of it to end, with this code.
    pub(super) terminated: Option<i32>,
    /// Delays that left the queue and whose events in the interpreter are to go.
    pub(super) left: Vec<(usize, DelayId)>,
    /// The sync whose script runs.
    pub(super) current: Option<usize>,
    next_number: u64,
}

/// A call that is due at some time.
pub(super) struct Alarm {
    pub(super) function: Function,
    pub(super) extra: Value,
    /// Whose script asked for it; none if that was while it was loaded.
    pub(super) sync: Option<usize>,
}

/// A child that runs.
pub(super) struct Child {
    pub(super) sync: usize,
    pub(super) ids: Vec<DelayId>,
    /// The event or list that it was spawned for.
    pub(super) agent: Table,
    pub(super) pid: u32,
}

/// One sync.
pub(super) struct SyncState {
    pub(super) name: String,
    pub(super) source: PathBuf,
    pub(super) config: Table,
    pub(super) inlet: Table,
    pub(super) queue: Queue,
    pub(super) filter: Filter,
    pub(super) max_processes: usize,
    pub(super) exit_codes: Option<BTreeMap<i32, ExitMeaning>>,
    pub(super) insist: bool,
    pub(super) on_move: bool,
    pub(super) children: usize,
    pub(super) standing: Standing,
    /// Counts what scripts and children did to the queue, to see whether an action did anything.
    pub(super) changes: u64,
    /// Its action left alone what was due: it is asked again when something happens, or then.
    pub(super) asleep: Option<Instant>,
}

impl Host {
    pub(super) fn new(log: Arc<dyn ActionLog>) -> Host {
        let (input, inputs) = mpsc::channel();
        let inputs = Mutex::new(Some(inputs));
        Host { state: Mutex::default(), log: Mutex::new(log), input, inputs }
    }

    /// What comes in; there is one thread to take it.
    pub(super) fn inputs(&self) -> Option<Receiver<Input>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log_to(&self, log: Arc<dyn ActionLog>) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log;
    }

    pub(super) fn say(&self, category: &str, text: &str) {
        let log = Arc::clone(&self.log.lock().unwrap_or_else(PoisonError::into_inner));
        log.line(category, text);
    }

    /// Every sync, for the status file.
    pub(super) fn status(&self) -> Vec<SyncStatus> {
        self.state().syncs.iter().map(SyncState::status).collect()
    }
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A sync that has not ended.
    pub(super) fn sync(&mut self, number: usize) -> Option<&mut SyncState> {
        self.syncs.get_mut(number)
    }

    /// A delay is done or dropped.
    pub(super) fn finish(&mut self, number: usize, id: DelayId) -> Option<Delay> {
        let sync = self.syncs.get_mut(number)?;
        sync.touch();
        let delay = sync.queue.finish(id)?;
        if delay.change.etype == Etype::Init && sync.standing == Standing::Starting {
            sync.standing = Standing::Running;
        }
        self.left.push((number, id));
        Some(delay)
    }

    /// May one child more run?
    pub(super) fn room_for(&self, number: usize) -> bool {
        let all = self.options.max_processes.is_none_or(|max| self.children.len() < max);
        all && self.syncs.get(number).is_some_and(|sync| sync.children < sync.max_processes)
    }
}

impl SyncState {
    pub(super) fn ended(&self) -> bool {
        matches!(self.standing, Standing::Failed { .. })
    }

    /// Something happened to its queue.
    pub(super) fn touch(&mut self) {
        self.changes += 1;
        self.asleep = None;
    }

    /// When its script is to be asked next.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        if self.ended() {
            return None;
        }
        let due = self.queue.next_alarm(now)?;
        Some(self.asleep.map_or(due, |asleep| due.max(asleep)))
    }

    /// Its action did nothing about what is due.
    pub(super) fn sleep(&mut self, now: Instant) {
        self.asleep = Some(now + Duration::from_secs(1));
    }

    fn status(&self) -> SyncStatus {
        let delays = self
            .queue
            .iter()
            .map(|delay| DelayStatus {
                status: delay.status,
                etype: delay.change.etype,
                path: raw_path(delay),
                path2: delay.change.to.as_ref().map(Place::slashed),
            })
            .collect();
        SyncStatus {
            name: self.name.clone(),
            source: self.source.clone(),
            standing: self.standing,
            delays,
            children: self.children,
            rules: self.filter.texts().map(|text| Escaped(text).to_string()).collect(),
        }
    }
}

/// The path as scripts have it: none where the event is about the whole source.
pub(super) fn raw_path(delay: &Delay) -> Vec<u8> {
    if delay.change.etype.is_barrier() { Vec::new() } else { delay.change.path.slashed() }
}

/// How a delay stands, as scripts read it.
pub(super) fn status_word(status: Status) -> &'static str {
    status.name()
}
