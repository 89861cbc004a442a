//! The texts, each to the letter.

use super::*;
use crate::error::Problem;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn name() -> Arc<str> {
    "web".into()
}

#[allow(clippy::needless_pass_by_value, reason = "notices are made where they are said")]
fn said(words: &mut Words, notice: Notice, now: Instant) -> Vec<String> {
    let lines = words.say(&notice, now).into_iter();
    lines
        .map(|line| match line {
            Line::Out(text) => format!("out: {text}"),
            Line::Err(text) => text,
            Line::Hint(text) => format!("hint: {text}"),
        })
        .collect()
}

fn totals() -> Totals {
    Totals {
        files: 1234,
        directories: 56,
        bytes: 7_800_000,
        ops: 12,
        deleted: 1,
        problems: 0,
        elapsed: Duration::from_millis(900),
    }
}

fn problem(at: &str, cause: &str) -> Notice {
    let problem = Problem { path: path(at), cause: cause.to_owned(), tries: 1 };
    Notice::Problem { mirror: name(), problem }
}

/// One of each.
fn notices() -> Vec<Notice> {
    let mirror = name();
    let m = || Arc::clone(&mirror);
    vec![
        Notice::Connecting { mirror: m() },
        Notice::Deploying { mirror: m(), host: "h\u{1b}".to_owned() },
        Notice::Ready { mirror: m(), totals: totals() },
        problem("a\nb", "per\u{1b}mission \\n denied"),
        Notice::Solved { mirror: m(), path: path("a\nb") },
        Notice::Warning { mirror: m(), text: "no owners".to_owned() },
        Notice::Fixed { mirror: m(), text: "the host fixes\u{1b} it".to_owned() },
        Notice::Lost {
            mirror: m(),
            cause: "broken pipe".to_owned(),
            retry_in: Duration::from_millis(1500),
        },
        Notice::Reconnected { mirror: m() },
        Notice::Halted {
            mirror: m(),
            reason: "101 names would be deleted, 100 may be".to_owned(),
            hint: Some("raise --max-delete".to_owned()),
        },
        Notice::Reloaded { mirror: "lsyncd".into(), text: "read again".to_owned() },
        Notice::Serving { mirror: "lsyncd".into(), url: "http://127.0.0.1:9/".to_owned() },
        Notice::Paused { mirror: m() },
        Notice::Resumed { mirror: m() },
        Notice::Failed { mirror: m(), what: "cannot connect to h".to_owned(), hint: None },
        Notice::Step { mirror: m(), step: Step::Create { path: path("d"), dir: true } },
        Notice::Done { mirror: m(), totals: totals() },
    ]
}

fn all(style: Style) -> Vec<String> {
    let mut words = Words::new(style);
    let now = Instant::now();
    notices().into_iter().flat_map(|notice| said(&mut words, notice, now)).collect()
}

#[test]
fn a_calm_run_says_this() {
    assert_eq!(
        all(Style::default()),
        [
            "copying the agent to h\\x1b",
            "ready: web: 1234 files, 56 directories, 7.8 MB in 0.9 s",
            "cannot mirror a\\nb: per\\x1bmission \\n denied",
            "mirrored after all: a\\nb",
            "warning: no owners",
            "the host fixes\\x1b it",
            "link to web is down: broken pipe; trying again in 1.5 s",
            "link to web is up again",
            "halted: web: 101 names would be deleted, 100 may be",
            "hint: raise --max-delete",
            "read again",
            "http://127.0.0.1:9/ shows how it stands",
            "paused: web; lsyncd resume has it go on",
            "going on: web",
            "cannot connect to h",
            "done: web: 1234 files, 56 directories, 7.8 MB in 0.9 s",
        ]
    );
}

#[test]
fn a_quiet_run_says_only_errors_problems_and_ready() {
    assert_eq!(
        all(Style { quiet: true, ..Style::default() }),
        [
            "ready: web: 1234 files, 56 directories, 7.8 MB in 0.9 s",
            "cannot mirror a\\nb: per\\x1bmission \\n denied",
            "link to web is down: broken pipe; trying again in 1.5 s",
            "halted: web: 101 names would be deleted, 100 may be",
            "hint: raise --max-delete",
            "cannot connect to h",
        ]
    );
}

#[test]
fn a_verbose_run_says_what_is_done_and_several_mirrors_are_told_apart() {
    let lines = all(Style { verbose: true, several: true, ..Style::default() });
    assert!(lines.contains(&"web: connecting to web".to_owned()), "{lines:?}");
    assert!(lines.contains(&"web: create d/".to_owned()), "{lines:?}");
    assert!(lines.contains(&"web: cannot mirror a\\nb: per\\x1bmission \\n denied".to_owned()));
    assert!(lines.iter().any(|l| l.starts_with("ready: web: ")));
}

#[test]
fn a_dry_run_says_every_step_on_standard_output() {
    let mut words = Words::new(Style { dry_run: true, ..Style::default() });
    let steps = [
        (Step::Create { path: path("d"), dir: true }, "out: create d/"),
        (Step::Create { path: path("d/f"), dir: false }, "out: create d/f"),
        (Step::Update { path: path("a\u{1b}") }, "out: update a\\x1b"),
        (Step::Delete { path: path("old"), dir: true }, "out: delete old/"),
        (Step::Rename { from: path("a"), to: path("b") }, "out: rename a -> b"),
        (Step::HardLink { path: path("a"), from: path("b") }, "out: hard link a => b"),
        (Step::Attributes { path: RelPath::root() }, "out: attributes ."),
    ];
    for (step, expected) in steps {
        let notice = Notice::Step { mirror: name(), step };
        assert_eq!(said(&mut words, notice, Instant::now()), [expected]);
    }
    let done = Notice::Done { mirror: name(), totals: Totals::default() };
    assert_eq!(
        said(&mut words, done, Instant::now()),
        ["would be done: web: 0 files, 0 directories, 0 B in 0.0 s"]
    );
}

#[test]
fn differences_are_the_result_of_a_comparison_and_news_of_a_mirror() {
    use lsync_protocol::entry::Kind;
    let found = |how, attributes: &[&'static str], at: &str| Notice::Differs {
        mirror: name(),
        difference: Difference { path: path(at), how, attributes: attributes.to_vec() },
    };
    let kind = Differs::Kind { source: Kind::Dir, target: Kind::Symlink };
    let table = [
        (found(Differs::Missing { dir: true }, &[], "d"), "missing d/"),
        (found(Differs::Extra { dir: false }, &[], "a\n"), "extra a\\n"),
        (found(kind, &[], "k"), "kind k (a symbolic link instead of a directory)"),
        (found(Differs::Content, &["mode", "mtime"], "c"), "content c (mode, mtime)"),
        (found(Differs::Attributes, &["owner"], ""), "attributes . (owner)"),
    ];
    let mut only = Words::new(Style { verify: true, quiet: true, ..Style::default() });
    let mut live = Words::new(Style::default());
    let now = Instant::now();
    for (notice, text) in table {
        assert_eq!(said(&mut only, notice.clone(), now), [format!("out: {text}")]);
        let news = format!("drifted, and is being mended: {text}");
        assert_eq!(said(&mut live, notice, now), [news]);
    }
    let mut only = Words::new(Style { verify: true, ..Style::default() });
    let verified = |healed| Notice::Verified {
        mirror: name(),
        totals: Totals::default(),
        differences: 1,
        healed,
    };
    assert_eq!(
        said(&mut only, verified(false), now),
        ["compared: web: 1 difference, 0 files, 0 directories, 0 B in 0.0 s"]
    );
    assert_eq!(
        said(&mut only, verified(true), now),
        ["compared and healed: web: 1 difference, 0 files, 0 directories, 0 B in 0.0 s"]
    );
    assert_eq!(said(&mut only, problem("b", "denied"), now), ["cannot compare b: denied"]);
}

#[test]
fn problems_are_said_once_and_listed_again_at_the_end() {
    let mut words = Words::new(Style::default());
    let now = Instant::now();
    assert_eq!(said(&mut words, problem("b", "denied"), now).len(), 1);
    assert_eq!(said(&mut words, problem("a", "denied"), now).len(), 1);
    assert!(said(&mut words, problem("b", "denied"), now).is_empty(), "tried again");
    assert_eq!(said(&mut words, problem("b", "i/o error"), now), ["cannot mirror b: i/o error"]);
    assert_eq!(said(&mut words, problem("c", "denied"), now).len(), 1);
    let solved = Notice::Solved { mirror: name(), path: path("c") };
    assert_eq!(said(&mut words, solved.clone(), now), ["mirrored after all: c"]);
    assert!(said(&mut words, solved, now).is_empty());
    let done = Notice::Done { mirror: name(), totals: Totals { problems: 2, ..totals() } };
    assert_eq!(
        said(&mut words, done, now)[1..],
        ["2 paths could not be mirrored:", "  a: denied", "  b: i/o error"]
    );
    for i in 0..2 * PROBLEMS_KEPT {
        said(&mut words, problem(&format!("x{i}"), "full"), now);
    }
    let done = Notice::Done { mirror: name(), totals: Totals { problems: 2002, ..totals() } };
    let lines = said(&mut words, done, now);
    assert_eq!(lines.len(), PROBLEMS_KEPT + 3);
    assert_eq!(lines.last().unwrap(), "  and 1002 more");
}

#[test]
fn a_link_that_stays_away_is_not_said_all_the_time() {
    let mut words = Words::new(Style::default());
    let start = Instant::now();
    let lost = |cause: &str| Notice::Lost {
        mirror: name(),
        cause: cause.to_owned(),
        retry_in: Duration::from_secs(60),
    };
    assert_eq!(
        said(&mut words, lost("no route"), start),
        ["link to web is down: no route; trying again in 60 s"]
    );
    let at = |s| start + Duration::from_secs(s);
    assert!(said(&mut words, lost("no route"), at(60)).is_empty());
    assert_eq!(said(&mut words, lost("refused"), at(61)).len(), 1);
    assert!(said(&mut words, lost("refused"), at(120)).is_empty());
    assert_eq!(said(&mut words, lost("refused"), at(400)).len(), 1);
    let back = Notice::Reconnected { mirror: name() };
    assert_eq!(said(&mut words, back.clone(), at(401)), ["link to web is up again"]);
    assert!(said(&mut words, back, at(402)).is_empty());
}

#[test]
fn without_a_bar_progress_is_a_line_now_and_then() {
    let mut words = Words::new(Style::default());
    let start = Instant::now();
    let mut at = |s: u64, sent: u64, to_send| {
        let progress = Progress { directories: 1, files: 1, sent, to_send };
        let notice = Notice::Progress { mirror: name(), progress };
        said(&mut words, notice, start + Duration::from_secs(s))
    };
    assert!(at(0, 0, None).is_empty());
    assert!(at(9, 500_000, None).is_empty());
    assert_eq!(
        at(10, 10_000_000, None),
        ["mirroring: 1 file in 1 directory compared, 10 MB sent, 1.0 MB/s"]
    );
    assert!(at(11, 10_000_000, None).is_empty());
    assert_eq!(
        at(20, 10_000_000, Some(20_000_000)),
        ["mirroring: 1 file in 1 directory compared, 10 MB of 20 MB sent, 0 B/s"]
    );
    let mut with_bar = Words::new(Style { progress: true, ..Style::default() });
    for s in [0, 60] {
        let progress = Notice::Progress { mirror: name(), progress: Progress::default() };
        assert!(said(&mut with_bar, progress, start + Duration::from_secs(s)).is_empty());
    }
}

#[test]
fn numbers_are_short() {
    for (n, text) in [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (7_800_000, "7.8 MB"),
        (u64::MAX, "18447 PB"),
    ] {
        assert_eq!(bytes(n), text, "{n}");
    }
    for (ms, text) in [
        (0, "0.0 s"),
        (940, "0.9 s"),
        (9_949, "9.9 s"),
        (9_960, "10 s"),
        (119_400, "119 s"),
        (125_000, "2 min 5 s"),
    ] {
        assert_eq!(seconds(Duration::from_millis(ms)), text, "{ms}");
    }
}
