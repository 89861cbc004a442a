//! What of the source a target cannot have: said once, and never a difference.

use std::time::Instant;

use lsync_protocol::entry::{Entry, Held, Keeps, Kind, Named};
use lsync_protocol::handshake::Welcome;
use lsync_protocol::path::{Escaped, RelPath, folded};
use lsync_protocol::xattr::{Classes, Xattr};

use super::{Mirror, Report};
use crate::collate::Marks;

/// The user and the groups that an agent may give things to, which can give none to others.
#[derive(Debug)]
struct Own {
    user: u32,
    groups: Vec<u32>,
}

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Lacks {
    symlinks: bool,
    specials: bool,
    devices: bool,
    hard_links: bool,
    modes: bool,
    xattrs: bool,
    owners: bool,
    /// Whose things are whose they should be, where none can be given away; `None`: nothing to say.
    own: Option<Own>,
    /// Nothing may be tried there.
    pub(super) read_only: bool,
}

impl Mirror {
    /// Says which kinds of things are left out, where they were asked for.
    pub(super) fn not_mirrored(&mut self, path: &RelPath, kind: Kind) {
        let wanted = self.rules.wanted;
        let keeps = self.held.as_ref().map_or(Keeps::ALL, Held::keeps);
        let none = "the target's file system has none";
        let (said, what, why) = match kind {
            Kind::File | Kind::Dir => return,
            Kind::Symlink => (&mut self.lacks.symlinks, "symbolic links", none.to_owned()),
            Kind::Fifo | Kind::Socket if wanted.specials => {
                (&mut self.lacks.specials, "FIFOs and sockets", none.to_owned())
            }
            Kind::CharDevice | Kind::BlockDevice if wanted.devices => {
                let why = if keeps.specials {
                    "the target's agent may not make them (CAP_MKNOD is missing; root has it, \
                     --no-devices says that they are not wanted)"
                        .to_owned()
                } else {
                    format!("{none} (--no-devices says that they are not wanted)")
                };
                (&mut self.lacks.devices, "device files", why)
            }
            _ => return,
        };
        if !std::mem::replace(said, true) {
            let text = format!("{what} are left out, {path} is the first: {why}");
            self.say(Report::Warning(text));
        }
    }

    /// Says what of everything's attributes the target's file system does not keep.
    pub(super) fn not_kept(&mut self, welcome: &Welcome) {
        let wanted = self.rules.wanted;
        let asked = wanted.perms || wanted.owner || wanted.group;
        if asked && !welcome.holds.keeps.modes && !self.lacks.modes {
            self.lacks.modes = true;
            self.say(Report::Warning(
                "permission bits and owners are left out on the target: its file system keeps none \
                 (--no-perms, --no-owner and --no-group say that they are not wanted)"
                    .to_owned(),
            ));
        }
    }

    /// Says that names of one file become files of their own.
    pub(super) fn not_linked(&mut self, dir: &RelPath, entries: &[Named]) {
        let lacks = self.held.as_ref().is_some_and(|held| !held.keeps().hard_links);
        if !lacks || !self.rules.wanted.hard_links || self.lacks.hard_links {
            return;
        }
        let linked = entries.iter().find(|named| named.entry.file.is_some());
        if let Some(path) = linked.and_then(|named| dir.join(&named.name).ok()) {
            self.lacks.hard_links = true;
            self.say(Report::Warning(format!(
                "names of one file become files of their own, {path} is the first: the target's \
                 file system has no hard links (--no-hard-links says that they are not wanted)"
            )));
        }
    }

    /// A name is free on the target. Where names that differ only in case are one, another may
    /// have waited for it.
    pub(super) fn made_room(&mut self, path: &RelPath, now: Instant) {
        if self.problems.is_empty() || !self.held.as_ref().is_some_and(Held::folds_case) {
            return;
        }
        let (dir, name) = (path.parent(), path.name().map(folded));
        let waits = |other: &RelPath| other.parent() == dir && other.name().map(folded) == name;
        let waiting: Vec<RelPath> = self
            .problems
            .list()
            .map(|problem| &problem.path)
            .filter(|p| waits(p))
            .cloned()
            .collect();
        for path in waiting {
            self.collate.mark(&path, Marks::NAME.with(Marks::CONTENT).with(Marks::TREE), now);
        }
    }

    /// Says which extended attributes of the source are left out.
    pub(super) fn xattrs_left_out(&mut self, entry: &Entry) {
        let (Some(xattrs), Some(held)) = (&entry.meta.xattrs, &self.held) else { return };
        if self.lacks.xattrs || xattrs.is_empty() || xattrs.classes() == held.xattrs() {
            return;
        }
        let left_out = |one: &&Xattr| !held.xattrs().have(&one.name);
        let Some(first) = xattrs.all().iter().find(left_out) else { return };
        let (what, why) = match Classes::of(&first.name) {
            Classes::ACLS => (
                "access control lists",
                "its file system has none (--no-acls: they are not wanted)",
            ),
            Classes::USER => (
                "extended attributes",
                "its file system has none (--no-xattrs: they are not wanted)",
            ),
            _ => (
                "trusted and security attributes",
                "they take CAP_SYS_ADMIN there, as root has it (--no-xattrs: they are not wanted)",
            ),
        };
        let why = match self.lacks.read_only {
            true => "our key may only read there, so it is not known which it can have",
            false => why,
        };
        let name = Escaped(&first.name);
        let text = format!("{what} are left out on the target, {name} is the first: {why}");
        self.lacks.xattrs = true;
        self.say(Report::Warning(text));
    }

    /// Whether anything may be given away there, and so whether owners are worth a look.
    pub(super) fn may_give(&mut self, welcome: &Welcome) {
        let (wanted, holds) = (self.rules.wanted, &welcome.holds);
        let tell = !holds.chown && holds.keeps.modes && !self.lacks.owners;
        let own = || {
            let groups = holds.groups.iter().copied().chain([holds.own_group]).collect();
            Own { user: holds.own_user, groups }
        };
        self.lacks.own = (tell && (wanted.owner || wanted.group)).then(own);
        self.owners.curious = self.lacks.own.is_some() && wanted.owner;
    }

    /// The same of a directory and what is in it.
    pub(super) fn owners_left_out(&mut self, dir: &RelPath, here: &Entry, entries: &[Named]) {
        if self.lacks.own.is_none() {
            return;
        }
        self.owner_left_out(dir, here);
        for named in entries {
            if let Ok(path) = dir.join(&named.name) {
                self.owner_left_out(&path, &named.entry);
            }
        }
    }

    /// Says that owners stay as they are, at the first that should be another one.
    pub(super) fn owner_left_out(&mut self, path: &RelPath, entry: &Entry) {
        let (wanted, Some(own)) = (self.rules.wanted, &self.lacks.own) else { return };
        let other_user = entry.meta.uid.is_some_and(|uid| uid != own.user);
        let other_group = entry.meta.gid.is_some_and(|gid| !own.groups.contains(&gid));
        let (what, switch) = match (wanted.owner && other_user, wanted.group && other_group) {
            (true, _) => ("owners", "--no-owner"),
            (false, true) => ("groups", "--no-group"),
            (false, false) => return,
        };
        let first = if path.is_root() { "SOURCE".to_owned() } else { path.to_string() };
        self.lacks.own = None;
        self.lacks.owners = true;
        self.owners.curious = false;
        self.say(Report::Warning(format!(
            "{what} are left as they are on the target, {first} is the first: the agent there may \
             not give files away (CAP_CHOWN is missing; root has it, {switch}: they are not wanted)"
        )));
    }

    /// Says that owners cannot become others, where they were to.
    pub(super) fn unmapped(&mut self, welcome: &Welcome) {
        let maps = &self.rules.mapping;
        let maps_owners = !maps.users.is_empty() || !maps.groups.is_empty();
        if maps_owners && !welcome.holds.chown && !self.lacks.owners {
            self.lacks.owners = true;
            self.say(Report::Warning(
                "owners do not become others: the target's agent may not give files away \
                 (CAP_CHOWN is missing; root has it)"
                    .to_owned(),
            ));
        }
    }
}
