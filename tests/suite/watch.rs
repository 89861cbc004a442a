//! The watcher on a real file system: the same table of happenings for every back end.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
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
    /// Directories that were gone when a walk came to them: their new names, if a rename tells of
    /// any, are walked instead.
    missed: BTreeSet<RelPath>,
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
            missed: BTreeSet::new(),
            marks: 0,
            _dir: dir,
        };
        tree.walk(&RelPath::root());
        tree.forget();
        tree
    }

    /// Of the back end without events, where nothing marks the end of a wait.
    fn polled(limits: WatchLimits) -> Tree {
        let (tell, events) = channel();
        let dir = tempfile::tempdir().unwrap();
        let sink: EventSink = Box::new(move |e| drop(tell.send(e)));
        let watcher = Arc::from(watch::open(WatchChoice::Poll, dir.path(), limits, sink).unwrap());
        Tree {
            root: dir.path().to_owned(),
            outside: PathBuf::new(),
            watcher,
            events,
            heard: Vec::new(),
            met: BTreeSet::new(),
            missed: BTreeSet::new(),
            marks: 0,
            _dir: dir,
        }
    }

    /// What walks met and events told of being closed.
    fn met_or_closed(&self) -> BTreeSet<RelPath> {
        let closed = self.heard.iter().filter_map(|event| match event {
            WatchEvent::Closed(path) => Some(path.clone()),
            _ => None,
        });
        closed.chain(self.met.iter().cloned()).collect()
    }

    /// Settles until a settle brings nothing but its own mark: all walks are through.
    fn quiet(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.heard.clear();
            self.settle();
            if self.heard.iter().all(|event| format!("{event:?}").contains("\"mark-")) {
                return;
            }
            assert!(Instant::now() < deadline, "it never gets quiet: {:?}", self.heard);
        }
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
            let Ok(fd) = rustix::fs::open(&at, flags, rustix::fs::Mode::empty()) else {
                self.missed.insert(dir);
                continue;
            };
            self.missed.remove(&dir);
            self.watcher.enter(&dir, fd.as_fd()).unwrap();
            let Ok(entries) = fs::read_dir(&at) else {
                self.missed.insert(dir);
                continue;
            };
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
            assert!(
                Instant::now() < deadline,
                "waited for {what},\nheard {:?},\nmet {:?}",
                self.heard,
                self.met
            );
            // Not every condition comes with an event.
            let Ok(events) = self.events.recv_timeout(SHORT) else { continue };
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
                WatchEvent::Renamed { from, to, .. } => {
                    let missed: Vec<_> = self
                        .missed
                        .iter()
                        .filter(|dir| dir.is_at_or_under(&from))
                        .cloned()
                        .collect();
                    for dir in missed {
                        self.missed.remove(&dir);
                        self.walk(&dir.moved(&from, &to).unwrap());
                    }
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
                WatchEvent::Overflow | WatchEvent::RootGone | WatchEvent::Barrier(_) => true,
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
        // Shown when the test fails.
        println!("{choice:?}");
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
        fs::write(tree.outside.join("a/b/c/f"), "f").unwrap();
        fs::write(tree.outside.join("a/g"), "g").unwrap();
        tree.settle();
        let marks = |event: &&WatchEvent| !format!("{event:?}").contains("mark-");
        assert_eq!(tree.heard.iter().find(marks), None, "nothing but the mark");
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

#[test]
fn a_tree_goes_and_comes_back_under_its_old_name() {
    each(|tree| {
        tree.mkdir("a/b/c");
        tree.write("a/b/f");
        tree.until("the walk", |tree| tree.met.contains(&path("a/b/c")));
        tree.forget();
        fs::remove_dir_all(tree.at("a")).unwrap();
        for event in [gone("a/b/f", false), gone("a/b/c", true), gone("a/b", true), gone("a", true)]
        {
            tree.hear(&event);
        }
        tree.settle();
        assert_eq!(tree.watcher.status().watches, 1);
        tree.mkdir("a/b/c");
        tree.until("the walk", |tree| tree.met.contains(&path("a/b/c")));
        tree.forget();
        tree.write("a/b/c/f");
        tree.hear(&closed("a/b/c/f"));
    });
}

#[test]
fn no_file_of_a_new_tree_is_missed() {
    each(|tree| {
        let mut files = BTreeSet::new();
        for i in 0..200 {
            let dir = format!("n{i}/x/y/z");
            tree.mkdir(&dir);
            let file = format!("{dir}/leaf");
            tree.write(&file);
            files.insert(path(&file));
        }
        tree.until("every leaf, by event or by walk", |tree| {
            files.is_subset(&tree.met_or_closed())
        });
    });
}

#[test]
fn our_own_temporary_files_are_passed_over() {
    each(|tree| {
        let stage = ".lsync-0123abcd-00000001";
        tree.write(stage);
        tree.write(".lsync-mine");
        tree.hear(&closed(".lsync-mine"));
        assert_eq!(tree.about(stage), []);
        tree.mv(stage, "f");
        tree.hear(&appeared("f", false));
        tree.mv("f", stage);
        tree.hear(&gone("f", false));
        assert_eq!(tree.about(stage), []);
    });
}

#[test]
fn names_may_be_any_bytes() {
    each(|tree| {
        let long = vec![b'x'; 255];
        for name in [&b"new\nline"[..], b"]", b"\xff\xfe", b" ", &long] {
            let at = tree.root.join(OsStr::from_bytes(name));
            fs::write(at, "x").unwrap();
            tree.hear(&WatchEvent::Closed(RelPath::new(name).unwrap()));
        }
    });
}

#[test]
fn the_root_is_gone_when_it_is_moved_or_deleted() {
    each(|tree| {
        fs::rename(&tree.root, tree.outside.join("root")).unwrap();
        tree.hear(&WatchEvent::RootGone);
    });
    each(|tree| {
        fs::remove_dir_all(&tree.root).unwrap();
        tree.hear(&WatchEvent::RootGone);
    });
}

#[test]
fn lost_events_are_an_event() {
    for choice in BACK_ENDS {
        let (tell, events) = channel();
        let (release, released) = channel::<()>();
        let mut held = false;
        let sink: EventSink = Box::new(move |batch: Vec<WatchEvent>| {
            let hold = batch.iter().any(|event| *event == appeared("hold", false));
            drop(tell.send(batch));
            if hold && !held {
                held = true;
                let _ = released.recv();
            }
        });
        let mut tree = Tree::to(choice, WatchLimits::default(), |_| {}, sink, events);
        tree.write("hold");
        tree.hear(&appeared("hold", false));
        for i in 0..20_000 {
            rustix::fs::symlink("x", tree.at(&format!("l{i}"))).unwrap();
        }
        release.send(()).unwrap();
        tree.hear(&WatchEvent::Overflow);
        assert!(tree.watcher.status().overflows > 0);
        tree.until("what the walk finds", |tree| tree.met.contains(&path("l19999")));
        tree.forget();
        tree.write("after");
        tree.hear(&closed("after"));
    }
}

/// What is to be seen when only some directories can be watched.
fn with_few_watches(limits: WatchLimits, few: impl Fn(), free: impl Fn(&Path)) {
    for choice in BACK_ENDS {
        few();
        let mut tree = Tree::with(choice, limits, |root| {
            for i in 0..30 {
                fs::create_dir_all(root.join(format!("d{i:02}/sub"))).unwrap();
            }
        });
        let status = tree.watcher.status();
        assert_eq!(status.watches + status.polled, 61, "{status:?}");
        assert!(status.polled > 0 && status.watches > 0, "{status:?}");
        // Every file is seen, by an event or by a walk of what nothing is sure of.
        let files: BTreeSet<RelPath> = (0..30).map(|i| path(&format!("d{i:02}/sub/f"))).collect();
        for file in &files {
            fs::write(tree.root.join(OsStr::from_bytes(file.as_bytes())), "x").unwrap();
        }
        tree.until("all files", |tree| files.is_subset(&tree.met_or_closed()));
        assert!(tree.heard.iter().any(|event| matches!(event, WatchEvent::Unsure(_))));
        // With room again all is watched, by and by.
        free(&tree.root);
        tree.until("rounds until nothing is polled", |tree| tree.watcher.status().polled == 0);
        tree.forget();
        tree.write("d29/f");
        fs::create_dir(tree.at("d00")).unwrap_or(());
        tree.hear(&closed("d29/f"));
    }
}

/// A short round, so that the test need not wait.
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn what_exceeds_our_own_limit_is_polled() {
    let limits = WatchLimits { poll: SHORT, watches: Some(50) };
    with_few_watches(
        limits,
        || {},
        |root| {
            for i in 0..20 {
                fs::remove_dir_all(root.join(format!("d{i:02}"))).unwrap();
            }
        },
    );
}

/// Runs one of the ignored tests below as root of namespaces of its own, after some shell
/// commands; none of it where the system allows no such namespaces.
fn in_a_namespace(flags: &str, before: &str, test: &str) {
    let allowed = Command::new("unshare").args([flags, "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("not tested here, where no namespaces are allowed: {test}");
        return;
    }
    let output = Command::new("unshare")
        .args([flags, "sh", "-ec", &format!("{before}\nexec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

#[test]
fn what_exceeds_the_kernels_limit_is_polled() {
    in_a_namespace("-Ur", "", "watch::inside_with_few_watches");
}

#[test]
#[ignore = "run by the one above, where the kernel gives 50 watches"]
fn inside_with_few_watches() {
    let allow = |watches: &str| fs::write("/proc/sys/user/max_inotify_watches", watches).unwrap();
    let limits = WatchLimits { poll: SHORT, watches: None };
    with_few_watches(limits, || allow("50"), |_| allow("1000"));
}

#[test]
fn without_an_instance_the_error_names_the_setting() {
    in_a_namespace(
        "-Ur",
        "echo 0 > /proc/sys/user/max_inotify_instances",
        "watch::inside_without_instances",
    );
}

#[test]
#[ignore = "run by the one above, where the kernel gives no instance"]
fn inside_without_instances() {
    for choice in BACK_ENDS {
        let error =
            watch::open(choice, Path::new("/tmp"), WatchLimits::default(), Box::new(|_| {}))
                .err()
                .unwrap();
        assert_eq!(error.to_string(), "cannot watch /tmp: too many open files");
        let hint = error.hint_text().unwrap();
        assert!(hint.starts_with("raise fs.inotify.max_user_instances"), "{hint}");
    }
}

#[test]
fn unmounts_are_told() {
    in_a_namespace("-Urm", "", "watch::inside_where_mounting_is_allowed");
}

#[test]
#[ignore = "run by the one above, where it may mount"]
fn inside_where_mounting_is_allowed() {
    let run = |args: &[&str], at: &Path| {
        assert!(Command::new(args[0]).args(&args[1..]).arg(at).status().unwrap().success());
    };
    let mount = |at: &Path| run(&["mount", "-t", "tmpfs", "tmpfs"], at);
    let mut tree = Tree::with(WatchChoice::Inotify, WatchLimits::default(), |root| {
        mount(root);
        fs::create_dir_all(root.join("d/m")).unwrap();
        mount(&root.join("d/m"));
        fs::create_dir_all(root.join("d/m/x/y")).unwrap();
    });
    assert_eq!(tree.watcher.status().watches, 5);
    run(&["umount"], &tree.at("d/m"));
    tree.hear(&unsure("d/m"));
    tree.write("d/m/f");
    tree.hear(&closed("d/m/f"));
    run(&["umount"], &tree.root.clone());
    tree.hear(&WatchEvent::RootGone);
}

#[test]
fn polling_reports_the_root_and_auto_knows_when_to() {
    let limits = WatchLimits { poll: SHORT, watches: None };
    let mut tree = Tree::polled(limits);
    tree.write("f");
    tree.until("a walk", |tree| tree.met.contains(&path("f")));
    assert_eq!(tree.watcher.status().backend, "poll");
    let tree = Tree::new(WatchChoice::Auto);
    assert_eq!(tree.watcher.status().backend, "inotify");
}

/// Renames of directories while walks go on: whatever came in whatever order, in the end every
/// directory is watched under its own path.
#[test]
fn after_any_turmoil_every_path_is_right() {
    each(|tree| {
        // A simple generator: the test is the same every time, the races are not.
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 0..30 {
            for _ in 0..40 {
                let mut name = || match draw(3) {
                    0 => format!("d{}", draw(4)),
                    1 => format!("d{}/d{}", draw(4), draw(4)),
                    _ => format!("d{}/d{}/d{}", draw(4), draw(4), draw(4)),
                };
                let (one, two) = (tree.at(&name()), tree.at(&name()));
                // What is impossible (into itself, no parent) is left out.
                let cwd = rustix::fs::CWD;
                match draw(8) {
                    0..=2 => drop(fs::create_dir_all(one)),
                    3 => drop(fs::remove_dir(one)),
                    4 => drop(rustix::fs::renameat_with(cwd, one, cwd, two, RenameFlags::EXCHANGE)),
                    5 => {
                        let out = tree.outside.join(format!("o{}", draw(2)));
                        if fs::rename(&out, &one).is_err() {
                            drop(fs::rename(&one, &out));
                        }
                    }
                    _ => drop(fs::rename(one, two)),
                }
                if draw(4) == 0
                    && let Ok(events) = tree.events.try_recv()
                {
                    tree.take(events);
                }
                if draw(16) == 0 {
                    tree.walk(&RelPath::root());
                }
            }
            tree.quiet();
            tree.forget();
            let mut left = vec![tree.root.clone()];
            let mut expected = Vec::new();
            while let Some(dir) = left.pop() {
                for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                    if entry.file_type().unwrap().is_dir() {
                        left.push(entry.path());
                    }
                }
                let probe = dir.join("probe");
                fs::write(&probe, "x").unwrap();
                let name = probe.strip_prefix(&tree.root).unwrap().as_os_str().as_bytes();
                // Not `Closed`: a process that another test starts may hold the file for a moment,
                // and after the unlink its last close goes unsaid.
                expected.push(WatchEvent::Written(RelPath::new(name).unwrap()));
                fs::remove_file(&probe).unwrap();
            }
            tree.until(&format!("the probes of round {round}: {expected:?}"), |tree| {
                expected.iter().all(|event| tree.heard.contains(event))
            });
            tree.settle();
            let odd = tree.heard.iter().find(|event| {
                matches!(event, WatchEvent::Written(path) if path.name() == Some(b"probe"))
                    && !expected.contains(*event)
            });
            assert_eq!(odd, None, "in round {round}");
        }
    });
}
