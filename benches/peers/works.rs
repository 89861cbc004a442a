//! The works that are measured, one struct each. A new row is a new struct here.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::arena::{Arena, Medium};
use crate::copy::{
    CAT, CAT_AES, CP, PUSH, PUSH_CLEAR, PUSH_LOCAL, RSYNC, RSYNC_DELETE, RSYNC_WHOLE,
    RSYNC_WHOLE_AES, RSYNC_WHOLE_Z, TAR, Trees, Work,
};
use crate::text;
use crate::tree::{Random, aside, changed, empty, large_file, restore, small_files};

pub(crate) const WORKS: &[Work] = &[
    Work {
        key: "small",
        title: |arena| format!("{} small files, tmpfs", arena.amounts.small_files),
        about: "The first mirror of files of 100 to 8000 random bytes, 100 in a directory, to an \
                empty directory over ssh. Both ends are on a tmpfs, so that only the programs' \
                own work counts.",
        on: Medium::Tmpfs,
        source: |arena, trees| small_files(&trees.source, arena.amounts.small_files),
        before: |trees| empty(&trees.target),
        ways: &[PUSH, RSYNC, TAR],
        goals: &[("rsync -a", 0.8), ("tar | ssh tar", 1.0)],
    },
    Work {
        key: "small-disk",
        title: |arena| format!("{} small files, disk", arena.amounts.small_files),
        about: "The same on a disk, with the source in the page cache. Nobody waits for the disk \
                at the end (no `fsync`), but the file system's own work counts, and now and then \
                the kernel writes back in the middle of a run: the times scatter. Each run makes \
                a new directory, and nothing is removed in between: ext4 is slow to create where \
                much has just been removed.",
        on: Medium::Disk,
        source: |arena, trees| small_files(&trees.source, arena.amounts.small_files),
        before: |trees| aside(&trees.target),
        ways: &[PUSH, RSYNC, TAR],
        goals: &[("rsync -a", 0.8), ("tar | ssh tar", 1.0)],
    },
    Work {
        key: "small-local",
        title: |arena| format!("{} small files, local, tmpfs", arena.amounts.small_files),
        about: "The same to a directory on this host. The peer only copies; ours compares, stages \
                and renames each file, too.",
        on: Medium::Tmpfs,
        source: |arena, trees| small_files(&trees.source, arena.amounts.small_files),
        before: |trees| empty(&trees.target),
        ways: &[PUSH_LOCAL, CP],
        goals: &[],
    },
    Work {
        key: "noop",
        title: |arena| format!("no-op repeat on {} files, tmpfs", arena.amounts.small_files),
        about: "Once more over ssh where nothing has changed: connecting, walking both trees and \
                comparing them. The time of a connection (key exchange and login) is in it on \
                both sides.",
        on: Medium::Tmpfs,
        source: |arena, trees| {
            small_files(&trees.source, arena.amounts.small_files);
            copy(trees);
        },
        before: |_| {},
        ways: &[PUSH, RSYNC_DELETE],
        goals: &[("rsync -a --delete", 0.5)],
    },
    Work {
        key: "bulk",
        title: |arena| format!("{} MiB of random bytes, tmpfs", arena.amounts.large_bytes >> 20),
        about: "The first copy of one large file that cannot be compressed. The system's ssh \
                takes ChaCha20-Poly1305 where it may choose; AES-GCM, which ours takes, is faster \
                on a CPU that helps with it, so the peers are measured with both.",
        on: Medium::Tmpfs,
        source: |arena, trees| large_file(&trees.source, arena.amounts.large_bytes),
        before: |trees| empty(&trees.target),
        ways: &[PUSH, RSYNC_WHOLE, CAT, RSYNC_WHOLE_AES, CAT_AES],
        goals: &[("rsync -aW", 0.75), ("cat | ssh cat", 1.0)],
    },
    Work {
        key: "text",
        title: |arena| format!("{} MiB of text, tmpfs", arena.amounts.large_bytes >> 20),
        about: "The first copy of one large file of text, the log of a web server: nothing in it stands \
                there twice as a whole, and zstd's first level leaves a fifth of it. lsyncd decides by \
                itself whether to compress (`--compress auto`); rsync is measured without and with `-z`.",
        on: Medium::Tmpfs,
        source: |arena, trees| text::log(&trees.source, arena.amounts.large_bytes),
        before: |trees| empty(&trees.target),
        ways: &[PUSH, RSYNC_WHOLE, RSYNC_WHOLE_AES, RSYNC_WHOLE_Z, PUSH_CLEAR],
        goals: &[("rsync -aW", 0.5)],
    },
    Work {
        key: "edits",
        title: |arena| format!("{EDITS} edits of 4 KiB in {}, tmpfs", mib(arena)),
        about: CHANGED,
        on: Medium::Tmpfs,
        source: |arena, trees| {
            let size = arena.amounts.large_bytes;
            changed(&trees.source, size, |file| edits(file, size, 0));
        },
        before: |trees| restore(&trees.source, &trees.target),
        ways: &[PUSH, RSYNC],
        goals: &[("rsync -a", 0.7)],
    },
    Work {
        key: "insert",
        title: |arena| format!("{FEW} bytes before {}, tmpfs", mib(arena)),
        about: "The same, with bytes put in at the front: nothing stands where it stood.",
        on: Medium::Tmpfs,
        source: |arena, trees| changed(&trees.source, arena.amounts.large_bytes, insert),
        before: |trees| restore(&trees.source, &trees.target),
        ways: &[PUSH, RSYNC],
        goals: &[("rsync -a", 0.6)],
    },
    Work {
        key: "append",
        title: |arena| format!("{FEW} bytes behind {}, tmpfs", mib(arena)),
        about: "The same, with bytes appended. Ours compares all of it, and the file that is there grows.",
        on: Medium::Tmpfs,
        source: |arena, trees| changed(&trees.source, arena.amounts.large_bytes, append),
        before: |trees| restore(&trees.source, &trees.target),
        ways: &[PUSH, RSYNC],
        goals: &[("rsync -a", 0.6)],
    },
];

fn mib(arena: &Arena) -> String {
    format!("{} MiB", arena.amounts.large_bytes >> 20)
}

/// A large file changes, and the older version is on the target.
const CHANGED: &str = "The target has the version before, nothing is remembered of it, and both ends are \
                       on a tmpfs. rsync looks for differences as well. Ours stages the new version beside \
                       the old one, as rsync does, unless it has only grown.";

/// Bytes put in or behind.
pub(crate) const FEW: usize = 1000;
/// Places that are written over, and how many bytes at each.
const EDITS: u64 = 1000;
const EDIT: usize = 4096;

pub(crate) fn edits(file: &mut File, size: u64, run: u64) {
    let mut random = Random(3 + run);
    for _ in 0..EDITS {
        let at = random.below(size - EDIT as u64);
        file.write_all_at(&random.bytes(EDIT), at).unwrap();
    }
}

pub(crate) fn insert(file: &mut File) {
    let mut content = Random(4).bytes(FEW);
    file.read_to_end(&mut content).unwrap();
    file.write_all_at(&content, 0).unwrap();
}

pub(crate) fn append(file: &mut File) {
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&Random(5).bytes(FEW)).unwrap();
}

/// Makes the target equal before the first run.
fn copy(trees: &Trees) {
    empty(&trees.target);
    let status =
        Command::new("cp").arg("-a").arg(trees.source.join(".")).arg(&trees.target).status();
    assert!(status.unwrap().success());
}
