//! Settings and keys of `sync{}`, each where it has its effect. What a sub-key of `rsync{}` is to
//! rsync stands beside `config::rsync`.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A program in a file of the stage, in Lua's quotes.
fn program(stage: &Stage, name: &str, text: &str) -> String {
    let path = stage.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    format!("{path:?}")
}

fn names(dir: &Path) -> Vec<String> {
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        found.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_may_say_that_it_stays_in_the_foreground_and_ends() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    write(&stage, &format!("settings {{ 'nodaemon', onepass = true }}\n{DIRECT}"));
    let (code, said) = Two::start(&stage, &["c.lua"]).code();
    assert_eq!(code, Some(0), "{said}");
    // A daemon would have nothing on its streams.
    assert!(said.contains(" Normal: done: Sync1: 1 file, "), "{said}");
    assert!(stage.t("first").exists());
}

#[test]
fn keys_that_never_were_are_errors() {
    let stage = Stage::new(Way::Local);
    for key in ["monitor = 'inotify'", "subdirs = true"] {
        let config = format!("sync {{ default.direct, source = SRC, target = TRG, {key} }}");
        let (code, said) = Two::with(&stage, &config).code();
        assert_eq!(code, Some(255), "{said}");
        let name = key.split(' ').next().unwrap();
        assert!(said.contains(&format!("Parameter \"{name}\" unknown.")), "{said}");
    }
}

#[test]
fn a_full_queue_does_not_wait() {
    let stage = Stage::new(Way::Local);
    write(
        &stage,
        "settings { maxDelays = 3 }
         rsync = { default.rsync, source = SRC, delay = 600 }
         sync { rsync, target = TRG .. 'all' }
         sync { rsync, target = TRG .. 'own', maxDelays = 2 }
         sync { rsync, target = TRG .. 'more', maxDelays = 1000 }
         own = 'touch ' .. TRG
         sync { source = SRC, delay = 600, onCreate = own .. '-all-^pathname' }
         sync { source = SRC, delay = 600, onCreate = own .. '-own-^pathname', maxDelays = 2 }",
    );
    let mut two = Two::start(&stage, &["-nodaemon", "c.lua"]);
    two.wait_times("finished.", 5);
    let there = |name: &str| stage.path(name).exists();
    fs::write(stage.s("a"), "1").unwrap();
    fs::write(stage.s("b"), "1").unwrap();
    // A script gets as many as make the queue short again.
    wait_until("two are enough for those", || there("targetown/b") && there("target-own-a"));
    assert!(!there("target-own-b"), "{}", two.said());
    assert!(!there("targetall/a") && !there("target-all-a"), "{}", two.said());
    fs::write(stage.s("c"), "1").unwrap();
    wait_until("three are enough", || there("targetall/c") && there("target-all-a"));
    assert_eq!(names(&stage.path("targetmore")), [""; 0], "{}", two.said());
}

/// An rsync that says when it runs, and waits for a word.
fn slow(stage: &Stage) -> String {
    fs::create_dir(stage.path("runs")).unwrap();
    let (runs, go) = (stage.path("runs"), stage.path("go"));
    program(
        stage,
        "slow",
        &format!(
            "if [ -e {go:?} ]; then exec rsync \"$@\"; fi
             touch {runs:?}/$$; while [ ! -e {go:?} ]; do sleep 0.02; done
             rsync \"$@\"; code=$?; rm {runs:?}/$$; exit $code\n"
        ),
    )
}

#[test]
fn so_many_processes_at_once_and_no_more() {
    for (settings, keys, most) in
        [("maxProcesses = 2", "maxProcesses = 3", 2), ("", "maxProcesses = 1", 3)]
    {
        let stage = Stage::new(Way::Local);
        fs::write(stage.s("first"), "1").unwrap();
        let binary = slow(&stage);
        write(
            &stage,
            &format!(
                "settings {{ {settings} }}
                 for at = 1, 3 do
                   sync {{ default.rsync, source = SRC, target = TRG .. at, delay = 0,
                          rsync = {{ binary = {binary} }}, {keys} }}
                 end"
            ),
        );
        let mut two = Two::start(&stage, &["-nodaemon", "c.lua"]);
        let runs = || names(&stage.path("runs")).len();
        wait_until("as many run as may", || runs() == most);
        std::thread::sleep(std::time::Duration::from_millis(150));
        assert_eq!(runs(), most, "{keys}");
        fs::write(stage.path("go"), "").unwrap();
        two.wait_times("finished.", 3);
    }
}

#[test]
fn an_entry_has_processes_of_its_own() {
    for (processes, expected) in [(1, 1), (3, 3)] {
        let stage = Stage::new(Way::Local);
        let binary = slow(&stage);
        let go = stage.path("go");
        fs::write(&go, "").unwrap();
        // Each large file is a call of its own.
        let config = format!(
            "sync {{ default.rsync, source = SRC, target = TRG, delay = 0.2, batchSizeLimit = 10,
                   maxProcesses = {processes}, rsync = {{ binary = {binary} }} }}"
        );
        let mut two = Two::with(&stage, &config);
        two.wait_for("finished.");
        fs::remove_file(&go).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(stage.s(name), "more than ten bytes").unwrap();
        }
        let runs = || names(&stage.path("runs")).len();
        wait_until("as many run as may", || runs() == expected);
        std::thread::sleep(std::time::Duration::from_millis(150));
        assert_eq!(runs(), expected);
        fs::write(&go, "").unwrap();
        wait_until("all are there", || names(&stage.target()) == ["a", "b", "c"]);
    }
}

#[test]
fn exit_codes_of_an_entry_are_laid_over_the_standard_ones() {
    let stage = Stage::new(Way::Local);
    let binary = program(&stage, "odd", "rsync \"$@\"\nexit 77\n");
    let own = format!("source = SRC, rsync = {{ binary = {binary}, checksum = true }}");
    let mut two = Two::with(
        &stage,
        &format!(
            "sync {{ default.rsync, {own}, target = TRG .. 1, exitcodes = {{ [77] = 'ok' }} }}
             sync {{ default.direct, {own}, target = TRG .. 2, rsyncExitCodes = {{ [77] = 'ok' }} }}
             sync {{ default.rsync, {own}, target = TRG .. 3, exitcodes = {{ [77] = 'again' }} }}
             sync {{ default.rsync, source = SRC, target = TRG .. 4, exitcodes = {{ [77] = 'die' }} }}"
        ),
    );
    two.wait_times("finished.", 3);
    two.wait_for("Warn: Sync3: link to Sync3 is down: ");
    two.wait_for("trying again in");
    let said = two.said();
    for (at, fine) in [(1, true), (2, true), (3, false), (4, true)] {
        let line = format!("target{at}/ finished.");
        assert_eq!(said.contains(&line), fine, "{at}: {said}");
    }
}

#[test]
fn deletes_happen_at_the_start_and_live_as_an_entry_says() {
    let stage = Stage::new(Way::Local);
    // One that stays: an emptied source deletes nothing.
    fs::write(stage.s("stays"), "1").unwrap();
    fs::write(stage.s("live"), "1").unwrap();
    let table = [("true", true, true), ("false", false, false)];
    let table = [&table[..], &[("'startup'", true, false), ("'running'", false, true)]].concat();
    let mut config = String::new();
    for (at, (when, ..)) in table.iter().enumerate() {
        for kind in ["direct", "rsync"] {
            fs::create_dir_all(stage.path(format!("target{kind}{at}"))).unwrap();
            fs::write(stage.path(format!("target{kind}{at}/extra")), "1").unwrap();
            config += &format!(
                "sync {{ default.{kind}, source = SRC, target = TRG .. '{kind}{at}', delay = 0,
                        delete = {when} }}\n"
            );
        }
    }
    let mut two = Two::with(&stage, &config);
    two.wait_times("finished.", 8);
    fs::remove_file(stage.s("live")).unwrap();
    let each = |look: &dyn Fn(&Path, bool, bool, &str)| {
        for (at, (when, startup, running)) in table.iter().enumerate() {
            for kind in ["direct", "rsync"] {
                let dir = stage.path(format!("target{kind}{at}"));
                look(&dir, *startup, *running, &format!("{kind} {when}"));
            }
        }
    };
    each(&|dir, _, running, what| {
        if running {
            wait_until(what, || !dir.join("live").exists());
        }
    });
    fs::write(stage.s("last"), "1").unwrap();
    each(&|dir, startup, running, what| {
        wait_until(what, || dir.join("last").exists());
        assert_eq!(dir.join("extra").exists(), !startup, "{what}");
        assert_eq!(dir.join("live").exists(), !running, "{what}");
    });
}

#[test]
fn rules_of_all_four_keys_hold_at_the_start_and_live() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.path("excludes"), "# none\n- from-file\n+ not-a-rule\n").unwrap();
    fs::write(stage.path("filters"), "+ /kept.o\n- *.o\n").unwrap();
    let out = ["single", "from-file", "own", "x.o"];
    let make = |suffix: &str| {
        for name in out.iter().chain(&["kept.o", "other"]) {
            fs::create_dir_all(stage.s(suffix)).unwrap();
            fs::write(stage.s(suffix).join(name), suffix).unwrap();
        }
    };
    make("");
    fs::write(stage.s("here"), "1").unwrap();
    let keys = "exclude = { 'single' }, excludeFrom = 'excludes', filter = { '- own' }, filterFrom = 'filters'";
    let mut two = Two::with(
        &stage,
        &format!(
            "sync {{ default.direct, source = SRC, target = TRG .. 1, delay = 0, {keys} }}
             sync {{ default.rsync, source = SRC, target = TRG .. 2, delay = 0, {keys} }}"
        ),
    );
    two.wait_times("finished.", 2);
    make("live");
    fs::write(stage.s("last"), "1").unwrap();
    for target in ["target1", "target2"] {
        let dir = stage.path(target);
        // A file that was written twice may be on its way once more.
        let live = dir.join("live");
        wait_until("all is there, and kept.o in the root alone", || {
            names(&dir) == ["here", "kept.o", "last", "live", "other"]
                && live.exists()
                && names(&live) == ["other"]
        });
    }
}

#[test]
fn a_start_may_be_left_out_and_a_configuration_prepared() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    let mut two = Two::with(
        &stage,
        "sync { default.rsync, source = SRC, target = TRG, delay = 0, init = false }
         sync { source = SRC, target = 'none', onCreate = 'touch ^target^pathname',
                prepare = function(config, level) config.target = TRG .. '-' end }",
    );
    two.wait_for("finished.");
    wait_until("a change", || {
        fs::write(stage.s("live"), "1").unwrap();
        let told = stage.path("target-live").exists();
        let _ = told || fs::remove_file(stage.s("live")).is_ok();
        stage.t("live").exists() && told
    });
    assert!(!stage.t("first").exists(), "{}", two.said());
}

#[test]
fn what_means_content_is_chosen_by_inotify_mode() {
    use std::io::Write;
    let config = |mode: &str| {
        format!(
            "settings {{ inotifyMode = '{mode}' }}
             sync {{ source = SRC, delay = 0, onModify = 'echo changed ^pathname',
                    onAttrib = 'echo barrier' }}"
        )
    };
    for (mode, open, closed) in
        [("CloseWrite", false, true), ("Modify", true, false), ("CloseWrite or Modify", true, true)]
    {
        let stage = Stage::new(Way::Local);
        fs::write(stage.s("file"), "1").unwrap();
        fs::write(stage.s("other"), "1").unwrap();
        let mut two = Two::with(&stage, &config(mode));
        two.wait_for("finished.");
        let barrier = |two: &mut Two, times: usize| {
            let mode =
                PermissionsExt::from_mode(if times.is_multiple_of(2) { 0o600 } else { 0o644 });
            fs::set_permissions(stage.s("other"), mode).unwrap();
            two.wait_times("\nbarrier\n", times);
            two.said().matches("\nchanged file\n").count()
        };
        let mut file = fs::OpenOptions::new().append(true).open(stage.s("file")).unwrap();
        file.write_all(b"more").unwrap();
        let first = barrier(&mut two, 1);
        assert_eq!(first > 0, open, "{mode}: {}", two.said());
        drop(file);
        let second = barrier(&mut two, 2);
        assert_eq!(second > first, closed, "{mode}: {}", two.said());
    }
}

#[test]
fn keys_of_ssh_reach_the_systems_ssh() {
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("first"), "1").unwrap();
    let (world, target) = (stage.world(), stage.target());
    let config = format!(
        "sync {{ default.rsyncssh, source = SRC, host = '127.0.0.1', targetdir = {target:?}, delay = 0,
           ssh = {{ port = {}, identityFile = {:?}, binary = 'ssh', _extra = {{ '-F', 'none' }},
             options = {{ UserKnownHostsFile = {:?}, StrictHostKeyChecking = 'yes' }} }} }}",
        world.port(),
        world.key("id_ed25519"),
        world.known_hosts(),
    );
    let mut two = Two::with(&stage, &config);
    two.wait_for("finished.");
    fs::write(stage.s("live"), "1").unwrap();
    wait_until("the change", || stage.t("live").exists());
    assert!(two.said().contains("by lsync-agent"), "{}", two.said());
}
