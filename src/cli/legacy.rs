//! Lsyncd 2's command line, read wholly into a value.
//!
//! Pure. One or two dashes are the same there, options stand in any order, a value is the next
//! word, and every failure ends with 255. Texts that people know from Lsyncd 2 stay as they were.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use lsync_protocol::path::Escaped;

use crate::config::near::nearest;
use crate::config::settings::Settings;
use crate::config::value;
use crate::error::Error;

/// What a command line of Lsyncd 2 asks for.
#[derive(Debug)]
pub enum Answer {
    /// `-help`, or nothing to do at all: the help, and 255.
    Help,
    /// `-version`.
    Version,
    /// `-monitor` without a name: [`MONITORS`], and 255.
    Monitors,
    /// To run.
    Run(Box<CommandLine>),
    /// Something is wrong with it.
    Not(Error),
}

/// What `-monitor` lists.
pub const MONITORS: &str = "This Lsyncd supports these monitors:\n   inotify\n\n";

/// A command line that asks to run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommandLine {
    /// The configuration file. If there is none, there is at least one sync.
    pub config: Option<OsString>,
    /// What is to be mirrored, in order.
    pub syncs: Vec<LineSync>,
    /// `-delay`: the delay of every sync, over what the file says.
    pub delay: Option<Duration>,
    /// `-insist`: a target that is away at the start is tried again.
    pub insist: bool,
    /// `-log`: `all`, `scarce`, or categories, in order.
    pub log: Vec<String>,
    /// `-logfile`.
    pub logfile: Option<PathBuf>,
    /// `-nodaemon`: stay in the foreground.
    pub nodaemon: bool,
    /// `-pidfile`.
    pub pidfile: Option<PathBuf>,
    /// `-onepass`: end when every first mirror is complete.
    pub onepass: bool,
    /// `-sshopts`: words for the ssh of the `-rsyncssh` syncs of this line, and of no other.
    pub sshopts: Option<Vec<String>>,
    /// `-script`: Lua files that run before the configuration, in order.
    pub scripts: Vec<PathBuf>,
    /// `-monitor NAME`: inotify, and no other one.
    pub monitor: Option<String>,
}

/// A sync of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineSync {
    /// `-rsync SOURCE TARGET`: the target is whatever rsync takes.
    Rsync {
        /// The directory.
        source: PathBuf,
        /// As rsync has it.
        target: OsString,
    },
    /// `-rsyncssh SOURCE HOST DIR`.
    RsyncSsh {
        /// The directory.
        source: PathBuf,
        /// The host, perhaps with a user.
        host: OsString,
        /// The directory there.
        dir: OsString,
    },
    /// `-direct SOURCE TARGET`.
    Direct {
        /// The directory.
        source: PathBuf,
        /// A directory of this host.
        target: PathBuf,
    },
}

impl CommandLine {
    /// Puts what the line says over what a file said.
    pub fn over(&self, settings: &mut Settings) {
        settings.insist |= self.insist;
        settings.nodaemon |= self.nodaemon;
        settings.onepass |= self.onepass;
        for (line, file) in
            [(&self.logfile, &mut settings.logfile), (&self.pidfile, &mut settings.pidfile)]
        {
            if line.is_some() {
                file.clone_from(line);
            }
        }
    }
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
const OURS: [&str; 12] = [
    "push", "agent", "run", "status", "flush", "pause", "resume", "why", "monitor", "verify",
    "check", "migrate",
];

/// Reads the words behind the program's name.
#[must_use]
pub fn read(words: &[OsString]) -> Answer {
    match line(words) {
        Ok(answer) => answer,
        Err(error) => Answer::Not(error),
    }
}

fn line(words: &[OsString]) -> Result<Answer, Error> {
    let mut line = CommandLine::default();
    let mut configs: Vec<&OsStr> = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let Some(name) = option_name(word) else {
            configs.push(word);
            continue;
        };
        let known = OPTIONS.iter().find(|(known, _)| known.as_bytes() == name);
        let Some(&(name, count)) = known else { return Err(unknown(word, name)) };
        let Some(values) = words.get(at..at + count) else {
            return Err(Error::failed(format!("{name} needs {count} arguments"))
                .hint("lsyncd push SOURCE TARGET... mirrors a directory"));
        };
        at += count;
        match (name, values) {
            ("help", _) => return Ok(Answer::Help),
            ("version", _) => return Ok(Answer::Version),
            // The only one whose value may be missing.
            ("monitor", _) => match words.get(at).filter(|next| option_name(next).is_none()) {
                Some(monitor) => {
                    at += 1;
                    line.monitor = Some(known_monitor(monitor)?);
                }
                None => return Ok(Answer::Monitors),
            },
            _ => line.take(name, values)?,
        }
    }
    match configs.as_slice() {
        [] if line.syncs.is_empty() => Ok(Answer::Help),
        [] => Ok(Answer::Run(Box::new(line))),
        [_] if !line.syncs.is_empty() => {
            Err(Error::failed("There cannot be command line syncs and a config file together.")
                .hint("put the syncs into the file, or leave the file away"))
        }
        [config] => {
            line.config = Some((*config).to_owned());
            Ok(Answer::Run(Box::new(line)))
        }
        _ => Err(several_configs(&configs)),
    }
}

impl CommandLine {
    /// Takes an option with its values, of which there are as many as the option needs.
    fn take(&mut self, name: &str, values: &[OsString]) -> Result<(), Error> {
        match (name, values) {
            ("rsync", [source, target]) => {
                let sync = LineSync::Rsync { source: source.into(), target: target.clone() };
                self.syncs.push(sync);
            }
            ("rsyncssh", [source, host, dir]) => self.syncs.push(LineSync::RsyncSsh {
                source: source.into(),
                host: host.clone(),
                dir: dir.clone(),
            }),
            ("direct", [source, target]) => {
                let sync = LineSync::Direct { source: source.into(), target: target.into() };
                self.syncs.push(sync);
            }
            ("delay", [seconds]) => {
                let text = seconds.to_str().unwrap_or_default();
                let delay = value::seconds(text).map_err(|wrong| bad("delay", seconds, &wrong))?;
                self.delay = Some(delay);
            }
            ("log", [category]) => self.log.push(known_category(category)?),
            ("logfile", [file]) => self.logfile = Some(file.into()),
            ("pidfile", [file]) => self.pidfile = Some(file.into()),
            ("sshopts", [text]) => {
                let words = split(text).map_err(|wrong| bad("sshopts", text, &wrong))?;
                self.sshopts = Some(words);
            }
            ("script", [file]) => self.scripts.push(file.into()),
            ("insist", _) => self.insist = true,
            ("nodaemon", _) => self.nodaemon = true,
            // "onepass": the table has no other.
            _ => self.onepass = true,
        }
        Ok(())
    }
}

/// The error for more than one word that is no option.
fn several_configs(configs: &[&OsStr]) -> Error {
    let error = Error::failed("There can only be one config file in the command line.");
    match push_command(configs) {
        Some(command) if configs.len() == 2 => {
            error.hint(format!("to mirror one to the other: {command}"))
        }
        _ => error,
    }
}

/// A `push` with these words, if all of them can be shown and typed.
fn push_command(words: &[&OsStr]) -> Option<String> {
    let mut command = "lsyncd push".to_owned();
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
    Some(command)
}

/// The error for a configuration file that is not there; perhaps it was to be a command.
#[must_use]
pub fn no_config(config: &OsStr) -> Error {
    let error = Error::failed(format!("Cannot find config file at '{}'.", shown(config)));
    match nearest(config.as_bytes(), OURS) {
        Some(ours) => error.hint(format!("did you mean lsyncd {ours}?")),
        None => error.hint("lsyncd push SOURCE TARGET... mirrors a directory without one"),
    }
}

/// The option's name without its dashes, or `None` for any other word.
fn option_name(word: &OsStr) -> Option<&[u8]> {
    let name = word.as_bytes().strip_prefix(b"-")?;
    let name = name.strip_prefix(b"-").unwrap_or(name);
    Some(name)
}

fn unknown(word: &OsStr, name: &[u8]) -> Error {
    if name == b"runner" {
        return Error::failed("there is no -runner: what the runner did is part of the program")
            .hint("-script FILE runs a Lua file before the configuration");
    }
    let error = Error::failed(format!("unknown option command line option {}", shown(word)));
    match nearest(name, OPTIONS.map(|(name, _)| name)) {
        Some(near) => error.hint(format!("did you mean -{near}?")),
        None => error.hint("our own options stand behind a command: lsyncd push --help"),
    }
}

fn bad(option: &str, text: &OsStr, wrong: &str) -> Error {
    Error::failed(format!("bad -{option} '{}': {wrong}", shown(text)))
}

/// `all`, `scarce`, or anything that begins as categories do.
fn known_category(word: &OsStr) -> Result<String, Error> {
    let named = |text: &&str| {
        ["all", "scarce"].contains(text) || text.starts_with(|c: char| c.is_ascii_uppercase())
    };
    match word.to_str().filter(named) {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::failed(format!("'{}' is not a valid logging category", shown(word)))
            .hint("it is all, scarce, or a category such as Normal, Warn, Exec or Delay")),
    }
}

fn known_monitor(word: &OsStr) -> Result<String, Error> {
    match word.as_bytes() {
        b"inotify" => Ok("inotify".to_owned()),
        b"fanotify" => Err(Error::failed("the monitor fanotify is not there yet")
            .hint("inotify is, and needs no -monitor")),
        _ => Err(Error::failed(format!("unknown monitor {}", shown(word)))
            .hint("lsyncd -monitor lists those that there are")),
    }
}

/// Words as a shell would part them; there may be none.
fn split(text: &OsStr) -> Result<Vec<String>, String> {
    let text = text.to_str().ok_or_else(|| "not UTF-8".to_owned())?;
    if text.trim().is_empty() { Ok(Vec::new()) } else { value::words(text) }
}

fn shown(text: &OsStr) -> String {
    Escaped(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests;
