//! How the server is, for operators and their programs: health, metrics, HTTP.

mod admin;
mod document_cache;
pub mod health;
mod hosts;
pub mod http;
mod incoming;
mod metrics;
pub mod modes;
mod pages;
pub mod process;
mod profile;
pub mod slo;
mod slow;
mod transitions;
