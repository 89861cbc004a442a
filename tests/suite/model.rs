//! The model test: random histories of a real tree with real events, mirrored by the real program
//! that is killed, stopped and started at random moments; in the end source and target are equal.
//!
//! `LSYNCD_SEED=N` replays one history, `LSYNCD_HISTORIES=1000` runs more than the usual number.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::Signal;

use super::push::{Push, Stage, Way};
use super::tree::{
    append, chmod, noise, only_temporary_names, set_mtime, temporary_names, unequal,
};
use super::world::World;

/// How many histories a usual run tries.
const HISTORIES: u64 = 40;

/// Numbers that look random and can be had again.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Neighbouring seeds must not begin alike.
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next()).unwrap() % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { Some(&of[self.below(of.len())]) }
    }
}

/// A few names, so that histories meet themselves again and again.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e\n]", "f"];

/// The source and what happens to it.
pub struct History {
    pub random: Random,
    pub root: PathBuf,
    pub outside: PathBuf,
    /// What was done, for a failure.
    pub told: Vec<String>,
}

impl History {
    /// All names of the source, by kind.
    fn names(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut dirs, mut others) = (vec![self.root.clone()], Vec::new());
        let mut at = 0;
        while at < dirs.len() {
            let mut here: Vec<PathBuf> =
                fs::read_dir(&dirs[at]).unwrap().map(|entry| entry.unwrap().path()).collect();
            here.sort();
            for path in here.into_iter().filter(|path| !path.ends_with("stays")) {
                let dir = path.symlink_metadata().unwrap().is_dir();
                if dir { &mut dirs } else { &mut others }.push(path);
            }
            at += 1;
        }
        (dirs, others)
    }

    /// One name in one of the directories; it may be there or not.
    fn any_name(&mut self, dirs: &[PathBuf]) -> PathBuf {
        let dir = self.random.pick(dirs).unwrap().clone();
        dir.join(NAMES[self.random.below(NAMES.len())])
    }

    fn content(&mut self) -> Vec<u8> {
        let size = match self.random.below(12) {
            0 => 0,
            1 => 65_536 + self.random.below(3) - 1,
            2 => 200_000,
            3 => 1_500_000,
            _ => self.random.below(3000),
        };
        noise(self.random.next(), size)
    }

    fn tell(&mut self, what: &str, path: &Path) {
        let path = path.strip_prefix(self.root.parent().unwrap()).unwrap_or(path);
        self.told.push(format!("{what} {path:?}"));
    }

    fn remove(path: &Path) {
        match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }

    /// A rename as the kernel allows it: what is in its way is taken away first if it must.
    fn rename(&mut self, from: &Path, to: &Path) {
        if to.starts_with(from) || from.starts_with(to) {
            return;
        }
        self.tell("rename", from);
        self.tell("    to", to);
        if fs::rename(from, to).is_err() {
            History::remove(to);
            fs::rename(from, to).unwrap();
        }
    }

    /// One thing happens.
    pub fn step(&mut self) {
        let (dirs, others) = self.names();
        let inner = &dirs[1..];
        let target = self.any_name(&dirs);
        match self.random.below(24) {
            0..=3 => {
                if target.is_dir() && !target.is_symlink() {
                    return;
                }
                let content = self.content();
                self.tell("write", &target);
                History::remove_link(&target);
                fs::write(&target, content).unwrap();
            }
            4 => {
                let tmp = target.with_file_name(".new");
                let content = self.content();
                if !target.is_dir() {
                    self.tell("replace", &target);
                    fs::write(&tmp, content).unwrap();
                    fs::rename(&tmp, &target).unwrap();
                }
            }
            5 | 6 => {
                if let Some(path) = self.random.pick(&others).cloned()
                    && !path.is_symlink()
                {
                    let more = self.content();
                    self.tell("append", &path);
                    append(&path, &more);
                }
            }
            7 => {
                if let Some(path) = self.random.pick(&others).cloned()
                    && !path.is_symlink()
                {
                    let size = self.random.next() % 100_000;
                    self.tell("resize", &path);
                    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size).unwrap();
                }
            }
            8 | 9 => {
                if !target.is_symlink() && !target.exists() {
                    let deep = target.join(NAMES[self.random.below(NAMES.len())]);
                    let dir = if self.random.below(2) == 0 { target } else { deep };
                    self.tell("mkdir -p", &dir);
                    fs::create_dir_all(&dir).unwrap();
                    if self.random.below(2) == 0 {
                        let content = self.content();
                        fs::write(dir.join("x"), content).unwrap();
                    }
                }
            }
            10 | 11 => {
                if let Some(from) = self.random.pick(&others).cloned() {
                    self.rename(&from, &target);
                }
            }
            12 | 13 => {
                if let Some(from) = self.random.pick(inner).cloned() {
                    self.rename(&from, &target);
                }
            }
            14 => {
                // A chain: each takes the name of the next.
                let names: Vec<PathBuf> = NAMES.iter().map(|n| target.with_file_name(n)).collect();
                for pair in names.windows(2).rev() {
                    if pair[0].symlink_metadata().is_ok() {
                        self.rename(&pair[0].clone(), &pair[1].clone());
                    }
                }
            }
            15 => {
                let all: Vec<&PathBuf> = inner.iter().chain(&others).collect();
                let (one, two) = (self.random.pick(&all), self.random.pick(&all));
                if let (Some(one), Some(two)) = (one, two)
                    && !one.starts_with(two)
                    && !two.starts_with(one)
                {
                    let (one, two) = ((*one).clone(), (*two).clone());
                    self.tell("swap", &one);
                    self.tell("with", &two);
                    renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).unwrap();
                }
            }
            16 | 17 => {
                if let Some(path) = self.random.pick(&others).cloned() {
                    self.tell("delete", &path);
                    fs::remove_file(path).unwrap();
                }
            }
            18 => {
                if let Some(path) = self.random.pick(inner).cloned() {
                    self.tell("rm -rf", &path);
                    fs::remove_dir_all(path).unwrap();
                }
            }
            19 => {
                let all: Vec<PathBuf> =
                    dirs.iter().chain(&others).filter(|p| !p.is_symlink()).cloned().collect();
                let path = self.random.pick(&all).unwrap().clone();
                let mode = [0o755, 0o700, 0o644, 0o600, 0o4711, 0o1777][self.random.below(6)];
                // Root may do everything; others need their directories.
                let mode = if path.is_dir() { mode | 0o700 } else { mode };
                self.tell("chmod", &path);
                chmod(&path, mode);
            }
            20 => {
                self.tell("symlink", &target);
                History::remove(&target);
                symlink(NAMES[self.random.below(NAMES.len())], &target).unwrap();
            }
            21 => {
                // Another kind under the same name.
                self.tell("other kind", &target);
                let dir = target.is_dir() && !target.is_symlink();
                History::remove(&target);
                if dir {
                    fs::write(&target, "a file now").unwrap();
                } else {
                    fs::create_dir(&target).unwrap();
                    fs::write(target.join("y"), "in a directory now").unwrap();
                }
            }
            22 => {
                // Out of the tree, and maybe something else in.
                if let Some(path) = self.random.pick(inner).cloned() {
                    let out = self.outside.join(format!("{}", self.told.len()));
                    self.tell("out", &path);
                    fs::rename(&path, out).unwrap();
                }
                let away: Vec<PathBuf> =
                    fs::read_dir(&self.outside).unwrap().map(|e| e.unwrap().path()).collect();
                if let Some(path) = self.random.pick(&away).cloned()
                    && self.random.below(2) == 0
                    && target.parent().unwrap().is_dir()
                {
                    self.tell("in", &target);
                    History::remove(&target);
                    fs::rename(path, &target).unwrap();
                }
            }
            _ => {
                let all: Vec<PathBuf> = dirs.iter().chain(&others).cloned().collect();
                let path = self.random.pick(&all).unwrap().clone();
                let (seconds, ns) = (self.random.next() % 2_000_000_000, self.random.next());
                self.tell("touch", &path);
                let ns = i64::try_from(ns % 1_000_000_000).unwrap();
                set_mtime(&path, i64::try_from(seconds).unwrap(), ns);
            }
        }
    }

    /// What is written must not be written through a link.
    fn remove_link(path: &Path) {
        if path.is_symlink() {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Runs one history; says what is wrong in the end.
fn history(seed: u64, stage: &Stage) -> Result<(), String> {
    let source = stage.source();
    let outside = stage.path("outside");
    fs::create_dir_all(&outside).unwrap();
    let mut history =
        History { random: Random::new(seed), root: source, outside, told: Vec::new() };
    // Something is there already, and stays: an emptied source is another test.
    fs::write(stage.s("stays"), "always").unwrap();
    for _ in 0..history.random.below(30) {
        history.step();
    }
    // A failure is told with every op that was acknowledged.
    let words: &[&str] = match seed % 5 {
        0 => &["-v", "--delay", "0.02"],
        // What happens between a directory's coming and its watch is lost there; rescans find it.
        1 => &["-v", "--watch", "notify", "--rescan", "2"],
        _ => &["-v"],
    };
    let mut push = Some(stage.begin(words));
    let mut said = String::new();
    for _ in 0..2 + history.random.below(6) {
        for _ in 0..history.random.below(40) {
            history.step();
            if history.random.below(8) == 0 {
                let pause = history.random.next() % 5000;
                std::thread::sleep(Duration::from_micros(pause));
            }
        }
        match history.random.below(if stage.way == Way::Ssh { 7 } else { 5 }) {
            // Killed, or ended, at whatever moment this is; the next comes at once or later.
            0 | 1 => {
                if let Some(push) = push.take() {
                    let signal =
                        if history.random.below(3) == 0 { Signal::TERM } else { Signal::KILL };
                    history.told.push(format!("{signal:?}"));
                    // Before its handlers are there TERM ends it as it ends everybody.
                    if signal == Signal::TERM {
                        push.wait_event("connecting");
                    }
                    said += &push.said();
                    push.stop(signal);
                }
                for _ in 0..history.random.below(5) {
                    history.step();
                }
                history.told.push("start".to_owned());
                push = Some(stage.begin(words));
            }
            2 => std::thread::sleep(Duration::from_millis(history.random.next() % 100)),
            5 => {
                history.told.push("cut".to_owned());
                stage.world().cut();
            }
            6 => {
                history.told.push("kill the agent".to_owned());
                stage.world().kill(|name| name.starts_with("lsync-agent"));
            }
            _ => {}
        }
    }
    let mut push = push.unwrap_or_else(|| stage.begin(words));
    let mut result = settled(stage, &mut push, words);
    if result.is_ok() {
        push.wait_event("connecting");
        let ended = push.stop(Signal::TERM);
        if ended.code != Some(0) {
            result = Err(format!("it ended with {:?}:\n{}{}", ended.code, ended.out, ended.err));
        }
    } else {
        said += &push.said();
    }
    // Nothing is left to do for the next start, which sweeps what is dead.
    if result.is_ok() {
        let again = stage.once(&[]);
        let left = temporary_names(&stage.target());
        if again.code != Some(0) || again.done()["ops"] != 0 || !left.is_empty() {
            result = Err(format!("the next start had work to do: {again:?}; left: {left:?}"));
        }
    }
    result.map_err(|why| format!("seed {seed}: {why}\n{said}\n{}", history.told.join("\n")))
}

/// Waits until all has arrived; dead temporary names may wait for the next start.
/// A program whose very first connect was cut has ended, and is started again.
fn settled(stage: &Stage, push: &mut Push, words: &[&str]) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if !push.is_running() {
            if !push.events("ready").is_empty() {
                return Err("it ended by itself".to_owned());
            }
            *push = stage.begin(words);
        }
        match unequal(&stage.source(), &stage.target()) {
            Some(text) if !only_temporary_names(&text) => {
                if Instant::now() > end {
                    return Err(format!("{text}\n{}", push.err()));
                }
            }
            _ => return Ok(()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn histories(way: Way, share: u64, of: u64) {
    let wanted = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match wanted("LSYNCD_SEED") {
        Some(seed) => vec![seed],
        None => (0..wanted("LSYNCD_HISTORIES").unwrap_or(HISTORIES)).collect(),
    };
    let mine = seeds.into_iter().filter(|seed| seed % of == share);
    let mut world = None;
    for seed in mine {
        // One server serves them all.
        let mut stage =
            Stage::with((way == Way::Ssh).then(|| world.take().unwrap_or_else(World::brief)));
        if let Err(why) = history(seed, &stage) {
            panic!("{way:?}, LSYNCD_SEED={seed}: {why}");
        }
        world = stage.world.take();
    }
}

#[test]
fn histories_end_equal_in_a_directory_1() {
    histories(Way::Local, 0, 4);
}

#[test]
fn histories_end_equal_in_a_directory_2() {
    histories(Way::Local, 1, 4);
}

#[test]
fn histories_end_equal_over_ssh_1() {
    histories(Way::Ssh, 2, 4);
}

#[test]
fn histories_end_equal_over_ssh_2() {
    histories(Way::Ssh, 3, 4);
}
