//! The blocks of the base that may be copied from, found by their weak sum.
//!
//! What is in here came from the other end. Everything about it is bounded: the number of blocks, how
//! many of them a weak sum leads to, and how many steps a look-up takes, whatever the sums are.

use crate::delta::sums::SUM;

/// The most blocks of an index. The rules of [`crate::delta::fine_block`] give half of it; the rest is
/// for ranges whose last block is short. An index of that many takes about 11 MiB.
pub const BLOCKS_MAX: u64 = 1 << 18;
/// The most blocks of one weak sum: so many strong sums are compared at a position.
const SAME: usize = 8;
/// The most blocks in a bucket of the table: so many steps does a look-up take.
const STEPS: usize = 16;
/// Buckets of the smallest table: a power of two.
const BUCKETS_MIN: usize = 1 << 10;
/// Bits of the filter for each bucket. There are at least two buckets a block, so that a weak sum
/// which is not there passes one time in 64 at most: each that does is a branch that no processor
/// foresees, and a quarter of the bits took up to twice the time on unrelated content. The filter of
/// 2^16 blocks is 512 KiB, which a core's own cache holds.
const FILTER: usize = 32;

/// Why sums are not those of a range of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSums {
    /// A block of 0 bytes.
    #[error("sums of blocks of 0 bytes")]
    Block,
    /// A range of 0 bytes.
    #[error("sums of a range of 0 bytes")]
    Empty,
    /// A range that ends beyond what an offset can say.
    #[error("sums of {len} bytes from {offset} on, which no file has")]
    Beyond {
        /// Where the range starts.
        offset: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// A range that starts before the end of the one before it.
    #[error("sums of a range from {offset} on, which is before {end}, where the last one ended")]
    Order {
        /// Where the range starts.
        offset: u64,
        /// Where the range before it ends.
        end: u64,
    },
    /// More blocks than an index may have.
    #[error("sums of {0} blocks, of which there may be {BLOCKS_MAX}")]
    TooMany(u64),
    /// Not as many sums as the range has blocks.
    #[error("{bytes} bytes of sums for {blocks} blocks")]
    Count {
        /// Blocks of the range.
        blocks: u64,
        /// Bytes that came.
        bytes: usize,
    },
}

/// A block of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// Where it starts in the base.
    pub(super) from: u64,
    pub(super) strong: u64,
    pub(super) weak: u32,
    /// Its bytes: the index's block, or less at the end of a range.
    pub(super) len: u32,
}

/// The blocks of the base that may be copied from.
///
/// A range's last block may be short. It is not in the table: it is found where the block before it
/// was found, and, when it is the last one of all, at the end of a last window.
#[derive(Debug, Clone)]
pub struct Index {
    pub(super) block: u32,
    /// In the order of the base.
    blocks: Vec<Block>,
    /// Where the last range ends.
    pub(super) end: u64,
    /// For each bucket the first block in it, plus one; 0 is none.
    heads: Vec<u32>,
    /// For each block the next in its bucket, plus one; 0 is none.
    next: Vec<u32>,
    /// A bit for each value of the high bits of a weak sum: whether a block has them.
    filter: Vec<u64>,
    /// How far a weak sum is shifted to give its bucket, and its bit of the filter.
    bucket_shift: u32,
    filter_shift: u32,
}

impl Index {
    /// An index without blocks, which will be of `block` bytes each.
    pub fn new(block: u32) -> Index {
        let mut index = Index {
            block,
            blocks: Vec::new(),
            end: 0,
            heads: Vec::new(),
            next: Vec::new(),
            filter: Vec::new(),
            bucket_shift: 0,
            filter_shift: 0,
        };
        index.lay_out(BUCKETS_MIN);
        index
    }

    /// Adds the bytes `offset..offset + len` of the base, whose sums are `sums` as
    /// [`crate::delta::sums::put_sums`] writes them for the same block. Ranges come in the order of the base.
    ///
    /// # Errors
    /// [`BadSums`], and the index is as it was.
    pub fn add(&mut self, offset: u64, len: u64, sums: &[u8]) -> Result<(), BadSums> {
        let count = crate::delta::count(len, self.block).ok_or(BadSums::Block)?;
        if count == 0 {
            return Err(BadSums::Empty);
        }
        let end = offset.checked_add(len).ok_or(BadSums::Beyond { offset, len })?;
        if offset < self.end {
            return Err(BadSums::Order { offset, end: self.end });
        }
        let all = count.saturating_add(self.blocks.len() as u64);
        if all > BLOCKS_MAX {
            return Err(BadSums::TooMany(all));
        }
        if count * SUM as u64 != sums.len() as u64 {
            return Err(BadSums::Count { blocks: count, bytes: sums.len() });
        }
        let mut from = offset;
        for sum in sums.chunks_exact(SUM) {
            let &[a, b, c, d, e, f, g, h, i, j, k, l] = sum else { continue };
            let weak = u32::from_le_bytes([a, b, c, d]);
            let strong = u64::from_le_bytes([e, f, g, h, i, j, k, l]);
            // Not more than the block, which is a u32.
            let len = (end - from).min(u64::from(self.block)) as u32;
            self.blocks.push(Block { from, strong, weak, len });
            self.next.push(0);
            from += u64::from(len);
        }
        self.end = end;
        if self.blocks.len() * 2 > self.heads.len() {
            self.lay_out((self.blocks.len() * 2).next_power_of_two());
        } else {
            for number in self.blocks.len() - count as usize..self.blocks.len() {
                self.hold(number);
            }
        }
        Ok(())
    }

    /// An index of these blocks of another base, in its order and not more than [`BLOCKS_MAX`].
    pub(super) fn of(block: u32, blocks: Vec<Block>) -> Index {
        let mut index = Index::new(block);
        index.end = blocks.last().map_or(0, |last| last.from + u64::from(last.len));
        index.next = vec![0; blocks.len()];
        index.blocks = blocks;
        index.lay_out((index.blocks.len() * 2).next_power_of_two().max(BUCKETS_MIN));
        index
    }

    /// Bytes of each block, but for the last one of a range.
    pub fn block(&self) -> u32 {
        self.block
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.blocks[..])
            + size_of_val(&self.next[..])
            + size_of_val(&self.heads[..])
            + size_of_val(&self.filter[..])
    }

    /// The blocks within this range of the base.
    pub(super) fn within(&self, from: u64, len: u64) -> &[Block] {
        let first = self.blocks.partition_point(|block| block.from < from);
        let end = from.saturating_add(len);
        let last = self.blocks.partition_point(|block| block.from + u64::from(block.len) <= end);
        self.blocks.get(first..last).unwrap_or_default()
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there is no block: nothing can be found.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Makes the table anew with so many buckets, a power of two.
    fn lay_out(&mut self, buckets: usize) {
        self.heads = vec![0; buckets];
        self.filter = vec![0; buckets * FILTER / 64];
        self.bucket_shift = 32 - buckets.ilog2();
        self.filter_shift = 32 - (buckets * FILTER).ilog2();
        for number in 0..self.blocks.len() {
            self.hold(number);
        }
    }

    /// Puts a block behind the others of its bucket, unless it is short, one of its content is there
    /// (the first stands for all), or there are too many.
    fn hold(&mut self, number: usize) {
        let block = self.blocks[number];
        self.next[number] = 0;
        if block.len != self.block {
            return;
        }
        let (mut same, mut steps, mut last) = (0, 0, None);
        for held in self.bucket(block.weak) {
            let other = &self.blocks[held];
            if other.weak == block.weak {
                if other.strong == block.strong {
                    return;
                }
                same += 1;
            }
            steps += 1;
            last = Some(held);
        }
        if same >= SAME || steps >= STEPS {
            return;
        }
        // BLOCKS_MAX fits in 32 bits.
        let link = number as u32 + 1;
        match last {
            Some(last) => self.next[last] = link,
            None => self.heads[(block.weak >> self.bucket_shift) as usize] = link,
        }
        let bit = block.weak >> self.filter_shift;
        self.filter[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    /// The blocks in the bucket of a weak sum.
    fn bucket(&self, weak: u32) -> impl Iterator<Item = usize> + '_ {
        let mut link = self.heads[(weak >> self.bucket_shift) as usize];
        std::iter::from_fn(move || {
            let number = link.checked_sub(1)? as usize;
            link = self.next[number];
            Some(number)
        })
    }

    /// Whether a block may have this weak sum: no is certain.
    #[inline(always)]
    pub(super) fn may_have(&self, weak: u32) -> bool {
        let bit = weak >> self.filter_shift;
        self.filter[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    /// Whether a block that can be found has this weak sum.
    pub(super) fn has(&self, weak: u32) -> bool {
        self.bucket(weak).any(|number| self.blocks[number].weak == weak)
    }

    /// The block with these sums: the one at `preferred` in the base when it has them.
    pub(super) fn find(&self, weak: u32, strong: u64, preferred: u64) -> Option<usize> {
        let fits = |number: &usize| {
            let block = &self.blocks[*number];
            block.weak == weak && block.strong == strong && block.len == self.block
        };
        let found = self.bucket(weak).find(fits)?;
        Some(self.at(preferred).filter(fits).unwrap_or(found))
    }

    /// A block by its number.
    pub(super) fn get(&self, number: usize) -> Option<&Block> {
        self.blocks.get(number)
    }

    /// The block that starts there in the base.
    pub(super) fn at(&self, offset: u64) -> Option<usize> {
        self.blocks.binary_search_by_key(&offset, |block| block.from).ok()
    }

    /// The block that follows in the base without a gap.
    pub(super) fn after(&self, number: usize) -> Option<usize> {
        let block = self.blocks.get(number)?;
        let next = self.blocks.get(number + 1)?;
        // Cannot overflow: the range that the block is in ends at an offset that fits.
        (block.from + u64::from(block.len) == next.from).then_some(number + 1)
    }

    /// The last block of all, when it is a short one.
    pub(super) fn short_end(&self) -> Option<usize> {
        let last = self.blocks.last()?;
        (last.len != self.block).then(|| self.blocks.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(weak: impl Iterator<Item = (u32, u64)>) -> Vec<u8> {
        weak.flat_map(|(weak, strong)| {
            let mut sum = weak.to_le_bytes().to_vec();
            sum.extend_from_slice(&strong.to_le_bytes());
            sum
        })
        .collect()
    }

    #[test]
    fn sums_that_lie_are_refused_and_change_nothing() {
        let good = sums((0..3).map(|number| (number, u64::from(number))));
        assert_eq!(Index::new(0).add(0, 3, &good), Err(BadSums::Block));
        let mut index = Index::new(10);
        index.add(100, 25, &good).unwrap();
        for (offset, len, sums, expected) in [
            (200, 0, &good[..0], BadSums::Empty),
            (u64::MAX, 25, &good[..], BadSums::Beyond { offset: u64::MAX, len: 25 }),
            (1, u64::MAX, &good, BadSums::Beyond { offset: 1, len: u64::MAX }),
            (0, 25, &good, BadSums::Order { offset: 0, end: 125 }),
            (100, 25, &good, BadSums::Order { offset: 100, end: 125 }),
            (124, 25, &good, BadSums::Order { offset: 124, end: 125 }),
            (200, 31, &good, BadSums::Count { blocks: 4, bytes: 36 }),
            (200, 20, &good, BadSums::Count { blocks: 2, bytes: 36 }),
            (200, 30, &good[..35], BadSums::Count { blocks: 3, bytes: 35 }),
            (200, 30, &good[..0], BadSums::Count { blocks: 3, bytes: 0 }),
            (200, 10 * BLOCKS_MAX, &good, BadSums::TooMany(BLOCKS_MAX + 3)),
            (200, u64::MAX - 200, &good, BadSums::TooMany((u64::MAX - 200).div_ceil(10) + 3)),
        ] {
            assert_eq!(index.add(offset, len, sums), Err(expected), "{offset} {len}");
            assert_eq!(index.len(), 3);
        }
        index.add(125, 30, &good).unwrap();
        assert_eq!(index.len(), 6);
    }

    #[test]
    fn the_largest_offsets_and_blocks_fit() {
        let one = sums([(1, 1)].into_iter());
        let mut index = Index::new(u32::MAX);
        index.add(u64::MAX - 7, 7, &one).unwrap();
        assert_eq!(index.after(0), None);
        assert_eq!(index.short_end(), Some(0));
        assert_eq!(Index::new(1).add(0, u64::MAX, &one), Err(BadSums::TooMany(u64::MAX)));
    }

    #[test]
    fn every_block_of_a_full_index_is_found() {
        let mut index = Index::new(16);
        let mut offset = 0;
        let sum = |number: u64| ((number as u32).wrapping_mul(0x9E37_79B1), number);
        for piece in [1, 1000, 100_000, BLOCKS_MAX - 101_001] {
            let first = offset / 16;
            index.add(offset, piece * 16, &sums((first..first + piece).map(sum))).unwrap();
            offset += piece * 16;
        }
        for number in 0..BLOCKS_MAX {
            let (weak, strong) = sum(number);
            assert!(index.may_have(weak) && index.has(weak));
            assert_eq!(index.find(weak, strong, 0), Some(number as usize));
            assert_eq!(index.find(weak, strong + 1, 0), None);
        }
        assert!(matches!(
            index.add(offset, 1, &sums([(0, 0)].into_iter())),
            Err(BadSums::TooMany(_))
        ));
    }

    #[test]
    fn a_look_up_is_short_whatever_the_sums_are() {
        let one_sum = sums((0..100_000).map(|number| (7, number)));
        let one_bucket = sums((0..100_000).map(|number| (number, u64::from(number))));
        let one_content = sums((0..100_000).map(|_| (7, 7)));
        for (hostile, most) in [(one_sum, SAME), (one_bucket, STEPS), (one_content, 1)] {
            let mut index = Index::new(1);
            index.add(0, 100_000, &hostile).unwrap();
            assert!(index.bucket(7).count() <= most);
            assert_eq!(index.find(7, 7, 0), Some(if most == 1 { 0 } else { 7 }));
        }
    }

    #[test]
    fn of_equal_blocks_the_preferred_one_is_found() {
        let mut index = Index::new(10);
        index.add(0, 95, &sums((0..10).map(|_| (7, 7)))).unwrap();
        assert_eq!(index.find(7, 7, 40), Some(4));
        assert_eq!(index.find(7, 7, 41), Some(0));
        // Short: its sums are of fewer bytes.
        assert_eq!(index.find(7, 7, 90), Some(0));
    }
}
