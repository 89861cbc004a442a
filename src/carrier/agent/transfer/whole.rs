//! A file brought whole: its content but for holes, and what changed meanwhile once more.

use std::collections::VecDeque;

use lsync_agent::read::{FileReader, Finish};
use lsync_protocol::frame::PIECE;
use tokio::task::JoinHandle;

use super::{Lane, Stopped};

/// So much content is read in one go.
const CONTENT: usize = 4 * PIECE;
/// Or so much is looked at.
const LOOKED: u64 = 32 << 20;
/// Goes that are compressed at a time: reading is faster, and so is a link.
const PACKED: usize = 2;

/// Frames, and the bytes of content in each.
type Frames = Vec<(Vec<u8>, u32)>;

/// What one go of reading gave.
struct Go {
    reader: FileReader,
    frames: Frames,
    /// Pieces that are to be compressed, and where they stand.
    pieces: Vec<(u64, Vec<u8>)>,
    /// Set at the end of the last pass: whether the file was settled.
    end: Option<bool>,
}

/// Brings the whole file.
///
/// Gives the reader back, and whether the file was settled.
pub(super) async fn bring(lane: &Lane, reader: FileReader) -> Result<(FileReader, bool), Stopped> {
    // While one go is being written, others are compressed and the next one is read.
    let mut reading = read_on(reader, lane);
    let mut packed: VecDeque<JoinHandle<Frames>> = VecDeque::new();
    loop {
        lane.go_on()?;
        let Go { reader, frames, pieces, end } = reading.await.unwrap_or(Err(Stopped::Link))?;
        let next = match end {
            None => Ok(read_on(reader, lane)),
            Some(settled) => Err((reader, settled)),
        };
        let room = if pieces.is_empty() || next.is_err() { 0 } else { PACKED - 1 };
        if !pieces.is_empty() {
            let lane = lane.clone();
            packed.push_back(tokio::task::spawn_blocking(move || pack(&lane, pieces)));
        }
        // In order: what is read goes on where the last one ended.
        while packed.len() > room
            && let Some(first) = packed.pop_front()
        {
            send(lane, first.await.map_err(|_| Stopped::Link)?).await?;
        }
        send(lane, frames).await?;
        match next {
            Ok(next) => reading = next,
            Err(end) => return Ok(end),
        }
    }
}

async fn send(lane: &Lane, frames: Frames) -> Result<(), Stopped> {
    for (frame, bytes) in frames {
        lane.send(frame, bytes).await?;
    }
    Ok(())
}

/// Makes frames of pieces, by themselves: compressing takes longer than reading.
fn pack(lane: &Lane, pieces: Vec<(u64, Vec<u8>)>) -> Frames {
    let mut frames = Frames::new();
    for (offset, piece) in pieces {
        frames.extend(lane.frames(offset, &piece));
        lane.shared.spare(piece);
    }
    frames
}

/// Begins to read the next few pieces.
fn read_on(reader: FileReader, lane: &Lane) -> JoinHandle<Result<Go, Stopped>> {
    let lane = lane.clone();
    tokio::task::spawn_blocking(move || go(reader, &lane))
}

/// Reads a few pieces, going on to the next pass where the file changed.
fn go(reader: FileReader, lane: &Lane) -> Result<Go, Stopped> {
    let squeezes = lane.squeezes();
    let mut go = Go { reader, frames: Vec::new(), pieces: Vec::new(), end: None };
    let (mut content, mut looked) = (0, 0);
    while content < CONTENT && looked < LOOKED {
        if let Some(range) = go.reader.read_on()? {
            looked += range.end - range.start;
            for (offset, piece) in go.reader.pieces(|_| false) {
                content += piece.len();
                if squeezes {
                    let mut bytes = lane.shared.buffer();
                    bytes.extend_from_slice(piece);
                    go.pieces.push((offset, bytes));
                } else {
                    go.frames.extend(lane.frames(offset, piece));
                }
            }
            continue;
        }
        match go.reader.finish()? {
            Finish::Settled => go.end = Some(true),
            Finish::Unsettled => go.end = Some(false),
            Finish::Again => {
                go.reader.again()?;
                continue;
            }
        }
        break;
    }
    Ok(go)
}
