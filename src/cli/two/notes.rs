//! Keys that a configuration gives and that have no effect, and why that is no loss.

use crate::config::lua::{Entry, Way};

const EXIT_CODES: &str = "the agent has none; each path says how it went";

/// Keys that mean nothing to a mirror that the agent carries.
const TO_THE_AGENT: [(&str, &str); 7] = [
    ("batchSizeLimit", "large files go beside small ones anyway"),
    ("exitcodes", EXIT_CODES),
    ("maxDelays", "what waits is bounded by itself"),
    ("maxProcesses", "no processes are started for changes"),
    ("onMove", "what moves is always moved"),
    ("rsyncExitCodes", EXIT_CODES),
    ("sshExitCodes", EXIT_CODES),
];

/// Keys that mean nothing to a mirror that rsync carries.
const TO_RSYNC: [(&str, &str); 2] = [
    ("onMove", "rsync knows no renames; both names are brought up to date"),
    ("sshExitCodes", "ssh is run by rsync alone, whose exit codes count"),
];

/// One line for each.
pub(super) fn without_effect(entry: &Entry, by_agent: bool) -> Vec<String> {
    let table: &[(&str, &str)] = if by_agent { &TO_THE_AGENT } else { &TO_RSYNC };
    let mut notes: Vec<String> = table
        .iter()
        .filter(|(key, _)| entry.given.contains(*key))
        .map(|(key, why)| format!("{key} has no effect: {why}"))
        .collect();
    if !by_agent && entry.way != Way::Rsync && entry.given.contains("exitcodes") {
        notes.push("exitcodes has no effect: rsyncExitCodes says what rsync's mean".to_owned());
    }
    notes
}
