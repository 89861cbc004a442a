//! The source of a sync, which may have to be waited for.
//!
//! At a start a source that cannot be had is an error. A configuration that takes another's place has
//! nobody to give that error to, and other syncs: the one that cannot begin is told of and tried
//! again, since a source comes back and so do watches.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;

use super::Told;
use crate::config::WatchChoice;
use crate::daemon::open_source;
use crate::error::Result;
use crate::metrics::Notice;
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
    found: OnceLock<Arc<Source>>,
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
        let (mirror, path, found) = (mirror.to_owned(), path.to_owned(), OnceLock::new());
        LateSource { mirror, path, scope, watch, rescan, found }
    }

    /// Opens it now. With `patient` it may be waited for, and what is in the way is told.
    ///
    /// # Errors
    /// It cannot be opened or watched.
    pub(super) fn begin(self, patient: bool, told: &dyn Told) -> Result<Arc<LateSource>> {
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
            if let Some(source) = self.now() {
                return Some(source);
            }
            tokio::select! {
                () = stopped(stop) => return None,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(most);
            // Where it stands may be slow to answer.
            let _ = block_in_place(|| self.open());
        }
    }

    /// The source, if it is there.
    pub(super) fn now(&self) -> Option<Arc<Source>> {
        self.found.get().cloned()
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self) -> Result<()> {
        let source = open_source(&self.path, self.scope.clone(), self.watch, self.rescan)?;
        let _ = self.found.set(Arc::new(source));
        Ok(())
    }
}
