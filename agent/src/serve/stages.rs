//! The thread that writes stages: pieces in the order they came, and the credit they give back.

use std::os::fd::OwnedFd;
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
    /// The same, of which a former link may have left some: its path.
    Resume(Arc<Stage>, RelPath, u64),
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
            Piece::Resume(stage, path, size) => {
                if let Some(ground) = ground {
                    let kept = resume(ground, &stage, &path, size);
                    let size = *kept.as_ref().unwrap_or(&0);
                    outbox.say(Message::Kept { stage: stage.id, size });
                    say(outbox, &stage, kept.map(|_| ()));
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
    near(ground, hint, |dir| stage.open(&ground.names, dir, hint, size, ground.inplace))
}

/// Goes on with a stage: how much of it there is.
fn resume(ground: &Ground, stage: &Stage, path: &RelPath, size: u64) -> Result<u64, Trouble> {
    let hint = path.parent().unwrap_or_default();
    near(ground, &hint, |dir| stage.resume(&ground.names, dir, path, size, ground.inplace))
}

fn near<T>(
    ground: &Ground,
    hint: &RelPath,
    open: impl Fn(Result<Arc<OwnedFd>, Errno>) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    let fault = ground.fault(Call::Create, hint);
    match open(fault.and_then(|()| ground.nearest(hint))) {
        Err(trouble)
            if trouble.errno == Errno::ACCESS.raw_os_error()
                && ground.opened.open_up(&ground.root, hint.as_bytes()) =>
        {
            open(ground.nearest(hint))
        }
        done => done,
    }
}
