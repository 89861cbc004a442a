//! Many mirrors in one process: their sources, their signals, their end.

pub mod two;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{AgentOptions, MirrorConfig, SshOptions, SshTarget, WatchChoice};
use crate::deploy;
use crate::error::{Error, Exit, Result};
use crate::metrics::{Metrics, Notice};
use crate::mirror::connect;
use crate::mirror::run::{Running, Starts, all};
use crate::source::{Scope, Source};
use crate::watch::WatchLimits;

pub mod detach;
pub mod pidfile;
pub mod statusfile;

/// How mirrors are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushOptions {
    /// End when the first mirror is complete.
    pub once: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What `agent install` and `agent check` found: names of facts, and the facts.
pub type AgentFacts = Vec<(&'static str, String)>;

/// Runs mirrors until they end or a signal comes.
///
/// # Errors
/// When no mirror could start for a reason that is the same for all; others are notices.
pub async fn push(
    mirrors: Vec<MirrorConfig>,
    how: PushOptions,
    metrics: Arc<dyn Metrics>,
) -> Result<Exit> {
    let cannot = |error: std::io::Error| Error::failed("cannot wait for signals").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let live = !how.once && !how.dry_run;
    let (stop, stopped) = watch::channel(false);
    let starts = Arc::new(Starts::new(mirrors.len()));
    let mut sources: Vec<(Arc<Source>, [u8; 32])> = Vec::new();
    let mut running = Vec::new();
    for config in mirrors {
        let known = sources.iter().find(|(source, _)| source.path() == config.source).cloned();
        let (source, key) = match known {
            Some(known) => known,
            None => {
                let new = (Arc::new(open_source(&config, live)?), connect::random()?);
                sources.push(new.clone());
                new
            }
        };
        running.push(Running {
            events: live.then(|| source.subscribe()),
            config: Arc::new(config),
            source,
            key,
            once: how.once,
            dry_run: how.dry_run,
            metrics: Arc::clone(&metrics),
            stop: stopped.clone(),
            starts: Arc::clone(&starts),
            asked: None,
            has_other_way: false,
        });
    }
    let several = running.len() > 1;
    let mut mirrors = std::pin::pin!(all(running));
    let mut told: Option<u8> = None;
    loop {
        let signal = tokio::select! {
            (exit, errors) = &mut mirrors => {
                for (mirror, error) in errors {
                    if !several {
                        return Err(error);
                    }
                    let (what, hint) = (error.to_string(), error.hint_text().map(Into::into));
                    metrics.notice(Notice::Failed { mirror, what, hint });
                }
                return Ok(match (told, live) {
                    (Some(signal), false) => by_signal(signal),
                    _ => exit,
                });
            }
            _ = terminate.recv() => 15,
            _ = interrupt.recv() => 2,
        };
        // A second one: at once.
        if told.is_some() {
            return Ok(if live { Exit::Done } else { by_signal(signal) });
        }
        told = Some(signal);
        let _ = stop.send(true);
    }
}

/// The exit code of a run that was to be done once and was ended by a signal.
fn by_signal(signal: u8) -> Exit {
    if signal == 2 { Exit::Interrupted } else { Exit::Terminated }
}

fn open_source(config: &MirrorConfig, live: bool) -> Result<Source> {
    let scope = Scope {
        filter: Arc::new(config.filter.clone()),
        one_file_system: config.one_file_system,
        max_size: config.max_size,
    };
    let source = Source::open(&config.source, scope)?;
    if live {
        let limits = match (config.watch, config.rescan) {
            // A poll is a rescan by digests: it comes as often as those.
            (WatchChoice::Poll, Some(every)) => {
                WatchLimits { poll: every, ..WatchLimits::default() }
            }
            _ => WatchLimits::default(),
        };
        source.watch(config.watch, limits)?;
    }
    Ok(source)
}

/// How long `agent check` waits for an agent to answer.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);

/// Tests the agent of a host, after putting it there with `install`.
///
/// # Errors
/// Why no mirror to that host would work.
pub async fn agent(
    install: bool,
    host: &SshTarget,
    ssh: &SshOptions,
    agent: &AgentOptions,
    metrics: Arc<dyn Metrics>,
) -> Result<AgentFacts> {
    metrics.notice(Notice::Connecting { mirror: host.host.as_str().into() });
    let visit = async {
        let remote = connect::remote(host, ssh).await?;
        if install {
            let installed = deploy::install(remote.as_ref(), agent, true).await?;
            return Ok(vec![
                ("host", remote.peer().to_owned()),
                ("kind", installed.host),
                ("agent", installed.path),
                ("copied", if installed.copied { "yes" } else { "no, it was there" }.to_owned()),
            ]);
        }
        let checked = deploy::check(remote.as_ref(), agent).await?;
        let version = checked.version.unwrap_or_else(|| "not there, copied when needed".to_owned());
        Ok(vec![
            ("host", remote.peer().to_owned()),
            ("kind", checked.host),
            ("agent", checked.path),
            ("version", version),
        ])
    };
    match tokio::time::timeout(CHECK_PATIENCE * if install { 5 } else { 1 }, visit).await {
        Ok(facts) => facts,
        Err(_) => Err(Error::failed(format!("no answer from {}", host.host))),
    }
}
