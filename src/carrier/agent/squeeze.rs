//! Compression: which content is compressed on its way, and how hard.
//!
//! Content is compressed by whoever makes its frames, on threads that may block. How hard is
//! [`Pace`]'s to say for the whole link; whether it is worth a try at all, each content's own
//! [`Grain`]'s.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use lsync_protocol::frame::{self, PIECE, Squeezer};
use lsync_protocol::message::Message;
use tokio::time::Instant;

use super::locked;
use super::pace::{Pace, Seen};
use crate::config::Compress;

/// Less content than this in one frame is not worth the trouble.
const LITTLE: usize = 256;
/// So many contexts wait to be used again: as many as threads compress at a time.
const CONTEXTS: usize = 8;
/// What did not shrink is left alone for so many bytes, and twice as many each further time.
const ALONE: u64 = PIECE as u64;
/// But never for more: a file may have parts of all kinds.
const ALONE_MOST: u64 = 8 << 20;

/// What one content taught about itself: a file, or the small files of a link together.
#[derive(Debug, Default)]
pub(super) struct Grain(Mutex<Lesson>);

#[derive(Debug, Default)]
struct Lesson {
    /// Bytes that are left alone.
    alone: u64,
    /// How many it were the last time; 0 after content that shrank.
    last: u64,
    /// Of what shrank last: how many bytes of content a byte on the wire was.
    gain: u64,
}

impl Grain {
    /// Did it shrink when it was tried last?
    pub(super) fn shrinks(&self) -> bool {
        locked(&self.0).last == 0
    }

    /// Should these bytes be tried?
    fn is_worth_a_try(&self, bytes: u64) -> bool {
        let mut lesson = locked(&self.0);
        let alone = lesson.alone > 0;
        lesson.alone = lesson.alone.saturating_sub(bytes);
        !alone
    }

    /// What a try came to: bytes of content and on the wire, if they shrank.
    fn tried(&self, shrank: Option<(usize, usize)>) {
        let mut lesson = locked(&self.0);
        *lesson = match shrank {
            Some((raw, wire)) => Lesson { gain: (raw / wire.max(1)) as u64, ..Lesson::default() },
            None => {
                let last = (lesson.last * 2).clamp(ALONE, ALONE_MOST);
                Lesson { alone: last, last, gain: 1 }
            }
        };
    }

    /// How much content probably makes a frame of this size.
    pub(super) fn stretch(&self, frame: usize) -> usize {
        let gain = locked(&self.0).gain.max(1) as usize;
        frame.saturating_mul(gain).min(PIECE).max(frame)
    }
}

/// The compression of one link.
#[derive(Debug)]
pub(super) struct Squeeze {
    auto: bool,
    /// The level of zstd that is used now; 0: content leaves as it is.
    level: AtomicI32,
    /// Contexts that nobody uses.
    idle: Mutex<Vec<Squeezer>>,
    /// Of content that leaves with its operations.
    small: Grain,
    /// Bytes of content that left compressed, before they were.
    squeezed: AtomicU64,
    /// Bytes of content that the target has.
    arrived: AtomicU64,
}

impl Squeeze {
    /// `near`: the target is on this host, where bytes cost less than the work to save them.
    pub(super) fn new(how: Compress, near: bool) -> Squeeze {
        let (auto, level) = match how {
            _ if near => (false, 0),
            Compress::Off => (false, 0),
            Compress::Level(level) => (false, level),
            Compress::Auto => (true, Pace::FIRST),
        };
        Squeeze {
            auto,
            level: AtomicI32::new(level),
            idle: Mutex::default(),
            small: Grain::default(),
            squeezed: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
        }
    }

    /// Is content compressed at the moment, where it shrinks?
    pub(super) fn is_on(&self) -> bool {
        self.level.load(Ordering::Relaxed) != 0
    }

    /// Appends a frame with this content to `out`, compressed if that is worth it.
    pub(super) fn frame(&self, message: &Message, raw: &[u8], grain: &Grain, out: &mut Vec<u8>) {
        let level = self.level.load(Ordering::Relaxed);
        if level != 0 && raw.len() >= LITTLE && grain.is_worth_a_try(raw.len() as u64) {
            let mut squeezer = locked(&self.idle).pop().unwrap_or_default();
            let start = out.len();
            let shrank = squeezer.encode(level, message, raw, out);
            grain.tried(shrank.then(|| (raw.len(), out.len() - start)));
            let mut idle = locked(&self.idle);
            if idle.len() < CONTEXTS {
                idle.push(squeezer);
            }
            if shrank {
                self.squeezed.fetch_add(raw.len() as u64, Ordering::Relaxed);
                return;
            }
        }
        out.reserve(raw.len() + 64);
        frame::encode(message, raw.len(), out);
        out.extend_from_slice(raw);
    }

    /// The same for content that leaves with its operations.
    pub(super) fn small(&self, message: &Message, raw: &[u8], out: &mut Vec<u8>) {
        self.frame(message, raw, &self.small, out);
    }

    /// The target has so many more bytes of content.
    pub(super) fn arrived(&self, bytes: u32) {
        self.arrived.fetch_add(bytes.into(), Ordering::Relaxed);
    }
}

/// A wait of the writer that is longer than this is rest, not hunger.
const REST: Duration = Duration::from_millis(250);

/// The writer's eye on how content flows, for `auto`.
#[derive(Debug)]
pub(super) struct Watch {
    pace: Option<Pace>,
    hungry: Duration,
    since: Option<Instant>,
}

impl Watch {
    pub(super) fn new(squeeze: &Squeeze) -> Watch {
        Watch { pace: squeeze.auto.then(Pace::default), hungry: Duration::ZERO, since: None }
    }

    /// The writer could write, and begins to wait for something to write.
    pub(super) fn waits(&mut self) {
        if self.pace.is_some() {
            self.since = Some(Instant::now());
        }
    }

    /// There is something to write.
    pub(super) fn goes_on(&mut self) {
        let (Some(since), Some(pace)) = (self.since.take(), &mut self.pace) else { return };
        let waited = since.elapsed();
        if waited > REST {
            pace.rest();
        } else {
            self.hungry += waited;
        }
    }

    /// Something was written: has what was seen since changed our mind?
    pub(super) fn wrote(&mut self, squeeze: &Squeeze) {
        let Some(pace) = &mut self.pace else { return };
        let seen = Seen {
            arrived: squeeze.arrived.load(Ordering::Relaxed),
            squeezed: squeeze.squeezed.load(Ordering::Relaxed),
            hungry: self.hungry,
        };
        squeeze.level.store(pace.look(Instant::now(), seen), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lsync_protocol::frame::{Decoder, HEADER, Header};

    use super::*;

    const DATA: Message = Message::Data { stage: 1, offset: 0 };

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Bytes on the wire; what arrives is right.
    fn goes(squeeze: &Squeeze, raw: &[u8], grain: &Grain) -> usize {
        let mut out = Vec::new();
        squeeze.frame(&DATA, raw, grain, &mut out);
        let header = Header::decode(out[..HEADER].try_into().unwrap()).unwrap();
        let frame = Decoder::default().decode(header, out[HEADER..].to_vec()).unwrap();
        assert_eq!(frame.raw(), raw);
        out.len()
    }

    #[test]
    fn only_who_wants_it_and_has_a_link_compresses() {
        let text = "a line of a log that is like the next one\n".repeat(1000);
        for (how, near, small) in [
            (Compress::Auto, false, true),
            (Compress::Level(19), false, true),
            (Compress::Off, false, false),
            (Compress::Auto, true, false),
            (Compress::Level(1), true, false),
        ] {
            let squeeze = Squeeze::new(how, near);
            let size = goes(&squeeze, text.as_bytes(), &Grain::default());
            assert_eq!(size < 1000, small, "{how:?} {near}: {size}");
            assert_eq!(squeeze.is_on(), small);
            assert!(goes(&squeeze, b"aaaaaaaaaaaaaaaaaaaaa", &Grain::default()) > 21);
        }
    }

    #[test]
    fn what_does_not_shrink_is_tried_ever_more_rarely() {
        let squeeze = Squeeze::new(Compress::Level(3), false);
        let (noise, text) = (noise(PIECE), vec![b'x'; PIECE]);
        let grain = Grain::default();
        let tries = |pieces: usize| {
            (0..pieces)
                .filter(|_| {
                    let before = locked(&grain.0).alone == 0;
                    goes(&squeeze, &noise, &grain);
                    before
                })
                .count()
        };
        // Pieces 0, 2, 5, 10, 19, 36, 69, then one in 65.
        assert_eq!(tries(70), 7);
        assert_eq!(tries(650), 10);
        // What shrinks after all is noticed within 8 MiB, and then nothing is left out.
        let left = (0..70).take_while(|_| goes(&squeeze, &text, &grain) > PIECE).count();
        assert!(left <= 64, "{left}");
        assert!((0..70).all(|_| goes(&squeeze, &text, &grain) < 1000));
        assert_eq!(tries(2), 1);
    }

    #[test]
    fn frames_keep_their_size_on_the_wire() {
        let grain = Grain::default();
        assert_eq!(grain.stretch(4096), 4096);
        grain.tried(Some((4096, 1000)));
        assert_eq!(grain.stretch(4096), 4 * 4096);
        assert_eq!(grain.stretch(100_000), PIECE);
        assert_eq!(grain.stretch(PIECE), PIECE);
        grain.tried(None);
        assert_eq!(grain.stretch(4096), 4096);
    }
}
