//! Lines to the system's log, as syslog(3) writes them, without libc's process-wide state.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Zoned;

use crate::config::settings::Facility;

/// A listener that is stuck holds a line up no longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// A longer message would be refused as a whole.
const LONGEST: usize = 8000;

/// The way to the system's log.
#[derive(Debug)]
pub(super) struct Syslog {
    /// `None`: the system gave us no socket.
    socket: Option<UnixDatagram>,
    path: PathBuf,
    facility: Facility,
    ident: String,
}

impl Syslog {
    pub(super) fn new(path: &Path, facility: Facility, ident: &str) -> Syslog {
        let socket = UnixDatagram::unbound().ok();
        if let Some(socket) = &socket {
            // Without it, it would wait for as long as it takes.
            let _ = socket.set_write_timeout(Some(PATIENCE));
        }
        Syslog { socket, path: path.to_owned(), facility, ident: super::safe(ident) }
    }

    /// Does somebody listen?
    pub(super) fn check(&self) -> io::Result<()> {
        UnixDatagram::unbound()?.connect(&self.path)
    }

    /// Sends a text, each of its lines by itself. The address is looked up each time, so a listener
    /// may be restarted; what it misses is lost, there being nobody else to tell.
    pub(super) fn send(&self, category: &str, text: &str, at: &Zoned) {
        let Some(socket) = &self.socket else { return };
        for line in text.split('\n') {
            let message = self.message(category, line, at);
            let _ = socket.send_to(message.as_bytes(), &self.path);
        }
    }

    fn message(&self, category: &str, line: &str, at: &Zoned) -> String {
        let severity = match category {
            "Error" => 3,
            "Warn" => 4,
            "Normal" => 5,
            _ => 7,
        };
        let priority = u32::from(self.facility.number()) * 8 + severity;
        let (time, ident, pid) = (at.strftime("%b %e %H:%M:%S"), &self.ident, std::process::id());
        let mut message = format!("<{priority}>{time} {ident}[{pid}]: {category}, {line}");
        let end = (0..=LONGEST.min(message.len())).rev().find(|&end| message.is_char_boundary(end));
        message.truncate(end.unwrap_or_default());
        message
    }
}
