//! clap's complaints, in the program's own words: one line, lower case, and a hint.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use lsync_protocol::path::Escaped;

use super::{Invocation, VERSION, World};
use crate::error::{Error, Exit, Result, plain};

/// Help and version are printed; the rest are usage errors.
pub(super) fn print_or_error(error: &clap::Error, world: &World) -> Result<Invocation> {
    let text = error.render();
    let text = if world.stdout_terminal { text.ansi().to_string() } else { text.to_string() };
    match error.kind() {
        ErrorKind::DisplayHelp => Ok(Invocation::Print { text, exit: Exit::Done }),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Ok(Invocation::Print { text, exit: Exit::Usage })
        }
        ErrorKind::DisplayVersion => {
            Ok(Invocation::Print { text: format!("{VERSION}\n"), exit: Exit::Done })
        }
        _ => Err(complain(error)),
    }
}

fn complain(error: &clap::Error) -> Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(Escaped(text.as_bytes()).to_string()),
        Some(ContextValue::Strings(texts)) if !texts.is_empty() => {
            Some(Escaped(texts.join(", ").as_bytes()).to_string())
        }
        _ => None,
    };
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    let name = arg.split([' ', '=']).next().unwrap_or_default();
    let what = match error.kind() {
        ErrorKind::UnknownArgument => format!("unknown option {arg}"),
        ErrorKind::InvalidValue => match context(ContextKind::InvalidValue).as_deref() {
            None | Some("") => format!("{name} needs a value"),
            Some(value) => format!("bad {name} '{value}'"),
        },
        ErrorKind::MissingRequiredArgument => format!("missing {}", arg.replace(['<', '>'], "")),
        ErrorKind::ArgumentConflict => match context(ContextKind::PriorArg) {
            Some(prior) => format!("{name} does not go with {prior}"),
            None => one_line(&error.to_string()),
        },
        ErrorKind::InvalidSubcommand => {
            format!(
                "unknown command {}",
                context(ContextKind::InvalidSubcommand).unwrap_or_default()
            )
        }
        ErrorKind::TooManyValues | ErrorKind::NoEquals => format!("{name} takes no value here"),
        _ => one_line(&error.to_string()),
    };
    let hint = as_rsync(name)
        .map(str::to_owned)
        .or_else(|| context(ContextKind::SuggestedArg).map(|s| format!("did you mean {s}?")))
        .or_else(|| context(ContextKind::SuggestedSubcommand).map(|s| format!("did you mean {s}?")))
        .or_else(|| context(ContextKind::ValidValue).map(|s| format!("it takes one of {s}")))
        .unwrap_or_else(|| "see lsyncd push --help".to_owned());
    Error::usage(what).hint(hint)
}

/// Habits from rsync that have an answer here.
fn as_rsync(option: &str) -> Option<&'static str> {
    Some(match option {
        "-a" | "--archive" | "-r" | "--recursive" | "-l" | "--links" | "-t" | "--times" | "-o"
        | "--owner" | "-g" | "--group" | "--perms" | "-D" | "-A" | "--acls" | "-X" | "--xattrs"
        | "-H" | "--hard-links" => {
            "it is what push does by default; --no-owner, --no-perms … take it away"
        }
        "-z" => "see --compress",
        "-e" | "--rsh" => "use --ssh-command 'ssh …', -p PORT or -i FILE",
        "-P" | "--progress" => "a terminal shows progress by default; -v names what is done",
        "-f" => "use --filter RULE",
        _ => return None,
    })
}

/// The first paragraph of a text as one line, without `error: ` before it.
pub(super) fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let paragraph = text.split("\n\n").next().unwrap_or(text);
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    plain(&Escaped(line.trim_end_matches('.').as_bytes()).to_string())
}
