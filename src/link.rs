//! A link: a byte stream to an agent, and how it ended.
//!
//! Three ways to one thing: ssh spoken in this process, a program that gives us a remote shell
//! (`--ssh-command`), and the agent's own library on threads of this process for a local target.

use std::future::Future;
use std::pin::Pin;

use lsync_protocol::path::Escaped;
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

impl LinkEnd {
    /// How it ended, in words: `exit code 127: sh: lsync-agent: not found`. What the far end said
    /// last on standard error is shown escaped.
    #[must_use]
    pub fn describe(&self) -> String {
        let how = match (&self.status, &self.signal) {
            (_, Some(signal)) => format!("killed by signal {}", Escaped(signal.as_bytes())),
            (Some(code), None) => format!("exit code {code}"),
            (None, None) => "it went away".to_owned(),
        };
        match self.last_words() {
            Some(words) => format!("{how}: {words}"),
            None => how,
        }
    }

    /// The last line that is not empty of what the far end said on standard error, escaped.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let mut lines = self.stderr.rsplit(|&b| b == b'\n').map(<[u8]>::trim_ascii);
        let line = lines.find(|line| !line.is_empty())?;
        Some(Escaped(&line[..line.len().min(1000)]).to_string())
    }
}

/// The last bytes of what a far end says on standard error.
#[derive(Debug, Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    /// So much is kept.
    pub const KEPT: usize = 32 * 1024;

    /// More was said.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        // Twice, so that bytes are moved once in a while and not at every push.
        if self.0.len() > 2 * Tail::KEPT {
            self.trim();
        }
    }

    /// What was said last.
    #[must_use]
    pub fn take(mut self) -> Vec<u8> {
        self.trim();
        self.0
    }

    fn trim(&mut self) {
        let over = self.0.len().saturating_sub(Tail::KEPT);
        self.0.drain(..over);
    }
}

/// Resolves when the far end has ended; never before its last bytes can be read.
pub type Ended = Pin<Box<dyn Future<Output = LinkEnd> + Send>>;

/// A byte stream to a command (an agent, a shell) on the target's host.
pub struct Link {
    /// What the far end writes to its standard output. Dropping it before its end closes the
    /// link: how the far end ended is then not known.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// The far end's standard input. Shutting it down sends end of file.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// How it ended.
    pub ended: Ended,
    /// Who is there, for error texts: `host`, `user@host`, or `this host`.
    pub peer: String,
    /// Both ends are in one process: bytes cost nothing.
    pub near: bool,
    /// A command that `authorized_keys` fixes for our key runs there, whatever was asked: the version
    /// of the agent that it is.
    pub fixed: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_its_last_words() {
        let end = |status, signal: Option<&str>, stderr: &str| {
            LinkEnd { status, signal: signal.map(Into::into), stderr: stderr.into() }.describe()
        };
        assert_eq!(end(Some(127), None, "a\nsh: no\x1b\n\n"), "exit code 127: sh: no\\x1b");
        assert_eq!(end(None, Some("KILL"), ""), "killed by signal KILL");
        assert_eq!(end(None, None, "\n"), "it went away");
    }

    #[test]
    fn a_tail_keeps_the_end_and_no_more() {
        let mut tail = Tail::default();
        for i in 0..100_000u32 {
            tail.push(&i.to_le_bytes());
        }
        let kept = tail.take();
        assert_eq!(kept.len(), Tail::KEPT);
        assert_eq!(kept[Tail::KEPT - 4..], 99_999u32.to_le_bytes());
    }
}
