//! What the agent says of bases: nothing that was not asked for, counted, and handed to the
//! transfer that asked.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use tokio::sync::mpsc;

use super::locked;

/// Something of a base.
#[derive(Debug)]
pub(super) enum Said {
    /// There is one of this size, or none; and whether it is the version that was named.
    Is(Option<u64>, bool),
    /// So much of the stage's content was left by a former link.
    Kept(u64),
    /// The next sums.
    Sums(Vec<u8>),
    /// It cannot be read any more.
    Gone,
}

/// What was said of one stage's base, and not looked at yet.
#[derive(Debug)]
pub(super) struct Answers {
    said: mpsc::UnboundedReceiver<Said>,
    sums: VecDeque<u8>,
    /// It cannot be read any more.
    gone: bool,
    /// It was said to be another version than the one that was named.
    other: bool,
}

/// The link is lost: nothing more is said.
#[derive(Debug)]
pub(super) struct Silent;

impl Answers {
    /// What is said next of anything but sums.
    pub(super) async fn next(&mut self) -> Result<Said, Silent> {
        self.said.recv().await.ok_or(Silent)
    }

    /// The next sums, so many bytes of them; `None` when there are no more, or when the base is
    /// another version.
    pub(super) async fn sums(&mut self, bytes: usize) -> Result<Option<Vec<u8>>, Silent> {
        while self.sums.len() < bytes {
            if std::mem::take(&mut self.gone) || self.other {
                return Ok(None);
            }
            let said = self.next().await?;
            self.take(said);
        }
        Ok(Some(self.sums.drain(..bytes).collect()))
    }

    /// Is it another version than the one that was named, as far as was said by now?
    pub(super) fn is_other(&mut self) -> bool {
        while let Ok(said) = self.said.try_recv() {
            self.take(said);
        }
        self.other
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::Sums(sums) => self.sums.extend(sums),
            Said::Gone => self.gone = true,
            Said::Is(_, known) => self.other = !known,
            Said::Kept(_) => {}
        }
    }
}

#[derive(Debug)]
struct Asked {
    to: mpsc::UnboundedSender<Said>,
    is: bool,
    kept: bool,
    /// Of each question for sums that is open, the bytes that did not come yet.
    sums: VecDeque<u64>,
}

/// The stages whose bases are asked about.
#[derive(Debug, Default)]
pub(super) struct Bases(Mutex<HashMap<u32, Asked>>);

impl Bases {
    /// The base of this stage is asked for, or what a former link left of it: what is said of it, from
    /// now on.
    pub(super) fn ask(&self, stage: u32, kept: bool) -> Answers {
        let (to, said) = mpsc::unbounded_channel();
        locked(&self.0).insert(stage, Asked { to, is: true, kept, sums: VecDeque::new() });
        Answers { said, sums: VecDeque::new(), gone: false, other: false }
    }

    /// It is asked once more what the base of this stage is.
    pub(super) fn ask_again(&self, stage: u32) {
        if let Some(asked) = locked(&self.0).get_mut(&stage) {
            asked.is = true;
        }
    }

    /// So many bytes of sums are asked for.
    pub(super) fn expect(&self, stage: u32, bytes: u64) {
        if let Some(asked) = locked(&self.0).get_mut(&stage) {
            asked.sums.push_back(bytes);
        }
    }

    /// Nothing more is wanted; what is still on its way is not listened to.
    pub(super) fn end(&self, stage: u32) {
        locked(&self.0).remove(&stage);
    }

    pub(super) fn is(
        &self,
        stage: u32,
        size: Option<u64>,
        known: bool,
    ) -> Result<(), &'static str> {
        if let Some(asked) = locked(&self.0).get_mut(&stage) {
            if !std::mem::take(&mut asked.is) {
                return Err("a base not asked for");
            }
            // A transfer that is gone ends what it asked.
            let _ = asked.to.send(Said::Is(size, known));
        }
        Ok(())
    }

    pub(super) fn kept(&self, stage: u32, size: u64) -> Result<(), &'static str> {
        if let Some(asked) = locked(&self.0).get_mut(&stage) {
            if !std::mem::take(&mut asked.kept) {
                return Err("a content not asked for");
            }
            let _ = asked.to.send(Said::Kept(size));
        }
        Ok(())
    }

    pub(super) fn sums(&self, stage: u32, sums: Vec<u8>) -> Result<(), &'static str> {
        if let Some(asked) = locked(&self.0).get_mut(&stage) {
            // Questions are answered in order, each by itself: what one cannot be told is no reason
            // not to hear the next one's.
            let open = asked.sums.front_mut().ok_or("sums not asked for")?;
            let rest = open.checked_sub(sums.len() as u64).ok_or("sums not asked for")?;
            *open = rest;
            if sums.is_empty() || rest == 0 {
                asked.sums.pop_front();
            }
            let said = if sums.is_empty() { Said::Gone } else { Said::Sums(sums) };
            let _ = asked.to.send(said);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_is_taken() {
        let bases = Bases::default();
        let mut answers = bases.ask(3, false);
        assert!(bases.sums(3, vec![0; 1]).is_err());
        assert!(bases.is(3, Some(5), false).is_ok());
        assert!(bases.is(3, Some(5), false).is_err(), "twice");
        assert!(bases.kept(3, 5).is_err());
        bases.expect(3, 10);
        assert!(bases.sums(3, vec![0; 6]).is_ok());
        assert!(bases.sums(3, vec![0; 5]).is_err(), "more than asked");
        assert!(matches!(answers.said.try_recv(), Ok(Said::Is(Some(5), false))));
        assert!(matches!(answers.said.try_recv(), Ok(Said::Sums(sums)) if sums.len() == 6));
        assert!(bases.sums(3, vec![]).is_ok());
        assert!(matches!(answers.said.try_recv(), Ok(Said::Gone)));
        bases.end(3);
        assert!(bases.sums(3, vec![0; 100]).is_ok(), "it was on its way");
    }

    #[test]
    fn a_question_without_an_answer_is_not_the_last_one() {
        let bases = Bases::default();
        let _answers = bases.ask(3, false);
        bases.expect(3, 10);
        bases.expect(3, 20);
        assert!(bases.sums(3, vec![0; 6]).is_ok());
        // What lies there cannot be read; what lies behind it can.
        assert!(bases.sums(3, vec![]).is_ok());
        assert!(bases.sums(3, vec![0; 21]).is_err(), "more than asked");
        assert!(bases.sums(3, vec![0; 15]).is_ok());
        assert!(bases.sums(3, vec![0; 5]).is_ok());
        assert!(bases.sums(3, vec![]).is_err(), "nothing is asked");
    }

    #[tokio::test]
    async fn looking_at_what_was_said_loses_nothing() {
        let bases = Bases::default();
        let mut answers = bases.ask(3, false);
        bases.expect(3, 10);
        bases.expect(3, 4);
        assert!(bases.is(3, Some(5), true).is_ok());
        assert!(bases.sums(3, vec![7; 6]).is_ok());
        assert!(!answers.is_other());
        assert!(bases.sums(3, vec![8; 4]).is_ok());
        assert!(bases.sums(3, vec![]).is_ok());
        assert!(!answers.is_other());
        assert_eq!(answers.sums(7).await.unwrap(), Some(vec![7, 7, 7, 7, 7, 7, 8]));
        assert_eq!(answers.sums(4).await.unwrap(), None);

        let mut answers = bases.ask(4, false);
        assert!(bases.is(4, Some(5), false).is_ok());
        assert!(answers.is_other());
        assert_eq!(answers.sums(1).await.unwrap(), None);
        drop(bases);
        assert!(bases_are_gone(answers).await);
    }

    async fn bases_are_gone(mut answers: Answers) -> bool {
        answers.next().await.is_err()
    }
}
