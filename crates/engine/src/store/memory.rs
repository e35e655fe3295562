//! Memory of the documents, by part, and room for more: computed from counts alone, so that it may be asked often.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

use super::Store;
use super::life::Life;
use crate::types::payload::Payload;

impl Store {
    /// Number of further versions that can be stored.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len() + self.stripe.slots_max() - self.count as usize
    }

    /// Slots that have held a version, and are free again.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Bytes of vectors in memory, padding and dead versions included, and, if some vectors are on disk, of the words
    /// that lead to them.
    #[must_use]
    pub fn vector_bytes(&self) -> usize {
        if self.places().is_some() {
            return self.row_bytes_in_memory()
                + self.slot_count() as usize * size_of::<AtomicPtr<()>>();
        }
        self.slot_count() as usize * self.vectors().row_bytes()
    }

    /// Bytes of codes, padding and dead versions included; 0 without codes.
    #[must_use]
    pub fn code_bytes(&self) -> usize {
        self.codes().map_or(0, |codes| self.slot_count() as usize * codes.row_bytes())
    }

    /// Bytes of document ids, lifetimes and the index from id to slot.
    #[must_use]
    pub fn id_bytes(&self) -> usize {
        let of_slot = size_of::<AtomicU64>() + size_of::<Life>();
        self.slot_count() as usize * of_slot + self.ids.bytes()
    }

    /// Bytes of the pointers to metadata, without the metadata itself.
    #[must_use]
    pub fn payload_cell_bytes(&self) -> usize {
        self.slot_count() as usize * size_of::<AtomicPtr<Payload>>()
    }

    /// Bytes of the chain of slots that wait to be linked.
    #[must_use]
    pub fn chain_bytes(&self) -> usize {
        self.slot_count() as usize * size_of::<AtomicU32>()
    }
}
