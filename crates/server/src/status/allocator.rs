//! Memory that the allocator keeps for the next allocations, back to the system.

/// Gives back what the allocator of the C library, which is that of all programs here, keeps free.
/// True if it gave any; false also where that is not the GNU C library.
///
/// It takes a lock of the allocator after the other, each for as long as the free memory behind it
/// is gone through: a thread that allocates meanwhile, as a core does for a write, may wait for one.
pub(super) fn trim() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // Memory at the top of each heap that is left all the same: none.
        const PAD_BYTES: usize = 0;
        glibc::malloc_trim(PAD_BYTES) == 1
    }
    #[cfg(not(target_env = "gnu"))]
    false
}

#[cfg(target_env = "gnu")]
mod glibc {
    #[expect(unsafe_code, reason = "no crate declares it as safe, which it is")]
    // SAFETY: declared as in malloc.h. It may be called at any time, from any thread, with any number
    // (malloc_trim(3): MT-Safe), and touches free memory alone.
    unsafe extern "C" {
        pub(super) safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;
    use crate::status::process::memory_bytes;

    /// Small pieces, which no `free` gives back while one that came later is in use.
    #[test]
    fn free_memory_goes_back_to_the_system() {
        const PIECES: usize = 64 << 10;
        const PIECE_BYTES: usize = 2_000;
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; PIECE_BYTES]).collect();
        let pinned = pieces.split_off(PIECES - 1);
        drop(pieces);
        let before = memory_bytes().0;
        assert!(trim());
        let given_back = before.saturating_sub(memory_bytes().0);
        assert!(given_back > (PIECES * PIECE_BYTES / 2) as u64, "{given_back} bytes");
        drop(pinned);
    }
}
