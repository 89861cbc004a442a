//! Large files that moved while nobody could tell: their content is copied from where it stood, and
//! what it is copied from goes only after that.

use super::world::*;
use crate::config::{Delete, MaxDelete};
use crate::error::Exit;
use crate::mirror::{Event, Report, Rules};
use crate::watch::WatchEvent;
use lsync_protocol::entry::Kind;
use std::sync::Arc;

/// Directories before and behind each other, with large files in them.
const DIRS: [&str; 5] = ["a/", "d/", "d/s/", "m/", "z/"];

/// A live mirror of [`DIRS`] with these large files.
fn large(rules: Rules, names: &[&str]) -> World {
    let mut world = World::live(rules, &DIRS);
    for (at, name) in names.iter().enumerate() {
        world.write(name, LARGE + at as u64);
    }
    world.settle();
    world.assert_equal();
    world.based.clear();
    world.sent.clear();
    world
}

/// The program ends, this happens, and it begins again.
fn while_stopped(world: &mut World, rules: Rules, act: impl Fn(&mut World)) {
    world.cut();
    act(world);
    world.restart(rules);
    world.connect();
    world.settle();
}

/// All happens that can, but no content of a large file arrives.
fn all_but_content(world: &mut World) {
    for _ in 0..200 {
        for act in ACTS.into_iter().filter(|act| *act != Act::Stage) {
            world.act(act, 0);
        }
        world.now += std::time::Duration::from_millis(10);
        world.handle(Event::Tick);
    }
}

fn based(world: &World) -> Vec<String> {
    let mut based: Vec<String> = world
        .based
        .iter()
        .map(|(new, old)| format!("{new}<{}", old.as_deref().unwrap_or("nothing")))
        .collect();
    based.sort();
    based
}

fn deleted(world: &World) -> usize {
    world.sent.iter().filter(|line| line.starts_with("delete")).count()
}

#[test]
fn what_moved_while_nobody_watched_is_found_by_size_and_time() {
    type Change = fn(&mut World);
    let table: [(&[&str], Change, &[&str]); 10] = [
        // In the order of the walk, and against it.
        (&["a/f"], |w| w.rename("a/f", "z/f"), &["z/f<a/f"]),
        (&["z/f"], |w| w.rename("z/f", "a/g"), &["a/g<z/f"]),
        (&["a/f"], |w| w.rename("a/f", "a/g"), &["a/g<a/f"]),
        // Directories: what is in them is nowhere listed as such.
        (
            &["d/1", "d/s/2", "d/s/3"],
            |w| w.rename("d", "e"),
            &["e/1<d/1", "e/s/2<d/s/2", "e/s/3<d/s/3"],
        ),
        (&["d/1", "d/s/2"], |w| w.rename("d", "z/d"), &["z/d/1<d/1", "z/d/s/2<d/s/2"]),
        (
            &["d/s/1", "d/s/2"],
            |w| {
                w.rename("d/s/1", "a/1");
                w.rename("d/s/2", "z/2");
                w.remove("d");
            },
            &["a/1<d/s/1", "z/2<d/s/2"],
        ),
        // As logs are rotated.
        (
            &["a/log.1", "a/log"],
            |w| {
                w.rename("a/log.1", "a/log.2");
                w.rename("a/log", "a/log.1");
                w.write("a/log", LARGE + 500);
            },
            &["a/log.1<a/log", "a/log.2<a/log.1"],
        ),
        (
            &["a/log.1", "a/log"],
            |w| {
                w.rename("a/log", "a/log.1");
                w.write("a/log", 5);
            },
            &["a/log.1<a/log"],
        ),
        // What changed as well, or is small, is not known again.
        (
            &["a/f"],
            |w| {
                w.rename("a/f", "z/f");
                w.write("z/f", LARGE + 900);
            },
            &[],
        ),
        (
            &["a/f"],
            |w| {
                w.remove("a/f");
                w.write("z/f", 5);
            },
            &[],
        ),
    ];
    for (names, act, want) in table {
        let mut world = large(rules(), names);
        while_stopped(&mut world, rules(), act);
        world.assert_equal();
        assert_eq!(based(&world), want);
        assert!(world.mirror.is_ready() && world.mirror.dirty() == 0);
    }
}

#[test]
fn a_first_mirror_waits_for_nothing() {
    let mut world = World::new(rules());
    world.fill(&DIRS);
    for name in ["a/f", "z/f"] {
        world.write(name, LARGE);
    }
    world.events.clear();
    world.connect();
    // The last directory is not read yet.
    while !world.sent.contains(&"send z/f".to_owned()) {
        assert!(!world.mirror.is_ready() && ACTS.iter().any(|act| world.act(*act, 0)));
    }
    assert!(!world.sent.contains(&"send a/f".to_owned()));
    world.settle();
    world.assert_equal();
    assert_eq!(world.based, []);
}

#[test]
fn nothing_is_deleted_that_is_being_copied_from_and_all_else_is_at_once() {
    for act in [(|w: &mut World| w.rename("d", "n")) as fn(&mut World), |w: &mut World| {
        w.rename("d/s", "n");
        w.remove("d");
    }] {
        let mut world = large(rules(), &["d/s/f", "m/g"]);
        world.cut();
        act(&mut world);
        world.remove("m");
        world.restart(rules());
        world.connect();
        all_but_content(&mut world);
        assert!(!world.has("m") && world.has("d/s/f"), "{:?}", world.sent);
        assert!(!world.mirror.is_ready());
        world.settle();
        world.assert_equal();
        assert!(world.mirror.is_ready() && world.based.len() == 1);
    }
}

#[test]
fn a_guard_judges_all_deletes_of_a_walk_at_once() {
    for (max, stops) in [(3, false), (2, true)] {
        let limited = || Rules { max_delete: Some(MaxDelete::Names(max)), ..rules() };
        let mut world = large(limited(), &["a/f", "a/g", "z/h"]);
        while_stopped(&mut world, limited(), |w| {
            w.rename("a/f", "m/f");
            w.remove("a/g");
            w.remove("z/h");
        });
        assert_eq!(world.exit, stops.then_some(Exit::Stopped));
        assert_eq!(deleted(&world), if stops { 0 } else { 3 }, "{:?}", world.sent);
        assert!(stops || !world.has("a/f"));
        assert_eq!(world.has("a/g"), stops);
    }
}

#[test]
fn a_directory_that_moved_counts_with_all_that_is_in_it() {
    for (max, stops) in [(4, false), (3, true)] {
        let limited = || Rules { max_delete: Some(MaxDelete::Names(max)), ..rules() };
        let mut world = large(limited(), &["d/1", "d/s/2"]);
        while_stopped(&mut world, limited(), |w| w.rename("d", "n"));
        assert_eq!(world.exit, stops.then_some(Exit::Stopped));
        assert_eq!(world.has("d/1"), stops, "{:?}", world.sent);
        if !stops {
            world.assert_equal();
            assert_eq!(based(&world), ["n/1<d/1", "n/s/2<d/s/2"]);
        }
    }
}

#[test]
fn where_nothing_is_deleted_it_serves_all_the_same() {
    for delete in [Delete::No, Delete::Startup, Delete::Running] {
        let rules = || Rules { delete, ..rules() };
        let mut world = large(rules(), &["d/f"]);
        while_stopped(&mut world, rules(), |w| w.rename("d", "n"));
        assert_eq!(based(&world), ["n/f<d/f"], "{delete:?}");
        assert_eq!(world.has("d"), delete != Delete::Startup);
        assert!(world.has("n/f"));
    }
}

#[test]
fn what_cannot_arrive_keeps_nothing_back() {
    let mut world = large(rules(), &["a/f", "d/g"]);
    world.broken.insert(path("z/f"));
    while_stopped(&mut world, rules(), |w| {
        w.rename("a/f", "z/f");
        w.rename("d/g", "m/g");
    });
    assert!(!world.has("a/f") && !world.has("d/g") && world.has("m/g"));
    assert!(world.mirror.is_ready() && world.mirror.problems().count() == 1);
    world.broken.clear();
    world.settle_for(100);
    world.assert_equal();
}

#[test]
fn a_rename_whose_ack_was_lost_costs_no_content() {
    type Change = fn(&mut World);
    let acts: [(Change, &[&str]); 3] = [
        (|w| w.rename("d/f", "n"), &["n"]),
        (|w| w.rename("d", "n"), &["n/f", "n/s/g"]),
        (
            |w| {
                w.rename("d/f", "n");
                w.rename("n", "m/o");
            },
            &["m/o"],
        ),
    ];
    for (act, news) in acts {
        for steps in 0..60 {
            let mut world = large(rules(), &["d/f", "d/s/g"]);
            act(&mut world);
            for step in 0..steps {
                world.act(ACTS[step % ACTS.len()], 0);
            }
            world.cut();
            while world.act(Act::Hear, 0) {}
            world.connect();
            world.settle();
            world.assert_equal();
            for new in news {
                // Sent only from something: from where it stood or, where that had gone, from the
                // new name itself.
                let sent = world.sent.contains(&format!("send {new}"));
                let found = world.based.iter().any(|(name, _)| name == new);
                assert_eq!(sent, found, "{steps} {new} {:?} {:?}", world.sent, world.based);
            }
            assert_eq!(world.mirror.dirty(), 0);
        }
    }
}

#[test]
fn what_moved_into_a_new_directory_is_known_by_its_name() {
    let mut world = large(rules(), &["a/f", "d/s/g"]);
    world.rename("a/f", "z/f");
    world.rename("d/s", "z/s");
    world.events.clear();
    // Nobody watched where they went to.
    let gone = |name: &str, dir| WatchEvent::Gone { path: path(name), dir };
    let events = vec![
        gone("a/f", false),
        gone("d/s", true),
        WatchEvent::Appeared { path: path("z"), dir: true },
    ];
    world.handle(Event::Watched(Arc::new(events)));
    world.settle();
    world.assert_equal();
    let mut based = based(&world);
    based.dedup();
    assert_eq!(based, ["z/f<a/f", "z/s/g<d/s/g"]);
}

#[test]
fn a_file_that_changed_and_moved_is_sent_from_what_it_was() {
    for down in [true, false] {
        let mut world = large(rules(), &["a/f.part"]);
        if down {
            world.cut();
        }
        world.write("a/f.part", LARGE + 77);
        world.rename("a/f.part", "a/f");
        while world.act(Act::Hear, 0) {}
        if down {
            world.connect();
        }
        world.settle();
        world.assert_equal();
        assert_eq!(based(&world), ["a/f<a/f.part"]);
    }
}

#[test]
fn a_new_file_that_is_renamed_at_once_has_no_origin() {
    let mut world = large(rules(), &[]);
    world.write("a/f.part", LARGE + 77);
    world.rename("a/f.part", "a/f");
    while world.act(Act::Hear, 0) {}
    world.settle();
    world.assert_equal();
    assert_eq!(world.based, []);
}

#[test]
fn an_old_name_is_not_kept_for_what_never_rests() {
    let mut world = large(rules(), &["d/f", "d/s/g"]);
    world.write("d/s/g", LARGE + 9);
    world.rename("d", "n");
    while world.act(Act::Hear, 0) {}
    // Somebody goes on writing for longer than anybody waits.
    for n in 0..400 {
        world.write("n/f", n);
        world.settle_until_for(std::time::Duration::from_millis(300));
    }
    assert!(!world.has("d"));
    world.settle();
    world.assert_equal();
}

#[test]
fn deletes_that_stop_while_one_waits_stop_that_one_too() {
    let limited = || Rules { max_delete: Some(MaxDelete::Names(2)), ..rules() };
    let mut world = large(limited(), &["a/f"]);
    for name in ["m/1", "m/2"] {
        world.write(name, 1);
    }
    world.settle();
    world.now += std::time::Duration::from_secs(100);
    world.cut();
    world.rename("a/f", "z/f");
    world.restart(limited());
    world.connect();
    all_but_content(&mut world);
    assert!(world.has("a/f") && world.said.iter().all(|r| !matches!(r, Report::Halted { .. })));
    world.place_there("kept", Kind::File);
    world.remove("m/1");
    world.remove("m/2");
    all_but_content(&mut world);
    assert!(world.mirror.halted().is_some(), "{:?}", world.sent);
    world.settle();
    assert!(world.has("a/f") && world.has("z/f") && world.mirror.is_ready());
}

#[test]
fn names_that_wait_for_each_others_origins_are_removed() {
    let mut world = World::live(rules(), &["d/", "d/x", "d/y", "f/", "f/e/", "f/z", "g"]);
    let now = world.now;
    world.mirror.origins.note(&path("f"), &path("d"), true, now);
    world.mirror.origins.note(&path("d"), &path("f/e"), true, now);
    world.remove("d/x");
    world.remove("f/e");
    // Heard and looked at together, and well before anybody has waited for too long.
    let events = world.events.drain(..).collect();
    world.handle(Event::Watched(Arc::new(events)));
    let sent = world.sent.len();
    world.settle();
    assert!(world.sent.len() < sent + 20, "{:?}", world.sent);
    world.assert_equal();
}
