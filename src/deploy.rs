//! The agent on a host: started where it is, copied where it is missing.
//!
//! It stands in `${XDG_CACHE_HOME:-$HOME/.cache}/lsyncd/` under a name with its version and the
//! hash of its content, so that any number of versions live side by side and none is ever half
//! there. A start costs one command; only a host that lacks the agent costs two more.

use std::time::Duration;

use lsync_protocol::path::Escaped;
use tokio::io::AsyncWriteExt;

use crate::config::AgentOptions;
use crate::error::{Error, Result};
use crate::link::{Link, Remote};

pub mod binary;
pub mod marker;
pub mod script;

use binary::{Binary, Kind};
use marker::{Answer, Started};

/// How long a login shell may take to begin our command.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a copy may take in all, on the slowest of links; a dead one is noticed by ssh itself.
const COPY_PATIENCE: Duration = Duration::from_secs(3600);

/// An agent that stands ready on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where it is on the host, for people.
    pub path: String,
    /// It was copied just now.
    pub copied: bool,
    /// Where this version is under a name that stays the same, for lines of `authorized_keys`.
    pub lasting: String,
    /// The host's kind: `Linux x86_64`.
    pub host: String,
}

/// What a host says when it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Where the agent is or would be, for people.
    pub path: String,
    /// What it answers to `--version`; `None`: it is not there.
    pub version: Option<String>,
    /// The host's kind: `Linux x86_64`.
    pub host: String,
}

/// Who answers on a host.
pub enum Visit {
    /// A shell, which was asked for the agent.
    Shell(Checked),
    /// An agent, whatever is asked: `authorized_keys` fixes it for our key. The link is its.
    Fixed(Link),
}

/// Starts the agent, after copying it if the host has none. The link stands at the agent's first
/// byte.
///
/// # Errors
/// Each names the host, the cause, and the option that helps.
pub async fn start_agent(remote: &dyn Remote, options: &AgentOptions) -> Result<Link> {
    if let Some(path) = &options.path {
        let line = one_line(path)?;
        return match ask(remote, script::RUN_PATH, &[&line]).await? {
            Started::Running(link) => Ok(link),
            Started::Said(answer) => Err(no_such_agent(remote, path, &answer)),
        };
    }
    // Most hosts are of our own kind: begin with the agent for that, and save a round trip.
    let mut kind = Kind::here();
    let mut copied = false;
    // Ours, the host's, and once more after the copy; a host that changes its kind is no host.
    for _ in 0..4 {
        // An unreadable binary of ours is no error yet: the host may be of another kind.
        let binary = match Binary::find(options, &kind).await {
            Ok(binary) => binary,
            Err(_) if kind == Kind::here() && !copied => Binary::placeholder(),
            Err(e) => return Err(e.for_host(remote.peer(), &kind).no_agent()),
        };
        let answer = match ask(remote, script::START, &[&binary.name]).await? {
            Started::Running(link) => return Ok(link),
            Started::Said(answer) => answer,
        };
        let there = host_kind(remote, &answer)?;
        if there != kind {
            kind = there;
            continue;
        }
        if copied {
            return Err(Error::failed(format!("cannot start the agent on {}", remote.peer()))
                .because("it was copied, but is gone again")
                .hint(
                    "is the cache directory there cleaned? name a fixed place with --agent-path",
                ));
        }
        let binary = Binary::find(options, &kind)
            .await
            .map_err(|e| e.for_host(remote.peer(), &kind))
            .map_err(Error::no_agent)?;
        copy(remote, &binary, &kind).await?;
        copied = true;
    }
    Err(Error::failed(format!("cannot start the agent on {}", remote.peer()))
        .because("it says something else each time"))
}

/// Copies the agent to a host, if it is not there yet or `force`.
///
/// # Errors
/// As [`start_agent`].
pub async fn install(
    remote: &dyn Remote,
    options: &AgentOptions,
    force: bool,
) -> Result<Installed> {
    let said = ask_text(remote, script::KIND, &[]).await?;
    let (checked, binary, kind) = probe(remote, options, &said).await?;
    let Some(binary) = binary else {
        let path = options.path.as_deref().unwrap_or_default();
        return match checked.version {
            Some(_) => {
                let Checked { path, host, .. } = checked;
                Ok(Installed { lasting: path.clone(), path, copied: false, host })
            }
            None => Err(no_such_agent(remote, path, &Answer::new("missing"))),
        };
    };
    let copied = checked.version.is_none() || force;
    let path = if copied { copy(remote, &binary, &kind).await? } else { checked.path };
    let kept = ask_text(remote, script::KEEP, &[&binary.name]).await?;
    if kept.word != "done" {
        let place = Escaped(kept.rest.as_bytes());
        return Err(Error::failed(format!("cannot name the agent {place} on {}", remote.peer()))
            .hint("make room there, or put lsync-agent where authorized_keys names it yourself"));
    }
    Ok(Installed { path, copied, lasting: kept.rest, host: checked.host })
}

/// Asks whether the agent is on a host, and whether it runs there. Changes nothing.
///
/// # Errors
/// The host cannot be asked, or we have no agent for its kind.
pub async fn visit(remote: &dyn Remote, options: &AgentOptions) -> Result<Visit> {
    match ask(remote, script::KIND, &[]).await? {
        Started::Running(link) => Ok(Visit::Fixed(link)),
        Started::Said(said) => Ok(Visit::Shell(probe(remote, options, &said).await?.0)),
    }
}

async fn probe(
    remote: &dyn Remote,
    options: &AgentOptions,
    said: &Answer,
) -> Result<(Checked, Option<Binary>, Kind)> {
    let kind = host_kind(remote, said)?;
    let (script, name, binary) = match &options.path {
        Some(path) => (script::CHECK_PATH, one_line(path)?, None),
        None => {
            let binary =
                Binary::find(options, &kind).await.map_err(|e| e.for_host(remote.peer(), &kind))?;
            (script::CHECK, binary.name.clone(), Some(binary))
        }
    };
    let answer = ask_text(remote, script, &[&name]).await?;
    let (path, version) = match answer.word.as_str() {
        "missing" => (answer.rest, None),
        _ => {
            let (version, path) = answer.rest.split_once('\t').unwrap_or((&answer.rest, ""));
            (path.to_owned(), Some(version.to_owned()))
        }
    };
    Ok((Checked { path, version, host: kind.to_string() }, binary, kind))
}

/// Copies a binary and returns where it is.
async fn copy(remote: &dyn Remote, binary: &Binary, kind: &Kind) -> Result<String> {
    binary.fits(kind).map_err(|e| e.for_host(remote.peer(), kind))?;
    let content = binary.read().await.map_err(|e| e.for_host(remote.peer(), kind))?;
    tracing::info!(host = remote.peer(), bytes = content.len(), "copying the agent");
    let mut link = remote.exec(script::COPY).await?;
    let key = marker::key()?;
    let mut lines = format!("{key}\n{}\n{}\n{}\n", binary.name, binary.hash, content.len());
    lines.retain(|c| c != '\r');
    let mut writer = link.writer;
    let send = async move {
        writer.write_all(lines.as_bytes()).await?;
        writer.write_all(&content).await?;
        writer.shutdown().await
    };
    // The host answers before all is sent if it cannot write: both at once, or both wait for ever.
    let (sent, answer) = tokio::join!(send, marker::read(&mut link.reader, &key, COPY_PATIENCE));
    let answer = match answer {
        Ok((answer, _)) => answer,
        Err(silence) => {
            let what = format!("cannot copy the agent to {}", remote.peer());
            return Err(silence.explain(what, remote.peer(), link.ended).await);
        }
    };
    if answer.word == "done" {
        return Ok(answer.rest);
    }
    let end = tokio::time::timeout(Duration::from_secs(5), link.ended).await.unwrap_or_default();
    let said = end.last_words();
    if let Err(e) = sent {
        tracing::debug!(error = %e, "the agent was not sent as a whole");
    }
    Err(copy_error(remote.peer(), &answer, said))
}

/// Why the script on the host gave up.
fn copy_error(peer: &str, answer: &Answer, said: Option<String>) -> Error {
    let place = Escaped(answer.rest.as_bytes());
    let elsewhere = "put lsync-agent there yourself and name it with --agent-path";
    let (what, cause, hint) = match answer.word.as_str() {
        "mkdir" => (
            format!("cannot make the directory {place} on {peer}"),
            None,
            format!("a home or XDG_CACHE_HOME that can be written is needed, or {elsewhere}"),
        ),
        "write" => (
            format!("cannot write the agent to {place} on {peer}"),
            None,
            format!("make room there, or {elsewhere}"),
        ),
        "short" => (
            format!("cannot copy the agent to {peer}"),
            Some("it did not arrive as a whole".to_owned()),
            "try again".to_owned(),
        ),
        "run" => (
            format!("cannot run the agent in {place} on {peer}"),
            None,
            format!(
                "is that file system mounted noexec? then {elsewhere}; for another architecture use --agent-binary"
            ),
        ),
        "hash" => (
            format!("cannot use the agent copied to {peer}"),
            Some("its content there is not what was sent".to_owned()),
            "is it an lsync-agent of this version? see --agent-binary".to_owned(),
        ),
        _ => (format!("cannot put the agent in {place} on {peer}"), None, elsewhere.to_owned()),
    };
    let error = Error::failed(what).hint(hint).no_agent();
    match cause.or(said) {
        Some(cause) => error.because(cause),
        None => error,
    }
}

fn no_such_agent(remote: &dyn Remote, path: &str, answer: &Answer) -> Error {
    let path = Escaped(path.as_bytes());
    let why = match answer.word.as_str() {
        "noexec" => "it cannot be executed",
        _ => "there is no such program",
    };
    Error::failed(format!("cannot start the agent {path} on {}: {why}", remote.peer()))
        .no_agent()
        .hint("correct --agent-path, or leave it out: then the agent is copied")
}

fn host_kind(remote: &dyn Remote, answer: &Answer) -> Result<Kind> {
    Kind::parse(&answer.rest).ok_or_else(|| {
        Error::failed(format!(
            "cannot tell what kind of host {} is: uname says '{}'",
            remote.peer(),
            Escaped(answer.rest.as_bytes())
        ))
        .hint("put lsync-agent there yourself and name it with --agent-path")
    })
}

fn one_line(path: &str) -> Result<String> {
    if path.is_empty() || path.contains(['\n', '\0']) {
        return Err(Error::usage("--agent-path must be the path of a program"));
    }
    Ok(path.to_owned())
}

/// Runs a script with lines on its standard input and waits for its answer. If the answer is that
/// the agent runs now, the rest of the link is the agent's.
async fn ask(remote: &dyn Remote, script: &str, lines: &[&str]) -> Result<Started> {
    let mut link = remote.exec(script).await?;
    let key = marker::key()?;
    let mut input = format!("{key}\n");
    for line in lines {
        input.push_str(line);
        input.push('\n');
    }
    // A shell that is gone already is told by what it said, below.
    if let Err(e) = link.writer.write_all(input.as_bytes()).await {
        tracing::debug!(error = %e, "the login shell does not read");
    }
    // Whatever fits the buffers of a pipe or a channel may be held back otherwise.
    let _ = link.writer.flush().await;
    match marker::read(&mut link.reader, &key, PATIENCE).await {
        Ok((answer, rest)) => {
            if !answer.noise.is_empty() {
                tracing::warn!(
                    host = remote.peer(),
                    "the login shell is not silent: '{}'",
                    marker::shown(&answer.noise)
                );
            }
            if answer.word != "run" {
                return Ok(Started::Said(answer));
            }
            // A script says no more than that word.
            link.fixed = answer
                .rest
                .strip_prefix("fixed ")
                .map(|version| Escaped(&version.as_bytes()[..version.len().min(40)]).to_string());
            link.reader = Box::new(marker::Resumed::new(rest, link.reader));
            Ok(Started::Running(link))
        }
        Err(silence) => {
            drop(link.writer);
            let what = format!("cannot start the agent on {}", remote.peer());
            Err(silence.explain(what, remote.peer(), link.ended).await)
        }
    }
}

async fn ask_text(remote: &dyn Remote, script: &str, lines: &[&str]) -> Result<Answer> {
    match ask(remote, script, lines).await? {
        Started::Said(answer) => Ok(answer),
        Started::Running(_) => {
            Err(Error::failed(format!("{} starts an agent whatever it is asked", remote.peer()))
                .hint("its authorized_keys has a fixed command for this key: nothing can be installed with it, but with another key"))
        }
    }
}
