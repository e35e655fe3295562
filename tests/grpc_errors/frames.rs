//! A client that controls every frame: content, time, and flow-control windows.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use prost::Message;
use tonic::Status;

use super::common::PATIENCE;
use super::raw::{framed, method};

/// A connection.
pub(super) struct Frames {
    send: SendRequest<Bytes>,
    address: SocketAddr,
    connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A request whose body is being sent.
pub(super) struct Open {
    pub(super) body: SendStream<Bytes>,
    answer: ResponseFuture,
}

impl Frames {
    /// Connects; it takes `window` bytes of each answer unless it opens the window further.
    pub(super) async fn connect(address: SocketAddr, window: u32) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut builder = Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 30);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        Self { send, address, connection: tokio::spawn(connection) }
    }

    /// Sends the headers of a request.
    pub(super) async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Open {
        let mut request = http::Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone().ready().await.unwrap();
        let (answer, body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        Open { body, answer }
    }

    /// Sends a request of one message.
    pub(super) async fn ask(&self, name: &str, message: &impl Message) -> Open {
        let mut open = self.open(&method(name), &[]).await;
        open.send(message);
        open.end();
        open
    }

    /// True if the server ends the connection within the patience of these tests.
    pub(super) async fn ended(self) -> bool {
        drop(self.send);
        tokio::time::timeout(PATIENCE, self.connection).await.is_ok()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.connection.is_finished()
    }
}

impl Open {
    /// Sends a message as a frame of its own.
    pub(super) fn send(&mut self, message: &impl Message) {
        self.body.send_data(framed(&message.encode_to_vec()).into(), false).unwrap();
    }

    pub(super) fn end(&mut self) {
        self.body.send_data(Bytes::new(), true).unwrap();
    }

    /// The headers of the answer, and its body.
    pub(super) async fn answered(self) -> (Option<Status>, RecvStream, SendStream<Bytes>) {
        let answer = tokio::time::timeout(PATIENCE, self.answer).await;
        let (head, body) = answer.expect("an answer comes").unwrap().into_parts();
        (Status::from_header_map(&head.headers), body, self.body)
    }

    /// Reads the whole answer: the status, and the numbers of messages and bytes.
    pub(super) async fn all(self) -> Answer {
        let (status, body, _open) = self.answered().await;
        match status {
            Some(status) => Answer { status, messages: 0, bytes: 0, last: Vec::new() },
            None => take(body).await,
        }
    }
}

/// Result of reading an answer.
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// The last message.
    pub(super) last: Vec<u8>,
}

/// Reads an answer as it comes, and keeps only the last message.
pub(super) async fn take(mut body: RecvStream) -> Answer {
    let mut answer =
        Answer { status: Status::unknown(""), messages: 0, bytes: 0, last: Vec::new() };
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(data) = tokio::time::timeout(PATIENCE, body.data()).await.expect("bytes come") {
        let data = match data {
            Ok(data) => data,
            Err(error) => {
                answer.status = Status::from(error);
                return answer;
            }
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        answer.bytes += data.len() as u64;
        buffer.extend_from_slice(&data);
        while let Some(head) = buffer.first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if buffer.len() < 5 + length {
                buffer.reserve(5 + length - buffer.len());
                break;
            }
            answer.messages += 1;
            answer.last = buffer[5..5 + length].to_vec();
            buffer.drain(..5 + length);
        }
    }
    let trailers = poll_fn(|context| body.poll_trailers(context)).await.unwrap();
    let trailers = trailers.expect("an answer ends with trailers");
    answer.status = Status::from_header_map(&trailers).unwrap();
    answer
}

/// Resident memory of a process, in bytes.
pub(super) fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A short wait, for an event that must not happen.
pub(super) async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
