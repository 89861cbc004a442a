//! Links that break: cut, killed, away, stalled; and targets of which one is dead.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::super::tree::{append, noise, plant};
use super::super::world::free_port;
use super::{Push, Stage, Way};

/// Everything that can change while there is no link.
fn meanwhile(stage: &Stage, round: u64) {
    let dir = stage.s(format!("round {round}"));
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/b/c"), "c").unwrap();
    fs::write(dir.join("large"), noise(round, 2_000_000)).unwrap();
    append(&stage.s("log"), b"line\n");
    fs::write(stage.s("small"), format!("{round}")).unwrap();
    if round > 0 {
        let before = stage.s(format!("round {}", round - 1));
        fs::rename(before.join("a"), dir.join("moved")).unwrap();
        fs::remove_file(before.join("large")).unwrap();
        fs::rename(before, stage.s(format!("kept {round}"))).unwrap();
    }
}

#[test]
fn a_cut_connection_is_made_again_and_nothing_is_lost() {
    let stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let mut push = stage.live(&[]);
    for round in 0..4 {
        // Before, during and after.
        meanwhile(&stage, round);
        std::thread::sleep(Duration::from_millis(round * 15));
        stage.world().cut();
        fs::write(stage.s("small"), format!("after {round}")).unwrap();
        push.wait_events("reconnected", 1 + round as usize);
        stage.settles_with(&push, &format!("cut {round}"));
    }
    assert!(push.events("lost").len() >= 4 && push.is_running());
    push.terminate();
    stage.no_temporary_names();
}

#[test]
fn a_killed_agent_is_started_again() {
    let stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let push = stage.live(&[]);
    for round in 0..4 {
        meanwhile(&stage, round);
        std::thread::sleep(Duration::from_millis(round * 15));
        assert!(stage.world().kill(|name| name.starts_with("lsync-agent")));
        push.wait_events("reconnected", 1 + round as usize);
        stage.settles_with(&push, &format!("kill {round}"));
    }
    push.terminate();
    // What each left was swept as soon as the next one was there.
    assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
    stage.no_temporary_names();
}

#[test]
fn a_server_that_was_away_is_found_again() {
    let mut stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let push = stage.live(&[]);
    stage.world_mut().stop();
    push.wait_event("lost");
    meanwhile(&stage, 0);
    meanwhile(&stage, 1);
    fs::remove_dir_all(stage.s("dir")).unwrap();
    // Tried again and again, and said so.
    push.wait_events("lost", 2);
    stage.world_mut().restart();
    push.wait_event("reconnected");
    stage.settles_with(&push, "back");
    fs::write(stage.s("live"), "again").unwrap();
    stage.settles_with(&push, "live again");
    push.terminate();
}

#[test]
fn a_link_that_stalls_is_given_up() {
    let stage = Stage::new(Way::Ssh);
    let ssh = "IdentityFile ~/.ssh/id_ed25519\nServerAliveInterval 1\nServerAliveCountMax 2\n";
    stage.world().write_ssh_config(ssh);
    plant(&stage.source());
    let push = stage.live(&[]);
    stage.world().signal_sessions(Signal::STOP);
    meanwhile(&stage, 0);
    push.wait_event("lost");
    // The stalled session, with its agent, is still there when the new one comes.
    push.wait_event("reconnected");
    stage.settles_with(&push, "on a new link");
    stage.world().signal_sessions(Signal::CONT);
    meanwhile(&stage, 1);
    stage.settles_with(&push, "the old one woke up");
    push.terminate();
    stage.no_temporary_names();
}

#[test]
fn a_link_that_is_cut_during_the_first_mirror_goes_on() {
    let stage = Stage::new(Way::Ssh);
    for i in 0..30 {
        fs::create_dir(stage.s(format!("d{i}"))).unwrap();
        for j in 0..30 {
            fs::write(stage.s(format!("d{i}/{j}")), noise(i * j, 3000)).unwrap();
        }
        fs::write(stage.s(format!("d{i}/large")), noise(i, 700_000)).unwrap();
    }
    let push = stage.begin(&[]);
    // From then on the program does not end for a lost link.
    let begun = || std::fs::read_dir(stage.target()).is_ok_and(|mut dir| dir.next().is_some());
    super::wait_until("the first operation arrived", begun);
    for wait in [1, 20, 60, 90] {
        super::wait_until("there is a link", || stage.world().sessions() > 0);
        std::thread::sleep(Duration::from_millis(wait));
        stage.world().cut();
    }
    push.wait_event("ready");
    stage.settles_with(&push, "in the end");
    push.terminate();
    stage.no_temporary_names();
    assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
}

/// A push to several targets: these directories, and one on a host that is not there.
fn several(stage: &Stage, words: &[&str], dead: bool) -> Push {
    let mut command = stage.lsyncd();
    command.args(["push", "--json"]).args(words).arg(stage.source());
    command.arg(stage.path("here")).arg(stage.on_the_way(&stage.path("there")));
    if dead {
        command.arg(format!("ssh://127.0.0.1:{}/tmp/x", free_port()));
    }
    Push::start(command)
}

#[test]
fn several_targets_are_mirrored_and_a_dead_one_stops_nobody() {
    let mut stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let both = |stage: &Stage| {
        super::wait_equal(&stage.source(), &stage.path("here"));
        super::wait_equal(&stage.source(), &stage.path("there"));
    };
    let ended = several(&stage, &["--once"], false).end().fine();
    assert_eq!(ended.events("done").len(), 2);
    both(&stage);

    fs::write(stage.s("new"), "new").unwrap();
    let ended = several(&stage, &["--once"], true).end();
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert_eq!(ended.events("done").len(), 2, "{ended:?}");
    assert_eq!(ended.events("failed").len(), 1, "{ended:?}");
    both(&stage);

    // Live, the others go on.
    let mut push = several(&stage, &[], true);
    push.wait_events("ready", 2);
    push.wait_event("failed");
    fs::write(stage.s("live"), "live").unwrap();
    both(&stage);
    // A target that goes away after ready ends nothing.
    stage.world_mut().stop();
    push.wait_for("lost", 1, |line| line["mirror"].as_str().unwrap().starts_with("world:"));
    fs::write(stage.s("while it is away"), "x").unwrap();
    super::wait_equal(&stage.source(), &stage.path("here"));
    stage.world_mut().restart();
    both(&stage);
    assert!(push.is_running());
    push.terminate();
}

#[test]
fn when_no_target_can_start_the_program_ends() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let mut command = stage.lsyncd();
    command.arg("push").arg(stage.source());
    for _ in 0..2 {
        command.arg(format!("ssh://127.0.0.1:{}/tmp/x", free_port()));
    }
    let ended = Push::start(command).end();
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert_eq!(ended.err.matches("connection refused").count(), 2, "{ended:?}");
}

#[test]
fn the_systems_ssh_serves_too() {
    let stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let ssh = format!("ssh -F {}", stage.world().ssh_config().display());
    let push = stage.live(&["--ssh-command", &ssh]);
    stage.settles_with(&push, "the first mirror");
    meanwhile(&stage, 0);
    stage.settles_with(&push, "live");
    stage.world().cut();
    meanwhile(&stage, 1);
    push.wait_event("reconnected");
    stage.settles_with(&push, "after a cut");
    push.terminate();
}
