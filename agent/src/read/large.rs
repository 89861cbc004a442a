//! A large file, read by blocks whose chaining values are kept: what is unchanged beside an older
//! version is found by them, and they make the hash of the whole without another pass.
//!
//! 32 bytes a block are kept, and blocks grow with the file, so memory stays small.

use std::ops::Range;
use std::os::fd::OwnedFd;

use lsync_protocol::delta::tree::{self, Chain};
use lsync_protocol::entry::Entry;
use lsync_protocol::frame::PIECE;
use lsync_protocol::message::Hash;
use lsync_protocol::path::RelPath;
use rustix::io::Errno;

use super::holes::Data;
use super::{PASSES, Pass, ReadError, compare, open, read_at, read_into, sequential};
use crate::fault::{Call, OnDemand};
use crate::meta::{self, Stat};
use crate::root::Root;

/// What a pass over a large file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It did not change: commit it.
    Settled,
    /// Commit it as it was read; it has changed since, so its path has to be looked at again.
    Unsettled,
    /// It changed while it was read: call [`FileReader::again`] and read another pass.
    Again,
}

/// Reads one large file by blocks.
#[derive(Debug)]
pub struct FileReader {
    fd: OwnedFd,
    before: Stat,
    entry: Entry,
    block: u32,
    /// Of each block as it was read last.
    chains: Vec<Chain>,
    /// Of what is read in order, and of what is asked for.
    holes: Data,
    data: Data,
    /// It ended before its size.
    short: bool,
    /// Ranges were read apart from their blocks in this pass.
    reread: bool,
    pass: u32,
    /// Where to read on.
    next: u64,
    /// What was read last, and where it begins.
    buffer: Vec<u8>,
    at: u64,
    /// What of it does not stand in a hole, and which of its blocks are other than before.
    filled: Range<u64>,
    differ: Vec<bool>,
    path: RelPath,
    faults: OnDemand,
}

impl FileReader {
    /// Opens a file for its first pass, in blocks of what `block` says for its size.
    ///
    /// # Errors
    /// [`ReadError`], never `TooLarge`.
    pub fn open(
        root: &Root,
        path: &RelPath,
        block: impl Fn(u64) -> u32,
    ) -> Result<FileReader, ReadError> {
        let (fd, before) = open(root, path)?;
        sequential(&fd);
        Ok(FileReader {
            fd,
            entry: before.entry(None),
            block: block(before.size),
            before,
            chains: Vec::new(),
            holes: Data::default(),
            data: Data::default(),
            short: false,
            reread: false,
            pass: 1,
            buffer: Vec::new(),
            next: 0,
            at: 0,
            filled: 0..0,
            differ: Vec::new(),
            path: path.clone(),
            faults: root.faults().clone(),
        })
    }

    /// The file as it was before the first byte of this pass was read.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Which file it is, whatever its name stands for by now.
    #[must_use]
    pub fn identity(&self) -> lsync_protocol::handshake::Identity {
        self.before.identity()
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block(&self) -> u32 {
        self.block
    }

    /// How many blocks there are.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.entry.size.div_ceil(u64::from(self.block))
    }

    /// Begins behind whole blocks of which it is believed what their chaining values are.
    pub fn behind(&mut self, chains: &[Chain]) {
        let most = usize::try_from(self.entry.size / u64::from(self.block)).unwrap_or(usize::MAX);
        self.chains = chains[..chains.len().min(most)].to_vec();
        self.next = self.chains.len() as u64 * u64::from(self.block);
    }

    /// The chaining value of the `len` bytes, at least one and no more than a block, that begin with
    /// this block, apart from reading in order; `None` where the file ends before.
    ///
    /// # Errors
    /// The operating system's.
    pub fn chain_of(&self, index: u64, len: u32) -> Result<Option<Chain>, std::io::Error> {
        let at = index * u64::from(self.block);
        let mut bytes = Vec::new();
        read_at(&self.fd, at, len as usize, &mut bytes)?;
        Ok((bytes.len() == len as usize).then(|| tree::chain(at, &bytes)))
    }

    /// The chaining values of its blocks, once all were read.
    #[must_use]
    pub fn into_chains(self) -> Vec<Chain> {
        self.chains
    }

    /// What was read last: where it begins, and its bytes.
    #[must_use]
    pub fn last(&self) -> (u64, &[u8]) {
        (self.at, &self.buffer)
    }

    /// Reads on, at least a block: which range. `None` at the end of the pass.
    ///
    /// # Errors
    /// The operating system's; the reader is of no use after one.
    pub fn read_on(&mut self) -> Result<Option<Range<u64>>, std::io::Error> {
        let at = self.next;
        if at >= self.entry.size || self.short {
            return Ok(None);
        }
        let size = u64::from(self.block).max(PIECE as u64).min(self.entry.size - at);
        let got = self.fill(at, size)?;
        self.buffer.truncate(got);
        self.next = at + got as u64;
        if got < size as usize {
            // Shrunk since: this pass ends here, and has to be repeated.
            self.short = true;
            self.entry.size = self.next;
            // Of the pass before there may be more.
            self.chains.truncate(self.blocks() as usize);
            if got == 0 {
                return Ok(None);
            }
        }
        let first = (at / u64::from(self.block)) as usize;
        self.differ.clear();
        let mut start = at;
        for (index, bytes) in (first..).zip(self.buffer.chunks(self.block as usize)) {
            let chain = tree::chain(start, bytes);
            self.differ.push(match self.chains.get_mut(index) {
                Some(known) => std::mem::replace(known, chain) != chain,
                None => {
                    self.chains.push(chain);
                    true
                }
            });
            start += bytes.len() as u64;
        }
        Ok(Some(at..self.next))
    }

    /// Reads into the buffer, unless it begins in a hole: then zeros are there up to its end. How far
    /// it came.
    fn fill(&mut self, at: u64, size: u64) -> Result<usize, Errno> {
        self.faults.before(Call::Content, &self.path)?;
        let end = at + size;
        self.at = at;
        self.filled = end..end;
        self.buffer.resize(size as usize, 0);
        let Some(from) = self.holes.first(&self.fd, at, end)? else {
            self.buffer.fill(0);
            return Ok(size as usize);
        };
        let hole = (from - at) as usize;
        self.buffer[..hole].fill(0);
        let got = read_into(&self.fd, from, &mut self.buffer[hole..])?;
        self.filled = from..from + got as u64;
        Ok(hole + got)
    }

    /// Of what was read last, the blocks that are other than in the pass before (in a first pass,
    /// each is), and those of which `also` says so by their range. In a first pass nothing of it
    /// that is in a hole; in a later one zeros too, for the other side may have something else.
    pub fn pieces(&self, also: impl Fn(Range<u64>) -> bool) -> Vec<(u64, &[u8])> {
        let end = self.at + self.buffer.len() as u64;
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut start = self.at;
        for &differs in &self.differ {
            let range = start..(start + u64::from(self.block)).min(end);
            start = range.end;
            if !differs && !also(range.clone()) {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => runs.push(range),
            }
        }
        let piece = |range: Range<u64>| {
            let (from, to) = (range.start.checked_sub(self.at)?, range.end.checked_sub(self.at)?);
            let bytes = self.buffer.get(from as usize..to as usize)?;
            (!bytes.is_empty()).then_some((range.start, bytes))
        };
        if self.pass > 1 {
            return runs.into_iter().filter_map(piece).collect();
        }
        let part = |run: Range<u64>| run.start.max(self.filled.start)..run.end.min(self.filled.end);
        runs.into_iter().map(part).filter_map(piece).collect()
    }

    /// The chains of the blocks read so far.
    #[must_use]
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// Reads a range of this pass again. What lies behind the end by now is zeros, and the pass has
    /// to be repeated.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read(&mut self, at: u64, size: usize, into: &mut Vec<u8>) -> Result<(), std::io::Error> {
        self.reread = true;
        self.faults.before(Call::Content, &self.path)?;
        read_at(&self.fd, at, size, into)?;
        if into.len() < size {
            self.short = true;
            into.resize(size, 0);
        }
        Ok(())
    }

    /// The next bytes from `at` on, before `end`, that are not in a hole: where they begin and end.
    /// Whoever passes over a hole has read it apart from its blocks, as by [`FileReader::read`].
    ///
    /// # Errors
    /// The operating system's.
    pub fn data(&mut self, at: u64, end: u64) -> Result<Option<(u64, u64)>, std::io::Error> {
        let data = self.data.next(&self.fd, at, end)?;
        self.reread |= data.is_none_or(|(from, _)| from > at);
        Ok(data)
    }

    /// Was it found to end before its size? What is behind need not be read: the pass is repeated.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.short
    }

    /// BLAKE3 of everything, once all blocks were read.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        if self.blocks() > 1 {
            return tree::root(self.block, self.entry.size, &self.chains)
                .map(|hash| *hash.as_bytes());
        }
        // One block is the root itself, which its chain does not tell; it was read last.
        let content = self.buffer.get(..usize::try_from(self.entry.size).ok()?)?;
        Some(*blake3::hash(content).as_bytes())
    }

    /// Says at the end of a pass whether the file changed meanwhile. Where ranges were read apart
    /// from their blocks, what grew may have changed as well: then the two need not be of one
    /// version, and it is read once more.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn finish(&self) -> Result<Finish, std::io::Error> {
        let after = meta::stat_fd(&self.fd)?;
        let pass = compare(&self.before, &after);
        Ok(match (pass, self.short) {
            (Pass::Settled, false) => Finish::Settled,
            (Pass::Grown, false) if !self.reread => Finish::Unsettled,
            _ if self.pass < PASSES => Finish::Again,
            _ => Finish::Unsettled,
        })
    }

    /// Begins another pass. Blocks keep their length.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn again(&mut self) -> Result<(), std::io::Error> {
        self.before = meta::stat_fd(&self.fd)?;
        self.entry = self.before.entry(None);
        self.chains.truncate(usize::try_from(self.blocks()).unwrap_or(usize::MAX));
        self.holes = Data::default();
        self.data = Data::default();
        self.short = false;
        self.reread = false;
        self.next = 0;
        self.buffer.clear();
        self.pass += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::FileExt;

    const BLOCK: u32 = 16 * 1024;

    /// Where pieces came from, and everything that was read.
    fn all(reader: &mut FileReader) -> (Vec<u64>, Vec<u8>) {
        let (mut differ, mut content) = (Vec::new(), Vec::new());
        while reader.read_on().unwrap().is_some() {
            content.extend_from_slice(&reader.buffer);
            differ.extend(reader.pieces(|_| false).iter().map(|(at, _)| at / P));
        }
        (differ, content)
    }

    #[test]
    fn blocks_make_the_hash_and_a_further_pass_tells_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        let mut content: Vec<u8> = (0..5 * BLOCK + 77).map(|i| (i * 7 / 3) as u8).collect();
        fs::write(&name, &content).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let path = RelPath::new(&b"f"[..]).unwrap();
        let mut reader = FileReader::open(&root, &path, |_| BLOCK).unwrap();
        assert_eq!(all(&mut reader), (vec![0], content.clone()));
        assert_eq!(reader.hash(), Some(*blake3::hash(&content).as_bytes()));
        assert_eq!(reader.finish().unwrap(), Finish::Settled);

        let file = fs::OpenOptions::new().write(true).open(&name).unwrap();
        file.write_at(b"other", u64::from(BLOCK) * 2 + 9).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(reader.finish().unwrap(), Finish::Again);
        reader.again().unwrap();
        content[BLOCK as usize * 2 + 9..][..5].copy_from_slice(b"other");
        assert_eq!(all(&mut reader), (vec![2], content.clone()));
        assert_eq!(reader.hash(), Some(*blake3::hash(&content).as_bytes()));

        // It ends early: what was read is what there is.
        reader.again().unwrap();
        file.set_len(u64::from(BLOCK) + 10).unwrap();
        content.truncate(BLOCK as usize + 10);
        assert_eq!(all(&mut reader), (vec![1], content.clone()));
        assert_eq!(reader.hash(), Some(*blake3::hash(&content).as_bytes()));
        assert_eq!(reader.finish().unwrap(), Finish::Unsettled, "the last pass");
    }

    #[test]
    fn a_hole_that_was_passed_over_and_is_filled_while_the_file_grows_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        file.write_at(&[1; B], 0).unwrap();
        file.write_at(&[2; B], 8 * P).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let size = 9 * P;
        for (from, again) in [(0, false), (4 * P, true)] {
            let mut reader = FileReader::open(&root, &path("f"), |_| BLOCK).unwrap();
            let data = reader.data(from, size).unwrap().unwrap();
            if data == (from, size) {
                return; // This file system has no holes.
            }
            assert_eq!(data.0, if again { 8 * P } else { 0 });
            // The stage has zeros there; of the hash these bytes are.
            file.write_at(&[3; B], 5 * P).unwrap();
            file.write_at(&[4; 10], file.metadata().unwrap().len()).unwrap();
            while reader.read_on().unwrap().is_some() {}
            let expected = if again { Finish::Again } else { Finish::Unsettled };
            assert_eq!(reader.finish().unwrap(), expected);
            file.set_len(0).unwrap();
            file.write_at(&[1; B], 0).unwrap();
            file.write_at(&[2; B], 8 * P).unwrap();
        }
    }

    const P: u64 = BLOCK as u64;
    const B: usize = BLOCK as usize;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    /// What a stage would hold, and which pieces came.
    fn pass(reader: &mut FileReader, stage: &mut Vec<u8>) -> Vec<u64> {
        let mut came = Vec::new();
        while reader.read_on().unwrap().is_some() {
            for (at, bytes) in reader.pieces(|_| false) {
                let end = at as usize + bytes.len();
                stage.resize(stage.len().max(end), 0);
                stage[at as usize..end].copy_from_slice(bytes);
                came.push(at);
            }
        }
        stage.resize(reader.entry().size as usize, 0);
        came
    }

    #[test]
    fn holes_are_skipped_and_hashed_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        file.write_at(b"begin", 0).unwrap();
        file.write_at(b"middle", 20 * P + 5).unwrap();
        file.set_len(40 * P + 7).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut reader = FileReader::open(&root, &path("f"), |_| BLOCK).unwrap();
        let mut stage = Vec::new();
        assert_eq!(pass(&mut reader, &mut stage), [0, 20 * P]);
        assert_eq!(reader.finish().unwrap(), Finish::Settled);
        let content = fs::read(dir.path().join("f")).unwrap();
        assert_eq!(stage, content);
        assert_eq!(reader.hash(), Some(*blake3::hash(&content).as_bytes()));
    }

    #[test]
    fn a_further_pass_brings_only_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        fs::write(&name, vec![7; 5 * B + 100]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut reader = FileReader::open(&root, &path("f"), |_| BLOCK).unwrap();
        let mut stage = Vec::new();
        assert_eq!(pass(&mut reader, &mut stage), [0]);
        let file = OpenOptions::new().write(true).open(&name).unwrap();
        let touch = |sec: u64| {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(sec);
            file.set_modified(time).unwrap();
        };
        file.write_at(b"other", 2 * P + 9).unwrap();
        touch(1);
        assert_eq!(reader.finish().unwrap(), Finish::Again);
        reader.again().unwrap();
        assert_eq!(pass(&mut reader, &mut stage), [2 * P]);
        // Shorter, then longer again with a hole where content was: no old byte may remain.
        file.set_len(P + 10).unwrap();
        touch(2);
        assert_eq!(reader.finish().unwrap(), Finish::Again);
        reader.again().unwrap();
        file.set_len(3 * P).unwrap();
        assert_eq!(pass(&mut reader, &mut stage), [P]);
        assert_eq!(reader.finish().unwrap(), Finish::Unsettled, "grown, and the last pass");
        let content = fs::read(&name).unwrap();
        assert_eq!(stage, content[..P as usize + 10]);
        assert_eq!(reader.hash(), Some(*blake3::hash(&stage).as_bytes()));
    }

    #[test]
    fn holes_made_between_passes_overwrite_what_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        fs::write(&name, vec![7; 4 * B]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut reader = FileReader::open(&root, &path("f"), |_| BLOCK).unwrap();
        let mut stage = Vec::new();
        pass(&mut reader, &mut stage);
        let file = OpenOptions::new().write(true).open(&name).unwrap();
        file.set_len(P).unwrap();
        file.set_len(3 * P).unwrap();
        assert_eq!(reader.finish().unwrap(), Finish::Again);
        reader.again().unwrap();
        assert_eq!(pass(&mut reader, &mut stage), [P]);
        assert_eq!(stage, fs::read(&name).unwrap());
        assert_eq!(reader.finish().unwrap(), Finish::Settled);
    }

    #[test]
    fn a_file_that_ends_early_is_as_long_as_what_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        fs::write(&name, vec![7; 4 * PIECE]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut reader = FileReader::open(&root, &path("f"), |_| BLOCK).unwrap();
        assert!(reader.read_on().unwrap().is_some());
        OpenOptions::new().write(true).open(&name).unwrap().set_len(PIECE as u64 + 3).unwrap();
        let mut stage = vec![7; PIECE];
        pass(&mut reader, &mut stage);
        assert_eq!(reader.entry().size, PIECE as u64 + 3);
        assert_eq!(reader.finish().unwrap(), Finish::Again);
    }
}
