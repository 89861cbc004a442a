//! Files compared by their hashes: the agent reads its side, we ours, at the same time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lsync_protocol::message::{Hashed, Message};
use lsync_protocol::path::{Escaped, RelPath};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Shared, locked};
use crate::carrier::{Carried, Compared};

/// How many requests read our side at a time.
const READERS: usize = 2;

/// What is to be compared.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) request: u32,
    pub(super) dir: RelPath,
    pub(super) names: Vec<Box<[u8]>>,
    pub(super) calm: bool,
}

/// Requests that the agent has not answered.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<u32, Waits>>);

/// Of how many files, and who waits.
type Waits = (usize, oneshot::Sender<Vec<Hashed>>);

impl Waiting {
    /// The agent has answered. What was not asked, or not so, ends the link.
    pub(super) fn answered(&self, request: u32, files: Vec<Hashed>) -> Result<(), &'static str> {
        let Some((count, waits)) = locked(&self.0).remove(&request) else {
            return Err("hashes not asked for");
        };
        if files.len() != count {
            return Err("hashes of more or fewer files than asked");
        }
        // Who does not wait any more has no use for them.
        let _ = waits.send(files);
        Ok(())
    }
}

/// Ends what reads our side when the link ends.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers what is asked, in any order. How much that is at a time is the mirror's to bound.
pub(super) async fn run(
    mut asked: mpsc::UnboundedReceiver<Question>,
    urgent: mpsc::UnboundedSender<Vec<u8>>,
    events: mpsc::Sender<Carried>,
    shared: Arc<Shared>,
) {
    let readers = Arc::new(Semaphore::new(READERS));
    let stop = Stop(Arc::default());
    let mut doing = JoinSet::new();
    loop {
        tokio::select! {
            question = asked.recv() => {
                let Some(question) = question else { return };
                let (readers, stop) = (Arc::clone(&readers), Arc::clone(&stop.0));
                let (events, shared) = (events.clone(), Arc::clone(&shared));
                let theirs = ask(&question, &urgent, &shared);
                doing.spawn(async move {
                    let request = question.request;
                    if let Some(files) = answer(question, theirs, &readers, stop, shared).await {
                        let _ = events.send(Carried::Compared { request, files }).await;
                    }
                });
            }
            Some(_) = doing.join_next() => {}
        }
    }
}

/// Has the agent read its side.
fn ask(
    question: &Question,
    urgent: &mpsc::UnboundedSender<Vec<u8>>,
    shared: &Shared,
) -> oneshot::Receiver<Vec<Hashed>> {
    let (answered, answer) = oneshot::channel();
    let Question { request, dir, names, calm } = question;
    locked(&shared.hashes.0).insert(*request, (names.len(), answered));
    let message = Message::AskHashes {
        request: *request,
        dir: dir.clone(),
        names: names.clone(),
        calm: *calm,
    };
    let mut frame = Vec::new();
    lsync_protocol::frame::encode(&message, 0, &mut frame);
    // A link that is lost tells so by itself.
    let _ = urgent.send(frame);
    answer
}

/// `None` when the link ended meanwhile.
async fn answer(
    question: Question,
    theirs: oneshot::Receiver<Vec<Hashed>>,
    readers: &Semaphore,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
) -> Option<Vec<Compared>> {
    let permit = readers.acquire().await.ok()?;
    let ours = tokio::task::spawn_blocking(move || {
        let Question { dir, names, calm, .. } = question;
        shared.source.hash(&dir, &names, &shared.key, calm, &stop)
    });
    let ours = ours.await.ok()?;
    drop(permit);
    let theirs = theirs.await.ok()?;
    if ours.len() != theirs.len() {
        return None;
    }
    Some(ours.into_iter().zip(theirs).map(|(ours, theirs)| compare(ours, theirs)).collect())
}

fn compare(ours: Hashed, theirs: Hashed) -> Compared {
    match (ours, theirs) {
        (Hashed::Is(size, hash), Hashed::Is(size_there, hash_there)) => {
            if (size, hash) == (size_there, hash_there) {
                Compared::Same
            } else {
                Compared::Differs
            }
        }
        (Hashed::Trouble(trouble), _) => {
            Compared::Unknown(format!("cannot be read: {}", trouble.text))
        }
        (_, Hashed::Trouble(trouble)) => {
            let text = Escaped(trouble.text.as_bytes());
            Compared::Unknown(format!("cannot be read on the target: {text}"))
        }
        (Hashed::Changing | Hashed::NoFile, _) | (_, Hashed::Changing | Hashed::NoFile) => {
            Compared::Moving
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_contents_that_are_known_can_differ() {
        use lsync_protocol::message::Trouble;
        let is = |byte| Hashed::Is(5, [byte; 32]);
        let trouble = || Hashed::Trouble(Trouble { errno: 13, text: "permission denied".into() });
        let unknown = |text: &str| Compared::Unknown(text.to_owned());
        for (ours, theirs, want) in [
            (is(1), is(1), Compared::Same),
            (is(1), is(2), Compared::Differs),
            (Hashed::Is(4, [1; 32]), is(1), Compared::Differs),
            (Hashed::Changing, is(1), Compared::Moving),
            (is(1), Hashed::NoFile, Compared::Moving),
            (trouble(), is(1), unknown("cannot be read: permission denied")),
            (is(1), trouble(), unknown("cannot be read on the target: permission denied")),
        ] {
            assert_eq!(compare(ours, theirs), want);
        }
    }

    #[test]
    fn an_agent_answers_what_it_was_asked() {
        let waiting = Waiting::default();
        assert!(waiting.answered(1, vec![]).is_err());
        let (answered, _answer) = oneshot::channel();
        waiting.0.lock().unwrap().insert(1, (2, answered));
        assert!(waiting.answered(1, vec![Hashed::NoFile]).is_err());
    }
}
