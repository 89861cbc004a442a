//! Syncs with actions of their own, through the library: real directories, a real interpreter,
//! real children.

#[path = "actions/children.rs"]
mod children;
#[path = "actions/churn.rs"]
mod churn;
#[path = "actions/mirrors.rs"]
mod mirrors;
#[path = "actions/script.rs"]
mod script;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lsyncd::carrier::action::{
    self, ActionLog, ActionOptions, ActionSync, Actions, ChildOutput, Finish, Standing,
};
use lsyncd::config::WatchChoice;
use lsyncd::config::rsync::ExitMeaning;
use lsyncd::config::settings::InotifyMode;
use lsyncd::filter::Filter;
use lsyncd::mirror::actions::feed;
use lsyncd::source::{Scope, Source};
use lsyncd::watch::WatchLimits;
use mlua::{Lua, Table, Value};
use tempfile::TempDir;

use crate::world::wait_until;

/// What was logged.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl ActionLog for Lines {
    fn line(&self, category: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{category}: {text}"));
    }
}

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, part: &str) -> usize {
        self.all().iter().filter(|line| line.contains(part)).count()
    }
}

/// A configuration at work. `sync{}` in it takes defaults as the real one does; `DIR` is a
/// directory with `s`, `t` and whatever a test puts there.
struct Rig {
    dir: TempDir,
    lines: Arc<Lines>,
    actions: Arc<Actions>,
    _runtime: tokio::runtime::Runtime,
}

/// What a test's `sync{}` leaves to the rest.
const SYNC: &str = r#"
    SYNCS = {}
    function sync(config)
        for key, value in pairs(default) do
            if config[key] == nil then config[key] = value end
        end
        config.source = config.source or DIR .. "/s"
        SYNCS[#SYNCS + 1] = config
    end
"#;

fn seconds(config: &Table, key: &str) -> Duration {
    Duration::from_secs_f64(config.get::<Option<f64>>(key).unwrap().unwrap_or(0.0))
}

fn action_sync(at: usize, config: Table, insist: bool) -> ActionSync {
    let codes: Option<Table> = config.get("exitcodes").unwrap();
    let exit_codes = codes.map(|codes| {
        let pairs = codes.pairs::<i32, String>().map(Result::unwrap);
        pairs
            .map(|(code, word)| (code, ExitMeaning::from_word(&word).unwrap()))
            .collect::<BTreeMap<_, _>>()
    });
    let excludes: Option<Vec<String>> = config.get("exclude").unwrap();
    let excludes: Vec<String> =
        excludes.unwrap_or_default().iter().map(|pattern| format!("- {pattern}")).collect();
    let source: String = config.get("source").unwrap();
    ActionSync {
        name: format!("Sync{}", at + 1),
        source: PathBuf::from(source),
        target: config.get("target").unwrap(),
        delay: seconds(&config, "delay"),
        max_delays: config.get("maxDelays").unwrap(),
        max_processes: config.get("maxProcesses").unwrap(),
        filter: Filter::parse(excludes.iter().map(|rule| rule.as_bytes())).unwrap(),
        exit_codes,
        insist,
        table: config,
    }
}

impl Rig {
    fn new(config: &str) -> Rig {
        Rig::with(config, |_| {})
    }

    fn with(config: &str, make: impl FnOnce(&Path)) -> Rig {
        Rig::of(config, ActionOptions::default(), false, WatchChoice::Auto, make)
    }

    fn of(
        config: &str,
        options: ActionOptions,
        insist: bool,
        choice: WatchChoice,
        make: impl FnOnce(&Path),
    ) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        for name in ["s", "t"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        make(dir.path());
        let lines = Arc::<Lines>::default();
        let lua = Lua::new();
        action::install(&lua, lines.clone()).unwrap();
        lua.globals().set("DIR", dir.path().to_str().unwrap()).unwrap();
        lua.load(SYNC).exec().unwrap();
        lua.load(config).set_name("=config").exec().unwrap();
        let tables: Vec<Table> = lua.globals().get("SYNCS").unwrap();
        let syncs: Vec<ActionSync> = tables
            .into_iter()
            .enumerate()
            .map(|(at, table)| action_sync(at, table, insist))
            .collect();
        let feeds: Vec<(PathBuf, Filter)> =
            syncs.iter().map(|sync| (sync.source.clone(), sync.filter.clone())).collect();
        let actions = Arc::new(action::start(lua, syncs, options, lines.clone()).unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        for (at, (path, filter)) in feeds.into_iter().enumerate() {
            let scope = Scope { filter: Arc::new(filter), ..Scope::default() };
            let source = Source::open(&path, scope).unwrap();
            let limits = WatchLimits { poll: Duration::from_millis(50), watches: None };
            source.watch(choice, limits).unwrap();
            let (actions, lines) = (actions.clone(), lines.clone());
            runtime.spawn(feed(Arc::new(source), actions, at, InotifyMode::default(), lines));
        }
        Rig { dir, lines, actions, _runtime: runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn standing(&self, at: usize) -> Standing {
        self.actions.overview().borrow().syncs[at]
    }

    /// Every sync has begun.
    fn running(self) -> Rig {
        let overview = self.actions.overview();
        self.until("all syncs run", || {
            overview.borrow().syncs.iter().all(|sync| *sync == Standing::Running)
        });
        self
    }

    #[track_caller]
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + crate::world::PATIENCE;
        while !holds() {
            let status = self.actions.status();
            assert!(
                Instant::now() < end,
                "waited in vain until {what}\n{}\n{status:#?}",
                self.lines.all().join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn until_says(&self, part: &str) {
        self.until(part, || self.lines.count(part) > 0);
    }

    /// Nothing is queued and no child runs.
    #[track_caller]
    fn until_idle(&self) {
        self.until("all is done", || {
            self.actions.status().iter().all(|s| s.delays.is_empty() && s.children == 0)
        });
    }

    /// Both trees have the same names.
    #[track_caller]
    fn until_equal(&self) {
        self.until("the trees are equal", || {
            tree(&self.path("s")) == tree(&self.path("t")) && {
                let status = self.actions.status();
                status.iter().all(|sync| sync.delays.is_empty())
            }
        });
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.actions.stop(15);
        let overview = self.actions.overview();
        if !std::thread::panicking() {
            wait_until("everything has ended", || overview.borrow().finished.is_some());
        }
    }
}

/// Names and contents beneath a directory.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let (mut all, mut dirs) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.insert(name, None);
                dirs.push(path);
            } else {
                all.insert(name, Some(fs::read(&path).unwrap_or_default()));
            }
        }
    }
    all
}
