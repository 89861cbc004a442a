//! What becomes of a change that touches something which waits already: Lsyncd 2's table, as it is
//! documented. (Since 2.2.0 its code looks the answer up and then does not use it.)

use super::{Change, Etype};

/// How a new change and an older delay go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combined {
    /// They have nothing to do with each other.
    Apart,
    /// The older one says it all.
    Absorb,
    /// The new one says it all, and takes the older one's place.
    Replace,
    /// The older one first.
    Stack,
    /// The older move becomes the deletion of its origin; that first.
    ToDelete,
    /// The new move becomes a deletion and a creation.
    Split,
}

/// How `new` goes together with an `old` delay; `active`: a child works on it already, so what it
/// does not know of must be done again.
#[must_use]
pub fn combine(old: &Change, active: bool, new: &Change) -> Combined {
    if old.etype.is_barrier() {
        return Combined::Stack;
    }
    if old.etype == Etype::Full {
        return Combined::Apart;
    }
    let touches = new.places().any(|a| old.places().any(|b| a.touches(b)));
    if !touches {
        return Combined::Apart;
    }
    if new.etype == Etype::Move {
        return Combined::Split;
    }
    if active {
        return Combined::Stack;
    }
    if old.etype == Etype::Move {
        let lands = old.to.as_ref() == Some(&new.path);
        return if lands && matches!(new.etype, Etype::Create | Etype::Delete) {
            Combined::ToDelete
        } else {
            Combined::Stack
        };
    }
    // A file in the place of a directory is another thing of the same name.
    if old.path == new.path { same_name(old.etype, new) } else { Combined::Stack }
}

/// The matrix.
fn same_name(old: Etype, new: &Change) -> Combined {
    use Etype::{Attrib, Create, Delete, Modify};
    match (old, new.etype) {
        (Delete, Create) if new.path.dir => Combined::Stack,
        (Attrib, Modify | Create | Delete)
        | (Modify, Create | Delete)
        | (Create, Delete)
        | (Delete, Create) => Combined::Replace,
        _ => Combined::Absorb,
    }
}
