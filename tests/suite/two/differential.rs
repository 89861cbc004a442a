//! Lsyncd 2 itself beside ours: the same configuration, the same history, the same tree at the end.

use std::fs;
use std::process::Command;

use super::*;

/// Debian's package.
const LSYNCD_2: &str = "/usr/bin/lsyncd";

/// The other program on the stage's configuration, with a target of its own.
fn other(stage: &Stage, config: &str) -> Two {
    assert!(
        Path::new(LSYNCD_2).exists(),
        "Lsyncd 2 is compared with, and is not there: apt-get install lsyncd"
    );
    let quoted = |path: &Path| format!("{:?}", path.to_str().unwrap());
    let config = config
        .replace("SRC", &quoted(&stage.source()))
        .replace("TRG", &quoted(&stage.path("theirs")));
    fs::create_dir_all(stage.path("theirs")).unwrap();
    fs::write(stage.path("theirs.lua"), config).unwrap();
    let mut command = Command::new(LSYNCD_2);
    command.args(["-nodaemon", "theirs.lua"]).current_dir(stage.path(""));
    Two::run(command, stage.path("theirs.out"))
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
    wait_equal(&stage.source(), &stage.path("theirs"));
    wait_equal(&stage.source(), &stage.target());
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
