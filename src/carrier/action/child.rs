//! A child: one program that a script spawned, its input and its end.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use super::ChildOutput;

/// What is to be run.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) binary: Vec<u8>,
    pub(super) args: Vec<Vec<u8>>,
    /// What it reads; nothing otherwise.
    pub(super) stdin: Option<Vec<u8>>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Its exit code; of one that was killed what a shell says, 128 and the signal.
    pub(super) code: i32,
    /// What killed it.
    pub(super) signal: Option<i32>,
}

impl Outcome {
    /// It could not even begin.
    pub(super) const NOT_STARTED: Outcome = Outcome { code: 255, signal: None };

    fn of(status: ExitStatus) -> Outcome {
        let signal = status.signal();
        let code = status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0));
        Outcome { code, signal }
    }
}

/// So much a pipe takes that nobody reads.
const PIPE_HOLDS: usize = 4096;

/// Starts a child. `ended` is called once it has ended, on a thread of its own; what does not fit
/// into a pipe is fed to it on another: a child that does not read holds up nobody, neither does one
/// that leaves its input to another, and one that ends before it has read everything only loses the
/// rest.
pub(super) fn start(
    program: Program,
    output: &ChildOutput,
    ended: impl FnOnce(Outcome) + Send + 'static,
) -> io::Result<u32> {
    let Program { binary, args, stdin } = program;
    let mut command = Command::new(OsStr::from_bytes(&binary));
    command.args(args.iter().map(|arg| OsStr::from_bytes(arg)));
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    match output {
        ChildOutput::Inherit => {}
        ChildOutput::Null => {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        ChildOutput::File(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path)?;
            command.stdout(file.try_clone()?).stderr(file);
        }
    }
    // The threads first: without them there must not be a child that nobody waits for.
    let (short, long) = match stdin {
        Some(text) if text.len() > PIPE_HOLDS => (None, Some(feeder(text)?)),
        text => (text, None),
    };
    let (hand, handed) = mpsc::channel::<Child>();
    thread::Builder::new().name("child".into()).spawn(move || {
        let Ok(mut child) = handed.recv() else { return };
        if let Some(mut pipe) = child.stdin.take() {
            if let Some(long) = long {
                let _ = long.send(pipe);
            } else if let Some(text) = short {
                let _ = pipe.write_all(&text);
            }
        }
        ended(child.wait().map_or(Outcome::NOT_STARTED, Outcome::of));
    })?;
    let child = command.spawn()?;
    let pid = child.id();
    let _ = hand.send(child);
    Ok(pid)
}

/// A thread that writes this to the pipe that it is given.
fn feeder(text: Vec<u8>) -> io::Result<mpsc::Sender<ChildStdin>> {
    let (hand, handed) = mpsc::channel::<ChildStdin>();
    thread::Builder::new().name("input".into()).spawn(move || {
        if let Ok(mut pipe) = handed.recv() {
            let _ = pipe.write_all(&text);
        }
    })?;
    Ok(hand)
}
