//! What scripts may call, and what they hold in their hands.

use super::*;

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
    "#;
    lua.load(checks).exec().unwrap();
    assert!(matches!(lua.globals().get::<Value>("undefined_thing").unwrap(), Value::Nil));
}
