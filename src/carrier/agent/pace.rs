//! How hard to compress, decided by what it brings.
//!
//! What a link and two hosts can carry is not known, and it changes; so it is tried. While the
//! writer seldom waits for content, the link holds the transfer back, and a higher level may pay.
//! While it often waits, compressing does, or reading, or a CPU that all share: a lower level may
//! pay, and below the lowest, none at all. A change stays if more content arrives by it, and is
//! taken back if not; then the next try is further away. Content that does not shrink tells nothing.

use std::time::Duration;

use tokio::time::Instant;

/// The levels of zstd, after none at all. Those below 1 are hardly faster, and those above 6 take
/// twice the time for a few parts in a hundred.
const LADDER: [i32; 4] = [0, 1, 3, 6];
/// No compression.
const CLEAR: usize = 0;
/// The fastest.
const FAST: usize = 1;

/// A change is not judged by what was on the way when it was made.
const SETTLE: u64 = 12 << 20;
/// Or so long.
const SETTLE_TIME: Duration = Duration::from_millis(1000);
/// So much content tells something, if it took this long.
const ENOUGH: u64 = 32 << 20;
const ENOUGH_TIME: Duration = Duration::from_millis(60);
/// On a slow link any content does after this time.
const LONG_TIME: Duration = Duration::from_millis(1500);

/// The writer waits for content so much of its time: the link is not what holds us back.
const HUNGRY: f64 = 0.5;
/// It hardly ever waits.
const FED: f64 = 0.15;

/// Bytes of content until a change that did not pay is tried again; twice as many each time.
const PATIENCE: u64 = 256 << 20;
const PATIENCE_MOST: u64 = 16 << 30;

/// What was seen so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Bytes of content that the target has.
    pub(super) arrived: u64,
    /// Bytes of content that left compressed.
    pub(super) squeezed: u64,
    /// How long the writer waited for something to write.
    pub(super) hungry: Duration,
}

/// From where to where the view goes.
#[derive(Debug)]
struct Window {
    began: Instant,
    from: Seen,
    /// What was on the way when the rung changed is there by now.
    settled: bool,
}

/// A change that is being tried.
#[derive(Debug)]
struct Trial {
    from: usize,
    /// Bytes of content a second that arrived before.
    before: f64,
}

/// The state of one link.
#[derive(Debug)]
pub(super) struct Pace {
    rung: usize,
    window: Option<Window>,
    trial: Option<Trial>,
    /// Nothing new is tried before so many bytes have arrived.
    next: u64,
    patience: u64,
    /// What arrived in a second when it was decided not to compress.
    clear: f64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rung: FAST, window: None, trial: None, next: 0, patience: PATIENCE, clear: 0.0 }
    }
}

impl Pace {
    /// The level at first. Nearly every link is slower than this.
    pub(super) const FIRST: i32 = LADDER[FAST];

    /// Nothing was to be sent for a while: what follows does not belong to what was before.
    pub(super) fn rest(&mut self) {
        self.window = None;
    }

    /// Looks at what was seen until now, and says the level: 0 is none.
    pub(super) fn look(&mut self, now: Instant, seen: Seen) -> i32 {
        let fresh = |settled| Some(Window { began: now, from: seen, settled });
        let Some(window) = &self.window else {
            self.window = fresh(false);
            return LADDER[self.rung];
        };
        let time = now.saturating_duration_since(window.began);
        let bytes = seen.arrived.saturating_sub(window.from.arrived);
        if !window.settled {
            if bytes >= SETTLE || time >= SETTLE_TIME {
                self.window = fresh(true);
            }
            return LADDER[self.rung];
        }
        let enough = bytes >= ENOUGH && time >= ENOUGH_TIME;
        if bytes > 0 && (enough || time >= LONG_TIME) {
            let seconds = time.as_secs_f64();
            let hungry = seen.hungry.saturating_sub(window.from.hungry).as_secs_f64() / seconds;
            let squeezed = seen.squeezed.saturating_sub(window.from.squeezed);
            self.window = fresh(true);
            if self.rung == CLEAR || squeezed >= bytes / 2 {
                self.judge(seen.arrived, bytes as f64 / seconds, hungry);
            }
        }
        LADDER[self.rung]
    }

    /// `rate`: bytes of content that arrived in a second; `hungry`: how much of it the writer waited.
    fn judge(&mut self, arrived: u64, rate: f64, hungry: f64) {
        if let Some(Trial { from, before }) = self.trial.take() {
            let pays = match (from, self.rung) {
                // It has to be worth the work.
                (CLEAR, _) => rate > before * 1.1,
                (_, CLEAR) => rate >= before,
                // The rate goes up and down by itself.
                _ => rate > before * 0.95 && hungry < HUNGRY,
            };
            if pays {
                self.patience = PATIENCE;
                self.next = arrived;
                if self.rung == CLEAR || (from == CLEAR && hungry > FED) {
                    self.next += PATIENCE;
                }
                self.clear = rate;
            } else {
                let to = from;
                self.put_off(arrived);
                self.clear = before;
                self.step(to);
            }
            return;
        }
        let due = arrived >= self.next;
        if self.rung == CLEAR {
            // Where less than half arrives, something has changed.
            if due || rate < self.clear / 2.0 {
                self.attempt(FAST, rate);
            }
        } else if hungry > HUNGRY && self.rung > FAST {
            self.put_off(arrived);
            self.step(self.rung - 1);
        } else if hungry > HUNGRY && due {
            self.attempt(CLEAR, rate);
        } else if hungry < FED && due && self.rung + 1 < LADDER.len() {
            self.attempt(self.rung + 1, rate);
        }
    }

    fn attempt(&mut self, rung: usize, rate: f64) {
        self.trial = Some(Trial { from: self.rung, before: rate });
        self.step(rung);
    }

    fn put_off(&mut self, arrived: u64) {
        self.next = arrived + self.patience;
        self.patience = (self.patience * 2).min(PATIENCE_MOST);
    }

    fn step(&mut self, rung: usize) {
        self.rung = rung;
        self.window = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a link carries, what compressing takes, and what it leaves; by rung.
    struct World {
        /// Bytes a second on the wire.
        link: f64,
        /// Bytes of content a second that can be read, and that can be compressed at each level.
        speed: [f64; LADDER.len()],
        /// Bytes on the wire for one of content.
        ratio: [f64; LADDER.len()],
    }

    const TEXT: World =
        World { link: 0.0, speed: [3e9, 700e6, 400e6, 120e6], ratio: [1.0, 0.3, 0.27, 0.25] };

    struct Play {
        pace: Pace,
        now: Instant,
        seen: Seen,
        /// Bytes that went at each rung.
        went: [u64; LADDER.len()],
    }

    impl Play {
        fn new() -> Play {
            let now = Instant::now();
            Play { pace: Pace::default(), now, seen: Seen::default(), went: [0; LADDER.len()] }
        }

        /// So many bytes more; returns the seconds they took.
        fn goes(&mut self, bytes: u64, world: &World) -> f64 {
            let (mut left, begun) = (bytes, self.now);
            while left > 0 {
                let rung = self.pace.rung;
                let (speed, ratio) = (world.speed[rung], world.ratio[rung]);
                let carried = world.link / ratio;
                let rate = speed.min(carried);
                let piece = left.min((rate / 1000.0) as u64 + 1);
                let time = piece as f64 / rate;
                self.now += Duration::from_secs_f64(time);
                self.seen.arrived += piece;
                if rung > CLEAR && ratio < 0.9 {
                    self.seen.squeezed += piece;
                }
                self.seen.hungry += Duration::from_secs_f64(time * (1.0 - rate / carried));
                self.went[rung] += piece;
                left -= piece;
                self.pace.look(self.now, self.seen);
            }
            (self.now - begun).as_secs_f64()
        }
    }

    #[test]
    fn it_finds_what_is_fastest() {
        let table = [
            // 1, 10 and 100 Mbit/s, 1 Gbit/s: as much as the CPU has time for.
            (World { link: 0.12e6, ..TEXT }, 3, 20 << 20),
            (World { link: 1.2e6, ..TEXT }, 3, 200 << 20),
            (World { link: 12e6, ..TEXT }, 3, 2 << 30),
            (World { link: 118e6, ..TEXT }, 2, 4 << 30),
            // Faster than it can be compressed.
            (World { link: 1500e6, ..TEXT }, 0, 8 << 30),
            // A slow CPU on a link that is not slow.
            (World { link: 118e6, speed: [900e6, 90e6, 50e6, 15e6], ..TEXT }, 0, 4 << 30),
            // Nothing is held back by anything but the source's disk.
            (World { link: 118e6, speed: [60e6; 4], ..TEXT }, 0, 1 << 30),
            // Nothing shrinks: nothing is learned.
            (World { link: 12e6, ratio: [1.0; 4], ..TEXT }, 1, 1 << 30),
        ];
        for (world, rung, bytes) in table {
            let mut play = Play::new();
            play.goes(bytes, &world);
            assert_eq!(play.pace.rung, rung, "{} bytes/s: {:?}", world.link, play.went);
            let there = play.went[rung] as f64 / bytes as f64;
            assert!(there > 0.7, "{} bytes/s: {:?}", world.link, play.went);
        }
    }

    #[test]
    fn looking_around_costs_little() {
        for link in [10e6, 100e6, 300e6, 700e6, 1000e6, 2000e6] {
            let world = World { link, ..TEXT };
            let best = (0..LADDER.len())
                .map(|rung| world.speed[rung].min(link / world.ratio[rung]))
                .fold(0.0, f64::max);
            let bytes = 16u64 << 30;
            let took = Play::new().goes(bytes, &world);
            assert!(took < bytes as f64 / best * 1.12, "{link}: {took} s");
        }
    }

    #[test]
    fn it_follows_a_link_that_changes() {
        let mut play = Play::new();
        play.goes(2 << 30, &World { link: 1500e6, ..TEXT });
        assert_eq!(play.pace.rung, 0);
        // Another way through the net: seen at once.
        play.goes(40 << 20, &World { link: 1e6, ..TEXT });
        assert_eq!(play.pace.rung, 3);
        play.goes(20 << 30, &World { link: 1500e6, ..TEXT });
        assert_eq!(play.pace.rung, 0);
        // Content of another kind says nothing about the rest.
        play.goes(2 << 30, &World { link: 1500e6, ratio: [1.0; 4], ..TEXT });
        play.goes(2 << 30, &World { link: 1500e6, ..TEXT });
        assert!(play.pace.rung <= 1);
    }

    #[test]
    fn a_rest_is_no_hunger() {
        let world = World { link: 500e6, ..TEXT };
        let mut play = Play::new();
        for _ in 0..1000 {
            // A small change now and then.
            play.goes(100_000, &world);
            play.now += Duration::from_secs(5);
            play.pace.rest();
        }
        assert_eq!(play.went[1], 100_000_000);
    }
}
