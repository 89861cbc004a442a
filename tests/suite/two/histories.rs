//! Random histories beside Lsyncd 2 itself: one source, its three ready ways in one configuration,
//! each with a target of its own from both programs.
//!
//! In one stroke each lane, a directory of the source, sees one change, and the next begins when all
//! six targets have it: a move in Lsyncd 2 loses what moves on meanwhile (its fault B7). So neither
//! does a directory move onto one that is there (B8), and what moved out never changes or comes
//! back (B10). Left out of the names is what its rsync never brings (B6): `]` without another
//! wildcard, and backslashes. What differs from the source for a reason is said at [`seen`].

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use super::differential::lsyncd_2;
use super::*;
use crate::tree::{append, bytes, chmod, set_mtime, tree};
use crate::world::PATIENCE;

/// How a target is reached, which is its directory's name as well.
const WAYS: [&str; 3] = ["rsync", "rsyncssh", "direct"];

/// Directories of the source in which one thing after the other happens.
const LANES: [&[u8]; 6] =
    [b"plain", b"with  space", b"-rf", b"new\nline", b"it's \"so\"", b"*[a-z]?"];

const NAMES: [&[u8]; 16] = [
    b"a",
    b"b",
    b"c d",
    b"--delete",
    b"$(touch PWNED)",
    b"`touch PWNED`",
    b"';touch PWNED;'",
    b"\";touch PWNED;\"",
    b"\ntouch PWNED\n",
    b"#",
    b"~",
    b" lead",
    b"trail ",
    b"? * [x]",
    b"%s${1}&|<>",
    b"\xff\xfe",
];

/// What may happen in a lane.
const KINDS: [&str; 11] = [
    "write",
    "append",
    "rename a file",
    "rename a directory",
    "move out",
    "move in",
    "delete",
    "mkdir -p",
    "rm -rf",
    "chmod",
    "symlink",
];

/// A lane, and what has happened in all of them.
struct History {
    source: PathBuf,
    /// On the same file system, and not mirrored.
    outside: PathBuf,
    below: Box<dyn FnMut(usize) -> usize>,
    step: usize,
    done: BTreeMap<&'static str, usize>,
    told: Vec<String>,
}

impl History {
    fn name(&mut self) -> &'static OsStr {
        bytes(NAMES[(self.below)(NAMES.len())])
    }

    fn one(&mut self, among: &[PathBuf]) -> Option<PathBuf> {
        (!among.is_empty()).then(|| among[(self.below)(among.len())].clone())
    }

    /// Files and directories of a lane, which itself comes first.
    fn there(lane: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let (mut files, mut dirs) = (Vec::new(), Vec::new());
        for (name, thing) in tree(lane).unwrap() {
            match thing.kind {
                'd' => dirs.push(lane.join(bytes(&name))),
                'f' => files.push(lane.join(bytes(&name))),
                _ => {}
            }
        }
        (files, dirs)
    }

    /// One change of this kind; nothing if nothing is there for it.
    fn change(&mut self, lane: &Path, kind: &str) -> Option<()> {
        self.step += 1;
        let (files, dirs) = History::there(lane);
        // Of a size that hardly comes twice: rsync takes no notice of less than a second.
        let text = format!("{}{}", self.step, "x".repeat((self.below)(60_000)));
        let dir = self.one(&dirs)?;
        let new = dir.join(self.name());
        let file = self.one(&files);
        let below = self.one(&dirs[1..]);
        let away = self.outside.join(format!("{}", self.step));
        match kind {
            "write" if !new.is_dir() => fs::write(new, text).unwrap(),
            "append" => append(&file?, text.as_bytes()),
            "rename a file" if !new.is_dir() && file.as_ref() != Some(&new) => {
                fs::rename(file?, new).unwrap();
            }
            "rename a directory" if !new.exists() => {
                let from = below.filter(|from| !new.starts_with(from))?;
                fs::rename(from, new).unwrap();
            }
            "move out" => fs::rename(below.or(file)?, away).unwrap(),
            "move in" if !new.exists() => {
                fs::create_dir_all(away.join(self.name()).join("deep")).unwrap();
                fs::write(away.join("deep file"), &text).unwrap();
                set_mtime(&away.join("deep file"), 1_000_000_000, 0);
                fs::rename(away, new).unwrap();
            }
            "delete" => fs::remove_file(file?).unwrap(),
            "mkdir -p" if !new.exists() => {
                let deep = new.join(self.name()).join(self.name());
                fs::create_dir_all(&deep).unwrap();
                fs::write(deep.join(self.name()), text).unwrap();
            }
            "rm -rf" => fs::remove_dir_all(below?).unwrap(),
            "chmod" => chmod(&file?, [0o600, 0o644, 0o755][(self.below)(3)]),
            // Of names that nothing else takes: B14 makes files of them.
            "symlink" => symlink("a", dir.join(format!("link {}", self.step))).unwrap(),
            _ => return None,
        }
        Some(())
    }

    /// One change in each lane.
    fn stroke(&mut self) {
        for lane in LANES {
            let lane = self.source.join(bytes(lane));
            let first = (self.below)(KINDS.len());
            let mut kinds = KINDS.iter().cycle().skip(first).take(KINDS.len());
            let kind = kinds.find(|kind| self.change(&lane, kind).is_some()).unwrap();
            *self.done.entry(kind).or_default() += 1;
            self.told.push(format!("{}: {kind} in {}", self.step, lane.display()));
        }
        // The last that is heard of the stroke: who has it has all of it.
        fs::write(self.source.join("stroke"), "x".repeat(self.step)).unwrap();
    }
}

/// What of a tree is compared on a way.
///
/// By `default.direct` Lsyncd 2 follows links, and takes no notice of changed modes (B14). What its
/// ways keep of directories' times is nothing after a `mkdir` or `mv`.
fn seen(root: &Path, way: &str) -> BTreeMap<Vec<u8>, (char, u32, i64, Vec<u8>)> {
    let direct = way == "direct";
    let is_link = |name: &[u8]| name.rsplit(|&b| b == b'/').next().unwrap().starts_with(b"link ");
    let all = tree(root).unwrap_or_default().into_iter();
    all.filter(|(name, _)| !(direct && is_link(name)))
        .map(|(name, thing)| {
            let mode = if direct { 0 } else { thing.mode };
            let time = if thing.kind == 'd' { 0 } else { thing.mtime.0 };
            (name, (thing.kind, mode, time, thing.content))
        })
        .collect()
}

/// One `sync{}` a way; `more` is what else the one over ssh says.
fn config(stage: &Stage, whose: &str, more: &str) -> String {
    let mut text = String::new();
    for way in WAYS {
        let target = stage.path(format!("{whose}-{way}"));
        fs::create_dir(&target).unwrap();
        let to = match way {
            "rsyncssh" => format!("host = '{HOST}', targetdir = {target:?}{more}"),
            _ => format!("target = {target:?}, rsync = {{ archive = true }}"),
        };
        text += &format!("sync {{ default.{way}, source = SRC, delay = 0.2, {to} }}\n");
    }
    text
}

fn history(seed: u64, strokes: usize) -> BTreeMap<&'static str, usize> {
    let stage = Stage::new(Way::Ssh);
    fs::create_dir(stage.path("outside")).unwrap();
    for lane in LANES {
        let lane = stage.s(bytes(lane));
        fs::create_dir_all(lane.join("there before")).unwrap();
        fs::write(lane.join("there before/file"), "1").unwrap();
    }
    // It calls the system's ssh, which reads the configuration of whoever runs the test.
    let ssh = stage.path("ssh");
    let call = format!("#!/bin/sh\nexec ssh -F {:?} \"$@\"\n", stage.world().ssh_config());
    fs::write(&ssh, call).unwrap();
    chmod(&ssh, 0o755);
    let archive = ", rsync = { archive = true }";
    let more =
        format!(", ssh = {{ binary = {ssh:?} }}, rsync = {{ archive = true, rsh = {ssh:?} }}");
    let theirs = lsyncd_2(&stage, &config(&stage, "theirs", &more));
    let ours = Two::with(&stage, &config(&stage, "ours", archive));
    let mut history = History {
        source: stage.source(),
        outside: stage.path("outside"),
        below: Box::new(numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)),
        step: 0,
        done: BTreeMap::new(),
        told: Vec::new(),
    };
    // The first time it is the start alone.
    for stroke in 0..=strokes {
        if stroke > 0 {
            history.stroke();
        }
        let end = Instant::now() + PATIENCE;
        for (way, whose) in WAYS.iter().flat_map(|way| ["ours", "theirs"].map(|whose| (way, whose)))
        {
            let wanted = seen(&stage.source(), way);
            loop {
                let found = seen(&stage.path(format!("{whose}-{way}")), way);
                if found == wanted {
                    break;
                }
                let told = || {
                    format!(
                        "{}\n{}",
                        history.told.join("\n"),
                        [&theirs, &ours].map(Two::said).join("\n")
                    )
                };
                assert!(
                    Instant::now() < end,
                    "seed {seed}: {whose} by {way} differs\n{}\n{}",
                    differing(&wanted, &found),
                    told()
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    for two in [ours, theirs] {
        let (code, said) = two.stop(Signal::TERM);
        assert_eq!(code, Some(143), "{said}");
    }
    wait_until("no session is left", || stage.world().sessions() == 0);
    for place in [stage.path(""), stage.world().remote_home(), PathBuf::from(".")] {
        assert!(!place.join("PWNED").exists(), "a name was run in {}", place.display());
    }
    history.done
}

/// Names that are not the same in both, with what stands there.
fn differing<T: PartialEq + std::fmt::Debug>(
    wanted: &BTreeMap<Vec<u8>, T>,
    found: &BTreeMap<Vec<u8>, T>,
) -> String {
    let names = wanted.keys().chain(found.keys().filter(|name| !wanted.contains_key(*name)));
    names
        .filter(|name| wanted.get(*name) != found.get(*name))
        .map(|name| {
            let name_shown = OsStr::from_bytes(name);
            format!("{name_shown:?}: wanted {:?}, found {:?}\n", wanted.get(name), found.get(name))
        })
        .collect()
}

#[test]
fn one_random_history_ends_with_the_same_trees_on_all_three_ways() {
    let more: Option<u64> = std::env::var("LSYNCD_HISTORIES").ok().and_then(|n| n.parse().ok());
    for seed in 1..=more.unwrap_or(1) {
        let done = history(seed, 10);
        // Whatever the seed: no kind may be missing from what is compared.
        let kinds = done.keys().copied().collect::<Vec<_>>();
        assert!(more.is_some() || kinds.len() == KINDS.len(), "only {kinds:?} happened");
    }
}
