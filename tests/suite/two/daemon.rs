//! In the background: the launching process, the pidfile, the log file and the signals.

use std::fs;
use std::process::{Command, Output};

use super::*;

/// A daemon that was launched, known by its pidfile. It is killed when the test is over.
struct Daemon(u32);

impl Daemon {
    /// Launches it with these words, from the stage's directory.
    #[track_caller]
    fn launch(stage: &Stage, words: &[&str]) -> Daemon {
        let ended = launched(stage, words);
        assert_eq!(ended.status.code(), Some(0), "{}", said(&ended));
        let text = fs::read_to_string(stage.path("l.pid")).unwrap();
        let daemon = Daemon(text.strip_suffix('\n').unwrap().parse().unwrap());
        assert!(daemon.runs(), "{text}");
        daemon
    }

    fn runs(&self) -> bool {
        runs(self.0)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.0).unwrap()).unwrap(), signal).unwrap();
    }

    fn end(self, stage: &Stage) {
        self.signal(Signal::TERM);
        wait_until("the daemon has ended", || !self.runs());
        assert!(log(stage).contains("Normal: --- TERM signal, fading ---"), "{}", log(stage));
        assert!(!stage.path("l.pid").exists(), "the pidfile stays");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.runs() {
            self.signal(Signal::KILL);
        }
    }
}

fn launched(stage: &Stage, words: &[&str]) -> Output {
    let mut command: Command = stage.lsyncd();
    command.args(words).current_dir(stage.path("")).output().unwrap()
}

fn said(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

fn log(stage: &Stage) -> String {
    fs::read_to_string(stage.path("l.log")).unwrap_or_default()
}

fn wait_logged(stage: &Stage, text: &str) {
    wait_until(&format!("'{text}' in the log"), || log(stage).contains(text));
}

/// Every path is relative to where it is started.
const RELATIVE: &str = "
    settings { logfile = 'l.log', pidfile = 'l.pid' }
    sync { default.direct, source = 'source', target = 'target', delay = 0 }
";

#[test]
fn it_is_launched_and_found_by_its_pidfile() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    write(&stage, RELATIVE);
    let daemon = Daemon::launch(&stage, &["c.lua"]);
    wait_logged(&stage, "finished.");
    for line in log(&stage).lines() {
        // Sun Nov 22 08:41:16 2026 Normal: text
        let stamp = line.get(..24).unwrap_or_default();
        let at = jiff::civil::DateTime::strptime("%a %b %d %H:%M:%S %Y", stamp);
        assert!(at.is_ok() && line.get(24..25) == Some(" "), "{line}");
    }
    assert!(log(&stage).contains(" Normal: --- Startup, daemonizing ---\n"), "{}", log(&stage));
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", daemon.0)).unwrap(), Path::new("/"));

    let second = launched(&stage, &["c.lua"]);
    assert_eq!(second.status.code(), Some(255), "{}", said(&second));
    let names = format!("process {} holds it", daemon.0);
    assert!(said(&second).contains(&names), "{}", said(&second));
    let text = fs::read_to_string(stage.path("l.pid")).unwrap();
    assert_eq!(text, format!("{}\n", daemon.0), "the second left the pidfile as it was");

    churn(&stage.source(), 100, 21);
    fs::write(stage.s("last"), "1").unwrap();
    wait_until("the last file", || stage.t("last").exists());
    daemon.end(&stage);
}

#[test]
fn what_takes_a_restart_is_said_at_hup_and_stays_as_it_was() {
    let stage = Stage::new(Way::Local);
    write(&stage, RELATIVE);
    let daemon = Daemon::launch(&stage, &["c.lua"]);
    wait_logged(&stage, "finished.");
    let other = RELATIVE.replace("'l.pid'", "'m.pid', nodaemon = true, insist = 'no'");
    write(&stage, &other.replace("'l.log'", "'m.log'"));
    daemon.signal(Signal::HUP);
    let new = || fs::read_to_string(stage.path("m.log")).unwrap_or_default();
    wait_until("the new log", || new().contains("finished."));
    let warning =
        " Warn: settings changed that take a restart, and not HUP: pidfile and nodaemon\n";
    assert_eq!(new().matches(warning).count(), 1, "{}", new());
    assert!(new().contains(" Warn: setting \"insist\" is the text "), "{}", new());
    assert!(new().contains(" Normal: --- Startup ---\n"), "{}", new());
    let text = fs::read_to_string(stage.path("l.pid")).unwrap();
    assert_eq!(text, format!("{}\n", daemon.0));
    assert!(!stage.path("m.pid").exists());
    daemon.signal(Signal::TERM);
    wait_until("the daemon has ended", || !daemon.runs());
    assert!(!stage.path("l.pid").exists(), "the pidfile stays");
}

#[test]
fn hup_reads_the_same_file_again_in_the_background() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    write(&stage, RELATIVE);
    let daemon = Daemon::launch(&stage, &["c.lua"]);
    wait_logged(&stage, "finished.");
    write(&stage, &RELATIVE.replace("'target'", "'other'"));
    daemon.signal(Signal::HUP);
    wait_logged(&stage, "Normal: --- HUP signal, resetting ---");
    wait_until("the other target", || stage.path("other/first").exists());
    assert!(daemon.runs(), "it is the same process");
    daemon.end(&stage);
}

#[test]
fn what_keeps_it_from_starting_is_told_by_who_launched_it() {
    let mut stage = Stage::new(Way::Ssh);
    stage.world_mut().stop();
    write(
        &stage,
        &format!(
            "settings {{ logfile = 'l.log', pidfile = 'l.pid' }}
             sync {{ default.rsyncssh, source = SRC, host = '{HOST}', targetdir = TRG, delay = 0 }}"
        ),
    );
    let ended = launched(&stage, &["c.lua"]);
    assert_eq!(ended.status.code(), Some(255), "{}", said(&ended));
    assert!(said(&ended).contains("connection refused"), "{}", said(&ended));
    assert!(log(&stage).contains("Error: "), "{}", log(&stage));
    assert!(!stage.path("l.pid").exists());
}

#[test]
fn in_the_foreground_it_has_a_pidfile_too() {
    let stage = Stage::new(Way::Local);
    write(&stage, DIRECT);
    let mut two = Two::start(&stage, &["-nodaemon", "-pidfile", "l.pid", "c.lua"]);
    two.wait_for("finished.");
    let pid = fs::read_to_string(stage.path("l.pid")).unwrap();
    assert_eq!(pid, format!("{}\n", two.child.id()));
    // Neither a second one in the foreground nor a daemon takes its place.
    let names = format!("process {} holds it", two.child.id());
    for words in [&["-nodaemon", "-pidfile", "l.pid", "c.lua"][..], &["-pidfile", "l.pid", "c.lua"]]
    {
        let second = launched(&stage, words);
        assert_eq!(second.status.code(), Some(255), "{}", said(&second));
        assert!(said(&second).contains(&names), "{}", said(&second));
    }
    assert_eq!(fs::read_to_string(stage.path("l.pid")).unwrap(), pid, "as it was");
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
    assert!(!stage.path("l.pid").exists());
}

#[test]
fn categories_are_those_of_a_daemons_log_too() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    let config = RELATIVE.replace("target = 'target'", "name = 'a\\nb', target = 'target'");
    write(&stage, &config);
    let daemon = Daemon::launch(&stage, &["-log", "Exec", "-log", "Debug", "c.lua"]);
    wait_logged(&stage, " Exec: ");
    wait_logged(&stage, " Debug: connecting to ");
    wait_logged(&stage, "finished.");
    daemon.end(&stage);
    fs::remove_file(stage.path("l.log")).unwrap();
    let daemon = Daemon::launch(&stage, &["-log", "scarce", "c.lua"]);
    fs::write(stage.s("second"), "1").unwrap();
    wait_until("the file", || stage.t("second").exists());
    daemon.signal(Signal::TERM);
    wait_until("the daemon has ended", || !daemon.runs());
    assert_eq!(log(&stage), "");
}

#[test]
fn categories_say_more_or_less() {
    let stage = Stage::new(Way::Local);
    let sync = "sync { source = SRC, onCreate = 'echo ^pathname', delay = 0 }";
    write(&stage, sync);
    let mut two = Two::start(&stage, &["-nodaemon", "-log", "Exec", "c.lua"]);
    two.wait_for("finished.");
    fs::write(stage.s("a"), "1").unwrap();
    two.wait_for(" Exec: ");
    drop(two);
    let mut two = Two::start(&stage, &["-nodaemon", "-log", "scarce", "c.lua"]);
    // Its child's own words are no log.
    two.wait_until_mirrored(&stage, "b");
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
    assert!(!said.contains("Normal: "), "{said}");
}

impl Two {
    /// Writes a file again and again until its name is said: nothing else tells that it runs.
    fn wait_until_mirrored(&mut self, stage: &Stage, name: &str) {
        wait_until("the name is said", || {
            assert!(self.child.try_wait().unwrap().is_none(), "{}", self.said());
            let _ = fs::remove_file(stage.s(name));
            fs::write(stage.s(name), "1").unwrap();
            self.said().lines().any(|line| line == name)
        });
    }
}
