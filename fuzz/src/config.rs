//! What people write: configurations in Lua, and words of a command line.

use std::path::Path;

use lsync_protocol::entry::Kind;
use lsync_protocol::path::Escaped;
use lsyncd::config::mapping::{Chmod, OwnerMap};
use lsyncd::config::target::{hides_an_option, rsync_daemon};
use lsyncd::config::toml::{self as file, Known, Shape};
use lsyncd::config::{SshTarget, Target, crontab::Crontab, lua as read, settings, value};
use lsyncd::control::Request;
use lsyncd::control::client::Process;
use lsyncd::control::status::Status;

use crate::{assert_lines_shown, assert_shown};

const KEYS: [&str; 32] = [
    "source",
    "target",
    "host",
    "targetdir",
    "delay",
    "delete",
    "exclude",
    "excludeFrom",
    "rsync",
    "ssh",
    "init",
    "maxProcesses",
    "maxDelays",
    "exitcodes",
    "filter",
    "filterFrom",
    "crontab",
    "tunnel",
    "binary",
    "port",
    "options",
    "_extra",
    "rsyncOps",
    "password_file",
    "onCreate",
    "onMove",
    "action",
    "batchSizeLimit",
    "statusFile",
    "insist",
    "chmod",
    "rsh",
];

/// What `sync{}` and `settings{}` are given: keys that there are and values that may be anything. Not
/// any text: a configuration is a program, and one by chance would do anything.
pub fn lua(bytes: &[u8]) {
    const WAYS: [&str; 5] =
        ["default.rsync", "default.rsyncssh", "default.direct", "default", "nil"];
    let mut rest = bytes;
    let mut text = String::new();
    let pick = |rest: &[u8], of: usize| rest.first().map_or(0, |b| usize::from(*b)) % of;
    for word in ["settings", "sync", "sync", "tunnel"] {
        text.push_str(word);
        text.push('{');
        if word == "sync" {
            text.push_str(&format!("{}, ", WAYS[pick(rest, WAYS.len())]));
        }
        for _ in 0..pick(rest, 6) {
            let key = KEYS[pick(rest, KEYS.len())];
            rest = rest.get(1..).unwrap_or_default();
            text.push_str(&format!("{key} = "));
            lua_value(&mut rest, 0, &mut text);
            text.push(',');
        }
        text.push_str("}\n");
    }
    let file = crate::hosts::file(".lua", text.as_bytes());
    let settings = settings::Settings::default();
    let reader = read::Reader::new(mlua::Lua::new(), settings, Path::new("/nowhere"));
    let reader = reader.expect("a reader");
    match reader.run(file.path()) {
        Ok(()) => drop(reader.finish()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A file of ours: what is read of it are words that were in it, and an error names a line of it.
pub fn toml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let known = ["exclude", "delay", "fsync", "rsync"].into_iter().zip([
        Shape::Values,
        Shape::Value,
        Shape::Flag,
        Shape::Maybe,
    ]);
    let known: Vec<Known> =
        known.map(|(name, shape)| Known { name: name.to_owned(), shape }).collect();
    match file::read(&text, "f", &known) {
        Ok(config) => {
            let lines = text.lines().count().max(1);
            for mirror in &config.mirrors {
                assert!((1..=lines).contains(&mirror.line));
                assert!(!mirror.targets.is_empty());
                let ours = |word: &std::ffi::OsString| {
                    let word = word.to_str().unwrap_or_default();
                    known.iter().any(|known| {
                        let rest =
                            word.strip_prefix("--").and_then(|w| w.strip_prefix(&*known.name));
                        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
                    })
                };
                assert!(mirror.words.iter().all(ours), "{:?}", mirror.words);
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("f: line ") || said.starts_with("f has no"), "{said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}

/// What is said at the control socket: questions, and answers, which a person is shown.
pub fn control(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let again = serde_json::to_vec(&request).expect("as it came");
        // A number of JSON may be none of ours: it comes back as null.
        let _ = serde_json::from_slice::<Request>(&again);
    }
    let Ok(status) = serde_json::from_slice::<Status>(bytes) else { return };
    let processes = [Process::known("/x".into(), status)];
    assert_lines_shown(&lsyncd::view::status::text(&processes, Some(&processes)));
    let _ = lsyncd::view::status::json(&processes);
}

fn lua_value(rest: &mut &[u8], depth: u8, out: &mut String) {
    let Some((&kind, more)) = rest.split_first() else { return out.push_str("nil") };
    *rest = more;
    match kind % 8 {
        0 => out.push_str("true"),
        1 => out.push_str("false"),
        2 => out.push_str(&format!("{}", i64::from(kind) - 100)),
        3 => out.push_str(["1e308", "-1/0", "0/0", "1.5", "2^53"][usize::from(kind) % 5]),
        4 | 5 if depth < 3 => {
            out.push('{');
            for _ in 0..kind % 5 {
                if kind.is_multiple_of(2) {
                    let at = rest.first().map_or(0, |b| usize::from(*b)) % KEYS.len();
                    out.push_str(&format!("{} = ", KEYS[at]));
                }
                lua_value(rest, depth + 1, out);
                out.push(',');
            }
            out.push('}');
        }
        6 => out.push_str("function() end"),
        _ => {
            let len = usize::from(kind / 8).min(rest.len());
            let (text, more) = rest.split_at(len);
            *rest = more;
            out.push('"');
            text.iter().for_each(|byte| out.push_str(&format!("\\{byte:03}")));
            out.push('"');
        }
    }
}

/// Words of a command line: targets, times, sizes, maps, crontabs; and what a person is shown of them.
pub fn words(bytes: &[u8]) {
    match Target::parse(bytes) {
        // It is written as it is read.
        Ok(Target::Ssh(target)) => {
            let said = SshTarget::for_rsync(&target);
            assert!(!hides_an_option(&said), "{}", Escaped(&said));
        }
        Ok(_) => {}
        Err(error) => assert_lines_shown(&error.to_string()),
    }
    let _ = (SshTarget::parse_host(bytes), rsync_daemon(bytes));
    let shown = Escaped(bytes).to_string();
    assert_shown(&shown);
    let text = String::from_utf8_lossy(bytes);
    let _ = (value::seconds(&text), value::age(&text), value::size(&text), value::rate(&text));
    let _ = (value::compress(&text), value::max_delete(&text));
    if let Ok(words) = value::words(&text) {
        assert!(words.iter().map(String::len).sum::<usize>() <= text.len());
    }
    if let Ok(chmod) = Chmod::parse(&text, 0o022) {
        for kind in [Kind::File, Kind::Dir] {
            for mode in [0, 0o644, 0o7777] {
                assert_eq!(chmod.apply(kind, mode) & !0o7777, 0);
            }
        }
        assert_eq!(chmod.apply(Kind::Symlink, 0o777), 0o777);
    }
    if let Ok(map) = OwnerMap::parse(&text) {
        let _ = (map.find(0, "root"), map.find(1000, "me"), map.names());
    }
    if text.len() < 200
        && let Ok(times) = Crontab::parse([&*text])
    {
        let zone = jiff::tz::TimeZone::UTC;
        let now = jiff::Timestamp::from_second(1_795_428_000).expect("a time").to_zoned(zone);
        assert!(times.next(&now).is_none_or(|next| next > now));
    }
}
