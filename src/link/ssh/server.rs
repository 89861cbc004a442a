//! What the server may say to us outside of channels: above all, which key it shows.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lsync_protocol::path::Escaped;
use russh::client::{DisconnectReason, Handler, Session};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{
    Algorithm, Certificate, HashAlg, PublicKey, PublicKeyBase64, PublicKeyOrCertificate,
};

use crate::error::{Error, plain};

use super::host::{DEFAULT_PORT, Host};
use super::known_hosts::{KnownHosts, Line, Verdict, learn, name_of};
use super::pattern::matches;

/// Why a connection failed: by ssh's rules, or by ours.
#[derive(Debug)]
pub enum Failure {
    /// The ssh library's reason.
    Ssh(russh::Error),
    /// The host key was refused.
    Refused(Box<Error>),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Failure {
        Failure::Ssh(error)
    }
}

/// What the connection's task leaves for the others.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Option<String>>);

impl Shared {
    /// Why the connection ended, once it has.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self, why: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

/// Our side of a connection.
pub struct Client {
    host: Arc<Host>,
    known: KnownHosts,
    shared: Arc<Shared>,
}

impl Client {
    /// For a connection to `host`, of which `known` is known.
    #[must_use]
    pub fn new(host: Arc<Host>, known: KnownHosts, shared: Arc<Shared>) -> Client {
        Client { host, known, shared }
    }

    fn check_key(&self, key: &PublicKey) -> Result<(), Error> {
        let kind = key.algorithm().to_string();
        let bytes = key.public_key_bytes();
        match self.known.verdict(&kind, &bytes) {
            Verdict::Known => Ok(()),
            Verdict::Revoked(line) => Err(self.revoked(line)),
            Verdict::Changed(line) => Err(self.changed(key, line)),
            Verdict::New => match &self.host.learn_to {
                Some(file) => self.learn(file, &kind, &bytes),
                None => Err(self.unknown(key)),
            },
        }
    }

    fn check_certificate(&self, certificate: &Certificate) -> Result<(), Error> {
        let key = PublicKey::new(certificate.public_key().clone(), "");
        let signer = PublicKey::new(certificate.signature_key().clone(), "");
        for key in [&key, &signer] {
            if let Some(line) = self.known.revoked(&key.public_key_bytes()) {
                return Err(self.revoked(line));
            }
        }
        let signer_bytes = signer.public_key_bytes();
        if !self.known.authorities().any(|line| line.key == signer_bytes) {
            // Signed by somebody we do not know: it is worth what its key is worth.
            return self.check_key(&key);
        }
        let host = &self.host;
        let name = host.key_alias.as_ref().unwrap_or(&host.host_name).to_lowercase();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let refuse = |why: &str| {
            Error::failed(format!("the host certificate of {} is not valid: {why}", host.name))
                .hint("the host needs a certificate for this name, within its time: ssh-keygen -s")
        };
        if certificate.cert_type() != CertType::Host {
            return Err(refuse("it is not for a host"));
        }
        // OpenSSH refuses a host certificate that names nobody, as of 10.1; so do we.
        let principals = certificate.valid_principals();
        if !principals.iter().any(|p| matches(&p.to_lowercase(), &name)) {
            return Err(refuse(&format!("it is not for {name}")));
        }
        if !certificate.critical_options().is_empty() {
            return Err(refuse("it has options that are not known"));
        }
        let fingerprint = signer.fingerprint(HashAlg::Sha256);
        certificate
            .validate_at(now, [&fingerprint])
            .map_err(|_| refuse("it has expired, is not yet valid, or its signature is wrong"))
    }

    fn learn(&self, file: &Path, kind: &str, key: &[u8]) -> Result<(), Error> {
        let host = &self.host;
        let name = self.key_name();
        learn(file, &name, host.hash_known_hosts, kind, key).map_err(|e| {
            Error::failed(format!(
                "cannot write the host key of {} to {}",
                host.name,
                file.display()
            ))
            .because(e)
            .hint("make the file writable, or set another UserKnownHostsFile")
        })?;
        tracing::warn!(host = %host.name, %kind, file = %file.display(), "new host key accepted");
        Ok(())
    }

    fn key_name(&self) -> String {
        let host = &self.host;
        host.key_alias.clone().unwrap_or_else(|| name_of(&host.host_name, host.port))
    }

    fn unknown(&self, key: &PublicKey) -> Error {
        let host = &self.host;
        let (file, port) = (self.user_file(), host.port);
        let option = if port == DEFAULT_PORT { String::new() } else { format!("-p {port} ") };
        Error::failed(format!(
            "the host key of {} is not known: {} {}",
            host.name,
            key.algorithm(),
            key.fingerprint(HashAlg::Sha256)
        ))
        .hint(format!(
            "compare this fingerprint with the host's (there: ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub), then accept it: \
             ssh {option}{}, or ssh-keyscan {option}{} >> {file}, or StrictHostKeyChecking accept-new in the ssh configuration",
            file_word(key),
            host.name,
            host.host_name,
        ))
    }

    fn changed(&self, key: &PublicKey, line: &Line) -> Error {
        let host = &self.host;
        let known = PublicKey::from_bytes(&line.key)
            .map(|key| key.fingerprint(HashAlg::Sha256).to_string())
            .unwrap_or_default();
        let file = line.place.rsplit_once(':').map_or(&*line.place, |(file, _)| file);
        Error::failed(format!(
            "THE HOST KEY OF {} HAS CHANGED, somebody may be listening in: it shows {} {}, but {} has {} {known}",
            host.name,
            key.algorithm(),
            key.fingerprint(HashAlg::Sha256),
            line.place,
            Escaped(line.kind.as_bytes()),
        ))
        .hint(format!(
            "if the host was really set up anew, remove its old key: ssh-keygen -f {file} -R '{}'",
            self.key_name()
        ))
    }

    fn revoked(&self, line: &Line) -> Error {
        Error::failed(format!("the host key of {} is REVOKED by {}", self.host.name, line.place))
            .hint("do not connect; ask whoever runs the host for its new key")
    }

    fn user_file(&self) -> String {
        self.host.known_hosts.first().map_or_else(String::new, |f| f.display().to_string())
    }
}

fn file_word(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Rsa { .. } => "rsa",
        Algorithm::Ecdsa { .. } => "ecdsa",
        _ => "ed25519",
    }
}

impl Handler for Client {
    type Error = Failure;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let checked = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.check_key(key),
            PublicKeyOrCertificate::Certificate(cert) => self.check_certificate(cert),
        };
        checked.map(|()| true).map_err(|e| Failure::Refused(Box::new(e)))
    }

    async fn auth_banner(&mut self, banner: &str, _: &mut Session) -> Result<(), Self::Error> {
        for line in banner.lines().filter(|l| !l.trim().is_empty()).take(40) {
            tracing::info!(host = %self.host.name, "{}", Escaped(line.as_bytes()));
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Failure>) -> Result<(), Failure> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                let message = Escaped(info.message.as_bytes()).to_string();
                self.shared.ended(format!("the server says: {message}"));
                Ok(())
            }
            DisconnectReason::Error(e) => {
                self.shared.ended(match &e {
                    Failure::Ssh(error) => lost_text(error),
                    Failure::Refused(error) => error.to_string(),
                });
                Err(e)
            }
        }
    }
}

/// Why an established connection broke, in words.
fn lost_text(error: &russh::Error) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => "the connection was closed".into(),
        russh::Error::KeepaliveTimeout => "the server has stopped answering".into(),
        russh::Error::IO(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed".into()
        }
        russh::Error::IO(e) if e.kind() == std::io::ErrorKind::TimedOut => {
            "the server has stopped reading".into()
        }
        other => format!("the connection broke: {}", plain(&other.to_string())),
    }
}
