//! Command lines to what is meant by them, and every error text of the command line.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::{Compress, Delete, MaxDelete, MirrorConfig, Target, WatchChoice};

struct Place {
    root: tempfile::TempDir,
    world: World,
}

/// A place with a source directory `src` and a file of rules `rules`.
fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let cwd = root.path().canonicalize().unwrap();
    std::fs::create_dir(cwd.join("src")).unwrap();
    std::fs::write(cwd.join("rules"), "# mine\n*.tmp\n+ keep\n").unwrap();
    std::fs::write(cwd.join("rules2"), "; mine\nP g\n").unwrap();
    let world = World {
        cwd,
        home: Some("/home/me".into()),
        user: Some("me".to_owned()),
        cvsignore: None,
        auth_sock: Some("/tmp/agent.sock".into()),
        runtime_dir: None,
        cache_dir: None,
        host: "box".to_owned(),
        uid: 1000,
        notify: false,
        late_sources: false,
        exe: Some("/usr/bin/lsyncd".into()),
        umask: 0o022,
        stdout_terminal: false,
        stderr_terminal: true,
    };
    Place { root, world }
}

impl Place {
    fn read(&self, line: &[&str]) -> Result<Invocation> {
        let words = std::iter::once("lsyncd").chain(line.iter().copied()).map(OsString::from);
        parse(words, &self.world)
    }

    /// The mirrors of `push LINE src h:d`.
    fn push(&self, line: &[&str]) -> Vec<MirrorConfig> {
        let line: Vec<&str> = [&["push"][..], line, &["src", "h:d"][..]].concat();
        match self.read(&line) {
            Ok(Invocation::Push { mirrors, .. }) => mirrors.into_iter().map(agent).collect(),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn mirror(&self, line: &[&str]) -> MirrorConfig {
        self.push(line).remove(0)
    }

    fn error(&self, line: &[&str]) -> (String, String, Exit) {
        let error = self.read(line).expect_err(&format!("{line:?}"));
        (error.to_string(), error.hint_text().unwrap_or_default().to_owned(), error.exit())
    }

    /// The error of `push LINE src h:d`, which is one of usage.
    fn refused(&self, line: &[&str]) -> (String, String) {
        let line: Vec<&str> = [&["push"][..], line, &["src", "h:d"][..]].concat();
        let (text, hint, exit) = self.error(&line);
        assert_eq!(exit, Exit::Usage, "{line:?} {text}");
        (text, hint)
    }
}

/// A mirror that the agent carries.
fn agent(mirror: AnyMirror) -> MirrorConfig {
    match mirror {
        AnyMirror::Agent(mirror) => *mirror,
        AnyMirror::Rsync(mirror) => panic!("carried by rsync: {mirror:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn a_plain_push_has_every_default() {
    let place = place();
    let mirror = place.mirror(&[]);
    let source = place.root.path().canonicalize().unwrap().join("src");
    assert_eq!(mirror.source, source);
    assert_eq!(mirror.name, "h:d");
    assert_eq!(mirror.target.to_string(), "h:d");
    assert_eq!(mirror.delay, Duration::ZERO);
    assert_eq!(mirror.delete, Delete::Yes);
    assert_eq!(mirror.rescan, Some(Duration::from_secs(3600)));
    assert_eq!(mirror.watch, WatchChoice::Auto);
    assert_eq!(mirror.ssh.home.as_deref(), Some(Path::new("/home/me")));
    assert_eq!(mirror.agent.own_binary.as_deref(), Some(Path::new("/usr/bin/lsyncd")));
    assert!(mirror.filter.is_empty() && mirror.max_delete.is_none() && mirror.max_size.is_none());
    assert_eq!(mirror.bwlimit, None);
    assert_eq!(mirror.compress, Compress::Auto);
    assert!(
        !(mirror.fsync
            || mirror.inplace
            || mirror.mkpath
            || mirror.allow_empty
            || mirror.size_only)
    );
    let Ok(Invocation::Push { once: false, dry_run: false, output, .. }) =
        place.read(&["push", "src", "h:d"])
    else {
        panic!();
    };
    assert_eq!(output, Output { json: false, verbose: 0, quiet: false, progress: true });
}

#[test]
fn every_option_that_is_there_means_something() {
    let place = place();
    let m = |line: &[&str]| place.mirror(line);
    assert_eq!(m(&["--delay", "0.5"]).delay, Duration::from_millis(500));
    assert_eq!(m(&["--delay=1", "--delay=2"]).delay, Duration::from_secs(2), "the last counts");
    assert_eq!(m(&["--delete", "no"]).delete, Delete::No);
    assert_eq!(m(&["--delete=startup"]).delete, Delete::Startup);
    assert_eq!(m(&["--delete=running"]).delete, Delete::Running);
    assert_eq!(m(&["--max-delete", "10%"]).max_delete, Some(MaxDelete::Percent(10)));
    assert!(m(&["--allow-empty"]).allow_empty);
    assert!(m(&["--mkpath"]).mkpath);
    assert!(m(&["--size-only"]).size_only);
    assert!(m(&["--fsync"]).fsync);
    assert!(m(&["--inplace"]).inplace);
    assert!(m(&["-x"]).one_file_system);
    assert_eq!(m(&["--max-size", "1K"]).max_size, Some(1024));
    assert_eq!(m(&["--bwlimit", "10"]).bwlimit, NonZeroU64::new(10 * 1024));
    assert_eq!(m(&["--bwlimit=10", "--bwlimit=0"]).bwlimit, None, "the last counts");
    assert_eq!(m(&["--rescan", "0"]).rescan, None);
    assert_eq!(m(&["--rescan", "1.5"]).rescan, Some(Duration::from_millis(1500)));
    assert_eq!(m(&["--watch", "poll"]).watch, WatchChoice::Poll);
    assert_eq!(m(&["--watch", "notify"]).watch, WatchChoice::Notify);
    assert_eq!(m(&["--watch", "inotify"]).watch, WatchChoice::Inotify);
    assert!(m(&["--numeric-ids"]).attributes.numeric_ids);
    assert!(!m(&["--no-owner"]).attributes.owner);
    assert!(!m(&["--no-group"]).attributes.group);
    assert!(!m(&["--no-perms"]).attributes.perms);
    assert!(!m(&["--no-times"]).attributes.times);
    m(&["--no-xattrs", "--no-acls", "--no-hard-links", "--no-devices"]);
    for (text, how) in [("auto", Compress::Auto), ("off", Compress::Off), ("3", Compress::Level(3))]
    {
        assert_eq!(m(&["--compress", text]).compress, how);
    }
    let excluded = m(&["--exclude", "a", "--delete-excluded"]);
    assert!(excluded.delete_excluded);
    let a = lsync_protocol::path::RelPath::new(&b"a"[..]).unwrap();
    assert!(excluded.filter.verdict(&a, false).deletable);
    assert!(!m(&["--exclude", "a"]).filter.verdict(&a, false).deletable);
    assert_eq!(m(&["--name", "web"]).name, "web");

    let ssh = m(&[
        "-p",
        "2222",
        "-i",
        "key",
        "--identity",
        "/k",
        "--ssh-config",
        "conf",
        "--ssh-command",
        "ssh -o 'A b'",
    ])
    .ssh;
    assert_eq!(ssh.port, Some(2222));
    assert_eq!(ssh.identities, [place.world.cwd.join("key"), "/k".into()]);
    assert_eq!(ssh.config, Some(place.world.cwd.join("conf")));
    assert_eq!(ssh.command.unwrap(), ["ssh", "-o", "A b"]);
    assert_eq!(ssh.auth_sock, Some("/tmp/agent.sock".into()));
    let agent = m(&["--agent-path", "~/x/lsync-agent", "--agent-binary", "bin"]).agent;
    assert_eq!(agent.path.as_deref(), Some("~/x/lsync-agent"));
    assert_eq!(agent.binary, Some(place.world.cwd.join("bin")));

    let output = |line: &[&str]| match place.read(&[&["push", "src", "h:d"], line].concat()) {
        Ok(Invocation::Push { once, dry_run, output, .. }) => (once, dry_run, output),
        other => panic!("{other:?}"),
    };
    assert!(output(&["--once"]).0);
    assert_eq!((output(&["-n"]).0, output(&["-n"]).1), (true, true), "a dry run implies once");
    assert_eq!(output(&["-vv"]).2.verbose, 2);
    assert!(output(&["-q"]).2.quiet && !output(&["-q"]).2.progress);
    assert!(output(&["--json"]).2.json && !output(&["--json"]).2.progress);
    assert!(!output(&["--no-progress"]).2.progress);
}

#[test]
fn rules_keep_their_order() {
    let mirror = place().mirror(&[
        "--include",
        "a",
        "--exclude-from",
        "rules",
        "--exclude=b",
        "--filter",
        "- c",
        "--include",
        "d",
        "--filter=P e",
        "--exclude",
        "- f",
        "--include-from=rules",
        "--filter=merge rules2",
    ]);
    let rules: Vec<String> =
        mirror.filter.texts().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    assert_eq!(
        rules,
        ["+ a", "- *.tmp", "+ keep", "- b", "- c", "+ d", "P e", "- f", "+ *.tmp", "+ keep", "P g"]
    );
}

#[test]
fn several_targets_are_several_mirrors() {
    let place = place();
    let Ok(Invocation::Push { mirrors, .. }) = place.read(&[
        "push",
        "src",
        "h:/a",
        "copy",
        "ssh://me@h:22/b",
        "--name",
        "one",
        "--name=two",
        "--name=three",
    ]) else {
        panic!();
    };
    let names: Vec<&str> = mirrors.iter().map(AnyMirror::name).collect();
    assert_eq!(names, ["one", "two", "three"]);
    let copy = agent(mirrors[1].clone());
    assert_eq!(copy.target, Target::Local(place.world.cwd.join("copy")));
    let (text, hint, _) = place.error(&["push", "src", "h:a", "h:b", "--name", "x"]);
    assert_eq!(text, "--name is given once, with 2 targets");
    assert_eq!(hint, "give --name once for each TARGET, in their order");
    let (text, ..) = place.error(&["push", "src", "h:a", "h:b", "--name", "x", "--name=x"]);
    assert_eq!(text, "two mirrors are called x");
    let (text, _, exit) = place.error(&["push", "src", "h:a", "h:a"]);
    assert_eq!((text.as_str(), exit), ("the target h:a is named twice", Exit::Usage));
}

#[test]
fn what_is_not_there_yet_says_so() {
    let place = place();
    for (line, option) in
        [(&["-L"][..], "--copy-links"), (&["--watch", "fanotify"], "--watch fanotify")]
    {
        assert_eq!(place.refused(line).0, format!("{option} is not there yet"));
    }
    let (text, hint, exit) = place.error(&["monitor"]);
    assert_eq!(text, "lsyncd monitor needs a terminal to draw on");
    assert!(hint.starts_with("lsyncd status"), "{hint}");
    assert_eq!(exit, Exit::Usage);
    let (text, hint, _) = place.error(&["why", "src"]);
    assert_eq!(text, "lsyncd why about a running mirror is not there yet");
    assert!(hint.contains("lsyncd why SOURCE PATH"));
    assert_eq!(place.error(&["why", "-L", "src", "x"]).0, "--copy-links is not there yet");
}

#[test]
fn the_trash_is_a_name_in_the_target() {
    let place = place();
    let trash = |line: &[&str]| {
        let trash = place.mirror(line).trash.unwrap();
        (trash.dir.to_string(), trash.age)
    };
    assert_eq!(trash(&["--trash", ".trash"]), (".trash".into(), None));
    assert_eq!(trash(&["--trash=t/", "--trash-age=2h"]), ("t".into(), Some(7200)));
    assert_eq!(place.mirror(&[]).trash, None);
    let mirror = place.mirror(&["--trash", "t", "--filter=!", "--include=t", "--delete-excluded"]);
    let verdict = |path: &str| {
        let path = lsync_protocol::path::RelPath::new(path.as_bytes()).unwrap();
        mirror.filter.verdict_deep(&path, false)
    };
    for path in ["t", "t/x"] {
        assert!(!verdict(path).sent && !verdict(path).deletable, "{path}");
    }
    assert!(verdict("d/t").sent && verdict("d/t").deletable);
    for bad in ["", "/", "/x", "x/y", "..", ".", "./x", "x/..", ".lsync-00000001-00000001"] {
        let (text, hint) = place.refused(&["--trash", bad]);
        assert_eq!(text, format!("bad --trash '{bad}': not a name in TARGET"));
        assert!(hint.contains("--trash .trash"), "{hint}");
    }
    for (line, text) in [
        (&["--trash-age=1d"][..], "--trash-age does nothing without --trash"),
        (&["--trash=t", "--inplace"], "--trash cannot keep what --inplace writes over"),
        (
            &["--trash=t", "--rsync"],
            "--trash does not go with rsync, which keeps one version of a name and no more",
        ),
        (&["--trash=t", "--trash-age=0"], "bad --trash-age '0': nothing is kept for no time"),
    ] {
        let (said, hint) = place.refused(line);
        assert_eq!(said, text);
        assert!(!hint.is_empty());
    }
}

#[test]
fn mappings_are_read_and_do_not_contradict() {
    let place = place();
    for (line, said) in [
        (&["--chown=a:b", "--usermap=1:2"][..], "--chown does not go with --usermap"),
        (&["--chown=:b", "--groupmap=1:2"], "--chown does not go with --groupmap"),
        (&["--chown=a", "--no-owner"], "--chown a does not go with --no-owner"),
        (&["--chown=:b", "--no-group"], "--chown :b does not go with --no-group"),
        (&["--chmod=755", "--no-perms"], "--chmod does not go with --no-perms"),
        (&["--usermap=a"], "bad --usermap 'a': 'a' is not FROM:TO"),
        (
            &["--chmod=u+q"],
            "bad --chmod 'u+q': 'u+q' has a permission other than r, w, x, X, s and t",
        ),
    ] {
        assert_eq!(place.refused(line).0, said);
    }
}

#[test]
fn verify_takes_what_push_takes_and_only_compares() {
    let place = place();
    let words = ["verify", "--exclude", "*.o", "-x", "--max-size", "1K", "--no-owner", "-p", "22"];
    for (heal, want) in [(None, Verify::Tell), (Some("--heal"), Verify::Heal)] {
        let words: Vec<&str> = words.iter().copied().chain(heal).chain(["src", "h:d"]).collect();
        let Ok(Invocation::Push { mirrors, once: true, dry_run: false, verify, .. }) =
            place.read(&words)
        else {
            panic!("{words:?}");
        };
        assert_eq!(verify, want);
        let [AnyMirror::Agent(mirror)] = &mirrors[..] else { panic!("{mirrors:?}") };
        assert!(mirror.one_file_system && !mirror.attributes.owner);
        assert_eq!((mirror.max_size, mirror.ssh.port), (Some(1024), Some(22)));
        assert!(!mirror.filter.is_empty());
    }
    for (words, text) in [
        (&["verify", "src", "h::m"][..], "lsyncd verify needs an agent on the target"),
        (&["verify", "--rsync", "src", "h:d"], "lsyncd verify needs an agent on the target"),
        (&["verify", "--size-only", "src", "h:d"], "--size-only does not go with lsyncd verify"),
        (&["verify", "--once", "src", "h:d"], "unknown option --once"),
        (&["verify", "src", "h:a", "h:b"], "unknown option h:b"),
    ] {
        let (said, hint, exit) = place.error(words);
        assert!(said.starts_with(text) && !hint.is_empty(), "{words:?}: {said} ({hint})");
        assert_eq!(exit, Exit::Usage);
    }
}

#[test]
fn the_target_is_compared_by_content_as_often_as_is_said() {
    let place = place();
    let every = |line: &[&str]| place.push(line)[0].verify_every;
    assert_eq!(every(&[]), None);
    assert_eq!(every(&["--verify-every", "0"]), None);
    assert_eq!(every(&["--verify-every", "1.5"]), Some(Duration::from_millis(1500)));
    let (text, _) = place.refused(&["--verify-every", "5", "--once"]);
    assert_eq!(text, "--verify-every does nothing with --once");
    let (text, _) = place.refused(&["--verify-every", "5", "--rsync"]);
    assert_eq!(text, "--verify-every with rsync is not there yet");
    let (text, _) = place.refused(&["--verify-every", "5", "src", "h::m"]);
    assert_eq!(text, "--verify-every with rsync is not there yet");
}

#[test]
fn what_is_wrong_is_said_with_a_hint() {
    let place = place();
    let seconds = "not a number of seconds, such as 10 or 0.5";
    let table: &[(&[&str], String, &str)] = &[
        (&["--delay", "x"], format!("bad --delay 'x': {seconds}"), "see --delay in"),
        (&["--rescan=1h"], format!("bad --rescan '1h': {seconds}"), "see --rescan in"),
        (
            &["--max-delete", "101%"],
            "bad --max-delete '101%': not a percentage from 0% to 100%".to_owned(),
            "see --max-delete",
        ),
        (
            &["--max-size", "ten"],
            "bad --max-size 'ten': not a size, such as 4096, 10M, 1.5GB or 2GiB".to_owned(),
            "see --max-size",
        ),
        (
            &["--bwlimit", "fast"],
            "bad --bwlimit 'fast': not a rate, such as 500 (KiB a second), 1.5M, or 0 for no limit"
                .to_owned(),
            "see --bwlimit",
        ),
        (
            &["--compress=bogus"],
            "bad --compress 'bogus': not auto, off or a level from 1 (fast) to 22 (small)".to_owned(),
            "see --compress",
        ),
        (
            &["--bwlimit=0.4"],
            "bad --bwlimit '0.4': less than 512 bytes a second; no limit is 0".to_owned(),
            "see --bwlimit",
        ),
        (&["-p", "0"], "bad --port '0': not a number from 1 to 65535".to_owned(), "see --port"),
        (
            &["--ssh-command", "ssh 'x"],
            "bad --ssh-command 'ssh 'x': a ' is not closed".to_owned(),
            "see --ssh-command",
        ),
        (&["--agent-path="], "bad --agent-path '': not a path".to_owned(), "see --agent-path"),
        (
            &["--name", "a\u{1b}"],
            "bad --name 'a\\x1b': a name is not empty, begins with no hyphen and holds no control characters"
                .to_owned(),
            "see --name",
        ),
        (&["--watch", "eyes"], "bad --watch 'eyes'".to_owned(), "it takes one of auto, fanotify"),
        (&["--delete", "maybe"], "bad --delete 'maybe'".to_owned(), "it takes one of yes, no"),
        (&["--delete-after"], "unknown option --delete-after".to_owned(), ""),
        (&["--exclud", "x"], "unknown option --exclud".to_owned(), "did you mean --exclude"),
        (&["-a"], "unknown option -a".to_owned(), "it is what push does by default"),
        (&["-e", "ssh"], "unknown option -e".to_owned(), "use --ssh-command"),
        (&["-q", "-v"], "--quiet does not go with --verbose...".to_owned(), "see lsyncd push"),
        (
            &["--watch=poll", "--rescan=0"],
            "--watch poll does nothing with --rescan 0".to_owned(),
            "give --rescan the seconds",
        ),
        (
            &["--filter", "x y"],
            "bad filter rule 'x y': it must begin with one of + - P R H S . : !".to_owned(),
            "such as --filter '- *.o', or shorter: --exclude '*.o'",
        ),
        (
            &["--filter", ": a/b"],
            "bad filter rule ': a/b': a file that is read in each directory is a name, or a name behind one slash"
                .to_owned(),
            "rsync's manual",
        ),
        (&["--exclude="], "bad filter rule '': the pattern is missing".to_owned(), "rsync's manual"),
    ];
    for (line, expected, hint) in table {
        let (text, said) = place.refused(line);
        assert_eq!(text, *expected);
        assert!(said.starts_with(hint) && !said.is_empty(), "{line:?}: {said}");
    }
    std::fs::write(place.world.cwd.join("bad"), "a\n- \n").unwrap();
    assert_eq!(
        place.refused(&["--exclude-from=bad"]).0,
        "bad filter rule '- ' in bad:2: the pattern is missing"
    );
    let (text, _, exit) = place.error(&["push", "--exclude-from", "none", "src", "h:d"]);
    assert_eq!(text, "cannot read the rules in none: no such file or directory");
    assert_eq!(exit, Exit::Failed);
}

#[test]
fn places_that_make_no_sense_are_refused() {
    let place = place();
    let table: &[(&[&str], &str, Exit)] = &[
        (&["push"], "missing SOURCE, TARGET...", Exit::Usage),
        (&["push", "src"], "missing TARGET...", Exit::Usage),
        (
            &["push", "src", "h:"],
            "bad target 'h:': the directory behind the colon is missing",
            Exit::Usage,
        ),
        (
            &["push", "src", "h::"],
            "bad target 'h::': the module behind the host is missing",
            Exit::Usage,
        ),
        (&["push", "none", "h:d"], "cannot mirror none: no such file or directory", Exit::Failed),
        (&["push", "rules", "h:d"], "cannot mirror rules: not a directory", Exit::Failed),
        (
            &["push", "src", "h:/"],
            "refusing to mirror to h:/: it is the root directory",
            Exit::Stopped,
        ),
        (&["push", "src", "/"], "refusing to mirror to /: it is the root directory", Exit::Stopped),
        (
            &["agent", "check", "h:d"],
            "bad host 'h:d': ':' cannot stand in a host name",
            Exit::Usage,
        ),
        (&["agent", "chek", "h"], "unknown command chek", Exit::Usage),
        (&["agent", "install"], "missing HOST", Exit::Usage),
        (&["--generate"], "--generate needs a value", Exit::Usage),
        (&["--generate", "csh"], "bad --generate 'csh'", Exit::Usage),
    ];
    for (line, expected, code) in table {
        let (text, hint, exit) = place.error(line);
        assert_eq!((text.as_str(), exit), (*expected, *code), "{line:?}");
        assert!(!hint.is_empty(), "{line:?}");
    }
    let cwd = place.world.cwd.display();
    for (target, expected) in [
        ("src", format!("refusing to mirror {cwd}/src to itself")),
        ("src/x", format!("refusing to mirror {cwd}/src into itself: {cwd}/src/x is inside it")),
        (".", format!("refusing to mirror {cwd}/src to {cwd}: the source is inside the target")),
    ] {
        let (text, _, exit) = place.error(&["push", "src", target]);
        assert_eq!((text, exit), (expected, Exit::Stopped));
    }
}

#[test]
fn rsync_is_called_with_what_is_asked_for() {
    let place = place();
    let rsync = |line: &[&str]| {
        let line: Vec<&str> = [&["push"][..], line].concat();
        match place.read(&line) {
            Ok(Invocation::Push { mut mirrors, .. }) => match mirrors.remove(0) {
                AnyMirror::Rsync(mirror) => mirror,
                AnyMirror::Agent(_) => panic!("{line:?}: carried by the agent"),
            },
            other => panic!("{line:?}: {other:?}"),
        }
    };
    let words = |line: &[&str]| {
        let mirror = rsync(line);
        let words: Vec<_> = mirror.options.full_words();
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        (words.join(" "), mirror.target.into_string().unwrap())
    };
    let copy = place.world.cwd.join("copy/").display().to_string();
    let table: &[(&[&str], &str, &str)] = &[
        (&["--rsync", "src", "copy"], "-lAgHoptXs -D", &copy),
        (&["src", "h::m/d"], "-lAgHoptXs -D", "h::m/d/"),
        (&["src", "rsync://me@h:873/m"], "-lAgHoptXs -D", "rsync://me@h:873/m/"),
        (&["--rsync", "src", "me@h:~/d"], "-lAgHoptXs -D", "me@h:d/"),
        (
            &["--rsync", "-p", "22", "-i", "key", "src", "h:d"],
            "-lAgHoptXs -D --rsh=ssh -i CWD/key -p 22",
            "h:d/",
        ),
        (
            &["--rsync", "--ssh-command", "ssh -4", "src", "ssh://h:2222/d"],
            "-lAgHoptXs -D --rsh=ssh -4 -p 2222",
            "h:/d/",
        ),
        (
            &["--rsync", "--ssh-config", "conf", "src", "h:d"],
            "-lAgHoptXs -D --rsh=ssh -F CWD/conf",
            "h:d/",
        ),
        (
            &[
                "--rsync",
                "--no-perms",
                "--no-owner",
                "--no-group",
                "--no-times",
                "--no-hard-links",
                "--no-acls",
                "--no-xattrs",
                "--no-devices",
                "-x",
                "--checksum",
                "--compress=3",
                "src",
                "h:d",
            ],
            "-lczxs --compress-level=3",
            "h:d/",
        ),
        (
            &[
                "--rsync",
                "--numeric-ids",
                "--size-only",
                "--fsync",
                "--mkpath",
                "--inplace",
                "--max-size=1K",
                "--bwlimit=1M",
                "--chmod=a+r",
                "--chown=a:b",
                "--delete-excluded",
                "src",
                "h:d",
            ],
            "-lAgHoptXs -D --numeric-ids --size-only --fsync --mkpath --max-size=1024 --bwlimit=1024 \
             --chmod=a+r --chown=a:b --inplace --delete-excluded",
            "h:d/",
        ),
    ];
    let cwd = place.world.cwd.display().to_string();
    for (line, expected, target) in table {
        let (said, to) = words(line);
        assert_eq!((said.replace(&cwd, "CWD").as_str(), to.as_str()), (*expected, *target));
    }
    let mirror = rsync(&["--rsync=bin/rsync", "--exclude=*.o", "--include=/x", "src", "h:d"]);
    assert_eq!(mirror.options.program(), place.world.cwd.join("bin/rsync").as_os_str());
    assert!(!mirror.options.is_wrapper() && mirror.options.takes_lists());
    assert_eq!(mirror.filters, [b"- *.o".to_vec(), b"+ /x".to_vec()]);
    assert!(mirror.why.is_none() && rsync(&["src", "h::m"]).why.is_some());
    for (line, text) in [
        (&["--rsync", "--agent-path=x", "src", "h:d"][..], "--agent-path does not go with --rsync"),
        (&["-p", "22", "src", "h::m"], "--port does not go with h::m"),
        (&["src", "h::m", "h::m"], "the target h::m/ is named twice"),
        (&["--rsync=", "src", "h:d"], "--rsync names no program"),
        (&["--rsync", "src", "/"], "refusing to mirror to /"),
        (&["--rsync", "src", "h:/"], "refusing to mirror to h:/"),
        (&["--rsync", "src", "src/x"], "refusing to mirror"),
    ] {
        let (said, hint, _) = place.error(&[&["push"][..], line].concat());
        assert!(said.starts_with(text) && (text.ends_with("twice") || !hint.is_empty()), "{said}");
    }
}

#[test]
fn agents_help_version_and_the_rest() {
    let place = place();
    match place.read(&["agent", "install", "me@h", "-p", "22"]) {
        Ok(Invocation::Agent(visit)) => {
            assert!(visit.install);
            assert_eq!(visit.host.to_string(), "me@h:.");
            assert_eq!(visit.ssh.port, Some(22));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        place.read(&["agent", "check", "ssh://h:1"]),
        Ok(Invocation::Agent(visit)) if !visit.install
    ));
    for flag in ["-V", "--version", "-version"] {
        match place.read(&[flag]) {
            Ok(Invocation::Print { text, exit: Exit::Done }) => {
                assert_eq!(text, format!("Version: {}\n", env!("CARGO_PKG_VERSION")));
            }
            other => panic!("{flag}: {other:?}"),
        }
    }
    let text = |line: &[&str]| match place.read(line) {
        Ok(Invocation::Print { text, exit }) => (text, exit),
        other => panic!("{line:?}: {other:?}"),
    };
    assert_eq!(text(&["--help"]).1, Exit::Done);
    assert_eq!(text(&["-help"]).1, Exit::Failed);
    assert_eq!(text(&[]).1, Exit::Failed);
    assert_eq!(text(&["agent"]).1, Exit::Usage);
    let (help, exit) = text(&["push", "--help"]);
    assert_eq!(exit, Exit::Done);
    for option in [
        "--once",
        "--delay",
        "--delete",
        "--max-delete",
        "--allow-empty",
        "--delete-excluded",
        "-n, --dry-run",
        "--checksum",
        "--size-only",
        "--rescan",
        "--verify-every",
        "--exclude",
        "--include",
        "--filter",
        "--exclude-from",
        "--include-from",
        "-C, --cvs-exclude",
        "--chown",
        "--usermap",
        "--groupmap",
        "--chmod",
        "--numeric-ids",
        "--no-owner",
        "--no-group",
        "--no-perms",
        "--no-times",
        "--no-xattrs",
        "--no-acls",
        "--no-hard-links",
        "--no-devices",
        "-x, --one-file-system",
        "-L, --copy-links",
        "--max-size",
        "--inplace",
        "--fsync",
        "--trash <DIR>",
        "--trash-age",
        "--bwlimit",
        "--compress",
        "-p, --port",
        "-i, --identity",
        "--ssh-config",
        "--ssh-command",
        "--agent-path",
        "--agent-binary",
        "--rsync",
        "--watch",
        "--name",
        "--control",
        "--metrics",
        "--json",
        "-v, --verbose",
        "-q, --quiet",
        "--no-progress",
        "--mkpath",
    ] {
        assert!(help.contains(option), "{option} is not in the help");
    }
    assert!(matches!(place.read(&["--generate", "man"]), Ok(Invocation::Generate(Generate::Man))));
    assert!(matches!(place.read(&["--generate=zsh"]), Ok(Invocation::Generate(Generate::Zsh))));
}

#[test]
fn a_key_is_authorized_for_one_directory() {
    let place = place();
    let key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti me@here";
    std::fs::write(place.world.cwd.join("id.pub"), format!("{key}\n")).unwrap();
    std::fs::write(place.world.cwd.join("bad.pub"), "ssh-ed25519 AAAA\n").unwrap();
    let line = |words: &[&str]| match place.read(&[&["agent", "authorize"], words].concat()) {
        Ok(Invocation::Authorize(asked)) => asked.line(),
        other => panic!("{words:?}: {other:?}"),
    };
    let here = "~/.cache/lsyncd/lsync-agent --root";
    for (words, command) in [
        (&["-i", "id", "h:/srv/m"][..], format!("{here} /srv/m")),
        (&["-i", "id.pub", "--root", "/srv/m"], format!("{here} /srv/m")),
        (&["-i", "id", "--root=my m", "h", "--no-delete"], format!("{here} 'my m' --no-delete")),
        (&["-i", "id", "ssh://h:22/m", "--read-only"], format!("{here} /m --read-only")),
        (
            &["-i", "id", "me@h:~/m", "--trash", ".t", "--agent-path", "lsync-agent"],
            "lsync-agent --root ~/m --trash .t".to_owned(),
        ),
        (&["-i", "id", "h:/a\"b"], format!("{here} '/a\\\"b'")),
    ] {
        let said = line(words).unwrap();
        let want = format!("restrict,command=\"{command}\" {key}\n");
        assert_eq!(String::from_utf8(said.line).unwrap(), want);
        assert_eq!(said.hints.len(), 1 + usize::from(!words.contains(&"--agent-path")));
    }
    let (text, hint) = {
        let error = line(&["-i", "nokey", "h:m"]).unwrap_err();
        (error.to_string(), error.hint_text().unwrap_or_default().to_owned())
    };
    assert!(
        text.starts_with("cannot read the public key ") && text.contains("nokey.pub: "),
        "{text}"
    );
    assert!(hint.contains("ssh-keygen -y -f "), "{hint}");
    let text = line(&["-i", "bad", "h:m"]).unwrap_err().to_string();
    assert!(text.contains("bad.pub is no public key: "), "{text}");
    for (words, what) in [
        (&["-i", "id"][..], "no directory that the key may reach"),
        (&["h"], "no directory that the key may reach"),
        (&["h:m", "--root", "m"], "the directory is named twice"),
        (&["h:/"], "refused to open / to a key"),
        (&["h:."], "refused to open . to a key"),
        (&["--root", "a\nb"], "bad --root 'a\\nb': not a path in one line"),
        (&["h:m", "--trash", "a/b"], "bad --trash 'a/b': not a name in DIR"),
        (&["h:m", "--read-only", "--no-delete"], "--read-only does not go with --no-delete"),
        (&["h:m", "--agent-path", ""], "bad --agent-path '': not a path"),
        (&["h:m", "--agent-path", "a\rb"], "bad --agent-path 'a\\rb': not a path"),
        (&["a b:m"], "bad host 'a b:m': "),
    ] {
        let (text, hint, exit) = place.error(&[&["agent", "authorize"], words].concat());
        assert!(text.starts_with(what), "{words:?}: {text}");
        assert!(!hint.is_empty());
        assert_eq!(exit, Exit::Usage);
    }
}
