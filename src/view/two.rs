//! Lsyncd 2's log: its categories, its lines, and where they go. People grep for them.
//!
//! Before the start is complete lines go to standard error as `Error: text`. After that a process in
//! the foreground writes `08:41:35 Normal: text` to its streams and a daemon to syslog; a log file
//! gets every line, with the date, in either case.

use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Zoned;
use lsync_protocol::path::{Escaped, RelPath};

use super::Style;
use super::words::{Line, Words, safe, step_text};
use crate::carrier::action::ActionLog;
use crate::config::settings::{Facility, Settings};
use crate::daemon::two::Told;
use crate::error::{Error, Result};
use crate::metrics::{Counter, Counters, Metrics, Notice};

mod repeats;
mod syslog;
mod traces;

use repeats::Repeats;
use syslog::Syslog;

pub use traces::Traces;

/// Where the system's log listens.
pub const SYSLOG: &str = "/dev/log";

/// A text is cut after so many lines: a list of files may have a million.
const LINES: usize = 100;

/// "waiting for N more child processes." is said this often.
const WAITING_EVERY: Duration = Duration::from_secs(60);

/// Where lines go, and which.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// What `-log` was given, in order.
    pub categories: Vec<String>,
    /// Every line is appended to it. Absolute.
    pub logfile: Option<PathBuf>,
    /// Nobody reads the standard streams.
    pub daemon: bool,
    /// Under which facility syslog hears of a daemon without a log file.
    pub facility: Facility,
    /// Under which name.
    pub ident: String,
    /// The socket of syslog: [`SYSLOG`].
    pub syslog: PathBuf,
}

impl LogOptions {
    /// As the settings and `-log` have it.
    #[must_use]
    pub fn new(settings: &Settings, categories: &[String]) -> LogOptions {
        LogOptions {
            categories: categories.to_vec(),
            logfile: settings.logfile.clone(),
            daemon: !settings.nodaemon,
            facility: settings.logfacility,
            ident: settings.logident.clone(),
            syslog: PathBuf::from(SYSLOG),
        }
    }
}

/// Writes to standard error (true) or standard output.
type Console = Box<dyn FnMut(bool, &str) + Send>;

/// Lsyncd 2's log.
pub struct TwoLog {
    categories: Categories,
    logfile: Option<PathBuf>,
    daemon: bool,
    syslog: Option<Syslog>,
    counters: Counters,
    state: Mutex<State>,
}

struct State {
    started: bool,
    console: Console,
    repeats: Repeats,
    words: Words,
    /// Source and target of a mirror, by its name.
    ends: HashMap<String, (String, String)>,
    waiting: Option<Instant>,
}

/// Which categories are said.
#[derive(Debug)]
struct Categories {
    all: bool,
    named: BTreeSet<String>,
}

impl Categories {
    fn of(words: &[String]) -> Categories {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let mut categories = Categories { all: false, named: set(&["Normal", "Warn", "Error"]) };
        for word in words {
            match word.as_str() {
                "all" => categories.all = true,
                "scarce" => categories = Categories { all: false, named: set(&["Warn", "Error"]) },
                name => {
                    categories.named.insert(name.to_owned());
                }
            }
        }
        categories
    }

    fn has(&self, category: &str) -> bool {
        self.all || self.named.contains(category)
    }
}

impl TwoLog {
    /// A log that is not started yet.
    ///
    /// # Errors
    /// If the log file cannot be written.
    pub fn new(options: &LogOptions) -> Result<TwoLog> {
        TwoLog::on(options, Box::new(speak))
    }

    fn on(options: &LogOptions, console: Console) -> Result<TwoLog> {
        if let Some(path) = &options.logfile {
            append(path, "").map_err(|e| {
                let shown = Escaped(path.as_os_str().as_encoded_bytes());
                Error::failed(format!("cannot open the logfile {shown}")).because(e)
            })?;
        }
        let wants_syslog = options.daemon && options.logfile.is_none();
        let syslog =
            wants_syslog.then(|| Syslog::new(&options.syslog, options.facility, &options.ident));
        let words = Words::new(Style { several: true, ..Style::default() });
        Ok(TwoLog {
            categories: Categories::of(&options.categories),
            logfile: options.logfile.clone(),
            daemon: options.daemon,
            syslog,
            counters: Counters::default(),
            state: Mutex::new(State {
                started: false,
                console,
                repeats: Repeats::default(),
                words,
                ends: HashMap::new(),
                waiting: None,
            }),
        })
    }

    /// Would a line of this category be written?
    #[must_use]
    pub fn wants(&self, category: &str) -> bool {
        self.categories.has(category)
    }

    /// Writes a text, which may have several lines.
    pub fn line(&self, category: &str, text: &str) {
        if self.wants(category) {
            self.write(&mut self.state(), category, text, Instant::now());
        }
    }

    /// Writes a text and the names below it, one a line, and not more than a person reads.
    pub fn list<'a>(&self, category: &str, text: &str, names: impl IntoIterator<Item = &'a [u8]>) {
        if !self.wants(category) {
            return;
        }
        let mut names = names.into_iter();
        let mut whole = text.to_owned();
        for name in names.by_ref().take(LINES - 2) {
            whole.push_str(&format!("\n{}", Escaped(name)));
        }
        let more = names.count();
        if more > 0 {
            whole.push_str(&format!("\nand {more} more"));
        }
        self.line(category, &whole);
    }

    /// Writes what kept the process, or a mirror, from going on.
    pub fn error(&self, error: &Error) {
        let hint = error.hint_text().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        self.line("Error", &format!("{error}{hint}"));
    }

    /// The configuration is read: from now on lines have their times and go where they belong.
    pub fn startup(&self) {
        if let Some(Err(error)) = self.syslog.as_ref().map(Syslog::check) {
            let plain = crate::error::plain(&error.to_string());
            self.line("Warn", &format!("nothing listens at {SYSLOG}, so nothing will be logged: {plain}\nhint: -logfile FILE names another place"));
        }
        self.state().started = true;
        let how = if self.daemon { "--- Startup, daemonizing ---" } else { "--- Startup ---" };
        self.line("Normal", how);
    }

    /// The process has been running: what is said from the first line on, of a configuration that is
    /// read again, goes where the log goes.
    #[must_use]
    pub fn running(self) -> TwoLog {
        self.state().started = true;
        self
    }

    /// Tells what a mirror's source and target are called.
    pub fn ends(&self, mirror: &str, source: &str, target: &str) {
        self.state().ends.insert(mirror.to_owned(), (source.to_owned(), target.to_owned()));
    }

    /// TERM or INT came, by the signal's short name.
    pub fn fading(&self, signal: &str) {
        self.line("Normal", &format!("--- {signal} signal, fading ---"));
    }

    /// HUP came.
    pub fn resetting(&self) {
        self.line("Normal", "--- HUP signal, resetting ---");
    }

    /// So many children still run after TERM. Said at most once a minute.
    pub fn waiting(&self, children: usize) {
        self.waiting_at(children, Instant::now());
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn waiting_at(&self, children: usize, now: Instant) {
        let mut state = self.state();
        let often = |at: Instant| now.saturating_duration_since(at) < WAITING_EVERY;
        if children == 0 || state.waiting.is_some_and(often) || !self.wants("Normal") {
            return;
        }
        state.waiting = Some(now);
        let text = format!("waiting for {children} more child processes.");
        self.write(&mut state, "Normal", &text, now);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, category: &str, text: &str, now: Instant) {
        let mut due = state.repeats.overdue(now);
        if state.repeats.passes(category, text, now) {
            due.push((category.to_owned(), cut(text)));
        }
        let at = Zoned::now();
        for (category, text) in due {
            self.put(state, &category, &text, &at);
        }
    }

    fn put(&self, state: &mut State, category: &str, text: &str, at: &Zoned) {
        if !state.started {
            (state.console)(true, &format!("{category}: {text}\n"));
            return;
        }
        if !self.daemon {
            let time = at.strftime("%H:%M:%S");
            (state.console)(category == "Error", &format!("{time} {category}: {text}\n"));
        }
        if let Some(path) = &self.logfile {
            let time = at.strftime("%a %b %e %H:%M:%S %Y");
            // Where it cannot be written there is nobody to tell.
            let _ = append(path, &format!("{time} {category}: {text}\n"));
        }
        if let Some(syslog) = &self.syslog {
            syslog.send(category, text, at);
        }
    }

    fn notice_at(&self, notice: &Notice, now: Instant) {
        let mut state = self.state();
        let mirror = safe(notice.mirror());
        let said = match notice {
            Notice::Ready { .. } => {
                let name = match state.ends.get(&**notice.mirror()) {
                    Some((source, target)) => format!("{} -> {}", safe(source), safe(target)),
                    None => mirror,
                };
                vec![("Normal", format!("Startup of {name} finished."))]
            }
            Notice::Connecting { .. } => vec![("Debug", format!("connecting to {mirror}"))],
            Notice::Rsync { paths, .. } => {
                let ends = match state.ends.get(&**notice.mirror()) {
                    Some((source, target)) => format!("{} -> {}", safe(source), safe(target)),
                    None => mirror,
                };
                vec![("Normal", rsync_is_run(paths.as_deref(), &ends))]
            }
            Notice::Warning { text, .. } => vec![("Warn", format!("{mirror}: {}", safe(text)))],
            Notice::Step { step, .. } => vec![("Exec", format!("{mirror}: {}", step_text(step)))],
            Notice::Progress { .. } => Vec::new(),
            other => {
                let category = match other {
                    Notice::Problem { .. } | Notice::Lost { .. } => "Warn",
                    Notice::Halted { .. } | Notice::Failed { .. } => "Error",
                    _ => "Normal",
                };
                state.words.say(other, now).into_iter().map(|line| (category, said(line))).collect()
            }
        };
        for (category, text) in said {
            if self.wants(category) {
                self.write(&mut state, category, &text, now);
            }
        }
    }
}

impl ActionLog for TwoLog {
    fn line(&self, category: &str, text: &str) {
        TwoLog::line(self, category, text);
    }
}

impl Told for TwoLog {
    fn ends(&self, mirror: &str, source: &str, target: &str) {
        TwoLog::ends(self, mirror, source, target);
    }
}

impl Metrics for TwoLog {
    fn count(&self, counter: Counter, by: u64) {
        self.counters.add(counter, by);
    }

    fn notice(&self, notice: Notice) {
        self.notice_at(&notice, Instant::now());
    }
}

/// What Lsyncd 2 says of an rsync.
fn rsync_is_run(paths: Option<&[RelPath]>, ends: &str) -> String {
    let Some(paths) = paths else { return format!("recursive full rsync: {ends}") };
    let mut text = "Calling rsync with filter-list of new/modified files/dirs".to_owned();
    for path in paths.iter().take(LINES) {
        text.push_str(&format!("\n/{path}"));
    }
    if paths.len() > LINES {
        text.push_str(&format!("\nand {} more", paths.len() - LINES));
    }
    text
}

fn said(line: Line) -> String {
    match line {
        Line::Out(text) | Line::Err(text) => text,
        Line::Hint(text) => format!("hint: {text}"),
    }
}

/// A text as it may be shown: line by line, nothing that moves a cursor, and not too many lines.
fn cut(text: &str) -> String {
    let mut lines: Vec<String> = text.split('\n').take(LINES).map(safe).collect();
    let more = text.split('\n').count() - lines.len();
    if more > 0 {
        lines.push(format!("and {more} more lines"));
    }
    lines.join("\n")
}

/// Opened and closed for each line: whoever renames the file gets a new one.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(line.as_bytes())
}

fn speak(error: bool, line: &str) {
    // Nothing can be told to anybody if the stream is gone.
    let _ = if error {
        std::io::stderr().lock().write_all(line.as_bytes())
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).and_then(|()| out.flush())
    };
}

#[cfg(test)]
mod tests;
