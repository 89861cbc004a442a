//! Which file is copied to a host, what it is called there, and whether it can run there.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use lsync_protocol::path::Escaped;

use crate::config::AgentOptions;
use crate::error::Error;

/// Where a package puts agents for other kinds of hosts, as `<os>-<arch>/lsync-agent`.
const PACKAGED: &str = "/usr/lib/lsyncd/agents";

/// No agent is larger; a mistaken `--agent-binary` is not read into memory.
const MAX_SIZE: u64 = 1 << 30;

/// A kind of host, as `uname -s -m` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    system: String,
    machine: String,
}

impl Kind {
    /// What this program runs on.
    #[must_use]
    pub fn here() -> Kind {
        let uname = rustix::system::uname();
        Kind {
            system: uname.sysname().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
        }
    }

    /// Reads the output of `uname -s -m`; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Kind> {
        let (system, machine) = text.trim().split_once(' ')?;
        // They become part of a path.
        let plain = |word: &str| {
            !word.is_empty()
                && word.len() <= 64
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
                && !word.starts_with('.')
        };
        (plain(system) && plain(machine))
            .then(|| Kind { system: system.into(), machine: machine.into() })
    }

    /// The number of this machine in an ELF header.
    fn elf_machine(&self) -> Option<u16> {
        Some(match self.machine.as_str() {
            "x86_64" | "amd64" => 62,
            "aarch64" | "arm64" => 183,
            "riscv64" => 243,
            "s390x" => 22,
            "ppc64" | "ppc64le" | "powerpc64" | "powerpc64le" => 21,
            "loongarch64" => 258,
            m if m.starts_with("arm") => 40,
            m if m.len() == 4 && m.starts_with('i') && m.ends_with("86") => 3,
            m if m.starts_with("mips") => 8,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.system, self.machine)
    }
}

/// What is wrong with a binary; becomes an error with the host's name.
#[derive(Debug)]
pub enum Unfit {
    /// There is none for this kind of host.
    None,
    /// It cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// It is for another machine, or no program.
    Other(PathBuf, String),
}

impl Unfit {
    /// The error for people.
    #[must_use]
    pub fn for_host(self, peer: &str, kind: &Kind) -> Error {
        let name = |path: &Path| path.display().to_string();
        match self {
            Unfit::None => Error::failed(format!("cannot put an agent on {peer}"))
                .because(format!("there is none here for {kind}"))
                .hint("give one with --agent-binary FILE, or name one that is there with --agent-path"),
            Unfit::Unreadable(path, e) => {
                Error::failed(format!("cannot read the agent {} for {peer}", name(&path)))
                    .because(e)
                    .hint("give another with --agent-binary FILE")
            }
            Unfit::Other(path, what) => {
                Error::failed(format!("cannot run {} on {peer}", name(&path)))
                    .because(format!("it is {what}, and the host is {kind}"))
                    .hint("give one for that host with --agent-binary FILE")
            }
        }
    }
}

/// A file to copy.
#[derive(Debug, Clone)]
pub struct Binary {
    path: PathBuf,
    /// What it is called on the host.
    pub name: String,
    /// BLAKE3 of its content, in hex.
    pub hash: String,
}

impl Binary {
    /// Looks for the agent for a kind of host: `--agent-binary`, `lsync-agent` beside this
    /// program, the packaged ones, this program itself.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub async fn find(options: &AgentOptions, kind: &Kind) -> Result<Binary, Unfit> {
        let path = Binary::choose(options, kind).ok_or(Unfit::None)?;
        let of = path.clone();
        let hashed = tokio::task::spawn_blocking(move || hash(&of)).await;
        let hash = hashed
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .map_err(|e| Unfit::Unreadable(path.clone(), e))?;
        let name = format!("lsync-agent-{}-{}", env!("CARGO_PKG_VERSION"), &hash[..16]);
        Ok(Binary { path, name, hash })
    }

    /// A name that no host has: asked for to learn what kind of host it is.
    #[must_use]
    pub fn placeholder() -> Binary {
        Binary { path: PathBuf::new(), name: "lsync-agent-none".into(), hash: String::new() }
    }

    fn choose(options: &AgentOptions, kind: &Kind) -> Option<PathBuf> {
        if let Some(path) = &options.binary {
            return Some(path.clone());
        }
        let same = *kind == Kind::here();
        let beside = options
            .own_binary
            .as_deref()
            .and_then(Path::parent)
            .map(|dir| dir.join("lsync-agent"))
            .filter(|path| same && path.exists());
        let packaged = || {
            let dir = format!("{}-{}", kind.system.to_lowercase(), kind.machine);
            let path = Path::new(PACKAGED).join(dir).join("lsync-agent");
            path.exists().then_some(path)
        };
        let own = || options.own_binary.clone().filter(|_| same);
        beside.or_else(packaged).or_else(own)
    }

    /// Can it run on such a host?
    ///
    /// # Errors
    /// It is a program for another machine, or none at all.
    pub fn fits(&self, kind: &Kind) -> Result<(), Unfit> {
        let mut head = [0; 20];
        let mut len = 0;
        let read = std::fs::File::open(&self.path).and_then(|mut file| {
            while len < head.len() {
                match file.read(&mut head[len..])? {
                    0 => break,
                    n => len += n,
                }
            }
            Ok(())
        });
        read.map_err(|e| Unfit::Unreadable(self.path.clone(), e))?;
        let other = |what: String| Err(Unfit::Other(self.path.clone(), what));
        match &head[..len] {
            // A script that starts the real one is as good.
            [b'#', b'!', ..] => Ok(()),
            [0x7f, b'E', b'L', b'F', _, order, rest @ ..] if rest.len() == 14 => {
                let bytes = [head[18], head[19]];
                let machine = match order {
                    2 => u16::from_be_bytes(bytes),
                    _ => u16::from_le_bytes(bytes),
                };
                if kind.system == "Darwin" {
                    return other("an ELF program".into());
                }
                match kind.elf_machine() {
                    Some(wanted) if wanted != machine => {
                        other(format!("a program for {}", machine_name(machine)))
                    }
                    _ => Ok(()),
                }
            }
            _ if kind.system == "Darwin" => Ok(()),
            start => {
                other(format!("no program (it begins with '{}')", Escaped(&start[..len.min(8)])))
            }
        }
    }

    /// Its content, checked again: it must still be what its name says.
    ///
    /// # Errors
    /// It cannot be read, or has changed meanwhile.
    pub async fn read(&self) -> Result<Vec<u8>, Unfit> {
        let path = self.path.clone();
        let content = tokio::task::spawn_blocking(move || read(&path)).await;
        let content = content
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .map_err(|e| Unfit::Unreadable(self.path.clone(), e))?;
        if *blake3::hash(&content).to_hex() != *self.hash {
            let e = std::io::Error::other("it has changed meanwhile");
            return Err(Unfit::Unreadable(self.path.clone(), e));
        }
        Ok(content)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    if meta.len() > MAX_SIZE {
        return Err(std::io::Error::other("it is larger than 1 GiB"));
    }
    let mut content = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut content)?;
    Ok(content)
}

fn hash(path: &Path) -> std::io::Result<String> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.take(MAX_SIZE + 1))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "i386".into(),
        8 => "mips".into(),
        21 => "ppc64".into(),
        22 => "s390x".into(),
        40 => "arm".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "riscv64".into(),
        258 => "loongarch64".into(),
        other => format!("machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kinds_are_parsed_and_nothing_else() {
        let kind = Kind::parse("Linux x86_64\n").unwrap();
        assert_eq!(kind.to_string(), "Linux x86_64");
        for bad in ["", "Linux", "../x y", "Linux ../..", "Linux a/b", "Linux  x", "a b c"] {
            assert_eq!(Kind::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn the_machine_of_an_elf_header_must_be_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let mut head = [0u8; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = 183;
        std::fs::write(&path, head).unwrap();
        let options = AgentOptions { binary: Some(path.clone()), ..AgentOptions::default() };
        let intel = Kind::parse("Linux x86_64").unwrap();
        let arm = Kind::parse("Linux aarch64").unwrap();
        let binary = Binary::find(&options, &intel).await.unwrap();
        binary.fits(&arm).unwrap();
        let error = binary.fits(&intel).unwrap_err().for_host("web", &intel);
        let text = error.to_string();
        assert!(
            text.contains("web: it is a program for aarch64, and the host is Linux x86_64"),
            "{text}"
        );
        assert!(error.hint_text().unwrap().contains("--agent-binary"));
        std::fs::write(&path, "hello").unwrap();
        assert!(binary.fits(&intel).is_err());
        assert!(
            binary
                .read()
                .await
                .unwrap_err()
                .for_host("web", &intel)
                .to_string()
                .contains("changed")
        );
    }

    #[tokio::test]
    async fn the_nearest_agent_is_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("lsyncd");
        std::fs::write(&own, "#!own").unwrap();
        let options = AgentOptions { own_binary: Some(own.clone()), ..AgentOptions::default() };
        let elsewhere = Kind::parse("Plan9 mips").unwrap();
        assert!(matches!(Binary::find(&options, &elsewhere).await, Err(Unfit::None)));
        assert_eq!(Binary::find(&options, &Kind::here()).await.unwrap().path, own);
        let beside = dir.path().join("lsync-agent");
        std::fs::write(&beside, "#!beside").unwrap();
        let found = Binary::find(&options, &Kind::here()).await.unwrap();
        assert_eq!(found.path, beside);
        let hash = blake3::hash(b"#!beside").to_hex();
        assert_eq!(
            found.name,
            format!("lsync-agent-{}-{}", env!("CARGO_PKG_VERSION"), &hash[..16])
        );
    }
}
