//! The end of the control socket that asks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lsync_protocol::path::Escaped;

use super::server::sockets;
use super::status::{MirrorStatus, Status};
use super::{LINE_MAX, Places, Reply, Request, Steered};
use crate::error::{Error, Result};

/// A process that says nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that answers.
#[derive(Debug, Clone)]
pub struct Process {
    socket: PathBuf,
    /// How it stands.
    pub status: Status,
}

impl Process {
    /// One that is known to stand so.
    #[must_use]
    pub fn known(socket: PathBuf, status: Status) -> Process {
        Process { socket, status }
    }
}

/// Which mirrors are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Which {
    /// The name of a mirror, or a source as it was given.
    pub name: Option<String>,
    /// What that is as a path, absolute and resolved, if it is one.
    pub source: Option<PathBuf>,
    /// All there are.
    pub all: bool,
}

impl Which {
    /// Is it this mirror that is meant?
    #[must_use]
    pub fn means(&self, mirror: &MirrorStatus) -> bool {
        let Some(name) = &self.name else { return true };
        let source = self.source.as_ref().map(|path| path.as_os_str().as_encoded_bytes());
        // Of several targets of one table each is called by both.
        let one_of = mirror.name.strip_prefix(name.as_str()).is_some_and(|r| r.starts_with('@'));
        mirror.name == *name || one_of || source.is_some_and(|path| path == mirror.source.bytes())
    }
}

/// The processes that answer, in the order of their sockets.
///
/// # Errors
/// A socket that was named does not answer, or no process does.
pub fn processes(places: &Places) -> Result<Vec<Process>> {
    if let Some(socket) = &places.socket {
        return Ok(vec![ask_status(socket)?]);
    }
    let (mut all, mut trouble) = (Vec::new(), None);
    for socket in places.dirs.iter().flat_map(|dir| sockets(dir)) {
        match ask_status(&socket) {
            Ok(process) => all.push(process),
            Err(error) => trouble = trouble.or(Some((socket, error))),
        }
    }
    match trouble {
        // A dead process leaves its socket, which the next one sweeps away.
        Some((socket, error)) if all.is_empty() && !is_dead(&socket) => Err(error),
        _ if all.is_empty() => Err(Error::failed("no lsyncd of yours runs here").hint(
            "another user's is asked as that user; --control PATH names the socket of one that \
             was started with it",
        )),
        _ => Ok(all),
    }
}

fn is_dead(socket: &Path) -> bool {
    UnixStream::connect(socket).is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    })
}

fn ask_status(socket: &Path) -> Result<Process> {
    match ask(socket, &Request::Status, Some(PATIENCE))? {
        Reply::Status(status) => Ok(Process { socket: socket.to_owned(), status: *status }),
        _ => Err(wrong(socket)),
    }
}

/// The mirrors that are meant, by process.
///
/// # Errors
/// There is none, or it is not plain which.
pub fn meant(processes: Vec<Process>, which: &Which) -> Result<Vec<(Process, Vec<String>)>> {
    let known = names(&processes);
    if known.len() > 1 && which.name.is_none() && !which.all {
        let all = known.join(", ");
        return Err(Error::usage(format!("{} mirrors run: say which", known.len()))
            .hint(format!("give a name, a source or --all; there are: {all}")));
    }
    let mut all = Vec::new();
    for process in processes {
        let mirrors = process.status.mirrors.iter().filter(|mirror| which.means(mirror));
        let names: Vec<String> = mirrors.map(|mirror| mirror.name.clone()).collect();
        if !names.is_empty() {
            all.push((process, names));
        }
    }
    match &which.name {
        Some(name) if all.is_empty() => Err(nobody(name, &known)),
        _ => Ok(all),
    }
}

/// Has a process do something with mirrors of its. `patience`: how long that may take.
///
/// # Errors
/// It does not answer, or will not.
pub fn steer(
    process: &Process,
    request: &Request,
    patience: Option<Duration>,
) -> Result<Vec<Steered>> {
    match ask(&process.socket, request, patience.map(|patience| patience.saturating_add(PATIENCE)))?
    {
        Reply::Steered(all) => Ok(all),
        _ => Err(wrong(&process.socket)),
    }
}

/// The processes with those of their mirrors that are meant.
///
/// # Errors
/// None is.
pub fn of(mut processes: Vec<Process>, which: &Which) -> Result<Vec<Process>> {
    if let Some(name) = &which.name {
        let known = names(&processes);
        for process in &mut processes {
            process.status.mirrors.retain(|mirror| which.means(mirror));
        }
        processes.retain(|process| !process.status.mirrors.is_empty());
        if processes.is_empty() {
            return Err(nobody(name, &known));
        }
    }
    Ok(processes)
}

fn names(processes: &[Process]) -> Vec<String> {
    let mirrors = processes.iter().flat_map(|process| &process.status.mirrors);
    mirrors.map(|mirror| Escaped(mirror.name.as_bytes()).to_string()).collect()
}

fn nobody(name: &str, known: &[String]) -> Error {
    let name = Escaped(name.as_bytes());
    Error::usage(format!("no mirror is called {name}, or has it as its source"))
        .hint(format!("there are: {}", known.join(", ")))
}

fn wrong(socket: &Path) -> Error {
    Error::failed(format!("{} does not answer as an lsyncd would", shown(socket)))
}

fn ask(socket: &Path, request: &Request, patience: Option<Duration>) -> Result<Reply> {
    let failed = |error: io::Error| {
        Error::failed(format!("cannot ask the lsyncd at {}", shown(socket))).because(error)
    };
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            failed(error).hint("no lsyncd answers there; lsyncd status says which run")
        }
        _ => failed(error),
    })?;
    stream.set_read_timeout(patience).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    (&stream).write_all(&line).map_err(failed)?;
    let mut answer = Vec::new();
    let mut reader = BufReader::new(&stream).take(LINE_MAX);
    reader.read_until(b'\n', &mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            failed(io::Error::other("it does not answer"))
        }
        _ => failed(error),
    })?;
    if answer.is_empty() {
        return Err(Error::failed(format!("the lsyncd at {} has ended", shown(socket))));
    }
    match serde_json::from_slice(&answer) {
        Ok(Reply::Error(why)) => Err(Error::failed(format!(
            "the lsyncd at {} says: {}",
            shown(socket),
            Escaped(why.as_bytes())
        ))),
        Ok(reply) => Ok(reply),
        Err(error) => Err(wrong(socket).because(error)),
    }
}

fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}
