//! The log.
pub mod record;
