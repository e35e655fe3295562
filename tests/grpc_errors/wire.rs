//! Bytes that are not a valid request: refused, and the server continues.

use axum::body::Body;
use prost::Message;
use tonic::Code;

use super::common::documents::{is_stored, query};
use super::common::{Inside, bad_field, get, insert, metric, runtime, search, vector};
use super::raw::{call, framed, method, send};

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
        // In a stream it ends the call; earlier documents are kept.
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

#[test]
fn a_document_of_a_stream_that_is_too_large_is_counted_and_the_stream_goes_on() {
    let server = Inside::start(&[]);
    runtime().block_on(async {
        let mut client = server.client().await;
        let documents = |first: u64| {
            tokio_stream::iter([
                insert(first, &vector(1, 8), &[]),
                insert(first + 1, &vector(2, 8), &[("k", &"v".repeat(3 << 20))]),
                insert(first + 2, &vector(3, 1 << 20), &[]),
                insert(first + 3, &vector(4, 8), &[]),
            ])
        };
        let stored = client.bulk_insert(documents(1)).await.unwrap().into_inner();
        assert_eq!((stored.total_inserted, stored.total_failed), (2, 2), "{stored:?}");
        let loaded = client.bulk_load_hnsw(documents(11)).await.unwrap().into_inner();
        assert_eq!((loaded.total_loaded, loaded.total_failed), (2, 2), "{loaded:?}");
        for first in [1, 11] {
            for (id, is_there) in [(0, true), (1, false), (2, false), (3, true)] {
                let found = query(&mut client, first + id, "").await.found;
                assert_eq!(found, is_there, "{}", first + id);
            }
        }
    });
}

/// Requests that a web page in a browser can send: not gRPC by their content type, or with the page's origin.
#[test]
fn requests_of_a_page_in_a_browser_are_refused_without_effect() {
    let server = Inside::start(&[]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        let mut client = server.client().await;
        client.insert(insert(1, &[1.0; 4], &[])).await.unwrap();
        // BatchDelete of everything: a filter without a condition.
        let delete = || Body::from(framed(&[18, 0]));
        let path = method("BatchDelete");
        let send = async |headers: &[(&str, &str)]| {
            let (code, status, _) = send(address, &path, headers, delete()).await;
            (code.as_u16(), status.map(|status| status.code()))
        };
        let plain = ("content-type", "text/plain");
        let grpc = ("content-type", "application/grpc");
        for headers in [
            &[][..],
            &[plain],
            &[plain, ("origin", "https://other.example")],
            &[("content-type", "application/grpc-web+proto")],
            &[("content-type", "application/grpcx")],
        ] {
            assert_eq!(send(headers).await, (415, None), "{headers:?}");
        }
        for header in [("origin", "https://other.example"), ("sec-fetch-site", "cross-site")] {
            assert_eq!(send(&[grpc, header]).await, (403, None), "{header:?}");
        }
        assert!(query(&mut client, 1, "").await.found);
        for good in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"]
        {
            assert_eq!(send(&[("content-type", good)]).await, (200, Some(Code::Ok)), "{good}");
        }
        assert!(!query(&mut client, 1, "").await.found);
    });
}

#[test]
fn a_unary_call_with_a_second_message_is_refused_and_stores_none() {
    let server = Inside::start(&[]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        let message = |id| framed(&insert(id, &[1.0; 4], &[]).encode_to_vec());
        let (status, _) =
            call(address, &method("Insert"), &[], [message(1), message(2)].concat()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("Insert takes one message"), "{status:?}");
        assert!(!status.metadata().contains_key("kyrodb-unread"));
        let mut client = server.client().await;
        assert!(!query(&mut client, 1, "").await.found && !query(&mut client, 2, "").await.found);
        let (status, _) = call(address, &method("Insert"), &[], message(3)).await;
        assert_eq!(status.code(), Code::Ok);
    });
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    assert_eq!(metric(&metrics, "kyrodb_errors_total{category=\"validation\"}"), Some(1.0));
    assert_eq!(metric(&metrics, "kyrodb_inserts_failed"), Some(1.0));
}

/// The encoded form of `NOT (NOT (…))`, `levels` deep.
fn nested(levels: usize) -> Vec<u8> {
    let varint = |mut value: usize| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    let field = |key: u8, content: &[u8]| [&[key], &varint(content.len())[..], content].concat();
    // NotFilter is field 6 of a filter, and has its filter in field 1.
    (1..levels).fold(Vec::new(), |inner, _| field(0x32, &field(0x0a, &inner)))
}

#[test]
fn a_filter_that_nests_too_deep_has_one_code_however_deep() {
    let server = Inside::start(&[]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        for levels in [60, 33, 50, 99, 101, 1_000, 5_000] {
            let filter = nested(levels);
            // A search for k = 1 by [1, 1, 1, 1], with the filter as field 6.
            let search = search(&[1.0; 4], 1).encode_to_vec();
            let mut head = vec![0x32];
            prost::encode_length_delimiter(filter.len(), &mut head).unwrap();
            let body = [search, head, filter].concat();
            for name in ["Search", "BulkSearch"] {
                let (status, _) = call(address, &method(name), &[], framed(&body)).await;
                assert_eq!(status.code(), Code::InvalidArgument, "{name} {levels}: {status:?}");
                assert_eq!(bad_field(&status), "filter");
                assert!(status.message().contains("32 levels"), "{status:?}");
                assert!(status.message().len() < 100 && status.details().len() < 300);
                assert!(!status.metadata().contains_key("kyrodb-unread"), "{name}");
            }
        }
        let long = framed(&[0x0a; 5_000]);
        let (status, _) = call(address, &method("Insert"), &[], long).await;
        assert!(status.code() == Code::Internal && status.message().len() <= 200, "{status:?}");
    });
}

/// The announced length is enough: no byte of the message has to arrive.
#[test]
fn a_message_larger_than_its_method_needs_is_refused_before_it_comes() {
    let server = Inside::start(&[]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        for name in ["Search", "Insert", "BulkSearch", "BatchDelete", "BulkQuery", "Health"] {
            let head = [&[0], &(15_u32 << 20).to_be_bytes()[..]].concat();
            let (status, _) = call(address, &method(name), &[], head).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status:?}");
            assert!(status.message().contains("has 15728640 bytes"), "{status:?}");
        }
    });
}
