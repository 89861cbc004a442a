//! What rsync's exit codes mean.

use std::collections::BTreeMap;

use crate::error::Error;

/// What an exit code asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitMeaning {
    /// It did what it could.
    Ok,
    /// It may do better later.
    Again,
    /// It will not do better by itself: something is set wrongly.
    Die,
}

impl ExitMeaning {
    /// Reads a word of a configuration file.
    #[must_use]
    pub fn from_word(word: &str) -> Option<ExitMeaning> {
        match word {
            "ok" => Some(ExitMeaning::Ok),
            "again" => Some(ExitMeaning::Again),
            "die" => Some(ExitMeaning::Die),
            _ => None,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ExitMeaning::Ok => "ok",
            ExitMeaning::Again => "again",
            ExitMeaning::Die => "die",
        }
    }
}

/// A table of exit codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitCodes(BTreeMap<i32, ExitMeaning>);

/// rsync's own codes.
impl Default for ExitCodes {
    fn default() -> Self {
        let codes: [(ExitMeaning, &[i32]); 3] = [
            (ExitMeaning::Ok, &[0, 23, 24]),
            (ExitMeaning::Again, &[3, 5, 6, 10, 11, 12, 14, 20, 21, 22, 30, 35, 255]),
            (ExitMeaning::Die, &[1, 2, 4, 25]),
        ];
        let all = codes.iter().flat_map(|(meaning, codes)| codes.iter().map(|c| (*c, *meaning)));
        ExitCodes(all.collect())
    }
}

impl ExitCodes {
    /// rsync's table, and over it what a user says: a table that names one code leaves the others
    /// as they are.
    #[must_use]
    pub fn merged(over: impl IntoIterator<Item = (i32, ExitMeaning)>) -> ExitCodes {
        let mut codes = ExitCodes::default();
        codes.0.extend(over);
        codes
    }

    /// As [`ExitCodes::merged`], of the words of a configuration file.
    ///
    /// # Errors
    /// A word is none of the three.
    pub fn from_words<'a>(
        words: impl IntoIterator<Item = (i32, &'a str)>,
    ) -> Result<ExitCodes, Error> {
        let mut over = Vec::new();
        for (code, word) in words {
            let meaning = ExitMeaning::from_word(word).ok_or_else(|| {
                Error::failed(format!("exitcodes[{code}] is '{}'", word.escape_debug()))
                    .hint("it is one of 'ok', 'again' and 'die'")
            })?;
            over.push((code, meaning));
        }
        Ok(ExitCodes::merged(over))
    }

    /// All that is in the table.
    pub fn iter(&self) -> impl Iterator<Item = (i32, ExitMeaning)> {
        self.0.iter().map(|(code, meaning)| (*code, *meaning))
    }

    /// What a code means. One that nobody knows is no success.
    #[must_use]
    pub fn meaning(&self, code: i32) -> ExitMeaning {
        self.0.get(&code).copied().unwrap_or(ExitMeaning::Die)
    }

    /// Does this code say that some paths could not be brought over, and the others were?
    #[must_use]
    pub fn is_partial(code: i32) -> bool {
        matches!(code, 23 | 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_ones_own_leaves_the_other_codes_alone() {
        let codes = ExitCodes::from_words([(23, "again"), (77, "ok")]).unwrap();
        for (code, meaning) in [
            (0, ExitMeaning::Ok),
            (23, ExitMeaning::Again),
            (24, ExitMeaning::Ok),
            (77, ExitMeaning::Ok),
            (12, ExitMeaning::Again),
            (1, ExitMeaning::Die),
            (13, ExitMeaning::Die),
        ] {
            assert_eq!(codes.meaning(code), meaning, "{code}");
        }
        assert!(ExitCodes::from_words([(1, "perhaps")]).is_err());
        assert!(ExitCodes::is_partial(23) && !ExitCodes::is_partial(0));
    }
}
