//! The state of a mirror that rsync carries, as tables: events and a clock in, effects out.

use super::*;
use crate::carrier::rsync::{End, Tree};
use crate::config::{Delete, MaxDelete};

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

struct World {
    state: State,
    now: Instant,
    out: Vec<Effect>,
}

impl World {
    fn new(change: impl FnOnce(&mut RsyncMirror)) -> World {
        let mut config = RsyncMirror::new("m", "/s", "/t".as_ref());
        config.delay = Duration::from_secs(2);
        change(&mut config);
        let rules = Rules { plain: true, seed: 5, ..Rules::default() };
        let state = State::new(Arc::new(config), rules);
        World { state, now: Instant::now(), out: Vec::new() }
    }

    fn give(&mut self, event: Event) -> &mut World {
        self.out = self.state.handle(event, self.now);
        self
    }

    fn pass(&mut self, seconds: f32) -> &mut World {
        self.now += Duration::from_secs_f32(seconds);
        self.give(Event::Tick)
    }

    fn hear(&mut self, events: &[WatchEvent]) -> &mut World {
        self.give(Event::Watched(Arc::new(events.to_vec())))
    }

    /// The run that was started by the last event.
    #[track_caller]
    fn run(&self) -> (u64, Run) {
        let run = self.out.iter().find_map(|effect| match effect {
            Effect::Run { run, what } => Some((*run, what.clone())),
            _ => None,
        });
        run.unwrap_or_else(|| panic!("no run: {:?}", self.out))
    }

    #[track_caller]
    fn batch(&self) -> Vec<RelPath> {
        let batch = self.out.iter().find_map(|effect| match effect {
            Effect::Look(batch) => {
                Some(batch.paths.iter().map(|(path, ..)| path.clone()).collect())
            }
            _ => None,
        });
        batch.unwrap_or_else(|| panic!("no look: {:?}", self.out))
    }

    fn does_nothing(&self) -> bool {
        !self.out.iter().any(|e| matches!(e, Effect::Run { .. } | Effect::Look(_) | Effect::Walk))
    }

    fn ended(&mut self, run: u64, end: End) -> &mut World {
        self.give(Event::Ended { run, outcome: Ok(Outcome { end, ..Outcome::default() }) })
    }

    /// Everything was compared once.
    fn ready(mut self) -> World {
        self.give(Event::Tick);
        assert!(matches!(self.out[..], [Effect::Walk]));
        self.give(Event::Walked(Ok(Walked { files: 9, dirs: 1, ..Walked::default() })));
        let (run, what) = self.run();
        assert!(matches!(what, Run::Full(_)));
        self.ended(run, End::Done);
        assert!(self.out.iter().any(|e| matches!(e, Effect::Say(Report::Ready(_)))));
        self
    }

    fn look(&mut self, names: &[&str], missing: &[&str]) -> &mut World {
        let all = |names: &[&str]| names.iter().map(|name| (path(name), false)).collect();
        let paths = Paths { names: all(names), missing: all(missing), ..Paths::default() };
        let gone = missing.len() as u64;
        self.give(Event::Looked(Ok(Looked { paths, gone, ..Looked::default() })))
    }
}

fn closed(name: &str) -> WatchEvent {
    WatchEvent::Closed(path(name))
}

#[test]
fn a_batch_waits_for_its_first_event_and_takes_all_with_it() {
    let mut world = World::new(|_| {}).ready();
    world.hear(&[closed("a")]).pass(1.9).hear(&[closed("b")]);
    assert!(world.does_nothing());
    world.pass(0.2);
    assert_eq!(world.batch(), [path("a"), path("b")]);
}

#[test]
fn what_happens_during_the_first_run_comes_after_it() {
    let mut world = World::new(|config| config.delay = Duration::ZERO);
    world.give(Event::Tick).hear(&[closed("a")]).pass(1.0);
    assert!(world.does_nothing());
    world.give(Event::Walked(Ok(Walked::default())));
    let (run, _) = world.run();
    world.hear(&[closed("b")]).pass(1.0);
    assert!(world.does_nothing());
    world.ended(run, End::Done);
    assert_eq!(world.batch(), [path("a"), path("b")]);
}

#[test]
fn too_many_events_do_not_wait_but_for_a_target_that_is_away() {
    let mut world = World::new(|config| config.max_delays = 3).ready();
    world.hear(&[closed("a"), closed("b"), closed("c")]);
    assert_eq!(world.batch().len(), 3);
    world.look(&["a", "b", "c"], &[]);
    let (run, _) = world.run();
    world.ended(run, End::Again(Error::failed("away")));
    let Some(Effect::Lost { retry_in, first: false, .. }) =
        world.out.iter().find(|effect| matches!(effect, Effect::Lost { .. }))
    else {
        panic!("{:?}", world.out)
    };
    let wait = *retry_in;
    assert!(world.state.next().is_some_and(|next| next >= world.now + wait), "no spinning");
    world.pass(wait.as_secs_f32() / 2.0);
    assert!(world.does_nothing());
    world.pass(wait.as_secs_f32());
    assert_eq!(world.batch().len(), 3, "nothing was forgotten");
}

#[test]
fn a_path_has_at_most_one_rsync_at_a_time() {
    let mut world = World::new(|config| {
        config.delay = Duration::ZERO;
        config.max_processes = 3;
    })
    .ready();
    world.hear(&[closed("d/a")]).pass(0.1);
    world.look(&["d/a"], &[]);
    let (run, _) = world.run();
    world.hear(&[closed("d/a"), WatchEvent::Attributes(path("d")), closed("x")]);
    assert_eq!(world.batch(), [path("x")]);
    world.look(&["x"], &[]);
    world.ended(run, End::Done).pass(0.1);
    assert_eq!(world.batch(), [path("d"), path("d/a")]);
}

#[test]
fn what_failed_is_tried_again_and_the_rest_is_done() {
    let mut world = World::new(|config| config.delay = Duration::ZERO).ready();
    world.hear(&[closed("a"), closed("b")]).pass(0.1);
    world.look(&["a", "b"], &[]);
    let (run, _) = world.run();
    let failed = vec![(path("b"), "denied".to_owned())];
    world.give(Event::Ended {
        run,
        outcome: Ok(Outcome { end: End::Partial, failed, ..Outcome::default() }),
    });
    assert!(
        world
            .out
            .iter()
            .any(|e| matches!(e, Effect::Say(Report::Problem(p)) if p.path == path("b")))
    );
    world.pass(0.5);
    assert!(world.does_nothing());
    world.pass(0.6);
    assert_eq!(world.batch(), [path("b")]);
    world.look(&["b"], &[]);
    let (run, _) = world.run();
    world.ended(run, End::Done);
    assert!(
        world.out.iter().any(|e| matches!(e, Effect::Say(Report::Solved(p)) if *p == path("b")))
    );
}

#[test]
fn a_culprit_without_a_name_is_found_by_halves() {
    let mut world = World::new(|config| config.delay = Duration::ZERO).ready();
    world.hear(&[closed("a"), closed("b"), closed("c"), closed("d")]);
    let mut sizes = Vec::new();
    for _ in 0..20 {
        let Some(batch) = world.out.iter().find_map(|effect| match effect {
            Effect::Look(batch) => Some(batch.paths.clone()),
            _ => None,
        }) else {
            break;
        };
        sizes.push(batch.len());
        let bad = batch.iter().any(|(name, ..)| *name == path("c"));
        let names: Vec<String> = batch.iter().map(|(name, ..)| name.to_string()).collect();
        world.look(&names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let (run, _) = world.run();
        world.ended(run, if bad { End::Partial } else { End::Done });
    }
    assert_eq!(sizes, [4, 2, 2, 1, 1]);
    assert_eq!(world.state.problems().count(), 1);
}

#[test]
fn deletes_obey_the_setting_and_the_guard() {
    for (delete, max, allowed) in [
        (Delete::Yes, None, true),
        (Delete::Running, None, true),
        (Delete::No, None, false),
        (Delete::Startup, None, false),
        (Delete::Running, Some(MaxDelete::Names(1)), false),
    ] {
        let mut world = World::new(|config| {
            config.delay = Duration::ZERO;
            config.delete = delete;
            config.max_delete = max;
        })
        .ready();
        let gone = |name: &str| WatchEvent::Gone { path: path(name), dir: false };
        world.hear(&[gone("a"), gone("b"), closed("c")]).pass(0.1);
        world.look(&["c"], &["a", "b"]);
        let (_, Run::Paths(paths)) = world.run() else { panic!() };
        assert_eq!(paths.delete, allowed, "{delete:?} {max:?}");
        assert_eq!(paths.names.len(), 1);
    }
}

#[test]
fn what_a_start_would_delete_is_counted_before() {
    let mut world = World::new(|config| config.max_delete = Some(MaxDelete::Names(2)));
    world.give(Event::Tick).give(Event::Walked(Ok(Walked::default())));
    let (run, Run::Full(full)) = world.run() else { panic!() };
    assert!(full.dry_run && full.delete);
    world.give(Event::Ended { run, outcome: Ok(Outcome { deleted: 3, ..Outcome::default() }) });
    assert!(world.out.iter().any(|e| matches!(e, Effect::Finish(Exit::Stopped))));
}

#[test]
fn a_source_that_is_away_is_waited_for_and_then_compared() {
    let mut world = World::new(|_| {}).ready();
    world.hear(&[WatchEvent::RootGone]);
    assert!(matches!(world.out[..], [Effect::CheckRoot { accept: false }]));
    world.give(Event::Root(Err(RootTrouble::Gone)));
    world.hear(&[closed("a")]).pass(10.0);
    assert!(world.does_nothing());
    world.give(Event::Root(Ok(())));
    assert!(world.out.iter().any(|effect| matches!(effect, Effect::Walk)));
    // And lost events mean the same.
    let mut world = World::new(|_| {}).ready();
    world.hear(&[WatchEvent::Overflow]);
    assert!(matches!(world.out[..], [Effect::Walk]));
}

#[test]
fn a_whole_source_that_is_dirty_is_compared_as_at_a_start() {
    // What is guarded there would be deleted by a run of what changed.
    let mut world = World::new(|config| {
        config.delay = Duration::ZERO;
        config.delete = Delete::Running;
        config.max_delete = Some(MaxDelete::Names(3));
    });
    world.give(Event::Tick).give(Event::Walked(Ok(Walked {
        files: 9,
        dirs: 1,
        ..Walked::default()
    })));
    let (run, _) = world.run();
    world.ended(run, End::Done);
    world.hear(&[WatchEvent::Unsure(RelPath::root()), closed("a")]);
    assert!(matches!(world.out[..], [Effect::Walk]), "{:?}", world.out);
    world.give(Event::Walked(Ok(Walked { files: 9, dirs: 1, ..Walked::default() })));
    let (run, Run::Full(full)) = world.run() else { panic!() };
    assert!(full.delete && full.dry_run, "deletes of live changes are wanted, and counted");
    world.ended(run, End::Again(Error::failed("away"))).pass(2.0);
    assert!(matches!(world.out[..], [Effect::Walk]), "{:?}", world.out);
    world.give(Event::Walked(Ok(Walked { files: 9, dirs: 1, ..Walked::default() })));
    let (run, Run::Full(full)) = world.run() else { panic!() };
    assert!(full.delete, "and still are when it is tried again");
    world.give(Event::Ended { run, outcome: Ok(Outcome::default()) });
    let (run, _) = world.run();
    world.ended(run, End::Done);
    assert_eq!(world.batch(), [path("a")], "what else changed comes after it");
}

/// The directory `d` as a look finds it that was told of it as new: all in it is listed.
fn as_new(world: &mut World) -> (u64, Run) {
    let tree = |whole| Tree { path: path("d"), whole, listed: true };
    let paths =
        Paths { names: vec![(path("d"), true)], trees: vec![tree(false)], ..Paths::default() };
    world.give(Event::Looked(Ok(Looked { paths, ..Looked::default() })));
    world.run()
}

#[test]
fn what_another_directory_took_the_place_of_is_remembered_until_it_is_gone() {
    let gone = || WatchEvent::Gone { path: path("d"), dir: true };
    let new = || WatchEvent::Appeared { path: path("d"), dir: true };
    let listed = |run: &Run| match run {
        Run::Paths(paths) => paths.trees[0].listed,
        Run::Full(_) => panic!("{run:?}"),
    };
    let looks_deep = |world: &World| {
        world.out.iter().any(|effect| match effect {
            Effect::Look(batch) => batch.paths[0].1.has(Marks::GONE.with(Marks::TREE)),
            _ => false,
        })
    };
    // A run that fails brings nothing.
    for end in [End::Again(Error::failed("away")), End::Partial] {
        let mut world = World::new(|config| config.delay = Duration::ZERO).ready();
        world.hear(&[gone(), new()]).pass(0.1);
        let (run, what) = as_new(&mut world);
        assert!(!listed(&what));
        world.ended(run, end).pass(2.0);
        assert!(looks_deep(&world), "{:?}", world.out);
    }
    // It appears while its deletion is on its way: rsync finds the new one and deletes nothing.
    let mut world = World::new(|config| config.delay = Duration::ZERO).ready();
    world.hear(&[gone()]).pass(0.1);
    world.look(&[], &["d"]);
    let (run, _) = world.run();
    world.hear(&[new()]).pass(0.1);
    world.ended(run, End::Done).pass(0.1);
    let (_, what) = as_new(&mut world);
    assert!(!listed(&what), "what the target had stays");
}

#[test]
fn what_waits_for_a_root_that_is_away_is_not_judged_by_its_time() {
    for looking in [true, false] {
        let mut world = World::new(|config| config.delay = Duration::ZERO).ready();
        world.hear(&[closed("a")]);
        assert_eq!(world.batch(), [path("a")]);
        if looking {
            world.give(Event::Looked(Err(RootTrouble::Gone)));
        } else {
            world.look(&["a"], &[]);
            let (run, _) = world.run();
            world.give(Event::Ended { run, outcome: Err(RootTrouble::Gone) });
        }
        world.pass(0.1).give(Event::Root(Ok(())));
        world.give(Event::Walked(Ok(Walked { files: 9, dirs: 1, ..Walked::default() })));
        let (run, _) = world.run();
        world.ended(run, End::Done);
        assert_eq!(world.batch(), [path("a")]);
    }
}

#[test]
fn what_fails_unnamed_beside_what_is_named_is_not_taken_for_done() {
    let mut world = World::new(|config| config.delay = Duration::ZERO).ready();
    world.hear(&[closed("a"), closed("b"), closed("c")]);
    world.look(&["a", "b", "c"], &[]);
    let (run, _) = world.run();
    let failed = || vec![(path("a"), "denied".to_owned())];
    let partial = |failed| Outcome { end: End::Partial, failed, more: true, ..Outcome::default() };
    world.give(Event::Ended { run, outcome: Ok(partial(failed())) });
    assert_eq!(world.batch(), [path("b"), path("c")]);
    // Nobody of these is named: which of them it is, is found by halves.
    world.look(&["b", "c"], &[]);
    let (run, _) = world.run();
    world.give(Event::Ended { run, outcome: Ok(partial(failed())) });
    assert_eq!(world.batch(), [path("b")]);
    world.look(&["b"], &[]);
    let (run, _) = world.run();
    world.give(Event::Ended { run, outcome: Ok(partial(failed())) });
    assert!(world.state.problems.list().any(|problem| problem.path == path("b")));
    // A run over everything is made again.
    let mut world = World::new(|_| {});
    world.give(Event::Tick).give(Event::Walked(Ok(Walked { files: 9, ..Walked::default() })));
    let (run, _) = world.run();
    world.give(Event::Ended { run, outcome: Ok(partial(failed())) }).pass(2.0);
    assert!(world.out.iter().any(|effect| matches!(effect, Effect::Walk)), "{:?}", world.out);
}
