//! What takes place while a mirror is kept: the way of a change from the source to the target,
//! and what the processes do while nothing happens.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, Signal, kill_process};

use crate::account::{Idle, activity, between, cpu_so_far, settle};
use crate::arena::{Arena, Medium, which};
use crate::copy::Trees;
use crate::tree::{Brings, Random, compare, empty};

/// How long a change may take at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// Files in the source; the changes go round.
const FILES: usize = 100;
/// Bytes of a file.
const SIZE: usize = 1024;

/// One way to keep a mirror.
struct Keeper {
    name: String,
    how: How,
    changes: usize,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// Our own.
    Push,
    /// rsync run after each change, as Lsyncd 2 does with no delay, without Lsyncd 2.
    Rsync,
    /// Lsyncd 2 itself, with this delay in seconds.
    Two(u32),
}

/// What was measured of one way.
pub(crate) struct Kept {
    pub(crate) name: String,
    /// Seconds from close() to readable, sorted.
    pub(crate) seconds: Vec<f64>,
    /// CPU seconds of both ends for one change.
    pub(crate) cpu: f64,
    /// At rest, by program.
    pub(crate) idle: Vec<(&'static str, Idle)>,
}

impl Kept {
    /// The time within which this part of the changes was there.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        percentile(&self.seconds, part)
    }
}

/// Of sorted numbers, the one that this part of them does not exceed.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}

/// What was measured, and why something was not.
pub(crate) struct Live {
    pub(crate) kept: Vec<Kept>,
    pub(crate) missing: Option<String>,
}

/// Measures all ways, one after the other: side by side they would disturb each other.
pub(crate) fn measure(arena: &Arena) -> Live {
    let mut keepers = vec![
        Keeper { name: "lsyncd push".into(), how: How::Push, changes: arena.amounts.changes },
        Keeper {
            name: "rsync -a per change".into(),
            how: How::Rsync,
            changes: arena.amounts.changes,
        },
    ];
    let missing = match lsyncd_2() {
        Ok(version) => {
            for (delay, changes) in [(0, arena.amounts.changes), (1, arena.amounts.slow_changes)] {
                let name = format!("Lsyncd {version}, delay={delay}");
                keepers.push(Keeper { name, how: How::Two(delay), changes });
            }
            None
        }
        Err(why) => Some(why),
    };
    let mut kept = Vec::new();
    for keeper in &keepers {
        let measured = keep(arena, keeper);
        let ms = |part: f64| measured.percentile(part) * 1000.0;
        eprintln!(
            "  {:<24} p50 {:.1} p90 {:.1} p99 {:.1} ms of {} changes",
            measured.name,
            ms(0.5),
            ms(0.9),
            ms(0.99),
            measured.seconds.len()
        );
        kept.push(measured);
    }
    Live { kept, missing }
}

/// Is Lsyncd 2 here? Its version.
pub(crate) fn lsyncd_2() -> Result<String, String> {
    let missing = "Lsyncd 2 is not here (apt-get install lsyncd)".to_owned();
    let program = which("lsyncd").ok_or_else(|| missing.clone())?;
    let out = Command::new(program).arg("--version").output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.trim()
        .strip_prefix("Version: ")
        .filter(|version| version.starts_with('2'))
        .map(str::to_owned)
        .ok_or(missing)
}

fn keep(arena: &Arena, keeper: &Keeper) -> Kept {
    let dir = arena.dir(Medium::Tmpfs, "live");
    let trees = Trees { source: dir.join("source"), target: dir.join("target") };
    empty(&trees.source);
    empty(&trees.target);
    let mut random = Random(3);
    for file in 0..FILES {
        std::fs::write(trees.source.join(format!("f{file:02}")), random.bytes(SIZE)).unwrap();
    }
    settle(arena.sshd());
    let mut process = start(arena, keeper.how, &trees, Arena::host(false));
    let cpu = cpu_so_far();
    let mut seconds: Vec<f64> = (0..keeper.changes)
        .map(|change| {
            // Neither in step with anything nor before the last one is over.
            std::thread::sleep(Duration::from_millis(20 + random.below(30)));
            let name = format!("f{:02}", change % FILES);
            // Another size each time: rsync overlooks a change that keeps it within a second.
            let size = SIZE + 1 + change / FILES;
            one_change(arena, keeper.how, &trees, &name, &random.bytes(size))
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    if process.is_none() {
        settle(arena.sshd());
    }
    let cpu = (cpu_so_far() - cpu) / keeper.changes as f64;
    let programs: &[&str] = match keeper.how {
        How::Push => &["lsyncd", "lsync-agent"],
        How::Two(0) => &["lsyncd"],
        _ => &[],
    };
    let idle = at_rest(arena, programs);
    if let Some(process) = &mut process {
        end(process);
    }
    settle(arena.sshd());
    // Lsyncd 2's last rsync may still have had to set a directory's time.
    if matches!(keeper.how, How::Push | How::Rsync)
        && let Err(difference) = compare(&trees.source, &trees.target, Brings::All, true)
    {
        panic!("latency by {}: {difference}", keeper.name);
    }
    std::fs::remove_dir_all(&dir).unwrap();
    Kept { name: keeper.name.clone(), seconds, cpu, idle }
}

/// A process that keeps a mirror; it does not outlive a bench that gave up.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts what keeps the mirror and waits until it does.
pub(crate) fn start(arena: &Arena, how: How, trees: &Trees, host: &str) -> Option<Running> {
    let target = format!("{host}:{}", trees.target.display());
    match how {
        How::Rsync => {
            rsync(arena, trees);
            None
        }
        How::Push => {
            let mut command = arena.push();
            command.args(["--json", "-q"]).arg(&trees.source).arg(target);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
            let child = Running(child);
            let (heard, ready) = std::sync::mpsc::channel();
            for stream in [Box::new(stdout) as Box<dyn std::io::Read + Send>, Box::new(stderr)] {
                let heard = heard.clone();
                // Read to the end, so that it never waits for us.
                std::thread::spawn(move || {
                    for line in BufReader::new(stream).lines().map_while(Result::ok) {
                        let _ = heard.send(line);
                    }
                });
            }
            let end = Instant::now() + PATIENCE;
            while !ready.recv_timeout(PATIENCE).is_ok_and(|line| line.contains("\"ready\"")) {
                assert!(Instant::now() < end, "lsyncd push does not get ready");
            }
            Some(child)
        }
        How::Two(delay) => {
            let config = arena.world.path("two.lua");
            let text = format!(
                "settings {{ nodaemon = true }}\nsync {{ default.rsync, source = \"{}\", target = \"{target}\", delay = {delay},\n\
                 rsync = {{ archive = true, rsh = \"{}\" }} }}\n",
                trees.source.display(),
                arena.ssh()
            );
            std::fs::write(&config, text).unwrap();
            let program = which("lsyncd").unwrap();
            let log = File::create(arena.world.path("two.log")).unwrap();
            let child = Command::new(program)
                .arg("-nodaemon")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let child = Running(child);
            let end = Instant::now() + PATIENCE;
            // What it does with the times of directories is its own affair.
            while let Err(differs) = compare(&trees.source, &trees.target, Brings::Content, true) {
                let log = std::fs::read_to_string(arena.world.path("two.log")).unwrap_or_default();
                assert!(Instant::now() < end, "Lsyncd 2 does not mirror: {differs}\n{log}");
                std::thread::sleep(Duration::from_millis(50));
            }
            // Its first rsync has to end before it listens.
            settle_two(arena);
            Some(child)
        }
    }
}

/// Waits until Lsyncd 2 has no rsync under way.
fn settle_two(arena: &Arena) {
    let end = Instant::now() + PATIENCE;
    while arena.world.sessions() > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
}

fn rsync(arena: &Arena, trees: &Trees) {
    let status = per_change(arena, trees).status().unwrap();
    assert!(status.success(), "rsync: {status}");
}

fn per_change(arena: &Arena, trees: &Trees) -> Command {
    let mut command = Command::new("rsync");
    command
        .args(["-a", "-e", &arena.ssh()])
        .arg(trees.source.join(""))
        .arg(format!("{}:{}", Arena::host(false), trees.target.display()))
        .stdin(Stdio::null());
    command
}

/// Writes a file and waits until the target has it: seconds.
pub(crate) fn one_change(
    arena: &Arena,
    how: How,
    trees: &Trees,
    name: &str,
    content: &[u8],
) -> f64 {
    let ears = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
    let ears = ears.unwrap();
    let flags = inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE;
    inotify::add_watch(&ears, &trees.target, flags).unwrap();
    let mut file = File::create(trees.source.join(name)).unwrap();
    file.write_all(content).unwrap();
    let began = Instant::now();
    drop(file);
    let running = matches!(how, How::Rsync).then(|| per_change(arena, trees).spawn().unwrap());
    let seconds = arrival(&ears, &trees.target.join(name), content, began);
    if let Some(mut running) = running {
        assert!(running.wait().unwrap().success());
    }
    if matches!(how, How::Two(_)) {
        // Otherwise the next change would wait for the end of this one's rsync.
        let end = Instant::now() + PATIENCE;
        while arena.world.sessions() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    seconds
}

/// Waits until a file reads as it should.
fn arrival(ears: &OwnedFd, file: &Path, content: &[u8], began: Instant) -> f64 {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        if std::fs::read(file).is_ok_and(|found| found == content) {
            return began.elapsed().as_secs_f64();
        }
        assert!(began.elapsed() < PATIENCE, "the change of {} never came", file.display());
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let _ = poll(&mut [PollFd::new(&ears.as_fd(), PollFlags::IN)], Some(&tick));
        let mut reader = inotify::Reader::new(ears, &mut buffer);
        while reader.next().is_ok() {}
    }
}

fn at_rest(arena: &Arena, programs: &[&'static str]) -> Vec<(&'static str, Idle)> {
    if programs.is_empty() {
        return Vec::new();
    }
    // What the last change left to do is done, and threads that have nothing to do have ended.
    std::thread::sleep(Duration::from_secs(12));
    let before: Vec<_> = programs.iter().map(|name| activity(name)).collect();
    std::thread::sleep(Duration::from_secs(arena.amounts.idle_seconds));
    programs
        .iter()
        .zip(before)
        .map(|(name, before)| (*name, between(&before, &activity(name))))
        .collect()
}

/// Ends what kept a mirror.
pub(crate) fn end(process: &mut Running) {
    let process = &mut process.0;
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = process.kill();
    let _ = process.wait();
}
