//! A key that can only mirror: the line that `lsyncd agent authorize` prints stands in the world's
//! `authorized_keys` as it is, and who logs in with it gets an agent and nothing else.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::push::{Ended, Push, Stage};
use super::ssh::script;
use super::world::{HOST, World, free_port, keygen, run, wait_until};

/// The agent's program, where the build has it.
fn agent() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lsyncd")).with_file_name("lsync-agent")
}

/// A world in which the key `id_mirror` may do what `words` allow.
fn stage(words: &[&str]) -> Stage {
    let stage = Stage::with(Some(World::brief()));
    fs::create_dir(stage.target()).unwrap();
    let root = stage.target().display().to_string();
    let path = agent().display().to_string();
    allow(stage.world(), &[&["--root", &root, "--agent-path", &path], words].concat());
    stage
}

/// Prints a line with these words, and has it in `authorized_keys` behind those that are there.
fn allow(world: &World, words: &[&str]) -> String {
    let key = world.key("id_mirror");
    if !key.exists() {
        keygen(&key, "ed25519", "");
    }
    let line = run(world.lsyncd().args(["agent", "authorize", "-i"]).arg(key).args(words));
    assert!(line.starts_with("restrict,command=\"") && line.ends_with(" world\n"), "{line}");
    let keys = world.path("etc/authorized_keys");
    let mut keys = fs::OpenOptions::new().append(true).open(keys).unwrap();
    keys.write_all(line.as_bytes()).unwrap();
    line
}

/// `lsyncd COMMAND -i id_mirror …`
fn lsyncd(stage: &Stage, command: &[&str]) -> Command {
    let mut lsyncd = stage.lsyncd();
    lsyncd.args(command).arg("-i").arg(stage.world().key("id_mirror"));
    lsyncd
}

/// `lsyncd push` with that key, to a directory of its own choice.
fn push(stage: &Stage, words: &[&str], to: &str) -> Push {
    let mut command = lsyncd(stage, &["push", "--json"]);
    command.args(words).arg(stage.source()).arg(format!("{HOST}:{to}"));
    Push::start(command)
}

fn verify(stage: &Stage, words: &[&str]) -> Ended {
    let mut command = lsyncd(stage, &["verify", "--json"]);
    command.args(words).arg(stage.source()).arg(format!("{HOST}:anywhere"));
    Push::start(command).end()
}

/// The system's ssh with that key alone.
fn ssh(world: &World, program: &str) -> Command {
    let mut command = Command::new(program);
    command.arg("-F").arg(world.ssh_config());
    command.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i"]);
    command.arg(world.key("id_mirror")).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> Output {
    let mut timed = Command::new("timeout");
    timed.arg("20").arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    timed.output().unwrap()
}

/// The agents that were put on the far side.
fn agents(world: &World) -> Vec<OsString> {
    let names = fs::read_dir(world.remote_cache()).unwrap().flatten().map(|e| e.file_name());
    let mut names: Vec<_> = names.filter(|n| n.as_encoded_bytes().starts_with(b"lsync-")).collect();
    names.sort();
    names
}

/// What `agent check --json` found, behind what it did.
fn facts(said: &str) -> serde_json::Value {
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

fn texts(push: &Push) -> Vec<String> {
    push.events("fixed").iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_mirror_starts_lives_and_comes_back_with_such_a_key() {
    let world = World::new();
    let install = run(world.lsyncd().args(["agent", "install", HOST]));
    let lasting = world.remote_cache().join("lsync-agent");
    assert!(install.contains(&format!("lasting: {}", lasting.display())), "{install}");
    // Not the home itself: that the agent refuses.
    let root = world.remote_home().join("it's my \"mirror\" $HOME");
    fs::create_dir(&root).unwrap();
    let line = allow(&world, &["--root", root.to_str().unwrap(), HOST]);
    assert!(line.contains("command=\"~/.cache/lsyncd/lsync-agent --root '"), "{line}");
    let before = agents(&world);
    let mut stage = Stage::with(Some(world));
    fs::write(stage.s("f"), "first").unwrap();
    let elsewhere = stage.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("theirs"), "untouched").unwrap();
    let push = push(&stage, &[], elsewhere.to_str().unwrap());
    push.wait_event("ready");
    let shown = root.display();
    assert_eq!(texts(&push), [format!("the host fixes the directory for this key: {shown}")]);
    assert_eq!(fs::read(root.join("f")).unwrap(), b"first");
    fs::write(stage.s("f"), "second").unwrap();
    wait_until("a change arrives", || fs::read(root.join("f")).unwrap() == b"second");
    stage.world().cut();
    fs::write(stage.s("f"), "third").unwrap();
    fs::remove_file(stage.s("f")).unwrap();
    fs::write(stage.s("g"), vec![7; 3 << 20]).unwrap();
    push.wait_event("reconnected");
    wait_until("it goes on", || {
        !root.join("f").exists() && fs::metadata(root.join("g")).is_ok_and(|g| g.len() == 3 << 20)
    });
    stage.world_mut().restart();
    fs::write(stage.s("h"), "after").unwrap();
    wait_until("it goes on once more", || root.join("h").exists());
    assert_eq!(texts(&push).len(), 1, "said once");
    push.terminate();
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    assert_eq!(fs::read(elsewhere.join("theirs")).unwrap(), b"untouched");
    assert_eq!(agents(stage.world()), before, "nothing was copied");

    let check = run(lsyncd(&stage, &["agent", "check", HOST]).arg("--json"));
    let facts = facts(&check);
    assert_eq!(facts["root"], root.to_str().unwrap());
    assert_eq!((&facts["writes"], &facts["deletes"]), (&"yes".into(), &"yes".into()));
    assert!(facts["landlock"].as_str().unwrap().ends_with("in force"));
    let refused = lsyncd(&stage, &["agent", "install", HOST]).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("starts an agent whatever it is asked"), "{text}");
}

#[test]
fn the_systems_ssh_with_such_a_key_mirrors_too() {
    let stage = stage(&[]);
    fs::write(stage.s("f"), "x").unwrap();
    let key = stage.world().key("id_mirror");
    let ssh = format!(
        "ssh -F {} -o IdentitiesOnly=yes -i {}",
        stage.world().ssh_config().display(),
        key.display()
    );
    let to = format!("{}/", stage.target().display());
    let ended = push(&stage, &["--once", "--ssh-command", &ssh], &to).end().fine();
    assert_eq!(ended.events("fixed"), Vec::<serde_json::Value>::new(), "it is as was asked");
    stage.settles();
}

#[test]
fn with_such_a_key_nothing_else_can_be_done() {
    let stage = stage(&[]);
    let world = stage.world();
    fs::write(stage.t("kept"), "x").unwrap();
    let target = stage.target().display().to_string();
    let shell = output(ssh(world, "ssh").arg(HOST).arg(format!("rm -rf {target}")));
    assert_eq!(shell.status.code(), Some(255));
    let said = String::from_utf8_lossy(&shell.stderr).into_owned();
    assert!(said.contains("this key is for a mirror by lsyncd, and for nothing else"), "{said}");
    assert!(shell.stdout.is_empty());
    let login = output(ssh(world, "ssh").args(["-tt", HOST]));
    assert_ne!(login.status.code(), Some(0));
    let said = String::from_utf8_lossy(&login.stderr).into_owned();
    assert!(said.contains("PTY allocation request failed"), "{said}");
    let local = stage.path("local");
    fs::write(&local, "x").unwrap();
    for (from, to) in [
        (local.display().to_string(), format!("{HOST}:{target}/copied")),
        (format!("{HOST}:{target}/kept"), stage.path("stolen").display().to_string()),
    ] {
        for how in ["-s", "-O"] {
            let copy = output(ssh(world, "scp").args([how, &from, &to]));
            assert_ne!(copy.status.code(), Some(0), "{from} {to} {how}");
        }
    }
    assert!(!stage.path("stolen").exists());
    let port = free_port();
    let forward = output(ssh(world, "ssh").args(["-W", &format!("127.0.0.1:{port}"), HOST]));
    assert_ne!(forward.status.code(), Some(0));
    let said = String::from_utf8_lossy(&forward.stderr).into_owned();
    assert!(said.contains("administratively prohibited"), "{said}");
    let names: Vec<_> = fs::read_dir(stage.target()).unwrap().flatten().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(fs::read(stage.t("kept")).unwrap(), b"x");
}

#[test]
fn with_no_delete_names_stay_and_nobody_asks_again() {
    let stage = stage(&["--no-delete"]);
    fs::write(stage.s("a"), "a").unwrap();
    fs::write(stage.t("extra"), "x").unwrap();
    let push = push(&stage, &["--rescan", "1"], "anywhere");
    push.wait_event("ready");
    let said = texts(&push);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said.iter().any(|text| text.contains("the host deletes nothing for this key")),
        "{said:?}"
    );
    fs::remove_file(stage.s("a")).unwrap();
    // As an editor saves, and a rename to a name that is free.
    fs::write(stage.s("doc"), "1").unwrap();
    wait_until("doc arrives", || stage.t("doc").exists());
    fs::write(stage.s(".doc.swp"), "22").unwrap();
    wait_until("its new version arrives", || stage.t(".doc.swp").exists());
    fs::rename(stage.s(".doc.swp"), stage.s("doc")).unwrap();
    wait_until("doc is new", || fs::read(stage.t("doc")).unwrap() == b"22");
    assert!(!stage.t(".doc.swp").exists());
    fs::create_dir(stage.s("d")).unwrap();
    stage.barrier();
    fs::rename(stage.s("d"), stage.s("e")).unwrap();
    fs::write(stage.s("e/f"), "f").unwrap();
    wait_until("e/f arrives", || stage.t("e/f").exists());
    stage.barrier();
    assert!(stage.t("a").exists() && stage.t("extra").exists());
    stage.world().cut();
    fs::remove_file(stage.s("doc")).unwrap();
    push.wait_event("reconnected");
    stage.barrier();
    assert!(stage.t("doc").exists());
    assert_eq!(texts(&push).len(), 2, "said once");
    assert!(push.events("problem").is_empty(), "{}", push.said());
    push.terminate();
    // What is not deleted is no difference, as with --delete no.
    assert_eq!(verify(&stage, &[]).code, Some(0));
    fs::write(stage.t("e/f"), "damaged").unwrap();
    assert_eq!(verify(&stage, &[]).code, Some(24));
    assert_eq!(verify(&stage, &["--heal"]).code, Some(0));
    assert_eq!(fs::read(stage.t("e/f")).unwrap(), b"f");
    assert!(stage.t("extra").exists());
}

#[test]
fn with_read_only_a_mirror_is_refused_and_verify_works() {
    let stage = stage(&["--read-only"]);
    for root in [stage.source(), stage.target()] {
        fs::write(root.join("same"), "same").unwrap();
    }
    fs::write(stage.s("new"), "x").unwrap();
    fs::write(stage.t("extra"), "x").unwrap();
    let refused = push(&stage, &[], "anywhere").end();
    assert_eq!(refused.code, Some(255));
    let root = stage.target().display().to_string();
    let want = format!("the key that we log in with may only read {root}");
    assert!(refused.err.contains(&want), "{refused:?}");
    rustix::fs::setxattr(stage.s("same"), "user.colour", b"blue", rustix::fs::XattrFlags::empty())
        .unwrap();
    let found = verify(&stage, &["--no-times"]);
    let warned = found.events("warning").pop().unwrap();
    assert!(warned["text"].as_str().unwrap().contains("our key may only read there"), "{warned}");
    assert_eq!(found.code, Some(24), "{found:?}");
    let mut paths: Vec<_> =
        found.events("difference").iter().map(|line| line["path"].to_string()).collect();
    paths.sort();
    assert_eq!(paths, ["\"extra\"", "\"new\""], "{found:?}");
    assert_eq!(verify(&stage, &["--heal"]).code, Some(255));
    let dry = push(&stage, &["-n"], "anywhere").end().fine();
    assert!(!dry.events("op").is_empty(), "{dry:?}");
    let names = fs::read_dir(stage.target()).unwrap().count();
    assert_eq!(names, 2, "nothing came, and nothing went");
    let check = run(lsyncd(&stage, &["agent", "check", HOST]).arg("--json"));
    let facts = facts(&check);
    assert_eq!((&facts["writes"], &facts["deletes"]), (&"no".into(), &"no".into()));
}

#[test]
fn what_does_not_fit_says_what_to_do() {
    let stage = stage(&[]);
    fs::write(stage.s("f"), "x").unwrap();
    // The directory is not there: it is for the target's side to make.
    fs::remove_dir(stage.target()).unwrap();
    let ended = push(&stage, &["--once"], "anywhere").end();
    assert_eq!(ended.code, Some(255));
    let root = stage.target().display().to_string();
    let want = format!("cannot serve {root}: no such file or directory");
    assert!(ended.err.contains(&want), "{ended:?}");
    assert!(ended.err.contains("authorized_keys there has a command for this key"), "{ended:?}");
    assert!(!stage.target().exists());

    // An agent of another age.
    let old = stage.path("lsync-agent-old");
    script(
        &old,
        "read -r k; printf '%s run fixed 0.0.1\\n' \"$k\"; printf '\\307lsync\\r\\n\\11\\0\\11\\0\\0\\0\\0\\0'; cat >/dev/null",
    );
    let keys = stage.world().path("etc/authorized_keys");
    let lines = fs::read_to_string(&keys).unwrap();
    let now = agent().display().to_string();
    fs::write(&keys, lines.replace(&now, old.to_str().unwrap())).unwrap();
    let ended = push(&stage, &["--once"], "anywhere").end();
    assert_eq!(ended.code, Some(255));
    assert!(ended.err.contains("the agent 0.0.1 on "), "{ended:?}");
    assert!(ended.err.contains("speaks versions 9 to 9 of the wire"), "{ended:?}");
    assert!(ended.err.contains("put lsync-agent "), "{ended:?}");
}

/// sshd gives a command to the login shell, whichever that is.
#[test]
fn every_login_shell_understands_the_command() {
    let world = World::brief();
    let root = world.path("it's my \"mirror\" $HOME `x` \u{e9}");
    fs::create_dir(&root).unwrap();
    // A home that holds the agent, and whose name a shell would take apart.
    let bin = world.home().join("my bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(agent(), bin.join("lsync-agent")).unwrap();
    let words = ["--root", root.to_str().unwrap(), "--agent-path", "~/my bin/lsync-agent"];
    let line = allow(&world, &words);
    // As sshd reads it: `\"` is a quote, and nothing else is anything.
    let option = line.strip_prefix("restrict,command=\"").unwrap();
    let command = option[..option.rfind("\" ssh-ed25519").unwrap()].replace("\\\"", "\"");
    let mut tried = 0;
    for shell in ["sh", "dash", "bash", "tcsh", "csh", "fish", "zsh", "ksh"] {
        let mut started = match Command::new(shell)
            .arg("-c")
            .arg(&command)
            .env("HOME", world.home())
            .current_dir(world.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        {
            Ok(started) => started,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{shell}: {error}"),
        };
        tried += 1;
        let mut input = started.stdin.take().unwrap();
        input.write_all(b"lsyncd-1\n").unwrap();
        let mut said = String::new();
        BufReader::new(started.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("lsyncd-1 run fixed "), "{shell}: {said}");
        drop(input);
        assert_eq!(started.wait().unwrap().code(), Some(255), "{shell}: nobody greeted");
    }
    assert!(tried >= 4, "apt-get install tcsh fish");
}
