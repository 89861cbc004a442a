//! Other owners and permissions on the target: `--chown`, `--usermap`, `--groupmap` and `--chmod`,
//! in rsync(1)'s words.
//!
//! A mapping is part of what the target is to hold: both a first mirror and live changes compare
//! what it makes of the source with what is there, so a repeat finds nothing to do. Pure.

mod chmod;

pub use chmod::Chmod;

/// What owners and permissions become on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Of users.
    pub users: OwnerMap,
    /// Of groups.
    pub groups: OwnerMap,
    /// Of permission bits.
    pub chmod: Chmod,
}

/// Rules that make one owner another; the first that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerMap(Vec<(From, To)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    /// These numbers, both ends included.
    Ids(u32, u32),
    /// Names that match, by `*`, `?` and classes; an empty one: owners without a name.
    Name(String),
}

/// Whom an owner becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// A number of the target.
    Id(u32),
    /// A name of the target.
    Name(String),
}

/// Why a map is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMap {
    /// A part without a colon.
    #[error("'{0}' is not FROM:TO")]
    NoColon(String),
    /// Nobody to become.
    #[error("'{0}' says nobody whom they become")]
    NoTarget(String),
    /// A number over what there are, or a range that ends before it begins.
    #[error("'{0}' is no number of an owner, nor a range of them")]
    Number(String),
}

impl OwnerMap {
    /// Everybody becomes this one.
    ///
    /// # Errors
    /// [`BadMap`].
    pub fn all(to: &str) -> Result<OwnerMap, BadMap> {
        Ok(OwnerMap(vec![(From::Name("*".to_owned()), to_of(to, to)?)]))
    }

    /// Reads `FROM:TO,FROM:TO…`.
    ///
    /// # Errors
    /// [`BadMap`], with the part that is wrong.
    pub fn parse(text: &str) -> Result<OwnerMap, BadMap> {
        let one = |part: &str| {
            let (from, to) = part.split_once(':').ok_or_else(|| BadMap::NoColon(part.into()))?;
            Ok((from_of(from, part)?, to_of(to, part)?))
        };
        text.split(',').map(one).collect::<Result<_, BadMap>>().map(OwnerMap)
    }

    /// Are there no rules?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the target that it gives, each once.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for (_, to) in &self.0 {
            match to {
                To::Name(name) if !names.contains(name) => names.push(name.clone()),
                _ => {}
            }
        }
        names
    }

    /// Whom this owner becomes; `None`: whom it would without a map. Owners without a name, and all
    /// with `--numeric-ids`, have an empty one.
    #[must_use]
    pub fn find(&self, id: u32, name: &str) -> Option<&To> {
        let matches = |from: &From| match from {
            From::Ids(low, high) => (*low..=*high).contains(&id),
            From::Name(pattern) => matches(pattern.as_bytes(), name.as_bytes()),
        };
        self.0.iter().find(|(from, _)| matches(from)).map(|(_, to)| to)
    }
}

fn number(text: &str, part: &str) -> Result<u32, BadMap> {
    match text.parse() {
        Ok(u32::MAX) | Err(_) => Err(BadMap::Number(part.to_owned())),
        Ok(id) => Ok(id),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn from_of(text: &str, part: &str) -> Result<From, BadMap> {
    if let Some((low, high)) = text.split_once('-')
        && is_number(low)
        && is_number(high)
    {
        let (low, high) = (number(low, part)?, number(high, part)?);
        return if low <= high {
            Ok(From::Ids(low, high))
        } else {
            Err(BadMap::Number(part.to_owned()))
        };
    }
    if is_number(text) {
        let id = number(text, part)?;
        return Ok(From::Ids(id, id));
    }
    Ok(From::Name(text.to_owned()))
}

fn to_of(text: &str, part: &str) -> Result<To, BadMap> {
    if text.is_empty() {
        Err(BadMap::NoTarget(part.to_owned()))
    } else if is_number(text) {
        number(text, part).map(To::Id)
    } else {
        Ok(To::Name(text.to_owned()))
    }
}

/// Does a name match a pattern of the shell, wholly?
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            matches(&pattern[1..], name) || (!name.is_empty() && matches(pattern, &name[1..]))
        }
        (Some(b'?'), Some(_)) => matches(&pattern[1..], &name[1..]),
        (Some(b'['), Some(&byte)) => match class(&pattern[1..], byte) {
            Some((true, rest)) => matches(rest, &name[1..]),
            Some((false, _)) => false,
            None => byte == b'[' && matches(&pattern[1..], &name[1..]),
        },
        (Some(b'\\'), Some(&byte)) if pattern.len() > 1 => {
            pattern[1] == byte && matches(&pattern[2..], &name[1..])
        }
        (Some(&wanted), Some(&byte)) => wanted == byte && matches(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// Is a byte in a class, and what stands behind it? `None` where the class does not end.
fn class(mut rest: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let not = matches!(rest.first(), Some(b'!' | b'^'));
    rest = &rest[usize::from(not)..];
    let (mut found, mut first) = (false, true);
    loop {
        match rest {
            [b']', after @ ..] if !first => return Some((found != not, after)),
            [low, b'-', high, after @ ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                rest = after;
            }
            [one, after @ ..] => {
                found |= *one == byte;
                rest = after;
            }
            [] => return None,
        }
        first = false;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_that_matches_decides() {
        let map =
            OwnerMap::parse("0-99:nobody,wayne:admin,w*:4,[a-c]?[!x]:abc,:7,1000:me").unwrap();
        let name = |name: &str| To::Name(name.to_owned());
        for (id, called, want) in [
            (0, "root", Some(name("nobody"))),
            (99, "wayne", Some(name("nobody"))),
            (100, "wayne", Some(name("admin"))),
            (101, "william", Some(To::Id(4))),
            (102, "bob", Some(name("abc"))),
            (103, "box", None),
            (104, "", Some(To::Id(7))),
            (1000, "other", Some(name("me"))),
            (1001, "other", None),
        ] {
            assert_eq!(map.find(id, called), want.as_ref(), "{id} {called}");
        }
        assert_eq!(OwnerMap::all("5").unwrap().find(0, ""), Some(&To::Id(5)), "also the nameless");
        assert_eq!(OwnerMap::default().find(0, "root"), None);
    }

    #[test]
    fn what_is_no_map_is_said() {
        for (text, why) in [
            ("alice", BadMap::NoColon("alice".into())),
            ("a:b,", BadMap::NoColon(String::new())),
            ("a:b,c:", BadMap::NoTarget("c:".into())),
            ("9-3:x", BadMap::Number("9-3:x".into())),
            ("1:99999999999", BadMap::Number("1:99999999999".into())),
            ("4294967295:1", BadMap::Number("4294967295:1".into())),
        ] {
            assert_eq!(OwnerMap::parse(text), Err(why), "{text}");
        }
        // A name may hold a hyphen, and a digit.
        assert!(OwnerMap::parse("www-data:web1").is_ok());
    }
}
