//! `lsyncd run` with a file of its own: many mirrors that are kept going, and a file that is read
//! again.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::push::{Ended, Push, Stage, Way};
use super::tree::{equal_within, plant};
use super::world::{HOST, PATIENCE, wait_until};

/// Writes the file of a stage.
fn write(stage: &Stage, text: &str) {
    let text = text
        .replace("SOURCE", &stage.source().display().to_string())
        .replace("DIR", &stage.path("").display().to_string());
    fs::write(stage.path("m.toml"), text).unwrap();
}

fn command(stage: &Stage, words: &[&str]) -> Command {
    let mut command = stage.lsyncd();
    command.args(words);
    command
}

/// `lsyncd run` of that file.
fn run(stage: &Stage) -> Push {
    let file = stage.path("m.toml");
    Push::start(command(stage, &["run", "--json", file.to_str().unwrap()]))
}

fn ask(stage: &Stage, words: &[&str]) -> Ended {
    Push::start(command(stage, words)).end()
}

/// The mirror of that name, as the status has it.
fn status(stage: &Stage, name: &str) -> Value {
    let ended = ask(stage, &["status", "--json", name]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.lines[0]["processes"][0]["mirrors"][0].clone()
}

fn of(push: &Push, event: &str, mirror: &str) -> usize {
    push.events(event).iter().filter(|line| line["mirror"] == mirror).count()
}

#[track_caller]
fn wait_of(push: &Push, event: &str, mirror: &str, count: usize) -> Value {
    push.wait_for(event, count, |line| line["mirror"] == mirror)
}

fn arrives(path: &std::path::Path, text: &str) {
    wait_until(&format!("{} is {text}", path.display()), || {
        fs::read(path).is_ok_and(|there| there == text.as_bytes())
    });
}

/// How many instances of inotify a process has.
fn watches(pid: u32) -> usize {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = all.filter_map(|fd| fs::read_link(fd.path()).ok());
    links.filter(|link| link.as_os_str() == "anon_inode:inotify").count()
}

const THREE: &str = "
    [[mirror]]
    name = 'two'
    source = 'source'
    targets = ['t1', 't2']
    [[mirror]]
    name = 'other'
    source = 'SOURCE'
    target = 'DIR/t3'
    exclude = ['*.tmp']
";

#[test]
fn all_mirrors_of_a_file_are_kept_and_one_source_is_watched_once() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    write(&stage, THREE);
    let run = run(&stage);
    for mirror in ["two@t1", "two@t2", "other"] {
        wait_of(&run, "ready", mirror, 1);
    }
    // Two that see the same share it; the third has other rules.
    assert_eq!(watches(run.pid()), 2);
    fs::write(stage.s("a.tmp"), "x").unwrap();
    fs::write(stage.s("small"), "changed").unwrap();
    let flushed = ask(&stage, &["flush", "--all"]);
    assert_eq!(flushed.code, Some(0), "{flushed:?}");
    for target in ["t1", "t2"] {
        let differs = equal_within(&stage.source(), &stage.path(target), PATIENCE);
        assert_eq!(differs, Ok(()), "{target}");
    }
    assert_eq!(fs::read(stage.path("t3/small")).unwrap(), b"changed");
    assert!(!stage.path("t3/a.tmp").exists());
    // By the name of the table both of its mirrors are meant.
    assert_eq!(ask(&stage, &["pause", "two"]).code, Some(0));
    assert_eq!(status(&stage, "two@t2")["state"], "paused");
    assert_eq!(status(&stage, "other")["state"], "live");
    run.terminate();
}

#[test]
fn when_the_file_is_read_again_only_what_is_different_begins_anew() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    fs::create_dir(stage.path("more")).unwrap();
    write(&stage, THREE);
    let run = run(&stage);
    for mirror in ["two@t1", "two@t2", "other"] {
        wait_of(&run, "ready", mirror, 1);
    }
    let hup = |text: &str, count: usize| {
        write(&stage, text);
        run.signal(Signal::HUP);
        run.wait_events("reloaded", count)
    };
    // One goes, one has other rules, one comes, one stays.
    let text = "
        [[mirror]]
        name = 'two@t1'
        source = 'source'
        target = 't1'
        [[mirror]]
        name = 'other'
        source = 'SOURCE'
        target = 'DIR/t3'
        [[mirror]]
        name = 'new'
        source = 'more'
        target = 't4'
    ";
    let said = hup(text, 1);
    let expected = "the configuration was read again: 2 begun, 2 ended, 1 as before";
    assert_eq!(said["text"], expected);
    wait_of(&run, "ready", "other", 2);
    wait_of(&run, "ready", "new", 1);
    fs::write(stage.s("a.tmp"), "x").unwrap();
    fs::write(stage.path("more/b"), "y").unwrap();
    arrives(&stage.path("t1/a.tmp"), "x");
    arrives(&stage.path("t3/a.tmp"), "x");
    arrives(&stage.path("t4/b"), "y");
    assert!(!stage.path("t2/a.tmp").exists());
    assert_eq!(of(&run, "ready", "two@t1"), 1, "it went on");

    // What cannot be read changes nothing.
    for (broken, count) in [("[[mirror]\n", 1), ("[[mirror]]\nsource='source'\n", 2)] {
        write(&stage, broken);
        run.signal(Signal::HUP);
        let failed = wait_of(&run, "failed", "lsyncd", count);
        assert!(failed["cause"].as_str().unwrap().ends_with("going on as before"), "{failed}");
        fs::write(stage.s("small"), broken).unwrap();
        arrives(&stage.path("t1/small"), broken);
    }
    let said = hup(text, 2);
    assert_eq!(said["text"], "the configuration was read again: 0 begun, 0 ended, 3 as before");
    // What is named in the file counts as well.
    fs::write(stage.path("rules"), "*.tmp\n").unwrap();
    let ruled = text.replace("target = 't4'", "target = 't4'\nexclude-from = 'rules'");
    assert_eq!(
        hup(&ruled, 3)["text"],
        expected.replace("2 begun, 2 ended, 1", "1 begun, 1 ended, 2")
    );
    fs::write(stage.path("rules"), "*.o\n").unwrap();
    assert_eq!(
        hup(&ruled, 4)["text"],
        expected.replace("2 begun, 2 ended, 1", "1 begun, 1 ended, 2")
    );
    run.terminate();
}

#[test]
fn neither_a_target_nor_a_source_nor_a_guard_ends_it() {
    let mut stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    fs::create_dir(stage.path("empty")).unwrap();
    fs::create_dir(stage.path("full")).unwrap();
    fs::write(stage.path("full/kept"), "x").unwrap();
    stage.world_mut().stop();
    let away = format!("{HOST}:{}", stage.path("remote").display());
    write(
        &stage,
        &format!(
            "
            [[mirror]]
            name = 'away'
            source = 'source'
            target = '{away}'
            [[mirror]]
            name = 'late'
            source = 'comes later'
            target = 'late'
            [[mirror]]
            name = 'guarded'
            source = 'empty'
            target = 'full'
            [[mirror]]
            name = 'fine'
            source = 'source'
            target = 'fine'
            "
        ),
    );
    let mut run = run(&stage);
    wait_of(&run, "ready", "fine", 1);
    wait_of(&run, "lost", "away", 1);
    wait_of(&run, "failed", "late", 1);
    let failed = wait_of(&run, "failed", "guarded", 1);
    assert!(failed["cause"].as_str().unwrap().contains("a guard stopped it"), "{failed}");
    assert!(stage.path("full/kept").exists());
    wait_until("the guarded one waits", || status(&stage, "guarded")["state"] == "waiting");
    assert_eq!(status(&stage, "late")["state"], "waiting");
    assert_eq!(status(&stage, "away")["state"], "connecting");
    assert_eq!(status(&stage, "fine")["state"], "live");
    fs::write(stage.s("small"), "meanwhile").unwrap();
    arrives(&stage.path("fine/small"), "meanwhile");

    stage.world_mut().restart();
    wait_of(&run, "ready", "away", 1);
    fs::create_dir(stage.path("comes later")).unwrap();
    fs::write(stage.path("comes later/it"), "x").unwrap();
    wait_of(&run, "ready", "late", 1);
    arrives(&stage.path("late/it"), "x");
    fs::write(stage.path("empty/something"), "x").unwrap();
    wait_of(&run, "ready", "guarded", 1);
    wait_until("what is not there goes", || !stage.path("full/kept").exists());
    assert!(run.is_running());
    run.terminate();
}

#[test]
fn a_daemon_has_a_pidfile_and_a_log_that_is_opened_anew() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    write(&stage, THREE);
    let text = fs::read_to_string(stage.path("m.toml")).unwrap();
    let text = format!("[settings]\nlogfile = 'log'\npidfile = 'pid'\n{text}");
    fs::write(stage.path("m.toml"), text).unwrap();
    let file = stage.path("m.toml");
    let file = file.to_str().unwrap();
    let started = ask(&stage, &["run", "--daemon", file]);
    assert_eq!((started.code, started.err.as_str()), (Some(0), ""), "{started:?}");
    let pid: i32 = fs::read_to_string(stage.path("pid")).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _end = scopeguard(move || {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    });
    let log = || fs::read_to_string(stage.path("log")).unwrap_or_default();
    wait_until("all are ready", || log().matches("ready: ").count() == 3);
    assert!(log().lines().all(|line| line.starts_with("20")), "{}", log());
    // A second one has no place.
    let second = ask(&stage, &["run", "--daemon", file]);
    assert_eq!(second.code, Some(255), "{second:?}");
    assert!(second.err.contains("pid"), "{second:?}");
    fs::rename(stage.path("log"), stage.path("log.1")).unwrap();
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    wait_until("the log is there anew", || log().contains("3 as before"));
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    wait_until("it ends", || !stage.path("pid").exists());
    wait_until("it is gone", || !super::two::runs(pid.as_raw_nonzero().get().unsigned_abs()));

    let silent = text_without_log(&stage);
    fs::write(file, silent).unwrap();
    let refused = ask(&stage, &["run", "--daemon", file]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("--logfile FILE"), "{refused:?}");
}

fn text_without_log(stage: &Stage) -> String {
    fs::read_to_string(stage.path("m.toml")).unwrap().replace("logfile = 'log'", "")
}

/// Does something at the end, whatever happens before.
fn scopeguard(what: impl FnMut()) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(what)
}

#[test]
fn a_service_manager_is_told_how_it_stands() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    write(&stage, THREE);
    let socket = UnixDatagram::bind(stage.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let file = stage.path("m.toml");
    let mut command = command(&stage, &["run", "--json", file.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", stage.path("notify")).env("WATCHDOG_USEC", "900000");
    let run = Push::start(command);
    let hear = |wanted: &str| {
        loop {
            let mut buffer = [0; 4096];
            let size = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let said = String::from_utf8_lossy(&buffer[..size]).into_owned();
            if said.lines().any(|line| line.starts_with(wanted)) {
                return said;
            }
        }
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("STATUS=mirrors: 3 live");
    assert_eq!(ask(&stage, &["pause", "other"]).code, Some(0));
    hear("STATUS=mirrors: 2 live, 1 paused");
    run.signal(Signal::HUP);
    let reloading = hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    hear("READY=1");
    run.signal(Signal::TERM);
    hear("STOPPING=1");
    assert_eq!(run.end().code, Some(0));
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_place() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let mirror = "[[mirror]]\nname = 'm'\nsource = 'source'\ntarget = 't'\n";
    let file = stage.path("m.toml").display().to_string();
    for (text, code, what, hint) in [
        (
            format!("{mirror}exlude = 'x'"),
            255,
            ": line 5: there is no key exlude",
            "did you mean exclude?",
        ),
        (
            format!("{mirror}delay = 'soon'"),
            255,
            ": line 1: mirror m: bad --delay 'soon': ",
            "see --delay in lsyncd push --help",
        ),
        (
            format!("{mirror}control = 'x'"),
            255,
            ": line 5: there is no key control",
            "such as name",
        ),
        (format!("{mirror}once = true"), 255, ": line 5: there is no key once", ""),
        (
            mirror.replace("'t'", "'source/in'"),
            25,
            ": line 1: mirror m: refusing to mirror ",
            "name a TARGET that is not in SOURCE",
        ),
        (format!("{mirror}{mirror}"), 255, ": the target ", ""),
        (
            format!("{mirror}{}", mirror.replace("'t'", "'u'")),
            255,
            ": two mirrors are called m",
            "name",
        ),
    ] {
        write(&stage, &text);
        for command in ["run", "check"] {
            let ended = ask(&stage, &[command, &file]);
            assert_eq!(ended.code, Some(code), "{text}: {ended:?}");
            let expected = format!("lsyncd: {file}{what}");
            assert!(ended.err.starts_with(&expected), "{text}: {}", ended.err);
            assert!(ended.err.contains(hint), "{text}: {}", ended.err);
        }
    }
    let missing = ask(&stage, &["run", "no.toml"]);
    assert_eq!(missing.code, Some(255));
    assert!(missing.err.contains("cannot read the configuration "), "{missing:?}");
}

#[test]
fn check_says_what_a_file_means_and_migrate_writes_one_that_means_the_same() {
    let stage = Stage::new(Way::Local);
    fs::create_dir(stage.path("remote")).unwrap();
    write(&stage, THREE);
    let file = stage.path("m.toml");
    let checked = ask(&stage, &["check", file.to_str().unwrap()]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let source = stage.source().display().to_string();
    assert!(checked.out.contains(&format!("two@t1: {source} -> {}", stage.path("t1").display())));
    assert!(checked.out.contains("carried by lsyncd itself"), "{}", checked.out);
    assert!(checked.out.ends_with("3 mirrors, nothing wrong\n"), "{}", checked.out);
    assert!(!stage.path("t1").exists());

    let lua = format!(
        "sync {{ default.rsyncssh, source = '{source}', host = 'h', targetdir = '/d', delay = 4,
                delete = 'startup', exclude = {{ '*.o' }},
                rsync = {{ archive = true, xattrs = true, bwlimit = 300 }} }}
         sync {{ default.rsyncssh, source = '{source}', host = 'h2', targetdir = '/d' }}"
    );
    fs::write(stage.path("c.lua"), lua).unwrap();
    let lua = stage.path("c.lua");
    let before = ask(&stage, &["check", lua.to_str().unwrap()]);
    let migrated = ask(&stage, &["migrate", lua.to_str().unwrap()]);
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    fs::write(stage.path("new.toml"), &migrated.out).unwrap();
    let new = stage.path("new.toml");
    let after = ask(&stage, &["check", new.to_str().unwrap()]);
    assert_eq!(after.code, Some(0), "{after:?}\n{}", migrated.out);
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim().starts_with("note"));
        lines.map(|line| line.trim_end_matches('/').replace("syncs", "mirrors")).collect()
    };
    assert_eq!(lines(&after.out), lines(&before.out), "{}", migrated.out);
}

#[test]
fn a_configuration_of_lsyncd_2_runs_in_the_foreground() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let lua = format!(
        "sync {{ default.direct, source = '{}', target = '{}' }}",
        stage.source().display(),
        stage.target().display()
    );
    fs::write(stage.path("c.lua"), lua).unwrap();
    let lua = stage.path("c.lua");
    let run = Push::start(command(&stage, &["run", lua.to_str().unwrap()]));
    wait_until("it mirrors", || stage.t("small").exists());
    // It may be asked as any other.
    fs::write(stage.s("new"), "x").unwrap();
    let flushed = ask(&stage, &["flush"]);
    assert_eq!(flushed.code, Some(0), "{flushed:?}");
    assert!(stage.t("new").exists());
    assert_eq!(status(&stage, "Sync1")["state"], "live");
    let refused = ask(&stage, &["run", "--json", lua.to_str().unwrap()]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let ended = run.stop(Signal::TERM);
    assert_eq!(ended.code, Some(143), "as Lsyncd 2 has it: {ended:?}");
}
