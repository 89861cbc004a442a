//! Signals at any moment, and what stands on the target then.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::super::tree::{noise, plant};
use super::{Stage, WAYS, Way};

/// A source that takes a while.
fn much(stage: &Stage) {
    for i in 0..20 {
        fs::create_dir_all(stage.s(format!("d{i}"))).unwrap();
        for j in 0..40 {
            fs::write(stage.s(format!("d{i}/f{j}")), noise(i * 40 + j, 2000)).unwrap();
        }
        fs::write(stage.s(format!("d{i}/large")), noise(i, 1_500_000)).unwrap();
    }
}

/// Delays in milliseconds that meet every stage of a start.
const MOMENTS: [u64; 7] = [0, 10, 40, 80, 150, 300, 600];

#[test]
fn a_signal_at_any_moment_is_a_calm_end_and_the_next_start_goes_on() {
    for way in WAYS {
        let stage = Stage::new(way);
        much(&stage);
        for (i, ms) in MOMENTS.into_iter().enumerate() {
            let (signal, code) = if i % 2 == 0 { (Signal::TERM, 143) } else { (Signal::INT, 130) };
            let push = stage.begin(&[]);
            // Before its handlers are there a signal ends it as it ends everybody.
            push.wait_event("connecting");
            std::thread::sleep(Duration::from_millis(ms));
            let ended = push.stop(signal);
            assert_eq!(ended.code, Some(0), "{way:?} {ms} ms, live: {ended:?}");
            assert!(ended.events("failed").is_empty() && ended.err.is_empty(), "{ended:?}");

            fs::write(stage.s("d0/large"), noise(100 + ms, 1_500_000)).unwrap();
            let once = stage.begin(&["--once"]);
            once.wait_event("connecting");
            std::thread::sleep(Duration::from_millis(ms / 2));
            let ended = once.stop(signal);
            let done = !ended.events("done").is_empty();
            let right = ended.code == Some(code) || done && ended.code == Some(0);
            assert!(right, "{way:?} {ms} ms, once: {ended:?}");
        }
        stage.once(&[]).fine();
        assert_eq!(super::unequal(&stage.source(), &stage.target()), None, "{way:?}");
        stage.no_temporary_names();
    }
}

#[test]
fn a_killed_lsyncd_leaves_nothing_that_the_next_does_not_mend() {
    for way in WAYS {
        let stage = Stage::new(way);
        much(&stage);
        for ms in MOMENTS {
            let push = stage.begin(&[]);
            push.wait_event("connecting");
            std::thread::sleep(Duration::from_millis(ms));
            let ended = push.stop(Signal::KILL);
            assert_eq!(ended.code, None);
            // No torn file: what stands under a name is whole.
            for i in 0..20 {
                let large = fs::metadata(stage.t(format!("d{i}/large")));
                assert!(large.is_err() || large.unwrap().len() == 1_500_000);
            }
            fs::rename(stage.s(format!("d{}", ms % 20)), stage.s("t")).unwrap();
            fs::rename(stage.s("t"), stage.s(format!("d{}", ms % 20))).unwrap();
            fs::write(stage.s("d1/large"), noise(1000 + ms, 1_500_000)).unwrap();
        }
        // The next one comes at once, while the agent of the last may still be there.
        stage.once(&[]).fine();
        assert_eq!(super::unequal(&stage.source(), &stage.target()), None, "{way:?}");
        stage.no_temporary_names();
        assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut stage = Stage::new(Way::Ssh);
    fs::write(stage.s("large"), noise(1, 30_000_000)).unwrap();
    let push = stage.begin(&[]);
    push.wait_event("connecting");
    super::wait_until("content flows", || {
        super::tree(&stage.target()).is_ok_and(|tree| tree.len() > 1)
    });
    // The link stalls, so that nothing can be finished in an orderly way.
    stage.world().signal_sessions(Signal::STOP);
    push.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(200));
    let start = std::time::Instant::now();
    let ended = push.stop(Signal::TERM);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    stage.world().signal_sessions(Signal::CONT);
    stage.world_mut().cut();
}

#[test]
fn a_stalled_link_does_not_hold_up_the_end_for_long() {
    let stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let push = stage.live(&[]);
    stage.world().signal_sessions(Signal::STOP);
    fs::write(stage.s("new"), "new").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let start = std::time::Instant::now();
    let ended = push.stop(Signal::INT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    stage.world().signal_sessions(Signal::CONT);
}
