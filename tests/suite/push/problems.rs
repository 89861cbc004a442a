//! Paths that fail: each is told, tried again, and never stops the rest.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use super::super::tree::{chmod, noise, plant};
use super::{Mount, Push, Stage, WAYS, Way, is_root};

/// A user who may do little.
const NOBODY: u32 = 65_534;

/// Lets everybody into a stage, and runs a command as one of them.
fn as_nobody(stage: &Stage, mut command: Command) -> Command {
    for dir in ["", "home"] {
        chmod(&stage.path(dir), 0o777);
    }
    if let Some(world) = &stage.world {
        let give = ["-R", "65534:65534"];
        let status = Command::new("chown").args(give).arg(world.home()).status().unwrap();
        assert!(status.success());
        chmod(&world.path(""), 0o755);
    }
    command.uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn what_cannot_be_read_is_listed_and_the_rest_is_mirrored() {
    if !is_root() {
        return;
    }
    for way in WAYS {
        let stage = Stage::new(way);
        for dir in ["open", "closed/deep"] {
            fs::create_dir_all(stage.s(dir)).unwrap();
        }
        for name in ["open/a", "open/secret", "closed/deep/x", "z"] {
            fs::write(stage.s(name), name).unwrap();
        }
        chmod(&stage.s("open/secret"), 0o600);
        chmod(&stage.s("closed"), 0o700);
        // What is under a name that cannot be read is left as it is.
        fs::create_dir_all(stage.t("closed/deep")).unwrap();
        fs::write(stage.t("closed/deep/older"), "x").unwrap();
        fs::write(stage.t("extra"), "x").unwrap();
        for dir in ["", "closed", "closed/deep"] {
            chmod(&stage.t(dir), 0o777);
        }
        let words = ["--no-owner", "--no-group", "--no-times", "--no-perms"];
        let words = if way == Way::Local { &words[..] } else { &[] };
        let once = [&["--once"], words].concat();
        let ended = Push::start(as_nobody(&stage, stage.command(&once))).end();
        assert_eq!(ended.code, Some(23), "{way:?}: {ended:?}");
        for path in ["open/secret", "closed"] {
            let line = format!("cannot mirror {path}: ");
            assert_eq!(ended.err.matches(&line).count(), 1, "{path} {ended:?}");
        }
        assert!(ended.err.contains("permission denied"), "{ended:?}");
        assert!(ended.err.contains("2 paths could not be mirrored:"), "{ended:?}");
        assert_eq!(fs::read(stage.t("open/a")).unwrap(), b"open/a");
        assert_eq!(fs::read(stage.t("z")).unwrap(), b"z");
        assert!(stage.t("closed/deep/older").exists(), "unknown is not missing");
        assert!(!stage.t("open/secret").exists());

        // Live: told, not in the way, and mended by what makes them readable.
        let live = [&["--json"], words].concat();
        let push = Push::start(as_nobody(&stage, stage.command(&live)));
        push.wait_event("ready");
        push.wait_for("problem", 1, |line| line["path"] == "open/secret");
        fs::write(stage.s("z"), "changed").unwrap();
        super::wait_until("others go on", || fs::read(stage.t("z")).unwrap() == b"changed");
        chmod(&stage.s("open/secret"), 0o644);
        super::wait_until("it is mirrored after all", || stage.t("open/secret").exists());
        chmod(&stage.s("closed"), 0o755);
        super::wait_until("all of it", || stage.t("closed/deep/x").exists());
        super::wait_until("and nothing else", || !stage.t("closed/deep/older").exists());
        push.wait_for("solved", 1, |line| line["path"] == "open/secret");
        push.terminate();
    }
}

#[test]
fn what_cannot_be_written_is_told_and_tried_again() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    fs::create_dir_all(stage.s("dir")).unwrap();
    for name in ["a", "dir/x"] {
        fs::write(stage.s(name), name).unwrap();
        chmod(&stage.s(name), 0o644);
    }
    fs::create_dir_all(stage.t("dir")).unwrap();
    chmod(&stage.target(), 0o777);
    // Nobody may write in it, and it is not nobody's to open up.
    chmod(&stage.t("dir"), 0o755);
    let words = ["--json", "--no-owner", "--no-group", "--no-times", "--no-perms"];
    let push = Push::start(as_nobody(&stage, stage.command(&words)));
    push.wait_for("problem", 1, |line| line["path"].as_str().unwrap().starts_with("dir"));
    super::wait_until("the rest is mirrored", || stage.t("a").exists());
    chmod(&stage.t("dir"), 0o777);
    super::wait_until("it is tried again", || stage.t("dir/x").exists());
    push.wait_event("ready");
    push.terminate();
}

#[test]
fn a_full_disk_is_told_and_goes_on_when_there_is_room() {
    if !is_root() {
        return;
    }
    for way in WAYS {
        let stage = Stage::new(way);
        let mount = Mount::tmpfs(&stage.target(), "size=2m,nr_inodes=200");
        let ballast = stage.path("target").join("ballast");
        fs::write(stage.s("ballast"), noise(1, 1_000_000)).unwrap();
        fs::write(stage.s("fits"), "fits").unwrap();
        let mut push = stage.live(&["--delete=no"]);
        stage.settles_with(&push, "the first mirror");
        // At once as a whole: a part would fit, and be there.
        fs::write(stage.path("large"), noise(2, 1_500_000)).unwrap();
        fs::rename(stage.path("large"), stage.s("large")).unwrap();
        let problem = push.wait_for("problem", 1, |line| line["path"] == "large");
        let cause = problem["cause"].as_str().unwrap();
        assert!(cause.contains("no space left on device"), "{problem}");
        fs::write(stage.s("fits"), "still").unwrap();
        super::wait_until("others go on", || fs::read(stage.t("fits")).unwrap() == b"still");
        assert!(!stage.t("large").exists());
        assert!(ballast.exists());
        fs::write(stage.s("ballast"), "less").unwrap();
        super::wait_until("it is tried again", || {
            fs::read(stage.t("large")).is_ok_and(|bytes| bytes == noise(2, 1_500_000))
        });
        push.wait_for("solved", 1, |line| line["path"] == "large");
        stage.settles_with(&push, "in the end");
        assert!(push.is_running());
        push.terminate();
        // With --once it is the exit code, and the list.
        fs::write(stage.s("larger"), noise(3, 3_000_000)).unwrap();
        let ended = stage.once_plain(&[]);
        assert_eq!(ended.code, Some(23), "{ended:?}");
        assert!(ended.err.contains("1 path could not be mirrored:"), "{ended:?}");
        stage.no_temporary_names();
        mount.unmount();
    }
}

/// Devices may be made by whoever may make them; without that the rest goes on.
#[test]
fn device_files_that_the_agent_may_not_make_are_left_out_and_said_once() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    for name in ["null", "zero"] {
        let device = rustix::fs::makedev(1, 3);
        mknodat(CWD, stage.s(name), FileType::CharacterDevice, Mode::from(0o644), device).unwrap();
    }
    fs::write(stage.s("file"), "x").unwrap();
    let weaker = |words: &[&str]| {
        super::Push::start(super::with_less(&["--bounding-set=-mknod"], &stage.command(words)))
    };
    let ended = weaker(&["--once"]).end().fine();
    assert_eq!(ended.err.matches("device files are left out").count(), 1, "{ended:?}");
    assert!(ended.err.contains("CAP_MKNOD is missing"), "{ended:?}");
    assert!(stage.t("file").exists() && !stage.t("null").exists());
    let quiet = weaker(&["--once", "--no-devices"]).end().fine();
    assert!(!quiet.err.contains("device files"), "{quiet:?}");
    // What may not be made is no reason for ever new comparisons to find something to do.
    let again = weaker(&["--json", "--dry-run"]).end().fine();
    assert_eq!(super::of(&again.lines, "op"), Vec::<serde_json::Value>::new(), "{again:?}");
    // The same where it may: all is brought.
    stage.once(&[]).fine();
    stage.settles();
}

#[test]
fn a_fifo_on_the_target_makes_room_for_a_file() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::create_dir(stage.target()).unwrap();
        for name in ["a", "b", "c"] {
            mknodat(CWD, stage.t(name), FileType::Fifo, Mode::from(0o644), 0).unwrap();
        }
        fs::write(stage.s("a"), "a").unwrap();
        fs::create_dir(stage.s("b")).unwrap();
        let push = stage.live(&[]);
        stage.settles_with(&push, "the first mirror");
        assert!(!stage.t("c").exists(), "deleted as any other name");
        mknodat(CWD, stage.t("d"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
        fs::write(stage.s("d"), noise(1, 200_000)).unwrap();
        stage.settles_with(&push, "live");
        push.terminate();
    }
}

#[test]
fn strangers_on_the_target_are_put_right_when_they_are_in_the_way() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        let push = stage.live(&["--rescan", "1"]);
        stage.settles_with(&push, "the first mirror");
        // Somebody works on the target: what the source says next holds.
        fs::remove_dir_all(stage.t("dir")).unwrap();
        fs::write(stage.t("dir"), "a file").unwrap();
        fs::remove_file(stage.t("small")).unwrap();
        fs::create_dir_all(stage.t("small/now/a/directory")).unwrap();
        fs::write(stage.t("stranger"), "x").unwrap();
        fs::write(stage.s("dir/deep/deeper/x"), "changed").unwrap();
        fs::rename(stage.s("small"), stage.s("smaller")).unwrap();
        stage.settles_with(&push, "put right");
        push.terminate();
    }
}

#[test]
fn too_few_watches_are_told_and_the_rest_is_polled() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    for i in 0..40 {
        fs::create_dir_all(stage.s(format!("d{i}"))).unwrap();
    }
    // A limit of its own: in a user namespace the count is the namespace's.
    let mut inside = stage.lsyncd();
    let script = "echo 20 >/proc/sys/user/max_inotify_watches && exec \"$@\"";
    let program = inside.get_program().to_owned();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).arg(&program);
    command.args(["push", "--json", "--no-owner", "--no-group", "--rescan", "1"]);
    command.arg(stage.source()).arg(stage.target()).env_clear();
    command.envs(inside.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inside.args(["--version"]);
    let probe = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("no user namespaces here");
        return;
    }
    let push = Push::start(command);
    push.wait_event("ready");
    push.wait_err("no space left on device; directories that are looked at every ");
    push.wait_err("; raise user.max_inotify_watches (now 20, ");
    for i in 0..40 {
        fs::write(stage.s(format!("d{i}/f")), "x").unwrap();
    }
    super::wait_until("all arrive", || (0..40).all(|i| stage.t(format!("d{i}/f")).exists()));
    push.signal(Signal::TERM);
    assert_eq!(push.end().code, Some(0));
}
