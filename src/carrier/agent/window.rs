//! How much may be on the way: so much that the link is never idle, and hardly more.
//!
//! What has been written and has not arrived stands before a small change, wherever it waits: in
//! ssh's buffers, the kernel's, or a router's. Nobody tells how much that is. So the writer puts a
//! ping behind every few pieces, which the agent's reader answers at once, whatever its disk does,
//! and bulk frames wait while more than the window is on the way. Each time that a window was full,
//! the answer to its last ping says how long its bytes took: where that is hardly longer than the
//! least it ever was, the window doubles; otherwise it becomes what the link carries in that least
//! time and [`QUEUE`] more.
//!
//! The least time is looked for again now and then with nothing else on the way, for a link's route
//! may change.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use lsync_protocol::frame::PIECE;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::locked;

/// So long a small change may wait behind what is on the way, about.
const QUEUE: Duration = Duration::from_millis(25);
/// A piece of content should not take longer: it cannot be interrupted.
const PIECE_TIME: Duration = Duration::from_millis(10);
/// The window at first, when nothing is known of the link.
const FIRST: u64 = 64 * 1024;
/// Pieces are so large at first, and never smaller than [`PIECE_MIN`].
const PIECE_FIRST: usize = 16 * 1024;
const PIECE_MIN: usize = 4 * 1024;
/// The least window: a few of the smallest pieces.
const LEAST: u64 = 16 * 1024;
/// The largest window where the way is short: the rest would only fill memory.
const SHORT: u64 = 8 << 20;
/// A ping is not for less than this.
const PINGED: u64 = 8 * 1024;
/// So many pings wait for their answers; the agent keeps 64 at most.
const PINGS: usize = 48;
/// So many full windows are remembered: one that took long says little about the link.
const RATES: usize = 3;
/// The least time is measured afresh when it is so old.
const STALE: Duration = Duration::from_secs(30);
/// And when the smallest window takes too long, but not more often than this.
const STALE_AT_LEAST: Duration = Duration::from_secs(1);
/// By so many pings that are alone on their way.
const ALONE: u32 = 2;

/// What is on the way of a link, and how much may be.
#[derive(Debug)]
pub(super) struct Window {
    /// Absent where bytes cost nothing.
    flow: Option<Mutex<Flow>>,
    changed: Notify,
}

impl Window {
    /// For a link whose far end lets so many bytes of content be on the way.
    pub(super) fn new(far: bool, grant: u64) -> Window {
        Window { flow: far.then(|| Mutex::new(Flow::new(grant))), changed: Notify::new() }
    }

    /// May a bulk frame leave?
    pub(super) fn is_open(&self) -> bool {
        self.flow.as_ref().is_none_or(|flow| locked(flow).is_open())
    }

    /// Returns when that may have changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// So many bytes leave now; with a number, the ping of that number right behind them.
    pub(super) fn leaves(&self, bytes: usize) -> Option<u64> {
        locked(self.flow.as_ref()?).leaves(bytes as u64, Instant::now())
    }

    /// The agent has answered a ping.
    pub(super) fn arrived(&self, ping: u64) {
        if let Some(flow) = &self.flow {
            locked(flow).arrived(ping, Instant::now());
            self.changed.notify_one();
        }
    }

    /// The most bytes of content that one frame should have.
    pub(super) fn piece(&self) -> usize {
        self.flow.as_ref().map_or(PIECE, |flow| locked(flow).piece())
    }

    /// How much content may be with the agent and not yet on its disk.
    pub(super) fn room(&self) -> u64 {
        self.flow.as_ref().map_or(SHORT, |flow| locked(flow).room())
    }
}

/// A ping that was not answered yet.
#[derive(Debug)]
struct Ping {
    /// Its number: the bytes that ever left before it.
    behind: u64,
    at: Instant,
    /// Nothing else was on the way.
    alone: bool,
}

/// A full window whose last ping is waited for.
#[derive(Debug)]
struct Round {
    ping: u64,
    bytes: u64,
    at: Instant,
}

/// The window itself, without a clock.
#[derive(Debug)]
struct Flow {
    grant: u64,
    size: u64,
    /// Bytes that ever left, and that are known to have arrived.
    left: u64,
    there: u64,
    pings: VecDeque<Ping>,
    round: Option<Round>,
    /// What the last full windows said, in bytes a second; the newest first.
    rates: VecDeque<f64>,
    /// The least time that a ping took, and when it was measured.
    base: Option<(Duration, Instant)>,
    /// Pings that are still to go alone, and the least that one of them took.
    alone: u32,
    alone_least: Option<Duration>,
}

impl Flow {
    fn new(grant: u64) -> Flow {
        Flow {
            grant,
            size: FIRST.min(grant),
            left: 0,
            there: 0,
            pings: VecDeque::new(),
            round: None,
            rates: VecDeque::new(),
            base: None,
            alone: 0,
            alone_least: None,
        }
    }

    fn is_open(&self) -> bool {
        // Without a ping on its way nothing would ever open it again.
        self.pings.is_empty() || (self.alone == 0 && self.left - self.there < self.size)
    }

    fn leaves(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        self.left += bytes;
        let pinged = self.pings.back().map_or(self.there, |ping| ping.behind);
        let due = match self.alone {
            0 if self.left - self.there < self.size => self.pinged(),
            _ => 1,
        };
        if self.left - pinged < due || self.pings.len() >= PINGS {
            return None;
        }
        self.pings.push_back(Ping { behind: self.left, at: now, alone: self.pings.is_empty() });
        let on_the_way = self.left - self.there;
        if self.round.is_none() && on_the_way >= self.size {
            self.round = Some(Round { ping: self.left, bytes: on_the_way, at: now });
        }
        Some(self.left)
    }

    /// A ping is for so many bytes: a piece, where that is neither most of the window nor hardly any.
    fn pinged(&self) -> u64 {
        (self.piece() as u64).clamp(self.size / 32, self.size / 8).max(PINGED)
    }

    fn arrived(&mut self, number: u64, now: Instant) {
        // An answer that was not asked for, or comes again, says nothing.
        let Ok(at) = self.pings.binary_search_by_key(&number, |ping| ping.behind) else { return };
        let Some(ping) = self.pings.drain(..=at).next_back() else { return };
        self.there = number;
        self.took(now.saturating_duration_since(ping.at), ping.alone, now);
        if let Some(round) = self.round.take_if(|round| round.ping <= number) {
            self.full(&round, now);
        }
    }

    /// A ping took so long.
    fn took(&mut self, took: Duration, alone: bool, now: Instant) {
        if self.base.is_none_or(|(least, _)| took <= least) {
            self.base = Some((took, now));
        }
        if alone && self.alone > 0 {
            let least = self.alone_least.map_or(took, |least| least.min(took));
            self.alone_least = Some(least);
            self.alone -= 1;
            if self.alone == 0 {
                self.base = Some((least, now));
            }
        }
    }

    /// All of a full window has arrived.
    fn full(&mut self, round: &Round, now: Instant) {
        let Some((base, measured)) = self.base else { return };
        let took = now.saturating_duration_since(round.at).max(Duration::from_micros(1));
        self.rates.push_front(round.bytes as f64 / took.as_secs_f64());
        self.rates.truncate(RATES);
        let rate = self.rate();
        let carried = |time: Duration| (rate * time.as_secs_f64()) as u64;
        let most = SHORT.max(carried(2 * base)).min(self.grant);
        let waited = took.saturating_sub(base);
        let size = if waited < QUEUE / 4 { u64::MAX } else { carried(base + QUEUE) };
        let size = size.min(self.size.saturating_mul(2)).clamp(LEAST.min(most), most);
        let age = now.saturating_duration_since(measured);
        let vain = size == LEAST && waited > 2 * QUEUE && age > STALE_AT_LEAST;
        if self.alone == 0 && (vain || (age > STALE && size < most)) {
            self.alone = ALONE;
            self.alone_least = None;
        }
        self.size = size;
    }

    /// Bytes a second that the link carries; 0 as long as nothing is known.
    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn piece(&self) -> usize {
        let rate = self.rate();
        if rate == 0.0 {
            return PIECE_FIRST;
        }
        ((rate * PIECE_TIME.as_secs_f64()) as usize).clamp(PIECE_MIN, PIECE)
    }

    fn room(&self) -> u64 {
        SHORT.max(2 * self.size).min(self.grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A link that carries so many bytes a second, and a way back that takes so long.
    struct Link {
        flow: Flow,
        now: Instant,
        rate: f64,
        back: Duration,
        /// When all that left is there.
        busy: Instant,
        answers: VecDeque<(Instant, u64)>,
        carried: u64,
    }

    impl Link {
        fn new(rate: f64, back: Duration) -> Link {
            let now = Instant::now();
            Link {
                flow: Flow::new(64 << 20),
                now,
                rate,
                back,
                busy: now,
                answers: VecDeque::new(),
                carried: 0,
            }
        }

        /// Bulk for so long. The longest that a small change would have waited for what was
        /// before it, and how much of the time the link was in use.
        fn carry(&mut self, time: Duration) -> (Duration, f64) {
            let (start, before) = (self.now, self.carried);
            let mut longest = Duration::ZERO;
            while self.now < start + time {
                while self.flow.is_open() {
                    let bytes = self.flow.piece() as u64;
                    let takes = Duration::from_secs_f64(bytes as f64 / self.rate);
                    self.busy = self.busy.max(self.now) + takes;
                    self.carried += bytes;
                    if let Some(ping) = self.flow.leaves(bytes, self.now) {
                        self.answers.push_back((self.busy + self.back, ping));
                    }
                }
                longest = longest.max(self.busy.saturating_duration_since(self.now));
                let (at, ping) = self.answers.pop_front().expect("closed for ever");
                self.now = at;
                self.flow.arrived(ping, at);
            }
            let due = self.rate * (self.now - start).as_secs_f64();
            (longest, (self.carried - before) as f64 / due)
        }
    }

    #[test]
    fn the_link_is_full_and_what_waits_is_little() {
        for (rate, back) in [
            (125_000.0, 20 * MS),
            (1_250_000.0, MS / 10),
            (1_250_000.0, MS),
            (1_250_000.0, 50 * MS),
            (1_250_000.0, 300 * MS),
            (12_500_000.0, 10 * MS),
            (12_500_000.0, 200 * MS),
            (125_000_000.0, 100 * MS),
            (600_000_000.0, MS / 10),
        ] {
            let mut link = Link::new(rate, back);
            let (longest, _) = link.carry(Duration::from_secs(5));
            // The first window takes its time, and the smallest.
            let time = |bytes| Duration::from_secs_f64(bytes as f64 / rate);
            let most = 60 * MS + time(FIRST) + back;
            assert!(longest < most, "{rate} {back:?}: at first {longest:?}");
            let (longest, used) = link.carry(Duration::from_secs(100));
            // After a pause all of the window leaves at once.
            assert!(longest < 50 * MS + time(LEAST) + back, "{rate} {back:?}: {longest:?}");
            assert!(used > 0.95, "{rate} {back:?}: {used} in use");
        }
    }

    #[test]
    fn a_link_that_changes_is_followed() {
        let mut link = Link::new(12_500_000.0, 10 * MS);
        link.carry(Duration::from_secs(5));
        link.rate /= 10.0;
        link.carry(Duration::from_secs(2));
        let (longest, used) = link.carry(Duration::from_secs(10));
        assert!(longest < 60 * MS && used > 0.95, "slower: {longest:?}, {used} in use");
        link.rate *= 100.0;
        link.carry(Duration::from_secs(2));
        let (longest, used) = link.carry(Duration::from_secs(10));
        assert!(longest < 60 * MS && used > 0.95, "faster: {longest:?}, {used} in use");
        link.back = 200 * MS;
        link.carry(Duration::from_secs(60));
        let (longest, used) = link.carry(Duration::from_secs(60));
        assert!(longest < 260 * MS && used > 0.9, "longer: {longest:?}, {used} in use");
        link.back = 5 * MS;
        link.carry(Duration::from_secs(60));
        let (longest, used) = link.carry(Duration::from_secs(60));
        assert!(longest < 60 * MS && used > 0.9, "shorter: {longest:?}, {used} in use");
    }

    #[test]
    fn a_pause_of_the_far_end_is_forgotten() {
        let mut link = Link::new(12_500_000.0, 10 * MS);
        link.carry(Duration::from_secs(5));
        let size = link.flow.size;
        for (at, _) in &mut link.answers {
            *at += Duration::from_secs(2);
        }
        link.busy += Duration::from_secs(2);
        link.carry(Duration::from_secs(3));
        assert!(link.flow.size > size / 2, "{} after {size}", link.flow.size);
    }

    #[test]
    fn answers_that_were_not_asked_for_say_nothing() {
        let now = Instant::now();
        let mut flow = Flow::new(1 << 20);
        let mut pings = Vec::new();
        while flow.is_open() {
            pings.extend(flow.leaves(10_000, now));
        }
        for number in [0, 1, 7, 9_999, u64::MAX] {
            flow.arrived(number, now);
            assert!(!flow.is_open());
        }
        // One that was lost is made good by the next.
        let last = *pings.last().expect("a ping");
        flow.arrived(last, now + MS);
        flow.arrived(pings[0], now + 2 * MS);
        flow.arrived(last, now + 2 * MS);
        assert!(flow.is_open() && flow.there == last);
    }

    #[test]
    fn small_changes_alone_ask_little() {
        let mut flow = Flow::new(1 << 20);
        let now = Instant::now();
        let asked = (0..100).filter_map(|_| {
            let ping = flow.leaves(1000, now)?;
            flow.arrived(ping, now + MS);
            Some(ping)
        });
        assert!(asked.count() <= 13);
    }
}
