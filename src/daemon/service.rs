//! What a service manager is told: that we have started, that we are alive, and how it stands in a
//! line (`sd_notify(3)`).

use std::time::Duration;

use sd_notify::NotifyState;

use crate::control::server::Roll;

/// How often the line is looked at, where nobody waits for a sign of life.
const LOOK: Duration = Duration::from_secs(15);

/// A service manager, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Service {
    there: bool,
    watchdog: Option<Duration>,
}

impl Service {
    /// One that is there if it has said so to this process (`NOTIFY_SOCKET`).
    #[must_use]
    pub fn new(there: bool) -> Service {
        let watchdog = if there { sd_notify::watchdog_enabled() } else { None };
        Service { there, watchdog }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.there
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!("the service manager does not listen: {error}");
        }
    }

    /// We have started, or have read the configuration again.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// We are about to end.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Says how it stands, and that we are alive: that each mirror answers. Ends when it is dropped.
    pub async fn keep(self, roll: Roll) {
        if !self.there {
            return;
        }
        let every = self.watchdog.map_or(LOOK, |most| (most / 3).min(LOOK));
        let mut said = String::new();
        loop {
            let (line, alive) = crate::control::server::in_a_line(&roll).await;
            let mut states = Vec::new();
            if alive && self.watchdog.is_some() {
                states.push(NotifyState::Watchdog);
            }
            if line != said {
                states.push(NotifyState::Status(&line));
            }
            if !states.is_empty() {
                self.tell(&states);
            }
            drop(states);
            said = line;
            tokio::time::sleep(every).await;
        }
    }
}
