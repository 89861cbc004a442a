//! Public keys in files, as ssh-keygen writes them beside the private ones.

use std::path::{Path, PathBuf};

use lsync_protocol::path::Escaped;
use russh::keys::PublicKey;

use crate::error::{Error, Result};

/// The file of the public key that belongs to this one: `FILE.pub`, or itself if it is one.
#[must_use]
pub fn beside(identity: &Path) -> PathBuf {
    match identity.extension() {
        Some(extension) if extension == "pub" => identity.to_owned(),
        _ => {
            let mut name = identity.as_os_str().to_owned();
            name.push(".pub");
            name.into()
        }
    }
}

/// Reads a public key: its kind, its base64 and what it is called, as one line.
///
/// # Errors
/// The file cannot be read, or is no public key.
pub fn read(file: &Path) -> Result<String> {
    let shown = Escaped(file.as_os_str().as_encoded_bytes()).to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        let private = shown.strip_suffix(".pub").unwrap_or(&shown);
        Error::failed(format!("cannot read the public key {shown}"))
            .because(lsync_agent::io_trouble(&error).text)
            .hint(format!(
                "-i FILE names one; ssh-keygen -y -f {private} prints that of a private key"
            ))
    })?;
    let no_key = || Error::failed(format!("{shown} is no public key")).hint("-i KEY.pub names one");
    let key = PublicKey::from_openssh(text.trim()).map_err(|error| no_key().because(error))?;
    let line = key.to_openssh().map_err(|error| no_key().because(error))?;
    // What a key is called may be anything, and the line ends where it ends.
    if line.contains(|c: char| c.is_control()) {
        return Err(no_key().because("it is called by control characters"));
    }
    Ok(line)
}
