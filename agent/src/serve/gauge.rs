//! How much of what came is still held: a bound on memory that does not believe the peer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Counts bytes of messages that are not yet done with.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    held: Mutex<usize>,
    less: Condvar,
}

/// The body of a message, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    body: Vec<u8>,
    raw_at: usize,
    cost: usize,
    gauge: Arc<Gauge>,
}

impl Gauge {
    /// Waits until less than `most` bytes are held, or the link ended.
    pub(crate) fn wait_below(&self, most: usize, stop: &AtomicBool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while *held >= most && !stop.load(Ordering::Relaxed) {
            let tick = Duration::from_millis(200);
            held = self.less.wait_timeout(held, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Counts a message.
    pub(crate) fn hold(self: &Arc<Gauge>, body: Vec<u8>, raw_at: usize) -> Held {
        // What is decoded from the control part takes a few times its room.
        let cost = body.len() + 4 * raw_at;
        self.count(body, raw_at, cost)
    }

    /// Counts what was decoded from a message that is itself dropped.
    pub(crate) fn decoded<T>(self: &Arc<Gauge>, list: &[T]) -> Held {
        self.count(Vec::new(), 0, 64 + size_of_val(list))
    }

    fn count(self: &Arc<Gauge>, body: Vec<u8>, raw_at: usize, cost: usize) -> Held {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) += cost;
        Held { body, raw_at, cost, gauge: self.clone() }
    }
}

impl Held {
    /// The raw bytes of the message.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.body.get(self.raw_at..).unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.gauge.held.lock().unwrap_or_else(PoisonError::into_inner) -= self.cost;
        self.gauge.less.notify_all();
    }
}
