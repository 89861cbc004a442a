//! The hunt: what did not stand at its place is looked for at every byte, and what is nowhere
//! becomes content to be sent. What was not hashed yet is hashed on the way.

use std::collections::VecDeque;
use std::sync::Arc;

use lsync_agent::read::FileReader;
use lsync_protocol::delta::search::{Copy, Index, Search, Succession};
use lsync_protocol::frame::PIECE;

use super::base::{Base, Left};
use super::copies::Copies;
use super::{HARDLY, Ranges, bytes};
use crate::carrier::agent::transfer::{Lane, Stopped, blocking};

/// So much of the file is looked at at a time, or two blocks if that is more: what was hashed is
/// still in the processor's cache then.
const WINDOW: u64 = 1 << 20;
/// A go ends with so many bytes of content.
const CONTENT: usize = 4 * PIECE;
/// Or when so much was looked at, or hashed.
const LOOKED: u64 = 8 << 20;
/// When so much was looked at and hardly anything found, nothing more is looked for.
const PATIENCE: u64 = 64 << 20;
/// The sums of the base that stand so far ahead of what is looked at are waited for.
const NEAR: u64 = 32 << 20;
/// So much of a window may be nowhere in what is known of the base so far, or two blocks if that is
/// more. Else all of its sums are waited for.
const LITTLE: u64 = 64 << 10;

/// What is to be searched, and how far it is.
struct Hunt {
    reader: FileReader,
    ranges: VecDeque<(u64, u64)>,
    key: [u8; 32],
    /// Up to here the stage may have something else than zeros.
    kept: u64,
    looked: u64,
    found: u64,
    /// Searching what is not there costs more than it saves.
    vain: bool,
    window: Window,
    /// What is known of the result; and of whose blocks, if not of those that are looked for.
    next: Option<Succession>,
    heir: Option<Arc<Index>>,
}

/// Bytes of the file.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

/// What makes some of the content.
enum Step {
    Copy(Copy),
    /// A frame of content, and what it costs.
    Frame(Vec<u8>, u32),
}

/// What one go came to.
#[derive(Default)]
struct Go {
    /// What makes the content, from front to back.
    steps: Vec<Step>,
    /// So much of it is sent.
    content: usize,
    /// What comes next may be where the base is not known yet.
    wanting: bool,
    /// Nothing is left.
    end: bool,
}

/// Looks for what is left, and sends what is nowhere; zeros too, where something was kept. Gives what
/// is then known of the result's blocks.
pub(super) async fn hunt(
    base: &mut Base<'_>,
    reader: FileReader,
    left: Left,
    kept: u64,
) -> Result<(FileReader, Option<Arc<Index>>), Stopped> {
    let Left { new, same, mut sought, .. } = left;
    let (lane, size) = (base.lane, reader.entry().size);
    let in_order = kept == 0 && bytes(&new) == size;
    let whole = sought.is_whole(base.size) && !sought.is_nothing();
    let heir = if whole { None } else { base.sums().cloned() };
    let next = match &heir {
        Some(heir) => Some(Succession::new(heir.block())),
        None => whole.then(|| Succession::new(sought.index().block())),
    };
    let mut hunt = Hunt {
        reader,
        ranges: new.into(),
        key: lane.shared.key,
        kept,
        looked: 0,
        found: 0,
        vain: false,
        window: Window::default(),
        next,
        heir,
    };
    let mut copies = Copies::default();
    let mut wanting = false;
    loop {
        lane.go_on()?;
        base.believed()?;
        if let Some(&(at, _)) = hunt.ranges.front() {
            let until = if wanting { u64::MAX } else { at.saturating_add(NEAR) };
            sought.wait(base, until).await?;
        }
        let (of, index) = (lane.clone(), Arc::clone(sought.index()));
        let complete = sought.is_complete();
        let (back, go) = blocking(move || {
            let go = hunt.go(&of, &index, complete)?;
            Ok((hunt, go))
        })
        .await?;
        hunt = back;
        wanting = go.wanting;
        // Where nothing stood at its place all of it goes in order: then the agent can hash it on its
        // way. Else copies go first, many a message.
        let mut frames = Vec::new();
        for step in go.steps {
            match step {
                Step::Copy(copy) => copies.push(copy.to, copy.from, copy.len),
                Step::Frame(frame, cost) if in_order => {
                    copies.send(lane).await?;
                    lane.send(frame, cost).await?;
                }
                Step::Frame(frame, cost) => frames.push((frame, cost)),
            }
        }
        copies.send(lane).await?;
        for (frame, cost) in frames {
            lane.send(frame, cost).await?;
        }
        if go.end {
            let sums = hunt.next.take().and_then(|next| {
                let known = hunt.heir.as_ref().unwrap_or(sought.index());
                succeeded(next, known, &same, size)
            });
            return Ok((hunt.reader, sums));
        }
    }
}

/// What is known of the result, with what stands where it stood.
fn succeeded(mut next: Succession, known: &Index, same: &Ranges, size: u64) -> Option<Arc<Index>> {
    for &(at, len) in same {
        next.copied(known, Copy { to: at, from: at, len });
    }
    next.into_index(size).map(Arc::new)
}

impl Hunt {
    /// Goes on for a while, looking for these blocks; there may come more unless they are `complete`.
    fn go(&mut self, lane: &Lane, index: &Index, complete: bool) -> Result<Go, Stopped> {
        let mut go = Go::default();
        let begun = self.looked;
        if self.looked >= PATIENCE && self.found < self.looked / HARDLY {
            (self.vain, self.next) = (true, None);
        }
        let mut search = (!self.vain).then(|| Search::new(index, &self.key));
        let block = u64::from(index.block());
        let hashed = self.hashed().saturating_add(LOOKED);
        let mut found: Vec<Copy> = Vec::new();
        while go.content < CONTENT && self.looked < begun + LOOKED {
            // All that is left is brought by the next pass, as far as it is still there.
            if self.reader.is_short() {
                go.end = true;
                break;
            }
            let Some((at, len)) = self.ranges.pop_front() else {
                go.end = self.hash(self.reader.entry().size, hashed)?;
                break;
            };
            // Where nothing was written a stage reads as zeros.
            let data = match at < self.kept {
                true => Some((at, at + len)),
                false => self.reader.data(at, at + len)?,
            };
            let Some((from, to)) = data else { continue };
            let (at, len) = (from, at + len - from);
            let size = (to - from).min(WINDOW.max(2 * block)) as usize;
            if !self.hash(at, hashed)? {
                self.put_back(at, len);
                break;
            }
            let Window { bytes: mut window, .. } = self.window(at, size)?;
            found.clear();
            let last = from + size as u64 == to;
            let settled = match &mut search {
                Some(search) => search.next(at, &window[..size], last, &mut found),
                None => size,
            };
            let copied: u64 = found.iter().map(|copy| copy.len).sum();
            go.wanting = !self.vain && !complete && settled as u64 - copied > LITTLE.max(2 * block);
            if go.wanting {
                self.window = Window { at, bytes: window };
                self.put_back(at, len);
                break;
            }
            let mut rest = at;
            for &copy in &found {
                self.literal(
                    lane,
                    &mut go,
                    rest,
                    &window[(rest - at) as usize..(copy.to - at) as usize],
                );
                if let Some(next) = &mut self.next {
                    next.copied(self.heir.as_deref().unwrap_or(index), copy);
                }
                go.steps.push(Step::Copy(copy));
                rest = copy.to + copy.len;
            }
            self.literal(lane, &mut go, rest, &window[(rest - at) as usize..settled]);
            self.found += copied;
            self.looked += settled as u64;
            window.drain(..settled);
            self.window = Window { at: at + settled as u64, bytes: window };
            self.put_back(at + settled as u64, len - settled as u64);
        }
        Ok(go)
    }

    /// So much was hashed.
    fn hashed(&self) -> u64 {
        self.reader.chains().len() as u64 * u64::from(self.reader.block())
    }

    /// Hashes up to `end`, but not beyond `most`: whether it got there.
    fn hash(&mut self, end: u64, most: u64) -> Result<bool, Stopped> {
        while self.hashed() < end.min(most) {
            if self.reader.read_on()?.is_none() {
                return Ok(true);
            }
        }
        Ok(self.hashed() >= end)
    }

    /// At least `size` bytes from `at` on, of which what was not hashed before is hashed now: so far
    /// as there is no such thing any more, zeros.
    fn window(&mut self, at: u64, size: usize) -> Result<Window, Stopped> {
        let mut window = std::mem::take(&mut self.window);
        match at.checked_sub(window.at) {
            Some(gone) if gone <= window.bytes.len() as u64 => {
                drop(window.bytes.drain(..gone as usize));
            }
            _ => window.bytes.clear(),
        }
        window.at = at;
        while window.bytes.len() < size {
            let (missing, here) = (size - window.bytes.len(), at + window.bytes.len() as u64);
            match self.hashed().checked_sub(here) {
                // Hashed before: read once more.
                Some(known) if known > 0 => {
                    let most = usize::try_from(known).map_or(missing, |known| known.min(missing));
                    let mut again = Vec::new();
                    self.reader.read(here, most, &mut again)?;
                    window.bytes.extend_from_slice(&again);
                }
                _ => {
                    let read = self.reader.read_on()?.is_some();
                    let (from, bytes) = self.reader.last();
                    match bytes.get((here.saturating_sub(from)) as usize..) {
                        Some(bytes) if read && from <= here => {
                            window.bytes.extend_from_slice(bytes);
                        }
                        // It is read once more as a whole: see `FileReader::finish`.
                        _ => window.bytes.resize(size, 0),
                    }
                }
            }
        }
        Ok(window)
    }

    fn put_back(&mut self, at: u64, len: u64) {
        if len > 0 {
            self.ranges.push_front((at, len));
        }
    }

    /// Content that stands at `at` and is not in the base.
    fn literal(&mut self, lane: &Lane, go: &mut Go, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let frames = lane.frames(at, bytes);
        go.steps.extend(frames.into_iter().map(|(frame, cost)| Step::Frame(frame, cost)));
        go.content += bytes.len();
        if let Some(next) = &mut self.next {
            next.added(&self.key, at, bytes);
        }
    }
}
