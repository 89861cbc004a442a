//! Messages that are well formed and make no sense, one after the other: nothing outside of the root
//! is touched, nothing is left behind, and the agent ends without a panic.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use lsync_protocol::entry::{Device, Kind, Meta, Time};
use lsync_protocol::message::{Asked, MAX_COPY, Message, Op, SumHow};
use lsync_protocol::path::RelPath;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::peer::{Peer, World, path};

/// Names that are there, are not there, lead outside, or stand in one another.
const NAMES: [&str; 12] = [
    "",
    "f",
    "d",
    "d/f",
    "d/e",
    "d/e/f",
    "out",
    "out/f",
    "up/outside/f",
    "d/out/f",
    "new",
    "d/new",
];

fn paths() -> impl Strategy<Value = RelPath> {
    (0..NAMES.len()).prop_map(|at| path(NAMES[at]))
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::File),
        3 => Just(Kind::Dir),
        2 => Just(Kind::Symlink),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => Just(Kind::CharDevice),
    ]
}

/// Small ones, and the largest there are.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..9u64, 1 => Just(u64::MAX), 1 => Just(1 << 63), 1 => any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..4u32, 1 => Just(u32::MAX)]
}

fn metas() -> impl Strategy<Value = Meta> {
    let times = (any::<i64>(), 0..1_000_000_000u32).prop_map(|(sec, nsec)| Time { sec, nsec });
    (option::of(0..0o7777u32), option::of(small()), option::of(small()), option::of(times))
        .prop_map(|(mode, uid, gid, mtime)| Meta { mode, uid, gid, mtime, ..Meta::default() })
}

fn plain() -> impl Strategy<Value = Op> {
    let times = || option::of((0..3i64).prop_map(|sec| Time { sec, nsec: 5 }));
    let hashes = || prop_oneof![Just([0; 32]), Just(*blake3::hash(b"").as_bytes())];
    prop_oneof![
        (paths(), metas()).prop_map(|(path, meta)| Op::MakeDir { path, meta }),
        (paths(), 0..9u32, metas()).prop_map(|(path, size, meta)| Op::File { path, size, meta }),
        (paths(), small(), numbers(), metas(), hashes()).prop_map(
            |(path, stage, size, meta, hash)| Op::Commit { path, stage, size, meta, hash }
        ),
        (paths(), 0..4usize, metas()).prop_map(|(path, to, meta)| {
            let link = ["..", "/", "../outside", "d"][to].into();
            Op::Symlink { path, link, meta }
        }),
        (paths(), kinds(), metas()).prop_map(|(path, kind, meta)| Op::Meta { path, kind, meta }),
        (paths(), metas()).prop_map(|(path, meta)| Op::Dir { path, meta }),
        (paths(), paths(), kinds(), option::of(numbers()), times())
            .prop_map(|(from, to, kind, size, mtime)| Op::Rename { from, to, kind, size, mtime }),
        (paths(), kinds()).prop_map(|(path, kind)| Op::Remove { path, kind }),
        (paths(), numbers(), 0..4u64, 0..9u64, option::of(small()), metas(), hashes()).prop_map(
            |(path, version, from, more, stage, meta, hash)| {
                let size = from + more;
                Op::Append { path, version, from, size, stage, meta, hash }
            }
        ),
        (paths(), kinds(), any::<bool>(), metas()).prop_map(|(path, kind, device, meta)| {
            let device = device.then_some(Device { major: 1, minor: 3 });
            Op::Special { path, kind, device, meta }
        }),
        (paths(), paths(), numbers(), times()).prop_map(|(path, from, size, mtime)| Op::Link {
            path,
            from,
            size,
            mtime
        }),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => plain(),
        1 => (kinds(), plain()).prop_map(|(old, new)| Op::Replace { old, new: Box::new(new) }),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    let how = prop_oneof![Just(SumHow::Same), Just(SumHow::Search), Just(SumHow::Kept)];
    let blocks = prop_oneof![Just(1024u32), Just(16_384), Just(1 << 31), Just(0)];
    let copies = (numbers(), numbers(), prop_oneof![1..9u64, Just(MAX_COPY), numbers()]);
    let asked =
        (paths(), option::of(Just([7; 16]))).prop_map(|(dir, digest)| Asked { dir, digest });
    let names = vec((0..4usize).prop_map(|at| [&b"f"[..], b"..", b"out", b"d/f"][at]), 0..4);
    prop_oneof![
        2 => (small(), vec(asked, 0..4)).prop_map(|(first, dirs)| Message::List { first, dirs }),
        1 => vec((small(), "[a-z\n:/.]{0,6}"), 0..4)
            .prop_map(|users| Message::Names { groups: users.clone(), users }),
        9 => (numbers(), vec(ops(), 0..6))
            .prop_map(|(first, ops)| Message::Ops { first, hash: None, ops }),
        3 => (small(), paths(), numbers())
            .prop_map(|(stage, hint, size)| Message::Open { stage, hint, size }),
        2 => (small(), paths(), numbers())
            .prop_map(|(stage, path, size)| Message::Resume { stage, path, size }),
        1 => Just(Message::Mirrored),
        3 => (small(), numbers()).prop_map(|(stage, offset)| Message::Data { stage, offset }),
        3 => (small(), paths(), option::of(numbers()))
            .prop_map(|(stage, path, version)| Message::Base { stage, path, version }),
        1 => (small(), numbers()).prop_map(|(stage, version)| Message::Known { stage, version }),
        2 => (small(), how, blocks, vec((numbers(), numbers()), 0..4))
            .prop_map(|(stage, how, block, ranges)| Message::AskSums { stage, how, block, ranges }),
        2 => (small(), vec(copies, 0..4)).prop_map(|(stage, copies)| Message::Copy { stage, copies }),
        2 => (small(), paths(), names, any::<bool>()).prop_map(|(request, dir, names, calm)| {
            let names = names.into_iter().map(Into::into).collect();
            Message::AskHashes { request, dir, names, calm }
        }),
        1 => small().prop_map(|stage| Message::Abort { stage }),
        1 => numbers().prop_map(Message::Ping),
        1 => numbers().prop_map(Message::Pong),
        1 => Just(Message::Bye),
        1 => small().prop_map(|request| Message::Same { request }),
        1 => small().prop_map(|stage| Message::Kept { stage, size: 1 }),
    ]
}

/// A root with ways out of it, and what lies there.
fn ground() -> World {
    let world = World::new();
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), b"precious").unwrap();
    fs::create_dir_all(world.at("d/e")).unwrap();
    for name in ["f", "d/f", "d/e/f"] {
        fs::write(world.at(name), b"content").unwrap();
    }
    for name in ["out", "d/out"] {
        symlink(&outside, world.at(name)).unwrap();
    }
    symlink("..", world.at("up")).unwrap();
    world
}

/// What is outside, to the last attribute that somebody could set.
fn outside(dir: &Path) -> Vec<(String, u32, i64, u64, Vec<u8>)> {
    let about = |at: &Path| {
        let meta = fs::symlink_metadata(at).unwrap();
        let content = if meta.is_file() { fs::read(at).unwrap() } else { Vec::new() };
        (at.display().to_string(), meta.mode(), meta.mtime(), meta.nlink(), content)
    };
    let mut all = vec![about(dir)];
    all.extend(fs::read_dir(dir).unwrap().map(|entry| about(&entry.unwrap().path())));
    all.sort();
    all
}

/// Sends as much as is taken.
fn play(peer: &mut Peer, messages: Vec<Message>) {
    for mut message in messages {
        let raw = match &mut message {
            Message::Ops { hash, ops, .. } => {
                let raw = vec![b'x'; ops.iter().map(Op::inline_size).sum::<usize>().min(100)];
                *hash = (!raw.is_empty()).then(|| *blake3::hash(&raw).as_bytes());
                raw
            }
            Message::Data { .. } => vec![b'y'; 5],
            _ => Vec::new(),
        };
        if !peer.try_send(&message, &raw) {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]
    #[test]
    fn messages_without_sense_do_no_harm(
        opened in option::of(paths()),
        messages in vec(messages(), 1..12),
    ) {
        let world = ground();
        let before = outside(&world.dir.path().join("outside"));
        let beside = fs::read_dir(world.dir.path()).unwrap().count();
        let mut peer = world.connect();
        if let Some(base) = opened {
            // Else most of what is said of stages would be refused at once.
            peer.try_send(&Message::Open { stage: 1, hint: path(""), size: 7 }, b"");
            peer.try_send(&Message::Open { stage: 2, hint: path("d"), size: 0 }, b"");
            if !base.is_root() {
                peer.try_send(&Message::Base { stage: 1, path: base, version: None }, b"");
            }
        }
        let resumed = messages.iter().any(|said| matches!(said, Message::Resume { .. }));
        play(&mut peer, messages);
        // It ends with a reason or without one, but it ends and does not panic.
        let _ = peer.cut();
        prop_assert_eq!(outside(&world.dir.path().join("outside")), before);
        prop_assert!(fs::read_dir(world.dir.path()).unwrap().count() <= beside + 1, "its cache");
        // What is to be resumed is kept, and what nobody may look into is not looked into.
        if !resumed && rustix::process::geteuid().is_root() {
            prop_assert!(world.stages().is_empty(), "{:?}", world.stages());
        }
    }
}
