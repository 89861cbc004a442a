//! What tests ask of the world: whether both sides are equal, and what is there.

use std::collections::BTreeMap;

use lsync_protocol::entry::{Kind, Meta};

use super::{Tree, World, is_dir, path, under};

impl World {
    pub(in crate::mirror::tests) fn assert_equal(&self) {
        let seen = |tree: &Tree| -> BTreeMap<String, (Kind, u64, u32, i64)> {
            tree.iter()
                .filter(|(at, thing)| self.in_scope(at, thing.kind == Kind::Dir))
                .map(|(at, t)| {
                    let mode = if t.kind == Kind::Symlink { 0 } else { t.mode };
                    (at.to_string(), (t.kind, t.content, mode, t.mtime))
                })
                .collect()
        };
        let (source, target) = (seen(&self.source), seen(&self.target));
        if source != target {
            let differs: Vec<_> = source
                .keys()
                .chain(target.keys())
                .filter(|at| source.get(*at) != target.get(*at))
                .map(|at| (at, source.get(at), target.get(at)))
                .collect();
            panic!("source and target differ: {differs:?}\nsent: {:#?}", self.sent);
        }
    }

    /// All that is mirrored is there, and what is there besides is protected or holds such names.
    /// Times of directories do not count: excluded names change them, and no event is for us.
    pub(in crate::mirror::tests) fn assert_equal_but_for_protected(&self) {
        for (at, thing) in &self.source {
            let dir = thing.kind == Kind::Dir;
            let blocked = self.mirror.problems().any(|p| at.is_at_or_under(&p.path));
            let there = self.target.get(at);
            let equal = there.is_some_and(|there| {
                let (a, b) = (there.entry(), thing.entry());
                a.kind == b.kind
                    && there.content == thing.content
                    && a.meta.mode == b.meta.mode
                    && (dir || a.meta.mtime == b.meta.mtime)
            });
            if self.in_scope(at, dir) && !blocked {
                assert!(equal, "{at}: {thing:?}, there {there:?}; sent {:#?}", self.sent);
            }
        }
        for at in self.target.keys().filter(|at| !self.source.contains_key(*at)) {
            let above = self.target.keys().filter(|above| at.is_under(above)).cloned();
            let protected = under(&self.target, at).into_iter().chain(above).any(|inner| {
                let inner = &inner;
                let dir = is_dir(&self.target, inner);
                !self.filter.verdict_deep(inner, dir).deletable
            });
            let blocked = self.mirror.problems().any(|p| at.is_at_or_under(&p.path));
            assert!(protected || blocked, "{at} is left; sent {:#?}", self.sent);
        }
    }

    pub(in crate::mirror::tests) fn has(&self, name: &str) -> bool {
        self.target.contains_key(&path(name))
    }

    pub(in crate::mirror::tests) fn place_there(&mut self, name: &str, kind: Kind) {
        let meta = Meta::default();
        self.place(&path(name), kind, if kind == Kind::Dir { 0 } else { 555 }, &meta);
    }
}
