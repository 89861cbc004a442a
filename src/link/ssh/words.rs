//! One line of an ssh configuration, split into its words.

/// Splits a line into words: separated by blanks, the first also by `=`, `"…"` and `'…'` keep
/// blanks, a backslash keeps a quote, a blank or a backslash, `#` before a word begins a comment.
///
/// # Errors
/// What is wrong with the line, in words.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut chars = line.trim().chars().peekable();
    loop {
        while chars.peek().is_some_and(|c| c.is_whitespace()) {
            chars.next();
        }
        // `Port=22`, `Port = 22`: one sign between the keyword and its first argument.
        if words.len() == 1 && chars.peek() == Some(&'=') {
            chars.next();
            while chars.peek().is_some_and(|c| c.is_whitespace()) {
                chars.next();
            }
        }
        match chars.peek() {
            None | Some('#') => return Ok(words),
            Some(_) => {}
        }
        let mut word = String::new();
        let mut quote = None;
        while let Some(&c) = chars.peek() {
            match (c, quote) {
                (c, Some(q)) if c == q => quote = None,
                ('"' | '\'', None) => quote = Some(c),
                (c, None) if c.is_whitespace() => break,
                ('=', None) if words.is_empty() => break,
                ('\\', quote) => {
                    chars.next();
                    match chars.peek() {
                        Some(&n @ ('"' | '\'' | '\\')) => word.push(n),
                        Some(' ') if quote.is_none() => word.push(' '),
                        Some(&n) => word.extend(['\\', n]),
                        None => {
                            word.push('\\');
                            break;
                        }
                    }
                }
                (c, _) => word.push(c),
            }
            chars.next();
        }
        if quote.is_some() {
            return Err("a quote is not closed");
        }
        words.push(word);
    }
}

/// What follows the keyword, as it stands: for `ProxyCommand`, which is a shell's text.
#[must_use]
pub fn rest(line: &str) -> &str {
    let line = line.trim();
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let rest = line[end..].trim_start();
    rest.strip_prefix('=').unwrap_or(rest).trim_start()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn quotes_signs_and_comments() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  # only this", &[]),
            ("Host a b", &["Host", "a", "b"]),
            ("Port=22", &["Port", "22"]),
            ("Port = 22 # ssh's", &["Port", "22"]),
            ("IdentityFile \"~/my keys/id\"", &["IdentityFile", "~/my keys/id"]),
            ("IdentityFile ~/a\\ b", &["IdentityFile", "~/a b"]),
            ("Host \"\"", &["Host", ""]),
            ("SetEnv A=b", &["SetEnv", "A=b"]),
        ];
        for (line, want) in table {
            assert_eq!(split(line).unwrap(), *want, "{line}");
        }
        assert!(split("Host \"a").is_err());
        assert_eq!(rest(" ProxyCommand = nc \"%h\" %p # no comment"), "nc \"%h\" %p # no comment");
        assert_eq!(rest("ProxyCommand"), "");
    }
}
