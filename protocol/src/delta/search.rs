//! Finding blocks of the base in the new content, at any offset.
//!
//! A weak sum rolls over the new content. Where a block of the base may have it, the strong sum of
//! the bytes decides; after a match the block that follows in the base is tried first, without
//! rolling, so that what is only shifted costs one strong hash.
//!
//! Cost is linear in the bytes searched, for any content and any sums: see `EARNED`.

mod index;
#[cfg(test)]
mod pairs;
mod succession;

pub use index::{BLOCKS_MAX, BadSums, Index};
pub use succession::Succession;

use super::sums::{Rolling, strong};

/// Bytes that may be hashed in vain for each byte rolled over.
///
/// A strong sum costs as much as its block is long. Content can be made (and some is by itself: long
/// runs of one byte beside a block of the same sum) where the weak sum fits at every byte and the
/// strong one never does. So hashing in vain is paid from what rolling earned, and while there is
/// not enough, nothing is looked up: a match may be missed there, as an honest content has next to
/// none of these, and the time stays that of a few passes.
const EARNED: u64 = 4;
/// Blocks that may be hashed in vain at once.
const SAVED: u64 = 16;

/// Bytes of the new content that the base has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Where they start in the new content.
    pub to: u64,
    /// Where they start in the base.
    pub from: u64,
    /// How many they are, at least 1.
    pub len: u64,
}

/// A search through the new content, window by window.
#[derive(Debug)]
pub struct Search<'a> {
    index: &'a Index,
    key: [u8; 32],
    /// Where the next window starts if there is no gap.
    at: Option<u64>,
    /// The block that is tried before anything is rolled.
    expected: Option<usize>,
    /// What added to a place in the new content gives the place in the base, as it last was (modulo
    /// 2^64): of several equal blocks the one there is preferred.
    shift: u64,
    /// Bytes that may be hashed in vain.
    credit: u64,
    /// Bytes that went through the strong hash.
    #[cfg(test)]
    hashed: u64,
}

impl<'a> Search<'a> {
    /// A search for the blocks of `index`, whose strong sums were made with `key`.
    pub fn new(index: &'a Index, key: &[u8; 32]) -> Search<'a> {
        Search {
            index,
            key: *key,
            at: None,
            expected: None,
            shift: 0,
            credit: SAVED * u64::from(index.block),
            #[cfg(test)]
            hashed: 0,
        }
    }

    /// Finds what of `window`, the bytes of the new content from `at` on, the base has, and appends
    /// it to `found`: in the order of the new content, without overlaps, a copy that continues the
    /// last one of `found` joined with it.
    ///
    /// Windows come in the order of the new content. `last` says that nothing follows without a gap:
    /// the content ends, or what follows is known already. A window that does not start where the last one was
    /// settled starts anew, and tries the block of the base at the same offset first.
    ///
    /// Returns how many bytes of the window are settled, found or not in the base; the caller sends
    /// what is not covered of them, and hands the rest again at the front of the next window. All are
    /// settled when `last`; else at least one block and a byte in a window of at least two blocks, and none
    /// in a shorter one.
    pub fn next(&mut self, at: u64, window: &[u8], last: bool, found: &mut Vec<Copy>) -> usize {
        let index = self.index;
        let block = index.block as usize;
        if index.is_empty() || at.checked_add(window.len() as u64).is_none() {
            return window.len();
        }
        if self.at != Some(at) {
            self.shift = 0;
            self.expected = index.at(at);
        }
        self.at = Some(at);
        if !last && window.len() < block.saturating_mul(2) {
            return 0;
        }
        let mut here = 0;
        // Where the last match of this window ends.
        let mut covered = 0;
        loop {
            let mut known = None;
            if let Some(number) = self.expected
                && let Some(expected) = index.get(number)
            {
                let len = expected.len as usize;
                if let Some(bytes) = window[here..].get(..len) {
                    let sum = self.strong(bytes);
                    if sum == expected.strong {
                        self.take(number, at + here as u64, found);
                        here += len;
                        covered = here;
                        continue;
                    }
                    known = (len == block).then_some(sum);
                } else if !last {
                    break;
                }
            }
            self.expected = None;
            let (stopped, matched) = self.roll(at, window, here, known);
            here = stopped;
            let Some(number) = matched else { break };
            self.take(number, at + here as u64, found);
            here += block;
            covered = here;
        }
        if last {
            self.short_end(at, window, covered, found);
            here = window.len();
        }
        self.at = Some(at + here as u64);
        here
    }

    /// Rolls from `here` on to the first block of the base, and returns where it is and which; or the
    /// first place where no block fits into the window any more. `known` is the strong sum at `here`
    /// if that is known.
    fn roll(
        &mut self,
        at: u64,
        window: &[u8],
        mut here: usize,
        mut known: Option<u64>,
    ) -> (usize, Option<usize>) {
        let index = self.index;
        let block = index.block as usize;
        let Some(stop) = window.len().checked_sub(block).filter(|stop| here <= *stop) else {
            return (here, None);
        };
        let mut sum = Rolling::of(&window[here..here + block]);
        loop {
            let hit = scan(index, &mut sum, &window[here..stop], &window[here + block..]);
            let Some(rolled) = hit else {
                self.earn(stop + 1 - here);
                return (stop + 1, None);
            };
            self.earn(rolled);
            here += rolled;
            known = known.filter(|_| rolled == 0);
            let weak = sum.value();
            if index.has(weak) {
                let strong = match known {
                    Some(strong) => strong,
                    None => self.strong(&window[here..here + block]),
                };
                let preferred = self.shift.wrapping_add(at + here as u64);
                if let Some(number) = index.find(weak, strong, preferred) {
                    return (here, Some(number));
                }
                self.credit = self.credit.saturating_sub(block as u64);
            }
            known = None;
            // On by one byte, or by as many as earn the next hash.
            let missing = (block as u64).saturating_sub(self.credit);
            let steps = usize::try_from(missing.div_ceil(EARNED)).unwrap_or(usize::MAX).max(1);
            if steps > stop - here {
                self.earn(stop + 1 - here);
                return (stop + 1, None);
            }
            for (out, new) in window[here..here + steps].iter().zip(&window[here + block..]) {
                sum.roll(*out, *new);
            }
            self.earn(steps);
            here += steps;
        }
    }

    /// Tries the short last block of the base at the end of a last window.
    fn short_end(&mut self, at: u64, window: &[u8], covered: usize, found: &mut Vec<Copy>) {
        let Some(number) = self.index.short_end() else { return };
        let Some(end) = self.index.get(number) else { return };
        let Some(start) = window.len().checked_sub(end.len as usize) else { return };
        if start >= covered && self.strong(&window[start..]) == end.strong {
            self.take(number, at + start as u64, found);
        }
    }

    /// Notes that the block of this number is at `to` in the new content.
    fn take(&mut self, number: usize, to: u64, found: &mut Vec<Copy>) {
        let Some(block) = self.index.get(number) else { return };
        let (from, len) = (block.from, u64::from(block.len));
        self.shift = from.wrapping_sub(to);
        self.expected = self.index.after(number);
        match found.last_mut() {
            // By differences: whatever the caller left there, nothing overflows.
            Some(last)
                if to.checked_sub(last.to) == Some(last.len)
                    && from.checked_sub(last.from) == Some(last.len) =>
            {
                last.len += len;
            }
            _ => found.push(Copy { to, from, len }),
        }
    }

    fn earn(&mut self, rolled: usize) {
        let earned = EARNED.saturating_mul(rolled as u64);
        let most = SAVED * u64::from(self.index.block);
        self.credit = self.credit.saturating_add(earned).min(most);
    }

    fn strong(&mut self, bytes: &[u8]) -> u64 {
        #[cfg(test)]
        {
            self.hashed += bytes.len() as u64;
        }
        strong(&self.key, bytes)
    }
}

/// Rolls `sum` on while no block may have it, over the bytes that leave (`out`) and those that come
/// (`new`), as many, and returns how far, or `None` when it never may. Looking at several places
/// before each branch was no faster.
fn scan(index: &Index, sum: &mut Rolling, out: &[u8], new: &[u8]) -> Option<usize> {
    // By value: kept in registers.
    let mut rolling = *sum;
    for (rolled, (out, new)) in out.iter().zip(new).enumerate() {
        if index.may_have(rolling.value()) {
            *sum = rolling;
            return Some(rolled);
        }
        rolling.roll(*out, *new);
    }
    *sum = rolling;
    index.may_have(rolling.value()).then_some(out.len())
}
