//! End of a search's record, when its response is handed to the connection; and the record for the client, if it asks
//! with `kyrodb-timing: 1`: trailing metadata in the syntax of Server-Timing.
//!
//! A unary handler returns before its answer is encoded: the connection makes the body do that. So the record goes with
//! the response as an extension, and ends in the body.

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::HeaderValue;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

use super::ended::{About, end};
use crate::observe::Observed;
use crate::observe::trace::{Stage, Trace};

/// Metadata key of requests that ask for the stages, and of responses that contain them.
const KEY: &str = "kyrodb-timing";

/// True if the client asks for the stages.
pub(super) fn is_asked(metadata: &MetadataMap) -> bool {
    metadata.get(KEY).is_some_and(|value| value == "1")
}

/// The record of a search whose response is yet to be encoded.
#[derive(Clone)]
pub(super) struct Unfinished {
    pub(super) trace: Trace,
    pub(super) observed: Arc<Observed>,
    pub(super) about: About,
    /// The client asks for the record.
    pub(super) is_asked: bool,
}

impl Unfinished {
    /// Ends the record with an error, which is encoded with the headers.
    pub(super) fn fail(mut self, status: &mut Status) {
        self.trace.mark(Stage::Encode, Instant::now());
        if self.is_asked
            && let Ok(value) = text(&self.trace).parse()
        {
            status.metadata_mut().insert(KEY, value);
        }
        end(&self.observed, &self.trace, &self.about);
    }
}

/// Makes the body of a search's response end its record.
pub(super) fn watched(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Unfinished>() {
        None => response,
        Some(record) => response.map(|body| Body::new(Watched { body, record, is_sent: false })),
    }
}

/// A body that notes when all its data was taken.
struct Watched {
    body: Body,
    record: Unfinished,
    is_sent: bool,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled {
            if frame.is_data() {
                self.record.trace.mark(Stage::Encode, Instant::now());
                self.is_sent = true;
            } else if self.record.is_asked
                && let Some(trailers) = frame.trailers_mut()
                && let Ok(value) = HeaderValue::try_from(text(&self.record.trace))
            {
                trailers.insert(KEY, value);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // An answer that was never sent has no latency.
        if self.is_sent {
            let Unfinished { observed, trace, about, .. } = &self.record;
            end(observed, trace, about);
        }
    }
}

/// `total;dur=1.5, admission;dur=0.01, …`: milliseconds, every stage in order.
fn text(trace: &Trace) -> String {
    let mut text = format!("total;dur={:.4}", trace.total().as_secs_f64() * 1e3);
    for stage in Stage::ALL {
        let ms = trace.spent(stage).as_secs_f64() * 1e3;
        let written = write!(text, ", {};dur={ms:.4}", stage.word());
        debug_assert!(written.is_ok(), "writing to a string can't fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_record_is_written_as_server_timing_has_it() {
        let arrived = Instant::now();
        let mut trace = Trace::new(arrived, true);
        trace.mark(Stage::Admission, arrived + Duration::from_micros(12));
        trace.mark(Stage::Encode, arrived + Duration::from_micros(1_512));
        let text = text(&trace);
        assert!(text.starts_with("total;dur=1.5120, admission;dur=0.0120, cache;dur=0.0000, "));
        assert!(text.ends_with(", merge;dur=0.0000, encode;dur=1.5000"), "{text}");
        assert_eq!(text.split(", ").count(), Stage::COUNT + 1);
        assert!(HeaderValue::try_from(&text).is_ok());
    }

    #[test]
    fn a_body_that_is_dropped_unsent_leaves_no_record() {
        let observed = Arc::new(Observed::default());
        let mut trace = observed.begin(Instant::now());
        trace.mark(Stage::Encode, Instant::now() + Duration::from_millis(1));
        let record = Unfinished {
            trace,
            observed: observed.clone(),
            about: About::default(),
            is_asked: false,
        };
        drop(Watched { body: Body::empty(), record: record.clone(), is_sent: false });
        assert!(observed.slow.slowest(Instant::now()).is_empty());
        drop(Watched { body: Body::empty(), record, is_sent: true });
        assert_eq!(observed.slow.slowest(Instant::now()).len(), 1);
    }

    #[test]
    fn an_error_carries_the_record_if_it_is_asked_for() {
        let observed = Arc::new(Observed::default());
        for is_asked in [false, true] {
            let trace = observed.begin(Instant::now());
            let mut status = Status::deadline_exceeded("late");
            let about = About::default();
            Unfinished { trace, observed: observed.clone(), about, is_asked }.fail(&mut status);
            assert_eq!(status.metadata().contains_key(KEY), is_asked);
        }
        assert_eq!(observed.slow.slowest(Instant::now()).len(), 2);
    }
}
