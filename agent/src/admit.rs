//! Whether and where to serve: the root that a source asks for is found, created if it may be,
//! kept apart from the source itself, and locked.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lsync_protocol::entry::Kind;
use lsync_protocol::handshake::{self, Create, Hello, Refusal, Role, RootHere, Standing};
use lsync_protocol::message::NEWEST;
use lsync_protocol::path::RelPath;

use crate::fixed::Fixed;
use crate::meta;
use crate::root::lock::{Claim, Lock};
use crate::root::{self, Root};
use crate::serve::ServeOptions;
use crate::trouble::io_trouble;

/// A source that may be served.
pub(crate) struct Admitted {
    /// Missing when it was not to be created.
    pub(crate) root: Option<(Root, RootHere)>,
    /// Absent when nothing may be applied.
    pub(crate) lock: Option<Lock>,
    pub(crate) boot: [u8; 16],
}

/// Finds the root and makes it ours.
pub(crate) fn admit(options: &ServeOptions, hello: &Hello) -> Result<Admitted, Refusal> {
    debug_assert_eq!(NEWEST, 1);
    if let Role::Lane(_) = hello.role {
        return Err(Refusal::Unsupported("further channels of a link".into()));
    }
    let boot = root::boot_id().map_err(|error| refused(&error))?;
    if let Some(trash) = &hello.trash {
        if !trash.valid() {
            let dir = &trash.dir;
            return Err(Refusal::Root(format!("the trash {dir} is not a name in it")));
        }
        if hello.inplace {
            return Err(Refusal::Unsupported(
                "a trash keeps nothing of what is written over".into(),
            ));
        }
    }
    if let Some(fixed) = &options.fixed {
        return admit_fixed(options, fixed, hello, boot);
    }
    let path = wanted(options, &hello.root)?;
    let here = |root: &Root| {
        if hello.standing.boot == boot { overlap(root, &hello.standing) } else { Ok(()) }
    };
    let mut created = false;
    let root = match Root::open(&path) {
        Ok(root) => root,
        Err(error) if missing(&error) => {
            // What is created in the source would be mirrored at once.
            let create_in = match hello.create {
                Create::Nothing => Create::Path,
                create => create,
            };
            let above = nearest(&path, create_in)?;
            if above.identity() != Root::open("/").map_err(|error| refused(&error))?.identity() {
                inside(&above, &hello.standing, hello.standing.boot == boot)?;
            }
            if hello.create == Create::Nothing {
                return Ok(Admitted { root: None, lock: None, boot });
            }
            create(&path, hello.create, options.umask)?;
            created = true;
            Root::open(&path).map_err(|error| refused(&error))?
        }
        Err(error) => return Err(refused(&error)),
    };
    if Root::open("/").is_ok_and(|slash| slash.identity() == root.identity()) {
        return Err(Refusal::Slash);
    }
    here(&root)?;
    let path = std::path::absolute(&path).unwrap_or(path);
    take(options, hello, root, &path, created, boot)
}

/// The root is what it is, and open, whatever the source asks for.
fn admit_fixed(
    options: &ServeOptions,
    fixed: &Fixed,
    hello: &Hello,
    boot: [u8; 16],
) -> Result<Admitted, Refusal> {
    let handshake::Fixed { read_only, trash, .. } = &fixed.said;
    if *read_only && hello.create != Create::Nothing {
        return Err(Refusal::ReadOnly(root::path_bytes(&fixed.path)));
    }
    if fixed.no_moves && trash.is_none() && hello.trash.is_some() {
        return Err(Refusal::Unsupported(
            "on this kernel a trash has to be named where the root is: lsync-agent --root DIR \
             --trash NAME"
                .into(),
        ));
    }
    let root = fixed.root.again().map_err(|error| refused(&error))?;
    if hello.standing.boot == boot {
        overlap(&root, &hello.standing)?;
    }
    take(options, hello, root, &fixed.path, false, boot)
}

/// Has the root for one mirror.
fn take(
    options: &ServeOptions,
    hello: &Hello,
    root: Root,
    path: &Path,
    created: bool,
    boot: [u8; 16],
) -> Result<Admitted, Refusal> {
    if let Some(trash) = &hello.trash {
        usable(&root, &trash.dir)?;
    }
    let lock = match hello.create {
        // Nothing is applied, so nobody is disturbed.
        Create::Nothing => None,
        Create::Root | Create::Path => Some(Lock::take(
            &root,
            &Claim {
                mirror: hello.mirror,
                name: hello.name.chars().take(1024).collect(),
                alone: !options.in_process,
                cache: options.cache.clone(),
                wait: options.lock_wait,
            },
        )?),
    };
    let stat = meta::stat_fd(&root).map_err(|error| refused(&error.into()))?;
    let found = RootHere {
        identity: root.identity(),
        path: root::path_bytes(path),
        entry: stat.entry(None),
        created,
    };
    debug_assert_eq!(stat.kind, Kind::Dir);
    Ok(Admitted { root: Some((root, found)), lock, boot })
}

/// Refuses a trash that could keep nothing.
fn usable(root: &Root, trash: &RelPath) -> Result<(), Refusal> {
    let here = root.statx(&RelPath::root()).map_err(|error| refused(&error))?;
    match root.statx(trash) {
        Err(error) if missing(&error) => Ok(()),
        Err(error) => Err(refused(&error)),
        Ok(there) if there.kind != Kind::Dir => Err(Refusal::Root(format!(
            "{trash} is there and no directory, and so cannot be the trash"
        ))),
        Ok(there) if (there.dev, there.mount) != (here.dev, here.mount) => Err(Refusal::Root(
            format!("the trash {trash} is on another file system, and nothing can be moved there"),
        )),
        Ok(_) => Ok(()),
    }
}

fn refused(error: &io::Error) -> Refusal {
    Refusal::Root(io_trouble(error).text)
}

fn missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The path that is meant: absolute, in a home, or from where we were started.
pub(crate) fn wanted(options: &ServeOptions, bytes: &[u8]) -> Result<PathBuf, Refusal> {
    if bytes.contains(&0) {
        return Err(Refusal::Root("a path with a NUL byte".into()));
    }
    let home = || options.home.clone().ok_or_else(|| Refusal::Root("no home directory".into()));
    let path = match bytes {
        b"~" => home()?,
        [b'~', b'/', rest @ ..] => home()?.join(OsStr::from_bytes(rest)),
        _ => options.start.join(OsStr::from_bytes(bytes)),
    };
    Ok(path)
}

/// Refuses a root that is the source, lies in it, or above it.
fn overlap(root: &Root, source: &Standing) -> Result<(), Refusal> {
    let Some((first, above)) = source.upwards.split_first() else { return Ok(()) };
    let id = root.identity();
    if id == *first {
        return Err(Refusal::Overlap("the target is the source itself".into()));
    }
    if above.contains(&id) {
        return Err(Refusal::Overlap("the source lies in the target".into()));
    }
    inside(root, source, true)
}

fn inside(root: &Root, source: &Standing, same_host: bool) -> Result<(), Refusal> {
    let Some(first) = source.upwards.first().filter(|_| same_host) else { return Ok(()) };
    let upwards = root.upwards().map_err(|error| refused(&error))?;
    if upwards.contains(first) {
        return Err(Refusal::Overlap("the target lies in the source".into()));
    }
    Ok(())
}

/// The directory above a missing root; the nearest one that exists, if more may be created.
fn nearest(path: &Path, create: Create) -> Result<Root, Refusal> {
    let mut above = path.parent();
    while let Some(dir) = above {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        match Root::open(dir) {
            Ok(root) => return Ok(root),
            Err(error) if missing(&error) && create == Create::Path => above = dir.parent(),
            Err(error) if missing(&error) => return Err(Refusal::NoParent),
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(Refusal::NoParent)
}

fn create(path: &Path, create: Create, umask: u32) -> Result<(), Refusal> {
    let made =
        fs::DirBuilder::new().recursive(create == Create::Path).mode(0o777 & !umask).create(path);
    match made {
        Err(error) if missing(&error) => Err(Refusal::NoParent),
        // Somebody else was as quick.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(|error| refused(&error)),
    }
}
