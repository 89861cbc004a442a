//! Live changes: one table of everything that can happen to a tree, for every way to a target and
//! every back end of the watcher.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use super::super::tree::{
    ACL, DEFAULT_ACL, acl, append, bytes, chmod, noise, plant, remove_xattr, set_mtime, set_xattr,
};
use super::{Stage, WAYS, Way, is_root, sh};

/// What happens: its name, what is there before, and the change itself. Both get a directory in
/// the source that is theirs, and one outside of it on the same file system.
type Happening = (&'static str, fn(&Path, &Path), fn(&Path, &Path));

fn nothing(_: &Path, _: &Path) {}

fn files(at: &Path, _: &Path) {
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        fs::write(at.join(name), noise(i as u64, 100 + i)).unwrap();
    }
}

fn trees(at: &Path, outside: &Path) {
    for base in [at.join("one"), outside.join("other")] {
        fs::create_dir_all(base.join("x/y/z")).unwrap();
        fs::write(base.join("f"), "f").unwrap();
        fs::write(base.join("x/g"), noise(7, 200_000)).unwrap();
        fs::write(base.join("x/y/z/h"), "h").unwrap();
        set_mtime(&base.join("x/y"), 1_000_000_000, 5);
    }
    fs::create_dir(at.join("two")).unwrap();
    fs::write(at.join("two/f"), "other").unwrap();
}

fn mv(from: PathBuf, to: PathBuf) {
    fs::rename(from, to).unwrap();
}

/// Names of one small file and of one large one, in two directories.
fn linked(at: &Path, _: &Path) {
    fs::create_dir_all(at.join("d/e")).unwrap();
    for (first, size) in [("a", 100), ("big", 200_000)] {
        fs::write(at.join(first), noise(size as u64, size)).unwrap();
        for other in ["2", "3"] {
            ln(at.join(first), at.join(format!("{first}{other}")));
        }
        ln(at.join(first), at.join(format!("d/{first}")));
    }
    fs::write(at.join("single"), "single").unwrap();
}

fn ln(from: PathBuf, to: PathBuf) {
    fs::hard_link(from, to).unwrap();
}

/// A file like another, of another content, that takes its name.
fn broken(name: &Path, seed: u64) {
    let before = name.metadata().unwrap();
    let other = name.with_extension("tmp");
    fs::write(&other, noise(seed, before.len() as usize)).unwrap();
    set_mtime(&other, before.mtime(), before.mtime_nsec());
    fs::rename(other, name).unwrap();
}

const TABLE: &[Happening] = &[
    ("create", nothing, |at, _| fs::write(at.join("new"), "new").unwrap()),
    ("create empty", nothing, |at, _| drop(fs::File::create(at.join("new")).unwrap())),
    ("create large", nothing, |at, _| fs::write(at.join("new"), noise(9, 5_000_000)).unwrap()),
    ("write again", files, |at, _| fs::write(at.join("a"), "changed").unwrap()),
    ("write with the old size and time", files, |at, _| {
        let before = at.join("a").metadata().unwrap();
        fs::write(at.join("a"), noise(99, 100)).unwrap();
        set_mtime(&at.join("a"), before.mtime(), before.mtime_nsec());
    }),
    ("append", files, |at, _| append(&at.join("a"), b"more")),
    ("truncate", files, |at, _| {
        fs::OpenOptions::new().write(true).open(at.join("b")).unwrap().set_len(3).unwrap();
    }),
    ("grow with a hole", files, |at, _| {
        fs::OpenOptions::new().write(true).open(at.join("b")).unwrap().set_len(300_000).unwrap();
    }),
    ("write in the middle", files, |at, _| {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(at.join("c")).unwrap();
        file.write_all_at(b"middle", 50).unwrap();
    }),
    ("replace by rename", files, |at, _| {
        fs::write(at.join(".a.swp"), "replaced").unwrap();
        mv(at.join(".a.swp"), at.join("a"));
    }),
    ("replace by rename, same size and time", files, |at, _| {
        let before = at.join("a").metadata().unwrap();
        fs::write(at.join("tmp"), noise(77, 100)).unwrap();
        set_mtime(&at.join("tmp"), before.mtime(), before.mtime_nsec());
        mv(at.join("tmp"), at.join("a"));
    }),
    ("rename a file", files, |at, _| mv(at.join("a"), at.join("z"))),
    ("rename over an existing name", files, |at, _| mv(at.join("a"), at.join("b"))),
    ("rename a chain", files, |at, _| {
        mv(at.join("c"), at.join("d"));
        mv(at.join("b"), at.join("c"));
        mv(at.join("a"), at.join("b"));
    }),
    ("swap by three renames", files, |at, _| {
        mv(at.join("a"), at.join("t"));
        mv(at.join("b"), at.join("a"));
        mv(at.join("t"), at.join("b"));
    }),
    ("swap at once", files, |at, _| {
        renameat_with(CWD, at.join("a"), CWD, at.join("b"), RenameFlags::EXCHANGE).unwrap();
    }),
    ("rename and create again", files, |at, _| {
        mv(at.join("a"), at.join("z"));
        fs::write(at.join("a"), "again").unwrap();
    }),
    ("rename a tree", trees, |at, _| mv(at.join("one"), at.join("uno"))),
    ("rename a tree into another", trees, |at, _| mv(at.join("one"), at.join("two/one"))),
    ("rename a tree and write in it", trees, |at, _| {
        mv(at.join("one"), at.join("uno"));
        fs::write(at.join("uno/x/y/z/h"), "written after").unwrap();
        fs::write(at.join("uno/x/new"), "new after").unwrap();
    }),
    ("rename a tree into itself by a new parent", trees, |at, _| {
        mv(at.join("one"), at.join("t"));
        fs::create_dir(at.join("one")).unwrap();
        mv(at.join("t"), at.join("one/one"));
    }),
    ("rename an inner directory up", trees, |at, _| {
        mv(at.join("one/x/y"), at.join("y"));
        fs::remove_dir_all(at.join("one")).unwrap();
    }),
    ("swap trees", trees, |at, _| {
        renameat_with(CWD, at.join("one"), CWD, at.join("two"), RenameFlags::EXCHANGE).unwrap();
        fs::write(at.join("two/x/after"), "after").unwrap();
    }),
    ("move a tree in", trees, |at, outside| mv(outside.join("other"), at.join("in"))),
    ("move a tree in and write in it", trees, |at, outside| {
        mv(outside.join("other"), at.join("in"));
        fs::write(at.join("in/x/y/z/h"), "written after").unwrap();
    }),
    ("move a tree out", trees, |at, outside| mv(at.join("one"), outside.join("out"))),
    ("move a tree out, change it, and back in", trees, |at, outside| {
        mv(at.join("one"), outside.join("out"));
        fs::write(outside.join("out/x/y/unseen"), "unseen").unwrap();
        fs::remove_file(outside.join("out/f")).unwrap();
        mv(outside.join("out"), at.join("one"));
    }),
    ("move a file in", trees, |at, outside| mv(outside.join("other/f"), at.join("in"))),
    ("move a file in over another", trees, |at, o| mv(o.join("other/f"), at.join("two/f"))),
    ("move a file out", trees, |at, outside| mv(at.join("one/f"), outside.join("out"))),
    ("delete", files, |at, _| fs::remove_file(at.join("a")).unwrap()),
    ("delete and create again", files, |at, _| {
        fs::remove_file(at.join("a")).unwrap();
        fs::write(at.join("a"), "again").unwrap();
    }),
    ("create and delete at once", nothing, |at, _| {
        for i in 0..50 {
            fs::write(at.join(format!("f{i}")), "x").unwrap();
            if i % 3 > 0 {
                fs::remove_file(at.join(format!("f{i}"))).unwrap();
            }
        }
    }),
    ("rm -rf", trees, |at, _| fs::remove_dir_all(at.join("one")).unwrap()),
    ("rm -rf and mkdir again", trees, |at, _| {
        fs::remove_dir_all(at.join("one")).unwrap();
        fs::create_dir_all(at.join("one/x")).unwrap();
        fs::write(at.join("one/x/new"), "new").unwrap();
    }),
    (
        "rm -rf of a wide tree",
        |at, _| {
            for i in 0..300 {
                fs::create_dir_all(at.join(format!("wide/d{i}/e"))).unwrap();
                fs::write(at.join(format!("wide/d{i}/e/f")), "f").unwrap();
            }
        },
        |at, _| fs::remove_dir_all(at.join("wide")).unwrap(),
    ),
    ("mkdir -p with files at once", nothing, |at, _| {
        for i in 0..20 {
            let dir = at.join(format!("p{i}/q/r/s/t"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("deep"), "deep").unwrap();
            fs::write(at.join(format!("p{i}/q/mid")), "mid").unwrap();
        }
    }),
    ("mkdir -p, then moved while it is heard of", nothing, |at, _| {
        for i in 0..20 {
            fs::create_dir_all(at.join(format!("m{i}/q/r"))).unwrap();
            fs::write(at.join(format!("m{i}/q/r/f")), "f").unwrap();
            mv(at.join(format!("m{i}/q")), at.join(format!("n{i}")));
        }
    }),
    ("copy a tree", trees, |at, _| drop(sh(at, "cp -a one three; cp -r two four"))),
    ("unpack a tar file", trees, |at, _| {
        drop(sh(at, "tar cf t.tar one two && mkdir un && tar xf t.tar -C un && rm t.tar"));
    }),
    ("chmod", files, |at, _| {
        chmod(&at.join("a"), 0o600);
        chmod(&at.join("b"), 0o4755);
        chmod(&at.join("c"), 0o444);
    }),
    ("chmod a directory", trees, |at, _| {
        chmod(&at.join("one"), 0o700);
        chmod(&at.join("one/x"), 0o2775);
        chmod(at, 0o1777);
    }),
    ("chmod to nothing and write", files, |at, _| {
        chmod(&at.join("a"), 0);
        append(&at.join("a"), b"as root");
    }),
    ("a directory without any permission", trees, |at, _| {
        chmod(&at.join("one/x"), 0);
        fs::write(at.join("one/x/new"), "as root").unwrap();
    }),
    ("chown", files, |at, _| {
        if is_root() {
            std::os::unix::fs::chown(at.join("a"), Some(12_345), Some(23_456)).unwrap();
            std::os::unix::fs::lchown(at, Some(1), Some(2)).unwrap();
        }
    }),
    ("chown of a link", files, |at, _| {
        symlink("a", at.join("l")).unwrap();
        if is_root() {
            std::os::unix::fs::lchown(at.join("l"), Some(12_345), None).unwrap();
        }
    }),
    ("touch", files, |at, _| {
        set_mtime(&at.join("a"), 1_500_000_000, 987_654_321);
        set_mtime(&at.join("b"), -1_000, 1);
        set_mtime(&at.join("c"), 4_000_000_000, 0);
    }),
    ("touch a directory", trees, |at, _| {
        set_mtime(&at.join("one/x"), 1_500_000_000, 987_654_321);
        set_mtime(at, 1_600_000_000, 3);
    }),
    ("links", files, |at, _| {
        symlink("a", at.join("to a")).unwrap();
        symlink("/no/such/place", at.join("dangling")).unwrap();
        symlink(".", at.join("loop")).unwrap();
        set_mtime(&at.join("loop"), 77, 88);
    }),
    (
        "a link that points elsewhere now",
        |at, _| symlink("a", at.join("l")).unwrap(),
        |at, _| {
            symlink("b", at.join("t")).unwrap();
            mv(at.join("t"), at.join("l"));
        },
    ),
    (
        "link for file, file for link",
        |at, out| {
            files(at, out);
            symlink("c", at.join("l")).unwrap();
        },
        |at, _| {
            fs::remove_file(at.join("a")).unwrap();
            symlink("b", at.join("a")).unwrap();
            fs::remove_file(at.join("l")).unwrap();
            fs::write(at.join("l"), "a file now").unwrap();
        },
    ),
    ("directory for file", files, |at, _| {
        fs::remove_file(at.join("a")).unwrap();
        fs::create_dir_all(at.join("a/b")).unwrap();
        fs::write(at.join("a/b/c"), "c").unwrap();
    }),
    ("file for directory", trees, |at, _| {
        fs::remove_dir_all(at.join("one")).unwrap();
        fs::write(at.join("one"), "a file now").unwrap();
    }),
    ("link for directory", trees, |at, _| {
        fs::remove_dir_all(at.join("one")).unwrap();
        symlink("two", at.join("one")).unwrap();
    }),
    ("directory renamed over a link's name", trees, |at, _| {
        symlink("two", at.join("l")).unwrap();
        fs::remove_file(at.join("l")).unwrap();
        mv(at.join("one"), at.join("l"));
    }),
    ("odd names", nothing, |at, _| {
        let long = [b'n'; 255];
        for name in [
            &b"new\nline"[..],
            b"]",
            b"[a]*?",
            b"\xff\xfe invalid",
            b"-rf",
            b" ",
            b"\\",
            b"'\"$(reboot)`",
            b"tab\tand\x1b[31mred",
            b"...",
            b".lsync",
            b".lsync-note",
            &long,
        ] {
            fs::create_dir(at.join(bytes(name))).unwrap();
            fs::write(at.join(bytes(name)).join(bytes(name)), name).unwrap();
        }
        let mut long2 = long;
        long2[254] = b'm';
        mv(at.join(bytes(&long)).join(bytes(&long)), at.join(bytes(&long)).join(bytes(&long2)));
        mv(at.join(bytes(b"\xff\xfe invalid")), at.join(bytes(b"\xfe")));
    }),
    ("deep", nothing, |at, _| {
        let mut dir = at.to_owned();
        for i in 0..60 {
            dir.push(format!("level-{i}"));
        }
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("bottom"), "bottom").unwrap();
    }),
    ("many", nothing, |at, _| {
        for i in 0..1500 {
            fs::write(at.join(format!("{i:04}")), format!("{i}")).unwrap();
        }
    }),
    (
        "extended attributes alone, and with the rest",
        |at, _| {
            fs::create_dir(at.join("dir")).unwrap();
            for name in ["changed", "removed", "moved", "dir/inner"] {
                fs::write(at.join(name), name).unwrap();
                set_xattr(&at.join(name), "user.a", b"before");
                set_xattr(&at.join(name), "user.b", b"stays");
            }
            fs::write(at.join("closed"), "closed").unwrap();
            chmod(&at.join("closed"), 0o444);
            std::os::unix::fs::symlink("changed", at.join("link")).unwrap();
        },
        |at, _| {
            set_xattr(&at.join("changed"), "user.a", b"after");
            remove_xattr(&at.join("removed"), "user.a");
            mv(at.join("moved"), at.join("dir/moved"));
            set_xattr(&at.join("dir/moved"), "user.c", b"new");
            set_xattr(&at.join("dir"), "user.dir", b"of a directory");
            fs::write(at.join("dir/inner"), "another content").unwrap();
            set_xattr(&at.join("closed"), "user.a", b"on what nobody may write");
            set_xattr(&at.join("changed"), ACL, &acl(&[(1, 6), (77, 4)]));
            // What is made in it inherits, and then has none.
            set_xattr(&at.join("dir"), DEFAULT_ACL, &acl(&[(2, 7)]));
            fs::write(at.join("dir/heir"), "inherits").unwrap();
            fs::write(at.join("dir/large heir"), noise(9, 200_000)).unwrap();
            fs::create_dir(at.join("dir/child")).unwrap();
            fs::write(at.join("dir/disowned"), "inherits").unwrap();
            remove_xattr(&at.join("dir/disowned"), ACL);
            chmod(&at.join("dir/disowned"), 0o604);
            chmod(&at.join("changed"), 0o614);
        },
    ),
    (
        "special files: made, changed in kind, renamed, deleted",
        |at, _| {
            super::super::tree::plant_specials(at, "old ");
            super::super::tree::plant_specials(at, "gone ");
            fs::write(at.join("file"), "x").unwrap();
        },
        |at, _| {
            super::super::tree::plant_specials(at, "new ");
            fs::remove_file(at.join("old fifo")).unwrap();
            fs::write(at.join("old fifo"), "a file").unwrap();
            mv(at.join("new socket"), at.join("file"));
            mv(at.join("new fifo"), at.join("moved fifo"));
            fs::remove_file(at.join("gone fifo")).unwrap();
            fs::remove_file(at.join("gone socket")).unwrap();
            if is_root() {
                // Another device under the same name and with the same times.
                fs::remove_file(at.join("old char")).unwrap();
                let other = rustix::fs::makedev(1, 5);
                let mode = Mode::from(0o640);
                mknodat(CWD, at.join("old char"), FileType::CharacterDevice, mode, other).unwrap();
            }
        },
    ),
    ("a further name of a file", files, |at, _| {
        fs::create_dir(at.join("d")).unwrap();
        ln(at.join("a"), at.join("z"));
        ln(at.join("b"), at.join("d/b"));
        ln(at.join("d/b"), at.join("d/b2"));
        ln(at.join("a"), at.join("d/z"));
    }),
    ("a further name of a large file, in place of another", trees, |at, _| {
        ln(at.join("one/x/g"), at.join("g"));
        fs::remove_file(at.join("two/f")).unwrap();
        ln(at.join("g"), at.join("two/f"));
    }),
    ("names of one new file", nothing, |at, out| linked(at, out)),
    ("more names of what has several", linked, |at, _| {
        ln(at.join("a"), at.join("d/e/a"));
        ln(at.join("d/big"), at.join("d/e/big"));
        fs::remove_file(at.join("single")).unwrap();
        ln(at.join("a2"), at.join("single"));
    }),
    ("a write through one name", linked, |at, _| {
        fs::write(at.join("a"), "through the first").unwrap();
        fs::write(at.join("d/big"), noise(5, 210_000)).unwrap();
    }),
    ("a write through another name, with the old size and time", linked, |at, _| {
        for (name, size) in [("a3", 100), ("big3", 200_000)] {
            let before = at.join(name).metadata().unwrap();
            fs::write(at.join(name), noise(77, size)).unwrap();
            set_mtime(&at.join(name), before.mtime(), before.mtime_nsec());
        }
    }),
    ("an append through each name", linked, |at, _| {
        for name in ["a", "a2", "a3", "d/a", "big", "big2", "d/big"] {
            append(&at.join(name), b"more");
        }
    }),
    ("names of one file move, with their directory too", linked, |at, _| {
        mv(at.join("a"), at.join("d/e/moved"));
        mv(at.join("big2"), at.join("moved"));
        mv(at.join("d"), at.join("f"));
        ln(at.join("f/a"), at.join("f/again"));
        fs::write(at.join("f/e/moved"), "written there").unwrap();
    }),
    ("the first name goes, and there is another", linked, |at, _| {
        fs::remove_file(at.join("a")).unwrap();
        fs::remove_file(at.join("big")).unwrap();
        ln(at.join("a2"), at.join("a4"));
        ln(at.join("big2"), at.join("big"));
    }),
    ("a name becomes a file of its own that looks the same", linked, |at, _| {
        broken(&at.join("a"), 3);
        broken(&at.join("a3"), 4);
        broken(&at.join("big2"), 5);
        chmod(&at.join("a3"), 0o600);
    }),
    ("a tree of further names", linked, |at, _| {
        fs::create_dir_all(at.join("copy/e")).unwrap();
        for name in ["a", "big", "d/a", "d/big", "single"] {
            ln(at.join(name), at.join("copy").join(name.replace('/', " ")));
        }
        ln(at.join("single"), at.join("copy/e/single"));
    }),
    ("attributes through one name", linked, |at, _| {
        chmod(&at.join("a2"), 0o604);
        set_mtime(&at.join("big3"), 1_000_000_000, 7);
        ln(at.join("big3"), at.join("d/e/later"));
    }),
    ("a FIFO in place of a file's name, then a file", nothing, |at, _| {
        mknodat(CWD, at.join("p"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
        fs::remove_file(at.join("p")).unwrap();
        fs::write(at.join("p"), "a file").unwrap();
    }),
];

/// What is linked while it is being made is linked on the target in the end: nothing tells of the
/// names that were there, and what a search for them passes over has to be looked at again.
#[test]
fn trees_that_are_linked_while_they_change_stay_linked() {
    let stage = Stage::new(Way::Local);
    let push = stage.live(&[]);
    for round in 0..3 {
        for turn in 0..3 {
            for at in 0..300 {
                let dir = stage.s(format!("tree {round}/{}", at % 20));
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(format!("{at}")), format!("{turn} {at}")).unwrap();
            }
        }
        sh(&stage.source(), &format!("cp -al 'tree {round}' 'linked {round}'"));
    }
    stage.settles_with(&push, "trees and their links");
    push.terminate();
}

/// Names of one file become others, and others names of it, faster than they are looked at: what is
/// read under a name need not be what was seen there.
#[test]
fn names_that_are_linked_and_replaced_at_once_are_what_they_are_in_the_end() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d/a", "d/b", "d/e/f"];
    let stage = Stage::new(Way::Local);
    let push = stage.live(&[]);
    let mut rolls = noise(0, 100_000).into_iter().map(usize::from);
    let mut roll = |sides: usize| rolls.next().unwrap() % sides;
    for round in 0..3 {
        for at in 0..80 {
            let at = stage.s(format!("{at}"));
            fs::create_dir_all(at.join("d/e")).unwrap();
            for seed in 0..12 {
                let (one, two) = (at.join(NAMES[roll(6)]), at.join(NAMES[roll(6)]));
                match (roll(8), one.exists()) {
                    (0, true) => fs::remove_file(one).unwrap(),
                    (1, true) => mv(one, two),
                    (2, true) => broken(&one, seed),
                    (3, true) => chmod(&one, 0o600 + roll(64) as u32),
                    (4..8, true) if !two.exists() => ln(one, two),
                    (_, true) => {}
                    (_, false) => {
                        let size = if roll(4) == 0 { 100_000 } else { 100 };
                        fs::write(&one, noise(seed, size)).unwrap();
                        set_mtime(&one, 1_000_000_000, 0);
                    }
                }
            }
        }
        stage.settles_with(&push, &format!("round {round}"));
    }
    push.terminate();
}

fn table(way: Way, words: &[&str]) {
    let stage = Stage::new(way);
    plant(&stage.source());
    let outside = stage.path("outside");
    fs::create_dir(&outside).unwrap();
    let mut push = stage.live(words);
    stage.settles_with(&push, "the first mirror");
    for (i, (name, before, change)) in TABLE.iter().enumerate() {
        let (at, out) = (stage.s(format!("case {i}")), outside.join(format!("{i}")));
        fs::create_dir(&at).unwrap();
        fs::create_dir(&out).unwrap();
        let case = format!("case {i}");
        before(&at, &out);
        stage.part_settles(&push, &case, &format!("before: {name}"));
        change(&at, &out);
        stage.part_settles(&push, &case, name);
    }
    stage.settles_with(&push, "one after another");
    // All at once, without waiting in between.
    for (i, (_, before, change)) in TABLE.iter().enumerate() {
        let (at, out) = (stage.s(format!("at once {i}")), outside.join(format!("again {i}")));
        fs::create_dir(&at).unwrap();
        fs::create_dir(&out).unwrap();
        before(&at, &out);
        change(&at, &out);
    }
    stage.settles_with(&push, "all at once");
    // What met its own past on the target was mended at once.
    let (failed, solved) = (push.events("problem").len(), push.events("solved").len());
    assert_eq!(failed, solved, "{}", push.said());
    assert!(push.events("lost").is_empty() && push.is_running(), "{}", push.said());
    push.terminate();
    stage.no_temporary_names();
    // Nothing was forgotten, and nothing is sent without need.
    let again = stage.once(&[]).fine();
    assert_eq!(again.done()["ops"], 0, "{again:?}");
}

#[test]
fn everything_that_happens_arrives_in_a_directory() {
    table(Way::Local, &[]);
}

#[test]
fn everything_that_happens_arrives_over_ssh() {
    table(Way::Ssh, &[]);
}

#[test]
fn everything_that_happens_is_heard_by_the_portable_watcher() {
    // It watches a directory some time after it appeared, and tells nothing of what happened in
    // between: that is what rescans are for.
    table(Way::Local, &["--watch", "notify", "--rescan", "5"]);
}

#[test]
fn everything_that_happens_arrives_with_a_delay() {
    table(Way::Local, &["--delay", "0.05"]);
}

/// It waits to be linked to content that is on its way; what happens to it meanwhile must not wait
/// for that as well.
#[test]
fn a_further_name_that_goes_while_its_content_comes_is_gone() {
    type Change = fn(&Stage);
    let changes: [(&str, Change); 3] = [
        ("removed", |stage| fs::remove_file(stage.s("b")).unwrap()),
        ("replaced by a directory", |stage| {
            fs::remove_file(stage.s("b")).unwrap();
            fs::create_dir(stage.s("b")).unwrap();
        }),
        ("replaced by rename", |stage| fs::rename(stage.s("c"), stage.s("b")).unwrap()),
    ];
    for (name, change) in changes {
        let stage = Stage::new(Way::Local);
        fs::write(stage.s("a"), noise(1, 100_000)).unwrap();
        fs::write(stage.s("c"), "c").unwrap();
        fs::hard_link(stage.s("a"), stage.s("b")).unwrap();
        let push = stage.live(&["--bwlimit", "1M"]);
        stage.settles_with(&push, "the first mirror");
        fs::write(stage.s("a"), noise(2, 1_500_000)).unwrap();
        // By then it was looked at, and so was the other name.
        stage.barrier();
        change(&stage);
        stage.settles_with(&push, name);
        push.terminate();
    }
}

#[test]
fn rescans_find_what_no_event_told() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        let push = stage.live(&["--watch", "poll", "--rescan", "1"]);
        stage.settles_with(&push, "the first mirror");
        fs::write(stage.s("new"), "new").unwrap();
        fs::remove_file(stage.s("small")).unwrap();
        fs::rename(stage.s("dir"), stage.s("renamed")).unwrap();
        chmod(&stage.s("empty"), 0o600);
        stage.settles_with(&push, "changes");
        append(&stage.s("new"), b"more");
        stage.settles_with(&push, "an append");
        push.terminate();
    }
}

#[test]
fn a_delay_gathers_changes_and_a_write_does_not_prolong_it() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("a"), "0").unwrap();
    let push = stage.live(&["--delay", "1.5", "-v"]);
    stage.settles_with(&push, "the first mirror");
    let before = push.events("op").len();
    let start = std::time::Instant::now();
    let mut seen = None;
    for i in 0..60 {
        fs::write(stage.s("a"), format!("{i}")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        if seen.is_none() && fs::read(stage.t("a")).unwrap() != b"0" {
            seen = Some(start.elapsed());
        }
    }
    let seen = seen.expect("it went over while it was written again and again");
    assert!(seen.as_millis() >= 1400, "too early: {seen:?}");
    stage.settles_with(&push, "in the end");
    let ops = push.events("op");
    let updates = ops[before..].iter().filter(|op| op["op"] == "update").count();
    assert!((1..=4).contains(&updates), "60 writes were {updates} updates");
    push.terminate();
}
