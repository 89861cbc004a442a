//! When a target that could not be had is tried again.

use std::time::Duration;

/// The first wait; it doubles each time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest, unless changes wait longer than that anyhow.
const LAST: Duration = Duration::from_secs(60);

/// Waits that grow, with jitter so that a hundred mirrors do not knock at the same moment.
#[derive(Debug)]
pub(super) struct BackOff {
    tries: u32,
    last: Duration,
    random: u64,
}

impl BackOff {
    pub(super) fn new(delay: Duration, seed: u64) -> BackOff {
        BackOff { tries: 0, last: LAST.max(delay), random: seed | 1 }
    }

    /// How long to wait this time.
    pub(super) fn next(&mut self) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.tries.min(20)).min(self.last);
        self.tries += 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        wait.mul_f32(0.75 + (self.random >> 40) as f32 / (1u64 << 25) as f32)
    }

    /// It was had.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_minute_or_the_delay() {
        let mut waits = BackOff::new(Duration::ZERO, 7);
        for base in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let wait = waits.next().as_secs_f32() / base;
            assert!((0.75..=1.25).contains(&wait), "{base}: {wait}");
        }
        waits.reset();
        assert!(waits.next() < Duration::from_secs(2));
        let mut slow = BackOff::new(Duration::from_secs(600), 7);
        let longest = (0..20).map(|_| slow.next()).max().unwrap_or_default();
        assert!(longest > Duration::from_secs(400));
    }
}
