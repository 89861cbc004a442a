//! [`RsyncOptions`]: the words between `rsync` and the source, made of named settings.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use lsync_protocol::path::Escaped;

use super::keys::{KEYS, Key, Shape};
use super::shell::RsyncShell;
use crate::error::Error;

/// A setting as a configuration file has it.
#[derive(Debug, Clone, PartialEq)]
pub enum RsyncValue {
    /// True or false.
    Bool(bool),
    /// A text, as bytes.
    Text(OsString),
    /// A number.
    Number(f64),
    /// Words.
    List(Vec<OsString>),
}

/// What rsync is called with, in Lsyncd 2's order: letters, `_extra`, long options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RsyncOptions {
    binary: Option<OsString>,
    /// The program is a user's, and may be anything that can be called as rsync is.
    wrapper: bool,
    letters: String,
    extra: Vec<OsString>,
    /// Nothing in the words depends on the working directory.
    anywhere: bool,
    long: Vec<OsString>,
    startup: Vec<OsString>,
    /// From `ssh = {…}` and the like: it stands last, so it wins over `rsh`.
    shell: Option<OsString>,
}

/// Symbolic links and times, no more, as Lsyncd 2 has it.
impl Default for RsyncOptions {
    fn default() -> Self {
        let letters = KEYS.iter().filter(|key| key.default).filter_map(|key| match key.shape {
            Shape::Letter(letter) => Some(letter),
            _ => None,
        });
        RsyncOptions {
            binary: None,
            wrapper: false,
            letters: letters.collect(),
            extra: Vec::new(),
            anywhere: true,
            long: Vec::new(),
            startup: Vec::new(),
            shell: None,
        }
    }
}

/// What `archive` turns on where its own key does not speak; `D` has no key.
const ARCHIVE: [&str; 5] = ["links", "perms", "times", "group", "owner"];

impl RsyncOptions {
    /// Reads the sub-keys of `rsync = {…}`.
    ///
    /// # Errors
    /// A key is unknown, or its value is not of the kind that it takes.
    pub fn from_keys(keys: &BTreeMap<String, RsyncValue>) -> Result<RsyncOptions, Error> {
        for name in keys.keys() {
            Key::find(name)?;
        }
        let mut options = RsyncOptions { letters: String::new(), ..RsyncOptions::default() };
        let mut archive = false;
        if let Some(value) = keys.get("archive") {
            archive = flag("archive", value)?;
        }
        for key in KEYS {
            let value = keys.get(key.name);
            let long = if key.startup_only { &mut options.startup } else { &mut options.long };
            match key.shape {
                Shape::Letter(letter) => {
                    let unset = key.default || (archive && ARCHIVE.contains(&key.name));
                    if value.map_or(Ok(unset), |value| flag(key.name, value))? {
                        options.letters.push(letter);
                    }
                }
                Shape::Archive if archive => options.letters.push('D'),
                Shape::Archive => {}
                Shape::Long(option) => {
                    if let Some(value) = value
                        && flag(key.name, value)?
                    {
                        long.push(option.into());
                    }
                }
                Shape::Value(option) => {
                    if let Some(text) = value.map(|v| text(key.name, v)).transpose()?.flatten() {
                        options.anywhere &= match key.name {
                            "password_file" => text.as_bytes().starts_with(b"/"),
                            "rsh" => !names_relative_file(&text),
                            _ => true,
                        };
                        let mut word = OsString::from(option);
                        word.push("=");
                        word.push(text);
                        long.push(word);
                    }
                }
                Shape::Binary => {
                    options.binary = value.map(|v| text(key.name, v)).transpose()?.flatten();
                    options.wrapper = options.binary.is_some();
                }
                Shape::Words => {
                    options.extra =
                        value.map(|v| words(key.name, v)).transpose()?.unwrap_or_default();
                }
            }
        }
        // What words of others mean is theirs.
        options.anywhere &= options.extra.is_empty();
        Ok(options)
    }

    /// Reaches the host by this shell. It wins over `rsync.rsh`.
    #[must_use]
    pub fn with_shell(mut self, shell: &RsyncShell) -> RsyncOptions {
        let mut word = OsString::from("--rsh=");
        word.push(shell.text());
        self.shell = Some(word);
        self
    }

    /// Runs this rsync, which is one and no wrapper that relies on Lsyncd 2's words.
    #[must_use]
    pub fn with_program(mut self, program: &OsStr) -> RsyncOptions {
        self.binary = Some(program.to_owned());
        self.wrapper = false;
        self
    }

    /// More words, beside those of `_extra`.
    #[must_use]
    pub fn with_words(mut self, words: Vec<OsString>) -> RsyncOptions {
        self.extra.extend(words);
        self
    }

    /// Options for runs over everything alone.
    #[must_use]
    pub fn with_startup_words(mut self, words: Vec<OsString>) -> RsyncOptions {
        self.startup.extend(words);
        self
    }

    /// The program: `rsync`, or what `binary` names.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        self.binary.as_deref().unwrap_or(OsStr::new("rsync"))
    }

    /// Is the program one that a configuration file named? It may be a wrapper that reads the words
    /// and names which Lsyncd 2 hands to rsync, so these are an interface.
    #[must_use]
    pub fn is_wrapper(&self) -> bool {
        self.wrapper
    }

    /// Does it only say what it would do (`dry_run`)?
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.letters.contains('n')
    }

    /// The words of every run: letters, `_extra`, long options.
    #[must_use]
    pub fn live_words(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if !self.letters.is_empty() {
            words.push(OsString::from(format!("-{}", self.letters)));
        }
        words.extend(self.extra.iter().cloned());
        words.extend(self.long.iter().cloned());
        words.extend(self.shell.clone());
        words
    }

    /// The words of a run over everything.
    #[must_use]
    pub fn full_words(&self) -> Vec<OsString> {
        let mut words = self.live_words();
        words.extend(self.startup.iter().cloned());
        words
    }

    /// Is it the same in whatever directory rsync is started?
    #[must_use]
    pub fn works_anywhere(&self) -> bool {
        self.anywhere
    }

    /// May rsync be handed a list of exactly what changed? Words of `_extra` that choose files or
    /// delete would act on more than the list then.
    #[must_use]
    pub fn takes_lists(&self) -> bool {
        !self.letters.contains('C') && self.extra.iter().all(|word| !chooses(word.as_bytes()))
    }
}

/// Does this word say which files are meant, or delete?
fn chooses(word: &[u8]) -> bool {
    const LONG: [&[u8]; 16] = [
        b"del",
        b"files-from",
        b"from0",
        b"include",
        b"exclude",
        b"filter",
        b"cvs-exclude",
        b"recursive",
        b"relative",
        b"dirs",
        b"inc-recursive",
        b"ignore-missing-args",
        b"no-r",
        b"no-R",
        b"no-d",
        b"no-i",
    ];
    if let Some(long) = word.strip_prefix(b"--") {
        return LONG.iter().any(|name| long.starts_with(name));
    }
    let Some(short) = word.strip_prefix(b"-") else { return false };
    for letter in short {
        match letter {
            b'r' | b'd' | b'R' | b'F' | b'f' | b'0' | b'C' => return true,
            // What follows is their value.
            b'e' | b'T' | b'B' | b'M' | b'@' => return false,
            _ => {}
        }
    }
    false
}

/// Does a program stand there that is looked for from the working directory?
fn names_relative_file(text: &OsStr) -> bool {
    let first = text.as_bytes().split(|&b| b == b' ').next().unwrap_or_default();
    !first.starts_with(b"/") && first.contains(&b'/')
}

fn flag(name: &str, value: &RsyncValue) -> Result<bool, Error> {
    match value {
        RsyncValue::Bool(yes) => Ok(*yes),
        RsyncValue::Text(text) if ["true", "yes", "on"].iter().any(|yes| text == yes) => Ok(true),
        RsyncValue::Number(number) if *number == 1.0 => Ok(true),
        // To Lua, "false" and 0 are true: whoever wrote that did not mean it.
        _ => Err(Error::failed(format!("rsync.{name} is neither true nor false"))
            .hint(format!("write {name} = true or {name} = false, without quotes"))),
    }
}

fn text(name: &str, value: &RsyncValue) -> Result<Option<OsString>, Error> {
    let wrong = |what: &str| {
        Error::failed(format!("rsync.{name} is {what}"))
            .hint(format!("write {name} = \"…\", one text"))
    };
    let text = match value {
        RsyncValue::Bool(false) => return Ok(None),
        RsyncValue::Bool(true) => return Err(wrong("true, and not what is meant by it")),
        RsyncValue::List(_) => return Err(wrong("a list")),
        RsyncValue::Text(text) => text.clone(),
        RsyncValue::Number(number) => number_text(*number).into(),
    };
    checked(name, &text)?;
    if text.is_empty() { Err(wrong("empty")) } else { Ok(Some(text)) }
}

fn words(name: &str, value: &RsyncValue) -> Result<Vec<OsString>, Error> {
    let words = match value {
        RsyncValue::List(words) => words.clone(),
        RsyncValue::Bool(false) => Vec::new(),
        RsyncValue::Text(_) | RsyncValue::Number(_) | RsyncValue::Bool(true) => {
            return Err(Error::failed(format!("rsync.{name} is not a list"))
                .hint(format!("write {name} = {{ \"--one\", \"--two=x\" }}")));
        }
    };
    for word in &words {
        checked(name, word)?;
    }
    Ok(words)
}

/// What no argument of a program can hold.
fn checked(name: &str, text: &OsStr) -> Result<(), Error> {
    if text.as_bytes().contains(&0) {
        let shown = Escaped(text.as_bytes());
        return Err(Error::failed(format!("rsync.{name} holds a NUL byte: {shown}")));
    }
    Ok(())
}

/// As Lua writes it into a text: whole numbers without a point.
fn number_text(number: f64) -> String {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{number:.0}")
    } else {
        format!("{number}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keys: &[(&str, RsyncValue)]) -> Result<RsyncOptions, Error> {
        let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        RsyncOptions::from_keys(&keys.collect())
    }

    fn text(text: &str) -> RsyncValue {
        RsyncValue::Text(text.into())
    }

    const YES: RsyncValue = RsyncValue::Bool(true);
    const NO: RsyncValue = RsyncValue::Bool(false);

    #[test]
    fn times_and_links_are_on_and_no_more() {
        assert_eq!(RsyncOptions::default().live_words(), ["-lts"]);
        assert_eq!(options(&[]).unwrap(), RsyncOptions::default());
        let none = options(&[("times", NO), ("links", NO), ("protect_args", NO)]).unwrap();
        assert_eq!(none.live_words(), [""; 0]);
        assert_eq!(none.program(), "rsync");
        assert!(!none.is_wrapper());
    }

    #[test]
    fn archive_fills_in_what_nothing_else_says() {
        let all = options(&[("archive", YES)]).unwrap();
        assert_eq!(all.live_words(), ["-lgoptsD"]);
        let some = options(&[("archive", YES), ("owner", NO), ("links", NO)]).unwrap();
        assert_eq!(some.live_words(), ["-gptsD"]);
    }

    #[test]
    fn extra_words_stand_right_behind_the_letters() {
        let all = options(&[
            ("_extra", RsyncValue::List(vec!["-x".into(), "--fuzzy".into()])),
            ("bwlimit", RsyncValue::Number(2000.0)),
            ("timeout", RsyncValue::Number(1.5)),
            ("compress", YES),
            ("rsh", text("ssh -p 22")),
            ("delete_excluded", YES),
            ("inplace", YES),
            ("binary", text("/opt/wrap")),
            ("temp_dir", NO),
        ])
        .unwrap();
        let live = ["-lzts", "-x", "--fuzzy", "--bwlimit=2000", "--inplace", "--rsh=ssh -p 22"];
        let mut live: Vec<&str> = live.to_vec();
        live.push("--timeout=1.5");
        assert_eq!(all.live_words(), live);
        live.push("--delete-excluded");
        assert_eq!(all.full_words(), live);
        assert_eq!(all.program(), "/opt/wrap");
        assert!(all.is_wrapper());
    }

    #[test]
    fn every_key_has_its_word() {
        for key in KEYS {
            let (value, word) = match key.shape {
                Shape::Letter(letter) => (YES, letter.to_string()),
                Shape::Archive => (YES, "D".to_owned()),
                Shape::Long(option) => (YES, option.to_owned()),
                Shape::Value(option) => (text("v w"), format!("{option}=v w")),
                Shape::Words => (RsyncValue::List(vec!["--odd".into()]), "--odd".to_owned()),
                Shape::Binary => continue,
            };
            let words = options(&[(key.name, value)]).unwrap().full_words();
            let has = match key.shape {
                Shape::Letter(_) | Shape::Archive => words[0].to_str().unwrap().contains(&word),
                _ => words[1] == *word,
            };
            assert!(has, "{}: {words:?}", key.name);
            let live = options(&[(key.name, YES)]).map(|options| options.live_words().len());
            assert!(!key.startup_only || live.unwrap() == 1, "{}", key.name);
        }
    }

    #[test]
    fn values_of_another_kind_are_refused() {
        for (name, value, what) in [
            ("times", text("false"), "rsync.times is neither true nor false"),
            ("times", RsyncValue::Number(0.0), "rsync.times is neither true nor false"),
            ("chmod", YES, "rsync.chmod is true, and not what is meant by it"),
            ("chmod", RsyncValue::List(vec![]), "rsync.chmod is a list"),
            ("chmod", text(""), "rsync.chmod is empty"),
            ("_extra", text("-x"), "rsync._extra is not a list"),
            ("rsh", text("a\0b"), "rsync.rsh holds a NUL byte: a\\x00b"),
            (
                "foo",
                YES,
                "Parameter \"rsync.foo\" unknown. ( if this is not a typo add it to checkgauge )",
            ),
        ] {
            assert_eq!(options(&[(name, value)]).unwrap_err().to_string(), what);
        }
    }

    #[test]
    fn words_that_choose_files_are_known() {
        let takes = |word: &str| {
            options(&[("_extra", RsyncValue::List(vec![word.into()]))]).unwrap().takes_lists()
        };
        for word in
            ["-x", "--omit-dir-times", "-e ssh -drf", "--copy-devices", "x", "-zv", "--no-perms"]
        {
            assert!(takes(word), "{word}");
        }
        for word in [
            "-r",
            "-zr",
            "--delete-after",
            "--del",
            "--files-from=x",
            "-f",
            "--filter=x",
            "-C",
            "--no-r",
        ] {
            assert!(!takes(word), "{word}");
        }
        assert!(RsyncOptions::default().takes_lists());
    }

    #[test]
    fn the_shell_stands_last_and_wins() {
        let shell = RsyncShell { port: Some(2222), ..RsyncShell::default() };
        let all = options(&[("rsh", text("rsh"))]).unwrap().with_shell(&shell);
        assert_eq!(all.live_words(), ["-lts", "--rsh=rsh", "--rsh=ssh -p 2222"]);
    }
}
