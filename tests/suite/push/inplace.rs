//! `--inplace`: files of the target stay the same files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::process::Signal;

use super::delta::write_at;
use super::{Mount, Stage, WAYS, Way, is_root};
use crate::tree::{append, noise, numbers};
use crate::world::wait_until;

const MIB: usize = 1 << 20;

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// What a file takes on disk, in bytes.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn files_stay_the_same_files_whatever_is_done_to_them() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::write(stage.s("f"), noise(1, 6 * MIB)).unwrap();
        fs::write(stage.s("small"), "small").unwrap();
        stage.once(&["--inplace"]).fine();
        let first = [inode(&stage.t("f")), inode(&stage.t("small"))];
        // Another name, outside, and somebody who holds it open.
        fs::hard_link(stage.t("f"), stage.path("other")).unwrap();
        let held = File::open(stage.t("small")).unwrap();
        let same = |what: &str| {
            stage.settles();
            let now = [inode(&stage.t("f")), inode(&stage.t("small"))];
            assert_eq!(now, first, "{way:?}: {what}");
            let content = fs::read(stage.s("f")).unwrap();
            assert!(fs::read(stage.path("other")).unwrap() == content, "{way:?}: {what}");
        };
        let push = stage.live(&["--inplace"]);
        for n in 0..4u64 {
            write_at(&stage, n * 1_000_000 + 77, &noise(n, 3000));
            same("edits");
        }
        // As editors do it.
        fs::write(stage.s("small.new"), "another small one").unwrap();
        fs::rename(stage.s("small.new"), stage.s("small")).unwrap();
        same("another small file in its place");
        let mut seen = [0; 17];
        held.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"another small one");

        let mut content = fs::read(stage.s("f")).unwrap();
        content.splice(0..0, noise(4, 1000));
        fs::write(stage.s("f"), &content).unwrap();
        same("an insertion at the front");
        append(&stage.s("f"), &noise(5, 200_000));
        same("an append, with two names");
        content.truncate(3 * MIB + 5);
        fs::write(stage.s("f"), &content).unwrap();
        same("an end cut off");

        let before = taken(&stage.t("f"));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let file = OpenOptions::new().write(true).open(stage.s("f")).unwrap();
        rustix::fs::fallocate(&file, hole, MIB as u64, MIB as u64).unwrap();
        same("a hole");
        assert!(taken(&stage.t("f")) <= before - MIB as u64 / 2, "{way:?}");
        write_at(&stage, MIB as u64 * 3 / 2, b"something in the hole");
        same("a write into it");
        fs::write(stage.s("f"), noise(9, 2 * MIB)).unwrap();
        same("something else altogether");
        fs::write(stage.s("f"), "small by now").unwrap();
        same("a small content");
        fs::write(stage.s("f"), noise(10, 4 * MIB)).unwrap();
        same("a large one again");
        push.terminate();

        assert_eq!(stage.once(&["--inplace"]).fine().done()["ops"], 0, "{way:?}");
        write_at(&stage, 2_000_000, b"while nothing ran");
        stage.once(&["--inplace"]).fine();
        same("after a restart");
        assert_eq!(stage.once(&[]).fine().done()["ops"], 0, "{way:?}");
        stage.no_temporary_names();
    }
}

#[test]
fn random_edits_arrive_in_place() {
    for way in WAYS {
        let stage = Stage::new(way);
        let mut below = numbers(11);
        let mut content = noise(5, 900_000);
        fs::write(stage.s("f"), &content).unwrap();
        let push = stage.live(&["--inplace"]);
        let first = inode(&stage.t("f"));
        for round in 0..25 {
            for _ in 0..=below(4) {
                let at = below(content.len());
                let len = below(60_000).min(content.len() - at);
                match below(5) {
                    0 => drop(content.drain(at..at + len / 2)),
                    1 => drop(content.splice(at..at, noise(round, len + 1))),
                    2 => content[at..at + len].fill(0),
                    3 => content.extend(noise(round, len * 3)),
                    _ => {
                        let part = noise(round + 100, len);
                        content[at..at + len].copy_from_slice(&part);
                    }
                }
                if content.len() < 300_000 {
                    content.extend(noise(round, 500_000));
                }
            }
            fs::write(stage.s(".f.new"), &content).unwrap();
            fs::rename(stage.s(".f.new"), stage.s("f")).unwrap();
            wait_until("the content arrives", || {
                fs::read(stage.t("f")).is_ok_and(|there| there == content)
            });
        }
        stage.settles();
        assert_eq!(inode(&stage.t("f")), first, "{way:?}");
        push.terminate();
        stage.no_temporary_names();
    }
}

#[test]
fn there_need_not_be_room_for_a_second_copy() {
    if !is_root() {
        return;
    }
    for way in WAYS {
        let stage = Stage::new(way);
        let mount = Mount::tmpfs(&stage.target(), "size=24m");
        fs::write(stage.s("f"), noise(1, 16 * MIB)).unwrap();
        stage.once(&["--inplace"]).fine();
        write_at(&stage, 7_000_000, &noise(2, 500_000));
        stage.once(&["--inplace"]).fine();
        stage.settles();
        // What would make it longer than there is room for leaves it as it is.
        let there = fs::read(stage.t("f")).unwrap();
        let time = fs::metadata(stage.t("f")).unwrap().modified().unwrap();
        write_at(&stage, 3_000_000, &noise(3, 500_000));
        append(&stage.s("f"), &noise(4, 6 * MIB));
        let ended = stage.once(&["--inplace"]);
        assert_eq!(ended.code, Some(23), "{way:?}: {ended:?}");
        let problem = &ended.events("problem")[0];
        let cause = problem["cause"].as_str().unwrap();
        assert_eq!(cause, "no space left on device", "{way:?}");
        assert!(fs::read(stage.t("f")).unwrap() == there, "{way:?}");
        assert_eq!(fs::metadata(stage.t("f")).unwrap().modified().unwrap(), time, "{way:?}");
        // And when it is shorter, it fits.
        let file = OpenOptions::new().write(true).open(stage.s("f")).unwrap();
        file.set_len(18 * MIB as u64).unwrap();
        stage.once(&["--inplace"]).fine();
        stage.settles();
        mount.unmount();
    }
}

#[test]
fn a_single_file_that_is_mounted_is_written_to() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("f"), "first").unwrap();
    stage.once(&[]).fine();
    fs::write(stage.path("outside"), "outside").unwrap();
    let mounted = Command::new("mount")
        .arg("--bind")
        .args([stage.path("outside"), stage.t("f")])
        .status()
        .unwrap();
    assert!(mounted.success());
    let _mount = Mounted(stage.t("f"));
    // A rename over it is not possible.
    let ended = stage.once(&[]);
    assert_eq!(ended.code, Some(23), "{ended:?}");
    for content in [b"second".to_vec(), noise(1, 300_000), noise(2, 400_000)] {
        fs::write(stage.s("f"), &content).unwrap();
        stage.once(&["--inplace"]).fine();
        assert!(fs::read(stage.path("outside")).unwrap() == content);
    }
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_was_killed_while_it_wrote_is_mended_by_the_next() {
    let stage = Stage::new(Way::Local);
    let size = 48 * MIB;
    let mut mixed = 0;
    for round in 0..20u64 {
        if mixed == 3 {
            break;
        }
        let before = fs::read(stage.t("f")).unwrap_or_default();
        fs::write(stage.s("f"), noise(round + 1, size)).unwrap();
        let new = fs::read(stage.s("f")).unwrap();
        let first = stage.t("f").exists().then(|| inode(&stage.t("f")));
        let mut push = stage.begin(&["--once", "--inplace"]);
        // When its first bytes are there, most of it is not.
        let mut head = [0; 16];
        while first.is_some() && push.is_running() && head != new[..16] {
            File::open(stage.t("f")).unwrap().read_exact_at(&mut head, 0).unwrap();
            std::thread::sleep(Duration::from_micros(200));
        }
        match first {
            Some(_) => drop(push.stop(Signal::KILL)),
            None => drop(push.end().fine()),
        }
        let there = fs::read(stage.t("f")).unwrap();
        mixed += u32::from(there != new && there != before);
        stage.once(&["--inplace"]).fine();
        stage.settles();
        assert!(first.is_none_or(|first| inode(&stage.t("f")) == first));
        stage.no_temporary_names();
    }
    assert!(mixed > 0, "it was never killed in the middle");
}
