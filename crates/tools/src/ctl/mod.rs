//! What an operator's program asks of a server, over HTTP, and how it is shown to people; documents
//! go over gRPC.

pub mod client;
pub mod show;
pub mod transfer;
