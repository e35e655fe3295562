//! Distance kernels: one query against rows that are in the CPU's caches, SIMD and the scalar
//! oracle side by side. `cargo bench --bench kernels`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kyrodb::kernels::simd::CODE_ROWS;
use kyrodb::kernels::{scalar, simd};

const ROWS: usize = 64;

type Kernel = fn(&[f32], &[f32]) -> f32;
type CodeKernel = fn(&[i8], &[i8]) -> i32;

fn distances(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("distance");
    for width in [100, 384, 1536] {
        let value = |i: usize| (i * 2_654_435_761 % 1_000) as f32 / 500.0 - 1.0;
        let rows: Vec<f32> = (0..ROWS * width).map(value).collect();
        let query: Vec<f32> = (0..width).map(|i| value(i * 31 + 7)).collect();
        group.throughput(Throughput::Elements(ROWS as u64));
        let kernels: [(&str, Kernel); 4] = [
            ("dot/simd", simd::dot),
            ("dot/scalar", scalar::dot),
            ("squared_euclidean/simd", simd::squared_euclidean),
            ("squared_euclidean/scalar", scalar::squared_euclidean),
        ];
        for (name, kernel) in kernels {
            group.bench_function(BenchmarkId::new(name, width), |bench| {
                bench.iter(|| {
                    let query = black_box(query.as_slice());
                    rows.chunks_exact(width).map(|row| kernel(query, row)).sum::<f32>()
                });
            });
        }
    }
    group.finish();
}

/// Kernels for 8-bit codes: four rows at once, and one by one.
fn code_dots(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codes");
    for width in [128, 384, 1536] {
        let value = |i: usize| (i * 2_654_435_761 % 255) as u8 as i8;
        let rows: Vec<i8> = (0..ROWS * width).map(value).collect();
        let query: Vec<i8> = (0..width).map(|i| value(i * 31 + 7)).collect();
        let (bias, dots) = (simd::code_bias(&query), simd::CodeDots::of_this_cpu());
        group.throughput(Throughput::Elements(ROWS as u64));
        group.bench_function(BenchmarkId::new("dot/four", width), |bench| {
            bench.iter(|| {
                let query = black_box(query.as_slice());
                let fours = rows.chunks_exact(CODE_ROWS * width);
                let four = |rows: &[i8]| {
                    let rows = std::array::from_fn(|row| &rows[row * width..(row + 1) * width]);
                    dots.of(query, bias, rows).into_iter().fold(0, i32::wrapping_add)
                };
                fours.map(four).fold(0, i32::wrapping_add)
            });
        });
        let kernels: [(&str, CodeKernel); 2] =
            [("dot/one", simd::code_dot), ("dot/scalar", scalar::code_dot)];
        for (name, kernel) in kernels {
            group.bench_function(BenchmarkId::new(name, width), |bench| {
                bench.iter(|| {
                    let query = black_box(query.as_slice());
                    let dots = rows.chunks_exact(width).map(|row| kernel(query, row));
                    dots.fold(0, i32::wrapping_add)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, distances, code_dots);
criterion_main!(benches);
