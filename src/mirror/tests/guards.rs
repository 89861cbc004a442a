//! Guards: what is refused, at a start and live, and what goes on all the same.

use super::world::*;
use crate::config::MaxDelete;
use crate::error::Exit;
use crate::mirror::{Report, RootTrouble, Rules};
use crate::watch::WatchEvent;
use lsync_protocol::entry::Kind;

const TREE: [&str; 6] = ["d/", "d/x", "d/y", "f", "g", "h"];

fn limited(max: MaxDelete) -> Rules {
    Rules { max_delete: Some(max), ..rules() }
}

fn halted(world: &World) -> bool {
    world.said.iter().any(|report| matches!(report, Report::Halted { .. }))
}

#[test]
fn a_start_that_would_delete_too_much_deletes_nothing() {
    for (max, extra, stops) in [
        (MaxDelete::Names(3), 3, false),
        (MaxDelete::Names(3), 4, true),
        (MaxDelete::Percent(50), 3, false),
        (MaxDelete::Percent(50), 4, true),
    ] {
        let mut world = World::new(limited(max));
        world.fill(&TREE);
        // What is beneath a directory counts.
        world.place_there("old", Kind::Dir);
        for name in ["old/1", "old/2", "old/3"].iter().take(extra - 1) {
            world.place_there(name, Kind::File);
        }
        world.connect();
        world.settle();
        assert_eq!(world.exit, stops.then_some(Exit::Stopped), "{max:?} {extra}");
        assert_eq!(world.has("old/1"), stops, "{max:?} {extra} {:?}", world.said);
        assert_eq!(halted(&world), stops);
    }
}

#[test]
fn live_deletes_stop_and_everything_else_goes_on() {
    for max in [MaxDelete::Names(2), MaxDelete::Percent(34)] {
        let mut world = World::live(limited(max), &TREE);
        world.remove("g");
        world.settle();
        assert!(!world.has("g") && !halted(&world));
        world.remove("d");
        world.write("f", 9);
        world.settle();
        assert!(halted(&world) && world.mirror.halted().is_some() && world.has("d/x"), "{max:?}");
        world.write("new", 9);
        world.rename("h", "i");
        world.settle();
        assert!(world.has("new") && world.has("i") && !world.has("h"));
        assert_eq!(world.target[&path("f")].content, 9);
        world.remove("new");
        world.settle();
        assert!(world.has("new"), "also the next delete is one too many");
        assert_eq!(world.mirror.dirty(), 0);
    }
}

#[test]
fn what_goes_during_the_first_walk_is_put_before_the_guard_with_the_rest() {
    for steps in 0..80 {
        let mut world = World::new(limited(MaxDelete::Percent(50)));
        world.fill(&TREE);
        world.place_there("g", Kind::File);
        world.connect();
        for step in 0..steps {
            world.act(ACTS[step % ACTS.len()], 0);
        }
        world.remove("g");
        world.settle();
        assert!(!halted(&world) && world.exit.is_none(), "after {steps} steps: {:?}", world.said);
        world.assert_equal();
    }
}

#[test]
fn an_emptied_source_empties_no_target() {
    let mut world = World::new(rules());
    world.place_there("a", Kind::File);
    world.connect();
    world.settle();
    assert_eq!(world.exit, Some(Exit::Stopped));
    assert!(world.has("a"));

    let mut world = World::live(rules(), &TREE);
    for name in ["d", "f", "g", "h"] {
        world.move_out(name);
    }
    world.settle();
    assert!(halted(&world) && world.exit.is_none() && world.has("h"));
    world.write("new", 1);
    world.settle();
    assert!(world.has("new"));

    let mut world = World::live(Rules { allow_empty: true, ..rules() }, &TREE);
    for name in ["d", "f", "g", "h"] {
        world.move_out(name);
    }
    world.settle();
    assert!(!halted(&world));
    world.assert_equal();
}

#[test]
fn a_source_that_went_away_is_waited_for() {
    for trouble in [RootTrouble::Gone, RootTrouble::Unmounted] {
        let mut world = World::live(rules(), &TREE);
        world.root = Some(trouble);
        world.write("f", 9);
        world.settle_for(30);
        assert!(world.said.contains(&Report::Waiting(trouble)));
        assert_eq!(world.said.len(), 1, "said once: {:?}", world.said);
        assert!(world.sent.is_empty());
        world.root = None;
        world.remove("d");
        world.events.clear();
        world.settle_for(30);
        assert!(world.said.contains(&Report::Back));
        world.assert_equal();
    }
}

#[test]
fn a_source_whose_root_goes_behind_its_names_is_gone_and_not_emptied() {
    let mut world = World::live(rules(), &TREE);
    for name in ["d", "f", "g", "h"] {
        world.move_out(name);
    }
    // It is looked at in between, and nothing is concluded yet.
    world.settle_for(0);
    assert!(!halted(&world) && world.has("h"), "{:?}", world.said);
    world.root = Some(RootTrouble::Gone);
    world.events.push_back(WatchEvent::RootGone);
    world.settle_for(30);
    assert!(world.said.contains(&Report::Waiting(RootTrouble::Gone)), "{:?}", world.said);
    assert!(!halted(&world) && world.has("h"));
}

#[test]
fn a_source_that_was_replaced_is_walked_under_the_guards() {
    let mut world = World::live(limited(MaxDelete::Names(2)), &TREE);
    world.root = Some(RootTrouble::Replaced);
    world.move_out("d");
    world.write("new", 9);
    world.settle_for(30);
    assert!(halted(&world) && world.has("d/x") && world.has("new"));
    assert_eq!(world.exit, None);
}

#[test]
fn names_that_rules_protect_stay_and_so_does_what_holds_them() {
    let filter = filtered(&["- *.o", "P keep"]);
    let mut world = World::new(Rules { filter, ..rules() });
    world.fill(&["d/", "d/x", "d/keep", "e/", "e/y", "f"]);
    for (name, kind) in [
        ("d", Kind::Dir),
        ("d/a.o", Kind::File),
        ("old", Kind::Dir),
        ("old/b.o", Kind::File),
        ("old/x", Kind::File),
    ] {
        world.place_there(name, kind);
    }
    world.connect();
    world.settle();
    assert!(world.has("old/b.o") && !world.has("old/x"));
    world.remove("d");
    world.move_out("e");
    world.settle();
    assert!(world.has("d/a.o") && world.has("d/keep") && !world.has("d/x") && !world.has("e"));
    // In the way of a file they are a problem that says so.
    world.write("d", 9);
    world.settle();
    assert!(world.has("d/a.o"));
    assert!(world.mirror.problems().any(|problem| problem.cause.contains("protected")));
}

#[test]
fn a_rename_out_of_what_is_mirrored_is_a_delete_and_one_into_it_a_creation() {
    let mut world = World::live(Rules { filter: filtered(&["- *.tmp"]), ..rules() }, &TREE);
    world.place_there("g.tmp", Kind::File);
    world.rename("g", "g.tmp");
    world.write("new.tmp", 9);
    world.settle();
    world.rename("new.tmp", "f");
    world.settle();
    assert_eq!(world.target[&path("g.tmp")].content, 555, "it is the target's own");
    assert!(!world.has("g") && !world.has("new.tmp"));
    assert_eq!(world.target[&path("f")].content, 9);
}
