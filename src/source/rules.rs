//! Files of rules in directories (`dir-merge`): read beneath the root, before anything in their
//! directory is judged.
//!
//! They are read anew by every look and every walk, so nothing has to be told when one changes.
//! What cannot be read or understood is unknown: its directory is not mirrored meanwhile, nothing
//! in it is deleted, and that is a problem. A file that is gone may be on its way back, since that
//! is how some editors save: for a while its rules hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lsync_agent::read::{self, ReadError};
use lsync_agent::root::Root;
use lsync_protocol::entry::Kind;
use lsync_protocol::path::{Escaped, RelPath};

use super::{Source, locked};
use crate::error::plain;
use crate::filter::DirRules;
use crate::plan::Ruled;

/// The rules of a file that is gone hold for so long. Who hears of it comes back after
/// [`RULES_BACK`].
const HOLD: Duration = Duration::from_millis(900);
/// When to look again for a rule file that was gone.
pub const RULES_BACK: Duration = Duration::from_secs(1);
/// No file of rules is larger.
const MAX_FILE: u64 = 1024 * 1024;

/// What the rule files of a directory say.
#[derive(Debug, Clone, Default)]
pub(super) struct Said {
    pub(super) rules: Option<Arc<DirRules>>,
    /// They are as they were before a file went.
    pub(super) doubted: bool,
}

impl Source {
    /// Reads the rule files of a directory, and judges by them from now on. The error is why
    /// nothing can be said about what is in it.
    pub(super) fn read_rules(&self, root: &Root, dir: &RelPath) -> Result<Said, String> {
        let mut texts: Vec<(&[u8], Vec<u8>)> = Vec::new();
        for name in self.filter.rule_files() {
            let Ok(path) = dir.join(name) else { continue };
            let shown = || Escaped(path.as_bytes());
            match read::read_small(root, &path, MAX_FILE) {
                Ok(small) => texts.push((name, small.content)),
                // rsync, too, finds no rules in a directory.
                Err(ReadError::Missing | ReadError::NotFile(Kind::Dir)) => {}
                Err(ReadError::NotFile(Kind::Symlink)) => {
                    return Err(format!("its rules in {} are a symbolic link", shown()));
                }
                Err(ReadError::TooLarge(_)) => {
                    return Err(format!("its rules in {} are larger than 1 MiB", shown()));
                }
                Err(error) => {
                    let why = plain(&error.to_string());
                    return Err(format!("its rules in {}: {why}", shown()));
                }
            }
        }
        let text = |name: &[u8]| {
            texts.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_slice())
        };
        let rules = self.filter.compile(dir, text).map_err(|error| error.to_string())?;
        let mut vanished = locked(&self.vanished);
        if let Some(old) = self.filter.known(dir)
            && self.filter.lacks(&old, |name| text(name).is_some())
            && matches!(read::look(root, dir), Ok(Some(_)))
        {
            let since = *vanished.entry(dir.clone()).or_insert_with(Instant::now);
            if since.elapsed() < HOLD {
                return Ok(Said { rules: Some(old), doubted: true });
            }
        }
        vanished.remove(dir);
        drop(vanished);
        self.filter.learn(dir, rules.clone());
        Ok(Said { rules, doubted: false })
    }
}

/// Reads the rule files above the paths of one look or walk, each directory once.
pub(super) struct Above<'a> {
    source: &'a Source,
    root: &'a Root,
    read: BTreeMap<RelPath, Result<Said, String>>,
    changed: BTreeSet<RelPath>,
    doubted: Vec<RelPath>,
}

impl<'a> Above<'a> {
    pub(super) fn new(source: &'a Source, root: &'a Root) -> Above<'a> {
        let (read, changed, doubted) = Default::default();
        Above { source, root, read, changed, doubted }
    }

    pub(super) fn root(&self) -> &'a Root {
        self.root
    }

    /// Makes sure that the rules of all directories above a path are known. The error is why it
    /// cannot be judged.
    pub(super) fn read(&mut self, path: &RelPath) -> Result<(), String> {
        let filter = &self.source.filter;
        if !filter.reads_directories() || path.is_root() {
            return Ok(());
        }
        self.dir(&RelPath::root())?;
        let bytes = path.as_bytes();
        for (at, _) in bytes.iter().enumerate().filter(|&(_, &b)| b == b'/') {
            let Ok(dir) = RelPath::new(&bytes[..at]) else { return Ok(()) };
            // What is in a directory that is not mirrored is not asked.
            if !filter.verdict(&dir, true).sent {
                return Ok(());
            }
            self.dir(&dir)?;
        }
        Ok(())
    }

    /// The rules of one directory; those of all above it are known.
    pub(super) fn dir(&mut self, dir: &RelPath) -> Result<(), String> {
        let (source, root) = (self.source, self.root);
        if !source.filter.reads_directories() {
            return Ok(());
        }
        let read = self.read.entry(dir.clone()).or_insert_with(|| source.read_rules(root, dir));
        read.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Something happened to this path; it may be a file of rules. Says whether it is.
    pub(super) fn heard(&mut self, path: &RelPath) -> bool {
        let rules = self.source.filter.is_rule_file(path);
        if rules && let Some(dir) = path.parent() {
            if matches!(self.read.get(&dir), Some(Ok(Said { doubted: true, .. }))) {
                self.doubted.push(path.clone());
            } else {
                self.changed.insert(dir);
            }
        }
        rules
    }

    /// What there is to tell of it.
    pub(super) fn told(self) -> Ruled {
        let Above { read, changed, doubted, .. } = self;
        let said =
            read.into_iter().filter_map(|(dir, said)| Some((dir, said.ok()?.rules))).collect();
        Ruled { said, changed, doubted }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::ops::ControlFlow;
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;
    use crate::collate::{Batch, Marks};
    use crate::config::WatchChoice;
    use crate::filter::Filter;
    use crate::source::{Found, Scope};
    use crate::watch::WatchLimits;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn source(root: &Path) -> Source {
        let filter = Filter::parse([&b": .r"[..]]).unwrap();
        Source::open(root, Scope { filter: Arc::new(filter), ..Scope::default() }).unwrap()
    }

    /// The names that a walk finds, and what failed.
    fn walked(source: &Source, start: &str) -> (Vec<String>, Vec<String>) {
        let found = Mutex::new((Vec::new(), Vec::new()));
        source.walk(&[path(start)], |what| {
            let (names, failed) = &mut *found.lock().unwrap();
            match what {
                Found::Dir(dir) => names.extend(
                    dir.entries.iter().map(|named| dir.dir.join(&named.name).unwrap().to_string()),
                ),
                Found::Failed(path, why) => failed.push(format!("{path}: {why}")),
                Found::End(end) => end.unwrap(),
            }
            ControlFlow::Continue(())
        });
        let (mut names, failed) = found.into_inner().unwrap();
        names.sort();
        (names, failed)
    }

    #[test]
    fn a_walk_and_a_look_say_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        for name in ["a", "d/a", "d/e/a", "d/e/b"] {
            fs::write(at(name), "").unwrap();
        }
        fs::write(at("d/.r"), "- a\n- .r\n").unwrap();
        fs::write(at("d/e/.r"), "+ a\n").unwrap();
        let names = ["a", "d", "d/e", "d/e/a", "d/e/b"];
        assert_eq!(walked(&source(dir.path()), "").0, names);
        assert_eq!(
            walked(&source(dir.path()), "d/e").0,
            names[3..],
            "those above it count as well"
        );
        let source = source(dir.path());
        let now = Instant::now();
        let all = ["a", "d", "d/.r", "d/a", "d/e", "d/e/a", "d/e/b", "d/x"];
        let paths = all.map(|name| (path(name), Marks::NAME, now)).to_vec();
        let looked = source.look(&Batch { steps: Vec::new(), paths }).unwrap();
        let sent: Vec<String> = looked.paths.iter().map(|(at, ..)| at.to_string()).collect();
        assert_eq!(sent, ["a", "d", "d/e", "d/e/a", "d/e/b", "d/x"]);
        assert_eq!(looked.excluded, [path("d/.r"), path("d/a")]);
        assert_eq!(looked.rules.changed, BTreeSet::from([path("d")]));
        let said: Vec<(String, bool)> =
            looked.rules.said.iter().map(|(at, rules)| (at.to_string(), rules.is_some())).collect();
        assert_eq!(
            said,
            [(".".to_owned(), false), ("d".to_owned(), true), ("d/e".to_owned(), true)]
        );
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::create_dir_all(at("f/.r")).unwrap();
        fs::write(at("d/e/x"), "").unwrap();
        let source = source(dir.path());
        let large = "# nothing\n".repeat(200_000);
        let table = [
            ("- a\nzz\n", "bad filter rule 'zz' in d/.r:2"),
            (large.as_str(), "its rules in d/.r are larger than 1 MiB"),
        ];
        for (text, why) in table {
            fs::write(at("d/.r"), text).unwrap();
            let (names, failed) = walked(&source, "");
            assert_eq!(names, ["d", "f", "f/.r"], "a directory of this name holds no rules");
            assert!(failed.len() == 1 && failed[0].contains(why), "{failed:?}");
            let (names, failed) = walked(&source, "d/e");
            assert!(names.is_empty() && failed[0].contains(why), "{names:?} {failed:?}");
            let batch = Batch {
                steps: Vec::new(),
                paths: vec![(path("d/e/x"), Marks::NAME.with(Marks::GONE), Instant::now())],
            };
            let looked = source.look(&batch).unwrap();
            assert!(matches!(&looked.paths[0].3, crate::plan::Look::Unknown(w) if w.contains(why)));
            let absent = source.absent(vec![(path("d/e/gone"), Kind::File)]).unwrap();
            assert!(absent.missing.is_empty() && absent.unknown.len() == 1);
        }
        fs::remove_file(at("d/.r")).unwrap();
        std::os::unix::fs::symlink("e/x", at("d/.r")).unwrap();
        assert!(walked(&source, "").1[0].contains("its rules in d/.r are a symbolic link"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_excluded_is_not_watched() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e/f")).unwrap();
        fs::create_dir_all(at("d/g")).unwrap();
        let source = source(dir.path());
        source.watch(WatchChoice::Inotify, WatchLimits::default()).unwrap();
        let watches = || source.watch_status().unwrap().watches;
        walked(&source, "");
        assert_eq!(watches(), 5);
        fs::write(at("d/.r"), "- e\n").unwrap();
        walked(&source, "d");
        assert_eq!(watches(), 3, "without d/e and what is in it");
        fs::write(at("d/.r"), "- g\n").unwrap();
        walked(&source, "d");
        assert_eq!(watches(), 4, "without d/g");
    }
}
