//! The mirror's decisions against a simulated world: a source, a target that answers as the agent
//! does, and everything between them that may be late.

// A history that is played alone tells what happens.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod changes;
mod drift;
mod flush;
mod guards;
mod histories;
mod moved;
mod trouble;
mod world;
