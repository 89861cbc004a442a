//! Every operation with every outcome it can have.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Mutex;

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::entry::{Kind, Meta, Time};
use lsync_protocol::message::{Message, Op, Outcome};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::peer::{World, meta, path, remove};

fn mode_of(world: &World, name: &str) -> u32 {
    fs::symlink_metadata(world.at(name)).unwrap().mode() & 0o7777
}

#[test]
fn files_are_made_and_replaced_with_their_attributes() {
    let world = World::new();
    let mut peer = world.connect();
    assert_eq!(peer.file("f", b"one", meta(0o640, 1000)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), b"one");
    let found = fs::metadata(world.at("f")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.mtime(), found.mtime_nsec()), (0o640, 1000, 5));
    let mut reader = fs::File::open(world.at("f")).unwrap();
    assert_eq!(peer.file("f", b"two!", meta(0o4755, 2000)), None);
    assert_eq!(
        (fs::read(world.at("f")).unwrap(), mode_of(&world, "f")),
        (b"two!".to_vec(), 0o4755)
    );
    let mut old = String::new();
    std::io::Read::read_to_string(&mut reader, &mut old).unwrap();
    assert_eq!(old, "one", "whoever has the old file open keeps it");
    assert_eq!(peer.file("empty", b"", meta(0o600, 1)), None);
    assert_eq!(fs::metadata(world.at("empty")).unwrap().len(), 0);
    // Several in one directory take the short way after the first.
    for i in 0..5 {
        assert_eq!(peer.file(&format!("g{i}"), b"x", meta(0o604, 7)), None);
        assert_eq!(mode_of(&world, &format!("g{i}")), 0o604);
    }
    let many = (0..5)
        .map(|i| {
            let op = Op::File { path: path(format!("h{i}")), size: 1, meta: meta(0o200 + i, 7) };
            (op, &b"y"[..])
        })
        .collect();
    assert_eq!(peer.ops(many), vec![None; 5]);
    for i in 0..5 {
        assert_eq!(mode_of(&world, &format!("h{i}")), 0o200 + i);
    }
    // Over a link and a FIFO: the name is replaced, nothing is followed.
    symlink("f", world.at("l")).unwrap();
    assert_eq!(peer.file("l", b"file now", meta(0o600, 1)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), b"two!");
    assert!(fs::symlink_metadata(world.at("l")).unwrap().is_file());
    assert!(peer.bye().is_ok());
    assert!(world.stages().is_empty());
}

#[test]
fn owners_are_set_and_setuid_survives_them() {
    let world = World::new();
    let mut peer = world.connect();
    if !peer.welcome.holds.chown {
        return;
    }
    let owned = Meta { uid: Some(1234), gid: Some(4321), ..meta(0o6755, 1) };
    assert_eq!(peer.file("f", b"x", owned.clone()), None);
    assert_eq!(
        peer.op(Op::MakeDir { path: path("d"), meta: Meta { mtime: None, ..owned.clone() } }),
        None
    );
    let link =
        Op::Symlink { path: path("l"), link: b"to".to_vec(), meta: Meta { mode: None, ..owned } };
    assert_eq!(peer.op(link), None);
    for name in ["f", "d", "l"] {
        let found = fs::symlink_metadata(world.at(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 4321), "{name}");
    }
    assert_eq!((mode_of(&world, "f"), mode_of(&world, "d")), (0o6755, 0o6755));
    // Several: the short way is taken only where the owner is the one a new file gets.
    let many: Vec<(Op, &[u8])> = [Some(1234), None, Some(0), Some(1)]
        .into_iter()
        .enumerate()
        .map(|(i, uid)| {
            let meta = Meta { uid, ..meta(0o644, 1) };
            (Op::File { path: path(format!("m{i}")), size: 1, meta }, &b"x"[..])
        })
        .collect();
    assert_eq!(peer.ops(many), vec![None; 4]);
    let uids = (0..4).map(|i| fs::metadata(world.at(format!("m{i}"))).unwrap().uid());
    assert_eq!(uids.collect::<Vec<_>>(), [1234, 0, 0, 1]);
}

#[test]
fn a_mode_that_is_not_carried_stays() {
    let world = World::new();
    fs::write(world.at("old"), b"x").unwrap();
    fs::set_permissions(world.at("old"), fs::Permissions::from_mode(0o751)).unwrap();
    let mut peer = world.connect();
    let none = Meta::default();
    assert_eq!(peer.file("old", b"new", none.clone()), None);
    assert_eq!(peer.file("new", b"new", none.clone()), None);
    assert_eq!(peer.op(Op::MakeDir { path: path("d"), meta: none }), None);
    let modes = ["old", "new", "d"].map(|name| mode_of(&world, name));
    assert_eq!(modes, [0o751, 0o644, 0o755]);
}

#[test]
fn directories_are_made_once_and_set_later() {
    let world = World::new();
    let mut peer = world.connect();
    let make = |at: &str, mode| Op::MakeDir {
        path: path(at),
        meta: Meta { mtime: None, ..meta(mode, 0) },
    };
    assert_eq!(peer.op(make("d", 0o750)), None);
    assert_eq!(peer.op(make("d", 0o2711)), None);
    assert_eq!(mode_of(&world, "d"), 0o2711);
    assert_eq!(peer.op(make("d/e/f", 0o700)), Some(Outcome::NoParent));
    assert_eq!(peer.file("f", b"", meta(0o600, 0)), None);
    symlink("d", world.at("l")).unwrap();
    assert_eq!(peer.op(make("f", 0o700)), Some(Outcome::Occupied(Kind::File)));
    assert_eq!(peer.op(make("l", 0o700)), Some(Outcome::Occupied(Kind::Symlink)));
    assert_eq!(peer.op(make("l/x", 0o700)), Some(Outcome::NoParent), "no link is followed");
    let set = |at: &str, sec| Op::Dir { path: path(at), meta: meta(0o705, sec) };
    assert_eq!(peer.op(set("d", 77)), None);
    let found = fs::metadata(world.at("d")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.mtime()), (0o705, 77));
    assert_eq!(peer.op(set("", 78)), None);
    assert_eq!(fs::metadata(world.at("")).unwrap().mtime(), 78);
    assert_eq!(peer.op(make("", 0o711)), None);
    assert_eq!(mode_of(&world, ""), 0o711);
    assert_eq!(peer.op(set("x", 1)), Some(Outcome::Missing));
    assert_eq!(peer.op(set("f/x", 1)), Some(Outcome::Missing));
    assert_eq!(peer.op(set("f", 1)), Some(Outcome::Occupied(Kind::File)));
    assert_eq!(peer.op(set("l", 1)), Some(Outcome::Occupied(Kind::Symlink)));
}

#[test]
fn a_directory_is_never_replaced_by_something_else() {
    let world = World::new();
    let mut peer = world.connect();
    fs::create_dir_all(world.at("d")).unwrap();
    let occupied = Some(Outcome::Occupied(Kind::Dir));
    assert_eq!(peer.file("d", b"x", meta(0o600, 1)), occupied);
    assert_eq!(peer.file("", b"x", meta(0o600, 1)), occupied);
    let link =
        |at: &str| Op::Symlink { path: path(at), link: b"x".to_vec(), meta: Meta::default() };
    assert_eq!(peer.op(link("d")), occupied);
    assert_eq!(peer.op(link("x/y")), Some(Outcome::NoParent));
    assert_eq!(peer.file("x/y", b"x", meta(0o600, 1)), Some(Outcome::NoParent));
    assert!(world.at("d").is_dir());
    assert!(world.stages().is_empty());
}

#[test]
fn links_are_made_as_they_are_and_replaced() {
    let world = World::new();
    let mut peer = world.connect();
    let link = |to: &[u8], sec| Op::Symlink {
        path: path("l"),
        link: to.to_vec(),
        meta: Meta { mode: None, ..meta(0, sec) },
    };
    for (to, sec) in [(&b"../../etc/\xff"[..], 5), (b"other", 6)] {
        assert_eq!(peer.op(link(to, sec)), None);
        let found = fs::read_link(world.at("l")).unwrap();
        assert_eq!(std::os::unix::ffi::OsStrExt::as_bytes(found.as_os_str()), to);
        assert_eq!(fs::symlink_metadata(world.at("l")).unwrap().mtime(), sec);
    }
    // What the kernel does not take is one path's problem.
    let outcome = peer.op(link(b"", 1));
    assert!(matches!(outcome, Some(Outcome::Problem(_))), "{outcome:?}");
}

#[test]
fn attributes_alone() {
    let world = World::new();
    let mut peer = world.connect();
    fs::write(world.at("f"), b"x").unwrap();
    symlink("f", world.at("l")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, world.at("p"), fifo, mode, 0).unwrap();
    let set = |at: &str, kind| Op::Meta { path: path(at), kind, meta: meta(0o640, 99) };
    for (name, kind) in [("f", Kind::File), ("l", Kind::Symlink), ("p", Kind::Fifo)] {
        assert_eq!(peer.op(set(name, kind)), None, "{name}");
        let found = fs::symlink_metadata(world.at(name)).unwrap();
        assert_eq!(found.mtime(), 99, "{name}");
        assert_eq!(found.mode() & 0o7777, if name == "l" { 0o777 } else { 0o640 }, "{name}");
    }
    assert_eq!(peer.op(set("x", Kind::File)), Some(Outcome::Missing));
    assert_eq!(peer.op(set("x/y", Kind::File)), Some(Outcome::Missing));
    assert_eq!(peer.op(set("l", Kind::File)), Some(Outcome::Occupied(Kind::Symlink)));
    assert_eq!(peer.op(set("f", Kind::Symlink)), Some(Outcome::Occupied(Kind::File)));
    assert_eq!(peer.op(set("", Kind::File)), Some(Outcome::Occupied(Kind::Dir)));
}

#[test]
fn names_are_removed_by_name_and_kind() {
    let world = World::new();
    let mut peer = world.connect();
    fs::create_dir_all(world.at("d/e")).unwrap();
    fs::write(world.at("f"), b"x").unwrap();
    symlink("d", world.at("l")).unwrap();
    let table = [
        ("x", Kind::File, Some(Outcome::Missing)),
        ("x/y", Kind::File, Some(Outcome::Missing)),
        ("f/y", Kind::File, Some(Outcome::Missing)),
        ("l/e", Kind::Dir, Some(Outcome::Missing)),
        ("f", Kind::Dir, Some(Outcome::Occupied(Kind::File))),
        ("d", Kind::File, Some(Outcome::Occupied(Kind::Dir))),
        ("l", Kind::Dir, Some(Outcome::Occupied(Kind::Symlink))),
        ("d", Kind::Dir, Some(Outcome::NotEmpty)),
        ("d/e", Kind::Dir, None),
        ("d", Kind::Dir, None),
        ("l", Kind::Symlink, None),
        ("f", Kind::File, None),
    ];
    for (name, kind, want) in table {
        assert_eq!(peer.op(remove(name, kind)), want, "{name} {kind:?}");
    }
    assert_eq!(fs::read_dir(world.at("")).unwrap().count(), 0);
}

#[test]
fn dead_stages_do_not_keep_a_directory() {
    let world = World::new();
    let mut peer = world.connect();
    for name in ["d", "other"] {
        fs::create_dir(world.at(name)).unwrap();
    }
    fs::write(world.at("d/.lsync-07070707-12345678"), b"dead").unwrap();
    fs::write(world.at("other/.lsync-08080808-12345678"), b"another mirror's").unwrap();
    assert_eq!(peer.op(remove("d", Kind::Dir)), None);
    assert_eq!(peer.op(remove("other", Kind::Dir)), Some(Outcome::NotEmpty));
    fs::create_dir(world.at("e")).unwrap();
    fs::create_dir(world.at("to")).unwrap();
    fs::write(world.at("to/.lsync-07070707-12345678"), b"dead").unwrap();
    let rename =
        Op::Rename { from: path("e"), to: path("to"), kind: Kind::Dir, size: None, mtime: None };
    assert_eq!(peer.op(rename), None);
}

#[test]
fn a_rename_is_done_only_if_the_old_name_is_what_it_should_be() {
    let world = World::new();
    let mut peer = world.connect();
    fs::write(world.at("f"), b"12345").unwrap();
    fs::write(world.at("there"), b"x").unwrap();
    fs::create_dir_all(world.at("d/in")).unwrap();
    fs::create_dir_all(world.at("empty")).unwrap();
    fs::create_dir_all(world.at("full/in")).unwrap();
    let found = fs::metadata(world.at("f")).unwrap();
    let mtime = Time { sec: found.mtime(), nsec: found.mtime_nsec() as u32 };
    let wrong = Time { sec: mtime.sec - 1, ..mtime };
    let rename = |from: &str, to: &str, kind, size, mtime| Op::Rename {
        from: path(from),
        to: path(to),
        kind,
        size,
        mtime,
    };
    let refused = Some(Outcome::Refused);
    let (file, dir) = (Kind::File, Kind::Dir);
    let table = [
        (rename("x", "y", file, None, None), refused.clone()),
        (rename("x/x", "y", file, None, None), refused.clone()),
        (rename("f", "y", dir, None, None), refused.clone()),
        (rename("f", "y", file, Some(4), None), refused.clone()),
        (rename("f", "y", file, Some(5), Some(wrong)), refused.clone()),
        (rename("f", "x/y", file, Some(5), Some(mtime)), Some(Outcome::NoParent)),
        (rename("f", "empty", file, None, None), refused.clone()),
        (rename("d", "there", dir, None, None), refused.clone()),
        (rename("d", "full", dir, None, None), refused),
    ];
    for (op, want) in table {
        assert_eq!(peer.op(op.clone()), want, "{op:?}");
        assert_eq!(fs::read(world.at("f")).unwrap(), b"12345");
        assert!(world.at("d/in").is_dir());
    }
    assert_eq!(peer.op(rename("f", "there", file, Some(5), Some(mtime))), None);
    assert_eq!(fs::read(world.at("there")).unwrap(), b"12345");
    assert_eq!(peer.op(rename("d", "empty", dir, None, None)), None);
    assert!(world.at("empty/in").is_dir() && !world.at("d").exists());
    assert_eq!(peer.op(rename("empty", "full/e", dir, Some(1), None)), None, "size is of files");
    // Two names of one file: afterwards there is one.
    fs::hard_link(world.at("there"), world.at("same")).unwrap();
    assert_eq!(peer.op(rename("there", "same", file, None, None)), None);
    assert!(!world.at("there").exists() && world.at("same").exists());
}

#[test]
fn a_change_of_kind_is_one_operation() {
    let world = World::new();
    let mut peer = world.connect();
    let file = |at: &str| Op::File { path: path(at), size: 1, meta: meta(0o644, 5) };
    let dir = |at: &str| Op::MakeDir {
        path: path(at),
        meta: Meta { mode: Some(0o755), ..Meta::default() },
    };
    let link =
        |at: &str| Op::Symlink { path: path(at), link: b"to".to_vec(), meta: Meta::default() };
    let replace = |old, new| Op::Replace { old, new: Box::new(new) };
    let mut one = |op: Op| {
        let content: &[u8] = if op.inline_size() == 1 { b"x" } else { b"" };
        peer.ops(vec![(op, content)]).remove(0)
    };
    fs::create_dir_all(world.at("a/full")).unwrap();
    assert_eq!(one(replace(Kind::Dir, file("a"))), Some(Outcome::NotEmpty));
    assert!(world.at("a/full").is_dir());
    assert_eq!(one(replace(Kind::File, file("a"))), Some(Outcome::Occupied(Kind::Dir)));
    fs::remove_dir(world.at("a/full")).unwrap();
    assert_eq!(one(replace(Kind::Dir, file("a"))), None);
    assert!(world.at("a").is_file());
    assert_eq!(one(replace(Kind::File, link("a"))), None);
    assert!(world.at("a").is_symlink());
    assert_eq!(one(replace(Kind::Symlink, dir("a"))), None);
    assert!(world.at("a").is_dir());
    assert_eq!(mode_of(&world, "a"), 0o755);
    assert_eq!(one(replace(Kind::Dir, link("a"))), None);
    assert_eq!(one(replace(Kind::Symlink, file("a"))), None);
    assert_eq!(one(replace(Kind::Fifo, file("new"))), None, "nothing there is no obstacle");
    assert_eq!(one(replace(Kind::Dir, file("x/y"))), Some(Outcome::NoParent));
    assert!(world.stages().is_empty());
}

/// Fails the calls of one class about one path.
struct Failing(Mutex<Option<(Call, RelPath, Errno)>>);

impl Faults for Failing {
    fn before(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        match &*self.0.lock().unwrap() {
            Some((c, p, error)) if *c == call && p == path => Err(*error),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_call_that_fails_is_one_paths_problem_and_leaves_it_as_it_was() {
    let calls = [Call::Create, Call::Write, Call::Meta, Call::Place, Call::Sync];
    for (call, errno, text) in calls
        .map(|call| (call, Errno::NOSPC, "no space left on device"))
        .into_iter()
        .chain([(Call::Parent, Errno::IO, "input/output error")])
    {
        let at = if call == Call::Parent { "" } else { "f" };
        let faults = Failing(Mutex::new(Some((call, path(at), errno))));
        let world = World::new().with_faults(faults);
        fs::write(world.at("f"), b"old").unwrap();
        let mut hello = world.hello();
        hello.fsync = true;
        let mut peer = world.connect_as(&hello);
        let Some(Outcome::Problem(trouble)) = peer.file("f", b"new", meta(0o644, 1)) else {
            panic!("{call:?} did not fail")
        };
        assert_eq!((trouble.errno, trouble.text.as_str()), (errno.raw_os_error(), text));
        assert_eq!(fs::read(world.at("f")).unwrap(), b"old", "{call:?}");
        assert!(world.stages().is_empty(), "{call:?}");
        if call != Call::Parent {
            assert_eq!(peer.file("g", b"goes on", meta(0o644, 1)), None, "{call:?}");
        }
        assert!(peer.bye().is_ok());
    }
}

#[test]
fn durable_acks_do_all_the_same() {
    let world = World::new();
    let mut hello = world.hello();
    hello.fsync = true;
    let mut peer = world.connect_as(&hello);
    let m = Meta { mtime: None, ..meta(0o755, 0) };
    let done = peer.ops(vec![
        (Op::MakeDir { path: path("d"), meta: m }, b""),
        (Op::File { path: path("d/f"), size: 2, meta: meta(0o644, 1) }, b"ab"),
        (Op::Symlink { path: path("d/l"), link: b"f".to_vec(), meta: Meta::default() }, b""),
        (Op::Meta { path: path("d/f"), kind: Kind::File, meta: meta(0o600, 2) }, b""),
        (Op::Dir { path: path("d"), meta: meta(0o755, 3) }, b""),
        (remove("d/l", Kind::Symlink), b""),
    ]);
    assert_eq!(done, vec![None; 6]);
    assert_eq!(mode_of(&world, "d/f"), 0o600);
}

#[test]
fn credit_comes_back_with_the_acks() {
    let world = World::new();
    let mut peer = world.connect();
    for i in 0..20 {
        assert_eq!(peer.file(&format!("f{i}"), &[7; 1000], meta(0o644, 1)), None);
    }
    assert_eq!(peer.small, 20 * 1064);
    peer.send(&Message::Ping(4), b"");
    assert_eq!(peer.receive(), Message::Pong(4));
}
