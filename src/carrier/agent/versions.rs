//! The versions of large files that this link has put in place: what their blocks are, so that the
//! next change needs no round trip and nobody reads the old file.
//!
//! Versions go by the name on the target as the operations sent so far leave it. That is a guess;
//! the agent says whether what stands there still is the version meant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lsync_protocol::delta::search::Index;
use lsync_protocol::delta::tree::Chain;
use lsync_protocol::delta::{BLOCKS, block};
use lsync_protocol::handshake::Identity;
use lsync_protocol::message::{OpId, Outcome};
use lsync_protocol::path::RelPath;
use tokio::sync::Notify;

/// The most bytes of chaining values kept.
const KEPT_BYTES: usize = 64 << 20;
/// The most blocks of one version.
const KEPT_BLOCKS: u64 = 2 * BLOCKS;

/// A file that grew without having been read whole is read when it has rested so long,
const REST: Duration = Duration::from_secs(2);
/// or when it has not been for so long;
const AT_LAST: Duration = Duration::from_secs(60);
/// but not before so many times what the last reading took has passed.
const SPARING: u32 = 20;

/// A version of a large file.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// The source's file that was read.
    pub(super) file: Identity,
    pub(super) size: u64,
    /// Bytes of a block.
    pub(super) block: u32,
    /// Of all blocks, in order.
    pub(super) chains: Arc<Vec<Chain>>,
    /// The sums of nearly all of it in blocks to be looked for at any offset, once they were needed.
    pub(super) sums: Option<Arc<Index>>,
    pub(super) proof: Proof,
}

/// What is known of a version's content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proof {
    /// `None`: all of it was read. Else what is before its last growth is only believed to be as it
    /// was.
    unproven: Option<Unproven>,
    /// When all of it was read last, and how long that took.
    read: Option<(Instant, Duration)>,
    /// It was seen to change before its end: that it only grows is not believed of it again.
    edited: bool,
}

/// Since when a version is not proven, and when it is to be.
#[derive(Debug, Clone, Copy)]
struct Unproven {
    since: Instant,
    due: Instant,
    /// When the mirror is told so; and told again, for the name may have been another by then.
    told: Instant,
}

impl Proof {
    /// All of it was read, which began then.
    pub(super) fn read(began: Instant) -> Proof {
        let end = now();
        let read = Some((end, end.saturating_duration_since(began)));
        Proof { unproven: None, read, edited: false }
    }

    /// Whether it was ever seen to change before its end.
    pub(super) fn edited(self, edited: bool) -> Proof {
        Proof { edited, ..self }
    }

    /// It has grown, and what was there before was not read again.
    pub(super) fn grown(self, now: Instant) -> Proof {
        let since = self.unproven.map_or(now, |unproven| unproven.since);
        let spared = self.read.map_or(now, |(end, took)| end + took * SPARING);
        let due = (now + REST).min(since + AT_LAST).max(spared);
        Proof { unproven: Some(Unproven { since, due, told: due }), ..self }
    }
}

impl Version {
    /// The block for a further version of `size` bytes: the same, so that the two can be compared,
    /// unless those would be too many.
    pub(super) fn block_for(&self, size: u64) -> u32 {
        if size.div_ceil(u64::from(self.block)) <= KEPT_BLOCKS { self.block } else { block(size) }
    }

    /// Is it time to read all of it?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.proof.unproven.is_some_and(|unproven| unproven.due <= now)
    }

    /// Was it seen to change before its end?
    pub(super) fn is_edited(&self) -> bool {
        self.proof.edited
    }

    fn bytes(&self) -> usize {
        let sums = self.sums.as_ref().map_or(0, |sums| sums.bytes());
        size_of::<Kept>() + size_of_val(&self.chains[..]) + sums
    }
}

/// The time, as timers have it.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[derive(Debug)]
struct Kept {
    /// The operation that put it in place.
    id: OpId,
    version: Version,
    /// When it was last of use.
    used: u64,
}

#[derive(Debug, Default)]
struct State {
    by: BTreeMap<RelPath, Kept>,
    bytes: usize,
    clock: u64,
    /// Those whose operation is not acked.
    pending: BTreeSet<OpId>,
}

/// What an order does to versions, in the order of orders.
#[derive(Debug)]
pub(super) enum Note {
    /// This is put in place.
    Put(RelPath, OpId, Version),
    /// A name moves, and with it what is beneath.
    Rename(RelPath, RelPath),
}

/// The versions of one link.
#[derive(Debug, Default)]
pub(super) struct Versions {
    state: Mutex<State>,
    /// Something is unproven that was not before.
    unproven: Notify,
}

impl Versions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, note: Note) {
        let mut state = self.lock();
        match note {
            Note::Put(path, id, version) => {
                state.remove(&path);
                if version.chains.len() as u64 > KEPT_BLOCKS {
                    return;
                }
                if version.proof.unproven.is_some() {
                    self.unproven.notify_one();
                }
                state.pending.insert(id);
                state.bytes += version.bytes();
                state.clock += 1;
                let used = state.clock;
                state.by.insert(path, Kept { id, version, used });
                if state.bytes > KEPT_BYTES {
                    state.shrink();
                }
            }
            Note::Rename(from, to) => {
                if state.by.is_empty() {
                    return;
                }
                let range =
                    state.by.range(&from..).take_while(|(path, _)| path.is_at_or_under(&from));
                let moved: Vec<RelPath> = range.map(|(path, _)| path.clone()).collect();
                state.remove(&to);
                for path in moved {
                    let name = path.moved(&from, &to);
                    if let (Some(kept), Some(name)) = (state.by.remove(&path), name) {
                        state.by.insert(name, kept);
                    }
                }
            }
        }
    }

    /// Operations are acked: those that say something put nothing in place.
    pub(super) fn acked(&self, done: &[(OpId, u64)], outcomes: &[(OpId, Outcome)]) {
        let mut state = self.lock();
        if state.pending.is_empty() {
            return;
        }
        for &(first, count) in done {
            let range = first..first.saturating_add(count);
            while let Some(&id) = state.pending.range(range.clone()).next() {
                state.pending.remove(&id);
                if outcomes.iter().any(|(of, _)| *of == id) {
                    state.forget(id);
                }
            }
        }
    }

    /// What stands at a path, if that is a version which has arrived.
    pub(super) fn get(&self, path: &RelPath) -> Option<(OpId, Version)> {
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        let kept = state.by.get_mut(path)?;
        kept.used = used;
        let (id, version) = (kept.id, kept.version.clone());
        (!state.pending.contains(&id)).then_some((id, version))
    }

    /// The agent does not have it any more.
    pub(super) fn forget(&self, id: OpId) {
        self.lock().forget(id);
    }

    /// Waits until some version is to be read whole: where it stands.
    pub(super) async fn due(&self) -> RelPath {
        loop {
            let next = self.lock().next_due();
            match next {
                None => self.unproven.notified().await,
                Some((due, path)) if due <= now() => {
                    if let Some(kept) = self.lock().by.get_mut(&path)
                        && let Some(unproven) = &mut kept.version.proof.unproven
                    {
                        unproven.told = now() + AT_LAST;
                    }
                    return path;
                }
                Some((due, _)) => tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = self.unproven.notified() => {}
                },
            }
        }
    }
}

impl State {
    fn remove(&mut self, path: &RelPath) {
        if let Some(kept) = self.by.remove(path) {
            self.bytes -= kept.version.bytes();
        }
    }

    fn forget(&mut self, id: OpId) {
        let path = self.by.iter().find(|(_, kept)| kept.id == id);
        if let Some(path) = path.map(|(path, _)| path.clone()) {
            self.remove(&path);
        }
    }

    /// Drops what was of no use for longest, a quarter at a time.
    fn shrink(&mut self) {
        let mut used: Vec<(u64, RelPath)> =
            self.by.iter().map(|(path, kept)| (kept.used, path.clone())).collect();
        used.sort_unstable();
        for (_, path) in used {
            if self.bytes <= KEPT_BYTES / 4 * 3 {
                break;
            }
            self.remove(&path);
        }
    }

    fn next_due(&self) -> Option<(Instant, RelPath)> {
        let due = |(path, kept): (&RelPath, &Kept)| {
            let unproven = kept.version.proof.unproven?;
            Some((unproven.told, path.clone()))
        };
        self.by.iter().filter_map(due).min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn version(blocks: usize) -> Version {
        Version {
            file: Identity { dev: 1, ino: 2 },
            size: blocks as u64 * 16384,
            block: 16384,
            chains: Arc::new(vec![[0; 32]; blocks]),
            sums: None,
            proof: Proof { unproven: None, read: None, edited: false },
        }
    }

    #[test]
    fn versions_follow_their_names() {
        let versions = Versions::default();
        versions.note(Note::Put(path("d/f"), 5, version(2)));
        assert!(versions.get(&path("d/f")).is_none(), "not acked");
        versions.note(Note::Rename(path("d"), path("e")));
        versions.note(Note::Put(path("x"), 7, version(2)));
        versions.note(Note::Rename(path("e/f"), path("x")));
        versions.acked(&[(5, 1)], &[]);
        assert_eq!(versions.get(&path("x")).map(|(id, _)| id), Some(5));
        assert!(versions.get(&path("e/f")).is_none());
        versions.note(Note::Put(path("x"), 9, version(2)));
        versions.acked(&[(8, 2)], &[(9, Outcome::OtherVersion)]);
        assert!(versions.get(&path("x")).is_none(), "it was not put there");
        assert_eq!(versions.lock().bytes, 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let versions = Versions::default();
        let name = |n: u64| path(&format!("f{n}"));
        for n in 0..40 {
            versions.note(Note::Put(name(n), n, version(1 << 17)));
            versions.acked(&[(n, 1)], &[]);
            assert!(versions.lock().bytes <= KEPT_BYTES);
            assert!(versions.get(&name(0)).is_some(), "it is used again and again");
        }
        assert!(versions.get(&name(39)).is_some());
        assert!(versions.get(&name(1)).is_none());
        let blocks = KEPT_BLOCKS as usize + 1;
        versions.note(Note::Put(name(50), 50, version(blocks)));
        versions.acked(&[(50, 1)], &[]);
        assert!(versions.get(&name(50)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_grew_is_read_when_it_has_rested_and_not_all_the_time() {
        let versions = Versions::default();
        let start = now();
        let mut before =
            Proof { unproven: None, read: Some((start, Duration::from_secs(1))), edited: false };
        let is_due = |proof, after| Version { proof, ..version(2) }.is_due(start + after);
        let grown = before.grown(start);
        assert!(is_due(grown, SPARING * Duration::from_secs(1)));
        assert!(!is_due(grown, SPARING * Duration::from_millis(999)), "it took a second");
        before.read = None;
        let grown = before.grown(start);
        assert!(is_due(grown, REST));
        let more = grown.grown(start + Duration::from_secs(59));
        assert!(is_due(more, AT_LAST) && !is_due(more, AT_LAST / 2), "it never rests");
        versions.note(Note::Put(path("f"), 3, Version { proof: grown, ..version(2) }));
        assert_eq!(versions.due().await, path("f"));
        let told = now();
        assert_eq!(versions.due().await, path("f"));
        assert!(now() >= told + AT_LAST, "nothing came of it");
        versions.note(Note::Put(path("f"), 4, version(2)));
        let again = tokio::time::timeout(Duration::from_secs(600), versions.due()).await;
        assert!(again.is_err(), "it is proven");
    }
}
