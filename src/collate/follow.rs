//! Where a name is after later steps. A batch holds as many renames as happened while the link was
//! away, so a name is looked up in them and never compared with each.

use std::collections::HashMap;

use lsync_protocol::path::RelPath;

use super::Step;

/// The renames of a batch, by their old and new names.
#[derive(Debug)]
pub struct Follow<'a> {
    renames: Vec<Option<(&'a RelPath, &'a RelPath)>>,
    from: HashMap<&'a RelPath, Vec<usize>>,
    to: HashMap<&'a RelPath, Vec<usize>>,
}

/// What a later step did to a name.
enum Hop {
    Moved(usize, RelPath),
    Overwritten,
    Stays,
}

impl<'a> Follow<'a> {
    /// Of these steps, in their order.
    #[must_use]
    pub fn new(steps: impl IntoIterator<Item = &'a Step>) -> Follow<'a> {
        let mut follow = Follow { renames: Vec::new(), from: HashMap::new(), to: HashMap::new() };
        for (at, step) in steps.into_iter().enumerate() {
            let rename = match step {
                Step::Rename { from, to, .. } => Some((from, to)),
                Step::Clear { .. } => None,
            };
            if let Some((from, to)) = rename {
                follow.from.entry(from).or_default().push(at);
                follow.to.entry(to).or_default().push(at);
            }
            follow.renames.push(rename);
        }
        follow
    }

    /// What the first of the steps from `since` on did that changed what this name means.
    fn hop(&self, path: &RelPath, since: usize) -> Hop {
        let (mut moved, mut overwritten) = (None::<usize>, None::<usize>);
        let first = |of: &HashMap<&RelPath, Vec<usize>>, name: &RelPath| {
            let at = of.get(name)?;
            at.get(at.partition_point(|&at| at < since)).copied()
        };
        let sooner = |a: Option<usize>, b: Option<usize>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut above = Some(path.clone());
        while let Some(name) = above {
            moved = sooner(moved, first(&self.from, &name));
            overwritten = sooner(overwritten, first(&self.to, &name));
            above = name.parent();
        }
        match (moved, overwritten) {
            (Some(at), over) if over.is_none_or(|over| at <= over) => {
                let to = self.renames[at].and_then(|(from, to)| path.moved(from, to));
                to.map_or(Hop::Overwritten, |to| Hop::Moved(at, to))
            }
            (_, Some(_)) => Hop::Overwritten,
            _ => Hop::Stays,
        }
    }

    /// What `path` is called after the steps from `since` on; the last name it had if something
    /// else took that.
    #[must_use]
    pub fn name(&self, path: &RelPath, since: usize) -> RelPath {
        let (mut path, mut since) = (path.clone(), since);
        while let Hop::Moved(at, to) = self.hop(&path, since) {
            (path, since) = (to, at + 1);
        }
        path
    }

    /// For each step, where what it renamed is after all of them; `None` when something else has
    /// its place, and for steps that rename nothing.
    #[must_use]
    pub fn finals(&self) -> Vec<Option<RelPath>> {
        let mut finals: Vec<Option<RelPath>> = vec![None; self.renames.len()];
        for at in (0..self.renames.len()).rev() {
            let Some((_, to)) = self.renames[at] else { continue };
            let (mut path, mut since) = (to.clone(), at + 1);
            finals[at] = loop {
                match self.hop(&path, since) {
                    Hop::Stays => break Some(path),
                    Hop::Overwritten => break None,
                    // The same thing as that step renamed: its way is known.
                    Hop::Moved(next, to) if self.renames[next].is_some_and(|(_, t)| *t == to) => {
                        break finals[next].clone();
                    }
                    Hop::Moved(next, to) => (path, since) = (to, next + 1),
                }
            };
        }
        finals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn steps(renames: &[(&str, &str)]) -> Vec<Step> {
        let step = |(from, to): &(&str, &str)| match *to {
            "" => Step::Clear { path: path(from), dir: false },
            to => Step::Rename { from: path(from), to: path(to), dir: true },
        };
        renames.iter().map(step).collect()
    }

    #[test]
    fn a_name_is_followed_through_later_renames() {
        let chain = steps(&[("a", "b"), ("x", ""), ("b", "c"), ("d", "a")]);
        let follow = Follow::new(&chain);
        assert_eq!(follow.finals(), [Some(path("c")), None, Some(path("c")), Some(path("a"))]);
        assert_eq!(follow.name(&path("a/x"), 0), path("c/x"));
        assert_eq!(follow.name(&path("a/x"), 1), path("a/x"), "another took the name");
        assert_eq!(follow.name(&path("z"), 0), path("z"));
    }

    #[test]
    fn what_was_overwritten_is_nowhere() {
        let over = steps(&[("a", "b"), ("c", "b")]);
        assert_eq!(Follow::new(&over).finals(), [None, Some(path("b"))]);
        let above = steps(&[("d/a", "d/b"), ("e", "d"), ("d", "f")]);
        assert_eq!(Follow::new(&above).finals(), [None, Some(path("f")), Some(path("f"))]);
    }

    #[test]
    fn an_inner_name_follows_its_directory() {
        let nested = steps(&[("d/a", "d/b"), ("d", "e"), ("e/b", "f"), ("e", "d")]);
        let follow = Follow::new(&nested);
        let finals = [Some("f"), Some("d"), Some("f"), Some("d")].map(|name| name.map(path));
        assert_eq!(follow.finals(), finals);
        assert_eq!(follow.name(&path("d/z"), 0), path("d/z"));
    }

    #[test]
    fn many_renames_of_one_thing_cost_no_more_than_as_many_of_many() {
        let chain: Vec<(String, String)> =
            (0..50_000).map(|n| (format!("{n}"), format!("{}", n + 1))).collect();
        let chain: Vec<(&str, &str)> =
            chain.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
        let chain = steps(&chain);
        let finals = Follow::new(&chain).finals();
        assert!(finals.iter().all(|last| *last == Some(path("50000"))));
    }
}
