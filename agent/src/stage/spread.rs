//! Blocks hashed by several threads: a content's BLAKE3 tree may be made in any order.

use std::num::NonZero;
use std::ops::Range;
use std::thread;

use lsync_protocol::delta::tree::Chain;

/// The most threads for one range.
const THREADS: u64 = 4;
/// What one thread gets at least, in bytes: less than this takes no longer than to start one.
const SHARE: u64 = 1 << 20;

/// The chaining values of the blocks of `block` bytes that are `range`, whole ones but for the last.
/// `part` gives those of a part of the range, in order; it is called for several at once.
///
/// # Errors
/// The first of `part`'s.
pub(super) fn chains<E: Send>(
    block: u32,
    range: Range<u64>,
    part: impl Fn(Range<u64>) -> Result<Vec<Chain>, E> + Sync,
) -> Result<Vec<Chain>, E> {
    let block = u64::from(block);
    let len = range.end.saturating_sub(range.start);
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let threads = (len / SHARE.max(block)).clamp(1, THREADS.min(cores));
    let share = len.div_ceil(threads).next_multiple_of(block);
    let mut parts = (0..threads).filter_map(|number| {
        let start = range.start + number * share;
        let end = (start + share).min(range.end);
        (start < end).then_some(start..end)
    });
    let Some(first) = parts.next() else { return Ok(Vec::new()) };
    thread::scope(|scope| {
        let part = &part;
        let begin = |range: Range<u64>| {
            let other = thread::Builder::new().spawn_scoped(scope, {
                let range = range.clone();
                move || part(range)
            });
            (range, other)
        };
        let others: Vec<_> = parts.map(begin).collect();
        let mut chains = part(first)?;
        for (range, other) in others {
            let more = match other.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(more)) => more?,
                // It only panics where this one would have.
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // The system has no more threads for us.
                Err(_) => part(range)?,
            };
            chains.extend(more);
        }
        Ok(chains)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lsync_protocol::delta::tree;

    #[test]
    fn blocks_come_in_order_whoever_hashed_them() {
        let content: Vec<u8> = (0..(5 << 20) + 777).map(|i: usize| (i * 31 % 251) as u8).collect();
        for block in [16 << 10, 1 << 20, 4 << 20, 8 << 20] {
            for range in [0..0, 0..content.len(), block as usize..content.len(), 0..4 << 20] {
                let range = range.start as u64..range.end as u64;
                if range.start > range.end {
                    continue;
                }
                let part = |range: Range<u64>| {
                    assert!(range.start.is_multiple_of(u64::from(block)));
                    let bytes = &content[range.start as usize..range.end as usize];
                    let chain = |(n, bytes)| tree::chain(range.start + n * u64::from(block), bytes);
                    Ok::<_, ()>((0..).zip(bytes.chunks(block as usize)).map(chain).collect())
                };
                assert_eq!(chains(block, range.clone(), part), part(range));
            }
        }
    }

    #[test]
    fn an_error_of_any_is_the_error() {
        for bad in 0..8 {
            let part = |range: Range<u64>| match range.contains(&(bad << 20)) {
                true => Err(bad),
                false => Ok(Vec::new()),
            };
            assert_eq!(chains(16 << 10, 0..8 << 20, part), Err(bad));
        }
    }
}
