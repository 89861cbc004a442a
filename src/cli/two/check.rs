//! `lsyncd check`: what a configuration means, without starting anything.

use std::fmt::Write;

use lsync_protocol::xattr::Classes;

use crate::config::rsync::RsyncMirror;
use crate::config::{Attributes, Compress, Delete, MirrorConfig};
use crate::daemon::two::{Carried, Setup, TwoMirror};

/// What each mirror of a configuration will do, and which keys have no effect.
pub fn check(setup: &Setup) -> String {
    check_mirrors(&setup.mirrors, ["sync", "syncs"])
}

/// What these mirrors will do. `called`: what one and several of them are called.
pub fn check_mirrors(mirrors: &[TwoMirror], called: [&str; 2]) -> String {
    let mut text = String::new();
    for mirror in mirrors {
        one(&mut text, mirror);
    }
    let count = mirrors.len();
    let _ = writeln!(text, "{count} {}, nothing wrong", called[usize::from(count != 1)]);
    text
}

fn one(text: &mut String, mirror: &TwoMirror) {
    let source = lsync_protocol::path::Escaped(mirror.source.as_os_str().as_encoded_bytes());
    let _ = match mirror.target.as_str() {
        "" => writeln!(text, "{}: {source}", mirror.name),
        target => writeln!(text, "{}: {source} -> {target}", mirror.name),
    };
    let mut line = |what: &str, is: &str| {
        let _ = writeln!(text, "  {what:<11}{is}");
    };
    line("carried by", &mirror.why);
    match &mirror.carried {
        Carried::Agent(config, _) => {
            line("delay", &seconds(config.delay));
            line("deletes", deletes(config.delete));
            line("brings", &brings(config));
        }
        Carried::Rsync(rsync) => {
            line("delay", &seconds(rsync.delay));
            line("deletes", deletes(rsync.delete));
            line("command", &command(rsync));
        }
        Carried::Actions(entry, _) => line("delay", &seconds(entry.delay.unwrap_or_default())),
    }
    for rule in &mirror.rules {
        line("rule", &lsync_protocol::path::Escaped(rule).to_string());
    }
    for spec in &mirror.crontab {
        line("crontab", spec);
    }
    for note in &mirror.notes {
        line("note", note);
    }
}

/// What rsync is called with for all of it.
pub(super) fn command(rsync: &RsyncMirror) -> String {
    let words = [rsync.options.program().to_owned()].into_iter().chain(rsync.options.full_words());
    let words: Vec<String> = words.map(|word| super::shown(&word)).collect();
    words.join(" ")
}

fn seconds(delay: std::time::Duration) -> String {
    match delay.as_secs_f64() {
        0.0 => "none".to_owned(),
        1.0 => "1 second".to_owned(),
        n => format!("{n} seconds"),
    }
}

fn deletes(delete: Delete) -> &'static str {
    match delete {
        Delete::Yes => "yes",
        Delete::No => "no",
        Delete::Startup => "at the start only",
        Delete::Running => "while running only",
    }
}

fn brings(config: &MirrorConfig) -> String {
    let Attributes { perms, owner, group, times, devices, hard_links, xattrs, .. } =
        config.attributes;
    let known = [
        (times, "times"),
        (perms, "permissions"),
        (owner, "owners"),
        (group, "groups"),
        (devices, "devices"),
        (hard_links, "hard links"),
        (xattrs.both(Classes::USER).any(), "extended attributes"),
        (xattrs.both(Classes::ACLS).any(), "access control lists"),
    ];
    let mut parts = vec!["content, symbolic links"];
    parts.extend(known.iter().filter(|(yes, _)| *yes).map(|(_, name)| *name));
    if config.compress == Compress::Off {
        parts.push("nothing compressed");
    }
    if config.inplace {
        parts.push("written in place");
    }
    parts.join(", ")
}
