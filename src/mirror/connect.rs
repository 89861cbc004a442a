//! From a target to an agent that has welcomed us.

use std::sync::Arc;
use std::time::Duration;

use lsync_agent::fault::{Faults, OnDemand};
use lsync_agent::{ServeError, ServeOptions, serve};
use lsync_protocol::handshake::{Create, Hello, Role, Standing, Welcome};
use lsync_protocol::path::Escaped;

use crate::carrier::agent::{Greeted, greet};
use crate::config::{Attributes, MirrorConfig, Target};
use crate::deploy;
use crate::error::{Error, Result};
use crate::link::{self, Link, LinkEnd, Remote};
use crate::metrics::{Metrics, Notice};
use crate::source::Source;

/// The first wait before a lost link is made again; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// An agent that has welcomed us, and what keeps its link alive.
pub(super) struct Connected {
    pub(super) greeted: Greeted,
    /// The ssh connection that carries the link.
    pub(super) remote: Option<Box<dyn Remote>>,
}

/// What a mirror says of itself when it connects.
#[derive(Debug, Clone)]
pub(super) struct Greeting {
    pub(super) config: Arc<MirrorConfig>,
    pub(super) source: Arc<Source>,
    pub(super) key: [u8; 32],
    pub(super) dry_run: bool,
    /// Only what differs is mended. Another mirror than the one that may be running: that one's
    /// agent has not to give way.
    pub(super) heals: bool,
    /// What fails in an agent of this process.
    pub(super) faults: OnDemand,
}

/// Connects, has the agent in place, and greets it.
pub(super) async fn connect(what: Greeting, metrics: Arc<dyn Metrics>) -> Result<Connected> {
    let hello = what.hello()?;
    let config = &what.config;
    metrics.notice(Notice::Connecting { mirror: config.name.as_str().into() });
    match &config.target {
        Target::Local(_) => {
            let greeted = greet(local(what.faults.faults())?, &hello).await?;
            Ok(Connected { greeted, remote: None })
        }
        Target::Ssh(target) => {
            let remote = remote(target, &config.ssh).await?;
            let link = deploy::start_agent(remote.as_ref(), &config.agent).await?;
            let greeted = greet(link, &hello).await?;
            Ok(Connected { greeted, remote: Some(remote) })
        }
    }
}

/// A host on which commands can be run: by ssh in this process, or by the user's own command.
///
/// # Errors
/// The host cannot be reached, or does not let us in.
pub async fn remote(
    target: &crate::config::SshTarget,
    ssh: &crate::config::SshOptions,
) -> Result<Box<dyn Remote>> {
    if ssh.command.is_some() {
        return Ok(Box::new(link::process::Program::for_ssh(target, ssh)?));
    }
    Ok(Box::new(link::ssh::connect(target, ssh).await?))
}

/// The agent's own library on threads of this process.
fn local(faults: Option<Arc<dyn Faults>>) -> Result<Link> {
    link::local::connect(|reader, writer| {
        let options =
            ServeOptions { in_process: true, confine: false, faults, ..ServeOptions::default() };
        match serve(&options, reader, writer) {
            Ok(()) | Err(ServeError::Refused(_)) => {
                LinkEnd { status: Some(0), ..LinkEnd::default() }
            }
            Err(error) => LinkEnd { stderr: error.to_string().into(), ..LinkEnd::default() },
        }
    })
}

/// Asks an agent that runs what it would serve. Nothing is locked or changed there.
///
/// # Errors
/// It does not answer as an agent of this version does.
pub async fn visit(link: Link) -> Result<Welcome> {
    let hello = Hello {
        link: random()?,
        role: Role::Main,
        mirror: [0; 16],
        name: "lsyncd agent check".to_owned(),
        root: b".".to_vec(),
        create: Create::Nothing,
        key: random()?,
        wanted: super::wanted(Attributes::default()),
        fsync: false,
        inplace: false,
        trash: None,
        standing: Standing { boot: [0; 16], upwards: Vec::new() },
    };
    Ok(greet(link, &hello).await?.welcome)
}

impl Greeting {
    fn hello(&self) -> Result<Hello> {
        let config = &self.config;
        let shown = Escaped(config.source.as_os_str().as_encoded_bytes()).to_string();
        let upwards = self.source.upwards().map_err(|error| {
            Error::failed(format!("cannot look at the directories above {shown}")).because(error)
        })?;
        let boot = lsync_agent::root::boot_id().unwrap_or_default();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let root = match &config.target {
            Target::Local(dir) => dir.as_os_str().as_encoded_bytes().to_vec(),
            Target::Ssh(target) => target.dir.clone(),
        };
        let mut mirror = blake3::Hasher::new();
        let target = config.target.to_string();
        for part in
            [host.as_bytes(), config.source.as_os_str().as_encoded_bytes(), target.as_bytes()]
        {
            mirror.update(&(part.len() as u64).to_le_bytes());
            mirror.update(part);
        }
        if self.heals {
            mirror.update(b"heals");
        }
        let mut id = [0; 16];
        mirror.finalize_xof().fill(&mut id);
        let attributes = config.attributes;
        Ok(Hello {
            link: random()?,
            role: Role::Main,
            mirror: id,
            name: format!("{host}:{shown}"),
            root,
            create: match (self.dry_run, config.mkpath) {
                (true, _) => Create::Nothing,
                (false, true) => Create::Path,
                (false, false) => Create::Root,
            },
            key: self.key,
            wanted: super::wanted(attributes),
            fsync: config.fsync,
            inplace: config.inplace,
            trash: config.trash.clone(),
            standing: Standing { boot, upwards },
        })
    }
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Error::failed("cannot get random bytes").because(error))?;
    Ok(bytes)
}

/// How long to wait before the next attempt, with jitter so that a hundred mirrors do not knock at
/// the same moment.
pub(super) fn back_off(tries: u32) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << tries.min(10)).min(LAST_WAIT);
    let [byte] = random::<1>().unwrap_or([128]);
    wait.mul_f32(0.75 + f32::from(byte) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute_with_jitter() {
        for (tries, low, high) in [(0, 375, 625), (3, 3000, 5000), (30, 45_000, 75_000)] {
            let wait = back_off(tries).as_millis();
            assert!((low..=high).contains(&wait), "{tries}: {wait}");
        }
    }
}
