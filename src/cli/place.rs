//! Where things are: the source and local targets as absolute paths without symbolic links.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::shown;
use crate::config::guard;
use crate::error::{Error, Result};

/// SOURCE: it must be there, and be a directory.
pub(super) fn source(given: &Path, cwd: &Path) -> Result<PathBuf> {
    let name = shown(given.as_os_str());
    if given.as_os_str().is_empty() {
        return Err(Error::usage("the source is empty").hint("a dot is the working directory"));
    }
    let cannot = || Error::failed(format!("cannot mirror {name}"));
    let path = absolute(given, cwd)?.canonicalize().map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::NotFound if looks_remote(given) => {
                "the source is a directory of this host; run lsyncd where the source is"
            }
            ErrorKind::NotFound => "SOURCE is an existing directory; its contents are mirrored",
            ErrorKind::PermissionDenied => "run lsyncd as a user who may read it",
            _ => return cannot().because(error),
        };
        cannot().because(error).hint(hint)
    })?;
    let metadata = path.metadata().map_err(|error| cannot().because(error))?;
    if !metadata.is_dir() {
        return Err(cannot()
            .because("not a directory")
            .hint("name the directory it is in, and choose it by --include NAME --exclude '*'"));
    }
    Ok(path)
}

/// The same, but it may be there later: then it is called as it is written.
pub(super) fn source_or_later(given: &Path, cwd: &Path) -> Result<PathBuf> {
    let there = absolute(given, cwd)?;
    match there.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound && !looks_remote(given) => Ok(there),
        _ => source(given, cwd),
    }
}

fn absolute(given: &Path, cwd: &Path) -> Result<PathBuf> {
    let path = cwd.join(given);
    if path.is_absolute() {
        return Ok(path);
    }
    let what = format!("cannot find {}: the working directory is gone", shown(given.as_os_str()));
    Err(Error::failed(what).hint("name it by its whole path, or change to another directory"))
}

fn looks_remote(path: &Path) -> bool {
    matches!(path.components().next(), Some(Component::Normal(first))
        if first.as_encoded_bytes().contains(&b':'))
}

/// A target directory of this host: resolved as far as it exists, and not one that would eat
/// the source, whatever names and mounts it is reached by.
pub(super) fn local_target(given: &Path, cwd: &Path, source: &Path) -> Result<PathBuf> {
    let (there, rest) = existing_part(&absolute(given, cwd)?)?;
    let target = lexical(&there, &rest);
    guard::local_target(source, &target)?;
    // The same directory may have another path: a bind mount.
    let id = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
    let source_id = id(source);
    for above in there.ancestors() {
        if source_id.is_some() && id(above) == source_id {
            let beneath = target.strip_prefix(above).unwrap_or(&target);
            guard::local_target(source, &join(source, beneath))?;
        }
    }
    if rest.as_os_str().is_empty() {
        let target_id = id(&there);
        for above in source.ancestors() {
            if target_id.is_some() && id(above) == target_id {
                guard::local_target(source, above)?;
            }
        }
    }
    Ok(target)
}

/// `dir/rest`, and `dir` itself without a slash behind it if there is no rest.
fn join(dir: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { dir.to_owned() } else { dir.join(rest) }
}

/// The longest part of an absolute path that exists, resolved, and what is missing.
fn existing_part(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let parts: Vec<Component<'_>> = path.components().collect();
    for end in (1..=parts.len()).rev() {
        let head: PathBuf = parts[..end].iter().collect();
        match head.canonicalize() {
            Ok(there) => return Ok((there, parts[end..].iter().collect())),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => {
                return Err(
                    Error::failed(format!("cannot reach {}", shown(path.as_os_str()))).because(e)
                );
            }
        }
    }
    Ok((PathBuf::from("/"), path.strip_prefix("/").unwrap_or(path).to_owned()))
}

/// `rest` behind `base`, its `..` taken by name: nothing of it exists, so nothing can be a link.
fn lexical(base: &Path, rest: &Path) -> PathBuf {
    let mut path = base.to_owned();
    for part in rest.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn the_source_is_resolved_or_the_error_says_why_not() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("dir", root.join("link")).unwrap();
        for given in ["dir", "dir/", "./dir/../dir", "link", "link/"] {
            assert_eq!(source(Path::new(given), &root).unwrap(), root.join("dir"), "{given}");
        }
        let table = [
            ("none", "cannot mirror none: no such file or directory", "SOURCE is an existing"),
            (
                "h:/x",
                "cannot mirror h:/x: no such file or directory",
                "the source is a directory of",
            ),
            ("file", "cannot mirror file: not a directory", "name the directory it is in"),
            ("a\n", "cannot mirror a\\n: no such file or directory", "SOURCE is"),
        ];
        for (given, text, hint) in table {
            let error = source(Path::new(given), &root).unwrap_err();
            assert_eq!(error.to_string(), text);
            assert_eq!(error.exit(), Exit::Failed);
            assert!(error.hint_text().unwrap().starts_with(hint), "{given}: {error:?}");
        }
        let error = source(Path::new("dir"), Path::new("")).unwrap_err();
        assert_eq!(error.to_string(), "cannot find dir: the working directory is gone");
        assert!(local_target(Path::new("x"), Path::new(""), &root).is_err());
        assert_eq!(source(Path::new(""), &root).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_target_is_resolved_as_far_as_it_exists() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let source = root.join("source");
        std::fs::create_dir_all(source.join("in")).unwrap();
        std::fs::create_dir(root.join("other")).unwrap();
        std::os::unix::fs::symlink(&source, root.join("other/link")).unwrap();
        let target =
            |given: &str| local_target(Path::new(given), &root, &source).map_err(|e| e.to_string());
        assert_eq!(target("new"), Ok(root.join("new")));
        assert_eq!(target("other/"), Ok(root.join("other")));
        assert_eq!(target("a/b/../c"), Ok(root.join("a/c")));
        for given in ["source", "other/link", "a/../source", "./source/."] {
            assert!(target(given).unwrap_err().ends_with(" to itself"), "{given}");
        }
        for given in ["source/new", "other/link/in/x", "a/../source/b"] {
            assert!(target(given).unwrap_err().contains("is inside it"), "{given}");
        }
        for given in [".", "..", "other/.."] {
            assert!(target(given).unwrap_err().contains("inside the target"), "{given}");
        }
        assert!(target("/").unwrap_err().contains("root directory"));
        assert!(target("/nowhere/..").unwrap_err().contains("root directory"));
    }
}
