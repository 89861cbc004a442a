//! Paths beneath a root, and sets of extended attributes.

use lsync_protocol::handshake::read_body;
use lsync_protocol::path::{
    Escaped, RelPath, check_name, folded, is_stage_name, stage_mirror, stage_name,
};
use lsync_protocol::xattr::{ACL_ACCESS, Classes, Xattrs};

use crate::{Taken, assert_shown};

/// Two paths, parted by NUL, which no path holds.
pub fn paths(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&b| b == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (a, b) = (next(), next());
    assert_shown(&Escaped(a).to_string());
    if let Ok(name) = std::str::from_utf8(a)
        && check_name(a).is_ok()
    {
        assert_eq!(folded(&folded(a)), folded(a), "{name:?}");
    }
    if let Some(mirror) = stage_mirror(a) {
        assert!(is_stage_name(a));
        assert!(a.starts_with(&stage_name(mirror, 0).as_bytes()[..16]));
    }
    let (Ok(a), Ok(b)) = (RelPath::new(a), RelPath::new(b)) else { return };
    assert_shown(&a.to_string());
    let names = |path: &RelPath| path.components().map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(a.cmp(&b), names(&a).cmp(&names(&b)), "components in their order");
    assert_eq!(a.depth(), names(&a).len());
    assert_eq!(a.is_at_or_under(&b), names(&a).starts_with(&names(&b)));
    assert_eq!(a.is_temporary(), a.components().any(is_stage_name));
    match (a.parent(), a.name()) {
        (Some(parent), Some(name)) => assert_eq!(parent.join(name).as_ref(), Ok(&a)),
        (parent, name) => assert!(a.is_root() && parent.is_none() && name.is_none()),
    }
    if let Some(moved) = a.moved(&b, &RelPath::root()) {
        assert_eq!(moved.moved(&RelPath::root(), &b).as_ref(), Some(&a));
    }
    // Only what was checked comes from joining.
    if let Some(name) = b.name().filter(|_| !a.is_root()) {
        let joined = a.join(name).map(|path| path.as_bytes().to_vec());
        assert!(joined.is_err() || joined == Ok([a.as_bytes(), b"/", name].concat()));
    }
}

/// A set of extended attributes as it travels, behind what is asked of it.
pub fn xattrs(bytes: &[u8]) {
    let mut taken = Taken(bytes);
    let (mode, shift) = (taken.below(0o10000) as u32, taken.byte());
    let Ok(set) = read_body::<Xattrs>(taken.0) else { return };
    assert!(set.all().windows(2).all(|pair| pair[0].name < pair[1].name), "in order, each once");
    assert!(set.all().iter().all(|one| set.classes().have(&one.name)));
    assert_eq!(set.only_digest().digest(), set.digest());
    assert!(set.only_digest().all().is_empty());
    assert_eq!(set.with_owners(|owner| owner.id()), set);
    let moved = set.with_owners(|owner| owner.id().rotate_left(u32::from(shift)));
    assert_eq!(moved.classes(), set.classes());
    assert_eq!(moved.all().len(), set.all().len());
    let once = set.with_mode(mode);
    assert_eq!(once.with_mode(mode), once);
    for (one, was) in once.all().iter().zip(set.all()) {
        assert!(one == was || one.name == ACL_ACCESS && one.value.len() == was.value.len());
    }
    for classes in [Classes::NONE, Classes::USER, Classes::PRIVILEGED, Classes::ACLS] {
        let part = set.of(classes);
        assert_eq!(part.classes(), set.classes().both(classes));
        assert!(part.all().iter().all(|one| classes.have(&one.name)));
    }
    assert!(set.bytes() <= bytes.len());
}
