//! For `fuzz`, which is a crate of its own: what is said to rsync and what is heard of it, without one.

use std::ffi::OsString;

use lsync_protocol::path::RelPath;

use super::blame::{Blame, Places};
use super::{Call, Full, Paths, Run, Tree, report, version};
use crate::config::rsync::RsyncMirror;

/// Words, and what goes to standard input.
pub type Said = (Vec<OsString>, Option<Vec<u8>>);

/// Reads a line of rsync's, whichever, and gives what a person may be shown of it.
#[must_use]
pub fn heard(line: &[u8]) -> Vec<String> {
    let config = RsyncMirror::new("m", "/s", "h:/srv/t".as_ref());
    let path = |name: &[u8]| RelPath::new(name).unwrap_or_default();
    let paths = Paths {
        names: vec![(path(b"a"), false), (path(b"b/c d"), false)],
        missing: vec![(path(b"gone"), true)],
        trees: vec![Tree { path: path(b"tree"), whole: true, listed: false }],
        ..Paths::default()
    };
    let mut shown = Vec::new();
    for run in [Run::Full(Full::default()), Run::Paths(paths)] {
        match Places::new(&config, &run).blame(line) {
            Blame::Path(path, why) => shown.extend([path.to_string(), why]),
            Blame::Vanished(path) => shown.push(path.to_string()),
            Blame::Nobody(why) => shown.push(why),
            Blame::NotDeleted | Blame::Nothing => {}
        }
    }
    let _ = (report::read(line), version(line));
    shown
}

/// What changed, as lists of names.
#[must_use]
pub fn lists(paths: &Paths, config: &RsyncMirror) -> Vec<Said> {
    paths.lists(config).into_iter().map(said).collect()
}

/// The same as Lsyncd 2's patterns.
#[must_use]
pub fn patterns(paths: &Paths, config: &RsyncMirror) -> Said {
    said(paths.patterns(config))
}

fn said(call: Call) -> Said {
    (call.words, call.input)
}
