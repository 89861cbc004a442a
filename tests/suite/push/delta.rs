//! Large files that changed: only what changed goes over the wire, and what arrives is right.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::{Ended, Push, Stage, Way};
use crate::relay::Relay;
use crate::tree::{append, noise, numbers, set_mtime};
use crate::world::{self, wait_until};

const MIB: usize = 1 << 20;
/// What a connection costs by itself: key exchange, login, handshake, listings.
pub(super) const SESSION: u64 = 24 * 1024;

/// A stage over ssh whose bytes are counted.
pub(super) struct Counted {
    pub(super) stage: Stage,
    pub(super) relay: Relay,
}

impl Counted {
    /// With a file of so many bytes, mirrored.
    pub(super) fn new(size: usize) -> Counted {
        let stage = Stage::new(Way::Ssh);
        let relay = Relay::new(stage.world().port()).unwrap();
        let (port, world) = (relay.port(), stage.world());
        world.write_known_hosts(&format!("[127.0.0.1]:{port} {}\n", world.host_key()));
        world.write_ssh_config(&format!(
            "IdentityFile ~/.ssh/id_ed25519\n\nHost counted\n  HostName 127.0.0.1\n  Port {port}\n  User {}\n",
            world::user()
        ));
        fs::write(stage.s("f"), noise(1, size)).unwrap();
        let counted = Counted { stage, relay };
        counted.once();
        counted.relay.take();
        counted
    }

    pub(super) fn push(&self, words: &[&str]) -> Push {
        let mut command = self.stage.lsyncd();
        let target = format!("counted:{}", self.stage.target().display());
        command.args(["push", "--json"]).args(words).arg(self.stage.source()).arg(target);
        Push::start(command)
    }

    /// Mirrors once more, and what that took in bytes, both ways.
    pub(super) fn once(&self) -> (Ended, u64) {
        let ended = self.push(&["--once"]).end().fine();
        self.stage.settles();
        let wire = self.relay.take();
        (ended, wire.to + wire.from)
    }

    #[track_caller]
    pub(super) fn costs_at_most(&self, most: u64, what: &str) {
        let (_, bytes) = self.once();
        assert!(bytes <= SESSION + most, "{what}: {bytes} bytes went over");
    }
}

pub fn write_at(stage: &Stage, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(stage.s("f")).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn a_change_costs_its_own_bytes() {
    let counted = Counted::new(8 * MIB);
    let stage = &counted.stage;
    for n in 0..20u64 {
        write_at(stage, n * 400_000 + 77, &noise(n, 100));
    }
    // 512 short sums, the sums of twenty or so blocks, and a KiB or two for each edit.
    counted.costs_at_most(80 * 1024, "edits");

    append(&stage.s("f"), &noise(3, 1000));
    counted.costs_at_most(40 * 1024, "an append");

    let mut content = fs::read(stage.s("f")).unwrap();
    content.splice(0..0, noise(4, 1000));
    fs::write(stage.s("f"), &content).unwrap();
    counted.costs_at_most(150 * 1024, "an insertion at the front");

    content.drain(3 * MIB..3 * MIB + 5000);
    fs::write(stage.s("f"), &content).unwrap();
    counted.costs_at_most(110 * 1024, "something taken out of the middle");

    // As editors and databases do it: another file takes the name.
    content[5 * MIB..5 * MIB + 10].copy_from_slice(b"0123456789");
    fs::write(stage.s("f.new"), &content).unwrap();
    fs::rename(stage.s("f.new"), stage.s("f")).unwrap();
    counted.costs_at_most(40 * 1024, "a new file in its place");

    content.truncate(2 * MIB + 5);
    fs::write(stage.s("f"), &content).unwrap();
    counted.costs_at_most(40 * 1024, "an end cut off");
    stage.no_temporary_names();
}

#[test]
fn what_has_nothing_in_common_goes_whole() {
    let counted = Counted::new(2 * MIB);
    fs::write(counted.stage.s("f"), noise(99, 3 * MIB)).unwrap();
    let (_, bytes) = counted.once();
    assert!(bytes > 3 * MIB as u64, "{bytes}");
    assert!(bytes < 3 * MIB as u64 + 200 * 1024, "{bytes}");
}

#[test]
fn what_stands_anywhere_in_a_large_file_is_found() {
    let counted = Counted::new(48 * MIB);
    let stage = &counted.stage;
    let old = fs::read(stage.s("f")).unwrap();
    let half = MIB / 2;
    let piece = |from: usize, to: usize| &old[from * half..to * half];
    // 12 bytes for each KiB of the base, and some for what is hashed in vain.
    let sums = 660 * 1024;
    for (name, content) in [
        ("far ahead", [piece(70, 96), piece(0, 60)].concat()),
        ("a little on", [&noise(2, 12_345)[..], piece(0, 90), b"end"].concat()),
        ("behind what is new", [&noise(3, 20 * MIB)[..], piece(0, 96)].concat()),
        ("in pieces", [piece(5, 20), &[1], piece(60, 75), &[2], piece(20, 60), &[3]].concat()),
    ] {
        fs::write(stage.s("f"), &old).unwrap();
        counted.once();
        fs::write(stage.s("f"), &content).unwrap();
        let new =
            if name == "behind what is new" { 20 * MIB as u64 + 128 * 1024 } else { 16 * 1024 };
        counted.costs_at_most(new + sums, name);
    }
    stage.no_temporary_names();
}

#[test]
fn holes_are_neither_sent_nor_filled() {
    let counted = Counted::new(MIB);
    let stage = &counted.stage;
    let file = fs::OpenOptions::new().write(true).open(stage.s("f")).unwrap();
    file.set_len(512 * MIB as u64).unwrap();
    file.write_all_at(b"far out", 300 * MIB as u64).unwrap();
    drop(file);
    counted.costs_at_most(160 * 1024, "a file that became sparse");
    assert!(stage.t("f").metadata().unwrap().blocks() * 512 < 4 * MIB as u64);
    write_at(stage, 400 * MIB as u64, b"and another");
    counted.costs_at_most(1600 * 1024, "a write into a hole");
    assert!(stage.t("f").metadata().unwrap().blocks() * 512 < 6 * MIB as u64);
}

#[test]
fn a_live_change_is_a_delta_too() {
    let counted = Counted::new(8 * MIB);
    let stage = &counted.stage;
    let push = counted.push(&[]);
    push.wait_event("ready");
    for n in 0..5u64 {
        counted.relay.take();
        write_at(stage, n * 1_000_000, &noise(50 + n, 3000));
        stage.settles();
        let wire = counted.relay.take();
        assert!(wire.to + wire.from < 80 * 1024, "{wire:?}");
    }
    push.terminate();
}

#[test]
fn a_file_that_grows_and_changes_at_once_is_never_put_together_wrongly() {
    let counted = Counted::new(3 * MIB);
    let stage = &counted.stage;
    let push = counted.push(&[]);
    push.wait_event("ready");
    // As a database does it: pages are written over while the file gets longer.
    let file = fs::OpenOptions::new().write(true).open(stage.s("f")).unwrap();
    let mut size = 3 * MIB as u64;
    for n in 0..1500u64 {
        file.write_all_at(&noise(n, 4096), n * 7919 * 4096 % size).unwrap();
        file.write_all_at(&noise(n, 2000), size).unwrap();
        size += 2000;
        // It goes on for longer than a few deltas take.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    drop(file);
    stage.settles();
    assert!(push.events("problem").is_empty(), "{}", push.said());
    push.terminate();
}

#[test]
fn what_was_cut_off_meanwhile_is_not_sent_as_zeros() {
    let counted = Counted::new(32 * MIB);
    let stage = &counted.stage;
    let push = counted.push(&["--bwlimit", "8M", "--compress", "off"]);
    push.wait_event("ready");
    fs::write(stage.path("new"), noise(2, 32 * MIB)).unwrap();
    fs::rename(stage.path("new"), stage.s("f")).unwrap();
    let mut sent = 0;
    wait_until("some of it went over", || {
        sent += counted.relay.take().to;
        sent > 3 << 20
    });
    let file = fs::OpenOptions::new().write(true).open(stage.s("f")).unwrap();
    file.set_len(300_000).unwrap();
    stage.settles();
    sent += counted.relay.take().to;
    assert!(sent < 16 << 20, "{sent} bytes went over");
    push.terminate();
}

#[test]
fn a_base_that_is_not_what_it_was_makes_no_wrong_file() {
    let counted = Counted::new(4 * MIB);
    let stage = &counted.stage;
    // Somebody writes into the target behind our back. (Not in the same tick as we do: of equal
    // size and time files are equal.)
    for round in 0..3u64 {
        let target = fs::OpenOptions::new().write(true).open(stage.t("f")).unwrap();
        target.write_all_at(&noise(round, 50_000), round * 900_000).unwrap();
        drop(target);
        set_mtime(&stage.t("f"), 1, 0);
        write_at(stage, 2_000_000 + round, b"changed here");
        counted.once();
    }
    // Another kind, or nothing at all, stands there.
    fs::remove_file(stage.t("f")).unwrap();
    write_at(stage, 5, b"again");
    counted.once();
    fs::remove_file(stage.t("f")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", stage.t("f")).unwrap();
    write_at(stage, 6, b"again");
    counted.once();
    stage.no_temporary_names();
}

#[test]
fn random_edits_always_arrive() {
    let stage = Stage::new(Way::Ssh);
    let mut below = numbers(7);
    let mut content = noise(5, 900_000);
    fs::write(stage.s("f"), &content).unwrap();
    let push = stage.live(&[]);
    for round in 0..40 {
        for _ in 0..=below(4) {
            let at = below(content.len());
            let len = below(60_000).min(content.len() - at);
            match below(6) {
                0 => drop(content.drain(at..at + len / 2)),
                1 => drop(content.splice(at..at, noise(round, len + 1))),
                2 => content[at..at + len].fill(0),
                3 => {
                    let part = content[at..at + len].to_vec();
                    let to = below(content.len());
                    content.splice(to..to, part);
                }
                4 => content.extend(noise(round, len * 3)),
                _ => {
                    let part = noise(round + 100, len);
                    content[at..at + len].copy_from_slice(&part);
                }
            }
            if content.len() < 300_000 {
                content.extend(noise(round, 500_000));
            }
        }
        if below(2) == 0 {
            fs::write(stage.s("f"), &content).unwrap();
        } else {
            fs::write(stage.s(".f.new"), &content).unwrap();
            fs::rename(stage.s(".f.new"), stage.s("f")).unwrap();
        }
        wait_until("the content arrives", || {
            fs::read(stage.t("f")).is_ok_and(|there| there == content)
        });
    }
    stage.settles();
    push.terminate();
    stage.no_temporary_names();
}
