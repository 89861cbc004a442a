//! `--chmod`: permission bits that become others, by rsync(1)'s rules.

use lsync_protocol::entry::Kind;

/// Changes of permission bits, applied in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chmod(Vec<Change>);

/// One change: bits that stay, then bits that are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    only: Option<Only>,
    keep: u32,
    add: u32,
    /// `X`: to be executed only if it is a directory, or somebody may execute it already.
    kept_x: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Dirs,
    Files,
}

/// Why a change is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no change of permissions such as D755, Fg-w or a+rX")]
pub struct BadChange(String);

/// All that a mode has.
const ALL: u32 = 0o7777;

impl Chmod {
    /// Reads changes, separated by commas, and adds them. Where nobody is named (`+w`), bits of the
    /// `umask` are left alone.
    ///
    /// # Errors
    /// [`BadChange`], with the one that is none.
    pub fn add(&mut self, text: &str, umask: u32) -> Result<(), BadChange> {
        for part in text.split(',') {
            let change = change(part, umask).ok_or_else(|| BadChange(part.to_owned()))?;
            self.0.push(change);
        }
        Ok(())
    }

    /// Is nothing changed?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a mode becomes.
    #[must_use]
    pub fn apply(&self, kind: Kind, mode: u32) -> u32 {
        let dir = kind == Kind::Dir;
        let somebody_executes = mode & 0o111 != 0;
        self.0.iter().fold(mode & ALL, |mode, change| {
            if change.only.is_some_and(|only| (only == Only::Dirs) != dir) {
                return mode;
            }
            let plain = change.kept_x && !dir && !somebody_executes;
            mode & change.keep | if plain { change.add & !0o111 } else { change.add }
        })
    }
}

fn change(part: &str, umask: u32) -> Option<Change> {
    let mut only = None;
    let mut rest = part;
    while let Some(next) = rest.strip_prefix(['D', 'F']) {
        // Both mean both, as in rsync: the last one said counts.
        only = Some(if rest.starts_with('D') { Only::Dirs } else { Only::Files });
        rest = next;
    }
    if !rest.is_empty() && rest.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        let mode = u32::from_str_radix(rest, 8).ok().filter(|mode| mode & !ALL == 0)?;
        return Some(Change { only, keep: 0, add: mode, kept_x: false });
    }
    let at = rest.find(['+', '-', '='])?;
    let (who, what) = rest.split_at(at);
    // Ones at the lowest bit of each who, and the bits that `s` means for them.
    let (mut places, mut s_bits) = (0, 0);
    for letter in who.chars() {
        let (place, s) = match letter {
            'u' => (0o100, 0o4000),
            'g' => (0o010, 0o2000),
            'o' => (0o001, 0),
            'a' => (0o111, 0),
            _ => return None,
        };
        places |= place;
        s_bits |= s;
    }
    let (mut each, mut top, mut kept_x) = (0, 0, false);
    for letter in what[1..].chars() {
        match letter {
            'r' => each |= 4,
            'w' => each |= 2,
            'x' => each |= 1,
            'X' => {
                each |= 1;
                kept_x = true;
            }
            's' if s_bits != 0 => top |= s_bits,
            's' => top |= 0o4000,
            't' => top |= 0o1000,
            _ => return None,
        }
    }
    let bits = if places == 0 { (0o111 * each) & !umask } else { places * each };
    let places = if places == 0 { 0o111 } else { places };
    let (keep, add) = match what.as_bytes()[0] {
        b'+' => (ALL, bits | top),
        b'-' => (ALL & !(bits | top), 0),
        _ => (ALL & !(places * 7), bits | top),
    };
    Some(Change { only, keep, add, kept_x })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn apply(text: &str, kind: Kind, mode: u32) -> u32 {
        let mut chmod = Chmod::default();
        chmod.add(text, 0o022).unwrap();
        chmod.apply(kind, mode)
    }

    #[test]
    fn changes_are_applied_in_order_to_what_they_are_for() {
        for (text, file, dir) in [
            ("", 0o640, 0o750),
            ("755", 0o755, 0o755),
            ("D700,F600", 0o600, 0o700),
            ("a+rX", 0o644, 0o755),
            ("u+x,a+X", 0o740, 0o751),
            ("go-rwx", 0o600, 0o700),
            ("+w", 0o640, 0o750),
            ("ug=rwX", 0o660, 0o770),
            ("Dg+s,o=", 0o640, 0o2750),
            ("u+s,+t", 0o5640, 0o5750),
            ("Fa-w,Do+rx", 0o440, 0o755),
        ] {
            if text.is_empty() {
                assert_eq!(Chmod::default().apply(Kind::File, 0o640), 0o640);
                continue;
            }
            let found = (apply(text, Kind::File, 0o640), apply(text, Kind::Dir, 0o750));
            assert_eq!(found, (file, dir), "{text}: {:o} {:o}", found.0, found.1);
        }
    }

    #[test]
    fn what_is_no_change_is_said() {
        for text in ["", "8", "z+x", "u+y", "77777", "u", "a+r,", "u+g"] {
            assert!(Chmod::default().add(text, 0).is_err(), "{text}");
        }
    }
}
