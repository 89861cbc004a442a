//! The thread that writes stages: pieces in the order they came, and the credit they give back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use lsync_protocol::message::{Message, Trouble};
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::gauge::Held;
use crate::apply::Ground;
use crate::fault::Call;
use crate::order::Fuse;
use crate::outbox::Outbox;
use crate::stage::Stage;

/// What is to be done to a stage.
pub(crate) enum Piece {
    /// Content is to come: where it will probably be wanted, and how much.
    Open(Arc<Stage>, RelPath, u64),
    /// Content.
    Data(Arc<Stage>, u64, Held),
    /// Ranges of the base: where to, where from, how many bytes; and the credit they took.
    Copy(Arc<Stage>, Vec<(u64, u64, u64)>, u32, Held),
    /// It is not wanted any more.
    Abort(Arc<Stage>),
    /// Nothing more will come.
    End,
}

/// Writes until there is nothing more to write.
pub(super) fn run(ground: Option<&Ground>, pieces: &Receiver<Piece>, outbox: &Arc<Outbox>) {
    let _fuse = Fuse(outbox.clone());
    for piece in pieces {
        let ground = ground.filter(|ground| !ground.stop.load(Ordering::Relaxed));
        match piece {
            Piece::End => return,
            Piece::Open(stage, hint, size) => {
                if let Some(ground) = ground {
                    say(outbox, &stage, open(ground, &stage, &hint, size));
                }
                stage.finished_one();
            }
            Piece::Data(stage, offset, body) => {
                if let Some(ground) = ground {
                    let fault = |call, path: &RelPath| ground.fault(call, path);
                    say(outbox, &stage, stage.write(offset, body.bytes(), &ground.stop, fault));
                }
                stage.finished_one();
                outbox.credit(body.bytes().len());
            }
            Piece::Copy(stage, copies, cost, _held) => {
                if let Some(ground) = ground {
                    let fault = |call, path: &RelPath| ground.fault(call, path);
                    say(outbox, &stage, stage.copy(&copies, &ground.stop, fault));
                }
                stage.finished_one();
                outbox.credit(cost as usize);
            }
            Piece::Abort(stage) => {
                stage.abort();
                stage.finished_one();
            }
        }
    }
}

fn say(outbox: &Outbox, stage: &Stage, done: Result<(), Trouble>) {
    if let Err(trouble) = done {
        outbox.say(Message::StageTrouble { stage: stage.id, trouble });
    }
}

/// Opens a stage where it will probably be wanted; opens that directory up if need be.
fn open(ground: &Ground, stage: &Stage, hint: &RelPath, size: u64) -> Result<(), Trouble> {
    let fault = ground.fault(Call::Create, hint);
    let dir = fault.and_then(|()| ground.nearest(hint));
    match stage.open(&ground.names, dir, hint, size) {
        Err(trouble)
            if trouble.errno == Errno::ACCESS.raw_os_error()
                && ground.opened.open_up(&ground.root, hint.as_bytes()) =>
        {
            stage.open(&ground.names, ground.nearest(hint), hint, size)
        }
        done => done,
    }
}
