//! How the server is, for operators and their programs: health, metrics, HTTP.

mod admin;
mod allocator;
mod aside;
mod document_cache;
pub mod health;
mod hosts;
pub mod http;
mod in_flight;
mod incoming;
mod index;
mod look;
mod metrics;
pub mod modes;
mod pages;
pub mod process;
mod process_metrics;
mod profile;
#[cfg(test)]
mod reference_tests;
mod scrub;
mod shard_metrics;
pub mod slo;
mod slow;
mod threads;
mod transitions;
