//! Clients that send small frames, send half of a message, do not read their answers, or cancel their requests: none of
//! them disturbs the server, or another client's calls.

use kyrodb::observe::in_flight::{Fault, InFlight};
use kyrodb::proto::{
    BulkLoadResponse, BulkQueryRequest, BulkQueryResponse, InsertRequest, ListDocumentsRequest,
    ListDocumentsResponse, SearchRequest, SearchResponse,
};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use super::common::{
    Client, Inside, Process, Settings, directory, eventually, get, insert, metric, runtime, search,
    vector,
};
use super::frames::{Frames, Open, a_moment, resident};
use super::raw::method;

/// Window of a client that reads everything.
pub(super) const WINDOW: u32 = 1 << 20;

pub(super) const SETTINGS: Settings<'static> = &[
    ("hnsw.distance", "euclidean"),
    ("hnsw.m", "5"),
    ("hnsw.ef_construction", "16"),
    ("runtime.shards", "2"),
    // A machine may be slow; these tests do not measure searches.
    ("timeouts.cold_tier_ms", "30000"),
];

pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";

pub(super) fn in_flight(server: &Inside) -> &InFlight {
    &server.server().observed().in_flight
}

pub(super) fn faults(server: &Inside) -> u64 {
    Fault::ALL.iter().map(|(fault, _)| in_flight(server).faults(*fault).get()).sum()
}

fn held_answers(server: &Process) -> u64 {
    let metrics = get(server.http, "/metrics").unwrap().1;
    metric(&metrics, "kyrodb_answer_bytes_held").unwrap() as u64
}

pub(super) async fn nothing_is_held(server: &Inside) {
    eventually("nothing is held any more", || async { in_flight(server).held() == 0 }).await;
}

#[test]
fn streams_of_small_messages_ahead_of_the_server_are_answered() {
    const STREAMS: u64 = 3;
    const REQUESTS: u64 = 7_000;
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut client = server.client().await;
        for id in 1..=200 {
            client.insert(insert(id, &vector(id, 8), &[])).await.unwrap();
        }
        let frames = Frames::connect(server.server().grpc_address(), WINDOW).await;
        let mut streams: Vec<Open> = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = frames.open(&method("BulkSearch"), &[]).await;
            for n in 0..REQUESTS {
                let query_doc_id = n % 200 + 1;
                stream.send(&SearchRequest { query_doc_id, k: 1, ..SearchRequest::default() });
            }
            stream.end();
            streams.push(stream);
        }
        for (n, stream) in streams.into_iter().enumerate() {
            let answer = stream.all().await;
            assert_eq!(answer.status.code(), Code::Ok, "stream {n}: {:?}", answer.status);
            assert_eq!(answer.messages, REQUESTS, "stream {n}");
        }
        assert!(frames.is_open());
        nothing_is_held(&server).await;
    });
    assert_eq!(faults(&server), 0);
}

#[test]
fn small_documents_are_loaded_a_frame_each_over_several_streams() {
    const STREAMS: u64 = 3;
    const DOCUMENTS: u64 = 20_000;
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let frames = Frames::connect(server.server().grpc_address(), WINDOW).await;
        let mut streams: Vec<Open> = Vec::new();
        for stream in 0..STREAMS {
            let mut open = frames.open(&method("BulkLoadHnsw"), &[]).await;
            for id in stream * DOCUMENTS + 1..=(stream + 1) * DOCUMENTS {
                open.send(&insert(id, &vector(id, 8), &[]));
            }
            open.end();
            streams.push(open);
        }
        for stream in streams {
            let answer = stream.all().await;
            assert_eq!(answer.status.code(), Code::Ok, "{:?}", answer.status);
            let answer = BulkLoadResponse::decode(&*answer.last).unwrap();
            assert_eq!((answer.total_loaded, answer.total_failed), (DOCUMENTS, 0), "{answer:?}");
        }
        nothing_is_held(&server).await;
    });
    assert_eq!(faults(&server), 0);
}

/// A connection on which a peer sends more than permitted is ended, and counted by its reason.
#[test]
fn a_connection_that_is_ended_is_counted_by_its_reason() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let frames = Frames::connect(server.server().grpc_address(), WINDOW).await;
        let mut stream = frames.open(&method("BulkInsert"), &[]).await;
        // Empty frames, of which h2 accepts a bounded number.
        for _ in 0..100_000 {
            if stream.body.send_data(hyper::body::Bytes::new(), false).is_err() {
                break;
            }
        }
        assert!(frames.ended().await);
    });
    assert_eq!(in_flight(&server).faults(Fault::Calm).get(), 1);
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    let name = "kyrodb_connections_ended_total{reason=\"enhance_your_calm\"}";
    assert_eq!(metric(&metrics, name), Some(1.0));
}

#[test]
fn a_request_that_is_begun_and_not_sent_on_ends_within_its_time() {
    let server = Inside::start(&[("server.connection_timeout_secs", "2")]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        let frames = Frames::connect(address, WINDOW).await;
        let mut open = Vec::new();
        for (path, headers) in [
            (HEALTH.to_owned(), vec![]),
            (method("Insert"), vec![]),
            (method("Search"), vec![("grpc-timeout", "300m")]),
            (method("BulkInsert"), vec![]),
            (method("BulkSearch"), vec![]),
        ] {
            let mut request = frames.open(&path, &headers).await;
            // The beginning of a message of 100 bytes.
            request.body.send_data(vec![0, 0, 0, 0, 100, 1].into(), false).unwrap();
            open.push((path, request));
        }
        for (path, request) in open {
            let status = request.all().await.status;
            assert_eq!(status.code(), Code::DeadlineExceeded, "{path}: {status:?}");
        }
        assert!(frames.ended().await, "the connection is idle by now");
        nothing_is_held(&server).await;
    });
    assert!(in_flight(&server).requests_expired.get() >= 4);
}

/// Its connection is in use meanwhile: an idle one is closed.
#[test]
fn a_conversation_may_be_quiet_between_two_messages() {
    let server = Inside::start(&[("server.connection_timeout_secs", "2")]);
    runtime().block_on(async {
        let frames = Frames::connect(server.server().grpc_address(), WINDOW).await;
        server.client().await.insert(insert(1, &vector(1, 8), &[])).await.unwrap();
        let mut stream = frames.open(&method("BulkSearch"), &[]).await;
        stream.send(&search(&vector(1, 8), 1));
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_secs(4) {
            let found = frames.ask("Search", &search(&vector(1, 8), 1)).await.all().await;
            assert_eq!(found.status.code(), Code::Ok, "{:?}", found.status);
            a_moment().await;
        }
        stream.send(&search(&vector(1, 8), 1));
        stream.end();
        let answer = stream.all().await;
        assert_eq!((answer.status.code(), answer.messages), (Code::Ok, 2), "{:?}", answer.status);
        nothing_is_held(&server).await;
    });
}

#[test]
fn connections_with_half_a_request_leave_their_places() {
    let server =
        Inside::start(&[("server.connection_timeout_secs", "2"), ("server.max_connections", "8")]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        let mut held = Vec::new();
        for _ in 0..8 {
            let frames = Frames::connect(address, WINDOW).await;
            let request = frames.open(HEALTH, &[]).await;
            held.push((frames, request));
        }
        // Connections are accepted in order: this one after the eight, which are then counted or closed.
        eventually("there is a place again", || async {
            let Ok(mut client) = Client::connect(format!("http://{address}")).await else {
                return false;
            };
            client.insert(insert(1, &[1.0; 4], &[])).await.is_ok()
        })
        .await;
        drop(held);
    });
}

#[test]
fn half_sent_messages_hold_no_more_than_a_connection_may() {
    const STREAMS: usize = 40;
    const SENT: usize = 900_000;
    const MAX: u64 = 16 << 20;
    let server = Inside::start(&[]);
    in_flight(&server).requests.set_max(MAX);
    runtime().block_on(async {
        let frames = Frames::connect(server.server().grpc_address(), WINDOW).await;
        let mut open = Vec::new();
        for _ in 0..STREAMS {
            let mut request = frames.open(&method("Insert"), &[]).await;
            // The beginning of a message of a million bytes.
            let mut bytes = vec![0, 0, 15, 66, 64];
            bytes.resize(SENT, 0);
            request.body.send_data(bytes.into(), false).unwrap();
            open.push(request);
        }
        let refused = &in_flight(&server).requests_refused;
        eventually("some are refused", || async { refused.get() > 0 }).await;
        a_moment().await;
        let held = in_flight(&server).requests.held();
        assert!(held > 0 && held <= MAX / 2 + (1 << 20), "{held}");
        // Others are served meanwhile.
        server.client().await.insert(insert(1, &[1.0; 4], &[])).await.unwrap();
        drop(frames);
        let mut refusals = 0;
        for request in open {
            let answer =
                tokio::time::timeout(std::time::Duration::from_millis(200), request.all()).await;
            if let Ok(answer) = answer {
                assert_eq!(answer.status.code(), Code::ResourceExhausted, "{:?}", answer.status);
                assert!(!super::common::retry_delay(&answer.status).is_zero());
                refusals += 1;
            }
        }
        assert_eq!(refusals, refused.get());
        nothing_is_held(&server).await;
    });
}

/// Stores documents with `bytes` bytes of metadata each.
async fn store_large(mut client: Client, count: u64, bytes: usize) {
    for id in 1..=count {
        client.insert(insert(id, &vector(id, 8), &[("k", &"v".repeat(bytes))])).await.unwrap();
    }
}

#[test]
fn answers_that_are_not_taken_are_not_held() {
    const DOCUMENTS: u64 = 200;
    const BYTES: usize = 60_000;
    const ASKED: usize = 40;
    let directory = directory();
    let server = Process::start(directory.path(), SETTINGS);
    runtime().block_on(async {
        store_large(server.client().await, DOCUMENTS, BYTES).await;
        let frames = Frames::connect(server.grpc, 0).await;
        let before = resident(server.pid());
        let mut bodies = Vec::new();
        let ids: Vec<u64> = (1..=DOCUMENTS).collect();
        // One after the other: few listings may run at once.
        for n in 0..ASKED {
            let k = DOCUMENTS as u32;
            let doc_ids = ids.clone();
            let request = match n % 3 {
                0 => frames.ask("Search", &search(&vector(1, 8), k)).await,
                1 => {
                    let request = BulkQueryRequest { doc_ids, ..BulkQueryRequest::default() };
                    frames.ask("BulkQuery", &request).await
                }
                _ => {
                    let request =
                        ListDocumentsRequest { limit: k, ..ListDocumentsRequest::default() };
                    frames.ask("ListDocuments", &request).await
                }
            };
            let (status, body, open) = request.answered().await;
            assert!(status.is_none(), "{status:?}");
            bodies.push((body, open));
        }
        a_moment().await;
        let all = ASKED as u64 * DOCUMENTS * BYTES as u64;
        let held = resident(server.pid()).saturating_sub(before);
        assert!(held < all / 4, "{held} bytes more are held for {all}");
        let counted = held_answers(&server);
        assert!(counted < all / 4, "{counted} bytes are counted");
        drop(bodies);
        drop(frames);
        eventually("nothing is held any more", || async { held_answers(&server) == 0 }).await;
    });
}

#[test]
fn untaken_answers_keep_no_other_client_from_reading() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        store_large(server.client().await, 10, 60_000).await;
        let frames = Frames::connect(server.server().grpc_address(), 0).await;
        // Four of them ask for as many documents as all together may read at once.
        let doc_ids = (1..=10_000).collect();
        let request = BulkQueryRequest { doc_ids, ..BulkQueryRequest::default() };
        let mut open = Vec::new();
        for _ in 0..6 {
            let (status, body, sent) = frames.ask("BulkQuery", &request).await.answered().await;
            assert!(status.is_none(), "{status:?}");
            open.push((body, sent));
        }
        let request = ListDocumentsRequest { limit: 10_000, ..ListDocumentsRequest::default() };
        let listed = server.client().await.list_documents(request).await.unwrap();
        assert_eq!(listed.into_inner().documents.len(), 10);
        drop(open);
    });
}

#[test]
fn large_answers_are_whole_when_they_are_taken() {
    const DOCUMENTS: u64 = 100;
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        store_large(server.client().await, DOCUMENTS, 20_000).await;
        let frames = Frames::connect(server.server().grpc_address(), 64 << 10).await;
        let request =
            SearchRequest { include_embeddings: true, ..search(&vector(1, 8), DOCUMENTS as u32) };
        let found = frames.ask("Search", &request).await.all().await;
        assert_eq!((found.status.code(), found.messages), (Code::Ok, 1));
        let found = SearchResponse::decode(&*found.last).unwrap();
        assert_eq!(found.results.len() as u64, DOCUMENTS);
        assert!(
            found
                .results
                .iter()
                .all(|r| r.metadata["k"].len() == 20_000 && r.embedding == vector(r.doc_id, 8))
        );
        assert_eq!((found.results[0].doc_id, found.shards_answered), (1, found.shards_asked));

        let request = ListDocumentsRequest { limit: 1_000, ..ListDocumentsRequest::default() };
        let listed = frames.ask("ListDocuments", &request).await.all().await;
        let listed = ListDocumentsResponse::decode(&*listed.last).unwrap();
        let ids: Vec<u64> = listed.documents.iter().map(|document| document.doc_id).collect();
        assert_eq!(ids, (1..=DOCUMENTS).collect::<Vec<_>>());
        assert!(!listed.has_more);

        // Repeated ids each have their place in the answer.
        let doc_ids: Vec<u64> = (0..2_000).map(|n| n % 7 * 20 + 1).collect();
        let request = BulkQueryRequest {
            doc_ids: doc_ids.clone(),
            include_embeddings: true,
            ..BulkQueryRequest::default()
        };
        let read = frames.ask("BulkQuery", &request).await.all().await;
        assert_eq!((read.status.code(), read.messages), (Code::Ok, 1));
        let read = BulkQueryResponse::decode(&*read.last).unwrap();
        assert_eq!(read.total_requested, 2_000);
        let there = doc_ids.iter().filter(|&&id| id <= DOCUMENTS).count();
        assert_eq!(read.total_found as usize, there);
        for (id, result) in doc_ids.iter().zip(&read.results) {
            assert_eq!((result.doc_id, result.found), (*id, *id <= DOCUMENTS));
            assert_eq!(result.metadata.len(), usize::from(result.found));
        }
        nothing_is_held(&server).await;
    });
}

#[test]
fn one_document_asked_for_ten_thousand_times_is_held_once() {
    const BYTES: usize = 60_000;
    let directory = directory();
    let server = Process::start(directory.path(), SETTINGS);
    runtime().block_on(async {
        store_large(server.client().await, 1, BYTES).await;
        let frames = Frames::connect(server.grpc, 64 << 10).await;
        let before = resident(server.pid());
        let request = BulkQueryRequest { doc_ids: vec![1; 10_000], ..BulkQueryRequest::default() };
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(frames.ask("BulkQuery", &request).await.answered().await);
        }
        a_moment().await;
        let held = resident(server.pid()).saturating_sub(before);
        let all = 4 * 10_000 * BYTES as u64;
        assert!(held < all / 10, "{held} bytes more are held for {all}");
    });
}

#[test]
fn an_answer_whose_client_takes_nothing_is_ended() {
    let server = Inside::start(&[("server.connection_timeout_secs", "2")]);
    runtime().block_on(async {
        store_large(server.client().await, 10, 60_000).await;
        let frames = Frames::connect(server.server().grpc_address(), 0).await;
        let _open = frames.ask("Search", &search(&vector(1, 8), 10)).await.answered().await;
        let stalled = &in_flight(&server).answers_stalled;
        // It is ended though its connection is in use.
        eventually("the answer is given up", || async {
            let _ = frames.open(HEALTH, &[]).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            stalled.get() == 1
        })
        .await;
        nothing_is_held(&server).await;
    });
}

#[test]
fn a_connection_that_does_not_begin_is_closed_after_ten_seconds() {
    let server = Inside::start(&[]);
    runtime().block_on(async {
        let address = server.server().grpc_address();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        // One byte of the preface per second, all but the last: never silent for long, and nothing invalid.
        let begin = async {
            for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r" {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        // The server sends its HTTP/2 settings at once, and nothing more.
        let mut said = Vec::new();
        let until_closed = async {
            tokio::select! {
                _ = read.read_to_end(&mut said) => {}
                () = begin => {}
            }
        };
        let closed = tokio::time::timeout(super::common::PATIENCE, until_closed).await;
        assert!(closed.is_ok(), "it is still there");
    });
    let expired = &in_flight(&server).setups_expired;
    runtime().block_on(eventually("it is counted", || async { expired.get() == 1 }));
}

#[test]
fn connections_of_an_address_are_limited() {
    let server = Inside::start(&[("server.max_connections_per_address", "3")]);
    let address = server.server().grpc_address();
    runtime().block_on(async {
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(Frames::connect(address, WINDOW).await);
        }
        eventually("two are refused", || async { in_flight(&server).peers_refused.get() == 2 })
            .await;
        open.truncate(1);
        eventually("there are places again", || async {
            let frames = Frames::connect(address, WINDOW).await;
            a_moment().await;
            frames.is_open()
        })
        .await;
    });
}

/// Health and reflection are served without a key, so they accept no large messages.
#[test]
fn services_without_a_key_take_small_messages() {
    let server = Inside::start(&[]);
    runtime().block_on(async {
        let frames = Frames::connect(server.server().grpc_address(), WINDOW).await;
        for (path, bytes) in [
            (HEALTH, 5_000),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", 70_000),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", 70_000),
        ] {
            let mut request = frames.open(path, &[]).await;
            request.send(&InsertRequest { namespace: "n".repeat(bytes), ..Default::default() });
            request.end();
            let answer = request.all().await;
            // Reflection ends its stream without a status.
            let is_refused = answer.status.code() == Code::OutOfRange || path != HEALTH;
            assert!(is_refused && answer.messages == 0, "{path}: {:?}", answer.status);
        }
    });
}
