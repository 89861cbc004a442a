//! The guards: what would be a catastrophe is refused, or waits.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::tree::{chmod, tree};
use super::{Mount, Push, Stage, WAYS, Way, is_root};

/// Some files in the source.
fn some(stage: &Stage, count: usize) {
    for i in 0..count {
        fs::write(stage.s(format!("f{i:02}")), "x").unwrap();
    }
}

#[test]
fn a_start_that_would_delete_too_much_deletes_nothing() {
    for way in WAYS {
        let stage = Stage::new(way);
        some(&stage, 30);
        fs::create_dir(stage.s("dir")).unwrap();
        fs::write(stage.s("dir/x"), "x").unwrap();
        stage.once(&[]).fine();
        for i in 0..8 {
            fs::remove_file(stage.s(format!("f{i:02}"))).unwrap();
        }
        fs::remove_dir_all(stage.s("dir")).unwrap();
        fs::write(stage.s("new"), "new").unwrap();
        // Ten names: eight files, the directory and what is in it.
        for limit in ["9", "10%"] {
            let ended = stage.once_plain(&["--max-delete", limit]);
            assert_eq!(ended.code, Some(25), "{way:?} {limit} {ended:?}");
            assert!(ended.err.contains("10 names to delete within a minute"), "{ended:?}");
            assert!(ended.err.contains("--max-delete"), "{ended:?}");
            assert!(stage.t("f00").exists() && stage.t("dir/x").exists(), "{way:?}");
        }
        // A live start too.
        let ended = stage.begin(&["--max-delete", "9"]).end();
        assert_eq!(ended.code, Some(25), "{ended:?}");
        assert!(stage.t("f00").exists());
        stage.once(&["--max-delete", "10"]).fine();
        super::wait_equal(&stage.source(), &stage.target());
    }
}

#[test]
fn too_many_live_deletes_halt_and_everything_else_goes_on() {
    for way in WAYS {
        let stage = Stage::new(way);
        some(&stage, 30);
        let mut push = stage.live(&["--max-delete", "5"]);
        fs::remove_file(stage.s("f00")).unwrap();
        super::wait_until("one may go", || !stage.t("f00").exists());
        for i in 1..20 {
            fs::remove_file(stage.s(format!("f{i:02}"))).unwrap();
        }
        let halted = push.wait_event("halted");
        let reason = halted["reason"].as_str().unwrap();
        assert!(reason.contains("5 are allowed"), "{halted}");
        assert!(halted["hint"].as_str().unwrap().contains("resume --confirm"), "{halted}");
        stage.barrier();
        fs::write(stage.s("f25"), "written").unwrap();
        fs::rename(stage.s("f26"), stage.s("renamed")).unwrap();
        chmod(&stage.s("f27"), 0o600);
        super::wait_until("changes go on", || {
            fs::read(stage.t("f25")).unwrap() == b"written" && stage.t("renamed").exists()
        });
        super::wait_until("the old name went with the rename", || !stage.t("f26").exists());
        let left = (1..20).filter(|i| stage.t(format!("f{i:02}")).exists()).count();
        assert!(left >= 15, "only {left} are left: {}", push.said());
        assert!(push.is_running());
        push.terminate();
    }
}

#[test]
fn an_emptied_source_does_not_empty_the_target() {
    for way in WAYS {
        let stage = Stage::new(way);
        some(&stage, 3);
        let push = stage.live(&[]);
        stage.settles();
        for i in 0..3 {
            fs::remove_file(stage.s(format!("f{i:02}"))).unwrap();
        }
        let halted = push.wait_event("halted");
        assert!(halted["reason"].as_str().unwrap().contains("emptied"), "{halted}");
        assert!(halted["hint"].as_str().unwrap().contains("resume --confirm"), "{halted}");
        assert!(fs::read_dir(stage.target()).unwrap().count() >= 1, "{way:?}");
        push.terminate();

        some(&stage, 3);
        stage.once(&[]).fine();
        for i in 0..3 {
            fs::remove_file(stage.s(format!("f{i:02}"))).unwrap();
        }
        for words in [&["--once"][..], &[]] {
            let ended = Push::start(stage.command(words)).end();
            assert_eq!(ended.code, Some(25), "{way:?} {words:?} {ended:?}");
            assert!(ended.err.contains("--allow-empty"), "{ended:?}");
            assert_eq!(fs::read_dir(stage.target()).unwrap().count(), 3);
        }
        stage.once(&["--allow-empty"]).fine();
        super::wait_equal(&stage.source(), &stage.target());
        // Empty to empty is nothing special.
        stage.once(&[]).fine();
    }
}

#[test]
fn a_root_that_goes_away_is_waited_for() {
    for way in WAYS {
        let stage = Stage::new(way);
        some(&stage, 5);
        let mut push = stage.live(&[]);
        stage.settles();
        fs::rename(stage.source(), stage.path("away")).unwrap();
        let halted = push.wait_event("halted");
        assert!(halted["reason"].as_str().unwrap().contains("is gone"), "{halted}");
        fs::write(stage.path("away/meanwhile"), "x").unwrap();
        fs::remove_file(stage.path("away/f00")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(fs::read_dir(stage.target()).unwrap().count(), 5, "nothing was deleted");
        fs::rename(stage.path("away"), stage.source()).unwrap();
        push.wait_event("resumed");
        stage.settles_with(&push, "back");
        fs::write(stage.s("after"), "live again").unwrap();
        stage.settles_with(&push, "live again");
        // Removed with all in it, and made anew: another directory, under the same name.
        fs::remove_dir_all(stage.source()).unwrap();
        push.wait_events("halted", 2);
        assert!(fs::read_dir(stage.target()).unwrap().count() >= 1, "{way:?}");
        fs::create_dir(stage.source()).unwrap();
        fs::write(stage.s("f03"), "new").unwrap();
        fs::write(stage.s("other"), "new").unwrap();
        stage.settles_with(&push, "replaced");
        fs::write(stage.s("after"), "live again").unwrap();
        stage.settles_with(&push, "live after it was replaced");
        assert!(push.is_running());
        push.terminate();
    }
}

#[test]
fn a_source_that_is_unmounted_is_waited_for() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    let mount = Mount::tmpfs(&stage.source(), "size=1m,nr_inodes=100");
    some(&stage, 5);
    let mut push = stage.live(&[]);
    stage.settles();
    // Nothing of ours holds it: an administrator can unmount it.
    let plain = Command::new("umount").arg(stage.source()).status().unwrap();
    assert!(plain.success(), "the mount is held: {}", push.said());
    let halted = push.wait_event("halted");
    let reason = halted["reason"].as_str().unwrap();
    assert!(reason.contains("not on its file system any more"), "{halted}");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(fs::read_dir(stage.target()).unwrap().count(), 5);
    // What is in the directory beneath the mount point is not the source.
    fs::write(stage.s("beneath"), "x").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!stage.t("beneath").exists());
    let again = Mount::tmpfs(&stage.source(), "size=1m,nr_inodes=100");
    some(&stage, 5);
    fs::write(stage.s("mounted again"), "x").unwrap();
    push.wait_event("resumed");
    super::wait_until("it goes on", || stage.t("mounted again").exists());
    assert!(push.is_running());
    push.terminate();
    again.unmount();
    drop(mount);
}

#[test]
fn a_mount_in_the_source_that_goes_away_deletes_nothing() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    some(&stage, 3);
    let mount = Mount::tmpfs(&stage.s("mounted"), "size=1m");
    fs::create_dir(stage.s("mounted/dir")).unwrap();
    fs::write(stage.s("mounted/dir/inside"), "x").unwrap();
    let push = stage.live(&["--rescan", "1"]);
    stage.settles_with(&push, "mounted");
    mount.unmount();
    // Events, rescans and restarts all see an empty directory now.
    fs::write(stage.s("f00"), "written").unwrap();
    stage.barrier();
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(stage.t("mounted/dir/inside").exists(), "{}", push.said());
    push.terminate();
}

/// The command must end with 25 and leave everything as it is.
#[track_caller]
fn refused(stage: &Stage, source: &Path, target: &str, text: &str) {
    let before = tree(&stage.path("")).unwrap();
    for words in [&["--once"][..], &[], &["-n"]] {
        let mut command = stage.lsyncd();
        command.arg("push").args(words).arg(source).arg(target);
        let ended = Push::start(command).end();
        assert_eq!(ended.code, Some(25), "{target} {words:?}: {ended:?}");
        assert!(ended.err.contains(text), "{target} {words:?}: no {text}: {}", ended.err);
        assert!(ended.err.contains("\nhint: ") || ended.err.contains("hint: "), "{ended:?}");
    }
    assert_eq!(super::super::tree::differences(&before, &tree(&stage.path("")).unwrap()), "");
}

#[test]
fn targets_that_would_eat_the_source_are_refused() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::create_dir_all(stage.s("in/deep")).unwrap();
        fs::write(stage.s("precious"), "x").unwrap();
        std::os::unix::fs::symlink(stage.source(), stage.path("alias")).unwrap();
        let source = stage.source();
        let at = |path: &Path| stage.on_the_way(path);
        refused(&stage, &source, &at(&source), "refus");
        refused(&stage, &source, &at(&stage.path("alias")), "refus");
        refused(&stage, &source, &at(&stage.s("in")), "refus");
        refused(&stage, &source, &at(&stage.s("in/new")), "refus");
        refused(&stage, &source, &at(&stage.path("alias/in")), "refus");
        refused(&stage, &source, &at(stage.path("x").parent().unwrap()), "refus");
        refused(&stage, &stage.path("alias"), &at(&source), "refus");
        refused(&stage, &source, &at(Path::new("/")), "refus");
        refused(&stage, &source, &at(Path::new("/tmp/../")), "refus");
    }
}

#[test]
fn a_bind_mount_does_not_hide_the_source() {
    if !is_root() {
        return;
    }
    for way in WAYS {
        let stage = Stage::new(way);
        fs::create_dir(stage.s("in")).unwrap();
        let bound = stage.path("bound");
        fs::create_dir(&bound).unwrap();
        let mut mount = Command::new("mount");
        mount.arg("--bind").arg(stage.source()).arg(&bound);
        assert!(mount.status().unwrap().success());
        let unmount = Mount(bound.clone());
        refused(&stage, &stage.source(), &stage.on_the_way(&bound), "refus");
        refused(&stage, &stage.source(), &stage.on_the_way(&bound.join("in")), "refus");
        unmount.unmount();
    }
}

#[test]
fn two_mirrors_of_one_target_are_refused() {
    for way in WAYS {
        let stage = Stage::new(way);
        some(&stage, 2);
        let push = stage.live(&[]);
        let other = stage.path("other source");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("x"), "x").unwrap();
        let mut command = stage.lsyncd();
        command.args(["push", "--once"]).arg(&other).arg(stage.on_the_way(&stage.target()));
        let ended = Push::start(command).end();
        assert!(matches!(ended.code, Some(25 | 255)), "{ended:?}");
        assert!(ended.err.contains("source"), "it names who has it: {ended:?}");
        stage.settles_with(&push, "the first goes on");
        push.terminate();
    }
}
