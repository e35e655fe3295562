//! The methods of the service: what each is, what it costs, and how large its requests may be.

use crate::proto::shape::FILTER_BYTES_MAX;

/// Bytes of one message with a document, at most: a vector of 4,096 values and 64 KiB of metadata,
/// however they are written, and room to say what is wrong with larger ones.
const DOCUMENT_BYTES_MAX: u32 = 1 << 20;

/// Bytes of one message with a filter, at most.
const FILTERED_BYTES_MAX: u32 = FILTER_BYTES_MAX as u32 + (1 << 20);

/// Bytes of one message with a list of ids, at most: 10,000 of 10 bytes, and room.
const IDS_BYTES_MAX: u32 = 256 << 10;

/// Bytes of any other message, at most: an id, a namespace, a switch.
const SMALL_BYTES_MAX: u32 = 64 << 10;

/// A document that is too large is one that failed, and the stream goes on: nothing here ends it, and
/// `server.max_message_bytes` alone bounds its messages.
const ANY_BYTES: u32 = u32::MAX;

/// What a method does.
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
    /// Searches for a stream of requests, each of which is paid for when it comes.
    Stream,
    /// Is about the server, and free.
    Server,
}

/// A method.
#[derive(Debug)]
pub(super) struct Method {
    /// The last part of its path.
    pub(super) name: &'static str,
    /// What it does.
    pub(super) kind: Kind,
    /// Bytes of one message of a request.
    pub(super) message_bytes_max: u32,
}

const fn method(name: &'static str, kind: Kind, message_bytes_max: u32) -> Method {
    Method { name, kind, message_bytes_max }
}

/// All of them.
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
    /// The method of this path; `None` if it is none of the service.
    pub(super) fn of(path: &str) -> Option<&'static Self> {
        let name = path.strip_prefix('/')?.strip_prefix(super::SERVICE)?.strip_prefix('/')?;
        METHODS.iter().find(|method| method.name == name)
    }

    /// A request is one message, and no stream of them.
    pub(super) fn is_unary(&self) -> bool {
        !matches!(self.kind, Kind::Load | Kind::Stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_are_those_of_the_proto_file() {
        let text = include_str!("../../proto/kyrodb/v1/kyrodb.proto");
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
