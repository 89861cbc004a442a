//! Pairing: what a walk finds to be new may stand on the target under another name.
//!
//! A file keeps its size and its time when it moves. So a large content waits until the walk has
//! compared everything, and is then copied from a file of equal size and time, if the target has
//! one: one that the source no longer has, wherever that stood, or a file of which this is a copy.
//! Small files travel; and nothing waits where the target has nothing that could be of use.

use std::collections::{BTreeMap, BTreeSet};

use lsync_protocol::entry::{Held, Kind, Meta, Named, Time};
use lsync_protocol::message::INLINE_MAX;
use lsync_protocol::path::RelPath;

use crate::plan::Planned;

/// At most so many contents wait; if there are more, they all leave.
const WAITING_MAX: usize = 1024;
/// At most so many files of the target are remembered.
const SPARES_MAX: usize = 16 * 1024;
/// At most so many of equal size and time.
const ALIKE_MAX: usize = 64;
/// At most so many directories are listed to find them.
const DIRS_MAX: usize = 1024;

/// Files of equal size and time.
#[derive(Debug, Default)]
struct Alike {
    paths: Vec<RelPath>,
    /// So many of them have been given to somebody.
    given: BTreeSet<usize>,
}

/// Contents that wait, and what they may be copied from.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    waiting: Vec<Planned>,
    spares: BTreeMap<(u64, Time), Alike>,
    count: usize,
    /// Those of the directory that was seen last.
    here: BTreeSet<RelPath>,
    /// Directories that only the target has.
    dirs: Vec<RelPath>,
    /// Directories that were or are being listed.
    listed: usize,
    /// There is something on the target.
    worth: bool,
    /// Too much waited.
    full: bool,
}

/// Whether a content waits.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It does.
    Yes,
    /// It leaves.
    No(Planned),
    /// It was one too many: all leave.
    NoMore(Vec<Planned>),
}

/// What has to be equal of a content and a file: nothing that is brought inline, nor where times
/// are not carried.
fn key(size: u64, meta: &Meta) -> Option<(u64, Time)> {
    (size > INLINE_MAX).then_some(())?;
    Some((size, meta.mtime?))
}

impl Pairing {
    /// These stand in a directory of the target.
    pub(super) fn saw<'a>(
        &mut self,
        dir: &RelPath,
        entries: impl IntoIterator<Item = &'a Named>,
        held: &Held,
    ) {
        self.here.clear();
        for named in entries {
            self.worth = true;
            let entry = &named.entry;
            if entry.kind == Kind::File
                && self.count < SPARES_MAX
                && let Some(key) = key(entry.size, &held.meta(Kind::File, &entry.meta))
                && let Ok(path) = dir.join(&named.name)
            {
                self.here.insert(path.clone());
                let alike = self.spares.entry(key).or_default();
                if alike.paths.len() < ALIKE_MAX {
                    alike.paths.push(path);
                    self.count += 1;
                }
            }
        }
    }

    /// A directory that only the target has.
    pub(super) fn only_there(&mut self, dir: &RelPath) {
        if self.dirs.len() < DIRS_MAX {
            self.dirs.push(dir.clone());
        }
    }

    /// Shall this wait? Large contents do, and others that would take the place of a large file,
    /// which may be what one of those is copied from.
    pub(super) fn wait(&mut self, op: Planned) -> Wait {
        let waits = match &op {
            Planned::Content { path, size, meta, like, .. } => {
                like.is_empty() && (key(*size, meta).is_some() || self.here.contains(path))
            }
            _ => false,
        };
        if !waits || !self.worth || self.full {
            return Wait::No(op);
        }
        self.waiting.push(op);
        if self.waiting.len() <= WAITING_MAX {
            return Wait::Yes;
        }
        self.full = true;
        Wait::NoMore(self.paired())
    }

    /// Directories in which what still lacks a pair may stand: they are to be listed.
    pub(super) fn take_dirs(&mut self) -> Vec<RelPath> {
        let lacks = |op: &Planned| match op {
            Planned::Content { size, meta, .. } => {
                key(*size, meta).is_some_and(|key| !self.spares.contains_key(&key))
            }
            _ => false,
        };
        let dirs = std::mem::take(&mut self.dirs);
        let room = DIRS_MAX - self.listed.min(DIRS_MAX);
        if room == 0 || !self.waiting.iter().any(lacks) {
            return Vec::new();
        }
        let dirs: Vec<RelPath> = dirs.into_iter().take(room).collect();
        self.listed += dirs.len();
        dirs
    }

    /// All that waited, each with the name it may be copied from.
    pub(super) fn paired(&mut self) -> Vec<Planned> {
        let mut ops = std::mem::take(&mut self.waiting);
        // What has kept its name is known better.
        for same_name in [true, false] {
            for op in &mut ops {
                if let Planned::Content { path, meta, size, like, .. } = op
                    && like.is_empty()
                    && let Some(key) = key(*size, meta)
                    && let Some(alike) = self.spares.get_mut(&key)
                {
                    like.extend(alike.pair(path, same_name));
                }
            }
        }
        ops
    }
}

impl Alike {
    /// Which of them is it? One that was not given yet, if there is one.
    fn pair(&mut self, path: &RelPath, same_name: bool) -> Option<RelPath> {
        if self.paths.contains(path) {
            // It stands there already, and is known to be another content.
            return None;
        }
        let fits = |at: &usize| !same_name || self.paths[*at].name() == path.name();
        let best = (0..self.paths.len()).filter(fits).min_by_key(|at| self.given.contains(at))?;
        self.given.insert(best);
        self.paths.get(best).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lsync_protocol::entry::{Entry, Holds, Wanted};
    use lsync_protocol::xattr::Classes;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn held() -> Held {
        let holds = Holds {
            chown: false,
            groups: vec![],
            own_user: 0,
            own_group: 0,
            devices: true,
            xattrs: Classes::NONE,
            time_granularity: 1_000_000_000,
            keeps: lsync_protocol::entry::Keeps::ALL,
            folds_case: false,
            name_max: 255,
        };
        Held::new(
            Wanted {
                perms: true,
                owner: true,
                group: false,
                times: true,
                specials: true,
                devices: true,
                hard_links: true,
                xattrs: Classes::NONE,
            },
            &holds,
        )
    }

    fn meta(sec: i64) -> Meta {
        Meta { mtime: Some(Time { sec, nsec: 7 }), ..Meta::default() }
    }

    fn content(name: &str, size: u64, sec: i64) -> Planned {
        let meta = held().meta(Kind::File, &meta(sec));
        let (new, base, like) = (true, false, Vec::new());
        Planned::Content { path: path(name), meta, size, file: None, new, base, like }
    }

    fn there(name: &str, size: u64, sec: i64) -> Named {
        let (kind, link, nlink) = (Kind::File, None, 1);
        let entry = Entry { kind, size, link, meta: meta(sec), nlink, file: None, device: None };
        Named { name: name.as_bytes().into(), entry }
    }

    const L: u64 = INLINE_MAX + 1;

    /// What is copied from what, of contents that wait for these files of the target.
    fn pairs(new: &[(&str, u64, i64)], old: &[(&str, &str, u64, i64)]) -> Vec<String> {
        let mut pairing = Pairing { worth: true, ..Pairing::default() };
        let mut ops = Vec::new();
        for (name, size, sec) in new {
            if let Wait::No(op) = pairing.wait(content(name, *size, *sec)) {
                ops.push(op);
            }
        }
        for (dir, name, size, sec) in old {
            pairing.saw(&path(dir), [&there(name, *size, *sec)], &held());
        }
        ops.extend(pairing.paired());
        let pair = |op: &Planned| match op {
            Planned::Content { path, like, .. } => {
                like.iter().map(|old| format!("{path}<{old}")).collect::<Vec<_>>()
            }
            _ => unreachable!(),
        };
        ops.iter().flat_map(pair).collect()
    }

    #[test]
    fn size_and_time_make_a_pair_and_the_name_chooses() {
        type Table<'a> =
            (&'a [(&'a str, u64, i64)], &'a [(&'a str, &'a str, u64, i64)], &'a [&'a str]);
        let table: [Table<'_>; 9] = [
            (&[("a/f", L, 1)], &[("b", "g", L, 1)], &["a/f<b/g"]),
            (&[("a/f", L, 1)], &[("b", "f", L, 2)], &[]),
            (&[("a/f", L, 1)], &[("b", "f", L + 1, 1)], &[]),
            (&[("a/f", L - 1, 1)], &[("b", "f", L - 1, 1)], &[]),
            (&[("a/f", L, 1)], &[("b", "g", L, 1), ("c", "f", L, 1)], &["a/f<c/f"]),
            (
                &[("a/1", L, 1), ("a/2", L, 1)],
                &[("b", "2", L, 1), ("b", "x", L, 1)],
                &["a/1<b/x", "a/2<b/2"],
            ),
            (
                &[("n/1", L, 1), ("n/2", L, 1)],
                &[("o", "1", L, 1), ("o", "2", L, 1)],
                &["n/1<o/1", "n/2<o/2"],
            ),
            // One file, twice.
            (&[("1", L, 1), ("2", L, 1)], &[("b", "f", L, 1)], &["1<b/f", "2<b/f"]),
            // It is there, and what is there is not what it is now.
            (&[("b/f", L, 1)], &[("b", "f", L, 1), ("c", "f", L, 1)], &[]),
        ];
        for (new, old, want) in table {
            assert_eq!(pairs(new, old), want, "{new:?} {old:?}");
        }
    }

    #[test]
    fn on_an_empty_target_nothing_waits() {
        let mut pairing = Pairing::default();
        assert!(matches!(pairing.wait(content("f", L, 1)), Wait::No(_)));
        pairing.saw(&RelPath::root(), [&there("small", 1, 1)], &held());
        assert_eq!(pairing.wait(content("f", L, 1)), Wait::Yes);
        assert!(matches!(pairing.wait(content("small", L - 1, 1)), Wait::No(_)));
        let dir = Planned::Dir { path: path("d"), meta: Meta::default() };
        assert!(matches!(pairing.wait(dir), Wait::No(_)));
    }

    #[test]
    fn when_too_much_waits_all_of_it_leaves() {
        let mut pairing = Pairing { worth: true, ..Pairing::default() };
        for n in 0..WAITING_MAX {
            assert_eq!(pairing.wait(content(&format!("f{n}"), L, 1)), Wait::Yes);
        }
        let all = pairing.wait(content("one more", L, 1));
        assert!(matches!(all, Wait::NoMore(all) if all.len() == WAITING_MAX + 1));
        assert!(matches!(pairing.wait(content("and another", L, 1)), Wait::No(_)));
        assert_eq!(pairing.paired(), []);
    }

    #[test]
    fn directories_are_listed_while_something_lacks_its_pair() {
        let mut pairing = Pairing { worth: true, ..Pairing::default() };
        pairing.only_there(&path("d"));
        assert_eq!(pairing.take_dirs(), [], "nothing waits");
        pairing.wait(content("f", L, 1));
        pairing.only_there(&path("d"));
        assert_eq!(pairing.take_dirs(), [path("d")]);
        pairing.only_there(&path("d/e"));
        pairing.saw(&path("d"), [&there("g", L, 1)], &held());
        assert_eq!(pairing.take_dirs(), [], "it has its pair");
        pairing.wait(content("h", L, 2));
        for n in 0..2 * DIRS_MAX {
            pairing.only_there(&path(&format!("d{n}")));
        }
        assert_eq!(pairing.take_dirs().len(), DIRS_MAX - 1);
        pairing.only_there(&path("x"));
        assert_eq!(pairing.take_dirs(), [], "that is enough");
    }
}
