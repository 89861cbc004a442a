//! A file brought as a delta: what the target has of it is copied there, the rest is sent.
//!
//! First, segment by segment, both ends hash aligned blocks at the same time, and what is equal at
//! its place is copied at once. Then, for what is left, the agent says weak and strong sums of the
//! blocks nobody wanted, and while they come they are looked for at every byte. What still is left is
//! sent. The file's hash, made of the very hashes of its blocks, decides at the commit.

use std::sync::Arc;

use lsync_agent::read::{FileReader, Finish};
use lsync_protocol::delta::search::Index;
use lsync_protocol::frame::PIECE;
use lsync_protocol::message::{Message, OpId};
use lsync_protocol::path::RelPath;

use super::{Lane, Stopped, blocking};
use crate::carrier::agent::base::Said;
use crate::carrier::agent::versions::Version;

mod base;
mod copies;
mod hunt;
mod sought;

use base::Base;

/// A smaller file is not worth the round trip.
pub(super) const SMALLEST: u64 = 256 * 1024;
/// Of a smaller one nobody asks what a former link left.
pub(super) const RESUMED: u64 = 8 << 20;
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

/// A file that was brought.
pub(super) struct Delta {
    pub(super) reader: FileReader,
    /// It did not change while it was read.
    pub(super) settled: bool,
    /// The sums of its blocks, as far as they are known.
    pub(super) sums: Option<Arc<Index>>,
    /// In the stage is what is behind the base, which has this size and is a version by the number
    /// of the operation to come.
    pub(super) behind: Option<u64>,
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
    may_grow: bool,
) -> Result<Result<Delta, FileReader>, Stopped> {
    let answers = lane.shared.bases.ask(lane.stage, resume);
    let version = version.filter(|(_, known)| known.block == reader.block());
    let mut base = Base { lane, answers, size: 0, version, may_grow };
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
    base.may_grow &= kept == 0 && base.version.is_none();
    if let Some((id, known)) = &base.version {
        base.size = known.size;
        let (stage, path) = (lane.stage, path.clone());
        lane.say(&Message::Base { stage, path, version: Some(*id) }).await?;
    } else if !base.first_of(bases, path).await? {
        base.size = 0;
        if kept == 0 {
            return Ok(Err(reader));
        }
    }
    let (reader, have) = base.kept(reader, kept).await?;
    let (reader, left) = base.same(reader, &have).await?;
    if left.grows {
        return rest(lane, reader, base.size).await.map(Ok);
    }
    let unsure = left.new.clone();
    let (reader, sums) = hunt::hunt(&mut base, reader, left, kept).await?;
    base.believed()?;
    passes(lane, reader, unsure, sums).await.map(Ok)
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

/// Sends what is behind the base.
async fn rest(lane: &Lane, mut reader: FileReader, from: u64) -> Result<Delta, Stopped> {
    let mut at = from;
    loop {
        lane.go_on()?;
        let of = lane.clone();
        let (next, frames, on) = blocking(move || {
            let (mut frames, mut bytes, mut sent) = (Vec::new(), Vec::new(), 0);
            while sent < 4 * PIECE {
                let size = reader.entry().size;
                let Some((start, end)) = reader.data(at, size)? else {
                    // What was hashed and what was read here may be of two versions: then the
                    // agent writes nothing, and it is looked at again.
                    let settled = reader.finish()? == Finish::Settled;
                    return Ok((reader, frames, Err(settled)));
                };
                reader.read(start, (end - start).min(PIECE as u64) as usize, &mut bytes)?;
                frames.extend(of.frames(start - from, &bytes));
                sent += bytes.len();
                at = start + bytes.len() as u64;
            }
            Ok((reader, frames, Ok(at)))
        })
        .await?;
        reader = next;
        for (frame, cost) in frames {
            lane.send(frame, cost).await?;
        }
        match on {
            Ok(on) => at = on,
            Err(settled) => return Ok(Delta { reader, settled, sums: None, behind: Some(from) }),
        }
    }
}

/// Reads the file again while it changes: blocks that differ are sent, and those of which the first
/// pass sent what it read a second time.
async fn passes(
    lane: &Lane,
    mut reader: FileReader,
    mut unsure: Ranges,
    mut sums: Option<Arc<Index>>,
) -> Result<Delta, Stopped> {
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
            return Ok(Delta { reader, settled, sums, behind: None });
        }
        // They are of what was read before.
        sums = None;
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
