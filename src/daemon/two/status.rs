//! What the status file says of all syncs, gathered from those who know.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::block_in_place;

use super::Told;
use crate::carrier::action::Actions;
use crate::carrier::tunnel::{State, Tunnel};
use crate::daemon::late::LateSource;
use crate::daemon::statusfile::{
    DelayLine, StatusFile, StatusReport, SyncStatus, TunnelProcess, TunnelStatus,
};
use crate::metrics::Step;
use crate::mirror::pending::{Pending, PendingLine};
use crate::mirror::steer::Steer;

/// How often it is looked whether there is something to write, at most.
const LOOK: Duration = Duration::from_millis(200);
/// How often while there is something to do: that it came to rest is written at once.
const REST_LOOK: Duration = Duration::from_secs(1);
/// What a mirror has to do whose first comparison is not complete.
const INIT: DelayLine =
    DelayLine { status: "active", etype: "Init", path: Vec::new(), path2: None };
/// A mirror that is busy answers late; the others are not kept waiting.
const ANSWER: Duration = Duration::from_secs(1);

/// Whoever knows what a sync has to do.
pub(super) enum Knows {
    /// A mirror, by this queue; another one's when another carries it.
    Mirror(Arc<Mutex<mpsc::Sender<Steer>>>),
    /// The interpreter, by the sync's number.
    Scripts(usize),
}

/// One sync on the board.
pub(super) struct Watched {
    /// Where it stands in the configuration.
    pub(super) place: usize,
    pub(super) name: String,
    pub(super) source: Arc<LateSource>,
    pub(super) rules: Vec<String>,
    pub(super) knows: Knows,
}

/// All that the status file speaks of.
pub(super) struct Board {
    pub(super) syncs: Vec<Watched>,
    pub(super) actions: Option<Arc<Actions>>,
    pub(super) tunnels: Vec<Arc<Tunnel>>,
}

/// Keeps the file as it should be. Ends when it is dropped.
pub(super) async fn keep(board: Board, mut file: StatusFile, told: Arc<dyn Told>) {
    let mut told_once = false;
    loop {
        let report = board.report().await;
        let idle = report.syncs.iter().all(|sync| sync.count == 0);
        let now = Instant::now();
        match file.due_in(idle, now) {
            // Where it stands may be slow to take it.
            Some(Duration::ZERO) => match block_in_place(|| file.write(&report, idle, now)) {
                Ok(()) => told_once = false,
                Err(error) if !told_once => {
                    told_once = true;
                    told.line("Error", &error.to_string());
                }
                Err(_) => {}
            },
            Some(wait) => {
                tokio::time::sleep(wait.min(REST_LOOK)).await;
                continue;
            }
            None => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Board {
    async fn report(&self) -> StatusReport {
        let scripts = self.actions.as_ref().map(|actions| actions.status()).unwrap_or_default();
        let mut syncs = Vec::new();
        for sync in &self.syncs {
            let mut source = sync.source.path().as_os_str().as_encoded_bytes().to_vec();
            if source.last() != Some(&b'/') {
                source.push(b'/');
            }
            let (count, delays, rules) = match &sync.knows {
                // It waits for its source.
                _ if sync.source.now().is_none() => (1, vec![INIT], sync.rules.clone()),
                Knows::Mirror(mirror) => {
                    let mirror = mirror.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let (count, lines) = match ask(&mirror).await {
                        None => (0, Vec::new()),
                        Some(pending) => {
                            let begins = (!pending.ready).then_some(INIT);
                            let count = pending.count + u64::from(!pending.ready);
                            let lines = begins.into_iter().chain(pending.lines.iter().map(line));
                            (count, lines.collect())
                        }
                    };
                    (count, lines, sync.rules.clone())
                }
                Knows::Scripts(number) => match scripts.get(*number) {
                    None => (0, Vec::new(), sync.rules.clone()),
                    Some(status) => {
                        let delays = status.delays.iter().map(|delay| DelayLine {
                            status: delay.status.name(),
                            etype: delay.etype.name(),
                            path: delay.path.clone(),
                            path2: delay.path2.clone(),
                        });
                        (status.delays.len() as u64, delays.collect(), status.rules.clone())
                    }
                },
            };
            syncs.push(SyncStatus { name: sync.name.clone(), source, count, delays, rules });
        }
        let watches = self.syncs.iter().filter_map(|sync| sync.source.now()?.watch_status());
        StatusReport {
            at: jiff::Zoned::now(),
            syncs,
            tunnels: self.tunnels.iter().map(|tunnel| tunnel_status(tunnel)).collect(),
            watches: watches.map(|status| status.watches).sum(),
        }
    }
}

/// What a mirror has to do; nothing, if it has ended or is too busy to say.
async fn ask(mirror: &mpsc::Sender<Steer>) -> Option<Pending> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        mirror.send(Steer::Pending(reply)).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(ANSWER, asked).await.ok().flatten()
}

/// A path as Lsyncd 2 writes it.
fn line(pending: &PendingLine) -> DelayLine {
    let written = |path: &lsync_protocol::path::RelPath, dir: bool| {
        let mut bytes = [b"/", path.as_bytes()].concat();
        if dir && bytes.last() != Some(&b'/') {
            bytes.push(b'/');
        }
        bytes
    };
    let (etype, path, path2) = match &pending.what {
        Step::Create { path, dir } => ("Create", written(path, *dir), None),
        Step::Update { path } => ("Modify", written(path, false), None),
        Step::Delete { path, dir } => ("Delete", written(path, *dir), None),
        Step::HardLink { path, .. } => ("Create", written(path, false), None),
        Step::Attributes { path } => ("Attrib", written(path, false), None),
        Step::Rename { from, to } => ("Move", written(from, false), Some(written(to, false))),
    };
    DelayLine { status: if pending.active { "active" } else { "wait" }, etype, path, path2 }
}

fn tunnel_status(tunnel: &Tunnel) -> TunnelStatus {
    let states = tunnel.states();
    let up = states.iter().any(|state| matches!(state, State::Up { .. }));
    let processes = states.iter().filter_map(|state| match state {
        State::Connecting { pid, since } | State::Up { pid, since } => {
            let since = jiff::Timestamp::try_from(*since).unwrap_or_default();
            let since = since.to_zoned(jiff::tz::TimeZone::system());
            let started = since.strftime("%a %b %e %H:%M:%S %Y").to_string();
            Some(TunnelProcess { pid: *pid, kind: 1, started })
        }
        State::Down | State::Retrying { .. } => None,
    });
    TunnelStatus {
        name: tunnel.name().to_owned(),
        status: if up { "UP" } else { states.first().map_or("DOWN", State::word) },
        processes: processes.collect(),
    }
}
