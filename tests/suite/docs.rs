//! The documents: the command lines in them are understood, the options in them exist, and what
//! they point to is there.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use lsyncd::cli::{self, Invocation, World};
use lsyncd::config::value;
use lsyncd::error::Exit;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every document of the repository, by its path from the top.
fn documents() -> Vec<(String, String)> {
    let mut names = vec![
        "README.md".to_owned(),
        "ARCHITECTURE.md".to_owned(),
        "CHANGELOG.md".to_owned(),
        "CONTRIBUTING.md".to_owned(),
        "SECURITY.md".to_owned(),
    ];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    let read = |name: String| {
        let text = fs::read_to_string(root().join(&name));
        (name.clone(), text.unwrap_or_else(|error| panic!("{name}: {error}")))
    };
    names.into_iter().map(read).collect()
}

/// A document, taken apart.
#[derive(Default)]
struct Parts {
    /// Lines of fenced blocks that are marked `sh`.
    commands: Vec<String>,
    /// Everything between backticks outside of fenced blocks.
    code: Vec<String>,
    /// The text outside of fenced blocks.
    prose: String,
}

fn parts(text: &str) -> Parts {
    let mut parts = Parts::default();
    let mut fence: Option<String> = None;
    let mut begun = String::new();
    for line in text.lines() {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            fence = match fence {
                None => Some(kind.trim().to_owned()),
                Some(_) => None,
            };
            continue;
        }
        match fence.as_deref() {
            Some("sh") => {
                begun.push_str(line.trim());
                if begun.ends_with('\\') {
                    begun.pop();
                    continue;
                }
                parts.commands.push(std::mem::take(&mut begun));
            }
            Some(_) => {}
            None => {
                parts.prose.push_str(line);
                parts.prose.push('\n');
            }
        }
    }
    assert!(fence.is_none(), "a block without an end");
    parts.code =
        parts.prose.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")).collect();
    parts
}

/// Our own command line in a line for a shell, if there is one.
fn ours(line: &str) -> Option<Vec<String>> {
    let line = line.split(" # ").next().unwrap_or(line).trim();
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    let rest = ["lsyncd ", "target/release/lsyncd ", "cargo run --release -- "]
        .iter()
        .find_map(|start| line.strip_prefix(start))?;
    let end = [" | ", " > ", " 2> ", " && ", " &"].iter().filter_map(|cut| rest.find(cut)).min();
    let rest = &rest[..end.unwrap_or(rest.len())];
    Some(value::words(rest).unwrap_or_else(|why| panic!("{line}: {why}")))
}

/// A home of its own, in which every local path that a command line names is there.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        fs::create_dir_all(home.0.path().join("cwd")).unwrap();
        home
    }

    fn world(&self) -> World {
        World {
            cwd: self.0.path().join("cwd"),
            home: Some(self.0.path().to_owned()),
            user: Some("me".to_owned()),
            stdout_terminal: true,
            ..World::default()
        }
    }

    /// A word with its path beneath this home, made there: a directory, or a file of rules.
    fn place(&self, word: &str, before: &str) -> OsString {
        let local = !word.starts_with('-') && !word.split('/').next().unwrap_or(word).contains(':');
        if !local {
            return word.into();
        }
        let path = if word.starts_with('/') {
            self.0.path().join("tree").join(word.trim_start_matches('/'))
        } else if let Some(rest) = word.strip_prefix("~/") {
            self.0.path().join("home").join(rest)
        } else {
            let path = self.0.path().join("cwd").join(word);
            make(&path, before);
            return word.into();
        };
        make(&path, before);
        path.into()
    }

    fn understands(&self, words: &[String]) -> Result<Invocation, String> {
        let mut argv: Vec<OsString> = vec!["lsyncd".into()];
        let mut before = "";
        for (at, word) in words.iter().enumerate() {
            // The command itself, and `agent install`.
            let places =
                at > 1 || (at == 1 && ["push", "verify", "run"].contains(&words[0].as_str()));
            argv.push(if places { self.place(word, before) } else { word.into() });
            before = word;
        }
        cli::parse(argv, &self.world()).map_err(|error| error.to_string())
    }
}

fn make(path: &Path, before: &str) {
    if before.ends_with("-from") {
        fs::write(path, "*.tmp\n").unwrap();
    } else if path.extension().is_some_and(|end| end == "toml") {
        fs::write(path, "[[mirror]]\nsource = '.'\ntarget = 'h:t'\n").unwrap();
    } else {
        fs::create_dir_all(path).unwrap();
    }
}

#[test]
fn every_command_line_is_understood() {
    let mut seen = 0;
    for (name, text) in documents() {
        let parts = parts(&text);
        let quoted = parts.code.iter().filter(|code| !code.contains('…') && !code.contains("..."));
        for line in parts.commands.iter().chain(quoted) {
            let Some(words) = ours(line) else { continue };
            seen += 1;
            if let Err(error) = Home::new().understands(&words) {
                panic!("{name}: {line}: {error}");
            }
        }
    }
    assert!(seen >= 10, "only {seen} command lines found");
}

#[test]
fn the_keys_of_the_configuration_are_those_of_the_program() {
    let path = root().join("docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("<!-- keys -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- /keys -->\n").unwrap();
    let made = cli::run::reference();
    if std::env::var_os("UPDATE").is_some() {
        let new = format!("{before}<!-- keys -->\n{made}<!-- /keys -->\n{after}");
        fs::write(&path, new).unwrap();
    } else {
        assert_eq!(table, made, "UPDATE=1 cargo test --test suite docs:: writes it");
    }
}

#[test]
fn the_example_of_a_configuration_loads() {
    let home = Home::new();
    let example = root().join("examples/lsyncd.toml");
    let world = World { exe: Some("/usr/bin/lsyncd".into()), ..home.world() };
    let (_, mirrors) = cli::run::load(&example, &world).unwrap();
    let names: Vec<&str> = mirrors.iter().map(lsyncd::config::AnyMirror::name).collect();
    assert_eq!(names, ["www", "site@web1:site", "site@web2:site", "home", "archive"]);
}

#[test]
fn the_command_lines_are_really_tried() {
    let words = |line: &str| ours(line).unwrap();
    let home = Home::new();
    assert!(home.understands(&words("lsyncd push --onse /a /b")).is_err());
    assert!(home.understands(&words("lsyncd push /a")).is_err());
    assert!(home.understands(&words("lsyncd run --demon mirrors.toml")).is_err());
    assert!(home.understands(&words("lsyncd push /a host:/b # why | so")).is_ok());
    assert_eq!(words("sudo lsyncd push 'a b' c | tee log"), ["push", "a b", "c"]);
    assert_eq!(ours("lsyncd: cannot watch /a"), None);
}

#[test]
fn every_option_that_is_named_exists() {
    let help = |words: &[&str]| {
        let argv = std::iter::once("lsyncd").chain(words.iter().copied()).map(OsString::from);
        match cli::parse(argv, &World::default()) {
            Ok(Invocation::Print { text, exit: Exit::Done }) => text,
            other => panic!("{words:?}: {other:?}"),
        }
    };
    let mut known: BTreeSet<String> = BTreeSet::new();
    for text in [
        help(&["--help"]),
        help(&["push", "--help"]),
        help(&["verify", "--help"]),
        help(&["agent", "install", "--help"]),
        help(&["agent", "check", "--help"]),
        help(&["agent", "authorize", "--help"]),
        help(&["status", "--help"]),
        help(&["flush", "--help"]),
        help(&["run", "--help"]),
        help(&["resume", "--help"]),
    ] {
        known.extend(options(&text));
    }
    assert!(known.contains("--max-delete") && known.len() > 40, "{known:?}");
    for (name, text) in documents() {
        // Contributors are told of other programs too.
        if name == "CONTRIBUTING.md" {
            continue;
        }
        for code in parts(&text).code {
            // `--flag` and `--flag VALUE` are ours; `cargo test --locked` is not, nor what a bench
            // gets behind `--`.
            if code.starts_with("--") && !code.starts_with("-- ") {
                for option in options(&code) {
                    assert!(known.contains(&option), "{name}: there is no {option}");
                }
            }
        }
    }
}

/// The long options in a text.
fn options(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let long = words.filter(|word| word.starts_with("--") && word.len() > 2);
    long.map(str::to_owned).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for (name, text) in documents() {
        let dir = root().join(&name).parent().unwrap().to_owned();
        let prose = parts(&text).prose;
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(&name) } else { dir.join(file) };
            assert!(target.exists(), "{name}: {link} is not there");
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let there = text.lines().filter(|line| line.starts_with('#')).any(|line| {
                    let title = line.trim_start_matches('#').trim().to_lowercase();
                    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
                    title.chars().filter(kept).collect::<String>().replace(' ', "-") == anchor
                });
                assert!(there, "{name}: {link}: no such heading");
            }
        }
    }
    assert!(seen >= 10, "only {seen} links found");
}

#[test]
fn paths_of_the_sources_that_are_named_exist() {
    for (name, text) in documents() {
        for code in parts(&text).code {
            let path = code.split("::").next().unwrap_or(&code);
            let path_like = ["src/", "tests/", "protocol/src/"].iter().any(|p| path.starts_with(p));
            if path_like && !path.contains(['*', '{', ' ', '<']) {
                assert!(root().join(path).exists(), "{name}: there is no {path}");
            }
        }
    }
}

#[test]
fn the_code_map_names_every_module() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for dir in ["src", "agent/src", "protocol/src", "src/watch", "src/link", "src/carrier"] {
        for entry in fs::read_dir(root().join(dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if let Some(module) = name.strip_suffix(".rs") {
                let last = format!("`{module}`");
                let full = format!("`{}/{module}`", dir.rsplit('/').next().unwrap_or(dir));
                assert!(
                    map.contains(&last) || map.contains(&full),
                    "ARCHITECTURE.md does not speak of {dir}/{name}"
                );
            }
        }
    }
}

#[test]
fn the_exit_codes_in_the_readme_are_those_of_the_program() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for exit in [Exit::Done, Exit::Usage, Exit::Partial, Exit::Stopped, Exit::Failed] {
        assert!(readme.contains(&format!("\n| {} | ", exit as u8)), "no row for {exit:?}");
    }
}

#[test]
fn the_picture_is_there_and_shown() {
    let svg = fs::read_to_string(root().join("docs/how-it-works.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    for part in ["<title", "viewBox="] {
        assert!(svg.contains(part), "no {part}");
    }
    assert!(!svg.contains("href=\"http") && !svg.contains("<script"), "it loads something");
    for name in ["README.md", "docs/how-it-works.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        assert!(text.contains("how-it-works.svg)"), "{name} does not show it");
    }
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let first = text.lines().find(|line| line.starts_with("## ")).unwrap();
    assert_eq!(first, "## [Unreleased]");
    let kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    for line in text.lines().filter_map(|line| line.strip_prefix("### ")) {
        assert!(kinds.contains(&line), "Keep a Changelog knows no {line}");
    }
}

/// All sources of the program and of the agent, with the lines of a text joined.
fn all_sources() -> String {
    let mut all = String::new();
    let mut dirs = vec![root().join("src"), root().join("agent/src"), root().join("protocol/src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                all.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut joined = String::new();
    let mut rest = all.as_str();
    while let Some(at) = rest.find("\\\n") {
        joined.push_str(&rest[..at]);
        rest = rest[at + 2..].trim_start();
    }
    joined + rest
}

#[test]
fn the_messages_that_are_explained_are_those_of_the_program() {
    /// The operating system's own.
    const OF_THE_SYSTEM: [&str; 1] = ["permission denied"];
    let sources = all_sources();
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut seen = 0;
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let first = row.trim_start_matches("| ").split(" | ").next().unwrap();
        for message in first.split('`').skip(1).step_by(2) {
            for part in message.replace("PATH", "…").split('…').map(str::trim) {
                // What a colon begins is a cause, and may be the system's.
                let cause = part.starts_with(':') || OF_THE_SYSTEM.contains(&part);
                if part.len() > 3 && !cause {
                    seen += 1;
                    assert!(sources.contains(part), "no message says “{part}”: {row}");
                }
            }
        }
    }
    assert!(seen > 30, "only {seen} messages found");
}

/// The files of sources that a name of a test may mean, by its modules.
fn files_of(modules: &[&str]) -> Vec<PathBuf> {
    let (dir, rest) = match modules {
        ["agent", "suite", rest @ ..] => ("agent/tests/suite", rest),
        ["suite", rest @ ..] => ("tests/suite", rest),
        ["agent", rest @ ..] => ("agent/src", rest),
        ["protocol", rest @ ..] => ("protocol/src", rest),
        rest => ("src", rest),
    };
    let path = format!("{dir}/{}", rest.join("/"));
    let all = [format!("{path}.rs"), format!("{path}/tests.rs"), format!("{path}_tests.rs")];
    all.iter().map(|name| root().join(name)).filter(|path| path.exists()).collect()
}

/// Is there a test of this name? `modules::of::it::name`.
fn is_test(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let Some((function, modules)) = parts.split_last() else { return false };
    files_of(modules).iter().any(|file| {
        let text = fs::read_to_string(file).unwrap();
        let Some(at) = text.find(&format!("fn {function}(")) else { return false };
        // Its attribute stands right before it, or that of all the properties does.
        let before = &text[..at];
        let lines: Vec<&str> = before.lines().rev().take(4).map(str::trim).collect();
        lines.iter().any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_class_of_weakness_has_a_test_or_a_reason() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let (_, table) = text.split_once("## Which test holds which class").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let mut tests = 0;
    for row in &rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [class, held] = cells[..] else { panic!("not two cells: {row}") };
        assert!(!class.trim().is_empty() && held.trim().len() > 20, "{row}");
        for name in held.split('`').skip(1).step_by(2).filter(|code| code.contains("::")) {
            assert!(is_test(name), "SECURITY.md: there is no test {name}");
            tests += 1;
        }
    }
    assert!(rows.len() > 25 && tests > 50, "{} rows, {tests} tests", rows.len());
    assert!(!is_test("docs::is_test") && !is_test("suite::docs::files_of"));
}
