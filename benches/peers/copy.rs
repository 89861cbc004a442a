//! Works that are done once and are over: a copy, a repeat. Each is one [`Work`], done in several
//! ways in turn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::account::{Memory, cpu_so_far, settle};
use crate::arena::{Arena, Medium};
use crate::relay::Wire;
use crate::tree::{Brings, compare, directories, empty};

/// Something to be done.
pub(crate) struct Work {
    /// By which it is chosen on the command line.
    pub(crate) key: &'static str,
    /// For tables.
    pub(crate) title: fn(&Arena) -> String,
    /// What it measures, for the page.
    pub(crate) about: &'static str,
    pub(crate) on: Medium,
    /// Makes the source, once.
    pub(crate) source: fn(&Arena, &Trees),
    /// Puts the target into the state from which each run starts; not measured.
    pub(crate) before: fn(&Trees),
    /// Ours first.
    pub(crate) ways: &'static [Way],
    /// The ratio of our time to a way's that is to be reached, by the way's name.
    pub(crate) goals: &'static [(&'static str, f64)],
}

/// One way to do it.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) command: fn(&Arena, &Trees, host: &str) -> Command,
    pub(crate) brings: Brings,
    /// It goes over ssh.
    pub(crate) remote: bool,
}

/// Where a work's trees are.
pub(crate) struct Trees {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
}

/// What was measured of a work.
pub(crate) struct Measured {
    pub(crate) title: String,
    pub(crate) about: &'static str,
    pub(crate) ways: Vec<WayMeasured>,
    pub(crate) goals: &'static [(&'static str, f64)],
    /// Directories in the source.
    pub(crate) directories: u64,
}

/// What was measured of one way of a work.
pub(crate) struct WayMeasured {
    pub(crate) name: &'static str,
    /// Wall seconds of each run, in order.
    pub(crate) seconds: Vec<f64>,
    /// CPU seconds of each run, of both ends.
    pub(crate) cpu: Vec<f64>,
    pub(crate) wire: Option<Wire>,
    /// The most that a process held, in KiB, by the program's name.
    pub(crate) memory: BTreeMap<String, u64>,
}

impl WayMeasured {
    pub(crate) fn best(&self) -> f64 {
        least(&self.seconds)
    }

    pub(crate) fn best_cpu(&self) -> f64 {
        least(&self.cpu)
    }
}

fn least(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Does a work in all its ways.
pub(crate) fn measure(arena: &Arena, work: &Work) -> Measured {
    let dir = arena.dir(work.on, work.key);
    let trees = Trees { source: dir.join("source"), target: dir.join("target") };
    empty(&trees.source);
    (work.source)(arena, &trees);
    let mut ways: Vec<WayMeasured> =
        work.ways.iter().map(|way| observed(arena, work, way, &trees)).collect();
    for _ in 0..arena.amounts.runs {
        for (way, measured) in work.ways.iter().zip(&mut ways) {
            let (seconds, cpu) = once(arena, work, way, &trees, Arena::host(false), false);
            measured.seconds.push(seconds);
            measured.cpu.push(cpu);
        }
    }
    for way in &ways {
        eprintln!("  {:<24} {:.2?} s, {:.2?} CPU s", way.name, way.seconds, way.cpu);
    }
    let directories = directories(&trees.source);
    std::fs::remove_dir_all(&dir).unwrap();
    Measured { title: (work.title)(arena), about: work.about, ways, goals: work.goals, directories }
}

/// A first run that is not timed: it warms up, its bytes are counted, its memory is watched, and
/// the content of what it made is compared byte by byte.
fn observed(arena: &Arena, work: &Work, way: &Way, trees: &Trees) -> WayMeasured {
    let _ = arena.relay.take();
    // The agent is in place before the bytes are counted.
    if way.remote && way.name == OURS {
        once(arena, work, way, trees, Arena::host(false), false);
    }
    let memory = Memory::watch();
    once(arena, work, way, trees, Arena::host(true), true);
    WayMeasured {
        name: way.name,
        seconds: Vec::new(),
        cpu: Vec::new(),
        wire: way.remote.then(|| arena.relay.take()),
        memory: memory.end(),
    }
}

/// Runs a way once and looks at what it has made: wall and CPU seconds.
fn once(
    arena: &Arena,
    work: &Work,
    way: &Way,
    trees: &Trees,
    host: &str,
    content: bool,
) -> (f64, f64) {
    (work.before)(trees);
    if work.on == Medium::Disk {
        // What was written before is not this run's.
        rustix::fs::sync();
    }
    let mut command = (way.command)(arena, trees, host);
    settle(arena.sshd());
    let cpu = cpu_so_far();
    let began = Instant::now();
    let out = command.stdin(Stdio::null()).output().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    settle(arena.sshd());
    let cpu = cpu_so_far() - cpu;
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{}: {}\n{said}", way.name, out.status);
    if let Err(difference) = compare(&trees.source, &trees.target, way.brings, content) {
        panic!("{} by {}: {difference}\n{said}", work.key, way.name);
    }
    (seconds, cpu)
}

/// How our own way is called.
pub(crate) const OURS: &str = "lsyncd push";

/// `lsyncd push --once` over ssh.
pub(crate) const PUSH: Way = Way {
    name: OURS,
    command: |arena, trees, host| {
        let mut command = arena.push();
        command.args(["--once", "-q"]).arg(&trees.source).arg(at(host, &trees.target));
        command
    },
    brings: Brings::All,
    remote: true,
};

/// `lsyncd push --once` on this host.
pub(crate) const PUSH_LOCAL: Way = Way {
    name: OURS,
    command: |arena, trees, _| {
        let mut command = arena.push();
        command.args(["--once", "-q"]).arg(&trees.source).arg(&trees.target);
        command
    },
    brings: Brings::All,
    remote: false,
};

/// `rsync -a` over the system's ssh.
pub(crate) const RSYNC: Way = Way {
    name: "rsync -a",
    command: |arena, trees, host| rsync(&arena.ssh(), &["-a"], trees, host),
    brings: Brings::All,
    remote: true,
};

/// The same, as a repeat that also deletes.
pub(crate) const RSYNC_DELETE: Way = Way {
    name: "rsync -a --delete",
    command: |arena, trees, host| rsync(&arena.ssh(), &["-a", "--delete"], trees, host),
    brings: Brings::All,
    remote: true,
};

/// Without looking for differences inside of files.
pub(crate) const RSYNC_WHOLE: Way = Way {
    name: "rsync -aW",
    command: |arena, trees, host| rsync(&arena.ssh(), &["-aW"], trees, host),
    brings: Brings::All,
    remote: true,
};

/// The same, compressed: rsync asks both ends, and takes zstd if it can.
pub(crate) const RSYNC_WHOLE_Z: Way = Way {
    name: "rsync -aWz",
    command: |arena, trees, host| rsync(&arena.ssh(), &["-aWz"], trees, host),
    brings: Brings::All,
    remote: true,
};

/// Ours, never compressed.
pub(crate) const PUSH_CLEAR: Way = Way {
    name: "lsyncd push --compress off",
    command: |arena, trees, host| {
        let mut command = (PUSH.command)(arena, trees, host);
        command.args(["--compress", "off"]);
        command
    },
    brings: Brings::All,
    remote: true,
};

/// The same with the cipher that we take where the CPU helps: OpenSSH's own choice is another.
pub(crate) const RSYNC_WHOLE_AES: Way = Way {
    name: "rsync -aW, AES-GCM",
    command: |arena, trees, host| {
        rsync(&format!("{} -c {AES}", arena.ssh()), &["-aW"], trees, host)
    },
    brings: Brings::All,
    remote: true,
};

/// `tar | ssh tar`.
pub(crate) const TAR: Way = Way {
    name: "tar | ssh tar",
    command: |arena, trees, host| {
        shell(&format!(
            "tar -C {} -cf - . | {} {host} 'tar -C {} -xf -'",
            trees.source.display(),
            arena.ssh(),
            trees.target.display()
        ))
    },
    brings: Brings::Seconds,
    remote: true,
};

/// `ssh cat`.
pub(crate) const CAT: Way = Way {
    name: "cat | ssh cat",
    command: |arena, trees, host| cat(&arena.ssh(), trees, host),
    brings: Brings::Content,
    remote: true,
};

/// The same with our cipher.
pub(crate) const CAT_AES: Way = Way {
    name: "cat | ssh cat, AES-GCM",
    command: |arena, trees, host| cat(&format!("{} -c {AES}", arena.ssh()), trees, host),
    brings: Brings::Content,
    remote: true,
};

/// `cp -a`.
pub(crate) const CP: Way = Way {
    name: "cp -a",
    command: |_, trees, _| {
        let mut command = Command::new("cp");
        command.arg("-a").arg(trees.source.join(".")).arg(&trees.target);
        command
    },
    brings: Brings::All,
    remote: false,
};

const AES: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com";

fn rsync(ssh: &str, options: &[&str], trees: &Trees, host: &str) -> Command {
    let mut command = Command::new("rsync");
    command.args(options).args(["-e", ssh]).arg(trees.source.join("")).arg(at(host, &trees.target));
    command
}

fn cat(ssh: &str, trees: &Trees, host: &str) -> Command {
    let (from, to) = (trees.source.join("large"), trees.target.join("large"));
    shell(&format!("cat {} | {ssh} {host} 'cat > {}'", from.display(), to.display()))
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn at(host: &str, dir: &Path) -> String {
    format!("{host}:{}", dir.display())
}
