//! Refusals of `kyrodb.v1`, their codes and details, and that they have no effect; and the services that describe the
//! server.

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
