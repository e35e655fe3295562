//! Drills of full memory, and of moving documents to another server.

use kyrodb::proto::{DeleteRequest, InsertRequest};
use tonic::Code;

use crate::common::{Client, Launch, Process, directory, eventually, retry_delay, runtime, vector};
use crate::{DIMENSION, Runbook, store, stored};

/// Bytes of metadata per document, so that memory fills soon.
const TEXT_BYTES: usize = 30_000;

/// Number of documents that would take a gigabyte.
const TOO_MANY: u64 = 20_000;

async fn put_large(client: &mut Client, id: u64) -> Result<(), tonic::Status> {
    let text = format!("{id:08}").repeat(TEXT_BYTES / 8);
    let request = InsertRequest {
        doc_id: id,
        embedding: vector(id, DIMENSION),
        metadata: [("text".to_owned(), text)].into(),
        namespace: String::new(),
    };
    client.insert(request).await.map(drop)
}

#[test]
fn memory_is_full() {
    let directory = directory();
    let path = directory.path().join("kyrodb.yaml");
    let bound = |mib: u64| std::fs::write(&path, format!("memory:\n  max_bytes: {}\n", mib << 20));
    bound(256).unwrap();
    let settings = [("runtime.shards", "1"), ("persistence.wal_segment_bytes", "33554432")];
    let mut launch = Launch::new(&directory.path().join("data"), &settings);
    launch.command.arg("--config").arg(&path);
    let mut process = launch.spawn();
    process.wait_ready();
    let runtime = runtime();
    let last = runtime.block_on(async {
        let mut client = process.client().await;
        let mut id = 0;
        loop {
            id += 1;
            assert!(id < TOO_MANY, "nothing bounds it");
            let Err(status) = put_large(&mut client, id).await else { continue };
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            if status.message().contains("memory.max_bytes") {
                assert!(!retry_delay(&status).is_zero());
                return id - 1;
            }
            // The hot tier may be full for a moment.
            tokio::time::sleep(retry_delay(&status)).await;
            id -= 1;
        }
    });
    assert!(last > 200, "{last}");
    let mut runbook = Runbook::open("Memory is full", directory.path());
    runbook.ask(&process);
    let said = runbook.next().has(0, &["kyrodb_memory_max_bytes 268435456"]);
    let used = crate::common::metric(&said.text, "kyrodb_memory_used_bytes").unwrap();
    assert!(used < 300.0 * f64::from(1 << 20), "{used}");
    // Reads and deletes succeed; freed memory is reused.
    runtime.block_on(async {
        let mut client = process.client().await;
        assert_eq!(stored(&mut client, last).await, last);
        for doc_id in 1..=last / 2 {
            client.delete(DeleteRequest { doc_id, namespace: String::new() }).await.unwrap();
        }
    });
    runbook.next().has(0, &["is_done: true"]);
    runtime.block_on(async {
        eventually("what was deleted is used again", async || {
            put_large(&mut process.client().await, 1).await.is_ok()
        })
        .await;
        let mut client = process.client().await;
        for id in 2..last / 8 {
            put_large(&mut client, id).await.unwrap();
        }
    });
    // With a higher limit there is room at once.
    bound(2_048).unwrap();
    runbook.next().has(0, &["memory.max_bytes: 268435456 -> 2147483648"]);
    runtime.block_on(async {
        let mut client = process.client().await;
        for id in last + 1..last + 200 {
            put_large(&mut client, id).await.unwrap();
        }
    });
    runbook.next().has(0, &["vectors", "1536 B", "together"]);
    runbook.done();
    process.stop();
}

#[test]
fn documents_have_to_move() {
    let directory = directory();
    let settings = [("runtime.shards", "1")];
    let source = Process::start(&directory.path().join("source"), &settings);
    let target = Process::start(&directory.path().join("target"), &settings);
    let runtime = runtime();
    runtime.block_on(async { store(&mut source.client().await, 30).await });
    let mut runbook = Runbook::open("Documents have to move", directory.path());
    runbook.set("KYRODB_GRPC_URL", format!("http://{}", source.grpc));
    runbook.next().has(0, &["30 documents were written to documents.jsonl"]);
    runbook.next().has(0, &["0 documents were written to documents.jsonl"]);
    runbook.set("KYRODB_GRPC_URL", format!("http://{}", target.grpc));
    runbook.next().has(0, &["30 documents are stored"]);
    runbook.done();
    let found = runtime.block_on(async { stored(&mut target.client().await, 30).await });
    assert_eq!(found, 30);
    source.stop();
    target.stop();
}
