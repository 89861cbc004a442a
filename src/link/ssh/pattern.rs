//! Patterns of ssh's files: `*`, `?`, comma separated lists, `!` before what must not match.

/// Does `text` match one pattern, in which `*` stands for any run of characters and `?` for one?
///
/// Takes time linear in both: the last star is the only place to come back to.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// Does `text` match a list of patterns: at least one of them, and none that is negated?
#[must_use]
pub fn matches_any<'a>(patterns: impl IntoIterator<Item = &'a str>, text: &str) -> bool {
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(not) if matches(not, text) => return false,
            Some(_) => {}
            None => found |= matches(pattern, text),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_question_marks_and_negation() {
        let table = [
            ("*", "", true),
            ("*", "any", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*.example.org", "www.example.org", true),
            ("*.example.org", "example.org", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, text, want) in table {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        assert!(matches_any(["*.org", "!bad.org"], "good.org"));
        assert!(!matches_any(["*.org", "!bad.org"], "bad.org"));
        assert!(!matches_any(["!bad.org"], "good.org"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(200);
        assert!(!matches(&pattern, &"a".repeat(5000).replace("a", "ab")[..9999].replace('a', "b")));
    }
}
