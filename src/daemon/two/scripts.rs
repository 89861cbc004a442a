//! Syncs with actions of their own: one interpreter for all of them, a feed for each.

use std::sync::Arc;

use mlua::Lua;
use tokio::task::JoinSet;

use super::Told;
use super::status::{Board, Knows, Watched};
use crate::carrier::action::{
    self, ActionLog, ActionOptions, ActionSync, ChildOutput, Standing, Verdict,
};
use crate::config::WatchChoice;
use crate::config::lua::Entry;
use crate::config::rsync::ExitMeaning;
use crate::config::settings::{InotifyMode, Settings};
use crate::error::{Error, Exit, Result};
use crate::filter::Filter;
use crate::mirror::actions::{WriteMode, feed};
use crate::source::{Scope, Source};
use crate::watch::WatchLimits;

/// Takes the interpreter to its thread and feeds the syncs whose actions it runs.
///
/// # Errors
/// A source cannot be watched, or a command cannot be understood.
pub(super) fn start(
    lua: Lua,
    own: Vec<(Entry, Filter)>,
    settings: &Settings,
    insist: bool,
    told: &Arc<dyn Told>,
    running: &mut JoinSet<(String, Result<Exit>)>,
    board: &mut Board,
) -> Result<()> {
    let log: Arc<dyn ActionLog> = Arc::clone(told) as Arc<dyn ActionLog>;
    let mode = match settings.inotify_mode {
        InotifyMode::CloseWrite => WriteMode::CloseWrite,
        InotifyMode::Modify => WriteMode::Modify,
        InotifyMode::CloseWriteOrModify => WriteMode::CloseWriteOrModify,
    };
    let mut sources = Vec::new();
    for (entry, filter) in &own {
        let filter = Arc::new(filter.clone());
        let scope = Scope { filter, one_file_system: false, max_size: None };
        let source = Arc::new(Source::open(&entry.source, scope)?);
        source.watch(WatchChoice::Auto, WatchLimits::default())?;
        sources.push((entry.name.clone(), source));
    }
    let syncs = own.into_iter().map(|(entry, filter)| sync(entry, filter, insist)).collect();
    let options = ActionOptions {
        max_processes: settings.max_processes.and_then(|most| usize::try_from(most).ok()),
        output: match (&settings.logfile, settings.nodaemon) {
            (_, true) => ChildOutput::Inherit,
            (Some(file), false) => ChildOutput::File(file.clone()),
            (None, false) => ChildOutput::Null,
        },
    };
    let actions = Arc::new(action::start(lua, syncs, options, Arc::clone(&log))?);
    for (number, (name, source)) in sources.into_iter().enumerate() {
        board.syncs.push(Watched {
            name: name.clone(),
            source: Arc::clone(&source),
            rules: Vec::new(),
            knows: Knows::Scripts(number),
        });
        let (actions, log) = (Arc::clone(&actions), Arc::clone(&log));
        running.spawn(async move {
            let overview = actions.overview();
            feed(source, actions, number, mode, log).await;
            let standing = overview.borrow().syncs.get(number).copied();
            let ended = match standing {
                Some(Standing::Failed { at_start: true }) => {
                    Err(Error::failed(format!("{name} failed at its start"))
                        .hint("settings { insist = true } tries that again"))
                }
                Some(Standing::Failed { .. }) => Err(Error::failed(format!("{name} has failed"))),
                _ => Ok(Exit::Done),
            };
            (name, ended)
        });
    }
    board.actions = Some(actions);
    Ok(())
}

/// A sync as the interpreter's thread takes it.
fn sync(entry: Entry, filter: Filter, insist: bool) -> ActionSync {
    let count = |own: Option<u64>, standard: usize| {
        own.and_then(|n| usize::try_from(n).ok()).unwrap_or(standard)
    };
    let codes = entry.exit_codes.map(|codes| {
        let verdict = |meaning| match meaning {
            ExitMeaning::Ok => Verdict::Ok,
            ExitMeaning::Again => Verdict::Again,
            ExitMeaning::Die => Verdict::Die,
        };
        codes.into_iter().map(|(code, meaning)| (code, verdict(meaning))).collect()
    });
    ActionSync {
        max_delays: count(entry.max_delays, 1000),
        max_processes: count(entry.max_processes.map(u64::from), 1).max(1),
        name: entry.name,
        source: entry.source,
        target: entry.target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        table: entry.table,
        delay: entry.delay.unwrap_or_default(),
        filter,
        exit_codes: codes,
        insist,
    }
}
