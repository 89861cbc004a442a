//! `tunnel{}`: a command that is kept running and through which a target is reached.

use std::time::Duration;

/// What a tunnel is, as the configuration says.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelKeys {
    /// What it is called in lines and in the status.
    pub name: String,
    /// The program and its words; `^localport` and `^localhost` stand for where it listens.
    pub command: Vec<String>,
    /// How many are kept (`mode = 'pool'`); connections go round.
    pub parallel: usize,
    /// The host of the near end.
    pub localhost: String,
    /// How long a command has to last before it counts as up.
    pub ready_delay: Duration,
    /// How long it takes until one that ended is started again.
    pub retry_delay: Duration,
    /// After so many failures in a row it is told once more.
    pub max_failed: u32,
}

/// Where the near end of a tunnel is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearEnd {
    /// The host: `localhost`.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl NearEnd {
    /// Puts the near end in place of `^localport` and `^localhost`.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        text.replace("^localport", &self.port.to_string()).replace("^localhost", &self.host)
    }
}
