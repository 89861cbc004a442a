//! Raw bytes compressed by zstd. Each frame stands alone, so that pieces of several files may
//! interleave and several threads may compress; a context is kept, since a new one costs more than
//! a small frame.

use std::io::Cursor;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, CParameter};

use super::{
    BadFrame, CONTROL_MAX, FLAGS_AT, Frame, HEADER, Header, RAW_MAX, SQUEEZED, encode, put_length,
};
use crate::message::Message;

/// Bytes of the length that stands before compressed bytes.
const STATED: usize = 4;

/// Compresses the raw bytes of frames.
#[derive(Default)]
pub struct Squeezer {
    context: Compressor<'static>,
}

impl std::fmt::Debug for Squeezer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Squeezer")
    }
}

impl Squeezer {
    /// Appends a whole frame with these raw bytes, compressed at this level of zstd (1 to 22), to
    /// `out`. `false` when they do not get smaller by a tenth at least: then nothing is appended,
    /// and they should leave as they are.
    #[must_use]
    pub fn encode(&mut self, level: i32, message: &Message, raw: &[u8], out: &mut Vec<u8>) -> bool {
        debug_assert!(raw.len() <= RAW_MAX);
        let start = out.len();
        encode(message, 0, out);
        out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        let from = out.len();
        // With room for the worst case zstd needs no detour over buffers of its own.
        out.reserve(zstd_safe::compress_bound(raw.len()));
        if self.compress(level, raw, out, from).is_none_or(|size| size + STATED > worth(raw.len()))
        {
            out.truncate(start);
            return false;
        }
        let length = out.len() - start - HEADER;
        out[start + FLAGS_AT] |= SQUEEZED;
        put_length(length, &mut out[start..]);
        true
    }

    /// How many bytes it took; `None` where zstd cannot.
    fn compress(&mut self, level: i32, raw: &[u8], out: &mut Vec<u8>, at: usize) -> Option<usize> {
        self.context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
        let mut to = Cursor::new(out);
        to.set_position(at as u64);
        self.context.compress_to_buffer(raw, &mut to).ok()
    }
}

/// The most bytes that compressed ones may take.
fn worth(raw: usize) -> usize {
    raw - raw / 10
}

/// Decodes frames, compressed ones among them.
#[derive(Default)]
pub struct Decoder {
    /// Made when the first compressed frame comes: whoever never gets one does not pay for it.
    context: Option<Decompressor<'static>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    /// Decodes a body that was read whole.
    ///
    /// # Errors
    /// [`BadFrame`] when it is not a message.
    pub fn decode(&mut self, header: Header, body: Vec<u8>) -> Result<Frame, BadFrame> {
        let wire_size = HEADER + body.len();
        if header.squeezed {
            return self.squeezed(header, &body);
        }
        let (message, raw_at) = Message::decode(header.kind, &body)?;
        if raw_at > CONTROL_MAX || body.len() - raw_at > RAW_MAX {
            return Err(BadFrame::Length(body.len() as u32));
        }
        Ok(Frame { message, body, raw_at, wire_size })
    }

    /// Before anything is allocated the stated length is checked against its bound and against
    /// what the message says; more than that never comes out.
    fn squeezed(&mut self, header: Header, packed: &[u8]) -> Result<Frame, BadFrame> {
        let (message, raw_at) = Message::control(header.kind, packed)?;
        let (control, rest) = packed.split_at(raw_at);
        let (stated, rest) = rest.split_first_chunk::<STATED>().ok_or(BadFrame::Squeezed)?;
        let raw = u32::from_le_bytes(*stated) as usize;
        if control.len() > CONTROL_MAX || raw > RAW_MAX {
            return Err(BadFrame::Length(packed.len() as u32));
        }
        message.check_raw(raw)?;
        // One frame of zstd and nothing behind it.
        if zstd_safe::find_frame_compressed_size(rest) != Ok(rest.len()) {
            return Err(BadFrame::Squeezed);
        }
        let mut body = Vec::with_capacity(raw_at + raw);
        body.extend_from_slice(control);
        let mut to = Cursor::new(&mut body);
        to.set_position(raw_at as u64);
        let context = self.context.get_or_insert_default();
        match context.decompress_to_buffer(rest, &mut to) {
            Ok(size) if size == raw && body.len() == raw_at + raw => {}
            _ => return Err(BadFrame::Squeezed),
        }
        Ok(Frame { message, body, raw_at, wire_size: HEADER + packed.len() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::Meta;
    use crate::message::{BadMessage, Op};
    use crate::path::RelPath;

    const DATA: Message = Message::Data { stage: 7, offset: 128 };

    /// The header and the body of a frame.
    fn apart(bytes: &[u8]) -> (Header, Vec<u8>) {
        let header = Header::decode(bytes[..HEADER].try_into().unwrap()).unwrap();
        assert_eq!(header.length, bytes.len() - HEADER);
        (header, bytes[HEADER..].to_vec())
    }

    fn squeezed(raw: &[u8]) -> (Header, Vec<u8>) {
        let mut bytes = Vec::new();
        assert!(Squeezer::default().encode(1, &DATA, raw, &mut bytes));
        apart(&bytes)
    }

    /// A body with this control part, length and compressed bytes.
    fn body(message: &Message, length: usize, packed: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        message.encode(&mut body);
        body.extend_from_slice(&(length as u32).to_le_bytes());
        body.extend_from_slice(packed);
        body
    }

    fn refused(message: &Message, length: usize, packed: &[u8]) -> BadFrame {
        let body = body(message, length, packed);
        let header = Header { length: body.len(), kind: message.kind(), stream: 0, squeezed: true };
        Frame::decode(header, body).unwrap_err()
    }

    /// A frame of version 1, to be read for ever. How zstd writes it may change, so it is read only.
    #[test]
    fn a_golden_frame_is_read() {
        let bytes = [
            &[0x18, 0, 0, 0, 5, 1, 7, 0, 0, 0][..],
            &[7, 0x80, 0x01, 100, 0, 0, 0],
            &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x64, 0x45, 0x00, 0x00],
            &[0x10, 0x78, 0x78, 0x01, 0x00, 0x3f, 0x01, 0x2c],
        ];
        let (header, body) = apart(&bytes.concat());
        assert_eq!(header, Header { length: 24, kind: 5, stream: 7, squeezed: true });
        let frame = Frame::decode(header, body).unwrap();
        assert_eq!((frame.raw(), &frame.message), (&[b'x'; 100][..], &DATA));
        assert_eq!(frame.wire_size(), 34);
    }

    #[test]
    fn what_hardly_shrinks_is_left_alone() {
        let mut squeezer = Squeezer::default();
        let mut out = vec![1, 2, 3];
        let noise: Vec<u8> =
            (0..3000u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        for raw in [&b""[..], b"x", b"short", &noise] {
            assert!(!squeezer.encode(3, &DATA, raw, &mut out), "{}", raw.len());
            assert_eq!(out, [1, 2, 3]);
        }
        // A level that zstd does not have is the nearest that it has.
        for level in [1, 22, i32::MAX] {
            assert!(squeezer.encode(level, &DATA, &[0; 5000], &mut Vec::new()), "{level}");
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let raw = vec![b'a'; 10_000];
        let packed = zstd::bulk::compress(&raw, 3).unwrap();
        let ok = body(&DATA, raw.len(), &packed);
        let header = Header { length: ok.len(), kind: 5, stream: 7, squeezed: true };
        assert_eq!(Frame::decode(header, ok).unwrap().raw(), raw);
        for length in [1, 100, 9_999, 10_001, RAW_MAX] {
            assert_eq!(refused(&DATA, length, &packed), BadFrame::Squeezed, "{length}");
        }
        for length in [RAW_MAX + 1, u32::MAX as usize] {
            let bad = refused(&DATA, length, &packed);
            assert!(matches!(bad, BadFrame::Length(_)), "{length}: {bad}");
        }
        // No content at all, and content where none belongs.
        assert_eq!(refused(&DATA, 0, &packed), BadFrame::Message(BadMessage::Bounds(5)));
        assert_eq!(refused(&Message::Bye, 1, &packed), BadFrame::Message(BadMessage::Bounds(9)));
        assert_eq!(refused(&Message::Bye, 0, b""), BadFrame::Squeezed);
        let file =
            Op::File { path: RelPath::new(&b"f"[..]).unwrap(), size: 9_000, meta: Meta::default() };
        let ops = Message::Ops { first: 1, hash: Some([0; 32]), ops: vec![file] };
        assert_eq!(refused(&ops, 10_000, &packed), BadFrame::Message(BadMessage::Bounds(3)));
        assert_eq!(refused(&ops, 9_000, &packed), BadFrame::Squeezed);
    }

    #[test]
    fn a_bomb_gives_no_more_than_it_states() {
        // 64 MiB of zeros in some KiB, with its size in its head and without.
        let zeros = vec![0; 64 << 20];
        let sized = zstd::bulk::compress(&zeros, 1).unwrap();
        let streamed = zstd::stream::encode_all(&zeros[..], 1).unwrap();
        for bomb in [sized, streamed] {
            assert!(bomb.len() < 20_000, "{}", bomb.len());
            for length in [1, 1000, RAW_MAX] {
                assert_eq!(refused(&DATA, length, &bomb), BadFrame::Squeezed);
            }
        }
        // A frame that wants a window of two GiB takes no more than what it states.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert_eq!(refused(&DATA, 1000, &window), BadFrame::Squeezed);
    }

    #[test]
    fn only_one_whole_frame_is_taken() {
        let raw = vec![b'a'; 5000];
        let packed = zstd::bulk::compress(&raw, 3).unwrap();
        for cut in 0..packed.len() {
            assert_eq!(refused(&DATA, raw.len(), &packed[..cut]), BadFrame::Squeezed, "{cut}");
        }
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        let half = zstd::bulk::compress(&raw[..2500], 3).unwrap();
        for wrong in [
            [&packed[..], &[0]].concat(),
            [&packed[..], &skippable].concat(),
            [&skippable, &packed[..]].concat(),
            [&half[..], &half].concat(),
            skippable.to_vec(),
        ] {
            assert_eq!(refused(&DATA, raw.len(), &wrong), BadFrame::Squeezed);
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            seed in proptest::collection::vec(any::<u8>(), 0..300),
            times in 0..200usize,
            level in 1..6,
        ) {
            let raw = seed.repeat(times);
            let (mut squeezer, mut decoder) = (Squeezer::default(), Decoder::default());
            // Contexts are used again, after what did not shrink as well.
            for raw in [&raw[..], &seed, &raw[raw.len() / 3..]] {
                let mut bytes = b"before".to_vec();
                if squeezer.encode(level, &DATA, raw, &mut bytes) {
                    prop_assert!(bytes.len() < raw.len() + 50);
                    let (header, body) = apart(&bytes[6..]);
                    let frame = decoder.decode(header, body).unwrap();
                    prop_assert_eq!(frame.wire_size(), bytes.len() - 6);
                    let (message, body, raw_at) = frame.into_parts();
                    prop_assert_eq!(message, DATA);
                    prop_assert_eq!(&body[raw_at..], raw);
                } else {
                    prop_assert_eq!(&bytes[..], b"before");
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(
            flips in proptest::collection::vec((0..500usize, any::<u8>()), 0..5),
            cut in 0..500usize,
            tail in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let text: Vec<u8> = (0..400u32).flat_map(|n| format!("{n} ").into_bytes()).collect();
            let (header, good) = squeezed(&text);
            let mut body = good;
            for (at, byte) in flips {
                let at = at % body.len();
                body[at] ^= byte;
            }
            body.truncate(body.len().saturating_sub(cut / 4));
            body.extend(&tail);
            if let Ok(frame) = Frame::decode(header, body) {
                prop_assert!(frame.raw().len() <= RAW_MAX);
            }
        }
    }
}
