//! Filter rules: on the command line, in files, in directories.

use std::collections::HashMap;

use lsync_protocol::path::{Escaped, RelPath};
use lsyncd::filter::{Above, CvsIgnore, Filter, Origin, Outside};

use crate::{assert_lines_shown, assert_shown};

/// Files of rules that name each other: each is all lines from one on.
struct Lines<'a>(&'a [&'a [u8]], usize);

impl Outside for Lines<'_> {
    fn file(&mut self, name: &[u8]) -> Result<Vec<u8>, String> {
        // A file that names two others, and those it, are read for ever but for this.
        self.1 = self.1.checked_sub(1).ok_or("too many files")?;
        let from = name.len() % (self.0.len() + 1);
        Ok(self.0[from..].join(&b'\n'))
    }

    fn cvs(&mut self) -> Result<CvsIgnore, String> {
        let line = self.0.last().map(|line| line.to_vec());
        let home = line.clone().map(|line| (b"/home/me/.cvsignore".to_vec(), line));
        Ok(CvsIgnore { home, variable: line })
    }

    fn above(&mut self, name: &[u8]) -> Result<Vec<Above>, String> {
        let content = self.0.join(&b'\n');
        Ok(vec![Above { name: [b"/srv/", name].concat(), end: 4, content }])
    }
}

/// A path, rules a line each, and after an empty line what is in files of rules.
pub fn filter(bytes: &[u8]) {
    let lines: Vec<&[u8]> = bytes.split(|&b| b == b'\n').collect();
    let path = RelPath::new(lines[0]).unwrap_or_default();
    let end = lines.iter().skip(1).position(|line| line.is_empty());
    let (rules, files) = lines[1..].split_at(end.unwrap_or(lines.len() - 1));
    let mut outside = Lines(files, 64);
    let mut filter = Filter::default();
    for (at, rule) in rules.iter().enumerate() {
        let given = match at % 4 {
            0 => filter.add_rule(rule),
            1 => filter.add_exclude(rule, &Origin::given("--exclude")),
            2 => filter.add_include(rule, &Origin::given("--include")),
            _ => filter.read_rule(rule, &Origin::given("--filter"), &mut outside),
        };
        if let Err(error) = given {
            assert_lines_shown(&error.to_string());
        }
    }
    let file = Origin::File { name: b"rules"[..].into(), line: 0 };
    let _ = filter.add_file(&files.join(&b'\n'), bytes.len().is_multiple_of(2), &file);
    let filter = filter.at_root(b"/srv/a");
    agrees(&filter, &path);
    learns(&filter, &path, &files.join(&b'\n'));
    reads_again(&filter, &path);
    anchored(&path, rules.first().copied().unwrap_or_default());
}

/// However one asks, the answer is the same.
fn agrees(filter: &Filter, path: &RelPath) {
    for is_dir in [false, true] {
        let deep = filter.verdict_deep(path, is_dir);
        let decision = filter.decision(path, is_dir);
        assert_eq!(decision.verdict, deep);
        for there in [decision.rule, decision.delete_rule].into_iter().flatten() {
            assert!(path.is_at_or_under(&there.path));
            assert_shown(&format!("{} {}", there.rule, there.rule.origin()));
        }
        // Nothing is sent of a directory that is not.
        let mut above = path.parent();
        let mut entered = true;
        while let Some(dir) = above {
            entered &= filter.verdict(&dir, true).sent;
            above = dir.parent();
        }
        assert_eq!(deep.sent, entered && filter.verdict(path, is_dir).sent);
        if !deep.deletable {
            assert!(!deep.sent || !filter.verdict(path, is_dir).deletable);
        }
    }
}

/// What is forgotten does not count.
fn learns(filter: &Filter, path: &RelPath, content: &[u8]) {
    let Some(dir) = path.parent().filter(|_| filter.reads_directories()) else { return };
    let names: HashMap<Vec<u8>, &[u8]> =
        filter.rule_files().into_iter().map(|name| (name.to_vec(), content)).collect();
    let before = filter.verdict_deep(path, false);
    if let Ok(rules) = filter.compile(&dir, |name| names.get(name).copied()) {
        let some = rules.is_some();
        assert_eq!(filter.learn(&dir, rules.clone()), some);
        assert!(!filter.learn(&dir, rules), "it is no news twice");
        agrees(filter, path);
        filter.forget(&dir);
        assert!(filter.known(&dir).is_none());
    }
    assert_eq!(filter.verdict_deep(path, false), before);
}

/// The rules as they are written are the same rules.
fn reads_again(filter: &Filter, path: &RelPath) {
    let Ok(again) = Filter::parse(filter.texts()) else { return };
    let again = again.at_root(b"/srv/a");
    for is_dir in [false, true] {
        let (ours, theirs) = (filter.verdict(path, is_dir), again.verdict(path, is_dir));
        let texts: Vec<String> = filter.texts().map(|text| Escaped(text).to_string()).collect();
        assert_eq!(ours, theirs, "{texts:?} {path}");
    }
}

/// An anchored rule without wildcards is about its path and what is beneath it, and nothing else.
fn anchored(path: &RelPath, rule: &[u8]) {
    let Ok(held) = RelPath::new(rule) else { return };
    if held.is_root() || rule.iter().any(|b| b"*?[".contains(b)) {
        return;
    }
    for (tail, only_dirs) in [(&b""[..], false), (b"/", true)] {
        let mut filter = Filter::default();
        filter.add_rule(&[b"- /", rule, tail].concat()).expect("a rule");
        for is_dir in [false, true] {
            let fits = path.is_under(&held) || *path == held && (is_dir || !only_dirs);
            let verdict = filter.verdict_deep(path, is_dir);
            assert_eq!((verdict.sent, verdict.deletable), (!fits, !fits), "{held} {path}");
        }
    }
    if let Some(name) = held.name() {
        let filter = Filter::default().without(name, Origin::given("--trash"));
        let first = path.components().next();
        assert_eq!(filter.verdict_deep(path, true).sent, first != Some(name));
    }
}
