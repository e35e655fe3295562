//! Doorkeeper of the query cache (as in TinyLFU): fingerprints of recent queries, in a table of fixed size in which a
//! newer one replaces an older one. The answer to a query that comes for the first time is not worth memory: most
//! queries never come again. No thread waits for another.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::changes::Stamp;
use crate::types::mix;

/// Number of fingerprints, 128 KiB of them: a query counts as recent for about as many different queries.
const PLACES: usize = 1 << 14;

/// Fingerprints of recent queries.
pub struct Seen(Box<[AtomicU64]>);

impl Default for Seen {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Seen {
    /// Notes a query with this hash in this state of the documents. True if it came lately in an equal state: an answer
    /// kept then would still be valid.
    pub fn note(&self, hash: u64, stamp: Stamp) -> bool {
        let place = &self.0[(mix(hash) % PLACES as u64) as usize];
        let mark = mix(hash ^ stamp.digest());
        let is_known = place.load(Ordering::Relaxed) == mark;
        if !is_known {
            place.store(mark, Ordering::Relaxed);
        }
        is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::changes::{Bucket, Changes, Changing};
    use crate::types::payload::Payload;
    use crate::types::realm::Realm;
    use std::sync::Arc;

    #[test]
    fn a_question_is_known_the_second_time_until_something_is_written() {
        let changes = Arc::new(Changes::default());
        let stamp = || Stamp::read([&*changes].into_iter(), Bucket::of(&Realm::default())).unwrap();
        let seen = Seen::default();
        assert!(!seen.note(1, stamp()) && !seen.note(2, stamp()));
        assert!(seen.note(1, stamp()) && seen.note(2, stamp()));
        let mut changing = Changing::default();
        changing.begin(changes.clone());
        changing.touch(&Payload::new([], "").unwrap());
        changing.settle();
        assert!(!seen.note(1, stamp()));
        // Other queries in between are remembered as well, and replace the first in the end.
        assert!((0..1_000).filter(|&other| seen.note(1 << 32 | other, stamp())).count() == 0);
        assert!(seen.note(1, stamp()));
        for other in 0..1_000_000 {
            seen.note(1 << 33 | other, stamp());
        }
        assert!(!seen.note(1, stamp()));
    }
}
