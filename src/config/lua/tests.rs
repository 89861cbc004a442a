//! Configurations as people wrote them, and what becomes of them.

use std::path::{Path, PathBuf};

use super::*;
use crate::config::Delete;
use crate::config::rsync::{ExitMeaning, RsyncValue};

struct Tried {
    dir: tempfile::TempDir,
}

impl Tried {
    fn new() -> Tried {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        Tried { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// Loads a configuration in which `SRC` stands for a directory that is there.
    fn load(&self, text: &str) -> Result<Program> {
        let text = text.replace("SRC", &format!("{:?}", self.path("src").to_str().unwrap()));
        std::fs::write(self.path("c.lua"), text).unwrap();
        let reader = Reader::new(Lua::new(), Settings::default(), Path::new("/"))?;
        reader.run(&self.path("c.lua"))?;
        reader.finish()
    }

    fn entries(&self, text: &str) -> Vec<Entry> {
        self.load(text).unwrap_or_else(|error| panic!("{error} {:?}", error.hint_text())).entries
    }

    /// What is said of a configuration that is refused, behind its name.
    fn refused(&self, text: &str) -> (String, Option<String>) {
        let Err(error) = self.load(text) else { panic!("{text} is taken") };
        let shown = error.to_string();
        let file = self.path("c.lua");
        let file = file.to_str().unwrap();
        let short = shown.replace(&format!("cannot load {file}: {file}:"), "");
        (short, error.hint_text().map(str::to_owned))
    }
}

#[test]
fn what_stands_nearer_wins_and_tables_are_laid_over_each_other() {
    let entries = Tried::new().entries(
        "local far = { delay = 9, rsync = { perms = true, owner = true }, exclude = { 'far' } }
         local near = { far, delay = 7, rsync = { owner = false, _extra = { '--near' } } }
         sync { default.rsync, near, source = SRC, target = 'h:t', exclude = { 'own' }, rsync = { group = true, _extra = { '--own' } } }",
    );
    let entry = &entries[0];
    assert_eq!(entry.way, Way::Rsync);
    // default.rsync stands first in the list, so its delay is nearer.
    assert_eq!(entry.delay, Some(std::time::Duration::from_secs(15)));
    assert_eq!(entry.rsync["group"], RsyncValue::Bool(true));
    assert_eq!(entry.rsync["owner"], RsyncValue::Bool(false), "near before far");
    assert_eq!(entry.rsync["perms"], RsyncValue::Bool(true));
    assert_eq!(entry.rsync["times"], RsyncValue::Bool(true), "default.rsync's");
    let extra = ["--own".into(), "--near".into()];
    assert_eq!(entry.rsync["_extra"], RsyncValue::List(extra.to_vec()), "lists follow each other");
    assert_eq!(entry.rules, [b"- own".to_vec(), b"- far".to_vec()]);
    assert_eq!(entry.target.as_deref(), Some(&b"h:t/"[..]), "a slash, as Lsyncd 2");
    assert_eq!(entry.name, "Sync1");
}

#[test]
fn the_three_ready_ways_have_their_defaults() {
    let entries = Tried::new().entries(
        "sync { default.rsync, source = SRC, target = 'h:' }
         sync { default.rsyncssh, source = SRC, host = 'h', targetdir = '~/t' }
         sync { default.direct, source = SRC, target = '/t/', delete = 'running', delay = 0 }
         sync { source = SRC, onCreate = 'true', exclude = '*.o' }",
    );
    let ways: Vec<Way> = entries.iter().map(|entry| entry.way).collect();
    assert_eq!(ways, [Way::Rsync, Way::RsyncSsh, Way::Direct, Way::Own]);
    let delays: Vec<_> = entries.iter().map(|e| e.delay.map(|d| d.as_secs())).collect();
    assert_eq!(delays, [Some(15), Some(15), Some(0), None]);
    let targets: Vec<_> = entries.iter().map(|e| e.target.clone().unwrap_or_default()).collect();
    assert_eq!(targets, [&b"h:"[..], b"h:~/t/", b"/t/", b""]);
    assert_eq!(entries[0].delete, Delete::Yes);
    assert_eq!(entries[2].delete, Delete::Running);
    assert_eq!(entries[3].rules, [b"- *.o".to_vec()], "entries with own actions may exclude, too");
}

#[test]
fn excludes_are_what_rsync_reads_from_a_file_of_them() {
    let entries = Tried::new().entries(
        "local list = { 'a', '!', '# no', ';no', '- b', '+ c', '-d', '- + e', '!f' }
         sync { default.rsync, source = SRC, target = 'h:1', exclude = list }
         sync { default.rsync, source = SRC, target = 'h:2', exclude = list, filter = '+ x' }",
    );
    let rules = |at: usize| -> Vec<String> {
        entries[at].rules.iter().map(|rule| String::from_utf8_lossy(rule).into_owned()).collect()
    };
    assert_eq!(rules(0), ["- b", "+ c", "- -d", "- + e", "- !f"]);
    // Behind filters Lsyncd 2 tells each as `- ` and what was given.
    assert_eq!(
        rules(1),
        ["+ x", "- a", "- !", "- # no", "- ;no", "- - b", "- + c", "- -d", "- - + e", "- !f"]
    );
}

#[test]
fn a_configuration_is_a_program() {
    let tried = Tried::new();
    std::fs::write(tried.path("more.lua"), "shared = { delay = 3 } return { n = 2 }").unwrap();
    let more = format!("{:?}", tried.path("more.lua").to_str().unwrap());
    let entries = tried.entries(&format!(
        "#!/usr/bin/lsyncd
         settings {{ logfile = nothing_of_this_name, insist = true, statusInterval = 5 }}
         settings {{ 'nodaemon' }}
         local more = dofile({more})
         for at = 1, more.n do
            sync {{ default.direct, shared, source = SRC, target = '/t' .. at, name = 'to-' .. at }}
         end
         function later() return settings('insist') end
         assert(later() == true)"
    ));
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["to-1", "to-2"]);
}

#[test]
fn what_a_ready_way_does_may_be_changed_and_is_seen() {
    let entries = Tried::new().entries(
        "sync { default.rsync, source = SRC, target = 'h:t', action = function(inlet) default.rsync.action(inlet) end }
         sync { default.rsync, source = SRC, target = 'h:t', init = function(event) end }
         sync { default.rsync, source = SRC, target = 'h:t', init = false }",
    );
    let ways: Vec<Way> = entries.iter().map(|entry| entry.way).collect();
    assert_eq!(ways, [Way::Own, Way::Own, Way::Rsync]);
    assert!(entries[2].skips_start);
}

#[test]
fn own_exit_codes_are_laid_over_the_standard_ones() {
    let entries = Tried::new().entries(
        "sync { default.rsync, source = SRC, target = 'h:t', exitcodes = { [23] = 'again' } }",
    );
    let codes = entries[0].exit_codes.as_ref().unwrap();
    assert_eq!(codes[&23], ExitMeaning::Again);
    assert_eq!(codes[&0], ExitMeaning::Ok, "not forgotten");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let table: &[(&str, &str, Option<&str>)] = &[
        (
            "sync { default.rsync, source = SRC, target = 'x', rsync = { archiv = true } }",
            "1: Parameter \"rsync.archiv\" unknown. ( if this is not a typo add it to checkgauge )",
            Some("did you mean archive?"),
        ),
        (
            "\nsync { default.rsync, source = SRC, onCreate = 'x', target = 'x' }",
            "2: Parameter \"onCreate\" unknown. ( if this is not a typo add it to checkgauge )",
            Some(
                "the ready ways decide that themselves; leave it out, or write a sync of your own",
            ),
        ),
        ("sync { default.rsync, target = 'x' }", "1: Parameter \"source\" missing.", None),
        ("sync { default.rsync, source = SRC }", "1: Parameter \"target\" missing.", None),
        (
            "sync { default.rsyncssh, source = SRC, host = 'h', targetdir = 't', maxProcesses = 2 }",
            "1: default.rsyncssh must have maxProcesses set to 1.",
            None,
        ),
        (
            "sync { default.rsync, source = SRC, target = 'x', rsync = true }",
            "1: Parameter \"rsync\" must be a table.",
            None,
        ),
        ("sync = 3 sync {}", "1: attempt to call a number value (global 'sync')", None),
    ];
    let tried = Tried::new();
    for (config, text, hint) in table {
        let (told, hinted) = tried.refused(config);
        assert_eq!(told, *text, "{config}");
        assert_eq!(hinted.as_deref(), *hint, "{config}");
    }
    let (told, hint) = tried.refused("\n\nsettings { statusIntervall = 1 }");
    assert_eq!(told, "3: setting \"statusIntervall\" unknown.");
    assert!(hint.is_some_and(|hint| hint.contains("statusInterval")));
    let (told, _) = tried.refused("settings = { logfile = 'x' }");
    assert!(told.contains("settings is a function: write settings { ... }"), "{told}");
    let (told, _) = tried.refused("sync { default.rsync, source = '/not/there', target = 'x' }");
    assert!(told.contains("cannot mirror /not/there"), "{told}");
    let (told, _) =
        tried.refused("sync { default.rsync, source = SRC, target = 'x', delete = 'false' }");
    assert!(told.contains("delete = 'false' is not one of true, false"), "{told}");
    let (told, _) = tried.refused("local t = {} t.t = t sync { default.rsync, t, source = SRC }");
    assert!(told.contains("holds itself"), "{told}");
    let (told, _) = tried.refused("x = = 3");
    assert!(told.contains("unexpected symbol near '='"), "{told}");
}

#[test]
fn syncs_of_the_command_line_are_entries_as_well() {
    let tried = Tried::new();
    let source = tried.path("src");
    let reader = Reader::new(Lua::new(), Settings::default(), Path::new("/")).unwrap();
    let source = source.to_str().unwrap().as_bytes();
    let keys = [("source", source), ("host", b"h"), ("targetdir", b"t")];
    reader.sync("rsyncssh", &keys, &["-p".to_owned(), "22".to_owned()]).unwrap();
    let entry = reader.finish().unwrap().entries.remove(0);
    assert_eq!(entry.way, Way::RsyncSsh);
    assert_eq!(entry.ssh.as_ref().unwrap().extra, ["-p", "22"]);
}

#[test]
fn a_script_may_check_its_own_names() {
    let (told, _) = Tried::new()
        .refused("default.prepare({ onCraete = 1, checkgauge = default.checkgauge }, 1)");
    assert_eq!(
        told,
        "1: Parameter \"onCraete\" unknown. ( if this is not a typo add it to checkgauge )"
    );
}

#[test]
fn a_tunnel_is_shared_by_those_that_name_it() {
    let tried = Tried::new();
    let program = tried
        .load(
            "local t = tunnel { name = 'T', command = 'ssh -N -L ^localport:h:873 \"my host\"', readyDelay = 0.5 }
             local pool = tunnel { mode = 'pool', parallel = 3, command = { 'x', 5 } }
             sync { default.rsync, tunnel = pool, source = SRC, target = 'a' }
             sync { default.rsync, tunnel = t, source = SRC, target = 'b' }
             sync { default.rsync, { tunnel = t }, source = SRC, target = 'c' }
             sync { default.rsync, source = SRC, target = 'd' }",
        )
        .unwrap();
    let used: Vec<Option<usize>> = program.entries.iter().map(|entry| entry.tunnel).collect();
    assert_eq!(used, [Some(1), Some(0), Some(0), None]);
    let first = &program.tunnels[0];
    assert_eq!(first.command, ["ssh", "-N", "-L", "^localport:h:873", "my host"]);
    assert_eq!(first.ready_delay.as_millis(), 500);
    assert_eq!((program.tunnels[1].parallel, program.tunnels[1].name.as_str()), (3, "Tunnel2"));
    let (told, hint) = tried.refused("tunnel { comand = 'x' }");
    assert!(told.starts_with("1: Parameter \"tunnel.comand\" unknown."), "{told}");
    assert_eq!(hint.as_deref(), Some("did you mean command?"));
}

#[test]
fn functions_of_ones_own_get_the_words_that_rsync_is_called_with() {
    let program = Tried::new().load(
        "sync { default.rsyncssh, source = SRC, host = 'h', targetdir = 't', ssh = { port = 22 },
           rsync = { archive = true, _extra = { '-x' } }, init = function(event) end }",
    );
    let program = program.unwrap();
    let entry = &program.entries[0];
    assert_eq!(entry.way, Way::Own);
    let rsync: Table = entry.table.get("rsync").unwrap();
    let words: Vec<String> = rsync.get("_computed").unwrap();
    assert_eq!(words, ["-lgoptsD", "-x", "--rsh=ssh -p 22"]);
}
