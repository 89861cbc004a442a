//! Ranges of a base copied into a stage, and what of them need not be read again.
//!
//! By copy_file_range: where the file system can share blocks the kernel does that by itself,
//! wherever the range is aligned for it; a FICLONERANGE of our own would add nothing. Where it
//! cannot be, by reading and writing.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lsync_protocol::delta::{self, tree};
use lsync_protocol::message::{Hash, Trouble};
use lsync_protocol::path::RelPath;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::base::{Base, block_at, chains_of, fill};
use super::chains::{Blocks, KEPT_BLOCKS, Running};
use super::large::{Content, Here, Stage, ZEROS};
use super::spread;
use super::write_at;
use crate::fault::Call;
use crate::meta;
use crate::trouble::{said, trouble};

/// Ranges that stand at another place than by a multiple of this cannot share what they stand on.
const SHARED: u64 = 4096;
/// How much is read, hashed and written at a time: it stays in the processor's cache.
const HASHED: u64 = 128 * 1024;
/// How much is copied before we ask again whether the link is still there.
const STRIDE: u64 = 4 << 20;

/// How a stage copies, and what it copied.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The kernel does not copy between these files.
    by_hand: bool,
    /// The file system does not tell holes.
    dense: bool,
    /// Known to be data in the base.
    data: Range<u64>,
    /// Blocks that are the base's are not copied: they are only there.
    pub(super) borrows: bool,
    /// Bytes of a block.
    pub(super) block: u32,
    /// Held by the thread that writes.
    writes: Mutex<()>,
    /// Blocks that are the base's: copied whole, to where they were, and untouched since.
    pub(super) same: Vec<bool>,
}

impl Copies {
    pub(super) fn new(borrows: bool) -> Copies {
        Copies { borrows, ..Copies::default() }
    }

    /// Something else is written there.
    pub(super) fn touch(&mut self, at: u64, len: u64) {
        if self.same.is_empty() || len == 0 {
            return;
        }
        let block = u64::from(self.block);
        let (first, last) = (at / block, (at + len - 1) / block);
        let most = self.same.len() as u64 - 1;
        if first <= most {
            self.same[first as usize..=last.min(most) as usize].fill(false);
        }
    }

    /// This range is now as in the base: which whole blocks that makes, as one range.
    fn note(&mut self, base: &Base, range: Range<u64>) -> Range<u64> {
        if self.same.is_empty() {
            let Some((block, count)) = base.blocks().or_else(|| self.blocks(base)) else {
                return range.end..range.end;
            };
            self.block = block;
            self.same = vec![false; count];
        }
        if self.block == 0 {
            return range.end..range.end;
        }
        let mut number = range.start.div_ceil(u64::from(self.block));
        let mut noted = number.saturating_mul(u64::from(self.block)).min(range.end);
        let first = noted;
        while let Some(same) = self.same.get_mut(number as usize) {
            let end = block_at(number, self.block, base.size()).end;
            if end > range.end {
                break;
            }
            *same = true;
            noted = end;
            number += 1;
        }
        first..noted
    }

    /// What is borrowed has to be known also where nothing is learnt of the blocks.
    fn blocks(&self, base: &Base) -> Option<(u32, usize)> {
        let block = delta::block(base.size());
        let count = base.size().div_ceil(u64::from(block));
        (self.borrows && count <= KEPT_BLOCKS).then_some((block, count as usize))
    }
}

impl Stage {
    /// Copies ranges of the base. An error is said once; what comes after it is dropped.
    pub(crate) fn copy(
        &self,
        copies: &[(u64, u64, u64)],
        stop: &AtomicBool,
        fault: impl Fn(Call, &RelPath) -> Result<(), Errno>,
    ) -> Result<(), Trouble> {
        let base = self.base(stop);
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let Content::Here(here) = &mut *content else { return Ok(()) };
        let done = match base {
            None => Err(said("there is no base to copy from")),
            Some(base) => copies.iter().try_for_each(|&(to, from, len)| {
                fault(Call::Write, &here.hint).map_err(trouble)?;
                fault(Call::Read, &base.path).map_err(trouble)?;
                here.copy(&base, to, from, len, stop)
            }),
        };
        if let Err(error) = &done {
            *content = Content::Failed(error.clone());
        }
        done
    }
}

impl Here {
    fn copy(
        &mut self,
        base: &Arc<Base>,
        to: u64,
        from: u64,
        len: u64,
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        self.touch(to, len, stop)?;
        if to != from {
            return self.bring(base, to, from, len, stop);
        }
        let all = from..from + len;
        if !self.copies.borrows {
            self.bring(base, to, from, len, stop)?;
            self.copies.note(base, all);
            return Ok(());
        }
        let there = self.copies.note(base, all.clone());
        self.base = Some(base.clone());
        // What is before and behind the whole blocks.
        self.running = None;
        self.bring(base, all.start, all.start, there.start - all.start, stop)?;
        self.bring(base, there.end, there.end, all.end - there.end, stop)
    }

    /// Copies all of a range.
    pub(super) fn bring(
        &mut self,
        base: &Base,
        to: u64,
        from: u64,
        len: u64,
        stop: &AtomicBool,
    ) -> Result<(), Trouble> {
        // Where nothing can be shared, content that comes from front to back is hashed on its way.
        let shifted = !to.abs_diff(from).is_multiple_of(SHARED);
        let running = self.running.take();
        if let Some(mut running) = running.filter(|running| shifted && running.at() == to) {
            let end = self.copy_hashed(base, from, len, &mut running, stop)?;
            self.end = self.end.max(end);
            self.running = Some(running);
            return Ok(());
        }
        let end = from + len;
        let mut at = from;
        while at < end {
            if stop.load(Ordering::Relaxed) {
                return Err(said("the link ended"));
            }
            let target = to + (at - from);
            let hole = self.hole_in(base, at, end)?;
            if hole > at {
                self.punch(target, hole - at)?;
                at = hole;
            } else {
                let most = self.copies.data.end.min(end).min(at + STRIDE) - at;
                let copied = self.transfer(base, at, target, most)?;
                self.end = self.end.max(target + copied);
                at += copied;
            }
        }
        Ok(())
    }

    /// Copies by reading and writing behind what was hashed so far: where the last write ended. What
    /// is whole blocks there is copied by several threads.
    fn copy_hashed(
        &self,
        base: &Base,
        from: u64,
        len: u64,
        running: &mut Running,
        stop: &AtomicBool,
    ) -> Result<u64, Trouble> {
        let block = running.block();
        let head = running.missing().min(len);
        let whole = (len - head).saturating_sub(1) / u64::from(block) * u64::from(block);
        let written = AtomicU64::new(self.copy_run(base, from, head, running, stop)?);
        let (to, middle) = (running.at(), from + head);
        let chains = spread::chains(block, to..to + whole, |range| {
            let mut part = Running::part(block, range.start);
            let from = middle + (range.start - to);
            let end = self.copy_run(base, from, range.end - range.start, &mut part, stop)?;
            written.fetch_max(end, Ordering::Relaxed);
            Ok(part.into_chains())
        })?;
        running.blocks(chains).ok_or_else(|| trouble(Errno::FBIG))?;
        let end = self.copy_run(base, middle + whole, len - head - whole, running, stop)?;
        Ok(written.into_inner().max(end))
    }

    /// Copies some of it, in order.
    fn copy_run(
        &self,
        base: &Base,
        from: u64,
        len: u64,
        running: &mut Running,
        stop: &AtomicBool,
    ) -> Result<u64, Trouble> {
        let mut written = 0;
        let mut buffer = vec![0; len.min(HASHED) as usize];
        let end = from + len;
        let mut at = from;
        while at < end {
            if stop.load(Ordering::Relaxed) {
                return Err(said("the link ended"));
            }
            let part = (end - at).min(HASHED) as usize;
            let part = &mut buffer[..part];
            fill(&base.fd, at, part).map_err(|_| shorter())?;
            // What was a hole becomes one again, as far as whole steps of zeros are.
            if part.iter().any(|&byte| byte != 0) {
                // The kernel lets one write at a time, and the others spin: they had better sleep.
                let _one = self.copies.writes.lock().unwrap_or_else(PoisonError::into_inner);
                write_at(&self.file, part, running.at()).map_err(trouble)?;
                written = running.at() + part.len() as u64;
            }
            running.update(part).ok_or_else(|| trouble(Errno::FBIG))?;
            at += part.len() as u64;
        }
        Ok(written)
    }

    /// Where a hole of the base ends that begins here; `at` where there is data, whose end is then
    /// known.
    fn hole_in(&mut self, base: &Base, at: u64, end: u64) -> Result<u64, Trouble> {
        if self.copies.data.contains(&at) {
            return Ok(at);
        }
        if !self.copies.dense {
            let data = match rustix::fs::seek(&base.fd, SeekFrom::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole up to the end; which may be before.
                Err(Errno::NXIO) if meta::stat_fd(&base.fd).map_err(trouble)?.size >= end => end,
                Err(Errno::NXIO) => return Err(shorter()),
                Err(_) => {
                    self.copies.dense = true;
                    at
                }
            };
            if data > at {
                return Ok(data.min(end));
            }
        }
        let until = match rustix::fs::seek(&base.fd, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at && !self.copies.dense => hole,
            _ => end,
        };
        self.copies.data = at..until;
        Ok(at)
    }

    /// Has a hole where the base has one. Behind everything that was written there is one already.
    fn punch(&self, at: u64, len: u64) -> Result<(), Trouble> {
        let mut at = at;
        let end = (at + len).min(self.end);
        if at >= end {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, flags, at, end - at).is_ok() {
            return Ok(());
        }
        while at < end {
            let step = (end - at).min(ZEROS.len() as u64);
            write_at(&self.file, &ZEROS[..step as usize], at).map_err(trouble)?;
            at += step;
        }
        Ok(())
    }

    /// Copies some of a range: how much.
    fn transfer(&mut self, base: &Base, from: u64, to: u64, len: u64) -> Result<u64, Trouble> {
        while !self.copies.by_hand {
            let (mut read, mut written) = (from, to);
            match rustix::fs::copy_file_range(
                &base.fd,
                Some(&mut read),
                &self.file,
                Some(&mut written),
                len as usize,
            ) {
                // The end, or a file system that says so of everything: reading tells.
                Ok(0) => break,
                Ok(copied) => return Ok(copied as u64),
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.copies.by_hand = true;
                }
                Err(error) => return Err(trouble(error)),
            }
        }
        let mut buffer = vec![0; len.min(256 * 1024) as usize];
        loop {
            match rustix::io::pread(&base.fd, &mut buffer[..], from) {
                Ok(0) => return Err(shorter()),
                Ok(n) => {
                    write_at(&self.file, &buffer[..n], to).map_err(trouble)?;
                    return Ok(n as u64);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(trouble(error)),
            }
        }
    }

    /// The hash of the whole from the chaining values of its blocks, of which only those are read
    /// that are not the base's. `None` where there is nothing to save.
    ///
    /// A store through a shared mapping that was written to before the base was opened may change it
    /// without a new time; like every look at times here, this does not see it.
    pub(super) fn compose(
        &self,
        size: u64,
        stop: &AtomicBool,
        fault: &impl Fn(Call) -> Result<(), Errno>,
    ) -> Result<Option<(Hash, Option<Blocks>)>, Trouble> {
        let Some(base) = &self.base else { return Ok(None) };
        if !self.copies.same.iter().any(|&same| same) {
            return Ok(None);
        }
        let known = base.proven().filter(|(block, _)| *block == self.copies.block);
        let Some((block, mut chains)) = known else { return Ok(None) };
        let count = size.div_ceil(u64::from(block));
        if count > 2 * chains.len() as u64 + 1024 {
            return Ok(None);
        }
        let place = |number: usize| block_at(number as u64, block, size);
        chains.resize(count as usize, None);
        for (number, chain) in chains.iter_mut().enumerate() {
            let same = self.copies.same.get(number).is_some_and(|&same| same);
            // The last block of one of the two may be shorter than the other's.
            if !same || place(number) != block_at(number as u64, block, base.size()) {
                *chain = None;
            }
        }
        let read = |at: u64, into: &mut [u8]| {
            if stop.load(Ordering::Relaxed) {
                return Err(said("the link ended"));
            }
            fault(Call::Check).and_then(|()| self.read(at, into)).map_err(trouble)
        };
        let mut buffer = Vec::new();
        let mut number = 0;
        while number < chains.len() {
            let run = chains[number..].iter().take_while(|chain| chain.is_none()).count();
            if run > 0 {
                let range = place(number).start..place(number + run - 1).end;
                let mut found = chains[number..].iter_mut();
                chains_of(block, range, &mut buffer, read, |_, chain| {
                    if let Some(slot) = found.next() {
                        *slot = Some(chain);
                    }
                })?;
            }
            number += run.max(1);
        }
        let chains: Option<Vec<_>> = chains.into_iter().collect();
        let root = |chains: &Vec<_>| tree::root(block, size, chains);
        Ok(chains.and_then(|chains| {
            let root = root(&chains)?;
            Some((*root.as_bytes(), Some(Blocks { block, chains })))
        }))
    }
}

fn shorter() -> Trouble {
    said("the base is shorter than it was")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::root::Root;
    use crate::stage::Names;
    use proptest::prelude::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    const BLOCK: u32 = 16 << 10;

    /// What happens to a stage.
    #[derive(Debug, Clone)]
    enum Deed {
        /// Blocks stay where they are.
        Keep {
            first: u64,
            count: u64,
        },
        Copy {
            to: u64,
            from: u64,
            len: u64,
        },
        Data {
            at: u64,
            len: u64,
        },
    }

    fn deed(size: u64) -> impl Strategy<Value = Deed> {
        let blocks = size.div_ceil(u64::from(BLOCK));
        prop_oneof![
            3 => (0..blocks, 1..6u64).prop_map(|(first, count)| Deed::Keep { first, count }),
            1 => (0..size + 9000, 0..size, 1..90_000u64)
                .prop_map(|(to, from, len)| Deed::Copy { to, from, len }),
            1 => (0..size + 9000, 1..40_000u64).prop_map(|(at, len)| Deed::Data { at, len }),
        ]
    }

    fn put(model: &mut Vec<u8>, at: u64, bytes: &[u8]) {
        let end = at as usize + bytes.len();
        model.resize(model.len().max(end), 0);
        model[at as usize..end].copy_from_slice(bytes);
    }

    /// In which ways.
    #[derive(Debug, Clone, Copy, Default)]
    struct How {
        /// The file system tells no holes and copies nothing.
        plain: bool,
        /// What stays is not copied.
        borrows: bool,
        /// Nothing is known of the base's blocks.
        unknown: bool,
        /// In the end it all is to be here.
        owns: bool,
    }

    /// Plays deeds; says whether anything was spared.
    fn play(deeds: &[Deed], size: u64, holes: &[u64], end: u64, how: How) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        file.set_len(size).unwrap();
        let mut old = vec![0; size as usize];
        blake3::Hasher::new().update(b"old").finalize_xof().fill(&mut old);
        for (number, bytes) in old.chunks_mut(8192).enumerate() {
            if holes.contains(&(number as u64)) {
                bytes.fill(0);
            } else {
                file.write_at(bytes, number as u64 * 8192).unwrap();
            }
        }
        let root = Root::open(dir.path()).unwrap();
        let path = RelPath::new(&b"f"[..]).unwrap();
        let base = Arc::new(Base::open(&root, &path, None, &Arc::default()).unwrap().rested());
        if !how.unknown {
            base.keep(BLOCK);
            let read = |at, into: &mut [u8]| base.read(at, into);
            chains_of(BLOCK, 0..size, &mut Vec::new(), read, |at, chain| base.learn(&at, chain))
                .unwrap();
        }
        let stage = Stage::new(1, &Arc::default());
        let here = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        stage.open(&Names::new(7), Ok(Arc::new(here)), &RelPath::root(), 0, how.borrows).unwrap();
        stage.set_base(Some(base));
        if let Content::Here(here) = &mut *stage.content.lock().unwrap() {
            (here.copies.by_hand, here.copies.dense) = (how.plain, how.plain);
        }
        let (never, well) = (AtomicBool::new(false), |_: Call, _: &RelPath| Ok(()));
        let mut model = Vec::new();
        for (number, deed) in deeds.iter().enumerate() {
            let (to, from, len) = match *deed {
                Deed::Data { at, len } => {
                    let bytes = vec![number as u8; len as usize];
                    stage.write(at, &bytes, &never, well).unwrap();
                    put(&mut model, at, &bytes);
                    continue;
                }
                Deed::Copy { to, from, len } => (to, from, len.min(size - from)),
                Deed::Keep { first, count } => {
                    let from = first * u64::from(BLOCK);
                    (from, from, (count * u64::from(BLOCK)).min(size - from))
                }
            };
            stage.copy(&[(to, from, len)], &never, well).unwrap();
            put(&mut model, to, &old[from as usize..][..len as usize]);
        }
        model.resize(end as usize, 0);
        let mut here = stage.take(&never).unwrap();
        let spared = here.copies.same.iter().any(|&same| same);
        if how.owns {
            here.own(end, &never).unwrap();
        }
        let hash = *blake3::hash(&model).as_bytes();
        let blocks = here.check(end, &hash, &never, |_| Ok(())).unwrap();
        if let Some(blocks) = blocks {
            let root = tree::root(blocks.block, end, &blocks.chains);
            assert_eq!(root, Some(blake3::hash(&model)));
        }
        let mut found = vec![0; end as usize];
        here.read(0, &mut found).unwrap();
        assert!(found == model);
        assert_eq!(rustix::fs::fstat(&here.file).unwrap().st_size as u64, end);
        // What is not in its own file is in the base, at its place.
        let mut found = old;
        found.resize(end as usize, 0);
        let mut at = 0;
        while let Some(part) = here.own_part(at, end) {
            fill(&here.file, part.start, &mut found[part.start as usize..part.end as usize])
                .unwrap();
            at = part.end;
        }
        assert!(found == model);
        assert!(
            how.borrows && !how.owns || here.own_part(0, end).is_none_or(|all| all == (0..end))
        );
        spared
    }

    #[test]
    fn blocks_that_stay_are_spared_by_any_way_of_copying() {
        let size = 10 * u64::from(BLOCK) + 5;
        let deeds = [Deed::Keep { first: 0, count: 20 }, Deed::Data { at: 9, len: 50_000 }];
        for (plain, borrows) in [(false, false), (true, false), (false, true), (true, true)] {
            let how = How { plain, borrows, ..How::default() };
            assert!(play(&deeds, size, &[], size, how));
            assert!(play(&deeds, size, &[3, 4, 15, 20], size + 7, how));
            assert!(play(&deeds, size, &[3, 4, 15, 20], size + 7, How { owns: true, ..how }));
        }
    }

    #[test]
    fn what_is_borrowed_takes_no_space() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), vec![7; 4 << 20]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let path = RelPath::new(&b"f"[..]).unwrap();
        let base = Arc::new(Base::open(&root, &path, None, &Arc::default()).unwrap());
        let stage = Stage::new(1, &Arc::default());
        let here = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        stage.open(&Names::new(7), Ok(Arc::new(here)), &RelPath::root(), 0, true).unwrap();
        stage.set_base(Some(base));
        let (never, well) = (AtomicBool::new(false), |_: Call, _: &RelPath| Ok(()));
        stage.copy(&[(0, 0, 4 << 20)], &never, well).unwrap();
        stage.write(100_000, b"changed", &never, well).unwrap();
        let mut here = stage.take(&never).unwrap();
        let mut content = vec![7; 4 << 20];
        content[100_000..100_007].copy_from_slice(b"changed");
        let hash = *blake3::hash(&content).as_bytes();
        here.check(4 << 20, &hash, &never, |_| Ok(())).unwrap();
        assert_eq!(here.own_part(0, 4 << 20), Some(6 << 14..7 << 14));
        let taken = rustix::fs::fstat(&here.file).unwrap().st_blocks as u64 * 512;
        assert!(taken <= 64 << 10, "{taken}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn a_stage_is_what_was_done_to_it(
            (size, deeds, holes, end) in (1..200_000u64).prop_flat_map(|size| (
                Just(size),
                proptest::collection::vec(deed(size), 1..12),
                proptest::collection::vec(0..25u64, 0..12),
                0..2 * size,
            )),
            (plain, borrows, unknown, owns) in any::<(bool, bool, bool, bool)>(),
        ) {
            play(&deeds, size, &holes, end, How { plain, borrows, unknown, owns });
        }
    }
}
