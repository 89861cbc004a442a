//! Reconcile: a directory as the source has it, and as the target has it, become operations. Pure.
//!
//! Both listings are sorted by name, so one pass over both tells what is new, what differs and
//! what the source no longer has. The last are only candidates: a walk deletes nothing before it
//! has ended and a fresh look still finds the name missing.

use std::cmp::Ordering;
use std::collections::HashSet;

use lsync_protocol::entry::{Difference, Entry, Held, Kind, Named, Quick, difference};
use lsync_protocol::path::{RelPath, folded};

use crate::plan::{Planned, create};

/// A file that both sides have, of the same size: its content decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// Where it stands.
    pub path: RelPath,
    /// As the source has it.
    pub entry: Entry,
    /// The attributes that differ, by name.
    pub attributes: Vec<&'static str>,
    /// What to do if the content is the same.
    pub meta: Option<Planned>,
}

/// What differs in one directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// What to do, in order of names.
    pub ops: Vec<Planned>,
    /// Directories that `ops` makes: what is in them is all new.
    pub made: Vec<RelPath>,
    /// Names that only the target has.
    pub extra: Vec<(RelPath, Kind)>,
    /// Names of kinds that are not mirrored.
    pub unmirrored: Vec<(RelPath, Kind)>,
    /// With [`Quick::Content`]: files whose content is still to be compared.
    pub twins: Vec<Twin>,
}

/// The files of a directory that is equal, as far as a listing tells.
pub fn twins(dir: &RelPath, source: &[Named]) -> Vec<Twin> {
    let files = source.iter().filter(|named| needs_content(&named.entry));
    let twin = |named: &Named| {
        let path = dir.join(&named.name).ok()?;
        Some(Twin { path, entry: named.entry.clone(), attributes: Vec::new(), meta: None })
    };
    files.filter_map(twin).collect()
}

/// Is there content to be compared?
fn needs_content(entry: &Entry) -> bool {
    entry.kind == Kind::File && entry.size > 0
}

/// The names of the attributes in which two things of one kind differ, as the target can hold them.
#[must_use]
pub fn attributes(source: &Entry, target: &Entry, held: &Held) -> Vec<&'static str> {
    let ours = held.meta(source.kind, &source.meta);
    let theirs = held.meta(target.kind, &target.meta);
    let table = [
        (ours.mode != theirs.mode, "mode"),
        (ours.uid != theirs.uid, "owner"),
        (ours.gid != theirs.gid, "group"),
        (ours.mtime != theirs.mtime, "mtime"),
        (ours.xattrs != theirs.xattrs, "xattrs"),
    ];
    table.into_iter().filter(|(differs, _)| *differs).map(|(_, name)| name).collect()
}

/// Compares a directory's listings; `target` is `None` where the target has no such directory.
/// `unknown` are names of the source that could not be looked at: nothing is concluded of them.
#[must_use]
pub fn reconcile(
    dir: &RelPath,
    source: &[Named],
    unknown: &[Box<[u8]>],
    target: Option<&[Named]>,
    held: &Held,
    quick: Quick,
) -> Differences {
    let unknown: HashSet<&[u8]> = unknown.iter().map(|name| &**name).collect();
    let mut found = Differences::default();
    let mut theirs = target.unwrap_or_default().iter().peekable();
    let extra = |named: &Named, found: &mut Differences| {
        if !unknown.contains(&*named.name)
            && let Ok(path) = dir.join(&named.name)
        {
            found.extra.push((path, named.entry.kind));
        }
    };
    for ours in source {
        let there = loop {
            match theirs.peek().map(|there| there.name.cmp(&ours.name)) {
                Some(Ordering::Less) => {
                    if let Some(there) = theirs.next() {
                        extra(there, &mut found);
                    }
                }
                Some(Ordering::Equal) => break theirs.next(),
                _ => break None,
            }
        };
        let Ok(path) = dir.join(&ours.name) else { continue };
        if !held.carries(ours.entry.kind) {
            found.unmirrored.push((path, ours.entry.kind));
            continue;
        }
        let Some(op) = create(&path, &ours.entry, held, there.is_none()) else { continue };
        let differs = there.map(|there| difference(&ours.entry, &there.entry, held, quick));
        let by_content = quick == Quick::Content && needs_content(&ours.entry);
        match (there, differs) {
            (Some(there), Some(Difference::None | Difference::Meta)) if by_content => {
                let attributes = attributes(&ours.entry, &there.entry, held);
                let meta = (differs == Some(Difference::Meta)).then(|| Planned::Meta {
                    path: path.clone(),
                    kind: Kind::File,
                    meta: held.meta(Kind::File, &ours.entry.meta),
                });
                found.twins.push(Twin { path, entry: ours.entry.clone(), attributes, meta });
            }
            (None, _) => {
                if ours.entry.kind == Kind::Dir {
                    found.made.push(path);
                }
                found.ops.push(op);
            }
            (Some(there), Some(Difference::Kind)) => {
                if ours.entry.kind == Kind::Dir {
                    found.made.push(path);
                }
                let old = there.entry.kind;
                found.ops.push(Planned::Replace { old, new: Box::new(op) });
            }
            (_, Some(Difference::Content)) => found.ops.push(op),
            (_, Some(Difference::Meta)) => {
                let meta = held.meta(ours.entry.kind, &ours.entry.meta);
                let kind = ours.entry.kind;
                found.ops.push(match kind {
                    Kind::Dir => Planned::Dir { path, meta },
                    _ => Planned::Meta { path, kind, meta },
                });
            }
            (Some(_), Some(Difference::None) | None) => {}
        }
    }
    for there in theirs {
        extra(there, &mut found);
    }
    found
}

/// On a target that takes names differing only in case for one: a name that only the target has
/// becomes the one that only the source has, in place of being in its way and deleted. Says how
/// what is moved differs.
pub fn recase(
    found: &mut Differences,
    source: &[Named],
    target: &[Named],
    held: &Held,
    quick: Quick,
) -> Vec<(RelPath, Kind, Difference)> {
    let of = |list: &[Named], path: &RelPath| {
        let name = path.name()?;
        let at = list.binary_search_by(|named| (*named.name).cmp(name)).ok()?;
        Some(list[at].entry.clone())
    };
    let key = |path: &RelPath| path.name().map(folded);
    let mut recased = Vec::new();
    for op in &mut found.ops {
        let to = op.path().clone();
        if matches!(op, Planned::Rename { .. }) || of(target, &to).is_some() {
            continue;
        }
        let like = |(path, _): &(RelPath, Kind)| key(path) == key(&to);
        let Some(at) = found.extra.iter().position(like) else { continue };
        let (from, kind) = found.extra[at].clone();
        let (Some(ours), Some(there)) = (of(source, &to), of(target, &from)) else { continue };
        if ours.kind != kind {
            continue;
        }
        found.extra.remove(at);
        found.made.retain(|made| *made != to);
        let mtime = held.meta(kind, &there.meta).mtime.filter(|_| kind != Kind::Dir);
        let size = (kind == Kind::File).then_some(there.size);
        recased.push((to.clone(), kind, difference(&ours, &there, held, quick)));
        *op = Planned::Rename { from, to, kind, size, mtime };
    }
    recased
}

#[cfg(test)]
mod tests {
    use super::*;
    use lsync_protocol::entry::{Holds, Meta, Time, Wanted};
    use lsync_protocol::xattr::Classes;

    fn named(name: &str, kind: Kind, size: u64, mode: u32) -> Named {
        let mtime = Some(Time { sec: 1, nsec: 0 });
        Named {
            name: name.as_bytes().into(),
            entry: Entry {
                kind,
                size,
                link: (kind == Kind::Symlink).then(|| format!("to{size}").into_bytes().into()),
                device: None,
                meta: Meta { mode: Some(mode), uid: Some(1), gid: Some(1), mtime, xattrs: None },
                nlink: 1,
                file: None,
            },
        }
    }

    fn compare(source: &[Named], target: Option<&[Named]>, quick: Quick) -> Differences {
        let dir = RelPath::new(&b"d"[..]).unwrap();
        reconcile(&dir, source, &[b"odd"[..].into()], target, &held(), quick)
    }

    fn held() -> Held {
        let holds = Holds {
            chown: true,
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
            group: true,
            times: true,
            specials: false,
            devices: false,
            hard_links: true,
            xattrs: Classes::NONE,
        };
        Held::new(wanted, &holds)
    }

    #[test]
    fn a_name_in_another_case_is_renamed_if_it_is_free() {
        use Kind::{Dir, File};
        let source = [named("A", File, 1, 0o644), named("B", File, 1, 0o644)];
        let source =
            [&source[..], &[named("C", Dir, 0, 0o755), named("b", File, 1, 0o644)]].concat();
        let target = [named("a", File, 2, 0o644), named("b", File, 1, 0o644)];
        let target = [&target[..], &[named("c", File, 0, 0o755)]].concat();
        let mut found = compare(&source, Some(&target), Quick::SizeAndTime);
        let recased = recase(&mut found, &source, &target, &held(), Quick::SizeAndTime);
        let path = |name: &[u8]| RelPath::new(name).unwrap();
        assert_eq!(recased, [(path(b"d/A"), File, Difference::Content)]);
        assert_eq!(lines(&found), ["rename d/a -> d/A", "send d/B", "create directory d/C"]);
        assert_eq!(found.extra, [(path(b"d/c"), File)], "of another kind");
    }

    fn lines(found: &Differences) -> Vec<String> {
        found.ops.iter().map(Planned::line).collect()
    }

    #[test]
    fn one_pass_tells_new_different_and_extra() {
        use Kind::{Dir, Fifo, File, Symlink};
        let source = [
            named("content", File, 2, 0o644),
            named("dir", Dir, 0, 0o755),
            named("dirmode", Dir, 0, 0o700),
            named("equal", File, 1, 0o644),
            named("kind", Dir, 0, 0o755),
            named("link", Symlink, 1, 0),
            named("mode", File, 1, 0o600),
            named("new", File, 1, 0o644),
            named("newdir", Dir, 0, 0o755),
            named("pipe", Fifo, 0, 0o644),
        ];
        let target = [
            named("a-extra", File, 1, 0o644),
            named("content", File, 1, 0o644),
            named("dir", Dir, 0, 0o755),
            named("dirmode", Dir, 0, 0o755),
            named("equal", File, 1, 0o644),
            named("kind", File, 1, 0o755),
            named("link", Symlink, 2, 0),
            named("mode", File, 1, 0o644),
            named("odd", File, 1, 0o644),
            named("z-extra", Dir, 0, 0o755),
        ];
        let found = compare(&source, Some(&target), Quick::SizeAndTime);
        assert_eq!(
            lines(&found),
            [
                "send d/content",
                "attributes d/dirmode",
                "replace a file by: create directory d/kind",
                "link d/link",
                "attributes d/mode",
                "send d/new",
                "create directory d/newdir",
            ]
        );
        let show = |list: &[(RelPath, Kind)]| -> Vec<String> {
            list.iter().map(|(path, _)| path.to_string()).collect()
        };
        assert_eq!(show(&found.extra), ["d/a-extra", "d/z-extra"], "odd is unknown, not missing");
        assert_eq!(show(&found.unmirrored), ["d/pipe"]);
        assert_eq!(found.made.len(), 2);

        let found = compare(&source[3..4], Some(&target[4..5]), Quick::Never);
        assert_eq!(lines(&found), ["send d/equal"]);
        let found = compare(&source[3..5], None, Quick::SizeAndTime);
        assert_eq!(lines(&found), ["send d/equal", "create directory d/kind"]);
        assert_eq!(compare(&source, Some(&source), Quick::SizeAndTime).ops, []);
    }
}
