//! `--chmod`: other permissions on the target, in rsync's words.
//!
//! A list of changes, applied one after the other to what the source has: symbolic or octal, for
//! directories (`D`), files (`F`) or both. Symbolic links have no permissions to change. Pure.

use lsync_protocol::entry::Kind;

/// Permission bits with setuid, setgid and sticky.
const ALL: u32 = 0o7777;

/// Changes of permissions, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chmod(Vec<Change>);

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Change {
    /// Of directories only (true), of everything else only (false), of both.
    of: Option<bool>,
    act: Act,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// These bits stay, those are added; execution (`X`) only where there was some.
    Bits { keep: u32, add: u32, only_if_executable: bool },
    /// The bits of one class, shifted down by so many, to others, less what is masked.
    Copy { from: u32, to: u32, mask: u32, op: u8 },
}

impl Chmod {
    /// Reads one option's text. `umask` bounds what is given to no class by name, as in `+w`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, umask: u32) -> Result<Chmod, String> {
        text.split(',').map(|part| change(part, umask)).collect::<Result<_, _>>().map(Chmod)
    }

    /// These changes come after those that are there.
    pub fn then(&mut self, more: Chmod) {
        self.0.extend(more.0);
    }

    /// Is nothing changed?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The permissions on the target of what has these on the source.
    #[must_use]
    pub fn apply(&self, kind: Kind, mode: u32) -> u32 {
        if kind == Kind::Symlink {
            return mode;
        }
        let dir = kind == Kind::Dir;
        let executable = mode & 0o111 != 0;
        let changes = self.0.iter().filter(|change| change.of.is_none_or(|dirs| dirs == dir));
        changes.fold(mode, |mode, change| match change.act {
            Act::Bits { keep, add, only_if_executable } => {
                let hold_back = only_if_executable && !executable && !dir;
                (mode & keep) | if hold_back { add & !0o111 } else { add }
            }
            Act::Copy { from, to, mask, op } => {
                let bits = (to * ((mode >> from) & 7)) & !mask;
                match op {
                    b'+' => mode | bits,
                    b'-' => mode & !bits,
                    // What is given away by copying is not a special bit's business.
                    _ => (mode & !(to * 7) & !special(to)) | bits,
                }
            }
        })
    }
}

/// The special bits of classes: setuid, setgid, sticky.
fn special(classes: u32) -> u32 {
    [(0o100, 0o4000), (0o010, 0o2000), (0o001, 0o1000)]
        .into_iter()
        .filter(|(class, _)| classes & class != 0)
        .fold(0, |bits, (_, bit)| bits | bit)
}

fn change(part: &str, umask: u32) -> Result<Change, String> {
    let wrong = |why: &str| Err(format!("'{part}' {why}"));
    let mut of = None;
    let mut rest = part.as_bytes();
    while let [first @ (b'D' | b'F'), more @ ..] = rest {
        let dirs = *first == b'D';
        if of.is_some_and(|of| of != dirs) {
            return wrong("is for directories only and for files only");
        }
        (of, rest) = (Some(dirs), more);
    }
    if rest.first().is_some_and(u8::is_ascii_digit) {
        let octal = rest.iter().try_fold(0_u32, |value, byte| match byte {
            b'0'..=b'7' => Some(value * 8 + u32::from(byte - b'0')).filter(|value| *value <= ALL),
            _ => None,
        });
        let Some(add) = octal else { return wrong("is not octal, 0 to 7777") };
        return Ok(Change { of, act: Act::Bits { keep: 0, add, only_if_executable: false } });
    }
    let (mut classes, mut specials) = (0, 0);
    let op = loop {
        let Some((first, more)) = rest.split_first() else {
            return wrong("has none of +, - and =");
        };
        rest = more;
        match first {
            b'u' => (classes, specials) = (classes | 0o100, specials | 0o4000),
            b'g' => (classes, specials) = (classes | 0o010, specials | 0o2000),
            b'o' => classes |= 0o001,
            b'a' => (classes, specials) = (0o111, 0o6000),
            b'+' | b'-' | b'=' => break *first,
            b'D' | b'F' => return wrong("has D or F elsewhere than in front"),
            _ => return wrong("names a class other than u, g, o and a"),
        }
    };
    // What is said of nobody is said of all, but for what the umask withholds.
    let mask = if classes == 0 { umask & 0o777 } else { 0 };
    let whom = if classes == 0 { 0o111 } else { classes };
    if let [class @ (b'u' | b'g' | b'o')] = rest {
        let from = match class {
            b'u' => 6,
            b'g' => 3,
            _ => 0,
        };
        return Ok(Change { of, act: Act::Copy { from, to: whom, mask, op } });
    }
    let (mut what, mut special, mut only_if_executable) = (0, 0, false);
    for byte in rest {
        match byte {
            b'r' => what |= 4,
            b'w' => what |= 2,
            b'x' => what |= 1,
            b'X' => (what, only_if_executable) = (what | 1, true),
            b's' if specials != 0 => special |= specials,
            b's' => special |= 0o4000,
            b't' => special |= 0o1000,
            b'u' | b'g' | b'o' => return wrong("copies more than one class, or a class and bits"),
            _ => return wrong("has a permission other than r, w, x, X, s and t"),
        }
    }
    let bits = ((whom * what) & !mask) | special;
    let (keep, add) = match op {
        b'+' => (ALL, bits),
        b'-' => (ALL & !bits, 0),
        _ => (ALL & !(whom * 7) & !(if special == 0 { 0 } else { specials }), bits),
    };
    Ok(Change { of, act: Act::Bits { keep, add, only_if_executable } })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn changes_mean_what_they_mean_to_rsync() {
        let table = [
            ("g=u", 0o640, 0o755, 0o660, 0o775),
            ("u=rwx,g=u", 0o640, 0o755, 0o770, 0o775),
            ("o+s", 0o640, 0o755, 0o4640, 0o4755),
            ("ug+s", 0o640, 0o755, 0o6640, 0o6755),
            ("u=s", 0o640, 0o755, 0o4040, 0o4055),
            ("g=rs", 0o640, 0o755, 0o2640, 0o2745),
            ("+x", 0o640, 0o755, 0o750, 0o755),
            ("+w", 0o640, 0o755, 0o640, 0o755),
            ("a=rX", 0o640, 0o755, 0o444, 0o555),
            ("a=rX", 0o700, 0o700, 0o555, 0o555),
            ("D755", 0o640, 0o700, 0o640, 0o755),
            ("DD+t", 0o640, 0o755, 0o640, 0o1755),
            ("=rws", 0o640, 0o755, 0o4640, 0o4640),
            ("o=st", 0o640, 0o750, 0o5640, 0o5750),
            ("a-x,a+X", 0o750, 0o750, 0o751, 0o751),
            ("o=u", 0o1750, 0o1750, 0o757, 0o757),
            ("-u", 0o640, 0o755, 0, 0o005),
            ("D=rwx,F=rw", 0o640, 0o755, 0o640, 0o750),
            ("Dg+s,ug+w,Fo-w,+X", 0o646, 0o755, 0o664, 0o2775),
        ];
        for (text, file, dir, file_there, dir_there) in table {
            let chmod = Chmod::parse(text, 0o027).unwrap();
            let got = (chmod.apply(Kind::File, file), chmod.apply(Kind::Dir, dir));
            assert_eq!(got, (file_there, dir_there), "{text}: {:o} {:o}", got.0, got.1);
            assert_eq!(chmod.apply(Kind::Symlink, 0o777), 0o777);
        }
    }

    #[test]
    fn what_rsync_refuses_is_refused() {
        for text in [
            "", ",", "u+x,", ",u+x", "17777", "88", "u755", "DF+x", "u+r-w", "u+rg", "rwx", "ug",
            "g=ux", "g=uo", "u+X,X", "u+é",
        ] {
            assert!(Chmod::parse(text, 0).is_err(), "{text}");
        }
    }

    /// Numbers without a pattern (xorshift).
    fn next(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    fn made_up(seed: &mut u64) -> String {
        let mut some = |from: &[&'static str]| from[next(seed) as usize % from.len()];
        let of = some(&["", "D", "F"]);
        if some(&["0", "1", "2", "3", "4"]) == "0" {
            return format!("{of}{}", some(&["755", "2750", "0", "7777", "644", "1"]));
        }
        let who = some(&["", "u", "g", "o", "a", "ug", "go", "uo"]);
        let op = some(&["+", "-", "="]);
        let what =
            some(&["", "r", "w", "x", "X", "s", "t", "rw", "rX", "rwx", "xst", "u", "g", "o"]);
        format!("{of}{who}{op}{what}")
    }

    #[test]
    fn made_up_changes_of_made_up_modes_end_as_by_rsync() {
        let umask = lsync_agent::meta::current_umask();
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        let modes: Vec<u32> = (0..60).map(|_| (next(&mut seed) as u32 & ALL) | 0o400).collect();
        for (at, mode) in modes.iter().enumerate() {
            let file = from.join(format!("f{at}"));
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(*mode)).unwrap();
            let dir = from.join(format!("d{at}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode | 0o700)).unwrap();
        }
        for _ in 0..150 {
            let count = 1 + next(&mut seed) % 3;
            let parts: Vec<String> = (0..count).map(|_| made_up(&mut seed)).collect();
            let text = parts.join(",");
            let chmod = Chmod::parse(&text, umask).unwrap();
            let ran = Command::new("rsync")
                .args(["-a", &format!("--chmod={text}"), "from/", "to/"])
                .current_dir(place.path())
                .output()
                .unwrap();
            // A directory that nobody may enter stops an ordinary user's rsync, not root's.
            if !rustix::process::geteuid().is_root() && !ran.status.success() {
                continue;
            }
            assert!(ran.status.success(), "{text}: {ran:?}");
            for (at, mode) in modes.iter().enumerate() {
                for (kind, name, mode) in [
                    (Kind::File, format!("f{at}"), *mode),
                    (Kind::Dir, format!("d{at}"), mode | 0o700),
                ] {
                    let there =
                        std::fs::metadata(to.join(name)).unwrap().permissions().mode() & ALL;
                    let ours = chmod.apply(kind, mode);
                    assert_eq!(ours, there, "{text} of {kind:?} {mode:o}: {ours:o}, {there:o}");
                }
            }
        }
    }
}
