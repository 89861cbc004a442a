//! Lsyncd 2 itself beside ours: the same configuration, the same history, the same tree at the end.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::tree::{chmod, tree};
use crate::world::PATIENCE;

/// Debian's package.
const LSYNCD_2: &str = "/usr/bin/lsyncd";

/// Debian's package on a configuration in which SRC stands for the stage's source.
pub fn lsyncd_2(stage: &Stage, config: &str) -> Two {
    assert!(
        Path::new(LSYNCD_2).exists(),
        "Lsyncd 2 is compared with, and is not there: apt-get install lsyncd"
    );
    let config = config.replace("SRC", &format!("{:?}", stage.source().to_str().unwrap()));
    fs::write(stage.path("theirs.lua"), config).unwrap();
    let mut command = Command::new(LSYNCD_2);
    command.args(["-nodaemon", "theirs.lua"]).current_dir(stage.path(""));
    Two::run(command, stage.path("theirs.out"))
}

/// The other program on the stage's configuration, with a target of its own.
fn other(stage: &Stage, config: &str) -> Two {
    let target = stage.path("theirs");
    fs::create_dir_all(&target).unwrap();
    lsyncd_2(stage, &config.replace("TRG", &format!("{:?}", target.to_str().unwrap())))
}

fn same_at_the_end(config: &str, seed: u64) {
    let stage = Stage::new(Way::Local);
    fs::write(stage.s("first"), "1").unwrap();
    fs::create_dir(stage.target()).unwrap();
    fs::write(stage.t("extra"), "on the target alone").unwrap();
    let mut theirs = other(&stage, config);
    fs::write(stage.path("theirs/extra"), "on the target alone").unwrap();
    let mut ours = Two::with(&stage, config);
    theirs.wait_for("finished.");
    ours.wait_for("finished.");
    churn(&stage.source(), 200, seed);
    fs::create_dir_all(stage.s("last/of/all")).unwrap();
    fs::write(stage.s("last/of/all/file"), "the end").unwrap();
    // A time of a directory, which nothing tells it of, it may leave as rsync made it.
    let (source, there) = (stage.source(), stage.path("theirs"));
    wait_until("Lsyncd 2 has it", || contents(&source) == contents(&there));
    wait_equal(&source, &stage.target());
    let (code, said) = ours.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
    let (code, said) = theirs.stop(Signal::TERM);
    assert_eq!(code, Some(143), "{said}");
}

#[test]
fn default_rsync_ends_with_the_same_tree() {
    same_at_the_end(
        "sync { default.rsync, source = SRC, target = TRG, delay = 1, rsync = { archive = true } }",
        11,
    );
}

/// Names and contents. What more `default.direct` of Lsyncd 2 leaves out is its fault B14: modes and
/// times of directories, and links.
fn contents(root: &Path) -> BTreeMap<Vec<u8>, (char, Vec<u8>)> {
    let all = tree(root).unwrap_or_default();
    all.into_iter().map(|(name, thing)| (name, (thing.kind, thing.content))).collect()
}

/// What happens, one thing after the other. Lsyncd 2 must have caught up each time: its moves are
/// shell commands that lose what moves on meanwhile (B7), or on to what is there (B8).
const HISTORY: [(&str, &str); 9] = [
    (
        "files",
        "for i in 1 2 3 4 5; do echo $i > $i; done; mkdir -p deep/er/est; echo x > deep/er/est/x",
    ),
    ("contents", "echo more >> 1; echo other > 2; : > 3"),
    ("a file moves", "mv 4 deep/four"),
    ("a directory moves", "mv deep/er 'moved here'"),
    ("a file goes", "rm 5"),
    ("a tree goes", "rm -r 'moved here'"),
    (
        "odd names",
        "echo 1 > ' a  b '; echo 2 > '-rf'; echo 3 > 'a;b&c'; echo 4 > '$(x)`y`'; echo 5 > \"it's\"; mkdir '* ?[z]'; echo 6 > '* ?[z]/6'",
    ),
    (
        "odd names move",
        "mv ' a  b ' deep/; mv -- -rf --delete; mv \"it's\" \"it's \\\"quoted\\\"\"",
    ),
    ("odd names go", "rm 'a;b&c' '$(x)`y`' ./--delete; rm -r '* ?[z]'"),
];

fn same_after_each_thing(stage: &Stage, theirs: Two, config: &str) {
    fs::write(stage.s("first"), "1").unwrap();
    let ours = Two::with(stage, config);
    let (source, there) = (stage.source(), stage.path("theirs"));
    for (what, command) in [("the start", ":")].into_iter().chain(HISTORY) {
        crate::push::sh(&source, command);
        for target in [&there, &stage.target()] {
            let end = Instant::now() + PATIENCE;
            while contents(&source) != contents(target) {
                let said = || format!("{}\n{}", theirs.said(), ours.said());
                assert!(Instant::now() < end, "{what}: {target:?} differs\n{}", said());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    for two in [ours, theirs] {
        let (code, said) = two.stop(Signal::TERM);
        assert_eq!(code, Some(143), "{said}");
    }
}

#[test]
fn default_direct_ends_with_the_same_tree() {
    let stage = Stage::new(Way::Local);
    fs::create_dir(stage.target()).unwrap();
    let config = "sync { default.direct, source = SRC, target = TRG, delay = 0.3 }";
    let theirs = other(&stage, config);
    same_after_each_thing(&stage, theirs, config);
}

#[test]
fn default_rsyncssh_ends_with_the_same_tree() {
    let stage = Stage::new(Way::Ssh);
    fs::create_dir(stage.target()).unwrap();
    // It calls the system's ssh, which reads the configuration of whoever runs the test.
    let ssh = stage.path("ssh");
    let call = format!("#!/bin/sh\nexec ssh -F {:?} \"$@\"\n", stage.world().ssh_config());
    fs::write(&ssh, call).unwrap();
    chmod(&ssh, 0o755);
    let config = |more: &str| {
        format!(
            "sync {{ default.rsyncssh, source = SRC, host = '{HOST}', targetdir = TRG, delay = 0.3{more} }}"
        )
    };
    let theirs = other(
        &stage,
        &config(&format!(", ssh = {{ binary = {ssh:?} }}, rsync = {{ rsh = {ssh:?} }}")),
    );
    same_after_each_thing(&stage, theirs, &config(""));
    wait_until("no session is left", || stage.world().sessions() == 0);
}

#[test]
fn what_begins_together_is_logged_in_the_same_words() {
    let config = "sync { default.rsync, source = SRC, target = TRG, delay = 1 }";
    let stage = Stage::new(Way::Local);
    fs::create_dir(stage.target()).unwrap();
    let mut theirs = other(&stage, config);
    theirs.wait_for("finished.");
    let mut ours = Two::with(&stage, config);
    ours.wait_for("finished.");
    let plain = |two: &Two, target: &str| -> Vec<String> {
        let said = two.said().replace(target, "TRG");
        let lines = said.lines().filter(|line| line.contains("Normal: "));
        let lines = lines.map(|line| line.split_once("Normal: ").unwrap().1.to_owned());
        lines.filter(|line| line.starts_with("---") || line.contains("finished")).collect()
    };
    let theirs = plain(&theirs, stage.path("theirs").to_str().unwrap());
    assert_eq!(plain(&ours, stage.target().to_str().unwrap()), theirs);
}
