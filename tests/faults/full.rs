//! A file system that fills up to the last block under a server, and is emptied again.

use kyrodb::proto::UpdateMetadataRequest;
use tonic::{Code, Status};

use crate::common::volume::Volume;
use crate::common::{Client, Process, directory, eventually, metric, runtime};
use crate::{assert_degraded, assert_healthy, metrics, put, refused, store, stored};

const SETTINGS: &[(&str, &str)] =
    &[("runtime.shards", "1"), ("persistence.disk_reserve_bytes", "8388608")];

async fn update(client: &mut Client, id: u64, n: u64) -> Result<(), Status> {
    let metadata = [("n".to_owned(), n.to_string())].into();
    let request = UpdateMetadataRequest { doc_id: id, metadata, ..Default::default() };
    client.update_metadata(request).await.map(|_| ())
}

#[test]
fn a_disk_filled_to_the_brim_loses_nothing_and_inserts_come_back() {
    let directory = directory();
    let Some(volume) = Volume::mount(directory.path(), 64 << 20) else { return };
    let process = Process::start(&volume.path("data"), SETTINGS);
    let runtime = runtime();
    runtime.block_on(async { store(&mut process.client().await, 20).await });
    assert_healthy(&process);
    volume.fill();
    let last = runtime.block_on(async {
        let mut client = process.client().await;
        eventually("the reserve", async || put(&mut process.client().await, 21).await.is_err())
            .await;
        refused(put(&mut client, 22).await, Code::ResourceExhausted);
        assert_degraded(&process, "less than the reserve");
        // Changes of existing documents succeed while the log has room.
        let mut last = 0;
        let ended = loop {
            match update(&mut client, 5, last + 1).await {
                Ok(()) => last += 1,
                Err(status) => break status,
            }
        };
        assert!(last > 100, "{last}");
        refused::<()>(Err(ended), Code::Unavailable);
        assert!(!refused(update(&mut client, 5, 0).await, Code::Unavailable).is_zero());
        assert_eq!(stored(&mut client, 20).await, (1..=20).collect::<Vec<_>>());
        last
    });
    let text = metrics(&process);
    assert_eq!(metric(&text, "kyrodb_wal_circuit_breaker_state"), Some(1.0));
    assert!(metric(&text, "kyrodb_wal_disk_full_errors").is_some_and(|count| count >= 1.0));
    assert_degraded(&process, "circuit breaker open");
    volume.empty();
    runtime.block_on(async {
        let is_taken = async || put(&mut process.client().await, 31).await.is_ok();
        eventually("an insert", is_taken).await;
        put(&mut process.client().await, 32).await.unwrap();
    });
    let text = metrics(&process);
    assert_eq!(metric(&text, "kyrodb_wal_circuit_breaker_state"), Some(0.0));
    process.kill();
    let process = Process::start(&volume.path("data"), SETTINGS);
    assert_healthy(&process);
    runtime.block_on(async {
        let mut client = process.client().await;
        let expected: Vec<u64> = (1..=20).chain([31, 32]).collect();
        let found = stored(&mut client, 40).await;
        let found: Vec<u64> = found.into_iter().filter(|id| *id != 21).collect();
        assert_eq!(found, expected);
        let updated = crate::common::documents::query(&mut client, 5, "").await;
        assert_eq!(updated.metadata["n"], last.to_string(), "the last one acknowledged");
    });
    process.stop();
}
