//! The watcher on a real file system: the same table of happenings for every back end.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lsync_protocol::path::RelPath;
use lsyncd::config::WatchChoice;
use lsyncd::watch::{self, EventSink, WatchEvent, WatchLimits, Watcher};
use rustix::fs::RenameFlags;

/// Every wait ends here.
const PATIENCE: Duration = Duration::from_secs(20);

/// What reports events.
const BACK_ENDS: [WatchChoice; 2] = [WatchChoice::Inotify, WatchChoice::Notify];

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

/// A watched tree with a consumer that does what the real one does: it walks directories that
/// appear, or of which nothing is sure, and enters each before it reads it.
struct Tree {
    root: PathBuf,
    outside: PathBuf,
    watcher: Arc<dyn Watcher>,
    events: Receiver<Vec<WatchEvent>>,
    /// All that was reported since the last [`Tree::forget`].
    heard: Vec<WatchEvent>,
    /// All that walks have met since then.
    met: BTreeSet<RelPath>,
    marks: u32,
    _dir: tempfile::TempDir,
}

impl Tree {
    fn new(choice: WatchChoice) -> Tree {
        Tree::with(choice, WatchLimits::default(), |_| {})
    }

    /// With something made before the watch begins.
    fn with(choice: WatchChoice, limits: WatchLimits, make: impl FnOnce(&Path)) -> Tree {
        let (tell, events) = channel();
        Tree::to(choice, limits, make, Box::new(move |e| drop(tell.send(e))), events)
    }

    fn to(
        choice: WatchChoice,
        limits: WatchLimits,
        make: impl FnOnce(&Path),
        sink: EventSink,
        events: Receiver<Vec<WatchEvent>>,
    ) -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let outside = dir.path().join("outside");
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        make(&root);
        let watcher = Arc::from(watch::open(choice, &root, limits, sink).unwrap());
        let mut tree = Tree {
            root,
            outside,
            watcher,
            events,
            heard: Vec::new(),
            met: BTreeSet::new(),
            marks: 0,
            _dir: dir,
        };
        tree.walk(&RelPath::root());
        tree.forget();
        tree
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn mkdir(&self, name: &str) {
        fs::create_dir_all(self.at(name)).unwrap();
    }

    fn write(&self, name: &str) {
        fs::write(self.at(name), name).unwrap();
    }

    fn mv(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    /// Enters a directory and all beneath it, as far as it is there.
    fn walk(&mut self, dir: &RelPath) {
        let mut left = vec![dir.clone()];
        while let Some(dir) = left.pop() {
            let at = self.root.join(OsStr::from_bytes(dir.as_bytes()));
            self.met.insert(dir.clone());
            let flags = rustix::fs::OFlags::DIRECTORY
                | rustix::fs::OFlags::NOFOLLOW
                | rustix::fs::OFlags::RDONLY
                | rustix::fs::OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::open(&at, flags, rustix::fs::Mode::empty()) else { continue };
            self.watcher.enter(&dir, fd.as_fd()).unwrap();
            let Ok(entries) = fs::read_dir(&at) else { continue };
            for entry in entries.flatten() {
                let path = dir.join(entry.file_name().as_bytes()).unwrap();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(path);
                } else {
                    self.met.insert(path);
                }
            }
        }
    }

    /// Takes events until `done`; panics after [`PATIENCE`].
    fn until(&mut self, what: &str, done: impl Fn(&Tree) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(events) = self.events.recv_timeout(left) else {
                panic!("waited for {what}, heard {:?}, met {:?}", self.heard, self.met);
            };
            self.take(events);
        }
    }

    fn take(&mut self, events: Vec<WatchEvent>) {
        for event in events {
            self.heard.push(event.clone());
            match event {
                WatchEvent::Appeared { path, dir: true } | WatchEvent::Unsure(path) => {
                    self.walk(&path);
                }
                WatchEvent::Overflow => self.walk(&RelPath::root()),
                _ => {}
            }
        }
    }

    /// Waits for one event.
    fn hear(&mut self, event: &WatchEvent) {
        self.until(&format!("{event:?}"), |tree| tree.heard.contains(event));
    }

    /// Takes all that was queued before now: events of one queue come in order, so a file of ours
    /// that is seen to appear is behind them.
    fn settle(&mut self) {
        self.marks += 1;
        let mark = format!("mark-{}", self.marks);
        self.write(&mark);
        self.hear(&closed(&mark));
    }

    /// All events since the last `forget` about `name` or what is beneath it, after a settle.
    fn about(&mut self, name: &str) -> Vec<WatchEvent> {
        self.settle();
        let top = path(name);
        let is = |p: &RelPath| p.is_at_or_under(&top);
        self.heard
            .iter()
            .filter(|event| match event {
                WatchEvent::Written(p)
                | WatchEvent::Closed(p)
                | WatchEvent::Attributes(p)
                | WatchEvent::Unsure(p)
                | WatchEvent::Appeared { path: p, .. }
                | WatchEvent::Gone { path: p, .. } => is(p),
                WatchEvent::Renamed { from, to, .. } => is(from) || is(to),
                WatchEvent::Overflow | WatchEvent::RootGone => true,
            })
            .cloned()
            .collect()
    }

    /// Forgets what was heard and met.
    fn forget(&mut self) {
        self.settle();
        self.heard.clear();
        self.met.clear();
    }
}

fn closed(name: &str) -> WatchEvent {
    WatchEvent::Closed(path(name))
}

fn written(name: &str) -> WatchEvent {
    WatchEvent::Written(path(name))
}

fn attributes(name: &str) -> WatchEvent {
    WatchEvent::Attributes(path(name))
}

fn unsure(name: &str) -> WatchEvent {
    WatchEvent::Unsure(path(name))
}

fn appeared(name: &str, dir: bool) -> WatchEvent {
    WatchEvent::Appeared { path: path(name), dir }
}

fn gone(name: &str, dir: bool) -> WatchEvent {
    WatchEvent::Gone { path: path(name), dir }
}

fn renamed(from: &str, to: &str, dir: bool) -> WatchEvent {
    WatchEvent::Renamed { from: path(from), to: path(to), dir }
}

/// Runs a test on a fresh tree of each back end that tells of events.
fn each(test: impl Fn(&mut Tree)) {
    for choice in BACK_ENDS {
        test(&mut Tree::new(choice));
    }
}

#[test]
fn a_file_from_its_creation_to_its_end() {
    each(|tree| {
        tree.write("f");
        for event in [appeared("f", false), written("f"), closed("f")] {
            tree.hear(&event);
        }
        tree.forget();
        let mut file = fs::OpenOptions::new().append(true).open(tree.at("f")).unwrap();
        std::io::Write::write_all(&mut file, b"more").unwrap();
        tree.hear(&written("f"));
        assert!(!tree.about("f").contains(&closed("f")), "it is still open");
        file.set_len(1).unwrap();
        drop(file);
        tree.hear(&closed("f"));
        tree.forget();
        fs::File::options().write(true).truncate(true).open(tree.at("f")).unwrap();
        tree.hear(&written("f"));
        tree.hear(&closed("f"));
        tree.forget();
        fs::remove_file(tree.at("f")).unwrap();
        tree.hear(&gone("f", false));
    });
}

#[test]
fn attributes_and_other_kinds() {
    each(|tree| {
        tree.write("f");
        tree.mkdir("d/e");
        tree.hear(&appeared("d", true));
        tree.forget();
        fs::set_permissions(tree.at("f"), fs::Permissions::from_mode(0o600)).unwrap();
        tree.hear(&attributes("f"));
        tree.forget();
        std::os::unix::fs::chown(tree.at("f"), Some(12), Some(34)).unwrap();
        tree.hear(&attributes("f"));
        tree.forget();
        let old = std::time::SystemTime::UNIX_EPOCH;
        let times = fs::FileTimes::new().set_modified(old).set_accessed(old);
        fs::File::open(tree.at("f")).unwrap().set_times(times).unwrap();
        tree.hear(&attributes("f"));
        tree.forget();
        // The kernel takes a modification time that is set alone for a write.
        fs::File::open(tree.at("f")).unwrap().set_modified(old).unwrap();
        tree.hear(&written("f"));
        for name in ["d", "d/e", ""] {
            tree.forget();
            fs::set_permissions(tree.at(name), fs::Permissions::from_mode(0o750)).unwrap();
            tree.hear(&attributes(name));
        }
        symlink("nowhere", tree.at("d/s")).unwrap();
        tree.hear(&appeared("d/s", false));
        fs::hard_link(tree.at("f"), tree.at("d/e/h")).unwrap();
        tree.hear(&appeared("d/e/h", false));
    });
}

#[test]
fn reading_is_no_event() {
    let mut tree = Tree::new(WatchChoice::Inotify);
    tree.mkdir("d");
    tree.write("d/f");
    tree.until("the walk", |tree| tree.met.contains(&path("d/f")));
    tree.forget();
    fs::read(tree.at("d/f")).unwrap();
    fs::read_dir(tree.at("d")).unwrap().for_each(drop);
    assert_eq!(tree.about("d"), []);
}

#[test]
fn renames_of_files() {
    each(|tree| {
        tree.mkdir("d");
        tree.write("a");
        tree.write("new");
        tree.hear(&closed("new"));
        tree.forget();
        tree.mv("new", "a");
        tree.hear(&renamed("new", "a", false));
        tree.mv("a", "d/b");
        tree.hear(&renamed("a", "d/b", false));
        tree.forget();
        tree.mv("d/b", "../outside/b");
        tree.hear(&gone("d/b", false));
        tree.mv("../outside/b", "c");
        tree.hear(&appeared("c", false));
    });
}

#[test]
fn paths_after_chains_of_directory_renames() {
    each(|tree| {
        tree.mkdir("a/b/c");
        tree.mkdir("x");
        tree.until("the walk", |tree| tree.met.contains(&path("a/b/c")));
        tree.forget();
        tree.mv("a", "a2");
        tree.hear(&renamed("a", "a2", true));
        tree.mv("a2/b", "x/b2");
        tree.hear(&renamed("a2/b", "x/b2", true));
        tree.mv("x", "a2/y");
        tree.hear(&renamed("x", "a2/y", true));
        tree.mv("a2", "z");
        tree.hear(&renamed("a2", "z", true));
        tree.forget();
        tree.write("z/y/b2/c/f");
        tree.hear(&closed("z/y/b2/c/f"));
        tree.mkdir("a/b/c");
        tree.until("the new a", |tree| tree.met.contains(&path("a/b/c")));
        tree.write("a/b/c/g");
        tree.hear(&closed("a/b/c/g"));
    });
}

#[test]
fn what_is_moved_out_is_heard_of_no_more() {
    each(|tree| {
        tree.mkdir("a/b/c");
        tree.until("the walk", |tree| tree.met.contains(&path("a/b/c")));
        tree.forget();
        let before = tree.watcher.status().watches;
        assert_eq!(before, 4);
        tree.mv("a", "../outside/a");
        tree.hear(&gone("a", true));
        tree.forget();
        tree.write("../outside/a/b/c/f");
        tree.write("../outside/a/g");
        assert_eq!(tree.about(""), tree.about("mark-4"), "nothing but the mark");
        assert_eq!(tree.watcher.status().watches, 1);
        tree.mv("../outside/a", "a");
        tree.until("the walk", |tree| tree.met.contains(&path("a/b/c/f")));
        tree.forget();
        tree.write("a/b/c/f");
        tree.hear(&closed("a/b/c/f"));
    });
}

#[test]
fn an_exchange_leaves_both_names_unsure_and_the_paths_right() {
    each(|tree| {
        tree.mkdir("a/in-a");
        tree.mkdir("b/in-b");
        tree.write("f");
        tree.until("the walk", |tree| {
            tree.met.contains(&path("a/in-a")) && tree.met.contains(&path("b/in-b"))
        });
        tree.forget();
        let swap = |tree: &Tree, one: &str, two: &str| {
            let cwd = rustix::fs::CWD;
            let (one, two) = (tree.at(one), tree.at(two));
            rustix::fs::renameat_with(cwd, one, cwd, two, RenameFlags::EXCHANGE).unwrap();
        };
        swap(tree, "a", "b");
        tree.hear(&unsure("a"));
        tree.hear(&unsure("b"));
        tree.forget();
        tree.write("a/in-b/f");
        tree.write("b/in-a/f");
        tree.hear(&closed("a/in-b/f"));
        tree.hear(&closed("b/in-a/f"));
        tree.forget();
        swap(tree, "f", "a");
        tree.hear(&unsure("f"));
        tree.hear(&unsure("a"));
        tree.forget();
        tree.write("f/in-b/g");
        tree.hear(&closed("f/in-b/g"));
    });
}
