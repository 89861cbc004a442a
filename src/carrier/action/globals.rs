//! The functions that scripts call, as globals of the interpreter.

use std::sync::Arc;
use std::time::Instant;

use mlua::{AnyUserData, Function, Lua, Result, Table, Value, Variadic};

use super::ActionLog;
use super::host::{Alarm, Host};
use super::observe::Observed;
use super::run::Input;
use super::stamp::Stamp;
use super::{calls, system};
use crate::error::plain;

/// The version of the interface for scripts: that of the last Lsyncd 2, which they ask for.
const INTERFACE: &str = "2.3.1";

/// The Lua side of the library, for the interpreter's thread.
pub(super) struct Library {
    pub(super) host: Arc<Host>,
    pub(super) objects: Table,
    pub(super) log: Function,
    /// What a sync's action is unless it has its own.
    pub(super) default_action: Function,
}

/// Gives an interpreter all functions of Lsyncd 2's scripts, before a configuration is loaded. What
/// is logged meanwhile goes to `log`.
///
/// # Errors
/// The interpreter has no room for them.
pub fn install(lua: &Lua, log: Arc<dyn ActionLog>) -> Result<()> {
    let host = Arc::new(Host::new(log));
    let globals = lua.globals();
    let core = calls::table(lua, &host)?;
    let lsyncd = lua.create_table()?;

    let shared = Arc::clone(&host);
    let log = lua.create_function(move |_, (category, parts): (String, Variadic<Value>)| {
        let mut text = String::new();
        for part in parts.iter() {
            match part {
                Value::String(part) => text.push_str(&part.to_string_lossy()),
                part => text.push_str(&part.to_string()?),
            }
        }
        shared.say(&category, &text);
        Ok(())
    })?;
    globals.raw_set("log", &log)?;
    lsyncd.raw_set("log", &log)?;

    let now = lua.create_function(|_, ()| Ok(Stamp(Instant::now())))?;
    globals.raw_set("now", &now)?;
    lsyncd.raw_set("now", now)?;

    let shared = Arc::clone(&host);
    let alarm =
        lua.create_function(move |_, (at, function, extra): (AnyUserData, Function, Value)| {
            let at = at.borrow::<Stamp>().map_err(|_| {
                mlua::Error::runtime("alarm() needs a timestamp first: now() + seconds")
            })?;
            let mut state = shared.state();
            let number = state.number();
            let sync = state.current;
            state.alarms.insert((at.0, number), Alarm { function, extra, sync });
            Ok(())
        })?;
    globals.raw_set("alarm", alarm)?;

    let shared = Arc::clone(&host);
    let terminate = lua.create_function(move |_, code: i32| -> Result<()> {
        shared.state().terminated.get_or_insert(code);
        Err(mlua::Error::runtime(format!("terminated by the script with {code}")))
    })?;
    globals.raw_set("terminate", &terminate)?;
    lsyncd.raw_set("terminate", terminate)?;

    let shared = Arc::clone(&host);
    let observe = lua.create_function(
        move |_, (fd, ready, writey): (i32, Option<Function>, Option<Function>)| {
            observe(&shared, fd, ready, writey)
        },
    )?;
    let shared = Arc::clone(&host);
    let leave = lua.create_function(move |_, fd: i32| {
        let left = shared.state().observed.remove(&fd);
        drop(left);
        Ok(())
    })?;
    for (global, method, function) in
        [("observefd", "observe_fd", observe), ("nonobservefd", "nonobserve_fd", leave)]
    {
        globals.raw_set(global, &function)?;
        lsyncd.raw_set(method, function)?;
    }

    globals.raw_set("lsyncd_version", INTERFACE)?;
    globals.raw_set("lsyncd", &lsyncd)?;
    system::install(lua, &host, &lsyncd)?;

    let load = |text: &'static str, name: &str| lua.load(text).set_name(format!("={name}"));
    load(include_str!("globals.lua"), "lsyncd").exec()?;
    let objects: Table = load(include_str!("objects.lua"), "lsyncd").call(&core)?;
    globals.raw_set("spawn", objects.raw_get::<Function>("spawn")?)?;
    globals.raw_set("spawnShell", objects.raw_get::<Function>("spawnShell")?)?;
    let default: Table = load(include_str!("default.lua"), "lsyncd").call((&core, &objects))?;
    let default_action = default.raw_get("action")?;
    globals.raw_set("default", default)?;

    lua.set_app_data(Library { host, objects, log, default_action });
    Ok(())
}

/// Watches a descriptor from now on, instead of what was watched by this number before.
fn observe(
    host: &Arc<Host>,
    fd: i32,
    ready: Option<Function>,
    writey: Option<Function>,
) -> Result<()> {
    let (number, tell) = (host.state().number(), host.input.clone());
    let old = if ready.is_none() && writey.is_none() {
        host.state().observed.remove(&fd)
    } else {
        let observed = Observed::start(fd, number, ready, writey, move |ready| {
            let _ = tell.send(Input::Ready(ready));
        })
        .map_err(|error| {
            let error = plain(&error.to_string());
            mlua::Error::runtime(format!("cannot observe descriptor {fd}: {error}"))
        })?;
        host.state().observed.insert(fd, observed)
    };
    drop(old);
    Ok(())
}

/// The code that a script gave to `terminate`, while it was loaded or since.
#[must_use]
pub fn terminated(lua: &Lua) -> Option<i32> {
    lua.app_data_ref::<Library>()?.host.state().terminated
}
