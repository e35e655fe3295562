//! Progress and findings of the check of files in a running server.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::counters::{Counter, Gauge};

/// Damages that are listed; of more, only the number is told.
pub const TOLD_MAX: usize = 20;

/// Written by the checking thread.
#[derive(Default)]
pub struct Scrub {
    /// A run is in progress.
    pub is_running: AtomicBool,
    /// The run should end.
    pub wants_stop: AtomicBool,
    /// Bytes read.
    pub bytes: Counter,
    /// Files checked.
    pub files: Counter,
    /// Files that the present or last run has to check, and those it has checked.
    pub files_wanted: Gauge,
    /// See `files_wanted`.
    pub files_done: Gauge,
    /// Damages found by the last run that found any or completed.
    pub damages: Gauge,
    /// Time at which a run last completed, in Unix milliseconds; 0 if none has.
    pub completed_unix_ms: Gauge,
    told: Mutex<Vec<String>>,
}

impl Scrub {
    /// Descriptions of damages, at most [`TOLD_MAX`].
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the known damages.
    pub fn tell(&self, damages: &[String]) {
        let told = damages.iter().take(TOLD_MAX).cloned().collect();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        self.damages.set(damages.len() as u64);
    }
}
