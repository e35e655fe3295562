//! A random key of this process, by which hash tables place ids that clients choose: ids that all collide can't be
//! constructed without it.
//!
//! No visible result depends on the key, and nothing on disk.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use crate::types::testing::is_small;

/// 128 random bits, constant for the life of the process; in tests and simulations, which have to run again as
/// they ran before, constant across processes too.
#[must_use]
pub(super) fn key() -> [u64; 2] {
    static KEY: LazyLock<[u64; 2]> = LazyLock::new(|| {
        // Keyed by the system's random bytes.
        let state = RandomState::new();
        [state.hash_one(0_u64), state.hash_one(1_u64)]
    });
    if cfg!(test) || is_small() { [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344] } else { *KEY }
}
