//! Which keys a host may show: files of known hosts, read, asked and written.
//!
//! Keys are compared as bytes, so a line of a kind that we cannot use still counts: a host that is
//! known by such a key is never "new".

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, BASE64_NOPAD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::host::DEFAULT_PORT;
use super::pattern::matches;

/// More than this of one file is not read.
const MAX_FILE: u64 = 16 << 20;

/// What a line says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// The host's own key.
    Host,
    /// A key that signs host keys.
    Authority,
    /// A key that must not be trusted.
    Revoked,
}

/// One line that concerns the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it stands: `file:line`.
    pub place: String,
    /// What it says.
    pub marker: Marker,
    /// The kind of key: `ssh-ed25519`.
    pub kind: String,
    /// The key as it crosses the wire.
    pub key: Vec<u8>,
}

/// What is known about a key that a host shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It is this host's.
    Known,
    /// Nothing is known of the host.
    New,
    /// The host is known by another key of the same kind, or only by keys of other kinds.
    Changed(&'a Line),
    /// The key is revoked.
    Revoked(&'a Line),
}

/// All that the files say about one host.
#[derive(Debug, Default)]
pub struct KnownHosts {
    lines: Vec<Line>,
    /// Lines for the name without its port: they can only say yes, or that a key is revoked.
    portless: Vec<Line>,
}

/// The name under which a host's keys are written: `host`, or `[host]:port`.
#[must_use]
pub fn name_of(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == DEFAULT_PORT { host } else { format!("[{host}]:{port}") }
}

impl KnownHosts {
    /// Reads what the files say; a file that is missing says nothing.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn read(
        files: &[PathBuf],
        host: &str,
        port: u16,
        alias: Option<&str>,
    ) -> Result<KnownHosts, (PathBuf, std::io::Error)> {
        let name = alias.map_or_else(|| name_of(host, port), str::to_lowercase);
        let bare = (alias.is_none() && port != DEFAULT_PORT).then(|| host.to_lowercase());
        let mut known = KnownHosts::default();
        for file in files {
            let mut bytes = Vec::new();
            let opened = std::fs::File::open(file);
            match opened.and_then(|f| f.take(MAX_FILE).read_to_end(&mut bytes)) {
                Ok(_) => known.add(file, &String::from_utf8_lossy(&bytes), &name, bare.as_deref()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err((file.clone(), e)),
            }
        }
        Ok(known)
    }

    fn add(&mut self, file: &Path, text: &str, name: &str, bare: Option<&str>) {
        for (number, line) in text.lines().enumerate() {
            let Some((marker, hosts, kind, key)) = parse(line) else {
                continue;
            };
            let to_line = || Line {
                place: format!("{}:{}", file.display(), number + 1),
                marker,
                kind: kind.to_owned(),
                key: key.clone(),
            };
            if names(hosts, name) {
                self.lines.push(to_line());
            } else if bare.is_some_and(|bare| names(hosts, bare)) {
                self.portless.push(to_line());
            }
        }
    }

    /// The kinds of keys by which the host is known, in the order of the files.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        let own = |line: &&Line| line.marker == Marker::Host;
        self.lines.iter().filter(own).chain(self.portless.iter().filter(own)).map(|l| &*l.kind)
    }

    /// The keys that may sign this host's certificate.
    pub fn authorities(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().chain(&self.portless).filter(|l| l.marker == Marker::Authority)
    }

    /// The line that revokes a key, if one does.
    #[must_use]
    pub fn revoked(&self, key: &[u8]) -> Option<&Line> {
        let mut lines = self.lines.iter().chain(&self.portless);
        lines.find(|l| l.marker == Marker::Revoked && l.key == key)
    }

    /// What is known of a key of this kind that the host shows.
    #[must_use]
    pub fn verdict(&self, kind: &str, key: &[u8]) -> Verdict<'_> {
        if let Some(line) = self.revoked(key) {
            return Verdict::Revoked(line);
        }
        let own = |line: &&Line| line.marker == Marker::Host;
        let all = self.lines.iter().filter(own).chain(self.portless.iter().filter(own));
        if all.clone().any(|line| line.key == key) {
            return Verdict::Known;
        }
        // A bare name is another server's on another port: it does not make this one "changed".
        let mut lines = self.lines.iter().filter(own);
        let same_kind = lines.clone().find(|line| line.kind == kind);
        match same_kind.or_else(|| lines.next()) {
            Some(line) => Verdict::Changed(line),
            None => Verdict::New,
        }
    }
}

/// Marker, host patterns, kind and key of a line; `None` for what is no entry.
fn parse(line: &str) -> Option<(Marker, &str, &str, Vec<u8>)> {
    let mut fields = line.split([' ', '\t']).filter(|f| !f.is_empty());
    let mut hosts = fields.next()?;
    let marker = match hosts {
        "@revoked" => Marker::Revoked,
        "@cert-authority" => Marker::Authority,
        _ if hosts.starts_with(['#', '@']) => return None,
        _ => Marker::Host,
    };
    if marker != Marker::Host {
        hosts = fields.next()?;
    }
    let kind = fields.next()?;
    let key = fields.next()?.trim_end_matches('=');
    Some((marker, hosts, kind, BASE64_NOPAD.decode(key.as_bytes()).ok()?))
}

/// Does a field of comma separated patterns, or a hashed name, name this host?
fn names(hosts: &str, name: &str) -> bool {
    if let Some(hashed) = hosts.strip_prefix("|1|") {
        return hashed.split_once('|').is_some_and(|(salt, hash)| {
            let decode = |text: &str| BASE64.decode(text.as_bytes()).ok();
            let (Some(salt), Some(hash)) = (decode(salt), decode(hash)) else {
                return false;
            };
            hash_of(&salt, name).is_some_and(|ours| ours == hash)
        });
    }
    let mut found = false;
    for pattern in hosts.split(',') {
        // `[host]:port` holds no character that a pattern treats apart.
        match pattern.strip_prefix('!') {
            Some(not) if matches(&not.to_lowercase(), name) => return false,
            Some(_) => {}
            None => found |= matches(&pattern.to_lowercase(), name),
        }
    }
    found
}

fn hash_of(salt: &[u8], name: &str) -> Option<Vec<u8>> {
    let mac = Hmac::<Sha1>::new_from_slice(salt).ok()?;
    Some(mac.chain_update(name.as_bytes()).finalize().into_bytes().to_vec())
}

/// Appends a host's key to a file, which is made if it is missing.
///
/// # Errors
/// What the file system says.
pub fn learn(file: &Path, name: &str, hashed: bool, kind: &str, key: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut open = std::fs::OpenOptions::new();
    let mut known = open.read(true).append(true).create(true).mode(0o600).open(file)?;
    let mut last = [b'\n'];
    if known.seek(SeekFrom::End(-1)).is_ok() {
        known.read_exact(&mut last)?;
    }
    let name = if hashed { hashed_name(name)? } else { name.to_owned() };
    let start = if last == *b"\n" { "" } else { "\n" };
    // One write: two programs that learn at once do not mix their lines.
    known.write_all(format!("{start}{name} {kind} {}\n", BASE64.encode(key)).as_bytes())
}

fn hashed_name(name: &str) -> std::io::Result<String> {
    let mut salt = [0u8; 20];
    rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
    let hash = hash_of(&salt, name).ok_or_else(|| std::io::Error::other("no hash"))?;
    Ok(format!("|1|{}|{}", BASE64.encode(&salt), BASE64.encode(&hash)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn key(text: &str) -> Vec<u8> {
        BASE64_NOPAD.decode(text.as_bytes()).unwrap()
    }

    fn known(text: &str, host: &str, port: u16) -> KnownHosts {
        let bare = (port != 22).then_some(host);
        let mut known = KnownHosts::default();
        known.add(Path::new("kh"), text, &name_of(host, port), bare);
        known
    }

    #[test]
    fn known_new_changed_and_revoked() {
        let text = format!(
            "# web ssh-ed25519 {B}\nweb,10.0.0.1 ssh-ed25519 {A} me@here\n@revoked * ssh-ed25519 {B}\n"
        );
        let web = known(&text, "web", 22);
        assert_eq!(web.verdict("ssh-ed25519", &key(A)), Verdict::Known);
        assert!(
            matches!(web.verdict("ssh-ed25519", &key(B)), Verdict::Revoked(l) if l.place == "kh:3")
        );
        assert!(
            matches!(web.verdict("ssh-ed25519", b"x"), Verdict::Changed(l) if l.place == "kh:2")
        );
        // Known by a key of another kind: never taken for a new host.
        assert!(matches!(web.verdict("ssh-rsa", b"x"), Verdict::Changed(_)));
        assert_eq!(known(&text, "other", 22).verdict("ssh-ed25519", &key(A)), Verdict::New);
        assert_eq!(web.kinds().collect::<Vec<_>>(), ["ssh-ed25519"]);
    }

    #[test]
    fn patterns_ports_tabs_and_authorities() {
        let text = format!(
            "*.org,!bad.org\tssh-ed25519\t{A}\n[web]:2200 ssh-ed25519 {A}\nweb ssh-ed25519 {B}\n@cert-authority *.net ssh-ed25519 {B}\n"
        );
        assert_eq!(known(&text, "good.org", 22).verdict("ssh-ed25519", &key(A)), Verdict::Known);
        assert_eq!(known(&text, "bad.org", 22).verdict("ssh-ed25519", &key(A)), Verdict::New);
        let web = known(&text, "WEB", 2200);
        assert_eq!(web.verdict("ssh-ed25519", &key(A)), Verdict::Known);
        // On another port the bare name is believed, but does not accuse.
        let web = known(&text, "web", 2201);
        assert_eq!(web.verdict("ssh-ed25519", &key(B)), Verdict::Known);
        assert_eq!(web.verdict("ssh-ed25519", &key(A)), Verdict::New);
        assert_eq!(known(&text, "a.net", 22).authorities().count(), 1);
        assert_eq!(known(&text, "a.net", 22).verdict("ssh-ed25519", &key(B)), Verdict::New);
    }

    #[test]
    fn what_is_learned_is_known_and_hashed_if_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/known_hosts");
        learn(&file, &name_of("web", 2200), true, "ssh-ed25519", &key(A)).unwrap();
        std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"# cut").unwrap();
        learn(&file, &name_of("db", 22), false, "ssh-ed25519", &key(B)).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("|1|") && !text.contains("web"), "{text}");
        assert!(text.ends_with(&format!("# cut\ndb ssh-ed25519 {B}\n")), "{text}");
        let files = [file];
        let web = KnownHosts::read(&files, "web", 2200, None).unwrap();
        assert_eq!(web.verdict("ssh-ed25519", &key(A)), Verdict::Known);
        let db = KnownHosts::read(&files, "elsewhere", 9, Some("db")).unwrap();
        assert_eq!(db.verdict("ssh-ed25519", &key(B)), Verdict::Known);
    }

    #[test]
    fn hostile_lines_are_passed_over() {
        for line in
            ["|1|", "|1|x|y a b", "@revoked", "web", "web ssh-rsa", "web ssh-rsa !!", "@x a b c"]
        {
            assert!(known(line, "web", 22).lines.is_empty(), "{line}");
        }
    }
}
