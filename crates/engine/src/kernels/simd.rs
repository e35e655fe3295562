//! The kernels used in production: simsimd, which picks the widest instructions of this CPU at run time; and for
//! codes, where a call would take as long as the work itself, one loop over several rows.

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

/// Dot product of codes, one pair.
///
/// # Panics
/// If the lengths differ.
#[inline]
#[must_use]
pub fn code_dot(source: &[i8], target: &[i8]) -> i32 {
    i8::dot(source, target).expect("codes of one collection have one length") as i32
}

/// The `bias` of [`CodeDots::of`] for `query`: what its unsigned rows add to each product.
#[must_use]
pub fn code_bias(query: &[i8]) -> i32 {
    128 * query.iter().map(|&value| i32::from(value)).sum::<i32>()
}

/// Rows that [`CodeDots`] takes in one call.
pub const CODE_ROWS: usize = 4;

/// The fastest implementation of code dot products on this CPU.
#[derive(Clone, Copy, Debug)]
pub struct CodeDots {
    /// Set from the CPU's own report, and nowhere else.
    #[cfg(target_arch = "x86_64")]
    has_vnni: bool,
}

impl CodeDots {
    /// Asks the CPU for its features.
    #[inline]
    #[must_use]
    pub fn of_this_cpu() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            has_vnni: is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bw"),
        }
    }

    /// The dot products of `query` with some rows, each as long as `query`. `bias` is [`code_bias`] of the query.
    #[inline]
    #[must_use]
    pub fn of(self, query: &[i8], bias: i32, rows: [&[i8]; CODE_ROWS]) -> [i32; CODE_ROWS] {
        #[cfg(target_arch = "x86_64")]
        if self.has_vnni {
            #[expect(unsafe_code, reason = "instructions that not every CPU has")]
            // SAFETY: this CPU has been asked for them.
            let sums = unsafe { vnni::dots(query, rows) };
            return sums.map(|sum| sum - bias);
        }
        let _ = bias;
        rows.map(|row| code_dot(query, row))
    }
}

/// The instructions of AVX-512 that multiply bytes and add up the products.
#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::{
        __m512i, _mm_add_epi32, _mm_extract_epi32, _mm256_add_epi32, _mm256_castsi256_si128,
        _mm256_extracti128_si256, _mm512_add_epi32, _mm512_castsi512_si256, _mm512_dpbusd_epi32,
        _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_set1_epi8, _mm512_setzero_si512,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
        _mm512_xor_si512,
    };

    use super::CODE_ROWS;

    /// Bytes that one instruction takes.
    const WIDTH: usize = 64;

    /// Dot products of `query` with rows whose values are raised by 128, as the instruction takes one factor without
    /// a sign. This adds 128 times the sum of the query to each product.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn dots(query: &[i8], rows: [&[i8]; CODE_ROWS]) -> [i32; CODE_ROWS] {
        let (query, query_rest) = query.as_chunks::<WIDTH>();
        let rows = rows.map(|row| row.as_chunks::<WIDTH>());
        for (row, rest) in rows {
            assert!(row.len() == query.len() && rest.len() == query_rest.len());
        }
        let raise = _mm512_set1_epi8(i8::MIN);
        let mut sums = [_mm512_setzero_si512(); CODE_ROWS];
        for (index, query) in query.iter().enumerate() {
            let query = load(query);
            for (sum, (row, _)) in sums.iter_mut().zip(rows) {
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_xor_si512(load(&row[index]), raise), query);
            }
        }
        if !query_rest.is_empty() {
            let query = load(&padded(query_rest));
            for (sum, (_, rest)) in sums.iter_mut().zip(rows) {
                let row = _mm512_xor_si512(load(&padded(rest)), raise);
                *sum = _mm512_dpbusd_epi32(*sum, row, query);
            }
        }
        totals(sums)
    }

    /// The sums of the lanes of each of the four vectors.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn totals([a, b, c, d]: [__m512i; CODE_ROWS]) -> [i32; CODE_ROWS] {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        // Each quarter holds a part of each total, in order.
        let parts = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let low = _mm512_castsi512_si256(parts);
        let halves = _mm256_add_epi32(low, _mm512_extracti64x4_epi64::<1>(parts));
        let low = _mm256_castsi256_si128(halves);
        let all = _mm_add_epi32(low, _mm256_extracti128_si256::<1>(halves));
        [
            _mm_extract_epi32::<0>(all),
            _mm_extract_epi32::<1>(all),
            _mm_extract_epi32::<2>(all),
            _mm_extract_epi32::<3>(all),
        ]
    }

    fn padded(rest: &[i8]) -> [i8; WIDTH] {
        let mut padded = [0; WIDTH];
        padded[..rest.len()].copy_from_slice(rest);
        padded
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(values: &[i8; WIDTH]) -> __m512i {
        #[expect(unsafe_code, reason = "the load takes a raw pointer")]
        // SAFETY: 64 bytes are read, as many as there are, from wherever they lie.
        unsafe {
            _mm512_loadu_si512(values.as_ptr().cast())
        }
    }
}

/// Cache lines of a row that are fetched ahead: all of 384 values. The hardware prefetcher follows once it sees the
/// stream.
const PREFETCH_LINES: usize = 24;

/// Asks the CPU to fetch `row` into its second-level cache: the first has only some twenty buffers for loads under
/// way, and loads that the CPU waits for need them. A hint: correct to leave out anywhere.
#[inline]
pub fn prefetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let line_items = const { 64 / size_of::<T>() };
        for line in row.chunks(line_items).take(PREFETCH_LINES) {
            #[expect(unsafe_code, reason = "the prefetch intrinsic takes a raw pointer")]
            // SAFETY: the pointer is to a live slice, and a prefetch reads nothing that the
            // program could observe.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}
