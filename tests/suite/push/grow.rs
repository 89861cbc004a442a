//! Large files that change while the link stands: what was put in place on it is known, a file that
//! only grows does so in place, and whatever else happened meanwhile is found out.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{SystemTime, UNIX_EPOCH};

use super::delta::{Counted, write_at};
use super::{Stage, Way};
use crate::tree::{append, noise};
use crate::world::wait_until;

const MIB: usize = 1 << 20;

impl Counted {
    /// What went over while the target became equal, both ways.
    fn settled(&self) -> u64 {
        self.stage.settles();
        let wire = self.relay.take();
        wire.to + wire.from
    }
}

fn inode(stage: &Stage) -> u64 {
    fs::metadata(stage.t("f")).unwrap().ino()
}

#[test]
fn what_was_brought_before_is_known() {
    let counted = Counted::new(MIB);
    let stage = &counted.stage;
    let push = counted.push(&[]);
    push.wait_event("ready");
    fs::write(stage.s("f"), noise(2, 8 * MIB)).unwrap();
    counted.settled();
    let first = inode(stage);

    append(&stage.s("f"), &noise(3, 1000));
    let bytes = counted.settled();
    assert!(bytes < 8 * 1024, "a line more: {bytes}");
    assert_eq!(inode(stage), first, "it grew in place");

    append(&stage.s("f"), &noise(4, MIB));
    let bytes = counted.settled();
    assert!(bytes < MIB as u64 + 32 * 1024, "a MiB more: {bytes}");
    assert_eq!(inode(stage), first, "it grew in place");

    // No sums: only the block, and what one of them costs besides.
    write_at(stage, 5_000_000, b"in the middle");
    let bytes = counted.settled();
    assert!(bytes < 24 * 1024, "a few bytes: {bytes}");
    assert_ne!(inode(stage), first, "a reader sees all of the change or nothing");

    // It goes by another name.
    fs::rename(stage.s("f"), stage.s("g")).unwrap();
    counted.settled();
    append(&stage.s("g"), b"one line more");
    let bytes = counted.settled();
    assert!(bytes < 16 * 1024, "after a rename: {bytes}");

    let content = fs::read(stage.s("g")).unwrap();
    fs::write(stage.s("g"), &content[..4 * MIB]).unwrap();
    let bytes = counted.settled();
    assert!(bytes < 64 * 1024, "an end cut off: {bytes}");
    push.terminate();
    stage.no_temporary_names();
}

/// Waits until a change of what stands on the target would show in its times.
fn rested(stage: &Stage) {
    wait_until("it rests", || {
        let changed = stage.t("f").metadata().unwrap().ctime() as u64;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        now > changed + 2
    });
}

#[test]
fn what_grew_while_nothing_ran_grows_in_place() {
    let counted = Counted::new(8 * MIB + 5000);
    let stage = &counted.stage;
    let mut last = inode(stage);
    let mut grows = |what: &str, most: u64, in_place: bool| {
        rested(stage);
        counted.costs_at_most(most, what);
        assert_eq!(inode(stage) == last, in_place, "{what}");
        last = inode(stage);
    };
    append(&stage.s("f"), &noise(2, 1000));
    grows("a line more", 16 * 1024, true);
    append(&stage.s("f"), &noise(3, MIB));
    grows("a MiB more", MIB as u64 + 40 * 1024, true);

    append(&stage.s("f"), &noise(4, 1000));
    write_at(stage, 8 * MIB as u64 + 4000, b"in what was the end");
    grows("its end changed, too", 64 * 1024, false);
    append(&stage.s("f"), &noise(5, 1000));
    write_at(stage, 77, b"near the front");
    grows("something changed near the front", 64 * 1024, false);

    append(&stage.s("f"), &noise(6, 1000));
    fs::hard_link(stage.t("f"), stage.path("other name")).unwrap();
    grows("another name on the target", 24 * 1024, false);
    fs::remove_file(stage.path("other name")).unwrap();

    append(&stage.s("f"), &noise(7, 1000));
    let target = fs::OpenOptions::new().write(true).open(stage.t("f")).unwrap();
    target.write_all_at(b"somebody else's", MIB as u64).unwrap();
    drop(target);
    grows("changed on the target", 64 * 1024, false);
    stage.no_temporary_names();
}

#[test]
fn a_file_that_grows_all_the_time_goes_on_where_it_was() {
    let counted = Counted::new(4 * MIB);
    let stage = &counted.stage;
    rested(stage);
    let before = inode(stage);
    append(&stage.s("f"), b"while nothing ran");
    let push = counted.push(&[]);
    push.wait_event("ready");
    for n in 0..50 {
        append(&stage.s("f"), format!("line {n}\n").as_bytes());
    }
    counted.settled();
    assert_eq!(inode(stage), before, "it grew in place, also when it was new to us");
    push.terminate();
    stage.no_temporary_names();
}

#[test]
fn what_was_looked_for_once_is_looked_for_again_without_asking() {
    let counted = Counted::new(8 * MIB);
    let stage = &counted.stage;
    let push = counted.push(&[]);
    push.wait_event("ready");
    let aside = stage.source().with_extension("aside");
    let change = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut content = fs::read(stage.s("f")).unwrap();
        change(&mut content);
        fs::write(&aside, &content).unwrap();
        fs::rename(&aside, stage.s("f")).unwrap();
        counted.settled()
    };
    // The first is known whole by its blocks, but not what they are at any offset.
    let bytes = change(&|content| content[0] ^= 1);
    assert!(bytes < 24 * 1024, "a byte: {bytes}");
    // 12 bytes for each KiB of the base.
    let bytes = change(&|content| content.splice(0..0, noise(2, 1000)).for_each(drop));
    assert!((96 * 1024..150 * 1024).contains(&bytes), "something before all of it: {bytes}");
    for n in 0..3 {
        let bytes = change(&|content| content.splice(0..0, noise(3 + n, 1000)).for_each(drop));
        assert!(bytes < 24 * 1024, "once more: {bytes}");
    }
    let bytes = change(&|content| content.drain(5 * MIB..5 * MIB + 777).for_each(drop));
    assert!(bytes < 24 * 1024, "something taken out: {bytes}");
    // What stands where it stood, and what is new, is in them too.
    let bytes = change(&|content| content[MIB..2 * MIB].copy_from_slice(&noise(9, MIB)));
    assert!(bytes < MIB as u64 + 64 * 1024, "a MiB: {bytes}");
    let bytes = change(&|content| content.splice(MIB / 2..MIB / 2, *b"abc").for_each(drop));
    assert!(bytes < 24 * 1024, "something before the new: {bytes}");
    // A file that somebody has changed on the target is another base.
    fs::write(stage.t("f"), &fs::read(stage.s("f")).unwrap()[..4 * MIB]).unwrap();
    let bytes = change(&|content| content.splice(0..0, noise(8, 1000)).for_each(drop));
    assert!(bytes < 5 * MIB as u64, "what is left there is still of use: {bytes}");
    push.terminate();
    stage.no_temporary_names();
}

#[test]
fn a_local_file_grows_in_place_too() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("f"), noise(1, 200_000)).unwrap();
    let push = stage.live(&[]);
    push.wait_event("ready");
    let first = inode(&stage);
    for n in 0..20 {
        append(&stage.s("f"), &noise(n, 777 * n as usize));
        stage.settles();
    }
    assert_eq!(inode(&stage), first);
    push.terminate();
}

#[test]
fn a_target_that_was_changed_behind_our_back_is_mended() {
    let counted = Counted::new(MIB);
    let stage = &counted.stage;
    let push = counted.push(&[]);
    push.wait_event("ready");
    for way in ["more", "middle"] {
        fs::write(stage.s("f"), noise(2, 2 * MIB)).unwrap();
        stage.settles();
        // What comes after it in its directory: the agent knows by now what it left there.
        stage.barrier();
        // The size and the time stay as they were.
        let time = fs::metadata(stage.t("f")).unwrap().modified().unwrap();
        let file = fs::OpenOptions::new().write(true).open(stage.t("f")).unwrap();
        file.write_all_at(b"somebody else's", 700_000).unwrap();
        file.set_modified(time).unwrap();
        match way {
            "more" => append(&stage.s("f"), b"a line"),
            _ => write_at(stage, 9, b"something"),
        }
        stage.settles();
    }
    push.terminate();
    stage.no_temporary_names();
}

#[test]
fn a_target_that_grows_elsewhere_too_is_not_grown_over() {
    let counted = Counted::new(MIB);
    let stage = &counted.stage;
    let push = counted.push(&[]);
    push.wait_event("ready");
    append(&stage.s("f"), b"a line");
    stage.settles();
    append(&stage.t("f"), b"somebody else's line");
    append(&stage.s("f"), b"another line");
    stage.settles();
    fs::hard_link(stage.t("f"), stage.path("kept")).unwrap();
    let before = fs::read(stage.path("kept")).unwrap();
    append(&stage.s("f"), b"a third line");
    stage.settles();
    assert!(fs::read(stage.path("kept")).unwrap() == before, "the other name has the old content");
    push.terminate();
}

#[test]
fn what_changed_before_the_end_as_well_is_found_when_it_rests() {
    let counted = Counted::new(MIB);
    let stage = &counted.stage;
    // Too large to be read whole each time; most of it is a hole.
    let size = 80 * MIB as u64;
    let file = fs::OpenOptions::new().write(true).open(stage.s("f")).unwrap();
    file.set_len(size).unwrap();
    let push = counted.push(&[]);
    push.wait_event("ready");
    append(&stage.s("f"), b"more");
    stage.settles();
    // What does not grow is never taken to be as it was.
    let before = fs::metadata(stage.s("f")).unwrap().modified().unwrap();
    file.write_all_at(b"a page", size / 2 + 55_555).unwrap();
    wait_until("the change arrived", || {
        let found = fs::metadata(stage.t("f")).unwrap().modified().unwrap();
        found != before && found == fs::metadata(stage.s("f")).unwrap().modified().unwrap()
    });
    assert!(fs::read(stage.t("f")).unwrap() == fs::read(stage.s("f")).unwrap());
    // Nor, from then on, what grows. Another file was never seen to do that.
    append(&stage.s("f"), b"and more");
    stage.settles();
    fs::rename(stage.s("f"), stage.s("old")).unwrap();
    fs::copy(stage.s("old"), stage.s("f")).unwrap();
    let file = fs::OpenOptions::new().write(true).open(stage.s("f")).unwrap();
    stage.settles();
    append(&stage.s("f"), b"and more");
    stage.settles();
    // Where nobody looks at once; then it grows.
    file.write_all_at(b"hidden", size / 2 + 777_777).unwrap();
    append(&stage.s("f"), b"and more");
    stage.settles();
    // The same, and its time put back to what it was.
    let time = fs::metadata(stage.s("f")).unwrap().modified().unwrap();
    file.write_all_at(b"hidden", size / 3 + 1_777_777).unwrap();
    append(&stage.s("f"), b"and more");
    file.set_modified(time).unwrap();
    wait_until("the hidden write arrived", || {
        fs::read(stage.t("f")).unwrap() == fs::read(stage.s("f")).unwrap()
    });
    stage.settles();
    push.terminate();
}
