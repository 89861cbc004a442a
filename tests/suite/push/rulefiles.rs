//! Rules that stand in files of the directories that are mirrored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lsync_protocol::path::RelPath;
use lsyncd::filter::{Filter, Nothing};

use super::super::tree::{bytes, numbers};
use super::{Push, Stage, WAYS, Way, wait_until};

/// The names of the target's files, in order, without those of barriers.
fn files(stage: &Stage) -> Vec<String> {
    let tree = super::tree(&stage.target()).unwrap_or_default();
    let files = tree.iter().filter(|(_, thing)| thing.kind == 'f');
    let names = files.map(|(name, _)| String::from_utf8_lossy(name).into_owned());
    names.filter(|name| !name.starts_with("barrier")).collect()
}

#[track_caller]
fn wait_files(stage: &Stage, push: &Push, when: &str, expected: &[&str]) {
    let end = std::time::Instant::now() + super::PATIENCE;
    loop {
        let now = files(stage);
        if now == expected {
            return;
        }
        if std::time::Instant::now() > end {
            panic!("{when}: {now:?} instead of {expected:?}\n{}", push.said());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn plant(stage: &Stage, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = stage.s(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn a_directory_says_what_of_it_is_mirrored() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(
            &stage,
            &[
                (".rules", "- *.o\n- /top\nP theirs\n"),
                ("top", ""),
                ("a.o", ""),
                ("d/top", ""),
                ("d/.rules", "+ keep.o\n- e/\n"),
                ("d/keep.o", ""),
                ("d/b.o", ""),
                ("d/e/f", ""),
                ("d/g/h.o", ""),
                ("d/g/h", ""),
            ],
        );
        fs::create_dir_all(stage.t("d/e")).unwrap();
        for name in ["d/theirs", "d/x.o", "d/e/y", "d/extra"] {
            fs::write(stage.t(name), "").unwrap();
        }
        let words = ["--filter=: .rules"];
        stage.once(&words).fine();
        let mut expected =
            [".rules", "d/.rules", "d/e/y", "d/g/h", "d/keep.o", "d/theirs", "d/top", "d/x.o"];
        assert_eq!(files(&stage), expected, "{way:?}");
        // What is excluded falls; what is protected, and what an excluded directory holds that is
        // protected, does not.
        stage.once(&["--filter=:e .rules", "--delete-excluded"]).fine();
        let left = ["d/g/h", "d/keep.o", "d/theirs", "d/top"];
        assert_eq!(files(&stage), left, "{way:?}");
        stage.once(&words).fine();
        expected.sort_unstable();
        assert_eq!(files(&stage), [".rules", "d/.rules", "d/g/h", "d/keep.o", "d/theirs", "d/top"]);
    }
}

#[test]
fn a_file_of_rules_takes_effect_when_it_changes() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(
            &stage,
            &[("d/.rules", "- a\n"), ("d/a", "1"), ("d/b", "1"), ("d/s/a", "1"), ("d/s/b", "1")],
        );
        let push = stage.live(&["--filter=:e .rules"]);
        wait_files(&stage, &push, "at the start", &["d/b", "d/s/b"]);
        // Written in place: what is excluded from now on stays as it is.
        fs::write(stage.s("d/.rules"), "- b\n").unwrap();
        wait_files(&stage, &push, "rewritten", &["d/a", "d/b", "d/s/a", "d/s/b"]);
        fs::write(stage.s("d/s/b"), "22").unwrap();
        fs::write(stage.s("d/s/a"), "22").unwrap();
        stage.barrier();
        wait_until("what is mirrored now arrives", || fs::read(stage.t("d/s/a")).unwrap() == b"22");
        assert_eq!(fs::read(stage.t("d/s/b")).unwrap(), b"1");
        // Another file takes its place, which is not mirrored itself.
        fs::write(stage.s("d/new"), "").unwrap();
        fs::rename(stage.s("d/new"), stage.s("d/.rules")).unwrap();
        wait_until("b is mirrored again", || fs::read(stage.t("d/s/b")).unwrap() == b"22");
        // One appears deeper down, and is renamed away.
        fs::write(stage.s("d/s/.rules"), "- c\n").unwrap();
        stage.barrier();
        fs::write(stage.s("d/s/c"), "").unwrap();
        fs::write(stage.s("d/c"), "").unwrap();
        let without = ["d/a", "d/b", "d/c", "d/s/a", "d/s/b"];
        wait_files(&stage, &push, "beside a new one", &without);
        stage.barrier();
        assert_eq!(files(&stage), without);
        fs::rename(stage.s("d/s/.rules"), stage.s("elsewhere")).unwrap();
        let all = ["d/a", "d/b", "d/c", "d/s/a", "d/s/b", "d/s/c", "elsewhere"];
        wait_files(&stage, &push, "renamed away", &all);
        assert_eq!(push.events("problem").len(), 0, "{}", push.said());
        push.terminate();
    }
}

#[test]
fn rules_come_and_go_with_their_directory() {
    let stage = Stage::new(Way::Local);
    plant(&stage, &[("d/.rules", "- *.o\n"), ("d/a.o", ""), ("d/s/b.o", ""), ("d/s/b", "")]);
    plant(&stage, &[("keep", "")]);
    fs::create_dir_all(stage.path("outside/in")).unwrap();
    fs::write(stage.path("outside/.rules"), "- x\n+ *.o\n").unwrap();
    fs::write(stage.path("outside/in/x"), "").unwrap();
    fs::write(stage.path("outside/in/y"), "").unwrap();
    let push = stage.live(&["--filter=:e .rules"]);
    wait_files(&stage, &push, "at the start", &["d/s/b", "keep"]);
    fs::rename(stage.s("d"), stage.s("e")).unwrap();
    fs::write(stage.s("e/s/c.o"), "").unwrap();
    fs::write(stage.s("e/s/c"), "").unwrap();
    wait_files(&stage, &push, "renamed", &["e/s/b", "e/s/c", "keep"]);
    // Out of their reach.
    fs::rename(stage.s("e/s"), stage.s("s")).unwrap();
    wait_files(&stage, &push, "out", &["keep", "s/b", "s/b.o", "s/c", "s/c.o"]);
    fs::rename(stage.path("outside"), stage.s("o")).unwrap();
    let came = ["keep", "o/in/y", "s/b", "s/b.o", "s/c", "s/c.o"];
    wait_files(&stage, &push, "came in", &came);
    // Into their reach: what is excluded there is not brought, and what was there stays.
    fs::write(stage.s("n"), "").unwrap();
    wait_until("n arrives", || stage.t("n").exists());
    fs::rename(stage.s("n"), stage.s("o/in/x2")).unwrap();
    fs::rename(stage.s("s"), stage.s("o/s")).unwrap();
    let moved = ["keep", "o/in/x2", "o/in/y", "o/s/b", "o/s/b.o", "o/s/c", "o/s/c.o"];
    wait_files(&stage, &push, "moved in", &moved);
    fs::remove_dir_all(stage.s("o")).unwrap();
    wait_files(&stage, &push, "all gone", &["keep"]);
    push.terminate();
}

#[test]
fn rules_that_cannot_be_read_stop_their_directory_alone() {
    let stage = Stage::new(Way::Local);
    plant(&stage, &[("d/.rules", "- a\n"), ("d/a", "1"), ("d/b", "1"), ("e/f", "1")]);
    fs::create_dir_all(stage.t("d/s")).unwrap();
    fs::write(stage.t("d/s/extra"), "").unwrap();
    fs::write(stage.s("d/.rules"), "- a\nnonsense\n").unwrap();
    let ended = stage.once_plain(&["--filter=:e .rules"]);
    assert_eq!(ended.code, Some(23), "{ended:?}");
    let said = "bad filter rule 'nonsense' in d/.rules:2: it must begin with one of";
    assert!(ended.err.contains(said), "{ended:?}");
    assert_eq!(files(&stage), ["d/s/extra", "e/f"], "nothing is concluded from what is unknown");

    let push = stage.begin(&["--filter=:e .rules"]);
    push.wait_event("problem");
    fs::write(stage.s("d/.rules"), "- a\n").unwrap();
    push.wait_event("ready");
    wait_files(&stage, &push, "mended", &["d/b", "e/f"]);
    // The rules hold until it is known what became of them.
    fs::remove_file(stage.s("d/.rules")).unwrap();
    std::os::unix::fs::symlink("../rules", stage.s("d/.rules")).unwrap();
    let problems = push.events("problem").len();
    fs::write(stage.s("d/b"), "2").unwrap();
    push.wait_events("problem", problems + 1);
    fs::write(stage.s("e/f"), "2").unwrap();
    wait_until("the rest goes on", || fs::read(stage.t("e/f")).unwrap() == b"2");
    assert_eq!(files(&stage), ["d/b", "e/f"]);
    fs::remove_file(stage.s("d/.rules")).unwrap();
    wait_files(&stage, &push, "without", &["d/a", "d/b", "e/f"]);
    wait_until("b arrives", || fs::read(stage.t("d/b")).unwrap() == b"2");
    push.terminate();
}

#[test]
fn a_file_of_rules_that_an_editor_takes_away_for_a_moment_protects_meanwhile() {
    let stage = Stage::new(Way::Local);
    plant(&stage, &[("d/.rules", "P theirs\n"), ("d/a", "1")]);
    fs::create_dir_all(stage.t("d")).unwrap();
    fs::write(stage.t("d/theirs"), "").unwrap();
    let push = stage.live(&["--filter=: .rules"]);
    fs::rename(stage.s("d/.rules"), stage.s("d/.rules~")).unwrap();
    // Long enough for it to be heard of, and looked at.
    wait_until("the backup arrives", || stage.t("d/.rules~").exists());
    stage.barrier();
    fs::write(stage.s("d/.rules"), "P theirs\n- b\n").unwrap();
    wait_until("the new rules arrive", || stage.t("d/.rules").exists());
    fs::write(stage.s("d/b"), "").unwrap();
    stage.barrier();
    assert!(stage.t("d/theirs").exists() && !stage.t("d/b").exists(), "{}", push.said());
    // Gone for good.
    fs::remove_file(stage.s("d/.rules")).unwrap();
    wait_until("nothing is protected any more", || !stage.t("d/theirs").exists());
    wait_until("b arrives", || stage.t("d/b").exists());
    push.terminate();
}

#[test]
fn cvs_exclude_leaves_out_what_cvs_does() {
    let stage = Stage::new(Way::Local);
    plant(
        &stage,
        &[
            ("a.o", ""),
            ("a.c", ""),
            ("d/CVS/x", ""),
            ("d/.cvsignore", "one\ttwo*\n"),
            ("d/two2", ""),
        ],
    );
    plant(&stage, &[("d/s/two2", ""), ("mine", ""), ("var", ""), ("keep.o", "")]);
    fs::write(stage.path("home/.cvsignore"), "mine").unwrap();
    fs::create_dir_all(stage.t("old")).unwrap();
    fs::write(stage.t("old/b.o"), "").unwrap();
    fs::write(stage.t("b.o"), "").unwrap();
    let mut command = stage.command(&["--json", "-C", "--include=keep.o"]);
    command.env("CVSIGNORE", "var");
    let push = Push::start(command);
    push.wait_event("ready");
    let start = ["a.c", "b.o", "d/.cvsignore", "d/s/two2", "keep.o"];
    wait_files(&stage, &push, "at the start", &start);
    assert!(!stage.t("old").exists(), "CVS' own list falls with the directory");
    fs::write(stage.s("d/.cvsignore"), "! one").unwrap();
    let now = ["a.c", "b.o", "d/.cvsignore", "d/s/two2", "d/two2", "keep.o"];
    wait_files(&stage, &push, "rewritten", &now);
    push.terminate();
}

#[test]
fn rules_above_the_source_count_from_there() {
    let stage = Stage::new(Way::Local);
    plant(&stage, &[("a", ""), ("b", ""), ("c/a", ""), ("c/.up", "+ c\n"), ("c/c", ""), ("d", "")]);
    fs::write(stage.path(".up"), "- /source/a\n- /b\n- c\n- d\n").unwrap();
    fs::write(stage.path("source/.up"), "+ c/\n").unwrap();
    stage.once(&["--filter=:e /.up"]).fine();
    assert_eq!(files(&stage), ["b", "c/a", "c/c"]);
}

#[test]
fn names_of_directories_are_no_patterns() {
    let stage = Stage::new(Way::Local);
    let odd = bytes(b"[a]*");
    fs::create_dir(stage.s(odd)).unwrap();
    fs::write(stage.s(odd).join(".rules"), "- /x\n").unwrap();
    fs::write(stage.s(odd).join("x"), "").unwrap();
    fs::write(stage.s(odd).join("y"), "").unwrap();
    stage.once(&["--filter=:e .rules"]).fine();
    assert_eq!(files(&stage), ["[a]*/y"]);
}

/// The names beneath a directory and whether they are directories, a directory before what is in it.
fn names(root: &Path) -> BTreeMap<PathBuf, bool> {
    let tree = super::tree(root).unwrap();
    let name = |name: &[u8]| Path::new(bytes(name)).to_owned();
    let all = tree.iter().map(|(path, thing)| (name(path), thing.kind == 'd'));
    all.filter(|(path, _)| !path.as_os_str().is_empty()).collect()
}

/// Makes random files and directories, none of another kind than `beside` has under the name.
fn grow(root: &Path, beside: &Path, next: &mut impl FnMut(usize) -> usize) {
    const NAMES: [&str; 6] = ["a", "b", "c", "a.o", "b.o", "d-1"];
    fs::create_dir_all(root).unwrap();
    for _ in 0..30 {
        let mut path = PathBuf::new();
        for level in 0..4 {
            path.push(NAMES[next(NAMES.len())]);
            let (here, there) = (root.join(&path), beside.join(&path));
            if here.is_file() || there.is_file() {
                if !here.exists() {
                    fs::write(here, "").unwrap();
                }
                break;
            }
            let may_be_file = !here.exists() && !there.exists();
            if may_be_file && (level == 3 || next(3) == 0) {
                fs::write(here, "").unwrap();
                break;
            }
            fs::create_dir_all(here).unwrap();
        }
    }
}

/// Random trees with rules in their directories, mirrored by the program and by rsync itself.
#[test]
fn the_program_leaves_what_rsync_does() {
    const RULES: [&str; 14] = [
        "- *.o", "- a", "+ a.o", "- /b", "P b", "- d-1/", "H c", "R a.o", "-p *.o", "- a/*",
        "- **/c", "S *", "!", "-! */",
    ];
    const MERGES: [&str; 5] = [": .rules", ":e .rules", ":n .rules", ":p .rules", ": /.rules"];
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let mut next = numbers(number("LSYNCD_TEST_SEED").unwrap_or(0x5eed));
    let rounds = number("LSYNCD_TEST_CASES").map_or(25, |cases| cases / 40);
    let (mut deleted, mut spared) = (0, 0);
    for round in 0..rounds {
        let stage = Stage::new(Way::Local);
        let mut words = Vec::new();
        if next(2) == 0 {
            words.push(format!("--filter={}", RULES[next(12)]));
        }
        words.push(format!("--filter={}", MERGES[next(MERGES.len())]));
        for (option, one_in) in [("--delete-excluded", 3), ("-C", 3)] {
            if next(one_in) == 0 {
                words.push(option.to_owned());
            }
        }
        grow(&stage.source(), &stage.target(), &mut next);
        grow(&stage.target(), &stage.source(), &mut next);
        let mut filter = Filter::default();
        for word in &words {
            match word.strip_prefix("--filter=") {
                Some(rule) => filter.add_rule(rule.replace(": /", ": ").as_bytes()).unwrap(),
                None if word == "-C" => filter.add_cvs(&mut Nothing).unwrap(),
                None => {}
            }
        }
        // The rules are on the target already: rsync's receiver reads them there, also in what is
        // excluded and goes with all that is in it, where we ask nothing.
        let mut dirs: Vec<PathBuf> = vec![PathBuf::new()];
        dirs.extend(names(&stage.source()).into_iter().filter(|(_, dir)| *dir).map(|(p, _)| p));
        for dir in dirs {
            let path = RelPath::new(dir.as_os_str().as_encoded_bytes()).unwrap();
            if next(if path.is_root() { 2 } else { 4 }) > 0
                || !filter.verdict_deep(&path, true).sent
            {
                continue;
            }
            let lines: Vec<&str> = (0..1 + next(3)).map(|_| RULES[next(RULES.len())]).collect();
            let text = lines.join("\n");
            for root in [stage.source(), stage.target()] {
                if root.join(&dir).is_dir() {
                    fs::write(root.join(&dir).join(".rules"), &text).unwrap();
                }
            }
            let text = |name: &[u8]| (name == b".rules").then_some(text.as_bytes());
            filter.learn(&path, filter.compile(&path, text).unwrap());
        }
        let other = stage.path("by-rsync");
        super::sh(&stage.path(""), "cp -a target by-rsync");
        let before = names(&stage.target());
        let given: Vec<&str> = words.iter().map(String::as_str).collect();
        stage.once(&[&given[..], &["--allow-empty"]].concat()).fine();
        let mut rsync = Command::new("rsync");
        rsync.args(["-rI", "--delete"]).args(&words).env("HOME", stage.path("home"));
        rsync.arg(stage.s("")).arg(other.join(""));
        super::super::world::run(&mut rsync);
        let (ours, theirs) = (names(&stage.target()), names(&other));
        let source = names(&stage.source());
        assert_eq!(
            ours, theirs,
            "round {round}: {words:?}\nsource {source:#?}\ntarget {before:#?}"
        );
        deleted += before.keys().filter(|name| !ours.contains_key(*name)).count();
        spared += ours.keys().filter(|name| !source.contains_key(*name)).count();
    }
    let enough = usize::try_from(rounds * 4).unwrap();
    assert!(deleted > enough && spared > enough, "{deleted} deleted, {spared} spared: too tame");
}

/// What a start would change now, tried on a copy of the target. What it cannot change is a problem
/// of both.
fn would(stage: &Stage, words: &[&str]) -> String {
    let copy = stage.path("copy");
    let _ = fs::remove_dir_all(&copy);
    let copied =
        Command::new("cp").arg("-a").args([stage.target(), copy.clone()]).output().unwrap();
    if !copied.status.success() {
        return "it still changes".to_owned();
    }
    let mut start = stage.lsyncd();
    start.arg("push").args(words).args(["--once", "--allow-empty"]).arg(stage.source()).arg(&copy);
    let ended = start.output().unwrap();
    assert!([Some(0), Some(23)].contains(&ended.status.code()), "{ended:?}");
    let tree = |at: &Path| super::tree(at).unwrap_or_default();
    super::super::tree::differences(&tree(&copy), &tree(&stage.target()))
}

/// Random changes of a tree and of the rules in it.
#[test]
fn what_rules_say_live_is_what_they_say_at_a_start() {
    const RULES: [&str; 11] =
        ["- *.o", "- a", "+ a.o", "- /b", "P b", "- d-1/", "H c", "R a.o", "- a/*", "- **/c", "!"];
    const NAMES: [&str; 6] = ["a", "b", "c", "a.o", "b.o", "d-1"];
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("LSYNCD_TEST_SEED").unwrap_or(1);
    let last = first + number("LSYNCD_TEST_CASES").map_or(3, |cases| cases / 40);
    for seed in first..last {
        let mut next = numbers(0x9e37_79b9 * seed);
        let stage = Stage::new(Way::Local);
        grow(&stage.source(), &stage.target(), &mut next);
        let merge = [": .rules", ":e .rules", ":n .rules"][next(3)];
        let words = [format!("--filter={merge}"), "--max-delete=100000".to_owned()];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let push = stage.live(&[&words[..], &["--allow-empty"]].concat());
        let mut told = String::new();
        for _ in 0..12 {
            for _ in 0..1 + next(6) {
                let dirs: Vec<PathBuf> = std::iter::once(PathBuf::new())
                    .chain(
                        names(&stage.source()).into_iter().filter(|(_, dir)| *dir).map(|(p, _)| p),
                    )
                    .collect();
                let dir = dirs[next(dirs.len())].clone();
                let (name, there) = (NAMES[next(6)], stage.s(&dir));
                let rules = there.join(".rules");
                let free = there.join(name);
                match next(10) {
                    0..3 => {
                        let lines: Vec<&str> =
                            (0..1 + next(3)).map(|_| RULES[next(RULES.len())]).collect();
                        told += &format!("rules of {dir:?}: {lines:?}\n");
                        fs::write(rules, lines.join("\n")).unwrap();
                    }
                    3 if rules.exists() => {
                        told += &format!("no rules of {dir:?}\n");
                        fs::remove_file(rules).unwrap();
                    }
                    4 if rules.exists() => {
                        let to = stage.s(&dirs[next(dirs.len())]).join(".rules");
                        told += &format!("rules of {dir:?} to {to:?}\n");
                        fs::rename(rules, to).unwrap();
                    }
                    5 if !dir.as_os_str().is_empty() => {
                        told += &format!("rm -r {dir:?}\n");
                        fs::remove_dir_all(there).unwrap();
                    }
                    6 | 7 if !dir.as_os_str().is_empty() => {
                        let to = stage.s(&dirs[next(dirs.len())]).join(name);
                        if !to.exists() && !to.starts_with(&there) {
                            told += &format!("mv {dir:?} {to:?}\n");
                            fs::rename(there, to).unwrap();
                        }
                    }
                    8 if !free.exists() => {
                        told += &format!("mkdir {free:?}\n");
                        fs::create_dir_all(free.join(NAMES[next(6)])).unwrap();
                    }
                    _ if free.is_file() => {
                        told += &format!("rm {free:?}\n");
                        fs::remove_file(free).unwrap();
                    }
                    _ if !free.exists() => {
                        told += &format!("write {free:?}\n");
                        fs::write(free, "").unwrap();
                    }
                    _ => {}
                }
            }
            std::thread::sleep(std::time::Duration::from_millis([0, 0, 3, 30, 300, 1200][next(6)]));
            told += "--\n";
        }
        let end = std::time::Instant::now() + super::PATIENCE;
        loop {
            let left = would(&stage, &words);
            if left.is_empty() {
                break;
            }
            if std::time::Instant::now() > end {
                panic!(
                    "seed {seed} {merge}: a start would\n{left}\nafter\n{told}\n{}",
                    push.said()
                );
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        push.terminate();
    }
}
