//! Becoming a daemon: a process of its own session, and one that waits until it has started.
//!
//! The launching process stays until the daemon says how its start went, so that whoever started it
//! sees the error and the exit code. Until then the daemon keeps the terminal's streams and the
//! directory that it was started in.

use std::fs::File;
use std::io::{Read, Write};

use fork::Fork;
use rustix::pipe::PipeFlags;

use crate::error::{Error, Exit, Result};

/// Which of the two processes this is.
#[derive(Debug)]
#[must_use]
pub enum Detached {
    /// The one that was started: the daemon runs, and this one has to end.
    Launcher(Exit),
    /// The daemon, which has yet to say how its start went.
    Daemon(Report),
}

/// How the daemon tells how its start went. Dropped without a word, it did not start.
#[derive(Debug)]
pub struct Report(File);

/// The first byte of what a daemon says.
const STARTED: u8 = b'S';
const FAILED: u8 = b'F';

/// An error's text is believed up to here.
const MOST: u64 = 64 * 1024;

/// Parts this process in two. Has to come before anything that starts a thread: only the calling
/// thread goes along.
///
/// # Errors
/// In the launching process: what kept the daemon from starting, with its exit code. Before that, if
/// the system refuses, or there are threads.
pub fn detach() -> Result<Detached> {
    let cannot = |e: std::io::Error| Error::failed("cannot become a daemon").because(e);
    if has_threads() {
        return Err(Error::failed("cannot become a daemon: threads run already"));
    }
    let (reader, writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| cannot(e.into()))?;
    match fork::fork().map_err(cannot)? {
        Fork::Parent(daemon) => {
            drop(writer);
            let mut said = Vec::new();
            // What cannot be read counts as not said.
            let _ = File::from(reader).take(MOST).read_to_end(&mut said);
            heard(&said, || how_it_ended(daemon)).map(Detached::Launcher)
        }
        Fork::Child => {
            drop(reader);
            let report = Report(File::from(writer));
            match rustix::process::setsid() {
                Ok(_) => Ok(Detached::Daemon(report)),
                Err(e) => Err(cannot(e.into())),
            }
        }
    }
}

impl Report {
    /// The daemon runs: the launching process ends with 0, and the daemon leaves what it was started
    /// with, the standard streams and the directory. By now every path has to be absolute.
    ///
    /// # Errors
    /// If it cannot leave them; the launching process then has heard of it.
    pub fn started(mut self) -> Result<()> {
        if let Err(error) = leave() {
            self.tell(&error);
            return Err(error);
        }
        // Whoever waited may have gone; the daemon goes on without.
        let _ = self.0.write_all(&[STARTED]);
        Ok(())
    }

    /// The daemon cannot start: the launching process reports this error, and the daemon need not.
    pub fn failed(mut self, error: &Error) {
        self.tell(error);
    }

    fn tell(&mut self, error: &Error) {
        let mut text = vec![FAILED, error.exit() as u8];
        text.extend_from_slice(error.to_string().as_bytes());
        if let Some(hint) = error.hint_text() {
            text.push(0);
            text.extend_from_slice(hint.as_bytes());
        }
        let _ = self.0.write_all(&text);
    }
}

/// What the launching process makes of what it heard. `ended` says how a silent daemon ended.
fn heard(said: &[u8], ended: impl FnOnce() -> String) -> Result<Exit> {
    match said {
        [STARTED, ..] => Ok(Exit::Done),
        [FAILED, exit, text @ ..] => {
            let text = String::from_utf8_lossy(text);
            let (what, hint) = match text.split_once('\0') {
                Some((what, hint)) => (what, Some(hint)),
                None => (&*text, None),
            };
            let error = match *exit {
                e if e == Exit::Usage as u8 => Error::usage(what),
                e if e == Exit::Stopped as u8 => Error::stopped(what),
                _ => Error::failed(what),
            };
            Err(match hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
        _ => Err(Error::failed("the daemon did not start").because(ended())),
    }
}

fn how_it_ended(daemon: i32) -> String {
    let pid = rustix::process::Pid::from_raw(daemon);
    match rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()) {
        Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("it ended with {code} and said nothing"),
            (None, Some(signal)) => format!("signal {signal} ended it"),
            _ => "it is gone".to_owned(),
        },
        _ => "it is gone".to_owned(),
    }
}

fn leave() -> Result<()> {
    let cannot = |what: &str, e: std::io::Error| Error::failed(format!("cannot {what}")).because(e);
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| cannot("open /dev/null", e))?;
    for put in [
        rustix::stdio::dup2_stdin(&null),
        rustix::stdio::dup2_stdout(&null),
        rustix::stdio::dup2_stderr(&null),
    ] {
        put.map_err(|e| cannot("leave the terminal", e.into()))?;
    }
    rustix::process::chdir("/").map_err(|e| cannot("change to /", e.into()))
}

/// Does this process have more than one thread? Where that cannot be told, it is believed not to.
fn has_threads() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_daemon_says_is_what_the_launcher_ends_with() {
        let silent = || "signal 9 ended it".to_owned();
        assert_eq!(heard(b"S", silent).unwrap(), Exit::Done);
        let error = heard(b"", silent).unwrap_err();
        assert_eq!(error.to_string(), "the daemon did not start: signal 9 ended it");
        assert_eq!(error.exit(), Exit::Failed);
        let error = heard(b"F\x19cannot\0do this\n", silent).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit()), ("cannot", Exit::Stopped));
        assert_eq!(error.hint_text(), Some("do this\n"));
        let error = heard(b"F\xffcannot \xff", silent).unwrap_err();
        assert_eq!(error.to_string(), "cannot \u{fffd}");
        assert_eq!((error.exit(), error.hint_text()), (Exit::Failed, None));
    }

    #[test]
    fn it_is_refused_where_threads_run() {
        // The thread of this test is not the only one.
        std::thread::scope(|scope| {
            let (done, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || wait.recv());
            let error = detach().unwrap_err();
            assert_eq!(error.to_string(), "cannot become a daemon: threads run already");
            drop(done);
        });
    }
}
