//! Counters
