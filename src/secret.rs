//! A random key of this process, by which hash tables place ids that clients choose: ids that all collide can't be
//! constructed without it.
//!
//! No visible result depends on the key, and nothing on disk.

/// 128 random bits, constant during the life of the process; in tests, which have to be repeatable, a fixed value.
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
