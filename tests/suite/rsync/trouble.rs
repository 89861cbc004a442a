//! What goes wrong with one path, or one rsync, and what becomes of the rest.

use super::*;
use crate::push::is_root;

/// An rsync that does something else first, as long as `once` is not there.
fn spoiled(stage: &Stage, first: &str) -> String {
    let wrap = stage.path("spoiled");
    let once = stage.path("once").display().to_string();
    script(
        &wrap,
        &format!(
            "case \"$*\" in *--version*) exec rsync \"$@\";; esac
             if [ -e {once} ]; then rm {once}; {first}; fi
             exec rsync \"$@\"\n"
        ),
    );
    format!("--rsync={}", wrap.display())
}

#[test]
fn an_rsync_that_is_killed_has_not_succeeded() {
    let stage = Stage::new(Way::Local);
    let rsync = spoiled(&stage, "kill -9 $$");
    let push = stage.live(&[&rsync]);
    fs::write(stage.path("once"), "").unwrap();
    fs::write(stage.s("f"), "1").unwrap();
    let lost = push.wait_event("lost");
    assert_eq!(lost["cause"], "rsync was killed by signal 9");
    settles(&stage, &push, "after the kill");
    push.wait_event("reconnected");
    push.terminate();
}

#[test]
fn an_rsync_that_does_not_read_its_list_harms_nobody() {
    let stage = Stage::new(Way::Local);
    let rsync = spoiled(&stage, "exec true <&-");
    let rsync = rsync.as_str();
    let push = stage.live(&[rsync, "--delay", "0.5"]);
    // Longer than a pipe holds.
    fs::write(stage.path("once"), "").unwrap();
    let name = "n".repeat(120);
    for at in 0..2000 {
        fs::write(stage.s(format!("{name}{at}")), "").unwrap();
    }
    wait_until("it was called", || !stage.path("once").exists());
    // It said that it succeeded: a change is what makes the rest go again.
    sh(&stage.source(), "for f in n*; do echo 1 > $f; done");
    settles(&stage, &push, "a second time");
    push.terminate();
}

#[test]
fn exit_codes_lead_to_a_retry_and_an_unknown_one_ends_nothing() {
    for code in [12, 13, 99] {
        let stage = Stage::new(Way::Local);
        let rsync = spoiled(&stage, &format!("exit {code}"));
        let push = stage.live(&[&rsync]);
        fs::write(stage.path("once"), "").unwrap();
        fs::write(stage.s("f"), "1").unwrap();
        let lost = push.wait_event("lost");
        let cause = lost["cause"].as_str().unwrap();
        assert!(cause.contains(&format!("ended with code {code}")), "{cause}");
        settles(&stage, &push, "after a failure");
        push.terminate();
    }
}

#[test]
fn what_fails_without_a_name_is_found_by_halves() {
    let stage = Stage::new(Way::Local);
    let wrap = stage.path("picky");
    let cured = stage.path("cured").display().to_string();
    let list = stage.path("list").display().to_string();
    // One name makes it fail, and it does not say which.
    script(
        &wrap,
        &format!(
            "case \"$*\" in *--files-from*) cat > {list}; if [ ! -e {cured} ] && grep -qz 'bad$' {list}; then \
             exit 23; fi; exec rsync \"$@\" < {list};; *) exec rsync \"$@\";; esac\n"
        ),
    );
    let push = stage.live(&[&format!("--rsync={}", wrap.display()), "--delay", "0.3"]);
    for name in ["a", "b", "bad", "c", "d", "e"] {
        fs::write(stage.s(name), "1").unwrap();
    }
    let problem = push.wait_event("problem");
    assert_eq!(problem["path"], "bad");
    for name in ["a", "b", "c", "d", "e"] {
        wait_until(&format!("{name} arrives"), || stage.t(name).exists());
    }
    assert!(!stage.t("bad").exists());
    fs::write(&cured, "").unwrap();
    push.wait_event("solved");
    settles(&stage, &push, "when it is cured");
    push.terminate();
}

#[test]
fn a_directory_of_the_target_that_cannot_be_written_holds_nothing_else_up() {
    if !is_root() {
        return;
    }
    let daemon =
        Daemon::start("[open]\npath = DIR/open\nread only = no\nuid = nobody\ngid = nogroup\n");
    sh(&daemon.path("open"), "mkdir bad good; chown nobody . good; chmod 755 bad");
    let stage = Stage::new(Way::Local);
    sh(&stage.source(), "mkdir bad good; echo 1 > good/first; echo 1 > bad/first");
    let mut command = stage.lsyncd();
    command
        .args(["push", "--json", "--no-owner", "--no-group", "--no-times"])
        .arg(stage.source())
        .arg(daemon.url("open"));
    let push = Push::start(command);
    push.wait_event("ready");
    push.wait_for("problem", 1, |problem| problem["path"] == "bad/first");
    assert!(daemon.path("open/good/first").exists());
    sh(&stage.source(), "echo 2 > good/second; echo 2 > bad/second; echo 3 > third");
    push.wait_for("problem", 1, |problem| problem["path"] == "bad/second");
    for name in ["open/good/second", "open/third"] {
        wait_until(&format!("{name} arrives"), || daemon.path(name).exists());
    }
    let problem = push.events("problem").pop().unwrap();
    assert_eq!(problem["cause"], "permission denied (on the target)");
    // It is tried again by itself.
    sh(&daemon.path("open"), "chown nobody bad");
    for name in ["open/bad/first", "open/bad/second"] {
        wait_until(&format!("{name} arrives"), || daemon.path(name).exists());
    }
    push.wait_for("solved", 1, |solved| solved["path"] == "bad/first");
    push.terminate();
}

#[test]
fn no_rsync_outlives_lsyncd() {
    let stage = Stage::new(Way::Local);
    let pid = stage.path("pid");
    let rsync = spoiled(&stage, &format!("echo $$ > {}; exec sleep 1000", pid.display()));
    let push = stage.live(&[&rsync]);
    fs::write(stage.path("once"), "").unwrap();
    fs::write(stage.s("f"), "1").unwrap();
    wait_until("it hangs", || fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    push.terminate();
    let pid = fs::read_to_string(&pid).unwrap();
    let proc = Path::new("/proc").join(pid.trim());
    wait_until("it has ended", || {
        fs::read_to_string(proc.join("cmdline")).map_or(true, |line| !line.contains("sleep"))
    });
}

#[test]
fn without_rsync_it_says_so_and_how_to_do_without() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("f"), "1").unwrap();
    let mut command = stage.command(&["--rsync"]);
    command.env("PATH", stage.path("home"));
    let ended = Push::start(command).end();
    assert_eq!(ended.code, Some(255));
    let expected = "cannot run rsync: no such file or directory";
    assert!(ended.err.contains(expected), "{ended:?}");
    assert!(ended.err.contains("install rsync on this host, or do without"), "{ended:?}");
}

#[test]
fn more_errors_than_can_be_remembered_lose_no_path() {
    let place = Place::new();
    let wrap = place.path("wrap");
    let cured = place.path("cured").display().to_string();
    // Every name fails, and it says so of the first at such length that no other is remembered.
    script(
        &wrap,
        &format!(
            "case \"$*\" in *--include-from*) if [ ! -e {cured} ]; then
             yes 'rsync: [receiver] mkstemp \"{0}/.a.ALOtUO\" failed: Permission denied (13)' | head -n 200000 >&2
             exit 23; fi;; esac
             exec rsync \"$@\"\n",
            place.path("target").display(),
        ),
    );
    let config = RsyncMirror {
        options: Place::options(&[("binary", text(&wrap))]),
        delay: std::time::Duration::from_millis(200),
        ..place.config()
    };
    let mirror = Mirror::start(config, false).ready();
    sh(&place.path("source"), "echo 1 > a; echo 1 > b; echo 1 > c");
    mirror.wait("a problem", |notice| matches!(notice, Notice::Problem { .. }));
    fs::write(&cured, "").unwrap();
    for name in ["a", "b", "c"] {
        wait_until(&format!("{name} arrives"), || place.t(name).exists());
    }
}

#[test]
fn what_an_rsync_leaves_behind_holds_nothing_up() {
    let place = Place::new();
    let (wrap, pid) = (place.path("wrap"), place.path("pid"));
    // It has the wrapper's standard output and error.
    let behind = format!("sleep 60 & echo $! > {}", pid.display());
    script(&wrap, &format!("[ -e {0} ] || {{ {behind}; }}\nexec rsync \"$@\"\n", pid.display()));
    let options = Place::options(&[("binary", text(&wrap))]);
    let mirror = Mirror::start(RsyncMirror { options, ..place.config() }, false);
    mirror.wait("ready", |notice| matches!(notice, Notice::Ready { .. }));
    let pid = fs::read_to_string(&pid).unwrap();
    assert!(Path::new("/proc").join(pid.trim()).exists(), "it is there all the time");
    sh(&place.path(""), &format!("kill {pid}"));
}

#[test]
fn who_waits_for_a_tunnel_takes_no_place_and_ends_when_told() {
    use std::time::Duration;
    let keys = TunnelKeys {
        name: "t".into(),
        command: ["sleep", "600"].map(String::from).to_vec(),
        parallel: 1,
        localhost: "localhost".into(),
        ready_delay: Duration::from_secs(600),
        retry_delay: Duration::from_secs(600),
        max_failed: 5,
    };
    let limit = Arc::new(tokio::sync::Semaphore::new(1));
    let (place, other) = (Place::new(), Place::new());
    let shared = Arc::clone(&limit);
    let waits = Mirror::made(place.config(), false, move |running| {
        running.tunnel = Some(Tunnel::start(&keys).unwrap());
        running.limit = Some(shared);
        running.patient = true;
    });
    waits.wait("about to run", |notice| matches!(notice, Notice::Rsync { .. }));
    let goes = Mirror::made(other.config(), false, |running| running.limit = Some(limit)).ready();
    drop(goes);
    waits.stop.send(true).unwrap();
    wait_until("it has ended", || waits.ended.as_ref().unwrap().is_finished());
}
