//! Clients that keep to the letter of HTTP/2: each is served or ended, and does not disturb others.

use std::time::Duration;

use kyrodb::proto::QueryRequest;
use prost::Message;
use tonic::Code;

use super::clients::{HEALTH, SETTINGS, WINDOW, faults, in_flight, nothing_is_held};
use super::common::{
    Inside, Process, directory, eventually, get, insert, metric, retry_delay, runtime, search,
    vector,
};
use super::frames::{Frames, a_moment};
use super::peer::{
    DATA, END_STREAM, Frame, HEADERS, PING, Peer, RESET, WINDOW_UPDATE, frame, open,
};
use super::raw::{framed, method};

/// As many requests as permitted, each cancelled at once: sent before the server reads any of it.
#[test]
fn requests_that_are_taken_back_at_once_leave_the_connection_alone() {
    const REQUESTS: u32 = 900;
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut peer = Peer::connect(server.server().grpc_address(), WINDOW).await;
        let mut bytes = Vec::new();
        for n in 0..REQUESTS {
            open(&mut bytes, 2 * n + 1, HEALTH);
            frame(&mut bytes, RESET, 0, 2 * n + 1, &8_u32.to_be_bytes());
        }
        peer.write(&bytes).await;
        peer.is_answered().await;
    });
    assert_eq!(faults(&server), 0);
}

/// A client whose host still answers, but which is gone, does not keep its place; one that is only quiet does.
#[test]
fn a_client_with_open_requests_that_does_not_answer_pings_is_gone() {
    let server = Inside::start(&[("server.connection_timeout_secs", "4")]);
    let address = server.server().grpc_address();
    let expired = &in_flight(&server).pings_expired;
    runtime().block_on(async {
        let quiet = Frames::connect(address, WINDOW).await;
        let quiet_load = quiet.open(&method("BulkInsert"), &[]).await;
        let mut gone = Peer::connect(address, WINDOW).await.deaf();
        let mut bytes = Vec::new();
        open(&mut bytes, 1, &method("BulkInsert"));
        gone.write(&bytes).await;
        gone.until("a ping", |frame: &Frame| frame.kind == PING).await;
        gone.ended().await;
        eventually("it is counted", || async { expired.get() == 1 }).await;
        // The other client is told that its stream was quiet for too long.
        let status = quiet_load.all().await.status;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        nothing_is_held(&server).await;
    });
    assert_eq!(expired.get(), 1);
    let metrics = get(server.server().http_address(), "/metrics").unwrap().1;
    let name = "kyrodb_connections_ended_total{reason=\"ping_timeout\"}";
    assert_eq!(metric(&metrics, name), Some(1.0));
}

/// A quiet BulkSearch ends with its deadline, and not at its next message.
#[test]
fn an_idle_stream_of_searches_ends_with_its_deadline() {
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        server.client().await.insert(insert(1, &vector(1, 8), &[])).await.unwrap();
        let frames = Frames::connect(server.server().grpc_address(), WINDOW).await;
        let mut stream = frames.open(&method("BulkSearch"), &[("grpc-timeout", "2S")]).await;
        stream.send(&search(&vector(1, 8), 1));
        let answer = stream.all().await;
        assert_eq!(answer.status.code(), Code::DeadlineExceeded, "{:?}", answer.status);
        assert_eq!(answer.messages, 1);
        assert!(frames.is_open());
    });
}

/// A client that pauses while the server ends receives its answer: h2 holds all of a small one by then, and no request
/// is in work any more.
#[test]
fn an_answer_that_is_not_taken_yet_is_sent_before_the_server_ends() {
    const BYTES: usize = 8_000;
    let directory = directory();
    let process = Process::start(directory.path(), SETTINGS);
    runtime().block_on(async {
        let document = insert(1, &vector(1, 8), &[("k", &"v".repeat(BYTES))]);
        process.client().await.insert(document).await.unwrap();
        let mut peer = Peer::connect(process.grpc, 0).await;
        let mut bytes = Vec::new();
        open(&mut bytes, 1, &method("Query"));
        let request = QueryRequest { doc_id: 1, ..QueryRequest::default() };
        frame(&mut bytes, DATA, END_STREAM, 1, &framed(&request.encode_to_vec()));
        peer.write(&bytes).await;
        peer.until("the headers", |frame: &Frame| frame.is(HEADERS, 1)).await;
        process.signal("TERM");
        // Longer than a connection without pending data may be quiet.
        tokio::time::sleep(Duration::from_secs(3)).await;
        peer.send(WINDOW_UPDATE, 0, 1, &WINDOW.to_be_bytes()).await;
        let mut bytes = 0;
        loop {
            let next = peer.until("the answer", |frame| frame.stream == 1).await;
            match next.kind {
                DATA => bytes += next.payload.len(),
                HEADERS if next.ends_stream() => break,
                _ => panic!("{next:?}"),
            }
        }
        assert!(bytes > BYTES, "{bytes}");
        peer.ended().await;
    });
    assert_eq!(process.wait(), Some(0));
}

/// A client that is still sending after an early answer sees its status, and then that the rest is not wanted; its
/// small frames, which no call reads, do not add up until its connection is ended.
#[test]
fn small_frames_behind_an_early_answer_leave_the_connection_alone() {
    const FRAME_BYTES: usize = 8;
    /// Windows of small frames: more than the number that h2 counts for good.
    const STREAMS: u32 = 6;
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut peer = Peer::connect(server.server().grpc_address(), WINDOW).await;
        // Nothing follows the last of them: its time ends it.
        for n in 0..=STREAMS {
            let stream = 2 * n + 1;
            let mut bytes = Vec::new();
            open(&mut bytes, stream, &method("Nothing"));
            let frames = if n < STREAMS { WINDOW as usize / FRAME_BYTES } else { 1 };
            for _ in 0..frames {
                frame(&mut bytes, DATA, 0, stream, &[0; FRAME_BYTES]);
            }
            peer.write(&bytes).await;
            let first = peer.until("an answer", |frame: &Frame| frame.stream == stream).await;
            assert!(first.is(HEADERS, stream) && first.ends_stream(), "{first:?}");
            let reset = peer.until("its end", |frame: &Frame| frame.is(RESET, stream)).await;
            assert_eq!(reset.payload, 0_u32.to_be_bytes(), "no error");
        }
        peer.is_answered().await;
        nothing_is_held(&server).await;
    });
    assert_eq!(faults(&server), 0);
}

/// A tenant has one share over all its connections, and other tenants' requests are not refused for it.
#[test]
fn the_requests_of_a_tenant_hold_no_more_than_its_share() {
    const PROCESS_MAX: u64 = 16 << 20;
    const TENANT_MAX: u64 = PROCESS_MAX / 4;
    const CONNECTIONS: usize = 2;
    const REQUESTS: usize = 5;
    const SENT: usize = 900_000;
    let key = |tenant: &str| format!("kyro_{tenant}_{}", "k".repeat(32));
    let entry = |tenant: &str| {
        let key = key(tenant);
        format!(
            "  - {{key: {key}, tenant_id: {tenant}, tenant_name: T, enabled: true, max_vectors: 9}}\n"
        )
    };
    let directory = directory();
    let keys = directory.path().join("keys.yaml");
    std::fs::write(&keys, format!("api_keys:\n{}{}", entry("acme"), entry("beta"))).unwrap();
    let keys = keys.to_str().unwrap().to_owned();
    let settings = [SETTINGS, &[("auth.enabled", "true"), ("auth.api_keys_file", &keys)]].concat();
    let server = Inside::start_in(directory, &settings);
    let requests = &in_flight(&server).requests;
    requests.set_max(PROCESS_MAX);
    runtime().block_on(async {
        let address = server.server().grpc_address();
        let half = async |frames: &Frames, tenant: &str| {
            let mut request = frames.open(&method("Insert"), &[("x-api-key", &key(tenant))]).await;
            // The beginning of a message of a million bytes.
            let mut bytes = vec![0, 0, 15, 66, 64];
            bytes.resize(SENT, 0);
            request.body.send_data(bytes.into(), false).unwrap();
            request
        };
        let (mut connections, mut open) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let frames = Frames::connect(address, WINDOW).await;
            for _ in 0..REQUESTS {
                open.push(half(&frames, "acme").await);
            }
            connections.push(frames);
        }
        let refused = &in_flight(&server).requests_refused;
        let least = (CONNECTIONS * REQUESTS) as u64 - TENANT_MAX / SENT as u64;
        eventually("those beyond its share are refused", || async { refused.get() >= least }).await;
        assert!(requests.held() <= TENANT_MAX + (1 << 20), "{}", requests.held());
        let before = refused.get();
        let other = Frames::connect(address, WINDOW).await;
        let of_other = half(&other, "beta").await;
        eventually("it is held", || async { requests.held() > TENANT_MAX / 2 + SENT as u64 }).await;
        a_moment().await;
        assert_eq!(refused.get(), before, "another tenant has its own share");
        drop((connections, other, of_other));
        let mut refusals = 0;
        for request in open {
            let status = request.all().await.status;
            if status.code() == Code::ResourceExhausted {
                assert!(status.message().contains("of this tenant"), "{status:?}");
                assert!(!retry_delay(&status).is_zero());
                refusals += 1;
            }
        }
        assert_eq!(refusals, before);
        nothing_is_held(&server).await;
    });
}

/// Bytes held by requests count as used memory before the kernel is asked again.
#[test]
fn bytes_in_flight_count_as_used_memory() {
    let server = Inside::start(&[]);
    runtime().block_on(async {
        let observed = server.server().observed();
        let before = observed.memory.used();
        // More than the kernel will ever count: no memory is touched for it.
        const BYTES: u64 = 1 << 40;
        observed.in_flight.requests.add(BYTES);
        assert!(observed.memory.used() >= before.saturating_sub(1 << 30) + BYTES);
        observed.in_flight.requests.sub(BYTES);
    });
}
