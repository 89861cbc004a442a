//! The messages of the wire and the operations they carry.
//!
//! A message is a control part, encoded by postcard and at most 1 MiB, and for three of them raw
//! bytes behind it that never pass through the codec: the contents in [`Message::Ops`], and the
//! bytes of [`Message::Data`]. Lists are decoded one by one against a count that is checked first,
//! so what a peer can make us allocate is bounded by what it sent, times a small constant.

use serde::{Deserialize, Serialize};

use crate::entry::{Digest, Named};
use crate::path::RelPath;

mod answer;
mod ask;
mod bounds;
mod op;

pub use answer::{Hashed, NoList, Outcome, Trouble};
pub use ask::{Asked, SumHow};
use bounds::asks_well;
pub use bounds::{
    COPY_WORK, INLINE_MAX, MAX_ACKS, MAX_ASKS, MAX_BLOCKS, MAX_COPY, MAX_ENTRIES, MAX_HASHES,
    MAX_LISTS, MAX_OPS, MAX_RANGES, MAX_SEARCH, MAX_STAGES, MAX_SUMS, MAX_TEXT, MIN_SAME,
    MIN_SEARCH,
};
pub use op::Op;

/// The versions of the wire. Each is described by what it added; postcard is not self-describing,
/// so within a version nothing changes, and fields and variants are only ever appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Version {
    /// The first: files whole, and as deltas from a base; directories, symbolic links; listings by
    /// digest; two credits; content that may be compressed; files compared by their hashes.
    V1 = 1,
}

/// The oldest version this build speaks.
pub const OLDEST: u16 = Version::V1 as u16;
/// The newest version this build speaks.
pub const NEWEST: u16 = Version::V1 as u16;

/// A 32-byte BLAKE3 hash.
pub type Hash = [u8; 32];

/// The number of an operation: never used twice on one mirror.
pub type OpId = u64;

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
    /// Source: content for a stage is to come, of which a former link may have left a part. The
    /// answer is `Kept`: what there is of it is the stage's content by now.
    Resume {
        /// The number of the stage; not in use.
        stage: u32,
        /// Where the content will probably be committed.
        path: RelPath,
        /// How much there will probably be, in bytes.
        size: u64,
    },
    /// Source: everything is mirrored that was to be: what former links left of contents has no use.
    Mirrored,
    /// Source: content of a stage, as raw bytes.
    Data {
        /// Which stage.
        stage: u32,
        /// Where in the content, in bytes.
        offset: u64,
    },
    /// Source: what stands at this path is the base of this stage: content will be copied from it.
    /// The answer is `BaseIs`. Sent after `Open`, once a stage, and again only where the answer was
    /// that there is none. Answers may still be under way when a stage has ended, so its number is
    /// not used again soon.
    Base {
        /// Which stage.
        stage: u32,
        /// Where the base stands.
        path: RelPath,
        /// The operation that put it there, if the source knows the blocks of what that brought.
        version: Option<OpId>,
    },
    /// Source: all of this stage's base is known by its sums, and is this version from now on, so that
    /// an operation can say what comes behind it. The answer is another `BaseIs`: whether it is so,
    /// and the file can be written to.
    Known {
        /// Which stage.
        stage: u32,
        /// An operation of the source's that is to come.
        version: OpId,
    },
    /// Source: sums of these ranges of the base, or of what was kept. The answer is `Sums`, as many as it takes, in the
    /// order of the ranges. At most [`MAX_ASKS`] may be unanswered.
    AskSums {
        /// Which stage.
        stage: u32,
        /// What to make of each block.
        how: SumHow,
        /// Bytes of a block, a power of two: at least [`MIN_SAME`] and the same each time for
        /// [`SumHow::Same`] and [`SumHow::Kept`], between [`MIN_SEARCH`] and [`MAX_SEARCH`] for [`SumHow::Search`].
        block: u32,
        /// First byte and length; each begins at a multiple of the block for [`SumHow::Same`].
        /// They lie within the base and have [`MAX_BLOCKS`] blocks at most; a block may be short
        /// at the end of a range.
        ranges: Vec<(u64, u64)>,
    },
    /// Source: have these ranges of the base in the stage.
    Copy {
        /// Which stage.
        stage: u32,
        /// Where to in the stage, where from in the base, and how many bytes; in no order.
        copies: Vec<(u64, u64, u64)>,
    },
    /// Source: what do these files hold? The answer is one `Hashes`; requests are answered in any
    /// order.
    AskHashes {
        /// The number that the answer carries.
        request: u32,
        /// The directory they stand in.
        dir: RelPath,
        /// Their names in it, at most [`MAX_HASHES`].
        names: Vec<Box<[u8]>>,
        /// There is time: as much rest as work.
        calm: bool,
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
    /// Agent: the base of this stage.
    BaseIs {
        /// Which stage.
        stage: u32,
        /// Its size in bytes; `None` when there is no file to copy from.
        size: Option<u64>,
        /// It is the version that was named, untouched since; or, where none was, it may become one:
        /// see `Known`.
        known: bool,
    },
    /// Agent: so much of the content of this stage was left by a former link.
    Kept {
        /// Which stage.
        stage: u32,
        /// Up to where, in bytes; 0 when there is nothing.
        size: u64,
    },
    /// Agent: sums, the next ones of what was asked.
    Sums {
        /// Which stage.
        stage: u32,
        /// 16 bytes a block for [`SumHow::Same`], 12 for [`SumHow::Search`]; see
        /// [`delta`](crate::delta). Nothing at all: the base cannot be read any more, or something
        /// beyond it was asked, and the rest of that question stays without an answer.
        sums: Vec<u8>,
    },
    /// Agent: what the files hold that were asked about, in that order.
    Hashes {
        /// The request.
        request: u32,
        /// One for each name.
        files: Vec<Hashed>,
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
    pub(super) const BASE: u8 = 10;
    pub(super) const ASK_SUMS: u8 = 11;
    pub(super) const COPY: u8 = 12;
    pub(super) const RESUME: u8 = 13;
    pub(super) const MIRRORED: u8 = 14;
    pub(super) const KNOWN: u8 = 15;
    pub(super) const ASK_HASHES: u8 = 16;
    pub(super) const SAME: u8 = 32;
    pub(super) const ENTRIES: u8 = 33;
    pub(super) const NO_LIST: u8 = 34;
    pub(super) const NAME_IDS: u8 = 35;
    pub(super) const ACKS: u8 = 36;
    pub(super) const CREDIT: u8 = 37;
    pub(super) const STAGE_TROUBLE: u8 = 38;
    pub(super) const WARNING: u8 = 39;
    pub(super) const BASE_IS: u8 = 40;
    pub(super) const SUMS: u8 = 41;
    pub(super) const KEPT: u8 = 42;
    pub(super) const HASHES: u8 = 43;
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
            Message::Resume { .. } => kind::RESUME,
            Message::Mirrored => kind::MIRRORED,
            Message::Kept { .. } => kind::KEPT,
            Message::Data { .. } => kind::DATA,
            Message::Base { .. } => kind::BASE,
            Message::Known { .. } => kind::KNOWN,
            Message::AskSums { .. } => kind::ASK_SUMS,
            Message::Copy { .. } => kind::COPY,
            Message::AskHashes { .. } => kind::ASK_HASHES,
            Message::Hashes { .. } => kind::HASHES,
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
            Message::BaseIs { .. } => kind::BASE_IS,
            Message::Sums { .. } => kind::SUMS,
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
            Message::Resume { stage, path, size } => put(&(stage, path, size), out),
            Message::Kept { stage, size } => put(&(stage, size), out),
            Message::Data { stage, offset } => put(&(stage, offset), out),
            Message::Base { stage, path, version } => put(&(stage, path, version), out),
            Message::Known { stage, version } => put(&(stage, version), out),
            Message::AskSums { stage, how, block, ranges } => {
                put(&(stage, how, block), out);
                put_list(ranges, out);
            }
            Message::Copy { stage, copies } => {
                put(stage, out);
                put_list(copies, out);
            }
            Message::AskHashes { request, dir, names, calm } => {
                put(&(request, dir, calm), out);
                put_list(names, out);
            }
            Message::Hashes { request, files } => {
                put(request, out);
                put_list(files, out);
            }
            Message::Abort { stage } => put(stage, out),
            Message::Ping(n) | Message::Pong(n) => put(n, out),
            Message::Bye | Message::Mirrored => {}
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
            Message::BaseIs { stage, size, known } => put(&(stage, size, known), out),
            Message::Sums { stage, sums } => {
                put(stage, out);
                put(&(sums.len() as u32), out);
                out.extend_from_slice(sums);
            }
            Message::Warning { text } => put(text, out),
        }
    }

    /// Bytes of the bulk credit it takes while it is on the way: content, or the work of copying.
    #[must_use]
    pub fn bulk_cost(&self, raw: usize) -> u32 {
        match self {
            Message::Data { .. } => raw as u32,
            Message::Copy { copies, .. } => {
                let bytes = copies.iter().fold(0u64, |sum, (.., len)| sum.saturating_add(*len));
                let work = u32::try_from(bytes / COPY_WORK).unwrap_or(u32::MAX);
                work.saturating_add(24 * copies.len() as u32)
            }
            _ => 0,
        }
    }

    /// Decodes a frame's body and says where its raw bytes begin.
    ///
    /// # Errors
    /// [`BadMessage`] when the bytes are not such a message, or raw bytes are missing or too many.
    pub fn decode(kind: u8, body: &[u8]) -> Result<(Message, usize), BadMessage> {
        let (message, raw_at) = Message::control(kind, body)?;
        message.check_raw(body.len() - raw_at)?;
        Ok((message, raw_at))
    }

    /// Decodes a control part and says where it ends.
    pub(crate) fn control(kind: u8, body: &[u8]) -> Result<(Message, usize), BadMessage> {
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
            kind::RESUME => {
                let (stage, path, size): (u32, RelPath, u64) = take.get()?;
                if path.is_root() {
                    return Err(BadMessage::Bounds(kind));
                }
                Message::Resume { stage, path, size }
            }
            kind::MIRRORED => Message::Mirrored,
            kind::KEPT => {
                let (stage, size) = take.get()?;
                Message::Kept { stage, size }
            }
            kind::DATA => {
                let (stage, offset) = take.get()?;
                Message::Data { stage, offset }
            }
            kind::BASE => {
                let (stage, path, version): (u32, RelPath, Option<OpId>) = take.get()?;
                if path.is_root() {
                    return Err(BadMessage::Bounds(kind));
                }
                Message::Base { stage, path, version }
            }
            kind::KNOWN => {
                let (stage, version) = take.get()?;
                Message::Known { stage, version }
            }
            kind::ASK_SUMS => {
                let (stage, how, block): (u32, SumHow, u32) = take.get()?;
                let ranges: Vec<(u64, u64)> = take.list(MAX_RANGES)?;
                if !asks_well(how, block, &ranges) {
                    return Err(BadMessage::Bounds(kind));
                }
                Message::AskSums { stage, how, block, ranges }
            }
            kind::COPY => {
                let stage = take.get()?;
                let copies: Vec<(u64, u64, u64)> = take.list(MAX_RANGES)?;
                let bytes = copies.iter().try_fold(0u64, |sum, (to, from, len)| {
                    to.checked_add(*len)?;
                    from.checked_add(*len)?;
                    sum.checked_add(*len)
                });
                let none = copies.is_empty() || copies.iter().any(|(.., len)| *len == 0);
                if none || bytes.is_none_or(|bytes| bytes > MAX_COPY) {
                    return Err(BadMessage::Bounds(kind));
                }
                Message::Copy { stage, copies }
            }
            kind::ASK_HASHES => {
                let (request, dir, calm): (u32, RelPath, bool) = take.get()?;
                let names: Vec<Box<[u8]>> = take.list(MAX_HASHES)?;
                if names.iter().any(|name| dir.join(name).is_err()) {
                    return Err(BadMessage::Control(kind));
                }
                Message::AskHashes { request, dir, names, calm }
            }
            kind::HASHES => Message::Hashes { request: take.get()?, files: take.list(MAX_HASHES)? },
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
            kind::BASE_IS => {
                let (stage, size, known) = take.get()?;
                Message::BaseIs { stage, size, known }
            }
            kind::SUMS => {
                let (stage, sums): (u32, Vec<u8>) = take.get()?;
                if sums.len() > MAX_SUMS {
                    return Err(BadMessage::Bounds(kind));
                }
                Message::Sums { stage, sums }
            }
            kind::WARNING => Message::Warning { text: take.get::<answer::Bounded>()?.0 },
            other => return Err(BadMessage::Type(other)),
        };
        Ok((message, body.len() - take.rest.len()))
    }

    /// May it be followed by so many raw bytes?
    pub(crate) fn check_raw(&self, raw: usize) -> Result<(), BadMessage> {
        let fits = match self {
            Message::Ops { ops, hash, .. } => {
                ops.iter().map(Op::inline_size).sum::<usize>() == raw && hash.is_some() == (raw > 0)
            }
            Message::Data { offset, .. } => raw > 0 && offset.checked_add(raw as u64).is_some(),
            _ => raw == 0,
        };
        if fits { Ok(()) } else { Err(BadMessage::Bounds(self.kind())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Kind, Meta, Time};
    use crate::xattr::{Classes, Xattr, Xattrs};
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn round_trip(message: &Message, raw: &[u8]) {
        let mut body = Vec::new();
        message.encode(&mut body);
        let control = body.len();
        body.extend(raw);
        assert_eq!(Message::decode(message.kind(), &body), Ok((message.clone(), control)));
    }

    #[test]
    fn every_message_comes_back_as_it_went() {
        let one = vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 255] }];
        let meta = Meta {
            mode: Some(0o4755),
            uid: None,
            gid: Some(5),
            mtime: Some(Time { sec: -1, nsec: 999_999_999 }),
            xattrs: Xattrs::new(Classes::USER, one).ok(),
        };
        let entry = Entry {
            kind: Kind::Symlink,
            size: 0,
            link: Some(b"../x\xff"[..].into()),
            meta: meta.clone(),
            nlink: 1,
            file: None,
            device: None,
        };
        let ops = vec![
            Op::MakeDir { path: path("a"), meta: meta.clone() },
            Op::File { path: path("a/b"), size: 3, meta: meta.clone() },
            Op::Commit {
                path: path("c"),
                stage: 1,
                size: 1 << 40,
                meta: meta.clone(),
                hash: [7; 32],
            },
            Op::Symlink { path: path("d"), link: b"\xff".to_vec(), meta: meta.clone() },
            Op::Meta { path: path("e"), kind: Kind::Fifo, meta: meta.clone() },
            Op::Dir { path: RelPath::root(), meta: meta.clone() },
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
                new: Box::new(Op::File { path: path("i"), size: 2, meta: meta.clone() }),
            },
            Op::Link { path: path("j"), from: path("k/l"), size: 1 << 33, mtime: meta.mtime },
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
        round_trip(&Message::Resume { stage: 3, path: path("x/y"), size: 5 }, b"");
        round_trip(&Message::Mirrored, b"");
        round_trip(&Message::Kept { stage: 3, size: 1 << 40 }, b"");
        round_trip(&Message::Data { stage: 3, offset: 1 << 33 }, b"content");
        round_trip(&Message::Base { stage: 3, path: path("x/y"), version: Some(300) }, b"");
        round_trip(&Message::Known { stage: 3, version: 1 << 40 }, b"");
        let ranges = vec![(1 << 20, 5000), (0, 1)];
        let ask = |how| Message::AskSums { stage: 3, how, block: 16384, ranges: ranges.clone() };
        round_trip(&ask(SumHow::Same), b"");
        round_trip(&ask(SumHow::Search), b"");
        round_trip(&Message::Copy { stage: 3, copies: vec![(0, 1 << 40, 1 << 24)] }, b"");
        round_trip(&Message::BaseIs { stage: 3, size: Some(1 << 50), known: true }, b"");
        round_trip(&Message::Sums { stage: 3, sums: vec![7; 200] }, b"");
        let names = vec![b"n"[..].into(), b"\xff"[..].into()];
        let ask = Message::AskHashes { request: 4, dir: path("a/b"), names, calm: true };
        round_trip(&ask, b"");
        let files = vec![
            Hashed::Is(1 << 40, [9; 32]),
            Hashed::Changing,
            Hashed::NoFile,
            Hashed::Trouble(trouble.clone()),
        ];
        round_trip(&Message::Hashes { request: 4, files }, b"");
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
        refuse(
            &ops(vec![Op::File { path: path("a"), size: 2, meta: meta.clone() }], Some([0; 32])),
            b"abc",
        );
        refuse(&ops(vec![Op::File { path: path("a"), size: 3, meta: meta.clone() }], None), b"abc");
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
        refuse(&Message::Base { stage: 1, path: RelPath::root(), version: None }, b"");
        let ask =
            |how, block, range| Message::AskSums { stage: 1, how, block, ranges: vec![range] };
        refuse(&ask(SumHow::Same, 0, (0, 1)), b"");
        refuse(&ask(SumHow::Same, 1000, (0, 1)), b"");
        refuse(&ask(SumHow::Same, MIN_SAME / 2, (0, 1)), b"");
        refuse(&ask(SumHow::Same, MIN_SAME, (1, 1)), b"");
        refuse(&ask(SumHow::Search, MIN_SEARCH / 2, (0, 1)), b"");
        refuse(&ask(SumHow::Search, MAX_SEARCH * 2, (0, 1)), b"");
        refuse(&ask(SumHow::Search, 1024, (1, 0)), b"");
        refuse(&ask(SumHow::Search, 1024, (u64::MAX, 1)), b"");
        refuse(&ask(SumHow::Search, 1024, (0, 1024 * MAX_BLOCKS + 1)), b"");
        let copies = |copies| Message::Copy { stage: 1, copies };
        refuse(&copies(vec![]), b"");
        refuse(&copies(vec![(0, 0, MAX_COPY / 2 + 1); 2]), b"");
        refuse(&copies(vec![(0, 0, 1); MAX_RANGES + 1]), b"");
        let copy = |copy| copies(vec![copy]);
        refuse(&copy((0, 0, 0)), b"");
        refuse(&copy((u64::MAX, 0, 1)), b"");
        refuse(&copy((0, u64::MAX, 1)), b"");
        refuse(&copy((0, 0, MAX_COPY + 1)), b"");
        refuse(&Message::Sums { stage: 1, sums: vec![0; MAX_SUMS + 1] }, b"");
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
        let ask = |names| Message::AskHashes { request: 1, dir: path("a"), names, calm: false };
        refuse(&ask(vec![b"n"[..].into(); MAX_HASHES + 1]), b"");
        let (climbs, mut body) = (ask(vec![b".."[..].into()]), Vec::new());
        climbs.encode(&mut body);
        let refused = Message::decode(kind::ASK_HASHES, &body);
        assert_eq!(refused, Err(BadMessage::Control(kind::ASK_HASHES)));
        refuse(&Message::Hashes { request: 1, files: vec![Hashed::NoFile; MAX_HASHES + 1] }, b"");
        let many = vec![(1, 1); MAX_ACKS + 1];
        refuse(&Message::Acks { done: many, outcomes: vec![], small: 0 }, b"");
        assert_eq!(Message::decode(200, b""), Err(BadMessage::Type(200)));
    }

    #[test]
    fn copies_cost_their_work_and_their_room() {
        let copy = |copies| Message::Copy { stage: 1, copies }.bulk_cost(0);
        assert_eq!(copy(vec![(0, 0, 1)]), 24);
        assert_eq!(copy(vec![(0, 5, 640), (9, 0, 64)]), 2 * 24 + 11);
        assert_eq!(copy(vec![(0, 0, u64::MAX), (0, 0, u64::MAX)]), u32::MAX);
        assert_eq!(Message::Data { stage: 1, offset: 5 }.bulk_cost(77), 77);
        assert_eq!(Message::Open { stage: 1, hint: path(""), size: 5 }.bulk_cost(0), 0);
        // The dearest one must fit into the smallest credit there is, with room for content.
        let dearest =
            vec![(u64::MAX - 512, u64::MAX - 512, MAX_COPY / MAX_RANGES as u64); MAX_RANGES];
        let message = Message::Copy { stage: u32::MAX, copies: dearest };
        assert!(message.bulk_cost(0) <= 1 << 20, "{}", message.bulk_cost(0));
        let mut body = Vec::new();
        message.encode(&mut body);
        assert!(body.len() <= crate::frame::CONTROL_MAX, "{}", body.len());
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
