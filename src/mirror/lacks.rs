//! What of the source a target cannot have: said once, and never a difference.

use lsync_protocol::entry::{Entry, Kind};
use lsync_protocol::handshake::Welcome;
use lsync_protocol::path::{Escaped, RelPath};
use lsync_protocol::xattr::{Classes, Xattr};

use super::{Mirror, Report};

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Lacks {
    devices: bool,
    xattrs: bool,
    owners: bool,
    /// Nothing may be tried there.
    pub(super) read_only: bool,
}

impl Mirror {
    /// Says that device files are left out, where they were asked for.
    pub(super) fn not_mirrored(&mut self, path: &RelPath, kind: Kind) {
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        if device && self.rules.wanted.devices && !self.lacks.devices {
            self.lacks.devices = true;
            self.say(Report::Warning(format!(
                "device files are left out, {path} is the first: the target's agent may not make \
                 them (CAP_MKNOD is missing; root has it, --no-devices says that they are not wanted)"
            )));
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
