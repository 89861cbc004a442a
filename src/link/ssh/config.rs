//! The ssh configuration, as far as it concerns us: text in, [`Settings`] out; pure but for the
//! callback that reads what `Include` names.
//!
//! As in ssh: keywords without case, the first value wins (files of keys add up), a `Host` line
//! compares the name that was asked for. What we cannot know (`Match exec` and the like) is an
//! error only where the block could apply; keywords that do not concern us are passed over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

use super::pattern::matches_any;
use super::words;

/// How deep files may include files.
const MAX_DEPTH: usize = 16;

/// Whom the user asked for: what `Host` and `Match` lines are compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The host as the user wrote it.
    pub host: String,
    /// The login name, if the user gave one.
    pub user: Option<String>,
    /// The port, if the user gave one.
    pub port: Option<u16>,
    /// The login name on this host.
    pub local_user: String,
}

/// What to do about a host key that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strict {
    /// Refuse it (`ask` and `yes`: nobody is there to ask).
    #[default]
    Refuse,
    /// Write it down and go on. `no` and `off` mean this too: a key that changed is refused
    /// whatever is configured.
    AcceptNew,
}

/// How a connection to the host is made if not by TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Straight: `none` was said.
    None,
    /// Through these hosts, `[user@]host[:port]` or `ssh://…`, in this order.
    Jump(Vec<String>),
    /// Through standard input and output of this shell command.
    Command(String),
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// All.
    #[default]
    Any,
    /// IPv4.
    Inet,
    /// IPv6.
    Inet6,
}

/// What the files say, not yet expanded; `None` and empty: nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // each is the keyword of ssh_config(5) that has its name
pub struct Settings {
    pub host_name: Option<String>,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub identity_files: Vec<String>,
    pub certificate_files: Vec<String>,
    pub identities_only: Option<bool>,
    pub identity_agent: Option<String>,
    pub user_known_hosts: Option<Vec<String>>,
    pub global_known_hosts: Option<Vec<String>>,
    pub strict: Option<Strict>,
    pub host_key_alias: Option<String>,
    pub hash_known_hosts: Option<bool>,
    pub proxy: Option<Proxy>,
    pub alive_interval: Option<Duration>,
    pub alive_count: Option<u32>,
    pub connect_timeout: Option<Duration>,
    pub batch_mode: Option<bool>,
    pub pubkey: Option<bool>,
    pub password: Option<bool>,
    pub keyboard_interactive: Option<bool>,
    pub family: Option<Family>,
    pub bind_address: Option<String>,
    pub pkcs11: Option<String>,
}

/// Gives the files that an `Include` pattern names (not yet expanded), in order, with their text.
pub type Includes<'a> = dyn Fn(&str) -> Result<Vec<(PathBuf, String)>> + 'a;

/// Reads files one after another, each adding what the ones before it left open.
pub struct Parser<'a> {
    asked: &'a Asked,
    settings: Settings,
}

impl<'a> Parser<'a> {
    /// Nothing read yet.
    #[must_use]
    pub fn new(asked: &'a Asked) -> Parser<'a> {
        let settings =
            Settings { user: asked.user.clone(), port: asked.port, ..Settings::default() };
        Parser { asked, settings }
    }

    /// Reads one file's text; `file` is its name for error texts.
    ///
    /// # Errors
    /// A line that cannot be understood, or that says what we cannot do, by file and line.
    pub fn read(&mut self, file: &Path, text: &str, includes: &Includes<'_>) -> Result<()> {
        self.read_part(file, text, includes, true, 0)
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> Settings {
        self.settings
    }

    fn read_part(
        &mut self,
        file: &Path,
        text: &str,
        includes: &Includes<'_>,
        outer: bool,
        depth: usize,
    ) -> Result<()> {
        let mut active = outer;
        for (number, line) in text.lines().enumerate() {
            let at = || format!("{} line {}", file.display(), number + 1);
            let bad = |why: &str| Error::failed(format!("cannot read {}: {why}", at()));
            let words = words::split(line).map_err(bad)?;
            let Some((keyword, arguments)) = words.split_first() else {
                continue;
            };
            let keyword = keyword.to_ascii_lowercase();
            match keyword.as_str() {
                "host" => {
                    let patterns = arguments.iter().map(String::as_str);
                    active = outer && matches_any(patterns, &self.asked.host);
                }
                "match" => {
                    active = outer && self.matches(arguments).map_err(|why| why.at(&at()))?;
                }
                "include" if active => {
                    if depth >= MAX_DEPTH {
                        return Err(bad("files include each other too deeply"));
                    }
                    for pattern in arguments {
                        for (file, text) in includes(pattern)? {
                            self.read_part(&file, &text, includes, true, depth + 1)?;
                        }
                    }
                }
                "include" => {}
                // A line that does not apply is not looked at: another program may know it.
                _ if active => {
                    self.set(&keyword, arguments, words::rest(line))
                        .map_err(|why| why.at(&at()))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Do all criteria of a `Match` line hold?
    fn matches(&self, arguments: &[String]) -> Result<bool, Bad> {
        let mut arguments = arguments.iter();
        let mut holds = true;
        let mut unknown = None;
        while let Some(word) = arguments.next() {
            let lower = word.to_ascii_lowercase();
            let (not, criterion) = match lower.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, lower.as_str()),
            };
            match criterion {
                "all" => continue,
                // We read the files once and rewrite no names: never the final or canonical pass.
                "canonical" | "final" => {
                    holds &= not;
                    continue;
                }
                _ => {}
            }
            let value = arguments.next().ok_or(Bad::Line("a criterion without a value"))?;
            let text = match criterion {
                "host" => self.settings.host_name.as_ref().unwrap_or(&self.asked.host),
                "originalhost" => &self.asked.host,
                "user" => self.settings.user.as_ref().unwrap_or(&self.asked.local_user),
                "localuser" => &self.asked.local_user,
                _ => {
                    unknown.get_or_insert_with(|| format!("Match {criterion}"));
                    continue;
                }
            };
            // Hosts are compared without case here, unlike in `Host` lines.
            let matched = match criterion {
                "host" | "originalhost" => {
                    matches_any(value.to_lowercase().split(','), &text.to_lowercase())
                }
                _ => matches_any(value.split(','), text),
            };
            holds &= matched != not;
        }
        match unknown {
            Some(what) if holds => Err(Bad::CannotDo(what)),
            _ => Ok(holds),
        }
    }

    fn set(&mut self, keyword: &str, arguments: &[String], rest: &str) -> Result<(), Bad> {
        let s = &mut self.settings;
        let one = || match arguments {
            [one, ..] if !one.is_empty() => Ok(one.clone()),
            _ => Err(Bad::Line("a keyword without a value")),
        };
        match keyword {
            "hostname" => first(&mut s.host_name, one()?),
            "user" => first(&mut s.user, one()?),
            "port" => {
                let port = one()?.parse().ok().filter(|&p| p != 0);
                first(&mut s.port, port.ok_or(Bad::Line("not a port"))?);
            }
            "identityfile" => add(&mut s.identity_files, one()?),
            "certificatefile" => add(&mut s.certificate_files, one()?),
            "identitiesonly" => first(&mut s.identities_only, flag(&one()?)?),
            "identityagent" => first(&mut s.identity_agent, one()?),
            "userknownhostsfile" => {
                one()?;
                first(&mut s.user_known_hosts, arguments.to_vec());
            }
            "globalknownhostsfile" => {
                one()?;
                first(&mut s.global_known_hosts, arguments.to_vec());
            }
            "stricthostkeychecking" => {
                let strict = match one()?.to_ascii_lowercase().as_str() {
                    "ask" | "yes" | "true" => Strict::Refuse,
                    "accept-new" | "no" | "off" | "false" => Strict::AcceptNew,
                    _ => return Err(Bad::Line("neither yes, ask, accept-new, no nor off")),
                };
                first(&mut s.strict, strict);
            }
            "hostkeyalias" => first(&mut s.host_key_alias, one()?),
            "hashknownhosts" => first(&mut s.hash_known_hosts, flag(&one()?)?),
            "proxyjump" => {
                let hops = one()?;
                let proxy = match hops.eq_ignore_ascii_case("none") {
                    true => Proxy::None,
                    false => Proxy::Jump(hops.split(',').map(|h| h.trim().to_owned()).collect()),
                };
                first(&mut s.proxy, proxy);
            }
            "proxycommand" => {
                one()?;
                let proxy = match rest.eq_ignore_ascii_case("none") {
                    true => Proxy::None,
                    false => Proxy::Command(rest.to_owned()),
                };
                first(&mut s.proxy, proxy);
            }
            "serveraliveinterval" => first(&mut s.alive_interval, time(&one()?)?),
            "serveralivecountmax" => {
                let count = one()?.parse().map_err(|_| Bad::Line("not a number"))?;
                first(&mut s.alive_count, count);
            }
            "connecttimeout" => {
                let value = one()?;
                let limit = match value.eq_ignore_ascii_case("none") {
                    true => Duration::ZERO,
                    false => time(&value)?,
                };
                first(&mut s.connect_timeout, limit);
            }
            "batchmode" => first(&mut s.batch_mode, flag(&one()?)?),
            "pubkeyauthentication" => {
                let value = one()?.to_ascii_lowercase();
                let on = matches!(value.as_str(), "unbound" | "host-bound") || flag(&value)?;
                first(&mut s.pubkey, on);
            }
            "passwordauthentication" => first(&mut s.password, flag(&one()?)?),
            "kbdinteractiveauthentication" | "challengeresponseauthentication" => {
                first(&mut s.keyboard_interactive, flag(&one()?)?);
            }
            "addressfamily" => {
                let family = match one()?.to_ascii_lowercase().as_str() {
                    "any" => Family::Any,
                    "inet" => Family::Inet,
                    "inet6" => Family::Inet6,
                    _ => return Err(Bad::Line("neither any, inet nor inet6")),
                };
                first(&mut s.family, family);
            }
            "bindaddress" => first(&mut s.bind_address, one()?),
            "pkcs11provider" => first(&mut s.pkcs11, one()?),
            // It would change which host is meant.
            "canonicalizehostname" if !one()?.eq_ignore_ascii_case("no") => {
                return Err(Bad::CannotDo("CanonicalizeHostname".into()));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Why a line was refused.
enum Bad {
    Line(&'static str),
    CannotDo(String),
}

impl Bad {
    fn at(self, place: &str) -> Error {
        match self {
            Bad::Line(why) => Error::failed(format!("cannot read {place}: {why}")),
            Bad::CannotDo(what) => {
                Error::failed(format!("cannot do what {place} asks for: {what}"))
                    .hint("let the system's ssh do it: --ssh-command ssh")
            }
        }
    }
}

fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

fn add(list: &mut Vec<String>, value: String) {
    if !list.contains(&value) {
        list.push(value);
    }
}

fn flag(value: &str) -> Result<bool, Bad> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(Bad::Line("neither yes nor no")),
    }
}

/// A time of ssh: seconds, or numbers with s, m, h, d, w: `1h30m`.
fn time(value: &str) -> Result<Duration, Bad> {
    let bad = || Bad::Line("not a time");
    let mut total: u64 = 0;
    let mut digits = String::new();
    for c in value.chars().chain(value.ends_with(|c: char| c.is_ascii_digit()).then_some('s')) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            'w' => 604_800,
            _ => return Err(bad()),
        };
        let part: u64 = digits.parse().map_err(|_| bad())?;
        total = part.checked_mul(unit).and_then(|p| total.checked_add(p)).ok_or_else(bad)?;
        digits.clear();
    }
    // Longer than a year is for ever, and never overflows an instant.
    if value.is_empty() { Err(bad()) } else { Ok(Duration::from_secs(total.min(31_536_000))) }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
