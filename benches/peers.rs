//! Whole programs measured beside their peers in the same run: rsync, tar, cat, cp and Lsyncd 2.
//!
//!     cargo bench --bench peers                        all rows; writes docs/performance.md
//!     cargo bench --bench peers -- latency small       some rows
//!     cargo bench --bench peers -- --quick             less of each
//!
//! Needs rsync and an sshd; says so when they are missing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench that talks to a person and gives up where a test would"
)]

use std::process::ExitCode;

#[path = "peers/account.rs"]
mod account;
#[path = "peers/arena.rs"]
mod arena;
#[path = "peers/busy.rs"]
mod busy;
#[path = "peers/changes.rs"]
mod changes;
#[path = "peers/copy.rs"]
mod copy;
#[path = "peers/events.rs"]
mod events;
#[path = "peers/live.rs"]
mod live;
#[path = "peers/page.rs"]
mod page;
#[path = "peers/plot.rs"]
mod plot;
#[path = "../tests/suite/relay.rs"]
#[allow(unreachable_pub, dead_code, reason = "written for the tests, where all of it is used")]
mod relay;
#[path = "peers/text.rs"]
mod text;
#[path = "peers/tree.rs"]
mod tree;
#[path = "peers/works.rs"]
mod works;
#[path = "../tests/suite/world.rs"]
#[allow(unreachable_pub, reason = "written for the tests, where it is seen by others")]
mod world;

use arena::{Amounts, Arena};

/// By which latency is chosen.
const LATENCY: &str = "latency";

fn main() -> ExitCode {
    let mut amounts = Amounts::FULL;
    let mut wanted = Vec::new();
    for word in std::env::args().skip(1) {
        let known = keys().any(|key| key == word);
        match word.as_str() {
            // Cargo says so by itself.
            "--bench" => {}
            "--quick" => amounts = Amounts::QUICK,
            _ if known => wanted.push(word),
            _ => {
                let keys: Vec<&str> = keys().collect();
                eprintln!("peers: no row '{word}'; there are {}", keys.join(" "));
                return ExitCode::from(2);
            }
        }
    }
    account::adopt_orphans();
    let arena = match Arena::new(amounts) {
        Ok(arena) => arena,
        Err(missing) => {
            eprintln!("peers: {missing}");
            return ExitCode::FAILURE;
        }
    };
    let chosen = |key: &str| wanted.is_empty() || wanted.iter().any(|word| word == key);
    let live = chosen(LATENCY).then(|| {
        eprintln!("{LATENCY}");
        live::measure(&arena)
    });
    let busy = chosen(busy::BUSY).then(|| {
        eprintln!("{}", busy::BUSY);
        busy::measure(&arena)
    });
    let busy = busy.unwrap_or_default();
    let mut happened = Vec::new();
    for event in events::EVENTS.iter().filter(|event| chosen(event.key)) {
        eprintln!("{}", event.key);
        happened.push(events::measure(&arena, event));
    }
    for change in changes::CHANGES.iter().filter(|change| chosen(change.key)) {
        eprintln!("{}", change.key);
        happened.push(changes::measure(&arena, change));
    }
    let mut copies = Vec::new();
    for work in works::WORKS.iter().filter(|work| chosen(work.key)) {
        eprintln!("{}", work.key);
        copies.push(copy::measure(&arena, work));
    }
    let all = page::All { copies, live, busy, happened };
    println!("{}", page::report(&arena, &all));
    if wanted.is_empty() && !amounts.quick {
        if let Err(e) = page::write(&arena, &all) {
            eprintln!("peers: cannot write docs/performance.md: {e}");
            return ExitCode::FAILURE;
        }
        println!("written: docs/performance.md, docs/performance.svg");
    }
    ExitCode::SUCCESS
}

/// The words by which rows are chosen.
fn keys() -> impl Iterator<Item = &'static str> {
    let events = events::EVENTS.iter().map(|event| event.key);
    let events = events.chain(changes::CHANGES.iter().map(|change| change.key));
    let works = works::WORKS.iter().map(|work| work.key);
    [LATENCY, busy::BUSY].into_iter().chain(events).chain(works)
}
