//! The end of the control socket that answers.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lsync_protocol::path::Escaped;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::status::{CarrierName, MirrorStatus, State, Status};
use super::{ENDING, Outcome, Places, REQUEST_MAX, Reply, Request, Steered};
use crate::error::{Error, Result};
use crate::mirror::steer::{Flushed, Resumed, Steer};

/// So many may ask at a time; more wait.
const ASKING_MAX: usize = 32;
/// Who asks nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody who waits is still there.
const LOOK: Duration = Duration::from_secs(1);
/// A mirror that says nothing for so long is called silent.
const ANSWER: Duration = Duration::from_secs(5);
/// More requests than this may not wait for one mirror.
const QUEUE: usize = 8;

/// A mirror that may be asked.
#[derive(Debug, Clone)]
pub struct Served {
    /// What it is called.
    pub name: String,
    /// Its source.
    pub source: PathBuf,
    /// Its target, as it was given.
    pub target: String,
    /// What carries it.
    pub carrier: CarrierName,
    /// Where it is asked; another place when something else carries it.
    pub ask: Arc<Mutex<mpsc::Sender<Steer>>>,
    /// Why nobody is there to be asked.
    away: Arc<Mutex<Option<String>>>,
}

/// The mirrors of a process, which may change.
pub type Roll = Arc<Mutex<Vec<Served>>>;

impl Served {
    /// A mirror that is asked there.
    #[must_use]
    pub fn new(
        name: &str,
        source: PathBuf,
        target: String,
        carrier: CarrierName,
        ask: mpsc::Sender<Steer>,
    ) -> Served {
        let ask = Arc::new(Mutex::new(ask));
        Served { name: name.to_owned(), source, target, carrier, ask, away: Arc::default() }
    }

    /// The same, where somebody else knows where it is asked, and may change that.
    #[must_use]
    pub fn at(self, ask: Arc<Mutex<mpsc::Sender<Steer>>>) -> Served {
        Served { ask, ..self }
    }

    /// It does not run, and is to be begun again.
    pub fn is_away(&self, why: &str) {
        *locked(&self.away) = Some(why.to_owned());
    }

    /// It runs, and is asked there.
    pub fn is_there(&self, ask: mpsc::Sender<Steer>) {
        *locked(&self.away) = None;
        *locked(&self.ask) = ask;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A way to ask a mirror, and where the mirror hears.
#[must_use]
pub fn way() -> (mpsc::Sender<Steer>, crate::mirror::steer::Steered) {
    mpsc::channel(QUEUE)
}

/// A socket that listens. Dropping it takes its name away.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Control {
    /// Makes the socket: the one that is named, or one in the first directory that can be had.
    ///
    /// # Errors
    /// None can be had.
    pub fn bind(places: &Places) -> Result<Control> {
        if let Some(path) = &places.socket {
            return Control::at(path);
        }
        let mut last = None;
        for dir in &places.dirs {
            match own_dir(dir) {
                Ok(()) => {
                    sweep(dir);
                    let pid = std::process::id();
                    // One that is bound and does not listen yet refuses, as the dead do: others
                    // that start now would sweep it away. It gets its name once it listens.
                    let made = Control::at(&dir.join(format!("{pid}.new")))?;
                    return made.moved_to(dir.join(format!("{pid}.{ENDING}")));
                }
                Err(error) => last = last.or(Some((dir, error))),
            }
        }
        Err(match last {
            None => Error::failed("there is no directory for a control socket"),
            Some((dir, error)) => {
                Error::failed(format!("cannot make a control socket in {}", shown(dir)))
                    .because(error)
            }
        }
        .hint("--control PATH says where it is to be"))
    }

    fn at(path: &Path) -> Result<Control> {
        let failed = |error: io::Error| {
            Error::failed(format!("cannot make the control socket {}", shown(path))).because(error)
        };
        match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(Error::failed(format!(
                    "cannot make the control socket {}: it is there and no socket",
                    shown(path)
                ))
                .hint("--control names a new socket"));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(Error::failed(format!(
                    "another lsyncd answers at the control socket {}",
                    shown(path)
                ))
                .hint("--control names another for this one"));
            }
            // Nobody is there any more.
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Others cannot connect; and whoever did in between is not answered.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
        let made = std::fs::symlink_metadata(path).map_err(failed)?;
        Ok(Control { listener, path: path.to_owned(), identity: (made.dev(), made.ino()) })
    }

    fn moved_to(mut self, path: PathBuf) -> Result<Control> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        // The same number may run in another container that shares the directory.
        renameat_with(CWD, &self.path, CWD, &path, RenameFlags::NOREPLACE).map_err(|error| {
            Error::failed(format!("cannot make the control socket {}", shown(&path)))
                .because(io::Error::from(error))
        })?;
        self.path = path;
        Ok(self)
    }

    /// Where it stands.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers for these mirrors, until it is dropped.
    pub async fn serve(self, roll: Roll) {
        let board = Arc::new(Board { roll, began: Instant::now() });
        let places = Arc::new(Semaphore::new(ASKING_MAX));
        let mut asking = tokio::task::JoinSet::new();
        loop {
            // It is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while asking.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let board = Arc::clone(&board);
                    asking.spawn(async move {
                        let _place = place;
                        if let Err(error) = board.answer(stream).await {
                            tracing::debug!("somebody at the control socket left: {error}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("the control socket: {error}");
                    // Out of descriptors, most likely.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Another may stand there by now.
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes sure that the directory is there and nobody else's.
fn own_dir(dir: &Path) -> io::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    let there = std::fs::symlink_metadata(dir).map_err(|error| made.err().unwrap_or(error))?;
    if !there.is_dir() {
        return Err(io::Error::other("not a directory"));
    }
    if there.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("another user's"));
    }
    if there.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write there"));
    }
    Ok(())
}

/// Sockets of processes that did not come to take them away.
fn sweep(dir: &Path) {
    for path in sockets(dir) {
        let answer = std::os::unix::net::UnixStream::connect(&path);
        if answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The sockets in a directory.
pub(super) fn sockets(dir: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sockets = names.filter(|name| name.file_type().is_ok_and(|kind| kind.is_socket()));
    let paths = sockets.map(|name| name.path());
    let mut ours: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|ending| ending == ENDING)).collect();
    ours.sort();
    ours
}

struct Board {
    roll: Roll,
    began: Instant,
}

impl Board {
    async fn answer(&self, stream: UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?.uid();
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let stranger = peer != rustix::process::geteuid().as_raw() && peer != 0;
        loop {
            let mut line = Vec::new();
            let mut limited = (&mut reader).take(REQUEST_MAX);
            let read = tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line)).await;
            let Ok(read) = read else { return Ok(()) };
            if read? == 0 {
                return Ok(());
            }
            if stranger {
                let why = "only the user whose lsyncd it is, and root";
                return write(&mut writer, &Reply::Error(why.to_owned())).await;
            }
            let reply = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => tokio::select! {
                    reply = self.reply(request) => reply,
                    () = gone(&writer) => return Ok(()),
                },
                Err(error) => Reply::Error(format!("not a request: {error}")),
            };
            write(&mut writer, &reply).await?;
        }
    }

    async fn reply(&self, request: Request) -> Reply {
        let (names, done) = match request {
            Request::Status => return Reply::Status(Box::new(self.status().await)),
            Request::Flush { mirrors, timeout_seconds } => {
                // Longer than anybody waits is as good as for ever.
                let patience =
                    timeout_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                (mirrors, What::Flush(patience))
            }
            Request::Pause { mirrors } => (mirrors, What::Pause),
            Request::Resume { mirrors, confirm } => (mirrors, What::Resume { confirm }),
        };
        let mut asked = Vec::new();
        let mirrors = locked(&self.roll).clone();
        for name in names {
            match mirrors.iter().find(|mirror| mirror.name == name) {
                Some(mirror) => asked.push(mirror.clone()),
                None => {
                    return Reply::Error(format!(
                        "there is no mirror {}",
                        Escaped(name.as_bytes())
                    ));
                }
            }
        }
        let mut waiting = tokio::task::JoinSet::new();
        for (at, mirror) in asked.into_iter().enumerate() {
            waiting.spawn(async move { (at, steer(&mirror, done).await) });
        }
        let mut all = waiting.join_all().await;
        all.sort_by_key(|(at, _)| *at);
        Reply::Steered(all.into_iter().map(|(_, steered)| steered).collect())
    }

    async fn status(&self) -> Status {
        status_of(&self.roll, self.began).await
    }
}

/// How the mirrors of this process stand, which began then.
pub async fn status_of(roll: &Roll, began: Instant) -> Status {
    let mut mirrors = Vec::new();
    let roll = locked(roll).clone();
    for mirror in &roll {
        let source = mirror.source.as_os_str().as_encoded_bytes();
        let status = MirrorStatus::silent(&mirror.name, source, &mirror.target, mirror.carrier);
        let standing = ask(mirror, Steer::Standing);
        mirrors.push(match tokio::time::timeout(ANSWER, standing).await {
            Ok(Some(standing)) => status.standing(*standing),
            _ => match locked(&mirror.away).clone() {
                Some(why) => {
                    let reason = Some(format!("{why}; it is tried again"));
                    MirrorStatus { state: State::Waiting, reason, ..status }
                }
                None => status,
            },
        });
    }
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: began.elapsed().as_secs_f64(),
        mirrors,
    }
}

/// What is to be done with a mirror.
#[derive(Debug, Clone, Copy)]
enum What {
    Flush(Option<Duration>),
    Pause,
    Resume { confirm: bool },
}

/// Asks a mirror; `None`: it has ended.
async fn ask<T>(mirror: &Served, what: impl FnOnce(oneshot::Sender<T>) -> Steer) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let way = locked(&mirror.ask).clone();
    way.send(what(answer)).await.ok()?;
    answered.await.ok()
}

async fn steer(mirror: &Served, what: What) -> Steered {
    let mut steered = Steered {
        name: mirror.name.clone(),
        outcome: Outcome::Ended,
        reason: None,
        problems: Vec::new(),
    };
    match what {
        What::Flush(patience) => {
            let flushed = ask(mirror, Steer::Flush);
            let flushed = match patience {
                None => flushed.await,
                Some(patience) => match tokio::time::timeout(patience, flushed).await {
                    Ok(flushed) => flushed,
                    Err(_) => {
                        steered.outcome = Outcome::TimedOut;
                        steered.reason = still_to_come(mirror).await;
                        return steered;
                    }
                },
            };
            (steered.outcome, steered.reason) = match flushed {
                None => (Outcome::Ended, None),
                Some(Flushed::Done) => (Outcome::Done, None),
                Some(Flushed::Problems(problems)) => {
                    steered.problems = problems.iter().map(Into::into).collect();
                    (Outcome::Problems, None)
                }
                Some(Flushed::Paused) => (Outcome::Paused, None),
                Some(Flushed::Halted(reason)) => (Outcome::Halted, Some(reason)),
            };
        }
        What::Pause => {
            if ask(mirror, Steer::Pause).await.is_some() {
                steered.outcome = Outcome::Done;
            }
        }
        What::Resume { confirm } => {
            let resumed = ask(mirror, |answer| Steer::Resume { confirm, answer }).await;
            (steered.outcome, steered.reason) = match resumed {
                None => (Outcome::Ended, None),
                Some(Resumed::Yes) => (Outcome::Done, None),
                Some(Resumed::Already) => (Outcome::Already, None),
                Some(Resumed::Halted(reason)) => (Outcome::Halted, Some(reason)),
            };
        }
    }
    steered
}

/// How all mirrors stand in a line, and whether each of them answers that can.
pub async fn in_a_line(roll: &Roll) -> (String, bool) {
    let mirrors = locked(roll).clone();
    let (mut states, mut alive) = (std::collections::BTreeMap::<&str, usize>::new(), true);
    for mirror in &mirrors {
        let word = match tokio::time::timeout(ANSWER, ask(mirror, Steer::Standing)).await {
            Ok(Some(standing)) => State::from(standing.stand).word(),
            Ok(None) => State::Waiting.word(),
            Err(_) => {
                alive = false;
                State::Silent.word()
            }
        };
        *states.entry(word).or_default() += 1;
    }
    let states: Vec<String> =
        states.iter().map(|(word, count)| format!("{count} {word}")).collect();
    let mirrors = if mirrors.len() == 1 { "mirror" } else { "mirrors" };
    (format!("{mirrors}: {}", states.join(", ")), alive)
}

/// What a mirror that did not end in time has still to do, in words.
async fn still_to_come(mirror: &Served) -> Option<String> {
    let standing = tokio::time::timeout(ANSWER, ask(mirror, Steer::Standing)).await.ok()??;
    let state = State::from(standing.stand).word();
    let paths = standing.dirty;
    Some(match &standing.reason {
        Some(reason) => format!("{state}: {reason}; paths still to come: {paths}"),
        None => format!("{state}; paths still to come: {paths}"),
    })
}

/// Ends when whoever asked has left. To have said all is not to have left.
async fn gone(writer: &OwnedWriteHalf) {
    loop {
        tokio::time::sleep(LOOK).await;
        if writer.ready(Interest::WRITABLE).await.is_ok_and(|ready| ready.is_write_closed()) {
            return;
        }
    }
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_encoded_bytes()).to_string()
}
