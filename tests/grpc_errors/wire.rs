//! Bytes that are no request: refused, and the server goes on.

use prost::Message;
use tonic::Code;

use super::common::documents::{is_stored, query};
use super::common::{Inside, get, insert, metric, runtime, search, vector};
use super::raw::{call, framed, method};

#[test]
fn a_body_that_can_not_be_decoded_is_an_internal_error() {
    let server = Inside::start(&[]);
    let address = server.server().grpc_address();
    let bodies: [(&str, Vec<u8>); 6] = [
        ("no message at all", vec![]),
        ("no protobuf", framed(&[0xff; 16])),
        ("a message that is cut off", framed(&insert(1, &[1.0; 4], &[]).encode_to_vec()[..9])),
        ("a frame that is cut off", framed(&[8; 100])[..50].to_vec()),
        ("a namespace that is not UTF-8", framed(&[8, 1, 34, 2, 0xc3, 0x28])),
        ("a flag that means compression", vec![1, 0, 0, 0, 0]),
    ];
    runtime().block_on(async {
        for (what, body) in bodies {
            for name in ["Insert", "Search", "BulkInsert", "BulkSearch"] {
                let is_stream = name.starts_with("Bulk");
                if is_stream && body.is_empty() {
                    continue;
                }
                let (status, _) = call(address, &method(name), &[], body.clone()).await;
                assert_eq!(status.code(), Code::Internal, "{name}, {what}: {status:?}");
                assert!(!status.message().contains("src/"), "{status:?}");
            }
        }
        let (status, _) = call(address, &method("Nothing"), &[], framed(&[])).await;
        assert_eq!(status.code(), Code::Unimplemented);
        let (status, _) = call(address, "/other.Service/Insert", &[], framed(&[])).await;
        assert_eq!(status.code(), Code::Unimplemented);
        let mut client = server.client().await;
        assert!(!is_stored(&client, 1).await);
        client.insert(insert(1, &[1.0; 4], &[])).await.unwrap();
    });
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    assert_eq!(metric(&metrics, "kyrodb_panics_total"), Some(0.0));
}

#[test]
fn a_message_beyond_the_limit_is_out_of_range() {
    let settings = [("server.max_message_bytes", "100000"), ("runtime.shards", "3")];
    let server = Inside::start(&settings);
    runtime().block_on(async {
        let mut client = server.client().await;
        client.insert(insert(1, &vector(1, 8), &[("k", &"v".repeat(60_000))])).await.unwrap();
        let large = insert(2, &vector(2, 8), &[("k", &"v".repeat(100_000))]);
        let status = client.insert(large.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        // In a stream it ends the call; what came before is kept.
        let stream = vec![insert(3, &vector(3, 8), &[]), large, insert(4, &vector(4, 8), &[])];
        let status = client.bulk_insert(tokio_stream::iter(stream)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        let mut request = search(&vector(1, 8), 1);
        request.namespace = "n".repeat(200_000);
        let status = client.search(request).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert!(query(&mut client, 1, "").await.found && query(&mut client, 3, "").await.found);
        assert!(!query(&mut client, 2, "").await.found && !query(&mut client, 4, "").await.found);
    });
}
