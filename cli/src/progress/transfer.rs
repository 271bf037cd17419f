//! Blobs on their way from and to registries: bars on a terminal; line by line else, as Docker has them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::stdio;

/// How many digits of a digest are shown.
const SHORT_DIGITS: usize = 12;
const REDRAW_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct Transfer {
    bars: MultiProgress,
    /// Nothing is shown.
    quiet: bool,
    known: Mutex<HashMap<String, Option<ProgressBar>>>,
}

impl Transfer {
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            bars: MultiProgress::new(),
            quiet,
            known: Mutex::default(),
        }
    }

    /// So many bytes are there.
    pub(crate) fn moved(&self, digest: &str, words: &'static str, done: u64, total: u64) {
        if self.quiet || self.bars.is_hidden() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = known.entry(digest.to_owned()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(total));
            let style = "{prefix}: {msg} [{bar:30}] {bytes}/{total_bytes}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(short(digest));
            bar.set_message(words);
            bar.enable_steady_tick(REDRAW_EVERY);
            Some(bar)
        });
        if let Some(bar) = bar {
            bar.set_position(done);
        }
    }

    /// A blob is where it should be; told once.
    pub(crate) fn done(&self, digest: &str, words: &str) {
        if self.quiet {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.insert(digest.to_owned(), None) {
            Some(Some(bar)) => bar.finish_and_clear(),
            Some(None) => return,
            None => {}
        }
        let line = format!("{}: {words}\n", short(digest));
        self.bars.suspend(|| stdio::out(line));
    }
}

fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(SHORT_DIGITS).collect()
}
