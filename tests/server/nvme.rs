//! Vectors on disk: a directory that is served with vectors on disk and in memory, in turn.

use std::path::Path;
use std::process::Command;

use kyrodb::proto::{SearchRequest, SnapshotRequest};

use crate::assert_says;
use crate::common::documents::{Change, Contents, Random, read};
use crate::common::{
    Client, Process, Settings, directory, eventually, get, ids, insert, metric, metric_sum,
    runtime, search, vector,
};

/// Two shards that own one graph, with snapshots only on request.
const MEMORY: Settings<'static> = &[
    ("runtime.shards", "2"),
    ("hnsw.distance", "euclidean"),
    ("hnsw.codes", "sq8"),
    ("persistence.snapshot_interval_mutations", "1000000"),
    // An exact search reads every vector, which may take long on a busy machine.
    ("timeouts.cold_tier_ms", "30000"),
];

const NVME: Settings<'static> = &[
    ("runtime.shards", "2"),
    ("hnsw.distance", "euclidean"),
    ("hnsw.codes", "sq8"),
    ("persistence.snapshot_interval_mutations", "1000000"),
    // An exact search reads every vector, which may take long on a busy machine.
    ("timeouts.cold_tier_ms", "30000"),
    ("storage.vectors", "nvme"),
];

const COUNT: u64 = 400;

/// Asserts that every document is read as it was written, and finds itself.
async fn assert_served(client: &mut Client, contents: &Contents) {
    let all: Vec<u64> = (1..=COUNT).collect();
    let found = read(client, &all).await;
    for id in &all {
        assert_eq!(found.get(id), contents.get(id), "document {id}");
    }
    for (id, document) in contents {
        for exact in [false, true] {
            let request = SearchRequest {
                query_embedding: document.vector.clone(),
                k: 3,
                include_embeddings: true,
                exact,
                ..Default::default()
            };
            let answer = client.search(request).await.unwrap().into_inner();
            assert_eq!(answer.shards_answered, answer.shards_asked, "{answer:?}");
            assert_eq!(answer.results.len(), 3);
            for result in &answer.results {
                assert_eq!(result.embedding, contents[&result.doc_id].vector, "{id}");
            }
            let nearest = &contents[&answer.results[0].doc_id];
            assert_eq!(nearest.vector, document.vector, "document {id} finds itself");
        }
    }
}

#[test]
fn a_directory_is_served_with_vectors_on_disk_and_in_memory_in_turn() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let (mut random, mut contents) = (Random::new(9, 0), Contents::new());
    let runtime = runtime();
    for round in 0..4 {
        let is_on_disk = round != 2;
        let process = Process::start(&data_dir, if is_on_disk { NVME } else { MEMORY });
        runtime.block_on(async {
            let mut client = process.client().await;
            if round > 0 {
                assert_served(&mut client, &contents).await;
            }
            for _ in 0..600 {
                let change = Change::random(&mut random, 1, COUNT);
                change.send(&mut client, &contents).await.unwrap();
                change.apply(&mut contents);
            }
            let saved = client.create_snapshot(SnapshotRequest::default()).await.unwrap();
            assert!(saved.into_inner().success);
            // Some are on disk, some in memory.
            for _ in 0..30 {
                let change = Change::random(&mut random, 1, COUNT);
                change.send(&mut client, &contents).await.unwrap();
                change.apply(&mut contents);
            }
            assert_served(&mut client, &contents).await;
        });
        let (_, text) = get(process.http, "/metrics").unwrap();
        let reads = metric_sum(&text, "kyrodb_vector_reads_total");
        assert_eq!(reads > 0.0, is_on_disk, "{reads} reads");
        if round == 1 { process.kill() } else { process.stop() }
    }
    assert_backed_up(directory.path(), &contents);
}

/// Asserts that a backup contains the vectors, and that the directory is intact.
fn assert_backed_up(directory: &Path, contents: &Contents) {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{output:?}");
        said
    };
    let backup = env!("CARGO_BIN_EXE_kyrodb_backup");
    run(env!("CARGO_BIN_EXE_kyrodb_server"), &["--data-dir", "data", "--verify"]);
    run(backup, &["--data-dir", "data", "--backup-dir", "backups", "create", "--fast"]);
    let list = run(backup, &["--backup-dir", "backups", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let id = list[0]["id"].as_str().unwrap();
    let restore =
        ["--data-dir", "restored", "--backup-dir", "backups", "restore", "--backup-id", id];
    run(backup, &restore);
    let process = Process::start(&directory.join("restored"), NVME);
    runtime().block_on(async { assert_served(&mut process.client().await, contents).await });
    process.stop();
}

#[test]
fn vectors_on_disk_are_refused_without_codes_and_without_snapshots() {
    for (settings, word) in [
        (&[("storage.vectors", "nvme"), ("hnsw.distance", "euclidean")][..], "hnsw.codes"),
        (
            &[("storage.vectors", "nvme"), ("persistence.snapshot_interval_mutations", "0")][..],
            "snapshot_interval_mutations",
        ),
    ] {
        let directory = directory();
        let said = Process::refused(&directory.path().join("data"), settings);
        assert_says(&said, &["storage.vectors: nvme", word]);
    }
}

/// More documents than may wait for a snapshot are loaded at once: the load waits for snapshots, none of it is refused,
/// and saved vectors leave memory.
#[test]
fn a_bulk_load_waits_for_snapshots() {
    const DOCUMENTS: u64 = 6_000;
    const DIMENSION: usize = 1_536;
    let directory = directory();
    let settings = [
        ("runtime.shards", "1"),
        ("storage.vectors", "nvme"),
        ("storage.unsaved_bytes", "16777216"),
        ("cache.document_bytes", "1048576"),
        ("hnsw.m", "5"),
        ("hnsw.ef_construction", "20"),
        ("persistence.wal_segment_bytes", "33554432"),
    ];
    let process = Process::start(&directory.path().join("data"), &settings);
    let row_bytes = DOCUMENTS * DIMENSION as u64 * 4;
    assert!(row_bytes > 2 * (16 << 20));
    runtime().block_on(async {
        let mut client = process.client().await;
        let documents = (1..=DOCUMENTS).map(|id| insert(id, &vector(id, DIMENSION), &[]));
        let documents: Vec<_> = documents.collect();
        let loaded = client.bulk_load_hnsw(tokio_stream::iter(documents)).await.unwrap();
        let loaded = loaded.into_inner();
        assert!(loaded.success && loaded.total_loaded == DOCUMENTS, "{loaded:?}");
        client.create_snapshot(SnapshotRequest::default()).await.unwrap();
        let metrics = || get(process.http, "/metrics").unwrap().1;
        assert!(metric_sum(&metrics(), "kyrodb_snapshots_total") >= 3.0);
        let bytes =
            || metric(&metrics(), "kyrodb_memory_bytes{shard=\"0\",part=\"vectors\"}").unwrap();
        eventually("vectors are on disk alone", async || bytes() < row_bytes as f64 / 20.0).await;
        for id in [1, DOCUMENTS / 2, DOCUMENTS] {
            let found = client.search(search(&vector(id, DIMENSION), 1)).await.unwrap();
            assert_eq!(ids(found.get_ref()), [id]);
        }
    });
    process.stop();
}
