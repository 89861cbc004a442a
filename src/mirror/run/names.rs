//! Owners by name: whose numbers the target is asked about, and who becomes somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::Event;
use super::{Link, Loop};
use crate::carrier::Carrier;
use crate::config::mapping::{OwnerMap, To};
use crate::error::{Error, Result};
use crate::source::OwnerNames;

impl Loop {
    /// Names of the source's owners were looked up, and who becomes somebody else is known: the
    /// target is asked for its numbers. Those without a name keep theirs.
    pub(super) fn names(&mut self, names: &OwnerNames) {
        let config = &self.running.config;
        let mapping = Arc::clone(&config.mapping);
        let numeric = config.attributes.numeric_ids;
        let sort = |ids: &BTreeSet<u32>, named: &BTreeMap<u32, String>, map: &OwnerMap| {
            let (mut ask, mut known) = (BTreeMap::new(), Vec::new());
            for &id in ids {
                let name = named.get(&id).filter(|_| !numeric).map_or("", String::as_str);
                match map.find(id, name) {
                    Some(To::Id(to)) => known.push((id, *to)),
                    Some(To::Name(to)) => drop(ask.insert(id, to.clone())),
                    None if id == 0 || name.is_empty() => known.push((id, id)),
                    None => drop(ask.insert(id, name.to_owned())),
                }
            }
            (ask, known)
        };
        let (mut users, known_users) = sort(&self.asking.users, &names.users, &mapping.users);
        let (mut groups, known_groups) = sort(&self.asking.groups, &names.groups, &mapping.groups);
        for (id, _) in &known_users {
            self.asking.users.remove(id);
        }
        for (id, _) in &known_groups {
            self.asking.groups.remove(id);
        }
        if users.is_empty() && groups.is_empty() {
            return self.handle(Event::NameIds { users: known_users, groups: known_groups });
        }
        // Somebody whom nobody knows keeps the number that was asked about: of whom a map names that
        // must be told from having that very number.
        if !self.names_tried {
            self.names_tried = true;
            users.extend((0..).map(|at| u32::MAX - at).zip(mapping.users.names()));
            groups.extend((0..).map(|at| u32::MAX - at).zip(mapping.groups.names()));
        }
        // All of them are told together: until then nothing is compared.
        self.known = (known_users, known_groups);
        if let Link::Up { carrier, .. } = &mut self.link {
            carrier.ask_names(&OwnerNames { users, groups });
        }
    }

    /// Nobody on the target has a name that a map gives: files would go to somebody else.
    pub(super) fn unknown_name(
        &self,
        told: &[(u32, u32)],
        map: &OwnerMap,
        what: &str,
        option: &str,
    ) -> Result<()> {
        let tried = (0..).map(|at| u32::MAX - at).zip(map.names());
        for (number, name) in tried {
            if told.contains(&(number, number)) {
                let target = &self.running.config.target;
                return Err(Error::failed(format!("{target} knows no {what} {name}"))
                    .hint(format!("{option} gives files to names of the target, or to numbers")));
            }
        }
        Ok(())
    }
}
