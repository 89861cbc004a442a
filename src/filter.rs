//! rsync's filter rules: which names are mirrored, which are left alone on the target.
//!
//! The rules stand in order and the first that matches a name decides; a name that none matches
//! is mirrored. A directory that is not sent is not entered, so nothing in it is sent either.
//! Rules have two sides, as rsync's: what they *send*, and what they let be *deleted* on the
//! target. `- x` does both: it neither sends `x` nor deletes it.
//!
//! A `dir-merge` rule stands for the rules of a file in each directory. What these files say is
//! [compiled](Filter::compile) and [learned](Filter::learn) directory by directory, by whoever can
//! read them; what was not learned of a directory is taken to be without rules of its own.
//!
//! Pure: files of rules are read by the caller. Names are bytes.

use lsync_protocol::path::RelPath;

#[cfg(test)]
mod against_rsync;
mod local;
mod merge;
mod parse;
mod pattern;
mod rule;

use local::Local;
use merge::DirMerge;
use rule::{Modifiers, Sides};

pub use local::DirRules;
pub use merge::{Above, CvsIgnore, Nothing, Outside};
pub use parse::{BadRule, Why};
pub use rule::{Origin, Rule};

/// The rules of one mirror, in order; the first that matches decides. A clone has its own
/// knowledge of what directories say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    lines: Vec<Line>,
    /// The files in directories that `dir-merge` rules speak of.
    merges: Vec<DirMerge>,
    /// What they say.
    local: Local,
    /// Rules that name no side only decide what is sent (`--delete-excluded`).
    delete_excluded: bool,
    /// The absolute path of the source without its first slash and with one at its end: what
    /// rules with the modifier `/` match against.
    above: Vec<u8>,
}

/// One place in the order of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Rule(Rule),
    /// The rules of the files of this [`DirMerge`].
    Merge(usize),
}

/// What the rules say about one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It is mirrored.
    pub sent: bool,
    /// It may be deleted on the target when it is not mirrored or not there.
    pub deletable: bool,
    /// It may be deleted together with its directory: perishable rules do not count then.
    pub deletable_with_dir: bool,
}

impl Verdict {
    /// What holds where no rule matches.
    const OPEN: Verdict = Verdict { sent: true, deletable: true, deletable_with_dir: true };
}

/// What a rule that matches has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decided {
    Sent,
    Deletable,
    WithDir,
}

/// Why a name is mirrored or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What the rules say.
    pub verdict: Verdict,
    /// The rule that decided whether it is sent; `None`: no rule matches, it is.
    pub rule: Option<RuleThere>,
    /// The rule that decided whether it may be deleted.
    pub delete_rule: Option<RuleThere>,
}

/// A rule, and what it matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleThere {
    /// The rule; its text and where it came from.
    pub rule: Rule,
    /// The name it matched: the one asked for, or a directory above it.
    pub path: RelPath,
}

/// Hears which rule decided what, and of which name.
type By<'a> = &'a mut dyn FnMut(Decided, &Rule, &[u8]);

/// What has been decided about a name so far, rule by rule.
struct Open {
    verdict: Verdict,
    sent: bool,
    deletable: bool,
    with_dir: bool,
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

    /// This name in the root is no part of the mirror, whatever the rules say: it is neither sent nor
    /// deleted.
    #[must_use]
    pub fn without(mut self, name: &[u8], origin: Origin) -> Filter {
        let wild = |b: &u8| b"*?[".contains(b);
        let mut pattern = b"/".to_vec();
        for byte in name {
            // A backslash means itself where nothing else means something.
            if wild(byte) || *byte == b'\\' && name.iter().any(wild) {
                pattern.push(b'\\');
            }
            pattern.push(*byte);
        }
        let rule = Rule::new(false, Sides::Both, Modifiers::default(), &pattern, origin);
        self.lines.insert(0, Line::Rule(rule));
        self
    }

    /// Are there no rules?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The rules, in order, as a person would write them; they can be parsed again.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().map(|line| match line {
            Line::Rule(rule) => rule.text(),
            Line::Merge(merge) => self.merges[*merge].text(),
        })
    }

    /// Drops all rules so far.
    fn clear(&mut self) {
        self.lines.clear();
        self.merges.clear();
    }

    /// What the rules say about `path` itself. The caller came from the root and knows that every
    /// directory above it is sent; the root itself is always.
    #[must_use]
    pub fn verdict(&self, path: &RelPath, is_dir: bool) -> Verdict {
        self.decide(path.as_bytes(), is_dir, &mut |_, _| {})
    }

    /// What the rules say about `path` when nothing is known of the directories above it. It is
    /// not sent when one of them is not, and not deletable when it is in a directory that is
    /// neither sent nor deletable.
    #[must_use]
    pub fn verdict_deep(&self, path: &RelPath, is_dir: bool) -> Verdict {
        self.deep(path, is_dir, &mut |_, _, _| {})
    }

    /// Which rules decide about `path`, as [`Filter::verdict_deep`] does.
    #[must_use]
    pub fn decision(&self, path: &RelPath, is_dir: bool) -> Decision {
        let (mut rule, mut delete_rule) = (None, None);
        let verdict = self.deep(path, is_dir, &mut |decided, by: &Rule, at: &[u8]| {
            let path = RelPath::new(at).ok();
            let there = path.map(|path| RuleThere { rule: by.clone(), path });
            match decided {
                Decided::Sent => rule = there,
                Decided::Deletable | Decided::WithDir => delete_rule = there,
            }
        });
        Decision { verdict, rule, delete_rule }
    }

    /// [`Filter::verdict_deep`], and which rule decided what of the name asked for.
    fn deep(&self, path: &RelPath, is_dir: bool, by: By<'_>) -> Verdict {
        if self.lines.is_empty() {
            return Verdict::OPEN;
        }
        let bytes = path.as_bytes();
        // A directory above is held back; what is beneath it can only be deleted together with it.
        let mut held_back = false;
        for (at, _) in bytes.iter().enumerate().filter(|&(_, &b)| b == b'/') {
            let dir = &bytes[..at];
            let above = self.decide(dir, true, &mut |_, _| {});
            let stays = match held_back {
                false if above.sent => continue,
                false => !above.deletable,
                true => !above.deletable_with_dir,
            };
            let with_dir = held_back;
            if !held_back || stays {
                self.decide(dir, true, &mut |decided, rule| match decided {
                    Decided::Sent if !with_dir => by(Decided::Sent, rule, dir),
                    Decided::Deletable if stays && !with_dir => by(decided, rule, dir),
                    Decided::WithDir if stays && with_dir => by(decided, rule, dir),
                    _ => {}
                });
            }
            held_back = true;
            if stays {
                return Verdict { sent: false, deletable: false, deletable_with_dir: false };
            }
        }
        let mut verdict = self.decide(bytes, is_dir, &mut |decided, rule| match decided {
            Decided::Sent if !held_back => by(decided, rule, bytes),
            Decided::Deletable if !held_back => by(decided, rule, bytes),
            Decided::WithDir if held_back => by(decided, rule, bytes),
            _ => {}
        });
        if held_back {
            verdict.sent = false;
            verdict.deletable = verdict.deletable_with_dir;
        }
        verdict
    }

    fn decide(&self, path: &[u8], is_dir: bool, by: &mut dyn FnMut(Decided, &Rule)) -> Verdict {
        let mut open = Open { verdict: Verdict::OPEN, sent: true, deletable: true, with_dir: true };
        if path.is_empty() {
            return open.verdict;
        }
        let local = (!self.merges.is_empty()).then(|| self.local.read());
        for line in &self.lines {
            match line {
                Line::Rule(rule) => {
                    let matches = || rule.matches(&self.above, path, 0, is_dir);
                    open.ask(rule, self.delete_excluded, matches, by);
                }
                Line::Merge(at) => {
                    let Some(local) = &local else { continue };
                    self.ask_files(*at, local, (path, is_dir), &mut open, by);
                }
            }
            if !(open.sent || open.deletable || open.with_dir) {
                break;
            }
        }
        open.verdict
    }

    /// The rules of the files of one `dir-merge`: those in the directory of the name, then those
    /// that it inherits.
    fn ask_files(
        &self,
        at: usize,
        local: &local::Known,
        (path, is_dir): (&[u8], bool),
        open: &mut Open,
        by: &mut dyn FnMut(Decided, &Rule),
    ) {
        let merge = &self.merges[at];
        let mut end = path.iter().rposition(|&b| b == b'/');
        loop {
            let dir = end.map_or(&b""[..], |end| &path[..end]);
            if let Some(list) = local.get(dir).and_then(|rules| rules.lists.get(at)) {
                let base = end.map_or(0, |end| end + 1);
                for rule in &list.rules {
                    let matches = || rule.matches(&self.above, path, base, is_dir);
                    open.ask(rule, self.delete_excluded, matches, by);
                }
                if list.cleared {
                    return;
                }
            }
            if !merge.inherits() {
                return;
            }
            let Some(was) = end else { break };
            end = path[..was].iter().rposition(|&b| b == b'/');
        }
        for (dir, list) in &merge.above {
            for rule in &list.rules {
                let matches = || rule.matches_from_above(&self.above, *dir, path, is_dir);
                open.ask(rule, self.delete_excluded, matches, by);
            }
            if list.cleared {
                return;
            }
        }
    }
}

impl Open {
    /// Asks a rule about what is still undecided.
    fn ask(
        &mut self,
        rule: &Rule,
        delete_excluded: bool,
        matches: impl FnOnce() -> bool,
        by: &mut dyn FnMut(Decided, &Rule),
    ) {
        let (sends, deletes) = rule.sides(delete_excluded);
        let sends = self.sent && sends;
        let with_dir = self.with_dir && deletes && !rule.is_perishable();
        let deletes = self.deletable && deletes;
        if !(sends || deletes || with_dir) || !matches() {
            return;
        }
        if sends {
            self.verdict.sent = rule.includes();
            self.sent = false;
            by(Decided::Sent, rule);
        }
        if deletes {
            self.verdict.deletable = rule.includes();
            self.deletable = false;
            by(Decided::Deletable, rule);
        }
        if with_dir {
            self.verdict.deletable_with_dir = rule.includes();
            self.with_dir = false;
            by(Decided::WithDir, rule);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &[&str]) -> Filter {
        Filter::parse(rules.iter().map(|r| r.as_bytes())).unwrap()
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
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
    fn a_name_can_be_left_out_whatever_the_rules_say() {
        for name in [".trash", "a*b", "[x]", "a\\b", "a\\*", "-x !"] {
            let rules = filter(&["!", "+ *", "R *"]).delete_excluded(true);
            let rules = rules.without(name.as_bytes(), Origin::given("--trash"));
            for (path, expected) in [
                (name.to_owned(), "--"),
                (format!("{name}/"), "--"),
                (format!("{name}/a"), "--"),
                (format!("d/{name}"), "sd"),
                ("axb".to_owned(), "sd"),
                ("x".to_owned(), "sd"),
            ] {
                assert_eq!(says(&rules, &path), expected, "{name}: {path}");
            }
            let again = Filter::parse(rules.texts()).unwrap().delete_excluded(true);
            assert_eq!(says(&again, name), "--", "{name}");
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
    fn the_rules_that_decide_are_named() {
        let mut filter = filter(&["+ *.c", "-,s /x\n*", "P keep", "- d/"]);
        let file = Origin::File { name: b"rules"[..].into(), line: 0 };
        filter.add_file(b"# mine\n\n*.o\nq\n", false, &file).unwrap();
        let rules = filter.compile(&path("m"), |_| None).unwrap();
        assert_eq!(rules, None, "there is nothing to be read");
        let shown = |there: Option<RuleThere>| {
            there.map_or("-".to_owned(), |t| format!("{} ({}) {}", t.rule, t.rule.origin(), t.path))
        };
        // Name, sent, the rule for that, deletable, the rule for that.
        let table = [
            ("a.c", true, "+ *.c (--filter) a.c", true, "+ *.c (--filter) a.c"),
            ("x\ny/z.h", false, "H /x\\n* (--filter) x\\ny", true, "-"),
            (
                "x\ny/keep",
                false,
                "H /x\\n* (--filter) x\\ny",
                false,
                "P keep (--filter) x\\ny/keep",
            ),
            ("d/keep/z", false, "- d/ (--filter) d", false, "- d/ (--filter) d"),
            ("e/f.o", false, "- *.o (rules:3) e/f.o", false, "- *.o (rules:3) e/f.o"),
            ("keep", true, "-", false, "P keep (--filter) keep"),
            ("z", true, "-", true, "-"),
        ];
        for (name, sent, by, deletable, delete_by) in table {
            let decision = filter.decision(&path(name), false);
            assert_eq!(
                (decision.verdict.sent, shown(decision.rule)),
                (sent, by.to_owned()),
                "{name}"
            );
            let deletes = (decision.verdict.deletable, shown(decision.delete_rule));
            assert_eq!(deletes, (deletable, delete_by.to_owned()), "{name}");
        }
        assert!(filter.verdict(&path("x\ny/z"), false).sent, "only the name itself was asked for");
    }

    #[test]
    fn nothing_is_asked_of_directories_without_such_rules() {
        assert!(Filter::default().is_empty());
        assert!(!filter(&["- a"]).is_empty());
        assert!(!filter(&["- a"]).reads_directories());
        assert!(!filter(&[": .r", "!", "- a"]).reads_directories());
        let filter = filter(&[": .r", ":n- .s", ":e .r"]);
        assert_eq!(filter.rule_files(), [b".r", b".s"]);
        assert!(filter.is_rule_file(&path("a/.r")) && !filter.is_rule_file(&path("a/.r/b")));
    }
}
