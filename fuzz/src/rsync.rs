//! What is said to rsync, and what it says.

use lsync_protocol::path::RelPath;
use lsyncd::carrier::rsync::{Paths, Tree, fuzzed};
use lsyncd::config::rsync::RsyncMirror;
use lsyncd::filter::{Filter, Origin};

use crate::{Taken, assert_shown};

/// What rsync prints, a line each: whatever a path holds, a person can be shown it.
pub fn rsync_output(bytes: &[u8]) {
    for line in bytes.split(|&b| b == b'\n') {
        for text in fuzzed::heard(line) {
            assert_shown(&text);
        }
    }
}

/// What changed, and the lists that say so: they name what they should, and nothing else.
pub fn rsync_lists(bytes: &[u8]) {
    let mut taken = Taken(bytes);
    let flags = taken.byte();
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let mut paths = Paths { content: flag(0), delete: flag(1), ..Paths::default() };
    let mut all: Vec<(RelPath, bool)> = Vec::new();
    while !taken.is_empty() && all.len() < 40 {
        let (how, path) = (taken.byte(), RelPath::new(taken.part()));
        let Ok(path) = path else { continue };
        // Nothing is beneath what is no directory, or is missing.
        let clash = |(other, above): &(RelPath, bool)| {
            path == *other || path.is_under(other) && !above || other.is_under(&path)
        };
        if path.is_root() || all.iter().any(clash) {
            continue;
        }
        all.push((path.clone(), how % 2 == 1));
        match how % 4 {
            0 => paths.names.push((path, false)),
            1 => paths.names.push((path, true)),
            2 => paths.missing.push((path, how & 16 != 0)),
            _ => paths.trees.push(Tree { path, whole: how & 16 != 0, listed: false }),
        }
    }
    paths.names.sort();
    let mut config = RsyncMirror::new("m", "/s", if flag(2) { "h:/t" } else { "/t" }.as_ref());
    if flag(3) {
        config.excludes = vec![b"*.o".to_vec()];
    }
    let ours = |path: &RelPath| {
        all.iter().any(|(one, _)| one.is_at_or_under(path) || path.is_at_or_under(one))
    };
    let mut listed: Vec<RelPath> = Vec::new();
    for (_, input) in fuzzed::lists(&paths, &config) {
        let Some(input) = input else { continue };
        let input = input.strip_suffix(b"\0").expect("each name ends in NUL");
        for name in input.split(|&b| b == 0) {
            let name = name.strip_prefix(b"./").expect("no name begins a comment");
            let path = RelPath::new(name).expect("a name beneath the root");
            assert!(ours(&path), "{path} was not asked for");
            listed.push(path);
        }
    }
    let there = paths.names.iter().map(|(path, _)| path);
    let missing = paths.missing.iter().map(|(path, _)| path).filter(|_| paths.delete);
    let trees = paths.trees.iter().map(|tree| &tree.path);
    // In a directory that goes as a whole only files are told, for their content.
    let dirs = paths.names.iter().filter(|(_, dir)| *dir).map(|(path, _)| path);
    let goes_along: Vec<&RelPath> =
        dirs.chain(paths.missing.iter().map(|(path, _)| path)).collect();
    let in_tree = |path: &RelPath| paths.trees.iter().any(|tree| path.is_under(&tree.path));
    for path in there.chain(missing).chain(trees) {
        let along = goes_along.contains(&path) && in_tree(path);
        assert!(along || listed.contains(path), "{path} is not told");
    }
    if !flag(3) {
        patterns(&paths, &config, &ours);
    }
}

/// The same as patterns, read as rsync reads them.
fn patterns(paths: &Paths, config: &RsyncMirror, ours: &dyn Fn(&RelPath) -> bool) {
    let (_, input) = fuzzed::patterns(paths, config);
    let mut filter = Filter::default();
    let input = input.unwrap_or_default();
    for pattern in input.split(|&b| b == 0).filter(|pattern| !pattern.is_empty()) {
        filter.add_include(pattern, &Origin::given("--include-from")).expect("a pattern");
    }
    filter.add_exclude(b"*", &Origin::given("--exclude")).expect("a pattern");
    let there = paths.names.iter().map(|(path, dir)| (path, *dir));
    let missing = paths.missing.iter().map(|(path, dir)| (path, *dir)).filter(|_| paths.delete);
    let trees = paths.trees.iter().map(|tree| (&tree.path, true));
    for (path, dir) in there.chain(missing).chain(trees) {
        assert!(filter.verdict_deep(path, dir).sent, "{path} is not told");
        if let Ok(beside) = path.parent().unwrap_or_default().join(b"another") {
            assert!(ours(&beside) || !filter.verdict_deep(&beside, false).sent, "{beside} is told");
        }
        for tree in &paths.trees {
            let beneath = tree.path.join(b"x").ok();
            assert!(beneath.is_none_or(|path| filter.verdict_deep(&path, false).sent));
        }
    }
}
