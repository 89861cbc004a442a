//! What stands beside a tree: the receiver of a mirror, and the reading side both ends share.
//!
//! - [`root`]: everything beneath one directory; its identity and its lock
//! - [`meta`]: reading and setting attributes; what a target can hold; names of users
//! - [`walk`]: one directory listed, a tree walked by several threads
//! - [`read`]: one look, and content read so that a change meanwhile is noticed
//! - [`serve()`]: the receiver's loop; `stage` and `apply` do its work, `order` says when
//! - [`confine`]: the second wall around a process of its own
//! - [`fixed`]: what a key's command in `authorized_keys` fixes, whatever a source asks for
//! - [`run`]: the program `lsync-agent`
//!
//! Blocking threads, no asynchronous runtime: small, and ready in a millisecond.
#![forbid(unsafe_code)]

mod admit;
mod apply;
pub mod confine;
pub mod fault;
pub mod fixed;
mod listing;
pub mod meta;
mod order;
mod outbox;
pub mod read;
pub mod root;
mod run;
mod serve;
mod stage;
mod trash;
mod trouble;
pub mod walk;

pub use run::run;
pub use serve::{BULK_CREDIT, SMALL_CREDIT, ServeError, ServeOptions, serve};
pub use trouble::{io_trouble, trouble};
