//! The loop of one mirror: waits in one place, names what came, and performs what
//! [`Mirror::handle`] decides. It decides nothing itself but when to connect again.

mod names;
mod steering;

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_agent::fault::OnDemand;
use lsync_protocol::entry::Quick;
use lsync_protocol::message::MAX_LISTS;
use lsync_protocol::path::RelPath;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::connect::{Connected, Greeting, back_off, connect};
use super::hooks::Hooked;
use super::steer::{Flushed, Steer, Steered};
use super::{Effect, Event, Mirror, Report, Rules, Totals, Unasked};
use crate::carrier::agent::{AgentCarrier, CarrierOptions};
use crate::carrier::{Carried, Carrier};
use crate::collate::Batch;
use crate::config::{MirrorConfig, Verify};
use crate::error::{Error, Exit, Result};
use crate::link::Remote;
use crate::metrics::{self, Counter, Metrics, Notice, Stage, Step};
use crate::plan::Planned;
use crate::source::{Events, Found, OwnerNames, Source};

/// How long a mirror that is told to end lets small operations in flight finish.
const LAST_ORDERS: Duration = Duration::from_secs(5);
/// A link that was there for so long was a good one.
const STEADY: Duration = Duration::from_secs(30);
/// How often people are told how far a walk has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// A mirror to be run.
pub struct Running {
    /// What it is.
    pub config: Arc<MirrorConfig>,
    /// Its source, shared with other mirrors of it.
    pub source: Arc<Source>,
    /// Events of the source; absent when it is not watched.
    pub events: Option<Events>,
    /// Keys the digests of this source.
    pub key: [u8; 32],
    /// Mirror once and end.
    pub once: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Only compare; goes with `once`.
    pub verify: Verify,
    /// Who hears of it.
    pub metrics: Arc<dyn Metrics>,
    /// Turns true when the mirror has to end.
    pub stop: watch::Receiver<bool>,
    /// Where it tells whether its first connect succeeded.
    pub starts: Arc<Starts>,
    /// Who may ask things of it, if anybody may.
    pub steered: Option<Steered>,
    /// There is another way to mirror to it: a host that takes no agent ends this one.
    pub has_other_way: bool,
    /// What fails in an agent of this process, for tests.
    pub faults: OnDemand,
}

/// What has become of the first connects of all mirrors: where none succeeds, the program ends.
#[derive(Debug)]
pub struct Starts {
    state: watch::Sender<(usize, usize)>,
}

impl Starts {
    /// So many mirrors are to start.
    #[must_use]
    pub fn new(mirrors: usize) -> Starts {
        Starts { state: watch::Sender::new((mirrors, 0)) }
    }

    pub(crate) fn tell(&self, started: bool) {
        self.state.send_modify(|(pending, up)| {
            *pending = pending.saturating_sub(1);
            *up += usize::from(started);
        });
    }

    /// So many mirrors are to start, and none that cannot ends the program: they go on trying.
    #[must_use]
    pub fn insisting(mirrors: usize) -> Starts {
        Starts { state: watch::Sender::new((mirrors, 1)) }
    }

    /// Waits until one mirror has started (true) or none can (false).
    pub(crate) async fn any(&self) -> bool {
        let mut state = self.state.subscribe();
        let decided = state.wait_for(|(pending, up)| *up > 0 || *pending == 0).await;
        decided.is_ok_and(|state| state.1 > 0)
    }
}

/// What the looker is asked, in order.
enum Ask {
    Look(Arc<Batch>),
    Missing { asked: u64, paths: Vec<(RelPath, lsync_protocol::entry::Kind)> },
    Check { accept: bool },
    Names(Unasked),
}

/// What the looker answers.
#[allow(clippy::large_enum_variant)] // nearly all of them are the large one
enum Looker {
    Event(Event),
    Names(OwnerNames),
}

/// The link as it is.
enum Link {
    /// Being made.
    Connecting(JoinHandle<Result<Connected>>),
    /// There.
    Up {
        carrier: AgentCarrier,
        said: mpsc::Receiver<Carried>,
        /// The agent knows that everything is mirrored.
        told: bool,
        /// Keeps the ssh connection.
        _remote: Option<Box<dyn Remote>>,
    },
    /// To be made again at this time.
    Down(Instant),
}

/// The source's numbers and the target's.
type Numbers = Vec<(u32, u32)>;

struct Loop {
    running: Running,
    mirror: Mirror,
    link: Link,
    /// Attempts since the link was last there for a while.
    tries: u32,
    up_since: Option<Instant>,
    connected_once: bool,
    looker: std::sync::mpsc::Sender<Ask>,
    looked: mpsc::Receiver<Looker>,
    /// Where `looked` is answered, for those who read beside the looker.
    answers: mpsc::Sender<Looker>,
    walk: Option<(u64, mpsc::Receiver<Found>)>,
    /// Numbers of owners that the target was asked about.
    asking: Unasked,
    /// Numbers that need not be asked about, till the others are told.
    known: (Numbers, Numbers),
    /// The target was asked whether it knows whom maps name.
    names_tried: bool,
    /// It does not.
    refused: Option<Error>,
    began: Instant,
    /// What went over this link when it was last asked.
    traffic: (u64, u64),
    /// The same of all links so far.
    traffic_of_all: (u64, u64),
    reconnects: u64,
    /// Why there is no link.
    down_for: Option<String>,
    /// Who waits for a flush, by its number.
    flushes: HashMap<u64, oneshot::Sender<Flushed>>,
    finish: Option<Exit>,
    hooks: Hooked,
    name: Arc<str>,
}

/// What came.
enum Came {
    Event(Event),
    Names(OwnerNames),
    Carried(Carried),
    Connected(Result<Box<Connected>>),
    Connect,
    Steer(Steer),
    Progress,
    Stop,
}

/// Runs one mirror to its end.
///
/// # Errors
/// It could not start, and neither could any other.
pub async fn run(running: Running) -> Result<Exit> {
    let config = &running.config;
    let rules = Rules {
        delay: config.delay,
        delete: config.delete,
        max_delete: config.max_delete,
        allow_empty: config.allow_empty,
        filter: Arc::new(config.filter.clone()),
        wanted: super::wanted(config.attributes),
        numeric_ids: config.attributes.numeric_ids,
        mapping: Arc::clone(&config.mapping),
        quick: match running.verify {
            Verify::No if !config.checksum && config.size_only => Quick::Size,
            Verify::No if !config.checksum => Quick::SizeAndTime,
            _ => Quick::Content,
        },
        rescan: config.rescan.map(jittered),
        verify_every: config.verify_every.map(jittered),
        once: running.once || running.dry_run || running.verify != Verify::No,
        dry_run: running.dry_run || running.verify == Verify::Tell,
        verify: running.verify,
        key: running.key,
    };
    let (looker, asked) = std::sync::mpsc::channel();
    let (answers, looked) = mpsc::channel(16);
    let (source, beside) = (Arc::clone(&running.source), answers.clone());
    std::thread::Builder::new()
        .name("looker".into())
        .spawn(move || look(&source, &asked, &answers))
        .map_err(|error| Error::failed("cannot start a thread").because(error))?;
    let name: Arc<str> = config.name.as_str().into();
    let touches = !running.dry_run && running.verify == Verify::No;
    let hooks = if touches { config.hooks.clone() } else { Default::default() };
    let hooks = Hooked::new(&hooks, &name, &config.source, &config.target.to_string());
    let mut this = Loop {
        mirror: Mirror::new(rules),
        link: Link::Down(Instant::now()),
        tries: 0,
        up_since: None,
        connected_once: false,
        looker,
        looked,
        answers: beside,
        walk: None,
        asking: Unasked::default(),
        known: Default::default(),
        names_tried: false,
        refused: None,
        began: Instant::now(),
        traffic: (0, 0),
        traffic_of_all: (0, 0),
        reconnects: 0,
        down_for: None,
        flushes: HashMap::new(),
        finish: None,
        hooks,
        name,
        running,
    };
    this.run().await
}

/// Not all mirrors of a host walk at the same moment: up to a tenth more or less.
pub(super) fn jittered(every: Duration) -> Duration {
    let [byte] = super::connect::random::<1>().unwrap_or([128]);
    every.mul_f32(0.9 + f32::from(byte) / 1280.0)
}

/// Answers what is asked, one after the other, so that batches stay in order.
fn look(source: &Source, asked: &std::sync::mpsc::Receiver<Ask>, answers: &mpsc::Sender<Looker>) {
    while let Ok(ask) = asked.recv() {
        let answer = match ask {
            Ask::Look(batch) => Looker::Event(Event::Looked(source.look(&batch))),
            Ask::Missing { asked, paths } => {
                let absent = source.absent(paths);
                Looker::Event(Event::StillMissing { asked, absent })
            }
            Ask::Check { accept } => Looker::Event(Event::Root(source.check(accept))),
            Ask::Names(unasked) => Looker::Names(Source::names(&unasked.users, &unasked.groups)),
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

impl Loop {
    async fn run(&mut self) -> Result<Exit> {
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let came = self.wait(&mut progress).await;
            if let Some(ended) = self.take(came).await? {
                return Ok(ended);
            }
            self.hooks.even(self.mirror.is_even(), self.mirror.totals().ops);
            if let Link::Up { carrier, told, .. } = &mut self.link {
                // What is only compared is not mirrored.
                let only = self.running.verify != Verify::No;
                if !*told && !only && self.mirror.is_even() {
                    *told = true;
                    carrier.mirrored();
                }
                carrier.flush();
            }
            if let Some(exit) = self.finish {
                self.say_goodbye().await;
                if self.running.once {
                    self.hooks.finish().await;
                }
                if self.running.once && exit != Exit::Stopped {
                    let totals = self.totals(self.mirror.totals());
                    let differences = self.mirror.differences();
                    let verify = self.running.verify;
                    let healed = verify == Verify::Heal;
                    self.notice(|mirror| match verify {
                        Verify::No => Notice::Done { mirror, totals },
                        _ => Notice::Verified { mirror, totals, differences, healed },
                    });
                }
                return Ok(exit);
            }
        }
    }

    /// Waits in one place and names what came.
    async fn wait(&mut self, progress: &mut tokio::time::Interval) -> Came {
        let tick = self.mirror.next();
        let wants_walk = self.mirror.wants_walk();
        let walking = self.walk.is_some() && !self.mirror.is_ready();
        let (link_at, connecting, said) = match &mut self.link {
            Link::Connecting(task) => (None, Some(task), None),
            Link::Up { said, .. } => (None, None, Some(said)),
            Link::Down(at) => (Some(*at), None, None),
        };
        tokio::select! {
            biased;
            _ = stopped(&mut self.running.stop) => Came::Stop,
            Some(steer) = steered(&mut self.running.steered) => Came::Steer(steer),
            Some(carried) = recv(said) => Came::Carried(carried),
            Some(events) = events(&mut self.running.events) => Came::Event(Event::Watched(events)),
            Some(looker) = self.looked.recv() => match looker {
                Looker::Event(event) => Came::Event(event),
                Looker::Names(names) => Came::Names(names),
            },
            Some(found) = found(&mut self.walk), if wants_walk => Came::Event(found),
            connected = joined(connecting) => Came::Connected(connected.map(Box::new)),
            () = until(link_at) => Came::Connect,
            () = until(tick) => Came::Event(Event::Tick),
            _ = progress.tick(), if walking => Came::Progress,
        }
    }

    /// Acts on what came. `Some`: the mirror has ended.
    async fn take(&mut self, came: Came) -> Result<Option<Exit>> {
        match came {
            Came::Event(event) => {
                self.forget_who_left();
                self.handle(event);
                self.more_of_the_walk();
            }
            Came::Carried(Carried::Lost(error)) => self.lost(&error),
            Came::Carried(Carried::Warning(text)) => {
                self.notice(|mirror| Notice::Warning { mirror, text });
            }
            Came::Carried(carried) => {
                let event = self.event(carried);
                if let Some(error) = self.refused.take() {
                    return Err(error);
                }
                self.handle(event);
            }
            Came::Names(names) => self.names(&names),
            Came::Connect => {
                let what = Greeting {
                    config: Arc::clone(&self.running.config),
                    source: Arc::clone(&self.running.source),
                    key: self.running.key,
                    dry_run: self.running.dry_run || self.running.verify == Verify::Tell,
                    heals: self.running.verify == Verify::Heal,
                    faults: self.running.faults.clone(),
                };
                let metrics = Arc::clone(&self.running.metrics);
                self.link = Link::Connecting(tokio::spawn(connect(what, metrics)));
            }
            Came::Connected(Ok(connected)) => self.connected(*connected),
            Came::Connected(Err(error)) => {
                if !self.connected_once && self.running.has_other_way && error.is_no_agent() {
                    return Err(error);
                }
                if !self.connected_once && self.tries == 0 {
                    self.running.starts.tell(false);
                    let once = self.running.once || self.running.dry_run;
                    if once {
                        return Err(error);
                    }
                    let starts = Arc::clone(&self.running.starts);
                    tokio::select! {
                        any = starts.any() => if !any {
                            return Err(error);
                        },
                        () = stopped(&mut self.running.stop) => return Err(error),
                    }
                    let (what, hint) = (error.to_string(), error.hint_text().map(Into::into));
                    self.notice(|mirror| Notice::Failed { mirror, what, hint });
                }
                self.down(&error);
            }
            Came::Steer(steer) => self.steer(steer),
            Came::Progress => self.progress(),
            Came::Stop => {
                self.say_goodbye().await;
                return Ok(Some(Exit::Done));
            }
        }
        Ok(None)
    }

    fn notice(&self, notice: impl FnOnce(Arc<str>) -> Notice) {
        self.running.metrics.notice(notice(Arc::clone(&self.name)));
    }

    fn count(&self, counter: Counter, by: u64) {
        self.running.metrics.count(counter, by);
    }

    fn connected(&mut self, connected: Connected) {
        let welcome = connected.greeted.welcome.clone();
        let (events, said) = mpsc::channel(1024);
        let source = Arc::clone(&self.running.source);
        let config = &self.running.config;
        let options = CarrierOptions {
            rate: config.bwlimit,
            compress: config.compress,
            mapping: Arc::clone(&config.mapping),
        };
        let carrier = AgentCarrier::start(connected.greeted, source, options, events);
        self.link = Link::Up { carrier, said, told: false, _remote: connected.remote };
        self.up_since = Some(Instant::now());
        self.traffic = (0, 0);
        self.down_for = None;
        self.asking = Unasked::default();
        self.names_tried = false;
        if self.connected_once {
            self.reconnects += 1;
            self.count(Counter::Reconnects, 1);
            self.notice(|mirror| Notice::Reconnected { mirror });
        } else {
            self.connected_once = true;
            self.running.starts.tell(true);
            if let Some(text) = super::fixed::root(&self.running.config.target, &welcome) {
                self.notice(|mirror| Notice::Fixed { mirror, text });
            }
        }
        self.handle(Event::Connected(Box::new(welcome)));
    }

    fn lost(&mut self, error: &Error) {
        self.handle(Event::Lost);
        self.down(error);
    }

    /// The link is not there: it is made again after a while.
    fn down(&mut self, error: &Error) {
        // A link that breaks as soon as it is there is no reason to knock faster.
        if self.up_since.take().is_some_and(|since| since.elapsed() > STEADY) {
            self.tries = 0;
        }
        let retry_in = back_off(self.tries);
        self.tries += 1;
        self.link = Link::Down(Instant::now() + retry_in);
        let cause = error.to_string();
        self.down_for = Some(cause.clone());
        self.notice(|mirror| Notice::Lost { mirror, cause, retry_in });
    }

    fn handle(&mut self, event: Event) {
        if let Event::Watched(events) = &event {
            self.count(Counter::Events, events.len() as u64);
        }
        for effect in self.mirror.handle(event, Instant::now()) {
            self.perform(effect);
        }
    }

    /// What the walk has found meanwhile is taken along: many directories make one message.
    fn more_of_the_walk(&mut self) {
        for _ in 0..MAX_LISTS {
            if !self.mirror.wants_walk() {
                return;
            }
            let Some((walk, queue)) = &mut self.walk else { return };
            let Ok(found) = queue.try_recv() else { return };
            let event = found_event(*walk, found);
            self.handle(event);
        }
    }

    fn perform(&mut self, effect: Effect) {
        let carrier = match &mut self.link {
            Link::Up { carrier, .. } => Some(carrier),
            _ => None,
        };
        // The looker ends only with this loop.
        let ask = |ask: Ask| drop(self.looker.send(ask));
        match effect {
            Effect::Look(batch) => {
                self.running.metrics.count(Counter::Looks, batch.paths.len() as u64);
                ask(Ask::Look(batch));
            }
            Effect::LookMissing { asked, paths } => ask(Ask::Missing { asked, paths }),
            Effect::CheckRoot { accept } => ask(Ask::Check { accept }),
            Effect::AskNames(mut unasked) => {
                unasked.users.retain(|id| !self.asking.users.contains(id));
                unasked.groups.retain(|id| !self.asking.groups.contains(id));
                if !unasked.users.is_empty() || !unasked.groups.is_empty() {
                    self.asking.users.extend(&unasked.users);
                    self.asking.groups.extend(&unasked.groups);
                    ask(Ask::Names(unasked));
                }
            }
            Effect::Walk { walk, starts } => self.start_walk(walk, starts),
            Effect::Relist { walk, dir } => {
                let (source, answers) = (Arc::clone(&self.running.source), self.answers.clone());
                tokio::task::spawn_blocking(move || {
                    let event = match source.relist(&dir) {
                        Ok(seen) => Event::Walked { walk, seen },
                        Err(why) => Event::WalkFailed { walk, dir, why },
                    };
                    // The mirror may have ended meanwhile.
                    let _ = answers.blocking_send(Looker::Event(event));
                });
            }
            Effect::StopWalk => self.walk = None,
            Effect::List { request, dir, digest } => {
                if let Some(carrier) = carrier {
                    carrier.list(request, dir, digest);
                }
            }
            Effect::Compare { request, dir, names, calm } => {
                if let Some(carrier) = carrier {
                    carrier.compare(request, dir, names, calm);
                }
            }
            Effect::Send(ops) => {
                for (_, op) in &ops {
                    self.running
                        .metrics
                        .notice(Notice::Step { mirror: Arc::clone(&self.name), step: step(op) });
                }
                self.running.metrics.count(Counter::Ops, ops.len() as u64);
                if let Some(carrier) = carrier {
                    carrier.send(ops);
                }
            }
            Effect::Cancel(id) => {
                if let Some(carrier) = carrier {
                    carrier.cancel(id);
                }
            }
            Effect::Commit { staged, id, path } => {
                if let Some(carrier) = carrier {
                    carrier.commit(staged, id, path);
                }
            }
            Effect::Arrived { waited, travelled } => {
                self.running.metrics.took(Stage::Waiting, waited);
                self.running.metrics.took(Stage::Travelling, travelled);
            }
            Effect::Flushed { token, end } => {
                if let Some(answer) = self.flushes.remove(&token) {
                    // Who does not wait any more has no use for it.
                    let _ = answer.send(end);
                }
            }
            Effect::Say(report) => self.say(report),
            Effect::Finish(exit) => self.finish = Some(exit),
        }
    }

    fn start_walk(&mut self, walk: u64, starts: Vec<RelPath>) {
        let (deliver, found) = mpsc::channel(64);
        let source = Arc::clone(&self.running.source);
        tokio::task::spawn_blocking(move || {
            source.walk(&starts, |found| match deliver.blocking_send(found) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            });
        });
        self.walk = Some((walk, found));
        self.count(Counter::Walks, 1);
    }

    fn event(&mut self, carried: Carried) -> Event {
        match carried {
            Carried::Same { request } => {
                self.count(Counter::ListsSame, 1);
                Event::Same { request }
            }
            Carried::Entries { request, entries } => {
                self.count(Counter::Lists, 1);
                Event::Entries { request, entries }
            }
            Carried::NoList { request, why } => Event::NoList { request, why },
            Carried::NameIds { mut users, mut groups } => {
                let mapping = &self.running.config.mapping;
                let known = self
                    .unknown_name(&users, &mapping.users, "user", "--usermap or --chown")
                    .and(self.unknown_name(
                        &groups,
                        &mapping.groups,
                        "group",
                        "--groupmap or --chown",
                    ));
                self.refused = known.err();
                // What the target does not know keeps its number; nothing is asked for ever.
                let rest = |asked: &BTreeSet<u32>, told: &mut Vec<(u32, u32)>| {
                    let known: BTreeSet<u32> = told.iter().map(|(id, _)| *id).collect();
                    told.retain(|(id, _)| asked.contains(id));
                    told.extend(asked.difference(&known).map(|&id| (id, id)));
                };
                rest(&self.asking.users, &mut users);
                rest(&self.asking.groups, &mut groups);
                self.asking = Unasked::default();
                let (known_users, known_groups) = std::mem::take(&mut self.known);
                users.extend(known_users);
                groups.extend(known_groups);
                Event::NameIds { users, groups }
            }
            Carried::Compared { request, files } => Event::Compared { request, files },
            Carried::Acked { done, outcomes } => {
                // The agent's numbers: they need not be of anything.
                let acks = done.iter().fold(0u64, |all, (_, count)| all.saturating_add(*count));
                self.count(Counter::Acks, acks);
                Event::Acked { done, outcomes }
            }
            Carried::NotBuilt { id, why } => Event::NotBuilt { id, why },
            Carried::Unsettled { id } => Event::Unsettled { id },
            Carried::OtherFile { file } => Event::OtherFile { file },
            Carried::Unproven { path } => Event::Unproven { path },
            Carried::Staged { id } => Event::Staged { id },
            // Taken before.
            Carried::Warning(_) | Carried::Lost(_) => Event::Tick,
        }
    }

    fn say(&mut self, report: Report) {
        match report {
            Report::Problem(problem) => {
                self.count(Counter::Problems, 1);
                self.hooks.problem(&problem);
                self.notice(|mirror| Notice::Problem { mirror, problem });
            }
            Report::Solved(path) => self.notice(|mirror| Notice::Solved { mirror, path }),
            Report::Warning(text) => self.notice(|mirror| Notice::Warning { mirror, text }),
            Report::Fixed(text) => self.notice(|mirror| Notice::Fixed { mirror, text }),
            Report::Ready(totals) => {
                let totals = self.totals(totals);
                if !self.running.once && !self.running.dry_run {
                    self.notice(|mirror| Notice::Ready { mirror, totals });
                }
            }
            Report::Rescanned(totals) => {
                tracing::debug!("{}: walked: {totals:?}", self.name);
            }
            Report::Halted { reason, hint } => {
                let hint = Some(hint);
                self.notice(|mirror| Notice::Halted { mirror, reason, hint });
            }
            Report::Waiting(trouble) => {
                let path = self.running.source.path();
                let shown = lsync_protocol::path::Escaped(path.as_os_str().as_encoded_bytes());
                let reason = trouble.of(shown);
                let hint = (!self.running.once)
                    .then(|| "nothing is deleted; it goes on by itself when it is back".to_owned());
                self.notice(|mirror| Notice::Halted { mirror, reason, hint });
            }
            Report::Back | Report::Resumed => self.notice(|mirror| Notice::Resumed { mirror }),
            Report::Paused => self.notice(|mirror| Notice::Paused { mirror }),
            Report::Differs(difference) => {
                self.notice(|mirror| Notice::Differs { mirror, difference });
            }
            Report::Verified { files, drifted, unknown } => {
                tracing::info!(
                    "{}: compared by content: {files} files, {drifted} drifted, {unknown} unknown",
                    self.name
                );
            }
            Report::Op(op) => {
                let step = step(&op);
                self.notice(|mirror| Notice::Step { mirror, step });
            }
        }
    }

    fn totals(&mut self, totals: Totals) -> metrics::Totals {
        self.measure();
        metrics::Totals {
            files: totals.files,
            directories: totals.dirs,
            bytes: totals.bytes,
            ops: totals.ops,
            deleted: totals.deleted,
            problems: self.mirror.problems().count() as u64,
            elapsed: self.began.elapsed(),
        }
    }

    /// Counts what went over the link since it was last asked.
    fn measure(&mut self) {
        if let Link::Up { carrier, .. } = &self.link {
            let (sent, received) = carrier.traffic();
            let (sent_before, received_before) =
                std::mem::replace(&mut self.traffic, (sent, received));
            let (sent, received) =
                (sent.saturating_sub(sent_before), received.saturating_sub(received_before));
            self.traffic_of_all.0 += sent;
            self.traffic_of_all.1 += received;
            self.count(Counter::LinkOut, sent);
            self.count(Counter::LinkIn, received);
        }
    }

    fn walked(&self) -> metrics::Progress {
        let counts = self.mirror.walked_so_far();
        metrics::Progress {
            directories: counts.dirs,
            files: counts.files,
            sent: self.traffic.0,
            to_send: self.mirror.to_send(),
        }
    }

    fn progress(&mut self) {
        self.measure();
        let progress = self.walked();
        self.notice(|mirror| Notice::Progress { mirror, progress });
    }

    /// Lets what is in flight finish, within a bound, and ends the agent.
    async fn say_goodbye(&mut self) {
        self.walk = None;
        if let Link::Up { carrier, said, .. } = &mut self.link {
            carrier.finish();
            let ended = async {
                while let Some(carried) = said.recv().await {
                    if matches!(carried, Carried::Lost(_)) {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(LAST_ORDERS, ended).await;
        }
        if let Link::Connecting(task) = &self.link {
            task.abort();
        }
    }
}

/// What an operation does, as people are told.
pub(super) fn step(op: &Planned) -> Step {
    match op {
        Planned::MakeDir { path, .. } => Step::Create { path: path.clone(), dir: true },
        Planned::Content { path, new, .. }
        | Planned::Symlink { path, new, .. }
        | Planned::Special { path, new, .. } => match new {
            true => Step::Create { path: path.clone(), dir: false },
            false => Step::Update { path: path.clone() },
        },
        Planned::Meta { path, .. } | Planned::Dir { path, .. } => {
            Step::Attributes { path: path.clone() }
        }
        Planned::Link { path, from, .. } => {
            Step::HardLink { path: path.clone(), from: from.clone() }
        }
        Planned::Rename { from, to, .. } => Step::Rename { from: from.clone(), to: to.clone() },
        Planned::Remove { path, kind } => {
            Step::Delete { path: path.clone(), dir: *kind == lsync_protocol::entry::Kind::Dir }
        }
        Planned::Replace { new, .. } => Step::Update { path: new.path().clone() },
    }
}

/// Waits until the mirrors are to end.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone has told its last.
    let _ = stop.wait_for(|stop| *stop).await;
}

pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn recv<T>(queue: Option<&mut mpsc::Receiver<T>>) -> Option<T> {
    match queue {
        Some(queue) => queue.recv().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn events(
    events: &mut Option<Events>,
) -> Option<Arc<Vec<crate::watch::WatchEvent>>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// What is asked next.
pub(super) async fn steered(steered: &mut Option<Steered>) -> Option<Steer> {
    match steered {
        Some(steered) => steered.recv().await,
        None => std::future::pending().await,
    }
}

/// The next thing the walk found.
async fn found(walk: &mut Option<(u64, mpsc::Receiver<Found>)>) -> Option<Event> {
    let Some((walk, queue)) = walk else { return std::future::pending().await };
    let walk = *walk;
    match queue.recv().await {
        Some(found) => Some(found_event(walk, found)),
        None => std::future::pending().await,
    }
}

fn found_event(walk: u64, found: Found) -> Event {
    match found {
        Found::Dir(seen) => Event::Walked { walk, seen },
        Found::Failed(dir, why) => Event::WalkFailed { walk, dir, why },
        Found::End(root) => Event::WalkEnded { walk, root },
    }
}

async fn joined<T>(task: Option<&mut JoinHandle<Result<T>>>) -> Result<T> {
    match task {
        Some(task) => match task.await {
            Ok(result) => result,
            Err(error) => Err(Error::failed("the connection's task ended").because(error)),
        },
        None => std::future::pending().await,
    }
}

/// A mirror that runs, whatever carries it.
pub struct Begun {
    /// What it is called.
    pub name: Arc<str>,
    /// Its run, to its end.
    pub run: Pin<Box<dyn Future<Output = Result<Exit>> + Send>>,
}

/// Runs mirrors until all have ended; the highest exit code, and the names and errors of those
/// that could not start.
pub async fn all(mirrors: Vec<Begun>) -> (Exit, Vec<(Arc<str>, Error)>) {
    let mut running = JoinSet::new();
    for Begun { name, run } in mirrors {
        running.spawn(async move { run.await.map_err(|error| (name, error)) });
    }
    let (mut exit, mut errors) = (Exit::Done, Vec::new());
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(code)) => exit = exit.max(code),
            Ok(Err((name, error))) => {
                exit = exit.max(error.exit());
                errors.push((name, error));
            }
            Err(error) => {
                exit = exit.max(Exit::Failed);
                let error = Error::failed("a mirror ended unexpectedly").because(error);
                errors.push(("lsyncd".into(), error));
            }
        }
    }
    (exit, errors)
}
