//! `lsyncd agent authorize`: the line of `authorized_keys` by which a key can mirror to one directory
//! and do nothing else.

use std::os::unix::ffi::OsStrExt;

use lsync_protocol::handshake::Trash;
use lsync_protocol::path::RelPath;

use super::args::AuthorizeArgs;
use super::push::check_agent_path;
use super::{Invocation, World, shown};
use crate::config::{SshOptions, SshTarget, Target};
use crate::error::{Error, Result};
use crate::link::ssh::{self, public};

/// Where `lsyncd agent install` puts the agent under a name that lasts, as a login shell reads it.
const LASTING: &str = "~/.cache/lsyncd/lsync-agent";

/// What is to be allowed, and whom.
#[derive(Debug)]
pub struct Authorization {
    /// The command of the key, as a login shell reads it.
    command: Vec<u8>,
    /// The host whose account gets the line, where it was named.
    host: Option<SshTarget>,
    /// The key, if one is named, and how keys for the host are found.
    ssh: SshOptions,
    /// The agent is where `lsyncd agent install` puts it.
    installed: bool,
}

/// What is printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Authorized {
    /// The line, with its end, for standard output.
    pub line: Vec<u8>,
    /// What to do with it, for people.
    pub hints: Vec<String>,
}

pub(super) fn authorize(args: &AuthorizeArgs, world: &World) -> Result<Invocation> {
    let (host, dir) = match &args.target {
        None => (None, None),
        Some(text) => match Target::parse(text.as_bytes()) {
            Ok(Target::Ssh(SshTarget { dir, user, host, port })) => {
                let host = SshTarget { dir: b".".to_vec(), user, host, port };
                (Some(host), Some(dir))
            }
            _ => {
                let host = SshTarget::parse_host(text.as_bytes()).map_err(|error| {
                    Error::usage(format!("bad host '{}': {error}", shown(text)))
                        .hint("it is [USER@]HOST, or [USER@]HOST:DIR without --root")
                })?;
                (Some(host), None)
            }
        },
    };
    let root = match (&args.root, dir) {
        (Some(_), Some(_)) => {
            return Err(Error::usage("the directory is named twice")
                .hint("leave out --root, or the directory behind the host"));
        }
        (Some(root), None) => root.as_bytes().to_vec(),
        (None, Some(dir)) => dir,
        (None, None) => {
            return Err(Error::usage("no directory that the key may reach")
                .hint("lsyncd agent authorize HOST:DIR, or --root DIR"));
        }
    };
    check_root(&root, args.read_only)?;
    if args.read_only && (args.no_delete || args.trash.is_some()) {
        let other = if args.no_delete { "--no-delete" } else { "--trash" };
        return Err(Error::usage(format!("--read-only does not go with {other}"))
            .hint("a key that may only read deletes nothing anyhow"));
    }
    if let Some(path) = &args.agent_path {
        check_agent_path(path)?;
    }
    let mut command = program(args.agent_path.as_deref().unwrap_or(LASTING).as_bytes());
    command.extend_from_slice(b" --root ");
    command.extend(quoted(&root));
    if args.no_delete {
        command.extend_from_slice(b" --no-delete");
    }
    if args.read_only {
        command.extend_from_slice(b" --read-only");
    }
    if let Some(dir) = &args.trash {
        let trash = RelPath::new(dir.as_bytes()).ok().map(|dir| Trash { dir, age: None });
        if !trash.is_some_and(|trash| trash.valid()) || !one_line(dir.as_bytes()) {
            return Err(Error::usage(format!("bad --trash '{}': not a name in DIR", shown(dir)))
                .hint("what is moved there stays on the same file system: --trash .trash, say"));
        }
        command.extend_from_slice(b" --trash ");
        command.extend(quoted(dir.as_bytes()));
    }
    let ssh = SshOptions {
        config: args.ssh_config.as_ref().map(|path| world.cwd.join(path)),
        identities: args.identity.iter().map(|path| world.cwd.join(path)).collect(),
        home: world.home.clone(),
        user: world.user.clone(),
        ..SshOptions::default()
    };
    let installed = args.agent_path.is_none();
    Ok(Invocation::Authorize(Box::new(Authorization { command, host, ssh, installed })))
}

/// Refuses what can be no root, as far as that can be told from here.
fn check_root(root: &[u8], read_only: bool) -> Result<()> {
    let text = shown(std::ffi::OsStr::from_bytes(root));
    if root.is_empty() || !one_line(root) {
        return Err(Error::usage(format!("bad --root '{text}': not a path in one line"))
            .hint("a line of authorized_keys ends where a line ends"));
    }
    let target = SshTarget { user: None, host: String::new(), port: None, dir: root.to_vec() };
    let home = [&b"."[..], b"./", b"~", b"~/"].contains(&root);
    if target.is_root_dir() || home && !read_only {
        return Err(Error::usage(format!("refused to open {text} to a key")).hint(
            "name a directory below it: the login directory holds what says what a key may do",
        ));
    }
    Ok(())
}

fn one_line(text: &[u8]) -> bool {
    !text.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0))
}

/// The first word of a command: a login shell finds the home of `~/`.
fn program(path: &[u8]) -> Vec<u8> {
    match path.strip_prefix(b"~/") {
        Some(rest) => [b"~/".to_vec(), quoted(rest)].concat(),
        None => quoted(path),
    }
}

/// A word as a login shell takes it for itself. The agent knows what `~/` means, quoted or not; to a
/// shell `~name` is another's home, to the agent a name like any other.
fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%".contains(byte);
    let rest = word.strip_prefix(b"~").filter(|rest| rest.is_empty() || rest.starts_with(b"/"));
    if !word.is_empty() && rest.unwrap_or(word).iter().all(plain) {
        return word.to_vec();
    }
    let parts: Vec<&[u8]> = word.split(|&byte| byte == b'\'').collect();
    [b"'", &*parts.join(&b"'\\''"[..]), b"'"].concat()
}

/// A text between the quotes of an option of `authorized_keys`: sshd knows `\"`, and nothing else.
fn in_option(text: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = text.split(|&byte| byte == b'"').collect();
    parts.join(&b"\\\""[..])
}

impl Authorization {
    /// Reads the key, and makes the line.
    ///
    /// # Errors
    /// There is no key, or it cannot be read.
    pub fn line(&self) -> Result<Authorized> {
        let key = public::read(&self.key()?)?;
        let mut line = b"restrict,command=\"".to_vec();
        line.extend(in_option(&self.command));
        line.extend_from_slice(b"\" ");
        line.extend_from_slice(key.as_bytes());
        line.push(b'\n');
        let host = self.host.as_ref().map_or_else(|| "the target".to_owned(), name_of);
        let mut hints = vec![format!(
            "it belongs in ~/.ssh/authorized_keys of the account on {host}; a line with the same key \
             above it would count instead"
        )];
        if self.installed {
            hints.push(format!(
                "lsyncd agent install {} puts the agent there, and a newer one after an upgrade of \
                 lsyncd",
                self.host.as_ref().map_or_else(|| "HOST".to_owned(), name_of)
            ));
        }
        Ok(Authorized { line, hints })
    }

    /// The file of the key: the one named, or the first that ssh would show the host.
    fn key(&self) -> Result<std::path::PathBuf> {
        let identities = match (&self.ssh.identities[..], &self.host) {
            ([], Some(host)) => {
                let host = ssh::resolve(host, &self.ssh)?;
                host.identities.into_iter().map(|identity| identity.path).collect()
            }
            ([], None) => {
                let home = self.ssh.home.iter();
                home.flat_map(|home| {
                    ssh::host::DEFAULT_KEYS.map(|name| home.join(".ssh").join(name))
                })
                .collect()
            }
            (named, _) => named.to_vec(),
        };
        let mut files = identities.iter().map(|identity| public::beside(identity));
        let first = files.clone().next();
        files.find(|file| file.exists()).or(first).ok_or_else(|| {
            Error::failed("no key to authorize")
                .hint("ssh-keygen -t ed25519 makes one; -i KEY.pub names one")
        })
    }
}

fn name_of(host: &SshTarget) -> String {
    match &host.user {
        Some(user) => format!("{user}@{}", host.host),
        None => host.host.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell_and_then_for_sshd() {
        for (word, shell, option) in [
            ("/srv/m", "/srv/m", "/srv/m"),
            ("~/m", "~/m", "~/m"),
            ("/srv/my mirror", "'/srv/my mirror'", "'/srv/my mirror'"),
            ("a\"b", "'a\"b'", "'a\\\"b'"),
            ("a\\\"b", "'a\\\"b'", "'a\\\\\"b'"),
            ("it's", "'it'\\''s'", "'it'\\''s'"),
            ("$(rm -rf ~)`x`", "'$(rm -rf ~)`x`'", "'$(rm -rf ~)`x`'"),
            ("", "''", "''"),
            ("a~b", "'a~b'", "'a~b'"),
            ("~", "~", "~"),
            ("~me/m", "'~me/m'", "'~me/m'"),
            ("~a/é", "'~a/é'", "'~a/é'"),
        ] {
            let quoted = quoted(word.as_bytes());
            assert_eq!(String::from_utf8_lossy(&quoted), shell);
            assert_eq!(String::from_utf8_lossy(&in_option(&quoted)), option);
        }
        assert_eq!(program(b"~/my bin/a"), b"~/'my bin/a'");
        assert_eq!(program(b"/usr/bin/lsync-agent"), b"/usr/bin/lsync-agent");
    }

    #[test]
    fn what_can_be_no_root_is_refused() {
        for (root, read_only, fine) in [
            (&b"/srv/m"[..], false, true),
            (b"m", false, true),
            (b"", false, false),
            (b"/srv/m\nssh-ed25519 AAAA", false, false),
            (b"a\rb", false, false),
            (b"a\0b", false, false),
            (b"/", true, false),
            (b"/srv/..", false, false),
            (b"~", false, false),
            (b".", false, false),
            (b".", true, true),
        ] {
            assert_eq!(check_root(root, read_only).is_ok(), fine, "{root:?}");
        }
    }
}
