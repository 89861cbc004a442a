//! The command line as clap sees it: every option of the contract, with its help.
//!
//! The manual page and the completions are made from this one definition. What an option means is
//! decided in [`super::push`]; values are texts here, so that their errors are ours.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

/// What stands behind the help of an option or command that is known and not built yet.
macro_rules! later {
    ($help:literal) => {
        concat!($help, " [not there yet]")
    };
}

/// Mirror a directory, live: changes arrive on the other side within milliseconds
#[derive(Debug, Parser)]
#[command(
    name = "lsyncd",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    override_usage = "lsyncd push [OPTIONS] SOURCE TARGET...\n       lsyncd COMMAND --help",
    after_help = "\
Examples:
  lsyncd push /srv/www backup:/srv/www           mirror over ssh, and keep mirroring
  lsyncd push --once ~/photos /media/disk/photos mirror once and end
  lsyncd push -n . me@host:project               only show what would be done"
)]
pub(super) struct Cli {
    /// Print the manual page or a shell's completions: man, bash, zsh or fish
    #[arg(long, value_name = "WHAT", value_enum, hide_possible_values = true)]
    pub(super) generate: Option<Generate>,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// What `--generate` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generate {
    /// The manual page, in roff.
    Man,
    /// Completions of bash.
    Bash,
    /// Completions of zsh.
    Zsh,
    /// Completions of fish.
    Fish,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Mirror now, then keep mirrored, in the foreground
    Push(Box<PushArgs>),
    /// Put the agent on a host, or test it
    #[command(subcommand, arg_required_else_help = true)]
    Agent(AgentCommand),
    /// Keep the mirrors of a configuration file going
    ///
    /// *.toml is a file of lsyncd, anything else one of Lsyncd 2. No target that is away ends it, and
    /// HUP has it read the file again.
    Run(RunConfigArgs),
    /// Show how the mirrors of a running lsyncd stand
    Status(StatusArgs),
    /// Wait until all that has changed until now is mirrored
    ///
    /// Exit codes: 0 it is, 23 but for some paths, which are listed, 25 it was not to be had: paused,
    /// stopped by a guard, or not in the time given.
    Flush(FlushArgs),
    /// Stop sending changes until resume; they are remembered
    Pause(AskArgs),
    /// Go on after a pause, or (with --confirm) after a guard
    Resume(ResumeArgs),
    /// Say whether a path is mirrored, and which rule decides it
    ///
    /// It asks the rules given here, and those in files of SOURCE; no mirror has to run.
    Why(Box<WhyArgs>),
    /// Watch the mirrors of a running lsyncd on the whole screen, with keys to steer them
    Monitor(AskArgs),
    /// Compare a source and its target by content, and list what differs
    Verify(Box<VerifyArgs>),
    /// Load a configuration and say what each of its mirrors will do
    ///
    /// Nothing is started and nothing is touched; but a configuration of Lsyncd 2 is a program in
    /// Lua, and is run as such.
    Check(ConfigArgs),
    /// Print the TOML that does what an Lsyncd 2 configuration does
    ///
    /// What TOML cannot express is listed in it, as comments.
    Migrate(ConfigArgs),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(super) struct RunConfigArgs {
    /// The configuration file
    #[arg(value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub(super) config: OsString,

    /// Go to the background; ends when all mirrors were begun
    #[arg(long)]
    pub(super) daemon: bool,

    /// Write the number of the process there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) pidfile: Option<PathBuf>,

    /// Append what is said to this file; HUP opens it anew
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) logfile: Option<PathBuf>,

    /// The control socket, as for push
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(super) control: Option<PathBuf>,

    /// Serve a page and metrics, as for push
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics: Option<String>,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Which mirrors are asked.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub(super) struct AskArgs {
    /// The name of a mirror, or its source; needed where several run
    #[arg(value_name = "NAME")]
    pub(super) name: Option<OsString>,

    /// All mirrors
    #[arg(long, conflicts_with = "name")]
    pub(super) all: bool,

    /// The control socket of an lsyncd that was started with --control
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(super) control: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) ask: AskArgs,

    /// An object on standard output
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `flush`.
#[derive(Debug, Args)]
pub(super) struct FlushArgs {
    #[command(flatten)]
    pub(super) ask: AskArgs,

    /// Wait no longer than this
    #[arg(long, value_name = "SECONDS")]
    pub(super) timeout: Option<String>,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    pub(super) ask: AskArgs,

    /// Let the deletes happen that a guard has stopped: everything is compared once more, and what
    /// the source does not have goes
    #[arg(long)]
    pub(super) confirm: bool,
}

/// Arguments of `check` and `migrate`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The configuration file: TOML if it is called *.toml, else Lua
    #[arg(value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub(super) config: OsString,
}

/// What is done with the agent of a host.
#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Copy the agent to a host, if it has none that fits, and test it
    Install(AgentArgs),
    /// Say whether and how a mirror to a host would work; changes nothing there
    Check(AgentArgs),
    /// Print the authorized_keys line by which a key can mirror to a directory, and do no more
    Authorize(AuthorizeArgs),
}

/// Arguments of `agent authorize`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    override_usage = "lsyncd agent authorize [OPTIONS] [USER@]HOST:DIR\n       lsyncd agent authorize [OPTIONS] --root DIR [HOST]",
    after_help = "\
The line is printed on standard output; nobody is asked and nothing is changed. Who logs in with the
key gets the agent, whatever else is asked for, and the agent serves DIR, whatever it is asked for.
DIR has to exist, and must not hold the account's home.

Examples:
  ssh-keygen -t ed25519 -N '' -f ~/.ssh/mirror
  lsyncd agent authorize -i ~/.ssh/mirror.pub backup:/srv/www
  lsyncd push -i ~/.ssh/mirror /srv/www backup:/srv/www"
)]
pub(super) struct AuthorizeArgs {
    /// [USER@]HOST:DIR or ssh://[USER@]HOST[:PORT]/DIR; with --root a HOST alone, for what the ssh
    /// configuration says of its keys
    #[arg(value_name = "TARGET", value_hint = ValueHint::Hostname)]
    pub(super) target: Option<OsString>,

    /// The directory on the host that may be reached: absolute, ~/…, or from the login directory
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    pub(super) root: Option<OsString>,

    /// No name in it goes. What is overwritten is overwritten
    #[arg(long)]
    pub(super) no_delete: bool,

    /// Nothing in it is changed: for lsyncd verify
    #[arg(long)]
    pub(super) read_only: bool,

    /// What is deleted and what is replaced is kept in the directory of this name in it, whatever
    /// --trash of the mirror says
    #[arg(long, value_name = "NAME")]
    pub(super) trash: Option<OsString>,

    /// The key, private or public: KEY.pub is read [default: the first that ssh would show the host]
    #[arg(short = 'i', long, value_name = "KEY", value_hint = ValueHint::FilePath)]
    pub(super) identity: Option<PathBuf>,

    /// Read this instead of ~/.ssh/config and /etc/ssh/ssh_config
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ssh_config: Option<PathBuf>,

    /// The agent on the host [default: ~/.cache/lsyncd/lsync-agent, where agent install puts it]
    #[arg(long, value_name = "PATH")]
    pub(super) agent_path: Option<String>,
}

/// Arguments of `agent install` and `agent check`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(super) struct AgentArgs {
    /// [USER@]HOST or ssh://[USER@]HOST[:PORT]
    #[arg(value_name = "HOST", value_hint = ValueHint::Hostname)]
    pub(super) host: OsString,

    #[command(flatten)]
    pub(super) reach: ReachArgs,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `push`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    override_usage = "lsyncd push [OPTIONS] SOURCE TARGET...",
    after_help = "\
The contents of SOURCE become the contents of TARGET, which is created if it is missing; its parent
must exist. Permissions, owners, times, symbolic links and deletions are mirrored; extended
attributes, ACLs and hard links too.
TARGET is DIR, [USER@]HOST:DIR or ssh://[USER@]HOST[:PORT]/DIR; HOST:. is the login directory.
rsync carries what goes to [USER@]HOST::MODULE[/DIR] and rsync://[USER@]HOST[:PORT]/MODULE[/DIR].

Exit codes: 0 done, 2 usage, 23 some paths could not be mirrored, 25 stopped by a guard,
255 could not start or connect."
)]
pub(super) struct PushArgs {
    /// The directory whose contents are mirrored
    #[arg(value_name = "SOURCE", value_hint = ValueHint::DirPath)]
    pub(super) source: PathBuf,

    /// Where they are mirrored to: a directory, here or on a host
    #[arg(value_name = "TARGET", required = true, value_hint = ValueHint::AnyPath)]
    pub(super) targets: Vec<OsString>,

    #[command(flatten)]
    pub(super) run: RunArgs,
    #[command(flatten)]
    pub(super) rules: RuleArgs,
    #[command(flatten)]
    pub(super) attributes: AttributeArgs,
    #[command(flatten)]
    pub(super) transfer: TransferArgs,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) daemon: DaemonArgs,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    override_usage = "lsyncd verify [OPTIONS] SOURCE TARGET",
    after_help = "\
Give it what the mirror was given: what rules leave out, what is not carried and what the target
cannot hold is no difference. Each side hashes its own files (BLAKE3); content does not travel.
One line a difference, on standard output: missing, extra, kind, content or attributes, and the path.

Exit codes: 0 no differences, or all healed, 2 usage, 23 some paths could not be compared,
24 there are differences, 25 stopped by a guard, 255 could not start or connect."
)]
pub(super) struct VerifyArgs {
    /// The directory whose contents are mirrored
    #[arg(value_name = "SOURCE", value_hint = ValueHint::DirPath)]
    pub(super) source: PathBuf,

    /// Where they are mirrored to: a directory, here or on a host
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub(super) target: OsString,

    /// Mend what differs, and touch nothing else
    #[arg(long)]
    pub(super) heal: bool,

    /// Whether what only the target has is a difference: yes, no [default: yes]
    #[arg(long, value_name = "WHEN", value_enum, hide_possible_values = true)]
    pub(super) delete: Option<When>,

    /// With --heal: delete nothing if it were more names than this: a number, or a percentage of all
    #[arg(long, value_name = "N|P%")]
    pub(super) max_delete: Option<String>,

    /// With --heal: let the target become empty if the source is
    #[arg(long)]
    pub(super) allow_empty: bool,

    /// The trash of the mirror, a directory of this name in TARGET: not compared, and with --heal
    /// what is deleted and what is replaced is moved there
    #[arg(long, value_name = "DIR")]
    pub(super) trash: Option<OsString>,

    #[command(flatten)]
    pub(super) rules: RuleArgs,
    #[command(flatten)]
    pub(super) attributes: AttributeArgs,
    #[command(flatten)]
    pub(super) transfer: TransferArgs,
    #[command(flatten)]
    pub(super) reach: ReachArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    override_usage = "lsyncd why [OPTIONS] SOURCE PATH...",
    after_help = "\
Examples:
  lsyncd why -C --exclude '*.tmp' /srv/www cache/x.tmp
  lsyncd why --filter ': .rules' ~/photos ~/photos/2026/

Give the rules as they are given to push, in their order."
)]
pub(super) struct WhyArgs {
    /// The directory whose contents are mirrored
    #[arg(value_name = "SOURCE", value_hint = ValueHint::DirPath)]
    pub(super) source: PathBuf,

    /// What is asked about: a whole path, one from here, or one in SOURCE. It need not exist; with a
    /// slash at its end it is taken for a directory then
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(super) paths: Vec<OsString>,

    #[command(flatten)]
    pub(super) rules: RuleArgs,

    /// An object for each path on standard output
    #[arg(long)]
    pub(super) json: bool,
}

/// When and how far.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Running")]
pub(super) struct RunArgs {
    /// Mirror once and end
    #[arg(long)]
    pub(super) once: bool,

    /// Show what would be done, one line each, and touch nothing; implies --once
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,

    /// The longest a change waits to be sent together with others [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub(super) delay: Option<String>,

    /// Walk the whole tree again so often, for what no event told of; 0: never [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub(super) rescan: Option<String>,

    /// Compare the whole target by content so often, calmly and beside all else, and mend what
    /// drifted; 0: never [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub(super) verify_every: Option<String>,

    /// How changes are noticed: auto, inotify, notify (portable) or poll (only by --rescan)
    /// [default: auto]; fanotify is not there yet
    #[arg(long, value_name = "HOW", value_enum, hide_possible_values = true)]
    pub(super) watch: Option<Watch>,

    /// Delete what the source no longer has: yes, no, startup (only when the whole tree is
    /// compared), running (only live) [default: yes]
    #[arg(long, value_name = "WHEN", value_enum, hide_possible_values = true)]
    pub(super) delete: Option<When>,

    /// Halt before more names than this are deleted in a minute: a number, or a percentage of all
    #[arg(long, value_name = "N|P%")]
    pub(super) max_delete: Option<String>,

    /// Let the target become empty when the source does
    #[arg(long)]
    pub(super) allow_empty: bool,

    /// Create the directories above TARGET too
    #[arg(long)]
    pub(super) mkpath: bool,

    /// Have a shell run this when everything has arrived, at most once a second and one at a time;
    /// LSYNCD_MIRROR, LSYNCD_SOURCE, LSYNCD_TARGET and LSYNCD_OPS are in its environment
    #[arg(long, value_name = "COMMAND")]
    pub(super) on_synced: Option<OsString>,

    /// Have a shell run this when a path cannot be mirrored; LSYNCD_PATH, LSYNCD_CAUSE and
    /// LSYNCD_TRIES are in its environment, too
    #[arg(long, value_name = "COMMAND")]
    pub(super) on_problem: Option<OsString>,

    #[command(flatten)]
    pub(super) trash: TrashArgs,
}

/// Where what would be lost is kept.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Running")]
pub(super) struct TrashArgs {
    /// Move what is deleted and what is replaced to the directory of this name in TARGET, such as
    /// .trash, instead of losing it: to DIR/HOUR/PATH, where HOUR is 2026-11-23T10, in UTC. It is no
    /// part of the mirror, and stays as it is when a later start does not name it
    #[arg(long, value_name = "DIR")]
    pub(super) trash: Option<OsString>,

    /// Remove from the trash what has been there for longer: 30d, 12h, 2w, or seconds [default: for
    /// ever]
    #[arg(long, value_name = "AGE")]
    pub(super) trash_age: Option<String>,
}

/// `--watch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Watch {
    /// The best that host and file system allow (the default)
    Auto,
    #[value(help = later!("Linux, one mark for a whole file system, needs root"))]
    Fanotify,
    /// Linux
    Inotify,
    /// Portable
    Notify,
    /// No events: compare every --rescan seconds
    Poll,
}

/// `--delete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// At the start, by rescans, and live
    Yes,
    /// Never
    No,
    /// Only when the whole tree is compared
    Startup,
    /// Only live
    Running,
}

/// What is mirrored.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is mirrored (rsync's rules: the first that matches decides)")]
pub(super) struct RuleArgs {
    /// Leave out what matches, and leave it alone on the target
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    pub(super) exclude: Vec<OsString>,

    /// Do mirror what matches, although a later rule leaves it out
    #[arg(long, value_name = "PATTERN", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    pub(super) include: Vec<OsString>,

    /// A rule as rsync writes them: '- PATTERN', '+ PATTERN', 'P PATTERN' (protect), '. FILE'
    /// (rules from FILE), ': NAME' (rules from the file NAME in each directory) …
    #[arg(long, value_name = "RULE", allow_hyphen_values = true, action = clap::ArgAction::Append)]
    pub(super) filter: Vec<OsString>,

    /// Exclude the patterns in FILE, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, action = clap::ArgAction::Append)]
    pub(super) exclude_from: Vec<PathBuf>,

    /// Include the patterns in FILE, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, action = clap::ArgAction::Append)]
    pub(super) include_from: Vec<PathBuf>,

    /// Leave out what CVS does: its own list, $HOME/.cvsignore, $CVSIGNORE and the .cvsignore of
    /// each directory; these stand behind all other rules
    #[arg(short = 'C', long)]
    pub(super) cvs_exclude: bool,

    /// Delete on the target what the rules leave out
    #[arg(long)]
    pub(super) delete_excluded: bool,

    /// Do not enter directories on other file systems
    #[arg(short = 'x', long)]
    pub(super) one_file_system: bool,

    /// Leave out files larger than this: 4096, 10M, 1.5GB …
    #[arg(long, value_name = "SIZE")]
    pub(super) max_size: Option<String>,

    #[arg(short = 'L', long, help = later!("Mirror what symbolic links point to"))]
    pub(super) copy_links: bool,
}

/// Which attributes are carried.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Attributes (permissions, owners and times are mirrored unless said otherwise)"
)]
pub(super) struct AttributeArgs {
    /// Owners and groups by number, not by name
    #[arg(long)]
    pub(super) numeric_ids: bool,
    /// Leave owners alone
    #[arg(long)]
    pub(super) no_owner: bool,
    /// Leave groups alone
    #[arg(long)]
    pub(super) no_group: bool,
    /// Leave permissions alone
    #[arg(long)]
    pub(super) no_perms: bool,
    /// Leave modification times alone
    #[arg(long)]
    pub(super) no_times: bool,
    /// Leave extended attributes alone
    #[arg(long)]
    pub(super) no_xattrs: bool,
    /// Leave access control lists alone
    #[arg(long)]
    pub(super) no_acls: bool,
    /// Mirror hard links as files of their own
    #[arg(long)]
    pub(super) no_hard_links: bool,
    /// Leave out device files
    #[arg(long)]
    pub(super) no_devices: bool,
    /// Give everything to this user and group of the target; either may be left out
    #[arg(long, value_name = "USER:GROUP")]
    pub(super) chown: Option<OsString>,
    /// Other users on the target, FROM:TO,…: names, numbers, ranges of them (0-99:nobody) or
    /// patterns (*:web), as rsync has it; the first that matches counts
    #[arg(long, value_name = "MAP")]
    pub(super) usermap: Option<OsString>,
    /// Other groups on the target, in the same way
    #[arg(long, value_name = "MAP")]
    pub(super) groupmap: Option<OsString>,
    /// Other permissions on the target, as rsync has it: D755,F644, go-w, a+rX …; may be given more
    /// than once
    #[arg(long, value_name = "CHANGES")]
    pub(super) chmod: Vec<OsString>,
}

/// How content is compared and brought over.
#[derive(Debug, Args)]
#[command(next_help_heading = "Comparing and transfer")]
pub(super) struct TransferArgs {
    /// Compare files by size alone, not by time
    #[arg(long)]
    pub(super) size_only: bool,
    /// Compare files by content, not by size and time: both sides read all of them
    #[arg(long)]
    pub(super) checksum: bool,
    /// Have the target's disk confirm every change
    #[arg(long)]
    pub(super) fsync: bool,
    /// Write into the target's files where they are, and only what differs, instead of replacing
    /// them: they keep their inode and all their names. A reader may see old and new mixed, and so
    /// may everybody after a crash, until the next start. What is being executed or cannot be
    /// written to is replaced
    #[arg(long)]
    pub(super) inplace: bool,
    /// Send no more than so many KiB (1024 bytes) a second to each target, on average; or with a
    /// suffix: 1.5M (MiB), 2MB (1000000 bytes), 800000B; 0: no limit
    #[arg(long, value_name = "RATE")]
    pub(super) bwlimit: Option<String>,
    /// Compress content on its way to another host, by zstd: auto (the default) where the link and
    /// not the CPU holds it back, off, or at a level from 1 (fast) to 22 (small). What does not
    /// shrink leaves as it is
    #[arg(long, value_name = "auto|off|LEVEL")]
    pub(super) compress: Option<String>,
}

/// How hosts are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reaching hosts (~/.ssh/config is read)")]
pub(super) struct ReachArgs {
    /// The port of the ssh server
    #[arg(short = 'p', long, value_name = "PORT")]
    pub(super) port: Option<String>,

    /// A private key to log in with; may be given more than once
    #[arg(short = 'i', long, value_name = "FILE", value_hint = ValueHint::FilePath, action = clap::ArgAction::Append)]
    pub(super) identity: Vec<PathBuf>,

    /// Read this instead of ~/.ssh/config and /etc/ssh/ssh_config
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ssh_config: Option<PathBuf>,

    /// Run this instead of the ssh that is built in: 'ssh -o …'
    #[arg(long, value_name = "CMD")]
    pub(super) ssh_command: Option<String>,

    /// The agent that is on the host already; nothing is copied there
    #[arg(long, value_name = "PATH")]
    pub(super) agent_path: Option<String>,

    /// The agent to copy to hosts that have none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) agent_binary: Option<PathBuf>,

    /// Have the system's rsync carry it, or the one at PATH, instead of the agent. HOST::MODULE and
    /// rsync:// targets are carried so anyhow
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true)]
    pub(super) rsync: Option<Option<OsString>>,
}

/// What is said.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// One JSON object a line on standard output
    #[arg(long)]
    pub(super) json: bool,
    /// Say what is done to each path; twice: what happens inside
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Only errors, problems and the line that says ready
    #[arg(short = 'q', long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// No progress bar
    #[arg(long)]
    pub(super) no_progress: bool,
}

/// What belongs to a running lsyncd.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Running mirrors")]
pub(super) struct DaemonArgs {
    /// What the mirror is called in lines and commands, once for each TARGET [default: the TARGET]
    #[arg(long, value_name = "NAME", action = clap::ArgAction::Append)]
    pub(super) name: Vec<String>,
    /// The control socket, for status, flush, pause and resume [default: one in
    /// $XDG_RUNTIME_DIR/lsyncd, in /run/lsyncd for root, or in ~/.cache/lsyncd/control, where they
    /// find it by themselves]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(super) control: Option<PathBuf>,
    /// Serve a page that shows how the mirrors stand, /status.json, and /metrics in OpenMetrics, by
    /// HTTP at PORT of this host alone, or at ADDRESS:PORT. Nothing can be changed there
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics: Option<String>,
}
