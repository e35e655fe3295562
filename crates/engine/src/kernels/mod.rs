//! Distances between vectors.
//!
//! A distance is an `f32` that sorts nearest first; a score is the similarity that the client sees. Each metric is a
//! zero-sized type, so that a walk is compiled once per metric and its inner loop has no branch on the metric.
//!
//! | metric | stored vectors | distance | score |
//! |---|---|---|---|
//! | cosine | unit length | −dot | dot |
//! | inner product | as sent | −dot | dot |
//! | euclidean | as sent | squared L2 | 1 / (1 + L2) |
//!
//! [`scalar`] is the oracle of every SIMD test; [`simd`] runs in production.

pub mod codes;
pub mod scalar;
pub mod simd;

pub use crate::types::metric::Metric;

/// A distance as a type. `source` and `target` have the same length.
pub trait Distance: Copy + 'static {
    /// Distance of two vectors; smaller is nearer. Finite for finite input, except that an
    /// overflow to infinity is allowed and sorts last.
    fn between(source: &[f32], target: &[f32]) -> f32;

    /// The distance of two vectors, from their dot product and the squares of their lengths.
    fn of_dot(dot: f32, source_square: f32, target_square: f32) -> f32;
}

/// Negated dot product: cosine on unit vectors, or inner product.
#[derive(Clone, Copy, Debug)]
pub struct NegatedDot;

impl Distance for NegatedDot {
    #[inline]
    fn between(source: &[f32], target: &[f32]) -> f32 {
        -simd::dot(source, target)
    }

    #[inline]
    fn of_dot(dot: f32, _: f32, _: f32) -> f32 {
        -dot
    }
}

/// Squared euclidean distance.
#[derive(Clone, Copy, Debug)]
pub struct SquaredEuclidean;

impl Distance for SquaredEuclidean {
    #[inline]
    fn between(source: &[f32], target: &[f32]) -> f32 {
        simd::squared_euclidean(source, target)
    }

    #[inline]
    fn of_dot(dot: f32, source_square: f32, target_square: f32) -> f32 {
        source_square + target_square - 2.0 * dot
    }
}

/// Runs `$body` with the type alias `$kernel` set to the [`Distance`] of `$metric`: the branch
/// is taken once, outside the loop.
#[macro_export]
macro_rules! with_distance {
    ($metric:expr, $kernel:ident => $body:expr) => {
        match $metric {
            $crate::kernels::Metric::Cosine | $crate::kernels::Metric::InnerProduct => {
                type $kernel = $crate::kernels::NegatedDot;
                $body
            }
            $crate::kernels::Metric::Euclidean => {
                type $kernel = $crate::kernels::SquaredEuclidean;
                $body
            }
        }
    };
}

/// Scales `vector` to unit length. Returns false, and leaves it as it was, if its length is 0
/// or so far out of range that no unit vector follows from it.
pub fn normalize(vector: &mut [f32]) -> bool {
    // f64: the squares of large or tiny finite f32 values overflow or vanish in f32.
    let squares: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let length = squares.sqrt();
    if length == 0.0 || !length.is_finite() {
        return false;
    }
    for x in vector.iter_mut() {
        *x = (f64::from(*x) / length) as f32;
    }
    true
}

/// Maps an `f32` to a `u32` that sorts the same way: negative before positive, −0 before 0,
/// NaN at the ends. Lets a distance and an id be compared as one integer.
#[inline]
#[must_use]
pub fn sortable(distance: f32) -> u32 {
    let bits = distance.to_bits();
    // A negative number sorts backwards as an integer: flip it all; else flip the sign only.
    let mask = ((bits as i32) >> 31) as u32 | 0x8000_0000;
    bits ^ mask
}

/// The inverse of [`sortable`].
#[inline]
#[must_use]
pub fn unsortable(key: u32) -> f32 {
    let mask = if key & 0x8000_0000 == 0 { u32::MAX } else { 0x8000_0000 };
    f32::from_bits(key ^ mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small deterministic stream of values in −1..1.
    fn values(seed: u64, count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| {
                let bits = crate::types::mix(seed.wrapping_mul(1_000_003) + i as u64);
                (bits >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn simd_equals_scalar_for_every_dimension() {
        for dimension in 1..=4099 {
            // An odd start makes the rows unaligned.
            let a = values(dimension as u64, dimension + 1);
            let b = values(dimension as u64 + 7_919, dimension + 3);
            let (a, b) = (&a[1..], &b[3..]);
            let bound = 1e-5 * dimension as f32;
            let dot = (simd::dot(a, b), scalar::dot(a, b));
            assert!((dot.0 - dot.1).abs() <= bound, "dot {dot:?} at {dimension}");
            let squares = (simd::squared_euclidean(a, b), scalar::squared_euclidean(a, b));
            assert!((squares.0 - squares.1).abs() <= bound, "l2 {squares:?} at {dimension}");
        }
    }

    /// A small deterministic stream of codes, its ends the extremes.
    fn code_values(seed: u64, count: usize) -> Vec<i8> {
        let mut values: Vec<i8> = (0..count as u64)
            .map(|i| (crate::types::mix(seed ^ i << 20) % 255) as u8 as i8)
            .collect();
        values.iter_mut().for_each(|value| *value = (*value).max(-127));
        values[0] = 127;
        values[count - 1] = -127;
        values
    }

    #[test]
    fn code_products_equal_scalar_for_every_dimension() {
        for dimension in 1..=4_099 {
            // Odd starts make the rows unaligned.
            let a = code_values(dimension as u64, dimension + 1);
            let starts = [1, 3, 64, 30];
            let rows = starts.map(|start| code_values(7_919 + start as u64, dimension + start));
            let rows: [&[i8]; 4] = std::array::from_fn(|row| &rows[row][starts[row]..]);
            for query in [&a[1..], &vec![127; dimension], &vec![-127; dimension]] {
                let bias = simd::code_bias(query);
                let found = simd::CodeDots::of_this_cpu().of(query, bias, rows);
                let truth = rows.map(|row| scalar::code_dot(query, row));
                assert_eq!(found, truth, "at {dimension}");
                assert_eq!(rows.map(|row| simd::code_dot(query, row)), truth, "at {dimension}");
            }
        }
    }

    #[test]
    fn denormals_and_infinities_do_not_trap() {
        let tiny = [f32::MIN_POSITIVE / 2.0; 37];
        assert!(simd::dot(&tiny, &tiny).is_finite());
        let huge = [f32::MAX; 37];
        assert_eq!(simd::dot(&huge, &huge), f32::INFINITY);
        assert_eq!(simd::squared_euclidean(&huge, &huge), 0.0);
    }

    #[test]
    fn sortable_keeps_the_order_and_comes_back() {
        let sorted = [
            f32::NEG_INFINITY,
            -3.5,
            -1.0,
            -f32::MIN_POSITIVE,
            -0.0,
            0.0,
            1e-30,
            2.0,
            f32::INFINITY,
        ];
        let keys: Vec<u32> = sorted.iter().map(|&x| sortable(x)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        for (key, x) in keys.iter().zip(sorted) {
            assert_eq!(unsortable(*key).to_bits(), x.to_bits());
        }
    }

    #[test]
    fn normalize_handles_extremes() {
        for scale in [1e-40_f32, 1e-30, 1.0, 1e30, 3e38] {
            let mut vector = [scale, -scale, scale / 2.0, 0.0];
            assert!(normalize(&mut vector), "{scale}");
            let length = scalar::dot(&vector, &vector);
            assert!((length - 1.0).abs() < 1e-5, "{scale}: {length}");
        }
        let mut zero = [0.0_f32; 3];
        assert!(!normalize(&mut zero));
    }

    #[test]
    fn scores_follow_the_definition_of_each_metric() {
        assert_eq!(Metric::Cosine.score(-0.75), 0.75);
        assert_eq!(Metric::InnerProduct.score(3.0), -3.0);
        assert_eq!(Metric::Euclidean.score(9.0), 0.25);
        assert_eq!(Metric::Euclidean.score(0.0), 1.0);
    }
}
