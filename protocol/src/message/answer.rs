//! What an agent answers: what became of operations, and what it found.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Hash, MAX_TEXT};
use crate::entry::Kind;

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
    /// A rename whose old name is not what it should be, or a further name that cannot be given.
    /// Nothing was touched.
    Refused,
    /// It failed: the path stays as it was.
    Problem(Trouble),
    /// What stands there is not the version it was to be changed from, or what was to get a further
    /// name is not what it should be. Nothing was touched.
    OtherVersion,
    /// The agent was started so that it does no such thing, whatever is asked. Nothing was touched.
    Forbidden,
}

/// Why something failed on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// The operating system's error number, 0 when it is not one of its.
    pub errno: i32,
    /// In words, at most [`MAX_TEXT`](super::MAX_TEXT) bytes.
    #[serde(deserialize_with = "bounded")]
    pub text: String,
}

/// Text for people that stands alone.
#[derive(Deserialize)]
pub(super) struct Bounded(#[serde(deserialize_with = "bounded")] pub(super) String);

/// Text for people, no longer than it may be.
fn bounded<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if text.len() > MAX_TEXT {
        return Err(serde::de::Error::invalid_length(text.len(), &"a short text"));
    }
    Ok(text)
}

/// Why a directory could not be listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoList {
    /// There is no such directory: missing, or something else stands there.
    Missing,
    /// It could not be read: unknown is not missing.
    Trouble(Trouble),
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hashed {
    /// So many bytes, with this BLAKE3 hash under the key of the source.
    Is(u64, Hash),
    /// It went on changing while it was read.
    Changing,
    /// There is no file of that name: missing, or something else stands there.
    NoFile,
    /// It could not be read.
    Trouble(Trouble),
}
