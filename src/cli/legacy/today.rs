//! What is answered with the command that does the same, until it can be run.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use lsync_protocol::path::Escaped;

use super::{CommandLine, LineSync, OURS, shown};
use crate::config::Target;
use crate::config::near::nearest;
use crate::error::Error;

/// The error for a command line that is understood and cannot be run yet.
#[must_use]
pub fn not_there_yet(line: &CommandLine) -> Error {
    match &line.config {
        Some(config) => config_file(config),
        None => command_line_syncs(line),
    }
}

fn config_file(config: &OsStr) -> Error {
    match nearest(config.as_bytes(), OURS) {
        Some(ours) => Error::failed(format!("unknown command {}", shown(config)))
            .hint(format!("did you mean lsyncd {ours}?")),
        None => Error::failed(format!(
            "cannot run the configuration {}: configuration files are not there yet",
            shown(config)
        ))
        .hint("lsyncd push SOURCE TARGET... mirrors a directory, in the foreground"),
    }
}

/// A word that stands for a configuration and may have meant a command of ours.
#[must_use]
pub fn mistyped(config: &OsStr) -> Option<Error> {
    let ours = nearest(config.as_bytes(), OURS)?;
    let error = Error::failed(format!("unknown command {}", shown(config)));
    Some(error.hint(format!("did you mean lsyncd {ours}?")))
}

/// The error for more than one word that is no option.
pub(super) fn several_configs(configs: &[&OsStr]) -> Error {
    let error = Error::failed("There can only be one config file in the command line.");
    match push_command(configs, "") {
        Some(command) if configs.len() == 2 => {
            error.hint(format!("to mirror one to the other: {command}"))
        }
        _ => error,
    }
}

fn command_line_syncs(line: &CommandLine) -> Error {
    let (name, standard, words) = match line.syncs.first() {
        Some(LineSync::Direct { source, target }) => {
            ("direct", 1, [source.clone().into(), target.clone().into()])
        }
        Some(LineSync::Rsync { source, target }) => {
            ("rsync", 15, [source.clone().into(), target.clone()])
        }
        Some(LineSync::RsyncSsh { source, host, dir }) => {
            let mut target = host.clone();
            target.push(":");
            target.push(dir);
            ("rsyncssh", 15, [OsString::from(source), target])
        }
        None => return Error::failed("nothing to mirror"),
    };
    let error = Error::failed(format!("lsyncd 2's -{name} is not there yet"));
    if line.syncs.len() > 1 {
        return error.hint("run lsyncd push SOURCE TARGET... for each source");
    }
    let delay = line.delay.map_or(f64::from(standard), |delay| delay.as_secs_f64());
    let mut options = format!(" --delay {delay} --no-perms --no-owner --no-group");
    if line.onepass {
        options.push_str(" --once");
    }
    let understood = Target::parse(words[1].as_bytes()).is_ok();
    match push_command(&words.each_ref().map(OsString::as_os_str), &options) {
        Some(command) if understood => error.hint(format!("the same mirror: {command}")),
        _ => error.hint("lsyncd push SOURCE TARGET... mirrors a directory"),
    }
}

/// A `push` with these words, if all of them can be shown and typed.
fn push_command(words: &[&OsStr], options: &str) -> Option<String> {
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
    Some(command)
}
