//! Reading the link: answers, acks and credit; and noticing when nothing comes any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lsync_protocol::entry::Named;
use lsync_protocol::frame::{Frame, HEADER, Header};
use lsync_protocol::message::{MAX_STAGES, Message};
use lsync_protocol::path::{Escaped, check_name};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::timeout;

use super::{Shared, locked};
use crate::carrier::{Carried, NotBuilt};
use crate::error::Error;
use crate::link::Ended;

/// A link on which nothing came for this long is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(15);
/// After so many questions without an answer it is lost.
const SILENCES_MAX: u32 = 3;
/// The most entries of the directories whose listings have come in part.
const ENTRIES_MAX: usize = 4 << 20;
/// The most bytes that those parts took on the wire.
const LISTED_MAX: usize = 128 << 20;
/// The most warnings of one link: an agent says each of a handful once.
const WARNINGS_MAX: u32 = 200;

/// Why reading ended.
enum End {
    /// The far end closed.
    Eof,
    /// The link broke.
    Broken(std::io::Error),
    /// Nothing came for too long.
    Silent,
    /// What came makes no sense.
    Nonsense(String),
    /// The mirror does not listen any more.
    Unheard,
}

/// Reads frames until the link ends, then says how it ended.
pub(super) async fn read(
    reader: Box<dyn AsyncRead + Send + Unpin>,
    ended: Ended,
    peer: String,
    answers: mpsc::Sender<Vec<u8>>,
    events: mpsc::Sender<Carried>,
    shared: Arc<Shared>,
) {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let end = frames(&mut reader, &answers, &events, &shared).await;
    drop(reader);
    let error = match end {
        End::Unheard => return,
        End::Silent => Error::failed(format!(
            "{peer} has not answered for {} s",
            SILENCE.as_secs() * u64::from(SILENCES_MAX)
        )),
        End::Nonsense(what) => {
            Error::failed(format!("the agent on {peer} sent what an agent does not send"))
                .because(what)
        }
        End::Broken(error) => Error::failed(format!("the link to {peer} broke")).because(error),
        End::Eof => {
            let far = timeout(Duration::from_secs(2), ended).await.unwrap_or_default();
            Error::failed(format!("the link to {peer} ended")).because(far.describe())
        }
    };
    let _ = events.send(Carried::Lost(error)).await;
}

async fn frames<R: AsyncRead + Unpin>(
    reader: &mut R,
    answers: &mpsc::Sender<Vec<u8>>,
    events: &mpsc::Sender<Carried>,
    shared: &Shared,
) -> End {
    let mut told = Told::default();
    loop {
        let frame = match next(reader, answers).await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        shared.received.fetch_add(frame.wire_size() as u64, Ordering::Relaxed);
        let said = match take(frame, &mut told, answers, shared) {
            Ok(Some(said)) => said,
            Ok(None) => continue,
            Err(what) => return End::Nonsense(what.to_owned()),
        };
        if events.send(said).await.is_err() {
            return End::Unheard;
        }
    }
}

/// What came of which more is to come, and how much that is: none of it may be without end.
#[derive(Default)]
struct Told {
    /// Listings that have come in part, and their bytes on the wire.
    listings: HashMap<u32, (Vec<Named>, usize)>,
    /// All their entries.
    entries: usize,
    /// All their bytes.
    bytes: usize,
    warnings: u32,
}

impl Told {
    /// A part of a listing; the whole of it with the last one.
    fn listed(
        &mut self,
        request: u32,
        last: bool,
        part: Vec<Named>,
        bytes: usize,
    ) -> Result<Option<Vec<Named>>, &'static str> {
        if part.is_empty() && !last {
            return Err("a part of a directory with nothing in it");
        }
        self.entries += part.len();
        self.bytes += bytes;
        if self.entries > ENTRIES_MAX || self.bytes > LISTED_MAX {
            return Err("a directory without end");
        }
        let (listing, taken) = self.listings.entry(request).or_default();
        *taken += bytes;
        for named in part {
            check_name(&named.name).map_err(|_| "an entry with an impossible name")?;
            if listing.last().is_some_and(|before| before.name >= named.name) {
                return Err("entries out of order");
            }
            listing.push(named);
        }
        if !last {
            return Ok(None);
        }
        let (listing, taken) = self.listings.remove(&request).unwrap_or_default();
        self.entries -= listing.len();
        self.bytes -= taken;
        Ok(Some(listing))
    }
}

/// The next frame. While nothing comes, the far end is asked.
async fn next<R: AsyncRead + Unpin>(
    reader: &mut R,
    answers: &mpsc::Sender<Vec<u8>>,
) -> Result<Frame, End> {
    let mut header = [0; HEADER];
    let mut silences = 0;
    let mut got = 0;
    let mut body: Option<(Header, Vec<u8>)> = None;
    loop {
        // Reading into what is there already: a timeout in the middle of a frame loses nothing.
        let read = match &mut body {
            None => timeout(SILENCE, reader.read(&mut header[got..])).await,
            Some((_, body)) => timeout(SILENCE, reader.read(&mut body[got..])).await,
        };
        match read {
            Err(_) => {
                silences += 1;
                if silences >= SILENCES_MAX {
                    return Err(End::Silent);
                }
                let mut ping = Vec::new();
                lsync_protocol::frame::encode(&Message::Ping(silences.into()), 0, &mut ping);
                let _ = answers.try_send(ping);
                continue;
            }
            Ok(Err(error)) => return Err(End::Broken(error)),
            Ok(Ok(0)) => return Err(End::Eof),
            Ok(Ok(n)) => {
                silences = 0;
                got += n;
            }
        }
        if body.is_none() && got == HEADER {
            let checked =
                Header::decode(&header).map_err(|error| End::Nonsense(error.to_string()))?;
            body = Some((checked, vec![0; checked.length]));
            got = 0;
        }
        if let Some((header, bytes)) = body.take_if(|(_, bytes)| got == bytes.len()) {
            return Frame::decode(header, bytes).map_err(|error| End::Nonsense(error.to_string()));
        }
    }
}

/// Makes of a message what the mirror hears of it. The agent's bytes are hostile: what was not
/// asked, or says impossible things, ends the link.
fn take(
    frame: Frame,
    told: &mut Told,
    answers: &mpsc::Sender<Vec<u8>>,
    shared: &Shared,
) -> Result<Option<Carried>, &'static str> {
    let answered = |request: u32| {
        if locked(&shared.asked).remove(&request) { Ok(()) } else { Err("an answer not asked for") }
    };
    let wire = frame.wire_size();
    Ok(match frame.message {
        Message::Same { request } => {
            answered(request)?;
            Some(Carried::Same { request })
        }
        Message::NoList { request, why } => {
            answered(request)?;
            Some(Carried::NoList { request, why })
        }
        Message::Entries { request, last, entries } => {
            if !locked(&shared.asked).contains(&request) {
                return Err("an answer not asked for");
            }
            let Some(entries) = told.listed(request, last, entries, wire)? else { return Ok(None) };
            answered(request)?;
            Some(Carried::Entries { request, entries })
        }
        Message::NameIds { users, groups } => Some(Carried::NameIds { users, groups }),
        Message::Acks { done, outcomes, small } => {
            give(&shared.small, small, shared.small_all as usize);
            shared.squeeze.arrived(small);
            let mut naming = locked(&shared.naming);
            for &(first, count) in &done {
                let range = first..first.saturating_add(count);
                while let Some(&id) = naming.range(range.clone()).next() {
                    naming.remove(&id);
                    shared.stages.add_permits(1);
                }
            }
            drop(naming);
            shared.judge_deltas(&done, &outcomes);
            shared.versions.acked(&done, &outcomes);
            Some(Carried::Acked { done, outcomes })
        }
        Message::Credit { bulk } => {
            give(&shared.bulk, bulk, shared.bulk_all.load(Ordering::Relaxed));
            shared.squeeze.arrived(bulk);
            None
        }
        Message::StageTrouble { stage, trouble } => {
            // Numbers only grow, from 1, and do not come round in the time of one link.
            if stage == 0 || stage > shared.last_stage.load(Ordering::Relaxed) {
                return Err("trouble of a content that was not sent");
            }
            let mut broken = locked(&shared.broken);
            broken.insert(stage, Escaped(trouble.text.as_bytes()).to_string());
            // It may have come after the content's end, and then nobody asks.
            if broken.len() > MAX_STAGES {
                broken.pop_first();
            }
            None
        }
        Message::BaseIs { stage, size, known } => {
            shared.bases.is(stage, size, known)?;
            None
        }
        Message::Kept { stage, size } => {
            shared.bases.kept(stage, size)?;
            None
        }
        Message::Sums { stage, sums } => {
            shared.bases.sums(stage, sums)?;
            None
        }
        Message::Hashes { request, files } => {
            shared.hashes.answered(request, files)?;
            None
        }
        Message::Warning { text } => {
            told.warnings += 1;
            if told.warnings > WARNINGS_MAX {
                return Err("warnings without end");
            }
            Some(Carried::Warning(Escaped(text.as_bytes()).to_string()))
        }
        Message::Ping(n) => {
            let mut pong = Vec::new();
            lsync_protocol::frame::encode(&Message::Pong(n), 0, &mut pong);
            // Who asks and does not read the answers would have us keep them all.
            if answers.try_send(pong).is_err_and(|e| matches!(e, TrySendError::Full(_))) {
                return Err("questions without end");
            }
            None
        }
        Message::Pong(number) => {
            shared.window.arrived(number);
            shared.widen();
            None
        }
        _ => return Err("a message that only a source sends"),
    })
}

/// Credit comes back, but never more than there was.
fn give(credit: &tokio::sync::Semaphore, bytes: u32, all: usize) {
    let room = all.saturating_sub(credit.available_permits());
    credit.add_permits((bytes as usize).min(room));
}

/// A content that could not be taken: what the mirror hears.
pub(super) fn not_taken(id: u64, why: String) -> Carried {
    Carried::NotBuilt { id, why: NotBuilt::Failed(why) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    use super::*;

    fn frame(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        lsync_protocol::frame::encode(message, 0, &mut bytes);
        bytes
    }

    /// What is asked of an end that says nothing, from here on.
    async fn is_silent(heard: &mut mpsc::Receiver<Vec<u8>>, start: Instant, end: &End) {
        assert!(matches!(end, End::Silent));
        assert_eq!(start.elapsed(), SILENCE * SILENCES_MAX);
        for n in 1..SILENCES_MAX {
            assert_eq!(heard.recv().await, Some(frame(&Message::Ping(n.into()))));
        }
        assert!(heard.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_says_nothing_is_asked_and_then_given_up() {
        let (answers, mut heard) = mpsc::channel(8);
        let warning = frame(&Message::Warning { text: "w".into() });
        // Nothing at all, and in the middle of what it said.
        for said in [0, 1, HEADER - 1, HEADER, warning.len() - 1] {
            let (near, mut far) = tokio::io::duplex(1000);
            far.write_all(&warning[..said]).await.unwrap();
            let start = Instant::now();
            let end = next(&mut BufReader::new(near), &answers).await.err().unwrap();
            is_silent(&mut heard, start, &end).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_slow_is_heard() {
        let (answers, mut heard) = mpsc::channel(8);
        let warning = frame(&Message::Warning { text: "late".into() });
        let (near, mut far) = tokio::io::duplex(1000);
        let said = warning.clone();
        let slow = tokio::spawn(async move {
            for byte in said {
                tokio::time::sleep(SILENCE * SILENCES_MAX - Duration::from_secs(1)).await;
                far.write_all(&[byte]).await.unwrap();
            }
            far
        });
        let frame = next(&mut BufReader::new(near), &answers).await.ok().unwrap();
        assert!(matches!(frame.message, Message::Warning { text } if text == "late"));
        // It was asked meanwhile; and where nobody takes the questions, that holds nothing up.
        assert!(heard.try_recv().is_ok());
        drop(slow.await.unwrap());
    }
}
