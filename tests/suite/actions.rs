//! Syncs with actions of their own, through the library: real directories, a real interpreter,
//! real children.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lsyncd::carrier::action::{
    self, ActionLog, ActionOptions, ActionSync, Actions, ChildOutput, Finish, Standing, Verdict,
};
use lsyncd::config::WatchChoice;
use lsyncd::filter::Filter;
use lsyncd::mirror::actions::{WriteMode, feed};
use lsyncd::source::{Scope, Source};
use lsyncd::watch::WatchLimits;
use mlua::{Lua, Table, Value};
use tempfile::TempDir;

use crate::world::wait_until;

/// What was logged.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl ActionLog for Lines {
    fn line(&self, category: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{category}: {text}"));
    }
}

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, part: &str) -> usize {
        self.all().iter().filter(|line| line.contains(part)).count()
    }
}

/// A configuration at work. `sync{}` in it takes defaults as the real one does; `DIR` is a
/// directory with `s`, `t` and whatever a test puts there.
struct Rig {
    dir: TempDir,
    lines: Arc<Lines>,
    actions: Arc<Actions>,
    _runtime: tokio::runtime::Runtime,
}

/// What a test's `sync{}` leaves to the rest.
const SYNC: &str = r#"
    SYNCS = {}
    function sync(config)
        for key, value in pairs(default) do
            if config[key] == nil then config[key] = value end
        end
        config.source = config.source or DIR .. "/s"
        config.prepare(config, 2)
        SYNCS[#SYNCS + 1] = config
    end
"#;

fn seconds(config: &Table, key: &str) -> Duration {
    Duration::from_secs_f64(config.get::<Option<f64>>(key).unwrap().unwrap_or(0.0))
}

fn action_sync(at: usize, config: Table, insist: bool) -> ActionSync {
    let codes: Option<Table> = config.get("exitcodes").unwrap();
    let exit_codes = codes.map(|codes| {
        let pairs = codes.pairs::<i32, String>().map(Result::unwrap);
        pairs.map(|(code, word)| (code, Verdict::of(&word).unwrap())).collect::<BTreeMap<_, _>>()
    });
    let excludes: Option<Vec<String>> = config.get("exclude").unwrap();
    let excludes: Vec<String> =
        excludes.unwrap_or_default().iter().map(|pattern| format!("- {pattern}")).collect();
    let source: String = config.get("source").unwrap();
    ActionSync {
        name: format!("Sync{}", at + 1),
        source: PathBuf::from(source),
        target: config.get("target").unwrap(),
        delay: seconds(&config, "delay"),
        max_delays: config.get("maxDelays").unwrap(),
        max_processes: config.get("maxProcesses").unwrap(),
        filter: Filter::parse(excludes.iter().map(|rule| rule.as_bytes())).unwrap(),
        exit_codes,
        insist,
        table: config,
    }
}

impl Rig {
    fn new(config: &str) -> Rig {
        Rig::with(config, |_| {})
    }

    fn with(config: &str, make: impl FnOnce(&Path)) -> Rig {
        Rig::of(config, ActionOptions::default(), false, WatchChoice::Auto, make)
    }

    fn of(
        config: &str,
        options: ActionOptions,
        insist: bool,
        choice: WatchChoice,
        make: impl FnOnce(&Path),
    ) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        for name in ["s", "t"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        make(dir.path());
        let lines = Arc::<Lines>::default();
        let lua = Lua::new();
        action::install(&lua, lines.clone()).unwrap();
        lua.globals().set("DIR", dir.path().to_str().unwrap()).unwrap();
        lua.load(SYNC).exec().unwrap();
        lua.load(config).set_name("=config").exec().unwrap();
        let tables: Vec<Table> = lua.globals().get("SYNCS").unwrap();
        let syncs: Vec<ActionSync> = tables
            .into_iter()
            .enumerate()
            .map(|(at, table)| action_sync(at, table, insist))
            .collect();
        let feeds: Vec<(PathBuf, Filter)> =
            syncs.iter().map(|sync| (sync.source.clone(), sync.filter.clone())).collect();
        let actions = Arc::new(action::start(lua, syncs, options, lines.clone()).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        for (at, (path, filter)) in feeds.into_iter().enumerate() {
            let scope = Scope { filter: Arc::new(filter), ..Scope::default() };
            let source = Source::open(&path, scope).unwrap();
            let limits = WatchLimits { poll: Duration::from_millis(50), watches: None };
            source.watch(choice, limits).unwrap();
            let (actions, lines) = (actions.clone(), lines.clone());
            runtime.spawn(feed(Arc::new(source), actions, at, WriteMode::default(), lines));
        }
        Rig { dir, lines, actions, _runtime: runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn standing(&self, at: usize) -> Standing {
        self.actions.overview().borrow().syncs[at]
    }

    /// Every sync has begun.
    fn running(self) -> Rig {
        let overview = self.actions.overview();
        self.until("all syncs run", || {
            overview.borrow().syncs.iter().all(|sync| *sync == Standing::Running)
        });
        self
    }

    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + crate::world::PATIENCE;
        while !holds() {
            let status = self.actions.status();
            assert!(
                Instant::now() < end,
                "waited in vain until {what}\n{}\n{status:#?}",
                self.lines.all().join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn until_says(&self, part: &str) {
        self.until(part, || self.lines.count(part) > 0);
    }

    /// Nothing is queued and no child runs.
    #[track_caller]
    fn until_idle(&self) {
        self.until("all is done", || {
            self.actions.status().iter().all(|s| s.delays.is_empty() && s.children == 0)
        });
    }

    /// Both trees have the same names.
    #[track_caller]
    fn until_equal(&self) {
        self.until("the trees are equal", || {
            tree(&self.path("s")) == tree(&self.path("t")) && {
                let status = self.actions.status();
                status.iter().all(|sync| sync.delays.is_empty())
            }
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.actions.stop(15);
        let overview = self.actions.overview();
        if !std::thread::panicking() {
            wait_until("everything has ended", || overview.borrow().finished.is_some());
        }
    }
}

/// Names and contents beneath a directory.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let (mut all, mut dirs) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.insert(name, None);
                dirs.push(path);
            } else {
                all.insert(name, Some(fs::read(&path).unwrap_or_default()));
            }
        }
    }
    all
}

/// A mirror by commands for a shell.
const SHELL_MIRROR: &str = r#"
    sync {
        target = DIR .. "/t/", maxProcesses = 3,
        onStartup = 'cp -a ^source. ^target',
        onCreate = [[if [ -d ^sourcePathname ]; then mkdir -p -- ^targetPathname; else cp -p -- "^sourcePathname" ^targetPathdir; fi]],
        onModify = 'cp -p -- ^sourcePathname ^targetPathdir',
        onDelete = 'rm -rf -- "^targetPathname"',
    }
"#;

/// The same by programs, without a shell.
const DIRECT_MIRROR: &str = r#"
    sync {
        target = DIR .. "/t/", maxProcesses = 3,
        onStartup = '/bin/cp -a ^source. ^target',
        onCreate = '/bin/cp -a -- ^sourcePathname ^targetPathdir',
        onModify = '/bin/cp -a -- ^sourcePathname ^targetPathdir',
        onDelete = '/bin/rm -rf -- ^targetPathname',
    }
"#;

/// Names that mean something to a shell. `PWNED` is a file that none of them may bring about.
fn evil_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "a b",
        "'",
        "\"",
        "it's \"so\"",
        "$(touch PWNED)",
        "`touch PWNED`",
        ";touch PWNED;",
        "\"; touch PWNED; \"",
        "'; touch PWNED; '",
        "$(touch${IFS}PWNED)",
        "a\nb",
        "\ntouch PWNED\n",
        "-rf",
        "--help",
        "*",
        "?[a]",
        "a]b",
        "${1}",
        "\\",
        "&",
        "^path",
        "é",
        " ",
        "\t",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.push(b"\xff\xfe".to_vec());
    names
}

#[test]
fn no_name_reaches_a_shell_as_code() {
    for config in [SHELL_MIRROR, DIRECT_MIRROR] {
        let rig = Rig::with(config, |dir| fs::write(dir.join("s/before"), "before").unwrap());
        let rig = rig.running();
        assert_eq!(rig.read("t/before"), "before", "the startup was over first");
        for name in evil_names() {
            let name = OsStr::from_bytes(&name);
            fs::write(rig.path("s").join(name), "content").unwrap();
        }
        rig.until_equal();
        assert_eq!(tree(&rig.path("t")).len(), evil_names().len() + 1);
        for name in evil_names() {
            fs::remove_file(rig.path("s").join(OsStr::from_bytes(&name))).unwrap();
        }
        fs::create_dir(rig.path("s/$(touch PWNED)")).unwrap();
        fs::write(rig.path("s/$(touch PWNED)/in it"), "x").unwrap();
        rig.until_equal();
        assert_eq!(tree(&rig.path("t")).len(), 3);
        for place in [rig.path("s"), rig.path("t"), rig.path(""), PathBuf::from(".")] {
            assert!(!place.join("PWNED").exists(), "in {}", place.display());
        }
    }
}

#[test]
fn histories_converge_with_and_without_moves() {
    const MOVES: &str = r#"
        sync {
            target = DIR .. "/t/", maxProcesses = 3, delay = 0.05,
            onStartup = 'true',
            onCreate = [[if [ -d ^sourcePathname ]; then mkdir -p -- ^targetPathname; else cp -p -- ^sourcePathname ^targetPathdir; fi]],
            onModify = 'cp -p -- ^sourcePathname ^targetPathdir',
            onDelete = 'rm -rf -- ^targetPathname',
            onMove = 'mv -T -- ^o.targetPathname ^d.targetPathname',
        }
    "#;
    for config in [SHELL_MIRROR, MOVES] {
        let rig = Rig::new(config).running();
        let at = |name: &str| rig.path("s").join(name);
        fs::create_dir_all(at("d/e/f")).unwrap();
        fs::write(at("d/e/f/x"), "1").unwrap();
        fs::write(at("d/y"), "2").unwrap();
        rig.until_equal();
        fs::rename(at("d"), at("n")).unwrap();
        rig.until_equal();
        assert_eq!(rig.read("t/n/e/f/x"), "1");
        // It is still watched, under its new name.
        fs::write(at("n/e/f/x"), "3").unwrap();
        fs::rename(at("n/y"), at("z")).unwrap();
        fs::rename(at("n/e"), at("e")).unwrap();
        fs::write(at("e/new"), "4").unwrap();
        fs::remove_dir_all(at("n")).unwrap();
        rig.until_equal();
        assert_eq!((rig.read("t/e/f/x"), rig.read("t/z")), ("3".to_owned(), "2".to_owned()));
        fs::rename(at("z"), rig.path("out")).unwrap();
        rig.until_equal();
        assert_eq!(rig.lines.count("Error"), 0, "{:?}", rig.lines.all());
    }
}

#[test]
fn an_event_has_the_fields_that_are_written_down() {
    let rig = Rig::new(
        r#"
        local function show(event)
            local fields = { "etype", "status", "isdir", "isList", "name", "basename", "path",
                "pathname", "pathdir", "source", "sourcePath", "sourcePathname", "sourcePathdir",
                "target", "targetPath", "targetPathname", "targetPathdir", "move" }
            local text = ""
            for _, field in ipairs(fields) do
                text = text .. field .. "=" .. tostring(event[field]) .. "\n"
            end
            assert(event.config.mark == 7 and event.inlet.getConfig().mark == 7)
            return text
        end
        sync {
            target = DIR .. "/t/", mark = 7, checkgauge = false,
            init = function(event)
                log("Init", show(event))
                event.inlet.discardEvent(event)
            end,
            onCreate = function(event)
                log("Made", show(event))
                log("Wrong", tostring(select(2, pcall(function() return event.nothing end))))
                event.mine = 1
                log("Mine", event.mine)
            end,
            onMove = function(o, d) log("Moved", show(o), show(d)) end,
        }
    "#,
    )
    .running();
    fs::create_dir_all(rig.path("s/d/n")).unwrap();
    rig.until("both are made", || rig.lines.count("Made: ") == 2);
    rig.until_idle();
    let said = |word: &str| {
        let root = rig.dir.path().to_str().unwrap();
        let line = rig.lines.all().into_iter().rfind(|line| line.starts_with(word)).unwrap();
        line.replace(root, "").split_once(": ").unwrap().1.trim_end().replace('\n', " ")
    };
    assert_eq!(
        said("Made"),
        "etype=Create status=wait isdir=true isList=false name=n/ basename=n path=d/n/ \
         pathname=d/n pathdir=d/ source=/s/ sourcePath=/s//d/n/ sourcePathname=/s//d/n \
         sourcePathdir=/s//d/ target=/t/ targetPath=/t//d/n/ targetPathname=/t//d/n \
         targetPathdir=/t//d/ move=nil"
    );
    assert!(said("Wrong").contains("event does not have field \"nothing\""));
    assert_eq!(said("Mine"), "1");
    let init = said("Init");
    assert!(
        init.starts_with("etype=Init status=wait isdir=false isList=false name=nil basename=nil")
    );
    assert!(init.contains(" source=/s/ sourcePath=/s/ "), "{init}");
    fs::rename(rig.path("s/d/n"), rig.path("s/m")).unwrap();
    rig.until_says("Moved");
    let moved = said("Moved");
    let (origin, dest) = moved.split_once("move=Fr").unwrap();
    assert!(origin.contains("etype=Move") && origin.contains(" path=d/n/ "), "{origin}");
    assert!(dest.contains("etype=Move") && dest.contains(" path=m/ "), "{dest}");
    assert!(dest.ends_with("move=To") && dest.contains("pathdir= source"), "{dest}");
}

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
fn a_barrier_is_done_after_what_is_before_it_and_keeps_its_fields() {
    let rig = Rig::new(
        r#"
        sync {
            maxProcesses = 3, delay = 0.5,
            action = function(inlet)
                local event = inlet.getEvent()
                if event.etype == "Blanket" then
                    assert(event.isPost, "the field is kept")
                    spawnShell(event, "echo post >> $1", DIR .. "/log")
                else
                    spawnShell(event, "sleep 0.2; echo $2 >> $1", DIR .. "/log", event.name)
                end
            end,
            collect = function(agent, exitcode)
                if agent.etype ~= "Blanket" and agent.name == "first" then
                    local event = agent.inlet.createBlanketEvent()
                    event.isPost = true
                    assert(event.etype == "Blanket" and event.status == "block")
                end
            end,
        }
    "#,
    )
    .running();
    for name in ["first", "second", "third", "fourth"] {
        rig.write(&format!("s/{name}"), "");
    }
    rig.until("all are done", || rig.read("log").lines().count() == 5);
    let log = rig.read("log");
    assert_eq!(log.lines().last(), Some("post"), "{log}");
}

#[test]
fn alarms_ring_and_timestamps_compare() {
    let rig = Rig::new(
        r#"
        log("Normal", "loaded ", lsyncd_version)
        local start = now()
        assert(start < start + 1 and start - 1 < start and start <= start and start == start + 0)
        assert((start + 5) - start == 5)
        alarm(now() + 0.1, function(timestamp, extra)
            assert(timestamp >= start + 0.1)
            log("Normal", "rang with ", extra)
            alarm(now(), function() log("Normal", "rang again") end)
        end, "this")
        sync { init = false, action = function(inlet)
            local event = inlet.getEvent()
            alarm(now(), function() error("in an alarm of a sync") end)
            inlet.discardEvent(event)
        end }
        sync { init = false, action = function() end }
    "#,
    )
    .running();
    rig.until_says("Normal: loaded 2.");
    rig.until_says("rang with this");
    rig.until_says("rang again");
    rig.write("s/f", "");
    rig.until("the sync has ended", || rig.standing(0) == Standing::Failed { at_start: false });
    // An action that leaves alone what is due is not called without end.
    rig.until("the event stays", || rig.actions.status()[1].delays.len() == 1);
    assert_eq!(rig.standing(1), Standing::Running);
}

#[test]
fn an_action_that_does_nothing_does_not_spin() {
    let rig = Rig::new(
        r#"
        sync { action = function(inlet) log("Called", inlet.getEvent().path) end }
    "#,
    )
    .running();
    rig.write("s/f", "");
    rig.until_says("Called: f");
    std::thread::sleep(Duration::from_millis(700));
    let calls = rig.lines.count("Called");
    assert!(calls <= 5, "{calls} calls");
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
fn terminate_ends_all_of_it() {
    let rig = Rig::new(r#"sync { onCreate = function() terminate(7) end }"#).running();
    rig.write("s/f", "");
    let overview = rig.actions.overview();
    rig.until("it is over", || overview.borrow().finished == Some(Finish::Terminated(7)));
    let lua = Lua::new();
    action::install(&lua, Arc::<Lines>::default()).unwrap();
    assert!(lua.load("terminate(3)").exec().is_err());
    assert_eq!(action::terminated(&lua), Some(3));
}

#[test]
fn excludes_of_the_configuration_and_of_a_script() {
    let rig = Rig::new(
        r#"
        sync {
            exclude = { "*.tmp", "/no/" },
            onCreate = function(event)
                log("Made", event.path)
                if event.path == "lock" then
                    event.inlet.addExclude("*.now")
                    event.inlet.rmExclude("*.tmp")
                    log("Now", table.concat(event.inlet.getExcludes(), " "))
                end
            end,
            onDelete = function(event) log("Gone", event.path) end,
            onMove = function(o, d) log("Moved", o.path, d.path) end,
        }
    "#,
    )
    .running();
    rig.write("s/a.tmp", "");
    fs::create_dir_all(rig.path("s/no/inner")).unwrap();
    rig.write("s/b", "");
    rig.until_says("Made: b");
    // Out of what is excluded and into it.
    fs::rename(rig.path("s/a.tmp"), rig.path("s/a")).unwrap();
    rig.until_says("Made: a");
    fs::rename(rig.path("s/b"), rig.path("s/b.tmp")).unwrap();
    rig.until_says("Gone: b");
    rig.write("s/lock", "");
    rig.until_says("Now: /no/ *.now");
    rig.write("s/c.now", "");
    rig.write("s/c.tmp", "");
    rig.until_says("Made: c.tmp");
    let made: Vec<String> =
        rig.lines.all().into_iter().filter(|line| line.starts_with("Made")).collect();
    assert_eq!(made, ["Made: b", "Made: a", "Made: lock", "Made: c.tmp"]);
}

#[test]
fn a_source_that_goes_and_comes_back_is_started_anew() {
    let rig = Rig::new(SHELL_MIRROR).running();
    rig.write("s/a", "1");
    rig.until_equal();
    fs::rename(rig.path("s"), rig.path("away")).unwrap();
    rig.until_says("Warn: the source");
    assert_eq!(rig.read("t/a"), "1", "nothing is concluded from it");
    fs::write(rig.path("away/b"), "2").unwrap();
    fs::rename(rig.path("away"), rig.path("s")).unwrap();
    rig.until("the startup ran again", || rig.lines.count(" finished.") >= 2);
    rig.until_equal();
    rig.write("s/c", "3");
    rig.until_equal();
}

#[test]
fn what_is_polled_is_compared() {
    let config = format!(
        "{SHELL_MIRROR}\nSYNCS[1].onAttrib = 'chmod --reference=^sourcePathname ^targetPathname'"
    );
    let options = ActionOptions::default();
    let rig = Rig::of(&config, options, false, WatchChoice::Poll, |dir| {
        fs::create_dir(dir.join("s/d")).unwrap();
        fs::write(dir.join("s/d/old"), "old").unwrap();
    })
    .running();
    rig.write("s/d/new", "new");
    rig.until_equal();
    rig.write("s/d/new", "other");
    rig.until_equal();
    fs::set_permissions(rig.path("s/d/old"), fs::Permissions::from_mode(0o600)).unwrap();
    rig.until("the mode is the same", || {
        fs::metadata(rig.path("t/d/old")).unwrap().permissions().mode() & 0o777 == 0o600
    });
    fs::remove_dir_all(rig.path("s/d")).unwrap();
    rig.until_equal();
    rig.until_idle();
    let spawned = rig.lines.count("Exec");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.lines.count("Exec"), spawned, "nothing differs, nothing is done");
}

#[test]
fn a_script_watches_descriptors() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let config = format!(
        r#"
        observefd({0}, function(fd)
            -- There is no reading without a library; a line at a time is enough here.
            log("Ready", fd, " ", io.open("/dev/fd/" .. fd):read("l"))
            COUNT = COUNT + 1
            if COUNT == 2 then nonobservefd({0}) end
        end)
        COUNT = 0
        sync {{ init = false, action = function() end }}
        "#,
        read.as_raw_fd()
    );
    let rig = Rig::new(&config).running();
    rustix::io::write(&write, b"first\n").unwrap();
    rig.until_says("first");
    rustix::io::write(&write, b"second\n").unwrap();
    rig.until_says("second");
    rustix::io::write(&write, b"third\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(rig.lines.count("Ready"), 2, "let go of");
}

#[test]
fn an_action_without_functions_for_moves_misses_none() {
    // `onMove = true` says that an action knows moves; the default one would drop them.
    let rig = Rig::new(
        r#"
        sync { onMove = true, onCreate = function(event) log("Made", event.path) end,
            onDelete = function(event) log("Gone", event.path) end }
        sync { onMove = true, action = function(inlet)
            local event, event2 = inlet.getEvent()
            log("Told", event.etype, " ", event.path, event2 and " " .. event2.path or "")
            inlet.discardEvent(event)
        end }
    "#,
    )
    .running();
    rig.write("s/a", "");
    rig.until_says("Made: a");
    rig.until_says("Told: Create a");
    fs::rename(rig.path("s/a"), rig.path("s/b")).unwrap();
    rig.until_says("Made: b");
    rig.until_says("Gone: a");
    rig.until_says("Told: Move a b");
}

#[test]
fn a_full_event_waits_for_all_and_goes_to_its_function() {
    let rig = Rig::new(
        r#"
        sync { onCreate = "sleep 0.2; echo made >> " .. DIR .. "/log",
            onFull = "echo full ^path >> " .. DIR .. "/log" }
        sync { init = false, action = function(inlet) inlet.discardEvent((inlet.getEvent())) end,
            full = function(event) log("Full", event.etype, " ", event.path, " ", event.isdir) end,
            onCreate = true }
    "#,
    )
    .running();
    rig.write("s/a", "");
    rig.until("it is queued", || !rig.actions.status()[0].delays.is_empty());
    rig.actions.full(0);
    rig.actions.full(1);
    rig.until("both are done", || rig.read("log") == "made\nfull \n");
    rig.until_says("Full: Full  true");
}

#[test]
fn a_file_is_told_of_once_and_when_it_is_complete() {
    let rig = Rig::new(
        r#"
        local function show(event) log("Told", event.etype, " ", event.path) end
        sync { onCreate = show, onModify = show, onAttrib = show, onDelete = show, onMove = show }
    "#,
    )
    .running();
    let told = || -> Vec<String> {
        rig.lines.all().into_iter().filter_map(|l| Some(l.strip_prefix("Told: ")?.into())).collect()
    };
    let mut file = fs::File::create(rig.path("s/slow")).unwrap();
    file.write_all(b"half of it").unwrap();
    rig.write("s/quick", "all of it");
    rig.until("the quick one is told of", || told() == ["Create quick"]);
    // In a directory that was not watched when the file was opened.
    fs::create_dir(rig.path("s/d")).unwrap();
    rig.write("s/d/f", "x");
    rig.until("they are told of", || told().len() == 3);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(told(), ["Create quick", "Create d/", "Create d/f"], "the slow one is not complete");
    fs::rename(rig.path("s/slow"), rig.path("s/late")).unwrap();
    file.write_all(b", and the rest").unwrap();
    drop(file);
    rig.until("it is told of", || told().len() == 4);
    assert_eq!(told()[3], "Create late");
    // What is never closed is told of, too.
    fs::write(rig.path("out"), "moved in").unwrap();
    fs::rename(rig.path("out"), rig.path("s/in")).unwrap();
    fs::hard_link(rig.path("s/in"), rig.path("s/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", rig.path("s/symlink")).unwrap();
    rig.until("all are told of", || {
        ["Create in", "Create link", "Create symlink"]
            .iter()
            .all(|line| told().iter().any(|told| told == line))
    });
}

#[test]
fn every_function_of_an_inlet_and_of_a_list() {
    let rig = Rig::new(
        r#"
        sync {
            target = DIR .. "/t/", delay = 0.3, mark = 5, checkgauge = false, exclude = { "no" },
            action = function(inlet)
                local event, event2 = inlet.getEvent()
                if event.etype == "Full" then error("full events have their own function") end
                assert(event2 == nil and event == inlet.getEvent(), "always the same object")
                assert(event.inlet == inlet and inlet.getConfig().mark == 5)
                local own = inlet.getSync()
                assert(own.config == event.config and own.source == DIR .. "/s/", own.source)
                assert(next(inlet.getSubstitutionData()) == nil)
                assert(inlet.hasFilters() and #inlet.getFilters() == 1)
                inlet.appendFilter("+", "/keep")
                inlet.addExclude("more")
                assert(table.concat(inlet.getExcludes(), ",") == "no,more")
                local filters = inlet.getFilters()
                assert(filters[2].rule == "+" and filters[2].pattern == "/keep")
                inlet.rmExclude("more")
                assert(#inlet.getExcludes() == 1)

                local list = inlet.getEvents(function(event) return event.name ~= "b" end)
                assert(list.isList and list.config == event.config and list.size() == 2)
                assert(table.concat(list.getPaths(), ",") == "/a,/c")
                assert(list.getList()[1].path == "a" and list.getList()[2].path == "c")
                local both = list.getPaths(function(etype, path) return etype, path end)
                assert(table.concat(both, ",") == "Create,/a,Create,/c")
                assert(not pcall(function() return list.nothing end))
                local until_b = inlet.getEvents(function(event)
                    return event.name == "b" and "break" or true
                end)
                assert(table.concat(until_b.getPaths(), ",") == "/a")
                assert(inlet.getEvents(function() return false end).size() == 0)
                spawn(inlet.getEvents(function() return false end), "false")

                local blanket = inlet.createBlanketEvent()
                assert(blanket.etype == "Blanket" and blanket.status == "block")
                local full = inlet.createFullEvent("/a")
                assert(full.etype == "Full" and full.path == "a/" and full.status == "block")
                for _, event in ipairs(inlet.getEvents().getList()) do
                    if event.etype == "Create" then inlet.discardEvent(event) end
                end
                inlet.discardEvent(blanket)
                log("Normal", "all is well")
            end,
            full = function(event) log("Normal", "a full event: ", event.path) end,
        }
    "#,
    )
    .running();
    for name in ["a", "b", "no", "c"] {
        rig.write(&format!("s/{name}"), "");
    }
    rig.until_says("Normal: all is well");
    rig.until_says("a full event: a/");
    rig.until_idle();
    assert_eq!(rig.lines.count("Error"), 0, "{:?}", rig.lines.all());
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
fn globals_are_locked_and_mistakes_are_told() {
    let rig = Rig::new(
        r#"
        sync {
            onCreate = function(event)
                for _, try in ipairs {
                    function() return undefined_thing end,
                    function() new_global = 1 end,
                    function() spawn("nothing", "true") end,
                    function() spawn(event) end,
                    function() spawn(event, "true", function() end) end,
                    function() lsyncd.exec() end,
                    function() observefd(-1, function() end) end,
                } do
                    log("Told", tostring(select(2, pcall(try))))
                end
                spawn(event, "true")
                log("Told", tostring(select(2, pcall(spawn, event, "true"))))
            end,
        }
    "#,
    )
    .running();
    rig.write("s/f", "");
    rig.until("all is told", || rig.lines.count("Told") == 8);
    let told: Vec<String> =
        rig.lines.all().into_iter().filter(|line| line.starts_with("Told")).collect();
    for (line, part) in told.iter().zip([
        "Access of non-existing global \"undefined_thing\"",
        "Lsyncd does not allow GLOBALS to be created on the fly",
        "needs an event or a list",
        "needs the name of a program",
        "cannot make an argument of a function",
        "lsyncd.exec is not there any more: use spawn()",
        "cannot observe descriptor -1",
        "spawn() called on an non-waiting event",
    ]) {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(told.len(), 8);
    let lua = Lua::new();
    action::install(&lua, Arc::<Lines>::default()).unwrap();
    let words: Vec<String> =
        lua.load(r#"return lsyncd.splitQuotedString([[a "b c" 'd\' e\ f]])"#).eval().unwrap();
    assert_eq!(words, ["a", "b c", "d\\", "e f"]);
    let checks = r#"
        assert(string.starts("abc", "ab") and not string.starts("abc", "b"))
        assert(string.ends("abc", "bc") and string.ends("abc", "") and not string.ends("a", "ba"))
        assert(table.contains({ 1, x = 2 }, 2) and not table.contains({}, 1))
        assert(dump({ 1 }) == "{ [1] = 1,} ")
        assert(readdir("/")["etc"] == true and readdir("/nowhere") == nil)
        assert(lsyncd.realdir("/etc/..") == "/" and lsyncd.realdir("/nowhere") == nil)
        local ok, why = pcall(default.prepare, { onCraete = 1, checkgauge = default.checkgauge })
        assert(not ok and why:find('Parameter "onCraete" unknown.', 1, true), why)
    "#;
    lua.load(checks).exec().unwrap();
    assert!(matches!(lua.globals().get::<Value>("undefined_thing").unwrap(), Value::Nil));
}
