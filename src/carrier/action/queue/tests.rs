//! The table of combinations, cell by cell; times; and random histories beside a model that scans
//! the queue from the newest to the oldest, as Lsyncd 2 describes itself.

use proptest::prelude::*;

use super::*;

const DELAY: Duration = Duration::from_secs(5);

fn place(text: &str) -> Place {
    let text = text.strip_prefix('/').unwrap();
    let (path, dir) = text.strip_suffix('/').map_or((text, false), |path| (path, true));
    Place { path: RelPath::new(path.as_bytes()).unwrap(), dir }
}

/// `Create /a`, `Move /a -> /b`, `Blanket`.
fn change(text: &str) -> Change {
    let words: Vec<&str> = text.split(' ').collect();
    let etype = match words[0] {
        "Attrib" => Etype::Attrib,
        "Modify" => Etype::Modify,
        "Create" => Etype::Create,
        "Delete" => Etype::Delete,
        "Move" => Etype::Move,
        "Init" => return Change::whole(Etype::Init),
        "Blanket" => return Change::whole(Etype::Blanket),
        "Full" => Etype::Full,
        other => panic!("{other}"),
    };
    Change { etype, path: place(words[1]), to: words.get(3).map(|to| place(to)) }
}

fn shown(delay: &Delay) -> String {
    let text = |place: &Place| String::from_utf8(place.slashed()).unwrap();
    let to = delay.change.to.as_ref().map(|to| format!(" -> {}", text(to))).unwrap_or_default();
    let path = if delay.change.etype.is_barrier() {
        String::new()
    } else {
        format!(" {}", text(&delay.change.path))
    };
    format!("{} {}{path}{to}", delay.status.name(), delay.change.etype)
}

fn all(queue: &Queue) -> Vec<String> {
    queue.iter().map(shown).collect()
}

fn all_ids(queue: &Queue) -> Vec<DelayId> {
    queue.iter().map(|delay| delay.id).collect()
}

fn queue() -> Queue {
    Queue::new(DELAY, 1000)
}

/// The queue after these; one behind `*` is active before the next comes.
fn after(changes: &[&str]) -> Vec<String> {
    let now = Instant::now();
    let mut queue = queue();
    for text in changes {
        let active = text.strip_prefix('*');
        queue.push(now, change(active.unwrap_or(text)));
        if active.is_some() {
            let last = all_ids(&queue).pop().unwrap();
            queue.activate(&[last]);
        }
    }
    assert_consistent(&queue);
    all(&queue)
}

#[test]
fn every_cell_of_the_matrix() {
    // Rows are what waits, columns what comes: absorb, replace, stack.
    let columns = ["Attrib", "Modify", "Create", "Delete"];
    let rows = [("Attrib", "arrr"), ("Modify", "aarr"), ("Create", "aaar"), ("Delete", "aara")];
    for path in ["/d/f", "/d/"] {
        for (old, answers) in rows {
            for (new, answer) in columns.iter().zip(answers.chars()) {
                let old_text = format!("{old} {path}");
                let new_text = format!("{new} {path}");
                let recreated = path == "/d/" && old == "Delete" && *new == "Create";
                let expected = match if recreated { 's' } else { answer } {
                    'a' => vec![format!("wait {old_text}")],
                    'r' => vec![format!("wait {new_text}")],
                    _ => vec![format!("wait {old_text}"), format!("block {new_text}")],
                };
                assert_eq!(after(&[&old_text, &new_text]), expected, "{old_text}, {new_text}");
                // What is being done cannot be taken back, nor does it see what comes later.
                let expected = [format!("active {old_text}"), format!("block {new_text}")];
                assert_eq!(after(&[&format!("*{old_text}"), &new_text]), expected);
            }
        }
    }
}

#[test]
fn every_other_rule() {
    let table: &[(&[&str], &[&str])] = &[
        // Nothing in common.
        (&["Create /a", "Create /b"], &["wait Create /a", "wait Create /b"]),
        (&["Create /ab", "Create /a"], &["wait Create /ab", "wait Create /a"]),
        (&["Create /a/", "Create /ab"], &["wait Create /a/", "wait Create /ab"]),
        // A directory and what is in it.
        (&["Create /a/", "Create /a/b"], &["wait Create /a/", "block Create /a/b"]),
        (&["Create /a/b/c", "Delete /a/"], &["wait Create /a/b/c", "block Delete /a/"]),
        // A file where a directory was.
        (&["Delete /a/", "Create /a"], &["wait Delete /a/", "block Create /a"]),
        (&["Delete /a", "Create /a/"], &["wait Delete /a", "block Create /a/"]),
        (&["Delete /a/b", "Create /a"], &["wait Delete /a/b", "block Create /a"]),
        // An older move.
        (&["Move /a -> /b", "Create /a"], &["wait Move /a -> /b", "block Create /a"]),
        (&["Move /a -> /b", "Modify /b"], &["wait Move /a -> /b", "block Modify /b"]),
        (&["Move /a -> /b", "Attrib /b"], &["wait Move /a -> /b", "block Attrib /b"]),
        (&["Move /a -> /b", "Delete /b"], &["wait Delete /a", "block Delete /b"]),
        (&["Move /a -> /b", "Create /b"], &["wait Delete /a", "block Create /b"]),
        (&["*Move /a -> /b", "Delete /b"], &["active Move /a -> /b", "block Delete /b"]),
        (&["Move /a -> /b", "Create /c"], &["wait Move /a -> /b", "wait Create /c"]),
        (&["Move /a/ -> /b/", "Create /a/x"], &["wait Move /a/ -> /b/", "block Create /a/x"]),
        (&["Move /a/ -> /b/", "Modify /b/x"], &["wait Move /a/ -> /b/", "block Modify /b/x"]),
        (&["Move /d/a -> /d/b", "Delete /d/"], &["wait Move /d/a -> /d/b", "block Delete /d/"]),
        // A newer move.
        (&["Create /a", "Move /a -> /b"], &["wait Delete /a", "wait Create /b"]),
        (&["Modify /b", "Move /a -> /b"], &["wait Create /b", "wait Delete /a"]),
        (
            &["Create /a/x", "Move /a/ -> /b/"],
            &["wait Create /a/x", "block Delete /a/", "wait Create /b/"],
        ),
        (
            &["*Modify /a", "Move /a -> /b"],
            &["active Modify /a", "block Delete /a", "wait Create /b"],
        ),
        // Of two moves: the first one becomes the deletion of its origin, the second one's is too.
        (
            &["Move /a -> /b", "Move /b -> /c"],
            &["wait Delete /a", "block Delete /b", "wait Create /c"],
        ),
        (&["Move /a -> /b", "Move /b -> /a"], &["wait Create /a", "block Delete /b"]),
        // Barriers.
        (
            &["Create /a", "Blanket", "Create /b", "Move /c -> /d"],
            &["wait Create /a", "block Blanket", "block Create /b", "block Move /c -> /d"],
        ),
        (&["Init", "Create /a", "Delete /a"], &["wait Init", "block Delete /a"]),
        (
            &["Create /a", "Blanket", "Delete /a"],
            &["wait Create /a", "block Blanket", "block Delete /a"],
        ),
        (
            &["Create /a", "Full /", "Modify /b", "Modify /a"],
            &["wait Create /a", "block Full /", "wait Modify /b"],
        ),
    ];
    for (changes, expected) in table {
        assert_eq!(after(changes), *expected, "{changes:?}");
    }
}

#[test]
fn a_delay_counts_from_the_first_event() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut queue = queue();
    queue.push(start, change("Attrib /f"));
    // Absorbed or replaced, it stays that moment.
    for (at, text) in ["Attrib /f", "Modify /f", "Create /f", "Modify /f"].iter().enumerate() {
        queue.push(start + second * u32::try_from(at).unwrap(), change(text));
    }
    assert_eq!(queue.next(start + DELAY - second), None);
    assert_eq!(queue.next_alarm(start), Some(start + DELAY));
    let due = queue.next(start + DELAY).unwrap();
    assert_eq!(shown(queue.get(due).unwrap()), "wait Create /f");
}

#[test]
fn a_pause_after_a_failure_holds_up_nothing_else_and_is_kept_by_a_full_queue() {
    let now = Instant::now();
    let mut queue = Queue::new(Duration::ZERO, 3);
    for text in ["Create /a", "Create /b", "Create /c"] {
        queue.push(now, change(text));
    }
    let first = queue.next(now).unwrap();
    queue.activate(&[first]);
    queue.retry(now, first);
    assert_eq!(all(&queue), ["wait Create /a", "wait Create /b", "wait Create /c"]);
    let second = queue.next(now).unwrap();
    assert_eq!(shown(queue.get(second).unwrap()), "wait Create /b", "not held up");
    let ids = all_ids(&queue);
    queue.activate(&ids[1..]);
    assert_eq!((queue.len(), queue.next(now)), (3, None), "a full queue is no reason to hammer");
    assert_eq!(queue.next_alarm(now), Some(now + RETRY_MIN));
    assert_eq!(queue.next(now + RETRY_MIN), Some(first));
    // A change that takes its place does not shorten the pause either.
    queue.push(now, change("Delete /a"));
    assert_eq!(queue.next_alarm(now), Some(now + RETRY_MIN));
}

#[test]
fn a_full_queue_does_not_wait_for_its_time() {
    let now = Instant::now();
    let mut queue = Queue::new(DELAY, 2);
    queue.push(now, change("Create /a"));
    assert_eq!((queue.next(now), queue.next_alarm(now)), (None, Some(now + DELAY)));
    queue.push(now, change("Create /b"));
    assert_eq!(queue.next_alarm(now), Some(now));
    assert!(queue.next(now).is_some());
}

#[test]
fn what_is_done_in_the_middle_leaves_the_rest() {
    let now = Instant::now();
    let mut queue = queue();
    for at in 0..9 {
        queue.push(now, change(&format!("Create /{at}")));
    }
    let ids = all_ids(&queue);
    for at in [4, 2, 8, 0] {
        queue.finish(ids[at]);
    }
    let left: Vec<DelayId> = [1, 3, 5, 6, 7].map(|at| ids[at]).to_vec();
    assert_eq!(all_ids(&queue), left);
    assert_consistent(&queue);
}

#[test]
fn the_last_of_several_to_wait_for_is_not_all_of_them() {
    let now = Instant::now();
    let mut queue = queue();
    for text in ["Modify /d/a", "Modify /d/b", "Delete /d/", "Blanket", "Create /x"] {
        queue.push(now, change(text));
    }
    let ids = all_ids(&queue);
    queue.activate(&ids[..2]);
    queue.finish(ids[1]);
    assert_eq!(all(&queue)[1], "block Delete /d/", "/d/a is not done");
    queue.finish(ids[0]);
    let expected = ["wait Delete /d/", "block Blanket", "block Create /x"];
    assert_eq!(all(&queue), expected);
    queue.finish(ids[2]);
    assert_eq!(all(&queue), ["wait Blanket", "block Create /x"]);
    queue.finish(ids[3]);
    assert_eq!(all(&queue), ["wait Create /x"]);
}

#[test]
fn one_child_takes_what_does_not_wait_for_another() {
    let now = Instant::now();
    let mut queue = queue();
    let changes = [
        "Modify /d/a",
        "Modify /d/b",
        "Delete /d/",
        "Create /e/",
        "Create /e/f",
        "Blanket",
        "Create /x",
    ];
    for text in changes {
        queue.push(now, change(text));
    }
    let take = |queue: &Queue, leave: &[&str]| {
        let mut gather = Gather::default();
        let mut taken = Vec::new();
        for id in queue.idle() {
            let delay = queue.get(id).unwrap();
            let text = shown(delay);
            if gather.may_take(queue, delay) && !leave.iter().any(|end| text.ends_with(end)) {
                taken.push(text.split_once(' ').unwrap().1.to_owned());
            } else {
                gather.leave(delay);
            }
        }
        taken
    };
    assert_eq!(take(&queue, &[]), changes);
    let without_barrier = ["Modify /d/a", "Modify /d/b", "Delete /d/", "Create /e/", "Create /e/f"];
    assert_eq!(take(&queue, &["Blanket"]), without_barrier);
    let first = all_ids(&queue)[0];
    queue.activate(&[first]);
    assert_eq!(take(&queue, &[]), ["Modify /d/b", "Create /e/", "Create /e/f"]);
    assert_eq!(take(&queue, &["/e/"]), ["Modify /d/b"]);
}

#[test]
fn a_step_costs_the_same_however_much_is_queued() {
    // 60,000 events while nothing is done: Lsyncd 2 needs many minutes for that.
    let now = Instant::now();
    let mut queue = Queue::new(DELAY, 1000);
    for round in 0..2 {
        for at in 0..20_000 {
            let etype = if round == 0 { Etype::Create } else { Etype::Modify };
            let path = format!("dir/{}/{at}", at % 100);
            queue.push(now, Change::of(etype, RelPath::new(path.into_bytes()).unwrap(), false));
        }
    }
    assert_eq!(queue.len(), 20_000);
    queue.push(now, change("Blanket"));
    for at in 0..20_000 {
        let path = format!("other/{at}");
        let path = RelPath::new(path.into_bytes()).unwrap();
        queue.push(now, Change::of(Etype::Create, path, false));
    }
    // Done from the newest to the oldest, the barrier in its turn.
    let mut done = 0;
    while !queue.is_empty() {
        let mut due: Vec<DelayId> =
            queue.iter().filter(|d| d.status == Status::Wait).map(|d| d.id).collect();
        assert!(!due.is_empty());
        due.reverse();
        for id in due {
            queue.finish(id);
            done += 1;
        }
    }
    assert_eq!(done, 40_001);
    assert_eq!(queue.index.len(), 0);
}

/// What must hold at any time.
fn assert_consistent(queue: &Queue) {
    let all: Vec<&Delay> = queue.iter().collect();
    for (at, delay) in all.iter().enumerate() {
        let waits = all[..at].iter().any(|old| waits_for(&delay.change, &old.change));
        match delay.status {
            Status::Wait => assert!(!waits, "{} should wait for an older one", shown(delay)),
            Status::Block => {
                let position = queue.positions[&delay.id];
                let after_move = all.iter().any(|old| old.dependants.contains(&position));
                assert!(waits || after_move, "{} waits for nothing", shown(delay));
            }
            Status::Active => {}
        }
        assert_eq!(queue.get(delay.id).unwrap().id, delay.id);
    }
    let waiting = all.iter().filter(|d| d.status == Status::Wait).count();
    assert_eq!(waiting, queue.fresh.len() + queue.retries.len());
    assert_eq!(all.len(), queue.positions.len());
    let active = all.iter().filter(|d| d.status == Status::Active);
    let barriers = active.clone().filter(|d| d.change.etype.is_barrier()).count();
    assert_eq!((active.count(), barriers), (all.len() - queue.idle.len(), queue.active_barriers));
}

/// As the descriptions of the rules have it, by text and without any index.
fn waits_for(new: &Change, old: &Change) -> bool {
    if matches!(new.etype, Etype::Init | Etype::Blanket | Etype::Full) || old.etype.is_barrier() {
        return true;
    }
    old.etype != Etype::Full && overlap(new, old)
}

fn overlap(a: &Change, b: &Change) -> bool {
    let texts = |change: &Change| -> Vec<String> {
        let text = |place: &Place| format!("/{}/", place.path);
        std::iter::once(&change.path).chain(&change.to).map(text).collect()
    };
    let (a, b) = (texts(a), texts(b));
    a.iter().any(|a| b.iter().any(|b| a.starts_with(b.as_str()) || b.starts_with(a.as_str())))
}

/// The queue as a list that is scanned for everything.
#[derive(Debug, Default)]
struct Model {
    delays: Vec<(DelayId, Change, bool)>,
}

impl Model {
    /// What should be decided: a word, and the delay that it is about.
    fn expect(&self, new: &Change) -> (&'static str, Option<DelayId>) {
        for (id, old, active) in self.delays.iter().rev() {
            if old.etype == Etype::Full && !new.etype.waits_for_all() || !waits_for(new, old) {
                continue;
            }
            let word = if new.etype.waits_for_all() || old.etype.is_barrier() {
                "stack"
            } else if new.etype == Etype::Move {
                "split"
            } else if *active {
                "stack"
            } else if old.etype == Etype::Move {
                let lands = old.to.as_ref() == Some(&new.path);
                let names = matches!(new.etype, Etype::Create | Etype::Delete);
                if lands && names { "delete" } else { "stack" }
            } else if old.path != new.path {
                "stack"
            } else {
                let row = match old.etype {
                    Etype::Attrib => ["absorb", "replace", "replace", "replace"],
                    Etype::Modify => ["absorb", "absorb", "replace", "replace"],
                    Etype::Create => ["absorb", "absorb", "absorb", "replace"],
                    _ if new.path.dir => ["absorb", "absorb", "stack", "absorb"],
                    _ => ["absorb", "absorb", "replace", "absorb"],
                };
                row[match new.etype {
                    Etype::Attrib => 0,
                    Etype::Modify => 1,
                    Etype::Create => 2,
                    _ => 3,
                }]
            };
            return (word, Some(*id));
        }
        ("new", None)
    }

    /// Does the same, and checks that the queue decided so.
    fn push(&mut self, new: &Change, decisions: &mut std::vec::IntoIter<Decision>) {
        let (word, on) = self.expect(new);
        let at = |id: DelayId| self.delays.iter().position(|(old, ..)| *old == id).unwrap();
        match (word, decisions.next().unwrap()) {
            ("new", Decision::New(id)) => self.delays.push((id, new.clone(), false)),
            ("absorb", Decision::Absorbed(old)) => assert_eq!(Some(old), on),
            ("replace", Decision::Replaced { old, new: id }) => {
                assert_eq!(Some(old), on);
                let at = at(old);
                self.delays[at] = (id, new.clone(), false);
            }
            ("stack", Decision::Stacked { on: old, new: id }) => {
                assert_eq!(Some(old), on);
                self.delays.push((id, new.clone(), false));
            }
            ("delete", Decision::ToDelete { on: old, new: id }) => {
                assert_eq!(Some(old), on);
                let at = at(old);
                self.delays[at].1.etype = Etype::Delete;
                self.delays[at].1.to = None;
                self.delays.push((id, new.clone(), false));
            }
            ("split", Decision::Split) => {
                let gone = Change { etype: Etype::Delete, to: None, ..new.clone() };
                self.push(&gone, decisions);
                let path = new.to.clone().unwrap();
                self.push(&Change { etype: Etype::Create, path, to: None }, decisions);
            }
            (word, decision) => panic!("{word} expected, {decision:?} came"),
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Push(Change),
    /// A child takes the first of those that are due, or all that it may.
    Start(bool),
    /// The child of this number ends.
    End(usize, bool),
    Discard,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let name = prop::sample::select(vec!["a", "b", "a/a", "a/b", "b/a", "a/a/a", "ab"]);
    let path = name.prop_map(|name| RelPath::new(name.as_bytes()).unwrap());
    let simple = (
        prop::sample::select(vec![Etype::Attrib, Etype::Modify, Etype::Create, Etype::Delete]),
        path.clone(),
        any::<bool>(),
    )
        .prop_map(|(etype, path, dir)| Change::of(etype, path, dir));
    let moved = (path.clone(), path.clone(), any::<bool>())
        .prop_filter("not into itself", |(a, b, _)| !a.is_at_or_under(b) && !b.is_at_or_under(a))
        .prop_map(|(from, to, dir)| Change::moved(from, to, dir));
    let whole = prop_oneof![
        Just(Change::whole(Etype::Blanket)),
        Just(Change::whole(Etype::Init)),
        path.prop_map(|path| Change::of(Etype::Full, path, true)),
    ];
    let act = prop_oneof![
        20 => simple.prop_map(Act::Push),
        6 => moved.prop_map(Act::Push),
        2 => whole.prop_map(Act::Push),
        4 => any::<bool>().prop_map(Act::Start),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(at, again)| Act::End(at, again)),
        1 => Just(Act::Discard),
    ];
    prop::collection::vec(act, 1..80)
}

/// The queue beside the model, with children.
struct Run {
    now: Instant,
    queue: Queue,
    model: Model,
    children: Vec<Vec<DelayId>>,
}

impl Run {
    fn end(&mut self, at: usize, again: bool) {
        let child = self.children.remove(at);
        for id in child {
            if again {
                self.queue.retry(self.now, id);
                self.model.delays.iter_mut().find(|(old, ..)| *old == id).unwrap().2 = false;
            } else {
                self.queue.finish(id).unwrap();
                self.model.delays.retain(|(old, ..)| *old != id);
            }
        }
    }

    fn start(&mut self, together: bool) {
        let mut taken = Vec::new();
        if together {
            let mut gather = Gather::default();
            for id in self.queue.idle() {
                let delay = self.queue.get(id).unwrap();
                if gather.may_take(&self.queue, delay) {
                    taken.push(delay.id);
                } else {
                    gather.leave(delay);
                }
            }
        } else {
            taken.extend(self.queue.next(self.now));
        }
        if taken.is_empty() {
            return;
        }
        self.queue.activate(&taken);
        for (id, _, active) in &mut self.model.delays {
            *active |= taken.contains(id);
        }
        self.children.push(taken);
    }

    fn check(&self) {
        assert_consistent(&self.queue);
        let queue: Vec<(DelayId, Change, bool)> = self
            .queue
            .iter()
            .map(|d| (d.id, d.change.clone(), d.status == Status::Active))
            .collect();
        assert_eq!(queue, self.model.delays);
        // Children never meet.
        let of = |child: &[DelayId]| -> Vec<&Change> {
            child.iter().map(|id| &self.queue.get(*id).unwrap().change).collect()
        };
        for (at, child) in self.children.iter().enumerate() {
            for other in &self.children[..at] {
                for a in of(child) {
                    let meets = |b: &&Change| {
                        a.etype != Etype::Full && b.etype != Etype::Full && waits_for(a, b)
                    };
                    assert!(!of(other).iter().any(meets));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn random_histories_are_decided_as_by_a_scan_and_everything_gets_done(acts in acts()) {
        let mut run = Run {
            now: Instant::now(),
            queue: Queue::new(Duration::from_millis(1), 5),
            model: Model::default(),
            children: Vec::new(),
        };
        for act in acts {
            run.now += Duration::from_micros(700);
            match act {
                Act::Push(change) => {
                    let mut decisions = run.queue.push(run.now, change.clone()).into_iter();
                    run.model.push(&change, &mut decisions);
                    prop_assert_eq!(decisions.next(), None);
                }
                Act::Start(together) => run.start(together),
                Act::End(at, again) => {
                    if !run.children.is_empty() {
                        run.end(at % run.children.len(), again);
                    }
                }
                Act::Discard => {
                    if let Some(id) = run.queue.next(run.now) {
                        run.queue.finish(id);
                        run.model.delays.retain(|(old, ..)| *old != id);
                    }
                }
            }
            run.check();
        }
        // Nothing is left behind.
        while !run.queue.is_empty() {
            run.now += Duration::from_secs(2);
            if run.children.is_empty() {
                run.start(false);
                prop_assert!(!run.children.is_empty(), "nobody can go on: {:?}", all(&run.queue));
            }
            run.end(0, false);
            run.check();
        }
        prop_assert_eq!((run.queue.index.len(), run.queue.active.len()), (0, 0));
        prop_assert!(run.queue.positions.is_empty() && run.queue.barriers.is_empty());
    }
}
