//! The hunt: what did not stand at its place is looked for at every byte, and what is nowhere
//! becomes content to be sent.

use std::collections::VecDeque;
use std::sync::Arc;

use lsync_agent::read::FileReader;
use lsync_protocol::delta::search::{Copy, Index, Search};
use lsync_protocol::frame::PIECE;

use super::{HARDLY, PATIENCE, Ranges};
use crate::carrier::agent::transfer::{Lane, Stopped};

/// So much of the file is looked at at a time, or two blocks if that is more.
const WINDOW: u64 = 2 << 20;
/// A go ends with so many bytes of content.
const CONTENT: usize = 4 * PIECE;
/// Or when so much was looked at.
const LOOKED: u64 = 32 << 20;

/// What is to be searched, and how far it is.
pub(super) struct Hunt {
    reader: FileReader,
    ranges: VecDeque<(u64, u64)>,
    index: Option<Arc<Index>>,
    key: [u8; 32],
    /// Up to here the stage may have something else than zeros.
    kept: u64,
    looked: u64,
    found: u64,
    window_size: u64,
    window: Vec<u8>,
}

/// What makes some of the content.
pub(super) enum Step {
    /// Where to, where from, how many bytes.
    Copy(u64, u64, u64),
    /// A frame of content, and what it costs.
    Frame(Vec<u8>, u32),
}

/// What one go came to.
#[derive(Default)]
pub(super) struct Go {
    /// What makes the content, from front to back.
    pub(super) steps: Vec<Step>,
    /// Nothing is left.
    pub(super) end: bool,
}

impl Hunt {
    pub(super) fn new(
        reader: FileReader,
        ranges: Ranges,
        index: Option<(u32, Arc<Index>)>,
        key: [u8; 32],
        kept: u64,
    ) -> Hunt {
        let (block, index) = index.unzip();
        Hunt {
            reader,
            ranges: ranges.into(),
            index,
            key,
            kept,
            looked: 0,
            found: 0,
            window_size: WINDOW.max(2 * u64::from(block.unwrap_or(0))),
            window: Vec::new(),
        }
    }

    pub(super) fn into_reader(self) -> FileReader {
        self.reader
    }

    /// Goes on for a while.
    pub(super) fn go(&mut self, lane: &Lane) -> Result<Go, Stopped> {
        let mut go = Go::default();
        let mut content = 0;
        let begun = self.looked;
        if self.looked >= PATIENCE && self.found < self.looked / HARDLY {
            // Searching what is not there costs more than it saves.
            self.index = None;
        }
        let index = self.index.clone();
        let mut search = index.as_ref().map(|index| Search::new(index, &self.key));
        let mut found: Vec<Copy> = Vec::new();
        while content < CONTENT && self.looked < begun + LOOKED {
            let Some((at, len)) = self.ranges.pop_front() else {
                go.end = true;
                break;
            };
            // Where nothing was written a stage reads as zeros.
            let data = match at < self.kept {
                true => Some((at, at + len)),
                false => self.reader.data(at, at + len)?,
            };
            let Some((from, to)) = data else { continue };
            let (at, len) = (from, at + len - from);
            let size = (to - from).min(self.window_size) as usize;
            let mut window = std::mem::take(&mut self.window);
            self.reader.read(at, size, &mut window)?;
            found.clear();
            let last = from + size as u64 == to;
            let settled = match &mut search {
                Some(search) => search.next(at, &window, last, &mut found),
                None => size,
            };
            let mut rest = at;
            for copy in &found {
                content += literal(lane, &mut go, at, rest, copy.to, &window);
                go.steps.push(Step::Copy(copy.to, copy.from, copy.len));
                self.found += copy.len;
                rest = copy.to + copy.len;
            }
            let end = at + settled as u64;
            content += literal(lane, &mut go, at, rest, end, &window);
            self.looked += settled as u64;
            self.window = window;
            self.put_back(end, len - settled as u64);
        }
        Ok(go)
    }

    fn put_back(&mut self, at: u64, len: u64) {
        if len > 0 {
            self.ranges.push_front((at, len));
        }
    }
}

/// Content from `from` to `to`, which lies in the window that begins at `at`.
fn literal(lane: &Lane, go: &mut Go, at: u64, from: u64, to: u64, window: &[u8]) -> usize {
    let bytes = window.get((from - at) as usize..(to - at) as usize).unwrap_or_default();
    if !bytes.is_empty() {
        let frames = lane.frames(from, bytes);
        go.steps.extend(frames.into_iter().map(|(frame, cost)| Step::Frame(frame, cost)));
    }
    bytes.len()
}
