//! The messages of the wire and the operations they carry.
//!
//! A message is a control part, encoded by postcard and at most 1 MiB, and for three of them raw
//! bytes behind it that never pass through the codec: the contents in [`Message::Ops`], and the
//! bytes of [`Message::Data`]. Lists are decoded one by one against a count that is checked first,
//! so what a peer can make us allocate is bounded by what it sent, times a small constant.

use serde::{Deserialize, Serialize};

use crate::entry::{Digest, Kind, Meta, Named, Time};
use crate::path::RelPath;

/// The versions of the wire. Each is described by what it added; postcard is not self-describing,
/// so within a version nothing changes, and fields and variants are only ever appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Version {
    /// The first: whole files, directories, symbolic links; listings by digest; two credits.
    V1 = 1,
}

/// The oldest version this build speaks.
pub const OLDEST: u16 = Version::V1 as u16;
/// The newest version this build speaks.
pub const NEWEST: u16 = Version::V1 as u16;

/// The most operations in one message.
pub const MAX_OPS: usize = 4096;
/// The most entries in one message.
pub const MAX_ENTRIES: usize = 8192;
/// The most directories in one message.
pub const MAX_LISTS: usize = 256;
/// Content up to this size travels in the message of its operation.
pub const INLINE_MAX: u64 = 64 * 1024;
/// Stages open at a time, at most.
pub const MAX_STAGES: usize = 256;
/// The longest text of a problem, in bytes.
pub const MAX_TEXT: usize = 1024;

/// A 32-byte BLAKE3 hash.
pub type Hash = [u8; 32];

/// The number of an operation: never used twice on one mirror.
pub type OpId = u64;

/// Do this on the target. Each is checked against what stands there and changes nothing where
/// that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Have a directory here; one that is there already only gets the attributes.
    MakeDir {
        /// Where.
        path: RelPath,
        /// Its attributes, without the time: that follows in [`Op::Dir`].
        meta: Meta,
    },
    /// Have a file with this content, which comes in the raw bytes of the message.
    File {
        /// Where.
        path: RelPath,
        /// Bytes of content, at most [`INLINE_MAX`].
        size: u32,
        /// Its attributes.
        meta: Meta,
    },
    /// Have the content of a stage here.
    Commit {
        /// Where.
        path: RelPath,
        /// The stage, which ends with this.
        stage: u32,
        /// The size of the whole content.
        size: u64,
        /// Its attributes.
        meta: Meta,
        /// BLAKE3 of the whole content.
        hash: Hash,
    },
    /// Have a symbolic link here.
    Symlink {
        /// Where.
        path: RelPath,
        /// Where it points, as bytes.
        link: Vec<u8>,
        /// Its attributes.
        meta: Meta,
    },
    /// Set attributes of something that is not a directory.
    Meta {
        /// Where.
        path: RelPath,
        /// What must stand there.
        kind: Kind,
        /// What to set.
        meta: Meta,
    },
    /// Set attributes of a directory, after everything earlier in it is done.
    Dir {
        /// Where.
        path: RelPath,
        /// What to set.
        meta: Meta,
    },
    /// Give something another name.
    Rename {
        /// The old name.
        from: RelPath,
        /// The new name; a file or an empty directory there is replaced.
        to: RelPath,
        /// What must stand at the old name.
        kind: Kind,
        /// Its size must be this (files).
        size: Option<u64>,
        /// Its modification time must be this, as held.
        mtime: Option<Time>,
    },
    /// Remove one name.
    Remove {
        /// Where.
        path: RelPath,
        /// What must stand there; a directory has to be empty.
        kind: Kind,
    },
    /// A change of kind: the new thing is staged, the old one removed, the new one renamed in.
    Replace {
        /// What must stand there now; a directory has to be empty.
        old: Kind,
        /// What to have instead: one of `MakeDir`, `File`, `Commit`, `Symlink`.
        new: Box<Op>,
    },
}

impl Op {
    /// The path this is about; for a rename, the new name.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        match self {
            Op::MakeDir { path, .. }
            | Op::File { path, .. }
            | Op::Commit { path, .. }
            | Op::Symlink { path, .. }
            | Op::Meta { path, .. }
            | Op::Dir { path, .. }
            | Op::Remove { path, .. }
            | Op::Rename { to: path, .. } => path,
            Op::Replace { new, .. } => new.path(),
        }
    }

    /// How many raw bytes of the message are this operation's content.
    #[must_use]
    pub fn inline_size(&self) -> usize {
        match self {
            Op::File { size, .. } => *size as usize,
            Op::Replace { new, .. } => new.inline_size(),
            _ => 0,
        }
    }

    /// Bytes of the small credit it takes while it is on the way: the same on both ends.
    #[must_use]
    pub fn cost(&self) -> u32 {
        64 + self.inline_size() as u32
    }

    /// The stage it commits, if it does.
    #[must_use]
    pub fn stage(&self) -> Option<u32> {
        match self {
            Op::Commit { stage, .. } => Some(*stage),
            Op::Replace { new, .. } => new.stage(),
            _ => None,
        }
    }

    /// Is it one that may be sent: no `Replace` within a `Replace`, content of a bounded size?
    fn valid(&self) -> bool {
        match self {
            Op::File { size, .. } => u64::from(*size) <= INLINE_MAX,
            Op::Replace { new, .. } => {
                matches!(
                    **new,
                    Op::MakeDir { .. } | Op::File { .. } | Op::Commit { .. } | Op::Symlink { .. }
                ) && new.valid()
            }
            Op::Rename { from, to, .. } => {
                !from.is_root() && !to.is_root() && !to.is_under(from) && !from.is_under(to)
            }
            Op::Remove { path, .. } | Op::Symlink { path, .. } | Op::Commit { path, .. } => {
                !path.is_root()
            }
            Op::MakeDir { .. } | Op::Meta { .. } | Op::Dir { .. } => true,
        }
    }
}

/// What became of an operation, where there is something to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// There was nothing of that name (`Remove`, `Meta`, `Dir`).
    Missing,
    /// The directory it should stand in is not there.
    NoParent,
    /// The directory to be removed or replaced is not empty.
    NotEmpty,
    /// Something of another kind stands there.
    Occupied(Kind),
    /// A rename whose old name is not what it should be. Nothing was touched.
    Refused,
    /// It failed: the path stays as it was.
    Problem(Trouble),
}

/// Why something failed on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The operating system's error number, 0 when it is not one of its.
    pub errno: i32,
    /// In words, at most [`MAX_TEXT`] bytes.
    pub text: String,
}

/// Why a directory could not be listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoList {
    /// There is no such directory: missing, or something else stands there.
    Missing,
    /// It could not be read: unknown is not missing.
    Trouble(Trouble),
}

/// A directory to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which directory.
    pub dir: RelPath,
    /// The source's digest of it; `None` asks for the entries in any case.
    pub digest: Option<Digest>,
}

/// One message. See the module for how it is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Source: compare these directories. The answer to each is `Same`, `Entries` or `NoList`.
    List {
        /// The number that the answer to the first carries; the others follow.
        first: u32,
        /// Which directories. On the wire a path is what it does not share with the one before.
        dirs: Vec<Asked>,
    },
    /// Source: what are these users and groups called on your side?
    Names {
        /// Number and name of users.
        users: Vec<(u32, String)>,
        /// Number and name of groups.
        groups: Vec<(u32, String)>,
    },
    /// Source: do these, in this order. Contents of `File` operations follow as raw bytes.
    Ops {
        /// The number of the first; the others follow.
        first: OpId,
        /// BLAKE3 of the raw bytes; absent when there are none.
        hash: Option<Hash>,
        /// The operations.
        ops: Vec<Op>,
    },
    /// Source: content for a stage is to come.
    Open {
        /// The number of the stage; not in use.
        stage: u32,
        /// The directory where the content will probably be committed.
        hint: RelPath,
        /// How much there will probably be, in bytes.
        size: u64,
    },
    /// Source: content of a stage, as raw bytes.
    Data {
        /// Which stage.
        stage: u32,
        /// Where in the content, in bytes.
        offset: u64,
    },
    /// Source: this stage is not wanted any more.
    Abort {
        /// Which stage.
        stage: u32,
    },
    /// Both: are you there? The other side answers with `Pong`.
    Ping(u64),
    /// Both: yes.
    Pong(u64),
    /// Source: nothing more will come; finish what was begun and end.
    Bye,

    /// Agent: the directory is equal.
    Same {
        /// The request.
        request: u32,
    },
    /// Agent: what is in the directory, sorted by name; several messages until `last`.
    Entries {
        /// The request.
        request: u32,
        /// Nothing more will follow for this request.
        last: bool,
        /// The entries.
        entries: Vec<Named>,
    },
    /// Agent: the directory cannot be listed.
    NoList {
        /// The request.
        request: u32,
        /// Why.
        why: NoList,
    },
    /// Agent: the numbers of the names that were asked, and what they are here.
    NameIds {
        /// The source's number and the target's, for users.
        users: Vec<(u32, u32)>,
        /// The source's number and the target's, for groups.
        groups: Vec<(u32, u32)>,
    },
    /// Agent: these are finished.
    Acks {
        /// First number and how many.
        done: Vec<(OpId, u64)>,
        /// Those of them that say something.
        outcomes: Vec<(OpId, Outcome)>,
        /// Bytes of the small credit that are free again.
        small: u32,
    },
    /// Agent: bytes of the bulk credit that are free again.
    Credit {
        /// How many.
        bulk: u32,
    },
    /// Agent: the content of this stage cannot be taken; its commit will fail with the same.
    StageTrouble {
        /// Which stage.
        stage: u32,
        /// Why.
        trouble: Trouble,
    },
    /// Agent: something a person should know once.
    Warning {
        /// In words, at most [`MAX_TEXT`] bytes.
        text: String,
    },
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// The type is not one of this version.
    #[error("a message of unknown type {0}")]
    Type(u8),
    /// The control part does not decode.
    #[error("a message of type {0} that does not decode")]
    Control(u8),
    /// A count or size is over its bound, or does not fit the raw bytes.
    #[error("a message of type {0} with a count or size out of bounds")]
    Bounds(u8),
}

mod kind {
    pub(super) const LIST: u8 = 1;
    pub(super) const NAMES: u8 = 2;
    pub(super) const OPS: u8 = 3;
    pub(super) const OPEN: u8 = 4;
    pub(super) const DATA: u8 = 5;
    pub(super) const ABORT: u8 = 6;
    pub(super) const PING: u8 = 7;
    pub(super) const PONG: u8 = 8;
    pub(super) const BYE: u8 = 9;
    pub(super) const SAME: u8 = 32;
    pub(super) const ENTRIES: u8 = 33;
    pub(super) const NO_LIST: u8 = 34;
    pub(super) const NAME_IDS: u8 = 35;
    pub(super) const ACKS: u8 = 36;
    pub(super) const CREDIT: u8 = 37;
    pub(super) const STAGE_TROUBLE: u8 = 38;
    pub(super) const WARNING: u8 = 39;
}

/// Appends a value to the control part.
fn put<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    struct Append<'a>(&'a mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Append<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    // Appending to a vector cannot fail, and every type here has a known length.
    let done = postcard::serialize_with_flavor(value, Append(out));
    debug_assert!(done.is_ok());
}

/// Reads values from the front of a control part.
struct Take<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    fn get<T: Deserialize<'a>>(&mut self) -> Result<T, BadMessage> {
        let (value, rest) =
            postcard::take_from_bytes(self.rest).map_err(|_| BadMessage::Control(self.kind))?;
        self.rest = rest;
        Ok(value)
    }

    /// A list, its count checked before anything is allocated.
    fn list<T: Deserialize<'a>>(&mut self, max: usize) -> Result<Vec<T>, BadMessage> {
        let count: u32 = self.get()?;
        let count = count as usize;
        if count > max || count > self.rest.len() {
            return Err(BadMessage::Bounds(self.kind));
        }
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(self.get()?);
        }
        Ok(list)
    }
}

impl Take<'_> {
    /// The directories of a `List`, each path put together with the one before.
    fn asked(&mut self) -> Result<Message, BadMessage> {
        let (first, count): (u32, u32) = self.get()?;
        if count as usize > MAX_LISTS || first.checked_add(count).is_none() {
            return Err(BadMessage::Bounds(self.kind));
        }
        let mut dirs: Vec<Asked> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (shared, rest, digest): (u32, Vec<u8>, Option<Digest>) = self.get()?;
            let before = dirs.last().map_or(&[][..], |asked| asked.dir.as_bytes());
            let start = before.get(..shared as usize).ok_or(BadMessage::Bounds(self.kind))?;
            let dir = RelPath::new([start, &rest].concat())
                .map_err(|_| BadMessage::Control(self.kind))?;
            dirs.push(Asked { dir, digest });
        }
        Ok(Message::List { first, dirs })
    }
}

fn put_list<T: Serialize>(list: &[T], out: &mut Vec<u8>) {
    put(&(list.len() as u32), out);
    for value in list {
        put(value, out);
    }
}

/// The most pairs in a table of names.
const MAX_NAMES: usize = 4096;

impl Message {
    /// The frame's type byte.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Message::List { .. } => kind::LIST,
            Message::Names { .. } => kind::NAMES,
            Message::Ops { .. } => kind::OPS,
            Message::Open { .. } => kind::OPEN,
            Message::Data { .. } => kind::DATA,
            Message::Abort { .. } => kind::ABORT,
            Message::Ping(_) => kind::PING,
            Message::Pong(_) => kind::PONG,
            Message::Bye => kind::BYE,
            Message::Same { .. } => kind::SAME,
            Message::Entries { .. } => kind::ENTRIES,
            Message::NoList { .. } => kind::NO_LIST,
            Message::NameIds { .. } => kind::NAME_IDS,
            Message::Acks { .. } => kind::ACKS,
            Message::Credit { .. } => kind::CREDIT,
            Message::StageTrouble { .. } => kind::STAGE_TROUBLE,
            Message::Warning { .. } => kind::WARNING,
        }
    }

    /// Appends the control part. Raw bytes follow it in the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::List { first, dirs } => {
                put(&(first, dirs.len() as u32), out);
                let mut before: &[u8] = &[];
                for Asked { dir, digest } in dirs {
                    let path = dir.as_bytes();
                    let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
                    put(&(shared as u32, &path[shared..], digest), out);
                    before = path;
                }
            }
            Message::Names { users, groups } => {
                put_list(users, out);
                put_list(groups, out);
            }
            Message::Ops { first, hash, ops } => {
                put(&(first, hash), out);
                put_list(ops, out);
            }
            Message::Open { stage, hint, size } => put(&(stage, hint, size), out),
            Message::Data { stage, offset } => put(&(stage, offset), out),
            Message::Abort { stage } => put(stage, out),
            Message::Ping(n) | Message::Pong(n) => put(n, out),
            Message::Bye => {}
            Message::Same { request } => put(request, out),
            Message::Entries { request, last, entries } => {
                put(&(request, last), out);
                put_list(entries, out);
            }
            Message::NoList { request, why } => put(&(request, why), out),
            Message::NameIds { users, groups } => {
                put_list(users, out);
                put_list(groups, out);
            }
            Message::Acks { done, outcomes, small } => {
                put(small, out);
                put_list(done, out);
                put_list(outcomes, out);
            }
            Message::Credit { bulk } => put(bulk, out),
            Message::StageTrouble { stage, trouble } => put(&(stage, trouble), out),
            Message::Warning { text } => put(text, out),
        }
    }

    /// Decodes a frame's body and says where its raw bytes begin.
    ///
    /// # Errors
    /// [`BadMessage`] when the bytes are not such a message, or raw bytes are missing or too many.
    pub fn decode(kind: u8, body: &[u8]) -> Result<(Message, usize), BadMessage> {
        let mut take = Take { kind, rest: body };
        let message = match kind {
            kind::LIST => take.asked()?,
            kind::NAMES => {
                Message::Names { users: take.list(MAX_NAMES)?, groups: take.list(MAX_NAMES)? }
            }
            kind::OPS => {
                let (first, hash): (OpId, Option<Hash>) = take.get()?;
                let ops: Vec<Op> = take.list(MAX_OPS)?;
                if first.checked_add(ops.len() as u64).is_none() || !ops.iter().all(Op::valid) {
                    return Err(BadMessage::Bounds(kind));
                }
                Message::Ops { first, hash, ops }
            }
            kind::OPEN => {
                let (stage, hint, size) = take.get()?;
                Message::Open { stage, hint, size }
            }
            kind::DATA => {
                let (stage, offset) = take.get()?;
                Message::Data { stage, offset }
            }
            kind::ABORT => Message::Abort { stage: take.get()? },
            kind::PING => Message::Ping(take.get()?),
            kind::PONG => Message::Pong(take.get()?),
            kind::BYE => Message::Bye,
            kind::SAME => Message::Same { request: take.get()? },
            kind::ENTRIES => {
                let (request, last) = take.get()?;
                Message::Entries { request, last, entries: take.list(MAX_ENTRIES)? }
            }
            kind::NO_LIST => {
                let (request, why) = take.get()?;
                Message::NoList { request, why }
            }
            kind::NAME_IDS => {
                Message::NameIds { users: take.list(MAX_NAMES)?, groups: take.list(MAX_NAMES)? }
            }
            kind::ACKS => Message::Acks {
                small: take.get()?,
                done: take.list(MAX_ACKS)?,
                outcomes: take.list(MAX_OPS)?,
            },
            kind::CREDIT => Message::Credit { bulk: take.get()? },
            kind::STAGE_TROUBLE => {
                let (stage, trouble) = take.get()?;
                Message::StageTrouble { stage, trouble }
            }
            kind::WARNING => Message::Warning { text: take.get()? },
            other => return Err(BadMessage::Type(other)),
        };
        let raw = take.rest.len();
        let fits = match &message {
            Message::Ops { ops, hash, .. } => {
                ops.iter().map(Op::inline_size).sum::<usize>() == raw && hash.is_some() == (raw > 0)
            }
            Message::Data { offset, .. } => raw > 0 && offset.checked_add(raw as u64).is_some(),
            _ => raw == 0,
        };
        if !fits {
            return Err(BadMessage::Bounds(kind));
        }
        Ok((message, body.len() - raw))
    }
}

/// The most ranges in one message of acks.
pub const MAX_ACKS: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn round_trip(message: &Message, raw: &[u8]) {
        let mut body = Vec::new();
        message.encode(&mut body);
        let control = body.len();
        body.extend_from_slice(raw);
        assert_eq!(Message::decode(message.kind(), &body), Ok((message.clone(), control)));
    }

    #[test]
    fn every_message_comes_back_as_it_went() {
        let meta = Meta {
            mode: Some(0o4755),
            uid: None,
            gid: Some(5),
            mtime: Some(Time { sec: -1, nsec: 999_999_999 }),
        };
        let entry = Entry {
            kind: Kind::Symlink,
            size: 0,
            link: Some(b"../x\xff"[..].into()),
            meta,
            nlink: 1,
            link_group: 0,
        };
        let ops = vec![
            Op::MakeDir { path: path("a"), meta },
            Op::File { path: path("a/b"), size: 3, meta },
            Op::Commit { path: path("c"), stage: 1, size: 1 << 40, meta, hash: [7; 32] },
            Op::Symlink { path: path("d"), link: b"\xff".to_vec(), meta },
            Op::Meta { path: path("e"), kind: Kind::Fifo, meta },
            Op::Dir { path: RelPath::root(), meta },
            Op::Rename {
                from: path("f"),
                to: path("g"),
                kind: Kind::File,
                size: Some(1),
                mtime: meta.mtime,
            },
            Op::Remove { path: path("h"), kind: Kind::Dir },
            Op::Replace {
                old: Kind::Dir,
                new: Box::new(Op::File { path: path("i"), size: 2, meta }),
            },
        ];
        let trouble = Trouble { errno: 28, text: "no space left on device".into() };
        round_trip(&Message::Ops { first: 9, hash: Some([1; 32]), ops }, b"abcde");
        let asked = |dir: &str, digest| Asked { dir: path(dir), digest };
        let dirs = vec![
            asked("", None),
            asked("a/bc", Some([3; 16])),
            asked("a/bd", Some([4; 16])),
            asked("a", None),
        ];
        round_trip(&Message::List { first: 7, dirs }, b"");
        round_trip(
            &Message::Names { users: vec![(0, "root".into())], groups: vec![(5, "é".into())] },
            b"",
        );
        round_trip(&Message::Open { stage: 3, hint: path("x"), size: 5 }, b"");
        round_trip(&Message::Data { stage: 3, offset: 1 << 33 }, b"content");
        for message in [
            Message::Abort { stage: 4 },
            Message::Ping(1),
            Message::Pong(u64::MAX),
            Message::Bye,
            Message::Same { request: 6 },
            Message::Entries {
                request: 6,
                last: true,
                entries: vec![Named { name: b"n"[..].into(), entry }],
            },
            Message::NoList { request: 1, why: NoList::Missing },
            Message::NoList { request: 1, why: NoList::Trouble(trouble.clone()) },
            Message::NameIds { users: vec![(1, 2)], groups: vec![] },
            Message::Acks {
                done: vec![(1, 5), (9, 1)],
                outcomes: vec![
                    (2, Outcome::Occupied(Kind::Dir)),
                    (3, Outcome::Problem(trouble.clone())),
                ],
                small: 77,
            },
            Message::Credit { bulk: 1 },
            Message::StageTrouble { stage: 1, trouble },
            Message::Warning { text: "x".into() },
        ] {
            round_trip(&message, b"");
        }
    }

    #[test]
    fn counts_sizes_and_shapes_are_checked() {
        let refuse = |message: &Message, raw: &[u8]| {
            let mut body = Vec::new();
            message.encode(&mut body);
            body.extend_from_slice(raw);
            assert_eq!(
                Message::decode(message.kind(), &body),
                Err(BadMessage::Bounds(message.kind())),
                "{message:?}"
            );
        };
        let meta = Meta::default();
        let ops = |ops: Vec<Op>, hash: Option<Hash>| Message::Ops { first: 0, hash, ops };
        refuse(&ops(vec![Op::File { path: path("a"), size: 2, meta }], Some([0; 32])), b"abc");
        refuse(&ops(vec![Op::File { path: path("a"), size: 3, meta }], None), b"abc");
        refuse(&ops(vec![Op::Remove { path: RelPath::root(), kind: Kind::Dir }], None), b"");
        let inner = Op::MakeDir { path: path("a"), meta };
        let nested = Op::Replace {
            old: Kind::File,
            new: Box::new(Op::Replace { old: Kind::File, new: Box::new(inner.clone()) }),
        };
        refuse(&ops(vec![nested], None), b"");
        let into_itself = Op::Rename {
            from: path("a"),
            to: path("a/b"),
            kind: Kind::Dir,
            size: None,
            mtime: None,
        };
        refuse(&ops(vec![into_itself], None), b"");
        refuse(&Message::Ops { first: u64::MAX, hash: None, ops: vec![inner.clone(), inner] }, b"");
        refuse(&Message::Data { stage: 1, offset: 0 }, b"");
        refuse(&Message::Data { stage: 1, offset: u64::MAX }, b"ab");
        refuse(&Message::Bye, b"x");
        let dirs = vec![Asked { dir: path("a"), digest: None }; 2];
        refuse(&Message::List { first: u32::MAX, dirs }, b"");
        let shares_more_than_there_is: &[u8] = &[0, 1, 5, 1, b'a', 0];
        assert_eq!(
            Message::decode(kind::LIST, shares_more_than_there_is),
            Err(BadMessage::Bounds(kind::LIST))
        );
        let joins_to_dots: &[u8] = &[0, 2, 0, 1, b'.', 0, 1, 1, b'.', 0];
        assert_eq!(
            Message::decode(kind::LIST, joins_to_dots),
            Err(BadMessage::Control(kind::LIST))
        );
        let many = vec![(1, 1); MAX_ACKS + 1];
        refuse(&Message::Acks { done: many, outcomes: vec![], small: 0 }, b"");
        assert_eq!(Message::decode(200, b""), Err(BadMessage::Type(200)));
    }

    proptest! {
        #[test]
        fn hostile_bodies_never_panic(kind in 0u8..48, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((message, control)) = Message::decode(kind, &body) {
                prop_assert!(control <= body.len());
                prop_assert_eq!(message.kind(), kind);
            }
        }
    }
}
