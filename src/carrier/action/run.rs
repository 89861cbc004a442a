//! The interpreter's thread: what happened and which children ended comes in, due delays go to the
//! scripts, alarms ring. It sleeps until one of these is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lsync_protocol::path::{Escaped, RelPath};
use mlua::{Function, Lua, Table, Value};
use rustix::process::Signal;
use tokio::sync::{mpsc as tasks, watch};

use super::child::Outcome;
use super::globals::Library;
use super::host::{Host, SyncState};
use super::observe::Ready;
use super::queue::{Change, Decision, DelayId, Etype, Queue, Status};
use super::stamp::Stamp;
use super::strings;
use super::{
    ActionLog, ActionOptions, ActionSync, Finish, Happening, Overview, Standing, SyncStatus,
};
use crate::error::{Error, Result};

/// How many happenings may wait for a script that does not return; more, and its sync starts anew.
const BACKLOG_MAX: usize = 200_000;
/// How often a fade says what it waits for.
const FADE_NOTE: Duration = Duration::from_secs(60);

/// What comes in.
#[derive(Debug)]
pub(super) enum Input {
    Happened(usize, Vec<Happening>),
    Ended(u64, Outcome),
    Full(usize),
    Ready(Ready),
    Stop(i32),
    Quit,
}

/// What waits to be taken in.
#[derive(Debug, Default)]
struct Backlog {
    waiting: AtomicUsize,
    /// Syncs whose events were dropped.
    lost: Mutex<BTreeSet<usize>>,
}

/// The syncs of an interpreter, at work. Dropping it ends its thread; children go on.
#[derive(Debug)]
pub struct Actions {
    host: Arc<Host>,
    overview: watch::Receiver<Overview>,
    walks: Mutex<Vec<Option<tasks::UnboundedReceiver<RelPath>>>>,
    backlog: Arc<Backlog>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Actions {
    /// Something happened in the source of a sync, in this order. The first of all is
    /// [`Happening::Reset`], once the source is watched: it lets the sync begin.
    pub fn events(&self, sync: usize, happened: Vec<Happening>) {
        let count = happened.len();
        if self.backlog.waiting.fetch_add(count, Ordering::AcqRel) + count > BACKLOG_MAX {
            self.backlog.waiting.fetch_sub(count, Ordering::AcqRel);
            let new = self.backlog.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(sync);
            if new {
                // Nothing else may be there to wake it.
                let _ = self.host.input.send(Input::Happened(sync, Vec::new()));
            }
            return;
        }
        let _ = self.host.input.send(Input::Happened(sync, happened));
    }

    /// A sync is to look at its whole source: its time has come.
    pub fn full(&self, sync: usize) {
        let _ = self.host.input.send(Input::Full(sync));
    }

    /// Nothing more is begun; it is over when the running children have ended.
    pub fn stop(&self, signal: i32) {
        let _ = self.host.input.send(Input::Stop(signal));
    }

    /// Sends TERM to the children that run, and says how many that were: nobody waits for them any
    /// longer. What they started themselves is theirs.
    #[must_use]
    pub fn end_children(&self) -> usize {
        let pids: Vec<u32> = self.host.state().children.values().map(|child| child.pid).collect();
        let sent = pids.iter().filter(|pid| {
            let pid = i32::try_from(**pid).ok().and_then(rustix::process::Pid::from_raw);
            pid.is_some_and(|pid| rustix::process::kill_process(pid, Signal::TERM).is_ok())
        });
        sent.count()
    }

    /// How the syncs stand, now and from now on. It closes when the thread has ended.
    #[must_use]
    pub fn overview(&self) -> watch::Receiver<Overview> {
        self.overview.clone()
    }

    /// Every delay of every sync.
    #[must_use]
    pub fn status(&self) -> Vec<SyncStatus> {
        self.host.status()
    }

    /// Directories of a sync that came to stand where they are by a move which is told to the
    /// script as a creation: what is in them is to be told as well. `None` once it was taken.
    #[must_use]
    pub fn walks(&self, sync: usize) -> Option<tasks::UnboundedReceiver<RelPath>> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner).get_mut(sync)?.take()
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        let _ = self.host.input.send(Input::Quit);
    }
}

/// Takes an interpreter that was [set up](super::install) and has loaded its configuration to a
/// thread of its own.
///
/// # Errors
/// The interpreter was not set up, a sync's commands cannot be understood, or there is no thread.
pub fn start(
    lua: Lua,
    syncs: Vec<ActionSync>,
    options: ActionOptions,
    log: Arc<dyn ActionLog>,
) -> Result<Actions> {
    let failed = |error: mlua::Error| {
        Error::failed("cannot start the scripts of the configuration").because(error)
    };
    let (host, objects, say, default_action) = match lua.app_data_ref::<Library>() {
        Some(library) => {
            let Library { objects, log, default_action, .. } = &*library;
            (Arc::clone(&library.host), objects.clone(), log.clone(), default_action.clone())
        }
        None => return Err(Error::failed("the interpreter has none of Lsyncd's functions")),
    };
    host.log_to(log);
    let spawn: Function = objects.raw_get("spawn").map_err(failed)?;
    let inputs =
        host.inputs().ok_or_else(|| Error::failed("the interpreter is on its thread already"))?;
    let (mut tell_walks, mut walks, mut states) = (Vec::new(), Vec::new(), Vec::new());
    for (number, sync) in syncs.into_iter().enumerate() {
        strings::compile(&lua, &sync.table, &spawn, &say).map_err(failed)?;
        states.push(prepare(&lua, &objects, &default_action, number, sync).map_err(failed)?);
        let (tell, told) = tasks::unbounded_channel();
        tell_walks.push(tell);
        walks.push(Some(told));
    }
    let lock: Function = objects.raw_get("lock").map_err(failed)?;
    lock.call::<()>(lua.globals()).map_err(failed)?;

    let (tell, overview) = watch::channel(Overview::default());
    let backlog = Arc::<Backlog>::default();
    {
        let mut state = host.state();
        state.syncs = states;
        state.options = options;
    }
    let thread = Interpreter {
        lua,
        host: Arc::clone(&host),
        objects,
        inputs,
        backlog: Arc::clone(&backlog),
        overview: tell,
        walks: tell_walks,
        round: 0,
        noted: None,
    };
    thread.publish(None);
    thread::Builder::new()
        .name("lua".into())
        .spawn(move || thread.run())
        .map_err(|error| Error::failed("cannot start the interpreter's thread").because(error))?;
    Ok(Actions { host, overview, walks: Mutex::new(walks), backlog })
}

fn prepare(
    lua: &Lua,
    objects: &Table,
    default_action: &Function,
    number: usize,
    sync: ActionSync,
) -> mlua::Result<SyncState> {
    let register: Function = objects.raw_get("register")?;
    let source = lua.create_string(with_slash(&sync.source))?;
    let inlet: Table = register.call((number, &*sync.name, &sync.table, source, sync.target))?;
    // `onMove = true` is for an action that knows moves; the default one only calls functions.
    let on_move: Value = sync.table.get("onMove")?;
    let action: Value = sync.table.get("action")?;
    let on_move = match on_move {
        Value::Boolean(wanted) => wanted && action != Value::Function(default_action.clone()),
        Value::Nil => false,
        _ => true,
    };
    Ok(SyncState {
        name: sync.name,
        source: sync.source,
        inlet,
        queue: Queue::new(sync.delay, sync.max_delays),
        filter: sync.filter,
        max_processes: sync.max_processes.max(1),
        exit_codes: sync.exit_codes,
        insist: sync.insist,
        on_move,
        config: sync.table,
        children: 0,
        standing: Standing::Starting,
        changes: 0,
        asleep: None,
    })
}

fn with_slash(path: &Path) -> Vec<u8> {
    let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
    if !bytes.ends_with(b"/") {
        bytes.push(b'/');
    }
    bytes
}

/// The thread's own.
struct Interpreter {
    lua: Lua,
    host: Arc<Host>,
    objects: Table,
    inputs: Receiver<Input>,
    backlog: Arc<Backlog>,
    overview: watch::Sender<Overview>,
    walks: Vec<tasks::UnboundedSender<RelPath>>,
    /// Which sync is the first to be offered something.
    round: usize,
    /// When the fade last said what it waits for.
    noted: Option<Instant>,
}

impl Interpreter {
    fn run(mut self) {
        let mut busy = false;
        let finish = loop {
            match self.take_in(busy) {
                Ok(()) => {}
                Err(Over) => break None,
            }
            self.ring();
            busy = self.offer();
            self.forget();
            if let Some(finish) = self.faded() {
                break Some(finish);
            }
            self.publish(None);
        };
        // What the interpreter holds and what holds the interpreter would keep each other.
        let mut state = self.host.state();
        let alarms = std::mem::take(&mut state.alarms);
        let children = std::mem::take(&mut state.children);
        let observed = std::mem::take(&mut state.observed);
        drop(state);
        drop((alarms, children, observed));
        self.publish(finish);
        self.host.state().syncs.clear();
        // It lives as long as its thread does.
        drop(self.lua);
    }

    /// Waits until there is something to do, and takes in what came.
    fn take_in(&mut self, busy: bool) -> std::result::Result<(), Over> {
        let first = if busy {
            self.inputs.try_recv().map_err(|error| error == TryRecvError::Disconnected)
        } else {
            match self.wakes() {
                None => self.inputs.recv().map_err(|_| true),
                Some(at) => {
                    let wait = at.saturating_duration_since(Instant::now());
                    let came = self.inputs.recv_timeout(wait);
                    came.map_err(|error| error == RecvTimeoutError::Disconnected)
                }
            }
        };
        match first {
            Ok(input) => self.handle(input)?,
            Err(true) => return Err(Over),
            Err(false) => {}
        }
        while let Ok(input) = self.inputs.try_recv() {
            self.handle(input)?;
        }
        let lost =
            std::mem::take(&mut *self.backlog.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for number in lost {
            self.happened(number, vec![Happening::Reset]);
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) -> std::result::Result<(), Over> {
        match input {
            Input::Happened(number, happened) => {
                self.backlog.waiting.fetch_sub(happened.len(), Ordering::AcqRel);
                self.happened(number, happened);
            }
            Input::Ended(child, outcome) => self.ended(child, outcome),
            Input::Full(number) => {
                if let Some(sync) = self.host.state().sync(number).filter(|sync| !sync.ended()) {
                    sync.queue.push(Instant::now(), Change::whole(Etype::Full));
                    sync.touch();
                }
            }
            Input::Ready(ready) => self.ready(ready),
            Input::Stop(signal) => {
                self.host.state().fading.get_or_insert(signal);
            }
            Input::Quit => return Err(Over),
        }
        Ok(())
    }

    /// A descriptor that a script watches is ready.
    fn ready(&mut self, ready: Ready) {
        let functions = {
            let state = self.host.state();
            let observed = state.observed.get(&ready.fd);
            let Some(observed) = observed.filter(|o| o.number == ready.number) else { return };
            if state.fading.is_some() || state.terminated.is_some() {
                return;
            }
            let read = observed.ready.clone().filter(|_| ready.read);
            [read, observed.writey.clone().filter(|_| ready.write)]
        };
        for function in functions.into_iter().flatten() {
            let result = function.call::<()>(ready.fd);
            self.came_back(None, result);
        }
        // The script may have let it go meanwhile.
        let state = self.host.state();
        if let Some(observed) = state.observed.get(&ready.fd).filter(|o| o.number == ready.number) {
            observed.again();
        }
    }

    /// When there is something to do even if nothing comes.
    fn wakes(&self) -> Option<Instant> {
        let now = Instant::now();
        let state = self.host.state();
        if state.fading.is_some() || state.terminated.is_some() {
            return Some(self.noted.map_or(now, |noted| noted + FADE_NOTE));
        }
        let alarm = state.alarms.keys().next().map(|&(at, _)| at);
        let due = (0..state.syncs.len())
            .filter(|&number| state.room_for(number))
            .filter_map(|number| state.syncs[number].wakes(now));
        due.chain(alarm).min()
    }

    /// Puts what happened into the queue of a sync.
    fn happened(&mut self, number: usize, happened: Vec<Happening>) {
        let now = Instant::now();
        let mut lines = Vec::new();
        let mut state = self.host.state();
        for happening in happened {
            let Some(sync) = state.syncs.get_mut(number).filter(|sync| !sync.ended()) else {
                break;
            };
            if happening == Happening::Reset {
                reset(sync, now);
                continue;
            }
            let moved = match &happening {
                Happening::Move { to, dir: true, .. } => Some(to.clone()),
                _ => None,
            };
            let (mut anew, mut gone) = (false, Vec::new());
            for change in translate(sync, happening) {
                let decisions = sync.queue.push(now, change.clone());
                anew |=
                    change.etype == Etype::Create || decisions.first() == Some(&Decision::Split);
                lines.push(told(&change, &decisions));
                gone.extend(decisions.iter().filter_map(|decision| match decision {
                    Decision::Replaced { old, .. } => Some((number, *old)),
                    _ => None,
                }));
                sync.touch();
            }
            state.left.extend(gone);
            // A directory that is told of as created has to be told of with all that is in it.
            if let (true, Some(to), Some(walks)) = (anew, moved, self.walks.get(number)) {
                let _ = walks.send(to);
            }
        }
        drop(state);
        for line in lines {
            self.host.say("Delay", &line);
        }
    }

    /// Calls what is due.
    fn ring(&mut self) {
        let now = Instant::now();
        loop {
            let due = {
                let mut state = self.host.state();
                if state.fading.is_some() || state.terminated.is_some() {
                    return;
                }
                let first = state.alarms.keys().next().copied().filter(|(at, _)| *at <= now);
                let due = first.and_then(|key| state.alarms.remove(&key));
                state.current = due.as_ref().and_then(|alarm| alarm.sync);
                due
            };
            let Some(alarm) = due else { break };
            let gone = alarm.sync.is_some_and(|number| {
                self.host.state().sync(number).is_none_or(|sync| sync.ended())
            });
            if gone {
                continue;
            }
            let result = alarm.function.call::<()>((Stamp(now), alarm.extra));
            self.came_back(alarm.sync, result);
        }
    }

    /// Offers each sync's script one thing that is due, in turn. Says whether anything came of it.
    fn offer(&mut self) -> bool {
        let count = {
            let state = self.host.state();
            if state.fading.is_some() || state.terminated.is_some() {
                return false;
            }
            state.syncs.len()
        };
        let (mut did, first) = (false, self.round);
        for step in 0..count {
            let number = (first + step) % count;
            if self.offer_to(number) {
                did = true;
                // Where there is not room for all, the next one is the first the next time.
                self.round = (number + 1) % count;
            }
        }
        did
    }

    fn offer_to(&mut self, number: usize) -> bool {
        let now = Instant::now();
        let (id, etype, config, inlet, before) = {
            let mut state = self.host.state();
            if !state.room_for(number) || state.terminated.is_some() {
                return false;
            }
            state.current = Some(number);
            let sync = &mut state.syncs[number];
            if sync.ended() || sync.asleep.is_some_and(|asleep| asleep > now) {
                return false;
            }
            let Some(id) = sync.queue.next(now) else { return false };
            let Some(etype) = sync.queue.get(id).map(|delay| delay.change.etype) else {
                return false;
            };
            (id, etype, sync.config.clone(), sync.inlet.clone(), sync.changes)
        };
        let result = self.call(number, id, etype, &config, inlet);
        let failed = result.is_err();
        self.came_back(Some(number), result);
        if failed {
            return true;
        }
        let mut state = self.host.state();
        // What is about the whole source and left alone would hold up everything for ever.
        let waits =
            |sync: &SyncState| sync.queue.get(id).is_some_and(|delay| delay.status == Status::Wait);
        if matches!(etype, Etype::Init | Etype::Full) && waits(&state.syncs[number]) {
            state.finish(number, id);
        }
        let sync = &mut state.syncs[number];
        let did = sync.changes != before;
        if !did {
            sync.sleep(now);
        }
        did
    }

    /// Gives a due delay to the function that is there for its kind.
    fn call(
        &self,
        number: usize,
        id: DelayId,
        etype: Etype,
        config: &Table,
        inlet: Table,
    ) -> mlua::Result<()> {
        let names: &[&str] = match etype {
            Etype::Init => &["init"],
            Etype::Full => &["full", "onFull"],
            _ => &["action"],
        };
        let mut function = None;
        for name in names {
            if let Value::Function(found) = config.get(*name)? {
                function = function.or(Some(found));
            }
        }
        let Some(function) = function else {
            if etype == Etype::Full {
                self.host.say("Warn", "ignored an event of type Full: the sync has no onFull");
            }
            if etype == Etype::Init || etype == Etype::Full {
                return Ok(());
            }
            return Err(mlua::Error::runtime("this sync has no function action"));
        };
        if names == ["action"] {
            return function.call(inlet);
        }
        let event: Function = self.objects.raw_get("event")?;
        let event: Table = event.call((number, id.0))?;
        function.call(event)
    }

    /// A child ended: its script says what that means.
    fn ended(&mut self, child: u64, outcome: Outcome) {
        let (child, config) = {
            let mut state = self.host.state();
            let Some(child) = state.children.remove(&child) else { return };
            state.current = Some(child.sync);
            let Some(sync) = state.syncs.get_mut(child.sync) else { return };
            sync.children = sync.children.saturating_sub(1);
            sync.touch();
            if sync.ended() {
                return;
            }
            (child, sync.config.clone())
        };
        let verdict = collect(&config, &child.agent, outcome);
        let number = child.sync;
        let word = match verdict {
            Ok(word) => word,
            Err(error) => return self.came_back(Some(number), Err(error)),
        };
        let now = Instant::now();
        match word.as_str() {
            "ok" => {
                let mut state = self.host.state();
                for id in child.ids {
                    state.finish(number, id);
                }
            }
            "again" => {
                let mut state = self.host.state();
                if let Some(sync) = state.syncs.get_mut(number) {
                    for id in child.ids {
                        sync.queue.retry(now, id);
                    }
                    sync.touch();
                }
            }
            "die" => self.end_sync(number, &format!("a child ended with {}", outcome.code)),
            other => {
                let why = format!("collect() returned \"{other}\", not ok, again or die");
                self.end_sync(number, &why);
            }
        }
    }

    /// A call into a sync's script has returned; an error ends that sync alone.
    fn came_back(&mut self, number: Option<usize>, result: mlua::Result<()>) {
        let error = {
            let mut state = self.host.state();
            state.current = None;
            match result {
                // That is how `terminate` leaves the script.
                Err(_) if state.terminated.is_some() => return,
                Ok(()) => return,
                Err(error) => error,
            }
        };
        match number {
            Some(number) => self.end_sync(number, &error.to_string()),
            None => self.host.say("Error", &error.to_string()),
        }
    }

    /// This sync does nothing more; the others go on.
    fn end_sync(&mut self, number: usize, why: &str) {
        let name = {
            let mut state = self.host.state();
            let Some(sync) = state.syncs.get_mut(number) else { return };
            let at_start = sync.standing == Standing::Starting;
            sync.standing = Standing::Failed { at_start };
            let ids: Vec<DelayId> = sync.queue.iter().map(|delay| delay.id).collect();
            sync.queue = Queue::new(Duration::ZERO, 1);
            let name = sync.name.clone();
            state.left.extend(ids.into_iter().map(|id| (number, id)));
            name
        };
        self.host.say("Error", &format!("sync {name} ends here: {why}"));
    }

    /// Lets go of events whose delays are no more.
    fn forget(&mut self) {
        let left = std::mem::take(&mut self.host.state().left);
        if left.is_empty() {
            return;
        }
        let forget = self.objects.raw_get::<Function>("forget");
        for (number, id) in left {
            if let Ok(forget) = &forget {
                let _ = forget.call::<()>((number, id.0));
            }
        }
    }

    /// It is over: nothing more is begun and no child runs.
    fn faded(&mut self) -> Option<Finish> {
        let (finish, children) = {
            let state = self.host.state();
            let finish = match (state.terminated, state.fading) {
                (Some(code), _) => Finish::Terminated(code),
                (None, Some(signal)) => Finish::Faded(signal),
                (None, None) => return None,
            };
            (finish, state.children.len())
        };
        if children == 0 {
            return Some(finish);
        }
        let now = Instant::now();
        if self.noted.is_none_or(|noted| noted + FADE_NOTE <= now) {
            self.noted = Some(now);
            self.host.say("Normal", &format!("waiting for {children} more child processes."));
        }
        None
    }

    fn publish(&self, finished: Option<Finish>) {
        let syncs = self.host.state().syncs.iter().map(|sync| sync.standing).collect();
        let now = Overview { syncs, finished };
        self.overview.send_if_modified(|old| {
            let differs = *old != now;
            *old = now;
            differs
        });
    }
}

/// Nobody wants it any more.
struct Over;

/// The sync begins anew: its startup runs after what is queued, and before what comes.
fn reset(sync: &mut SyncState, now: Instant) {
    let waits = sync
        .queue
        .iter()
        .last()
        .is_some_and(|last| last.change.etype == Etype::Init && last.status != Status::Active);
    let wanted = !matches!(sync.config.raw_get("init"), Ok(Value::Boolean(false)));
    if wanted && !waits {
        sync.queue.push(now, Change::whole(Etype::Init));
        sync.touch();
    } else if !wanted && sync.standing == Standing::Starting {
        sync.standing = Standing::Running;
    }
}

/// What a sync is to hear of something: nothing of what is excluded, and a move only whole.
fn translate(sync: &SyncState, happening: Happening) -> Vec<Change> {
    let sent =
        |path: &RelPath, dir: bool| !path.is_root() && sync.filter.verdict_deep(path, dir).sent;
    let one = |etype, path: RelPath, dir| {
        if sent(&path, dir) { vec![Change::of(etype, path, dir)] } else { Vec::new() }
    };
    match happening {
        Happening::Create { path, dir } => one(Etype::Create, path, dir),
        Happening::Modify { path } => one(Etype::Modify, path, false),
        Happening::Attrib { path, dir } => one(Etype::Attrib, path, dir),
        Happening::Delete { path, dir } => one(Etype::Delete, path, dir),
        Happening::Move { from, to, dir } => match (sent(&from, dir), sent(&to, dir)) {
            (true, true) if sync.on_move => vec![Change::moved(from, to, dir)],
            (gone, came) => {
                let gone = gone.then(|| Change::of(Etype::Delete, from, dir));
                let came = came.then(|| Change::of(Etype::Create, to, dir));
                gone.into_iter().chain(came).collect()
            }
        },
        Happening::Reset => Vec::new(),
    }
}

/// A line about what became of something.
fn told(change: &Change, decisions: &[Decision]) -> String {
    let path = Escaped(&change.path.slashed()).to_string();
    let to = change.to.as_ref().map(|to| format!(" -> {}", Escaped(&to.slashed())));
    let what = format!("{}: {path}{}", change.etype, to.unwrap_or_default());
    match decisions.first() {
        Some(Decision::New(_)) => format!("New {what}"),
        Some(Decision::Absorbed(_)) => format!("{what} absorbed"),
        Some(Decision::Replaced { .. }) => format!("{what} replaces"),
        Some(Decision::Stacked { .. }) => format!("Stacking {what}"),
        Some(Decision::ToDelete { .. }) => format!("{what} turns a move to a deletion"),
        Some(Decision::Split) => format!("{what} splits"),
        None => what,
    }
}

/// Asks the script's `collect` what a child's end means. A child that was killed has not done its
/// work, whatever a script makes of its exit code, unless that is the end.
fn collect(config: &Table, agent: &Table, outcome: Outcome) -> mlua::Result<String> {
    let collect: Function = config.get("collect")?;
    let answer: Value = collect.call((agent, outcome.code, outcome.signal))?;
    let word = match answer {
        Value::Nil => "ok".to_owned(),
        Value::String(word) => word.to_string_lossy(),
        other => other.to_string()?,
    };
    Ok(if word == "ok" && outcome.signal.is_some() { "again".to_owned() } else { word })
}
