//! Rules that stand in files of the directories that are mirrored.

use std::fs;

use super::super::tree::bytes;
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
