//! What people do on a source, one thing at a time: the target follows, by as little as it takes.

use super::world::*;
use crate::config::Delete;
use crate::mirror::{Event, Report, Rules};
use crate::watch::WatchEvent;
use lsync_protocol::entry::Kind;
use std::sync::Arc;

const TREE: [&str; 7] = ["d/", "d/x", "d/y", "d/s/", "d/s/z", "f", "g"];

/// Does something on a live mirror and says what was sent, but for attributes of directories.
fn sent(act: impl Fn(&mut World)) -> Vec<String> {
    let mut world = World::live(rules(), &TREE);
    // What was sent a moment ago is sent once more when it moves.
    world.now += std::time::Duration::from_secs(60);
    act(&mut world);
    world.settle();
    world.assert_equal();
    assert_eq!(world.mirror.dirty(), 0);
    let mut sent = world.sent;
    sent.retain(|line| !line.starts_with("attributes"));
    sent
}

#[test]
fn each_change_is_sent_as_what_it_is() {
    type Act = fn(&mut World);
    let table: Vec<(Act, &[&str])> = vec![
        (|w| w.write("d/new", 9), &["send d/new"]),
        (|w| w.write("f", 9), &["send f"]),
        (|w| w.write("f", LARGE + 9), &["send f"]),
        (|w| w.link("l", 1), &["link l"]),
        (|w| w.mkdir("d/e"), &["create directory d/e"]),
        (|w| w.remove("f"), &["delete f"]),
        (
            |w| w.remove("d"),
            &[
                "delete d/y",
                "delete d/x",
                "delete d/s/z",
                "delete directory d/s",
                "delete directory d",
            ],
        ),
        (|w| w.rename("f", "h"), &["rename f -> h"]),
        (|w| w.rename("d", "e"), &["rename d -> e"]),
        (|w| w.rename("d/s", "s"), &["rename d/s -> s"]),
        (|w| w.rename("f", "g"), &["rename f -> g"]),
        (
            |w| {
                w.rename("f", "h");
                w.rename("h", "d/h");
                w.rename("d", "e");
            },
            &["rename f -> h", "rename h -> d/h", "rename d -> e"],
        ),
        (
            |w| {
                w.rename("f", "t");
                w.rename("g", "f");
                w.rename("t", "g");
            },
            &["rename f -> t", "rename g -> f", "rename t -> g"],
        ),
        (
            |w| {
                w.rename("d/x", "t");
                w.rename("d/y", "d/x");
                w.rename("f", "d/y");
                w.rename("t", "f");
            },
            &["rename d/x -> t", "rename d/y -> d/x", "rename f -> d/y", "rename t -> f"],
        ),
        (|w| w.exchange("f", "g"), &["send f", "send g"]),
        (
            |w| {
                w.rename("f", "h");
                w.write("f", 9);
            },
            &["rename f -> h", "send f"],
        ),
        (
            |w| {
                w.remove("d");
                w.write("d", 9);
            },
            &["replace a directory by: send d", "delete d/y"],
        ),
    ];
    for (at, (act, want)) in table.into_iter().enumerate() {
        let sent = sent(act);
        if at < 16 {
            assert_eq!(sent, want, "{at}");
        } else {
            assert!(want.iter().all(|line| sent.contains(&(*line).to_string())), "{sent:?}");
        }
    }
}

#[test]
fn a_rename_that_fails_leaves_nothing_under_a_name_that_moved_on() {
    let delay = std::time::Duration::from_secs(1);
    let mut world = World::live(Rules { delay, ..rules() }, &["d/", "d/a/", "d/a/b"]);
    // The new directory is not on the target when the first rename comes there.
    world.mkdir("n");
    world.rename("d/a", "n/moved");
    world.rename("d", "kept");
    world.settle();
    world.assert_equal();
}

#[test]
fn a_name_that_moved_and_went_is_gone_however_its_directory_is_called_since() {
    for delay in [0, 1000].map(std::time::Duration::from_millis) {
        for steps in 0..40 {
            for early in [true, false] {
                let before = ["c/", "c/x", "c/y", "b/", "b/z"];
                let mut world = World::live(Rules { delay, ..rules() }, &before);
                world.rename("c/x", "d");
                if early {
                    world.remove("d");
                }
                for step in 0..steps {
                    world.act(ACTS[step % ACTS.len()], 0);
                }
                if !early {
                    world.remove("d");
                }
                world.rename("c", "d");
                world.rename("b", "c");
                world.settle();
                world.assert_equal();
            }
        }
    }
}

#[test]
fn kinds_change_into_each_other() {
    type Make = (&'static str, fn(&mut World));
    let make: [Make; 3] = [
        ("file", |w| w.write("d", 9)),
        ("directory", |w| w.move_in("d", &["a", "b/", "b/c"])),
        ("link", |w| w.link("d", 3)),
    ];
    for (first, begin) in make {
        for (then, end) in make {
            let mut world = World::live(rules(), &[]);
            begin(&mut world);
            world.settle();
            world.assert_equal();
            world.move_out("d");
            end(&mut world);
            world.settle();
            world.assert_equal();
            assert_eq!(world.mirror.problems().count(), 0, "{first} to {then}");
        }
    }
}

#[test]
fn whole_trees_come_and_go_by_one_event() {
    for never_along in [false, true] {
        let mut world = World::live(rules(), &TREE);
        world.never_along = never_along;
        world.move_in("new", &["a", "b/", "b/c"]);
        world.settle();
        world.assert_equal();
        world.move_out("d");
        world.settle();
        world.assert_equal();
        assert!(world.has("new/b/c") && !world.has("d"));
    }
}

#[test]
fn an_equal_target_gets_no_operation() {
    let mut world = World::live(rules(), &TREE);
    world.cut();
    let source = world.source.clone();
    let target = world.target.clone();
    let mut second = World::new(rules());
    (second.source, second.target) = (source, target);
    second.connect();
    second.settle();
    assert!(second.mirror.is_ready());
    assert_eq!(second.sent, [""; 0]);
}

#[test]
fn a_first_mirror_makes_room_and_takes_away() {
    let mut world = World::new(rules());
    world.fill(&TREE);
    for (name, kind) in [
        ("d", Kind::File),
        ("f", Kind::Dir),
        ("f/old", Kind::File),
        ("old", Kind::Dir),
        ("old/er", Kind::Dir),
        ("old/er/x", Kind::File),
        ("g", Kind::Symlink),
    ] {
        world.place_there(name, kind);
    }
    world.connect();
    world.settle();
    world.assert_equal();
    assert!(
        matches!(world.said[..], [Report::Ready(totals)] if totals.files == 5 && totals.dirs == 3)
    );
}

#[test]
fn a_rename_is_right_however_far_the_rest_has_come() {
    // Between the change before it and the rename, so many things happen.
    for steps in 0..60 {
        for (before, from, to) in [
            ("new", "new", "d/new"),
            ("d/x", "d", "e"),
            ("d/s/z", "d/s", "s"),
            ("f", "f", "g"),
            ("g", "f", "g"),
        ] {
            for content in [9, LARGE + 9] {
                let mut world = World::live(rules(), &TREE);
                world.write(before, content);
                for step in 0..steps {
                    world.act(ACTS[step % ACTS.len()], 0);
                }
                world.rename(from, to);
                if steps % 2 == 0 {
                    world.write("f", 11); // the old name again, or in any case another change
                }
                world.settle();
                world.assert_equal();
            }
        }
    }
}

#[test]
fn a_tree_renamed_during_its_walk_or_while_it_is_cleared() {
    for steps in 0..80 {
        let mut world = World::new(rules());
        world.fill(&TREE);
        world.place_there("d", Kind::Dir);
        world.place_there("d/old", Kind::Dir);
        world.place_there("d/old/x", Kind::File);
        world.connect();
        for step in 0..steps {
            world.act(ACTS[step % ACTS.len()], 0);
        }
        world.rename("d", "e");
        world.settle();
        world.assert_equal();

        let mut world = World::live(rules(), &TREE);
        world.move_out("d");
        for step in 0..steps {
            world.act(ACTS[step % ACTS.len()], 0);
        }
        world.move_in("e", &["x"]);
        world.rename("e", "d");
        world.settle();
        world.assert_equal();
    }
}

#[test]
fn a_path_with_a_problem_is_renamed_and_mended() {
    let mut world = World::live(rules(), &TREE);
    world.broken.insert(path("d/new"));
    world.write("d/new", 9);
    world.settle();
    world.rename("d", "e");
    world.settle_for(700);
    world.assert_equal();
    assert_eq!(world.mirror.problems().count(), 0);
}

#[test]
fn lost_events_are_answered_by_a_walk() {
    let mut world = World::live(rules(), &TREE);
    world.remove("d");
    world.write("f", 9);
    world.move_in("in", &["a"]);
    world.events.clear();
    world.handle(Event::Watched(Arc::new(vec![WatchEvent::Overflow])));
    world.settle_for(60);
    world.assert_equal();
    assert!(world.said.iter().any(|report| matches!(report, Report::Rescanned(_))));
}

#[test]
fn the_link_may_break_anywhere() {
    for steps in 0..90 {
        for boot in [1, 2] {
            let mut world = World::live(rules(), &TREE);
            world.rename("d", "e");
            world.write("e/x", LARGE + 9);
            world.move_out("f");
            world.move_in("in", &["a", "b/", "b/c"]);
            world.exchange("in", "g");
            for step in 0..steps {
                world.act(ACTS[step % ACTS.len()], 0);
            }
            world.cut();
            world.rename("e", "h");
            world.boot = boot;
            world.connect();
            world.settle_for(60);
            world.assert_equal();
        }
    }
}

#[test]
fn what_a_power_cut_took_from_the_target_is_found() {
    // Size and time are there, what was sent a moment before is not.
    for (renamed, off) in [(false, 0), (true, 0), (false, 3600), (true, 3600)] {
        let mut world = World::live(rules(), &TREE);
        world.now += std::time::Duration::from_secs(3600);
        world.write("d/x", 31);
        world.write("f", 34);
        world.settle();
        if renamed {
            world.rename("d", "e");
            world.settle();
        }
        let lost = if renamed { ["e/x", "f"] } else { ["d/x", "f"] };
        world.cut();
        for name in lost {
            world.target.get_mut(&path(name)).unwrap().content += 3;
        }
        let (sent, old) = (world.sent.len(), world.target[&path("g")].clone());
        world.boot += 1;
        // However long the host was off.
        world.now += std::time::Duration::from_secs(off);
        world.connect();
        world.settle_for(60);
        world.assert_equal();
        assert_eq!(world.target[&path("g")], old);
        let sends = world.sent[sent..].iter().filter(|line| line.starts_with("send ")).count();
        assert_eq!(sends, 2, "no more than that");
    }
}

#[test]
fn when_names_are_deleted_is_the_users_choice() {
    for (delete, at_start, live) in [
        (Delete::Yes, true, true),
        (Delete::No, false, false),
        (Delete::Startup, true, false),
        (Delete::Running, false, true),
    ] {
        let mut world = World::new(Rules { delete, ..rules() });
        world.fill(&TREE);
        world.place_there("old", Kind::File);
        world.connect();
        world.settle();
        assert_eq!(!world.has("old"), at_start, "{delete:?} at the start");
        world.remove("d");
        world.remove("f");
        world.settle();
        assert_eq!(!world.has("d") && !world.has("f"), live, "{delete:?} live");
        assert_eq!(world.mirror.dirty(), 0, "{delete:?}");
    }
}
