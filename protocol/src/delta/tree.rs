//! Blocks of the same-offset level as subtrees of the content's BLAKE3 tree.
//!
//! The *chaining value* of an aligned block of 2^k bytes is an inner node of the tree: one pass over
//! the content gives the blocks' sums and, from them alone, the plain BLAKE3 hash of the whole. What
//! compares blocks on the wire is the first half of the chaining value; whoever wants the whole hash
//! keeps the full ones.
//!
//! The hashes are not keyed: the root has to be the hash that a commit carries. Nobody can make two
//! blocks whose first 128 bits agree for less than 2^64 work, and the commit's hash would tell.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{Hash, Hasher};

/// The chaining value of a block.
pub type Chain = [u8; 32];
/// What of a chaining value goes over the wire.
pub type Short = [u8; 16];

/// The first half of a chaining value.
pub fn short(chain: &Chain) -> Short {
    let mut short = Short::default();
    short.copy_from_slice(&chain[..16]);
    short
}

/// The chaining value of the block of a content that starts `offset` bytes into it. Blocks may come
/// in any order.
///
/// Only the content's last block may be shorter than the others. A content of a single block has
/// no use for it: see [`root`].
///
/// # Panics
/// When `bytes` is empty, when `offset` is no multiple of 1024, or when `bytes` is longer than the
/// alignment of `offset` lets a subtree be. Multiples of a block that [`super::is_block`] accepts, with
/// at most that many bytes, never do: a block that the other end said has to go through it.
pub fn chain(offset: u64, bytes: &[u8]) -> Chain {
    Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// The BLAKE3 hash of a content of `size` bytes from the chaining values of all its blocks, in the
/// order of the content.
///
/// `None` when `chains` are not as many as such a content has, when `block` is no power of two of at
/// least 1024, and for a content of at most one block: its hash is that of a root, which no chaining
/// value gives. There the caller hashes the bytes, [`blake3::hash`].
pub fn root(block: u32, size: u64, chains: &[Chain]) -> Option<Hash> {
    if !block.is_power_of_two() || (block as usize) < blake3::CHUNK_LEN {
        return None;
    }
    if super::count(size, block)? != chains.len() as u64 {
        return None;
    }
    let (last, chains) = chains.split_last()?;
    // The subtrees that are complete and have no right neighbour yet, largest first: one for each
    // bit of the number of blocks. Two equal ones are joined when a block comes behind them, so that
    // the pair at the very top is never joined as if it were an inner one.
    let mut open: Vec<Chain> = Vec::with_capacity(usize::BITS as usize);
    for (before, chain) in chains.iter().enumerate() {
        close(&mut open, before);
        open.push(*chain);
    }
    close(&mut open, chains.len());
    let mut right = *last;
    let top = match open.split_first() {
        None => return None,
        Some((top, inner)) => {
            for left in inner.iter().rev() {
                right = merge_subtrees_non_root(left, &right, Mode::Hash);
            }
            top
        }
    };
    Some(merge_subtrees_root(top, &right, Mode::Hash))
}

/// Joins the subtrees that `blocks` blocks complete, which stand last in `open`.
fn close(open: &mut Vec<Chain>, blocks: usize) {
    while open.len() > blocks.count_ones() as usize {
        let (Some(right), Some(left)) = (open.pop(), open.pop()) else { return };
        open.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(size: usize) -> Vec<u8> {
        let mut content = vec![0; size];
        Hasher::new().update(b"content").finalize_xof().fill(&mut content);
        content
    }

    fn chains(block: usize, content: &[u8]) -> Vec<Chain> {
        let numbered = content.chunks(block).enumerate();
        numbered.map(|(number, bytes)| chain((number * block) as u64, bytes)).collect()
    }

    #[test]
    fn the_root_is_the_plain_hash_around_every_boundary() {
        for block in [1024_usize, 2048, 16384] {
            for blocks in 1..=17 {
                for size in [blocks * block - 1, blocks * block, blocks * block + 1] {
                    let content = content(size);
                    let root = root(block as u32, size as u64, &chains(block, &content));
                    let expected = (size > block).then(|| blake3::hash(&content));
                    assert_eq!(root, expected, "{size} in {block}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_no_root() {
        let content = content(5000);
        let chains = chains(1024, &content);
        assert!(root(1024, 5000, &chains).is_some());
        for (block, size, count) in [
            (1024, 5000, 4),
            (1024, 5121, 5),
            (1024, 4096, 5),
            (0, 5000, 5),
            (1000, 5000, 5),
            (512, 2560, 5),
            (1024, u64::MAX, 5),
            (1 << 31, u64::MAX, 5),
            (1024, 0, 0),
            (1024, 1, 1),
            (1024, 1024, 1),
        ] {
            assert_eq!(root(block, size, &chains[..count]), None, "{block} {size} {count}");
        }
    }

    #[test]
    fn offsets_far_out_have_chains() {
        let block = 1_u64 << 31;
        assert_ne!(chain(u64::MAX / block * block, b"x"), chain(0, b"x"));
    }

    proptest! {
        #[test]
        fn blocks_may_come_in_any_order(
            size in 1025..200_000_usize,
            exponent in 10..15_u32,
            order in any::<u64>(),
        ) {
            let block = 1_usize << exponent;
            let content = content(size);
            let mut numbers: Vec<usize> = (0..size.div_ceil(block)).collect();
            numbers.sort_by_key(|number| (*number as u64 + 1).wrapping_mul(order | 1));
            let mut chains = vec![Chain::default(); numbers.len()];
            for number in numbers {
                let start = number * block;
                let end = (start + block).min(size);
                chains[number] = chain(start as u64, &content[start..end]);
            }
            let expected = (size > block).then(|| blake3::hash(&content));
            prop_assert_eq!(root(block as u32, size as u64, &chains), expected);
        }
    }
}
