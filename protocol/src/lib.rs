//! What both ends of a mirror must agree on. Pure: no clock, no files, no threads.
#![forbid(unsafe_code)]

pub mod path;
