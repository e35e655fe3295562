//! The files of `types` that are modelled, and the items that they name.

#[path = "../../crates/types/src/ids.rs"]
mod ids;
#[path = "../../crates/types/src/limits.rs"]
pub mod limits;
#[path = "../../crates/types/src/stripe.rs"]
pub mod stripe;

pub use self::ids::{DocId, Lsn, ShardId, Slot, mix};
