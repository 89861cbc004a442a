//! Comparing by content: files of equal size wait for their hashes, and differences are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use lsync_protocol::entry::{Held, Kind, Named};
use lsync_protocol::message::MAX_HASHES;
use lsync_protocol::path::RelPath;

use super::{Cause, Compared, Effect, Mirror, Report};
use crate::collate::Marks;
use crate::config::Verify;
use crate::metrics::{Difference, Differs};
use crate::plan::{Planned, create};
use crate::reconcile::{Twin, attributes};

/// How many requests for hashes may be unanswered.
const REQUESTS_MAX: usize = 16;
/// A request is closed when the files in it have so many bytes: several threads share the work.
const REQUEST_BYTES: u64 = 16 << 20;
/// The most differing paths that are remembered, so that none is told twice.
const TOLD_MAX: usize = 100_000;

/// Files of one directory whose content is compared together.
type Together = (RelPath, Vec<Twin>);

/// Contents that a walk has still to compare.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Not asked yet.
    waiting: VecDeque<Together>,
    asked: BTreeMap<u32, Together>,
}

impl Contents {
    /// Is nothing left to be compared?
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    /// Is there more than can be asked now?
    pub(super) fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Is no request unanswered?
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// The next to be asked, under this number.
    pub(super) fn ask(&mut self, request: u32, calm: bool) -> Option<Effect> {
        let (dir, twins) = self.waiting.pop_front()?;
        let names = twins.iter().filter_map(|twin| twin.path.name().map(Into::into)).collect();
        self.asked.insert(request, (dir.clone(), twins));
        Some(Effect::Compare { request, dir, names, calm })
    }

    /// What was asked under this number.
    pub(super) fn take(&mut self, request: u32) -> Option<Together> {
        self.asked.remove(&request)
    }

    pub(super) fn add(&mut self, dir: &RelPath, twins: Vec<Twin>) {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for twin in twins {
            if part.len() == MAX_HASHES || (bytes > 0 && bytes + twin.entry.size > REQUEST_BYTES) {
                self.waiting.push_back((dir.clone(), std::mem::take(&mut part)));
                bytes = 0;
            }
            bytes += twin.entry.size;
            part.push(twin);
        }
        if !part.is_empty() {
            self.waiting.push_back((dir.clone(), part));
        }
    }
}

/// What this operation, found by comparing two listings of a directory, would mend.
pub(super) fn difference_of(
    op: &Planned,
    ours: &[Named],
    theirs: Option<&[Named]>,
    held: &Held,
) -> Option<Difference> {
    let path = op.path();
    let name = path.name()?;
    let find = |list: &[Named]| {
        let at = list.binary_search_by(|named| (*named.name).cmp(name)).ok()?;
        Some(list[at].entry.clone())
    };
    let ours = find(ours)?;
    let (how, attributes) = match (theirs.and_then(find), op) {
        (None, _) => (Differs::Missing { dir: ours.kind == Kind::Dir }, Vec::new()),
        (Some(theirs), Planned::Replace { .. }) => {
            (Differs::Kind { source: ours.kind, target: theirs.kind }, Vec::new())
        }
        (Some(theirs), op) => {
            let how = match op {
                Planned::Meta { .. } | Planned::Dir { .. } => Differs::Attributes,
                _ => Differs::Content,
            };
            (how, attributes(&ours, &theirs, held))
        }
    };
    Some(Difference { path: path.clone(), how, attributes })
}

/// What was told of differences.
#[derive(Debug, Default)]
pub(super) struct Told {
    count: u64,
    paths: BTreeSet<RelPath>,
}

impl Told {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Was it told of this path?
    pub(super) fn has(&self, path: &RelPath) -> bool {
        self.paths.contains(path)
    }
}

impl Mirror {
    /// How many differences were told.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.told.count()
    }

    /// Tells of a difference, once a path.
    pub(super) fn differs(&mut self, difference: Difference) {
        if self.rules.verify == Verify::No || self.told.has(&difference.path) {
            return;
        }
        self.told.count += 1;
        if self.told.paths.len() < TOLD_MAX {
            self.told.paths.insert(difference.path.clone());
        }
        self.say(Report::Differs(difference));
    }

    /// Tells what these operations would mend in a directory.
    pub(super) fn tell(&mut self, ops: &[Planned], ours: &[Named], theirs: Option<&[Named]>) {
        if self.rules.verify == Verify::No {
            return;
        }
        let Some(held) = self.held.clone() else { return };
        for op in ops {
            if let Some(difference) = difference_of(op, ours, theirs, &held) {
                self.differs(difference);
            }
        }
    }

    /// Tells of the names that only the target has: of a directory, or of what in it may go.
    pub(super) fn tell_extra(
        &mut self,
        removes: &BTreeMap<RelPath, Kind>,
        tops: &BTreeSet<&RelPath>,
        shielding: &BTreeSet<RelPath>,
    ) {
        if self.rules.verify == Verify::No {
            return;
        }
        for (path, kind) in removes {
            let above = path.parent();
            let mine = tops.contains(path) || above.is_some_and(|dir| shielding.contains(&dir));
            if mine && !shielding.contains(path) {
                let how = Differs::Extra { dir: *kind == Kind::Dir };
                self.differs(Difference { path: path.clone(), how, attributes: Vec::new() });
            }
        }
    }

    /// Asks for as many hashes as may be under way.
    pub(super) fn ask_contents(&mut self) {
        let Some(walk) = &mut self.walk else { return };
        while walk.contents.asked.len() < REQUESTS_MAX
            && let Some(effect) = walk.contents.ask(self.next_request, false)
        {
            self.next_request = self.next_request.wrapping_add(1);
            self.out.push(effect);
        }
    }

    /// Files were compared by their content: what differs is sent.
    pub(super) fn compared(&mut self, request: u32, files: Vec<Compared>, now: Instant) {
        let Err(files) = self.drift_compared(request, files, now) else { return };
        let Some(walk) = &mut self.walk else { return };
        let Some((dir, twins)) = walk.contents.take(request) else { return };
        let Some(held) = self.held.clone() else { return };
        let stale = walk.touched.dir_is_stale(&dir);
        let mut ops = Vec::new();
        for (twin, compared) in twins.into_iter().zip(files) {
            let Twin { path, entry, attributes, meta } = twin;
            let newer = stale || self.walk.as_ref().is_some_and(|walk| walk.touched.has(&path));
            let (op, how) = match compared {
                _ if newer => (None, None),
                Compared::Same if meta.is_none() => continue,
                Compared::Same => (meta, Some(Differs::Attributes)),
                // Its other names go along: they are looked at together.
                Compared::Differs if entry.file.is_some() && held.hard_links() => {
                    (None, Some(Differs::Content))
                }
                Compared::Differs => (create(&path, &entry, &held, false), Some(Differs::Content)),
                Compared::Moving if self.rules.verify == Verify::No => (None, None),
                Compared::Moving => {
                    self.failed(&path, "changed while it was compared", now);
                    continue;
                }
                Compared::Unknown(why) => {
                    self.failed(&path, &why, now);
                    continue;
                }
            };
            if let Some(how) = how {
                self.differs(Difference { path: path.clone(), how, attributes });
            }
            match op {
                Some(op) if !self.flights.busy(&path) && !self.looking.contains(&path) => {
                    ops.push(op);
                }
                // Something newer is known of it: a look will tell.
                _ => self.collate.mark(&path, Marks::NAME.with(Marks::CONTENT), now),
            }
        }
        let content = |op: &Planned| matches!(op, Planned::Content { .. });
        if ops.iter().any(content) {
            // It had its attributes before.
            self.collate.mark(&dir, Marks::META, now);
        }
        if let Some(walk) = &mut self.walk {
            walk.to_send += ops.iter().map(Planned::content).sum::<u64>();
        }
        self.send(ops, Cause::Walk, now);
        self.ask_contents();
    }
}
