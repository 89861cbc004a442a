//! The integration tests: one binary, one module an area.

#[path = "suite/watch.rs"]
mod watch;
