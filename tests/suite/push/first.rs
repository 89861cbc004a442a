//! The first mirror, the second start, and runs that end by themselves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::super::tree::{
    ACL, acl, bytes, chmod, noise, plant, set_mtime, set_xattr, tree, xattrs,
};
use super::{Push, Stage, WAYS, Way, is_root};

#[test]
fn a_first_mirror_is_exact_and_a_second_start_sends_nothing() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        if is_root() {
            std::os::unix::fs::chown(stage.s("dir/private"), Some(1234), Some(5678)).unwrap();
        }
        let first = stage.once(&[]).fine();
        assert_eq!(super::unequal(&stage.source(), &stage.target()), None, "{way:?}");
        assert!(first.done()["ops"].as_u64().unwrap() > 10);
        assert_eq!(first.done()["files"], 14);
        assert_eq!(first.done()["directories"], 5);
        stage.no_temporary_names();
        let before = tree(&stage.target()).unwrap();
        let again = stage.once(&[]).fine();
        assert_eq!(again.done()["ops"], 0, "{way:?}: {again:?}");
        // The others hold names of files that have several: these are listed.
        assert_eq!(again.done()["counters"]["lists_same"], 2, "{again:?}");
        // A live start sends as little.
        let push = stage.live(&["-v"]);
        assert_eq!(push.wait_event("ready")["ops"], 0);
        assert!(push.events("op").is_empty());
        push.terminate();
        assert_eq!(tree(&stage.target()).unwrap(), before);
    }
}

#[test]
fn a_target_that_differs_in_every_way_becomes_equal() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        let target = stage.target();
        // Every kind under every other kind's name.
        fs::create_dir_all(target.join("small/is/a/directory")).unwrap();
        fs::write(target.join("small/is/a/file"), "x").unwrap();
        fs::write(target.join("dir"), "is a file").unwrap();
        fs::create_dir(target.join("link")).unwrap();
        symlink("/etc", target.join("empty dir")).unwrap();
        symlink("/etc/passwd", target.join("empty")).unwrap();
        mknodat(CWD, target.join("dangling"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
        fs::create_dir_all(target.join("extra/tree")).unwrap();
        fs::write(target.join("extra/tree/file"), "x").unwrap();
        chmod(&target.join("extra/tree"), 0o500);
        fs::write(target.join(bytes(b"extra\n\xff")), "x").unwrap();
        let passwd = fs::read("/etc/passwd").unwrap();
        let etc = fs::metadata("/etc").unwrap();
        let ended = stage.once(&[]).fine();
        assert_eq!(super::unequal(&stage.source(), &target), None, "{way:?} {ended:?}");
        assert_eq!(fs::read("/etc/passwd").unwrap(), passwd);
        assert_eq!(fs::metadata("/etc").unwrap().mtime(), etc.mtime());
        assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
    }
}

#[test]
fn only_what_differs_is_sent() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    stage.once(&[]).fine();
    chmod(&stage.s("small"), 0o640);
    fs::write(stage.s("dir/deep/deeper/x"), "X").unwrap();
    set_mtime(&stage.s("dir/deep/deeper/x"), 99, 99);
    let inode = |name: &str| stage.t(name).metadata().unwrap().ino();
    let (small, large) = (inode("small"), inode("dir/large"));
    let ended = stage.once(&["-v"]).fine();
    super::wait_equal(&stage.source(), &stage.target());
    assert_eq!((inode("small"), inode("dir/large")), (small, large), "no content was sent anew");
    let ops = ended.done()["ops"].as_u64().unwrap();
    assert!((2..=4).contains(&ops), "{ended:?}");
}

#[test]
fn size_and_time_are_compared_at_the_start_and_size_alone_if_wanted() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("a"), "one").unwrap();
    stage.once(&[]).fine();
    fs::write(stage.t("a"), "two").unwrap();
    stage.once(&["--size-only"]).fine();
    assert_eq!(fs::read(stage.t("a")).unwrap(), b"two");
    set_mtime(&stage.t("a"), 5, 5);
    stage.once(&[]).fine();
    assert_eq!(fs::read(stage.t("a")).unwrap(), b"one");
}

#[test]
fn a_dry_run_says_everything_and_touches_nothing() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        fs::create_dir_all(stage.t("dir")).unwrap();
        fs::write(stage.t("extra"), "x").unwrap();
        fs::write(stage.t("small"), "old").unwrap();
        fs::write(stage.t("dir/program"), "old").unwrap();
        let before = tree(&stage.target()).unwrap();
        let ended = Push::start(stage.command(&["-n"])).end().fine();
        assert_eq!(tree(&stage.target()).unwrap(), before, "{way:?}");
        let lines: Vec<&str> = ended.out.lines().collect();
        for line in [
            "hard link small => another small",
            "update dir/program",
            "delete extra",
            "create dir/deep/",
            "create dir/deep/deeper/x",
            "create a large",
            "hard link dir/large => a large",
            "create empty dir/",
        ] {
            assert!(lines.contains(&line), "{line}: {}", ended.out);
        }
        assert!(ended.err.contains("would be done: "), "{}", ended.err);
        // A target that is not there is not made.
        fs::remove_dir_all(stage.target()).unwrap();
        let ended = Push::start(stage.command(&["--dry-run"])).end().fine();
        assert!(!stage.target().exists(), "{way:?}");
        assert!(ended.out.contains("create dir/program\n"), "{}", ended.out);
        // What it says is what is done.
        let said: BTreeSet<&str> = ended.out.lines().collect();
        let really = Push::start(stage.command(&["--once", "-v"])).end().fine();
        let verbs = ["create ", "update ", "attributes ", "delete ", "hard link "];
        let did = really.err.lines().filter_map(|line| line.strip_prefix("lsyncd: "));
        let did = did.filter(|line| verbs.iter().any(|verb| line.starts_with(verb)));
        assert_eq!(said, did.collect(), "{way:?}");
        assert_eq!(Push::start(stage.command(&["-n"])).end().fine().out, "");
    }
}

#[test]
fn a_missing_target_is_made_and_its_parents_only_if_wanted() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::write(stage.s("a"), "a").unwrap();
        stage.once(&[]).fine();
        super::wait_equal(&stage.source(), &stage.target());
        let deep = stage.on_the_way(&stage.path("not/there/yet"));
        let push = |words: &[&str]| {
            let mut command = stage.lsyncd();
            command.args(["push", "--once"]).args(words).arg(stage.source()).arg(&deep);
            Push::start(command).end()
        };
        let ended = push(&[]);
        assert_eq!(ended.code, Some(255), "{ended:?}");
        assert!(ended.err.contains("--mkpath"), "{ended:?}");
        assert!(!stage.path("not").exists());
        push(&["--mkpath"]).fine();
        super::wait_equal(&stage.source(), &stage.path("not/there/yet"));
    }
}

#[test]
fn trailing_slashes_and_relative_names_mean_the_same() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::create_dir(stage.s("sub")).unwrap();
        fs::write(stage.s("sub/a"), "a").unwrap();
        for slash in ["", "/", "//"] {
            let mut command = stage.lsyncd();
            command.args(["push", "--once"]);
            command.arg(format!("{}{slash}", stage.source().display()));
            command.arg(format!("{}{slash}", stage.on_the_way(&stage.target())));
            Push::start(command).end().fine();
            super::wait_equal(&stage.source(), &stage.target());
        }
        let mut command = stage.lsyncd();
        command.current_dir(stage.path(".")).args(["push", "--once", "source"]);
        match way {
            Way::Local => command.arg("relative"),
            // Relative to the login directory, which for commands is HOME.
            Way::Ssh => command.arg("world:~/relative"),
        };
        Push::start(command).end().fine();
        let arrived = match way {
            Way::Local => stage.path("relative"),
            Way::Ssh => stage.world().remote_home().join("relative"),
        };
        super::wait_equal(&stage.source(), &arrived);
    }
}

#[test]
fn what_is_not_carried_is_not_compared() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("a"), "a").unwrap();
    chmod(&stage.s("a"), 0o600);
    set_mtime(&stage.s("a"), 5, 5);
    if is_root() {
        std::os::unix::fs::chown(stage.s("a"), Some(1234), Some(5678)).unwrap();
    }
    let words = ["--no-perms", "--no-owner", "--no-group", "--no-times", "--size-only"];
    stage.once(&words).fine();
    let meta = stage.t("a").metadata().unwrap();
    assert_ne!(meta.mtime(), 5);
    assert_ne!(meta.uid(), 1234);
    assert_eq!(stage.once(&words).fine().done()["ops"], 0);
    stage.once(&[]).fine();
    super::wait_equal(&stage.source(), &stage.target());
}

#[test]
fn attributes_that_are_not_wanted_stay_away() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("a"), "a").unwrap();
    fs::hard_link(stage.s("a"), stage.s("b")).unwrap();
    set_xattr(&stage.s("a"), "user.a", b"1");
    set_xattr(&stage.s("a"), ACL, &acl(&[(1, 4)]));
    let names = |stage: &Stage| -> Vec<String> {
        let all = xattrs(&stage.t("a")).unwrap().into_keys();
        all.map(|name| String::from_utf8(name).unwrap()).collect()
    };
    for (words, want, linked) in [
        (&["--no-xattrs", "--no-acls", "--no-hard-links"][..], &[][..], false),
        (&["--no-acls", "--no-hard-links"], &["user.a"], false),
        (&["--no-hard-links"], &[ACL, "user.a"], false),
        (&[], &[ACL, "user.a"], true),
        // What is not wanted is left as it is.
        (&["--no-xattrs", "--no-acls"], &[ACL, "user.a"], true),
    ] {
        stage.once(words).fine();
        assert_eq!(names(&stage), want, "{words:?}");
        let inode = |name: &str| fs::metadata(stage.t(name)).unwrap().ino();
        assert_eq!(inode("a") == inode("b"), linked, "{words:?}");
        assert_eq!(stage.once(words).fine().done()["ops"], 0, "{words:?}");
    }
    stage.settles();
}

#[test]
fn a_large_tree_arrives_and_is_counted() {
    for way in WAYS {
        let stage = Stage::new(way);
        for i in 0..40 {
            let dir = stage.s(format!("d{i}/e"));
            fs::create_dir_all(&dir).unwrap();
            for j in 0..50 {
                fs::write(dir.join(format!("f{j}")), noise(i * 50 + j, (i * j) as usize)).unwrap();
            }
        }
        let ended = stage.once(&[]).fine();
        super::wait_equal(&stage.source(), &stage.target());
        assert_eq!(ended.done()["files"], 2000);
        assert_eq!(ended.done()["directories"], 81);
        let again = stage.once(&[]).fine().done();
        assert_eq!(again["ops"], 0);
        // About 60 bytes a directory, and a greeting.
        let sent = again["counters"]["link_out_bytes"].as_u64().unwrap();
        assert!(sent < 81 * 80 + 1000, "{again}");
    }
}
