//! Disk use of documents: bytes written, and bytes stored.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kyrodb::proto::{InsertRequest, SnapshotRequest};
use tokio::runtime::Runtime;

use super::{document, flush};
use crate::common::{Process, Settings, directory, get, metric_sum};
use crate::data::Data;

/// Number of documents, and of snapshots taken at even distances while they are written.
const DOCUMENTS: usize = 100_000;
const SNAPSHOTS: usize = 10;

/// Inserts into an empty directory, with a snapshot after each tenth. No others are taken.
pub(super) fn disk(runtime: &Runtime, data: &Data, settings: Settings<'_>) {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .copied()
        .chain([("persistence.snapshot_interval_mutations", "1000000")])
        .collect();
    let process = Process::start(&data_dir, &settings);
    let before = written(process.pid());
    runtime.block_on(async {
        let mut client = process.client().await;
        let rows: Vec<usize> = (0..DOCUMENTS.min(data.base.count())).collect();
        for part in rows.chunks(rows.len().div_ceil(SNAPSHOTS)) {
            let documents: Vec<InsertRequest> =
                part.iter().map(|&row| document(data, row)).collect();
            let loaded = client.bulk_insert(tokio_stream::iter(documents)).await.expect("a load");
            assert_eq!(loaded.into_inner().total_failed, 0);
            flush(&process).await;
            let taken = client.create_snapshot(SnapshotRequest::default()).await;
            assert!(taken.expect("a snapshot").into_inner().success);
        }
    });
    let written = written(process.pid()) - before;
    let text = get(process.http, "/metrics").expect("metrics").1;
    let sum = |name: &str| metric_sum(&text, name);
    let documents = sum("kyrodb_shard_documents");
    let each = |bytes: f64| bytes / documents;
    let kept = kept(&data_dir);
    println!(
        "disk: {documents:.0} documents and {:.0} snapshots: {:.0} bytes written a document, of \
         which log {:.0} and snapshots {:.0}; {:.0} bytes kept a document ({} bytes are a vector)",
        sum("kyrodb_snapshots_total"),
        each(written as f64),
        each(sum("kyrodb_wal_bytes_total")),
        each(sum("kyrodb_snapshot_bytes_total")),
        each(kept as f64),
        data.base.width * size_of::<f32>(),
    );
    process.stop();
}

/// Bytes that a process has written to storage.
fn written(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("it runs");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:")).expect("a line");
    line.trim().parse().expect("a number")
}

/// Bytes that the files of a directory take on disk.
fn kept(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("it is there").flatten();
    let bytes = |entry: std::fs::DirEntry| entry.metadata().map_or(0, |file| file.blocks() * 512);
    entries.map(bytes).sum()
}
