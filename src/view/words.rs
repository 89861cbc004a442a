//! Notices as lines: a function of what was said before, what happened and the time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_protocol::path::{Escaped, RelPath};

use super::Style;
use crate::metrics::{Difference, Differs, Notice, Progress, Step, Totals};

/// Without a bar, how far it has come is said this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// A link that stays away for the same reason is mentioned again after this.
const LOST_EVERY: Duration = Duration::from_secs(300);

/// So many problems are kept to be listed again; the others are only counted.
const PROBLEMS_KEPT: usize = 1000;

/// A line, and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// On standard output: it was asked for.
    Out(String),
    /// On standard error, behind the program's name.
    Err(String),
    /// On standard error, what to do about the line before.
    Hint(String),
}

/// What was said, so that nothing is said twice.
pub(super) struct Words {
    style: Style,
    mirrors: HashMap<Arc<str>, Said>,
}

#[derive(Default)]
struct Said {
    /// When progress was last said, and the bytes sent by then.
    progress: Option<(Instant, u64)>,
    /// Why the link was lost, and when that was last said.
    lost: Option<(String, Instant)>,
    /// The problems that are open, with their causes.
    problems: BTreeMap<RelPath, String>,
}

impl Words {
    pub(super) fn new(style: Style) -> Words {
        Words { style, mirrors: HashMap::new() }
    }

    /// The lines for a notice.
    pub(super) fn say(&mut self, notice: &Notice, now: Instant) -> Vec<Line> {
        let style = self.style;
        let mirror = notice.mirror();
        let name = safe(mirror);
        let said = self.mirrors.entry(Arc::clone(mirror)).or_default();
        // With one mirror there is no question which one is meant.
        let prefix = if style.several { format!("{name}: ") } else { String::new() };
        let line = |text: String| vec![Line::Err(format!("{prefix}{text}"))];
        let loud = !style.quiet;
        match notice {
            Notice::Connecting { .. } if style.verbose => line(format!("connecting to {name}")),
            Notice::Deploying { host, .. } if loud => {
                line(format!("copying the agent to {}", safe(host)))
            }
            Notice::Carrier { text, .. } | Notice::Fixed { text, .. } if loud => line(safe(text)),
            Notice::Progress { progress, .. } if loud && !style.progress => {
                match said.progress_text(progress, now) {
                    Some(text) => line(text),
                    None => Vec::new(),
                }
            }
            Notice::Ready { totals, .. } => {
                vec![Line::Err(format!("ready: {name}: {}", totals_text(totals)))]
            }
            Notice::Done { totals, .. } if loud => {
                let verb = if style.dry_run { "would be done" } else { "done" };
                let mut lines = vec![Line::Err(format!("{verb}: {name}: {}", totals_text(totals)))];
                lines.extend(said.problems_again(totals.problems, "mirrored"));
                lines
            }
            Notice::Verified { totals, differences, healed, .. } if loud => {
                let text = totals_text(totals);
                let verb = if *healed { "compared and healed" } else { "compared" };
                let found = counted(*differences, "difference");
                let mut lines = vec![Line::Err(format!("{verb}: {name}: {found}, {text}"))];
                lines.extend(said.problems_again(totals.problems, verb));
                lines
            }
            Notice::Differs { difference, .. } if style.verify => {
                vec![Line::Out(format!("{prefix}{}", difference_text(difference)))]
            }
            Notice::Differs { difference, .. } => {
                line(format!("drifted, and is being mended: {}", difference_text(difference)))
            }
            Notice::Problem { problem, .. } => {
                if said.is_known(&problem.path, &problem.cause) {
                    return Vec::new();
                }
                let cause = safe(&problem.cause);
                let verb = if style.verify { "compare" } else { "mirror" };
                line(format!("cannot {verb} {}: {cause}", problem.path))
            }
            Notice::Solved { path, .. } => {
                let known = said.problems.remove(path).is_some();
                if known && loud { line(format!("mirrored after all: {path}")) } else { Vec::new() }
            }
            Notice::Warning { text, .. } if loud => line(format!("warning: {}", safe(text))),
            Notice::Lost { cause, retry_in, .. } => {
                let again = match &said.lost {
                    Some((before, at)) => before != cause || now - *at >= LOST_EVERY,
                    None => true,
                };
                if !(again || style.verbose) {
                    return Vec::new();
                }
                said.lost = Some((cause.clone(), now));
                line(format!(
                    "link to {name} is down: {}; trying again in {}",
                    safe(cause),
                    seconds(*retry_in)
                ))
            }
            Notice::Reconnected { .. } => {
                let was_said = said.lost.take().is_some();
                if was_said && loud {
                    line(format!("link to {name} is up again"))
                } else {
                    Vec::new()
                }
            }
            Notice::Halted { reason, hint, .. } => {
                let reason = safe(reason);
                with_hint(format!("halted: {name}: {reason}"), hint.as_deref())
            }
            Notice::Failed { what, hint, .. } => {
                let what = safe(what);
                with_hint(format!("{prefix}{what}"), hint.as_deref())
            }
            // It is lsyncd's own line, and no mirror's.
            Notice::Reloaded { text, .. } if loud => vec![Line::Err(safe(text))],
            Notice::Serving { url, .. } if loud => {
                vec![Line::Err(format!("{url} shows how it stands"))]
            }
            Notice::Paused { .. } if loud => {
                line(format!("paused: {name}; lsyncd resume has it go on"))
            }
            Notice::Resumed { .. } if loud => line(format!("going on: {name}")),
            Notice::Step { step, .. } if style.dry_run => {
                vec![Line::Out(format!("{prefix}{}", step_text(step)))]
            }
            Notice::Step { step, .. } if style.verbose => line(step_text(step)),
            Notice::Connecting { .. }
            | Notice::Deploying { .. }
            | Notice::Carrier { .. }
            | Notice::Fixed { .. }
            | Notice::Rsync { .. }
            | Notice::Progress { .. }
            | Notice::Warning { .. }
            | Notice::Reloaded { .. }
            | Notice::Serving { .. }
            | Notice::Paused { .. }
            | Notice::Resumed { .. }
            | Notice::Step { .. }
            | Notice::Verified { .. }
            | Notice::Done { .. } => Vec::new(),
        }
    }
}

/// A text made safe to show. What stands in it may be escaped already, so backslashes stay.
pub(super) fn safe(text: &str) -> String {
    let parts: Vec<String> =
        text.split('\\').map(|part| Escaped(part.as_bytes()).to_string()).collect();
    parts.join("\\")
}

fn with_hint(text: String, hint: Option<&str>) -> Vec<Line> {
    let hint = hint.map(|hint| Line::Hint(safe(hint)));
    std::iter::once(Line::Err(text)).chain(hint).collect()
}

impl Said {
    /// Remembers a problem; was the same said before?
    fn is_known(&mut self, path: &RelPath, cause: &str) -> bool {
        if let Some(before) = self.problems.get_mut(path) {
            let same = before == cause;
            cause.clone_into(before);
            return same;
        }
        if self.problems.len() < PROBLEMS_KEPT {
            self.problems.insert(path.clone(), cause.to_owned());
        }
        false
    }

    fn problems_again(&self, count: u64, verb: &str) -> Vec<Line> {
        let count = count.max(self.problems.len() as u64);
        if count == 0 {
            return Vec::new();
        }
        let mut lines = vec![Line::Err(format!("{} could not be {verb}:", counted(count, "path")))];
        for (path, cause) in &self.problems {
            lines.push(Line::Err(format!("  {path}: {}", safe(cause))));
        }
        let more = count - self.problems.len() as u64;
        if more > 0 {
            lines.push(Line::Err(format!("  and {more} more")));
        }
        lines
    }

    fn progress_text(&mut self, progress: &Progress, now: Instant) -> Option<String> {
        let Some((at, sent)) = self.progress else {
            // The first that is heard of a walk: what is quick needs no such line.
            self.progress = Some((now, progress.sent));
            return None;
        };
        let passed = now - at;
        if passed < PROGRESS_EVERY {
            return None;
        }
        self.progress = Some((now, progress.sent));
        let rate = progress.sent.saturating_sub(sent) as f64 / passed.as_secs_f64();
        Some(format!("mirroring: {}, {}/s", progress_text(progress), bytes(rate as u64)))
    }
}

/// `12 files in 3 directories compared, 7.8 MB of 10 MB sent`.
pub(super) fn progress_text(progress: &Progress) -> String {
    let of = progress.to_send.map(|all| format!(" of {}", bytes(all))).unwrap_or_default();
    format!(
        "{} in {} compared, {}{of} sent",
        counted(progress.files, "file"),
        directories(progress.directories),
        bytes(progress.sent)
    )
}

fn totals_text(totals: &Totals) -> String {
    format!(
        "{}, {}, {} in {}",
        counted(totals.files, "file"),
        directories(totals.directories),
        bytes(totals.bytes),
        seconds(totals.elapsed)
    )
}

pub(super) fn step_text(step: &Step) -> String {
    let slash = |dir: &bool| if *dir { "/" } else { "" };
    match step {
        Step::Create { path, dir } => format!("create {path}{}", slash(dir)),
        Step::Update { path } => format!("update {path}"),
        Step::Delete { path, dir } => format!("delete {path}{}", slash(dir)),
        Step::Rename { from, to } => format!("rename {from} -> {to}"),
        Step::HardLink { path, from } => format!("hard link {path} => {from}"),
        Step::Attributes { path } => format!("attributes {path}"),
    }
}

/// `content a/b (mtime)`: how, where, and what else.
pub(super) fn difference_text(difference: &Difference) -> String {
    let Difference { path, how, attributes } = difference;
    let slash = |dir: bool| if dir { "/" } else { "" };
    let attributes = match attributes[..] {
        [] => String::new(),
        _ => format!(" ({})", attributes.join(", ")),
    };
    match how {
        Differs::Missing { dir } => format!("missing {path}{}", slash(*dir)),
        Differs::Extra { dir } => format!("extra {path}{}", slash(*dir)),
        Differs::Kind { source, target } => {
            format!("kind {path} ({} instead of {})", target.words(), source.words())
        }
        Differs::Content => format!("content {path}{attributes}"),
        Differs::Attributes => format!("attributes {path}{attributes}"),
    }
}

fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn directories(n: u64) -> String {
    if n == 1 { "1 directory".to_owned() } else { format!("{n} directories") }
}

/// `999 B`, `7.8 MB`: powers of 1000, two digits at least.
pub(super) fn bytes(n: u64) -> String {
    let mut value = n as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        // What would be rounded to four digits belongs to the next unit.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" || value >= 9.95 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// `0.9 s`, `25 s`, `2 min 5 s`.
pub(super) fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    if s < 9.95 {
        format!("{s:.1} s")
    } else if s < 119.5 {
        format!("{s:.0} s")
    } else {
        let whole = s.round() as u64;
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests;
