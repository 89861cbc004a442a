//! Lsyncd 2's command lines and configuration files, as they are used: the real program, a real
//! sshd, and what people look for in its log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::push::{Stage, Way};
use super::tree::{numbers, wait_equal};
use super::world::{HOST, wait_until};

#[path = "two/daemon.rs"]
mod daemon;
#[path = "two/differential.rs"]
mod differential;
#[path = "two/examples.rs"]
mod examples;
#[path = "two/histories.rs"]
mod histories;
#[path = "two/keys.rs"]
mod keys;
#[path = "two/line.rs"]
mod line;
#[path = "two/review.rs"]
mod review;
#[path = "two/rows.rs"]
mod rows;
#[path = "two/three.rs"]
mod three;

/// A running program that writes to files.
pub struct Two {
    child: Child,
    out: PathBuf,
}

impl Two {
    /// Starts the program of a stage with these words.
    pub fn start(stage: &Stage, words: &[&str]) -> Two {
        let mut command = stage.lsyncd();
        command.args(words).current_dir(stage.path(""));
        Two::run(command, stage.path("out"))
    }

    /// Starts any program; what it says is kept in a file.
    pub fn run(mut command: Command, out: PathBuf) -> Two {
        let file = fs::File::create(&out).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Two { child: command.spawn().unwrap(), out }
    }

    /// Writes a configuration and starts the program on it, in the foreground.
    pub fn with(stage: &Stage, config: &str) -> Two {
        write(stage, config);
        Two::start(stage, &["-nodaemon", "c.lua"])
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    pub fn wait_for(&mut self, text: &str) {
        self.wait_times(text, 1);
    }

    pub fn wait_times(&mut self, text: &str, times: usize) {
        wait_until(&format!("'{text}' in the log of {:?}", self.out), || {
            if let Some(status) = self.child.try_wait().unwrap()
                && self.said().matches(text).count() < times
            {
                panic!("it has ended with {status}:\n{}", self.said());
            }
            self.said().matches(text).count() >= times
        });
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    pub fn code(mut self) -> (Option<i32>, String) {
        wait_until("the end", || self.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code();
        (code, self.said())
    }

    pub fn stop(self, signal: Signal) -> (Option<i32>, String) {
        self.signal(signal);
        self.code()
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the stage's configuration, in which SRC and TRG stand for its directories.
pub fn write(stage: &Stage, config: &str) {
    let quoted = |path: &Path| format!("{:?}", path.to_str().unwrap());
    let config =
        config.replace("SRC", &quoted(&stage.source())).replace("TRG", &quoted(&stage.target()));
    fs::write(stage.path("c.lua"), config).unwrap();
}

/// Changes of all kinds, as they come.
pub fn churn(source: &Path, rounds: usize, seed: u64) {
    let mut below = numbers(seed);
    for round in 0..rounds {
        let name = |n: usize| source.join(format!("d{}/f{}", n % 3, n % 7));
        let path = name(below(21));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match below(6) {
            0 | 1 => fs::write(&path, format!("{round}").repeat(below(3000))).unwrap(),
            2 => drop(fs::remove_file(&path)),
            3 => {
                let to = name(below(21));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                drop(fs::rename(&path, to));
            }
            4 => drop(fs::rename(path.parent().unwrap(), source.join(format!("d{}", below(3))))),
            _ => drop(fs::remove_dir_all(path.parent().unwrap())),
        }
    }
}

const DIRECT: &str =
    "sync { default.direct, source = SRC, target = TRG, delay = 0, rsync = { archive = true } }";

#[test]
fn a_configuration_is_kept_and_ends_as_lsyncd_2_does() {
    for (signal, name, code) in [(Signal::TERM, "TERM", 143), (Signal::INT, "INT", 130)] {
        let stage = Stage::new(Way::Local);
        fs::write(stage.s("first"), "1").unwrap();
        let mut two = Two::with(&stage, DIRECT);
        two.wait_for("Normal: --- Startup ---");
        let finished = format!(
            "Normal: Startup of {}/ -> {}/ finished.",
            stage.source().display(),
            stage.target().display()
        );
        two.wait_for(&finished);
        churn(&stage.source(), 300, 7);
        wait_equal(&stage.source(), &stage.target());
        let (ended, said) = two.stop(signal);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.contains(&format!("Normal: --- {name} signal, fading ---")), "{said}");
    }
}

#[test]
fn default_rsyncssh_is_carried_by_the_agent() {
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("first"), "1").unwrap();
    let config = format!(
        "sync {{ default.rsyncssh, source = SRC, host = '{HOST}', targetdir = TRG, delay = 0,
           rsync = {{ archive = true }} }}"
    );
    let mut two = Two::with(&stage, &config);
    two.wait_for("finished.");
    churn(&stage.source(), 300, 8);
    wait_equal(&stage.source(), &stage.target());
    let (ended, said) = two.stop(Signal::TERM);
    assert_eq!(ended, Some(143), "{said}");
    assert!(said.contains("by lsync-agent"), "{said}");
    wait_until("no session is left", || stage.world().sessions() == 0);
}

#[test]
fn command_line_syncs_may_be_mixed_and_onepass_ends() {
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("first"), "1").unwrap();
    let (source, one, two) = (stage.source(), stage.path("one"), stage.path("two"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let words = [
        "-nodaemon".to_owned(),
        "--onepass".to_owned(),
        "-direct".to_owned(),
        text(&source),
        text(&one),
        "-rsyncssh".to_owned(),
        text(&source),
        HOST.to_owned(),
        text(&two),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (code, said) = Two::start(&stage, &words).code();
    assert_eq!(code, Some(0), "{said}");
    for target in [one, two] {
        assert_eq!(fs::read_to_string(target.join("first")).unwrap(), "1");
    }
}

#[test]
fn hup_takes_a_new_configuration_and_leaves_a_broken_one() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    let mut two = Two::with(&stage, DIRECT);
    two.wait_for("finished.");
    write(&stage, "sync { default.direct, source = SRC");
    two.signal(Signal::HUP);
    two.wait_for("going on as before");
    fs::write(stage.s("second"), "2").unwrap();
    wait_equal(&stage.source(), &stage.target());
    let other = stage.path("other");
    write(&stage, &DIRECT.replace("TRG", &format!("{other:?}")));
    two.signal(Signal::HUP);
    two.wait_for("--- HUP signal, resetting ---");
    wait_until("the new target", || other.join("second").exists());
    fs::write(stage.s("third"), "3").unwrap();
    wait_equal(&stage.source(), &other);
    assert!(!stage.t("third").exists(), "the old target is none any more");
    let (ended, said) = two.stop(Signal::TERM);
    assert_eq!(ended, Some(143), "{said}");
}

#[test]
fn what_is_wrong_ends_with_255_before_anything_begins() {
    let stage = Stage::new(Way::Local);
    for (config, text) in [
        ("sync {", "cannot load"),
        ("settings { logfil = 'x' }", "setting \"logfil\" unknown."),
        (
            "sync { default.direct, source = '/not/there', target = TRG }",
            "cannot mirror /not/there",
        ),
        ("sync { default.direct, source = SRC, target = SRC }", "refusing to mirror"),
        ("", "nothing to do"),
    ] {
        let (code, said) = Two::with(&stage, config).code();
        assert_eq!(code, Some(255), "{config}: {said}");
        assert!(said.contains(text), "{config}: {said}");
        assert!(!stage.target().exists());
    }
    let (code, said) = Two::start(&stage, &["-nodaemon", "no.lua"]).code();
    assert_eq!(code, Some(255));
    assert!(said.contains("Cannot find config file at 'no.lua'."), "{said}");
}

#[test]
fn a_target_that_is_away_ends_it_unless_it_insists() {
    let mut stage = Stage::new(Way::Ssh);
    fs::write(stage.s("first"), "1").unwrap();
    stage.world_mut().stop();
    let sync = format!(
        "sync {{ default.rsyncssh, source = SRC, host = '{HOST}', targetdir = TRG, delay = 0, rsync = {{ archive = true }} }}"
    );
    let (code, said) = Two::with(&stage, &sync).code();
    assert_eq!(code, Some(255), "{said}");
    let mut two = Two::with(&stage, &format!("settings {{ insist = true }}\n{sync}"));
    two.wait_for("connection refused");
    stage.world_mut().restart();
    two.wait_for("finished.");
    wait_equal(&stage.source(), &stage.target());
}

#[test]
fn one_target_that_is_away_does_not_stop_another() {
    let mut stage = Stage::new(Way::Ssh);
    stage.world_mut().stop();
    let config = format!(
        "sync {{ default.rsyncssh, source = SRC, host = '{HOST}', targetdir = '/nowhere', delay = 0 }}\n{DIRECT}"
    );
    let mut two = Two::with(&stage, &config);
    two.wait_for("finished.");
    fs::write(stage.s("live"), "1").unwrap();
    wait_equal(&stage.source(), &stage.target());
    two.wait_for("connection refused");
}

/// Does a process run? One that has ended and is not reaped has no command line.
pub fn runs(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}
