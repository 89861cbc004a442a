//! The order of operations: what the stream says holds where it matters.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::message::{Op, Outcome};
use lsync_protocol::xattr::{ACL_DEFAULT, Classes, Xattr, Xattrs};

use super::peer::{World, meta, path, remove};

fn file(at: String) -> (Op, &'static [u8]) {
    (Op::File { path: path(at), size: 1, meta: meta(0o644, 1) }, b"x")
}

fn dir(at: String) -> (Op, &'static [u8]) {
    let meta = Meta { mode: Some(0o755), ..Meta::default() };
    (Op::MakeDir { path: path(at), meta }, b"")
}

#[test]
fn a_tree_in_one_message_has_its_times_at_the_end() {
    let world = World::new();
    let mut peer = world.connect();
    let mut ops = Vec::new();
    for d in 0..20 {
        ops.push(dir(format!("d{d}")));
        ops.push(dir(format!("d{d}/e")));
        for f in 0..30 {
            ops.push(file(format!("d{d}/f{f}")));
            ops.push(file(format!("d{d}/e/f{f}")));
        }
        ops.push((Op::Dir { path: path(format!("d{d}/e")), meta: meta(0o755, 100 + d) }, b""));
        ops.push((Op::Dir { path: path(format!("d{d}")), meta: meta(0o755, 200 + d) }, b""));
    }
    let count = ops.len();
    assert_eq!(peer.ops(ops), vec![None; count]);
    for d in 0..20 {
        assert_eq!(fs::metadata(world.at(format!("d{d}/e"))).unwrap().mtime(), 100 + d);
        assert_eq!(fs::metadata(world.at(format!("d{d}"))).unwrap().mtime(), 200 + d);
        assert_eq!(fs::read_dir(world.at(format!("d{d}"))).unwrap().count(), 31);
    }
}

#[test]
fn structure_changes_after_everything_before_and_before_everything_after() {
    let world = World::new();
    let mut peer = world.connect();
    let rename = |from: String, to: String| {
        let op =
            Op::Rename { from: path(from), to: path(to), kind: Kind::Dir, size: None, mtime: None };
        (op, &b""[..])
    };
    let mut ops = Vec::new();
    for round in 0..50 {
        ops.push(dir("a".into()));
        for f in 0..10 {
            ops.push(file(format!("a/f{f}")));
        }
        ops.push(rename("a".into(), format!("b{round}")));
        ops.push(file(format!("b{round}/late")));
        // The same name is another directory now; no kept descriptor may lead to the old one.
        ops.push(dir("a".into()));
        ops.push(file("a/only".into()));
        ops.push((remove("a/only", Kind::File), b""));
        ops.push((remove("a", Kind::Dir), b""));
    }
    let count = ops.len();
    assert_eq!(peer.ops(ops), vec![None; count]);
    for round in 0..50 {
        assert_eq!(fs::read_dir(world.at(format!("b{round}"))).unwrap().count(), 11);
    }
    assert!(!world.at("a").exists());
}

#[test]
fn what_is_made_after_a_directory_got_a_default_acl_inherits_nothing() {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 7, 2), (4, 4, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        value.extend(id.to_le_bytes());
    }
    let list = Xattr { name: ACL_DEFAULT.to_vec(), value };
    let classes = Classes::ACLS.with(Classes::USER);
    let listed = Meta { xattrs: Xattrs::new(classes, vec![list]).ok(), ..meta(0o755, 1) };
    let of_its_own = |sec| {
        let own = Xattr { name: b"user.a".to_vec(), value: b"1".to_vec() };
        Meta { xattrs: Xattrs::new(classes, vec![own]).ok(), ..meta(0o644, sec) }
    };
    let bare = |sec| Meta { xattrs: Some(Xattrs::none(classes)), ..meta(0o644, sec) };
    let world = World::new();
    let mut peer = world.connect();
    for made in [false, true] {
        let top = format!("d{made}");
        let mut ops = vec![dir(top.clone())];
        let file = |n: usize| {
            let meta = if n.is_multiple_of(2) { of_its_own(1) } else { bare(1) };
            (Op::File { path: path(format!("{top}/{n}")), size: 1, meta }, &b"x"[..])
        };
        ops.extend((0..100).map(file));
        let (path, meta) = (path(top.clone()), listed.clone());
        ops.push(match made {
            true => (Op::MakeDir { path, meta }, b""),
            false => (Op::Dir { path, meta }, b""),
        });
        ops.extend((100..200).map(file));
        assert!(peer.ops(ops).iter().all(Option::is_none));
        let mut nothing = [0; 100];
        let inherits = rustix::fs::getxattr(world.at(&top), ACL_DEFAULT, &mut nothing[..]);
        assert!(inherits.is_ok(), "{inherits:?}");
        for n in 0..200 {
            let at = world.at(format!("{top}/{n}"));
            assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o644, "{at:?}");
            let acl = rustix::fs::getxattr(&at, "system.posix_acl_access", &mut nothing[..]);
            assert_eq!(acl, Err(rustix::io::Errno::NODATA), "{at:?}");
        }
    }
    peer.bye().unwrap();
}

#[test]
fn a_directory_is_made_after_what_its_name_was() {
    let world = World::new();
    let mut peer = world.connect();
    for round in 0..200 {
        let done = peer.ops(vec![
            file("x".into()),
            (remove("x", Kind::File), b""),
            dir("x".into()),
            file("x/in".into()),
            (remove("x/in", Kind::File), b""),
            (remove("x", Kind::Dir), b""),
        ]);
        assert_eq!(done, vec![None; 6], "{round}");
    }
}

/// Directories on the way are swapped for links to outside while operations run.
#[test]
fn nothing_leads_outside_whatever_is_swapped() {
    let world = World::new();
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), b"precious").unwrap();
    fs::create_dir_all(world.at("d/e")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, aside) = (world.at("d"), world.at("aside"));
            while !stop.load(Ordering::Relaxed) {
                if fs::rename(&dir, &aside).is_ok() {
                    let _ = symlink(&outside, &dir);
                    let _ = fs::remove_file(&dir);
                    let _ = fs::rename(&aside, &dir);
                }
            }
            if aside.exists() {
                let _ = fs::rename(&aside, &dir);
            }
        });
        let mut peer = world.connect();
        let mut done = 0;
        for round in 0..400 {
            let outcomes = peer.ops(vec![
                file("d/f".into()),
                file("d/e/f".into()),
                (Op::Meta { path: path("d/f"), kind: Kind::File, meta: meta(0o777, 3) }, b""),
                (Op::Symlink { path: path("d/l"), link: b"x".to_vec(), meta: meta(0, 1) }, b""),
                dir(format!("d/n{round}")),
                (remove("d/f", Kind::File), b""),
                (
                    Op::Rename {
                        from: path("d/l"),
                        to: path("d/m"),
                        kind: Kind::Symlink,
                        size: None,
                        mtime: None,
                    },
                    b"",
                ),
                (Op::Dir { path: path("d"), meta: meta(0o755, 5) }, b""),
            ]);
            done += outcomes.iter().filter(|outcome| outcome.is_none()).count();
            for outcome in outcomes.into_iter().flatten() {
                assert!(
                    matches!(
                        outcome,
                        Outcome::NoParent
                            | Outcome::Missing
                            | Outcome::Refused
                            | Outcome::Occupied(Kind::Symlink)
                    ),
                    "{outcome:?}"
                );
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(done > 0);
    });
    let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["f"]);
    let found = fs::metadata(outside.join("f")).unwrap();
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"precious");
    assert_ne!((found.mode() & 0o777, found.mtime()), (0o777, 3));
}
