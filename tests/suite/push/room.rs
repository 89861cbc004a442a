//! Targets that take nothing more for a while: a quota that is used up, a file system that became
//! read-only. Told, nothing lost, and mended by itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::tree::noise;
use super::filesystems::image;
use super::{Mount, Stage, WAYS, Way, is_root};

#[track_caller]
fn done(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

fn limit(target: &Path, limit: &str) {
    done(Command::new("btrfs").args(["qgroup", "limit", limit]).arg(target));
}

#[test]
fn a_quota_is_told_and_goes_on_when_it_is_raised() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    let Some(mount) = image(&stage, "btrfs", &["-q", "-f"]) else { return };
    done(Command::new("btrfs").args(["quota", "enable"]).arg(stage.target()));
    limit(&stage.target(), "12M");
    fs::write(stage.s("fits"), "fits").unwrap();
    fs::write(stage.s("half"), noise(1, 6_000_000)).unwrap();
    let mut push = stage.live(&[]);
    stage.settles_with(&push, "what fits");
    // Complete when it comes: what is half written on the source may fit.
    fs::write(stage.path("too much"), noise(2, 9_000_000)).unwrap();
    fs::rename(stage.path("too much"), stage.s("too much")).unwrap();
    let problem = push.wait_for("problem", 1, |line| line["path"] == "too much");
    assert!(problem["cause"].as_str().unwrap().contains("disk quota exceeded"), "{problem}");
    assert!(!stage.t("too much").exists(), "a file is there as a whole or not at all");
    assert_eq!(fs::read(stage.t("half")).unwrap(), noise(1, 6_000_000));
    fs::rename(stage.s("fits"), stage.s("moved")).unwrap();
    super::wait_until("the rest goes on", || stage.t("moved").exists());
    limit(&stage.target(), "200M");
    push.wait_for("solved", 1, |line| line["path"] == "too much");
    stage.settles_with(&push, "with the quota raised");
    assert!(push.is_running());
    push.terminate();
    stage.no_temporary_names();
    assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
    mount.unmount();
}

#[test]
fn a_target_that_becomes_read_only_is_told_and_goes_on_when_it_may_be_written() {
    if !is_root() {
        return;
    }
    for way in WAYS {
        let stage = Stage::new(way);
        let mount = Mount::tmpfs(&stage.target(), "size=64m");
        let remount = |how: &str| {
            done(Command::new("mount").args(["-o", how]).arg(stage.target()));
        };
        for name in ["changes", "goes", "moves"] {
            fs::write(stage.s(name), name).unwrap();
        }
        fs::create_dir(stage.s("dir")).unwrap();
        fs::write(stage.s("dir/x"), "x").unwrap();
        let mut push = stage.live(&[]);
        stage.settles_with(&push, "the first mirror");
        remount("remount,ro");
        fs::write(stage.s("changes"), "changed").unwrap();
        fs::write(stage.s("new"), noise(1, 200_000)).unwrap();
        fs::remove_file(stage.s("goes")).unwrap();
        fs::rename(stage.s("moves"), stage.s("moved")).unwrap();
        fs::rename(stage.s("dir"), stage.s("moved dir")).unwrap();
        fs::write(stage.s("moved dir/y"), "y").unwrap();
        for name in ["changes", "new", "goes"] {
            let problem = push.wait_for("problem", 1, |line| line["path"] == name);
            let cause = problem["cause"].as_str().unwrap();
            assert!(cause.contains("read-only file system"), "{problem}");
        }
        assert_eq!(fs::read(stage.t("changes")).unwrap(), b"changes");
        for name in ["goes", "moves", "dir/x"] {
            assert!(stage.t(name).exists(), "{name} is there as it was");
        }
        remount("remount,rw");
        stage.settles_with(&push, "when it may be written");
        push.wait_for("solved", 1, |line| line["path"] == "new");
        assert!(push.is_running());
        push.terminate();
        stage.no_temporary_names();
        assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
        // A start on it is told as well.
        fs::write(stage.s("later"), "later").unwrap();
        remount("remount,ro");
        let ended = stage.once_plain(&[]);
        assert_ne!(ended.code, Some(0), "{ended:?}");
        assert!(ended.err.contains("read-only file system"), "{ended:?}");
        remount("remount,rw");
        stage.once(&[]).fine();
        stage.settles();
        mount.unmount();
    }
}
