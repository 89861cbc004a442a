//! Our own configuration file: `[settings]` and `[[mirror]]`, read into words. Pure.
//!
//! The keys of a mirror are the long options of `lsyncd push`, and mean what those mean: a table
//! becomes the words of a command line, so that there is one definition of each. Every error names
//! the line.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::near::nearest;
use crate::error::Error;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing: `true` gives it, `false` does not.
    Flag,
    /// One value.
    Value,
    /// Any number of values.
    Values,
    /// Nothing, or one value.
    Maybe,
}

/// An option of a mirror: its long name, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Without the hyphens.
    pub name: String,
    /// What it takes.
    pub shape: Shape,
}

/// A file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// What holds for the process.
    pub settings: Settings,
    /// The mirrors, in their order.
    pub mirrors: Vec<Mirror>,
}

/// `[settings]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The control socket.
    pub control: Option<PathBuf>,
    /// Where lines go, instead of standard error.
    pub logfile: Option<PathBuf>,
    /// Where the number of the process is written.
    pub pidfile: Option<PathBuf>,
    /// Where metrics are served, as it is written.
    pub metrics: Option<String>,
}

/// `[[mirror]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where it begins in the file, from 1.
    pub line: usize,
    /// Its name; with several targets each is called by it and its own.
    pub name: Option<String>,
    /// The source, as it is written.
    pub source: String,
    /// The targets, as they are written; at least one.
    pub targets: Vec<String>,
    /// The options, as words of a command line, in the order of the file.
    pub words: Vec<OsString>,
}

/// The keys of a mirror that are no options.
const OWN: [&str; 4] = ["name", "source", "target", "targets"];
const SETTINGS: [&str; 4] = ["control", "logfile", "metrics", "pidfile"];

/// Reads a file's text. `known` are the options that a mirror may have; `file` is what it is called
/// in errors.
///
/// # Errors
/// What is wrong, and in which line.
pub fn read(text: &str, file: &str, known: &[Known]) -> Result<Config, Error> {
    let reader = Reader { text, file, known };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        reader.wrong(at, error.message())
    })?;
    let mut config = Config::default();
    for (key, value) in in_order(table.get_ref()) {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("settings", DeValue::Table(table)) => config.settings = reader.settings(table)?,
            ("mirror", DeValue::Array(mirrors)) => {
                for mirror in mirrors {
                    config.mirrors.push(reader.mirror(mirror)?);
                }
            }
            ("mirror", _) => {
                return Err(reader
                    .wrong(key.span().start, "a mirror is not a table of an array")
                    .hint("each mirror begins with a line [[mirror]]"));
            }
            ("settings", _) => {
                return Err(reader
                    .wrong(key.span().start, "settings is not a table")
                    .hint("settings begin with a line [settings]"));
            }
            (name, _) => return Err(reader.unknown(key, name, ["settings", "mirror"].into_iter())),
        }
    }
    if config.mirrors.is_empty() {
        return Err(Error::failed(format!("{file} has no [[mirror]]: nothing to do"))
            .hint("[[mirror]], then source = \"/srv/www\" and target = \"backup:/srv/www\""));
    }
    Ok(config)
}

/// The entries of a table in the order of the file.
fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(key, _)| key.span().start);
    all
}

struct Reader<'a> {
    text: &'a str,
    file: &'a str,
    known: &'a [Known],
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn wrong(&self, at: usize, what: impl fmt::Display) -> Error {
        let what = what.to_string();
        // The parser's own texts may be of several lines.
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        Error::failed(format!("{}: line {}: {what}", self.file, self.line(at)))
    }

    fn unknown<'n>(
        &self,
        key: &Spanned<impl Clone>,
        name: &str,
        known: impl Iterator<Item = &'n str> + Clone,
    ) -> Error {
        let shown = name.escape_debug();
        let error = self.wrong(key.span().start, format!("there is no key {shown}"));
        match nearest(name.as_bytes(), known.clone()) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => {
                let all: Vec<&str> = known.take(8).collect();
                error.hint(format!("such as {}; see lsyncd push --help", all.join(", ")))
            }
        }
    }

    fn settings(&self, table: &DeTable<'_>) -> Result<Settings, Error> {
        let mut settings = Settings::default();
        for (key, value) in in_order(table) {
            let field = match key.get_ref().as_ref() {
                "control" => &mut settings.control,
                "logfile" => &mut settings.logfile,
                "pidfile" => &mut settings.pidfile,
                "metrics" => {
                    settings.metrics = Some(self.text_of("metrics", value)?);
                    continue;
                }
                name => return Err(self.unknown(key, name, SETTINGS.into_iter())),
            };
            *field = Some(PathBuf::from(self.text_of(key.get_ref(), value)?));
        }
        Ok(settings)
    }

    fn mirror(&self, value: &Spanned<DeValue<'_>>) -> Result<Mirror, Error> {
        let at = value.span().start;
        let Some(table) = value.get_ref().as_table() else {
            return Err(self
                .wrong(at, "a mirror is not a table")
                .hint("each mirror begins with a line [[mirror]]"));
        };
        let (mut name, mut source, mut targets) = (None, None, Vec::new());
        let mut words: Vec<OsString> = Vec::new();
        for (key, value) in in_order(table) {
            match key.get_ref().as_ref() {
                "name" => name = Some(self.text_of("name", value)?),
                "source" => source = Some(self.text_of("source", value)?),
                "target" => targets.push(self.text_of("target", value)?),
                "targets" => targets.extend(self.texts_of("targets", value)?),
                other => match self.known.iter().find(|known| known.name == other) {
                    Some(known) => self.option(known, value, &mut words)?,
                    None => {
                        let known = self.known.iter().map(|known| known.name.as_str());
                        return Err(self.unknown(key, other, OWN.into_iter().chain(known)));
                    }
                },
            }
        }
        let Some(source) = source else {
            return Err(self
                .wrong(at, "a mirror without a source")
                .hint("source = \"/srv/www\" names the directory whose contents are mirrored"));
        };
        if targets.is_empty() {
            return Err(self
                .wrong(at, "a mirror without a target")
                .hint("target = \"backup:/srv/www\", or targets = [\"web1:www\", \"web2:www\"]"));
        }
        Ok(Mirror { line: self.line(at), name, source, targets, words })
    }

    fn option(
        &self,
        known: &Known,
        value: &Spanned<DeValue<'_>>,
        words: &mut Vec<OsString>,
    ) -> Result<(), Error> {
        let name = &known.name;
        let flag = value.get_ref().as_bool();
        match (known.shape, flag) {
            (Shape::Flag | Shape::Maybe, Some(true)) => words.push(format!("--{name}").into()),
            (Shape::Flag | Shape::Maybe, Some(false)) => {}
            (Shape::Flag, None) => {
                return Err(self
                    .wrong(value.span().start, format!("{name} is neither true nor false"))
                    .hint(format!("{name} = true")));
            }
            (Shape::Value | Shape::Maybe, _) => {
                words.push(format!("--{name}={}", self.text_of(name, value)?).into());
            }
            (Shape::Values, _) => {
                for text in self.texts_of(name, value)? {
                    words.push(format!("--{name}={text}").into());
                }
            }
        }
        Ok(())
    }

    /// A text; a number counts as one.
    fn text_of(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<String, Error> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            other => {
                return Err(self
                    .wrong(
                        value.span().start,
                        format!("{name} is no text, but of the type {}", other.type_str()),
                    )
                    .hint(format!("{name} = \"…\"")));
            }
        };
        if text.contains('\0') {
            return Err(self.wrong(value.span().start, format!("{name} holds a NUL")));
        }
        Ok(text)
    }

    /// A text, or several.
    fn texts_of(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, Error> {
        match value.get_ref() {
            DeValue::Array(all) => {
                let all: &DeArray<'_> = all;
                all.iter().map(|value| self.text_of(name, value)).collect()
            }
            _ => Ok(vec![self.text_of(name, value)?]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<Known> {
        let one = |name: &str, shape| Known { name: name.to_owned(), shape };
        vec![
            one("exclude", Shape::Values),
            one("filter", Shape::Values),
            one("delay", Shape::Value),
            one("fsync", Shape::Flag),
            one("rsync", Shape::Maybe),
        ]
    }

    fn words(mirror: &Mirror) -> Vec<&str> {
        mirror.words.iter().map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn a_mirror_becomes_the_words_of_a_command_line_in_their_order() {
        let text = r#"
            [settings]
            pidfile = "/run/x.pid"
            # A comment.
            [[mirror]]
            name = "www"
            source = "/srv/www"
            targets = ["web1:www", "web2:www"]
            filter = "+ a"
            exclude = ["*.tmp", "-x"]
            delay = 0.5
            fsync = true
            rsync = false
            [[mirror]]
            source = "~/x"
            target = "/y"
            rsync = "/opt/rsync"
            delay = 3
            fsync = false
        "#;
        let config = read(text, "f", &known()).unwrap();
        assert_eq!(config.settings.pidfile, Some("/run/x.pid".into()));
        let [www, other] = &config.mirrors[..] else { panic!("{config:?}") };
        assert_eq!((www.line, www.name.as_deref()), (5, Some("www")));
        assert_eq!(www.targets, ["web1:www", "web2:www"]);
        let expected =
            ["--filter=+ a", "--exclude=*.tmp", "--exclude=-x", "--delay=0.5", "--fsync"];
        assert_eq!(words(www), expected);
        assert_eq!((other.source.as_str(), &other.targets[..]), ("~/x", &["/y".to_owned()][..]));
        assert_eq!(words(other), ["--rsync=/opt/rsync", "--delay=3"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_a_way_out() {
        let table = [
            ("x = [", "f: line 1: ", ""),
            ("[mirrors]\n", "f: line 1: there is no key mirrors", "did you mean mirror?"),
            (
                "[settings]\npidfil = 'x'",
                "f: line 2: there is no key pidfil",
                "did you mean pidfile?",
            ),
            (
                "[settings]\npidfile = []",
                "f: line 2: pidfile is no text, but of the type array",
                "pidfile",
            ),
            ("settings = 1", "f: line 1: settings is not a table", "[settings]"),
            (
                "[mirror]\nsource = 'x'",
                "f: line 1: a mirror is not a table of an array",
                "[[mirror]]",
            ),
            ("mirror = [1]", "f: line 1: a mirror is not a table", "[[mirror]]"),
            ("", "f has no [[mirror]]: nothing to do", "[[mirror]]"),
            ("\n[[mirror]]\ntarget = 'x'", "f: line 2: a mirror without a source", "source = "),
            ("[[mirror]]\nsource = 'x'", "f: line 1: a mirror without a target", "targets = ["),
            (
                "[[mirror]]\nsource = 'x'\ntarget = 'y'\nexlude = 'z'",
                "f: line 4: there is no key exlude",
                "did you mean exclude?",
            ),
            (
                "[[mirror]]\nsource = 'x'\nfsync = 'yes'\ntarget = 'y'",
                "f: line 3: fsync is neither true nor false",
                "fsync = true",
            ),
            (
                "[[mirror]]\nsource = 'x'\ntarget = 'y'\ndelay = 2020-01-01",
                "f: line 4: delay is no text, but of the type datetime",
                "delay = ",
            ),
            ("[[mirror]]\nsource = \"a\\u0000\"", "f: line 2: source holds a NUL", ""),
            ("[[mirror]]\nsource = 'a'\nsource = 'b'", "f: line 3: ", ""),
        ];
        for (text, what, hint) in table {
            let error = read(text, "f", &known()).unwrap_err();
            assert!(error.to_string().starts_with(what), "{text}: {error}");
            assert!(!error.to_string().contains('\n'), "{text}: {error}");
            assert!(error.hint_text().unwrap_or_default().contains(hint), "{text}: {error:?}");
        }
    }
}
