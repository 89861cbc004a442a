//! `lsyncd push` as it is used: the real program, to a directory and over a real sshd.
//!
//! A [`Stage`] is a source, a target and the way between them; a [`Push`] is a running program
//! whose lines are read as they come.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::tree::{equal_within, temporary_names, tree, unequal, wait_equal};
use super::world::{HOST, PATIENCE, World, wait_until};

#[path = "push/bad.rs"]
mod bad;
#[path = "push/compress.rs"]
mod compress;
#[path = "push/control.rs"]
mod control;
#[path = "push/delta.rs"]
mod delta;
#[path = "push/filesystems.rs"]
mod filesystems;
#[path = "push/first.rs"]
mod first;
#[path = "push/grow.rs"]
mod grow;
#[path = "push/guards.rs"]
mod guards;
#[path = "push/hooks.rs"]
mod hooks;
#[path = "push/hostile.rs"]
mod hostile;
#[path = "push/inplace.rs"]
mod inplace;
#[path = "push/lanes.rs"]
mod lanes;
#[path = "push/links.rs"]
mod links;
#[path = "push/live.rs"]
mod live;
#[path = "push/lossy.rs"]
mod lossy;
#[path = "push/mapping.rs"]
mod mapping;
#[path = "push/moved.rs"]
mod moved;
#[path = "push/ordinary.rs"]
mod ordinary;
#[path = "push/power.rs"]
mod power;
#[path = "push/problems.rs"]
mod problems;
#[path = "push/rate.rs"]
mod rate;
#[path = "push/resume.rs"]
mod resume;
#[path = "push/room.rs"]
mod room;
#[path = "push/rulefiles.rs"]
mod rulefiles;
#[path = "push/rules.rs"]
mod rules;
#[path = "push/signals.rs"]
mod signals;
#[path = "push/steady.rs"]
mod steady;
#[path = "push/trash.rs"]
mod trash;
#[path = "push/web.rs"]
mod web;
#[path = "push/why.rs"]
mod why;

/// How the target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A directory of this host.
    Local,
    /// The world's sshd.
    Ssh,
}

/// Both: the same table holds for each.
pub const WAYS: [Way; 2] = [Way::Local, Way::Ssh];

/// A source, a target, and what lies between.
pub struct Stage {
    pub way: Way,
    pub world: Option<World>,
    dir: TempDir,
}

impl Stage {
    /// An empty source; the target is not there yet.
    pub fn new(way: Way) -> Stage {
        Stage::with((way == Way::Ssh).then(World::brief))
    }

    /// With a world that is there already.
    pub fn with(world: Option<World>) -> Stage {
        let way = if world.is_some() { Way::Ssh } else { Way::Local };
        let dir = tempfile::Builder::new().prefix("lsyncd-stage").tempdir().unwrap();
        fs::create_dir_all(dir.path().join("home")).unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        Stage { way, world, dir }
    }

    pub fn world(&self) -> &World {
        self.world.as_ref().unwrap()
    }

    pub fn world_mut(&mut self) -> &mut World {
        self.world.as_mut().unwrap()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn target(&self) -> PathBuf {
        self.path("target")
    }

    /// A path of the source.
    pub fn s(&self, name: impl AsRef<Path>) -> PathBuf {
        self.source().join(name)
    }

    /// A path of the target.
    pub fn t(&self, name: impl AsRef<Path>) -> PathBuf {
        self.target().join(name)
    }

    /// Where the control sockets of this stage's user stand.
    pub fn control(&self) -> PathBuf {
        let runtime = match &self.world {
            Some(world) => world.path("run"),
            None => self.path("home"),
        };
        runtime.join("lsyncd")
    }

    /// A directory as the command line names it on this stage's way.
    pub fn on_the_way(&self, dir: &Path) -> String {
        match self.way {
            Way::Local => dir.display().to_string(),
            Way::Ssh => format!("{HOST}:{}", dir.display()),
        }
    }

    /// The program in an environment of its own.
    pub fn lsyncd(&self) -> Command {
        match &self.world {
            Some(world) => world.lsyncd(),
            None => program(&self.path("home")),
        }
    }

    /// `lsyncd push` with these words, then source and target.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = self.lsyncd();
        command.arg("push").args(words).arg(self.source()).arg(self.on_the_way(&self.target()));
        command
    }

    /// Mirrors once.
    #[track_caller]
    pub fn once(&self, words: &[&str]) -> Ended {
        Push::start(self.command(&[&["--once", "--json"], words].concat())).end()
    }

    /// Mirrors once, without JSON.
    #[track_caller]
    pub fn once_plain(&self, words: &[&str]) -> Ended {
        Push::start(self.command(&[&["--once"], words].concat())).end()
    }

    /// Starts to mirror.
    pub fn begin(&self, words: &[&str]) -> Push {
        Push::start(self.command(&[&["--json"], words].concat()))
    }

    /// Mirrors live: returns when it is ready.
    #[track_caller]
    pub fn live(&self, words: &[&str]) -> Push {
        let push = self.begin(words);
        push.wait_event("ready");
        push
    }

    /// Waits until source and target are equal.
    #[track_caller]
    pub fn settles(&self) {
        wait_equal(&self.source(), &self.target());
    }

    /// [`Stage::settles`] with what the program said, if it never does.
    #[track_caller]
    pub fn settles_with(&self, push: &Push, when: &str) {
        self.part_settles(push, "", when);
    }

    /// [`Stage::settles_with`] of what stands beneath a name: a large tree takes long to compare.
    #[track_caller]
    pub fn part_settles(&self, push: &Push, name: &str, when: &str) {
        if let Err(text) = equal_within(&self.s(name), &self.t(name), PATIENCE) {
            panic!("{when}: source and target stay different:\n{text}\n{}", push.said());
        }
    }

    /// Returns when a change made now has arrived: all before it were heard before.
    #[track_caller]
    pub fn barrier(&self) {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("barrier-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        fs::write(self.s(&name), "").unwrap();
        wait_until(&format!("{name} arrives"), || self.t(&name).exists());
    }

    #[track_caller]
    pub fn no_temporary_names(&self) {
        let mut found = temporary_names(&self.target());
        if !found.is_empty() {
            // A live mirror may be at work.
            std::thread::sleep(Duration::from_millis(500));
            found = temporary_names(&self.target());
        }
        assert_eq!(found, Vec::<String>::new(), "left on the target");
    }
}

/// The program in an environment with this home and nothing else.
pub fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lsyncd"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join(".cache"))
        .env("XDG_RUNTIME_DIR", home)
        .current_dir(home)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// A command by somebody with fewer rights, as `setpriv` takes them away; only for root.
pub fn with_less(rights: &[&str], command: &Command) -> Command {
    let mut less = Command::new("setpriv");
    less.args(rights).arg("--").arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        less.env(name, value.unwrap_or_default());
    }
    if let Some(dir) = command.get_current_dir() {
        less.current_dir(dir);
    }
    less
}

/// The program, running.
pub struct Push {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

/// The program, ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; absent if a signal ended it.
    pub code: Option<i32>,
    pub lines: Vec<Value>,
    pub out: String,
    /// Standard error, without times.
    pub err: String,
}

impl Push {
    /// Starts it; what it says is read as it comes.
    pub fn start(mut command: Command) -> Push {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, out, err) =
            (Arc::<Mutex<Vec<Value>>>::default(), Arc::<Mutex<String>>::default(), Arc::default());
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (to_lines, to_out) = (Arc::clone(&lines), Arc::clone(&out));
        let read_out = std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Ok(value) = serde_json::from_str(&line) {
                    to_lines.lock().unwrap().push(value);
                }
                *to_out.lock().unwrap() += &format!("{line}\n");
            }
        });
        let to_err: Arc<Mutex<String>> = Arc::clone(&err);
        let read_err = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                let text = match line.split_once(' ') {
                    Some((time, text)) if time.starts_with("20") && time.ends_with('Z') => text,
                    _ => &line,
                };
                *to_err.lock().unwrap() += &format!("{text}\n");
            }
        });
        Push { child, lines, out, err, readers: vec![read_out, read_err] }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The objects said so far.
    pub fn lines(&self) -> Vec<Value> {
        self.lines.lock().unwrap().clone()
    }

    /// The objects of one event said so far.
    pub fn events(&self, event: &str) -> Vec<Value> {
        of(&self.lines(), event)
    }

    pub fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Everything, for a failure.
    pub fn said(&self) -> String {
        format!("it said:\n{}{}", self.out.lock().unwrap(), self.err.lock().unwrap())
    }

    /// Waits for an event, and returns the last one.
    #[track_caller]
    pub fn wait_event(&self, event: &str) -> Value {
        self.wait_events(event, 1)
    }

    /// Waits for so many of an event, and returns the last one.
    #[track_caller]
    pub fn wait_events(&self, event: &str, count: usize) -> Value {
        self.wait_for(event, count, |_| true)
    }

    /// Waits for so many of an event that are as wanted, and returns the last one.
    #[track_caller]
    pub fn wait_for(&self, event: &str, count: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut found = self.events(event);
            found.retain(|line| wanted(line));
            if found.len() >= count {
                return found.pop().unwrap();
            }
            assert!(Instant::now() < end, "no {event}; {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until standard error holds a text.
    #[track_caller]
    pub fn wait_err(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.err().contains(text) {
            assert!(Instant::now() < end, "never said {text}; {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let end = Instant::now() + PATIENCE + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end; {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        };
        for reader in std::mem::take(&mut self.readers) {
            let _ = reader.join();
        }
        Ended {
            code: status.code(),
            lines: self.lines(),
            out: self.out.lock().unwrap().clone(),
            err: self.err(),
        }
    }

    /// Ends it with a signal.
    #[track_caller]
    pub fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.end()
    }

    /// Ends it as a service manager would: that is always success.
    #[track_caller]
    pub fn terminate(self) -> Ended {
        let ended = self.stop(Signal::TERM);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    pub fn events(&self, event: &str) -> Vec<Value> {
        of(&self.lines, event)
    }

    /// The `done` object.
    #[track_caller]
    pub fn done(&self) -> Value {
        self.events("done").pop().unwrap_or_else(|| panic!("not done: {self:?}"))
    }

    /// Exit code 0.
    #[track_caller]
    pub fn fine(self) -> Ended {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

fn of(lines: &[Value], event: &str) -> Vec<Value> {
    lines.iter().filter(|line| line["event"] == event).cloned().collect()
}

/// Runs a shell script in a directory; it must succeed.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> String {
    let mut shell = Command::new("sh");
    shell.arg("-ec").arg(script).current_dir(dir).env("LC_ALL", "C");
    super::world::run(&mut shell)
}

/// A file system of memory, unmounted when dropped; `None` where we may not mount.
pub struct Mount(PathBuf);

impl Mount {
    pub fn tmpfs(at: &Path, options: &str) -> Mount {
        fs::create_dir_all(at).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(status.success(), "cannot mount: these tests run as root");
        Mount(at.to_owned())
    }

    /// Takes it away while others may be using it.
    pub fn unmount(self) {}
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// May these tests mount and change owners?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
