//! From the notify crate's events to ours.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lsync_protocol::path::{RelPath, is_stage_name};
use notify::event::{
    AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind, RenameMode,
};

use crate::watch::WatchEvent;

/// The directories that walks have entered, by their paths: the crate's renames do not tell what
/// was renamed.
#[derive(Debug, Default)]
pub(super) struct Dirs(BTreeSet<RelPath>);

impl Dirs {
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn contains(&self, dir: &RelPath) -> bool {
        self.0.contains(dir)
    }

    pub(super) fn insert(&mut self, dir: RelPath) {
        self.0.insert(dir);
    }

    /// A directory left its path: nothing is watched at it or beneath.
    fn remove_subtree(&mut self, top: &RelPath) {
        let gone: Vec<RelPath> = self
            .0
            .range(top.clone()..)
            .take_while(|dir| dir.is_at_or_under(top))
            .cloned()
            .collect();
        for dir in gone {
            self.0.remove(&dir);
        }
    }
}

/// Is it an event of a kind that we never act on? Reads are: our own would keep us busy.
pub(super) fn says_nothing(event: &notify::Event) -> bool {
    matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
        && !event.need_rescan()
}

/// How long a rename may wait for one that turns it round: an exchange is told as two renames,
/// which are at most one drain apart.
const EXCHANGE: Duration = Duration::from_millis(100);

/// A rename, as long as the next may turn it round.
struct Before {
    from: RelPath,
    to: RelPath,
    /// Where its event is, unless that is delivered already.
    place: Option<usize>,
    when: Instant,
}

/// What was heard and is not delivered yet.
pub(super) struct Heard {
    root: PathBuf,
    out: Vec<WatchEvent>,
    /// The first half of a rename, with the number that the second has too.
    half: Option<(usize, PathBuf)>,
    /// The rename before.
    before: Option<Before>,
}

impl Heard {
    pub(super) fn new(root: &Path) -> Heard {
        Heard { root: root.to_owned(), out: Vec::new(), half: None, before: None }
    }

    /// Does a half of a rename wait for the other?
    pub(super) fn is_waiting(&self) -> bool {
        self.half.is_some()
    }

    /// Events were lost.
    pub(super) fn overflow(&mut self) {
        self.out.push(WatchEvent::Overflow);
    }

    /// Gives what was heard, in order. A half that still waits is taken for a move out.
    pub(super) fn take(&mut self, dirs: &mut Dirs) -> Vec<WatchEvent> {
        self.moved_out(dirs);
        if let Some(before) = &mut self.before {
            before.place = None;
        }
        std::mem::take(&mut self.out)
    }

    /// Takes one event.
    pub(super) fn hear(&mut self, dirs: &mut Dirs, event: notify::Result<notify::Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => return self.overflow(),
            Ok(event) => event,
            Err(cause) => {
                tracing::warn!("the watch failed: {cause}; everything is looked at");
                return self.overflow();
            }
        };
        if let EventKind::Modify(ModifyKind::Name(mode)) = event.kind {
            return self.hear_of_rename(dirs, mode, event.tracker(), &event.paths);
        }
        for path in &event.paths {
            let Some(path) = self.beneath(path) else { continue };
            match event.kind {
                EventKind::Create(kind) => {
                    let dir = match kind {
                        CreateKind::Folder => true,
                        CreateKind::File => false,
                        CreateKind::Any | CreateKind::Other => self.is_dir(&path),
                    };
                    self.out.push(WatchEvent::Appeared { path, dir });
                }
                EventKind::Remove(_) if path.is_root() => self.out.push(WatchEvent::RootGone),
                EventKind::Remove(kind) => {
                    let dir = kind == RemoveKind::Folder || dirs.contains(&path);
                    self.gone(dirs, path, dir);
                }
                EventKind::Modify(ModifyKind::Metadata(_)) => {
                    self.out.push(WatchEvent::Attributes(path));
                }
                EventKind::Modify(_) => self.out.push(WatchEvent::Written(path)),
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    self.out.push(WatchEvent::Closed(path));
                }
                EventKind::Access(_) => {}
                EventKind::Any | EventKind::Other => self.out.push(WatchEvent::Unsure(path)),
            }
        }
    }

    /// On Linux a rename is `From`, `To` and `Both`, with one number; a move out is `From` alone,
    /// a move in `To` alone. A `From` without a number speaks of a watched directory by a path that
    /// was its own before. Elsewhere it is one event for each name, old or new, without a number.
    fn hear_of_rename(
        &mut self,
        dirs: &mut Dirs,
        mode: RenameMode,
        tracker: Option<usize>,
        paths: &[PathBuf],
    ) {
        match (mode, tracker, paths) {
            (RenameMode::From, Some(tracker), [from]) => {
                self.moved_out(dirs);
                self.half = Some((tracker, from.clone()));
            }
            (RenameMode::From, None, [from]) if cfg!(target_os = "linux") => {
                if from == &self.root {
                    self.out.push(WatchEvent::RootGone);
                }
            }
            (RenameMode::To, Some(tracker), [_])
                if self.half.as_ref().is_some_and(|half| half.0 == tracker) => {}
            (RenameMode::Both, _, [from, to]) => {
                self.half = None;
                match (self.beneath(from), self.beneath(to)) {
                    (Some(from), Some(to)) => self.renamed(dirs, from, to),
                    (Some(from), None) => {
                        let dir = dirs.contains(&from);
                        self.gone(dirs, from, dir);
                    }
                    (None, Some(path)) => self.there_or_gone(dirs, path),
                    (None, None) => {}
                }
            }
            _ => {
                for path in paths {
                    if let Some(path) = self.beneath(path) {
                        self.there_or_gone(dirs, path);
                    }
                }
            }
        }
    }

    fn renamed(&mut self, dirs: &mut Dirs, from: RelPath, to: RelPath) {
        let dir = dirs.contains(&from) || self.is_dir(&to);
        dirs.remove_subtree(&from);
        dirs.remove_subtree(&to);
        let turned = self.before.take().filter(|before| {
            before.from == to && before.to == from && before.when.elapsed() < EXCHANGE
        });
        if let Some(before) = turned {
            // An exchange, or there and back again: either way both names are to be looked at.
            match before.place {
                Some(place) => self.out[place] = WatchEvent::Unsure(to),
                None => self.out.push(WatchEvent::Unsure(to)),
            }
            self.out.push(WatchEvent::Unsure(from));
            return;
        }
        self.before = Some(Before {
            from: from.clone(),
            to: to.clone(),
            place: Some(self.out.len()),
            when: Instant::now(),
        });
        self.out.push(WatchEvent::Renamed { from, to: to.clone(), dir });
        if dir {
            // The crate has let go of all watches at and beneath the old path.
            self.out.push(WatchEvent::Unsure(to));
        }
    }

    /// The other half did not come.
    fn moved_out(&mut self, dirs: &mut Dirs) {
        if let Some((_, from)) = self.half.take()
            && let Some(path) = self.beneath(&from)
        {
            let dir = dirs.contains(&path);
            self.gone(dirs, path, dir);
        }
    }

    fn gone(&mut self, dirs: &mut Dirs, path: RelPath, dir: bool) {
        if dir {
            dirs.remove_subtree(&path);
        }
        self.out.push(WatchEvent::Gone { path, dir });
    }

    /// A name was renamed from or to: what is there tells which.
    fn there_or_gone(&mut self, dirs: &mut Dirs, path: RelPath) {
        match std::fs::symlink_metadata(self.at(&path)) {
            Ok(meta) => self.out.push(WatchEvent::Appeared { path, dir: meta.is_dir() }),
            Err(_) => {
                let dir = dirs.contains(&path);
                self.gone(dirs, path, dir);
            }
        }
    }

    /// The path beneath the root, unless it is outside or one of our temporary files.
    fn beneath(&self, path: &Path) -> Option<RelPath> {
        let path = path.strip_prefix(&self.root).ok()?;
        let path = RelPath::new(path.as_os_str().as_bytes()).ok()?;
        Some(path).filter(|path| !path.name().is_some_and(is_stage_name))
    }

    fn is_dir(&self, path: &RelPath) -> bool {
        std::fs::symlink_metadata(self.at(path)).is_ok_and(|meta| meta.is_dir())
    }

    fn at(&self, path: &RelPath) -> PathBuf {
        self.root.join(OsStr::from_bytes(path.as_bytes()))
    }
}
