//! Every file of `examples` loads, and does what it says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// An example on a stage's directories: `/srv/in` is the source, `/srv/out` the target.
fn example(stage: &Stage, name: &str) -> String {
    let text = fs::read_to_string(directory().join(name)).unwrap();
    text.replace("/srv/in", stage.source().to_str().unwrap())
        .replace("/srv/out", stage.target().to_str().unwrap())
        .replace("/srv/irc", stage.path("irc").to_str().unwrap())
        .replace("/var/log/", &format!("{}/", stage.path("").display()))
        .replace("/run/", &format!("{}/", stage.path("").display()))
}

/// A program that says in a file how it was called and what it was given to read.
fn recorder(stage: &Stage, name: &str) -> (String, PathBuf) {
    let (program, record) = (stage.path(name), stage.path(format!("{name}.record")));
    let text = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >> {record:?}\ncat >> {record:?}\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(&record, "").unwrap();
    (program.to_str().unwrap().to_owned(), record)
}

fn wait_holds(file: &Path, text: &str) {
    wait_until(&format!("'{text}' in {file:?}"), || {
        fs::read_to_string(file).is_ok_and(|all| all.contains(text))
    });
}

fn run(stage: &Stage, text: &str) -> Two {
    fs::write(stage.path("c.lua"), text).unwrap();
    Two::start(stage, &["-nodaemon", "c.lua"])
}

#[test]
fn all_of_them_load() {
    let mut names = BTreeSet::new();
    for file in fs::read_dir(directory()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        // Ours is told about elsewhere.
        if name == "lsyncd.toml" {
            continue;
        }
        let stage = Stage::new(Way::Local);
        fs::write(stage.path("c.lua"), example(&stage, &name)).unwrap();
        let mut command = stage.lsyncd();
        let ended = command.arg("check").arg(stage.path("c.lua")).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{name}: {said}");
        names.insert(name);
    }
    assert_eq!(names.len(), 13, "{names:?}");
}

#[test]
fn echo_says_what_happens() {
    let stage = Stage::new(Way::Local);
    let mut two = run(&stage, &example(&stage, "echo.lua"));
    two.wait_for("the source is");
    fs::write(stage.s("a b'c"), "1").unwrap();
    two.wait_for("new a b'c");
    // A name that moves while it is worked on is told as one that goes and one that comes.
    two.wait_for("Finished Create");
    fs::rename(stage.s("a b'c"), stage.s("d")).unwrap();
    two.wait_for("moved a b'c d");
    fs::remove_file(stage.s("d")).unwrap();
    two.wait_for("gone d");
}

#[test]
fn bash_mirrors_whatever_names_hold() {
    let stage = Stage::new(Way::Local);
    fs::create_dir(stage.target()).unwrap();
    fs::write(stage.s("there before"), "1").unwrap();
    let mut two = run(&stage, &example(&stage, "bash.lua"));
    two.wait_for("finished.");
    for name in ["-rf", "$(touch run)", "`touch run`", "a;touch run", "new\nline", "\"'", "*"] {
        fs::write(stage.s(name), name).unwrap();
    }
    fs::create_dir_all(stage.s("d/e")).unwrap();
    fs::write(stage.s("d/e/f"), "f").unwrap();
    fs::rename(stage.s("there before"), stage.s("moved")).unwrap();
    fs::remove_file(stage.s("*")).unwrap();
    let files = |root: &Path| -> BTreeSet<Vec<u8>> {
        // What goes while it is listed is listed again.
        super::super::tree::tree(root).unwrap_or_default().into_keys().collect()
    };
    wait_until("the same names", || files(&stage.source()) == files(&stage.target()));
    assert!(!stage.path("run").exists() && !stage.s("run").exists(), "no name was run");
}

#[test]
fn postcmd_runs_its_command_when_a_round_is_through() {
    let stage = Stage::new(Way::Local);
    let done = stage.path("source.done");
    let mut two = run(&stage, &example(&stage, "postcmd.lua"));
    two.wait_for("finished.");
    fs::write(stage.s("a"), "1").unwrap();
    wait_until("the command", || done.exists());
    assert_eq!(fs::read_to_string(stage.t("a")).unwrap(), "1", "the command came first");
}

#[test]
fn ftp_makes_one_script_of_what_waits() {
    let stage = Stage::new(Way::Local);
    let (lftp, record) = recorder(&stage, "lftp");
    let text = example(&stage, "ftp.lua").replace("/usr/bin/lftp", &lftp);
    let mut two = run(&stage, &text);
    two.wait_for("finished.");
    wait_holds(&record, "mirror -R -e");
    fs::write(stage.s("a\"b"), "1").unwrap();
    wait_holds(&record, "-o \"/upload/a\\\"b\"");
    fs::remove_file(stage.s("a\"b")).unwrap();
    wait_holds(&record, "rm -r -f \"/upload/a\\\"b\"");
}

#[test]
fn s3_puts_moves_and_deletes() {
    let stage = Stage::new(Way::Local);
    let (s3, record) = recorder(&stage, "s3cmd");
    let text = example(&stage, "s3.lua").replace("'s3cmd'", &format!("{s3:?}"));
    let mut two = run(&stage, &text.replace("delay = 5", "delay = 1"));
    wait_holds(&record, "--delete-removed");
    fs::write(stage.s("a"), "1").unwrap();
    wait_holds(&record, "s3://bucket/in/a");
    // A name that moves while it is worked on is told as one that goes and one that comes.
    two.wait_for("Finished Create");
    fs::rename(stage.s("a"), stage.s("b")).unwrap();
    wait_holds(&record, "mv");
    fs::remove_file(stage.s("b")).unwrap();
    wait_holds(&record, "del");
}

#[test]
fn imagemagic_makes_all_formats_and_stops() {
    let stage = Stage::new(Way::Local);
    let convert = stage.path("convert");
    fs::write(
        &convert,
        format!("#!/bin/sh\necho run >> {:?}\ncp \"$1\" \"$2\"\n", stage.path("runs")),
    )
    .unwrap();
    fs::set_permissions(&convert, PermissionsExt::from_mode(0o755)).unwrap();
    let text =
        example(&stage, "imagemagic.lua").replace("/usr/bin/convert", convert.to_str().unwrap());
    let mut two = run(&stage, &text);
    two.wait_for("finished.");
    fs::write(stage.s("p.png"), "picture").unwrap();
    wait_until("both", || stage.s("p.gif").exists() && stage.s("p.jpg").exists());
    fs::remove_file(stage.s("p.gif")).unwrap();
    wait_until("none", || !stage.s("p.png").exists() && !stage.s("p.jpg").exists());
    assert_eq!(fs::read_to_string(stage.path("runs")).unwrap().lines().count(), 2);
}

#[test]
fn gforce_hands_over_what_appears() {
    let stage = Stage::new(Way::Local);
    let mut two = run(&stage, &example(&stage, "gforce.lua").replace("'users'", "'daemon'"));
    two.wait_for("finished.");
    fs::write(stage.s("a"), "1").unwrap();
    use std::os::unix::fs::MetadataExt;
    let gid = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
    wait_until("the group", || fs::metadata(stage.s("a")).unwrap().gid() == gid);
}

#[test]
fn sayirc_tells_one_line_whatever_the_name_is() {
    let stage = Stage::new(Way::Local);
    fs::create_dir(stage.path("irc")).unwrap();
    let mut two = run(&stage, &example(&stage, "sayirc.lua"));
    two.wait_for("finished.");
    fs::write(stage.s("a\nQUIT"), "1").unwrap();
    wait_holds(&stage.path("irc/in"), "uploaded: a?QUIT\n");
}

#[test]
fn alarm_comes_back_again_and_again() {
    let stage = Stage::new(Way::Local);
    let text = example(&stage, "alarm.lua").replace("every = 2", "every = 1");
    let mut two = run(&stage, &text);
    two.wait_for("finished.");
    fs::write(stage.s("a"), "1").unwrap();
    two.wait_times("events in 1 seconds", 3);
    let (code, said) = two.stop(Signal::TERM);
    assert_eq!(code, Some(143));
    assert!(said.contains("1 events in") || said.contains("2 events in"), "{said}");
}
