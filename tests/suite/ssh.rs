//! ssh against a real OpenSSH server: keys, known hosts, ways through, and every way to fail.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lsyncd::config::{SshOptions, SshTarget};
use lsyncd::error::Error;
use lsyncd::link::process::Program;
use lsyncd::link::ssh::config::{Asked, Parser, Proxy, Strict};
use lsyncd::link::ssh::prompt::{Ask, Nobody};
use lsyncd::link::ssh::{Connection, connect_asking, files};
use lsyncd::link::{LinkEnd, Remote};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::world::{HOST, PASSPHRASE, World, free_port, keygen, run, target, user, wait_until};

/// Answers every question alike and counts them.
struct Always(&'static str, AtomicUsize);

impl Always {
    fn new(answer: &'static str) -> Arc<Always> {
        Arc::new(Always(answer, AtomicUsize::new(0)))
    }
}

impl Ask for Always {
    fn present(&self) -> bool {
        true
    }

    fn ask(&self, _: &str, _: bool) -> Option<String> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Some(self.0.to_owned())
    }
}

pub async fn connect(world: &World, options: &SshOptions) -> Result<Connection, Error> {
    connect_asking(&world.target(), options, Arc::new(Nobody)).await
}

async fn output(remote: &dyn Remote, command: &str) -> (String, LinkEnd) {
    let mut link = remote.exec(command).await.unwrap();
    link.writer.shutdown().await.unwrap();
    let mut out = String::new();
    link.reader.read_to_string(&mut out).await.unwrap();
    (out, link.ended.await)
}

/// Connects and runs a command.
async fn works(world: &World, options: &SshOptions) {
    let connection = connect(world, options).await.unwrap();
    assert_eq!(output(&connection, "echo hello").await.0, "hello\n");
}

async fn fails(world: &World, options: &SshOptions) -> (String, String) {
    told(connect(world, options).await)
}

fn told(result: Result<Connection, Error>) -> (String, String) {
    let error = result.err().expect("it must fail");
    (error.to_string(), error.hint_text().unwrap_or_default().to_owned())
}

fn with_key(world: &World, name: &str) -> SshOptions {
    SshOptions { identities: vec![world.key(name)], ..world.options() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_and_tells_how_it_ended() {
    let world = World::new();
    let connection = connect(&world, &world.options()).await.unwrap();
    let (out, end) = output(&connection, "echo $HOME; echo oh >&2; exit 7").await;
    assert_eq!(out.trim(), world.remote_home().to_str().unwrap());
    assert_eq!((end.status, end.stderr.as_slice()), (Some(7), &b"oh\n"[..]));
    let (_, end) = output(&connection, "kill -KILL $$").await;
    assert_eq!(end.signal.as_deref(), Some("KILL"));
    // Standard input reaches it, and its end.
    let mut link = connection.exec("cat; echo end").await.unwrap();
    link.writer.write_all(b"bytes ").await.unwrap();
    drop(link.writer);
    let mut out = String::new();
    link.reader.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "bytes end\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_log_in() {
    let world = World::new();
    world.write_ssh_config("IdentityFile none\n");
    world.authorize("id_ecdsa", "ecdsa", "");
    world.authorize("id_rsa", "rsa", "");
    for name in ["id_ed25519", "id_rsa", "id_ecdsa"] {
        works(&world, &with_key(&world, name)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_is_asked_for_only_on_a_terminal() {
    let world = World::new();
    world.write_ssh_config("IdentityFile none\n");
    world.authorize_locked();
    let options = with_key(&world, "id_locked");
    let (text, hint) = fails(&world, &options).await;
    let tried =
        format!("tried {} (needs a passphrase, no terminal)", world.key("id_locked").display());
    assert!(text.contains(&tried), "{text}");
    assert!(hint.contains("ssh-add"), "{hint}");

    let wrong = Always::new("wrong");
    let (text, _) = told(connect_asking(&world.target(), &options, wrong.clone()).await);
    assert!(text.contains("no right passphrase"), "{text}");
    assert_eq!(wrong.1.load(Ordering::SeqCst), 3);

    let right = Always::new(PASSPHRASE);
    for _ in 0..2 {
        let connected = connect_asking(&world.target(), &options, right.clone()).await;
        assert_eq!(output(&connected.unwrap(), "echo in").await.0, "in\n");
    }
    // A reconnect asks nothing.
    assert_eq!(right.1.load(Ordering::SeqCst), 1);
}

/// A real ssh-agent, gone when dropped.
struct SshAgent(Child);

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ssh_agent(world: &World, keys: &[&str]) -> (SshAgent, SshOptions) {
    let socket = world.path("agent.sock");
    let child = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("apt-get install openssh-client");
    let agent = SshAgent(child);
    wait_until("the ssh-agent listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let askpass = world.path("askpass");
    script(&askpass, &format!("echo '{PASSPHRASE}'"));
    for key in keys {
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(world.key(key)).env("SSH_AUTH_SOCK", &socket);
        run(add.env("SSH_ASKPASS", &askpass).env("SSH_ASKPASS_REQUIRE", "force"));
    }
    let options = SshOptions { auth_sock: Some(socket), ..world.options() };
    (agent, options)
}

/// Writes a shell script.
pub fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ssh_agent_logs_in() {
    for key in ["id_ed25519", "id_rsa", "id_locked"] {
        let world = World::new();
        match key {
            "id_rsa" => world.authorize(key, "rsa", ""),
            "id_locked" => world.authorize_locked(),
            _ => {}
        }
        world.write_ssh_config("IdentityFile none\n");
        let (_agent, options) = ssh_agent(&world, &[key]);
        works(&world, &options).await;
    }
    // A key named by its file needs no passphrase if the agent holds it; others are kept back.
    let world = World::with("MaxAuthTries 2");
    world.authorize_locked();
    world.write_ssh_config("IdentitiesOnly yes\nIdentityFile ~/.ssh/id_locked\n");
    let (agent, options) = ssh_agent(&world, &["id_stranger", "id_locked"]);
    works(&world, &options).await;
    drop(agent);
    let (text, _) = fails(&world, &options).await;
    assert!(text.contains("ssh-agent at") && text.contains("agent.sock ("), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_lists_what_was_tried() {
    let world = World::new();
    world.write_ssh_config("IdentityFile ~/.ssh/id_stranger\nIdentityFile ~/.ssh/missing\n");
    let (_agent, options) = ssh_agent(&world, &["id_stranger"]);
    let (text, hint) = fails(&world, &options).await;
    let start = format!("authentication refused by {HOST} for user {}: tried ", user());
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains("agent key world (refused)"), "{text}");
    assert!(text.contains("/missing (no such file)"), "{text}");
    assert!(hint.contains("ssh-copy-id"), "{hint}");
    // Without any key.
    world.write_ssh_config("IdentityFile none\n");
    let (text, hint) = fails(&world, &world.options()).await;
    assert!(text.ends_with("there was no key to try"), "{text}");
    assert!(hint.contains("-i FILE"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_keys_end_calmly() {
    let world = World::with("MaxAuthTries 2");
    let mut names = String::new();
    for i in 0..25 {
        let name = format!("id_x{i}");
        keygen(&world.key(&name), "ed25519", "");
        names += &format!("IdentityFile ~/.ssh/{name}\n");
    }
    world.write_ssh_config(&names);
    let (text, hint) = fails(&world, &world.options()).await;
    assert!(text.contains("Too many authentication failures"), "{text}");
    assert!(hint.contains("IdentitiesOnly"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_ends_calmly() {
    let world = World::with("PasswordAuthentication yes\nAuthenticationMethods password");
    world.write_ssh_config("IdentityFile none\n");
    let (text, _) = fails(&world, &world.options()).await;
    assert!(text.contains("password (no terminal to ask on)"), "{text}");
    let wrong = Always::new("certainly wrong");
    let (text, _) = told(connect_asking(&world.target(), &world.options(), wrong.clone()).await);
    assert!(text.contains("password (refused), password (refused), password (refused)"), "{text}");
    assert_eq!(wrong.1.load(Ordering::SeqCst), 3);
    world.write_ssh_config("IdentityFile none\nBatchMode yes\n");
    let batch = Always::new("x");
    told(connect_asking(&world.target(), &world.options(), batch.clone()).await);
    assert_eq!(batch.1.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_key_is_refused_and_can_be_accepted() {
    let world = World::new();
    std::fs::write(world.known_hosts(), "").unwrap();
    let (text, hint) = fails(&world, &world.options()).await;
    let want = format!("the host key of {HOST} is not known: ssh-ed25519 {}", world.fingerprint());
    assert_eq!(text, want);
    for way in ["ssh-keyscan -p", "StrictHostKeyChecking accept-new", "ssh_host_ed25519_key.pub"] {
        assert!(hint.contains(way), "{hint}");
    }
    let config = std::fs::read_to_string(world.ssh_config()).unwrap();
    for more in
        ["StrictHostKeyChecking accept-new\n", "StrictHostKeyChecking no\nHashKnownHosts yes\n"]
    {
        std::fs::write(world.known_hosts(), "# no newline at the end").unwrap();
        world.write_ssh_config(&format!("IdentityFile ~/.ssh/id_ed25519\n{more}"));
        works(&world, &world.options()).await;
        // Written as OpenSSH understands it.
        let name = format!("[127.0.0.1]:{}", world.port());
        let found =
            run(Command::new("ssh-keygen").args(["-F", &name, "-f"]).arg(world.known_hosts()));
        assert!(found.contains(&world.host_key()), "{found}");
        std::fs::write(world.ssh_config(), &config).unwrap();
        works(&world, &world.options()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hashed_and_portless_names_are_known() {
    let world = World::new();
    run(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(world.known_hosts()));
    let text = std::fs::read_to_string(world.known_hosts()).unwrap();
    assert!(text.starts_with("|1|"), "{text}");
    works(&world, &world.options()).await;
    std::fs::write(world.known_hosts(), format!("127.0.0.1 {}\n", world.host_key())).unwrap();
    works(&world, &world.options()).await;
    world.write_ssh_config("IdentityFile ~/.ssh/id_ed25519\nHostKeyAlias alias\n");
    fails(&world, &world.options()).await;
    std::fs::write(world.known_hosts(), format!("alias {}\n", world.host_key())).unwrap();
    works(&world, &world.options()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_revoked_host_key_is_refused_whatever_is_configured() {
    let world = World::new();
    world.write_ssh_config("IdentityFile ~/.ssh/id_ed25519\nStrictHostKeyChecking no\n");
    let other = std::fs::read_to_string(world.public("id_stranger")).unwrap();
    keygen(&world.key("id_rsa"), "rsa", "");
    let rsa = std::fs::read_to_string(world.public("id_rsa")).unwrap();
    for key in [&other, &rsa] {
        let line = format!("# first\n[127.0.0.1]:{} {key}", world.port());
        std::fs::write(world.known_hosts(), &line).unwrap();
        let (text, hint) = fails(&world, &world.options()).await;
        assert!(text.contains("HAS CHANGED"), "{text}");
        assert!(text.contains(&format!("{}:2 has ", world.known_hosts().display())), "{text}");
        assert!(text.contains(&world.fingerprint()), "{text}");
        assert!(hint.contains("ssh-keygen -f"), "{hint}");
        assert_eq!(std::fs::read_to_string(world.known_hosts()).unwrap(), line);
    }
    world.write_known_hosts(&format!("@revoked * {}\n", world.host_key()));
    let (text, _) = fails(&world, &world.options()).await;
    assert!(text.contains("REVOKED") && text.ends_with("known_hosts:2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn host_certificates_are_checked() {
    let mut world = World::new();
    let authority = world.path("etc/ca");
    keygen(&authority, "ed25519", "");
    let sign = |principals: &str, validity: &str| {
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-q", "-h", "-I", "x", "-n", principals, "-V", validity, "-s"]);
        run(sign.arg(&authority).arg(world.path("etc/host_ed25519.pub")));
    };
    let public = std::fs::read_to_string(world.path("etc/ca.pub")).unwrap();
    let trusted = format!("@cert-authority [127.0.0.*]:* {public}");
    let certificate = world.path("etc/host_ed25519-cert.pub");
    sign("127.0.0.1", "-1d:+1d");
    world.set_extra(&format!("HostCertificate {}", certificate.display()));
    world.restart();
    std::fs::write(world.known_hosts(), &trusted).unwrap();
    works(&world, &world.options()).await;
    // An authority that nobody trusts is worth nothing.
    std::fs::write(world.known_hosts(), "").unwrap();
    let (text, _) = fails(&world, &world.options()).await;
    assert!(text.contains("is not known"), "{text}");
    for (principals, validity, why) in
        [("elsewhere", "-1d:+1d", "it is not for 127.0.0.1"), ("127.0.0.1", "-2d:-1d", "expired")]
    {
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-q", "-h", "-I", "x", "-n", principals, "-V", validity, "-s"]);
        run(sign.arg(&authority).arg(world.path("etc/host_ed25519.pub")));
        world.restart();
        std::fs::write(world.known_hosts(), &trusted).unwrap();
        let (text, _) = fails(&world, &world.options()).await;
        assert!(text.contains("is not valid") && text.contains(why), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_reached_through_others() {
    let world = World::new();
    let host = |name: &str, jump: &str| {
        format!(
            "Host {name}\nHostName 127.0.0.1\nPort {}\nUser {}\nProxyJump {jump}\n",
            world.port(),
            user()
        )
    };
    let base = std::fs::read_to_string(world.ssh_config()).unwrap();
    let text = [
        host("inner", HOST),
        host("deep", "inner,second"),
        host("second", "none"),
        host("loop", "loop"),
        base,
    ]
    .concat()
        + "IdentityFile ~/.ssh/id_ed25519\n".replace("~", world.home().to_str().unwrap()).as_str();
    std::fs::write(world.ssh_config(), text).unwrap();
    for name in ["inner", "deep"] {
        let before = world.log().matches("Accepted publickey").count();
        let connection =
            connect_asking(&target(name), &world.options(), Arc::new(Nobody)).await.unwrap();
        assert_eq!(output(&connection, "echo far").await.0, "far\n");
        let logins = world.log().matches("Accepted publickey").count() - before;
        assert_eq!(logins, if name == "inner" { 2 } else { 4 }, "{name}");
    }
    let connection =
        connect_asking(&target("inner"), &world.options(), Arc::new(Nobody)).await.unwrap();
    bulk(&connection, 64 << 20).await;
    let (text, hint) =
        told(connect_asking(&target("loop"), &world.options(), Arc::new(Nobody)).await);
    assert!(text.contains("more than 8 hosts") && hint.contains("ProxyJump"), "{text}");
    // Nobody listens behind the first host.
    let closed = SshTarget { port: Some(free_port()), ..target("inner") };
    let (text, _) = told(connect_asking(&closed, &world.options(), Arc::new(Nobody)).await);
    assert!(text.contains("through world: it cannot connect to it"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_reached_through_a_command() {
    let world = World::new();
    let config = world.path("through");
    std::fs::copy(world.ssh_config(), &config).unwrap();
    world.write_ssh_config(&format!(
        "IdentityFile ~/.ssh/id_ed25519\nProxyCommand ssh -F {} -W %h:%p {HOST}\n",
        config.display()
    ));
    works(&world, &world.options()).await;
    world.write_ssh_config("ProxyCommand echo the gate is closed >&2; exit 1\n");
    let (text, _) = fails(&world, &world.options()).await;
    assert!(text.contains("ProxyCommand") && text.contains("the gate is closed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_not_to_arrive_has_its_own_text() {
    let world = World::new();
    let to = |host: &str, port: u16| SshTarget { port: Some(port), ..target(host) };
    let reach = |target: SshTarget| {
        let options = world.options();
        async move { told(connect_asking(&target, &options, Arc::new(Nobody)).await) }
    };
    let port = free_port();
    let (text, hint) = reach(to("127.0.0.1", port)).await;
    assert_eq!(text, format!("cannot connect to 127.0.0.1 port {port}: connection refused"));
    assert!(hint.contains("-p PORT"), "{hint}");

    let (text, _) = reach(to("nowhere.invalid", 22)).await;
    assert!(text.starts_with("cannot find the host nowhere.invalid: "), "{text}");

    // Somebody else listens there.
    let (listener, port) = listener();
    let server = std::thread::spawn(move || {
        for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(answer.as_bytes()).unwrap();
            // Closing with unread bytes would reset the connection and lose the answer.
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        }
        listener
    });
    let (text, hint) = reach(to("127.0.0.1", port)).await;
    let want =
        format!("127.0.0.1 port {port} is no ssh server: it says 'HTTP/1.1 400 Bad Request'");
    assert_eq!(text, want);
    assert!(hint.contains("-p PORT"), "{hint}");
    let (text, _) = reach(to("127.0.0.1", port)).await;
    assert!(text.contains("closed the connection before it said"), "{text}");
    let listener = server.join().unwrap();

    // It accepts and stays silent.
    world.write_ssh_config("ConnectTimeout 1\n");
    let start = Instant::now();
    let (text, _) = reach(to("127.0.0.1", port)).await;
    assert!(text.ends_with("no answer within 1 seconds"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(listener);
}

fn listener() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_ends_its_links_and_says_why() {
    let mut world = World::new();
    let connection = connect(&world, &world.options()).await.unwrap();
    let mut link = connection.exec("echo up; exec cat").await.unwrap();
    let mut line = [0; 3];
    link.reader.read_exact(&mut line).await.unwrap();
    world.cut();
    let end = tokio::time::timeout(Duration::from_secs(20), link.ended).await.unwrap();
    assert_eq!((end.status, end.signal.as_deref()), (None, None));
    assert!(end.describe().contains("connection was closed"), "{}", end.describe());
    assert_eq!(link.reader.read(&mut line).await.unwrap(), 0);
    assert!(link.writer.write_all(&[0; 1 << 20]).await.is_err());
    let error = connection.exec("true").await.err().unwrap().to_string();
    assert!(error.starts_with("cannot run a command on "), "{error}");
    world.stop();
    let (text, _) = fails(&world, &world.options()).await;
    assert!(text.contains("connection refused"), "{text}");
    world.restart();
    works(&world, &world.options()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_answering_is_noticed_even_while_we_write() {
    let world = World::new();
    world.write_ssh_config(
        "IdentityFile ~/.ssh/id_ed25519\nServerAliveInterval 1\nServerAliveCountMax 1\n",
    );
    let connection = connect(&world, &world.options()).await.unwrap();
    let mut link = connection.exec("cat >/dev/null").await.unwrap();
    link.writer.write_all(b"x").await.unwrap();
    let stopped = world.signal_sessions(rustix::process::Signal::STOP);
    assert!(stopped > 0);
    let flood = async {
        let piece = vec![0; 1 << 20];
        while link.writer.write_all(&piece).await.is_ok() {}
    };
    tokio::time::timeout(Duration::from_secs(20), flood).await.expect("the write never fails");
    let end = tokio::time::timeout(Duration::from_secs(20), link.ended).await.unwrap();
    assert!(end.describe().contains("the server has stopped"), "{}", end.describe());
}

/// Sends `size` bytes to a remote `cat` and back, and compares.
async fn bulk(remote: &dyn Remote, size: usize) {
    let link = remote.exec("cat").await.unwrap();
    let (mut reader, mut writer) = (link.reader, link.writer);
    let send = tokio::spawn(async move {
        let piece: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
        for _ in 0..size >> 20 {
            writer.write_all(&piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut buffer = vec![0; 1 << 20];
    let mut got = 0;
    let mut hasher = blake3::Hasher::new();
    loop {
        let n = reader.read(&mut buffer).await.unwrap();
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        got += n;
    }
    send.await.unwrap();
    assert_eq!(got, size);
    let piece: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
    let mut want = blake3::Hasher::new();
    (0..size >> 20).for_each(|_| {
        want.update(&piece);
    });
    assert_eq!(hasher.finalize(), want.finalize());
    assert_eq!(link.ended.await.status, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_goes_both_ways_at_a_sane_rate() {
    let world = World::new();
    let start = Instant::now();
    let connection = connect(&world, &world.options()).await.unwrap();
    let connected = start.elapsed();
    output(&connection, "true").await;
    eprintln!("connected in {connected:?}, first command done in {:?}", start.elapsed());
    let start = Instant::now();
    bulk(&connection, 256 << 20).await;
    let rate = 256.0 / start.elapsed().as_secs_f64();
    eprintln!("{rate:.0} MiB/s to cat and back");
    // Far below what any machine does, far above what single bytes or 40 ms waits would give.
    assert!(rate > 10.0, "{rate} MiB/s");
    // A link that nobody reads holds up none of the others.
    let idle = connection.exec("yes | head -c 8000000; cat").await.unwrap();
    bulk(&connection, 8 << 20).await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_link_ends_its_command() {
    let world = World::new();
    let connection = connect(&world, &world.options()).await.unwrap();
    let mark = world.path("remote/ended");
    let command = format!("cat >/dev/null; touch {}", mark.display());
    drop(connection.exec(&command).await.unwrap());
    wait_until("the command saw its end of file", || mark.exists());
    assert!(!connection.is_closed());
    drop(connection);
    wait_until("the session is gone", || world.sessions() == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_ssh_does_as_well() {
    let world = World::new();
    let words = ["ssh", "-F", world.ssh_config().to_str().unwrap()].map(str::to_owned);
    let options = SshOptions { command: Some(words.to_vec()), ..world.options() };
    let ssh = Program::for_ssh(&world.target(), &options).unwrap();
    let (out, end) = output(&ssh, "echo by ssh; exit 4").await;
    assert_eq!((out.as_str(), end.status), ("by ssh\n", Some(4)));
    bulk(&ssh, 16 << 20).await;
    let closed = SshOptions { port: Some(free_port()), ..options };
    let ssh = Program::for_ssh(&world.target(), &closed).unwrap();
    let (_, end) = output(&ssh, "true").await;
    assert_eq!(end.status, Some(255));
    assert!(end.describe().contains("Connection refused"), "{}", end.describe());
}

/// What `ssh -G` says of a keyword.
fn by_ssh(dump: &str, keyword: &str) -> Vec<String> {
    let lines = dump.lines().filter_map(|l| l.split_once(' ')).filter(|(k, _)| *k == keyword);
    lines.map(|(_, v)| v.to_owned()).collect()
}

#[test]
fn the_configuration_is_read_as_ssh_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("a.conf"), "Host web?\n  Port 2201\nHost *\n  User included\n").unwrap();
    std::fs::write(file("b.conf"), "ConnectTimeout 9\nHost nobody\nPort 1\n").unwrap();
    let text = format!(
        r#"# a configuration with everything that is easily misread
IdentityFile ~/.ssh/first
Include {dir}/a.conf
Host web1 web2 !web3
    HostName=%h.example.org
    IdentityFile "~/my keys/second"
    ProxyJump gate,user@inner:2222
    ServerAliveInterval 7
    HostKeyAlias  alias1
Host !web1 web*
    HostName other.example.org
    ProxyCommand nc -x "proxy host:1080" %h %p
    StrictHostKeyChecking accept-new
    ServerAliveCountMax 9
    CertificateFile ~/cert
Match host *.example.org user included
    Compression yes
    IdentitiesOnly yes
    UserKnownHostsFile /k1 "/k 2"
Match originalhost db,cache !user nobody
    Port = 5432
    IdentityAgent none
    BatchMode yes
host DB
    port 9
Include {dir}/*.conf
Host *
    Port 2299
    User last
    AddressFamily inet
    BindAddress 127.0.0.1
"#,
        dir = dir.path().display()
    );
    let config = file("config");
    std::fs::write(&config, text).unwrap();
    for name in ["web1", "web2", "web3", "webX", "db", "DB", "cache", "nobody", "10.0.0.1"] {
        let out = run(Command::new("ssh").arg("-G").arg("-F").arg(&config).arg(name));
        let asked = Asked { host: name.into(), local_user: user(), ..Asked::default() };
        let options = SshOptions { config: Some(config.clone()), ..SshOptions::default() };
        let mut parser = Parser::new(&asked);
        files::read_all(&mut parser, &options).unwrap();
        let ours = parser.finish();
        let same = |keyword: &str, ours: Option<String>| {
            let ssh = by_ssh(&out, keyword);
            // Unsaid: ssh shows its default, which `Host` has from elsewhere.
            if let Some(ours) = ours {
                assert_eq!(ssh, [ours], "{keyword} of {name}");
            } else {
                let default = match keyword {
                    "hostname" => vec![name.to_lowercase(), name.to_owned()],
                    "user" => vec![user()],
                    "port" => vec!["22".into()],
                    // Debian's ssh asks a server every 300 s in batch mode.
                    "serveraliveinterval" => vec!["0".into(), "300".into()],
                    "serveralivecountmax" => vec!["3".into()],
                    "connecttimeout" => vec!["none".into()],
                    "identitiesonly" | "batchmode" => vec!["no".into()],
                    "addressfamily" => vec!["any".into()],
                    "stricthostkeychecking" => vec!["ask".into()],
                    _ => vec![],
                };
                assert!(
                    ssh.is_empty() || default.contains(&ssh[0]),
                    "{keyword} of {name}: {ssh:?}"
                );
            }
        };
        let yes = |b: bool| if b { "yes".to_owned() } else { "no".to_owned() };
        same("hostname", ours.host_name.clone().map(|h| h.replace("%h", name)));
        same("user", ours.user.clone());
        same("port", ours.port.map(|p| p.to_string()));
        same("serveraliveinterval", ours.alive_interval.map(|d| d.as_secs().to_string()));
        same("serveralivecountmax", ours.alive_count.map(|n| n.to_string()));
        same("connecttimeout", ours.connect_timeout.map(|d| d.as_secs().to_string()));
        same("identitiesonly", ours.identities_only.map(yes));
        same("batchmode", ours.batch_mode.map(yes));
        same("hostkeyalias", ours.host_key_alias.clone());
        same("identityagent", ours.identity_agent.clone());
        same("bindaddress", ours.bind_address.clone());
        let strict = ours.strict.map(|s| match s {
            Strict::AcceptNew => "accept-new".to_owned(),
            Strict::Refuse => "ask".to_owned(),
        });
        same("stricthostkeychecking", strict);
        let (jump, command) = match ours.proxy.clone() {
            Some(Proxy::Jump(hops)) => (Some(hops.join(",")), None),
            Some(Proxy::Command(command)) => (None, Some(command)),
            _ => (None, None),
        };
        same("proxyjump", jump);
        same("proxycommand", command);
        assert_eq!(by_ssh(&out, "identityfile"), ours.identity_files, "{name}");
        assert_eq!(by_ssh(&out, "certificatefile"), ours.certificate_files, "{name}");
        if let Some(known) = ours.user_known_hosts {
            assert_eq!(by_ssh(&out, "userknownhostsfile"), [known.join(" ")], "{name}");
        }
    }
}
