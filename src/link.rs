//! A link: a byte stream to an agent, and how it ended.
//!
//! Three ways to one thing: ssh spoken in this process, a program that gives us a remote shell
//! (`--ssh-command`), and the agent's own library on threads of this process for a local target.

use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Error;

pub mod local;
pub mod process;
pub mod ssh;

/// How the far end of a link ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkEnd {
    /// Its exit code, if it told one.
    pub status: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<String>,
    /// The last 32 KiB at most of what it said on standard error, as it said it.
    pub stderr: Vec<u8>,
}

/// Resolves when the far end has ended; never before its last bytes were delivered.
pub type Ended = Pin<Box<dyn Future<Output = LinkEnd> + Send>>;

/// A byte stream to a command (an agent, a shell) on the target's host.
pub struct Link {
    /// What the far end writes to its standard output.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// The far end's standard input. Shutting it down sends end of file.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// How it ended.
    pub ended: Ended,
    /// Who is there, for error texts: `host`, `user@host`, or `this host`.
    pub peer: String,
}

/// A host on which commands can be run: an ssh connection, or a program that makes one.
pub trait Remote: Send + Sync {
    /// Runs a command by the login shell of the far end.
    fn exec<'a>(
        &'a self,
        command: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Link, Error>> + Send + 'a>>;

    /// Who is there, for error texts.
    fn peer(&self) -> &str;
}

/// What the far end said last, in one line: the end of its standard error, or how it ended.
#[must_use]
pub fn last_words(end: &LinkEnd) -> Option<String> {
    use lsync_protocol::path::Escaped;
    let lines = end.stderr.split(|&b| b == b'\n').map(<[u8]>::trim_ascii);
    if let Some(line) = lines.filter(|line| !line.is_empty()).next_back() {
        let line = line.strip_prefix(b"lsync-agent: ").unwrap_or(line);
        return Some(Escaped(line).to_string());
    }
    if let Some(signal) = &end.signal {
        return Some(format!("it was killed by signal {signal}"));
    }
    end.status.filter(|&status| status != 0).map(|status| format!("exit code {status}"))
}
