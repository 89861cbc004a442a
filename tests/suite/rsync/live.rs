//! First runs and live changes: the target becomes equal and stays so.

use super::*;

#[test]
fn a_first_run_and_live_changes_arrive_on_every_way() {
    for way in WAYS {
        let stage = Stage::new(way);
        sh(&stage.source(), "mkdir -p d/e; echo 1 > f; echo 2 > d/e/g; ln -s f l; chmod 600 f");
        sh(&stage.path(""), "mkdir target; echo old > target/extra");
        let words: &[&str] = match way {
            Way::Local => &["--rsync"],
            Way::Ssh => &["--rsync", "--ssh-config"],
        };
        let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if way == Way::Ssh {
            words.push(stage.world().ssh_config().display().to_string());
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let push = stage.live(&words);
        settles(&stage, &push, "at the start");
        for (what, change) in [
            ("a new file", "echo new > n"),
            ("a file in a new directory", "mkdir -p x/y/z; echo 1 > x/y/z/f"),
            ("the same size and time", "echo 3 > t; touch -r f n; printf 'abcd' > n; touch -r f n"),
            ("a rename", "mv x w"),
            ("a rename over a file", "mv n f"),
            ("attributes", "chmod 755 f; touch -d 2001-01-01 d"),
            ("a directory for a file", "rm t; mkdir t; echo 1 > t/t"),
            ("a file for a directory", "rm -r w; echo w > w"),
            ("a link for a directory", "rm -r d; ln -s t d"),
            ("deletes", "rm -r t f"),
        ] {
            sh(&stage.source(), change);
            settles(&stage, &push, what);
        }
        push.terminate();
    }
}

#[test]
fn names_mean_nothing_but_themselves() {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("keep"), "").unwrap();
    let push = stage.live(&["--rsync", "--delay", "0.2"]);
    let all = |change: &dyn Fn(PathBuf)| {
        for name in ODD {
            change(odd(&stage.source(), name));
        }
    };
    all(&|path| fs::write(path, "1").unwrap());
    settles(&stage, &push, "files");
    all(&|path| fs::write(path, "22").unwrap());
    settles(&stage, &push, "changed files");
    all(&|path| fs::remove_file(path).unwrap());
    settles(&stage, &push, "removed files");
    all(&|path| fs::create_dir(path).unwrap());
    settles(&stage, &push, "directories");
    all(&|path| fs::write(path.join("x"), "1").unwrap());
    settles(&stage, &push, "files in them");
    for (at, name) in ODD.iter().enumerate() {
        fs::rename(odd(&stage.source(), name), stage.s(format!("moved{at}"))).unwrap();
    }
    settles(&stage, &push, "renamed");
    for (at, name) in ODD.iter().enumerate() {
        fs::rename(stage.s(format!("moved{at}")), odd(&stage.source(), name)).unwrap();
    }
    settles(&stage, &push, "renamed back");
    assert!(push.events("problem").is_empty(), "{}", push.said());
    all(&|path| fs::remove_dir_all(path).unwrap());
    settles(&stage, &push, "removed directories");
    push.terminate();
}

#[test]
fn one_changed_file_is_one_name_and_no_walk() {
    let stage = Stage::new(Way::Local);
    let seen = stage.path("seen");
    let wrap = stage.path("recorder");
    script(
        &wrap,
        &format!(
            "case \"$*\" in *--files-from*) tee -a {0} | exec rsync \"$@\";; *) exec rsync \"$@\";; esac\n",
            seen.display()
        ),
    );
    sh(&stage.source(), "mkdir d; for i in 1 2 3 4 5 6 7 8 9; do echo $i > d/$i; done");
    let push = stage.live(&[&format!("--rsync={}", wrap.display())]);
    fs::write(stage.s("d/5"), "changed").unwrap();
    settles(&stage, &push, "a change");
    push.terminate();
    let names = fs::read(&seen).unwrap();
    let names: std::collections::BTreeSet<&[u8]> =
        names.split(|&b| b == 0).filter(|name| !name.is_empty()).collect();
    let names: Vec<&[u8]> = names.into_iter().collect();
    assert_eq!(names, [&b"./d"[..], b"./d/5"]);
}

#[test]
fn an_older_rsync_is_told_by_patterns_and_comes_to_the_same() {
    let stage = Stage::new(Way::Local);
    let wrap = stage.path("older");
    let lists = stage.path("lists").display().to_string();
    script(
        &wrap,
        &format!(
            "case \"$*\" in *--version*) echo 'rsync  version 3.1.3  protocol version 31'; exit;;
             *--files-from*) echo >> {lists};; esac; exec rsync \"$@\"\n"
        ),
    );
    sh(&stage.source(), "mkdir -p d/e; echo 1 > d/e/f; echo 1 > keep; echo 1 > x.o");
    let rsync = format!("--rsync={}", wrap.display());
    let push = stage.live(&[&rsync, "--exclude", "*.o"]);
    sh(&stage.source(), "rm x.o");
    for (what, change) in [
        ("the same size", "echo 2 > d/e/f; echo 3 > y.o; rm y.o"),
        ("a directory", "mkdir -p n/m; echo 1 > n/m/f"),
        ("a directory for a directory", "mkdir z; echo 1 > z/z; rm -r n; mv z n"),
        ("deletes", "rm -r d"),
    ] {
        sh(&stage.source(), change);
        settles(&stage, &push, what);
    }
    for name in ODD {
        fs::write(odd(&stage.source(), name), "1").unwrap();
    }
    settles(&stage, &push, "odd names");
    assert!(!stage.path("lists").exists());
    push.terminate();
}

#[test]
fn deletes_happen_when_they_are_asked_for() {
    for (when, at_start, live) in
        [("no", false, false), ("startup", true, false), ("running", false, true)]
    {
        let stage = Stage::new(Way::Local);
        sh(&stage.source(), "echo 1 > f; mkdir d; echo 1 > d/g; echo 1 > stays");
        sh(&stage.path(""), "mkdir target; echo old > target/extra");
        let push = stage.live(&["--rsync", "--delete", when]);
        assert_eq!(!stage.t("extra").exists(), at_start, "{when}");
        sh(&stage.source(), "rm -r f d");
        stage.barrier();
        let gone = !stage.t("f").exists() && !stage.t("d").exists();
        let there = stage.t("f").exists() && stage.t("d/g").exists();
        if live {
            wait_until("they are deleted", || !stage.t("f").exists() && !stage.t("d").exists());
        } else {
            assert!(there && !gone, "{when}: {}", push.said());
        }
        assert!(push.events("problem").is_empty(), "{when}: {}", push.said());
        push.terminate();
    }
}

#[test]
fn rules_hold_at_the_start_and_live() {
    let stage = Stage::new(Way::Local);
    sh(&stage.source(), "echo 1 > a.o; echo 1 > a.c; mkdir d; echo 1 > d/b.o");
    sh(&stage.path(""), "mkdir target; echo old > target/mine.o");
    let push = stage.live(&["--rsync", "--exclude", "*.o"]);
    sh(&stage.source(), "echo 2 > b.o; mkdir -p n/m; echo 1 > n/m/x.o; echo 1 > n/m/x.c");
    wait_until("a new directory arrives", || stage.t("n/m/x.c").exists());
    sh(&stage.target(), "echo 1 > n/theirs.o");
    sh(&stage.source(), "rm -r n; echo 3 > a.c");
    wait_until("what may go is gone", || !stage.t("n/m").exists());
    assert!(stage.t("n/theirs.o").exists() && stage.t("mine.o").exists());
    for name in ["a.o", "b.o", "d/b.o"] {
        assert!(!stage.t(name).exists(), "{name}");
    }
    push.terminate();
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let stage = Stage::new(Way::Local);
    sh(&stage.source(), "echo 1 > new; mkdir d");
    sh(&stage.path(""), "mkdir target; echo old > target/extra");
    let mut command = stage.lsyncd();
    command.args(["push", "-n", "--rsync"]).arg(stage.source()).arg(stage.target());
    let ended = Push::start(command).end().fine();
    let mut lines: Vec<&str> = ended.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["create d/", "create new", "delete extra"]);
    assert!(stage.t("extra").exists() && !stage.t("new").exists());
}

#[test]
fn churn_ends_equal() {
    for way in WAYS {
        let stage = Stage::new(way);
        let config = stage.world.as_ref().map(|world| world.ssh_config().display().to_string());
        let mut words = vec!["--rsync"];
        if let Some(config) = &config {
            words.extend(["--ssh-config", config]);
        }
        sh(&stage.source(), "for i in 1 2 3 4 5 6; do mkdir -p d$i/e; echo $i > d$i/e/f; done");
        let push = stage.live(&words);
        let rounds = if way == Way::Ssh { 15 } else { 40 };
        for round in 0..rounds {
            let i = round % 6 + 1;
            let j = (round + 2) % 6 + 1;
            sh(
                &stage.source(),
                &format!(
                    "mkdir -p d{i}/e/n{round}; echo {round} > d{i}/e/n{round}/x; cp -p d{i}/e/f d{i}/g || true
                     mv d{j} m{round}; mv m{round} d{j}; rm -rf d{j}/e; mkdir -p d{j}/e
                     echo {round} > d{j}/e/f; ln -sf f d{i}/l; rm -f d{j}/g; echo {round} >> log
                     mv d{i}/e/n{round} d{j}/n{round}; touch -d 2001-01-01 d{i}/e/f"
                ),
            );
        }
        settles(&stage, &push, "after the churn");
        stage.no_temporary_names();
        assert!(push.events("problem").is_empty(), "{}", push.said());
        push.terminate();
    }
}

#[test]
fn what_rules_keep_stays_when_its_directory_goes() {
    for way in WAYS {
        let stage = Stage::new(way);
        sh(
            &stage.source(),
            "mkdir -p d k/e; echo 1 > d/f; echo 1 > k/e/f; echo 1 > k/g; echo 1 > h",
        );
        let mut words =
            ["--rsync", "--exclude", "*.o", "--delay", "0.3"].map(String::from).to_vec();
        if way == Way::Ssh {
            words.push(format!("--ssh-config={}", stage.world().ssh_config().display()));
        }
        let push = stage.live(&words.iter().map(String::as_str).collect::<Vec<_>>());
        sh(&stage.target(), "for i in . d k k/e; do echo 1 > $i/x.o; echo 1 > $i/extra; done");
        sh(&stage.source(), "rm -r d k/e h; echo 2 > n");
        wait_until("what went goes", || {
            ["d/f", "d/extra", "k/e/f", "k/e/extra", "h"].iter().all(|name| !stage.t(name).exists())
        });
        wait_until("what came comes", || stage.t("n").exists());
        for name in ["x.o", "d/x.o", "k/x.o", "k/e/x.o", "extra", "k/extra", "k/g"] {
            assert!(stage.t(name).exists(), "{name}: {}", push.said());
        }
        push.terminate();
    }
}
