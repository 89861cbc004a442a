//! One `sync{}` as values: types checked, files of rules read, nothing decided yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mlua::{Error, Table, Value};

use crate::config::rsync::{ExitMeaning, RsyncShell, RsyncValue};
use crate::config::tunnel::TunnelKeys;
use crate::config::{Delete, value};

/// Which of the ready ways an entry uses, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `default.rsync`.
    Rsync,
    /// `default.rsyncssh`.
    RsyncSsh,
    /// `default.direct`.
    Direct,
    /// Actions of its own: layers 1 to 3.
    Own,
}

/// What Lsyncd 2 runs unless it is told otherwise.
const STANDARD: [&str; 3] = ["rsync", "/usr/bin/rsync", "/bin/rsync"];

/// One `sync{}`.
#[derive(Debug, Clone)]
pub struct Entry {
    /// How it mirrors.
    pub way: Way,
    /// `name`, else `Sync` and its number.
    pub name: String,
    /// The source: absolute, symbolic links resolved, without a slash at the end.
    pub source: PathBuf,
    /// The target, with the slash that Lsyncd 2 puts behind it; own actions may have none.
    pub target: Option<Vec<u8>>,
    /// `host` of default.rsyncssh.
    pub host: Option<Vec<u8>>,
    /// `targetdir` of default.rsyncssh.
    pub target_dir: Option<Vec<u8>>,
    /// The longest an event waits; absent: not at all.
    pub delay: Option<Duration>,
    /// So many queued events make waiting pointless.
    pub max_delays: Option<u64>,
    /// Children at a time.
    pub max_processes: Option<u32>,
    /// When names are deleted.
    pub delete: Delete,
    /// Rules in rsync's words, in order: first match wins.
    pub rules: Vec<Vec<u8>>,
    /// Of these, how many are `filter` and `filterFrom`; the rest are excludes.
    pub filters: usize,
    /// `rsync={}`.
    pub rsync: BTreeMap<String, RsyncValue>,
    /// `ssh={}`, if there is one.
    pub ssh: Option<RsyncShell>,
    /// What exit codes mean; absent where own actions have no table.
    pub exit_codes: Option<BTreeMap<i32, ExitMeaning>>,
    /// Larger files get an rsync of their own.
    pub batch_size_limit: Option<u64>,
    /// When everything is mirrored again.
    pub crontab: Vec<String>,
    /// The `tunnel{}` it goes through, by its place among all.
    pub tunnel: Option<usize>,
    /// The names that the configuration itself has given, not a ready way.
    pub given: BTreeSet<String>,
    /// `init = false`: nothing at the start.
    pub skips_start: bool,
    /// The whole of it, for scripts.
    pub table: Table,
}

/// Reads what `sync{}` has put together.
///
/// # Errors
/// A value has not the type that its key wants.
pub(super) fn read(found: &Table, cwd: &Path) -> mlua::Result<Entry> {
    let config: Table = found.get("config")?;
    let way = match found.get::<String>("way")?.as_str() {
        "rsync" => Way::Rsync,
        "rsyncssh" => Way::RsyncSsh,
        "direct" => Way::Direct,
        _ => Way::Own,
    };
    let name = text(&config, "name")?.unwrap_or_default();
    let place = |error: String| Error::runtime(format!("sync {name}: {error}"));
    let source = bytes(&config, "source")?.unwrap_or_default();
    let source = source.strip_suffix(b"/").filter(|s| !s.is_empty()).unwrap_or(&source).to_vec();
    let (rules, filters) = rules(&config, cwd).map_err(place)?;
    let codes = |key: &str| -> mlua::Result<_> {
        config.get::<Option<Table>>(key)?.map(|codes| exit_codes(&codes)).transpose()
    };
    let exit_codes = match way {
        Way::Rsync | Way::Own => codes("exitcodes")?,
        Way::RsyncSsh | Way::Direct => codes("rsyncExitCodes")?,
    };
    let crontab = match config.get::<Value>("crontab")? {
        Value::Nil => Vec::new(),
        Value::String(one) => vec![one.to_string_lossy()],
        other => lua_list(&other).map_err(|_| place("crontab must be a list of texts".into()))?,
    };
    let delay =
        match config.get::<Value>("delay")? {
            Value::Nil | Value::Boolean(false) => None,
            value => Some(seconds(&value).ok_or_else(|| {
                place("delay must be a number of seconds, zero or more".to_owned())
            })?),
        };
    Ok(Entry {
        way,
        source: PathBuf::from(OsString::from_vec(source)),
        target: bytes(&config, "target")?,
        host: bytes(&config, "host")?,
        target_dir: bytes(&config, "targetdir")?,
        delay,
        max_delays: count(&config, "maxDelays").map_err(place)?,
        max_processes: count(&config, "maxProcesses")
            .map_err(place)?
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        delete: delete(&config.get("delete")?).map_err(place)?,
        rules,
        filters,
        rsync: rsync_values(&config)?,
        ssh: shell(&config).map_err(place)?,
        exit_codes,
        batch_size_limit: count(&config, "batchSizeLimit").map_err(place)?,
        crontab,
        tunnel: match config.get::<Value>("tunnel")? {
            Value::Nil | Value::Boolean(false) => None,
            Value::Table(tunnel) => match tunnel.get::<Option<usize>>("_number")? {
                Some(number) => Some(number.saturating_sub(1)),
                None => return Err(place("tunnel is no tunnel{}".to_owned())),
            },
            other => return Err(place(format!("tunnel cannot be a {}", other.type_name()))),
        },
        skips_start: matches!(config.get::<Value>("init")?, Value::Boolean(false)),
        given: match config.get::<Option<Table>>("_given")? {
            Some(names) => names.pairs::<String, bool>().flatten().map(|(name, _)| name).collect(),
            None => BTreeSet::new(),
        },
        table: config.clone(),
        name: name.clone(),
    })
}

/// One `tunnel{}`.
///
/// # Errors
/// A value has not the type that its key wants.
pub(super) fn tunnel(keys: &Table) -> mlua::Result<TunnelKeys> {
    let name = text(keys, "name")?.unwrap_or_default();
    let place = |error: String| Error::runtime(format!("tunnel {name}: {error}"));
    let command = match keys.get::<Value>("command")? {
        Value::String(line) => value::words(&line.to_string_lossy()).map_err(place)?,
        list => lua_list(&list).map_err(|_| place("command must be a list of texts".into()))?,
    };
    if command.is_empty() {
        return Err(place("command is empty".to_owned()));
    }
    let wait = |key: &str, standard: u64| match keys.get::<Value>(key)? {
        Value::Nil => Ok(Duration::from_secs(standard)),
        value => seconds(&value)
            .ok_or_else(|| place(format!("{key} must be a number of seconds, zero or more"))),
    };
    let number = |key: &str, standard: u64| -> mlua::Result<u64> {
        Ok(count(keys, key).map_err(place)?.unwrap_or(standard))
    };
    Ok(TunnelKeys {
        command,
        parallel: usize::try_from(number("parallel", 1)?).unwrap_or(1).clamp(1, 64),
        localhost: text(keys, "localhost")?.unwrap_or_else(|| "localhost".to_owned()),
        ready_delay: wait("readyDelay", 5)?,
        retry_delay: wait("retryDelay", 10)?,
        max_failed: u32::try_from(number("checkMaxFailed", 5)?).unwrap_or(u32::MAX),
        name: name.clone(),
    })
}

/// `rsync={}` of an entry; what scripts may have left in it beside keys of rsync (`_computed`) is
/// not theirs to say.
pub(super) fn rsync_values(config: &Table) -> mlua::Result<BTreeMap<String, RsyncValue>> {
    let mut values = BTreeMap::new();
    let Some(keys) = config.get::<Option<Table>>("rsync")? else { return Ok(values) };
    for pair in keys.pairs::<Value, Value>() {
        let (Value::String(key), value) = pair? else { continue };
        let key = key.to_string_lossy();
        if key.starts_with("_") && key != "_extra" {
            continue;
        }
        let wrong = || {
            Error::runtime(format!("Parameter \"rsync.{key}\" cannot be a {}.", value.type_name()))
        };
        let value = match &value {
            Value::Boolean(yes) => RsyncValue::Bool(*yes),
            Value::Integer(number) => RsyncValue::Text(number.to_string().into()),
            Value::Number(number) => RsyncValue::Number(*number),
            Value::String(text) => {
                let text = OsString::from_vec(text.as_bytes().to_vec());
                // What is run where nothing is said is nobody's own program.
                if key == "binary" && STANDARD.iter().any(|standard| text == **standard) {
                    continue;
                }
                RsyncValue::Text(text)
            }
            Value::Table(_) => RsyncValue::List(os_list(&value).map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        values.insert(key, value);
    }
    Ok(values)
}

pub(super) fn shell(config: &Table) -> Result<Option<RsyncShell>, String> {
    let plain = |error: Error| error.to_string();
    let Some(keys) = config.get::<Option<Table>>("ssh").map_err(plain)? else { return Ok(None) };
    let mut options = Vec::new();
    if let Some(given) = keys.get::<Option<Table>>("options").map_err(plain)? {
        for pair in given.pairs::<String, Value>() {
            let (key, value) = pair.map_err(plain)?;
            options.push((key.into(), value.to_string().map_err(plain)?.into()));
        }
    }
    // A table of Lua has no order of its own.
    options.sort();
    let port = match keys.get::<Value>("port").map_err(plain)? {
        Value::Nil => None,
        value => {
            let number = value.to_string().ok().and_then(|text| text.parse::<u16>().ok());
            Some(
                number
                    .filter(|port| *port > 0)
                    .ok_or("ssh.port is not a number from 1 to 65535")?,
            )
        }
    };
    let words = |key: &str| match keys.get::<Value>(key).map_err(plain)? {
        Value::Nil => Ok(Vec::new()),
        list => os_list(&list).map_err(|_| format!("ssh.{key} must be a text or a list of texts")),
    };
    let binary = words("binary")?;
    Ok(Some(RsyncShell {
        program: if binary.is_empty() { vec!["ssh".into()] } else { binary },
        identities: words("identityFile")?,
        options,
        port,
        extra: words("_extra")?,
    }))
}

/// `filter` and `filterFrom`, then `exclude` and `excludeFrom`, in rsync's words; and how many of
/// them are of the first kind. Files are looked for beneath `cwd`: a daemon is somewhere else later.
pub(super) fn rules(config: &Table, cwd: &Path) -> Result<(Vec<Vec<u8>>, usize), String> {
    let lines = |key: &str| -> Result<Vec<Vec<u8>>, String> {
        match config.get::<Value>(key).map_err(|error| error.to_string())? {
            Value::Nil | Value::Boolean(false) => Ok(Vec::new()),
            Value::String(one) => Ok(vec![one.as_bytes().to_vec()]),
            Value::Table(list) => list
                .sequence_values::<mlua::LuaString>()
                .map(|line| {
                    Ok(line.map_err(|_| format!("{key} must hold texts"))?.as_bytes().to_vec())
                })
                .collect(),
            other => Err(format!("{key} cannot be a {}", other.type_name())),
        }
    };
    let file = |key: &str| -> Result<Vec<Vec<u8>>, String> {
        let Some(path) = bytes(config, key).map_err(|error| error.to_string())? else {
            return Ok(Vec::new());
        };
        let path = cwd.join(OsString::from_vec(path));
        let text = std::fs::read(&path).map_err(|error| {
            format!(
                "cannot read {}: {}",
                super::told::path(&path),
                crate::error::plain(&error.to_string())
            )
        })?;
        Ok(text.split(|&b| b == b'\n').map(|line| line.trim_ascii_end().to_vec()).collect())
    };
    let mut all = Vec::new();
    for rule in lines("filter")?.into_iter().chain(file("filterFrom")?) {
        match rule.first() {
            None | Some(b'#') => {}
            Some(b'+' | b'-') => all.push(rule),
            Some(_) => {
                let shown = lsync_protocol::path::Escaped(&rule).to_string();
                return Err(format!("filter '{shown}' is neither '+ PATTERN' nor '- PATTERN'"));
            }
        }
    }
    let filters = all.len();
    let from = file("excludeFrom")?
        .into_iter()
        .filter(|line| !matches!(line.trim_ascii_start().first(), None | Some(b'#' | b'+')));
    let from = from.map(|line| match line.strip_prefix(b"-") {
        Some(rest) => rest.trim_ascii_start().to_vec(),
        None => line,
    });
    for pattern in lines("exclude")?.into_iter().chain(from).filter(|pattern| !pattern.is_empty()) {
        // By themselves they are what --exclude-from reads. Behind filters they are rules, `- ` and
        // all that is given: so Lsyncd 2 tells them to rsync.
        match pattern.as_slice() {
            b"!" if filters == 0 => all.clear(),
            [b'#' | b';', ..] if filters == 0 => {}
            [b'-' | b'+', b' ', ..] if filters == 0 => all.push(pattern),
            pattern => all.push([b"- ", pattern].concat()),
        }
    }
    Ok((all, filters))
}

fn delete(value: &Value) -> Result<Delete, String> {
    match value {
        Value::Nil | Value::Boolean(true) => Ok(Delete::Yes),
        Value::Boolean(false) => Ok(Delete::No),
        Value::String(when) if *when == "startup" => Ok(Delete::Startup),
        Value::String(when) if *when == "running" => Ok(Delete::Running),
        Value::String(when) => Err(format!(
            "delete = '{}' is not one of true, false, 'startup', 'running'",
            lsync_protocol::path::Escaped(&when.as_bytes())
        )),
        other => Err(format!("delete cannot be a {}", other.type_name())),
    }
}

fn exit_codes(codes: &Table) -> mlua::Result<BTreeMap<i32, ExitMeaning>> {
    let mut meant = BTreeMap::new();
    for pair in codes.pairs::<Value, String>() {
        let (code, word) = pair?;
        // `_merge` and the like.
        let Some(code) = code.as_i32() else { continue };
        let meaning = ExitMeaning::from_word(&word).ok_or_else(|| {
            Error::runtime(format!("exit code {code}: '{word}' is not one of ok, again, die"))
        })?;
        meant.insert(code, meaning);
    }
    Ok(meant)
}

fn bytes(table: &Table, key: &str) -> mlua::Result<Option<Vec<u8>>> {
    Ok(table.get::<Option<mlua::LuaString>>(key)?.map(|text| text.as_bytes().to_vec()))
}

fn text(table: &Table, key: &str) -> mlua::Result<Option<String>> {
    Ok(table.get::<Option<mlua::LuaString>>(key)?.map(|text| text.to_string_lossy()))
}

fn count(table: &Table, key: &str) -> Result<Option<u64>, String> {
    let wrong = || format!("{key} must be a whole number, zero or more");
    match table.get::<Value>(key).map_err(|_| wrong())? {
        Value::Nil | Value::Boolean(false) => Ok(None),
        Value::Integer(number) => u64::try_from(number).map(Some).map_err(|_| wrong()),
        // A whole number of Lua may be written as 1e6.
        Value::Number(number) if number >= 0.0 && number.fract() == 0.0 && number < 1e15 =>
        {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Ok(Some(number as u64))
        }
        _ => Err(wrong()),
    }
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_number().or_else(|| value.as_integer().map(|n| n as f64))?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The same, of bytes.
fn os_list(value: &Value) -> mlua::Result<Vec<OsString>> {
    match value {
        Value::String(one) => Ok(vec![OsString::from_vec(one.as_bytes().to_vec())]),
        Value::Table(list) => list
            .sequence_values::<Value>()
            .map(|value| match value? {
                Value::String(text) => Ok(OsString::from_vec(text.as_bytes().to_vec())),
                Value::Integer(number) => Ok(number.to_string().into()),
                Value::Number(number) => Ok(number.to_string().into()),
                _ => Err(Error::runtime("not a text")),
            })
            .collect(),
        _ => Err(Error::runtime("not a list")),
    }
}

/// A list of texts and numbers, as texts.
fn lua_list(value: &Value) -> mlua::Result<Vec<String>> {
    let list = os_list(value)?;
    list.into_iter()
        .map(|word| word.into_string().map_err(|_| Error::runtime("not a text of Unicode")))
        .collect()
}
