//! `lsyncd why`: which paths are asked about, and by which rules.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use lsync_protocol::path::RelPath;

use super::args::WhyArgs;
use super::{Invocation, World, not_yet, place, push, rules, shown};
use crate::config::value;
use crate::error::{Error, Result};
use crate::source::Scope;

/// What is asked.
#[derive(Debug)]
pub struct Question {
    /// The source, absolute.
    pub source: PathBuf,
    /// What of it counts.
    pub scope: Scope,
    /// The paths, and whether each is a directory if nothing is there.
    pub paths: Vec<(RelPath, bool)>,
    /// Answer by objects.
    pub json: bool,
}

pub(super) fn why(args: &WhyArgs, matches: &ArgMatches, world: &World) -> Result<Invocation> {
    if args.paths.is_empty() {
        return Err(not_yet("lsyncd why about a running mirror")
            .hint("lsyncd why SOURCE PATH, with the rules of the mirror, says which one decides"));
    }
    push::refuse_copy_links(&args.rules)?;
    let source = place::source(&args.source, &world.cwd)?;
    let filter = rules::filter(matches, &source, world)?
        .delete_excluded(args.rules.delete_excluded)
        .at_root(source.as_os_str().as_bytes());
    let paths = args.paths.iter().map(|given| beneath(given, &source, &world.cwd));
    let paths = paths.collect::<Result<_>>()?;
    let scope = Scope {
        filter: Arc::new(filter),
        one_file_system: args.rules.one_file_system,
        max_size: push::optional("--max-size", args.rules.max_size.as_deref(), value::size)?,
        ..Scope::default()
    };
    Ok(Invocation::Why(Box::new(Question { source, scope, paths, json: args.json })))
}

/// A path as it is called beneath the source: given from the root of this host, from the working
/// directory if that leads beneath the source, or else from the source.
fn beneath(given: &OsString, source: &Path, cwd: &Path) -> Result<(RelPath, bool)> {
    let dir = given.as_bytes().ends_with(b"/");
    let path = Path::new(given);
    let found = inside(&cwd.join(path), source).or_else(|| {
        // Not absolute, and it does not lead out.
        let plain =
            path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        (plain && !given.is_empty()).then(|| relative(path))?
    });
    found.map(|path| (path, dir)).ok_or_else(|| {
        let what =
            format!("{} is not beneath the source {}", shown(given), shown(source.as_os_str()));
        Error::usage(what).hint("name it by its whole path, or as it is called in the source")
    })
}

/// What a path is called in the source, if it is there.
fn inside(path: &Path, source: &Path) -> Option<RelPath> {
    let leads_up = path.components().any(|c| c == Component::ParentDir);
    if !leads_up && let Ok(inner) = path.strip_prefix(source) {
        return relative(inner);
    }
    // By another way: links above it are followed, the name itself may be one.
    let whole = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().ok()?.join(name),
        _ => path.canonicalize().ok()?,
    };
    relative(whole.strip_prefix(source).ok()?)
}

fn relative(path: &Path) -> Option<RelPath> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let names: Vec<&OsStr> = names.collect();
    RelPath::new(names.join(OsStr::new("/")).into_vec()).ok()
}
