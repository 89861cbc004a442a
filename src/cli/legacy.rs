//! Lsyncd 2's command line: recognised, and answered with what there is today instead.
//!
//! Pure. One or two dashes are the same there, options stand in any order, a value is the next
//! word, and every failure ends with 255.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use lsync_protocol::path::Escaped;

use crate::error::Error;

/// What a command line of Lsyncd 2 is answered with.
#[derive(Debug)]
pub enum Answer {
    /// `-help`, or nothing at all: the help, and 255.
    Help,
    /// `-version`.
    Version,
    /// What it asks for is not there, or is wrong.
    Not(Error),
}

/// Options of Lsyncd 2 and how many words follow each.
const OPTIONS: [(&str, usize); 15] = [
    ("rsync", 2),
    ("rsyncssh", 3),
    ("direct", 2),
    ("delay", 1),
    ("insist", 0),
    ("log", 1),
    ("logfile", 1),
    ("nodaemon", 0),
    ("pidfile", 1),
    ("onepass", 0),
    ("sshopts", 1),
    ("script", 1),
    ("monitor", 0),
    ("help", 0),
    ("version", 0),
];

/// Our commands, for those who mistype one.
const OURS: [&str; 3] = ["push", "agent", "status"];

/// Reads the words behind the program's name.
#[must_use]
pub fn read(words: &[OsString]) -> Answer {
    let mut configs: Vec<&OsStr> = Vec::new();
    let mut syncs: Vec<(&str, &[OsString])> = Vec::new();
    let mut delay: Option<&OsStr> = None;
    let mut once = false;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let Some(name) = option_name(word) else {
            configs.push(word);
            continue;
        };
        let Some(&(name, count)) = OPTIONS.iter().find(|(known, _)| known.as_bytes() == name)
        else {
            return Answer::Not(
                Error::failed(format!("unknown command line option {}", shown(word)))
                    .hint("our own options stand behind a command: lsyncd push --help"),
            );
        };
        let Some(values) = words.get(at..at + count) else {
            return Answer::Not(
                Error::failed(format!("-{name} needs {count} arguments"))
                    .hint("lsyncd push SOURCE TARGET... mirrors a directory"),
            );
        };
        at += count;
        match name {
            "help" => return Answer::Help,
            "version" => return Answer::Version,
            "rsync" | "rsyncssh" | "direct" => syncs.push((name, values)),
            "delay" => delay = values.first().map(OsString::as_os_str),
            "onepass" => once = true,
            _ => {}
        }
    }
    Answer::Not(match (configs.as_slice(), syncs.as_slice()) {
        ([], []) => return Answer::Help,
        ([config], []) => config_file(config),
        ([..], []) => several_configs(&configs),
        ([], syncs) => command_line_syncs(syncs, delay, once),
        _ => Error::failed("there cannot be command line syncs and a config file together")
            .hint("lsyncd push SOURCE TARGET... mirrors a directory"),
    })
}

/// The option's name without its dashes, or `None` for any other word.
fn option_name(word: &OsStr) -> Option<&[u8]> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    Some(name)
}

fn config_file(config: &OsStr) -> Error {
    let bytes = config.as_bytes();
    let near = OURS.iter().find(|ours| distance(bytes, ours.as_bytes()) <= 2 && bytes.len() > 2);
    match near {
        Some(ours) => Error::failed(format!("unknown command {}", shown(config)))
            .hint(format!("did you mean lsyncd {ours}?")),
        None => Error::failed(format!(
            "cannot run the configuration {}: configuration files are not there yet",
            shown(config)
        ))
        .hint("lsyncd push SOURCE TARGET... mirrors a directory, in the foreground"),
    }
}

fn several_configs(configs: &[&OsStr]) -> Error {
    let error = Error::failed("there can only be one config file in the command line");
    match push_command(configs, "", "") {
        Some(command) if configs.len() == 2 => {
            error.hint(format!("to mirror one to the other: {command}"))
        }
        _ => error,
    }
}

fn command_line_syncs(syncs: &[(&str, &[OsString])], delay: Option<&OsStr>, once: bool) -> Error {
    let (name, values) = syncs[0];
    let error = Error::failed(format!("lsyncd 2's -{name} is not there yet"));
    if syncs.len() > 1 {
        return error.hint("run lsyncd push SOURCE TARGET... for each source");
    }
    let standard = if name == "direct" { "1" } else { "15" };
    let delay = delay.and_then(OsStr::to_str).unwrap_or(standard);
    if crate::config::value::seconds(delay).is_err() {
        return Error::failed(format!(
            "bad -delay '{}': not a number of seconds",
            Escaped(delay.as_bytes())
        ));
    }
    let mut options = format!(" --delay {delay} --no-perms --no-owner --no-group");
    if once {
        options.push_str(" --once");
    }
    let words: Vec<OsString> = match values {
        [source, host, dir] => {
            let mut target = host.clone();
            target.push(":");
            target.push(dir);
            vec![source.clone(), target]
        }
        _ => values.to_vec(),
    };
    let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
    let understood =
        words.get(1).is_some_and(|target| crate::config::Target::parse(target.as_bytes()).is_ok());
    match push_command(&words, &options, "") {
        Some(command) if understood => error.hint(format!("the same mirror: {command}")),
        _ => error.hint("lsyncd push SOURCE TARGET... mirrors a directory"),
    }
}

/// A `push` with these words, if all of them can be shown and typed.
fn push_command(words: &[&OsStr], options: &str, end: &str) -> Option<String> {
    let mut command = format!("lsyncd push{options}");
    for word in words {
        let text = word.to_str().filter(|t| Escaped(t.as_bytes()).to_string() == **t)?;
        let plain = |c: char| c.is_alphanumeric() || "/._-+:@,=~".contains(c);
        command.push(' ');
        if !text.is_empty() && text.chars().all(plain) {
            command.push_str(text);
        } else {
            command.push_str(&format!("'{}'", text.replace('\'', "'\\''")));
        }
    }
    command.push_str(end);
    Some(command)
}

fn shown(text: &OsStr) -> String {
    Escaped(text.as_bytes()).to_string()
}

/// How many letters must be put in, taken out or exchanged to make one word of the other.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len() > 32 {
        return a.len();
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn answer(line: &[&str]) -> Answer {
        read(&line.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_lsyncd_2_was_asked_is_answered_with_what_there_is() {
        let table: &[(&[&str], &str, &str)] = &[
            (
                &["-rsync", "/a", "h:/b"],
                "lsyncd 2's -rsync is not there yet",
                "the same mirror: lsyncd push --delay 15 --no-perms --no-owner --no-group /a h:/b",
            ),
            (
                &["-delay", "5", "--rsyncssh", "/a b", "h", "d", "-onepass", "-nodaemon"],
                "lsyncd 2's -rsyncssh is not there yet",
                "the same mirror: lsyncd push --delay 5 --no-perms --no-owner --no-group --once '/a b' h:d",
            ),
            (
                &["-direct", "/a", "/b"],
                "lsyncd 2's -direct is not there yet",
                "the same mirror: lsyncd push --delay 1 --no-perms --no-owner --no-group /a /b",
            ),
            (
                &["-rsync", "/a", "h::module"],
                "lsyncd 2's -rsync is not there yet",
                "lsyncd push SOURCE TARGET... mirrors a directory",
            ),
            (
                &["-direct", "/a", "/b", "-direct", "/c", "/d"],
                "lsyncd 2's -direct is not there yet",
                "run lsyncd push SOURCE TARGET... for each source",
            ),
            (
                &["-nodaemon", "/etc/lsyncd.conf.lua"],
                "cannot run the configuration /etc/lsyncd.conf.lua: configuration files are not there yet",
                "lsyncd push SOURCE TARGET... mirrors a directory, in the foreground",
            ),
            (&["puhs"], "unknown command puhs", "did you mean lsyncd push?"),
            (
                &["/a", "h:/b"],
                "there can only be one config file in the command line",
                "to mirror one to the other: lsyncd push /a h:/b",
            ),
            (
                &["conf", "-direct", "/a", "/b"],
                "there cannot be command line syncs and a config file together",
                "lsyncd push SOURCE TARGET... mirrors a directory",
            ),
            (
                &["-x\u{1b}"],
                "unknown command line option -x\\x1b",
                "our own options stand behind a command: lsyncd push --help",
            ),
            (
                &["-rsync", "/a"],
                "-rsync needs 2 arguments",
                "lsyncd push SOURCE TARGET... mirrors a directory",
            ),
        ];
        for (line, text, hint) in table {
            let Answer::Not(error) = answer(line) else { panic!("{line:?}") };
            assert_eq!(error.to_string(), *text);
            assert_eq!(error.hint_text(), Some(*hint), "{line:?}");
            assert_eq!(error.exit(), Exit::Failed, "Lsyncd 2's code");
        }
        let Answer::Not(error) = answer(&["-delay", "x", "-direct", "/a", "/b"]) else { panic!() };
        assert_eq!(error.to_string(), "bad -delay 'x': not a number of seconds");
    }

    #[test]
    fn help_and_version_are_those_of_lsyncd_2() {
        for line in [&["-help"][..], &["--nodaemon", "-help"], &[], &["-nodaemon"]] {
            assert!(matches!(answer(line), Answer::Help), "{line:?}");
        }
        for line in [&["-version"][..], &["--nodaemon", "--version"]] {
            assert!(matches!(answer(line), Answer::Version), "{line:?}");
        }
    }

    #[test]
    fn words_are_close_or_far() {
        assert_eq!(distance(b"push", b"push"), 0);
        assert_eq!(distance(b"puhs", b"push"), 2);
        assert_eq!(distance(b"pus", b"push"), 1);
        assert_eq!(distance(b"", b"push"), 4);
    }
}
