//! TARGET as a person writes it: a directory of this host, `HOST:DIR`, or an `ssh://` address.

use std::fmt;
use std::path::PathBuf;

use lsync_protocol::path::Escaped;

use super::{SshTarget, Target};

/// Why some bytes are not a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Nothing at all.
    #[error("it is empty")]
    Empty,
    /// A NUL byte, which no path holds.
    #[error("it holds a NUL byte")]
    Nul,
    /// `HOST:`.
    #[error("the directory behind the colon is missing")]
    NoDir,
    /// `:DIR`.
    #[error("the host before the colon is missing")]
    NoHost,
    /// The host holds something that no host name does.
    #[error("'{0}' cannot stand in a host name")]
    HostByte(char),
    /// The host or the user would be taken for an option.
    #[error("a host or user may not begin with a hyphen")]
    Hyphen,
    /// `@HOST:DIR`, or a user with what no login name holds.
    #[error("the user before the @ is not a login name")]
    User,
    /// A port that is none.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// `[` without its `]`.
    #[error("the bracket around the address is not closed")]
    Bracket,
    /// `ssh://HOST` and no more.
    #[error("the directory behind the host is missing")]
    NoUrlDir,
    /// `%` without two hexadecimal digits behind it.
    #[error("a % in it is not followed by two hexadecimal digits")]
    Percent,
    /// A password has no place in a command line.
    #[error("it holds a password")]
    Password,
    /// `rsync://` and `HOST::MODULE`, where only a directory or a host will do.
    #[error("only rsync reaches an rsync daemon")]
    Daemon,
    /// `HOST::` and `rsync://HOST/`.
    #[error("the module behind the host is missing")]
    NoModule,
    /// Another scheme.
    #[error("only ssh:// is understood")]
    Scheme,
}

impl BadTarget {
    /// What to do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            BadTarget::NoDir => "HOST:. means the login directory itself",
            BadTarget::NoUrlDir => {
                "ssh://HOST/DIR is absolute, ssh://HOST/~/DIR begins at the home directory"
            }
            BadTarget::Password => "use a key and ssh-agent, or -i FILE",
            BadTarget::Daemon => "lsyncd push takes such a target",
            BadTarget::NoModule => "rsync HOST:: lists the modules of a host",
            BadTarget::Percent => "write % itself as %25",
            _ => "a target is DIR, [USER@]HOST:DIR or ssh://[USER@]HOST[:PORT]/DIR",
        }
    }
}

impl Target {
    /// Reads TARGET. A colon before the first slash makes it a host's; `./a:b` is local.
    ///
    /// # Errors
    /// [`BadTarget`] says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Target, BadTarget> {
        if text.is_empty() {
            return Err(BadTarget::Empty);
        }
        if text.contains(&0) {
            return Err(BadTarget::Nul);
        }
        if let Some((scheme, rest)) = scheme(text) {
            return match scheme.to_ascii_lowercase().as_slice() {
                b"ssh" => url(rest).map(Target::Ssh),
                b"rsync" => Err(BadTarget::Daemon),
                _ => Err(BadTarget::Scheme),
            };
        }
        let Some((login, dir)) = login_and_dir(text)? else {
            use std::os::unix::ffi::OsStrExt;
            return Ok(Target::Local(PathBuf::from(std::ffi::OsStr::from_bytes(text))));
        };
        if dir.starts_with(b":") {
            return Err(BadTarget::Daemon);
        }
        let (user, host) = user_and_host(login)?;
        if dir.is_empty() {
            return Err(BadTarget::NoDir);
        }
        Ok(Target::Ssh(SshTarget { user, host, port: None, dir: dir.to_vec() }))
    }
}

/// Reads a target that only an rsync daemon serves: `[USER@]HOST::MODULE[/DIR]` or
/// `rsync://[USER@]HOST[:PORT]/MODULE[/DIR]`. `None`: it is none.
#[must_use]
pub fn rsync_daemon(text: &[u8]) -> Option<Result<(), BadTarget>> {
    let no_nul = |all: &[u8]| if all.contains(&0) { Err(BadTarget::Nul) } else { Ok(()) };
    if let Some((scheme, rest)) = scheme(text) {
        if !scheme.eq_ignore_ascii_case(b"rsync") {
            return None;
        }
        let slash = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
        // What may stand before the module is what may stand before a directory.
        let login = [&rest[..slash], b"/"].concat();
        let module = rest.get(slash + 1..).unwrap_or_default();
        return Some(no_nul(text).and_then(|()| url(&login)).and_then(|_| has_module(module)));
    }
    match login_and_dir(text) {
        Ok(Some((login, dir))) if dir.starts_with(b":") => Some(
            no_nul(text).and_then(|()| user_and_host(login)).and_then(|_| has_module(&dir[1..])),
        ),
        _ => None,
    }
}

/// Would a program that is handed this target take a part of it for an option? Such words begin with
/// a hyphen, or a host or a user in them does. A slash before the colon makes it no directory of
/// this host then: `-oProxyCommand=/x:/y` is nobody's name for one.
#[must_use]
pub fn hides_an_option(target: &[u8]) -> bool {
    if target.starts_with(b"/") || target.starts_with(b".") {
        return false;
    }
    let address = scheme(target).map(|(_, rest)| rest);
    let rest = address.unwrap_or(target);
    let end = match address {
        Some(_) => rest.iter().position(|&b| b == b'/').or(Some(rest.len())),
        None => rest.iter().position(|&b| b == b':'),
    };
    target.starts_with(b"-") || end.is_some_and(|end| parts_hide_one(&rest[..end]))
}

/// The same of a user and a host: not all programs take the last `@` for the one before the host,
/// nor look for the end of an address in brackets.
fn parts_hide_one(login: &[u8]) -> bool {
    let hyphen = |part: &[u8]| part.strip_prefix(b"[").unwrap_or(part).starts_with(b"-");
    login.split(|&b| b == b'@').any(hyphen)
}

fn has_module(path: &[u8]) -> Result<(), BadTarget> {
    let module = path.split(|&b| b == b'/').next().unwrap_or_default();
    if module.is_empty() { Err(BadTarget::NoModule) } else { Ok(()) }
}

impl SshTarget {
    /// As rsync takes it, apart from the port. rsync does not know the home directory by `~` when
    /// it protects its arguments; paths are relative to it anyhow.
    #[must_use]
    pub fn for_rsync(&self) -> Vec<u8> {
        let login = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let dir = match self.dir.as_slice() {
            b"~" => b".",
            dir => dir.strip_prefix(b"~/").unwrap_or(dir),
        };
        [format!("{login}{host}:").as_bytes(), if dir.is_empty() { b"." } else { dir }].concat()
    }

    /// Reads HOST where only a host is asked for: `[USER@]HOST` or `ssh://[USER@]HOST[:PORT]`.
    /// Its directory is the login directory.
    ///
    /// # Errors
    /// [`BadTarget`] says what is wrong with it.
    pub fn parse_host(text: &[u8]) -> Result<SshTarget, BadTarget> {
        if text.is_empty() {
            return Err(BadTarget::NoHost);
        }
        if let Some((scheme, rest)) = scheme(text) {
            if !scheme.eq_ignore_ascii_case(b"ssh") {
                return Err(BadTarget::Scheme);
            }
            let mut with_dir = rest.strip_suffix(b"/").unwrap_or(rest).to_vec();
            with_dir.extend_from_slice(b"/");
            return Ok(SshTarget { dir: b".".to_vec(), ..url(&with_dir)? });
        }
        let (user, host) = user_and_host(text)?;
        Ok(SshTarget { user, host, port: None, dir: b".".to_vec() })
    }

    /// Is the directory the root of the host's file system, however it is written?
    #[must_use]
    pub fn is_root_dir(&self) -> bool {
        if !self.dir.starts_with(b"/") {
            return false;
        }
        let mut depth = 0u32;
        for name in self.dir.split(|&b| b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => depth = depth.saturating_sub(1),
                _ => depth += 1,
            }
        }
        depth == 0
    }
}

/// As it would be written on a command line, safe to show.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Local(dir) => {
                use std::os::unix::ffi::OsStrExt;
                write!(f, "{}", Escaped(dir.as_os_str().as_bytes()))
            }
            Target::Ssh(ssh) => write!(f, "{ssh}"),
        }
    }
}

/// As it would be written on a command line, safe to show.
impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            None => write!(f, "{login}{host}:{}", Escaped(&self.dir)),
            Some(port) => {
                let slash = if self.dir.starts_with(b"/") { "" } else { "/" };
                write!(f, "ssh://{login}{host}:{port}{slash}{}", Escaped(&self.dir))
            }
        }
    }
}

/// `SCHEME` and what follows `://`.
fn scheme(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.windows(3).position(|w| w == b"://")?;
    let name = &text[..at];
    let is_scheme = name.first().is_some_and(u8::is_ascii_alphabetic)
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b));
    is_scheme.then_some((name, &text[at + 3..]))
}

/// What stands before and behind the colon that makes a target a host's.
type LoginAndDir<'a> = (&'a [u8], &'a [u8]);

/// Parts a target at its colon; `None`: it is local.
fn login_and_dir(text: &[u8]) -> Result<Option<LoginAndDir<'_>>, BadTarget> {
    let first = text.split(|&b| b == b'/').next().unwrap_or(text);
    let host_at = first.iter().position(|&b| b == b'@').map_or(0, |at| at + 1);
    let from = if first.get(host_at) == Some(&b'[') {
        // An IPv6 address in brackets holds colons, and is only one if a colon follows.
        match first[host_at..].windows(2).position(|w| w == b"]:") {
            Some(at) => host_at + at + 1,
            None if first[host_at..].contains(&b']') || !first.contains(&b':') => return Ok(None),
            None => return Err(BadTarget::Bracket),
        }
    } else {
        0
    };
    Ok(first[from..]
        .iter()
        .position(|&b| b == b':')
        .map(|at| (&text[..from + at], &text[from + at + 1..])))
}

fn user_and_host(login: &[u8]) -> Result<(Option<String>, String), BadTarget> {
    // A login name may hold an @, a host name never.
    let (user, host) = match login.iter().rposition(|&b| b == b'@') {
        Some(at) => (Some(user(&login[..at])?), &login[at + 1..]),
        None => (None, login),
    };
    let inner = host.strip_prefix(b"[").and_then(|h| h.strip_suffix(b"]"));
    Ok((user, host_name(inner.unwrap_or(host), inner.is_some())?))
}

fn user(bytes: &[u8]) -> Result<String, BadTarget> {
    if parts_hide_one(bytes) {
        return Err(BadTarget::Hyphen);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadTarget::User)?;
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(BadTarget::User);
    }
    Ok(text.to_owned())
}

fn host_name(bytes: &[u8], address: bool) -> Result<String, BadTarget> {
    if bytes.is_empty() {
        return Err(BadTarget::NoHost);
    }
    // It may be handed to ssh as an argument.
    if bytes.starts_with(b"-") {
        return Err(BadTarget::Hyphen);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BadTarget::HostByte('\u{fffd}'))?;
    let wrong = |c: &char| {
        // Not what a shell or ssh's own configuration would see more in than a name.
        c.is_control()
            || c.is_whitespace()
            || "\"'`$\\;&<>|(){}*?!#,/@^[]".contains(*c)
            || (*c == ':' && !address)
    };
    match text.chars().find(wrong) {
        Some(c) => Err(BadTarget::HostByte(if c.is_control() { '\u{fffd}' } else { c })),
        None => Ok(text.to_owned()),
    }
}

/// What follows `ssh://`.
fn url(rest: &[u8]) -> Result<SshTarget, BadTarget> {
    let slash = rest.iter().position(|&b| b == b'/');
    let (login, dir) = slash.map_or((rest, &b""[..]), |at| rest.split_at(at));
    let (login_user, host_port) = match login.iter().rposition(|&b| b == b'@') {
        Some(at) => (Some(&login[..at]), &login[at + 1..]),
        None => (None, login),
    };
    let user = match login_user {
        Some(name) if name.contains(&b':') => return Err(BadTarget::Password),
        Some(name) => Some(user(&percent(name)?)?),
        None => None,
    };
    let (host, port, address) = if host_port.starts_with(b"[") {
        let end = host_port.iter().position(|&b| b == b']').ok_or(BadTarget::Bracket)?;
        (&host_port[1..end], &host_port[end + 1..], true)
    } else {
        let end = host_port.iter().position(|&b| b == b':').unwrap_or(host_port.len());
        (&host_port[..end], &host_port[end..], false)
    };
    let host = host_name(&percent(host)?, address)?;
    let port = match port.split_first() {
        None => None,
        Some((b':', digits)) => Some(port_number(digits)?),
        Some(_) => return Err(BadTarget::Port),
    };
    let dir = percent(dir)?;
    if dir.contains(&0) {
        return Err(BadTarget::Nul);
    }
    let dir = match dir.as_slice() {
        b"" => return Err(BadTarget::NoUrlDir),
        [b'/', rest @ ..] if rest == b"~" || rest.starts_with(b"~/") => rest.to_vec(),
        _ => dir,
    };
    Ok(SshTarget { user, host, port, dir })
}

fn port_number(digits: &[u8]) -> Result<u16, BadTarget> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).map_err(|_| BadTarget::Port)?;
    text.parse().ok().filter(|&port| port != 0 && all_digits).ok_or(BadTarget::Port)
}

fn percent(text: &[u8]) -> Result<Vec<u8>, BadTarget> {
    let digit = |b: Option<&u8>| b.and_then(|&b| char::from(b).to_digit(16)).map(|d| d as u8);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte == b'%' {
            let (high, low) = (digit(rest.next()), digit(rest.next()));
            let (Some(high), Some(low)) = (high, low) else { return Err(BadTarget::Percent) };
            bytes.push(high << 4 | low);
        } else {
            bytes.push(byte);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(user: &str, host: &str, port: u16, dir: &str) -> Target {
        Target::Ssh(SshTarget {
            user: (!user.is_empty()).then(|| user.to_owned()),
            host: host.to_owned(),
            port: (port != 0).then_some(port),
            dir: dir.as_bytes().to_vec(),
        })
    }

    #[test]
    fn targets_are_what_they_look_like() {
        let local = |dir: &str| Target::Local(PathBuf::from(dir));
        let table = [
            ("/srv/www", local("/srv/www")),
            ("backup", local("backup")),
            ("./a:b", local("./a:b")),
            ("/srv/a:b", local("/srv/a:b")),
            ("a/b:c", local("a/b:c")),
            ("~/x", local("~/x")),
            ("[ab]", local("[ab]")),
            ("host:/srv", ssh("", "host", 0, "/srv")),
            ("host:srv/a:b", ssh("", "host", 0, "srv/a:b")),
            ("host:.", ssh("", "host", 0, ".")),
            ("host:~/x", ssh("", "host", 0, "~/x")),
            ("me@host:x", ssh("me", "host", 0, "x")),
            ("me@corp@host:x", ssh("me@corp", "host", 0, "x")),
            ("[::1]:/srv", ssh("", "::1", 0, "/srv")),
            ("me@[fe80::1%eth0]:x", ssh("me", "fe80::1%eth0", 0, "x")),
            ("[host]:x", ssh("", "host", 0, "x")),
            ("ssh://host/srv", ssh("", "host", 0, "/srv")),
            ("SSH://host//srv", ssh("", "host", 0, "//srv")),
            ("ssh://me@host:2222/srv/a%20b%25", ssh("me", "host", 2222, "/srv/a b%")),
            ("ssh://host/~/x", ssh("", "host", 0, "~/x")),
            ("ssh://host/~", ssh("", "host", 0, "~")),
            ("ssh://host/~x", ssh("", "host", 0, "/~x")),
            ("ssh://[::1]:22/x", ssh("", "::1", 22, "/x")),
            ("ssh://[fe80::1%25eth0]/x", ssh("", "fe80::1%eth0", 0, "/x")),
            ("ssh://a%40b@host/x", ssh("a@b", "host", 0, "/x")),
        ];
        for (text, expected) in table {
            assert_eq!(Target::parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_target_says_why() {
        let table = [
            ("", BadTarget::Empty),
            ("a\0b", BadTarget::Nul),
            ("host:", BadTarget::NoDir),
            ("me@host:", BadTarget::NoDir),
            (":dir", BadTarget::NoHost),
            ("me@:dir", BadTarget::NoHost),
            ("@host:dir", BadTarget::User),
            ("m e@host:dir", BadTarget::User),
            ("-oProxyCommand=x:dir", BadTarget::Hyphen),
            ("me@-oProxyCommand=x:dir", BadTarget::Hyphen),
            ("-l@host:dir", BadTarget::Hyphen),
            ("me@-oProxyCommand=x@host:dir", BadTarget::Hyphen),
            ("me@h@[-x@host:dir", BadTarget::Hyphen),
            ("ho st:dir", BadTarget::HostByte(' ')),
            ("ho$st:dir", BadTarget::HostByte('$')),
            ("ho\u{1b}st:dir", BadTarget::HostByte('\u{fffd}')),
            ("[::1:dir", BadTarget::Bracket),
            ("host::module/dir", BadTarget::Daemon),
            ("me@host::module", BadTarget::Daemon),
            ("rsync://host/module", BadTarget::Daemon),
            ("http://host/dir", BadTarget::Scheme),
            ("ssh://host", BadTarget::NoUrlDir),
            ("ssh:///dir", BadTarget::NoHost),
            ("ssh://me:secret@host/dir", BadTarget::Password),
            ("ssh://host:0/dir", BadTarget::Port),
            ("ssh://host:65536/dir", BadTarget::Port),
            ("ssh://host:+22/dir", BadTarget::Port),
            ("ssh://host:/dir", BadTarget::Port),
            ("ssh://[::1/dir", BadTarget::Bracket),
            ("ssh://[::1]x/dir", BadTarget::Port),
            ("ssh://-x/dir", BadTarget::Hyphen),
            ("ssh://%2dx/dir", BadTarget::Hyphen),
            ("ssh://host/a%2", BadTarget::Percent),
            ("ssh://host/a%zz", BadTarget::Percent),
            ("ssh://host/a%00", BadTarget::Nul),
        ];
        for (text, expected) in table {
            assert_eq!(Target::parse(text.as_bytes()), Err(expected), "{text:?}");
            assert!(!expected.hint().is_empty() && !expected.to_string().ends_with('.'));
        }
    }

    #[test]
    fn targets_of_a_daemon_are_known_and_checked() {
        for (text, expected) in [
            ("h::m", Some(Ok(()))),
            ("me@h::m/d", Some(Ok(()))),
            ("[::1]::m", Some(Ok(()))),
            ("rsync://h/m", Some(Ok(()))),
            ("rsync://me@h:8730/m/d e", Some(Ok(()))),
            ("h::", Some(Err(BadTarget::NoModule))),
            ("h::/x", Some(Err(BadTarget::NoModule))),
            ("rsync://h", Some(Err(BadTarget::NoModule))),
            ("rsync://h/", Some(Err(BadTarget::NoModule))),
            ("rsync://me:secret@h/m", Some(Err(BadTarget::Password))),
            ("rsync://h:x/m", Some(Err(BadTarget::Port))),
            ("-x::m", Some(Err(BadTarget::Hyphen))),
            ("h:d", None),
            ("/a::b", None),
            ("ssh://h/a::b", None),
            ("h:/a::b", None),
        ] {
            assert_eq!(rsync_daemon(text.as_bytes()), expected, "{text}");
        }
        for (text, expected) in [
            ("ssh://me@h:22/srv", "me@h:/srv"),
            ("[::1]:~/x", "[::1]:x"),
            ("h:~", "h:."),
            ("h:d", "h:d"),
        ] {
            let Ok(Target::Ssh(target)) = Target::parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(target.for_rsync(), expected.as_bytes());
        }
    }

    #[test]
    fn what_a_program_would_take_for_an_option_is_known() {
        for text in [
            "-oProxyCommand=x:/y",
            "-oProxyCommand=/tmp/x:/y",
            "-x",
            "me@-oProxyCommand=/tmp/x:/y",
            "-l@host:/y",
            "[-x]:/y",
            "-x::module",
            "rsync://-x/module",
            "rsync://me@-x:873/module",
        ] {
            assert!(hides_an_option(text.as_bytes()), "{text}");
        }
        for text in
            ["/-x", "./-x:y", "a-b", "a@-b", "host:-x", "me@host:/@-x", "h::-m", "rsync://h/-m:x"]
        {
            assert!(!hides_an_option(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_host_alone_is_read_where_only_a_host_is_asked_for() {
        let host = |text: &str| SshTarget::parse_host(text.as_bytes()).map(|t| t.to_string());
        assert_eq!(host("me@host").unwrap(), "me@host:.");
        assert_eq!(host("ssh://me@host:22").unwrap(), "ssh://me@host:22/.");
        assert_eq!(host("ssh://host/").unwrap(), "host:.");
        assert_eq!(host("::1"), Err(BadTarget::HostByte(':')));
        assert_eq!(host("[::1]").unwrap(), "[::1]:.");
        assert_eq!(host("host:dir"), Err(BadTarget::HostByte(':')));
        assert_eq!(host(""), Err(BadTarget::NoHost));
    }

    #[test]
    fn targets_are_shown_as_they_are_written_and_safely() {
        for text in ["/srv/www", "host:/srv", "me@host:.", "[::1]:x", "ssh://me@host:22/srv"] {
            assert_eq!(Target::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        let odd = Target::parse(b"host:/a\x1b\xff").unwrap();
        assert_eq!(odd.to_string(), "host:/a\\x1b\\xff");
    }

    #[test]
    fn the_root_directory_is_known_however_it_is_written() {
        for (dir, yes) in [
            ("/", true),
            ("/.//", true),
            ("/./", true),
            ("/a/..", true),
            ("/..", true),
            ("/a", false),
            (".", false),
            ("~", false),
        ] {
            let Ok(Target::Ssh(target)) = Target::parse(format!("h:{dir}").as_bytes()) else {
                panic!("{dir}");
            };
            assert_eq!(target.is_root_dir(), yes, "{dir}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_hosts_are_never_options(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..30),
            text in "(ssh://)?[-@:\\[\\]%a-c0-9/.~ ]{0,20}",
        ) {
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = SshTarget::parse_host(bytes);
                if let Ok(Target::Ssh(target)) = Target::parse(bytes) {
                    proptest::prop_assert!(!target.host.starts_with('-') && !target.host.is_empty());
                    proptest::prop_assert!(!target.user.is_some_and(|u| u.starts_with('-')));
                    proptest::prop_assert!(!target.dir.is_empty() && !target.dir.contains(&0));
                }
            }
        }
    }
}
