//! Lsyncd 2's mirrors in one process: what carries each, their signals, their reload, their end.
//!
//! One round is a configuration from its start to its end. HUP loads the file anew first, and only a
//! configuration that can be loaded ends the round; a broken one changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use mlua::Lua;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::open_source;
use super::statusfile::StatusFile;
use crate::carrier::action::{ActionLog, Actions, Finish};
use crate::config::MirrorConfig;
use crate::config::lua::Entry;
use crate::config::rsync::RsyncMirror;
use crate::config::settings::Settings;
use crate::config::tunnel::TunnelKeys;
use crate::error::{Error, Exit, Result};
use crate::filter::Filter;
use crate::metrics::{Metrics, Notice};
use crate::mirror::connect;
use crate::mirror::run::{self, Running, Starts};
use crate::source::Scope;

mod scripts;
mod status;

use status::{Board, Knows, Watched};

/// What a configuration asks for, wholly resolved.
pub struct Setup {
    /// The interpreter that read it, for the syncs with actions of their own.
    pub lua: Lua,
    /// `settings{}` and what of it stands in the command line.
    pub settings: Settings,
    /// One for each `sync{}`.
    pub mirrors: Vec<TwoMirror>,
    /// One for each `tunnel{}`.
    pub tunnels: Vec<TunnelKeys>,
}

/// One `sync{}`.
pub struct TwoMirror {
    /// Its name: `Sync1`, unless it has one of its own.
    pub name: String,
    /// The source.
    pub source: PathBuf,
    /// The target, as people read it.
    pub target: String,
    /// What it is to do.
    pub carried: Carried,
    /// What carries it, and why, in words.
    pub why: String,
    /// Keys that have no effect, and why that is no loss.
    pub notes: Vec<String>,
    /// Its rules in rsync's words.
    pub rules: Vec<Vec<u8>>,
    /// When everything is mirrored again.
    pub crontab: Vec<String>,
    /// The tunnel it goes through, by its place among all.
    pub tunnel: Option<usize>,
}

/// What carries a mirror.
pub enum Carried {
    /// The agent, on the target's host or in this process.
    Agent(Box<MirrorConfig>),
    /// The system's rsync.
    Rsync(Box<RsyncMirror>),
    /// Functions and commands of its own; the filter its events go through.
    Actions(Box<Entry>, Filter),
}

/// Who hears what Lsyncd 2 would have logged.
pub trait Told: Metrics + ActionLog {
    /// From here on these are the mirrors: name, source and target.
    fn mirrors(&self, mirrors: &[TwoMirror]);
}

/// How a configuration is loaded again.
pub type Reload = Box<dyn Fn() -> Result<Setup> + Send>;

/// Runs a configuration until a signal or its last mirror ends it. `started` is called when
/// everything has begun.
///
/// # Errors
/// A source cannot be watched, or no mirror could start.
pub async fn run(
    setup: Setup,
    reload: Reload,
    told: Arc<dyn Told>,
    started: impl FnOnce() -> Result<()>,
) -> Result<u8> {
    let mut signals = Signals::new()?;
    let mut setup = setup;
    let mut started = Some(started);
    loop {
        told.line("Normal", "--- Startup ---");
        told.mirrors(&setup.mirrors);
        let insist = setup.settings.insist || started.is_none();
        let mut round = Round::start(setup, insist, &told)?;
        if let Some(started) = started.take() {
            started()?;
        }
        match round.until_it_ends(&mut signals, &reload).await {
            Ended::Exit(exit) => return exit,
            Ended::Again(next) => setup = *next,
        }
    }
}

/// How a round ended.
enum Ended {
    /// The process ends.
    Exit(Result<u8>),
    /// Another configuration takes its place.
    Again(Box<Setup>),
}

/// A configuration that runs.
struct Round {
    told: Arc<dyn Told>,
    mirrors: JoinSet<(String, Result<Exit>)>,
    /// What the syncs with actions of their own share.
    actions: Option<Arc<Actions>>,
    /// What runs beside the mirrors and ends with them.
    _beside: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Round {
    fn start(setup: Setup, insist: bool, told: &Arc<dyn Told>) -> Result<Round> {
        let Setup { lua, settings, mirrors, .. } = setup;
        let (stop, stopped) = watch::channel(false);
        let starts = Arc::new(match insist {
            true => Starts::insisting(mirrors.len()),
            false => Starts::new(mirrors.len()),
        });
        let mut running = JoinSet::new();
        let mut own = Vec::new();
        let mut board = Board { syncs: Vec::new(), actions: None, tunnels: Vec::new() };
        for mirror in mirrors {
            let TwoMirror { name, source, target, carried, why, rules, .. } = mirror;
            let rules: Vec<String> =
                rules.iter().map(|rule| lsync_protocol::path::Escaped(rule).to_string()).collect();
            let shown = lsync_protocol::path::Escaped(source.as_os_str().as_encoded_bytes());
            told.line("Normal", &format!("{name}: {shown} -> {target} by {why}"));
            match carried {
                Carried::Agent(config) => {
                    let live = !settings.onepass;
                    let scope = Scope {
                        filter: Arc::new(config.filter.clone()),
                        one_file_system: config.one_file_system,
                        max_size: config.max_size,
                    };
                    let watch = live.then_some(config.watch);
                    let source =
                        Arc::new(open_source(&config.source, scope, watch, config.rescan)?);
                    let (ask, asked) = mpsc::channel(1);
                    board.syncs.push(Watched {
                        name: name.clone(),
                        source: Arc::clone(&source),
                        rules,
                        knows: Knows::Mirror(ask),
                    });
                    let one = Running {
                        events: live.then(|| source.subscribe()),
                        config: Arc::new(*config),
                        source,
                        key: connect::random()?,
                        once: settings.onepass,
                        dry_run: false,
                        metrics: Arc::clone(told) as Arc<dyn Metrics>,
                        stop: stopped.clone(),
                        starts: Arc::clone(&starts),
                        asked: Some(asked),
                        has_other_way: false,
                    };
                    running.spawn(async move { (name, run::run(one).await) });
                }
                Carried::Actions(entry, filter) => own.push((*entry, filter)),
                Carried::Rsync(_) => {
                    return Err(Error::failed(format!("{name}: {why} is not there yet")));
                }
            }
        }
        if !own.is_empty() {
            scripts::start(lua, own, &settings, insist, told, &mut running, &mut board)?;
        }
        let actions = board.actions.clone();
        let mut beside = JoinSet::new();
        if let Some(path) = &settings.status_file {
            let file = StatusFile::new(path, settings.status_interval);
            beside.spawn(status::keep(board, file, Arc::clone(told)));
        }
        Ok(Round { told: Arc::clone(told), mirrors: running, actions, _beside: beside, stop })
    }

    /// Waits for the mirrors and for signals.
    async fn until_it_ends(&mut self, signals: &mut Signals, reload: &Reload) -> Ended {
        let (mut worst, mut errors) = (Exit::Done, Vec::new());
        loop {
            tokio::select! {
                ended = self.mirrors.join_next() => match ended {
                    None => return Ended::Exit(self.over(worst, errors)),
                    Some(Ok((_, Ok(_)))) if self.terminated().is_some() => {
                        let code = self.terminated().unwrap_or_default();
                        self.end().await;
                        return Ended::Exit(Ok(code));
                    }
                    Some(Ok((_, Ok(exit)))) => worst = worst.max(exit),
                    Some(Ok((name, Err(error)))) => {
                        worst = worst.max(error.exit());
                        errors.push((name, error));
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
                    Heard::Again => match tokio::task::block_in_place(reload) {
                        Ok(next) => {
                            self.told.line("Normal", "--- HUP signal, resetting ---");
                            self.end().await;
                            return Ended::Again(Box::new(next));
                        }
                        Err(error) => {
                            self.told.line("Error", &format!("{error}; going on as before"));
                        }
                    },
                },
            }
        }
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
        tokio::select! {
            () = self.end() => {}
            () = signals.end() => {}
        }
        Ok(if name == "INT" { Exit::Interrupted } else { Exit::Terminated } as u8)
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

/// What a signal asks for.
enum Heard {
    End(i32),
    Again,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let cannot = |error| Error::failed("cannot wait for signals").because(error);
        let one = |kind| signal(kind).map_err(cannot);
        Ok(Signals {
            terminate: one(SignalKind::terminate())?,
            interrupt: one(SignalKind::interrupt())?,
            hangup: one(SignalKind::hangup())?,
        })
    }

    async fn heard(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::End(SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => Heard::End(SignalKind::interrupt().as_raw_value()),
            _ = self.hangup.recv() => Heard::Again,
        }
    }

    /// Waits for one that ends.
    async fn end(&mut self) {
        while let Heard::Again = self.heard().await {}
    }
}
