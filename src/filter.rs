//! rsync's filter rules: which names are mirrored, which are left alone on the target.
//!
//! The rules stand in order and the first that matches a name decides; a name that none matches
//! is mirrored. A directory that is not sent is not entered, so nothing in it is sent either.
//! Rules have two sides, as rsync's: what they *send*, and what they let be *deleted* on the
//! target. `- x` does both: it neither sends `x` nor deletes it.
//!
//! Pure: files of rules are read by the caller. Names are bytes.

use std::fmt;

use lsync_protocol::path::{Escaped, RelPath};

#[cfg(test)]
mod against_rsync;
mod parse;
mod pattern;

use pattern::Pattern;

pub use parse::{BadRule, Why};

/// The rules of one mirror, in order; the first that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    rules: Vec<Rule>,
    /// Rules that name no side only decide what is sent (`--delete-excluded`).
    delete_excluded: bool,
    /// The absolute path of the source without its first slash and with one at its end: what
    /// rules with the modifier `/` match against.
    above: Vec<u8>,
}

/// One rule.
#[derive(Clone, PartialEq, Eq)]
pub struct Rule {
    /// It lets a name through (`+`, `S`, `R`) or holds it back (`-`, `H`, `P`).
    include: bool,
    sides: Sides,
    /// Matches what its pattern does not.
    negated: bool,
    /// Matches against the absolute path on this host.
    absolute: bool,
    /// Falls when the directory that its name is in is deleted.
    perishable: bool,
    pattern: Pattern,
    /// As a person would write it.
    text: Vec<u8>,
}

/// What a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sides {
    /// Both, unless `--delete-excluded` takes the deletions from it.
    Both,
    /// What is sent: `H` and `S`.
    Sender,
    /// What may be deleted: `P` and `R`.
    Receiver,
}

/// What the rules say about one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// It is mirrored.
    pub sent: bool,
    /// It may be deleted on the target when it is not mirrored or not there.
    pub deletable: bool,
    /// It may be deleted together with its directory: perishable rules do not count then.
    pub deletable_with_dir: bool,
    /// The rule that decided whether it is sent; `None`: no rule matches, it is.
    pub rule: Option<&'a Rule>,
    /// The rule that decided whether it may be deleted.
    pub delete_rule: Option<&'a Rule>,
}

impl Verdict<'static> {
    /// What holds where no rule matches.
    const OPEN: Verdict<'static> = Verdict {
        sent: true,
        deletable: true,
        deletable_with_dir: true,
        rule: None,
        delete_rule: None,
    };
}

impl Filter {
    /// With `--delete-excluded`, rules that name no side no longer protect anything on the target.
    #[must_use]
    pub fn delete_excluded(mut self, yes: bool) -> Filter {
        self.delete_excluded = yes;
        self
    }

    /// Rules with the modifier `/` are held against absolute paths: `root` is that of the source.
    #[must_use]
    pub fn at_root(mut self, root: &[u8]) -> Filter {
        let inner = root.strip_prefix(b"/").unwrap_or(root);
        let inner = inner.strip_suffix(b"/").unwrap_or(inner);
        self.above = inner.to_vec();
        if !inner.is_empty() {
            self.above.push(b'/');
        }
        self
    }

    /// Are there no rules?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// What the rules say about `path` itself. The caller came from the root and knows that every
    /// directory above it is sent; the root itself is always.
    #[must_use]
    pub fn verdict(&self, path: &RelPath, is_dir: bool) -> Verdict<'_> {
        self.decide(path.as_bytes(), is_dir)
    }

    /// What the rules say about `path` when nothing is known of the directories above it. It is
    /// not sent when one of them is not, and not deletable when it is in a directory that is
    /// neither sent nor deletable.
    #[must_use]
    pub fn verdict_deep(&self, path: &RelPath, is_dir: bool) -> Verdict<'_> {
        if self.rules.is_empty() {
            return Verdict::OPEN;
        }
        let bytes = path.as_bytes();
        // The rule that holds a directory above back, once there is one; what is beneath it can
        // only be deleted together with it.
        let mut held_back: Option<Option<&Rule>> = None;
        for (at, _) in bytes.iter().enumerate().filter(|&(_, &b)| b == b'/') {
            let above = self.decide(&bytes[..at], true);
            let stays = match held_back {
                None if above.sent => continue,
                None => !above.deletable,
                Some(_) => !above.deletable_with_dir,
            };
            let rule = *held_back.get_or_insert(above.rule);
            if stays {
                return Verdict {
                    sent: false,
                    deletable: false,
                    deletable_with_dir: false,
                    rule,
                    delete_rule: above.delete_rule,
                };
            }
        }
        let mut verdict = self.decide(bytes, is_dir);
        if let Some(rule) = held_back {
            verdict.sent = false;
            verdict.rule = rule;
            verdict.deletable = verdict.deletable_with_dir;
        }
        verdict
    }

    /// Can the rules say something else about what is in a directory once it is called
    /// differently? If not, a rename of it needs no fresh look at its content.
    #[must_use]
    pub fn looks_at_directories(&self) -> bool {
        self.rules.iter().any(|rule| rule.pattern.looks_at_directories())
    }

    fn decide(&self, path: &[u8], is_dir: bool) -> Verdict<'_> {
        let mut verdict = Verdict::OPEN;
        if path.is_empty() {
            return verdict;
        }
        let (mut send_open, mut delete_open, mut with_dir_open) = (true, true, true);
        for rule in &self.rules {
            let (sends, deletes) = match rule.sides {
                Sides::Both => (true, !self.delete_excluded),
                Sides::Sender => (true, false),
                Sides::Receiver => (false, true),
            };
            let sends = send_open && sends;
            let with_dir = with_dir_open && deletes && !rule.perishable;
            let deletes = delete_open && deletes;
            if !(sends || deletes || with_dir) || !rule.matches(&self.above, path, is_dir) {
                continue;
            }
            if sends {
                verdict.sent = rule.include;
                verdict.rule = Some(rule);
                send_open = false;
            }
            if deletes {
                verdict.deletable = rule.include;
                verdict.delete_rule = Some(rule);
                delete_open = false;
            }
            if with_dir {
                verdict.deletable_with_dir = rule.include;
                with_dir_open = false;
            }
            if !(send_open || delete_open || with_dir_open) {
                break;
            }
        }
        verdict
    }
}

impl Rule {
    /// As a person would write it, `- *.o`; it can be parsed again.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    fn matches(&self, above: &[u8], path: &[u8], is_dir: bool) -> bool {
        let above = if self.absolute { above } else { b"" };
        let kind_fits = is_dir || !self.pattern.only_dirs;
        (kind_fits && self.pattern.matches(above, path, is_dir)) != self.negated
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

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &[&str]) -> Filter {
        Filter::parse(rules.iter().map(|r| r.as_bytes())).unwrap()
    }

    /// `sd` sent and deletable, `s-`, `-d`, `--`; deep.
    fn says(filter: &Filter, path: &str) -> String {
        let (path, is_dir) = path.strip_suffix('/').map_or((path, false), |dir| (dir, true));
        let verdict = filter.verdict_deep(&RelPath::new(path.as_bytes()).unwrap(), is_dir);
        let letter = |yes, letter| if yes { letter } else { '-' };
        [letter(verdict.sent, 's'), letter(verdict.deletable, 'd')].iter().collect()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);
        let table: &[Case<'_>] = &[
            (&[], &[("a", "sd"), ("", "sd")]),
            (&["- a"], &[("a", "--"), ("b", "sd"), ("a/b", "--"), ("x/a/b/c", "--")]),
            (&["+ a", "- *"], &[("a", "sd"), ("b", "--"), ("b/a", "--"), ("", "sd")]),
            (&["+ */", "+ *.c", "- *"], &[("x/y/z.c", "sd"), ("x/y", "--"), ("x/", "sd")]),
            (&["- *.o", "+ a.o"], &[("a.o", "--")]),
            (&["- /a/", "+ /a/b"], &[("a", "sd"), ("a/", "--"), ("a/b", "--"), ("c/a/", "sd")]),
            (&["-s a"], &[("a", "-d"), ("a/b", "-d")]),
            (&["H a"], &[("a", "-d")]),
            (&["-r a"], &[("a", "s-"), ("a/b", "sd")]),
            (&["P a"], &[("a", "s-")]),
            (&["R a", "- a"], &[("a", "-d")]),
            (&["S a", "- a"], &[("a", "s-")]),
            (&["H a", "P a"], &[("a", "--"), ("a/b", "--")]),
            (&["H a", "P a/b"], &[("a", "-d"), ("a/b", "--"), ("a/c", "-d")]),
            (&["-! */"], &[("a/", "sd"), ("a", "--")]),
            (&["-! *.c"], &[("x.c", "sd"), ("x.h", "--")]),
            (&["-p x"], &[("x", "--"), ("a/x", "--")]),
            (&["H a", "-p x"], &[("x", "--"), ("a/x", "-d")]),
            (&["H a", "-p x", "P x"], &[("x", "--"), ("a/x", "--")]),
            (&["- a/***"], &[("a/", "--"), ("a/b", "--"), ("a", "sd")]),
            (&["- a/**"], &[("a/", "sd"), ("a/b", "--")]),
        ];
        for (rules, names) in table {
            let filter = filter(rules);
            for (name, expected) in *names {
                assert_eq!(says(&filter, name), *expected, "{rules:?} {name}");
            }
        }
    }

    #[test]
    fn delete_excluded_takes_the_protection_away() {
        let rules = filter(&["- a", "P b", "-r c", "H d"]);
        for (name, before, after) in
            [("a", "--", "-d"), ("b", "s-", "s-"), ("c", "s-", "s-"), ("d", "-d", "-d")]
        {
            assert_eq!(says(&rules, name), before, "{name}");
            assert_eq!(says(&rules.clone().delete_excluded(true), name), after, "{name}");
        }
    }

    #[test]
    fn absolute_rules_know_where_the_source_is() {
        let rules = filter(&["-/ /srv/www/a", "- /b"]);
        assert_eq!(says(&rules.clone().at_root(b"/srv/www/"), "a"), "--");
        assert_eq!(says(&rules.clone().at_root(b"/srv/www"), "a"), "--");
        assert_eq!(says(&rules.clone().at_root(b"/srv"), "a"), "sd");
        assert_eq!(says(&rules.at_root(b"/srv"), "b"), "--");
        assert_eq!(says(&filter(&["-/ /a"]).at_root(b"/"), "a"), "--");
    }

    #[test]
    fn a_verdict_names_its_rule() {
        let filter = filter(&["+ *.c", "-,s /x\n*"]);
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let rule = |p: &str| filter.verdict_deep(&path(p), false).rule.map(ToString::to_string);
        assert_eq!(rule("a.c"), Some("+ *.c".to_owned()));
        assert_eq!(rule("x\ny/z.h"), Some("H /x\\n*".to_owned()));
        assert_eq!(rule("z"), None);
        assert!(filter.verdict(&path("x\ny/z"), false).sent, "only the name itself was asked for");
    }

    #[test]
    fn rules_that_look_at_directories_are_told_from_those_that_do_not() {
        assert!(!filter(&["- *.o", "+ b/"]).looks_at_directories());
        for rule in ["- /a", "- a/b", "- a**", "-/ /x"] {
            assert!(filter(&[rule]).looks_at_directories(), "{rule}");
        }
        assert!(Filter::default().is_empty());
        assert!(!filter(&["- a"]).is_empty());
    }
}
