//! The power goes on the target's host: what its disk held at that moment is all there is.
//!
//! The disk is a file with ext4 in it. A copy of that file, made while the file system is in use, is
//! what a power cut leaves: whatever only stood in memory is not in it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use super::super::tree::{ACL, acl, chmod, noise, plant, set_mtime, set_xattr};
use super::super::world::run;
use super::{Mount, Push, Stage, Way, is_root, unequal};

/// Nothing is written by itself, and no rename has its content written first.
const LAZY: &str = "loop,commit=600,noauto_da_alloc";

fn mount(image: &Path, at: &Path) -> Mount {
    fs::create_dir_all(at).unwrap();
    run(Command::new("mount").args(["-o", LAZY]).arg(image).arg(at));
    Mount(at.to_owned())
}

/// A live mirror to a host that can be switched off, with everything on its disk.
fn live(words: &[&str]) -> (Stage, Mount, Push) {
    let mut stage = Stage::new(Way::Ssh);
    let image = stage.path("disk");
    fs::File::create(&image).unwrap().set_len(200 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096"]).arg(&image));
    let disk = mount(&image, &stage.target());
    fs::remove_dir(stage.t("lost+found")).unwrap();
    stage.world_mut().restart_as_booted("6d3b1c1e-0000-4000-8000-000000000001");
    plant(&stage.source());
    fs::write(stage.s("base"), noise(1, 4 << 20)).unwrap();
    let push = stage.live(words);
    run(Command::new("sync").arg("-f").arg(stage.target()));
    (stage, disk, push)
}

/// Every kind of change, and all of it acked.
fn change(stage: &Stage) {
    for i in 0..40 {
        fs::create_dir_all(stage.s(format!("new/{}", i % 4))).unwrap();
        fs::write(stage.s(format!("new/{}/{i}", i % 4)), noise(i, 3000)).unwrap();
    }
    let mut base = fs::read(stage.s("base")).unwrap();
    base[2_000_000..2_100_000].copy_from_slice(&noise(2, 100_000));
    fs::write(stage.s("base"), base).unwrap();
    fs::write(stage.s("large"), noise(3, 3 << 20)).unwrap();
    fs::write(stage.s("small"), "of the same name").unwrap();
    fs::rename(stage.s("dir/deep"), stage.s("moved")).unwrap();
    fs::remove_dir_all(stage.s("empty dir")).unwrap();
    std::os::unix::fs::symlink("small", stage.s("new/link")).unwrap();
    chmod(&stage.s("dir/program"), 0o700);
    set_mtime(&stage.s("dir/64k"), 1_000_000_001, 5);
    set_xattr(&stage.s("dir/64k"), "user.more", b"more");
    set_xattr(&stage.s("dir/64k and one"), ACL, &acl(&[(9, 4)]));
    let mut flush = stage.lsyncd();
    flush.args(["flush", "--timeout", "60"]);
    Push::start(flush).end().fine();
}

#[test]
fn with_fsync_what_was_acked_survives_a_power_cut() {
    if !is_root() {
        return;
    }
    for fsync in [true, false] {
        let (stage, _disk, push) = live(if fsync { &["--fsync"] } else { &[] });
        change(&stage);
        let image = stage.path("as it was");
        run(Command::new("cp").arg("--sparse=always").arg(stage.path("disk")).arg(&image));
        let at = stage.path("after");
        let _after = mount(&image, &at);
        let lost = unequal(&stage.source(), &at);
        // What this shows is only worth something where it is lost otherwise.
        assert_eq!(lost.is_none(), fsync, "{lost:?}");
        push.terminate();
    }
}

#[test]
fn what_a_power_cut_took_is_sent_again() {
    if !is_root() {
        return;
    }
    let (mut stage, disk, push) = live(&[]);
    change(&stage);
    let image = stage.path("as it was");
    run(Command::new("cp").arg("--sparse=always").arg(stage.path("disk")).arg(&image));
    stage.world_mut().stop();
    disk.unmount();
    let _after = mount(&image, &stage.target());
    assert!(unequal(&stage.source(), &stage.target()).is_some(), "nothing was lost");
    // Some file systems write size and time before the content.
    for name in ["new/0/0", "small"] {
        let (from, to) = (stage.s(name), stage.t(name));
        let meta = from.metadata().unwrap();
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, vec![0; usize::try_from(meta.len()).unwrap()]).unwrap();
        chmod(&to, meta.mode() & 0o7777);
        set_mtime(&to, meta.mtime(), meta.mtime_nsec());
    }
    stage.world_mut().restart_as_booted("6d3b1c1e-0000-4000-8000-000000000002");
    push.wait_event("reconnected");
    stage.settles_with(&push, "after the power cut");
    push.terminate();
    stage.no_temporary_names();
}
