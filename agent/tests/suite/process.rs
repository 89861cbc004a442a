//! The agent as a process of its own.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lsync_protocol::entry::Kind;
use lsync_protocol::handshake::{Answer, Hello, Refusal, greet};
use lsync_protocol::message::{Message, Op, Outcome};

use super::peer::{Peer, World, meta, path, read_answer, until};

pub(super) const AGENT: &str = env!("CARGO_BIN_EXE_lsync-agent");

pub(super) struct Pipes {
    input: std::process::ChildStdin,
    output: std::process::ChildStdout,
}

impl Read for Pipes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Write for Pipes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

pub(super) fn start(world: &World, mut command: Command) -> Child {
    command
        .current_dir(world.dir.path())
        .env("HOME", world.dir.path().join("home"))
        .env_remove("XDG_CACHE_HOME")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(super) fn greet_process(child: &mut Child, hello: &Hello) -> Result<Peer, Refusal> {
    let mut pipes =
        Pipes { input: child.stdin.take().unwrap(), output: child.stdout.take().unwrap() };
    pipes.write_all(&greet(hello)).unwrap();
    match read_answer(&mut pipes) {
        Answer::Welcome(welcome) => Ok(Peer::new(Box::new(pipes), welcome, None)),
        Answer::Refused(refusal) => Err(refusal),
    }
}

fn said(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_process_serves_confined_to_its_root() {
    let world = World::new();
    let mut child = start(&world, Command::new(AGENT));
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    assert_eq!(peer.file("f", b"x", meta(0o666, 1)), None);
    assert_eq!(peer.list("").unwrap().len(), 1);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.contains("Umask:\t0000"), "{status}");
    // The threads that apply are confined; the first one is the one that started them.
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let cache = world.dir.path().join("home/.cache/lsyncd");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    peer.send(&Message::Bye, b"");
    while peer.try_receive().is_ok() {}
    assert_eq!(said(child), (Some(0), String::new()));
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0);
}

#[test]
fn a_new_agent_of_the_same_mirror_ends_the_older_one() {
    let world = World::new();
    let mut first = start(&world, Command::new(AGENT));
    let mut peer = greet_process(&mut first, &world.hello()).unwrap();
    peer.send(&Message::Open { stage: 1, hint: super::peer::path(""), size: 0 }, b"");
    peer.send(&Message::Data { stage: 1, offset: 0 }, b"half");
    until("the stage is there", || world.stages().len() == 1);
    let mut other = world.hello();
    other.mirror = [8; 16];
    let mut third = start(&world, Command::new(AGENT));
    let refusal = greet_process(&mut third, &other).err().unwrap();
    assert_eq!(refusal, Refusal::Busy("host:/source".into()));
    assert_eq!(said(third), (Some(255), String::new()), "a refusal is said on the link");
    let mut second = start(&world, Command::new(AGENT));
    let mut new = greet_process(&mut second, &world.hello()).unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(15));
    // What the dead one left is swept by the first listing.
    assert_eq!(world.stages().len(), 1);
    assert_eq!(new.list(""), Ok(vec![]));
    assert!(world.stages().is_empty());
    drop(new);
    assert_eq!(said(second), (Some(0), String::new()));
}

#[test]
fn garbage_and_arguments_are_answered() {
    let world = World::new();
    let mut child = start(&world, Command::new(AGENT));
    child.stdin.take().unwrap().write_all(b"hello, who is there? I am a shell").unwrap();
    let (code, text) = said(child);
    assert_eq!(code, Some(255));
    assert_eq!(
        text,
        "lsync-agent: the other end does not greet as a source does: its first bytes are others\n"
    );
    let run = |arg: &str| Command::new(AGENT).arg(arg).output().unwrap();
    let hash = String::from_utf8(run("--hash").stdout).unwrap();
    assert_eq!(hash.trim_end(), blake3::hash(&fs::read(AGENT).unwrap()).to_hex().as_str());
    let version = String::from_utf8(run("--version").stdout).unwrap();
    assert_eq!(version.trim_end(), concat!("lsync-agent ", env!("CARGO_PKG_VERSION")));
    for (arg, want) in [
        ("--root=", "lsync-agent: --root needs a value\n"),
        ("--trash=a/b", "lsync-agent: bad --trash 'a/b': not a name in the root\n"),
        (
            "--no-delete",
            "lsync-agent: no --root DIR\nhint: the other options hold for a root that is fixed\n",
        ),
    ] {
        let output = run(arg);
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(2), want.into())
        );
    }
    assert!(
        String::from_utf8(run("--sudo").stderr)
            .unwrap()
            .starts_with("lsync-agent: unknown argument --sudo\nhint: ")
    );
}

#[test]
fn a_full_pipe_that_breaks_is_an_error_and_no_signal() {
    let world = World::new();
    for i in 0..2000 {
        fs::write(world.at(format!("{i:0100}")), b"").unwrap();
    }
    let mut child = start(&world, Command::new(AGENT));
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    for request in 0..50 {
        let list = Message::List {
            first: request,
            dirs: vec![lsync_protocol::message::Asked { dir: super::peer::path(""), digest: None }],
        };
        peer.send(&list, b"");
    }
    std::thread::sleep(Duration::from_millis(100));
    drop(peer);
    let (code, _) = said(child);
    assert!(code.is_some(), "it was killed by a signal");
}

/// Where a mount lies beneath the root, a stage made elsewhere is copied and a rename is refused.
#[test]
fn another_file_system_beneath_the_root() {
    let world = World::new();
    fs::create_dir(world.at("mnt")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount -t tmpfs none root/mnt && exec \"$0\"", AGENT]);
    let mut child = start(&world, command);
    let inner = format!("/proc/{}/root", child.id());
    let Ok(Ok(mut peer)) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        greet_process(&mut child, &world.hello())
    })) else {
        // Not permitted to mount: nothing can be shown.
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    let content = vec![7; 300_000];
    peer.send(&Message::Open { stage: 1, hint: path(""), size: 0 }, b"");
    peer.send(&Message::Data { stage: 1, offset: 0 }, &content);
    let op = Op::Commit {
        path: path("mnt/f"),
        stage: 1,
        size: content.len() as u64,
        meta: meta(0o640, 42),
        hash: *blake3::hash(&content).as_bytes(),
    };
    assert_eq!(peer.op(op), None);
    let at = format!("{inner}{}", world.at("mnt/f").display());
    assert_eq!(fs::read(&at).unwrap(), content);
    assert_eq!(fs::metadata(&at).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(peer.file("g", b"x", meta(0o644, 1)), None);
    let rename = |from: &str, to: &str| Op::Rename {
        from: path(from),
        to: path(to),
        kind: Kind::File,
        size: None,
        mtime: None,
    };
    assert_eq!(peer.op(rename("g", "mnt/g")), Some(Outcome::Refused));
    assert_eq!(peer.op(rename("mnt/f", "f")), Some(Outcome::Refused));
    assert!(matches!(
        peer.op(super::peer::remove("mnt", Kind::Dir)),
        Some(Outcome::NotEmpty | Outcome::Problem(_))
    ));
    assert!(world.stages().is_empty());
    drop(peer);
    assert_eq!(said(child), (Some(0), String::new()));
}

/// How an operation fares that needs more than the agent may: see `unprivileged`.
pub(super) fn no_problem(outcome: &Option<Outcome>) -> bool {
    outcome.is_none()
}
