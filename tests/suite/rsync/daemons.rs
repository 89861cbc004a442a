//! Targets that only an rsync daemon serves: modules, passwords, modules that are read-only.

use super::*;

const MODULES: &str = "[open]\npath = DIR/open\nread only = no\n\
    [closed]\npath = DIR/closed\nread only = no\nauth users = me\nsecrets file = DIR/secrets\n\
    [frozen]\npath = DIR/open\nread only = yes\n";

fn push_to(stage: &Stage, words: &[&str], target: &str, password: &str) -> Push {
    let mut command = stage.lsyncd();
    command.args(["push", "--json"]).args(words).arg(stage.source()).arg(target);
    command.env("RSYNC_PASSWORD", password);
    Push::start(command)
}

#[test]
fn modules_are_mirrored_to_with_and_without_a_password() {
    let daemon = Daemon::start(MODULES);
    for (module, login) in [("open", ""), ("closed", "me@")] {
        let stage = Stage::new(Way::Local);
        sh(&stage.source(), "mkdir d; echo 1 > d/f");
        let target = daemon.url(module).replace("127", &format!("{login}127"));
        let push = push_to(&stage, &["--no-owner", "--no-group"], &target, "open sesame");
        push.wait_event("ready");
        let said = push.wait_event("carrier");
        assert!(said["text"].as_str().unwrap().contains("rsync carries it"), "{said}");
        sh(&stage.source(), "echo 2 > n; rm -r d; mkdir e; echo 1 > e/g");
        wait_until("it is equal", || unequal(&stage.source(), &daemon.path(module)).is_none());
        push.terminate();
    }
}

#[test]
fn what_a_daemon_refuses_is_said() {
    let daemon = Daemon::start(MODULES);
    for (target, password, what, hint) in [
        ("me@closed", "wrong", "auth failed", "RSYNC_PASSWORD"),
        ("frozen", "", "read only", "read only = no"),
        ("none", "", "Unknown module", "lists the modules"),
    ] {
        let stage = Stage::new(Way::Local);
        fs::write(stage.s("f"), "1").unwrap();
        let (login, module) = target.split_once('@').map_or(("", target), |(_, m)| ("me@", m));
        let target = daemon.url(module).replace("127", &format!("{login}127"));
        let ended = push_to(&stage, &[], &target, password).end();
        assert_eq!(ended.code, Some(255), "{ended:?}");
        assert!(ended.err.contains(what) && ended.err.contains(hint), "{what}: {}", ended.err);
    }
}

#[test]
fn a_password_may_stand_in_a_file() {
    let daemon = Daemon::start(MODULES);
    let place = Place::new();
    fs::write(place.s("f"), "1").unwrap();
    fs::write(place.path("password"), "open sesame\n").unwrap();
    fs::set_permissions(place.path("password"), PermissionsExt::from_mode(0o600)).unwrap();
    let target = daemon.url("closed").replace("127", "me@127");
    let config = RsyncMirror {
        options: Place::options(&[("password_file", text(place.path("password")))]),
        ..RsyncMirror::new("m", place.path("source"), target.as_ref())
    };
    assert_eq!(Mirror::start(config, true).end().unwrap(), Exit::Done);
    assert_eq!(fs::read(daemon.path("closed/f")).unwrap(), b"1");
}

#[test]
fn a_daemon_that_is_away_at_the_start_is_waited_for_only_with_insist() {
    let mut daemon = Daemon::start(MODULES);
    let place = Place::new();
    fs::write(place.s("f"), "1").unwrap();
    daemon.stop();
    let config = RsyncMirror::new("m", place.path("source"), daemon.url("open").as_ref());
    let error = Mirror::start(config.clone(), false).end().unwrap_err();
    assert!(error.to_string().contains("ended with code 10"), "{error}");
    let mirror = Mirror::start(RsyncMirror { insist: true, ..config }, false);
    mirror.wait("lost", |notice| matches!(notice, Notice::Lost { .. }));
    daemon.again();
    let mirror = mirror.ready();
    assert!(daemon.path("open/f").exists());
    // And live it is waited for by everybody.
    daemon.stop();
    fs::write(place.s("g"), "1").unwrap();
    let lost =
        |notices: &[Notice]| notices.iter().filter(|n| matches!(n, Notice::Lost { .. })).count();
    let before = lost(&mirror.notices());
    wait_until("it is lost again", || lost(&mirror.notices()) > before);
    daemon.again();
    wait_until("the change arrives", || daemon.path("open/g").exists());
    assert!(mirror.notices().iter().any(|n| matches!(n, Notice::Reconnected { .. })));
}
