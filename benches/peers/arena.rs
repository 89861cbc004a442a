//! Where the measurements take place: a world with its sshd, a tmpfs and a disk, and how much
//! is done.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::relay::{MBIT_10, Relay, Slow};
use crate::world::{self, HOST, World};

/// The host's name by which a connection goes through the relay.
const COUNTED: &str = "counted";
/// And through one of 10 Mbit/s.
pub(crate) const SLOW: &str = "slow";
/// And through one that is faster and long.
pub(crate) const LONG: &str = "long";
const MBIT_100: Slow = Slow { rate: 12_500_000, delay: Duration::from_millis(25) };

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amounts {
    pub(crate) quick: bool,
    /// Times that each way of a work is run.
    pub(crate) runs: usize,
    pub(crate) small_files: usize,
    pub(crate) large_bytes: u64,
    /// Changes whose latency is measured.
    pub(crate) changes: usize,
    /// The same with Lsyncd 2 and a delay of a second.
    pub(crate) slow_changes: usize,
    pub(crate) idle_seconds: u64,
    /// Changes while a large file is on its way.
    pub(crate) busy_changes: usize,
    /// Files that are written at once.
    pub(crate) burst: usize,
    /// Files in a directory that is renamed.
    pub(crate) renamed: usize,
}

impl Amounts {
    pub(crate) const FULL: Amounts = Amounts {
        quick: false,
        runs: 4,
        small_files: 30_000,
        large_bytes: 1 << 30,
        changes: 100,
        slow_changes: 30,
        idle_seconds: 20,
        busy_changes: 100,
        burst: 5_000,
        renamed: 2_000,
    };
    pub(crate) const QUICK: Amounts = Amounts {
        quick: true,
        runs: 2,
        small_files: 5_000,
        large_bytes: 128 << 20,
        changes: 40,
        slow_changes: 5,
        idle_seconds: 5,
        busy_changes: 20,
        burst: 1_000,
        renamed: 500,
    };
}

/// What a tree is kept on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Tmpfs,
    Disk,
}

pub(crate) struct Arena {
    pub(crate) world: World,
    pub(crate) relay: Relay,
    pub(crate) amounts: Amounts,
    tmpfs: tempfile::TempDir,
    disk: tempfile::TempDir,
}

impl Arena {
    /// # Errors
    /// What is missing here, in words.
    pub(crate) fn new(amounts: Amounts) -> Result<Arena, String> {
        for (program, package) in [("rsync", "rsync"), ("ssh", "openssh-client"), ("tar", "tar")] {
            if which(program).is_none() {
                return Err(format!("no {program} here: apt-get install {package}"));
            }
        }
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"];
        if !sshd.iter().any(|path| Path::new(path).exists()) {
            return Err("no sshd here: apt-get install openssh-server".to_owned());
        }
        let temporary = |dir: &Path| {
            let made = tempfile::Builder::new().prefix("lsyncd-peers").tempdir_in(dir);
            made.map_err(|e| format!("cannot make a directory in {}: {e}", dir.display()))
        };
        let shm = Path::new("/dev/shm");
        if !is_tmpfs(shm) {
            return Err("no tmpfs at /dev/shm".to_owned());
        }
        let tmpfs = temporary(shm)?;
        let disk = temporary(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        if is_tmpfs(disk.path()) {
            eprintln!("peers: the target directory is on a tmpfs: 'disk' is none");
        }
        let world = World::new();
        let relay = Relay::new(world.port()).map_err(|e| format!("cannot listen: {e}"))?;
        let slow =
            |slow| Relay::slow(world.port(), slow).map_err(|e| format!("cannot listen: {e}"));
        let (slow, long) = (slow(MBIT_10)?, slow(MBIT_100)?);
        let (mut known, mut config) =
            (String::new(), "IdentityFile ~/.ssh/id_ed25519\n".to_owned());
        for (name, port) in [(COUNTED, relay.port()), (SLOW, slow.port()), (LONG, long.port())] {
            known += &format!("[127.0.0.1]:{port} {}\n", world.host_key());
            let user = world::user();
            config +=
                &format!("\nHost {name}\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n");
        }
        world.write_known_hosts(&known);
        world.write_ssh_config(&config);
        Ok(Arena { world, relay, amounts, tmpfs, disk })
    }

    /// A directory for a work.
    pub(crate) fn dir(&self, medium: Medium, name: &str) -> PathBuf {
        let root = match medium {
            Medium::Tmpfs => &self.tmpfs,
            Medium::Disk => &self.disk,
        };
        let dir = root.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// The process id of our sshd.
    pub(crate) fn sshd(&self) -> u32 {
        let text = std::fs::read_to_string(self.world.path("etc/sshd.pid")).unwrap();
        text.trim().parse().unwrap()
    }

    pub(crate) fn host(counted: bool) -> &'static str {
        if counted { COUNTED } else { HOST }
    }

    /// The system's ssh as it is configured by default, to our sshd.
    pub(crate) fn ssh(&self) -> String {
        format!("ssh -F {}", self.world.ssh_config().display())
    }

    /// `lsyncd push`, ours, with what it needs to reach the target's host.
    pub(crate) fn push(&self) -> Command {
        let mut command = self.world.lsyncd();
        command
            .arg("push")
            .arg("--ssh-config")
            .arg(self.world.ssh_config())
            .args(["--agent-binary", env!("CARGO_BIN_EXE_lsyncd")]);
        command
    }
}

/// Where a program is.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn is_tmpfs(dir: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(dir).is_ok_and(|found| found.f_type as u64 == TMPFS_MAGIC)
}
