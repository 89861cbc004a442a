//! What Lsyncd 2's mirrors have around them, as real processes: the pid file's lock.
//!
//! A part that a process plays is a test that does nothing unless it is called by [`play`].

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lsyncd::daemon::pidfile::PidFile;

const PART: &str = "LSYNCD_TEST_PART";
const DIR: &str = "LSYNCD_TEST_DIR";

/// This binary, playing a part in `dir`.
fn play(test: &str, part: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("legacy::{test}"), "--nocapture", "--test-threads=1", "-q"])
        .env(PART, part)
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn part() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var(PART).ok()?, std::env::var_os(DIR)?.into()))
}

/// Holds the pid file until its standard input ends.
#[test]
fn plays_a_holder() {
    let Some((_, dir)) = part() else { return };
    match PidFile::create(&dir.join("l.pid")) {
        Ok(held) => {
            eprintln!("holds it");
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(held);
        }
        Err(error) => eprintln!("{error} ({})", error.hint_text().unwrap_or_default()),
    }
}

#[test]
fn a_pid_file_is_held_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let holder = || -> (Child, String) {
        let mut child = play("plays_a_holder", "", dir.path()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line)
    };
    let (mut first, line) = holder();
    assert_eq!(line, "holds it\n");
    let pid = format!("{}\n", first.id());
    assert_eq!(std::fs::read_to_string(dir.path().join("l.pid")).unwrap(), pid);
    let (mut second, line) = holder();
    let expected = format!(
        "cannot lock the pidfile {}: process {} holds it (an lsyncd with this pidfile runs already; name another -pidfile for a second one)\n",
        dir.path().join("l.pid").display(),
        first.id()
    );
    assert_eq!(line, expected);
    assert!(second.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(dir.path().join("l.pid")).unwrap(), pid, "untouched");
    // Killed, it leaves the file, and no lock.
    first.kill().unwrap();
    first.wait().unwrap();
    let (mut third, line) = holder();
    assert_eq!(line, "holds it\n");
    drop(third.stdin.take());
    assert!(third.wait().unwrap().success());
    assert!(!dir.path().join("l.pid").exists(), "it is removed at the end");
}
