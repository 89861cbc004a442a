//! Writing the link: small frames before bulk ones, and many in one write.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::Shared;

/// How much is gathered for one write.
const GATHER: usize = 256 * 1024;

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
    loop {
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
                out.extend_from_slice(&bulk.frame);
                written = bulk.written;
            }
        }
        let mut end = false;
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
        if link.write_all(&out).await.is_err() || link.flush().await.is_err() {
            return;
        }
        shared.sent.fetch_add(out.len() as u64, Ordering::Relaxed);
        out.clear();
        if let Some(written) = written {
            let _ = written.send(());
        }
        if end {
            break;
        }
    }
    let _ = link.shutdown().await;
}
