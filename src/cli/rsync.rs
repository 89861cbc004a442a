//! `push` by rsync: our options as rsync's.
//!
//! As close to what the agent does as rsync can: `-a -H -A -X` but for what is turned off. What has no
//! counterpart is an error that names both options, never ignored.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::args::PushArgs;
use super::shown;
use crate::config::rsync::{RsyncMirror, RsyncOptions, RsyncShell, RsyncValue};
use crate::config::{AnyMirror, Compress, MirrorConfig, Target};
use crate::error::{Error, Result};

/// A mirror to an rsync daemon.
pub(super) fn to_daemon(
    args: &PushArgs,
    base: &MirrorConfig,
    name: &str,
    target: &OsStr,
) -> Result<RsyncMirror> {
    let ssh = &args.reach;
    let table = [
        (ssh.port.is_some(), "--port"),
        (!ssh.identity.is_empty(), "--identity"),
        (ssh.ssh_config.is_some(), "--ssh-config"),
        (ssh.ssh_command.is_some(), "--ssh-command"),
    ];
    if let Some((_, option)) = table.into_iter().find(|(given, _)| *given) {
        let what =
            format!("{option} does not go with {}, which is not reached by ssh", shown(target));
        return Err(Error::usage(what).hint("a port stands in rsync://HOST:PORT/MODULE"));
    }
    let mut mirror = mirror(args, base, name, target)?;
    if args.reach.rsync.is_none() {
        let text = format!("{} is an rsync daemon's: rsync carries it", shown(target));
        mirror.why = Some(text);
    }
    Ok(mirror)
}

/// A mirror to a directory, here or by ssh.
pub(super) fn to_directory(
    args: &PushArgs,
    base: &MirrorConfig,
    cwd: &Path,
) -> Result<RsyncMirror> {
    let target = match &base.target {
        Target::Local(dir) => dir.as_os_str().to_owned(),
        Target::Ssh(ssh) => OsString::from_vec(ssh.for_rsync()),
    };
    let mut mirror = mirror(args, base, &base.name, &target)?;
    if let Some(Some(program)) = &args.reach.rsync {
        if program.is_empty() {
            return Err(Error::usage("--rsync names no program").hint("--rsync alone means rsync"));
        }
        // A name without a slash is looked for in PATH.
        let program = match program.as_bytes().contains(&b'/') {
            true => cwd.join(program).into_os_string(),
            false => program.clone(),
        };
        mirror.options = mirror.options.with_program(&program);
    }
    if let Target::Ssh(target) = &base.target {
        let ssh = &base.ssh;
        let mut shell = RsyncShell { port: ssh.port.or(target.port), ..RsyncShell::default() };
        shell.identities = ssh.identities.iter().map(|path| path.clone().into()).collect();
        if let Some(words) = &ssh.command {
            shell.program = words.iter().map(OsString::from).collect();
        }
        if let Some(config) = &ssh.config {
            if ssh.command.is_some() {
                return Err(Error::usage(
                    "--ssh-config does not go with --ssh-command and --rsync",
                )
                .hint("put -F FILE into the --ssh-command"));
            }
            shell.program.extend(["-F".into(), config.clone().into()]);
        }
        if shell != RsyncShell::default() {
            mirror.options = mirror.options.with_shell(&shell);
        }
    }
    Ok(mirror)
}

fn mirror(args: &PushArgs, base: &MirrorConfig, name: &str, target: &OsStr) -> Result<RsyncMirror> {
    let table = [
        (args.reach.agent_path.is_some(), "--agent-path"),
        (args.reach.agent_binary.is_some(), "--agent-binary"),
    ];
    if let Some((_, option)) = table.into_iter().find(|(given, _)| *given) {
        let what = format!("{option} does not go with --rsync: rsync needs no agent");
        return Err(Error::usage(what).hint(format!("leave out --rsync, or {option}")));
    }
    if base.trash.is_some() {
        let what = "--trash does not go with rsync, which keeps one version of a name and no more";
        return Err(Error::usage(what).hint("leave out --trash; with the agent there is one"));
    }
    if base.filter.reads_directories() {
        let what = "rules that are read in each directory do not go with rsync as the carrier yet";
        return Err(
            Error::usage(what).hint("leave out --rsync, or name the rules on the command line")
        );
    }
    Ok(RsyncMirror {
        delay: base.delay,
        delete: base.delete,
        max_delete: base.max_delete,
        allow_empty: base.allow_empty,
        options: options(args, base)?,
        filters: base.filter.texts().map(<[u8]>::to_vec).collect(),
        filter: base.filter.clone(),
        one_file_system: base.one_file_system,
        max_size: base.max_size,
        rescan: base.rescan,
        watch: base.watch,
        hooks: base.hooks.clone(),
        ..RsyncMirror::new(name, base.source.clone(), target)
    })
}

fn options(args: &PushArgs, base: &MirrorConfig) -> Result<RsyncOptions> {
    let mut keys: BTreeMap<String, RsyncValue> = BTreeMap::new();
    let mut set = |key: &str, value: RsyncValue| {
        keys.insert(key.to_owned(), value);
    };
    let asked = &args.attributes;
    for (key, yes) in [
        ("links", true),
        ("perms", !asked.no_perms),
        ("owner", !asked.no_owner),
        ("group", !asked.no_group),
        ("times", !asked.no_times),
        ("hard_links", !asked.no_hard_links),
        ("acls", !asked.no_acls),
        ("xattrs", !asked.no_xattrs),
        ("one_file_system", base.one_file_system),
        ("inplace", base.inplace),
        ("checksum", args.transfer.checksum),
        ("compress", matches!(base.compress, Compress::Level(_))),
        ("delete_excluded", base.delete_excluded),
    ] {
        set(key, RsyncValue::Bool(yes));
    }
    // One after the other is what commas mean, too.
    let chmod = asked.chmod.join(OsStr::new(","));
    let chmod = (!chmod.is_empty()).then_some(chmod);
    let texts = [
        ("chown", &asked.chown),
        ("usermap", &asked.usermap),
        ("groupmap", &asked.groupmap),
        ("chmod", &chmod),
    ];
    for (key, value) in texts {
        if let Some(text) = value {
            set(key, RsyncValue::Text(text.clone()));
        }
    }
    if let Some(rate) = base.bwlimit {
        // In KiB, as ours is a multiple of.
        set("bwlimit", RsyncValue::Number((rate.get() / 1024) as f64));
    }
    let mut words: Vec<OsString> = Vec::new();
    let mut word = |yes: bool, word: &str| words.extend(yes.then(|| word.into()));
    word(!asked.no_devices, "-D");
    word(asked.numeric_ids, "--numeric-ids");
    word(base.size_only, "--size-only");
    word(base.fsync, "--fsync");
    word(base.mkpath, "--mkpath");
    if let Compress::Level(level) = base.compress {
        word(true, &format!("--compress-level={level}"));
    }
    if let Some(size) = base.max_size {
        word(true, &format!("--max-size={size}"));
    }
    Ok(RsyncOptions::from_keys(&keys)?.with_words(words))
}

/// What mirrors of one command may not share, whatever carries them.
pub(super) fn guard(mirrors: &[AnyMirror]) -> Result<()> {
    for (at, mirror) in mirrors.iter().enumerate() {
        for other in &mirrors[..at] {
            if let (AnyMirror::Rsync(a), AnyMirror::Rsync(b)) = (mirror, other)
                && a.target == b.target
            {
                return Err(Error::usage(format!(
                    "the target {} is named twice",
                    shown(&a.target)
                )));
            }
            if mirror.name() == other.name() {
                let name = shown(OsStr::new(mirror.name()));
                return Err(Error::usage(format!("two mirrors are called {name}"))
                    .hint("--name needs a name for each target"));
            }
        }
    }
    Ok(())
}
