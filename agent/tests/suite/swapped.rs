//! A directory and a symbolic link that leads outside change places all the time, while everything
//! there is to be done is done beneath that name.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lsync_protocol::entry::{Device, Kind, Meta};
use lsync_protocol::message::{Asked, Hashed, Message, Op, SumHow};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::peer::{Peer, World, meta, path, remove};

/// How often everything is done.
const TURNS: u32 = 150;

/// A path, its mode, owner, time, number of names and content.
type Thing = (String, u32, u32, i64, i64, u64, Vec<u8>);

/// All that stands there, to the last attribute.
fn all(dir: &Path) -> Vec<Thing> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        let about = fs::symlink_metadata(&at).unwrap();
        let content = if about.is_file() { fs::read(&at).unwrap() } else { Vec::new() };
        if about.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((
            at.display().to_string(),
            about.mode(),
            about.uid(),
            about.mtime(),
            about.mtime_nsec(),
            about.nlink(),
            content,
        ));
    }
    found.sort();
    found
}

/// Everything that is applied, beneath a name.
fn every_op(turn: u32) -> Vec<(Op, &'static [u8])> {
    let at = |name: &str| path(format!("d/{name}"));
    let file = |name: &str| (Op::File { path: at(name), size: 1, meta: meta(0o640, 7) }, &b"x"[..]);
    let rename = |from: &str, to: &str, kind| {
        let op = Op::Rename { from: at(from), to: at(to), kind, size: None, mtime: None };
        (op, &b""[..])
    };
    let plain = |op| (op, &b""[..]);
    let replace = |old, new| plain(Op::Replace { old, new: Box::new(new) });
    let link = || Op::Symlink { path: at("l"), link: b"x".to_vec(), meta: Meta::default() };
    vec![
        file("f"),
        // What stands outside under the same names.
        file("secret"),
        file("e/secret"),
        plain(Op::MakeDir { path: at(&format!("n{turn}")), meta: meta(0o700, 7) }),
        plain(Op::MakeDir { path: at("e"), meta: meta(0o700, 7) }),
        plain(link()),
        plain(Op::Meta { path: at("secret"), kind: Kind::File, meta: meta(0o777, 9) }),
        plain(Op::Meta { path: at("e/secret"), kind: Kind::File, meta: meta(0o777, 9) }),
        plain(Op::Dir { path: at("e"), meta: meta(0o711, 9) }),
        plain(Op::Dir { path: path("d"), meta: meta(0o711, 9) }),
        rename("secret", "moved", Kind::File),
        rename("e", "moved-e", Kind::Dir),
        rename("moved-e", "e", Kind::Dir),
        rename("f", "secret", Kind::File),
        plain(Op::Special { path: at("p"), kind: Kind::Fifo, device: None, meta: meta(0o600, 9) }),
        plain(Op::Special {
            path: at("c"),
            kind: Kind::CharDevice,
            device: Some(Device { major: 1, minor: 3 }),
            meta: meta(0o600, 9),
        }),
        plain(Op::Link { path: at("h"), from: at("secret"), size: 8, mtime: None }),
        plain(Op::Link { path: path("kept"), from: at("secret"), size: 8, mtime: None }),
        plain(Op::Append {
            path: at("secret"),
            version: 1,
            from: 8,
            size: 8,
            stage: None,
            meta: meta(0o777, 9),
            hash: *blake3::hash(b"precious").as_bytes(),
        }),
        replace(Kind::File, Op::MakeDir { path: at("secret"), meta: meta(0o700, 9) }),
        replace(Kind::Dir, link()),
        replace(Kind::Symlink, Op::File { path: at("l"), size: 0, meta: meta(0o600, 9) }),
        plain(remove("d/secret", Kind::File)),
        plain(remove("d/e/secret", Kind::File)),
        plain(remove("d/e", Kind::Dir)),
        plain(remove("d/moved", Kind::File)),
        plain(remove("d/l", Kind::File)),
        plain(remove("kept", Kind::File)),
    ]
}

/// A content that is put together and committed, from a base beneath the name.
fn staged(peer: &mut Peer, turn: u32) {
    let stage = turn + 1;
    peer.send(&Message::Open { stage, hint: path("d"), size: 8 }, b"");
    peer.send(&Message::Base { stage, path: path("d/secret"), version: None }, b"");
    let size = loop {
        match peer.receive() {
            Message::BaseIs { stage: of, size, .. } if of == stage => break size,
            _ => {}
        }
    };
    // Outside it has eight bytes, and one where it belongs.
    assert_ne!(size, Some(8), "a base that is outside");
    if size == Some(1) {
        let how = SumHow::Search;
        peer.send(&Message::AskSums { stage, how, block: 1024, ranges: vec![(0, 1)] }, b"");
        peer.send(&Message::Copy { stage, copies: vec![(0, 0, 1)] }, b"");
    } else {
        peer.send(&Message::Data { stage, offset: 0 }, b"x");
    }
    let hash = *blake3::hash(b"x").as_bytes();
    let commit = Op::Commit { path: path("d/secret"), stage, size: 1, meta: meta(0o600, 3), hash };
    let _ = peer.ops(vec![(commit, b"")]);
}

/// What is beneath the name, by a listing and by hashes: never what is outside.
fn looked_at(peer: &mut Peer, turn: u32) {
    let dirs = ["d", "d/e"].map(|dir| Asked { dir: path(dir), digest: None });
    peer.send(&Message::List { first: 2 * turn, dirs: dirs.to_vec() }, b"");
    let names = vec![b"only-outside"[..].into(), b"secret"[..].into()];
    peer.send(&Message::AskHashes { request: turn, dir: path("d"), names, calm: false }, b"");
    let mut answers = 0;
    while answers < 3 {
        match peer.receive() {
            Message::Entries { last, entries, .. } => {
                answers += u32::from(last);
                for named in entries {
                    assert_ne!(*named.name, *b"only-outside", "listed");
                }
            }
            Message::NoList { .. } => answers += 1,
            Message::Hashes { files, .. } => {
                answers += 1;
                assert!(!matches!(files[0], Hashed::Is(..)), "hashed: {files:?}");
                assert!(!matches!(files[1], Hashed::Is(8, _)), "hashed: {files:?}");
            }
            _ => {}
        }
    }
}

fn race(inplace: bool, trash: bool) {
    let world = World::new();
    let outside = world.dir.path().join("outside");
    fs::create_dir_all(outside.join("e")).unwrap();
    for name in ["secret", "e/secret", "only-outside"] {
        fs::write(outside.join(name), b"precious").unwrap();
    }
    fs::create_dir(world.at("d")).unwrap();
    symlink(&outside, world.at("aside")).unwrap();
    let before = all(&outside);
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, aside) = (world.at("d"), world.at("aside"));
            while !stop.load(Ordering::Relaxed) {
                if renameat_with(CWD, &dir, CWD, &aside, RenameFlags::EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // Also if something below is not as it should be.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        let mut hello = world.hello();
        hello.inplace = inplace;
        hello.trash =
            trash.then(|| lsync_protocol::handshake::Trash { dir: path("trash"), age: None });
        let mut peer = world.connect_as(&hello);
        let mut done = 0;
        for turn in 0..TURNS {
            let outcomes = peer.ops(every_op(turn));
            done += outcomes.iter().filter(|outcome| outcome.is_none()).count();
            staged(&mut peer, turn);
            looked_at(&mut peer, turn);
        }
        peer.bye().unwrap();
        assert!(done > 0, "nothing was ever done");
        assert!(swaps.load(Ordering::Relaxed) > u64::from(TURNS), "they hardly changed places");
    });
    assert_eq!(all(&outside), before);
    // Nothing of it got a name inside, nor a copy.
    for (at, .., content) in all(&world.at("")) {
        assert_ne!(content, b"precious", "{at}");
    }
}

#[test]
fn nothing_outside_is_read_or_touched() {
    race(false, false);
}

#[test]
fn nothing_outside_is_written_into() {
    race(true, false);
}

#[test]
fn nothing_outside_is_moved_aside() {
    race(false, true);
}
