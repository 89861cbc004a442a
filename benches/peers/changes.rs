//! A large file that changes while a mirror is kept, beside rsync brought to the same change.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::account::{cpu_so_far, settle};
use crate::arena::{Arena, Medium};
use crate::copy::{OURS, RSYNC, Trees};
use crate::events::{Happened, WayHappened};
use crate::live::{How, end, start};
use crate::relay::Wire;
use crate::tree::{Brings, compare, empty, large_file};
use crate::works::{FEW, append, edits, insert};

/// How long it may take at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// The large file.
const FILE: &str = "file";

/// One change.
pub(crate) struct Change {
    /// By which it is chosen on the command line.
    pub(crate) key: &'static str,
    title: fn(&Arena) -> String,
    about: &'static str,
    goal: &'static str,
    /// Makes it: in the file, or in another one that takes its name then.
    make: fn(&Path, run: u64),
    /// The change is made in a copy that takes the file's name.
    aside: bool,
}

pub(crate) const CHANGES: &[Change] = &[
    Change {
        key: "live-edits",
        title: |arena| {
            format!("1000 edits of 4 KiB in {} MiB, live", arena.amounts.large_bytes >> 20)
        },
        about: "While a mirror is kept, and after one change of the file has gone over. The time is that \
                from `close()` until the target's file has the size and the time of the source's; rsync, \
                run once for the same change, has a target of its own.",
        goal: "0.4 of rsync -a",
        make: |file, run| {
            let mut file = OpenOptions::new().write(true).open(file).unwrap();
            let size = file.metadata().unwrap().len();
            edits(&mut file, size, run);
        },
        aside: false,
    },
    Change {
        key: "live-insert",
        title: |arena| format!("{FEW} bytes before {} MiB, live", arena.amounts.large_bytes >> 20),
        about: "The same. A new file takes the name, as editors do it, and that is when the time begins.",
        goal: "0.4 of rsync -a",
        make: |file, _| insert(&mut OpenOptions::new().read(true).write(true).open(file).unwrap()),
        aside: true,
    },
    Change {
        key: "live-append",
        title: |arena| format!("{FEW} bytes behind {} MiB, live", arena.amounts.large_bytes >> 20),
        about: "The same.",
        goal: "50 ms, 64 KiB, 0.4 of rsync -a",
        make: |file, _| append(&mut OpenOptions::new().append(true).open(file).unwrap()),
        aside: false,
    },
];

/// Makes a change several times, brought each time by a kept mirror and by rsync in turn.
pub(crate) fn measure(arena: &Arena, change: &Change) -> Happened {
    let dir = arena.dir(Medium::Tmpfs, change.key);
    let trees = Trees { source: dir.join("source"), target: dir.join("target") };
    let theirs = Trees { source: dir.join("source"), target: dir.join("theirs") };
    for tree in [&trees.source, &trees.target, &theirs.target] {
        empty(tree);
    }
    large_file(&trees.source, arena.amounts.large_bytes);
    let file = fs::read_dir(&trees.source).unwrap().next().unwrap().unwrap().path();
    fs::rename(&file, trees.source.join(FILE)).unwrap();
    let file = trees.source.join(FILE);
    settle(arena.sshd());
    let mut process = start(arena, How::Push, &trees, Arena::host(true));
    let way = |name: &str| WayHappened {
        name: name.to_owned(),
        seconds: Vec::new(),
        cpu: Vec::new(),
        wire: Wire { to: u64::MAX, from: u64::MAX },
    };
    let (mut ours, mut peer) = (way(OURS), way(RSYNC.name));
    // The first is not measured: the mirror has met the file by then.
    for run in 0..=arena.amounts.runs {
        let made = if change.aside { dir.join("new") } else { file.clone() };
        if change.aside {
            fs::copy(&file, &made).unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        let _ = arena.relay.take();
        let cpu = cpu_so_far();
        (change.make)(&made, run as u64);
        let mut began = Instant::now();
        if change.aside {
            began = Instant::now();
            fs::rename(&made, &file).unwrap();
        }
        wait(&file, &trees.target.join(FILE));
        let seconds = began.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_millis(300));
        compare(&trees.source, &trees.target, Brings::All, true).unwrap();
        let note = |way: &mut WayHappened, seconds, cpu| {
            let wire = arena.relay.take();
            if run > 0 {
                way.seconds.push(seconds);
                way.cpu.push(cpu_so_far() - cpu);
                way.wire = least(way.wire, wire);
            }
        };
        note(&mut ours, seconds, cpu);
        let cpu = cpu_so_far();
        let began = Instant::now();
        let status = (RSYNC.command)(arena, &theirs, Arena::host(true)).status().unwrap();
        assert!(status.success());
        let seconds = began.elapsed().as_secs_f64();
        // Its session ends.
        std::thread::sleep(Duration::from_millis(300));
        note(&mut peer, seconds, cpu);
    }
    if let Some(process) = &mut process {
        end(process);
    }
    settle(arena.sshd());
    fs::remove_dir_all(&dir).unwrap();
    for way in [&ours, &peer] {
        eprintln!(
            "  {:<24} {:.3?} s, {:.2?} CPU s, {} and {} bytes",
            way.name, way.seconds, way.cpu, way.wire.to, way.wire.from
        );
    }
    let ways = vec![ours, peer];
    Happened { title: (change.title)(arena), about: change.about, goal: change.goal, ways }
}

fn least(a: Wire, b: Wire) -> Wire {
    if a.to.saturating_add(a.from) < b.to.saturating_add(b.from) { a } else { b }
}

/// Waits until the target's file has the size and the time of the source's.
fn wait(source: &Path, target: &Path) {
    let end = Instant::now() + PATIENCE;
    let seen = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.len(), found.modified().ok()?))
    };
    while seen(source) != seen(target) {
        assert!(Instant::now() < end, "it never arrived");
        std::thread::sleep(Duration::from_micros(500));
    }
}
