//! What is too old goes from the trash: whole directories of hours, by their names. What else
//! somebody put there stays.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::{Trash, each, now, stamp};
use crate::apply::Ground;
use crate::meta::{self, Stat};
use crate::root::{PATH_DIR, Root};
use crate::trouble::trouble;

/// So often is looked.
const EVERY: Duration = Duration::from_secs(900);
/// So long it goes on after the last operation: links may be short.
const GRACE: Duration = Duration::from_secs(2);

/// Sweeps at once and now and then, until the other end of the channel is dropped.
pub(crate) fn run(ground: &Ground, trash: &Trash, end: &Receiver<()>) {
    let Some(age) = trash.age else { return };
    let mut told = false;
    let last: Cell<Option<Instant>> = Cell::new(None);
    let ended = || {
        if last.get().is_none() && end.try_recv() == Err(TryRecvError::Disconnected) {
            last.set(Some(Instant::now()));
        }
        ground.stop.load(Ordering::Relaxed)
            || last.get().is_some_and(|since| since.elapsed() > GRACE)
    };
    loop {
        if let Err(error) = sweep(&ground.root, trash, age, now(), &ended)
            && !std::mem::replace(&mut told, true)
        {
            (ground.warn)(format!(
                "cannot remove all that is too old from the trash {}: {}",
                trash.dir(),
                trouble(error).text
            ));
        }
        if end.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Is an hour that began then over for so long?
fn is_due(first: i64, age: u64, now: i64) -> bool {
    let age = i64::try_from(age).unwrap_or(i64::MAX);
    first.saturating_add(stamp::PERIOD).saturating_add(age) <= now
}

/// Removes the hours that are due; the first error, when all is done that could be.
fn sweep(
    root: &Root,
    trash: &Trash,
    age: u64,
    now: i64,
    ended: &dyn Fn() -> bool,
) -> Result<(), Errno> {
    let dir = match open(root, trash.dir().as_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        dir => dir?,
    };
    let home = meta::stat_fd(&dir)?;
    let mut due = Vec::new();
    each(&dir, |name| {
        if stamp::first_second(name).is_some_and(|first| is_due(first, age, now))
            && meta::stat_name(&dir, name).is_ok_and(|stat| is_inside(&stat, &home))
        {
            due.push(name.to_vec());
        }
        Ok(())
    })?;
    due.sort_unstable();
    let mut done = Ok(());
    for name in due {
        let path = [trash.dir().as_bytes(), b"/", &name].concat();
        done = done.and(remove(root, path, &home, ended));
    }
    done
}

/// A directory of the trash's own file system: nothing else is entered.
fn is_inside(stat: &Stat, home: &Stat) -> bool {
    stat.kind == lsync_protocol::entry::Kind::Dir
        && (stat.dev, stat.mount) == (home.dev, home.mount)
}

/// Removes a directory and all in it, without a descriptor for each level: trees may be deep.
fn remove(root: &Root, top: Vec<u8>, home: &Stat, ended: &dyn Fn() -> bool) -> Result<(), Errno> {
    let mut done = Ok(());
    // Directories, and whether what was in them has been seen to.
    let mut todo = vec![(top, false)];
    while let Some((path, emptied)) = todo.pop() {
        if ended() {
            return done;
        }
        if emptied {
            let Some(at) = path.iter().rposition(|&b| b == b'/') else { continue };
            let gone = open_path(root, &path[..at])
                .and_then(|dir| rustix::fs::unlinkat(dir, &path[at + 1..], AtFlags::REMOVEDIR));
            done = done.and(missing_is_gone(gone));
            continue;
        }
        let below = match open(root, &path) {
            Err(error) => {
                done = done.and(missing_is_gone(Err(error)));
                continue;
            }
            Ok(dir) => empty(&dir, home, &mut done, ended),
        };
        let children: Vec<_> =
            below.into_iter().map(|name| ([&*path, b"/", &name].concat(), false)).collect();
        todo.push((path, true));
        todo.extend(children);
    }
    done
}

/// Removes what is in a directory but for the directories, which it names.
fn empty(
    dir: &OwnedFd,
    home: &Stat,
    done: &mut Result<(), Errno>,
    ended: &dyn Fn() -> bool,
) -> Vec<Vec<u8>> {
    let mut below = Vec::new();
    let read = each(dir, |name| {
        if ended() {
            return Err(Errno::INTR);
        }
        match meta::stat_name(dir, name) {
            Ok(stat) if is_inside(&stat, home) => below.push(name.to_vec()),
            _ => {
                let gone = rustix::fs::unlinkat(dir, name, AtFlags::empty());
                *done = done.and(missing_is_gone(gone));
            }
        }
        Ok(())
    });
    if !ended() {
        *done = done.and(read);
    }
    below
}

fn missing_is_gone(done: Result<(), Errno>) -> Result<(), Errno> {
    done.or_else(|error| if error == Errno::NOENT { Ok(()) } else { Err(error) })
}

/// A directory to be read and emptied; opened up if it is ours and closed.
fn open(root: &Root, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match root.open_at(path, flags) {
        Err(Errno::ACCESS) => {
            let fd = open_path(root, path)?;
            meta::set_mode_of(&fd, meta::stat_fd(&fd)?.mode | 0o700)?;
            root.open_at(path, flags)
        }
        dir => dir,
    }
}

fn open_path(root: &Root, path: &[u8]) -> Result<OwnedFd, Errno> {
    root.open_at(path, PATH_DIR)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lsync_protocol::path::RelPath;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_hours_that_are_long_over_go() {
        let tmp = tempfile::tempdir().unwrap();
        let outside = tmp.path().join("outside");
        fs::write(&outside, b"x").unwrap();
        let at = |name: &str| tmp.path().join("root/t").join(name);
        fs::create_dir_all(at("2026-11-20T10/a/b/c")).unwrap();
        fs::write(at("2026-11-20T10/a/b/f"), b"x").unwrap();
        symlink(&outside, at("2026-11-20T10/a/link")).unwrap();
        symlink(tmp.path(), at("2026-11-20T10/up")).unwrap();
        fs::set_permissions(at("2026-11-20T10/a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        for name in ["2026-11-20T11", "2026-11-23T10", "2030-01-01T00", "mine", "2026-11-01"] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(at(name).join("f"), b"x").unwrap();
        }
        fs::write(at("2020-01-01T00"), b"a file of somebody's").unwrap();
        symlink(tmp.path(), at("2020-01-01T01")).unwrap();
        let root = Root::open(tmp.path().join("root")).unwrap();
        let trash = Trash { dir: RelPath::new(&b"t"[..]).unwrap(), age: None };
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(at("")).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names.into_iter().map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        let before = names();
        let now = stamp::first_second(b"2026-11-23T11").unwrap();
        // Three days after the last second of 10 o'clock.
        sweep(&root, &trash, 3 * 86_400 + 1, now, &|| false).unwrap();
        assert_eq!(names(), before);
        sweep(&root, &trash, 3 * 86_400, now, &|| true).unwrap();
        assert_eq!(names(), before, "it was told to end");
        sweep(&root, &trash, 3 * 86_400, now, &|| false).unwrap();
        let left: Vec<_> = before.into_iter().filter(|name| name != "2026-11-20T10").collect();
        assert_eq!(names(), left);
        assert!(outside.exists());
        sweep(&root, &trash, 1, now, &|| false).unwrap();
        assert!(!names().contains(&"2026-11-20T11".into()) && at("mine/f").exists());
        assert!(at("2030-01-01T00/f").exists() && at("2020-01-01T00").exists());
    }

    #[test]
    fn a_deep_tree_goes_without_a_descriptor_for_each_level() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir_all(tmp.path().join("t")).unwrap();
        let root = Root::open(tmp.path()).unwrap();
        let mut at = root.open_at(b"t", PATH_DIR).unwrap();
        let name = "n".repeat(100);
        let mode = rustix::fs::Mode::RWXU;
        for name in std::iter::once("2000-01-01T00").chain(std::iter::repeat_n(&*name, 300)) {
            rustix::fs::mkdirat(&at, name, mode).unwrap();
            at = rustix::fs::openat(&at, name, PATH_DIR, rustix::fs::Mode::empty()).unwrap();
        }
        drop(at);
        let trash = Trash { dir: RelPath::new(&b"t"[..]).unwrap(), age: None };
        sweep(&root, &trash, 1, now(), &|| false).unwrap();
        assert_eq!(fs::read_dir(tmp.path().join("t")).unwrap().count(), 0);
    }
}
