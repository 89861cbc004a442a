//! A run of exactly what changed: as a list of names, or as Lsyncd 2's patterns.
//!
//! As a list: `--files-from` with names that are literal, each behind `./` since a name that begins
//! with `#` or `;` would be a comment even in a list parted by NUL. Directories above a listed name
//! go along without what is in them; names that are missing are deleted; a directory as a whole is
//! listed with `-r --delete`, which then reach no further than that directory. rsync holds the
//! names, and what it deletes, against the rules as ever.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use lsync_protocol::path::RelPath;

use super::Call;
use crate::config::rsync::RsyncMirror;

/// Longer rules do not fit on a command line.
const RULES_MAX: usize = 512 * 1024;
/// Neither do longer ones of what is kept.
const PROTECTED_MAX: usize = 256 * 1024;

/// A directory that may differ as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Which.
    pub path: RelPath,
    /// What is in it may be other than size and time say.
    pub whole: bool,
    /// All that it holds here is among the names, and the target has nothing else in it.
    pub listed: bool,
}

/// What changed, as it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Names that are there, and whether they are directories, in their order.
    pub names: Vec<(RelPath, bool)>,
    /// Names that are missing, and whether they were directories; the topmost of each.
    pub missing: Vec<(RelPath, bool)>,
    /// Directories that may differ as a whole.
    pub trees: Vec<Tree>,
    /// Names in those that cannot be read or looked at here: what the target has of them stays.
    pub unread: Vec<RelPath>,
    /// Content changed: size and time prove nothing.
    pub content: bool,
    /// Missing names are deleted.
    pub delete: bool,
    /// The most names to delete.
    pub max_delete: Option<u64>,
}

impl Paths {
    /// Is there nothing to do?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.trees.is_empty() && (self.missing.is_empty() || !self.delete)
    }

    /// All paths that it speaks of.
    pub fn all(&self) -> impl Iterator<Item = &RelPath> {
        let names = self.names.iter().chain(&self.missing).map(|(path, _)| path);
        names.chain(self.trees.iter().map(|tree| &tree.path))
    }

    /// The calls that bring these as lists: one for directories as a whole, if there are any, and
    /// one for the rest.
    pub(super) fn lists(&self, config: &RsyncMirror) -> Vec<Call> {
        // Of what is listed the target has nothing else.
        let trees: BTreeSet<&RelPath> =
            self.trees.iter().filter(|tree| !tree.listed).map(|tree| &tree.path).collect();
        let under_tree = |path: &RelPath| {
            let mut at = Some(path.clone());
            while let Some(path) = at {
                if trees.contains(&path) {
                    return true;
                }
                at = path.parent();
            }
            false
        };
        // What a tree deletes, and the directories in it, need not be told; a file in it is, for
        // its content.
        let missing = self.missing_names().filter(|path| !under_tree(path));
        // Another host hears of the rules only when a call deletes in directories.
        let (held, missing): (Vec<&RelPath>, Vec<&RelPath>) =
            missing.partition(|_| config.has_rules() && is_elsewhere(config));
        let there = self.names.iter().filter(|(path, dir)| !*dir || !under_tree(path));
        let names: Vec<&RelPath> = missing.into_iter().chain(there.map(|(path, _)| path)).collect();
        // Directories above a name go along with it; listed, they do so as what they are.
        let mut above: BTreeSet<RelPath> = BTreeSet::new();
        for path in names.iter().chain(&held).chain(&trees) {
            let mut at = path.parent();
            while let Some(dir) = at {
                at = dir.parent();
                // Listed, the root would bring all names in it.
                if dir.is_root() || !above.insert(dir) {
                    break;
                }
            }
        }
        let root = names.iter().any(|name| name.is_root());
        for name in &names {
            above.remove(*name);
        }
        let mut calls = Vec::new();
        if !trees.is_empty() || !held.is_empty() {
            let whole = self.trees.iter().any(|tree| tree.whole && !tree.listed);
            let all = held.iter().chain(&trees).copied();
            calls.push(self.list(config, all, true, whole));
        }
        // What is to be deleted is none of them: nothing that is missing has anything beneath it.
        let names = names.into_iter().filter(|name| !name.is_root());
        let names = names.chain(above.iter().filter(|dir| !trees.contains(dir)));
        let mut names = names.peekable();
        if names.peek().is_some() {
            calls.push(self.list(config, names, false, self.content));
        }
        if root {
            let mut words = config.options.live_words();
            words.extend(["--dirs", "--exclude=*"].map(OsString::from));
            calls.push(Call { words, input: None });
        }
        calls
    }

    fn missing_names(&self) -> impl Iterator<Item = &RelPath> {
        let delete = self.delete;
        self.missing.iter().filter(move |_| delete).map(|(path, _)| path)
    }

    fn list<'a>(
        &self,
        config: &RsyncMirror,
        names: impl Iterator<Item = &'a RelPath>,
        tree: bool,
        content: bool,
    ) -> Call {
        let mut words = Vec::new();
        let protects = tree && self.delete && !self.unread.is_empty();
        if protects {
            words.extend(protections(&self.unread));
            words.push("--ignore-errors".into());
        }
        words.extend(rules(config));
        words.extend(config.options.live_words());
        if content {
            words.push("--ignore-times".into());
        }
        if tree {
            words.push("-r".into());
            if self.delete {
                words.push("--delete".into());
            }
        }
        if self.delete {
            words.push("--delete-missing-args".into());
            words.extend(self.max_delete.map(|max| format!("--max-delete={max}").into()));
        } else {
            words.push("--ignore-missing-args".into());
        }
        words.extend(["--force", "--from0", "--files-from=-"].map(OsString::from));
        let mut input = Vec::new();
        for name in names {
            input.extend_from_slice(b"./");
            input.extend_from_slice(name.as_bytes());
            input.push(0);
        }
        Call { words, input: Some(input) }
    }

    /// The call that brings these as Lsyncd 2 does: every name with the directories above it as
    /// patterns, all else excluded.
    pub(super) fn patterns(&self, config: &RsyncMirror) -> Call {
        // Lsyncd 2 tells no rules; rsync itself is told where they fit.
        let told = tells_rules(config);
        let mut words = if told { rules(config) } else { Vec::new() };
        words.extend(config.options.live_words());
        words.push("-r".into());
        if self.content && !config.options.is_wrapper() {
            words.push("--ignore-times".into());
        }
        // In what cannot be read nothing is known to be missing.
        if self.delete && self.unread.is_empty() {
            words.extend(["--delete", "--ignore-errors"].map(OsString::from));
            words.extend(self.max_delete.map(|max| format!("--max-delete={max}").into()));
        }
        words.extend(["--force", "--from0", "--include-from=-", "--exclude=*"].map(OsString::from));
        let mut input = Vec::new();
        let mut known: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut add = |pattern: Vec<u8>| {
            if known.contains(&pattern) {
                return false;
            }
            input.extend_from_slice(&pattern);
            input.push(0);
            known.insert(pattern)
        };
        // With rules a directory as a whole would bring what they exclude: it is told name by name.
        let trees = self.trees.iter().filter(|_| told || !config.has_rules());
        let mut all: BTreeSet<(&RelPath, bool, bool)> =
            self.names.iter().map(|(path, dir)| (path, *dir, false)).collect();
        all.extend(
            self.missing.iter().filter(|_| self.delete).map(|(path, dir)| (path, *dir, *dir)),
        );
        all.extend(trees.map(|tree| (&tree.path, true, true)));
        for (path, dir, whole) in all {
            if whole && !path.is_root() {
                let mut pattern = escaped(path.as_bytes(), true);
                pattern.extend_from_slice(b"/***");
                add(pattern);
            } else if whole {
                add(b"/***".to_vec());
            }
            let mut pattern = escaped(path.as_bytes(), false);
            if dir && !path.is_root() {
                pattern.push(b'/');
            }
            add(pattern);
            let mut at = path.parent();
            while let Some(dir) = at {
                let mut pattern = escaped(dir.as_bytes(), false);
                if !dir.is_root() {
                    pattern.push(b'/');
                }
                if !add(pattern) {
                    break;
                }
                at = dir.parent();
            }
        }
        Call { words, input: Some(input) }
    }
}

/// Rules that keep names on the target, and everything in them. What could not be looked at may be
/// no directory, and rsync may be unable to look at it as well: then only the rule keeps it.
pub(super) fn protections(names: &[RelPath]) -> Vec<OsString> {
    let mut names: BTreeSet<RelPath> = names.iter().cloned().collect();
    // More than a command line holds becomes the directories that hold them: those keep more.
    while names.iter().map(|name| 2 * name.as_bytes().len() + 48).sum::<usize>() > PROTECTED_MAX {
        let deepest = names.iter().map(RelPath::depth).max().unwrap_or_default();
        let above = |name: RelPath| match name.depth() == deepest {
            true => name.parent().unwrap_or_default(),
            false => name,
        };
        names = names.into_iter().map(above).collect();
    }
    let rule = |name: &RelPath, beneath: &[u8]| {
        let mut rule = b"--filter=P ".to_vec();
        rule.extend(escaped(name.as_bytes(), !beneath.is_empty()));
        rule.extend_from_slice(beneath);
        OsString::from_vec(rule)
    };
    if names.contains(&RelPath::root()) {
        return vec!["--filter=P **".into()];
    }
    names.iter().flat_map(|name| [rule(name, b""), rule(name, b"/**")]).collect()
}

/// Is the target one of another host, or a daemon's?
fn is_elsewhere(config: &RsyncMirror) -> bool {
    config.target.as_bytes().split(|&b| b == b'/').next().is_some_and(|host| host.contains(&b':'))
}

/// Do the rules of this mirror go along with what changed, when it is told as patterns?
pub(super) fn tells_rules(config: &RsyncMirror) -> bool {
    !config.options.is_wrapper() && rules_fit(config)
}

/// Are the rules of this mirror short enough to be told with a list?
pub(super) fn rules_fit(config: &RsyncMirror) -> bool {
    let all = config.filters.iter().chain(&config.excludes);
    all.map(|rule| rule.len() + 16).sum::<usize>() <= RULES_MAX
}

/// The rules as words: standard input is taken by the list.
fn rules(config: &RsyncMirror) -> Vec<OsString> {
    let word = |option: &[u8], rule: &Vec<u8>| {
        let mut word = option.to_vec();
        word.extend_from_slice(rule);
        OsString::from_vec(word)
    };
    let filters = config.filters.iter().map(|rule| word(b"--filter=", rule));
    let excludes = config.excludes.iter().map(|rule| word(b"--exclude=", rule));
    filters.chain(excludes).collect()
}

/// A path as a pattern: anchored, and its wildcards taken from it. rsync reads a backslash as one
/// where the pattern has no wildcard, and as an escape where it has: `wild` says that it will have.
pub(super) fn escaped(path: &[u8], wild: bool) -> Vec<u8> {
    let mut pattern = vec![b'/'];
    if wild || path.iter().any(|b| b"*?[".contains(b)) {
        for &byte in path {
            if b"*?[]\\".contains(&byte) {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
    } else {
        pattern.extend_from_slice(path);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rsync::{RsyncOptions, RsyncValue};

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn names(list: &[(&str, bool)]) -> Vec<(RelPath, bool)> {
        list.iter().map(|(name, dir)| (path(name), *dir)).collect()
    }

    fn tree(name: &str, whole: bool) -> Tree {
        Tree { path: path(name), whole, listed: false }
    }

    fn said(call: &Call) -> (String, String) {
        let words: Vec<_> = call.words.iter().map(|word| word.to_str().unwrap()).collect();
        let input = String::from_utf8(call.input.clone().unwrap()).unwrap();
        (words.join(" "), input.replace('\0', "|"))
    }

    #[test]
    fn live_patterns_are_lsyncd_2s() {
        let mut config = RsyncMirror::new("m", "/s", "/t".as_ref());
        let keys = [("binary".to_owned(), RsyncValue::Text("/w".into()))];
        config.options = RsyncOptions::from_keys(&keys.into()).unwrap();
        config.excludes = vec![b"*.o".to_vec()];
        let paths = Paths {
            names: names(&[("d/e/f", false), ("d/n", true)]),
            missing: names(&[("d/gone", true), ("x", false)]),
            content: true,
            delete: true,
            ..Paths::default()
        };
        let (words, input) = said(&paths.patterns(&config));
        assert_eq!(
            words,
            "-lts -r --delete --ignore-errors --force --from0 --include-from=- --exclude=*"
        );
        assert_eq!(input, "/d/e/f|/d/e/|/d/|/|/d/gone/***|/d/gone/|/d/n/|/x|");
        let (words, input) = said(&Paths { delete: false, ..paths.clone() }.patterns(&config));
        assert_eq!(words, "-lts -r --force --from0 --include-from=- --exclude=*");
        assert_eq!(input, "/d/e/f|/d/e/|/d/|/|/d/n/|");
        // An rsync that is too old for lists is told more.
        config.options = RsyncOptions::default();
        let tree = Paths { trees: vec![tree("d/n", true)], delete: false, ..paths };
        let (words, input) = said(&tree.patterns(&config));
        assert_eq!(
            words,
            "--exclude=*.o -lts -r --ignore-times --force --from0 --include-from=- --exclude=*"
        );
        assert_eq!(input, "/d/e/f|/d/e/|/d/|/|/d/n/|/d/n/***|");
    }

    #[test]
    fn wildcards_are_escaped_where_there_are_any() {
        for (name, pattern) in [
            ("a]b", "/a]b"),
            ("a[b]", "/a\\[b\\]"),
            ("*?", "/\\*\\?"),
            ("x\\y", "/x\\y"),
            ("x\\*y", "/x\\\\\\*y"),
        ] {
            assert_eq!(escaped(name.as_bytes(), false), pattern.as_bytes(), "{name}");
        }
        assert_eq!(escaped(b"a]\\b", true), b"/a\\]\\\\b");
    }

    #[test]
    fn a_list_names_what_changed_and_no_more() {
        let config = RsyncMirror::new("m", "/s", "/t".as_ref());
        let paths = Paths {
            names: names(&[("#a", false), ("d", true), ("d/f", false), ("e", true)]),
            missing: names(&[("gone", true)]),
            content: true,
            delete: true,
            ..Paths::default()
        };
        let calls = paths.lists(&config);
        assert_eq!(calls.len(), 1);
        let (words, input) = said(&calls[0]);
        assert_eq!(
            words,
            "-lts --ignore-times --delete-missing-args --force --from0 --files-from=-"
        );
        assert_eq!(input, "./gone|./#a|./d|./d/f|./e|");
        let (words, input) = said(&Paths { delete: false, ..paths }.lists(&config)[0]);
        assert_eq!(
            words,
            "-lts --ignore-times --ignore-missing-args --force --from0 --files-from=-"
        );
        assert_eq!(input, "./#a|./d|./d/f|./e|");
    }

    #[test]
    fn directories_as_a_whole_reach_no_further_than_themselves() {
        let mut config = RsyncMirror::new("m", "/s", "/t".as_ref());
        config.excludes = vec![b"*.o".to_vec()];
        let mut paths = Paths {
            names: names(&[("n", true), ("n/f", false)]),
            missing: names(&[("n/gone", false)]),
            trees: vec![tree("n", true)],
            content: true,
            delete: true,
            ..Paths::default()
        };
        let calls = paths.lists(&config);
        assert_eq!(calls.len(), 2);
        let (words, input) = said(&calls[0]);
        assert_eq!(
            words,
            "--exclude=*.o -lts --ignore-times -r --delete --delete-missing-args --force --from0 --files-from=-"
        );
        assert_eq!(input, "./n|");
        let (words, input) = said(&calls[1]);
        assert_eq!(
            words,
            "--exclude=*.o -lts --ignore-times --delete-missing-args --force --from0 --files-from=-"
        );
        assert_eq!(input, "./n/f|");
        // The root by itself is no name of a list: that would bring everything in it.
        let root = Paths { names: vec![(RelPath::root(), true)], ..Paths::default() };
        let calls = root.lists(&config);
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].words, ["-lts", "--dirs", "--exclude=*"]);
        // A directory of which everything is listed is nothing but names.
        paths.trees[0].listed = true;
        let calls = paths.lists(&config);
        assert_eq!(calls.len(), 1);
        assert_eq!(said(&calls[0]).1, "./n/gone|./n|./n/f|");
    }
}
