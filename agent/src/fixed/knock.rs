//! Lines before the greeting. Who starts an agent by a login shell first tells the shell a key and a
//! few lines, and waits for a line with the key (the source's `deploy/script`). Where a command is
//! fixed there is no such shell: the agent itself hears these lines and answers with the key. What
//! else they say is not looked at.

use std::io::{self, BufRead, Read, Write};

use lsync_protocol::handshake::MAGIC;

/// What every such key begins with.
const KEY: &[u8] = b"lsyncd-";
/// Longer than any key.
const KEY_MAX: usize = 64;
/// Longer than all lines of a start: one of them may be a path.
const LINES_MAX: usize = 16 * 1024;

/// A reader that answers the lines before the greeting, and gives what is behind them.
pub(crate) struct Knock<R, W> {
    from: R,
    /// Where they are answered; `None`: that is over.
    to: Option<W>,
}

impl<R: BufRead, W: Write> Knock<R, W> {
    /// `from` may begin with lines, which are answered on `to`.
    pub(crate) fn new(from: R, to: W) -> Knock<R, W> {
        Knock { from, to: Some(to) }
    }

    fn answer(&mut self, mut to: W) -> io::Result<()> {
        let stranger = || io::Error::new(io::ErrorKind::InvalidData, "no source of a mirror");
        let mut key = Vec::new();
        let (mut keyed, mut left) = (false, LINES_MAX);
        let mut begins = true;
        loop {
            let Some(&first) = self.from.fill_buf()?.first() else {
                return if key.is_empty() { Ok(()) } else { Err(stranger()) };
            };
            if begins && first == MAGIC[0] {
                return Ok(());
            }
            begins = first == b'\n';
            self.from.consume(1);
            left = left.checked_sub(1).ok_or_else(stranger)?;
            if keyed {
                continue;
            }
            match first {
                b'\n' if key.len() > KEY.len() => {
                    keyed = true;
                    to.write_all(&key)?;
                    let version = env!("CARGO_PKG_VERSION");
                    writeln!(to, " run fixed {version}")?;
                    to.flush()?;
                }
                byte => {
                    let fits = match KEY.get(key.len()) {
                        Some(&want) => byte == want,
                        None => byte.is_ascii_hexdigit() && key.len() < KEY_MAX,
                    };
                    // Said at once: a stranger may wait for our answer and never end its line.
                    if !fits {
                        return Err(stranger());
                    }
                    key.push(byte);
                }
            }
        }
    }
}

impl<R: BufRead, W: Write> Read for Knock<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(to) = self.to.take() {
            self.answer(to)?;
        }
        self.from.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn heard(said: &[u8]) -> (io::Result<Vec<u8>>, String) {
        let mut answer = Vec::new();
        let mut rest = Vec::new();
        // A byte at a time, too.
        let done = Knock::new(io::BufReader::with_capacity(1, said), &mut answer)
            .read_to_end(&mut rest)
            .map(|_| rest);
        (done, String::from_utf8(answer).unwrap())
    }

    #[test]
    fn lines_are_answered_once_and_the_greeting_is_left() {
        let greeting = [&MAGIC[..], b"\n\nmore"].concat();
        let run = concat!("lsyncd-0a1 run fixed ", env!("CARGO_PKG_VERSION"), "\n");
        for (lines, answer) in [
            (&b""[..], ""),
            (b"lsyncd-0a1\n", run),
            (b"lsyncd-0a1\nlsync-agent-1-2\n", run),
            (b"lsyncd-0a1\n/a b/\xc7\x8e 'x' $(rm -rf /)\n\n1\n2\n", run),
        ] {
            let (rest, said) = heard(&[lines, &greeting].concat());
            assert_eq!((rest.unwrap(), said.as_str()), (greeting.clone(), answer), "{lines:?}");
        }
    }

    #[test]
    fn who_is_no_source_is_told_so_at_its_first_byte() {
        for said in [&b"ls\n"[..], b"\0\0\0\x05\x01", b"D0755 0 x\n", b"lsyncd-\n", b"lsyncd-zz\n"]
        {
            let (rest, answer) = heard(&[said, &MAGIC].concat());
            let error = rest.unwrap_err();
            assert_eq!(
                (error.kind(), answer.as_str()),
                (io::ErrorKind::InvalidData, ""),
                "{said:?}"
            );
        }
        let mut endless = b"lsyncd-1\n".to_vec();
        endless.resize(2 * LINES_MAX, b'x');
        assert!(heard(&endless).0.is_err());
        let long = [&b"lsyncd-"[..], &[b'1'; KEY_MAX]].concat();
        assert!(heard(&long).0.is_err());
        assert_eq!(heard(b"").0.unwrap(), b"");
    }
}
