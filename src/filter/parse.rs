//! The words of rsync's filter rules: short and long names, modifiers, patterns.

use lsync_protocol::path::Escaped;

use super::merge::{Merge, Nothing, Template};
use super::rule::{Modifiers, Rule, Sides};
use super::{Filter, Line, Origin};

/// The longest rule: longer than any path that a rule could match.
const MAX_RULE: usize = 64 * 1024;

/// A rule that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRule {
    /// The rule as it was given.
    pub rule: Vec<u8>,
    /// What is wrong with it.
    pub why: Why,
    /// Where it stood, if that is a file.
    pub place: Option<Origin>,
}

impl BadRule {
    pub(super) fn new(rule: &[u8], why: Why) -> BadRule {
        BadRule { rule: rule.to_vec(), why, place: None }
    }

    pub(super) fn at(mut self, origin: &Origin) -> BadRule {
        if matches!(origin, Origin::File { .. }) {
            self.place = Some(origin.clone());
        }
        self
    }
}

impl std::fmt::Display for BadRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bad filter rule '{}'", Escaped(&self.rule))?;
        if let Some(place) = &self.place {
            write!(f, " in {place}")?;
        }
        write!(f, ": {}", self.why)
    }
}

impl std::error::Error for BadRule {}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It does not begin with the name of a rule.
    #[error("it must begin with one of + - P R H S . : !")]
    Unknown,
    /// A rule without a pattern.
    #[error("the pattern is missing")]
    NoPattern,
    /// A rule that reads a file, without its name.
    #[error("the name of a file is missing")]
    NoFile,
    /// A letter that is no modifier of this rule.
    #[error("'{0}' is not a modifier of this rule")]
    Modifier(char),
    /// No space between the name with its modifiers and the pattern.
    #[error("there must be a space before the pattern")]
    NoSpace,
    /// `!` with something behind it.
    #[error("nothing may follow !")]
    AfterClear,
    /// A rule with sides in a file whose rule names the sides.
    #[error("the rule that reads this file says already which side is meant")]
    Sides,
    /// A rule that reads a file, in a file that is read in each directory.
    #[error("what is read in each directory may not name other files yet")]
    Nested,
    /// The file of a `dir-merge` in another directory.
    #[error("a file that is read in each directory is a name, or a name behind one slash")]
    Slashes,
    /// What it names cannot be read.
    #[error("{0}")]
    Unread(String),
    /// Files name files without end.
    #[error("files of rules name each other without end")]
    TooDeep,
    /// Rules about extended attributes.
    #[error("rules for extended attributes are not there yet")]
    XattrsNotYet,
    /// Longer than any path.
    #[error("it is too long")]
    TooLong,
}

/// One rule as it was read.
#[derive(Debug)]
pub(super) enum Parsed {
    Rule(Rule),
    /// `!`: what stood before does not count.
    Clear,
    /// It names a file.
    Merge(Merge),
    /// `-C`: rsync's list of what CVS ignores, read like this.
    Cvs(Template),
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

    /// `--filter RULE` that needs nothing from outside.
    ///
    /// # Errors
    /// [`BadRule`] when it cannot be understood, or names a file to be read.
    pub fn add_rule(&mut self, rule: &[u8]) -> Result<(), BadRule> {
        self.read_rule(rule, &Origin::given("--filter"), &mut Nothing)
    }

    /// `--exclude PATTERN`. As rsync's it also takes `- PATTERN`, `+ PATTERN` and `!`.
    ///
    /// # Errors
    /// [`BadRule`] when the pattern is missing.
    pub fn add_exclude(&mut self, pattern: &[u8], origin: &Origin) -> Result<(), BadRule> {
        self.add_pattern(pattern, false, origin)
    }

    /// `--include PATTERN`. As rsync's it also takes `- PATTERN`, `+ PATTERN` and `!`.
    ///
    /// # Errors
    /// [`BadRule`] when the pattern is missing.
    pub fn add_include(&mut self, pattern: &[u8], origin: &Origin) -> Result<(), BadRule> {
        self.add_pattern(pattern, true, origin)
    }

    fn add_pattern(&mut self, text: &[u8], include: bool, origin: &Origin) -> Result<(), BadRule> {
        match parse(text, &Template::old(include), origin)?.0 {
            Parsed::Rule(rule) => self.lines.push(Line::Rule(rule)),
            _ => self.clear(),
        }
        Ok(())
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

/// What parts words.
pub(super) fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The first rule of a text, and how much of the text it takes: all of it, unless the template
/// parts words.
pub(super) fn parse(
    text: &[u8],
    template: &Template,
    origin: &Origin,
) -> Result<(Parsed, usize), BadRule> {
    // Where the word ends that begins here.
    let word = |from: usize| {
        let white = template.words.then(|| text[from..].iter().position(|&b| is_white(b)));
        white.flatten().map_or(text.len(), |at| from + at)
    };
    let bad = |why| match text.len() > MAX_RULE {
        true => BadRule::new(&text[..80], Why::TooLong).at(origin),
        false => BadRule::new(&text[..word(0)], why).at(origin),
    };
    if text.len() > MAX_RULE && word(0) > MAX_RULE {
        return Err(bad(Why::TooLong));
    }
    let rule = |include, sides, modifiers, pattern: &[u8]| match pattern {
        [] => Err(bad(Why::NoPattern)),
        pattern => Ok(Parsed::Rule(Rule::new(include, sides, modifiers, pattern, origin.clone()))),
    };
    let given = template.sides.unwrap_or(Sides::Open);
    if let Some(include) = template.patterns {
        let end = word(0);
        let parsed = match &text[..end] {
            b"!" if template.clears => Parsed::Clear,
            [b'-', b' ', rest @ ..] if template.prefixes => {
                rule(false, given, template.modifiers, rest)?
            }
            [b'+', b' ', rest @ ..] if template.prefixes => {
                rule(true, given, template.modifiers, rest)?
            }
            pattern => rule(include, given, template.modifiers, pattern)?,
        };
        return Ok((parsed, end));
    }
    let head = head(text, template.words).map_err(bad)?;
    // The name or the pattern: where it begins and ends.
    let from = (head.end + 1).min(text.len());
    let end = word(from);
    let behind = &text[from..end];
    let parsed = match head.letter {
        b'!' if head.end == text.len() || template.words => return Ok((Parsed::Clear, head.end)),
        b'!' => return Err(bad(Why::AfterClear)),
        _ if head.sides.is_some() && template.sides.is_some() => return Err(bad(Why::Sides)),
        b'.' | b':' => Parsed::Merge(head.merge(behind, template).ok_or_else(|| bad(Why::NoFile))?),
        letter => {
            let sides = head.sides.unwrap_or(given);
            let include = matches!(letter, b'+' | b'S' | b'R');
            let modifiers = head.with(template);
            if head.cvs {
                // What follows is passed over, as rsync does.
                let own = Template { patterns: Some(include), modifiers, ..Template::default() };
                let sides = head.sides.or(template.sides);
                let used = if template.words { head.end } else { text.len() };
                return Ok((Parsed::Cvs(Template { sides, ..own }.cvs()), used));
            }
            rule(include, sides, modifiers, behind)?
        }
    };
    Ok((parsed, end))
}

/// The name of a rule and its modifiers.
struct Head {
    letter: u8,
    modifiers: Modifiers,
    sides: Option<Sides>,
    cvs: bool,
    /// `-` or `+` on a rule that names a file.
    patterns: Option<bool>,
    excludes_itself: bool,
    stays: bool,
    words: bool,
    /// Where it ends.
    end: usize,
}

impl Head {
    /// Its modifiers, and those of the rule that names the file.
    fn with(&self, template: &Template) -> Modifiers {
        let (own, from) = (self.modifiers, template.modifiers);
        Modifiers {
            absolute: own.absolute || from.absolute,
            perishable: own.perishable || from.perishable,
            ..own
        }
    }

    /// As a rule that names a file; `None` where the name is missing.
    fn merge(&self, name: &[u8], template: &Template) -> Option<Merge> {
        let name: &[u8] = match name {
            [] if self.cvs => b".cvsignore",
            [] => return None,
            name => name,
        };
        let sides = self.sides.or(template.sides);
        let mut read = Template {
            patterns: self.patterns,
            words: self.words,
            sides,
            modifiers: self.with(template),
            ..Template::default()
        };
        if self.cvs {
            read = read.cvs();
        }
        let mut text = vec![self.letter];
        let letters = [
            (self.patterns == Some(false) && !self.cvs, b'-'),
            (self.patterns == Some(true), b'+'),
            (self.cvs, b'C'),
            (self.excludes_itself, b'e'),
            (self.stays && !self.cvs, b'n'),
            (self.words && !self.cvs, b'w'),
            (matches!(sides, Some(Sides::Sender | Sides::Both)), b's'),
            (matches!(sides, Some(Sides::Receiver | Sides::Both)), b'r'),
        ];
        text.extend(letters.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter));
        read.modifiers.write(&mut text);
        text.push(b' ');
        text.extend_from_slice(name);
        Some(Merge {
            name: name.to_vec(),
            per_directory: self.letter == b':',
            template: read,
            inherits: !(self.stays || self.cvs),
            excludes_itself: self.excludes_itself,
            text,
        })
    }
}

fn head(text: &[u8], words: bool) -> Result<Head, Why> {
    let long = NAMES.iter().find_map(|(name, letter)| {
        let rest = text.strip_prefix(*name)?;
        let ends = rest.first().is_none_or(|&b| is_space(b) || b == b',' || is_white(b));
        ends.then_some((*letter, name.len()))
    });
    let (letter, mut from) = match long {
        Some(found) => found,
        None => (*text.first().ok_or(Why::NoPattern)?, 1),
    };
    if !b"-+HSPR.:!".contains(&letter) {
        return Err(Why::Unknown);
    }
    if text.get(from) == Some(&b',') {
        from += 1;
    }
    let ends = |&b: &u8| is_space(b) || (words && is_white(b));
    let end = text[from..].iter().position(ends).map_or(text.len(), |at| from + at);
    let mut head = Head {
        letter,
        modifiers: Modifiers::default(),
        sides: match letter {
            b'H' | b'S' => Some(Sides::Sender),
            b'P' | b'R' => Some(Sides::Receiver),
            _ => None,
        },
        cvs: false,
        patterns: None,
        excludes_itself: false,
        stays: false,
        words: false,
        end,
    };
    if letter == b'!' {
        return if end == from { Ok(head) } else { Err(Why::AfterClear) };
    }
    let reads = matches!(letter, b'.' | b':');
    let side_is_free = head.sides.is_none();
    for &byte in &text[from..end] {
        match byte {
            b'/' => head.modifiers.absolute = true,
            b'!' if !reads => head.modifiers.negated = true,
            b'p' => head.modifiers.perishable = true,
            b's' | b'r' if side_is_free => {
                let side = if byte == b's' { Sides::Sender } else { Sides::Receiver };
                let other = head.sides.is_some_and(|sides| sides != side);
                head.sides = Some(if other { Sides::Both } else { side });
            }
            b'C' if side_is_free && !(reads && head.patterns.is_some()) => head.cvs = true,
            b'-' | b'+' if reads && head.patterns.is_none() && !head.cvs => {
                head.patterns = Some(byte == b'+');
            }
            b'e' if reads => head.excludes_itself = true,
            b'n' if reads => head.stays = true,
            b'w' if reads => head.words = true,
            b'x' => return Err(Why::XattrsNotYet),
            other if end == text.len() || !other.is_ascii_graphic() => return Err(Why::NoSpace),
            other => return Err(Why::Modifier(char::from(other))),
        }
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by() -> Origin {
        Origin::given("--exclude")
    }

    fn shown(filter: &Filter) -> Vec<String> {
        filter.texts().map(|text| Escaped(text).to_string()).collect()
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
            ("-sr a", "-sr a"),
            ("-rs! a", "-!sr a"),
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
            ("x a", "bad filter rule 'x a': it must begin with one of + - P R H S . : !"),
            (
                "excluded a",
                "bad filter rule 'excluded a': it must begin with one of + - P R H S . : !",
            ),
            ("-", "bad filter rule '-': the pattern is missing"),
            ("- ", "bad filter rule '- ': the pattern is missing"),
            ("exclude", "bad filter rule 'exclude': the pattern is missing"),
            ("-s", "bad filter rule '-s': the pattern is missing"),
            ("-*.o", "bad filter rule '-*.o': there must be a space before the pattern"),
            ("-q a", "bad filter rule '-q a': 'q' is not a modifier of this rule"),
            ("P,s a", "bad filter rule 'P,s a': 's' is not a modifier of this rule"),
            ("! a", "bad filter rule '! a': nothing may follow !"),
            ("clear a", "bad filter rule 'clear a': nothing may follow !"),
            (":", "bad filter rule ':': the name of a file is missing"),
            ("dir-merge", "bad filter rule 'dir-merge': the name of a file is missing"),
            (":C+", "bad filter rule ':C+': there must be a space before the pattern"),
            (":+- f", "bad filter rule ':+- f': '-' is not a modifier of this rule"),
            (":! f", "bad filter rule ':! f': '!' is not a modifier of this rule"),
            ("-e f", "bad filter rule '-e f': 'e' is not a modifier of this rule"),
            ("PC f", "bad filter rule 'PC f': 'C' is not a modifier of this rule"),
            (
                ": a/b",
                "bad filter rule ': a/b': a file that is read in each directory is a name, or a name behind one slash",
            ),
            (
                ": d/",
                "bad filter rule ': d/': a file that is read in each directory is a name, or a name behind one slash",
            ),
            (": /.rules", "bad filter rule ': /.rules': no file of rules can be read here"),
            ("merge f", "bad filter rule 'merge f': no file of rules can be read here"),
            (
                "-x user.*",
                "bad filter rule '-x user.*': rules for extended attributes are not there yet",
            ),
            (
                "\u{1b}[2J",
                "bad filter rule '\\x1b[2J': it must begin with one of + - P R H S . : !",
            ),
        ];
        for (rule, expected) in table {
            let error = Filter::parse([rule.as_bytes()]).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let long = vec![b'a'; MAX_RULE + 1];
        assert_eq!(Filter::parse([&long[..]]).unwrap_err().why, Why::TooLong);
        assert_eq!(Filter::default().add_exclude(&long, &by()).unwrap_err().why, Why::TooLong);
    }

    #[test]
    fn patterns_may_carry_the_old_prefixes() {
        let mut filter = Filter::default();
        for pattern in ["a", "+ b", "- c", "-d", "! e", "P f"] {
            filter.add_exclude(pattern.as_bytes(), &by()).unwrap();
        }
        filter.add_include(b"g", &by()).unwrap();
        filter.add_include(b"- h", &by()).unwrap();
        assert_eq!(shown(&filter), ["- a", "+ b", "- c", "- -d", "- ! e", "- P f", "+ g", "- h"]);
        filter.add_exclude(b"!", &by()).unwrap();
        assert!(filter.is_empty());
        for bad in ["", "- ", "+ "] {
            assert_eq!(filter.add_exclude(bad.as_bytes(), &by()).unwrap_err().why, Why::NoPattern);
        }
        filter.add_rule(b"- a").unwrap();
        filter.add_rule(b"clear").unwrap();
        assert!(filter.is_empty());
    }

    #[test]
    fn a_file_holds_a_pattern_a_line() {
        let mut filter = Filter::default();
        filter
            .add_file(b"# made by hand\n\n; old\n*.o\r\n+ /keep\n #x\n\xff", false, &by())
            .unwrap();
        assert_eq!(shown(&filter), ["- *.o", "+ /keep", "-  #x", "- \\xff"]);
        filter.add_file(b"!\na\n", true, &by()).unwrap();
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
            let _ = filter.add_file(&rule, true, &by());
            filter.add_exclude(pattern.as_bytes(), &by()).ok();
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
