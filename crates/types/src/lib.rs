//! Values and limits that every part of the program shares. Nothing here names a file, a clock, a thread or an
//! executor.

#![forbid(unsafe_code)]

pub mod changes;
pub mod clock;
pub mod error;
pub mod headroom;
pub mod human;
mod ids;
pub mod image;
pub mod layout;
pub mod limits;
pub mod metric;
pub mod payload;
pub mod position;
pub mod realm;
pub mod record;
pub mod sabotage;
pub mod stripe;
pub mod sync;
pub mod testing;

pub use self::ids::{DocId, Lsn, ShardId, Slot, mix};
