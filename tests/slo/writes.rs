//! Cost of an insert: syncs and bytes of the log, bytes that the kernel counts as written, and documents that searches
//! have to scan because of it.

use std::net::SocketAddr;

use kyrodb::proto::SearchRequest;

use crate::bounds::Bounds;
use crate::common::clustered::K;
use crate::common::{Client, Process, directory, get, insert, metric, metric_sum, runtime, search};
use crate::{SETTINGS, alone, data, threads};

/// Inserts of a single client, and of each of several clients.
const ALONE: usize = 400;
const TOGETHER: usize = 100;
const CLIENTS: usize = 16;

/// Searches right after the inserts.
const SEARCHES: usize = 50;

/// Counts so far.
struct Counts {
    syncs: f64,
    log_bytes: f64,
    process_bytes: f64,
    hot_scanned: f64,
    hot_documents: f64,
}

impl Counts {
    fn now(server: &Process) -> Self {
        let (code, text) = get(server.http, "/metrics").unwrap();
        assert_eq!(code, 200);
        let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
        Self {
            syncs: metric(&text, "kyrodb_wal_syncs_total").unwrap(),
            log_bytes: metric(&text, "kyrodb_wal_bytes_total").unwrap(),
            process_bytes: threads::field(&io, "write_bytes:") as f64,
            hot_scanned: metric_sum(&text, "kyrodb_shard_search_hot_documents_total"),
            hot_documents: metric_sum(&text, "kyrodb_shard_hot_documents"),
        }
    }
}

/// Inserts the documents with these ids, one after the other.
async fn insert_all(client: &mut Client, ids: std::ops::Range<usize>) {
    for id in ids {
        let request = insert(id as u64, &data().documents[id - 1], &[]);
        assert!(client.insert(request).await.unwrap().into_inner().success);
    }
}

/// Inserts documents from many clients, each on a connection of its own.
async fn insert_together(address: SocketAddr, first: usize) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let start = first + client * TOGETHER;
            tokio::spawn(async move {
                let mut client = crate::common::connect(address).await;
                insert_all(&mut client, start..start + TOGETHER).await;
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

#[test]
fn an_insert_costs_no_more_than_its_bounds() {
    let _alone = alone();
    let mut bounds = Bounds::read();
    let directory = directory();
    let mut settings = SETTINGS.to_vec();
    settings.push(("runtime.shards", "1"));
    // One segment takes everything, so that the bytes of another one do not count.
    settings.push(("persistence.wal_segment_bytes", "33554432"));
    let server = Process::start(&directory.path().join("data"), &settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        insert_all(&mut client, 1..11).await;

        let before = Counts::now(&server);
        insert_all(&mut client, 11..11 + ALONE).await;
        let after = Counts::now(&server);
        let each = |before: f64, after: f64| (after - before) / ALONE as f64;
        bounds.hold("insert_syncs_1_client", each(before.syncs, after.syncs));
        bounds.hold("insert_log_bytes_1_client", each(before.log_bytes, after.log_bytes));
        let bytes = each(before.process_bytes, after.process_bytes);
        bounds.hold("insert_process_bytes_1_client", bytes);

        let before = Counts::now(&server);
        insert_together(server.grpc, 11 + ALONE).await;
        let after = Counts::now(&server);
        for query in &data().queries[..SEARCHES] {
            let request = SearchRequest { ef_search: 20, ..search(query, K as u32) };
            client.search(request).await.unwrap();
        }
        let searched = Counts::now(&server);
        let each = |before: f64, after: f64| (after - before) / (CLIENTS * TOGETHER) as f64;
        bounds.hold("insert_syncs_16_clients", each(before.syncs, after.syncs));
        bounds.hold("insert_log_bytes_16_clients", each(before.log_bytes, after.log_bytes));
        let bytes = each(before.process_bytes, after.process_bytes);
        bounds.hold("insert_process_bytes_16_clients", bytes);
        let scanned = (searched.hot_scanned - after.hot_scanned) / SEARCHES as f64;
        bounds.hold("search_hot_documents_after_inserts", scanned);
        // The hot tier only shrinks once the inserts are over.
        bounds.hold("search_scans_of_a_hot_document", scanned / after.hot_documents.max(1.0));
    });
    server.stop();
    bounds.end();
}
