//! The rules held against the real rsync: random trees and rules, mirrored by rsync, and the
//! names that are there afterwards compared with what [`Filter`] says. Skipped where no rsync is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

/// xorshift64*: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const NAMES: &[&str] =
    &["a", "b", "ab", "abc", "a.o", "b.o", "x-1", "[a]", "a*b", "a\\b", "é", "]"];

const PARTS: &[&str] = &[
    "a",
    "b",
    "ab",
    "a*",
    "*b",
    "*.o",
    "?",
    "??",
    "*",
    "**",
    "***",
    "[ab]",
    "[!a]*",
    "[^b]",
    "[[:alpha:]]",
    "a**b",
    "x-[0-9]",
    "\\[a]",
    "a\\*b",
    "a\\b",
    "[]]",
    "*[]a]*",
    "é",
    "[a-b]*",
    "a?c",
    "*\\*b",
    "[[]*",
];

const RULES: &[&str] = &[
    "-", "-", "-", "+", "+", "P", "R", "H", "S", "-s", "-r", "+r", "+s", "-!", "-p", "Pp", "+!",
    "hide", "protect", "exclude", "include", "show,!", "-,sp",
];

/// A path and whether it is a directory.
type Tree = BTreeMap<RelPath, bool>;

fn tree(random: &mut Random) -> Tree {
    let mut tree = Tree::new();
    for _ in 0..8 + random.below(12) {
        let mut path = RelPath::root();
        for level in 0..3 {
            path = path.join(random.one(NAMES).as_bytes()).unwrap();
            let deeper = level < 2 && random.below(3) > 0;
            if tree.get(&path) == Some(&false) {
                break;
            }
            let is_dir = deeper || random.below(4) == 0 || tree.contains_key(&path);
            tree.insert(path.clone(), is_dir);
            if !is_dir {
                break;
            }
        }
    }
    tree
}

fn rule(random: &mut Random) -> String {
    let mut pattern = String::new();
    match random.below(9) {
        0..3 => pattern.push('/'),
        3 => pattern.push_str("**/"),
        _ => {}
    }
    pattern.push_str(random.one(PARTS));
    while random.below(3) == 0 {
        pattern.push('/');
        pattern.push_str(random.one(PARTS));
    }
    match random.below(6) {
        0 => pattern.push('/'),
        1 => pattern.push_str("/***"),
        2 => pattern.push_str("/**"),
        _ => {}
    }
    format!("{} {pattern}", random.one(RULES))
}

fn os(path: &RelPath) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn build(root: &Path, tree: &Tree, content: &str) {
    fs::create_dir(root).unwrap();
    for (path, is_dir) in tree {
        if *is_dir {
            fs::create_dir(root.join(os(path))).unwrap();
        } else {
            fs::write(root.join(os(path)), content).unwrap();
        }
    }
}

fn read(root: &Path, at: &RelPath, into: &mut BTreeMap<RelPath, Option<String>>) {
    use std::os::unix::ffi::OsStrExt;
    for entry in fs::read_dir(root.join(os(at))).unwrap() {
        let entry = entry.unwrap();
        let path = at.join(entry.file_name().as_bytes()).unwrap();
        if entry.file_type().unwrap().is_dir() {
            into.insert(path.clone(), None);
            read(root, &path, into);
        } else {
            into.insert(path.clone(), Some(fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// Deletes `path` and what is in it as far as the rules allow; true when nothing is left of it.
fn delete(filter: &Filter, path: &RelPath, target: &mut Tree) -> bool {
    let inside: Vec<RelPath> =
        target.keys().filter(|p| p.parent().as_ref() == Some(path)).cloned().collect();
    let mut empty = true;
    for child in inside {
        if filter.verdict(&child, target[&child]).deletable_with_dir {
            empty &= delete(filter, &child, target);
        } else {
            empty = false;
        }
    }
    if empty {
        target.remove(path);
    }
    empty
}

/// What a mirror by `filter` makes of the target: the names, and whether a file's content is ours.
fn mirrored(filter: &Filter, source: &Tree, target: &Tree) -> BTreeMap<RelPath, Option<String>> {
    let mut after = target.clone();
    let sent: Tree = source
        .iter()
        .filter(|(path, is_dir)| filter.verdict_deep(path, **is_dir).sent)
        .map(|(path, is_dir)| (path.clone(), *is_dir))
        .collect();
    // rsync looks for what is extra only in directories that it sends.
    let dirs: Vec<RelPath> = std::iter::once(RelPath::root())
        .chain(sent.iter().filter(|(_, d)| **d).map(|(p, _)| p.clone()))
        .collect();
    for (path, is_dir) in target {
        let parent = path.parent().unwrap();
        if dirs.contains(&parent)
            && !sent.contains_key(path)
            && after.contains_key(path)
            && filter.verdict(path, *is_dir).deletable
        {
            delete(filter, path, &mut after);
        }
    }
    let mut result: BTreeMap<_, _> = after
        .into_iter()
        .map(|(path, is_dir)| (path, (!is_dir).then(|| "old".to_owned())))
        .collect();
    for (path, is_dir) in sent {
        result.insert(path, (!is_dir).then(|| "new".to_owned()));
    }
    result
}

#[test]
fn the_rules_say_what_rsyncs_do() {
    if Command::new("rsync").arg("--version").output().is_err() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let mut random = Random(number("LSYNCD_TEST_SEED").unwrap_or(0x5eed_0f15));
    let cases = number("LSYNCD_TEST_CASES").unwrap_or(200);
    let (mut compared, mut held_back) = (0u64, 0u64);
    for case in 0..cases {
        let source = tree(&mut random);
        // What the target has already: some of the source's names, some of its own. Where both
        // have a name it has one kind, since a change of kind is not the filter's business.
        let mut target = tree(&mut random);
        let clash: Vec<RelPath> = target
            .iter()
            .filter(|(p, d)| source.get(*p).is_some_and(|s| s != *d))
            .map(|(p, _)| p.clone())
            .collect();
        target.retain(|path, _| !clash.iter().any(|c| path.is_at_or_under(c)));
        let rules: Vec<String> = (0..1 + random.below(4)).map(|_| rule(&mut random)).collect();
        let delete_excluded = random.below(4) == 0;
        let filter = Filter::parse(rules.iter().map(String::as_bytes))
            .unwrap()
            .delete_excluded(delete_excluded);

        let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
        build(&from, &source, "new");
        build(&to, &target, "old");
        let mut rsync = Command::new("rsync");
        rsync.arg("-rI").arg("--delete");
        if delete_excluded {
            rsync.arg("--delete-excluded");
        }
        rsync.args(rules.iter().map(|r| format!("--filter={r}")));
        let out = rsync.arg(from.join("")).arg(to.join("")).output().unwrap();
        let mut names = BTreeMap::new();
        read(&to, &RelPath::root(), &mut names);
        let ours = mirrored(&filter, &source, &target);
        assert_eq!(
            ours,
            names,
            "case {case}: {rules:?} delete-excluded {delete_excluded}\nsource {source:?}\ntarget {target:?}\nrsync: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        compared += names.len() as u64;
        held_back += source.keys().filter(|p| !names.contains_key(*p)).count() as u64;
        fs::remove_dir_all(&from).unwrap();
        fs::remove_dir_all(&to).unwrap();
    }
    assert!(
        compared > 10 * cases && held_back > 2 * cases,
        "{compared} names, {held_back} held back: too tame"
    );
}
