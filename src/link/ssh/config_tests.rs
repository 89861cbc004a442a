//! The ssh configuration's rules, as tables.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use super::*;

fn asked(host: &str) -> Asked {
    Asked { host: host.into(), local_user: "me".into(), ..Asked::default() }
}

fn read_with(asked: &Asked, text: &str, files: &[(&str, &str)]) -> Result<Settings> {
    let files: HashMap<&str, &str> = files.iter().copied().collect();
    let includes = |pattern: &str| {
        Ok(files
            .get(pattern)
            .map(|text| (pattern.into(), (*text).to_owned()))
            .into_iter()
            .collect())
    };
    let mut parser = Parser::new(asked);
    parser.read(Path::new("config"), text, &includes)?;
    Ok(parser.finish())
}

fn read(host: &str, text: &str) -> Settings {
    read_with(&asked(host), text, &[]).unwrap()
}

#[test]
fn the_first_value_wins_and_key_files_add_up() {
    let text =
        "IdentityFile a\nHost web*\n Port 2200\n IdentityFile b\nHost *\n Port 99\n User x\n";
    let web = read("web1", text);
    assert_eq!((web.port, web.user.as_deref()), (Some(2200), Some("x")));
    assert_eq!(web.identity_files, ["a", "b"]);
    assert_eq!(read("other", text).port, Some(99));
}

#[test]
fn a_negated_pattern_takes_the_whole_line_away() {
    let text = "Host *.org !bad.org\nPort 1\nHost *\nPort 2";
    assert_eq!(read("good.org", text).port, Some(1));
    assert_eq!(read("bad.org", text).port, Some(2));
}

#[test]
fn the_command_line_comes_before_the_file() {
    let asked = Asked { user: Some("cli".into()), port: Some(7), ..asked("h") };
    let got = read_with(&asked, "User file\nPort 8", &[]).unwrap();
    assert_eq!((got.user.as_deref(), got.port), (Some("cli"), Some(7)));
}

#[test]
fn an_include_applies_where_it_stands() {
    let files = [("inc", "Port 5\nHost other\nUser nobody\n")];
    let text = "Host h\nInclude inc\nUser after\nHost *\nUser last";
    let got = read_with(&asked("h"), text, &files).unwrap();
    // The Host line of the included file ends with it.
    assert_eq!((got.port, got.user.as_deref()), (Some(5), Some("after")));
    let got = read_with(&asked("other"), text, &files).unwrap();
    assert_eq!((got.port, got.user.as_deref()), (None, Some("last")));
    let error = read_with(&asked("h"), "Include me", &[("me", "Include me")]).unwrap_err();
    assert!(error.to_string().contains("too deeply"), "{error}");
}

#[test]
fn match_knows_hosts_and_users_and_refuses_what_it_cannot_know() {
    let text = "HostName real\nMatch host real user me\nPort 3\nMatch originalhost x\nPort 4\nMatch all\nPort 5";
    assert_eq!(read("h", text).port, Some(3));
    assert_eq!(read("x", "Match originalhost x,y\nPort 4").port, Some(4));
    assert_eq!(read("h", "Match !host h\nPort 4\nMatch all\nPort 5").port, Some(5));
    assert_eq!(read("h", "Match final host h\nPort 4").port, None);
    // Could not apply, so it does not matter.
    assert_eq!(read("h", "Match host other exec \"test -e /x\"\nPort 4").port, None);
    let error = read_with(&asked("h"), "\nMatch exec true\nPort 4", &[]).unwrap_err();
    assert_eq!(error.to_string(), "cannot do what config line 2 asks for: Match exec");
    assert!(error.hint_text().unwrap().contains("--ssh-command"));
}

#[test]
fn proxies_times_and_flags() {
    let got = read("h", "ProxyJump a@x:1,y\nProxyCommand nc %h %p");
    assert_eq!(got.proxy, Some(Proxy::Jump(vec!["a@x:1".into(), "y".into()])));
    let got = read("h", "ProxyCommand=nc \"%h\" %p\nProxyJump x");
    assert_eq!(got.proxy, Some(Proxy::Command("nc \"%h\" %p".into())));
    assert_eq!(read("h", "ProxyJump none\nProxyCommand x").proxy, Some(Proxy::None));
    let got = read("h", "ServerAliveInterval 1m30\nConnectTimeout 7\nBatchMode yes");
    assert_eq!(got.alive_interval, Some(Duration::from_secs(90)));
    assert_eq!(got.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(got.batch_mode, Some(true));
    assert_eq!(read("h", "StrictHostKeyChecking no").strict, Some(Strict::AcceptNew));
    assert_eq!(read("h", "StrictHostKeyChecking ask").strict, Some(Strict::Refuse));
}

#[test]
fn what_does_not_concern_us_is_passed_over_and_nonsense_is_not() {
    let text = "Host other\nPort nonsense\nHost *\nForwardAgent yes\nNeverHeardOf 1 2 3\nPort 4";
    assert_eq!(read("h", text).port, Some(4));
    for bad in
        ["Port x", "Port 0", "IdentitiesOnly maybe", "User", "ConnectTimeout soon", "Host \"a"]
    {
        let error = read_with(&asked("h"), bad, &[]).unwrap_err().to_string();
        assert!(error.starts_with("cannot read config line 1: "), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(Host|Match|Include|Port|ProxyJump|[a-z]{0,9})?[ =\"'\\\\#a-z0-9!*?,\n]{0,60}") {
        let _ = read_with(&asked("h"), &text, &[]);
    }
}
