//! Words that are nearly another one: for "did you mean".

/// The word that was probably meant: at most two letters away, case aside, and not a short word
/// that is near to everything.
#[must_use]
pub fn nearest<'a>(word: &[u8], known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() <= 2 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    known
        .into_iter()
        .map(|near| (distance(&lower, near.to_ascii_lowercase().as_bytes()), near))
        .filter(|(distance, _)| *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, near)| near)
}

/// How many letters must be put in, taken out or exchanged to make one word of the other.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len() > 32 {
        return a.len();
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_close_or_far() {
        for (a, b, far) in
            [("push", "push", 0), ("puhs", "push", 2), ("pus", "push", 1), ("", "push", 4)]
        {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), far, "{a}");
        }
        let known = ["logfile", "logident", "statusFile"];
        assert_eq!(nearest(b"logfil", known), Some("logfile"));
        assert_eq!(nearest(b"STATUSFILE", known), Some("statusFile"));
        assert_eq!(nearest(b"lo", known), None);
        assert_eq!(nearest(b"target", known), None);
        assert_eq!(nearest(&[b'x'; 100_000], known), None);
    }
}
