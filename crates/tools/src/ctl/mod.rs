//! What an operator's program asks of a server, over HTTP, and how it is shown to people; documents
//! go over gRPC.

pub mod client;
pub mod show;
pub mod slo;
pub mod slow;
pub mod transfer;

use serde_json::Value;

/// A number of a page; 0 where it has none.
fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
