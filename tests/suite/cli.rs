//! The command line of the real program: what it prints where, and how it ends.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program, in an empty environment and in `dir`.
fn lsyncd(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lsyncd"));
    command.env_clear().env("HOME", dir).current_dir(dir).stdin(Stdio::null());
    command
}

/// Its exit code, standard output and standard error. The last words of a program that cannot do
/// what it was asked bear no time, wherever they go.
fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn run(words: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("src")).unwrap();
    said(&lsyncd(dir.path()).args(words).output().unwrap())
}

#[test]
fn the_version_is_said_as_lsyncd_2_said_it() {
    for flag in ["--version", "-V", "-version"] {
        let expected = format!("Version: {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(run(&[flag]), (0, expected, String::new()));
    }
}

#[test]
fn help_goes_to_standard_output_without_colours_where_that_is_no_terminal() {
    let (code, out, err) = run(&["push", "--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("Usage: lsyncd push [OPTIONS] SOURCE TARGET..."), "{out}");
    assert!(!out.contains('\u{1b}'));
    let (code, out, _) = run(&["--help"]);
    assert!(code == 0 && out.contains("push") && out.contains("Examples:"), "{out}");
    assert_eq!(run(&["-help"]).0, 255, "as Lsyncd 2");
    assert_eq!(run(&[]).0, 255, "as Lsyncd 2");
}

#[test]
fn errors_are_a_line_and_a_hint_on_standard_error() {
    let table: &[(&[&str], i32, &str)] = &[
        (&["push"], 2, "lsyncd: missing SOURCE, TARGET...\nhint: see lsyncd push --help\n"),
        (
            &["push", "--exclud", "x", "src", "h:d"],
            2,
            "lsyncd: unknown option --exclud\nhint: did you mean --exclude?\n",
        ),
        (
            &["push", "--delay", "soon", "src", "h:d"],
            2,
            "lsyncd: bad --delay 'soon': not a number of seconds, such as 10 or 0.5\nhint: see --delay in lsyncd push --help\n",
        ),
        (
            &["push", "none", "h:d"],
            255,
            "lsyncd: cannot mirror none: no such file or directory\nhint: SOURCE is an existing directory; its contents are mirrored\n",
        ),
        (
            &["push", "src", "h:"],
            2,
            "lsyncd: bad target 'h:': the directory behind the colon is missing\nhint: HOST:. means the login directory itself\n",
        ),
        (
            &["push", "src", "h:/"],
            25,
            "lsyncd: refusing to mirror to h:/: it is the root directory\nhint: the target becomes equal to the source, so all else on that host would be deleted; name a directory in it\n",
        ),
        (
            &["push", "--copy-links", "src", "h:d"],
            2,
            "lsyncd: --copy-links is not there yet\nhint: symbolic links are mirrored as they are\n",
        ),
        (
            &["monitor", "src"],
            2,
            "lsyncd: lsyncd monitor needs a terminal to draw on\nhint: lsyncd status --json says the same to programs\n",
        ),
        (
            &["-rsyncssh", "no", "h", "d"],
            255,
            "lsyncd: cannot set up -rsyncssh: cannot mirror no: no such file or directory\n",
        ),
        (
            &["lsyncd.conf.lua"],
            255,
            "lsyncd: Cannot find config file at 'lsyncd.conf.lua'.\nhint: lsyncd push SOURCE TARGET... mirrors a directory without one\n",
        ),
    ];
    for (words, code, expected) in table {
        assert_eq!(run(words), (*code, String::new(), (*expected).to_owned()), "{words:?}");
    }
}

#[test]
fn lines_have_no_time_where_the_journal_adds_it() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let file = File::create(&log).unwrap();
    std::fs::create_dir(dir.path().join("source")).unwrap();
    let stream = |inode: u64| format!("{}:{inode}", file.metadata().unwrap().dev());
    let inode = file.metadata().unwrap().ino();
    for (stream, timed) in [(stream(inode), false), (stream(inode + 1), true)] {
        let before = std::fs::read(&log).unwrap().len();
        let status = lsyncd(dir.path())
            .args(["push", "--once", "source", "target"])
            .env("JOURNAL_STREAM", &stream)
            .stderr(file.try_clone().unwrap())
            .status();
        assert_eq!(status.unwrap().code(), Some(0));
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text[before..].contains("lsyncd: done"), "{text}");
        assert_eq!(!text[before..].starts_with("lsyncd: done"), timed, "{text}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_error_and_a_full_disk_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let gone = lsyncd(dir.path()).arg("--generate=bash").stdout(Stdio::from(writer)).output();
    assert_eq!(said(&gone.unwrap()), (0, String::new(), String::new()));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let full = lsyncd(dir.path()).arg("--generate=bash").stdout(full).output().unwrap();
    let (code, _, err) = said(&full);
    assert_eq!(code, 255);
    assert_eq!(err, "lsyncd: cannot write to standard output: no space left on device\n");
}

#[test]
fn the_manual_page_and_the_completions_are_accepted_by_their_readers() {
    let dir = tempfile::tempdir().unwrap();
    for (what, reader) in [
        ("man", &["man", "--warnings", "-l"][..]),
        ("bash", &["bash", "-n"]),
        ("zsh", &["zsh", "-n"]),
        ("fish", &["fish", "-n"]),
    ] {
        let (code, out, err) =
            said(&lsyncd(dir.path()).args(["--generate", what]).output().unwrap());
        assert_eq!((code, err.as_str()), (0, ""), "{what}");
        assert!(out.contains("max-delete") || out.contains("max\\-delete"), "{what}");
        let file = dir.path().join(what);
        std::fs::write(&file, out).unwrap();
        // Where the reader is not installed nothing can be asked.
        let read = Command::new(reader[0]).args(&reader[1..]).arg(&file).output();
        if let Ok(read) = read {
            let complaint = String::from_utf8_lossy(&read.stderr).into_owned();
            assert!(read.status.success() && complaint.is_empty(), "{what}: {complaint}");
        }
    }
}
