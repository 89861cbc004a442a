//! Actions: what Lsyncd 2's scripts do with what happened, instead of an agent.
//!
//! [`install`] gives an interpreter the functions that scripts call, before the configuration is
//! loaded. [`run::start`] then takes the interpreter to a thread of its own, where all Lua runs:
//! events and ended children come in by a queue, and nothing polls. A slow script holds up the
//! syncs of its own interpreter, and nothing else of the process.

mod calls;
mod child;
mod globals;
mod host;
mod observe;
pub mod queue;
pub mod run;
mod stamp;
mod strings;
mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lsync_protocol::path::RelPath;

use crate::config::rsync::ExitMeaning;
use crate::filter::Filter;
use queue::{Etype, Status};

pub use globals::{install, terminated};
pub use run::{Actions, start};

/// Where lines of the log go.
pub trait ActionLog: Send + Sync {
    /// A line, or a few, of one of Lsyncd 2's categories, `Normal` or `Exec`.
    fn line(&self, category: &str, text: &str);
}

/// One sync with actions of its own.
#[derive(Debug)]
pub struct ActionSync {
    /// Its name, for messages.
    pub name: String,
    /// The directory that is watched, absolute.
    pub source: PathBuf,
    /// What the script is told is the target.
    pub target: Option<String>,
    /// The sync's configuration, merged with what it inherits.
    pub table: mlua::Table,
    /// How long an event waits, from the first one on.
    pub delay: Duration,
    /// With so many delays queued nothing waits for its time.
    pub max_delays: usize,
    /// The most children at a time.
    pub max_processes: usize,
    /// What is not told to the script.
    pub filter: Filter,
    /// What exit codes mean, besides 0, which is fine unless it is said otherwise. `None`: no
    /// table was given, and what fails after the start is told of and done.
    pub exit_codes: Option<BTreeMap<i32, ExitMeaning>>,
    /// A failing start is tried again.
    pub insist: bool,
}

/// Where what children print goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ChildOutput {
    /// Where this process prints.
    Inherit,
    /// Behind what is in a file.
    File(PathBuf),
    /// Nowhere.
    #[default]
    Null,
}

/// What holds for all syncs of an interpreter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ActionOptions {
    /// The most children at a time, of all syncs together.
    pub max_processes: Option<usize>,
    /// Where what children print goes.
    pub output: ChildOutput,
}

/// Something that happened in a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// A name is there.
    Create {
        /// The name.
        path: RelPath,
        /// It is a directory.
        dir: bool,
    },
    /// Content of a file changed.
    Modify {
        /// The name.
        path: RelPath,
    },
    /// Attributes of a name changed.
    Attrib {
        /// The name.
        path: RelPath,
        /// It is a directory.
        dir: bool,
    },
    /// A name is not there any more.
    Delete {
        /// The name.
        path: RelPath,
        /// It was a directory.
        dir: bool,
    },
    /// A name is called otherwise.
    Move {
        /// The old name.
        from: RelPath,
        /// The new name.
        to: RelPath,
        /// It is a directory.
        dir: bool,
    },
    /// The sync begins, or begins anew since events were lost: its startup runs.
    Reset,
}

/// How a sync stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its startup is not done.
    Starting,
    /// It does what comes.
    Running,
    /// It has ended: a child's exit code said so, or its script failed.
    Failed {
        /// It never ran.
        at_start: bool,
    },
}

/// How all of it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It was stopped by this signal, and the last child has ended.
    Faded(i32),
    /// A script called `terminate`.
    Terminated(i32),
}

/// How the syncs of an interpreter stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overview {
    /// Each sync, in the order in which they were given.
    pub syncs: Vec<Standing>,
    /// It is all over.
    pub finished: Option<Finish>,
}

impl Overview {
    /// Has every sync failed? Then there is nothing to run for.
    #[must_use]
    pub fn all_failed(&self) -> bool {
        !self.syncs.is_empty() && self.syncs.iter().all(|s| matches!(s, Standing::Failed { .. }))
    }
}

/// A delay, for the status file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayStatus {
    /// How it stands.
    pub status: Status,
    /// What it is about.
    pub etype: Etype,
    /// Where, as Lsyncd 2 writes it: a slash before all, one behind a directory; nothing for what
    /// is about no path.
    pub path: Vec<u8>,
    /// Where a move leads.
    pub path2: Option<Vec<u8>>,
}

/// A sync, for the status file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStatus {
    /// Its name.
    pub name: String,
    /// The directory that is watched.
    pub source: PathBuf,
    /// How it stands.
    pub standing: Standing,
    /// Its delays, in order.
    pub delays: Vec<DelayStatus>,
    /// Children that run.
    pub children: usize,
    /// Rules in force: `- pattern`.
    pub rules: Vec<String>,
}
