//! What happens at once while a mirror is kept: a burst of files, a renamed tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::account::{cpu_so_far, settle};
use crate::arena::{Arena, Medium};
use crate::copy::Trees;
use crate::live::{How, end, lsyncd_2, start};
use crate::relay::Wire;
use crate::tree::{Brings, Random, compare, empty};

/// How long it may take at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that happens.
pub(crate) struct Event {
    /// By which it is chosen on the command line.
    pub(crate) key: &'static str,
    title: fn(&Arena) -> String,
    about: &'static str,
    /// What is to be reached, in words.
    pub(crate) goal: &'static str,
    /// Makes what is there before; the number is that of the run.
    before: fn(&Arena, &Path, usize),
    /// Makes it happen; what must be there then, and what must not.
    happen: fn(&Arena, &Path, usize) -> Then,
}

/// What the target has when it is over.
struct Then {
    /// Files, and their sizes.
    there: Vec<(PathBuf, u64)>,
    gone: Option<PathBuf>,
}

pub(crate) const EVENTS: &[Event] = &[
    Event {
        key: "burst",
        title: |arena| format!("burst of {} files", arena.amounts.burst),
        about: "Files of 100 to 2000 random bytes are written as fast as it goes, 100 in a new \
                directory, while a mirror is kept. The time is that from when the last was closed \
                until all of them are there.",
        goal: "0.3 s",
        before: |_, _, _| {},
        happen: |arena, source, run| {
            let mut random = Random(5);
            let mut there = Vec::new();
            for file in 0..arena.amounts.burst {
                let dir = PathBuf::from(format!("burst{run}-{}", file / 100));
                if file % 100 == 0 {
                    fs::create_dir(source.join(&dir)).unwrap();
                }
                let size = 100 + random.below(1901);
                let content = random.bytes(size as usize);
                let name = dir.join(format!("f{file}"));
                fs::write(source.join(&name), &content).unwrap();
                there.push((name, size));
            }
            Then { there, gone: None }
        },
    },
    Event {
        key: "rename",
        title: |arena| format!("rename of a tree of {} files", arena.amounts.renamed),
        about: "A directory with directories of 100 files of 100 to 2000 bytes each gets another \
                name. The time is that from `rename()` until the target has all of it under the new \
                name and nothing under the old one.",
        goal: "50 ms, 4 KiB",
        before: |arena, source, run| {
            let mut random = Random(6);
            for (file, _) in tree_files(arena, "old", run) {
                let path = source.join(&file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let size = 100 + random.below(1901);
                fs::write(path, random.bytes(size as usize)).unwrap();
            }
        },
        happen: |arena, source, run| {
            let old = PathBuf::from(format!("old{run}"));
            fs::rename(source.join(&old), source.join(format!("new{run}"))).unwrap();
            let there = tree_files(arena, "new", run);
            let sized = there.into_iter().map(|(file, _)| {
                let size = fs::metadata(source.join(&file)).unwrap().len();
                (file, size)
            });
            Then { there: sized.collect(), gone: Some(old) }
        },
    },
];

fn tree_files(arena: &Arena, name: &str, run: usize) -> Vec<(PathBuf, u64)> {
    let path = |file| PathBuf::from(format!("{name}{run}/d{}/f{file}", file / 100));
    (0..arena.amounts.renamed).map(|file| (path(file), 0)).collect()
}

/// What was measured of an event.
pub(crate) struct Happened {
    pub(crate) title: String,
    pub(crate) about: &'static str,
    pub(crate) goal: &'static str,
    pub(crate) ways: Vec<WayHappened>,
}

/// The same, of one way to keep the mirror.
pub(crate) struct WayHappened {
    pub(crate) name: String,
    pub(crate) seconds: Vec<f64>,
    pub(crate) cpu: Vec<f64>,
    /// The least that went over the wire.
    pub(crate) wire: Wire,
}

impl WayHappened {
    pub(crate) fn best(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn best_cpu(&self) -> f64 {
        self.cpu.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Lets an event happen while a mirror is kept in each way.
pub(crate) fn measure(arena: &Arena, event: &Event) -> Happened {
    let mut keepers = vec![(crate::copy::OURS.to_owned(), How::Push)];
    if let Ok(version) = lsyncd_2() {
        for delay in [0, 1] {
            keepers.push((format!("Lsyncd {version}, delay={delay}"), How::Two(delay)));
        }
    }
    let ways = keepers.into_iter().map(|(name, how)| {
        let measured = keep(arena, event, name, how);
        eprintln!(
            "  {:<24} {:.3?} s, {:.2?} CPU s, {} and {} bytes",
            measured.name, measured.seconds, measured.cpu, measured.wire.to, measured.wire.from
        );
        measured
    });
    let ways = ways.collect();
    Happened { title: (event.title)(arena), about: event.about, goal: event.goal, ways }
}

fn keep(arena: &Arena, event: &Event, name: String, how: How) -> WayHappened {
    let dir = arena.dir(Medium::Tmpfs, event.key);
    let trees = Trees { source: dir.join("source"), target: dir.join("target") };
    empty(&trees.source);
    empty(&trees.target);
    for run in 0..arena.amounts.runs {
        (event.before)(arena, &trees.source, run);
    }
    settle(arena.sshd());
    let mut process = start(arena, how, &trees, Arena::host(true));
    let mut measured = WayHappened {
        name,
        seconds: Vec::new(),
        cpu: Vec::new(),
        wire: Wire { to: u64::MAX, from: u64::MAX },
    };
    for run in 0..arena.amounts.runs {
        // What was before is over.
        std::thread::sleep(Duration::from_millis(500));
        let _ = arena.relay.take();
        let cpu = cpu_so_far();
        let mut began = Instant::now();
        let then = (event.happen)(arena, &trees.source, run);
        if then.gone.is_none() {
            began = Instant::now();
        }
        wait(&trees.target, &then);
        measured.seconds.push(began.elapsed().as_secs_f64());
        // What follows, such as directories' times, belongs to it. Lsyncd 2 may leave those.
        let brings = if matches!(how, How::Push) { Brings::All } else { Brings::Content };
        let over = Instant::now() + PATIENCE;
        while let Err(difference) = compare(&trees.source, &trees.target, brings, false) {
            assert!(Instant::now() < over, "{} by {}: {difference}", event.key, measured.name);
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(300));
        measured.cpu.push(cpu_so_far() - cpu);
        let wire = arena.relay.take();
        if wire.to + wire.from < measured.wire.to.saturating_add(measured.wire.from) {
            measured.wire = wire;
        }
    }
    if let Some(process) = &mut process {
        end(process);
    }
    settle(arena.sshd());
    fs::remove_dir_all(&dir).unwrap();
    measured
}

/// Waits until all is there; what was found is not looked at again.
fn wait(target: &Path, then: &Then) {
    let end = Instant::now() + PATIENCE;
    let mut missing = then.there.iter().peekable();
    loop {
        let there = |file: &PathBuf, size| {
            fs::symlink_metadata(target.join(file)).is_ok_and(|found| found.len() == size)
        };
        while missing.next_if(|(file, size)| there(file, *size)).is_some() {}
        let gone = then.gone.as_ref().is_none_or(|gone| !target.join(gone).exists());
        if missing.peek().is_none() && gone {
            return;
        }
        assert!(Instant::now() < end, "it never arrived: {:?}", missing.peek());
        std::thread::sleep(Duration::from_micros(500));
    }
}
