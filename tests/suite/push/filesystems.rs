//! Targets on other file systems: what they can hold is there exactly, and what they cannot hold is
//! never a difference.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::tree::{
    ACL, Tree, acl, append, chmod, differences, noise, plant, plant_specials, set_mtime, set_xattr,
    tree, xattrs,
};
use super::{Mount, Stage, Way, is_root, of, wait_until};

/// What of a tree a file system can hold.
#[derive(Debug, Clone, Copy)]
struct Can {
    nanoseconds: bool,
    xattrs: bool,
}

const ALL: Can = Can { nanoseconds: true, xattrs: true };

fn as_held(mut tree: Tree, can: Can) -> Tree {
    tree.remove(&b"lost+found"[..]);
    for thing in tree.values_mut() {
        // XFS shows its lists once more.
        thing.xattrs.retain(|name, _| !name.starts_with(b"trusted.SGI_ACL_"));
        if !can.nanoseconds {
            thing.mtime.1 = 0;
        }
        if !can.xattrs {
            thing.xattrs.clear();
        }
    }
    tree
}

#[track_caller]
fn equal(source: &Path, target: &Path, can: Can) -> bool {
    let (Ok(a), Ok(b)) = (tree(source), tree(target)) else { return false };
    differences(&as_held(a, can), &as_held(b, can)).is_empty()
}

/// What a further start would do.
fn left_to_do(stage: &Stage) -> Vec<serde_json::Value> {
    of(&stage.once(&["--dry-run"]).fine().lines, "op")
}

fn holds(mount: impl FnOnce(&Stage) -> Option<Mount>, can: Can) {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    let Some(mount) = mount(&stage) else { return };
    drop(fs::remove_dir(stage.t("lost+found")));
    plant(&stage.source());
    let first = stage.once(&[]).fine();
    assert_eq!(of(&first.lines, "problem"), [] as [serde_json::Value; 0]);
    assert!(
        equal(&stage.source(), &stage.target(), can),
        "{:?}",
        super::unequal(&stage.source(), &stage.target())
    );
    assert_eq!(left_to_do(&stage), [] as [serde_json::Value; 0], "after the first mirror");
    let warned = of(&first.lines, "warning");
    assert_eq!(warned.len(), usize::from(!can.xattrs), "{warned:?}");

    let push = stage.live(&[]);
    fs::write(stage.s("small"), "other").unwrap();
    append(&stage.s("dir/large"), &noise(5, 100_000));
    fs::rename(stage.s("dir/deep"), stage.s("moved")).unwrap();
    fs::remove_dir_all(stage.s("empty dir")).unwrap();
    chmod(&stage.s("dir/program"), 0o700);
    set_mtime(&stage.s("dir/64k"), 1_000_000_001, 999_999_999);
    set_xattr(&stage.s("dir/64k"), "user.more", b"more");
    set_xattr(&stage.s("dir/64k and one"), ACL, &acl(&[(9, 4)]));
    plant_specials(&stage.s("moved"), "live ");
    wait_until("live changes are there", || equal(&stage.source(), &stage.target(), can));
    push.terminate();
    assert_eq!(left_to_do(&stage), [] as [serde_json::Value; 0], "after live changes");
    mount.unmount();
}

/// A file system in a file; `None` where this kernel does not know it.
pub(super) fn image(stage: &Stage, kind: &str, make: &[&str]) -> Option<Mount> {
    // A module may be loaded by the first mount.
    let known =
        || fs::read_to_string("/proc/filesystems").unwrap().contains(&format!("\t{kind}\n"));
    if !known() {
        drop(Command::new("modprobe").arg(kind).output());
        if !known() {
            return None;
        }
    }
    let file = stage.path("image");
    fs::File::create(&file).unwrap().set_len(400 << 20).unwrap();
    let made = Command::new(format!("mkfs.{kind}")).args(make).arg(&file).output();
    let made = made.unwrap_or_else(|error| panic!("mkfs.{kind}: {error}"));
    assert!(made.status.success(), "{made:?}");
    fs::create_dir(stage.target()).unwrap();
    let mounted =
        Command::new("mount").args(["-o", "loop"]).arg(&file).arg(stage.target()).output();
    let mounted = mounted.unwrap();
    assert!(mounted.status.success(), "{mounted:?}");
    Some(Mount(stage.target()))
}

#[test]
fn ext4() {
    holds(|stage| image(stage, "ext4", &["-q", "-F", "-b", "4096"]), ALL);
}

#[test]
fn xfs() {
    holds(|stage| image(stage, "xfs", &["-q", "-f"]), ALL);
}

#[test]
fn btrfs() {
    holds(|stage| image(stage, "btrfs", &["-q", "-f"]), ALL);
}

#[test]
fn tmpfs() {
    holds(|stage| Some(Mount::tmpfs(&stage.target(), "size=64m")), ALL);
}

#[test]
fn times_of_whole_seconds() {
    let can = Can { nanoseconds: false, ..ALL };
    holds(|stage| image(stage, "ext2", &["-q", "-F", "-b", "4096", "-I", "128"]), can);
}

#[test]
fn no_extended_attributes() {
    let ramfs = |stage: &Stage| {
        fs::create_dir(stage.target()).unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "ramfs", "ramfs"]).arg(stage.target()).status().unwrap();
        assert!(mounted.success());
        Some(Mount(stage.target()))
    };
    holds(ramfs, Can { xattrs: false, ..ALL });
}

/// A file system has less room for attributes than for contents: the content is there all the same.
#[test]
fn attributes_without_room_are_a_problem_of_their_own() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    let Some(mount) = image(&stage, "ext4", &["-q", "-F", "-b", "1024"]) else { return };
    fs::write(stage.s("small"), "small").unwrap();
    fs::write(stage.s("large"), noise(1, 200_000)).unwrap();
    fs::create_dir(stage.s("dir")).unwrap();
    for name in ["small", "large", "dir"] {
        set_xattr(&stage.s(name), "user.a", b"fits");
        set_xattr(&stage.s(name), "user.b", &noise(2, 3000));
    }
    let ended = stage.once(&[]);
    assert_eq!(ended.code, Some(23), "{ended:?}");
    let problems = of(&ended.lines, "problem");
    for name in ["small", "large", "dir"] {
        let told = problems.iter().find(|line| line["path"] == name).unwrap();
        let cause = told["cause"].as_str().unwrap();
        assert!(cause.starts_with("extended attributes cannot be set: "), "{cause}");
        assert_eq!(xattrs(&stage.t(name)).unwrap().len(), 1, "what fits is there");
    }
    assert_eq!(fs::read(stage.t("small")).unwrap(), b"small");
    assert_eq!(fs::read(stage.t("large")).unwrap(), noise(1, 200_000));
    for name in ["small", "large", "dir"] {
        super::super::tree::remove_xattr(&stage.s(name), "user.b");
    }
    stage.once(&[]).fine();
    assert!(equal(&stage.source(), &stage.target(), ALL));
    mount.unmount();
}

/// What a target refuses is a problem that says why, and the rest goes on.
#[test]
fn what_a_target_refuses_is_told_with_its_cause() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    fs::create_dir(stage.target()).unwrap();
    fs::write(stage.s("kept"), "new").unwrap();
    fs::write(stage.t("kept"), "of old").unwrap();
    fs::create_dir(stage.t("frozen")).unwrap();
    fs::create_dir(stage.s("frozen")).unwrap();
    fs::write(stage.s("frozen/inner"), "x").unwrap();
    fs::write(stage.s("other"), "goes on").unwrap();
    let attribute = |flag: &str, name: &str| {
        let done = Command::new("chattr").arg(flag).arg(stage.t(name)).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    attribute("+i", "kept");
    attribute("+i", "frozen");
    let ended = stage.once(&[]);
    attribute("-i", "kept");
    attribute("-i", "frozen");
    assert_eq!(ended.code, Some(23), "{ended:?}");
    assert_eq!(fs::read(stage.t("other")).unwrap(), b"goes on");
    assert_eq!(fs::read(stage.t("kept")).unwrap(), b"of old");
    let problems = of(&ended.lines, "problem");
    for name in ["kept", "frozen/inner"] {
        let told = problems.iter().find(|line| line["path"] == name);
        let told = told.unwrap_or_else(|| panic!("{name}: {ended:?}"));
        assert!(told["cause"].as_str().unwrap().contains("is immutable"), "{told}");
    }
    stage.once(&[]).fine();
    stage.settles();
}
