//! Errors of the operating system as the wire and people have them: lower case, without the
//! number in brackets.

use lsync_protocol::message::{MAX_TEXT, Outcome, Trouble};
use rustix::io::Errno;

/// An error number in words.
#[must_use]
pub fn trouble(error: Errno) -> Trouble {
    let text = std::io::Error::from(error).to_string();
    Trouble { errno: error.raw_os_error(), text: plain(&text) }
}

/// Trouble that is no error number.
pub(crate) fn said(text: impl Into<String>) -> Trouble {
    Trouble { errno: 0, text: bounded(text.into()) }
}

/// An error of the standard library, which may come with a number.
#[must_use]
pub fn io_trouble(error: &std::io::Error) -> Trouble {
    match error.raw_os_error() {
        Some(number) => trouble(Errno::from_raw_os_error(number)),
        None => said(plain(&error.to_string())),
    }
}

/// As the outcome of an operation.
pub(crate) fn problem(error: Errno) -> Outcome {
    Outcome::Problem(trouble(error))
}

/// At most as long as the wire takes it.
pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let mut end = MAX_TEXT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

fn plain(text: &str) -> String {
    let text = text.rfind(" (os error ").map_or(text, |at| &text[..at]);
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_said_in_lower_case_without_numbers() {
        let enospc = trouble(Errno::NOSPC);
        assert_eq!((enospc.errno, enospc.text.as_str()), (28, "no space left on device"));
        assert_eq!(bounded("é".repeat(1000)).len(), MAX_TEXT);
        let other = std::io::Error::other("Broken");
        assert_eq!(io_trouble(&other), Trouble { errno: 0, text: "broken".into() });
    }
}
