//! The rules of the house, read off the sources: who may import whom, who prints, who reads the
//! environment, how long a file may be. `ARCHITECTURE.md` says why.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of `src`, from the bottom. A module imports from layers beneath its own, and from
/// its own module tree. `cli/legacy` and the like stand for a part that is lower than the whole.
const LAYERS: [(&str, &[&str]); 8] = [
    ("values", &["error", "metrics", "filter", "watch/event"]),
    ("pure", &["collate", "reconcile", "plan", "config", "cli/legacy"]),
    ("outside", &["watch", "link", "config/lua"]),
    ("ends", &["source", "deploy", "carrier"]),
    ("mirrors", &["mirror", "verify"]),
    ("process", &["daemon", "control"]),
    ("seen", &["view"]),
    ("words", &["cli", "main", "lib"]),
];

/// Imports within one layer, each with its reason. Nobody imports back, so there is no circle.
const SIDEWAYS: [(&str, &str, &str); 6] = [
    ("metrics", "error", "a notice carries the problem that it tells of"),
    ("plan", "collate", "a plan is made of what collate calls a step and a mark"),
    ("reconcile", "plan", "both producers of changes speak the operations that plan defines"),
    ("cli/legacy", "config", "old words mean the same values as ours"),
    ("daemon", "control", "a process that runs mirrors answers for them"),
    ("carrier", "source", "content is read when an operation is built, not when it is planned"),
];

/// Where something may be said to a terminal, in the agent: its program, and nothing else.
const AGENT_SPEAKS: [&str; 2] = ["agent/src/main.rs", "agent/src/run.rs"];

const PRINTS: [&str; 7] =
    ["println!", "print!", "eprintln!", "eprint!", "dbg!", "io::stdout()", "io::stderr()"];
const READS_THE_ENVIRONMENT: [&str; 2] = ["std::env::", "use std::env"];
const EXITS: [&str; 3] = ["process::exit", "process::abort", "libc::exit"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of a package, by its path from the top of the repository.
struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Its code: without comments and without what only tests compile.
    fn code(&self) -> String {
        let text = match self.text.find("#[cfg(test)]\nmod tests {") {
            Some(at) => &self.text[..at],
            None => &self.text,
        };
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.map(|line| line.split(" // ").next().unwrap_or(line)).fold(
            String::new(),
            |mut code, line| {
                code.push_str(line);
                code.push('\n');
                code
            },
        )
    }

    /// Its module as a path: `link/ssh`.
    fn module(&self) -> &str {
        self.name.strip_prefix("src/").unwrap_or(&self.name).trim_end_matches(".rs")
    }
}

/// All sources of a directory, without files that only tests compile.
fn sources(dir: &str) -> Vec<Source> {
    let mut all = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                all.push(Source { name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    let tests: BTreeSet<String> = all.iter().flat_map(test_modules).collect();
    // And what such a file has beside it.
    all.retain(|source| {
        !tests.iter().any(|test| {
            let beside = test.trim_end_matches("rs").trim_end_matches('.');
            source.name == *test || source.name.starts_with(&format!("{beside}/"))
        })
    });
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(all.len() > 5, "{dir}: {} files", all.len());
    all
}

/// The files that this one declares for tests alone: `#[cfg(test)] mod tests;`.
fn test_modules(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = source.text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]"
            && let Some(next) = lines.next()
            && let Some(name) =
                next.trim().strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'))
        {
            let path = Path::new(&source.name);
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let dir = path.parent().unwrap();
            let top = ["lib", "main"].contains(&stem);
            let dir = if top { dir.to_owned() } else { dir.join(stem) };
            found.push(dir.join(format!("{name}.rs")).to_str().unwrap().to_owned());
        }
    }
    found
}

/// The layer of a module: that of the longest path in the table which it lies in.
fn layer(module: &str) -> usize {
    let mut best: Option<(usize, usize)> = None;
    for (at, (_, modules)) in LAYERS.iter().enumerate() {
        for name in *modules {
            if within(module, name) && best.is_none_or(|(_, length)| name.len() > length) {
                best = Some((at, name.len()));
            }
        }
    }
    best.unwrap_or_else(|| panic!("give {module} a layer, here and in ARCHITECTURE.md")).0
}

/// What a file names of this crate: `use crate::watch::event::WatchEvent` is `watch/event`, as far
/// as there is such a module.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, word) in code.match_indices("crate::") {
        // `lsync_crate::` would be another's.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + word.len()..];
        assert!(!rest.starts_with('{'), "write one `use crate::` a module, without braces");
        let path: String =
            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        let mut module = String::new();
        for part in path.split("::").filter(|part| !part.is_empty()) {
            let longer =
                if module.is_empty() { part.to_owned() } else { format!("{module}/{part}") };
            if !root().join("src").join(format!("{longer}.rs")).exists() {
                break;
            }
            module = longer;
        }
        assert!(!module.is_empty(), "crate::{path} is no module");
        found.insert(module);
    }
    found
}

/// Is this the module or a part of it?
fn within(module: &str, whole: &str) -> bool {
    module == whole || module.strip_prefix(whole).is_some_and(|rest| rest.starts_with('/'))
}

fn top(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

#[test]
fn imports_go_downwards() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let module = source.module();
        if module == "lib" {
            continue;
        }
        let own = layer(module);
        for import in imports(&source.code()) {
            let theirs = layer(&import);
            let same_tree = top(module) == top(&import) && theirs <= own;
            let sideways = theirs == own
                && SIDEWAYS.iter().any(|(a, b, _)| within(module, a) && within(&import, b));
            if !(theirs < own || same_tree || sideways) {
                wrong.push(format!(
                    "{} ({}) imports {import} ({})",
                    source.name, LAYERS[own].0, LAYERS[theirs].0
                ));
            }
        }
        // The way around `crate::`: out of a module of the table by `super::`.
        let named = LAYERS.iter().any(|(_, modules)| modules.contains(&module));
        if named && source.code().contains("super::") {
            wrong.push(format!("{} reaches its siblings by super::", source.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_allowed_sideways_is_used_and_goes_one_way() {
    let all = sources("src");
    for (from, to, reason) in SIDEWAYS {
        assert_eq!(layer(from), layer(to), "{from} and {to} are not in one layer");
        let used = all.iter().any(|source| {
            within(source.module(), from) && imports(&source.code()).iter().any(|m| within(m, to))
        });
        assert!(used, "{from} does not import {to} any more ({reason}): take the line out");
        // A chain of them ends.
        let mut at = to;
        while let Some((_, next, _)) = SIDEWAYS.iter().find(|(a, _, _)| *a == at) {
            assert_ne!(*next, from, "a circle");
            at = next;
        }
    }
}

#[test]
fn only_the_top_prints_exits_and_reads_the_environment() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let own = layer(source.module());
        let code = source.code();
        let mut forbid = |below: usize, words: &[&str]| {
            let found = words.iter().filter(|word| own < below && code.contains(**word));
            wrong.extend(found.map(|word| format!("{}: {word}", source.name)));
        };
        forbid(6, &PRINTS);
        forbid(7, &READS_THE_ENVIRONMENT);
        forbid(7, &EXITS);
        forbid(7, &[".init()", "set_global_default"]);
    }
    for source in sources("agent/src").iter().chain(&sources("protocol/src")) {
        let code = source.code();
        let speaks = AGENT_SPEAKS.contains(&source.name.as_str());
        let words = PRINTS.iter().filter(|_| !speaks).chain(&EXITS);
        let found = words.filter(|word| code.contains(**word));
        wrong.extend(found.map(|word| format!("{}: {word}", source.name)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_short_say_what_they_are_for_and_are_named_for_one_idea() {
    const UNNAMED: [&str; 12] = [
        "job", "task", "item", "node", "manager", "handler", "helper", "util", "utils", "common",
        "types", "misc",
    ];
    let mut wrong = Vec::new();
    for dir in ["src", "agent/src", "protocol/src"] {
        for source in sources(dir) {
            let lines = source.text.lines().count();
            if lines > 900 {
                wrong.push(format!("{}: {lines} lines", source.name));
            }
            let says = source.text.lines().next().and_then(|line| line.strip_prefix("//! "));
            if says.is_none_or(|says| says.len() < 10) {
                wrong.push(format!("{}: does not open with what it is for (//!)", source.name));
            }
            let stem = Path::new(&source.name).file_stem().unwrap().to_str().unwrap();
            if stem == "mod" || UNNAMED.contains(&stem) {
                wrong.push(format!("{}: a name that says nothing", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_packages_lean_one_way_and_the_protocol_touches_nothing() {
    let manifest = |dir: &str| fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
    let (agent, protocol) = (manifest("agent"), manifest("protocol"));
    for (name, text, never) in [
        ("agent", &agent, &["lsyncd.", "lsyncd =", "tokio", "russh"][..]),
        ("protocol", &protocol, &["lsync-agent", "lsyncd =", "tokio", "rustix", "nix"]),
    ] {
        for word in never {
            let used = text.lines().any(|line| line.starts_with(word));
            assert!(!used, "{name}/Cargo.toml depends on {word}");
        }
    }
    let outside = ["std::fs", "std::thread", "std::net", "std::process", "Instant", "SystemTime"];
    for source in sources("protocol/src") {
        let code = source.code();
        for word in outside {
            assert!(!code.contains(word), "{}: {word}", source.name);
        }
    }
    for lib in ["protocol/src/lib.rs", "agent/src/lib.rs"] {
        let text = fs::read_to_string(root().join(lib)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{lib}");
    }
}

#[test]
fn the_ssh_library_is_newer_than_what_is_known_of_it() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut seen = 0;
    for package in lock.split("[[package]]\n").filter(|p| p.starts_with("name = \"russh\"\n")) {
        let version = package.split('"').nth(3).unwrap();
        let numbers: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
        assert!(numbers >= vec![0, 62, 4], "russh {version} has holes that are public");
        seen += 1;
    }
    assert_eq!(seen, 1, "one russh");
    // Its decompression is code that a host reaches before it has proved anything.
    let ssh = fs::read_to_string(root().join("src/link/ssh.rs")).unwrap();
    assert!(ssh.contains("compression: Cow::Borrowed(&[compression::NONE])"));
}
