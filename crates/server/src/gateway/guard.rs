//! Checks of a call before and while its body is read: it has to be gRPC, from a program and not from a web page, with
//! messages no larger than the method needs, and one message if the method is unary.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONTENT_TYPE, HeaderMap, ORIGIN};
use http::{Response, StatusCode};
use hyper::body::{Bytes, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::method::{Kind, Method};
use crate::observe::Observed;
use crate::observe::counters::ErrorCategory;
use crate::proto::codec::{UNREAD, refused};

/// Bytes before each message: a flag and its length.
const HEADER_BYTES: usize = 5;

/// Header that browsers send with every request, and no other client sends.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// The refusal of a call that is not gRPC, or that a browser makes on behalf of a web page: it would use the
/// certificate of its user, who did not ask for the call.
pub(super) fn refusal(headers: &HeaderMap) -> Option<Response<Body>> {
    let (status, why) = if !is_grpc(headers) {
        let why = "this port speaks gRPC: the content type has to be application/grpc or \
                   application/grpc+proto\n";
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
    } else if headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE) {
        let why = "this port is for programs: calls with Origin or Sec-Fetch-Site, which browsers \
                   make for pages, are refused; a proxy that translates gRPC-Web has to take these \
                   headers off\n";
        (StatusCode::FORBIDDEN, why)
    } else {
        return None;
    };
    let mut response = Response::new(Body::new(why.to_owned()));
    *response.status_mut() = status;
    Some(response)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let Ok(text) = only.to_str() else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

/// Counts a call whose message was refused, so that no handler made its answer.
pub(super) fn settle(observed: &Observed, method: Option<&Method>, headers: &mut HeaderMap) {
    if headers.remove(UNREAD).is_some() {
        observed.gateway.errors(ErrorCategory::Validation).add(1);
        if let Some(method) = method {
            note_refused(observed, method.kind);
        }
    }
}

/// Counts a call that has failed before its handler.
pub(super) fn note_refused(observed: &Observed, kind: Kind) {
    let counters = &observed.gateway;
    match kind {
        Kind::Insert => counters.inserts_failed.add(1),
        Kind::Read => {
            counters.queries.add(1);
            counters.queries_failed.add(1);
        }
        Kind::Change | Kind::Load | Kind::Stream | Kind::Server => {}
    }
}

/// The body of a request, checked while it is read.
pub struct Guard<B> {
    inner: B,
    /// `None` for services with bounds of their own.
    method: Option<&'static Method>,
    /// Beyond this size tonic refuses a message, with another code.
    message_bytes_max: usize,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Remaining bytes of the message that is being read.
    message_left: usize,
    messages: u64,
}

impl<B> Guard<B> {
    pub(super) fn new(inner: B, method: Option<&'static Method>, message_bytes_max: usize) -> Self {
        let header = [0; HEADER_BYTES];
        Self {
            inner,
            method,
            message_bytes_max,
            header,
            header_bytes: 0,
            message_left: 0,
            messages: 0,
        }
    }

    /// Checks the next bytes: where messages begin, and the lengths they announce.
    fn look(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        let Some(method) = self.method else { return Ok(()) };
        while !bytes.is_empty() {
            if self.message_left > 0 {
                let skipped = self.message_left.min(bytes.len());
                self.message_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            if self.messages > 0 && method.is_unary() {
                let why = format!("{} takes one message, and there are more", method.name);
                return Err(refused("request", why));
            }
            let taken = (HEADER_BYTES - self.header_bytes).min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            self.header[self.header_bytes..][..taken].copy_from_slice(head);
            self.header_bytes += taken;
            bytes = rest;
            if self.header_bytes == HEADER_BYTES {
                let [_, length @ ..] = self.header;
                self.begin(u32::from_be_bytes(length) as usize, method)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, length: usize, method: &Method) -> Result<(), Status> {
        let max = method.message_bytes_max as usize;
        if length > max && length <= self.message_bytes_max {
            let why = format!("has {length} bytes; one of {} has at most {max}", method.name);
            return Err(refused("request", why));
        }
        (self.header_bytes, self.message_left) = (0, length);
        self.messages += 1;
        Ok(())
    }
}

impl<B> hyper::body::Body for Guard<B>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) else {
            return Poll::Pending;
        };
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(Into::into)?;
            if let Some(data) = frame.data_ref() {
                this.look(data)?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    fn guard(path: &str) -> Guard<()> {
        let method = Method::of(&format!("/{}/{path}", crate::gateway::SERVICE)).unwrap();
        Guard::new((), Some(method), 16 << 20)
    }

    /// Result for bytes that come in pieces of this size.
    fn look(path: &str, bytes: &[u8], piece: usize) -> Result<(), String> {
        let mut guard = guard(path);
        let looked = bytes.chunks(piece).try_for_each(|piece| guard.look(piece));
        looked.map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_unary_call_has_one_message_however_it_comes() {
        let one = framed(b"abc");
        let two = [one.clone(), one.clone()].concat();
        let empty = framed(b"");
        for piece in [1, 2, 4, 5, 6, 7, 100] {
            for good in [&one, &empty] {
                assert_eq!(look("Insert", good, piece), Ok(()));
            }
            for bad in
                [&two, &[one.clone(), vec![0]].concat(), &[empty.clone(), one.clone()].concat()]
            {
                let why = look("Insert", bad, piece).unwrap_err();
                assert!(why.contains("Insert takes one message"), "{why}");
                assert_eq!(look("BulkInsert", bad, piece), Ok(()));
            }
        }
    }

    #[test]
    fn a_message_is_refused_by_its_length_before_it_comes() {
        for (path, max) in [("Search", 2 << 20), ("Insert", 1 << 20), ("Query", 64 << 10)] {
            let head = |length: u32| [&[0], &length.to_be_bytes()[..]].concat();
            assert_eq!(look(path, &head(max), 1), Ok(()));
            let why = look(path, &head(max + 1), 3).unwrap_err();
            assert!(why.starts_with("request: has") && why.contains(&max.to_string()), "{why}");
            // tonic refuses that with OUT_OF_RANGE, unchanged.
            assert_eq!(look(path, &head((16 << 20) + 1), 1), Ok(()));
        }
        // A document of a stream that is too large counts as failed, and the stream continues.
        for path in ["BulkInsert", "BulkLoadHnsw"] {
            assert_eq!(look(path, &[&[0][..], &(16_u32 << 20).to_be_bytes()].concat(), 1), Ok(()));
        }
    }

    #[test]
    fn only_grpc_of_programs_passes() {
        let status = |headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            refusal(&map).map(|response| response.status().as_u16())
        };
        for good in
            ["application/grpc", "application/grpc+proto", "Application/gRPC ; charset=utf-8"]
        {
            assert_eq!(status(&[("content-type", good)]), None, "{good}");
            let page = [("content-type", good), ("origin", "https://other.example")];
            assert_eq!(status(&page), Some(403));
            assert_eq!(status(&[("content-type", good), ("sec-fetch-site", "none")]), Some(403));
        }
        for bad in
            ["text/plain", "application/grpc-web", "application/grpc+json", "application/grpcx"]
        {
            assert_eq!(status(&[("content-type", bad)]), Some(415), "{bad}");
        }
        assert_eq!(status(&[]), Some(415));
        let two = [("content-type", "text/plain"), ("content-type", "application/grpc")];
        assert_eq!(status(&two), Some(415));
    }
}
