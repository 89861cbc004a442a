//! One pattern of a rule: compiled once, then matched in time proportional to the length of the
//! name times that of the pattern, whatever the pattern is.
//!
//! A pattern is a row of small tokens. Matching keeps the set of places in the pattern that the
//! bytes read so far can have led to, so nothing is ever tried twice and `*a*a*a*b` is harmless.

use std::fmt;

/// What one token of a pattern takes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This byte.
    Byte(u8),
    /// `?`: any byte but a slash.
    Any,
    /// `[…]`: one of these bytes, never a slash. Bit `b % 64` of word `b / 64`.
    Set([u64; 4]),
    /// `*`: any bytes but slashes, also none.
    Star,
    /// `**`: any bytes, also none.
    StarStar,
    /// What cannot match: a set without its end.
    Never,
}

/// Which part of a path a pattern is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// The last component: the pattern has no slash and no `**`.
    Name,
    /// The last so many components: slashes, but neither at the start nor a `**`.
    Tail(usize),
    /// The whole path.
    Whole,
    /// The whole path, or what follows any slash of it.
    AnyTail,
}

/// A compiled pattern.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
    /// The bytes that every match ends with, to refuse most names at once. Empty where the end
    /// is not literal.
    ending: Vec<u8>,
    /// It is nothing but `ending`.
    literal: bool,
    against: Against,
    /// It began with a slash.
    pub(super) anchored: bool,
    /// It ended in a slash: only directories match.
    pub(super) only_dirs: bool,
    /// It begins with `**`, which may also stand for nothing before the first slash.
    leading_stars: bool,
    /// It ends in `***`: `dir/***` matches `dir` and all that is in it.
    trailing_stars: bool,
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.tokens, self.against)
    }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|w| w == what)
}

impl Pattern {
    /// Compiles the bytes of a pattern. None is wrong; a set that is never closed never matches.
    pub(super) fn new(text: &[u8]) -> Pattern {
        let (text, only_dirs) = match text.strip_suffix(b"/") {
            Some(rest) if !rest.is_empty() => (rest, true),
            _ => (text, false),
        };
        let slashes = text.iter().filter(|&&b| b == b'/').count();
        let double = contains(text, b"**");
        let leading_stars = text.starts_with(b"**");
        let trailing_stars = double && text.ends_with(b"***");
        let (text, anchored) = match text.strip_prefix(b"/") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let against = if anchored || leading_stars {
            Against::Whole
        } else if double {
            Against::AnyTail
        } else if slashes > 0 {
            Against::Tail(slashes + 1)
        } else {
            Against::Name
        };
        // A backslash only escapes where there is something to escape from.
        let tokens = if text.iter().any(|b| b"*[?".contains(b)) {
            compile(text)
        } else {
            text.iter().map(|&b| Token::Byte(b)).collect()
        };
        let mut ending: Vec<u8> = tokens
            .iter()
            .rev()
            .map_while(|t| if let Token::Byte(b) = t { Some(*b) } else { None })
            .collect();
        ending.reverse();
        let literal = ending.len() == tokens.len();
        Pattern {
            tokens,
            ending,
            literal,
            against,
            anchored,
            only_dirs,
            leading_stars,
            trailing_stars,
        }
    }

    /// Does it match the path, given that its kind fits? `before` is what an absolute rule puts
    /// in front of it, without its first slash and with one at its end, or empty.
    pub(super) fn matches(&self, before: &[u8], path: &[u8], is_dir: bool) -> bool {
        let name_at = path.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        let text: &[u8] = if self.against == Against::Name { &path[name_at..] } else { path };
        let after: &[u8] = if self.trailing_stars && is_dir { b"/" } else { b"" };
        if after.is_empty() {
            let common = self.ending.len().min(text.len());
            if text[text.len() - common..] != self.ending[self.ending.len() - common..] {
                return false;
            }
        }
        match self.against {
            Against::Name if self.literal && after.is_empty() => text == self.ending,
            Against::Name => self.run(&[text, after], false),
            Against::Tail(components) => match tail(before, path, components) {
                Some(parts) => self.run(&parts, false),
                None => false,
            },
            Against::Whole if self.leading_stars && before.is_empty() => {
                self.run(&[b"/", path, after], false)
            }
            Against::Whole => self.run(&[before, path, after], false),
            Against::AnyTail => self.run(&[before, path, after], true),
        }
    }

    /// Steps through the bytes of `parts` one after the other; with `restart`, a match may also
    /// begin behind any slash.
    fn run(&self, parts: &[&[u8]], restart: bool) -> bool {
        // Room for patterns of up to 255 tokens without asking for memory.
        let words = self.tokens.len() / 64 + 1;
        if words <= 4 {
            let (mut now, mut next) = ([0u64; 4], [0u64; 4]);
            self.run_in(parts, restart, &mut now[..words], &mut next[..words])
        } else {
            let (mut now, mut next) = (vec![0u64; words], vec![0u64; words]);
            self.run_in(parts, restart, &mut now, &mut next)
        }
    }

    fn run_in<'a>(
        &self,
        parts: &[&[u8]],
        restart: bool,
        mut now: &'a mut [u64],
        mut next: &'a mut [u64],
    ) -> bool {
        self.reach(now, 0);
        for &byte in parts.iter().copied().flatten() {
            next.fill(0);
            for (word, &places) in now.iter().enumerate() {
                let mut bits = places;
                while bits != 0 {
                    let at = word * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    match self.tokens.get(at) {
                        Some(Token::Byte(b)) if *b == byte => self.reach(next, at + 1),
                        Some(Token::Any) if byte != b'/' => self.reach(next, at + 1),
                        Some(Token::Set(set)) if byte != b'/' && in_set(set, byte) => {
                            self.reach(next, at + 1);
                        }
                        Some(Token::Star) if byte != b'/' => self.reach(next, at),
                        Some(Token::StarStar) => self.reach(next, at),
                        _ => {}
                    }
                }
            }
            if restart && byte == b'/' {
                self.reach(next, 0);
            }
            std::mem::swap(&mut now, &mut next);
            if !restart && now.iter().all(|&w| w == 0) {
                return false;
            }
        }
        let end = self.tokens.len();
        now[end / 64] & (1 << (end % 64)) != 0
    }

    /// Adds a place, and those that follow it because stars may stand for nothing.
    fn reach(&self, set: &mut [u64], mut at: usize) {
        loop {
            let (word, bit) = (at / 64, 1u64 << (at % 64));
            if set[word] & bit != 0 {
                return;
            }
            set[word] |= bit;
            match self.tokens.get(at) {
                Some(Token::Star | Token::StarStar) => at += 1,
                _ => return,
            }
        }
    }
}

/// The last so many components of `before` and `path` together; `None` when there are fewer.
fn tail<'a>(before: &'a [u8], path: &'a [u8], components: usize) -> Option<[&'a [u8]; 2]> {
    let mut left = components;
    for (at, _) in path.iter().enumerate().rev().filter(|&(_, &b)| b == b'/') {
        left -= 1;
        if left == 0 {
            return Some([&path[at + 1..], b""]);
        }
    }
    for (at, _) in before.iter().enumerate().rev().filter(|&(_, &b)| b == b'/') {
        left -= 1;
        if left == 0 {
            return Some([&before[at + 1..], path]);
        }
    }
    (left == 1).then_some([before, path])
}

fn in_set(set: &[u64; 4], byte: u8) -> bool {
    set[usize::from(byte / 64)] & (1 << (byte % 64)) != 0
}

fn compile(text: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'?' => tokens.push(Token::Any),
            b'*' => {
                let more = text[at..].iter().take_while(|&&b| b == b'*').count();
                at += more;
                tokens.push(if more > 0 { Token::StarStar } else { Token::Star });
            }
            b'[' => match set(text, at) {
                Some((bytes, end)) => {
                    tokens.push(Token::Set(bytes));
                    at = end;
                }
                None => return vec![Token::Never],
            },
            b'\\' => match text.get(at) {
                Some(&escaped) => {
                    tokens.push(Token::Byte(escaped));
                    at += 1;
                }
                None => return vec![Token::Never],
            },
            byte => tokens.push(Token::Byte(byte)),
        }
    }
    tokens
}

/// The set whose first byte behind the `[` is at `at`, and where it ends.
fn set(text: &[u8], mut at: usize) -> Option<([u64; 4], usize)> {
    let mut set = [0u64; 4];
    let mut add = |byte: u8| set[usize::from(byte / 64)] |= 1 << (byte % 64);
    let negated = matches!(text.get(at), Some(b'!' | b'^'));
    if negated {
        at += 1;
    }
    // The start of a range, if what stood last can be one.
    let mut before: Option<u8> = None;
    // A `]` that stands first is an ordinary byte.
    let mut first = true;
    loop {
        let byte = *text.get(at)?;
        at += 1;
        match (byte, before) {
            (b']', _) if !first => break,
            (b'\\', _) => {
                let escaped = *text.get(at)?;
                at += 1;
                add(escaped);
                before = Some(escaped);
            }
            (b'-', Some(from)) if text.get(at).is_some_and(|&b| b != b']') => {
                let mut to = text[at];
                at += 1;
                if to == b'\\' {
                    to = *text.get(at)?;
                    at += 1;
                }
                (from..=to).for_each(&mut add);
                before = None;
            }
            (b'[', _) if text.get(at) == Some(&b':') => {
                let start = at + 1;
                let close = start + text[start..].iter().position(|&b| b == b']')?;
                // Without `:]` it is an ordinary set that holds a `[` and a `:`.
                if close > start && text[close - 1] == b':' {
                    let class = class(&text[start..close - 1])?;
                    (0..=255u8).filter(class).for_each(&mut add);
                    at = close + 1;
                    before = None;
                } else {
                    add(b'[');
                    before = Some(b'[');
                }
            }
            (byte, _) => {
                add(byte);
                before = Some(byte);
            }
        }
        first = false;
    }
    if negated {
        set.iter_mut().for_each(|word| *word = !*word);
    }
    Some((set, at))
}

fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |b| matches!(b, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |b| matches!(b, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        // C's isspace knows the vertical tab, Rust's does not.
        b"space" => |b| matches!(b, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let (path, is_dir) = match path.strip_suffix('/') {
            Some(dir) => (dir, true),
            None => (path, false),
        };
        let pattern = Pattern::new(pattern.as_bytes());
        (is_dir || !pattern.only_dirs) && pattern.matches(b"", path.as_bytes(), is_dir)
    }

    #[test]
    fn patterns_match_as_rsyncs_do() {
        // A pattern, what it matches, what it does not. A slash at the end of a path: a directory.
        let table: &[(&str, &[&str], &[&str])] = &[
            ("foo", &["foo", "a/foo", "a/foo/"], &["foob", "afoo", "foo/b"]),
            ("/foo", &["foo", "foo/"], &["a/foo", "foo/foo"]),
            ("foo/", &["foo/", "a/foo/"], &["foo", "a/foo"]),
            ("a/b", &["a/b", "x/a/b"], &["b", "xa/b", "a/bx", "a/x/b"]),
            ("*.o", &["a.o", ".o", "x/y.o"], &["a.oo", "o", "a.o/b"]),
            ("a*/b", &["a/b", "axx/b", "y/ax/b"], &["a/x/b", "ya/b"]),
            ("/a*b", &["ab", "axb"], &["a/b", "c/ab"]),
            ("a?c", &["abc", "x/a?c"], &["a/c", "ac", "abbc"]),
            ("a**c", &["ac", "abc", "a/b/c", "x/a/c", "x/ac"], &["xa/cc", "bac"]),
            ("**c", &["c", "a/c", "a/bc"], &["c/a"]),
            ("**/c", &["c", "a/c", "a/b/c"], &["bc", "a/bc"]),
            ("/a/**/c", &["a/b/c", "a/b/b/c"], &["a/c", "x/a/b/c"]),
            ("a/**", &["a/b", "a/b/c", "x/a/b"], &["a", "a/", "xa/b"]),
            ("a/***", &["a/", "a/b", "a/b/c", "x/a/"], &["a", "xa/"]),
            ("/a/***", &["a/", "a/b/c/"], &["a", "x/a/", "x/a/b"]),
            ("[abc]", &["a", "x/b"], &["d", "ab", "[abc]"]),
            ("[!abc]", &["d", "]"], &["a", "dd"]),
            ("[^a-c]x", &["dx", "-x"], &["bx", "/x"]),
            ("[]x]", &["]", "x"], &["y"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[\\]a]", &["]", "a"], &["\\"]),
            ("[[:digit:]x]", &["7", "x"], &["a", ":"]),
            ("[[:alpha:]]*", &["a7", "Zz"], &["7a"]),
            ("[[:space:]]", &[" ", "\t", "\n", "\x0b"], &["s", "a"]),
            ("[[:nonsense:]]", &[], &["n", "a", "[[:nonsense:]]"]),
            ("[[:a]", &["[", ":", "a"], &["b"]),
            ("[abc", &[], &["a", "[abc"]),
            ("a\\*", &["a*"], &["ab", "a\\*"]),
            ("a\\b", &["a\\b"], &["ab"]),
            ("a\\b*", &["ab", "abc"], &["a\\b"]),
            ("*\\", &[], &["a\\", "\\"]),
            ("*", &["a", "a/b", ".x"], &[]),
            ("?", &["a", "b/c"], &["ab"]),
            ("/*", &["a", "a/"], &["a/b"]),
            ("/*/", &["a/"], &["a", "a/b/"]),
            ("*/x", &["a/x", "b/a/x"], &["x"]),
        ];
        for (pattern, yes, no) in table {
            for path in *yes {
                assert!(matches(pattern, path), "{pattern} should match {path}");
            }
            for path in *no {
                assert!(!matches(pattern, path), "{pattern} should not match {path}");
            }
        }
    }

    #[test]
    fn absolute_patterns_see_what_is_above_the_root() {
        let table: &[(&str, &str, bool)] = &[
            ("/srv/www/a", "a", true),
            ("/srv/www/a", "b/a", false),
            ("/srv/*/a", "a", true),
            ("www/a", "a", true),
            ("srv/www/a", "a", true),
            ("x/srv/www/a", "a", false),
            ("www/*/c", "b/c", true),
            ("srv/**c", "b/c", true),
        ];
        for (pattern, path, expected) in table {
            let compiled = Pattern::new(pattern.as_bytes());
            assert_eq!(
                compiled.matches(b"srv/www/", path.as_bytes(), false),
                *expected,
                "{pattern}"
            );
        }
    }

    #[test]
    fn no_pattern_takes_for_ever() {
        let text = "a".repeat(4000);
        for pattern in ["*a".repeat(120) + "b", "**a*a".repeat(100) + "b", "[a]*".repeat(300) + "b"]
        {
            let start = std::time::Instant::now();
            assert!(!matches(&pattern, &text));
            assert!(!matches(&pattern, &(text.clone() + "c/b")));
            let long_enough = std::time::Duration::from_secs(10);
            assert!(start.elapsed() < long_enough, "{pattern}: {:?}", start.elapsed());
        }
        // Longer than what fits without asking for memory, and right.
        let long = "[a]".repeat(300);
        assert!(matches(&long, &"a".repeat(300)));
        assert!(!matches(&long, &"a".repeat(299)));
    }

    #[test]
    fn names_are_bytes() {
        let pattern = Pattern::new(b"\xff*");
        assert!(pattern.matches(b"", b"\xff\xfe", false));
        assert!(!pattern.matches(b"", b"\xfe", false));
        assert!(Pattern::new(b"[\x80-\xff]").matches(b"", b"\xc3", false));
    }
}
