//! The socket beneath an ssh connection: reached by name, tuned, and never stuck for ever.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Sleep;

use crate::error::{Error, Result};

use super::config::Family;
use super::host::Host;

/// What the kernel may hold unsent: more would stand before a small change.
const NOT_SENT: u32 = 128 * 1024;

/// Connects by TCP to the first address of a host that answers.
///
/// # Errors
/// Apart: the name does not resolve, nobody listens, no route, no answer.
pub async fn dial(host: &Host) -> Result<TcpStream> {
    let (name, port) = (&host.host_name, host.port);
    let what = || format!("cannot connect to {}", shown(host));
    let unresolved = |cause: &str| {
        Error::failed(format!("cannot find the host {name}: {cause}"))
            .hint("check the name, or HostName in the ssh configuration")
    };
    let found = tokio::net::lookup_host((name.as_str(), port)).await;
    let found = found.map_err(|e| unresolved(&resolver_text(&e)))?;
    let addresses: Vec<SocketAddr> = found
        .filter(|address| match host.family {
            Family::Any => true,
            Family::Inet => address.is_ipv4(),
            Family::Inet6 => address.is_ipv6(),
        })
        .collect();
    let mut last = None;
    for address in addresses {
        match dial_one(host, address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => {
                tracing::debug!(%address, error = %e, "cannot connect");
                last = Some(e);
            }
        }
    }
    let Some(cause) = last else {
        return Err(unresolved("it has no address"));
    };
    let hint = match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("is an ssh server running there, and on port {port}? give another with -p PORT")
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "check the network between here and there".to_owned()
        }
        io::ErrorKind::TimedOut => "a firewall may drop packets, or the host is down".to_owned(),
        _ => "check the address and the network".to_owned(),
    };
    Err(Error::failed(what()).because(cause).hint(hint))
}

/// The host for error texts, with the address where that is another name.
#[must_use]
pub fn shown(host: &Host) -> String {
    match host.name == host.host_name {
        true => format!("{} port {}", host.name, host.port),
        false => format!("{} ({} port {})", host.name, host.host_name, host.port),
    }
}

/// The resolver's words, without "failed to lookup address information: ".
fn resolver_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit(": ").next().unwrap_or(&text);
    crate::error::plain(text)
}

async fn dial_one(host: &Host, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = &host.bind_address {
        let mut from = tokio::net::lookup_host((from.as_str(), 0)).await?;
        let same = from.find(|f| f.is_ipv4() == address.is_ipv4());
        socket.bind(same.ok_or_else(|| io::Error::other("BindAddress is of another family"))?)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if let Err(e) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(NOT_SENT) {
        tracing::debug!(error = %e, "cannot set TCP_NOTSENT_LOWAT");
    }
    Ok(stream)
}

/// A socket that acknowledges at once what it has read: sshd leaves Nagle's algorithm on during
/// the handshake, which costs 40 ms a turn against delayed acknowledgements.
#[derive(Debug)]
pub struct QuickAck(pub TcpStream);

impl AsyncRead for QuickAck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        #[cfg(target_os = "linux")]
        if read.is_ready() {
            // The kernel forgets it again by itself. Not possible is only slower.
            let _ = rustix::net::sockopt::set_tcp_quickack(&self.0, true);
        }
        read
    }
}

impl AsyncWrite for QuickAck {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A stream whose writes fail when nothing moves for `limit`. The ssh client sends keep-alives
/// from the task that writes, so while a write is stuck nothing else would notice a dead peer.
#[derive(Debug)]
pub struct Unstuck<S> {
    inner: S,
    limit: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstuck<S> {
    /// `limit` is `None` where keep-alives are off.
    pub fn new(inner: S, limit: Option<Duration>) -> Unstuck<S> {
        Unstuck { inner, limit, waiting: None }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(limit) = self.limit else {
            return polled;
        };
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstuck<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstuck<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        // A broken stream is shut; the ssh client would tell this error instead of the first one.
        self.watch(cx, polled).map(|_| Ok(()))
    }
}

/// A stream whose first bytes are kept: what a server says that is no ssh server.
#[derive(Debug)]
pub struct Overheard<S> {
    inner: S,
    heard: Arc<Mutex<Vec<u8>>>,
    full: bool,
}

impl<S> Overheard<S> {
    /// So many of the first bytes are kept.
    const KEPT: usize = 256;

    /// Keeps the first bytes in `heard`.
    pub fn new(inner: S, heard: Arc<Mutex<Vec<u8>>>) -> Overheard<S> {
        Overheard { inner, heard, full: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if !this.full {
            let mut heard = this.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let new = &buf.filled()[before..];
            let room = Self::KEPT.saturating_sub(heard.len());
            heard.extend_from_slice(&new[..new.len().min(room)]);
            this.full = heard.len() >= Self::KEPT;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Two halves that are one stream: a command's standard output and input, a channel's two ends.
pub struct Joined<R, W> {
    /// What is read from.
    pub reader: R,
    /// What is written to.
    pub writer: W,
}

impl<R: AsyncRead + Unpin, W: Unpin> AsyncRead for Joined<R, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl<R: Unpin, W: AsyncWrite + Unpin> AsyncWrite for Joined<R, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_write_that_never_moves_fails() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = Unstuck::new(ours, Some(Duration::from_millis(20)));
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
