//! Large files under way: what is small passes them, they share the link, and what happens to
//! their names waits for nothing.
//!
//! Over a link of 10 Mbit/s that a relay plays. No bound here is one of time: it is counted how
//! many bytes go over before something, which is what a fast machine would show, too.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lsync_protocol::path::stage_mirror;

use super::{Push, Stage, Way};
use crate::relay::{MBIT_10, Relay};
use crate::tree::{noise, temporary_names};
use crate::world::{self, PATIENCE, wait_until};

const MIB: u64 = 1 << 20;

/// A stage behind a slow link.
struct Narrow {
    stage: Stage,
    relay: Relay,
}

impl Narrow {
    fn new() -> Narrow {
        let stage = Stage::new(Way::Ssh);
        // The agent is put there by the short way.
        fs::write(stage.s("first"), "").unwrap();
        stage.once(&[]).fine();
        let relay = Relay::slow(stage.world().port(), MBIT_10).unwrap();
        let (port, world) = (relay.port(), stage.world());
        world.write_known_hosts(&format!("[127.0.0.1]:{port} {}\n", world.host_key()));
        world.write_ssh_config(&format!(
            "IdentityFile ~/.ssh/id_ed25519\n\nHost narrow\n  HostName 127.0.0.1\n  Port {port}\n  User {}\n",
            world::user()
        ));
        Narrow { stage, relay }
    }

    fn live(&self) -> Push {
        let mut command = self.stage.lsyncd();
        let target = format!("narrow:{}", self.stage.target().display());
        command.args(["push", "--json"]).arg(self.stage.source()).arg(target);
        let push = Push::start(command);
        push.wait_event("ready");
        push
    }

    /// What the stages in the target's root hold.
    fn stages(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.stage.target()).unwrap().flatten();
        let stages = entries.filter(|e| stage_mirror(e.file_name().as_bytes()).is_some());
        stages.filter_map(|stage| Some(stage.metadata().ok()?.size())).collect()
    }

    /// Puts large files into the source, all at once, and waits until they are on their way.
    fn large(&self, names: &[&str], size: u64) {
        for (seed, name) in (1..).zip(names) {
            fs::write(self.stage.path(name), noise(seed, size as usize)).unwrap();
        }
        for name in names {
            fs::rename(self.stage.path(name), self.stage.s(name)).unwrap();
        }
        self.wait_stages("they are on their way", |stages| {
            stages.len() == names.len() && stages.iter().all(|bytes| *bytes > 64 * 1024)
        });
    }

    fn wait_stages(&self, what: &str, mut holds: impl FnMut(&[u64]) -> bool) {
        wait_until(what, || holds(&self.stages()));
    }
}

#[track_caller]
fn wait_there(path: &Path) {
    wait_until(&format!("{} is there", path.display()), || path.exists());
}

#[test]
fn a_small_change_waits_for_next_to_nothing() {
    let narrow = Narrow::new();
    let push = narrow.live();
    narrow.large(&["large"], 24 * MIB);
    let mut passed = Vec::new();
    for n in 0..20 {
        let small = narrow.stage.path("small");
        fs::write(&small, noise(n, 1024)).unwrap();
        let name = format!("small{n}");
        let before = narrow.relay.so_far().to;
        fs::rename(small, narrow.stage.s(&name)).unwrap();
        let end = Instant::now() + PATIENCE;
        while !narrow.stage.t(&name).exists() {
            assert!(Instant::now() < end, "{name} does not arrive; {}", push.said());
            std::thread::sleep(Duration::from_millis(1));
        }
        passed.push(narrow.relay.so_far().to - before);
        assert!(!narrow.stages().is_empty(), "the large file was faster");
    }
    passed.sort_unstable();
    // 100 ms of this link are 125,000 bytes. A machine that is busy may let this test look late.
    assert!(passed[10] < 125_000, "so much was before each: {passed:?}");
    assert!(passed[17] < 400_000, "so much was before each: {passed:?}");
    drop(push);
}

#[test]
fn large_files_share_the_link() {
    let narrow = Narrow::new();
    let push = narrow.live();
    narrow.large(&["one", "two", "three"], 4 * MIB);
    let mut apart = 0;
    narrow.wait_stages("half of all is there", |stages| {
        let (least, most) = (stages.iter().min(), stages.iter().max());
        if let (3, Some(least), Some(most)) = (stages.len(), least, most) {
            apart = apart.max(most - least);
        }
        stages.iter().sum::<u64>() > 6 * MIB
    });
    // They did not begin at the very same moment.
    assert!(apart < MIB, "{apart} bytes apart");
    drop(push);
}

#[test]
fn a_file_of_some_hundred_kilobytes_waits_for_no_large_one() {
    let narrow = Narrow::new();
    let push = narrow.live();
    // As many as are brought at a time.
    narrow.large(&["one", "two", "three", "four"], 9 * MIB);
    fs::write(narrow.stage.path("aside"), noise(9, 200_000)).unwrap();
    fs::rename(narrow.stage.path("aside"), narrow.stage.s("medium")).unwrap();
    wait_there(&narrow.stage.t("medium"));
    assert_eq!(narrow.stages().len(), 4, "the large ones were faster");
    drop(push);
}

#[test]
fn a_rename_above_a_file_in_flight_does_not_wait_for_it() {
    let narrow = Narrow::new();
    fs::create_dir_all(narrow.stage.s("dir/below")).unwrap();
    fs::write(narrow.stage.s("dir/below/small"), "small").unwrap();
    let push = narrow.live();
    let aside = narrow.stage.path("aside");
    fs::write(&aside, noise(1, 6 * MIB as usize)).unwrap();
    fs::rename(aside, narrow.stage.s("dir/below/large")).unwrap();
    let dir = narrow.stage.target();
    wait_until("it is on its way", || !temporary_names(&dir).is_empty());
    let before = narrow.relay.so_far().to;
    fs::rename(narrow.stage.s("dir"), narrow.stage.s("moved")).unwrap();
    wait_there(&narrow.stage.t("moved/below/small"));
    let passed = narrow.relay.so_far().to - before;
    assert!(passed < 2 * MIB, "{passed} bytes went before the rename");
    assert!(!narrow.stage.t("moved/below/large").exists());
    wait_there(&narrow.stage.t("moved/below/large"));
    narrow.stage.settles_with(&push, "after the rename");
    // It was not sent again.
    let all = narrow.relay.so_far().to;
    assert!(all < 7 * MIB, "{all} bytes went over");
    push.terminate();
}
