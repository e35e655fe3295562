//! Reference loops in f64, for codes in whole numbers: slow, obvious, and the oracle of every
//! SIMD test.

/// Dot product.
#[must_use]
pub fn dot(source: &[f32], target: &[f32]) -> f32 {
    assert_eq!(source.len(), target.len());
    source.iter().zip(target).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
}

/// Squared euclidean distance.
#[must_use]
pub fn squared_euclidean(source: &[f32], target: &[f32]) -> f32 {
    assert_eq!(source.len(), target.len());
    source.iter().zip(target).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>()
        as f32
}

/// Dot product of codes.
#[must_use]
pub fn code_dot(source: &[i8], target: &[i8]) -> i32 {
    assert_eq!(source.len(), target.len());
    source.iter().zip(target).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}
