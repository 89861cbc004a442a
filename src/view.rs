//! What is seen of running mirrors: lines and a progress bar for a person, lines with times for a
//! log, or objects for a program.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::metrics::{Counter, Counters, Histogram, Metrics, Notice, Stage, Step};

mod bars;
mod json;
mod log;
pub mod monitor;
mod screen;
pub mod status;
pub mod two;
pub mod web;
pub mod why;
mod words;

pub use log::LogFormat;
pub use screen::Screen;

use bars::Bars;
use words::{Line, Words};

/// How much is said, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Objects on standard output.
    pub json: bool,
    /// From 1 on: a line for each step.
    pub verbose: bool,
    /// Only errors, problems and the line that says ready.
    pub quiet: bool,
    /// Draw a progress bar.
    pub progress: bool,
    /// Steps are what would be done, and the result: they go to standard output.
    pub dry_run: bool,
    /// Source and target are only compared: differences are the result, and go there.
    pub verify: bool,
    /// There are several mirrors: lines name theirs.
    pub several: bool,
}

/// From now on what goes to standard error is appended to a file, which is made if it is not there.
/// Said again, it is opened anew: whoever rotates logs has moved it away.
///
/// # Errors
/// It cannot be opened.
pub fn log_to(file: &Path) -> Result<()> {
    let cannot = |error: std::io::Error| {
        let shown = lsync_protocol::path::Escaped(file.as_os_str().as_encoded_bytes());
        Error::failed(format!("cannot write the logfile {shown}")).because(error)
    };
    let log = std::fs::OpenOptions::new().create(true).append(true).open(file).map_err(cannot)?;
    rustix::stdio::dup2_stderr(&log).map_err(|error| cannot(error.into()))
}

/// Shows notices on a [`Screen`].
pub struct View {
    style: Style,
    screen: Screen,
    counters: Counters,
    times: [Histogram; Stage::ALL.len()],
    state: Mutex<State>,
}

struct State {
    words: Words,
    bars: Option<Bars>,
    json: json::Objects,
}

impl View {
    /// A view on this screen.
    #[must_use]
    pub fn new(style: Style, screen: Screen) -> View {
        let bars = style.progress.then(|| Bars::new(screen.bars()));
        let state = State { words: Words::new(style), bars, json: json::Objects::new(style) };
        View {
            style,
            screen,
            counters: Counters::default(),
            times: Default::default(),
            state: Mutex::new(state),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How long live changes were on their way.
    pub fn times(&self) -> impl Iterator<Item = (Stage, &Histogram)> {
        Stage::ALL.into_iter().zip(&self.times)
    }

    /// Takes what is drawn away, before the last words are written.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bars) = &mut state.bars {
            bars.clear();
        }
    }

    fn show(&self, notice: &Notice, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.style.json {
            if let Some(object) = state.json.of(notice, &self.counters, now) {
                self.screen.out(&object);
            }
            return;
        }
        if let Some(bars) = &mut state.bars {
            bars.follow(notice, now);
        }
        for line in state.words.say(notice, now) {
            match line {
                Line::Out(text) => self.screen.out(&text),
                Line::Err(text) => self.screen.err(&text),
                Line::Hint(text) => self.screen.hint(&text),
            }
        }
    }
}

/// What a step counts as.
fn kind_of(step: &Step) -> Counter {
    match step {
        Step::Create { .. } => Counter::Created,
        Step::Update { .. } => Counter::Updated,
        Step::Delete { .. } => Counter::Deletes,
        Step::Rename { .. } => Counter::Renames,
        Step::HardLink { .. } => Counter::Linked,
        Step::Attributes { .. } => Counter::Attributed,
    }
}

/// An error as everybody sees it: one line, and its hint, which may have several.
pub fn show_error(screen: &Screen, error: &Error) {
    screen.err(&words::safe(&error.to_string()));
    for line in error.hint_text().into_iter().flat_map(str::lines) {
        screen.hint(&words::safe(line));
    }
}

impl Metrics for View {
    fn count(&self, counter: Counter, by: u64) {
        self.counters.add(counter, by);
    }

    fn notice(&self, notice: Notice) {
        if let Notice::Step { step, .. } = &notice
            && !self.style.dry_run
        {
            self.counters.add(kind_of(step), 1);
        }
        self.show(&notice, Instant::now());
    }

    fn took(&self, stage: Stage, time: Duration) {
        self.times[stage as usize].add(time);
    }
}
