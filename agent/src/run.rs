//! The program `lsync-agent`: arguments, standard input and output, an exit code. Also called by
//! `lsyncd` when it runs under this name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use lsync_protocol::handshake::Trash;
use lsync_protocol::path::{Escaped, RelPath};
use rustix::fs::Mode;

use crate::fixed::{Bounds, Fixed, Knock};
use crate::serve::{ServeError, ServeOptions, serve};

/// The source was served to its end.
const DONE: u8 = 0;
/// The arguments cannot be understood.
const USAGE: u8 = 2;
/// It could not start, or the link broke.
const FAILED: u8 = 255;

/// What the arguments ask for.
enum Wish {
    Serve(Option<Bounds>),
    Version,
    Hash,
    /// They cannot be understood: why.
    Wrong(String),
}

fn wish(args: impl Iterator<Item = OsString>) -> Wish {
    let mut args = args.peekable();
    let alone = match args.peek() {
        None => return Wish::Serve(None),
        Some(arg) if arg == "--version" || arg == "-V" => Wish::Version,
        Some(arg) if arg == "--hash" => Wish::Hash,
        Some(_) => return bounds(args).map_or_else(Wish::Wrong, |it| Wish::Serve(Some(it))),
    };
    match args.nth(1) {
        None => alone,
        Some(more) => Wish::Wrong(unknown(&more)),
    }
}

fn unknown(arg: &OsStr) -> String {
    format!(
        "unknown argument {}\nhint: it is started by lsyncd and speaks on standard input and output; \
         --root DIR, --no-delete, --read-only and --trash NAME are for authorized_keys, --version \
         and --hash for people",
        Escaped(arg.as_bytes())
    )
}

/// What a key's command fixes.
fn bounds(mut args: impl Iterator<Item = OsString>) -> Result<Bounds, String> {
    let mut bounds = Bounds::default();
    while let Some(arg) = args.next() {
        let bytes = arg.as_bytes();
        let equals = bytes.iter().position(|&b| b == b'=');
        let (name, value) = match equals.filter(|_| bytes.starts_with(b"--")) {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned())),
            None => (bytes, None),
        };
        match (name, value) {
            (b"--no-delete", None) => bounds.no_delete = true,
            (b"--read-only", None) => bounds.read_only = true,
            (b"--root" | b"--trash", value) => {
                let shown = Escaped(name).to_string();
                let value = value.or_else(|| args.next()).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| format!("{shown} needs a value"))?;
                if name == b"--root" {
                    bounds.root = value.into();
                    continue;
                }
                let dir = RelPath::new(value.as_bytes()).ok();
                let trash = dir.map(|dir| Trash { dir, age: None }).filter(Trash::valid);
                let trash = trash.ok_or_else(|| {
                    format!("bad --trash '{}': not a name in the root", Escaped(value.as_bytes()))
                })?;
                bounds.trash = Some(trash.dir);
            }
            _ => return Err(unknown(&arg)),
        }
    }
    if bounds.root.as_os_str().is_empty() {
        return Err(
            "no --root DIR\nhint: the other options hold for a root that is fixed".to_owned()
        );
    }
    Ok(bounds)
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
        Wish::Wrong(why) => {
            complain(format_args!("{why}"));
            USAGE
        }
        Wish::Serve(bounds) => {
            drop(itself);
            stand_in(bounds.as_ref())
        }
    }
}

/// Serves standard input and output.
fn stand_in(bounds: Option<&Bounds>) -> u8 {
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
    let input = Buffered::new(input);
    let done = match bounds {
        None => serve(&options, input, output),
        Some(bounds) => match fix(bounds, options).and_then(|fixed| {
            let answers = output.try_clone().map_err(|error| error.to_string())?;
            Ok((fixed, Knock::new(input.0, answers)))
        }) {
            Ok((options, input)) => serve(&options, input, output),
            Err(why) => {
                complain(format_args!("{why}"));
                return FAILED;
            }
        },
    };
    match done {
        Ok(()) => DONE,
        // The source says it, in its own words.
        Err(ServeError::Refused(_)) => FAILED,
        Err(ServeError::Greeting(_) | ServeError::Read(_)) if bounds.is_some() => {
            complain(format_args!("this key is for a mirror by lsyncd, and for nothing else"));
            FAILED
        }
        Err(error) => {
            complain(format_args!("{}", Escaped(error.to_string().as_bytes())));
            FAILED
        }
    }
}

/// Opens what is fixed and goes into it. Nothing was read by then, and nothing is opened by a path
/// that the source has a say in.
fn fix(bounds: &Bounds, mut options: ServeOptions) -> Result<ServeOptions, String> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // What was mirrored is not to be found in a dump.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    // Beside the agent's program, which stands in the cache directory, nothing is to be written.
    options.cache = options.cache.filter(|_| !bounds.read_only).map(|dir| dir.join("held"));
    let mut fixed = Fixed::open(bounds, &options)?;
    fixed
        .confine(options.cache.as_deref())
        .map_err(|why| format!("cannot confine the agent to its root: {why}"))?;
    options.confine = false;
    options.fixed = Some(Arc::new(fixed));
    Ok(options)
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
