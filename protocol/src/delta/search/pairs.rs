//! Pairs of an old and a new content, searched in any windows: what is found is true, as much as
//! fast_rsync finds, and costs what it may.

use super::{Copy, EARNED, Index, SAVED, Search};
use crate::delta::sums::put_sums;
use proptest::collection::vec;
use proptest::prelude::*;
use std::ops::Range;

const KEY: [u8; 32] = [3; 32];

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The index of some ranges of a base.
fn index(block: u32, base: &[u8], ranges: &[Range<usize>]) -> Index {
    let mut index = Index::new(block);
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let mut sums = Vec::new();
        put_sums(&KEY, block, &base[range.clone()], &mut sums);
        index.add(range.start as u64, range.len() as u64, &sums).unwrap();
    }
    index
}

/// Searches some regions of the new content as a caller does: reads of the lengths `cuts` say, over
/// and over, what is not settled handed again. The second is how much was hashed.
fn search(index: &Index, new: &[u8], regions: &[Range<usize>], cuts: &[usize]) -> (Vec<Copy>, u64) {
    let mut search = Search::new(index, &KEY);
    let mut cuts = cuts.iter().copied().cycle();
    let mut found = Vec::new();
    for region in regions {
        let (mut settled, mut read) = (region.start, region.start);
        while settled < region.end {
            read = (read + cuts.next().unwrap()).min(region.end);
            let last = read == region.end;
            let window = &new[settled..read];
            let now = search.next(settled as u64, window, last, &mut found);
            assert!(now <= window.len());
            let block = index.block as usize;
            if last {
                assert_eq!(now, window.len());
            } else if window.len() >= 2 * block {
                assert!(now > block, "{now} of {}", window.len());
            }
            settled += now;
        }
    }
    (found, search.hashed)
}

/// That copies are true, in order and without overlaps, inside of what was searched; returns the
/// bytes they leave.
fn check(
    base: &[u8],
    new: &[u8],
    ranges: &[Range<usize>],
    regions: &[Range<usize>],
    found: &[Copy],
) -> usize {
    let inside = |all: &[Range<usize>], start: usize, end: usize| {
        let mut at = start;
        for range in all {
            if range.contains(&at) {
                at = range.end.min(end);
            }
        }
        at == end
    };
    let mut built = Vec::new();
    for copy in found {
        let (to, from, len) = (copy.to as usize, copy.from as usize, copy.len as usize);
        assert!(len > 0 && to >= built.len());
        built.extend_from_slice(&new[built.len()..to]);
        assert_eq!(base[from..from + len], new[to..to + len]);
        assert!(inside(ranges, from, from + len), "{copy:?} out of {ranges:?}");
        assert!(inside(regions, to, to + len), "{copy:?} into {regions:?}");
        built.extend_from_slice(&base[from..from + len]);
    }
    built.extend_from_slice(&new[built.len()..]);
    assert_eq!(built, new);
    for pair in found.windows(2) {
        let (one, two) = (pair[0], pair[1]);
        assert!(
            one.to + one.len != two.to || one.from + one.len != two.from,
            "{one:?} and {two:?} are one"
        );
    }
    new.len() - found.iter().map(|copy| copy.len as usize).sum::<usize>()
}

/// The most that may be hashed: what was found, one block in vain behind each match and at the
/// start of each region and each window, and what rolling earns.
fn most_hashed(index: &Index, regions: &[Range<usize>]) -> u64 {
    let bytes: usize = regions.iter().map(Range::len).sum();
    let block = u64::from(index.block);
    (2 + 1 + EARNED) * bytes as u64 + (SAVED + 3 * regions.len() as u64) * block
}

fn unmatched(block: u32, base: &[u8], new: &[u8], cuts: &[usize]) -> (Vec<Copy>, usize) {
    let (ranges, regions) = (range(base), range(new));
    let index = index(block, base, &ranges);
    let (found, hashed) = search(&index, new, &regions, cuts);
    assert!(hashed <= most_hashed(&index, &regions), "{hashed} hashed");
    let left = check(base, new, &ranges, &regions, &found);
    (found, left)
}

fn range(bytes: &[u8]) -> [Range<usize>; 1] {
    [Range { start: 0, end: bytes.len() }]
}

#[derive(Debug, Clone)]
enum Edit {
    Set(prop::sample::Index, Vec<u8>),
    Insert(prop::sample::Index, Vec<u8>),
    Delete(prop::sample::Index, usize),
    Move(prop::sample::Index, usize, prop::sample::Index),
    Double(prop::sample::Index, usize, prop::sample::Index),
}

fn edit(longest: usize) -> impl Strategy<Value = Edit> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), vec(any::<u8>(), 1..longest)).prop_map(|(at, bytes)| Edit::Set(at, bytes)),
        (place(), vec(any::<u8>(), 1..longest)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (place(), 1..longest).prop_map(|(at, len)| Edit::Delete(at, len)),
        (place(), 1..longest * 4, place()).prop_map(|(at, len, to)| Edit::Move(at, len, to)),
        (place(), 1..longest * 4, place()).prop_map(|(at, len, to)| Edit::Double(at, len, to)),
    ]
}

fn apply(edits: &[Edit], base: &[u8]) -> Vec<u8> {
    let mut new = base.to_vec();
    for edit in edits {
        let place = |at: &prop::sample::Index, len: usize| at.index(len + 1);
        match edit {
            Edit::Set(at, bytes) => {
                let at = place(at, new.len());
                let len = bytes.len().min(new.len() - at);
                new[at..at + len].copy_from_slice(&bytes[..len]);
            }
            Edit::Insert(at, bytes) => {
                let at = place(at, new.len());
                new.splice(at..at, bytes.iter().copied());
            }
            Edit::Delete(at, len) => {
                let at = place(at, new.len());
                new.drain(at..(at + len).min(new.len()));
            }
            Edit::Move(at, len, to) => {
                let at = place(at, new.len());
                let moved: Vec<u8> = new.drain(at..(at + len).min(new.len())).collect();
                let to = place(to, new.len());
                new.splice(to..to, moved);
            }
            Edit::Double(at, len, to) => {
                let at = place(at, new.len());
                let doubled = new[at..(at + len).min(new.len())].to_vec();
                let to = place(to, new.len());
                new.splice(to..to, doubled);
            }
        }
    }
    new
}

/// Random, of one byte, of a short period, of few different bytes.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (any::<u64>(), 0..4000_usize).prop_map(|(seed, len)| random(seed, len)),
        (prop_oneof![Just(0), Just(255), any::<u8>()], 0..4000_usize)
            .prop_map(|(byte, len)| vec![byte; len]),
        (vec(any::<u8>(), 1..130), 0..4000_usize).prop_map(|(period, len)| period
            .into_iter()
            .cycle()
            .take(len)
            .collect()),
        (any::<u64>(), 0..4000_usize)
            .prop_map(|(seed, len)| random(seed, len).iter().map(|byte| byte & 1).collect()),
    ]
}

fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    prop_oneof![
        4 => (content(), vec(edit(150), 0..6)).prop_map(|(base, edits)| {
            let new = apply(&edits, &base);
            (base, new)
        }),
        1 => (content(), content()),
    ]
}

/// Every other piece between sorted places.
fn pieces(places: &[prop::sample::Index], len: usize) -> Vec<Range<usize>> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(len + 1)).collect();
    places.sort_unstable();
    places.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_found_is_true(
        (base, new) in pair(),
        block in 1..100_u32,
        cuts in vec(1..400_usize, 1..6),
    ) {
        let (found, left) = unmatched(block, &base, &new, &cuts);
        if base == new {
            prop_assert_eq!(left, 0, "{:?}", found);
        }
    }

    #[test]
    fn pieces_of_pairs_are_searched_alone(
        (base, new) in pair(),
        block in 1..100_u32,
        cuts in vec(1..400_usize, 1..6),
        of_base in vec(any::<prop::sample::Index>(), 0..8),
        of_new in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (ranges, regions) = (pieces(&of_base, base.len()), pieces(&of_new, new.len()));
        let index = index(block, &base, &ranges);
        let (found, hashed) = search(&index, &new, &regions, &cuts);
        prop_assert!(hashed <= most_hashed(&index, &regions));
        check(&base, &new, &ranges, &regions, &found);
    }

    #[test]
    fn windows_do_not_change_what_is_found(
        seed in any::<u64>(),
        len in 0..8000_usize,
        edits in vec(edit(300), 0..6),
        block in 4..200_u32,
        cuts in vec(1..1000_usize, 1..6),
    ) {
        let base = random(seed, len);
        let new = apply(&edits, &base);
        let whole = unmatched(block, &base, &new, &[usize::MAX >> 1]);
        prop_assert_eq!(unmatched(block, &base, &new, &cuts), whole);
    }

    #[test]
    fn no_more_is_left_than_fast_rsync_leaves(
        seed in any::<u64>(),
        len in 0..60_000_usize,
        edits in vec(edit(3000), 0..6),
        block in prop_oneof![Just(64_u32), Just(700), Just(1024), Just(4096)],
        cuts in vec(1..20_000_usize, 1..6),
    ) {
        let base = random(seed, len);
        let new = apply(&edits, &base);
        let (_, ours) = unmatched(block, &base, &new, &cuts);
        let theirs = literals_of_fast_rsync(block, &base, &new);
        // We match the short last block of the base wherever it follows the one before it, and
        // fast_rsync never does. When the base's end was moved into the middle, a block that begins
        // inside of it is lost for us: one for each edit at most.
        let slack = block as usize * edits.len();
        prop_assert!(ours <= theirs + slack, "{ours} and {theirs}");
    }
}

/// The bytes that fast_rsync sends as they are.
fn literals_of_fast_rsync(block_size: u32, base: &[u8], new: &[u8]) -> usize {
    use fast_rsync::{Signature, SignatureOptions};
    let signature =
        Signature::calculate(base, SignatureOptions { block_size, crypto_hash_size: 16 });
    let mut delta = Vec::new();
    fast_rsync::diff(&signature.index(), new, &mut delta).unwrap();
    let mut rest = &delta[4..];
    let number = |rest: &mut &[u8], bytes: usize| {
        let (number, behind) = rest.split_at(bytes);
        *rest = behind;
        number.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let mut literals = 0;
    loop {
        let op = number(&mut rest, 1);
        let literal = match op {
            0 => break,
            1..=0x40 => op,
            0x41..=0x44 => number(&mut rest, 1 << (op - 0x41)),
            0x45..=0x54 => {
                number(&mut rest, 1 << ((op - 0x45) / 4));
                number(&mut rest, 1 << ((op - 0x45) % 4));
                0
            }
            _ => panic!("no delta of librsync: {op:#04x}"),
        };
        literals += literal;
        rest = &rest[literal..];
    }
    assert!(rest.is_empty());
    literals
}

#[test]
fn edits_and_a_front_insertion_cost_what_they_cost_fast_rsync() {
    let base = random(1, 1 << 20);
    let mut edited = base.clone();
    for (number, at) in (0..20).map(|number| (number, number * 50_000 + 333)) {
        edited[at..at + 100].copy_from_slice(&random(number as u64 + 2, 100));
    }
    let mut inserted = random(99, 1000);
    inserted.extend_from_slice(&base);
    for block in [1024, 2048, 16384] {
        for new in [&edited, &inserted] {
            let (_, ours) = unmatched(block, &base, new, &[128 << 10]);
            assert!(ours <= literals_of_fast_rsync(block, &base, new), "{block}");
        }
        let (found, left) = unmatched(block, &base, &inserted, &[128 << 10]);
        assert_eq!((found, left), (vec![Copy { to: 1000, from: 0, len: 1 << 20 }], 1000));
    }
}

#[test]
fn what_repeats_itself_is_found_in_few_copies() {
    for period in [1, 2, 63, 64, 65, 128] {
        let base: Vec<u8> = random(5, period).into_iter().cycle().take(50_000).collect();
        let (found, left) = unmatched(64, &base, &base, &[1000]);
        assert_eq!((found.len(), left), (1, 0), "{period}");
        let (found, left) = unmatched(64, &base, &base[7..40_007], &[1000]);
        assert!(found.len() <= 3 && left <= 2 * 64 + period, "{period}: {} {left}", found.len());
    }
}

/// A block whose weak sum is that of a run of one byte, and whose content is not.
#[test]
fn a_weak_sum_that_always_fits_costs_a_few_passes() {
    let block = 1024;
    let mut base = vec![b'x'; block];
    for (at, byte) in [(100, b'y'), (101, b'w'), (200, b'w'), (201, b'y')] {
        base[at] = byte;
    }
    let new = vec![b'x'; 200_000];
    let index = index(block as u32, &base, &range(&base));
    assert!(index.has(super::Rolling::of(&new[..block]).value()));
    let (found, hashed) = search(&index, &new, &range(&new), &[64 << 10]);
    assert!(found.is_empty());
    assert!(hashed > 0 && hashed <= most_hashed(&index, &range(&new)), "{hashed}");
    // Behind the run the search is what it was: rolling over one block earns four.
    let kept = random(8, block);
    base.extend_from_slice(&kept);
    let mut new = new;
    new.extend_from_slice(&random(9, 2 * block));
    new.extend_from_slice(&kept);
    let (found, _) = unmatched(block as u32, &base, &new, &[64 << 10]);
    let to = (new.len() - block) as u64;
    assert_eq!(found, [Copy { to, from: block as u64, len: block as u64 }]);
}

#[test]
fn behind_a_gap_the_same_offset_is_tried_first() {
    let zeros = vec![0; 10_000];
    let index = index(100, &zeros, &range(&zeros));
    let (found, _) = search(&index, &zeros, &[100..1100, 5000..6000], &[300]);
    let same = |at, len| Copy { to: at, from: at, len };
    assert_eq!(found, [same(100, 1000), same(5000, 1000)]);
}

#[test]
fn the_short_end_of_the_base_is_found_at_the_end_and_where_it_follows() {
    let base = random(1, 1050);
    let mut new = random(2, 500);
    new.extend_from_slice(&base[1000..]);
    let (found, left) = unmatched(100, &base, &new, &[77]);
    assert_eq!((found, left), (vec![Copy { to: 500, from: 1000, len: 50 }], 500));
    let mut new = base.clone();
    new.extend_from_slice(&random(2, 500));
    let (found, left) = unmatched(100, &base, &new, &[77]);
    assert_eq!((found, left), (vec![Copy { to: 0, from: 0, len: 1050 }], 500));
}

#[test]
fn nothing_to_find_and_nowhere_to_look_is_settled_at_once() {
    let mut found = Vec::new();
    let empty = Index::new(0);
    assert_eq!(Search::new(&empty, &KEY).next(0, b"abc", false, &mut found), 3);
    let base = random(1, 1000);
    let index = index(100, &base, &range(&base));
    let mut search = Search::new(&index, &KEY);
    assert_eq!(search.next(0, b"", true, &mut found), 0);
    assert_eq!(search.next(u64::MAX - 1, &base, false, &mut found), 1000);
    assert_eq!(search.next(u64::MAX - 1000, &base, true, &mut found), 1000);
    assert_eq!(found, [Copy { to: u64::MAX - 1000, from: 0, len: 1000 }]);
    // Shorter than two blocks: handed again, and nothing forgotten.
    let mut found = Vec::new();
    assert_eq!(search.next(0, &base[..199], false, &mut found), 0);
    assert_eq!(search.next(0, &base[..200], false, &mut found), 200);
    assert_eq!(found, [Copy { to: 0, from: 0, len: 200 }]);
}
