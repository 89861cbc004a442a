//! The command line: words to what is meant by them, wholly checked before anything starts.
//!
//! If the first word is one of our commands or options it is ours; anything else is Lsyncd 2's
//! command line ([`legacy`]). Only this module and `main` read the environment, and here only
//! [`World::of_this_process`] does: the rest is a function of the words and of that.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches};

use crate::config::{AgentOptions, AnyMirror, SshOptions, SshTarget, Verify};
use crate::control::Places;
use crate::error::{Error, Exit, Result};

mod args;
mod authorize;
mod complaint;
mod generate;
pub mod legacy;
mod place;
mod push;
mod rsync;
mod rules;
pub mod run;
mod steer;
pub mod two;
mod why;

use args::{AgentCommand, Cli, Command};

pub use args::Generate;
pub use authorize::{Authorization, Authorized};
pub use generate::generate;
pub use steer::{Asked, Question as Steering};
pub use why::Question;

/// What `--version` prints.
pub const VERSION: &str = concat!("Version: ", env!("CARGO_PKG_VERSION"));

/// What the process was started in.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// The working directory, absolute; empty where it is gone.
    pub cwd: PathBuf,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The user's login name.
    pub user: Option<String>,
    /// `CVSIGNORE`.
    pub cvsignore: Option<OsString>,
    /// `SSH_AUTH_SOCK`.
    pub auth_sock: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub cache_dir: Option<PathBuf>,
    /// What this host is called.
    pub host: String,
    /// The user that we run as.
    pub uid: u32,
    /// A service manager listens (`NOTIFY_SOCKET`).
    pub notify: bool,
    /// A source need not be there yet.
    pub late_sources: bool,
    /// This program's own file.
    pub exe: Option<PathBuf>,
    /// What new files do not get, as bits of a mode.
    pub umask: u32,
    /// Standard output is a terminal.
    pub stdout_terminal: bool,
    /// Standard error is a terminal.
    pub stderr_terminal: bool,
}

impl World {
    /// Reads the environment of this process.
    #[must_use]
    pub fn of_this_process() -> World {
        use std::io::IsTerminal;
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let uid = nix::unistd::Uid::current();
        let account = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
        let login = || var("LOGNAME").or_else(|| var("USER")).and_then(|n| n.into_string().ok());
        World {
            cwd: std::env::current_dir().unwrap_or_default(),
            home: std::env::home_dir().filter(|home| home.is_absolute()),
            user: account.or_else(login),
            cvsignore: var("CVSIGNORE"),
            auth_sock: var("SSH_AUTH_SOCK").map(PathBuf::from),
            runtime_dir: var("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_absolute()),
            cache_dir: var("XDG_CACHE_HOME").map(PathBuf::from).filter(|d| d.is_absolute()),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            uid: nix::unistd::Uid::effective().as_raw(),
            notify: var("NOTIFY_SOCKET").is_some(),
            late_sources: false,
            exe: std::env::current_exe().ok(),
            umask: lsync_agent::meta::current_umask(),
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal: std::io::stderr().is_terminal(),
        }
    }
}

/// What is said, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Output {
    /// Objects on standard output instead of lines on standard error.
    pub json: bool,
    /// 1: a line for what is done to each path. 2 and more: what happens inside.
    pub verbose: u8,
    /// Only errors, problems and the line that says ready.
    pub quiet: bool,
    /// A progress bar may be drawn on standard error.
    pub progress: bool,
}

/// What is meant by a command line.
#[derive(Debug)]
pub enum Invocation {
    /// Mirror, in the foreground.
    Push {
        /// One for each target, at least one; names and places are checked.
        mirrors: Vec<AnyMirror>,
        /// End when the first mirror is complete.
        once: bool,
        /// Only say what would be done.
        dry_run: bool,
        /// Only compare.
        verify: Verify,
        /// Where its control socket is to be.
        control: Places,
        /// Where metrics are served.
        metrics: Option<SocketAddr>,
        /// What is said.
        output: Output,
    },
    /// Keep the mirrors of a file going.
    Run(Box<run::ManyMirrors>),
    /// Ask a running lsyncd.
    Ask(Box<Asked>),
    /// Say what decides about paths.
    Why(Box<Question>),
    /// Put an agent on a host, or test it.
    Agent(Box<AgentVisit>),
    /// Print the line of `authorized_keys` for a key.
    Authorize(Box<Authorization>),
    /// Do what Lsyncd 2 would do with this command line.
    Two(Box<legacy::CommandLine>),
    /// Load this configuration of Lsyncd 2 and say what it means.
    Check(OsString),
    /// Load this configuration of Lsyncd 2 and print the same as TOML.
    Migrate(OsString),
    /// Print the manual page or completions.
    Generate(Generate),
    /// Print a text (help, the version) on standard output and end.
    Print {
        /// The text, with its line ends.
        text: String,
        /// The exit code.
        exit: Exit,
    },
}

/// What `agent install` and `agent check` are asked to do.
#[derive(Debug)]
pub struct AgentVisit {
    /// Copy it there; else only look.
    pub install: bool,
    /// The host.
    pub host: SshTarget,
    /// How to reach it.
    pub ssh: SshOptions,
    /// Which agent.
    pub agent: AgentOptions,
    /// What is said.
    pub output: Output,
}

const COMMANDS: [&str; 12] = [
    "push", "agent", "run", "status", "flush", "pause", "resume", "why", "monitor", "verify",
    "check", "migrate",
];

/// Reads a command line; `args` begins with the program's name.
///
/// # Errors
/// Whatever is wrong with it, with the exit code that goes with it.
pub fn parse(args: impl IntoIterator<Item = OsString>, world: &World) -> Result<Invocation> {
    let args: Vec<OsString> = args.into_iter().collect();
    match args.get(1).map(|first| first.as_bytes()) {
        Some(b"-V" | b"--version") => return Ok(version()),
        Some(first) if is_ours(first) => {}
        _ => return old(args.get(1..).unwrap_or_default(), world),
    }
    let parsed = Cli::command().try_get_matches_from(args);
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) => return complaint::print_or_error(&error, world),
    };
    let cli = Cli::from_arg_matches(&matches)
        .map_err(|error| Error::usage(complaint::one_line(&error.to_string())))?;
    if let Some(what) = cli.generate {
        return Ok(Invocation::Generate(what));
    }
    match cli.command {
        Some(Command::Push(push)) => {
            let matches = matches.subcommand_matches("push").unwrap_or(&matches);
            push::push(&push, matches, world)
        }
        Some(Command::Verify(verify)) => {
            let matches = matches.subcommand_matches("verify").unwrap_or(&matches);
            push::verify(*verify, matches, world)
        }
        Some(Command::Why(why)) => {
            let matches = matches.subcommand_matches("why").unwrap_or(&matches);
            why::why(&why, matches, world)
        }
        Some(Command::Agent(AgentCommand::Install(args))) => push::agent(true, &args, world),
        Some(Command::Agent(AgentCommand::Check(args))) => push::agent(false, &args, world),
        Some(Command::Agent(AgentCommand::Authorize(args))) => authorize::authorize(&args, world),
        Some(Command::Run(args)) => run::run(&args, world),
        Some(Command::Status(args)) => Ok(steer::status(&args, world)),
        Some(Command::Flush(args)) => steer::flush(&args, world),
        Some(Command::Monitor(args)) => steer::monitor(&args, world),
        Some(Command::Pause(args)) => Ok(steer::pause(&args, world)),
        Some(Command::Resume(args)) => Ok(steer::resume(&args, world)),
        Some(Command::Check(args)) => Ok(Invocation::Check(args.config)),
        Some(Command::Migrate(args)) => Ok(Invocation::Migrate(args.config)),
        None => Err(Error::usage("nothing to do").hint("see lsyncd --help")),
    }
}

fn is_ours(first: &[u8]) -> bool {
    let long = first.split(|&b| b == b'=').next();
    COMMANDS.iter().any(|name| name.as_bytes() == first)
        || matches!(first, b"-h" | b"--help")
        || long == Some(b"--generate")
}

fn version() -> Invocation {
    Invocation::Print { text: format!("{VERSION}\n"), exit: Exit::Done }
}

/// An Lsyncd 2 command line.
fn old(words: &[OsString], world: &World) -> Result<Invocation> {
    match legacy::read(words) {
        legacy::Answer::Version => Ok(version()),
        legacy::Answer::Help => {
            let help = Cli::command().render_long_help();
            let text =
                if world.stdout_terminal { help.ansi().to_string() } else { help.to_string() };
            Ok(Invocation::Print { text, exit: Exit::Failed })
        }
        legacy::Answer::Monitors => {
            Ok(Invocation::Print { text: legacy::MONITORS.to_owned(), exit: Exit::Failed })
        }
        legacy::Answer::Run(line) => Ok(Invocation::Two(line)),
        legacy::Answer::Not(error) => Err(error),
    }
}

/// What is known, and answered with an error until it is built.
fn not_yet(what: &str) -> Error {
    Error::usage(format!("{what} is not there yet"))
}

/// Words from outside, made safe to show.
fn shown(text: &OsStr) -> String {
    lsync_protocol::path::Escaped(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests;
