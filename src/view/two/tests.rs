//! What is written where, and in which words.

use super::*;
use crate::error::Problem;
use crate::metrics::{Step, Totals};
use lsync_protocol::path::RelPath;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

type Said = Arc<Mutex<Vec<(bool, String)>>>;

fn options() -> LogOptions {
    let mut settings = Settings::default();
    settings.nodaemon = true;
    LogOptions::new(&settings, &[])
}

fn log(options: &LogOptions) -> (TwoLog, Said) {
    let said = Said::default();
    let sink = Arc::clone(&said);
    let console = move |error, line: &str| sink.lock().unwrap().push((error, line.to_owned()));
    (TwoLog::on(options, Box::new(console)).unwrap(), said)
}

/// What was said since, with the times as `TIME`.
fn take(said: &Said) -> Vec<(bool, String)> {
    let untimed = |(error, line): (bool, String)| {
        let time = line.as_bytes();
        let timed = time.len() > 9 && time[2] == b':' && time[5] == b':' && time[8] == b' ';
        (error, if timed { format!("TIME{}", &line[8..]) } else { line })
    };
    std::mem::take(&mut *said.lock().unwrap()).into_iter().map(untimed).collect()
}

#[test]
fn categories_are_named_or_all_or_few() {
    let table: [(&[&str], &str, &str); 5] = [
        (&[], "Normal Warn Error", "Exec Debug"),
        (&["scarce"], "Warn Error", "Normal Exec"),
        (&["all"], "Normal Warn Error Exec Mine", ""),
        (&["Exec", "Mine"], "Normal Warn Error Exec Mine", "Debug"),
        (&["scarce", "Exec"], "Warn Error Exec", "Normal Debug"),
    ];
    for (words, on, off) in table {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let (log, _) = log(&LogOptions { categories: words.clone(), ..options() });
        assert!(on.split_whitespace().all(|name| log.wants(name)), "{words:?}");
        assert!(!off.split_whitespace().any(|name| log.wants(name)), "{words:?}");
    }
}

#[test]
fn the_console_has_no_times_before_the_start_and_errors_apart_after_it() {
    let (log, said) = log(&options());
    log.line("Normal", "early");
    log.line("Debug", "not wanted");
    log.error(&Error::failed("cannot \u{1b}").hint("do"));
    log.startup();
    log.line("Normal", "one\ntwo");
    log.line("Error", "bad");
    let line = |error, text: &str| (error, text.to_owned());
    assert_eq!(
        take(&said),
        [
            line(true, "Normal: early\n"),
            line(true, "Error: cannot \\x1b\nhint: do\n"),
            line(false, "TIME Normal: --- Startup ---\n"),
            line(false, "TIME Normal: one\ntwo\n"),
            line(true, "TIME Error: bad\n"),
        ]
    );
}

#[test]
fn a_log_that_goes_on_has_times_at_once() {
    let (log, said) = log(&options());
    log.running().line("Error", "bad");
    assert_eq!(take(&said), [(true, "TIME Error: bad\n".to_owned())]);
}

#[test]
fn what_the_program_logs_of_itself_is_in_it() {
    let (log, said) = log(&options());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_writer(Traces(Arc::new(log.running())))
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        tracing::error!("bad");
        tracing::warn!(name = "a\nb", "odd");
        tracing::info!("not wanted");
    });
    let line = |error, text: &str| (error, text.to_owned());
    assert_eq!(
        take(&said),
        [line(true, "TIME Error: bad\n"), line(false, "TIME Warn: odd name=\"a\\nb\"\n")]
    );
}

#[test]
fn a_log_file_has_every_line_and_may_be_renamed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (log, said) = log(&LogOptions { logfile: Some(path.clone()), daemon: true, ..options() });
    log.startup();
    std::fs::rename(&path, dir.path().join("old")).unwrap();
    log.fading("TERM");
    let old = std::fs::read_to_string(dir.path().join("old")).unwrap();
    let new = std::fs::read_to_string(&path).unwrap();
    for (text, end) in [
        (old, " Normal: --- Startup, daemonizing ---\n"),
        (new, " Normal: --- TERM signal, fading ---\n"),
    ] {
        let time = text.strip_suffix(end).unwrap_or_else(|| panic!("{text}"));
        let parsed = jiff::civil::DateTime::strptime("%a %b %e %H:%M:%S %Y", time);
        let age = jiff::Zoned::now().datetime() - parsed.unwrap();
        assert!(time.len() == 24 && age.get_hours() == 0 && age.get_minutes() < 10, "{time}");
    }
    assert_eq!(take(&said), [], "a daemon has no console");
    let nowhere = LogOptions { logfile: Some(dir.path().join("no/log")), ..options() };
    let error = TwoLog::new(&nowhere).err().unwrap().to_string();
    assert!(
        error.starts_with("cannot open the logfile /")
            && error.ends_with("/no/log: no such file or directory"),
        "{error}"
    );
}

#[test]
fn a_daemon_without_a_log_file_speaks_to_syslog() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut settings = Settings::default();
    let text = |text: &str| crate::config::settings::Value::Text(text.into());
    settings.set("logfacility", text("local0")).unwrap();
    settings.set("logident", text("mirror")).unwrap();
    let options = LogOptions { syslog: path.clone(), ..LogOptions::new(&settings, &[]) };
    let (log, said) = log(&options);
    log.startup();
    let warned = take(&said);
    assert!(warned.len() == 1 && warned[0].1.contains("nothing listens"), "{warned:?}");
    let listener = UnixDatagram::bind(&path).unwrap();
    listener.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let heard = || {
        let mut buffer = vec![0; 65536];
        let length = listener.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let me = format!(" mirror[{}]: ", std::process::id());
    for (category, text, priority, expected) in [
        ("Normal", "hello", "<133>", &["Normal, hello"][..]),
        ("Warn", "one\ntwo", "<132>", &["Warn, one", "Warn, two"]),
        ("Error", "bad", "<131>", &["Error, bad"]),
    ] {
        log.line(category, text);
        for expected in expected {
            let message = heard();
            let (head, rest) = message.split_once(&me).unwrap();
            assert!(head.starts_with(priority) && head.len() == priority.len() + 15, "{head}");
            assert_eq!(rest, *expected);
        }
    }
    log.line("Normal", &"é".repeat(50_000));
    assert!((7900..=8000).contains(&heard().len()));
    assert_eq!(take(&said), []);
}

#[test]
fn notices_are_said_in_lsyncd_2s_words_and_once() {
    let (log, said) = log(&options());
    log.startup();
    log.ends("web", "/s/", "h:/t/");
    take(&said);
    let mirror: Arc<str> = "web".into();
    let m = || Arc::clone(&mirror);
    let path = || RelPath::new(*b"a\nb").unwrap();
    let problem = |cause: &str| Notice::Problem {
        mirror: m(),
        problem: Problem { path: path(), cause: cause.into(), tries: 1 },
    };
    let lost =
        || Notice::Lost { mirror: m(), cause: "gone".into(), retry_in: Duration::from_secs(1) };
    let totals = Totals::default();
    let table: Vec<(Notice, &[&str])> = vec![
        (Notice::Connecting { mirror: m() }, &[]),
        (Notice::Ready { mirror: m(), totals }, &["Normal: Startup of /s/ -> h:/t/ finished."]),
        (Notice::Ready { mirror: "x".into(), totals }, &["Normal: Startup of x finished."]),
        (problem("no space"), &["Warn: web: cannot mirror a\\nb: no space"]),
        (problem("no space"), &[]),
        (problem("denied"), &["Warn: web: cannot mirror a\\nb: denied"]),
        (Notice::Solved { mirror: m(), path: path() }, &["Normal: web: mirrored after all: a\\nb"]),
        (Notice::Warning { mirror: m(), text: "no\nowners".into() }, &["Warn: web: no\\nowners"]),
        (lost(), &["Warn: web: link to web is down: gone; trying again in 1.0 s"]),
        (lost(), &[]),
        (Notice::Reconnected { mirror: m() }, &["Normal: web: link to web is up again"]),
        (
            Notice::Halted { mirror: m(), reason: "too many".into(), hint: Some("see".into()) },
            &["Error: halted: web: too many", "Error: hint: see"],
        ),
        (Notice::Resumed { mirror: m() }, &["Normal: web: going on: web"]),
        (
            Notice::Failed { mirror: m(), what: "cannot connect".into(), hint: None },
            &["Error: web: cannot connect"],
        ),
        (Notice::Step { mirror: m(), step: Step::Update { path: path() } }, &[]),
    ];
    let now = Instant::now();
    for (notice, expected) in table {
        log.notice_at(&notice, now);
        let lines: Vec<String> = take(&said).into_iter().map(|(_, line)| line).collect();
        let expected: Vec<String> = expected.iter().map(|line| format!("TIME {line}\n")).collect();
        assert_eq!(lines, expected, "{notice:?}");
    }
}

#[test]
fn lists_and_repeats_are_cut() {
    let (log, said) = log(&options());
    log.startup();
    take(&said);
    let names: Vec<Vec<u8>> = (0..1000).map(|n| format!("/f\n{n}").into_bytes()).collect();
    log.list("Normal", "sending", names.iter().map(Vec::as_slice));
    let text = take(&said).remove(0).1;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 100);
    assert_eq!((lines[0], lines[1]), ("TIME Normal: sending", "/f\\n0"));
    assert_eq!(lines[99], "and 902 more");
    log.line("Normal", &"x\n".repeat(500));
    let text = take(&said).remove(0).1;
    assert_eq!(text.lines().last(), Some("and 401 more lines"));
    for _ in 0..50 {
        log.line("Warn", "again");
    }
    assert_eq!(take(&said).len(), 10);
    let now = Instant::now();
    log.waiting_at(0, now);
    log.waiting_at(3, now);
    log.waiting_at(2, now + Duration::from_secs(59));
    log.waiting_at(1, now + Duration::from_secs(61));
    let lines: Vec<String> = take(&said).into_iter().map(|(_, line)| line).collect();
    assert_eq!(
        lines,
        [
            "TIME Normal: waiting for 3 more child processes.\n",
            "TIME Warn: again (40 times more)\n",
            "TIME Normal: waiting for 1 more child processes.\n",
        ]
    );
}
