//! Cores.
mod commit;
pub mod core;
pub mod cpus;
mod event;
pub mod keeper;
mod load;
pub mod mailbox;
pub mod open;
pub mod preflight;
pub mod pulse;
pub mod reply;
pub mod request;
mod serve;
#[cfg(test)]
mod tests;
mod upkeep;
