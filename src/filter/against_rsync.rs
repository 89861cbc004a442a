//! The rules held against the real rsync: random trees and rules, mirrored by rsync, and the
//! names that are there afterwards compared with what [`Filter`] says. Skipped where no rsync is.
//!
//! One rsync mirrors many trees side by side: each has rules in files of its own directories, and
//! all have those of the command line. `LSYNCD_TEST_CASES` says how many trees, `LSYNCD_TEST_SEED`
//! where to begin.

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

/// How the files of a `dir-merge` are read, and what they may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Rules of all kinds.
    Rules,
    /// Rules that name no side, since the one that reads them does.
    OneSide,
    /// A pattern a line.
    Patterns,
    /// Patterns as words; this clears.
    Words,
}

const MERGES: &[(&str, Reads)] = &[
    (":", Reads::Rules),
    (":", Reads::Rules),
    (":n", Reads::Rules),
    (":e", Reads::Rules),
    ("dir-merge,p", Reads::Rules),
    (":s", Reads::OneSide),
    (":r", Reads::OneSide),
    (":sr", Reads::OneSide),
    (":-", Reads::Patterns),
    (":+n", Reads::Patterns),
    (":-r", Reads::Patterns),
    (":C", Reads::Words),
    (":sC", Reads::Words),
];

/// The names of the files of rules in directories.
const FILES: [&str; 2] = [".r", ".s"];

/// How many trees one rsync mirrors.
const TREES: u64 = 40;

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

fn pattern(random: &mut Random) -> String {
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
    pattern
}

fn rule(random: &mut Random) -> String {
    format!("{} {}", random.one(RULES), pattern(random))
}

/// What a file of rules holds.
fn text(random: &mut Random, reads: Reads) -> String {
    let mut text = String::new();
    for _ in 0..1 + random.below(3) {
        let clears = reads != Reads::Patterns && random.below(12) == 0;
        match (reads, random.below(12)) {
            _ if clears => text.push('!'),
            (Reads::Words, _) => text += &pattern(random),
            (_, 0) => text += random.one(&["# - *", "; - *", ""]),
            (Reads::Rules, _) => text += &rule(random),
            (Reads::OneSide, _) => {
                let kind = random.one(&["-", "-", "+", "-!", "-p", "exclude", "include,!"]);
                text += &format!("{kind} {}", pattern(random));
            }
            (Reads::Patterns, _) => text += &pattern(random),
        }
        text += match reads {
            Reads::Words => random.one(&[" ", "\n", "\t "]),
            _ => random.one(&["\n", "\n", "\r\n"]),
        };
    }
    text
}

fn os(path: &RelPath) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()))
}

fn is_rules(path: &RelPath) -> bool {
    FILES.iter().any(|name| path.name() == Some(name.as_bytes()))
}

/// What files of rules hold.
type Texts = BTreeMap<RelPath, String>;

fn build(root: &Path, tree: &Tree, texts: &Texts, content: &str) {
    fs::create_dir(root).unwrap();
    for (path, is_dir) in tree {
        let to = root.join(os(path));
        match is_dir {
            true => fs::create_dir(to).unwrap(),
            false => fs::write(to, texts.get(path).map_or(content, String::as_str)).unwrap(),
        }
    }
}

/// The names of a tree, and whose each file is; files of rules are the same on both sides.
type Names = BTreeMap<RelPath, Option<String>>;

fn read(root: &Path, at: &RelPath, into: &mut Names) {
    use std::os::unix::ffi::OsStrExt;
    for entry in fs::read_dir(root.join(os(at))).unwrap() {
        let entry = entry.unwrap();
        let path = at.join(entry.file_name().as_bytes()).unwrap();
        if entry.file_type().unwrap().is_dir() {
            into.insert(path.clone(), None);
            read(root, &path, into);
        } else {
            let rules = is_rules(&path);
            let whose = fs::read_to_string(entry.path()).unwrap();
            into.insert(path, Some(if rules { "rules".to_owned() } else { whose }));
        }
    }
}

/// Deletes `path` and what is in it as far as the rules allow; true when nothing is left of it.
fn delete(filter: &Filter, path: &RelPath, target: &mut Tree) -> bool {
    let inside: Vec<RelPath> = target
        .range(path.clone()..)
        .map(|(inner, _)| inner)
        .skip(1)
        .take_while(|inner| inner.is_under(path))
        .filter(|inner| inner.parent().as_ref() == Some(path))
        .cloned()
        .collect();
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

/// What a mirror by `filter` makes of the target.
fn mirrored(filter: &Filter, source: &Tree, target: &Tree) -> Names {
    let mut after = target.clone();
    let sent: Tree = source
        .iter()
        .filter(|(path, is_dir)| filter.verdict_deep(path, **is_dir).sent)
        .map(|(path, is_dir)| (path.clone(), *is_dir))
        .collect();
    for (path, is_dir) in target {
        // rsync looks for what is extra only in directories that it sends.
        let parent = path.parent().unwrap();
        if (parent.is_root() || sent.get(&parent) == Some(&true))
            && !sent.contains_key(path)
            && after.contains_key(path)
            && filter.verdict(path, *is_dir).deletable
        {
            delete(filter, path, &mut after);
        }
    }
    let whose = |path: &RelPath, whose: &str| {
        if is_rules(path) { "rules".to_owned() } else { whose.to_owned() }
    };
    let old = after.into_iter().map(|(path, is_dir)| {
        let whose = (!is_dir).then(|| whose(&path, "old"));
        (path, whose)
    });
    let mut result: Names = old.collect();
    result.extend(sent.into_iter().map(|(path, is_dir)| {
        let whose = (!is_dir).then(|| whose(&path, "new"));
        (path, whose)
    }));
    result
}

/// What the command line says: rsync's words, and the same to us.
struct Given {
    words: Vec<String>,
    filter: Filter,
    /// How the files of rules are read, as far as there are any.
    reads: Vec<(&'static str, Reads)>,
    cvsignore: String,
}

/// Files beside the source, and what is in the environment.
struct World<'a> {
    dir: &'a Path,
    cvsignore: &'a str,
}

impl Outside for World<'_> {
    fn file(&mut self, name: &[u8]) -> Result<Vec<u8>, String> {
        Ok(fs::read(self.dir.join(std::str::from_utf8(name).unwrap())).unwrap())
    }

    fn cvs(&mut self) -> Result<CvsIgnore, String> {
        let home = fs::read(self.dir.join(".cvsignore")).unwrap();
        let variable = Some(self.cvsignore.into());
        Ok(CvsIgnore { home: Some((b".cvsignore".to_vec(), home)), variable })
    }

    fn above(&mut self, name: &[u8]) -> Result<Vec<Above>, String> {
        let content = fs::read(self.dir.join(std::str::from_utf8(name).unwrap())).unwrap();
        let end = self.dir.as_os_str().len();
        Ok(vec![Above { name: name.into(), end, content }])
    }
}

fn given(random: &mut Random, dir: &Path) -> Given {
    let cvsignore = text(random, Reads::Words);
    let mut world = World { dir, cvsignore: &cvsignore };
    let mut words = Vec::new();
    let mut filter = Filter::default();
    let mut reads = Vec::new();
    let mut add = |rule: &str| {
        filter.read_rule(rule.as_bytes(), &Origin::given("--filter"), &mut world).unwrap();
        words.push(format!("--filter={rule}"));
    };
    // Whatever else they say, there are trees.
    add("+ /@*/");
    for name in FILES {
        if random.below(3) == 0 {
            add(&rule(random));
        }
        match random.below(10) {
            0 => add("-C"),
            // From a file beside the source, which may clear all rules before it.
            1 => {
                fs::write(dir.join(format!("more{name}")), text(random, Reads::Rules)).unwrap();
                add(&format!("merge more{name}"));
            }
            2 => {
                fs::write(dir.join(format!("more{name}")), text(random, Reads::Patterns)).unwrap();
                add(&format!("{} more{name}", random.one(&[".-", ".-sr", ".+", ".-e"])));
            }
            _ => {}
        }
        if random.below(8) > 0 {
            let (merge, how) = MERGES[random.below(MERGES.len())];
            // Seldom with the files above the source.
            let up = random.below(4) == 0;
            fs::write(dir.join(name), if up { text(random, how) } else { String::new() }).unwrap();
            add(&format!("{merge} {}{name}", if up { "/" } else { "" }));
            reads.push((name, how));
        }
        if random.below(3) == 0 {
            add(&rule(random));
        }
    }
    if random.below(6) == 0 {
        let content = text(random, Reads::Patterns) + random.one(&["", "- a\n", "+ b\n", "!\n"]);
        let include = random.below(3) == 0;
        fs::write(dir.join("list"), &content).unwrap();
        filter.add_file(content.as_bytes(), include, &Origin::given("list")).unwrap();
        words.push(format!("--{}-from=list", if include { "include" } else { "exclude" }));
    }
    if random.below(8) == 0 {
        filter.add_cvs(&mut world).unwrap();
        words.push("-C".to_owned());
    }
    // What a file has cleared is not read.
    let names = filter.rule_files();
    reads.retain(|(name, _)| names.contains(&name.as_bytes()));
    if random.below(4) == 0 {
        filter = filter.delete_excluded(true);
        words.push("--delete-excluded".to_owned());
    }
    Given { words, filter, reads, cvsignore }
}

/// A tree beneath a directory of its own.
fn planted(tree: Tree, at: &RelPath, into: &mut Tree) {
    into.insert(at.clone(), true);
    for (path, is_dir) in tree {
        into.insert(path.moved(&RelPath::root(), at).unwrap(), is_dir);
    }
}

/// One rsync with many trees; what differs.
fn one_run(random: &mut Random, scratch: &Path, run: u64, counts: &mut Counts) {
    let dir = scratch.join(run.to_string());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(".cvsignore"), text(random, Reads::Words)).unwrap();
    let Given { words, filter, reads, cvsignore } = given(random, &dir);
    // Alike to all patterns: what is above the target is above it to rsync's receiver.
    let (from, to) = (dir.join("s"), dir.join("t"));
    let filter = filter.at_root(from.as_os_str().as_encoded_bytes());
    let (mut source, mut target) = (Tree::new(), Tree::new());
    for case in 0..TREES {
        let at = RelPath::new(format!("@{case}").as_bytes()).unwrap();
        planted(tree(random), &at, &mut source);
        // What the target has already: some of the source's names, some of its own. Where both
        // have a name it has one kind, since a change of kind is not the filter's business.
        planted(tree(random), &at, &mut target);
    }
    let clash: Vec<RelPath> = target
        .iter()
        .filter(|(p, d)| source.get(*p).is_some_and(|s| s != *d))
        .map(|(p, _)| p.clone())
        .collect();
    target.retain(|path, _| !clash.iter().any(|c| path.is_at_or_under(c)));
    // rsync's receiver reads the target's copies of the files of rules, as they were brought there
    // before. It takes the name of a directory for a pattern: such ones have no files of rules.
    let mut texts = Texts::new();
    let dirs: Vec<RelPath> =
        source.iter().filter(|(_, is_dir)| **is_dir).map(|(path, _)| path.clone()).collect();
    for path in dirs {
        let odd = path.as_bytes().iter().any(|b| b"[*?\\".contains(b));
        if odd || !filter.verdict_deep(&path, true).sent {
            continue;
        }
        for (name, how) in &reads {
            if random.below(if path.depth() == 1 { 2 } else { 5 }) == 0 {
                let file = path.join(name.as_bytes()).unwrap();
                source.insert(file.clone(), false);
                if target.get(&path) == Some(&true) {
                    target.insert(file.clone(), false);
                }
                texts.insert(file, text(random, *how));
            }
        }
        let of = |name: &[u8]| Some(texts.get(&path.join(name).ok()?)?.as_bytes());
        filter.learn(&path, filter.compile(&path, of).unwrap());
    }
    build(&from, &source, &texts, "new");
    build(&to, &target, &texts, "old");
    let mut rsync = Command::new("rsync");
    rsync.arg("-rI").arg("--delete").args(&words).args(["s/", "t/"]);
    let out = rsync.current_dir(&dir).env("HOME", &dir).env("CVSIGNORE", &cvsignore).output();
    let out = out.unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{words:?}: {said}");
    let mut names = Names::new();
    read(&to, &RelPath::root(), &mut names);
    let ours = mirrored(&filter, &source, &target);
    if ours != names {
        let all = ours.keys().chain(names.keys());
        let first = all.filter(|path| ours.get(*path) != names.get(*path)).min().unwrap();
        let top = first.as_bytes().split(|&b| b == b'/').next().unwrap();
        let near = |path: &&RelPath| path.as_bytes().split(|&b| b == b'/').next() == Some(top);
        panic!(
            "run {run}: {first} is {:?} to us and {:?} to rsync: {:?}\n{words:?} CVSIGNORE {cvsignore:?}\n{:#?}\nsource {:?}\ntarget {:?}\n{said}",
            ours.get(first),
            names.get(first),
            filter.decision(first, source.get(first).or(target.get(first)) == Some(&true)),
            texts.iter().filter(|(path, _)| near(path)).collect::<Vec<_>>(),
            source.keys().filter(near).collect::<Vec<_>>(),
            target.keys().filter(near).collect::<Vec<_>>(),
        );
    }
    counts.compared += names.len() as u64;
    counts.held_back += source.keys().filter(|p| !names.contains_key(*p)).count() as u64;
    counts.deleted += target.keys().filter(|p| !names.contains_key(*p)).count() as u64;
    let only_there = |path: &&RelPath| !source.contains_key(*path) && names.contains_key(*path);
    counts.spared += target.keys().filter(only_there).count() as u64;
    fs::remove_dir_all(&dir).unwrap();
}

#[derive(Default)]
struct Counts {
    compared: u64,
    held_back: u64,
    deleted: u64,
    spared: u64,
}

#[test]
fn the_rules_say_what_rsyncs_do() {
    if Command::new("rsync").arg("--version").output().is_err() {
        return;
    }
    // In memory, where there is such a place: the time goes into many small files.
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let mut random = Random(number("LSYNCD_TEST_SEED").unwrap_or(0x5eed_0f15));
    let cases = number("LSYNCD_TEST_CASES").unwrap_or(1000);
    let mut counts = Counts::default();
    for run in 0..cases.div_ceil(TREES) {
        one_run(&mut random, scratch.path(), run, &mut counts);
    }
    let Counts { compared, held_back, deleted, spared } = counts;
    assert!(
        compared > 10 * cases && held_back > 2 * cases && deleted > cases && spared > cases,
        "{compared} names, {held_back} held back, {deleted} deleted, {spared} spared: too tame"
    );
}
