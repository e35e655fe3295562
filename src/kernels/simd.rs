//! The kernels that run: simsimd, which picks the widest instructions of this CPU at run time, and
//! for codes, where a call would take as long as its work, one loop over many rows.

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

/// What [`each_code_dot`] is given with `query`.
#[must_use]
pub fn code_bias(query: &[i8]) -> i32 {
    128 * query.iter().map(|&value| i32::from(value)).sum::<i32>()
}

/// Calls `each` with the dot product of `query` and each row, in order. `bias` is that of the
/// query. Rows are as long as it.
#[inline]
pub fn each_code_dot<'r>(
    query: &[i8],
    bias: i32,
    rows: impl Iterator<Item = &'r [i8]>,
    mut each: impl FnMut(i32),
) {
    #[cfg(target_arch = "x86_64")]
    if vnni::is_there() {
        #[expect(unsafe_code, reason = "instructions that not every CPU has")]
        // SAFETY: this CPU has been asked for them.
        return unsafe { vnni::each_dot(query, bias, rows, each) };
    }
    rows.for_each(|row| each(code_dot(query, row)));
}

/// The instructions of AVX-512 that multiply bytes and add up the products.
#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512,
        _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_xor_si512,
    };

    /// Bytes that one instruction takes.
    const WIDTH: usize = 64;

    /// True if this CPU has them.
    #[inline]
    pub(super) fn is_there() -> bool {
        is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw")
    }

    /// See [`super::each_code_dot`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn each_dot<'r>(
        query: &[i8],
        bias: i32,
        rows: impl Iterator<Item = &'r [i8]>,
        mut each: impl FnMut(i32),
    ) {
        let (query, query_rest) = query.as_chunks::<WIDTH>();
        // The instruction takes one factor without a sign: a row's values are raised by 128, and
        // what that adds, 128 times the sum of the query, is taken off at the end.
        let raise = _mm512_set1_epi8(i8::MIN);
        for row in rows {
            let (row, row_rest) = row.as_chunks::<WIDTH>();
            assert!(row.len() == query.len() && row_rest.len() == query_rest.len());
            let mut sums = [_mm512_setzero_si512(); 2];
            let multiply = |sum: __m512i, row: &[i8; WIDTH], query: &[i8; WIDTH]| {
                _mm512_dpbusd_epi32(sum, _mm512_xor_si512(load(row), raise), load(query))
            };
            let (row_pairs, row_last) = row.as_chunks::<2>();
            let (query_pairs, query_last) = query.as_chunks::<2>();
            for (row, query) in row_pairs.iter().zip(query_pairs) {
                sums[0] = multiply(sums[0], &row[0], &query[0]);
                sums[1] = multiply(sums[1], &row[1], &query[1]);
            }
            for (row, query) in row_last.iter().zip(query_last) {
                sums[0] = multiply(sums[0], row, query);
            }
            if !query_rest.is_empty() {
                sums[1] = multiply(sums[1], &padded(row_rest), &padded(query_rest));
            }
            each(_mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])) - bias);
        }
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

/// Lines of a row that are fetched ahead. The hardware prefetcher follows once it sees the stream;
/// more lines than this fill the buffers of the loads that are being waited for.
const PREFETCH_LINES: usize = 8;

/// Asks the CPU to fetch `row` into its caches. A hint: correct to leave out anywhere.
#[inline]
pub fn prefetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line_items = const { 64 / size_of::<T>() };
        for line in row.chunks(line_items).take(PREFETCH_LINES) {
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
