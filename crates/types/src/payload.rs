//! A document's metadata as one immutable byte string: its form in memory, in the log, and in a search result on its
//! way to the gateway, which alone turns it into a map.
//!
//! ```text
//! count u16 | then, sorted by key, for each pair:
//! key_bytes u32 | value_bytes u32 | key (UTF-8) | value (UTF-8)      little-endian
//! ```
//!
//! The namespace is the pair `__namespace__`, present only if it is not empty; the tenant, if there is one, is two
//! more pairs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::realm::Realm;

/// Key under which the namespace is stored.
pub const NAMESPACE_KEY: &str = "__namespace__";

/// Keys under which the name and the number of the tenant are stored.
pub const TENANT_KEY: &str = "__tenant_id__";
/// See [`TENANT_KEY`].
pub const TENANT_INDEX_KEY: &str = "__tenant_idx__";

/// Keys that clients can neither set nor see; the server writes its own.
pub const RESERVED_KEYS: [&str; 3] = [TENANT_KEY, TENANT_INDEX_KEY, NAMESPACE_KEY];

/// Most bytes of keys and values of one document.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Most pairs of one document.
pub const PAYLOAD_KEYS_MAX: usize = 256;

/// Most bytes of a namespace.
pub const NAMESPACE_BYTES_MAX: usize = 256;

const PAIR_HEADER_BYTES: usize = 8;

/// Why a set of pairs can't be a document's metadata.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// More than [`PAYLOAD_KEYS_MAX`].
    #[error("{0} metadata keys; at most {PAYLOAD_KEYS_MAX} are allowed")]
    Keys(usize),
    /// More than [`PAYLOAD_BYTES_MAX`].
    #[error("{0} bytes of metadata keys and values; at most {PAYLOAD_BYTES_MAX} are allowed")]
    Bytes(usize),
    /// More than [`NAMESPACE_BYTES_MAX`].
    #[error("a namespace of {0} bytes; at most {NAMESPACE_BYTES_MAX} are allowed")]
    Namespace(usize),
    /// Bytes that no [`Payload`] encodes to.
    #[error("malformed metadata: {0}")]
    Malformed(&'static str),
}

/// Immutable metadata of one document. Cloning counts a reference.
///
/// The bytes are a range of a block of memory: a block of its own, or, after a restart, one shared with other
/// documents.
#[derive(Clone)]
pub struct Payload {
    block: Arc<[u8]>,
    start: u32,
    end: u32,
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Payload {}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.pairs()).finish()
    }
}

impl Payload {
    /// Encodes `pairs`, without the reserved ones among them, and `namespace`.
    ///
    /// # Errors
    /// If a limit is passed.
    pub fn new<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        namespace: &str,
    ) -> Result<Self, PayloadError> {
        Self::within(pairs, &namespace.into())
    }

    /// Encodes `pairs`, without the reserved ones among them, and the reserved pairs of `realm`.
    ///
    /// # Errors
    /// If a limit is passed.
    pub fn within<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        realm: &Realm,
    ) -> Result<Self, PayloadError> {
        if realm.namespace.len() > NAMESPACE_BYTES_MAX {
            return Err(PayloadError::Namespace(realm.namespace.len()));
        }
        Self::with_reserved(pairs, realm.pairs())
    }

    fn with_reserved<'a, 'b>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        reserved: impl Iterator<Item = (&'b str, &'b str)>,
    ) -> Result<Self, PayloadError> {
        let mut sorted: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, value) in pairs.into_iter().filter(|(key, _)| !RESERVED_KEYS.contains(key)) {
            sorted.insert(key, value);
        }
        if sorted.len() > PAYLOAD_KEYS_MAX {
            return Err(PayloadError::Keys(sorted.len()));
        }
        let bytes: usize = sorted.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::Bytes(bytes));
        }
        for (key, value) in reserved {
            sorted.insert(key, value);
        }
        Ok(Self::encode(&sorted))
    }

    /// This metadata with the user keys of `update` laid over it; the realm stays.
    ///
    /// # Errors
    /// If the union passes a limit.
    pub fn merged(&self, update: &Self) -> Result<Self, PayloadError> {
        let union = self.user_pairs().chain(update.user_pairs());
        Self::with_reserved(union, self.reserved_pairs())
    }

    /// The user keys of `update` alone, in this document's realm.
    #[must_use]
    pub fn replaced(&self, update: &Self) -> Self {
        Self::with_reserved(update.user_pairs(), self.reserved_pairs())
            .expect("both parts were within limits")
    }

    /// Reads bytes that [`Payload::bytes`] gave, and checks all of them.
    ///
    /// # Errors
    /// If the bytes are not exactly one payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadError> {
        use PayloadError::Malformed;
        let (count, mut rest) = bytes.split_first_chunk::<2>().ok_or(Malformed("no count"))?;
        let mut key_before: Option<&[u8]> = None;
        for _ in 0..u16::from_le_bytes(*count) {
            let (key, value, after) = split_pair(rest).ok_or(Malformed("a pair is cut off"))?;
            if key_before.is_some_and(|before| before >= key) {
                return Err(Malformed("keys are not in order"));
            }
            if std::str::from_utf8(key).is_err() || std::str::from_utf8(value).is_err() {
                return Err(Malformed("text is not UTF-8"));
            }
            key_before = Some(key);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(Malformed("bytes after the last pair"));
        }
        Ok(Self::whole(bytes.into()))
    }

    /// The range of `block` that holds one payload as [`Payload::bytes`] gave it; a checksum of the block has been
    /// checked.
    ///
    /// # Panics
    /// If the block does not reach that far, or holds fewer bytes than any payload has.
    #[must_use]
    pub fn part(block: &Arc<[u8]>, range: std::ops::Range<u32>) -> Self {
        let bytes = &block[range.start as usize..range.end as usize];
        assert!(bytes.len() >= size_of::<u16>(), "a payload begins with a count");
        Self { block: block.clone(), start: range.start, end: range.end }
    }

    /// A copy in memory of its own, for use longer than the document's: it does not keep alive a block that documents
    /// share.
    #[must_use]
    pub fn alone(&self) -> Self {
        match self.bytes().len() == self.block.len() {
            true => self.clone(),
            false => Self::whole(self.bytes().into()),
        }
    }

    fn whole(block: Arc<[u8]>) -> Self {
        let end = u32::try_from(block.len()).expect("within PAYLOAD_BYTES_MAX");
        Self { block, start: 0, end }
    }

    /// The encoded form.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.block[self.start as usize..self.end as usize]
    }

    /// The value of `key`, reserved or not.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut rest = &self.bytes()[2..];
        while let Some((candidate, value, after)) = split_pair(rest) {
            match candidate.cmp(key.as_bytes()) {
                std::cmp::Ordering::Less => rest = after,
                std::cmp::Ordering::Equal => return Some(text(value)),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }

    /// The namespace; empty if the document has none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.get(NAMESPACE_KEY).unwrap_or("")
    }

    /// The pairs that a client may see, by key.
    pub fn user_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().filter(|(key, _)| !RESERVED_KEYS.contains(key))
    }

    fn reserved_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().filter(|(key, _)| RESERVED_KEYS.contains(key))
    }

    /// All pairs, the reserved ones too, by key.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.bytes()[2..];
        std::iter::from_fn(move || {
            let (key, value, after) = split_pair(rest)?;
            rest = after;
            Some((text(key), text(value)))
        })
    }

    fn encode(sorted: &BTreeMap<&str, &str>) -> Self {
        let bytes =
            sorted.iter().map(|(k, v)| PAIR_HEADER_BYTES + k.len() + v.len()).sum::<usize>();
        let mut encoded = Vec::with_capacity(2 + bytes);
        let count = u16::try_from(sorted.len()).expect("within PAYLOAD_KEYS_MAX");
        encoded.extend_from_slice(&count.to_le_bytes());
        for (key, value) in sorted {
            for bytes in [key.len(), value.len()] {
                let bytes = u32::try_from(bytes).expect("within PAYLOAD_BYTES_MAX");
                encoded.extend_from_slice(&bytes.to_le_bytes());
            }
            encoded.extend_from_slice(key.as_bytes());
            encoded.extend_from_slice(value.as_bytes());
        }
        Self::whole(encoded.into())
    }
}

/// The first pair of `bytes`, and the bytes after it; `None` if they do not hold a pair.
fn split_pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_bytes, rest) = bytes.split_first_chunk::<4>()?;
    let (value_bytes, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_bytes) as usize)?;
    Some((key, value, rest))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("checked when the payload was made")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(pairs: &[(&str, &str)], namespace: &str) -> Payload {
        Payload::new(pairs.iter().copied(), namespace).unwrap()
    }

    #[test]
    fn pairs_and_namespace_come_back() {
        let p = payload(&[("b", "2"), ("a", "1"), ("__tenant_id__", "spoof")], "ns");
        assert_eq!(p.user_pairs().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
        assert_eq!((p.namespace(), p.get("b"), p.get("c")), ("ns", Some("2"), None));
        assert_eq!(p.get("__tenant_id__"), None);
        assert_eq!(p.get(NAMESPACE_KEY), Some("ns"));
        assert_eq!(Payload::parse(p.bytes()).unwrap(), p);
        let empty = payload(&[], "");
        assert_eq!(empty.user_pairs().count(), 0);
        assert_eq!(empty.namespace(), "");
    }

    #[test]
    fn a_client_can_not_set_its_namespace_through_metadata() {
        assert_eq!(payload(&[(NAMESPACE_KEY, "other")], "mine").namespace(), "mine");
        assert_eq!(payload(&[(NAMESPACE_KEY, "other")], "").namespace(), "");
    }

    #[test]
    fn merge_unions_and_replace_replaces() {
        let old = payload(&[("a", "1"), ("b", "2")], "ns");
        let update = payload(&[("b", "3"), ("c", "4")], "ignored");
        let merged = old.merged(&update).unwrap();
        assert_eq!(merged, payload(&[("a", "1"), ("b", "3"), ("c", "4")], "ns"));
        assert_eq!(old.replaced(&update), payload(&[("b", "3"), ("c", "4")], "ns"));
    }

    #[test]
    fn limits_are_exact() {
        let text = "x".repeat(PAYLOAD_BYTES_MAX);
        assert!(Payload::new([("", text.as_str())], "n").is_ok());
        assert_eq!(
            Payload::new([("k", text.as_str())], ""),
            Err(PayloadError::Bytes(PAYLOAD_BYTES_MAX + 1))
        );
        assert!(Payload::new([(text.as_str(), "")], "").unwrap().get(&text).is_some());
        let keys: Vec<String> = (0..=PAYLOAD_KEYS_MAX).map(|i| i.to_string()).collect();
        let pairs = |n: usize| keys[..n].iter().map(|k| (k.as_str(), ""));
        assert!(Payload::new(pairs(PAYLOAD_KEYS_MAX), "").is_ok());
        assert_eq!(
            Payload::new(pairs(PAYLOAD_KEYS_MAX + 1), ""),
            Err(PayloadError::Keys(PAYLOAD_KEYS_MAX + 1))
        );
        assert_eq!(Payload::new([], &"n".repeat(257)), Err(PayloadError::Namespace(257)));
    }

    #[test]
    fn any_cut_or_flip_is_an_error_or_another_valid_payload() {
        let p = payload(&[("alpha", "1"), ("beta", "é")], "ns");
        for length in 0..p.bytes().len() {
            assert!(Payload::parse(&p.bytes()[..length]).is_err(), "cut at {length}");
        }
        for bit in 0..p.bytes().len() * 8 {
            let mut bytes = p.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Payload::parse(&bytes) {
                // A flip in the reserved key makes it a user's; no pair is ever lost or made.
                assert!([2, 3].contains(&other.user_pairs().count()), "bit {bit}");
                assert_eq!(other.bytes(), bytes);
            }
        }
    }
}
