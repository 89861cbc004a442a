//! `RelPath`: a path beneath a root, as bytes, checked once where it enters the program.
//!
//! Every path that crosses the wire or reaches a system call is one of these, so nothing behind
//! this type has to think of `..`, absolute names, empty components or NUL. The order of this
//! type is *the* order of the program: components compared as bytes, a directory directly before
//! what is in it. A subtree is therefore one contiguous range of any sorted map.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest path the wire carries, in bytes.
pub const MAX_PATH: usize = 64 * 1024;

/// The longest single name, in bytes: `NAME_MAX` of every file system we know of.
pub const MAX_NAME: usize = 255;

/// Why some bytes are not a path beneath a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Begins or ends with a slash, or has two in a row.
    #[error("a path with an empty component")]
    Empty,
    /// A component is `.` or `..`.
    #[error("a path with a component . or ..")]
    Dots,
    /// Contains a NUL byte.
    #[error("a path with a NUL byte")]
    Nul,
    /// A single name holds a slash.
    #[error("a name with a slash")]
    Slash,
    /// Longer than [`MAX_PATH`], or a component longer than [`MAX_NAME`].
    #[error("a path or a name that is too long")]
    TooLong,
}

/// A checked path beneath a root: components of 1 to 255 bytes (any byte but NUL and slash, none
/// of them `.` or `..`), joined by single slashes. The empty path is the root itself.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Box<[u8]>);

/// Checks one name: what a directory entry may be called.
///
/// # Errors
/// [`BadPath`] when it is empty, too long, `.`, `..`, or holds a slash or NUL.
pub fn check_name(name: &[u8]) -> Result<(), BadPath> {
    if name.is_empty() {
        return Err(BadPath::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(BadPath::TooLong);
    }
    if name == b"." || name == b".." {
        return Err(BadPath::Dots);
    }
    if name.contains(&b'/') {
        return Err(BadPath::Slash);
    }
    if name.contains(&0) {
        return Err(BadPath::Nul);
    }
    Ok(())
}

/// The prefix of every temporary name.
const STAGE_PREFIX: &[u8] = b".lsync-";

/// Is this a temporary name of ours: exactly `.lsync-`, 8 hex digits of the mirror, `-`, 8 hex
/// digits of the stage? Walks and events pass over these; any other `.lsync…` is an ordinary name.
#[must_use]
pub fn is_stage_name(name: &[u8]) -> bool {
    let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    name.strip_prefix(STAGE_PREFIX).is_some_and(|rest| {
        rest.len() == 17
            && rest[8] == b'-'
            && rest[..8].iter().all(hex)
            && rest[9..].iter().all(hex)
    })
}

/// The temporary name of a stage of a mirror.
#[must_use]
pub fn stage_name(mirror: u32, stage: u32) -> String {
    format!(".lsync-{mirror:08x}-{stage:08x}")
}

/// The mirror whose temporary name this is, if it is one.
#[must_use]
pub fn stage_mirror(name: &[u8]) -> Option<u32> {
    if !is_stage_name(name) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(&name[7..15]).ok()?, 16).ok()
}

/// A name without the difference of case, nearly as file systems that fold names see it: equal ones
/// are probably one there.
#[must_use]
pub fn folded(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        // One character for one: what becomes several is not folded by any of them.
        Ok(text) => text
            .chars()
            .map(|c| {
                let mut upper = c.to_uppercase();
                if upper.len() == 1 { upper.next().unwrap_or(c) } else { c }
            })
            .collect::<String>()
            .into_bytes(),
        Err(_) => name.to_ascii_uppercase(),
    }
}

impl RelPath {
    /// Is it a temporary name of ours, or beneath one?
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.0.windows(STAGE_PREFIX.len()).any(|part| part == STAGE_PREFIX)
            && self.0.split(|&byte| byte == b'/').any(is_stage_name)
    }

    /// The root itself: the empty path.
    #[must_use]
    pub fn root() -> RelPath {
        RelPath::default()
    }

    /// Checks bytes that came from outside.
    ///
    /// # Errors
    /// [`BadPath`] when they do not name something beneath a root.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<RelPath, BadPath> {
        let bytes = bytes.into();
        if bytes.len() > MAX_PATH {
            return Err(BadPath::TooLong);
        }
        if !bytes.is_empty() {
            for name in bytes.split(|&b| b == b'/') {
                check_name(name)?;
            }
        }
        Ok(RelPath(bytes))
    }

    /// The bytes, without a slash at either end.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Is this the root itself?
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of a name in this directory.
    ///
    /// # Errors
    /// [`BadPath`] when the name cannot be that of a directory entry, or the whole gets too long.
    pub fn join(&self, name: &[u8]) -> Result<RelPath, BadPath> {
        check_name(name)?;
        if self.is_root() {
            return Ok(RelPath(name.into()));
        }
        let len = self.0.len() + 1 + name.len();
        if len > MAX_PATH {
            return Err(BadPath::TooLong);
        }
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Ok(RelPath(bytes.into()))
    }

    /// The directory this is in, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<RelPath> {
        self.split().map(|(parent, _)| RelPath(parent.into()))
    }

    /// The last component, or `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.split().map(|(_, name)| name)
    }

    /// The bytes of the directory this is in (empty: the root) and the last component.
    #[must_use]
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => Some((&self.0[..at], &self.0[at + 1..])),
            None => Some((&[], &self.0)),
        }
    }

    /// The components, outermost first; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|name| !name.is_empty())
    }

    /// How many directories deep: 0 for the root, 1 for what is in it.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Is this `dir` itself or something beneath it?
    #[must_use]
    pub fn is_at_or_under(&self, dir: &RelPath) -> bool {
        self.beneath(dir).is_some()
    }

    /// Is this beneath `dir`, and not `dir` itself?
    #[must_use]
    pub fn is_under(&self, dir: &RelPath) -> bool {
        self.beneath(dir).is_some_and(|rest| !rest.is_empty())
    }

    /// What remains of this path beneath `dir`: empty for `dir` itself, `None` outside it.
    fn beneath(&self, dir: &RelPath) -> Option<&[u8]> {
        if dir.is_root() {
            return Some(&self.0);
        }
        let rest = self.0.strip_prefix(&*dir.0)?;
        match rest.first() {
            None => Some(rest),
            Some(b'/') => Some(&rest[1..]),
            Some(_) => None,
        }
    }

    /// This path after `from` was renamed to `to`; `None` when it is not at or under `from`, or
    /// the new path would be too long.
    #[must_use]
    pub fn moved(&self, from: &RelPath, to: &RelPath) -> Option<RelPath> {
        let rest = self.beneath(from)?;
        if rest.is_empty() {
            return Some(to.clone());
        }
        if to.is_root() {
            return Some(RelPath(rest.into()));
        }
        let len = to.0.len() + 1 + rest.len();
        if len > MAX_PATH {
            return None;
        }
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&to.0);
        bytes.push(b'/');
        bytes.extend_from_slice(rest);
        Some(RelPath(bytes.into()))
    }
}

/// A byte's rank in the order: the slash before every byte a name can hold.
fn rank(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        let common = self.0.iter().zip(&*other.0).position(|(a, b)| a != b);
        match common {
            // No name holds NUL, so a slash ranked as NUL sorts a directory's content directly
            // behind the directory.
            Some(at) => rank(self.0[at]).cmp(&rank(other.0[at])),
            None => self.0.len().cmp(&other.0.len()),
        }
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For people: control characters, bytes that are not UTF-8 and characters that reorder text are
/// escaped as in a shell's `$'…'`; the root is `.`.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        write!(f, "{}", Escaped(&self.0))
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Bytes from outside (names, error texts of a peer) made safe to show to a person.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    '\\' => f.write_str("\\\\")?,
                    c if (c as u32) < 0x20 || c == '\x7f' => write!(f, "\\x{:02x}", c as u32)?,
                    // C1 controls, and what turns the direction of the text around it.
                    '\u{80}'..='\u{9f}'
                    | '\u{200e}'
                    | '\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2066}'..='\u{2069}'
                    | '\u{feff}' => {
                        write!(f, "\\u{{{:x}}}", c as u32)?;
                    }
                    c => write!(f, "{c}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = RelPath;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a path beneath a root")
            }
            fn visit_bytes<E: serde::de::Error>(self, v: &[u8]) -> Result<RelPath, E> {
                RelPath::new(v).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn only_paths_beneath_a_root_are_paths() {
        for good in ["", "a", "a/b", "...", "..a", "a\\b", "a b/\u{1}"] {
            assert!(RelPath::new(good.as_bytes()).is_ok(), "{good:?}");
        }
        let long = "x".repeat(256);
        let table: &[(&str, BadPath)] = &[
            ("/", BadPath::Empty),
            ("/a", BadPath::Empty),
            ("a/", BadPath::Empty),
            ("a//b", BadPath::Empty),
            (".", BadPath::Dots),
            ("..", BadPath::Dots),
            ("a/../b", BadPath::Dots),
            ("a/.", BadPath::Dots),
            ("a\0b", BadPath::Nul),
            (&long, BadPath::TooLong),
        ];
        for (bad, why) in table {
            assert_eq!(RelPath::new(bad.as_bytes()), Err(*why), "{bad:?}");
        }
        let deep = vec![b'a'; 1].into_iter().chain(b"/a".repeat(MAX_PATH / 2)).collect::<Vec<_>>();
        assert_eq!(RelPath::new(deep), Err(BadPath::TooLong));
        assert_eq!(path("a").join(b"b/c"), Err(BadPath::Slash));
    }

    #[test]
    fn a_directory_stands_directly_before_what_is_in_it() {
        let sorted = ["", "a", "a/b", "a/b/c", "a/b-", "a-", "a-/x", "a.b", "b"].map(path);
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn parents_names_and_moves() {
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(path("a/b").name(), Some(&b"b"[..]));
        assert_eq!(path("a/b/c").moved(&path("a"), &path("x/y")), Some(path("x/y/b/c")));
        assert_eq!(path("a").moved(&path("a"), &path("x")), Some(path("x")));
        assert_eq!(path("ab").moved(&path("a"), &path("x")), None);
        assert!(path("a/b").is_under(&path("a")));
        assert!(path("a/b").is_under(&RelPath::root()));
        assert!(!path("a").is_under(&path("a")));
        assert!(path("a").is_at_or_under(&path("a")));
        assert!(!path("a-b").is_at_or_under(&path("a")));
    }

    #[test]
    fn only_the_exact_form_is_a_temporary_name() {
        let name = stage_name(0xdead_beef, 7);
        assert_eq!(name, ".lsync-deadbeef-00000007");
        assert!(is_stage_name(name.as_bytes()));
        assert_eq!(stage_mirror(name.as_bytes()), Some(0xdead_beef));
        for other in [
            ".lsync-deadbeef",
            ".lsync-DEADBEEF-00000007",
            ".lsync-deadbeef-000000070",
            "lsync-deadbeef-00000007",
        ] {
            assert!(!is_stage_name(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn people_see_escapes_not_controls() {
        let odd = RelPath::new(&b"a\n\x1b[2J\xff\\\xe2\x80\xae"[..]).unwrap();
        assert_eq!(odd.to_string(), "a\\n\\x1b[2J\\xff\\\\\\u{202e}");
        assert_eq!(RelPath::root().to_string(), ".");
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_components(a in names(), b in names()) {
            let (x, y) = (a.join("/"), b.join("/"));
            prop_assert_eq!(path(&x).cmp(&path(&y)), a.cmp(&b));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = RelPath::new(bytes.clone()) {
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
                let wire = postcard::to_stdvec(&path).unwrap();
                prop_assert_eq!(postcard::from_bytes::<RelPath>(&wire).unwrap(), path);
            } else {
                let wire = postcard::to_stdvec(&serde_bytes_of(&bytes)).unwrap();
                prop_assert!(postcard::from_bytes::<RelPath>(&wire).is_err());
            }
        }
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[a.\\-b]{1,3}", 0..4)
            .prop_filter("dots", |v| v.iter().all(|n| n != "." && n != ".."))
    }

    /// Bytes as the wire has them: a length, then the bytes.
    fn serde_bytes_of(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    #[test]
    fn names_are_folded_by_character() {
        assert_eq!(folded("a\u{e9}\u{df}".as_bytes()), "A\u{c9}\u{df}".as_bytes());
        assert_eq!(folded(b"a\xff"), b"A\xff");
    }
}
