//! Blocks that a stage leaves to its base: what is written into the base itself in the end needs no
//! copy of what stays there.
//!
//! Of such a block nothing that the stage's own file has counts. Before something is written to a
//! part of one, it is copied after all.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use lsync_protocol::handshake::Identity;
use lsync_protocol::message::Trouble;
use rustix::io::Errno;

use super::base::{block_at, fill};
use super::large::Here;

impl Here {
    /// Is it this file that blocks are borrowed from?
    pub(crate) fn borrows_from(&self, file: &Identity) -> bool {
        self.borrows() && self.base.as_ref().is_some_and(|base| base.identity() == *file)
    }

    /// Is there anything that it leaves to its base?
    fn borrows(&self) -> bool {
        self.copies.borrows && self.copies.same.contains(&true)
    }

    /// Copies everything that it borrowed, as far as it is of a content of so many bytes.
    ///
    /// # Errors
    /// Those of copying.
    pub(crate) fn own(&mut self, size: u64, stop: &AtomicBool) -> Result<(), Trouble> {
        let Some(base) = self.base.clone().filter(|_| self.borrows()) else { return Ok(()) };
        let mut at = 0;
        let all = base.size().min(size);
        while at < all {
            let (end, borrowed) = self.run(at, all);
            if borrowed {
                self.bring(&base, at, at, end - at, stop)?;
            }
            at = end;
        }
        // They are the base's as before, and are here.
        self.copies.borrows = false;
        Ok(())
    }

    /// Something else will be written there.
    pub(super) fn touch(&mut self, at: u64, len: u64, stop: &AtomicBool) -> Result<(), Trouble> {
        if let Some(base) = self.base.clone().filter(|_| len > 0 && self.borrows()) {
            let block = u64::from(self.copies.block);
            let end = at.saturating_add(len);
            for number in [at / block, (end - 1) / block] {
                let whole = block_at(number, self.copies.block, base.size());
                // Nothing is left of what is written over as a whole.
                if whole.start < at || end < whole.end {
                    self.own_one(number, stop)?;
                }
            }
        }
        self.copies.touch(at, len);
        Ok(())
    }

    /// A short last block of the base is not the last one of a longer content: what comes behind it
    /// is this stage's.
    pub(super) fn own_end(&mut self, size: u64, stop: &AtomicBool) -> Result<(), Trouble> {
        let Some(base) = self.base.clone().filter(|_| self.borrows()) else { return Ok(()) };
        let block = u64::from(self.copies.block);
        if size > base.size() && !base.size().is_multiple_of(block) {
            self.own_one(base.size() / block, stop)?;
        }
        Ok(())
    }

    fn own_one(&mut self, number: u64, stop: &AtomicBool) -> Result<(), Trouble> {
        let slot = usize::try_from(number).ok().and_then(|n| self.copies.same.get_mut(n));
        let (Some(same), Some(base)) = (slot, self.base.clone()) else { return Ok(()) };
        if !std::mem::take(same) {
            return Ok(());
        }
        let Range { start, end } = block_at(number, self.copies.block, base.size());
        self.bring(&base, start, start, end - start, stop)
    }

    /// Up to where what stands at a place is in one of the two files, at most `end`; and whether
    /// that is the base.
    fn run(&self, at: u64, end: u64) -> (u64, bool) {
        if !self.copies.borrows || self.copies.same.is_empty() || at >= end {
            return (end, false);
        }
        let block = u64::from(self.copies.block);
        let borrowed = |number: u64| {
            usize::try_from(number)
                .is_ok_and(|number| self.copies.same.get(number).copied().unwrap_or(false))
        };
        let first = borrowed(at / block);
        let mut number = at / block + 1;
        while number * block < end && borrowed(number) == first {
            if number >= self.copies.same.len() as u64 {
                return (end, first);
            }
            number += 1;
        }
        ((number * block).min(end), first)
    }

    /// The next part of a content of `size` bytes, from `at` on, that is in its own file.
    pub(crate) fn own_part(&self, at: u64, size: u64) -> Option<Range<u64>> {
        let mut at = at;
        while at < size {
            match self.run(at, size) {
                (end, false) => return Some(at..end),
                (end, true) => at = end,
            }
        }
        None
    }

    /// Reads all of a range of the content, wherever it is.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        let end = at + into.len() as u64;
        let (mut at, mut into) = (at, into);
        while !into.is_empty() {
            let (until, borrowed) = self.run(at, end);
            let (part, rest) = into.split_at_mut((until - at) as usize);
            match &self.base {
                Some(base) if borrowed => base.read(at, part)?,
                _ => fill(&self.file, at, part)?,
            }
            (at, into) = (until, rest);
        }
        Ok(())
    }
}
