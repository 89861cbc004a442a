//! An ordinary user on both ends: all that such a user may have is mirrored, and what is not theirs
//! stops nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::super::tree::{
    ACL, acl, append, chmod, noise, plant, plant_specials, remove_xattr, set_mtime, set_xattr,
};
use super::{Push, Stage, Way, is_root, of, sh, wait_until, with_less};

/// Who nobody is everywhere.
const NOBODY: u32 = 65534;

/// Only root makes them.
fn without_devices(stage: &Stage) {
    sh(&stage.source(), "find . -type b -delete; find . -type c -delete");
}

/// Everything is nobody's, of which there is nothing that only root may make.
fn given_away(stage: &Stage) {
    without_devices(stage);
    for (name, attribute) in [
        ("small", "trusted.lsync"),
        ("link", "trusted.link"),
        ("dir/program", "security.capability"),
    ] {
        remove_xattr(&stage.s(name), attribute);
    }
    for dir in ["", "home"] {
        fs::set_permissions(stage.path(dir), PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::create_dir(stage.target()).unwrap();
    sh(&stage.path(""), &format!("chown -hR {NOBODY}:{NOBODY} home source target"));
    // Giving away takes the bits; a time is set by whoever made the tree.
    chmod(&stage.s("dir/program"), 0o6755);
    set_mtime(&stage.source(), 1_400_000_000, 42);
}

/// `lsyncd push` by nobody.
fn push(stage: &Stage, words: &[&str]) -> Push {
    let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    let rights = [&user, &group, "--clear-groups", "--inh-caps=-all"];
    Push::start(with_less(&rights, &stage.command(&[&["--json"], words].concat())))
}

#[track_caller]
fn nothing_left_to_do(stage: &Stage) {
    let again = push(stage, &["--once", "--dry-run"]).end().fine();
    assert_eq!(of(&again.lines, "op"), [] as [serde_json::Value; 0]);
}

#[test]
fn an_ordinary_user_has_it_all_on_the_target_too() {
    if !is_root() {
        // Then every other test shows it.
        return;
    }
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    given_away(&stage);
    let first = push(&stage, &["--once"]).end().fine();
    assert_eq!(of(&first.lines, "warning"), [] as [serde_json::Value; 0]);
    stage.settles();
    nothing_left_to_do(&stage);

    let live = push(&stage, &[]);
    live.wait_event("ready");
    fs::write(stage.s("small"), "other").unwrap();
    append(&stage.s("dir/large"), &noise(5, 100_000));
    fs::rename(stage.s("dir/deep"), stage.s("moved")).unwrap();
    fs::remove_dir_all(stage.s("empty dir")).unwrap();
    chmod(&stage.s("dir/read only"), 0o2400);
    set_mtime(&stage.s("dir/64k"), 1_000_000_001, 999_999_999);
    set_xattr(&stage.s("dir/64k"), "user.more", b"more");
    set_xattr(&stage.s("dir/64k and one"), ACL, &acl(&[(9, 4)]));
    plant_specials(&stage.s("moved"), "live ");
    without_devices(&stage);
    sh(&stage.source(), &format!("chown -hR {NOBODY}:{NOBODY} ."));
    stage.settles_with(&live, "live changes");
    live.terminate();
    nothing_left_to_do(&stage);
    stage.no_temporary_names();
}

#[test]
fn what_is_not_ours_to_read_or_to_give_stops_nothing() {
    if !is_root() {
        // Only root makes what is not ours.
        return;
    }
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    given_away(&stage);
    fs::write(stage.s("root's"), "readable").unwrap();
    fs::write(stage.s("secret"), "for now readable").unwrap();
    fs::create_dir(stage.s("cellar")).unwrap();
    fs::write(stage.s("cellar/wine"), "red").unwrap();
    let first = push(&stage, &["--once"]).end().fine();
    let warnings = of(&first.lines, "warning");
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let text = warning["text"].as_str().unwrap();
    for part in ["owners are left as they are", "CAP_CHOWN", "--no-owner"] {
        assert!(text.contains(part), "{text}");
    }
    let silent = push(&stage, &["--once", "--no-owner", "--no-group"]).end().fine();
    assert_eq!(of(&silent.lines, "warning"), [] as [serde_json::Value; 0]);
    // A group that is not ours to give is one warning, too.
    let silent = push(&stage, &["--once", "--no-owner"]).end().fine();
    assert!(of(&silent.lines, "warning")[0]["text"].as_str().unwrap().contains("groups are left"));
    assert_eq!(fs::read(stage.t("root's")).unwrap(), b"readable");
    assert_eq!(stage.t("root's").metadata().unwrap().uid(), NOBODY);
    // An owner that cannot be is nothing to do for ever.
    nothing_left_to_do(&stage);

    // What may not be read any more stays as it was, and so does all beneath.
    fs::write(stage.s("secret"), "secret").unwrap();
    chmod(&stage.s("secret"), 0o600);
    chmod(&stage.s("cellar"), 0o700);
    fs::write(stage.s("last"), "x").unwrap();
    let ended = push(&stage, &["--once"]).end();
    assert_eq!(ended.code, Some(23), "{ended:?}");
    let problems = of(&ended.lines, "problem");
    for path in ["secret", "cellar"] {
        assert!(problems.iter().any(|line| line["path"] == path), "{path}: {problems:?}");
    }
    assert_eq!(fs::read(stage.t("secret")).unwrap(), b"for now readable");
    assert_eq!(fs::read(stage.t("last")).unwrap(), b"x");
    assert_eq!(fs::read(stage.path("target/cellar/wine")).unwrap(), b"red");

    // Live, it is mended as soon as it may be read.
    let live = push(&stage, &[]);
    live.wait_event("ready");
    chmod(&stage.s("secret"), 0o644);
    chmod(&stage.s("cellar"), 0o755);
    wait_until("the secret is told", || fs::read(stage.t("secret")).unwrap() == b"secret");
    fs::write(stage.s("cellar/wine"), "white").unwrap();
    wait_until("and what is beneath", || fs::read(stage.t("cellar/wine")).unwrap() == b"white");
    live.terminate();
    stage.no_temporary_names();
}
