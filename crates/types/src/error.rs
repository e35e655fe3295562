//! Errors by the reaction that they ask of the caller, as they travel from the engine to the gateway, which alone
//! turns them into gRPC statuses (`gateway/status.rs`).

use std::time::Duration;

/// The reason why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request is wrong in itself. Repeating it will not help.
    #[error("{field}: {why}")]
    Invalid {
        /// The field at fault, as named in the proto.
        field: &'static str,
        /// The fault of its value, and which values are right.
        why: String,
    },
    /// A limit of the server is reached. Try again later.
    #[error("{what}")]
    Busy {
        /// The limit.
        what: String,
        /// Delay before another try may succeed.
        retry_after: Duration,
    },
    /// This client, or all clients together, send more requests than they may. Try again later; no fault of the
    /// server.
    #[error("{what}")]
    Limited {
        /// The rate that was passed.
        what: String,
        /// Delay until there is a token again.
        retry_after: Duration,
    },
    /// An operator has asked for this to be refused: read-only mode, maintenance, shutdown. No fault of the server.
    #[error("{what}")]
    Planned {
        /// The state that the operator asked for.
        what: &'static str,
        /// Delay before another try may succeed.
        retry_after: Duration,
    },
    /// The server, or the shard that owns the document, is not in a state to do this.
    #[error("{what}")]
    Unavailable {
        /// The state.
        what: String,
        /// Delay before another try may succeed.
        retry_after: Duration,
    },
    /// The deadline passed before there was anything to answer.
    #[error("the deadline passed {0}")]
    Expired(&'static str),
    /// The tenant has as many documents as its quota allows.
    #[error("{0}")]
    Quota(String),
    /// The client has shown no valid key.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The key is valid, but does not allow this request.
    #[error("{0}")]
    Denied(&'static str),
    /// A bug. The message names no paths and no data.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// [`Error::Invalid`].
    pub fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { field, why: why.into() }
    }

    /// [`Error::Busy`], worth another try in 50 ms.
    pub fn busy(what: impl Into<String>) -> Self {
        Self::Busy { what: what.into(), retry_after: Duration::from_millis(50) }
    }

    /// [`Error::Planned`], worth another try in a second.
    pub fn planned(what: &'static str) -> Self {
        Self::Planned { what, retry_after: Duration::from_secs(1) }
    }

    /// [`Error::Unavailable`], worth another try in a second.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::Unavailable { what: what.into(), retry_after: Duration::from_secs(1) }
    }
}

/// Result type of the engine and of everything above it.
pub type Result<T, E = Error> = std::result::Result<T, E>;
