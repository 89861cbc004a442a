//! What scripts may ask of the system: directories, sizes, ports, their own children.

use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlua::{Lua, LuaString, Result, Table};

use super::host::Host;

fn path(text: &LuaString) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(&text.as_bytes())).to_owned()
}

/// Functions that the table `lsyncd` had and that nothing answers to here, and what to do instead.
const GONE: [(&str, &str); 7] = [
    ("configure", "use settings{}"),
    ("exec", "use spawn()"),
    ("stackdump", "use debug.traceback() where the configuration may"),
    ("jiffies_from_seconds", "use now() + seconds"),
    ("get_process_info", "read /proc"),
    ("addwatch", "directories are watched as they appear"),
    ("rmwatch", "directories are watched as they appear"),
];

/// Puts the functions into the table `lsyncd` and the globals.
pub(super) fn install(lua: &Lua, host: &Arc<Host>, lsyncd: &Table) -> Result<()> {
    let readdir = lua.create_function(|lua, dir: LuaString| {
        let Ok(entries) = std::fs::read_dir(path(&dir)) else { return Ok(None) };
        let table = lua.create_table()?;
        for entry in entries.flatten() {
            let dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            table.raw_set(lua.create_string(entry.file_name().as_bytes())?, dir)?;
        }
        Ok(Some(table))
    })?;
    lua.globals().raw_set("readdir", &readdir)?;
    lsyncd.raw_set("readdir", readdir)?;

    let realdir = lua.create_function(|lua, dir: LuaString| {
        let Ok(real) = std::fs::canonicalize(path(&dir)) else { return Ok(None) };
        if !real.is_dir() {
            return Ok(None);
        }
        let mut bytes = real.as_os_str().as_bytes().to_vec();
        if !bytes.ends_with(b"/") {
            bytes.push(b'/');
        }
        lua.create_string(bytes).map(Some)
    })?;
    lsyncd.raw_set("realdir", realdir)?;

    let size = lua.create_function(|_, file: LuaString| {
        Ok(std::fs::metadata(path(&file)).ok().map(|meta| meta.len()))
    })?;
    lsyncd.raw_set("get_file_size", size)?;

    let port = lua.create_function(|_, ()| {
        let listener = TcpListener::bind(("127.0.0.1", 0));
        Ok(listener.and_then(|l| l.local_addr()).map(|address| address.port()).ok())
    })?;
    lsyncd.raw_set("get_free_port", port)?;

    let host = Arc::clone(host);
    let kill = lua.create_function(move |_, (pid, signal): (u32, i32)| {
        if !host.state().children.values().any(|child| child.pid == pid) {
            return Err(mlua::Error::runtime(format!("kill: {pid} is no child of a sync")));
        }
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let signal = rustix::process::Signal::from_named_raw(signal);
        let (Some(pid), Some(signal)) = (pid, signal) else {
            return Err(mlua::Error::runtime("kill: there is no such signal"));
        };
        Ok(rustix::process::kill_process(pid, signal).is_ok())
    })?;
    lsyncd.raw_set("kill", kill)?;

    let inotify = lua.create_table()?;
    for (name, instead) in GONE {
        let table = if name.ends_with("watch") { &inotify } else { lsyncd };
        let text = format!("lsyncd.{name} is not there any more: {instead}");
        let refuse = lua.create_function(move |_, _: mlua::MultiValue| -> Result<()> {
            Err(mlua::Error::runtime(text.clone()))
        })?;
        table.raw_set(name, refuse)?;
    }
    lsyncd.raw_set("inotify", inotify)?;
    Ok(())
}
