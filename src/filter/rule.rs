//! One rule: what it matches, what it decides, and where it came from.

use std::fmt;
use std::sync::Arc;

use lsync_protocol::path::Escaped;

use super::pattern::Pattern;

/// One rule.
#[derive(Clone, PartialEq, Eq)]
pub struct Rule {
    /// It lets a name through (`+`, `S`, `R`) or holds it back (`-`, `H`, `P`).
    include: bool,
    sides: Sides,
    modifiers: Modifiers,
    pattern: Pattern,
    /// As a person would write it.
    text: Box<[u8]>,
    origin: Origin,
}

/// Where a rule stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Given by this option or key.
    Given(Arc<str>),
    /// In a file.
    File {
        /// As it was named, or its path beneath the source.
        name: Arc<[u8]>,
        /// Which line, from 1.
        line: u32,
    },
    /// In rsync's list of what CVS ignores.
    Cvs,
}

impl Origin {
    /// Given by an option or a key.
    #[must_use]
    pub fn given(by: &str) -> Origin {
        Origin::Given(by.into())
    }
}

/// `--exclude`, or `d/.rules:3`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Given(by) => f.write_str(by),
            Origin::File { name, line } => write!(f, "{}:{line}", Escaped(name)),
            Origin::Cvs => f.write_str("what CVS ignores"),
        }
    }
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sides {
    /// Both, unless `--delete-excluded` takes the deletions from it.
    Open,
    /// Both, as the rule says itself.
    Both,
    /// What is sent: `H` and `S`.
    Sender,
    /// What may be deleted: `P` and `R`.
    Receiver,
}

/// What stands behind the name of a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Modifiers {
    /// Matches what its pattern does not.
    pub(super) negated: bool,
    /// Matches against the absolute path on this host.
    pub(super) absolute: bool,
    /// Falls when the directory that its name is in is deleted.
    pub(super) perishable: bool,
}

impl Modifiers {
    /// Adds the letters of those that are set.
    pub(super) fn write(self, text: &mut Vec<u8>) {
        for (set, letter) in [(self.negated, b'!'), (self.absolute, b'/'), (self.perishable, b'p')]
        {
            if set {
                text.push(letter);
            }
        }
    }
}

impl Rule {
    pub(super) fn new(
        include: bool,
        sides: Sides,
        modifiers: Modifiers,
        pattern: &[u8],
        origin: Origin,
    ) -> Rule {
        let mut text: Vec<u8> = vec![match (sides, include) {
            (Sides::Open | Sides::Both, true) => b'+',
            (Sides::Open | Sides::Both, false) => b'-',
            (Sides::Sender, true) => b'S',
            (Sides::Sender, false) => b'H',
            (Sides::Receiver, true) => b'R',
            (Sides::Receiver, false) => b'P',
        }];
        modifiers.write(&mut text);
        if sides == Sides::Both {
            text.extend_from_slice(b"sr");
        }
        text.push(b' ');
        text.extend_from_slice(pattern);
        let pattern = Pattern::new(pattern);
        Rule { include, sides, modifiers, pattern, text: text.into(), origin }
    }

    /// As a person would write it, `- *.o`; it can be parsed again.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Where it stood.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn includes(&self) -> bool {
        self.include
    }

    pub(super) fn is_perishable(&self) -> bool {
        self.modifiers.perishable
    }

    /// Does it decide what is sent, and what may be deleted?
    pub(super) fn sides(&self, delete_excluded: bool) -> (bool, bool) {
        match self.sides {
            Sides::Open => (true, !delete_excluded),
            Sides::Both => (true, true),
            Sides::Sender => (true, false),
            Sides::Receiver => (false, true),
        }
    }

    /// Does it match this path beneath the source, whose absolute path is `above`? What is
    /// anchored begins at `base`, where the directory that the rule stands in ends.
    pub(super) fn matches(&self, above: &[u8], path: &[u8], base: usize, is_dir: bool) -> bool {
        if self.modifiers.absolute {
            self.held_against(above, path, is_dir)
        } else if self.pattern.anchored {
            self.held_against(b"", &path[base..], is_dir)
        } else {
            self.held_against(b"", path, is_dir)
        }
    }

    /// The same for a rule in a directory above the source: the first `base` bytes of `above`.
    pub(super) fn matches_from_above(
        &self,
        above: &[u8],
        base: usize,
        path: &[u8],
        is_dir: bool,
    ) -> bool {
        if self.pattern.anchored && !self.modifiers.absolute {
            self.held_against(&above[base..], path, is_dir)
        } else {
            self.matches(above, path, 0, is_dir)
        }
    }

    fn held_against(&self, before: &[u8], path: &[u8], is_dir: bool) -> bool {
        let kind_fits = is_dir || !self.pattern.only_dirs;
        (kind_fits && self.pattern.matches(before, path, is_dir)) != self.modifiers.negated
    }
}

/// As a person would write it, `- *.o`, with what is not text escaped.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.text))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({self})")
    }
}
