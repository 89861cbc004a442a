//! The agent's own library on a thread of this process: a local target is no second code path.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::link::{Link, LinkEnd};

/// Runs `serve` on a thread, with the two ends of a socket to read from and to write to (blocking).
/// Dropping the link is end of file for it. Must be called within a tokio runtime.
///
/// # Errors
/// No sockets or no thread can be had.
pub fn connect(
    serve: impl FnOnce(UnixStream, UnixStream) -> LinkEnd + Send + 'static,
) -> Result<Link> {
    let cannot = |e: std::io::Error| Error::failed("cannot start the local agent").because(e);
    let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
    ours.set_nonblocking(true).map_err(cannot)?;
    let their_reader = theirs.try_clone().map_err(cannot)?;
    let their_end = theirs.try_clone().map_err(cannot)?;
    let ours = tokio::net::UnixStream::from_std(ours).map_err(cannot)?;
    let (ended_in, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("agent".into())
        .spawn(move || {
            // A panic of the agent is the end of this link, not of the program.
            let end = catch_unwind(AssertUnwindSafe(|| serve(their_reader, theirs)));
            let end = end.unwrap_or_else(|_| LinkEnd {
                stderr: b"the agent's thread panicked".to_vec(),
                ..LinkEnd::default()
            });
            // A process takes its descriptors along; here a thread that waits for more to read has
            // one still, and would keep the link open until somebody writes.
            let _ = their_end.shutdown(Shutdown::Both);
            // Nobody may be interested.
            let _ = ended_in.send(end);
        })
        .map_err(cannot)?;
    let (reader, writer) = ours.into_split();
    Ok(Link {
        reader: Box::new(reader),
        writer: Box::new(writer),
        ended: Box::pin(async move { ended.await.unwrap_or_default() }),
        peer: "this host".into(),
        near: true,
        fixed: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read, Write};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn echo(mut reader: UnixStream, mut writer: UnixStream) -> LinkEnd {
        std::io::copy(&mut reader, &mut writer).unwrap();
        LinkEnd { status: Some(0), ..LinkEnd::default() }
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_is_told() {
        let mut link = connect(echo).unwrap();
        link.writer.write_all(b"hello").await.unwrap();
        link.writer.shutdown().await.unwrap();
        let mut got = Vec::new();
        link.reader.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"hello");
        assert_eq!(link.ended.await.status, Some(0));
    }

    #[tokio::test]
    async fn a_dropped_link_ends_the_thread() {
        let (told, end) = oneshot::channel();
        let link = connect(move |mut reader, _writer| {
            let mut all = Vec::new();
            let read = reader.read_to_end(&mut all).is_ok();
            told.send(read).unwrap();
            LinkEnd::default()
        })
        .unwrap();
        drop(link);
        assert!(end.await.unwrap());
    }

    #[tokio::test]
    async fn an_end_is_heard_though_a_thread_still_reads() {
        let (told, blocked) = std::sync::mpsc::channel();
        let mut link = connect(move |mut reader, _writer| {
            let reading = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
            told.send(reading).unwrap();
            LinkEnd { status: Some(1), ..LinkEnd::default() }
        })
        .unwrap();
        let mut got = Vec::new();
        let end = link.reader.read_to_end(&mut got);
        let heard = tokio::time::timeout(std::time::Duration::from_secs(10), end).await;
        assert!(matches!(heard, Ok(Ok(0))), "{heard:?}");
        assert_eq!(link.ended.await.status, Some(1));
        // Nor is the thread left behind.
        let reading = blocked.recv().unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_an_end() {
        let link = connect(|_, mut writer| {
            writer.write_all(b"x").unwrap();
            panic!("on purpose");
        })
        .unwrap();
        assert!(link.ended.await.describe().contains("panicked"));
    }
}
