//! How the server is, for operators and their programs: health, metrics, HTTP.

pub mod health;
pub mod http;
mod metrics;
pub mod process;
mod slow;
