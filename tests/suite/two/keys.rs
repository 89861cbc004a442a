//! What single keys of a configuration do, end to end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::rsync::{Daemon, unequal};
use super::super::world::World;
use super::*;

/// Waits until they are equal as far as rsync cares: times by the second.
#[track_caller]
fn wait_alike(source: &Path, target: &Path) {
    wait_until(&format!("{target:?} is like {source:?}"), || unequal(source, target).is_none());
}

/// The program where `ssh` is the system's with the world's configuration: OpenSSH asks the password
/// file for its home.
fn with_ssh(stage: &Stage, config: &str) -> Two {
    write(stage, config);
    let (dir, file) = (stage.path("bin"), stage.world().ssh_config());
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("ssh"), format!("#!/bin/sh\nexec /usr/bin/ssh -F {file:?} \"$@\"\n"))
        .unwrap();
    fs::set_permissions(dir.join("ssh"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = stage.lsyncd();
    command.args(["-nodaemon", "c.lua"]).current_dir(stage.path(""));
    command.env("PATH", format!("{}:{path}", dir.display()));
    Two::run(command, stage.path("out"))
}

const SSH: &str =
    "sync { default.rsyncssh, source = SRC, host = 'world', targetdir = TRG, delay = 0,
    rsync = { archive = true, checksum = true } }";

#[test]
fn the_status_file_knows_when_the_start_is_over() {
    let stage = Stage::new(Way::Local);
    let status = stage.path("status");
    let config = format!("settings {{ statusFile = {status:?}, statusInterval = 1 }}\n{DIRECT}");
    let mut two = Two::with(&stage, &config);
    two.wait_for("finished.");
    // Of a tree that is not walked yet it would say that nothing is watched, and nothing is due.
    wait_until("the directories that are watched", || {
        let said = fs::read_to_string(&status).unwrap_or_default();
        said.contains("There are 0 delays") && said.contains("Inotify watching 1 directories")
    });
}

#[test]
fn the_status_file_says_what_waits_and_when_nothing_does() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    let status = stage.path("status");
    let read = || fs::read_to_string(&status).unwrap_or_default();
    let settings = "settings { statusFile = 'status', statusInterval = 1 }";
    let sync = "sync { default.direct, source = SRC, target = TRG, delay = 600 }";
    let mut two = Two::with(&stage, &format!("{settings}\n{sync}"));
    two.wait_for("finished.");
    wait_until("nothing waits", || read().contains("\nThere are 0 delays\n"));
    let text = read();
    assert!(text.starts_with("Lsyncd status report at "), "{text}");
    assert!(text.contains(&format!(" source={}/\n", stage.source().display())), "{text}");
    assert!(text.contains("Filtering:\n  nothing.\n"), "{text}");
    assert!(text.contains("\nInotify watching "), "{text}");
    // An open file keeps what it was: another takes its name.
    let old = fs::File::open(&status).unwrap();
    fs::write(stage.s("later"), "1").unwrap();
    wait_until("the new file is listed", || read().contains("wait   Create /later\n"));
    fs::write(stage.s("first"), "2").unwrap();
    wait_until("the change is, too", || read().contains("wait   Modify /first\n"));
    assert!(!read().contains("There are 0 delays"), "{}", read());
    assert_eq!(std::io::read_to_string(old).unwrap(), text);
    assert!(!stage.t("later").exists());
    drop(two);

    let mut two = Two::with(&stage, &format!("{settings}\n{DIRECT}"));
    two.wait_for("finished.");
    fs::write(stage.s("live"), "1").unwrap();
    wait_equal(&stage.source(), &stage.target());
    wait_until("nothing waits any more", || read().contains("\nThere are 0 delays\n"));
}

#[test]
fn crontab_repairs_what_changed_on_the_target() {
    for (kind, keys) in [("direct", "archive = true"), ("rsync", "archive = true, checksum = true")]
    {
        let stage = Stage::new(Way::Local);
        fs::write(stage.s("f"), "the source's").unwrap();
        let mut two = Two::with(
            &stage,
            &format!(
                "sync {{ default.{kind}, source = SRC, target = TRG, delay = 0,
                   crontab = {{ '* * * * * *' }}, rsync = {{ {keys} }} }}"
            ),
        );
        two.wait_for("finished.");
        wait_alike(&stage.source(), &stage.target());
        fs::write(stage.t("f"), "somebody else's, and longer").unwrap();
        fs::write(stage.t("extra"), "1").unwrap();
        wait_alike(&stage.source(), &stage.target());
        two.wait_for("crontab says");
    }
}

#[test]
fn crontab_calls_on_full_of_an_own_sync() {
    let stage = Stage::new(Way::Local);
    let mut two = Two::with(
        &stage,
        "sync { source = SRC, delay = 0, crontab = { '* * * * * *' },
           onCreate = 'true', onFull = function(event) log('Normal', 'full of ', event.etype) end }",
    );
    two.wait_times("full of Full", 2);
}

#[test]
fn a_tunnel_leads_to_an_rsync_daemon() {
    let daemon = Daemon::start("[open]\npath = DIR/open\nread only = no\n");
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("first"), "1").unwrap();
    let mut two = Two::with(
        &stage,
        &format!(
            "local t = tunnel {{ name = 'T', readyDelay = 1, retryDelay = 1, command = {{ 'ssh', '-F', {:?},
               '-N', '-o', 'ExitOnForwardFailure=yes', '-L', '^localport:127.0.0.1:{}', '{HOST}' }} }}
             sync {{ default.rsync, tunnel = t, source = SRC, delay = 0,
               target = 'rsync://^localhost:^localport/open/', rsync = {{ archive = true }} }}",
            stage.world().ssh_config(),
            daemon.port(),
        ),
    );
    two.wait_for("finished.");
    // The port is known by then: no variable is left.
    assert!(two.said().contains(" -> rsync://localhost:"), "{}", two.said());
    assert!(two.said().contains(", by the system's rsync, through T\n"), "{}", two.said());
    assert!(!two.said().contains("^local"), "{}", two.said());
    churn(&stage.source(), 50, 31);
    wait_alike(&stage.source(), &daemon.path("open"));
    // Cut, it is made again.
    stage.world().cut();
    fs::write(stage.s("after the cut"), "1").unwrap();
    wait_alike(&stage.source(), &daemon.path("open"));
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
    wait_until("the tunnel has ended", || stage.world().sessions() == 0);
}

#[test]
fn what_a_tunnel_started_ends_with_us() {
    let stage = Stage::new(Way::Local);
    let pids = stage.path("pids");
    let two = Two::with(
        &stage,
        &format!(
            "local t = tunnel {{ name = 'T', mode = 'pool', parallel = 32,
               command = {{ 'sh', '-c', 'echo $$ >> {}; exec sleep 600' }} }}
             sync {{ default.rsync, tunnel = t, source = SRC, delay = 0,
               target = 'rsync://^localhost:^localport/open/' }}",
            pids.display()
        ),
    );
    let all = || -> Vec<u32> {
        let text = fs::read_to_string(&pids).unwrap_or_default();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    };
    wait_until("all have been started", || all().len() == 32);
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
    let left = || all().into_iter().filter(|pid| runs(*pid)).count();
    wait_until("all have ended", || left() == 0);
}

#[test]
fn a_host_that_takes_no_agent_is_mirrored_to_by_rsync() {
    let stage = Stage::with(Some(World::new()));
    // Where the agent would be put there is a file.
    fs::write(stage.world().path("remote/.cache"), "no directory").unwrap();
    fs::write(stage.s("first"), "1").unwrap();
    let sync = SSH.replace(", checksum = true", "");
    let mut two = with_ssh(&stage, &sync);
    two.wait_for("finished.");
    churn(&stage.source(), 50, 32);
    wait_alike(&stage.source(), &stage.target());
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
    assert_eq!(said.matches("by rsync, since ").count(), 1, "{said}");
}

#[test]
fn churn_by_rsync_ends_equal() {
    let rsync =
        "sync { default.rsync, source = SRC, target = TRG, delay = 0, rsync = { archive = true } }";
    for (way, sync) in [(Way::Local, rsync), (Way::Ssh, SSH)] {
        let stage = Stage::new(way);
        fs::write(stage.s("first"), "1").unwrap();
        let mut two = match way {
            Way::Local => Two::with(&stage, sync),
            Way::Ssh => with_ssh(&stage, sync),
        };
        two.wait_for("finished.");
        churn(&stage.source(), 300, 33);
        wait_alike(&stage.source(), &stage.target());
        let (code, said) = two.stop(Signal::TERM);
        assert_eq!(code, Some(143), "{said}");
        assert!(!said.contains("by lsync-agent"), "{said}");
    }
}

#[test]
fn own_syncs_end_after_their_start_when_it_is_one_pass() {
    let stage = Stage::new(Way::Local);
    let done = stage.path("done");
    let shell = format!("onStartup = 'echo ^source > {}'", done.display());
    let function = format!("onStartup = function(e) spawn(e, 'touch', {done:?}) end");
    let own = format!(
        "init = function(event) spawn(event, 'touch', {done:?}) end, action = function(inlet) end"
    );
    for keys in [shell, function, own] {
        write(&stage, &format!("sync {{ source = SRC, {keys} }}"));
        let (code, said) = Two::start(&stage, &["-nodaemon", "-onepass", "c.lua"]).code();
        assert_eq!(code, Some(0), "{keys}: {said}");
        fs::remove_file(&done).unwrap();
    }
}

#[test]
fn a_script_ends_it_with_a_code_of_its_own() {
    let stage = Stage::new(Way::Local);
    let mut two = Two::with(
        &stage,
        "sync { source = SRC, delay = 0, onCreate = function(event) terminate(3) end }",
    );
    two.wait_for("finished.");
    fs::write(stage.s("a"), "1").unwrap();
    let (code, said) = two.code();
    assert_eq!(code, Some(3), "{said}");
}

#[test]
fn a_sync_that_dies_leaves_the_others() {
    let stage = Stage::new(Way::Local);
    let mut two = Two::with(
        &stage,
        &format!(
            "sync {{ source = SRC, delay = 0, onCreate = 'exit 4', exitcodes = {{ [0] = 'ok', [4] = 'die' }} }}\n{DIRECT}"
        ),
    );
    two.wait_times("finished.", 2);
    fs::write(stage.s("a"), "1").unwrap();
    two.wait_for("sync Sync1 ends here");
    fs::write(stage.s("b"), "1").unwrap();
    wait_alike(&stage.source(), &stage.target());
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
}
