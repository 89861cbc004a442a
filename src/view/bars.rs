//! The progress bars of first mirrors, one a mirror, on a terminal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::words::{bytes, progress_text, safe};
use crate::metrics::{Notice, Progress};

/// A mirror that is complete before this needs no bar.
const QUICK: Duration = Duration::from_millis(300);

/// Draws bars.
pub(super) struct Bars {
    all: MultiProgress,
    mirrors: HashMap<Arc<str>, One>,
}

struct One {
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Bars {
    pub(super) fn new(all: MultiProgress) -> Bars {
        Bars { all, mirrors: HashMap::new() }
    }

    /// Draws what a notice changes.
    pub(super) fn follow(&mut self, notice: &Notice, now: Instant) {
        let mirror = notice.mirror();
        match notice {
            Notice::Progress { progress, .. } => {
                let new = || One { since: now, bar: None };
                let one = self.mirrors.entry(Arc::clone(mirror)).or_insert_with(new);
                if one.bar.is_none() && now - one.since >= QUICK {
                    // All is set before it is added: nothing half made is ever drawn.
                    let bar = ProgressBar::no_length()
                        .with_style(style(progress))
                        .with_prefix(safe(mirror))
                        .with_message(text(progress, now - one.since));
                    let bar = self.all.add(bar);
                    bar.enable_steady_tick(Duration::from_millis(120));
                    one.bar = Some(bar);
                }
                if let Some(bar) = &one.bar {
                    draw(bar, progress, now - one.since);
                }
            }
            Notice::Ready { .. }
            | Notice::Done { .. }
            | Notice::Lost { .. }
            | Notice::Halted { .. } => {
                if let Some(One { bar: Some(bar), .. }) = self.mirrors.remove(mirror) {
                    bar.finish_and_clear();
                }
            }
            _ => {}
        }
    }

    /// Takes all bars away.
    pub(super) fn clear(&mut self) {
        for (_, one) in self.mirrors.drain() {
            if let Some(bar) = one.bar {
                bar.finish_and_clear();
            }
        }
    }
}

fn style(progress: &Progress) -> ProgressStyle {
    let template = match progress.to_send {
        Some(_) => "{prefix} [{bar:24}] {msg}",
        None => "{prefix} {spinner} {msg}",
    };
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn draw(bar: &ProgressBar, progress: &Progress, passed: Duration) {
    bar.set_style(style(progress));
    if let Some(all) = progress.to_send {
        bar.set_length(all.max(1));
        bar.set_position(progress.sent.min(all));
    }
    bar.set_message(text(progress, passed));
}

fn text(progress: &Progress, passed: Duration) -> String {
    let rate = progress.sent as f64 / passed.as_secs_f64().max(0.001);
    format!("{}, {}/s", progress_text(progress), bytes(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::sync::Mutex;

    /// Keeps all that is written to it.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            120
        }
        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> std::io::Result<()> {
            self.write_str("<clear>")
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_first_mirror_shows_a_bar_that_goes_when_it_is_complete() {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 250);
        let mut bars = Bars::new(MultiProgress::with_draw_target(target));
        let start = Instant::now();
        let mirror: Arc<str> = "web\u{1b}".into();
        let progress = |sent, to_send| Notice::Progress {
            mirror: Arc::clone(&mirror),
            progress: Progress { directories: 3, files: 40, sent, to_send },
        };
        bars.follow(&progress(0, None), start);
        assert_eq!(*terminal.0.lock().unwrap(), "", "it may be quick");
        bars.follow(&progress(2_000_000, Some(4_000_000)), start + Duration::from_secs(2));
        let shown = |what: &str| {
            let deadline = Instant::now() + Duration::from_secs(20);
            let text = || terminal.0.lock().unwrap().clone();
            while !text().contains(what) {
                assert!(Instant::now() < deadline, "{what} is not in {}", text());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        shown("web\\x1b [============>");
        let first = terminal.0.lock().unwrap().clone();
        assert!(
            first.trim_start_matches("<clear>").starts_with("web"),
            "nothing half made: {first}"
        );
        shown("40 files in 3 directories compared, 2.0 MB of 4.0 MB sent, 1.0 MB/s");
        let bar = bars.mirrors[&mirror].bar.clone().unwrap();
        let totals = crate::metrics::Totals::default();
        bars.follow(&Notice::Ready { mirror: Arc::clone(&mirror), totals }, start);
        assert!(bar.is_finished() && bars.mirrors.is_empty());
        assert!(terminal.0.lock().unwrap().ends_with("<clear>"));
        bars.clear();
    }
}
