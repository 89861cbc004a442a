//! `crontab`: everything is mirrored again at times of the clock on the wall.

use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;

use super::Told;
use crate::config::crontab::Crontab;

/// Clocks are set and hosts sleep: it is looked at the clock at least so often.
const LOOK: Duration = Duration::from_secs(30);

/// Calls `due` at each of the times. Ends when there is none any more, or when it is dropped.
pub(super) async fn keep(crontab: Crontab, name: String, told: Arc<dyn Told>, due: impl Fn()) {
    let mut after = Zoned::now();
    while let Some(next) = crontab.next(&after) {
        loop {
            let left = Duration::try_from(Zoned::now().duration_until(&next)).unwrap_or_default();
            if left.is_zero() {
                break;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
        told.line("Normal", &format!("{name}: crontab says to mirror everything again"));
        due();
        after = if Zoned::now() > next { Zoned::now() } else { next };
    }
}
