//! Extended attributes, and access control lists, which Linux keeps as two of them
//! (xattr(7), acl(5)).
//!
//! A set is always *all there is of some classes*: what a source may read, what the user wants and
//! what a target can hold differ by class, so a set says which classes it speaks for, and nobody
//! touches those of another class. Listings carry a digest in place of the values.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The most bytes that the names and values of one set may have: a set has to fit into the control
/// part of a message.
pub const MAX_BYTES: usize = 512 * 1024;
/// The kernel's longest name, in bytes (`XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// The name of the access control list that a thing has.
pub const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// The name of the one that a directory gives to what is made in it.
pub const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Classes of extended attributes, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Classes(u8);

impl Classes {
    /// None of them.
    pub const NONE: Classes = Classes(0);
    /// `user.*`: what programs and people attach to files and directories.
    pub const USER: Classes = Classes(1);
    /// `trusted.*` and `security.*`, which take privileges; without the labels that a host's own
    /// security policy gives (SELinux, SMACK, IMA, EVM): those of another host mean nothing there;
    /// and without what overlayfs and XFS keep there for themselves.
    pub const PRIVILEGED: Classes = Classes(2);
    /// POSIX access control lists.
    pub const ACLS: Classes = Classes(4);

    /// These and those.
    #[must_use]
    pub const fn with(self, other: Classes) -> Classes {
        Classes(self.0 | other.0)
    }

    /// Those that are in both.
    #[must_use]
    pub const fn both(self, other: Classes) -> Classes {
        Classes(self.0 & other.0)
    }

    /// These if so, else none.
    #[must_use]
    pub const fn only_if(self, yes: bool) -> Classes {
        if yes { self } else { Classes::NONE }
    }

    /// Are there any?
    #[must_use]
    pub const fn any(self) -> bool {
        self.0 != 0
    }

    /// The class of an attribute; [`Classes::NONE`] of what is never carried.
    #[must_use]
    pub fn of(name: &[u8]) -> Classes {
        // What a host's own policy or a file system made, the latter two in place of lists.
        let labels: [&[u8]; 7] = [
            b"security.selinux",
            b"security.SMACK64",
            b"security.ima",
            b"security.evm",
            b"security.apparmor",
            b"trusted.overlay.",
            b"trusted.SGI_ACL_",
        ];
        if name == ACL_ACCESS || name == ACL_DEFAULT {
            Classes::ACLS
        } else if name.starts_with(b"user.") {
            Classes::USER
        } else if labels.iter().any(|label| name.starts_with(label)) {
            Classes::NONE
        } else if name.starts_with(b"trusted.") || name.starts_with(b"security.") {
            Classes::PRIVILEGED
        } else {
            Classes::NONE
        }
    }

    /// Does this attribute belong to one of these classes?
    #[must_use]
    pub fn have(self, name: &[u8]) -> bool {
        self.both(Classes::of(name)).any()
    }
}

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Xattr {
    /// Its whole name, `user.` and the like included.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// A digest of a set.
pub type Digest = [u8; 16];

/// All extended attributes of one thing that are of some classes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct Xattrs {
    classes: Classes,
    set: Set,
}

#[derive(Debug, Clone)]
enum Set {
    Empty,
    /// Sorted by name.
    These(Arc<[Xattr]>, Digest),
    /// Those with this digest: how a listing has them.
    Digest(Digest),
}

/// How a set travels.
#[derive(Serialize, Deserialize)]
enum Wire {
    Empty(Classes),
    These(Classes, Vec<Xattr>),
    Digest(Classes, Digest),
}

/// Why a set is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSet {
    /// A name that the kernel would not take, or of a class that the set does not speak for.
    #[error("a name of an extended attribute that is none")]
    Name,
    /// More than [`MAX_BYTES`].
    #[error("extended attributes of more than {MAX_BYTES} bytes")]
    Bytes,
    /// Names out of order, or twice.
    #[error("extended attributes out of order")]
    Order,
}

impl Xattrs {
    /// There are none of these classes.
    #[must_use]
    pub const fn none(classes: Classes) -> Xattrs {
        Xattrs { classes, set: Set::Empty }
    }

    /// A set of attributes, in any order.
    ///
    /// # Errors
    /// [`BadSet`].
    pub fn new(classes: Classes, mut all: Vec<Xattr>) -> Result<Xattrs, BadSet> {
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut bytes = 0;
        for (at, one) in all.iter().enumerate() {
            let known = classes.have(&one.name) && !one.name.contains(&0);
            if one.name.len() > NAME_MAX || !known {
                return Err(BadSet::Name);
            }
            if at > 0 && all[at - 1].name == one.name {
                return Err(BadSet::Order);
            }
            bytes += one.name.len() + one.value.len();
        }
        if bytes > MAX_BYTES {
            return Err(BadSet::Bytes);
        }
        Ok(Xattrs::sorted(classes, all))
    }

    fn sorted(classes: Classes, all: Vec<Xattr>) -> Xattrs {
        if all.is_empty() {
            return Xattrs::none(classes);
        }
        let mut hasher = blake3::Hasher::new();
        for Xattr { name, value } in &all {
            // Lengths first, so that no two sets share one encoding.
            hasher.update(&(name.len() as u32).to_le_bytes()).update(name);
            hasher.update(&(value.len() as u32).to_le_bytes()).update(value);
        }
        let mut digest = [0; 16];
        hasher.finalize_xof().fill(&mut digest);
        Xattrs { classes, set: Set::These(all.into(), digest) }
    }

    /// The classes that it speaks for.
    #[must_use]
    pub fn classes(&self) -> Classes {
        self.classes
    }

    /// The attributes; none where only their digest is known.
    #[must_use]
    pub fn all(&self) -> &[Xattr] {
        match &self.set {
            Set::These(all, _) => all,
            Set::Empty | Set::Digest(_) => &[],
        }
    }

    /// Is there a default access control list, which what is made in such a directory inherits?
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.all().iter().any(|one| one.name == ACL_DEFAULT)
    }

    /// Certainly none at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.set, Set::Empty)
    }

    /// Which set it is: zeros for the empty one.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match &self.set {
            Set::Empty => [0; 16],
            Set::These(_, digest) | Set::Digest(digest) => *digest,
        }
    }

    /// The same, without the values.
    #[must_use]
    pub fn only_digest(&self) -> Xattrs {
        let set = match &self.set {
            Set::Empty => Set::Empty,
            Set::These(_, digest) | Set::Digest(digest) => Set::Digest(*digest),
        };
        Xattrs { classes: self.classes, set }
    }

    /// Bytes of names and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.all().iter().map(|one| one.name.len() + one.value.len()).sum()
    }

    /// What of it is of these classes.
    #[must_use]
    pub fn of(&self, classes: Classes) -> Xattrs {
        let kept = self.classes.both(classes);
        match &self.set {
            Set::These(all, _) if kept != self.classes => {
                let all = all.iter().filter(|one| kept.have(&one.name)).cloned().collect();
                Xattrs::sorted(kept, all)
            }
            set => Xattrs { classes: kept, set: set.clone() },
        }
    }

    /// The numbers of users and groups in its access control lists.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        let lists = self.all().iter().filter(|one| Classes::ACLS.have(&one.name));
        lists.flat_map(|one| acl_entries(&one.value)).filter_map(|entry| entry.owner())
    }

    /// With other numbers of users and groups in its access control lists.
    #[must_use]
    pub fn with_owners(&self, number: impl Fn(Owner) -> u32) -> Xattrs {
        if self.owners().all(|owner| number(owner) == owner.id()) {
            return self.clone();
        }
        let renumber = |one: &Xattr| {
            if !Classes::ACLS.have(&one.name) {
                return one.clone();
            }
            let mut entries: Vec<AclEntry> = acl_entries(&one.value).collect();
            for entry in &mut entries {
                if let Some(owner) = entry.owner() {
                    entry.id = number(owner);
                }
            }
            // The kernel wants them in order; of two that have become one the first stays.
            entries.sort_by_key(|entry| (entry.tag, entry.id));
            entries.dedup_by_key(|entry| (entry.tag, entry.id));
            let mut value = one.value[..ACL_HEADER].to_vec();
            for AclEntry { tag, perm, id } in entries {
                value.extend_from_slice(&tag.to_le_bytes());
                value.extend_from_slice(&perm.to_le_bytes());
                value.extend_from_slice(&id.to_le_bytes());
            }
            Xattr { name: one.name.clone(), value }
        };
        Xattrs::sorted(self.classes, self.all().iter().map(renumber).collect())
    }
}

impl Xattrs {
    /// With an access control list as chmod(2) would leave it: what the owner, the mask (without
    /// one, the group) and others may is the mode's.
    #[must_use]
    pub fn with_mode(&self, mode: u32) -> Xattrs {
        const USER_OBJ: u16 = 0x01;
        const GROUP_OBJ: u16 = 0x04;
        const MASK: u16 = 0x10;
        const OTHER: u16 = 0x20;
        let change = |one: &Xattr| {
            if one.name != ACL_ACCESS {
                return one.clone();
            }
            let mut value = one.value.clone();
            let masked = acl_entries(&value).any(|entry| entry.tag == MASK);
            for (at, entry) in acl_entries(&one.value).enumerate() {
                let perm = match entry.tag {
                    USER_OBJ => mode >> 6 & 7,
                    MASK => mode >> 3 & 7,
                    GROUP_OBJ if !masked => mode >> 3 & 7,
                    OTHER => mode & 7,
                    _ => continue,
                };
                let place = ACL_HEADER + at * 8 + 2;
                value[place..place + 2].copy_from_slice(&(perm as u16).to_le_bytes());
            }
            Xattr { name: one.name.clone(), value }
        };
        if self.all().iter().all(|one| one.name != ACL_ACCESS) {
            return self.clone();
        }
        Xattrs::sorted(self.classes, self.all().iter().map(change).collect())
    }
}

impl PartialEq for Xattrs {
    fn eq(&self, other: &Xattrs) -> bool {
        self.classes == other.classes && self.digest() == other.digest()
    }
}

impl Eq for Xattrs {}

impl std::hash::Hash for Xattrs {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.classes, self.digest()).hash(state);
    }
}

impl From<Xattrs> for Wire {
    fn from(xattrs: Xattrs) -> Wire {
        match xattrs.set {
            Set::Empty => Wire::Empty(xattrs.classes),
            Set::These(all, _) => Wire::These(xattrs.classes, all.to_vec()),
            Set::Digest(digest) => Wire::Digest(xattrs.classes, digest),
        }
    }
}

impl TryFrom<Wire> for Xattrs {
    type Error = BadSet;

    fn try_from(wire: Wire) -> Result<Xattrs, BadSet> {
        Ok(match wire {
            Wire::Empty(classes) => Xattrs::none(classes),
            Wire::These(classes, all) => Xattrs::new(classes, all)?,
            Wire::Digest(classes, digest) => Xattrs { classes, set: Set::Digest(digest) },
        })
    }
}

/// Somebody whom an access control list names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A user, by number.
    User(u32),
    /// A group, by number.
    Group(u32),
}

impl Owner {
    /// The number.
    #[must_use]
    pub fn id(self) -> u32 {
        match self {
            Owner::User(id) | Owner::Group(id) => id,
        }
    }
}

/// Bytes before the entries: a version. The whole is `struct posix_acl_xattr_header` of the
/// kernel's `linux/posix_acl_xattr.h`, little-endian everywhere.
const ACL_HEADER: usize = 4;

#[derive(Debug, Clone, Copy)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

impl AclEntry {
    fn owner(&self) -> Option<Owner> {
        const USER: u16 = 0x02;
        const GROUP: u16 = 0x08;
        match self.tag {
            USER => Some(Owner::User(self.id)),
            GROUP => Some(Owner::Group(self.id)),
            _ => None,
        }
    }
}

fn acl_entries(value: &[u8]) -> impl Iterator<Item = AclEntry> {
    value.get(ACL_HEADER..).unwrap_or_default().chunks_exact(8).map(|e| AclEntry {
        tag: u16::from_le_bytes([e[0], e[1]]),
        perm: u16::from_le_bytes([e[2], e[3]]),
        id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALL: Classes = Classes::USER.with(Classes::PRIVILEGED).with(Classes::ACLS);

    fn one(name: &str, value: &[u8]) -> Xattr {
        Xattr { name: name.as_bytes().to_vec(), value: value.to_vec() }
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&perm.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    #[test]
    fn names_belong_to_classes() {
        for (name, class) in [
            ("user.x", Classes::USER),
            ("trusted.md5", Classes::PRIVILEGED),
            ("security.capability", Classes::PRIVILEGED),
            ("security.selinux", Classes::NONE),
            ("trusted.overlay.opaque", Classes::NONE),
            ("trusted.SGI_ACL_FILE", Classes::NONE),
            ("system.posix_acl_access", Classes::ACLS),
            ("system.posix_acl_default", Classes::ACLS),
            ("system.nfs4_acl", Classes::NONE),
            ("btrfs.compression", Classes::NONE),
        ] {
            assert_eq!(Classes::of(name.as_bytes()), class, "{name}");
        }
    }

    #[test]
    fn a_set_is_known_by_its_digest() {
        let a = Xattrs::new(ALL, vec![one("user.b", b"2"), one("user.a", b"1")]).unwrap();
        let b = Xattrs::new(ALL, vec![one("user.a", b"1"), one("user.b", b"2")]).unwrap();
        assert_eq!(a, b);
        assert_eq!(a, a.only_digest());
        assert_eq!(a.only_digest().all(), []);
        let c = Xattrs::new(ALL, vec![one("user.a", b"1u"), one("user.b", b"")]).unwrap();
        assert_ne!(a, c);
        assert_ne!(a, Xattrs::none(ALL));
        assert_eq!(Xattrs::new(ALL, vec![]).unwrap(), Xattrs::none(ALL));
        for set in [a.clone(), a.only_digest(), Xattrs::none(ALL)] {
            let bytes = postcard::to_stdvec(&set).unwrap();
            let back: Xattrs = postcard::from_bytes(&bytes).unwrap();
            assert_eq!((&back, back.all()), (&set, set.all()));
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let long = format!("user.{}", "x".repeat(251));
        let big = vec![0; MAX_BYTES];
        for (all, why) in [
            (vec![one("system.x", b"")], BadSet::Name),
            (vec![one("user.a\0b", b"")], BadSet::Name),
            (vec![one(&long, b"")], BadSet::Name),
            (vec![one("user.a", b""), one("user.a", b"")], BadSet::Order),
            (vec![one("user.a", &big)], BadSet::Bytes),
        ] {
            assert_eq!(Xattrs::new(ALL, all).unwrap_err(), why);
        }
        let other = Wire::These(Classes::ACLS, vec![one("user.a", b"")]);
        let bytes = postcard::to_stdvec(&other).unwrap();
        assert!(
            postcard::from_bytes::<Xattrs>(&bytes).is_err(),
            "of a class it does not speak for"
        );
    }

    #[test]
    fn of_other_classes_nothing_is_said() {
        let all = vec![one("user.a", b"1"), one("trusted.t", b"2"), one("user.b", b"3")];
        let set = Xattrs::new(ALL, all).unwrap();
        let user = set.of(Classes::USER);
        assert_eq!(user.classes(), Classes::USER);
        assert_eq!(user.all(), [one("user.a", b"1"), one("user.b", b"3")]);
        assert_eq!(set.of(Classes::ACLS), Xattrs::none(Classes::ACLS));
        assert_eq!(set.of(ALL), set);
    }

    #[test]
    fn a_list_follows_a_mode_as_chmod_has_it() {
        const ME: u32 = u32::MAX;
        let name = "system.posix_acl_access";
        for (list, want) in [
            (
                vec![(1, 7, ME), (2, 4, 10), (4, 5, ME), (0x10, 7, ME), (0x20, 4, ME)],
                vec![(1, 6, ME), (2, 4, 10), (4, 5, ME), (0x10, 4, ME), (0x20, 0, ME)],
            ),
            (
                vec![(1, 7, ME), (4, 5, ME), (0x20, 4, ME)],
                vec![(1, 6, ME), (4, 4, ME), (0x20, 0, ME)],
            ),
        ] {
            let set = |list: &[_]| Xattrs::new(ALL, vec![one(name, &acl(list))]).unwrap();
            assert_eq!(set(&list).with_mode(0o640), set(&want));
        }
        let other = Xattrs::new(ALL, vec![one("user.a", b"1")]).unwrap();
        assert_eq!(other.with_mode(0o640), other);
    }

    #[test]
    fn lists_get_the_targets_numbers_and_stay_in_order() {
        const ME: u32 = u32::MAX;
        let list = [(1, 7, ME), (2, 4, 10), (2, 6, 20), (4, 5, ME), (8, 1, 30), (0x20, 4, ME)];
        let name = "system.posix_acl_access";
        let set = Xattrs::new(ALL, vec![one("user.a", b"1"), one(name, &acl(&list))]).unwrap();
        let owners: Vec<Owner> = set.owners().collect();
        assert_eq!(owners, [Owner::User(10), Owner::User(20), Owner::Group(30)]);
        let to = |owner| match owner {
            Owner::User(10) => 99,
            Owner::Group(30) => 3,
            other => other.id(),
        };
        let want = [(1, 7, ME), (2, 6, 20), (2, 4, 99), (4, 5, ME), (8, 1, 3), (0x20, 4, ME)];
        let want = Xattrs::new(ALL, vec![one("user.a", b"1"), one(name, &acl(&want))]).unwrap();
        assert_eq!(set.with_owners(to), want);
        assert_eq!(set.with_owners(Owner::id), set);
        // Two that become one: the first stays, nothing is twice.
        let merged = set.with_owners(|_| 5);
        let merged: Vec<Owner> = merged.owners().collect();
        assert_eq!(merged, [Owner::User(5), Owner::Group(5)]);
        // What is no list has no owners, and is left as it is.
        let odd = Xattrs::new(ALL, vec![one(name, b"\x02")]).unwrap();
        assert_eq!(odd.owners().count(), 0);
        assert_eq!(odd.with_owners(|_| 1), odd);
    }
}
