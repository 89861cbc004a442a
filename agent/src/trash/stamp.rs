//! What the directory of an hour is called: `2026-11-23T10`, in UTC.

/// Seconds of the time that has one name.
pub(super) const PERIOD: i64 = 3600;
const DAY: i64 = 86_400;

/// The name of the hour that this second since 1970 is in.
pub(super) fn of(second: i64) -> String {
    let second = second.max(0);
    let (year, month, day) = date(second / DAY);
    format!("{year:04}-{month:02}-{day:02}T{:02}", second % DAY / PERIOD)
}

/// The first second of the hour of this name, if it is one that we give.
pub(super) fn first_second(name: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(name).ok().filter(|text| text.len() == 13)?;
    let number = |at: std::ops::Range<usize>| text.get(at)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let second = days(year, month, day) * DAY + number(11..13)? * PERIOD;
    // Whatever is not written as we write it is not ours.
    (of(second) == text).then_some(second)
}

/// Days from 1970 to a day. Years begin in March, so that the odd day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + in_year
        - 719_468
}

/// The day that is so many days after the first of 1970.
fn date(day: i64) -> (i64, i64, i64) {
    // Close, and never too late.
    let mut year = 1970 + day / 366;
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days(year, month + 1, 1) <= day {
        month += 1;
    }
    (year, month, day - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hours_have_names() {
        for (second, name) in [
            (0, "1970-01-01T00"),
            (951_782_399, "2000-02-28T23"),
            (951_782_400, "2000-02-29T00"),
            (1_795_428_000, "2026-11-23T10"),
            (4_107_542_400, "2100-03-01T00"),
        ] {
            assert_eq!(of(second), name);
            assert_eq!(first_second(name.as_bytes()), Some(second / PERIOD * PERIOD));
        }
        for other in [
            "",
            "2026-11-23",
            "2026-11-23T24",
            "2026-02-30T10",
            "2026-13-01T10",
            "2026-11-23 10",
            "2026-11-23T1a",
            "2026-11-23T+1",
            "2026-11-23T10.1",
            "+026-11-23T10",
            "1969-12-31T23",
            "2026-11-2éT1",
        ] {
            assert_eq!(first_second(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_hour_comes_back(second in 0..250_000_000_000i64) {
            let name = of(second);
            prop_assert_eq!(first_second(name.as_bytes()), Some(second / PERIOD * PERIOD));
        }

        #[test]
        fn odd_names_never_panic(name in proptest::collection::vec(any::<u8>(), 0..16)) {
            let _ = first_second(&name);
        }
    }
}
