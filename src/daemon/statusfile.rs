//! The status file in Lsyncd 2's text form, which monitoring reads: "There are N delays".
//!
//! Always replaced as a whole, written at most once in a time, and once more when all is idle.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Zoned;
use lsync_protocol::path::Escaped;

use crate::error::{Error, Result};

/// What stands in the file. Paths are bytes: directories end in `/`.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusReport {
    /// When it was made, in local time.
    pub at: Zoned,
    /// All syncs, in order.
    pub syncs: Vec<SyncStatus>,
    /// All tunnels, in order.
    pub tunnels: Vec<TunnelStatus>,
    /// How many directories are watched.
    pub watches: u64,
}

/// One sync.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncStatus {
    /// `Sync1`.
    pub name: String,
    /// The source directory, with `/` at its end.
    pub source: Vec<u8>,
    /// How many delays there are.
    pub count: u64,
    /// The delays, or the first of them.
    pub delays: Vec<DelayLine>,
    /// Filters and excludes, as rsync's rules: `+ /keep`, `- *.o`.
    pub rules: Vec<String>,
}

/// What waits, or is being done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayLine {
    /// `wait`, `active` or `block`.
    pub status: &'static str,
    /// `Create`, `Modify`, `Attrib`, `Delete`, `Move`, `Init`, `Blanket` or `Full`.
    pub etype: &'static str,
    /// The path, which begins with `/`.
    pub path: Vec<u8>,
    /// Where it moved to.
    pub path2: Option<Vec<u8>>,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Its name.
    pub name: String,
    /// Its state, as `UP`.
    pub status: &'static str,
    /// Its processes.
    pub processes: Vec<TunnelProcess>,
}

/// A process of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelProcess {
    /// Its number.
    pub pid: u32,
    /// Its kind, as Lsyncd 2 numbers them.
    pub kind: u32,
    /// When it was started, as text.
    pub started: String,
}

impl StatusReport {
    /// The text of the file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.put(&mut text);
        text
    }

    fn put(&self, text: &mut String) -> std::fmt::Result {
        let at = self.at.strftime("%a %b %e %H:%M:%S %Y");
        writeln!(text, "Lsyncd status report at {at}\n")?;
        for sync in &self.syncs {
            let name = Escaped(sync.name.as_bytes());
            writeln!(text, "{name} source={}", Escaped(&sync.source))?;
            writeln!(text, "There are {} delays", sync.count)?;
            for delay in &sync.delays {
                write!(text, "{:<7}{} {}", delay.status, delay.etype, Escaped(&delay.path))?;
                if let Some(path2) = &delay.path2 {
                    write!(text, " -> {}", Escaped(path2))?;
                }
                writeln!(text)?;
            }
            writeln!(text, "Filtering:")?;
            for rule in &sync.rules {
                writeln!(text, "{}", Escaped(rule.as_bytes()))?;
            }
            if sync.rules.is_empty() {
                writeln!(text, "  nothing.")?;
            }
            writeln!(text, "\n")?;
        }
        for tunnel in &self.tunnels {
            let name = Escaped(tunnel.name.as_bytes());
            writeln!(text, "Tunnel: name={name} status={}", tunnel.status)?;
            writeln!(text, "Running processes: {}", tunnel.processes.len())?;
            for process in &tunnel.processes {
                let started = Escaped(process.started.as_bytes());
                writeln!(text, "  pid={} type={} started={started}", process.pid, process.kind)?;
            }
        }
        writeln!(text, "Inotify watching {} directories", self.watches)
    }
}

/// The file, and when it was last written.
#[derive(Debug)]
pub struct StatusFile {
    path: PathBuf,
    every: Duration,
    written: Option<(Instant, bool)>,
}

impl StatusFile {
    /// A file at `path`, which is absolute, written at most once in `every`.
    #[must_use]
    pub fn new(path: &Path, every: Duration) -> StatusFile {
        StatusFile { path: path.to_owned(), every, written: None }
    }

    /// How long until it may be written; `idle`: nothing waits, and nothing is being done. What
    /// became idle is written at once; what has been idle since it was written, not again.
    #[must_use]
    pub fn due_in(&self, idle: bool, now: Instant) -> Option<Duration> {
        match self.written {
            Some((_, true)) if idle => None,
            Some((at, false)) if !idle => {
                Some(self.every.saturating_sub(now.saturating_duration_since(at)))
            }
            Some((at, true)) => Some(self.every.saturating_sub(now.saturating_duration_since(at))),
            _ => Some(Duration::ZERO),
        }
    }

    /// Writes it, whether it is due or not.
    ///
    /// # Errors
    /// If it cannot be written. It counts as written then: it is tried again in its time.
    pub fn write(&mut self, report: &StatusReport, idle: bool, now: Instant) -> Result<()> {
        self.written = Some((now, idle));
        replace(&self.path, report.text().as_bytes()).map_err(|e| {
            let shown = Escaped(self.path.as_os_str().as_bytes());
            Error::failed(format!("cannot write the status file {shown}")).because(e)
        })
    }
}

/// Puts a file in the place of another, so that a reader sees one or the other. What is no file, such
/// as a pipe, is written to.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let there = match std::fs::metadata(path) {
        Ok(meta) => Some(meta),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    if there.as_ref().is_some_and(|meta| !meta.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(content);
    }
    // A link goes on leading to it.
    let path = if there.is_some() { path.canonicalize()? } else { path.to_owned() };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    // Left by a process of the same number, which is no more.
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let write = || -> io::Result<()> {
        let mut file = File::create_new(&beside)?;
        if let Some(meta) = &there {
            file.set_permissions(meta.permissions())?;
        }
        file.write_all(content)?;
        drop(file);
        std::fs::rename(&beside, &path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn report() -> StatusReport {
        let delay = |status, etype, path: &[u8], path2: Option<&[u8]>| DelayLine {
            status,
            etype,
            path: path.to_vec(),
            path2: path2.map(<[u8]>::to_vec),
        };
        let at = "2026-11-02T08:32:13[UTC]".parse().unwrap();
        let one = SyncStatus {
            name: "Sync1".into(),
            source: b"/s/".to_vec(),
            count: 5,
            delays: vec![
                delay("wait", "Create", b"/f1", None),
                delay("wait", "Move", b"/d2/", Some(b"/d3/")),
                delay("active", "Modify", b"/a\nThere are 0 delays", None),
                delay("block", "Delete", b"/\xff", None),
            ],
            rules: vec!["+ /keep".into(), "- *.o".into()],
        };
        let two =
            SyncStatus { name: "web".into(), source: b"/w/".to_vec(), ..SyncStatus::default() };
        let process = TunnelProcess { pid: 7, kind: 1, started: "08:00".into() };
        let tunnel = TunnelStatus { name: "T".into(), status: "UP", processes: vec![process] };
        StatusReport { at, syncs: vec![one, two], tunnels: vec![tunnel], watches: 4 }
    }

    const TEXT: &str = "Lsyncd status report at Mon Nov  2 08:32:13 2026

Sync1 source=/s/
There are 5 delays
wait   Create /f1
wait   Move /d2/ -> /d3/
active Modify /a\\nThere are 0 delays
block  Delete /\\xff
Filtering:
+ /keep
- *.o


web source=/w/
There are 0 delays
Filtering:
  nothing.


Tunnel: name=T status=UP
Running processes: 1
  pid=7 type=1 started=08:00
Inotify watching 4 directories
";

    #[test]
    fn the_text_is_lsyncd_2s_and_no_name_adds_a_line() {
        assert_eq!(report().text(), TEXT);
    }

    #[test]
    fn it_is_replaced_whole_and_keeps_its_mode_and_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("status"), dir.path().join("link"));
        std::os::unix::fs::symlink("status", &link).unwrap();
        let now = Instant::now();
        let mut file = StatusFile::new(&link, Duration::from_secs(10));
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let old = File::open(&path).unwrap();
        file.write(&report(), false, now).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), TEXT);
        assert_eq!(io::read_to_string(&old).unwrap(), "old", "another file");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["link", "status"], "nothing is left beside it");
        let mut nowhere = StatusFile::new(&dir.path().join("none/status"), Duration::ZERO);
        let error = nowhere.write(&report(), false, now).unwrap_err().to_string();
        assert!(error.ends_with("/none/status: no such file or directory"), "{error}");
    }

    #[test]
    fn it_is_written_in_its_time_and_once_when_idle() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StatusFile::new(&dir.path().join("s"), Duration::from_secs(10));
        let start = Instant::now();
        let after = |s: u64| start + Duration::from_secs(s);
        let seconds = |s: u64| Some(Duration::from_secs(s));
        assert_eq!(file.due_in(true, start), seconds(0), "the first");
        file.write(&report(), false, start).unwrap();
        assert_eq!(file.due_in(false, after(3)), seconds(7));
        assert_eq!(file.due_in(false, after(12)), seconds(0));
        assert_eq!(file.due_in(true, after(3)), seconds(0), "it became idle");
        file.write(&report(), true, after(3)).unwrap();
        assert_eq!(file.due_in(true, after(100)), None, "nothing new");
        assert_eq!(file.due_in(false, after(4)), seconds(9));
    }
}
