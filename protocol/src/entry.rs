//! `Entry`: what a look or a listing saw of one path, and when two of them differ.
//!
//! Source and target are compared *as the target can hold them*: what a target has no way to keep
//! (an owner without root, nanoseconds on vfat) is never a difference. [`Held`] is that common
//! ground, computed by both ends from the same handshake, so that a directory's digest is equal
//! exactly when there is nothing to do in it.

use serde::{Deserialize, Serialize};

use crate::handshake::Identity;
use crate::xattr::{Classes, Xattrs};

/// A point in time as file systems keep it: seconds since 1970, and nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Time {
    /// Seconds since 1970-01-01 UTC; negative before it.
    pub sec: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nsec: u32,
}

impl Time {
    /// Rounded down to what a file system of this granularity (in nanoseconds) keeps.
    #[must_use]
    pub fn truncated(self, granularity: u32) -> Time {
        const SECOND: u32 = 1_000_000_000;
        if granularity <= 1 {
            self
        } else if granularity <= SECOND {
            Time { sec: self.sec, nsec: self.nsec - self.nsec % granularity }
        } else {
            let seconds = i64::from(granularity / SECOND);
            Time { sec: self.sec - self.sec.rem_euclid(seconds), nsec: 0 }
        }
    }
}

/// What kind of thing a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// The kind in words, for people: "a directory".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Kind::File => "a file",
            Kind::Dir => "a directory",
            Kind::Symlink => "a symbolic link",
            Kind::Fifo => "a FIFO",
            Kind::Socket => "a socket",
            Kind::CharDevice => "a character device",
            Kind::BlockDevice => "a block device",
        }
    }

    /// Is it a special file: neither a file, nor a directory, nor a symbolic link?
    #[must_use]
    pub fn special(self) -> bool {
        !matches!(self, Kind::File | Kind::Dir | Kind::Symlink)
    }
}

/// Which device a device file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// Attributes. An absent field is not carried: the target keeps what it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Meta {
    /// Permission bits, 0 to 0o7777. Never of a symbolic link.
    pub mode: Option<u32>,
    /// The owner, numbered as on the target.
    pub uid: Option<u32>,
    /// The group, numbered as on the target.
    pub gid: Option<u32>,
    /// The time of the last change of content.
    pub mtime: Option<Time>,
    /// Extended attributes and access control lists, their owners numbered as on the target.
    pub xattrs: Option<Xattrs>,
}

impl Meta {
    /// Bytes of what has no bounded size in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.xattrs.as_ref().map_or(0, Xattrs::bytes)
    }
}

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// What kind of thing it is.
    pub kind: Kind,
    /// Bytes of content; 0 for everything but files.
    pub size: u64,
    /// Where a symbolic link points, as it stands there.
    pub link: Option<Box<[u8]>>,
    /// Its attributes.
    pub meta: Meta,
    /// How many names the file has; 1 for everything but files.
    pub nlink: u32,
    /// Which file it is, of one that has several names: those are equal in this.
    pub file: Option<Identity>,
    /// Which device it stands for; of device files only.
    pub device: Option<Device>,
}

/// An entry with its name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name, one component.
    #[serde(with = "bytes")]
    pub name: Box<[u8]>,
    /// What stands there.
    pub entry: Entry,
}

/// Names travel as bytes, not as sequences of numbers.
mod bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Box<[u8]>, D::Error> {
        <&[u8]>::deserialize(from).map(Into::into)
    }
}

/// Which attributes the user wants carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Permission bits.
    pub perms: bool,
    /// Owners.
    pub owner: bool,
    /// Groups.
    pub group: bool,
    /// Modification times.
    pub times: bool,
    /// FIFOs and sockets.
    pub specials: bool,
    /// Device files.
    pub devices: bool,
    /// Hard links: names of one file are names of one file.
    pub hard_links: bool,
    /// Extended attributes and access control lists.
    pub xattrs: Classes,
}

/// What a target can hold, as its agent found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// It may give files away (root, or `CAP_CHOWN`).
    pub chown: bool,
    /// Groups it may give its files without that.
    pub groups: Vec<u32>,
    /// The user to whom new files belong.
    pub own_user: u32,
    /// The group that new files get.
    pub own_group: u32,
    /// It may make device files (root, or `CAP_MKNOD`).
    pub devices: bool,
    /// Extended attributes and access control lists that it may set.
    pub xattrs: Classes,
    /// The granularity of modification times, in nanoseconds.
    pub time_granularity: u32,
    /// What its file system keeps.
    pub keeps: Keeps,
    /// Names that differ only in case are one.
    pub folds_case: bool,
    /// The longest name, in bytes.
    pub name_max: u32,
}

/// What a target's file system keeps, whoever asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeps {
    /// Permission bits, as they are set.
    pub modes: bool,
    /// Symbolic links.
    pub symlinks: bool,
    /// FIFOs and sockets.
    pub specials: bool,
    /// Several names of one file.
    pub hard_links: bool,
    /// The earliest time, in seconds since 1970.
    pub earliest: i64,
    /// The latest time, in seconds since 1970.
    pub latest: i64,
}

impl Keeps {
    /// Everything.
    pub const ALL: Keeps = Keeps {
        modes: true,
        symlinks: true,
        specials: true,
        hard_links: true,
        earliest: i64::MIN,
        latest: i64::MAX,
    };

    /// The nearest time that is kept; it is whole seconds where the wanted one is not kept.
    #[must_use]
    pub fn time(self, wanted: Time) -> Time {
        if wanted.sec < self.earliest {
            Time { sec: self.earliest, nsec: 0 }
        } else if wanted.sec > self.latest {
            Time { sec: self.latest, nsec: 0 }
        } else {
            wanted
        }
    }
}

/// Which groups can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Groups {
    /// Not carried.
    None,
    /// Any.
    Any,
    /// These; everything else becomes the agent's own.
    Only { groups: Vec<u32>, own: u32 },
}

/// What of an entry counts between this source and this target: wanted by the user and possible
/// on the target. Both ends compute it from the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    perms: bool,
    owner: bool,
    groups: Groups,
    /// Granularity in nanoseconds; `None`: times are not carried.
    times: Option<u32>,
    specials: bool,
    devices: bool,
    hard_links: bool,
    xattrs: Classes,
    keeps: Keeps,
    folds_case: bool,
}

impl Held {
    /// What counts, given what is wanted and what is possible.
    #[must_use]
    pub fn new(wanted: Wanted, holds: &Holds) -> Held {
        Held {
            perms: wanted.perms && holds.keeps.modes,
            owner: wanted.owner && holds.chown,
            groups: match (wanted.group, holds.chown) {
                (false, _) => Groups::None,
                (true, true) => Groups::Any,
                (true, false) => {
                    Groups::Only { groups: holds.groups.clone(), own: holds.own_group }
                }
            },
            times: wanted.times.then_some(holds.time_granularity),
            specials: wanted.specials && holds.keeps.specials,
            devices: wanted.devices && holds.devices,
            hard_links: wanted.hard_links && holds.keeps.hard_links,
            xattrs: wanted.xattrs.both(holds.xattrs),
            keeps: holds.keeps,
            folds_case: holds.folds_case,
        }
    }

    /// Are things of this kind carried?
    #[must_use]
    pub fn carries(&self, kind: Kind) -> bool {
        match kind {
            Kind::File | Kind::Dir => true,
            Kind::Symlink => self.keeps.symlinks,
            Kind::Fifo | Kind::Socket => self.specials,
            Kind::CharDevice | Kind::BlockDevice => self.devices,
        }
    }

    /// Are owners carried, so that names of users have to be known?
    #[must_use]
    pub fn owners(&self) -> bool {
        self.owner
    }

    /// Are groups carried, so that names of groups have to be known?
    #[must_use]
    pub fn groups(&self) -> bool {
        self.groups != Groups::None
    }

    /// Are names of one file to be names of one file? A target may have none for a single one.
    #[must_use]
    pub fn hard_links(&self) -> bool {
        self.hard_links
    }

    /// What the target's file system keeps.
    #[must_use]
    pub fn keeps(&self) -> Keeps {
        self.keeps
    }

    /// Are names that differ only in case one on the target?
    #[must_use]
    pub fn folds_case(&self) -> bool {
        self.folds_case
    }

    /// Which extended attributes and access control lists are carried.
    #[must_use]
    pub fn xattrs(&self) -> Classes {
        self.xattrs
    }

    /// These attributes as the target can hold them. Owners have to be the target's numbers.
    #[must_use]
    pub fn meta(&self, kind: Kind, meta: &Meta) -> Meta {
        Meta {
            mode: meta.mode.filter(|_| self.perms && kind != Kind::Symlink).map(|m| m & 0o7777),
            uid: meta.uid.filter(|_| self.owner),
            gid: meta.gid.and_then(|gid| match &self.groups {
                Groups::None => None,
                Groups::Any => Some(gid),
                Groups::Only { groups, own } => {
                    Some(if groups.contains(&gid) { gid } else { *own })
                }
            }),
            mtime: meta.mtime.and_then(|t| self.times.map(|g| self.keeps.time(t).truncated(g))),
            xattrs: meta
                .xattrs
                .as_ref()
                .filter(|_| self.xattrs.any())
                .map(|xattrs| xattrs.of(self.xattrs)),
        }
    }
}

impl Entry {
    /// This entry as the target can hold it. Owners have to be the target's numbers already.
    #[must_use]
    pub fn as_held(&self, held: &Held) -> Entry {
        Entry { meta: held.meta(self.kind, &self.meta), ..self.clone() }
    }
}

/// How two entries of one name differ; the first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// Nothing to do.
    None,
    /// Not the same kind of thing.
    Kind,
    /// The content of a file differs or may differ, a symbolic link points elsewhere, or a device
    /// file stands for another device.
    Content,
    /// Attributes only.
    Meta,
}

/// How content is compared where it may not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quick {
    /// By size and modification time.
    SizeAndTime,
    /// By size alone (`--size-only`).
    Size,
    /// By content: of files of equal size nothing is known before their hashes are.
    Content,
    /// Never taken for equal: something said that the content may have changed.
    Never,
}

/// Compares two entries of one name, both seen by a walk and both not yet reduced to what is held.
/// The source's owners have to be the target's numbers.
#[must_use]
pub fn difference(source: &Entry, target: &Entry, held: &Held, quick: Quick) -> Difference {
    if source.kind != target.kind {
        return Difference::Kind;
    }
    let (a, b) = (held.meta(source.kind, &source.meta), held.meta(target.kind, &target.meta));
    match source.kind {
        Kind::File => {
            // Without times the quick check is still by time, as rsync's is: a file that cannot be
            // shown to be equal is sent.
            let same_time = || match held.times {
                Some(_) => a.mtime == b.mtime,
                None => source.meta.mtime == target.meta.mtime,
            };
            let same = source.size == target.size
                && match quick {
                    Quick::SizeAndTime => same_time(),
                    Quick::Size | Quick::Content => true,
                    Quick::Never => false,
                };
            if !same {
                return Difference::Content;
            }
        }
        Kind::Symlink if source.link != target.link => return Difference::Content,
        Kind::CharDevice | Kind::BlockDevice if source.device != target.device => {
            return Difference::Content;
        }
        _ => {}
    }
    if a == b { Difference::None } else { Difference::Meta }
}

/// The digest of one directory's entries: 16 bytes, keyed so that nobody can prepare two
/// directories with one digest.
pub type Digest = [u8; 16];

/// Computes a directory's digest from its entries, sorted by name, as the target can hold them.
/// Temporary names of ours have no place in it.
#[derive(Debug)]
pub struct DirDigest {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl DirDigest {
    /// Begins a directory.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> DirDigest {
        DirDigest { hasher: blake3::Hasher::new_keyed(key), buffer: Vec::with_capacity(4096) }
    }

    /// The digest of entries that are sorted by name.
    #[must_use]
    pub fn of<'a>(
        key: &[u8; 32],
        entries: impl IntoIterator<Item = &'a Named>,
        held: &Held,
    ) -> Digest {
        let mut digest = DirDigest::new(key);
        for Named { name, entry } in entries {
            digest.add(name, entry, held);
        }
        digest.finish()
    }

    /// Adds the next entry in order of names.
    pub fn add(&mut self, name: &[u8], entry: &Entry, held: &Held) {
        let meta = held.meta(entry.kind, &entry.meta);
        let out = &mut self.buffer;
        // Every variable part is preceded by its length, so no two listings share one encoding.
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(name);
        out.push(entry.kind as u8);
        out.extend_from_slice(&entry.size.to_le_bytes());
        let link = entry.link.as_deref().unwrap_or_default();
        out.extend_from_slice(&(link.len() as u32).to_le_bytes());
        out.extend_from_slice(link);
        let (major, minor) = (entry.device.map(|d| d.major), entry.device.map(|d| d.minor));
        for field in [meta.mode, meta.uid, meta.gid, major, minor] {
            out.push(u8::from(field.is_some()));
            out.extend_from_slice(&field.unwrap_or(0).to_le_bytes());
        }
        // A file's time counts even where it is not carried: see `difference`.
        let mtime = meta.mtime.or(entry.meta.mtime.filter(|_| entry.kind == Kind::File));
        let time = mtime.unwrap_or_default();
        out.push(u8::from(mtime.is_some()));
        out.extend_from_slice(&time.sec.to_le_bytes());
        out.extend_from_slice(&time.nsec.to_le_bytes());
        out.push(u8::from(meta.xattrs.is_some()));
        out.extend_from_slice(&meta.xattrs.map(|xattrs| xattrs.digest()).unwrap_or_default());
        if out.len() > 3000 {
            self.hasher.update(out);
            out.clear();
        }
    }

    /// The digest of all that was added.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        self.hasher.update(&self.buffer);
        let mut digest = [0; 16];
        self.hasher.finalize_xof().fill(&mut digest);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(chown: bool) -> Holds {
        Holds {
            chown,
            groups: vec![100, 101],
            own_user: 1000,
            own_group: 100,
            devices: chown,
            xattrs: Classes::NONE,
            time_granularity: 1,
            keeps: Keeps::ALL,
            folds_case: false,
            name_max: 255,
        }
    }

    const ALL: Wanted = Wanted {
        perms: true,
        owner: true,
        group: true,
        times: true,
        specials: true,
        devices: true,
        hard_links: true,
        xattrs: Classes::NONE,
    };

    fn file(size: u64, sec: i64, mode: u32, uid: u32, gid: u32) -> Entry {
        Entry {
            kind: Kind::File,
            size,
            link: None,
            device: None,
            meta: Meta {
                mode: Some(mode),
                uid: Some(uid),
                gid: Some(gid),
                mtime: Some(Time { sec, nsec: 5 }),
                xattrs: None,
            },
            nlink: 1,
            file: None,
        }
    }

    #[test]
    fn differences_are_named_by_the_first_that_applies() {
        let held = Held::new(ALL, &holds(true));
        let a = file(1, 1, 0o644, 0, 0);
        let dir = Entry { kind: Kind::Dir, ..a.clone() };
        let by = Quick::SizeAndTime;
        let table = [
            (a.clone(), Difference::None),
            (dir, Difference::Kind),
            (file(2, 1, 0o644, 0, 0), Difference::Content),
            (file(1, 2, 0o644, 0, 0), Difference::Content),
            (file(1, 1, 0o600, 0, 0), Difference::Meta),
            (file(1, 1, 0o644, 7, 0), Difference::Meta),
            (file(1, 1, 0o644, 0, 7), Difference::Meta),
        ];
        for (b, want) in table {
            assert_eq!(difference(&a, &b, &held, by), want, "{b:?}");
        }
        assert_eq!(difference(&a, &file(1, 2, 0o644, 0, 0), &held, Quick::Size), Difference::Meta);
        assert_eq!(difference(&a, &a, &held, Quick::Never), Difference::Content);
    }

    #[test]
    fn what_a_target_cannot_hold_is_no_difference() {
        let plain = Held::new(ALL, &holds(false));
        let by = Quick::SizeAndTime;
        // The owner cannot be kept; a foreign group becomes the agent's own.
        let a = file(1, 1, 0o644, 0, 55);
        assert_eq!(difference(&a, &file(1, 1, 0o644, 1000, 100), &plain, by), Difference::None);
        assert_eq!(difference(&a, &file(1, 1, 0o644, 1000, 101), &plain, by), Difference::Meta);
        let coarse = Held::new(ALL, &Holds { time_granularity: 2_000_000_000, ..holds(true) });
        let b = Entry {
            meta: Meta { mtime: Some(Time { sec: 0, nsec: 0 }), ..a.meta.clone() },
            ..a.clone()
        };
        assert_eq!(difference(&a, &b, &coarse, by), Difference::None);
        let keeps =
            Keeps { modes: false, symlinks: false, earliest: 100, latest: 200, ..Keeps::ALL };
        let short = Held::new(ALL, &Holds { keeps, ..holds(true) });
        let clamped = |sec| Time { sec, nsec: 0 };
        let kept = |sec| short.meta(Kind::File, &file(1, sec, 0o644, 0, 55).meta);
        assert_eq!([kept(-5), kept(500)].map(|m| m.mtime), [clamped(100), clamped(200)].map(Some));
        assert_eq!((kept(150).mode, short.carries(Kind::Symlink)), (None, false));
        let untimed = Held::new(Wanted { times: false, ..ALL }, &holds(true));
        assert_eq!(difference(&a, &b, &untimed, by), Difference::Content, "as rsync without -t");
    }

    #[test]
    fn equal_digests_exactly_when_nothing_differs() {
        let held = Held::new(ALL, &holds(false));
        let digest = |name: &[u8], entry: &Entry, key: u8| {
            let mut digest = DirDigest::new(&[key; 32]);
            digest.add(name, entry, &held);
            digest.finish()
        };
        let a = file(1, 1, 0o644, 0, 55);
        assert_eq!(digest(b"x", &a, 1), digest(b"x", &file(1, 1, 0o644, 1000, 100), 1));
        assert_ne!(digest(b"x", &a, 1), digest(b"y", &a, 1));
        assert_ne!(digest(b"x", &a, 1), digest(b"x", &a, 2));
        assert_ne!(digest(b"x", &a, 1), digest(b"x", &file(1, 2, 0o644, 0, 55), 1));
    }

    #[test]
    fn times_are_rounded_down_also_before_1970() {
        let t = Time { sec: -3, nsec: 999 };
        assert_eq!(t.truncated(1), t);
        assert_eq!(t.truncated(100), Time { sec: -3, nsec: 900 });
        assert_eq!(t.truncated(1_000_000_000), Time { sec: -3, nsec: 0 });
        assert_eq!(t.truncated(2_000_000_000), Time { sec: -4, nsec: 0 });
    }
}
