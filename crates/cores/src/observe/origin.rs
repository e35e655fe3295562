//! Identification of a request by its client: `x-request-id`, and the trace that it is a part of (`traceparent` of W3C
//! Trace Context).
//!
//! A request with these headers carries them along. For one without, nothing is stored; it gets an id only when a line
//! of the log needs one.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::types::mix;

/// Header of the request id, in requests and in answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id accepted from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

const TRACEPARENT: &str = "traceparent";

/// `00-` trace id `-` parent id `-` flags.
const TRACEPARENT_BYTES: usize = 55;

/// Flag bit by which the client says that it records the trace.
const SAMPLED: u8 = 1;

/// The id of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id sent by a client, if it can be logged as it is.
    #[must_use]
    pub fn read(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
        let is_good = (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len());
        (is_good && bytes.iter().all(is_plain)).then(|| Self(value.clone()))
    }

    /// An id that is unique in this process, and almost certainly among others.
    #[must_use]
    pub fn fresh() -> Self {
        static FIRST: OnceLock<u64> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let first = *FIRST.get_or_init(|| RandomState::new().build_hasher().finish());
        let number = mix(first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)));
        let value = HeaderValue::try_from(format!("{number:016x}"));
        Self(value.unwrap_or_else(|_| HeaderValue::from_static("0000000000000000")))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Both sources of ids yield ASCII.
        self.0.to_str().unwrap_or_default()
    }

    /// The id as a header value.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// Parent of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Id of the trace.
    pub trace_id: [u8; 16],
    /// Span of the client that this request belongs to.
    pub parent_id: [u8; 8],
    /// The client records the trace.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Parses a header; `None` unless it is exactly valid.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (text, rest) = (text.get(..TRACEPARENT_BYTES)?, &text[TRACEPARENT_BYTES..]);
        let mut parts = text.split('-');
        let [version] = hex(parts.next()?)?;
        // Later versions may have more fields. Version 0 has none, and version 255 does not exist.
        let is_known = match version {
            0 => rest.is_empty(),
            255 => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let (trace_id, parent_id) = (hex(parts.next()?)?, hex(parts.next()?)?);
        let [flags] = hex(parts.next()?)?;
        let is_named = trace_id != [0; 16] && parent_id != [0; 8];
        let is_sampled = flags & SAMPLED != 0;
        let is_good = is_known && is_named && parts.next().is_none();
        is_good.then_some(Self { trace_id, parent_id, is_sampled })
    }

    /// Id of the trace, as 32 hex digits.
    #[must_use]
    pub fn trace_id(&self) -> impl fmt::Display + fmt::Debug {
        Hex(self.trace_id)
    }
}

/// `BYTES` bytes from twice as many lower-case hex digits.
fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(bytes)
}

#[derive(Debug)]
struct Hex([u8; 16]);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Identification of a request by its client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Request id; `None` if the client sent none.
    pub request_id: Option<RequestId>,
    /// Parent in the client's trace.
    pub parent: Option<TraceParent>,
}

impl Origin {
    /// Reads the headers of a request. An unacceptable id is replaced by a fresh one, which the answer contains, so
    /// that the client knows it; a `traceparent` that is invalid or occurs twice is ignored.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID);
        let request_id = given.map(|id| RequestId::read(id).unwrap_or_else(RequestId::fresh));
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(parent), None) => parent.to_str().ok().and_then(TraceParent::read),
            _ => None,
        };
        Self { request_id, parent }
    }

    /// True if the client sent neither.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request_id.is_none() && self.parent.is_none()
    }

    /// Request id; a fresh one is assigned if there is none.
    pub fn named(&mut self) -> &RequestId {
        self.request_id.get_or_insert_with(RequestId::fresh)
    }

    /// Request id for a log line.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref().map(RequestId::as_str)
    }

    /// Trace id for a log line.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        self.parent.map(|parent| parent.trace_id().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn id(text: &str) -> Option<String> {
        let id = RequestId::read(&HeaderValue::from_bytes(text.as_bytes()).unwrap());
        id.map(|id| id.as_str().to_owned())
    }

    #[test]
    fn ids_of_clients_are_short_and_plain() {
        for good in ["a", "9f1c-11ee:web/7+x=@_.", &"x".repeat(128)] {
            assert_eq!(id(good).as_deref(), Some(good));
        }
        for bad in ["", "a b", "a\"b", "a,b", "ä", "a\\b", "a=1;b", &"x".repeat(129)] {
            assert_eq!(id(bad), None, "{bad}");
        }
        let (first, second) = (RequestId::fresh(), RequestId::fresh());
        assert_ne!(first, second);
        assert!(first.as_str().len() == 16 && RequestId::read(&first.value()).is_some());
    }

    #[test]
    fn a_traceparent_is_right_to_the_letter_or_nothing() {
        let read = TraceParent::read(&format!("00-{TRACE}-00f067aa0ba902b7-01")).unwrap();
        assert!(read.is_sampled);
        assert_eq!(read.trace_id().to_string(), TRACE);
        assert_eq!(u64::from_be_bytes(read.parent_id), 0x00f0_67aa_0ba9_02b7);
        let unsampled = TraceParent::read(&format!("00-{TRACE}-00f067aa0ba902b7-02")).unwrap();
        assert!(!unsampled.is_sampled);
        let later = format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes");
        assert!(TraceParent::read(&later).is_some());
        let zeros = "0".repeat(32);
        for bad in [
            "",
            "00",
            TRACE,
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-00f067aa0ba902b7-01-what-comes"),
            &format!("cc-{TRACE}-00f067aa0ba902b7-01.what"),
            &format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            &format!("00-{zeros}-00f067aa0ba902b7-01"),
            &format!("00-{TRACE}-0000000000000000-01"),
            &format!("00-{TRACE}-00f067aa0ba902b7-0"),
            &format!("00-{TRACE}-00f067aa0ba902b7-0g"),
            &format!("00_{TRACE}_00f067aa0ba902b7_01"),
            &format!("0-{TRACE}0-00f067aa0ba902b7-01"),
            &format!(" 00-{TRACE}-00f067aa0ba902b7-01"),
            &"é".repeat(60),
        ] {
            assert_eq!(TraceParent::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn unambiguous_headers_identify_a_request() {
        let mut headers = HeaderMap::new();
        assert!(Origin::read(&headers).is_empty());
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        headers.insert(TRACEPARENT, parent.parse().unwrap());
        headers.insert(REQUEST_ID, "no good".parse().unwrap());
        let origin = Origin::read(&headers);
        assert_eq!(origin.trace_id().as_deref(), Some(TRACE));
        assert_eq!(origin.request_id().unwrap().len(), 16);
        headers.append(TRACEPARENT, parent.parse().unwrap());
        assert_eq!(Origin::read(&headers).parent, None);
    }
}
