//! Writing the link: small frames before bulk ones, and many in one write.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::{Shared, locked};

/// How much is gathered for one write.
const GATHER: usize = 256 * 1024;
/// A frame from this size on is written as it is: copying it would cost more than a write.
const LARGE: usize = 32 * 1024;
/// So many written frames of content wait to be filled again.
const SPARES: usize = 16;

/// A frame of a stage's content; `written` hears when it has left.
pub(super) struct Bulk {
    pub(super) frame: Vec<u8>,
    pub(super) written: Option<oneshot::Sender<()>>,
}

/// Writes frames until the queues close or the link breaks. A broken link is told by the reader.
pub(super) async fn write(
    mut link: Box<dyn AsyncWrite + Send + Unpin>,
    mut urgent: mpsc::UnboundedReceiver<Vec<u8>>,
    mut bulk: mpsc::Receiver<Bulk>,
    shared: Arc<Shared>,
) {
    let mut out: Vec<u8> = Vec::with_capacity(GATHER);
    let mut large: Option<Bulk> = None;
    let mut end = false;
    while !end {
        let mut written = None;
        tokio::select! {
            biased;
            frame = urgent.recv() => match frame {
                // An empty frame is the end: everything before it has left.
                Some(frame) if frame.is_empty() => break,
                Some(frame) => out.extend_from_slice(&frame),
                None => break,
            },
            Some(bulk) = bulk.recv() => {
                if bulk.frame.len() >= LARGE {
                    large = Some(bulk);
                } else {
                    out.extend_from_slice(&bulk.frame);
                    written = bulk.written;
                }
            }
        }
        while out.len() < GATHER {
            match urgent.try_recv() {
                Ok(frame) if frame.is_empty() => {
                    end = true;
                    break;
                }
                Ok(frame) => out.extend_from_slice(&frame),
                Err(_) => break,
            }
        }
        let mut sent = out.len();
        if link.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        if let Some(bulk) = large.take() {
            sent += bulk.frame.len();
            if link.write_all(&bulk.frame).await.is_err() {
                return;
            }
            shared.spare(bulk.frame);
            written = bulk.written;
        }
        if link.flush().await.is_err() {
            return;
        }
        shared.sent.fetch_add(sent as u64, Ordering::Relaxed);
        if let Some(written) = written {
            let _ = written.send(());
        }
    }
    let _ = link.shutdown().await;
}

impl Shared {
    /// A buffer for a frame of content: one that was written, if there is one. The memory of a
    /// new one would have to be given by the kernel, page by page, for each piece.
    pub(super) fn buffer(&self) -> Vec<u8> {
        locked(&self.spares).pop().unwrap_or_default()
    }

    fn spare(&self, mut frame: Vec<u8>) {
        let mut spares = locked(&self.spares);
        if spares.len() < SPARES {
            frame.clear();
            spares.push(frame);
        }
    }
}
