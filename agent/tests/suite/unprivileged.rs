//! An agent that is not root: directories without our own permission, owners that cannot be given.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::message::{Message, Op};

use super::peer::{World, meta, path, remove};
use super::process::{AGENT, greet_process, no_problem, start};

/// A world whose root belongs to nobody, and an agent that runs as nobody.
fn nobody(world: &World) -> Option<Command> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    for dir in [world.dir.path(), &world.at("")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::os::unix::fs::chown(world.at(""), Some(65534), Some(65534)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", AGENT]);
    Some(command)
}

#[test]
fn a_directory_without_our_permission_is_opened_up_while_worked_in() {
    let world = World::new();
    let Some(command) = nobody(&world) else { return };
    let mut child = start(&world, command);
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    assert!(!peer.welcome.holds.chown);
    let m = |mode| Meta { mode: Some(mode), ..Meta::default() };
    let make = |at: &str, mode| (Op::MakeDir { path: path(at), meta: m(mode) }, &b""[..]);
    let file = |at: &str| (Op::File { path: path(at), size: 1, meta: meta(0o444, 1) }, &b"x"[..]);
    let outcomes = peer.ops(vec![
        make("d", 0o555),
        make("d/e", 0o000),
        file("d/f"),
        file("d/e/f"),
        (Op::Dir { path: path("d/e"), meta: meta(0o000, 7) }, b""),
        (Op::Dir { path: path("d"), meta: meta(0o555, 8) }, b""),
    ]);
    assert!(outcomes.iter().all(no_problem), "{outcomes:?}");
    let of = |name: &str| fs::metadata(world.at(name)).unwrap();
    assert_eq!((of("d").mode() & 0o777, of("d").mtime()), (0o555, 8));
    assert_eq!((of("d/e").mode() & 0o777, of("d/e").mtime()), (0o000, 7));
    // Later, when they are closed again; the parents are set right afterwards, as ever.
    let outcomes = peer.ops(vec![
        file("d/e/g"),
        (Op::Meta { path: path("d/e/f"), kind: Kind::File, meta: meta(0o400, 3) }, b""),
        (
            Op::Rename {
                from: path("d/e/g"),
                to: path("d/g"),
                kind: Kind::File,
                size: Some(1),
                mtime: None,
            },
            b"",
        ),
        (remove("d/e/f", Kind::File), b""),
        (remove("d/e", Kind::Dir), b""),
        (Op::Dir { path: path("d"), meta: meta(0o555, 9) }, b""),
    ]);
    assert!(outcomes.iter().all(no_problem), "{outcomes:?}");
    assert_eq!((of("d").mode() & 0o777, of("d").mtime()), (0o555, 9));
    assert!(world.at("d/g").exists() && !world.at("d/e").exists());
    // A stage too; and what nobody sets right gets its mode back at the end.
    peer.send(&Message::Open { stage: 1, hint: path("d"), size: 1 }, b"");
    peer.send(&Message::Data { stage: 1, offset: 0 }, b"s");
    let hash = *blake3::hash(b"s").as_bytes();
    let commit = Op::Commit { path: path("d/s"), stage: 1, size: 1, meta: meta(0o600, 1), hash };
    assert_eq!(peer.op(commit), None);
    peer.send(&Message::Bye, b"");
    while peer.try_receive().is_ok() {}
    assert!(child.wait().unwrap().success());
    assert_eq!(of("d").mode() & 0o777, 0o555);
}

#[test]
fn owners_that_cannot_be_given_are_one_warning() {
    let world = World::new();
    let Some(command) = nobody(&world) else { return };
    let mut child = start(&world, command);
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    let owned = Meta { uid: Some(0), gid: Some(0), ..meta(0o640, 5) };
    for i in 0..3 {
        assert_eq!(peer.file(&format!("f{i}"), b"x", owned.clone()), None);
    }
    let found = fs::metadata(world.at("f2")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777, found.mtime()), (65534, 0o640, 5));
    assert_eq!(peer.warnings, ["owners or groups cannot be set on the target: not permitted"]);
    drop(peer);
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_is_not_ours_is_one_paths_problem() {
    let world = World::new();
    let Some(command) = nobody(&world) else { return };
    fs::create_dir(world.at("roots")).unwrap();
    let mut child = start(&world, command);
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    let outcome = peer.file("roots/f", b"x", meta(0o644, 1));
    let Some(lsync_protocol::message::Outcome::Problem(trouble)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((trouble.errno, trouble.text.as_str()), (13, "permission denied"));
    assert_eq!(peer.file("f", b"x", meta(0o644, 1)), None);
    drop(peer);
    assert!(child.wait().unwrap().success());
}
