//! An action mirror: what happens in a source, told to a sync whose script acts on it.
//!
//! The script gets Lsyncd 2's events and not ours, so this is translation. The tree is walked
//! first, which sets the watches; then the sync's startup may run. What a directory holds when it
//! appears is told as created, after all that was heard before the walk: no event may tell of it.
//!
//! A new file is told of when it is closed, not when it is opened, where the kernel's word for a
//! change is a close (`held`).
//!
//! What is only *unsure* (there was no watch, the file system is polled) is walked and compared with
//! what was seen of it before; what was never seen is told as created, which a script has to bear
//! anyway.

mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lsync_protocol::entry::{Entry, Kind, Time};
use lsync_protocol::path::{Escaped, RelPath};

use crate::carrier::action::ActionLog;
use crate::carrier::action::Actions;
use crate::carrier::action::Happening;
use crate::carrier::action::Standing;
use crate::config::settings::InotifyMode;
use crate::source::{Found, Source};
use crate::watch::WatchEvent;
use held::Held;

/// How often it is looked whether a root that went is there again.
const ROOT_LOOK: Duration = Duration::from_secs(2);

/// What was seen of a name, where events cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: Kind,
    content: (u64, Option<Time>),
    attributes: (Option<u32>, Option<u32>, Option<u32>),
}

impl Seen {
    fn of(entry: &Entry) -> Seen {
        let meta = &entry.meta;
        Seen {
            kind: entry.kind,
            content: (entry.size, meta.mtime),
            attributes: (meta.mode, meta.uid, meta.gid),
        }
    }
}

/// One action mirror.
struct Feed {
    source: Arc<Source>,
    actions: Arc<Actions>,
    sync: usize,
    mode: InotifyMode,
    log: Arc<dyn ActionLog>,
    /// What was seen of subtrees that were unsure.
    seen: BTreeMap<RelPath, Seen>,
    /// The watch tells when a file is closed.
    closes: bool,
    /// New files that may still be written.
    held: Held,
}

/// What one walk met.
#[derive(Default)]
struct Met {
    names: Vec<(RelPath, Seen)>,
    troubles: Vec<String>,
    root_gone: bool,
}

/// Feeds a sync of `actions` from a source that is [watched](Source::watch) already, until all is
/// over or this sync has failed.
pub async fn feed(
    source: Arc<Source>,
    actions: Arc<Actions>,
    sync: usize,
    mode: InotifyMode,
    log: Arc<dyn ActionLog>,
) {
    let mut events = source.subscribe();
    let mut overview = actions.overview();
    let Some(mut walks) = actions.walks(sync) else { return };
    let mut feed = Feed {
        source,
        actions,
        sync,
        mode,
        log,
        seen: BTreeMap::new(),
        closes: false,
        held: Held::default(),
    };
    feed.begin().await;
    loop {
        overview.mark_unchanged();
        if !feed.wanted() {
            return;
        }
        let next = feed.held.next();
        tokio::select! {
            () = until(next) => feed.release(),
            changed = overview.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            batch = events.next() => match batch {
                Some(batch) => feed.batch(&batch).await,
                None => return,
            },
            Some(dir) = walks.recv() => {
                // What moved was complete, or is told of as modified.
                let contents = feed.contents(vec![dir], &BTreeSet::new(), false).await;
                feed.actions.events(sync, contents);
            }
        }
    }
}

impl Feed {
    /// Everything is watched; then the startup runs.
    async fn begin(&mut self) {
        loop {
            let met = self.walk(vec![RelPath::root()]).await;
            if met.root_gone {
                self.wait_for_root().await;
                if !self.wanted() {
                    return;
                }
                continue;
            }
            // What is not watched will be unsure: it can only be compared with what it was.
            self.seen.clear();
            if self.polls() {
                self.seen.extend(met.names);
            }
            // Others may not tell of a close.
            let status = self.source.watch_status().unwrap_or_default();
            self.closes = status.backend == "inotify";
            break;
        }
        self.actions.events(self.sync, vec![Happening::Reset]);
    }

    /// Files that were waited for long enough are told of.
    fn release(&mut self) {
        let due = self.held.due(Instant::now()).into_iter();
        let there = due.filter(|path| self.metadata(path).is_some());
        let told = there.map(|path| Happening::Create { path, dir: false }).collect();
        self.actions.events(self.sync, told);
    }

    /// May somebody be writing this new file, and will we hear of the end of that?
    fn may_be_open(&self, path: &RelPath) -> bool {
        self.mode == InotifyMode::CloseWrite
            && self.closes
            && self.metadata(path).is_some_and(|meta| meta.is_file() && meta.nlink() == 1)
    }

    /// The source is not there: nothing is concluded from that.
    async fn wait_for_root(&self) {
        let shown = Escaped(self.source.path().as_os_str().as_encoded_bytes()).to_string();
        let mut told = false;
        loop {
            let source = Arc::clone(&self.source);
            let back = tokio::task::spawn_blocking(move || source.check(true).is_ok()).await;
            if back.unwrap_or(false) {
                break;
            }
            if !told {
                let away = "is not there any more: waiting for it to be back";
                self.log.line("Warn", &format!("the source {shown} {away}"));
                told = true;
            }
            if !self.wanted() {
                return;
            }
            tokio::time::sleep(ROOT_LOOK).await;
        }
        if told {
            self.log.line("Normal", &format!("the source {shown} is back"));
        }
    }

    /// Is this sync still at work?
    fn wanted(&self) -> bool {
        let overview = self.actions.overview();
        let now = overview.borrow();
        let failed = matches!(now.syncs.get(self.sync), Some(Standing::Failed { .. }));
        now.finished.is_none() && !failed && overview.has_changed().is_ok()
    }

    /// What the watch delivered at once.
    async fn batch(&mut self, batch: &[WatchEvent]) {
        let (mut happened, mut dirs, mut unsure) = (Vec::new(), Vec::new(), Vec::new());
        let (now, mut anew) = (Instant::now(), false);
        for event in batch {
            match event {
                WatchEvent::Barrier(_) => {}
                WatchEvent::Overflow => {
                    self.log.line("Warn", "events were lost: the startup runs again");
                    anew = true;
                }
                WatchEvent::RootGone => {
                    self.wait_for_root().await;
                    anew = true;
                }
                WatchEvent::Unsure(path) => unsure.push(path.clone()),
                WatchEvent::Appeared { path, dir: true } => {
                    self.forget(path, true);
                    happened.push(Happening::Create { path: path.clone(), dir: true });
                    dirs.push(path.clone());
                }
                WatchEvent::Appeared { path, dir: false } => {
                    self.forget(path, true);
                    if self.may_be_open(path) {
                        self.held.hold(path.clone(), now);
                    } else {
                        happened.push(Happening::Create { path: path.clone(), dir: false });
                    }
                }
                WatchEvent::Written(path) => {
                    self.forget(path, false);
                    self.held.written(path);
                    if self.mode.writes() || !self.closes {
                        happened.push(Happening::Modify { path: path.clone() });
                    }
                }
                WatchEvent::Closed(path) => {
                    if self.held.take(path) {
                        happened.push(Happening::Create { path: path.clone(), dir: false });
                    } else if self.mode.closes() {
                        happened.push(Happening::Modify { path: path.clone() });
                    }
                }
                WatchEvent::Attributes(path) => {
                    self.forget(path, false);
                    // What is not there any more will be told of as gone.
                    let told = !self.held.has(path);
                    if let Some(dir) = self.is_dir(path).filter(|_| told) {
                        happened.push(Happening::Attrib { path: path.clone(), dir });
                    }
                }
                WatchEvent::Gone { path, dir } => {
                    self.held.gone(path);
                    self.forget(path, true);
                    happened.push(Happening::Delete { path: path.clone(), dir: *dir });
                }
                WatchEvent::Renamed { from, to, dir } => {
                    self.forget(from, true);
                    self.forget(to, true);
                    // Of a file that nobody was told of the new name is told of when it is time.
                    // What stood at the old name before it did is no more.
                    let (from, to) = (from.clone(), to.clone());
                    happened.push(if self.held.moved(&from, &to) {
                        Happening::Delete { path: from, dir: *dir }
                    } else {
                        Happening::Move { from, to, dir: *dir }
                    });
                }
            }
        }
        let told = told_of(&happened);
        if !happened.is_empty() {
            self.actions.events(self.sync, happened);
        }
        if !dirs.is_empty() {
            let contents = self.contents(dirs, &told, true).await;
            self.actions.events(self.sync, contents);
        }
        if !unsure.is_empty() {
            let differs = self.compare(unsure).await;
            self.actions.events(self.sync, differs);
        }
        if anew {
            self.begin().await;
        }
    }

    fn metadata(&self, path: &RelPath) -> Option<fs::Metadata> {
        let name = OsStr::from_bytes(path.as_bytes());
        fs::symlink_metadata(self.source.path().join(name)).ok()
    }

    fn is_dir(&self, path: &RelPath) -> Option<bool> {
        Some(self.metadata(path)?.is_dir())
    }

    /// What stands at a name.
    fn look(&self, path: &RelPath) -> Option<Seen> {
        let meta = self.metadata(path)?;
        let kind = match meta.file_type() {
            kind if kind.is_dir() => Kind::Dir,
            kind if kind.is_symlink() => Kind::Symlink,
            _ => Kind::File,
        };
        let mtime = Time { sec: meta.mtime(), nsec: u32::try_from(meta.mtime_nsec()).unwrap_or(0) };
        Some(Seen {
            kind,
            content: (if kind == Kind::File { meta.len() } else { 0 }, Some(mtime)),
            attributes: (Some(meta.mode() & 0o7777), Some(meta.uid()), Some(meta.gid())),
        })
    }

    /// Is there anything that no event tells of?
    fn polls(&self) -> bool {
        let status = self.source.watch_status().unwrap_or_default();
        status.polled > 0 || status.backend == "poll"
    }

    /// An event tells more of a name than what was seen of it.
    fn forget(&mut self, path: &RelPath, beneath: bool) {
        if self.seen.is_empty() {
            return;
        }
        if beneath {
            drop(self.seen_under(path));
        } else if self.seen.get(path).is_some_and(|seen| seen.kind != Kind::Dir) {
            self.seen.remove(path);
        }
    }

    /// Takes out what was seen of a name and of all beneath it.
    fn seen_under(&mut self, path: &RelPath) -> BTreeMap<RelPath, Seen> {
        let under =
            self.seen.range(path.clone()..).take_while(|(name, _)| name.is_at_or_under(path));
        let under: Vec<RelPath> = under.map(|(name, _)| name.clone()).collect();
        under.into_iter().filter_map(|name| self.seen.remove_entry(&name)).collect()
    }

    /// All that is in directories which came up and was not told of yet.
    async fn contents(
        &mut self,
        dirs: Vec<RelPath>,
        told: &BTreeSet<RelPath>,
        hold: bool,
    ) -> Vec<Happening> {
        let met = self.walk(outermost(dirs)).await;
        if self.polls() {
            self.seen.extend(met.names.iter().cloned());
        }
        let mut contents = Vec::new();
        let now = Instant::now();
        for (path, seen) in met.names {
            let dir = seen.kind == Kind::Dir;
            if told.contains(&path) || self.held.has(&path) {
                continue;
            }
            if hold && !dir && self.may_be_open(&path) {
                self.held.hold(path, now);
            } else {
                contents.push(Happening::Create { path, dir });
            }
        }
        contents
    }

    /// What became other in subtrees that nothing is heard of.
    async fn compare(&mut self, paths: Vec<RelPath>) -> Vec<Happening> {
        let paths = outermost(paths);
        let dirs = paths.iter().filter(|path| self.is_dir(path) == Some(true)).cloned().collect();
        let mut met = self.walk(dirs).await;
        if met.root_gone {
            return Vec::new();
        }
        let mut before = BTreeMap::new();
        for path in &paths {
            before.append(&mut self.seen_under(path));
        }
        let mut happened = Vec::new();
        for path in paths.iter().filter(|path| !path.is_root()) {
            let unknown = !before.contains_key(path);
            match self.look(path) {
                Some(seen) => {
                    // Nobody knows what was in it: it is made anew, unless something in it cannot
                    // be read.
                    if unknown && seen.kind == Kind::Dir && met.troubles.is_empty() {
                        happened.push(Happening::Delete { path: path.clone(), dir: true });
                    }
                    met.names.push((path.clone(), seen));
                }
                None if unknown => {
                    happened.push(Happening::Delete { path: path.clone(), dir: false });
                }
                None => {}
            }
        }
        met.names.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (path, seen) in met.names {
            happened.extend(differs(&path, before.remove(&path).as_ref(), &seen));
            self.seen.insert(path, seen);
        }
        // What could not be read is not known to have gone.
        if met.troubles.is_empty() {
            // What is in a directory before the directory itself.
            for (path, old) in before.into_iter().rev() {
                happened.push(Happening::Delete { path, dir: old.kind == Kind::Dir });
            }
        } else {
            self.seen.append(&mut before);
        }
        // Where events tell of everything else, this would soon be wrong.
        if !self.polls() {
            self.seen.clear();
        }
        happened
    }

    /// Walks subtrees and watches what is in them.
    async fn walk(&self, starts: Vec<RelPath>) -> Met {
        let source = Arc::clone(&self.source);
        let met = tokio::task::spawn_blocking(move || {
            let met = Mutex::new(Met::default());
            source.walk(&starts, |found| {
                let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
                match found {
                    Found::Dir(dir) => {
                        for named in &dir.entries {
                            if let Ok(path) = dir.dir.join(&named.name) {
                                met.names.push((path, Seen::of(&named.entry)));
                            }
                        }
                        let unknown = dir
                            .unknown
                            .iter()
                            .map(|(name, why)| format!("{}/{}: {why}", dir.dir, Escaped(name)));
                        met.troubles.extend(unknown);
                    }
                    Found::Failed(dir, why) => met.troubles.push(format!("{dir}: {why}")),
                    Found::End(end) => met.root_gone = end.is_err(),
                }
                ControlFlow::Continue(())
            });
            met.into_inner().unwrap_or_else(PoisonError::into_inner)
        });
        let mut met = met.await.unwrap_or_default();
        for trouble in &met.troubles {
            self.log.line("Warn", trouble);
        }
        // Parents first, whichever thread met them.
        met.names.sort_by(|(a, _), (b, _)| a.cmp(b));
        met
    }
}

/// The names that stand where they were told of as created.
fn told_of(happened: &[Happening]) -> BTreeSet<RelPath> {
    let mut told: BTreeSet<RelPath> = BTreeSet::new();
    for happening in happened {
        let gone: [Option<&RelPath>; 2] = match happening {
            Happening::Create { path, .. } | Happening::Delete { path, .. } => [Some(path), None],
            Happening::Move { from, to, .. } => [Some(from), Some(to)],
            _ => [None, None],
        };
        for gone in gone.into_iter().flatten() {
            let under = told.range(gone.clone()..).take_while(|path| path.is_at_or_under(gone));
            let under: Vec<RelPath> = under.cloned().collect();
            for path in under {
                told.remove(&path);
            }
        }
        if let Happening::Create { path, .. } = happening {
            told.insert(path.clone());
        }
    }
    told
}

/// What happened to a name of which this was seen before, and this now.
fn differs(path: &RelPath, before: Option<&Seen>, seen: &Seen) -> Vec<Happening> {
    let (path, dir) = (path.clone(), seen.kind == Kind::Dir);
    match before {
        None => vec![Happening::Create { path, dir }],
        Some(old) if old.kind != seen.kind => vec![
            Happening::Delete { path: path.clone(), dir: old.kind == Kind::Dir },
            Happening::Create { path, dir },
        ],
        // A directory's time says that names in it changed, which is told anyway.
        Some(old) if !dir && old.content != seen.content => vec![Happening::Modify { path }],
        Some(old) if old.attributes != seen.attributes => vec![Happening::Attrib { path, dir }],
        Some(_) => Vec::new(),
    }
}

/// At a time, if there is one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Without those that others are above.
fn outermost(mut paths: Vec<RelPath>) -> Vec<RelPath> {
    paths.sort();
    let mut kept: Vec<RelPath> = Vec::new();
    for path in paths {
        if kept.last().is_none_or(|last| !path.is_at_or_under(last)) {
            kept.push(path);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_again_was_not_told_of() {
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let create = |p: &str, dir| Happening::Create { path: path(p), dir };
        let happened = [
            create("d", true),
            create("d/x", false),
            create("e", true),
            create("e/x", false),
            Happening::Delete { path: path("d"), dir: true },
            create("d", true),
            Happening::Move { from: path("e"), to: path("f"), dir: true },
            create("g", false),
        ];
        assert_eq!(told_of(&happened), BTreeSet::from(["d", "g"].map(path)));
    }

    #[test]
    fn what_is_beneath_another_is_not_walked_twice() {
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let paths = ["b", "a/b/c", "a", "a", "ab"].map(path).to_vec();
        assert_eq!(outermost(paths), ["a", "ab", "b"].map(path));
    }
}
