//! What the program logs of itself, as lines of Lsyncd 2's log: a daemon has no standard error.

use std::io::{Result, Write};
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::TwoLog;

/// Takes events that are formatted without time, level and target; the log adds its own.
#[derive(Clone)]
pub struct Traces(pub Arc<TwoLog>);

/// Takes one event, whole.
pub struct Trace<'a> {
    log: &'a TwoLog,
    category: &'static str,
}

impl<'a> MakeWriter<'a> for Traces {
    type Writer = Trace<'a>;

    fn make_writer(&'a self) -> Trace<'a> {
        Trace { log: &self.0, category: "Debug" }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Trace<'a> {
        let category = match *meta.level() {
            Level::ERROR => "Error",
            Level::WARN => "Warn",
            _ => "Debug",
        };
        Trace { log: &self.0, category }
    }
}

impl Write for Trace<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.log.line(self.category, String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
