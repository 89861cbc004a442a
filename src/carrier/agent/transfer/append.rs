//! A file that grew behind a version which the target has: only the rest is sent.
//!
//! Up to [`PROVEN`] bytes all of the file is read, so it is certain that it only grew. Of a larger
//! one a few blocks are, among them those in which most files that change elsewhere too show it; the
//! version is *unproven* then, and all of it is read later, when it rests. A file that was once seen
//! to change before its end is read whole always.

use lsync_agent::read::{FileReader, Finish};
use lsync_protocol::delta::tree;
use lsync_protocol::frame::PIECE;
use lsync_protocol::message::{INLINE_MAX, OpId};

use super::{Body, Brought, Lane, Large, Stopped, blocking};
use crate::carrier::agent::versions::{Proof, Version, now};

/// Files up to this size are read whole each time: that takes some milliseconds.
const PROVEN: u64 = 64 << 20;
/// So many blocks of a larger one are looked at, and its first and its last.
const SAMPLES: u64 = 126;
/// So much content is read in one go.
const CONTENT: usize = 4 * PIECE;
/// Or so much is looked at.
const LOOKED: u64 = 32 << 20;

/// How far it is.
struct Growth {
    reader: FileReader,
    version: Version,
    /// The rest goes through a stage.
    staged: bool,
    rest: Vec<u8>,
}

/// What a go came to.
enum Go {
    /// Frames of content for the stage, and what each costs; there is more.
    More(Vec<(Vec<u8>, u32)>),
    /// The last of them, and whether the file was settled.
    End(Vec<(Vec<u8>, u32)>, bool),
    /// It did more than grow.
    Other,
}

/// Brings what a file has behind a version; `None` when it did more than grow, or is too much for
/// the blocks of the version.
pub(super) async fn bring(
    lane: &mut Lane,
    file: &Large,
    id: OpId,
    version: &Version,
) -> Result<Option<Brought>, Stopped> {
    let began = now();
    let reader = lane.open(&file.path, Some(version)).await?;
    let size = reader.entry().size;
    let fits = reader.identity() == version.file
        && size >= version.size
        && reader.block() == version.block;
    if !fits {
        return Ok(None);
    }
    let staged = size - version.size > INLINE_MAX;
    // What did not grow was changed, and so will be what was changed before.
    let may_believe = size > version.size && !version.is_edited() && !version.is_due(began);
    let whole = version.size <= PROVEN || !may_believe;
    let mut growth = Growth { reader, version: version.clone(), staged, rest: Vec::new() };
    if !whole {
        growth = match blocking(move || growth.believe()).await? {
            Some(growth) => growth,
            None => return Ok(None),
        };
    }
    if staged {
        lane.open_stage(&file.path, size - version.size).await?;
    }
    loop {
        lane.go_on()?;
        let of = lane.clone();
        let (next, go) = blocking(move || {
            let go = growth.go(&of)?;
            Ok((growth, go))
        })
        .await?;
        growth = next;
        let (frames, end) = match go {
            Go::More(frames) => (frames, None),
            Go::End(frames, settled) => (frames, Some(settled)),
            Go::Other => {
                lane.close_stage().await?;
                return Ok(None);
            }
        };
        for (frame, cost) in frames {
            lane.send(frame, cost).await?;
        }
        if let Some(settled) = end {
            let proof = match whole {
                true => Proof::read(began).edited(version.is_edited()),
                false => version.proof.grown(began),
            };
            let bytes = (!staged).then_some(growth.rest);
            let body = Body::Rest { version: id, from: version.size, bytes };
            // What came behind is not in them; when that is too much they are of no use.
            let sums = version.sums.clone().filter(|sums| sums.reach(size));
            return Brought::of(growth.reader, settled, body, proof, sums).map(Some);
        }
    }
}

impl Growth {
    /// Goes to the end of the version without reading all of it, if some of it is as it was.
    fn believe(mut self) -> Result<Option<Growth>, Stopped> {
        let whole = self.version.size / u64::from(self.version.block);
        let chains = self.version.chains.get(..whole as usize).unwrap_or_default();
        for sample in 0..=SAMPLES + 1 {
            let index = (u128::from(whole.saturating_sub(1)) * u128::from(sample)
                / u128::from(SAMPLES + 1)) as u64;
            let Some(known) = chains.get(index as usize) else { return Ok(None) };
            if self.reader.chain_of(index, self.version.block)?.as_ref() != Some(known) {
                return Ok(None);
            }
        }
        self.reader.behind(chains);
        Ok(Some(self))
    }

    /// Reads on.
    fn go(&mut self, lane: &Lane) -> Result<Go, Stopped> {
        let mut frames = Vec::new();
        let (mut content, mut looked) = (0, 0);
        let from = self.version.size;
        while content < CONTENT && looked < LOOKED {
            let Some(range) = self.reader.read_on()? else {
                return Ok(match self.reader.finish()? {
                    Finish::Settled => Go::End(frames, true),
                    Finish::Unsettled => Go::End(frames, false),
                    Finish::Again => Go::Other,
                });
            };
            if !self.is_same() {
                return Ok(Go::Other);
            }
            looked += range.end - range.start;
            let (at, bytes) = self.reader.last();
            if range.end > from {
                let start = from.max(at);
                let bytes = &bytes[(start - at) as usize..];
                content += bytes.len();
                if self.staged {
                    frames.extend(lane.frames(start - from, bytes));
                } else {
                    self.rest.extend_from_slice(bytes);
                }
            }
        }
        Ok(Go::More(frames))
    }

    /// Is what was read last as it was in the version, as far as it is of it?
    fn is_same(&self) -> bool {
        let Version { size, block, chains, .. } = &self.version;
        let (at, bytes) = self.reader.last();
        let length = u64::from(*block);
        let (first, whole) = (at / length, size / length);
        let end = (at + bytes.len() as u64).div_ceil(length).min(whole);
        if first < end {
            let range = first as usize..end as usize;
            let read = self.reader.chains().get(range.clone());
            if read.is_none() || read != chains.get(range) {
                return false;
            }
        }
        // Its last block was shorter than it is now.
        let start = whole * length;
        if start == *size || !(at..at + bytes.len() as u64).contains(&start) {
            return true;
        }
        let part = bytes.get((start - at) as usize..(size - at) as usize);
        part.is_some_and(|part| chains.get(whole as usize) == Some(&tree::chain(start, part)))
    }
}
