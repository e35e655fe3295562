//! Calls without a gRPC client: any bytes, any headers, and no deadline of its own.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;

use axum::body::Body;
use hyper::body::Body as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::Status;

/// The path of a method of the service.
pub(super) fn method(name: &str) -> String {
    format!("/kyrodb.v1.KyroDBService/{name}")
}

/// A message with its gRPC prefix, uncompressed.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// Sends a request as gRPC; returns the server's status, and the bytes before it.
pub(super) async fn call(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (Status, Vec<u8>) {
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let headers = [&grpc, headers].concat();
    let (_, status, bytes) = send(address, path, &headers, Body::from(body)).await;
    (status.expect("every answer ends with a status"), bytes)
}

/// Sends a request with these headers; returns the HTTP status, the gRPC status, and the bytes before it.
pub(super) async fn send(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> (http::StatusCode, Option<Status>, Vec<u8>) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(body).unwrap()).await.unwrap();
    let (head, mut body) = response.into_parts();
    let mut status = Status::from_header_map(&head.headers);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => status = Status::from_header_map(frame.trailers_ref().unwrap()),
        }
    }
    drop(sender);
    // A request whose body was still being sent may end by a reset.
    connection.await.unwrap().ok();
    (head.status, status, bytes)
}
