//! `--bwlimit`: how much one link may carry, as an average.
//!
//! What has left is paid for by time, at the rate. Two accounts: *all*, on which everything that
//! leaves stands and by which bulk frames wait, and *urgent*, on which only urgent frames stand and
//! by which they wait. So a small change never waits for content of large files, many small changes
//! are limited as well, and bulk gets what they leave. A frame leaves whole once there is credit
//! for its first byte: the debt is paid behind it, and a small change after a rest leaves at once.

use std::num::NonZeroU64;
use std::time::Duration;

use lsync_protocol::frame::PIECE;
use tokio::time::Instant;

/// So much time's worth of bytes may leave in one burst, and makes one piece of content.
const BURST: Duration = Duration::from_millis(100);
/// Smaller pieces are not worth their frames.
const PIECE_MIN: u64 = 4 * 1024;

/// The most bytes of content in one frame at this rate: a frame cannot be interrupted, and small
/// changes leave between frames.
pub(super) fn piece(rate: Option<NonZeroU64>) -> usize {
    match rate {
        None => PIECE,
        // At most 128 KiB, whatever the rate.
        Some(rate) => (rate.get() / 10).clamp(PIECE_MIN, PIECE as u64) as usize,
    }
}

/// What has left and is not yet paid for.
#[derive(Debug)]
struct Account {
    /// Bytes a second.
    rate: NonZeroU64,
    /// How far time may be behind what has left.
    burst: Duration,
    /// When all of it is paid.
    paid: Option<Instant>,
}

impl Account {
    fn new(rate: NonZeroU64) -> Account {
        let burst = BURST.max(time(PIECE_MIN, rate));
        Account { rate, burst, paid: None }
    }

    /// How long nothing may leave.
    fn wait(&self, now: Instant) -> Duration {
        let debt = self.paid.map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now));
        debt.saturating_sub(self.burst)
    }

    /// So many bytes leave.
    fn charge(&mut self, now: Instant, bytes: u64) {
        let from = self.paid.map_or(now, |paid| paid.max(now));
        self.paid = from.checked_add(time(bytes, self.rate)).or(Some(from));
    }
}

/// How long so many bytes take.
fn time(bytes: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// What the writer of a link asks before it writes; without a limit it never waits.
#[derive(Debug)]
pub(super) struct Limit(Option<(Account, Account)>);

impl Limit {
    /// A limit of so many bytes a second.
    pub(super) fn new(rate: Option<NonZeroU64>) -> Limit {
        Limit(rate.map(|rate| (Account::new(rate), Account::new(rate))))
    }

    /// How long no urgent frame may leave.
    pub(super) fn urgent(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |(_, urgent)| urgent.wait(Instant::now()))
    }

    /// How long no bulk frame may leave.
    pub(super) fn bulk(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |(all, _)| all.wait(Instant::now()))
    }

    /// So many bytes of urgent frames leave.
    pub(super) fn charge_urgent(&mut self, bytes: usize) {
        if let Some((all, urgent)) = &mut self.0 {
            let now = Instant::now();
            all.charge(now, bytes as u64);
            urgent.charge(now, bytes as u64);
        }
    }

    /// So many bytes of bulk frames leave.
    pub(super) fn charge_bulk(&mut self, bytes: usize) {
        if let Some((all, _)) = &mut self.0 {
            all.charge(Instant::now(), bytes as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rate(bytes: u64) -> NonZeroU64 {
        NonZeroU64::new(bytes).unwrap()
    }

    #[test]
    fn what_leaves_is_paid_by_time() {
        let start = Instant::now();
        let mut account = Account::new(rate(100_000));
        // At this millisecond so much leaves, and then nothing may for so many milliseconds.
        let table = [
            (0, 0, 0),
            // The burst: 100 ms, to the byte.
            (0, 10_000, 0),
            (0, 1, 1),
            (0, 9_999, 100),
            // Half of it is paid.
            (50, 0, 50),
            (100, 0, 0),
            // A large one leaves whole and is paid behind it.
            (100, 100_000, 1_000),
            (1_100, 0, 0),
            // A long rest saves nothing up but the burst.
            (60_000, 10_000, 0),
            (60_000, 20_000, 200),
            (60_100, 5_000, 150),
        ];
        for (at, bytes, wait) in table {
            let now = start + Duration::from_millis(at);
            account.charge(now, bytes);
            // Rounded up, as a timer would.
            let waits = account.wait(now).as_micros().div_ceil(1000);
            assert_eq!(waits, wait, "at {at} ms, {bytes} bytes");
        }
    }

    #[test]
    fn the_average_is_the_rate() {
        for (bytes_a_second, frame) in
            [(1024, 300), (1024, 9000), (250_000, 25_000), (1 << 30, 131_072)]
        {
            let start = Instant::now();
            let mut account = Account::new(rate(bytes_a_second));
            let (mut now, mut left) = (start, 0);
            while now - start < Duration::from_secs(100) {
                let wait = account.wait(now);
                if wait.is_zero() {
                    account.charge(now, frame);
                    left += frame;
                } else {
                    // A timer that comes late.
                    now += wait + Duration::from_micros(1300);
                }
            }
            let due = bytes_a_second * 100;
            let burst = (bytes_a_second / 10).max(PIECE_MIN) + frame;
            let slack = bytes_a_second / 100;
            assert!(left <= due + burst + slack, "{bytes_a_second}: {left} over {due}");
            assert!(left + burst + slack >= due, "{bytes_a_second}: {left} under {due}");
        }
    }

    #[test]
    fn pieces_are_a_tenth_of_a_second() {
        for (rate, bytes) in [
            (None, PIECE),
            (NonZeroU64::new(1), 4096),
            (NonZeroU64::new(1024), 4096),
            (NonZeroU64::new(100 * 1024), 10_240),
            (NonZeroU64::new(1 << 30), PIECE),
            (Some(NonZeroU64::MAX), PIECE),
        ] {
            assert_eq!(piece(rate), bytes, "{rate:?}");
        }
    }

    #[test]
    fn no_number_is_too_large() {
        for bytes_a_second in [1, u64::MAX] {
            let mut account = Account::new(rate(bytes_a_second));
            let now = Instant::now();
            for bytes in [u64::MAX, u64::MAX, 0] {
                account.charge(now, bytes);
                account.wait(now);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_frames_wait_for_their_like_and_bulk_for_all() {
        let mut limit = Limit::new(Some(rate(100_000)));
        let ms = Duration::from_millis;
        limit.charge_bulk(110_000);
        assert_eq!((limit.urgent(), limit.bulk()), (ms(0), ms(1000)));
        limit.charge_urgent(30_000);
        assert_eq!((limit.urgent(), limit.bulk()), (ms(200), ms(1300)));
        tokio::time::advance(ms(1250)).await;
        assert_eq!((limit.urgent(), limit.bulk()), (ms(0), ms(50)));
        let mut none = Limit::new(None);
        none.charge_bulk(usize::MAX);
        none.charge_urgent(usize::MAX);
        assert_eq!((none.urgent(), none.bulk()), (ms(0), ms(0)));
    }
}
