//! `status`, `flush`, `pause` and `resume`: what a running lsyncd is asked.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{AskArgs, FlushArgs, ResumeArgs, StatusArgs};
use super::{Invocation, World, push};
use crate::config::value;
use crate::control::Places;
use crate::control::client::Which;
use crate::error::{Error, Result};

/// What a running lsyncd is asked.
#[derive(Debug)]
pub struct Asked {
    /// Where it is found.
    pub places: Places,
    /// Which mirrors.
    pub which: Which,
    /// What.
    pub what: Question,
    /// Answer by objects.
    pub json: bool,
}

/// What is asked of mirrors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// How they stand.
    Status,
    /// How they stand, on the whole screen.
    Monitor,
    /// To say when everything is mirrored, at the latest after this time.
    Flush(Option<Duration>),
    /// To begin nothing more.
    Pause,
    /// To go on; deletes too, that a guard has stopped.
    Resume {
        /// Those too.
        confirm: bool,
    },
}

impl World {
    /// Where the control sockets of this user stand.
    #[must_use]
    pub fn places(&self, socket: Option<&PathBuf>) -> Places {
        // sudo and su may leave another user's.
        let ours = |dir: &PathBuf| std::fs::metadata(dir).is_ok_and(|dir| dir.uid() == self.uid);
        let runtime = self.runtime_dir.clone().filter(ours).map(|dir| dir.join("lsyncd"));
        let root = (self.uid == 0).then(|| PathBuf::from("/run/lsyncd"));
        let cache = self.cache_dir.clone().or_else(|| Some(self.home.as_ref()?.join(".cache")));
        let cache = cache.map(|dir| dir.join("lsyncd/control"));
        Places {
            socket: socket.map(|path| self.cwd.join(path)),
            dirs: runtime.into_iter().chain(root).chain(cache).collect(),
        }
    }
}

fn which(args: &AskArgs, all: bool, world: &World) -> Which {
    let name = args.name.as_ref();
    Which {
        name: name.map(|name| name.to_string_lossy().into_owned()),
        source: name.and_then(|name| world.cwd.join(name).canonicalize().ok()),
        all: all || args.all,
    }
}

fn ask(args: &AskArgs, what: Question, json: bool, world: &World) -> Invocation {
    let status = what == Question::Status;
    Invocation::Ask(Box::new(Asked {
        places: world.places(args.control.as_ref()),
        which: which(args, status, world),
        what,
        json,
    }))
}

pub(super) fn status(args: &StatusArgs, world: &World) -> Invocation {
    ask(&args.ask, Question::Status, args.json, world)
}

pub(super) fn flush(args: &FlushArgs, world: &World) -> Result<Invocation> {
    let timeout = push::optional("--timeout", args.timeout.as_deref(), value::seconds)?;
    Ok(ask(&args.ask, Question::Flush(timeout), false, world))
}

pub(super) fn monitor(args: &AskArgs, world: &World) -> Result<Invocation> {
    if !world.stdout_terminal {
        return Err(Error::usage("lsyncd monitor needs a terminal to draw on")
            .hint("lsyncd status --json says the same to programs"));
    }
    Ok(ask(&AskArgs { all: true, ..args.clone() }, Question::Monitor, false, world))
}

pub(super) fn pause(args: &AskArgs, world: &World) -> Invocation {
    ask(args, Question::Pause, false, world)
}

pub(super) fn resume(args: &ResumeArgs, world: &World) -> Invocation {
    ask(&args.ask, Question::Resume { confirm: args.confirm }, false, world)
}
