//! What comes to a mirror, what it wants done, and what it wants people to know.

use std::sync::Arc;
use std::time::Duration;

use lsync_protocol::entry::{Digest, Kind, Named};
use lsync_protocol::handshake::{Identity, Welcome};
use lsync_protocol::message::{NoList, OpId, Outcome};
use lsync_protocol::path::RelPath;

use super::steer::Flushed;
use super::{Compared, NotBuilt, RootTrouble, SourceDir, Unasked};
use crate::collate::Batch;
use crate::error::{Exit, Problem};
use crate::metrics::Difference;
use crate::plan::{Absent, Looked, Planned};
use crate::watch::WatchEvent;

/// What came.
#[derive(Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The watcher heard something.
    Watched(Arc<Vec<WatchEvent>>),
    /// The target's agent is there.
    Connected(Box<Welcome>),
    /// The link is lost.
    Lost,
    /// A batch was looked at.
    Looked(Result<Looked, RootTrouble>),
    /// Names that a walk or a clearing means to delete were looked at.
    StillMissing {
        /// Who asked.
        asked: u64,
        /// What is not there.
        absent: Result<Absent, RootTrouble>,
    },
    /// The walk read a directory.
    Walked {
        /// The walk.
        walk: u64,
        /// What it saw.
        seen: SourceDir,
    },
    /// The walk could not read a directory; nothing is concluded of what is in it.
    WalkFailed {
        /// The walk.
        walk: u64,
        /// The directory.
        dir: RelPath,
        /// Why.
        why: String,
    },
    /// The walk has read everything.
    WalkEnded {
        /// The walk.
        walk: u64,
        /// Whether the root was still the root.
        root: Result<(), RootTrouble>,
    },
    /// The target's answer to a listing: equal.
    Same {
        /// The request.
        request: u32,
    },
    /// The target's answer to a listing.
    Entries {
        /// The request.
        request: u32,
        /// All of them.
        entries: Vec<Named>,
    },
    /// The target has no such directory, or cannot read it.
    NoList {
        /// The request.
        request: u32,
        /// Why.
        why: NoList,
    },
    /// Files were compared by their content.
    Compared {
        /// The request.
        request: u32,
        /// One for each name, in their order.
        files: Vec<Compared>,
    },
    /// The target's numbers of owners.
    NameIds {
        /// The source's number and the target's, of users.
        users: Vec<(u32, u32)>,
        /// The source's number and the target's, of groups.
        groups: Vec<(u32, u32)>,
    },
    /// Operations are finished.
    Acked {
        /// First number and how many.
        done: Vec<(OpId, u64)>,
        /// Those that say something.
        outcomes: Vec<(OpId, Outcome)>,
    },
    /// An operation could not be built and was not sent.
    NotBuilt {
        /// Which.
        id: OpId,
        /// Why.
        why: NotBuilt,
    },
    /// Under the name of a file that has several stood another one, or none, when it was read.
    OtherFile {
        /// Which was looked at.
        file: Identity,
    },
    /// A file was taken to have only grown; now all of it should be looked at.
    Unproven {
        /// Where it stands.
        path: RelPath,
    },
    /// A file was sent as it was last seen, but it went on changing.
    Unsettled {
        /// Its operation.
        id: OpId,
    },
    /// Somebody waits until everything of before now is mirrored.
    Flush {
        /// Which, as its end is told.
        token: u64,
        /// Everything of before was heard of; else [`WatchEvent::Barrier`] will say so.
        heard: bool,
    },
    /// Nothing is to be begun any more.
    Pause,
    /// All goes on.
    Resume {
        /// Deletes, too, that a guard has stopped.
        confirm: bool,
    },
    /// The content of a large file is on the target, under no name yet.
    Staged {
        /// Its operation.
        id: OpId,
    },
    /// The root's standing was checked again.
    Root(Result<Identity, RootTrouble>),
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Look at these and come back with [`Event::Looked`], in order.
    Look(Arc<Batch>),
    /// Look whether these are still missing.
    LookMissing {
        /// Who asks: a walk or a clearing.
        asked: u64,
        /// What.
        paths: Vec<(RelPath, Kind)>,
    },
    /// Walk these subtrees of the source.
    Walk {
        /// Its number.
        walk: u64,
        /// Where it starts; none is beneath another.
        starts: Vec<RelPath>,
    },
    /// Read one directory of the source; come back as that walk's.
    Relist {
        /// Its number.
        walk: u64,
        /// Which directory.
        dir: RelPath,
    },
    /// End the walk that runs.
    StopWalk,
    /// Compare a directory with the target's.
    List {
        /// The number the answer bears.
        request: u32,
        /// Which directory.
        dir: RelPath,
        /// The source's digest; `None`: the entries are wanted in any case.
        digest: Option<Digest>,
    },
    /// Compare files of one directory by their content.
    Compare {
        /// The number the answer bears.
        request: u32,
        /// Which directory.
        dir: RelPath,
        /// Their names in it.
        names: Vec<Box<[u8]>>,
        /// With as much rest as work.
        calm: bool,
    },
    /// Ask the target for numbers of owners.
    AskNames(Unasked),
    /// Bring these to the target, in this order.
    Send(Vec<(OpId, Planned)>),
    /// This content is not wanted any more.
    Cancel(OpId),
    /// Content that is staged gets this name, after everything sent before.
    Commit {
        /// The operation under whose number it was staged.
        staged: OpId,
        /// The number of the operation that names it: on the wire numbers only grow.
        id: OpId,
        /// The name of now.
        path: RelPath,
    },
    /// Check the root's standing; come back with [`Event::Root`].
    CheckRoot {
        /// Whatever stands there now is accepted as the root.
        accept: bool,
    },
    /// A live change has arrived.
    Arrived {
        /// From its first event until it left.
        waited: Duration,
        /// From then on.
        travelled: Duration,
    },
    /// What somebody waited for has come.
    Flushed {
        /// Who, as in [`Event::Flush`].
        token: u64,
        /// To what.
        end: Flushed,
    },
    /// Tell people.
    Say(Report),
    /// The mirror has ended, with this code.
    Finish(Exit),
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A path failed.
    Problem(Problem),
    /// A path that had failed is mirrored.
    Solved(RelPath),
    /// Something to know once.
    Warning(String),
    /// What the target's side fixed for our key.
    Fixed(String),
    /// The first mirror is complete and live changes flow.
    Ready(Totals),
    /// A later walk is complete.
    Rescanned(Totals),
    /// Deletes stopped, for this reason.
    Halted {
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The source's root is not there; it is waited for.
    Waiting(RootTrouble),
    /// The source's root is back.
    Back,
    /// Somebody paused it.
    Paused,
    /// Somebody has it go on.
    Resumed,
    /// Only by `verify` and `--verify-every`: source and target differ.
    Differs(Difference),
    /// A comparison by `--verify-every` has ended.
    Verified {
        /// Files whose content was compared.
        files: u64,
        /// Paths that had drifted.
        drifted: u64,
        /// Paths that could not be compared.
        unknown: u64,
    },
    /// Only with `--dry-run` or `-v`: an operation.
    Op(Planned),
}

/// What a walk counted and what was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Files of the source.
    pub files: u64,
    /// Directories of the source.
    pub dirs: u64,
    /// Bytes in those files.
    pub bytes: u64,
    /// Operations sent.
    pub ops: u64,
    /// Names deleted.
    pub deleted: u64,
}
