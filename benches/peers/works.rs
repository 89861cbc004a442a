//! The works that are measured, one struct each. A new row is a new struct here.

use std::process::Command;

use crate::arena::Medium;
use crate::copy::{
    CAT, CAT_AES, CP, PUSH, PUSH_LOCAL, RSYNC, RSYNC_DELETE, RSYNC_WHOLE, RSYNC_WHOLE_AES, TAR,
    Trees, Work,
};
use crate::tree::{aside, empty, large_file, small_files};

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
    },
];

/// Makes the target equal before the first run.
fn copy(trees: &Trees) {
    empty(&trees.target);
    let status =
        Command::new("cp").arg("-a").arg(trees.source.join(".")).arg(&trees.target).status();
    assert!(status.unwrap().success());
}
