//! Flush, pause and resume: what somebody outside may rely on.

use std::time::Duration;

use super::histories::{Random, any_path, change, play_all};
use super::world::*;
use crate::config::MaxDelete;
use crate::mirror::steer::{Flushed, Stand};
use crate::mirror::{Event, Report, Rules};
use crate::watch::WatchEvent;

const TREE: [&str; 6] = ["d/", "d/x", "d/y", "f", "g", "h"];

fn flush(world: &mut World, token: u64) {
    world.handle(Event::Flush { token, heard: true });
}

fn hear_all(world: &mut World) {
    while world.act(Act::Hear, 0) {}
}

/// Whatever was on its way, whatever is lost on the way: what was there at the call is there when
/// the flush ends.
fn history(seed: u64, rules: Rules, told: bool) {
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
    world.connect();
    if random.one_in(2) {
        world.settle();
    }
    let eager = random.below(10) + 2;
    for _ in 0..random.below(200) {
        if random.one_in(eager) {
            change(&mut world, random, &mut next);
        }
        match random.below(60) {
            0 => world.cut(),
            1..=9 if !world.connected() => world.connect(),
            10 => world.events.push_back(WatchEvent::Overflow),
            11..=20 => {
                world.now += Duration::from_millis(random.below(20) as u64);
                world.handle(Event::Tick);
            }
            _ => {
                world.act(ACTS[random.below(ACTS.len())], random.below(100));
            }
        }
    }
    hear_all(&mut world);
    flush(&mut world, 1);
    for step in 0..100_000 {
        if let Some((_, end)) = world.flushed.first() {
            assert_eq!(*end, Flushed::Done);
            world.assert_equal();
            return;
        }
        match random.below(400) {
            0 if step < 2000 => world.cut(),
            1..=100 if !world.connected() => world.connect(),
            101..=140 => {
                world.now += Duration::from_millis(random.below(200) as u64);
                world.handle(Event::Tick);
            }
            _ => {
                world.act(ACTS[random.below(ACTS.len())], random.below(100));
            }
        }
    }
    panic!("the flush never ends: {:?}", world.mirror.stand());
}

#[test]
fn what_was_there_at_the_call_has_arrived_when_a_flush_ends() {
    play_all(1..500, |seed, told| {
        let delay = [Duration::ZERO, Duration::from_secs(3600)][seed as usize % 2];
        history(seed, Rules { allow_empty: true, delay, ..rules() }, told);
    });
}

#[test]
fn a_file_that_never_rests_holds_up_no_flush() {
    let mut world = World::live(rules(), &TREE);
    world.write("g", 50);
    hear_all(&mut world);
    flush(&mut world, 7);
    for content in 0..200 {
        world.write("f", LARGE + content);
        if !world.flushed.is_empty() {
            break;
        }
        for act in ACTS {
            world.act(act, 0);
        }
        world.now += Duration::from_millis(20);
        world.handle(Event::Tick);
    }
    assert_eq!(world.flushed, [(7, Flushed::Done)]);
    assert_eq!(world.target[&path("g")].content, 50);
    world.settle_for(10);
    world.assert_equal();
}

#[test]
fn a_flush_waits_for_the_barrier_and_for_the_first_mirror() {
    let mut world = World::new(rules());
    world.fill(&TREE);
    world.handle(Event::Flush { token: 3, heard: false });
    world.connect();
    world.settle();
    assert_eq!(world.flushed, [], "nobody said that all was heard");
    world.events.extend([WatchEvent::Barrier(2), WatchEvent::Barrier(3)]);
    world.settle();
    assert_eq!(world.flushed, [(3, Flushed::Done)]);

    let mut world = World::new(rules());
    world.fill(&TREE);
    flush(&mut world, 4);
    world.connect();
    while world.flushed.is_empty() {
        assert!(
            ACTS.into_iter().fold(false, |acted, act| acted | world.act(act, 0)) || {
                world.now += Duration::from_millis(10);
                world.handle(Event::Tick);
                true
            }
        );
    }
    assert!(world.mirror.is_ready());
    world.assert_equal();

    // The events among which the barrier was are lost: what takes their place ends it, too.
    let mut world = World::live(rules(), &TREE);
    world.handle(Event::Flush { token: 5, heard: false });
    world.write("f", 99);
    world.events.clear();
    world.events.push_back(WatchEvent::Overflow);
    world.settle_for(60);
    assert_eq!(world.flushed, [(5, Flushed::Done)]);
    world.assert_equal();
}

#[test]
fn what_failed_is_told_and_not_waited_for() {
    let mut world = World::live(rules(), &TREE);
    world.broken.insert(path("f"));
    world.write("f", 9);
    world.write("g", 9);
    world.settle();
    flush(&mut world, 1);
    // Here time stands still unless it is told to pass.
    world.now += Duration::from_millis(1);
    world.settle();
    let [(1, Flushed::Problems(problems))] = &world.flushed[..] else {
        panic!("{:?}", world.flushed)
    };
    assert_eq!(problems.iter().map(|p| p.path.clone()).collect::<Vec<_>>(), [path("f")]);
    let tries = problems[0].tries;
    assert!(tries >= 2, "it is tried at once, once more: {tries}");
    assert_eq!(world.mirror.behind_since(), None, "a problem is no lag");
    world.broken.clear();
    world.flushed.clear();
    flush(&mut world, 2);
    world.settle();
    assert_eq!(world.flushed, [(2, Flushed::Done)]);
}

#[test]
fn whoever_has_left_is_not_waited_for() {
    let mut world = World::live(rules(), &TREE);
    world.cut();
    world.write("f", 9);
    hear_all(&mut world);
    flush(&mut world, 1);
    assert!(world.mirror.next().is_some(), "it looks again and again");
    world.mirror.forget_flushes(|_| false);
    world.handle(Event::Tick);
    assert_eq!(world.mirror.next(), None);
    world.connect();
    world.settle_for(10);
    world.assert_equal();
    assert_eq!(world.flushed, []);
}

#[test]
fn nothing_is_begun_while_paused_and_all_goes_on_after() {
    for steps in 0..60 {
        let mut world = World::live(rules(), &TREE);
        world.write("f", 70);
        world.move_in("in", &["a", "b/", "b/a"]);
        for step in 0..steps {
            world.act(ACTS[step % ACTS.len()], 0);
        }
        world.handle(Event::Pause);
        world.settle_for(5);
        let sent = world.sent.len();
        let somebody = any_path(&world, &mut Random(steps as u64 + 1)).unwrap();
        world.remove(&somebody);
        world.write("new", 71);
        flush(&mut world, 1);
        world.settle_for(7200);
        assert_eq!(world.sent.len(), sent, "{:?}", world.sent);
        assert_eq!(world.flushed, [(1, Flushed::Paused)]);
        assert_eq!(world.mirror.stand(), Stand::Paused);
        world.cut();
        world.connect();
        world.settle_for(5);
        assert_eq!(world.sent.len(), sent, "also after a new link: {:?}", world.sent);
        world.handle(Event::Resume { confirm: false });
        world.settle_for(60);
        assert_eq!(world.mirror.stand(), Stand::Live);
        world.assert_equal();
    }
}

#[test]
fn deletes_that_are_confirmed_happen_and_later_ones_are_judged_again() {
    let rules = Rules { max_delete: Some(MaxDelete::Names(2)), ..rules() };
    let mut world = World::live(rules, &TREE);
    world.remove("d");
    world.settle();
    assert_eq!(world.mirror.stand(), Stand::Halted);
    flush(&mut world, 1);
    assert!(matches!(&world.flushed[..], [(1, Flushed::Halted(_))]));
    world.handle(Event::Resume { confirm: false });
    world.settle_for(60);
    assert!(world.has("d/x"), "nobody confirmed");
    world.said.clear();
    world.handle(Event::Resume { confirm: true });
    world.settle_for(60);
    assert_eq!(world.said.iter().filter(|said| matches!(said, Report::Resumed)).count(), 1);
    world.assert_equal();
    world.fill(&["e/", "e/1", "e/2", "e/3"]);
    world.handle(Event::Watched(vec![WatchEvent::Overflow].into()));
    world.settle_for(60);
    world.remove("e");
    world.settle_for(60);
    assert!(world.has("e/1") && world.mirror.stand() == Stand::Halted);
}

#[test]
fn a_source_that_was_emptied_empties_the_target_when_that_is_confirmed() {
    let mut world = World::live(rules(), &TREE);
    for name in ["d", "f", "g", "h"] {
        world.remove(name);
    }
    world.settle();
    assert_eq!(world.mirror.stand(), Stand::Halted);
    assert!(world.has("f"));
    world.handle(Event::Resume { confirm: true });
    world.settle_for(60);
    assert_eq!(world.mirror.stand(), Stand::Live);
    world.assert_equal();
}
