//! What is to be sent: gathered from all threads, written by one.
//!
//! Answers to pings go first. Acks are merged into ranges while the writer is busy, so a slow
//! link costs no memory. Listings wait for room.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use lsync_protocol::frame;
use lsync_protocol::message::{MAX_ACKS, MAX_OPS, Message, OpId, Outcome};

use crate::serve::{Event, ServeError};
use crate::trouble::bounded;

/// An operation that is finished.
pub(crate) struct Ack {
    pub(crate) id: OpId,
    /// Bytes of the small credit it gives back.
    pub(crate) small: u32,
    pub(crate) outcome: Option<Outcome>,
}

/// What waits to be written.
#[derive(Default)]
struct State {
    urgent: VecDeque<Message>,
    acks: Vec<Ack>,
    bulk: u64,
    messages: VecDeque<(Message, usize)>,
    /// Bytes of `messages`, about.
    bytes: usize,
    /// Nothing more will be added: the writer ends when all is written.
    closed: bool,
    /// The link is of no use any more.
    dead: bool,
}

/// The way out of all threads.
pub(crate) struct Outbox {
    state: Mutex<State>,
    more: Condvar,
    room: Condvar,
    events: Sender<Event>,
    /// Bytes of each credit that were ever given back.
    given: [AtomicU64; 2],
    /// Since when the writer waits for the other end to read.
    writing: Mutex<Option<Instant>>,
}

/// How many bytes of listings may wait.
const ROOM: usize = 4 << 20;

/// The most bytes of outcomes in one message.
const OUTCOME_BYTES: usize = 512 * 1024;

/// The most answers to pings that wait; a peer that pings faster than it reads gets no more.
const URGENT: usize = 64;

impl Outbox {
    pub(crate) fn new(events: Sender<Event>) -> Outbox {
        Outbox {
            state: Mutex::default(),
            more: Condvar::new(),
            room: Condvar::new(),
            events,
            given: Default::default(),
            writing: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before everything else.
    pub(crate) fn urgent(&self, message: Message) {
        let mut state = self.lock();
        if state.urgent.len() < URGENT {
            state.urgent.push_back(message);
            self.more.notify_one();
        }
    }

    /// Operations that are finished; `acks` is empty afterwards.
    pub(crate) fn acks(&self, acks: &mut Vec<Ack>) {
        if !acks.is_empty() {
            let small = acks.iter().map(|ack| u64::from(ack.small)).sum();
            self.given[0].fetch_add(small, Ordering::Relaxed);
            self.lock().acks.append(acks);
            self.more.notify_one();
        }
    }

    /// Bytes of the bulk credit that are free again.
    pub(crate) fn credit(&self, bulk: usize) {
        self.given[1].fetch_add(bulk as u64, Ordering::Relaxed);
        self.lock().bulk += bulk as u64;
        self.more.notify_one();
    }

    /// Bytes of the small credit that were ever given back.
    pub(crate) fn small_given(&self) -> u64 {
        self.given[0].load(Ordering::Relaxed)
    }

    /// Bytes of the bulk credit that were ever given back.
    pub(crate) fn bulk_given(&self) -> u64 {
        self.given[1].load(Ordering::Relaxed)
    }

    /// Something small that is said seldom.
    pub(crate) fn say(&self, message: Message) {
        let mut state = self.lock();
        state.messages.push_back((message, 0));
        self.more.notify_one();
    }

    /// A part of a listing, when there is room for it. `false` when the link ended.
    pub(crate) fn listing(&self, message: Message, bytes: usize) -> bool {
        let mut state = self.lock();
        while state.bytes > ROOM && !state.dead {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.dead {
            return false;
        }
        state.bytes += bytes;
        state.messages.push_back((message, bytes));
        self.more.notify_one();
        true
    }

    /// The link is of no use any more, and why.
    pub(crate) fn broken(&self, why: &str) {
        self.die();
        // When nobody listens any more, everything ends anyway.
        let _ = self.events.send(Event::Broken(ServeError::Broken(why.to_owned())));
    }

    /// Nothing more is written.
    pub(crate) fn die(&self) {
        self.lock().dead = true;
        self.more.notify_all();
        self.room.notify_all();
    }

    /// Nothing more will be added.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_all();
    }

    /// The next messages to write; `None` at the end.
    fn take(&self) -> Option<Vec<Message>> {
        let mut state = self.lock();
        loop {
            if state.dead {
                return None;
            }
            let mut out: Vec<Message> = state.urgent.drain(..).collect();
            if !state.acks.is_empty() {
                merge(std::mem::take(&mut state.acks), &mut out);
            }
            while state.bulk > 0 {
                let bulk = u32::try_from(state.bulk).unwrap_or(u32::MAX);
                state.bulk -= u64::from(bulk);
                out.push(Message::Credit { bulk });
            }
            // Listings a few at a time, so that acks do not wait for all of them.
            let mut bytes = 0;
            while bytes < 512 * 1024
                && let Some((message, size)) = state.messages.pop_front()
            {
                bytes += size;
                out.push(message);
            }
            state.bytes -= bytes;
            if bytes > 0 {
                self.room.notify_all();
            }
            if !out.is_empty() {
                return Some(out);
            }
            if state.closed {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn writes(&self, since: Option<Instant>) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// How long the other end did not take what is being written.
    pub(crate) fn stuck(&self) -> Duration {
        let since = *self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Writes until the end, or until it cannot.
    pub(crate) fn write_to(&self, mut writer: impl Write) {
        let mut bytes = Vec::new();
        while let Some(messages) = self.take() {
            bytes.clear();
            for message in &messages {
                frame::encode(message, 0, &mut bytes);
            }
            self.writes(Some(Instant::now()));
            let written = writer.write_all(&bytes).and_then(|()| writer.flush());
            self.writes(None);
            if let Err(error) = written {
                self.die();
                let _ = self.events.send(Event::Broken(ServeError::Write(error)));
                return;
            }
        }
        let _ = self.events.send(Event::Written);
    }
}

/// Merges finished operations into ranges.
fn merge(mut acks: Vec<Ack>, out: &mut Vec<Message>) {
    acks.sort_unstable_by_key(|ack| ack.id);
    let (mut done, mut outcomes, mut small): (Vec<(OpId, u64)>, Vec<_>, u32) = Default::default();
    let mut bytes = 0;
    for Ack { id, small: cost, outcome } in acks {
        let full = done.len() >= MAX_ACKS || outcomes.len() >= MAX_OPS || bytes >= OUTCOME_BYTES;
        if full || small.checked_add(cost).is_none() {
            out.push(Message::Acks {
                done: std::mem::take(&mut done),
                outcomes: std::mem::take(&mut outcomes),
                small: std::mem::take(&mut small),
            });
            bytes = 0;
        }
        match done.last_mut() {
            Some((first, count)) if *first + *count == id => *count += 1,
            _ => done.push((id, 1)),
        }
        small = small.saturating_add(cost);
        if let Some(mut outcome) = outcome {
            if let Outcome::Problem(trouble) = &mut outcome {
                trouble.text = bounded(std::mem::take(&mut trouble.text));
                bytes += trouble.text.len();
            }
            bytes += 24;
            outcomes.push((id, outcome));
        }
    }
    out.push(Message::Acks { done, outcomes, small });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(id: OpId, outcome: Option<Outcome>) -> Ack {
        Ack { id, small: 64, outcome }
    }

    #[test]
    fn acks_become_ranges_in_any_order() {
        let mut out = Vec::new();
        let acks = vec![ack(7, None), ack(2, Some(Outcome::Missing)), ack(1, None), ack(3, None)];
        merge(acks, &mut out);
        let want = Message::Acks {
            done: vec![(1, 3), (7, 1)],
            outcomes: vec![(2, Outcome::Missing)],
            small: 256,
        };
        assert_eq!(out, [want]);
    }

    #[test]
    fn every_message_of_acks_is_one_that_decodes() {
        let text = "x".repeat(lsync_protocol::message::MAX_TEXT);
        let acks = (0..100_000)
            .map(|i| {
                let trouble = lsync_protocol::message::Trouble { errno: 5, text: text.clone() };
                ack(i * 2, (i % 50 == 0).then_some(Outcome::Problem(trouble)))
            })
            .collect();
        let mut out = Vec::new();
        merge(acks, &mut out);
        let (mut count, mut credit) = (0, 0);
        for message in out {
            let mut body = Vec::new();
            message.encode(&mut body);
            assert!(body.len() < frame::CONTROL_MAX);
            let decoded = Message::decode(message.kind(), &body);
            let Ok((Message::Acks { done, small, .. }, _)) = decoded else { panic!("{decoded:?}") };
            count += done.iter().map(|(_, n)| n).sum::<u64>();
            credit += u64::from(small);
        }
        assert_eq!((count, credit), (100_000, 6_400_000));
    }
}
