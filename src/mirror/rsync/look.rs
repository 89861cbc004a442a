//! What stands at dirty paths, as rsync has to be told of it; and walks over the whole source.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use lsync_protocol::entry::Kind;
use lsync_protocol::path::RelPath;

use super::{Marked, RootTrouble};
use crate::carrier::rsync::{Paths, Tree};
use crate::collate::{Batch, Marks};
use crate::metrics::Progress;
use crate::plan::Look;
use crate::source::{Found, Source};

/// What a walk over the whole source found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// Files.
    pub files: u64,
    /// Directories, the root among them.
    pub dirs: u64,
    /// Nothing is in the root.
    pub empty: bool,
    /// Directories that could not be read, and names that could not be looked at.
    pub unread: Vec<RelPath>,
    /// Paths that could not be read, and why.
    pub failed: Vec<(RelPath, String)>,
}

/// What a look at a batch found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// What rsync is to bring; whether names are deleted is decided elsewhere.
    pub paths: Paths,
    /// Files that are larger than what goes with others.
    pub large: BTreeSet<RelPath>,
    /// Paths that could not be looked at, and why.
    pub unknown: Vec<(RelPath, String)>,
    /// Paths that turned out not to be mirrored.
    pub excluded: Vec<RelPath>,
    /// The source's root has nothing in it that is mirrored; only known when a name in it went.
    pub root_empty: bool,
    /// How many names went.
    pub gone: u64,
}

/// Walks the whole source: each directory is watched before it is read. `progress` hears how far it
/// has come.
pub(super) fn walk(
    source: &Source,
    progress: impl Fn(Progress) + Sync,
) -> Result<Walked, RootTrouble> {
    let found = Mutex::new((Walked::default(), None));
    source.walk(&[RelPath::root()], |what| {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        let (walked, end) = &mut *found;
        match what {
            Found::Dir(dir) => {
                walked.dirs += 1;
                let files = dir.entries.iter().filter(|named| named.entry.kind != Kind::Dir);
                walked.files += files.count() as u64;
                if dir.dir.is_root() {
                    walked.empty =
                        dir.entries.is_empty() && dir.unknown.is_empty() && dir.kept.is_empty();
                }
                for (name, why) in dir.unknown {
                    if let Ok(path) = dir.dir.join(&name) {
                        walked.unread.push(path.clone());
                        walked.failed.push((path, why));
                    }
                }
                let (directories, files) = (walked.dirs, walked.files);
                progress(Progress { directories, files, ..Progress::default() });
            }
            Found::Failed(path, why) => {
                walked.unread.push(path.clone());
                walked.failed.push((path, why));
            }
            Found::End(root) => *end = Some(root),
        }
        ControlFlow::Continue(())
    });
    let (walked, end) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    end.unwrap_or(Err(RootTrouble::Gone))?;
    Ok(walked)
}

/// Looks at a batch. Directories that appeared are watched before they are read.
pub(super) fn look(
    source: &Source,
    batch: &Batch,
    large: Option<u64>,
) -> Result<Looked, RootTrouble> {
    let mut found = Looked::default();
    let seen = source.look(batch)?;
    found.excluded = seen.excluded;
    found.root_empty = seen.root_empty;
    let asked: BTreeMap<&RelPath, Marks> =
        batch.paths.iter().map(|(path, marks, _)| (path, *marks)).collect();
    let mut missing: BTreeMap<RelPath, bool> = BTreeMap::new();
    let mut above: BTreeMap<RelPath, Look> = seen.parents;
    for (path, marks, _, look) in seen.paths {
        match look {
            Look::Here(entry) => {
                let dir = entry.kind == Kind::Dir;
                let asked = asked.get(&path).copied().unwrap_or(marks);
                found.paths.content |= !dir && marks.has(Marks::CONTENT);
                if dir && (asked.has(Marks::TREE) || asked.has(Marks::GONE)) {
                    // What is in it went along if the look took that mark off. Where another
                    // directory stood before, the target has more than that.
                    let whole = asked.has(Marks::WHOLE) || asked.has(Marks::GONE);
                    let went_along = asked.has(Marks::WHOLE) && !marks.has(Marks::WHOLE);
                    let listed = went_along && !asked.has(Marks::GONE);
                    let tree = Tree { path: path.clone(), whole, listed };
                    found.paths.trees.push(tree);
                }
                if !dir && large.is_some_and(|large| entry.size > large) {
                    found.large.insert(path.clone());
                }
                found.paths.names.push((path, dir));
            }
            Look::Missing => {
                found.gone += 1;
                missing.insert(path, marks.has(Marks::DIR));
            }
            Look::Unknown(why) => found.unknown.push((path, why)),
        }
    }
    // Not everything that could be listed may have been watched: a walk sees to that.
    let unlisted: Vec<RelPath> = found
        .paths
        .trees
        .iter()
        .filter(|tree| !tree.listed)
        .map(|tree| tree.path.clone())
        .collect();
    if !unlisted.is_empty() {
        let failed = Mutex::new(Vec::new());
        source.walk(&unlisted, |what| {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            match what {
                Found::Failed(path, why) => failed.push((path, why)),
                Found::Dir(dir) => failed.extend(
                    dir.unknown
                        .into_iter()
                        .filter_map(|(name, why)| Some((dir.dir.join(&name).ok()?, why))),
                ),
                Found::End(_) => {}
            }
            ControlFlow::Continue(())
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (path, why) in failed {
            // What the target has of it stays.
            found.paths.unread.push(path.clone());
            found.unknown.push((path, why));
        }
    }
    found.paths.missing = topmost(source, missing, &mut above)?;
    Ok(found)
}

/// Of names that are missing, the topmost name that is missing too: deleting that deletes them, and
/// rsync would make the directories above a name that it is to delete.
fn topmost(
    source: &Source,
    missing: BTreeMap<RelPath, bool>,
    above: &mut BTreeMap<RelPath, Look>,
) -> Result<Vec<(RelPath, bool)>, RootTrouble> {
    let mut tops: BTreeMap<RelPath, bool> = BTreeMap::new();
    let mut open: Vec<(RelPath, bool)> = missing.into_iter().collect();
    while !open.is_empty() {
        let mut unseen: BTreeSet<RelPath> = BTreeSet::new();
        let mut next = Vec::new();
        for (path, dir) in open {
            let Some(parent) = path.parent() else { continue };
            match above.get(&parent) {
                _ if parent.is_root() => {
                    tops.insert(path, dir);
                }
                Some(Look::Missing) => next.push((parent, true)),
                // A file or a link stands there now: that takes the directory's place.
                Some(Look::Here(entry)) if entry.kind != Kind::Dir => {}
                Some(Look::Here(_)) => {
                    tops.insert(path, dir);
                }
                // Unknown is not missing.
                Some(Look::Unknown(_)) => {}
                None => {
                    unseen.insert(parent);
                    next.push((path, dir));
                }
            }
        }
        if !unseen.is_empty() {
            let now = Instant::now();
            let paths: Vec<_> = unseen
                .iter()
                .map(|path| (path.clone(), Marks::META.with(Marks::DIR), now))
                .collect();
            let seen = source.look(&Batch { steps: Vec::new(), paths })?;
            // A directory that is not mirrored is none that could be missing.
            for path in unseen {
                above.insert(path, Look::Unknown(String::new()));
            }
            above.extend(seen.paths.into_iter().map(|(path, .., look)| (path, look)));
            for path in seen.excluded {
                above.insert(path, Look::Unknown(String::new()));
            }
        }
        next.sort_by(|a, b| a.0.cmp(&b.0));
        next.dedup_by(|a, b| a.0 == b.0);
        open = next;
    }
    Ok(tops.into_iter().collect())
}

/// Large files go alone, the rest together.
pub(super) fn parted(
    mut paths: Paths,
    large: BTreeSet<RelPath>,
    marked: Marked,
) -> Vec<(Paths, Marked)> {
    let (own, rest): (Marked, Marked) =
        marked.into_iter().partition(|(path, _)| large.contains(path));
    let own: BTreeMap<RelPath, Marks> = own.into_iter().collect();
    paths.names.retain(|(name, _)| !large.contains(name));
    let mut parts = vec![(Paths::default(), rest)];
    for path in large {
        let marks = own.get(&path).copied().unwrap_or(Marks::NAME.with(Marks::CONTENT));
        let alone = Paths {
            names: vec![(path.clone(), false)],
            content: paths.content,
            delete: paths.delete,
            ..Paths::default()
        };
        parts.push((alone, vec![(path, marks)]));
    }
    // Small ones are quickly done.
    parts[0].0 = paths;
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Scope;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_missing_is_told_by_the_topmost_name() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        std::fs::write(scratch.path().join("a/f"), "x").unwrap();
        std::fs::write(scratch.path().join("was-dir"), "x").unwrap();
        let source = Source::open(scratch.path(), Scope::default()).unwrap();
        let now = Instant::now();
        let gone = Marks::NAME.with(Marks::GONE);
        let batch = Batch {
            steps: Vec::new(),
            paths: vec![
                (path("a/b/gone"), gone, now),
                (path("a/f"), Marks::CONTENT, now),
                (path("was-dir/x/y"), gone, now),
                (path("x/y/z"), gone, now),
                (path("x/y/z2"), gone, now),
            ],
        };
        let looked = look(&source, &batch, Some(0)).unwrap();
        assert_eq!(looked.paths.missing, [(path("a/b/gone"), false), (path("x"), true)]);
        assert_eq!(looked.paths.names, [(path("a/f"), false)]);
        assert_eq!(looked.gone, 4);
        assert!(looked.paths.content && looked.large.contains(&path("a/f")));
        let parts = parted(looked.paths, looked.large, vec![(path("a/f"), Marks::CONTENT)]);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].0.missing.len(), 2);
        assert_eq!(parts[1].0.names, [(path("a/f"), false)]);
        let walked = walk(&source, |_| {}).unwrap();
        assert_eq!((walked.files, walked.dirs, walked.empty), (2, 3, false));
    }

    #[test]
    fn many_large_files_are_parted_at_once() {
        let all: Vec<RelPath> = (0..50_000).map(|at| path(&format!("d/{at:05}"))).collect();
        let names = all.iter().map(|name| (name.clone(), false)).collect();
        let marked: Marked = all.iter().map(|name| (name.clone(), Marks::CONTENT)).collect();
        let began = Instant::now();
        let large = all[1..].iter().cloned().collect();
        let parts = parted(Paths { names, ..Paths::default() }, large, marked);
        // By looking for each in all of them it takes minutes.
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
        assert_eq!((parts.len(), &parts[0].1[0].0), (50_000, &all[0]));
        assert_eq!(parts[7].1, [(all[7].clone(), Marks::CONTENT)]);
    }
}
