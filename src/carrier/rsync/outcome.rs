//! What became of a run: how it ended, which paths failed and why.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use lsync_protocol::path::{Escaped, RelPath};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::blame::{Blame, Places};
use super::{Run, is_daemon};
use crate::config::rsync::{ExitCodes, ExitMeaning, RsyncMirror};
use crate::error::Error;
use crate::metrics::Step;

/// The most bytes of errors that are kept, and the longest line. A name of 4096 bytes takes five
/// times that when it has to be escaped.
const ERRORS_MAX: usize = 16 * 1024 * 1024;
const LINE_MAX: usize = 64 * 1024;

/// How a run ended.
#[derive(Debug, Default)]
pub enum End {
    /// Everything was brought over.
    #[default]
    Done,
    /// Some paths were not, the others were.
    Partial,
    /// It may do better later.
    Again(Error),
    /// It will not do better by itself.
    Die(Error),
    /// More names were to be deleted than allowed.
    Limited,
}

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Paths that failed, and why.
    pub failed: Vec<(RelPath, String)>,
    /// Paths that were gone when they were read.
    pub vanished: Vec<RelPath>,
    /// What failed without a name that we know.
    pub unnamed: Option<String>,
    /// More failed than is named.
    pub more: bool,
    /// Nothing was deleted, since something could not be read.
    pub not_deleted: bool,
    /// Names that were created or changed.
    pub ops: u64,
    /// Names that were deleted.
    pub deleted: u64,
    /// Bytes of content that went over.
    pub bytes: u64,
}

/// How a process ended and what it said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) errors: Errors,
    status: Option<ExitStatus>,
    not_run: Option<Error>,
    ops: u64,
    deleted: u64,
    bytes: u64,
}

/// What a process said on its standard error.
#[derive(Debug, Default)]
pub(super) struct Errors {
    pub(super) lines: Vec<Vec<u8>>,
    /// There were more than are kept.
    cut: bool,
}

/// Reads lines to their end; what is too long of one is read and forgotten.
pub(super) async fn read_lines(pipe: impl AsyncRead + Unpin, mut each: impl FnMut(&[u8])) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        let (used, ended) = match pipe.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(buffer) => {
                let end = buffer.iter().position(|&b| b == b'\n');
                let part = &buffer[..end.unwrap_or(buffer.len())];
                line.extend_from_slice(&part[..part.len().min(LINE_MAX - line.len())]);
                (end.map_or(buffer.len(), |at| at + 1), end.is_some())
            }
        };
        pipe.consume(used);
        if ended {
            each(&line);
            line.clear();
        }
    }
    if !line.is_empty() {
        each(&line);
    }
}

/// Reads standard error to its end; what is beyond the bounds is read and forgotten.
pub(super) async fn read_errors(pipe: impl AsyncRead + Unpin) -> Errors {
    let (mut errors, mut bytes) = (Errors::default(), 0);
    read_lines(pipe, |line| {
        bytes += line.len() + size_of::<Vec<u8>>();
        if bytes <= ERRORS_MAX {
            errors.lines.push(line.to_vec());
        } else {
            errors.cut = true;
        }
    })
    .await;
    errors
}

impl Said {
    pub(super) fn not_run(error: Error) -> Said {
        Said { not_run: Some(error), ..Said::default() }
    }

    pub(super) fn count(&mut self, step: &Step, bytes: u64) {
        match step {
            Step::Delete { .. } => self.deleted += 1,
            _ => self.ops += 1,
        }
        // As it was printed, whatever that is.
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn ended(&mut self, status: ExitStatus) {
        self.status = Some(status);
    }
}

impl Outcome {
    /// Reads what a process said.
    pub(super) fn of(said: Said, config: &RsyncMirror, run: &Run, limited: bool) -> Outcome {
        let mut outcome = Outcome {
            ops: said.ops,
            deleted: said.deleted,
            bytes: said.bytes,
            ..Outcome::default()
        };
        if let Some(error) = said.not_run {
            outcome.end = End::Die(error);
            return outcome;
        }
        let places = Places::new(config, run);
        outcome.more = said.errors.cut;
        for line in &said.errors.lines {
            match places.blame(line) {
                Blame::Path(path, why) => {
                    if outcome.failed.last().is_none_or(|(last, _)| *last != path) {
                        outcome.failed.push((path, why));
                    }
                }
                Blame::Vanished(path) => outcome.vanished.push(path),
                Blame::Nobody(why) => {
                    // The shell that reaches the target may say anything.
                    outcome.more |= line.starts_with(b"rsync: ");
                    outcome.unnamed = outcome.unnamed.or(Some(why));
                }
                Blame::NotDeleted => outcome.not_deleted = true,
                Blame::Nothing => {}
            }
        }
        let Some(status) = said.status else { return outcome };
        let Some(code) = status.code() else {
            let signal = status.signal().unwrap_or(0);
            let error = Error::failed(format!("rsync was killed by signal {signal}"));
            outcome.end = End::Again(error);
            return outcome;
        };
        outcome.end = match config.exit_codes.meaning(code) {
            // Told by the limit that we set.
            _ if code == 25 && limited => End::Limited,
            ExitMeaning::Ok if code == 0 => End::Done,
            // Something went while it was read, as events will tell.
            ExitMeaning::Ok if code == 24 && outcome.nothing_named() => End::Done,
            ExitMeaning::Ok if ExitCodes::is_partial(code) => End::Partial,
            ExitMeaning::Ok => End::Done,
            ExitMeaning::Again => End::Again(error(code, &outcome, &said.errors.lines, config)),
            ExitMeaning::Die => End::Die(error(code, &outcome, &said.errors.lines, config)),
        };
        if matches!(outcome.end, End::Done) {
            // What it called a success it said with a warning at most.
            outcome.failed.clear();
            outcome.unnamed = None;
            outcome.more = false;
        }
        outcome
    }

    fn nothing_named(&self) -> bool {
        self.failed.is_empty() && self.vanished.is_empty()
    }

    /// What a further call of the same run came to.
    pub(super) fn add(&mut self, other: Outcome) {
        // One of them may have failed without a word.
        let silent = |it: &Outcome| matches!(it.end, End::Partial) && it.nothing_named();
        self.more |= other.more | silent(self) | silent(&other);
        self.failed.extend(other.failed);
        self.vanished.extend(other.vanished);
        self.unnamed = self.unnamed.take().or(other.unnamed);
        self.not_deleted |= other.not_deleted;
        self.ops += other.ops;
        self.deleted += other.deleted;
        self.bytes += other.bytes;
        if !matches!(other.end, End::Done) {
            self.end = other.end;
        }
    }
}

/// The error for an exit code, with the first thing that rsync or ssh said.
fn error(code: i32, outcome: &Outcome, lines: &[Vec<u8>], config: &RsyncMirror) -> Error {
    use std::os::unix::ffi::OsStrExt;
    let says = |text: &str| {
        lines.iter().any(|line| line.windows(text.len()).any(|w| w == text.as_bytes()))
    };
    let target = config.target.as_bytes();
    let what = format!("rsync to {} ended with code {code}", Escaped(target));
    // What was there first is the cause of the rest.
    let first = outcome.failed.first().map(|(path, why)| format!("{path}: {why}"));
    let cause = outcome.unnamed.clone().or(first).unwrap_or_else(|| meaning(code).to_owned());
    let error = Error::failed(what).because(cause);
    let missing = says("command not found") || says("rsync: not found") || code == 127;
    let hint = if missing && !is_daemon(target) {
        Some("install rsync on that host, or leave out --rsync: the agent needs none there")
    } else if says("auth failed") {
        Some(
            "give the name as USER@HOST::MODULE and the password by RSYNC_PASSWORD or rsync.password_file",
        )
    } else if says("read only") {
        Some("the module needs read only = no in the daemon's rsyncd.conf")
    } else if says("Unknown module") {
        Some("rsync HOST:: lists the modules of a host")
    } else if code == 255 {
        Some("ssh could not reach the host; see whether ssh HOST true works by itself")
    } else if says("No space left") {
        Some("make room on the target")
    } else {
        None
    };
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// rsync's own words for its codes, shorter.
fn meaning(code: i32) -> &'static str {
    match code {
        1 => "it does not understand its options",
        2 => "the versions do not understand each other",
        3 => "the source or the target could not be chosen",
        4 => "something asked for is not supported",
        5 => "the daemon refused",
        6 => "the daemon could not write its log",
        10 => "the socket failed",
        11 => "a file could not be read or written",
        12 => "the connection broke",
        13 => "it could not say what it had to",
        14 => "it could not speak to its processes",
        20 | 21 => "it was stopped",
        22 => "it had too little memory",
        25 => "more names were to be deleted than allowed",
        30 => "it waited too long for data",
        35 => "it waited too long for the daemon",
        127 => "the program is not there",
        255 => "the remote shell failed",
        _ => "an exit code that rsync does not have",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Full;
    use super::*;

    fn outcome(status: i32, lines: &[&str], limited: bool) -> Outcome {
        let config = RsyncMirror::new("m", "/s", "h::m".as_ref());
        let said = Said {
            errors: Errors {
                lines: lines.iter().map(|line| line.as_bytes().to_vec()).collect(),
                cut: false,
            },
            status: Some(ExitStatus::from_raw(status)),
            ..Said::default()
        };
        Outcome::of(said, &config, &Run::Full(Full::default()), limited)
    }

    #[test]
    fn a_signal_is_no_success() {
        let End::Again(error) = outcome(9, &[], false).end else { panic!("a success") };
        assert_eq!(error.to_string(), "rsync was killed by signal 9");
    }

    #[test]
    fn codes_mean_what_the_table_says() {
        assert!(matches!(outcome(0, &["a warning"], false).end, End::Done));
        assert!(outcome(0, &["a warning"], false).unnamed.is_none());
        assert!(matches!(outcome(23 << 8, &[], false).end, End::Partial));
        assert!(matches!(outcome(24 << 8, &[], false).end, End::Done));
        assert!(matches!(outcome(25 << 8, &[], true).end, End::Limited));
        assert!(matches!(outcome(25 << 8, &[], false).end, End::Die(_)));
        let lines = ["@ERROR: auth failed on module m", "rsync error: error starting (code 5)"];
        let End::Again(error) = outcome(5 << 8, &lines, false).end else { panic!() };
        assert_eq!(
            error.to_string(),
            "rsync to h::m/ ended with code 5: @ERROR: auth failed on module m"
        );
        assert!(error.hint_text().unwrap().contains("password_file"));
        let End::Die(error) = outcome(99 << 8, &[], false).end else { panic!() };
        assert!(error.to_string().ends_with("an exit code that rsync does not have"));
    }
}
