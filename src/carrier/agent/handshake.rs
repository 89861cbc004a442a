//! The first words on a link: who we are, what we want, and the agent's answer or its reasons.

use std::time::Duration;

use lsync_protocol::handshake::{
    Answer, BadGreeting, GREETING, Greeting, Hello, MAGIC, Refusal, Welcome, read_body,
};
use lsync_protocol::path::Escaped;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::{Error, Result};
use crate::link::Link;

/// One deadline over the whole handshake: a new agent may have to wait for an old one to end.
const DEADLINE: Duration = Duration::from_secs(30);

/// A link whose agent has welcomed us.
pub struct Greeted {
    /// The link, at its first frame.
    pub link: Link,
    /// What the agent said.
    pub welcome: Welcome,
    /// What keys digests and sums on this link.
    pub key: [u8; 32],
    /// Files there are written into, and not replaced.
    pub inplace: bool,
}

impl std::fmt::Debug for Greeted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeted").field("peer", &self.link.peer).finish_non_exhaustive()
    }
}

/// Greets the agent.
///
/// # Errors
/// It does not answer, is no agent, speaks another version, or refuses: each with its reason.
pub async fn greet(mut link: Link, hello: &Hello) -> Result<Greeted> {
    let peer = link.peer.clone();
    let answer = match tokio::time::timeout(DEADLINE, exchange(&mut link, hello)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Silent::Ended)) => return Err(ended(link).await),
        Ok(Err(Silent::Garbage(bytes))) => {
            return Err(Error::failed(format!(
                "{peer} did not answer as an agent does, but said “{}”",
                Escaped(&bytes)
            ))
            .hint(
                "make sure that nothing is printed at login on that host, or give --agent-path",
            ));
        }
        Ok(Err(Silent::Bad(error))) => {
            let what = match &link.fixed {
                Some(version) => format!("the agent {version} on {peer} cannot be understood"),
                None => format!("the agent on {peer} cannot be understood"),
            };
            return Err(Error::failed(what).because(error).hint(same_version(&link)));
        }
        Err(_) => {
            let seconds = DEADLINE.as_secs();
            return Err(Error::failed(format!(
                "no answer from the agent on {peer} in {seconds} s"
            )));
        }
    };
    match answer {
        Answer::Welcome(welcome) => {
            Ok(Greeted { link, welcome, key: hello.key, inplace: hello.inplace })
        }
        Answer::Refused(refusal) => Err(refused(&link, hello, refusal)),
    }
}

/// What to do about an agent of another version.
fn same_version(link: &Link) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    match &link.fixed {
        Some(_) => format!(
            "this key starts the agent that its line in authorized_keys names: put lsync-agent {ours} \
             there, by 'lsyncd agent install' with another key or by hand"
        ),
        None => "install the agent of this version there: lsyncd agent install HOST".to_owned(),
    }
}

/// Why there is no answer.
enum Silent {
    Ended,
    Garbage(Vec<u8>),
    Bad(BadGreeting),
}

async fn exchange(link: &mut Link, hello: &Hello) -> Result<Answer, Silent> {
    let greeting = lsync_protocol::handshake::greet(hello);
    // An agent that has ended already shows as the end of what it says.
    let _ = link.writer.write_all(&greeting).await;
    let _ = link.writer.flush().await;
    let mut magic = [0; MAGIC.len()];
    let mut got = 0;
    while got < magic.len() {
        match link.reader.read(&mut magic[got..]).await {
            Ok(0) | Err(_) if got == 0 => return Err(Silent::Ended),
            Ok(0) | Err(_) => return Err(Silent::Garbage(magic[..got].to_vec())),
            Ok(n) => got += n,
        }
    }
    if magic != MAGIC {
        let mut said = magic.to_vec();
        let mut more = [0; 200];
        let wait = Duration::from_millis(200);
        if let Ok(Ok(n)) = tokio::time::timeout(wait, link.reader.read(&mut more)).await {
            said.extend_from_slice(&more[..n]);
        }
        return Err(Silent::Garbage(said));
    }
    let mut head = [0; GREETING];
    link.reader.read_exact(&mut head).await.map_err(|_| Silent::Ended)?;
    let greeting = Greeting::decode(head).map_err(Silent::Bad)?;
    let mut body = vec![0; greeting.length];
    link.reader.read_exact(&mut body).await.map_err(|_| Silent::Ended)?;
    read_body(&body).map_err(Silent::Bad)
}

/// The agent ended before it answered: what it said on the way.
async fn ended(link: Link) -> Error {
    let Link { reader, writer, ended, peer, .. } = link;
    drop((reader, writer));
    let wait = Duration::from_secs(5);
    let end = tokio::time::timeout(wait, ended).await.unwrap_or_default();
    Error::failed(format!("the agent on {peer} ended before it answered")).because(end.describe())
}

fn refused(link: &Link, hello: &Hello, refusal: Refusal) -> Error {
    let peer = &link.peer;
    let root = Escaped(&hello.root);
    match refusal {
        Refusal::Version => Error::failed(format!(
            "the agent on {peer} speaks no version of the wire that this lsyncd speaks"
        ))
        .hint(same_version(link)),
        Refusal::NoParent => Error::failed(format!(
            "cannot create {root} on {peer}: the directory above it does not exist"
        ))
        .hint("create it, or give --mkpath"),
        Refusal::Root(why) => Error::failed(format!("cannot use {root} on {peer}"))
            .because(Escaped(why.as_bytes()).to_string()),
        Refusal::Slash => Error::stopped(format!("refused to mirror onto / of {peer}"))
            .hint("name a directory below it"),
        Refusal::Overlap(why) => Error::stopped(format!("refused to mirror onto {root} of {peer}"))
            .because(Escaped(why.as_bytes()).to_string())
            .hint("the target must be neither the source, nor in it, nor above it"),
        Refusal::Busy(name) => Error::failed(format!(
            "cannot use {root} on {peer}: the mirror “{}” has it",
            Escaped(name.as_bytes())
        ))
        .hint("two mirrors cannot share a target: end the other one first"),
        Refusal::Locked => Error::failed(format!(
            "cannot use {root} on {peer}: an older agent of this mirror does not end"
        ))
        .hint("end the process lsync-agent on that host"),
        Refusal::ReadOnly(fixed) => Error::failed(format!(
            "cannot mirror to {peer}: the key that we log in with may only read {}",
            Escaped(&fixed)
        ))
        .hint("lsyncd verify compares it; in authorized_keys there, --read-only says so"),
        Refusal::Unsupported(why) => {
            Error::failed(format!("the agent on {peer} cannot do what is asked"))
                .because(Escaped(why.as_bytes()).to_string())
        }
    }
}
