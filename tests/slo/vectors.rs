//! Reads of vectors on disk per search, without a vector cache.

use kyrodb::proto::SnapshotRequest;

use crate::bounds::Bounds;
use crate::common::clustered::K;
use crate::common::{Inside, eventually, get, ids, metric, metric_sum, runtime, search};
use crate::{SETTINGS, alone, data, load};

#[test]
fn a_search_reads_only_candidates_for_the_nearest() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let settings = [
        ("storage.vectors", "nvme"),
        ("cache.document_bytes", "0"),
        ("persistence.snapshot_interval_mutations", "1000000"),
        ("hnsw.recall_sample_per_second", "0"),
    ];
    let server = Inside::start(&[SETTINGS, &settings].concat());
    runtime().block_on(async {
        let mut client = server.client().await;
        load(&mut client).await;
        client.create_snapshot(SnapshotRequest::default()).await.unwrap();
        let metrics = || get(server.server().http_address(), "/metrics").unwrap().1;
        let bytes =
            || metric(&metrics(), "kyrodb_memory_bytes{shard=\"0\",part=\"vectors\"}").unwrap();
        let of_words = (data().documents.len() * size_of::<usize>()) as f64;
        eventually("vectors are on disk", async || bytes() <= of_words).await;
        let names = ["cache_misses", "reads", "read_bytes"];
        let now = || {
            let text = metrics();
            names.map(|name| metric_sum(&text, &format!("kyrodb_vector_{name}_total")))
        };
        let (before, mut found) = (now(), Vec::new());
        for query in &data().queries {
            found.push(ids(client.search(search(query, K as u32)).await.unwrap().get_ref()));
        }
        let after = now();
        let [wanted, reads, bytes] = [0, 1, 2].map(|figure| after[figure] - before[figure]);
        let searches = data().queries.len() as f64;
        bounds.hold("nvme_recall_at_10", data().recall(&found));
        bounds.hold("nvme_vectors_wanted", wanted / searches);
        bounds.hold("nvme_reads_for_each_vector", reads / wanted);
        bounds.hold("nvme_bytes_a_read", bytes / reads);
    });
    drop(server);
    bounds.end();
}
