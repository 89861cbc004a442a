//! What a person types: asked on the terminal only, kept in memory so that a reconnect asks
//! nothing.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use lsync_protocol::path::Escaped;
use russh::keys::PrivateKey;

/// Somebody who can be asked.
pub trait Ask: Send + Sync {
    /// Is anybody there?
    fn present(&self) -> bool;

    /// Shows a prompt and reads one line, without echo unless `echo`. `None`: no answer. Blocks.
    fn ask(&self, prompt: &str, echo: bool) -> Option<String>;
}

/// The process' controlling terminal, whatever standard input and output are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terminal;

impl Ask for Terminal {
    fn present(&self) -> bool {
        std::fs::File::open("/dev/tty").is_ok()
    }

    fn ask(&self, prompt: &str, echo: bool) -> Option<String> {
        if !echo {
            return rpassword::prompt_password(prompt).ok();
        }
        let mut terminal =
            std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        terminal.write_all(prompt.as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(terminal).read_line(&mut line).ok()?;
        Some(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Nobody: a daemon's, or `BatchMode`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Ask for Nobody {
    fn present(&self) -> bool {
        false
    }

    fn ask(&self, _: &str, _: bool) -> Option<String> {
        None
    }
}

/// Asks without holding up the runtime. A server's text in the prompt is shown escaped.
pub async fn ask(who: &Arc<dyn Ask>, prompt: String, echo: bool) -> Option<String> {
    let who = Arc::clone(who);
    let prompt = Escaped(prompt.as_bytes()).to_string();
    tokio::task::spawn_blocking(move || who.ask(&prompt, echo)).await.ok().flatten()
}

/// What was typed and was right, for the life of the process.
#[derive(Default)]
struct Typed {
    keys: HashMap<PathBuf, Arc<PrivateKey>>,
    passwords: HashMap<String, String>,
}

static TYPED: LazyLock<Mutex<Typed>> = LazyLock::new(Mutex::default);

fn typed<T>(with: impl FnOnce(&mut Typed) -> T) -> T {
    with(&mut TYPED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The key of a file whose passphrase was typed before.
#[must_use]
pub fn known_key(file: &Path) -> Option<Arc<PrivateKey>> {
    typed(|t| t.keys.get(file).cloned())
}

/// A passphrase was right.
pub fn keep_key(file: &Path, key: Arc<PrivateKey>) {
    typed(|t| t.keys.insert(file.to_owned(), key));
}

/// The password that was right for `user@host:port` before.
#[must_use]
pub fn known_password(peer: &str) -> Option<String> {
    typed(|t| t.passwords.get(peer).cloned())
}

/// A password was right (`Some`), or is no longer (`None`).
pub fn keep_password(peer: &str, password: Option<String>) {
    typed(|t| match password {
        Some(password) => t.passwords.insert(peer.to_owned(), password),
        None => t.passwords.remove(peer),
    });
}
