//! How two ends find that they understand each other, before anything else is said.
//!
//! Each end sends a magic (so that a chatty shell is never taken for a protocol), then one greeting:
//! `u16 oldest | u16 newest | u32 length | body`. The source's body is a [`Hello`]; the agent's is
//! an [`Answer`]: a [`Welcome`], or a refusal that names its reason. The agent picks the newest
//! version both speak. Bodies are postcard; later versions append.

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Holds, Wanted};
use crate::message::{NEWEST, OLDEST};
use crate::path::{RelPath, is_stage_name};

/// What each end says first: recognises 7-bit and line-ending conversions, like PNG's.
pub const MAGIC: [u8; 8] = *b"\xc7lsync\r\n";

/// Bytes before the body: version range and length.
pub const GREETING: usize = 8;

/// The longest body.
pub const BODY_MAX: usize = 256 * 1024;

/// Which part of a mirror's traffic a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// The link of the mirror.
    Main,
    /// A further channel for bulk content of the link with the same id.
    Lane(u8),
}

/// What the agent may create to have its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Create {
    /// Nothing: a missing root is treated as empty and nothing is applied (`--dry-run`).
    Nothing,
    /// The root, in a directory that exists.
    Root,
    /// The root and the directories above it (`--mkpath`).
    Path,
}

/// One file system object, by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
}

/// Where a source stands, so that an agent on the same host can tell whether its root lies in,
/// above or upon it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The boot id of the source's host.
    pub boot: [u8; 16],
    /// The source's root, then every directory above it.
    pub upwards: Vec<Identity>,
}

/// Where the target keeps what would be lost: what is removed and what is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trash {
    /// The directory, a name in the root.
    pub dir: RelPath,
    /// For how many seconds what is there is kept at least; without, for ever.
    pub age: Option<u64>,
}

impl Trash {
    /// Can it be one: a single name in the root, and no temporary one?
    #[must_use]
    pub fn valid(&self) -> bool {
        self.dir.depth() == 1 && !is_stage_name(self.dir.as_bytes())
    }
}

/// The source's greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Drawn for this link.
    pub link: [u8; 16],
    /// What the link carries.
    pub role: Role,
    /// The mirror: a hash of the source's host, the source and the target. The same after a restart.
    pub mirror: [u8; 16],
    /// The mirror in words, for the refusal of another one: "host:/srv/www".
    pub name: String,
    /// The root wanted, as bytes: absolute, `~/…`, or relative to where the agent was started.
    pub root: Vec<u8>,
    /// What may be created.
    pub create: Create,
    /// Keys every digest of this source.
    pub key: [u8; 32],
    /// What the user wants carried.
    pub wanted: Wanted,
    /// An ack means durable.
    pub fsync: bool,
    /// A file that is there is written into, and not replaced.
    pub inplace: bool,
    /// What is removed or replaced is moved there.
    pub trash: Option<Trash>,
    /// Where the source stands.
    pub standing: Standing,
}

/// What was fixed on the target's side, whatever a source asks for: the key that it logs in with
/// has a command in `authorized_keys`. Which root is fixed stands in [`RootHere::path`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// No name is removed.
    pub no_delete: bool,
    /// Nothing is changed: there are only listings and hashes.
    pub read_only: bool,
    /// What is removed or replaced is kept in this directory of the root.
    pub trash: Option<RelPath>,
    /// The kernel keeps the agent's process within its root (Landlock).
    pub confined: bool,
}

/// The agent's greeting when it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The agent's own version, for people.
    pub agent: String,
    /// What was fixed there.
    pub fixed: Option<Fixed>,
    /// The boot id of its host: another one, and what was acked may not be there any more.
    pub boot: [u8; 16],
    /// Its root; absent when it is missing and was not to be created.
    pub root: Option<RootHere>,
    /// What can be held there.
    pub holds: Holds,
    /// Bytes of operations and their contents that may be on the way.
    pub small: u32,
    /// Bytes of stages' content that may be on the way.
    pub bulk: u32,
}

/// The agent's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootHere {
    /// Which directory it is.
    pub identity: Identity,
    /// Its path on the target, as bytes.
    pub path: Vec<u8>,
    /// It itself.
    pub entry: Entry,
    /// It was created just now.
    pub created: bool,
}

/// Why the agent does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No version is spoken by both.
    Version,
    /// The directory above the root is missing.
    NoParent,
    /// The root cannot be opened, created or used.
    Root(String),
    /// The root is `/`.
    Slash,
    /// The root is the source itself, lies in it, or above it: in words.
    Overlap(String),
    /// Another mirror, of this name, has the root.
    Busy(String),
    /// An older agent of this mirror does not end.
    Locked,
    /// Not possible in this version: in words.
    Unsupported(String),
    /// It may change nothing beneath this root, as bytes.
    ReadOnly(Vec<u8>),
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // one of them, once a link
pub enum Answer {
    /// It serves.
    Welcome(Welcome),
    /// It does not.
    Refused(Refusal),
}

/// Why a greeting is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadGreeting {
    /// The body is longer than any may be.
    #[error("a greeting of {0} bytes")]
    Length(u32),
    /// No version is spoken by both.
    #[error(
        "the other end speaks versions {oldest} to {newest} of the wire, this one {OLDEST} to {NEWEST}"
    )]
    Version {
        /// The oldest it speaks.
        oldest: u16,
        /// The newest it speaks.
        newest: u16,
    },
    /// The body does not decode.
    #[error("a greeting that does not decode")]
    Body,
}

/// What stands before a greeting's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// The version both speak.
    pub version: u16,
    /// Bytes of the body.
    pub length: usize,
}

impl Greeting {
    /// Checks the bytes before the body.
    ///
    /// # Errors
    /// [`BadGreeting`] when there is no common version or the length is over its bound.
    pub fn decode(bytes: [u8; GREETING]) -> Result<Greeting, BadGreeting> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let (oldest, newest) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let length = u32::from_le_bytes([e, f, g, h]);
        if length as usize > BODY_MAX {
            return Err(BadGreeting::Length(length));
        }
        let version = newest.min(NEWEST);
        if version < oldest || version < OLDEST {
            return Err(BadGreeting::Version { oldest, newest });
        }
        Ok(Greeting { version, length: length as usize })
    }
}

/// A whole greeting: magic, range, length, body.
#[must_use]
pub fn greet<T: Serialize>(body: &T) -> Vec<u8> {
    let body = postcard::to_stdvec(body).unwrap_or_default();
    let mut out = Vec::with_capacity(MAGIC.len() + GREETING + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&OLDEST.to_le_bytes());
    out.extend_from_slice(&NEWEST.to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// Decodes a greeting's body.
///
/// # Errors
/// [`BadGreeting::Body`] when it is none.
pub fn read_body<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BadGreeting> {
    postcard::from_bytes(body).map_err(|_| BadGreeting::Body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_come_back_and_versions_are_agreed() {
        let bytes = greet(&Answer::Refused(Refusal::Busy("a:/b".into())));
        assert_eq!(bytes[..8], MAGIC);
        let greeting = Greeting::decode(bytes[8..16].try_into().unwrap()).unwrap();
        assert_eq!((greeting.version, greeting.length), (1, bytes.len() - 16));
        assert_eq!(
            read_body::<Answer>(&bytes[16..]),
            Ok(Answer::Refused(Refusal::Busy("a:/b".into())))
        );
        let range = |oldest: u16, newest: u16, length: u32| {
            let mut bytes = [0; GREETING];
            bytes[..2].copy_from_slice(&oldest.to_le_bytes());
            bytes[2..4].copy_from_slice(&newest.to_le_bytes());
            bytes[4..].copy_from_slice(&length.to_le_bytes());
            Greeting::decode(bytes)
        };
        assert_eq!(range(1, 9, 4), Ok(Greeting { version: 1, length: 4 }));
        assert_eq!(range(2, 9, 4), Err(BadGreeting::Version { oldest: 2, newest: 9 }));
        assert_eq!(range(0, 0, 4), Err(BadGreeting::Version { oldest: 0, newest: 0 }));
        assert_eq!(range(1, 1, u32::MAX), Err(BadGreeting::Length(u32::MAX)));
        assert_eq!(read_body::<Answer>(b"\xff"), Err(BadGreeting::Body));
    }
}
