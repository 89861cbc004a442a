//! `Config`: what is to be done, wholly resolved and checked before anything starts.
//!
//! The command line (and later a file) becomes these values; everything below takes them as they
//! are and reads neither the environment nor a file.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lsync_protocol::handshake::Trash;
use lsync_protocol::xattr::Classes;

use crate::filter::Filter;
use mapping::Mapping;

pub mod crontab;
pub mod guard;
pub mod lua;
pub mod mapping;
pub mod near;
pub mod rsync;
pub mod settings;
pub mod target;
pub mod toml;
pub mod tunnel;
pub mod value;

/// Where a mirror's copy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A directory of this host.
    Local(PathBuf),
    /// A directory of a host reached by ssh.
    Ssh(SshTarget),
}

/// A directory of a host reached by ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// The login name, if the target names one.
    pub user: Option<String>,
    /// The host as the user wrote it: an alias of the ssh configuration, a name or an address.
    pub host: String,
    /// The port, if the target names one.
    pub port: Option<u16>,
    /// The directory as bytes: absolute, `~/…` (the agent's home), or relative to the login directory.
    pub dir: Vec<u8>,
}

/// How to reach hosts by ssh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshOptions {
    /// `--ssh-config`: read instead of the user's and the system's ssh configuration.
    pub config: Option<PathBuf>,
    /// `-p`: the port, over what the target and the configuration say.
    pub port: Option<u16>,
    /// `-i`: identity files, tried before those of the configuration.
    pub identities: Vec<PathBuf>,
    /// `--ssh-command`: run this instead of speaking ssh ourselves, split into words as a shell would.
    pub command: Option<Vec<String>>,
    /// The home directory of the user, for `~/.ssh`.
    pub home: Option<PathBuf>,
    /// The login name of the user.
    pub user: Option<String>,
    /// The socket of the user's ssh-agent (`SSH_AUTH_SOCK`).
    pub auth_sock: Option<PathBuf>,
}

/// Which agent runs on a host and how it gets there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentOptions {
    /// `--agent-path`: the agent that is already on the host; nothing is copied.
    pub path: Option<String>,
    /// `--agent-binary`: the file to copy when the host has none.
    pub binary: Option<PathBuf>,
    /// This program's own file, which is an agent under another name, and beside which
    /// `lsync-agent` is looked for.
    pub own_binary: Option<PathBuf>,
}

/// When names that the source no longer has are deleted on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delete {
    /// At the first mirror and live.
    #[default]
    Yes,
    /// Never.
    No,
    /// Only by walks: the first mirror and rescans.
    Startup,
    /// Only live.
    Running,
}

impl Delete {
    /// May a walk (the first mirror, a rescan) delete?
    #[must_use]
    pub fn by_walk(self) -> bool {
        matches!(self, Delete::Yes | Delete::Startup)
    }

    /// May a live change delete?
    #[must_use]
    pub fn live(self) -> bool {
        matches!(self, Delete::Yes | Delete::Running)
    }
}

/// The most names that may be deleted in a sliding minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxDelete {
    /// So many names.
    Names(u64),
    /// So many percent of the names counted by the last full walk.
    Percent(u8),
}

/// Whether source and target are only compared, by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// No: they are mirrored.
    #[default]
    No,
    /// Differences are told, and nothing is touched.
    Tell,
    /// Differences are told and mended, and nothing else is touched.
    Heal,
}

/// Which watcher is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchChoice {
    /// The best that this host and file system allow.
    #[default]
    Auto,
    /// Linux' inotify, raw.
    Inotify,
    /// The notify crate: FSEvents and the like.
    Notify,
    /// No events: rescans by digest.
    Poll,
}

/// Which content is compressed on its way to another host. On its way on this host, none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// What shrinks, as hard as pays: not at all where the link is faster than compressing.
    #[default]
    Auto,
    /// None.
    Off,
    /// What shrinks, at this level of zstd: 1 to 22.
    Level(i32),
}

/// Which attributes are carried. All that are, by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The mode's permission bits.
    pub perms: bool,
    /// The owner.
    pub owner: bool,
    /// The group.
    pub group: bool,
    /// The modification time.
    pub times: bool,
    /// Owners by number, not by name.
    pub numeric_ids: bool,
    /// FIFOs and sockets.
    pub specials: bool,
    /// Device files.
    pub devices: bool,
    /// Hard links.
    pub hard_links: bool,
    /// Extended attributes and access control lists, of these classes.
    pub xattrs: Classes,
}

impl Attributes {
    /// Of the extended attributes that are wanted, those which this process is shown.
    #[must_use]
    pub fn shown_xattrs(&self) -> Classes {
        self.xattrs.both(lsync_agent::meta::xattr::readable())
    }
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes {
            perms: true,
            owner: true,
            group: true,
            times: true,
            numeric_ids: false,
            specials: true,
            devices: true,
            hard_links: true,
            xattrs: Classes::USER.with(Classes::PRIVILEGED).with(Classes::ACLS),
        }
    }
}

/// Commands for a shell that are run when something happens to a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// When everything has arrived, after something was sent.
    pub synced: Option<OsString>,
    /// When a path cannot be mirrored.
    pub problem: Option<OsString>,
}

/// One source to one target.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorConfig {
    /// What the mirror is called in lines, status and commands.
    pub name: String,
    /// The source directory: absolute, symbolic links resolved.
    pub source: PathBuf,
    /// Where its copy stands.
    pub target: Target,
    /// The longest a change waits, from its first event.
    pub delay: Duration,
    /// When names are deleted.
    pub delete: Delete,
    /// The most names deleted in a minute.
    pub max_delete: Option<MaxDelete>,
    /// The target may be emptied.
    pub allow_empty: bool,
    /// Names that the rules exclude are deleted on the target too.
    pub delete_excluded: bool,
    /// Directories above the target are created.
    pub mkpath: bool,
    /// What is mirrored.
    pub filter: Filter,
    /// Which attributes are carried.
    pub attributes: Attributes,
    /// What owners and permissions become on the way.
    pub mapping: Arc<Mapping>,
    /// Directories on other file systems are not entered.
    pub one_file_system: bool,
    /// Larger files are not mirrored.
    pub max_size: Option<u64>,
    /// How many bytes a second lsyncd writes to the target's link on average, frames of all kinds
    /// together: a multiple of 1024. `None`: no limit. A target of this host is limited as well:
    /// what is asked for is done, and it spares a slow disk. What the agent answers is not limited,
    /// nor is the agent's own file, which is copied to a host that has none.
    pub bwlimit: Option<NonZeroU64>,
    /// Which content is compressed.
    pub compress: Compress,
    /// Compare by size alone, not by time.
    pub size_only: bool,
    /// Walks compare files of equal size by content, not by time.
    pub checksum: bool,
    /// An ack means durable.
    pub fsync: bool,
    /// Files of the target are written into, and not replaced.
    pub inplace: bool,
    /// What is removed or replaced on the target is moved there.
    pub trash: Option<Trash>,
    /// How often the whole tree is walked; `None`: never.
    pub rescan: Option<Duration>,
    /// How often the target is compared by content; `None`: never.
    pub verify_every: Option<Duration>,
    /// Which watcher is used.
    pub watch: WatchChoice,
    /// How to reach the host.
    pub ssh: SshOptions,
    /// Which agent runs there.
    pub agent: AgentOptions,
    /// What is run when something happens.
    pub hooks: Hooks,
}

impl MirrorConfig {
    /// A mirror with every default; `source` is absolute and resolved.
    #[must_use]
    pub fn new(name: &str, source: impl Into<PathBuf>, target: Target) -> MirrorConfig {
        MirrorConfig {
            name: name.to_owned(),
            source: source.into(),
            target,
            delay: Duration::ZERO,
            delete: Delete::default(),
            max_delete: None,
            allow_empty: false,
            delete_excluded: false,
            mkpath: false,
            filter: Filter::default(),
            attributes: Attributes::default(),
            mapping: Arc::default(),
            one_file_system: false,
            max_size: None,
            bwlimit: None,
            compress: Compress::default(),
            size_only: false,
            checksum: false,
            fsync: false,
            inplace: false,
            trash: None,
            rescan: Some(DEFAULT_RESCAN),
            verify_every: None,
            watch: WatchChoice::default(),
            ssh: SshOptions::default(),
            agent: AgentOptions::default(),
            hooks: Hooks::default(),
        }
    }
}

/// A mirror, by what carries it.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyMirror {
    /// The agent.
    Agent(Box<MirrorConfig>),
    /// The system's rsync.
    Rsync(Box<rsync::RsyncMirror>),
}

impl AnyMirror {
    /// What the mirror is called.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            AnyMirror::Agent(mirror) => &mirror.name,
            AnyMirror::Rsync(mirror) => &mirror.name,
        }
    }
}

/// How often the whole tree is walked unless somebody says otherwise.
pub const DEFAULT_RESCAN: Duration = Duration::from_secs(3600);
