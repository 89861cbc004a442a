//! A large file of text: the log of a web server that nobody runs. What is said often in a real one
//! is said often here (a few browsers, some hundred visitors, pages of very different fame), and what
//! is new in each line is new here (times, sizes, numbers of requests), so that it compresses as a real one.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::tree::Random;

const BROWSERS: [&str; 6] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4.1 Safari/605.1.15",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "curl/8.8.0",
];
const STATUS: [u32; 8] = [200, 200, 200, 200, 200, 304, 302, 404];
const SYLLABLES: [&str; 16] = [
    "an", "ber", "con", "de", "er", "fil", "ing", "ka", "lo", "mar", "no", "pre", "re", "sta",
    "ter", "un",
];

/// One of so many, the first ones far more often than the last.
fn famous(random: &mut Random, of: usize) -> usize {
    let spread = random.below(1 << 20) as f64 / f64::from(1 << 20);
    ((of as f64).powf(spread) as usize).min(of) - 1
}

fn word(random: &mut Random) -> String {
    (0..2 + random.below(3)).map(|_| SYLLABLES[random.below(16) as usize]).collect()
}

/// Writes it, so many bytes long.
pub(crate) fn log(root: &Path, bytes: u64) {
    let mut random = Random(6);
    let words: Vec<String> = (0..4000).map(|_| word(&mut random)).collect();
    let visitors: Vec<String> = (0..3000)
        .map(|_| {
            let mut part = || random.below(254) + 1;
            format!("{}.{}.{}.{}", part(), part(), part(), part())
        })
        .collect();
    let mut file = fs::File::create(root.join("large")).unwrap();
    let (mut left, mut milliseconds) = (bytes, 0);
    let mut piece = Vec::new();
    while left > 0 {
        piece.clear();
        while piece.len() < 1 << 20 {
            milliseconds += random.below(40);
            let seconds = milliseconds / 1000;
            let (day, hour) = (1 + seconds / 86_400 % 28, seconds / 3600 % 24);
            let (minute, second) = (seconds / 60 % 60, seconds % 60);
            let visitor = famous(&mut random, visitors.len());
            let browser = BROWSERS[visitor % BROWSERS.len()];
            let status = STATUS[random.below(8) as usize];
            let size = 200 + random.below(60_000);
            let request = random.next() as u32;
            let mut page = || &words[famous(&mut random, words.len())];
            writeln!(
                piece,
                "{} - - [{day:02}/Nov/2026:{hour:02}:{minute:02}:{second:02} +0000] \
                 \"GET /{}/{}/{} HTTP/1.1\" {status} {size} \"https://www.example.org/{}\" \
                 \"{browser}\" {request:08x}",
                visitors[visitor],
                page(),
                page(),
                page(),
                page(),
            )
            .unwrap();
        }
        piece.truncate(left.min(piece.len() as u64) as usize);
        file.write_all(&piece).unwrap();
        left -= piece.len() as u64;
    }
}
