//! The directories that could not be watched for want of watches, and are looked at now and then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lsync_protocol::path::{Escaped, RelPath};

/// More than these are one: the whole tree.
const MOST: usize = 10_000;

/// How long after the first directory that cannot be watched it is said: a walk is on, and the
/// number that is needed is known better by then.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// What is to be looked at in the next round, and when that is.
#[derive(Debug)]
pub(super) struct Unwatched {
    root: PathBuf,
    poll: Duration,
    dirs: BTreeSet<RelPath>,
    /// Too many to remember: the whole tree is looked at.
    all: bool,
    /// How many were met in this round and in the last.
    met: u64,
    before: u64,
    /// When the next round begins; `None`: there is nothing to look at, so no timer.
    round: Option<Instant>,
    say: Say,
}

/// Whether it was said that watches are lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    Nothing,
    At(Instant),
    Said,
}

impl Unwatched {
    /// `root` is for the text that says it, `poll` the time between two rounds.
    pub(super) fn new(root: &Path, poll: Duration) -> Unwatched {
        Unwatched {
            root: root.to_owned(),
            poll,
            dirs: BTreeSet::new(),
            all: false,
            met: 0,
            before: 0,
            round: None,
            say: Say::Nothing,
        }
    }

    /// How many there are, as far as walks have met them.
    pub(super) fn count(&self) -> u64 {
        self.met.max(self.before)
    }

    /// A walk met one that cannot be watched. True: [`due`](Unwatched::due) is new.
    #[must_use]
    pub(super) fn add(&mut self, dir: &RelPath) -> bool {
        if self.all || self.dirs.insert(dir.clone()) {
            self.met += 1;
        }
        if self.dirs.len() > MOST {
            self.dirs.clear();
            self.all = true;
        }
        let now = Instant::now();
        if self.say == Say::Nothing {
            self.say = Say::At(now + SAY_AFTER.min(self.poll));
        }
        let idle = self.round.is_none();
        self.round.get_or_insert(now + self.poll);
        idle
    }

    /// When there is something to do, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.say {
            Say::At(at) => Some(self.round.map_or(at, |round| round.min(at))),
            Say::Nothing | Say::Said => self.round,
        }
    }

    /// Somebody wants to know now: the next round begins.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.round = self.round.map(|round| round.min(now));
    }

    /// Does what is due: says, once, that watches are lacking, and begins the next round. `watched`
    /// is the number of directories that are watched.
    pub(super) fn turn(&mut self, now: Instant, watched: u64) -> Vec<RelPath> {
        if matches!(self.say, Say::At(at) if now >= at) {
            self.say = Say::Said;
            let (text, hint) = self.text(watched, limit());
            // A line of a log is one line.
            tracing::warn!("{text}; {hint}");
        }
        if self.round.is_none_or(|round| now < round) {
            return Vec::new();
        }
        let outermost = self.next_round();
        self.round = (self.count() > 0).then(|| now + self.poll);
        outermost
    }

    /// What is said, and the hint.
    fn text(&self, watched: u64, limit: Option<(&str, u64)>) -> (String, String) {
        let lacking = self.count();
        let (sysctl, limit) = limit.unwrap_or(("fs.inotify.max_user_watches", watched));
        // All that the user may have is taken, by us and by others.
        let needed = limit.max(watched) + lacking;
        let root = Escaped(self.root.as_os_str().as_encoded_bytes());
        let seconds = self.poll.as_secs_f32();
        (
            format!(
                "cannot watch all of {root}: no space left on device; directories that are looked \
                 at every {seconds} seconds instead: {lacking}"
            ),
            format!("raise {sysctl} (now {limit}, {needed} needed)"),
        )
    }

    /// A walk watched it after all.
    pub(super) fn remove(&mut self, dir: &RelPath) {
        if self.dirs.remove(dir) {
            self.met -= 1;
        }
    }

    /// A directory was renamed, with all beneath it.
    pub(super) fn renamed(&mut self, from: &RelPath, to: &RelPath) {
        let moved: Vec<RelPath> = self
            .dirs
            .range(from.clone()..)
            .take_while(|dir| dir.is_at_or_under(from))
            .cloned()
            .collect();
        for dir in moved {
            self.dirs.remove(&dir);
            match dir.moved(from, to) {
                Some(dir) => {
                    self.dirs.insert(dir);
                }
                None => self.met -= 1,
            }
        }
    }

    /// Begins the next round: what is to be looked at, outermost directories only. The walk that
    /// follows tries to watch each of them again, and [`add`](Unwatched::add)s what it cannot. So
    /// nothing is lost as long as every directory given here is walked some time.
    fn next_round(&mut self) -> Vec<RelPath> {
        self.before = std::mem::take(&mut self.met);
        if std::mem::take(&mut self.all) {
            return vec![RelPath::root()];
        }
        let mut outermost: Vec<RelPath> = Vec::new();
        for dir in std::mem::take(&mut self.dirs) {
            if !outermost.last().is_some_and(|top| dir.is_at_or_under(top)) {
                outermost.push(dir);
            }
        }
        outermost
    }
}

/// The setting that limits how many directories this user may watch, and its value.
pub(super) fn limit() -> Option<(&'static str, u64)> {
    // Both are one number, but in a user namespace, which has its own, lower one.
    let of_host = number("/proc/sys/fs/inotify/max_user_watches")
        .map(|limit| ("fs.inotify.max_user_watches", limit));
    let of_namespace = number("/proc/sys/user/max_inotify_watches")
        .map(|limit| ("user.max_inotify_watches", limit));
    [of_host, of_namespace].into_iter().flatten().min_by_key(|&(_, limit)| limit)
}

/// What to do when the user has no instance of inotify left.
pub(super) fn instances_hint() -> String {
    let now = number("/proc/sys/fs/inotify/max_user_instances");
    let now = now.map_or_else(|| "unknown".to_owned(), |now| now.to_string());
    format!(
        "raise fs.inotify.max_user_instances (now {now}), or the limit of open files (ulimit -n)"
    )
}

/// The number in a file of `/proc/sys`.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text.as_bytes()).unwrap()
    }

    fn empty() -> Unwatched {
        Unwatched::new(Path::new("/srv/www"), Duration::from_secs(10))
    }

    #[test]
    fn what_is_said_names_the_setting_and_both_numbers() {
        let mut unwatched = empty();
        assert!(unwatched.add(&path("a")));
        assert!(!unwatched.add(&path("b")));
        let (text, hint) = unwatched.text(5, Some(("fs.inotify.max_user_watches", 65536)));
        assert_eq!(
            text,
            "cannot watch all of /srv/www: no space left on device; directories that are looked \
             at every 10 seconds instead: 2"
        );
        assert_eq!(hint, "raise fs.inotify.max_user_watches (now 65536, 65538 needed)");
    }

    #[test]
    fn there_is_a_timer_only_while_there_is_something_to_do() {
        let mut unwatched = empty();
        assert_eq!(unwatched.due(), None);
        assert!(unwatched.add(&path("a")));
        let say = unwatched.due().unwrap();
        assert_eq!(unwatched.turn(say, 1), [], "only said");
        let round = unwatched.due().unwrap();
        assert!(round > say);
        assert_eq!(unwatched.turn(round, 1), [path("a")]);
        let last = unwatched.due().unwrap();
        assert_eq!(unwatched.turn(last, 1), [], "a walk has watched it meanwhile");
        assert_eq!(unwatched.due(), None);
    }

    #[test]
    fn a_round_names_the_outermost_and_starts_anew() {
        let mut unwatched = empty();
        for dir in ["b/c", "a", "a/x", "a-", "b/d", "gone"] {
            let _ = unwatched.add(&path(dir));
        }
        let _ = unwatched.add(&path("a"));
        unwatched.remove(&path("gone"));
        unwatched.remove(&path("never there"));
        assert_eq!(unwatched.count(), 5);
        unwatched.renamed(&path("b"), &path("z"));
        assert_eq!(unwatched.next_round(), ["a", "a-", "z/c", "z/d"].map(path));
        assert_eq!(unwatched.count(), 5, "until the walk is through");
        assert_eq!(unwatched.next_round(), []);
        assert_eq!(unwatched.count(), 0);
    }

    #[test]
    fn too_many_are_the_whole_tree() {
        let mut unwatched = empty();
        for i in 0..=MOST {
            let _ = unwatched.add(&path(&format!("d{i}")));
        }
        let _ = unwatched.add(&path("one more"));
        assert_eq!(unwatched.count(), MOST as u64 + 2);
        assert_eq!(unwatched.next_round(), [RelPath::root()]);
        assert_eq!(unwatched.next_round(), []);
    }
}
