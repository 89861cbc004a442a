//! The program `lsync-agent`: arguments, standard input and output, an exit code. Also called by
//! `lsyncd` when it runs under this name.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::Mode;

use crate::serve::{ServeError, ServeOptions, serve};

/// The source was served to its end.
const DONE: u8 = 0;
/// The arguments cannot be understood.
const USAGE: u8 = 2;
/// It could not start, or the link broke.
const FAILED: u8 = 255;

/// What the arguments ask for.
enum Wish {
    Serve,
    Version,
    Hash,
    NotYet(&'static str),
    Unknown(OsString),
}

fn wish(mut args: impl Iterator<Item = OsString>) -> Wish {
    let wish = match args.next() {
        None => return Wish::Serve,
        Some(arg) => match arg.to_str() {
            Some("--version" | "-V") => Wish::Version,
            Some("--hash") => Wish::Hash,
            Some("--no-delete") => return Wish::NotYet("--no-delete"),
            Some(root) if root == "--root" || root.starts_with("--root=") => {
                return Wish::NotYet("--root");
            }
            _ => return Wish::Unknown(arg),
        },
    };
    args.next().map_or(wish, Wish::Unknown)
}

/// Runs the agent with these arguments (without the program's name) and returns its exit code.
/// Meant for a process of its own: it sets the umask and confines the process.
#[must_use]
pub fn run(args: impl Iterator<Item = OsString>) -> u8 {
    // Before anything else: the file may be replaced while we run.
    let itself = File::open("/proc/self/exe");
    match wish(args) {
        Wish::Version => say(format_args!("lsync-agent {}", env!("CARGO_PKG_VERSION"))),
        Wish::Hash => match itself.and_then(hash) {
            Ok(hash) => say(format_args!("{hash}")),
            Err(error) => {
                let cause = crate::trouble::io_trouble(&error).text;
                complain(format_args!("cannot read its own program: {cause}"));
                FAILED
            }
        },
        Wish::NotYet(option) => {
            complain(format_args!("{option} is not there yet in this version"));
            USAGE
        }
        Wish::Unknown(arg) => {
            let arg = arg.to_string_lossy();
            let arg = lsync_protocol::path::Escaped(arg.as_bytes());
            complain(format_args!(
                "unknown argument {arg}\nhint: it is started by lsyncd and speaks on standard \
                 input and output; --version and --hash are for people"
            ));
            USAGE
        }
        Wish::Serve => {
            drop(itself);
            stand_in()
        }
    }
}

/// Serves standard input and output.
fn stand_in() -> u8 {
    // The mode of what is created is said each time; a mask would cost a call each time.
    let umask = rustix::process::umask(Mode::empty()).as_raw_mode();
    more_files();
    let options = ServeOptions { umask, confine: true, ..ServeOptions::default() };
    let stdio = own(rustix::stdio::stdin()).and_then(|input| {
        let output = own(rustix::stdio::stdout())?;
        Ok((File::from(input), File::from(output)))
    });
    let (input, output) = match stdio {
        Ok(stdio) => stdio,
        Err(error) => {
            let cause = crate::trouble::io_trouble(&error).text;
            complain(format_args!("cannot use standard input and output: {cause}"));
            return FAILED;
        }
    };
    match serve(&options, Buffered::new(input), output) {
        Ok(()) => DONE,
        // The source says it, in its own words.
        Err(ServeError::Refused(_)) => FAILED,
        Err(error) => {
            complain(format_args!(
                "{}",
                lsync_protocol::path::Escaped(error.to_string().as_bytes())
            ));
            FAILED
        }
    }
}

/// As many open files as this user may have: stages are many.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The usual limit serves too.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn own(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Small reads from a larger one; a body that is larger goes past it.
struct Buffered(io::BufReader<File>);

impl Buffered {
    fn new(file: File) -> Buffered {
        Buffered(io::BufReader::with_capacity(64 * 1024, file))
    }
}

impl Read for Buffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

fn hash(mut file: File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => {
                hasher.update(&buffer[..n]);
            }
        }
    }
}

/// To standard output, for whoever asked.
fn say(text: std::fmt::Arguments<'_>) -> u8 {
    if writeln!(io::stdout(), "{text}").is_ok() { DONE } else { FAILED }
}

/// To standard error; the source keeps the last of it.
fn complain(text: std::fmt::Arguments<'_>) {
    // When nobody reads it there is nobody left to tell.
    let _ = writeln!(io::stderr(), "lsync-agent: {text}");
}
