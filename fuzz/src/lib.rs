//! What is fuzzed: whoever's bytes reach us, each by a function that takes them and checks what must
//! hold whatever they are. The programs in `fuzz_targets` only hand them over; the test here gives
//! every function what is kept in `seeds`, findings of the past among them.

mod agent;
mod config;
mod content;
mod hosts;
mod names;
mod rsync;
mod rules;
mod wire;

pub use agent::agent;
pub use config::{control, lua, toml, words};
pub use content::{delta, sums};
pub use hosts::{answers, authorize, known_hosts, ssh_config};
pub use names::{paths, xattrs};
pub use rsync::{rsync_lists, rsync_output};
pub use rules::filter;
pub use wire::{frame, handshake, message};

/// The program of one target. Where nothing is fuzzed it takes files, and hands over what is in them.
#[macro_export]
macro_rules! target {
    ($target:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::$target(bytes));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            for file in std::env::args_os().skip(1) {
                $crate::$target(&std::fs::read(file)?);
            }
            Ok(())
        }
    };
}

/// Takes numbers and bytes from the front of what there is, which never ends: then come zeros.
pub(crate) struct Taken<'a>(&'a [u8]);

impl<'a> Taken<'a> {
    /// A number less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let bytes = self.0.get(..3).unwrap_or(&[0, 0, 0]);
        let number = u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]));
        self.0 = self.0.get(3..).unwrap_or_default();
        number % end.max(1)
    }

    /// One byte.
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// At most so many bytes.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// Bytes behind their number, which is one byte.
    pub(crate) fn part(&mut self) -> &'a [u8] {
        let most = usize::from(self.byte());
        self.bytes(most)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a person is shown holds nothing that a terminal obeys.
pub(crate) fn assert_shown(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// As [`assert_shown`], in several lines.
pub(crate) fn assert_lines_shown(text: &str) {
    text.split('\n').for_each(assert_shown);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 19] = [
        ("agent", agent),
        ("answers", answers),
        ("authorize", authorize),
        ("control", control),
        ("delta", delta),
        ("filter", filter),
        ("frame", frame),
        ("handshake", handshake),
        ("known_hosts", known_hosts),
        ("lua", lua),
        ("message", message),
        ("paths", paths),
        ("rsync_lists", rsync_lists),
        ("rsync_output", rsync_output),
        ("ssh_config", ssh_config),
        ("sums", sums),
        ("toml", toml),
        ("words", words),
        ("xattrs", xattrs),
    ];

    fn names(dir: &str, of: impl Fn(&str) -> String) -> Vec<String> {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| of(entry.unwrap().file_name().to_str().unwrap())).collect();
        names.sort();
        names
    }

    #[test]
    fn every_target_has_its_program() {
        let all = TARGETS.map(|(name, _)| name);
        assert_eq!(names("fuzz_targets", |name| name.trim_end_matches(".rs").to_owned()), all);
        let listed = include_str!("../Cargo.toml").matches("path = \"fuzz_targets/").count();
        assert_eq!(listed, all.len());
    }

    #[test]
    fn what_is_kept_holds() {
        let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
        let known = TARGETS.map(|(name, _)| name);
        let dirs = names("seeds", str::to_owned);
        assert!(dirs.iter().all(|dir| known.contains(&dir.as_str())), "{dirs:?}");
        for (name, target) in TARGETS {
            target(b"");
            for file in std::fs::read_dir(seeds.join(name)).into_iter().flatten() {
                let file = file.unwrap().path();
                println!("{}", file.display());
                target(&std::fs::read(file).unwrap());
            }
        }
    }
}
