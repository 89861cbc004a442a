//! ssh, spoken in this process: the user's configuration, keys, agent and known hosts, and
//! commands run on channels of one connection.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lsync_protocol::path::Escaped;
use russh::client::{self, Handle};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader};

use crate::config::{SshOptions, SshTarget};
use crate::error::{Error, Result, plain};
use crate::link::{Link, LinkEnd, Remote, Tail};

pub mod auth;
pub mod channel;
pub mod config;
pub mod deadline;
pub mod files;
pub mod host;
pub mod known_hosts;
pub mod pattern;
pub mod prompt;
pub mod public;
pub mod server;
pub mod stream;
pub mod words;

use config::{Asked, Proxy};
use deadline::Deadline;
use host::Host;
use known_hosts::KnownHosts;
use prompt::{Ask, Nobody, Terminal};
use server::{Client, Failure, Shared};

/// How many hosts a connection may go through.
const MAX_HOPS: usize = 8;

/// What the server may send on a channel before we answer: on long links it is what limits a
/// transfer towards us.
const WINDOW: u32 = 16 << 20;

/// How long a failed ProxyCommand's standard error is waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An ssh connection to a host, on which commands are run. It ends when it and all of its links
/// are dropped.
pub struct Connection {
    session: Arc<Session>,
    peer: String,
}

struct Session {
    handle: Handle<Client>,
    shared: Arc<Shared>,
    /// The command that the connection runs through; killed with it.
    _proxy: Option<tokio::process::Child>,
}

impl channel::Keep for Session {
    fn lost(&self) -> Option<String> {
        Some(self.shared.why().unwrap_or_else(|| "the connection was lost".into()))
    }
}

/// Connects and logs in. Questions (passphrases, passwords) go to the terminal, if there is one.
///
/// # Errors
/// Told apart, each with a hint: the configuration, the name, the network, what listens there is
/// no ssh server, the host key, the login.
pub async fn connect(target: &SshTarget, options: &SshOptions) -> Result<Connection> {
    connect_asking(target, options, Arc::new(Terminal)).await
}

/// What the configuration says of a target's host.
///
/// # Errors
/// A name that is none, or a configuration that cannot be read.
pub fn resolve(target: &SshTarget, options: &SshOptions) -> Result<Host> {
    host::check_names(target)?;
    let asked = Asked {
        host: target.host.clone(),
        user: target.user.clone(),
        port: options.port.or(target.port),
        local_user: options.user.clone().unwrap_or_default(),
    };
    Host::load(&asked, options)
}

/// As [`connect`], with somebody else to ask.
///
/// # Errors
/// As [`connect`].
pub async fn connect_asking(
    target: &SshTarget,
    options: &SshOptions,
    who: Arc<dyn Ask>,
) -> Result<Connection> {
    let host = resolve(target, options)?;
    let peer = host.peer();
    let session = reach(host, options.clone(), who, 0).await?;
    Ok(Connection { session, peer })
}

impl Connection {
    /// Is the connection gone?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.session.handle.is_closed()
    }
}

impl Remote for Connection {
    fn exec<'a>(
        &'a self,
        command: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Link>> + Send + 'a>> {
        Box::pin(async move {
            let cannot = || Error::failed(format!("cannot run a command on {}", self.peer));
            let channel =
                self.session.handle.channel_open_session().await.map_err(|e| match e {
                    russh::Error::ChannelOpenFailure(reason) => cannot()
                        .because(format!("the server opens no session ({reason:?})"))
                        .hint("MaxSessions in the server's sshd_config may be too low"),
                    _ => cannot().because(
                        self.session
                            .shared
                            .why()
                            .unwrap_or_else(|| "the connection was lost".into()),
                    ),
                })?;
            // The answer is not waited for, which saves a round trip: a refusal ends the channel.
            channel.exec(true, command).await.map_err(|e| cannot().because(e))?;
            Ok(channel::link(channel, self.peer.clone(), Arc::clone(&self.session)))
        })
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}

/// Connects to a host, through others if it says so.
fn reach(
    host: Host,
    options: SshOptions,
    who: Arc<dyn Ask>,
    depth: usize,
) -> Pin<Box<dyn Future<Output = Result<Arc<Session>>> + Send>> {
    Box::pin(async move {
        let mut deadline = Deadline::new(host.timeout);
        deadline.doing(format!("cannot connect to {}", stream::shown(&host)));
        match host.proxy.clone() {
            Proxy::None => {
                let socket = deadline.within(stream::dial(&host)).await??;
                let socket = stream::QuickAck(socket);
                handshake(host, socket, who, deadline).await.map(Arc::new)
            }
            Proxy::Command(command) => {
                let mut child = tokio::process::Command::new("/bin/sh")
                    .args(["-c", &format!("exec {command}")])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()
                    .map_err(|e| Error::failed("cannot run ProxyCommand").because(e))?;
                let (Some(reader), Some(writer)) = (child.stdout.take(), child.stdin.take()) else {
                    return Err(Error::failed("cannot run ProxyCommand: no pipes"));
                };
                let listening = listen(child.stderr.take());
                let name = host.name.clone();
                let joined = stream::Joined { reader, writer };
                match handshake(host, joined, who, deadline).await {
                    Ok(session) => Ok(Arc::new(Session { _proxy: Some(child), ..session })),
                    Err(e) => {
                        // It may be about to say why; a child of its own may live on.
                        let said = tokio::time::timeout(LAST_WORDS, listening).await;
                        let stderr = said.ok().and_then(Result::ok).unwrap_or_default();
                        let said = LinkEnd { stderr, ..LinkEnd::default() };
                        let Some(line) = said.last_words() else { return Err(e) };
                        let what = format!("cannot reach {name} through its ProxyCommand");
                        Err(Error::failed(format!("{what} '{command}': {line}")).because(e))
                    }
                }
            }
            Proxy::Jump(mut hops) => {
                let Some(last) = hops.pop() else {
                    return Err(Error::failed(format!("ProxyJump for {} is empty", host.name)));
                };
                if depth >= MAX_HOPS {
                    return Err(Error::failed(format!(
                        "cannot reach {}: more than {MAX_HOPS} hosts in between",
                        host.name
                    ))
                    .hint("does a ProxyJump of the ssh configuration lead back to itself?"));
                }
                let mut hop = hop(&last, &options)?;
                if !hops.is_empty() {
                    hop.proxy = Proxy::Jump(hops);
                }
                let via = hop.name.clone();
                let through = reach(hop, options, Arc::clone(&who), depth + 1).await?;
                let (name, port) = (host.host_name.clone(), u32::from(host.port));
                let open = through.handle.channel_open_direct_tcpip(name, port, "127.0.0.1", 0);
                let channel = deadline.within(open).await?.map_err(|e| {
                    Error::failed(format!("cannot reach {} through {via}", stream::shown(&host)))
                        .because(jump_text(&e))
                        .hint(format!("try it from there: ssh {via}, then ssh {}", host.host_name))
                })?;
                let (reader, writer) = channel::halves(channel, through);
                let joined = stream::Joined { reader, writer };
                handshake(host, joined, who, deadline).await.map(Arc::new)
            }
        }
    })
}

/// A host of `ProxyJump`, with its own configuration; `-i` and `-p` are for the last host only.
fn hop(text: &str, options: &SshOptions) -> Result<Host> {
    let bad = || Error::failed(format!("cannot understand '{text}' of ProxyJump"));
    let rest = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/');
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_owned()), rest),
        None => (None, rest),
    };
    let (name, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or_else(bad)?;
            (name, port.strip_prefix(':'))
        }
        None => match rest.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => (name, Some(port)),
            _ => (rest, None),
        },
    };
    let port = port.map(|p| p.parse().map_err(|_| bad())).transpose()?;
    let target = SshTarget { user, host: name.to_owned(), port, dir: Vec::new() };
    host::check_names(&target)?;
    let asked = Asked {
        host: target.host,
        user: target.user,
        port,
        local_user: options.user.clone().unwrap_or_default(),
    };
    let options = SshOptions { identities: Vec::new(), port: None, ..options.clone() };
    Host::load(&asked, &options)
}

fn jump_text(error: &russh::Error) -> String {
    match error {
        russh::Error::ChannelOpenFailure(reason) => match reason {
            russh::ChannelOpenFailure::ConnectFailed => "it cannot connect to it".into(),
            russh::ChannelOpenFailure::AdministrativelyProhibited => {
                "it does not forward (AllowTcpForwarding)".into()
            }
            other => format!("it opens no channel ({other:?})"),
        },
        other => plain(&other.to_string()),
    }
}

/// Makes a byte stream to a server an ssh connection, and logs in.
async fn handshake<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    host: Host,
    socket: S,
    who: Arc<dyn Ask>,
    mut deadline: Deadline,
) -> Result<Session> {
    let known =
        KnownHosts::read(&host.known_hosts, &host.host_name, host.port, host.key_alias.as_deref())
            .map_err(|(file, e)| {
                Error::failed(format!("cannot read the known hosts {}", file.display())).because(e)
            })?;
    let config = Arc::new(client_config(&host, &known));
    let limit = host.alive_interval.saturating_mul(host.alive_count.saturating_add(1));
    let limit = (!limit.is_zero()).then_some(limit);
    let heard = Arc::new(Mutex::new(Vec::new()));
    // russh reads a packet's length and its body apart: the buffer makes one system call of many.
    let socket = BufReader::with_capacity(128 * 1024, stream::Unstuck::new(socket, limit));
    let socket = stream::Overheard::new(socket, Arc::clone(&heard));
    let host = Arc::new(host);
    let shared = Arc::new(Shared::default());
    let client = Client::new(Arc::clone(&host), known, Arc::clone(&shared));

    deadline.doing(format!("cannot make an ssh connection to {}", stream::shown(&host)));
    let connecting = client::connect_stream(config, socket, client);
    let mut handle = deadline.within(connecting).await?.map_err(|failure| match failure {
        Failure::Refused(error) => *error,
        Failure::Ssh(error) => {
            let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            handshake_error(&host, &error, &heard)
        }
    })?;
    deadline.doing(format!("cannot log in on {} as user {}", host.name, host.user));
    let who = if host.batch { Arc::new(Nobody) } else { who };
    auth::log_in(&mut handle, &host, &mut deadline, &who, &shared).await?;
    Ok(Session { handle, shared, _proxy: None })
}

fn handshake_error(host: &Host, error: &russh::Error, heard: &[u8]) -> Error {
    let place = stream::shown(host);
    if !heard.starts_with(b"SSH-") && !heard.windows(5).any(|w| w == b"\nSSH-") {
        if heard.is_empty() {
            return Error::failed(format!(
                "{place} closed the connection before it said that it speaks ssh"
            ))
            .hint("the server may be overloaded (MaxStartups) or refuse this address");
        }
        let line = heard.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
        let line = Escaped(&line[..line.len().min(80)]).to_string();
        return Error::failed(format!("{place} is no ssh server: it says '{line}'"))
            .hint("is this the right port? give another with -p PORT");
    }
    let failed = Error::failed(format!("cannot make an ssh connection to {place}"));
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => failed
            .because(format!("no common {kind:?} algorithm; it offers {}", theirs.join(", ")))
            .hint("let the system's ssh try: --ssh-command ssh"),
        russh::Error::Disconnect | russh::Error::HUP => failed.because("it closed the connection"),
        other => failed.because(plain(&other.to_string())),
    }
}

fn client_config(host: &Host, known: &KnownHosts) -> client::Config {
    let aes = {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let aes = std::arch::is_x86_feature_detected!("aes");
        #[cfg(target_arch = "aarch64")]
        let aes = std::arch::is_aarch64_feature_detected!("aes");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let aes = false;
        aes
    };
    let gcm = [cipher::AES_128_GCM, cipher::AES_256_GCM];
    let chacha = [cipher::CHACHA20_POLY1305];
    let ctr = [cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR];
    let ciphers = match aes {
        true => [&gcm[..], &chacha, &ctr].concat(),
        false => [&chacha[..], &gcm, &ctr].concat(),
    };
    let certificates = match known.authorities().next() {
        // Only who trusts an authority can use a certificate.
        Some(_) => Cow::Owned(key_order(known)),
        None => Cow::Borrowed(&[][..]),
    };
    client::Config {
        client_id: russh::SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-lsyncd_",
            env!("CARGO_PKG_VERSION")
        ))),
        window_size: WINDOW,
        maximum_packet_size: 65535,
        preferred: Preferred {
            key: Cow::Owned(key_order(known)),
            host_key_certificates: certificates,
            cipher: Cow::Owned(ciphers),
            // We compress ourselves, and better.
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        keepalive_interval: (host.alive_interval > Duration::ZERO).then_some(host.alive_interval),
        keepalive_max: host.alive_count as usize,
        nodelay: true,
        ..client::Config::default()
    }
}

/// The kinds of host keys, those first by which the host is known: a server with several keys
/// would otherwise show one that we do not know.
fn key_order(known: &KnownHosts) -> Vec<Algorithm> {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let mut order = vec![
        Algorithm::Ed25519,
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ];
    let kinds: Vec<&str> = known.kinds().collect();
    let is_known = |algorithm: &Algorithm| match algorithm {
        Algorithm::Rsa { .. } => kinds.contains(&"ssh-rsa"),
        other => kinds.contains(&other.as_str()),
    };
    order.sort_by_key(|algorithm| !is_known(algorithm));
    order
}

/// Reads what a command says on standard error, to its end.
fn listen(stderr: Option<tokio::process::ChildStderr>) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let mut tail = Tail::default();
        let mut buffer = [0; 4096];
        if let Some(mut stderr) = stderr {
            while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
                tail.push(&buffer[..n]);
            }
        }
        tail.take()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hops_are_understood() {
        let none = Some("none".into());
        let options = SshOptions { config: none, user: Some("me".into()), ..Default::default() };
        let table = [
            ("gate", ("me", "gate", 22)),
            ("a@gate:2200", ("a", "gate", 2200)),
            ("ssh://a@gate:2200/", ("a", "gate", 2200)),
            ("[::1]:5", ("me", "::1", 5)),
            ("fe80::1", ("me", "fe80::1", 22)),
        ];
        for (text, want) in table {
            let hop = hop(text, &options).unwrap();
            assert_eq!((hop.user.as_str(), hop.host_name.as_str(), hop.port), want, "{text}");
        }
        for bad in ["gate:x", "[::1", "", "-oProxyCommand=x", "a b"] {
            assert!(hop(bad, &options).is_err(), "{bad}");
        }
    }
}
