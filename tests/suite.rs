//! All integration tests, as one binary: each file of `suite/` is one subject.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, missing_docs)]

#[path = "suite/actions.rs"]
mod actions;
#[path = "suite/cli.rs"]
mod cli;
#[path = "suite/contrib.rs"]
mod contrib;
#[path = "suite/deploy.rs"]
mod deploy;
#[path = "suite/docs.rs"]
mod docs;
#[path = "suite/faults.rs"]
mod faults;
#[path = "suite/gauge.rs"]
mod gauge;
#[path = "suite/house.rs"]
mod house;
#[path = "suite/legacy.rs"]
mod legacy;
#[path = "suite/many.rs"]
mod many;
#[path = "suite/model.rs"]
mod model;
#[path = "suite/push.rs"]
mod push;
#[path = "suite/relay.rs"]
mod relay;
#[path = "suite/restricted.rs"]
mod restricted;
#[path = "suite/rsync.rs"]
mod rsync;
#[path = "suite/ssh.rs"]
mod ssh;
#[path = "suite/tree.rs"]
mod tree;
#[path = "suite/two.rs"]
mod two;
#[path = "suite/unknown.rs"]
mod unknown;
#[path = "suite/verify.rs"]
mod verify;
#[path = "suite/watch.rs"]
mod watch;
#[path = "suite/world.rs"]
mod world;
