//! One deadline over all that a server makes us wait for; the time a person types is not in it.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Result};

/// What is left of the time to connect.
#[derive(Debug)]
pub struct Deadline {
    whole: Option<Duration>,
    left: Duration,
    /// What is being done, for the error text: "cannot connect to web port 22".
    doing: String,
}

impl Deadline {
    /// `None`: no limit.
    #[must_use]
    pub fn new(whole: Option<Duration>) -> Deadline {
        Deadline { whole, left: whole.unwrap_or_default(), doing: String::new() }
    }

    /// Names what is done from here on.
    pub fn doing(&mut self, what: impl Into<String>) {
        self.doing = what.into();
    }

    /// Waits for something that counts.
    ///
    /// # Errors
    /// The time is over.
    pub async fn within<F: Future>(&mut self, what: F) -> Result<F::Output> {
        let Some(whole) = self.whole else {
            return Ok(what.await);
        };
        let start = Instant::now();
        let result = tokio::time::timeout(self.left, what).await;
        self.left = self.left.saturating_sub(start.elapsed());
        result.map_err(|_| {
            Error::failed(self.doing.clone())
                .because(format!("no answer within {} seconds", whole.as_secs_f32()))
                .hint("is the host up and reachable? ConnectTimeout in the ssh configuration sets the limit")
        })
    }

    /// Waits for something that a person may hold up.
    pub async fn without_limit<F: Future>(&mut self, what: F) -> F::Output {
        what.await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_counts_counts() {
        let mut deadline = Deadline::new(Some(Duration::from_secs(2)));
        deadline.doing("cannot connect to web");
        let second = || tokio::time::sleep(Duration::from_secs(1));
        deadline.within(second()).await.unwrap();
        deadline.without_limit(tokio::time::sleep(Duration::from_secs(60))).await;
        let error = deadline.within(tokio::time::sleep(Duration::from_secs(5))).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot connect to web: no answer within 2 seconds");
        Deadline::new(None).within(second()).await.unwrap();
    }
}
