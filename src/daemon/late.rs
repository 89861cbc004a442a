//! The source of mirrors, which may have to be waited for.
//!
//! At a start by hand a source that cannot be had is an error. A file with many mirrors, and a
//! configuration that takes another's place, have other mirrors: the one that cannot begin is told
//! of and tried again, since a source comes back and so do watches.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;

use super::open_source;
use crate::config::WatchChoice;
use crate::error::Result;
use crate::metrics::{Metrics, Notice};
use crate::mirror::run::stopped;
use crate::source::{Scope, Source};

/// How long it is until it is tried again: at first, and at most.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// A source, and how it is opened.
pub(super) struct LateSource {
    mirror: String,
    path: PathBuf,
    scope: Scope,
    watch: Option<WatchChoice>,
    rescan: Option<Duration>,
    found: Mutex<Option<Arc<Source>>>,
    /// Held while it is opened: several mirrors may wait for it, and one watch is enough.
    opening: tokio::sync::Mutex<()>,
}

impl LateSource {
    /// The source of a mirror; `watch`: how it is watched, if it is.
    pub(super) fn new(
        mirror: &str,
        path: &Path,
        scope: Scope,
        watch: Option<WatchChoice>,
        rescan: Option<Duration>,
    ) -> LateSource {
        let (mirror, path) = (mirror.to_owned(), path.to_owned());
        let (found, opening) = (Mutex::default(), tokio::sync::Mutex::default());
        LateSource { mirror, path, scope, watch, rescan, found, opening }
    }

    /// Opens it now. With `patient` it may be waited for, and what is in the way is told.
    ///
    /// # Errors
    /// It cannot be opened or watched.
    pub(super) fn begin(self, patient: bool, told: &dyn Metrics) -> Result<Arc<LateSource>> {
        match self.open() {
            Err(error) if patient => {
                let mirror = self.mirror.as_str().into();
                let what = format!("{error}; it is tried again");
                let hint = error.hint_text().map(str::to_owned);
                told.notice(Notice::Failed { mirror, what, hint });
            }
            opened => opened?,
        }
        Ok(Arc::new(self))
    }

    /// The source, once it is there; `None`: it was not waited for any longer.
    pub(super) async fn there(&self, stop: &mut watch::Receiver<bool>) -> Option<Arc<Source>> {
        let [mut wait, most] = WAITS;
        loop {
            if *stop.borrow() {
                return None;
            }
            if let Some(source) = self.now() {
                return Some(source);
            }
            {
                let _opening = self.opening.lock().await;
                if self.now().is_none() {
                    // Where it stands may be slow to answer.
                    let _ = block_in_place(|| self.open());
                }
            }
            if let Some(source) = self.now() {
                return Some(source);
            }
            tokio::select! {
                () = stopped(stop) => return None,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(most);
        }
    }

    /// The source, if it is there.
    pub(super) fn now(&self) -> Option<Arc<Source>> {
        self.found().clone()
    }

    /// What stands there is another thing by now than what was opened: it is opened anew, for
    /// whoever begins from now on.
    pub(super) fn renew(&self) {
        let mut found = self.found();
        let gone = found.as_ref().is_some_and(|source| block_in_place(|| source.root()).is_err());
        if gone {
            *found = None;
        }
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn found(&self) -> MutexGuard<'_, Option<Arc<Source>>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<()> {
        let source = open_source(&self.path, self.scope.clone(), self.watch, self.rescan)?;
        *self.found() = Some(Arc::new(source));
        Ok(())
    }
}
