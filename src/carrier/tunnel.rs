//! Tunnels: commands that are kept running, and through which rsync reaches its target.
//!
//! A tunnel listens on a port of this host that was free when it was set up, and keeps it. What goes
//! through it waits until it is there.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::tunnel::{NearEnd, TunnelKeys};
use crate::error::{Error, Result};

/// The shortest pause before a command that ended is started again, whatever is asked for.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// How one command of a tunnel stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Not started yet.
    #[default]
    Down,
    /// Started, and too young to be relied on.
    Connecting {
        /// Its process.
        pid: u32,
        /// When it was started.
        since: SystemTime,
    },
    /// There.
    Up {
        /// Its process.
        pid: u32,
        /// When it was started.
        since: SystemTime,
    },
    /// It ended, for this reason, and is started again after a while.
    Retrying {
        /// Why it ended.
        why: String,
        /// How often in a row.
        failed: u32,
    },
}

impl State {
    /// Lsyncd 2's word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            State::Down => "DOWN",
            State::Connecting { .. } => "CONNECTING",
            State::Up { .. } => "UP",
            State::Retrying { .. } => "RETRY_TIMEOUT",
        }
    }
}

/// A tunnel. Dropping it ends its commands.
#[derive(Debug)]
pub struct Tunnel {
    name: String,
    slots: Vec<Slot>,
    next: AtomicUsize,
    _keepers: JoinSet<()>,
}

#[derive(Debug)]
struct Slot {
    near: NearEnd,
    state: watch::Receiver<State>,
}

impl Tunnel {
    /// Starts the commands of a tunnel and keeps them.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(keys: &TunnelKeys) -> Result<Arc<Tunnel>> {
        let mut slots = Vec::new();
        let mut keepers = JoinSet::new();
        for _ in 0..keys.parallel.max(1) {
            let near = NearEnd { host: keys.localhost.clone(), port: free_port()? };
            let (tell, state) = watch::channel(State::Down);
            keepers.spawn(keep(keys.clone(), near.clone(), tell));
            slots.push(Slot { near, state });
        }
        Ok(Arc::new(Tunnel {
            name: keys.name.clone(),
            slots,
            next: AtomicUsize::new(0),
            _keepers: keepers,
        }))
    }

    /// Waits until a command is up; where to connect. Those that are up take turns.
    pub async fn ready(&self) -> NearEnd {
        loop {
            let from = self.next.fetch_add(1, Ordering::Relaxed);
            for at in 0..self.slots.len() {
                let slot = &self.slots[(from + at) % self.slots.len()];
                if matches!(*slot.state.borrow(), State::Up { .. }) {
                    return slot.near.clone();
                }
            }
            let mut waits = JoinSet::new();
            for slot in &self.slots {
                let mut state = slot.state.clone();
                waits.spawn(async move {
                    let _ = state.wait_for(|state| matches!(state, State::Up { .. })).await;
                });
            }
            waits.join_next().await;
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts the near end in place of `^localport` and `^localhost`, for people: of a pool every port.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        let ports: Vec<String> = self.slots.iter().map(|slot| slot.near.port.to_string()).collect();
        let host = self.slots.first().map_or("", |slot| slot.near.host.as_str());
        text.replace("^localport", &ports.join("|")).replace("^localhost", host)
    }

    /// How each of its commands stands.
    #[must_use]
    pub fn states(&self) -> Vec<State> {
        self.slots.iter().map(|slot| slot.state.borrow().clone()).collect()
    }
}

/// A port that nothing listens on now.
fn free_port() -> Result<u16> {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::failed("cannot find a free port for a tunnel").because(error))
}

/// Keeps one command running.
async fn keep(keys: TunnelKeys, near: NearEnd, tell: watch::Sender<State>) {
    let mut failed = 0;
    let retry_delay = keys.retry_delay.max(RETRY_MIN);
    loop {
        let why = match start(&keys, &near) {
            Ok(mut child) => {
                let (pid, since) = (child.id().unwrap_or_default(), SystemTime::now());
                tell.send_replace(State::Connecting { pid, since });
                match tokio::time::timeout(keys.ready_delay, child.wait()).await {
                    Ok(ended) => said(ended),
                    Err(_) => {
                        failed = 0;
                        tell.send_replace(State::Up { pid, since });
                        said(child.wait().await)
                    }
                }
            }
            Err(error) => crate::error::plain(&error.to_string()),
        };
        failed += 1;
        if failed == 1 || failed == keys.max_failed {
            tracing::warn!(
                "tunnel {}: {why}; it is started again after {} seconds",
                keys.name,
                retry_delay.as_secs_f32()
            );
        }
        tell.send_replace(State::Retrying { why, failed });
        tokio::time::sleep(retry_delay).await;
    }
}

fn start(keys: &TunnelKeys, near: &NearEnd) -> std::io::Result<Child> {
    let mut words = keys.command.iter().map(|word| near.fill(word));
    let program = words.next().unwrap_or_default();
    Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
}

fn said(ended: std::io::Result<std::process::ExitStatus>) -> String {
    match ended {
        Ok(status) => format!("the command ended: {status}"),
        Err(error) => crate::error::plain(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(command: &str) -> TunnelKeys {
        TunnelKeys {
            name: "t".into(),
            command: ["sh", "-c", command].map(String::from).to_vec(),
            parallel: 1,
            localhost: "localhost".into(),
            ready_delay: Duration::from_millis(100),
            retry_delay: Duration::from_millis(10),
            max_failed: 5,
        }
    }

    #[tokio::test]
    async fn a_command_that_lasts_is_up_and_knows_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("port");
        let tunnel =
            Tunnel::start(&keys(&format!("echo ^localport > {file:?}; exec sleep 600"))).unwrap();
        let near = tunnel.ready().await;
        assert_eq!(std::fs::read_to_string(file).unwrap().trim(), near.port.to_string());
        assert_eq!(
            near.fill("rsync://^localhost:^localport/m"),
            format!("rsync://localhost:{}/m", near.port)
        );
        let State::Up { pid, .. } = tunnel.states()[0] else { panic!() };
        drop(tunnel);
        let proc = std::path::PathBuf::from(format!("/proc/{pid}/cmdline"));
        // Reaped or about to be: a process that has ended has no command line.
        while std::fs::read(&proc).is_ok_and(|line| !line.is_empty()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn one_that_ends_is_started_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tries");
        let command =
            format!("echo x >> {file:?}; [ $(wc -l < {file:?}) -lt 3 ] && exit 1; exec sleep 600");
        let tunnel = Tunnel::start(&keys(&command)).unwrap();
        tunnel.ready().await;
        assert_eq!(std::fs::read_to_string(file).unwrap(), "x\nx\nx\n");
    }

    #[tokio::test]
    async fn one_that_always_ends_does_not_spin() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tries");
        let command = format!("echo x >> {file:?}; exit 1");
        let began = std::time::Instant::now();
        let _tunnel =
            Tunnel::start(&TunnelKeys { retry_delay: Duration::ZERO, ..keys(&command) }).unwrap();
        while std::fs::read(&file).map_or(0, |tries| tries.len()) < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(began.elapsed() >= 2 * RETRY_MIN, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn those_of_a_pool_take_turns() {
        let pool = TunnelKeys { parallel: 2, ..keys("exec sleep 600") };
        let tunnel = Tunnel::start(&pool).unwrap();
        while tunnel.states().iter().any(|state| state.word() != "UP") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (a, b, c) = (tunnel.ready().await, tunnel.ready().await, tunnel.ready().await);
        assert!(a != b && a == c);
        let shown = tunnel.fill("^localhost:^localport");
        let (one, other) = (format!("{}|{}", a.port, b.port), format!("{}|{}", b.port, a.port));
        assert!([one, other].iter().any(|ports| shown == format!("localhost:{ports}")), "{shown}");
    }
}
