//! Drills of vectors on disk: one of them is damaged, and training is restarted.

use std::os::unix::fs::FileExt;
use std::path::Path;

use kyrodb::proto::{DeleteRequest, SearchRequest, SnapshotRequest};

use crate::Runbook;
use crate::common::{
    Client, Process, directory, eventually, get, ids, insert, metric, runtime, search, vector,
};

const SETTINGS: &[(&str, &str)] = &[
    ("runtime.shards", "1"),
    ("hnsw.distance", "euclidean"),
    ("hnsw.codes", "sq8"),
    ("storage.vectors", "nvme"),
    ("cache.query_cache_enabled", "false"),
    ("cache.training_interval_secs", "1"),
];

/// More documents than a block of vectors holds.
const DOCUMENTS: u64 = 2_500;
const DIMENSION: usize = 32;

/// Flips a bit of the vector of this document, in every snapshot that has it.
fn damage(data_dir: &Path, id: u64) {
    let row: Vec<u8> = vector(id, DIMENSION).iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut damaged = 0;
    for entry in std::fs::read_dir(data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "snap") {
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        let found = content.windows(row.len()).position(|window| window == row);
        if let Some(offset) = found {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[content[offset] ^ 1], offset as u64).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "its vector is in a snapshot");
}

/// Stores `count` documents, and waits until their vectors are only on disk.
async fn load(process: &Process, client: &mut Client, count: u64) {
    let documents: Vec<_> = (1..=count).map(|id| insert(id, &vector(id, DIMENSION), &[])).collect();
    let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap();
    assert!(loaded.into_inner().success);
    client.create_snapshot(SnapshotRequest::default()).await.unwrap();
    // One word per vector is left in memory.
    let name = "kyrodb_memory_bytes{shard=\"0\",part=\"vectors\"}";
    let bytes = || metric(&get(process.http, "/metrics").unwrap().1, name).unwrap();
    eventually("vectors are on disk", async || bytes() < (count * 16) as f64).await;
}

async fn nearest(client: &mut Client, id: u64) -> (Vec<u64>, Vec<String>) {
    let request = SearchRequest { ef_search: 100, ..search(&vector(id, DIMENSION), 1) };
    let answer = client.search(request).await.unwrap().into_inner();
    (ids(&answer), answer.coverage_reasons)
}

#[test]
fn vectors_are_read_from_disk() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, SETTINGS);
    let mut runbook = Runbook::open("Vectors are read from disk", directory.path());
    runbook.ask(&process);
    let number = |name: &str| metric(&get(process.http, "/metrics").unwrap().1, name);
    runtime().block_on(async {
        let mut client = process.client().await;
        load(&process, &mut client, DOCUMENTS).await;
        damage(&data_dir, 7);
        let (found, reasons) = nearest(&mut client, 7).await;
        assert!(found != [7] && !reasons.is_empty(), "{found:?} {reasons:?}");
        for id in 8..=500 {
            assert_eq!(nearest(&mut client, id).await, (vec![id], Vec::new()));
        }
        // Its block stays in place, and does not prevent others from being saved.
        client.create_snapshot(SnapshotRequest::default()).await.unwrap();
        client.insert(insert(7, &vector(7, DIMENSION), &[])).await.unwrap();
        assert_eq!(nearest(&mut client, 7).await, (vec![7], Vec::new()));
    });
    assert!(process.log().contains("document=7"), "{}", process.log());
    runbook.next().has(0, &["kyrodb_vector_read_seconds_count", "kyrodb_vector_reads_in_flight"]);
    runbook.next().has(0, &["kyrodb_document_cache_bytes{core=\"0\"}"]);
    runbook.next().has(0, &["kyrodb_vector_lost_total{shard=\"0\"} 1"]);
    runbook.next().has(0, &[]);
    runbook.next().has(0, &[]);
    runbook
        .next()
        .has(0, &["kyrodb_training_state{core=\"0\"} 1", "kyrodb_training_crashes_total 0"]);
    runbook.next().has(0, &["changed: nothing"]);
    runtime().block_on(eventually("training begins anew", async || {
        number("kyrodb_training_restarts_total") == Some(1.0)
    }));
    runbook.next().has(0, &["kyrodb_training_restarts_total 1"]);
    runbook.done();
    process.stop();
    // Its neighbours are intact, and no needed file is damaged.
    let process = Process::start(&data_dir, SETTINGS);
    assert!(!process.log().contains("damaged"), "{}", process.log());
    runtime().block_on(async {
        let mut client = process.client().await;
        for id in [6, 7, 8, DOCUMENTS] {
            assert_eq!(nearest(&mut client, id).await, (vec![id], Vec::new()));
        }
    });
    process.stop();
}

#[test]
fn snapshots_fail() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, SETTINGS);
    let mut runbook = Runbook::open("Snapshots fail", directory.path());
    runbook.ask(&process);
    runtime().block_on(async {
        let mut client = process.client().await;
        load(&process, &mut client, 500).await;
        damage(&data_dir, 7);
        // Its block has to be written again, since another document in it changed.
        client.insert(insert(1_000, &vector(1_000, DIMENSION), &[])).await.unwrap();
        let refused = client.create_snapshot(SnapshotRequest::default()).await.unwrap_err();
        assert!(refused.message().contains("document 7 can't be read"), "{refused:?}");
    });
    runbook.next().has(0, &["degraded", "snapshots of 1 of 1 shards fail"]);
    runbook.next().has(0, &["kyrodb_snapshot_failures_total{shard=\"0\"} "]);
    runtime().block_on(async {
        let request = DeleteRequest { doc_id: 7, ..Default::default() };
        assert!(process.client().await.delete(request).await.unwrap().into_inner().existed);
    });
    runbook.next().has(0, &[]);
    runbook.done();
    let (_, health) = get(process.http, "/health").unwrap();
    assert!(!health.contains("snapshots"), "{health}");
    process.stop();
}
