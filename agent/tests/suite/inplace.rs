//! Writing into files that are there (`--inplace`): they stay the same files, only what differs is
//! written, and what goes wrong is known to have.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::message::{Hash, Message, Op, OpId, Outcome};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::{ACL_ACCESS, Classes, Xattr, Xattrs};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::peer::{Peer, World, meta, path};
use super::process::{AGENT, greet_process, no_problem, start};

const BLOCK: usize = 16 << 10;

fn hash(content: &[u8]) -> Hash {
    *blake3::hash(content).as_bytes()
}

/// Bytes that do not repeat.
fn some(seed: u64, size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

fn inplace(world: &World) -> Peer {
    let mut hello = world.hello();
    hello.inplace = true;
    world.connect_as(&hello)
}

fn inode(world: &World, at: &str) -> u64 {
    fs::symlink_metadata(world.at(at)).unwrap().ino()
}

/// What a file takes on disk, in bytes.
fn taken(world: &World, at: &str) -> u64 {
    fs::metadata(world.at(at)).unwrap().blocks() * 512
}

fn time(world: &World, at: &str) -> (i64, i64) {
    let found = fs::metadata(world.at(at)).unwrap();
    (found.mtime(), found.mtime_nsec())
}

/// Puts a new file there, of long ago.
fn stand(world: &World, at: &str, content: &[u8]) -> u64 {
    fs::write(world.at(at), content).unwrap();
    let file = OpenOptions::new().write(true).open(world.at(at)).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(7)).unwrap();
    inode(world, at)
}

/// What makes a content.
enum Made<'a> {
    /// From the base: where to, where from, how much.
    Copied(u64, u64, u64),
    Sent(u64, &'a [u8]),
}

/// Gives a stage a base: its size, if there is one, and whether it is that version.
fn based(peer: &mut Peer, stage: u32, base: &str, version: Option<OpId>) -> (Option<u64>, bool) {
    peer.send(&Message::Base { stage, path: path(base), version }, b"");
    loop {
        match peer.receive() {
            Message::BaseIs { size, known, .. } => return (size, known),
            Message::Credit { bulk } => peer.bulk += u64::from(bulk),
            other => panic!("{other:?}"),
        }
    }
}

/// Makes a content in a stage; returns when all of it is there.
fn stage(peer: &mut Peer, stage: u32, size: u64, base: Option<&str>, made: &[Made<'_>]) {
    peer.send(&Message::Open { stage, hint: path(""), size }, b"");
    if let Some(base) = base {
        assert!(based(peer, stage, base, None).0.is_some());
    }
    let mut credit = peer.bulk;
    let mut send = |message: Message, bytes: &[u8]| {
        credit += u64::from(message.bulk_cost(bytes.len()));
        peer.send(&message, bytes);
    };
    for made in made {
        match *made {
            Made::Copied(to, from, len) => {
                send(Message::Copy { stage, copies: vec![(to, from, len)] }, b"");
            }
            Made::Sent(offset, bytes) => {
                for (number, piece) in bytes.chunks(100_000).enumerate() {
                    let offset = offset + number as u64 * 100_000;
                    send(Message::Data { stage, offset }, piece);
                }
            }
        }
    }
    while peer.bulk < credit {
        match peer.receive() {
            Message::Credit { bulk } => peer.bulk += u64::from(bulk),
            other => panic!("{other:?}"),
        }
    }
}

fn commit(at: &str, stage: u32, content: &[u8], meta: Meta) -> Op {
    let size = content.len() as u64;
    Op::Commit { path: path(at), stage, size, meta, hash: hash(content) }
}

/// Sends a content whole and has it put in place.
fn put(peer: &mut Peer, at: &str, content: &[u8]) -> Option<Outcome> {
    stage(peer, 1, content.len() as u64, None, &[Made::Sent(0, content)]);
    peer.op(commit(at, 1, content, meta(0o640, 42)))
}

/// Counts calls, and makes one of each class fail.
#[derive(Default)]
struct Calls {
    counts: std::sync::Mutex<BTreeMap<String, usize>>,
    /// This class, from the so-manieth call on, with this error.
    fail: std::sync::Mutex<Option<(Call, usize, Errno)>>,
}

impl Calls {
    fn reset(&self) {
        self.counts.lock().unwrap().clear();
    }

    fn count(&self, call: Call) -> usize {
        self.counts.lock().unwrap().get(&format!("{call:?}")).copied().unwrap_or(0)
    }

    fn fail(&self, call: Call, from: usize, error: Errno) {
        self.reset();
        *self.fail.lock().unwrap() = Some((call, from, error));
    }

    fn mend(&self) {
        *self.fail.lock().unwrap() = None;
    }
}

struct Told(Arc<Calls>);

impl Faults for Told {
    fn before(&self, call: Call, _: &RelPath) -> Result<(), Errno> {
        *self.0.counts.lock().unwrap().entry(format!("{call:?}")).or_default() += 1;
        match *self.0.fail.lock().unwrap() {
            Some((of, from, error)) if of == call && self.0.count(call) >= from => Err(error),
            _ => Ok(()),
        }
    }
}

fn counted() -> (World, Arc<Calls>) {
    let calls = Arc::<Calls>::default();
    (World::new().with_faults(Told(calls.clone())), calls)
}

#[track_caller]
fn trouble(outcome: Option<Outcome>) -> (i32, String) {
    match outcome {
        Some(Outcome::Problem(trouble)) => (trouble.errno, trouble.text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_small_file_stays_the_same_file() {
    let (world, calls) = counted();
    let mut peer = inplace(&world);
    let first = stand(&world, "f", b"old content");
    fs::hard_link(world.at("f"), world.at("other")).unwrap();
    let held = File::open(world.at("f")).unwrap();
    for content in [&b"new content"[..], b"new content that is longer", b"short", b""] {
        assert_eq!(peer.file("f", content, meta(0o640, 42)), None);
        assert_eq!(inode(&world, "f"), first);
        assert_eq!(fs::read(world.at("other")).unwrap(), content, "the other name shows it");
        let mut seen = vec![0; content.len()];
        held.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, content, "who holds it open sees it");
        let found = fs::metadata(world.at("f")).unwrap();
        assert_eq!((found.mode() & 0o7777, found.len()), (0o640, content.len() as u64));
        assert_eq!(time(&world, "f"), (42, 5));
    }
    // What is equal is not written.
    let content = some(1, 60_000);
    assert_eq!(peer.file("f", &content, meta(0o640, 42)), None);
    calls.reset();
    assert_eq!(peer.file("f", &content, meta(0o600, 43)), None);
    assert_eq!((calls.count(Call::Write), time(&world, "f")), (0, (43, 5)));
    // Where no mode is wanted it keeps its own.
    fs::set_permissions(world.at("f"), fs::Permissions::from_mode(0o4711)).unwrap();
    let times = Meta { mode: None, ..meta(0, 44) };
    assert_eq!(peer.file("f", b"another", times.clone()), None);
    assert_eq!(fs::metadata(world.at("f")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(peer.file("f", &content, times), None);
    // A new file, and what is no file, come as ever.
    assert_eq!(peer.file("new", b"new", meta(0o600, 1)), None);
    std::os::unix::fs::symlink("f", world.at("link")).unwrap();
    assert_eq!(peer.file("link", b"no link any more", meta(0o600, 1)), None);
    assert_eq!(fs::read(world.at("f")).unwrap(), content, "it was not followed");
    assert!(fs::symlink_metadata(world.at("link")).unwrap().is_file());
    let file = Op::File { path: path("f"), size: 4, meta: meta(0o600, 1) };
    let link = Op::Symlink { path: path("f"), link: (*b"new").into(), meta: Meta::default() };
    let replace = |old, new| Op::Replace { old, new: Box::new(new) };
    assert_eq!(peer.op(replace(Kind::File, link)), None);
    assert_eq!(peer.ops(vec![(replace(Kind::Symlink, file), b"file")]), [None]);
    assert_eq!(fs::read(world.at("other")).unwrap(), content, "a change of kind is another file");
    peer.bye().unwrap();
}

#[test]
fn without_it_files_are_replaced() {
    let world = World::new();
    let mut peer = world.connect();
    let first = stand(&world, "f", b"old");
    fs::hard_link(world.at("f"), world.at("other")).unwrap();
    assert_eq!(peer.file("f", b"new", meta(0o640, 42)), None);
    assert_ne!(inode(&world, "f"), first);
    assert_eq!(fs::read(world.at("other")).unwrap(), b"old");
    peer.bye().unwrap();
}

#[test]
fn of_a_large_file_only_what_differs_is_written() {
    let (world, calls) = counted();
    let mut peer = inplace(&world);
    let mut content = some(1, 3_000_000);
    let first = stand(&world, "f", &content);
    // Brought whole.
    content[1_000_000] ^= 1;
    content[1_000_001..1_005_000].fill(9);
    content[2_500_000] ^= 1;
    stage(&mut peer, 1, 3_000_000, None, &[Made::Sent(0, &content)]);
    calls.reset();
    assert_eq!(peer.op(commit("f", 1, &content, meta(0o640, 42))), None);
    assert_eq!(calls.count(Call::Write), 2, "two places");
    assert!(fs::read(world.at("f")).unwrap() == content);
    assert_eq!((inode(&world, "f"), time(&world, "f")), (first, (42, 5)));
    assert_eq!(world.stages(), [] as [std::path::PathBuf; 0]);
    peer.bye().unwrap();
}

#[test]
fn what_stays_is_neither_copied_nor_written() {
    let (world, calls) = counted();
    let mut peer = inplace(&world);
    let mut content = some(1, 200 * BLOCK + 77);
    let size = content.len() as u64;
    let first = stand(&world, "f", &content);
    let held = File::open(world.at("f")).unwrap();
    let new = some(2, 3000);
    content[100 * BLOCK + 5..][..3000].copy_from_slice(&new);
    let made = [Made::Copied(0, 0, size), Made::Sent(100 * BLOCK as u64 + 5, &new)];
    stage(&mut peer, 1, size, Some("f"), &made);
    let staged: Vec<_> = world.stages();
    let staged = fs::metadata(&staged[0]).unwrap().blocks() * 512;
    assert!(staged <= 2 * BLOCK as u64, "{staged} bytes for one block");
    calls.reset();
    assert_eq!(peer.op(commit("f", 1, &content, meta(0o640, 42))), None);
    assert_eq!(calls.count(Call::Write), 1);
    let mut seen = vec![0; content.len()];
    held.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == content);
    assert_eq!((inode(&world, "f"), time(&world, "f")), (first, (42, 5)));
    peer.bye().unwrap();
}

#[test]
fn it_grows_and_shrinks_and_what_moved_in_it_arrives() {
    let world = World::new();
    let mut peer = inplace(&world);
    let old = some(1, 20 * BLOCK + 777);
    let first = stand(&world, "f", &old);
    let mut round = |new: &[u8], made: &[Made<'_>]| {
        stage(&mut peer, 1, new.len() as u64, Some("f"), made);
        assert_eq!(peer.op(commit("f", 1, new, meta(0o640, 42))), None);
        assert!(fs::read(world.at("f")).unwrap() == new);
        assert_eq!(inode(&world, "f"), first);
    };
    let all = old.len() as u64;
    // A short last block that is not the last any more; with a gap of zeros behind it.
    let mut longer = old;
    longer.resize(25 * BLOCK, 0);
    longer.extend(some(3, 50_000));
    let more = &longer[25 * BLOCK..];
    round(&longer, &[Made::Copied(0, 0, all), Made::Sent(25 * BLOCK as u64, more)]);
    // Bytes put in at the front: all that stays is copied from a place that is written to.
    let front = b"put in at the front";
    let moved = [&front[..], &longer].concat();
    let behind = Made::Copied(front.len() as u64, 0, longer.len() as u64);
    round(&moved, &[Made::Sent(0, front), behind]);
    // Cut in the middle of a block that stays; at last nothing stays.
    let cut = &moved[..10 * BLOCK + 5];
    round(cut, &[Made::Copied(0, 0, cut.len() as u64)]);
    let last = some(9, 3 * BLOCK);
    round(&last, &[Made::Sent(0, &last)]);
    peer.bye().unwrap();
}

#[test]
fn holes_are_made_and_filled() {
    let world = World::new();
    let mut peer = inplace(&world);
    let old = some(1, 64 * BLOCK);
    let first = stand(&world, "f", &old);
    let before = taken(&world, "f");
    // The source has a hole where the base has data.
    let mut new = old;
    new[16 * BLOCK..48 * BLOCK].fill(0);
    let made = |from: usize, to: usize| {
        let (at, len) = ((from * BLOCK) as u64, ((to - from) * BLOCK) as u64);
        Made::Copied(at, at, len)
    };
    stage(&mut peer, 1, new.len() as u64, Some("f"), &[made(0, 16), made(48, 64)]);
    assert_eq!(peer.op(commit("f", 1, &new, meta(0o640, 42))), None);
    assert!(fs::read(world.at("f")).unwrap() == new);
    let less = taken(&world, "f");
    assert!(less <= before / 2 + 64 * 1024, "{less} of {before}");
    // Something in the hole, which stays one otherwise.
    let mut filled = new.clone();
    filled[30 * BLOCK..][..10].copy_from_slice(b"in a hole!");
    let made = [made(0, 64), Made::Sent(30 * BLOCK as u64, b"in a hole!")];
    stage(&mut peer, 1, new.len() as u64, Some("f"), &made);
    assert_eq!(peer.op(commit("f", 1, &filled, meta(0o640, 43))), None);
    assert!(fs::read(world.at("f")).unwrap() == filled);
    assert!(taken(&world, "f") <= less + 2 * BLOCK as u64);
    // Brought whole, with holes, over data.
    let mut sparse = vec![0; 64 * BLOCK];
    sparse[5 * BLOCK..6 * BLOCK].copy_from_slice(&some(5, BLOCK));
    stage(
        &mut peer,
        1,
        sparse.len() as u64,
        None,
        &[Made::Sent(5 * BLOCK as u64, &sparse[5 * BLOCK..6 * BLOCK])],
    );
    assert_eq!(peer.op(commit("f", 1, &sparse, meta(0o640, 44))), None);
    assert!(fs::read(world.at("f")).unwrap() == sparse);
    assert!(taken(&world, "f") <= 2 * BLOCK as u64);
    assert_eq!(inode(&world, "f"), first);
    peer.bye().unwrap();
}

#[test]
fn what_is_not_what_was_meant_leaves_it_alone() {
    let (world, calls) = counted();
    let mut peer = inplace(&world);
    let old = some(1, 40 * BLOCK);
    stand(&world, "f", &old);
    // Another content than was announced.
    let mut new = old.clone();
    new[0] ^= 1;
    let whole = Made::Copied(0, 0, old.len() as u64);
    stage(&mut peer, 1, old.len() as u64, Some("f"), &[whole]);
    let said = trouble(peer.op(commit("f", 1, &new, meta(0o640, 42))));
    assert_eq!(said, (0, "the content does not match its hash".to_owned()));
    assert!(fs::read(world.at("f")).unwrap() == old);
    assert_eq!(time(&world, "f"), (7, 0));
    // Somebody writes to what was borrowed, after the sums and before the commit.
    let whole = Made::Copied(0, 0, old.len() as u64);
    let one = Made::Sent(0, &new[..1]);
    stage(&mut peer, 2, old.len() as u64, Some("f"), &[whole, one]);
    let theirs = OpenOptions::new().write(true).open(world.at("f")).unwrap();
    theirs.write_all_at(b"theirs", 20 * BLOCK as u64).unwrap();
    let then = time(&world, "f");
    trouble(peer.op(commit("f", 2, &new, meta(0o640, 42))));
    let mut expected = old;
    expected[20 * BLOCK..][..6].copy_from_slice(b"theirs");
    assert!(fs::read(world.at("f")).unwrap() == expected);
    assert_eq!(time(&world, "f"), then);
    // It does not keep the next one out.
    let version = peer.next;
    assert_eq!(put(&mut peer, "f", &new), None);
    assert!(fs::read(world.at("f")).unwrap() == new);
    // The same with a version, whose blocks need not be read.
    assert!(known(&mut peer, "f", version));
    peer.send(&Message::Open { stage: 5, hint: path(""), size: new.len() as u64 }, b"");
    assert!(based(&mut peer, 5, "f", Some(version)).1);
    peer.send(&Message::Copy { stage: 5, copies: vec![(0, 0, new.len() as u64)] }, b"");
    theirs.write_all_at(b"theirs", 21 * BLOCK as u64).unwrap();
    calls.reset();
    trouble(peer.op(commit("f", 5, &new, meta(0o640, 42))));
    assert!(calls.count(Call::Check) > 1, "all of it was read");
    assert_eq!(fs::read(world.at("f")).unwrap()[21 * BLOCK..][..6], *b"theirs");
    peer.bye().unwrap();
}

#[test]
fn the_base_may_be_another_file() {
    let world = World::new();
    let mut peer = inplace(&world);
    let old = some(1, 40 * BLOCK + 5);
    let size = old.len() as u64;
    let from = stand(&world, "from", &old);
    let mut new = old.clone();
    new[9 * BLOCK..][..4].copy_from_slice(b"new!");
    let made = || [Made::Copied(0, 0, size), Made::Sent(9 * BLOCK as u64, b"new!")];
    // To a name where there is nothing.
    stage(&mut peer, 1, size, Some("from"), &made());
    assert_eq!(peer.op(commit("to", 1, &new, meta(0o640, 42))), None);
    assert!(fs::read(world.at("to")).unwrap() == new);
    // To a file that has something else.
    let there = stand(&world, "there", &some(2, 7 * BLOCK));
    stage(&mut peer, 1, size, Some("from"), &made());
    assert_eq!(peer.op(commit("there", 1, &new, meta(0o640, 42))), None);
    assert!(fs::read(world.at("there")).unwrap() == new);
    assert_eq!(inode(&world, "there"), there);
    // By a change of kind.
    std::os::unix::fs::symlink("nowhere", world.at("link")).unwrap();
    stage(&mut peer, 1, size, Some("from"), &made());
    let replace =
        Op::Replace { old: Kind::Symlink, new: Box::new(commit("link", 1, &new, meta(0o640, 42))) };
    assert_eq!(peer.op(replace), None);
    assert!(fs::read(world.at("link")).unwrap() == new);
    // The base's own name stands for another file by now.
    stage(&mut peer, 1, size, Some("from"), &made());
    fs::rename(world.at("from"), world.at("kept")).unwrap();
    stand(&world, "from", b"another file");
    assert_eq!(peer.op(commit("from", 1, &new, meta(0o640, 42))), None);
    assert!(fs::read(world.at("from")).unwrap() == new);
    assert!(fs::read(world.at("kept")).unwrap() == old);
    assert_eq!(inode(&world, "kept"), from);
    assert_eq!(world.stages(), [] as [std::path::PathBuf; 0]);
    peer.bye().unwrap();
}

#[test]
fn a_name_that_is_taken_over_stays_the_same_file() {
    let (world, calls) = counted();
    let mut peer = inplace(&world);
    let rename = |from: &str, size: usize| Op::Rename {
        from: path(from),
        to: path("f"),
        kind: Kind::File,
        size: Some(size as u64),
        mtime: None,
    };
    let first = stand(&world, "f", &some(1, 500_000));
    fs::hard_link(world.at("f"), world.at("other")).unwrap();
    for (round, size) in (2..).zip([300_000, 700_000, 5]) {
        let new = some(round, size);
        stand(&world, "f.new", &new);
        fs::set_permissions(world.at("f.new"), fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(peer.op(rename("f.new", size)), None);
        assert!(fs::read(world.at("other")).unwrap() == new);
        assert_eq!((inode(&world, "f"), time(&world, "f")), (first, (7, 0)));
        assert_eq!(fs::metadata(world.at("f")).unwrap().mode() & 0o777, 0o604);
        assert!(!world.at("f.new").exists());
    }
    // What cannot be written to the end is a problem, and both names are still there.
    let new = some(8, 500_000);
    stand(&world, "f.new", &new);
    calls.fail(Call::Write, 3, Errno::IO);
    trouble(peer.op(rename("f.new", new.len())));
    calls.mend();
    assert_ne!(time(&world, "f"), (7, 0));
    assert_eq!(peer.op(rename("f.new", new.len())), None);
    assert!(fs::read(world.at("other")).unwrap() == new);
    // To a name that is free, and between two names of one file: as ever.
    let (from, to) = (path("f"), path("g"));
    let away = Op::Rename { from, to, kind: Kind::File, size: None, mtime: None };
    assert_eq!(peer.op(away), None);
    assert_eq!(inode(&world, "g"), first);
    fs::hard_link(world.at("g"), world.at("f")).unwrap();
    assert_eq!(peer.op(rename("g", new.len())), None);
    assert!(!world.at("g").exists());
    assert_eq!(inode(&world, "f"), first);
    // It is not what it should be.
    stand(&world, "f.new", b"another");
    assert_eq!(peer.op(rename("f.new", 8)), Some(Outcome::Refused));
    assert!(fs::read(world.at("f")).unwrap() == new);
    peer.bye().unwrap();
}

/// Does something before the first write to this path.
struct Meanwhile<F>(&'static str, std::sync::Once, F);

impl<F: Fn() + Send + Sync> Faults for Meanwhile<F> {
    fn before(&self, call: Call, of: &RelPath) -> Result<(), Errno> {
        if call == Call::Write && *of == path(self.0) {
            self.1.call_once(&self.2);
        }
        Ok(())
    }
}

#[test]
fn what_is_written_to_while_it_takes_over_a_name_is_not_taken_for_its_content() {
    let at = Arc::<std::sync::OnceLock<std::path::PathBuf>>::default();
    let known = at.clone();
    let world = World::new().with_faults(Meanwhile("f", std::sync::Once::new(), move || {
        let file = OpenOptions::new().write(true).open(known.get().unwrap()).unwrap();
        file.write_all_at(&some(3, 300_000), 200_000).unwrap();
        // Its other name has a source, too, and gets that one's time.
        file.set_modified(UNIX_EPOCH + Duration::from_secs(7)).unwrap();
    }));
    at.set(world.at("other")).unwrap();
    let mut peer = inplace(&world);
    let first = stand(&world, "f", &some(1, 500_000));
    stand(&world, "f.new", &some(2, 500_000));
    fs::hard_link(world.at("f.new"), world.at("other")).unwrap();
    let (from, to, size) = (path("f.new"), path("f"), Some(500_000));
    let rename = Op::Rename { from, to, kind: Kind::File, size, mtime: None };
    assert_eq!(peer.op(rename), Some(Outcome::Refused));
    assert_ne!(time(&world, "f"), (7, 0), "it says that all of it is there");
    assert_eq!(inode(&world, "f"), first);
    assert!(world.at("f.new").exists());
    peer.bye().unwrap();
}

#[test]
fn what_is_being_executed_is_replaced() {
    let world = World::new();
    let mut peer = inplace(&world);
    let program = fs::read("/bin/sleep").or_else(|_| fs::read("/usr/bin/sleep")).unwrap();
    for content in [&some(1, 100_000)[..], b"small"] {
        let first = stand(&world, "f", &program);
        fs::set_permissions(world.at("f"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(world.at("f")).arg("600").spawn().unwrap();
        let outcome = match content.len() {
            100_000 => put(&mut peer, "f", content),
            _ => peer.file("f", content, meta(0o640, 42)),
        };
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(outcome.is_none() && running, "{outcome:?}");
        assert!(fs::read(world.at("f")).unwrap() == content);
        assert_ne!(inode(&world, "f"), first);
    }
    peer.bye().unwrap();
}

#[test]
fn where_there_is_no_room_it_stays_as_it_was() {
    let (world, calls) = counted();
    let mut peer = inplace(&world);
    let old = some(1, 32 * BLOCK);
    stand(&world, "f", &old);
    let file = OpenOptions::new().write(true).open(world.at("f")).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, hole, 8 * BLOCK as u64, 4 * BLOCK as u64).unwrap();
    let before = taken(&world, "f");
    stand_still(&file);
    let there = fs::read(world.at("f")).unwrap();
    let mut new = some(2, 64 * BLOCK);
    new[..BLOCK].copy_from_slice(&old[..BLOCK]);
    new[40 * BLOCK..44 * BLOCK].fill(0);
    let (front, end) = (&new[..40 * BLOCK], &new[44 * BLOCK..]);
    // For a hole that it has, for what it grows by, and for that behind a hole.
    for from in [1, 2, 3] {
        let made = [Made::Sent(0, front), Made::Sent(44 * BLOCK as u64, end)];
        stage(&mut peer, 1, new.len() as u64, None, &made);
        calls.fail(Call::Write, from, Errno::NOSPC);
        let (errno, text) = trouble(peer.op(commit("f", 1, &new, meta(0o640, 42))));
        assert_eq!((errno, &*text), (Errno::NOSPC.raw_os_error(), "no space left on device"));
        calls.mend();
        assert!(fs::read(world.at("f")).unwrap() == there);
        assert_eq!((time(&world, "f"), taken(&world, "f")), ((7, 0), before));
    }
    assert_eq!(peer.file("f", b"small", meta(0o640, 42)), None);
    peer.bye().unwrap();
}

/// Its time is of long ago.
fn stand_still(file: &File) {
    file.set_modified(UNIX_EPOCH + Duration::from_secs(7)).unwrap();
}

#[test]
fn what_was_written_in_part_is_known_to_be() {
    let (world, calls) = counted();
    let mut hello = world.hello();
    (hello.inplace, hello.fsync) = (true, true);
    let mut peer = world.connect_as(&hello);
    let old = some(1, 300_000);
    let new = some(2, 300_000);
    // The same time as the source's, as it would be of a file that is equal.
    let want = meta(0o4750, 7);
    for (call, from) in [(Call::Write, 1), (Call::Write, 2), (Call::Sync, 1), (Call::Sync, 2)] {
        for small in [false, true] {
            let (old, new) =
                if small { (&old[..9000], &new[..9000]) } else { (&old[..], &new[..]) };
            let first = stand(&world, "f", old);
            fs::set_permissions(world.at("f"), fs::Permissions::from_mode(0o4755)).unwrap();
            let file = OpenOptions::new().write(true).open(world.at("f")).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::new(7, 5)).unwrap();
            if !small {
                stage(&mut peer, 1, new.len() as u64, None, &[Made::Sent(0, new)]);
            }
            // A small one is one write.
            if small && (call, from) == (Call::Write, 2) {
                continue;
            }
            calls.fail(call, from, Errno::IO);
            let outcome = if small {
                peer.file("f", new, want.clone())
            } else {
                peer.op(commit("f", 1, new, want.clone()))
            };
            calls.mend();
            let (errno, text) = trouble(outcome);
            assert_eq!(errno, Errno::IO.raw_os_error());
            assert!(text.ends_with(": the file may be written in part"), "{text}");
            let found = fs::metadata(world.at("f")).unwrap();
            assert_ne!((found.mtime(), found.mtime_nsec()), (7, 5), "{call:?} {from}");
            assert_eq!(found.ino(), first);
            if call == Call::Write {
                // Half of it has no power, and is closed to those to whom the whole will be.
                assert_eq!(found.mode() & 0o7777, 0o750);
            }
            // The next try mends it.
            let outcome = match small {
                true => peer.file("f", new, want.clone()),
                false => {
                    stage(&mut peer, 1, new.len() as u64, None, &[Made::Sent(0, new)]);
                    peer.op(commit("f", 1, new, want.clone()))
                }
            };
            assert_eq!(outcome, None);
            assert!(fs::read(world.at("f")).unwrap() == new);
            assert_eq!(fs::metadata(world.at("f")).unwrap().mode() & 0o7777, 0o4750);
            assert_eq!((inode(&world, "f"), time(&world, "f")), (first, (7, 5)));
        }
    }
    peer.bye().unwrap();
}

#[test]
fn half_a_file_has_no_capability_and_no_list_of_who_may_read_it() {
    let (world, calls) = counted();
    let mut hello = world.hello();
    hello.inplace = true;
    let mut peer = world.connect_as(&hello);
    let list = |user: u32| {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in [
            (1u16, 6u16, u32::MAX),
            (2, 4, user),
            (4, 0, u32::MAX),
            (16, 4, u32::MAX),
            (32, 0, u32::MAX),
        ] {
            value.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
            value.extend(id.to_le_bytes());
        }
        Xattr { name: ACL_ACCESS.to_vec(), value }
    };
    // cap_net_bind_service=ep, as setcap(8) writes it.
    let value = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let capability = Xattr { name: b"security.capability".to_vec(), value };
    let root = rustix::process::geteuid().is_root();
    let classes = Classes::ACLS.with(Classes::PRIVILEGED.only_if(root));
    let with = |user, sec| {
        let all = std::iter::once(list(user)).chain(root.then(|| capability.clone())).collect();
        Meta { xattrs: Xattrs::new(classes, all).ok(), ..meta(0o640, sec) }
    };
    let xattr = |name: &[u8]| {
        let mut value = vec![0; 200];
        let size = rustix::fs::getxattr(world.at("f"), name, &mut value[..]).ok()?;
        value.truncate(size);
        Some(value)
    };
    assert_eq!(peer.file("f", &some(1, 9000), with(1, 5)), None);
    assert_eq!(xattr(ACL_ACCESS), Some(list(1).value));
    calls.fail(Call::Write, 1, Errno::IO);
    assert!(peer.file("f", &some(2, 9000), with(2, 6)).is_some());
    calls.mend();
    // Neither whom the old one was open to may read it, nor whom the new one will be.
    assert_eq!((xattr(ACL_ACCESS), xattr(&capability.name)), (None, None));
    assert_eq!(fs::metadata(world.at("f")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(peer.file("f", &some(2, 9000), with(2, 6)), None);
    assert_eq!(xattr(ACL_ACCESS), Some(list(2).value));
    assert_eq!(xattr(&capability.name), root.then(|| capability.value.clone()));
    assert_eq!(fs::metadata(world.at("f")).unwrap().mode() & 0o7777, 0o640);
    peer.bye().unwrap();
}

/// Sees whether two files are written to at once.
#[derive(Default)]
struct Crowd {
    last: std::sync::Mutex<Option<RelPath>>,
    mixed: AtomicBool,
}

struct Seen(Arc<Crowd>);

impl Faults for Seen {
    fn before(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        // Only the operations have these paths.
        if call == Call::Write && path.as_bytes().ends_with(b"/f") {
            *self.0.last.lock().unwrap() = Some(path.clone());
            std::thread::sleep(Duration::from_millis(2));
            let other = self.0.last.lock().unwrap().as_ref() != Some(path);
            self.0.mixed.fetch_or(other, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn two_names_of_a_file_are_not_written_to_at_once() {
    let crowd = Arc::<Crowd>::default();
    let world = World::new().with_faults(Seen(crowd.clone()));
    let mut peer = inplace(&world);
    let names: Vec<String> = (0..6).map(|number| format!("d{number}/f")).collect();
    for (number, linked) in (0..).zip([false, true]) {
        crowd.mixed.store(false, Ordering::Relaxed);
        for (number, name) in (0..).zip(&names) {
            fs::create_dir_all(world.at(name).parent().unwrap()).unwrap();
            let _ = fs::remove_file(world.at(name));
            if linked && number > 0 {
                fs::hard_link(world.at(&names[0]), world.at(name)).unwrap();
            } else {
                stand(&world, name, &some(number, 1_000_000));
            }
        }
        let contents: Vec<_> = (0..6).map(|n| some(100 * number + n, 1_500_000)).collect();
        let mut ops = Vec::new();
        for ((number, content), name) in (1..).zip(&contents).zip(&names) {
            stage(&mut peer, number, content.len() as u64, None, &[Made::Sent(0, content)]);
            ops.push((commit(name, number, content, meta(0o640, 42)), &b""[..]));
        }
        assert_eq!(peer.ops(ops), vec![None; 6]);
        assert_eq!(crowd.mixed.load(Ordering::Relaxed), !linked);
        if linked {
            assert!(contents.contains(&fs::read(world.at(&names[0])).unwrap()), "a mix");
        }
    }
    peer.bye().unwrap();
}

/// Is what stands there this version, as far as the agent knows?
fn known(peer: &mut Peer, at: &str, version: OpId) -> bool {
    let stage = 1000 + peer.next as u32;
    peer.next += 1;
    peer.send(&Message::Open { stage, hint: path(""), size: 0 }, b"");
    let (_, known) = based(peer, stage, at, Some(version));
    peer.send(&Message::Abort { stage }, b"");
    known
}

#[test]
fn what_was_written_into_is_a_version() {
    let (world, calls) = counted();
    let mut peer = inplace(&world);
    let old = some(1, 64 * BLOCK);
    let first = stand(&world, "f", &old);
    let version = peer.next;
    assert_eq!(put(&mut peer, "f", &old), None);
    assert!(known(&mut peer, "f", version));
    // Nothing of it is read when a block of it changes.
    let mut new = old.clone();
    new[9 * BLOCK] ^= 1;
    peer.send(&Message::Open { stage: 5, hint: path(""), size: new.len() as u64 }, b"");
    assert!(based(&mut peer, 5, "f", Some(version)).1);
    peer.send(&Message::Copy { stage: 5, copies: vec![(0, 0, new.len() as u64)] }, b"");
    let at = 9 * BLOCK;
    peer.send(&Message::Data { stage: 5, offset: at as u64 }, &new[at..at + 1]);
    calls.reset();
    let next = peer.next;
    assert_eq!(peer.op(commit("f", 5, &new, meta(0o640, 43))), None);
    assert_eq!(calls.count(Call::Check), 1, "nothing but the block that changed");
    assert!(fs::read(world.at("f")).unwrap() == new);
    assert!(known(&mut peer, "f", next));
    // And it grows as ever.
    let mut longer = new.clone();
    longer.extend_from_slice(b"and more");
    let append = Op::Append {
        path: path("f"),
        version: next,
        from: new.len() as u64,
        size: longer.len() as u64,
        stage: None,
        meta: meta(0o640, 44),
        hash: hash(&longer),
    };
    let last = peer.next;
    assert_eq!(peer.ops(vec![(append, b"and more")]), [None]);
    assert!(fs::read(world.at("f")).unwrap() == longer);
    assert!(known(&mut peer, "f", last));
    // A small content over it is another version.
    assert_eq!(peer.file("f", b"small", meta(0o640, 45)), None);
    assert!(!known(&mut peer, "f", last));
    assert_eq!(inode(&world, "f"), first);
    peer.bye().unwrap();
}

#[test]
fn what_an_agent_without_power_may_not_write_to_is_opened_up_or_replaced() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    for dir in [world.dir.path(), &world.at("")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::os::unix::fs::chown(world.at(""), Some(65534), Some(65534)).unwrap();
    let mut inodes = BTreeMap::new();
    let content = some(1, 100_000);
    // Ours and closed to us; somebody else's, which we may write to; one that we may not.
    for (at, owner, mode) in [("ours", 65534, 0o444), ("open", 0, 0o666), ("closed", 0, 0o644)] {
        inodes.insert(at, stand(&world, at, &content));
        std::os::unix::fs::chown(world.at(at), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(world.at(at), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", AGENT]);
    let mut child = start(&world, command);
    let mut hello = world.hello();
    hello.inplace = true;
    let mut peer = greet_process(&mut child, &hello).unwrap();
    let check = |at: &str, content: &[u8], mode: u32| {
        assert!(fs::read(world.at(at)).unwrap() == content, "{at}");
        let found = fs::metadata(world.at(at)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (65534, mode), "{at}");
        assert_eq!(time(&world, at), (42, 5), "{at}");
        found.ino() == inodes[at]
    };
    for at in ["ours", "open", "closed"] {
        let content = some(2, 100_000);
        stage(&mut peer, 1, content.len() as u64, None, &[Made::Sent(0, &content)]);
        let outcome = peer.op(commit(at, 1, &content, meta(0o440, 42)));
        assert!(no_problem(&outcome), "{outcome:?}");
        assert_eq!(check(at, &content, 0o440), at == "ours", "{at}");
        // A content that is refused leaves its mode.
        stage(&mut peer, 1, content.len() as u64, None, &[Made::Sent(0, &content)]);
        trouble(peer.op(commit(at, 1, b"another", meta(0o644, 43))));
        assert_eq!(check(at, &content, 0o440), at == "ours", "{at}");
        // Whatever mode is wanted, also one that it was given to be written to.
        assert!(no_problem(&peer.file(at, b"small", meta(0o640, 42))));
        assert_eq!(check(at, b"small", 0o640), at == "ours", "{at}");
    }
    peer.send(&Message::Bye, b"");
    while peer.try_receive().is_ok() {}
    assert!(child.wait().unwrap().success());
}
