//! What becomes of one path, and what decides it: asked by a person, of no mirror that runs.

use lsync_agent::read;
use lsync_protocol::entry::Kind;
use lsync_protocol::path::{Escaped, RelPath};

use super::Source;
use super::rules::Above;
use crate::error::{Error, Result, plain};
use crate::filter::Decision;

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Which.
    pub path: RelPath,
    /// What it is; `None`: nothing is there.
    pub kind: Option<Kind>,
    /// It is taken for a directory.
    pub is_dir: bool,
    /// What the rules say.
    pub decision: Decision,
    /// What keeps it from being mirrored although the rules do not.
    pub but: Option<But>,
}

/// What keeps a path from being mirrored beside the rules. On the target it is left alone then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum But {
    /// It cannot be judged, or looked at, for this reason: unknown is not missing.
    Unknown(String),
    /// It is larger than is wanted.
    TooLarge {
        /// Its size.
        size: u64,
        /// The largest that is mirrored.
        max: u64,
    },
    /// This directory, it or one above it, is on another file system: what is in it is left out.
    OtherFileSystem(RelPath),
    /// Temporary names of our own are never mirrored.
    Temporary,
}

impl Fate {
    /// Is it mirrored, or would it be if it were there?
    #[must_use]
    pub fn is_mirrored(&self) -> bool {
        let only_its_inside =
            matches!(&self.but, Some(But::OtherFileSystem(dir)) if *dir == self.path);
        self.decision.verdict.sent && (self.but.is_none() || only_its_inside)
    }

    /// Is it deleted on the target when it is there, and not mirrored or not on the source?
    #[must_use]
    pub fn is_deletable(&self) -> bool {
        self.decision.verdict.deletable && self.but.is_none()
    }

    /// Is it deleted when its directory is? Perishable rules do not count then.
    #[must_use]
    pub fn goes_with_directory(&self) -> bool {
        self.decision.verdict.deletable_with_dir && self.but.is_none()
    }
}

impl Source {
    /// What becomes of a path; `dir` says that it is a directory if nothing is there.
    ///
    /// # Errors
    /// The root is not what it was.
    pub fn fate(&self, path: &RelPath, dir: bool) -> Result<Fate> {
        let root = self.root().map_err(|trouble| {
            let shown = Escaped(self.path.as_os_str().as_encoded_bytes());
            Error::failed(trouble.of(shown))
        })?;
        let mut above = Above::new(self, &root);
        let judged = above.read(path);
        let looked = read::look(&root, path);
        let entry = looked.as_ref().ok().and_then(Option::as_ref);
        let kind = entry.map(|entry| entry.kind);
        let is_dir = kind.map_or(dir, |kind| kind == Kind::Dir);
        let decision = self.filter.decision(path, is_dir);
        let temporary = path.is_temporary();
        let but = match (judged, &looked, self.max_size) {
            _ if temporary => Some(But::Temporary),
            (Err(why), ..) => Some(But::Unknown(why)),
            // Nothing of it is asked.
            _ if !decision.verdict.sent => None,
            (_, Err(error), _) => Some(But::Unknown(plain(&error.to_string()))),
            (_, Ok(Some(entry)), Some(max)) if entry.kind == Kind::File && entry.size > max => {
                Some(But::TooLarge { size: entry.size, max })
            }
            _ if self.one_file_system => self.foreign(&root, path, is_dir),
            _ => None,
        };
        Ok(Fate { path: path.clone(), kind, is_dir, decision, but })
    }

    /// The first directory on the way to a path that is on another file system.
    fn foreign(&self, root: &lsync_agent::root::Root, path: &RelPath, is_dir: bool) -> Option<But> {
        let bytes = path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(at, _)| at);
        let ends = ends.chain(is_dir.then_some(bytes.len()));
        let mut dirs = ends.filter_map(|end| RelPath::new(&bytes[..end]).ok());
        let dev = root.identity().dev;
        dirs.find(|dir| root.statx(dir).is_ok_and(|stat| stat.dev != dev)).map(But::OtherFileSystem)
    }
}
