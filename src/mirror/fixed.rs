//! What was fixed on the target's side, for the key that we log in with: heeded, and said once.

use lsync_protocol::handshake::Welcome;
use lsync_protocol::path::Escaped;

use super::{Mirror, Report};
use crate::config::{Delete, Target};

impl Mirror {
    /// Where nothing is deleted, nothing is planned to be.
    pub(super) fn heed(&mut self, welcome: &Welcome) {
        let Some(fixed) = &welcome.fixed else {
            self.rules.delete = self.delete;
            return;
        };
        self.lacks.read_only = fixed.read_only;
        self.rules.delete = if fixed.no_delete { Delete::No } else { self.delete };
        if self.before.is_some() {
            return;
        }
        if fixed.no_delete && self.delete != Delete::No {
            self.say(Report::Fixed(
                "the host deletes nothing for this key: what is deleted here stays there, as with \
                 --delete no"
                    .to_owned(),
            ));
        }
        if let Some(trash) = &fixed.trash {
            self.say(Report::Fixed(format!(
                "the host keeps in {trash} what is deleted or replaced"
            )));
        }
    }
}

/// What is to be said of the root, where another one was asked for or that cannot be told.
pub(super) fn root(target: &Target, welcome: &Welcome) -> Option<String> {
    let (Target::Ssh(target), Some(_), Some(root)) = (target, &welcome.fixed, &welcome.root) else {
        return None;
    };
    let asked = target.dir.strip_suffix(b"/").unwrap_or(&target.dir);
    (asked != root.path)
        .then(|| format!("the host fixes the directory for this key: {}", Escaped(&root.path)))
}
