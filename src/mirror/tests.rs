//! The mirror's decisions against a simulated world: a source, a target that answers as the agent
//! does, and everything between them that may be late.

#![allow(clippy::unwrap_used)]

mod changes;
mod guards;
mod histories;
mod trouble;
mod world;
