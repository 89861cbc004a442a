//! The loop of a mirror that rsync carries: waits in one place, names what came, and performs what
//! [`State::handle`] decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lsync_protocol::path::Escaped;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::look::{look, walk};
use super::{Effect, Event, Rules, State};
use crate::carrier::rsync::{End, Full, Outcome, Rsync, Run};
use crate::carrier::tunnel::Tunnel;
use crate::config::rsync::RsyncMirror;
use crate::error::{Error, Exit, Result};
use crate::metrics::{self, Counter, Metrics, Notice, Progress};
use crate::mirror::connect::random;
use crate::mirror::flush::PROBLEMS_MAX;
use crate::mirror::hooks::Hooked;
use crate::mirror::run::{Starts, events, jittered, steered, stopped, until};
use crate::mirror::steer::{Flushed, Resumed, Stand, Standing, Steer, Steered};
use crate::mirror::{Report, RootTrouble};
use crate::source::{Events, Source};

/// How long a mirror that is told to end lets an rsync finish.
const LAST_ORDERS: Duration = Duration::from_secs(5);
/// How often people are told how far the first run has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// A mirror to be run.
pub struct RsyncRunning {
    /// What it is.
    pub config: Arc<RsyncMirror>,
    /// Its source, shared with other mirrors of it.
    pub source: Arc<Source>,
    /// Events of the source; absent when it is not watched.
    pub events: Option<Events>,
    /// Mirror once and end.
    pub once: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Who hears of it.
    pub metrics: Arc<dyn Metrics>,
    /// Turns true when the mirror has to end.
    pub stop: watch::Receiver<bool>,
    /// Where it tells whether its first run succeeded.
    pub starts: Arc<Starts>,
    /// Through which its target is reached; the target's `^localport` is filled in.
    pub tunnel: Option<Arc<Tunnel>>,
    /// Who may ask things of it, if anybody may.
    pub steered: Option<Steered>,
    /// How many rsyncs may run at a time, of all mirrors together: they take turns.
    pub limit: Option<Arc<Semaphore>>,
    /// An rsync that runs when the mirror has to end is waited for, however long it takes.
    pub patient: bool,
}

/// How far a run has come.
#[derive(Debug, Default)]
struct Far {
    dirs: AtomicU64,
    files: AtomicU64,
    sent: AtomicU64,
}

struct Loop {
    running: RsyncRunning,
    state: State,
    /// Absent until it is known what the program can.
    rsync: Option<Rsync>,
    heard: mpsc::Sender<Event>,
    hears: mpsc::Receiver<Event>,
    /// rsyncs that run: dropping them ends them.
    runs: JoinSet<(u64, Result<Outcome, RootTrouble>)>,
    far: Arc<Far>,
    began: Instant,
    /// It was told whether the first run succeeded.
    told: bool,
    lost: bool,
    /// Why the target cannot be had.
    lost_for: Option<String>,
    reconnects: u64,
    /// Who waits for a flush, by its number.
    flushes: HashMap<u64, oneshot::Sender<Flushed>>,
    ready: bool,
    hooks: Hooked,
    ended: Option<Result<Exit>>,
    name: Arc<str>,
}

/// What came.
enum Came {
    Event(Event),
    Ended(u64, Result<Outcome, RootTrouble>),
    Steer(Steer),
    Progress,
    Stop,
}

/// Runs one mirror to its end.
///
/// # Errors
/// It could not start, and neither could any other.
pub async fn run(running: RsyncRunning) -> Result<Exit> {
    let config = Arc::clone(&running.config);
    let name: Arc<str> = config.name.as_str().into();
    running.metrics.notice(Notice::Connecting { mirror: Arc::clone(&name) });
    if let Some(text) = config.why.clone() {
        running.metrics.notice(Notice::Carrier { mirror: Arc::clone(&name), text });
    }
    let rules = Rules {
        once: running.once || running.dry_run,
        dry_run: running.dry_run || config.options.is_dry_run(),
        plain: !config.options.is_wrapper(),
        rescan: config.rescan.map(jittered),
        seed: random::<8>().map_or(1, u64::from_le_bytes),
    };
    let (heard, hears) = mpsc::channel(16);
    let hooks = if running.dry_run { Default::default() } else { config.hooks.clone() };
    let target = Escaped(config.target.as_encoded_bytes()).to_string();
    let hooks = Hooked::new(&hooks, &name, &config.source, &target);
    let mut this = Loop {
        state: State::new(config, rules),
        rsync: None,
        heard,
        hears,
        runs: JoinSet::new(),
        far: Arc::default(),
        began: Instant::now(),
        told: false,
        lost: false,
        lost_for: None,
        reconnects: 0,
        flushes: HashMap::new(),
        ready: false,
        hooks,
        ended: None,
        name,
        running,
    };
    this.run().await
}

impl Loop {
    async fn run(&mut self) -> Result<Exit> {
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What the program can is found out before anything is decided.
        self.handle(Event::Tick).await;
        loop {
            if let Some(ended) = self.ended.take() {
                if self.running.once {
                    self.hooks.finish().await;
                }
                if let Ok(exit) = &ended
                    && self.running.once
                    && *exit != Exit::Stopped
                {
                    let totals = self.totals();
                    self.notice(|mirror| Notice::Done { mirror, totals });
                }
                return ended;
            }
            let tick = self.state.next();
            let came = tokio::select! {
                biased;
                () = stopped(&mut self.running.stop) => Came::Stop,
                Some(steer) = steered(&mut self.running.steered) => Came::Steer(steer),
                Some(events) = events(&mut self.running.events) => {
                    self.count(Counter::Events, events.len() as u64);
                    Came::Event(Event::Watched(events))
                }
                Some(event) = self.hears.recv() => Came::Event(event),
                Some(ended) = self.runs.join_next() => match ended {
                    Ok((run, outcome)) => Came::Ended(run, outcome),
                    // Only a panic of ours: its run is never heard of again.
                    Err(error) => {
                        let error = Error::failed("an rsync's task ended").because(error);
                        return Err(error);
                    }
                },
                () = until(tick) => Came::Event(Event::Tick),
                _ = progress.tick(), if !self.ready => Came::Progress,
            };
            match came {
                Came::Event(event) => {
                    self.forget_who_left();
                    self.handle(event).await;
                }
                Came::Ended(run, outcome) => self.handle(Event::Ended { run, outcome }).await,
                Came::Steer(steer) => self.steer(steer).await,
                Came::Progress => self.progress(),
                Came::Stop => {
                    let last = async { while self.runs.join_next().await.is_some() {} };
                    if self.running.patient {
                        last.await;
                    } else {
                        let _ = tokio::time::timeout(LAST_ORDERS, last).await;
                    }
                    // None outlives us.
                    self.runs.shutdown().await;
                    return Ok(Exit::Done);
                }
            }
        }
    }

    fn notice(&self, notice: impl FnOnce(Arc<str>) -> Notice) {
        self.running.metrics.notice(notice(Arc::clone(&self.name)));
    }

    fn count(&self, counter: Counter, by: u64) {
        self.running.metrics.count(counter, by);
    }

    async fn handle(&mut self, event: Event) {
        for effect in self.state.handle(event, Instant::now()) {
            self.perform(effect).await;
        }
        self.hooks.even(self.state.is_even(), self.state.totals().ops);
    }

    async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Walk => {
                self.count(Counter::Walks, 1);
                let far = Arc::clone(&self.far);
                self.look_up(move |source| {
                    Event::Walked(walk(source, |progress| {
                        far.dirs.store(progress.directories, Ordering::Relaxed);
                        far.files.store(progress.files, Ordering::Relaxed);
                    }))
                });
            }
            Effect::Look(batch) => {
                self.count(Counter::Looks, batch.paths.len() as u64);
                let large = self.running.config.batch_size_limit;
                self.look_up(move |source| Event::Looked(look(source, &batch, large)));
            }
            Effect::CheckRoot { accept } => {
                self.look_up(move |source| Event::Root(source.check(accept).map(drop)));
            }
            Effect::Run { run, what } => self.start(run, what).await,
            Effect::Flushed { token, end } => {
                if let Some(answer) = self.flushes.remove(&token) {
                    // Who does not wait any more has no use for it.
                    let _ = answer.send(end);
                }
            }
            Effect::Say(report) => self.say(report),
            Effect::Reached => {
                if !self.told {
                    self.told = true;
                    self.running.starts.tell(true);
                }
                if std::mem::take(&mut self.lost) {
                    self.lost_for = None;
                    self.reconnects += 1;
                    self.count(Counter::Reconnects, 1);
                    self.notice(|mirror| Notice::Reconnected { mirror });
                }
            }
            Effect::Lost { error, retry_in, first } => self.lost(error, retry_in, first).await,
            Effect::Finish(exit) => self.ended = Some(Ok(exit)),
        }
    }

    /// Asks the source something that may block.
    fn look_up(&self, ask: impl FnOnce(&Source) -> Event + Send + 'static) {
        let (source, heard) = (Arc::clone(&self.running.source), self.heard.clone());
        tokio::task::spawn_blocking(move || {
            // Nobody listens any more: the mirror has ended.
            let _ = heard.blocking_send(ask(&source));
        });
    }

    async fn start(&mut self, run: u64, what: Run) {
        if self.rsync.is_none() {
            match Rsync::probe(Arc::clone(&self.running.config)).await {
                Ok(rsync) => self.rsync = Some(rsync.through(self.running.tunnel.clone())),
                Err(error) => {
                    let outcome = Outcome { end: End::Die(error), ..Outcome::default() };
                    self.runs.spawn(async move { (run, Ok(outcome)) });
                    return;
                }
            }
        }
        let Some(mut rsync) = self.rsync.clone() else { return };
        let what = match what {
            // What only rules could keep apart is brought by a run that has them.
            Run::Paths(paths) if rsync.needs_full(&paths) => {
                let (delete, max_delete) = (paths.delete, paths.max_delete);
                Run::Full(Full { delete, max_delete, ..Full::default() })
            }
            what => what,
        };
        let paths = match &what {
            Run::Full(_) => None,
            Run::Paths(paths) => Some(paths.all().cloned().collect()),
        };
        self.notice(|mirror| Notice::Rsync { mirror, paths });
        let source = Arc::clone(&self.running.source);
        let (limit, mut stop) = (self.running.limit.clone(), self.running.stop.clone());
        let (metrics, name) = (Arc::clone(&self.running.metrics), Arc::clone(&self.name));
        let far = Arc::clone(&self.far);
        self.runs.spawn(async move {
            let ready = async {
                // Who waits for a tunnel takes no place from those that could go on.
                rsync.reach().await;
                // It is never closed, so there is always a place to wait for.
                match &limit {
                    Some(limit) => limit.acquire().await.ok(),
                    None => None,
                }
            };
            let _place = tokio::select! {
                biased;
                // Nothing is begun any more; what it was for is not forgotten, but lsyncd ends.
                () = stopped(&mut stop) => return (run, Err(RootTrouble::Gone)),
                place = ready => place,
            };
            let opened = tokio::task::spawn_blocking(move || source.root()).await;
            let root = match opened {
                Ok(Ok(root)) => root,
                Ok(Err(trouble)) => return (run, Err(trouble)),
                Err(_) => return (run, Err(RootTrouble::Gone)),
            };
            let outcome = rsync
                .run(&what, Some(&root), |step, bytes| {
                    far.sent.fetch_add(bytes, Ordering::Relaxed);
                    metrics.count(Counter::Content, bytes);
                    metrics.count(Counter::Ops, 1);
                    metrics.notice(Notice::Step { mirror: Arc::clone(&name), step });
                })
                .await;
            (run, Ok(outcome))
        });
    }

    /// The target cannot be had. At the start that may end the mirror.
    async fn lost(&mut self, error: Error, retry_in: Duration, first: bool) {
        if first && !self.told {
            self.told = true;
            // Whoever insists will start some time.
            self.running.starts.tell(self.running.config.insist);
            if (self.running.once || self.running.dry_run) && !self.running.config.insist {
                self.ended = Some(Err(error));
                return;
            }
            let any = tokio::select! {
                any = self.running.starts.any() => any,
                () = stopped(&mut self.running.stop) => false,
            };
            if !any {
                self.ended = Some(Err(error));
                return;
            }
            let (what, hint) = (error.to_string(), error.hint_text().map(Into::into));
            self.notice(|mirror| Notice::Failed { mirror, what, hint });
        }
        self.lost = true;
        let mut cause = error.to_string();
        if let Some(hint) = error.hint_text() {
            cause = format!("{cause} ({hint})");
        }
        self.lost_for = Some(cause.clone());
        self.notice(|mirror| Notice::Lost { mirror, cause, retry_in });
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
            Report::Ready(_) => {
                self.ready = true;
                let totals = self.totals();
                self.notice(|mirror| Notice::Ready { mirror, totals });
            }
            Report::Rescanned(totals) => tracing::debug!("{}: compared: {totals:?}", self.name),
            Report::Halted { reason, hint } => {
                let hint = Some(hint);
                self.notice(|mirror| Notice::Halted { mirror, reason, hint });
            }
            Report::Waiting(trouble) => {
                let shown = Escaped(self.running.source.path().as_os_str().as_encoded_bytes());
                let reason = trouble.of(shown);
                let hint = (!self.running.once)
                    .then(|| "nothing is deleted; it goes on by itself when it is back".to_owned());
                self.notice(|mirror| Notice::Halted { mirror, reason, hint });
            }
            Report::Back | Report::Resumed => self.notice(|mirror| Notice::Resumed { mirror }),
            Report::Paused => self.notice(|mirror| Notice::Paused { mirror }),
            // Steps are told as rsync says them, and nothing is compared by content.
            Report::Fixed(_) | Report::Op(_) | Report::Differs(_) | Report::Verified { .. } => {}
        }
    }

    fn totals(&self) -> metrics::Totals {
        let totals = self.state.totals();
        metrics::Totals {
            files: totals.files,
            directories: totals.dirs,
            bytes: totals.bytes,
            ops: totals.ops,
            deleted: totals.deleted,
            problems: self.state.problems().count() as u64,
            elapsed: self.began.elapsed(),
        }
    }

    fn walked(&self) -> Progress {
        Progress {
            directories: self.far.dirs.load(Ordering::Relaxed),
            files: self.far.files.load(Ordering::Relaxed),
            sent: self.far.sent.load(Ordering::Relaxed),
            to_send: None,
        }
    }

    fn progress(&self) {
        let progress = self.walked();
        self.notice(|mirror| Notice::Progress { mirror, progress });
    }

    /// Does what is asked. Who does not wait any more has no use for the answer.
    async fn steer(&mut self, steer: Steer) {
        match steer {
            Steer::Pending(answer) => drop(answer.send(self.state.pending())),
            Steer::Standing(answer) => drop(answer.send(Box::new(self.standing()))),
            Steer::Flush(answer) => {
                let token = self.running.source.next_barrier();
                self.flushes.insert(token, answer);
                let watched = self.running.events.is_some();
                let heard = !(watched && self.running.source.barrier(token));
                self.handle(Event::Flush { token, heard }).await;
            }
            Steer::Pause(answer) => {
                self.handle(Event::Pause).await;
                let _ = answer.send(());
            }
            Steer::Resume { confirm, answer } => {
                let resumed = Resumed::of(self.state.halted(), self.state.is_paused(), confirm);
                self.handle(Event::Resume { confirm }).await;
                let _ = answer.send(resumed);
            }
        }
    }

    /// Who does not wait any more is forgotten.
    fn forget_who_left(&mut self) {
        if self.flushes.values().any(oneshot::Sender::is_closed) {
            self.flushes.retain(|_, answer| !answer.is_closed());
            let waits = &self.flushes;
            self.state.forget_flushes(|token| waits.contains_key(&token));
        }
    }

    fn standing(&self) -> Standing {
        let stand = self.state.stand();
        let reason = match stand {
            Stand::Connecting => self.lost_for.clone(),
            Stand::Halted | Stand::Paused => self.state.halted().map(str::to_owned),
            Stand::Waiting => self.state.root_trouble().map(|trouble| {
                trouble.of(Escaped(self.running.source.path().as_os_str().as_encoded_bytes()))
            }),
            Stand::Mirroring | Stand::Live => None,
        };
        let (now, totals) = (Instant::now(), self.totals());
        Standing {
            stand,
            reason,
            lag: self.state.behind_since().map_or(Duration::ZERO, |since| now - since),
            dirty: self.state.pending_count(),
            in_flight: self.state.in_flight(),
            in_flight_bytes: 0,
            problems: self.state.problems().take(PROBLEMS_MAX).cloned().collect(),
            problem_count: totals.problems,
            watch: self.running.source.watch_status(),
            totals,
            sent: self.far.sent.load(Ordering::Relaxed),
            received: 0,
            reconnects: self.reconnects,
            collapsed: self.state.collapsed(),
            walk: (!self.ready).then(|| self.walked()),
            last_verify: None,
        }
    }
}
