//! Copies from a base, gathered into messages.

use lsync_protocol::frame;
use lsync_protocol::message::{MAX_COPY, MAX_RANGES, Message};

use crate::carrier::agent::transfer::{Lane, Stopped};

/// The most that one message copies, and the most ranges it has: well below what the wire allows, so
/// that no message costs more credit than an agent grants at least.
const COPIED: u64 = MAX_COPY / 4;
const RANGES: usize = MAX_RANGES / 32;

/// Copies that are to be told. Those that go on where the last one ended are one with it.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<(u64, u64, u64)>);

impl Copies {
    pub(super) fn push(&mut self, to: u64, from: u64, len: u64) {
        match self.0.last_mut() {
            Some((t, f, size)) if *t + *size == to && *f + *size == from => *size += len,
            _ => self.0.push((to, from, len)),
        }
    }

    /// The next message's: what one may copy, and no more ranges than it may have.
    fn next(&mut self) -> Option<Vec<(u64, u64, u64)>> {
        let (mut out, mut room) = (Vec::new(), COPIED);
        let mut whole = 0;
        for (to, from, len) in &mut self.0 {
            if room == 0 || out.len() == RANGES {
                break;
            }
            let part = room.min(*len);
            out.push((*to, *from, part));
            room -= part;
            (*to, *from, *len) = (*to + part, *from + part, *len - part);
            whole += usize::from(*len == 0);
        }
        self.0.drain(..whole);
        (!out.is_empty()).then_some(out)
    }

    /// Tells the agent.
    pub(super) async fn send(&mut self, lane: &Lane) -> Result<(), Stopped> {
        while let Some(copies) = self.next() {
            let message = Message::Copy { stage: lane.stage, copies };
            let mut bytes = Vec::new();
            frame::encode(&message, 0, &mut bytes);
            lane.send(bytes, message.bulk_cost(0)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_and_messages_are_bounded() {
        let mut copies = Copies::default();
        copies.push(0, 10, 5);
        copies.push(5, 15, 5);
        copies.push(10, 40, COPIED);
        copies.push(0, 0, 1);
        assert_eq!(copies.next().unwrap(), [(0, 10, 10), (10, 40, COPIED - 10)]);
        assert_eq!(copies.next().unwrap(), [(COPIED, COPIED + 30, 10), (0, 0, 1)]);
        assert_eq!(copies.next(), None);
        for n in 0..=RANGES as u64 {
            copies.push(n * 2, n * 3, 1);
        }
        assert_eq!(copies.next().map(|copies| copies.len()), Some(RANGES));
        assert_eq!(copies.next().map(|copies| copies.len()), Some(1));
    }
}
