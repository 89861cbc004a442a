//! `--compress`: how many bytes go over the wire, and that what arrives is right.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::super::relay::{Relay, Slow};
use super::super::tree::{noise, set_mtime};
use super::super::world;
use super::{Push, Stage, Way};

const MIB: usize = 1 << 20;
/// What a connection costs by itself, and listings.
const SESSION: u64 = 48 * 1024;

/// Lines that have much in common and are all different.
fn lines(from: u64, len: usize) -> Vec<u8> {
    let mut text = String::new();
    for n in from.. {
        let word = ["accepted", "refused", "closed", "timed out"][(n * 7 % 4) as usize];
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text += &format!("{n:09} host{} sshd[{}]: connection {word}\n", n % 13, mixed >> 48);
        if text.len() >= len {
            break;
        }
    }
    text.truncate(len);
    text.into_bytes()
}

/// A stage over ssh whose bytes are counted.
struct Counted {
    stage: Stage,
    relay: Relay,
}

impl Counted {
    /// `rate`: bytes a second that the way carries.
    fn new(rate: Option<u64>) -> Counted {
        let stage = Stage::new(Way::Ssh);
        let slow = |rate| Slow { rate, delay: Duration::ZERO };
        let port = stage.world().port();
        let relay = match rate {
            Some(rate) => Relay::slow(port, slow(rate)),
            None => Relay::new(port),
        }
        .unwrap();
        let (port, world) = (relay.port(), stage.world());
        world.write_known_hosts(&format!("[127.0.0.1]:{port} {}\n", world.host_key()));
        world.write_ssh_config(&format!(
            "IdentityFile ~/.ssh/id_ed25519\n\nHost counted\n  HostName 127.0.0.1\n  Port {port}\n  User {}\n",
            world::user()
        ));
        let counted = Counted { stage, relay };
        // The agent is in place before bytes are counted.
        counted.once(&[]);
        counted
    }

    fn target(&self) -> String {
        format!("counted:{}", self.stage.target().display())
    }

    fn write(&self, name: impl AsRef<Path>, content: &[u8]) {
        let path = self.stage.s(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Mirrors once, and the bytes that went to the target.
    #[track_caller]
    fn once(&self, words: &[&str]) -> u64 {
        self.relay.take();
        let mut command = self.stage.lsyncd();
        command.args(["push", "--json", "--once"]).args(words).arg(self.stage.source());
        command.arg(self.target());
        Push::start(command).end().fine();
        self.stage.settles();
        self.relay.take().to
    }

    /// The same, to a target that has nothing.
    #[track_caller]
    fn anew(&self, words: &[&str]) -> u64 {
        fs::remove_dir_all(self.stage.target()).unwrap();
        self.once(words)
    }
}

#[test]
fn text_takes_a_fraction_of_its_size() {
    let counted = Counted::new(None);
    counted.write("large", &lines(0, 6 * MIB));
    for n in 0..300u64 {
        counted.write(format!("d{}/f{n}", n % 7), &lines(n * 1000, 8192));
    }
    let all = 6 * MIB as u64 + 300 * 8192;
    for level in ["1", "3", "9", "19"] {
        let bytes = counted.anew(&["--compress", level]);
        assert!(bytes < all / 3, "level {level}: {bytes} of {all}");
    }
    let off = counted.anew(&["--compress", "off"]);
    assert!(off > all, "{off} of {all}");
    // A limit is of what goes over the wire.
    let limited = counted.anew(&["--compress=3", "--bwlimit=2M"]);
    assert!(limited < all / 2, "{limited} of {all}");
}

#[test]
fn what_does_not_shrink_leaves_as_it_is() {
    let counted = Counted::new(None);
    counted.write("large", &noise(1, 8 * MIB));
    for n in 0..200u64 {
        counted.write(format!("f{n}"), &noise(n + 2, 8192));
    }
    let all = 8 * MIB as u64 + 200 * 8192;
    for how in ["auto", "1", "19", "off"] {
        let bytes = counted.anew(&["--compress", how]);
        assert!(bytes > all && bytes < all + all / 100 + SESSION, "{how}: {bytes} of {all}");
    }
    // A file of both: what shrinks is found behind what does not.
    let both = [noise(5, 12 * MIB), lines(0, 24 * MIB)].concat();
    fs::remove_dir_all(counted.stage.source()).unwrap();
    counted.write("both", &both);
    let bytes = counted.anew(&["--compress", "3"]);
    let (least, most) = (12 * MIB as u64, 12 * MIB as u64 + 20 * MIB as u64);
    assert!((least..most).contains(&bytes), "{bytes} of {}", both.len());
}

#[test]
fn on_a_slow_link_auto_compresses() {
    let counted = Counted::new(Some(3 << 20));
    counted.write("large", &lines(0, 12 * MIB));
    for n in 0..100u64 {
        counted.write(format!("f{n}"), &lines(n * 1000, 8192));
    }
    let all = 12 * MIB as u64 + 100 * 8192;
    // By default, too.
    for words in [&[][..], &["--compress", "auto"]] {
        let bytes = counted.anew(words);
        assert!(bytes < all / 3, "{words:?}: {bytes} of {all}");
    }
}

#[test]
fn what_changed_is_compressed_too() {
    let counted = Counted::new(None);
    let mut content = lines(0, 4 * MIB);
    counted.write("f", &content);
    counted.once(&["--compress", "3"]);
    // Neither stands in the base.
    let new = lines(10_000_000, MIB);
    content.splice(2_000_000..2_000_000, new.iter().copied());
    content.extend(lines(20_000_000, MIB));
    counted.write("f", &content);
    let bytes = counted.once(&["--compress", "3"]);
    assert!(bytes < MIB as u64 + SESSION, "{bytes}");
    set_mtime(&counted.stage.s("f"), 5, 0);
    assert!(counted.once(&["--compress", "3"]) < SESSION);
}

#[test]
fn a_target_of_this_host_is_not_troubled() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("f"), lines(0, MIB)).unwrap();
    stage.once(&["--compress", "9"]).fine();
    stage.settles();
}

#[test]
fn what_it_is_not_is_a_usage_error() {
    let stage = Stage::new(Way::Local);
    for how in ["bogus", "0", "23", "-1", ""] {
        let output = stage.command(&[format!("--compress={how}")]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{how}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("bad --compress '{how}': not auto, off")), "{said}");
    }
}
