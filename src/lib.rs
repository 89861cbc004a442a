//! lsyncd: a live mirror. One source directory, kept equal on one or more targets.

pub mod carrier;
pub mod cli;
pub mod collate;
pub mod config;
pub mod control;
pub mod daemon;
pub mod deploy;
pub mod error;
pub mod filter;
pub mod link;
pub mod metrics;
pub mod mirror;
pub mod plan;
pub mod reconcile;
pub mod source;
pub mod view;
pub mod watch;
