//! Trees as they are: everything that a mirror has to make equal, exactly; and ways to make and
//! to wait for them.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lsync_protocol::path::{Escaped, stage_mirror};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, makedev, mknodat, utimensat,
};

use super::world::PATIENCE;

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub kind: char,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    /// The hash of a file's content, where a link points, or which device it is.
    pub content: Vec<u8>,
    pub size: u64,
    /// Extended attributes and access control lists, by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of its names, of a file that has several in the tree.
    pub one_with: Option<Vec<u8>>,
}

/// A whole tree by name; the root is the empty name.
pub type Tree = BTreeMap<Vec<u8>, Thing>;

/// Reads a tree. What vanishes or cannot be read meanwhile is an error.
pub fn tree(root: &Path) -> io::Result<Tree> {
    let mut all = Tree::new();
    let mut names: BTreeMap<(u64, u64), Vec<Vec<u8>>> = BTreeMap::new();
    let mut due = vec![PathBuf::new()];
    while let Some(name) = due.pop() {
        let path = if name.as_os_str().is_empty() { root.to_owned() } else { root.join(&name) };
        let meta = path.symlink_metadata()?;
        let kind = meta.file_type();
        let (kind, content) = if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                due.push(name.join(entry?.file_name()));
            }
            ('d', Vec::new())
        } else if kind.is_symlink() {
            ('l', fs::read_link(&path)?.as_os_str().as_bytes().to_vec())
        } else if kind.is_file() {
            ('f', blake3::hash(&fs::read(&path)?).as_bytes().to_vec())
        } else {
            let letter = match () {
                () if kind.is_fifo() => 'p',
                () if kind.is_socket() => 's',
                () if kind.is_block_device() => 'b',
                () => 'c',
            };
            (letter, meta.rdev().to_le_bytes().to_vec())
        };
        let size = if kind == 'f' { meta.size() } else { 0 };
        // Links have no mode of their own.
        let mode = if kind == 'l' { 0 } else { meta.mode() & 0o7777 };
        let owner = (meta.uid(), meta.gid());
        let mtime = (meta.mtime(), meta.mtime_nsec());
        let (name, xattrs) = (name.as_os_str().as_bytes().to_vec(), xattrs(&path)?);
        if kind == 'f' && meta.nlink() > 1 {
            names.entry((meta.dev(), meta.ino())).or_default().push(name.clone());
        }
        let one_with = None;
        all.insert(name, Thing { kind, mode, owner, mtime, content, size, xattrs, one_with });
    }
    for mut names in names.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            if let Some(thing) = all.get_mut(name) {
                thing.one_with = Some(names[0].clone());
            }
        }
    }
    Ok(all)
}

/// The extended attributes of what stands at a path, access control lists among them.
pub fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 * 1024];
    let size = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        size => size?,
    };
    let mut all = BTreeMap::new();
    for name in names[..size].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"security.") && name != b"security.capability" {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let size = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(size);
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}

/// Sets an extended attribute.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Takes an extended attribute away.
pub fn remove_xattr(path: &Path, name: &str) {
    rustix::fs::lremovexattr(path, name).unwrap();
}

/// An access control list: what the owner, these users, the group, the mask and others may.
pub fn acl(users: &[(u32, u16)]) -> Vec<u8> {
    let mut entries = vec![(1u16, 6u16, u32::MAX)];
    entries.extend(users.iter().map(|&(id, perm)| (2, perm, id)));
    entries.extend([(4, 4, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]);
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// The names of the two kinds of access control lists.
pub const ACL: &str = "system.posix_acl_access";
pub const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Where two trees differ, in words; empty if they are equal.
pub fn differences(source: &Tree, target: &Tree) -> String {
    let mut text = String::new();
    let thing = |t: Option<&Thing>| match t {
        None => "nothing".to_owned(),
        Some(t) => format!(
            "{} {:o} {}:{} {}.{:09} {} bytes {}{}{}",
            t.kind,
            t.mode,
            t.owner.0,
            t.owner.1,
            t.mtime.0,
            t.mtime.1,
            t.size,
            if t.kind == 'l' {
                Escaped(&t.content).to_string()
            } else {
                t.content.iter().take(4).map(|b| format!("{b:02x}")).collect()
            },
            t.xattrs
                .iter()
                .map(|(name, value)| format!(" {}={value:?}", Escaped(name)))
                .collect::<String>(),
            t.one_with.as_ref().map(|n| format!(" one with {}", Escaped(n))).unwrap_or_default(),
        ),
    };
    let names: std::collections::BTreeSet<&Vec<u8>> = source.keys().chain(target.keys()).collect();
    for name in names {
        let (s, t) = (source.get(name), target.get(name));
        if s != t && text.len() < 4000 {
            let _ = writeln!(text, "{}: source {}, target {}", Escaped(name), thing(s), thing(t));
        }
    }
    text
}

/// How two directories differ now; `None`: not at all.
pub fn unequal(source: &Path, target: &Path) -> Option<String> {
    let read = || -> io::Result<(Tree, Tree)> { Ok((tree(source)?, tree(target)?)) };
    match read() {
        Err(error) => Some(error.to_string()),
        Ok((source, target)) => {
            let text = differences(&source, &target);
            (!text.is_empty()).then_some(text)
        }
    }
}

/// Is all that is told of a difference that dead temporary names stand on the target?
pub fn only_temporary_names(differences: &str) -> bool {
    let dead = |line: &str| line.contains(".lsync-") && line.contains("source nothing");
    differences.lines().all(dead)
}

/// Waits until two directories are equal.
#[track_caller]
pub fn wait_equal(source: &Path, target: &Path) {
    if let Err(text) = equal_within(source, target, PATIENCE) {
        panic!("source and target stay different:\n{text}");
    }
}

/// Waits until two directories are equal, so long at most.
pub fn equal_within(source: &Path, target: &Path, patience: Duration) -> Result<(), String> {
    let end = Instant::now() + patience;
    let mut pause = Duration::from_millis(5);
    loop {
        let Some(text) = unequal(source, target) else { return Ok(()) };
        if Instant::now() >= end {
            return Err(text);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Are there temporary names of ours in a tree?
pub fn temporary_names(root: &Path) -> Vec<String> {
    let found = tree(root).unwrap_or_default();
    found
        .keys()
        .filter(|name| stage_mirror(name.rsplit(|&b| b == b'/').next().unwrap()).is_some())
        .map(|name| Escaped(name).to_string())
        .collect()
}

/// A file or directory with this time of modification.
pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Appends to a file.
pub fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// A name of bytes.
pub fn bytes(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

/// Numbers below what is asked, the same in every run. The seed is not 0.
pub fn numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 11) as usize % below
    }
}

/// Bytes that nobody guesses and every run repeats.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Makes special files of every kind that may be made here, under names that begin so.
pub fn plant_specials(root: &Path, first: &str) {
    let make = |name: &str, kind, device| {
        mknodat(CWD, root.join(format!("{first}{name}")), kind, Mode::from(0o640), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    if super::push::is_root() {
        make("char", FileType::CharacterDevice, makedev(1, 3));
        make("block", FileType::BlockDevice, makedev(7, 300));
        std::os::unix::fs::chown(root.join(format!("{first}char")), Some(12), Some(34)).unwrap();
    }
    chmod(&root.join(format!("{first}fifo")), 0o4622);
    set_mtime(&root.join(format!("{first}fifo")), 1_500_000_000, 5);
}

/// A tree with some of everything that is mirrored.
pub fn plant(root: &Path) {
    fs::create_dir_all(root.join("dir/deep/deeper")).unwrap();
    fs::create_dir(root.join("empty dir")).unwrap();
    fs::write(root.join("small"), "small\n").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("dir/64k"), noise(1, 65_536)).unwrap();
    fs::write(root.join("dir/64k and one"), noise(2, 65_537)).unwrap();
    fs::write(root.join("dir/large"), noise(3, 3_000_001)).unwrap();
    fs::write(root.join("dir/deep/deeper/x"), "x").unwrap();
    fs::write(root.join("dir/private"), "secret").unwrap();
    chmod(&root.join("dir/private"), 0o600);
    fs::write(root.join("dir/program"), "#!/bin/sh\n").unwrap();
    chmod(&root.join("dir/program"), 0o755);
    fs::write(root.join("dir/read only"), "no").unwrap();
    chmod(&root.join("dir/read only"), 0o444);
    chmod(&root.join("dir/deep"), 0o1777);
    for (name, to) in [("link", "small"), ("dir/up", "../small"), ("dangling", "no/where")] {
        std::os::unix::fs::symlink(to, root.join(name)).unwrap();
    }
    for (old, new) in [
        ("small", "another small"),
        ("small", "dir/deep/small"),
        ("dir/large", "dir/large too"),
        ("dir/large", "a large"),
        ("empty", "dir/empty"),
    ] {
        fs::hard_link(root.join(old), root.join(new)).unwrap();
    }
    set_xattr(&root.join("dir/program"), "user.comment", b"a\0b\xff");
    set_xattr(&root.join("dir/64k"), "user.large", &noise(4, 3000));
    set_xattr(&root.join("dir/read only"), "user.x", b"");
    set_xattr(&root.join("dir/private"), ACL, &acl(&[(1, 4), (4711, 7)]));
    set_xattr(&root.join("dir/large"), ACL, &acl(&[(2, 6)]));
    set_xattr(&root.join("empty dir"), DEFAULT_ACL, &acl(&[(3, 5)]));
    set_xattr(&root.join("dir/deep"), "user.dir", b"yes");
    if super::push::is_root() {
        set_xattr(&root.join("small"), "trusted.lsync", b"root only");
        set_xattr(&root.join("link"), "trusted.link", b"of the link");
        // cap_net_bind_service=ep, as setcap writes it.
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set_xattr(&root.join("dir/program"), "security.capability", &capability);
    }
    set_mtime(&root.join("link"), 5, 6);
    set_mtime(&root.join("small"), 1_000_000_000, 123_456_789);
    set_mtime(&root.join("empty"), -5, 1);
    set_mtime(&root.join("dir/deep/deeper"), 1_111_111_111, 999_999_999);
    set_mtime(&root.join("empty dir"), 1_200_000_000, 1);
    set_mtime(&root.join("dir"), 1_300_000_000, 7);
    plant_specials(root, "a ");
    chmod(root, 0o750);
    set_mtime(root, 1_400_000_000, 42);
}
