//! The mirrors of a configuration file: each is kept going whatever becomes of it, and HUP reads
//! the file again.
//!
//! A mirror that ends by itself, be it by an error or by a guard at its start, is begun again after
//! a while; no target, and no source, ends the process. When the file is read again only what is
//! different there is ended and begun anew, and a file that cannot be read changes nothing.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use lsync_agent::fault::OnDemand;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::late::LateSource;
use super::service::Service;
use super::{listen, scope_of, served_as};
use crate::config::{AnyMirror, Verify, WatchChoice};
use crate::control::Places;
use crate::control::server::{Roll, Served, way};
use crate::error::{Error, Exit, Result};
use crate::metrics::{Metrics, Notice};
use crate::mirror::connect;
use crate::mirror::rsync::run::{RsyncRunning, run as run_rsync};
use crate::mirror::run::{Running, Starts, run as run_mirror, stopped};
use crate::mirror::steer::Steer;
use crate::source::Scope;

/// How long it is until a mirror that has ended is begun again: at first, and at most.
const WAITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];
/// A mirror that ran for so long was a good one.
const STEADY: Duration = Duration::from_secs(60);
/// Nobody waits longer for mirrors to end.
const LAST_ORDERS: Duration = Duration::from_secs(10);

/// Reads the file again.
pub type Reload = Arc<dyn Fn() -> Result<Vec<AnyMirror>> + Send + Sync>;

/// Where the source of mirrors stands, and what else makes it the same one for two of them.
#[derive(PartialEq)]
struct SourceKey {
    path: std::path::PathBuf,
    filter: crate::filter::Filter,
    one_file_system: bool,
    max_size: Option<u64>,
    xattrs: lsync_protocol::xattr::Classes,
    watch: WatchChoice,
    /// Of those that are polled.
    every: Option<Duration>,
}

/// A mirror that is kept going.
struct Kept {
    config: AnyMirror,
    stop: watch::Sender<bool>,
    keeps: JoinHandle<()>,
    served: Served,
}

struct Many {
    metrics: Arc<dyn Metrics>,
    /// The sources that are in use, and the key of each one's digests.
    sources: Vec<(SourceKey, Weak<LateSource>, [u8; 32])>,
    kept: Vec<Kept>,
    roll: Roll,
}

/// Keeps mirrors going until a signal comes. `started` is called once all of them were begun.
///
/// # Errors
/// What `started` says, a control socket that was named and cannot be had, or the system refuses
/// signals.
pub async fn run(
    mirrors: Vec<AnyMirror>,
    reload: Reload,
    metrics: Arc<dyn Metrics>,
    places: &Places,
    roll: Roll,
    service: Service,
    started: impl FnOnce() -> Result<()>,
) -> Result<Exit> {
    let cannot = |error: std::io::Error| Error::failed("cannot wait for signals").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot)?;
    let mut many = Many { metrics, sources: Vec::new(), kept: Vec::new(), roll };
    let control = listen(places)?;
    many.change(mirrors).await?;
    // Ends with what follows, and takes the socket away.
    let mut beside = JoinSet::new();
    if let Some(control) = control {
        beside.spawn(control.serve(Arc::clone(&many.roll)));
    }
    started()?;
    service.ready();
    beside.spawn(service.clone().keep(Arc::clone(&many.roll)));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                service.reloading();
                many.reload(&reload).await;
                service.ready();
            }
        }
    }
    service.stopping();
    tokio::select! {
        () = many.end() => {}
        // A second one: at once.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(Exit::Done)
}

impl Many {
    /// Reads the file again. What cannot be read changes nothing.
    async fn reload(&mut self, reload: &Reload) {
        let reload = Arc::clone(reload);
        let read = tokio::task::spawn_blocking(move || reload()).await;
        let read = read.unwrap_or_else(|error| {
            Err(Error::failed("cannot read the configuration").because(error))
        });
        let changed = match read {
            Ok(mirrors) => self.change(mirrors).await,
            Err(error) => Err(error),
        };
        let mirror = "lsyncd".into();
        self.metrics.notice(match changed {
            Ok(text) => Notice::Reloaded { mirror, text },
            Err(error) => {
                let what = format!("{error}; going on as before");
                let hint = error.hint_text().map(str::to_owned);
                Notice::Failed { mirror, what, hint }
            }
        });
    }

    /// Runs these mirrors and no others. Says what that changed.
    async fn change(&mut self, mirrors: Vec<AnyMirror>) -> Result<String> {
        let mut before: HashMap<String, Kept> =
            self.kept.drain(..).map(|kept| (kept.config.name().to_owned(), kept)).collect();
        let mut goes_on = HashMap::new();
        for mirror in &mirrors {
            if let Some(kept) = before.remove(mirror.name()) {
                if kept.config == *mirror {
                    goes_on.insert(mirror.name().to_owned(), kept);
                } else {
                    before.insert(mirror.name().to_owned(), kept);
                }
            }
        }
        // First they end: what is begun may mirror to the same places.
        let ended = before.len();
        end(before.into_values().collect()).await;
        let (same, mut begun) = (goes_on.len(), 0);
        for mirror in mirrors {
            let kept = match goes_on.remove(mirror.name()) {
                Some(kept) => kept,
                None => {
                    begun += 1;
                    self.begin(mirror)?
                }
            };
            self.kept.push(kept);
        }
        self.sources.retain(|(_, source, _)| source.strong_count() > 0);
        *self.roll.lock().unwrap_or_else(PoisonError::into_inner) =
            self.kept.iter().map(|kept| kept.served.clone()).collect();
        Ok(format!(
            "the configuration was read again: {begun} begun, {ended} ended, {same} as before"
        ))
    }

    fn begin(&mut self, mirror: AnyMirror) -> Result<Kept> {
        let (source, key) = self.source(&mirror)?;
        let (ask, _) = way();
        let served = served_as(&mirror, ask);
        let stop = watch::Sender::new(false);
        let keep = Keep {
            mirror: mirror.clone(),
            source,
            key,
            metrics: Arc::clone(&self.metrics),
            stop: stop.subscribe(),
            served: served.clone(),
        };
        Ok(Kept { config: mirror, stop, keeps: tokio::spawn(keep.run()), served })
    }

    /// The source of a mirror: the same one for all that see the same of it.
    fn source(&mut self, mirror: &AnyMirror) -> Result<(Arc<LateSource>, [u8; 32])> {
        let (path, scope, watch, rescan) = scope_of(mirror);
        let key = SourceKey {
            path: path.clone(),
            filter: scope.filter.as_ref().clone(),
            one_file_system: scope.one_file_system,
            max_size: scope.max_size,
            xattrs: scope.xattrs,
            watch,
            every: rescan.filter(|_| watch == WatchChoice::Poll),
        };
        let known = self.sources.iter().find(|(known, ..)| *known == key);
        if let Some((source, digests)) =
            known.and_then(|(_, source, d)| Some((source.upgrade()?, *d)))
        {
            return Ok((source, digests));
        }
        let late = LateSource::new(mirror.name(), &path, Scope { ..scope }, Some(watch), rescan);
        let late = late.begin(true, &*self.metrics)?;
        let digests = connect::random()?;
        self.sources.push((key, Arc::downgrade(&late), digests));
        Ok((late, digests))
    }

    async fn end(&mut self) {
        end(std::mem::take(&mut self.kept)).await;
    }
}

/// Lets mirrors finish what is on its way, within a bound.
async fn end(all: Vec<Kept>) {
    for kept in &all {
        let _ = kept.stop.send(true);
    }
    let ends: Vec<_> = all.iter().map(|kept| kept.keeps.abort_handle()).collect();
    let ended = async {
        for kept in all {
            let _ = kept.keeps.await;
        }
    };
    let _ = tokio::time::timeout(LAST_ORDERS, ended).await;
    // Nothing of them goes on beside what takes their place.
    ends.iter().for_each(tokio::task::AbortHandle::abort);
}

/// What keeps one mirror going.
struct Keep {
    mirror: AnyMirror,
    source: Arc<LateSource>,
    key: [u8; 32],
    metrics: Arc<dyn Metrics>,
    stop: watch::Receiver<bool>,
    served: Served,
}

impl Keep {
    async fn run(mut self) {
        let [mut wait, most] = WAITS;
        let mut said = None;
        loop {
            self.served.is_away("its source cannot be had yet");
            let Some(source) = self.source.there(&mut self.stop).await else { return };
            let (ask, steered) = way();
            self.served.is_there(ask);
            let began = Instant::now();
            let ended = self.once(source, steered).await;
            if *self.stop.borrow() {
                return;
            }
            if began.elapsed() > STEADY {
                (wait, said) = (WAITS[0], None);
            }
            let (what, hint) = match ended {
                Ok(Exit::Stopped) => ("a guard stopped it at its start".to_owned(), None),
                Ok(exit) => (format!("it ended with {}", exit as u8), None),
                Err(error) => (error.to_string(), error.hint_text().map(str::to_owned)),
            };
            self.served.is_away(&what);
            // Once is enough, as long as it stays the same.
            if said.as_ref() != Some(&what) {
                let mirror = self.mirror.name().into();
                let text = format!("{what}; it is tried again");
                self.metrics.notice(Notice::Failed { mirror, what: text, hint });
                said = Some(what);
            }
            tokio::select! {
                () = stopped(&mut self.stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(most);
            // It may have been a mount point without its file system.
            self.source.renew();
        }
    }

    async fn once(
        &self,
        source: Arc<crate::source::Source>,
        steered: mpsc::Receiver<Steer>,
    ) -> Result<Exit> {
        let (metrics, stop) = (Arc::clone(&self.metrics), self.stop.clone());
        let starts = Arc::new(Starts::insisting(1));
        let (events, steered) = (Some(source.subscribe()), Some(steered));
        match &self.mirror {
            AnyMirror::Agent(config) => {
                let running = Running {
                    config: Arc::new((**config).clone()),
                    source,
                    events,
                    key: self.key,
                    once: false,
                    dry_run: false,
                    verify: Verify::No,
                    metrics,
                    stop,
                    starts,
                    steered,
                    has_other_way: false,
                    faults: OnDemand::default(),
                };
                run_mirror(running).await
            }
            AnyMirror::Rsync(config) => {
                let running = RsyncRunning {
                    config: Arc::new((**config).clone()),
                    source,
                    events,
                    once: false,
                    dry_run: false,
                    metrics,
                    stop,
                    starts,
                    tunnel: None,
                    steered,
                    limit: None,
                    patient: false,
                };
                run_rsync(running).await
            }
        }
    }
}
