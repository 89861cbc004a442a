//! Problems: one path fails, is tried again, and never stops the rest.

use super::world::*;
use crate::error::Exit;
use crate::mirror::{Report, Rules};
use lsync_protocol::entry::Kind;

const TREE: [&str; 5] = ["d/", "d/x", "d/y", "f", "g"];

fn problems(world: &World) -> Vec<String> {
    world
        .said
        .iter()
        .filter_map(|report| match report {
            Report::Problem(problem) => Some(format!("{} failed", problem.path)),
            Report::Solved(path) => Some(format!("{path} solved")),
            _ => None,
        })
        .collect()
}

#[test]
fn a_path_that_fails_is_told_once_tried_again_and_told_when_mended() {
    for name in ["f", "d", "d/x"] {
        let mut world = World::live(rules(), &TREE);
        world.broken.insert(path(name));
        if name == "d" {
            world.chmod("d", 0o700);
        } else {
            world.write(name, 9);
        }
        world.write("g", 9);
        world.settle_for(100);
        assert_eq!(problems(&world), [format!("{name} failed")]);
        let problem = world.mirror.problems().next().unwrap();
        assert!((5..20).contains(&problem.tries), "with growing waits: {}", problem.tries);
        assert_eq!(world.target[&path("g")].content, 9);
        world.broken.clear();
        world.settle_for(400);
        assert_eq!(problems(&world), [format!("{name} failed"), format!("{name} solved")]);
        world.assert_equal();
    }
}

#[test]
fn what_cannot_be_looked_at_or_listed_is_never_deleted() {
    let mut world = World::live(rules(), &TREE);
    world.unreadable.extend([path("d"), path("f")]);
    world.write("f", 9);
    world.chmod("d", 0o700);
    world.events.push_back(crate::watch::WatchEvent::Overflow);
    world.settle_for(60);
    assert!(world.has("d/x") && world.has("f"));
    let told = problems(&world);
    assert_eq!(told.iter().filter(|line| *line == "d failed").count(), 1, "{told:?}");
    assert_eq!(told.len(), 2, "{told:?}");
    world.unreadable.clear();
    world.settle_for(700);
    world.assert_equal();
    assert_eq!(world.mirror.problems().count(), 0);

    // The target's listing fails: nothing is concluded of it.
    let mut world = World::new(rules());
    world.fill(&TREE);
    world.place_there("d", Kind::Dir);
    world.place_there("d/old", Kind::File);
    world.broken.insert(path("d"));
    world.connect();
    world.settle();
    assert!(world.has("d/old") && world.mirror.is_ready());
    world.broken.clear();
    world.settle_for(700);
    world.assert_equal();
}

#[test]
fn a_missing_directory_on_the_target_is_made_and_a_hopeless_one_is_no_loop() {
    let mut world = World::live(rules(), &TREE);
    world.target.retain(|at, _| !at.is_at_or_under(&path("d")));
    world.write("d/x", 9);
    world.settle();
    world.assert_equal();

    let mut world = World::live(rules(), &TREE);
    world.target.retain(|at, _| !at.is_at_or_under(&path("d")));
    world.broken.insert(path("d"));
    world.write("d/x", 9);
    world.write("d/y", 9);
    world.settle_for(20);
    assert!(world.sent.len() < 60, "{} operations", world.sent.len());
    world.broken.clear();
    world.settle_for(700);
    world.assert_equal();
}

#[test]
fn a_run_once_ends_with_what_came_of_it() {
    let once = || Rules { once: true, ..rules() };
    let mut world = World::new(once());
    world.fill(&TREE);
    world.place_there("old", Kind::Dir);
    world.place_there("old/x", Kind::File);
    world.connect();
    world.settle();
    assert_eq!(world.exit, Some(Exit::Done));
    world.assert_equal();

    let mut world = World::new(once());
    world.fill(&TREE);
    world.broken.insert(path("d"));
    world.connect();
    world.settle();
    assert_eq!(world.exit, Some(Exit::Partial));
    assert_eq!(world.mirror.problems().count(), 1);
    assert!(world.has("f"));

    let mut world = World::new(once());
    world.place_there("old", Kind::File);
    world.connect();
    world.settle();
    assert_eq!(world.exit, Some(Exit::Stopped));

    let mut world = World::new(Rules { dry_run: true, ..once() });
    world.fill(&TREE);
    world.place_there("old", Kind::File);
    world.connect();
    world.settle();
    assert_eq!((world.exit, world.sent.len()), (Some(Exit::Done), 0));
    assert!(
        world
            .said
            .iter()
            .any(|said| { matches!(said, Report::Op(op) if op.line() == "delete old") })
    );
}

#[test]
fn many_dirty_paths_cost_no_more_than_their_number() {
    let began = std::time::Instant::now();
    let mut world = World::live(rules(), &["d/"]);
    for at in 0..100_000u32 {
        let event = crate::watch::WatchEvent::Closed(path(&format!("d/{at}")));
        world.handle(crate::mirror::Event::Watched(std::sync::Arc::new(vec![event])));
    }
    assert!(world.mirror.dirty() > 90_000);
    // Seconds where each would look at all the others: 10^10 steps.
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}
