//! What is refused before anything starts: targets that would eat their source, or everything.
//!
//! Pure: the caller has made the paths absolute and resolved symbolic links in what exists.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lsync_protocol::path::Escaped;

use super::{MirrorConfig, Target};
use crate::error::Error;

fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_bytes()).to_string()
}

/// Checks a source against a target directory of the same host.
///
/// # Errors
/// A guard's: the target is the source, inside it, above it, or `/`.
pub fn local_target(source: &Path, target: &Path) -> Result<(), Error> {
    let (from, to) = (shown(source), shown(target));
    if target.parent().is_none() {
        return Err(root(&to));
    }
    if target == source {
        return Err(Error::stopped(format!("refusing to mirror {from} to itself"))
            .hint("name another directory as TARGET"));
    }
    if target.starts_with(source) {
        return Err(Error::stopped(format!(
            "refusing to mirror {from} into itself: {to} is inside it"
        ))
        .hint("name a TARGET that is not in SOURCE: the copy would be copied again"));
    }
    if source.starts_with(target) {
        return Err(Error::stopped(format!(
            "refusing to mirror {from} to {to}: the source is inside the target"
        ))
        .hint("the target becomes equal to the source, so the source itself would be deleted"));
    }
    Ok(())
}

/// Nothing may be mirrored over the root of a file system tree: the refusal.
pub(crate) fn root(target: &str) -> Error {
    Error::stopped(format!("refusing to mirror to {target}: it is the root directory")).hint(
        "the target becomes equal to the source, so all else on that host would be deleted; name a directory in it",
    )
}

/// Checks all mirrors of one command: each by itself, and that no two write to the same place.
///
/// # Errors
/// A guard's, or a usage error where two mirrors share a target or a name.
pub fn all(mirrors: &[MirrorConfig]) -> Result<(), Error> {
    for mirror in mirrors {
        match &mirror.target {
            Target::Local(dir) => local_target(&mirror.source, dir)?,
            Target::Ssh(ssh) if ssh.is_root_dir() => return Err(root(&ssh.to_string())),
            Target::Ssh(_) => {}
        }
    }
    for (at, one) in mirrors.iter().enumerate() {
        for other in &mirrors[..at] {
            if one.target == other.target {
                return Err(Error::usage(format!("the target {} is named twice", one.target)));
            }
            if let (Target::Local(a), Target::Local(b)) = (&one.target, &other.target)
                && (a.starts_with(b) || b.starts_with(a))
            {
                let (inner, outer) = if a.starts_with(b) { (a, b) } else { (b, a) };
                let what = format!("the target {} is inside {}", shown(inner), shown(outer));
                return Err(
                    Error::usage(what).hint("each mirror would delete what the other brings")
                );
            }
            if one.name == other.name {
                return Err(Error::usage(format!("two mirrors are called {}", one.name))
                    .hint("--name needs a name for each target"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn a_target_that_would_eat_its_source_is_refused() {
        let table = [
            ("/srv/a", "/srv/b", None),
            ("/srv/a", "/srv/ab", None),
            ("/srv/ab", "/srv/a", None),
            ("/srv/a", "/srv/a", Some("refusing to mirror /srv/a to itself")),
            (
                "/srv/a",
                "/srv/a/b",
                Some("refusing to mirror /srv/a into itself: /srv/a/b is inside it"),
            ),
            (
                "/srv/a",
                "/srv",
                Some("refusing to mirror /srv/a to /srv: the source is inside the target"),
            ),
            ("/srv/a", "/", Some("refusing to mirror to /: it is the root directory")),
            ("/", "/srv", Some("refusing to mirror / into itself: /srv is inside it")),
        ];
        for (source, target, expected) in table {
            let error = local_target(Path::new(source), Path::new(target)).err();
            assert_eq!(error.as_ref().map(ToString::to_string).as_deref(), expected);
            if let Some(error) = error {
                assert_eq!(error.exit(), Exit::Stopped);
                assert!(error.hint_text().is_some());
            }
        }
    }

    #[test]
    fn mirrors_of_one_command_do_not_share_a_place_or_a_name() {
        let mirror = |name: &str, target: &str| {
            MirrorConfig::new(name, "/src", Target::parse(target.as_bytes()).unwrap())
        };
        let error = |mirrors: &[MirrorConfig]| all(mirrors).err().map(|e| e.to_string());
        assert_eq!(error(&[mirror("a", "h:x"), mirror("b", "h:y"), mirror("c", "/x")]), None);
        assert_eq!(
            error(&[mirror("a", "h:x"), mirror("b", "h:x")]).unwrap(),
            "the target h:x is named twice"
        );
        assert_eq!(
            error(&[mirror("a", "/d"), mirror("b", "/d/e")]).unwrap(),
            "the target /d/e is inside /d"
        );
        assert_eq!(
            error(&[mirror("a", "h:x"), mirror("a", "h:y")]).unwrap(),
            "two mirrors are called a"
        );
        assert_eq!(
            error(&[mirror("a", "h:/tmp/..")]).unwrap(),
            "refusing to mirror to h:/tmp/..: it is the root directory"
        );
    }
}
