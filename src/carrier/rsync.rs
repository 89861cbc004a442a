//! The system's rsync as a carrier: one process a run, and what became of it.
//!
//! Two kinds of run: *full*, over the whole tree, and *paths*, of exactly what changed. rsync gets
//! the paths as a list on its standard input and walks no directory for them. Where the program is
//! a wrapper of the user's, or too old, it gets Lsyncd 2's words and names instead.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lsync_protocol::path::Escaped;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::carrier::tunnel::Tunnel;
use crate::config::rsync::RsyncMirror;
use crate::config::tunnel::NearEnd;
use crate::error::{Error, Result};
use crate::metrics::Step;

mod blame;
mod full;
#[doc(hidden)]
pub mod fuzzed;
mod outcome;
mod paths;
mod report;

pub use full::Full;
pub use outcome::{End, Outcome};
pub use paths::{Paths, Tree};

use outcome::Said;

/// The first rsync that deletes listed names which are missing, in lists that name directories too.
const LISTS_SINCE: Version = Version(3, 2, 3);
/// How long `rsync --version` may take.
const PROBE: Duration = Duration::from_secs(10);
/// A grandchild (an ssh that is kept) may hold standard error open for ever.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long rsync may take to clean up after a signal.
const CLEANING: Duration = Duration::from_secs(2);

/// A version of rsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

/// What one rsync is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// Everything.
    Full(Full),
    /// What changed.
    Paths(Paths),
}

/// One call of the program: its words between the options and the source, and its input.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    words: Vec<OsString>,
    input: Option<Vec<u8>>,
}

/// How rsync is run for one mirror.
#[derive(Debug, Clone)]
pub struct Rsync {
    config: Arc<RsyncMirror>,
    /// Lists of exactly what changed can be handed over.
    lists: bool,
    /// Through which the target is reached, and where that begins.
    tunnel: Option<Arc<Tunnel>>,
    near: Option<NearEnd>,
}

impl Rsync {
    /// Finds out what the program can. A wrapper is not asked: it is called for runs alone.
    ///
    /// # Errors
    /// There is no rsync here.
    pub async fn probe(config: Arc<RsyncMirror>) -> Result<Rsync> {
        if config.options.is_wrapper() {
            return Ok(Rsync { config, lists: false, tunnel: None, near: None });
        }
        let mut asked = Command::new(config.options.program());
        asked.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        let answer = tokio::time::timeout(PROBE, asked.output()).await;
        let answer = answer
            .unwrap_or_else(|_| Err(std::io::Error::other("no answer to --version")))
            .map_err(|error| cannot_run(&config, &error))?;
        let version = version(&answer.stdout);
        let lists = version.is_some_and(|version| version >= LISTS_SINCE)
            && config.options.takes_lists()
            && paths::rules_fit(&config);
        Ok(Rsync { config, lists, tunnel: None, near: None })
    }

    /// Reaches the target through a tunnel.
    #[must_use]
    pub fn through(mut self, tunnel: Option<Arc<Tunnel>>) -> Rsync {
        self.tunnel = tunnel;
        self
    }

    /// Waits until its tunnel is there, if it has one: what runs next goes through that.
    pub async fn reach(&mut self) {
        if let Some(tunnel) = &self.tunnel {
            self.near = Some(tunnel.ready().await);
        }
    }

    /// Is the program handed exactly what changed?
    #[must_use]
    pub fn takes_lists(&self) -> bool {
        self.lists
    }

    /// Can these paths not be told in words that this program takes, so that only a run over
    /// everything brings them?
    #[must_use]
    pub fn needs_full(&self, paths: &Paths) -> bool {
        !self.lists
            && self.config.has_rules()
            && !paths::tells_rules(&self.config)
            && paths.trees.iter().any(|tree| !tree.listed)
    }

    /// Runs rsync, once or a few times, and says how that ended. `root` is the source's root as it
    /// was found to be right: where that is possible rsync is started in it, so that what it takes
    /// for missing is missing there, whatever is mounted over its name meanwhile. `seen` hears of
    /// what rsync does.
    pub async fn run(
        &self,
        run: &Run,
        root: Option<&lsync_agent::root::Root>,
        mut seen: impl FnMut(Step, u64),
    ) -> Outcome {
        let (calls, max_delete) = match run {
            Run::Full(full) => (vec![full.call(&self.config)], full.max_delete),
            Run::Paths(paths) if self.lists => (paths.lists(&self.config), paths.max_delete),
            Run::Paths(paths) => (vec![paths.patterns(&self.config)], paths.max_delete),
        };
        let mut all = Outcome::default();
        for call in calls {
            let said = match self.call(&call, root, &mut seen).await {
                Ok(said) => said,
                Err(error) => Said::not_run(cannot_run(&self.config, &error)),
            };
            let outcome = Outcome::of(said, &self.config, run, max_delete.is_some());
            let goes_on = matches!(outcome.end, End::Done | End::Partial);
            all.add(outcome);
            if !goes_on {
                break;
            }
        }
        all
    }

    async fn call(
        &self,
        call: &Call,
        root: Option<&lsync_agent::root::Root>,
        seen: &mut impl FnMut(Step, u64),
    ) -> std::io::Result<Said> {
        let config = &self.config;
        let options = &config.options;
        let mut command = Command::new(options.program());
        // Beside a wrapper nothing may be said that Lsyncd 2 would not say.
        let plain = !options.is_wrapper();
        let anywhere = options.works_anywhere() && is_absolute(config.target.as_bytes());
        let inside = root.filter(|_| plain && anywhere && cfg!(target_os = "linux"));
        command.args(&call.words);
        if plain {
            command.arg(report::FORMAT);
        }
        if let Some(root) = inside {
            // The descriptor is still there in the child, up to the moment when it becomes rsync.
            let fd = root.as_fd().as_raw_fd();
            command.current_dir(format!("/proc/self/fd/{fd}")).arg("./");
        } else {
            command.arg(config.source_words());
        }
        match &self.near {
            Some(near) => command.arg(near.fill(&config.target.to_string_lossy())),
            None => command.arg(&config.target),
        };
        command
            .stdin(if call.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        tracing::debug!("{}: {command:?}", config.name);
        let mut ending = Ending(Some(command.spawn()?));
        let Some(child) = &mut ending.0 else { return Ok(Said::default()) };
        // Written beside everything else: an rsync that ends early, or reads nothing while it has
        // much to say, must not stop us.
        let input = child.stdin.take().zip(call.input.clone()).map(|(mut pipe, input)| {
            tokio::spawn(async move {
                // A pipe that nobody reads any more: how the program ended says why.
                let _ = pipe.write_all(&input).await;
            })
        });
        let errors = child.stderr.take().map(|pipe| tokio::spawn(outcome::read_errors(pipe)));
        let mut said = Said::default();
        let stdout = child.stdout.take();
        let status = {
            let reading = async {
                let Some(pipe) = stdout else { return };
                outcome::read_lines(pipe, |text| match report::read(text).filter(|_| plain) {
                    Some((step, bytes)) => {
                        said.count(&step, bytes);
                        seen(step, bytes);
                    }
                    // Some versions say on standard output what could not be deleted.
                    None => tracing::debug!("{}: rsync: {}", config.name, Escaped(text)),
                })
                .await;
            };
            tokio::pin!(reading);
            tokio::select! {
                biased;
                () = &mut reading => None,
                status = child.wait() => {
                    // What it leaves behind may keep its standard output open as well.
                    let _ = tokio::time::timeout(LAST_WORDS, &mut reading).await;
                    Some(status)
                }
            }
        };
        let status = match status {
            Some(status) => status?,
            None => child.wait().await?,
        };
        ending.0 = None;
        if let Some(input) = input {
            input.abort();
        }
        if let Some(mut errors) = errors {
            match tokio::time::timeout(LAST_WORDS, &mut errors).await {
                Ok(Ok(lines)) => said.errors = lines,
                _ => errors.abort(),
            }
        }
        tracing::debug!(
            "{}: rsync: {status}, {} lines of errors",
            config.name,
            said.errors.lines.len()
        );
        said.ended(status);
        Ok(said)
    }
}

/// A child that is asked to clean up before it is killed.
struct Ending(Option<Child>);

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return };
        // It removes its temporary names; what ignores it is killed when the child is dropped.
        if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(CLEANING, child.wait()).await;
            });
        }
    }
}

/// Is it right to name the target from another working directory?
fn is_absolute(target: &[u8]) -> bool {
    let first = target.split(|&b| b == b'/').next().unwrap_or_default();
    first.is_empty() || first.contains(&b':')
}

/// The program could not be run at all.
fn cannot_run(config: &RsyncMirror, error: &std::io::Error) -> Error {
    let program = Escaped(config.options.program().as_bytes());
    let hint = if config.options.is_wrapper() {
        "rsync.binary names a program that can be run"
    } else if is_daemon(config.target.as_bytes()) {
        "install rsync on this host: only rsync reaches an rsync daemon"
    } else {
        "install rsync on this host, or do without: lsyncd push needs none unless --rsync is given"
    };
    let text = crate::error::plain(&error.to_string());
    Error::failed(format!("cannot run {program}")).because(text).hint(hint)
}

/// `HOST::MODULE` or `rsync://…`: a target that only an rsync daemon serves.
fn is_daemon(target: &[u8]) -> bool {
    let host = target.split(|&b| b == b'/').next().unwrap_or_default();
    target.starts_with(b"rsync://") || host.windows(2).any(|pair| pair == b"::")
}

/// Reads `rsync  version 3.2.7  protocol version 31`.
fn version(text: &[u8]) -> Option<Version> {
    let text = String::from_utf8_lossy(text);
    let mut words = text.lines().next()?.split_whitespace();
    // Of a program of another name we do not know what it can.
    words.next().filter(|name| *name == "rsync")?;
    words.next().filter(|word| *word == "version")?;
    let mut parts = words.next()?.trim_start_matches('v').split('.').map(|part| {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    let mut next = || parts.next().unwrap_or(Some(0));
    Some(Version(next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, expected) in [
            ("rsync  version 3.5.0  protocol version 32\nCopyright", Some(Version(3, 5, 0))),
            ("rsync  version v3.2.7  protocol", Some(Version(3, 2, 7))),
            ("rsync  version 3.4.0pre1", Some(Version(3, 4, 0))),
            ("rsync version 3.1", Some(Version(3, 1, 0))),
            ("openrsync: protocol version 29", None),
            ("nothing", None),
        ] {
            assert_eq!(version(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn daemons_are_known() {
        for (target, yes) in [
            ("h::m/x", true),
            ("rsync://h/m", true),
            ("h:/a::b", false),
            ("/a::b/", false),
            ("[::1]::m", true),
        ] {
            assert_eq!(is_daemon(target.as_bytes()), yes, "{target}");
        }
    }
}
