//! Names of users and groups, through NSS, remembered for a minute: a tree has many files and few
//! owners, and an account that is made meanwhile has to be seen.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};

/// How long an answer is believed.
const FRESH: Duration = Duration::from_secs(60);

/// How many answers are kept.
const MOST: usize = 16 * 1024;

/// When an answer came, and what it was.
type Answer<V> = (Instant, Option<V>);

struct Known<K, V>(LazyLock<Mutex<HashMap<K, Answer<V>>>>);

impl<K: Hash + Eq, V: Clone> Known<K, V> {
    const fn new() -> Known<K, V> {
        Known(LazyLock::new(Mutex::default))
    }

    fn get(&self, key: K, ask: impl FnOnce(&K) -> Option<V>) -> Option<V> {
        let now = Instant::now();
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((then, answer)) = known.get(&key)
                && now.duration_since(*then) < FRESH
            {
                return answer.clone();
            }
        }
        // A directory service may take its time; others go on meanwhile.
        let answer = ask(&key);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, (now, answer.clone()));
        answer
    }
}

static USER_NAMES: Known<u32, String> = Known::new();
static GROUP_NAMES: Known<u32, String> = Known::new();
static USERS: Known<String, u32> = Known::new();
static GROUPS: Known<String, u32> = Known::new();

/// What a user is called here; `None` when nobody has the number.
#[must_use]
pub fn user_name(uid: u32) -> Option<String> {
    USER_NAMES.get(uid, |&uid| User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|u| u.name))
}

/// What a group is called here; `None` when none has the number.
#[must_use]
pub fn group_name(gid: u32) -> Option<String> {
    GROUP_NAMES.get(gid, |&gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|g| g.name))
}

/// The number of a user here; `None` when nobody is called so.
#[must_use]
pub fn uid_of(name: &str) -> Option<u32> {
    // NSS takes C strings; a NUL from a peer names nobody.
    if name.contains('\0') {
        return None;
    }
    USERS.get(name.to_owned(), |name| User::from_name(name).ok().flatten().map(|u| u.uid.as_raw()))
}

/// The number of a group here; `None` when none is called so.
#[must_use]
pub fn gid_of(name: &str) -> Option<u32> {
    if name.contains('\0') {
        return None;
    }
    GROUPS
        .get(name.to_owned(), |name| Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw()))
}

/// The home of the user we run as, as the system's list of users has it.
#[must_use]
pub fn home() -> Option<std::path::PathBuf> {
    User::from_uid(Uid::effective()).ok().flatten().map(|user| user.dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_lead_to_numbers_and_back() {
        assert_eq!(uid_of("root"), Some(0));
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(gid_of("root"), Some(0));
        assert_eq!(group_name(0).as_deref(), Some("root"));
        assert_eq!(uid_of("no such user, ever"), None);
        assert_eq!(uid_of("ro\0ot"), None);
        assert_eq!(user_name(3_999_999_999), None);
    }

    #[test]
    fn an_answer_is_asked_for_once() {
        let known: Known<u32, u32> = Known::new();
        let asked = std::cell::Cell::new(0);
        for _ in 0..3 {
            let ask = |_: &u32| {
                asked.set(asked.get() + 1);
                Some(7)
            };
            assert_eq!(known.get(1, ask), Some(7));
        }
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn nobody_is_called_nothing() {
        for name in ["", " ", "\n", "0", "root\n", "\nroot", "root:x", "\0", "+", "-"] {
            assert_eq!(uid_of(name), None, "{name:?}");
            assert_eq!(gid_of(name), None, "{name:?}");
        }
    }
}
