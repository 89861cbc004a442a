//! Mirrors that the system's rsync carries: the real program with the real rsync, to directories,
//! over a real sshd and to real rsync daemons.
//!
//! What only a configuration file can ask for (a wrapper, `insist`, a table of exit codes) is asked
//! of the library.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lsyncd::carrier::tunnel::Tunnel;
use lsyncd::config::WatchChoice;
use lsyncd::config::rsync::{RsyncMirror, RsyncOptions, RsyncValue};
use lsyncd::config::tunnel::TunnelKeys;
use lsyncd::error::{Exit, Result};
use lsyncd::metrics::{Counting, Notice};
use lsyncd::mirror::rsync::run::{RsyncRunning, run};
use lsyncd::mirror::run::Starts;
use lsyncd::source::{Scope, Source};
use lsyncd::watch::WatchLimits;
use tempfile::TempDir;

use super::push::{Push, Stage, WAYS, Way, sh};
use super::tree::{differences, tree};
use super::world::{PATIENCE, free_port, wait_until};

#[path = "rsync/daemons.rs"]
mod daemons;
#[path = "rsync/guards.rs"]
mod guards;
#[path = "rsync/live.rs"]
mod live;
#[path = "rsync/trouble.rs"]
mod trouble;
#[path = "rsync/wrapper.rs"]
mod wrapper;

/// A program in a file.
fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Where two trees differ; times by the second, since rsync takes no notice of less.
pub fn unequal(source: &Path, target: &Path) -> Option<String> {
    let read = |root: &Path| {
        tree(root).map(|mut tree| {
            tree.values_mut().for_each(|thing| thing.mtime.1 = 0);
            tree
        })
    };
    match (read(source), read(target)) {
        (Ok(source), Ok(target)) => Some(differences(&source, &target)).filter(|d| !d.is_empty()),
        (Err(error), _) | (_, Err(error)) => Some(error.to_string()),
    }
}

/// Waits until source and target are equal.
#[track_caller]
fn settles(stage: &Stage, push: &Push, when: &str) {
    let end = std::time::Instant::now() + PATIENCE;
    while let Some(text) = unequal(&stage.source(), &stage.target()) {
        let late = std::time::Instant::now() >= end;
        assert!(!late, "{when}: source and target stay different:\n{text}\n{}", push.said());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Names that mean something to shells, to rsync's patterns or to its lists.
pub const ODD: [&[u8]; 20] = [
    b"#comment",
    b";comment",
    b"-e",
    b"--delete",
    b"a]b",
    b"]",
    b"[ab]",
    b"*",
    b"?",
    b"x\\y",
    b"x\\*",
    b" lead",
    b"trail ",
    b"new\nline",
    b"\xff\xfe",
    b"~",
    b"$HOME",
    b"'q'",
    b"\"q\"",
    b"\\#012",
];

fn odd(dir: &Path, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    dir.join(std::ffi::OsStr::from_bytes(name))
}

/// A mirror of the library's, running on a thread of its own.
struct Mirror {
    told: Arc<Counting>,
    stop: tokio::sync::watch::Sender<bool>,
    ended: Option<std::thread::JoinHandle<Result<Exit>>>,
}

impl Mirror {
    fn start(config: RsyncMirror, once: bool) -> Mirror {
        Mirror::made(config, once, |_| {})
    }

    /// With more than a configuration says.
    fn made(
        config: RsyncMirror,
        once: bool,
        change: impl FnOnce(&mut RsyncRunning) + Send + 'static,
    ) -> Mirror {
        Mirror::watched(config, once, (WatchChoice::Auto, WatchLimits::default()), change)
    }

    fn watched(
        config: RsyncMirror,
        once: bool,
        (choice, limits): (WatchChoice, WatchLimits),
        change: impl FnOnce(&mut RsyncRunning) + Send + 'static,
    ) -> Mirror {
        let told = Arc::new(Counting::default());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let metrics = Arc::clone(&told);
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let scope = Scope { filter: Arc::new(config.filter.clone()), ..Scope::default() };
                let source = Source::open(&config.source, scope)?;
                let events = if once {
                    None
                } else {
                    source.watch(choice, limits)?;
                    Some(source.subscribe())
                };
                let mut running = RsyncRunning {
                    config: Arc::new(config),
                    source: Arc::new(source),
                    events,
                    once,
                    dry_run: false,
                    metrics,
                    stop: stopped,
                    starts: Arc::new(Starts::new(1)),
                    tunnel: None,
                    steered: None,
                    limit: None,
                    patient: false,
                };
                change(&mut running);
                run(running).await
            })
        });
        Mirror { told, stop, ended: Some(ended) }
    }

    fn notices(&self) -> Vec<Notice> {
        self.told.notices()
    }

    #[track_caller]
    fn wait(&self, what: &str, wanted: impl Fn(&Notice) -> bool) {
        let end = std::time::Instant::now() + PATIENCE;
        while !self.notices().iter().any(&wanted) {
            assert!(std::time::Instant::now() < end, "never {what}: {:?}", self.notices());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn ready(self) -> Mirror {
        self.wait("ready", |notice| matches!(notice, Notice::Ready { .. }));
        self
    }

    /// Waits for its own end.
    fn end(mut self) -> Result<Exit> {
        self.ended.take().unwrap().join().unwrap()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(ended) = self.ended.take() {
            let _ = ended.join();
        }
    }
}

/// Two directories and what else a test needs.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let dir = tempfile::Builder::new().prefix("lsyncd-rsync").tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["source", "target"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Place(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn s(&self, name: &str) -> PathBuf {
        self.path("source").join(name)
    }

    fn t(&self, name: &str) -> PathBuf {
        self.path("target").join(name)
    }

    fn config(&self) -> RsyncMirror {
        RsyncMirror::new("m", self.path("source"), self.path("target").as_os_str())
    }

    /// Options of a configuration file.
    fn options(keys: &[(&str, RsyncValue)]) -> RsyncOptions {
        let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        RsyncOptions::from_keys(&keys.collect()).unwrap()
    }
}

fn text(text: impl AsRef<std::ffi::OsStr>) -> RsyncValue {
    RsyncValue::Text(text.as_ref().to_owned())
}

/// An rsync daemon on a port of its own.
pub struct Daemon {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Daemon {
    /// With these modules' lines; `DIR` stands for its own directory.
    pub fn start(modules: &str) -> Daemon {
        let dir = tempfile::Builder::new().prefix("lsyncd-rsyncd").tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["open", "closed"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let port = free_port();
        let at = dir.path().display().to_string();
        // It would be nobody otherwise.
        let who = if super::push::is_root() { "uid = root\ngid = root\n" } else { "" };
        let modules = modules.replace("DIR", &at);
        let config = format!("use chroot = no\nlog file = {at}/log\n{who}{modules}");
        fs::write(dir.path().join("conf"), config).unwrap();
        fs::write(dir.path().join("secrets"), "me:open sesame\n").unwrap();
        fs::set_permissions(dir.path().join("secrets"), PermissionsExt::from_mode(0o600)).unwrap();
        let child = Daemon::spawn(dir.path(), port);
        Daemon { child, port, dir }
    }

    fn spawn(dir: &Path, port: u16) -> Child {
        let child = Command::new("rsync")
            .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--config={}/conf", dir.display()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the rsync daemon listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        child
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn again(&mut self) {
        self.child = Daemon::spawn(self.dir.path(), self.port);
    }

    fn url(&self, module: &str) -> String {
        format!("rsync://127.0.0.1:{}/{module}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("the rsync daemon's log:\n{log}");
        }
    }
}
