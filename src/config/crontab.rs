//! Times as crontabs write them, for Lsyncd 2's `crontab = { … }`: `second minute hour day month
//! weekday`, by the clock on the wall.
//!
//! Where both days are restricted either will do, as cron has it. A fixed time that the clock leaps
//! over happens right after the leap, and one that comes twice happens once.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use lsync_protocol::path::Escaped;

use crate::error::{Error, Result};

/// The fields, in order.
const FIELDS: [&str; 6] = ["second", "minute", "hour", "day of month", "month", "day of week"];

/// All specs of one sync.
#[derive(Clone, Default)]
pub struct Crontab(Vec<Cron>);

/// The specs alone: a parsed one has thousands of years in it.
impl fmt::Debug for Crontab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|cron| cron.as_str())).finish()
    }
}

impl Crontab {
    /// Reads specs such as `0 30 3 * * MON-FRI`.
    ///
    /// # Errors
    /// Which spec is wrong, and what with it.
    pub fn parse<'a>(specs: impl IntoIterator<Item = &'a str>) -> Result<Crontab> {
        specs.into_iter().map(spec).collect::<Result<_>>().map(Crontab)
    }

    /// The next time after `after`, in its zone.
    #[must_use]
    pub fn next(&self, after: &Zoned) -> Option<Zoned> {
        self.0.iter().filter_map(|cron| cron.find_next_occurrence(after, false).ok()).min()
    }
}

fn spec(text: &str) -> Result<Cron> {
    let wrong = |cause: String| {
        Error::failed(format!("bad crontab '{}'", Escaped(text.as_bytes()))).because(cause).hint(
            format!("its fields are {}: '0 30 3 * * *' is half past three", FIELDS.join(", ")),
        )
    };
    let fields = text.split_whitespace().count();
    if fields != FIELDS.len() {
        return Err(wrong(format!("it has {fields} fields and not 6")));
    }
    let parser = CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).build();
    // One field at a time first: then it is known which one is wrong.
    for (at, field) in text.split_whitespace().enumerate() {
        let mut alone = ["*"; FIELDS.len()];
        alone[at] = field;
        let has_gap = field.split(',').any(str::is_empty);
        if has_gap || parser.parse(&alone.join(" ")).is_err() {
            let field = Escaped(field.as_bytes());
            return Err(wrong(format!("'{field}' is no {}", FIELDS[at])));
        }
    }
    let cron = parser.parse(text).map_err(|e| wrong(e.to_string()))?;
    // The thirtieth of February: any start finds the others within a few years.
    let start = jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
    match cron.find_next_occurrence(&start, false) {
        Ok(_) => Ok(cron),
        Err(_) => Err(wrong("there is no such day".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time in Berlin, summer or winter by itself.
    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    fn at(text: &str) -> Zoned {
        let zone = jiff::tz::TimeZone::posix(BERLIN).unwrap();
        text.parse::<jiff::civil::DateTime>().unwrap().to_zoned(zone).unwrap()
    }

    #[test]
    fn the_next_times_are_crons() {
        let table: &[(&[&str], &str, &[&str])] = &[
            (
                &["* * * * * *"],
                "2026-11-22T08:00:00",
                &["2026-11-22T08:00:01", "2026-11-22T08:00:02"],
            ),
            (
                &["*/10 * * * * *"],
                "2026-11-22T08:00:33",
                &["2026-11-22T08:00:40", "2026-11-22T08:00:50", "2026-11-22T08:01:00"],
            ),
            (
                &["0 0 3 * * *"],
                "2026-11-22T08:00:00",
                &["2026-11-23T03:00:00", "2026-11-24T03:00:00"],
            ),
            (&["0 0 3 * * *"], "2026-11-22T03:00:00", &["2026-11-23T03:00:00"]),
            (
                &["5 1-3,10 23 * * *"],
                "2026-12-31T23:02:30",
                &["2026-12-31T23:03:05", "2026-12-31T23:10:05", "2027-01-01T23:01:05"],
            ),
            (
                &["0 0 0 * JAN,dec SUN"],
                "2026-12-21T00:00:00",
                &["2026-12-27T00:00:00", "2027-01-03T00:00:00"],
            ),
            (
                &["0 0 0 29 FEB *"],
                "2026-01-01T00:00:00",
                &["2028-02-29T00:00:00", "2032-02-29T00:00:00"],
            ),
            // Either day will do if both are restricted.
            (
                &["0 0 12 13 * FRI"],
                "2026-11-01T00:00:00",
                &[
                    "2026-11-06T12:00:00",
                    "2026-11-13T12:00:00",
                    "2026-11-20T12:00:00",
                    "2026-11-27T12:00:00",
                    "2026-12-04T12:00:00",
                    "2026-12-11T12:00:00",
                    "2026-12-13T12:00:00",
                ],
            ),
            (
                &["0 0 4 * * MON-FRI", "0 0 2 * * 0,6", "0 0 2 * * 7"],
                "2026-11-20T03:00:00",
                &[
                    "2026-11-20T04:00:00",
                    "2026-11-21T02:00:00",
                    "2026-11-22T02:00:00",
                    "2026-11-23T04:00:00",
                ],
            ),
            // The clock leaps from two to three: right after, once.
            (
                &["0 30 2 * * *"],
                "2026-03-28T12:00:00",
                &["2026-03-29T03:00:00", "2026-03-30T02:30:00"],
            ),
            (
                &["0 0 0 * * *"],
                "2026-03-28T12:00:00",
                &["2026-03-29T00:00:00", "2026-03-30T00:00:00"],
            ),
        ];
        for (specs, start, expected) in table {
            let crontab = Crontab::parse(specs.iter().copied()).unwrap();
            let mut now = at(start);
            for expected in *expected {
                now = crontab.next(&now).unwrap();
                assert_eq!(now.datetime().to_string(), *expected, "{specs:?}");
            }
        }
        assert_eq!(Crontab::default().next(&at("2026-11-22T08:00:00")), None);
    }

    #[test]
    fn what_comes_twice_happens_once_and_what_goes_on_goes_on() {
        let daily = Crontab::parse(["0 30 2 * * *"]).unwrap();
        let first = daily.next(&at("2026-10-24T12:00:00")).unwrap();
        assert_eq!(first.datetime().to_string(), "2026-10-25T02:30:00");
        let second = daily.next(&first).unwrap();
        assert_eq!(second.datetime().to_string(), "2026-10-26T02:30:00");
        // Every quarter of an hour is one, in the hour that comes twice as well.
        let quarters = Crontab::parse(["0 */15 * * * *"]).unwrap();
        let mut now = at("2026-10-25T00:00:00");
        for _ in 0..40 {
            let next = quarters.next(&now).unwrap();
            assert_eq!(next.timestamp().as_second() - now.timestamp().as_second(), 900);
            now = next;
        }
        assert_eq!(now.datetime().to_string(), "2026-10-25T09:00:00");
    }

    #[test]
    fn what_is_wrong_names_the_field() {
        let table = [
            ("* * * * *", "it has 5 fields and not 6"),
            ("", "it has 0 fields and not 6"),
            ("* * * * * * *", "it has 7 fields and not 6"),
            ("@daily", "it has 1 fields and not 6"),
            ("60 * * * * *", "'60' is no second"),
            ("* 5-70 * * * *", "'5-70' is no minute"),
            ("* * 24 * * *", "'24' is no hour"),
            ("* * * 0 * *", "'0' is no day of month"),
            ("* * * * FOO *", "'FOO' is no month"),
            ("* * * * * 8", "'8' is no day of week"),
            ("*/0 * * * * *", "'*/0' is no second"),
            ("1,,2 * * * * *", "'1,,2' is no second"),
            ("-1 * * * * *", "'-1' is no second"),
            ("0 0 0 30 2 *", "there is no such day"),
        ];
        for (text, cause) in table {
            let error = Crontab::parse(["0 0 3 * * *", text]).expect_err(text);
            assert_eq!(error.to_string(), format!("bad crontab '{text}': {cause}"));
            assert!(error.hint_text().unwrap().starts_with("its fields are second, minute"));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9*/,LW#?+A-Z-]{0,4}( [0-9*/,LW#?+A-Z-]{1,4}){5}") {
            if let Ok(crontab) = Crontab::parse([text.as_str()]) {
                let now = at("2026-11-22T08:00:00");
                proptest::prop_assert!(crontab.next(&now).is_none_or(|next| next > now));
            }
        }
    }
}
