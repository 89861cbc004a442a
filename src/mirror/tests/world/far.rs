//! The carrier and the target: operations are built, sent, applied and answered.

use super::*;
use crate::mirror::Compared;

impl World {
    // The carrier.

    pub(super) fn build(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let Some(order) = link.orders.pop_front() else { return false };
        let (id, op) = match order {
            Order::Commit { staged, id, path: at } => {
                let Some((content, op)) = link.staged.remove(&staged) else {
                    let why = NotBuilt::Vanished;
                    link.answers.push_back(Event::NotBuilt { id, why });
                    return true;
                };
                let op = renamed(op, &at);
                if link.wrong.remove(&staged) {
                    link.wrong.insert(id);
                }
                link.wire.push_back(Built { id, op, content: Some(content) });
                return true;
            }
            Order::Op(id, op) => (id, op),
        };
        let plain = match &op {
            Planned::Replace { new, .. } => &**new,
            op => op,
        };
        let Planned::Content { path, .. } = plain else {
            link.wire.push_back(Built { id, op, content: None });
            return true;
        };
        match self.source.get(path) {
            _ if self.unreadable.contains(path) => {
                let why = NotBuilt::Failed("permission denied".into());
                link.answers.push_back(Event::NotBuilt { id, why });
            }
            Some(thing) if thing.kind == Kind::File && self.root.is_none() => {
                if thing.content >= LARGE {
                    link.large.push_back((id, path.clone(), op));
                } else {
                    let content = Some(thing.clone());
                    link.wire.push_back(Built { id, op, content });
                }
            }
            _ => link.answers.push_back(Event::NotBuilt { id, why: NotBuilt::Vanished }),
        }
        true
    }

    pub(super) fn stage(&mut self, pick: usize) -> bool {
        let Some(link) = &mut self.link else { return false };
        if link.large.is_empty() {
            return false;
        }
        let (id, at, op) = link.large.remove(pick % link.large.len()).unwrap();
        let event = match self.source.get(&at) {
            Some(thing) if thing.kind == Kind::File && !link.cancelled.remove(&id) => {
                let like = match &op {
                    Planned::Content { like, .. } => like.clone(),
                    _ => Vec::new(),
                };
                let is_file = |at: &&RelPath| {
                    self.target.get(*at).is_some_and(|there| there.kind == Kind::File)
                };
                let base = like.iter().find(is_file);
                if !like.is_empty() {
                    self.based.push((at.to_string(), base.map(ToString::to_string)));
                }
                // Sums may lie, of a base that is another content.
                if base.is_some_and(|base| self.target[base].content != thing.content)
                    && pick % 8 == 7
                {
                    link.wrong.insert(id);
                }
                link.staged.insert(id, (thing.clone(), op));
                Event::Staged { id }
            }
            _ => Event::NotBuilt { id, why: NotBuilt::Vanished },
        };
        link.answers.push_back(event);
        true
    }

    pub(super) fn list(&mut self, pick: usize) -> bool {
        let Some(link) = &mut self.link else { return false };
        if link.lists.is_empty() {
            let Some((request, files)) = link.compares.pop_front() else { return false };
            let compared = |at: &RelPath| {
                let file = |tree: &Tree| tree.get(at).filter(|t| t.kind == Kind::File).cloned();
                match (file(&self.source), file(&self.target)) {
                    (Some(a), Some(b)) if a.content == b.content => Compared::Same,
                    (Some(_), Some(_)) => Compared::Differs,
                    _ => Compared::Moving,
                }
            };
            let files = files.iter().map(compared).collect();
            link.answers.push_back(Event::Compared { request, files });
            return true;
        }
        let (request, dir, digest) = link.lists.remove(pick % link.lists.len()).unwrap();
        let event = if self.broken.contains(&dir) {
            let trouble = Trouble { errno: 5, text: "input/output error".into() };
            Event::NoList { request, why: NoList::Trouble(trouble) }
        } else if is_dir(&self.target, &dir) {
            let entries: Vec<Named> = children(&self.target, &dir)
                .iter()
                .map(|at| Named { name: at.name().unwrap().into(), entry: self.target[at].entry() })
                .collect();
            let mut here = DirDigest::new(&[7; 32]);
            for named in &entries {
                here.add(&named.name, &named.entry, &self.held);
            }
            if digest == Some(here.finish()) {
                Event::Same { request }
            } else {
                Event::Entries { request, entries }
            }
        } else {
            Event::NoList { request, why: NoList::Missing }
        };
        link.answers.push_back(event);
        true
    }

    // The target.

    pub(super) fn apply_next(&mut self) -> bool {
        let Some(built) = self.link.as_mut().and_then(|link| link.wire.pop_front()) else {
            return false;
        };
        let wrong = self.link.as_mut().is_some_and(|link| link.wrong.remove(&built.id));
        let outcome = match wrong {
            true => Some(Outcome::Refused),
            false => self.apply(&built.op, built.content.as_ref()).err(),
        };
        if self.told {
            println!("applied {}: {}: {outcome:?}", built.id, built.op.line());
        }
        self.link.as_mut().unwrap().acks.push((built.id, outcome));
        true
    }

    pub(super) fn touch_target(&mut self, at: &RelPath) {
        let now = -self.tick();
        if let Some(dir) = at.parent().and_then(|dir| self.target.get_mut(&dir)) {
            dir.mtime = now;
        }
    }

    pub(super) fn room(&self, at: &RelPath) -> Result<Option<Kind>, Outcome> {
        if self.broken.contains(at) {
            let text = "no space left on device".into();
            return Err(Outcome::Problem(Trouble { errno: 28, text }));
        }
        match at.parent() {
            Some(dir) if !is_dir(&self.target, &dir) => Err(Outcome::NoParent),
            _ => Ok(self.target.get(at).map(|thing| thing.kind)),
        }
    }

    pub(super) fn place(&mut self, at: &RelPath, kind: Kind, content: u64, meta: &Meta) {
        let mtime = meta.mtime.map_or_else(|| -self.tick(), |time| time.sec);
        let mode = meta.mode.unwrap_or(0o644);
        self.target.insert(at.clone(), Thing { kind, content, mode, mtime });
        self.touch_target(at);
    }

    pub(super) fn remove_target(&mut self, at: &RelPath, kind: Kind) -> Result<(), Outcome> {
        if kind == Kind::Dir && !children(&self.target, at).is_empty() {
            return Err(Outcome::NotEmpty);
        }
        self.target.remove(at);
        self.touch_target(at);
        Ok(())
    }

    pub(super) fn set(&mut self, at: &RelPath, meta: &Meta) {
        let thing = self.target.get_mut(at).unwrap();
        thing.mode = meta.mode.unwrap_or(thing.mode);
        thing.mtime = meta.mtime.map_or(thing.mtime, |time| time.sec);
    }

    pub(super) fn apply(&mut self, op: &Planned, content: Option<&Thing>) -> Result<(), Outcome> {
        match op {
            Planned::MakeDir { path, meta } => match self.room(path)? {
                Some(Kind::Dir) => self.set(path, meta),
                Some(kind) => return Err(Outcome::Occupied(kind)),
                None => self.place(path, Kind::Dir, 0, meta),
            },
            Planned::Content { path, meta, .. } => match self.room(path)? {
                Some(Kind::Dir) => return Err(Outcome::Occupied(Kind::Dir)),
                _ => {
                    let read = content.unwrap();
                    let fresh = read.entry().meta;
                    let meta = Meta { mode: fresh.mode, mtime: fresh.mtime, ..meta.clone() };
                    self.place(path, Kind::File, read.content, &meta);
                }
            },
            Planned::Symlink { path, link, meta, .. } => match self.room(path)? {
                Some(Kind::Dir) => return Err(Outcome::Occupied(Kind::Dir)),
                _ => {
                    let content = std::str::from_utf8(link).unwrap().parse().unwrap();
                    self.place(path, Kind::Symlink, content, meta);
                }
            },
            Planned::Special { path, kind, meta, .. } => match self.room(path)? {
                Some(Kind::Dir) => return Err(Outcome::Occupied(Kind::Dir)),
                _ => self.place(path, *kind, 0, meta),
            },
            Planned::Link { .. } => return Err(Outcome::Refused),
            Planned::Meta { path, kind, meta } => match self.room(path) {
                Ok(Some(there)) if there == *kind => self.set(path, meta),
                Ok(Some(there)) => return Err(Outcome::Occupied(there)),
                Ok(None) | Err(Outcome::NoParent) => return Err(Outcome::Missing),
                Err(outcome) => return Err(outcome),
            },
            Planned::Dir { path, meta } => match self.room(path) {
                Ok(Some(Kind::Dir)) => self.set(path, meta),
                Ok(Some(there)) => return Err(Outcome::Occupied(there)),
                Ok(None) | Err(Outcome::NoParent) => return Err(Outcome::Missing),
                Err(outcome) => return Err(outcome),
            },
            Planned::Rename { from, to, kind, size, mtime } => {
                let Some(thing) = self.target.get(from) else { return Err(Outcome::Refused) };
                let entry = thing.entry();
                let as_expected = entry.kind == *kind
                    && size.is_none_or(|size| size == entry.size)
                    && mtime.is_none_or(|mtime| Some(mtime) == entry.meta.mtime);
                if !as_expected {
                    return Err(Outcome::Refused);
                }
                let there = self.room(to)?;
                let fits = match there {
                    None => true,
                    Some(there) => {
                        (there == Kind::Dir) == (*kind == Kind::Dir)
                            && children(&self.target, to).is_empty()
                    }
                };
                if !fits || to.is_under(from) {
                    return Err(Outcome::Refused);
                }
                move_tree(&mut self.target, from, to);
                self.touch_target(from);
                self.touch_target(to);
            }
            Planned::Remove { path, kind } => match self.room(path) {
                Ok(Some(there)) if there == *kind => self.remove_target(path, *kind)?,
                Ok(Some(there)) => return Err(Outcome::Occupied(there)),
                Ok(None) | Err(Outcome::NoParent) => return Err(Outcome::Missing),
                Err(outcome) => return Err(outcome),
            },
            Planned::Replace { old, new } => {
                match self.room(new.path())? {
                    Some(there) if there != *old => return Err(Outcome::Occupied(there)),
                    Some(there) => self.remove_target(new.path(), there)?,
                    None => {}
                }
                self.apply(new, content)?;
            }
        }
        Ok(())
    }
}

fn renamed(op: Planned, at: &RelPath) -> Planned {
    match op {
        Planned::Content { meta, size, file, new, .. } => {
            let like = Vec::new();
            Planned::Content { path: at.clone(), meta, size, file, new, base: false, like }
        }
        Planned::Replace { old, new } => Planned::Replace { old, new: Box::new(renamed(*new, at)) },
        other => other,
    }
}
