//! Files of rules: how they are split, what their rules take from the rule that names the file, and
//! rsync's list of what CVS ignores.

use super::parse::{BadRule, Parsed, Why, is_white, parse};
use super::rule::{Modifiers, Rule, Sides};
use super::{Filter, Line, Origin};

/// A file that names itself is not read for ever.
const DEPTH_MAX: u32 = 32;

/// What rsync's list of what CVS ignores holds.
const CVS: &str = "RCS SCCS CVS CVS.adm RCSLOG cvslog.* tags TAGS .make.state .nse_depinfo *~ #* .#* \
    ,* _$* *$ *.old *.bak *.BAK *.orig *.rej .del-* *.a *.olb *.o *.obj *.so *.exe *.Z *.elc *.ln \
    core .svn/ .git/ .hg/ .bzr/";

/// What is in a user's surroundings for CVS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CvsIgnore {
    /// `$HOME/.cvsignore`: its name and content.
    pub home: Option<(Vec<u8>, Vec<u8>)>,
    /// `$CVSIGNORE`.
    pub variable: Option<Vec<u8>>,
}

/// A file of rules above the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Above {
    /// Its path.
    pub name: Vec<u8>,
    /// How many bytes of the source's path, without its first slash, lead to its directory, with
    /// the slash behind it.
    pub end: usize,
    /// What it says.
    pub content: Vec<u8>,
}

/// What rules ask for from outside while they are read.
pub trait Outside {
    /// The content of a file that a rule names.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn file(&mut self, name: &[u8]) -> Result<Vec<u8>, String>;

    /// What is in the user's surroundings for CVS.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn cvs(&mut self) -> Result<CvsIgnore, String>;

    /// The files of this name in the directories above the source, the nearest first. For
    /// `dir-merge /name`.
    ///
    /// # Errors
    /// Why one cannot be read.
    fn above(&mut self, name: &[u8]) -> Result<Vec<Above>, String>;
}

/// Rules that need nothing from outside.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Outside for Nothing {
    fn file(&mut self, _: &[u8]) -> Result<Vec<u8>, String> {
        Err("no file of rules can be read here".to_owned())
    }

    fn cvs(&mut self) -> Result<CvsIgnore, String> {
        Ok(CvsIgnore::default())
    }

    fn above(&mut self, _: &[u8]) -> Result<Vec<Above>, String> {
        Err("no file of rules can be read here".to_owned())
    }
}

/// What the rules of a file take from the rule that names the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Template {
    /// The file holds patterns alone, of this kind.
    pub(super) patterns: Option<bool>,
    /// Patterns may begin with `- ` or `+ ` and `!` clears, as `--exclude-from` has it.
    pub(super) prefixes: bool,
    /// `!` clears (`C`).
    pub(super) clears: bool,
    /// Split at any white space, without comments (`w`).
    pub(super) words: bool,
    pub(super) sides: Option<Sides>,
    pub(super) modifiers: Modifiers,
}

impl Template {
    /// What a file of `--exclude-from` (or `--include-from`) is read as, and a pattern by itself.
    pub(super) fn old(include: bool) -> Template {
        Template { patterns: Some(include), prefixes: true, clears: true, ..Template::default() }
    }

    /// How CVS writes its files.
    pub(super) fn cvs(self) -> Template {
        let patterns = Some(self.patterns.unwrap_or(false));
        Template { patterns, clears: true, words: true, ..self }
    }
}

/// Rules of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) rules: Vec<Rule>,
    /// What is inherited does not count.
    pub(super) cleared: bool,
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && !self.cleared
    }
}

/// A `dir-merge` rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirMerge {
    name: Vec<u8>,
    template: Template,
    inherits: bool,
    text: Vec<u8>,
    /// What the files above the source say, from the nearest on: where each directory ends in the
    /// source's path, and its rules.
    pub(super) above: Vec<(usize, List)>,
}

impl DirMerge {
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn inherits(&self) -> bool {
        self.inherits
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The rules of one of its files.
    pub(super) fn read(&self, content: &[u8], origin: &Origin) -> Result<List, BadRule> {
        let mut list = List::default();
        each(content, &self.template, origin, &mut |parsed, rule, origin| {
            match parsed {
                Parsed::Rule(rule) => list.rules.push(rule),
                Parsed::Clear => {
                    list.rules.clear();
                    list.cleared = true;
                }
                Parsed::Merge(_) | Parsed::Cvs(_) => {
                    return Err(BadRule::new(rule, Why::Nested).at(origin));
                }
            }
            Ok(())
        })?;
        Ok(list)
    }
}

/// A rule that names a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) name: Vec<u8>,
    pub(super) per_directory: bool,
    pub(super) template: Template,
    /// The rules count in the directory itself alone (`n`).
    pub(super) inherits: bool,
    /// The file itself is not mirrored (`e`).
    pub(super) excludes_itself: bool,
    /// As a person would write it.
    pub(super) text: Vec<u8>,
}

/// Takes a rule, which stood so and there.
type Take<'a> = &'a mut dyn FnMut(Parsed, &[u8], &Origin) -> Result<(), BadRule>;

/// Takes the rules of a text one by one.
fn each(
    content: &[u8],
    template: &Template,
    origin: &Origin,
    take: Take<'_>,
) -> Result<(), BadRule> {
    let ends = |b: &u8| matches!(b, b'\n' | b'\r');
    let mut number = 1u32;
    for line in content.split_inclusive(ends) {
        let at = match origin {
            Origin::File { name, .. } => Origin::File { name: name.clone(), line: number },
            origin => origin.clone(),
        };
        number += u32::from(line.ends_with(b"\n"));
        let line = line.strip_suffix(b"\n").or(line.strip_suffix(b"\r")).unwrap_or(line);
        // What rsync takes for a line ends here.
        let mut rest = line.split(|&b| b == 0).next().unwrap_or_default();
        if !template.words && matches!(rest.first(), None | Some(b'#' | b';')) {
            continue;
        }
        loop {
            if template.words {
                let Some(at) = rest.iter().position(|&b| !is_white(b)) else { break };
                rest = &rest[at..];
            }
            let (parsed, used) = parse(rest, template, &at)?;
            take(parsed, &rest[..used], &at)?;
            rest = &rest[used..];
            if !template.words {
                break;
            }
        }
    }
    Ok(())
}

impl Filter {
    /// `--filter RULE`; `origin` is what gave it.
    ///
    /// # Errors
    /// [`BadRule`] when it cannot be understood, or what it names cannot be read.
    pub fn read_rule(
        &mut self,
        rule: &[u8],
        origin: &Origin,
        outside: &mut dyn Outside,
    ) -> Result<(), BadRule> {
        if rule.is_empty() {
            return Ok(());
        }
        let (parsed, _) = parse(rule, &Template::default(), origin)?;
        self.take(parsed, rule, origin, outside, 0)
    }

    /// What a file of `--exclude-from` (or `--include-from`) holds: a pattern a line, which may
    /// begin with `- ` or `+ `; `!` clears. Empty lines and those that begin with `#` or `;` are
    /// comments.
    ///
    /// # Errors
    /// [`BadRule`] with the first line that cannot be understood.
    pub fn add_file(
        &mut self,
        content: &[u8],
        include: bool,
        origin: &Origin,
    ) -> Result<(), BadRule> {
        self.read_text(content, &Template::old(include), origin, &mut Nothing, 0)
    }

    /// `--cvs-exclude`: its list stands behind all other rules.
    ///
    /// # Errors
    /// [`BadRule`] when the user's own lists cannot be read or understood.
    pub fn add_cvs(&mut self, outside: &mut dyn Outside) -> Result<(), BadRule> {
        let origin = Origin::given("--cvs-exclude");
        self.read_rule(b":C", &origin, outside)?;
        self.read_rule(b"-C", &origin, outside)
    }

    fn read_text(
        &mut self,
        content: &[u8],
        template: &Template,
        origin: &Origin,
        outside: &mut dyn Outside,
        depth: u32,
    ) -> Result<(), BadRule> {
        each(content, template, origin, &mut |parsed, rule, origin| {
            self.take(parsed, rule, origin, outside, depth)
        })
    }

    fn take(
        &mut self,
        parsed: Parsed,
        rule: &[u8],
        origin: &Origin,
        outside: &mut dyn Outside,
        depth: u32,
    ) -> Result<(), BadRule> {
        let bad = |why| BadRule::new(rule, why).at(origin);
        match parsed {
            Parsed::Rule(rule) => self.lines.push(Line::Rule(rule)),
            Parsed::Clear => self.clear(),
            Parsed::Cvs(template) => {
                let cvs = outside.cvs().map_err(|why| bad(Why::Unread(why)))?;
                // What it clears is its own.
                let mut list = Filter::default();
                let mut own = template;
                own.modifiers.perishable = true;
                list.read_text(CVS.as_bytes(), &own, &Origin::Cvs, outside, depth)?;
                if let Some((name, content)) = cvs.home {
                    let origin = Origin::File { name: name.into(), line: 0 };
                    list.read_text(&content, &template, &origin, outside, depth)?;
                }
                if let Some(content) = cvs.variable {
                    let origin = Origin::given("CVSIGNORE");
                    list.read_text(&content, &template, &origin, outside, depth)?;
                }
                self.lines.append(&mut list.lines);
            }
            Parsed::Merge(_) if depth >= DEPTH_MAX => return Err(bad(Why::TooDeep)),
            Parsed::Merge(merge) => {
                let base = merge.name.rsplit(|&b| b == b'/').next().unwrap_or_default().to_vec();
                if merge.excludes_itself {
                    let modifiers = Modifiers::default();
                    let rule = Rule::new(false, Sides::Open, modifiers, &base, origin.clone());
                    self.lines.push(Line::Rule(rule));
                }
                if merge.per_directory {
                    self.add_dir_merge(merge, base, rule, origin, outside)?;
                } else {
                    let content = outside.file(&merge.name).map_err(|why| bad(Why::Unread(why)))?;
                    let origin = Origin::File { name: merge.name.into(), line: 0 };
                    self.read_text(&content, &merge.template, &origin, outside, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn add_dir_merge(
        &mut self,
        merge: Merge,
        name: Vec<u8>,
        rule: &[u8],
        origin: &Origin,
        outside: &mut dyn Outside,
    ) -> Result<(), BadRule> {
        let bad = |why| BadRule::new(rule, why).at(origin);
        let upwards = merge.name.first() == Some(&b'/');
        if name.is_empty() || merge.name.len() != name.len() + usize::from(upwards) {
            return Err(bad(Why::Slashes));
        }
        let Merge { template, inherits, text, .. } = merge;
        let mut dir_merge = DirMerge { name, template, inherits, text, above: Vec::new() };
        if upwards {
            let files = outside.above(&dir_merge.name).map_err(|why| bad(Why::Unread(why)))?;
            for Above { name, end, content } in files {
                let list =
                    dir_merge.read(&content, &Origin::File { name: name.into(), line: 0 })?;
                dir_merge.above.push((end, list));
            }
        }
        self.merges.push(dir_merge);
        self.lines.push(Line::Merge(self.merges.len() - 1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lsync_protocol::path::RelPath;

    /// Files by name, and a user's surroundings.
    #[derive(Default)]
    struct World {
        files: Vec<(&'static str, &'static str)>,
        above: Vec<Above>,
        cvs: CvsIgnore,
    }

    impl Outside for World {
        fn file(&mut self, name: &[u8]) -> Result<Vec<u8>, String> {
            let found = self.files.iter().find(|(known, _)| known.as_bytes() == name);
            found.map(|(_, text)| text.as_bytes().to_vec()).ok_or("there is none".to_owned())
        }

        fn cvs(&mut self) -> Result<CvsIgnore, String> {
            Ok(self.cvs.clone())
        }

        fn above(&mut self, _: &[u8]) -> Result<Vec<Above>, String> {
            Ok(self.above.clone())
        }
    }

    fn read(rules: &[&str], world: &mut World) -> Result<Filter, BadRule> {
        let mut filter = Filter::default();
        for rule in rules {
            filter.read_rule(rule.as_bytes(), &Origin::given("--filter"), world)?;
        }
        Ok(filter)
    }

    fn texts(filter: &Filter) -> Vec<String> {
        filter.texts().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    }

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    /// Learns what `text` says as the one rule file of a directory.
    fn learn(filter: &Filter, dir: &str, text: &str) {
        let rules = filter.compile(&path(dir), |_| Some(text.as_bytes())).unwrap();
        filter.learn(&path(dir), rules);
    }

    #[test]
    fn a_merged_file_stands_where_its_rule_does() {
        let table: &[(&str, &str, &[&str])] = &[
            (". f", "- a\n# no\n; no\n\n+ b c\r\nP,p d\n", &["- 1", "- a", "+ b c", "Pp d", "- 2"]),
            (". f", "- a\n!\n- b\n", &["- b", "- 2"]),
            (".- f", "a\n- b\n!\n# c\n", &["- 1", "- a", "- - b", "- !", "- 2"]),
            (".+s f", "a\n", &["- 1", "S a", "- 2"]),
            (".w f", "- a + b\n\t-_c !  - d", &["- d", "- 2"]),
            (".w- f", " a #b\n", &["- 1", "- a", "- #b", "- 2"]),
            (".C f", "a ! b\nc", &["- b", "- c", "- 2"]),
            (".e x/f", "", &["- 1", "- f", "- 2"]),
            (".sr f", "- a", &["- 1", "-sr a", "- 2"]),
            ("merge,/p f", "- a", &["- 1", "-/p a", "- 2"]),
            (".s f", ": .q", &["- 1", ":s .q", "- 2"]),
            (". f", "dir-merge,n- .q\n:C", &["- 1", ":-n .q", ":C .cvsignore", "- 2"]),
            (". f", "- a\0b\n- c", &["- 1", "- a", "- c", "- 2"]),
        ];
        for (rule, text, expected) in table {
            let mut world = World { files: vec![("f", text), ("x/f", text)], ..World::default() };
            let filter = read(&["- 1", rule, "- 2"], &mut world).unwrap();
            assert_eq!(texts(&filter), *expected, "{rule} {text:?}");
            // What is shown can be read again, and is the same.
            let again = Filter::parse(filter.texts()).unwrap();
            assert_eq!(texts(&again), *expected, "{rule} {text:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_said_with_its_line() {
        let table = [
            (
                ". f",
                "- a\nzz\n",
                "bad filter rule 'zz' in f:2: it must begin with one of + - P R H S . : !",
            ),
            (
                ".s f",
                "H a",
                "bad filter rule 'H a' in f:1: the rule that reads this file says already which side is meant",
            ),
            (". f", ". g", "bad filter rule '. g' in f:1: there is none"),
            (
                ". f",
                ". f",
                "bad filter rule '. f' in f:1: files of rules name each other without end",
            ),
            (".w f", "- a\n\n-", "bad filter rule '-' in f:3: the pattern is missing"),
            (". none", "", "bad filter rule '. none': there is none"),
        ];
        for (rule, text, expected) in table {
            let mut world = World { files: vec![("f", text)], ..World::default() };
            assert_eq!(read(&[rule], &mut world).unwrap_err().to_string(), expected);
        }
        let filter = read(&[": .r"], &mut World::default()).unwrap();
        let error = filter.compile(&path("a/b"), |_| Some(b"- a\n: x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bad filter rule ': x' in a/b/.r:2: what is read in each directory may not name other files yet"
        );
    }

    #[test]
    fn what_cvs_ignores_stands_last_and_falls_with_its_directory() {
        let mut world = World::default();
        world.cvs.home = Some((b"/home/me/.cvsignore".to_vec(), b"mine".to_vec()));
        world.cvs.variable = Some(b"var *.x".to_vec());
        let mut filter = read(&["+ keep.o"], &mut world).unwrap();
        filter.add_cvs(&mut world).unwrap();
        let all = texts(&filter);
        assert_eq!(all[..4], ["+ keep.o", ":C .cvsignore", "-p RCS", "-p SCCS"]);
        assert_eq!(all[all.len() - 4..], ["-p .bzr/", "- mine", "- var", "- *.x"]);
        learn(&filter, "d", "own\n!  other");
        // Name, sent, and who says so.
        let table = [
            ("keep.o", true, "--filter"),
            ("a.o", false, "what CVS ignores"),
            ("#a", false, "what CVS ignores"),
            ("mine", false, "/home/me/.cvsignore:1"),
            ("var", false, "CVSIGNORE"),
            ("d/own", true, ""),
            ("d/other", false, "d/.cvsignore:2"),
            ("d/e/other", true, ""),
        ];
        for (name, sent, by) in table {
            let decision = filter.decision(&path(name), false);
            let origin = decision.rule.map(|there| there.rule.origin().to_string());
            assert_eq!(
                (decision.verdict.sent, origin.unwrap_or_default().as_str()),
                (sent, by),
                "{name}"
            );
        }
        let verdict = filter.verdict(&path("a.o"), false);
        assert!(!verdict.deletable && verdict.deletable_with_dir);
        let mut again = read(&["- a", "-C", "!"], &mut world).unwrap();
        assert!(again.is_empty());
        // CVS' own `!` takes what stands in its own list alone.
        world.cvs.variable = Some(b"! z".to_vec());
        again.add_rule(b"- a").unwrap();
        again.add_cvs(&mut world).unwrap();
        assert_eq!(texts(&again), ["- a", ":C .cvsignore", "- z"]);
    }

    #[test]
    fn each_directory_has_its_rules_and_those_above_it() {
        let filter = read(&["+ first", ": .r", "- last"], &mut World::default()).unwrap();
        learn(&filter, "", "- /a/x\n- y\n- first\n+ last\n");
        learn(&filter, "a", "+ y\n- /z\n- b/w\n");
        learn(&filter, "a/b", "!\n- /v\n");
        learn(&filter, "c", "- /*\n");
        let table = [
            ("x", true),
            ("a/x", false),
            ("b/a/x", true),
            ("y", false),
            ("b/y", false),
            ("a/y", true),
            ("a/e/y", true),
            ("a/z", false),
            ("z", true),
            ("a/e/z", true),
            ("a/b/y", true),
            ("a/b/w", true),
            ("a/b/v", false),
            ("a/b/c/v", true),
            ("a/e/b/w", false),
            ("first", true),
            ("last", true),
            ("a/b/last", false),
            ("c", true),
            ("c/q", false),
        ];
        for (name, sent) in table {
            assert_eq!(filter.verdict_deep(&path(name), false).sent, sent, "{name}");
        }
        // Away, renamed, unlearned.
        filter.renamed(&path("a"), &path("d"));
        assert!(filter.verdict_deep(&path("a/z"), false).sent);
        assert!(!filter.verdict_deep(&path("d/z"), false).sent);
        assert!(!filter.verdict_deep(&path("d/b/v"), false).sent);
        let other = filter.clone();
        filter.forget(&path("d"));
        assert!(filter.verdict_deep(&path("d/b/v"), false).sent);
        assert!(!other.verdict_deep(&path("d/b/v"), false).sent, "a clone has its own knowledge");
        assert!(filter.learn(&path(""), None) && !filter.learn(&path(""), None));
        assert!(
            filter.verdict(&path("y"), false).sent && !filter.verdict(&path("last"), false).sent
        );
    }

    #[test]
    fn rules_above_the_source_are_inherited() {
        let file = |name: &str, end, content: &str| Above {
            name: name.as_bytes().to_vec(),
            end,
            content: content.as_bytes().to_vec(),
        };
        let above = vec![
            file("/srv/.r", 4, "- /www/a\n- /b\n- c\n"),
            file("/.r", 0, "- /srv/www/d\n+ c\n- e\n"),
        ];
        let mut world = World { above, ..World::default() };
        let filter = read(&[": /.r"], &mut world).unwrap().at_root(b"/srv/www");
        assert_eq!(filter.rule_files(), [b".r"]);
        learn(&filter, "k", "+ e");
        let table = [
            ("a", false),
            ("x/a", true),
            ("b", true),
            ("c", false),
            ("x/c", false),
            ("d", false),
            ("e", false),
            ("k/e", true),
        ];
        for (name, sent) in table {
            assert_eq!(filter.verdict_deep(&path(name), false).sent, sent, "{name}");
        }
        let decision = filter.decision(&path("d"), false);
        assert_eq!(decision.rule.unwrap().rule.origin().to_string(), "/.r:1");
    }
}
