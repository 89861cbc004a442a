//! Lsyncd 2's command line and configuration file, to mirrors that are wholly resolved.
//!
//! Each entry is carried by what it asks for: the agent where the agent does all of it, the
//! system's rsync where only rsync does, and its own actions where it has some.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlua::Lua;

use super::legacy::{self, CommandLine, LineSync};
use super::{World, place, rules, shown};
use crate::carrier::action::{self, ActionLog};
use crate::config::crontab::Crontab;
use crate::config::lua::{Entry, Program, Reader, Way};
use crate::config::rsync::RsyncShell;
use crate::config::settings::Settings;
use crate::config::{AgentOptions, Delete, MirrorConfig, SshOptions, Target, guard};
use crate::daemon::two::{Carried, Setup, TwoMirror};
use crate::error::{Error, Result};
use crate::filter::{Filter, Origin};

mod agent;
mod check;
mod migrate;
mod notes;
mod rsync;

pub use check::{check, check_mirrors};
pub use migrate::migrate;

/// Loads what a command line asks for. What its scripts log meanwhile goes to `log`.
///
/// # Errors
/// The configuration cannot be read, or asks for what cannot be done; with the place and a hint.
pub fn load(line: &CommandLine, world: &World, log: Arc<dyn ActionLog>) -> Result<Setup> {
    let lua = Lua::new();
    action::install(&lua, log)
        .map_err(|error| Error::failed("cannot start the interpreter").because(error))?;
    let mut settings = Settings::default();
    line.over(&mut settings);
    let reader = Reader::new(lua, settings, &world.cwd)?;
    for script in &line.scripts {
        reader.run(&world.cwd.join(script))?;
    }
    if let Some(config) = &line.config {
        let file = world.cwd.join(config);
        if !file.exists() {
            return Err(legacy::no_config(config));
        }
        reader.run(&file)?;
    }
    let extra = line.sshopts.clone().unwrap_or_default();
    for sync in &line.syncs {
        add(&reader, sync, &extra)?;
    }
    let Program { lua, mut settings, entries, tunnels } = reader.finish()?;
    // What the command line says stands above the file.
    line.over(&mut settings);
    settings.resolve(&world.cwd);
    if entries.is_empty() {
        return Err(Error::failed("the configuration has no sync{}: nothing to do").hint(
            "sync { default.rsyncssh, source = \"/srv\", host = \"backup\", targetdir = \"/srv\" }",
        ));
    }
    let mut mirrors = Vec::new();
    for entry in entries {
        mirrors.push(resolve(entry, line, &settings, world)?);
    }
    let agents: Vec<MirrorConfig> = mirrors
        .iter()
        .filter_map(|mirror| match &mirror.carried {
            Carried::Agent(config, _) => Some((**config).clone()),
            _ => None,
        })
        .collect();
    guard::all(&agents)?;
    no_shared_targets(&mirrors)?;
    Ok(Setup { lua, settings, mirrors, tunnels })
}

/// Two sources that are mirrored to one place delete what the other brings. Rules may keep them
/// apart, and without deletes they only add.
fn no_shared_targets(mirrors: &[TwoMirror]) -> Result<()> {
    let deleting = |mirror: &TwoMirror| match &mirror.carried {
        Carried::Agent(config, _) => config.delete != Delete::No,
        Carried::Rsync(config) => config.delete != Delete::No,
        Carried::Actions(..) => false,
    };
    for (at, one) in mirrors.iter().enumerate() {
        for other in &mirrors[..at] {
            let same = one.target.trim_end_matches('/') == other.target.trim_end_matches('/');
            let apart = !one.rules.is_empty() || !other.rules.is_empty();
            if same && one.source != other.source && !apart && deleting(one) && deleting(other) {
                let what = format!(
                    "{} and {} mirror different sources to {}",
                    shown(OsStr::new(&other.name)),
                    shown(OsStr::new(&one.name)),
                    one.target
                );
                return Err(Error::stopped(what).hint(
                    "each would delete what the other brings; name different targets, or set delete = false",
                ));
            }
        }
    }
    Ok(())
}

/// Loads a file alone, to say what it means.
///
/// # Errors
/// As [`load`]; a TOML file is not one of Lsyncd 2.
pub fn load_file(config: &OsStr, world: &World) -> Result<Setup> {
    if Path::new(config).extension().is_some_and(|end| end == "toml") {
        return Err(super::not_yet("TOML").hint("a configuration of Lsyncd 2 is a file in Lua"));
    }
    let line = CommandLine { config: Some(config.to_owned()), ..CommandLine::default() };
    load(&line, world, Arc::new(Unheard))
}

/// What a configuration logs while it is only looked at.
struct Unheard;

impl ActionLog for Unheard {
    fn line(&self, _category: &str, _text: &str) {}
}

fn add(reader: &Reader, sync: &LineSync, extra: &[String]) -> Result<()> {
    match sync {
        LineSync::Rsync { source, target } => {
            let keys = [("source", source.as_os_str().as_bytes()), ("target", target.as_bytes())];
            reader.sync("rsync", &keys, &[])
        }
        LineSync::RsyncSsh { source, host, dir } => reader.sync(
            "rsyncssh",
            &[
                ("source", source.as_os_str().as_bytes()),
                ("host", host.as_bytes()),
                ("targetdir", dir.as_bytes()),
            ],
            extra,
        ),
        LineSync::Direct { source, target } => {
            let target = target.as_os_str().as_bytes();
            let keys = [("source", source.as_os_str().as_bytes()), ("target", target)];
            reader.sync("direct", &keys, &[])
        }
    }
}

/// Decides by what an entry is carried, and resolves it.
fn resolve(
    entry: Entry,
    line: &CommandLine,
    settings: &Settings,
    world: &World,
) -> Result<TwoMirror> {
    let mut entry = entry;
    entry.delay = line.delay.or(entry.delay);
    // The entry's own count stands above that of all.
    let name = entry.name.clone();
    let here = |error: Error| in_entry(&name, &error);
    let mut filter = Filter::default();
    let mut files = rules::Files { source: &entry.source, world };
    for (at, rule) in entry.rules.iter().enumerate() {
        let origin = Origin::given(if at < entry.filters { "filter" } else { "exclude" });
        filter.read_rule(rule, &origin, &mut files).map_err(|error| {
            here(
                Error::failed(error.to_string())
                    .hint("rsync's manual describes these rules under FILTER RULES"),
            )
        })?;
    }
    let filter = filter.at_root(entry.source.as_os_str().as_bytes());
    // Here and not where the clocks start: a reload that has one wrong changes nothing.
    Crontab::parse(entry.crontab.iter().map(String::as_str)).map_err(here)?;
    let (carried, why, notes) = match entry.way {
        Way::Own => (
            Carried::Actions(Box::new(entry.clone()), filter),
            "its own actions".to_owned(),
            Vec::new(),
        ),
        Way::Rsync => {
            let mirror = rsync::mirror(&entry, filter, settings, world).map_err(here)?;
            let notes = notes::without_effect(&entry, false);
            (Carried::Rsync(Box::new(mirror)), "the system's rsync".to_owned(), notes)
        }
        Way::RsyncSsh | Way::Direct => match by_agent(&entry, &filter, world).map_err(here)? {
            Ok((config, notes)) => {
                let why = match config.target {
                    Target::Local(_) => "lsyncd itself".to_owned(),
                    Target::Ssh(_) => "lsync-agent".to_owned(),
                };
                // A target that rsync cannot take is the agent's alone.
                let spare = match config.target {
                    Target::Ssh(_) => rsync::mirror(&entry, filter, settings, world).ok(),
                    Target::Local(_) => None,
                };
                (Carried::Agent(Box::new(config), spare.map(Box::new)), why, notes)
            }
            Err(only) => {
                let mirror = rsync::mirror(&entry, filter, settings, world).map_err(here)?;
                let why = format!("rsync, since only rsync has {only}");
                (Carried::Rsync(Box::new(mirror)), why, notes::without_effect(&entry, false))
            }
        },
    };
    let target = match &carried {
        Carried::Agent(config, _) => with_slash(config.target.to_string()),
        Carried::Rsync(config) => shown(&config.target),
        Carried::Actions(..) => entry
            .target
            .as_deref()
            .map(|target| shown(OsStr::from_bytes(target)))
            .unwrap_or_default(),
    };
    let source = entry.source.clone();
    let Entry { rules, crontab, tunnel, .. } = entry;
    Ok(TwoMirror { name, source, target, carried, why, notes, rules, crontab, tunnel })
}

/// As Lsyncd 2 writes targets.
fn with_slash(mut target: String) -> String {
    if !target.ends_with(['/', ':']) {
        target.push('/');
    }
    target
}

fn in_entry(name: &str, error: &Error) -> Error {
    let exit = error.exit();
    let hint = error.hint_text().map(str::to_owned);
    let what = format!("{}: {error}", shown(OsStr::new(name)));
    let error = match exit {
        crate::error::Exit::Stopped => Error::stopped(what),
        _ => Error::failed(what),
    };
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// The entry as a mirror of ours, with what of it has nothing to say; or what only rsync has.
#[allow(clippy::type_complexity, reason = "two kinds of no, one of which is an error")]
fn by_agent(
    entry: &Entry,
    filter: &Filter,
    world: &World,
) -> Result<std::result::Result<(MirrorConfig, Vec<String>), String>> {
    // A tunnel is rsync's way: without it another host might answer to the same name.
    if entry.tunnel.is_some() {
        return Ok(Err("tunnel".to_owned()));
    }
    let mut asked = match agent::asked(entry, world.umask) {
        Ok(asked) => asked,
        Err(only) => return Ok(Err(only)),
    };
    let target = entry.target.as_deref().unwrap_or_default();
    let target = match entry.way {
        Way::Direct => {
            let path = Path::new(OsStr::from_bytes(target));
            Target::Local(place::local_target(path, &world.cwd, &entry.source)?)
        }
        _ => match Target::parse(target) {
            Ok(target @ Target::Ssh(_)) => target,
            Ok(Target::Local(_)) => {
                return Err(Error::failed(format!(
                    "bad host in '{}'",
                    shown(OsStr::from_bytes(target))
                ))
                .hint("host = \"[USER@]HOST\""));
            }
            Err(error) => {
                let what = format!("bad target '{}': {error}", shown(OsStr::from_bytes(target)));
                return Err(Error::failed(what).hint(error.hint()));
            }
        },
    };
    let mut notes: Vec<String> =
        asked.idle.iter().map(|(key, why)| format!("{key} has no effect: {why}")).collect();
    notes.extend(notes::without_effect(entry, true));
    if entry.given.contains("ssh") && asked.rsh.take().is_some() {
        notes.push("rsync.rsh has no effect: ssh = { … } says how the host is reached".to_owned());
    }
    let mut delete = entry.delete;
    if entry.skips_start {
        delete = match delete {
            Delete::Yes | Delete::Running => Delete::Running,
            Delete::Startup | Delete::No => Delete::No,
        };
        notes.push("init = false: the start compares nevertheless, but deletes nothing".to_owned());
    }
    Ok(Ok((
        MirrorConfig {
            delay: entry.delay.unwrap_or_default(),
            delete,
            delete_excluded: asked.delete_excluded,
            filter: filter.clone().delete_excluded(asked.delete_excluded),
            attributes: asked.attributes,
            mapping: Arc::new(asked.mapping),
            one_file_system: asked.one_file_system,
            bwlimit: asked.bwlimit,
            compress: asked.compress,
            inplace: asked.inplace,
            ssh: ssh(entry.ssh.as_ref(), asked.rsh, world),
            agent: AgentOptions { own_binary: world.exe.clone(), ..AgentOptions::default() },
            ..MirrorConfig::new(&entry.name, entry.source.clone(), target)
        },
        notes,
    )))
}

/// What `ssh={}` says, to us; words that only the system's ssh understands go to that.
fn ssh(shell: Option<&RsyncShell>, rsh: Option<Vec<String>>, world: &World) -> SshOptions {
    let standard = RsyncShell::default();
    let shell = shell.unwrap_or(&standard);
    let is_ssh = |program: &OsStr| program == "ssh" || program == "/usr/bin/ssh";
    let ours = matches!(shell.program.as_slice(), [program] if is_ssh(program))
        && shell.options.is_empty()
        && shell.extra.is_empty();
    let rsh = rsh.filter(|words| !matches!(words.as_slice(), [one] if is_ssh(OsStr::new(one))));
    let command = if ours {
        rsh
    } else {
        let words = shell.words().into_iter();
        Some(words.map(|word| word.to_string_lossy().into_owned()).collect())
    };
    SshOptions {
        config: None,
        port: if command.is_none() { shell.port } else { None },
        identities: match &command {
            None => shell.identities.iter().map(|file| home(Path::new(file), world)).collect(),
            Some(_) => Vec::new(),
        },
        command,
        home: world.home.clone(),
        user: world.user.clone(),
        auth_sock: world.auth_sock.clone(),
    }
}

/// `~/` is the user's home, as ssh reads it; else a path begins where lsyncd was started.
fn home(file: &Path, world: &World) -> PathBuf {
    match (file.strip_prefix("~"), &world.home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => world.cwd.join(file),
    }
}

#[cfg(test)]
mod tests;
