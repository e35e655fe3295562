//! Distance kernels: one query against rows that are in the CPU's caches, SIMD and the scalar
//! oracle side by side. `cargo bench --bench kernels`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kyrodb::kernels::{scalar, simd};

const ROWS: usize = 64;

type Kernel = fn(&[f32], &[f32]) -> f32;

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

criterion_group!(benches, distances);
criterion_main!(benches);
