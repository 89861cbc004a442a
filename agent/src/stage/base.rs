//! The base of a stage: a file whose content the stage shares. It is opened once, read for sums and
//! copied from; what its name stands for later does not matter.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use blake3::Hasher;
use blake3::hazmat::HasherExt;
use lsync_protocol::delta::tree::{self, Chain};
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::OpId;
use lsync_protocol::path::RelPath;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::chains::{Blocks, KEPT_BLOCKS};
use super::versions::{Versions, is_local};
use crate::meta::{self, Stat};
use crate::read;
use crate::root::Root;

/// How much is read at a time, unless a block is larger.
pub(crate) const STEP: usize = 1 << 20;

/// The most bytes of chaining values kept of all bases; a base that gets no room is simply read
/// back in the end.
const KEPT_BYTES: usize = 64 << 20;

/// An open base.
#[derive(Debug)]
pub(crate) struct Base {
    pub(super) fd: OwnedFd,
    /// Where it stood.
    pub(crate) path: RelPath,
    /// As it was before the first byte was read.
    stat: Stat,
    /// Nobody can change the content any more and leave `stat` as it is.
    telling: bool,
    /// Its blocks, where it is a version that we put in place, untouched since.
    version: Option<Arc<Blocks>>,
    kept: Mutex<Kept>,
    /// Bytes kept of all bases.
    all: Arc<AtomicUsize>,
}

/// What is known of the blocks.
#[derive(Debug, Default)]
struct Kept {
    /// Bytes of a block, once something is kept.
    block: Option<u32>,
    /// There was no room.
    declined: bool,
    chains: Vec<Option<Chain>>,
    bytes: usize,
}

impl Base {
    /// Opens what stands at a path, if it is a file that may be read; and knows its blocks, if it is
    /// the version that is asked for.
    pub(crate) fn open(
        root: &Root,
        path: &RelPath,
        version: Option<(&Versions, OpId)>,
        all: &Arc<AtomicUsize>,
    ) -> Option<Base> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (fd, stat) = read::open(root, path).ok()?;
        // A change in the tick in which we looked would leave the time as it is. The coarsest ticks
        // are 2 seconds long.
        let rested = (stat.ctime.sec.saturating_add(2), stat.ctime.nsec)
            <= (now.as_secs() as i64, now.subsec_nanos());
        let version = version.and_then(|(versions, id)| versions.find(id, &stat));
        Some(Base {
            telling: version.is_some() || rested && is_local(&fd),
            fd,
            path: path.clone(),
            stat,
            version,
            kept: Mutex::default(),
            all: all.clone(),
        })
    }

    /// As one that nobody changed for long.
    #[cfg(test)]
    pub(super) fn rested(mut self) -> Base {
        self.telling = true;
        self
    }

    /// Its size when it was opened.
    pub(crate) fn size(&self) -> u64 {
        self.stat.size
    }

    /// Which file it is.
    pub(crate) fn identity(&self) -> Identity {
        self.stat.identity()
    }

    /// Is it the version that was asked for?
    pub(crate) fn is_known(&self) -> bool {
        self.version.is_some()
    }

    /// May it become a version, once its blocks are known?
    pub(crate) fn may_grow(&self) -> bool {
        self.telling && self.stat.nlink == 1
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chaining values of blocks of this size will be learnt.
    pub(crate) fn keep(&self, block: u32) {
        let mut kept = self.lock();
        if kept.block.is_some() || kept.declined || self.version.is_some() {
            return;
        }
        let count = self.size().div_ceil(u64::from(block));
        // One more for each block: where the stage notes what it copied.
        let bytes =
            (count.min(KEPT_BLOCKS) as usize).saturating_mul(size_of::<Option<Chain>>() + 1);
        if !self.telling || count > KEPT_BLOCKS {
            kept.declined = true;
        } else if self.all.fetch_add(bytes, Ordering::Relaxed) + bytes > KEPT_BYTES {
            self.all.fetch_sub(bytes, Ordering::Relaxed);
            kept.declined = true;
        } else {
            kept.chains = vec![None; count as usize];
            kept.bytes = bytes;
            kept.block = Some(block);
        }
    }

    /// Notes the chaining value of a range, if it is one of the blocks.
    pub(crate) fn learn(&self, range: &Range<u64>, chain: Chain) {
        let mut kept = self.lock();
        let Some(block) = kept.block else { return };
        let number = range.start / u64::from(block);
        let whole = *range == block_at(number, block, self.size());
        if let Some(slot) = kept.chains.get_mut(number as usize).filter(|_| whole) {
            *slot = Some(chain);
        }
    }

    /// Bytes of the blocks that are known, and how many there are.
    pub(super) fn blocks(&self) -> Option<(u32, usize)> {
        if let Some(version) = &self.version {
            return Some((version.block, version.chains.len()));
        }
        let kept = self.lock();
        kept.block.map(|block| (block, kept.chains.len()))
    }

    /// The chaining values of its blocks, as far as known: `None` when it may have changed since
    /// the first byte was read.
    pub(super) fn proven(&self) -> Option<(u32, Vec<Option<Chain>>)> {
        let now = meta::stat_fd(&self.fd).ok()?;
        if !self.is_still(&now) || !self.telling {
            return None;
        }
        if let Some(version) = &self.version {
            return Some((version.block, version.chains.iter().copied().map(Some).collect()));
        }
        let mut kept = self.lock();
        let block = kept.block?;
        Some((block, std::mem::take(&mut kept.chains)))
    }

    /// Is from now on a version, if all of its blocks are known, and nobody has changed it since the
    /// first was read, and it can grow where it stands: it has no other name and may be written to.
    pub(crate) fn become_version(&self, root: &Root, versions: &Versions, id: OpId) -> bool {
        let blocks = {
            let kept = self.lock();
            let chains: Option<Vec<Chain>> = kept.chains.iter().copied().collect();
            match (kept.block, chains) {
                (Some(block), Some(chains)) if !chains.is_empty() => Blocks { block, chains },
                _ => return false,
            }
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Ok(file) = root.open_at(self.path.as_bytes(), flags) else { return false };
        let Ok(now) = meta::stat_fd(&file) else { return false };
        self.may_grow() && self.is_still(&now) && versions.adopt(id, now, blocks)
    }

    /// Is this what it was before the first byte was read?
    fn is_still(&self, now: &Stat) -> bool {
        now.identity() == self.stat.identity()
            && now.size == self.stat.size
            && now.mtime == self.stat.mtime
            && now.ctime == self.stat.ctime
    }

    /// Reads all of a range.
    ///
    /// # Errors
    /// The operating system's; EIO where it ends before.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        fill(&self.fd, at, into)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.all.fetch_sub(self.lock().bytes, Ordering::Relaxed);
    }
}

/// Where a block of a content lies.
pub(super) fn block_at(number: u64, block: u32, size: u64) -> Range<u64> {
    let start = number.saturating_mul(u64::from(block));
    start..start.saturating_add(u64::from(block)).min(size)
}

/// Reads all of a range.
pub(crate) fn fill(fd: &OwnedFd, at: u64, into: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < into.len() {
        match rustix::io::pread(fd, &mut into[filled..], at + filled as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => filled += n,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The chaining values of the blocks of a range, which begins at one; read in steps, so that a
/// large block takes no more memory than a small one.
///
/// # Errors
/// Those of `read`.
pub(crate) fn chains_of<E>(
    block: u32,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    mut found: impl FnMut(Range<u64>, Chain),
) -> Result<(), E> {
    let block = u64::from(block);
    let mut at = range.start;
    while at < range.end {
        let most = (range.end - at).min((STEP as u64).max(block));
        if block <= STEP as u64 {
            buffer.resize(most as usize, 0);
            read(at, buffer)?;
            for bytes in buffer.chunks(block as usize) {
                let end = at + bytes.len() as u64;
                found(at..end, tree::chain(at, bytes));
                at = end;
            }
        } else {
            let (start, end) = (at, at + most);
            let mut hasher = Hasher::new();
            hasher.set_input_offset(start);
            while at < end {
                let step = (end - at).min(STEP as u64);
                buffer.resize(step as usize, 0);
                read(at, buffer)?;
                hasher.update(buffer);
                at += step;
            }
            found(start..end, hasher.finalize_non_root());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn blocks_of_any_size_have_their_chaining_values() {
        let content: Vec<u8> = (0..(5 << 20) + 777).map(|i: usize| (i * 31 % 251) as u8).collect();
        for block in [16 << 10, 1 << 20, 2 << 20, 4 << 20] {
            let mut chains = Vec::new();
            let read = |at: u64, into: &mut [u8]| {
                into.copy_from_slice(&content[at as usize..][..into.len()]);
                Ok::<_, ()>(())
            };
            let mut next = 0;
            chains_of(block, 0..content.len() as u64, &mut Vec::new(), read, |range, chain| {
                assert_eq!(range.start, next);
                next = range.end;
                chains.push(chain);
            })
            .unwrap();
            assert_eq!(
                tree::root(block, content.len() as u64, &chains),
                Some(blake3::hash(&content)),
                "{block}"
            );
        }
    }

    #[test]
    fn what_is_kept_of_all_bases_is_bounded_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        file.set_len(KEPT_BLOCKS << 14).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let path = RelPath::new(&b"f"[..]).unwrap();
        let all = Arc::default();
        let open = || Base::open(&root, &path, None, &all).unwrap().rested();
        let bases: Vec<Base> = (0..20)
            .map(|_| {
                let base = open();
                base.keep(1 << 14);
                base
            })
            .collect();
        let kept = bases.iter().filter(|base| base.blocks().is_some()).count();
        assert!((5..20).contains(&kept), "{kept}");
        assert!(all.load(Ordering::Relaxed) <= KEPT_BYTES);
        drop(bases);
        assert_eq!(all.load(Ordering::Relaxed), 0);
        file.set_len((KEPT_BLOCKS << 14) + 1).unwrap();
        let base = open();
        base.keep(1 << 14);
        assert_eq!(base.blocks(), None, "too many blocks");
    }
}
