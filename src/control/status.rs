//! How a process and its mirrors stand, as values that travel: the answer of `lsyncd status --json`.

use std::time::Duration;

use lsync_protocol::path::Escaped;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::mirror::steer::{Stand, Standing};
use crate::watch::WatchStatus;

/// A path: text, or base64 where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PathText {
    /// It is UTF-8.
    Text(String),
    /// It is not.
    Bytes {
        /// Its bytes, as RFC 4648 has them.
        base64: String,
    },
}

impl PathText {
    /// Its bytes. What is no base64 stands for itself.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            PathText::Text(text) => text.clone().into_bytes(),
            PathText::Bytes { base64 } => data_encoding::BASE64
                .decode(base64.as_bytes())
                .unwrap_or_else(|_| base64.clone().into_bytes()),
        }
    }

    /// As people may see it.
    #[must_use]
    pub fn shown(&self) -> String {
        Escaped(&self.bytes()).to_string()
    }
}

/// How a process stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of lsyncd.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// For how long it has run.
    pub uptime_seconds: f64,
    /// Its mirrors, in their order.
    pub mirrors: Vec<MirrorStatus>,
}

/// What a mirror does, in a word; [`Stand`] says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "said where they come from")]
pub enum State {
    Connecting,
    Mirroring,
    Live,
    Paused,
    Halted,
    Waiting,
    /// It has ended, or is too busy to say.
    Silent,
}

impl State {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Mirroring => "mirroring",
            State::Live => "live",
            State::Paused => "paused",
            State::Halted => "halted",
            State::Waiting => "waiting",
            State::Silent => "silent",
        }
    }
}

impl From<Stand> for State {
    fn from(stand: Stand) -> State {
        match stand {
            Stand::Connecting => State::Connecting,
            Stand::Mirroring => State::Mirroring,
            Stand::Live => State::Live,
            Stand::Paused => State::Paused,
            Stand::Halted => State::Halted,
            Stand::Waiting => State::Waiting,
        }
    }
}

/// What brings changes to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarrierName {
    /// The agent.
    Agent,
    /// The system's rsync.
    Rsync,
}

/// How one mirror stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// What it is called.
    pub name: String,
    /// Its source.
    pub source: PathText,
    /// Its target, as it was given.
    pub target: String,
    /// What brings changes there.
    pub carrier: CarrierName,
    /// What it does.
    pub state: State,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    /// How old the oldest change is that has not arrived.
    pub lag_seconds: f64,
    /// Paths that are dirty or on their way.
    pub dirty: u64,
    /// Operations on their way.
    pub in_flight: u64,
    /// Bytes of content in those.
    pub in_flight_bytes: u64,
    /// How many paths could not be mirrored.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<ProblemStatus>,
    /// How the source is watched.
    pub watch: Option<Watch>,
    /// What the mirror holds and what it took.
    pub totals: TotalsStatus,
    /// Bytes sent to the target.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// How often the link was made again.
    pub reconnects: u64,
    /// How often more was dirty than is remembered path by path.
    pub collapsed: u64,
    /// How far the walk is that runs.
    pub walk: Option<WalkStatus>,
    /// What the last comparison by content came to (`--verify-every`).
    pub last_verify: Option<VerifyStatus>,
}

/// A path that could not be mirrored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// The path beneath the source's root.
    pub path: PathText,
    /// The cause, in words.
    pub cause: String,
    /// How often it was tried.
    pub tries: u32,
}

/// How a source is watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// By what: `inotify`, `notify`, `poll`.
    pub backend: String,
    /// Directories watched.
    pub watches: u64,
    /// How many the kernel allows this user.
    pub limit: Option<u64>,
    /// How many more this one could watch, if nobody else of this user's does.
    pub headroom: Option<u64>,
    /// Directories that are only looked at now and then.
    pub polled: u64,
    /// Times that the kernel lost events.
    pub overflows: u64,
}

/// What a mirror holds, and what it took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TotalsStatus {
    /// Files.
    pub files: u64,
    /// Directories, the root among them.
    pub directories: u64,
    /// Bytes in those files.
    pub bytes: u64,
    /// Operations sent.
    pub ops: u64,
    /// Names deleted.
    pub deleted: u64,
}

/// How far a walk is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WalkStatus {
    /// Directories compared.
    pub directories: u64,
    /// Files compared.
    pub files: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes of content to send in all, once that is known.
    pub to_send_bytes: Option<u64>,
}

/// What a comparison by content came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// How long ago it ended.
    pub ended_seconds_ago: f64,
    /// How long it took.
    pub seconds: f64,
    /// Files whose content was compared.
    pub files: u64,
    /// Paths that had drifted, and are mended.
    pub drifted: u64,
    /// Paths that could not be compared.
    pub unknown: u64,
}

impl From<&Problem> for ProblemStatus {
    fn from(problem: &Problem) -> ProblemStatus {
        ProblemStatus {
            path: problem.path.as_bytes().into(),
            cause: problem.cause.clone(),
            tries: problem.tries,
        }
    }
}

impl From<WatchStatus> for Watch {
    fn from(watch: WatchStatus) -> Watch {
        Watch {
            backend: watch.backend.to_owned(),
            watches: watch.watches,
            limit: watch.limit,
            headroom: watch.limit.map(|limit| limit.saturating_sub(watch.watches)),
            polled: watch.polled,
            overflows: watch.overflows,
        }
    }
}

impl MirrorStatus {
    /// One that says nothing of itself.
    #[must_use]
    pub fn silent(name: &str, source: &[u8], target: &str, carrier: CarrierName) -> MirrorStatus {
        MirrorStatus {
            name: name.to_owned(),
            source: source.into(),
            target: target.to_owned(),
            carrier,
            state: State::Silent,
            reason: None,
            lag_seconds: 0.0,
            dirty: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            problem_count: 0,
            problems: Vec::new(),
            watch: None,
            totals: TotalsStatus::default(),
            sent_bytes: 0,
            received_bytes: 0,
            reconnects: 0,
            collapsed: 0,
            walk: None,
            last_verify: None,
        }
    }

    /// With what it says of itself.
    #[must_use]
    pub fn standing(self, standing: Standing) -> MirrorStatus {
        let seconds = |time: Duration| time.as_secs_f64();
        MirrorStatus {
            state: standing.stand.into(),
            reason: standing.reason,
            lag_seconds: seconds(standing.lag),
            dirty: standing.dirty,
            in_flight: standing.in_flight,
            in_flight_bytes: standing.in_flight_bytes,
            problem_count: standing.problem_count,
            problems: standing.problems.iter().map(Into::into).collect(),
            watch: standing.watch.map(Into::into),
            totals: TotalsStatus {
                files: standing.totals.files,
                directories: standing.totals.directories,
                bytes: standing.totals.bytes,
                ops: standing.totals.ops,
                deleted: standing.totals.deleted,
            },
            sent_bytes: standing.sent,
            received_bytes: standing.received,
            reconnects: standing.reconnects,
            collapsed: standing.collapsed,
            walk: standing.walk.map(|walk| WalkStatus {
                directories: walk.directories,
                files: walk.files,
                sent_bytes: walk.sent,
                to_send_bytes: walk.to_send,
            }),
            last_verify: standing.last_verify.map(|(last, ago)| VerifyStatus {
                ended_seconds_ago: seconds(ago),
                seconds: seconds(last.took),
                files: last.files,
                drifted: last.drifted,
                unknown: last.unknown,
            }),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_text_goes_there_and_back() {
        for bytes in [&b"a b"[..], b"", b"\xff\xfe/x", "\u{e4}".as_bytes()] {
            let path = PathText::from(bytes);
            let json = serde_json::to_string(&path).unwrap();
            let back: PathText = serde_json::from_str(&json).unwrap();
            assert_eq!(back.bytes(), bytes, "{json}");
        }
        let odd = serde_json::to_string(&PathText::from(&b"\xff\xfe/x"[..])).unwrap();
        assert_eq!(odd, r#"{"base64":"//4veA=="}"#);
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        let silent = MirrorStatus::silent("m", b"/s", "h:/t", CarrierName::Agent);
        let mut value = serde_json::to_value(&silent).unwrap();
        assert_eq!(value["state"], "silent");
        assert_eq!(value["carrier"], "agent");
        value["of_a_later_version"] = 1.into();
        assert_eq!(serde_json::from_value::<MirrorStatus>(value).unwrap(), silent);
    }
}
