//! Standard output and standard error, shared by lines, log and progress bars.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Where lines go. Clones share one screen: a line never tears a bar or another line.
#[derive(Clone)]
pub struct Screen {
    bars: MultiProgress,
    /// Lines of standard error begin with the time.
    stamped: bool,
    gone: Arc<Gone>,
}

#[derive(Default)]
struct Gone {
    flag: AtomicBool,
    notify: Notify,
}

impl Screen {
    /// The screen of this process. `stamped`: lines on standard error begin with the time, for a
    /// log that has no times of its own.
    #[must_use]
    pub fn new(stamped: bool) -> Screen {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Screen { bars, stamped, gone: Arc::default() }
    }

    /// A line for programs, or that was asked for, on standard output.
    pub fn out(&self, line: &str) {
        let written = self.bars.suspend(|| {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush())
        });
        if written.is_err() && !self.gone.flag.swap(true, Ordering::Relaxed) {
            self.gone.notify.notify_one();
        }
    }

    /// A line for people, on standard error, behind `lsyncd: `.
    pub fn err(&self, line: &str) {
        let line = format!("{}lsyncd: {line}\n", self.stamp());
        self.write(line.as_bytes());
    }

    /// What to do about the line before.
    pub fn hint(&self, hint: &str) {
        let line = format!("{}hint: {hint}\n", self.stamp());
        self.write(line.as_bytes());
    }

    /// Waits until nobody reads standard output any more.
    pub async fn nobody_reads(&self) {
        if !self.gone.flag.load(Ordering::Relaxed) {
            self.gone.notify.notified().await;
        }
    }

    /// The time and a space, if lines are to begin with it.
    #[must_use]
    pub fn stamp(&self) -> String {
        let mut text = String::new();
        if self.stamped && SystemTime.format_time(&mut Writer::new(&mut text)).is_ok() {
            text.push(' ');
        }
        text
    }

    pub(super) fn bars(&self) -> MultiProgress {
        self.bars.clone()
    }

    fn write(&self, bytes: &[u8]) {
        // Nothing can be told to anybody if standard error is gone.
        let _ = self.bars.suspend(|| std::io::stderr().lock().write_all(bytes));
    }
}

/// The log writes whole lines; each goes out at once.
pub struct LogLine<'a>(&'a Screen);

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_a_time_of_the_day_and_a_space() {
        assert_eq!(Screen::new(false).stamp(), "");
        let stamp = Screen::new(true).stamp();
        assert!(stamp.starts_with("20") && stamp.ends_with("Z ") && stamp.contains('T'), "{stamp}");
    }
}
