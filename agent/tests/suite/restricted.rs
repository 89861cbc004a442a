//! The agent as a key's command has it: `--root DIR` and what else is fixed there. The source is
//! played by hand and asks for more than it may have.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lsync_protocol::entry::Kind;
use lsync_protocol::handshake::{Create, Fixed, Hello, Identity, Refusal, Trash, greet};
use lsync_protocol::message::{Message, Op, Outcome};

use super::peer::{Peer, World, meta, path, remove, until};
use super::process::{AGENT, greet_process, start};

/// What the agent's program would find is fixed for it, from where the world is.
fn restricted(world: &World, args: &[&str]) -> Child {
    let mut command = Command::new(AGENT);
    command.args(args);
    start(world, command)
}

/// A source that asks for another root.
fn greedy(world: &World) -> Hello {
    let outside = world.dir.path().join("outside");
    Hello { root: outside.into_os_string().into_encoded_bytes(), ..world.hello() }
}

fn with_outside() -> World {
    let world = World::new();
    for dir in ["outside", "home"] {
        fs::create_dir(world.dir.path().join(dir)).unwrap();
    }
    fs::write(world.dir.path().join("outside/theirs"), b"untouched").unwrap();
    world
}

fn outside_is_untouched(world: &World) {
    let names: Vec<_> = fs::read_dir(world.dir.path().join("outside")).unwrap().flatten().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(fs::read(names[0].path()).unwrap(), b"untouched");
}

fn end(peer: Peer, child: Child) -> String {
    drop(peer);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stderr).unwrap()
}

fn rename(from: &str, to: &str, kind: Kind) -> Op {
    Op::Rename { from: path(from), to: path(to), kind, size: None, mtime: None }
}

#[test]
fn the_root_asked_for_counts_for_nothing() {
    let world = with_outside();
    let absolute = world.at("").into_os_string().into_string().unwrap();
    for (args, asked) in [
        (vec!["--root", "root"], &b"/"[..]),
        (vec!["--root=root"], b"../../etc"),
        (vec!["--root", absolute.trim_end_matches('/')], b"~/.ssh"),
        (vec!["--root", "root"], b"outside\0x"),
    ] {
        let mut child = restricted(&world, &args);
        let hello = Hello { root: asked.to_vec(), create: Create::Path, ..world.hello() };
        let mut peer = greet_process(&mut child, &hello).unwrap();
        let here = peer.welcome.root.clone().unwrap();
        assert!(!here.created);
        let real = fs::metadata(world.at("")).unwrap();
        assert_eq!(here.identity, Identity { dev: real.dev(), ino: real.ino() });
        assert_eq!(here.path, absolute.trim_end_matches('/').as_bytes());
        let fixed = peer.welcome.fixed.clone().unwrap();
        assert_eq!(fixed, Fixed { confined: fixed.confined, ..Fixed::default() });
        assert_eq!(peer.file("f", b"x", meta(0o644, 1)), None);
        assert_eq!(peer.op(remove("f", Kind::File)), None);
        assert_eq!(end(peer, child), "");
    }
    let mut child = restricted(&world, &["--root", "root"]);
    let mut peer = greet_process(&mut child, &greedy(&world)).unwrap();
    assert_eq!(peer.list_names(), Vec::<String>::new());
    assert_eq!(end(peer, child), "");
    outside_is_untouched(&world);
    assert!(!world.dir.path().join("home/.ssh").exists());
}

#[test]
fn a_path_that_leads_out_ends_the_link_or_is_refused() {
    let world = with_outside();
    symlink("../outside", world.at("out")).unwrap();
    let mut child = restricted(&world, &["--root", "root"]);
    let mut peer = greet_process(&mut child, &greedy(&world)).unwrap();
    assert_eq!(peer.file("out/theirs", b"x", meta(0o644, 1)), Some(Outcome::NoParent));
    assert_eq!(peer.op(remove("out/theirs", Kind::File)), Some(Outcome::Missing));
    assert_eq!(peer.op(rename("out/theirs", "mine", Kind::File)), Some(Outcome::Refused));
    // `..` is no path of the wire: these are the bytes of a removal of `../outside/theirs`.
    let op =
        Message::Ops { first: 900, hash: None, ops: vec![remove("aa/outside/theirs", Kind::File)] };
    let mut bytes = Vec::new();
    lsync_protocol::frame::encode(&op, 0, &mut bytes);
    let at = bytes.windows(3).position(|three| three == b"aa/").unwrap();
    bytes[at..at + 2].copy_from_slice(b"..");
    peer.stream.write_all(&bytes).unwrap();
    while peer.try_receive().is_ok() {}
    drop(peer);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    outside_is_untouched(&world);
}

#[test]
fn a_link_put_where_the_root_was_changes_nothing() {
    let world = with_outside();
    let mut child = restricted(&world, &["--root", "root"]);
    // Nothing was said to it yet, but it is there: only the name of what is open changes.
    let open = |child: &Child| {
        let fds = fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten().flatten();
        let root = world.at("").canonicalize().unwrap();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|path| path == root)
    };
    until("the root is open", || open(&child));
    let real = world.dir.path().join("real");
    fs::rename(world.at("").canonicalize().unwrap(), &real).unwrap();
    symlink("outside", world.dir.path().join("root")).unwrap();
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    assert_eq!(peer.file("f", b"x", meta(0o644, 1)), None);
    assert_eq!(peer.op(remove("theirs", Kind::File)), Some(Outcome::Missing));
    assert_eq!(fs::read(real.join("f")).unwrap(), b"x");
    assert_eq!(end(peer, child), "");
    outside_is_untouched(&world);
}

#[test]
fn no_name_goes_with_no_delete() {
    let world = with_outside();
    for name in ["old", "other", "linked"] {
        fs::write(world.at(name), name).unwrap();
    }
    fs::hard_link(world.at("linked"), world.at("twin")).unwrap();
    for dir in ["empty", "vacant"] {
        fs::create_dir(world.at(dir)).unwrap();
    }
    let mut child = restricted(&world, &["--root=root", "--no-delete"]);
    let mut peer = greet_process(&mut child, &world.hello()).unwrap();
    assert!(peer.welcome.fixed.as_ref().unwrap().no_delete);
    let forbidden = Some(Outcome::Forbidden);
    let refused = Some(Outcome::Refused);
    assert_eq!(peer.op(remove("old", Kind::File)), forbidden);
    assert_eq!(peer.op(remove("empty", Kind::Dir)), forbidden);
    assert_eq!(peer.op(remove("missing", Kind::File)), forbidden);
    assert_eq!(peer.op(rename("old", "other", Kind::File)), refused);
    assert_eq!(peer.op(rename("linked", "twin", Kind::File)), refused);
    assert_eq!(peer.op(rename("empty", "vacant", Kind::Dir)), refused);
    assert_eq!(fs::read(world.at("other")).unwrap(), b"other");
    // What is overwritten is overwritten, and a name that is free may be taken.
    assert_eq!(peer.file("other", b"new", meta(0o644, 1)), None);
    assert_eq!(peer.op(rename("old", "older", Kind::File)), None);
    // As an editor saves: that name came on this link.
    assert_eq!(peer.file(".older.tmp", b"saved", meta(0o644, 1)), None);
    assert_eq!(peer.op(rename(".older.tmp", ".o", Kind::File)), None);
    assert_eq!(peer.op(rename(".o", "older", Kind::File)), None);
    assert_eq!(fs::read(world.at("older")).unwrap(), b"saved");
    // What it renamed over is no younger for that, nor is a second name of something young.
    assert_eq!(peer.op(rename("older", "other", Kind::File)), refused);
    assert_eq!(peer.file("young", b"y", meta(0o644, 1)), None);
    let link = Op::Link { path: path("other"), from: path("young"), size: 1, mtime: None };
    assert_eq!(peer.op(link), None);
    assert_eq!(peer.op(rename("other", "older", Kind::File)), refused);
    // A young name of a directory that others were put in is an old one.
    let make = |at: &str| Op::MakeDir { path: path(at), meta: meta(0o755, 1) };
    assert_eq!(peer.ops(vec![(make("d"), b"".as_slice()), (make("e"), b"")]), [None, None]);
    fs::write(world.at("e/x"), b"theirs").unwrap();
    assert_eq!(peer.file("d/x", b"x", meta(0o644, 1)), None);
    assert_eq!(peer.op(rename("d", "gone", Kind::Dir)), None);
    assert_eq!(peer.op(rename("e", "d", Kind::Dir)), None);
    assert_eq!(peer.op(rename("d/x", "older", Kind::File)), refused);
    // A change of kind leaves the name.
    let file = Op::File { path: path("empty"), size: 1, meta: meta(0o644, 1) };
    let replace = Op::Replace { old: Kind::Dir, new: Box::new(file) };
    assert_eq!(peer.ops(vec![(replace, b"z".as_slice())]), [None]);
    let names = peer.list_names();
    assert_eq!(
        names,
        ["d", "empty", "gone", "linked", "older", "other", "twin", "vacant", "young"]
    );
    assert_eq!(end(peer, child), "");
}

/// A temporary name of the mirror is removed by the next listing, unasked: nothing may get one.
#[test]
fn nothing_goes_by_way_of_a_temporary_name() {
    for args in [&["--root=root", "--no-delete"][..], &["--root=root", "--trash=.kept"]] {
        let world = with_outside();
        fs::write(world.at("f"), b"theirs").unwrap();
        fs::create_dir(world.at("d")).unwrap();
        fs::write(world.at("d/g"), b"theirs").unwrap();
        let mut child = restricted(&world, args);
        let mut peer = greet_process(&mut child, &world.hello()).unwrap();
        // The mirror of `hello` is 7, 7, 7, 7.
        let temporary = ".lsync-07070707-00000001";
        let file = |at: &str| Op::File { path: path(at), size: 0, meta: meta(0o644, 1) };
        let link = Op::Link { path: path("l"), from: path(temporary), size: 0, mtime: None };
        let replaced = Op::Replace { old: Kind::File, new: Box::new(file(temporary)) };
        for op in [
            rename("f", temporary, Kind::File),
            rename("d", temporary, Kind::Dir),
            rename(temporary, "f", Kind::File),
            remove(temporary, Kind::File),
            file(temporary),
            file(&format!("{temporary}/f")),
            file(&format!("d/{temporary}")),
            link,
            replaced,
        ] {
            let outcome = peer.op(op.clone());
            let refused =
                matches!(&outcome, Some(Outcome::Problem(why)) if why.text.contains("temporary"));
            assert!(refused || outcome == Some(Outcome::Forbidden), "{op:?}: {outcome:?}");
        }
        assert_eq!(peer.list_names(), ["d", "f"]);
        assert_eq!(fs::read(world.at("f")).unwrap(), b"theirs");
        assert_eq!(fs::read(world.at("d/g")).unwrap(), b"theirs");
        // Only nearly one.
        assert_eq!(peer.file(".lsync-07070707-0000000", b"x", meta(0o644, 1)), None);
        assert_eq!(end(peer, child), "");
    }
}

#[test]
fn nothing_is_written_with_read_only() {
    let world = with_outside();
    fs::write(world.at("f"), b"x").unwrap();
    let before = fs::metadata(world.at("")).unwrap();
    let mut child = restricted(&world, &["--root", "root", "--read-only"]);
    let mut pipes = greet_process(&mut child, &world.hello());
    let absolute = world.at("").into_os_string().into_encoded_bytes();
    let root = absolute.strip_suffix(b"/").unwrap().to_vec();
    assert_eq!(pipes.as_mut().err().unwrap(), &Refusal::ReadOnly(root));
    assert_eq!(child.wait().unwrap().code(), Some(255));
    let mut child = restricted(&world, &["--root", "root", "--read-only"]);
    let hello = Hello { create: Create::Nothing, ..world.hello() };
    let mut peer = greet_process(&mut child, &hello).unwrap();
    assert!(peer.welcome.fixed.as_ref().unwrap().read_only);
    let forbidden = Some(Outcome::Forbidden);
    assert_eq!(peer.file("g", b"x", meta(0o644, 1)), forbidden);
    assert_eq!(peer.op(remove("f", Kind::File)), forbidden);
    assert_eq!(peer.op(rename("f", "g", Kind::File)), forbidden);
    peer.send(&Message::Open { stage: 1, hint: path(""), size: 4 }, b"");
    peer.send(&Message::Data { stage: 1, offset: 0 }, b"half");
    assert_eq!(peer.list_names(), ["f"]);
    assert_eq!(end(peer, child), "");
    assert!(world.stages().is_empty());
    let after = fs::metadata(world.at("")).unwrap();
    assert_eq!((before.mtime(), before.mtime_nsec()), (after.mtime(), after.mtime_nsec()));
    assert_eq!(fs::read_dir(world.dir.path().join("home")).unwrap().count(), 0, "no cache");
}

#[test]
fn a_fixed_trash_keeps_what_a_source_removes() {
    let world = with_outside();
    fs::write(world.at("f"), b"kept").unwrap();
    let mut child = restricted(&world, &["--root", "root", "--trash", ".kept"]);
    // A source may neither choose another one, nor how long it is kept.
    let trash = Trash { dir: path("elsewhere"), age: Some(0) };
    let hello = Hello { trash: Some(trash), ..world.hello() };
    let mut peer = greet_process(&mut child, &hello).unwrap();
    assert_eq!(peer.welcome.fixed.as_ref().unwrap().trash, Some(path(".kept")));
    assert_eq!(peer.op(remove("f", Kind::File)), None);
    assert!(matches!(peer.op(remove(".kept", Kind::Dir)), Some(Outcome::Problem(_))));
    assert_eq!(peer.list_names(), Vec::<String>::new());
    assert_eq!(end(peer, child), "");
    let hours: Vec<_> = fs::read_dir(world.at(".kept")).unwrap().flatten().collect();
    let kept = hours.iter().map(|hour| hour.path().join("f")).find(|kept| kept.exists());
    assert_eq!(fs::read(kept.unwrap()).unwrap(), b"kept");
    assert!(!world.at("elsewhere").exists());
}

#[test]
fn who_is_no_source_hears_what_the_key_is_for() {
    let world = with_outside();
    for said in ["ls -la\n", "", "\0\0\0\u{5}\u{1}"] {
        let mut command = Command::new(AGENT);
        command.args(["--root", "root"]).env("SSH_ORIGINAL_COMMAND", "rm -rf outside root");
        let mut child = start(&world, command);
        child.stdin.take().unwrap().write_all(said.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(255));
        assert_eq!(output.stdout, b"");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "lsync-agent: this key is for a mirror by lsyncd, and for nothing else\n"
        );
    }
    assert!(world.at("").exists());
    outside_is_untouched(&world);
}

#[test]
fn the_lines_of_a_start_are_answered_by_the_agent_itself() {
    let world = with_outside();
    let mut child = restricted(&world, &["--root", "root"]);
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    input.write_all(b"lsyncd-00c0ffee00c0ffee\n").unwrap();
    let want = concat!("lsyncd-00c0ffee00c0ffee run fixed ", env!("CARGO_PKG_VERSION"), "\n");
    let mut line = vec![0; want.len()];
    output.read_exact(&mut line).unwrap();
    assert_eq!(String::from_utf8(line).unwrap(), want);
    input.write_all(b"lsync-agent-1-abc\n").unwrap();
    input.write_all(&greet(&world.hello())).unwrap();
    let answer = super::peer::read_answer(&mut output);
    assert!(matches!(answer, lsync_protocol::handshake::Answer::Welcome(_)), "{answer:?}");
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_root_that_is_not_there_or_holds_the_home_is_no_root() {
    let world = with_outside();
    let run = |args: &[&str], home: &Path| {
        let output = Command::new(AGENT)
            .args(args)
            .current_dir(world.dir.path())
            .env("HOME", home)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(255));
        String::from_utf8(output.stderr).unwrap()
    };
    let (dir, home) = (world.dir.path().display(), world.dir.path().join("home"));
    let text = run(&["--root", "nowhere"], &home);
    assert_eq!(
        text,
        format!("lsync-agent: cannot serve {dir}/nowhere: no such file or directory\n")
    );
    assert!(!world.dir.path().join("nowhere").exists());
    let text = run(&["--root", "~/.."], &home);
    assert!(text.starts_with(&format!("lsync-agent: refused to serve {dir}/home/..: ")), "{text}");
    assert!(text.contains("home is in it"), "{text}");
    let text = run(&["--root", "root", "--no-delete"], &world.at(""));
    assert!(text.contains("home is in it"), "{text}");
    let text = run(&["--root", "/"], &home);
    assert_eq!(text, "lsync-agent: refused to serve /: name a directory below it\n");
}
