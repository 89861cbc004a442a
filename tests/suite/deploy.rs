//! The agent on a host: started, copied, found again; shells that talk, hosts where nothing can be
//! put. The agent here is a shell script that does what the real one is asked for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lsyncd::config::AgentOptions;
use lsyncd::deploy::{self, Checked, Visit, install, start_agent, visit};
use lsyncd::link::process::Program;
use lsyncd::link::{Link, Remote};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ssh::{connect, script};
use super::world::{PATIENCE, World, run, wait_until};

/// An agent that says hello, then echoes. It cannot hash itself: the hash is in a file.
fn fake_agent(world: &World, name: &str) -> PathBuf {
    let path = world.path(name);
    let hash = world.path(&format!("{name}.hash"));
    script(
        &path,
        &format!(
            "case \"$1\" in --hash) cat {0};; --version) echo lsync-agent 0.1.0;; '') printf 'hello\\n'; exec cat;; *) exit 2;; esac",
            hash.display()
        ),
    );
    let content = std::fs::read(&path).unwrap();
    std::fs::write(hash, format!("{}\n", blake3::hash(&content).to_hex())).unwrap();
    path
}

fn with_binary(path: &Path) -> AgentOptions {
    AgentOptions { binary: Some(path.to_owned()), ..AgentOptions::default() }
}

/// What a shell there says of the agent.
async fn check(remote: &dyn Remote, options: &AgentOptions) -> lsyncd::error::Result<Checked> {
    visit(remote, options).await.map(|visit| match visit {
        Visit::Shell(checked) => checked,
        Visit::Fixed(_) => panic!("an agent answered"),
    })
}

/// The link stands at the agent's first byte, both ways.
async fn speaks(link: Link) {
    tokio::time::timeout(PATIENCE, speaks_at_all(link)).await.expect("the agent does not answer");
}

async fn speaks_at_all(mut link: Link) {
    let mut hello = [0; 6];
    link.reader.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello\n");
    link.writer.write_all(b"\0bytes\n").await.unwrap();
    link.writer.shutdown().await.unwrap();
    let mut rest = Vec::new();
    link.reader.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\0bytes\n");
    assert_eq!(link.ended.await.status, Some(0));
}

/// Runs commands on this host by some shell, with the far side's home.
fn shell(world: &World, words: &[&str]) -> Program {
    let home = format!("HOME={}", world.remote_home().display());
    let mut all = vec!["env", "-u", "XDG_CACHE_HOME", &home];
    all.extend(words);
    Program::new(all.into_iter().map(str::to_owned).collect(), "a shell")
}

fn error(result: Result<impl Sized, lsyncd::error::Error>) -> (String, String) {
    let error = result.err().expect("it must fail");
    (error.to_string(), error.hint_text().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_host_gets_the_agent_once() {
    let world = World::new();
    let options = with_binary(&fake_agent(&world, "agent"));
    let remote = connect(&world, &world.options()).await.unwrap();
    let before = check(&remote, &options).await.unwrap();
    assert_eq!(before.version, None);
    assert!(!world.remote_cache().exists(), "check changes nothing");

    speaks(start_agent(&remote, &options).await.unwrap()).await;
    let names = |world: &World| -> Vec<(String, std::time::SystemTime, u64)> {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(world.remote_cache()).unwrap().flatten();
        entries
            .map(|e| {
                let meta = e.metadata().unwrap();
                assert_eq!(meta.mode() & 0o777, 0o700);
                let name = e.file_name().into_string().unwrap();
                (name, meta.created().unwrap(), meta.ino())
            })
            .collect()
    };
    let first = names(&world);
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(first[0].0.starts_with("lsync-agent-0.1.0-"), "{first:?}");

    let sessions = world.log().matches("Starting session").count();
    speaks(start_agent(&remote, &options).await.unwrap()).await;
    assert_eq!(world.log().matches("Starting session").count() - sessions, 1);
    assert_eq!(names(&world), first, "not copied again");

    let after = check(&remote, &options).await.unwrap();
    assert_eq!(after.version.as_deref(), Some("lsync-agent 0.1.0"));
    assert!(after.path.ends_with(&first[0].0), "{}", after.path);
    assert!(!install(&remote, &options, false).await.unwrap().copied);
    let forced = install(&remote, &options, true).await.unwrap();
    assert!(forced.copied && forced.path == after.path);
    assert_ne!(names(&world)[0].2, first[0].2);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_agents_are_swept_and_used_ones_kept() {
    let world = World::new();
    let (old, used, new) =
        (fake_agent(&world, "old"), fake_agent(&world, "used"), fake_agent(&world, "new"));
    let remote = shell(&world, &["sh", "-c"]);
    for agent in [&old, &used] {
        install(&remote, &with_binary(agent), false).await.unwrap();
    }
    for entry in std::fs::read_dir(world.remote_cache()).unwrap().flatten() {
        run(Command::new("touch").args(["-d", "40 days ago"]).arg(entry.path()));
    }
    std::fs::write(world.remote_cache().join("notes"), "mine").unwrap();
    run(Command::new("touch").args(["-d", "40 days ago"]).arg(world.remote_cache().join("notes")));
    // A start is a use.
    speaks(start_agent(&remote, &with_binary(&used)).await.unwrap()).await;
    install(&remote, &with_binary(&new), false).await.unwrap();
    assert_eq!(check(&remote, &with_binary(&old)).await.unwrap().version, None);
    assert!(check(&remote, &with_binary(&used)).await.unwrap().version.is_some());
    assert!(world.remote_cache().join("notes").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_altered_copy_is_never_started() {
    let world = World::new();
    let options = with_binary(&fake_agent(&world, "agent"));
    // The first 150 bytes of what is sent arrive, then the end.
    let short = shell(&world, &["sh", "-c", "dd bs=1 count=150 2>/dev/null | sh -c \"$1\"", "sh"]);
    let (text, hint) = error(install(&short, &options, true).await);
    assert_eq!(text, "cannot copy the agent to a shell: it did not arrive as a whole");
    assert_eq!(hint, "try again");
    let left = || std::fs::read_dir(world.remote_cache()).unwrap().count();
    assert_eq!(left(), 0);
    std::fs::write(world.path("agent.hash"), "0000\n").unwrap();
    let (text, _) = error(start_agent(&shell(&world, &["sh", "-c"]), &options).await);
    assert!(text.contains("its content there is not what was sent"), "{text}");
    assert_eq!(left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn login_shells_of_all_kinds_understand_us() {
    let world = World::new();
    let options = with_binary(&fake_agent(&world, "agent"));
    let mut seen = Vec::new();
    for name in ["sh", "dash", "bash", "tcsh", "csh", "fish", "zsh", "ksh"] {
        let found = ["/bin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
        let must = ["sh", "dash", "bash", "tcsh", "fish"].contains(&name);
        assert!(found || !must, "{name} is missing: apt-get install tcsh fish");
        if !found {
            continue;
        }
        let _ = std::fs::remove_dir_all(world.remote_cache());
        let remote = shell(&world, &[name, "-c"]);
        // The first start copies, the second finds it.
        for _ in 0..2 {
            speaks(start_agent(&remote, &options).await.unwrap()).await;
        }
        assert!(check(&remote, &options).await.unwrap().version.is_some(), "{name}");
        let path = format!("~/.cache/lsyncd/{}", first_name(&world.remote_cache()));
        let there = AgentOptions { path: Some(path), ..AgentOptions::default() };
        speaks(start_agent(&remote, &there).await.unwrap()).await;
        assert!(check(&remote, &there).await.unwrap().version.is_some(), "{name}");
        seen.push(name);
    }
    eprintln!("login shells tried: {seen:?}");
}

fn first_name(dir: &Path) -> String {
    std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_talks_is_passed_over_and_one_that_does_not_run_us_is_told() {
    let noise = "#!/bin/sh\necho Welcome to the machine\nhead -c 40000 /dev/zero | tr '\\\\0' '.'\nexec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n";
    let world = World::new();
    let options = with_binary(&fake_agent(&world, "agent"));
    let talk = world.path("talk");
    std::fs::write(&talk, noise).unwrap();
    let mut world = world;
    world.set_extra(&format!("ForceCommand /bin/sh {}", talk.display()));
    world.restart();
    let remote = connect(&world, &world.options()).await.unwrap();
    for _ in 0..2 {
        speaks(start_agent(&remote, &options).await.unwrap()).await;
    }
    for (noise, want) in [
        ("echo This account is closed; exit 1", "it said 'This account is closed'"),
        ("yes nonsense", "its login shell says too much of its own; it said 'nonsense\\nnonsense"),
        ("echo bad >&2; exit 5", "(exit code 5: bad)"),
    ] {
        std::fs::write(&talk, noise).unwrap();
        let (text, hint) = error(start_agent(&remote, &options).await);
        assert!(text.starts_with("cannot start the agent on ") && text.contains(want), "{text}");
        assert!(hint.contains("true' must print nothing"), "{hint}");
    }
    // A fixed command that is the agent itself answers like the script.
    let forced = "read -r k; read -r n; echo \"$k run\"; printf 'hello\\n'; exec cat";
    std::fs::write(&talk, forced).unwrap();
    speaks(start_agent(&remote, &options).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_where_nothing_can_be_put_is_told_with_the_way_out() {
    let world = World::new();
    let options = with_binary(&fake_agent(&world, "agent"));
    let home = |home: &Path| {
        let words =
            ["env", "-u", "XDG_CACHE_HOME", &format!("HOME={}", home.display()), "sh", "-c"];
        Program::new(words.into_iter().map(str::to_owned).collect(), "web")
    };
    let (text, hint) = error(start_agent(&home(Path::new("/dev/null")), &options).await);
    assert!(
        text.starts_with("cannot make the directory /dev/null/.cache/lsyncd on web: "),
        "{text}"
    );
    assert!(hint.contains("--agent-path"), "{hint}");

    // No room, and no permission to execute.
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let place = world.path("mounted");
    std::fs::create_dir(&place).unwrap();
    for (mount_options, want) in
        [("size=4k", "cannot write the agent to "), ("size=1m,noexec", "cannot run the agent in ")]
    {
        let _mounted = Mounted::new(&place, mount_options);
        if mount_options == "size=4k" {
            std::fs::create_dir_all(place.join(".cache/lsyncd")).unwrap();
            std::fs::write(place.join("full"), [0; 4096]).unwrap();
        }
        let (text, hint) = error(start_agent(&home(&place), &options).await);
        assert!(text.starts_with(want) && text.contains(" on web: "), "{text}");
        assert!(hint.contains("--agent-path"), "{hint}");
        let left = std::fs::read_dir(place.join(".cache/lsyncd")).unwrap().count();
        assert_eq!(left, 0, "nothing half done stays");
    }
}

/// A small tmpfs, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(place: &Path, options: &str) -> Mounted {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place));
        Mounted(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_agent_is_used_and_nothing_is_copied() {
    let world = World::new();
    let agent = fake_agent(&world, "agent");
    let remote = shell(&world, &["sh", "-c"]);
    let named = |path: &str| AgentOptions { path: Some(path.into()), ..with_binary(&agent) };
    speaks(start_agent(&remote, &named(agent.to_str().unwrap())).await.unwrap()).await;
    assert!(!world.remote_cache().exists());
    let (text, hint) = error(start_agent(&remote, &named("/nowhere/agent")).await);
    let start = "cannot start the agent /nowhere/agent on a shell: there is no such program";
    assert_eq!(text, start);
    assert!(hint.contains("--agent-path"), "{hint}");
    let (text, _) = error(start_agent(&remote, &named("/etc/passwd")).await);
    assert!(text.ends_with("it cannot be executed"), "{text}");
    assert!(start_agent(&remote, &named("a\nb")).await.is_err());
    assert!(install(&remote, &named("/nowhere/agent"), false).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_another_kind_needs_its_own_agent() {
    let world = World::new();
    let bin = world.path("bin");
    std::fs::create_dir(&bin).unwrap();
    script(&bin.join("uname"), "echo Linux riscv64");
    let path = format!("PATH={}:/usr/bin:/bin", bin.display());
    let remote = shell(&world, &["env", &path, "sh", "-c"]);
    let none = AgentOptions { own_binary: Some("/proc/self/exe".into()), ..Default::default() };
    let (text, hint) = error(start_agent(&remote, &none).await);
    assert_eq!(text, "cannot put an agent on a shell: there is none here for Linux riscv64");
    assert!(hint.contains("--agent-binary"), "{hint}");
    // A program for this machine is not copied to that one.
    let own = std::env::current_exe().unwrap();
    let (text, _) = error(start_agent(&remote, &with_binary(&own)).await);
    assert!(text.contains("and the host is Linux riscv64"), "{text}");
    // A host that changes its kind at every question ends, too.
    script(&bin.join("uname"), "echo Linux m$$");
    let (text, _) = error(start_agent(&remote, &none).await);
    assert!(text.contains("there is none here for Linux m"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_the_middle_of_a_copy_leaves_nothing_that_starts() {
    let world = World::new();
    // Too large to be there before the cut.
    let agent = world.path("large");
    script(&agent, &format!("exit 1\n{}", "#".repeat(200 << 20)));
    let remote = connect(&world, &world.options()).await.unwrap();
    let options = with_binary(&agent);
    let copying =
        tokio::spawn(async move { deploy::install(&remote, &options, false).await.err() });
    let cache = world.remote_cache();
    wait_until("the copy has begun", || {
        std::fs::read_dir(&cache)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0))
    });
    world.cut();
    let ended = tokio::time::timeout(Duration::from_secs(20), copying).await.unwrap().unwrap();
    let text = ended.expect("a cut copy is an error").to_string();
    assert!(
        text.starts_with("cannot copy the agent to ") && text.contains("the connection "),
        "{text}"
    );
    wait_until("the half is swept by its own script", || {
        std::fs::read_dir(&cache).unwrap().count() == 0
    });
}
