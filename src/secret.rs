//! A secret of this process, by which tables place what clients choose: ids that crowd in one place can't
//! be made up without it.
//!
//! Nothing that can be seen rests on it, and nothing on disk.

/// 128 random bits, the same as long as the process lives; in tests, which run again as they were, the
/// same in each.
#[must_use]
pub(crate) fn key() -> [u64; 2] {
    #[cfg(test)]
    {
        [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]
    }
    #[cfg(not(test))]
    {
        use std::hash::{BuildHasher, RandomState};
        static KEY: std::sync::LazyLock<[u64; 2]> = std::sync::LazyLock::new(|| {
            // Keyed by the system's random bytes.
            let state = RandomState::new();
            [state.hash_one(0_u64), state.hash_one(1_u64)]
        });
        *KEY
    }
}
