//! What the graph takes in memory, of counts alone.

use std::sync::atomic::{AtomicU8, AtomicU32};

use super::Graph;
use super::layer::{LINE_LINKS, Line};
use crate::store::stripe::Stripe;

impl Graph {
    /// Bytes of the lists of neighbours of an owner on all levels, their unused ends included, and of
    /// what leads to them, where so many of its slots hold a node or have held one.
    #[must_use]
    pub fn bytes(&self, stripe: Stripe, slots: usize) -> usize {
        let list = |level| self.links_max(level).div_ceil(LINE_LINKS) * size_of::<Line>();
        let of_node = list(0) + size_of::<AtomicU32>() + size_of::<AtomicU8>();
        slots * of_node + self.layers.upper_count(stripe) as usize * list(1)
    }
}
