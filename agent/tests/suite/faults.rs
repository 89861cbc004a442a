//! Every call of a run of operations fails once, with each error: nothing is torn, nothing is lost
//! that was not to go, and doing it again brings it about.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lsync_agent::fault::{Call, Faults};
use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::message::{Op, Outcome};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::peer::{World, meta, path, remove};

/// Fails the call of this number, and no other.
struct Nth {
    calls: Arc<AtomicUsize>,
    fails: usize,
    error: Errno,
}

impl Faults for Nth {
    fn before(&self, _: Call, _: &RelPath) -> Result<(), Errno> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call == self.fails { Err(self.error) } else { Ok(()) }
    }
}

/// Names with their content; directories have none.
fn contents(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let (mut found, mut dirs) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let at = entry.unwrap().path();
            let name = at.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if at.is_dir() {
                found.insert(name, None);
                dirs.push(at);
            } else {
                found.insert(name, Some(fs::read(at).unwrap()));
            }
        }
    }
    found
}

fn run_of_operations() -> Vec<(Op, &'static [u8])> {
    let file = |at: &str| Op::File { path: path(at), size: 3, meta: meta(0o644, 1) };
    let rename = |from: &str, to: &str, kind| Op::Rename {
        from: path(from),
        to: path(to),
        kind,
        size: None,
        mtime: None,
    };
    let made = Meta { mtime: None, ..meta(0o755, 0) };
    vec![
        (Op::MakeDir { path: path("d"), meta: made }, b""),
        (file("d/new"), b"new"),
        (file("replaced"), b"two"),
        (rename("tree", "d/tree", Kind::Dir), b""),
        (rename("d/new", "over", Kind::File), b""),
        (remove("gone", Kind::File), b""),
        (Op::Replace { old: Kind::Dir, new: Box::new(file("kind")) }, b"now"),
    ]
}

#[test]
fn any_call_may_fail_once() {
    for error in [Errno::IO, Errno::NOSPC, Errno::ACCESS] {
        for fails in 0.. {
            let calls = Arc::<AtomicUsize>::default();
            let world = World::new().with_faults(Nth { calls: calls.clone(), fails, error });
            fs::create_dir_all(world.at("tree/deep")).unwrap();
            fs::create_dir(world.at("kind")).unwrap();
            for name in ["replaced", "over", "gone", "stays", "tree/deep/f"] {
                fs::write(world.at(name), "one").unwrap();
            }
            let mut peer = world.connect();
            for (op, content) in run_of_operations() {
                let case = format!("{error:?} at call {fails}, {op:?}");
                let before = contents(&world.at(""));
                let first = peer.ops(vec![(op.clone(), content)]).remove(0);
                if let Some(outcome) = first {
                    let Outcome::Problem(trouble) = outcome else { panic!("{case}: {outcome:?}") };
                    assert_eq!(trouble.errno, error.raw_os_error(), "{case}");
                    // A directory may be there already, or be gone to make room; a file is as it was.
                    let files = |mut all: BTreeMap<_, Option<Vec<u8>>>| {
                        all.retain(|_, content| content.is_some());
                        all
                    };
                    assert_eq!(files(contents(&world.at(""))), files(before), "{case}");
                    assert_eq!(peer.ops(vec![(op, content)]), vec![None], "{case}, again");
                }
            }
            let is = contents(&world.at(""));
            let dir = |name: &str| (name.to_owned(), None);
            let file = |name: &str, content: &str| (name.to_owned(), Some(content.into()));
            let expected = BTreeMap::from([
                dir("d"),
                dir("d/tree"),
                dir("d/tree/deep"),
                file("d/tree/deep/f", "one"),
                file("kind", "now"),
                file("over", "new"),
                file("replaced", "two"),
                file("stays", "one"),
            ]);
            assert_eq!(is, expected, "{error:?} at call {fails}");
            assert!(world.stages().is_empty(), "{error:?} at call {fails}");
            assert!(peer.bye().is_ok());
            if calls.load(Ordering::SeqCst) <= fails {
                assert!(fails > run_of_operations().len(), "each operation makes calls");
                break;
            }
        }
    }
}
