//! Which configuration files are read, what `~` means, and what an `Include` pattern names.

use std::io;
use std::path::{Component, Path, PathBuf};

use crate::config::SshOptions;
use crate::error::{Error, Result};

use super::config::Parser;
use super::pattern;

/// More than this of one file is no configuration.
const MAX_FILE: u64 = 1 << 20;

/// The system's configuration.
const SYSTEM: &str = "/etc/ssh/ssh_config";

/// Reads `--ssh-config` alone, or else the user's and then the system's configuration.
///
/// # Errors
/// A named file that is missing, a file that cannot be read, and what [`Parser::read`] refuses.
pub fn read_all(parser: &mut Parser<'_>, options: &SshOptions) -> Result<()> {
    if let Some(file) = &options.config {
        // As ssh's `-F none`.
        if file.as_os_str() == "none" {
            return Ok(());
        }
        let text = read(file).map_err(|e| cannot_read(file, e))?;
        return parse(parser, file, &text, options, false);
    }
    let own = options.home.iter().map(|home| (home.join(".ssh/config"), false));
    for (file, system) in own.chain([(PathBuf::from(SYSTEM), true)]) {
        match read(&file) {
            Ok(text) => parse(parser, &file, &text, options, system)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(cannot_read(&file, e)),
        }
    }
    Ok(())
}

fn parse(
    parser: &mut Parser<'_>,
    file: &Path,
    text: &str,
    options: &SshOptions,
    system: bool,
) -> Result<()> {
    let includes = |pattern: &str| {
        let expanded = PathBuf::from(tilde(pattern, options)?);
        let pattern = if expanded.is_absolute() {
            expanded
        } else if system {
            Path::new("/etc/ssh").join(expanded)
        } else {
            home(options)?.join(".ssh").join(expanded)
        };
        let mut files = Vec::new();
        for file in glob(&pattern) {
            match read(&file) {
                Ok(text) => files.push((file, text)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(cannot_read(&file, e)),
            }
        }
        Ok(files)
    };
    parser.read(file, text, &includes)
}

fn read(file: &Path) -> io::Result<String> {
    use io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn cannot_read(file: &Path, cause: io::Error) -> Error {
    Error::failed(format!("cannot read the ssh configuration {}", file.display()))
        .because(cause)
        .hint("name another with --ssh-config FILE, or none with --ssh-config none")
}

/// The user's home directory.
///
/// # Errors
/// There is none.
pub fn home(options: &SshOptions) -> Result<PathBuf> {
    options.home.clone().ok_or_else(|| {
        Error::failed("cannot find ~ of the ssh configuration: no home directory")
            .hint("set HOME, or use absolute paths")
    })
}

/// A leading `~` or `~/` replaced by the home directory.
///
/// # Errors
/// No home directory, or the home of somebody else (`~user`).
pub fn tilde(text: &str, options: &SshOptions) -> Result<String> {
    let Some(rest) = text.strip_prefix('~') else {
        return Ok(text.to_owned());
    };
    if !rest.is_empty() && !rest.starts_with('/') {
        return Err(Error::failed(format!("cannot expand {text} of the ssh configuration"))
            .hint("write the path out"));
    }
    Ok(format!("{}{rest}", home(options)?.to_string_lossy()))
}

/// The existing paths that match a pattern with `*` and `?`, sorted; a leading dot is matched by
/// a dot only.
fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let Component::Normal(name) = part else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let name = name.to_string_lossy();
        if !name.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(&*name));
            continue;
        }
        let mut next = Vec::new();
        for dir in found {
            let Ok(entries) = std::fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries.flatten() {
                let entry = entry.file_name();
                let text = entry.to_string_lossy();
                if pattern::matches(&name, &text)
                    && (name.starts_with('.') || !text.starts_with('.'))
                {
                    next.push(dir.join(&entry));
                }
            }
        }
        next.sort();
        found = next;
    }
    found.retain(|path| path.exists());
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::config::Asked;
    use super::*;

    #[test]
    fn includes_are_found_by_pattern_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let ssh = dir.path().join(".ssh");
        std::fs::create_dir_all(ssh.join("conf.d")).unwrap();
        std::fs::write(ssh.join("config"), "Include conf.d/*.conf\nInclude missing\n").unwrap();
        std::fs::write(ssh.join("conf.d/b.conf"), "Port 2\nUser b").unwrap();
        std::fs::write(ssh.join("conf.d/a.conf"), "Port 1").unwrap();
        std::fs::write(ssh.join("conf.d/.x.conf"), "Port 9").unwrap();
        let options = SshOptions { home: Some(dir.path().into()), ..SshOptions::default() };
        let asked = Asked { host: "h".into(), ..Asked::default() };
        let mut parser = Parser::new(&asked);
        read_all(&mut parser, &options).unwrap();
        let got = parser.finish();
        assert_eq!((got.port, got.user.as_deref()), (Some(1), Some("b")));
    }

    #[test]
    fn a_named_configuration_must_be_there() {
        let config = Some(PathBuf::from("/nowhere/config"));
        let asked = Asked::default();
        let error =
            read_all(&mut Parser::new(&asked), &SshOptions { config, ..Default::default() })
                .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the ssh configuration /nowhere/config: no such file or directory"
        );
    }
}
