//! The same line many times over: said some times, then counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One line is said so often in [`WINDOW`].
const MOST: u32 = 10;

const WINDOW: Duration = Duration::from_secs(60);

/// So many different lines are remembered; among more than these nothing is held back.
const KEPT: usize = 256;

/// Longer texts are not remembered.
const LONGEST: usize = 4096;

/// Lines of late, by category and text.
#[derive(Debug, Default)]
pub(super) struct Repeats(HashMap<(String, String), Seen>);

#[derive(Debug)]
struct Seen {
    since: Instant,
    said: u32,
    held: u64,
}

impl Repeats {
    /// May this line be said?
    pub(super) fn passes(&mut self, category: &str, text: &str, now: Instant) -> bool {
        if text.len() > LONGEST {
            return true;
        }
        let key = (category.to_owned(), text.to_owned());
        if let Some(seen) = self.0.get_mut(&key) {
            if seen.said < MOST {
                seen.said += 1;
                return true;
            }
            seen.held += 1;
            return false;
        }
        if self.0.len() < KEPT {
            self.0.insert(key, Seen { since: now, said: 1, held: 0 });
        }
        true
    }

    /// Forgets what was said long enough ago; the lines that were held back since, with how often.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(String, String)> {
        let mut due = Vec::new();
        self.0.retain(|(category, text), seen| {
            if now.saturating_duration_since(seen.since) < WINDOW {
                return true;
            }
            if seen.held > 0 {
                let first = text.split('\n').next().unwrap_or_default();
                due.push((category.clone(), format!("{first} ({} times more)", seen.held)));
            }
            false
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_held_back_after_ten_and_told_of_after_a_minute() {
        let mut repeats = Repeats::default();
        let start = Instant::now();
        let after = |s: u64| start + Duration::from_secs(s);
        let passed = (0..100).filter(|_| repeats.passes("Warn", "a\nb", after(1))).count();
        assert_eq!(passed, 10);
        assert!(
            repeats.passes("Normal", "a\nb", after(2)) && repeats.passes("Warn", "c", after(2))
        );
        assert_eq!(repeats.overdue(after(60)), []);
        let due = repeats.overdue(after(61));
        assert_eq!(due, [("Warn".to_owned(), "a (90 times more)".to_owned())]);
        assert!(repeats.passes("Warn", "a\nb", after(62)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        for n in 0..10_000 {
            assert!(repeats.passes("Debug", &n.to_string(), now));
        }
        let long = "x".repeat(LONGEST + 1);
        assert!((0..20).all(|_| repeats.passes("Debug", &long, now)));
        assert_eq!(repeats.0.len(), KEPT);
    }
}
