//! Memory of the graph, computed from counts alone.

use std::sync::atomic::{AtomicU8, AtomicU32};

use super::layer::{LINE_LINKS, Line};
use super::{Graph, Params};
use crate::types::stripe::Stripe;

impl Graph {
    /// Bytes of an owner's neighbour lists on all levels, unused ends included, and of the words that lead to them,
    /// if `slots` of its slots hold a node or have held one.
    #[must_use]
    pub fn bytes(&self, stripe: Stripe, slots: usize) -> usize {
        let upper = self.layers.upper_count(stripe) as usize;
        slots * bottom_bytes(self.params.m) + upper * list_bytes(self.params.m)
    }

    /// Expected bytes of a node, on all levels.
    #[must_use]
    pub fn bytes_of_node(params: &Params) -> usize {
        // One node in M is on the level above.
        bottom_bytes(params.m) + list_bytes(params.m) / (params.m - 1).max(1)
    }
}

/// Bytes of a list of `links` neighbours.
fn list_bytes(links: usize) -> usize {
    links.div_ceil(LINE_LINKS) * size_of::<Line>()
}

/// Bytes of a node on the lowest level.
fn bottom_bytes(m: usize) -> usize {
    list_bytes(2 * m) + size_of::<AtomicU32>() + size_of::<AtomicU8>()
}
