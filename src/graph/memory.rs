//! What the graph takes in memory, of counts alone.

use std::sync::atomic::{AtomicU8, AtomicU32};

use super::Graph;
use super::layer::{LINE_LINKS, Line};

impl Graph {
    /// Bytes of the lists of neighbours on all levels, their unused ends included, and of what
    /// leads to them, where so many slots hold a node or have held one.
    #[must_use]
    pub fn bytes(&self, slots: usize) -> usize {
        let list = |level| self.links_max(level).div_ceil(LINE_LINKS) * size_of::<Line>();
        let of_node = list(0) + size_of::<AtomicU32>() + size_of::<AtomicU8>();
        slots * of_node + self.layers.upper_count() as usize * list(1)
    }
}
