//! What the interpreter says, as people read it.

use std::path::Path;

use lsync_protocol::path::Escaped;

use crate::config::target::hides_an_option;
use crate::error::Error;

/// Before the hint in a text that went through the interpreter.
const HINT: &str = "\nhint: ";

/// An error with its hint in one text, to be thrown in the interpreter.
pub(super) fn both(error: &Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error}{HINT}{hint}"),
        None => error.to_string(),
    }
}

/// What could not be done, and what the interpreter said, without its stack.
pub(super) fn error(what: &str, error: &mlua::Error) -> Error {
    let text = innermost(error);
    let text = text.split("\nstack traceback:").next().unwrap_or_default().trim_end();
    let (text, hint) = match text.split_once(HINT) {
        Some((text, hint)) => (text, Some(hint)),
        None => (text, None),
    };
    let text = text.split('\n').collect::<Vec<_>>().join("; ");
    let error = Error::failed(what).because(Escaped(text.as_bytes()).to_string());
    match hint {
        Some(hint) => error.hint(Escaped(hint.as_bytes()).to_string()),
        None => error,
    }
}

fn innermost(error: &mlua::Error) -> String {
    match error {
        mlua::Error::CallbackError { cause, .. } => innermost(cause),
        mlua::Error::RuntimeError(text) => text.clone(),
        mlua::Error::SyntaxError { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

pub(super) fn path(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}

/// Why `host` or `target` cannot be what it is; `None`: it can. Neither ssh nor rsync ever gets a
/// word that it would take for an option.
pub(super) fn option_in(key: &str, word: &[u8]) -> Option<String> {
    let (whole, hint) = match key {
        "host" => ([word, b":"].concat(), "host = \"[USER@]HOST\""),
        _ => (word.to_vec(), "./-NAME is a directory of this host"),
    };
    let shown = Escaped(word);
    if hides_an_option(&whole) {
        return Some(format!(
            "bad {key} '{shown}': a host or user may not begin with a hyphen\nhint: {hint}"
        ));
    }
    // It would be a directory of this host.
    let slash = key == "host" && word.contains(&b'/');
    slash.then(|| format!("bad host '{shown}': a / cannot stand in a host name\nhint: {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_not_shown_and_a_hint_is_one() {
        let text =
            "c.lua:3: setting \"x\" unknown.\nhint: did you mean y?\nstack traceback:\n\t[C]: in ?";
        let told = error("cannot load c.lua", &mlua::Error::RuntimeError(text.into()));
        assert_eq!(told.to_string(), "cannot load c.lua: c.lua:3: setting \"x\" unknown.");
        assert_eq!(told.hint_text(), Some("did you mean y?"));
    }
}
