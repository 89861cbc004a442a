//! The three ready ways beside each other in one configuration, with one source: what each of them
//! bears, and that what befalls one is nothing to the others.

use std::os::unix::fs::symlink;

use super::super::rsync::{Daemon, ODD, unequal};
use super::*;
use crate::tree::{append, bytes, chmod, temporary_names, tree};

/// How a target is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    Direct,
    RsyncSsh,
    Rsync,
}

use Ready::{Direct, Rsync, RsyncSsh};

const ALL: [Ready; 3] = [Direct, RsyncSsh, Rsync];

/// One source, a directory, a directory behind an sshd, and a module of an rsync daemon.
struct Three {
    stage: Stage,
    daemon: Daemon,
}

impl Three {
    fn new() -> Three {
        let daemon =
            Daemon::start("[open]\npath = DIR/open\nread only = no\nmunge symlinks = no\n");
        let three = Three { stage: Stage::new(Way::Ssh), daemon };
        fs::write(three.stage.s("first"), "1").unwrap();
        fs::create_dir(three.stage.path("parent")).unwrap();
        three
    }

    fn target(&self, way: Ready) -> PathBuf {
        match way {
            Direct => self.stage.path("parent/direct"),
            RsyncSsh => self.stage.path("there"),
            Rsync => self.daemon.path("open"),
        }
    }

    fn sync(&self, way: Ready) -> String {
        let to = match way {
            Direct => format!("default.direct, target = {:?}", self.target(way)),
            RsyncSsh => {
                format!("default.rsyncssh, host = '{HOST}', targetdir = {:?}", self.target(way))
            }
            Rsync => {
                format!("default.rsync, target = 'rsync://127.0.0.1:{}/open'", self.daemon.port())
            }
        };
        format!("sync {{ {to}, source = SRC, delay = 0, rsync = {{ archive = true }} }}\n")
    }

    /// Starts all three.
    fn start(&self) -> Two {
        Two::with(&self.stage, &ALL.map(|way| self.sync(way)).concat())
    }

    /// Takes what is behind a way away.
    fn away(&mut self, way: Ready) {
        match way {
            Direct => fs::remove_dir_all(self.stage.path("parent")).unwrap(),
            RsyncSsh => self.stage.world_mut().stop(),
            Rsync => self.daemon.stop(),
        }
    }

    fn back(&mut self, way: Ready) {
        match way {
            Direct => fs::create_dir(self.stage.path("parent")).unwrap(),
            RsyncSsh => self.stage.world_mut().restart(),
            Rsync => self.daemon.again(),
        }
    }

    /// Waits until a target is equal, times by the second.
    #[track_caller]
    fn settles(&self, way: Ready, two: &Two, when: &str) {
        let end = std::time::Instant::now() + crate::world::PATIENCE;
        while let Some(text) = unequal(&self.stage.source(), &self.target(way)) {
            let late = std::time::Instant::now() >= end;
            assert!(!late, "{when}: {way:?} differs:\n{text}\n{}", two.said());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// It ends as it should, and nothing is left of it.
    #[track_caller]
    fn ends(&self, two: Two) {
        let (code, said) = two.stop(Signal::TERM);
        assert_eq!(code, Some(143), "{said}");
        assert!(said.contains(", by lsync-agent"), "{said}");
        assert!(said.contains(", by the system's rsync"), "{said}");
        wait_until("no session is left", || self.stage.world().sessions() == 0);
        for way in ALL {
            assert_eq!(temporary_names(&self.target(way)), [""; 0], "{way:?}");
            assert_eq!(unequal(&self.stage.source(), &self.target(way)), None, "{way:?}");
        }
    }
}

#[test]
fn a_target_that_is_away_at_the_start_ends_it_unless_it_insists() {
    for way in ALL {
        let mut three = Three::new();
        three.away(way);
        let sync = three.sync(way);
        let (code, said) = Two::with(&three.stage, &sync).code();
        assert_eq!(code, Some(255), "{way:?}: {said}");
        assert!(said.contains("Error: "), "{way:?}: {said}");
        let insists = format!("settings {{ insist = true }}\n{sync}");
        let mut two = Two::with(&three.stage, &insists);
        two.wait_for("trying again in");
        three.back(way);
        two.wait_for("finished.");
        fs::write(three.stage.s("live"), "1").unwrap();
        three.settles(way, &two, "insisting");
        let (code, said) = two.stop(Signal::TERM);
        assert_eq!(code, Some(143), "{way:?}: {said}");
    }
}

#[test]
fn one_that_is_away_at_the_start_stops_no_other() {
    for way in ALL {
        let mut three = Three::new();
        three.away(way);
        let mut two = three.start();
        two.wait_times("finished.", 2);
        churn(&three.stage.source(), 50, 41);
        for other in ALL.into_iter().filter(|other| *other != way) {
            three.settles(other, &two, &format!("without {way:?}"));
        }
        three.back(way);
        three.settles(way, &two, "when it is back");
        three.ends(two);
    }
}

#[test]
fn one_that_goes_away_stops_no_other_and_catches_up() {
    for way in ALL {
        let mut three = Three::new();
        let mut two = three.start();
        two.wait_times("finished.", 3);
        three.away(way);
        churn(&three.stage.source(), 50, 42);
        for other in ALL.into_iter().filter(|other| *other != way) {
            three.settles(other, &two, &format!("without {way:?}"));
        }
        // It noticed, and did not just wait.
        two.wait_for(" is down: ");
        three.back(way);
        three.settles(way, &two, "when it is back");
        three.ends(two);
    }
}

#[test]
fn names_that_break_shells_are_names_on_every_way() {
    let evil: [&[u8]; 10] = [
        b"$(touch PWNED)",
        b"`touch PWNED`",
        b"';touch PWNED;'",
        b"\";touch PWNED;\"",
        b"\ntouch PWNED\n",
        b"|touch PWNED",
        b"&touch PWNED&",
        b"%s%n${IFS}!!",
        b"-rf",
        b"\xc3\x28\x07\x1b[31m",
    ];
    let names: Vec<&[u8]> = ODD.iter().chain(&evil).copied().collect();
    let three = Three::new();
    let at = |name: &[u8]| three.stage.s(bytes(name));
    let suffixed = |name: &[u8], suffix: &str| [name, suffix.as_bytes()].concat();
    let make = |name: &[u8]| {
        fs::create_dir_all(at(&suffixed(name, ".d")).join(bytes(name))).unwrap();
        fs::write(at(name), name).unwrap();
        fs::write(at(&suffixed(name, ".d")).join(bytes(name)).join(bytes(name)), name).unwrap();
        symlink(bytes(name), at(&suffixed(name, ".l"))).unwrap();
    };
    let (before, live) = names.split_at(names.len() / 2);
    before.iter().for_each(|name| make(name));
    let mut two = three.start();
    two.wait_times("finished.", 3);
    let settle = |two: &Two, when: &str| ALL.map(|way| three.settles(way, two, when));
    settle(&two, "the start");
    live.iter().for_each(|name| make(name));
    settle(&two, "new names");
    names.iter().for_each(|name| append(&at(name), b"more"));
    settle(&two, "new contents");
    for name in &names {
        fs::rename(at(name), at(&suffixed(name, ".r"))).unwrap();
        fs::rename(at(&suffixed(name, ".d")), at(&suffixed(name, ".m"))).unwrap();
    }
    settle(&two, "renames");
    for name in &names {
        fs::rename(at(&suffixed(name, ".r")), at(name)).unwrap();
        fs::remove_dir_all(at(&suffixed(name, ".m"))).unwrap();
    }
    settle(&two, "deletes");
    three.ends(two);
    let world = three.stage.world();
    for place in [three.stage.path(""), world.remote_home(), world.home(), PathBuf::from(".")] {
        assert!(!place.join("PWNED").exists(), "a name was run in {}", place.display());
    }
}

/// Changes of all kinds, faster than any way follows.
fn storm(source: &Path, outside: &Path, changes: usize, seed: u64) {
    let mut below = numbers(seed);
    let dirs = ["a", "b b", "-c", "a/d", "b b/e\nf", "a/d/g"];
    let names = ["1", " 2", "'3'", "[4]*", "--5", "6;", "$(7)"];
    for change in 0..changes {
        let dir = source.join(dirs[below(dirs.len())]);
        let path = dir.join(names[below(names.len())]);
        let (to, away) = (source.join(dirs[below(dirs.len())]), outside.join(change.to_string()));
        let to_name = to.join(names[below(names.len())]);
        // What cannot be done now is left.
        let _ = fs::create_dir_all(&dir);
        let _ = match below(12) {
            0..=2 => fs::write(&path, format!("{change}").repeat(below(5000))),
            3 if path.is_file() => {
                append(&path, b"appended");
                Ok(())
            }
            4 => fs::remove_file(&path),
            5 => fs::rename(&path, &to_name),
            6 => fs::rename(&dir, &to),
            7 if below(3) == 0 => fs::remove_dir_all(&dir),
            8 if path.is_file() => {
                chmod(&path, [0o600, 0o644, 0o755, 0o400][below(4)]);
                Ok(())
            }
            9 => symlink(names[below(names.len())], &path),
            // Out and in again under another name; now and then what came in replaces something.
            10 => fs::rename(&path, &away).and_then(|()| fs::rename(&away, &to_name)),
            _ => {
                fs::write(&away, vec![b'x'; below(100_000)]).and_then(|()| fs::rename(&away, &path))
            }
        };
    }
}

#[test]
fn a_storm_ends_equal_on_every_way() {
    let more: Option<u64> = std::env::var("LSYNCD_HISTORIES").ok().and_then(|n| n.parse().ok());
    for seed in 1..=more.unwrap_or(1) {
        let three = Three::new();
        let outside = three.stage.path("outside");
        fs::create_dir(&outside).unwrap();
        let mut two = three.start();
        two.wait_times("finished.", 3);
        storm(&three.stage.source(), &outside, 1500, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for way in ALL {
            three.settles(way, &two, &format!("seed {seed}"));
        }
        assert!(tree(&three.stage.source()).unwrap().len() > 10, "too little is left to compare");
        three.ends(two);
    }
}
