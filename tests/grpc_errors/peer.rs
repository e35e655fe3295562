//! A client that writes HTTP/2 byte by byte: it can do what no library would, and omits what each does by itself.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::common::PATIENCE;

/// Kinds of frames, and the flags that the tests use.
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// A received frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn is(&self, kind: u8, stream: u32) -> bool {
        (self.kind, self.stream) == (kind, stream)
    }

    pub(super) fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

/// A connection.
pub(super) struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
    /// It answers pings.
    answers: bool,
}

/// Appends a frame.
pub(super) fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// Appends the headers of a request.
pub(super) fn open(bytes: &mut Vec<u8>, stream: u32, path: &str) {
    // POST, http, and the headers that are not in the static table, as literals.
    let mut headers = vec![0x83, 0x86, 0x04, path.len() as u8];
    headers.extend_from_slice(path.as_bytes());
    headers.extend_from_slice(&[0x01, 1, b'h']);
    let content_type = b"application/grpc";
    headers.extend_from_slice(&[0x0f, 0x10, content_type.len() as u8]);
    headers.extend_from_slice(content_type);
    frame(bytes, HEADERS, END_HEADERS, stream, &headers);
}

impl Peer {
    /// Connects, and accepts the server's windows; it takes `window` bytes of each answer unless it opens the window
    /// further.
    pub(super) async fn connect(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut peer = Self { stream, received: Vec::new(), answers: true };
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let window_size = [&4_u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
        frame(&mut bytes, SETTINGS, 0, 0, &window_size);
        peer.write(&bytes).await;
        let is_settings = |frame: &Frame| frame.kind == SETTINGS && frame.flags & ACK == 0;
        peer.until("its settings", is_settings).await;
        peer.send(SETTINGS, ACK, 0, &[]).await;
        peer
    }

    /// Stops answering pings.
    pub(super) fn deaf(mut self) -> Self {
        self.answers = false;
        self
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        frame(&mut bytes, kind, flags, stream, payload);
        self.write(&bytes).await;
    }

    /// The next frame; `None` once the server has closed the connection.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                if frame.kind == PING && frame.flags & ACK == 0 && self.answers {
                    self.send(PING, ACK, 0, &frame.payload).await;
                }
                return Some(frame);
            }
            let read = self.stream.read_buf(&mut self.received);
            let read = tokio::time::timeout(PATIENCE, read).await.expect("something comes");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let head: [u8; 9] = *self.received.first_chunk()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.received.get(9..9 + length)?.to_vec();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        self.received.drain(..9 + length);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until such a frame comes.
    pub(super) async fn until(&mut self, what: &str, is_it: impl Fn(&Frame) -> bool) -> Frame {
        let mut last = None;
        loop {
            let Some(frame) = self.next().await else {
                panic!("the connection was closed before {what}; last: {last:?}")
            };
            if is_it(&frame) {
                return frame;
            }
            last = Some(frame);
        }
    }

    /// Asserts that the server answers a ping: the connection is alive.
    pub(super) async fn is_answered(&mut self) {
        self.send(PING, 0, 0, b"are you?").await;
        let is_pong = |frame: &Frame| frame.kind == PING && frame.payload == b"are you?";
        self.until("the pong", is_pong).await;
    }

    /// Reads until the server has closed the connection.
    pub(super) async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }
}
