//! What the graph takes in memory, of counts alone.

use std::sync::atomic::{AtomicU8, AtomicU32};

use super::layer::{LINE_LINKS, Line};
use super::{Graph, Params};
use crate::types::stripe::Stripe;

impl Graph {
    /// Bytes of the lists of neighbours of an owner on all levels, their unused ends included, and of
    /// what leads to them, where so many of its slots hold a node or have held one.
    #[must_use]
    pub fn bytes(&self, stripe: Stripe, slots: usize) -> usize {
        let upper = self.layers.upper_count(stripe) as usize;
        slots * bottom_bytes(self.params.m) + upper * list_bytes(self.params.m)
    }

    /// Bytes of a node on all levels that it can be expected to have.
    #[must_use]
    pub fn bytes_of_node(params: &Params) -> usize {
        // One node in M is on the level above.
        bottom_bytes(params.m) + list_bytes(params.m) / (params.m - 1).max(1)
    }
}

/// Bytes of a list of so many neighbours.
fn list_bytes(links: usize) -> usize {
    links.div_ceil(LINE_LINKS) * size_of::<Line>()
}

/// Bytes of a node on the lowest level.
fn bottom_bytes(m: usize) -> usize {
    list_bytes(2 * m) + size_of::<AtomicU32>() + size_of::<AtomicU8>()
}
