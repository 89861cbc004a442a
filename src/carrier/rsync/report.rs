//! What rsync says that it does, one line a name.

use lsync_protocol::path::RelPath;

use super::blame::unescaped;
use crate::metrics::Step;

/// What is itemized: what was done, how many bytes of content went over, the name.
pub(super) const FORMAT: &str = "--out-format=%i %b %n";

/// Reads such a line; `None`: it is something else.
pub(super) fn read(line: &[u8]) -> Option<(Step, u64)> {
    let (what, rest) = line.split_at_checked(11)?;
    let rest = rest.strip_prefix(b" ")?;
    let space = rest.iter().position(|&b| b == b' ')?;
    let (bytes, name) = (&rest[..space], &rest[space + 1..]);
    let bytes = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    let name = unescaped(name);
    let (name, dir) = name.strip_suffix(b"/").map_or((&name[..], false), |name| (name, true));
    let path = if name == b"." { RelPath::root() } else { RelPath::new(name).ok()? };
    let step = match what {
        b"*deleting  " => Step::Delete { path, dir },
        [b'<' | b'>' | b'c' | b'h' | b'.', kind, attributes @ ..] if b"fdLDS".contains(kind) => {
            if attributes.iter().all(|&a| a == b'+') {
                Step::Create { path, dir }
            } else if matches!(what[0], b'<' | b'>') || *kind == b'L' || what[0] == b'h' {
                Step::Update { path }
            } else {
                Step::Attributes { path }
            }
        }
        _ => return None,
    };
    Some((step, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_steps() {
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        for (line, step) in [
            (">f+++++++++ 12 a b", Some((Step::Create { path: path("a b"), dir: false }, 12))),
            ("cd+++++++++ 0 d/", Some((Step::Create { path: path("d"), dir: true }, 0))),
            ("<f.st...... 7 x", Some((Step::Update { path: path("x") }, 7))),
            (".d..t...... 0 ./", Some((Step::Attributes { path: RelPath::root() }, 0))),
            ("*deleting   0 d/x/", Some((Step::Delete { path: path("d/x"), dir: true }, 0))),
            (">f+++++++++ 1 a\\#012b", Some((Step::Create { path: path("a\nb"), dir: false }, 1))),
            ("cannot delete non-empty directory: d", None),
            ("sent 12 bytes", None),
            ("", None),
        ] {
            assert_eq!(read(line.as_bytes()), step, "{line}");
        }
    }
}
