//! Bad input: what is said, the hint, and the exit code, word by word.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::super::ssh::script;
use super::super::tree::chmod;
use super::super::world::{free_port, user};
use super::{Ended, Push, Stage, Way, is_root};

/// What was said on standard error, with what differs from run to run masked.
fn masked(stage: &Stage, ended: &Ended) -> String {
    let mut text = ended.err.clone();
    text = text.replace(&stage.path("").display().to_string(), "DIR/");
    text = text.replace(stage.path("x").parent().unwrap().to_str().unwrap(), "DIR");
    if let Some(world) = &stage.world {
        text = text.replace(world.path("home").to_str().unwrap(), "HOME");
        text = text.replace(world.path("remote").to_str().unwrap(), "REMOTE");
        text = text.replace(&world.port().to_string(), "PORT");
        text = text.replace(&world.fingerprint(), "FINGERPRINT");
        text = text.replace(&world.host_key(), "KEY");
        text = text.replace(env!("CARGO_TARGET_TMPDIR"), "TMP");
    }
    text.replace(&format!("user {}", user()), "user ME")
}

/// Runs it and checks all that it says.
#[track_caller]
fn says(stage: &Stage, command: Command, code: i32, expected: &str) {
    let ended = Push::start(command).end();
    let text = masked(stage, &ended);
    assert_eq!((ended.code, text.as_str()), (Some(code), expected), "{}", ended.err);
}

fn push(stage: &Stage, words: &[&str]) -> Command {
    let mut command = stage.lsyncd();
    command.current_dir(stage.path("x").parent().unwrap()).arg("push").args(words);
    command
}

#[test]
fn sources_that_are_none() {
    let stage = Stage::new(Way::Local);
    says(
        &stage,
        push(&stage, &["none", "target"]),
        255,
        "lsyncd: cannot mirror none: no such file or directory\n\
         hint: SOURCE is an existing directory; its contents are mirrored\n",
    );
    fs::write(stage.path("file"), "x").unwrap();
    says(
        &stage,
        push(&stage, &["file", "target"]),
        255,
        "lsyncd: cannot mirror file: not a directory\n\
         hint: name the directory it is in, and choose it by --include NAME --exclude '*'\n",
    );
    says(
        &stage,
        push(&stage, &["host:dir", "target"]),
        255,
        "lsyncd: cannot mirror host:dir: no such file or directory\n\
         hint: the source is a directory of this host; run lsyncd where the source is\n",
    );
    if is_root() {
        chmod(stage.path("x").parent().unwrap(), 0o777);
        fs::create_dir_all(stage.path("closed/source")).unwrap();
        chmod(&stage.path("closed"), 0o700);
        let mut command = push(&stage, &["closed/source", "target"]);
        command.uid(65_534).gid(65_534);
        says(
            &stage,
            command,
            255,
            "lsyncd: cannot mirror closed/source: permission denied\n\
             hint: run lsyncd as a user who may read it\n",
        );
        // It can be found, but not read.
        chmod(&stage.source(), 0o711);
        let mut command = push(&stage, &["source", "target"]);
        command.uid(65_534).gid(65_534);
        says(
            &stage,
            command,
            255,
            "lsyncd: cannot read the source DIR/source: permission denied\n\
             hint: run lsyncd as a user who may read it\n",
        );
        assert!(!stage.target().exists());
    }
}

#[test]
fn targets_that_cannot_be() {
    for way in super::WAYS {
        let stage = Stage::new(way);
        fs::write(stage.path("file"), "x").unwrap();
        let deep = stage.on_the_way(&stage.path("no/where"));
        let ended = Push::start(push(&stage, &["source", &deep])).end();
        assert_eq!(ended.code, Some(255), "{ended:?}");
        let text = "the directory above it does not exist\nhint: create it, or give --mkpath\n";
        assert!(ended.err.starts_with("lsyncd: cannot create /"), "{ended:?}");
        assert!(ended.err.ends_with(text), "{ended:?}");
        let file = stage.on_the_way(&stage.path("file"));
        let ended = Push::start(push(&stage, &["source", &file])).end();
        assert_eq!(ended.code, Some(255), "{ended:?}");
        assert!(ended.err.contains("not a directory"), "{ended:?}");
        let ended = Push::start(push(&stage, &["source", &format!("{file}/beneath")])).end();
        assert_eq!(ended.code, Some(255), "{ended:?}");
        assert!(ended.err.contains("not a directory"), "{ended:?}");
    }
    if is_root() {
        let stage = Stage::new(Way::Local);
        chmod(stage.path("x").parent().unwrap(), 0o755);
        let mut command = push(&stage, &["source", "target"]);
        command.uid(65_534).gid(65_534);
        let ended = Push::start(command).end();
        assert_eq!(ended.code, Some(255), "{ended:?}");
        assert!(ended.err.contains("permission denied"), "{ended:?}");
        assert!(!stage.target().exists());
    }
}

#[test]
fn hosts_that_are_not_there() {
    let stage = Stage::new(Way::Local);
    let unknown = Push::start(push(&stage, &["source", "no-such-host.invalid:dir"])).end();
    assert_eq!(unknown.code, Some(255), "{unknown:?}");
    assert!(unknown.err.starts_with("lsyncd: cannot "), "{unknown:?}");
    assert!(unknown.err.contains("no-such-host.invalid"), "{unknown:?}");
    assert!(unknown.err.contains("\nhint: "), "{unknown:?}");
    let port = free_port();
    let closed = Push::start(push(&stage, &["source", &format!("ssh://127.0.0.1:{port}/x")])).end();
    assert_eq!(closed.code, Some(255), "{closed:?}");
    assert!(closed.err.contains("connection refused\nhint: "), "{closed:?}");
    // Somebody listens, but it is no ssh server.
    let other = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut peer, _) = other.accept().unwrap();
        let _ = peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = peer.read(&mut [0; 100]);
    });
    let ended = Push::start(push(&stage, &["source", &format!("ssh://127.0.0.1:{port}/x")])).end();
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert!(ended.err.starts_with("lsyncd: ") && ended.err.contains("127.0.0.1"), "{ended:?}");
    thread.join().unwrap();
}

#[test]
fn host_keys_and_logins_that_are_refused() {
    let stage = Stage::new(Way::Ssh);
    let world = stage.world();
    fs::write(world.known_hosts(), "").unwrap();
    let ended = Push::start(stage.command::<&str>(&[])).end();
    let text = masked(&stage, &ended);
    assert_eq!(ended.code, Some(255), "{text}");
    let first = "lsyncd: the host key of world is not known: ssh-ed25519 FINGERPRINT\nhint: ";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("StrictHostKeyChecking accept-new"), "{text}");

    let other = fs::read_to_string(world.public("id_ed25519")).unwrap();
    fs::write(world.known_hosts(), format!("[127.0.0.1]:{} {other}", world.port())).unwrap();
    let ended = Push::start(stage.command::<&str>(&[])).end();
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert!(ended.err.contains("HAS CHANGED") && ended.err.contains("hint: "), "{ended:?}");

    world.write_known_hosts("");
    fs::write(world.path("etc/authorized_keys"), "").unwrap();
    let ended = Push::start(stage.command::<&str>(&[])).end();
    let text = masked(&stage, &ended);
    assert_eq!(ended.code, Some(255), "{text}");
    let first = "lsyncd: authentication refused by world for user ME: tried HOME/.ssh/id_ed25519";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("\nhint: ") && text.contains("ssh-copy-id"), "{text}");
    assert!(!stage.target().exists());
}

#[test]
fn remote_shells_that_print_noise_do_no_harm() {
    let mut stage = Stage::new(Way::Ssh);
    fs::write(stage.s("a"), "a").unwrap();
    let noisy = stage.path("noisy");
    script(
        &noisy,
        "echo 'Welcome to this host!'; printf '\\0\\377\\nnoise'; echo err >&2\neval \"$SSH_ORIGINAL_COMMAND\"",
    );
    stage.world_mut().set_extra(&format!("ForceCommand {}", noisy.display()));
    stage.world_mut().restart();
    let ended = stage.once(&[]).fine();
    super::wait_equal(&stage.source(), &stage.target());
    assert!(ended.events("problem").is_empty());
    // Nothing but noise.
    script(&noisy, "echo 'This account is not available.'; exit 1");
    let ended = stage.once_plain(&[]);
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert!(ended.err.contains("This account is not available"), "{ended:?}");
    // Noise for ever.
    script(&noisy, "exec yes");
    let ended = stage.once_plain(&[]);
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert!(ended.err.contains("world"), "{ended:?}");
}

#[test]
fn agents_that_are_not_ours() {
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("a"), "a").unwrap();
    let agent = stage.path("agent");
    let with = ["--agent-path", agent.to_str().unwrap()];
    let ended = stage.once_plain(&with);
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert!(ended.err.contains("hint: ") && ended.err.contains("--agent-path"), "{ended:?}");
    for (what, body) in [
        ("ends at once", "exit 0"),
        ("fails", "echo 'cannot run today' >&2; exit 9"),
        ("garbage", "head -c 100000 /dev/zero"),
        ("more garbage", "cat /dev/urandom"),
        ("an echo", "exec cat"),
    ] {
        script(&agent, body);
        let ended = stage.once_plain(&with);
        assert_eq!(ended.code, Some(255), "{what}: {ended:?}");
        assert!(ended.err.starts_with("lsyncd: "), "{what}: {ended:?}");
        assert!(ended.err.contains("world"), "{what}: no host: {ended:?}");
        if what == "fails" {
            assert!(ended.err.contains("cannot run today"), "{ended:?}");
        }
        assert!(!stage.target().exists());
    }
}

#[test]
fn an_agent_of_another_version_is_told_and_how_to_mend_it() {
    let stage = Stage::new(Way::Ssh);
    let agent = stage.path("agent");
    // The magic bytes, versions 7 to 9, an empty body; then it reads what it is told.
    script(&agent, r"printf '\307lsync\r\n\007\000\011\000\000\000\000\000'; exec cat >/dev/null");
    let ended = stage.once_plain(&["--agent-path", agent.to_str().unwrap()]);
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert!(ended.err.contains("speaks versions 7 to 9 of the wire"), "{ended:?}");
    assert!(ended.err.contains("hint: ") && ended.err.contains("agent install"), "{ended:?}");
    assert!(!stage.target().exists());
}

#[test]
fn a_place_for_the_agent_that_is_none() {
    let mut stage = Stage::new(Way::Ssh);
    // A cache directory that cannot be: a file is in its place.
    let file = stage.path("file");
    fs::write(&file, "x").unwrap();
    let extra = format!("SetEnv XDG_CACHE_HOME={0} HOME={0}", file.display());
    stage.world_mut().set_extra(&extra);
    stage.world_mut().restart();
    let ended = stage.once_plain(&[]);
    assert_eq!(ended.code, Some(255), "{ended:?}");
    assert!(ended.err.contains("world") && ended.err.contains("hint: "), "{ended:?}");
    assert!(ended.err.contains("--agent-path"), "{ended:?}");
}

#[test]
fn a_garbled_stream_ends_the_link_and_not_the_program() {
    let stage = Stage::new(Way::Ssh);
    fs::write(stage.s("a"), "a").unwrap();
    // The agent that is deployed, but after the first 300 bytes its words are garbage.
    stage.once(&[]).fine();
    let cache = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cache/lsyncd");
    let newest = fs::read_dir(cache)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("lsync-agent-"))
        .max_by_key(|entry| entry.metadata().unwrap().modified().unwrap())
        .unwrap();
    let agent = stage.path("garbler");
    let body = format!(
        "{} \"$@\" | {{ dd bs=1 count=300 2>/dev/null; sleep 1; head -c 70000 /dev/urandom; }}",
        newest.path().display()
    );
    script(&agent, &body);
    let mut push = stage.begin(&["--agent-path", agent.to_str().unwrap()]);
    for count in 1..3 {
        let mut i = 0;
        super::wait_until("the garbage comes", || {
            i += 1;
            fs::write(stage.s("b"), format!("{i}")).unwrap();
            push.events("lost").len() >= count
        });
    }
    assert!(push.is_running(), "{}", push.said());
    push.terminate();
    assert_eq!(fs::read(stage.t("a")).unwrap(), b"a");
}
