//! Watch over the locked directory: checks five times a second that the path still leads to the locked directory, and
//! LOCK to the locked file.
//!
//! The lock on the directory keeps other servers out whatever happens to LOCK. Three cases are left: the directory was
//! moved and another one has its path, a file system does not lock directories, or a server of a version that locks
//! only LOCK has created another LOCK. In each of them two processes may write to one set of files, so this one ends at
//! once: no further write is acknowledged or logged.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::directory::held::{Held, Look};
use crate::observe::log_queue;
use crate::server::log;

/// Time between two checks. Each takes two system calls, in a thread of its own: the disk may be slow.
const PERIOD: Duration = Duration::from_millis(200);

/// Exit code of a process that has lost its directory.
const LOST_CODE: i32 = 1;

/// The watch, which ends when this is dropped.
pub(super) struct Guard {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Starts the watch.
    pub(super) fn start(held: Arc<Held>) -> Result<Self, String> {
        let (stop, stopped) = channel::<()>();
        let watch = move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                match held.look() {
                    Look::Same => {}
                    Look::Mended(what) => tracing::warn!("{what}"),
                    Look::Lost(what) => end(&what),
                }
            }
        };
        let thread = std::thread::Builder::new().name("kyro-lock".into()).spawn(watch);
        let thread = thread.map_err(|error| format!("no thread can be made: {error}"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "it does not panic");
        }
    }
}

/// Longest wait for the log to be written before the process ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Ends the process without a last snapshot and without sealing the logs: both would write to files that another server
/// may have by now.
fn end(what: &str) {
    tracing::error!("{what}. This server ends at once, so that two do not write to the same files");
    log::complain(tracing::Level::ERROR, &format!("{what}. This server ends at once"));
    log_queue::flush(LAST_WORDS);
    std::process::exit(LOST_CODE);
}
