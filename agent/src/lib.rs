//! What stands beside a tree: the receiver of a mirror, and the reading side both ends share.
//!
//! - [`root`]: everything beneath one directory; its identity and its lock
//! - [`meta`]: reading and setting attributes; what a target can hold; names of users
//! - [`walk`]: one directory listed, a tree walked by several threads
//! - [`read`]: one look, and content read so that a change meanwhile is noticed
//!
//! Blocking threads, no asynchronous runtime: small, and ready in a millisecond.
#![forbid(unsafe_code)]

pub mod meta;
pub mod read;
pub mod root;
pub mod walk;

/// The agent as a program.
pub fn run(_args: impl Iterator<Item = std::ffi::OsString>) -> u8 {
    255
}
