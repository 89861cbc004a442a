//! A file brought whole: its content but for holes, and what changed meanwhile once more.

use lsync_agent::read::{FileReader, Finish};
use lsync_protocol::frame::PIECE;
use tokio::task::JoinHandle;

use super::{Lane, Stopped};

/// So much content is read in one go.
const CONTENT: usize = 4 * PIECE;
/// Or so much is looked at.
const LOOKED: u64 = 32 << 20;

/// What one go of reading gave.
struct Go {
    reader: FileReader,
    /// Frames, and the bytes of content in each.
    frames: Vec<(Vec<u8>, u32)>,
    /// Set at the end of the last pass: whether the file was settled.
    end: Option<bool>,
}

/// Brings the whole file.
///
/// Gives the reader back, and whether the file was settled.
pub(super) async fn bring(lane: &Lane, reader: FileReader) -> Result<(FileReader, bool), Stopped> {
    // While one go is being written, the next one is read.
    let mut reading = read_on(reader, lane);
    loop {
        lane.go_on()?;
        let Go { reader, frames, end } = reading.await.unwrap_or(Err(Stopped::Link))?;
        let next = match end {
            None => Ok(read_on(reader, lane)),
            Some(settled) => Err((reader, settled)),
        };
        for (frame, bytes) in frames {
            lane.send(frame, bytes).await?;
        }
        match next {
            Ok(next) => reading = next,
            Err(end) => return Ok(end),
        }
    }
}

/// Begins to read a few pieces.
fn read_on(reader: FileReader, lane: &Lane) -> JoinHandle<Result<Go, Stopped>> {
    let lane = lane.clone();
    tokio::task::spawn_blocking(move || go(reader, &lane))
}

/// Reads a few pieces, going on to the next pass where the file changed.
fn go(mut reader: FileReader, lane: &Lane) -> Result<Go, Stopped> {
    let mut frames = Vec::new();
    let (mut content, mut looked) = (0, 0);
    while content < CONTENT && looked < LOOKED {
        if let Some(range) = reader.read_on()? {
            looked += range.end - range.start;
            for (offset, piece) in reader.pieces(|_| false) {
                content += piece.len();
                frames.extend(lane.frames(offset, piece));
            }
            continue;
        }
        let end = match reader.finish()? {
            Finish::Settled => true,
            Finish::Unsettled => false,
            Finish::Again => {
                reader.again()?;
                continue;
            }
        };
        return Ok(Go { reader, frames, end: Some(end) });
    }
    Ok(Go { reader, frames, end: None })
}
