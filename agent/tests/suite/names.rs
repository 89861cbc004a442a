//! Names of one file: a further one is given only to the file that is meant, and is complete.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::entry::{Kind, Time};
use lsync_protocol::message::{Op, Outcome};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::peer::{World, meta, path, remove};

fn link(from: &str, at: &str, size: u64, mtime: Option<Time>) -> Op {
    Op::Link { path: path(at), from: path(from), size, mtime }
}

fn ino(world: &World, name: &str) -> u64 {
    fs::symlink_metadata(world.at(name)).unwrap().ino()
}

/// What stands beneath the root: which inode under which name.
fn all(world: &World) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(world.at(&dir)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{dir}/{}", entry.file_name().display());
            let name = name.trim_start_matches('/').to_owned();
            found.insert(name.clone(), entry.metadata().unwrap().ino());
            if entry.file_type().unwrap().is_dir() {
                todo.push(name);
            }
        }
    }
    found
}

/// `f` of five bytes, `other` likewise, a directory with something in it, a link to `f`.
fn ground() -> (World, Time) {
    let world = World::new();
    fs::write(world.at("f"), b"12345").unwrap();
    fs::write(world.at("other"), b"abcde").unwrap();
    fs::create_dir_all(world.at("d/in")).unwrap();
    fs::create_dir(world.at("empty")).unwrap();
    symlink("f", world.at("l")).unwrap();
    symlink("d", world.at("to d")).unwrap();
    let found = fs::metadata(world.at("f")).unwrap();
    (world, Time { sec: found.mtime(), nsec: found.mtime_nsec() as u32 })
}

#[test]
fn only_what_should_be_there_gets_another_name() {
    let (world, mtime) = ground();
    let mut peer = world.connect();
    let wrong = Time { sec: mtime.sec - 1, ..mtime };
    let other = Some(Outcome::OtherVersion);
    let replace = |old, new| Op::Replace { old, new: Box::new(new) };
    let table = [
        (link("x", "y", 5, None), other.clone()),
        (link("x/x", "y", 5, None), other.clone()),
        (link("f/x", "y", 5, None), other.clone()),
        (link("f", "y", 4, Some(mtime)), other.clone()),
        (link("f", "y", 5, Some(wrong)), other.clone()),
        (link("d", "y", 0, None), other.clone()),
        (link("l", "y", 0, None), other.clone()),
        (link("l", "y", 5, None), other.clone()),
        (link("to d/x", "y", 5, None), other.clone()),
        (link("f", "x/y", 5, None), Some(Outcome::NoParent)),
        (link("f", "to d/y", 5, None), Some(Outcome::NoParent)),
        (link("f", "d", 5, None), Some(Outcome::Occupied(Kind::Dir))),
        (link("f", "empty", 5, None), Some(Outcome::Occupied(Kind::Dir))),
        (replace(Kind::File, link("f", "d", 5, None)), Some(Outcome::Occupied(Kind::Dir))),
        (replace(Kind::Dir, link("f", "d", 5, None)), Some(Outcome::NotEmpty)),
        (replace(Kind::Dir, link("x", "empty", 5, None)), other),
    ];
    let before = all(&world);
    for (op, want) in table {
        assert_eq!(peer.op(op.clone()), want, "{op:?}");
        assert_eq!(all(&world), before, "{op:?}");
    }
    let dirs = [remove("d/in", Kind::Dir), replace(Kind::Dir, link("f", "d", 5, Some(mtime)))];
    for op in dirs {
        assert_eq!(peer.op(op), None);
    }
    for at in ["new", "other", "l", "empty/in"] {
        assert_eq!(peer.op(link("f", at, 5, Some(mtime))), None, "{at}");
    }
    for at in ["d", "new", "other", "l", "empty/in"] {
        assert_eq!(ino(&world, at), ino(&world, "f"), "{at}");
    }
    assert_eq!(fs::metadata(world.at("f")).unwrap().nlink(), 6);
    // What is one file already stays so, and nothing is left of a rename that does nothing.
    let before = all(&world);
    assert_eq!(peer.op(link("f", "new", 5, Some(mtime))), None);
    assert_eq!(all(&world), before);
    assert!(peer.bye().is_ok());
    assert!(world.stages().is_empty());
}

#[test]
fn names_come_in_the_order_in_which_they_are_told() {
    let world = World::new();
    let mut peer = world.connect();
    for dir in ["a", "b", "c", "d"] {
        fs::create_dir(world.at(dir)).unwrap();
    }
    let file = |at: String, content: &[u8]| {
        let size = content.len() as u32;
        Op::File { path: path(at), size, meta: meta(0o644, 7) }
    };
    let mut ops: Vec<(Op, &[u8])> = Vec::new();
    for n in 0..50 {
        let (a, b) = (format!("a/{n}"), format!("b/{n}"));
        let c = format!("c/{n}");
        ops.push((file(a.clone(), b"one"), b"one"));
        ops.push((link(&a, &b, 3, None), b""));
        ops.push((link(&b, &c, 3, None), b""));
        ops.push((remove(&a, Kind::File), b""));
        // A file of its own takes the name again.
        ops.push((file(a, b"four"), b"four"));
        ops.push((link(&b, &format!("b/again {n}"), 3, None), b""));
        ops.push((remove(&b, Kind::File), b""));
    }
    let count = ops.len();
    assert_eq!(peer.ops(ops), vec![None; count]);
    for n in 0..50 {
        assert_eq!(ino(&world, &format!("c/{n}")), ino(&world, &format!("b/again {n}")));
        assert_eq!(fs::read(world.at(format!("c/{n}"))).unwrap(), b"one");
        assert_eq!(fs::read(world.at(format!("a/{n}"))).unwrap(), b"four");
        assert!(!world.at(format!("b/{n}")).exists());
    }
}

/// Each further name fails like this.
struct Never(Errno);

impl Faults for Never {
    fn before(&self, call: Call, _: &RelPath) -> Result<(), Errno> {
        if call == Call::Link { Err(self.0) } else { Ok(()) }
    }
}

#[test]
fn where_there_are_no_links_the_source_is_told_so() {
    for errno in [Errno::MLINK, Errno::XDEV, Errno::PERM, Errno::OPNOTSUPP] {
        let world = World::new().with_faults(Never(errno));
        fs::write(world.at("f"), b"12345").unwrap();
        let mut peer = world.connect();
        assert_eq!(peer.op(link("f", "g", 5, None)), Some(Outcome::Refused), "{errno}");
        assert!(!world.at("g").exists());
    }
    let world = World::new().with_faults(Never(Errno::NOSPC));
    fs::write(world.at("f"), b"12345").unwrap();
    let outcome = world.connect().op(link("f", "g", 5, None));
    assert!(matches!(outcome, Some(Outcome::Problem(_))), "{outcome:?}");
    assert!(world.stages().is_empty());
}

#[test]
fn a_listing_tells_which_file_has_several_names() {
    let (world, mtime) = ground();
    let mut peer = world.connect();
    assert_eq!(peer.op(link("f", "d/g", 5, Some(mtime))), None);
    let of = |list: Vec<lsync_protocol::entry::Named>, name: &str| {
        list.into_iter().find(|named| *named.name == *name.as_bytes()).unwrap().entry.file
    };
    let first = of(peer.list("").unwrap(), "f");
    assert_eq!(first.unwrap().ino, ino(&world, "f"));
    assert_eq!(of(peer.list("d").unwrap(), "g"), first);
    assert_eq!(of(peer.list("").unwrap(), "other"), None);
    assert_eq!(of(peer.list("").unwrap(), "d"), None, "a directory has one name");
}
