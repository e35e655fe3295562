//! 8-bit codes of vectors: encoding, and the distances that follow from codes.
//!
//! The product of two codes is exact in 32 bits: 4,096 products of at most 127² stay below 2²⁷. The code itself is
//! not exact: each value is off by at most half a scale.

use super::Distance;
pub use super::simd::CODE_ROWS;
use super::simd::{self, CodeDots};

/// Largest value of a code.
const CODE_MAX: f32 = 127.0;

/// Added to a small number, this constant leaves the nearest whole number in the low bits of the sum.
const ROUND: f32 = 1.5 * (1 << 23) as f32;

/// Bound of the error of a product, in scales times the length of the other vector. Errors of rounding are
/// independent for all but constructed vectors, and their sum is beyond this bound less than once in ten million
/// times (Hoeffding: 2·exp(−2·3²)).
const ERROR_SCALES: f32 = 3.0;

/// Standard deviations of the error of one candidate's code, rounded evenly within half a scale, that
/// [`Origin::error`] allows for, where scales and lengths are alike: 2·3·√12.
pub const ERROR_DEVIATIONS: f32 = 2.0 * ERROR_SCALES * 3.464_101_6;

/// A vector as whole numbers, with the value that 1 stands for.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    /// Values of the code, in −127..=127.
    pub values: &'a [i8],
    /// Value of the vector that 1 stands for.
    pub scale: f32,
    /// Squared length of the original vector.
    pub square: f32,
}

/// Encodes `vector` into `values`, of the same length. Returns the scale: 0 for a vector of zeros, or of values too
/// small to tell from zeros.
pub fn encode(vector: &[f32], values: &mut [i8]) -> f32 {
    assert_eq!(vector.len(), values.len());
    let largest = vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let per_scale = CODE_MAX / largest;
    if !per_scale.is_finite() || per_scale == 0.0 {
        values.fill(0);
        return 0.0;
    }
    for (code, value) in values.iter_mut().zip(vector) {
        *code = (value * per_scale + ROUND).to_bits() as i8;
    }
    largest / CODE_MAX
}

/// A code that others are compared with, and the values that all these comparisons share.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    code: Code<'a>,
    length: f32,
    bias: i32,
    dots: CodeDots,
}

impl<'a> Origin<'a> {
    /// Prepares `code` for comparisons.
    #[must_use]
    pub fn new(code: Code<'a>) -> Self {
        let (bias, dots) = (simd::code_bias(code.values), CodeDots::of_this_cpu());
        Self { code, length: code.square.sqrt(), bias, dots }
    }

    /// The dot products of the values with those of each row, as whole numbers.
    #[inline]
    #[must_use]
    pub fn products(&self, rows: [&[i8]; CODE_ROWS]) -> [i32; CODE_ROWS] {
        self.dots.of(self.code.values, self.bias, rows)
    }

    /// The distance to another vector of `scale` and `square`, if `product` is the dot product of the codes.
    #[inline]
    #[must_use]
    pub fn distance<D: Distance>(&self, product: i32, scale: f32, square: f32) -> f32 {
        D::of_dot(product as f32 * (self.code.scale * scale), self.code.square, square)
    }

    /// Most by which the distance of the vectors themselves may be less than [`Origin::distance`].
    #[must_use]
    pub fn error<D: Distance>(&self, scale: f32, square: f32) -> f32 {
        let dot = ERROR_SCALES * (scale * self.length + self.code.scale * square.sqrt());
        (D::of_dot(dot, 0.0, 0.0) - D::of_dot(0.0, 0.0, 0.0)).abs()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NegatedDot, SquaredEuclidean, normalize, scalar};
    use super::*;
    use crate::types::mix;

    fn vector(seed: u64, width: usize) -> Vec<f32> {
        let value = |i| (mix(mix(seed) ^ i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        (0..width as u64).map(value).collect()
    }

    fn coded(vector: &[f32]) -> (Vec<i8>, f32) {
        let mut values = vec![0; vector.len()];
        let scale = encode(vector, &mut values);
        (values, scale)
    }

    #[test]
    fn every_value_is_within_half_a_scale() {
        for (seed, factor) in [(1, 1.0), (2, 1e-30), (3, 1e30), (4, f32::MAX)] {
            let vector: Vec<f32> = vector(seed, 333).iter().map(|value| value * factor).collect();
            let (values, scale) = coded(&vector);
            assert_eq!(values.iter().map(|value| value.unsigned_abs()).max(), Some(127));
            for (&value, &code) in vector.iter().zip(&values) {
                let off = (f64::from(value) - f64::from(code) * f64::from(scale)).abs();
                assert!(off <= 0.5001 * f64::from(scale), "{value} as {code} of {scale}");
            }
        }
        for nothing in [vec![0.0; 9], vec![-0.0; 9], vec![f32::MIN_POSITIVE / 4.0; 9]] {
            assert_eq!(coded(&nothing), (vec![0; 9], 0.0));
        }
    }

    #[test]
    fn distances_are_within_the_error() {
        for seed in 0..200 {
            let (mut a, mut b) = (vector(2 * seed, 96), vector(2 * seed + 1, 96));
            if seed % 2 == 0 {
                assert!(normalize(&mut a) && normalize(&mut b));
            }
            let squares = [scalar::dot(&a, &a), scalar::dot(&b, &b)];
            let ((a_values, a_scale), (b_values, b_scale)) = (coded(&a), coded(&b));
            let code = Code { values: &a_values, scale: a_scale, square: squares[0] };
            let origin = Origin::new(code);
            let products = origin.products([&b_values; CODE_ROWS]);
            let near = |found: f32, truth: f32, error: f32| {
                assert!((found - truth).abs() <= error, "{found} for {truth} within {error}");
                assert!(error < 0.1 * squares[0].max(1.0), "an error of {error} says nothing");
            };
            near(
                origin.distance::<NegatedDot>(products[0], b_scale, squares[1]),
                -scalar::dot(&a, &b),
                origin.error::<NegatedDot>(b_scale, squares[1]),
            );
            near(
                origin.distance::<SquaredEuclidean>(products[0], b_scale, squares[1]),
                scalar::squared_euclidean(&a, &b),
                origin.error::<SquaredEuclidean>(b_scale, squares[1]),
            );
        }
    }
}
