//! Actions: what Lsyncd 2's scripts do with what happened, instead of an agent.

pub mod queue;
