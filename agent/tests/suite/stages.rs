//! Content in pieces: stages and commits.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::frame::PIECE;
use lsync_protocol::message::{Hash, Message, Op, Outcome};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::peer::{Peer, World, meta, path};

fn hash(content: &[u8]) -> Hash {
    *blake3::hash(content).as_bytes()
}

fn commit(at: &str, stage: u32, content: &[u8]) -> Op {
    let size = content.len() as u64;
    Op::Commit { path: path(at), stage, size, meta: meta(0o640, 42), hash: hash(content) }
}

fn open(peer: &mut Peer, stage: u32, hint: &str) {
    peer.send(&Message::Open { stage, hint: path(hint), size: 0 }, b"");
}

fn data(peer: &mut Peer, stage: u32, offset: u64, bytes: &[u8]) {
    peer.send(&Message::Data { stage, offset }, bytes);
}

fn some(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn compressed_pieces_become_a_file_too() {
    let world = World::new();
    let mut peer = world.connect();
    let content = some(3 * PIECE + 17);
    open(&mut peer, 3, "");
    for (i, piece) in content.chunks(PIECE).enumerate() {
        let message = Message::Data { stage: 3, offset: (i * PIECE) as u64 };
        if i == 0 || piece.len() < 100 {
            peer.send(&message, piece);
        } else {
            peer.send_squeezed(&message, piece);
        }
    }
    assert_eq!(peer.op(commit("f", 3, &content)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), content);
    while peer.bulk < content.len() as u64 {
        let Message::Credit { bulk } = peer.receive() else { panic!() };
        peer.bulk += u64::from(bulk);
    }
    assert_eq!(peer.bulk, content.len() as u64);

    let small = some(5000);
    let file = |at| Op::File { path: path(at), size: 2500, meta: meta(0o640, 42) };
    let ops = vec![file("g"), file("h")];
    let hash = Some(hash(&small));
    peer.send_squeezed(&Message::Ops { first: peer.next, hash, ops }, &small);
    peer.next += 2;
    assert_eq!(peer.outcomes(peer.next - 2..peer.next), [None, None]);
    assert_eq!(fs::read(world.at("g")).unwrap(), small[..2500]);
    assert_eq!(fs::read(world.at("h")).unwrap(), small[2500..]);
}

#[test]
fn pieces_become_a_file() {
    let world = World::new();
    let mut peer = world.connect();
    let content = some(5 * PIECE + 17);
    open(&mut peer, 3, "");
    for (i, piece) in content.chunks(PIECE).enumerate() {
        data(&mut peer, 3, (i * PIECE) as u64, piece);
    }
    assert_eq!(peer.op(commit("f", 3, &content)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), content);
    let found = fs::metadata(world.at("f")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.mtime()), (0o640, 42));
    // The number may be used again at once.
    open(&mut peer, 3, "");
    data(&mut peer, 3, 0, b"other");
    assert_eq!(peer.op(commit("f", 3, b"other")), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), b"other");
    while peer.bulk < content.len() as u64 + 5 {
        let Message::Credit { bulk } = peer.receive() else { panic!() };
        peer.bulk += u64::from(bulk);
    }
    assert_eq!(peer.bulk, content.len() as u64 + 5);
    assert!(peer.bye().is_ok());
    assert!(world.stages().is_empty());
}

#[test]
fn holes_stay_holes() {
    let world = World::new();
    let mut peer = world.connect();
    let mut content = vec![0; 100 * PIECE];
    content[50 * PIECE..50 * PIECE + 3].copy_from_slice(b"abc");
    open(&mut peer, 0, "");
    data(&mut peer, 0, 50 * PIECE as u64, b"abc");
    assert_eq!(peer.op(commit("f", 0, &content)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), content);
    assert!(fs::metadata(world.at("f")).unwrap().blocks() * 512 < PIECE as u64);
}

#[test]
fn pieces_may_come_again_and_in_any_order() {
    let world = World::new();
    let mut peer = world.connect();
    open(&mut peer, 1, "");
    for (offset, bytes) in [(4, "efgh"), (0, "abXX"), (2, "cd"), (8, "ijkl")] {
        data(&mut peer, 1, offset, bytes.as_bytes());
    }
    // Shorter than what was written.
    assert_eq!(peer.op(commit("f", 1, b"abcdefghij")), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), b"abcdefghij");
}

#[test]
fn what_does_not_match_its_hash_is_not_committed() {
    let world = World::new();
    let mut peer = world.connect();
    fs::write(world.at("f"), b"old").unwrap();
    open(&mut peer, 1, "");
    data(&mut peer, 1, 0, b"torn");
    let Some(Outcome::Problem(trouble)) = peer.op(commit("f", 1, b"whole")) else { panic!() };
    assert_eq!(trouble.text, "the content does not match its hash");
    assert_eq!(fs::read(world.at("f")).unwrap(), b"old");
    assert!(world.stages().is_empty());
}

#[test]
fn commits_have_the_outcomes_of_files() {
    let world = World::new();
    let mut peer = world.connect();
    fs::create_dir_all(world.at("d/in")).unwrap();
    let mut one = |stage: u32, hint: &str, op: Op| {
        open(&mut peer, stage, hint);
        data(&mut peer, stage, 0, b"content");
        peer.op(op)
    };
    let c = |at: &str, stage| commit(at, stage, b"content");
    assert_eq!(one(1, "", c("d", 1)), Some(Outcome::Occupied(Kind::Dir)));
    assert_eq!(one(2, "", c("x/y", 2)), Some(Outcome::NoParent));
    // A hint that does not exist is no harm.
    assert_eq!(one(3, "no/such/dir", c("d/f", 3)), None);
    assert_eq!(one(4, "d", c("f", 4)), None);
    let replace = |old, new| Op::Replace { old, new: Box::new(new) };
    assert_eq!(one(5, "", replace(Kind::Dir, c("d", 5))), Some(Outcome::NotEmpty));
    assert_eq!(one(6, "", replace(Kind::Dir, c("d/in", 6))), None);
    assert_eq!(fs::read(world.at("d/in")).unwrap(), b"content");
    assert!(world.stages().is_empty());
}

#[test]
fn a_stage_that_is_given_up_or_cut_off_leaves_nothing() {
    let world = World::new();
    let mut peer = world.connect();
    fs::create_dir(world.at("d")).unwrap();
    open(&mut peer, 1, "d");
    data(&mut peer, 1, 0, b"x");
    peer.send(&Message::Abort { stage: 1 }, b"");
    open(&mut peer, 1, "d");
    data(&mut peer, 1, 0, b"x");
    // Everything before is done when a later commit is.
    open(&mut peer, 2, "");
    data(&mut peer, 2, 0, b"x");
    assert_eq!(peer.op(commit("f", 2, b"x")), None);
    assert_eq!(world.stages().len(), 1);
    assert!(peer.cut().is_ok());
    assert!(world.stages().is_empty());
}

#[test]
fn what_is_open_at_a_goodbye_is_gone_when_the_agent_is() {
    let one = || {
        let world = World::new();
        let mut peer = world.connect();
        open(&mut peer, 1, "");
        open(&mut peer, 2, "");
        peer.send(&Message::Bye, b"");
        assert!(peer.cut().is_ok());
        assert_eq!(world.stages(), [] as [std::path::PathBuf; 0]);
    };
    // Whether one of its threads is late is a matter of luck: more of them than there are cores.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| (0..40).for_each(|_| one()));
        }
    });
}

/// Writing to stages fails.
struct Full;

impl Faults for Full {
    fn before(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        if call == Call::Write && path.as_bytes() == b"full" { Err(Errno::NOSPC) } else { Ok(()) }
    }
}

#[test]
fn trouble_of_a_stage_is_said_at_once_and_again_at_its_commit() {
    let world = World::new().with_faults(Full);
    fs::create_dir(world.at("full")).unwrap();
    let mut peer = world.connect();
    open(&mut peer, 1, "full");
    data(&mut peer, 1, 0, b"abc");
    let mut credit = 0;
    let trouble = loop {
        match peer.receive() {
            Message::StageTrouble { stage: 1, trouble } => break trouble,
            Message::Credit { bulk } => credit += bulk,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(trouble.text, "no space left on device");
    // The rest is dropped and its credit comes back.
    data(&mut peer, 1, 3, b"def");
    while credit < 6 {
        let Message::Credit { bulk } = peer.receive() else { panic!() };
        credit += bulk;
    }
    assert_eq!(peer.op(commit("full/f", 1, b"abcdef")), Some(Outcome::Problem(trouble)));
    assert!(world.stages().is_empty());
}

#[test]
fn a_reader_never_sees_a_torn_file() {
    let world = World::new();
    let mut peer = world.connect();
    fs::write(world.at("f"), vec![b'0'; 3000]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let mut content = Vec::new();
                        fs::File::open(world.at("f")).unwrap().read_to_end(&mut content).unwrap();
                        let first = content[0];
                        assert!(content.iter().all(|&byte| byte == first));
                        assert!(matches!(content.len(), 3000 | 70_000), "{}", content.len());
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        for i in 0..1000u32 {
            let byte = b'0' + (i % 10) as u8;
            let outcome = if i % 4 == 0 {
                let content = vec![byte; 70_000];
                open(&mut peer, i, "");
                data(&mut peer, i, 0, &content[..40_000]);
                data(&mut peer, i, 40_000, &content[40_000..]);
                peer.op(commit("f", i, &content))
            } else {
                peer.file("f", &vec![byte; 3000], Meta::default())
            };
            assert_eq!(outcome, None);
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}
