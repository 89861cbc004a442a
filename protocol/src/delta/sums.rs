//! The sums of the searching level: a weak one that rolls and a strong one that decides.
//!
//! On the wire a block is [`SUM`] bytes: the weak sum as a little-endian `u32`, then the first 8
//! bytes of the block's keyed BLAKE3. The key is drawn by the ends of a link and told to nobody else,
//! so that no content can be made whose blocks collide; by chance one comparison in 2^64 lies, and
//! the hash of the whole result catches it.

/// Bytes of a block's sums on the wire.
pub const SUM: usize = 12;

/// Appends the sums of the consecutive blocks of `block` bytes in `bytes`, the last of which may be
/// short. A block of 0 bytes has no sums: nothing is appended.
pub fn put_sums(key: &[u8; 32], block: u32, bytes: &[u8], out: &mut Vec<u8>) {
    if block == 0 {
        return;
    }
    out.reserve(bytes.len().div_ceil(block as usize).saturating_mul(SUM));
    for bytes in bytes.chunks(block as usize) {
        out.extend_from_slice(&Rolling::of(bytes).value().to_le_bytes());
        out.extend_from_slice(&strong(key, bytes).to_le_bytes());
    }
}

/// The strong sum: the first 8 bytes of the keyed hash, little-endian.
pub(super) fn strong(key: &[u8; 32], bytes: &[u8]) -> u64 {
    let hash = blake3::keyed_hash(key, bytes);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Bytes of a row of [`Rolling::of`]: what one step of the inner loop adds, side by side.
const LANES: usize = 32;
/// Rows whose sums are kept in 16 bits before they are folded: 255 * 16 * 17 / 2 still fits.
const ROWS: usize = 16;

/// The weak sum of a window of bytes, and how it moves on by one.
///
/// Adler's pair without the modulus, 32 bits each: `plain` is the sum of the bytes, `weighted` the
/// sum of each times its distance from the end. Over a whole block it needs no multiplication and no
/// carried dependency, so that the compiler makes vectors of it (a polynomial would not), and rolling
/// takes an addition or two for each half. rsync's own keeps 16 bits of each, which for blocks of a
/// KiB and more throws bits away that tell blocks apart. The halves by themselves sit in few of
/// their bits: [`Rolling::value`] spreads them over the high ones, which are what an index looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rolling {
    plain: u32,
    weighted: u32,
    len: u32,
}

impl Rolling {
    /// The sum of `bytes`; their number counts modulo 2^32.
    pub(super) fn of(bytes: &[u8]) -> Rolling {
        let (mut plain, mut weighted) = (0_u32, 0_u32);
        let mut groups = bytes.chunks_exact(LANES * ROWS);
        for group in &mut groups {
            let mut sum = [0_u16; LANES];
            let mut sums = [0_u16; LANES];
            for row in group.chunks_exact(LANES) {
                for lane in 0..LANES {
                    sum[lane] += u16::from(row[lane]);
                    sums[lane] += sum[lane];
                }
            }
            // A byte in row r and lane l is ROWS - r rows and then l bytes less from the end.
            let (mut all, mut down, mut across) = (0_u32, 0_u32, 0_u32);
            for lane in 0..LANES {
                all += u32::from(sum[lane]);
                down += u32::from(sums[lane]);
                across += u32::from(sum[lane]) * lane as u32;
            }
            weighted = weighted
                .wrapping_add(plain.wrapping_mul((LANES * ROWS) as u32))
                .wrapping_add(down * LANES as u32 - across);
            plain = plain.wrapping_add(all);
        }
        for byte in groups.remainder() {
            plain = plain.wrapping_add(u32::from(*byte));
            weighted = weighted.wrapping_add(plain);
        }
        Rolling { plain, weighted, len: bytes.len() as u32 }
    }

    /// Moves the window on by one: `out` was its first byte, `new` follows its last.
    #[inline(always)]
    pub(super) fn roll(&mut self, out: u8, new: u8) {
        let (out, new) = (u32::from(out), u32::from(new));
        self.plain = self.plain.wrapping_add(new).wrapping_sub(out);
        self.weighted =
            self.weighted.wrapping_sub(out.wrapping_mul(self.len)).wrapping_add(self.plain);
    }

    /// The weak sum as it lies on the wire.
    #[inline(always)]
    pub(super) fn value(self) -> u32 {
        // Odd and without a short combination that gives 0: the multipliers of xxHash.
        let plain = self.plain.wrapping_mul(0x85EB_CA77);
        plain.wrapping_add(self.weighted.wrapping_mul(0x9E37_79B1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn by_definition(bytes: &[u8]) -> Rolling {
        let (mut plain, mut weighted) = (0_u32, 0_u32);
        for (at, byte) in bytes.iter().enumerate() {
            plain = plain.wrapping_add(u32::from(*byte));
            weighted = weighted.wrapping_add((bytes.len() - at) as u32 * u32::from(*byte));
        }
        Rolling { plain, weighted, len: bytes.len() as u32 }
    }

    #[test]
    fn the_largest_bytes_fit_their_lanes() {
        for len in [1, 511, 512, 513, 1024, 4096, 5000] {
            let bytes = vec![255; len];
            assert_eq!(Rolling::of(&bytes), by_definition(&bytes), "{len}");
        }
    }

    /// The layout is what the other end reads: it may not change without a new version.
    #[test]
    fn sums_lie_on_the_wire_as_they_always_did() {
        let mut out = Vec::new();
        put_sums(&[7; 32], 4, b"abcdab", &mut out);
        assert_eq!(out.len(), 2 * SUM);
        // 97 + 98 + 99 + 100 and 4 * 97 + 3 * 98 + 2 * 99 + 100, each times its multiplier.
        let weak =
            394_u32.wrapping_mul(0x85EB_CA77).wrapping_add(980_u32.wrapping_mul(0x9E37_79B1));
        assert_eq!(out[..4], weak.to_le_bytes());
        assert_eq!(out[4..SUM], blake3::keyed_hash(&[7; 32], b"abcd").as_bytes()[..8]);
        assert_eq!(out[SUM + 4..], blake3::keyed_hash(&[7; 32], b"ab").as_bytes()[..8]);
    }

    #[test]
    fn a_block_of_nothing_has_no_sums() {
        let mut out = Vec::new();
        put_sums(&[0; 32], 0, b"abc", &mut out);
        put_sums(&[0; 32], 4, b"", &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn weak_sums_of_text_are_told_apart_by_their_high_bits() {
        let text: String = (0..200_000).map(|line| format!("line {line} of a log\n")).collect();
        let blocks: Vec<&[u8]> = text.as_bytes().chunks_exact(1024).take(4096).collect();
        let weak: HashSet<u32> = blocks.iter().map(|block| Rolling::of(block).value()).collect();
        assert!(weak.len() >= blocks.len() - 8, "{} of {}", weak.len(), blocks.len());
        let high: HashSet<u32> = weak.iter().map(|weak| weak >> 16).collect();
        // 4096 balls into 65536 urns hit about 3970 of them.
        assert!(high.len() > 3700, "{}", high.len());
    }

    proptest! {
        #[test]
        fn a_sum_rolls_to_what_it_is(
            bytes in proptest::collection::vec(any::<u8>(), 2..4000),
            len in 1..2000_usize,
        ) {
            let len = len.min(bytes.len() - 1);
            let mut sum = Rolling::of(&bytes[..len]);
            prop_assert_eq!(sum, by_definition(&bytes[..len]));
            for at in 1..=bytes.len() - len {
                sum.roll(bytes[at - 1], bytes[at + len - 1]);
            }
            prop_assert_eq!(sum, Rolling::of(&bytes[bytes.len() - len..]));
        }
    }
}
