//! `--bwlimit`: a link carries no more than it may, and small changes do not wait for large ones.
//!
//! Only bounds that a slow machine cannot miss: so long it takes at least, and what comes before what.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::super::tree::{noise, temporary_names};
use super::super::world::wait_until;
use super::{Stage, WAYS};

#[test]
fn a_large_file_takes_its_time_and_a_small_one_overtakes_it() {
    for way in WAYS {
        let stage = Stage::new(way);
        let push = stage.live(&["--bwlimit", "256"]);
        let start = Instant::now();
        fs::write(stage.s("large"), noise(1, 1_536 * 1024)).unwrap();
        wait_until("the large file is on its way", || !temporary_names(&stage.target()).is_empty());
        fs::write(stage.s("small"), "small").unwrap();
        stage.settles_with(&push, "within the limit");
        // 6 s at the rate, less the burst and a piece.
        let took = start.elapsed();
        assert!(took > Duration::from_millis(5_700), "{way:?}: {took:?}");
        let placed = |name| {
            let meta = stage.t(name).metadata().unwrap();
            (meta.ctime(), meta.ctime_nsec())
        };
        assert!(placed("small") < placed("large"), "{way:?}");
        push.terminate();
    }
}

#[test]
fn many_small_files_take_their_time_and_no_limit_is_none() {
    for way in WAYS {
        let stage = Stage::new(way);
        for i in 0..64 {
            fs::write(stage.s(format!("f{i}")), noise(i, 16 * 1024)).unwrap();
        }
        let start = Instant::now();
        stage.once(&["--bwlimit=512K"]).fine();
        // 2 s at the rate, less the burst and a message.
        let took = start.elapsed();
        assert!(took > Duration::from_millis(1_600), "{way:?}: {took:?}");
        stage.settles();
        // At the first of these rates it would take an hour.
        fs::write(stage.s("more"), noise(99, 4 << 20)).unwrap();
        stage.once(&["--bwlimit=1", "--bwlimit=0"]).fine();
        stage.settles();
    }
}
