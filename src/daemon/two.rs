//! Lsyncd 2's mirrors in one process: what carries each, their signals, their reload, their end.
//!
//! One round is a configuration from its start to its end. HUP loads the file anew first, and only a
//! configuration that can be loaded ends the round; a broken one changes nothing.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use mlua::Lua;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::carrier::action::ActionLog;
use crate::config::MirrorConfig;
use crate::config::lua::Entry;
use crate::config::rsync::RsyncMirror;
use crate::config::settings::Settings;
use crate::config::tunnel::TunnelKeys;
use crate::control::Places;
use crate::control::server::Roll;
use crate::daemon::listen;
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::metrics::Metrics;

mod clock;
mod round;
mod scripts;
mod status;

use round::{Ended, Round};

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
    /// The agent, on the target's host or in this process; and rsync, should the host take none.
    Agent(Box<MirrorConfig>, Option<Box<RsyncMirror>>),
    /// The system's rsync.
    Rsync(Box<RsyncMirror>),
    /// Functions and commands of its own; the filter its events go through.
    Actions(Box<Entry>, Filter),
}

/// Who hears what Lsyncd 2 would have logged.
pub trait Told: Metrics + ActionLog {
    /// What a mirror's source and target are called in lines about it.
    fn ends(&self, mirror: &str, source: &str, target: &str);
}

/// How a configuration is loaded again, and who hears of it then.
pub type Reload = Arc<dyn Fn() -> Result<(Setup, Arc<dyn Told>)> + Send + Sync>;

/// Runs a configuration until a signal or its last mirror ends it; the exit code. `started` is
/// called when a first target has answered, or when there is none to wait for.
///
/// # Errors
/// A source cannot be watched, or no mirror could start.
pub async fn run(
    setup: Setup,
    reload: Reload,
    told: Arc<dyn Told>,
    places: &Places,
    started: impl FnOnce() -> Result<()>,
) -> Result<u8> {
    let mut signals = Signals::new()?;
    let roll = Roll::default();
    // Ends with what follows, and takes the socket away.
    let mut beside = JoinSet::new();
    if let Some(control) = listen(places)? {
        beside.spawn(control.serve(Arc::clone(&roll)));
    }
    let (mut setup, mut told) = (setup, told);
    let mut started = Some(started);
    let mut insist = setup.settings.insist;
    let mut patient = false;
    loop {
        let mut round = Round::start(setup, insist, patient, told)?;
        *roll.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut round.served);
        match round.until_it_ends(&mut signals, &reload, &mut started).await {
            Ended::Exit(exit) => return exit,
            Ended::Again(next) => (setup, told) = *next,
        }
        // What has run once goes on trying.
        (insist, patient) = (true, true);
        told.line("Normal", "--- Startup ---");
        for warning in &setup.settings.warnings {
            told.line("Warn", warning);
        }
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

    /// Waits for one that ends, and says which.
    async fn end(&mut self) -> i32 {
        loop {
            if let Heard::End(signal) = self.heard().await {
                return signal;
            }
        }
    }
}
