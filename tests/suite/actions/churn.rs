//! Random histories of changes, kept up with by commands: in the end both trees are equal.

use super::*;

/// Numbers that look random and can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % n
    }
}

const NAMES: [&str; 12] =
    ["a", "b", "c d", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a", "f/g", "f/g/$(touch x)"];

/// One change; what cannot be done is left.
fn change(root: &Path, random: &mut Random, step: usize) -> String {
    let at = |random: &mut Random| root.join(NAMES[random.below(NAMES.len())]);
    let (one, other) = (at(random), at(random));
    let what = random.below(10);
    let done = match what {
        0..3 => fs::write(&one, format!("{step}")),
        3 => fs::OpenOptions::new()
            .append(true)
            .open(&one)
            .and_then(|mut file| file.write_all(format!("+{step}").as_bytes())),
        4 | 5 => fs::create_dir_all(&one),
        6 => fs::remove_file(&one),
        7 => fs::remove_dir_all(&one),
        _ => fs::rename(&one, &other),
    };
    format!("{what} {} {} {}", one.display(), other.display(), done.is_ok())
}

/// Commands that bear what happens meanwhile: a file may have gone when they run, and a move may
/// find that its origin was never there.
fn config(keys: &str, moves: bool) -> String {
    let moves = if moves {
        r#"onMove = [[mv -T -- ^o.targetPathname ^d.targetPathname || {
            rm -rf -- ^o.targetPathname ^d.targetPathname; cp -aT -- ^d.sourcePathname ^d.targetPathname; }]],"#
    } else {
        ""
    };
    format!(
        r#"
        sync {{
            target = DIR .. "/t/", {keys}, {moves}
            onStartup = 'true',
            onCreate = [[if [ -d ^sourcePathname ]; then mkdir -p -- ^targetPathname; else cp -T -- ^sourcePathname ^targetPathname; fi]],
            onModify = 'cp -T -- ^sourcePathname ^targetPathname',
            onDelete = 'rm -rf -- ^targetPathname',
        }}
        "#
    )
}

fn history(config: &str, seed: u64) {
    let rig = Rig::new(config).running();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut told = Vec::new();
    for step in 0..80 {
        told.push(change(&rig.path("s"), &mut random, step));
        if random.below(8) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(40) as u64));
        }
    }
    let end = Instant::now() + crate::world::PATIENCE;
    loop {
        let idle = rig.actions.status().iter().all(|sync| sync.delays.is_empty());
        if idle && tree(&rig.path("s")) == tree(&rig.path("t")) {
            break;
        }
        assert!(
            Instant::now() < end,
            "seed {seed}: the trees differ\n{:#?}\n{:#?}\n{}\n{}",
            tree(&rig.path("s")),
            tree(&rig.path("t")),
            told.join("\n"),
            rig.lines.all().join("\n")
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn histories(config: &str, seeds: std::ops::Range<u64>) {
    let more = std::env::var("LSYNCD_HISTORIES").ok().and_then(|more| more.parse().ok());
    for seed in seeds.start..more.map_or(seeds.end, |more: u64| seeds.start + more) {
        history(config, seed);
    }
}

#[test]
fn at_once_and_several_at_a_time() {
    histories(&config("maxProcesses = 4", false), 0..4);
}

#[test]
fn with_a_delay() {
    histories(&config("maxProcesses = 4, delay = 0.1", false), 100..104);
}

#[test]
fn with_moves() {
    histories(&config("maxProcesses = 4, delay = 0.05", true), 200..204);
}

#[test]
fn one_at_a_time_with_a_full_queue() {
    histories(&config("maxProcesses = 1, delay = 0.5, maxDelays = 5", true), 300..303);
}
