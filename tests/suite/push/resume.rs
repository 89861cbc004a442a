//! A large file that was cut goes on where it was.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use super::delta::{Counted, write_at};
use super::{Push, Stage};
use crate::relay::{Relay, Slow};
use crate::tree::{noise, temporary_names};
use crate::world::{self, wait_until};

const MIB: usize = 1 << 20;
const SIZE: usize = 16 * MIB;

/// A way that is so slow that it can be cut in the middle.
fn slow() -> Counted {
    let counted = Counted::new(MIB);
    let (stage, world) = (&counted.stage, counted.stage.world());
    let slow = Slow { rate: 6 << 20, delay: Duration::ZERO };
    let relay = Relay::slow(world.port(), slow).unwrap();
    let port = relay.port();
    world.write_known_hosts(&format!("[127.0.0.1]:{port} {}\n", world.host_key()));
    world.write_ssh_config(&format!(
        "IdentityFile ~/.ssh/id_ed25519\n\nHost counted\n  HostName 127.0.0.1\n  Port {port}\n  User {}\n",
        world::user()
    ));
    fs::write(stage.s("other"), b"stays").unwrap();
    fs::remove_file(stage.s("f")).unwrap();
    Counted { relay, ..counted }
}

/// What is there of a content that is on its way.
fn part(stage: &Stage) -> Option<(PathBuf, u64)> {
    let name = temporary_names(&stage.target()).into_iter().next()?;
    let path = stage.t(name);
    let size = fs::metadata(&path).ok()?.len();
    Some((path, size))
}

fn wait_for(stage: &Stage, bytes: usize) {
    wait_until("so much had arrived", || part(stage).is_some_and(|(_, size)| size >= bytes as u64));
}

/// How it is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Agent,
    Killed,
    Terminated,
}

fn cut(stage: &Stage, push: Push, how: Cut) {
    match how {
        Cut::Agent => {
            assert!(stage.world().kill(|name| name.starts_with("lsync-agent")));
            push.stop(Signal::KILL);
        }
        Cut::Killed => drop(push.stop(Signal::KILL)),
        Cut::Terminated => drop(push.stop(Signal::TERM)),
    }
}

#[test]
fn a_file_goes_on_wherever_it_was_cut() {
    for (part_of, how) in
        [(1, Cut::Killed), (4, Cut::Agent), (6, Cut::Terminated), (6, Cut::Killed)]
    {
        let counted = slow();
        let stage = &counted.stage;
        fs::write(stage.s("f"), noise(7, SIZE)).unwrap();
        let push = counted.push(&["--compress", "off"]);
        wait_for(stage, SIZE / 8 * part_of);
        cut(stage, push, how);
        counted.relay.take();
        let (_, bytes) = counted.once();
        // What had arrived need not come again; what was on its way does.
        let most = SIZE / 8 * (8 - part_of) + 2 * MIB;
        assert!(bytes < most as u64, "{how:?} at {part_of}/8: {bytes} bytes");
        stage.no_temporary_names();
    }
}

#[test]
fn the_link_alone_is_cut() {
    let counted = slow();
    let stage = &counted.stage;
    let push = counted.push(&["--compress", "off"]);
    push.wait_event("ready");
    // At once: what is still being written goes in parts.
    fs::write(stage.path("aside"), noise(7, SIZE)).unwrap();
    fs::rename(stage.path("aside"), stage.s("f")).unwrap();
    wait_for(stage, SIZE / 8 * 5);
    counted.relay.take();
    assert!(stage.world().kill(|name| name.starts_with("lsync-agent")));
    push.wait_event("reconnected");
    stage.settles();
    let wire = counted.relay.take();
    // The rest, and what was on its way when the agent went: much less than the window's most here.
    assert!(wire.to + wire.from < (SIZE / 8 * 3 + 6 * MIB) as u64, "{wire:?}");
    push.terminate();
    stage.no_temporary_names();
}

#[test]
fn a_file_that_became_another_is_not_mixed_with_what_was_left() {
    let counted = slow();
    let stage = &counted.stage;
    fs::write(stage.s("f"), noise(7, SIZE)).unwrap();
    let push = counted.push(&["--compress", "off"]);
    wait_for(stage, SIZE / 2);
    cut(stage, push, Cut::Killed);
    counted.relay.take();
    // Something in the middle, a hole where something was, and a shorter end.
    write_at(stage, 5_000_000, &noise(9, 100_000));
    let file = fs::OpenOptions::new().write(true).open(stage.s("f")).unwrap();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 2_000_000, 3_000_000).unwrap();
    file.set_len((SIZE / 2 + 12_345) as u64).unwrap();
    // Somebody wrote into what was left.
    let (left, _) = part(stage).unwrap();
    let file = fs::OpenOptions::new().write(true).open(left).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(10, 50_000), 7_000_000).unwrap();
    let (_, bytes) = counted.once();
    assert!(bytes < 5 * MIB as u64, "{bytes}");
    stage.no_temporary_names();
}

#[test]
fn what_was_left_of_a_file_that_is_gone_goes_too() {
    let counted = slow();
    let stage = &counted.stage;
    fs::create_dir(stage.s("d")).unwrap();
    fs::write(stage.s("d/f"), noise(7, SIZE)).unwrap();
    let push = counted.push(&["--compress", "off"]);
    wait_for(stage, SIZE / 4);
    cut(stage, push, Cut::Killed);
    assert!(part(stage).is_some(), "it stays for the next one");
    fs::remove_file(stage.s("d/f")).unwrap();
    fs::write(stage.s("d/small"), b"small").unwrap();
    counted.once();
    stage.no_temporary_names();
    // And a directory that goes takes it along.
    fs::write(stage.s("d/f"), noise(8, SIZE)).unwrap();
    let push = counted.push(&["--compress", "off"]);
    wait_for(stage, SIZE / 4);
    cut(stage, push, Cut::Killed);
    fs::remove_dir_all(stage.s("d")).unwrap();
    counted.once();
    assert!(!stage.t("d").exists());
}
