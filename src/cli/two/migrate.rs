//! `lsyncd migrate`: a configuration of Lsyncd 2 as TOML, and what of it TOML cannot say.

use std::fmt::Write;

use lsync_protocol::xattr::Classes;

use crate::config::{Attributes, Compress, Delete, MirrorConfig, Target};
use crate::daemon::two::{Carried, Setup, TwoMirror};

/// The equivalent TOML; what cannot be expressed stands in it as comments.
pub fn migrate(setup: &Setup) -> String {
    let mut text = String::from(
        "# What `lsyncd run` reads. From a configuration of Lsyncd 2.\n\n[settings]\n",
    );
    let settings = &setup.settings;
    let mut key = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{name} = {value}");
        }
    };
    key("logfile", settings.logfile.as_ref().map(|path| quoted(&path.to_string_lossy())));
    key("pidfile", settings.pidfile.as_ref().map(|path| quoted(&path.to_string_lossy())));
    if settings.status_file.is_some() {
        text.push_str("# statusFile: lsyncd status --json says more\n");
    }
    if settings.insist {
        text.push_str("# insist: lsyncd run always goes on trying\n");
    }
    for mirror in &setup.mirrors {
        text.push('\n');
        one(&mut text, mirror);
    }
    text
}

fn one(text: &mut String, mirror: &TwoMirror) {
    if let Carried::Actions(..) = mirror.carried {
        let _ = writeln!(
            text,
            "# {}: {} has actions of its own, which are programs: it stays in the Lua file.",
            mirror.name,
            mirror.source.to_string_lossy()
        );
        return;
    }
    let _ = writeln!(text, "[[mirror]]");
    let mut key = |name: &str, value: String| {
        let _ = writeln!(text, "{name} = {value}");
    };
    key("name", quoted(&mirror.name));
    key("source", quoted(&mirror.source.to_string_lossy()));
    match &mirror.carried {
        Carried::Agent(config, _) => agent(&mut key, config),
        Carried::Rsync(rsync) => {
            key("target", quoted(&rsync.target.to_string_lossy()));
            key("rsync", "true".to_owned());
            delay(&mut key, rsync.delay);
            delete(&mut key, rsync.delete);
        }
        Carried::Actions(..) => {}
    }
    if !mirror.rules.is_empty() {
        let rules: Vec<String> =
            mirror.rules.iter().map(|rule| quoted(&String::from_utf8_lossy(rule))).collect();
        key("filter", format!("[{}]", rules.join(", ")));
    }
    if let Carried::Agent(config, _) = &mirror.carried
        && !config.attributes.specials
    {
        text.push_str("# not in TOML: FIFOs and sockets are left out\n");
    }
    for note in &mirror.notes {
        let _ = writeln!(text, "# {note}");
    }
    if let Carried::Rsync(rsync) = &mirror.carried {
        let _ = writeln!(text, "# not in TOML: {}", super::check::command(rsync));
    }
    for spec in &mirror.crontab {
        let _ = writeln!(
            text,
            "# not in TOML: crontab '{spec}'; rescan = SECONDS compares everything regularly"
        );
    }
}

fn agent(key: &mut impl FnMut(&str, String), config: &MirrorConfig) {
    let target = match &config.target {
        Target::Local(dir) => dir.to_string_lossy().into_owned(),
        ssh @ Target::Ssh(_) => ssh.to_string(),
    };
    key("target", quoted(&target));
    delay(key, config.delay);
    delete(key, config.delete);
    let Attributes { perms, owner, group, times, devices, hard_links, xattrs, .. } =
        config.attributes;
    let left_out = [
        ("no-perms", perms),
        ("no-owner", owner),
        ("no-group", group),
        ("no-times", times),
        ("no-devices", devices),
        ("no-hard-links", hard_links),
        ("no-xattrs", xattrs.both(Classes::USER).any()),
        ("no-acls", xattrs.both(Classes::ACLS).any()),
    ];
    for (name, carried) in left_out {
        if !carried {
            key(name, "true".to_owned());
        }
    }
    if config.attributes.numeric_ids {
        key("numeric-ids", "true".to_owned());
    }
    if config.compress == Compress::Off {
        key("compress", quoted("off"));
    }
    if let Some(rate) = config.bwlimit {
        key("bwlimit", quoted(&format!("{}k", rate.get() / 1024)));
    }
    let flags = [
        ("inplace", config.inplace),
        ("one-file-system", config.one_file_system),
        ("delete-excluded", config.delete_excluded),
    ];
    for (name, yes) in flags {
        if yes {
            key(name, "true".to_owned());
        }
    }
    if let Some(port) = config.ssh.port {
        key("port", port.to_string());
    }
    if let Some(file) = config.ssh.identities.first() {
        key("identity", quoted(&file.to_string_lossy()));
    }
    if let Some(words) = &config.ssh.command {
        key("ssh-command", quoted(&words.join(" ")));
    }
}

fn delay(key: &mut impl FnMut(&str, String), delay: std::time::Duration) {
    if !delay.is_zero() {
        key("delay", format!("{}", delay.as_secs_f64()));
    }
}

fn delete(key: &mut impl FnMut(&str, String), delete: Delete) {
    match delete {
        Delete::Yes => {}
        Delete::No => key("delete", quoted("no")),
        Delete::Startup => key("delete", quoted("startup")),
        Delete::Running => key("delete", quoted("running")),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
