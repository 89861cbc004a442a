//! How running mirrors stand: a table for people, an object for programs; and what became of those
//! that were asked something.

use std::fmt::Write as _;
use std::time::Duration;

use lsync_protocol::path::Escaped;
use serde_json::{Value, json};

use super::words::{bytes, safe, seconds};
use crate::control::client::Process;
use crate::control::status::{MirrorStatus, State};
use crate::control::{Outcome, Steered};
use crate::error::Exit;

/// How far two looks are apart that show what moves.
pub const APART: Duration = Duration::from_millis(500);
/// Problems that are listed for each mirror; `--json` has more.
const PROBLEMS: usize = 3;

/// Is anything on its way, so that a second look shows how fast?
#[must_use]
pub fn moves(processes: &[Process]) -> bool {
    let mut mirrors = processes.iter().flat_map(|process| &process.status.mirrors);
    mirrors.any(|mirror| mirror.in_flight > 0 || mirror.walk.is_some())
}

/// The object of `status --json`: an array of processes, each with its mirrors.
#[must_use]
pub fn json(processes: &[Process]) -> String {
    let all: Vec<Value> = processes
        .iter()
        .map(|process| serde_json::to_value(&process.status).unwrap_or(Value::Null))
        .collect();
    format!("{}\n", json!({ "processes": all }))
}

/// The table. `again`: the same a moment later.
#[must_use]
pub fn text(processes: &[Process], again: Option<&[Process]>) -> String {
    let mut rows = vec![["NAME", "STATE", "LAG", "QUEUE", "RATE", "PROBLEMS"].map(str::to_owned)];
    let mut details = vec![Vec::new()];
    for process in processes {
        for mirror in &process.status.mirrors {
            let now = again.and_then(|again| later(again, process.status.pid, &mirror.name));
            let rate = now.map_or(0.0, |now| {
                now.sent_bytes.saturating_sub(mirror.sent_bytes) as f64 / APART.as_secs_f64()
            });
            let mirror = now.unwrap_or(mirror);
            rows.push(row(mirror, rate));
            details.push(detail(mirror));
        }
    }
    let widths: [usize; 6] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut out = String::new();
    for (row, details) in rows.iter().zip(details) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        // Writing to a text cannot fail.
        let _ = writeln!(out, "{}", line.trim_end());
        for detail in details {
            let _ = writeln!(out, "  {detail}");
        }
    }
    out
}

fn later<'a>(again: &'a [Process], pid: u32, name: &str) -> Option<&'a MirrorStatus> {
    let process = again.iter().find(|process| process.status.pid == pid)?;
    process.status.mirrors.iter().find(|mirror| mirror.name == name)
}

fn row(mirror: &MirrorStatus, rate: f64) -> [String; 6] {
    let lag = match mirror.lag_seconds {
        lag if lag <= 0.0 => "-".to_owned(),
        lag => seconds(Duration::try_from_secs_f64(lag).unwrap_or_default()),
    };
    let count = |n: u64| if n == 0 { "-".to_owned() } else { n.to_string() };
    // A rate is not what was sent in a blink.
    let rate = if rate < 1.0 { "-".to_owned() } else { format!("{}/s", bytes(rate as u64)) };
    [
        Escaped(mirror.name.as_bytes()).to_string(),
        mirror.state.word().to_owned(),
        lag,
        count(mirror.dirty),
        rate,
        count(mirror.problem_count),
    ]
}

fn detail(mirror: &MirrorStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let source = mirror.source.shown();
    let target = Escaped(mirror.target.as_bytes());
    lines.push(format!("{source} -> {target}"));
    if let Some(reason) = &mirror.reason {
        lines.push(safe(reason));
    }
    match mirror.state {
        State::Halted => lines.push(
            "deletes stop, everything else goes on; lsyncd resume --confirm lets them happen"
                .to_owned(),
        ),
        State::Paused => lines.push("lsyncd resume has it go on".to_owned()),
        State::Silent => lines.push("it has ended, or is too busy to say".to_owned()),
        _ => {}
    }
    if let Some(walk) = &mirror.walk {
        let of = walk.to_send_bytes.map(|all| format!(" of {}", bytes(all))).unwrap_or_default();
        lines.push(format!(
            "comparing: {} files in {} directories, {}{of} sent",
            walk.files,
            walk.directories,
            bytes(walk.sent_bytes)
        ));
    }
    for problem in mirror.problems.iter().take(PROBLEMS) {
        let tries = if problem.tries == 1 { "try" } else { "tries" };
        let (path, cause) = (problem.path.shown(), safe(&problem.cause));
        lines.push(format!("problem: {path}: {cause} ({} {tries})", problem.tries));
    }
    let more = mirror.problem_count.saturating_sub(PROBLEMS as u64);
    if more > 0 {
        lines.push(format!("and {more} more; lsyncd status --json lists them"));
    }
    if let Some(watch) = mirror.watch.as_ref().filter(|watch| watch.polled > 0) {
        lines.push(format!(
            "directories without a watch, looked at now and then: {}; raise \
             fs.inotify.max_user_watches",
            watch.polled
        ));
    }
    if let Some(last) = &mirror.last_verify {
        let time = |secs: f64| seconds(Duration::try_from_secs_f64(secs).unwrap_or_default());
        lines.push(format!(
            "compared by content {} ago: {} files, {} had drifted, {} could not be compared",
            time(last.ended_seconds_ago),
            last.files,
            last.drifted,
            last.unknown
        ));
    }
    lines
}

/// A line that says what became of a mirror that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// What was asked for.
    Out(String),
    /// What went wrong.
    Err(String),
    /// What to do about it.
    Hint(String),
}

/// What a flush, a pause or a resume came to: an exit code, and what is said of it.
#[must_use]
pub fn steered(steered: &Steered) -> (Exit, Vec<Said>) {
    let name = Escaped(steered.name.as_bytes());
    let reason = steered.reason.as_deref().map(safe).unwrap_or_default();
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let err = |text: String, hint: &str| {
        (Exit::Stopped, vec![Said::Err(text), Said::Hint(hint.to_owned())])
    };
    match steered.outcome {
        Outcome::Done => (Exit::Done, Vec::new()),
        Outcome::Already => (Exit::Done, vec![Said::Out(format!("{name} was not paused"))]),
        Outcome::Problems => {
            let all = steered.problems.iter().map(|problem| {
                let (path, cause) = (problem.path.shown(), safe(&problem.cause));
                Said::Err(format!("{name}: {path}: {cause}"))
            });
            (Exit::Partial, all.collect())
        }
        Outcome::Paused => err(format!("{name} is paused"), "lsyncd resume has it go on"),
        Outcome::Halted => err(
            format!("{name} deletes nothing{because}"),
            "if the deletes are meant, lsyncd resume --confirm lets them happen",
        ),
        Outcome::TimedOut => err(
            format!("{name} is not mirrored yet{because}"),
            "lsyncd status says how it stands; --timeout gives it longer",
        ),
        Outcome::Ended => err(format!("{name} has ended"), "lsyncd status says which mirrors run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{CarrierName, ProblemStatus, Status, WalkStatus};

    fn process(mirrors: Vec<MirrorStatus>) -> Process {
        let status = Status { version: "0".to_owned(), pid: 7, uptime_seconds: 1.0, mirrors };
        Process::known("/x".into(), status)
    }

    fn mirror(name: &str, state: State) -> MirrorStatus {
        let silent = MirrorStatus::silent(name, b"/srv/w\nw", "h:/t", CarrierName::Agent);
        MirrorStatus { state, ..silent }
    }

    #[test]
    fn the_table_says_what_matters_and_escapes_names() {
        let problem = |path: &str| ProblemStatus {
            path: path.as_bytes().into(),
            cause: "permission denied".to_owned(),
            tries: 2,
        };
        let live = MirrorStatus {
            dirty: 12,
            in_flight: 3,
            lag_seconds: 0.25,
            sent_bytes: 1_000_000,
            problem_count: 5,
            problems: vec![problem("a"), problem("b"), problem("c"), problem("d")],
            ..mirror("web", State::Live)
        };
        let halted = MirrorStatus {
            reason: Some("too many".to_owned()),
            walk: Some(WalkStatus {
                directories: 2,
                files: 3,
                sent_bytes: 5,
                to_send_bytes: Some(2000),
            }),
            ..mirror("m\u{1b}", State::Halted)
        };
        let later = MirrorStatus { sent_bytes: 2_000_000, ..live.clone() };
        let first = [process(vec![live, halted.clone()])];
        assert!(moves(&first));
        let again = [process(vec![later, halted])];
        assert_eq!(
            text(&first, Some(&again)),
            "\
NAME   STATE   LAG    QUEUE  RATE      PROBLEMS
web    live    0.2 s  12     2.0 MB/s  5
  /srv/w\\nw -> h:/t
  problem: a: permission denied (2 tries)
  problem: b: permission denied (2 tries)
  problem: c: permission denied (2 tries)
  and 2 more; lsyncd status --json lists them
m\\x1b  halted  -      -      -         -
  /srv/w\\nw -> h:/t
  too many
  deletes stop, everything else goes on; lsyncd resume --confirm lets them happen
  comparing: 3 files in 2 directories, 5 B of 2.0 kB sent
"
        );
    }

    #[test]
    fn what_was_asked_leads_to_a_code_and_to_words() {
        let of = |outcome, reason: Option<&str>| {
            steered(&Steered {
                name: "web".to_owned(),
                outcome,
                reason: reason.map(str::to_owned),
                problems: Vec::new(),
            })
        };
        assert_eq!(of(Outcome::Done, None), (Exit::Done, Vec::new()));
        for (outcome, reason, exit, text) in [
            (Outcome::Paused, None, Exit::Stopped, "web is paused"),
            (Outcome::Halted, Some("many"), Exit::Stopped, "web deletes nothing: many"),
            (Outcome::TimedOut, Some("live"), Exit::Stopped, "web is not mirrored yet: live"),
            (Outcome::Ended, None, Exit::Stopped, "web has ended"),
        ] {
            let (code, said) = of(outcome, reason);
            assert_eq!((code, &said[0]), (exit, &Said::Err(text.to_owned())));
            assert!(matches!(&said[1], Said::Hint(hint) if hint.contains("lsyncd ")));
        }
    }
}
