//! Owners: the source's numbers of users and groups, and the target's for the same names.
//!
//! A number is asked once, before the first entry that bears it is compared. With
//! `--numeric-ids`, and for owners that the target does not take, numbers stay as they are. Access
//! control lists name owners, too.

use std::collections::{BTreeSet, HashMap};

use lsync_protocol::entry::{Entry, Held, Named};
use lsync_protocol::xattr::{Classes, Owner, Xattrs};

use crate::config::mapping::{Chmod, Mapping};

/// What is known of owners' numbers.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    numeric: bool,
    /// There are maps: then root is nobody special, and numbers are asked about, too.
    maps: (bool, bool),
    chmod: Chmod,
    users: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
    asked: Unasked,
    /// Names of users are of interest although they are not carried.
    pub(super) curious: bool,
}

/// Numbers to ask about.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unasked {
    /// Of users.
    pub users: BTreeSet<u32>,
    /// Of groups.
    pub groups: BTreeSet<u32>,
}

impl Unasked {
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }
}

impl Owners {
    pub(crate) fn new(numeric: bool, mapping: &Mapping) -> Owners {
        let maps = (!mapping.users.is_empty(), !mapping.groups.is_empty());
        Owners { numeric, maps, chmod: mapping.chmod.clone(), ..Owners::default() }
    }

    /// Which numbers of these entries are not known yet.
    pub(crate) fn unknown<'a>(
        &self,
        entries: impl Iterator<Item = &'a Entry>,
        held: &Held,
    ) -> Unasked {
        let mut unasked = Unasked::default();
        let lists = held.xattrs().both(Classes::ACLS).any();
        let (users, groups) = (self.maps.0 || !self.numeric, self.maps.1 || !self.numeric);
        if !(users || groups) || !(held.owners() || self.curious || held.groups() || lists) {
            return unasked;
        }
        // Root is root everywhere, unless a map says otherwise.
        let user = |id: u32| users && (id != 0 || self.maps.0) && !self.users.contains_key(&id);
        let group = |id: u32| groups && (id != 0 || self.maps.1) && !self.groups.contains_key(&id);
        for entry in entries {
            if let Some(uid) = entry.meta.uid
                && (held.owners() || self.curious)
                && user(uid)
            {
                unasked.users.insert(uid);
            }
            if let Some(gid) = entry.meta.gid
                && held.groups()
                && group(gid)
            {
                unasked.groups.insert(gid);
            }
            for owner in entry.meta.xattrs.iter().flat_map(Xattrs::owners) {
                match owner {
                    Owner::User(id) if user(id) => drop(unasked.users.insert(id)),
                    Owner::Group(id) if group(id) => drop(unasked.groups.insert(id)),
                    _ => {}
                }
            }
        }
        unasked
    }

    /// These are being asked about.
    pub(crate) fn ask(&mut self, unasked: &Unasked) {
        self.asked = unasked.clone();
    }

    /// The target answered. What it said nothing of stays as it is: it is not asked again.
    pub(crate) fn learn(&mut self, users: &[(u32, u32)], groups: &[(u32, u32)]) {
        let asked = std::mem::take(&mut self.asked);
        self.users.extend(asked.users.into_iter().map(|id| (id, id)));
        self.groups.extend(asked.groups.into_iter().map(|id| (id, id)));
        self.users.extend(users.iter().copied());
        self.groups.extend(groups.iter().copied());
    }

    /// Rewrites an entry's owners to the target's numbers, and its permissions to what they become.
    pub(crate) fn map(&self, entry: &mut Entry) {
        // What was not asked about stays as it is.
        let to = |known: &HashMap<u32, u32>, id: u32| known.get(&id).copied().unwrap_or(id);
        let meta = &mut entry.meta;
        meta.uid = meta.uid.map(|uid| to(&self.users, uid));
        meta.gid = meta.gid.map(|gid| to(&self.groups, gid));
        if let Some(xattrs) = &mut meta.xattrs {
            *xattrs = xattrs.with_owners(|owner| match owner {
                Owner::User(id) => to(&self.users, id),
                Owner::Group(id) => to(&self.groups, id),
            });
        }
        if let Some(mode) = meta.mode.filter(|_| !self.chmod.is_empty()) {
            let mode = self.chmod.apply(entry.kind, mode);
            meta.mode = Some(mode);
            meta.xattrs = meta.xattrs.as_ref().map(|xattrs| xattrs.with_mode(mode));
        }
    }

    /// Rewrites a listing's owners.
    pub(crate) fn map_all(&self, entries: &mut [Named]) {
        for named in entries {
            self.map(&mut named.entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_the_target_says_nothing_of_is_not_asked_for_ever() {
        let mut owners = Owners::new(false, &Mapping::default());
        let unasked = Unasked { users: BTreeSet::from([7, 8]), groups: BTreeSet::from([9]) };
        owners.ask(&unasked);
        owners.learn(&[(7, 70)], &[]);
        let known = |map: &HashMap<u32, u32>, id: u32| map.get(&id).copied();
        assert_eq!(known(&owners.users, 7), Some(70));
        assert_eq!(known(&owners.users, 8), Some(8));
        assert_eq!(known(&owners.groups, 9), Some(9));
        assert!(owners.asked.is_empty());
    }
}
