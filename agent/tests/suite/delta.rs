//! Content that is copied from a base: sums, copies, and what is checked in the end.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::delta::sums::put_sums;
use lsync_protocol::delta::tree;
use lsync_protocol::message::{Hash, MAX_COPY, Message, Op, Outcome, SumHow};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::peer::{Peer, World, meta, path, until};
use super::process::{AGENT, greet_process, start};

/// Bytes of a block that is compared where it stands.
const BLOCK: usize = 16 << 10;

fn hash(content: &[u8]) -> Hash {
    *blake3::hash(content).as_bytes()
}

fn commit(at: &str, stage: u32, content: &[u8]) -> Op {
    let size = content.len() as u64;
    Op::Commit { path: path(at), stage, size, meta: meta(0o640, 42), hash: hash(content) }
}

/// Bytes that do not repeat.
fn some(size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    blake3::Hasher::new().update(b"some").finalize_xof().fill(&mut content);
    content
}

/// Opens a stage with a base: its size, if there is one.
fn based(peer: &mut Peer, stage: u32, base: &str) -> Option<u64> {
    peer.send(&Message::Open { stage, hint: path(""), size: 0 }, b"");
    ask_base(peer, stage, base)
}

fn ask_base(peer: &mut Peer, stage: u32, base: &str) -> Option<u64> {
    peer.send(&Message::Base { stage, path: path(base), version: None }, b"");
    loop {
        match peer.receive() {
            Message::BaseIs { stage: of, size, .. } => {
                assert_eq!(of, stage);
                return size;
            }
            Message::Sums { stage: of, .. } if of != stage => {}
            Message::Credit { bulk } => peer.bulk += u64::from(bulk),
            other => panic!("{other:?}"),
        }
    }
}

fn ask(peer: &mut Peer, stage: u32, how: SumHow, block: usize, ranges: &[(u64, u64)]) {
    let ask = Message::AskSums { stage, how, block: block as u32, ranges: ranges.to_vec() };
    peer.send(&ask, b"");
}

/// So many bytes of sums; fewer when the agent says that there are no more.
fn sums(peer: &mut Peer, stage: u32, want: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < want {
        match peer.receive() {
            Message::Sums { stage: of, .. } if of != stage => {}
            Message::Sums { sums, .. } => {
                if sums.is_empty() {
                    break;
                }
                all.extend(sums);
            }
            Message::Credit { bulk } => peer.bulk += u64::from(bulk),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// Learns the sums of a whole base, as a source does before it copies.
fn learn(peer: &mut Peer, stage: u32, size: usize) {
    ask(peer, stage, SumHow::Same, BLOCK, &[(0, size as u64)]);
    let want = size.div_ceil(BLOCK) * 16;
    assert_eq!(sums(peer, stage, want).len(), want);
}

fn copy(peer: &mut Peer, stage: u32, copies: &[(u64, u64, u64)]) {
    peer.send(&Message::Copy { stage, copies: copies.to_vec() }, b"");
}

fn data(peer: &mut Peer, stage: u32, offset: u64, bytes: &[u8]) {
    peer.send(&Message::Data { stage, offset }, bytes);
}

fn trouble(peer: &mut Peer, stage: u32) -> String {
    loop {
        match peer.receive() {
            Message::StageTrouble { stage: of, trouble } => {
                assert_eq!(of, stage);
                return trouble.text;
            }
            Message::Credit { bulk } => peer.bulk += u64::from(bulk),
            other => panic!("{other:?}"),
        }
    }
}

fn problem(outcome: Option<Outcome>) -> String {
    let Some(Outcome::Problem(trouble)) = outcome else { panic!("{outcome:?}") };
    trouble.text
}

/// Waits until its times are so old that a further change would show in them.
fn rest(world: &World, name: &str) {
    let found = fs::metadata(world.at(name)).unwrap();
    let then = Duration::new(found.ctime() as u64, found.ctime_nsec() as u32);
    until("the file rested", || {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() > then + Duration::from_millis(2050)
    });
}

#[test]
fn sums_are_those_of_the_content() {
    let world = World::new();
    let content = some(9 * BLOCK + 100);
    fs::write(world.at("f"), &content).unwrap();
    let mut peer = world.connect();
    let size = content.len() as u64;
    assert_eq!(based(&mut peer, 1, "f"), Some(size));
    let block = BLOCK as u64;
    let ranges = [(2 * block, 3 * block), (0, block), (8 * block, block + 100)];
    ask(&mut peer, 1, SumHow::Same, BLOCK, &ranges);
    let mut want = Vec::new();
    for number in [2, 3, 4, 0, 8, 9] {
        let end = content.len().min((number + 1) * BLOCK);
        let chain = tree::chain((number * BLOCK) as u64, &content[number * BLOCK..end]);
        want.extend_from_slice(&tree::short(&chain));
    }
    assert_eq!(sums(&mut peer, 1, want.len()), want);
    let ranges = [(5, 10_000), (size - 1030, 1030), (0, 1)];
    ask(&mut peer, 1, SumHow::Search, 1024, &ranges);
    let mut want = Vec::new();
    for (at, len) in ranges {
        let bytes = &content[at as usize..(at + len) as usize];
        put_sums(&world.hello().key, 1024, bytes, &mut want);
    }
    assert_eq!(sums(&mut peer, 1, want.len()), want);
    assert!(peer.bye().is_ok());
}

#[test]
fn many_sums_come_in_bounded_messages_and_in_order() {
    let world = World::new();
    let content = some(9 << 20);
    fs::write(world.at("f"), &content).unwrap();
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    let (mut want, mut ranges) = (Vec::new(), Vec::new());
    for (number, bytes) in content.chunks(3 << 20).enumerate() {
        put_sums(&world.hello().key, 1024, bytes, &mut want);
        ranges.push(((number * (3 << 20)) as u64, bytes.len() as u64));
    }
    for range in ranges {
        ask(&mut peer, 1, SumHow::Search, 1024, &[range]);
    }
    assert_eq!(sums(&mut peer, 1, want.len()), want);
    // A block that is larger than what is read at a time.
    ask(&mut peer, 1, SumHow::Search, 4 << 20, &[(1, (9 << 20) - 1)]);
    let mut want = Vec::new();
    put_sums(&world.hello().key, 4 << 20, &content[1..], &mut want);
    assert_eq!(sums(&mut peer, 1, want.len()), want);
}

#[test]
fn copies_and_content_in_any_order_give_the_file() {
    let world = World::new();
    let old = some(40 * BLOCK + 77);
    fs::write(world.at("f"), &old).unwrap();
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    learn(&mut peer, 1, old.len());
    let block = BLOCK as u64;
    let mut new = old;
    new[5 * BLOCK..5 * BLOCK + 3].copy_from_slice(b"abc");
    new[20 * BLOCK + 7..22 * BLOCK].fill(b'x');
    new.extend_from_slice(b"tail");
    data(&mut peer, 1, 40 * block + 77, b"tail");
    copy(&mut peer, 1, &[(22 * block, 22 * block, 18 * block + 77), (0, 0, 5 * block)]);
    data(&mut peer, 1, 5 * block, &new[5 * BLOCK..6 * BLOCK]);
    data(&mut peer, 1, 20 * block, &new[20 * BLOCK..22 * BLOCK]);
    copy(&mut peer, 1, &[(6 * block, 6 * block, 14 * block)]);
    assert_eq!(peer.op(commit("f", 1, &new)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), new);
    assert!(peer.bye().is_ok());
    assert!(world.stages().is_empty());
}

#[test]
fn shifted_copies_give_the_file() {
    let world = World::new();
    let old = some(30 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    rest(&world, "f");
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    learn(&mut peer, 1, old.len());
    let new = [b"inserted", &old[3..], &old[..100]].concat();
    let len = old.len() as u64;
    copy(&mut peer, 1, &[(len + 5, 0, 100), (8, 3, len - 3)]);
    data(&mut peer, 1, 0, b"inserted");
    assert_eq!(peer.op(commit("g", 1, &new)), None);
    assert_eq!(fs::read(world.at("g")).unwrap(), new);
    assert_eq!(fs::read(world.at("f")).unwrap(), old);
}

#[test]
fn holes_of_a_base_stay_holes() {
    let world = World::new();
    let size = 64 << 20;
    let file = File::create(world.at("f")).unwrap();
    file.write_at(b"begin", 0).unwrap();
    file.write_at(b"middle", 30 << 20).unwrap();
    file.set_len(size).unwrap();
    let old = fs::read(world.at("f")).unwrap();
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    let quarters = [0, 1, 2, 3].map(|i| (i * MAX_COPY, i * MAX_COPY, MAX_COPY));
    // What was there has to go where the base has a hole.
    data(&mut peer, 1, 5 << 20, &[7; 300_000]);
    for i in [2, 0, 3, 1] {
        copy(&mut peer, 1, &[quarters[i]]);
    }
    assert_eq!(peer.op(commit("g", 1, &old)), None);
    assert!(fs::read(world.at("g")).unwrap() == old);
    let blocks = fs::metadata(world.at("g")).unwrap().blocks() * 512;
    assert!(blocks < 1 << 20, "{blocks}");
}

#[test]
fn only_a_file_beneath_the_root_is_a_base() {
    let world = World::new();
    fs::write(world.dir.path().join("outside"), b"secret").unwrap();
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/f"), b"x").unwrap();
    symlink("../outside", world.at("out")).unwrap();
    symlink("d/f", world.at("in")).unwrap();
    symlink("d", world.at("dir")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.at("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let mut peer = world.connect();
    for (stage, base) in
        ["missing", "no/where", "d", "out", "in", "dir/f", "d/f/x", "fifo"].iter().enumerate()
    {
        assert_eq!(based(&mut peer, stage as u32, base), None, "{base}");
    }
    assert_eq!(based(&mut peer, 100, "d/f"), Some(1));
    // Without a base a stage is as any other; but nothing can be copied or asked.
    data(&mut peer, 0, 0, b"whole");
    assert_eq!(peer.op(commit("f", 0, b"whole")), None);
    ask(&mut peer, 1, SumHow::Search, 1024, &[(0, 1)]);
    assert_eq!(sums(&mut peer, 1, 1), b"");
    copy(&mut peer, 1, &[(0, 0, 1)]);
    assert_eq!(trouble(&mut peer, 1), "there is no base to copy from");
    assert_eq!(problem(peer.op(commit("g", 1, b"x"))), "there is no base to copy from");
    assert!(peer.bye().is_ok());
    assert!(world.stages().is_empty());
}

#[test]
fn where_there_is_no_base_another_may_be_named() {
    let world = World::new();
    let old = some(20 * BLOCK);
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/f"), &old).unwrap();
    symlink("d/f", world.at("link")).unwrap();
    let mut peer = world.connect();
    assert_eq!(based(&mut peer, 1, "missing"), None);
    for none in ["d", "link", "no/where"] {
        assert_eq!(ask_base(&mut peer, 1, none), None, "{none}");
    }
    assert_eq!(ask_base(&mut peer, 1, "d/f"), Some(old.len() as u64));
    learn(&mut peer, 1, old.len());
    // What it is called by then, or whether at all, does not matter.
    fs::remove_file(world.at("d/f")).unwrap();
    copy(&mut peer, 1, &[(0, 0, old.len() as u64)]);
    assert_eq!(peer.op(commit("g", 1, &old)), None);
    assert_eq!(fs::read(world.at("g")).unwrap(), old);
    assert!(peer.bye().is_ok());
}

#[test]
fn nothing_beyond_a_base_is_summed_or_copied() {
    let world = World::new();
    let old = some(3 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    let mut peer = world.connect();
    let size = old.len() as u64;
    based(&mut peer, 1, "f");
    for range in [(size - 1, 2), (size, 1), (1 << 60, 5)] {
        ask(&mut peer, 1, SumHow::Search, 1024, &[(0, 5), range]);
        assert_eq!(sums(&mut peer, 1, 1), b"", "{range:?}");
    }
    // What comes next is answered.
    learn(&mut peer, 1, old.len());
    copy(&mut peer, 1, &[(0, 1, size)]);
    assert_eq!(trouble(&mut peer, 1), "the base is shorter than it was");
    based(&mut peer, 2, "f");
    copy(&mut peer, 2, &[(0, u64::MAX - 5, 5)]);
    assert!(!trouble(&mut peer, 2).is_empty());
    for (stage, at) in [(1, "a"), (2, "b")] {
        assert!(!problem(peer.op(commit(at, stage, &old))).is_empty());
    }
    assert!(world.stages().is_empty());
}

#[test]
fn a_base_that_is_cut_meanwhile_is_said() {
    let world = World::new();
    let old = some(30 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    OpenOptions::new().write(true).open(world.at("f")).unwrap().set_len(5).unwrap();
    ask(&mut peer, 1, SumHow::Same, BLOCK, &[(0, old.len() as u64)]);
    assert_eq!(sums(&mut peer, 1, 1), b"");
    data(&mut peer, 1, 0, b"12345");
    copy(&mut peer, 1, &[(5, 0, 9)]);
    assert_eq!(trouble(&mut peer, 1), "the base is shorter than it was");
    assert_eq!(problem(peer.op(commit("f", 1, &old))), "the base is shorter than it was");
    assert!(world.stages().is_empty());
}

/// Counts what is read back; fails what it is told to fail.
#[derive(Default)]
struct Watch {
    checks: AtomicUsize,
    unreadable: AtomicBool,
}

struct Watching(Arc<Watch>);

impl Faults for Watching {
    fn before(&self, call: Call, _: &RelPath) -> Result<(), Errno> {
        match call {
            Call::Check => {
                self.0.checks.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Call::Read if self.0.unreadable.load(Ordering::SeqCst) => Err(Errno::IO),
            _ => Ok(()),
        }
    }
}

fn watched() -> (World, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    (World::new().with_faults(Watching(watch.clone())), watch)
}

#[test]
fn only_what_is_not_the_bases_is_read_back() {
    let (world, watch) = watched();
    let old = some(200 * BLOCK + 9);
    fs::write(world.at("f"), &old).unwrap();
    rest(&world, "f");
    let mut peer = world.connect();
    let block = BLOCK as u64;
    let checks = |peer: &mut Peer, stage: u32, new: &[u8], refused: bool| {
        let before = watch.checks.load(Ordering::SeqCst);
        let outcome = peer.op(commit("g", stage, new));
        if refused {
            assert_eq!(problem(outcome), "the content does not match its hash");
        } else {
            assert_eq!(outcome, None);
            assert!(fs::read(world.at("g")).unwrap() == new);
        }
        watch.checks.load(Ordering::SeqCst) - before
    };
    let mut new = old.clone();
    new[7 * BLOCK] ^= 1;
    new[90 * BLOCK + 5] ^= 1;
    let build = |peer: &mut Peer, stage: u32, new: &[u8]| {
        based(peer, stage, "f");
        learn(peer, stage, old.len());
        let all = [0, 8, 91, 201].windows(2).map(|pair| {
            let end =
                (pair[1] as u64 * block - block * u64::from(pair[1] < 201)).min(old.len() as u64);
            (pair[0] as u64 * block, pair[0] as u64 * block, end - pair[0] as u64 * block)
        });
        copy(peer, stage, &all.collect::<Vec<_>>());
        for number in [7, 90] {
            data(peer, stage, (number * BLOCK) as u64, &new[number * BLOCK..][..BLOCK]);
        }
    };
    build(&mut peer, 1, &new);
    assert_eq!(checks(&mut peer, 1, &new, false), 2, "the two blocks that came");
    // A wrong hash is found, whichever block it is about.
    build(&mut peer, 2, &new);
    let mut other = new.clone();
    other[150 * BLOCK] ^= 1;
    assert_eq!(checks(&mut peer, 2, &other, true), 2);
    // What is overwritten after it was copied, by content or by another copy, is read.
    build(&mut peer, 3, &new);
    data(&mut peer, 3, 100 * block - 1, b"ab");
    copy(&mut peer, 3, &[(120 * block, 0, 5)]);
    let mut other = new.clone();
    other[100 * BLOCK - 1..100 * BLOCK + 1].copy_from_slice(b"ab");
    other[120 * BLOCK..120 * BLOCK + 5].copy_from_slice(&old[..5]);
    assert_eq!(checks(&mut peer, 3, &other, false), 4);
    // Shorter and longer contents: the last block is another one.
    build(&mut peer, 4, &new);
    assert_eq!(checks(&mut peer, 4, &new[..180 * BLOCK + 3], false), 3);
    build(&mut peer, 5, &new);
    let mut longer = new.clone();
    longer.resize(200 * BLOCK + 20, 0);
    assert_eq!(checks(&mut peer, 5, &longer, false), 3);
    // A block that is put together of two copies is read, too.
    based(&mut peer, 6, "f");
    learn(&mut peer, 6, old.len());
    let len = old.len() as u64 - 2 * block;
    copy(&mut peer, 6, &[(0, 0, block + 9), (block + 9, block + 9, block - 9)]);
    copy(&mut peer, 6, &[(2 * block, 2 * block, len)]);
    assert_eq!(checks(&mut peer, 6, &old, false), 1);
}

#[test]
fn a_base_that_changed_after_its_sums_proves_nothing() {
    let (world, watch) = watched();
    let old = some(100 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    rest(&world, "f");
    let mut peer = world.connect();
    let copies = [(0, 0, old.len() as u64)];
    let changed = |offset: usize| {
        let file = OpenOptions::new().write(true).open(world.at("f")).unwrap();
        file.write_at(b"changed", offset as u64).unwrap();
        fs::read(world.at("f")).unwrap()
    };
    based(&mut peer, 1, "f");
    learn(&mut peer, 1, old.len());
    let now = changed(50 * BLOCK);
    copy(&mut peer, 1, &copies);
    // What was copied is not what was summed.
    let refused = problem(peer.op(commit("g", 1, &old)));
    assert_eq!(refused, "the content does not match its hash");
    rest(&world, "f");
    based(&mut peer, 2, "f");
    learn(&mut peer, 2, old.len());
    let new = changed(3 * BLOCK);
    assert_ne!(now, new);
    copy(&mut peer, 2, &copies);
    let before = watch.checks.load(Ordering::SeqCst);
    assert_eq!(peer.op(commit("g", 2, &new)), None);
    assert!(watch.checks.load(Ordering::SeqCst) > before + 1, "all of it is read");
    assert!(fs::read(world.at("g")).unwrap() == new);
    // One that changed just before may change again within the same tick.
    based(&mut peer, 3, "f");
    learn(&mut peer, 3, old.len());
    copy(&mut peer, 3, &copies);
    let before = watch.checks.load(Ordering::SeqCst);
    assert_eq!(peer.op(commit("h", 3, &new)), None);
    assert!(watch.checks.load(Ordering::SeqCst) > before + 1, "all of it is read");
}

#[test]
fn a_base_that_loses_its_name_is_still_there() {
    let world = World::new();
    let old = some(20 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    rest(&world, "f");
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    learn(&mut peer, 1, old.len());
    fs::write(world.at("other"), b"other").unwrap();
    fs::rename(world.at("other"), world.at("f")).unwrap();
    learn(&mut peer, 1, old.len());
    copy(&mut peer, 1, &[(0, 0, old.len() as u64)]);
    assert_eq!(peer.op(commit("f", 1, &old)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), old);
}

#[test]
fn a_base_that_cannot_be_read_is_said_once() {
    let (world, watch) = watched();
    let old = some(20 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    watch.unreadable.store(true, Ordering::SeqCst);
    ask(&mut peer, 1, SumHow::Same, BLOCK, &[(0, 5)]);
    assert_eq!(sums(&mut peer, 1, 1), b"");
    copy(&mut peer, 1, &[(0, 0, 5)]);
    let said = trouble(&mut peer, 1);
    assert_eq!(said, "input/output error");
    watch.unreadable.store(false, Ordering::SeqCst);
    copy(&mut peer, 1, &[(0, 0, 5)]);
    assert_eq!(problem(peer.op(commit("f", 1, &old))), said);
    assert_eq!(fs::read(world.at("f")).unwrap(), old);
}

#[test]
fn credit_of_copies_comes_back_exactly() {
    let world = World::new();
    let old = some(20 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    let mut peer = world.connect();
    based(&mut peer, 1, "f");
    based(&mut peer, 2, "missing");
    let mut took = 0;
    for (stage, copies) in [
        (1, vec![(0, 0, 5)]),
        (1, vec![(0, 0, 20 * BLOCK as u64), (7, 100, 640)]),
        (1, vec![(0, 1 << 40, 9 << 20)]),
        (1, vec![(0, 0, 9 << 20)]),
        (2, vec![(0, 0, 5); 300]),
    ] {
        let message = Message::Copy { stage, copies };
        took += u64::from(message.bulk_cost(0));
        peer.send(&message, b"");
    }
    peer.send(&Message::Abort { stage: 1 }, b"");
    data(&mut peer, 2, 0, b"abc");
    took += 3;
    while peer.bulk < took {
        match peer.receive() {
            Message::Credit { bulk } => peer.bulk += u64::from(bulk),
            Message::StageTrouble { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(peer.bulk, took);
    assert!(peer.bye().is_ok());
    assert!(world.stages().is_empty());
}

/// A base that takes hours to read, though it takes no room.
fn endless(world: &World) -> u64 {
    let size = 1 << 43;
    File::create(world.at("large")).unwrap().set_len(size).unwrap();
    size
}

#[test]
fn a_large_base_keeps_no_other_waiting_and_ends_with_its_stage() {
    let world = World::new();
    let size = endless(&world);
    let old = some(20 * BLOCK);
    fs::write(world.at("f"), &old).unwrap();
    let mut peer = world.connect();
    assert_eq!(based(&mut peer, 1, "large"), Some(size));
    ask(&mut peer, 1, SumHow::Same, 64 << 20, &[(0, size)]);
    ask(&mut peer, 1, SumHow::Search, 16 << 20, &[(0, 1 << 40)]);
    assert_eq!(based(&mut peer, 2, "f"), Some(old.len() as u64));
    learn(&mut peer, 2, old.len());
    copy(&mut peer, 2, &[(0, 0, old.len() as u64)]);
    assert_eq!(peer.op(commit("g", 2, &old)), None);
    peer.send(&Message::Abort { stage: 1 }, b"");
    // Nothing of it goes on: what is asked now is answered, and the agent ends at once.
    assert_eq!(based(&mut peer, 3, "f"), Some(old.len() as u64));
    learn(&mut peer, 3, old.len());
    assert!(peer.bye().is_ok());

    let mut peer = world.connect();
    based(&mut peer, 1, "large");
    ask(&mut peer, 1, SumHow::Same, 1 << 30, &[(0, size)]);
    assert!(peer.cut().is_ok());
    assert!(world.stages().is_empty());
}

#[test]
fn a_confined_process_reads_a_base_and_its_memory_stays_flat() {
    let world = World::new();
    let size: u64 = 2 << 30;
    File::create(world.at("large")).unwrap().set_len(size).unwrap();
    let mut child = start(&world, Command::new(AGENT));
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    for stage in 1..=3 {
        assert_eq!(based(&mut peer, stage, "large"), Some(size));
        let (block, count) = (1 << 20, size >> 20);
        ask(&mut peer, stage, SumHow::Same, block, &[(0, size)]);
        assert_eq!(sums(&mut peer, stage, 16 * count as usize).len(), 16 * count as usize);
        let chain = tree::chain(0, &vec![0; block]);
        ask(&mut peer, stage, SumHow::Search, block, &[(7, block as u64 * 3)]);
        assert_eq!(sums(&mut peer, stage, 36).len(), 36);
        ask(&mut peer, stage, SumHow::Same, block, &[(0, block as u64)]);
        assert_eq!(sums(&mut peer, stage, 16), tree::short(&chain));
    }
    for at in (0..size).step_by(MAX_COPY as usize) {
        copy(&mut peer, 1, &[(at, at, MAX_COPY)]);
        let cost = Message::Copy { stage: 1, copies: vec![(at, at, MAX_COPY)] }.bulk_cost(0);
        let want = peer.bulk + u64::from(cost);
        while peer.bulk < want {
            let Message::Credit { bulk } = peer.receive() else { panic!() };
            peer.bulk += u64::from(bulk);
        }
    }
    peer.send(&Message::Abort { stage: 1 }, b"");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 64 << 10, "{peak} KiB");
    drop(peer);
    assert!(child.wait().unwrap().success());
    assert!(world.stages().is_empty());
}
