//! One operation becomes changes beneath the root, or an [`Outcome`] that says why not.
//!
//! What should stand there is checked before anything is touched; a new thing is always staged
//! under a temporary name and renamed into place, so a reader sees the old or the new, complete.
//! Two exceptions are told of where they are made: `append` and `inplace`.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::message::{Op, OpId, Outcome, Trouble};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::Xattrs;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::fault::{Call, Faults};
use crate::meta::{self, Kept, Stat};
use crate::root::{PATH_DIR, Root};
use crate::stage::{Names, Stage, Versions};
use crate::trash::{self, Places, Trash};
use crate::trouble::{bounded, problem, said, trouble};

mod append;
mod aside;
mod dir;
mod file;
mod folding;
mod inplace;
mod link;
mod name;
mod special;
mod young;

pub(crate) use young::Young;

pub(crate) use folding::Folding;

/// What all threads that apply share.
pub(crate) struct Ground {
    /// Everything happens beneath it.
    pub(crate) root: Root,
    /// Temporary names.
    pub(crate) names: Arc<Names>,
    /// An ack means durable.
    pub(crate) fsync: bool,
    /// A file that is there is written into, and not replaced.
    pub(crate) inplace: bool,
    /// No name goes but those that came on this link.
    pub(crate) no_delete: Option<Young>,
    /// What would be lost goes there.
    pub(crate) trash: Option<Trash>,
    /// Directories of the root that are no part of the mirror: the trash, and what once was one.
    pub(crate) apart: Vec<RelPath>,
    /// Which files are being written into.
    pub(crate) pours: inplace::Pours,
    /// What new things without a given mode do not get.
    pub(crate) umask: u32,
    /// What the kernel takes from the mode of everything this process creates.
    pub(crate) process_umask: u32,
    /// How fine times are here, in nanoseconds.
    pub(crate) granularity: u32,
    /// Names that differ only in case are one.
    pub(crate) folding: Option<Folding>,
    /// Faults on demand.
    pub(crate) faults: Option<Arc<dyn Faults>>,
    /// The link ended: nothing that was not begun is begun.
    pub(crate) stop: AtomicBool,
    /// Counts changes of structure: descriptors from before one may lead elsewhere.
    pub(crate) generation: AtomicU64,
    /// Told once a link what could not be set.
    pub(crate) warn: Box<dyn Fn(String) + Send + Sync>,
    /// Told that the root itself is gone: nothing can be applied any more.
    pub(crate) lost: Box<dyn Fn() + Send + Sync>,
    /// What was warned of already: owner, mode, extended attributes.
    pub(crate) warned: [AtomicBool; 3],
    /// Directories opened up to work in them.
    pub(crate) opened: dir::Opened,
    /// Large files that were put in place.
    pub(crate) versions: Versions,
}

impl Ground {
    pub(crate) fn fault(&self, call: Call, path: &RelPath) -> Result<(), Errno> {
        self.faults.as_ref().map_or(Ok(()), |faults| faults.before(call, path))
    }

    /// Says once what could not be set.
    fn kept(&self, kept: Kept) {
        let texts = [
            (kept.owner, "owners or groups cannot be set on the target: not permitted"),
            (kept.mode, "permission bits cannot be set on the target: not permitted"),
            (
                kept.xattrs,
                "extended attributes or ACLs cannot be set on the target: not permitted \
                 (--no-xattrs, --no-acls say that they are not wanted)",
            ),
        ];
        for ((stayed, text), warned) in texts.into_iter().zip(&self.warned) {
            if stayed && !warned.swap(true, Ordering::Relaxed) {
                (self.warn)(text.to_owned());
            }
        }
    }

    /// A descriptor of a directory to work in; the nearest one above that exists for a stage.
    pub(crate) fn nearest(&self, hint: &RelPath) -> Result<Arc<OwnedFd>, Errno> {
        let mut dir = hint.as_bytes();
        loop {
            match self.root.open_parent(dir) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if !dir.is_empty() => {
                    dir = dir.iter().rposition(|&b| b == b'/').map_or(&[][..], |at| &dir[..at]);
                }
                fd => return fd.map(Arc::new),
            }
        }
    }
}

/// Why an operation did not come to its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A system call failed.
    Errno(Errno),
    /// What is to be answered.
    Say(Outcome),
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Stop {
        Stop::Errno(error)
    }
}

impl From<Outcome> for Stop {
    fn from(outcome: Outcome) -> Stop {
        Stop::Say(outcome)
    }
}

/// A directory that operations happen in, kept for a batch.
#[derive(Debug)]
pub(crate) struct Parent {
    path: Box<[u8]>,
    fd: Arc<OwnedFd>,
    /// What a new file here is at first; learnt from the first one.
    born: Option<Stat>,
    /// No default ACL changes the mode of new files.
    plain: bool,
}

/// How many directories are kept open.
const KEPT: usize = 8;

/// What one thread needs to apply operations.
pub(crate) struct Hand {
    pub(crate) ground: Arc<Ground>,
    parents: Vec<Parent>,
    generation: u64,
    /// Directories whose names changed and are to be made durable.
    touched: Vec<Arc<OwnedFd>>,
    /// Where in the trash things went last.
    places: Places,
    /// There was no room for extended attributes of what is otherwise done.
    no_room: Cell<Option<Errno>>,
}

/// The content that comes with an operation.
#[derive(Default)]
pub(crate) struct Content<'a> {
    /// What came in its message.
    pub(crate) inline: &'a [u8],
    /// The stage it commits.
    pub(crate) stage: Option<&'a Stage>,
}

impl Hand {
    pub(crate) fn new(ground: Arc<Ground>) -> Hand {
        let (parents, touched) = (Vec::new(), Vec::new());
        Hand {
            ground,
            parents,
            generation: 0,
            touched,
            places: Places::default(),
            no_room: Cell::default(),
        }
    }

    /// Applies one operation; `None` is "done, and nothing to say".
    pub(crate) fn apply(&mut self, id: OpId, op: &Op, content: &Content<'_>) -> Option<Outcome> {
        let generation = self.ground.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.parents.clear();
        }
        if let Some(trash) = self.ground.apart.iter().find(|dir| trash::reaches(op, dir)) {
            let text = format!("{trash} is a trash, and no part of the mirror");
            return Some(Outcome::Problem(said(text)));
        }
        // What has such a name is removed unasked, by the next listing.
        if let Some(name) = op.names().find(|path| path.is_temporary()) {
            let text = format!("{name} is a temporary name, and no part of the mirror");
            return Some(Outcome::Problem(said(text)));
        }
        let ground = self.ground.clone();
        let _turn = ground.folding.as_ref().map(Folding::turn);
        let recased = match ground.by_its_names(op) {
            Ok(recased) => recased,
            Err(stop) => return self.said(op, Err(stop)),
        };
        let done = match op {
            Op::MakeDir { path, meta } => self.make_dir(path, meta),
            Op::File { path, meta, .. } => self.put_file(path, content.inline, meta),
            Op::Commit { .. } => self.commit(id, op, content),
            Op::Append { .. } => self.append(id, op, content),
            Op::Symlink { path, link, meta } => self.put_link(path, link, meta),
            Op::Special { path, kind, device, meta } => {
                self.put_special(path, *kind, *device, meta)
            }
            Op::Link { path, from, size, mtime } => self.put_hard_link(path, from, *size, *mtime),
            Op::Meta { path, kind, meta } => self.set_meta(path, *kind, meta),
            Op::Dir { path, meta } => self.set_dir(path, meta),
            Op::Rename { from, to, kind, size, mtime } => {
                let done = self.rename((from, to), recased, *kind, *size, *mtime);
                self.restructured();
                done
            }
            Op::Remove { .. } if self.ground.no_delete.is_some() => Err(Outcome::Forbidden.into()),
            Op::Remove { path, kind } => {
                let done = self.remove(path, *kind);
                if *kind == Kind::Dir {
                    self.restructured();
                }
                done
            }
            Op::Replace { old, new } => {
                let done = self.replace(*old, new, content);
                self.restructured();
                done
            }
        };
        if let Op::MakeDir { meta, .. } | Op::Dir { meta, .. } | Op::Meta { meta, .. } = op
            && meta.xattrs.as_ref().is_some_and(Xattrs::is_inherited)
        {
            // Files in it are made with other modes from now on.
            self.restructured();
        }
        self.said(op, done)
    }

    /// What is said of an operation.
    fn said(&self, op: &Op, done: Result<(), Stop>) -> Option<Outcome> {
        let no_room = self.no_room.take();
        match done {
            Ok(()) => no_room.map(|error| {
                let Trouble { errno, text } = trouble(error);
                let text = bounded(format!("extended attributes cannot be set: {text}"));
                Outcome::Problem(Trouble { errno, text })
            }),
            Err(Stop::Say(outcome)) => Some(outcome),
            Err(Stop::Errno(error)) => Some(self.why(op, error)),
        }
    }

    /// Says what could not be set: what is not permitted once, what has no room with its path.
    fn kept(&self, kept: Kept) {
        self.ground.kept(kept);
        if kept.no_room.is_some() {
            self.no_room.set(kept.no_room);
        }
    }

    /// An error as people understand it: root is "not permitted" what chattr(1) forbids.
    fn why(&self, op: &Op, error: Errno) -> Outcome {
        let makes = !matches!(op, Op::Remove { .. } | Op::Meta { .. } | Op::Dir { .. });
        let odd = makes && op.path().name().is_some_and(folding::is_odd);
        if odd && matches!(error, Errno::NOENT | Errno::INVAL | Errno::ILSEQ | Errno::IO) {
            let Trouble { errno, text } = trouble(error);
            let text = format!("the target's file system does not take this name: {text}");
            return Outcome::Problem(Trouble { errno, text: bounded(text) });
        }
        if error == Errno::PERM {
            let from = match op {
                Op::Rename { from, .. } => Some(from),
                _ => None,
            };
            let names = [Some(op.path()), from].into_iter().flatten();
            let above: Vec<RelPath> = names.clone().filter_map(RelPath::parent).collect();
            for path in names.chain(&above) {
                let what = self.ground.root.open_name(path).and_then(meta::locked);
                let Ok(Some(what)) = what else { continue };
                let Trouble { errno, text } = trouble(error);
                let shown = if path.is_root() { "the root".to_owned() } else { path.to_string() };
                let text = bounded(format!("{text}: {shown} is {what}"));
                return Outcome::Problem(Trouble { errno, text });
            }
        }
        problem(error)
    }

    /// Descriptors of directories may lead elsewhere from now on, everybody's.
    fn restructured(&mut self) {
        self.parents.clear();
        self.ground.folding.iter().for_each(Folding::restructured);
        self.generation = self.ground.generation.fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// Ends a batch: what it did is durable if acks mean that, and no directory stays open.
    pub(crate) fn end_batch(&mut self) -> Result<(), Errno> {
        self.parents.clear();
        let mut done = Ok(());
        for dir in self.touched.drain(..) {
            done = done.and(sync_dir(&dir));
        }
        done
    }

    /// A name in this directory changed.
    fn touch(&mut self, dir: &Arc<OwnedFd>) {
        if self.ground.fsync && !self.touched.iter().any(|held| Arc::ptr_eq(held, dir)) {
            self.touched.push(dir.clone());
        }
    }

    /// Where in the list of kept directories this one is; opened if it is not there.
    fn parent(&mut self, dir: &[u8]) -> Result<usize, Stop> {
        if let Some(at) = self.parents.iter().position(|parent| &*parent.path == dir) {
            return Ok(at);
        }
        let fd = match self.open_dir(dir) {
            Err(Errno::ACCESS) if self.ground.opened.open_up(&self.ground.root, dir) => {
                self.open_dir(dir)
            }
            fd => fd,
        };
        let (fd, readable) = match fd {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Outcome::NoParent.into()),
            fd => fd?,
        };
        let mut acl = [0; 1];
        // An ACL of any size does not fit: then the answer is ERANGE, and that is enough.
        let plain = readable
            && matches!(
                rustix::fs::fgetxattr(&fd, c"system.posix_acl_default", &mut acl[..]),
                Err(Errno::NODATA | Errno::OPNOTSUPP)
            );
        if self.parents.len() >= KEPT {
            self.parents.remove(0);
        }
        self.parents.push(Parent { path: dir.into(), fd: Arc::new(fd), born: None, plain });
        Ok(self.parents.len() - 1)
    }

    /// A directory to work in, if possible one that can be synced too.
    fn open_dir(&self, dir: &[u8]) -> Result<(OwnedFd, bool), Errno> {
        if let Ok(path) = RelPath::new(dir) {
            self.ground.fault(Call::Parent, &path)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        match self.ground.root.open_at(dir, flags) {
            Ok(fd) => Ok((fd, true)),
            Err(Errno::LOOP) => Err(Errno::NOTDIR),
            // Without the right to read it, names in it can still be made.
            Err(Errno::ACCESS) => self.ground.root.open_parent(dir).map(|fd| (fd, false)),
            Err(error) => Err(error),
        }
    }

    /// Does something in a directory. A kept descriptor of a directory that is gone is replaced
    /// once, and a directory that lacks our own permission is opened up once.
    fn within<T>(
        &mut self,
        dir: &[u8],
        mut act: impl FnMut(&mut Hand, usize) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let kept = self.parents.iter().any(|parent| &*parent.path == dir);
        let at = self.parent(dir)?;
        match act(self, at) {
            Err(Stop::Errno(Errno::NOENT)) if kept => {
                self.parents.retain(|parent| &*parent.path != dir);
            }
            Err(Stop::Errno(Errno::ACCESS))
                if self.ground.opened.open_up(&self.ground.root, dir) => {}
            Err(Stop::Errno(Errno::NOENT)) => return Err(self.gone(dir)),
            done => return done,
        }
        let at = self.parent(dir)?;
        match act(self, at) {
            Err(Stop::Errno(Errno::NOENT)) => Err(self.gone(dir)),
            done => done,
        }
    }

    /// Something is not there any more: the directory, or somebody else removed what we staged.
    fn gone(&self, dir: &[u8]) -> Stop {
        if meta::stat_fd(&self.ground.root).is_ok_and(|root| root.nlink == 0) {
            (self.ground.lost)();
        }
        match self.ground.root.open_parent(dir) {
            Err(Errno::NOENT | Errno::NOTDIR) => Outcome::NoParent.into(),
            _ => Stop::Errno(Errno::NOENT),
        }
    }

    /// What stands under a name.
    fn look(&self, at: usize, name: &[u8]) -> Result<Option<Stat>, Errno> {
        match meta::stat_name(&self.parents[at].fd, name) {
            Ok(stat) => Ok(Some(stat)),
            // Nor can anything stand under a name that the file system does not take.
            Err(Errno::NOENT | Errno::ILSEQ | Errno::INVAL | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fsync(dir) {
        // Open for its path only: opened again to be synced.
        Err(Errno::BADF) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::fsync(rustix::fs::openat(dir, c".", flags, Mode::empty())?)
        }
        // Some file systems have nothing to sync there.
        Err(Errno::INVAL) => Ok(()),
        done => done,
    }
}

/// The name and the directory of a path that is not the root: the root is a directory and stays.
fn split(path: &RelPath) -> Result<(&[u8], &[u8]), Stop> {
    path.split().ok_or_else(|| Outcome::Occupied(Kind::Dir).into())
}

/// Sets attributes of what stands under a name, which is not a directory and of the given kind.
fn set_by_name(
    ground: &Ground,
    dir: &OwnedFd,
    name: &[u8],
    now: &Stat,
    want: &Meta,
) -> Result<(), Errno> {
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::empty())
    };
    let mut kept = Kept::default();
    match now.kind {
        Kind::File => match open(OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(fd) => {
                // What was looked at may have been replaced: what counts is what is open now.
                let now = meta::stat_fd(&fd)?;
                if now.kind != Kind::File {
                    return Err(Errno::AGAIN);
                }
                kept = meta::set_fd(&fd, &now, want)?;
                ground.versions.changed(&now, || meta::stat_fd(&fd).ok());
                if ground.fsync {
                    rustix::fs::fsync(&fd)?;
                }
            }
            Err(Errno::ACCESS) => kept = set_unreadable(dir, name, now, want, kept)?,
            Err(error) => return Err(error),
        },
        Kind::Symlink => kept = meta::set_name(dir, name, now, want)?,
        _ => kept = set_unreadable(dir, name, now, want, kept)?,
    }
    ground.kept(kept);
    kept.no_room.map_or(Ok(()), Err)
}

/// The same for what cannot or must not be opened.
fn set_unreadable(
    dir: impl AsFd,
    name: &[u8],
    now: &Stat,
    want: &Meta,
    mut kept: Kept,
) -> Result<Kept, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir.as_fd(), name, flags, Mode::empty())?;
    kept = kept.and(meta::set_name(dir.as_fd(), name, now, want)?);
    if let Some(mode) = want.mode
        && (mode != now.mode || want.uid.is_some() || want.gid.is_some())
    {
        if meta::stat_fd(&fd)?.kind != now.kind {
            return Err(Errno::AGAIN);
        }
        meta::set_mode_of(&fd, mode)?;
    }
    // After the mode, and so before nothing but the time, which it does not change.
    Ok(kept.and(meta::set_acl_of(&fd, want)?))
}

/// A directory below one that is held, or ENOTDIR; for its path only.
fn open_below(dir: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | PATH_DIR.difference(OFlags::PATH) | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP => Errno::NOTDIR,
        error => error,
    })
}
