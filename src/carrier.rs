//! Carriers: what brings operations to a target and its answers back.
//!
//! A carrier owns its link and its own tasks. It keeps the order it is given; what it can hold is
//! bounded by its caller, which has no more than so many operations in flight.

use lsync_protocol::entry::{Digest, Named};
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{NoList, OpId, Outcome};
use lsync_protocol::path::RelPath;

use crate::error::Error;
use crate::plan::Planned;
use crate::source::OwnerNames;

pub mod action;
pub mod agent;
pub mod rsync;
pub mod tunnel;

/// Why an operation was not sent, or its content not completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBuilt {
    /// What stood there has gone or is of another kind by now.
    Vanished,
    /// It could not be read here or taken there, for this reason.
    Failed(String),
}

/// How the content of a file on both sides compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It is the same.
    Same,
    /// It is not.
    Differs,
    /// It went on changing, or is no file any more: nothing is concluded.
    Moving,
    /// It could not be read on one side, for this reason.
    Unknown(String),
}

/// What a carrier has to say.
#[derive(Debug)]
pub enum Carried {
    /// The directory is equal.
    Same {
        /// The request.
        request: u32,
    },
    /// What is in the directory, sorted, all of it.
    Entries {
        /// The request.
        request: u32,
        /// The entries.
        entries: Vec<Named>,
    },
    /// The directory cannot be listed.
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
    /// An operation was not sent.
    NotBuilt {
        /// Which.
        id: OpId,
        /// Why.
        why: NotBuilt,
    },
    /// A file was sent as it was last seen, but went on changing.
    Unsettled {
        /// Its operation.
        id: OpId,
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
    /// The content of a large file is complete on the target and waits for [`Carrier::commit`].
    Staged {
        /// Its operation.
        id: OpId,
    },
    /// The target has something to say that a person should know.
    Warning(String),
    /// The link is lost; nothing more comes.
    Lost(Error),
}

/// Brings operations to one target. Dropping it ends its link at once.
pub trait Carrier: Send {
    /// Sends these, in this order, after everything sent before.
    fn send(&mut self, ops: Vec<(OpId, Planned)>);

    /// Gives the content staged for one operation its name, as another operation, in order with
    /// what is sent.
    fn commit(&mut self, staged: OpId, id: OpId, path: RelPath);

    /// The content of this operation is not wanted any more.
    fn cancel(&mut self, id: OpId);

    /// Compares a directory; `digest: None` asks for the entries. Leaves with [`Carrier::flush`].
    fn list(&mut self, request: u32, dir: RelPath, digest: Option<Digest>);

    /// Compares files of one directory by their content, read on both sides; at most
    /// [`MAX_HASHES`](lsync_protocol::message::MAX_HASHES). Calmly: with as much rest as work.
    fn compare(&mut self, request: u32, dir: RelPath, names: Vec<Box<[u8]>>, calm: bool);

    /// What was only gathered so far leaves: nothing more comes for the moment.
    fn flush(&mut self);

    /// Asks for the target's numbers of owners.
    fn ask_names(&mut self, names: &OwnerNames);

    /// Everything is mirrored: nothing that a former link left is of use any more.
    fn mirrored(&mut self);

    /// Nothing more will be sent: what was begun is finished, then the target ends.
    fn finish(&mut self);

    /// Bytes that went out and came in on the link.
    fn traffic(&self) -> (u64, u64);
}
