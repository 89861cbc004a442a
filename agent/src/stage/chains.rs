//! The chaining values of the blocks of a content that comes from front to back: its hash, and what
//! makes the next version of it cheap.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use blake3::Hasher;
use blake3::hazmat::HasherExt;
use lsync_protocol::delta::tree::Chain;
use lsync_protocol::delta::{self, BLOCKS, tree};
use lsync_protocol::message::Hash;
use rustix::io::Errno;

use super::base::fill;

/// The most blocks of one content whose chaining values are kept.
pub(super) const KEPT_BLOCKS: u64 = 2 * BLOCKS;

/// How much is read at a time.
const STEP: usize = 256 * 1024;

const ZEROS: &[u8] = &[0; 64 * 1024];

/// The blocks of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Bytes of a block.
    pub(crate) block: u32,
    /// The chaining value of each, in order.
    pub(crate) chains: Vec<Chain>,
}

impl Blocks {
    /// The hash and the blocks of what becomes of a file of `from` bytes with these blocks when it
    /// grows to `size`. Of the file only its last block is read; `rest` reads what comes behind it.
    ///
    /// # Errors
    /// Those of reading; EFBIG when its blocks would be too many, EINTR when the link ended.
    pub(crate) fn and(
        &self,
        file: &OwnedFd,
        from: u64,
        size: u64,
        stop: &AtomicBool,
        rest: impl Fn(u64, &mut [u8]) -> Result<(), Errno>,
    ) -> Result<(Hash, Option<Blocks>), Errno> {
        let whole = from / u64::from(self.block);
        let chains = self.chains.get(..whole as usize).ok_or(Errno::INVAL)?;
        let mut running = Running::behind(self.block, chains.to_vec());
        let mut buffer = vec![0; STEP.min(size as usize)];
        while running.at < size {
            if stop.load(Ordering::Relaxed) {
                return Err(Errno::INTR);
            }
            let at = running.at;
            let end = if at < from { from } else { size };
            let step = usize::try_from(end - at).map_or(STEP, |rest| rest.min(STEP));
            let part = &mut buffer[..step];
            match at.checked_sub(from) {
                None => fill(file, at, part)?,
                Some(behind) => rest(behind, part)?,
            }
            running.update(part).ok_or(Errno::FBIG)?;
        }
        Ok(running.finish())
    }
}

/// A content that comes from front to back.
#[derive(Debug)]
pub(super) struct Running {
    block: u32,
    chains: Vec<Chain>,
    /// Of the last block, and how much of it came.
    hasher: Hasher,
    filled: u64,
    at: u64,
}

impl Running {
    /// Begins a content of probably so many bytes.
    pub(super) fn new(size: u64) -> Running {
        let block = delta::block(size);
        Running { block, chains: Vec::new(), hasher: Hasher::new(), filled: 0, at: 0 }
    }

    /// Goes on behind whole blocks of this size.
    pub(super) fn behind(block: u32, chains: Vec<Chain>) -> Running {
        let at = chains.len() as u64 * u64::from(block);
        let mut hasher = Hasher::new();
        hasher.set_input_offset(at);
        Running { block, chains, hasher, filled: 0, at }
    }

    /// Some whole blocks of a content, from there on, which is where one begins.
    pub(super) fn part(block: u32, at: u64) -> Running {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(at);
        Running { block, chains: Vec::new(), hasher, filled: 0, at }
    }

    /// Bytes of a block.
    pub(super) fn block(&self) -> u32 {
        self.block
    }

    /// How much came.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// How many bytes are missing of the last block.
    pub(super) fn missing(&self) -> u64 {
        match self.filled {
            0 => 0,
            filled => u64::from(self.block) - filled,
        }
    }

    /// Whole blocks come, of which nothing is missing before; and something must come behind them.
    /// `None` as [`Running::update`] has it.
    pub(super) fn blocks(&mut self, chains: Vec<Chain>) -> Option<()> {
        if chains.is_empty() {
            return Some(());
        }
        if self.filled > 0 {
            self.chains.push(self.hasher.finalize_non_root());
        }
        self.at += chains.len() as u64 * u64::from(self.block);
        self.chains.extend(chains);
        self.hasher = Hasher::new();
        self.hasher.set_input_offset(self.at);
        self.filled = 0;
        (self.chains.len() as u64 <= KEPT_BLOCKS).then_some(())
    }

    /// The chaining values of whole blocks: of a part.
    pub(super) fn into_chains(mut self) -> Vec<Chain> {
        if self.filled > 0 {
            self.chains.push(self.hasher.finalize_non_root());
        }
        self.chains
    }

    /// More of it comes. `None`: it is so much more than was announced that its blocks are too many
    /// to be kept.
    pub(super) fn update(&mut self, mut bytes: &[u8]) -> Option<()> {
        let block = u64::from(self.block);
        while !bytes.is_empty() {
            if self.filled == block {
                // Only now: of a content of one block the hash is not its chaining value.
                if self.chains.len() as u64 >= KEPT_BLOCKS {
                    return None;
                }
                self.chains.push(self.hasher.finalize_non_root());
                self.hasher = Hasher::new();
                self.hasher.set_input_offset(self.at);
                self.filled = 0;
            }
            let most =
                usize::try_from(block - self.filled).map_or(bytes.len(), |n| n.min(bytes.len()));
            let (now, rest) = bytes.split_at(most);
            self.hasher.update(now);
            self.at += most as u64;
            self.filled += most as u64;
            bytes = rest;
        }
        Some(())
    }

    /// So many zeros come; `None` also when the link ended meanwhile: the number is the peer's, and
    /// may be any.
    pub(super) fn zeros(&mut self, mut count: u64, stop: &AtomicBool) -> Option<()> {
        while count > 0 {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let step = count.min(ZEROS.len() as u64);
            self.update(&ZEROS[..step as usize])?;
            count -= step;
        }
        Some(())
    }

    /// The hash of what came, and its blocks if there are several.
    pub(super) fn finish(mut self) -> (Hash, Option<Blocks>) {
        if !self.chains.is_empty() {
            if self.filled > 0 {
                self.chains.push(self.hasher.finalize_non_root());
            }
            if let Some(root) = tree::root(self.block, self.at, &self.chains) {
                let blocks = Blocks { block: self.block, chains: self.chains };
                return (*root.as_bytes(), Some(blocks));
            }
        }
        (*self.hasher.finalize().as_bytes(), None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_comes_in_parts_has_the_hash_of_the_whole() {
        let never = AtomicBool::new(false);
        for (size, zeros) in
            [(0, 0), (1, 0), (16 << 10, 0), ((16 << 10) + 1, 0), (100_000, 0), (5, 70_000)]
        {
            let mut content: Vec<u8> = (0..size).map(|i: usize| (i * 31 % 251) as u8).collect();
            for part in [1, 1000, 16 << 10, 50_000] {
                let mut running = Running::new(size as u64);
                for bytes in content.chunks(part) {
                    running.update(bytes).unwrap();
                }
                running.zeros(zeros, &never).unwrap();
                let mut all = content.clone();
                all.resize(size + zeros as usize, 0);
                assert_eq!(running.at(), all.len() as u64);
                let (hash, blocks) = running.finish();
                assert_eq!(hash, *blake3::hash(&all).as_bytes(), "{size} {part}");
                assert_eq!(blocks.is_some(), all.len() > 16 << 10);
                // Gone on with, behind any number of its blocks.
                for whole in 0..=blocks.as_ref().map_or(0, |b| all.len() >> b.block.ilog2()) {
                    let Some(Blocks { block, chains }) = blocks.clone() else { break };
                    let mut more = Running::behind(block, chains[..whole].to_vec());
                    more.update(&all[whole * block as usize..]).unwrap();
                    assert_eq!(more.finish(), (hash, blocks.clone()), "{whole}");
                }
            }
            content.clear();
        }
    }

    #[test]
    fn blocks_that_others_hashed_are_blocks_like_any() {
        let content: Vec<u8> = (0..300_000).map(|i: usize| (i * 31 % 251) as u8).collect();
        let block = 16 << 10;
        for before in [0, 1, block / 2, block, block + 1, 3 * block] {
            let mut running = Running::new(content.len() as u64);
            running.update(&content[..before]).unwrap();
            running.blocks(Vec::new()).unwrap();
            let head = before + running.missing() as usize;
            assert!(head.is_multiple_of(block));
            running.update(&content[before..head]).unwrap();
            let mut part = Running::part(block as u32, head as u64);
            part.update(&content[head..head + 5 * block]).unwrap();
            running.blocks(part.into_chains()).unwrap();
            running.update(&content[head + 5 * block..]).unwrap();
            assert_eq!(running.finish().0, *blake3::hash(&content).as_bytes(), "{before}");
        }
    }

    #[test]
    fn blocks_without_end_are_not_kept() {
        let mut running = Running::new(1);
        let chunk = vec![0; 16 << 20];
        let more = (0..=KEPT_BLOCKS >> 10).all(|_| running.update(&chunk).is_some());
        assert!(!more);
        let stopped = AtomicBool::new(true);
        assert_eq!(Running::new(1).zeros(u64::MAX, &stopped), None);
    }
}
