//! What would delete too much does not happen.

use super::*;

#[test]
fn an_empty_source_deletes_nothing_at_a_start() {
    let stage = Stage::new(Way::Local);
    sh(&stage.path(""), "mkdir target; echo old > target/f");
    let ended = stage.once(&["--rsync"]);
    assert_eq!(ended.code, Some(25), "{ended:?}");
    assert!(stage.t("f").exists());
    let reason = ended.events("halted").pop().unwrap();
    assert!(reason["reason"].as_str().unwrap().contains("is empty"), "{reason}");
    assert!(reason["hint"].as_str().unwrap().contains("--allow-empty"), "{reason}");
    stage.once(&["--rsync", "--allow-empty"]).fine();
    assert!(!stage.t("f").exists());
    // To an empty target there is nothing to lose.
    stage.once(&["--rsync"]).fine();
}

#[test]
fn an_emptied_source_deletes_nothing_live() {
    let stage = Stage::new(Way::Local);
    sh(&stage.source(), "mkdir d; echo 1 > d/f; echo 1 > d/g");
    let push = stage.live(&["--rsync"]);
    // At once: of names that go one by one the first may be told of before it is empty.
    sh(&stage.source(), "mv d ..");
    push.wait_event("halted");
    assert!(stage.t("d/f").exists() && stage.t("d/g").exists());
    // Everything but deletes goes on.
    sh(&stage.source(), "echo 2 > n");
    wait_until("a new file arrives", || stage.t("n").exists());
    assert!(stage.t("d/f").exists() && stage.t("d/g").exists());
    push.terminate();
}

#[test]
fn a_source_that_goes_is_waited_for() {
    let stage = Stage::new(Way::Local);
    sh(&stage.source(), "echo 1 > f; mkdir d; echo 1 > d/g");
    let push = stage.live(&["--rsync"]);
    sh(&stage.path(""), "mv source away");
    push.wait_event("halted");
    assert!(stage.t("f").exists() && stage.t("d/g").exists());
    sh(&stage.path(""), "echo 2 > away/n; mv away source");
    push.wait_event("resumed");
    settles(&stage, &push, "when it is back");
    push.terminate();
}

#[test]
fn a_source_that_is_unmounted_as_rsync_starts_deletes_nothing() {
    if !crate::push::is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    let mount = crate::push::Mount::tmpfs(&stage.source(), "size=1m");
    let wrap = stage.path("late");
    let (once, source) = (stage.path("once"), stage.source());
    script(
        &wrap,
        &format!(
            "if [ -e {0} ]; then rm {0}; umount -l {1}; fi; exec rsync \"$@\"\n",
            once.display(),
            source.display()
        ),
    );
    sh(&stage.source(), "mkdir d; for i in 1 2 3; do echo $i > d/$i; done; echo 1 > f");
    let push = stage.live(&[&format!("--rsync={}", wrap.display())]);
    fs::write(&once, "").unwrap();
    sh(&stage.source(), "echo 22 > d/2; echo 22 > f");
    push.wait_event("halted");
    wait_until("rsync was started", || !once.exists());
    push.terminate();
    drop(mount);
    for name in ["d/1", "d/2", "d/3", "f"] {
        assert!(stage.t(name).exists(), "{name}");
    }
}

#[test]
fn max_delete_holds_at_a_start_and_live() {
    let stage = Stage::new(Way::Local);
    sh(&stage.source(), "echo 1 > f; for i in 1 2 3 4; do echo 1 > k$i; done");
    sh(&stage.path(""), "mkdir target; cd target; echo 1 > a; echo 1 > b; echo 1 > c");
    let ended = stage.once(&["--rsync", "--max-delete", "2"]);
    assert_eq!(ended.code, Some(25), "{ended:?}");
    assert!(stage.t("a").exists() && !stage.t("f").exists(), "nothing was done at all");
    let push = stage.live(&["--rsync", "--max-delete", "3"]);
    assert!(!stage.t("a").exists());
    sh(&stage.source(), "rm k1 k2 k3 k4");
    push.wait_event("halted");
    sh(&stage.source(), "echo 2 > n");
    wait_until("a new file arrives", || stage.t("n").exists());
    assert!(stage.t("k1").exists());
    push.terminate();
}

#[test]
fn what_cannot_be_read_here_is_not_deleted_there() {
    if !crate::push::is_root() {
        return;
    }
    // A mount that goes leaves an empty directory: unknown is not missing.
    let stage = Stage::new(Way::Local);
    let mount = crate::push::Mount::tmpfs(&stage.s("m"), "size=1m");
    sh(&stage.source(), "echo 1 > m/f; echo 1 > other");
    let push = stage.live(&["--rsync", "--rescan", "1"]);
    assert!(stage.t("m/f").exists());
    mount.unmount();
    push.wait_for("problem", 1, |problem| problem["path"] == "m");
    sh(&stage.source(), "rm other; echo 2 > n");
    wait_until("other changes arrive", || stage.t("n").exists() && !stage.t("other").exists());
    assert!(stage.t("m/f").exists(), "{}", push.said());
    push.terminate();
}

#[test]
fn what_cannot_be_looked_at_here_is_not_deleted_there() {
    use std::os::unix::process::CommandExt;
    let stage = Stage::new(Way::Local);
    // Its names can be read, and none of them looked at.
    sh(&stage.path(""), "mkdir target target/d source/d; echo 1 > target/d/f; echo 1 > target/old");
    sh(&stage.source(), "echo 1 > d/f; echo 1 > n; chmod 444 d");
    let mut command = stage.command(&["--once", "--json", "--rsync"]);
    if crate::push::is_root() {
        sh(&stage.path(""), "chown -R nobody .");
        command.uid(65534).gid(65534);
    }
    let ended = Push::start(command).end();
    sh(&stage.path(""), "chmod 755 source/d");
    assert_eq!(ended.code, Some(23), "{ended:?}");
    assert!(stage.t("n").exists() && !stage.t("old").exists(), "{ended:?}");
    assert!(stage.t("d/f").exists(), "{ended:?}");
}

#[test]
fn a_polled_source_that_is_emptied_deletes_nothing() {
    let place = Place::new();
    sh(&place.path("source"), "mkdir d; echo 1 > d/f; echo 1 > g");
    let limits =
        WatchLimits { poll: std::time::Duration::from_millis(100), ..WatchLimits::default() };
    let mirror =
        Mirror::watched(place.config(), false, (WatchChoice::Poll, limits), |_| {}).ready();
    sh(&place.path("source"), "rm g");
    wait_until("what went goes", || !place.t("g").exists());
    sh(&place.path("source"), "mv d ..");
    mirror.wait("halted", |notice| matches!(notice, Notice::Halted { .. }));
    assert!(place.t("d/f").exists());
}

#[test]
fn a_share_of_the_names_is_all_that_goes() {
    // A directory that went is one name here, and many there.
    let stage = Stage::new(Way::Local);
    sh(&stage.source(), "mkdir d; for i in 1 2 3 4 5 6 7 8 9; do echo 1 > d/$i; echo 1 > $i; done");
    let push = stage.live(&["--rsync", "--max-delete", "20%"]);
    sh(&stage.source(), "mv d ..");
    push.wait_event("halted");
    let left = fs::read_dir(stage.t("d")).unwrap().count();
    assert!(left >= 5, "{left} of 9: {}", push.said());
    push.terminate();
}
