//! Trees to be mirrored, and whether two of them are equal.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Numbers that look random and are the same in every run (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

/// So many files of 100 to 8000 random bytes, 100 in a directory.
pub(crate) fn small_files(root: &Path, files: usize) {
    let mut random = Random(1);
    for dir in 0..files.div_ceil(100) {
        let dir_path = root.join(format!("d{dir:04}"));
        fs::create_dir_all(&dir_path).unwrap();
        for file in dir * 100..files.min(dir * 100 + 100) {
            let len = 100 + random.below(7901) as usize;
            fs::write(dir_path.join(format!("f{file:06}")), random.bytes(len)).unwrap();
        }
    }
}

/// One file of random bytes.
pub(crate) fn large_file(root: &Path, bytes: u64) {
    let mut random = Random(2);
    let mut file = fs::File::create(root.join("large")).unwrap();
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(1 << 20);
        file.write_all(&random.bytes(piece as usize)).unwrap();
        left -= piece;
    }
}

/// Makes that file an older version of itself, kept aside, by what `change` does to it now.
pub(crate) fn changed(root: &Path, bytes: u64, change: impl FnOnce(&mut fs::File)) {
    large_file(root, bytes);
    let old = root.with_file_name("old");
    empty(&old);
    fs::copy(root.join("large"), old.join("large")).unwrap();
    let open = fs::OpenOptions::new().read(true).write(true).open(root.join("large"));
    change(&mut open.unwrap());
}

/// Has the older version on the target.
pub(crate) fn restore(source: &Path, target: &Path) {
    empty(target);
    let old = source.with_file_name("old").join("large");
    fs::copy(old, target.join("large")).unwrap();
    // What was written a moment ago may change once more without a trace in its times, and is
    // treated with more care; such is not what is measured.
    std::thread::sleep(Duration::from_millis(2100));
}

/// What a way of copying brings over; only that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brings {
    /// Everything, times to the nanosecond.
    All,
    /// Times to the second (`tar` by default).
    Seconds,
    /// Names and content, nothing else (`cat`).
    Content,
}

/// Compares two trees: names, kinds, sizes, and modes, owners and times where they are brought
/// over; `content`: the bytes as well.
///
/// # Errors
/// The first difference, in words.
pub(crate) fn compare(a: &Path, b: &Path, brings: Brings, content: bool) -> Result<(), String> {
    let (left, right) = (listing(a, brings), listing(b, brings));
    for (name, entry) in &left {
        match right.get(name) {
            None => return Err(format!("{} is missing", name.display())),
            Some(other) if other != entry => {
                return Err(format!("{} differs: {entry} and {other}", name.display()));
            }
            Some(_) => {}
        }
    }
    if let Some(name) = right.keys().find(|name| !left.contains_key(*name)) {
        return Err(format!("{} is too many", name.display()));
    }
    if content {
        for name in left.keys() {
            if !same_content(&a.join(name), &b.join(name)) {
                return Err(format!("{} has other content", name.display()));
            }
        }
    }
    Ok(())
}

fn listing(root: &Path, brings: Brings) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        // A mirror may be at work: what goes meanwhile is not there.
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let mut text = format!("{:?} {size}", meta.file_type());
            if brings != Brings::Content {
                let nanos = if brings == Brings::All { meta.mtime_nsec() } else { 0 };
                let (mode, uid, gid) = (meta.permissions().mode(), meta.uid(), meta.gid());
                text += &format!(" {mode:o} {uid}:{gid} {}.{nanos:09}", meta.mtime());
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

fn same_content(a: &Path, b: &Path) -> bool {
    if !fs::symlink_metadata(a).unwrap().is_file() {
        return true;
    }
    let (mut a, mut b) = (fs::File::open(a).unwrap(), fs::File::open(b).unwrap());
    let (mut left, mut right) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    loop {
        let n = a.read(&mut left).unwrap();
        if n == 0 {
            return b.read(&mut right).unwrap() == 0;
        }
        if b.read_exact(&mut right[..n]).is_err() || left[..n] != right[..n] {
            return false;
        }
    }
}

/// Takes away what is in a directory.
pub(crate) fn empty(dir: &Path) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).unwrap();
}

/// Puts a directory aside and makes it anew. On a disk nothing is removed between runs: ext4 does
/// not give out an inode again for some seconds, and looking for another one among thousands of
/// those takes more time than what is measured.
pub(crate) fn aside(dir: &Path) {
    let old = (0..).map(|n| dir.with_extension(n.to_string())).find(|old| !old.exists());
    if dir.exists() {
        fs::rename(dir, old.unwrap()).unwrap();
    }
    fs::create_dir_all(dir).unwrap();
}

/// The directories in a tree, its root among them.
pub(crate) fn directories(root: &Path) -> u64 {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    1 + entries
        .filter(|path| fs::symlink_metadata(path).unwrap().is_dir())
        .map(|path| directories(&path))
        .sum::<u64>()
}
