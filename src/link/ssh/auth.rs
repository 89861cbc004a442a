//! Logging in: which keys are offered in which order, who is asked, and what is told when nothing
//! was accepted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{
    Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey,
    load_openssh_certificate, load_public_key, load_secret_key,
};
use russh::{MethodKind, MethodSet};
use tokio::net::UnixStream;

use lsync_protocol::path::Escaped;

use crate::error::{Error, Result, plain};

use super::deadline::Deadline;
use super::host::{Host, Identity, Named};
use super::prompt::{self, Ask};
use super::server::{Client, Shared};

/// How often a passphrase or a password is asked for.
const TRIES: usize = 3;

type Agent = AgentClient<UnixStream>;

/// Logs in on a connection.
///
/// # Errors
/// Nothing was accepted: the text lists what was tried. The server went away, or was too slow.
pub async fn log_in(
    handle: &mut Handle<Client>,
    host: &Host,
    deadline: &mut Deadline,
    who: &Arc<dyn Ask>,
    shared: &Shared,
) -> Result<()> {
    let mut login = Login {
        handle,
        host,
        deadline,
        who,
        shared,
        tried: Vec::new(),
        methods: None,
        sent: vec![],
    };
    if login.run().await? {
        return Ok(());
    }
    Err(login.refused())
}

struct Login<'a> {
    handle: &'a mut Handle<Client>,
    host: &'a Host,
    deadline: &'a mut Deadline,
    who: &'a Arc<dyn Ask>,
    shared: &'a Shared,
    /// What was tried and how it ended, for people.
    tried: Vec<String>,
    /// What the server takes, once it has said so.
    methods: Option<MethodSet>,
    /// Public keys that were offered.
    sent: Vec<PublicKey>,
}

impl Login<'_> {
    async fn run(&mut self) -> Result<bool> {
        if self.host.pubkey && self.keys().await? {
            return Ok(true);
        }
        if self.methods.is_none() {
            let user = self.host.user.clone();
            let result = self.deadline.within(self.handle.authenticate_none(user)).await?;
            if self.answer(result)?.is_some() {
                return Ok(true);
            }
        }
        if self.host.keyboard_interactive && self.takes(MethodKind::KeyboardInteractive) {
            if !self.who.present() {
                self.tried.push("password (no terminal to ask on)".into());
                return Ok(false);
            }
            if self.questions().await? {
                return Ok(true);
            }
        }
        if self.host.password && self.takes(MethodKind::Password) {
            return self.password().await;
        }
        Ok(false)
    }

    fn takes(&self, method: MethodKind) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(&method))
    }

    /// Notes the server's answer: `Some(())` when we are in, an error when it hung up.
    fn answer(&mut self, result: Result<AuthResult, russh::Error>) -> Result<Option<()>> {
        match result {
            Ok(AuthResult::Success) => return Ok(Some(())),
            Ok(AuthResult::Failure { remaining_methods, partial_success }) => {
                if partial_success {
                    self.tried.push("accepted, but the server wants more".into());
                }
                if !remaining_methods.is_empty() {
                    self.methods = Some(remaining_methods);
                    return Ok(None);
                }
            }
            Err(e) => tracing::debug!(error = %e, "login attempt failed"),
        }
        // No method is left: it may have hung up (too many tries).
        if self.handle.is_closed() { Err(self.hung_up()) } else { Ok(None) }
    }

    async fn keys(&mut self) -> Result<bool> {
        let (mut agent, mut held) = self.agent_keys().await;
        let host = self.host;
        if host.identities_only {
            let wanted: Vec<_> =
                host.identities.iter().filter_map(|i| public_of(&i.path)).collect();
            held.retain(|key| wanted.iter().any(|w| same(w, key)));
        }
        let (given, named): (Vec<_>, Vec<_>) =
            host.identities.iter().partition(|i| i.named == Named::Option);
        for identity in given {
            if self.file(identity, &mut agent, &held).await? {
                return Ok(true);
            }
        }
        // The agent's keys that the configuration names come first: a server counts tries.
        held.sort_by_key(|key| {
            !named.iter().any(|i| public_of(&i.path).is_some_and(|public| same(&public, key)))
        });
        if let Some(agent) = &mut agent {
            for key in &held {
                if self.agent_key(key, agent).await? {
                    return Ok(true);
                }
            }
        }
        for identity in named {
            if self.file(identity, &mut agent, &held).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The ssh-agent and the keys it holds.
    async fn agent_keys(&mut self) -> (Option<Agent>, Vec<AgentIdentity>) {
        let Some(socket) = &self.host.agent else {
            return (None, vec![]);
        };
        let asked = self.deadline.within(async {
            let mut agent = Agent::connect_uds(socket).await?;
            let keys = agent.request_identities().await?;
            Ok::<_, russh::keys::Error>((agent, keys))
        });
        match asked.await {
            Ok(Ok((agent, keys))) => (Some(agent), keys),
            Ok(Err(e)) => {
                let why = plain(&e.to_string());
                self.tried.push(format!("ssh-agent at {} ({why})", socket.display()));
                (None, vec![])
            }
            Err(_) => {
                self.tried.push(format!("ssh-agent at {} (no answer)", socket.display()));
                (None, vec![])
            }
        }
    }

    /// Offers a key of the ssh-agent.
    async fn agent_key(&mut self, key: &AgentIdentity, agent: &mut Agent) -> Result<bool> {
        let (public, certificate, comment) = match key {
            AgentIdentity::PublicKey { key, comment } => (key.clone(), None, comment),
            AgentIdentity::Certificate { certificate, comment } => {
                let public = PublicKey::new(certificate.public_key().clone(), "");
                (public, Some(certificate.clone()), comment)
            }
        };
        if !self.takes(MethodKind::PublicKey) {
            return Ok(false);
        }
        if certificate.is_none() {
            if self.sent.iter().any(|sent| sent.key_data() == public.key_data()) {
                return Ok(false);
            }
            self.sent.push(public.clone());
        }
        let hash = self.hash_for(&public).await?;
        let user = self.host.user.clone();
        let name = format!("agent key {}", Escaped(comment.as_bytes()));
        // The agent may ask its owner: that is time that a person takes.
        let result = match certificate {
            Some(cert) => {
                self.deadline
                    .without_limit(
                        self.handle.authenticate_certificate_with(user, cert, hash, agent),
                    )
                    .await
            }
            None => {
                self.deadline
                    .without_limit(
                        self.handle.authenticate_publickey_with(user, public, hash, agent),
                    )
                    .await
            }
        };
        match result {
            Ok(result) => self.offered(&name, Ok(result)),
            Err(e) => {
                self.tried.push(format!("{name} ({})", plain(&e.to_string())));
                if self.handle.is_closed() { Err(self.hung_up()) } else { Ok(false) }
            }
        }
    }

    /// Offers the key of a file, by the agent if it holds it: no passphrase is needed then.
    async fn file(
        &mut self,
        identity: &Identity,
        agent: &mut Option<Agent>,
        held: &[AgentIdentity],
    ) -> Result<bool> {
        if !self.takes(MethodKind::PublicKey) {
            return Ok(false);
        }
        let path = &identity.path;
        let name = path.display().to_string();
        let public = public_of(path);
        if let (Some(public), Some(agent)) = (&public, agent)
            && let Some(key) = held.iter().find(|key| same(public, key))
        {
            return self.agent_key(key, agent).await;
        }
        if public.is_some_and(|p| self.sent.iter().any(|s| s.key_data() == p.key_data())) {
            return Ok(false);
        }
        let key = match prompt::known_key(path) {
            Some(key) => key,
            None => match load_secret_key(path, None) {
                Ok(key) => Arc::new(key),
                Err(russh::keys::Error::IO(e)) if e.kind() == std::io::ErrorKind::NotFound => {
                    if identity.named != Named::Default {
                        self.tried.push(format!("{name} (no such file)"));
                    }
                    return Ok(false);
                }
                Err(russh::keys::Error::KeyIsEncrypted) => match self.unlock(path).await? {
                    Some(key) => key,
                    None => return Ok(false),
                },
                Err(e) => {
                    self.tried.push(format!("{name} ({})", plain(&e.to_string())));
                    return Ok(false);
                }
            },
        };
        if matches!(key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256) {
            self.tried.push(format!("{name} (a security key, which only the ssh-agent can use)"));
            return Ok(false);
        }
        for certificate in self.certificates(path, &key) {
            let user = self.host.user.clone();
            let offer = self.handle.authenticate_openssh_cert(user, Arc::clone(&key), certificate);
            let result = self.deadline.within(offer).await?;
            if self.offered(&format!("certificate of {name}"), result)? {
                return Ok(true);
            }
        }
        self.sent.push(key.public_key().clone());
        let hash = self.hash_for(key.public_key()).await?;
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let user = self.host.user.clone();
        let result = self.deadline.within(self.handle.authenticate_publickey(user, key)).await?;
        self.offered(&name, result)
    }

    fn offered(&mut self, name: &str, result: Result<AuthResult, russh::Error>) -> Result<bool> {
        let partial = matches!(&result, Ok(AuthResult::Failure { partial_success: true, .. }));
        if !matches!(result, Ok(AuthResult::Success)) && !partial {
            self.tried.push(format!("{name} (refused)"));
        } else if partial {
            self.tried.push(name.to_owned());
        }
        Ok(self.answer(result)?.is_some())
    }

    /// Asks for the passphrase of a key, if it would help.
    async fn unlock(&mut self, path: &Path) -> Result<Option<Arc<PrivateKey>>> {
        let name = path.display();
        if !self.who.present() {
            self.tried.push(format!("{name} (needs a passphrase, no terminal)"));
            return Ok(None);
        }
        for _ in 0..TRIES {
            let prompt = format!("passphrase for {name}: ");
            let Some(passphrase) = prompt::ask(self.who, prompt, false).await else {
                break;
            };
            if passphrase.is_empty() {
                break;
            }
            // The key derivation is slow on purpose.
            let file = path.to_owned();
            let opened =
                tokio::task::spawn_blocking(move || load_secret_key(file, Some(&passphrase))).await;
            if let Ok(Ok(key)) = opened {
                let key = Arc::new(key);
                prompt::keep_key(path, Arc::clone(&key));
                return Ok(Some(key));
            }
        }
        self.tried.push(format!("{name} (no right passphrase)"));
        Ok(None)
    }

    /// Certificates for a key: beside its file, and those of the configuration.
    fn certificates(&mut self, path: &Path, key: &PrivateKey) -> Vec<Certificate> {
        let mut beside = path.as_os_str().to_owned();
        beside.push("-cert.pub");
        let beside = PathBuf::from(beside);
        let mut found = Vec::new();
        for file in std::iter::once(&beside).chain(&self.host.certificates) {
            match load_openssh_certificate(file) {
                Ok(cert) if cert.public_key() == key.public_key().key_data() => found.push(cert),
                Ok(_) => {}
                Err(_) if *file == beside => {}
                Err(e) => {
                    let note =
                        format!("certificate {} ({})", file.display(), plain(&e.to_string()));
                    if !self.tried.contains(&note) {
                        self.tried.push(note);
                    }
                }
            }
        }
        found
    }

    /// With which hash an RSA key signs; servers that do not say take SHA-512.
    async fn hash_for(&mut self, key: &PublicKey) -> Result<Option<HashAlg>> {
        if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
            return Ok(None);
        }
        let best = self.deadline.within(self.handle.best_supported_rsa_hash()).await?;
        Ok(best.ok().flatten().unwrap_or(Some(HashAlg::Sha512)))
    }

    async fn password(&mut self) -> Result<bool> {
        let host = self.host;
        let peer = host.peer();
        let mut known = prompt::known_password(&peer);
        if known.is_none() && !self.who.present() {
            self.tried.push("password (no terminal to ask on)".into());
            return Ok(false);
        }
        for _ in 0..TRIES {
            let password = match known.take() {
                Some(password) => password,
                None => {
                    let prompt = format!("{}@{}'s password: ", host.user, host.name);
                    match prompt::ask(self.who, prompt, false).await {
                        Some(password) => password,
                        None => break,
                    }
                }
            };
            let attempt = self.handle.authenticate_password(host.user.clone(), password.clone());
            let result = self.deadline.within(attempt).await?;
            if self.offered("password", result)? {
                prompt::keep_password(&peer, Some(password));
                return Ok(true);
            }
            prompt::keep_password(&peer, None);
            if !self.takes(MethodKind::Password) {
                break;
            }
        }
        Ok(false)
    }

    /// Puts the server's own questions to the person.
    async fn questions(&mut self) -> Result<bool> {
        use KeyboardInteractiveAuthResponse as Answer;
        let host = self.host;
        for _ in 0..TRIES {
            let start =
                self.handle.authenticate_keyboard_interactive_start(host.user.clone(), None);
            let mut step = self.deadline.within(start).await?;
            // A server may ask for ever.
            for _ in 0..32 {
                let prompts = match step {
                    Ok(Answer::Success) => return Ok(true),
                    Ok(Answer::InfoRequest { prompts, .. }) => prompts,
                    _ => break,
                };
                let mut answers = Vec::with_capacity(prompts.len());
                for prompt in prompts {
                    let text = format!("({}@{}) {}", host.user, host.name, prompt.prompt);
                    match prompt::ask(self.who, text, prompt.echo).await {
                        Some(answer) => answers.push(answer),
                        None => return Ok(false),
                    }
                }
                let reply = self.handle.authenticate_keyboard_interactive_respond(answers);
                step = self.deadline.within(reply).await?;
            }
            self.tried.push("password (refused)".into());
            match step {
                Ok(Answer::Failure { remaining_methods, .. }) => {
                    self.methods = Some(remaining_methods);
                    if !self.takes(MethodKind::KeyboardInteractive) {
                        break;
                    }
                }
                _ if self.handle.is_closed() => return Err(self.hung_up()),
                _ => break,
            }
        }
        Ok(false)
    }

    fn hung_up(&self) -> Error {
        let why = self.shared.why().unwrap_or_else(|| "it closed the connection".into());
        Error::failed(format!(
            "{} ended the login as user {}: {why}",
            self.host.name, self.host.user
        ))
        .because(self.tried_text())
        .hint("offer one key only: -i FILE, and IdentitiesOnly yes in the ssh configuration")
    }

    fn tried_text(&self) -> String {
        match self.tried.is_empty() {
            true => "there was no key to try".into(),
            false => format!("tried {}", self.tried.join(", ")),
        }
    }

    fn refused(&self) -> Error {
        let host = self.host;
        let offered = |word: &str| self.tried.iter().any(|t| t.contains(word));
        let only_others = self.methods.as_ref().is_some_and(|methods| {
            !methods.is_empty()
                && !methods.iter().any(|m| {
                    use MethodKind as M;
                    matches!(m, M::PublicKey | M::Password | M::KeyboardInteractive)
                })
        });
        let hint = if only_others {
            let names: Vec<String> =
                self.methods.iter().flat_map(|m| m.iter().map(String::from)).collect();
            format!("the server takes {} only, which --ssh-command ssh may know", names.join(", "))
        } else if let Some(library) = &host.pkcs11 {
            format!("keys of {library} (PKCS11Provider) need ssh-agent or --ssh-command ssh")
        } else if offered("needs a passphrase") {
            "load the key into the ssh-agent: ssh-add FILE".into()
        } else if self.tried.is_empty() {
            "name a key with -i FILE or load one into the ssh-agent: ssh-add FILE".into()
        } else {
            format!(
                "the public key must be in ~/.ssh/authorized_keys there: ssh-copy-id {}@{}",
                host.user, host.name
            )
        };
        Error::failed(format!(
            "authentication refused by {} for user {}: {}",
            host.name,
            host.user,
            self.tried_text()
        ))
        .hint(hint)
    }
}

/// The public half of a key file, without its passphrase.
fn public_of(path: &Path) -> Option<PublicKey> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    load_public_key(PathBuf::from(beside)).ok().or_else(|| {
        // OpenSSH's own format holds it in clear.
        PrivateKey::read_openssh_file(path).ok().map(|key| key.public_key().clone())
    })
}

fn same(public: &PublicKey, held: &AgentIdentity) -> bool {
    match held {
        AgentIdentity::PublicKey { key, .. } => key.key_data() == public.key_data(),
        AgentIdentity::Certificate { certificate, .. } => {
            certificate.public_key() == public.key_data()
        }
    }
}
