//! Versions that were put in place on this link: known again while nobody touched them, and growing
//! in place.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::entry::Kind;
use lsync_protocol::message::{Hash, Message, Op, OpId, Outcome, SumHow};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::peer::{Peer, World, meta, path};

fn hash(content: &[u8]) -> Hash {
    *blake3::hash(content).as_bytes()
}

/// Bytes that do not repeat.
fn some(size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    blake3::Hasher::new().update(b"versions").finalize_xof().fill(&mut content);
    content
}

/// Puts a file in place by a stage: the version it is.
fn put(peer: &mut Peer, at: &str, content: &[u8]) -> OpId {
    let size = content.len() as u64;
    peer.send(&Message::Open { stage: 1, hint: path(""), size }, b"");
    for (number, piece) in content.chunks(100_000).enumerate() {
        peer.send(&Message::Data { stage: 1, offset: number as u64 * 100_000 }, piece);
    }
    let meta = meta(0o640, 42);
    let version = peer.next;
    let commit = Op::Commit { path: path(at), stage: 1, size, meta, hash: hash(content) };
    assert_eq!(peer.op(commit), None);
    version
}

/// Has more behind a version.
fn append(at: &str, version: OpId, from: usize, content: &[u8]) -> Op {
    Op::Append {
        path: path(at),
        version,
        from: from as u64,
        size: content.len() as u64,
        stage: None,
        meta: meta(0o640, 43),
        hash: hash(content),
    }
}

fn grow(peer: &mut Peer, at: &str, version: OpId, from: usize, content: &[u8]) -> Option<Outcome> {
    peer.ops(vec![(append(at, version, from, content), &content[from..])]).remove(0)
}

/// Is what stands there the version, as far as the agent knows?
fn known(peer: &mut Peer, at: &str, version: OpId) -> bool {
    let stage = 1000 + peer.next as u32;
    peer.next += 1;
    peer.send(&Message::Open { stage, hint: path(""), size: 0 }, b"");
    peer.send(&Message::Base { stage, path: path(at), version: Some(version) }, b"");
    let known = loop {
        match peer.receive() {
            Message::BaseIs { known, .. } => break known,
            Message::Credit { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    peer.send(&Message::Abort { stage }, b"");
    known
}

#[test]
fn a_version_is_known_until_somebody_else_touches_it() {
    let world = World::new();
    let mut peer = world.connect();
    let content = some(300_000);
    let version = put(&mut peer, "f", &content);
    assert!(known(&mut peer, "f", version));
    assert!(!known(&mut peer, "f", version + 100));
    // Our own renames and changes of mode leave it what it is.
    let rename = Op::Rename {
        from: path("f"),
        to: path("g"),
        kind: Kind::File,
        size: Some(300_000),
        mtime: None,
    };
    assert_eq!(peer.op(rename), None);
    assert!(known(&mut peer, "g", version));
    let mode = Op::Meta { path: path("g"), kind: Kind::File, meta: meta(0o600, 42) };
    assert_eq!(peer.op(mode), None);
    assert!(known(&mut peer, "g", version));
    // Somebody else's write of one byte, with the time put back.
    let file = OpenOptions::new().write(true).open(world.at("g")).unwrap();
    let before = fs::metadata(world.at("g")).unwrap().modified().unwrap();
    file.write_at(b"x", 5).unwrap();
    file.set_modified(before).unwrap();
    assert!(!known(&mut peer, "g", version));
    assert_eq!(grow(&mut peer, "g", version, 300_000, &content), Some(Outcome::OtherVersion));
    peer.bye().unwrap();
}

#[test]
fn a_file_grows_in_place() {
    let world = World::new();
    let mut peer = world.connect();
    let content = some(400_000);
    let mut version = put(&mut peer, "f", &content[..300_000]);
    let inode = fs::metadata(world.at("f")).unwrap().ino();
    let mut from = 300_000;
    for size in [300_001, 327_680, 327_680, 350_000] {
        let next = peer.next;
        assert_eq!(grow(&mut peer, "f", version, from, &content[..size]), None, "{size}");
        (version, from) = (next, size);
        let found = fs::metadata(world.at("f")).unwrap();
        assert_eq!((found.ino(), found.mtime(), found.mtime_nsec()), (inode, 43, 5));
        assert!(fs::read(world.at("f")).unwrap() == content[..size], "{size}");
    }
    // By a stage.
    peer.send(&Message::Open { stage: 9, hint: path(""), size: 50_000 }, b"");
    peer.send(&Message::Data { stage: 9, offset: 0 }, &content[350_000..]);
    let next = peer.next;
    let mut more = append("f", version, 350_000, &content);
    if let Op::Append { stage, .. } = &mut more {
        *stage = Some(9);
    }
    assert_eq!(peer.op(more), None);
    assert!(fs::read(world.at("f")).unwrap() == content);
    assert_eq!(fs::metadata(world.at("f")).unwrap().ino(), inode);
    assert_eq!(world.stages(), [] as [std::path::PathBuf; 0]);
    assert!(known(&mut peer, "f", next));
    peer.bye().unwrap();
}

/// Has a stage's base, all of whose blocks are asked for, be a version: whether it is one now.
fn becomes(peer: &mut Peer, stage: u32, at: &str, version: OpId, asked: &[(u64, u64)]) -> bool {
    const BLOCK: u32 = 1 << 14;
    peer.send(&Message::Open { stage, hint: path(""), size: 0 }, b"");
    peer.send(&Message::Base { stage, path: path(at), version: None }, b"");
    let how = SumHow::Same;
    peer.send(&Message::AskSums { stage, how, block: BLOCK, ranges: asked.to_vec() }, b"");
    let mut left: u64 = asked.iter().map(|(_, len)| len.div_ceil(u64::from(BLOCK)) * 16).sum();
    while left > 0 {
        if let Message::Sums { stage: of, sums } = peer.receive()
            && of == stage
        {
            // None: there is no base.
            left = if sums.is_empty() { 0 } else { left - sums.len() as u64 };
        }
    }
    peer.send(&Message::Known { stage, version }, b"");
    loop {
        match peer.receive() {
            Message::BaseIs { stage: of, known, .. } if of == stage => return known,
            _ => {}
        }
    }
}

#[test]
fn what_stood_there_before_becomes_a_version_once_all_of_it_is_known() {
    let world = World::new();
    let content = some(300_000);
    for name in ["f", "linked", "partly"] {
        fs::write(world.at(name), &content[..290_000]).unwrap();
    }
    fs::hard_link(world.at("linked"), world.at("another")).unwrap();
    let all = [(0, 262_144), (262_144, 290_000 - 262_144)];
    let mut peer = world.connect();
    let mut stage = 0;
    let mut ask = |peer: &mut Peer, at: &str, asked: &[(u64, u64)]| {
        stage += 1;
        let next = peer.next;
        (becomes(peer, stage, at, next, asked), stage)
    };
    // Until it has rested for two seconds a change would not show.
    let end = Instant::now() + Duration::from_secs(30);
    let stage = loop {
        match ask(&mut peer, "f", &all) {
            (true, stage) => break stage,
            (false, stage) => peer.send(&Message::Abort { stage }, b""),
        }
        assert!(Instant::now() < end, "it never becomes one");
        std::thread::sleep(Duration::from_millis(50));
    };
    peer.send(&Message::Data { stage, offset: 0 }, &content[290_000..]);
    let inode = fs::metadata(world.at("f")).unwrap().ino();
    let next = peer.next;
    let mut more = append("f", next, 290_000, &content);
    if let Op::Append { stage: of, .. } = &mut more {
        *of = Some(stage);
    }
    assert_eq!(peer.op(more), None);
    assert!(fs::read(world.at("f")).unwrap() == content);
    assert_eq!(fs::metadata(world.at("f")).unwrap().ino(), inode);
    assert!(known(&mut peer, "f", next), "what has become of it is one, too");

    // These rested as long.
    for (what, at, asked) in [
        ("another name", "linked", &all[..]),
        ("the end is missing", "partly", &all[..1]),
        ("the beginning is missing", "partly", &all[1..]),
        ("no file", "missing", &all[..]),
    ] {
        let (is, stage) = ask(&mut peer, at, asked);
        assert!(!is, "{what}");
        peer.send(&Message::Abort { stage }, b"");
    }
    assert!(ask(&mut peer, "partly", &all).0);
    peer.bye().unwrap();
}

#[test]
fn a_reader_sees_a_beginning_of_what_it_becomes() {
    let world = World::new();
    let mut peer = world.connect();
    let content = some(3_000_000);
    let mut version = put(&mut peer, "f", &content[..100_000]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut least) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let found = fs::read(world.at("f")).unwrap();
                assert!(found.len() >= least, "it got shorter");
                assert!(found == content[..found.len()], "a mix");
                (seen, least) = (seen + 1, found.len());
            }
            seen
        });
        for (stage, from) in (100..).zip((100_000..2_900_000).step_by(290_000)) {
            let size = from + 290_000;
            peer.send(&Message::Open { stage, hint: path(""), size: 290_000 }, b"");
            for (at, piece) in content[from..size].chunks(100_000).enumerate() {
                peer.send(&Message::Data { stage, offset: at as u64 * 100_000 }, piece);
            }
            let next = peer.next;
            let mut more = append("f", version, from, &content[..size]);
            if let Op::Append { stage: of, .. } = &mut more {
                *of = Some(stage);
            }
            assert_eq!(peer.op(more), None);
            version = next;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    peer.bye().unwrap();
}

#[test]
fn what_does_not_fit_is_left_alone() {
    let world = World::new();
    let mut peer = world.connect();
    let content = some(200_000);
    let version = put(&mut peer, "f", &content[..190_000]);
    let other = Some(Outcome::OtherVersion);
    let untouched = |peer: &mut Peer, what: &str, at: &str, op: Op, rest: &[u8]| {
        assert_eq!(peer.ops(vec![(op, rest)]).remove(0), other, "{what}");
        assert!(fs::read(world.at(at)).unwrap() == content[..190_000], "{what}");
    };
    let good = append("f", version, 190_000, &content);
    let mut wrong = content.clone();
    wrong[7] ^= 1;
    untouched(&mut peer, "hash", "f", append("f", version, 190_000, &wrong), &content[190_000..]);
    untouched(&mut peer, "size", "f", append("f", version, 189_999, &content), &content[189_999..]);
    untouched(&mut peer, "version", "f", append("f", 0, 190_000, &content), &content[190_000..]);
    fs::hard_link(world.at("f"), world.at("g")).unwrap();
    untouched(&mut peer, "links", "f", good, &content[190_000..]);
    fs::remove_file(world.at("g")).unwrap();
    // Each of these changed it by the way.
    let version = put(&mut peer, "p", &content[..190_000]);
    fs::rename(world.at("p"), world.at("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", world.at("p")).unwrap();
    untouched(&mut peer, "link", "p", append("p", version, 190_000, &content), &content[190_000..]);
    assert_eq!(grow(&mut peer, "missing", version, 190_000, &content), other);
    assert_eq!(grow(&mut peer, "no/parent", version, 190_000, &content), Some(Outcome::NoParent));
    fs::create_dir(world.at("d")).unwrap();
    assert_eq!(grow(&mut peer, "d", version, 190_000, &content), other);
    peer.bye().unwrap();
}

#[test]
fn what_is_being_executed_does_not_grow() {
    let world = World::new();
    let mut peer = world.connect();
    let program = fs::read("/bin/sleep").or_else(|_| fs::read("/usr/bin/sleep")).unwrap();
    // What is behind the program does not keep it from running.
    let mut content = program.clone();
    content.resize(program.len().max(100_000) + 1000, 0);
    let from = content.len() - 1000;
    let version = put(&mut peer, "f", &content[..from]);
    let mode = Op::Meta { path: path("f"), kind: Kind::File, meta: meta(0o755, 42) };
    assert_eq!(peer.op(mode), None);
    let mut child = std::process::Command::new(world.at("f")).arg("600").spawn().unwrap();
    let outcome = grow(&mut peer, "f", version, from, &content);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(outcome, Some(Outcome::OtherVersion));
    assert_eq!(fs::metadata(world.at("f")).unwrap().len(), from as u64);
    peer.bye().unwrap();
}

/// Writes fail from the `after`-th on.
struct Full {
    armed: &'static AtomicBool,
    after: AtomicUsize,
}

impl Faults for Full {
    fn before(&self, call: Call, _: &RelPath) -> Result<(), Errno> {
        let counts = call == Call::Write && self.armed.load(Ordering::Relaxed);
        if counts && self.after.fetch_sub(1, Ordering::Relaxed) == 1 {
            return Err(Errno::NOSPC);
        }
        Ok(())
    }
}

#[test]
fn a_full_disk_leaves_it_as_it_was() {
    static ARMED: AtomicBool = AtomicBool::new(false);
    let world = World::new().with_faults(Full { armed: &ARMED, after: AtomicUsize::new(4) });
    let mut peer = world.connect();
    let content = some(1_000_000);
    let version = put(&mut peer, "f", &content[..200_000]);
    peer.send(&Message::Open { stage: 9, hint: path(""), size: 800_000 }, b"");
    peer.send(&Message::Data { stage: 9, offset: 0 }, &content[200_000..]);
    ARMED.store(true, Ordering::Relaxed);
    let mut more = append("f", version, 200_000, &content);
    if let Op::Append { stage, .. } = &mut more {
        *stage = Some(9);
    }
    let outcome = peer.op(more);
    let Some(Outcome::Problem(trouble)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(trouble.errno, Errno::NOSPC.raw_os_error());
    assert!(fs::read(world.at("f")).unwrap() == content[..200_000]);
    let found = fs::metadata(world.at("f")).unwrap();
    assert_eq!((found.mtime(), found.mtime_nsec()), (42, 5), "as it was");
    assert_eq!(world.stages(), [] as [std::path::PathBuf; 0]);
    peer.bye().unwrap();
}

/// Counts what is read back.
struct Counted(&'static AtomicUsize);

impl Faults for Counted {
    fn before(&self, call: Call, _: &RelPath) -> Result<(), Errno> {
        if call == Call::Check {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn a_known_base_is_not_read_back() {
    static READ: AtomicUsize = AtomicUsize::new(0);
    let world = World::new().with_faults(Counted(&READ));
    let mut peer = world.connect();
    let content = some(64 * 16 * 1024);
    let version = put(&mut peer, "f", &content);
    let size = content.len() as u64;
    peer.send(&Message::Open { stage: 9, hint: path(""), size }, b"");
    peer.send(&Message::Base { stage: 9, path: path("f"), version: Some(version) }, b"");
    peer.send(&Message::Copy { stage: 9, copies: vec![(0, 0, size)] }, b"");
    let mut new = content.clone();
    new[500_000..500_100].fill(7);
    peer.send(&Message::Data { stage: 9, offset: 500_000 }, &new[500_000..500_100]);
    let commit =
        Op::Commit { path: path("f"), stage: 9, size, meta: meta(0o644, 44), hash: hash(&new) };
    let ids = peer.send_ops(vec![(commit, b"")]);
    let said = loop {
        match peer.receive() {
            Message::BaseIs { known, .. } => assert!(known),
            Message::Credit { .. } => {}
            Message::Acks { done, outcomes, .. } => {
                assert_eq!(done, [(ids.start, 1)]);
                break outcomes;
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said, []);
    assert_eq!(READ.load(Ordering::Relaxed), 1, "nothing but the block that changed");
    assert!(fs::read(world.at("f")).unwrap() == new);
    assert!(known(&mut peer, "f", ids.start), "what was put together is a version too");
    assert_eq!(File::open(world.at("f")).unwrap().metadata().unwrap().mode() & 0o777, 0o644);
    fs::set_permissions(world.at("f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!known(&mut peer, "f", ids.start), "somebody else's change");
    peer.bye().unwrap();
}
