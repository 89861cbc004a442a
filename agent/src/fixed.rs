//! What is fixed on the target's side, whatever a source asks for: `lsync-agent --root DIR` as the
//! command of a key in `authorized_keys`.
//!
//! The root is opened once, before a byte of the source is read, and everything happens beneath that
//! descriptor: nothing that is validated is resolved again. The command that the source asked sshd
//! for (`SSH_ORIGINAL_COMMAND`) is never looked at.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lsync_protocol::handshake;
use lsync_protocol::path::{Escaped, RelPath};

use crate::confine;
use crate::root::{Root, path_bytes};
use crate::serve::ServeOptions;
use crate::trouble::io_trouble;

mod knock;

pub(crate) use knock::Knock;

/// What the agent's arguments fix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The root: absolute, `~/…`, or relative to where the agent is started.
    pub root: PathBuf,
    /// No name is removed.
    pub no_delete: bool,
    /// Nothing is changed.
    pub read_only: bool,
    /// What is removed or replaced is kept in this directory of the root.
    pub trash: Option<RelPath>,
}

/// A root that is fixed, and open.
#[derive(Debug)]
pub struct Fixed {
    pub(crate) root: Root,
    pub(crate) path: PathBuf,
    pub(crate) said: handshake::Fixed,
    /// Landlock is in force, and lets no name move between directories.
    pub(crate) no_moves: bool,
}

impl Fixed {
    /// Opens the root. The directory has to exist: what a key may reach is for the target's
    /// administrator to make.
    ///
    /// # Errors
    /// In words: it cannot be opened, or whoever may write in it could lift what is fixed.
    pub fn open(bounds: &Bounds, options: &ServeOptions) -> Result<Fixed, String> {
        let path = crate::admit::wanted(options, &path_bytes(&bounds.root));
        let path = path.map_err(|_| "no home directory".to_owned())?;
        let path = std::path::absolute(&path).unwrap_or(path);
        let shown = Escaped(&path_bytes(&path)).to_string();
        let root = Root::open(&path)
            .map_err(|error| format!("cannot serve {shown}: {}", io_trouble(&error).text))?;
        if !bounds.read_only {
            let home = options.home.as_deref();
            let program = std::env::current_exe().ok();
            harmless(&root, home, program.as_deref())
                .map_err(|why| format!("refused to serve {shown}: {why}"))?;
        }
        let said = handshake::Fixed {
            no_delete: bounds.no_delete,
            read_only: bounds.read_only,
            trash: bounds.trash.clone(),
            confined: false,
        };
        Ok(Fixed { root, path, said, no_moves: false })
    }

    /// Confines this process, all its threads to come, to the root. Nothing of the source was read by
    /// then.
    ///
    /// # Errors
    /// In words, when the kernel can and does not.
    pub fn confine(&mut self, cache: Option<&Path>) -> Result<(), String> {
        if self.said.read_only {
            self.said.confined = confine::read_only(&self.root)?;
            return Ok(());
        }
        if let Some(cache) = cache {
            // It has to be there to be allowed; without it nobody is told who has the lock.
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(cache);
        }
        self.said.confined = confine::confine(&self.root, cache, self.said.trash.is_some())?;
        self.no_moves = self.said.confined && !confine::can_allow_moves();
        Ok(())
    }
}

/// Whoever may write in the home directory logs in by a file of it, and runs what its shell reads
/// there; whoever may write beside the agent's program is the next agent.
fn harmless(root: &Root, home: Option<&Path>, program: Option<&Path>) -> Result<(), String> {
    if Root::open("/").is_ok_and(|slash| slash.identity() == root.identity()) {
        return Err("name a directory below it".to_owned());
    }
    let within = |inner: &Root, outer: &Root| {
        inner.upwards().is_ok_and(|all| all.contains(&outer.identity()))
    };
    let holds = |place: Option<&Path>| {
        place.and_then(|place| Root::open(place).ok()).is_some_and(|place| within(&place, root))
    };
    if holds(home) {
        return Err(
            "the account's home is in it, and so is what says what this key may do; name a \
                    directory that does not hold it"
                .to_owned(),
        );
    }
    let keys = home.and_then(|home| Root::open(home.join(".ssh")).ok());
    if keys.is_some_and(|keys| within(root, &keys)) {
        return Err("what says what this key may do is in it".to_owned());
    }
    if holds(program.and_then(Path::parent)) {
        return Err("the agent's program is in it".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn a_root_that_could_lift_its_own_bounds_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["home/.ssh", "home/mirror", "bin/here"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let refused = |root: &Path| {
            let root = Root::open(root).unwrap();
            harmless(&root, Some(&at("home")), Some(&at("bin/lsync-agent"))).err()
        };
        assert!(refused(&at("home")).unwrap().contains("home is in it"));
        assert!(refused(dir.path()).unwrap().contains("home is in it"));
        assert_eq!(refused(&at("bin")).unwrap(), "the agent's program is in it");
        assert!(refused(Path::new("/")).is_some());
        assert!(refused(&at("home/.ssh")).is_some());
        assert_eq!(refused(&at("home/mirror")), None);
        assert_eq!(refused(&at("bin/here")), None);
    }
}
