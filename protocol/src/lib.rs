//! What both ends of a mirror must agree on. Pure: no clock, no files, no threads.
//!
//! - [`path`]: a checked path beneath a root, and the order of everything
//! - [`xattr`]: extended attributes and access control lists, which attributes they belong to
//! - [`entry`]: what stands at a path, what counts as different, a directory's digest
//! - [`delta`]: what of a file's new content its old content has
//! - [`message`]: messages and operations
//! - [`frame`]: how a message lies on the wire
//! - [`handshake`]: how two ends find that they understand each other
#![forbid(unsafe_code)]

pub mod delta;
pub mod entry;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod path;
pub mod xattr;
