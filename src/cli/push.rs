//! `push` and `agent`: from the words of the command line to what is to be done.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use clap::ArgMatches;
use lsync_protocol::handshake::Trash;
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::Classes;

use crate::config::mapping::{Chmod, Mapping, OwnerMap};

use super::args::{
    AgentArgs, DaemonArgs, OutputArgs, PushArgs, ReachArgs, RuleArgs, RunArgs, TrashArgs,
    VerifyArgs, Watch, When,
};
use super::{AgentVisit, Invocation, Output, World, not_yet, place, rsync, rules, shown};
use crate::config::target::{BadTarget, rsync_daemon};
use crate::config::{
    AgentOptions, AnyMirror, Attributes, Delete, Hooks, MirrorConfig, SshOptions, SshTarget,
    Target, Verify, WatchChoice, guard, value,
};
use crate::control::Places;
use crate::error::{Error, Result};
use crate::filter::Origin;

/// What `push` is asked to do.
pub(super) fn push(args: &PushArgs, matches: &ArgMatches, world: &World) -> Result<Invocation> {
    refuse_what_is_not_there(args)?;
    let source = match world.late_sources {
        true => place::source_or_later(&args.source, &world.cwd)?,
        false => place::source(&args.source, &world.cwd)?,
    };
    let ssh = ssh(&args.reach, world)?;
    let agent = agent_options(&args.reach, world)?;
    let filter = rules::filter(matches, &source, world)?
        .delete_excluded(args.rules.delete_excluded)
        .at_root(source.as_os_str().as_bytes());
    let trash = trash(args)?;
    let filter = match &trash {
        Some(trash) => filter.without(trash.dir.as_bytes(), Origin::given("--trash")),
        None => filter,
    };
    let run = &args.run;
    let rescan = match optional("--rescan", run.rescan.as_deref(), value::seconds)? {
        None => Some(crate::config::DEFAULT_RESCAN),
        Some(Duration::ZERO) => None,
        Some(every) => Some(every),
    };
    let verify_every = optional("--verify-every", run.verify_every.as_deref(), value::seconds)?
        .filter(|every| !every.is_zero());
    if verify_every.is_some() && (run.once || run.dry_run) {
        return Err(Error::usage("--verify-every does nothing with --once").hint(
            "--checksum compares by content now; lsyncd verify SOURCE TARGET lists what differs",
        ));
    }
    let watch = watch(run.watch)?;
    if watch == WatchChoice::Poll && rescan.is_none() {
        return Err(Error::usage("--watch poll does nothing with --rescan 0")
            .hint("give --rescan the seconds from one comparison to the next"));
    }
    let names = &args.daemon.name;
    if !names.is_empty() && names.len() != args.targets.len() {
        return Err(Error::usage(format!(
            "{} given {}, with {}",
            "--name is",
            times(names.len()),
            counted(args.targets.len(), "target")
        ))
        .hint("give --name once for each TARGET, in their order"));
    }

    let base = MirrorConfig {
        delay: optional("--delay", run.delay.as_deref(), value::seconds)?.unwrap_or_default(),
        delete: delete(run.delete),
        max_delete: optional("--max-delete", run.max_delete.as_deref(), value::max_delete)?,
        allow_empty: run.allow_empty,
        delete_excluded: args.rules.delete_excluded,
        mkpath: run.mkpath,
        filter,
        attributes: attributes(args),
        mapping: Arc::new(mapping(args, world)?),
        one_file_system: args.rules.one_file_system,
        max_size: optional("--max-size", args.rules.max_size.as_deref(), value::size)?,
        bwlimit: optional("--bwlimit", args.transfer.bwlimit.as_deref(), value::rate)?.flatten(),
        compress: optional("--compress", args.transfer.compress.as_deref(), value::compress)?
            .unwrap_or_default(),
        size_only: args.transfer.size_only,
        checksum: args.transfer.checksum,
        fsync: args.transfer.fsync,
        inplace: args.transfer.inplace,
        trash,
        rescan,
        verify_every,
        watch,
        ssh,
        agent,
        hooks: Hooks { synced: run.on_synced.clone(), problem: run.on_problem.clone() },
        ..MirrorConfig::new("", source, Target::Local("/".into()))
    };
    let mut mirrors = Vec::new();
    // What the guards see: rsync's mirrors to directories are as dangerous as ours.
    let mut guarded: Vec<MirrorConfig> = Vec::new();
    for (at, text) in args.targets.iter().enumerate() {
        let given_name = names.get(at).map(|name| checked_name(name)).transpose()?;
        if let Some(daemon) = rsync_daemon(text.as_bytes()) {
            daemon.map_err(|error| bad_target(text, error))?;
            let name = given_name.unwrap_or_else(|| shown(text));
            mirrors.push(AnyMirror::Rsync(Box::new(rsync::to_daemon(args, &base, &name, text)?)));
            continue;
        }
        let target = match Target::parse(text.as_bytes()).map_err(|e| bad_target(text, e))? {
            Target::Local(dir) => {
                Target::Local(place::local_target(&dir, &world.cwd, &base.source)?)
            }
            ssh @ Target::Ssh(_) => ssh,
        };
        let name = given_name.unwrap_or_else(|| target.to_string());
        let mirror = MirrorConfig { name, target, ..base.clone() };
        guarded.push(mirror.clone());
        mirrors.push(if args.reach.rsync.is_some() {
            AnyMirror::Rsync(Box::new(rsync::to_directory(args, &mirror, &world.cwd)?))
        } else {
            AnyMirror::Agent(Box::new(mirror))
        });
    }
    guard::all(&guarded)?;
    rsync::guard(&mirrors)?;
    Ok(Invocation::Push {
        mirrors,
        once: run.once || run.dry_run,
        dry_run: run.dry_run,
        verify: Verify::No,
        control: world.places(args.daemon.control.as_ref()),
        metrics: optional("--metrics", args.daemon.metrics.as_deref(), value::listen)?,
        output: output(&args.output, world),
    })
}

/// What `verify` is asked to do: what `push --once` would with the same options, but compared by
/// content, and told.
pub(super) fn verify(args: VerifyArgs, matches: &ArgMatches, world: &World) -> Result<Invocation> {
    if args.reach.rsync.is_some() || rsync_daemon(args.target.as_bytes()).is_some() {
        return Err(Error::usage("lsyncd verify needs an agent on the target")
            .hint("rsync -n --checksum -ai SOURCE/ TARGET compares what rsync carries"));
    }
    if args.transfer.size_only {
        return Err(Error::usage("--size-only does not go with lsyncd verify")
            .hint("lsyncd push -n --size-only compares by size"));
    }
    let heal = if args.heal { Verify::Heal } else { Verify::Tell };
    let push_args = PushArgs {
        source: args.source,
        targets: vec![args.target],
        run: RunArgs {
            once: true,
            delete: args.delete,
            max_delete: args.max_delete,
            allow_empty: args.allow_empty,
            trash: TrashArgs { trash: args.trash, trash_age: None },
            ..RunArgs::default()
        },
        rules: args.rules,
        attributes: args.attributes,
        transfer: args.transfer,
        reach: args.reach,
        output: args.output,
        daemon: DaemonArgs::default(),
    };
    match push(&push_args, matches, world)? {
        Invocation::Push { mirrors, once, dry_run, output, .. } => {
            let (control, metrics) = (Places::default(), None);
            Ok(Invocation::Push { mirrors, once, dry_run, verify: heal, control, metrics, output })
        }
        other => Ok(other),
    }
}

/// What `agent install` and `agent check` are asked to do.
pub(super) fn agent(install: bool, args: &AgentArgs, world: &World) -> Result<Invocation> {
    if args.reach.rsync.is_some() {
        return Err(Error::usage("--rsync does not go with lsyncd agent")
            .hint("lsyncd push --rsync does without an agent"));
    }
    let host = SshTarget::parse_host(args.host.as_bytes()).map_err(|error| {
        let hint = "a host is [USER@]HOST or ssh://[USER@]HOST[:PORT]";
        Error::usage(format!("bad host '{}': {error}", shown(&args.host))).hint(hint)
    })?;
    if install && args.reach.agent_path.is_some() {
        return Err(Error::usage("--agent-path names an agent that is there already")
            .hint("lsyncd agent check tests it"));
    }
    Ok(Invocation::Agent(Box::new(AgentVisit {
        install,
        host,
        ssh: ssh(&args.reach, world)?,
        agent: agent_options(&args.reach, world)?,
        output: output(&args.output, world),
    })))
}

pub(super) fn refuse_copy_links(rules: &RuleArgs) -> Result<()> {
    match rules.copy_links {
        true => Err(not_yet("--copy-links").hint("symbolic links are mirrored as they are")),
        false => Ok(()),
    }
}

/// Options of the contract that are not built yet: an error, never ignored.
fn refuse_what_is_not_there(args: &PushArgs) -> Result<()> {
    refuse_copy_links(&args.rules)?;
    let some_by_rsync = args.reach.rsync.is_some()
        || args.targets.iter().any(|text| rsync_daemon(text.as_bytes()).is_some());
    let table = [
        (
            some_by_rsync && args.run.verify_every.is_some(),
            "--verify-every with rsync",
            "--checksum with --rescan has rsync compare by content",
        ),
        (args.run.watch == Some(Watch::Fanotify), "--watch fanotify", "use --watch inotify"),
    ];
    match table.into_iter().find(|(given, _, _)| *given) {
        Some((_, option, hint)) => Err(not_yet(option).hint(hint)),
        None => Ok(()),
    }
}

/// Where what would be lost is kept: a name in the target, so that it is on the same file system and
/// beneath the root.
fn trash(args: &PushArgs) -> Result<Option<Trash>> {
    let TrashArgs { trash, trash_age } = &args.run.trash;
    let age = optional("--trash-age", trash_age.as_deref(), value::age)?;
    let Some(dir) = trash else {
        return match age {
            Some(_) => Err(Error::usage("--trash-age does nothing without --trash")
                .hint("--trash DIR says where what is deleted and replaced is kept")),
            None => Ok(None),
        };
    };
    if args.transfer.inplace {
        return Err(Error::usage("--trash cannot keep what --inplace writes over")
            .hint("leave out one of --trash and --inplace"));
    }
    let bytes = dir.as_bytes();
    let name = bytes.strip_suffix(b"/").unwrap_or(bytes);
    let trash = RelPath::new(name).map(|dir| Trash { dir, age }).ok().filter(Trash::valid);
    trash.map(Some).ok_or_else(|| {
        Error::usage(format!("bad --trash '{}': not a name in TARGET", shown(dir)))
            .hint("what is moved there stays on the same file system: --trash .trash, say")
    })
}

/// What owners and permissions become. What is not carried cannot become anything.
fn mapping(args: &PushArgs, world: &World) -> Result<Mapping> {
    let asked = &args.attributes;
    let conflicts = [
        (asked.chown.is_some() && asked.usermap.is_some(), "--chown", "--usermap"),
        (asked.chown.is_some() && asked.groupmap.is_some(), "--chown", "--groupmap"),
        (asked.usermap.is_some() && asked.no_owner, "--usermap", "--no-owner"),
        (asked.groupmap.is_some() && asked.no_group, "--groupmap", "--no-group"),
        (!asked.chmod.is_empty() && asked.no_perms, "--chmod", "--no-perms"),
    ];
    if let Some((_, one, other)) = conflicts.into_iter().find(|(both, _, _)| *both) {
        return Err(Error::usage(format!("{one} does not go with {other}"))
            .hint(format!("leave out one of {one} and {other}")));
    }
    let mut mapping = Mapping::default();
    let text = |option: &str, given: &OsStr| -> Result<String> {
        let text = given.to_str().map(str::to_owned);
        text.ok_or_else(|| bad(option, &given.to_string_lossy(), "it is not UTF-8"))
    };
    if let Some(given) = &asked.chown {
        let text = text("--chown", given)?;
        let (user, group) = text.split_once(':').unwrap_or((&text, ""));
        for (to, map, off, option) in [
            (user, &mut mapping.users, asked.no_owner, "--no-owner"),
            (group, &mut mapping.groups, asked.no_group, "--no-group"),
        ] {
            if !to.is_empty() && off {
                return Err(Error::usage(format!("--chown {text} does not go with {option}"))
                    .hint("--chown USER and --chown :GROUP say one of both"));
            }
            if !to.is_empty() {
                *map = OwnerMap::all(to).map_err(|why| bad("--chown", &text, &why.to_string()))?;
            }
        }
    }
    for (option, given, map) in [
        ("--usermap", &asked.usermap, &mut mapping.users),
        ("--groupmap", &asked.groupmap, &mut mapping.groups),
    ] {
        if let Some(given) = given {
            let text = text(option, given)?;
            *map = OwnerMap::parse(&text).map_err(|why| bad(option, &text, &why.to_string()))?;
        }
    }
    for given in &asked.chmod {
        let text = text("--chmod", given)?;
        let more = Chmod::parse(&text, world.umask).map_err(|why| bad("--chmod", &text, &why))?;
        mapping.chmod.then(more);
    }
    Ok(mapping)
}

fn attributes(args: &PushArgs) -> Attributes {
    let asked = &args.attributes;
    let xattrs = Classes::USER.with(Classes::PRIVILEGED).only_if(!asked.no_xattrs);
    Attributes {
        perms: !asked.no_perms,
        owner: !asked.no_owner,
        group: !asked.no_group,
        times: !asked.no_times,
        numeric_ids: asked.numeric_ids,
        specials: true,
        devices: !asked.no_devices,
        hard_links: !asked.no_hard_links,
        xattrs: xattrs.with(Classes::ACLS.only_if(!asked.no_acls)),
    }
}

fn delete(when: Option<When>) -> Delete {
    match when {
        None | Some(When::Yes) => Delete::Yes,
        Some(When::No) => Delete::No,
        Some(When::Startup) => Delete::Startup,
        Some(When::Running) => Delete::Running,
    }
}

fn watch(how: Option<Watch>) -> Result<WatchChoice> {
    match how {
        None | Some(Watch::Auto) => Ok(WatchChoice::Auto),
        Some(Watch::Inotify) => Ok(WatchChoice::Inotify),
        Some(Watch::Notify) => Ok(WatchChoice::Notify),
        Some(Watch::Poll) => Ok(WatchChoice::Poll),
        Some(Watch::Fanotify) => Err(not_yet("--watch fanotify")),
    }
}

fn ssh(reach: &ReachArgs, world: &World) -> Result<SshOptions> {
    let port = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|p| *p != 0 && !text.starts_with('+'));
        port.ok_or_else(|| "not a number from 1 to 65535".to_owned())
    };
    Ok(SshOptions {
        config: reach.ssh_config.as_ref().map(|path| world.cwd.join(path)),
        port: optional("--port", reach.port.as_deref(), port)?,
        identities: reach.identity.iter().map(|path| world.cwd.join(path)).collect(),
        command: optional("--ssh-command", reach.ssh_command.as_deref(), value::words)?,
        home: world.home.clone(),
        user: world.user.clone(),
        auth_sock: world.auth_sock.clone(),
    })
}

fn agent_options(reach: &ReachArgs, world: &World) -> Result<AgentOptions> {
    if let Some(path) = &reach.agent_path {
        check_agent_path(path)?;
    }
    Ok(AgentOptions {
        path: reach.agent_path.clone(),
        binary: reach.agent_binary.as_ref().map(|path| world.cwd.join(path)),
        own_binary: world.exe.clone(),
    })
}

pub(super) fn check_agent_path(path: &str) -> Result<()> {
    if path.is_empty() || path.contains(['\0', '\n', '\r']) {
        return Err(bad("--agent-path", path, "not a path"));
    }
    Ok(())
}

pub(super) fn output(args: &OutputArgs, world: &World) -> Output {
    Output {
        json: args.json,
        verbose: args.verbose,
        quiet: args.quiet,
        progress: world.stderr_terminal && !(args.no_progress || args.json || args.quiet),
    }
}

/// A name that a person can type and see.
fn checked_name(name: &str) -> Result<String> {
    if name.is_empty() || name.starts_with('-') || name.chars().any(char::is_control) {
        let why = "a name is not empty, begins with no hyphen and holds no control characters";
        return Err(bad("--name", name, why));
    }
    Ok(name.to_owned())
}

/// Reads a value if there is one.
pub(super) fn optional<T>(
    option: &str,
    text: Option<&str>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>> {
    text.map(|text| read(text).map_err(|why| bad(option, text, &why))).transpose()
}

fn bad(option: &str, value: &str, why: &str) -> Error {
    Error::usage(format!("bad {option} '{}': {why}", shown(OsStr::new(value))))
        .hint(format!("see {option} in lsyncd push --help"))
}

fn bad_target(text: &OsStr, error: BadTarget) -> Error {
    Error::usage(format!("bad target '{}': {error}", shown(text))).hint(error.hint())
}

fn times(n: usize) -> String {
    if n == 1 { "once".to_owned() } else { format!("{n} times") }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
