//! Values as people write them: sizes, seconds, limits, command lines.
//!
//! The errors are what is wrong with the value, to stand behind the option's name.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use super::{Compress, MaxDelete};

/// A duration of at most this many seconds is believed: about thirty years.
const MAX_SECONDS: f64 = 1e9;

/// Seconds, fractions allowed: `0`, `2.5`, `.1`.
///
/// # Errors
/// Says what is expected.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(value) if plain && digits > 0 && value <= MAX_SECONDS => {
            Duration::try_from_secs_f64(value).map_err(|e| e.to_string())
        }
        _ => Err("not a number of seconds, such as 10 or 0.5".to_owned()),
    }
}

/// A time that something is kept: seconds, or with `m` (minutes), `h`, `d` or `w` behind them; in whole
/// seconds, rounded up.
///
/// # Errors
/// Says what is expected. Nothing is kept for no time.
pub fn age(text: &str) -> Result<u64, String> {
    let table = [('s', 1.0), ('m', 60.0), ('h', 3600.0), ('d', 86_400.0), ('w', 604_800.0)];
    let unit =
        table.into_iter().find_map(|(letter, unit)| Some((text.strip_suffix(letter)?, unit)));
    let (number, unit) = unit.unwrap_or((text, 1.0));
    let number = seconds(number)
        .map_err(|_| "not a time such as 30d, 12h, 2w, or a number of seconds".to_owned())?;
    match (number.as_secs_f64() * unit).ceil() {
        0.0 => Err("nothing is kept for no time".to_owned()),
        age if age <= MAX_SECONDS => Ok(age as u64),
        _ => Err("more than thirty years; for ever is without it".to_owned()),
    }
}

/// A size as rsync's `--max-size` takes it: bytes, or with `K`, `M`, `G`, `T`, `P` (1024), `KB`,
/// `MB` … (1000), `KiB` … (1024); fractions, and `+1` or `-1` at the end.
///
/// # Errors
/// Says what is expected.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, b'b').ok_or_else(|| "not a size, such as 4096, 10M, 1.5GB or 2GiB".to_owned())
}

/// A rate as rsync's `--bwlimit` takes it, in bytes a second: without a suffix the number is of KiB,
/// with one it is read as [`size`] reads it (`B` is one byte); rounded to the nearest KiB. `0` is
/// `None`: no limit.
///
/// # Errors
/// Says what is expected. Less than 512 bytes a second is an error as well: rounded, it would be no
/// limit.
pub fn rate(text: &str) -> Result<Option<NonZeroU64>, String> {
    let bytes = scaled(text, b'k').ok_or_else(|| {
        "not a rate, such as 500 (KiB a second), 1.5M, or 0 for no limit".to_owned()
    })?;
    let rounded = (bytes + 512) / 1024 * 1024;
    // So little that it is no whole byte is not nothing.
    if rounded == 0 && text.contains(|c: char| ('1'..='9').contains(&c)) {
        return Err("less than 512 bytes a second; no limit is 0".to_owned());
    }
    Ok(NonZeroU64::new(rounded))
}

/// `auto`, `off`, or a level of zstd.
///
/// # Errors
/// Says what is expected.
pub fn compress(text: &str) -> Result<Compress, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match (text, text.parse()) {
        ("auto", _) => Ok(Compress::Auto),
        ("off", _) => Ok(Compress::Off),
        (_, Ok(level)) if digits && (1..=22).contains(&level) => Ok(Compress::Level(level)),
        _ => Err("not auto, off or a level from 1 (fast) to 22 (small)".to_owned()),
    }
}

/// A number with a suffix, or with `unit`'s power of 1024 if there is none.
fn scaled(text: &str, unit: u8) -> Option<u64> {
    let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_ends);
    let number: f64 = number.parse().ok()?;
    let lower = suffix.to_ascii_lowercase();
    let (suffix, by_one) = match lower.as_str() {
        s if s.ends_with("+1") => (&s[..s.len() - 2], 1.0),
        s if s.ends_with("-1") => (&s[..s.len() - 2], -1.0),
        s => (s, 0.0),
    };
    let (letter, base) = match suffix.as_bytes() {
        [] => (unit, 1024.0),
        [b'b'] => (b'b', 1.0),
        [letter] | [letter, b'i', b'b'] => (*letter, 1024.0),
        [letter, b'b'] => (*letter, 1000.0),
        _ => return None,
    };
    let power = b"bkmgtp".iter().position(|&l| l == letter)?;
    let value = (number * f64::powi(base, i32::try_from(power).unwrap_or(0))).floor() + by_one;
    // Beyond 2^63 no file is; and what is not a number is not below it.
    (0.0..9.2e18).contains(&value).then_some(value as u64)
}

/// `N` or `P%`.
///
/// # Errors
/// Says what is expected.
pub fn max_delete(text: &str) -> Result<MaxDelete, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let value = Some(number)
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|n| n.parse::<u64>().ok());
    match value {
        Some(names) if number.len() == text.len() => Ok(MaxDelete::Names(names)),
        Some(percent) => match u8::try_from(percent) {
            Ok(percent) if percent <= 100 => Ok(MaxDelete::Percent(percent)),
            _ => Err("not a percentage from 0% to 100%".to_owned()),
        },
        None => Err("not a number of names, such as 1000, or a percentage, such as 10%".to_owned()),
    }
}

/// Splits a command line into words as a shell would: blanks part words, `'…'` and `"…"` keep
/// them together, a backslash takes the next character as it is. Nothing is expanded.
///
/// # Errors
/// Says which quote is not closed, or that there is no word.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a ' is not closed".to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some('\n') => {}
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a \" is not closed".to_owned()),
                        },
                        Some(c) => word.push(c),
                        None => return Err("a \" is not closed".to_owned()),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("nothing follows the last \\".to_owned()),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err("no program in it".to_owned()),
    }
}

/// Where something listens: `PORT` or `:PORT` of this host alone, or `ADDRESS:PORT`.
///
/// # Errors
/// In words, why it is none.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        let port = port.parse().map_err(|_| "not a port up to 65535".to_owned())?;
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| "neither PORT nor ADDRESS:PORT".to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn who_gives_a_port_alone_means_this_host_alone() {
        for (text, address) in [
            ("9000", Ok("127.0.0.1:9000")),
            (":9000", Ok("127.0.0.1:9000")),
            ("0.0.0.0:80", Ok("0.0.0.0:80")),
            ("[::1]:80", Ok("[::1]:80")),
            ("70000", Err("not a port up to 65535")),
            ("localhost:80", Err("neither PORT nor ADDRESS:PORT")),
            ("", Err("neither PORT nor ADDRESS:PORT")),
        ] {
            let expected = address.map(|a| a.parse().unwrap()).map_err(str::to_owned);
            assert_eq!(listen(text), expected, "{text}");
        }
    }

    use super::*;

    #[test]
    fn seconds_may_have_fractions() {
        for (text, ms) in [("0", 0), ("1", 1000), ("0.25", 250), (".5", 500), ("2.", 2000)] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", ".", "-1", "+1", "1e3", "inf", "NaN", "1s", "1 ", "0x1", "1.2.3", "9999999999"]
        {
            let error = seconds(text).unwrap_err();
            assert_eq!(error, "not a number of seconds, such as 10 or 0.5", "{text}");
        }
    }

    #[test]
    fn ages_have_units() {
        let table =
            [("30d", 2_592_000), ("12h", 43_200), ("2w", 1_209_600), ("90", 90), ("1.5m", 90)];
        for (text, seconds) in table.into_iter().chain([("7s", 7), (".1", 1)]) {
            assert_eq!(age(text), Ok(seconds), "{text}");
        }
        for text in ["", "d", "1dd", "1 d", "-1d", "1y", "1D", "d1", "1e3", "inf", "1dh"] {
            let error = age(text).unwrap_err();
            assert_eq!(error, "not a time such as 30d, 12h, 2w, or a number of seconds", "{text}");
        }
        assert_eq!(age("0d").unwrap_err(), "nothing is kept for no time");
        assert_eq!(age("99999w").unwrap_err(), "more than thirty years; for ever is without it");
    }

    #[test]
    fn sizes_are_rsyncs() {
        let table = [
            ("0", 0),
            ("1", 1),
            ("1b", 1),
            ("1k", 1024),
            ("1K", 1024),
            ("1KB", 1000),
            ("1KiB", 1024),
            ("1.5m", 1_572_864),
            ("1.5mb", 1_500_000),
            ("1.5mb-1", 1_499_999),
            ("2g+1", 2_147_483_649),
            ("1T", 1 << 40),
            ("1P", 1 << 50),
            ("10+1", 11),
        ];
        for (text, bytes) in table {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "k", "-1", "1x", "1kk", "1k2", "1 k", "0-1", "1k+2", "1.2.3", "99999P", "1é", "ib"]
        {
            assert_eq!(
                size(text),
                Err("not a size, such as 4096, 10M, 1.5GB or 2GiB".to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn rates_are_rsyncs() {
        // In KiB.
        let table = [
            ("0", 0),
            ("0k", 0),
            ("0.0", 0),
            ("1", 1),
            ("100", 100),
            ("1.5", 2),
            ("1.4", 1),
            (".5", 1),
            ("10+1", 10),
            ("10-1", 10),
            ("512b", 1),
            ("1535B", 1),
            ("1536b", 2),
            ("1K", 1),
            ("1KB", 1),
            ("100KB", 98),
            ("100KiB", 100),
            ("1.5m", 1536),
            ("1mb", 977),
            ("2g", 2 << 20),
            ("1T", 1 << 30),
        ];
        for (text, kib) in table {
            assert_eq!(rate(text), Ok(NonZeroU64::new(kib * 1024)), "{text}");
        }
        for text in ["511b", "1b", "0.4", "0.0001", "0+1"] {
            let little = "less than 512 bytes a second; no limit is 0";
            assert_eq!(rate(text), Err(little.to_owned()), "{text}");
        }
        for text in ["", "k", "-1", "+1", "1x", "1e3", "10k+2", "0-1", "1 k", "99999P", "."] {
            let wrong = "not a rate, such as 500 (KiB a second), 1.5M, or 0 for no limit";
            assert_eq!(rate(text), Err(wrong.to_owned()), "{text}");
        }
    }

    #[test]
    fn compression_is_auto_off_or_a_level() {
        let table = [
            ("auto", Compress::Auto),
            ("off", Compress::Off),
            ("1", Compress::Level(1)),
            ("9", Compress::Level(9)),
            ("022", Compress::Level(22)),
        ];
        for (text, how) in table {
            assert_eq!(compress(text), Ok(how), "{text}");
        }
        for text in ["", "0", "23", "-1", "+1", "1.5", "yes", "Auto", "zstd", "99999999999"] {
            let wrong = "not auto, off or a level from 1 (fast) to 22 (small)";
            assert_eq!(compress(text), Err(wrong.to_owned()), "{text}");
        }
    }

    #[test]
    fn limits_are_names_or_percent() {
        assert_eq!(max_delete("1000"), Ok(MaxDelete::Names(1000)));
        assert_eq!(max_delete("0"), Ok(MaxDelete::Names(0)));
        assert_eq!(max_delete("10%"), Ok(MaxDelete::Percent(10)));
        assert_eq!(max_delete("101%"), Err("not a percentage from 0% to 100%".to_owned()));
        for text in ["", "%", "-1", "+5", "1.5", "10 %", "99999999999999999999"] {
            let error = max_delete(text).unwrap_err();
            assert!(error.starts_with("not a number of names"), "{text}: {error}");
        }
    }

    #[test]
    fn command_lines_part_as_in_a_shell() {
        let table: &[(&str, &[&str])] = &[
            ("ssh", &["ssh"]),
            (" ssh  -p 22\t-v ", &["ssh", "-p", "22", "-v"]),
            ("'a b' c", &["a b", "c"]),
            ("a'b c'd", &["ab cd"]),
            ("\"a 'b' \\\" \\x\"", &["a 'b' \" \\x"]),
            ("a\\ b '' \"\"", &["a b", "", ""]),
            ("ssh -o 'ProxyCommand nc %h %p'", &["ssh", "-o", "ProxyCommand nc %h %p"]),
            ("a $HOME *", &["a", "$HOME", "*"]),
        ];
        for (text, expected) in table {
            assert_eq!(words(text).unwrap(), *expected, "{text}");
        }
        for (text, error) in [
            ("", "no program in it"),
            ("  ", "no program in it"),
            ("'' x", "no program in it"),
            ("a 'b", "a ' is not closed"),
            ("a \"b", "a \" is not closed"),
            ("a \"b\\", "a \" is not closed"),
            ("a\\", "nothing follows the last \\"),
        ] {
            assert_eq!(words(text), Err(error.to_owned()), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,12}", likely in "[0-9.kMgib+%'\"\\\\ -]{0,12}") {
            for text in [&text, &likely] {
                let _ = (seconds(text), size(text), max_delete(text), rate(text), words(text));
                let _ = compress(text);
            }
        }
    }
}
