//! Plan: looked-at changes become ordered operations. Pure.
//!
//! What makes room comes before what takes the name, directories before what is in them, other
//! deletes last and from the inside out, and at the end each touched directory gets its attributes
//! once more, since everything done in it changed its time. Nothing here reads: an operation says
//! what the look saw; content is read when the operation is built.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use lsync_protocol::entry::{Device, Entry, Held, Kind, Meta, Time};
use lsync_protocol::handshake::Identity;
use lsync_protocol::path::RelPath;

use crate::collate::{Marks, Step};
use crate::filter::DirRules;

/// An operation as planned. Attributes are as the target can hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// Have a directory here.
    MakeDir {
        /// Where.
        path: RelPath,
        /// Its attributes, without the time.
        meta: Meta,
    },
    /// Have this file's content here; it is read when the operation is built.
    Content {
        /// Where.
        path: RelPath,
        /// The file's attributes when it was looked at.
        meta: Meta,
        /// Its size when it was looked at.
        size: u64,
        /// Which file it was, where that has several names.
        file: Option<Identity>,
        /// As far as is known, nothing stood there before: only for people.
        new: bool,
        /// An older version of it may stand there.
        base: bool,
        /// Other names on the target under which it, or an older version of it, may stand: the
        /// first that is a file there is copied from, before what stands at `path`.
        like: Vec<RelPath>,
    },
    /// Have a symbolic link here.
    Symlink {
        /// Where.
        path: RelPath,
        /// As far as is known, nothing stood there before: only for people.
        new: bool,
        /// Where it points.
        link: Box<[u8]>,
        /// Its attributes.
        meta: Meta,
    },
    /// Have a special file here.
    Special {
        /// Where.
        path: RelPath,
        /// As far as is known, nothing stood there before: only for people.
        new: bool,
        /// What it is.
        kind: Kind,
        /// Which device it stands for.
        device: Option<Device>,
        /// Its attributes.
        meta: Meta,
    },
    /// Have a further name of a file.
    Link {
        /// Where.
        path: RelPath,
        /// The name it has already.
        from: RelPath,
        /// Its size.
        size: u64,
        /// Its time, as held.
        mtime: Option<Time>,
    },
    /// Set attributes of something that is no directory.
    Meta {
        /// Where.
        path: RelPath,
        /// What stands there.
        kind: Kind,
        /// What to set.
        meta: Meta,
    },
    /// Set attributes of a directory after what was done in it.
    Dir {
        /// Where.
        path: RelPath,
        /// What to set.
        meta: Meta,
    },
    /// Give something another name.
    Rename {
        /// The old name.
        from: RelPath,
        /// The new name.
        to: RelPath,
        /// What it is.
        kind: Kind,
        /// Its size (files).
        size: Option<u64>,
        /// Its time, as held.
        mtime: Option<Time>,
    },
    /// Remove one name.
    Remove {
        /// Where.
        path: RelPath,
        /// What stands there.
        kind: Kind,
    },
    /// Put a new thing in the place of one of another kind.
    Replace {
        /// What stands there.
        old: Kind,
        /// What to have instead.
        new: Box<Planned>,
    },
}

impl Planned {
    /// The path this is about; for a rename, the new name.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        match self {
            Planned::MakeDir { path, .. }
            | Planned::Content { path, .. }
            | Planned::Symlink { path, .. }
            | Planned::Special { path, .. }
            | Planned::Link { path, .. }
            | Planned::Meta { path, .. }
            | Planned::Dir { path, .. }
            | Planned::Remove { path, .. }
            | Planned::Rename { to: path, .. } => path,
            Planned::Replace { new, .. } => new.path(),
        }
    }

    /// How many bytes of content it brings.
    #[must_use]
    pub fn content(&self) -> u64 {
        match self {
            Planned::Content { size, .. } => *size,
            Planned::Replace { new, .. } => new.content(),
            _ => 0,
        }
    }

    /// Bytes of its attributes that have no bounded size.
    #[must_use]
    pub fn meta_bytes(&self) -> usize {
        match self {
            Planned::MakeDir { meta, .. }
            | Planned::Content { meta, .. }
            | Planned::Symlink { meta, .. }
            | Planned::Special { meta, .. }
            | Planned::Meta { meta, .. }
            | Planned::Dir { meta, .. } => meta.bytes(),
            Planned::Replace { new, .. } => new.meta_bytes(),
            Planned::Link { .. } | Planned::Rename { .. } | Planned::Remove { .. } => 0,
        }
    }

    /// Is it done under a temporary name first?
    #[must_use]
    pub fn staged(&self) -> bool {
        match self {
            Planned::Content { .. }
            | Planned::Symlink { .. }
            | Planned::Special { .. }
            | Planned::Link { .. }
            | Planned::Replace { .. } => true,
            Planned::MakeDir { .. }
            | Planned::Meta { .. }
            | Planned::Dir { .. }
            | Planned::Rename { .. }
            | Planned::Remove { .. } => false,
        }
    }

    /// What it does, in one line for people: `create dir/file`, `rename a -> b`.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Planned::MakeDir { path, .. } => format!("create directory {path}"),
            Planned::Content { path, .. } => format!("send {path}"),
            Planned::Symlink { path, .. } => format!("link {path}"),
            Planned::Special { path, kind, .. } => format!("create {} {path}", kind.words()),
            Planned::Link { path, from, .. } => format!("hard link {path} => {from}"),
            Planned::Meta { path, .. } | Planned::Dir { path, .. } => format!("attributes {path}"),
            Planned::Rename { from, to, .. } => format!("rename {from} -> {to}"),
            Planned::Remove { path, kind: Kind::Dir } => format!("delete directory {path}"),
            Planned::Remove { path, .. } => format!("delete {path}"),
            Planned::Replace { old, new } => format!("replace {} by: {}", old.words(), new.line()),
        }
    }
}

/// What a look saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Something stands there. Owners are the target's numbers by the time plan sees it.
    Here(Entry),
    /// Certainly nothing.
    Missing,
    /// It could not be found out, for this reason: unknown is not missing.
    Unknown(String),
}

impl Look {
    /// Is there certainly no directory?
    #[must_use]
    pub fn is_no_dir(&self) -> bool {
        match self {
            Look::Here(entry) => entry.kind != Kind::Dir,
            Look::Missing => true,
            Look::Unknown(_) => false,
        }
    }
}

/// A dirty path, what may differ, when that was first heard of, and what stands there.
pub type LookedPath = (RelPath, Marks, Instant, Look);

/// A batch that was looked at.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// What happened to names; for a rename, what stands now where the thing finally went.
    pub steps: Vec<(Step, Option<Look>)>,
    /// Dirty paths in their order.
    pub paths: Vec<LookedPath>,
    /// Paths that turned out not to be mirrored.
    pub excluded: Vec<RelPath>,
    /// Mirrored directories in which such a path came or went: they have another time.
    pub retimed: BTreeSet<RelPath>,
    /// The directories that hold any of these names.
    pub parents: BTreeMap<RelPath, Look>,
    /// The source's root has nothing in it that is mirrored; only known when a name in it went.
    pub root_empty: bool,
    /// What was read of rules that stand in directories.
    pub rules: Ruled,
}

/// What was read of the rule files in directories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruled {
    /// What those of a directory say; `None`: nothing.
    pub said: Vec<(RelPath, Option<Arc<DirRules>>)>,
    /// Directories in which something happened to such a file: what is in them has to be judged
    /// anew.
    pub changed: BTreeSet<RelPath>,
    /// Such files that are gone and may come back: until then their rules hold.
    pub doubted: Vec<RelPath>,
}

/// What of the names that are to be deleted is not on the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Absent {
    /// Certainly not there.
    pub missing: Vec<(RelPath, Kind)>,
    /// It could not be found out, for this reason.
    pub unknown: Vec<(RelPath, String)>,
}

/// What to do about a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Planned>,
    /// After those: names the source no longer has, from the inside out.
    pub removes: Vec<Planned>,
    /// After those: touched directories.
    pub dirs: Vec<Planned>,
    /// Subtrees to be walked, and whether everything in them is sent whatever it looks like.
    pub walks: Vec<(RelPath, bool)>,
    /// Names of renames that cannot be told as such, as they are after so many of the steps, and
    /// whether it is the old one: both are looked at.
    pub doubted: Vec<(usize, RelPath, bool)>,
    /// Paths that could not be looked at, and why.
    pub unknown: Vec<(RelPath, String)>,
    /// Paths of kinds that are not mirrored.
    pub unmirrored: Vec<(RelPath, Kind)>,
}

/// Makes operations of a looked-at batch.
#[must_use]
pub fn plan(looked: &Looked, held: &Held) -> Plan {
    let mut plan = Plan::default();
    let mut touched = looked.retimed.clone();
    let mut touch = |path: &RelPath| {
        touched.extend(path.parent());
    };
    for (at, (step, look)) in looked.steps.iter().enumerate() {
        match step {
            Step::Clear { path, dir } => {
                let kind = if *dir { Kind::Dir } else { Kind::File };
                touch(path);
                plan.ops.push(Planned::Remove { path: path.clone(), kind });
            }
            Step::Rename { from, to, dir } => {
                touch(from);
                touch(to);
                match rename(from, to, *dir, look.as_ref(), held) {
                    Some(op) => plan.ops.push(op),
                    None => {
                        // Nothing has to make room for it either.
                        plan.ops.retain(|op| {
                            !matches!(op, Planned::Remove { path, .. } if path.is_at_or_under(to))
                        });
                        plan.doubted.push((at + 1, from.clone(), true));
                        plan.doubted.push((at + 1, to.clone(), false));
                    }
                }
            }
        }
    }
    for (path, marks, _, look) in &looked.paths {
        match look {
            Look::Unknown(why) => plan.unknown.push((path.clone(), why.clone())),
            Look::Missing => {
                touch(path);
                let kind = if marks.has(Marks::DIR) { Kind::Dir } else { Kind::File };
                plan.removes.push(Planned::Remove { path: path.clone(), kind });
            }
            Look::Here(entry) if !held.carries(entry.kind) => {
                // It changed the time of its directory all the same.
                touch(path);
                plan.unmirrored.push((path.clone(), entry.kind));
            }
            Look::Here(entry) => {
                let names = Marks::NAME.with(Marks::CONTENT);
                let only_meta = marks.without(names) == *marks && !marks.has(Marks::TREE);
                let meta = held.meta(entry.kind, &entry.meta);
                if entry.kind == Kind::Dir {
                    if marks.has(Marks::NAME) && !path.is_root() {
                        touch(path);
                        plan.ops.push(make_dir(path, entry, held));
                    }
                    if marks.has(Marks::TREE) {
                        plan.walks.push((path.clone(), marks.has(Marks::WHOLE)));
                    }
                    // Looked at as the parent of something, it was looked at later.
                    let meta = match looked.parents.get(path) {
                        Some(Look::Here(later)) if later.kind == Kind::Dir => {
                            held.meta(Kind::Dir, &later.meta)
                        }
                        _ => meta,
                    };
                    plan.dirs.push(Planned::Dir { path: path.clone(), meta });
                } else if only_meta {
                    plan.ops.push(Planned::Meta { path: path.clone(), kind: entry.kind, meta });
                } else {
                    touch(path);
                    let mut op = create(path, entry, held, marks.has(Marks::NAME));
                    // Programs replace a file by renaming a new one over it.
                    if let Some(Planned::Content { base, .. }) = &mut op {
                        *base = true;
                    }
                    plan.ops.extend(op);
                }
            }
        }
    }
    plan.removes.reverse();
    let have: BTreeSet<RelPath> = plan.dirs.iter().map(|op| op.path().clone()).collect();
    for dir in touched.into_iter().rev() {
        if have.contains(&dir) {
            continue;
        }
        match looked.parents.get(&dir) {
            Some(Look::Here(entry)) if entry.kind == Kind::Dir => {
                let meta = held.meta(Kind::Dir, &entry.meta);
                plan.dirs.push(Planned::Dir { path: dir, meta });
            }
            Some(Look::Unknown(why)) => plan.unknown.push((dir, why.clone())),
            _ => {}
        }
    }
    plan
}

/// A rename, if it is known what moved: without a condition on size and time it could put half a
/// file, as it was when it had not yet moved, over a whole one.
fn rename(
    from: &RelPath,
    to: &RelPath,
    dir: bool,
    look: Option<&Look>,
    held: &Held,
) -> Option<Planned> {
    let (kind, size, mtime) = match look {
        Some(Look::Here(entry)) => {
            let file = entry.kind == Kind::File;
            // A directory's time changes with what is done in it on the way: not a condition.
            let mtime = held.meta(entry.kind, &entry.meta).mtime;
            let mtime = mtime.filter(|_| entry.kind != Kind::Dir);
            (entry.kind, file.then_some(entry.size), mtime)
        }
        // It moved on or was replaced; of a directory its kind is enough.
        _ if dir => (Kind::Dir, None, None),
        _ => return None,
    };
    Some(Planned::Rename { from: from.clone(), to: to.clone(), kind, size, mtime })
}

/// A directory to be made: without its time, which comes when all in it is done.
fn make_dir(path: &RelPath, entry: &Entry, held: &Held) -> Planned {
    let meta = Meta { mtime: None, ..held.meta(Kind::Dir, &entry.meta) };
    Planned::MakeDir { path: path.clone(), meta }
}

/// The operation that has this entry on the target, if its kind is carried; `new` says whether
/// people are told of a new thing or of a changed one.
#[must_use]
pub fn create(path: &RelPath, entry: &Entry, held: &Held, new: bool) -> Option<Planned> {
    let meta = held.meta(entry.kind, &entry.meta);
    match entry.kind {
        Kind::Dir => Some(make_dir(path, entry, held)),
        Kind::File => {
            let (path, size, file) = (path.clone(), entry.size, entry.file);
            Some(Planned::Content { path, meta, size, file, new, base: !new, like: Vec::new() })
        }
        Kind::Symlink => Some(Planned::Symlink {
            path: path.clone(),
            new,
            link: entry.link.clone().unwrap_or_default(),
            meta,
        }),
        kind => held.carries(kind).then(|| Planned::Special {
            path: path.clone(),
            new,
            kind,
            device: entry.device,
            meta,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lsync_protocol::entry::{Holds, Wanted};
    use lsync_protocol::xattr::Classes;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn entry(kind: Kind) -> Look {
        Look::Here(Entry {
            kind,
            size: if kind == Kind::File { 9 } else { 0 },
            link: (kind == Kind::Symlink).then(|| b"x"[..].into()),
            device: None,
            meta: Meta {
                mode: Some(0o755),
                uid: None,
                gid: None,
                mtime: Some(Time { sec: 7, nsec: 1 }),
                xattrs: None,
            },
            nlink: 1,
            file: None,
        })
    }

    fn held() -> Held {
        let holds = Holds {
            chown: false,
            groups: vec![],
            own_user: 0,
            own_group: 0,
            devices: false,
            xattrs: Classes::NONE,
            time_granularity: 1,
            keeps: lsync_protocol::entry::Keeps::ALL,
            folds_case: false,
            name_max: 255,
        };
        let wanted = Wanted {
            perms: true,
            owner: true,
            group: false,
            times: true,
            specials: false,
            devices: false,
            hard_links: true,
            xattrs: Classes::NONE,
        };
        Held::new(wanted, &holds)
    }

    fn lines(looked: &Looked) -> Vec<String> {
        let plan = plan(looked, &held());
        let ops = plan.ops.iter().chain(&plan.removes).chain(&plan.dirs);
        ops.map(Planned::line).collect()
    }

    #[test]
    fn a_batch_is_ordered_by_what_depends_on_what() {
        let now = Instant::now();
        let name = Marks::NAME.with(Marks::CONTENT);
        let looked = Looked {
            steps: vec![
                (Step::Clear { path: path("d/x"), dir: false }, None),
                (
                    Step::Rename { from: path("e"), to: path("d"), dir: true },
                    Some(entry(Kind::Dir)),
                ),
            ],
            paths: vec![
                (path("gone"), name.with(Marks::DIR), now, Look::Missing),
                (path("gone/f"), name, now, Look::Missing),
                (path("mode"), Marks::META, now, entry(Kind::File)),
                (path("new"), name.with(Marks::DIR), now, entry(Kind::Dir)),
                (path("new/f"), Marks::CONTENT, now, entry(Kind::File)),
                (path("new/l"), name, now, entry(Kind::Symlink)),
                (path("pipe"), name, now, entry(Kind::Fifo)),
                (path("secret"), name, now, Look::Unknown("permission denied".into())),
            ],
            parents: BTreeMap::from([
                (RelPath::root(), entry(Kind::Dir)),
                (path("new"), entry(Kind::Dir)),
                (path("gone"), Look::Missing),
                (path("d"), entry(Kind::Dir)),
            ]),
            ..Looked::default()
        };
        assert_eq!(
            lines(&looked),
            [
                "delete d/x",
                "rename e -> d",
                "attributes mode",
                "create directory new",
                "send new/f",
                "link new/l",
                "delete gone/f",
                "delete directory gone",
                "attributes new",
                "attributes d",
                "attributes .",
            ]
        );
        let plan = plan(&looked, &held());
        assert_eq!(plan.unmirrored, [(path("pipe"), Kind::Fifo)]);
        assert_eq!(plan.unknown, [(path("secret"), "permission denied".to_owned())]);
    }

    #[test]
    fn what_is_unknown_is_never_removed() {
        let looked = Looked {
            paths: vec![(
                path("a"),
                Marks::NAME.with(Marks::TREE),
                Instant::now(),
                Look::Unknown("input/output error".into()),
            )],
            ..Looked::default()
        };
        let plan = plan(&looked, &held());
        assert!(plan.removes.is_empty() && plan.ops.is_empty());
        assert_eq!(plan.unknown.len(), 1);
    }

    #[test]
    fn a_rename_says_what_the_old_name_must_be() {
        let looked = |look| Looked {
            steps: vec![(Step::Rename { from: path("a"), to: path("b"), dir: false }, look)],
            ..Looked::default()
        };
        let op = |look| plan(&looked(look), &held()).ops.remove(0);
        let mtime = Some(Time { sec: 7, nsec: 1 });
        let (from, to) = (path("a"), path("b"));
        assert_eq!(
            op(Some(entry(Kind::File))),
            Planned::Rename { from, to, kind: Kind::File, size: Some(9), mtime }
        );
        let plan = plan(&looked(None), &held());
        assert_eq!(
            (plan.ops.len(), plan.doubted),
            (0, vec![(1, path("a"), true), (1, path("b"), false)])
        );
    }

    #[test]
    fn dirty_subtrees_are_walked() {
        let now = Instant::now();
        let whole = Marks::NAME.with(Marks::TREE).with(Marks::WHOLE);
        let looked = Looked {
            paths: vec![
                (RelPath::root(), Marks::TREE, now, entry(Kind::Dir)),
                (path("d"), whole, now, entry(Kind::Dir)),
            ],
            ..Looked::default()
        };
        let plan = plan(&looked, &held());
        assert_eq!(plan.walks, [(RelPath::root(), false), (path("d"), true)]);
        assert_eq!(plan.ops.len(), 1, "the root is never made");
        assert_eq!(plan.dirs.len(), 2);
    }
}
