//! The files of `types` that are modelled, and the items that they name.

#[path = "../../src/types/ids.rs"]
mod ids;
#[path = "../../src/types/limits.rs"]
pub mod limits;
#[path = "../../src/types/stripe.rs"]
pub mod stripe;

pub use self::ids::{DocId, Lsn, ShardId, Slot, mix};
