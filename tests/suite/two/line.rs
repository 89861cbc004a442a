//! The words of a command line, each where it has its effect.

use std::fs;

use super::*;

/// Runs it with these words to its end.
fn ended(stage: &Stage, words: &[&str]) -> (Option<i32>, String) {
    Two::start(stage, words).code()
}

#[test]
fn what_ssh_or_rsync_would_take_for_an_option_is_refused() {
    let stage = Stage::new(Way::Local);
    let source = stage.source();
    let source = source.to_str().unwrap();
    let evil = format!("-oProxyCommand=touch {}", stage.path("evil").display());
    let (with_dir, with_user) = (format!("{evil}:/x"), format!("me@{evil}:/x"));
    let plain = "-oProxyCommand=x:/y";
    for words in [
        &["-rsync", source, plain][..],
        &["-rsync", source, &with_dir],
        &["-rsync", source, &with_user],
        &["-rsync", source, "-x::module"],
        &["-rsync", source, "rsync://-x/module"],
        &["-rsyncssh", source, "-oProxyCommand=x", "/y"],
        &["-rsyncssh", source, &evil, "/y"],
        &["-rsyncssh", source, "me@-x", "/y"],
        &["-direct", source, "-x"],
    ] {
        let (code, said) = ended(&stage, &[&["-nodaemon", "-insist"], words].concat());
        assert_eq!(code, Some(255), "{words:?}: {said}");
        assert!(said.contains("a host or user may not begin with a hyphen"), "{words:?}: {said}");
    }
    for keys in [
        "default.rsyncssh, host = EVIL, targetdir = '/y', rsync = { checksum = true }",
        "default.rsyncssh, host = EVIL, targetdir = '/y', init = function(event) end",
        "default.rsync, target = EVIL .. ':/y', init = function(event) end",
        "default.rsync, target = EVIL .. ':/y', prepare = function() end",
        "default.rsync, target = 'me@' .. EVIL .. ':/y', rsync = { binary = 'true' }",
    ] {
        let config = format!("EVIL = {evil:?} sync {{ {keys}, source = SRC }}");
        let (code, said) = Two::with(&stage, &config).code();
        assert_eq!(code, Some(255), "{keys}: {said}");
        assert!(said.contains("a host or user may not begin with a hyphen"), "{keys}: {said}");
    }
    let (code, said) = ended(&stage, &["-nodaemon", "-rsyncssh", source, "a/b", "/y"]);
    assert_eq!(code, Some(255), "{said}");
    assert!(said.contains("a / cannot stand in a host name"), "{said}");
    let left: Vec<_> = fs::read_dir(stage.path("")).unwrap().flatten().collect();
    let names = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut left: Vec<String> = left.iter().map(names).collect();
    left.sort();
    assert_eq!(left, ["c.lua", "home", "out", "source"], "no directory of such a name was made");
}
