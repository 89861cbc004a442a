//! What a source asks.

use serde::{Deserialize, Serialize};

use crate::entry::Digest;
use crate::path::RelPath;

/// What is to be known of a block of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SumHow {
    /// Its chaining value at this very offset, shortened: is the block unchanged where it stands?
    Same,
    /// A weak and a strong sum: does it stand anywhere?
    Search,
    /// As `Same`, but not of the base: of what a former link left in the stage.
    Kept,
}

/// A directory to be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which directory.
    pub dir: RelPath,
    /// The source's digest of it; `None` asks for the entries in any case.
    pub digest: Option<Digest>,
}
