//! An Lsyncd 2 entry that the system's rsync carries.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::super::{World, place, shown};
use crate::config::lua::{Entry, Way};
use crate::config::rsync::{ExitCodes, RsyncMirror, RsyncOptions};
use crate::config::settings::Settings;
use crate::config::target::{BadTarget, hides_an_option};
use crate::config::{SshTarget, guard};
use crate::error::{Error, Result};
use crate::filter::Filter;

/// The entry as rsync carries it.
///
/// # Errors
/// A key has a value that it cannot have, or a guard refuses the target.
pub(super) fn mirror(
    entry: &Entry,
    filter: Filter,
    settings: &Settings,
    world: &World,
) -> Result<RsyncMirror> {
    let mut options = RsyncOptions::from_keys(&entry.rsync)?;
    if let Some(shell) = &entry.ssh {
        options = options.with_shell(shell);
    }
    let target = target(entry, world)?;
    let standard = RsyncMirror::new(&entry.name, entry.source.clone(), &target);
    let count = |own: Option<u64>, all: Option<u64>, standard: usize| {
        own.or(all).and_then(|n| usize::try_from(n).ok()).unwrap_or(standard)
    };
    let own_processes = entry.max_processes.map(u64::from);
    let (filters, excludes) = entry.rules.split_at(entry.filters);
    // What would be read as something else keeps its prefix.
    let bare = |rule: &Vec<u8>| match rule.strip_prefix(b"- ") {
        Some(pattern) if entry.filters > 0 || is_plain(pattern) => pattern.to_vec(),
        _ => rule.clone(),
    };
    Ok(RsyncMirror {
        delay: entry.delay.unwrap_or_default(),
        delete: entry.delete,
        max_delays: count(entry.max_delays, settings.max_delays, standard.max_delays),
        // rsyncssh keeps what happens to one name in order, and so runs one after the other.
        max_processes: match entry.way {
            Way::RsyncSsh => 1,
            _ => count(own_processes, settings.max_processes, standard.max_processes).max(1),
        },
        options,
        filters: filters.to_vec(),
        excludes: excludes.iter().map(bare).collect(),
        filter,
        exit_codes: ExitCodes::merged(entry.exit_codes.clone().into_iter().flatten()),
        insist: settings.insist,
        batch_size_limit: entry.batch_size_limit,
        skip_startup: entry.skips_start,
        ..standard
    })
}

/// Is this a pattern and nothing else where rsync reads patterns?
fn is_plain(pattern: &[u8]) -> bool {
    !matches!(pattern, b"!" | [b'-' | b'+', b' ', ..] | [b'#' | b';', ..])
}

/// The target as rsync takes it. A directory of this host is made absolute, since a daemon leaves
/// the directory that it was started in, and goes through the guards.
fn target(entry: &Entry, world: &World) -> Result<OsString> {
    let target = entry.target.clone().unwrap_or_default();
    // The ready ways look before; a script may have ways of its own to a target.
    if hides_an_option(&target) {
        let what = format!("bad target '{}'", shown(OsStr::from_bytes(&target)));
        return Err(Error::failed(what).because(BadTarget::Hyphen));
    }
    let colon = target.iter().position(|&b| b == b':');
    let slash = target.iter().position(|&b| b == b'/');
    let remote = match (colon, slash) {
        (Some(colon), Some(slash)) => colon < slash,
        (Some(_), None) => true,
        (None, _) => false,
    };
    if let Some(colon) = colon.filter(|_| remote) {
        let host = String::from_utf8_lossy(&target[..colon]).into_owned();
        let dir = target[colon + 1..].to_vec();
        // However the root is written: `//`, `/./`, `/tmp/..`.
        let there = SshTarget { user: None, host, port: None, dir };
        if there.is_root_dir() {
            return Err(guard::root(&there.to_string()));
        }
    }
    if entry.way == Way::RsyncSsh
        && let (Some(host), Some(dir)) = (&entry.host, &entry.target_dir)
        && let Some(beneath) = dir.strip_prefix(b"~/")
    {
        // rsync hands names on as they are: what is not absolute begins at the login directory.
        return Ok(OsString::from_vec([host.as_slice(), b":", beneath].concat()));
    }
    if remote {
        return Ok(OsString::from_vec(target));
    }
    let path = Path::new(OsStr::from_bytes(&target));
    Ok(place::local_target(path, &world.cwd, &entry.source)?.into_os_string())
}
