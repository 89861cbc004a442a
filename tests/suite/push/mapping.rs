//! Other owners and permissions on the target, held against rsync's own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use super::super::tree::{ACL, acl, chmod, differences, noise, plant, set_xattr, tree};
use super::{Stage, WAYS, Way, is_root, of, wait_until};

/// What rsync makes of the source with these words.
fn by_rsync(stage: &Stage, words: &[&str]) -> std::path::PathBuf {
    let there = stage.path("theirs");
    drop(fs::remove_dir_all(&there));
    let mut rsync = Command::new("rsync");
    rsync.args(["-aAX", "--no-i-r"]).args(words).arg(format!("{}/", stage.source().display()));
    let done = rsync.arg(format!("{}/", there.display())).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    there
}

#[track_caller]
fn same(ours: &Path, theirs: &Path, what: &[&str]) {
    // rsync leaves the times of directories and links that it has just made here and there.
    let [theirs, ours] = [theirs, ours].map(|root| {
        let mut tree = tree(root).unwrap();
        tree.values_mut().filter(|thing| thing.kind != 'f').for_each(|dir| dir.mtime = (0, 0));
        tree
    });
    let text = differences(&theirs, &ours);
    assert!(text.is_empty(), "{what:?}: rsync's (source) and ours (target):\n{text}");
}

fn nothing_left(stage: &Stage, words: &[&str]) {
    let again = stage.once(&[words, &["--dry-run"]].concat()).fine();
    assert_eq!(of(&again.lines, "op"), [] as [serde_json::Value; 0], "{words:?}");
}

#[test]
fn permissions_become_what_rsync_makes_of_them() {
    for words in [
        &["--chmod=D755,F644"][..],
        &["--chmod=go-w,a+rX"],
        &["--chmod=u=rwX,g=rX,o="],
        &["--chmod=+w", "--chmod=Fa-x"],
        &["--chmod=Dg+s,F-t,o+t"],
        &["--chmod=ug+s"],
        &["--chmod=D2775,F0640", "--chmod=o+X"],
        &["--chmod==rx"],
    ] {
        let stage = Stage::new(Way::Local);
        for (at, mode) in (0..0o1000).step_by(13).chain([0o4755, 0o2711, 0o1777, 0]).enumerate() {
            fs::write(stage.s(format!("f{at}")), "").unwrap();
            chmod(&stage.s(format!("f{at}")), mode);
            fs::create_dir(stage.s(format!("d{at}"))).unwrap();
            chmod(&stage.s(format!("d{at}")), mode | 0o700);
        }
        std::os::unix::fs::symlink("f1", stage.s("link")).unwrap();
        if is_root() {
            stage.once(words).fine();
            same(&stage.target(), &by_rsync(&stage, words), words);
            nothing_left(&stage, words);
        }
    }
}

#[test]
fn owners_become_what_rsync_makes_of_them() {
    if !is_root() {
        return;
    }
    for words in [
        &["--chown=daemon:bin"][..],
        &["--chown=4711"],
        &["--chown=:games"],
        &["--usermap=root:0,1-99:nobody,*:4000", "--groupmap=dae*:7,:8"],
        &["--usermap=:4001,1000-2000:4002", "--no-group"],
        &["--numeric-ids", "--usermap=bin:1234,0:5678,*:9"],
    ] {
        let stage = Stage::new(Way::Local);
        let owners =
            [(0, 0), (1, 1), (2, 2), (99, 98), (1000, 1000), (1500, 54321), (65534, 65534)];
        for (user, group) in owners {
            fs::write(stage.s(format!("f{user}")), "").unwrap();
            chown(stage.s(format!("f{user}")), Some(user), Some(group)).unwrap();
        }
        std::os::unix::fs::symlink("f1", stage.s("link")).unwrap();
        set_xattr(&stage.s("f1"), ACL, &acl(&[(1, 4)]));
        stage.once(words).fine();
        same(&stage.target(), &by_rsync(&stage, words), words);
        nothing_left(&stage, words);
    }
}

#[test]
fn live_changes_are_mapped_as_the_first_mirror_is() {
    if !is_root() {
        return;
    }
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        let words = ["--chown=4711:4712", "--chmod=go-rwx"];
        let push = stage.live(&words);
        fs::write(stage.s("new"), "new").unwrap();
        fs::write(stage.s("new large"), noise(1, 300_000)).unwrap();
        fs::create_dir(stage.s("new dir")).unwrap();
        chmod(&stage.s("dir/program"), 0o777);
        chown(stage.s("small"), Some(7), Some(8)).unwrap();
        set_xattr(&stage.s("empty"), ACL, &acl(&[(1, 4)]));
        fs::write(stage.s("last"), "").unwrap();
        let contents = |root: &Path| -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
            let tree = tree(root).ok()?.into_iter();
            Some(tree.map(|(name, thing)| (name, thing.content)).collect())
        };
        wait_until("all contents are there", || {
            contents(&stage.source()) == contents(&stage.target())
        });
        wait_until("the last attributes are there", || {
            let mapped = |thing: super::super::tree::Thing| thing.owner == (4711, 4712);
            tree(&stage.target()).is_ok_and(|tree| {
                tree.into_values().all(|t| (t.kind == 'l' || t.mode & 0o077 == 0) && mapped(t))
            })
        });
        super::super::world::wait_until("nothing is left to do", || {
            let again = stage.once(&[&words[..], &["--dry-run"]].concat());
            of(&again.lines, "op").is_empty()
        });
        push.terminate();
        for (name, thing) in tree(&stage.target()).unwrap() {
            let shown = String::from_utf8_lossy(&name).into_owned();
            assert_eq!(thing.owner, (4711, 4712), "{shown}");
            assert!(thing.kind == 'l' || thing.mode & 0o077 == 0, "{shown}: {:o}", thing.mode);
        }
        nothing_left(&stage, &words);
        assert_eq!(
            fs::metadata(stage.t("dir/program")).unwrap().permissions().mode() & 0o7777,
            0o700
        );
        assert_eq!(fs::metadata(stage.s("new")).unwrap().uid(), 0, "the source is left alone");
    }
}

#[test]
fn a_name_that_the_target_does_not_know_ends_it_at_the_start() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::write(stage.s("f"), "").unwrap();
        let ended = stage.once_plain(&["--chown=nobody-has-this-name"]);
        assert_eq!(ended.code, Some(255), "{ended:?}");
        assert!(ended.err.contains("knows no user nobody-has-this-name"), "{ended:?}");
        assert!(ended.err.contains("--chown"), "{ended:?}");
        assert!(!stage.t("f").exists());
    }
}
