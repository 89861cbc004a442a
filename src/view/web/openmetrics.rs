//! How mirrors stand, and what was counted, in the text format of OpenMetrics 1.0.

use std::fmt::{Display, Write};

use crate::control::status::{MirrorStatus, State, Status};
use crate::metrics::{BOUNDS_MS, Counter};
use crate::view::View;

/// Every state that a mirror may be in.
const STATES: [State; 7] = [
    State::Connecting,
    State::Mirroring,
    State::Live,
    State::Paused,
    State::Halted,
    State::Waiting,
    State::Silent,
];

/// The whole text.
pub(super) fn text(status: &Status, view: &View) -> String {
    let mut out = Out(String::new());
    let all = &status.mirrors;
    out.family("lsyncd_uptime_seconds", "gauge", "seconds", "Since the process began.");
    out.sample("lsyncd_uptime_seconds", "", status.uptime_seconds);
    out.family("lsyncd_state", "gauge", "", "1 for what the mirror does, 0 for all else.");
    for mirror in all {
        for state in STATES {
            let labels = format!("{},state=\"{}\"", labels(mirror), state.word());
            out.sample("lsyncd_state", &labels, u8::from(mirror.state == state));
        }
    }
    let gauges: [Gauge; 6] = [
        ("lag_seconds", "seconds", "Age of the oldest change that has not arrived.", |m| {
            m.lag_seconds
        }),
        ("queue", "", "Paths that are dirty or on their way.", |m| m.dirty as f64),
        ("in_flight", "", "Operations on their way.", |m| m.in_flight as f64),
        ("in_flight_bytes", "bytes", "Content on its way.", |m| m.in_flight_bytes as f64),
        ("problem_paths", "", "Paths that could not be mirrored.", |m| m.problem_count as f64),
        ("files", "", "Files of the source, as last counted.", |m| m.totals.files as f64),
    ];
    for (name, unit, help, value) in gauges {
        out.each(&format!("lsyncd_{name}"), "gauge", unit, help, all, |m| Some(value(m)));
    }
    let counters: [Gauge; 6] = [
        ("sent_bytes", "bytes", "Bytes sent to the target.", |m| m.sent_bytes as f64),
        ("received_bytes", "bytes", "Bytes received from it.", |m| m.received_bytes as f64),
        ("mirror_ops", "", "Operations sent.", |m| m.totals.ops as f64),
        ("mirror_deletes", "", "Names deleted on the target.", |m| m.totals.deleted as f64),
        ("mirror_reconnects", "", "Links made again.", |m| m.reconnects as f64),
        ("collapses", "", "Times that too much was dirty to be remembered by path.", |m| {
            m.collapsed as f64
        }),
    ];
    for (name, unit, help, value) in counters {
        out.each(&format!("lsyncd_{name}"), "counter", unit, help, all, |m| Some(value(m)));
    }
    let watch: [Watched; 4] = [
        ("watches", "gauge", "Directories watched.", |w| Some(w.watches)),
        ("watch_headroom", "gauge", "Watches that the kernel would still allow.", |w| w.headroom),
        ("watch_polled", "gauge", "Directories that are only looked at now and then.", |w| {
            Some(w.polled)
        }),
        ("watch_overflows", "counter", "Times that the kernel lost events.", |w| Some(w.overflows)),
    ];
    for (name, kind, help, value) in watch {
        out.each(&format!("lsyncd_{name}"), kind, "", help, all, |m| {
            Some(value(m.watch.as_ref()?)? as f64)
        });
    }
    let help = "Since the last comparison by content ended.";
    out.each("lsyncd_verify_age_seconds", "gauge", "seconds", help, all, |m| {
        Some(m.last_verify.as_ref()?.ended_seconds_ago)
    });
    let help = "Paths that had drifted in the last comparison by content.";
    out.each("lsyncd_verify_drifted", "gauge", "", help, all, |m| {
        Some(m.last_verify.as_ref()?.drifted as f64)
    });
    for counter in Counter::ALL {
        let unit = counter.unit();
        let name = match unit {
            "" => format!("lsyncd_{}", counter.name()),
            unit => format!("lsyncd_{}_{unit}", counter.name()),
        };
        out.family(&name, "counter", unit, counter.help());
        out.sample(&format!("{name}_total"), "", view.counters().get(*counter));
    }
    let name = "lsyncd_change_seconds";
    out.family(name, "histogram", "seconds", "How long live changes were in a stage of their way.");
    for (stage, histogram) in view.times() {
        let (stage, so_far) = (stage.name(), histogram.so_far());
        for (ms, count) in BOUNDS_MS.iter().zip(so_far) {
            let bound = *ms as f64 / 1000.0;
            let labels = format!("stage=\"{stage}\",le=\"{bound:?}\"");
            out.sample(&format!("{name}_bucket"), &labels, count);
        }
        let count = so_far[BOUNDS_MS.len()];
        out.sample(&format!("{name}_bucket"), &format!("stage=\"{stage}\",le=\"+Inf\""), count);
        let labels = format!("stage=\"{stage}\"");
        out.sample(&format!("{name}_sum"), &labels, histogram.sum().as_secs_f64());
        out.sample(&format!("{name}_count"), &labels, count);
    }
    out.0 + "# EOF\n"
}

/// Name, unit, help, and the value of a mirror.
type Gauge = (&'static str, &'static str, &'static str, fn(&MirrorStatus) -> f64);
/// Name, kind, help, and the value of its source's watch.
type Watched =
    (&'static str, &'static str, &'static str, fn(&crate::control::status::Watch) -> Option<u64>);

struct Out(String);

impl Out {
    // Writing to a text cannot fail.
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn each(
        &mut self,
        name: &str,
        kind: &str,
        unit: &str,
        help: &str,
        mirrors: &[MirrorStatus],
        value: impl Fn(&MirrorStatus) -> Option<f64>,
    ) {
        self.family(name, kind, unit, help);
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        for mirror in mirrors {
            if let Some(value) = value(mirror) {
                self.sample(&name, &labels(mirror), value);
            }
        }
    }
}

fn labels(mirror: &MirrorStatus) -> String {
    let escaped = mirror.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("mirror=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::CarrierName;
    use crate::metrics::{Metrics, Stage};
    use crate::view::{Screen, Style};
    use std::time::Duration;

    #[test]
    fn every_family_is_introduced_once_and_before_its_samples() {
        let view = View::new(Style::default(), Screen::new(false));
        view.count(Counter::Ops, 3);
        view.took(Stage::Waiting, Duration::from_millis(7));
        let web = MirrorStatus::silent("w\"e\\b\n", b"/s", "h:/t", CarrierName::Agent);
        let live = MirrorStatus { state: State::Live, dirty: 5, ..web };
        let status =
            Status { version: "0".to_owned(), pid: 1, uptime_seconds: 2.5, mirrors: vec![live] };
        let text = text(&status, &view);
        assert!(text.ends_with("\n# EOF\n"));
        assert!(text.contains("lsyncd_queue{mirror=\"w\\\"e\\\\b\\n\"} 5\n"), "{text}");
        assert!(text.contains("state=\"live\"} 1\n"));
        assert!(text.contains("lsyncd_ops_total 3\n"));
        assert!(text.contains("lsyncd_change_seconds_bucket{stage=\"waiting\",le=\"0.01\"} 1\n"));
        let mut known: Vec<&str> = Vec::new();
        for line in text.lines().filter(|line| *line != "# EOF") {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => {
                    let name = rest.split(' ').next().unwrap();
                    assert!(!known.contains(&name), "{name} twice");
                    known.push(name);
                }
                None if line.starts_with('#') => {
                    assert_eq!(line.split(' ').nth(2), known.last().copied(), "{line}");
                }
                None => assert!(line.starts_with(known.last().unwrap()), "{line}"),
            }
        }
        assert!(known.len() > 30, "{known:?}");
    }
}
