//! Large files that moved while that could not be told: their content does not go over again.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::delta::{Counted, SESSION};
use super::wait_until;
use crate::tree::{noise, set_mtime};

const MIB: usize = 1 << 20;
/// What sums, listings and the little that was edited may cost.
const LITTLE: u64 = 40 * 1024;

/// A target with these files of 4 MiB each, mirrored.
fn counted(names: &[&str]) -> Counted {
    let counted = Counted::new(10);
    for (at, name) in names.iter().enumerate() {
        write(&counted, name, at as u64, 4 * MIB);
    }
    counted.once();
    counted
}

fn write(counted: &Counted, name: &str, seed: u64, size: usize) {
    let file = counted.stage.s(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, noise(seed, size)).unwrap();
}

fn rename(counted: &Counted, from: &str, to: &str) {
    let to = counted.stage.s(to);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::rename(counted.stage.s(from), to).unwrap();
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn a_file_that_moved_while_nothing_ran_costs_no_content() {
    let counted = counted(&["m/one", "m/two", "m/three"]);
    // To where the walk comes earlier, later, and in the same directory.
    rename(&counted, "m/one", "a/one");
    rename(&counted, "m/two", "z/deep/two");
    rename(&counted, "m/three", "m/3");
    counted.costs_at_most(LITTLE, "files that moved");
    assert!(!counted.stage.t("m/one").exists());

    // It takes the name of another one, which moves on: logs do.
    rename(&counted, "m/3", "m/4");
    rename(&counted, "a/one", "m/3");
    counted.costs_at_most(LITTLE, "files that took each other's names");
    rename(&counted, "m/3", "m/4");
    write(&counted, "m/3", 50, 3000);
    counted.costs_at_most(LITTLE, "a small file in the place of one that moved");

    // And a copy of what stays.
    let copy = fs::read(counted.stage.s("m/4")).unwrap();
    fs::write(counted.stage.s("copy"), copy).unwrap();
    let time = fs::metadata(counted.stage.s("m/4")).unwrap();
    set_mtime(&counted.stage.s("copy"), time.mtime(), time.mtime_nsec());
    counted.costs_at_most(LITTLE, "a copy");
    counted.stage.no_temporary_names();
}

#[test]
fn a_directory_that_moved_while_nothing_ran_costs_no_content() {
    let counted = counted(&["d/one", "d/s/two", "d/s/t/three"]);
    write(&counted, "d/s/middling", 9, 100 * 1024);
    write(&counted, "d/s/small", 10, 10 * 1024);
    counted.once();
    rename(&counted, "d", "e");
    // What is small travels.
    counted.costs_at_most(LITTLE + 10 * 1024, "a directory");
    rename(&counted, "e/s", "b/s");
    fs::remove_dir_all(counted.stage.s("e")).unwrap();
    counted.costs_at_most(LITTLE + 10 * 1024, "a directory out of one that went");
    counted.stage.no_temporary_names();
}

#[test]
fn where_nothing_is_deleted_it_is_copied_all_the_same() {
    let counted = counted(&["m/one"]);
    rename(&counted, "m/one", "a/one");
    fs::write(counted.stage.s("m/marker"), "x").unwrap();
    let push = counted.push(&["--once", "--delete", "no"]);
    push.end().fine();
    let wire = counted.relay.take();
    assert!(wire.to + wire.from < SESSION + LITTLE, "{wire:?}");
    let stage = &counted.stage;
    let content = fs::read(stage.s("a/one")).unwrap();
    assert!(fs::read(stage.t("a/one")).unwrap() == content);
    assert!(fs::read(stage.t("m/one")).unwrap() == content);
}

#[test]
fn what_only_looks_alike_makes_no_wrong_file() {
    let counted = counted(&["m/one", "m/two", "z/three"]);
    let stage = &counted.stage;
    for name in ["m/one", "m/two", "z/three"] {
        set_mtime(&stage.s(name), 1_000_000, 5);
    }
    counted.once();
    // Two that went, and two that came; one of those is known, the other never was.
    rename(&counted, "m/two", "a/new");
    fs::remove_file(stage.s("m/one")).unwrap();
    write(&counted, "a/other", 77, 4 * MIB);
    set_mtime(&stage.s("a/other"), 1_000_000, 5);
    let (_, bytes) = counted.once();
    assert!(bytes > 4 * MIB as u64, "{bytes}");
    // What is in the way of it being copied is no file, or nobody's any more.
    rename(&counted, "a/new", "b/new");
    fs::remove_file(stage.t("a/new")).unwrap();
    symlink("/etc/passwd", stage.t("a/new")).unwrap();
    counted.once();
    rename(&counted, "b/new", "c/new");
    fs::remove_file(stage.t("b/new")).unwrap();
    fs::create_dir(stage.t("b/new")).unwrap();
    fs::write(stage.t("b/new/inner"), "x").unwrap();
    counted.once();
    stage.no_temporary_names();
}

#[test]
fn a_file_that_changed_and_moved_while_the_link_was_down_is_a_delta() {
    let mut counted = counted(&["m/one", "m/two", "d/three", "d/four"]);
    let push = counted.push(&[]);
    push.wait_event("ready");
    counted.stage.world_mut().stop();
    push.wait_event("lost");
    counted.relay.take();
    for (name, to) in [("m/one", "a/one"), ("m/two", "m/2"), ("d/three", "d/3")] {
        let file = fs::OpenOptions::new().write(true).open(counted.stage.s(name)).unwrap();
        file.write_all_at(b"changed", 2 * MIB as u64).unwrap();
        drop(file);
        rename(&counted, name, to);
    }
    rename(&counted, "d", "e");
    counted.stage.world_mut().restart();
    push.wait_event("reconnected");
    counted.stage.settles_with(&push, "back");
    let wire = counted.relay.take();
    assert!(wire.to + wire.from < SESSION + 3 * LITTLE, "{wire:?} {}", push.said());
    push.terminate();
    counted.stage.no_temporary_names();
}

#[test]
fn a_rename_that_was_on_its_way_when_the_link_broke_costs_no_content() {
    let counted = counted(&["m/one", "d/two", "d/s/three"]);
    let push = counted.push(&[]);
    push.wait_event("ready");
    for round in 0..3 {
        // Nobody answers any more, and then the link ends.
        counted.stage.world().signal_sessions(Signal::STOP);
        let name = |n: i32| format!("m/{n}");
        rename(&counted, &if round == 0 { "m/one".into() } else { name(round) }, &name(round + 1));
        let dir = |n: i32| format!("d{n}");
        rename(&counted, &if round == 0 { "d".into() } else { dir(round) }, &dir(round + 1));
        std::thread::sleep(Duration::from_millis(300));
        counted.relay.take();
        counted.stage.world().cut();
        push.wait_events("reconnected", round as usize + 1);
        counted.stage.settles_with(&push, "on a new link");
        let wire = counted.relay.take();
        assert!(wire.to + wire.from < SESSION + 3 * LITTLE, "{round} {wire:?}");
    }
    push.terminate();
    counted.stage.no_temporary_names();
}

#[test]
fn an_agent_that_is_killed_while_it_copies_loses_nothing() {
    let counted = counted(&["m/one"]);
    let stage = &counted.stage;
    // Alike, and another content: all of it goes over, and slowly.
    set_mtime(&stage.s("m/one"), 1_000_000, 5);
    counted.once();
    fs::remove_file(stage.s("m/one")).unwrap();
    write(&counted, "a/one", 5, 4 * MIB);
    set_mtime(&stage.s("a/one"), 1_000_000, 5);
    let before = inode(&stage.t("m/one"));
    let push = counted.push(&["--bwlimit", "1M"]);
    for round in 0..2 {
        wait_until("some of it has come", || {
            let staged = fs::read_dir(stage.t("a")).into_iter().flatten().flatten();
            let mut large = staged.filter(|name| name.metadata().is_ok_and(|m| m.blocks() > 64));
            large.next().is_some()
        });
        // A machine that is busy may let this look late.
        let stays = fs::symlink_metadata(stage.t("m/one")).is_ok_and(|one| one.ino() == before);
        let arrived = stage.t("a/one").exists();
        assert!(stays || arrived, "it stays for as long as it may be of use");
        assert!(stage.world().kill(|name| name.starts_with("lsync-agent")));
        push.wait_events("reconnected", 1 + round);
    }
    push.wait_event("ready");
    stage.settles_with(&push, "in the end");
    push.terminate();
    stage.no_temporary_names();
}
