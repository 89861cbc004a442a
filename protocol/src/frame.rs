//! How a message lies on the wire: `u32 length | u8 type | u8 flags | u32 stream`, little-endian,
//! then `length` bytes: the control part and the raw bytes behind it.
//!
//! The length is checked before anything is allocated. Raw bytes are never copied by a codec: the
//! sender writes header and control part into a buffer and the raw bytes behind them, the receiver
//! keeps the body it read and looks at its tail.
//!
//! Raw bytes may be compressed, which bit 0 of the flags says: then a `u32` with their length
//! stands behind the control part, and after it one frame of zstd; see [`Squeezer`] and [`Decoder`].

use crate::message::{BadMessage, Message};

mod squeeze;

pub use squeeze::{Decoder, Squeezer};

/// Bytes of a frame's header.
pub const HEADER: usize = 10;
/// The longest control part.
pub const CONTROL_MAX: usize = 1 << 20;
/// The most raw bytes in one frame.
pub const RAW_MAX: usize = 1 << 20;
/// How much of a file one `Data` message carries: small enough that a small change waits for one
/// of them only, large enough that its cost per byte is nothing.
pub const PIECE: usize = 128 * 1024;

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Longer than any frame may be.
    #[error("a frame of {0} bytes, which is more than a frame may have")]
    Length(u32),
    /// Flags that this version does not know.
    #[error("a frame with unknown flags {0:#04x}")]
    Flags(u8),
    /// The body is not a message.
    #[error(transparent)]
    Message(#[from] BadMessage),
    /// Compressed bytes that are not one whole frame of zstd, or not of the length that is stated.
    #[error("compressed bytes that do not give what is stated")]
    Squeezed,
}

/// A frame's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body.
    pub length: usize,
    /// The message's type.
    pub kind: u8,
    /// The stream: 0, or the stage that a `Data` belongs to.
    pub stream: u32,
    /// The raw bytes are compressed.
    pub squeezed: bool,
}

/// The flag of compressed raw bytes.
const SQUEEZED: u8 = 1;
/// Where the flags stand in a header.
const FLAGS_AT: usize = 5;

impl Header {
    /// Checks a header.
    ///
    /// # Errors
    /// [`BadFrame`] when the length is over its bound or a flag is unknown.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header, BadFrame> {
        let [a, b, c, d, kind, flags, e, f, g, h] = *bytes;
        let length = u32::from_le_bytes([a, b, c, d]);
        if length as usize > CONTROL_MAX + RAW_MAX {
            return Err(BadFrame::Length(length));
        }
        if flags & !SQUEEZED != 0 {
            return Err(BadFrame::Flags(flags));
        }
        let stream = u32::from_le_bytes([e, f, g, h]);
        let squeezed = flags & SQUEEZED != 0;
        Ok(Header { length: length as usize, kind, stream, squeezed })
    }
}

/// A message that came, with the body that holds its raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message.
    pub message: Message,
    body: Vec<u8>,
    raw_at: usize,
    wire_size: usize,
}

impl Frame {
    /// Decodes a body that was read whole. Who gets much content keeps a [`Decoder`] instead.
    ///
    /// # Errors
    /// [`BadFrame`] when it is not a message.
    pub fn decode(header: Header, body: Vec<u8>) -> Result<Frame, BadFrame> {
        Decoder::default().decode(header, body)
    }

    /// The raw bytes behind the control part.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.body[self.raw_at..]
    }

    /// Takes it apart: the message, the body, and where in the body the raw bytes begin.
    #[must_use]
    pub fn into_parts(self) -> (Message, Vec<u8>, usize) {
        (self.message, self.body, self.raw_at)
    }

    /// Bytes it took on the wire.
    #[must_use]
    pub fn wire_size(&self) -> usize {
        self.wire_size
    }
}

/// Appends a frame's header and control part to `out`. The caller appends exactly `raw` bytes, at
/// most [`RAW_MAX`], behind them.
pub fn encode(message: &Message, raw: usize, out: &mut Vec<u8>) {
    debug_assert!(raw <= RAW_MAX);
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    message.encode(out);
    let stream = match message {
        Message::Data { stage, .. } => *stage,
        _ => 0,
    };
    out[start + 4] = message.kind();
    out[start + 6..start + HEADER].copy_from_slice(&stream.to_le_bytes());
    let length = out.len() - start - HEADER + raw;
    put_length(length, &mut out[start..]);
}

/// Writes the length of the body into a header.
fn put_length(length: usize, header: &mut [u8]) {
    header[..4].copy_from_slice(&(length as u32).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Kind, Meta, Time};
    use crate::message::{Asked, Op, SumHow};
    use crate::path::RelPath;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The bytes of version 1: from the first release on, a change here is a new version.
    #[test]
    fn golden_frames_of_version_1() {
        let path = |p: &str| RelPath::new(p.as_bytes()).unwrap();
        let meta = Meta {
            mode: Some(0o644),
            uid: None,
            gid: Some(100),
            mtime: Some(Time { sec: 1, nsec: 2 }),
            xattrs: None,
        };
        let table: Vec<(Message, &[u8], &str)> = vec![
            (Message::Ping(5), b"", "0100000007000000000005"),
            (Message::Bye, b"", "00000000090000000000"),
            (
                Message::List {
                    first: 3,
                    dirs: vec![
                        Asked { dir: path("a/b"), digest: Some([9; 16]) },
                        Asked { dir: path("a/c"), digest: None },
                    ],
                },
                b"",
                "1c000000010000000000\
                 03020003612f620109090909090909090909090909090909\
                 02016300",
            ),
            (
                Message::Ops {
                    first: 300,
                    hash: Some([0xaa; 32]),
                    ops: vec![
                        Op::File { path: path("f"), size: 2, meta: meta.clone() },
                        Op::Remove { path: path("g"), kind: Kind::Dir },
                    ],
                },
                b"hi",
                "38000000030000000000ac0201aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
                 aaaaaaaaaa020101660201a40300016401020200070167016869",
            ),
            (
                Message::Ops {
                    first: 2,
                    hash: Some([0xbb; 32]),
                    ops: vec![Op::Append {
                        path: path("f"),
                        version: 300,
                        from: 128,
                        size: 129,
                        stage: None,
                        meta,
                        hash: [0xcc; 32],
                    }],
                },
                b"x",
                "580000000300000000000201bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\
                 bbbbbbbb01090166ac02800181010001a40300016401020200cccccccccccccccccccccccccccccc\
                 cccccccccccccccccccccccccccccccccc78",
            ),
            (Message::Data { stage: 7, offset: 128 }, b"x", "0400000005000700000007800178"),
            (
                Message::Base { stage: 7, path: path("a/b"), version: Some(5) },
                b"",
                "070000000a000000000007\
                 03612f620105",
            ),
            (
                Message::AskSums {
                    stage: 7,
                    how: SumHow::Search,
                    block: 2048,
                    ranges: vec![(5, 300), (1 << 20, 1)],
                },
                b"",
                "0c0000000b0000000000070180100205ac0280804001",
            ),
            (
                Message::AskSums {
                    stage: 300,
                    how: SumHow::Same,
                    block: 16384,
                    ranges: vec![(0, 16)],
                },
                b"",
                "090000000b0000000000ac0200808001010010",
            ),
            (
                Message::Copy { stage: 7, copies: vec![(0, 128, 5), (9, 0, 1)] },
                b"",
                "090000000c0000000000070200800105090001",
            ),
            (
                Message::BaseIs { stage: 7, size: Some(128), known: true },
                b"",
                "050000002800000000000701800101",
            ),
            (
                Message::Resume { stage: 7, path: path("a/b"), size: 300 },
                b"",
                "070000000d00000000000703612f62ac02",
            ),
            (Message::Mirrored, b"", "000000000e0000000000"),
            (Message::Known { stage: 7, version: 300 }, b"", "030000000f000000000007ac02"),
            (Message::Kept { stage: 7, size: 300 }, b"", "030000002a000000000007ac02"),
            (
                Message::BaseIs { stage: 7, size: None, known: false },
                b"",
                "03000000280000000000070000",
            ),
            (
                Message::Sums { stage: 7, sums: vec![1, 2, 3] },
                b"",
                "0500000029000000000007030102\
                 03",
            ),
        ];
        for (message, raw, want) in table {
            let mut bytes = Vec::new();
            encode(&message, raw.len(), &mut bytes);
            bytes.extend_from_slice(raw);
            assert_eq!(hex(&bytes), want, "{message:?}");
            let header = Header::decode(bytes[..HEADER].try_into().unwrap()).unwrap();
            assert_eq!(header.length, bytes.len() - HEADER);
            let frame = Frame::decode(header, bytes[HEADER..].to_vec()).unwrap();
            assert_eq!((frame.raw(), &frame.message), (raw, &message));
        }
    }

    #[test]
    fn lengths_and_flags_are_checked_first() {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Header::decode(&header), Err(BadFrame::Length(u32::MAX)));
        header[..4].copy_from_slice(&1u32.to_le_bytes());
        header[5] = 2;
        assert_eq!(Header::decode(&header), Err(BadFrame::Flags(2)));
        header[5] = 0x81;
        assert_eq!(Header::decode(&header), Err(BadFrame::Flags(0x81)));
    }

    /// Raw bytes are what content travels as: whatever is decoded with some behind it is a source's.
    #[test]
    fn no_answer_of_an_agent_carries_content() {
        let carries = |kind: u8, control: &[u8]| {
            let body = [control, b"raw"].concat();
            let header = Header { length: body.len(), kind, stream: 0, squeezed: false };
            Frame::decode(header, body).is_ok_and(|frame| !frame.raw().is_empty())
        };
        let answers = [
            Message::Same { request: 1 },
            Message::Entries { request: 1, last: true, entries: Vec::new() },
            Message::Acks { done: vec![(1, 1)], outcomes: Vec::new(), small: 1 },
            Message::Credit { bulk: 1 },
            Message::BaseIs { stage: 1, size: Some(1), known: true },
            Message::Kept { stage: 1, size: 1 },
            Message::Sums { stage: 1, sums: vec![1] },
            Message::Warning { text: "x".into() },
        ];
        for answer in answers {
            let mut frame = Vec::new();
            encode(&answer, 0, &mut frame);
            assert!(!carries(answer.kind(), &frame[HEADER..]), "{answer:?}");
        }
        // Nor is there another kind, with any control part of a few bytes.
        for kind in 32..=u8::MAX {
            for a in 0..=u8::MAX {
                for control in [&[][..], &[a], &[1, a], &[a, 1, 0], &[1, a, 0, 0]] {
                    assert!(!carries(kind, control), "{kind} {control:?}");
                }
            }
        }
    }
}
