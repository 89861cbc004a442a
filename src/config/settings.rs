//! What holds for a whole process of Lsyncd 2: the keys of `settings{ … }`, their defaults, and
//! what is wrong with a value.
//!
//! A key is set by whoever reads a configuration, or by the command line, which wins. Values come
//! as the file has them; a number is a text to Lsyncd 2 where it wants one, and the reverse.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lsync_protocol::path::Escaped;

use super::near::nearest;
use crate::error::{Error, Result};

/// All keys.
pub const KEYS: [&str; 12] = [
    "logfile",
    "pidfile",
    "nodaemon",
    "onepass",
    "statusFile",
    "statusInterval",
    "logfacility",
    "logident",
    "insist",
    "inotifyMode",
    "maxProcesses",
    "maxDelays",
];

/// Keys that many write here and that belong elsewhere.
const ELSEWHERE: [(&str, &str); 9] = [
    ("delay", "delay belongs in sync{ … }; lsyncd -delay SECS sets it for all"),
    ("log", "categories are named on the command line: lsyncd -log CATEGORY"),
    ("delete", "delete belongs in sync{ … }"),
    ("exclude", "exclude belongs in sync{ … }"),
    ("excludeFrom", "excludeFrom belongs in sync{ … }"),
    ("rsync", "rsync = { … } belongs in sync{ … }"),
    ("rsyncOps", "rsyncOps is of versions before 2.1; now it is rsync = { … } in sync{ … }"),
    ("source", "source belongs in sync{ … }"),
    ("target", "target belongs in sync{ … }"),
];

/// A value as a configuration has it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text; any bytes.
    Text(Vec<u8>),
    /// Anything else, by the name of its kind: `table`, `function`.
    Other(&'static str),
}

/// Which events of inotify mean that a file's content changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InotifyMode {
    /// It was closed after being open for writing.
    #[default]
    CloseWrite,
    /// It was written to.
    Modify,
    /// Either.
    CloseWriteOrModify,
}

impl InotifyMode {
    /// Does it mean content that a file was closed after writing?
    #[must_use]
    pub fn closes(self) -> bool {
        self != InotifyMode::Modify
    }

    /// Does it mean content that a file was written to?
    #[must_use]
    pub fn writes(self) -> bool {
        self != InotifyMode::CloseWrite
    }
}

/// A syslog facility, by its number: 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facility(u8);

impl Facility {
    /// `user`, the default.
    pub const USER: Facility = Facility(1);

    const NAMES: [(&str, u8); 22] = [
        ("kern", 0),
        ("user", 1),
        ("mail", 2),
        ("daemon", 3),
        ("auth", 4),
        ("security", 4),
        ("syslog", 5),
        ("lpr", 6),
        ("news", 7),
        ("uucp", 8),
        ("cron", 9),
        ("authpriv", 10),
        ("ftp", 11),
        ("ntp", 12),
        ("local0", 16),
        ("local1", 17),
        ("local2", 18),
        ("local3", 19),
        ("local4", 20),
        ("local5", 21),
        ("local6", 22),
        ("local7", 23),
    ];

    /// Its number, as RFC 5424 has it.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    fn parse(text: &str) -> Option<Facility> {
        let named = Self::NAMES.iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
        let number = || text.parse().ok().filter(|n| *n < 24);
        named.map(|(_, number)| *number).or_else(number).map(Facility)
    }
}

/// What holds for the whole process.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The log is appended there, and no longer goes to syslog.
    pub logfile: Option<PathBuf>,
    /// Holds the process' number and a lock while it runs.
    pub pidfile: Option<PathBuf>,
    /// Stay in the foreground and log to the terminal.
    pub nodaemon: bool,
    /// End when every first mirror is complete.
    pub onepass: bool,
    /// Where the status is written.
    pub status_file: Option<PathBuf>,
    /// The least time between two writings of it.
    pub status_interval: Duration,
    /// Under which facility syslog hears of us.
    pub logfacility: Facility,
    /// Under which name syslog hears of us.
    pub logident: String,
    /// A target that is away at the start is tried again, and does not end the process.
    pub insist: bool,
    /// Which events mean content.
    pub inotify_mode: InotifyMode,
    /// The most children at once, of all syncs together.
    pub max_processes: Option<u64>,
    /// The queue's length for syncs that name none.
    pub max_delays: Option<u64>,
    /// What was set and may not mean what it seems to, to be said once the log is there.
    pub warnings: Vec<String>,
    given: BTreeMap<&'static str, Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            logfile: None,
            pidfile: None,
            nodaemon: false,
            onepass: false,
            status_file: None,
            status_interval: Duration::from_secs(10),
            logfacility: Facility::USER,
            logident: "lsyncd".to_owned(),
            insist: false,
            inotify_mode: InotifyMode::default(),
            max_processes: None,
            max_delays: None,
            warnings: Vec::new(),
            given: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Sets a key; what stands alone in the list, as in `settings{'insist'}`, is set to `true`.
    ///
    /// # Errors
    /// For a key that is none, or a value that the key cannot have.
    pub fn set(&mut self, key: &str, value: Value) -> Result<()> {
        let Some(&key) = KEYS.iter().find(|known| **known == key) else {
            return Err(unknown(key));
        };
        match key {
            "logfile" => self.logfile = Some(path(key, &value)?),
            "pidfile" => self.pidfile = Some(path(key, &value)?),
            "statusFile" => self.status_file = Some(path(key, &value)?),
            "nodaemon" => self.nodaemon = self.truth(key, &value),
            "onepass" => self.onepass = self.truth(key, &value),
            "insist" => self.insist = self.truth(key, &value),
            "statusInterval" => {
                let text = text(key, &value)?;
                self.status_interval =
                    super::value::seconds(&text).map_err(|wrong| bad(key, &text, &wrong))?;
            }
            "logfacility" => {
                let text = text(key, &value)?;
                self.logfacility = Facility::parse(&text).ok_or_else(|| {
                    Error::failed(format!(
                        "Logging facility '{}' unknown.",
                        Escaped(text.as_bytes())
                    ))
                    .hint("it takes a name such as user, daemon or local0, or a number below 24")
                })?;
            }
            "logident" => self.logident = text(key, &value)?,
            "inotifyMode" => self.inotify_mode = inotify_mode(&text(key, &value)?)?,
            "maxProcesses" => self.max_processes = Some(count(key, &value, 1)?),
            _ => self.max_delays = Some(count(key, &value, 0)?),
        }
        self.given.insert(key, value);
        Ok(())
    }

    /// What a key was set to, as it was given: `settings('key')`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.given.get(key)
    }

    /// Makes its files absolute: a daemon leaves the directory that it was started in.
    pub fn resolve(&mut self, cwd: &Path) {
        let files = [&mut self.logfile, &mut self.pidfile, &mut self.status_file];
        for file in files.into_iter().flatten() {
            *file = cwd.join(&*file);
        }
    }

    /// A process that runs keeps its pidfile and stays where it is: what these settings, read
    /// again, say otherwise is put back, and said.
    pub fn keep_of(&mut self, running: &Settings) {
        let changed: Vec<&str> = [
            ("pidfile", self.pidfile != running.pidfile),
            ("nodaemon", self.nodaemon != running.nodaemon),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect();
        if !changed.is_empty() {
            let keys = changed.join(" and ");
            self.warnings
                .push(format!("settings changed that take a restart, and not HUP: {keys}"));
        }
        self.pidfile.clone_from(&running.pidfile);
        self.nodaemon = running.nodaemon;
    }

    /// Lua's truth: all but `false` is true, so the text `"false"` is.
    fn truth(&mut self, key: &str, value: &Value) -> bool {
        let denies = match value {
            Value::Bool(value) => return *value,
            Value::Number(number) => *number == 0.0,
            Value::Text(text) => {
                let text = text.to_ascii_lowercase();
                [&b"false"[..], b"no", b"off", b"0", b""].contains(&text.as_slice())
            }
            Value::Other(_) => false,
        };
        if denies {
            self.warnings.push(format!(
                "setting \"{key}\" is {}, which counts as true; write {key} = false",
                described(value)
            ));
        }
        true
    }
}

fn unknown(key: &str) -> Error {
    let error = Error::failed(format!("setting \"{}\" unknown.", Escaped(key.as_bytes())));
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
    match (elsewhere, nearest(key.as_bytes(), KEYS)) {
        (Some((_, hint)), _) => error.hint(*hint),
        (None, Some(near)) => error.hint(format!("did you mean {near}?")),
        (None, None) => error.hint(format!("the settings are {}", KEYS.join(", "))),
    }
}

fn bad(key: &str, text: &str, wrong: &str) -> Error {
    Error::failed(format!("bad setting {key} '{}': {wrong}", Escaped(text.as_bytes())))
}

fn described(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::Text(text) => format!("the text \"{}\"", Escaped(text)),
        Value::Other(kind) => format!("a {kind}"),
    }
}

fn wanted(key: &str, what: &str, value: &Value) -> Error {
    Error::failed(format!("setting \"{key}\" needs {what} and is {}", described(value)))
}

fn path(key: &str, value: &Value) -> Result<PathBuf> {
    match value {
        Value::Text(text) if !text.is_empty() => Ok(PathBuf::from(OsStr::from_bytes(text))),
        value => Err(wanted(key, "a file name", value)),
    }
}

fn text(key: &str, value: &Value) -> Result<String> {
    match value {
        Value::Text(text) => String::from_utf8(text.clone())
            .map_err(|_| bad(key, &String::from_utf8_lossy(text), "not UTF-8")),
        Value::Number(number) => Ok(number.to_string()),
        value => Err(wanted(key, "a text", value)),
    }
}

fn inotify_mode(text: &str) -> Result<InotifyMode> {
    let shown = Escaped(text.as_bytes());
    match text {
        "CloseWrite" => Ok(InotifyMode::CloseWrite),
        "Modify" => Ok(InotifyMode::Modify),
        "CloseWrite or Modify" => Ok(InotifyMode::CloseWriteOrModify),
        "CloseWrite after Modify" => Err(Error::failed(format!("'{shown}' not implemented."))
            .hint("inotifyMode is CloseWrite, Modify, or \"CloseWrite or Modify\"")),
        _ => Err(Error::failed(format!("'{shown}' not a valid inotifyMode."))
            .hint("it is CloseWrite, Modify, or \"CloseWrite or Modify\"")),
    }
}

fn count(key: &str, value: &Value, least: u64) -> Result<u64> {
    let text = text(key, value)?;
    // Lua writes 5.0 where a program computed it.
    let whole = text.strip_suffix(".0").unwrap_or(&text);
    let digits = whole.bytes().all(|b| b.is_ascii_digit());
    match whole.parse() {
        Ok(count) if digits && count >= least => Ok(count),
        _ => Err(bad(key, &text, &format!("not a whole number of at least {least}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn every_key_is_set_and_read_back() {
        let mut settings = Settings::default();
        assert_eq!(settings.status_interval, Duration::from_secs(10));
        assert_eq!(settings.get("logfile"), None);
        let given = [
            ("logfile", words("a.log")),
            ("pidfile", words("/run/l.pid")),
            ("nodaemon", Value::Bool(true)),
            ("onepass", Value::Bool(true)),
            ("statusFile", Value::Text(vec![b's', 0xff])),
            ("statusInterval", Value::Number(0.5)),
            ("logfacility", words("LOCAL3")),
            ("logident", words("mirror")),
            ("insist", words("yes")),
            ("inotifyMode", words("CloseWrite or Modify")),
            ("maxProcesses", Value::Number(3.0)),
            ("maxDelays", words("20")),
        ];
        assert_eq!(given.len(), KEYS.len());
        for (key, value) in &given {
            settings.set(key, value.clone()).unwrap();
            assert_eq!(settings.get(key), Some(value));
        }
        settings.resolve(Path::new("/home/me"));
        assert_eq!(settings.logfile.as_deref(), Some(Path::new("/home/me/a.log")));
        assert_eq!(settings.pidfile.as_deref(), Some(Path::new("/run/l.pid")));
        let status = settings.status_file.clone().unwrap();
        assert_eq!(status.as_os_str().as_bytes(), b"/home/me/s\xff");
        assert!(settings.nodaemon && settings.onepass && settings.insist);
        assert_eq!(settings.status_interval, Duration::from_millis(500));
        assert_eq!((settings.logfacility.number(), settings.logident.as_str()), (19, "mirror"));
        assert_eq!(settings.inotify_mode, InotifyMode::CloseWriteOrModify);
        assert_eq!((settings.max_processes, settings.max_delays), (Some(3), Some(20)));
        assert_eq!(settings.warnings, [] as [&str; 0]);
        settings.set("nodaemon", Value::Bool(false)).unwrap();
        settings.set("statusInterval", words("3")).unwrap();
        settings.set("logfacility", Value::Number(9.0)).unwrap();
        assert!(!settings.nodaemon && settings.status_interval == Duration::from_secs(3));
        assert_eq!(settings.logfacility.number(), 9);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_was_meant() {
        let table = [
            (
                "statusIntervall",
                Value::Number(1.0),
                "setting \"statusIntervall\" unknown.",
                "did you mean statusInterval?",
            ),
            (
                "delay",
                Value::Number(1.0),
                "setting \"delay\" unknown.",
                "delay belongs in sync{ … }; lsyncd -delay SECS sets it for all",
            ),
            (
                "log",
                words("all"),
                "setting \"log\" unknown.",
                "categories are named on the command line: lsyncd -log CATEGORY",
            ),
            (
                "delete",
                Value::Bool(false),
                "setting \"delete\" unknown.",
                "delete belongs in sync{ … }",
            ),
            ("LogFile", words("x"), "setting \"LogFile\" unknown.", "did you mean logfile?"),
            (
                "f\u{1b}oo",
                Value::Bool(true),
                "setting \"f\\x1boo\" unknown.",
                "the settings are logfile, pidfile, nodaemon, onepass, statusFile, statusInterval, logfacility, logident, insist, inotifyMode, maxProcesses, maxDelays",
            ),
            ("logfile", Value::Bool(true), "setting \"logfile\" needs a file name and is true", ""),
            (
                "pidfile",
                words(""),
                "setting \"pidfile\" needs a file name and is the text \"\"",
                "",
            ),
            (
                "logident",
                Value::Other("table"),
                "setting \"logident\" needs a text and is a table",
                "",
            ),
            (
                "statusInterval",
                words("soon"),
                "bad setting statusInterval 'soon': not a number of seconds, such as 10 or 0.5",
                "",
            ),
            (
                "statusInterval",
                Value::Number(-1.0),
                "bad setting statusInterval '-1': not a number of seconds, such as 10 or 0.5",
                "",
            ),
            (
                "logfacility",
                words("nope"),
                "Logging facility 'nope' unknown.",
                "it takes a name such as user, daemon or local0, or a number below 24",
            ),
            (
                "logfacility",
                Value::Number(24.0),
                "Logging facility '24' unknown.",
                "it takes a name such as user, daemon or local0, or a number below 24",
            ),
            (
                "inotifyMode",
                words("X"),
                "'X' not a valid inotifyMode.",
                "it is CloseWrite, Modify, or \"CloseWrite or Modify\"",
            ),
            (
                "inotifyMode",
                words("CloseWrite after Modify"),
                "'CloseWrite after Modify' not implemented.",
                "inotifyMode is CloseWrite, Modify, or \"CloseWrite or Modify\"",
            ),
            (
                "maxProcesses",
                Value::Number(0.0),
                "bad setting maxProcesses '0': not a whole number of at least 1",
                "",
            ),
            (
                "maxProcesses",
                Value::Number(1.5),
                "bad setting maxProcesses '1.5': not a whole number of at least 1",
                "",
            ),
            (
                "maxDelays",
                Value::Number(-3.0),
                "bad setting maxDelays '-3': not a whole number of at least 0",
                "",
            ),
            (
                "maxDelays",
                Value::Number(f64::NAN),
                "bad setting maxDelays 'NaN': not a whole number of at least 0",
                "",
            ),
        ];
        for (key, value, text, hint) in table {
            let mut settings = Settings::default();
            let error = settings.set(key, value).unwrap_err();
            assert_eq!(error.to_string(), text);
            assert_eq!(error.hint_text().unwrap_or_default(), hint, "{text}");
            assert_eq!(settings, Settings::default(), "nothing half set");
        }
    }

    #[test]
    fn what_denies_and_counts_as_true_is_warned_of() {
        for (value, shown) in [
            (words("false"), "the text \"false\""),
            (words("No"), "the text \"No\""),
            (Value::Number(0.0), "the number 0"),
        ] {
            let mut settings = Settings::default();
            settings.set("nodaemon", value).unwrap();
            assert!(settings.nodaemon, "as in Lua");
            assert_eq!(
                settings.warnings,
                [format!(
                    "setting \"nodaemon\" is {shown}, which counts as true; write nodaemon = false"
                )]
            );
        }
    }
}
