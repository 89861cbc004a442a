//! The link: greeting, refusals, locks, silence, the end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use lsync_agent::ServeError;
use lsync_agent::root::{Root, boot_id};
use lsync_protocol::handshake::{Answer, Create, Refusal, Role, Standing, greet};
use lsync_protocol::message::{Message, NoList, Op, Outcome};

use super::peer::{World, meta, path, read_answer, until};

#[test]
fn the_welcome_says_what_is_there() {
    let world = World::new();
    let peer = world.connect();
    let here = peer.welcome.root.clone().unwrap();
    assert_eq!(here.identity, world.root().identity());
    assert_eq!(here.path, lsync_agent::root::path_bytes(&world.dir.path().join("root")));
    assert!(!here.created);
    assert_eq!(peer.welcome.boot, boot_id().unwrap());
    assert!(peer.bye().is_ok());
}

#[test]
fn a_missing_root_is_created_as_far_as_it_may_be() {
    let world = World::new();
    let ask = |root: &str, create| {
        let mut hello = world.hello();
        hello.root = root.into();
        hello.create = create;
        world.greet(&hello)
    };
    let refusal = |root: &str, create| ask(root, create).map(|_| ()).unwrap_err().0;
    assert_eq!(refusal("a/b", Create::Root), Refusal::NoParent);
    let peer = ask("a", Create::Root).ok().unwrap();
    assert!(peer.welcome.root.as_ref().unwrap().created);
    assert!(peer.bye().is_ok());
    assert!(ask("p/q/r", Create::Path).ok().unwrap().bye().is_ok());
    assert!(world.dir.path().join("p/q/r").is_dir());
    fs::create_dir(world.dir.path().join("home")).unwrap();
    assert!(ask("~/x", Create::Root).ok().unwrap().bye().is_ok());
    assert!(world.dir.path().join("home/x").is_dir());
    fs::write(world.dir.path().join("file"), b"").unwrap();
    assert_eq!(refusal("file", Create::Root), Refusal::Root("not a directory".into()));
    assert_eq!(refusal("file/x", Create::Path), Refusal::Root("not a directory".into()));
    assert_eq!(refusal("a\0b", Create::Root), Refusal::Root("a path with a NUL byte".into()));
    for slash in ["/", "//", "/..", "/tmp/.."] {
        assert_eq!(refusal(slash, Create::Root), Refusal::Slash, "{slash}");
    }
    let mut hello = world.hello();
    hello.role = Role::Lane(1);
    assert!(matches!(world.greet(&hello).err().unwrap().0, Refusal::Unsupported(_)));
}

#[test]
fn without_permission_to_create_nothing_is_applied() {
    let world = World::new();
    let mut hello = world.hello();
    hello.create = Create::Nothing;
    hello.root = b"missing".to_vec();
    let mut peer = world.connect_as(&hello);
    assert_eq!(peer.welcome.root, None);
    assert_eq!(peer.list(""), Ok(vec![]), "a missing root is an empty one");
    assert_eq!(peer.list("x"), Err(NoList::Missing));
    assert!(matches!(peer.file("f", b"x", meta(0o644, 1)), Some(Outcome::Problem(_))));
    assert!(peer.bye().is_ok());
    assert!(!world.dir.path().join("missing").exists());
    // Also where there is a root, and without disturbing who has it.
    let other = world.connect();
    hello.root = b"root".to_vec();
    let mut peer = world.connect_as(&hello);
    assert_eq!(peer.list(""), Ok(vec![]));
    assert!(matches!(peer.file("f", b"x", meta(0o644, 1)), Some(Outcome::Problem(_))));
    assert!(peer.bye().is_ok());
    assert!(other.bye().is_ok());
    assert!(!world.at("f").exists());
}

#[test]
fn a_target_in_above_or_upon_the_source_is_refused() {
    let world = World::new();
    fs::create_dir_all(world.at("source/deep")).unwrap();
    symlink(world.at("source"), world.dir.path().join("link")).unwrap();
    let source = Root::open(world.at("source")).unwrap();
    let mut hello = world.hello();
    hello.standing = Standing { boot: boot_id().unwrap(), upwards: source.upwards().unwrap() };
    hello.create = Create::Path;
    let table = [
        ("root/source", "the target is the source itself"),
        ("link", "the target is the source itself"),
        ("link/deep", "the target lies in the source"),
        ("root/source/deep/new/er", "the target lies in the source"),
        ("link/new", "the target lies in the source"),
        ("root", "the source lies in the target"),
    ];
    for (root, want) in table {
        hello.root = root.into();
        let (refusal, error) = world.greet(&hello).err().unwrap();
        assert_eq!(refusal, Refusal::Overlap(want.into()), "{root}");
        assert!(matches!(error, ServeError::Refused(_)));
    }
    assert!(!world.at("source/deep/new").exists() && !world.at("source/new").exists());
    hello.root = b"root/beside".to_vec();
    assert!(world.connect_as(&hello).bye().is_ok());
    // Numbers of another host say nothing.
    hello.standing.boot = [1; 16];
    hello.root = b"root".to_vec();
    assert!(world.connect_as(&hello).bye().is_ok());
}

#[test]
fn one_mirror_a_root() {
    let mut world = World::new();
    world.options.lock_wait = Duration::from_millis(200);
    let first = world.connect();
    let mut other = world.hello();
    other.mirror = [8; 16];
    other.name = "else:/where".into();
    assert_eq!(world.greet(&other).err().unwrap().0, Refusal::Busy("host:/source".into()));
    // The same mirror, in this very process: nobody is killed.
    assert_eq!(world.greet(&world.hello()).err().unwrap().0, Refusal::Locked);
    assert!(first.cut().is_ok());
    assert!(world.connect_as(&other).bye().is_ok());
}

#[test]
fn the_lock_is_there_again_when_the_old_link_ends() {
    let world = World::new();
    let first = world.connect();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        first.cut()
    });
    let began = Instant::now();
    assert!(world.connect().bye().is_ok());
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(ending.join().unwrap().is_ok());
}

#[test]
fn a_source_of_another_version_is_told() {
    let world = World::new();
    let (mut stream, agent) = world.start();
    let mut bytes = greet(&world.hello());
    bytes[8..12].copy_from_slice(&[9, 0, 9, 0]);
    stream.write_all(&bytes).unwrap();
    assert_eq!(read_answer(&mut stream), Answer::Refused(Refusal::Version));
    assert!(matches!(agent.join().unwrap(), Err(ServeError::Refused(Refusal::Version))));
}

#[test]
fn a_chatty_shell_is_no_source() {
    let world = World::new();
    let (mut stream, agent) = world.start();
    stream.write_all(b"Welcome to host!\n Last login ...").unwrap();
    assert!(matches!(agent.join().unwrap(), Err(ServeError::Greeting(_))));
}

#[test]
fn whoever_says_nothing_is_not_waited_for() {
    let mut world = World::new();
    world.options.handshake = Duration::from_millis(100);
    let (_stream, agent) = world.start();
    assert!(matches!(agent.join().unwrap(), Err(ServeError::Silent)));
}

#[test]
fn a_silent_source_is_asked_and_then_left() {
    let mut world = World::new();
    world.options.silence = Duration::from_millis(200);
    let mut peer = world.connect();
    // Who answers is not left.
    for _ in 0..5 {
        let Message::Ping(number) = peer.receive() else { panic!() };
        peer.send(&Message::Pong(number), b"");
    }
    assert!(matches!(peer.receive(), Message::Ping(1)));
    assert!(matches!(peer.receive(), Message::Ping(2)));
    assert!(matches!(peer.ended(), Err(ServeError::Silent)));
    // The root is free again, although a thread still waits for the silent one.
    assert!(world.connect().bye().is_ok());
}

#[test]
fn a_root_that_is_removed_ends_the_link() {
    let world = World::new();
    let mut peer = world.connect();
    fs::remove_dir(world.at("")).unwrap();
    let op = Op::File { path: path("f"), size: 1, meta: meta(0o644, 1) };
    peer.send_ops(vec![(op, b"x")]);
    assert_eq!(peer.ended().unwrap_err().to_string(), "the root was removed");
    // The next link makes it anew.
    let mut peer = world.connect();
    assert!(peer.welcome.root.as_ref().unwrap().created);
    assert_eq!(peer.file("f", b"x", meta(0o644, 1)), None);
    assert!(peer.bye().is_ok());
}

#[test]
fn a_source_that_asks_and_never_reads_is_left() {
    let mut world = World::new();
    world.options.silence = Duration::from_millis(200);
    for i in 0..500 {
        fs::write(world.at(format!("{i:0200}")), b"").unwrap();
    }
    let mut peer = world.connect();
    // More than may wait anywhere.
    let asked = (0..100_000u32)
        .take_while(|&request| {
            peer.try_send(
                &Message::List {
                    first: request,
                    dirs: vec![lsync_protocol::message::Asked { dir: path(""), digest: None }],
                },
                b"",
            )
        })
        .count();
    assert!(asked < 100_000);
    assert!(matches!(peer.ended(), Err(ServeError::Silent)));
    assert!(world.connect().bye().is_ok());
}

#[test]
fn goodbye_comes_after_everything() {
    let world = World::new();
    let mut peer = world.connect();
    let ops: Vec<(Op, &[u8])> = (0..2000)
        .map(|i| {
            let op = Op::File { path: path(format!("f{i}")), size: 3, meta: meta(0o644, 1) };
            (op, &b"abc"[..])
        })
        .collect();
    peer.send_ops(ops);
    peer.send(&Message::Bye, b"");
    let mut acked = 0;
    while let Ok(message) = peer.try_receive() {
        if let Message::Acks { done, .. } = message {
            acked += done.iter().map(|(_, count)| count).sum::<u64>();
        }
    }
    assert_eq!(acked, 2000);
    assert_eq!(fs::read_dir(world.at("")).unwrap().count(), 2000);
    assert!(peer.ended().is_ok());
}

#[test]
fn a_cut_link_begins_nothing_more() {
    struct Slow;
    impl lsync_agent::fault::Faults for Slow {
        fn before(
            &self,
            call: lsync_agent::fault::Call,
            _: &lsync_protocol::path::RelPath,
        ) -> Result<(), rustix::io::Errno> {
            if call == lsync_agent::fault::Call::Create {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        }
    }
    let world = World::new().with_faults(Slow);
    let mut peer = world.connect();
    let ops: Vec<(Op, &[u8])> = (0..1000)
        .map(|i| {
            let op = Op::File { path: path(format!("f{i}")), size: 3, meta: meta(0o644, 1) };
            (op, &b"abc"[..])
        })
        .collect();
    peer.send_ops(ops);
    until("something is applied", || fs::read_dir(world.at("")).unwrap().count() > 2);
    assert!(peer.cut().is_ok());
    let left = fs::read_dir(world.at("")).unwrap().count();
    assert!(left < 1000, "{left}");
    assert!(world.stages().is_empty());
    for entry in fs::read_dir(world.at("")).unwrap() {
        let mut content = Vec::new();
        fs::File::open(entry.unwrap().path()).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, b"abc");
    }
}
