//! Many mirrors in one process: their sources, their signals, their end.

pub mod detach;
mod late;
pub mod many;
pub mod pidfile;
pub mod service;
pub mod statusfile;
pub mod two;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lsync_agent::fault::OnDemand;
use lsync_protocol::handshake::Welcome;
use lsync_protocol::path::Escaped;
use lsync_protocol::xattr::Classes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{AgentOptions, AnyMirror, SshOptions, SshTarget, Verify, WatchChoice};
use crate::control::server::{Control, Roll, Served};
use crate::control::status::CarrierName;
use crate::control::{self, Places};
use crate::deploy::{self, Visit};
use crate::error::{Error, Exit, Result};
use crate::metrics::{Metrics, Notice};
use crate::mirror::connect;
use crate::mirror::rsync::run::{RsyncRunning, run as run_rsync};
use crate::mirror::run::{Begun, Running, Starts, all, run};
use crate::mirror::steer::Steer;
use crate::source::{Scope, Source};
use crate::watch::WatchLimits;

/// How mirrors are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushOptions {
    /// End when the first mirror is complete.
    pub once: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Only compare; goes with `once`.
    pub verify: Verify,
}

/// What `agent install` and `agent check` found: names of facts, and the facts.
pub type AgentFacts = Vec<(&'static str, String)>;

/// Runs mirrors until they end or a signal comes.
///
/// # Errors
/// When no mirror could start for a reason that is the same for all; others are notices.
pub async fn push(
    mirrors: Vec<AnyMirror>,
    how: PushOptions,
    places: &Places,
    roll: Roll,
    metrics: Arc<dyn Metrics>,
) -> Result<Exit> {
    let cannot = |error: std::io::Error| Error::failed("cannot wait for signals").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let live = !how.once && !how.dry_run;
    let (stop, stopped) = watch::channel(false);
    let starts = Arc::new(Starts::new(mirrors.len()));
    let mut served = Vec::new();
    let mut sources: Vec<(Arc<Source>, [u8; 32])> = Vec::new();
    let mut running = Vec::new();
    for mirror in mirrors {
        let (path, scope, choice, rescan) = scope_of(&mirror);
        let known = sources.iter().find(|(source, _)| source.path() == path).cloned();
        let (source, key) = match known {
            Some(known) => known,
            None => {
                let source = open_source(&path, scope, live.then_some(choice), rescan)?;
                let new = (Arc::new(source), connect::random()?);
                sources.push(new.clone());
                new
            }
        };
        let events = live.then(|| source.subscribe());
        let (metrics, stop, starts) = (Arc::clone(&metrics), stopped.clone(), Arc::clone(&starts));
        let PushOptions { once, dry_run, verify } = how;
        let name: Arc<str> = mirror.name().into();
        let (ask, steered) = control::server::way();
        served.push(served_as(&mirror, ask));
        let steered = Some(steered);
        running.push(match mirror {
            AnyMirror::Agent(config) => {
                let config = Arc::new(*config);
                let mirror = Running {
                    events,
                    config,
                    source,
                    key,
                    once,
                    dry_run,
                    verify,
                    metrics,
                    stop,
                    starts,
                    steered,
                    has_other_way: false,
                    faults: OnDemand::default(),
                };
                Begun { name, run: Box::pin(run(mirror)) }
            }
            AnyMirror::Rsync(config) => {
                let config = Arc::new(*config);
                let mirror = RsyncRunning {
                    events,
                    config,
                    source,
                    once,
                    dry_run,
                    metrics,
                    stop,
                    starts,
                    tunnel: None,
                    steered,
                    limit: None,
                    patient: false,
                };
                Begun { name, run: Box::pin(run_rsync(mirror)) }
            }
        });
    }
    let several = running.len() > 1;
    let touches = !how.dry_run && how.verify == Verify::No;
    let control = if touches { listen(places)? } else { None };
    *roll.lock().unwrap_or_else(PoisonError::into_inner) = served;
    // Ends with what follows, and takes the socket away.
    let mut beside = JoinSet::new();
    if let Some(control) = control {
        beside.spawn(control.serve(Arc::clone(&roll)));
    }
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

/// The source of a mirror, what of it counts, and how it is watched.
fn scope_of(mirror: &AnyMirror) -> (PathBuf, Scope, WatchChoice, Option<Duration>) {
    match mirror {
        AnyMirror::Agent(m) => {
            let filter = Arc::new(m.filter.clone());
            let (one_file_system, max_size) = (m.one_file_system, m.max_size);
            let xattrs = m.attributes.shown_xattrs();
            let scope = Scope { filter, one_file_system, max_size, xattrs, ..Scope::default() };
            (m.source.clone(), scope, m.watch, m.rescan)
        }
        AnyMirror::Rsync(m) => {
            let filter = Arc::new(m.filter.clone());
            let (one_file_system, max_size) = (m.one_file_system, m.max_size);
            // rsync reads them itself.
            let xattrs = Classes::NONE;
            let scope = Scope { filter, one_file_system, max_size, xattrs, ..Scope::default() };
            (m.source.clone(), scope, m.watch, m.rescan)
        }
    }
}

/// Makes the control socket. Where nobody has named one, doing without is better than not mirroring.
fn listen(places: &Places) -> Result<Option<Control>> {
    match Control::bind(places) {
        Ok(control) => Ok(Some(control)),
        Err(error) if places.socket.is_some() => Err(error),
        Err(error) => {
            let hint = error.hint_text().unwrap_or_default();
            tracing::warn!("{error}; lsyncd status will not find this one ({hint})");
            Ok(None)
        }
    }
}

/// What those who ask are told a mirror is.
fn served_as(mirror: &AnyMirror, ask: mpsc::Sender<Steer>) -> Served {
    let (source, target, carrier) = match mirror {
        AnyMirror::Agent(m) => (&m.source, m.target.to_string(), CarrierName::Agent),
        AnyMirror::Rsync(m) => {
            let target = Escaped(m.target.as_encoded_bytes()).to_string();
            (&m.source, target, CarrierName::Rsync)
        }
    };
    Served::new(mirror.name(), source.clone(), target, carrier, ask)
}

/// The exit code of a run that was to be done once and was ended by a signal.
fn by_signal(signal: u8) -> Exit {
    if signal == 2 { Exit::Interrupted } else { Exit::Terminated }
}

/// Opens a source, and watches it if it is said how.
fn open_source(
    path: &Path,
    scope: Scope,
    watch: Option<WatchChoice>,
    rescan: Option<Duration>,
) -> Result<Source> {
    let source = Source::open(path, scope)?;
    if let Some(choice) = watch {
        let limits = match (choice, rescan) {
            // A poll is a rescan by digests: it comes as often as those.
            (WatchChoice::Poll, Some(every)) => {
                WatchLimits { poll: every, ..WatchLimits::default() }
            }
            _ => WatchLimits::default(),
        };
        source.watch(choice, limits)?;
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
                ("lasting", installed.lasting),
            ]);
        }
        let checked = match deploy::visit(remote.as_ref(), agent).await? {
            Visit::Shell(checked) => checked,
            Visit::Fixed(link) => {
                let welcome = connect::visit(link).await?;
                return Ok(fixed_facts(remote.peer(), &welcome));
            }
        };
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

/// What an agent says of itself that a key's command starts.
fn fixed_facts(peer: &str, welcome: &Welcome) -> AgentFacts {
    let fixed = welcome.fixed.clone().unwrap_or_default();
    let root = welcome.root.as_ref().map_or_else(Vec::new, |root| root.path.clone());
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut facts = vec![
        ("host", peer.to_owned()),
        ("agent", "started by the command of this key in authorized_keys".to_owned()),
        ("version", format!("lsync-agent {}", Escaped(welcome.agent.as_bytes()))),
        ("root", Escaped(&root).to_string()),
        ("writes", yes(!fixed.read_only)),
        ("deletes", yes(!fixed.no_delete && !fixed.read_only)),
        ("landlock", if fixed.confined { "in force" } else { "not in force" }.to_owned()),
    ];
    facts.extend(fixed.trash.map(|dir| ("trash", dir.to_string())));
    facts
}
