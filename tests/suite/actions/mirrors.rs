//! Trees that scripts keep equal, and what they are told of.

use super::*;

/// A mirror by commands for a shell.
const SHELL_MIRROR: &str = r#"
    sync {
        target = DIR .. "/t/", maxProcesses = 3,
        onStartup = 'cp -a ^source. ^target',
        onCreate = [[if [ -d ^sourcePathname ]; then mkdir -p -- ^targetPathname; else cp -p -- "^sourcePathname" ^targetPathdir; fi]],
        onModify = 'cp -p -- ^sourcePathname ^targetPathdir',
        onDelete = 'rm -rf -- "^targetPathname"',
    }
"#;

/// The same by programs, without a shell.
const DIRECT_MIRROR: &str = r#"
    sync {
        target = DIR .. "/t/", maxProcesses = 3,
        onStartup = '/bin/cp -a ^source. ^target',
        onCreate = '/bin/cp -a -- ^sourcePathname ^targetPathdir',
        onModify = '/bin/cp -a -- ^sourcePathname ^targetPathdir',
        onDelete = '/bin/rm -rf -- ^targetPathname',
    }
"#;

/// Names that mean something to a shell. `PWNED` is a file that none of them may bring about.
fn evil_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "a b",
        "'",
        "\"",
        "it's \"so\"",
        "$(touch PWNED)",
        "`touch PWNED`",
        ";touch PWNED;",
        "\"; touch PWNED; \"",
        "'; touch PWNED; '",
        "$(touch${IFS}PWNED)",
        "a\nb",
        "\ntouch PWNED\n",
        "-rf",
        "--help",
        "*",
        "?[a]",
        "a]b",
        "${1}",
        "\\",
        "&",
        "^path",
        "é",
        " ",
        "\t",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec();
    names.push(b"\xff\xfe".to_vec());
    names
}

#[test]
fn no_name_reaches_a_shell_as_code() {
    for config in [SHELL_MIRROR, DIRECT_MIRROR] {
        let rig = Rig::with(config, |dir| fs::write(dir.join("s/before"), "before").unwrap());
        let rig = rig.running();
        assert_eq!(rig.read("t/before"), "before", "the startup was over first");
        for name in evil_names() {
            let name = OsStr::from_bytes(&name);
            fs::write(rig.path("s").join(name), "content").unwrap();
        }
        rig.until_equal();
        assert_eq!(tree(&rig.path("t")).len(), evil_names().len() + 1);
        for name in evil_names() {
            fs::remove_file(rig.path("s").join(OsStr::from_bytes(&name))).unwrap();
        }
        fs::create_dir(rig.path("s/$(touch PWNED)")).unwrap();
        fs::write(rig.path("s/$(touch PWNED)/in it"), "x").unwrap();
        rig.until_equal();
        assert_eq!(tree(&rig.path("t")).len(), 3);
        for place in [rig.path("s"), rig.path("t"), rig.path(""), PathBuf::from(".")] {
            assert!(!place.join("PWNED").exists(), "in {}", place.display());
        }
    }
}

#[test]
fn histories_converge_with_and_without_moves() {
    const MOVES: &str = r#"
        sync {
            target = DIR .. "/t/", maxProcesses = 3, delay = 0.05,
            onStartup = 'true',
            onCreate = [[if [ -d ^sourcePathname ]; then mkdir -p -- ^targetPathname; else cp -p -- ^sourcePathname ^targetPathdir; fi]],
            onModify = 'cp -p -- ^sourcePathname ^targetPathdir',
            onDelete = 'rm -rf -- ^targetPathname',
            onMove = 'mv -T -- ^o.targetPathname ^d.targetPathname',
        }
    "#;
    for config in [SHELL_MIRROR, MOVES] {
        let rig = Rig::new(config).running();
        let at = |name: &str| rig.path("s").join(name);
        fs::create_dir_all(at("d/e/f")).unwrap();
        fs::write(at("d/e/f/x"), "1").unwrap();
        fs::write(at("d/y"), "2").unwrap();
        rig.until_equal();
        fs::rename(at("d"), at("n")).unwrap();
        rig.until_equal();
        assert_eq!(rig.read("t/n/e/f/x"), "1");
        // It is still watched, under its new name.
        fs::write(at("n/e/f/x"), "3").unwrap();
        fs::rename(at("n/y"), at("z")).unwrap();
        fs::rename(at("n/e"), at("e")).unwrap();
        fs::write(at("e/new"), "4").unwrap();
        fs::remove_dir_all(at("n")).unwrap();
        rig.until_equal();
        assert_eq!((rig.read("t/e/f/x"), rig.read("t/z")), ("3".to_owned(), "2".to_owned()));
        fs::rename(at("z"), rig.path("out")).unwrap();
        rig.until_equal();
        assert_eq!(rig.lines.count("Error"), 0, "{:?}", rig.lines.all());
    }
}

#[test]
fn excludes_of_the_configuration_and_of_a_script() {
    let rig = Rig::new(
        r#"
        sync {
            exclude = { "*.tmp", "/no/" },
            onCreate = function(event)
                log("Made", event.path)
                if event.path == "lock" then
                    event.inlet.addExclude("*.now")
                    event.inlet.rmExclude("*.tmp")
                    log("Now", table.concat(event.inlet.getExcludes(), " "))
                end
            end,
            onDelete = function(event) log("Gone", event.path) end,
            onMove = function(o, d) log("Moved", o.path, d.path) end,
        }
    "#,
    )
    .running();
    rig.write("s/a.tmp", "");
    fs::create_dir_all(rig.path("s/no/inner")).unwrap();
    rig.write("s/b", "");
    rig.until_says("Made: b");
    // Out of what is excluded and into it.
    fs::rename(rig.path("s/a.tmp"), rig.path("s/a")).unwrap();
    rig.until_says("Made: a");
    fs::rename(rig.path("s/b"), rig.path("s/b.tmp")).unwrap();
    rig.until_says("Gone: b");
    rig.write("s/lock", "");
    rig.until_says("Now: /no/ *.now");
    rig.write("s/c.now", "");
    rig.write("s/c.tmp", "");
    rig.until_says("Made: c.tmp");
    let made: Vec<String> =
        rig.lines.all().into_iter().filter(|line| line.starts_with("Made")).collect();
    assert_eq!(made, ["Made: b", "Made: a", "Made: lock", "Made: c.tmp"]);
}

#[test]
fn a_source_that_goes_and_comes_back_is_started_anew() {
    let rig = Rig::new(SHELL_MIRROR).running();
    rig.write("s/a", "1");
    rig.until_equal();
    fs::rename(rig.path("s"), rig.path("away")).unwrap();
    rig.until_says("Warn: the source");
    assert_eq!(rig.read("t/a"), "1", "nothing is concluded from it");
    fs::write(rig.path("away/b"), "2").unwrap();
    fs::rename(rig.path("away"), rig.path("s")).unwrap();
    rig.until("the startup ran again", || rig.lines.count(" finished.") >= 2);
    rig.until_equal();
    rig.write("s/c", "3");
    rig.until_equal();
}

#[test]
fn what_is_polled_is_compared() {
    let config = format!(
        "{SHELL_MIRROR}\nSYNCS[1].onAttrib = 'chmod --reference=^sourcePathname ^targetPathname'"
    );
    let options = ActionOptions::default();
    let rig = Rig::of(&config, options, false, WatchChoice::Poll, |dir| {
        fs::create_dir(dir.join("s/d")).unwrap();
        fs::write(dir.join("s/d/old"), "old").unwrap();
    })
    .running();
    rig.write("s/d/new", "new");
    rig.until_equal();
    rig.write("s/d/new", "other");
    rig.until_equal();
    fs::set_permissions(rig.path("s/d/old"), fs::Permissions::from_mode(0o600)).unwrap();
    rig.until("the mode is the same", || {
        fs::metadata(rig.path("t/d/old")).unwrap().permissions().mode() & 0o777 == 0o600
    });
    fs::remove_dir_all(rig.path("s/d")).unwrap();
    rig.until_equal();
    rig.until_idle();
    let spawned = rig.lines.count("Exec");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.lines.count("Exec"), spawned, "nothing differs, nothing is done");
}

#[test]
fn a_file_is_told_of_once_and_when_it_is_complete() {
    let rig = Rig::new(
        r#"
        local function show(event) log("Told", event.etype, " ", event.path) end
        sync { onCreate = show, onModify = show, onAttrib = show, onDelete = show, onMove = show }
    "#,
    )
    .running();
    let told = || -> Vec<String> {
        rig.lines.all().into_iter().filter_map(|l| Some(l.strip_prefix("Told: ")?.into())).collect()
    };
    let mut file = fs::File::create(rig.path("s/slow")).unwrap();
    file.write_all(b"half of it").unwrap();
    rig.write("s/quick", "all of it");
    rig.until("the quick one is told of", || told() == ["Create quick"]);
    // In a directory that was not watched when the file was opened.
    fs::create_dir(rig.path("s/d")).unwrap();
    rig.write("s/d/f", "x");
    rig.until("they are told of", || told().len() == 3);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(told(), ["Create quick", "Create d/", "Create d/f"], "the slow one is not complete");
    fs::rename(rig.path("s/slow"), rig.path("s/late")).unwrap();
    file.write_all(b", and the rest").unwrap();
    drop(file);
    rig.until("it is told of", || told().len() == 5);
    assert_eq!(told()[3..], ["Delete slow", "Create late"]);
    // What is never closed is told of, too.
    fs::write(rig.path("out"), "moved in").unwrap();
    fs::rename(rig.path("out"), rig.path("s/in")).unwrap();
    fs::hard_link(rig.path("s/in"), rig.path("s/link")).unwrap();
    std::os::unix::fs::symlink("nowhere", rig.path("s/symlink")).unwrap();
    rig.until("all are told of", || {
        ["Create in", "Create link", "Create symlink"]
            .iter()
            .all(|line| told().iter().any(|told| told == line))
    });
}
