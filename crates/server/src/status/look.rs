//! Threads that look at this process and at its directory from time to time, so that nothing that
//! serves asks the system for that: a disk that hangs holds up one of them alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::process::{disk_bytes, memory_bytes, open_fds};
use crate::disk::folders::Folders;
use crate::observe::Observed;

/// Between two looks at how much memory is used.
const MEMORY_LOOK: Duration = Duration::from_millis(200);

/// One in this number of looks also counts descriptors: each descriptor costs a line of a directory.
const FDS_LOOKS: u32 = 10;

/// Between two looks at the files of the data directory.
const FILES_LOOK: Duration = Duration::from_secs(1);

/// Looks until it is dropped.
pub(super) struct Look(Arc<AtomicBool>);

impl Drop for Look {
    fn drop(&mut self) {
        // A thread that a disk holds up is not waited for.
        self.0.store(true, Ordering::Release);
    }
}

impl Look {
    /// Begins: each has looked once when this returns, a disk that hangs excepted.
    ///
    /// # Errors
    /// If the threads can't be made.
    pub(super) fn start(observed: &Arc<Observed>, data_dir: PathBuf) -> std::io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = observed.clone();
        let mut looks = 0;
        repeat("kyro-look", MEMORY_LOOK, is_over.clone(), move || {
            let (used, peak) = memory_bytes();
            seen.memory.measure(used);
            seen.in_flight.fit(&seen.memory);
            seen.host.resident_bytes.set(used);
            seen.host.peak_bytes.set(peak);
            if looks % FDS_LOOKS == 0 {
                seen.host.open_fds.set(open_fds());
            }
            looks += 1;
        })?;
        let seen = observed.clone();
        repeat("kyro-files", FILES_LOOK, is_over.clone(), move || {
            seen.host.disk_used_bytes.set(Folders::of(&data_dir).all().map(disk_bytes).sum());
        })?;
        Ok(Self(is_over))
    }
}

/// Longest wait for the first look.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);

fn repeat(
    name: &str,
    period: Duration,
    is_over: Arc<AtomicBool>,
    mut look: impl FnMut() + Send + 'static,
) -> std::io::Result<()> {
    let (say, said) = std::sync::mpsc::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || {
        look();
        let _is_waited_for = say.send(());
        while !is_over.load(Ordering::Acquire) {
            std::thread::sleep(period);
            look();
        }
    })?;
    let _has_looked = said.recv_timeout(FIRST_PATIENCE);
    Ok(())
}
