//! What of the base is looked for in the new content: its blocks, whose sums are on their way while
//! the search has begun.

use std::collections::VecDeque;
use std::sync::Arc;

use lsync_protocol::delta::search::Index;
use lsync_protocol::delta::sums::SUM;

use super::Ranges;
use super::base::Base;
use crate::carrier::agent::transfer::Stopped;

/// So many blocks are taken at a time.
const TAKEN: u64 = 1 << 10;

/// The blocks that are looked for, as far as their sums came.
pub(super) struct Sought {
    index: Arc<Index>,
    /// What of the base is still to come, from front to back.
    coming: VecDeque<(u64, u64)>,
    /// Of the base, how much is or will be in the index.
    covers: u64,
}

impl Sought {
    /// Nothing.
    pub(super) fn nothing() -> Sought {
        Sought { index: Arc::new(Index::new(1)), coming: VecDeque::new(), covers: 0 }
    }

    /// What is known without asking.
    pub(super) fn known(index: Arc<Index>) -> Sought {
        Sought { index, coming: VecDeque::new(), covers: u64::MAX }
    }

    /// What was asked for: ranges of the base, in blocks of this length.
    pub(super) fn asked(block: u32, ranges: Ranges) -> Sought {
        let covers = super::bytes(&ranges);
        Sought { index: Arc::new(Index::new(block)), coming: ranges.into(), covers }
    }

    pub(super) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Is there nothing to look for?
    pub(super) fn is_nothing(&self) -> bool {
        self.index.is_empty() && self.is_complete()
    }

    /// Are all of them there?
    pub(super) fn is_complete(&self) -> bool {
        self.coming.is_empty()
    }

    /// Are they, or will they be, the whole base of `size` bytes?
    pub(super) fn is_whole(&self, size: u64) -> bool {
        self.covers >= size
    }

    /// Waits for the sums of what the base has before `until`.
    pub(super) async fn wait(&mut self, base: &mut Base<'_>, until: u64) -> Result<(), Stopped> {
        while let Some((at, len)) = self.coming.front().copied().filter(|(at, _)| *at < until) {
            let block = u64::from(self.index.block());
            let part = len.min(TAKEN * block);
            let sums = base.next(part.div_ceil(block) as usize * SUM).await?;
            // What was asked for is in order and of the right number.
            let taken = sums
                .is_some_and(|sums| Arc::make_mut(&mut self.index).add(at, part, &sums).is_ok());
            if !taken {
                // It cannot be read any more.
                *self = Sought::nothing();
                return Ok(());
            }
            self.coming.pop_front();
            if part < len {
                self.coming.push_front((at + part, len - part));
            }
        }
        Ok(())
    }
}
