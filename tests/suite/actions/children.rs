//! Programs that scripts spawn: their input, their exit codes, how many there may be.

use lsync_protocol::path::RelPath;
use lsyncd::carrier::action::Happening;

use super::*;

#[test]
fn a_list_goes_to_one_child_by_its_standard_input() {
    let rig = Rig::new(
        r#"
        sync {
            target = DIR .. "/t/", delay = 0.3,
            action = function(inlet)
                local list = inlet.getEvents(function(event)
                    if event.name == "stop" then return "break" end
                    return not event.isdir
                end)
                assert(list.isList and list.config.target == DIR .. "/t/")
                local paths = list.getPaths(function(etype, path) return etype .. path end)
                assert(#paths == list.size() and #list.getPaths() == list.size())
                spawn(list, "sh", "<", table.concat(paths, "\n") .. "\n" .. string.rep("x", 200000),
                    { "-c", { 'cat >> "$1"' } }, nil, "sh", nil, DIR .. "/list")
            end,
            collect = function(agent, exitcode)
                log("Normal", "collected ", agent.isList, " ", exitcode)
            end,
        }
    "#,
    )
    .running();
    for name in ["a", "b", "c"] {
        rig.write(&format!("s/{name}"), "");
    }
    rig.until("the list is there", || rig.read("list").len() > 200_000);
    rig.until_idle();
    let list = rig.read("list");
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[..3], ["Create/a", "Create/b", "Create/c"]);
    assert_eq!(lines[3].len(), 200_000, "larger than a pipe");
    assert_eq!(rig.lines.count("collected true 0"), 1, "one child for all");
}

#[test]
fn a_child_that_does_not_read_its_input_harms_nobody() {
    let rig = Rig::new(
        r#"
        sync {
            onCreate = function(event)
                spawn(event, "/bin/sh", "<", string.rep("x", 1000000), "-c", "echo >> " .. DIR .. "/ran")
            end,
        }
    "#,
    )
    .running();
    rig.write("s/a", "");
    rig.write("s/b", "");
    rig.until("both ran", || rig.read("ran").len() == 2);
    rig.until_idle();
}

#[test]
fn the_startup_blocks_what_happens_meanwhile_and_it_is_done_after() {
    let rig = Rig::new(
        r#"
        sync {
            target = DIR .. "/t/",
            onStartup = 'echo began >> ' .. DIR .. '/log; while [ ! -e ' .. DIR .. '/go ]; do sleep 0.02; done; echo started >> ' .. DIR .. '/log',
            onCreate = 'echo ^pathname >> ' .. DIR .. '/log',
        }
    "#,
    );
    rig.until("it began", || rig.read("log") == "began\n");
    rig.write("s/f", "");
    rig.until("it is queued", || !rig.actions.status()[0].delays.is_empty());
    rig.until("the event is queued", || rig.actions.status()[0].delays.len() == 2);
    assert_eq!(rig.standing(0), Standing::Starting);
    rig.write("go", "");
    rig.until_idle();
    assert_eq!(rig.read("log"), "began\nstarted\nf\n");
    let done = format!("Normal: Startup of {0}/s/ -> {0}/t/ finished.", rig.dir.path().display());
    assert!(rig.lines.all().contains(&done), "{:?}", rig.lines.all());
}

#[test]
fn exit_codes_mean_what_they_should_and_one_sync_ends_alone() {
    let rig = Rig::new(
        r#"
        -- Fails until a file is there, with "again"; it needs no delay for that.
        sync { onCreate = "[ -e " .. DIR .. "/fixed ] || exit 1; echo ^path >> " .. DIR .. "/again",
            exitcodes = { [1] = "again" } }
        sync { onCreate = "exit 3", exitcodes = { [3] = "die" } }
        -- Without a table a failure is told of, and done.
        sync { onCreate = "echo ^path >> " .. DIR .. "/done; exit 5" }
        -- Killed, the first time: not done, whatever collect thinks.
        sync { onCreate = "[ -e " .. DIR .. "/shot ] || { touch " .. DIR .. "/shot; kill -9 $$; }; echo ^path >> " .. DIR .. "/killed",
            collect = function(agent, exitcode) log("Collected", exitcode) end }
        -- Not in the table.
        sync { onCreate = "exit 9", exitcodes = { [1] = "again" } }
        sync { onCreate = function(event) error("the script is wrong") end }
    "#,
    )
    .running();
    rig.write("s/f", "");
    rig.until("three have ended", || {
        let overview = rig.actions.overview();
        let overview = overview.borrow();
        let ended = |at: usize| overview.syncs[at] == Standing::Failed { at_start: false };
        ended(1) && ended(4) && ended(5)
    });
    assert!(rig.lines.count("Error: sync Sync2 ends here: a child ended with 3") == 1);
    assert!(rig.lines.count("Unknown exitcode") == 1);
    let wrong = rig.lines.all().into_iter().find(|line| line.contains("the script is wrong"));
    assert!(wrong.unwrap().contains("stack traceback"));
    rig.until("the killed one was tried again", || rig.read("killed") == "f\n");
    rig.until("that went well", || rig.lines.count("Collected: 0") == 1);
    assert_eq!(rig.lines.count("Collected: 137"), 1);
    rig.until("the other one is done", || rig.read("done") == "f\n");
    rig.until_says("not tried again");
    rig.until_says("Retrying Create on");
    rig.write("fixed", "");
    rig.until("it was done at last", || rig.read("again") == "f\n");
    // What goes on goes on.
    rig.write("s/g", "");
    rig.until("more is done", || rig.read("again") == "f\ng\n" && rig.read("done") == "f\ng\n");
    assert_eq!(rig.standing(0), Standing::Running);
}

#[test]
fn a_failing_startup_is_the_end_of_its_sync_unless_it_insists() {
    const CONFIG: &str = r#"
        sync { onStartup = "exit 1" }
        sync { onStartup = "[ -e " .. DIR .. "/up ] || exit 1", exitcodes = { [1] = "again" } }
        sync { onStartup = "true" }
    "#;
    let rig = Rig::new(CONFIG);
    rig.until("two have failed", || {
        let failed = Standing::Failed { at_start: true };
        rig.standing(0) == failed
            && rig.standing(1) == failed
            && rig.standing(2) == Standing::Running
    });
    assert!(!rig.actions.overview().borrow().all_failed());
    let options = ActionOptions::default();
    let rig = Rig::of(CONFIG, options, true, WatchChoice::Auto, |_| {});
    rig.until("both are tried again", || rig.lines.count("Retrying startup") >= 2);
    rig.write("up", "");
    rig.until("it is up", || rig.standing(1) == Standing::Running);
    assert_eq!(rig.standing(0), Standing::Starting);
}

#[test]
fn children_are_counted_by_sync_and_over_all() {
    let options = ActionOptions { max_processes: Some(3), ..ActionOptions::default() };
    let config = r#"
        for at = 1, 2 do
            sync {
                source = DIR .. "/s" .. at, maxProcesses = 2,
                onCreate = 'echo + >> ' .. DIR .. '/log; mkdir ' .. DIR .. '/run/"^pathname"-' .. at
                    .. '; while [ ! -e ' .. DIR .. '/go ]; do sleep 0.02; done; rmdir '
                    .. DIR .. '/run/"^pathname"-' .. at .. '; echo ' .. at .. ' >> ' .. DIR .. '/order',
            }
        end
    "#;
    let rig = Rig::of(config, options, false, WatchChoice::Auto, |dir| {
        for name in ["s1", "s2", "run"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
    })
    .running();
    for at in 0..6 {
        for sync in [1, 2] {
            rig.write(&format!("s{sync}/{at}"), "");
        }
    }
    let running = || fs::read_dir(rig.path("run")).unwrap().count();
    rig.until("three run", || running() == 3);
    rig.until("all is queued", || {
        rig.actions.status().iter().map(|sync| sync.delays.len()).sum::<usize>() == 12
    });
    std::thread::sleep(Duration::from_millis(100));
    let children: Vec<usize> = rig.actions.status().iter().map(|sync| sync.children).collect();
    assert_eq!(children.iter().sum::<usize>(), 3, "{children:?}");
    assert!(children.iter().all(|&n| n <= 2) && running() == 3, "{children:?}");
    rig.write("go", "");
    rig.until_idle();
    let order = rig.read("order");
    assert_eq!(order.lines().count(), 12);
    // Neither waits for the other's end.
    let first: Vec<&str> = order.lines().take(8).collect();
    assert!(first.iter().filter(|&&sync| sync == "1").count() >= 2, "{order}");
    assert!(first.iter().filter(|&&sync| sync == "2").count() >= 2, "{order}");
}

#[test]
fn a_fade_waits_for_children_and_begins_none() {
    let rig = Rig::new(
        r#"
        sync { onCreate = "echo ^path >> " .. DIR .. "/began; while [ ! -e " .. DIR .. "/go ]; do sleep 0.02; done; echo ^path >> " .. DIR .. "/ended",
            collect = function(agent) spawn(agent, "touch", DIR .. "/more") end }
    "#,
    )
    .running();
    rig.write("s/a", "");
    rig.write("s/b", "");
    rig.until("one runs", || rig.read("began").lines().count() == 1);
    rig.until("one waits", || rig.actions.status()[0].delays.len() == 2);
    rig.actions.stop(2);
    rig.until_says("waiting for 1 more child processes.");
    let overview = rig.actions.overview();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(overview.borrow().finished, None);
    rig.write("go", "");
    rig.until("it is over", || overview.borrow().finished == Some(Finish::Faded(2)));
    assert_eq!(rig.read("ended").lines().count(), 1);
    assert!(!rig.path("more").exists());
    assert_eq!(rig.lines.count("ignored process spawning while fading"), 1);
}

#[test]
fn what_children_print_goes_where_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    fs::write(&file, "before\n").unwrap();
    let output = ChildOutput::File(file.clone());
    let options = ActionOptions { output, ..ActionOptions::default() };
    let config = r#"sync { onCreate = "echo out; echo err >&2" }"#;
    let rig = Rig::of(config, options, false, WatchChoice::Auto, |_| {}).running();
    rig.write("s/f", "");
    rig.until_says("Finished Create");
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nout\nerr\n");
    drop(rig);
    let rig = Rig::new(r#"sync { onCreate = "/no/such/program ^path" }"#).running();
    rig.write("s/f", "");
    rig.until_says("Error: cannot run /no/such/program");
    rig.until_says("= 255");
}

#[test]
fn a_child_that_leaves_its_input_to_another_has_ended() {
    let rig = Rig::new(
        r#"
        sync {
            onCreate = function(event)
                spawn(event, "/bin/sh", "<", string.rep("x", 1000000), "-c",
                    "exec 3<&0; sleep 60 <&3 & echo $! >> " .. DIR .. "/pids")
            end,
        }
    "#,
    )
    .running();
    rig.write("s/a", "");
    rig.until("it ran", || rig.read("pids").ends_with('\n'));
    rig.until_idle();
    let pid = rig.read("pids");
    assert!(Path::new("/proc").join(pid.trim()).exists(), "the other is there all the time");
    crate::push::sh(&rig.path(""), &format!("kill {pid}"));
}

#[test]
fn more_at_once_than_may_wait_begins_anew() {
    let rig = Rig::new(
        r#"
        sync {
            init = function(event) log("Normal", "begun") end,
            action = function(inlet) end,
        }
    "#,
    )
    .running();
    assert_eq!(rig.lines.count("begun"), 1);
    let name = |at: u32| RelPath::new(at.to_string().into_bytes()).unwrap();
    let many = (0..200_001).map(|at| Happening::Create { path: name(at), dir: false });
    rig.actions.events(0, many.collect());
    rig.until("it begins anew", || rig.lines.count("begun") == 2);
}
