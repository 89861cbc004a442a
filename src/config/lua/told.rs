//! What the interpreter says, as people read it.

use std::path::Path;

use lsync_protocol::path::Escaped;

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
