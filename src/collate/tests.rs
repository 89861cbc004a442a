//! Tables for collate: what leaves when, and what renames do to marks.

use super::*;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).unwrap()
}

fn rename(from: &str, to: &str, dir: bool) -> WatchEvent {
    WatchEvent::Renamed { from: path(from), to: path(to), dir }
}

fn gone(p: &str, dir: bool) -> WatchEvent {
    WatchEvent::Gone { path: path(p), dir }
}

fn born(p: &str, dir: bool) -> WatchEvent {
    WatchEvent::Appeared { path: path(p), dir }
}

const MS: Duration = Duration::from_millis(1);

/// Plays events at time 0 and says what leaves after `wait`.
fn play(events: &[WatchEvent], wait: Duration) -> (Vec<String>, Vec<String>) {
    let start = Instant::now();
    let mut collate = Collate::new(Duration::ZERO, 1000);
    for event in events {
        collate.note(event, start);
    }
    show(&collate.take(start + wait, 1000, |_| false))
}

fn show(batch: &Batch) -> (Vec<String>, Vec<String>) {
    let steps = batch.steps.iter().map(|step| match step {
        Step::Rename { from, to, .. } => format!("{from} -> {to}"),
        Step::Clear { path, .. } => format!("clear {path}"),
    });
    (steps.collect(), batch.paths.iter().map(|(path, ..)| path.to_string()).collect())
}

fn said(steps: &[&str], paths: &[&str]) -> (Vec<String>, Vec<String>) {
    let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    (own(steps), own(paths))
}

#[test]
fn what_leaves_at_once_and_what_rests_first() {
    let closed = WatchEvent::Closed(path("f"));
    let written = WatchEvent::Written(path("f"));
    let table: Vec<(Vec<WatchEvent>, u64, Vec<&str>)> = vec![
        (vec![closed.clone()], 0, vec!["f"]),
        (vec![gone("f", false)], 0, vec!["f"]),
        (vec![born("d", true)], 0, vec!["d"]),
        (vec![WatchEvent::Attributes(path("f"))], 0, vec!["f"]),
        (vec![born("f", false)], 0, vec![]),
        (vec![born("f", false)], 5, vec!["f"]),
        (vec![born("f", false), closed.clone()], 0, vec!["f"]),
        (vec![written.clone()], 49, vec![]),
        (vec![written.clone()], 50, vec!["f"]),
        (vec![written, closed], 0, vec!["f"]),
    ];
    for (events, wait, want) in table {
        assert_eq!(play(&events, MS * wait as u32).1, want, "{events:?} after {wait} ms");
    }
}

#[test]
fn a_file_that_never_rests_leaves_once_a_second() {
    let start = Instant::now();
    let mut collate = Collate::new(Duration::ZERO, 1000);
    let mut left = Vec::new();
    for tick in 0..500u32 {
        let now = start + MS * 10 * tick;
        collate.note(&WatchEvent::Written(path("log")), now);
        if !collate.take(now, 10, |_| false).is_empty() {
            left.push(tick * 10);
        }
    }
    assert_eq!(left, [1000, 2010, 3020, 4030], "milliseconds");
    // A first line after a quiet time does not wait for that second.
    let now = start + Duration::from_secs(60);
    collate.note(&WatchEvent::Closed(path("log")), now);
    assert!(!collate.take(now, 10, |_| false).is_empty());
    let now = now + Duration::from_secs(60);
    collate.note(&WatchEvent::Written(path("log")), now);
    assert!(collate.take(now + REST, 10, |_| false).paths.len() == 1);
}

#[test]
fn the_delay_counts_from_the_first_event() {
    let start = Instant::now();
    let mut collate = Collate::new(Duration::from_secs(15), 1000);
    collate.note(&WatchEvent::Written(path("f")), start);
    for second in 1..15 {
        let now = start + Duration::from_secs(second);
        collate.note(&WatchEvent::Closed(path("f")), now);
        assert!(collate.take(now, 10, |_| false).is_empty(), "after {second} s");
    }
    assert_eq!(collate.take(start + Duration::from_secs(15), 10, |_| false).paths.len(), 1);
}

#[test]
fn renames_move_marks_and_keep_their_order() {
    let closed = |p: &str| WatchEvent::Closed(path(p));
    let meta = |p: &str| WatchEvent::Attributes(path(p));
    let table = [
        (vec![rename("a", "b", true)], said(&["a -> b"], &[])),
        // Content waiting beneath moves along.
        (vec![closed("a/x"), rename("a", "b", true)], said(&["a -> b"], &["b/x"])),
        (vec![rename("a", "b", true), closed("b/x")], said(&["a -> b"], &["b/x"])),
        // Marks on the name itself that do not touch content go along with it.
        (vec![meta("a"), rename("a", "b", false)], said(&["a -> b"], &["b"])),
        // What has not left under its old name is no rename for the target.
        (vec![closed("a"), rename("a", "b", false)], said(&[], &["a", "b"])),
        (vec![born("a", true), rename("a", "b", true)], said(&[], &["a", "b"])),
        // Chains and swaps go through the same names in the same order.
        (
            vec![rename("a", "t", false), rename("b", "a", false), rename("t", "b", false)],
            said(&["a -> t", "b -> a", "t -> b"], &[]),
        ),
        // An exchange is no pair of renames.
        (vec![rename("a", "b", false), rename("b", "a", false)], said(&[], &["a", "b"])),
        // A tree that made room is cleared before the new one takes its name.
        (
            vec![gone("d/x", false), gone("d", true), rename("e", "d", true)],
            said(&["clear d/x", "clear d", "e -> d"], &[]),
        ),
        // A file that is renamed over an old one needs no clearing.
        (vec![gone("f", false), rename("g", "f", false)], said(&["g -> f"], &[])),
        // Renamed, then a new one under the old name.
        (vec![rename("a", "b", false), closed("a")], said(&["a -> b"], &["a"])),
    ];
    for (events, want) in table {
        assert_eq!(play(&events, MS * 20), want, "{events:?}");
    }
}

#[test]
fn a_path_in_flight_waits_until_it_is_released() {
    let start = Instant::now();
    let mut collate = Collate::new(Duration::ZERO, 1000);
    collate.note(&WatchEvent::Closed(path("f")), start);
    assert!(collate.take(start, 10, |_| true).paths.is_empty());
    assert_eq!(collate.next(), None, "nothing waits for time");
    // It may be renamed meanwhile.
    collate.note(&WatchEvent::Closed(path("f")), start);
    collate.release(&path("f"), start);
    let batch = collate.take(start + MS * 20, 10, |_| false);
    assert_eq!(batch.paths.len(), 1);
    assert!(collate.is_empty());
}

#[test]
fn what_was_closed_follows_its_flight_soon() {
    let start = Instant::now();
    for (late, want) in [
        // Closed, or touched, while it is on its way.
        (vec![WatchEvent::Attributes(path("f"))], 101),
        (vec![WatchEvent::Written(path("f")), WatchEvent::Closed(path("f"))], 101),
        // Held open by its writer, as a log is.
        (vec![WatchEvent::Written(path("f"))], 1000),
    ] {
        let mut collate = Collate::new(Duration::ZERO, 1000);
        collate.note(&WatchEvent::Written(path("f")), start);
        collate.note(&WatchEvent::Closed(path("f")), start);
        assert_eq!(collate.take(start, 10, |_| false).paths.len(), 1);
        for event in &late {
            collate.note(event, start + MS);
        }
        let busy = start + MS * 100;
        assert!(collate.take(busy, 10, |_| true).paths.is_empty());
        collate.release(&path("f"), start + MS * 101);
        let due = collate.next().unwrap() - start;
        assert!(due >= MS * want && due <= MS * (want + 100), "{late:?}: {due:?}");
    }
}

#[test]
fn too_many_paths_become_subtrees_and_then_the_tree() {
    let now = Instant::now();
    let mut collate = Collate::new(Duration::ZERO, 10);
    for i in 0..11 {
        collate.note(&WatchEvent::Closed(path(&format!("d{}/f{i}", i % 2))), now);
    }
    assert_eq!(collate.collapsed(), 1);
    let batch = collate.take(now + MS, 100, |_| false);
    assert_eq!(show(&batch).1, ["d0", "d1"]);
    assert!(batch.paths.iter().all(|(_, marks, _)| marks.has(Marks::TREE)));
    for i in 0..11 {
        collate.note(&WatchEvent::Closed(path(&format!("top{i}"))), now);
    }
    let batch = collate.take(now + MS * 20, 100, |_| false);
    assert_eq!(show(&batch).1, ["."]);
}

#[test]
fn batches_keep_a_small_distance() {
    let now = Instant::now();
    let mut collate = Collate::new(Duration::ZERO, 10);
    collate.note(&WatchEvent::Closed(path("a")), now);
    assert!(!collate.take(now, 10, |_| false).is_empty(), "the first leaves at once");
    collate.note(&WatchEvent::Closed(path("b")), now);
    assert!(collate.take(now + MS, 10, |_| false).is_empty());
    assert!(!collate.take(now + MS * 3, 10, |_| false).is_empty());
}
