//! A large file, read by blocks whose chaining values are kept: what is unchanged beside an older
//! version is found by them, and they make the hash of the whole without another pass.
//!
//! 32 bytes a block are kept, and blocks grow with the file, so memory stays small.

use std::os::fd::OwnedFd;

use lsync_protocol::delta::tree::{self, Chain};
use lsync_protocol::entry::Entry;
use lsync_protocol::message::Hash;
use lsync_protocol::path::RelPath;

use super::holes::Data;
use super::{Finish, PASSES, Pass, ReadError, compare, open, read_at, sequential};
use crate::meta::{self, Stat};
use crate::root::Root;

/// Reads one large file by blocks.
#[derive(Debug)]
pub struct BlockReader {
    fd: OwnedFd,
    before: Stat,
    entry: Entry,
    block: u32,
    /// Of each block as it was read last.
    chains: Vec<Chain>,
    data: Data,
    /// It ended before its size.
    short: bool,
    pass: u32,
    buffer: Vec<u8>,
}

impl BlockReader {
    /// Opens a file for its first pass, in blocks of what `block` says for its size.
    ///
    /// # Errors
    /// [`ReadError`], never `TooLarge`.
    pub fn open(
        root: &Root,
        path: &RelPath,
        block: impl Fn(u64) -> u32,
    ) -> Result<BlockReader, ReadError> {
        let (fd, before) = open(root, path)?;
        sequential(&fd);
        Ok(BlockReader {
            fd,
            entry: before.entry(None),
            block: block(before.size),
            before,
            chains: Vec::new(),
            data: Data::default(),
            short: false,
            pass: 1,
            buffer: Vec::new(),
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

    /// Reads a block: whether it is other than in the pass before (in a first pass, each is), and
    /// its bytes. They are to be read in order; `None` behind the last.
    ///
    /// # Errors
    /// The operating system's; the reader is of no use after one.
    pub fn next_block(&mut self, index: u64) -> Result<Option<(bool, &[u8])>, std::io::Error> {
        if index >= self.blocks() {
            return Ok(None);
        }
        let at = index * u64::from(self.block);
        let size = u64::from(self.block).min(self.entry.size - at) as usize;
        read_at(&self.fd, at, size, &mut self.buffer)?;
        if self.buffer.len() < size {
            // Shrunk since: this pass ends here, and has to be repeated.
            self.short = true;
            self.entry.size = at + self.buffer.len() as u64;
            // Of the pass before there may be more.
            self.chains.truncate(self.blocks() as usize);
            if self.buffer.is_empty() {
                return Ok(None);
            }
        }
        let chain = tree::chain(at, &self.buffer);
        let differs = match self.chains.get_mut(index as usize) {
            Some(known) => std::mem::replace(known, chain) != chain,
            None => {
                self.chains.push(chain);
                true
            }
        };
        Ok(Some((differs, &self.buffer)))
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
        read_at(&self.fd, at, size, into)?;
        if into.len() < size {
            self.short = true;
            into.resize(size, 0);
        }
        Ok(())
    }

    /// The next bytes from `at` on, before `end`, that are not in a hole: where they begin and end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn data(&mut self, at: u64, end: u64) -> Result<Option<(u64, u64)>, std::io::Error> {
        Ok(self.data.next(&self.fd, at, end)?)
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

    /// Says at the end of a pass whether the file changed meanwhile. In the first pass ranges were
    /// read again after their blocks, and what grew may have changed as well: then the two need not
    /// be of one version, and it is read once more. A further pass reads everything once.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn finish(&self) -> Result<Finish, std::io::Error> {
        let after = meta::stat_fd(&self.fd)?;
        let pass = compare(&self.before, &after);
        Ok(match (pass, self.short) {
            (Pass::Settled, false) => Finish::Settled,
            (Pass::Grown, false) if self.pass > 1 => Finish::Unsettled,
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
        self.data = Data::default();
        self.short = false;
        self.pass += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::FileExt;

    const BLOCK: u32 = 16 * 1024;

    fn all(reader: &mut BlockReader) -> (Vec<u64>, Vec<u8>) {
        let (mut differ, mut content) = (Vec::new(), Vec::new());
        let mut index = 0;
        while let Some((differs, bytes)) = reader.next_block(index).unwrap() {
            content.extend_from_slice(bytes);
            if differs {
                differ.push(index);
            }
            index += 1;
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
        let mut reader = BlockReader::open(&root, &path, |_| BLOCK).unwrap();
        assert_eq!(all(&mut reader), ((0..6).collect(), content.clone()));
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
}
