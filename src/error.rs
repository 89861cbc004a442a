//! What can go wrong, by consequence: an [`Error`] ends the program or a mirror's attempt, a
//! [`Problem`] is one path that failed and never stops the rest.
//!
//! Every text reads as `lsyncd: cannot watch /srv/www: no space left on device`, then
//! `hint: raise fs.inotify.max_user_watches`: lower case, no full stop; what could not be done,
//! to what; the cause once; a hint that names the setting, file or command.

use std::fmt;

use lsync_protocol::path::RelPath;

/// How the process ends. The numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// The command line cannot be understood.
    Usage = 2,
    /// Some paths could not be mirrored; they are listed.
    Partial = 23,
    /// `verify` found differences that were not healed.
    Differs = 24,
    /// A guard stopped it, or `flush` could not wait any longer.
    Stopped = 25,
    /// SIGINT ended a run that was to be done once: 128 + 2.
    Interrupted = 130,
    /// SIGTERM ended a run that was to be done once: 128 + 15.
    Terminated = 143,
    /// Could not start, connect or read the configuration.
    Failed = 255,
}

/// Something that could not be done and what it means for the process.
#[derive(Debug)]
pub struct Error {
    exit: Exit,
    what: String,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    hint: Option<String>,
    no_agent: bool,
}

/// The result of most things above the pure layers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `what` could not be done: "cannot watch /srv/www". Ends with [`Exit::Failed`].
    pub fn failed(what: impl Into<String>) -> Error {
        Error { exit: Exit::Failed, what: what.into(), cause: None, hint: None, no_agent: false }
    }

    /// The command line is wrong. Ends with [`Exit::Usage`].
    pub fn usage(what: impl Into<String>) -> Error {
        Error { exit: Exit::Usage, ..Error::failed(what) }
    }

    /// A guard refused it. Ends with [`Exit::Stopped`].
    pub fn stopped(what: impl Into<String>) -> Error {
        Error { exit: Exit::Stopped, ..Error::failed(what) }
    }

    /// With the error that caused it, shown once behind a colon.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.cause = Some(cause.into());
        self
    }

    /// With what to do about it: names a flag, setting, file or command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// It is the host that has no agent and takes none: another way to mirror to it may do.
    #[must_use]
    pub fn no_agent(mut self) -> Error {
        self.no_agent = true;
        self
    }

    /// Is it the host that has no agent and takes none?
    #[must_use]
    pub fn is_no_agent(&self) -> bool {
        self.no_agent
    }

    /// The same error, where every failure ends with [`Exit::Failed`] (Lsyncd 2's command lines).
    #[must_use]
    pub fn as_failed(mut self) -> Error {
        self.exit = Exit::Failed;
        self
    }

    /// The exit code this leads to when nothing catches it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do about it, if we know.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// One line: what, to what, and the chain of causes; without the hint.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause: Option<&dyn std::error::Error> = self.cause.as_deref().map(|c| c as _);
        while let Some(c) = cause {
            write!(f, ": {}", plain(&c.to_string()))?;
            cause = c.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The operating system's error texts begin with a capital and end with `(os error N)`; ours do
/// neither.
#[must_use]
pub fn plain(text: &str) -> String {
    let text = match text.rfind(" (os error ") {
        Some(at) if text.ends_with(')') => &text[..at],
        _ => text,
    };
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        // "No such file" but not "EOF" or "SSH".
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

/// One path that could not be mirrored. It stays dirty and is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path beneath the source's root.
    pub path: RelPath,
    /// The cause, in words.
    pub cause: String,
    /// How often it was tried.
    pub tries: u32,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_one_lower_case_line() {
        let cause = std::io::Error::from_raw_os_error(28);
        let error = Error::failed("cannot watch /srv/www").because(cause).hint("raise it");
        assert_eq!(error.to_string(), "cannot watch /srv/www: no space left on device");
        assert_eq!(error.hint_text(), Some("raise it"));
        assert_eq!(error.exit(), Exit::Failed);
        assert_eq!(plain("EOF"), "EOF");
        assert_eq!(plain(""), "");
    }
}
