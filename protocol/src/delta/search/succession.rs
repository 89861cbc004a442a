//! The blocks of what has become of a base: those that were copied, where they are now, and those of
//! what is new. So the next change is looked for without asking anybody for sums.

use super::index::Block;
use super::{BLOCKS_MAX, Copy, Index};
use crate::delta::sums::{Rolling, strong};

/// What is known of the successor of a base.
#[derive(Debug)]
pub struct Succession {
    block: u32,
    blocks: Vec<Block>,
}

impl Succession {
    /// Nothing is known yet; blocks are of `block` bytes, which is not 0.
    pub fn new(block: u32) -> Succession {
        Succession { block, blocks: Vec::new() }
    }

    /// These bytes are a copy of what `base`, an index of blocks of the same length, knows.
    pub fn copied(&mut self, base: &Index, copy: Copy) {
        if base.block != self.block {
            return;
        }
        for block in base.within(copy.from, copy.len) {
            // Within the copy, whose ends fit.
            let from = copy.to + (block.from - copy.from);
            self.push(Block { from, ..*block });
        }
    }

    /// These bytes from `at` on are new. What does not fill a block is not known.
    pub fn added(&mut self, key: &[u8; 32], at: u64, bytes: &[u8]) {
        let mut from = at;
        for bytes in bytes.chunks_exact(self.block.max(1) as usize) {
            let (weak, strong) = (Rolling::of(bytes).value(), strong(key, bytes));
            self.push(Block { from, weak, strong, len: self.block });
            from += u64::from(self.block);
        }
    }

    fn push(&mut self, block: Block) {
        if (self.blocks.len() as u64) < BLOCKS_MAX {
            self.blocks.push(block);
        }
    }

    /// The index of the successor, which has `size` bytes; `None` when so little of it is known
    /// that its sums had better be asked for.
    pub fn into_index(mut self, size: u64) -> Option<Index> {
        self.blocks.sort_unstable_by_key(|block| block.from);
        let known: u64 = self.blocks.iter().map(|block| u64::from(block.len)).sum();
        // Whoever says overlapping things, or things beyond the end, knows nothing.
        let end = |block: &Block| block.from + u64::from(block.len);
        let good = self.blocks.windows(2).all(|pair| end(&pair[0]) <= pair[1].from)
            && self.blocks.last().is_none_or(|last| end(last) <= size);
        let enough = known >= enough(size);
        (good && enough && known > 0).then(|| Index::of(self.block, self.blocks))
    }
}

/// Of so many bytes one may be unknown.
const UNKNOWN: u64 = 16;

fn enough(size: u64) -> u64 {
    size - size / UNKNOWN
}

impl Index {
    /// Whether the blocks reach far enough in a base that has grown to `size` bytes that its sums need
    /// not be asked for.
    pub fn reach(&self, size: u64) -> bool {
        self.end >= enough(size)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Search;
    use super::*;
    use crate::delta::sums::put_sums;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [5; 32];

    fn index(block: u32, base: &[u8]) -> Index {
        let mut index = Index::new(block);
        let mut sums = Vec::new();
        put_sums(&KEY, block, base, &mut sums);
        index.add(0, base.len() as u64, &sums).unwrap();
        index
    }

    fn search(index: &Index, new: &[u8]) -> Vec<Copy> {
        let mut found = Vec::new();
        Search::new(index, &KEY).next(0, new, true, &mut found);
        found
    }

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// What is found, and the index of the result.
    fn step(index: &Index, new: &[u8]) -> (Vec<Copy>, Option<Index>) {
        let found = search(index, new);
        let mut next = Succession::new(index.block);
        let mut at = 0;
        for copy in &found {
            next.added(&KEY, at as u64, &new[at..copy.to as usize]);
            next.copied(index, *copy);
            at = (copy.to + copy.len) as usize;
        }
        next.added(&KEY, at as u64, &new[at..]);
        (found, next.into_index(new.len() as u64))
    }

    #[test]
    fn change_after_change_is_found_without_asking() {
        let mut content = random(1, 100_000);
        let mut known = index(512, &content);
        for round in 0..10 {
            content.splice(0..0, random(10 + round, 100));
            let (found, next) = step(&known, &content);
            let copied: u64 = found.iter().map(|copy| copy.len).sum();
            assert!(copied >= 100_000 - 512, "{round}: {copied}");
            known = next.unwrap();
        }
    }

    #[test]
    fn what_is_hardly_known_is_not_believed_to_be() {
        let base = random(2, 64_000);
        let known = index(1000, &base);
        for (edits, enough) in [(3, true), (5, false)] {
            let mut next = Succession::new(1000);
            for number in edits..64 {
                let at = number * 1000;
                next.copied(&known, Copy { to: at, from: at, len: 1000 });
            }
            assert_eq!(next.into_index(64_000).is_some(), enough, "{edits}");
        }
        let mut twice = Succession::new(1000);
        for to in [0, 500] {
            twice.copied(&known, Copy { to, from: 0, len: 64_000 });
        }
        assert!(twice.into_index(64_000).is_none(), "two things at one place");
        let mut beyond = Succession::new(1000);
        beyond.copied(&known, Copy { to: 1, from: 0, len: 64_000 });
        assert!(beyond.into_index(64_000).is_none());
        assert!(Succession::new(1000).into_index(0).is_none());
        let mut other = Succession::new(999);
        other.copied(&known, Copy { to: 0, from: 0, len: 64_000 });
        assert!(other.into_index(64_000).is_none(), "blocks of another length");
    }

    proptest! {
        /// Every block that is known has the sums that its bytes have.
        #[test]
        fn what_is_known_is_true(
            seed in any::<u64>(),
            len in 1..5000_usize,
            block in 1..200_u32,
            edits in vec((any::<prop::sample::Index>(), vec(any::<u8>(), 0..40), 0..40_usize), 0..5),
        ) {
            let base = random(seed, len);
            let mut new = base.clone();
            for (at, bytes, gone) in edits {
                let at = at.index(new.len() + 1);
                let end = (at + gone).min(new.len());
                new.splice(at..end, bytes);
            }
            let known = index(block, &base);
            let (_, next) = step(&known, &new);
            if base == new {
                prop_assert!(next.is_some());
            }
            for block in next.iter().flat_map(|next| next.within(0, u64::MAX)) {
                let bytes = &new[block.from as usize..][..block.len as usize];
                prop_assert_eq!(block.weak, Rolling::of(bytes).value());
                prop_assert_eq!(block.strong, strong(&KEY, bytes));
            }
        }
    }
}
