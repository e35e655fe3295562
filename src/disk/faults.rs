//! Faults of the real disk, for tests of what stands on it: each [`DirectDisk`] asks here before
//! it does anything. Which faults there are is kept by directory, so that a test can make and
//! mend them under a core that runs.
//!
//! [`DirectDisk`]: super::direct::DirectDisk

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::space::Room;
use super::{DiskError, Kind, Result};

/// A kind of call that fails.
#[derive(Clone, Copy, Debug)]
struct Rule {
    operation: &'static str,
    prefix: &'static str,
    kind: Kind,
    /// How many more calls fail.
    times: u64,
}

#[derive(Default)]
struct Shared {
    rules: Vec<Rule>,
    available: Option<u64>,
}

/// The faults of one directory.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Shared>>);

static DIRECTORIES: Mutex<BTreeMap<PathBuf, Faults>> = Mutex::new(BTreeMap::new());

impl Faults {
    /// Those of the disk in this directory.
    pub fn of(directory: &Path) -> Self {
        let directory = std::path::absolute(directory).expect("a directory of a test");
        let mut directories = DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner);
        directories.entry(directory).or_default().clone()
    }

    /// The next `times` calls of `operation` (as in [`DiskError::operation`]) fail, for files
    /// whose names begin so.
    pub fn fail(&self, operation: &'static str, prefix: &'static str, kind: Kind, times: u64) {
        self.shared().rules.push(Rule { operation, prefix, kind, times });
    }

    /// So much room is left, for whoever looks.
    pub fn leave(&self, available: u64) {
        self.shared().available = Some(available);
    }

    /// Nothing fails any more.
    pub fn mend(&self) {
        *self.shared() = Shared::default();
    }

    /// What is seen of the room that there is.
    pub fn room(&self, room: Option<Room>) -> Option<Room> {
        let available = self.shared().available;
        room.map(|room| Room { available: available.unwrap_or(room.available), ..room })
    }

    /// Fails if a fault is due.
    pub fn check(&self, operation: &'static str, file: &str) -> Result<()> {
        let mut shared = self.shared();
        let is_due = |rule: &&mut Rule| {
            rule.operation == operation && file.starts_with(rule.prefix) && rule.times > 0
        };
        let Some(rule) = shared.rules.iter_mut().find(is_due) else {
            return Ok(());
        };
        rule.times -= 1;
        let reason = "injected".into();
        Err(DiskError { kind: rule.kind, operation, file: file.into(), reason })
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
