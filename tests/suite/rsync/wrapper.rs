//! `rsync.binary`: whoever wrote a wrapper for Lsyncd 2 gets the words and names that it got there.

use super::*;

/// A wrapper that records how it is called, and calls rsync.
fn recorder(place: &Place) -> PathBuf {
    let wrap = place.path("wrapper");
    let log = place.path("log").display().to_string();
    script(
        &wrap,
        &format!(
            "cat > {log}.in.$$\n(printf '%s|' \"$@\"; printf ' < '; tr '\\0' '|' < {log}.in.$$; echo) > {log}.all.$$\n\
             cat {log}.all.$$ >> {log}\n\
             exec rsync \"$@\" < {log}.in.$$\n"
        ),
    );
    wrap
}

fn calls(place: &Place) -> Vec<String> {
    let log = fs::read_to_string(place.path("log")).unwrap_or_default();
    let (s, t) = (place.path("source/"), place.path("target/"));
    log.replace(s.to_str().unwrap(), "SRC/")
        .replace(t.to_str().unwrap(), "TRG/")
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_wrapper_is_called_as_lsyncd_2_calls_it() {
    let place = Place::new();
    sh(&place.path("source"), "mkdir -p d/e gone/x; echo 1 > d/e/f; echo 1 > gone/x/y");
    let config = RsyncMirror {
        options: Place::options(&[("binary", text(recorder(&place)))]),
        delay: std::time::Duration::from_millis(300),
        ..place.config()
    };
    let mirror = Mirror::start(config, false).ready();
    assert_eq!(calls(&place), ["--delete|--ignore-errors|-lts|-r|SRC/|TRG/| < "]);
    sh(&place.path("source"), "echo 22 > d/e/f; echo 2 > 'a]b'; rm -r gone; echo 3 > 'w*]'");
    equal(&place, "it");
    drop(mirror);
    let calls = calls(&place);
    assert_eq!(
        calls[1..],
        [
            "-lts|-r|--delete|--ignore-errors|--force|--from0|--include-from=-|--exclude=*|SRC/|TRG/| \
             < /a]b|/|/d/e/f|/d/e/|/d/|/gone/***|/gone/|/w\\*\\]|"
        ]
    );
}

/// Where names or content differ; owners and the like are not carried by default.
fn unequal_names(place: &Place) -> Option<String> {
    let out = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(place.path("source"))
        .arg(place.path("target"))
        .output()
        .unwrap();
    (!out.status.success()).then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Waits until names and content are equal.
#[track_caller]
fn equal(place: &Place, when: &str) {
    let end = std::time::Instant::now() + PATIENCE;
    while let Some(text) = unequal_names(place) {
        let calls = calls(place).join("\n");
        assert!(std::time::Instant::now() < end, "{when} is not equal:\n{text}\n{calls}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn rules_go_to_a_wrappers_start_alone() {
    let place = Place::new();
    sh(&place.path("source"), "echo 1 > a.o; echo 1 > a.c");
    let mut config = RsyncMirror {
        options: Place::options(&[("binary", text(recorder(&place)))]),
        excludes: vec![b"*.o".to_vec()],
        ..place.config()
    };
    config.filter.add_rule(b"- *.o").unwrap();
    let mirror = Mirror::start(config, false).ready();
    let log = fs::read_to_string(place.path("log")).unwrap();
    assert!(log.starts_with("--exclude-from=-|--delete|--ignore-errors|-lts|-r|"), "{log}");
    assert!(log.ends_with("< *.o\n\n"), "{log}");
    sh(&place.path("source"), "echo 1 > b.o; mkdir d; echo 1 > d/c.o; echo 1 > d/c.c");
    wait_until("what is not excluded arrives", || place.t("d/c.c").exists());
    assert!(!place.t("b.o").exists() && !place.t("d/c.o").exists());
    drop(mirror);
}

#[test]
fn odd_names_arrive_through_a_wrapper_too() {
    let place = Place::new();
    let config = RsyncMirror {
        options: Place::options(&[("binary", text("rsync"))]),
        delay: std::time::Duration::from_millis(200),
        ..place.config()
    };
    let mirror = Mirror::start(config, false).ready();
    let source = place.path("source");
    for name in ODD {
        fs::write(odd(&source, name), "1").unwrap();
    }
    equal(&place, "with files");
    for name in ODD {
        fs::remove_file(odd(&source, name)).unwrap();
        fs::create_dir(odd(&source, name)).unwrap();
        fs::write(odd(&source, name).join("x]"), "1").unwrap();
    }
    equal(&place, "with directories");
    fs::write(source.join("last"), "").unwrap();
    for name in ODD {
        fs::remove_dir_all(odd(&source, name)).unwrap();
    }
    equal(&place, "without them");
    drop(mirror);
}

#[test]
fn large_files_go_alone() {
    let place = Place::new();
    let config = RsyncMirror {
        options: Place::options(&[("binary", text(recorder(&place)))]),
        delay: std::time::Duration::from_millis(400),
        max_processes: 2,
        batch_size_limit: Some(1000),
        ..place.config()
    };
    let mirror = Mirror::start(config, false).ready();
    sh(&place.path("source"), "echo 1 > a; echo 1 > b; head -c 2000 /dev/zero > large");
    equal(&place, "it");
    drop(mirror);
    let mut inputs: Vec<String> = calls(&place)[1..]
        .iter()
        .map(|call| call.split_once(" < ").unwrap().1.to_owned())
        .collect();
    inputs.sort();
    assert_eq!(inputs, ["/a|/|/b|", "/large|/|"]);
}
