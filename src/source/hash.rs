//! What files of the source hold, for comparing by content.

use std::sync::atomic::AtomicBool;

use lsync_agent::read::{self, Calm};
use lsync_protocol::message::{Hashed, Trouble};
use lsync_protocol::path::RelPath;

use lsync_agent::walk::{self, ListError};

use super::{Source, SourceDir};
use crate::error::plain;

impl Source {
    /// One directory as it stands now, reduced to what is mirrored.
    ///
    /// # Errors
    /// Why it could not be read, or does not count.
    pub fn relist(&self, dir: &RelPath) -> Result<SourceDir, String> {
        let root = self.root().map_err(|_| "the source is not there".to_owned())?;
        let listing = walk::list(&root, dir).map_err(|error| match error {
            ListError::Missing => "gone".to_owned(),
            ListError::Trouble(error) => plain(&error.to_string()),
        })?;
        let facts = &listing.facts;
        if self.one_file_system && facts.identity.dev != root.identity().dev {
            return Err("another file system".to_owned());
        }
        self.note_mount(dir, facts.mount_root).map_err(|error| error.to_string())?;
        Ok(self.scoped(dir.clone(), listing))
    }

    /// The hashes of these files of one directory, in this order; shorter when it is told to stop.
    /// Where the root is not the root any more, nothing is known of them.
    #[must_use]
    pub fn hash(
        &self,
        dir: &RelPath,
        names: &[Box<[u8]>],
        key: &[u8; 32],
        calm: bool,
        stop: &AtomicBool,
    ) -> Vec<Hashed> {
        let trouble = |text: String| Hashed::Trouble(Trouble { errno: 0, text });
        let Ok(root) = self.root() else {
            return vec![trouble("the source is not there".into()); names.len()];
        };
        let calm = if calm { Calm::Yes } else { Calm::No };
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let hashed = match dir.join(name) {
                Ok(path) => read::hash(&root, &path, key, calm, stop),
                Err(error) => Some(trouble(error.to_string())),
            };
            let Some(hashed) = hashed else { break };
            files.push(hashed);
        }
        files
    }
}
