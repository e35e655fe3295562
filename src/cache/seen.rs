//! What was asked lately: a fingerprint for each question, in a table of fixed size in which a newer
//! one takes the place of an older one. A question that comes for the first time is not worth memory:
//! most never come again. Nobody waits for anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::changes::Stamp;
use crate::types::mix;

/// Fingerprints, 128 KiB of them: about so many different questions ago is lately.
const PLACES: usize = 1 << 14;

/// Questions that were asked lately.
pub struct Seen(Box<[AtomicU64]>);

impl Default for Seen {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Seen {
    /// A question with this hash is asked of this state. True if it was asked of the same state lately:
    /// an answer that was kept would still be one.
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
        // What is asked in between is remembered as well, and in the end instead.
        assert!((0..1_000).filter(|&other| seen.note(1 << 32 | other, stamp())).count() == 0);
        assert!(seen.note(1, stamp()));
        for other in 0..1_000_000 {
            seen.note(1 << 33 | other, stamp());
        }
        assert!(!seen.note(1, stamp()));
    }
}
