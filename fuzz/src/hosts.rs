//! What hosts and the files about them say: ssh's configuration, known keys, a login shell's answers;
//! and the line for `authorized_keys`.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use lsyncd::cli::{self, Invocation, World};
use lsyncd::config::SshOptions;
use lsyncd::deploy::{binary::Kind, marker};
use lsyncd::link::ssh::host::Host;
use lsyncd::link::ssh::known_hosts::{KnownHosts, Verdict, learn, name_of};
use lsyncd::link::ssh::{config, pattern, words};
use tempfile::NamedTempFile;

use crate::{Taken, assert_shown};

/// A file whose name ends so, with this content, for as long as it is held.
pub(crate) fn file(suffix: &str, content: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::with_suffix(suffix).expect("a temporary file");
    std::fs::write(file.path(), content).expect("its content");
    file
}

/// `~/.ssh/config`, which may include itself, and its words.
pub fn ssh_config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        if let Ok(words) = words::split(line) {
            assert!(words.iter().map(String::len).sum::<usize>() <= line.len());
        }
        assert!(line.ends_with(words::rest(line)) || line.contains(words::rest(line)));
    }
    let mut lines = text.lines();
    let (a, b) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if a.len() < 12 && b.len() < 12 {
        assert_eq!(pattern::matches(a, b), slowly(a.as_bytes(), b.as_bytes()), "{a:?} {b:?}");
    }
    let asked = config::Asked {
        host: "web.example.org".into(),
        local_user: "me".into(),
        ..config::Asked::default()
    };
    let mut parser = config::Parser::new(&asked);
    let read = Cell::new(0);
    let again = |_: &str| {
        read.set(read.get() + 1);
        assert!(read.get() < 100_000, "files include each other for ever");
        Ok(vec![("again".into(), text.to_string())])
    };
    let _ = parser.read(Path::new("config"), &text, &again).map_err(|error| error.to_string());
    let options = SshOptions { home: Some("/home/me".into()), ..SshOptions::default() };
    if let Ok(host) = Host::resolve(&asked, parser.finish(), &options) {
        assert!(host.port != 0 && !host.user.is_empty());
    }
}

/// What a pattern of ssh means, byte by byte, in as many steps as it takes.
fn slowly(pattern: &[u8], text: &[u8]) -> bool {
    let Some((&one, rest)) = pattern.split_first() else { return text.is_empty() };
    let behind = text.get(1..);
    match one {
        b'*' => slowly(rest, text) || behind.is_some_and(|behind| slowly(pattern, behind)),
        b'?' => behind.is_some_and(|behind| slowly(rest, behind)),
        one => text.first() == Some(&one) && behind.is_some_and(|behind| slowly(rest, behind)),
    }
}

/// `known_hosts`: a key that is learned is known, whatever else stands there, unless it is revoked.
pub fn known_hosts(bytes: &[u8]) {
    const HOST: &str = "Web.example.org";
    let mut taken = Taken(bytes);
    let (how, key) = (taken.byte(), taken.part());
    let port = if how & 1 == 0 { 22 } else { 2222 };
    let file = file("", taken.0);
    let files = [file.path().to_owned()];
    let read = || KnownHosts::read(&files, HOST, port, None).expect("a file that is there");
    let known = read();
    for kind in known.kinds().chain(["ssh-ed25519"]) {
        let _ = known.verdict(kind, key);
    }
    if key.is_empty() {
        return;
    }
    let before = known.authorities().count();
    let revoked = known.revoked(key).is_some();
    let name = name_of(HOST, port);
    learn(&files[0], &name, how & 2 != 0, "ssh-ed25519", key).expect("a line more");
    let known = read();
    let verdict = known.verdict("ssh-ed25519", key);
    match revoked {
        true => assert!(matches!(verdict, Verdict::Revoked(_)), "{verdict:?}"),
        false => assert_eq!(verdict, Verdict::Known),
    }
    assert_eq!(known.authorities().count(), before);
    let other = [key, b"x"].concat();
    assert_ne!(known.verdict("ssh-ed25519", &other), Verdict::New);
}

/// What a login shell says before the agent speaks.
pub fn answers(bytes: &[u8]) {
    const KEY: &str = "lsyncd-1";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let mut reader = bytes;
    let answer = runtime.block_on(marker::read(&mut reader, KEY, Duration::from_secs(60)));
    let shown = marker::shown(bytes);
    assert_shown(&shown);
    assert!(shown.len() < 4096);
    let Ok((answer, behind)) = answer else { return };
    assert!(answer.noise.len() <= marker::MAX_NOISE + 8192);
    assert!(bytes.starts_with(&answer.noise), "what was said before");
    assert!(bytes.ends_with(&[&behind, reader].concat()), "not a byte of the agent's is lost");
    let line = bytes[answer.noise.len()..].strip_prefix(KEY.as_bytes()).expect("the key");
    let end = line.iter().position(|&b| b == b'\n').expect("a whole line");
    assert_eq!(line.len() - end - 1, behind.len() + reader.len());
    assert!(!answer.word.contains(' '));
    if let Some(kind) = Kind::parse(&answer.rest) {
        let kind = kind.to_string();
        assert_shown(&kind);
        assert!(!kind.contains('/') && kind.split(' ').all(|word| !word.starts_with('.')));
    }
}

/// A directory and a program that a key may reach: sshd and a shell read of the line what was meant.
pub fn authorize(bytes: &[u8]) {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ me\n";
    let mut taken = Taken(bytes);
    let how = taken.byte();
    let [root, path, trash] = [taken.part(), taken.part(), taken.part()].map(OsStr::from_bytes);
    let key = file(".pub", KEY.as_bytes());
    let mut args: Vec<OsString> = ["lsyncd", "agent", "authorize", "-i"].map(Into::into).into();
    args.push(key.path().into());
    let mut option = |name: &str, value: &OsStr| {
        let mut word = OsString::from(name);
        word.push("=");
        word.push(value);
        args.push(word);
    };
    option("--root", root);
    if how & 1 != 0 {
        option("--agent-path", path);
    }
    if how & 2 != 0 {
        option("--trash", trash);
    }
    let world = World { cwd: "/".into(), user: Some("me".into()), ..World::default() };
    let given = match cli::parse(args, &world) {
        Ok(Invocation::Authorize(given)) => given,
        Ok(_) | Err(_) => return,
    };
    let line = given.line().expect("a line").line;
    let line = line.strip_suffix(b"\n").expect("a whole line");
    assert!(!line.iter().any(|b| b"\n\r\0".contains(b)), "one line");
    let rest = line.strip_prefix(b"restrict,command=\"").expect("its options");
    let (command, rest) = option_of(rest).expect("the option ends");
    assert_eq!(rest, format!(" {}", KEY.trim_end()).as_bytes());
    let said = shell_words(&command).expect("words");
    let program = if how & 1 != 0 { path.as_bytes() } else { b"~/.cache/lsyncd/lsync-agent" };
    let mut meant = vec![program, b"--root", root.as_bytes()];
    if how & 2 != 0 {
        meant.extend([b"--trash", trash.as_bytes()]);
    }
    assert_eq!(said, meant);
}

/// A text up to its quote, as sshd reads it, and what is behind.
fn option_of(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut out, mut at) = (Vec::new(), 0);
    loop {
        match text.get(at..)? {
            [b'\\', b'"', ..] => {
                out.push(b'"');
                at += 2;
            }
            [b'"', rest @ ..] => return Some((out, rest)),
            [byte, ..] => {
                out.push(*byte);
                at += 1;
            }
            [] => return None,
        }
    }
}

/// Words as a shell parts them that knows single quotes and `\'`; `None` where it would do anything
/// else with what stands there.
fn shell_words(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = vec![Vec::new()];
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        let word = words.last_mut()?;
        match byte {
            b' ' => words.push(Vec::new()),
            b'\'' => loop {
                match bytes.next()? {
                    b'\'' => break,
                    inner => word.push(inner),
                }
            },
            b'\\' => word.push(bytes.next().filter(|b| *b == b'\'')?),
            // Somebody else's home.
            b'~' if word.is_empty()
                && !matches!(bytes.clone().next(), None | Some(b'/' | b' ')) =>
            {
                return None;
            }
            b if b.is_ascii_alphanumeric() || b"/._-+,:@%~".contains(&b) => word.push(b),
            _ => return None,
        }
    }
    Some(words)
}
