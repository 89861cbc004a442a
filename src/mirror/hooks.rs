//! Commands that are run when a mirror is even, and when a path cannot be mirrored.
//!
//! They run beside the mirror and never hold it up: one of each kind at a time. While one runs, what
//! would begin the next is gathered: that all has arrived is told once, and problems wait in a queue,
//! beyond which they are counted.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::Hooks;
use crate::error::Problem;

/// Problems that wait for their turn.
const QUEUE: usize = 256;
/// A mirror that is even many times a second says so no more often than this.
const REST: Duration = Duration::from_secs(1);
/// A command that runs for so long is ended.
const LONGEST: Duration = Duration::from_secs(600);

/// What a command finds in its environment: names without `LSYNCD_`, and values.
type Facts = Vec<(&'static str, OsString)>;

/// The hooks of a mirror that runs. Dropping it ends their commands.
#[derive(Debug, Default)]
pub(super) struct Hooked {
    synced: Option<Hook>,
    problem: Option<Hook>,
    /// Operations that had been sent when it was last even; `None`: it was not.
    even_at: Option<u64>,
    is_even: bool,
}

#[derive(Debug)]
struct Hook {
    tell: mpsc::Sender<Facts>,
    missed: u64,
    task: Task,
}

/// A task that ends with whoever keeps it.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hooked {
    /// The hooks of this mirror, from now on.
    pub(super) fn new(hooks: &Hooks, mirror: &str, source: &Path, target: &str) -> Hooked {
        let begin = |command: &Option<OsString>, event: &'static str, queue: usize| {
            let command = command.clone()?;
            let always: Facts = vec![
                ("EVENT", event.into()),
                ("MIRROR", mirror.into()),
                ("SOURCE", source.into()),
                ("TARGET", target.into()),
            ];
            let (tell, told) = mpsc::channel(queue);
            let task: JoinHandle<()> = tokio::spawn(keep(command, always, told));
            Some(Hook { tell, missed: 0, task: Task(task) })
        };
        Hooked {
            synced: begin(&hooks.synced, "synced", 1),
            problem: begin(&hooks.problem, "problem", QUEUE),
            ..Hooked::default()
        }
    }

    /// Is everything mirrored now? `ops`: what was sent so far.
    pub(super) fn even(&mut self, even: bool, ops: u64) {
        let before = std::mem::replace(&mut self.is_even, even);
        // An event that led to nothing is no news.
        if !even || before || self.even_at == Some(ops) {
            return;
        }
        self.even_at = Some(ops);
        if let Some(hook) = &mut self.synced {
            // One that waits already will say the same.
            let _ = hook.tell.try_send(vec![("OPS", ops.to_string().into())]);
        }
    }

    /// What was told is done before this ends: there is no later.
    pub(super) async fn finish(&mut self) {
        for hook in [self.synced.take(), self.problem.take()].into_iter().flatten() {
            let Hook { tell, mut task, .. } = hook;
            drop(tell);
            let _ = (&mut task.0).await;
        }
    }

    /// A path cannot be mirrored.
    pub(super) fn problem(&mut self, problem: &Problem) {
        use std::os::unix::ffi::OsStrExt;
        let Some(hook) = &mut self.problem else { return };
        let facts = vec![
            ("PATH", OsStr::from_bytes(problem.path.as_bytes()).to_owned()),
            ("CAUSE", problem.cause.as_str().into()),
            ("TRIES", problem.tries.to_string().into()),
            ("MISSED", hook.missed.to_string().into()),
        ];
        match hook.tell.try_send(facts) {
            Ok(()) => hook.missed = 0,
            Err(_) => hook.missed += 1,
        }
    }
}

/// Runs a command for each that is told, one after the other.
async fn keep(command: OsString, always: Facts, mut told: mpsc::Receiver<Facts>) {
    let mut before = None;
    while let Some(facts) = told.recv().await {
        if let Some(before) = before {
            tokio::time::sleep_until(before + REST).await;
        }
        if let Err(why) = once(&command, always.iter().chain(&facts)).await {
            let shown = lsync_protocol::path::Escaped(command.as_encoded_bytes());
            tracing::warn!("the hook '{shown}': {why}");
        }
        before = Some(Instant::now());
    }
}

/// A command and all that it has begun: dropped before it has ended, they end.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = kill_process_group(leader, Signal::TERM);
        }
    }
}

async fn once<'a>(
    command: &OsStr,
    facts: impl Iterator<Item = &'a (&'static str, OsString)>,
) -> Result<(), String> {
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    for (name, value) in facts {
        shell.env(format!("LSYNCD_{name}"), value);
    }
    let plain = |error: std::io::Error| crate::error::plain(&error.to_string());
    // Of its own group, so that what it has begun ends with it.
    let mut child = shell.process_group(0).spawn().map_err(plain)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let ended = tokio::time::timeout(LONGEST, child.wait()).await;
    if ended.is_ok() {
        // What it left in the background was meant to stay.
        group.0 = None;
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(plain(error)),
        Err(_) => Err(format!("it ran for more than {} s and was ended", LONGEST.as_secs())),
    }
}
