//! Many mirrors in one process: a stub until the engine stands.

use std::sync::Arc;

use crate::config::{AgentOptions, MirrorConfig, SshOptions, SshTarget};
use crate::error::{Error, Exit, Result};
use crate::metrics::Metrics;

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
    _mirrors: Vec<MirrorConfig>,
    _how: PushOptions,
    _metrics: Arc<dyn Metrics>,
) -> Result<Exit> {
    Err(Error::failed("mirroring is not there yet"))
}

/// Tests the agent of a host, after putting it there with `install`.
///
/// # Errors
/// Why no mirror to that host would work.
pub async fn agent(
    _install: bool,
    _host: &SshTarget,
    _ssh: &SshOptions,
    _agent: &AgentOptions,
    _metrics: Arc<dyn Metrics>,
) -> Result<AgentFacts> {
    Err(Error::failed("agents are not there yet"))
}
