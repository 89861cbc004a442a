//! The threads that hash files: they read for long, so nothing else waits for them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::Receiver;
use lsync_protocol::message::{Hashed, Message};
use lsync_protocol::path::RelPath;

use super::gauge::Held;
use crate::apply::Ground;
use crate::order::Fuse;
use crate::outbox::Outbox;
use crate::read::{self, Calm};
use crate::trouble::said;

/// What is asked.
pub(super) enum Weigh {
    /// What do these files hold?
    Files { request: u32, dir: RelPath, names: Vec<Box<[u8]>>, calm: bool, _held: Held },
    /// Nothing more will come.
    End,
}

/// Answers until there is nothing more to answer. Without a ground there is no root, and no file.
pub(super) fn run(
    ground: Option<&Ground>,
    asked: &Receiver<Weigh>,
    outbox: &Arc<Outbox>,
    key: &[u8; 32],
) {
    let _fuse = Fuse(outbox.clone());
    let never = AtomicBool::new(false);
    let stop = ground.map_or(&never, |ground| &ground.stop);
    for ask in asked {
        let Weigh::Files { request, dir, names, calm, _held } = ask else { return };
        let calm = if calm { Calm::Yes } else { Calm::No };
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let hashed = match (ground, dir.join(&name)) {
                (None, _) => Some(Hashed::NoFile),
                (Some(ground), Ok(path)) => read::hash(&ground.root, &path, key, calm, stop),
                (_, Err(error)) => Some(Hashed::Trouble(said(error.to_string()))),
            };
            // The link has ended.
            let Some(hashed) = hashed else { return };
            files.push(hashed);
        }
        let bytes = 48 * files.len();
        if !outbox.listing(Message::Hashes { request, files }, bytes) {
            return;
        }
    }
}
