//! How far the check of the files of a running server is, and what it has found.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::counters::{Counter, Gauge};

/// Damages that are told one by one; of more, their number alone.
pub const TOLD_MAX: usize = 20;

/// Written by the thread that checks.
#[derive(Default)]
pub struct Scrub {
    /// It is under way.
    pub is_running: AtomicBool,
    /// It is to end.
    pub wants_stop: AtomicBool,
    /// Bytes read.
    pub bytes: Counter,
    /// Files checked.
    pub files: Counter,
    /// Files that the run which is under way, or the last one, has to check, and has checked.
    pub files_wanted: Gauge,
    /// See `files_wanted`.
    pub files_done: Gauge,
    /// Damages found by the last run that found any, or went to its end.
    pub damages: Gauge,
    /// When a run last went to its end, in Unix milliseconds; 0 if none has.
    pub completed_unix_ms: Gauge,
    told: Mutex<Vec<String>>,
}

impl Scrub {
    /// What is damaged, [`TOLD_MAX`] of it.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These damages are known now.
    pub fn tell(&self, damages: &[String]) {
        let told = damages.iter().take(TOLD_MAX).cloned().collect();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
        self.damages.set(damages.len() as u64);
    }
}
