//! The kernels that run: simsimd, which picks the widest instructions of this CPU at run time.

use simsimd::SpatialSimilarity;

/// Dot product.
///
/// # Panics
/// If the lengths differ.
#[inline]
#[must_use]
pub fn dot(source: &[f32], target: &[f32]) -> f32 {
    f32::dot(source, target).expect("vectors of one collection have one length") as f32
}

/// Squared euclidean distance.
///
/// # Panics
/// If the lengths differ.
#[inline]
#[must_use]
pub fn squared_euclidean(source: &[f32], target: &[f32]) -> f32 {
    f32::l2sq(source, target).expect("vectors of one collection have one length") as f32
}

/// Asks the CPU to fetch `row` into its caches. A hint: correct to leave out anywhere.
#[inline]
pub fn prefetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // The hardware prefetcher follows once it sees the stream; more lines than this fill the
        // buffers of the loads that are being waited for.
        for line in row.chunks(16).take(8) {
            #[expect(unsafe_code, reason = "the prefetch intrinsic takes a raw pointer")]
            // SAFETY: the pointer is to a live slice, and a prefetch reads nothing that the
            // program could observe.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}
