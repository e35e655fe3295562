//! How a client names a request, so that it is found again: `x-request-id`, and the trace that it is a
//! part of (`traceparent` of W3C Trace Context).
//!
//! A request that names itself so carries it along; of one that does not nothing is kept, and it is
//! given a number only where there is something to tell of it.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::types::mix;

/// The header of a request id, in requests and in answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

const TRACEPARENT: &str = "traceparent";

/// `00-` trace id `-` parent id `-` flags.
const TRACEPARENT_BYTES: usize = 55;

/// The bit of the flags that says that the client records the trace.
const SAMPLED: u8 = 1;

/// The id of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id that a client has given, if it is one that can stand in a log as it is.
    #[must_use]
    pub fn read(value: &HeaderValue) -> Option<Self> {
        let bytes = value.as_bytes();
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
        let is_good = (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len());
        (is_good && bytes.iter().all(is_plain)).then(|| Self(value.clone()))
    }

    /// One that no other request of this process has, and hardly one of another.
    #[must_use]
    pub fn fresh() -> Self {
        static FIRST: OnceLock<u64> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let first = *FIRST.get_or_init(|| RandomState::new().build_hasher().finish());
        let number = mix(first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)));
        let value = HeaderValue::try_from(format!("{number:016x}"));
        Self(value.unwrap_or_else(|_| HeaderValue::from_static("0000000000000000")))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // What was read, or made, is ASCII.
        self.0.to_str().unwrap_or_default()
    }

    /// As a header has it.
    #[must_use]
    pub fn value(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// The trace that a request is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The client's part of it, which this request belongs to.
    pub parent_id: [u8; 8],
    /// The client records it.
    pub is_sampled: bool,
}

impl TraceParent {
    /// What a client has sent, if it is right to the letter.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (text, rest) = (text.get(..TRACEPARENT_BYTES)?, &text[TRACEPARENT_BYTES..]);
        let mut parts = text.split('-');
        let [version] = hex(parts.next()?)?;
        // Versions to come may have more behind it. This one has not, and there is no 255.
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

    /// The trace's id, as 32 digits.
    #[must_use]
    pub fn trace_id(&self) -> impl fmt::Display + fmt::Debug {
        Hex(self.trace_id)
    }
}

/// Bytes from lower-case digits, exactly so many.
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

/// How a client names a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its id; `None` if the client does not care.
    pub request_id: Option<RequestId>,
    /// The trace that it is a part of.
    pub parent: Option<TraceParent>,
}

impl Origin {
    /// What the headers of a request say. An id that can't be taken is replaced by a fresh one, which
    /// the answer has, so that the client knows; a `traceparent` that is wrong, or there twice, counts
    /// for nothing.
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

    /// The client does not name it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request_id.is_none() && self.parent.is_none()
    }

    /// The request's id, which it has from now on.
    pub fn named(&mut self) -> &RequestId {
        self.request_id.get_or_insert_with(RequestId::fresh)
    }

    /// The request's id, for a line of the log.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref().map(RequestId::as_str)
    }

    /// The trace's id, for a line of the log.
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
    fn what_headers_say_is_believed_where_it_is_clear() {
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
