//! How much of anything one message may have, and what may be open at a time.

use super::SumHow;

/// The most operations in one message.
pub const MAX_OPS: usize = 4096;
/// The most entries in one message.
pub const MAX_ENTRIES: usize = 8192;
/// The most directories in one message.
pub const MAX_LISTS: usize = 256;
/// The most files whose hashes are asked by one message.
pub const MAX_HASHES: usize = 1024;
/// Content up to this size travels in the message of its operation.
pub const INLINE_MAX: u64 = 64 * 1024;
/// Stages open at a time, at most.
pub const MAX_STAGES: usize = 256;
/// The longest text of a problem, in bytes.
pub const MAX_TEXT: usize = 1024;
/// The most ranges in one message.
pub const MAX_RANGES: usize = 32 * 1024;
/// The most blocks whose sums are asked by one message.
pub const MAX_BLOCKS: u64 = 1 << 17;
/// The smallest block that is compared where it stands, in bytes.
pub const MIN_SAME: u32 = crate::delta::BLOCK_MIN;
/// The smallest block that is searched for, in bytes.
pub const MIN_SEARCH: u32 = 1 << 10;
/// The largest block that is searched for, in bytes: one has to fit into memory.
pub const MAX_SEARCH: u32 = 16 << 20;
/// The most messages that ask for sums of one stage and are not answered.
pub const MAX_ASKS: usize = 8;
/// The most bytes of sums in one message.
pub const MAX_SUMS: usize = 64 * 1024;
/// The most bytes that one message copies.
pub const MAX_COPY: u64 = 16 << 20;
/// So many bytes are copied in the time that one is received.
pub const COPY_WORK: u64 = 64;

/// The most ranges in one message of acks.
pub const MAX_ACKS: usize = 16 * 1024;

/// May these sums be asked?
pub(super) fn asks_well(how: SumHow, block: u32, ranges: &[(u64, u64)]) -> bool {
    let sizes = match how {
        SumHow::Same | SumHow::Kept => MIN_SAME..=1 << 31,
        SumHow::Search => MIN_SEARCH..=MAX_SEARCH,
    };
    if !block.is_power_of_two() || !sizes.contains(&block) {
        return false;
    }
    let block = u64::from(block);
    let count = ranges.iter().try_fold(0u64, |count, (at, len)| {
        at.checked_add(*len)?;
        let aligned = how == SumHow::Search || at.is_multiple_of(block);
        if *len == 0 || !aligned {
            return None;
        }
        count.checked_add(len.div_ceil(block))
    });
    count.is_some_and(|count| count > 0 && count <= MAX_BLOCKS)
}
