//! `lsyncd verify`: what happened to the target behind our back is found by its kind, and
//! nothing but that is mended.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use serde_json::Value;

use super::push::{Ended, Push, Stage, WAYS, Way, is_root};
use super::tree::{append, chmod, noise, set_mtime, tree};

/// `lsyncd verify` with these words.
fn verify(stage: &Stage, words: &[&str]) -> Ended {
    let mut command = stage.lsyncd();
    command.args(["verify", "--json"]).args(words);
    command.arg(stage.source()).arg(stage.on_the_way(&stage.target()));
    Push::start(command).end()
}

/// The differences by path, each with its attributes behind it.
fn differences(ended: &Ended) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for line in ended.lines.iter().filter(|line| line["event"] == "difference") {
        let path = line["path"].as_str().unwrap().to_owned();
        let mut text = line["difference"].as_str().unwrap().to_owned();
        for name in line["attributes"].as_array().unwrap_or(&Vec::new()) {
            text = format!("{text} {}", name.as_str().unwrap());
        }
        assert!(all.insert(path, text).is_none(), "each path once: {ended:?}");
    }
    all
}

/// Sets the time back to what it was.
fn quietly(path: &Path, change: impl FnOnce()) {
    let before = path.symlink_metadata().unwrap();
    change();
    set_time(path, before.mtime(), before.mtime_nsec());
}

/// Sets a time, of a link too.
fn set_time(path: &Path, sec: i64, nsec: i64) {
    let time = Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// What is done to the target.
type Damage = fn(&Path);

/// A directory's name, what is done in it, and what is to be found there: path and kind.
type Case = (&'static str, Damage, &'static [(&'static str, &'static str)]);

/// Each in a directory of its own that holds `file` (300 kB), `small`, `link`, `sub` and `sub/x`:
/// name, what is done to it, and what is to be found.
const DAMAGES: &[Case] = &[
    (
        "flip",
        |d| quietly(&d.join("file"), || write_at(&d.join("file"), 150_000, b"!")),
        &[("file", "content")],
    ),
    (
        "flip-small",
        |d| quietly(&d.join("small"), || write_at(&d.join("small"), 1, b"!")),
        &[("small", "content")],
    ),
    ("cut", |d| quietly(&d.join("file"), || cut(&d.join("file"), 1000)), &[("file", "content")]),
    ("cut-later", |d| cut(&d.join("file"), 1000), &[("file", "content mtime")]),
    (
        "emptied",
        |d| quietly(&d.join("small"), || cut(&d.join("small"), 0)),
        &[("small", "content")],
    ),
    (
        "grown",
        |d| quietly(&d.join("file"), || append(&d.join("file"), b"more")),
        &[("file", "content")],
    ),
    ("hole", |d| quietly(&d.join("file"), || hole(&d.join("file"))), &[("file", "content")]),
    ("no-file", |d| fs::remove_file(d.join("file")).unwrap(), &[("file", "missing")]),
    ("no-link", |d| fs::remove_file(d.join("link")).unwrap(), &[("link", "missing")]),
    (
        "no-dir",
        |d| fs::remove_dir_all(d.join("sub")).unwrap(),
        &[("sub", "missing"), ("sub/x", "missing")],
    ),
    ("extra-file", |d| fs::write(d.join("more"), "x").unwrap(), &[("more", "extra")]),
    ("extra-link", |d| symlink("x", d.join("more")).unwrap(), &[("more", "extra")]),
    ("extra-dir", |d| fs::create_dir_all(d.join("more/deep")).unwrap(), &[("more", "extra")]),
    ("extra-fifo", |d| fifo(&d.join("more")), &[("more", "extra")]),
    (
        "renamed",
        |d| fs::rename(d.join("file"), d.join("eli")).unwrap(),
        &[("file", "missing"), ("eli", "extra")],
    ),
    (
        "file-dir",
        |d| {
            fs::remove_file(d.join("small")).unwrap();
            fs::create_dir(d.join("small")).unwrap();
            fs::write(d.join("small/in"), "x").unwrap();
        },
        &[("small", "kind")],
    ),
    (
        "dir-file",
        |d| {
            fs::remove_dir_all(d.join("sub")).unwrap();
            fs::write(d.join("sub"), "x").unwrap();
        },
        &[("sub", "kind"), ("sub/x", "missing")],
    ),
    (
        "file-link",
        |d| {
            fs::remove_file(d.join("file")).unwrap();
            symlink("small", d.join("file")).unwrap();
        },
        &[("file", "kind")],
    ),
    (
        "link-file",
        |d| {
            fs::remove_file(d.join("link")).unwrap();
            fs::write(d.join("link"), "small").unwrap();
        },
        &[("link", "kind")],
    ),
    (
        "link-text",
        |d| {
            quietly(&d.join("link"), || {
                fs::remove_file(d.join("link")).unwrap();
                symlink("smell", d.join("link")).unwrap();
                set_time(&d.join("link"), 1_600_000_001, 0);
            });
        },
        &[("link", "content")],
    ),
    ("mode", |d| chmod(&d.join("small"), 0o604), &[("small", "attributes mode")]),
    ("setuid", |d| chmod(&d.join("small"), 0o4640), &[("small", "attributes mode")]),
    ("dir-mode", |d| chmod(&d.join("sub"), 0o711), &[("sub", "attributes mode")]),
    ("mtime", |d| set_mtime(&d.join("file"), 1_500_000_000, 7), &[("file", "attributes mtime")]),
    ("dir-mtime", |d| set_mtime(&d.join("sub"), 1_500_000_000, 7), &[("sub", "attributes mtime")]),
    (
        "link-mtime",
        |d| set_time(&d.join("link"), 1_500_000_000, 7),
        &[("link", "attributes mtime")],
    ),
    (
        "both",
        |d| {
            quietly(&d.join("small"), || {
                write_at(&d.join("small"), 0, b"!");
                chmod(&d.join("small"), 0o600);
            });
        },
        &[("small", "content mode")],
    ),
];

/// Those that only root can do.
const BY_ROOT: &[Case] = &[
    (
        "owner",
        |d| lchown(d.join("small"), Some(12), None).unwrap(),
        &[("small", "attributes owner")],
    ),
    ("group", |d| lchown(d.join("file"), None, Some(34)).unwrap(), &[("file", "attributes group")]),
    (
        "link-owner",
        |d| lchown(d.join("link"), Some(12), Some(34)).unwrap(),
        &[("link", "attributes owner group")],
    ),
];

fn cut(path: &Path, size: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(size).unwrap();
}

/// A hole where data was.
fn hole(path: &Path) {
    let size = path.metadata().unwrap().len();
    cut(path, 100_000);
    cut(path, size);
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// One directory that is to be damaged.
fn plant(dir: &Path, seed: u64) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), noise(seed, 300_000)).unwrap();
    fs::write(dir.join("small"), noise(seed + 1, 1000)).unwrap();
    fs::write(dir.join("sub/x"), "x").unwrap();
    symlink("small", dir.join("link")).unwrap();
    chmod(&dir.join("small"), 0o640);
    for (at, name) in ["file", "small", "sub/x", "link", "sub", ""].iter().enumerate() {
        set_time(&dir.join(name), 1_600_000_000 + at as i64, 5);
    }
}

#[test]
fn damage_of_every_kind_is_listed_and_then_healed() {
    let mut damages = DAMAGES.to_vec();
    if is_root() {
        damages.extend_from_slice(BY_ROOT);
    }
    for way in WAYS {
        let stage = Stage::new(way);
        for (seed, (name, ..)) in damages.iter().enumerate() {
            plant(&stage.s(name), 2 * seed as u64);
        }
        plant(&stage.s("sound"), 1000);
        assert_eq!(stage.once(&[]).code, Some(0));
        let clean = verify(&stage, &[]);
        assert_eq!((clean.code, differences(&clean)), (Some(0), BTreeMap::new()), "{clean:?}");

        let mut expected = BTreeMap::new();
        for (name, damage, found) in &damages {
            // What was done to a directory is not the damage that is meant.
            quietly(&stage.t(name), || damage(&stage.t(name)));
            for (path, how) in *found {
                expected.insert(format!("{name}/{path}"), (*how).to_owned());
            }
        }
        let damaged = tree(&stage.target()).unwrap();
        let found = verify(&stage, &[]);
        assert_eq!((found.code, differences(&found)), (Some(24), expected.clone()), "{way:?}");
        let after = tree(&stage.target()).unwrap();
        assert!(
            damaged == after,
            "nothing is touched: {}",
            super::tree::differences(&damaged, &after)
        );

        let sound = |name: &str| stage.t("sound").join(name).metadata().unwrap().ino();
        let before = ["file", "small", "sub/x"].map(sound);
        let healed = verify(&stage, &["--heal"]);
        assert_eq!((healed.code, differences(&healed)), (Some(0), expected), "{way:?} {healed:?}");
        stage.settles();
        assert_eq!(["file", "small", "sub/x"].map(sound), before, "what is sound is not replaced");
        let again = verify(&stage, &[]);
        assert_eq!((again.code, differences(&again)), (Some(0), BTreeMap::new()), "{way:?}");
        stage.no_temporary_names();
    }
}

#[test]
fn what_rules_and_options_leave_alone_is_no_difference() {
    let stage = Stage::new(Way::Local);
    plant(&stage.s("a"), 1);
    fs::write(stage.s("large"), noise(3, 20_000)).unwrap();
    assert_eq!(stage.once(&[]).code, Some(0));
    quietly(&stage.target(), || {
        fs::write(stage.t("extra"), "x").unwrap();
        fs::write(stage.t("keep.log"), "x").unwrap();
        fs::write(stage.t("safe"), "x").unwrap();
        fs::create_dir(stage.t("held")).unwrap();
        fs::write(stage.t("held/safe"), "x").unwrap();
        fs::write(stage.t("held/other"), "x").unwrap();
        fs::write(stage.t("large"), "short").unwrap();
    });
    let rules = ["--exclude", "*.log", "--filter", "P safe", "--max-size", "10K"];
    let found = verify(&stage, &rules);
    let expected = [("extra", "extra"), ("held/other", "extra")];
    let expected = expected.map(|(path, how)| (path.to_owned(), how.to_owned()));
    assert_eq!((found.code, differences(&found)), (Some(24), BTreeMap::from(expected)));
    let all = |delete| [&rules[..], &["--delete", delete]].concat();
    assert_eq!(verify(&stage, &all("no")).code, Some(0), "what is not deleted is no difference");

    let halted = verify(&stage, &[&rules[..], &["--heal", "--max-delete", "1"]].concat());
    assert_eq!(halted.code, Some(25), "{halted:?}");
    assert!(stage.t("extra").exists() && stage.t("held/other").exists());
    assert_eq!(verify(&stage, &[&rules[..], &["--heal"]].concat()).code, Some(0));
    assert!(!stage.t("extra").exists() && !stage.t("held/other").exists());
    for kept in ["keep.log", "safe", "held/safe", "large"] {
        assert!(stage.t(kept).exists(), "{kept}");
    }
    let again = verify(&stage, &rules);
    assert_eq!((again.code, differences(&again)), (Some(0), BTreeMap::new()), "{again:?}");

    chmod(&stage.t("a/small"), 0o600);
    set_mtime(&stage.t("a/sub/x"), 5, 5);
    let without = [&rules[..], &["--no-perms", "--no-times"]].concat();
    assert_eq!(verify(&stage, &without).code, Some(0), "what is not carried is no difference");
    assert_eq!(differences(&verify(&stage, &rules)).len(), 2);
}

#[test]
fn what_cannot_be_read_is_named_and_is_no_difference() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    for name in ["fine", "here", "there"] {
        fs::write(stage.s(name), name).unwrap();
    }
    assert_eq!(stage.once(&[]).code, Some(0));
    for (dir, mode) in [("", 0o755), ("home", 0o777)] {
        chmod(&stage.path(dir), mode);
    }
    chmod(&stage.s("here"), 0o600);
    let as_nobody = |words: &[&str]| {
        let mut command = stage.lsyncd();
        command.args(["verify", "--json", "--no-perms", "--no-owner", "--no-group"]).args(words);
        command.arg(stage.source()).arg(stage.target()).uid(65_534).gid(65_534);
        Push::start(command).end()
    };
    let problems = |ended: &Ended| -> Vec<Value> {
        let problems = ended.lines.iter().filter(|line| line["event"] == "problem");
        problems.map(|line| line["path"].clone()).collect()
    };
    let ended = as_nobody(&[]);
    assert_eq!((ended.code, problems(&ended)), (Some(23), vec!["here".into()]), "{ended:?}");
    chmod(&stage.s("here"), 0o644);
    chmod(&stage.t("there"), 0o600);
    let ended = as_nobody(&[]);
    assert_eq!((ended.code, problems(&ended)), (Some(23), vec!["there".into()]), "{ended:?}");
    assert_eq!(differences(&ended), BTreeMap::new());
    // Both: differences weigh more.
    write_at(&stage.t("fine"), 0, b"!");
    assert_eq!(as_nobody(&[]).code, Some(24));
}

#[test]
fn content_decides_with_checksum() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.s("a"), 1);
        plant(&stage.s("b"), 3);
        assert_eq!(stage.once(&[]).code, Some(0));
        quietly(&stage.t("a/file"), || write_at(&stage.t("a/file"), 7, b"!"));
        set_mtime(&stage.t("b/file"), 5, 5);
        let inode = || stage.t("b/file").metadata().unwrap().ino();
        let before = inode();
        assert_eq!(stage.once(&[]).code, Some(0));
        assert!(super::tree::unequal(&stage.source(), &stage.target()).is_some(), "by time: equal");
        assert_ne!(inode(), before, "by time: sent");
        set_mtime(&stage.t("b/file"), 5, 5);
        let before = inode();
        let ended = stage.once(&["--checksum"]);
        assert_eq!(ended.code, Some(0), "{way:?} {ended:?}");
        stage.settles();
        assert_eq!(inode(), before, "the same content gets its time only");
    }
}

#[test]
fn a_mirror_that_runs_is_compared_without_being_disturbed() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.s("a"), 1);
        let push = stage.live(&[]);
        let clean = verify(&stage, &[]);
        assert_eq!((clean.code, differences(&clean)), (Some(0), BTreeMap::new()), "{clean:?}");
        write_at(&stage.t("a/small"), 0, b"!");
        let refused = verify(&stage, &["--heal"]);
        assert_eq!(refused.code, Some(255), "{way:?} {refused:?}");
        assert!(refused.err.contains("two mirrors cannot share a target"), "{refused:?}");
        stage.barrier();
        assert!(!push.said().contains("\"lost\""), "{}", push.said());
        push.terminate();
    }
}

#[test]
fn a_target_that_is_not_there_misses_everything() {
    let stage = Stage::new(Way::Local);
    plant(&stage.s("a"), 1);
    let found = verify(&stage, &[]);
    assert_eq!((found.code, differences(&found).len()), (Some(24), 6), "{found:?}");
    assert!(!stage.target().exists(), "nothing is made");
}

#[test]
fn drift_is_mended_while_the_mirror_runs() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.s("a"), 1);
        let push = stage.live(&["--verify-every", "0.3"]);
        quietly(&stage.t("a/file"), || write_at(&stage.t("a/file"), 7, b"!"));
        push.wait_for("difference", 1, |line| {
            line["path"] == "a/file" && line["difference"] == "content"
        });
        stage.settles();
        fs::remove_dir_all(stage.t("a/sub")).unwrap();
        push.wait_for("difference", 1, |line| line["path"] == "a/sub");
        stage.settles();
        // What changes is no drift, however often it is compared meanwhile.
        for turn in 0..200 {
            fs::write(stage.s(format!("a/{}", turn % 7)), noise(turn, 20_000)).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        stage.settles();
        stage.barrier();
        let said = push.said();
        assert!(
            !said.lines().any(|line| {
                line.contains("\"difference\"")
                    && !line.contains("\"a/file\"")
                    && !line.contains("\"a/sub\"")
                    && !line.contains("\"path\":\"a\"")
            }),
            "{said}"
        );
        push.terminate();
    }
}

/// Names of one file stay so: what is found is told of each, and mended as one.
#[test]
fn names_of_one_file_are_healed_as_one() {
    for way in WAYS {
        let stage = Stage::new(way);
        for (first, second, size) in [("a", "dir/b", 3000), ("l", "dir/m", 300_000)] {
            fs::create_dir_all(stage.s("dir")).unwrap();
            fs::write(stage.s(first), noise(size as u64, size)).unwrap();
            fs::hard_link(stage.s(first), stage.s(second)).unwrap();
        }
        fs::write(stage.s("p"), "parted").unwrap();
        fs::hard_link(stage.s("p"), stage.s("q")).unwrap();
        stage.once(&[]).fine();
        stage.settles();
        // Under both names at once, and one name that is a file of its own now.
        for name in ["a", "l"] {
            quietly(&stage.t(name), || write_at(&stage.t(name), 5, b"!"));
        }
        quietly(&stage.target(), || {
            let (q, copy) = (stage.t("q"), stage.t("copy"));
            let before = q.metadata().unwrap();
            fs::copy(&q, &copy).unwrap();
            set_time(&copy, before.mtime(), before.mtime_nsec());
            fs::rename(&copy, &q).unwrap();
        });
        let found = verify(&stage, &[]);
        assert_eq!(found.code, Some(24), "{found:?}");
        let want = [
            ("a", "content"),
            ("dir/b", "content"),
            ("dir/m", "content"),
            ("l", "content"),
            ("q", "attributes links"),
        ];
        let want = want.map(|(path, how)| (path.to_owned(), how.to_owned()));
        assert_eq!(differences(&found), BTreeMap::from(want), "{found:?}");
        let healed = verify(&stage, &["--heal"]);
        assert_eq!(healed.code, Some(0), "{healed:?}");
        stage.settles();
        let again = verify(&stage, &[]);
        assert_eq!((again.code, differences(&again).len()), (Some(0), 0), "{again:?}");
    }
}
