//! The words of a command line, each where it has its effect.

use std::fs;

use super::super::world::{free_port, run as run_program};
use super::*;

/// Runs it with these words to its end.
fn ended(stage: &Stage, words: &[&str]) -> (Option<i32>, String) {
    Two::start(stage, words).code()
}

#[test]
fn what_ssh_or_rsync_would_take_for_an_option_is_refused() {
    let stage = Stage::new(Way::Local);
    let source = stage.source();
    let source = source.to_str().unwrap();
    let evil = format!("-oProxyCommand=touch {}", stage.path("evil").display());
    let (with_dir, with_user) = (format!("{evil}:/x"), format!("me@{evil}:/x"));
    let plain = "-oProxyCommand=x:/y";
    for words in [
        &["-rsync", source, plain][..],
        &["-rsync", source, &with_dir],
        &["-rsync", source, &with_user],
        &["-rsync", source, "-x::module"],
        &["-rsync", source, "rsync://-x/module"],
        &["-rsyncssh", source, "-oProxyCommand=x", "/y"],
        &["-rsyncssh", source, &evil, "/y"],
        &["-rsyncssh", source, "me@-x", "/y"],
        &["-direct", source, "-x"],
    ] {
        let (code, said) = ended(&stage, &[&["-nodaemon", "-insist"], words].concat());
        assert_eq!(code, Some(255), "{words:?}: {said}");
        assert!(said.contains("a host or user may not begin with a hyphen"), "{words:?}: {said}");
    }
    for keys in [
        "default.rsyncssh, host = EVIL, targetdir = '/y', rsync = { checksum = true }",
        "default.rsyncssh, host = EVIL, targetdir = '/y', init = function(event) end",
        "default.rsync, target = EVIL .. ':/y', init = function(event) end",
        "default.rsync, target = EVIL .. ':/y', prepare = function() end",
        "default.rsync, target = 'me@' .. EVIL .. ':/y', rsync = { binary = 'true' }",
    ] {
        let config = format!("EVIL = {evil:?} sync {{ {keys}, source = SRC }}");
        let (code, said) = Two::with(&stage, &config).code();
        assert_eq!(code, Some(255), "{keys}: {said}");
        assert!(said.contains("a host or user may not begin with a hyphen"), "{keys}: {said}");
    }
    let (code, said) = ended(&stage, &["-nodaemon", "-rsyncssh", source, "a/b", "/y"]);
    assert_eq!(code, Some(255), "{said}");
    assert!(said.contains("a / cannot stand in a host name"), "{said}");
    let left: Vec<_> = fs::read_dir(stage.path("")).unwrap().flatten().collect();
    let names = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut left: Vec<String> = left.iter().map(names).collect();
    left.sort();
    assert_eq!(left, ["c.lua", "home", "out", "source"], "no directory of such a name was made");
}

#[test]
fn scripts_run_before_the_configuration_in_their_order_and_a_pipe_will_do() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    fs::write(stage.path("one.lua"), "settings { nodaemon = true }\nWHERE = 'target'").unwrap();
    let text = "assert(WHERE == 'target')\nfunction to() return WHERE end";
    fs::write(stage.path("two.lua"), text).unwrap();
    // What cannot be read twice, and has no length.
    let pipe = stage.path("c.lua");
    run_program(Command::new("mkfifo").arg(&pipe));
    let writer = std::thread::spawn(move || {
        let text = "sync { default.direct, source = 'source', target = to(), delay = 0 }";
        fs::write(pipe, text).unwrap();
    });
    let words = ["-script", "one.lua", "-monitor", "inotify", "--script", "two.lua", "c.lua"];
    let mut two = Two::start(&stage, &words);
    two.wait_for("finished.");
    writer.join().unwrap();
    assert!(stage.t("first").exists());
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");

    let (code, said) = ended(&stage, &["-nodaemon", "-script", "no.lua", "-direct", "a", "b"]);
    assert_eq!(code, Some(255), "{said}");
    assert!(said.contains("cannot load") && said.contains("no.lua"), "{said}");
}

#[test]
fn monitors_are_listed_chosen_and_checked() {
    let stage = Stage::new(Way::Local);
    let (code, said) = ended(&stage, &["-monitor"]);
    assert_eq!(code, Some(255), "as Lsyncd 2");
    assert!(said.starts_with("This Lsyncd supports these monitors:\n   inotify\n"), "{said}");
    for (monitor, text) in [
        ("fsevents", "unknown monitor fsevents"),
        ("fanotify", "the monitor fanotify is not there"),
    ] {
        let words = ["-nodaemon", "-monitor", monitor, "-direct", "source", "target"];
        let (code, said) = ended(&stage, &words);
        assert_eq!(code, Some(255), "{said}");
        assert!(said.contains(text), "{said}");
        assert!(!stage.target().exists());
    }
}

#[test]
fn the_delay_of_the_line_is_that_of_every_sync_of_the_file() {
    let stage = Stage::new(Way::Local);
    write(
        &stage,
        "sync { default.direct, source = SRC, target = TRG, delay = 600 }
         sync { default.rsync, source = SRC, target = TRG .. 2, delay = 600 }
         sync { source = SRC, onCreate = 'touch ' .. TRG .. '3-^pathname', delay = 600 }",
    );
    let words = ["-nodaemon", "-delay", "0.1", "-logfile", "l.log", "c.lua"];
    let mut two = Two::start(&stage, &words);
    two.wait_times("finished.", 3);
    fs::write(stage.s("live"), "1").unwrap();
    wait_until("the change, everywhere", || {
        ["target/live", "target2/live", "target3-live"].iter().all(|name| stage.path(name).exists())
    });
    let logged = fs::read_to_string(stage.path("l.log")).unwrap();
    assert_eq!(logged.matches(" finished.\n").count(), 3, "{logged}");
}

#[test]
fn a_target_that_is_away_ends_it_without_insist_alone() {
    let stage = Stage::new(Way::Local);
    let target = format!("rsync://127.0.0.1:{}/module", free_port());
    let words = ["-nodaemon", "-rsync", "source", &target];
    let (code, said) = ended(&stage, &words);
    assert_eq!(code, Some(255), "{said}");
    let mut two = Two::start(&stage, &[&["-insist"], &words[..]].concat());
    two.wait_for("trying again in");
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
}

#[test]
fn sshopts_are_for_the_ssh_of_the_line() {
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("first"), "1").unwrap();
    // The system's ssh knows the world by nothing else.
    let options = format!("-F {}", stage.world().ssh_config().display());
    let source = stage.source();
    let (source, local) = (source.to_str().unwrap(), stage.target());
    let mut words = vec!["-nodaemon", "-onepass", "-rsyncssh", source, HOST, "~/there"];
    words.extend(["-rsync", source, local.to_str().unwrap()]);
    let (code, said) = ended(&stage, &[&words[..], &["-sshopts", &options]].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("by lsync-agent"), "{said}");
    let there = stage.world().remote_home().join("there/first");
    assert!(there.exists() && local.join("first").exists(), "{said}");
    let (code, said) = ended(&stage, &[&words[..], &["-sshopts", "-oNoSuchOption=1"]].concat());
    assert_eq!(code, Some(255), "{said}");
    assert!(said.to_lowercase().contains("nosuchoption"), "{said}");
}
