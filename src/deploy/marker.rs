//! The one line that a host's script answers with, found behind whatever its login shell says.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lsync_protocol::path::Escaped;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::error::{Error, Result};
use crate::link::{Ended, Link};

/// So much noise is passed over.
pub const MAX_NOISE: usize = 64 * 1024;

/// No answer is longer than a path.
const MAX_LINE: usize = 8 * 1024;

/// What a script said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What it is: `run`, `missing`, `done`, or what failed.
    pub word: String,
    /// What it is about.
    pub rest: String,
    /// What the login shell said before.
    pub noise: Vec<u8>,
}

impl Answer {
    /// A word alone.
    #[must_use]
    pub fn new(word: &str) -> Answer {
        Answer { word: word.into(), ..Answer::default() }
    }
}

/// How a script began.
pub enum Started {
    /// The agent runs now, and the link is its.
    Running(Link),
    /// It does not.
    Said(Answer),
}

/// No answer came.
#[derive(Debug)]
pub struct Silence {
    noise: Vec<u8>,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Ended,
    TooMuch,
    TooLong(Duration),
}

/// A key that no shell's noise holds by chance.
///
/// # Errors
/// The kernel has no random bytes.
pub fn key() -> Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::failed("cannot get random bytes").because(io::Error::from(e)))?;
    Ok(format!("lsyncd-{:016x}", u64::from_le_bytes(bytes)))
}

/// Reads until the line with the key; returns what it says and the bytes behind it.
///
/// # Errors
/// The end, too much noise, or `patience` is over.
pub async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    key: &str,
    patience: Duration,
) -> Result<(Answer, Vec<u8>), Silence> {
    let mut got = Vec::new();
    let found = tokio::time::timeout(patience, find(reader, key, &mut got)).await;
    let why = match found {
        Ok(Ok((start, end))) => {
            let line = String::from_utf8_lossy(&got[start + key.len() + 1..end]);
            let line = line.trim_end_matches('\r');
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (word, rest) = (word.to_owned(), rest.to_owned());
            let behind = got.split_off(end + 1);
            got.truncate(start);
            return Ok((Answer { word, rest, noise: got }, behind));
        }
        Ok(Err(why)) => why,
        Err(_) => Why::TooLong(patience),
    };
    Err(Silence { noise: got, why })
}

/// Where the answer's line starts and ends in what was got.
async fn find(
    reader: &mut (impl AsyncRead + Unpin),
    key: &str,
    got: &mut Vec<u8>,
) -> Result<(usize, usize), Why> {
    let needle = format!("{key} ").into_bytes();
    let mut start = None;
    let mut searched = 0;
    loop {
        if start.is_none() {
            let found = got[searched..].windows(needle.len()).position(|w| w == needle);
            start = found.map(|at| searched + at);
            searched = got.len().saturating_sub(needle.len() - 1).max(searched);
        }
        if let Some(start) = start {
            if let Some(len) = got[start..].iter().position(|&b| b == b'\n') {
                return Ok((start, start + len));
            }
            if got.len() - start > MAX_LINE {
                return Err(Why::TooMuch);
            }
        } else if got.len() > MAX_NOISE {
            return Err(Why::TooMuch);
        }
        got.reserve(4096);
        match reader.read_buf(got).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(Why::Ended),
        }
    }
}

/// The first lines of a shell's noise, for people.
#[must_use]
pub fn shown(noise: &[u8]) -> String {
    let text = noise.trim_ascii();
    let lines: Vec<&[u8]> = text.split(|&b| b == b'\n').take(3).collect();
    let mut text = lines.join(&b'\n');
    let cut = text.len() > 300;
    text.truncate(300);
    format!("{}{}", Escaped(&text), if cut { "…" } else { "" })
}

impl Silence {
    /// The error for people, with how the far end ended if it has.
    pub async fn explain(self, what: String, peer: &str, ended: Ended) -> Error {
        let said = shown(&self.noise);
        let (cause, end) = match self.why {
            Why::TooMuch => ("its login shell says too much of its own".to_owned(), None),
            Why::TooLong(patience) => {
                let seconds = patience.as_secs();
                (format!("its login shell did not run our command within {seconds} seconds"), None)
            }
            Why::Ended => {
                let end = tokio::time::timeout(Duration::from_secs(5), ended).await;
                let end = end.unwrap_or_default();
                if let Some(why) = agent_said(&end.stderr) {
                    // No shell either: the key's own command, which gave up.
                    return Error::failed(what).because(why).hint(
                        "authorized_keys there has a command for this key, and that said it",
                    );
                }
                if end.status.is_none() && end.signal.is_none() && self.noise.is_empty() {
                    // No shell ended: the connection did.
                    let why = end.last_words().unwrap_or_else(|| "the connection was lost".into());
                    return Error::failed(what).because(why);
                }
                ("its login shell did not run our command".to_owned(), Some(end))
            }
        };
        let end = end.map(|end| format!(" ({})", end.describe())).unwrap_or_default();
        let said = if said.is_empty() { String::new() } else { format!("; it said '{said}'") };
        Error::failed(what).because(format!("{cause}{end}{said}")).hint(format!(
            "'ssh {peer} true' must print nothing and succeed; the account needs /bin/sh"
        ))
    }
}

/// What an agent said on standard error, if one did.
fn agent_said(stderr: &[u8]) -> Option<String> {
    let mut lines = stderr.split(|&b| b == b'\n');
    let said = lines.find_map(|line| line.strip_prefix(b"lsync-agent: "))?;
    Some(Escaped(&said[..said.len().min(1000)]).to_string())
}

/// A reader that first gives bytes that were read too early.
pub struct Resumed<R> {
    early: io::Cursor<Vec<u8>>,
    inner: R,
}

impl<R> Resumed<R> {
    /// `early`, then what `inner` gives.
    pub fn new(early: Vec<u8>, inner: R) -> Resumed<R> {
        Resumed { early: io::Cursor::new(early), inner }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Resumed<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let at = usize::try_from(this.early.position()).unwrap_or(usize::MAX);
        if let Some(rest) = this.early.get_ref().get(at..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..n]);
            this.early.set_position((at + n) as u64);
            if at + n == this.early.get_ref().len() {
                this.early = io::Cursor::default();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Gives the bytes one at a time, then all at once.
    async fn both(text: &[u8]) -> Vec<Result<(Answer, Vec<u8>), Silence>> {
        let mut results = Vec::new();
        for step in [1, 4096] {
            let (mut ours, theirs) = tokio::io::duplex(step);
            let text = text.to_vec();
            let write = async move {
                use tokio::io::AsyncWriteExt;
                let _ = ours.write_all(&text).await;
            };
            let mut theirs = theirs;
            let answer = async {
                let answer = read(&mut theirs, "lsyncd-1", SOON).await;
                let mut rest = Vec::new();
                if answer.is_ok() {
                    theirs.read_to_end(&mut rest).await.unwrap();
                }
                drop(theirs);
                answer.map(|(a, early)| (a, [early, rest].concat()))
            };
            results.push(tokio::join!(write, answer).1);
        }
        results
    }

    #[tokio::test]
    async fn the_answer_is_found_behind_noise_and_the_rest_is_kept() {
        for got in both(b"Welcome!\nlsyncd-1lsyncd-1 missing Linux x86_64\nrest\n\0").await {
            let (answer, rest) = got.unwrap();
            assert_eq!((answer.word.as_str(), answer.rest.as_str()), ("missing", "Linux x86_64"));
            assert_eq!(answer.noise, b"Welcome!\nlsyncd-1");
            assert_eq!(rest, b"rest\n\0");
        }
    }

    #[tokio::test]
    async fn noise_without_an_end_is_an_error_that_shows_it() {
        let mut noise = b"This account is\x1b closed.\n".to_vec();
        for got in both(&noise).await {
            let ended: Ended = Box::pin(async { Default::default() });
            let error = got
                .unwrap_err()
                .explain("cannot start the agent on web".into(), "web", ended)
                .await;
            let text = error.to_string();
            assert!(text.contains("This account is\\x1b closed."), "{text}");
        }
        noise.resize(MAX_NOISE * 2, b'.');
        for got in both(&noise).await {
            assert!(matches!(got.unwrap_err().why, Why::TooMuch));
        }
        let mut endless = b"lsyncd-1 run".to_vec();
        endless.resize(MAX_LINE * 2, b'.');
        for got in both(&endless).await {
            assert!(matches!(got.unwrap_err().why, Why::TooMuch));
        }
    }
}
