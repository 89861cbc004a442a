//! Writing the link: small frames before bulk ones, and many in one write, within the limit and
//! the window.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lsync_protocol::frame::{self, HEADER};
use lsync_protocol::message::Message;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::limit::Limit;
use super::squeeze::{Grain, Watch};
use super::{Shared, locked};

/// How much is gathered for one write.
const GATHER: usize = 256 * 1024;
/// A frame from this size on is written as it is: copying it would cost more than a write.
const LARGE: usize = 32 * 1024;
/// So many written frames of content wait to be filled again.
const SPARES: usize = 24;
/// So many answers to the agent's questions wait to be written: it asks once in a while.
pub(super) const ANSWERS: usize = 64;

/// A frame of a stage's content; `written` hears when it has left.
pub(super) struct Bulk {
    pub(super) frame: Vec<u8>,
    pub(super) written: Option<oneshot::Sender<()>>,
}

/// What waits to be written.
pub(super) struct Queues {
    /// Questions and answers whether somebody is there: no limit keeps them back.
    pub(super) answers: mpsc::Receiver<Vec<u8>>,
    /// Operations, and what else is small. An empty frame is the end.
    pub(super) urgent: mpsc::UnboundedReceiver<Vec<u8>>,
    /// Content of large files.
    pub(super) bulk: mpsc::Receiver<Bulk>,
}

/// Writes frames until the queues close or the link breaks. A broken link is told by the reader.
pub(super) async fn write(
    mut link: Box<dyn AsyncWrite + Send + Unpin>,
    queues: Queues,
    mut limit: Limit,
    shared: Arc<Shared>,
) {
    let Queues { mut answers, mut urgent, bulk: mut bulk_queue } = queues;
    let mut out: Vec<u8> = Vec::with_capacity(GATHER);
    let mut large: Option<Bulk> = None;
    // An urgent frame that waits for the limit.
    let mut held: Option<Vec<u8>> = None;
    let mut watch = Watch::new(&shared.squeeze);
    let mut end = false;
    while !end {
        let mut written = Vec::new();
        let (wait, wait_bulk) = (limit.urgent(), limit.bulk());
        let open = shared.window.is_open();
        let soonest = match &held {
            Some(_) if wait_bulk.is_zero() => wait,
            Some(_) => wait.min(wait_bulk),
            None => wait_bulk,
        };
        if let Some(frame) = held.take_if(|_| wait.is_zero()) {
            add(&frame, &mut out, &mut limit);
        } else {
            // Not for content while the window is shut.
            if soonest.is_zero() && open {
                watch.waits();
            }
            tokio::select! {
                biased;
                Some(frame) = answers.recv() => add(&frame, &mut out, &mut limit),
                frame = urgent.recv(), if held.is_none() => match frame {
                    // An empty frame is the end: everything before it has left.
                    Some(frame) if frame.is_empty() => break,
                    // A bare header, such as the last word, is not worth a wait.
                    Some(frame) if !wait.is_zero() && frame.len() > HEADER => {
                        held = Some(frame);
                        continue;
                    }
                    Some(frame) => add(&frame, &mut out, &mut limit),
                    None => break,
                },
                Some(bulk) = bulk_queue.recv(), if open && wait_bulk.is_zero() => {
                    let mut next = Some(bulk);
                    while let Some(bulk) = next.take() {
                        limit.charge_bulk(bulk.frame.len());
                        if bulk.frame.len() >= LARGE {
                            large = Some(bulk);
                            break;
                        }
                        out.extend_from_slice(&bulk.frame);
                        shared.spare(bulk.frame);
                        written.extend(bulk.written);
                        // What was compressed comes in small frames.
                        if out.len() < LARGE && limit.bulk().is_zero() {
                            next = bulk_queue.try_recv().ok();
                        }
                    }
                }
                () = tokio::time::sleep(soonest), if !soonest.is_zero() => continue,
                () = shared.window.changed(), if !open => continue,
            }
            watch.goes_on();
        }
        while out.len() < GATHER && held.is_none() && limit.urgent().is_zero() {
            match urgent.try_recv() {
                Ok(frame) if frame.is_empty() => {
                    end = true;
                    break;
                }
                Ok(frame) => add(&frame, &mut out, &mut limit),
                Err(_) => break,
            }
        }
        let mut sent = out.len() + large.as_ref().map_or(0, |bulk| bulk.frame.len());
        let ping = shared.window.leaves(sent);
        if let Some(bulk) = large.take() {
            if link.write_all(&out).await.is_err() || link.write_all(&bulk.frame).await.is_err() {
                return;
            }
            out.clear();
            shared.spare(bulk.frame);
            written.extend(bulk.written);
        }
        if let Some(number) = ping {
            let before = out.len();
            frame::encode(&Message::Ping(number), 0, &mut out);
            limit.charge_bulk(out.len() - before);
            sent += out.len() - before;
        }
        if link.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        if link.flush().await.is_err() {
            return;
        }
        shared.sent.fetch_add(sent as u64, Ordering::Relaxed);
        watch.wrote(&shared.squeeze);
        for written in written {
            let _ = written.send(());
        }
    }
    let _ = link.shutdown().await;
}

/// An urgent frame is to be written next.
fn add(frame: &[u8], out: &mut Vec<u8>, limit: &mut Limit) {
    limit.charge_urgent(frame.len());
    out.extend_from_slice(frame);
}

impl Shared {
    /// Frames with a piece of content that stands at `offset`, and the bytes of content in each: one
    /// frame, unless the link is slow, or its limit low.
    pub(super) fn content(
        &self,
        stage: u32,
        mut offset: u64,
        mut piece: &[u8],
        grain: &Grain,
    ) -> Vec<(Vec<u8>, u32)> {
        let most = self.piece.min(self.window.piece());
        let mut frames = Vec::with_capacity(1);
        while !piece.is_empty() {
            let (part, rest) = piece.split_at(grain.stretch(most).min(piece.len()));
            let mut bytes = self.buffer();
            self.squeeze.frame(&Message::Data { stage, offset }, part, grain, &mut bytes);
            frames.push((bytes, part.len() as u32));
            offset += part.len() as u64;
            piece = rest;
        }
        frames
    }

    /// A buffer for a frame of content: one that was written, if there is one. The memory of a
    /// new one would have to be given by the kernel, page by page, for each piece.
    pub(super) fn buffer(&self) -> Vec<u8> {
        locked(&self.spares).pop().unwrap_or_default()
    }

    pub(super) fn spare(&self, mut frame: Vec<u8>) {
        let mut spares = locked(&self.spares);
        if spares.len() < SPARES && frame.capacity() >= LARGE {
            frame.clear();
            spares.push(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU64;
    use std::os::unix::fs::MetadataExt;

    use lsync_protocol::xattr::Classes;

    use lsync_protocol::entry::{Holds, Kind, Meta};
    use lsync_protocol::frame::{self, Frame, Header};
    use lsync_protocol::handshake::{Identity, Welcome};
    use lsync_protocol::message::{Op, OpId};
    use lsync_protocol::path::RelPath;
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;
    use crate::carrier::agent::{AgentCarrier, CarrierOptions, Greeted};
    use crate::carrier::{Carried, Carrier};
    use crate::config::Compress;
    use crate::link::Link;
    use crate::plan::Planned;
    use crate::source::{Scope, Source};

    /// A carrier whose far end is this test; time goes only while everybody waits.
    struct Far {
        dir: tempfile::TempDir,
        carrier: AgentCarrier,
        link: DuplexStream,
        events: mpsc::Receiver<Carried>,
        start: Instant,
    }

    impl Far {
        fn new(rate: u64) -> Far {
            Far::with(rate, Compress::Off)
        }

        fn with(rate: u64, compress: Compress) -> Far {
            let dir = tempfile::tempdir().unwrap();
            let source = Arc::new(Source::open(dir.path(), Scope::default()).unwrap());
            let (ours, link) = tokio::io::duplex(1 << 24);
            let (reader, writer) = tokio::io::split(ours);
            let link_here = Link {
                reader: Box::new(reader),
                writer: Box::new(writer),
                ended: Box::pin(std::future::pending()),
                peer: "test".into(),
                near: false,
                fixed: None,
            };
            let welcome = Welcome {
                agent: "test".into(),
                fixed: None,
                boot: [0; 16],
                root: None,
                holds: Holds {
                    chown: false,
                    groups: Vec::new(),
                    own_user: 0,
                    own_group: 0,
                    devices: true,
                    xattrs: Classes::NONE,
                    time_granularity: 1,
                    keeps: lsync_protocol::entry::Keeps::ALL,
                    folds_case: false,
                    name_max: 255,
                },
                small: 4 << 20,
                bulk: 8 << 20,
            };
            let (said, events) = mpsc::channel(100);
            let greeted = Greeted { link: link_here, welcome, key: [0; 32], inplace: false };
            let options = CarrierOptions {
                rate: NonZeroU64::new(rate),
                compress,
                ..CarrierOptions::default()
            };
            let carrier = AgentCarrier::start(greeted, source, options, said);
            Far { dir, carrier, link, events, start: Instant::now() }
        }

        fn content(&mut self, id: OpId, name: &str, size: u64) {
            std::fs::write(self.dir.path().join(name), vec![b'x'; size as usize]).unwrap();
            let path = RelPath::new(name.as_bytes()).unwrap();
            let content = Planned::Content {
                path,
                meta: Meta::default(),
                size,
                file: None,
                new: true,
                base: false,
                like: Vec::new(),
            };
            self.carrier.send(vec![(id, content)]);
        }

        fn remove(&mut self, id: OpId) {
            let path = RelPath::new(&b"gone"[..]).unwrap();
            self.carrier.send(vec![(id, Planned::Remove { path, kind: Kind::File })]);
        }

        async fn say(&mut self, message: &Message) {
            let mut out = Vec::new();
            frame::encode(message, 0, &mut out);
            self.link.write_all(&out).await.unwrap();
        }

        /// The next frame, and the milliseconds since the start when it came.
        async fn next(&mut self) -> (u128, Frame) {
            loop {
                let mut header = [0; HEADER];
                self.link.read_exact(&mut header).await.unwrap();
                let header = Header::decode(&header).unwrap();
                let mut body = vec![0; header.length];
                self.link.read_exact(&mut body).await.unwrap();
                let frame = Frame::decode(header, body).unwrap();
                // How fast the link is: answered as an agent does.
                let Message::Ping(number) = frame.message else {
                    return (self.start.elapsed().as_millis(), frame);
                };
                self.say(&Message::Pong(number)).await;
            }
        }

        /// [`Far::next`] that is not content of a large file.
        async fn next_small(&mut self) -> (u128, Message) {
            loop {
                match self.next().await {
                    (_, frame) if matches!(frame.message, Message::Data { .. }) => {}
                    (at, frame) => return (at, frame.message),
                }
            }
        }
    }

    fn is_removal(message: &Message) -> bool {
        matches!(message, Message::Ops { ops, .. } if matches!(ops[..], [Op::Remove { .. }]))
    }

    #[tokio::test]
    async fn a_name_that_stands_for_another_file_is_told() {
        let mut far = Far::new(0);
        let dir = far.dir.path().to_owned();
        let mut events = std::mem::replace(&mut far.events, mpsc::channel(1).1);
        for (id, size) in [(1, 10), (2, 100_000)] {
            let (name, other) = (format!("f{id}"), format!("g{id}"));
            std::fs::write(dir.join(&name), vec![b'x'; size]).unwrap();
            std::fs::hard_link(dir.join(&name), dir.join(other)).unwrap();
            let meta = std::fs::metadata(dir.join(&name)).unwrap();
            let (dev, ino) = (meta.dev(), meta.ino());
            for (id, ino) in [(2 * id, ino), (2 * id + 1, ino + 1)] {
                let file = Identity { dev, ino };
                let path = RelPath::new(name.as_bytes()).unwrap();
                let (meta, size, file) = (Meta::default(), size as u64, Some(file));
                let like = Vec::new();
                let content =
                    Planned::Content { path, meta, size, file, new: true, base: false, like };
                far.carrier.send(vec![(id, content)]);
            }
            let said = loop {
                tokio::select! {
                    _ = far.next() => {}
                    said = events.recv() => match said.unwrap() {
                        Carried::OtherFile { file } => break file,
                        said => assert!(matches!(said, Carried::Staged { .. }), "{said:?}"),
                    },
                }
            };
            assert_eq!(said, Identity { dev, ino: ino + 1 });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn content_keeps_the_rate_and_lets_small_changes_pass() {
        let mut far = Far::new(100_000);
        far.content(1, "large", 1_000_000);
        assert!(matches!(far.next_small().await, (0, Message::Open { .. })));
        let (mut bytes, mut last, mut asked) = (0, 0, false);
        while bytes < 1_000_000 {
            let (at, frame) = far.next().await;
            let Message::Data { offset, .. } = frame.message else { panic!("{frame:?}") };
            assert_eq!(offset, bytes);
            assert!(frame.raw().len() <= 10_000);
            bytes += frame.raw().len() as u64;
            // The burst, a piece, and what the frames cost besides.
            assert!(u128::from(bytes) <= at * 100 + 20_000, "{bytes} bytes at {at} ms");
            if bytes > 500_000 && !asked {
                asked = true;
                // In the middle of it: not a millisecond is waited for.
                far.remove(2);
                far.say(&Message::Ping(7)).await;
                let mut seen = Vec::new();
                while seen.len() < 2 {
                    let (then, frame) = far.next().await;
                    assert_eq!(then, at, "{frame:?}");
                    seen.push(frame.message);
                }
                assert!(seen.iter().any(is_removal) && seen.contains(&Message::Pong(7)));
            }
            last = at;
        }
        assert!((9_800..10_300).contains(&last), "{last} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_of_what_is_on_the_wire() {
        let mut far = Far::with(100_000, Compress::Level(1));
        let text: String = (0..50_000).map(|n: u32| format!("{n:08} and so on\n")).collect();
        std::fs::write(far.dir.path().join("large"), &text).unwrap();
        let path = RelPath::new(&b"large"[..]).unwrap();
        let (meta, size) = (Meta::default(), text.len() as u64);
        let like = Vec::new();
        let content =
            Planned::Content { path, meta, size, file: None, new: true, base: false, like };
        far.carrier.send(vec![(1, content)]);
        let (mut content, mut wire) = (Vec::new(), 0);
        while content.len() < text.len() {
            let (at, frame) = far.next().await;
            wire += frame.wire_size() as u64;
            // The burst, and a frame.
            assert!(u128::from(wire) <= at * 100 + 40_000, "{wire} bytes at {at} ms");
            if matches!(frame.message, Message::Data { .. }) {
                assert!(frame.wire_size() <= 20_000, "{}", frame.wire_size());
                content.extend_from_slice(frame.raw());
            }
        }
        assert!(content == text.as_bytes());
        assert!(wire < size / 3, "{wire} of {size}");
        // In clear it would take as long as this.
        assert!(far.start.elapsed().as_millis() < u128::from(size) / 100);
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_changes_are_limited_too() {
        let mut far = Far::new(100_000);
        for id in 1..=50 {
            far.content(id, &format!("small{id}"), 20_000);
        }
        let (mut ops, mut bytes, mut last) = (0, 0, 0);
        while ops < 50 {
            let (at, frame) = far.next().await;
            let Message::Ops { ops: more, .. } = &frame.message else { panic!("{frame:?}") };
            ops += more.len();
            bytes += frame.wire_size() as u128;
            // The burst, and a message of operations.
            assert!(bytes <= at * 100 + 10_000 + 50_000, "{bytes} bytes at {at} ms");
            last = at;
        }
        assert!((9_300..10_300).contains(&last), "{last} ms");
        // In debt, but neither an answer nor the last word is kept back; an operation is.
        far.say(&Message::Ping(7)).await;
        assert_eq!(far.next_small().await, (last, Message::Pong(7)));
        far.remove(51);
        let (at, message) = far.next_small().await;
        assert!(is_removal(&message) && at > last + 100, "{message:?} at {at} ms");
        far.content(52, "more", 60_000);
        let (last, _) = far.next().await;
        far.carrier.finish();
        assert_eq!(far.next_small().await, (last, Message::Bye));
        assert_eq!(far.link.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(far.start.elapsed().as_millis(), last);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let mut far = Far::new(0);
        far.content(1, "large", 1_000_000);
        far.remove(2);
        let mut bytes = 0;
        while bytes < 1_000_000 {
            let (at, frame) = far.next().await;
            assert_eq!(at, 0);
            bytes += frame.raw().len();
        }
        // The content, and what is around it: how many frames carry it depends on who waits.
        let sent = far.carrier.traffic().0;
        assert!((1_000_000..1_010_000).contains(&sent), "{sent}");
    }
}
