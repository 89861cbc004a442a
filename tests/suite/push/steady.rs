//! Real work going on: files that are written all the time, readers on the target, git.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::tree::{append, noise};
use super::{Stage, WAYS, Way, sh};

/// Something that goes on in a thread until it is dropped or told to stop.
struct Going(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Going {
    fn on(mut turn: impl FnMut(u64) + Send + 'static) -> Going {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for i in 0.. {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                turn(i);
            }
        });
        Going(stop, Some(thread))
    }

    /// What went wrong in it goes wrong here.
    fn stop(mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_file_that_never_stops_changing_holds_nobody_up() {
    for way in WAYS {
        let stage = Stage::new(way);
        // A large one too: it changes while it is read.
        fs::write(stage.s("large"), noise(0, 4_000_000)).unwrap();
        let (small, large) = (stage.s("small"), stage.s("large"));
        let busy = Going::on(move |i| {
            fs::write(&small, format!("{i}")).unwrap();
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(&large).unwrap();
            file.write_all_at(&i.to_le_bytes(), (i * 4099) % 3_999_000).unwrap();
            std::thread::sleep(Duration::from_micros(300));
        });
        let push = stage.live(&[]);
        for i in 0..20 {
            let start = Instant::now();
            fs::write(stage.s("other"), format!("{i}")).unwrap();
            super::wait_until("another file arrives", || {
                fs::read(stage.t("other")).is_ok_and(|text| text == format!("{i}").as_bytes())
            });
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        }
        assert!(stage.t("large").exists() && stage.t("small").exists());
        busy.stop();
        stage.settles_with(&push, "when it rests");
        push.terminate();
    }
}

#[test]
fn a_log_that_grows_arrives_as_it_grows() {
    for way in WAYS {
        let stage = Stage::new(way);
        fs::write(stage.s("log"), "").unwrap();
        let push = stage.live(&[]);
        let path = stage.s("log");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let start = Instant::now();
        let logging = Going::on(move |i| {
            writeln!(file, "{i:08} a line of a log that is appended a hundred times a second")
                .unwrap();
            std::thread::sleep(Duration::from_millis(10));
        });
        // Always a beginning of it, and never far behind.
        let mut last = 0;
        while start.elapsed() < Duration::from_secs(4) {
            let here = fs::read(stage.t("log")).unwrap();
            assert!(here.len() >= last, "it shrank");
            assert!(fs::read(stage.s("log")).unwrap().starts_with(&here), "not a beginning");
            last = here.len();
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(last > 50 * 60, "only {last} bytes within 4 seconds");
        // A rotation: the old name moves, the new one begins anew.
        logging.stop();
        fs::rename(stage.s("log"), stage.s("log.1")).unwrap();
        append(&stage.s("log"), b"first\n");
        append(&stage.s("log.1"), b"last\n");
        stage.settles_with(&push, "rotated");
        push.terminate();
    }
}

#[test]
fn a_reader_never_sees_a_torn_file() {
    for way in WAYS {
        let stage = Stage::new(way);
        // Every content is one byte repeated, so that any mix shows.
        let sizes = [3_000, 60_000, 300_000, 2_000_000];
        let whole = |byte: u8, size: usize| vec![byte; size];
        for size in sizes {
            fs::write(stage.s(format!("{size}")), whole(0, size)).unwrap();
        }
        let push = stage.live(&[]);
        let target = stage.target();
        let reader = Going::on(move |_| {
            for size in sizes {
                let bytes = fs::read(target.join(format!("{size}"))).unwrap();
                assert_eq!(bytes.len(), size, "torn in its length");
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn");
            }
        });
        for byte in 1..40_u8 {
            for size in sizes {
                // Replaced as an editor does it: the source is never torn itself.
                let (new, name) = (stage.s(".new"), stage.s(format!("{size}")));
                fs::write(&new, whole(byte, size)).unwrap();
                fs::rename(&new, &name).unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        stage.settles_with(&push, "in the end");
        reader.stop();
        push.terminate();
        stage.no_temporary_names();
    }
}

#[test]
fn git_goes_back_and_forth_between_revisions() {
    for way in WAYS {
        let stage = Stage::new(way);
        let source = stage.source();
        let git = "git -c user.name=x -c user.email=x@x -c gc.auto=0 -c init.defaultBranch=main";
        sh(&source, &format!("{git} init -q ."));
        for revision in 0..4 {
            // Files change, move, and turn into directories and links.
            sh(&source, "find . -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {} +");
            for i in 0..60_u64 {
                let dir = source.join(format!("d{}/e{}", (i + revision) % 7, i % 5));
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join(format!("f{i}")), noise(i * (1 + revision % 2), 3000)).unwrap();
            }
            match revision {
                0 => fs::write(source.join("kind"), "a file").unwrap(),
                1 => {
                    fs::create_dir(source.join("kind")).unwrap();
                    fs::write(source.join("kind/inside"), "x").unwrap();
                }
                2 => std::os::unix::fs::symlink("d0", source.join("kind")).unwrap(),
                _ => {}
            }
            sh(
                &source,
                &format!("{git} add -A && {git} commit -qm r{revision} && git tag r{revision}"),
            );
        }
        let push = stage.live(&[]);
        stage.settles_with(&push, "the first mirror");
        for to in ["r0", "r1", "r2", "r3", "r0", "r2", "r1", "r0"] {
            sh(&source, &format!("git checkout -q {to}"));
            if to != "r1" {
                stage.settles_with(&push, to);
            }
        }
        // Without waiting.
        for to in ["r3", "r1", "r2", "r0", "r3", "r2", "r1", "main"] {
            sh(&source, &format!("git checkout -q {to}"));
        }
        sh(&source, "git gc -q");
        stage.settles_with(&push, "back and forth");
        let status = sh(
            &stage.target(),
            "GIT_OPTIONAL_LOCKS=0 git -c safe.directory='*' status --porcelain",
        );
        assert_eq!(status, "", "the target is a working tree like the source");
        push.terminate();
        if way == Way::Local {
            assert_eq!(stage.once(&[]).fine().done()["ops"], 0);
        }
    }
}

#[test]
fn a_flood_of_events_is_caught_up_with() {
    let stage = Stage::new(Way::Local);
    for i in 0..20 {
        fs::create_dir(stage.s(format!("d{i}"))).unwrap();
    }
    let push = stage.live(&[]);
    // More than the kernel's queue holds, while it is being read.
    for round in 0..3 {
        for (dir, file) in (0..20).flat_map(|dir| (0..200).map(move |file| (dir, file))) {
            let (new, kept) = (format!("d{dir}/f{file}-{round}"), format!("d{dir}/g{file}"));
            fs::write(stage.s(&new), "").unwrap();
            let _ = fs::remove_file(stage.s(&kept));
            fs::hard_link(stage.s(&new), stage.s(&kept)).unwrap();
        }
    }
    sh(&stage.source(), "for i in $(seq 0 9); do rm -rf d$i/g1*; mv d$i e$i; done");
    stage.settles_with(&push, "in the end");
    push.terminate();
}
