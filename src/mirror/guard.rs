//! The guard on deletes: how many names may go in a sliding minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::MaxDelete;

/// The minute that slides.
const MINUTE: Duration = Duration::from_secs(60);

/// Counts names deleted in the last minute against `--max-delete`.
#[derive(Debug)]
pub(crate) struct Guard {
    max: Option<MaxDelete>,
    /// Names counted by the last full walk, for a percentage.
    names: Option<u64>,
    window: VecDeque<(Instant, u64)>,
}

impl Guard {
    pub(crate) fn new(max: Option<MaxDelete>) -> Guard {
        Guard { max, names: None, window: VecDeque::new() }
    }

    /// Is there a limit at all?
    pub(crate) fn limits(&self) -> bool {
        self.max.is_some()
    }

    /// A full walk counted so many names.
    pub(crate) fn counted(&mut self, names: u64) {
        self.names = Some(names);
    }

    /// How many names may be deleted in a minute; `None`: any number.
    pub(crate) fn limit(&self) -> Option<u64> {
        match self.max? {
            MaxDelete::Names(names) => Some(names),
            // Before the first full count a percentage of nothing known allows nothing.
            MaxDelete::Percent(percent) => {
                Some(self.names.unwrap_or(0).saturating_mul(percent.into()) / 100)
            }
        }
    }

    /// May `count` more names go now? If so they count.
    ///
    /// # Errors
    /// In words, why not.
    pub(crate) fn allow(&mut self, count: u64, now: Instant) -> Result<(), String> {
        let Some(limit) = self.limit() else { return Ok(()) };
        while self.window.front().is_some_and(|(at, _)| *at + MINUTE <= now) {
            self.window.pop_front();
        }
        let recent: u64 = self.window.iter().map(|(_, count)| count).sum();
        if recent + count > limit {
            let names = recent + count;
            return Err(format!("{names} names to delete within a minute, {limit} are allowed"));
        }
        if count > 0 {
            self.window.push_back((now, count));
        }
        Ok(())
    }

    /// So many of the names that were allowed were not there to be deleted.
    pub(crate) fn refund(&mut self, count: u64) {
        if let Some((_, last)) = self.window.back_mut() {
            *last = last.saturating_sub(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_slides() {
        let start = Instant::now();
        let mut guard = Guard::new(Some(MaxDelete::Names(10)));
        assert!(guard.allow(6, start).is_ok());
        assert!(guard.allow(5, start).is_err(), "11 in a minute");
        assert!(guard.allow(4, start + Duration::from_secs(59)).is_ok());
        assert!(guard.allow(6, start + Duration::from_secs(60)).is_ok(), "the first 6 are past");
        guard.refund(6);
        assert!(guard.allow(6, start + Duration::from_secs(61)).is_ok());
        assert!(Guard::new(None).allow(u64::MAX, start).is_ok());
    }

    #[test]
    fn a_percentage_is_of_the_last_full_count() {
        let now = Instant::now();
        let mut guard = Guard::new(Some(MaxDelete::Percent(50)));
        assert!(guard.allow(1, now).is_err(), "nothing is known yet");
        guard.counted(10);
        assert!(guard.allow(5, now).is_ok());
        assert_eq!(
            guard.allow(1, now),
            Err("6 names to delete within a minute, 5 are allowed".to_owned())
        );
    }
}
