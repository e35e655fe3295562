//! Progress of long work, for a person at a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error; hidden if that is not a terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// Begins a piece of work of `bytes` bytes.
    #[must_use]
    pub fn begin(what: &'static str, bytes: u64) -> Self {
        let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        Self(ProgressBar::new(bytes).with_style(style).with_message(what))
    }

    /// Begins a piece of work of unknown duration.
    #[must_use]
    pub fn wait(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// Notes that `bytes` more are done.
    pub fn add(&self, bytes: usize) {
        self.0.inc(bytes as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
