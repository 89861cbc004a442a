//! Operations: what the source wants done on the target.

use serde::{Deserialize, Serialize};

use super::{Hash, INLINE_MAX, OpId};
use crate::entry::{Device, Kind, Meta, Time};
use crate::path::RelPath;

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
        /// What to have instead: one of `MakeDir`, `File`, `Commit`, `Symlink`, `Special`, `Link`.
        new: Box<Op>,
    },
    /// Have more behind a version that stands here: the file grows in place, so a reader sees a
    /// prefix of the new content, never a mix. The rest comes in the raw bytes of the message, or in
    /// a stage. With nothing more, only the attributes are set.
    Append {
        /// Where.
        path: RelPath,
        /// What must stand there: the operation that put it there.
        version: OpId,
        /// The size of what must stand there, where the rest begins.
        from: u64,
        /// The size of the whole content.
        size: u64,
        /// The stage whose content is the rest, and which ends with this; without one the rest is at
        /// most [`INLINE_MAX`] bytes.
        stage: Option<u32>,
        /// Its attributes.
        meta: Meta,
        /// BLAKE3 of the whole content.
        hash: Hash,
    },
    /// Have a special file here: a FIFO, a socket or a device file.
    Special {
        /// Where.
        path: RelPath,
        /// Which kind.
        kind: Kind,
        /// Which device it stands for; of device files only.
        device: Option<Device>,
        /// Its attributes.
        meta: Meta,
    },
    /// Have a further name of a file here. Where that is not what it should be, or cannot have
    /// another name, it is refused and nothing was touched.
    Link {
        /// Where.
        path: RelPath,
        /// The name it has already.
        from: RelPath,
        /// Its size must be this.
        size: u64,
        /// Its modification time must be this, as held.
        mtime: Option<Time>,
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
            | Op::Append { path, .. }
            | Op::Symlink { path, .. }
            | Op::Special { path, .. }
            | Op::Link { path, .. }
            | Op::Meta { path, .. }
            | Op::Dir { path, .. }
            | Op::Remove { path, .. }
            | Op::Rename { to: path, .. } => path,
            Op::Replace { new, .. } => new.path(),
        }
    }

    /// The names that it takes from somewhere or gives to something: [`path`](Op::path), and the old
    /// one of a rename or a further name.
    pub fn names(&self) -> impl Iterator<Item = &RelPath> {
        let op = match self {
            Op::Replace { new, .. } => &**new,
            op => op,
        };
        let from = match op {
            Op::Rename { from, .. } | Op::Link { from, .. } => Some(from),
            _ => None,
        };
        std::iter::once(op.path()).chain(from)
    }

    /// How many raw bytes of the message are this operation's content.
    #[must_use]
    pub fn inline_size(&self) -> usize {
        match self {
            Op::File { size, .. } => *size as usize,
            Op::Append { from, size, stage: None, .. } => size.saturating_sub(*from) as usize,
            Op::Replace { new, .. } => new.inline_size(),
            _ => 0,
        }
    }

    /// Bytes of the small credit it takes while it is on the way: the same on both ends.
    #[must_use]
    pub fn cost(&self) -> u32 {
        64 + (self.inline_size() + self.meta_bytes()) as u32
    }

    /// Bytes of its attributes that have no bounded size.
    #[must_use]
    pub fn meta_bytes(&self) -> usize {
        match self {
            Op::MakeDir { meta, .. }
            | Op::File { meta, .. }
            | Op::Commit { meta, .. }
            | Op::Symlink { meta, .. }
            | Op::Special { meta, .. }
            | Op::Meta { meta, .. }
            | Op::Dir { meta, .. }
            | Op::Append { meta, .. } => meta.bytes(),
            Op::Replace { new, .. } => new.meta_bytes(),
            Op::Rename { .. } | Op::Remove { .. } | Op::Link { .. } => 0,
        }
    }

    /// The stage it commits, if it does.
    #[must_use]
    pub fn stage(&self) -> Option<u32> {
        match self {
            Op::Commit { stage, .. } => Some(*stage),
            Op::Append { stage, .. } => *stage,
            Op::Replace { new, .. } => new.stage(),
            _ => None,
        }
    }

    /// Is it one that may be sent: no `Replace` within a `Replace`, content of a bounded size?
    pub(super) fn valid(&self) -> bool {
        match self {
            Op::File { size, .. } => u64::from(*size) <= INLINE_MAX,
            Op::Append { path, from, size, stage, .. } => {
                let rest = size.checked_sub(*from);
                !path.is_root() && rest.is_some_and(|rest| stage.is_some() || rest <= INLINE_MAX)
            }
            Op::Replace { new, .. } => {
                matches!(
                    **new,
                    Op::MakeDir { .. }
                        | Op::File { .. }
                        | Op::Commit { .. }
                        | Op::Symlink { .. }
                        | Op::Special { .. }
                        | Op::Link { .. }
                ) && new.valid()
            }
            Op::Special { path, kind, device, .. } => {
                let a_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
                !path.is_root() && kind.special() && device.is_some() == a_device
            }
            Op::Rename { from, to, .. } => {
                !from.is_root() && !to.is_root() && !to.is_under(from) && !from.is_under(to)
            }
            Op::Link { path, from, .. } => {
                !path.is_root()
                    && !from.is_root()
                    && !path.is_at_or_under(from)
                    && !from.is_under(path)
            }
            Op::Remove { path, .. } | Op::Symlink { path, .. } | Op::Commit { path, .. } => {
                !path.is_root()
            }
            Op::MakeDir { .. } | Op::Meta { .. } | Op::Dir { .. } => true,
        }
    }
}
