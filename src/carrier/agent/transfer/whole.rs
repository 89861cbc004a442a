//! A file brought whole: its pieces, but for holes, and what changed meanwhile once more.

use lsync_agent::read::{FileReader, Finish};
use tokio::task::JoinHandle;

use super::{Brought, Lane, Stopped};

/// Pieces read in one go.
const PIECES: usize = 4;

/// What one go of reading gave.
struct Go {
    reader: FileReader,
    /// Frames, and the bytes of content in each.
    frames: Vec<(Vec<u8>, u32)>,
    /// Set at the end of the last pass: whether the file was settled.
    end: Option<bool>,
}

/// Brings the whole file.
pub(super) async fn bring(lane: &Lane, reader: FileReader) -> Result<Brought, Stopped> {
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
            Err((reader, settled)) => {
                return Ok(Brought {
                    settled,
                    file: reader.identity(),
                    entry: reader.entry().clone(),
                    hash: reader.hash(),
                    from_base: false,
                });
            }
        }
    }
}

/// Begins to read the next few pieces.
fn read_on(reader: FileReader, lane: &Lane) -> JoinHandle<Result<Go, Stopped>> {
    let lane = lane.clone();
    tokio::task::spawn_blocking(move || go(reader, &lane))
}

/// Reads a few pieces, going on to the next pass where the file changed.
fn go(mut reader: FileReader, lane: &Lane) -> Result<Go, Stopped> {
    let mut frames = Vec::new();
    while frames.len() < PIECES {
        if let Some((offset, piece)) = reader.next_piece()? {
            frames.extend(lane.frames(offset, piece));
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
