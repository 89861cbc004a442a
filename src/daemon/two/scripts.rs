//! Syncs with actions of their own: one interpreter for all of them, a feed for each.

use std::pin::Pin;
use std::sync::Arc;

use mlua::Lua;
use tokio::sync::watch;

use super::{Told, clock};
use crate::carrier::action::{
    self, ActionLog, ActionOptions, ActionSync, Actions, ChildOutput, Standing,
};
use crate::config::WatchChoice;
use crate::config::crontab::Crontab;
use crate::config::lua::Entry;
use crate::config::settings::Settings;
use crate::daemon::late::LateSource;
use crate::error::{Error, Exit, Result};
use crate::filter::Filter;
use crate::mirror::actions::feed;
use crate::source::Scope;

/// A sync with actions of its own.
pub(super) struct Own {
    pub(super) place: usize,
    pub(super) entry: Entry,
    pub(super) filter: Filter,
    pub(super) crontab: Option<Crontab>,
}

/// The end of one sync.
type Feed = Pin<Box<dyn Future<Output = Result<Exit>> + Send>>;

/// What was begun.
pub(super) struct Begun {
    pub(super) actions: Arc<Actions>,
    /// Each sync: its place in the configuration, its name, its source, and what feeds it.
    pub(super) feeds: Vec<(usize, String, Arc<LateSource>, Feed)>,
    pub(super) clocks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// How they are run.
pub(super) struct How {
    /// A startup that fails is tried again.
    pub(super) insist: bool,
    /// A source that cannot be had is waited for.
    pub(super) patient: bool,
    /// Only until their startups are done.
    pub(super) once: bool,
    /// That it is over.
    pub(super) stop: watch::Receiver<bool>,
}

/// Takes the interpreter to its thread and feeds the syncs whose actions it runs.
///
/// # Errors
/// A source cannot be watched, or a command cannot be understood.
pub(super) fn start(
    lua: Lua,
    own: Vec<Own>,
    settings: &Settings,
    how: &How,
    told: &Arc<dyn Told>,
) -> Result<Begun> {
    let log: Arc<dyn ActionLog> = Arc::clone(told) as Arc<dyn ActionLog>;
    let mode = settings.inotify_mode;
    let (mut sources, mut syncs, mut crontabs) = (Vec::new(), Vec::new(), Vec::new());
    for Own { place, entry, filter, crontab } in own {
        let scope = Scope { filter: Arc::new(filter.clone()), ..Scope::default() };
        let watch = Some(WatchChoice::Auto);
        let source = LateSource::new(&entry.name, &entry.source, scope, watch, None);
        sources.push((place, entry.name.clone(), source.begin(how.patient, &**told)?));
        syncs.push(sync(entry, filter, how.insist));
        crontabs.push(crontab);
    }
    let options = ActionOptions {
        max_processes: settings.max_processes.and_then(|most| usize::try_from(most).ok()),
        output: match (&settings.logfile, settings.nodaemon) {
            (_, true) => ChildOutput::Inherit,
            (Some(file), false) => ChildOutput::File(file.clone()),
            (None, false) => ChildOutput::Null,
        },
    };
    let actions = Arc::new(action::start(lua, syncs, options, Arc::clone(&log))?);
    let mut begun = Begun { feeds: Vec::new(), clocks: Vec::new(), actions };
    for (number, ((place, name, source), crontab)) in sources.into_iter().zip(crontabs).enumerate()
    {
        if let Some(crontab) = crontab {
            let actions = Arc::clone(&begun.actions);
            let due = move || actions.full(number);
            begun.clocks.push(Box::pin(clock::keep(crontab, name.clone(), Arc::clone(told), due)));
        }
        let (actions, log) = (Arc::clone(&begun.actions), Arc::clone(&log));
        let (called, late) = (name.clone(), Arc::clone(&source));
        let (mut stop, once) = (how.stop.clone(), how.once);
        let end = async move {
            let mut overview = actions.overview();
            let mut over = overview.clone();
            let source = tokio::select! {
                source = late.there(&mut stop) => source,
                // Another one's script has ended it all.
                _ = over.wait_for(|now| now.finished.is_some()) => None,
            };
            let Some(source) = source else { return Ok(Exit::Done) };
            let feed = feed(source, Arc::clone(&actions), number, mode, log);
            if once {
                let started = overview.wait_for(|now| {
                    now.finished.is_some()
                        || now.syncs.get(number).is_none_or(|sync| *sync != Standing::Starting)
                });
                tokio::select! {
                    () = feed => {}
                    _ = started => {}
                }
            } else {
                feed.await;
            }
            let standing = actions.overview().borrow().syncs.get(number).copied();
            match standing {
                Some(Standing::Failed { at_start: true }) => {
                    Err(Error::failed(format!("{called} failed at its start"))
                        .hint("settings { insist = true } tries that again"))
                }
                Some(Standing::Failed { .. }) => Err(Error::failed(format!("{called} has failed"))),
                _ => Ok(Exit::Done),
            }
        };
        begun.feeds.push((place, name, source, Box::pin(end)));
    }
    Ok(begun)
}

/// A sync as the interpreter's thread takes it.
fn sync(entry: Entry, filter: Filter, insist: bool) -> ActionSync {
    let count = |own: Option<u64>, standard: usize| {
        own.and_then(|n| usize::try_from(n).ok()).unwrap_or(standard)
    };
    ActionSync {
        max_delays: count(entry.max_delays, 1000),
        max_processes: count(entry.max_processes.map(u64::from), 1).max(1),
        name: entry.name,
        source: entry.source,
        target: entry.target.map(|target| String::from_utf8_lossy(&target).into_owned()),
        table: entry.table,
        delay: entry.delay.unwrap_or_default(),
        filter,
        exit_codes: entry.exit_codes,
        insist,
    }
}
