//! What stands beside a tree: the receiver of a mirror, and the reading side both ends share.
//!
//! - [`root`]: everything beneath one directory; its identity and its lock
//! - [`meta`]: reading and setting attributes; what a target can hold; names of users
//! - [`walk`]: one directory listed, a tree walked by several threads
//! - [`read`]: one look, and content read so that a change meanwhile is noticed
//! - [`serve()`]: the receiver's loop; `stage` and `apply` do its work, `order` says when
//! - [`confine`]: the second wall around a process of its own
//! - [`run`]: the program `lsync-agent`
//!
//! Blocking threads, no asynchronous runtime: small, and ready in a millisecond.
#![forbid(unsafe_code)]

use lsync_protocol::message::Op;

mod admit;
mod apply;
pub mod confine;
pub mod fault;
mod listing;
pub mod meta;
mod order;
mod outbox;
pub mod read;
pub mod root;
mod run;
mod serve;
mod stage;
mod trouble;
pub mod walk;

pub use run::run;
pub use serve::{BULK_CREDIT, SMALL_CREDIT, ServeError, ServeOptions, serve};
pub use trouble::{io_trouble, trouble};

/// What an operation takes of the small credit until it is acked, in bytes: its content, and a
/// flat sum for the rest. Both ends count by this.
#[must_use]
pub fn small_cost(op: &Op) -> u32 {
    64 + op.inline_size() as u32
}
