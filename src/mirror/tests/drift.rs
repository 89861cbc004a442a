//! `--verify-every`: what drifted on the target is told once and mended; what changed is not.

use std::time::Duration;

use super::world::*;
use crate::config::Delete;
use crate::metrics::Differs;
use crate::mirror::{Report, Rules};
use lsync_protocol::entry::Kind;

const TREE: [&str; 5] = ["d/", "d/x", "d/y", "f", "g"];

fn verifying() -> Rules {
    Rules { verify_every: Some(Duration::from_secs(10)), ..rules() }
}

fn told(world: &World) -> Vec<(String, Differs)> {
    let differs = |report: &Report| match report {
        Report::Differs(found) => Some((found.path.to_string(), found.how)),
        _ => None,
    };
    world.said.iter().filter_map(differs).collect()
}

#[test]
fn what_drifted_is_told_once_and_mended() {
    let mut world = World::live(verifying(), &TREE);
    world.settle_for(30);
    assert_eq!(told(&world), []);
    // Of the same size and time.
    let size = |world: &World| world.target[&path("d/x")].entry().size;
    let before = size(&world);
    world.target.get_mut(&path("d/x")).unwrap().content += 3;
    assert_eq!(size(&world), before);
    world.target.remove(&path("f"));
    world.place_there("extra", Kind::File);
    world.settle_for(60);
    let mut found = told(&world);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let content = ("d/x".to_owned(), Differs::Content);
    let extra = ("extra".to_owned(), Differs::Extra { dir: false });
    let missing = ("f".to_owned(), Differs::Missing { dir: false });
    assert_eq!(found, [content, extra, missing]);
    world.assert_equal();
    let last = world.mirror.last_verify().unwrap();
    assert_eq!((last.files, last.drifted, last.unknown), (4, 0, 0), "and then nothing");
}

#[test]
fn a_directory_that_is_gone_comes_back_with_all_that_is_in_it() {
    let mut world = World::live(verifying(), &TREE);
    for at in under(&world.target, &path("d")) {
        world.target.remove(&at);
    }
    world.settle_for(60);
    assert_eq!(told(&world), [("d".to_owned(), Differs::Missing { dir: true })]);
    world.assert_equal();
}

#[test]
fn what_is_not_deleted_has_not_drifted() {
    let mut world = World::live(Rules { delete: Delete::No, ..verifying() }, &TREE);
    world.place_there("extra", Kind::File);
    world.settle_for(60);
    assert_eq!(told(&world), []);
    assert!(world.target.contains_key(&path("extra")));
}
