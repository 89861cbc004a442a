//! The trash: what is removed and what is replaced is kept, or nothing is done.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::handshake::{Hello, Refusal, Trash};
use lsync_protocol::message::{Message, NoList, Op, Outcome};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;
use std::sync::Mutex;

use super::peer::{Peer, World, meta, path, remove, until};
use super::process::{AGENT, greet_process, start};

/// What the trash keeps, by its path in an hour: the content of files, where links point.
type Kept = BTreeMap<String, String>;

fn hello(world: &World) -> Hello {
    // Names of one hour are expected below.
    let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 3600;
    if second > 3570 {
        std::thread::sleep(Duration::from_secs(3601 - second));
    }
    Hello { trash: Some(Trash { dir: path(".trash"), age: None }), ..world.hello() }
}

fn connect(world: &World) -> Peer {
    world.connect_as(&hello(world))
}

fn kept(world: &World) -> Kept {
    let mut found = Kept::new();
    let Ok(hours) = fs::read_dir(world.at(".trash")) else { return found };
    for hour in hours {
        let top = hour.unwrap().path();
        if !top.is_dir() {
            continue;
        }
        let mut todo = vec![top.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let at = entry.unwrap().path();
                let kind = fs::symlink_metadata(&at).unwrap().file_type();
                let shown = if kind.is_dir() {
                    todo.push(at);
                    continue;
                } else if kind.is_symlink() {
                    format!("-> {}", fs::read_link(&at).unwrap().display())
                } else if kind.is_fifo() {
                    "a FIFO".to_owned()
                } else {
                    fs::read_to_string(&at).unwrap()
                };
                let name = at.strip_prefix(&top).unwrap().display().to_string();
                assert_eq!(found.insert(name, shown), None, "in two hours");
            }
        }
    }
    found
}

fn these(all: &[(&str, &str)]) -> Kept {
    all.iter().map(|(name, shown)| ((*name).to_owned(), (*shown).to_owned())).collect()
}

/// The directory of the hour in which something went.
fn hour(world: &World) -> std::path::PathBuf {
    let names = fs::read_dir(world.at(".trash")).unwrap();
    names.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap()
}

fn put(at: &str, content: &str) -> (Op, Vec<u8>) {
    let op = Op::File { path: path(at), size: content.len() as u32, meta: meta(0o644, 7) };
    (op, content.as_bytes().to_vec())
}

fn plain(op: Op) -> (Op, Vec<u8>) {
    (op, Vec::new())
}

fn link_to(at: &str, to: &str) -> Op {
    Op::Symlink { path: path(at), link: to.into(), meta: Meta::default() }
}

fn hard_link(at: &str, from: &str, size: u64) -> Op {
    Op::Link { path: path(at), from: path(from), size, mtime: None }
}

fn rename(from: &str, to: &str, kind: Kind) -> Op {
    Op::Rename { from: path(from), to: path(to), kind, size: None, mtime: None }
}

fn make_dir(at: &str) -> Op {
    Op::MakeDir { path: path(at), meta: Meta { mode: Some(0o755), ..Meta::default() } }
}

fn fifo(at: &str) -> Op {
    Op::Special { path: path(at), kind: Kind::Fifo, device: None, meta: Meta::default() }
}

fn replace(old: Kind, (new, content): (Op, Vec<u8>)) -> (Op, Vec<u8>) {
    (Op::Replace { old, new: Box::new(new) }, content)
}

fn one(peer: &mut Peer, (op, content): (Op, Vec<u8>)) -> Option<Outcome> {
    peer.ops(vec![(op, &content)]).remove(0)
}

/// A stage with this content, committed.
fn commit(peer: &mut Peer, at: &str, content: &str) -> Op {
    let stage = 1;
    peer.send(&Message::Open { stage, hint: path(""), size: 0 }, b"");
    peer.send(&Message::Data { stage, offset: 0 }, content.as_bytes());
    Op::Commit {
        path: path(at),
        stage,
        size: content.len() as u64,
        meta: meta(0o640, 42),
        hash: *blake3::hash(content.as_bytes()).as_bytes(),
    }
}

/// Each way in which `d/f`, a file with the content `old`, would be lost.
fn losses() -> Vec<(Op, Vec<u8>)> {
    vec![
        put("d/f", "new"),
        plain(remove("d/f", Kind::File)),
        plain(link_to("d/f", "elsewhere")),
        plain(fifo("d/f")),
        plain(hard_link("d/f", "other", 5)),
        plain(rename("other", "d/f", Kind::File)),
        replace(Kind::File, plain(make_dir("d/f"))),
        replace(Kind::File, plain(link_to("d/f", "elsewhere"))),
        replace(Kind::File, plain(hard_link("d/f", "other", 5))),
    ]
}

fn stand(world: &World) {
    let _ = fs::remove_dir_all(world.at(""));
    fs::create_dir_all(world.at("d")).unwrap();
    fs::write(world.at("d/f"), "old").unwrap();
    fs::set_permissions(world.at("d/f"), fs::Permissions::from_mode(0o604)).unwrap();
    fs::write(world.at("other"), "other").unwrap();
}

#[test]
fn whatever_would_be_lost_is_kept_as_it_was() {
    for number in 0..=losses().len() {
        let world = World::new();
        stand(&world);
        let before = fs::metadata(world.at("d/f")).unwrap();
        let mut peer = connect(&world);
        let loss = match losses().into_iter().nth(number) {
            Some(loss) => loss,
            None => plain(commit(&mut peer, "d/f", "new")),
        };
        let shown = format!("{:?}", loss.0);
        assert_eq!(one(&mut peer, loss), None, "{shown}");
        assert_eq!(kept(&world), these(&[("d/f", "old")]), "{shown}");
        let after = fs::metadata(hour(&world).join("d/f")).unwrap();
        assert_eq!(after.ino(), before.ino(), "{shown}");
        assert_eq!((after.mode(), after.mtime_nsec()), (before.mode(), before.mtime_nsec()));
        assert_eq!(after.nlink(), 1, "{shown}");
        let now = fs::symlink_metadata(world.at("d/f"));
        assert!(now.is_err() || now.is_ok_and(|now| now.ino() != before.ino()), "{shown}");
        assert!(peer.bye().is_ok());
        assert!(world.stages().is_empty());
    }
}

#[test]
fn links_and_fifos_are_kept_too() {
    let world = World::new();
    symlink("to1", world.at("a")).unwrap();
    symlink("to2", world.at("b")).unwrap();
    let mut peer = connect(&world);
    for op in [fifo("p"), fifo("q")] {
        assert_eq!(peer.op(op), None);
    }
    assert_eq!(peer.op(link_to("a", "to3")), None);
    assert_eq!(peer.op(remove("b", Kind::Symlink)), None);
    assert_eq!(peer.op(remove("p", Kind::Fifo)), None);
    assert_eq!(peer.file("q", b"file", meta(0o644, 1)), None);
    let all = [("a", "-> to1"), ("b", "-> to2"), ("p", "a FIFO"), ("q", "a FIFO")];
    assert_eq!(kept(&world), these(&all));
}

#[test]
fn what_is_not_lost_is_not_kept() {
    let world = World::new();
    stand(&world);
    fs::hard_link(world.at("d/f"), world.at("d/g")).unwrap();
    let mut peer = connect(&world);
    let ops = vec![
        Op::Meta { path: path("d/f"), kind: Kind::File, meta: meta(0o600, 3) },
        Op::Dir { path: path("d"), meta: meta(0o700, 3) },
        make_dir("d"),
        make_dir("e"),
        rename("other", "new", Kind::File),
        // The same file already.
        hard_link("d/g", "d/f", 3),
        // Of two names of one file one goes over the other.
        rename("d/g", "d/f", Kind::File),
        rename("d", "e", Kind::Dir),
        remove("nothing", Kind::File),
        remove("e/f", Kind::Symlink),
    ];
    let outcomes = peer.ops(ops.into_iter().map(|op| (op, &b""[..])).collect());
    let last = [Some(Outcome::Missing), Some(Outcome::Occupied(Kind::File))];
    assert_eq!(outcomes[..8], vec![None; 8]);
    assert_eq!(outcomes[8..], last);
    // The same content, sent once more.
    assert_eq!(one(&mut peer, put("e/f", "old")), None);
    assert_eq!(fs::metadata(world.at("e/f")).unwrap().nlink(), 1);
    assert_eq!(kept(&world), Kept::new());
    assert!(!world.at("d").exists() && !world.at(".trash").exists());
    // An empty directory goes; so does one that something else takes the place of.
    assert_eq!(peer.op(make_dir("x")), None);
    assert_eq!(one(&mut peer, replace(Kind::Dir, put("x", "file"))), None);
    assert_eq!(peer.op(make_dir("y")), None);
    assert_eq!(peer.op(remove("y", Kind::Dir)), None);
    assert_eq!(kept(&world), Kept::new());
}

#[test]
fn versions_get_numbers_and_directories_are_made_around_files() {
    let world = World::new();
    let mut peer = connect(&world);
    for content in ["1", "2", "3", "4"] {
        assert_eq!(peer.file("f", content.as_bytes(), meta(0o644, 1)), None);
    }
    assert_eq!(peer.op(remove("f", Kind::File)), None);
    assert_eq!(kept(&world), these(&[("f", "1"), ("f.1", "2"), ("f.2", "3"), ("f.3", "4")]));
    // A file is kept where a directory is wanted, and the other way around.
    assert_eq!(peer.op(make_dir("f")), None);
    assert_eq!(peer.file("f/g", b"in", meta(0o644, 1)), None);
    assert_eq!(peer.op(remove("f/g", Kind::File)), None);
    assert_eq!(peer.op(make_dir("d")), None);
    assert_eq!(peer.file("d/g", b"in d", meta(0o644, 1)), None);
    assert_eq!(peer.op(remove("d/g", Kind::File)), None);
    assert_eq!(one(&mut peer, replace(Kind::Dir, put("d", "file d"))), None);
    assert_eq!(peer.op(remove("d", Kind::File)), None);
    let now = kept(&world);
    for (name, content) in [("f.dir/g", "in"), ("d/g", "in d"), ("d.1", "file d")] {
        assert_eq!(now.get(name).map(String::as_str), Some(content), "{now:?}");
    }
    // Somebody tidied up meanwhile.
    fs::remove_dir_all(world.at(".trash")).unwrap();
    assert_eq!(peer.file("z", b"1", meta(0o644, 1)), None);
    assert_eq!(peer.op(remove("z", Kind::File)), None);
    assert_eq!(kept(&world), these(&[("z", "1")]));
    let long = "n".repeat(255);
    for content in [b"1", b"2"] {
        assert_eq!(peer.file(&long, content, meta(0o644, 1)), None);
    }
    assert_eq!(peer.op(remove(&long, Kind::File)), None);
    let shorter = format!("{}.1", "n".repeat(253));
    assert_eq!(kept(&world), these(&[("z", "1"), (&long, "1"), (&shorter, "2")]));
}

#[test]
fn nobody_else_gets_in_and_what_is_in_it_looks_as_it_did() {
    let world = World::new();
    let mut peer = connect(&world);
    let deep = |mode| Meta { mode: Some(mode), uid: Some(1234), gid: Some(4321), ..meta(mode, 5) };
    assert_eq!(peer.op(Op::MakeDir { path: path("a"), meta: deep(0o2751) }), None);
    assert_eq!(peer.op(Op::MakeDir { path: path("a/b"), meta: deep(0o555) }), None);
    assert_eq!(peer.file("a/b/f", b"x", meta(0o600, 1)), None);
    // The time of the root is the source's, and stays.
    assert_eq!(peer.op(Op::Dir { path: path(""), meta: meta(0o755, 77) }), None);
    assert_eq!(peer.op(remove("a/b/f", Kind::File)), None);
    assert_eq!(fs::metadata(world.at("")).unwrap().mtime(), 77);
    let hour = hour(&world);
    let mode = |at: &std::path::Path| fs::metadata(at).unwrap().mode() & 0o7777;
    assert_eq!((mode(&world.at(".trash")), mode(&hour)), (0o700, 0o700));
    assert_eq!((mode(&hour.join("a")), mode(&hour.join("a/b"))), (0o751, 0o755));
    if peer.welcome.holds.chown {
        let found = fs::metadata(hour.join("a/b")).unwrap();
        assert_eq!((found.uid(), found.gid()), (1234, 4321));
    }
}

/// Calls of these classes fail with these errors.
#[derive(Default)]
struct Failing(Mutex<Vec<(Call, Errno)>>);

struct Shared(Arc<Failing>);

impl Faults for Shared {
    fn before(&self, call: Call, _: &RelPath) -> Result<(), Errno> {
        match self.0.0.lock().unwrap().iter().find(|(of, _)| *of == call) {
            Some((_, error)) => Err(*error),
            None => Ok(()),
        }
    }
}

impl Failing {
    fn set(&self, all: &[(Call, Errno)]) {
        *self.0.lock().unwrap() = all.to_vec();
    }
}

fn failing() -> (World, Arc<Failing>) {
    let faults = Arc::<Failing>::default();
    (World::new().with_faults(Shared(faults.clone())), faults)
}

#[test]
fn what_cannot_be_kept_is_not_touched() {
    let (world, faults) = failing();
    stand(&world);
    let mut peer = connect(&world);
    for error in [Errno::NOSPC, Errno::XDEV, Errno::ACCESS, Errno::PERM, Errno::IO, Errno::NOENT] {
        for number in 0..=losses().len() {
            faults.set(&[(Call::Trash, error)]);
            let loss = match losses().into_iter().nth(number) {
                Some(loss) => loss,
                None => plain(commit(&mut peer, "d/f", "new")),
            };
            let shown = format!("{error:?} {:?}", loss.0);
            let Some(Outcome::Problem(trouble)) = one(&mut peer, loss) else { panic!("{shown}") };
            assert_eq!(trouble.errno, error.raw_os_error(), "{shown} {trouble:?}");
            let says = match error {
                Errno::XDEV => "it is on another file system than the trash .trash",
                Errno::NOSPC => "the trash .trash cannot keep it: no space left on device",
                _ => "",
            };
            assert!(trouble.text.starts_with(says), "{shown}: {trouble:?}");
            assert_eq!(fs::read_to_string(world.at("d/f")).unwrap(), "old", "{shown}");
            assert_eq!(fs::read_to_string(world.at("other")).unwrap(), "other", "{shown}");
            assert_eq!(kept(&world), Kept::new(), "{shown}");
            assert!(world.stages().is_empty(), "{shown}");
        }
    }
    faults.set(&[]);
    assert_eq!(one(&mut peer, put("d/f", "new")), None);
    assert_eq!(kept(&world), these(&[("d/f", "old")]));
}

#[test]
fn what_fails_afterwards_leaves_all_as_it_was() {
    let (world, faults) = failing();
    // With a link, and where there can be none.
    for links in [&[][..], &[(Call::Link, Errno::PERM)]] {
        for error in [Errno::NOSPC, Errno::IO, Errno::ISDIR] {
            for loss in losses() {
                let (of_link, shown) = (
                    matches!(&loss.0, Op::Link { .. })
                        || matches!(&loss.0, Op::Replace { new, .. } if matches!(**new, Op::Link { .. })),
                    format!("{error:?} {links:?} {:?}", loss.0),
                );
                if matches!(loss.0, Op::Remove { .. } | Op::Rename { .. })
                    || of_link && !links.is_empty()
                {
                    continue;
                }
                stand(&world);
                let before = fs::metadata(world.at("d/f")).unwrap().ino();
                let mut peer = connect(&world);
                faults.set(&[links, &[(Call::Place, error)]].concat());
                assert!(one(&mut peer, loss).is_some(), "{shown}");
                assert_eq!(fs::read_to_string(world.at("d/f")).unwrap(), "old", "{shown}");
                let after = fs::metadata(world.at("d/f")).unwrap();
                assert_eq!((after.ino(), after.nlink()), (before, 1), "{shown}");
                assert_eq!(kept(&world), Kept::new(), "{shown}");
                faults.set(&[]);
                assert!(peer.bye().is_ok());
            }
        }
    }
}

#[test]
fn where_there_can_be_no_link_it_is_moved() {
    let (world, faults) = failing();
    for error in [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::MLINK] {
        stand(&world);
        let mut peer = connect(&world);
        faults.set(&[(Call::Link, error)]);
        assert_eq!(one(&mut peer, put("d/f", "new")), None, "{error:?}");
        assert_eq!(peer.op(rename("d/f", "other", Kind::File)), None, "{error:?}");
        assert_eq!(kept(&world), these(&[("d/f", "old"), ("other", "other")]), "{error:?}");
        assert_eq!(fs::read_to_string(world.at("other")).unwrap(), "new");
        faults.set(&[]);
        assert!(peer.bye().is_ok());
    }
}

#[test]
fn a_reader_always_finds_the_file_and_every_version_is_kept() {
    let world = World::new();
    let mut peer = connect(&world);
    assert_eq!(peer.file("f", b"0", meta(0o644, 1)), None);
    let (at, stop) = (world.at("f"), Arc::new(AtomicBool::new(false)));
    let told = stop.clone();
    let reader = std::thread::spawn(move || {
        let mut seen = 0u64;
        while !told.load(Ordering::Relaxed) {
            let content = fs::read_to_string(&at).unwrap();
            assert!(content.parse::<u32>().is_ok(), "{content:?}");
            seen += 1;
        }
        seen
    });
    for version in 1..=300u32 {
        assert_eq!(peer.file("f", version.to_string().as_bytes(), meta(0o644, 1)), None);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    let mut versions: Vec<u32> = kept(&world).values().map(|v| v.parse().unwrap()).collect();
    versions.sort_unstable();
    assert_eq!(versions, (0..300).collect::<Vec<_>>());
}

#[test]
fn it_is_no_part_of_the_mirror() {
    let world = World::new();
    stand(&world);
    let mut peer = connect(&world);
    assert_eq!(one(&mut peer, put("d/f", "new")), None);
    let names: Vec<_> = peer.list("").unwrap().into_iter().map(|named| named.name).collect();
    assert_eq!(names, [b"d"[..].into(), b"other"[..].into()]);
    let inside = hour(&world).strip_prefix(world.at("")).unwrap().join("d/f");
    let inside = inside.to_str().unwrap();
    assert_eq!(peer.list(".trash").map(drop), Err(NoList::Missing));
    for op in [
        plain(remove(inside, Kind::File)),
        plain(remove(".trash", Kind::Dir)),
        plain(rename(".trash", "x", Kind::Dir)),
        plain(rename(inside, "x", Kind::File)),
        plain(rename("other", ".trash/x", Kind::File)),
        plain(hard_link("x", inside, 3)),
        plain(Op::Meta { path: path(inside), kind: Kind::File, meta: meta(0o777, 1) }),
        plain(Op::Dir { path: path(".trash"), meta: meta(0o777, 1) }),
        plain(make_dir(".trash/y")),
        put(inside, "forged"),
        replace(Kind::Dir, put(".trash", "file")),
        replace(Kind::File, plain(hard_link("other", inside, 3))),
    ] {
        let shown = format!("{:?}", op.0);
        let Some(Outcome::Problem(trouble)) = one(&mut peer, op) else { panic!("{shown}") };
        assert_eq!(trouble.text, ".trash is a trash, and no part of the mirror", "{shown}");
    }
    assert_eq!(kept(&world), these(&[("d/f", "old")]));
    let names = fs::read_dir(world.at(".trash")).unwrap();
    assert_eq!(names.count(), 2, "the hour, and what says that it is a trash");
}

#[test]
fn it_stays_out_of_reach_when_nobody_speaks_of_it() {
    let world = World::new();
    stand(&world);
    let mut peer = connect(&world);
    assert_eq!(one(&mut peer, put("d/f", "new")), None);
    assert!(peer.bye().is_ok());
    let another = Some(Trash { dir: path("another"), age: Some(1) });
    for trash in [None, another] {
        let mut peer = world.connect_as(&Hello { trash, ..world.hello() });
        let names: Vec<_> = peer.list("").unwrap().into_iter().map(|named| named.name).collect();
        assert!(!names.contains(&b".trash"[..].into()), "{names:?}");
        assert_eq!(peer.list(".trash").map(drop), Err(NoList::Missing));
        let outcome = peer.op(remove(".trash", Kind::Dir));
        assert!(matches!(outcome, Some(Outcome::Problem(_))), "{outcome:?}");
        assert!(peer.bye().is_ok());
    }
    assert_eq!(kept(&world), these(&[("d/f", "old")]));
}

#[test]
fn a_trash_that_could_keep_nothing_is_refused() {
    let world = World::new();
    fs::write(world.at("file"), "").unwrap();
    symlink("/tmp", world.at("link")).unwrap();
    let refusal = |change: &dyn Fn(&mut Hello)| {
        let mut hello = hello(&world);
        change(&mut hello);
        world.greet(&hello).map(drop).unwrap_err().0
    };
    let named =
        |dir: &str| refusal(&|hello| hello.trash = Some(Trash { dir: path(dir), age: None }));
    for dir in ["", "a/b", ".lsync-00000001-00000001"] {
        assert!(matches!(named(dir), Refusal::Root(text) if text.contains("is not a name in it")));
    }
    for dir in ["file", "link"] {
        let text = format!("{dir} is there and no directory, and so cannot be the trash");
        assert_eq!(named(dir), Refusal::Root(text));
    }
    assert!(matches!(refusal(&|hello| hello.inplace = true), Refusal::Unsupported(_)));
    assert!(connect(&world).bye().is_ok());
}

#[test]
fn what_is_too_old_goes_while_it_serves() {
    let world = World::new();
    for name in [".trash/2020-01-01T00/a/b", ".trash/mine/a", "d/2020-01-01T00"] {
        fs::create_dir_all(world.at(name)).unwrap();
        fs::write(world.at(name).join("f"), "x").unwrap();
    }
    // Nothing is too old without an age, and nothing is removed where nothing may be applied.
    assert!(connect(&world).bye().is_ok());
    let age = Some(86_400);
    let hello = Hello { trash: Some(Trash { dir: path(".trash"), age }), ..hello(&world) };
    let looks = Hello { create: lsync_protocol::handshake::Create::Nothing, ..hello.clone() };
    assert!(world.connect_as(&looks).bye().is_ok());
    assert!(world.at(".trash/2020-01-01T00/a/b/f").exists());
    let mut peer = world.connect_as(&hello);
    until("the old hour is gone", || !world.at(".trash/2020-01-01T00").exists());
    assert!(world.at(".trash/mine/a/f").exists() && world.at("d/2020-01-01T00/f").exists());
    assert_eq!(peer.file("d/g", b"1", meta(0o644, 1)), None);
    assert_eq!(peer.op(remove("d/g", Kind::File)), None);
    assert!(peer.bye().is_ok());
    // What went just now stays, and a short link sweeps as well.
    fs::create_dir_all(world.at(".trash/2020-01-01T00/a")).unwrap();
    assert!(world.connect_as(&hello).bye().is_ok());
    assert!(!world.at(".trash/2020-01-01T00").exists());
    assert_eq!(fs::read_dir(world.at(".trash")).unwrap().count(), 3);
}

/// A file of another file system beneath the root cannot be moved out of it.
#[test]
fn what_is_on_another_file_system_stays() {
    let world = World::new();
    for dir in ["mnt", "on"] {
        fs::create_dir(world.at(dir)).unwrap();
    }
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none root/mnt && echo old >root/mnt/f && exec \"$0\"";
    command.args(["-m", "sh", "-c", script, AGENT]);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut child = start(&world, command);
    let inner = format!("/proc/{}/root{}", child.id(), world.at("mnt/f").display());
    let mut peer = greet_process(&mut child, &hello(&world)).unwrap();
    for op in [put("mnt/f", "new"), plain(remove("mnt/f", Kind::File))] {
        let Some(Outcome::Problem(trouble)) = one(&mut peer, op) else { panic!() };
        assert_eq!(trouble.errno, Errno::XDEV.raw_os_error());
        assert!(trouble.text.contains("--exclude"), "{trouble:?}");
        assert_eq!(fs::read_to_string(&inner).unwrap(), "old\n");
    }
    // What is new there needs no keeping.
    assert_eq!(one(&mut peer, put("mnt/g", "new")), None);
    drop(peer);
    assert!(child.wait().unwrap().success());
    // Nor can the trash be there.
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount -t tmpfs none root/on && exec \"$0\"", AGENT]);
    let mut child = start(&world, command);
    let on = Trash { dir: path("on"), age: None };
    let refusal = greet_process(&mut child, &Hello { trash: Some(on), ..hello(&world) });
    assert!(matches!(refusal, Err(Refusal::Root(text)) if text.contains("another file system")));
    let _ = child.wait();
}

/// An agent that is not root: it has no permission in the root, and may not link files of others.
#[test]
fn somebody_elses_file_is_kept_by_who_may_remove_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    stand(&world);
    for (name, mode) in [("", 0o555), ("d", 0o550)] {
        let nobody = Some(65534);
        std::os::unix::fs::chown(world.at(name), nobody, nobody).unwrap();
        fs::set_permissions(world.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", AGENT]);
    let mut child = start(&world, command);
    let mut peer = greet_process(&mut child, &hello(&world)).unwrap();
    assert_eq!(one(&mut peer, put("d/f", "new")), None);
    assert_eq!(peer.op(remove("d/f", Kind::File)), None);
    assert_eq!(peer.op(remove("other", Kind::File)), None);
    let all = [("d/f", "old"), ("d/f.1", "new"), ("other", "other")];
    assert_eq!(kept(&world), these(&all));
    drop(peer);
    assert!(child.wait().unwrap().success());
    let mode = |name: &str| fs::metadata(world.at(name)).unwrap().mode() & 0o777;
    assert_eq!((mode(""), mode("d")), (0o555, 0o550));
}
