//! `--trash`: whatever the target ever had is still somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Push, Stage, WAYS, sh};
use crate::tree::{Tree, differences, noise, numbers, tree};
use crate::world::PATIENCE;

const TRASH: &[&str] = &["--trash", ".trash"];

fn in_trash(name: &[u8]) -> bool {
    name == b".trash" || name.starts_with(b".trash/")
}

/// A tree without its trash.
fn without_trash(root: &Path) -> Option<Tree> {
    let mut all = tree(root).ok()?;
    all.retain(|name, _| !in_trash(name));
    // Names of one file, among which those in the trash do not count.
    let mut groups: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, thing) in &all {
        if let Some(first) = &thing.one_with {
            groups.entry(first.clone()).or_default().push(name.clone());
        }
    }
    for names in groups.into_values() {
        let first = (names.len() > 1).then(|| names[0].clone());
        for name in names {
            all.get_mut(&name)?.one_with.clone_from(&first);
        }
    }
    Some(all)
}

/// Waits until both are equal but for the trash of each.
#[track_caller]
fn settles(stage: &Stage) -> Tree {
    let end = Instant::now() + PATIENCE;
    loop {
        let both = (without_trash(&stage.source()), without_trash(&stage.target()));
        let text = match both {
            (Some(source), Some(target)) => {
                let text = differences(&source, &target);
                if text.is_empty() {
                    return target;
                }
                text
            }
            _ => "it changes while it is read".to_owned(),
        };
        assert!(Instant::now() < end, "source and target stay different:\n{text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the trash of the target keeps, by its path in an hour: what is in files, or the target of a
/// link.
fn kept(stage: &Stage) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (name, thing) in tree(&stage.target()).unwrap() {
        let name = String::from_utf8(name).unwrap();
        // ".trash/2026-11-23T10/" and the path.
        let Some(path) = name.strip_prefix(".trash/").and_then(|rest| rest.split_once('/')) else {
            continue;
        };
        match thing.kind {
            'd' => {}
            'l' => found.push((path.1.to_owned(), String::from_utf8(thing.content).unwrap())),
            _ => {
                let content = fs::read(stage.t(&name)).unwrap();
                found.push((path.1.to_owned(), String::from_utf8(content).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn these(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, shown)| ((*name).to_owned(), (*shown).to_owned())).collect()
}

#[track_caller]
fn verified(stage: &Stage) {
    let mut command = stage.lsyncd();
    command.args(["verify", "--json"]).args(TRASH);
    command.arg(stage.source()).arg(stage.on_the_way(&stage.target()));
    let ended = Push::start(command).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_first_mirror_keeps_what_the_target_had() {
    for way in WAYS {
        let stage = Stage::new(way);
        sh(
            &stage.source(),
            "mkdir d e dir; echo new >f; echo in >d/g; ln -s new l; echo file >was; ln f h",
        );
        fs::create_dir(stage.target()).unwrap();
        sh(
            &stage.target(),
            "mkdir -p d gone/deep was; echo old >f; echo extra >d/x; ln -s old l; echo g >gone/deep/g
             echo w >was/w; echo file >dir; echo h >h",
        );
        let words = [TRASH, &["--delete", "no"]].concat();
        let dry = [&words[..], &["-n"]].concat();
        stage.once(&dry).fine();
        assert!(!stage.t(".trash").exists() && stage.t("gone/deep/g").exists());
        // What is only replaced.
        stage.once(&[TRASH, &["--delete", "no", "--exclude", "/was"]].concat()).fine();
        let replaced = [("dir", "file\n"), ("f", "old\n"), ("h", "h\n"), ("l", "old")];
        assert_eq!(kept(&stage), these(&replaced), "{way:?}");
        assert!(stage.t("gone/deep/g").exists());
        // And what goes.
        stage.once(TRASH).fine();
        settles(&stage);
        let mut all = replaced.to_vec();
        all.extend([("d/x", "extra\n"), ("gone/deep/g", "g\n"), ("was/w", "w\n")]);
        all.sort_unstable();
        assert_eq!(kept(&stage), these(&all), "{way:?}");
        assert_eq!(stage.once(TRASH).fine().done()["ops"], 0, "{way:?}");
        let excluded = [TRASH, &["--delete-excluded", "--exclude", "*"]].concat();
        stage.once(&[&excluded[..], &["--allow-empty"]].concat()).fine();
        assert!(!stage.t("f").exists(), "{way:?}");
        assert!(kept(&stage).len() > all.len(), "{way:?}");
        stage.no_temporary_names();
    }
}

#[test]
fn live_each_loss_is_kept() {
    for way in WAYS {
        let stage = Stage::new(way);
        // A trash of the source's own is none of the target's business.
        sh(
            &stage.source(),
            "mkdir -p d/e .trash; echo mine >.trash/x; for n in a b c k; do echo $n >$n; done; echo g >d/e/g; ln a other",
        );
        let mut push = stage.live(TRASH);
        settles(&stage);
        assert!(!stage.t(".trash").exists());
        sh(&stage.source(), "mv b c");
        settles(&stage);
        sh(&stage.source(), "rm -r d");
        settles(&stage);
        sh(&stage.source(), "rm k; mkdir ../k; echo in >../k/in; mv ../k k; echo forged >.trash/y");
        settles(&stage);
        // Whole when it is first seen: a version in between would be kept, too.
        sh(&stage.source(), "echo two >../n; mv ../n n; mv n a");
        settles(&stage);
        sh(&stage.source(), "rm other");
        settles(&stage);
        let all = [("a", "a\n"), ("c", "c\n"), ("d/e/g", "g\n"), ("k", "k\n"), ("other", "a\n")];
        assert_eq!(kept(&stage), these(&all), "{way:?}: {}", push.said());
        assert!(push.is_running());
        assert!(push.events("problem").is_empty(), "{}", push.said());
        push.terminate();
        assert_eq!(stage.once(TRASH).fine().done()["ops"], 0, "{way:?}");
        verified(&stage);
        assert_eq!(fs::read_dir(stage.s(".trash")).unwrap().count(), 2);
    }
}

#[test]
fn whatever_was_mirrored_is_still_somewhere() {
    for (seed, way) in [(3, WAYS[0]), (7, WAYS[0]), (11, WAYS[1])] {
        let stage = Stage::new(way);
        let mut below = numbers(seed);
        let mut ever: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut push = Some(stage.live(TRASH));
        let dirs = ["", "d", "d/e", "f"];
        for round in 0..12u64 {
            if round == 6 {
                // The rest of this one happens while nothing runs.
                push.take().unwrap().terminate();
                stage.once(TRASH).fine();
                settles(&stage);
            }
            for step in 0..8u64 {
                let mut name = |names: &[&str]| {
                    stage.s(dirs[below(dirs.len())]).join(names[below(names.len())])
                };
                let (one, two) = (name(&["1", "2", "3", "e"]), name(&["1", "2", "3", "e"]));
                let size = [3, 2000, 90_000, 300_000][below(4)];
                // Each of these may fail where there is nothing, or something else.
                let _ = match below(9) {
                    0..=2 => fs::write(&one, noise(seed * 1000 + round * 10 + step, size)),
                    3 => fs::rename(&one, &two),
                    4 => fs::remove_file(&one),
                    5 => fs::create_dir_all(&one),
                    6 => fs::hard_link(&one, &two),
                    7 => fs::remove_dir_all(&one).and_then(|()| fs::write(&one, "file now")),
                    _ => fs::remove_file(&one).and_then(|()| symlink("to", &one)),
                };
                for dir in dirs {
                    let _ = fs::create_dir_all(stage.s(dir));
                }
            }
            if round == 5 {
                continue;
            }
            if round == 6 {
                push = Some(stage.live(TRASH));
            }
            let now = settles(&stage);
            ever.extend(now.into_values().filter(|thing| thing.kind == 'f').map(|t| t.content));
        }
        push.unwrap().terminate();
        let there: BTreeSet<Vec<u8>> =
            tree(&stage.target()).unwrap().into_values().map(|thing| thing.content).collect();
        let lost = ever.difference(&there).count();
        assert_eq!(lost, 0, "{seed} {way:?}: of {} contents", ever.len());
        assert!(ever.len() > 20, "{}", ever.len());
        assert_eq!(stage.once(TRASH).fine().done()["ops"], 0, "{seed} {way:?}");
        verified(&stage);
        stage.no_temporary_names();
    }
}

#[test]
fn what_is_too_old_goes() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::write(stage.s("f"), "1").unwrap();
        for name in ["2020-01-01T00/a", "2020-01-01T01", "mine"] {
            fs::create_dir_all(stage.t(".trash").join(name)).unwrap();
            fs::write(stage.t(".trash").join(name).join("x"), "x").unwrap();
        }
        stage.once(TRASH).fine();
        assert_eq!(fs::read_dir(stage.t(".trash")).unwrap().count(), 3);
        stage.once(&["--trash", ".trash", "--trash-age", "30d"]).fine();
        let left: Vec<_> = fs::read_dir(stage.t(".trash")).unwrap().collect();
        assert_eq!(left.len(), 1, "{way:?} {left:?}");
        assert!(stage.t(".trash/mine/x").exists());
        // What went today is not that old.
        fs::remove_file(stage.s("f")).unwrap();
        stage.once(&["--trash", ".trash", "--trash-age", "1", "--allow-empty"]).fine();
        stage.once(&["--trash", ".trash", "--trash-age", "1d", "--allow-empty"]).fine();
        let all = these(&[("f", "1"), ("x", "x")]);
        assert_eq!(kept(&stage), all);
        // Forgetting to speak of it does not cost what it keeps.
        stage.once(&["--allow-empty"]).fine();
        stage.once(&["--allow-empty", "--trash", "another", "--delete-excluded"]).fine();
        assert_eq!(kept(&stage), all);
    }
}
