//! Becoming a daemon, with real processes. A binary without the test harness: what is to be forked
//! must not have threads, and the harness starts one for each test.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, clippy::exit)]

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lsyncd::daemon::detach::{Detached, detach};
use lsyncd::error::Error;

/// Names the part that a process of this binary plays.
const PART: &str = "LSYNCD_TEST_PART";
const DIR: &str = "LSYNCD_TEST_DIR";

type Test = (&'static str, fn());

const TESTS: [Test; 2] = [
    (
        "the_launching_process_ends_when_the_daemon_has_started",
        the_launching_process_ends_when_the_daemon_has_started,
    ),
    ("the_launching_process_reports_a_failed_start", the_launching_process_reports_a_failed_start),
];

fn main() {
    if let (Ok(part), Some(dir)) = (std::env::var(PART), std::env::var_os(DIR)) {
        return plays_a_daemon(&part, Path::new(&dir));
    }
    // As the harness has it: words pick the tests that contain one of them.
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, test) in TESTS {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}

/// This binary, playing a part in `dir`.
fn play(part: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(PART, part).env(DIR, dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Detaches, and behaves as its part says; the launching process ends as `main` would.
fn plays_a_daemon(part: &str, dir: &Path) {
    let report = match detach() {
        Ok(Detached::Daemon(report)) => report,
        Ok(Detached::Launcher(exit)) => std::process::exit(exit as i32),
        Err(error) => {
            eprintln!("{error} ({})", error.hint_text().unwrap_or_default());
            std::process::exit(error.exit() as i32);
        }
    };
    match part {
        "starts" => {
            // Not before the test has seen that the launcher waits.
            wait_for("the word to start", || dir.join("go").exists().then_some(()));
            eprintln!("still heard");
            report.started().unwrap();
            eprintln!("heard no more");
            let me = std::process::id();
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
            let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().to_owned();
            let stream = |n: u8| std::fs::read_link(format!("/proc/self/fd/{n}")).unwrap();
            let streams: Vec<_> = [0, 1, 2].map(stream).into_iter().collect();
            let cwd = std::env::current_dir().unwrap();
            let text = format!("{me} {session} {cwd:?} {streams:?}");
            std::fs::write(dir.join("new"), text).unwrap();
            std::fs::rename(dir.join("new"), dir.join("daemon")).unwrap();
            std::process::exit(0);
        }
        "fails" => {
            report.failed(&Error::stopped("cannot go on: it is too late").hint("try again"));
            std::process::exit(3);
        }
        _ => std::process::abort(),
    }
}

fn the_launching_process_ends_when_the_daemon_has_started() {
    let dir = tempfile::tempdir().unwrap();
    let mut launcher = play("starts", dir.path()).spawn().unwrap();
    let pid = launcher.id();
    // It has a child, and waits for it.
    wait_for("the daemon", || {
        let children = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(children).ok().filter(|text| !text.is_empty())
    });
    assert!(launcher.try_wait().unwrap().is_none());
    std::fs::write(dir.path().join("go"), "").unwrap();
    let status = launcher.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let told =
        wait_for("what the daemon saw", || std::fs::read_to_string(dir.path().join("daemon")).ok());
    let mut words = told.splitn(3, ' ');
    let (me, session) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(me, session, "a session of its own");
    assert_ne!(me, pid.to_string());
    assert_eq!(words.next(), Some(r#""/" ["/dev/null", "/dev/null", "/dev/null"]"#));
    // All who held the terminal have let go of it, so this ends.
    let mut said = String::new();
    launcher.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "still heard\n");
}

fn the_launching_process_reports_a_failed_start() {
    let run = |part| -> Output {
        let dir = tempfile::tempdir().unwrap();
        play(part, dir.path()).output().unwrap()
    };
    let said = |output: &Output| String::from_utf8(output.stderr.clone()).unwrap();
    let failed = run("fails");
    assert_eq!(said(&failed), "cannot go on: it is too late (try again)\n");
    assert_eq!(failed.status.code(), Some(25));
    let died = run("dies");
    let text = said(&died);
    assert!(text.starts_with("the daemon did not start: signal 6 ended it"), "{text}");
    assert_eq!(died.status.code(), Some(255));
}
