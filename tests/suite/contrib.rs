//! What stands in `contrib`: alerts that Prometheus takes, about numbers that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lsyncd::control::status::{CarrierName, MirrorStatus, State, Status, Watch};
use lsyncd::view::{Screen, Style, View, web};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/prometheus")
}

#[test]
fn alerts_are_those_that_their_tests_expect() {
    for words in [["check", "rules", "lsyncd.rules.yml"], ["test", "rules", "lsyncd.tests.yml"]] {
        let ran = Command::new("promtool").args(words).current_dir(directory()).output();
        let ran = ran.expect("promtool, which is in Debian's package prometheus");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&ran.stderr));
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn alerts_are_about_numbers_that_there_are() {
    let rules = fs::read_to_string(directory().join("lsyncd.rules.yml")).unwrap();
    let names: BTreeSet<&str> = rules
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("lsyncd_"))
        .collect();
    assert!(names.len() >= 6, "{names:?}");
    let watch = Watch {
        backend: "inotify".to_owned(),
        watches: 1,
        limit: Some(2),
        headroom: Some(1),
        polled: 0,
        overflows: 0,
    };
    let silent = MirrorStatus::silent("m", b"/s", "h:/t", CarrierName::Agent);
    let last = lsyncd::control::status::VerifyStatus {
        ended_seconds_ago: 1.0,
        seconds: 1.0,
        files: 1,
        drifted: 0,
        unknown: 0,
    };
    let mirror =
        MirrorStatus { state: State::Live, watch: Some(watch), last_verify: Some(last), ..silent };
    let status =
        Status { version: "0".to_owned(), pid: 1, uptime_seconds: 1.0, mirrors: vec![mirror] };
    let view = View::new(Style::default(), Screen::new(false));
    let metrics = web::metrics(&status, &view);
    for name in names {
        let there = metrics
            .lines()
            .any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        assert!(there, "nothing is called {name}");
    }
}
