//! A target that folds the case of names and keeps hardly any attributes: exFAT, by FUSE. What it
//! can hold is there exactly; what it cannot is told once, by kind or by path, and the rest goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::super::tree::{
    ACL, Tree, acl, append, bytes, chmod, differences, noise, plant_specials, set_mtime, set_xattr,
    tree,
};
use super::{Mount, Push, Stage, Way, is_root, of, wait_until};

/// An exFAT in a file; `None` where there is no FUSE.
fn exfat(stage: &Stage) -> Option<Mount> {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return None;
    }
    let image = stage.path("image");
    fs::File::create(&image).unwrap().set_len(100 << 20).unwrap();
    run(Command::new("mkfs.exfat").arg(&image));
    fs::create_dir(stage.target()).unwrap();
    Some(mount(stage))
}

fn mount(stage: &Stage) -> Mount {
    let image = stage.path("image");
    run(Command::new("mount")
        .args(["-t", "exfat-fuse", "-o", "loop"])
        .arg(image)
        .arg(stage.target()));
    Mount(stage.target())
}

#[track_caller]
fn run(command: &mut Command) {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {done:?}");
}

/// What of a tree exFAT holds: kinds, content, names, and whole seconds. The root is what it is
/// mounted as.
fn as_held(mut tree: Tree) -> Tree {
    tree.remove(&b""[..]);
    tree.retain(|_, thing| "df".contains(thing.kind));
    for thing in tree.values_mut() {
        (thing.mode, thing.owner, thing.mtime.1) = (0, (0, 0), 0);
        thing.xattrs.clear();
        thing.one_with = None;
    }
    tree
}

/// How the target differs from the source, without these names and what is beneath them.
fn unequal(stage: &Stage, without: &[&[u8]]) -> String {
    let of = |root: &Path| -> Result<Tree, String> {
        let mut tree = as_held(tree(root).map_err(|error| error.to_string())?);
        tree.retain(|name, _| {
            !without.iter().any(|no| {
                name.starts_with(no) && !matches!(name.get(no.len()), Some(b) if *b != b'/')
            })
        });
        Ok(tree)
    };
    match (of(&stage.source()), of(&stage.target())) {
        (Ok(source), Ok(target)) => differences(&source, &target),
        (Err(why), _) | (_, Err(why)) => why,
    }
}

#[track_caller]
fn settles(stage: &Stage, push: &Push, without: &[&[u8]]) {
    let end = std::time::Instant::now() + super::PATIENCE;
    loop {
        let differs = unequal(stage, without);
        if differs.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < end, "{differs}\n{}", push.said());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn paths(lines: &[Value], event: &str) -> BTreeSet<String> {
    of(lines, event).iter().map(|line| line["path"].to_string()).collect()
}

/// The names in a directory, as they stand there.
fn names(dir: &Path) -> BTreeSet<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    fs::read_dir(dir).unwrap().map(|e| name(e).to_string_lossy().into_owned()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// Names that exFAT does not take.
const BAD: [&[u8]; 4] = [b"x:y", b"dir/what?", b"no utf \xff", b"a|b"];

#[test]
fn what_it_holds_is_exact_and_what_it_does_not_is_told_once() {
    let stage = Stage::new(Way::Local);
    let Some(mounted) = exfat(&stage) else { return };
    fs::create_dir_all(stage.s("dir/Deep/deeper")).unwrap();
    fs::create_dir(stage.s("empty dir")).unwrap();
    fs::create_dir(stage.s("a|b")).unwrap();
    let long = "é".repeat(127);
    for name in ["small", "dir/Deep/deeper/x", &*long, "dir/ÄÖ", ".hidden", "x y", "a|b/inner"] {
        fs::write(stage.s(name), name).unwrap();
    }
    for name in BAD.iter().filter(|name| **name != b"a|b") {
        fs::write(stage.s(bytes(name)), "x").unwrap();
    }
    fs::write(stage.s("dir/large"), noise(1, 3_000_001)).unwrap();
    fs::hard_link(stage.s("dir/large"), stage.s("dir/large too")).unwrap();
    fs::hard_link(stage.s("small"), stage.s("another small")).unwrap();
    std::os::unix::fs::symlink("small", stage.s("link")).unwrap();
    std::os::unix::fs::symlink("x", stage.s("dir/link")).unwrap();
    plant_specials(&stage.source(), "special ");
    plant_specials(&stage.s("dir"), "special ");
    set_xattr(&stage.s("small"), "user.x", b"x");
    set_xattr(&stage.s("dir/large"), ACL, &acl(&[(1, 4)]));
    chmod(&stage.s("dir/Deep"), 0o1750);
    chmod(&stage.s("small"), 0o4600);
    std::os::unix::fs::chown(stage.s("x y"), Some(12), Some(34)).unwrap();
    set_mtime(&stage.s("small"), 1_000_000_001, 999_999_999);
    set_mtime(&stage.s("dir/Deep"), 1_111_111_111, 123_456_789);
    set_mtime(&stage.s("empty dir"), 1_200_000_003, 1);

    let first = stage.once(&[]);
    assert_eq!(first.code, Some(23), "{first:?}");
    assert_eq!(unequal(&stage, &BAD), "", "{first:?}");
    let bad = paths(&first.lines, "problem");
    assert_eq!(bad.len(), BAD.len(), "{first:?}");
    for problem in of(&first.lines, "problem") {
        let cause = problem["cause"].as_str().unwrap();
        let clear = cause.starts_with("the target's file system does not take this name: ");
        assert!(clear, "{problem}");
    }
    let warned = of(&first.lines, "warning");
    let warned: Vec<&str> = warned.iter().map(|line| line["text"].as_str().unwrap()).collect();
    for what in [
        "permission bits and owners",
        "symbolic links",
        "FIFOs and sockets",
        "device files",
        "names of one file",
    ] {
        let told = warned.iter().filter(|text| text.starts_with(what)).count();
        assert_eq!(told, 1, "{what}: {warned:?}");
    }
    assert_eq!(warned.len(), 6, "and attributes: {warned:?}");
    stage.no_temporary_names();

    // What cannot be held is never a difference, also when it is read from the disk again.
    let left = |lines: &[Value], event: &str| {
        let mut lines = of(lines, event);
        // Nor are the directories of what does not come, or what is in it.
        lines.retain(|line| line["op"] != "attributes" && line["path"] != "a|b/inner");
        // Of its root exFAT keeps no time on the disk.
        lines.retain(|line| line["path"] != "");
        paths(&lines, event)
    };
    drop(mounted);
    let mounted = mount(&stage);
    let again = stage.once(&["--dry-run"]);
    assert_eq!(left(&again.lines, "op"), bad, "{again:?}");
    let verify = |words: &[&str]| {
        let mut command = stage.lsyncd();
        command.arg("verify").args(words).arg(stage.source()).arg(stage.target());
        Push::start(command).end()
    };
    let verified = verify(&["--json"]);
    assert_eq!(verified.code, Some(24), "{verified:?}");
    assert_eq!(left(&verified.lines, "difference"), bad, "{verified:?}");

    // Live.
    let push = stage.live(&[]);
    fs::write(stage.s("small"), "other").unwrap();
    append(&stage.s("dir/large"), &noise(5, 100_000));
    fs::rename(stage.s("dir/Deep"), stage.s("moved")).unwrap();
    fs::remove_dir(stage.s("empty dir")).unwrap();
    fs::rename(stage.s("dir/ÄÖ"), stage.s("dir/äö")).unwrap();
    chmod(&stage.s("x y"), 0o600);
    fs::write(stage.s("new:name"), "x").unwrap();
    fs::rename(stage.s("x:y"), stage.s("x and y")).unwrap();
    plant_specials(&stage.s("moved"), "live ");
    push.wait_for("problem", 1, |line| line["path"] == "new:name");
    settles(&stage, &push, &[&BAD[1..], &[b"new:name"]].concat());
    assert!(names(&stage.t("dir")).contains("äö"));
    let told = push.events("warning");
    assert_eq!(told.len(), 6, "each once: {told:?}");
    // A name that it takes ends the problem.
    fs::rename(stage.s("new:name"), stage.s("new name")).unwrap();
    settles(&stage, &push, &BAD[1..]);
    push.terminate();
    let ops = left(&stage.once(&["--dry-run"]).lines, "op");
    assert_eq!(ops.len(), BAD.len() - 1, "{ops:?}");
    mounted.unmount();
}

/// Two names that are one on the target: one of them is there, the other is a problem, for as long
/// as both are.
#[test]
fn names_that_differ_in_case_only_do_not_fight() {
    let stage = Stage::new(Way::Local);
    let Some(mounted) = exfat(&stage) else { return };
    fs::write(stage.s("A"), "upper").unwrap();
    fs::write(stage.s("a"), "lower case").unwrap();
    for dir in ["D", "d"] {
        fs::create_dir(stage.s(dir)).unwrap();
        fs::write(stage.s(dir).join("own"), dir).unwrap();
        fs::write(stage.s(dir).join(format!("only in {dir}")), dir).unwrap();
    }
    fs::write(stage.s("other"), "x").unwrap();
    let first = stage.once(&[]);
    assert_eq!(first.code, Some(23), "{first:?}");
    let there = names(&stage.target());
    assert_eq!(there.len(), 3, "{there:?}");
    let file = if there.contains("A") { ["A", "a"] } else { ["a", "A"] };
    let dir = if there.contains("D") { ["D", "d"] } else { ["d", "D"] };
    let as_they_are = |stage: &Stage| {
        let same =
            |name: &str| fs::read(stage.t(name)).unwrap() == fs::read(stage.s(name)).unwrap();
        let inner = format!("{}/only in {}", dir[0], dir[0]);
        same(file[0])
            && same(&format!("{}/own", dir[0]))
            && same(&inner)
            && names(&stage.t(dir[0])).len() == 2
    };
    assert!(as_they_are(&stage), "{first:?}");
    for [there, other] in [file, dir] {
        let problem = of(&first.lines, "problem").into_iter().find(|line| line["path"] == other);
        let problem = problem.unwrap_or_else(|| panic!("{other}: {first:?}"));
        let cause = problem["cause"].as_str().unwrap();
        assert!(cause.starts_with(&format!("{there} stands there: ")), "{problem}");
    }
    // Nobody's mind changes with the next starts.
    for _ in 0..2 {
        let next = stage.once(&[]);
        assert_eq!(next.code, Some(23), "{next:?}");
        assert!(as_they_are(&stage), "{next:?}");
        assert_eq!(names(&stage.target()).len(), 3);
    }

    let push = stage.live(&["--rescan", "1"]);
    push.wait_for("problem", 1, |line| line["path"] == dir[1]);
    // What is written to the one that has no place does not touch the other.
    for i in 0..5 {
        fs::write(stage.s(file[1]), format!("change {i}")).unwrap();
        fs::write(stage.s(dir[1]).join("own"), format!("change {i}")).unwrap();
        stage.barrier();
    }
    assert!(as_they_are(&stage), "{}", push.said());
    let told = |name: &str| push.events("problem").iter().filter(|l| l["path"] == name).count();
    assert_eq!((told(file[1]), told(dir[1])), (1, 1), "{}", push.said());
    // Deleting it does not delete the other.
    fs::remove_file(stage.s(file[1])).unwrap();
    fs::remove_dir_all(stage.s(dir[1])).unwrap();
    stage.barrier();
    push.wait_for("solved", 1, |line| line["path"] == file[1]);
    push.wait_for("solved", 1, |line| line["path"] == dir[1]);
    assert!(as_they_are(&stage), "{}", push.said());
    settles(&stage, &push, &[]);
    // When the one that is there goes, the other gets its place.
    fs::write(stage.s(file[1]), "in its place").unwrap();
    push.wait_for("problem", 2, |line| line["path"] == file[1]);
    fs::remove_file(stage.s(file[0])).unwrap();
    settles(&stage, &push, &[]);
    push.terminate();
    assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
    mounted.unmount();
}

/// The same name in another case: a rename, live or while nothing ran, and with nothing lost.
#[test]
fn the_case_of_a_name_changes() {
    let stage = Stage::new(Way::Local);
    let Some(mounted) = exfat(&stage) else { return };
    fs::create_dir_all(stage.s("dir/in it")).unwrap();
    for name in ["file", "large", "dir/x", "dir/in it/y"] {
        fs::write(stage.s(name), name).unwrap();
    }
    fs::write(stage.s("large"), noise(1, 1_000_000)).unwrap();
    let rename = |from: &str, to: &str| fs::rename(stage.s(from), stage.s(to)).unwrap();
    let push = stage.live(&[]);
    settles(&stage, &push, &[]);
    rename("file", "File");
    rename("large", "LARGE");
    rename("dir", "Dir");
    settles(&stage, &push, &[]);
    // To and fro, and written to.
    for i in 0..10 {
        rename("File", "file");
        fs::write(stage.s("file"), format!("{i}")).unwrap();
        rename("file", "FILE");
        rename("FILE", "File");
        rename("Dir", "DIR");
        fs::write(stage.s("DIR/x"), format!("{i}")).unwrap();
        rename("DIR", "Dir");
    }
    settles(&stage, &push, &[]);
    push.terminate();
    assert_eq!(names(&stage.target()), set(["File", "LARGE", "Dir"]));
    // While nothing runs.
    rename("File", "fILE");
    rename("LARGE", "Large");
    rename("Dir", "dIR");
    rename("dIR/x", "dIR/X");
    fs::write(stage.s("fILE"), "written to as well").unwrap();
    let ended = stage.once(&[]).fine();
    assert_eq!(unequal(&stage, &[]), "", "{ended:?}");
    assert_eq!(names(&stage.target()), set(["fILE", "Large", "dIR"]));
    assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
    mounted.unmount();
}

/// A mirror that writes into files, and one that keeps what it deletes.
#[test]
fn inplace_and_the_trash_touch_only_what_is_named() {
    for words in [["--inplace"].as_slice(), &["--trash", ".trash"]] {
        let stage = Stage::new(Way::Local);
        let Some(mounted) = exfat(&stage) else { return };
        fs::write(stage.s("A"), noise(1, 200_000)).unwrap();
        let push = stage.live(words);
        fs::write(stage.s("a"), noise(2, 200_000)).unwrap();
        push.wait_for("problem", 1, |line| line["path"] == "a");
        append(&stage.s("a"), b"more");
        stage.barrier();
        fs::remove_file(stage.s("a")).unwrap();
        stage.barrier();
        assert_eq!(fs::read(stage.t("A")).unwrap(), noise(1, 200_000), "{}", push.said());
        fs::rename(stage.s("A"), stage.s("a")).unwrap();
        wait_until("its case changed", || names(&stage.target()).contains("a"));
        stage.barrier();
        assert_eq!(fs::read(stage.t("a")).unwrap(), noise(1, 200_000), "{}", push.said());
        push.terminate();
        assert!(!names(&stage.target()).contains("A"));
        mounted.unmount();
    }
}
