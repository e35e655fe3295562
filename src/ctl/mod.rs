//! What an operator's program asks of a server, over HTTP, and how it is shown to people.

pub mod client;
pub mod show;
