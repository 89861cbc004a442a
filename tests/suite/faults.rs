//! Faults of processes, links and disks, in every phase of a mirror: the real program is hit, what was
//! broken is mended, and in the end source and target are equal, nothing is left over, and who read on
//! the target all the time never saw a torn file.
//!
//! Each seed is one cell of the table fault × phase, with moments of its own. `LSYNCD_SEED=N` replays
//! one, `LSYNCD_FAULTS=45` runs the whole table once, more run it again at other moments.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lsync_protocol::path::stage_mirror;
use rustix::process::Signal;

use super::model::{History, Random};
use super::push::{Mount, Push, Stage, is_root};
use super::tree::{
    chmod, differences, noise, only_temporary_names, set_mtime, temporary_names, tree,
};
use super::world::{PATIENCE, World, wait_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillProgram,
    KillAgent,
    CutLink,
    StopServer,
    StallLink,
    FullDisk,
    ReadOnly,
    Overflow,
    Clock,
}

const FAULTS: [Fault; 9] = [
    Fault::KillProgram,
    Fault::KillAgent,
    Fault::CutLink,
    Fault::StopServer,
    Fault::StallLink,
    Fault::FullDisk,
    Fault::ReadOnly,
    Fault::Overflow,
    Fault::Clock,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    First,
    Staging,
    Rename,
    Delta,
    Burst,
}

const PHASES: [Phase; 5] =
    [Phase::First, Phase::Staging, Phase::Rename, Phase::Delta, Phase::Burst];

/// How many cells a usual run tries, of 45: each fault once, and each phase.
const CELLS: u64 = 9;

/// How large the large file is.
const LARGE: usize = 4 << 20;
/// A link so slow that a phase lasts; what stands on the target alone; the watcher whose queue has a
/// length that can be asked for.
const WORDS: [&str; 4] = ["--bwlimit=4M", "--exclude=/keep", "--watch=inotify", "-v"];
const SSH: &str = "IdentityFile ~/.ssh/id_ed25519\nServerAliveInterval 1\nServerAliveCountMax 2\n";

/// A version of a file that tells by itself whether it is whole: the hash of the rest, then the rest.
fn version(seed: u64, len: usize) -> Vec<u8> {
    sealed(&noise(seed, len))
}

fn sealed(body: &[u8]) -> Vec<u8> {
    let mut all = blake3::hash(body).to_hex().as_bytes().to_vec();
    all.push(b'\n');
    all.extend_from_slice(body);
    all
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() > 64
        && bytes[64] == b'\n'
        && blake3::hash(&bytes[65..]).to_hex().as_bytes() == &bytes[..64]
}

#[test]
fn a_torn_version_is_seen() {
    let old = version(1, 70_000);
    assert!(is_whole(&old) && is_whole(&version(2, 0)));
    assert!(!is_whole(b"") && !is_whole(&old[..old.len() - 1]));
    let mut mixed = version(2, 70_000);
    mixed[40_000..].copy_from_slice(&old[40_000..]);
    assert!(!is_whole(&mixed));
}

/// Reads everything on the target again and again, as the users there do.
struct Reader {
    end: Arc<AtomicBool>,
    torn: Arc<Mutex<Option<String>>>,
    read: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(root: PathBuf) -> Reader {
        let (end, torn, read) = (Arc::default(), Arc::default(), Arc::default());
        let (ends, tells, counts): (Arc<AtomicBool>, Arc<Mutex<Option<String>>>, Arc<AtomicU64>) =
            (Arc::clone(&end), Arc::clone(&torn), Arc::clone(&read));
        let thread = std::thread::spawn(move || {
            let mut stood = false;
            while !ends.load(Ordering::SeqCst) {
                // What nobody ever changes never goes away, not even for a moment.
                match fs::read(root.join("stays")) {
                    Ok(bytes) if is_whole(&bytes) => stood = true,
                    other if stood => {
                        *tells.lock().unwrap() =
                            Some(format!("`stays` did not stay: {:?}", other.map(|b| b.len())));
                    }
                    _ => {}
                }
                if let Some(text) = Reader::round(&root, &counts) {
                    *tells.lock().unwrap() = Some(text);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        Reader { end, torn, read, thread: Some(thread) }
    }

    /// Reads all files once; tells of a torn one.
    fn round(root: &Path, count: &AtomicU64) -> Option<String> {
        let mut due = vec![root.to_owned()];
        while let Some(dir) = due.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                // Other things stand below these two.
                if stage_mirror(name.as_bytes()).is_some()
                    || (dir == root && (name == "keep" || name == "wild"))
                {
                    continue;
                }
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    due.push(entry.path());
                } else if kind.is_file()
                    && let Ok(bytes) = fs::read(entry.path())
                {
                    count.fetch_add(1, Ordering::Relaxed);
                    if !is_whole(&bytes) {
                        let len = bytes.len();
                        return Some(format!("{:?} was torn: {len} bytes", entry.path()));
                    }
                }
            }
        }
        None
    }

    fn end(mut self) -> Result<u64, String> {
        self.end.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        match self.torn.lock().unwrap().take() {
            Some(text) => Err(text),
            None => Ok(self.read.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
    }
}

/// Names the cell when something panics in it.
struct Replay(String);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the cell that failed: {}", self.0);
        }
    }
}

/// One cell of the table.
struct Cell {
    fault: Fault,
    phase: Phase,
    stage: Stage,
    wild: History,
    push: Push,
    /// What programs said that were killed.
    said: String,
    mount: Option<Mount>,
    versions: u64,
}

impl Cell {
    fn below(&mut self, n: usize) -> usize {
        self.wild.random.below(n)
    }

    fn pause(&mut self, most_ms: usize) {
        let us = self.below(most_ms * 1000) as u64;
        std::thread::sleep(Duration::from_micros(us));
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.wild.told.push(what.into());
    }

    /// Puts a new version in place, as whole as a reader on the target is to see it.
    fn put(&mut self, name: &str, bytes: &[u8]) {
        put(&self.stage, name, bytes);
    }

    /// A small file changes, or comes.
    fn small(&mut self) {
        let (dir, file) = (self.below(20), self.below(20));
        let len = self.below(9000);
        self.versions += 1;
        self.put(&format!("d{dir}/f{file}"), &version(self.versions, len));
    }

    fn step(&mut self) {
        if self.below(2) == 0 { self.small() } else { self.wild.step() }
    }

    fn steps(&mut self, n: usize) {
        for _ in 0..n {
            self.step();
        }
    }

    /// Waits for the middle of a phase. It may be over already: that is a moment as well.
    fn wait(&mut self, holds: impl Fn(&Stage) -> bool) {
        let end = Instant::now() + Duration::from_secs(3);
        while !holds(&self.stage) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Brings the mirror to the middle of the phase.
    fn enter(&mut self) {
        let staged = |stage: &Stage| {
            fs::read_dir(stage.target()).is_ok_and(|dir| {
                dir.flatten().any(|entry| stage_mirror(entry.file_name().as_bytes()).is_some())
            })
        };
        match self.phase {
            Phase::First => {
                let n = 1 + self.below(20);
                self.wait(|stage| {
                    (0..20).filter(|i| stage.t(format!("d{i}")).exists()).count() >= n
                });
            }
            Phase::Staging => {
                self.versions += 1;
                self.put("large", &version(self.versions, LARGE));
                self.wait(staged);
            }
            Phase::Delta => {
                let mut body = fs::read(self.stage.s("base")).unwrap()[65..].to_vec();
                for block in body.chunks_mut(16 << 10) {
                    if self.wild.random.below(3) > 0 {
                        let at = self.wild.random.below(block.len());
                        let new = noise(self.wild.random.next(), block.len() - at);
                        block[at..].copy_from_slice(&new);
                    }
                }
                self.put("base", &sealed(&body));
                self.wait(staged);
            }
            Phase::Rename => {
                let count = 1 + self.below(6);
                for i in 0..count {
                    // Each time into the tree it was in, or out of it.
                    let from = if i == 0 { "tree".to_owned() } else { format!("d{}/tree", i - 1) };
                    let to = self.stage.s(format!("d{i}/tree"));
                    fs::rename(self.stage.s(from), to).unwrap();
                    self.versions += 1;
                    self.put(&format!("d{i}/tree/e1/f1"), &version(self.versions, 5000));
                    self.pause(2);
                }
                if self.below(2) == 0 {
                    self.wait(|stage| !stage.t("tree").exists());
                }
            }
            Phase::Burst => {
                self.steps(150);
                let name = "d0/last of the burst";
                self.put(name, &version(0, 10));
                if self.below(2) == 0 {
                    self.wait(|stage| stage.t(name).exists());
                }
            }
        }
        self.pause(if self.phase == Phase::Staging || self.phase == Phase::Delta {
            400
        } else {
            30
        });
    }

    fn begin(&mut self) {
        self.push = self.stage.begin(&WORDS);
    }

    /// Something fails, things go on to happen, and it is mended.
    fn strike(&mut self) {
        match self.fault {
            Fault::KillProgram => {
                self.push.signal(Signal::KILL);
                wait_until("it is dead", || !self.push.is_running());
                self.said += &self.push.said();
                let n = self.below(30);
                self.steps(n);
                self.begin();
            }
            Fault::KillAgent => {
                self.stage.world().kill(|name| name.starts_with("lsync-agent"));
                self.steps(20);
            }
            Fault::CutLink => {
                for _ in 0..1 + self.below(3) {
                    self.stage.world().cut();
                    self.steps(10);
                    self.pause(300);
                }
            }
            Fault::StopServer => {
                self.stage.world_mut().stop();
                self.steps(20);
                self.pause(1500);
                self.stage.world_mut().restart();
            }
            Fault::StallLink => {
                self.stage.world().signal_sessions(Signal::STOP);
                self.steps(20);
                // The link is given up, or not.
                self.pause(6000);
                self.stage.world().signal_sessions(Signal::CONT);
                self.steps(5);
            }
            Fault::FullDisk => self.fill_and_make_room(),
            Fault::ReadOnly => {
                let target = self.stage.target();
                // Not while something is open for writing.
                wait_until("it is read-only", || remount(&target, "ro"));
                self.steps(20);
                self.pause(1000);
                assert!(remount(&target, "rw"));
                self.steps(5);
            }
            Fault::Overflow => {
                self.push.signal(Signal::STOP);
                let two = [self.stage.s("stays"), self.stage.s("base")];
                let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
                for i in 0..limit.trim().parse::<usize>().unwrap() + 1000 {
                    chmod(&two[i % 2], 0o600 + (i as u32 / 2) % 2);
                }
                // Nobody will tell of these.
                self.steps(60);
                self.push.signal(Signal::CONT);
            }
            Fault::Clock => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let now = i64::try_from(now.unwrap().as_secs()).unwrap();
                for i in 0..60 {
                    let (dir, file) = (self.below(20), self.below(3));
                    let name = format!("d{dir}/f{file}");
                    let old = self.stage.s(&name).metadata().ok();
                    let off = [-3600, 3600, 400 * 86_400, -now, 0][self.below(5)];
                    self.versions += 1;
                    // The same size, and at times the same time: only the event tells.
                    self.put(&name, &version(self.versions, 4000));
                    let (s, ns) = match &old {
                        Some(old) if i % 3 == 0 => {
                            use std::os::unix::fs::MetadataExt as _;
                            (old.mtime(), old.mtime_nsec())
                        }
                        _ => (now + off, 0),
                    };
                    set_mtime(&self.stage.s(&name), s, ns);
                    set_mtime(&self.stage.s(format!("d{dir}")), now + off, 1);
                }
            }
        }
    }

    fn fill_and_make_room(&mut self) {
        let ballast = self.stage.t("keep/ballast");
        fs::create_dir_all(self.stage.t("keep")).unwrap();
        let mut file = fs::File::create(&ballast).unwrap();
        let page = vec![1; 4096];
        self.steps(20);
        let full = |line: &serde_json::Value| line["cause"].to_string().contains("no space left");
        wait_until("the full disk is told", || {
            while std::io::Write::write_all(&mut file, &page).is_ok() {}
            // What was still on its way may have removed more than this: then there was room for it.
            let size = |path: PathBuf| path.metadata().map(|meta| meta.len()).ok();
            let name = "too large";
            if size(self.stage.s(name)) == size(self.stage.t(name)) {
                self.versions += 1;
                let len = (1 << 20) + usize::try_from(self.versions % 1000).unwrap();
                put(&self.stage, name, &version(self.versions, len));
            }
            self.push.events("problem").iter().any(full)
        });
        drop(file);
        fs::remove_file(&ballast).unwrap();
        self.steps(5);
    }

    /// How source and target differ, but for what only the target has.
    fn unequal(&self) -> Option<String> {
        let (mut source, mut target) =
            match (tree(&self.stage.source()), tree(&self.stage.target())) {
                (Ok(source), Ok(target)) => (source, target),
                (Err(error), _) | (_, Err(error)) => return Some(error.to_string()),
            };
        for tree in [&mut source, &mut target] {
            tree.retain(|name, _| !name.starts_with(b"keep"));
        }
        let text = differences(&source, &target);
        (!only_temporary_names(&text)).then_some(text)
    }

    fn settled(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE + PATIENCE;
        loop {
            if !self.push.is_running() {
                // A first connect that fails is the end; later ones are tried again.
                if !self.push.events("ready").is_empty() {
                    return Err("it ended by itself".to_owned());
                }
                self.said += &self.push.said();
                self.begin();
            }
            match self.unequal() {
                None => return Ok(()),
                Some(text) if Instant::now() > end => return Err(text),
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

fn put(stage: &Stage, name: &str, bytes: &[u8]) {
    let made = stage.path("made");
    fs::write(&made, bytes).unwrap();
    let to = stage.s(name);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::rename(made, to).unwrap();
}

fn remount(at: &Path, how: &str) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-o", &format!("remount,{how}")]).arg(at);
    mount.output().unwrap().status.success()
}

/// Runs one cell; gives the world back.
fn cell(seed: u64, fault: Fault, phase: Phase, world: World) -> Result<World, String> {
    let mut random = Random::new(seed);
    let stage = Stage::with(Some(world));
    stage.world().write_ssh_config(SSH);
    let mount = matches!(fault, Fault::FullDisk | Fault::ReadOnly)
        .then(|| Mount::tmpfs(&stage.target(), "size=48m"));
    fs::create_dir_all(stage.t("keep")).unwrap();
    fs::write(stage.t("keep/foreign"), "not ours").unwrap();
    for dir in 0..20 {
        for file in 0..10 {
            let bytes = version(dir * 100 + file, random.below(16_000));
            put(&stage, &format!("d{dir}/f{file}"), &bytes);
            put(&stage, &format!("tree/e{dir}/f{file}"), &bytes);
        }
    }
    put(&stage, "base", &version(7, LARGE));
    put(&stage, "stays", &version(8, 3000));
    let (wild, outside) = (stage.s("wild"), stage.path("outside"));
    fs::create_dir_all(&wild).unwrap();
    fs::create_dir_all(&outside).unwrap();
    fs::write(wild.join("stays"), "always").unwrap();
    if phase != Phase::First {
        stage.once(&["--exclude=/keep"]).fine();
    }
    let reader = Reader::start(stage.target());
    let push = stage.begin(&WORDS);
    let mut cell = Cell {
        fault,
        phase,
        wild: History { random, root: wild, outside, told: Vec::new() },
        push,
        said: String::new(),
        mount,
        // Other numbers than above.
        versions: 1_000_000,
        stage,
    };
    if phase != Phase::First {
        cell.push.wait_event("ready");
    }
    cell.enter();
    cell.tell(format!("{fault:?}"));
    cell.strike();
    cell.tell("mended");
    let mut result = cell.settled();
    let said = format!("{}{}", cell.said, cell.push.said());
    let Cell { push, stage, wild, mount, .. } = cell;
    if result.is_ok() {
        push.wait_event("connecting");
        let ended = push.stop(Signal::TERM);
        if ended.code != Some(0) {
            result = Err(format!("it ended with {:?}", ended.code));
        }
    }
    if result.is_ok() {
        let again = stage.once(&["--exclude=/keep"]);
        let left = temporary_names(&stage.target());
        if again.code != Some(0) || again.done()["ops"] != 0 || !left.is_empty() {
            result = Err(format!("the next start had work to do: {again:?}; left: {left:?}"));
        }
    }
    let read = reader.end();
    let foreign = fs::read(stage.t("keep/foreign"));
    let result = result.and_then(|()| match (read, foreign) {
        (Err(torn), _) => Err(torn),
        (Ok(0), _) => Err("nobody read anything".to_owned()),
        (_, Ok(bytes)) if bytes == b"not ours" => Ok(()),
        (_, other) => Err(format!("what is excluded was touched: {other:?}")),
    });
    result.map_err(|why| format!("{why}\n{said}\n{}", wild.told.join("\n")))?;
    drop(mount);
    let Stage { world, .. } = stage;
    Ok(world.unwrap())
}

fn faults(share: u64, of: u64) {
    let wanted = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds: Vec<u64> = match wanted("LSYNCD_SEED") {
        Some(seed) => vec![seed],
        None => (0..wanted("LSYNCD_FAULTS").unwrap_or(CELLS)).collect(),
    };
    let mut world = None;
    for seed in seeds.into_iter().filter(|seed| seed % of == share) {
        let at = usize::try_from(seed).unwrap();
        let fault = FAULTS[at % FAULTS.len()];
        // Any few rows of the table have every fault, and every phase.
        let phase = PHASES[(at % FAULTS.len() + at / FAULTS.len()) % PHASES.len()];
        if matches!(fault, Fault::FullDisk | Fault::ReadOnly) && !is_root() {
            continue;
        }
        let name = format!("LSYNCD_SEED={seed}, {fault:?} during {phase:?}");
        let replay = Replay(name.clone());
        let start = Instant::now();
        match cell(seed, fault, phase, world.take().unwrap_or_else(World::brief)) {
            Ok(back) => world = Some(back),
            Err(why) => panic!("{name}: {why}"),
        }
        eprintln!("{}: {:?}", replay.0, start.elapsed());
    }
}

#[test]
fn faults_in_every_phase_end_equal_1() {
    faults(0, 2);
}

#[test]
fn faults_in_every_phase_end_equal_2() {
    faults(1, 2);
}
