//! What of an Lsyncd 2 entry the agent can carry, and why not where it cannot.

use lsync_protocol::xattr::Classes;

use crate::config::lua::{Entry, Way};
use crate::config::mapping::{Chmod, Mapping, OwnerMap};
use crate::config::rsync::RsyncValue;
use crate::config::{Attributes, Compress, value};

/// What the `rsync={}` of an entry asks of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) attributes: Attributes,
    pub(super) compress: Compress,
    pub(super) bwlimit: Option<std::num::NonZeroU64>,
    pub(super) inplace: bool,
    pub(super) one_file_system: bool,
    pub(super) delete_excluded: bool,
    /// What owners and permissions become.
    pub(super) mapping: Mapping,
    /// `rsh`: run this instead of speaking ssh ourselves.
    pub(super) rsh: Option<Vec<String>>,
    /// Keys that mean nothing to an agent, and why that is no loss.
    pub(super) idle: Vec<(String, &'static str)>,
}

/// Only rsync does that: the key, in words.
pub(super) type OnlyRsync = String;

/// Reads the keys.
pub(super) fn asked(entry: &Entry, umask: u32) -> Result<Asked, OnlyRsync> {
    let keys = &entry.rsync;
    let yes = |key: &str| keys.get(key) == Some(&RsyncValue::Bool(true));
    let archive = yes("archive");
    // As rsync's -a: whatever is not said.
    let with_archive = |key: &str| match keys.get(key) {
        None => archive,
        Some(value) => *value == RsyncValue::Bool(true),
    };
    let mut asked = Asked {
        attributes: Attributes {
            perms: with_archive("perms"),
            owner: with_archive("owner"),
            group: with_archive("group"),
            times: with_archive("times"),
            numeric_ids: false,
            specials: archive,
            devices: archive,
            hard_links: yes("hard_links"),
            xattrs: Classes::USER
                .with(Classes::PRIVILEGED)
                .only_if(yes("xattrs"))
                .with(Classes::ACLS.only_if(yes("acls"))),
        },
        compress: Compress::Auto,
        bwlimit: None,
        inplace: yes("inplace"),
        one_file_system: yes("one_file_system"),
        delete_excluded: yes("delete_excluded"),
        mapping: Mapping::default(),
        rsh: None,
        idle: Vec::new(),
    };
    for (key, value) in keys {
        let said = || format!("rsync.{key}");
        match (key.as_str(), value) {
            (
                "archive" | "perms" | "owner" | "group" | "times" | "xattrs" | "acls"
                | "hard_links" | "inplace" | "one_file_system" | "delete_excluded",
                RsyncValue::Bool(_),
            ) => {}
            ("links", RsyncValue::Bool(false)) => return Err("rsync.links = false".to_owned()),
            // Names never go through a shell, whether that is asked for or not.
            ("links" | "protect_args", _) => {}
            ("compress", RsyncValue::Bool(false)) => asked.compress = Compress::Off,
            ("compress", _) => {}
            ("bwlimit", RsyncValue::Text(text)) => {
                let text = text.to_str().ok_or_else(said)?;
                asked.bwlimit = value::rate(text).map_err(|_| said())?;
            }
            ("bwlimit", RsyncValue::Number(number)) => {
                asked.bwlimit = value::rate(&number.to_string()).map_err(|_| said())?;
            }
            ("rsh", RsyncValue::Text(text)) if entry.way == Way::RsyncSsh => {
                let text = text.to_str().ok_or_else(said)?;
                asked.rsh = Some(value::words(text).map_err(|_| said())?);
            }
            ("_extra", RsyncValue::List(words)) if words.is_empty() => {}
            ("chown" | "usermap" | "groupmap" | "chmod", RsyncValue::Text(text)) => {
                // What cannot be read rsync explains best.
                let text = text.to_str().ok_or_else(said)?;
                asked.map(key, text, umask).ok_or_else(said)?;
            }
            (key, value) if says_nothing(value) && !key.starts_with('_') => {}
            (key, _) => match idle(key) {
                Some(why) => asked.idle.push((said(), why)),
                None => return Err(said()),
            },
        }
    }
    Ok(asked)
}

impl Asked {
    /// Takes a mapping in; `None` where it is none, or of what is not carried.
    fn map(&mut self, key: &str, text: &str, umask: u32) -> Option<()> {
        let carried = &self.attributes;
        let Mapping { users, groups, chmod } = &mut self.mapping;
        let free = |map: &OwnerMap| map.is_empty().then_some(());
        match key {
            "chown" => {
                let (user, group) = text.split_once(':').unwrap_or((text, ""));
                for (to, map, carried) in
                    [(user, users, carried.owner), (group, groups, carried.group)]
                {
                    if !to.is_empty() {
                        free(map)?;
                        *map = OwnerMap::all(to).ok().filter(|_| carried)?;
                    }
                }
            }
            "usermap" => {
                free(users)?;
                *users = OwnerMap::parse(text).ok().filter(|_| carried.owner)?;
            }
            "groupmap" => {
                free(groups)?;
                *groups = OwnerMap::parse(text).ok().filter(|_| carried.group)?;
            }
            _ => chmod.then(Chmod::parse(text, umask).ok().filter(|_| carried.perms)?),
        }
        Some(())
    }
}

fn says_nothing(value: &RsyncValue) -> bool {
    match value {
        RsyncValue::Bool(yes) => !yes,
        RsyncValue::Text(text) => text.is_empty(),
        RsyncValue::List(list) => list.is_empty(),
        RsyncValue::Number(_) => false,
    }
}

/// Keys that have nothing to say to an agent.
fn idle(key: &str) -> Option<&'static str> {
    Some(match key {
        "verbose" | "quiet" => "-log says what is told",
        "sparse" => "holes always stay holes",
        "whole_file" => "what differs is carried; on this host files are copied whole",
        "timeout" => "the connection is asked every 15 seconds whether it is still there",
        "temp_dir" => "content is staged beside its target, so that a rename puts it in place",
        "password_file" => "only rsync daemons ask for one",
        "rsh" => "a target of this host needs no shell",
        _ => return None,
    })
}
