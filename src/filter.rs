//! rsync's filter rules

/// The rules of one mirror, in order; the first that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Filter {}
