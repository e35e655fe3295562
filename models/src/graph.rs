//! The files of `graph` that are modelled, and the items that they name.

#[path = "../../crates/engine/src/graph/dead_links.rs"]
mod dead_links;
pub mod dead_links_model;
#[path = "../../crates/engine/src/graph/hold.rs"]
mod hold;
pub mod hold_model;

use crate::store::arena::Arena;
use crate::sync::atomic::AtomicU8;
use crate::types::Slot;

/// The part of the graph that a hold of a node needs.
pub struct Graph {
    levels: Arena<AtomicU8>,
}

impl Graph {
    /// Nothing is frozen.
    fn keep_frozen(&self, _: Slot) -> bool {
        true
    }
}
