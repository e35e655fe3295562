//! What `kyrodb.v1` refuses, how it says so, and that nothing comes of it; and the services that
//! tell clients about the server.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod clients;
mod deadline;
mod frames;
mod limits;
mod peer;
mod peers;
mod raw;
mod services;
mod wire;
