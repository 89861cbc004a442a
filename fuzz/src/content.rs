//! Content: sums of an old version as an agent sends them, and what is found of it in a new one.

use lsync_protocol::delta::search::{Copy, Index, Search, Succession};
use lsync_protocol::delta::sums::put_sums;

use crate::Taken;

/// Copies go upwards, do not overlap, and end where the content ends.
fn assert_copies(found: &[Copy], size: usize) {
    let mut end = 0;
    for copy in found {
        assert!(copy.len > 0 && copy.to >= end, "copies overlap");
        end = copy.to + copy.len;
        assert!(end <= size as u64, "a copy of what is not there");
    }
}

/// Sums as an agent sends them, of which nothing need be true.
pub fn sums(bytes: &[u8]) {
    let mut taken = Taken(bytes);
    let block = match taken.below(4) {
        0 => taken.below(1 << 24) as u32,
        shift => 1 << (9 + shift),
    };
    let mut index = Index::new(block);
    for _ in 0..taken.below(8) {
        let (offset, len) = (taken.below(1 << 24), taken.below(1 << 20));
        let most = taken.below(200) as usize;
        let before = (index.len(), index.bytes());
        if index.add(offset, len, taken.bytes(most)).is_err() {
            assert_eq!((index.len(), index.bytes()), before, "refused, and changed all the same");
        }
    }
    let content = taken.0;
    let mut found = Vec::new();
    let settled = Search::new(&index, &[7; 32]).next(0, content, true, &mut found);
    assert_eq!(settled, content.len());
    assert_copies(&found, content.len());
    let mut next = Succession::new(index.block());
    for copy in found {
        next.copied(&index, copy);
    }
    let _ = next.into_index(content.len() as u64);
}

/// An old content and a new one, searched in windows of any size: what is copied and what is sent make
/// the new one, and so with what becomes of it next.
pub fn delta(bytes: &[u8]) {
    const KEY: [u8; 32] = [9; 32];
    let mut taken = Taken(bytes);
    let block = [16, 64, 700, 1024][taken.byte() as usize % 4];
    let windows = [taken.below(8192), taken.below(8192), taken.below(512)].map(|n| n as usize + 1);
    // Pieces, from which both are put together: so there is something to be found.
    let pieces: Vec<Vec<u8>> = (0..4)
        .map(|_| {
            let (piece, times) = (taken.part(), taken.byte());
            piece.repeat(usize::from(times) % 16 + 1)
        })
        .collect();
    let mut content = || -> Vec<u8> {
        let parts = taken.byte() % 12;
        (0..parts).flat_map(|_| pieces[taken.byte() as usize % 4].clone()).collect()
    };
    let (old, new, newer) = (content(), content(), content());
    let mut sums = Vec::new();
    put_sums(&KEY, block, &old, &mut sums);
    let mut index = Index::new(block);
    let added = index.add(0, old.len() as u64, &sums);
    assert_eq!(added.is_ok(), !old.is_empty());
    let next = sent(&index, &KEY, &old, &new, &windows);
    if let Some(index) = next.into_index(new.len() as u64) {
        sent(&index, &KEY, &new, &newer, &windows);
    }
}

/// Sends a content as a source does, and checks that it arrives.
fn sent(index: &Index, key: &[u8; 32], old: &[u8], new: &[u8], windows: &[usize; 3]) -> Succession {
    let mut search = Search::new(index, key);
    let (mut found, mut at, mut turn, mut window) = (Vec::new(), 0, 0, 0);
    while at < new.len() {
        // What was not settled comes again, with more behind it.
        window += windows[turn % 3];
        turn += 1;
        let end = (at + window).min(new.len());
        let last = end == new.len();
        let settled = search.next(at as u64, &new[at..end], last, &mut found);
        assert!(settled <= end - at && (!last || settled == end - at));
        let enough = end - at >= 2 * index.block() as usize;
        assert!(last || !enough || settled > index.block() as usize, "it does not go on");
        at += settled;
        window = end - at;
    }
    assert_copies(&found, new.len());
    let mut next = Succession::new(index.block());
    let mut out: Vec<u8> = Vec::new();
    for copy in &found {
        let (to, from, len) = (copy.to as usize, copy.from as usize, copy.len as usize);
        next.added(key, out.len() as u64, &new[out.len()..to]);
        out.extend_from_slice(&new[out.len()..to]);
        next.copied(index, *copy);
        out.extend_from_slice(&old[from..from + len]);
    }
    next.added(key, out.len() as u64, &new[out.len()..]);
    out.extend_from_slice(&new[out.len()..]);
    assert!(out == new, "what arrives is not what was sent");
    next
}
