//! `lsyncd why`: what it says of a path is what the mirror does with it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use super::{Stage, Way, program};

/// The answers about these paths, by name.
fn asked(stage: &Stage, words: &[&str], paths: &[String]) -> Vec<Value> {
    let mut command = program(&stage.path("home"));
    command.args(["why", "--json"]).args(words).arg(stage.source()).args(paths);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), paths.len());
    answers
}

fn said(stage: &Stage, cwd: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = program(&stage.path("home"));
    let output = command.current_dir(cwd).arg("why").args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The names beneath a directory.
fn names(root: &Path) -> BTreeSet<String> {
    let tree = super::super::tree::tree(root).unwrap();
    tree.into_keys()
        .filter_map(|name| String::from_utf8(name).ok())
        .filter(|n| !n.is_empty())
        .collect()
}

const FILES: [&str; 12] = [
    "a.c",
    "a.o",
    "core",
    "keep.o",
    "build/out",
    "build/deep/out",
    "src/b.c",
    "src/b.o",
    "src/tmp/x",
    "docs/index",
    "docs/old/index",
    "big",
];

fn plant(root: &Path) {
    for name in FILES {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let size = if name == "big" { 5000 } else { 10 };
        fs::write(path, vec![b'x'; size]).unwrap();
    }
}

#[test]
fn what_it_says_is_what_the_mirror_does() {
    let table: [&[&str]; 11] = [
        &[],
        &["--exclude=*.o"],
        &["--include=keep.o", "--exclude=*.o", "--exclude=/build/", "--max-size=1K"],
        &["--include=/src/***", "--include=/docs/", "--exclude=*"],
        &["--filter=P *.o", "--filter=H docs/", "--filter=R /docs/old"],
        &["--filter=H *.o", "--filter=- build/deep", "--filter=P a*"],
        &["--exclude=build", "--delete-excluded"],
        &["--filter=: .rules"],
        &["--filter=:n- .rules", "--exclude=core"],
        &["-C"],
        &["--filter=-! */", "--filter=-p /docs/"],
    ];
    for words in table {
        let stage = Stage::new(Way::Local);
        plant(&stage.source());
        symlink("a.c", stage.s("link")).unwrap();
        fs::write(stage.s(".rules"), "- *.o\n+ /docs/\n").unwrap();
        fs::write(stage.s("docs/.rules"), "- old\nP more\n").unwrap();
        fs::write(stage.s("docs/.cvsignore"), "index\n").unwrap();
        // What only the target has, and what both have.
        plant(&stage.target());
        for dir in ["", "build", "docs", "docs/old", "extra", "src/tmp"] {
            let dir = stage.t(dir);
            fs::create_dir_all(&dir).unwrap();
            for name in ["more", "more.o", "a.more"] {
                fs::write(dir.join(name), "more").unwrap();
            }
        }
        let (here, before) = (names(&stage.source()), names(&stage.target()));
        stage.once(words).fine();
        let after = names(&stage.target());
        let mine: Vec<String> = here.iter().cloned().collect();
        for (name, answer) in mine.iter().zip(asked(&stage, words, &mine)) {
            let brought = after.contains(name);
            if answer["mirrored"] == true || !before.contains(name) {
                assert_eq!(answer["mirrored"], brought, "{words:?} {answer}");
            }
        }
        let theirs = before.iter().filter(|name| !mine.contains(name));
        let is_dir =
            |name: &String| stage.t(name).is_dir() || !after.contains(name) && name == "extra";
        let theirs: Vec<String> = theirs.cloned().collect();
        let ask: Vec<String> =
            theirs.iter().map(|n| if is_dir(n) { format!("{n}/") } else { n.clone() }).collect();
        for (name, answer) in theirs.iter().zip(asked(&stage, words, &ask)) {
            let stays = after.contains(name);
            // A directory stays for what is kept in it.
            if !stage.t(name).is_dir() {
                let dir = name.rsplit_once('/').is_none_or(|(dir, _)| here.contains(dir));
                let says = if dir { "deletable" } else { "goes_with_directory" };
                assert_eq!(answer[says], !stays, "{words:?} {answer}");
            }
        }
    }
}

#[test]
fn it_names_the_rule_and_where_it_stands() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    fs::write(stage.s("docs/.rules"), "# ours\n- old/\n").unwrap();
    let source = stage.source();
    let source = source.to_str().unwrap();
    let rules = [
        "--include=keep.o",
        "--exclude=*.o",
        "--filter=: .rules",
        "--filter=P /gone",
        "--filter=-p *.bak",
        "-x",
    ];
    let ask = |cwd: &Path, paths: &[&str]| {
        said(&stage, cwd, &[&rules[..], &["--max-size=1K", source], paths].concat())
    };
    let outside = stage.path("");
    for (path, expected) in [
        ("a.c", "a.c: mirrored\n  no rule excludes it\n"),
        ("keep.o", "keep.o: mirrored\n  included by '+ keep.o' (--include)\n"),
        (
            "src/b.o",
            "src/b.o: not mirrored\n  excluded by '- *.o' (--exclude)\n  on the target: left alone\n",
        ),
        (
            "docs/old/index",
            "docs/old/index: not mirrored\n  docs/old/ is excluded by '- old/' (docs/.rules:2)\n  \
             on the target: left alone\n",
        ),
        (
            "big",
            "big: not mirrored\n  its 5000 bytes are more than the 1024 of --max-size\n  \
             on the target: left alone\n",
        ),
        (
            "no/such/",
            "no/such/: not there; would be mirrored\n  no rule excludes it\n  \
             on the target: deleted if it is there\n",
        ),
        (
            "gone",
            "gone: not there; would be mirrored\n  no rule excludes it\n  \
             on the target: left alone, by 'P /gone' (--filter)\n",
        ),
        (
            ".lsync-00000001-00000002",
            ".lsync-00000001-00000002: not there; would not be mirrored\n  \
             it is a temporary name of lsyncd's own\n  on the target: left alone\n",
        ),
        (
            "docs/x.bak",
            "docs/x.bak: not there; would not be mirrored\n  excluded by '-p *.bak' (--filter)\n  \
             on the target: left alone, unless its directory is deleted\n",
        ),
        (".", "the source itself: mirrored\n  no rule excludes it\n"),
    ] {
        assert_eq!(ask(&outside, &[path]), (Some(0), expected.to_owned()), "{path}");
    }
    // By its whole path, from where one is, and by another way there.
    symlink(source, stage.path("way")).unwrap();
    let whole = format!("{source}/src/b.c");
    let way = stage.path("way/src/b.c");
    for (cwd, path) in [
        (outside.clone(), &*whole),
        (stage.s("src"), "b.c"),
        (stage.s("src/tmp"), "../b.c"),
        (stage.s("docs"), "src/b.c"),
        (outside.clone(), way.to_str().unwrap()),
    ] {
        let expected = "src/b.c: mirrored\n  no rule excludes it\n";
        // Where it leads beneath the source from here, that is meant.
        let expected = if path == "src/b.c" {
            "docs/src/b.c: not there; would be mirrored\n  no rule excludes it\n  \
             on the target: deleted if it is there\n"
        } else {
            expected
        };
        assert_eq!(ask(&cwd, &[path]), (Some(0), expected.to_owned()), "{path}");
    }
    let (code, text) = ask(&outside, &["/elsewhere"]);
    assert_eq!(code, Some(2));
    assert!(text.contains(&format!("/elsewhere is not beneath the source {source}")), "{text}");
    // Rules that cannot be understood are no answer about what they are of.
    fs::write(stage.s("docs/.rules"), "nonsense\n").unwrap();
    let (code, text) = ask(&outside, &["docs/index", "a.c"]);
    assert_eq!(code, Some(0));
    assert!(
        text.starts_with("docs/index: not mirrored\n") && text.contains("cannot be judged"),
        "{text}"
    );
    assert!(text.ends_with("a.c: mirrored\n  no rule excludes it\n"), "{text}");
    let odd = std::ffi::OsStr::from_bytes(b"od\xffd");
    fs::write(stage.source().join(odd), "").unwrap();
    let mut command = program(&stage.path("home"));
    let output = command.args(["why", "--json", source]).arg(odd).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["path"], serde_json::json!({"base64": "b2T/ZA=="}));
    assert_eq!((&answer["kind"], &answer["mirrored"]), (&"file".into(), &true.into()));
}
