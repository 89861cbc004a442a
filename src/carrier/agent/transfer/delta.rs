//! A file brought as a delta: what the target has of it is copied there, the rest is sent.
//!
//! First, segment by segment, both ends hash aligned blocks at the same time, and what is equal at
//! its place is copied at once. Then, for what is left, the agent says weak and strong sums of the
//! blocks nobody wanted, and they are looked for at every byte. What still is left is sent. The
//! file's hash, made of the very hashes of its blocks, decides at the commit.

use std::sync::Arc;

use lsync_agent::read::{FileReader, Finish};
use lsync_protocol::delta::search::Index;
use lsync_protocol::delta::sums::SUM;
use lsync_protocol::delta::tree::{Short, short};
use lsync_protocol::delta::{BLOCK_MAX, block, fine_block};
use lsync_protocol::frame::PIECE;
use lsync_protocol::message::{MAX_BLOCKS, MAX_RANGES, Message, OpId, SumHow};
use lsync_protocol::path::RelPath;

use super::{Lane, Stopped, blocking};
use crate::carrier::agent::base::{Answers, Said};
use crate::carrier::agent::versions::Version;

mod copies;
mod hunt;

use copies::Copies;
use hunt::{Hunt, Step};

/// A smaller file is not worth the round trip.
pub(super) const SMALLEST: u64 = 256 * 1024;
/// Of a smaller one nobody asks what a former link left.
pub(super) const RESUMED: u64 = 8 << 20;
/// So much is hashed and compared at a time.
const SEGMENT: u64 = 32 << 20;
/// So many segments are asked ahead of what is compared.
const AHEAD: u64 = 2;
/// After so much of which hardly anything stood at its place, the rest is not asked for.
const PATIENCE: u64 = 64 << 20;
/// So much of a known version's successor is sent at once rather than looked for elsewhere in it.
const UNASKED: u64 = 128 * 1024;
/// Hardly anything: less than one part in so many.
const HARDLY: u64 = 20;

/// Ranges in order: where, and how many bytes.
type Ranges = Vec<(u64, u64)>;

/// Adds a range behind the others.
fn push(ranges: &mut Ranges, at: u64, len: u64) {
    match ranges.last_mut() {
        Some((last, size)) if *last + *size == at => *size += len,
        _ if len > 0 => ranges.push((at, len)),
        _ => {}
    }
}

/// Is some of this in them?
fn overlap(ranges: &Ranges, with: &std::ops::Range<u64>) -> bool {
    let after = ranges.partition_point(|(at, len)| at + len <= with.start);
    ranges.get(after).is_some_and(|(at, _)| *at < with.end)
}

/// How many bytes they are.
fn bytes(ranges: &Ranges) -> u64 {
    ranges.iter().map(|(_, len)| len).sum()
}

/// Brings a file over the first of these names that is a file on the target, and over what a former
/// link left of it; gives it back when there is nothing of use.
///
/// If a version whose blocks are known stands at its path, nobody is asked what they are, and nothing
/// waits for the answer whether it does.
pub(super) async fn bring(
    lane: &Lane,
    path: &RelPath,
    bases: &[RelPath],
    resume: bool,
    reader: FileReader,
    version: Option<(OpId, Version)>,
) -> Result<Result<(FileReader, bool), FileReader>, Stopped> {
    let answers = lane.shared.bases.ask(lane.stage, resume);
    let version = version.filter(|(_, known)| known.block == reader.block());
    let mut base = Base { lane, answers, size: 0, version };
    let mut kept = 0;
    let size = reader.entry().size;
    if resume {
        lane.resume_stage(path, size).await?;
        if let Said::Kept(size) = base.answers.next().await? {
            kept = size;
        }
    } else {
        lane.open_stage(path, size).await?;
    }
    if let Some((id, known)) = &base.version {
        base.size = known.size;
        let (stage, path) = (lane.stage, path.clone());
        lane.say(&Message::Base { stage, path, version: Some(*id) }).await?;
    } else if !base.first_of(bases).await? {
        base.size = 0;
        if kept == 0 {
            return Ok(Err(reader));
        }
    }
    let (reader, have) = base.kept(reader, kept).await?;
    let (reader, left) = base.same(reader, &have).await?;
    let index = base.index(left.search).await?;
    let reader = hunt(lane, reader, &left.new, index, kept).await?;
    base.believed()?;
    passes(lane, reader, left.new).await.map(Ok)
}

/// What did not stand at its place.
struct Left {
    /// Of the new content.
    new: Ranges,
    /// Of the base, what is to be searched in blocks of this length: its sums were asked for.
    search: Option<(u32, Ranges)>,
}

/// The base, as the agent tells of it.
struct Base<'a> {
    lane: &'a Lane,
    answers: Answers,
    size: u64,
    /// What it is believed to be.
    version: Option<(OpId, Version)>,
}

impl Drop for Base<'_> {
    fn drop(&mut self) {
        self.lane.shared.bases.end(self.lane.stage);
    }
}

impl Base<'_> {
    /// Has the agent open the first of these names that is a file. Is there one, and of use?
    async fn first_of(&mut self, names: &[RelPath]) -> Result<bool, Stopped> {
        for (at, path) in names.iter().enumerate() {
            if at > 0 {
                self.answers = self.lane.shared.bases.ask(self.lane.stage, false);
            }
            let stage = self.lane.stage;
            self.lane.say(&Message::Base { stage, path: path.clone(), version: None }).await?;
            match self.answers.next().await? {
                Said::Is(None, _) => {}
                Said::Is(Some(size), _) => {
                    self.size = size;
                    return Ok(size >= u64::from(block(0)));
                }
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    async fn ask(&self, how: SumHow, block: u32, ranges: Ranges) -> Result<(), Stopped> {
        let size = match how {
            SumHow::Same | SumHow::Kept => size_of::<Short>(),
            SumHow::Search => SUM,
        };
        let blocks: u64 = ranges.iter().map(|(_, len)| len.div_ceil(u64::from(block))).sum();
        let stage = self.lane.stage;
        self.lane.shared.bases.expect(stage, blocks * size as u64);
        self.lane.say(&Message::AskSums { stage, how, block, ranges }).await
    }

    /// The next sums, so many bytes of them; `None` when there are no more.
    async fn next(&mut self, bytes: usize) -> Result<Option<Vec<u8>>, Stopped> {
        let sums = self.answers.sums(bytes).await?;
        self.believed()?;
        Ok(sums)
    }

    /// Is the base what it is believed to be, as far as was said by now?
    fn believed(&mut self) -> Result<(), Stopped> {
        match &self.version {
            Some((id, _)) if self.answers.is_other() => {
                self.lane.shared.versions.forget(*id);
                Err(Stopped::Other)
            }
            _ => Ok(()),
        }
    }

    /// Hashes the file where a former link left some of it: which blocks need not be brought again.
    async fn kept(
        &mut self,
        mut reader: FileReader,
        kept: u64,
    ) -> Result<(FileReader, Vec<bool>), Stopped> {
        let (size, length) = (reader.entry().size, u64::from(reader.block()));
        let segment = (SEGMENT / length).max(1);
        let common = if size == kept { size } else { size.min(kept) / length * length };
        let common_blocks = common.div_ceil(length);
        let mut have = Vec::new();
        let (mut asked, mut index) = (0, 0);
        while index < common_blocks {
            self.lane.go_on()?;
            while asked < common_blocks && asked < index + AHEAD * segment {
                let count = segment.min(common_blocks - asked);
                let at = asked * length;
                let len = (count * length).min(common - at);
                self.ask(SumHow::Kept, reader.block(), vec![(at, len)]).await?;
                asked += count;
            }
            let count = segment.min(common_blocks - index);
            reader = read_to(reader, (index + count) * length).await?;
            // It cannot be read any more: the rest has to be brought.
            let Some(sums) = self.next(count as usize * size_of::<Short>()).await? else { break };
            let chains = reader.chains().iter().skip(index as usize);
            let sums = sums.chunks_exact(size_of::<Short>());
            have.extend(chains.zip(sums).map(|(chain, sum)| sum == short(chain)));
            index += count;
        }
        Ok((reader, have))
    }

    /// Hashes the file and copies what stands at its place, but for what is in the stage already.
    async fn same(
        &mut self,
        mut reader: FileReader,
        have: &[bool],
    ) -> Result<(FileReader, Left), Stopped> {
        let (size, length) = (reader.entry().size, u64::from(reader.block()));
        let segment = (SEGMENT / length).max(1);
        // A short block at the end is one of the base's only where the base ends as well.
        let common = if size == self.size { size } else { size.min(self.size) / length * length };
        let (blocks, common_blocks) = (reader.blocks(), common.div_ceil(length));
        let mut left = Left { new: Vec::new(), search: None };
        // Of the base, what did not stand at its place.
        let mut old = Ranges::new();
        let mut copies = Copies::default();
        let (mut index, mut equal) = (0, 0);
        // Of a version everything is known as if it had been asked and answered.
        let version = self.version.as_ref().map(|(_, version)| Arc::clone(&version.chains));
        let mut asked = if version.is_some() { common_blocks } else { 0 };
        let mut asking = true;
        while index < blocks {
            self.lane.go_on()?;
            while asking && asked < common_blocks && asked < index + AHEAD * segment {
                let count = segment.min(common_blocks - asked);
                let at = asked * length;
                let len = (count * length).min(common - at);
                self.ask(SumHow::Same, reader.block(), vec![(at, len)]).await?;
                asked += count;
            }
            let count = segment.min(blocks - index);
            reader = read_to(reader, (index + count) * length).await?;
            let known = asked.saturating_sub(index).min(count) as usize;
            let sums = match &version {
                Some(chains) => {
                    self.believed()?;
                    let chains = chains.iter().skip(index as usize).take(known);
                    chains.flat_map(short).collect()
                }
                None => match self.next(known * size_of::<Short>()).await? {
                    Some(sums) => sums,
                    // It cannot be read any more: all that is left has to be sent.
                    None => {
                        (asking, asked) = (false, index);
                        Vec::new()
                    }
                },
            };
            let mut sums = sums.chunks_exact(size_of::<Short>());
            let chains = reader.chains().get(index as usize..).unwrap_or_default();
            for (chain, index) in chains.iter().zip(index..) {
                let at = index * length;
                let len = length.min(size - at);
                let same = sums.next().is_some_and(|sum| sum == short(chain));
                if have.get(index as usize) == Some(&true) {
                    equal += len;
                } else if same {
                    equal += len;
                    copies.push(at, at, len);
                } else {
                    push(&mut left.new, at, len);
                    if index < asked {
                        push(&mut old, at, len.min(self.size - at));
                    }
                }
            }
            copies.send(self.lane).await?;
            index += count;
            // The agent makes the other sums while the rest is hashed here.
            let hardly = index * length >= PATIENCE && equal < index * length / HARDLY;
            if asking && (hardly || index >= blocks) {
                asking = false;
                let ahead = asked.saturating_sub(index);
                if version.is_none() {
                    // What was asked ahead is not wanted any more.
                    self.next(ahead as usize * size_of::<Short>()).await?;
                }
                asked -= ahead;
                // What nobody asked about may stand anywhere.
                let seen = (asked * length).min(common);
                push(&mut old, seen, self.size - seen);
                left.search = self.search(&old, size - equal).await?;
            }
        }
        Ok((reader, left))
    }

    /// Asks for the sums of what is left of the base, to find `new` bytes there.
    async fn search(&mut self, old: &Ranges, new: u64) -> Result<Option<(u32, Ranges)>, Stopped> {
        let block = fine_block(bytes(old));
        if old.is_empty() || block > BLOCK_MAX {
            return Ok(None);
        }
        let (mut ranges, mut blocks) = (Ranges::new(), 0);
        for &(at, len) in old.iter().take(MAX_RANGES) {
            blocks += len.div_ceil(u64::from(block));
            if blocks > MAX_BLOCKS {
                break;
            }
            ranges.push((at, len));
        }
        // What is left may be less than its sums, or than what could be sent while they are waited for.
        let little = if self.version.is_some() { UNASKED } else { 0 };
        if ranges.is_empty() || new <= little.max(blocks * SUM as u64) {
            return Ok(None);
        }
        self.ask(SumHow::Search, block, ranges.clone()).await?;
        Ok(Some((block, ranges)))
    }

    /// The sums that were asked for, made ready for a search.
    async fn index(
        &mut self,
        asked: Option<(u32, Ranges)>,
    ) -> Result<Option<(u32, Arc<Index>)>, Stopped> {
        let Some((block, ranges)) = asked else { return Ok(None) };
        let mut index = Index::new(block);
        for (at, len) in ranges {
            let count = len.div_ceil(u64::from(block)) as usize;
            let Some(sums) = self.next(count * SUM).await? else { return Ok(None) };
            // What was asked for is in order and of the right number.
            if index.add(at, len, &sums).is_err() {
                return Ok(None);
            }
        }
        Ok(Some((block, Arc::new(index))))
    }
}

/// Reads up to there, unless it was.
async fn read_to(mut reader: FileReader, end: u64) -> Result<FileReader, Stopped> {
    blocking(move || {
        while reader.chains().len() as u64 * u64::from(reader.block()) < end {
            if reader.read_on()?.is_none() {
                break;
            }
        }
        Ok(reader)
    })
    .await
}

/// Looks for what is left, and sends what is nowhere; zeros too, where something was kept.
async fn hunt(
    lane: &Lane,
    reader: FileReader,
    left: &Ranges,
    index: Option<(u32, Arc<Index>)>,
    kept: u64,
) -> Result<FileReader, Stopped> {
    let in_order = kept == 0 && bytes(left) == reader.entry().size;
    let mut hunt = Hunt::new(reader, left.clone(), index, lane.shared.key, kept);
    let mut copies = Copies::default();
    loop {
        lane.go_on()?;
        let of = lane.clone();
        let (next, go) = blocking(move || {
            let go = hunt.go(&of)?;
            Ok((hunt, go))
        })
        .await?;
        hunt = next;
        // Where nothing stood at its place all of it goes in order: then the agent can hash it on its
        // way. Else copies go first, many a message.
        let mut frames = Vec::new();
        for step in go.steps {
            match step {
                Step::Copy(to, from, len) => copies.push(to, from, len),
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
            return Ok(hunt.into_reader());
        }
    }
}

/// Reads the file again while it changes: blocks that differ are sent, and those of which the first
/// pass sent what it read a second time.
async fn passes(
    lane: &Lane,
    mut reader: FileReader,
    mut unsure: Ranges,
) -> Result<(FileReader, bool), Stopped> {
    loop {
        let (next, settled) = blocking(move || {
            let settled = match reader.finish()? {
                Finish::Settled => Some(true),
                Finish::Unsettled => Some(false),
                Finish::Again => {
                    reader.again()?;
                    None
                }
            };
            Ok((reader, settled))
        })
        .await?;
        reader = next;
        if let Some(settled) = settled {
            return Ok((reader, settled));
        }
        let mut end = false;
        while !end {
            lane.go_on()?;
            let (of, ranges) = (lane.clone(), std::mem::take(&mut unsure));
            let (next, ranges, frames, at_end) = blocking(move || {
                let mut frames = Vec::new();
                let mut sent = 0;
                while sent < 4 * PIECE {
                    if reader.read_on()?.is_none() {
                        return Ok((reader, ranges, frames, true));
                    }
                    for (at, bytes) in reader.pieces(|block| overlap(&ranges, &block)) {
                        sent += bytes.len();
                        frames.extend(of.frames(at, bytes));
                    }
                }
                Ok((reader, ranges, frames, false))
            })
            .await?;
            (reader, unsure, end) = (next, ranges, at_end);
            for (frame, cost) in frames {
                lane.send(frame, cost).await?;
            }
        }
        unsure.clear();
    }
}
