//! The results for people: a table on the terminal, docs/performance.md and its plot.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use crate::arena::Arena;
use crate::busy::Busy;
use crate::copy::{Measured, OURS, WayMeasured};
use crate::events::Happened;
use crate::live::Live;

/// Everything that was measured.
pub(crate) struct All {
    pub(crate) copies: Vec<Measured>,
    pub(crate) live: Option<Live>,
    pub(crate) busy: Vec<Busy>,
    pub(crate) happened: Vec<Happened>,
}

/// What a small file costs in system calls, counted by hand and explained.
const CALLS: &str = include_str!("calls.md");

/// A line of the table: our work beside a peer's.
struct Row {
    work: String,
    ours: String,
    peer: String,
    ratio: f64,
    /// What is to be reached.
    goal: String,
    cpu: String,
}

fn rows(all: &All) -> Vec<Row> {
    let mut rows = Vec::new();
    if let Some((ours, peers)) = all.live.as_ref().and_then(|live| live.kept.split_first()) {
        for peer in peers {
            rows.push(Row {
                work: "1 KB change, p50".into(),
                ours: seconds(ours.percentile(0.5)),
                peer: format!("{} {}", seconds(peer.percentile(0.5)), peer.name),
                ratio: ours.percentile(0.5) / peer.percentile(0.5),
                goal: String::new(),
                cpu: format!("{} / {}", seconds(ours.cpu), seconds(peer.cpu)),
            });
        }
    }
    for event in &all.happened {
        let Some((ours, peers)) = event.ways.split_first() else { continue };
        for peer in peers {
            rows.push(Row {
                work: event.title.clone(),
                ours: seconds(ours.best()),
                peer: format!("{} {}", seconds(peer.best()), peer.name),
                ratio: ours.best() / peer.best(),
                goal: event.goal.to_owned(),
                cpu: format!("{} / {}", seconds(ours.best_cpu()), seconds(peer.best_cpu())),
            });
        }
    }
    for copy in &all.copies {
        let Some((ours, peers)) = copy.ways.split_first() else { continue };
        for peer in peers {
            let goal = copy.goals.iter().find(|(name, _)| *name == peer.name);
            rows.push(Row {
                work: copy.title.clone(),
                ours: seconds(ours.best()),
                peer: format!("{} {}", seconds(peer.best()), peer.name),
                ratio: ours.best() / peer.best(),
                goal: goal.map_or(String::new(), |(_, goal)| format!("{goal:.2}")),
                cpu: format!("{} / {}", seconds(ours.best_cpu()), seconds(peer.best_cpu())),
            });
        }
    }
    rows
}

/// Seconds with as many digits as mean something.
fn seconds(value: f64) -> String {
    match value {
        v if v < 0.1 => format!("{:.1} ms", v * 1000.0),
        v if v < 10.0 => format!("{v:.2} s"),
        v => format!("{v:.1} s"),
    }
}

/// The table, as Markdown; it reads well on a terminal, too.
fn table(all: &All) -> String {
    let rows = rows(all);
    let cells: Vec<[String; 6]> = rows
        .into_iter()
        .map(|row| {
            // Two digits that mean something.
            let ratio = match row.ratio {
                ratio if ratio < 0.1 => format!("{ratio:.4}"),
                ratio => format!("{ratio:.2}"),
            };
            [row.work, row.ours, row.peer, ratio, row.goal, row.cpu]
        })
        .collect();
    markdown(["work", "ours", "peer", "ratio", "goal", "CPU ours / peer"], &cells)
}

fn markdown<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    // A bar within a cell would end it.
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| cell.replace('|', "\\|"))).collect();
    let width: Vec<usize> = (0..N)
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].chars().count());
            cells.chain([head[at].chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: [&str; N]| {
        for (cell, width) in cells.iter().zip(&width) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text += "|\n";
    };
    line(head);
    let dashes: Vec<String> = width.iter().map(|width| "-".repeat(*width)).collect();
    line(std::array::from_fn(|at| dashes[at].as_str()));
    for row in &rows {
        line(std::array::from_fn(|at| row[at].as_str()));
    }
    text
}

fn latencies(live: &Live) -> String {
    let rows: Vec<[String; 6]> = live
        .kept
        .iter()
        .map(|kept| {
            [
                kept.name.clone(),
                kept.seconds.len().to_string(),
                seconds(kept.percentile(0.5)),
                seconds(kept.percentile(0.9)),
                seconds(kept.percentile(0.99)),
                seconds(kept.cpu),
            ]
        })
        .collect();
    markdown(["way", "changes", "p50", "p90", "p99", "CPU a change"], &rows)
}

fn busy(all: &All) -> String {
    let rows: Vec<[String; 6]> = all
        .busy
        .iter()
        .map(|busy| {
            [
                busy.link.to_owned(),
                busy.seconds.len().to_string(),
                seconds(busy.percentile(0.5)),
                seconds(busy.percentile(0.9)),
                seconds(busy.percentile(1.0)),
                format!("{} of {}", per_second(busy.rate), bytes(busy.large)),
            ]
        })
        .collect();
    markdown(["link", "changes", "p50", "p90", "longest", "meanwhile"], &rows)
}

fn per_second(rate: f64) -> String {
    format!("{:.2} MB/s", rate / 1e6)
}

fn wire(all: &All) -> String {
    let mut rows = Vec::new();
    for event in &all.happened {
        for way in &event.ways {
            let (to, from) = (bytes(way.wire.to), bytes(way.wire.from));
            rows.push([event.title.clone(), way.name.clone(), to, from, String::new()]);
        }
    }
    for copy in &all.copies {
        for way in &copy.ways {
            let Some(wire) = way.wire else { continue };
            let per_directory = (wire.to + wire.from) as f64 / copy.directories as f64;
            let repeat = copy.title.starts_with("no-op");
            rows.push([
                copy.title.clone(),
                way.name.to_owned(),
                bytes(wire.to),
                bytes(wire.from),
                if repeat { format!("{per_directory:.0} bytes") } else { String::new() },
            ]);
        }
    }
    markdown(["work", "way", "to the target", "from it", "a directory"], &rows)
}

fn bytes(count: u64) -> String {
    match count {
        n if n < 10_000 => format!("{n} bytes"),
        n if n < 10_000_000 => format!("{:.1} KB", n as f64 / 1e3),
        n => format!("{:.1} MB", n as f64 / 1e6),
    }
}

fn memory(copies: &[Measured]) -> String {
    let of = |way: &WayMeasured, name: &str| {
        let most = way.memory.iter().filter(|(program, _)| program.starts_with(name));
        most.map(|(_, peak)| *peak).max()
    };
    let show =
        |peak: Option<u64>| peak.map_or("-".into(), |k| format!("{:.1} MiB", k as f64 / 1024.0));
    let mut rows = Vec::new();
    for copy in copies {
        let Some(ours) = copy.ways.iter().find(|way| way.name == OURS) else { continue };
        let rsync = copy.ways.iter().find(|way| way.name.starts_with("rsync"));
        rows.push([
            copy.title.clone(),
            show(of(ours, "lsyncd")),
            show(of(ours, "lsync-agent")),
            show(rsync.and_then(|way| of(way, "rsync"))),
        ]);
    }
    markdown(["work", "lsyncd", "lsync-agent", "largest process of rsync's"], &rows)
}

fn idle(arena: &Arena, live: &Live) -> String {
    let mut rows = Vec::new();
    for kept in &live.kept {
        for (program, idle) in &kept.idle {
            rows.push([
                kept.name.clone(),
                (*program).to_owned(),
                format!("{:.2} ms", idle.cpu * 1000.0),
                idle.sleeps.to_string(),
            ]);
        }
    }
    let head = format!("CPU in {} s", arena.amounts.idle_seconds);
    markdown(["way", "process", &head, "times it woke up"], &rows)
}

/// Everything that was measured, for the terminal.
pub(crate) fn report(arena: &Arena, all: &All) -> String {
    let mut text = table(all);
    if let Some(live) = &all.live {
        let _ = write!(text, "\n{}\n{}", latencies(live), idle(arena, live));
    }
    if !all.busy.is_empty() {
        let _ = write!(text, "\n{}", busy(all));
    }
    if !all.copies.is_empty() || !all.happened.is_empty() {
        let _ = write!(text, "\n{}\n{}", wire(all), memory(&all.copies));
    }
    text
}

/// Writes the page and the plot.
pub(crate) fn write(arena: &Arena, all: &All) -> std::io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    std::fs::create_dir_all(&docs)?;
    std::fs::write(docs.join("performance.md"), page(arena, all))?;
    std::fs::write(docs.join("performance.svg"), crate::plot::plot(all))
}

fn page(arena: &Arena, all: &All) -> String {
    let mut text = String::from(
        "# How fast it is\n\nWritten by `cargo bench --bench peers`; do not edit. Whole programs side by side with their \
         peers, in turn on the same machine, over ssh on loopback.\n\n![Times beside those of the peers](performance.svg)\n\n",
    );
    let _ = writeln!(
        text,
        "Best of {} runs each. A ratio below 1 means that ours was faster; *goal* is what it is to be at \
         most, or what ours is to take. CPU is seconds of all processes of both ends, \
         sshd's and the ciphers' work included.\n",
        arena.amounts.runs
    );
    text += &table(all);
    text += "\n## A change on its way\n\nFrom `close()` of a file of 1 KB, written anew in a directory of 100 files, until the \
             target's file reads the same, over ssh, both ends on a tmpfs.\n\n";
    if let Some(live) = &all.live {
        text += &latencies(live);
        if let Some(missing) = &live.missing {
            let _ = writeln!(text, "\n{missing}: not measured.");
        }
    }
    text += "\n## A change beside a large file\n\nThe same for ours while one large file is on its way over the same \
             connection. The other links are relays that take no more than that and hold next to nothing: what waits, \
             waits at the sender. The long one takes 25 ms each way. *Meanwhile*: how fast the large file went on.\n\n";
    text += &busy(all);
    text += "\n## On the wire\n\nBytes of a whole connection, ssh's key exchange and login among them, counted by a relay in a \
             run apart. *A directory*: all bytes both ways divided by the directories.\n\n";
    text += &wire(all);
    text += "\n## Memory\n\nThe most that a process held (VmHWM), in a run apart.\n\n";
    text += &memory(&all.copies);
    text += "\n## At rest\n\nAfter the changes, nothing happens. All threads of a process together.\n\n";
    if let Some(live) = &all.live {
        text += &idle(arena, live);
    }
    let _ = write!(text, "\n{CALLS}");
    text += "\n## What the rows mean\n\n- *1 KB change*: see above. *rsync -a per change* is what Lsyncd 2 does with no \
             delay, without Lsyncd 2: rsync is run at once after each change, over an ssh connection of its own. A change makes \
             the file a byte longer: one that keeps the size within the same second is overlooked by rsync, and so by \
             Lsyncd 2.\n";
    let events = all.happened.iter().map(|event| (&event.title, event.about));
    let copies = all.copies.iter().map(|copy| (&copy.title, copy.about));
    for (title, about) in events.chain(copies) {
        let about: Vec<&str> = about.split_whitespace().collect();
        let _ = writeln!(text, "- *{title}*: {}", about.join(" "));
    }
    text += "\nBefore a run counts, the two trees are listed and compared: names, kinds, sizes, and where the way brings \
             them over, modes, owners and times. In the run apart, the content too.\n\n## What they do not show\n\n\
             - A real network. Loopback has no round trip, no loss and more bandwidth than the ciphers can fill; both \
             ends share the machine's CPUs, so that a program that keeps both ends busy gains less than on two hosts.\n\
             - Cold caches. The sources are in the page cache when a run begins.\n\
             - Durability. No way waits for the disk at its end.\n\
             - The best case of the peers' ssh: a ControlMaster would save rsync its connection's time (it is in each of \
             its changes and repeats), and it would need one to be set up. Ours makes one connection and keeps it.\n\
             - `tar`, `cat` and `cp` compare nothing: they are what a plain copy costs, not alternatives for a repeat.\n\n";
    text += "## The machine\n\n";
    for (what, is) in machine() {
        let _ = writeln!(text, "- {what}: {is}");
    }
    text += "\n## Again\n\n    apt-get install rsync openssh-server openssh-client lsyncd\n    cargo bench --bench peers\n\n\
             `cargo bench --bench peers -- latency small` measures some rows (a word that is none has them \
             listed) and writes no page; `-- --quick` does less of each, to see that it works. Times \
             scatter on a busy machine; compare the ratios.\n";
    text
}

fn machine() -> Vec<(&'static str, String)> {
    let line = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().ok();
        let text = out.map(|out| {
            let all = [out.stdout, out.stderr].concat();
            String::from_utf8_lossy(&all).lines().next().unwrap_or_default().to_owned()
        });
        text.unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let disk = Command::new("df").args(["--output=fstype", env!("CARGO_TARGET_TMPDIR")]).output();
    let disk = disk.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let disk = disk.ok().and_then(|text| text.lines().nth(1).map(str::to_owned));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(2).unwrap_or_default();
    let load = format!("{load} on average over the last 15 minutes of the run");
    let uname = rustix::system::uname();
    let ours = Command::new(env!("CARGO_BIN_EXE_lsyncd")).arg("--version").output().ok();
    let ours = ours.map(|out| String::from_utf8_lossy(&out.stdout).trim().replace('\n', ", "));
    vec![
        ("CPU", format!("{cpus} × {}", model.map_or("unknown", |(_, name)| name))),
        ("memory", format!("{} GiB", kib.unwrap_or(0) >> 20)),
        ("disk", disk.unwrap_or_default()),
        ("load", load),
        ("kernel", format!("Linux {}", uname.release().to_string_lossy())),
        ("rsync", line("rsync", &["--version"])),
        ("ssh", line("ssh", &["-V"])),
        ("ours", ours.unwrap_or_default()),
    ]
}
