//! The methods of the service: kind, cost, and largest request of each.

use crate::proto::shape::FILTER_BYTES_MAX;

/// Largest message with a document, in bytes: a vector of 4,096 values and 64 KiB of metadata in any encoding, and room
/// so that larger ones get a precise error.
const DOCUMENT_BYTES_MAX: u32 = 1 << 20;

/// Largest message with a filter, in bytes.
const FILTERED_BYTES_MAX: u32 = FILTER_BYTES_MAX as u32 + (1 << 20);

/// Largest message with a list of ids, in bytes: 10,000 of 10 bytes, and room.
const IDS_BYTES_MAX: u32 = 256 << 10;

/// Largest message of any other kind, in bytes: an id, a namespace, a switch.
const SMALL_BYTES_MAX: u32 = 64 << 10;

/// No bound of the method: a too large document of a stream counts as failed, and the stream continues; only
/// `server.max_message_bytes` bounds its messages.
const ANY_BYTES: u32 = u32::MAX;

/// Kind of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Stores a document.
    Insert,
    /// Changes or deletes documents.
    Change,
    /// Stores a stream of documents.
    Load,
    /// Reads documents.
    Read,
    /// Searches for a stream of requests, each of which is charged when it comes.
    Stream,
    /// Concerns the server, and is free.
    Server,
}

/// A method.
#[derive(Debug)]
pub(super) struct Method {
    /// Last part of its path.
    pub(super) name: &'static str,
    /// Its kind.
    pub(super) kind: Kind,
    /// Largest message of a request, in bytes.
    pub(super) message_bytes_max: u32,
}

const fn method(name: &'static str, kind: Kind, message_bytes_max: u32) -> Method {
    Method { name, kind, message_bytes_max }
}

/// All methods.
static METHODS: [Method; 16] = [
    method("Search", Kind::Read, FILTERED_BYTES_MAX),
    method("Insert", Kind::Insert, DOCUMENT_BYTES_MAX),
    method("Query", Kind::Read, SMALL_BYTES_MAX),
    method("BulkInsert", Kind::Load, ANY_BYTES),
    method("BulkLoadHnsw", Kind::Load, ANY_BYTES),
    method("Delete", Kind::Change, SMALL_BYTES_MAX),
    method("UpdateMetadata", Kind::Change, DOCUMENT_BYTES_MAX),
    method("BatchDelete", Kind::Change, FILTERED_BYTES_MAX),
    method("BulkSearch", Kind::Stream, FILTERED_BYTES_MAX),
    method("BulkQuery", Kind::Read, IDS_BYTES_MAX),
    method("ListDocuments", Kind::Read, FILTERED_BYTES_MAX),
    method("Health", Kind::Server, SMALL_BYTES_MAX),
    method("Metrics", Kind::Server, SMALL_BYTES_MAX),
    method("FlushHotTier", Kind::Server, SMALL_BYTES_MAX),
    method("CreateSnapshot", Kind::Server, SMALL_BYTES_MAX),
    method("GetConfig", Kind::Server, SMALL_BYTES_MAX),
];

impl Method {
    /// The method of this path; `None` for paths of other services.
    pub(super) fn of(path: &str) -> Option<&'static Self> {
        let name = path.strip_prefix('/')?.strip_prefix(super::SERVICE)?.strip_prefix('/')?;
        METHODS.iter().find(|method| method.name == name)
    }

    /// True if a request is one message and not a stream.
    pub(super) fn is_unary(&self) -> bool {
        !matches!(self.kind, Kind::Load | Kind::Stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_are_those_of_the_proto_file() {
        let text = include_str!("../../../../proto/kyrodb/v1/kyrodb.proto");
        let mut count = 0;
        for rpc in text.lines().filter_map(|line| line.trim().strip_prefix("rpc ")) {
            let (name, request) = rpc.split_once('(').unwrap();
            let path = format!("/{}/{name}", crate::gateway::SERVICE);
            let known = Method::of(&path).unwrap_or_else(|| panic!("{path} is not known"));
            assert_eq!(known.is_unary(), !request.starts_with("stream "), "{path}");
            count += 1;
        }
        assert_eq!(count, METHODS.len());
        assert!(Method::of("/other.Service/Search").is_none() && Method::of("Search").is_none());
    }
}
