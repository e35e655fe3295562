//! A search on the wire: its request and its answer, encoded and decoded.
//! `cargo bench --bench wire`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![expect(clippy::unwrap_used, reason = "a bench may fail")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kyrodb::proto::{SearchRequest, SearchResponse, SearchResult};
use prost::Message;

const WIDTH: usize = 384;
const K: u64 = 10;

fn request() -> SearchRequest {
    let query_embedding = (0..WIDTH).map(|d| d as f32 / WIDTH as f32).collect();
    SearchRequest { query_embedding, k: K as u32, ..SearchRequest::default() }
}

fn response() -> SearchResponse {
    let pairs = [("colour", "blue"), ("year", "1999")];
    let result = |place: u64| SearchResult {
        doc_id: place * 7_919,
        score: 1.0 / (place + 1) as f32,
        embedding: Vec::new(),
        metadata: pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
    };
    SearchResponse {
        results: (0..K).map(result).collect(),
        total_found: 50,
        shards_asked: 1,
        shards_answered: 1,
        documents_considered: 1_000,
        ..SearchResponse::default()
    }
}

fn message<M: Message + Default>(criterion: &mut Criterion, name: &str, message: &M) {
    let bytes = message.encode_to_vec();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut buffer = Vec::with_capacity(bytes.len());
    group.bench_function("encode", |bench| {
        bench.iter(|| {
            buffer.clear();
            message.encode(&mut buffer).unwrap();
        });
    });
    group.bench_function("decode", |bench| bench.iter(|| M::decode(bytes.as_slice()).unwrap()));
    group.finish();
}

fn messages(criterion: &mut Criterion) {
    message(criterion, "search_request", &request());
    message(criterion, "search_response", &response());
}

criterion_group!(benches, messages);
criterion_main!(benches);
