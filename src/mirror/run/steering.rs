//! What is asked of a mirror that runs, answered.

use std::time::Instant;

use lsync_protocol::path::Escaped;
use tokio::sync::oneshot;

use super::super::Event;
use super::super::flush::PROBLEMS_MAX;
use super::super::steer::{Resumed, Stand, Standing, Steer};
use super::Loop;

impl Loop {
    /// Does what is asked. Who does not wait any more has no use for the answer.
    pub(super) fn steer(&mut self, steer: Steer) {
        match steer {
            Steer::Pending(answer) => drop(answer.send(self.mirror.pending())),
            Steer::Standing(answer) => drop(answer.send(Box::new(self.standing()))),
            Steer::Flush(answer) => {
                let token = self.running.source.next_barrier();
                self.flushes.insert(token, answer);
                // Nothing is heard of a source that is not watched. What is said by the watch is
                // not read before this is handled.
                let watched = self.running.events.is_some();
                let heard = !(watched && self.running.source.barrier(token));
                self.handle(Event::Flush { token, heard });
            }
            Steer::Pause(answer) => {
                self.handle(Event::Pause);
                let _ = answer.send(());
            }
            Steer::Resume { confirm, answer } => {
                let resumed = Resumed::of(self.mirror.halted(), self.mirror.is_paused(), confirm);
                self.handle(Event::Resume { confirm });
                let _ = answer.send(resumed);
            }
        }
    }

    /// Who does not wait any more is forgotten.
    pub(super) fn forget_who_left(&mut self) {
        if self.flushes.values().any(oneshot::Sender::is_closed) {
            self.flushes.retain(|_, answer| !answer.is_closed());
            let waits = &self.flushes;
            self.mirror.forget_flushes(|token| waits.contains_key(&token));
        }
    }

    fn standing(&mut self) -> Standing {
        self.measure();
        let stand = self.mirror.stand();
        let reason = match stand {
            Stand::Connecting => self.down_for.clone(),
            Stand::Halted | Stand::Paused => self.mirror.halted().map(str::to_owned),
            Stand::Waiting => self.mirror.root_trouble().map(|trouble| {
                trouble.of(Escaped(self.running.source.path().as_os_str().as_encoded_bytes()))
            }),
            Stand::Mirroring | Stand::Live => None,
        };
        let (now, totals) = (Instant::now(), self.mirror.totals());
        let totals = self.totals(totals);
        let (in_flight, in_flight_bytes) = self.mirror.in_flight();
        Standing {
            stand,
            reason,
            lag: self.mirror.behind_since().map_or_else(Default::default, |since| now - since),
            dirty: self.mirror.dirty() as u64,
            in_flight,
            in_flight_bytes,
            problems: self.mirror.problems().take(PROBLEMS_MAX).cloned().collect(),
            problem_count: totals.problems,
            watch: self.running.source.watch_status(),
            totals,
            sent: self.traffic_of_all.0,
            received: self.traffic_of_all.1,
            reconnects: self.reconnects,
            collapsed: self.mirror.collapsed(),
            walk: self.mirror.is_walking().then(|| self.walked()),
            last_verify: self.mirror.last_verify().map(|last| (last, now - last.ended)),
        }
    }
}
