//! Unknown is not missing, and a failed call is not the end: each class of system calls of both
//! sides fails once, at its n-th call, or beneath a directory for a while. Nothing that the source has
//! is deleted, and in the end both trees are equal and a start has nothing to do.
//!
//! A part of all n is tried; `LSYNCD_EACH_CALL=1` tries each with each error.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use lsync_agent::fault::{Call, Faults, OnDemand};
use lsync_protocol::path::RelPath;
use lsyncd::config::{MirrorConfig, Target, Verify, WatchChoice};
use lsyncd::error::{Exit, Result};
use lsyncd::metrics::{Counting, Notice, Totals};
use lsyncd::mirror::run::{Running, Starts, run};
use lsyncd::source::{Scope, Source};
use lsyncd::watch::{WatchEvent, WatchLimits};
use rustix::io::Errno;
use tokio::sync::watch;

use super::tree::{equal_within, noise, temporary_names};
use super::world::{PATIENCE, wait_until};

/// Which calls fail, and what was deleted.
struct Broken {
    call: Call,
    errno: Errno,
    /// This call of its class fails; 0: all beneath `under`, while `broken`.
    nth: u64,
    calls: AtomicU64,
    under: RelPath,
    broken: AtomicBool,
    fired: AtomicBool,
    mended: AtomicBool,
    source: PathBuf,
    target: PathBuf,
    wrong: Mutex<Vec<String>>,
}

impl Broken {
    fn fails(&self, call: Call, path: &RelPath) -> bool {
        if call != self.call || self.mended.load(Ordering::SeqCst) {
            return false;
        }
        let fails = match self.nth {
            0 => self.broken.load(Ordering::SeqCst) && path.is_at_or_under(&self.under),
            nth => self.calls.fetch_add(1, Ordering::SeqCst) + 1 == nth,
        };
        if fails {
            self.fired.store(true, Ordering::SeqCst);
        }
        fails
    }
}

impl Faults for Broken {
    fn before(&self, call: Call, path: &RelPath) -> std::result::Result<(), Errno> {
        let kind = |root: &Path| {
            let at = root.join(super::tree::bytes(path.as_bytes()));
            Some(fs::symlink_metadata(at).ok()?.file_type())
        };
        if call == Call::Remove && kind(&self.source).is_some() {
            let both = (kind(&self.source), kind(&self.target));
            if both.0 == both.1 {
                self.wrong.lock().unwrap().push(path.to_string());
            }
        }
        if self.fails(call, path) { Err(self.errno) } else { Ok(()) }
    }
}

/// A mirror in this process.
struct Going {
    source: Arc<Source>,
    metrics: Arc<Counting>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<Result<Exit>>>,
}

impl Going {
    fn start(broken: &Arc<Broken>, once: bool) -> Going {
        let faults = OnDemand::new(Arc::clone(broken) as Arc<dyn Faults>);
        let target = Target::Local(broken.target.clone());
        let config = MirrorConfig::new("mirror", &broken.source, target);
        let xattrs = config.attributes.shown_xattrs();
        let scope = Scope { xattrs, faults: faults.clone(), ..Scope::default() };
        let source = Arc::new(Source::open(&broken.source, scope).unwrap());
        if !once {
            source.watch(WatchChoice::Auto, WatchLimits::default()).unwrap();
        }
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Counting::default());
        let running = Running {
            config: Arc::new(config),
            events: (!once).then(|| source.subscribe()),
            source: Arc::clone(&source),
            key: [7; 32],
            once,
            dry_run: false,
            verify: Verify::No,
            metrics: metrics.clone(),
            stop: stopped,
            starts: Arc::new(Starts::insisting(1)),
            steered: None,
            has_other_way: false,
            faults,
        };
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(running))
        });
        Going { source, metrics, stop, thread: Some(thread) }
    }

    fn end(mut self) -> Result<Exit> {
        let _ = self.stop.send(true);
        self.thread.take().unwrap().join().unwrap()
    }

    fn done(&self) -> Option<Totals> {
        self.metrics.notices().into_iter().find_map(|notice| match notice {
            Notice::Done { totals, .. } => Some(totals),
            _ => None,
        })
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn put(at: &Path, names: &[&str]) {
    for name in names {
        let at = at.join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, format!("the content of {name}")).unwrap();
    }
}

/// A source and its target, which has some names more and one content that is older.
fn plant(dir: &Path) -> (PathBuf, PathBuf) {
    let (source, target) = (dir.join("source"), dir.join("target"));
    put(&source, &["keep/a", "keep/b", "keep/deep/x", "d/a", "d/b", "d/s/x", "d/s/y", "gone/1/2"]);
    fs::write(source.join("large"), noise(1, 300_000)).unwrap();
    std::os::unix::fs::symlink("a", source.join("keep/link")).unwrap();
    super::push::sh(dir, "cp -a source target");
    put(&target, &["extra", "d/old/z", "keep/more"]);
    fs::write(target.join("large"), noise(2, 300_000)).unwrap();
    (source, target)
}

fn change(source: &Path) {
    put(source, &["d/c", "new/sub/f"]);
    fs::rename(source.join("d/s"), source.join("d/t")).unwrap();
    fs::remove_dir_all(source.join("gone")).unwrap();
    fs::rename(source.join("d/a"), source.join("d/t/moved")).unwrap();
    fs::write(source.join("d/b"), "another content").unwrap();
    let mut large = noise(1, 300_000);
    large[150_000] ^= 1;
    fs::write(source.join("large"), large).unwrap();
    fs::remove_file(source.join("keep/b")).unwrap();
}

fn broken(dir: &Path, call: Call, errno: Errno, nth: u64, under: &str) -> Arc<Broken> {
    let (source, target) = plant(dir);
    Arc::new(Broken {
        call,
        errno,
        nth,
        calls: AtomicU64::new(0),
        under: RelPath::new(under.as_bytes()).unwrap(),
        broken: AtomicBool::new(true),
        fired: AtomicBool::new(false),
        mended: AtomicBool::new(false),
        source,
        target,
        wrong: Mutex::default(),
    })
}

/// Both trees are equal, nothing was deleted that should stay, nothing is left, and a start has
/// nothing to do.
fn ends_well(broken: &Arc<Broken>, going: Going, what: &str) {
    let equal = |when: &str| {
        if let Err(text) = equal_within(&broken.source, &broken.target, PATIENCE) {
            panic!("{what}, {when}: {text}\n{:#?}", going.metrics.notices());
        }
    };
    equal("in the end");
    going.source.tell(WatchEvent::Overflow);
    put(&broken.source, &["last"]);
    equal("after all was compared");
    assert_eq!(*broken.wrong.lock().unwrap(), Vec::<String>::new(), "{what}: deleted");
    assert!(matches!(going.end(), Ok(Exit::Done)), "{what}");
    assert_eq!(temporary_names(&broken.target), Vec::<String>::new(), "{what}");
    broken.mended.store(true, Ordering::SeqCst);
    let again = Going::start(broken, true);
    wait_until("it is done", || again.done().is_some());
    assert_eq!(again.done().unwrap().ops, 0, "{what}: a start has something to do");
}

/// The n-th call fails. Says whether there were so many.
fn nth_call_fails(call: Call, errno: Errno, nth: u64) -> bool {
    let what = format!("{call:?} number {nth} fails with {errno:?}");
    let dir = tempfile::tempdir().unwrap();
    let broken = broken(dir.path(), call, errno, nth, "");
    let going = Going::start(&broken, false);
    if let Err(text) = equal_within(&broken.source, &broken.target, PATIENCE) {
        panic!("{what}, at the start: {text}\n{:#?}", going.metrics.notices());
    }
    change(&broken.source);
    ends_well(&broken, going, &what);
    broken.fired.load(Ordering::SeqCst)
}

/// Tries calls of these classes, and says how many were tried; each class was met.
fn every(calls: &[Call], errnos: &[Errno]) {
    let all = std::env::var_os("LSYNCD_EACH_CALL").is_some();
    let mut cases: Vec<(Call, Errno, u64)> = Vec::new();
    for (at, &call) in calls.iter().enumerate() {
        for nth in 1..if all { 200 } else { 90 } {
            let some = [1, 2, 4, 7, 12, 20, 33, 54, 88].contains(&nth);
            let one = (at + nth as usize) % errnos.len();
            for (which, &errno) in errnos.iter().enumerate() {
                if all || (some && which == one) {
                    cases.push((call, errno, nth));
                }
            }
        }
    }
    let (next, met) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(&(call, errno, nth)) =
                    cases.get(next.fetch_add(1, Ordering::SeqCst) as usize)
                {
                    if nth_call_fails(call, errno, nth) {
                        met.lock().unwrap().push(call);
                    }
                }
            });
        }
    });
    let met = met.into_inner().unwrap();
    eprintln!("{} faults in {} cases", met.len(), cases.len());
    for call in calls {
        assert!(met.contains(call), "no {call:?} ever failed");
    }
}

#[test]
fn any_look_listing_and_read_may_fail() {
    let calls = [Call::Look, Call::List, Call::Names, Call::Open, Call::Content];
    every(&calls, &[Errno::ACCESS, Errno::IO, Errno::STALE]);
}

#[test]
fn any_call_that_applies_may_fail() {
    let calls = [
        Call::Parent,
        Call::Create,
        Call::Write,
        Call::Meta,
        Call::Place,
        Call::MakeDir,
        Call::Rename,
        Call::Remove,
    ];
    every(&calls, &[Errno::IO, Errno::NOSPC, Errno::ACCESS]);
}

#[test]
fn what_cannot_be_looked_at_stays_until_it_can() {
    std::thread::scope(|scope| {
        for call in [Call::Look, Call::List, Call::Names, Call::Open, Call::Content] {
            scope.spawn(move || {
                for (errno, under) in
                    [(Errno::IO, "keep"), (Errno::ACCESS, "d"), (Errno::STALE, "keep/deep")]
                {
                    let what = format!("{call:?} beneath {under} fails with {errno:?}");
                    let dir = tempfile::tempdir().unwrap();
                    let broken = broken(dir.path(), call, errno, 0, under);
                    let going = Going::start(&broken, false);
                    wait_until(&format!("{what}: the rest is mirrored"), || {
                        !broken.target.join("extra").exists()
                            && fs::read(broken.target.join("large")).unwrap() == noise(1, 300_000)
                    });
                    change(&broken.source);
                    going.source.tell(WatchEvent::Overflow);
                    wait_until(&format!("{what}: the rest goes on"), || {
                        broken.target.join("new/sub/f").exists()
                            && !broken.target.join("gone").exists()
                    });
                    assert!(broken.target.join("keep/a").exists(), "{what}");
                    assert!(broken.target.join("keep/deep/x").exists(), "{what}");
                    broken.broken.store(false, Ordering::SeqCst);
                    ends_well(&broken, going, &what);
                }
            });
        }
    });
}
