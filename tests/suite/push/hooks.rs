//! `--on-synced` and `--on-problem`: commands that are told what happened, and hold nothing up.

use std::fs;

use super::super::tree::plant;
use super::{Stage, WAYS, Way, wait_until};

fn lines(stage: &Stage, name: &str) -> Vec<String> {
    let text = fs::read_to_string(stage.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_command_hears_that_all_has_arrived() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        let log = stage.path("log").display().to_string();
        let command = format!(
            "test -e {}/small && echo \"$LSYNCD_EVENT $LSYNCD_MIRROR $LSYNCD_SOURCE $LSYNCD_OPS\" >> {log}",
            stage.target().display()
        );
        let push = stage.live(&["--name", "we b", "--on-synced", &command]);
        wait_until("the first mirror is told", || lines(&stage, "log").len() == 1);
        let first = format!("synced we b {} ", stage.source().display());
        assert!(lines(&stage, "log")[0].starts_with(&first), "{:?}", lines(&stage, "log"));
        fs::write(stage.s("small"), "changed").unwrap();
        wait_until("a change is told", || lines(&stage, "log").len() == 2);
        assert_eq!(fs::read(stage.t("small")).unwrap(), b"changed");
        push.terminate();
    }
}

#[test]
fn a_single_run_waits_for_its_command() {
    for words in [&[][..], &["--rsync"]] {
        let stage = Stage::new(Way::Local);
        plant(&stage.source());
        let log = stage.path("log").display().to_string();
        let command = format!("sleep 0.3; echo done >> {log}");
        stage.once(&[&["--on-synced", &command], words].concat()).fine();
        assert_eq!(lines(&stage, "log"), ["done"]);
        // What is only looked at is no news.
        stage.once(&["--on-synced", &command, "-n"]).fine();
        assert_eq!(lines(&stage, "log"), ["done"]);
    }
}

#[test]
fn a_command_hears_of_problems_and_one_that_hangs_or_fails_holds_nothing_up() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let log = stage.path("log").display().to_string();
    let problem = format!("echo \"$LSYNCD_PATH: $LSYNCD_CAUSE\" >> {log}; sleep 1000.0625");
    let push = stage.live(&["--on-problem", &problem, "--on-synced", "exit 7"]);
    push.wait_err("the hook 'exit 7': exit status: 7");
    if !super::is_root() {
        return;
    }
    let chattr = |how: &str| {
        let done = std::process::Command::new("chattr").arg(how).arg(stage.t("small")).status();
        done.unwrap().success()
    };
    if !chattr("+i") {
        return;
    }
    fs::write(stage.s("small"), "other").unwrap();
    wait_until("it is told", || !lines(&stage, "log").is_empty());
    assert!(lines(&stage, "log")[0].contains("operation not permitted"));
    fs::write(stage.s("new"), "arrives").unwrap();
    wait_until("others arrive", || fs::read(stage.t("new")).is_ok_and(|t| t == b"arrives"));
    assert!(chattr("-i"));
    push.terminate();
    // It went, and so did what it had begun.
    wait_until("nothing of it is left", || !is_there("sleep\x001000.0625"));
}

/// Does a process with this command line run?
fn is_there(line: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = all.filter_map(|one| fs::read(one.path().join("cmdline")).ok());
    lines.any(|there| String::from_utf8_lossy(&there).starts_with(line))
}
