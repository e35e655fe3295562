//! The reserve of the disk: requests that are refused when only it is left, and those that continue.

use kyrodb::proto::batch_delete_request::DeleteCriteria;
use kyrodb::proto::{
    BatchDeleteRequest, ConfigRequest, DeleteRequest, IdList, UpdateMetadataRequest,
};
use tonic::Code;

use crate::common::{Process, bad_field, directory, ids, insert, metric, runtime, search, vector};
use crate::{DIMENSION, ONE_SHARD, assert_degraded, assert_healthy, metrics, put, refused, stored};

/// More than any disk has.
const EVERYTHING: (&str, &str) = ("persistence.disk_reserve_bytes", "1000000000000000000");

#[test]
fn inserts_are_refused_and_everything_else_goes_on() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, ONE_SHARD);
    runtime().block_on(async { crate::store(&mut process.client().await, 6).await });
    assert_healthy(&process);
    process.stop();

    let process = Process::start(&data_dir, &[ONE_SHARD[0], EVERYTHING]);
    assert_degraded(&process, "less than the reserve");
    runtime().block_on(async {
        let mut client = process.client().await;
        assert!(!refused(put(&mut client, 7).await, Code::ResourceExhausted).is_zero());
        let again = put(&mut client, 1).await;
        refused(again, Code::ResourceExhausted);
        // An invalid request is reported as invalid.
        let bad = client.insert(insert(8, &[1.0], &[])).await;
        assert_eq!(bad_field(&bad.unwrap_err()), "embedding");
        let stream =
            || tokio_stream::iter((10..14).map(|id| insert(id, &vector(id, DIMENSION), &[])));
        refused(client.bulk_insert(stream()).await, Code::ResourceExhausted);
        refused(client.bulk_load_hnsw(stream()).await, Code::ResourceExhausted);

        let deleted = client.delete(DeleteRequest { doc_id: 2, ..Default::default() }).await;
        assert!(deleted.unwrap().into_inner().existed);
        let delete_criteria = Some(DeleteCriteria::Ids(IdList { doc_ids: vec![3, 4] }));
        let many = BatchDeleteRequest { delete_criteria, ..Default::default() };
        assert_eq!(client.batch_delete(many).await.unwrap().into_inner().deleted_count, 2);
        let metadata = [("n".to_owned(), "one".to_owned())].into();
        let update = UpdateMetadataRequest { doc_id: 1, metadata, ..Default::default() };
        assert!(client.update_metadata(update).await.unwrap().into_inner().existed);
        let found = client.search(search(&vector(1, DIMENSION), 2)).await.unwrap().into_inner();
        assert_eq!(ids(&found)[0], 1);
        assert_eq!(found.results[0].metadata["n"], "one");
        assert_eq!(stored(&mut client, 20).await, [1, 5, 6]);
    });
    let text = metrics(&process);
    assert_eq!(metric(&text, "kyrodb_disk_reserve_bytes"), Some(1e18));
    assert!(metric(&text, "kyrodb_disk_available_bytes").is_some_and(|bytes| bytes > 0.0));
    assert_eq!(metric(&text, "kyrodb_wal_circuit_breaker_state"), Some(0.0));
    process.stop();
}

/// A refused first document has not decided the dimension.
#[test]
fn a_refused_first_document_decides_nothing() {
    let directory = directory();
    let data_dir = directory.path().join("data");
    let process = Process::start(&data_dir, &[ONE_SHARD[0], EVERYTHING]);
    runtime().block_on(async {
        let mut client = process.client().await;
        refused(put(&mut client, 1).await, Code::ResourceExhausted);
        let config = client.get_config(ConfigRequest {}).await.unwrap().into_inner();
        assert_eq!(config.embedding_dimension, 0);
    });
    process.stop();
}
