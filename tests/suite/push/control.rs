//! What a running lsyncd is asked: status, flush, pause and resume, by the real program over the
//! real socket.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::super::tree::{append, chmod, equal_within, noise, plant};
use super::{Ended, PATIENCE, Push, Stage, WAYS, Way, is_root, wait_until, with_less};

/// A command that asks.
fn ask(stage: &Stage, words: &[&str]) -> Ended {
    let mut command = stage.lsyncd();
    command.args(words);
    Push::start(command).end()
}

/// The first mirror of the first process.
#[track_caller]
fn status(stage: &Stage) -> Value {
    let ended = ask(stage, &["status", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.lines[0]["processes"][0]["mirrors"][0].clone()
}

#[track_caller]
fn fine(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""));
}

/// The sockets of this stage's user.
fn sockets(stage: &Stage) -> Vec<PathBuf> {
    let names =
        fs::read_dir(stage.control()).into_iter().flatten().flatten().map(|name| name.path());
    names.filter(|path| path.extension().is_some_and(|ending| ending == "sock")).collect()
}

/// Right now, without waiting for it.
#[track_caller]
fn is_equal(stage: &Stage, when: &str) {
    if let Err(text) = equal_within(&stage.source(), &stage.target(), std::time::Duration::ZERO) {
        panic!("{when}: source and target differ:\n{text}");
    }
}

#[test]
fn status_finds_what_runs_and_says_how_it_stands() {
    for way in WAYS {
        let stage = Stage::new(way);
        plant(&stage.source());
        let push = stage.live(&["--name", "web"]);
        let [socket] = &sockets(&stage)[..] else { panic!("{:?}", sockets(&stage)) };
        assert_eq!(socket.metadata().unwrap().mode() & 0o777, 0o600);
        let dir = socket.parent().unwrap().metadata().unwrap();
        assert_eq!(dir.mode() & 0o777, 0o700);
        fine(&ask(&stage, &["flush"]));
        let web = status(&stage);
        assert_eq!((&web["name"], &web["state"]), (&json!("web"), &json!("live")));
        assert_eq!(web["source"], json!(stage.source()));
        assert_eq!(web["target"], json!(stage.on_the_way(&stage.target())));
        assert_eq!((&web["dirty"], &web["problem_count"]), (&json!(0), &json!(0)));
        assert_eq!((&web["lag_seconds"], &web["in_flight_bytes"]), (&json!(0.0), &json!(0)));
        assert_eq!(web["watch"]["backend"], "inotify");
        let (watches, limit) = (&web["watch"]["watches"], &web["watch"]["limit"]);
        let headroom = limit.as_u64().unwrap() - watches.as_u64().unwrap();
        assert_eq!(web["watch"]["headroom"], json!(headroom));
        assert!(web["totals"]["files"].as_u64() > Some(5), "{web}");
        assert!(web["sent_bytes"].as_u64() > Some(100_000), "{web}");
        let table = ask(&stage, &["status"]);
        let mut lines = table.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = ["NAME", "STATE", "LAG", "QUEUE", "RATE", "PROBLEMS"];
        assert_eq!(lines.next().unwrap(), head);
        assert_eq!(lines.next().unwrap()[..2], ["web", "live"]);
        push.terminate();
        assert_eq!(sockets(&stage), Vec::<PathBuf>::new());
        let nobody = ask(&stage, &["status"]);
        assert_eq!(nobody.code, Some(255), "{nobody:?}");
        assert!(nobody.err.starts_with("lsyncd: no lsyncd of yours runs here\nhint: "));
    }
}

#[test]
fn when_flush_ends_all_that_was_there_has_arrived() {
    for (way, words) in [
        (Way::Local, &["--delay", "3600"][..]),
        (Way::Ssh, &["--delay", "3600"]),
        (Way::Ssh, &[]),
        (Way::Local, &["--delay", "3600", "--watch", "notify"]),
        (Way::Local, &["--watch", "poll"]),
    ] {
        let stage = Stage::new(way);
        plant(&stage.source());
        let push = stage.live(words);
        for round in 0..6u8 {
            let name = |what: &str| stage.s(format!("{what} {round}"));
            fs::write(name("new"), noise(u64::from(round), 3000)).unwrap();
            fs::create_dir_all(name("tree").join("a/b/c")).unwrap();
            fs::write(name("tree").join("a/b/c/leaf"), [round]).unwrap();
            fs::write(name("large"), noise(u64::from(round) + 90, 2_000_000)).unwrap();
            append(&stage.s("small"), &[round]);
            if round > 1 {
                let before = |what: &str| stage.s(format!("{what} {}", round - 2));
                fs::rename(before("tree"), name("moved")).unwrap();
                fs::remove_file(before("large")).unwrap();
                chmod(&before("new"), 0o600 + u32::from(round));
            }
            fine(&ask(&stage, &["flush", "--timeout", "60"]));
            is_equal(&stage, &format!("{way:?} {words:?} round {round}"));
        }
        push.terminate();
    }
}

#[test]
fn what_holds_a_flush_up_is_said() {
    let mut stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let push = stage.live(&["--name", "web"]);
    // Something that cannot be mirrored, and something else beside it.
    fs::create_dir(stage.s("in the way")).unwrap();
    fine(&ask(&stage, &["flush"]));
    let long = "n".repeat(255);
    fs::write(stage.s("in the way").join(&long), "x").unwrap();
    fine(&ask(&stage, &["flush"]));

    fine(&ask(&stage, &["pause"]));
    let paused = ask(&stage, &["flush"]);
    assert_eq!(paused.code, Some(25), "{paused:?}");
    assert_eq!(paused.err, "lsyncd: web is paused\nhint: lsyncd resume has it go on\n");
    assert_eq!(status(&stage)["state"], "paused");
    fine(&ask(&stage, &["resume"]));
    let again = ask(&stage, &["resume"]);
    assert_eq!((again.code, again.out.as_str()), (Some(0), "web was not paused\n"));

    // The host is away.
    stage.world_mut().stop();
    push.wait_event("lost");
    fs::write(stage.s("small"), "while it is away").unwrap();
    let late = ask(&stage, &["flush", "--timeout", "0.3"]);
    assert_eq!(late.code, Some(25), "{late:?}");
    assert!(late.err.starts_with("lsyncd: web is not mirrored yet: connecting: "), "{late:?}");
    let away = status(&stage);
    assert_eq!(away["state"], "connecting");
    assert!(away["lag_seconds"].as_f64() > Some(0.2), "{away}");
    stage.world_mut().restart();
    fine(&ask(&stage, &["flush", "--timeout", "60"]));
    is_equal(&stage, "the host is back");
    push.terminate();
}

/// The far end takes nothing any more: all that can be on the way is on the way.
#[test]
fn a_full_link_holds_no_answer_up() {
    let stage = Stage::new(Way::Ssh);
    plant(&stage.source());
    let push = stage.live(&["--name", "web"]);
    stage.world().signal_sessions(Signal::STOP);
    for i in 0..8 {
        fs::write(stage.s(format!("large {i}")), noise(i, 8 << 20)).unwrap();
    }
    for i in 0..3000 {
        fs::write(stage.s(format!("dir/{i}")), noise(i, 2000)).unwrap();
    }
    // What is sent does not grow any more: a socket's buffers, ssh's window and the credits are full.
    let mut sent = Value::Null;
    wait_until("nothing goes over any more", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let before = std::mem::replace(&mut sent, status(&stage)["sent_bytes"].take());
        sent.as_u64() > Some(1 << 20) && sent == before
    });
    assert!(status(&stage)["dirty"].as_u64() > Some(1000), "{}", status(&stage));
    let late = ask(&stage, &["flush", "--timeout", "0.2"]);
    assert_eq!(late.code, Some(25), "{late:?}");
    fine(&ask(&stage, &["pause"]));
    fine(&ask(&stage, &["resume"]));
    assert!(push.events("lost").is_empty(), "{}", push.said());
    stage.world().signal_sessions(Signal::CONT);
    fine(&ask(&stage, &["flush", "--timeout", "60"]));
    is_equal(&stage, "the link goes on");
    push.terminate();
}

#[test]
fn a_flush_tells_what_could_not_be_mirrored() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    fs::write(stage.s("stuck"), "some").unwrap();
    let push = stage.live(&["--name", "web"]);
    // Nobody can write there, whoever asks.
    let chattr = |how: &str| {
        let done = std::process::Command::new("chattr").arg(how).arg(stage.t("stuck")).status();
        done.unwrap().success()
    };
    if !chattr("+i") {
        // Not on every file system; the table of the mirror has the same.
        return;
    }
    fs::write(stage.s("stuck"), "other").unwrap();
    fs::write(stage.s("beside"), "it").unwrap();
    let flushed = ask(&stage, &["flush"]);
    assert_eq!(flushed.code, Some(23), "{flushed:?}");
    assert!(flushed.err.starts_with("lsyncd: web: stuck: "), "{flushed:?}");
    assert_eq!(flushed.err.lines().count(), 1);
    assert_eq!(fs::read(stage.t("beside")).unwrap(), b"it");
    let web = status(&stage);
    assert_eq!((&web["problem_count"], &web["problems"][0]["path"]), (&json!(1), &json!("stuck")));
    assert!(web["problems"][0]["tries"].as_u64() >= Some(1), "{web}");
    assert!(ask(&stage, &["status"]).out.contains("problem: stuck: "));
    assert!(chattr("-i"));
    fine(&ask(&stage, &["flush"]));
    is_equal(&stage, "it may be written again");
    push.terminate();
}

#[test]
fn nothing_arrives_while_paused_and_everything_after() {
    for words in [&[][..], &["--rsync"]] {
        let stage = Stage::new(Way::Local);
        plant(&stage.source());
        let push = stage.live(&[&["--name", "web"], words].concat());
        fine(&ask(&stage, &["pause", "web"]));
        push.wait_event("paused");
        fs::write(stage.s("later"), "x").unwrap();
        fs::remove_file(stage.s("small")).unwrap();
        wait_until("the changes are heard of", || status(&stage)["dirty"].as_u64() > Some(0));
        let web = status(&stage);
        assert_eq!((&web["state"], &web["in_flight"]), (&json!("paused"), &json!(0)));
        assert!(!stage.t("later").exists() && stage.t("small").exists());
        let source = stage.source();
        fine(&ask(&stage, &["resume", source.to_str().unwrap()]));
        push.wait_event("resumed");
        fine(&ask(&stage, &["flush"]));
        assert!(stage.t("later").exists() && !stage.t("small").exists());
        // rsync leaves times of directories alone that nobody named.
        if words.is_empty() {
            is_equal(&stage, "resumed");
        }
        push.terminate();
    }
}

#[test]
fn deletes_that_a_guard_stopped_happen_when_they_are_confirmed() {
    for words in [&[][..], &["--rsync"]] {
        let stage = Stage::new(Way::Local);
        for name in 0..9 {
            fs::write(stage.s(name.to_string()), "x").unwrap();
        }
        let push = stage.live(&[&["--max-delete", "3", "--name", "web"], words].concat());
        for name in 0..5 {
            fs::remove_file(stage.s(name.to_string())).unwrap();
        }
        let halted = push.wait_event("halted");
        assert!(halted["hint"].as_str().unwrap().contains("lsyncd resume --confirm"), "{halted}");
        assert_eq!(status(&stage)["state"], "halted");
        for (words, code) in [(&["flush"][..], 25), (&["resume"], 25)] {
            let refused = ask(&stage, words);
            assert_eq!(refused.code, Some(code), "{refused:?}");
            assert!(refused.err.contains("names to delete") || refused.err.contains("deletes"));
            assert!(
                refused.err.contains("hint: if the deletes are meant, lsyncd resume --confirm")
            );
        }
        fine(&ask(&stage, &["resume", "--confirm", "web"]));
        push.wait_event("resumed");
        fine(&ask(&stage, &["flush"]));
        assert_eq!(fs::read_dir(stage.target()).unwrap().count(), 4);
        // The next are judged again.
        for name in 5..9 {
            fs::remove_file(stage.s(name.to_string())).unwrap();
        }
        push.wait_events("halted", 2);
        assert!(stage.t("8").exists());
        push.terminate();
    }
}

#[test]
fn processes_that_start_at_once_keep_their_sockets() {
    let stage = Stage::new(Way::Local);
    // Each sweeps away what nobody listens at: not those that are about to.
    let names: Vec<String> = (0..24).map(|n| format!("m{n:02}")).collect();
    let start = |name: &String| {
        let source = stage.path(format!("source-{name}"));
        fs::create_dir(&source).unwrap();
        let mut one = stage.lsyncd();
        one.args(["push", "--json", "--name", name]).arg(source);
        one.arg(stage.path(format!("target-{name}")));
        Push::start(one)
    };
    let all: Vec<Push> = names.iter().map(start).collect();
    for one in &all {
        one.wait_event("ready");
    }
    let ended = ask(&stage, &["status", "--json"]);
    let processes = ended.lines[0]["processes"].as_array().unwrap().clone();
    let mirrors = processes.iter().flat_map(|one| one["mirrors"].as_array().unwrap().clone());
    let mut there: Vec<String> =
        mirrors.map(|mirror| mirror["name"].as_str().unwrap().to_owned()).collect();
    there.sort();
    assert_eq!(there, names);
}

#[test]
fn of_several_mirrors_those_are_meant_that_are_named() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let other = stage.path("other");
    fs::create_dir(&other).unwrap();
    let mut two = stage.lsyncd();
    two.args(["push", "--json", "--name", "a", "--name", "b"]).arg(stage.source());
    two.args([stage.target(), stage.path("second")]);
    let two = Push::start(two);
    let mut third = stage.lsyncd();
    third.args(["push", "--json", "--name", "c"]).arg(&other).arg(stage.path("third"));
    let third = Push::start(third);
    two.wait_events("ready", 2);
    third.wait_event("ready");

    let states = || -> Vec<(String, String)> {
        let ended = ask(&stage, &["status", "--json"]);
        let processes = ended.lines[0]["processes"].as_array().unwrap().clone();
        let mirrors = processes.iter().flat_map(|one| one["mirrors"].as_array().unwrap().clone());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut all: Vec<_> = mirrors.map(|m| (text(&m["name"]), text(&m["state"]))).collect();
        all.sort();
        all
    };
    let of = |a: &str, b: &str, c: &str| {
        [("a", a), ("b", b), ("c", c)].map(|(name, state)| (name.to_owned(), state.to_owned()))
    };
    assert_eq!(states(), of("live", "live", "live"));
    let which = ask(&stage, &["pause"]);
    assert_eq!(which.code, Some(2), "{which:?}");
    assert!(which.err.starts_with("lsyncd: 3 mirrors run: say which\nhint: "), "{which:?}");
    let nobody = ask(&stage, &["pause", "d"]);
    assert_eq!(nobody.code, Some(2), "{nobody:?}");
    assert!(nobody.err.starts_with("lsyncd: no mirror is called d, "), "{nobody:?}");
    fine(&ask(&stage, &["pause", "c"]));
    assert_eq!(states(), of("live", "live", "paused"));
    fine(&ask(&stage, &["pause", stage.source().to_str().unwrap()]));
    assert_eq!(states(), of("paused", "paused", "paused"));
    fine(&ask(&stage, &["resume", "b"]));
    assert_eq!(states(), of("paused", "live", "paused"));
    assert_eq!(ask(&stage, &["flush", "--all"]).code, Some(25));
    let resumed = ask(&stage, &["resume", "--all"]);
    assert_eq!((resumed.code, resumed.out.as_str()), (Some(0), "b was not paused\n"));
    fine(&ask(&stage, &["flush", "--all"]));
    let one = ask(&stage, &["status", "c"]);
    assert_eq!(one.out.lines().filter(|line| line.contains(" live ")).count(), 1, "{one:?}");
    two.terminate();
    third.terminate();
}

#[test]
fn a_socket_that_is_named_is_used_and_no_other() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let named = stage.path("named.sock");
    let control = ["--control", named.to_str().unwrap()];
    // Left behind by one that was killed.
    let killed = stage.live(&control);
    killed.stop(Signal::KILL);
    assert!(named.exists());
    let push = stage.live(&control);
    assert_eq!(sockets(&stage), Vec::<PathBuf>::new());
    assert_eq!(ask(&stage, &["status"]).code, Some(255));
    fine(&ask(&stage, &[&["flush"], &control[..]].concat()));
    let second = Push::start({
        let mut second = stage.lsyncd();
        second.arg("push").args(control).arg(stage.source()).arg(stage.path("second"));
        second
    })
    .end();
    assert_eq!(second.code, Some(255), "{second:?}");
    assert!(second.err.contains("another lsyncd answers at the control socket"), "{second:?}");
    push.terminate();
    assert!(!named.exists());
    fs::write(&named, "not a socket").unwrap();
    let refused = stage.once(&control);
    assert_eq!(refused.code, Some(255), "{refused:?}");
    assert!(refused.err.contains("it is there and no socket"), "{refused:?}");
    assert_eq!(fs::read(&named).unwrap(), b"not a socket");
}

#[test]
fn what_a_dead_one_left_is_swept_and_disturbs_nobody() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let killed = stage.live(&["--name", "dead"]);
    killed.stop(Signal::KILL);
    assert_eq!(sockets(&stage).len(), 1);
    assert_eq!(ask(&stage, &["status"]).code, Some(255));
    let push = stage.live(&["--name", "alive"]);
    assert_eq!(status(&stage)["name"], "alive");
    assert_eq!(sockets(&stage).len(), 1);
    push.terminate();
}

#[test]
fn whatever_is_said_to_the_socket_the_mirror_goes_on() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let mut push = stage.live(&[]);
    let socket = sockets(&stage).remove(0);
    let say = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for bytes in [
        &b"\n"[..],
        b"{}\n",
        b"[[[[[[[[[[\n",
        b"\xff\xfe\x00\n",
        b"{\"request\":\"flush\",\"mirrors\":[\"no\xc3\xb6ne\"],\"timeout_seconds\":null}\n",
        b"{\"request\":\"flush\",\"mirrors\":[],\"timeout_seconds\":1e999}\n",
        b"{\"request\":\"of a later version\"}\n",
    ] {
        let answer = say(bytes);
        let shown = String::from_utf8_lossy(bytes);
        assert!(answer.starts_with("{\"error\":") && answer.ends_with('\n'), "{shown}: {answer}");
    }
    // More than anybody asks; then half a question; then nothing.
    say(&vec![b'x'; 1 << 20]);
    say(b"{\"request\":");
    say(b"");
    // Requests one after the other on one connection, and many connections at a time.
    let two = say(b"{\"request\":\"status\"}\n{\"request\":\"status\"}\n");
    assert_eq!(two.lines().filter(|line| line.starts_with("{\"status\":")).count(), 2, "{two}");
    let silent: Vec<UnixStream> =
        (0..200).map_while(|_| UnixStream::connect(&socket).ok()).collect();
    assert!(silent.len() > 32);
    fs::write(stage.s("small"), "goes on").unwrap();
    stage.settles();
    drop(silent);
    fine(&ask(&stage, &["flush"]));
    // Whoever asked for a flush and left is forgotten.
    fine(&ask(&stage, &["pause"]));
    fine(&ask(&stage, &["resume"]));
    assert!(push.is_running());
    push.terminate();
}

#[test]
fn another_user_is_not_answered() {
    if !is_root() {
        return;
    }
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let named = stage.path("named.sock");
    let push = stage.live(&["--control", named.to_str().unwrap()]);
    // Even where the file would let them.
    fs::set_permissions(&named, PermissionsExt::from_mode(0o777)).unwrap();
    fs::set_permissions(stage.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = stage.lsyncd();
    command.args(["status", "--control", named.to_str().unwrap()]).current_dir("/");
    let rights = ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    let refused = Push::start(with_less(&rights, &command)).end();
    assert_eq!(refused.code, Some(255), "{refused:?}");
    assert!(refused.err.contains("only the user whose lsyncd it is, and root"), "{refused:?}");
    push.terminate();
}
