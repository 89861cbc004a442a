//! `core`: what the Lua side of the library calls to reach the queue. Scripts do not see it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use lsync_protocol::path::{Escaped, RelPath};
use mlua::{Lua, LuaString, Result, Table, Value};

use super::child::{self, Outcome, Program};
use super::host::{Child, Host, State, SyncState, raw_path, status_word};
use super::queue::{Change, Decision, DelayId, Etype, Gather, Place, Status};
use super::run::Input;
use crate::filter::Filter;

/// The one sync that a script's event belongs to, if it goes on.
fn sync(state: &mut State, number: usize) -> Result<&mut SyncState> {
    state.sync(number).ok_or_else(|| mlua::Error::runtime("this sync is not there"))
}

/// A function of `core` that needs nothing but its arguments and the state.
macro_rules! call {
    ($lua:ident, $table:ident, $host:ident, $name:literal, |$state:ident, $args:tt : $types:ty| $body:expr) => {{
        let host = Arc::clone($host);
        let function = $lua.create_function(move |_, $args: $types| {
            #[allow(unused_mut)]
            let mut $state = host.state();
            $body
        })?;
        $table.raw_set($name, function)?;
    }};
}

/// The table of these functions.
pub(super) fn table(lua: &Lua, host: &Arc<Host>) -> Result<Table> {
    let table = lua.create_table()?;
    queue_calls(lua, host, &table)?;
    rule_calls(lua, host, &table)?;

    let shared = Arc::clone(host);
    let log = lua.create_function(move |_, (category, text): (String, LuaString)| {
        // What the library says is one line, whatever is in a name.
        shared.say(&category, &Escaped(&text.as_bytes()).to_string());
        Ok(())
    })?;
    table.raw_set("log", log)?;

    call!(lua, table, host, "fading", |state, (): ()| {
        Ok(state.fading.is_some() || state.terminated.is_some())
    });
    call!(lua, table, host, "insist", |state, number: usize| {
        Ok(sync(&mut state, number)?.insist)
    });
    call!(lua, table, host, "verdict", |state, (number, code): (usize, i32)| {
        let word = match &sync(&mut state, number)?.exit_codes {
            Some(codes) => match codes.get(&code) {
                Some(verdict) => Some(verdict.word()),
                None => (code == 0).then_some("ok"),
            },
            None => Some(if code == 0 { "ok" } else { "none" }),
        };
        Ok(word)
    });
    let shared = Arc::clone(host);
    type Spawn = (usize, Vec<u64>, Table, LuaString, Vec<LuaString>, Option<LuaString>);
    let spawn =
        lua.create_function(move |_, (number, ids, agent, binary, args, stdin): Spawn| {
            let bytes = |text: &LuaString| text.as_bytes().to_vec();
            let program = Program {
                binary: bytes(&binary),
                args: args.iter().map(bytes).collect(),
                stdin: stdin.as_ref().map(bytes),
            };
            spawn(&shared, number, ids.into_iter().map(DelayId).collect(), agent, program)
        })?;
    table.raw_set("spawn", spawn)?;
    Ok(table)
}

/// Starts a child for these delays.
fn spawn(
    host: &Arc<Host>,
    number: usize,
    ids: Vec<DelayId>,
    agent: Table,
    program: Program,
) -> Result<Option<u32>> {
    let shown = Escaped(&program.binary).to_string();
    let words: Vec<String> = program.args.iter().map(|arg| format!("[{}]", Escaped(arg))).collect();
    host.say("Exec", &format!("{shown} {}", words.join(" ")));
    let (child, output) = {
        let mut state = host.state();
        let (child, output) = (state.number(), state.options.output.clone());
        let sync = sync(&mut state, number)?;
        if sync.ended() {
            return Ok(None);
        }
        sync.queue.activate(&ids);
        sync.children += 1;
        sync.touch();
        (child, output)
    };
    let tell = host.input.clone();
    let started = child::start(program, &output, move |outcome| {
        let _ = tell.send(Input::Ended(child, outcome));
    });
    let pid = *started.as_ref().unwrap_or(&0);
    host.state().children.insert(child, Child { sync: number, ids, agent, pid });
    match started {
        Ok(pid) => Ok(Some(pid)),
        Err(error) => {
            host.say("Error", &format!("cannot run {shown}: {error}"));
            let _ = host.input.send(Input::Ended(child, Outcome::NOT_STARTED));
            Ok(None)
        }
    }
}

fn queue_calls(lua: &Lua, host: &Arc<Host>, table: &Table) -> Result<()> {
    let shared = Arc::clone(host);
    let delay = lua.create_function(move |lua, (number, id): (usize, u64)| {
        let mut state = shared.state();
        let delay = sync(&mut state, number)?.queue.get(DelayId(id)).cloned();
        drop(state);
        let Some(delay) = delay else { return Ok((None, None, None, None)) };
        let path = lua.create_string(raw_path(&delay))?;
        let path2 = delay.change.to.as_ref().map(|to| lua.create_string(to.slashed()));
        let words = (delay.change.etype.name(), status_word(delay.status));
        Ok((Some(words.0), Some(words.1), Some(path), path2.transpose()?))
    })?;
    table.raw_set("delay", delay)?;

    call!(lua, table, host, "next", |state, number: usize| {
        let sync = sync(&mut state, number)?;
        let next = if sync.ended() { None } else { sync.queue.next(Instant::now()) };
        Ok(next.map(|id| id.0))
    });
    call!(lua, table, host, "idle", |state, number: usize| {
        let idle = sync(&mut state, number)?.queue.idle();
        Ok(idle.into_iter().map(|id| id.0).collect::<Vec<u64>>())
    });
    call!(lua, table, host, "discard", |state, (number, id): (usize, u64)| {
        let id = DelayId(id);
        let waits = sync(&mut state, number)?
            .queue
            .get(id)
            .is_some_and(|delay| delay.status == Status::Wait);
        if waits {
            state.finish(number, id);
        }
        Ok(waits)
    });
    call!(lua, table, host, "barrier", |state, number: usize| {
        push_whole(&mut state, number, Change::whole(Etype::Blanket))
    });
    call!(lua, table, host, "full", |state, (number, path): (usize, LuaString)| {
        let bytes = path.as_bytes();
        let inner = bytes.strip_prefix(b"/").unwrap_or(&bytes);
        let inner = inner.strip_suffix(b"/").unwrap_or(inner);
        let path = RelPath::new(inner)
            .map_err(|error| mlua::Error::runtime(format!("createFullEvent(): {error}")))?;
        let path = Place { path, dir: true };
        push_whole(&mut state, number, Change { etype: Etype::Full, path, to: None })
    });

    let shared = Arc::clone(host);
    let gather = lua.create_function(move |lua, number: usize| {
        let (shared, gather) = (Arc::clone(&shared), Mutex::new(Gather::default()));
        lua.create_function(move |_, (id, take): (u64, bool)| {
            let mut state = shared.state();
            let mut gather = gather.lock().unwrap_or_else(PoisonError::into_inner);
            let queue = &sync(&mut state, number)?.queue;
            let Some(delay) = queue.get(DelayId(id)) else { return Ok(false) };
            let taken = take && gather.may_take(queue, delay);
            if !taken {
                gather.leave(delay);
            }
            Ok(taken)
        })
    })?;
    table.raw_set("gather", gather)?;
    Ok(())
}

fn push_whole(state: &mut State, number: usize, change: Change) -> Result<u64> {
    let sync = sync(state, number)?;
    let decisions = sync.queue.push(Instant::now(), change);
    sync.touch();
    match decisions.first() {
        Some(Decision::New(id) | Decision::Stacked { new: id, .. }) => Ok(id.0),
        _ => Err(mlua::Error::runtime("the queue did not take the event")),
    }
}

fn rule_calls(lua: &Lua, host: &Arc<Host>, table: &Table) -> Result<()> {
    call!(lua, table, host, "rule", |state, (number, rule): (usize, LuaString)| {
        let sync = sync(&mut state, number)?;
        let mut rules: Vec<Vec<u8>> = sync.filter.texts().map(<[u8]>::to_vec).collect();
        rules.push(rule.as_bytes().to_vec());
        set_rules(sync, &rules)
    });
    call!(lua, table, host, "unrule", |state, (number, rule): (usize, LuaString)| {
        let sync = sync(&mut state, number)?;
        let mut rules: Vec<Vec<u8>> = sync.filter.texts().map(<[u8]>::to_vec).collect();
        rules.retain(|old| *old != *rule.as_bytes());
        set_rules(sync, &rules)
    });
    let shared = Arc::clone(host);
    let rules = lua.create_function(move |lua, number: usize| {
        let mut state = shared.state();
        let filter = sync(&mut state, number)?.filter.clone();
        drop(state);
        let list = lua.create_table()?;
        for text in filter.texts() {
            let at = text.iter().position(|&b| b == b' ').unwrap_or(text.len());
            let (sign, pattern) = (&text[..at], text.get(at + 1..).unwrap_or_default());
            let pair: [Value; 2] = [
                Value::String(lua.create_string(sign)?),
                Value::String(lua.create_string(pattern)?),
            ];
            list.raw_push(lua.create_sequence_from(pair)?)?;
        }
        Ok(list)
    })?;
    table.raw_set("rules", rules)?;
    Ok(())
}

fn set_rules(sync: &mut SyncState, rules: &[Vec<u8>]) -> Result<()> {
    let root = sync.source.as_os_str().as_encoded_bytes();
    let filter = Filter::parse(rules.iter().map(Vec::as_slice))
        .map_err(|error| mlua::Error::runtime(error.to_string()))?;
    if filter.reads_directories() {
        return Err(mlua::Error::runtime("a rule that is read in each directory does not go here"));
    }
    sync.filter = filter.at_root(root);
    Ok(())
}
