//! A bulk load of all rows.

use std::time::Instant;

use kyrodb::proto::InsertRequest;

use super::document;
use crate::common::Process;
use crate::data::Data;

pub(super) async fn load(process: &Process, data: &Data) {
    let mut client = process.client().await;
    // Converted while sending, as a client would.
    let documents: Vec<InsertRequest> =
        (0..data.base.count()).map(|row| document(data, row)).collect();
    let begun = Instant::now();
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.expect("a load");
    let loaded = loaded.into_inner();
    assert!(loaded.success, "{}", loaded.error);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "bulk load: {} documents in {seconds:.1} s, {:.0} a second, peak memory {} MiB",
        loaded.total_loaded,
        loaded.total_loaded as f64 / seconds,
        loaded.peak_memory_bytes >> 20
    );
}
