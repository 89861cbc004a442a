//! Answers to what the source asks: a directory compared by its digest, and names of users.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use lsync_protocol::entry::{Digest, DirDigest, Held, Named};
use lsync_protocol::message::{MAX_ENTRIES, Message, NoList};
use lsync_protocol::path::RelPath;

use crate::apply::Ground;
use crate::meta::{self, cwd::OwnCwd};
use crate::outbox::Outbox;
use crate::serve::gauge;
use crate::trouble::io_trouble;
use crate::walk::{self, ListError, Listing};

/// What a lister is asked.
pub(crate) enum Ask {
    /// Is this directory as the source has it?
    List { request: u32, dir: RelPath, digest: Option<Digest>, _held: Arc<gauge::Held> },
    /// What are these called here?
    Names { users: Vec<(u32, String)>, groups: Vec<(u32, String)>, _held: gauge::Held },
    /// Everything is mirrored: what former links left may go.
    Mirrored,
    /// Nothing more will come.
    End,
}

/// Entries are sent in parts of about so many bytes.
const PART: usize = 256 * 1024;

/// How listings are answered.
pub(crate) struct Terms {
    /// Keys the digests.
    pub(crate) key: [u8; 32],
    /// What counts in them.
    pub(crate) held: Held,
    /// Something may be applied. If not, temporary names are left alone: another agent, that of a
    /// mirror which is compared while it runs, may be using them.
    pub(crate) applies: bool,
}

/// Answers until there is nothing more to answer. Without a ground there is no root: it is empty.
pub(crate) fn answer(
    ground: Option<&Ground>,
    asks: &Receiver<Ask>,
    outbox: &Arc<Outbox>,
    terms: &Terms,
) {
    let _fuse = crate::order::Fuse(outbox.clone());
    // The thread does nothing else.
    let cwd = OwnCwd::new();
    for ask in asks {
        if ground.is_some_and(|ground| ground.stop.load(Ordering::Relaxed)) {
            return;
        }
        let goes_on = match ask {
            Ask::End => false,
            Ask::Mirrored => {
                if let Some(ground) = ground.filter(|_| terms.applies) {
                    for dir in ground.names.mirrored() {
                        if let Ok(listing) = walk::list(&ground.root, &dir) {
                            sweep(ground, &dir, &listing);
                        }
                    }
                }
                true
            }
            Ask::Names { users, groups, _held } => {
                outbox.say(Message::NameIds {
                    users: numbers(users, meta::uid_of),
                    groups: numbers(groups, meta::gid_of),
                });
                true
            }
            Ask::List { request, dir, digest, _held } => match ground {
                Some(ground) => list(ground, outbox, request, &dir, digest, terms, cwd.as_ref()),
                None if dir.is_root() => entries(outbox, request, Vec::new()),
                None => {
                    outbox.listing(Message::NoList { request, why: NoList::Missing }, PART / 1024)
                }
            },
        };
        if !goes_on {
            return;
        }
    }
}

/// The numbers here; a name that nobody has keeps the source's number, as rsync does it.
fn numbers(names: Vec<(u32, String)>, ask: fn(&str) -> Option<u32>) -> Vec<(u32, u32)> {
    names.into_iter().map(|(number, name)| (number, ask(&name).unwrap_or(number))).collect()
}

fn list(
    ground: &Ground,
    outbox: &Outbox,
    request: u32,
    dir: &RelPath,
    digest: Option<Digest>,
    terms: &Terms,
    cwd: Option<&OwnCwd>,
) -> bool {
    // It is no part of the mirror, or another directory to which this name leads as well.
    if ground.apart.iter().any(|apart| dir.is_at_or_under(apart)) || ground.instead(dir).is_some() {
        return outbox.listing(Message::NoList { request, why: NoList::Missing }, 256);
    }
    let why = match walk::list_from(&ground.root, dir, cwd) {
        Ok(mut listing) => {
            for apart in ground.apart.iter().filter(|_| dir.is_root()) {
                let name = apart.as_bytes();
                listing.entries.retain(|named| *named.name != *name);
                listing.unknown.retain(|(unknown, _)| **unknown != *name);
            }
            if terms.applies {
                sweep(ground, dir, &listing);
            }
            match listing.unknown.first() {
                // A directory known in part is not known.
                Some((_, error)) => NoList::Trouble(io_trouble(error)),
                None => {
                    let ours = || DirDigest::of(&terms.key, &listing.entries, &terms.held);
                    if digest.is_some_and(|digest| digest == ours()) {
                        return outbox.listing(Message::Same { request }, 16);
                    }
                    return entries(outbox, request, without_values(listing.entries));
                }
            }
        }
        Err(ListError::Missing) => NoList::Missing,
        Err(ListError::Trouble(error)) => NoList::Trouble(io_trouble(&error)),
    };
    outbox.listing(Message::NoList { request, why }, 256)
}

/// The source tells by the digest whether they differ: values only ever come from it.
fn without_values(mut entries: Vec<Named>) -> Vec<Named> {
    for xattrs in entries.iter_mut().filter_map(|named| named.entry.meta.xattrs.as_mut()) {
        *xattrs = xattrs.only_digest();
    }
    entries
}

/// What dead names in a listing are good for.
fn sweep(ground: &Ground, dir: &RelPath, listing: &Listing) {
    if listing.stages.is_empty() {
        return;
    }
    if let Ok(fd) = ground.root.open_parent(dir.as_bytes()) {
        for stage in &listing.stages {
            ground.names.found(fd.as_fd(), dir, stage);
        }
    }
}

/// Sends entries in parts.
fn entries(outbox: &Outbox, request: u32, entries: Vec<Named>) -> bool {
    let (mut part, mut bytes) = (Vec::new(), 0);
    let mut rest = entries.into_iter().peekable();
    loop {
        let next = rest.next();
        let last = next.is_none();
        if last || bytes >= PART || part.len() >= MAX_ENTRIES {
            let entries = std::mem::take(&mut part);
            if !outbox.listing(Message::Entries { request, last, entries }, bytes + 16) {
                return false;
            }
            bytes = 0;
        }
        let Some(named) = next else { return true };
        bytes += named.name.len() + named.entry.link.as_ref().map_or(0, |link| link.len()) + 64;
        part.push(named);
    }
}
