//! Errors by what the caller must do, as they travel from the engine to the gateway, which
//! alone turns them into gRPC statuses (`gateway/status.rs`).

use std::time::Duration;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request is wrong in itself. Repeating it will not help.
    #[error("{field}: {why}")]
    Invalid {
        /// The field at fault, as named in the proto.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A bound is reached. Try again later.
    #[error("{what}")]
    Busy {
        /// Which bound.
        what: String,
        /// When it may be worth another try.
        retry_after: Duration,
    },
    /// The client, or all of them together, ask more often than they may. Try again later; no fault
    /// of the server.
    #[error("{what}")]
    Limited {
        /// Whose rate.
        what: String,
        /// When there is a token again.
        retry_after: Duration,
    },
    /// An operator has asked for this to be refused: read-only, maintenance, shutdown. No fault of
    /// the server.
    #[error("{what}")]
    Planned {
        /// What was asked for.
        what: &'static str,
        /// When it may be worth another try.
        retry_after: Duration,
    },
    /// The server, or the shard that owns the document, is not in a state to do this.
    #[error("{what}")]
    Unavailable {
        /// Which state.
        what: String,
        /// When it may be worth another try.
        retry_after: Duration,
    },
    /// The deadline passed before there was anything to answer.
    #[error("the deadline passed {0}")]
    Expired(&'static str),
    /// The tenant has as many documents as it may have.
    #[error("{0}")]
    Quota(String),
    /// Who asks has shown no good key.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The key is good, but does not allow this.
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

/// What the engine and everything above it returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
