//! Retries of binding ports and addresses: the default ports lie in the range from which the kernel takes those of
//! outgoing connections, and an address may come up after the server.

use std::time::{Duration, Instant};

/// Time for which a start tries to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Repeats `attempt` until it succeeds or [`PATIENCE`] is over. Logs once that it retries.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let begun = Instant::now();
    let mut is_said = false;
    loop {
        let why = match attempt() {
            Ok(done) => return Ok(done),
            Err(why) => why,
        };
        if begun.elapsed() >= PATIENCE {
            return Err(format!("{why} It was tried for {} s.", PATIENCE.as_secs()));
        }
        if !is_said {
            tracing::warn!("{why} Trying again for {} s", PATIENCE.as_secs());
            is_said = true;
        }
        std::thread::sleep(PAUSE);
    }
}
