//! A program as the far end: the system's ssh (`--ssh-command`), which gives us a remote shell, or
//! any program that speaks on its standard input and output.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::process::{ChildStdin, Command};

use crate::config::{SshOptions, SshTarget};
use crate::error::{Error, Result};
use crate::link::{Link, LinkEnd, Remote, Tail, ssh};

/// A program that runs commands elsewhere: its words, then `[-p PORT] [USER@]HOST COMMAND`.
#[derive(Debug, Clone)]
pub struct Program {
    words: Vec<String>,
    peer: String,
}

impl Program {
    /// `--ssh-command`: the words of `options.command`, and whom to reach.
    ///
    /// # Errors
    /// No words, or names that could be taken for options.
    pub fn for_ssh(target: &SshTarget, options: &SshOptions) -> Result<Program> {
        ssh::host::check_names(target)?;
        let mut words = options.command.clone().unwrap_or_default();
        if words.is_empty() {
            return Err(Error::usage("--ssh-command is empty").hint("give 'ssh' or 'ssh -o …'"));
        }
        if let Some(port) = options.port.or(target.port) {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        let peer = match &target.user {
            Some(user) => format!("{user}@{}", target.host),
            None => target.host.clone(),
        };
        words.push(peer.clone());
        Ok(Program { words, peer })
    }

    /// Any program that takes a shell's command as its last argument: `["sh", "-c"]`.
    #[must_use]
    pub fn new(words: Vec<String>, peer: impl Into<String>) -> Program {
        Program { words, peer: peer.into() }
    }
}

impl Remote for Program {
    fn exec<'a>(
        &'a self,
        command: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Link>> + Send + 'a>> {
        Box::pin(async move {
            let Some((program, arguments)) = self.words.split_first() else {
                return Err(Error::usage("there is no program to run"));
            };
            let arguments = arguments.iter().map(String::as_str).chain([command]);
            spawn(program, arguments, &self.peer)
        })
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}

/// Runs a program of this host as the far end. Dropping the link's `ended` kills it.
///
/// # Errors
/// The program cannot be run.
pub fn spawn(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    peer: &str,
) -> Result<Link> {
    let program = program.as_ref();
    let cannot = || Error::failed(format!("cannot run {}", program.display()));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| cannot().because(e).hint("is it installed, and in PATH?"))?;
    let (Some(writer), Some(reader), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(cannot().because("it has no pipes"));
    };
    let said = tokio::spawn(async move {
        let mut tail = Tail::default();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
            tail.push(&buffer[..n]);
        }
        tail.take()
    });
    let ended = async move {
        let status = child.wait().await;
        // A grandchild may keep standard error open for ever.
        let said = tokio::time::timeout(std::time::Duration::from_secs(2), said).await;
        let stderr = said.ok().and_then(Result::ok).unwrap_or_default();
        let (status, signal) = status.map_or((None, None), told);
        LinkEnd { status, signal, stderr }
    };
    Ok(Link {
        reader: Box::new(reader),
        writer: Box::new(Input(Some(writer))),
        ended: Box::pin(ended),
        peer: peer.to_owned(),
        near: false,
        fixed: None,
    })
}

/// A program's standard input. Shutting it down closes it, which alone is end of file on a pipe.
struct Input(Option<ChildStdin>);

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

fn told(status: ExitStatus) -> (Option<i32>, Option<String>) {
    use std::os::unix::process::ExitStatusExt;
    (status.code(), status.signal().map(|s| s.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn a_command_reads_writes_and_ends() {
        let shell = Program::new(vec!["sh".into(), "-c".into()], "here");
        let mut link = shell.exec("cat; echo last words >&2; exit 3").await.unwrap();
        link.writer.write_all(b"bytes").await.unwrap();
        link.writer.shutdown().await.unwrap();
        let mut got = String::new();
        link.reader.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "bytes");
        assert_eq!(link.ended.await.describe(), "exit code 3: last words");
    }

    #[tokio::test]
    async fn a_dropped_link_leaves_no_process() {
        let shell = Program::new(vec!["sh".into(), "-c".into()], "here");
        let mut link = shell.exec("echo $$; exec sleep 1000").await.unwrap();
        let mut pid = [0; 32];
        let n = link.reader.read(&mut pid).await.unwrap();
        let stat = format!("/proc/{}/stat", std::str::from_utf8(&pid[..n]).unwrap().trim());
        drop(link);
        let gone = async {
            // Killed; a zombie until the runtime reaps it.
            while std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z ")) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_program_is_told() {
        let error = spawn("/nowhere/ssh", ["x"], "h").err().unwrap();
        assert_eq!(error.to_string(), "cannot run /nowhere/ssh: no such file or directory");
    }

    #[test]
    fn hosts_that_look_like_options_are_refused() {
        let target =
            |host: &str| SshTarget { user: None, host: host.into(), port: Some(7), dir: vec![] };
        let options = SshOptions { command: Some(vec!["ssh".into()]), ..Default::default() };
        let program = Program::for_ssh(&target("web"), &options).unwrap();
        assert_eq!(program.words, ["ssh", "-p", "7", "web"]);
        assert!(Program::for_ssh(&target("-oProxyCommand=x"), &options).is_err());
    }
}
