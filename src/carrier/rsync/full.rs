//! A run over everything: the words and the input of it.

use std::ffi::OsString;

use lsync_protocol::path::RelPath;

use super::Call;
use super::paths::protections;
use crate::config::rsync::RsyncMirror;

/// A run over everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Full {
    /// What only the target has is deleted.
    pub delete: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Names that cannot be read or looked at here: what the target has of them stays.
    pub unread: Vec<RelPath>,
    /// The most names to delete.
    pub max_delete: Option<u64>,
}

impl Full {
    /// Lsyncd 2's words: the rules' option, the deletes, the options, `-r`; patterns on standard
    /// input. Where it is rsync itself, deletes are left out when something could not be read, as
    /// rsync does by itself: unless what that is was known before, and is protected.
    pub(super) fn call(&self, config: &RsyncMirror) -> Call {
        let mut words: Vec<OsString> = Vec::new();
        let plain = !config.options.is_wrapper();
        if self.delete {
            words.extend(protections(&self.unread));
        }
        let mut input = Vec::new();
        if !config.filters.is_empty() {
            words.push("--filter=. -".into());
            for rule in &config.filters {
                input.extend_from_slice(rule);
                input.push(b'\n');
            }
            for pattern in &config.excludes {
                input.extend_from_slice(b"- ");
                input.extend_from_slice(pattern);
                input.push(b'\n');
            }
        } else if !config.excludes.is_empty() {
            words.push("--exclude-from=-".into());
            for pattern in &config.excludes {
                input.extend_from_slice(pattern);
                input.push(b'\n');
            }
        }
        if self.delete {
            words.push("--delete".into());
            if !(plain && self.unread.is_empty()) {
                words.push("--ignore-errors".into());
            }
            if let Some(max) = self.max_delete {
                words.push(format!("--max-delete={max}").into());
            }
        }
        let mut options = config.options.full_words();
        if !self.delete {
            options.retain(|word| word != "--delete-excluded");
        }
        words.extend(options);
        words.push("-r".into());
        if self.dry_run {
            words.push("-n".into());
        }
        Call { words, input: config.has_rules().then_some(input) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rsync::{RsyncOptions, RsyncValue};

    fn mirror(wrapper: bool) -> RsyncMirror {
        let mut config = RsyncMirror::new("m", "/s", "/t".as_ref());
        if wrapper {
            let keys = [("binary".to_owned(), RsyncValue::Text("/w".into()))];
            config.options = RsyncOptions::from_keys(&keys.into()).unwrap();
        }
        config
    }

    fn words(config: &RsyncMirror, full: &Full) -> (String, String) {
        let call = full.call(config);
        let words: Vec<_> = call.words.iter().map(|word| word.to_str().unwrap()).collect();
        (words.join(" "), String::from_utf8(call.input.unwrap_or_default()).unwrap())
    }

    #[test]
    fn a_start_is_what_lsyncd_2_runs() {
        let mut config = mirror(true);
        let full = Full { delete: true, ..Full::default() };
        assert_eq!(words(&config, &full).0, "--delete --ignore-errors -lts -r");
        assert_eq!(words(&config, &Full::default()).0, "-lts -r");
        config.excludes = vec![b"*.o".to_vec(), b"/x/".to_vec()];
        let (said, input) = words(&config, &full);
        assert_eq!(said, "--exclude-from=- --delete --ignore-errors -lts -r");
        assert_eq!(input, "*.o\n/x/\n");
        config.filters = vec![b"+ /keep".to_vec()];
        let (said, input) = words(&config, &full);
        assert_eq!(said, "--filter=. - --delete --ignore-errors -lts -r");
        assert_eq!(input, "+ /keep\n- *.o\n- /x/\n");
    }

    #[test]
    fn rsync_itself_deletes_nothing_that_it_could_not_read() {
        let config = mirror(false);
        let mut full = Full { delete: true, max_delete: Some(3), ..Full::default() };
        assert_eq!(words(&config, &full).0, "--delete --max-delete=3 -lts -r");
        full.unread = vec![RelPath::new(&b"a]*b"[..]).unwrap()];
        assert_eq!(
            words(&config, &full).0,
            "--filter=P /a\\]\\*b --filter=P /a\\]\\*b/** --delete --ignore-errors --max-delete=3 -lts -r"
        );
        full.delete = false;
        assert_eq!(words(&config, &full).0, "-lts -r");
        // However much that is, a command line holds it.
        let many =
            (0..40_000).map(|at| RelPath::new(format!("d{}/{at}", at % 7).into_bytes()).unwrap());
        let words = protections(&many.collect::<Vec<_>>());
        assert_eq!(words[..2], ["--filter=P /d0", "--filter=P /d0/**"]);
        assert_eq!(words.len(), 14);
        let many = (0..40_000).map(|at| RelPath::new(format!("{at}").into_bytes()).unwrap());
        assert_eq!(protections(&many.collect::<Vec<_>>()), ["--filter=P **"]);
    }
}
