//! Random histories: whatever is late, merged, doubled or lost, in the end both sides are equal.

use super::world::*;
use crate::config::Delete;
use crate::mirror::{Report, RootTrouble, Rules};
use crate::watch::WatchEvent;
use lsync_protocol::entry::{Kind, Quick};

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

pub(super) fn any_path(world: &World, random: &mut Random) -> Option<String> {
    let all: Vec<String> =
        world.source.keys().filter(|at| !at.is_root()).map(ToString::to_string).collect();
    (!all.is_empty()).then(|| all[random.below(all.len())].clone())
}

fn free_name(world: &World, random: &mut Random) -> Option<String> {
    let dirs: Vec<String> = world
        .source
        .iter()
        .filter(|(at, thing)| thing.kind == Kind::Dir && at.depth() < 3)
        .map(|(at, _)| if at.is_root() { String::new() } else { format!("{at}/") })
        .collect();
    let dir = &dirs[random.below(dirs.len())];
    let name = format!("{dir}{}", ["a", "b", "c", "d"][random.below(4)]);
    (!world.source.contains_key(&path(&name))).then_some(name)
}

/// Somebody does something on the source.
pub(super) fn change(world: &mut World, random: &mut Random, next: &mut u64) {
    *next += 1;
    let content = if random.one_in(4) { LARGE + *next } else { *next };
    match random.below(16) {
        0..=2 => {
            if let Some(name) = free_name(world, random) {
                world.write(&name, content);
            }
        }
        3 | 4 => {
            if let Some(name) = free_name(world, random) {
                world.mkdir(&name);
            }
        }
        5 => {
            if let Some(name) = free_name(world, random) {
                world.link(&name, content);
            }
        }
        6 => {
            if let Some(name) = free_name(world, random) {
                world.move_in(&name, &["a", "b/", "b/a"]);
            }
        }
        7 => {
            if let Some(name) = any_path(world, random) {
                world.remove(&name);
            }
        }
        8 => {
            if let Some(name) = any_path(world, random) {
                world.move_out(&name);
            }
        }
        9 | 10 => {
            if let Some(name) = any_path(world, random) {
                if world.source[&path(&name)].kind == Kind::File {
                    world.write(&name, content);
                } else {
                    world.chmod(&name, 0o700 + (content % 64) as u32);
                }
            }
        }
        11 => {
            let (a, b) = (any_path(world, random), any_path(world, random));
            if let (Some(a), Some(b)) = (a, b) {
                let (from, to) = (path(&a), path(&b));
                if !from.is_at_or_under(&to) && !to.is_at_or_under(&from) {
                    if random.one_in(2) {
                        world.exchange(&a, &b);
                    } else if world.source[&from].kind != Kind::Dir
                        && world.source[&to].kind != Kind::Dir
                    {
                        world.rename(&a, &b);
                    }
                }
            }
        }
        _ => {
            let (from, to) = (any_path(world, random), free_name(world, random));
            if let (Some(from), Some(to)) = (from, to)
                && !path(&to).is_at_or_under(&path(&from))
            {
                world.rename(&from, &to);
            }
        }
    }
}

/// The kernel or the watcher is not exact.
fn disturb(world: &mut World, random: &mut Random) {
    if world.events.is_empty() {
        return;
    }
    let at = random.below(world.events.len());
    match random.below(3) {
        0 => {
            world.events.truncate(at);
            world.events.push_back(WatchEvent::Overflow);
        }
        1 => {
            if !matches!(world.events[at], WatchEvent::Renamed { .. }) {
                let event = world.events[at].clone();
                world.events.push_back(event);
            }
        }
        _ => {
            // Two halves that were not paired.
            if let WatchEvent::Renamed { from, to, dir } = world.events[at].clone() {
                world.events[at] = WatchEvent::Gone { path: from, dir };
                world.events.insert(at + 1, WatchEvent::Appeared { path: to, dir });
            }
        }
    }
}

fn history(seed: u64, rules: Rules, told: bool) -> World {
    let again = rules.clone();
    let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..4 {
        random.below(2);
    }
    let mut world = World::new(rules);
    world.told = told;
    let mut next = 0;
    for _ in 0..random.below(12) {
        change(&mut world, random, &mut next);
    }
    world.events.clear();
    for name in ["a", "b", "c"] {
        if random.one_in(3) {
            world.place_there(name, [Kind::File, Kind::Dir][random.below(2)]);
        }
    }
    world.connect();
    let eager = random.below(40) + 2;
    for _ in 0..400 {
        world.never_along = random.one_in(2);
        if random.one_in(eager) {
            change(&mut world, random, &mut next);
        }
        match random.below(150) {
            0 | 1 => disturb(&mut world, random),
            2 if world.connected() => world.cut(),
            3..=10 if !world.connected() => {
                world.boot += u8::from(random.one_in(3));
                world.connect();
            }
            11 => world.root = Some([RootTrouble::Gone, RootTrouble::Replaced][random.below(2)]),
            12..=20 => world.root = None,
            36 | 37 => {
                if let Some(name) = any_path(&world, random) {
                    world.broken.insert(path(&name));
                }
            }
            38 | 39 => {
                if let Some(name) = any_path(&world, random) {
                    world.unreadable.insert(path(&name));
                }
            }
            40..=45 => {
                world.broken.pop_first();
                world.unreadable.pop_first();
            }
            46 if random.one_in(3) => world.restart(again.clone()),
            21..=35 => {
                world.now += std::time::Duration::from_millis(random.below(20) as u64);
                world.handle(crate::mirror::Event::Tick);
            }
            _ => {
                let act = ACTS[random.below(ACTS.len())];
                let pick = random.below(100);
                world.act(act, pick);
            }
        }
    }
    world.root = None;
    world.broken.clear();
    world.unreadable.clear();
    if !world.connected() {
        world.connect();
    }
    world.settle_for(1000);
    world
}

/// A history of a source whose files have all the same size and time: what is known of them is what
/// was told. Nothing gets lost in it, since what is compared anew looks equal.
fn history_of_alike(seed: u64, rules: Rules, told: bool) -> World {
    let random = &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..4 {
        random.below(2);
    }
    let mut world = World::new(rules);
    (world.told, world.alike) = (told, true);
    let mut next = 0;
    let mut change_alike = |world: &mut World, random: &mut Random| {
        next += 3;
        let content = next;
        match random.below(8) {
            0 | 1 => {
                if let Some(name) = free_name(world, random) {
                    world.write(&name, content);
                }
            }
            2 => {
                if let Some(name) = any_file(world, random) {
                    world.write(&name, content);
                }
            }
            3 => {
                if let Some(name) = any_file(world, random) {
                    world.remove(&name);
                }
            }
            4 => {
                let (from, to) = (any_file(world, random), any_file(world, random));
                if let (Some(from), Some(to)) = (from, to)
                    && from != to
                {
                    world.rename(&from, &to);
                }
            }
            _ => {
                if let (Some(from), Some(to)) = (any_file(world, random), free_name(world, random))
                {
                    world.rename(&from, &to);
                }
            }
        }
    };
    world.mkdir("d");
    for _ in 0..8 {
        change_alike(&mut world, random);
    }
    world.events.clear();
    world.connect();
    world.settle();
    let eager = random.below(12) + 2;
    for _ in 0..400 {
        if random.one_in(eager) {
            change_alike(&mut world, random);
        }
        match random.below(12) {
            0 => {
                world.now += std::time::Duration::from_millis(random.below(20) as u64);
                world.handle(crate::mirror::Event::Tick);
            }
            _ => {
                world.act(ACTS[random.below(ACTS.len())], random.below(100));
            }
        }
    }
    world.settle_for(1000);
    world
}

fn any_file(world: &World, random: &mut Random) -> Option<String> {
    any_path(world, random).filter(|name| world.source[&path(name)].kind == Kind::File)
}

const SEEDS: u64 = 500;

fn run(seeds: std::ops::Range<u64>, rules: impl Fn() -> Rules) {
    run_to(seeds, rules, World::assert_equal);
}

#[test]
fn files_that_look_alike_are_told_apart() {
    play_all(1..SEEDS, |seed, told| {
        let rules = Rules { allow_empty: true, ..rules() };
        history_of_alike(seed, rules, told).assert_equal();
    });
}

/// Every seed's history; `SEED=n` plays one alone and tells all of it, `SEEDS=n` plays more.
fn run_to(seeds: std::ops::Range<u64>, rules: impl Fn() -> Rules, check: impl Fn(&World)) {
    play_all(seeds, |seed, told| check(&history(seed, rules(), told)));
}

pub(super) fn play_all(seeds: std::ops::Range<u64>, play: impl Fn(u64, bool)) {
    if let Ok(seed) = std::env::var("SEED") {
        return play(seed.parse().unwrap(), true);
    }
    let more = std::env::var("SEEDS").map_or(seeds.end, |more| more.parse().unwrap());
    let seeds = seeds.start..more.max(seeds.end);
    let fails = |&seed: &u64| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(seed, false))).is_err()
    };
    let failed: Vec<u64> = seeds.filter(fails).collect();
    assert!(failed.is_empty(), "seeds that fail: {} {failed:?}", failed.len());
}

#[test]
fn every_history_ends_equal() {
    run(1..SEEDS, || Rules { allow_empty: true, ..rules() });
}

#[test]
fn every_history_with_a_delay_ends_equal() {
    // Much more meets in one batch.
    let delay = std::time::Duration::from_millis(100);
    run(1..SEEDS, || Rules { allow_empty: true, delay, ..rules() });
}

#[test]
fn every_history_compared_by_content_ends_equal() {
    run(1..SEEDS / 2, || Rules { allow_empty: true, quick: Quick::Content, ..rules() });
}

#[test]
fn no_history_looks_like_drift() {
    let every = Some(std::time::Duration::from_secs(1));
    run_to(
        1..SEEDS / 10,
        || Rules { allow_empty: true, verify_every: every, ..rules() },
        |world| {
            world.assert_equal();
            let told = |report: &&Report| matches!(report, Report::Differs(_));
            assert_eq!(world.said.iter().find(told), None);
            let compared = |report: &Report| matches!(report, Report::Verified { .. });
            assert!(world.said.iter().any(compared));
        },
    );
}

#[test]
fn every_history_under_rules_ends_equal_and_keeps_what_they_protect() {
    let filter = filtered(&["- b", "- /a/c", "P d"]);
    run_to(
        1..SEEDS,
        || Rules { allow_empty: true, filter: filter.clone(), ..rules() },
        World::assert_equal_but_for_protected,
    );
}

#[test]
fn a_history_without_deletes_ends_with_all_that_the_source_has() {
    run_to(
        1..SEEDS / 4,
        || Rules { delete: Delete::No, ..rules() },
        |world| {
            for (at, thing) in &world.source {
                // What cannot make room stays in the way, and is a problem.
                let blocked = world.mirror.problems().any(|p| at.is_at_or_under(&p.path));
                let there = world.target.get(at).map(|there| (there.kind, there.content));
                assert!(blocked || there == Some((thing.kind, thing.content)), "{at}: {there:?}");
            }
            assert!(!world.sent.iter().any(|line| line.starts_with("delete")), "{:?}", world.sent);
        },
    );
}
