//! Patience with ports and addresses that are not to be had yet: the default ports lie where the kernel takes
//! those of outgoing connections from, and an address may come up after the server.

use std::time::{Duration, Instant};

/// For so long a start tries to listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Tries until it works or [`PATIENCE`] is over. Says once that it tries again.
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
