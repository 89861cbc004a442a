//! Which path an error of rsync is about, and why it failed.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lsync_protocol::path::{Escaped, RelPath};

use super::Run;
use crate::config::rsync::RsyncMirror;

/// What a line of standard error says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blame {
    /// This path failed, for this reason.
    Path(RelPath, String),
    /// This path was there when the list was made, and then was not.
    Vanished(RelPath),
    /// Something failed, and no path of ours is named.
    Nobody(String),
    /// Deletes were left out, since something could not be read.
    NotDeleted,
    /// It repeats what is said elsewhere.
    Nothing,
}

/// Where the names in a line may be looked for.
pub(super) struct Places<'a> {
    config: &'a RsyncMirror,
    /// All paths of a run of what changed; `None`: it is over everything.
    all: Option<BTreeSet<&'a RelPath>>,
    /// Those of which anything beneath them is meant as well.
    deep: BTreeSet<&'a RelPath>,
}

/// Lines that say again what another line, or the exit code, says.
const ECHOES: [&[u8]; 8] = [
    b"rsync error:",
    b"rsync warning:",
    b"*** Skipping any contents",
    b"WARNING: parent dir is absent",
    b"default_perms_for_dir",
    b"cannot delete non-empty directory",
    b"skipping non-regular file",
    b"created directory",
];

impl<'a> Places<'a> {
    pub(super) fn new(config: &'a RsyncMirror, run: &'a Run) -> Places<'a> {
        match run {
            Run::Full(_) => Places { config, all: None, deep: BTreeSet::new() },
            Run::Paths(paths) => {
                let missing = paths.missing.iter().map(|(path, _)| path);
                let trees = paths.trees.iter().map(|tree| &tree.path);
                Places {
                    config,
                    all: Some(paths.all().collect()),
                    deep: missing.chain(trees).collect(),
                }
            }
        }
    }

    /// Reads one line.
    pub(super) fn blame(&self, line: &[u8]) -> Blame {
        if line.iter().all(u8::is_ascii_whitespace) || ECHOES.iter().any(|e| line.starts_with(e)) {
            return Blame::Nothing;
        }
        if line.windows(22).any(|w| w == b"skipping file deletion") {
            return Blame::NotDeleted;
        }
        let here = line.windows(8).any(|word| word == b"[sender]");
        let vanished = line.windows(15).take(12).any(|words| words == b" has vanished: ");
        let found = named(line).and_then(|(name, why)| Some((self.locate(&name)?, why)));
        match found {
            Some((path, _)) if vanished => Blame::Vanished(path),
            Some((path, why)) => {
                // Some say it before the name.
                let why = if why.is_empty() { cause(line) } else { why };
                let why = if here { why } else { format!("{why} (on the target)") };
                Blame::Path(path, why)
            }
            None if vanished => Blame::Nothing,
            None => Blame::Nobody(cause(line)),
        }
    }

    /// The path of ours that a name in a message stands for: relative, or absolute on either side.
    fn locate(&self, name: &[u8]) -> Option<RelPath> {
        let source = self.config.source.as_os_str().as_bytes();
        let target = self.config.target.as_bytes();
        let dir = target_dir(target);
        for known in [source, dir] {
            let known = known.strip_suffix(b"/").unwrap_or(known);
            if let Some(rest) = name.strip_prefix(known)
                && (rest.is_empty() || rest.starts_with(b"/"))
                && let Some(path) = self.standing(rest, true)
            {
                return Some(path);
            }
        }
        // A host's absolute path of which only the end is ours.
        let starts = std::iter::once(0)
            .chain(name.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at + 1));
        let relative = !name.starts_with(b"/");
        starts
            .enumerate()
            .find_map(|(at, start)| self.standing(&name[start..], relative && at == 0))
    }

    /// This, if it is one of ours. `sure`: it is a path from the root, whether we know it or not.
    fn standing(&self, text: &[u8], sure: bool) -> Option<RelPath> {
        let text = text.strip_prefix(b"/").unwrap_or(text);
        let text = text.strip_prefix(b"./").unwrap_or(text);
        let text = text.strip_suffix(b"/").unwrap_or(text);
        if text.is_empty() || text == b"." {
            return sure.then(RelPath::root);
        }
        let path = RelPath::new(text).ok()?;
        let staged = without_temporary(&path);
        if let Some(all) = &self.all {
            let ours = |path: &RelPath| self.speaks_of(all, path);
            return staged.filter(ours).or_else(|| ours(&path).then_some(path));
        }
        let there = |path: &RelPath| {
            let name = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
            self.config.source.join(name).symlink_metadata().is_ok()
        };
        staged.filter(there).or_else(|| (sure || there(&path)).then_some(path))
    }

    /// Is this path meant: itself, by what is beneath it, or by a directory above it?
    fn speaks_of(&self, all: &BTreeSet<&RelPath>, path: &RelPath) -> bool {
        let beneath = all.range::<RelPath, _>(path..).next();
        if beneath.is_some_and(|other| other.is_at_or_under(path)) {
            return true;
        }
        let mut at = Some(path.clone());
        while let Some(path) = at {
            if self.deep.contains(&path) {
                return true;
            }
            at = path.parent();
        }
        false
    }
}

/// `.NAME.XXXXXX`, under which rsync writes, is about `NAME`.
fn without_temporary(path: &RelPath) -> Option<RelPath> {
    let name = path.name()?.strip_prefix(b".")?;
    let (name, rest) = name.split_at_checked(name.len().checked_sub(7)?)?;
    let random = rest.strip_prefix(b".")?;
    if name.is_empty() || !random.iter().all(u8::is_ascii_alphanumeric) {
        return None;
    }
    path.parent()?.join(name).ok()
}

/// The directory of a target, as its host knows it.
fn target_dir(target: &[u8]) -> &[u8] {
    let first = target.split(|&b| b == b'/').next().unwrap_or_default();
    match first.iter().rposition(|&b| b == b':') {
        // What a daemon calls its modules on its disk is not known.
        Some(at) if at > 0 && first[at - 1] == b':' => b"/\0",
        _ if target.starts_with(b"rsync://") => b"/\0",
        Some(at) => &target[at + 1..],
        None => target,
    }
}

/// The name in a message, and why it failed.
fn named(line: &[u8]) -> Option<(Vec<u8>, String)> {
    let find = |text: &[u8], what: &[u8]| text.windows(what.len()).position(|w| w == what);
    if let Some(start) = line.iter().position(|&b| b == b'"') {
        let rest = &line[start + 1..];
        // A quote in the name is not told from the last one: what follows tells.
        let mut ends = rest.iter().enumerate().filter(|(_, b)| **b == b'"').map(|(at, _)| at);
        let end = ends.find(|&at| {
            let behind = &rest[at + 1..];
            behind.is_empty()
                || [&b" failed"[..], b": ", b" (in ", b" -> ", b" to ", b" in "]
                    .iter()
                    .any(|next| behind.starts_with(next))
        })?;
        return Some((unescaped(&rest[..end]), cause(&rest[end + 1..])));
    }
    for word in [&b"unlink("[..], b"rmdir(", b"delete("] {
        if let Some(at) = find(line, word) {
            let rest = &line[at + word.len()..];
            let end = find(rest, b") failed").or_else(|| find(rest, b")"))?;
            return Some((unescaped(&rest[..end]), cause(&rest[end + 1..])));
        }
    }
    for word in [&b"WARNING: "[..], b"ERROR: "] {
        if let Some(rest) = line.strip_prefix(word)
            && let Some(end) = find(rest, b" failed verification")
        {
            return Some((
                unescaped(&rest[..end]),
                "its content was not as it should be".to_owned(),
            ));
        }
    }
    None
}

/// The reason in a message: what stands behind the last colon, without its number.
fn cause(text: &[u8]) -> String {
    let text = text.strip_prefix(b"rsync: ").unwrap_or(text);
    let text = match text.windows(8).position(|w| w == b"failed: ") {
        Some(at) => &text[at + 8..],
        None => text.strip_prefix(b": ").unwrap_or(text),
    };
    let text = Escaped(text.trim_ascii()).to_string();
    let text = match text.rfind(" (") {
        Some(at)
            if text.ends_with(')')
                && text[at + 2..text.len() - 1].bytes().all(|b| b.is_ascii_digit()) =>
        {
            &text[..at]
        }
        _ => &text,
    };
    crate::error::plain(text)
}

/// rsync writes what is no text as `\#ooo`.
pub(super) fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digit = |i: usize| {
            text.get(at + i).filter(|b| (b'0'..=b'7').contains(*b)).map(|b| u32::from(b - b'0'))
        };
        if text[at..].starts_with(b"\\#")
            && let (Some(a), Some(b), Some(c)) = (digit(2), digit(3), digit(4))
            && let Ok(byte) = u8::try_from(a * 64 + b * 8 + c)
        {
            bytes.push(byte);
            at += 5;
        } else {
            bytes.push(text[at]);
            at += 1;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{Full, Paths, Tree};
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn blame(config: &RsyncMirror, run: &Run, line: &str) -> Blame {
        Places::new(config, run).blame(line.as_bytes())
    }

    #[test]
    fn errors_are_about_paths() {
        let config = RsyncMirror::new("m", "/s", "h:/srv/t".as_ref());
        let run = Run::Paths(Paths {
            names: vec![(path("b/2"), false), (path("a \"x\""), false), (path("n\nl"), false)],
            missing: vec![(path("b/gone"), true)],
            trees: vec![Tree { path: path("tree"), whole: true, listed: false }],
            ..Paths::default()
        });
        let there = "permission denied (on the target)";
        for (line, name, why) in [
            (
                "rsync: [receiver] mkstemp \"/srv/t/b/.2.ALOtUO\" failed: Permission denied (13)",
                "b/2",
                there,
            ),
            (
                "rsync: [receiver] mkstemp \"/elsewhere/b/.2.ALOtUO\" failed: Permission denied (13)",
                "b/2",
                there,
            ),
            (
                "rsync: [receiver] mkstemp \"/b/.2.ALOtUO\" (in mod) failed: Permission denied (13)",
                "b/2",
                there,
            ),
            (
                "rsync: [generator] delete_file: unlink(b/gone/x) failed: Permission denied (13)",
                "b/gone/x",
                there,
            ),
            (
                "rsync: [sender] send_files failed to open \"/s/b/2\": Permission denied (13)",
                "b/2",
                "permission denied",
            ),
            (
                "rsync: [generator] symlink \"/srv/t/a \"x\"\" -> \"y\" failed: Permission denied (13)",
                "a \"x\"",
                there,
            ),
            (
                "rsync: [generator] recv_generator: mkdir \"/srv/t/tree/n\" failed: Permission denied (13)",
                "tree/n",
                there,
            ),
            (
                "rsync: [sender] opendir \"/s/tree/n\" failed: Permission denied (13)",
                "tree/n",
                "permission denied",
            ),
            (
                "rsync: [receiver] mkstemp \"/srv/t/.n\\#012l.ALOtUO\" failed: Permission denied (13)",
                "n\nl",
                there,
            ),
            (
                "ERROR: b/2 failed verification -- update discarded.",
                "b/2",
                "its content was not as it should be (on the target)",
            ),
        ] {
            let expected = Blame::Path(path(name), why.to_owned());
            assert_eq!(blame(&config, &run, line), expected, "{line}");
        }
        for (line, expected) in [
            ("file has vanished: \"/s/b/2\"", Blame::Vanished(path("b/2"))),
            ("directory has vanished: \"/s/b\"", Blame::Vanished(path("b"))),
            ("rsync error: some files/attrs were not transferred (code 23)", Blame::Nothing),
            ("IO error encountered -- skipping file deletion", Blame::NotDeleted),
            ("", Blame::Nothing),
            (
                "rsync: connection unexpectedly closed (0 bytes received so far) [sender]",
                Blame::Nobody(
                    "connection unexpectedly closed (0 bytes received so far) [sender]".into(),
                ),
            ),
            (
                "rsync: [receiver] mkstemp \"/srv/t/else/.2.ALOtUO\" failed: Permission denied (13)",
                Blame::Nobody("permission denied".into()),
            ),
        ] {
            assert_eq!(blame(&config, &run, line), expected, "{line}");
        }
    }

    #[test]
    fn in_a_run_over_everything_names_stand_on_either_side() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("f"), "").unwrap();
        let config = RsyncMirror::new("m", scratch.path(), "h:rel".as_ref());
        let run = Run::Full(Full::default());
        let line = format!(
            "rsync: [sender] opendir \"{}/d\" failed: Bad luck (5)",
            scratch.path().display()
        );
        assert_eq!(blame(&config, &run, &line), Blame::Path(path("d"), "bad luck".to_owned()));
        let line = "rsync: [receiver] mkstemp \"/home/me/rel/.f.ALOtUO\" failed: Bad luck (13)";
        let there = Blame::Path(path("f"), "bad luck (on the target)".to_owned());
        assert_eq!(blame(&config, &run, line), there);
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(
            line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
            likely in "(rsync: )?(\\[sender\\] )?[a-z\" /.(:\\\\#07]{0,40}",
        ) {
            let config = RsyncMirror::new("m", "/s", "h:t".as_ref());
            let run = Run::Paths(Paths { names: vec![(path("a"), false)], ..Paths::default() });
            let _ = Places::new(&config, &run).blame(&line);
            let _ = Places::new(&config, &run).blame(likely.as_bytes());
            let _ = super::super::report::read(&line);
        }
    }
}
