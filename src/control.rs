//! The control socket of a process: what may be asked, what is answered, and where it stands.
//!
//! One line of JSON is asked, one is answered, and more may follow on the same connection. Names are
//! snake_case, times are seconds as numbers, a path that is not UTF-8 is `{"base64": …}`. Fields may
//! be added; whoever reads passes over what it does not know. Only the same user and root are
//! answered.

pub mod client;
pub mod server;
pub mod status;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use status::{PathText, ProblemStatus, Status};

/// No line is longer: a list of some thousand problems is not.
const LINE_MAX: u64 = 16 * 1024 * 1024;
/// No question is.
const REQUEST_MAX: u64 = 64 * 1024;
/// What sockets in a directory of ours end with.
const ENDING: &str = "sock";

/// Where the sockets of a user stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// `--control`: this socket, and no other.
    pub socket: Option<PathBuf>,
    /// Directories of the user's, the first that can be had is used for a new one.
    pub dirs: Vec<PathBuf>,
}

/// What is asked of a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How its mirrors stand.
    Status,
    /// To answer when everything that has changed until now is mirrored.
    Flush {
        /// These mirrors, by name.
        mirrors: Vec<String>,
        /// No longer than this.
        timeout_seconds: Option<f64>,
    },
    /// To begin nothing more.
    Pause {
        /// These mirrors, by name.
        mirrors: Vec<String>,
    },
    /// To go on.
    Resume {
        /// These mirrors, by name.
        mirrors: Vec<String>,
        /// Deletes, too, that a guard has stopped.
        confirm: bool,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// How its mirrors stand.
    Status(Box<Status>),
    /// What became of each mirror that was asked.
    Steered(Vec<Steered>),
    /// Why there is no answer.
    Error(String),
}

/// What became of a mirror that was asked something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steered {
    /// Its name.
    pub name: String,
    /// Whether it did.
    pub outcome: Outcome,
    /// Why not.
    pub reason: Option<String>,
    /// What could not be mirrored, where that was waited for.
    #[serde(default)]
    pub problems: Vec<ProblemStatus>,
}

/// Whether a mirror did what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did.
    Done,
    /// It had before.
    Already,
    /// It did, but for some paths.
    Problems,
    /// It is paused.
    Paused,
    /// Deletes are stopped by a guard.
    Halted,
    /// Not in the time that was given.
    TimedOut,
    /// It has ended.
    Ended,
}

/// A path of bytes, for JSON.
impl From<&[u8]> for PathText {
    fn from(bytes: &[u8]) -> PathText {
        match std::str::from_utf8(bytes) {
            Ok(text) => PathText::Text(text.to_owned()),
            Err(_) => PathText::Bytes { base64: data_encoding::BASE64.encode(bytes) },
        }
    }
}
