//! The answers of `lsyncd why`: a few lines for each path, or an object.

use std::fmt::Write;

use lsync_protocol::entry::Kind;
use lsync_protocol::path::Escaped;
use serde_json::{Value, json};

use super::json::path as json_path;
use crate::filter::RuleThere;
use crate::source::why::{But, Fate};

/// All of them, as people read them.
#[must_use]
pub fn text(fates: &[Fate]) -> String {
    let mut out = String::new();
    for fate in fates {
        // Writing to a string does not fail.
        let _ = one(fate, &mut out);
    }
    out
}

/// One object a line.
#[must_use]
pub fn json(fates: &[Fate]) -> String {
    fates.iter().map(|fate| format!("{}\n", object(fate))).collect()
}

fn shown(fate: &Fate) -> String {
    let slash = if fate.is_dir && !fate.path.is_root() { "/" } else { "" };
    let name = if fate.path.is_root() { "the source itself".into() } else { fate.path.to_string() };
    format!("{name}{slash}")
}

fn rule(there: &RuleThere) -> String {
    format!("'{}' ({})", Escaped(there.rule.text()), there.rule.origin())
}

fn one(fate: &Fate, out: &mut String) -> std::fmt::Result {
    let state = match (fate.kind.is_some(), fate.is_mirrored()) {
        (true, true) => "mirrored",
        (true, false) => "not mirrored",
        (false, true) => "not there; would be mirrored",
        (false, false) => "not there; would not be mirrored",
    };
    writeln!(out, "{}: {state}", shown(fate))?;
    let sent = fate.decision.verdict.sent;
    match &fate.decision.rule {
        Some(there) if sent => writeln!(out, "  included by {}", rule(there))?,
        Some(there) if there.path == fate.path => writeln!(out, "  excluded by {}", rule(there))?,
        Some(there) => writeln!(out, "  {}/ is excluded by {}", there.path, rule(there))?,
        None if fate.but.is_none() => writeln!(out, "  no rule excludes it")?,
        None => {}
    }
    match &fate.but {
        None => {}
        Some(But::Unknown(why)) => writeln!(out, "  it cannot be judged: {why}")?,
        Some(But::TooLarge { size, max }) => {
            writeln!(out, "  its {size} bytes are more than the {max} of --max-size")?;
        }
        Some(But::OtherFileSystem(dir)) => {
            writeln!(out, "  what is in {dir}/ is on another file system (--one-file-system)")?;
        }
        Some(But::Temporary) => writeln!(out, "  it is a temporary name of lsyncd's own")?,
    }
    if fate.is_mirrored() && fate.kind.is_some() {
        return Ok(());
    }
    write!(out, "  on the target: ")?;
    let excluder = fate.decision.rule.as_ref();
    let unless = match fate.goes_with_directory() && !fate.is_deletable() {
        true => ", unless its directory is deleted",
        false => "",
    };
    match &fate.decision.delete_rule {
        _ if fate.but.is_some() => writeln!(out, "left alone"),
        None if fate.is_deletable() => writeln!(out, "deleted if it is there"),
        Some(there) if fate.is_deletable() => {
            writeln!(out, "deleted if it is there, by {}", rule(there))
        }
        Some(there) if Some(there) != excluder => {
            writeln!(out, "left alone, by {}{unless}", rule(there))
        }
        _ => writeln!(out, "left alone{unless}"),
    }
}

fn object(fate: &Fate) -> Value {
    let rule = |there: &Option<RuleThere>| match there {
        None => Value::Null,
        Some(there) => json!({
            "text": String::from_utf8_lossy(there.rule.text()),
            "origin": there.rule.origin().to_string(),
            "path": json_path(&there.path),
        }),
    };
    let kind = fate.kind.map(|kind| match kind {
        Kind::Dir => "directory",
        Kind::File => "file",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice | Kind::BlockDevice => "device",
    });
    let but = fate.but.as_ref().map(|but| match but {
        But::Unknown(why) => json!({"unknown": why}),
        But::TooLarge { size, max } => json!({"size": size, "max_size": max}),
        But::OtherFileSystem(dir) => json!({"other_file_system": json_path(dir)}),
        But::Temporary => json!("temporary"),
    });
    json!({
        "path": json_path(&fate.path),
        "kind": kind,
        "mirrored": fate.is_mirrored(),
        "deletable": fate.is_deletable(),
        "goes_with_directory": fate.goes_with_directory(),
        "rule": rule(&fate.decision.rule),
        "delete_rule": rule(&fate.decision.delete_rule),
        "but": but,
    })
}
