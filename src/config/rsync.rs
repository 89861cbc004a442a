//! Mirrors that the system's rsync carries: what is asked of it, as values.
//!
//! Lsyncd 2's `default.rsync` is such a mirror, and so are `push --rsync` and the targets that only
//! rsync knows (`HOST::MODULE`, `rsync://…`). What rsync is called with follows from
//! [`RsyncOptions`]; how a target is written is rsync's business and is not read here.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use super::{Delete, Hooks, MaxDelete, WatchChoice};
use crate::filter::Filter;

mod exitcodes;
mod keys;
mod options;
mod shell;

pub use exitcodes::{ExitCodes, ExitMeaning};
pub use keys::{KEYS, Key, Shape, Since};
pub use options::{RsyncOptions, RsyncValue};
pub use shell::RsyncShell;

/// How many events may wait before delays are ignored, unless somebody says otherwise.
pub const DEFAULT_MAX_DELAYS: usize = 1000;

/// One source to one target that rsync reaches.
#[derive(Debug, Clone, PartialEq)]
pub struct RsyncMirror {
    /// What the mirror is called in lines, status and commands.
    pub name: String,
    /// The source directory: absolute, symbolic links resolved.
    pub source: PathBuf,
    /// The target as rsync takes it, with a slash at its end unless a colon stands there.
    pub target: OsString,
    /// The longest a change waits, from the first event of a batch.
    pub delay: Duration,
    /// When names are deleted.
    pub delete: Delete,
    /// At this many dirty paths a batch leaves without waiting for its delay.
    pub max_delays: usize,
    /// How many rsyncs may run at a time.
    pub max_processes: usize,
    /// What rsync is called with.
    pub options: RsyncOptions,
    /// Lines for rsync's `--filter`, in order: they stand before the excludes.
    pub filters: Vec<Vec<u8>>,
    /// Patterns for rsync's `--exclude`, in order.
    pub excludes: Vec<Vec<u8>>,
    /// The same rules as events are held against.
    pub filter: Filter,
    /// What rsync's exit codes mean.
    pub exit_codes: ExitCodes,
    /// Go on trying when the first run fails.
    pub insist: bool,
    /// Larger files go alone.
    pub batch_size_limit: Option<u64>,
    /// The most names deleted in a minute.
    pub max_delete: Option<MaxDelete>,
    /// The target may be emptied.
    pub allow_empty: bool,
    /// Do without the run over everything at the start (Lsyncd 2's `init = false`).
    pub skip_startup: bool,
    /// Directories on other file systems are not entered.
    pub one_file_system: bool,
    /// Larger files are not mirrored.
    pub max_size: Option<u64>,
    /// How often everything is compared; `None`: never.
    pub rescan: Option<Duration>,
    /// Why rsync carries it, where nobody asked for that: said once, as a line.
    pub why: Option<String>,
    /// Which watcher is used.
    pub watch: WatchChoice,
    /// What is run when something happens.
    pub hooks: Hooks,
}

impl RsyncMirror {
    /// A mirror with every default of ours; `source` is absolute and resolved. A slash is put
    /// behind the target where rsync needs one.
    #[must_use]
    pub fn new(name: &str, source: impl Into<PathBuf>, target: &OsStr) -> RsyncMirror {
        RsyncMirror {
            name: name.to_owned(),
            source: source.into(),
            target: with_slash(target),
            delay: Duration::ZERO,
            delete: Delete::default(),
            max_delays: DEFAULT_MAX_DELAYS,
            max_processes: 1,
            options: RsyncOptions::default(),
            filters: Vec::new(),
            excludes: Vec::new(),
            filter: Filter::default(),
            exit_codes: ExitCodes::default(),
            insist: false,
            batch_size_limit: None,
            max_delete: None,
            allow_empty: false,
            skip_startup: false,
            one_file_system: false,
            max_size: None,
            rescan: Some(super::DEFAULT_RESCAN),
            why: None,
            watch: WatchChoice::default(),
            hooks: Hooks::default(),
        }
    }

    /// The source as rsync takes it: its contents are meant.
    #[must_use]
    pub fn source_words(&self) -> OsString {
        with_slash(self.source.as_os_str())
    }

    /// Has it rules of any kind?
    #[must_use]
    pub fn has_rules(&self) -> bool {
        !(self.filters.is_empty() && self.excludes.is_empty())
    }
}

/// With a slash at its end, unless one or a colon stands there.
fn with_slash(path: &OsStr) -> OsString {
    let mut bytes = path.as_bytes().to_vec();
    if !bytes.ends_with(b"/") && !bytes.ends_with(b":") {
        bytes.push(b'/');
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_ends_in_a_slash_or_a_colon() {
        for (given, expected) in
            [("/t", "/t/"), ("/t/", "/t/"), ("h:", "h:"), ("h:x", "h:x/"), ("h::m", "h::m/")]
        {
            assert_eq!(RsyncMirror::new("m", "/s", OsStr::new(given)).target, expected);
        }
        assert_eq!(RsyncMirror::new("m", "/s", OsStr::new("/t")).source_words(), "/s/");
    }
}
