//! A configuration that runs: its mirrors, and what runs beside them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lsync_agent::fault::OnDemand;
use lsync_protocol::path::{Escaped, RelPath};
use tokio::signal::unix::SignalKind;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::scripts::Own;
use super::status::{self, Board, Knows, Watched};
use super::{Carried, Heard, Reload, Setup, Signals, Told, TwoMirror, clock, scripts};
use crate::carrier::action::{Actions, Finish};
use crate::carrier::tunnel::Tunnel;
use crate::config::MirrorConfig;
use crate::config::crontab::Crontab;
use crate::config::rsync::RsyncMirror;
use crate::control::server::{Served, way};
use crate::control::status::CarrierName;
use crate::daemon::late::LateSource;
use crate::daemon::statusfile::StatusFile;
use crate::error::{Error, Exit, Result};
use crate::metrics::{Metrics, Notice};
use crate::mirror::connect;
use crate::mirror::rsync::run::{RsyncRunning, run as run_rsync};
use crate::mirror::run::{self, Running, Starts};
use crate::mirror::steer::Steer;
use crate::source::Scope;
use crate::watch::WatchEvent;

/// How a round ended.
pub(super) enum Ended {
    /// The process ends, with this code.
    Exit(Result<u8>),
    /// Another configuration takes its place.
    Again(Box<(Setup, Arc<dyn Told>)>),
}

/// A configuration that runs.
pub(super) struct Round {
    told: Arc<dyn Told>,
    mirrors: JoinSet<(String, Result<Exit>)>,
    /// Mirrors that rsync carries should their hosts take no agent, by name.
    spares: HashMap<String, Spare>,
    /// What the syncs with actions of their own share.
    actions: Option<Arc<Actions>>,
    /// What runs beside the mirrors and ends with them.
    beside: JoinSet<()>,
    stop: watch::Sender<bool>,
    starts: Arc<Starts>,
    once: bool,
    /// A source that cannot be had is waited for.
    patient: bool,
    /// `settings.maxProcesses`.
    limit: Option<Arc<Semaphore>>,
    /// Those that may be asked how they stand.
    pub(super) served: Vec<Served>,
}

/// A mirror that may have to be carried by rsync.
struct Spare {
    config: Box<RsyncMirror>,
    source: Arc<LateSource>,
    /// By which the status file asks the agent's mirror, and then this one.
    ask: Arc<Mutex<mpsc::Sender<Steer>>>,
}

impl Round {
    /// Starts everything. `insist`: a target that is away ends nothing; `patient`: neither does a
    /// source.
    ///
    /// # Errors
    /// A source cannot be watched, or a value of the configuration cannot be.
    pub(super) fn start(
        setup: Setup,
        insist: bool,
        patient: bool,
        told: Arc<dyn Told>,
    ) -> Result<Round> {
        let Setup { lua, settings, mirrors, tunnels } = setup;
        let tunnels = tunnels.iter().map(Tunnel::start).collect::<Result<Vec<_>>>()?;
        let mut round = Round {
            told,
            mirrors: JoinSet::new(),
            spares: HashMap::new(),
            actions: None,
            beside: JoinSet::new(),
            stop: watch::Sender::new(false),
            starts: Arc::new(match insist {
                true => Starts::insisting(mirrors.len()),
                false => Starts::new(mirrors.len()),
            }),
            once: settings.onepass,
            served: Vec::new(),
            patient,
            limit: settings.max_processes.map(|most| {
                let most = usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS);
                Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
            }),
        };
        let mut own = Vec::new();
        let mut board = Board { syncs: Vec::new(), actions: None, tunnels: tunnels.clone() };
        for (place, mirror) in mirrors.into_iter().enumerate() {
            let through = mirror.tunnel.and_then(|at| tunnels.get(at));
            round.introduce(&mirror, through.map(Arc::as_ref));
            let TwoMirror { name, source: path, target, carried, rules, crontab, tunnel, .. } =
                mirror;
            let crontab = match crontab.as_slice() {
                [] => None,
                specs => Some(Crontab::parse(specs.iter().map(String::as_str))?),
            };
            let carrier = match &carried {
                Carried::Agent(..) => CarrierName::Agent,
                Carried::Rsync(_) | Carried::Actions(..) => CarrierName::Rsync,
            };
            let (source, knows) = match carried {
                Carried::Agent(config, spare) => round.agent(&name, *config, spare)?,
                Carried::Rsync(config) => {
                    let scope = Scope {
                        filter: Arc::new(config.filter.clone()),
                        one_file_system: config.one_file_system,
                        max_size: config.max_size,
                        ..Scope::default()
                    };
                    let watch = (!round.once).then_some(config.watch);
                    let source =
                        LateSource::new(&name, &config.source, scope, watch, config.rescan);
                    let source = source.begin(patient, &*round.metrics())?;
                    let tunnel = tunnel.and_then(|at| tunnels.get(at).cloned());
                    let ask = round.rsync(&name, *config, &source, tunnel);
                    (source, Knows::Mirror(Arc::new(Mutex::new(ask))))
                }
                Carried::Actions(entry, filter) => {
                    own.push(Own { place, entry: *entry, filter, crontab });
                    continue;
                }
            };
            if let Knows::Mirror(ask) = &knows {
                let first = ask.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let served = Served::new(&name, path, target, carrier, first);
                round.served.push(served.at(Arc::clone(ask)));
            }
            if let Some(crontab) = crontab {
                let (source, told) = (Arc::clone(&source), Arc::clone(&round.told));
                round.beside.spawn(clock::keep(crontab, name.clone(), told, move || {
                    if let Some(source) = source.now() {
                        source.tell(WatchEvent::Unsure(RelPath::root()));
                    }
                }));
            }
            let rules = rules.iter().map(|rule| Escaped(rule).to_string()).collect();
            board.syncs.push(Watched { place, name, source, rules, knows });
        }
        if !own.is_empty() {
            // They have nobody to wait for.
            (0..own.len()).for_each(|_| round.starts.tell(true));
            let once = round.once;
            let how = scripts::How { insist, patient, once, stop: round.stop.subscribe() };
            let begun = scripts::start(lua, own, &settings, &how, &round.told)?;
            for (at, (place, name, source, feed)) in begun.feeds.into_iter().enumerate() {
                let called = name.clone();
                round.mirrors.spawn(async move { (called, feed.await) });
                let (rules, knows) = (Vec::new(), Knows::Scripts(at));
                board.syncs.push(Watched { place, name, source, rules, knows });
            }
            for clock in begun.clocks {
                round.beside.spawn(clock);
            }
            board.actions = Some(Arc::clone(&begun.actions));
            round.actions = Some(begun.actions);
        }
        board.syncs.sort_by_key(|sync| sync.place);
        if let Some(path) = &settings.status_file {
            let file = StatusFile::new(path, settings.status_interval);
            round.beside.spawn(status::keep(board, file, Arc::clone(&round.told)));
        }
        Ok(round)
    }

    /// Says what a mirror is and what carries it.
    fn introduce(&self, mirror: &TwoMirror, through: Option<&Tunnel>) {
        let TwoMirror { name, source, target, why, .. } = mirror;
        let (target, why) = match through {
            None => (target.clone(), why.clone()),
            Some(tunnel) => {
                let name = Escaped(tunnel.name().as_bytes());
                (tunnel.fill(target), format!("{why}, through {name}"))
            }
        };
        let mut source = Escaped(source.as_os_str().as_encoded_bytes()).to_string();
        if !source.ends_with('/') {
            source.push('/');
        }
        self.told.ends(name, &source, &target);
        let arrow = if target.is_empty() { "" } else { " -> " };
        self.told.line("Normal", &format!("{name}: {source}{arrow}{target}, by {why}"));
    }

    fn metrics(&self) -> Arc<dyn Metrics> {
        Arc::clone(&self.told) as Arc<dyn Metrics>
    }

    /// A mirror that the agent carries.
    fn agent(
        &mut self,
        name: &str,
        config: MirrorConfig,
        spare: Option<Box<RsyncMirror>>,
    ) -> Result<(Arc<LateSource>, Knows)> {
        let live = !self.once;
        let scope = Scope {
            filter: Arc::new(config.filter.clone()),
            one_file_system: config.one_file_system,
            max_size: config.max_size,
            xattrs: config.attributes.shown_xattrs(),
            ..Scope::default()
        };
        let watch = live.then_some(config.watch);
        let source = LateSource::new(name, &config.source, scope, watch, config.rescan);
        let source = source.begin(self.patient, &*self.metrics())?;
        let (ask, steered) = way();
        let ask = Arc::new(Mutex::new(ask));
        let (once, key, has_other_way) = (self.once, connect::random()?, spare.is_some());
        let (metrics, starts) = (self.metrics(), Arc::clone(&self.starts));
        let (mut stop, late) = (self.stop.subscribe(), Arc::clone(&source));
        let called = name.to_owned();
        self.mirrors.spawn(async move {
            let Some(source) = late.there(&mut stop).await else {
                return (called, Ok(Exit::Done));
            };
            let running = Running {
                events: live.then(|| source.subscribe()),
                config: Arc::new(config),
                source,
                key,
                once,
                dry_run: false,
                verify: crate::config::Verify::No,
                metrics,
                stop,
                starts,
                steered: Some(steered),
                has_other_way,
                faults: OnDemand::default(),
            };
            (called, run::run(running).await)
        });
        if let Some(config) = spare {
            let spare = Spare { config, source: Arc::clone(&source), ask: Arc::clone(&ask) };
            self.spares.insert(name.to_owned(), spare);
        }
        Ok((source, Knows::Mirror(ask)))
    }

    /// A mirror that rsync carries.
    fn rsync(
        &mut self,
        name: &str,
        config: RsyncMirror,
        source: &Arc<LateSource>,
        tunnel: Option<Arc<Tunnel>>,
    ) -> mpsc::Sender<Steer> {
        let (ask, steered) = way();
        let (once, metrics, limit) = (self.once, self.metrics(), self.limit.clone());
        let (starts, late) = (Arc::clone(&self.starts), Arc::clone(source));
        let (mut stop, name) = (self.stop.subscribe(), name.to_owned());
        self.mirrors.spawn(async move {
            let Some(source) = late.there(&mut stop).await else { return (name, Ok(Exit::Done)) };
            let running = RsyncRunning {
                events: (!once).then(|| source.subscribe()),
                config: Arc::new(config),
                source,
                once,
                dry_run: false,
                metrics,
                stop,
                starts,
                tunnel,
                steered: Some(steered),
                limit,
                patient: true,
            };
            (name, run_rsync(running).await)
        });
        ask
    }

    /// Waits for the mirrors and for signals. `started` is called once.
    pub(super) async fn until_it_ends(
        &mut self,
        signals: &mut Signals,
        reload: &Reload,
        started: &mut Option<impl FnOnce() -> Result<()>>,
    ) -> Ended {
        let (mut worst, mut errors) = (Exit::Done, Vec::new());
        let starts = Arc::clone(&self.starts);
        let mut asked = std::pin::pin!(starts.any());
        let mut waits = started.is_some();
        loop {
            tokio::select! {
                any = &mut asked, if waits => {
                    waits = false;
                    if any
                        && let Some(Err(error)) = started.take().map(|started| started())
                    {
                        return Ended::Exit(Err(error));
                    }
                }
                ended = self.mirrors.join_next() => match ended {
                    None => return Ended::Exit(self.over(worst, errors)),
                    Some(Ok((_, Ok(_)))) if self.terminated().is_some() => {
                        let code = self.terminated().unwrap_or_default();
                        return Ended::Exit(match self.end_unless(signals).await {
                            None => Ok(code),
                            Some(signal) => self.fade(signals, signal).await,
                        });
                    }
                    Some(Ok((_, Ok(exit)))) => worst = worst.max(exit),
                    Some(Ok((name, Err(error)))) => {
                        if let Some(error) = self.other_way(&name, error) {
                            worst = worst.max(error.exit());
                            errors.push((name, error));
                        }
                    }
                    Some(Err(error)) => {
                        worst = Exit::Failed;
                        let error = Error::failed("a mirror ended unexpectedly").because(error);
                        errors.push((String::new(), error));
                    }
                },
                heard = signals.heard() => match heard {
                    Heard::End(signal) => return Ended::Exit(self.fade(signals, signal).await),
                    // The new one is read first: what cannot be read changes nothing.
                    Heard::Again => match self.load(reload, signals).await {
                        Err(signal) => return Ended::Exit(self.fade(signals, signal).await),
                        Ok(Ok(next)) => {
                            self.told.line("Normal", "--- HUP signal, resetting ---");
                            return match self.end_unless(signals).await {
                                None => Ended::Again(Box::new(next)),
                                Some(signal) => Ended::Exit(self.fade(signals, signal).await),
                            };
                        }
                        Ok(Err(error)) => {
                            let hint = error.hint_text().map(|hint| format!("\nhint: {hint}"));
                            let hint = hint.unwrap_or_default();
                            self.told.line("Error", &format!("{error}; going on as before{hint}"));
                        }
                    },
                },
            }
        }
    }

    /// Loads the configuration again, on a thread of its own: it is a program, and may take as long
    /// as it likes. `Err`: this signal came first.
    async fn load(
        &self,
        reload: &Reload,
        signals: &mut Signals,
    ) -> std::result::Result<Result<(Setup, Arc<dyn Told>)>, i32> {
        let reload = Arc::clone(reload);
        let loading = tokio::task::spawn_blocking(move || reload());
        tokio::select! {
            loaded = loading => Ok(loaded.unwrap_or_else(|error| {
                Err(Error::failed("cannot load the configuration").because(error))
            })),
            signal = signals.end() => Err(signal),
        }
    }

    /// A host that takes no agent is mirrored to by rsync; any other error is given back.
    fn other_way(&mut self, name: &str, error: Error) -> Option<Error> {
        let Some(spare) = self.spares.remove(name).filter(|_| error.is_no_agent()) else {
            return Some(error);
        };
        self.told.line("Normal", &format!("{name}: by rsync, since {error}"));
        let ask = self.rsync(name, *spare.config, &spare.source, None);
        *spare.ask.lock().unwrap_or_else(PoisonError::into_inner) = ask;
        None
    }

    /// All mirrors have ended by themselves.
    fn over(&self, worst: Exit, mut errors: Vec<(String, Error)>) -> Result<u8> {
        if errors.len() == 1
            && let Some((_, error)) = errors.pop()
        {
            return Err(error);
        }
        for (mirror, error) in errors {
            let (what, hint) = (error.to_string(), error.hint_text().map(str::to_owned));
            self.told.notice(Notice::Failed { mirror: mirror.as_str().into(), what, hint });
        }
        Ok(worst as u8)
    }

    /// The exit code that a script asked for.
    fn terminated(&self) -> Option<u8> {
        let overview = self.actions.as_ref()?.overview();
        let finished = overview.borrow().finished;
        match finished {
            // As exit(3): its lowest eight bits.
            Some(Finish::Terminated(code)) => Some(code.to_le_bytes()[0]),
            _ => None,
        }
    }

    /// Nothing new is begun; what runs may finish, unless a second signal comes.
    async fn fade(&mut self, signals: &mut Signals, signal: i32) -> Result<u8> {
        let name = if signal == SignalKind::interrupt().as_raw_value() { "INT" } else { "TERM" };
        self.told.line("Normal", &format!("--- {name} signal, fading ---"));
        let again = tokio::select! {
            () = self.end() => None,
            again = signals.end() => Some(again),
        };
        // At once, and nothing that was begun goes on behind our back.
        let ended = match (again, &self.actions) {
            (Some(_), Some(actions)) => actions.end_children(),
            _ => 0,
        };
        if ended > 0 {
            self.told.line("Normal", &format!("ending {ended} child processes."));
        }
        Ok(if name == "INT" { Exit::Interrupted } else { Exit::Terminated } as u8)
    }

    /// Lets the mirrors finish what they have begun, unless a signal asks for the end meanwhile: what
    /// a script has begun may never finish.
    async fn end_unless(&mut self, signals: &mut Signals) -> Option<i32> {
        tokio::select! {
            () = self.end() => None,
            signal = signals.end() => Some(signal),
        }
    }

    /// Lets the mirrors finish what they have begun.
    async fn end(&mut self) {
        let _ = self.stop.send(true);
        if let Some(actions) = &self.actions {
            actions.stop(SignalKind::terminate().as_raw_value());
        }
        while self.mirrors.join_next().await.is_some() {}
    }
}
