//! One host, wholly resolved: where it is, who logs in, with what, and which keys it may show.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lsync_protocol::path::Escaped;

use crate::config::{SshOptions, SshTarget};
use crate::error::{Error, Result};

use super::config::{Asked, Family, Parser, Proxy, Settings, Strict};
use super::files;

/// ssh's own port.
pub const DEFAULT_PORT: u16 = 22;

/// Keys that are tried where none is named, in `~/.ssh`.
pub const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// How long a connection may take from the first packet until the login, without the time a
/// person types. ssh has no limit of its own and waits for TCP's, two minutes and more.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How often an idle server is asked whether it is there, and how many answers may be missing.
const DEFAULT_ALIVE: (Duration, u32) = (Duration::from_secs(15), 3);

/// A key that may be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The private key's file.
    pub path: PathBuf,
    /// Where it is named; one of the default names may be missing silently.
    pub named: Named,
}

/// Where an identity file is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// By `-i`.
    Option,
    /// By the configuration.
    Config,
    /// Nowhere: a default name.
    Default,
}

/// Refuses names that a shell or another program's command line would take for something else.
///
/// # Errors
/// The host or the user name is empty, begins with `-`, or holds what no such name holds.
pub fn check_names(target: &SshTarget) -> Result<()> {
    let check = |what: &str, name: &str, bad: &str| {
        let odd = |c: char| c.is_whitespace() || c.is_control() || bad.contains(c);
        if name.is_empty() || name.starts_with('-') || name.contains(odd) {
            let name = Escaped(name.as_bytes());
            return Err(Error::failed(format!("'{name}' cannot be the name of a {what}"))
                .hint("write [USER@]HOST:DIR"));
        }
        Ok(())
    };
    check("host", &target.host, "'`\"$\\;&<>|(){}@/,!#?*")?;
    // Domain users are written DOMAIN\user.
    target.user.iter().try_for_each(|user| check("user", user, "'`\"$;&<>|(){}"))
}

/// A host, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As the user wrote it.
    pub name: String,
    /// The name or address to connect to.
    pub host_name: String,
    /// The port.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// Keys, in the order they are offered.
    pub identities: Vec<Identity>,
    /// Certificates for keys.
    pub certificates: Vec<PathBuf>,
    /// Of the ssh-agent's keys only those named as identities are offered.
    pub identities_only: bool,
    /// The ssh-agent's socket.
    pub agent: Option<PathBuf>,
    /// Files of known host keys, the user's first.
    pub known_hosts: Vec<PathBuf>,
    /// Where a new host key is written to, if it may be.
    pub learn_to: Option<PathBuf>,
    /// New names are written hashed.
    pub hash_known_hosts: bool,
    /// The name under which the host's key is known, if it is another.
    pub key_alias: Option<String>,
    /// How to get there.
    pub proxy: Proxy,
    /// Keep-alive interval; zero: off.
    pub alive_interval: Duration,
    /// So many answers may be missing.
    pub alive_count: u32,
    /// One deadline over connection, handshake and login; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Nothing is asked on the terminal.
    pub batch: bool,
    /// Keys may be used.
    pub pubkey: bool,
    /// A password may be asked for.
    pub password: bool,
    /// The server's questions may be asked.
    pub keyboard_interactive: bool,
    /// Which addresses are used.
    pub family: Family,
    /// The address to connect from.
    pub bind_address: Option<String>,
    /// A PKCS#11 library is configured, which we cannot use.
    pub pkcs11: Option<String>,
}

impl Host {
    /// `user@host`, or with a port that is not ssh's own `user@host:port`.
    #[must_use]
    pub fn peer(&self) -> String {
        match self.port {
            DEFAULT_PORT => format!("{}@{}", self.user, self.name),
            port => format!("{}@{}:{port}", self.user, self.name),
        }
    }

    /// Reads the configuration and resolves what was asked for.
    ///
    /// # Errors
    /// A file or line that cannot be read, or that asks for what we cannot do.
    pub fn load(asked: &Asked, options: &SshOptions) -> Result<Host> {
        let mut parser = Parser::new(asked);
        files::read_all(&mut parser, options)?;
        Host::resolve(asked, parser.finish(), options)
    }

    /// Fills in defaults and expands tokens.
    ///
    /// # Errors
    /// A token or variable that we do not know; no user name.
    pub fn resolve(asked: &Asked, settings: Settings, options: &SshOptions) -> Result<Host> {
        let user = settings.user.unwrap_or_else(|| asked.local_user.clone());
        if user.is_empty() {
            return Err(Error::failed(format!("cannot log in on {}: no user name", asked.host))
                .hint("write USER@HOST"));
        }
        let port = settings.port.unwrap_or(DEFAULT_PORT);
        let mut tokens = Tokens { asked, options, host: &asked.host, port, user: &user };
        let host_name = match &settings.host_name {
            Some(name) => tokens.expand(name)?,
            None => asked.host.clone(),
        };
        tokens.host = &host_name;

        let mut identities: Vec<Identity> = options
            .identities
            .iter()
            .map(|path| Identity { path: path.clone(), named: Named::Option })
            .collect();
        for file in settings.identity_files.iter().filter(|f| !is_none(f)) {
            identities.push(Identity { path: tokens.path(file)?, named: Named::Config });
        }
        if settings.identity_files.is_empty()
            && let Some(home) = &options.home
        {
            for name in DEFAULT_KEYS {
                let path = home.join(".ssh").join(name);
                identities.push(Identity { path, named: Named::Default });
            }
        }
        let paths = |list: &[String]| -> Result<Vec<PathBuf>> {
            list.iter().filter(|f| !is_none(f)).map(|f| tokens.path(f)).collect()
        };
        let user_files = match &settings.user_known_hosts {
            Some(list) => paths(list)?,
            None => options.home.iter().flat_map(|home| default_known_hosts(home)).collect(),
        };
        let learn_to = match settings.strict.unwrap_or_default() {
            Strict::AcceptNew => user_files.first().cloned(),
            Strict::Refuse => None,
        };
        let mut known_hosts = user_files;
        match &settings.global_known_hosts {
            Some(list) => known_hosts.extend(paths(list)?),
            None => known_hosts.extend(
                ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"].map(PathBuf::from),
            ),
        }
        let agent = match settings.identity_agent.as_deref() {
            None | Some("SSH_AUTH_SOCK" | "$SSH_AUTH_SOCK") => options.auth_sock.clone(),
            Some(none) if is_none(none) => None,
            Some(other) => Some(tokens.path(other)?),
        };
        let proxy = match settings.proxy {
            None => Proxy::None,
            Some(Proxy::Command(command)) => Proxy::Command(tokens.expand(&command)?),
            Some(Proxy::Jump(hops)) => {
                Proxy::Jump(hops.iter().map(|h| tokens.expand(h)).collect::<Result<_>>()?)
            }
            Some(Proxy::None) => Proxy::None,
        };
        let timeout = settings.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let certificates = paths(&settings.certificate_files)?;
        Ok(Host {
            name: asked.host.clone(),
            port,
            identities,
            certificates,
            identities_only: settings.identities_only.unwrap_or(false),
            agent,
            known_hosts,
            learn_to,
            hash_known_hosts: settings.hash_known_hosts.unwrap_or(false),
            key_alias: settings.host_key_alias,
            proxy,
            alive_interval: settings.alive_interval.unwrap_or(DEFAULT_ALIVE.0),
            alive_count: settings.alive_count.unwrap_or(DEFAULT_ALIVE.1),
            timeout: (!timeout.is_zero()).then_some(timeout),
            batch: settings.batch_mode.unwrap_or(false),
            pubkey: settings.pubkey.unwrap_or(true),
            password: settings.password.unwrap_or(true),
            keyboard_interactive: settings.keyboard_interactive.unwrap_or(true),
            family: settings.family.unwrap_or_default(),
            bind_address: settings.bind_address,
            pkcs11: settings.pkcs11.filter(|p| !is_none(p)),
            host_name: host_name.clone(),
            user: user.clone(),
        })
    }
}

fn is_none(value: &str) -> bool {
    value.eq_ignore_ascii_case("none")
}

fn default_known_hosts(home: &Path) -> Vec<PathBuf> {
    ["known_hosts", "known_hosts2"].map(|name| home.join(".ssh").join(name)).into()
}

/// What stands for `%h`, `~` and the like.
struct Tokens<'a> {
    asked: &'a Asked,
    options: &'a SshOptions,
    host: &'a str,
    port: u16,
    user: &'a str,
}

impl Tokens<'_> {
    fn path(&self, text: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(self.expand(&files::tilde(text, self.options)?)?))
    }

    fn expand(&self, text: &str) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(['%', '$']) {
            out.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            if rest.as_bytes()[at] == b'$' {
                // A shell's `$x` in a ProxyCommand stays: only `${…}` is ssh's.
                let Some((name, after)) = tail.strip_prefix('{').and_then(|t| t.split_once('}'))
                else {
                    out.push('$');
                    rest = tail;
                    continue;
                };
                out.push_str(&self.variable(name)?);
                rest = after;
                continue;
            }
            let Some(token) = tail.chars().next() else {
                return Err(self.unknown(text, "%"));
            };
            match token {
                '%' => out.push('%'),
                'h' => out.push_str(self.host),
                'n' => out.push_str(&self.asked.host),
                'k' => out.push_str(&self.asked.host),
                'p' => out.push_str(&self.port.to_string()),
                'r' => out.push_str(self.user),
                'u' => out.push_str(&self.asked.local_user),
                'd' => out.push_str(&files::home(self.options)?.to_string_lossy()),
                'i' => out.push_str(&rustix::process::getuid().as_raw().to_string()),
                'l' | 'L' => {
                    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
                    let short = name.split('.').next().unwrap_or_default();
                    out.push_str(if token == 'l' { &name } else { short });
                }
                other => return Err(self.unknown(text, &format!("%{other}"))),
            }
            rest = &tail[token.len_utf8()..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn variable(&self, name: &str) -> Result<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        match name {
            "HOME" => Ok(text(&files::home(self.options)?)),
            "USER" | "LOGNAME" => Ok(self.asked.local_user.clone()),
            "SSH_AUTH_SOCK" => Ok(self.options.auth_sock.as_deref().map(text).unwrap_or_default()),
            _ => Err(self.unknown(name, &format!("${{{name}}}"))),
        }
    }

    fn unknown(&self, text: &str, what: &str) -> Error {
        Error::failed(format!(
            "cannot expand {what} in '{text}' of the ssh configuration for {}",
            self.asked.host
        ))
        .hint("let the system's ssh do it: --ssh-command ssh")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn options() -> SshOptions {
        SshOptions { home: Some("/home/me".into()), ..SshOptions::default() }
    }

    fn asked() -> Asked {
        Asked { host: "web".into(), local_user: "me".into(), ..Asked::default() }
    }

    #[test]
    fn defaults_are_those_of_ssh() {
        let host = Host::resolve(&asked(), Settings::default(), &options()).unwrap();
        assert_eq!((host.host_name.as_str(), host.port, host.user.as_str()), ("web", 22, "me"));
        assert_eq!(host.identities[0].path, Path::new("/home/me/.ssh/id_ed25519"));
        assert_eq!(host.known_hosts[0], Path::new("/home/me/.ssh/known_hosts"));
        assert_eq!(host.learn_to, None);
        assert_eq!((host.alive_interval.as_secs(), host.alive_count), (15, 3));
        assert_eq!(host.peer(), "me@web");
    }

    #[test]
    fn tokens_are_expanded_and_unknown_ones_refused() {
        let settings = Settings {
            host_name: Some("%h.example.org".into()),
            port: Some(2200),
            identity_files: vec!["~/keys/%r@%h:%p".into(), "none".into()],
            proxy: Some(Proxy::Command("nc %h %p 100%% %n $x".into())),
            identity_agent: Some("${HOME}/agent".into()),
            ..Settings::default()
        };
        let host = Host::resolve(&asked(), settings, &options()).unwrap();
        assert_eq!(host.host_name, "web.example.org");
        assert_eq!(host.identities.len(), 1);
        let key = Path::new("/home/me/keys/me@web.example.org:2200");
        assert_eq!(host.identities[0].path, key);
        assert_eq!(host.proxy, Proxy::Command("nc web.example.org 2200 100% web $x".into()));
        assert_eq!(host.agent.as_deref(), Some(Path::new("/home/me/agent")));
        for bad in ["%C", "%", "${EDITOR}"] {
            let settings = Settings { identity_files: vec![bad.into()], ..Settings::default() };
            let error = Host::resolve(&asked(), settings, &options()).unwrap_err();
            assert!(error.to_string().starts_with("cannot expand "), "{error}");
        }
    }
}
