//! `lsyncd run`: from a configuration file to mirrors, by the same definitions as the command line.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, Command};

use super::args::{PushArgs, RunConfigArgs};
use super::legacy::CommandLine;
use super::{Invocation, Output, World, push, rsync, shown};
use crate::config::toml::{Known, Mirror, Settings, Shape, read};
use crate::config::{AnyMirror, MirrorConfig, Verify, guard, value};
use crate::control::Places;
use crate::daemon::two::{Carried, TwoMirror};
use crate::error::{Error, Exit, Result};

/// No configuration is larger: something else was meant.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Options of `push` that say how it runs and not what a mirror is.
const NO_KEYS: [&str; 10] = [
    "once",
    "dry-run",
    "json",
    "verbose",
    "quiet",
    "no-progress",
    "name",
    "control",
    "metrics",
    "help",
];
/// Options whose values are files of this host.
const FILES: [&str; 5] = ["identity", "ssh-config", "agent-binary", "exclude-from", "include-from"];

/// The mirrors of a file, to be kept going.
#[derive(Debug)]
pub struct ManyMirrors {
    /// The file, absolute: it is read again on HUP.
    pub config: PathBuf,
    /// What holds for the process.
    pub settings: Settings,
    /// At least one.
    pub mirrors: Vec<AnyMirror>,
    /// Become a daemon.
    pub daemon: bool,
    /// Where the control socket is to be.
    pub control: Places,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// What is said.
    pub output: Output,
}

/// Is it a file of ours, and not one of Lsyncd 2?
pub fn is_toml(config: &OsStr) -> bool {
    Path::new(config).extension().is_some_and(|end| end == "toml")
}

pub(super) fn run(args: &RunConfigArgs, world: &World) -> Result<Invocation> {
    if !is_toml(&args.config) {
        return two(args);
    }
    let config = world.cwd.join(&args.config);
    let (mut settings, mirrors) = load(&config, world)?;
    // What the command line says stands above the file.
    for (given, setting) in [
        (&args.logfile, &mut settings.logfile),
        (&args.pidfile, &mut settings.pidfile),
        (&args.control, &mut settings.control),
    ] {
        if let Some(given) = given {
            *setting = Some(world.cwd.join(given));
        }
    }
    if args.daemon && settings.logfile.is_none() {
        return Err(Error::usage("a daemon has nobody to talk to without a logfile")
            .hint("--logfile FILE, or logfile = \"…\" in [settings]"));
    }
    if args.output.json && settings.logfile.is_some() {
        return Err(Error::usage("--json does not go with a logfile, which is for people")
            .hint("lsyncd status --json says how the mirrors stand"));
    }
    let metrics = args.metrics.as_deref().or(settings.metrics.as_deref());
    let metrics = push::optional("--metrics", metrics, value::listen)?;
    let output = push::output(&args.output, world);
    Ok(Invocation::Run(Box::new(ManyMirrors {
        control: world.places(settings.control.as_ref()),
        metrics,
        config,
        daemon: args.daemon,
        output: Output { progress: false, ..output },
        settings,
        mirrors,
    })))
}

/// A configuration of Lsyncd 2, as its own command line has it; but in the foreground.
fn two(args: &RunConfigArgs) -> Result<Invocation> {
    let OutputArgsGiven { json, quiet, verbose } = OutputArgsGiven::of(args);
    let table = [
        (json, "--json", "lsyncd status --json says how mirrors stand"),
        (quiet, "-q", "settings { log = … } says what is logged"),
        (verbose, "-v", "-log all, on Lsyncd 2's command line, or settings { log = 'all' }"),
        (args.control.is_some(), "--control", "its status is in settings { statusFile = … }"),
        (args.metrics.is_some(), "--metrics", "its status is in settings { statusFile = … }"),
    ];
    if let Some((_, option, hint)) = table.into_iter().find(|(given, ..)| *given) {
        let what = format!("{option} does not go with a configuration of Lsyncd 2");
        return Err(Error::usage(what).hint(hint));
    }
    Ok(Invocation::Two(Box::new(CommandLine {
        config: Some(args.config.clone()),
        nodaemon: !args.daemon,
        logfile: args.logfile.clone(),
        pidfile: args.pidfile.clone(),
        ..CommandLine::default()
    })))
}

struct OutputArgsGiven {
    json: bool,
    quiet: bool,
    verbose: bool,
}

impl OutputArgsGiven {
    fn of(args: &RunConfigArgs) -> OutputArgsGiven {
        let output = &args.output;
        OutputArgsGiven { json: output.json, quiet: output.quiet, verbose: output.verbose > 0 }
    }
}

/// Reads a configuration: its settings, and its mirrors wholly resolved.
///
/// # Errors
/// The file cannot be read, or something in it is wrong; with the line or the mirror.
pub fn load(config: &Path, world: &World) -> Result<(Settings, Vec<AnyMirror>)> {
    let file = shown(config.as_os_str());
    let cannot = || Error::failed(format!("cannot read the configuration {file}"));
    let metadata = config.metadata().map_err(|error| cannot().because(error))?;
    if metadata.len() > MAX_FILE {
        return Err(cannot().because("it is larger than any configuration"));
    }
    let text = std::fs::read(config).map_err(|error| cannot().because(error))?;
    let text = String::from_utf8(text).map_err(|_| cannot().because("it is not UTF-8"))?;
    let mut read = read(&text, &file, &options())?;
    // A path begins where the file is: whatever starts lsyncd, from wherever.
    let dir = config.parent().unwrap_or(Path::new("/")).to_owned();
    let here = World { cwd: dir, late_sources: true, ..world.clone() };
    let settings = &mut read.settings;
    let paths = [&mut settings.control, &mut settings.logfile, &mut settings.pidfile];
    for path in paths.into_iter().flatten() {
        *path = here.cwd.join(&*path);
    }
    let mut mirrors = Vec::new();
    for mirror in &read.mirrors {
        mirrors.extend(resolve(mirror, &here).map_err(|error| within(&file, mirror, &error))?);
    }
    let agents: Vec<MirrorConfig> = mirrors
        .iter()
        .filter_map(|mirror| match mirror {
            AnyMirror::Agent(config) => Some((**config).clone()),
            AnyMirror::Rsync(_) => None,
        })
        .collect();
    let all = guard::all(&agents).and_then(|()| rsync::guard(&mirrors));
    all.and_then(|()| names_are_unique(&mirrors)).map_err(|error| again(&file, &error))?;
    Ok((read.settings, mirrors))
}

fn names_are_unique(mirrors: &[AnyMirror]) -> Result<()> {
    for (at, one) in mirrors.iter().enumerate() {
        if mirrors[..at].iter().any(|other| other.name() == one.name()) {
            let name = shown(OsStr::new(one.name()));
            return Err(Error::failed(format!("two mirrors are called {name}"))
                .hint("name = \"…\" gives each a name of its own"));
        }
    }
    Ok(())
}

/// An error of one mirror of a file.
fn within(file: &str, mirror: &Mirror, error: &Error) -> Error {
    let name = mirror.name.as_deref().unwrap_or(&mirror.source);
    let name = shown(OsStr::new(name));
    again(&format!("{file}: line {}: mirror {name}", mirror.line), error)
}

/// The same error, and where it is. What is wrong in a file is no usage error.
fn again(place: &str, error: &Error) -> Error {
    let what = format!("{place}: {error}");
    let new = match error.exit() {
        Exit::Stopped => Error::stopped(what),
        _ => Error::failed(what),
    };
    match error.hint_text() {
        Some(hint) => new.hint(hint),
        None => new,
    }
}

/// The options that a mirror in a file may have: those of `push`, by their long names.
pub(super) fn options() -> Vec<Known> {
    let push = PushArgs::augment_args(Command::new("push"));
    let known = push.get_arguments().filter_map(|arg| {
        let name = arg.get_long().filter(|name| !NO_KEYS.contains(name))?.to_owned();
        let most = arg.get_num_args().map_or(1, |range| range.min_values());
        let shape = match arg.get_action() {
            clap::ArgAction::SetTrue => Shape::Flag,
            clap::ArgAction::Append => Shape::Values,
            _ if most == 0 => Shape::Maybe,
            _ => Shape::Value,
        };
        Some(Known { name, shape })
    });
    known.collect()
}

fn resolve(mirror: &Mirror, world: &World) -> Result<Vec<AnyMirror>> {
    let mut words: Vec<OsString> = vec!["lsyncd".into(), "push".into()];
    words.extend(mirror.words.iter().map(|word| at_home(word, world)));
    if let Some(name) = &mirror.name {
        match &mirror.targets[..] {
            [_] => words.push(format!("--name={name}").into()),
            all => words.extend(all.iter().map(|one| format!("--name={name}@{one}").into())),
        }
    }
    words.push("--".into());
    words.push(home(&mirror.source, world));
    words.extend(mirror.targets.iter().map(|target| home(target, world)));
    match super::parse(words, world)? {
        Invocation::Push { mirrors, verify: Verify::No, .. } => Ok(mirrors),
        // Nothing else is called push.
        _ => Err(Error::failed("cannot be understood")),
    }
}

/// `~/` is the user's home: no shell reads the file.
fn home(path: &str, world: &World) -> OsString {
    match (path.strip_prefix("~/"), &world.home) {
        (Some(rest), Some(home)) => home.join(rest).into_os_string(),
        _ => path.into(),
    }
}

/// The same in the value of an option that names a file.
fn at_home(word: &OsString, world: &World) -> OsString {
    let text = word.to_str().and_then(|word| word.strip_prefix("--")?.split_once('='));
    match text {
        Some((option, value)) if FILES.contains(&option) => {
            let mut word = OsString::from(format!("--{option}="));
            word.push(home(value, world));
            word
        }
        _ => word.clone(),
    }
}

/// What each mirror of a file means, without starting anything.
///
/// # Errors
/// As [`load`].
pub fn check(config: &OsStr, world: &World) -> Result<String> {
    let (_, mirrors) = load(&world.cwd.join(config), world)?;
    let mirrors: Vec<TwoMirror> = mirrors.into_iter().map(described).collect();
    Ok(super::two::check_mirrors(&mirrors, ["mirror", "mirrors"]))
}

fn described(mirror: AnyMirror) -> TwoMirror {
    let name = shown(OsStr::new(mirror.name()));
    let (source, target, why, rules, carried) = match mirror {
        AnyMirror::Agent(config) => {
            let why = match &config.target {
                crate::config::Target::Local(_) => "lsyncd itself",
                crate::config::Target::Ssh(_) => "lsync-agent",
            };
            let rules = config.filter.texts().map(<[u8]>::to_vec).collect();
            let (source, target) = (config.source.clone(), config.target.to_string());
            (source, target, why, rules, Carried::Agent(config, None))
        }
        AnyMirror::Rsync(config) => {
            let rules = config.filter.texts().map(<[u8]>::to_vec).collect();
            let (source, target) = (config.source.clone(), shown(&config.target));
            (source, target, "the system's rsync", rules, Carried::Rsync(config))
        }
    };
    TwoMirror {
        name,
        source,
        target: shown(OsStr::from_bytes(target.as_bytes())),
        carried,
        why: why.to_owned(),
        notes: Vec::new(),
        rules,
        crontab: Vec::new(),
        tunnel: None,
    }
}

/// The table of a mirror's keys, as `docs/configuration.md` has it: what each takes, and what it is.
pub fn reference() -> String {
    let push = PushArgs::augment_args(Command::new("push"));
    let known = options();
    let mut table = String::from("| Key | Takes | What it is |\n|---|---|---|\n");
    for arg in push.get_arguments() {
        let Some(known) = known.iter().find(|known| Some(known.name.as_str()) == arg.get_long())
        else {
            continue;
        };
        let values = arg.get_value_names().unwrap_or_default();
        let value = values.first().map_or("", |value| value.as_str());
        let takes = match known.shape {
            Shape::Flag => "`true`".to_owned(),
            Shape::Value => value.to_owned(),
            Shape::Values => format!("{value}, or a list of them"),
            Shape::Maybe => format!("`true`, or {value}"),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        // A bar would end the cell, and an angle would begin a tag.
        let plain = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
        table += &format!("| `{}` | {} | {} |\n", known.name, plain(&takes), plain(&help));
    }
    table
}
