//! The sub-keys of `rsync = {…}` in a Lua file, each with what it becomes on rsync's command line.

use crate::config::near::nearest;
use crate::error::Error;

/// What a key takes and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// True or false: a letter among the short options.
    Letter(char),
    /// True or false: several letters, and only where the keys of their own do not speak.
    Archive,
    /// True or false: an option of its own.
    Long(&'static str),
    /// A text or a number behind `--option=`.
    Value(&'static str),
    /// The program to run.
    Binary,
    /// Words, handed on as they are.
    Words,
}

/// Since which version of Lsyncd a key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// 2.2.3 knows it.
    V22,
    /// 2.3 brought it.
    V23,
}

/// One sub-key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// Who knows it.
    pub since: Since,
    /// Only runs over everything have it: live, its effect would reach beyond what changed.
    pub startup_only: bool,
    /// What holds where nothing is said.
    pub default: bool,
}

const fn key(name: &'static str, shape: Shape) -> Key {
    Key { name, shape, since: Since::V22, startup_only: false, default: false }
}

const fn on(name: &'static str, letter: char) -> Key {
    Key { default: true, ..key(name, Shape::Letter(letter)) }
}

const fn letter(name: &'static str, letter: char) -> Key {
    key(name, Shape::Letter(letter))
}

const fn value(name: &'static str, option: &'static str) -> Key {
    key(name, Shape::Value(option))
}

/// All of them. Letters stand in this order on the command line, and so do long options.
pub const KEYS: &[Key] = &[
    on("links", 'l'),
    letter("acls", 'A'),
    letter("backup", 'b'),
    letter("checksum", 'c'),
    letter("compress", 'z'),
    letter("copy_dirlinks", 'k'),
    letter("copy_links", 'L'),
    letter("cvs_exclude", 'C'),
    letter("dry_run", 'n'),
    letter("executability", 'E'),
    letter("group", 'g'),
    letter("hard_links", 'H'),
    letter("ignore_times", 'I'),
    letter("ipv4", '4'),
    letter("ipv6", '6'),
    letter("keep_dirlinks", 'K'),
    letter("one_file_system", 'x'),
    letter("omit_dir_times", 'O'),
    letter("omit_link_times", 'J'),
    letter("owner", 'o'),
    letter("perms", 'p'),
    letter("prune_empty_dirs", 'm'),
    letter("quiet", 'q'),
    letter("sparse", 'S'),
    on("times", 't'),
    letter("update", 'u'),
    letter("verbose", 'v'),
    letter("whole_file", 'W'),
    letter("xattrs", 'X'),
    on("protect_args", 's'),
    key("archive", Shape::Archive),
    key("binary", Shape::Binary),
    key("_extra", Shape::Words),
    key("append", Shape::Long("--append")),
    key("append_verify", Shape::Long("--append-verify")),
    value("backup_dir", "--backup-dir"),
    value("bwlimit", "--bwlimit"),
    value("chmod", "--chmod"),
    value("chown", "--chown"),
    Key {
        since: Since::V23,
        // Not only at the start, as in 2.3: a live change would turn the file into the link again.
        ..key("copy_unsafe_links", Shape::Long("--copy-unsafe-links"))
    },
    Key {
        since: Since::V23,
        startup_only: true,
        ..key("delete_excluded", Shape::Long("--delete-excluded"))
    },
    key("existing", Shape::Long("--existing")),
    value("groupmap", "--groupmap"),
    key("inplace", Shape::Long("--inplace")),
    value("password_file", "--password-file"),
    value("rsh", "--rsh"),
    value("rsync_path", "--rsync-path"),
    value("suffix", "--suffix"),
    value("temp_dir", "--temp-dir"),
    value("timeout", "--timeout"),
    value("usermap", "--usermap"),
];

impl Key {
    /// The key of this name.
    ///
    /// # Errors
    /// There is none: what Lsyncd 2 says, and the name that may have been meant.
    pub fn find(name: &str) -> Result<&'static Key, Error> {
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            return Ok(key);
        }
        let error = Error::failed(format!(
            "Parameter \"rsync.{}\" unknown. ( if this is not a typo add it to checkgauge )",
            lsync_protocol::path::Escaped(name.as_bytes())
        ));
        Err(match close(name) {
            Some(key) => error.hint(format!("did you mean rsync.{key}?")),
            None => error.hint("options without a key of their own go into rsync._extra"),
        })
    }
}

/// The key that a misspelt name is nearest to, if it is near.
fn close(name: &str) -> Option<&'static str> {
    let plain: String =
        name.trim_start_matches('-').replace('-', "_").chars().take(40).collect::<String>();
    // What rsync calls otherwise than the keys do.
    let option = match plain.as_str() {
        "extra" | "extras" => Some("_extra"),
        "secluded_args" => Some("protect_args"),
        "del" | "delete_exclude" => Some("delete_excluded"),
        _ => None,
    };
    option.or_else(|| nearest(plain.as_bytes(), KEYS.iter().map(|key| key.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_51_keys_two_of_them_new() {
        assert_eq!(KEYS.len(), 51);
        let new: Vec<_> = KEYS.iter().filter(|k| k.since == Since::V23).map(|k| k.name).collect();
        assert_eq!(new, ["copy_unsafe_links", "delete_excluded"]);
        let mut names: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 51);
    }

    #[test]
    fn an_unknown_key_says_so_as_lsyncd_2_does_and_what_may_be_meant() {
        for (name, hint) in [
            ("foo", "options without a key of their own go into rsync._extra"),
            ("compres", "did you mean rsync.compress?"),
            ("hardlinks", "did you mean rsync.hard_links?"),
            ("--password-file", "did you mean rsync.password_file?"),
            ("extra", "did you mean rsync._extra?"),
        ] {
            let error = Key::find(name).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "Parameter \"rsync.{name}\" unknown. ( if this is not a typo add it to checkgauge )"
                )
            );
            assert_eq!(error.hint_text(), Some(hint));
        }
    }
}
