//! What a run cost: CPU seconds of every process that took part, and how much memory each held.
//!
//! Everything that is measured is below this process: the commands, and the sshd that is ours
//! with its sessions and what they run. A process's cost is what the kernel counted for it and
//! for the children it has waited for; when it ends, that moves to its parent. So the sum over
//! the living tree, plus what this process has waited for, only grows, and the difference of two
//! sums is what happened in between. Orphans come to this process: it is a subreaper.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};

use crate::world::{children, descendants};

/// From now on the orphans of what we start are ours.
pub(crate) fn adopt_orphans() {
    if let Err(e) = set_child_subreaper(Some(getpid())) {
        eprintln!("peers: cannot become a subreaper, CPU seconds may be too low: {e}");
    }
}

/// CPU seconds spent so far by all below this process, living or waited for.
pub(crate) fn cpu_so_far() -> f64 {
    let me = std::process::id();
    let mut ticks = stat(me).map_or(0, |stat| stat.waited);
    for pid in descendants(me) {
        ticks += stat(pid).map_or(0, |stat| stat.own + stat.waited);
    }
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Waits until no session of the sshd is left and every orphan is waited for, so that the sum is
/// whole. Sessions take a moment to end after their client.
pub(crate) fn settle(sshd: u32) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut left = !children(sshd).is_empty();
        for pid in children(std::process::id()) {
            if pid == sshd {
                continue;
            }
            left = true;
            if stat(pid).is_some_and(|stat| stat.zombie)
                && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
            {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        if !left {
            return;
        }
        assert!(Instant::now() < end, "processes of the last run are still there");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Stat {
    own: u64,
    waited: u64,
    zombie: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let rest: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    let number = |at: usize| rest.get(at).and_then(|word| word.parse::<u64>().ok());
    Some(Stat {
        own: number(11)? + number(12)?,
        waited: number(13)? + number(14)?,
        zombie: rest.first() == Some(&"Z"),
    })
}

/// The names of all processes below a process, with the most memory (KiB) that each name held.
pub(crate) struct Memory {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<BTreeMap<String, u64>>,
}

impl Memory {
    /// Watches from now on.
    pub(crate) fn watch() -> Memory {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let watching = std::thread::spawn(move || {
            let mut most: BTreeMap<String, u64> = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                for pid in descendants(std::process::id()) {
                    if let Some((name, peak)) = peak(pid) {
                        let entry = most.entry(name).or_default();
                        *entry = peak.max(*entry);
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        Memory { stop, watching }
    }

    /// KiB by name.
    pub(crate) fn end(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.join().unwrap_or_default()
    }
}

fn peak(pid: u32) -> Option<(String, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    };
    let name = program(pid).or_else(|| field("Name:"))?;
    Some((name, field("VmHWM:")?.parse().ok()?))
}

/// The program's name as it was called; threads may have renamed the process.
fn program(pid: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = line.split(|&b| b == 0).next()?;
    let name = String::from_utf8_lossy(first).into_owned();
    let name = name.split([' ', ':']).next()?.rsplit('/').next()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// What a process did while nothing happened.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Idle {
    /// Seconds on a CPU.
    pub(crate) cpu: f64,
    /// Times that a thread went to sleep of itself.
    pub(crate) sleeps: u64,
}

/// What each thread of processes with this name below us has done so far, by thread id.
pub(crate) fn activity(wanted: &str) -> BTreeMap<String, Idle> {
    let mut threads = BTreeMap::new();
    for pid in descendants(std::process::id()) {
        if !program(pid).is_some_and(|name| name.starts_with(wanted)) {
            continue;
        }
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
            let ran = read("schedstat").unwrap_or_default();
            let ran = ran.split(' ').next().and_then(|word| word.parse::<u64>().ok());
            let status = read("status").unwrap_or_default();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            let sleeps = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            let id = task.file_name().to_string_lossy().into_owned();
            let cpu = ran.unwrap_or(0) as f64 / 1e9;
            threads.insert(id, Idle { cpu, sleeps: sleeps.unwrap_or(0) });
        }
    }
    threads
}

/// What was done between two looks by the threads that were there at the second.
pub(crate) fn between(before: &BTreeMap<String, Idle>, after: &BTreeMap<String, Idle>) -> Idle {
    after.iter().fold(Idle::default(), |sum, (id, now)| {
        let then = before.get(id).copied().unwrap_or_default();
        Idle {
            cpu: sum.cpu + now.cpu - then.cpu,
            sleeps: sum.sleeps + now.sleeps.saturating_sub(then.sleeps),
        }
    })
}
