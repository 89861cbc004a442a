//! The words of rsync's filter rules: short and long names, modifiers, files of rules.

use lsync_protocol::path::Escaped;

use super::{Filter, Pattern, Rule, Sides};

/// The longest rule: longer than any path that a rule could match.
const MAX_RULE: usize = 64 * 1024;

/// A rule that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad filter rule '{}': {why}", Escaped(.rule))]
pub struct BadRule {
    /// The rule as it was given.
    pub rule: Vec<u8>,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It does not begin with the name of a rule.
    #[error("it must begin with one of + - P R H S !")]
    Unknown,
    /// A rule without a pattern.
    #[error("the pattern is missing")]
    NoPattern,
    /// A letter that is no modifier of this rule.
    #[error("'{0}' is not a modifier of this rule")]
    Modifier(char),
    /// No space between the name with its modifiers and the pattern.
    #[error("there must be a space before the pattern")]
    NoSpace,
    /// `!` with something behind it.
    #[error("nothing may follow !")]
    AfterClear,
    /// It reads its rules from files: `.`, `:`, `merge`, `dir-merge`.
    #[error("rules that are read from files by a rule (merge, dir-merge) are not there yet")]
    MergeNotYet,
    /// rsync's list of what CVS ignores.
    #[error("CVS' own exclusions are not there yet")]
    CvsNotYet,
    /// Rules about extended attributes.
    #[error("rules for extended attributes are not there yet")]
    XattrsNotYet,
    /// Longer than any path.
    #[error("it is too long")]
    TooLong,
}

impl Filter {
    /// Reads rules as `--filter` takes them, in order.
    ///
    /// # Errors
    /// [`BadRule`] with the first rule that cannot be understood.
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a [u8]>) -> Result<Filter, BadRule> {
        let mut filter = Filter::default();
        for rule in rules {
            filter.add_rule(rule)?;
        }
        Ok(filter)
    }

    /// `--filter RULE`.
    ///
    /// # Errors
    /// [`BadRule`] when it cannot be understood.
    pub fn add_rule(&mut self, rule: &[u8]) -> Result<(), BadRule> {
        let bad = |why| BadRule { rule: rule.to_vec(), why };
        if rule.len() > MAX_RULE {
            return Err(BadRule { rule: rule[..80].to_vec(), why: Why::TooLong });
        }
        if rule.is_empty() {
            return Ok(());
        }
        match one(rule).map_err(bad)? {
            Some(rule) => self.rules.push(rule),
            None => self.rules.clear(),
        }
        Ok(())
    }

    /// `--exclude PATTERN`. As rsync's it also takes `- PATTERN`, `+ PATTERN` and `!`.
    ///
    /// # Errors
    /// [`BadRule`] when the pattern is missing.
    pub fn add_exclude(&mut self, pattern: &[u8]) -> Result<(), BadRule> {
        self.add_pattern(pattern, false)
    }

    /// `--include PATTERN`. As rsync's it also takes `- PATTERN`, `+ PATTERN` and `!`.
    ///
    /// # Errors
    /// [`BadRule`] when the pattern is missing.
    pub fn add_include(&mut self, pattern: &[u8]) -> Result<(), BadRule> {
        self.add_pattern(pattern, true)
    }

    /// What a file of `--exclude-from` (or `--include-from`) holds: a pattern a line. Empty lines
    /// and those that begin with `#` or `;` are comments.
    ///
    /// # Errors
    /// [`BadRule`] with the first line that cannot be understood.
    pub fn add_file(&mut self, content: &[u8], include: bool) -> Result<(), BadRule> {
        for line in content.split(|&b| b == b'\n' || b == b'\r') {
            if !matches!(line.first(), None | Some(b'#' | b';')) {
                self.add_pattern(line, include)?;
            }
        }
        Ok(())
    }

    fn add_pattern(&mut self, text: &[u8], include: bool) -> Result<(), BadRule> {
        if text.len() > MAX_RULE {
            return Err(BadRule { rule: text[..80].to_vec(), why: Why::TooLong });
        }
        let (include, pattern) = match text {
            b"!" => {
                self.rules.clear();
                return Ok(());
            }
            [b'-', b' ', rest @ ..] => (false, rest),
            [b'+', b' ', rest @ ..] => (true, rest),
            _ => (include, text),
        };
        if pattern.is_empty() {
            return Err(BadRule { rule: text.to_vec(), why: Why::NoPattern });
        }
        self.rules.push(Rule::new(include, Sides::Both, &Modifiers::default(), pattern));
        Ok(())
    }
}

#[derive(Default)]
struct Modifiers {
    negated: bool,
    absolute: bool,
    perishable: bool,
}

impl Rule {
    fn new(include: bool, sides: Sides, modifiers: &Modifiers, pattern: &[u8]) -> Rule {
        let mut text: Vec<u8> = vec![match (sides, include) {
            (Sides::Both, true) => b'+',
            (Sides::Both, false) => b'-',
            (Sides::Sender, true) => b'S',
            (Sides::Sender, false) => b'H',
            (Sides::Receiver, true) => b'R',
            (Sides::Receiver, false) => b'P',
        }];
        for (set, letter) in
            [(modifiers.negated, b'!'), (modifiers.absolute, b'/'), (modifiers.perishable, b'p')]
        {
            if set {
                text.push(letter);
            }
        }
        text.push(b' ');
        text.extend_from_slice(pattern);
        Rule {
            include,
            sides,
            negated: modifiers.negated,
            absolute: modifiers.absolute,
            perishable: modifiers.perishable,
            pattern: Pattern::new(pattern),
            text,
        }
    }
}

/// Long names of rules and the letter each stands for.
const NAMES: [(&[u8], u8); 9] = [
    (b"exclude", b'-'),
    (b"include", b'+'),
    (b"protect", b'P'),
    (b"risk", b'R'),
    (b"hide", b'H'),
    (b"show", b'S'),
    (b"clear", b'!'),
    (b"merge", b'.'),
    (b"dir-merge", b':'),
];

fn is_space(byte: u8) -> bool {
    // An underscore serves where a space would have to be quoted.
    byte == b' ' || byte == b'_'
}

/// One rule, or `None` for the one that clears those before it.
fn one(rule: &[u8]) -> Result<Option<Rule>, Why> {
    let long = NAMES.iter().find_map(|(name, letter)| {
        let rest = rule.strip_prefix(*name)?;
        let ends =
            rest.first().is_none_or(|&b| is_space(b) || b == b',' || b.is_ascii_whitespace());
        ends.then_some((*letter, rest))
    });
    let (letter, rest) = match long {
        Some(found) => found,
        None => (*rule.first().ok_or(Why::NoPattern)?, &rule[1..]),
    };
    let rest = rest.strip_prefix(b",").unwrap_or(rest);
    let (include, mut sides) = match letter {
        b'-' => (false, Sides::Both),
        b'+' => (true, Sides::Both),
        b'H' => (false, Sides::Sender),
        b'S' => (true, Sides::Sender),
        b'P' => (false, Sides::Receiver),
        b'R' => (true, Sides::Receiver),
        b'!' if rest.is_empty() => return Ok(None),
        b'!' => return Err(Why::AfterClear),
        b'.' | b':' => return Err(Why::MergeNotYet),
        _ => return Err(Why::Unknown),
    };
    let mut modifiers = Modifiers::default();
    let end = rest.iter().position(|&b| is_space(b)).unwrap_or(rest.len());
    let side_is_free = sides == Sides::Both;
    let (mut sender, mut receiver) = (false, false);
    for &byte in &rest[..end] {
        match byte {
            b'/' => modifiers.absolute = true,
            b'!' => modifiers.negated = true,
            b'p' => modifiers.perishable = true,
            b's' if side_is_free => sender = true,
            b'r' if side_is_free => receiver = true,
            b'C' if side_is_free => return Err(Why::CvsNotYet),
            b'x' => return Err(Why::XattrsNotYet),
            other if end == rest.len() || !other.is_ascii_graphic() => {
                return Err(Why::NoSpace);
            }
            other => return Err(Why::Modifier(char::from(other))),
        }
    }
    match (sender, receiver) {
        (true, false) => sides = Sides::Sender,
        (false, true) => sides = Sides::Receiver,
        _ => {}
    }
    match rest.get(end + 1..) {
        Some(pattern) if !pattern.is_empty() => {
            Ok(Some(Rule::new(include, sides, &modifiers, pattern)))
        }
        _ => Err(Why::NoPattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(filter: &Filter) -> Vec<String> {
        filter.rules().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_are_read_in_their_short_and_long_words() {
        let table = [
            ("- a", "- a"),
            ("-_a", "- a"),
            ("-  a", "-  a"),
            ("exclude a b", "- a b"),
            ("include a", "+ a"),
            ("include,s a", "S a"),
            ("+,r a", "R a"),
            ("-sr a", "- a"),
            ("hide a", "H a"),
            ("hide,! a", "H! a"),
            ("show a", "S a"),
            ("protect,p a", "Pp a"),
            ("P,p a", "Pp a"),
            ("risk a", "R a"),
            ("-!/p a", "-!/p a"),
            ("- \u{1}", "- \\x01"),
        ];
        for (rule, expected) in table {
            let filter = Filter::parse([rule.as_bytes()]).unwrap();
            assert_eq!(shown(&filter), [expected], "{rule}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_said() {
        let table = [
            ("x a", "bad filter rule 'x a': it must begin with one of + - P R H S !"),
            ("excluded a", "bad filter rule 'excluded a': it must begin with one of + - P R H S !"),
            ("-", "bad filter rule '-': the pattern is missing"),
            ("- ", "bad filter rule '- ': the pattern is missing"),
            ("exclude", "bad filter rule 'exclude': the pattern is missing"),
            ("-s", "bad filter rule '-s': the pattern is missing"),
            ("-*.o", "bad filter rule '-*.o': there must be a space before the pattern"),
            ("-q a", "bad filter rule '-q a': 'q' is not a modifier of this rule"),
            ("P,s a", "bad filter rule 'P,s a': 's' is not a modifier of this rule"),
            ("! a", "bad filter rule '! a': nothing may follow !"),
            ("clear a", "bad filter rule 'clear a': nothing may follow !"),
            (
                ": .rsync-filter",
                "bad filter rule ': .rsync-filter': rules that are read from files by a rule (merge, dir-merge) are not there yet",
            ),
            (
                "merge f",
                "bad filter rule 'merge f': rules that are read from files by a rule (merge, dir-merge) are not there yet",
            ),
            ("-C", "bad filter rule '-C': CVS' own exclusions are not there yet"),
            (
                "-x user.*",
                "bad filter rule '-x user.*': rules for extended attributes are not there yet",
            ),
            ("\u{1b}[2J", "bad filter rule '\\x1b[2J': it must begin with one of + - P R H S !"),
        ];
        for (rule, expected) in table {
            let error = Filter::parse([rule.as_bytes()]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let long = vec![b'a'; MAX_RULE + 1];
        assert_eq!(Filter::parse([&long[..]]).unwrap_err().why, Why::TooLong);
        assert_eq!(Filter::default().add_exclude(&long).unwrap_err().why, Why::TooLong);
    }

    #[test]
    fn patterns_may_carry_the_old_prefixes() {
        let mut filter = Filter::default();
        for pattern in ["a", "+ b", "- c", "-d", "! e", "P f"] {
            filter.add_exclude(pattern.as_bytes()).unwrap();
        }
        filter.add_include(b"g").unwrap();
        filter.add_include(b"- h").unwrap();
        assert_eq!(shown(&filter), ["- a", "+ b", "- c", "- -d", "- ! e", "- P f", "+ g", "- h"]);
        filter.add_exclude(b"!").unwrap();
        assert!(filter.is_empty());
        for bad in ["", "- ", "+ "] {
            assert_eq!(filter.add_exclude(bad.as_bytes()).unwrap_err().why, Why::NoPattern);
        }
        filter.add_rule(b"- a").unwrap();
        filter.add_rule(b"clear").unwrap();
        assert!(filter.is_empty());
    }

    #[test]
    fn a_file_holds_a_pattern_a_line() {
        let mut filter = Filter::default();
        filter.add_file(b"# made by hand\n\n; old\n*.o\r\n+ /keep\n #x\n\xff", false).unwrap();
        assert_eq!(shown(&filter), ["- *.o", "+ /keep", "-  #x", "- \\xff"]);
        filter.add_file(b"!\na\n", true).unwrap();
        assert_eq!(shown(&filter), ["+ a"]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            rule in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..30),
            pattern in "[-*?/\\[\\]!:ab\\\\^]{1,12}",
            path in "[-ab]{1,3}(/[]ab\\[]{1,3}){0,3}",
        ) {
            let _ = Filter::parse([&rule[..]]);
            let mut filter = Filter::default();
            let _ = filter.add_file(&rule, true);
            filter.add_exclude(pattern.as_bytes()).ok();
            let path = lsync_protocol::path::RelPath::new(path.into_bytes()).unwrap();
            for filter in [filter.clone(), filter.at_root(b"/a/b")] {
                let verdict = filter.verdict_deep(&path, true);
                // What holds for every directory above and for the name holds for the whole.
                if filter.verdict(&path, true).sent && path.depth() == 1 {
                    proptest::prop_assert!(verdict.sent);
                }
            }
        }
    }
}
