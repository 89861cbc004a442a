//! A hermetic world: a home of its own, and a real sshd on loopback with its own host key,
//! configuration and port. Nothing outside of its temporary directory is read or written, nothing
//! survives it.
#![allow(dead_code)]

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lsyncd::config::{SshOptions, SshTarget};
use tempfile::TempDir;

/// How long a condition may take to come true, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The name by which the world's sshd is known in its ssh configuration.
pub const HOST: &str = "world";

/// The passphrase of the key `id_locked`.
pub const PASSPHRASE: &str = "open sesame";

pub struct World {
    dir: TempDir,
    port: u16,
    sshd: Option<Child>,
    extra: String,
    /// What stands in the place of the host's boot id.
    boot: Option<String>,
    /// Where commands on the far side keep their caches.
    cache: PathBuf,
}

/// Waits until a condition holds.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program to its end and returns its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().unwrap_or_else(|e| {
        let name = command.get_program().display();
        panic!("cannot run {name}: {e}\n(apt-get install openssh-server openssh-client)")
    });
    let (stdout, stderr) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{stdout}{stderr}", out.status);
    stdout.into_owned()
}

impl World {
    /// A world with a running sshd.
    pub fn new() -> World {
        World::with("")
    }

    /// A world whose `sshd_config` has more lines.
    pub fn with(extra: &str) -> World {
        World::of(extra, None)
    }

    /// A world whose far side has the cache of all such worlds: the agent is copied once. For what
    /// is not about putting agents on hosts.
    pub fn brief() -> World {
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cache");
        std::fs::create_dir_all(&cache).unwrap();
        World::of("", Some(cache))
    }

    fn of(extra: &str, cache: Option<PathBuf>) -> World {
        let dir = tempfile::Builder::new().prefix("lsyncd-world").tempdir().unwrap();
        let port = free_port();
        let cache = cache.unwrap_or_else(|| dir.path().join("remote/.cache"));
        let mut world = World { dir, port, sshd: None, extra: extra.to_owned(), boot: None, cache };
        for sub in ["home/.ssh", "remote", "etc", "run"] {
            std::fs::create_dir_all(world.path(sub)).unwrap();
        }
        std::fs::set_permissions(world.path("home/.ssh"), PermissionsExt::from_mode(0o700))
            .unwrap();
        keygen(&world.path("etc/host_ed25519"), "ed25519", "");
        keygen(&world.key("id_stranger"), "ed25519", "");
        world.authorize("id_ed25519", "ed25519", "");
        world.write_known_hosts("");
        world.write_ssh_config("IdentityFile ~/.ssh/id_ed25519\n");
        world.start();
        world
    }

    /// Makes a key that may log in.
    pub fn authorize(&self, name: &str, kind: &str, passphrase: &str) {
        use std::io::Write;
        keygen(&self.key(name), kind, passphrase);
        let keys = self.path("etc/authorized_keys");
        let mut keys = std::fs::OpenOptions::new().append(true).create(true).open(keys).unwrap();
        keys.write_all(&std::fs::read(self.public(name)).unwrap()).unwrap();
    }

    /// Makes the key `id_locked`, which may log in and has the passphrase [`PASSPHRASE`].
    pub fn authorize_locked(&self) {
        self.authorize("id_locked", "ed25519", PASSPHRASE);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The home on this side.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// The home (`HOME`) of commands on the far side.
    pub fn remote_home(&self) -> PathBuf {
        self.path("remote")
    }

    /// Where agents are put on the far side.
    pub fn remote_cache(&self) -> PathBuf {
        self.path("remote/.cache/lsyncd")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.path("home/.ssh").join(name)
    }

    pub fn public(&self, name: &str) -> PathBuf {
        self.path("home/.ssh").join(format!("{name}.pub"))
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.path("home/.ssh/known_hosts")
    }

    /// The host's public key: kind and base64.
    pub fn host_key(&self) -> String {
        let text = std::fs::read_to_string(self.path("etc/host_ed25519.pub")).unwrap();
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// `SHA256:…` of the host's key, as ssh-keygen has it.
    pub fn fingerprint(&self) -> String {
        let file = self.path("etc/host_ed25519.pub");
        let text = run(Command::new("ssh-keygen").arg("-lf").arg(file));
        text.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// The world's sshd, known; and other lines.
    pub fn write_known_hosts(&self, more: &str) {
        let line = format!("[127.0.0.1]:{} {}\n{more}", self.port, self.host_key());
        std::fs::write(self.known_hosts(), line).unwrap();
    }

    /// The user's ssh configuration: `world` is the sshd; and what else is to be said.
    pub fn write_ssh_config(&self, more: &str) {
        let home = self.home();
        let text = format!(
            "Host {HOST}\n  HostName 127.0.0.1\n  Port {}\n  User {}\n\nHost *\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n{}\n",
            self.port,
            user(),
            self.known_hosts().display(),
            more.replace("~/", &format!("{}/", home.display())),
        );
        std::fs::write(self.ssh_config(), text).unwrap();
    }

    pub fn ssh_config(&self) -> PathBuf {
        self.path("home/.ssh/config")
    }

    /// The options by which the library reaches this world.
    pub fn options(&self) -> SshOptions {
        SshOptions {
            config: Some(self.ssh_config()),
            home: Some(self.home()),
            user: Some(user()),
            ..SshOptions::default()
        }
    }

    /// The world's sshd as a target.
    pub fn target(&self) -> SshTarget {
        target(HOST)
    }

    fn start(&mut self) {
        // sshd insists on it, though it is empty.
        std::fs::create_dir_all("/run/sshd").unwrap();
        let file = |name: &str| self.path(name).display().to_string();
        let config = format!(
            "{}\nListenAddress 127.0.0.1:{}\nHostKey {}\nPidFile {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\nMaxStartups 200\nMaxSessions 50\nMaxAuthTries 20\n\
             SetEnv HOME={} XDG_CACHE_HOME={}\n",
            // First: the first value wins.
            self.extra,
            self.port,
            file("etc/host_ed25519"),
            file("etc/sshd.pid"),
            file("etc/authorized_keys"),
            file("remote"),
            self.cache.display(),
        );
        std::fs::write(self.path("etc/sshd_config"), config).unwrap();
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or_else(|| panic!("no sshd here: apt-get install openssh-server"));
        let mut command = match &self.boot {
            None => Command::new(sshd),
            Some(id) => {
                std::fs::write(self.path("etc/boot_id"), format!("{id}\n")).unwrap();
                let mut command = Command::new("unshare");
                let script = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id; exec "$@""#;
                command.args(["--mount", "--propagation=slave", "sh", "-ec", script]);
                command.arg(self.path("etc/boot_id")).arg(sshd);
                command
            }
        };
        let child = command
            .args(["-D", "-f"])
            .arg(self.path("etc/sshd_config"))
            .arg("-E")
            .arg(self.path("etc/sshd.log"))
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        self.sshd = Some(child);
        let port = self.port;
        let log = self.path("etc/sshd.log");
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < end, "sshd does not listen:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("etc/sshd.log")).unwrap_or_default()
    }

    /// Stops sshd and cuts all connections; returns when nobody listens.
    pub fn stop(&mut self) {
        self.cut();
        if let Some(mut sshd) = self.sshd.take() {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
        // A session that began meanwhile.
        self.cut();
        wait_until("nobody listens", || TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }

    /// Starts sshd again, on the same port.
    pub fn restart(&mut self) {
        if self.sshd.is_some() {
            self.stop();
        }
        self.start();
    }

    /// Starts sshd on a host that has just been booted, with this boot id; only for root.
    pub fn restart_as_booted(&mut self, id: &str) {
        self.boot = Some(id.to_owned());
        self.restart();
    }

    /// Cuts all connections, as a network would: what ran in them gets end of file.
    pub fn cut(&self) {
        self.kill(|name| name.starts_with("sshd"));
    }

    /// Kills the processes below sshd whose names are wanted; true if there was one.
    pub fn kill(&self, wanted: impl Fn(&str) -> bool) -> bool {
        let mut killed = false;
        for pid in self.sshd.iter().flat_map(|sshd| descendants(sshd.id())) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if wanted(name.trim()) {
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                killed |= rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
            }
        }
        killed
    }

    /// Sends a signal to the sessions' own sshd processes; how many there are.
    pub fn signal_sessions(&self, signal: rustix::process::Signal) -> usize {
        let mut sent = 0;
        for pid in self.sshd.iter().flat_map(|sshd| descendants(sshd.id())) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("sshd") {
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                sent += usize::from(rustix::process::kill_process(pid, signal).is_ok());
            }
        }
        sent
    }

    /// Other lines of `sshd_config`, from the next start on.
    pub fn set_extra(&mut self, extra: &str) {
        extra.clone_into(&mut self.extra);
    }

    /// How many sessions sshd serves.
    pub fn sessions(&self) -> usize {
        self.sshd.as_ref().map_or(0, |sshd| children(sshd.id()).len())
    }

    /// Our binary in this world.
    pub fn lsyncd(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lsyncd"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("USER", user())
            .env("LOGNAME", user())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_CACHE_HOME", self.path("home/.cache"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        // Without a terminal nothing can be asked.
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(())
            });
        }
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill(|_| true);
        if let Some(mut sshd) = self.sshd.take() {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
        if std::thread::panicking() {
            eprintln!("sshd's log:\n{}", self.log());
        }
    }
}

/// A target by name.
pub fn target(host: &str) -> SshTarget {
    SshTarget { user: None, host: host.into(), port: None, dir: b".".to_vec() }
}

/// Who runs the tests, and logs in.
pub fn user() -> String {
    run(Command::new("id").arg("-un")).trim().to_owned()
}

/// A port on which nobody listens.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Makes a key pair.
pub fn keygen(file: &Path, kind: &str, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", kind, "-N", passphrase, "-C", "world", "-f"]).arg(file);
    if kind == "rsa" {
        command.args(["-b", "2048"]);
    }
    run(&mut command);
}

/// Processes begun by a process.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
    }
    found
}

/// All processes below one, deepest last.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut all = children(pid);
    let mut at = 0;
    while at < all.len() {
        all.extend(children(all[at]));
        at += 1;
    }
    all
}
