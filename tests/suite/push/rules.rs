//! What is mirrored, by rules and sizes, and what is deleted when.

use std::fs;

use super::super::tree::noise;
use super::{Stage, WAYS, Way};

fn garden(stage: &Stage) {
    for dir in ["src", "build/deep", "docs"] {
        fs::create_dir_all(stage.s(dir)).unwrap();
    }
    for (name, size) in [
        ("src/a.c", 10),
        ("src/a.o", 10),
        ("src/keep.o", 10),
        ("build/out", 10),
        ("build/deep/out", 10),
        ("docs/index", 10),
        ("big", 5000),
    ] {
        fs::write(stage.s(name), noise(1, size)).unwrap();
    }
}

/// The names of a target's files, in order.
fn files(stage: &Stage) -> Vec<String> {
    // What vanishes while it is read is asked for again.
    let tree = super::tree(&stage.target()).unwrap_or_default();
    let files = tree.iter().filter(|(_, thing)| thing.kind == 'f');
    files.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn rules_choose_what_is_mirrored_at_the_start_and_live() {
    for way in WAYS {
        let stage = Stage::new(way);
        garden(&stage);
        let list = stage.path("excluded");
        fs::write(&list, "# a comment\n; another\n\n/big\n").unwrap();
        let from = format!("--exclude-from={}", list.display());
        let words = ["--include=keep.o", "--exclude=*.o", "--filter=- /build/", &from];
        // What is excluded is left alone where it is.
        fs::create_dir_all(stage.t("src")).unwrap();
        fs::write(stage.t("src/theirs.o"), "theirs").unwrap();
        fs::write(stage.t("src/extra.c"), "extra").unwrap();
        stage.once(&words).fine();
        let expected = ["docs/index", "src/a.c", "src/keep.o", "src/theirs.o"];
        assert_eq!(files(&stage), expected, "{way:?}");
        assert!(!stage.t("build").exists());

        let push = stage.live(&words);
        fs::write(stage.s("src/b.o"), "no").unwrap();
        fs::write(stage.s("build/more"), "no").unwrap();
        fs::write(stage.s("big"), "still excluded").unwrap();
        // In and out of what is mirrored by a rename.
        fs::rename(stage.s("src/a.c"), stage.s("src/a2.o")).unwrap();
        fs::rename(stage.s("src/a.o"), stage.s("src/a3.c")).unwrap();
        fs::rename(stage.s("docs"), stage.s("build/docs")).unwrap();
        fs::rename(stage.s("build/deep"), stage.s("deep")).unwrap();
        stage.barrier();
        let mut now = Vec::new();
        super::wait_until("renames across the rules arrive", || {
            now = files(&stage);
            now.retain(|name| !name.starts_with("barrier"));
            now == ["deep/out", "src/a3.c", "src/keep.o", "src/theirs.o"]
        });
        // A directory whose excluded names stay cannot go, and is no problem.
        fs::remove_dir_all(stage.s("src")).unwrap();
        super::wait_until("what may go is gone", || !stage.t("src/keep.o").exists());
        stage.barrier();
        assert!(stage.t("src/theirs.o").exists(), "{}", push.said());
        push.terminate();
        // Unless that is wanted.
        stage.once(&[&words[..], &["--delete-excluded"]].concat()).fine();
        assert!(!stage.t("src").exists());
    }
}

#[test]
fn protected_names_stay_and_large_files_are_left_out() {
    let stage = Stage::new(Way::Local);
    garden(&stage);
    fs::create_dir(stage.target()).unwrap();
    fs::write(stage.t("kept"), "x").unwrap();
    fs::write(stage.t("gone"), "x").unwrap();
    let words = ["--filter=P /kept", "--max-size=4K"];
    stage.once(&words).fine();
    assert!(stage.t("kept").exists() && !stage.t("gone").exists());
    assert!(!stage.t("big").exists());
    assert!(stage.t("src/a.c").exists());
    let push = stage.live(&words);
    fs::write(stage.s("src/a.c"), noise(3, 4097)).unwrap();
    fs::write(stage.s("fits"), noise(3, 4096)).unwrap();
    stage.barrier();
    super::wait_until("what fits arrives", || stage.t("fits").exists());
    assert_eq!(fs::metadata(stage.t("src/a.c")).unwrap().len(), 10, "left as it was");
    fs::write(stage.s("src/a.c"), "small again").unwrap();
    super::wait_until("it fits again", || fs::read(stage.t("src/a.c")).unwrap() == b"small again");
    push.terminate();
}

#[test]
fn an_excluded_directory_falls_with_all_that_is_in_it() {
    let stage = Stage::new(Way::Local);
    fs::create_dir_all(stage.s("d/a.o")).unwrap();
    fs::write(stage.s("k"), "").unwrap();
    fs::create_dir_all(stage.t("d/a.o/b/c")).unwrap();
    fs::write(stage.t("d/a.o/b/c/f"), "").unwrap();
    fs::write(stage.t("d/a.o/b/f"), "").unwrap();
    stage.once(&["--exclude=*.o", "--delete-excluded"]).fine();
    assert!(stage.t("d").exists() && !stage.t("d/a.o").exists());
}

#[test]
fn deletes_happen_when_they_are_wanted() {
    for (when, at_start, live) in [
        ("yes", true, true),
        ("no", false, false),
        ("startup", true, false),
        ("running", false, true),
    ] {
        let stage = Stage::new(Way::Local);
        fs::write(stage.s("stays"), "or it would be emptied").unwrap();
        fs::write(stage.s("a"), "a").unwrap();
        fs::create_dir(stage.s("dir")).unwrap();
        fs::write(stage.s("dir/b"), "b").unwrap();
        fs::create_dir_all(stage.t("old")).unwrap();
        fs::write(stage.t("old/x"), "x").unwrap();
        let delete = format!("--delete={when}");
        let push = stage.live(&[&delete]);
        assert_eq!(!stage.t("old").exists(), at_start, "--delete {when} at the start");
        assert_eq!(!stage.t("old/x").exists(), at_start);
        fs::remove_file(stage.s("a")).unwrap();
        fs::remove_dir_all(stage.s("dir")).unwrap();
        if live {
            super::wait_until("deletes arrive", || {
                !stage.t("dir").exists() && !stage.t("a").exists()
            });
        } else {
            stage.barrier();
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(stage.t("a").exists() && stage.t("dir/b").exists(), "--delete {when}");
        }
        // A rename is no delete, whatever is deleted: the old name goes.
        fs::write(stage.s("r"), "renamed").unwrap();
        super::wait_until("r arrives", || stage.t("r").exists());
        fs::rename(stage.s("r"), stage.s("s")).unwrap();
        super::wait_until("s arrives", || stage.t("s").exists());
        super::wait_until("r is gone", || !stage.t("r").exists());
        push.terminate();
    }
}

#[test]
fn other_file_systems_are_left_out_if_wanted() {
    if !super::is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("a"), "a").unwrap();
    let mount = super::Mount::tmpfs(&stage.s("mounted"), "size=1m");
    fs::write(stage.s("mounted/inside"), "x").unwrap();
    stage.once(&["-x"]).fine();
    assert!(stage.t("a").exists() && !stage.t("mounted/inside").exists());
    stage.once(&[]).fine();
    assert!(stage.t("mounted/inside").exists());
    mount.unmount();
}
