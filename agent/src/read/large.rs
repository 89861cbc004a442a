//! A large file, read in pieces: holes skipped, hashed on the way, read again where it changed.
//!
//! Of each piece that was yielded 16 bytes are kept, so a further pass yields only what differs
//! and memory stays flat.

use std::os::fd::OwnedFd;

use blake3::Hasher;
use lsync_protocol::entry::Entry;
use lsync_protocol::frame::PIECE;
use lsync_protocol::message::Hash;
use lsync_protocol::path::RelPath;

use super::holes::Holes;
use super::{PASSES, Pass, ReadError, compare, open, read_at, sequential};
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

/// What the other side has of one piece.
type Sum = [u8; 16];

/// A piece that was never yielded: the other side has a hole there.
const HOLE: Sum = [0; 16];

/// Reads one large file.
#[derive(Debug)]
pub struct FileReader {
    fd: OwnedFd,
    before: Stat,
    entry: Entry,
    hasher: Hasher,
    /// Where the next piece begins.
    offset: u64,
    /// What of each piece was yielded last; indexed by offset / `PIECE`.
    sums: Vec<Sum>,
    holes: Holes,
    /// It ended before its size.
    short: bool,
    pass: u32,
    buffer: Vec<u8>,
}

impl FileReader {
    /// Opens a file for its first pass.
    ///
    /// # Errors
    /// [`ReadError`], never `TooLarge`.
    pub fn open(root: &Root, path: &RelPath) -> Result<FileReader, ReadError> {
        let (fd, before) = open(root, path)?;
        sequential(&fd);
        Ok(FileReader {
            fd,
            entry: before.entry(None),
            before,
            hasher: Hasher::new(),
            offset: 0,
            sums: Vec::new(),
            holes: Holes::default(),
            short: false,
            pass: 1,
            buffer: Vec::new(),
        })
    }

    /// The file as it was before the first byte of this pass was read. After a pass that hit the
    /// end early, its size is what was read.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Which file it is, whatever its name stands for by now.
    #[must_use]
    pub fn identity(&self) -> lsync_protocol::handshake::Identity {
        self.before.identity()
    }

    /// The next piece that the other side does not have: where it lies, and its bytes, at most
    /// [`PIECE`]. `None` at the end of the pass.
    ///
    /// # Errors
    /// The operating system's; the reader is of no use after one.
    pub fn next_piece(&mut self) -> Result<Option<(u64, &[u8])>, std::io::Error> {
        while self.offset < self.entry.size && !self.short {
            let at = self.offset;
            let size = (self.entry.size - at).min(PIECE as u64) as usize;
            let index = (at / PIECE as u64) as usize;
            let hole = self.holes.is_hole(&self.fd, at, size)?;
            if hole {
                self.buffer.clear();
                self.buffer.resize(size, 0);
            } else {
                read_at(&self.fd, at, size, &mut self.buffer)?;
            }
            let got = self.buffer.len();
            if got < size {
                // Shrunk since: this pass ends here, and has to be repeated.
                self.short = true;
                self.entry.size = at + got as u64;
                if got == 0 {
                    break;
                }
            }
            self.hasher.update(&self.buffer);
            self.offset = at + got as u64;
            if self.sums.len() <= index {
                self.sums.resize(index + 1, HOLE);
            }
            let sum = if hole && self.sums[index] == HOLE { HOLE } else { sum(&self.buffer) };
            if self.sums[index] != sum {
                self.sums[index] = sum;
                return Ok(Some((at, &self.buffer)));
            }
        }
        Ok(None)
    }

    /// BLAKE3 of everything this pass read, holes as zeros: of the whole content at its end.
    #[must_use]
    pub fn hash(&self) -> Hash {
        *self.hasher.finalize().as_bytes()
    }

    /// Says at the end of a pass whether the file changed meanwhile.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn finish(&self) -> Result<Finish, std::io::Error> {
        let after = meta::stat_fd(&self.fd)?;
        let pass = compare(&self.before, &after);
        Ok(match (pass, self.short) {
            (Pass::Settled, false) => Finish::Settled,
            (Pass::Grown, false) => Finish::Unsettled,
            _ if self.pass < PASSES => Finish::Again,
            _ => Finish::Unsettled,
        })
    }

    /// Begins another pass: [`FileReader::next_piece`] then yields only what differs from what it
    /// yielded before.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn again(&mut self) -> Result<(), std::io::Error> {
        self.before = meta::stat_fd(&self.fd)?;
        self.entry = self.before.entry(None);
        self.hasher = Hasher::new();
        self.offset = 0;
        self.holes = Holes::default();
        self.short = false;
        self.pass += 1;
        Ok(())
    }
}

/// What is remembered of a piece; its length counts.
fn sum(piece: &[u8]) -> Sum {
    let mut sum = [0; 16];
    sum.copy_from_slice(&blake3::hash(piece).as_bytes()[..16]);
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::FileExt;

    const P: u64 = PIECE as u64;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    /// What a stage would hold, and which pieces came.
    fn pass(reader: &mut FileReader, stage: &mut Vec<u8>) -> Vec<u64> {
        let mut came = Vec::new();
        while let Some((at, bytes)) = reader.next_piece().unwrap() {
            let end = at as usize + bytes.len();
            stage.resize(stage.len().max(end), 0);
            stage[at as usize..end].copy_from_slice(bytes);
            came.push(at);
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
        let mut reader = FileReader::open(&root, &path("f")).unwrap();
        let mut stage = Vec::new();
        assert_eq!(pass(&mut reader, &mut stage), [0, 20 * P]);
        assert_eq!(reader.finish().unwrap(), Finish::Settled);
        let content = fs::read(dir.path().join("f")).unwrap();
        assert_eq!(stage, content);
        assert_eq!(reader.hash(), *blake3::hash(&content).as_bytes());
    }

    #[test]
    fn a_further_pass_brings_only_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        fs::write(&name, vec![7; 5 * PIECE + 100]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut reader = FileReader::open(&root, &path("f")).unwrap();
        let mut stage = Vec::new();
        assert_eq!(pass(&mut reader, &mut stage).len(), 6);
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
        assert_eq!(reader.hash(), *blake3::hash(&stage).as_bytes());
    }

    #[test]
    fn holes_made_between_passes_overwrite_what_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        fs::write(&name, vec![7; 4 * PIECE]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut reader = FileReader::open(&root, &path("f")).unwrap();
        let mut stage = Vec::new();
        pass(&mut reader, &mut stage);
        let file = OpenOptions::new().write(true).open(&name).unwrap();
        file.set_len(P).unwrap();
        file.set_len(3 * P).unwrap();
        assert_eq!(reader.finish().unwrap(), Finish::Again);
        reader.again().unwrap();
        assert_eq!(pass(&mut reader, &mut stage), [P, 2 * P]);
        assert_eq!(stage, fs::read(&name).unwrap());
        assert_eq!(reader.finish().unwrap(), Finish::Settled);
    }

    #[test]
    fn a_file_that_ends_early_is_as_long_as_what_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("f");
        fs::write(&name, vec![7; 4 * PIECE]).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut reader = FileReader::open(&root, &path("f")).unwrap();
        assert!(reader.next_piece().unwrap().is_some());
        OpenOptions::new().write(true).open(&name).unwrap().set_len(P + 3).unwrap();
        let mut stage = vec![7; PIECE];
        pass(&mut reader, &mut stage);
        assert_eq!(reader.entry().size, P + 3);
        assert_eq!(reader.finish().unwrap(), Finish::Again);
    }
}
