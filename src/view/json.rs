//! Notices as objects, one a line, for programs: snake_case, seconds as numbers, a path that is
//! not UTF-8 as `{"base64": …}`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_protocol::entry::Kind;
use lsync_protocol::path::RelPath;
use serde_json::{Map, Value, json};

use super::Style;
use crate::metrics::{Counter, Counters, Difference, Differs, Notice, Step, Totals};

/// Progress is reported this often at most.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Makes objects of notices.
pub(super) struct Objects {
    style: Style,
    progress: HashMap<Arc<str>, Instant>,
}

impl Objects {
    pub(super) fn new(style: Style) -> Objects {
        Objects { style, progress: HashMap::new() }
    }

    /// The object for a notice, as a line; `None` if it is not reported.
    pub(super) fn of(
        &mut self,
        notice: &Notice,
        counters: &Counters,
        now: Instant,
    ) -> Option<String> {
        let matters = matches!(
            notice,
            Notice::Ready { .. }
                | Notice::Problem { .. }
                | Notice::Lost { .. }
                | Notice::Halted { .. }
                | Notice::Failed { .. }
                | Notice::Step { .. }
                | Notice::Differs { .. }
        );
        if self.style.quiet && !matters {
            return None;
        }
        let (event, rest) = match notice {
            Notice::Connecting { .. } => ("connecting", json!({})),
            Notice::Carrier { text, .. } => ("carrier", json!({ "text": text })),
            // Its steps tell more.
            Notice::Rsync { .. } => return None,
            Notice::Deploying { host, .. } => ("deploying", json!({ "host": host })),
            Notice::Progress { mirror, progress } => {
                let last = self.progress.get(mirror);
                if last.is_some_and(|at| now - *at < PROGRESS_EVERY) {
                    return None;
                }
                self.progress.insert(Arc::clone(mirror), now);
                let rest = json!({
                    "directories": progress.directories,
                    "files": progress.files,
                    "sent_bytes": progress.sent,
                    "to_send_bytes": progress.to_send,
                });
                ("progress", rest)
            }
            Notice::Ready { totals, .. } => ("ready", totals_object(totals)),
            Notice::Problem { problem, .. } => {
                let path = path(&problem.path);
                let rest = json!({ "path": path, "cause": problem.cause, "tries": problem.tries });
                ("problem", rest)
            }
            Notice::Solved { path: solved, .. } => ("solved", json!({ "path": path(solved) })),
            Notice::Fixed { text, .. } => ("fixed", json!({ "text": text })),
            Notice::Warning { text, .. } => ("warning", json!({ "text": text })),
            Notice::Lost { cause, retry_in, .. } => {
                ("lost", json!({ "cause": cause, "retry_seconds": retry_in.as_secs_f64() }))
            }
            Notice::Reconnected { .. } => ("reconnected", json!({})),
            Notice::Halted { reason, hint, .. } => {
                ("halted", json!({ "reason": reason, "hint": hint }))
            }
            Notice::Reloaded { text, .. } => ("reloaded", json!({ "text": text })),
            Notice::Serving { url, .. } => ("serving", json!({ "url": url })),
            Notice::Paused { .. } => ("paused", json!({})),
            Notice::Resumed { .. } => ("resumed", json!({})),
            Notice::Failed { what, hint, .. } => ("failed", json!({ "cause": what, "hint": hint })),
            Notice::Step { step, .. } if self.style.dry_run || self.style.verbose => {
                ("op", step_object(step))
            }
            Notice::Step { .. } => return None,
            Notice::Differs { difference, .. } => ("difference", difference_object(difference)),
            Notice::Verified { totals, differences, healed, .. } => {
                let mut rest = totals_object(totals);
                rest["differences"] = json!(differences);
                rest["healed"] = json!(healed);
                ("verified", rest)
            }
            Notice::Done { totals, .. } => {
                let mut rest = totals_object(totals);
                let values = Counter::ALL.iter().map(|c| {
                    let unit =
                        if c.unit().is_empty() { String::new() } else { format!("_{}", c.unit()) };
                    (format!("{}{unit}", c.name()), json!(counters.get(*c)))
                });
                rest["counters"] = Value::Object(values.collect());
                ("done", rest)
            }
        };
        let mut object = Map::new();
        object.insert("event".to_owned(), json!(event));
        object.insert("mirror".to_owned(), json!(&**notice.mirror()));
        if let Value::Object(rest) = rest {
            object.extend(rest);
        }
        Some(Value::Object(object).to_string())
    }
}

fn totals_object(totals: &Totals) -> Value {
    json!({
        "files": totals.files,
        "directories": totals.directories,
        "bytes": totals.bytes,
        "ops": totals.ops,
        "deleted": totals.deleted,
        "problems": totals.problems,
        "seconds": totals.elapsed.as_secs_f64(),
    })
}

fn step_object(step: &Step) -> Value {
    match step {
        Step::Create { path: p, dir } => json!({ "op": "create", "path": path(p), "dir": dir }),
        Step::Update { path: p } => json!({ "op": "update", "path": path(p) }),
        Step::Delete { path: p, dir } => json!({ "op": "delete", "path": path(p), "dir": dir }),
        Step::Rename { from, to } => {
            json!({ "op": "rename", "from": path(from), "path": path(to) })
        }
        Step::HardLink { path: p, from } => {
            json!({ "op": "link", "path": path(p), "from": path(from) })
        }
        Step::Attributes { path: p } => json!({ "op": "attributes", "path": path(p) }),
    }
}

fn difference_object(difference: &Difference) -> Value {
    let Difference { path: p, how, attributes } = difference;
    let word = |kind: &Kind| kind.words().trim_start_matches("a ");
    let mut object = match how {
        Differs::Missing { dir } => json!({ "difference": "missing", "dir": dir }),
        Differs::Extra { dir } => json!({ "difference": "extra", "dir": dir }),
        Differs::Kind { source, target } => {
            json!({ "difference": "kind", "source": word(source), "target": word(target) })
        }
        Differs::Content => json!({ "difference": "content" }),
        Differs::Attributes => json!({ "difference": "attributes" }),
    };
    object["path"] = path(p);
    if !attributes.is_empty() {
        object["attributes"] = json!(attributes);
    }
    object
}

/// A path as text, or in base64 where it is none. The root is the empty text.
pub(super) fn path(path: &RelPath) -> Value {
    match std::str::from_utf8(path.as_bytes()) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": data_encoding::BASE64.encode(path.as_bytes()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Problem;
    use crate::metrics::Progress;

    fn object(objects: &mut Objects, notice: &Notice) -> Option<Value> {
        let line = objects.of(notice, &Counters::default(), Instant::now())?;
        assert!(!line.contains('\n'), "one line: {line}");
        Some(serde_json::from_str(&line).unwrap())
    }

    fn web() -> Arc<str> {
        "web".into()
    }

    #[test]
    fn ready_and_problems_are_objects() {
        let mut objects = Objects::new(Style::default());
        let totals =
            Totals { files: 3, bytes: 5, elapsed: Duration::from_millis(500), ..Totals::default() };
        let ready = object(&mut objects, &Notice::Ready { mirror: web(), totals }).unwrap();
        assert_eq!(
            ready,
            json!({"event": "ready", "mirror": "web", "files": 3, "directories": 0, "bytes": 5,
                "ops": 0, "deleted": 0, "problems": 0, "seconds": 0.5})
        );
        let problem = |path: &[u8]| Notice::Problem {
            mirror: web(),
            problem: Problem {
                path: RelPath::new(path).unwrap(),
                cause: "denied".to_owned(),
                tries: 2,
            },
        };
        assert_eq!(
            object(&mut objects, &problem(b"a\nb")).unwrap(),
            json!({"event": "problem", "mirror": "web", "path": "a\nb", "cause": "denied", "tries": 2})
        );
        let odd = object(&mut objects, &problem(b"\xff\xfe/x")).unwrap();
        assert_eq!(odd["path"], json!({"base64": "//4veA=="}));
        let done = object(&mut objects, &Notice::Done { mirror: web(), totals }).unwrap();
        assert_eq!(done["counters"]["content_bytes"], 0);
    }

    #[test]
    fn steps_are_reported_where_they_were_asked_for() {
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let step =
            Notice::Step { mirror: web(), step: Step::Rename { from: path("a"), to: path("b") } };
        assert_eq!(object(&mut Objects::new(Style::default()), &step), None);
        for style in [
            Style { dry_run: true, ..Style::default() },
            Style { verbose: true, ..Style::default() },
        ] {
            assert_eq!(
                object(&mut Objects::new(style), &step).unwrap(),
                json!({"event": "op", "mirror": "web", "op": "rename", "from": "a", "path": "b"})
            );
        }
    }

    #[test]
    fn differences_are_objects_with_what_differs() {
        let mut objects = Objects::new(Style { quiet: true, ..Style::default() });
        let found = |how, attributes: &[&'static str]| Notice::Differs {
            mirror: web(),
            difference: Difference {
                path: RelPath::new(&b"a"[..]).unwrap(),
                how,
                attributes: attributes.to_vec(),
            },
        };
        let kind = Differs::Kind { source: Kind::File, target: Kind::Fifo };
        for (notice, rest) in [
            (
                found(Differs::Missing { dir: true }, &[]),
                json!({"difference": "missing", "dir": true}),
            ),
            (
                found(Differs::Extra { dir: false }, &[]),
                json!({"difference": "extra", "dir": false}),
            ),
            (found(kind, &[]), json!({"difference": "kind", "source": "file", "target": "FIFO"})),
            (
                found(Differs::Content, &["mtime"]),
                json!({"difference": "content", "attributes": ["mtime"]}),
            ),
            (
                found(Differs::Attributes, &["mode"]),
                json!({"difference": "attributes", "attributes": ["mode"]}),
            ),
        ] {
            let mut want = json!({"event": "difference", "mirror": "web", "path": "a"});
            for (key, value) in rest.as_object().unwrap() {
                want[key] = value.clone();
            }
            assert_eq!(object(&mut objects, &notice).unwrap(), want);
        }
    }

    #[test]
    fn quiet_leaves_what_matters() {
        let mut objects = Objects::new(Style { quiet: true, ..Style::default() });
        let connecting = Notice::Connecting { mirror: web() };
        assert_eq!(object(&mut objects, &connecting), None);
        let failed = Notice::Failed { mirror: web(), what: "no".to_owned(), hint: None };
        assert_eq!(
            object(&mut objects, &failed).unwrap(),
            json!({"event": "failed", "mirror": "web", "cause": "no", "hint": null})
        );
    }

    #[test]
    fn progress_comes_once_a_second() {
        let mut objects = Objects::new(Style::default());
        let notice = Notice::Progress { mirror: web(), progress: Progress::default() };
        let start = Instant::now();
        let mut at = |ms| {
            let now = start + Duration::from_millis(ms);
            objects.of(&notice, &Counters::default(), now).is_some()
        };
        assert!(at(0) && !at(999) && at(1000) && !at(1999));
    }
}
