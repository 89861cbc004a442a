//! What the agent says of bases: nothing that was not asked for, counted, and handed to the
//! transfer that asked.

use std::collections::HashMap;
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

#[derive(Debug)]
struct Asked {
    to: mpsc::UnboundedSender<Said>,
    is: bool,
    kept: bool,
    /// Bytes of sums that were asked for and did not come yet.
    sums: u64,
}

/// The stages whose bases are asked about.
#[derive(Debug, Default)]
pub(super) struct Bases(Mutex<HashMap<u32, Asked>>);

impl Bases {
    /// The base of this stage is asked for, or what a former link left of it: what is said of it, from
    /// now on.
    pub(super) fn ask(&self, stage: u32, kept: bool) -> mpsc::UnboundedReceiver<Said> {
        let (to, said) = mpsc::unbounded_channel();
        locked(&self.0).insert(stage, Asked { to, is: true, kept, sums: 0 });
        said
    }

    /// So many bytes of sums are asked for.
    pub(super) fn expect(&self, stage: u32, bytes: u64) {
        if let Some(asked) = locked(&self.0).get_mut(&stage) {
            asked.sums += bytes;
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
            let said = if sums.is_empty() {
                asked.sums = 0;
                Said::Gone
            } else {
                let rest = asked.sums.checked_sub(sums.len() as u64);
                asked.sums = rest.ok_or("sums not asked for")?;
                Said::Sums(sums)
            };
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
        let mut said = bases.ask(3, false);
        assert!(bases.sums(3, vec![0; 1]).is_err());
        assert!(bases.is(3, Some(5), false).is_ok());
        assert!(bases.is(3, Some(5), false).is_err(), "twice");
        assert!(bases.kept(3, 5).is_err());
        bases.expect(3, 10);
        assert!(bases.sums(3, vec![0; 6]).is_ok());
        assert!(bases.sums(3, vec![0; 5]).is_err(), "more than asked");
        assert!(matches!(said.try_recv(), Ok(Said::Is(Some(5), false))));
        assert!(matches!(said.try_recv(), Ok(Said::Sums(sums)) if sums.len() == 6));
        assert!(bases.sums(3, vec![]).is_ok());
        assert!(matches!(said.try_recv(), Ok(Said::Gone)));
        bases.end(3);
        assert!(bases.sums(3, vec![0; 100]).is_ok(), "it was on its way");
    }
}
