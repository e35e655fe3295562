//! Append-only chunked arrays that other threads may read without a lock.
//!
//! Chunks never move and are never freed before the arena, so a reference stays good while the arena grows, and
//! growth copies nothing: no stall when a million documents become two. A chunk is mapped zeroed from the system;
//! pages back it only as they are touched, huge ones where the kernel has them. Items are atomics (or cells whose
//! owner argues for them), zero when new.

use std::marker::PhantomData;
use std::sync::OnceLock;

use bytemuck::Zeroable;
use memmap2::{Advice, MmapMut};

pub use crate::types::limits::SLOTS_MAX;

/// Most rows in a chunk.
const CHUNK_ROWS_MAX: usize = 1 << 18;

/// Most bytes of a chunk, so that wide rows do not reserve gigabytes at once.
const CHUNK_BYTES_MAX: usize = 32 << 20;

/// A growing array of rows, each of `row_items` zeroed items that lie side by side.
pub struct Arena<T> {
    row_items: usize,
    chunk_shift: u32,
    chunks: Box<[OnceLock<Chunk<T>>]>,
}

impl<T: Zeroable> Arena<T> {
    /// An empty arena for up to `rows_max` rows of `row_items` items.
    #[must_use]
    pub fn new(row_items: usize, rows_max: usize) -> Self {
        let row_bytes = row_items * size_of::<T>();
        let chunk_shift = (CHUNK_BYTES_MAX / row_bytes).clamp(1, CHUNK_ROWS_MAX).ilog2();
        let chunks = (0..rows_max.div_ceil(1 << chunk_shift)).map(|_| OnceLock::new()).collect();
        Self { row_items, chunk_shift, chunks }
    }

    /// One item for each slot below `slots_max`.
    #[must_use]
    pub fn per_slot(slots_max: usize) -> Self {
        Self::new(1, slots_max)
    }

    /// Makes row `index` exist, and all rows before it, those of other owners included, so that a reader of all rows
    /// finds zeros where nothing was written yet. Readers learn of the row through a name that is published
    /// afterwards.
    ///
    /// # Panics
    /// If `index` is beyond the bound given to [`Arena::new`], or the system has no memory.
    pub fn reserve(&self, index: usize) {
        let last = index >> self.chunk_shift;
        // Chunks are made in order: if this one exists, all before it do.
        if self.chunks[last].get().is_none() {
            let chunk_items = self.row_items << self.chunk_shift;
            for chunk in &self.chunks[..=last] {
                chunk.get_or_init(|| Chunk::map(chunk_items));
            }
        }
    }

    /// All rows below this exist.
    #[must_use]
    pub fn reserved(&self) -> usize {
        let chunks = self.chunks.iter().take_while(|chunk| chunk.get().is_some());
        chunks.count() << self.chunk_shift
    }

    /// Row `index`.
    ///
    /// # Panics
    /// If it was never reserved.
    #[inline]
    #[must_use]
    pub fn row(&self, index: usize) -> &[T] {
        let chunk = self.chunks[index >> self.chunk_shift].get();
        let start = self.row_start(index);
        &chunk.expect("the owner reserved this row").items()[start..start + self.row_items]
    }

    /// The first item of row `index`; the whole row if rows have one item.
    ///
    /// # Panics
    /// If it was never reserved.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> &T {
        let chunk = self.chunks[index >> self.chunk_shift].get();
        &chunk.expect("the owner reserved this row").items()[self.row_start(index)]
    }

    #[inline]
    fn row_start(&self, index: usize) -> usize {
        (index & ((1 << self.chunk_shift) - 1)) * self.row_items
    }
}

/// Items in memory of their own.
struct Chunk<T> {
    memory: MmapMut,
    items: usize,
    of: PhantomData<T>,
}

impl<T: Zeroable> Chunk<T> {
    /// Maps `items` zeroed items.
    fn map(items: usize) -> Self {
        const { assert!(!std::mem::needs_drop::<T>(), "nobody drops the items") };
        let memory = MmapMut::map_anon(items * size_of::<T>()).expect("the system has memory");
        assert!(memory.as_ptr().cast::<T>().is_aligned(), "a page is aligned for anything");
        // A walk touches rows all over the arenas: with small pages every row costs an address translation, and in a
        // virtual machine two. A kernel without huge pages refuses the advice, which is slower only. Tests make
        // thousands of small engines, and would mostly wait for huge pages to be cleared.
        if cfg!(not(test)) {
            let advised = memory.advise(Advice::HugePage);
            tracing::trace!(?advised, bytes = memory.len(), "a chunk");
        }
        Self { memory, items, of: PhantomData }
    }

    #[inline]
    fn items(&self) -> &[T] {
        #[expect(unsafe_code, reason = "typed items in mapped bytes")]
        // SAFETY: the mapping holds `items` items, is aligned for them and lives as long as
        // `self`. All zeros is a valid `T`, and since then items have changed only through `&T`,
        // whose own rules hold.
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.items)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn references_survive_growth_and_items_start_at_zero() {
        let arena: Arena<AtomicU64> = Arena::new(3, 100_000);
        arena.reserve(0);
        let first = &arena.row(0)[2];
        for index in 0..100_000 {
            arena.reserve(index);
            assert_eq!(arena.row(index).len(), 3);
            assert_eq!(arena.row(index)[2].load(Ordering::Relaxed), 0);
            arena.row(index)[2].store(index as u64 + 1, Ordering::Relaxed);
        }
        assert_eq!(first.load(Ordering::Relaxed), 1);
        assert_eq!(arena.row(77_777)[2].load(Ordering::Relaxed), 77_778);
    }

    #[test]
    fn wide_rows_make_small_chunks() {
        let arena: Arena<AtomicU64> = Arena::new(1 << 20, 64);
        arena.reserve(5);
        assert_eq!(arena.row(5).len(), 1 << 20);
        assert_eq!(arena.row(0)[7].load(Ordering::Relaxed), 0, "what is before it is there too");
        let is_there = |chunk: &&OnceLock<_>| chunk.get().is_some();
        assert_eq!(arena.chunks.iter().filter(is_there).count(), 2, "four rows in each");
    }

    #[test]
    #[should_panic(expected = "reserved")]
    fn reading_an_unreserved_row_panics() {
        let arena: Arena<AtomicU64> = Arena::per_slot(100);
        let _ = arena.get(5);
    }
}
