//! Command lines of Lsyncd 2 and what is made of them.

use super::*;
use crate::error::Exit;

fn answer(line: &[&str]) -> Answer {
    read(&line.iter().map(OsString::from).collect::<Vec<_>>())
}

fn run(line: &[&str]) -> CommandLine {
    match answer(line) {
        Answer::Run(read) => *read,
        other => panic!("{line:?}: {other:?}"),
    }
}

#[test]
fn every_option_is_read_in_any_order_with_one_dash_or_two() {
    let expected = CommandLine {
        config: None,
        syncs: vec![
            LineSync::Rsync { source: "/a".into(), target: "h::m".into() },
            LineSync::RsyncSsh { source: "b".into(), host: "u@h".into(), dir: "-d".into() },
            LineSync::Direct { source: "/c".into(), target: "/d e".into() },
            LineSync::Rsync { source: "/a".into(), target: "/b".into() },
        ],
        delay: Some(Duration::from_millis(2500)),
        insist: true,
        log: vec!["all".into(), "Exec".into()],
        logfile: Some("x.log".into()),
        nodaemon: true,
        pidfile: Some("-p".into()),
        onepass: true,
        sshopts: Some(vec!["-p".into(), "22".into(), "-o".into(), "A=b c".into()]),
        scripts: vec!["one.lua".into(), "two.lua".into()],
        monitor: Some("inotify".into()),
    };
    let groups: [&[&str]; 14] = [
        &["-delay", "2.5"],
        &["-insist"],
        &["-log", "all"],
        &["-log", "Exec"],
        &["-logfile", "x.log"],
        &["-nodaemon"],
        &["-pidfile", "-p"],
        &["-onepass"],
        &["-sshopts", "-p 22 -o 'A=b c'"],
        &["-script", "one.lua", "-script", "two.lua"],
        &["-monitor", "inotify"],
        &["-rsync", "/a", "h::m", "-rsyncssh", "b", "u@h", "-d"],
        &["-direct", "/c", "/d e"],
        &["-rsync", "/a", "/b"],
    ];
    assert_eq!(run(&groups.concat()), expected);
    // What may be repeated keeps its order; all else stands anywhere.
    let mut turned = [&groups[2..4], &groups[9..10], &groups[11..]].concat();
    turned.extend([&groups[4..9], &groups[10..11], &groups[..2]].concat());
    let two_dashes = |(at, word): (usize, &&str)| -> OsString {
        let is_option = word.starts_with('-') && word.len() > 2 && at % 2 == 0;
        if is_option && !word.contains(' ') { format!("-{word}").into() } else { word.into() }
    };
    let words: Vec<OsString> = turned.concat().iter().enumerate().map(two_dashes).collect();
    assert!(words.iter().any(|word| word.as_bytes().starts_with(b"--")));
    let Answer::Run(line) = read(&words) else { panic!("{words:?}") };
    assert_eq!(*line, expected);
}

#[test]
fn a_configuration_stands_anywhere() {
    for line in [&["c.lua", "-nodaemon"][..], &["--nodaemon", "c.lua"]] {
        let read = run(line);
        assert_eq!(read.config.as_deref(), Some(OsStr::new("c.lua")));
        assert!(read.nodaemon && read.syncs.is_empty() && !read.insist);
    }
    assert_eq!(run(&["-sshopts", " ", "c"]).sshopts, Some(Vec::new()));
    assert_eq!(run(&["-monitor", "inotify", "c"]).monitor.as_deref(), Some("inotify"));
}

#[test]
fn the_line_wins_over_the_file() {
    let mut settings = Settings::default();
    let before = settings.clone();
    run(&["c"]).over(&mut settings);
    assert_eq!(settings, before);
    let path = |text: &str| crate::config::settings::Value::Text(text.into());
    settings.set("logfile", path("file.log")).unwrap();
    settings.set("pidfile", path("file.pid")).unwrap();
    run(&["c", "-logfile", "line.log", "-nodaemon", "-insist", "-onepass"]).over(&mut settings);
    assert_eq!(settings.logfile, Some("line.log".into()));
    assert_eq!(settings.pidfile, Some("file.pid".into()));
    assert!(settings.nodaemon && settings.insist && settings.onepass);
    run(&["c", "-pidfile", "line.pid"]).over(&mut settings);
    assert_eq!(settings.pidfile, Some("line.pid".into()));
}

#[test]
fn what_is_wrong_is_said_as_lsyncd_2_said_it() {
    let table: &[(&[&str], &str, &str)] = &[
        (
            &["/a", "h:/b"],
            "There can only be one config file in the command line.",
            "to mirror one to the other: lsyncd push /a h:/b",
        ),
        (
            &["conf", "-direct", "/a", "/b"],
            "There cannot be command line syncs and a config file together.",
            "put the syncs into the file, or leave the file away",
        ),
        (
            &["-x\u{1b}"],
            "unknown option command line option -x\\x1b",
            "our own options stand behind a command: lsyncd push --help",
        ),
        (
            &["--nodeamon", "c"],
            "unknown option command line option --nodeamon",
            "did you mean -nodaemon?",
        ),
        (&["-delay=3"], "unknown option command line option -delay=3", "did you mean -delay?"),
        (
            &["-"],
            "unknown option command line option -",
            "our own options stand behind a command: lsyncd push --help",
        ),
        (
            &["-rsync", "/a"],
            "rsync needs 2 arguments",
            "lsyncd push SOURCE TARGET... mirrors a directory",
        ),
        (
            &["--delay"],
            "delay needs 1 arguments",
            "lsyncd push SOURCE TARGET... mirrors a directory",
        ),
        (
            &["-log", "foo", "c"],
            "'foo' is not a valid logging category",
            "it is all, scarce, or a category such as Normal, Warn, Exec or Delay",
        ),
        (
            &["--runner", "x.lua", "c"],
            "there is no -runner: what the runner did is part of the program",
            "-script FILE runs a Lua file before the configuration",
        ),
        (
            &["-monitor", "fanotify", "c"],
            "the monitor fanotify is not there yet",
            "inotify is, and needs no -monitor",
        ),
        (
            &["-monitor", "fsevents"],
            "unknown monitor fsevents",
            "lsyncd -monitor lists those that there are",
        ),
        (
            &["-delay", "x", "-direct", "/a", "/b"],
            "bad -delay 'x': not a number of seconds, such as 10 or 0.5",
            "",
        ),
        (&["-delay", "-1", "c"], "bad -delay '-1': not a number of seconds, such as 10 or 0.5", ""),
        (&["-sshopts", "a 'b", "c"], "bad -sshopts 'a 'b': a ' is not closed", ""),
    ];
    for (line, text, hint) in table {
        let Answer::Not(error) = answer(line) else { panic!("{line:?}") };
        assert_eq!(error.to_string(), *text);
        assert_eq!(error.hint_text().unwrap_or_default(), *hint, "{line:?}");
        assert_eq!(error.exit(), Exit::Failed, "Lsyncd 2's code");
    }
}

#[test]
fn help_version_and_monitors_come_before_anything_is_run() {
    for line in [&["-help"][..], &["--nodaemon", "-help"], &[], &["-nodaemon"]] {
        assert!(matches!(answer(line), Answer::Help), "{line:?}");
    }
    for line in [&["-version"][..], &["--nodaemon", "--version", "c", "d"]] {
        assert!(matches!(answer(line), Answer::Version), "{line:?}");
    }
    for line in [&["-monitor"][..], &["--monitor", "-nodaemon", "c"]] {
        assert!(matches!(answer(line), Answer::Monitors), "{line:?}");
    }
}

#[test]
fn a_file_that_is_not_there_may_be_a_mistyped_command() {
    let error = no_config(OsStr::new("/etc/x.lua"));
    assert_eq!(error.to_string(), "Cannot find config file at '/etc/x.lua'.");
    let error = no_config(OsStr::new("puhs"));
    assert_eq!(error.hint_text(), Some("did you mean lsyncd push?"));
}
