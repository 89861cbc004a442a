//! Timestamps, as scripts have them: opaque, with seconds to add and to take away.

use std::time::{Duration, Instant};

use mlua::{AnyUserData, MetaMethod, UserData, UserDataMethods, Value};

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(pub(super) Instant);

/// Seconds that a script gave: not negative, and no more than a century.
fn seconds(value: f64) -> mlua::Result<Duration> {
    const MOST: f64 = 100.0 * 366.0 * 86400.0;
    Duration::try_from_secs_f64(value.min(MOST))
        .map_err(|_| mlua::Error::runtime("a timestamp takes a positive number of seconds"))
}

impl Stamp {
    fn moved(self, by: f64) -> mlua::Result<Stamp> {
        let moved = if by >= 0.0 {
            self.0.checked_add(seconds(by)?)
        } else {
            self.0.checked_sub(seconds(-by)?)
        };
        moved.map(Stamp).ok_or_else(|| mlua::Error::runtime("this timestamp is too far away"))
    }
}

fn stamp(value: &Value) -> Option<Stamp> {
    value.as_userdata().and_then(|data| Some(*data.borrow::<Stamp>().ok()?))
}

fn number(value: &Value) -> Option<f64> {
    value.as_number().or_else(|| value.as_integer().map(|n| n as f64))
}

impl UserData for Stamp {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_function(MetaMethod::Add, |_, (a, b): (Value, Value)| {
            let pair = stamp(&a).zip(number(&b)).or_else(|| stamp(&b).zip(number(&a)));
            let (stamp, by) = pair.ok_or_else(|| {
                mlua::Error::runtime("only a number of seconds can be added to a timestamp")
            })?;
            stamp.moved(by)
        });
        methods.add_meta_function(MetaMethod::Sub, |lua, (a, b): (Value, Value)| {
            let from = stamp(&a)
                .ok_or_else(|| mlua::Error::runtime("a timestamp cannot be taken from that"))?;
            if let Some(other) = stamp(&b) {
                let ahead = from.0.saturating_duration_since(other.0).as_secs_f64();
                let behind = other.0.saturating_duration_since(from.0).as_secs_f64();
                return Ok(Value::Number(ahead - behind));
            }
            let by = number(&b).ok_or_else(|| {
                mlua::Error::runtime("only seconds or a timestamp can be taken from a timestamp")
            })?;
            lua.create_userdata(from.moved(-by)?).map(Value::UserData)
        });
        type Pair = (AnyUserData, AnyUserData);
        fn both((a, b): Pair) -> mlua::Result<(Stamp, Stamp)> {
            Ok((*a.borrow()?, *b.borrow()?))
        }
        methods.add_meta_function(MetaMethod::Lt, |_, pair: Pair| both(pair).map(|(a, b)| a < b));
        methods.add_meta_function(MetaMethod::Le, |_, pair: Pair| both(pair).map(|(a, b)| a <= b));
        methods.add_meta_function(MetaMethod::Eq, |_, (a, b): (Value, Value)| {
            Ok(stamp(&a).is_some() && stamp(&a) == stamp(&b))
        });
        methods.add_meta_method(MetaMethod::ToString, |_, stamp, ()| {
            let ahead = stamp.0.saturating_duration_since(Instant::now()).as_secs_f64();
            let behind = stamp.0.elapsed().as_secs_f64();
            Ok(format!("(Timestamp: {:+.2} s from now)", ahead - behind))
        });
    }
}
