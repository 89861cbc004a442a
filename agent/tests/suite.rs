//! The agent, played by hand: a peer on the other end of a socket says what a source would say,
//! and what it must not say.
#![allow(clippy::unwrap_used)]

mod suite {
    mod delta;
    mod faults;
    mod hashes;
    mod hostile;
    mod inplace;
    mod link;
    mod list;
    mod names;
    mod ops;
    mod order;
    mod peer;
    mod process;
    mod random;
    mod restricted;
    mod stages;
    mod swapped;
    mod trash;
    mod unprivileged;
    mod versions;
}
