//! Clients that keep to HTTP/2, and to nothing else: each is served or ended, and takes nothing from others.

use std::time::Duration;

use kyrodb::proto::QueryRequest;
use prost::Message;
use tonic::Code;

use super::clients::{HEALTH, SETTINGS, WINDOW, faults, in_flight, nothing_is_held};
use super::common::{
    Inside, Process, directory, eventually, get, insert, metric, runtime, search, vector,
};
use super::frames::Frames;
use super::peer::{
    DATA, END_STREAM, Frame, HEADERS, PING, Peer, RESET, WINDOW_UPDATE, frame, open,
};
use super::raw::{framed, method};

/// As many requests as there may be, each taken back at once: what the client sends before the server looks.
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

/// A client whose host still answers for it, but which is gone, keeps no place; one that is only quiet does.
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
        // The other one is told that its stream was quiet for too long.
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

/// A client that pauses while the server ends gets the answer that it was given: a small one is all in the hands
/// of h2 by then, and no request is in work any more.
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
        // Longer than a connection may be quiet that has nothing to send.
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

/// A client that is ahead of an early answer sees its status, and then that the rest is not wanted; and its
/// small frames, which nobody reads, do not add up until its connection is ended.
#[test]
fn small_frames_behind_an_early_answer_leave_the_connection_alone() {
    const FRAME_BYTES: usize = 8;
    /// Windows of small frames: more than h2 lets pass that it counts for good.
    const STREAMS: u32 = 6;
    let server = Inside::start(SETTINGS);
    runtime().block_on(async {
        let mut peer = Peer::connect(server.server().grpc_address(), WINDOW).await;
        // After the last of them comes nothing: that one is ended by the time.
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
