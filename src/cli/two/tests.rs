//! What carries an entry, and with what.

use std::time::Duration;

use lsync_protocol::entry::Kind;
use lsync_protocol::xattr::Classes;

use super::*;
use crate::config::rsync::{KEYS, Key, Shape};
use crate::config::{Attributes, Compress};

/// Loads a configuration in which `SRC` is a directory that is there, from a directory of its own.
fn load(text: &str) -> Result<Setup> {
    with_line(text, CommandLine::default())
}

fn with_line(text: &str, line: CommandLine) -> Result<Setup> {
    let dir = tempfile::tempdir().unwrap();
    let cwd = dir.path().canonicalize().unwrap();
    std::fs::create_dir(cwd.join("src")).unwrap();
    let text = text.replace("SRC", &format!("{:?}", cwd.join("src")));
    std::fs::write(cwd.join("c.lua"), text).unwrap();
    let world =
        World { cwd, home: Some("/home/me".into()), user: Some("me".into()), ..World::default() };
    super::load(&CommandLine { config: Some("c.lua".into()), ..line }, &world, Arc::new(Unheard))
}

fn only(text: &str) -> TwoMirror {
    let setup = load(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    setup.mirrors.into_iter().next().unwrap()
}

fn agent(keys: &str) -> std::result::Result<MirrorConfig, String> {
    let mirror = only(&format!(
        "sync {{ default.rsyncssh, source = SRC, host = 'h', targetdir = '/t', {keys} }}"
    ));
    match mirror.carried {
        Carried::Agent(config, _) => Ok(*config),
        _ => Err(mirror.why),
    }
}

#[test]
fn an_upgrade_brings_no_attribute_that_lsyncd_2_left_alone() {
    let none = Attributes {
        perms: false,
        owner: false,
        group: false,
        times: true,
        numeric_ids: false,
        specials: false,
        devices: false,
        hard_links: false,
        xattrs: Classes::NONE,
    };
    // As rsync, -a asks for neither extended attributes nor lists.
    let all = Attributes { xattrs: Classes::NONE, hard_links: false, ..Attributes::default() };
    let lists = Attributes { xattrs: Classes::ACLS, ..all };
    let table = [
        ("", none),
        ("rsync = { archive = true, acls = true, xattrs = false }", lists),
        ("rsync = { archive = true }", all),
        ("rsync = { archive = true, hard_links = true }", Attributes { hard_links: true, ..all }),
        ("rsync = { archive = true, owner = false }", Attributes { owner: false, ..all }),
        ("rsync = { perms = true }", Attributes { perms: true, ..none }),
        (
            "rsync = { times = false, group = true }",
            Attributes { times: false, group: true, ..none },
        ),
    ];
    for (keys, attributes) in table {
        assert_eq!(agent(keys).unwrap().attributes, attributes, "{keys}");
    }
}

#[test]
fn owners_and_permissions_become_others_where_they_are_carried() {
    let all = agent("rsync = { archive = true, chown = 'a:b', chmod = 'D755,F644' }").unwrap();
    let mapping = &all.mapping;
    assert!(!mapping.users.is_empty() && !mapping.groups.is_empty());
    assert_eq!(mapping.chmod.apply(Kind::File, 0o600), 0o644);
    for keys in [
        "rsync = { chmod = '755' }",
        "rsync = { owner = true, chown = 'a:b' }",
        "rsync = { archive = true, chown = 'a', usermap = '1:2' }",
        "rsync = { archive = true, usermap = 'nonsense' }",
    ] {
        assert!(agent(keys).unwrap_err().starts_with("rsync, since only rsync has"), "{keys}");
    }
}

#[test]
fn what_only_rsync_has_is_carried_by_rsync_and_said() {
    let table = [
        ("rsync = { checksum = true }", "rsync.checksum"),
        ("rsync = { _extra = { '--x' } }", "rsync._extra"),
        ("rsync = { binary = '/usr/local/bin/mine' }", "rsync.binary"),
        ("rsync = { links = false }", "rsync.links = false"),
        ("rsync = { chown = 'a:b' }", "rsync.chown"),
        ("tunnel = tunnel { command = { 'x' } }", "tunnel"),
    ];
    for (keys, key) in table {
        assert_eq!(agent(keys).unwrap_err(), format!("rsync, since only rsync has {key}"));
    }
    for keys in ["rsync = { binary = '/usr/bin/rsync' }", "rsync = { acls = false, _extra = {} }"] {
        assert!(agent(keys).is_ok(), "{keys}");
    }
}

#[test]
fn the_keys_of_an_entry_mean_what_they_meant() {
    let config = agent(
        "delay = 3, delete = 'running', exclude = 'x', rsync = { bwlimit = 100, compress = false, inplace = true },
         ssh = { port = 2222, identityFile = '~/.ssh/k' }",
    )
    .unwrap();
    assert_eq!(config.delay, Duration::from_secs(3));
    assert_eq!(config.delete, Delete::Running);
    assert_eq!(config.bwlimit.map(u64::from), Some(102_400));
    assert_eq!(config.compress, Compress::Off);
    assert!(config.inplace);
    assert_eq!(config.ssh.port, Some(2222));
    assert_eq!(config.ssh.identities, [PathBuf::from("/home/me/.ssh/k")]);
    assert_eq!(config.target.to_string(), "h:/t/");
    assert_eq!(config.filter.texts().count(), 1);
    let config = agent("ssh = { options = { A = 'b' }, port = 22 }").unwrap();
    let command = ["ssh", "-o", "A=b", "-p", "22"].map(String::from);
    assert_eq!(config.ssh.command.as_deref(), Some(&command[..]), "the system's ssh knows these");
    let config = agent("init = false").unwrap();
    assert_eq!(config.delete, Delete::Running, "a start that is left out deletes nothing");
}

#[test]
fn keys_of_rsync_are_to_the_agent_what_the_manual_says() {
    let manual = include_str!("../../../docs/from-lsyncd-2.md");
    let table = manual.split("## Keys of rsync = ").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    // The names in backticks that stand before the second bar.
    let named = rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`'));
    let named: Vec<&str> =
        named.filter(|name| name.starts_with(|c: char| c.is_alphabetic())).collect();
    assert!(named.len() > 15 && named.iter().all(|name| Key::find(name).is_ok()), "{named:?}");
    for key in KEYS {
        let value = match key.shape {
            Shape::Letter(_) | Shape::Archive | Shape::Long(_) => "true",
            Shape::Value(_) => "'1'",
            Shape::Binary => "'/usr/local/bin/mine'",
            Shape::Words => "{ '--x' }",
        };
        let name = key.name;
        match agent(&format!("rsync = {{ {name} = {value} }}")) {
            Ok(_) => assert!(named.contains(&name), "{name} is carried by the agent"),
            Err(why) => {
                assert!(!named.contains(&name), "{name}: {why}");
                assert_eq!(why, format!("rsync, since only rsync has rsync.{name}"));
            }
        }
    }
    let config =
        agent("rsync = { one_file_system = true, delete_excluded = true, rsh = 'ssh -4' }")
            .unwrap();
    assert!(config.one_file_system && config.delete_excluded);
    let command = ["ssh", "-4"].map(String::from);
    assert_eq!(config.ssh.command.as_deref(), Some(&command[..]));
}

#[test]
fn default_rsync_is_carried_by_rsync() {
    let mirror = only(
        "sync { default.rsync, source = SRC, target = 'h:~/t', exclude = { 'a' }, filter = { '+ b' }, maxProcesses = 3 }",
    );
    let Carried::Rsync(rsync) = mirror.carried else { panic!("{}", mirror.why) };
    assert_eq!(rsync.target, "h:~/t/");
    assert_eq!((rsync.filters, rsync.excludes), (vec![b"+ b".to_vec()], vec![b"a".to_vec()]));
    assert_eq!((rsync.max_processes, rsync.delay), (3, Duration::from_secs(15)));
    let mirror = only(
        "sync { default.rsync, source = SRC, target = 'h:t', exclude = { 'a', '+ b', '- + c', '- d' } }",
    );
    let Carried::Rsync(plain) = mirror.carried else { panic!("{}", mirror.why) };
    assert_eq!(plain.excludes, [&b"a"[..], b"+ b", b"- + c", b"d"]);
    let texts: Vec<&[u8]> = plain.filter.texts().collect();
    assert_eq!(texts, [&b"- a"[..], b"+ b", b"- + c", b"- d"]);
    assert!(!rsync.options.is_wrapper());
    let mirror = only(
        "sync { default.rsyncssh, source = SRC, host = 'h', targetdir = '~/t', rsync = { checksum = true } }",
    );
    let Carried::Rsync(rsync) = mirror.carried else { panic!("{}", mirror.why) };
    assert_eq!(rsync.target, "h:t/", "rsync would look for a directory called ~");
}

#[test]
fn the_command_line_stands_above_the_file() {
    let line =
        CommandLine { delay: Some(Duration::from_secs(7)), insist: true, ..CommandLine::default() };
    let text = "settings { maxProcesses = 4, logfile = 'l' }
         sync { default.direct, source = SRC, target = '/t', delay = 2 }
         sync { default.rsync, source = SRC, target = 'h:t', maxProcesses = 2 }
         sync { default.rsync, source = SRC, target = 'h:u' }";
    let setup = with_line(text, line).unwrap();
    assert!(setup.settings.insist);
    assert!(
        setup.settings.logfile.as_ref().unwrap().is_absolute(),
        "a daemon leaves its directory"
    );
    let Carried::Agent(direct, _) = &setup.mirrors[0].carried else { panic!() };
    assert_eq!(direct.delay, Duration::from_secs(7));
    let processes: Vec<usize> = setup.mirrors[1..]
        .iter()
        .map(|mirror| match &mirror.carried {
            Carried::Rsync(rsync) => rsync.max_processes,
            _ => 0,
        })
        .collect();
    assert_eq!(processes, [2, 4], "what an entry says itself stands above what is said of all");
}

#[test]
fn what_would_eat_its_source_is_refused() {
    for (text, what) in [
        ("sync { default.direct, source = SRC, target = SRC .. '/in' }", "into itself"),
        ("sync { default.rsync, source = SRC, target = '/' }", "it is the root directory"),
        ("sync { default.rsync, source = SRC, target = 'h:/' }", "it is the root directory"),
        ("sync { default.rsync, source = SRC, target = 'h://' }", "it is the root directory"),
        ("sync { default.rsync, source = SRC, target = 'h:/tmp/..' }", "it is the root directory"),
        (
            "sync { default.rsyncssh, source = SRC, host = 'h', targetdir = '//', rsync = { checksum = true } }",
            "it is the root directory",
        ),
        (
            "sync { default.rsync, source = SRC, target = '/t' } sync { default.rsync, source = '/etc', target = '/t/' }",
            "Sync1 and Sync2 mirror different sources to /t",
        ),
        (
            "sync { default.direct, source = SRC, target = '/t' } sync { default.rsync, source = '/etc', target = '/t/' }",
            "Sync1 and Sync2 mirror different sources to /t",
        ),
        (
            "sync { default.rsync, source = SRC, target = '/', tunnel = tunnel { command = { 'x' } } }",
            "it is the root directory",
        ),
        (
            "sync { default.rsyncssh, source = SRC, host = 'h', targetdir = '/' }",
            "it is the root directory",
        ),
        (
            "sync { default.direct, source = SRC, target = '/t' } sync { default.direct, source = SRC, target = '/t' }",
            "named twice",
        ),
    ] {
        let Err(error) = load(text) else { panic!("{text}") };
        assert!(error.to_string().contains(what), "{error}");
    }
    for text in [
        "sync { default.rsync, source = SRC, target = '/t', delete = false } sync { default.rsync, source = '/etc', target = '/t' }",
        "sync { default.rsync, source = SRC, target = '/t', exclude = 'b' } sync { default.rsync, source = '/etc', target = '/t' }",
        "sync { default.rsyncssh, source = SRC, host = 'h', targetdir = '/x:~/y', rsync = { checksum = true } }",
    ] {
        assert!(load(text).is_ok(), "{text}");
    }
    let Err(error) = load("settings {}") else { panic!() };
    assert_eq!(error.to_string(), "the configuration has no sync{}: nothing to do");
}

#[test]
fn a_crontab_that_cannot_be_is_refused_while_it_loads() {
    for way in ["default.direct, target = '/t'", "default.rsync, target = '/t'", "action = print"] {
        let text = format!("sync {{ {way}, name = 'web', source = SRC, crontab = {{ 'never' }} }}");
        let Err(error) = load(&text) else { panic!("{text}") };
        assert!(error.to_string().starts_with("web: "), "{error}");
        assert!(error.to_string().contains("never"), "{error}");
    }
}

#[test]
fn a_configuration_is_said_in_words_and_in_toml() {
    let setup = load(
        "settings { insist = true, statusFile = '/tmp/status' }
         sync { default.rsyncssh, name = 'web \"1\"', source = '/etc', host = 'me@h', targetdir = '/t', delay = 0.5, exclude = { '*.o', '/x y/' }, rsync = { perms = true, whole_file = true, bwlimit = 2000 } }
         sync { default.rsync, source = '/etc', target = 'h::m', rsync = { compress = true } }
         sync { source = '/etc', action = function() end }",
    )
    .unwrap();
    insta::assert_snapshot!("check", check(&setup));
    insta::assert_snapshot!("migrate", migrate(&setup));
}

#[test]
fn what_has_no_effect_is_named_and_nothing_else() {
    let notes = |keys: &str| {
        let text = format!(
            "sync {{ default.rsyncssh, source = SRC, host = 'h', targetdir = 't', {keys} }}"
        );
        let notes = only(&text).notes;
        notes.into_iter().map(|note| note.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(notes("").is_empty());
    assert_eq!(
        notes(
            "{ maxDelays = 5 }, maxProcesses = 1, onMove = false, batchSizeLimit = 9, exitcodes = {}, rsyncExitCodes = {}, sshExitCodes = {}"
        ),
        [
            "batchSizeLimit",
            "exitcodes",
            "maxDelays",
            "maxProcesses",
            "onMove",
            "rsyncExitCodes",
            "sshExitCodes"
        ]
    );
    assert_eq!(notes("ssh = { port = 22 }, rsync = { rsh = 'ssh -4' }"), ["rsync.rsh"]);
    assert!(notes("rsync = { rsh = 'ssh -4' }").is_empty(), "it is run");
    assert_eq!(
        notes(
            "rsync = { checksum = true }, onMove = false, exitcodes = {}, rsyncExitCodes = {}, sshExitCodes = {}"
        ),
        ["onMove", "sshExitCodes", "exitcodes"]
    );
    let unknown = load("sync { source = SRC, monitor = 'x', action = function() end }");
    assert!(unknown.is_err_and(|error| error.to_string().contains("\"monitor\" unknown")));
    assert!(
        load("sync { source = SRC, checkgauge = false, mine = 1, action = function() end }")
            .is_ok()
    );
}
