//! What a small change waits for while a large file is on its way.

use std::fs;
use std::time::Duration;

use crate::account::settle;
use crate::arena::{Arena, LONG, Medium, SLOW};
use crate::copy::Trees;
use crate::live::{How, end, one_change, percentile, start};
use crate::tree::{Random, empty, large_file};

/// By which it is chosen.
pub(crate) const BUSY: &str = "busy";

/// What was measured on one link.
pub(crate) struct Busy {
    pub(crate) link: &'static str,
    /// Bytes of the large file.
    pub(crate) large: u64,
    /// Seconds from close() to readable, sorted.
    pub(crate) seconds: Vec<f64>,
    /// Bytes a second of the large file, meanwhile.
    pub(crate) rate: f64,
}

impl Busy {
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        percentile(&self.seconds, part)
    }
}

/// Measures on loopback and on a slow link.
pub(crate) fn measure(arena: &Arena) -> Vec<Busy> {
    let full = arena.amounts.large_bytes;
    let links = [
        ("loopback", Arena::host(false), full),
        ("10 Mbit/s", SLOW, full.min(256 << 20)),
        ("100 Mbit/s, 50 ms", LONG, full.min(256 << 20)),
    ];
    links
        .into_iter()
        .map(|(link, host, large)| {
            let measured = one(arena, link, host, large);
            let ms = |part: f64| measured.percentile(part) * 1000.0;
            eprintln!(
                "  {link:<24} p50 {:.1} p90 {:.1} max {:.1} ms of {} changes; {:.2} MB/s",
                ms(0.5),
                ms(0.9),
                ms(1.0),
                measured.seconds.len(),
                measured.rate / 1e6
            );
            measured
        })
        .collect()
}

fn one(arena: &Arena, link: &'static str, host: &str, large: u64) -> Busy {
    let dir = arena.dir(Medium::Tmpfs, BUSY);
    let trees = Trees { source: dir.join("source"), target: dir.join("target") };
    empty(&trees.source);
    empty(&trees.target);
    // Made beside the source and moved in: it is there at once.
    let aside = dir.join("aside");
    empty(&aside);
    large_file(&aside, large);
    settle(arena.sshd());
    let mut process = start(arena, How::Push, &trees, host);
    fs::rename(aside.join("large"), trees.source.join("large")).unwrap();
    let staged = || {
        let entries = fs::read_dir(&trees.target).unwrap().flatten();
        let stages = entries.filter(|e| e.file_name().to_string_lossy().starts_with(".lsync-"));
        stages.filter_map(|e| Some(e.metadata().ok()?.len())).max().unwrap_or(0)
    };
    while staged() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (began, before) = (std::time::Instant::now(), staged());
    let (mut meanwhile, mut last) = (began, before);
    let mut random = Random(4);
    let mut seconds = Vec::new();
    for change in 0..arena.amounts.busy_changes {
        std::thread::sleep(Duration::from_millis(5 + random.below(10)));
        let content = random.bytes(1024);
        let took = one_change(arena, How::Push, &trees, &format!("f{}", change % 20), &content);
        // One that was there after the large file says nothing.
        match staged() {
            0 => break,
            now => (meanwhile, last) = (std::time::Instant::now(), now),
        }
        seconds.push(took);
    }
    if let Some(process) = &mut process {
        end(process);
    }
    settle(arena.sshd());
    fs::remove_dir_all(&dir).unwrap();
    assert!(!seconds.is_empty(), "the large file was there before the first change");
    seconds.sort_by(f64::total_cmp);
    let rate = (last - before) as f64 / meanwhile.duration_since(began).as_secs_f64();
    Busy { link, large, seconds, rate }
}
