//! A command's channel as a [`Link`]: one task reads it to its end, whatever its owner does, for
//! a channel that nobody reads stops all channels of its connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::link::{Link, LinkEnd, Tail};

/// So many bytes may wait for the owner; beyond them the whole connection waits. In bytes, not
/// pieces: many small ones must not stop a connection that runs through this channel, which reads
/// nothing while it writes.
const QUEUED: usize = 16 << 20;

/// Makes a link of a channel on which a command was started. `keep` lives until the channel ends
/// and tells why, if the connection was lost.
pub fn link<K: Keep>(channel: Channel<Msg>, peer: String, keep: Arc<K>) -> Link {
    let (queue, pieces) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(QUEUED));
    let pieces_in = Inlet { queue, room: Arc::clone(&room) };
    let (ended_in, ended) = oneshot::channel();
    let (open_in, open) = watch::channel(());
    let (eof_in, eof) = oneshot::channel();
    let (read, write) = channel.split();
    let sink = write.make_writer();
    tokio::spawn(async move {
        let (mut end, closed) = pump(read, write, pieces_in, eof).await;
        drop(open_in);
        if !closed && let Some(why) = keep.lost() {
            end.stderr.extend_from_slice(format!("{why}\n").as_bytes());
        }
        // Nobody may be interested.
        let _ = ended_in.send(end);
        drop(keep);
    });
    Link {
        reader: Box::new(Pieces { queue: pieces, piece: Bytes::new(), room }),
        writer: Box::new(Sink::new(sink, open, eof_in)),
        ended: Box::pin(async move { ended.await.unwrap_or_default() }),
        peer,
        near: false,
        fixed: None,
    }
}

/// The two ends of a channel that carries another connection, without a command's fuss.
pub fn halves<K: Keep>(
    channel: Channel<Msg>,
    keep: Arc<K>,
) -> (impl AsyncRead + Send + Unpin + 'static, impl AsyncWrite + Send + Unpin + 'static) {
    let link = link(channel, String::new(), keep);
    (link.reader, link.writer)
}

/// What a channel needs to live on.
pub trait Keep: Send + Sync + 'static {
    /// Why the connection was lost, if it was.
    fn lost(&self) -> Option<String>;
}

/// Where pieces wait for the owner, within bounds.
struct Inlet {
    queue: mpsc::UnboundedSender<Bytes>,
    room: Arc<Semaphore>,
}

impl Inlet {
    async fn send(&self, piece: Bytes) {
        let len = u32::try_from(piece.len().min(QUEUED)).unwrap_or(u32::MAX);
        // Fails when the reader is gone: then nobody wants the piece.
        if let Ok(room) = self.room.acquire_many(len).await {
            room.forget();
            let _ = self.queue.send(piece);
        }
    }
}

/// Reads a channel to its end; true if the server closed it, false if the connection went away.
async fn pump(
    mut read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
    pieces: Inlet,
    writer_gone: oneshot::Receiver<()>,
) -> (LinkEnd, bool) {
    let mut end = LinkEnd::default();
    let mut tail = Tail::default();
    let mut writer_gone = Some(writer_gone);
    let mut pieces = Some(pieces);
    let closed = loop {
        let message = tokio::select! {
            biased;
            message = read.wait() => message,
            // The owner has dropped the writer: end of file, if it was not sent already.
            _ = async { match &mut writer_gone { Some(gone) => gone.await.ok(), None => None } },
                if writer_gone.is_some() =>
            {
                writer_gone = None;
                let _ = write.eof().await;
                continue;
            }
            // The owner has dropped the reader: nothing that comes is wanted, not even the end.
            () = async { if let Some(pieces) = &pieces { pieces.queue.closed().await } },
                if pieces.is_some() =>
            {
                // The server's own close is not told to a channel that we have closed.
                let _ = write.close().await;
                break true;
            }
        };
        match message {
            Some(ChannelMsg::Data { data }) => {
                if let Some(pieces) = &pieces {
                    pieces.send(data).await;
                }
            }
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => tail.push(&data),
            Some(ChannelMsg::Eof) => pieces = None,
            Some(ChannelMsg::ExitStatus { exit_status }) => {
                end.status = Some(i32::try_from(exit_status).unwrap_or(i32::MAX));
            }
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                end.signal = Some(signal_text(&signal_name));
            }
            Some(ChannelMsg::Failure) => {
                tail.push(b"the server refuses to run a command\n");
                let _ = write.close().await;
                break true;
            }
            Some(ChannelMsg::Close) => break true,
            None => break false,
            Some(_) => {}
        }
    };
    end.stderr = tail.take();
    (end, closed)
}

fn signal_text(signal: &russh::Sig) -> String {
    match signal {
        russh::Sig::Custom(name) => name.clone(),
        known => format!("{known:?}"),
    }
}

/// The reading end: pieces as they came, copied once into the caller's buffer.
struct Pieces {
    queue: mpsc::UnboundedReceiver<Bytes>,
    piece: Bytes,
    room: Arc<Semaphore>,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.room.close();
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            let n = this.piece.len().min(buf.remaining());
            buf.put_slice(&this.piece[..n]);
            this.piece.advance(n);
            this.room.add_permits(n);
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.queue.poll_recv(cx) {
                Poll::Ready(Some(piece)) => this.piece = piece,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The writing end. Fails once the channel is closed: its window would never open again.
struct Sink<W> {
    inner: W,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_closed: bool,
    /// Dropped with the writer, which sends end of file.
    _eof: oneshot::Sender<()>,
}

impl<W> Sink<W> {
    fn new(inner: W, mut open: watch::Receiver<()>, eof: oneshot::Sender<()>) -> Sink<W> {
        let closed = Box::pin(async move { while open.changed().await.is_ok() {} });
        Sink { inner, closed, is_closed: false, _eof: eof }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.is_closed = self.is_closed || self.closed.as_mut().poll(cx).is_ready();
        if self.is_closed { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Sink<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.check(cx).is_err() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
