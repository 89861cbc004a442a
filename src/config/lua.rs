//! Lsyncd 2's configuration files: programs in Lua 5.4, run once, whose `settings{}` and `sync{}`
//! become values.
//!
//! Whoever wants scripts to hear of events installs what they call (`spawn`, `alarm` and the like)
//! before the file is run, into the same interpreter; here is only what a configuration says.
//! A file may do whatever a program of its user may: it is run, not parsed.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use mlua::{BString, Lua, Table, Value};

use crate::config::near::nearest;
use crate::config::rsync::{ExitCodes, KEYS, RsyncOptions};
use crate::config::settings::{Settings, Value as Given};
use crate::config::tunnel::TunnelKeys;
use crate::error::{Error, Result};

mod entry;
mod told;

pub use entry::{Entry, Way};

/// The words that configurations are written in.
const PRELUDE: &str = include_str!("lua/prelude.lua");
/// What the three ready ways do where a configuration changes them.
const ACTIONS: &str = include_str!("lua/actions.lua");

/// A configuration while it is read.
pub struct Reader {
    lua: Lua,
    answers: Table,
    cwd: PathBuf,
    settings: Arc<Mutex<Settings>>,
}

/// What a configuration said.
pub struct Program {
    /// The interpreter, with all that the configuration left in it.
    pub lua: Lua,
    /// `settings{}`.
    pub settings: Settings,
    /// One for each `sync{}`, in their order.
    pub entries: Vec<Entry>,
    /// One for each `tunnel{}`, in their order.
    pub tunnels: Vec<TunnelKeys>,
}

impl Reader {
    /// Puts `settings`, `sync` and the three ready ways into an interpreter. `settings` holds what is
    /// settled already; relative paths begin at `cwd`.
    ///
    /// # Errors
    /// The interpreter has no memory left.
    pub fn new(lua: Lua, settings: Settings, cwd: &Path) -> Result<Reader> {
        let settings = Arc::new(Mutex::new(settings));
        let answers = prelude(&lua, &settings, cwd)
            .map_err(|error| told::error("cannot start the interpreter", &error))?;
        Ok(Reader { lua, answers, cwd: cwd.to_owned(), settings })
    }

    /// Runs a file: a configuration, or one that comes before it (`-script`).
    ///
    /// # Errors
    /// It cannot be read, is no Lua, or refuses something; with the place in the file.
    pub fn run(&self, file: &Path) -> Result<()> {
        let cannot = || format!("cannot load {}", told::path(file));
        let text = std::fs::read(file).map_err(|error| {
            Error::failed(cannot()).because(error).hint("lsyncd CONFIG runs a configuration file")
        })?;
        // A first line for the shell is not Lua's; its line stays, so that numbers stay right.
        let text = if text.starts_with(b"#") { [b"--", &text[..]].concat() } else { text };
        let chunk = self.lua.load(text).set_name(format!("@{}", file.display()));
        chunk
            .set_mode(mlua::chunk::ChunkMode::Text)
            .exec()
            .map_err(|error| told::error(&cannot(), &error))
    }

    /// Adds a sync of the command line: `way` is `rsync`, `rsyncssh` or `direct`; `keys` are what
    /// stands behind it.
    ///
    /// # Errors
    /// As `sync{}` in a file.
    pub fn sync(&self, way: &str, keys: &[(&str, &[u8])], extra: &[String]) -> Result<()> {
        let add = || -> mlua::Result<()> {
            let globals = self.lua.globals();
            let given = self.lua.create_table()?;
            for (key, value) in keys {
                given.set(*key, self.lua.create_string(value)?)?;
            }
            if !extra.is_empty() {
                let ssh = self.lua.create_table()?;
                ssh.set("_extra", extra)?;
                given.set("ssh", ssh)?;
            }
            given.push(globals.get::<Table>("default")?.get::<Table>(way)?)?;
            globals.get::<mlua::Function>("sync")?.call(given)
        };
        add().map_err(|error| told::error(&format!("cannot set up -{way}"), &error))
    }

    /// The file has been read: what it said.
    ///
    /// # Errors
    /// An entry has a value of another type than its key wants, or `settings` was assigned to.
    pub fn finish(self) -> Result<Program> {
        let cannot = "cannot use the configuration";
        let told = |error: mlua::Error| told::error(cannot, &error);
        let entries = self.answers.get::<mlua::Function>("entries").map_err(told)?;
        let entries: Vec<Table> = entries.call(()).map_err(told)?;
        let entries: mlua::Result<Vec<Entry>> =
            entries.iter().map(|found| entry::read(found, &self.cwd)).collect();
        let entries = entries.map_err(told)?;
        let tunnels: Vec<Table> = self.answers.get("tunnels").map_err(told)?;
        let tunnels: mlua::Result<Vec<TunnelKeys>> = tunnels.iter().map(entry::tunnel).collect();
        let tunnels = tunnels.map_err(told)?;
        let finish = self.answers.get::<mlua::Function>("finish").map_err(told)?;
        finish.call::<()>(()).map_err(told)?;
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Program { lua: self.lua, settings, entries, tunnels })
    }
}

/// The source as the file names it: it must be there. A slash at its end, as Lsyncd 2 has it.
fn source(given: &[u8], cwd: &Path) -> std::result::Result<Vec<u8>, String> {
    let path = Path::new(OsStr::from_bytes(given));
    let shown = told::path(path);
    let there = cwd.join(path).canonicalize().map_err(|error| {
        format!("cannot mirror {shown}: {}", crate::error::plain(&error.to_string()))
    })?;
    if !there.is_dir() {
        return Err(format!("cannot mirror {shown}: not a directory"));
    }
    let mut bytes = there.into_os_string().into_vec();
    if bytes.last() != Some(&b'/') {
        bytes.push(b'/');
    }
    Ok(bytes)
}

/// A value of Lua as `settings{}` takes it.
fn given(value: &Value) -> Given {
    match value {
        Value::Boolean(yes) => Given::Bool(*yes),
        #[allow(clippy::cast_precision_loss, reason = "no setting is so large")]
        Value::Integer(number) => Given::Number(*number as f64),
        Value::Number(number) => Given::Number(*number),
        Value::String(text) => Given::Text(text.as_bytes().to_vec()),
        other => Given::Other(other.type_name()),
    }
}

/// Runs the prelude with what it calls.
fn prelude(lua: &Lua, settings: &Arc<Mutex<Settings>>, cwd: &Path) -> mlua::Result<Table> {
    let native = lua.create_table()?;
    let kept = Arc::clone(settings);
    let set = lua.create_function(move |_, (key, value): (String, Value)| {
        let mut settings = kept.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(settings.set(&key, given(&value)).err().map(|error| told::both(&error)))
    })?;
    native.set("set", set)?;
    let kept = Arc::clone(settings);
    let get = lua.create_function(move |lua, key: String| {
        let settings = kept.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match settings.get(&key) {
            None | Some(Given::Other(_)) => Value::Nil,
            Some(Given::Bool(yes)) => Value::Boolean(*yes),
            Some(Given::Number(number)) => Value::Number(*number),
            Some(Given::Text(text)) => Value::String(lua.create_string(text)?),
        })
    })?;
    native.set("setting", get)?;
    let from = cwd.to_owned();
    let cwd = cwd.to_owned();
    let source = lua.create_function(move |lua, given: mlua::LuaString| {
        Ok(match source(&given.as_bytes(), &cwd) {
            Ok(path) => (Some(lua.create_string(path)?), None),
            Err(why) => (None, Some(why)),
        })
    })?;
    native.set("source", source)?;
    let option = lua.create_function(|_, (key, word): (String, mlua::LuaString)| {
        Ok(told::option_in(&key, &word.as_bytes()))
    })?;
    native.set("option_in", option)?;
    let unknown = lua.create_function(|_, (name, key, gauge): (String, String, Table)| {
        let mut text =
            format!("Parameter \"{name}\" unknown. ( if this is not a typo add it to checkgauge )");
        if gauge.get::<Value>(key.as_str())? == Value::Boolean(false) {
            text.push_str("\nhint: the ready ways decide that themselves; leave it out, or write a sync of your own");
            return Ok(text);
        }
        let known = gauge.pairs::<Value, Value>().flatten();
        let known = known.filter(|(_, known)| *known != Value::Boolean(false));
        let known: Vec<String> = known.filter_map(|(key, _)| key.to_string().ok()).collect();
        if let Some(near) = nearest(key.as_bytes(), known.iter().map(String::as_str)) {
            text.push_str(&format!("\nhint: did you mean {near}?"));
        }
        Ok(text)
    })?;
    native.set("unknown_parameter", unknown)?;
    let codes = lua.create_function(|lua, ()| {
        let codes = ExitCodes::default();
        lua.create_table_from(codes.iter().map(|(code, meaning)| (code, meaning.word())))
    })?;
    native.set("rsync_exit_codes", codes)?;
    let keys = lua.create_function(|lua, ()| {
        lua.create_table_from(KEYS.iter().map(|key| (key.name, true)))
    })?;
    native.set("rsync_keys", keys)?;
    let words = lua.create_function(|_, config: Table| {
        let keys = entry::rsync_values(&config)?;
        Ok(match RsyncOptions::from_keys(&keys) {
            Ok(options) => {
                let options = match entry::shell(&config).map_err(mlua::Error::runtime)? {
                    Some(shell) => options.with_shell(&shell),
                    None => options,
                };
                let words = options.live_words().into_iter();
                (Some(words.map(|word| word.into_vec().into()).collect::<Vec<BString>>()), None)
            }
            Err(error) => (None, Some(told::both(&error))),
        })
    })?;
    native.set("rsync_words", words)?;
    let rules = lua.create_function(move |lua, config: Table| {
        let (rules, filters) = entry::rules(&config, &from).map_err(mlua::Error::runtime)?;
        rules
            .iter()
            .take(filters)
            .map(|rule| lua.create_string(rule))
            .collect::<mlua::Result<Vec<_>>>()
    })?;
    native.set("rules", rules)?;
    let answers = lua.load(PRELUDE).set_name("=lsyncd").call(&native)?;
    lua.load(ACTIONS).set_name("=lsyncd").call::<()>(&native)?;
    Ok(answers)
}

#[cfg(test)]
mod tests;
