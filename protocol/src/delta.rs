//! What of a file's new content its old content, the *base*, already has: so that a change costs its
//! own bytes and not the file's.
//!
//! Two levels, because most changes leave most bytes where they were:
//!
//! 1. *Same offset* ([`tree`]): both ends know the chaining values of the aligned blocks of
//!    [`block`] bytes in the content's BLAKE3 tree. Equal blocks stay where they are. No rolling, no
//!    second pass: the same chaining values give the whole content's hash.
//! 2. *Any offset* ([`sums`], [`search`]): only for blocks that differ, the end that has the base
//!    sends a weak and a strong sum for each [`fine_block`] bytes of them, and the other end looks
//!    for these blocks at every byte of what is left of the new content.
//!
//! Everything here is a plain function over bytes in memory. Reading, windows, threads and the
//! decision that searching does not pay are the caller's; memory is bounded by a window and by the
//! number of blocks, never by the size of a file.
//!
//! What is found is true unless a truncated hash collides, which nobody who does not know the key
//! can arrange on the searching level; the hash of the whole result is what decides in the end.

pub mod search;
pub mod sums;
pub mod tree;

/// The smallest block of the same-offset level, in bytes. BLAKE3 hashes 16 chunks at a time where
/// the processor can: smaller blocks cost several times as much a byte.
pub const BLOCK_MIN: u32 = 16 << 10;
/// The largest block of the same-offset level, in bytes, while that gives at most [`BLOCKS`].
pub const BLOCK_MAX: u32 = 1 << 20;
/// The smallest block of the searching level, in bytes.
pub const FINE: u32 = 1 << 10;
/// The largest block of the searching level, in bytes, while that gives at most [`BLOCKS`].
pub const FINE_MAX: u32 = 256 << 10;
/// The most bytes that are searched in blocks of [`FINE`]: their sums are 768 KiB then.
pub const FINE_TOTAL: u64 = 64 << 20;
/// How many blocks the rules here give at most, for up to 2^48 bytes.
pub const BLOCKS: u64 = 1 << 17;

/// The block of the same-offset level for a content of `size` bytes: a power of two near twice the
/// square root of the size, at least [`BLOCK_MIN`], and at most [`BLOCK_MAX`] while that gives no
/// more than [`BLOCKS`] blocks (up to 128 GiB); beyond, what gives that many.
///
/// A block is never more than 2 GiB: over 2^48 bytes (256 TiB) there are more blocks than
/// [`BLOCKS`], and whoever bounds their number has to refuse such a content.
pub fn block(size: u64) -> u32 {
    bounded(size, root(size).saturating_mul(2).clamp(BLOCK_MIN, BLOCK_MAX))
}

/// The block of the searching level when `total` bytes of the base are unmatched: [`FINE`] up to
/// [`FINE_TOTAL`], twice that up to twice as much and four times up to four times as much, else a
/// power of two near the square root, at most [`FINE_MAX`] while that gives no more than [`BLOCKS`]
/// blocks (up to 32 GiB); beyond, what gives that many, 2 GiB at most, with the same limit of 2^48
/// bytes as [`block`].
///
/// Scattered edits leave little unmatched and find small blocks; a wholly shifted GiB has 32768
/// blocks, whose sums are 384 KiB.
pub fn fine_block(total: u64) -> u32 {
    let wanted = match total.div_ceil(FINE_TOTAL) {
        0 | 1 => FINE,
        2 => 2 * FINE,
        3 | 4 => 4 * FINE,
        _ => root(total).clamp(FINE, FINE_MAX),
    };
    bounded(total, wanted)
}

/// Whether `block`, as the other end said it, may be a block of the same-offset level: a power of
/// two of at least [`BLOCK_MIN`]. [`tree::chain`] is only asked about such blocks.
pub fn is_block(block: u32) -> bool {
    block.is_power_of_two() && block >= BLOCK_MIN
}

/// How many blocks of `block` bytes `size` bytes have, the last one perhaps short. `None` for a
/// block of 0 bytes.
pub fn count(size: u64, block: u32) -> Option<u64> {
    (block > 0).then(|| size.div_ceil(u64::from(block)))
}

/// The power of two nearest to the square root of `size`, by its exponent; 2^32 does not fit and is
/// 2^31.
fn root(size: u64) -> u32 {
    let exponent = size.checked_ilog2().unwrap_or(0).div_ceil(2);
    1 << exponent.min(31)
}

/// `wanted`, or what gives at most [`BLOCKS`] blocks when that is more.
fn bounded(size: u64, wanted: u32) -> u32 {
    let needed = size.div_ceil(BLOCKS).max(1).next_power_of_two();
    wanted.max(u32::try_from(needed).unwrap_or(1 << 31).min(1 << 31))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn blocks_grow_with_the_square_root_and_then_with_the_size() {
        for (size, expected) in [
            (0, 16 * KIB),
            (1, 16 * KIB),
            (64 * MIB, 16 * KIB),
            (256 * MIB, 32 * KIB),
            (GIB - 1, 64 * KIB),
            (GIB, 64 * KIB),
            (2 * GIB - 1, 64 * KIB),
            (2 * GIB, 128 * KIB),
            (10 * GIB, 256 * KIB),
            (100 * GIB, MIB),
            (128 * GIB, MIB),
            (128 * GIB + 1, 2 * MIB),
            (1024 * GIB, 8 * MIB),
            (1 << 48, 2 * GIB),
            ((1 << 48) + 1, 2 * GIB),
            (u64::MAX, 2 * GIB),
        ] {
            assert_eq!(u64::from(block(size)), expected, "{size}");
        }
    }

    #[test]
    fn searched_blocks_are_small_while_little_is_unmatched() {
        for (total, expected) in [
            (0, KIB),
            (64 * MIB, KIB),
            (64 * MIB + 1, 2 * KIB),
            (256 * MIB, 4 * KIB),
            (256 * MIB + 1, 16 * KIB),
            (GIB, 32 * KIB),
            (32 * GIB, 256 * KIB),
            (32 * GIB + 1, 512 * KIB),
            (1 << 48, 2 * GIB),
            (u64::MAX, 2 * GIB),
        ] {
            assert_eq!(u64::from(fine_block(total)), expected, "{total}");
        }
        let wire = count(GIB, fine_block(GIB)).unwrap() * sums::SUM as u64;
        assert!(wire < 400_000, "{wire}");
    }

    #[test]
    fn the_number_of_blocks_is_bounded() {
        for exponent in 0..=48 {
            for size in [(1_u64 << exponent) - 1, 1 << exponent, (1 << exponent) + 1] {
                let size = size.min(1 << 48);
                for block in [block(size), fine_block(size)] {
                    assert!(block.is_power_of_two());
                    assert!(count(size, block).unwrap() <= BLOCKS, "{size} {block}");
                }
                assert!(is_block(block(size)));
                // What is left of a file is never searched in larger blocks than it is compared in.
                assert!(fine_block(size) <= block(size), "{size}");
            }
        }
    }

    #[test]
    fn a_block_that_the_other_end_said_is_looked_at() {
        for (block, good) in [
            (0, false),
            (1, false),
            (1 << 13, false),
            (1 << 14, true),
            (20_000, false),
            (1 << 31, true),
        ] {
            assert_eq!(is_block(block), good, "{block}");
        }
        assert_eq!(count(10, 0), None);
        assert_eq!(count(u64::MAX, 1), Some(u64::MAX));
    }
}
