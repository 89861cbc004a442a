//! The remote shell that rsync is told to use: the sub-keys of `ssh = {…}`, or ssh's own words.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The program and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsyncShell {
    /// `binary`: the program, with words of its own if there are any.
    pub program: Vec<OsString>,
    /// `identityFile`: keys to log in with.
    pub identities: Vec<OsString>,
    /// `options`: ssh's own, by name.
    pub options: Vec<(OsString, OsString)>,
    /// `port`.
    pub port: Option<u16>,
    /// `_extra`: words that follow as they are.
    pub extra: Vec<OsString>,
}

impl Default for RsyncShell {
    fn default() -> Self {
        RsyncShell {
            program: vec!["ssh".into()],
            identities: Vec::new(),
            options: Vec::new(),
            port: None,
            extra: Vec::new(),
        }
    }
}

impl RsyncShell {
    /// Its words, in Lsyncd 2's order.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let mut words = self.program.clone();
        for identity in &self.identities {
            words.extend(["-i".into(), identity.clone()]);
        }
        for (name, value) in &self.options {
            let mut option = name.clone();
            option.push("=");
            option.push(value);
            words.extend(["-o".into(), option]);
        }
        if let Some(port) = self.port {
            words.extend(["-p".into(), port.to_string().into()]);
        }
        words.extend(self.extra.iter().cloned());
        words
    }

    /// The words as one text, which rsync parts again.
    #[must_use]
    pub fn text(&self) -> OsString {
        let mut text = Vec::new();
        for word in self.words() {
            if !text.is_empty() {
                text.push(b' ');
            }
            text.extend(quoted(&word));
        }
        OsString::from_vec(text)
    }
}

/// rsync parts at blanks; quotes keep a word together, and a quote in it is written twice.
fn quoted(word: &OsStr) -> Vec<u8> {
    let bytes = word.as_bytes();
    if !bytes.is_empty() && !bytes.iter().any(|b| b" '\"".contains(b)) {
        return bytes.to_vec();
    }
    let mut text = vec![b'\''];
    for &byte in bytes {
        text.push(byte);
        if byte == b'\'' {
            text.push(byte);
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_in_lsyncd_2s_order_and_survive_the_parting() {
        let shell = RsyncShell {
            identities: vec!["/keys/my key".into()],
            options: vec![("StrictHostKeyChecking".into(), "no".into())],
            port: Some(22),
            extra: vec!["-v".into(), "it's".into()],
            ..RsyncShell::default()
        };
        assert_eq!(
            shell.text(),
            "ssh -i '/keys/my key' -o StrictHostKeyChecking=no -p 22 -v 'it''s'"
        );
        assert_eq!(RsyncShell::default().text(), "ssh");
    }
}
